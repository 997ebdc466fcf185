"""A look at everything: windows over counters, the rise of rates, and what happens when something cannot be looked at."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from proxy.accounting.records import Alerted
from proxy.accounting.states import BudgetState, RateState
from proxy.config.settings import AlertSettings
from proxy.core.money import usd_to_nusd
from proxy.monitoring.alerts import AlertDesk, Notice
from proxy.monitoring.watch import LOOK_EVERY_S, MAX_TRENDS, WINDOW_S, Views, Watch, _Trends
from tests.engine.harness import settings as settings_of
from tests.engine.harness import target, world

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


class Enough(BaseException):
    """Ends the watch in a test."""


@dataclass
class Place:
    """A proxy that is watched, as a test sets it."""

    now: float = 1000.0
    answered: dict[str, tuple[int, int]] = field(default_factory=dict)
    unpriced: dict[tuple[str, str], int] = field(default_factory=dict)
    measured: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    budgets: list[BudgetState] | None = None
    rates: Sequence[RateState] = ()
    lag_s: float | Exception | None = None
    problem: str | None = None
    remade: int = 2
    slept: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    told: list[Notice] = field(default_factory=list)
    steps: list[Alerted] = field(default_factory=list)

    def __post_init__(self) -> None:
        plain = replace(settings_of(world(target("a"), a=b"").chain), alerts=AlertSettings())
        self.desk = AlertDesk(
            clock=self, new_id=lambda: f"alert-{len(self.steps)}", append=self.steps.append, tell=self.told.append, log=self
        )
        self.watch = Watch(
            Views(
                settings=lambda: plain,
                budgets=lambda: self.budgets,
                rates=lambda: self.rates,
                answered=lambda: dict(self.answered),
                unpriced=lambda: dict(self.unpriced),
                measured=lambda: dict(self.measured),
                ledger_lag_s=self.ledger_lag_s,
                config_problem=lambda: self.problem,
                ledger_remade=lambda: self.remade,
            ),
            self.desk,
            clock=self,
            sleep=self.sleep,
            log=self,
        )

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_800_000_000.0 + self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        if len(self.slept) >= 5:
            raise Enough

    def error(self, event: str, **_fields: Any) -> None:
        self.errors.append(event)

    async def ledger_lag_s(self) -> float | None:
        if isinstance(self.lag_s, Exception):
            raise self.lag_s
        return self.lag_s

    async def look(self, seconds: float = LOOK_EVERY_S) -> list[tuple[str, str]]:
        """Time passes, and then there is a look. What it told."""
        self.now += seconds
        before = len(self.told)
        await self.watch.look()
        return [(notice.event, notice.alert["kind"]) for notice in self.told[before:]]


async def test_fallbacks_count_for_five_minutes_and_what_was_before_the_start_does_not() -> None:
    place = Place(answered={"smart": (500, 500)})
    assert await place.look() == []
    place.answered["smart"] = (520, 503)
    assert await place.look() == [("raised", "fallback_used"), ("raised", "failover_rate")]
    assert place.desk.alerts()[-1]["message"].startswith("3 of 20 answers of chain smart")
    for _ in range(int(WINDOW_S / LOOK_EVERY_S) - 1):
        assert await place.look() == []
    assert place.desk.alerts()[0]["value"] is not None
    assert await place.look() == []
    assert await place.look(60.0) == [("resolved", "failover_rate")]
    assert await place.look(240.0) == [("resolved", "fallback_used")]


async def test_a_chain_that_is_new_counts_from_nothing() -> None:
    place = Place()
    place.answered["smart"] = (4, 1)
    assert await place.look() == [("raised", "fallback_used")]


async def test_low_answers_are_told_by_their_share_of_the_last_five_minutes() -> None:
    place = Place(measured={("groq", "llama"): (500, 400)})
    assert await place.look() == []
    place.measured["groq", "llama"] = (520, 403)
    assert await place.look() == [], "fewer than a fifth"
    place.measured["groq", "llama"] = (525, 408)
    assert await place.look() == [("raised", "quality")]
    (alert,) = place.desk.alerts()
    assert (alert["subject"], alert["value"]) == ("groq/llama", 8 / 25)
    assert await place.look(WINDOW_S) == []
    assert await place.look(60.0) == [("resolved", "quality")]


async def test_a_model_without_a_price_is_told_when_it_consumes_and_over_an_hour_later() -> None:
    place = Place(unpriced={("vllm", "old"): 7})
    assert await place.look() == []
    place.unpriced[("vllm", "qwen3")] = 1
    assert await place.look() == [("raised", "unpriced_model")]
    assert await place.look(3000.0) == []
    place.unpriced[("vllm", "qwen3")] = 2
    assert await place.look() == []
    assert await place.look(3599.0) == []
    assert await place.look(3600.0) == [("resolved", "unpriced_model")]


async def test_a_ledger_that_was_corrupt_is_told_each_time_and_over_an_hour_later() -> None:
    place = Place()
    assert await place.look() == []
    place.remade = 3
    assert await place.look() == [("raised", "ledger_corrupt")]
    assert await place.look(3599.0) == []
    assert await place.look(3600.0) == [("resolved", "ledger_corrupt")]
    place.remade = 4
    assert await place.look() == [("raised", "ledger_corrupt")]


async def test_what_no_longer_fits_among_the_counters_is_of_no_chain_and_no_model() -> None:
    place = Place()
    place.answered["other"] = (1, 22)
    place.unpriced["other", "other"] = 3
    place.measured["other", "other"] = (40, 40)
    assert await place.look() == []


async def test_budgets_that_are_not_known_end_no_alert() -> None:
    place = Place()
    spent = BudgetState("total", None, usd_to_nusd(50), usd_to_nusd(45), 0, "month", False, 0.0, None)
    place.budgets = [spent]
    assert await place.look() == [("raised", "budget")]
    place.budgets = None
    assert await place.look(9999.0) == []
    place.budgets = []
    assert await place.look() == [("resolved", "budget")]


async def test_a_broken_file_and_a_lagging_ledger_are_told() -> None:
    place = Place(problem="providers.yaml:1:1: no", lag_s=31.0)
    assert await place.look() == [("raised", "ledger_lag"), ("raised", "config_reload")]
    place.problem = None
    assert await place.look() == [("resolved", "config_reload")]


def of_rate(per_minute: float | None, *, key: str = "0a0a0a0a") -> RateState:
    return RateState("groq", key, None, "requests", 1000, 500, 500, 60.0, "file", per_minute)


async def test_a_rate_that_grows_towards_its_limit_is_told_before_it_is_hit() -> None:
    place = Place()
    told = []
    for per_minute in range(400, 1000, 10):  # two a second: from 600 the limit is 200 s away
        place.rates = [of_rate(float(per_minute))]
        told += [(per_minute, *one) for one in await place.look()]
    assert told == [(520, "raised", "rate_limit")]


async def test_a_steady_rate_is_not() -> None:
    place = Place(rates=[of_rate(900.0)])
    for _ in range(60):
        assert await place.look() == []


def test_the_rise_of_a_rate_needs_a_minute_and_forgets_what_is_older_than_three() -> None:
    trends = _Trends()
    assert trends.take([of_rate(0.0)], 0.0) == {}
    assert trends.take([of_rate(50.0)], 50.0) == {}
    assert list(trends.take([of_rate(60.0)], 60.0).values()) == [1.0]
    assert list(trends.take([of_rate(60.0)], 200.0).values()) == [10 / 150]
    assert trends.take([of_rate(None)], 205.0) == {}
    assert trends.take([of_rate(60.0)], 210.0) == {}


def test_rates_that_are_gone_are_forgotten_and_only_so_many_are_followed() -> None:
    trends = _Trends()
    trends.take([of_rate(1.0, key=str(n)) for n in range(MAX_TRENDS + 1)], 0.0)
    assert len(trends._past) == MAX_TRENDS
    trends.take([], 5.0)
    assert len(trends._past) == 0


async def test_the_watch_looks_every_few_seconds_and_a_fault_is_logged_once_and_does_not_end_it() -> None:
    place = Place(lag_s=ValueError("odd"), problem="no")
    with pytest.raises(Enough):
        await place.watch.run()
    assert place.slept == [LOOK_EVERY_S] * 5
    assert place.errors == ["alerts_cannot_look"]
    assert place.told == []
    place.lag_s = None
    place.slept.clear()
    with pytest.raises(Enough):
        await place.watch.run()
    assert [notice.alert["kind"] for notice in place.told] == ["config_reload"]


async def test_a_watch_that_is_cancelled_ends() -> None:
    place = Place()
    never = asyncio.Event()

    async def for_ever(_seconds: float) -> None:
        await never.wait()

    place.watch._sleep = for_ever
    task = asyncio.create_task(place.watch.run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
