"""How long a quota lasts and when the next one runs out, held against simulations of what then happens."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from proxy.core.limits import Per, Unit
from proxy.monitoring.lifespan import (
    DAY_S,
    HORIZON_S,
    UNKNOWN,
    Day,
    Forecast,
    Profile,
    Rate,
    chain_forecast,
    given,
    month_end_nusd,
    observed,
    profile,
    quota_forecast,
    quota_forecasts,
)
from proxy.monitoring.picture import Rationed

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 20, tzinfo=UTC).timestamp()  # a Friday
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
TOMORROW = NOW + DAY_S


@dataclass(frozen=True)
class Quota:
    limit: int
    per: Per = "month"
    unit: Unit = "tokens"
    used: int = 0
    provider: str = "cohere"
    key: str | None = None
    held: int = 0
    time_zone: str = "UTC"
    hour: int = 0

    @property
    def resets(self) -> float | None:
        return {"month": DECEMBER, "day": TOMORROW, "once": None}[self.per]


def next_reset(quota: Rationed, wall: float) -> float | None:
    then = datetime.fromtimestamp(wall, UTC)
    match quota.per:
        case "day":
            return (then + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
        case "month":
            return (
                (then.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=32)).replace(day=1).timestamp()
            )
        case _:
            return None


def at(tokens_per_day: float, tokens_per_request: float | None = None) -> Rate:
    rate = given(tokens_per_day, tokens_per_request, None)
    assert rate is not None
    return rate


def days_until(moment: float | None) -> float | None:
    return None if moment is None else (moment - NOW) / DAY_S


# -- one quota


@pytest.mark.parametrize(
    ("quota", "tokens_per_day", "lasts", "runs_out_in"),
    [
        # the figures that people know from their own routers
        (Quota(5_000_000), 10_000, 500, None),
        (Quota(300_000), 10_000, 30, 41),  # November's does, December's ends a day before December
        (Quota(300_000), 9_677, 300_000 / 9_677, None),  # 31 days and a minute: just enough for the longest month
        (Quota(30_000), 10_000, 3, 3),
        (Quota(5_000, "once"), 10_000, 0.5, 0.5),
        (Quota(5_000_000, "once"), 10_000, 500, 500),
        # what is used already shortens the next, and only the next
        (Quota(5_000_000, used=4_950_000), 10_000, 500, 5),
        (Quota(5_000_000, used=5_000_000), 10_000, 500, 0),
        (Quota(5_000_000, used=6_000_000), 10_000, 500, 0),
        (Quota(500_000, used=450_000), 4_000, 125, None),
        (Quota(24_000, "day"), 24_000, 1, None),
        (Quota(24_000, "day", used=12_000), 24_000, 1, 0.5),
        (Quota(12_000, "day"), 24_000, 0.5, 0.5),
    ],
    ids=str,
)
def test_a_full_quota_lasts_and_the_next_one_runs_out(
    quota: Quota, tokens_per_day: float, lasts: float, runs_out_in: float | None
) -> None:
    forecast = quota_forecast(quota, at(tokens_per_day), NOW, next_reset)
    assert forecast.lasts_days == pytest.approx(lasts)
    assert days_until(forecast.runs_out) == (None if runs_out_in is None else pytest.approx(runs_out_in))
    assert forecast.per_day == tokens_per_day


def test_what_lasts_until_the_reset_can_still_fail_in_a_longer_month() -> None:
    """Enough for the ten days that November has left, and for 30 days in a row, but not for December's 31."""
    forecast = quota_forecast(Quota(305_000), at(10_000), NOW, next_reset)
    assert days_until(forecast.runs_out) == pytest.approx(11 + 30.5)


def test_requests_are_reckoned_by_the_tokens_that_one_takes() -> None:
    quota = Quota(14_400, "day", "requests", provider="groq")
    forecast = quota_forecast(quota, at(1_000_000, 500), NOW, next_reset)
    assert forecast.lasts_days == pytest.approx(7.2)
    assert (forecast.per_day, forecast.runs_out) == (2_000, None)


@pytest.mark.parametrize(
    ("quota", "rate", "expected"),
    [
        (Quota(100), None, UNKNOWN),
        (Quota(100, unit="requests"), at(1_000), UNKNOWN),
        (Quota(100), at(0), Forecast(known=True, per_day=0.0)),
    ],
)
def test_without_a_rate_nothing_is_claimed(quota: Quota, rate: Rate | None, expected: Forecast) -> None:
    assert quota_forecast(quota, rate, NOW, next_reset) == expected


def test_keys_with_quotas_of_their_own_share_what_is_asked() -> None:
    quotas = [Quota(30_000, key="aaaa"), Quota(30_000, key="bbbb", used=20_000), Quota(90_000)]
    first, second, shared = quota_forecasts(quotas, {"cohere": at(10_000)}, NOW, next_reset)
    assert [first.lasts_days, second.lasts_days, shared.lasts_days] == [6, 6, 9]
    assert days_until(second.runs_out) == pytest.approx(2)
    assert quota_forecasts(quotas, {}, NOW, next_reset) == [UNKNOWN] * 3


# -- a chain


FREE_TIER: dict[str, list[Rationed]] = {
    "cohere": [Quota(5_000_000)],
    "ai21": [Quota(300_000, provider="ai21")],
    "huggingface": [Quota(30_000, provider="huggingface")],
    "openai": [Quota(5_000, "once", provider="openai")],
    "groq": [Quota(14_400, "day", "requests", provider="groq")],
    "keys": [Quota(10_000, provider="keys", key="a"), Quota(10_000, provider="keys", key="b")],
    "capped": [
        Quota(10_000, provider="capped", key="a"),
        Quota(10_000, provider="capped", key="b"),
        Quota(5_000, provider="capped"),
    ],
}


@pytest.mark.parametrize(
    ("providers", "lasts", "runs_out_in"),
    [
        (["huggingface"], 3, 3),
        (["huggingface", "openai"], 3.5, 3.5),
        (["huggingface", "ai21"], 33, None),
        (["openai", "huggingface", "openai"], 3.5, 3.5),
        (["keys"], 2, 2),
        (["capped"], 0.5, 0.5),
        (["huggingface", "cohere"], 503, None),
        (["huggingface", "unlimited"], None, None),
    ],
)
def test_a_chain_lasts_as_long_as_its_providers_together(
    providers: list[str], lasts: float | None, runs_out_in: float | None
) -> None:
    quotas = [quota for name in providers for quota in FREE_TIER.get(name, [])]
    forecast = chain_forecast(providers, list(dict.fromkeys(quotas)), at(10_000), NOW, next_reset)
    assert forecast.known
    assert forecast.lasts_days == (None if lasts is None else pytest.approx(lasts))
    assert days_until(forecast.runs_out) == (None if runs_out_in is None else pytest.approx(runs_out_in))


def test_a_chain_that_runs_out_after_a_reset_is_seen() -> None:
    """Eleven days are left of November. What covers them covers three of December besides, and what covers a bit less does not."""

    def runs_out_in(once: int) -> float | None:
        quotas: list[Rationed] = [Quota(30_000, provider="huggingface"), Quota(once, "once", provider="openai")]
        return days_until(chain_forecast(["huggingface", "openai"], quotas, at(10_000), NOW, next_reset).runs_out)

    assert runs_out_in(79_000) == pytest.approx(10.9)
    assert runs_out_in(90_000) == pytest.approx(11 + 3 + 1)


def test_a_chain_with_a_quota_in_requests_needs_to_know_what_a_request_takes() -> None:
    assert chain_forecast(["groq"], FREE_TIER["groq"], at(10_000), NOW, next_reset) == UNKNOWN
    assert chain_forecast(["groq"], FREE_TIER["groq"], None, NOW, next_reset) == UNKNOWN
    known = chain_forecast(["groq"], FREE_TIER["groq"], at(10_000, 100), NOW, next_reset)
    assert known == Forecast(True, 144, None, 10_000)
    assert chain_forecast(["groq"], FREE_TIER["groq"], at(0, 100), NOW, next_reset) == Forecast(True, per_day=0.0)


def test_just_enough_is_not_too_little() -> None:
    quotas: list[Rationed] = [Quota(37, "once", provider="p0"), Quota(1, "day", provider="p1")]
    assert chain_forecast(["p0", "p1"], quotas, at(1), NOW, next_reset).runs_out is None


@pytest.mark.property
@examples(
    limits=st.lists(
        st.tuples(st.integers(1, 400_000), st.sampled_from(["day", "month", "once"]), st.floats(0, 1)), min_size=1, max_size=4
    ),
    tokens_per_day=st.integers(1, 30_000),
)
def test_a_chain_never_runs_out_before_its_best_provider(limits: list[tuple[int, Per, float]], tokens_per_day: int) -> None:
    quotas: list[Rationed] = [
        Quota(limit, per, provider=f"p{n}", used=round(limit * share)) for n, (limit, per, share) in enumerate(limits)
    ]
    rate = at(tokens_per_day)
    whole = chain_forecast([quota.provider for quota in quotas], quotas, rate, NOW, next_reset)
    alone = [quota_forecast(quota, rate, NOW, next_reset) for quota in quotas]
    assert whole.lasts_days == pytest.approx(sum(one.lasts_days or 0 for one in alone))
    assert (whole.runs_out or NOW + HORIZON_S) >= max(one.runs_out or NOW for one in alone) - 1
    if whole.runs_out is not None:
        assert all(one.runs_out is not None for one in alone)


@pytest.mark.parametrize("weekdays", [None, (1.2, 1.2, 1.2, 1.2, 1.2, 0.5, 0.5)])
@pytest.mark.parametrize(
    ("daily", "once", "days"),
    [
        (5_000, [1_000_000], 200),  # half of what is asked
        (5_000, [5_000_000], 1_000),  # further than the walk goes
        (5_000, [2_000_000, 3_000_000], 1_000),  # one after the other
        (0, [5_000_000], 500),
        (5_000, [500_000_000], None),  # 274 years
    ],
)
def test_what_never_comes_back_is_reckoned_beyond_the_walk(
    daily: int, once: list[int], days: float | None, weekdays: tuple[float, ...] | None
) -> None:
    chain: list[Rationed] = [Quota(daily, "day", provider="daily")] if daily else []
    chain += [Quota(limit, "once", provider=f"once-{n}") for n, limit in enumerate(once)]
    rate = Rate(Profile(10_000, weekdays), None, "given")
    found = chain_forecast([quota.provider for quota in chain], chain, rate, NOW, next_reset).runs_out
    # a busy day needs more of what does not come back, and a quiet one less of what does
    assert days_until(found) == (
        None if days is None else pytest.approx(days, rel=0.01 if weekdays is None or not daily else 0.05)
    )


# -- the rate


def history(values: Sequence[float], now: float = NOW) -> list[tuple[float, float]]:
    """The last days before now, yesterday's last."""
    return [(now - (len(values) - n) * DAY_S, value) for n, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([10], 10),
        ([4, 10], 7),
        ([4, 10, 20], 15),  # the first was hardly a whole day
        ([0, 0, 4, 10, 20], 15),
        ([99, *[7] * 9], 7),  # a whole week of them
        ([99, *[1] * 21], 1),
        ([1000] * 30 + [2] * 28, 2),  # four weeks are enough to know
        ([5, 0, 0], 0),
    ],
)
def test_the_mean_is_of_whole_days_and_weeks(values: list[float], mean: float) -> None:
    found = profile(history(values), NOW + 3_600)
    assert found is not None
    assert found.mean == pytest.approx(mean)


def test_of_nothing_there_is_no_mean() -> None:
    assert profile([], NOW) is None
    assert profile(history([0, 0]), NOW) is None
    assert observed([], NOW) is None


def test_a_first_day_counts_as_if_it_were_over() -> None:
    assert profile([(NOW, 120.0)], NOW + 3_600) == Profile(120.0)


def test_weekdays_are_told_apart_after_two_weeks() -> None:
    values = [1, *([10, 10, 10, 10, 10, 3, 3] * 2)]  # ends on a Sunday
    sunday = NOW + 3 * DAY_S  # the Monday after it
    found = profile(history(values, sunday), sunday)
    assert found is not None
    assert found.mean == pytest.approx(8)
    assert [round(found.at(sunday + n * DAY_S), 6) for n in range(7)] == [10, 10, 10, 10, 10, 3, 3]
    assert found.between(sunday, sunday + 7 * DAY_S) == pytest.approx(56)
    assert found.between(sunday + 4.5 * DAY_S, sunday + 5.5 * DAY_S) == pytest.approx(6.5)


def test_a_weekend_puts_off_the_end() -> None:
    """50 a day and nothing on weekends: what is left on a Friday noon reaches into the week after."""
    friday_noon = NOW + DAY_S / 2
    weekly = Profile(250 / 7, tuple(day * 7 / 250 for day in (50, 50, 50, 50, 50, 0, 0)))
    forecast = quota_forecast(Quota(1_000, "once", used=950), Rate(weekly, None, "ledger"), friday_noon, next_reset)
    assert forecast.runs_out == pytest.approx(friday_noon + 3 * DAY_S)


def test_the_ledger_says_what_a_request_takes() -> None:
    days = [Day(NOW - DAY_S, 10, 5_000), Day(NOW - 2 * DAY_S, 30, 15_000)]
    rate = observed(days, NOW)
    assert rate is not None
    assert (rate.tokens.mean, rate.requests and rate.requests.mean, rate.tokens_per_request) == (10_000, 20, 500)
    assert rate.source == "ledger"


@pytest.mark.parametrize(
    ("per_day", "per_request", "requests_per_day", "source"),
    [
        (None, None, 20, "ledger"),
        (None, 100, 100, "ledger"),  # 10,000 tokens of the ledger, 100 each
        (50_000, None, 100, "given"),  # the ledger's 500 each
        (50_000, 100, 500, "given"),
    ],
)
def test_what_is_given_wins(per_day: float | None, per_request: float | None, requests_per_day: float, source: str) -> None:
    ledger = observed([Day(NOW - DAY_S, 10, 5_000), Day(NOW - 2 * DAY_S, 30, 15_000)], NOW)
    rate = given(per_day, per_request, ledger)
    assert rate is not None
    requests = rate.of("requests")
    assert requests is not None
    assert (requests.mean, rate.source) == (requests_per_day, source)


def test_failed_attempts_alone_take_requests_and_no_tokens() -> None:
    rate = observed([Day(NOW - DAY_S, 10, 0)], NOW)
    assert rate is not None
    assert (rate.of("tokens"), rate.tokens_per_request) == (Profile(0.0), None)


def test_a_month_ends_with_what_was_spent_and_the_days_that_are_left() -> None:
    assert month_end_nusd(40, Profile(5.0), DECEMBER - 4 * DAY_S, DECEMBER) == 60
    assert month_end_nusd(40, None, NOW, DECEMBER) is None


# -- against a simulated truth


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("chain", "expected_days"),
    [
        ([Quota(700_000, used=450_000)], (4, 10.9)),  # before the reset
        ([Quota(900_000, used=100_000)], (20, 45)),  # after one
        ([Quota(5_000_000, "once", used=1_000_000)], (90, 130)),
        ([Quota(400_000), Quota(1_300_000, "once", provider="other")], (30, 80)),  # several resets in between
    ],
    ids=["this month", "next month", "once", "chain"],
)
def test_the_forecast_is_within_5_per_cent_of_what_then_happens(
    seed: int, chain: list[Quota], expected_days: tuple[float, float]
) -> None:
    """60 days of traffic with quiet weekends, a tenth of noise each day, working hours: the forecast is made on day 35."""
    dice = random.Random(seed)

    def tokens_of(day: float) -> float:
        weekend = datetime.fromtimestamp(day, UTC).weekday() >= 5
        return (15_000 if weekend else 48_000) * dice.uniform(0.9, 1.1)

    past = [Day(NOW - n * DAY_S, 100, tokens_of(NOW - n * DAY_S)) for n in range(35, 0, -1)]
    rate = observed(past, NOW)
    forecast = chain_forecast([quota.provider for quota in chain], chain, rate, NOW, next_reset).runs_out
    truth = simulate(chain, tokens_of)
    low, high = expected_days
    assert low <= (truth - NOW) / DAY_S <= high
    assert forecast is not None
    assert abs(forecast - truth) <= 0.05 * (truth - NOW)


def simulate(chain: list[Quota], tokens_of: Callable[[float], float]) -> float:
    """Half an hour at a time, most of it in working hours, until nothing is left."""
    left = {quota.provider: float(quota.limit - quota.used) for quota in chain}
    now, today = NOW, tokens_of(NOW)
    resets = {quota.provider: quota.resets for quota in chain}
    while any(value > 0 for value in left.values()):
        hour = now % DAY_S / 3_600
        asked = today * (0.8 / 20 if 8 <= hour < 18 else 0.2 / 28)
        for quota in chain:
            taken = min(asked, left[quota.provider])
            left[quota.provider] -= taken
            asked -= taken
        now += 1_800
        if now % DAY_S == 0:
            today = tokens_of(now)
        for quota in chain:
            reset = resets[quota.provider]
            if reset is not None and now >= reset:
                left[quota.provider] = quota.limit
                resets[quota.provider] = next_reset(quota, reset)
    return now


def test_a_walk_with_daily_resets_and_weekdays_is_quick_enough_to_end() -> None:
    weekly = Profile(10_000, (1.2, 1.2, 1.2, 1.2, 1.2, 0.5, 0.5))
    chain: list[Rationed] = [Quota(5_000, "day", provider="a"), Quota(7_500, "day", provider="b"), Quota(9_000, provider="c")]
    assert chain_forecast(["a", "b", "c"], chain, Rate(weekly, None, "given"), NOW, next_reset).runs_out is None
    short = replace(Quota(7_500, "day", provider="b"), limit=6_000)
    ends = chain_forecast(["a", "b", "c"], [chain[0], short, chain[2]], Rate(weekly, None, "given"), NOW, next_reset).runs_out
    assert ends is not None
