"""What traffic shows in five minutes, and what is usual, under a clock of the test's own."""

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.usage import Usage
from proxy.monitoring.live import HALF_LIFE_S, SAMPLE_S, SLOT_S, WINDOW_S, Histogram, LiveTraffic
from proxy.telemetry.metrics import MAX_RECENT, Metrics

pytestmark = pytest.mark.unit


class Counted:
    """Counters that the test moves."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.tokens: dict[tuple[str, str], list[float]] = {}

    def attempts(self) -> Mapping[tuple[str, str, str], int]:
        return self.counts

    def take_first_tokens(self) -> Mapping[tuple[str, str], list[float]]:
        taken, self.tokens = self.tokens, {}
        return taken


@pytest.fixture
def counted() -> Counted:
    return Counted()


def test_before_any_traffic_nothing_is_known(counted: Counted) -> None:
    seen = LiveTraffic(counted, 0.0).provider("p")
    assert (seen.attempts, seen.error_rate, seen.first_token_ms, seen.usual_ms, seen.per_minute) == (0, None, None, None, 0.0)


def test_what_was_counted_before_is_not_of_the_window(counted: Counted) -> None:
    counted.counts["p", "m", "ok"] = 1000
    counted.tokens["p", "m"] = [9.0]
    live = LiveTraffic(counted, 0.0)
    live.sample(5.0)
    assert live.provider("p").attempts == 0
    assert live.provider("p").first_tokens == 0


@pytest.mark.parametrize(
    ("outcome", "attempts", "failed"),
    [
        ("ok", 1, 0),
        ("server_error", 1, 1),
        ("rate_limited", 1, 1),
        ("auth", 1, 1),
        ("ttfb_timeout", 1, 1),
        ("client_gone", 0, 0),
        ("4xx", 0, 0),
        ("context_length", 0, 0),
        ("drained", 0, 0),
    ],
)
def test_which_outcomes_say_something_about_a_provider(counted: Counted, outcome: str, attempts: int, failed: int) -> None:
    live = LiveTraffic(counted, 0.0)
    counted.counts["p", "m", outcome] += 1
    failures = live.sample(SAMPLE_S)
    seen = live.provider("p")
    assert (seen.attempts, seen.failed) == (attempts, failed)
    assert seen.per_minute == pytest.approx(60 / SAMPLE_S), "every attempt is traffic"
    assert failures == ({"p": outcome} if failed else {})


def test_targets_add_up_to_their_provider(counted: Counted) -> None:
    live = LiveTraffic(counted, 0.0)
    counted.counts.update({("p", "a", "ok"): 6, ("p", "b", "ok"): 3, ("p", "b", "reset"): 1, ("q", "a", "ok"): 50})
    counted.tokens = {("p", "a"): [0.1] * 6, ("p", "b"): [3.0] * 3}
    live.sample(SAMPLE_S)
    seen = live.provider("p")
    assert (seen.attempts, seen.failed, seen.error_rate, seen.first_tokens) == (10, 1, 0.1, 9)
    assert seen.first_token_ms == pytest.approx(100, rel=0.05)
    assert live.provider("never").attempts == 0


def test_after_five_minutes_it_is_forgotten(counted: Counted) -> None:
    live = LiveTraffic(counted, 0.0)
    counted.counts["p", "m", "reset"] += 4
    live.sample(SAMPLE_S)
    live.sample(WINDOW_S - 1)
    assert live.provider("p").failed == 4
    live.sample(WINDOW_S + SLOT_S)
    assert live.provider("p") == (0, 0, 0.0, None, 0, None, 0)


def test_rates_are_of_the_time_that_there_was(counted: Counted) -> None:
    live = LiveTraffic(counted, 1000.0)
    counted.counts["p", "m", "ok"] += 60
    live.sample(1060.0)
    assert live.provider("p").per_minute == pytest.approx(60)
    live.sample(1120.0)
    assert live.provider("p").per_minute == pytest.approx(30)


def test_the_present_is_compared_with_what_was_before_it_and_never_with_itself(counted: Counted) -> None:
    live = LiveTraffic(counted, 0.0)
    now = 0.0
    for _ in range(240):  # twenty minutes
        now += SAMPLE_S
        counted.tokens["p", "m"] = [0.4] * 3
        live.sample(now)
    for _ in range(int(WINDOW_S / SAMPLE_S) - 6):
        now += SAMPLE_S
        counted.tokens["p", "m"] = [1.2] * 3
        live.sample(now)
    seen = live.provider("p")
    assert seen.first_token_ms == pytest.approx(1200, rel=0.05)
    assert seen.usual_ms == pytest.approx(400, rel=0.05)


def test_what_is_usual_is_about_a_day_old_at_most(counted: Counted) -> None:
    live = LiveTraffic(counted, 0.0)
    counted.tokens["p", "m"] = [0.2] * 1000
    live.sample(1.0)
    now = WINDOW_S * 2
    live.sample(now)
    assert live.provider("p").usual_first_tokens == 1000
    for _ in range(48):
        now += HALF_LIFE_S / 24
        live.sample(now)
    assert live.provider("p").usual_first_tokens == pytest.approx(250, abs=10)
    counted.tokens["p", "m"] = [2.0] * 500
    live.sample(now)
    live.sample(now + WINDOW_S * 2)
    assert live.provider("p").usual_ms == pytest.approx(2000, rel=0.05), "the newer ones count for more"


@pytest.mark.parametrize(
    ("present", "usual_ms", "first_tokens"),
    [
        ({}, 1000, 300),  # as it came
        ({"fast": 10}, 100, 100),
        ({"slow": 10}, 1000, 200),
        ({"fast": 4, "slow": 6}, 1000, 100),
        ({"fast": 6, "slow": 4}, 100, 100),
        ({"fast": 10, "new": 1}, 100, 100),  # too few to matter
        ({"fast": 10, "new": 5}, 100, 0),  # of a third nothing is known
    ],
)
def test_what_is_usual_is_mixed_as_the_present_is(
    counted: Counted, present: dict[str, int], usual_ms: float, first_tokens: int
) -> None:
    live = LiveTraffic(counted, 0.0)
    counted.tokens = {("p", "fast"): [0.1] * 100, ("p", "slow"): [1.0] * 200}
    live.sample(1.0)
    counted.tokens = {("p", model): [5.0] * count for model, count in present.items()}
    live.sample(WINDOW_S * 2)
    seen = live.provider("p")
    assert seen.usual_ms == pytest.approx(usual_ms, rel=0.05)
    assert seen.usual_first_tokens == first_tokens


@given(st.lists(st.floats(0.001, 600.0), min_size=1, max_size=200))
@pytest.mark.property
def test_a_median_is_right_within_five_percent(values: list[float]) -> None:
    histogram = Histogram()
    histogram.add(values)
    median = histogram.median_s()
    exact = sorted(values)[(len(values) - 1) // 2]
    assert median is not None
    assert median == pytest.approx(exact, rel=0.05)


@given(st.lists(st.tuples(st.sampled_from(["ok", "reset", "client_gone"]), st.floats(0.0, 30.0)), max_size=100))
@pytest.mark.property
def test_a_window_holds_exactly_what_came_in_its_time(events: list[tuple[str, float]]) -> None:
    counted = Counted()
    live = LiveTraffic(counted, 0.0)
    now, told = 0.0, []
    for outcome, later in events:
        now += later
        counted.counts["p", "m", outcome] += 1
        live.sample(now)
        told.append((outcome, now))
    slot = int(now // SLOT_S)
    inside = [outcome for outcome, at in told if int(at // SLOT_S) > slot - WINDOW_S / SLOT_S and outcome != "client_gone"]
    seen = live.provider("p")
    assert (seen.attempts, seen.failed) == (len(inside), inside.count("reset"))


# -- what the metrics hand over


def test_the_metrics_count_what_is_looked_at() -> None:
    metrics = Metrics()
    live = LiveTraffic(metrics, 0.0)
    metrics.request_started()
    metrics.attempt_ended("p", "m", "overloaded", 0.1)
    metrics.attempt_ended("q", "m", "ok", 2.0, 0.5, Usage(), 0, stream=True)
    metrics.request_ended("smart", "ok", True, 2.1, 0.6, 0.001)
    live.sample(SAMPLE_S)
    assert (live.provider("p").failed, live.provider("q").failed) == (1, 0)
    assert live.provider("q").first_token_ms == pytest.approx(500, rel=0.05)


def test_a_whole_answer_has_no_first_token_to_compare() -> None:
    """It comes at its end: whoever stops to stream would seem slow."""
    metrics = Metrics()
    metrics.attempt_ended("p", "m", "ok", 9.0, 9.0, Usage(), 0, stream=False)
    assert metrics.take_first_tokens() == {}


@pytest.mark.parametrize("many", [MAX_RECENT, MAX_RECENT + 1])
def test_first_tokens_are_sampled_beyond_a_bound_and_taken_once(many: int) -> None:
    metrics = Metrics()
    for n in range(many):
        metrics.attempt_ended("p", "m", "ok", 1.0, float(n), Usage(), 0)
    assert metrics.take_first_tokens() == {("p", "m"): [float(n) for n in range(many - MAX_RECENT, many)]}
    assert metrics.take_first_tokens() == {}
