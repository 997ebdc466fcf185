"""Whole simulations: what is asked is what is told, faults are what the engine makes of them, and the same seed gives the same."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.settings import Settings
from proxy.simulation.record import Story
from proxy.simulation.run import Outcome
from proxy.simulation.traffic import arrivals
from tests.simulation import worlds

pytestmark = pytest.mark.unit

OUTAGE = """
seed: 3
length: 2m
interval: 10s
traffic: [{rate: 90/m, model: smart, stream: 0.5, input: 100, output: 50}]
upstreams: {a: {first_token: 300ms}, b: {first_token: 600ms}}
events: [{at: 30s, for: 30s, provider: a, fault: 503}]
"""


@pytest.fixture(scope="module")
def ab(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return worlds.configured(tmp_path_factory.mktemp("run"), worlds.AB)


@pytest.fixture(scope="module")
def outage(ab: Settings) -> tuple[Outcome, list[Story]]:
    stories: list[Story] = []
    return worlds.run(ab, OUTAGE, on_story=stories.append), stories


def check_sums(outcome: Outcome, stories: list[Story], asked: int) -> None:
    """What must hold whatever happened."""
    timeline = outcome.timeline
    assert outcome.faults == {}
    assert timeline.total.requests == len(stories) == asked
    rows = sum((row.outcomes for row in timeline.rows), Counter())
    assert rows == timeline.total.outcomes
    for name in ("served", "attempts", "failovers", "errors", "codes"):
        assert sum((getattr(row, name) for row in timeline.rows), Counter()) == getattr(timeline.total, name)
    assert sum(row.cost_nusd for row in timeline.rows) == timeline.total.cost_nusd == sum(story.cost_nusd for story in stories)
    # every attempt is a call, and every call an attempt
    assert {name: count for name, count in timeline.total.attempts.items() if count} == outcome.calls
    assert {story.outcome for story in stories} <= {"ok", "failed", "rejected", "client_gone"}
    assert timeline.total.served.total() == timeline.total.outcomes["ok"]


def test_an_outage_is_seen_from_beginning_to_end(ab: Settings, outage: tuple[Outcome, list[Story]]) -> None:
    outcome, stories = outage
    check_sums(outcome, stories, len(list(arrivals(worlds.scenario(ab, OUTAGE), 3))))
    timeline = outcome.timeline
    assert set(timeline.total.outcomes) == {"ok"}
    before, during, after = timeline.rows[:3], timeline.rows[3:6], timeline.rows[9:]
    assert {name for row in before + after for name in row.served} == {"a/m"}
    assert {name for row in during for name in row.served} == {"b/m"}
    # five faults open the circuit; from then on each probe that fails is one more
    opened = [change for change in timeline.changes if (change.what, change.to) == ("circuit", "open")]
    assert 30 <= opened[0].at_s <= 40
    probes = len(opened) - 1
    assert set(timeline.total.errors) == {("a", "5xx")}
    assert 5 + probes <= timeline.total.errors["a", "5xx"] <= 5 + probes + 3  # those under way when it opened
    assert [row.circuits for row in during] == [{"a/m": "open"}] * 3
    assert timeline.changes[-1].to == "closed"
    assert timeline.rows[-1].circuits == {}


def test_a_circuit_goes_through_its_states_in_order(outage: tuple[Outcome, list[Story]]) -> None:
    changes = [change.to for change in outage[0].timeline.changes if change.what == "circuit"]
    path = " ".join(changes)
    assert re.fullmatch(r"open( half_open open)* half_open closed", path), path


def test_what_is_told_costs_what_it_costs(outage: tuple[Outcome, list[Story]]) -> None:
    timeline = outage[0].timeline
    # 100 tokens at 1 USD a million, 50 at 2: 0.0002 USD each
    assert timeline.total.cost_usd == f"{timeline.total.requests * 0.0002:.4f}".rstrip("0")
    assert (timeline.total.input_tokens, timeline.total.output_tokens) == (
        100 * timeline.total.requests,
        50 * timeline.total.requests,
    )


def test_times_are_those_of_the_script(outage: tuple[Outcome, list[Story]]) -> None:
    row = outage[0].timeline.rows[0]
    first, whole = row.first_tokens.percentile(0.5), row.durations.percentile(0.5)
    assert first is not None
    assert whole is not None
    assert 260 <= first <= 340  # 300 ms, a tenth more or less
    assert 300 + 50 / 60 * 1000 * 0.85 <= whole <= 300 + 50 / 60 * 1000 * 1.2


def test_the_same_seed_gives_the_same_and_another_one_another(ab: Settings, outage: tuple[Outcome, list[Story]]) -> None:
    assert worlds.run(ab, OUTAGE).as_dict() == outage[0].as_dict()
    other = worlds.run(ab, OUTAGE, seed=4)
    assert other.seed == 4
    assert other.as_dict() != outage[0].as_dict()


def one_fault(settings: Settings, fault: str, *, stream: int, model: str = "smart", more: str = "") -> list[Story]:
    stories: list[Story] = []
    text = f"""
length: 10s
traffic: [{{rate: 1/s, to: 3s, arrivals: even, model: {model}, stream: {stream}, output: 20}}]
events: [{{at: 0s, provider: a, fault: {fault}{more}}}]
"""
    outcome = worlds.run(settings, text, on_story=stories.append)
    check_sums(outcome, stories, 3)
    return sorted(stories, key=lambda story: story.at_s)


@pytest.mark.parametrize(
    ("fault", "whole", "streamed"),
    [
        ("500", "5xx", "5xx"),
        ("429", "rate_limited", "rate_limited"),
        ("401", "auth", "auth"),
        ("404", "config_error", "config_error"),
        ("quota", "insufficient_quota", "insufficient_quota"),
        ("timeout", "ttfb_timeout", "ttfb_timeout"),
        ("refuse", "connect", "connect"),
        ("reset", "reset", "reset"),
        ("cut", "truncated", "truncated"),
        ("stall", "ttfb_timeout", "idle_timeout"),
        ("empty", "empty", "empty"),
    ],
)
def test_each_fault_is_what_the_engine_calls_it(ab: Settings, fault: str, whole: str, streamed: str) -> None:
    for stream, error_class in ((0, whole), (1, streamed)):
        first = one_fault(ab, fault, stream=stream)[0]
        assert first.tries[0].error == error_class
        broken = stream and fault in ("cut", "stall")  # after content nobody else can take over
        assert first.outcome == ("failed" if broken else "ok")
        assert first.served_by == (None if broken else "b/m")


def test_a_slow_upstream_is_slow_and_nothing_else(ab: Settings) -> None:
    stories = one_fault(ab, "slow", stream=1, more=", times: 20")
    assert [story.served_by for story in stories] == ["a/m"] * 3
    assert all(story.first_token_ms is not None and 9_000 <= story.first_token_ms <= 11_000 for story in stories)


def test_the_wait_that_is_asked_for_is_kept(ab: Settings) -> None:
    stories: list[Story] = []
    outcome = worlds.run(
        ab,
        """
length: 30s
traffic: [{rate: 1/s, arrivals: even, model: smart, output: 1}]
events: [{at: 5s, for: 1s, provider: a, fault: 429, retry_after: 12s}]
""",
        on_story=stories.append,
    )
    (change,) = outcome.timeline.changes
    assert (change.what, change.to) == ("cooling", "12 s")
    served = [story.served_by for story in sorted(stories, key=lambda story: story.at_s)]
    assert served == ["a/m"] * 5 + ["b/m"] * 13 + ["a/m"] * 12


def test_a_share_of_the_calls_is_a_share(ab: Settings) -> None:
    outcome = worlds.run(
        ab,
        """
length: 100s
traffic: [{rate: 2/s, model: smart, output: 1}]
events: [{at: 0s, provider: a, fault: 400, share: 0.25}]
""",
    )
    assert 0.15 <= outcome.timeline.total.outcomes["failed"] / outcome.timeline.total.requests <= 0.35


def test_a_provider_has_limits_of_its_own(ab: Settings) -> None:
    outcome = worlds.run(
        ab,
        """
length: 2m
traffic: [{rate: 1/s, arrivals: even, model: smart, output: 1}]
upstreams: {a: {rpm: 30}}
""",
    )
    total = outcome.timeline.total
    assert total.served == {"a/m": 60, "b/m": 60}
    assert total.errors[("a", "rate_limited")] >= 2
    assert set(total.outcomes) == {"ok"}


def test_callers_without_patience_hang_up_and_are_billed(ab: Settings) -> None:
    stories: list[Story] = []
    worlds.run(
        ab,
        "length: 10s\ntraffic: [{rate: 1/s, to: 3s, arrivals: even, model: smart, stream: 1, output: 600, patience: 2s}]",
        on_story=stories.append,
    )
    assert [(story.outcome, story.code) for story in stories] == [("client_gone", "client_gone")] * 3
    assert all(story.cost_nusd > 0 for story in stories)


def test_budgets_run_out_and_callers_are_told(tmp_path: Path) -> None:
    config = {**worlds.AB, "clients": {"app": {"key": "sk-client-0001", "budget": {"usd": 0.01, "per": "month"}}}}
    outcome = worlds.run(
        worlds.configured(tmp_path, config),
        "length: 100s\ntraffic: [{rate: 1/s, arrivals: even, model: smart, client: app, input: 100, output: 50,"
        " body: {max_tokens: 50}}]",
    )
    total = outcome.timeline.total
    assert total.outcomes["ok"] + total.outcomes["rejected"] == 100
    assert 40 <= total.outcomes["ok"] <= 50  # of 0.0002 USD each, fifty are 0.01
    assert total.codes == {"budget_exceeded": total.outcomes["rejected"]}
    (budget,) = outcome.budgets
    assert (budget["scope"], budget["name"], budget["limit_usd"]) == ("client", "app", "0.01")
    assert budget["spent_usd"] == total.cost_usd


def test_whoever_is_turned_away_at_the_door_is_counted_too(tmp_path: Path) -> None:
    stories: list[Story] = []
    outcome = worlds.run(
        worlds.configured(tmp_path, {**worlds.AB, "server": {"max_in_flight": 3}}),
        "length: 5s\ntraffic:\n  - {rate: 10/s, arrivals: even, model: smart, output: 600}\n"
        "  - {rate: 1/s, arrivals: even, model: smart, body: {tools: 5}}",
        on_story=stories.append,
    )
    check_sums(outcome, stories, 55)
    codes = outcome.timeline.total.codes
    assert outcome.timeline.total.outcomes == {"ok": 3, "rejected": 52}
    assert codes["overloaded"] >= 47
    assert codes.total() == 52


def test_a_day_ends_in_the_middle_and_quotas_begin_anew(tmp_path: Path) -> None:
    config = {**worlds.AB, "providers": {**worlds.AB["providers"]}}
    config["providers"]["a"] = {**config["providers"]["a"], "quotas": [{"requests": 10, "per": "day", "time_zone": "UTC"}]}
    outcome = worlds.run(
        worlds.configured(tmp_path, config),
        "start: 2027-03-01T23:59:00Z\nlength: 2m\ninterval: 1m\ntraffic: [{rate: 1/s, arrivals: even, model: smart, output: 1}]",
    )
    assert [row.served for row in outcome.timeline.rows] == [{"a/m": 10, "b/m": 50}] * 2


def test_nobody_needs_a_key_here_and_what_the_file_disables_stays_so(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "providers": {"openai": {"enabled": False}, "anthropic": {}},
        "chains": {"smart": ["openai/gpt-5", "anthropic/claude-sonnet-4-5"]},
    }
    outcome = worlds.run(worlds.configured(tmp_path, config), "traffic: [{rate: 1/s, to: 5s, model: smart}]")
    assert set(outcome.timeline.total.served) == {"anthropic/claude-sonnet-4-5"}
    assert outcome.timeline.total.cost_usd is None  # there is no price data here


def test_strategies_choose_as_they_do(tmp_path: Path) -> None:
    chain = {"strategy": "weighted", "targets": [{"target": "a/m", "weight": 3}, {"target": "b/m", "weight": 1}]}
    config = {**worlds.AB, "chains": {"smart": chain}}
    outcome = worlds.run(worlds.configured(tmp_path, config), "length: 100s\ntraffic: [{rate: 2/s, model: smart, output: 1}]")
    served = outcome.timeline.total.served
    assert 0.65 <= served["a/m"] / served.total() <= 0.85


FAULTS = ("503", "429", "401", "404", "500", "quota", "refuse", "reset", "cut", "stall", "slow", "empty", "timeout", "400")


@st.composite
def programs(draw: st.DrawFn) -> str:
    """A short scenario with whatever may be in one."""
    seconds = st.integers(0, 19)
    events = [
        f"  - {{at: {draw(seconds)}s, for: {draw(st.integers(1, 15))}s, provider: {draw(st.sampled_from('ab'))}, "
        f"fault: {draw(st.sampled_from(FAULTS))}, share: {draw(st.sampled_from(['1', '0.5']))}}}\n"
        for _ in range(draw(st.integers(0, 4)))
    ]
    stream, arrival = draw(st.sampled_from(["0", "0.5", "1"])), draw(st.sampled_from(["even", "random"]))
    patience = draw(st.sampled_from(["", ", patience: 800ms", ", patience: 20s"]))
    return (
        f"length: 20s\ntraffic:\n  - {{rate: 1/s, model: smart, stream: {stream}, arrivals: {arrival}, output: 40{patience}}}\n"
        + ("events:\n" + "".join(events) if events else "")
    )


@pytest.mark.property
@settings(max_examples=20, deadline=None)
@given(text=programs(), seed=st.integers(0, 2**32))
def test_whatever_goes_wrong_everything_is_told_once(ab: Settings, text: str, seed: int) -> None:
    stories: list[Story] = []
    outcome = worlds.run(ab, text, seed=seed, on_story=stories.append)
    asked = list(arrivals(worlds.scenario(ab, text), seed))
    check_sums(outcome, stories, len(asked))
    assert sorted(round(story.at_s, 3) for story in stories) == [round(arrival.at_s, 3) for arrival in asked]
    assert len({story.id for story in stories}) == len(stories)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return worlds.configured(tmp_path_factory.mktemp("features"), {**worlds.AB, "chains": worlds.FEATURES})


def test_what_is_kept_is_not_asked_for_again(features: Settings) -> None:
    outcome = worlds.run(
        features,
        "length: 20s\ntraffic: [{rate: 2/s, model: cache, stream: 0.5, prompts: 4, output: 20, body: {temperature: 0}}]",
    )
    total = outcome.timeline.total
    assert total.served["cache"] + total.served["a/m"] == total.requests
    assert outcome.calls["a"] == total.served["a/m"] <= 8  # each prompt, streamed and whole
    assert total.served["cache"] >= 20


def test_a_late_first_token_has_the_next_target_asked(features: Settings) -> None:
    outcome = worlds.run(
        features,
        "length: 3m\ntraffic: [{rate: 2/s, model: hedge, stream: 1, output: 5}]\n"
        "events: [{at: 0s, provider: a, fault: slow, share: 0.04, times: 8}]",
    )
    total = outcome.timeline.total
    assert set(total.outcomes) == {"ok"}
    assert 1 <= total.extras["hedged"] <= 0.05 * total.requests + 1
    assert outcome.calls == {"a": total.requests, "b": total.extras["hedged"]}
    assert total.errors == total.failovers == {}  # whoever was too late has failed nobody


def test_a_stream_that_broke_is_gone_on_with(features: Settings) -> None:
    outcome = worlds.run(
        features,
        "length: 10s\ntraffic: [{rate: 2/s, model: continue, stream: 1, output: 50}]\n"
        "events: [{at: 4s, for: 3s, provider: a, fault: cut}]",
    )
    total = outcome.timeline.total
    assert set(total.outcomes) == {"ok"}
    assert total.extras["continued"] == total.errors["a", "truncated"] > 0


def test_a_canned_answer_stands_in_where_all_fail(features: Settings) -> None:
    outcome = worlds.run(
        features,
        "length: 10s\ntraffic: [{rate: 2/s, model: static, stream: 0.5, output: 5}]\nevents: [{at: 4s, provider: a, fault: 503}]",
    )
    total = outcome.timeline.total
    assert set(total.outcomes) == {"ok"}
    assert set(total.served) == {"a/m", "static/static"}
    assert set(outcome.calls) == {"a"}  # nobody is asked for what is written in the file
