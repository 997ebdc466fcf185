"""What is old goes, a little at a time, and no sum changes."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.accounting.records import Record
from proxy.storage import pruning
from proxy.storage.drainer import Drainer
from proxy.storage.retention import FILE, Retention, read_retention, write_retention
from proxy.storage.sqlite import LEDGER
from tests.storage.records import (
    NOW_MS,
    Wall,
    begin,
    checked,
    closed,
    completion,
    end,
    failover,
    opened,
    progress,
    raised,
    resolved,
    write,
)

pytestmark = pytest.mark.unit

DAY_MS = 86_400_000
DAY_S = 86_400.0
SUMS = (
    "SELECT sum(requests), sum(attempts), sum(cost_nusd), sum(output_tokens) FROM hourly_sums WHERE slice = ?",
    "SELECT sum(requests), sum(attempts), sum(cost_nusd), sum(output_tokens) FROM daily_sums WHERE slice = ?",
)


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def drainer(tmp_path: Path, wall: Wall) -> Iterator[Drainer]:
    drainer = Drainer(tmp_path, wall, log=lambda _event, _fields: None)
    yield drainer
    drainer.close()


@pytest.fixture
def idle(drainer: Drainer, wall: Wall) -> Callable[[], None]:
    """The drainer has nothing to do for a while: it ends the round that it is in, and has another."""

    def idle() -> None:
        for _ in range(3):
            wall.now += 61.0
            for _ in range(60):
                drainer.step()

    return idle


def count(data_dir: Path, table: str) -> int:
    return int(ask(data_dir, f"SELECT count(*) FROM {table}")[0])


def ask(data_dir: Path, sql: str, *values: Any) -> tuple[Any, ...]:
    connection = sqlite3.connect(data_dir / LEDGER)
    try:
        return tuple(connection.execute(sql, values).fetchone())
    finally:
        connection.close()


def story(number: int, time_ms: int) -> list[Record]:
    """Each with a kind of its own, as its dropped parameters are, and with a trace of its own, which says how long what took."""
    request = opened(number, time_ms, client=f"client-{number % 7}", agent=f"agent-{number}")
    notes = [{"attempt": 1, "target": "groq/gpt-4o", "error": "overloaded", "ms": number, "then": "next"}]
    return [
        begin(request, provider="groq"),
        end(request, provider="groq", outcome="failed"),
        begin(request, 2),
        end(request, 2, end=closed(attempts=2, trace=notes)),
    ]


def test_old_rows_go_and_their_sums_stay(tmp_path: Path, drainer: Drainer, wall: Wall, idle: Callable[[], None]) -> None:
    old = [record for number in range(40) for record in story(number, NOW_MS + number)]
    running = opened(90, NOW_MS)
    recent = [record for number in range(50, 60) for record in failover(number, NOW_MS + 9 * DAY_MS + number)]
    write(tmp_path, [*old, *recent])
    drainer.drain()
    before = [ask(tmp_path, sql, number) for sql in SUMS for number in range(1, 10)]
    by_hour = ask(tmp_path, SUMS[0], 0)
    write_retention(tmp_path, Retention(requests_s=5 * DAY_S))
    write(tmp_path, [begin(running), progress(running, 3)], "BOOT2")
    wall.now += 10 * DAY_S
    idle()
    assert (count(tmp_path, "request_rows"), count(tmp_path, "attempt_rows")) == (10, 20)
    assert count(tmp_path, "request_extras") == 10
    assert [ask(tmp_path, sql, number) for sql in SUMS for number in range(1, 10)] != before  # the one that ran was added …
    assert ask(tmp_path, SUMS[0], 0)[2] == by_hour[2]  # … and cost nothing
    assert ask(tmp_path, "SELECT sum(requests), sum(cost_nusd) FROM usage_daily") == (51, by_hour[2])


def test_what_no_row_has_in_common_any_more_goes_too(
    tmp_path: Path, drainer: Drainer, wall: Wall, idle: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "_SCANNED_A_STEP", 3)
    monkeypatch.setattr(pruning, "_KINDS_A_STEP", 4)
    kept = [record for number in range(5) for record in completion(number, NOW_MS + 9 * DAY_MS)]
    write(tmp_path, [*[record for number in range(40) for record in story(number, NOW_MS)], *kept])
    drainer.drain()
    assert count(tmp_path, "request_kinds") == 41
    write_retention(tmp_path, Retention(requests_s=5 * DAY_S))
    wall.now += 10 * DAY_S
    idle()
    idle()
    assert [count(tmp_path, table) for table in ("facets", "request_kinds", "attempt_kinds")] == [1, 1, 1]
    write(tmp_path, story(77, NOW_MS + 10 * DAY_MS), "BOOT2")  # one that was there before: made anew
    drainer.drain()
    assert count(tmp_path, "requests WHERE client IS NULL OR chain IS NULL") == 0
    assert count(tmp_path, "attempts WHERE provider IS NULL") == 0


def test_a_kind_that_comes_into_use_while_they_are_swept_stays(
    tmp_path: Path, drainer: Drainer, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "_SCANNED_A_STEP", 2)
    monkeypatch.setattr(pruning, "_KINDS_A_STEP", 2)
    recent = [record for number in range(20, 30) for record in completion(number, NOW_MS + 9 * DAY_MS)]
    write(tmp_path, [*[record for number in range(20) for record in story(number, NOW_MS)], *recent])
    drainer.drain()
    write_retention(tmp_path, Retention(requests_s=5 * DAY_S))
    wall.now += 10 * DAY_S
    for number in range(100):  # in every step a request like one of those that are being forgotten
        request = opened(500 + number, NOW_MS + 9 * DAY_MS, agent=f"agent-{number % 20}")
        notes = [{"attempt": 1, "target": "groq/gpt-4o", "error": "overloaded", "ms": number % 20, "then": "next"}]
        write(tmp_path, [begin(request), end(request, end=closed(attempts=2, trace=notes))], f"BOOT{number:03}")
        drainer.step()
        wall.now += 7.0
    drainer.drain()
    assert count(tmp_path, "request_rows") == 110
    assert count(tmp_path, "requests WHERE outcome IS NULL OR chain IS NULL") == 0
    assert count(tmp_path, "attempts WHERE provider IS NULL") == 0


def test_sums_go_when_their_own_time_is_over(tmp_path: Path, drainer: Drainer, wall: Wall, idle: Callable[[], None]) -> None:
    write(tmp_path, [*failover(1), *completion(2, NOW_MS + 9 * DAY_MS, client="other")])
    drainer.drain()
    write_retention(tmp_path, Retention(rollups_s=5 * DAY_S))
    wall.now += 10 * DAY_S
    idle()
    assert ask(tmp_path, "SELECT sum(requests), min(client), max(client) FROM usage_hourly") == (1, "other", "other")
    assert ask(tmp_path, "SELECT sum(requests), min(client), max(client) FROM usage_daily") == (1, "other", "other")
    assert count(tmp_path, "usage_tags WHERE client = 'search-agent'") == 0
    assert count(tmp_path, "failovers_hourly") == 0
    write(tmp_path, completion(3, NOW_MS + 10 * DAY_MS), "BOOT2")
    drainer.drain()
    assert ask(tmp_path, "SELECT sum(requests), min(client), max(client) FROM usage_hourly") == (2, "other", "search-agent")


def test_checks_and_alerts_go_but_open_alerts_stay(
    tmp_path: Path, drainer: Drainer, wall: Wall, idle: Callable[[], None]
) -> None:
    later = NOW_MS + 9 * DAY_MS
    write(tmp_path, [checked("groq"), checked("groq", later), raised("A1"), raised("A2"), resolved("A2"), raised("A3", later)])
    drainer.drain()
    write_retention(tmp_path, Retention(health_s=5 * DAY_S))
    wall.now += 10 * DAY_S
    idle()
    assert [count(tmp_path, table) for table in ("checks", "health_spans", "alerts")] == [1, 1, 2]


def test_a_day_that_is_over_is_moved_and_what_comes_late_is_added(
    tmp_path: Path, drainer: Drainer, wall: Wall, idle: Callable[[], None]
) -> None:
    def of_the_day() -> tuple[Any, ...]:
        return ask(tmp_path, "SELECT sum(requests), sum(cost_nusd), sum(attempts) FROM usage_daily")

    write(tmp_path, [record for number in range(200) for record in completion(number)])
    drainer.drain()
    idle()
    assert (count(tmp_path, "past_daily_sums"), of_the_day()) == (0, (200, 250_000_000, 200))
    wall.now += DAY_S
    idle()
    assert count(tmp_path, "daily_sums WHERE slice = 0") == 0
    assert (count(tmp_path, "past_daily_sums"), of_the_day()) == (1, (200, 250_000_000, 200))
    assert ask(tmp_path, "SELECT max(length(durations)) FROM hourly_sums")[0] < 5
    write(tmp_path, completion(500), "BOOT2")
    drainer.drain()
    assert (count(tmp_path, "daily_sums WHERE slice = 0"), of_the_day()) == (1, (201, 251_250_000, 201))
    idle()
    assert (count(tmp_path, "daily_sums WHERE slice = 0"), count(tmp_path, "past_daily_sums"), of_the_day()[0]) == (0, 1, 201)


def test_no_step_forgets_more_than_a_little(
    tmp_path: Path, drainer: Drainer, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "_REQUESTS_A_STEP", 10)
    write(tmp_path, [record for number in range(45) for record in completion(number)])
    drainer.drain()
    write_retention(tmp_path, Retention(requests_s=5 * DAY_S))
    for _ in range(60):  # the round that began with the first step
        drainer.step()
    wall.now += 10 * DAY_S
    left = []
    for _ in range(8):
        drainer.step()
        left.append(count(tmp_path, "request_rows"))
    assert [before - after for before, after in zip([45, *left], left, strict=False)][:6] == [10, 10, 10, 10, 5, 0]


def test_a_default_ledger_keeps_a_quarter_of_a_year(
    tmp_path: Path, drainer: Drainer, wall: Wall, idle: Callable[[], None]
) -> None:
    write(tmp_path, completion(1))
    drainer.drain()
    wall.now += 89 * DAY_S
    idle()
    assert count(tmp_path, "request_rows") == 1
    wall.now += 1.1 * DAY_S
    idle()
    assert count(tmp_path, "request_rows") == 0


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"requests_s": 1}', '{"requests_s": "x", "rollups_s": 1, "health_s": 1}'])
def test_what_cannot_be_understood_is_the_default(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / FILE).write_text(text)
    assert read_retention(tmp_path) == Retention()


def test_retention_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_retention(tmp_path, Retention(1.5, 2.0, 3.0))
    write_retention(tmp_path, Retention(3.0, 2.0, 1.0))
    assert read_retention(tmp_path) == Retention(3.0, 2.0, 1.0)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
