"""Looks at everything every few seconds and hands what it sees to the alert desk. Off the hot path: it reads counters that are there."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from proxy.accounting.states import BudgetState, QuotaState, RateState
from proxy.config.settings import Settings
from proxy.core.ports import Clock
from proxy.monitoring.alerts import AlertDesk, Log
from proxy.monitoring.conditions import AnswerFlow, Card, ChainFlow, Observation, RateKey, Traffic, observe, rate_key, unseen
from proxy.telemetry.readings import OTHER

LOOK_EVERY_S = 5.0
WINDOW_S = 300.0
TREND_S = 180.0  # over which a rate's rise is taken
LEAST_TREND_S = 60.0  # a shorter time says nothing about it
MAX_TRENDS = 1_000


def _nothing() -> None:
    return None


async def _nothing_yet() -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """Where a look goes; None is an answer, too: it cannot be seen now. `answered`: chain -> (answers, those by another target than the
    first), `unpriced`: (provider, model) -> attempts, `measured`: (provider, model) -> (answers that were measured, those of them that
    were low), `ledger_remade`: how often its database was set aside, all since the start. What is counted under `other`, for want of
    room, is of no one chain or model, and nothing is told of it. Those that are not awaited must be quick."""

    settings: Callable[[], Settings]
    cards: Callable[[], Sequence[Card] | None] = _nothing
    traffic: Callable[[], Awaitable[Mapping[str, Traffic] | None]] = _nothing_yet
    budgets: Callable[[], Sequence[BudgetState] | None] = _nothing
    quotas: Callable[[], Sequence[QuotaState] | None] = _nothing
    rates: Callable[[], Sequence[RateState] | None] = _nothing
    answered: Callable[[], Mapping[str, tuple[int, int]]] = dict
    unpriced: Callable[[], Mapping[tuple[str, str], int]] = dict
    measured: Callable[[], Mapping[tuple[str, str], tuple[int, int]]] = dict
    ledger_lag_s: Callable[[], Awaitable[float | None]] = _nothing_yet
    ledger_problem: Callable[[], str | None] = _nothing
    ledger_remade: Callable[[], int] = int
    config_problem: Callable[[], str | None] = _nothing


class Watch:
    """`run` belongs to a task; `look` is one of its rounds."""

    def __init__(
        self, views: Views, desk: AlertDesk, *, clock: Clock, sleep: Callable[[float], Awaitable[Any]], log: Log
    ) -> None:
        self._views = views
        self._desk = desk
        self._clock = clock
        self._sleep = sleep
        self._log = log
        self._flows = _Flows(views.answered())
        self._measures = _Flows(views.measured())
        self._trends = _Trends()
        self._unpriced = dict(views.unpriced())
        self._remade = views.ledger_remade()
        self._fault: str | None = None

    async def run(self) -> None:
        while True:
            try:
                await self.look()
                self._fault = None
            except Exception as fault:  # noqa: BLE001 - a fault in one look must not end the watch: it is logged, once until it changes
                if repr(fault) != self._fault:
                    self._fault = repr(fault)
                    self._log.error("alerts_cannot_look", fault=self._fault[:500], next="looks again")
            await self._sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Raises whatever a view raises."""
        views = self._views
        lag_s, traffic = await views.ledger_lag_s(), await views.traffic()
        now = self._clock.monotonic()
        rates = views.rates()
        observation = Observation(
            cards=views.cards(),
            traffic=traffic,
            budgets=views.budgets(),
            quotas=views.quotas(),
            rates=rates,
            rises=self._trends.take(rates or (), now),
            chains=[ChainFlow(*flow) for flow in self._flows.take(views.answered(), now) if flow[0] != OTHER],
            answers=[
                AnswerFlow(*model, *counts) for model, *counts in self._measures.take(views.measured(), now) if model[0] != OTHER
            ],
            unpriced=self._new_unpriced(),
            ledger_lag_s=lag_s,
            ledger_problem=views.ledger_problem(),
            ledger_remade=self._was_remade(),
            config_problem=views.config_problem(),
        )
        self._desk.update(observe(observation, views.settings()), unseen(observation))

    def _was_remade(self) -> bool:
        before, self._remade = self._remade, self._views.ledger_remade()
        return self._remade > before

    def _new_unpriced(self) -> list[tuple[str, str]]:
        before, self._unpriced = self._unpriced, dict(self._views.unpriced())
        return [key for key, count in self._unpriced.items() if count > before.get(key, 0) and key[0] != OTHER]


Named = TypeVar("Named", bound=Hashable)


class _Flows(Generic[Named]):
    """What came of a chain's or a model's answers in the last WINDOW_S, of totals since the start: how many, and some of them."""

    def __init__(self, totals: Mapping[Named, tuple[int, int]]) -> None:
        self._past: deque[tuple[float, Mapping[Named, tuple[int, int]]]] = deque([(float("-inf"), totals)])

    def take(self, totals: Mapping[Named, tuple[int, int]], now: float) -> list[tuple[Named, int, int]]:
        past = self._past
        past.append((now, past[-1][1] if totals == past[-1][1] else totals))  # while nothing happens, one table is enough
        while len(past) > 1 and past[1][0] <= now - WINDOW_S:
            past.popleft()
        base = past[0][1]
        flows = []
        for name, (answers, some) in totals.items():
            answers_before, some_before = base.get(name, (0, 0))
            if answers > answers_before:
                flows.append((name, answers - answers_before, some - some_before))
        return flows


class _Trends:
    """By how much each rate per minute grows a second."""

    def __init__(self) -> None:
        self._past: dict[RateKey, deque[tuple[float, float]]] = {}

    def take(self, rates: Sequence[RateState], now: float) -> dict[RateKey, float]:
        past: dict[RateKey, deque[tuple[float, float]]] = {}
        rises = {}
        for rate in rates[:MAX_TRENDS]:
            if rate.per_minute is None:
                continue
            key = rate_key(rate)
            points = past[key] = self._past.get(key) or deque()
            points.append((now, rate.per_minute))
            while points[0][0] < now - TREND_S:
                points.popleft()
            began, first = points[0]
            if now - began >= LEAST_TREND_S:
                rises[key] = (rate.per_minute - first) / (now - began)
        self._past = past
        return rises
