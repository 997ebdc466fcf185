"""Rows and their sums, percentiles, and what is drawn of them."""

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from proxy.simulation.record import Story, Try
from proxy.simulation.timeline import MAX_CHANGES, Change, Failover, Timeline, Times
from proxy.terminal.lanes import MAX_CHANGES as MAX_SHOWN
from proxy.terminal.lanes import timeline as drawn

pytestmark = pytest.mark.unit


def story(at_s: float, *tries: Try, **more: Any) -> Story:
    made = Story("R", at_s, "smart", "smart", None, stream=True, tries=list(tries))
    for name, value in {"outcome": "ok", "served_by": tries[-1].target if tries else None, **more}.items():
        setattr(made, name, value)
    return made


def tried(n: int, target: str, error: str | None = None) -> Try:
    return Try(n, target, 0.0, error, 100, 10, 5)


def data(timeline: Timeline) -> dict[str, Any]:
    timeline.finish()
    return {"seed": 0, **timeline.as_dict(), "calls": {}, "budgets": [], "faults": {}}


def shown(timeline: Timeline) -> str:
    screen = Console(file=io.StringIO(), width=200, highlight=False)
    screen.print(*drawn(data(timeline)), sep="\n")
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_a_request_belongs_to_the_row_in_which_it_came() -> None:
    timeline = Timeline(25.0, 10.0)
    assert [(row.from_s, row.to_s) for row in timeline.rows] == [(0.0, 10.0), (10.0, 20.0), (20.0, 25.0)]
    for at_s in (0.0, 9.999, 10.0, 20.0, 24.9, 25.0):
        timeline.add(story(at_s, tried(1, "a/m")))
    assert [row.requests for row in timeline.rows] == [2, 1, 3]
    assert timeline.total.requests == 6


def test_a_failover_is_from_one_target_to_another() -> None:
    timeline = Timeline(10.0, 10.0)
    timeline.add(story(1.0, tried(1, "a/m", "5xx"), tried(2, "a/m", "reset"), tried(3, "b/m")))
    timeline.add(story(2.0, tried(1, "a/m", "hedged_out"), tried(2, "b/m")))
    timeline.add(story(3.0, tried(1, "a/m", "4xx"), outcome="failed", served_by=None, code="invalid_request"))
    total = timeline.total
    assert total.failovers == {Failover("a/m", "b/m", "reset"): 1}
    assert total.errors == {("a", "5xx"): 1, ("a", "reset"): 1, ("a", "4xx"): 1}
    assert total.attempts == {"a": 4, "b": 2}
    assert total.served == {"b/m": 2}
    assert total.codes == {"invalid_request": 1}


def test_what_is_kept_was_served_by_the_cache() -> None:
    timeline = Timeline(10.0, 10.0)
    timeline.add(story(1.0, served_by=None, extra={"cache": {"state": "hit"}}))
    assert timeline.total.served == {"cache": 1}


@pytest.mark.parametrize(("priced", "unpriced", "told"), [(0, 0, "0"), (2, 0, "0.0000002"), (1, 1, "0.0000001"), (0, 2, None)])
def test_a_cost_that_nobody_knows_is_not_nothing(priced: int, unpriced: int, told: str | None) -> None:
    timeline = Timeline(10.0, 10.0)
    for _ in range(priced):
        timeline.add(story(1.0, tried(1, "a/m"), cost_nusd=100))
    for _ in range(unpriced):
        timeline.add(story(1.0, tried(1, "b/m"), unpriced=True))
    assert (timeline.total.cost_usd, timeline.total.unpriced) == (told, unpriced)


def test_a_circuit_stays_as_it_is_until_it_changes() -> None:
    timeline = Timeline(50.0, 10.0)
    for at_s, state in ((12.0, "open"), (13.0, "half_open"), (13.5, "open"), (31.0, "half_open"), (39.0, "closed")):
        timeline.note(Change(at_s, "a/m", "k", "circuit", state))
    timeline.note(Change(33.0, "a/m", "k", "cooling", "5 s"))
    timeline.finish()
    assert [row.circuits for row in timeline.rows] == [{}, {"a/m": "open"}, {"a/m": "open"}, {}, {}]
    assert timeline.total.circuits == {}


def test_changes_are_kept_up_to_a_bound_and_still_say_how_it_ended() -> None:
    timeline = Timeline(10.0, 1.0)
    for number in range(MAX_CHANGES + 1):
        timeline.note(Change(number / 2_000, "a/m", "k", "circuit", "open" if number % 2 else "closed"))
    timeline.note(Change(9.0, "a/m", "k", "circuit", "half_open"))
    assert (len(timeline.changes), timeline.lost) == (MAX_CHANGES, 2)
    text = shown(timeline)
    assert f"and {MAX_CHANGES - MAX_SHOWN + 2:,} more: --json has them" in text
    assert timeline.rows[-1].circuits == {"a/m": "half_open"}


@given(st.lists(st.floats(0.2, 1e6), min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 1.0]))
def test_a_percentile_is_right_to_a_fortieth(values: list[float], part: float) -> None:
    times = Times()
    for value in values:
        times.add(value)
    exact = sorted(values)[max(0, -int(-len(values) * part // 1) - 1)]
    found = times.percentile(part)
    assert found is not None
    assert abs(found - exact) <= exact * 0.026 + 0.5


def test_there_is_no_percentile_of_nothing() -> None:
    assert Times().as_dict() == {"p50": None, "p95": None}


def test_many_intervals_share_the_cells_of_a_lane() -> None:
    timeline = Timeline(600.0, 1.0)
    for second in range(600):
        timeline.add(story(second, tried(1, "a/m" if second < 300 else "b/m")))
    text = shown(timeline)
    assert "█" * 30 + "·" * 30 in text
    assert "·" * 30 + "█" * 30 in text
    assert "600 intervals: --json has their figures" in text


def test_every_state_has_its_mark() -> None:
    timeline = Timeline(70.0, 10.0)
    for number in range(70):
        timeline.add(story(number, tried(1, "a/m")))
    for at_s, what, to in (
        (11.0, "circuit", "open"),
        (21.0, "circuit", "half_open"),
        (22.0, "circuit", "closed"),
        (31.0, "cooling", "5 s"),
        (41.0, "latched", "bad key"),
        (51.0, "circuit", "half_open"),
    ):
        timeline.note(Change(at_s, "a/m", "k", what, to))
    assert "─x~cL~~" in shown(timeline)


def test_an_hour_in_which_nobody_asks_can_be_drawn() -> None:
    text = shown(Timeline(3600.0, 600.0))
    assert "0 requests: none; 0 upstream calls, 0 failovers; cost $0" in text
