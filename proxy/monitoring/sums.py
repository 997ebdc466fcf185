"""What reports ask of the ledger, and how a report that asks much does not ask it twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

from proxy.monitoring.outlook import Days, UsedOnDay

Record = dict[str, Any]
_T = TypeVar("_T")
Step = Literal["hour", "day"]
_NONE: Mapping[str, str] = {}


class Ledger(Days, Protocol):
    """What is asked of the ledger; see `storage/queries.py`. Times in milliseconds since 1970."""

    async def usage(
        self,
        group_by: Sequence[str],
        since_ms: int | None = None,
        until_ms: int | None = None,
        *,
        time_zone: str = ...,
        filters: Mapping[str, str] = ...,
        percentiles: bool = ...,
        limit: int | None = ...,
        after: int = ...,
        bounded: bool = ...,
    ) -> list[Record]: ...
    async def totals(
        self, since_ms: int | None = None, until_ms: int | None = None, filters: Mapping[str, str] = ...
    ) -> Record: ...
    async def timeseries(
        self,
        step: Step,
        since_ms: int,
        until_ms: int,
        *,
        time_zone: str = ...,
        filters: Mapping[str, str] = ...,
        group_by: str | None = ...,
        among: Sequence[str | None] = ...,
    ) -> list[Record]: ...
    async def fallbacks(self, since_ms: int, until_ms: int) -> list[Record]: ...
    async def spend_by_day(
        self, since_ms: int, until_ms: int | None = None, *, filters: Mapping[str, str] = ...
    ) -> list[tuple[str, int]]: ...
    async def alerts(self, limit: int, open_only: bool = ..., kind: str | None = ...) -> list[Record]: ...


class Remembered:
    """A `Ledger` that asks another, every question once. For one report: what it has heard does not change any more, and no row may be
    changed by who reads it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._answers: dict[tuple[Any, ...], Any] = {}

    async def usage(
        self,
        group_by: Sequence[str],
        since_ms: int | None = None,
        until_ms: int | None = None,
        *,
        time_zone: str = "UTC",
        filters: Mapping[str, str] = _NONE,
        percentiles: bool = False,
        limit: int | None = None,
        after: int = 0,
        bounded: bool = False,
    ) -> list[Record]:
        key = ("usage", tuple(group_by), since_ms, until_ms, time_zone, _frozen(filters), percentiles, limit, after, bounded)
        ask = self._ledger.usage
        return await self._once(
            key,
            lambda: ask(
                group_by,
                since_ms,
                until_ms,
                time_zone=time_zone,
                filters=filters,
                percentiles=percentiles,
                limit=limit,
                after=after,
                bounded=bounded,
            ),
        )

    async def totals(
        self, since_ms: int | None = None, until_ms: int | None = None, filters: Mapping[str, str] = _NONE
    ) -> Record:
        key = ("totals", since_ms, until_ms, _frozen(filters))
        return await self._once(key, lambda: self._ledger.totals(since_ms, until_ms, filters))

    async def timeseries(
        self,
        step: Step,
        since_ms: int,
        until_ms: int,
        *,
        time_zone: str = "UTC",
        filters: Mapping[str, str] = _NONE,
        group_by: str | None = None,
        among: Sequence[str | None] = (),
    ) -> list[Record]:
        key = ("timeseries", step, since_ms, until_ms, time_zone, _frozen(filters), group_by, tuple(among))
        ask = self._ledger.timeseries
        return await self._once(
            key, lambda: ask(step, since_ms, until_ms, time_zone=time_zone, filters=filters, group_by=group_by, among=among)
        )

    async def fallbacks(self, since_ms: int, until_ms: int) -> list[Record]:
        return await self._once(("fallbacks", since_ms, until_ms), lambda: self._ledger.fallbacks(since_ms, until_ms))

    async def spend_by_day(
        self, since_ms: int, until_ms: int | None = None, *, filters: Mapping[str, str] = _NONE
    ) -> list[tuple[str, int]]:
        key = ("spend_by_day", since_ms, until_ms, _frozen(filters))
        return await self._once(key, lambda: self._ledger.spend_by_day(since_ms, until_ms, filters=filters))

    async def used_by_day(
        self,
        group: str | None,
        since_ms: int,
        until_ms: int | None = None,
        *,
        filters: Mapping[str, str] = _NONE,
        among: Sequence[str | None] = (),
    ) -> list[UsedOnDay]:
        key = ("used_by_day", group, since_ms, until_ms, _frozen(filters), tuple(among))
        return await self._once(key, lambda: self._ledger.used_by_day(group, since_ms, until_ms, filters=filters, among=among))

    async def alerts(self, limit: int, open_only: bool = False, kind: str | None = None) -> list[Record]:
        key = ("alerts", limit, open_only, kind)
        return await self._once(key, lambda: self._ledger.alerts(limit, open_only, kind))

    async def _once(self, key: tuple[Any, ...], ask: Callable[[], Awaitable[_T]]) -> _T:
        if key not in self._answers:
            self._answers[key] = await ask()
        answer: _T = self._answers[key]
        return answer


def _frozen(filters: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(filters.items()))
