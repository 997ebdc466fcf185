"""What the ledger's last weeks say of the days to come: how fast money goes, and how much is asked of each provider and chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol

from proxy.monitoring.lifespan import DAY_S, WINDOW_DAYS, Day, Profile, Rate, month_end_nusd, observed, profile

UsedOnDay = tuple[str, str | None, int, int, int]  # its date, the name, attempts, tokens, nano-dollars


class Spent(Protocol):
    async def spend_by_day(
        self, since_ms: int, until_ms: int | None = None, *, filters: Mapping[str, str] = ...
    ) -> list[tuple[str, int]]: ...


class Days(Protocol):
    """What is asked of the ledger; see `storage/queries.py`."""

    async def used_by_day(
        self,
        group: str | None,
        since_ms: int,
        until_ms: int | None = None,
        *,
        filters: Mapping[str, str] = ...,
        among: Sequence[str | None] = ...,
    ) -> list[UsedOnDay]: ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast money goes, in nano-dollars a day: all of it (None: nothing was asked in the last weeks), and by name."""

    whole: Profile | None
    by_name: Mapping[str | None, Profile | None] = field(default_factory=dict)

    def by_the_end(self, spent_nusd: int, *, wall: float, end: float | None, name: str | None = None) -> int | None:
        """What will have been spent at `end`; None where there is no end, or nothing to go by."""
        if end is None or (self.whole is None and not spent_nusd):
            return None
        daily = self.whole if name is None else self.by_name.get(name)
        return month_end_nusd(spent_nusd, daily or Profile(0.0), wall, end)


async def read_pace(
    ledger: Days,
    wall: float,
    *,
    scope: str | None = None,
    filters: Mapping[str, str] | None = None,
    among: Sequence[str | None] = (),
) -> Pace:
    """Of everything, or of each `scope` (provider, client, department, agent) besides. `among`: only these, which then are everything."""
    rows = await ledger.used_by_day(scope, _window_ms(wall), None, filters=filters or {}, among=among)
    if not rows:
        return Pace(None)
    named: dict[str | None, list[tuple[float, float]]] = {}
    for day, name, _, _, cost_nusd in rows if scope is not None else ():
        named.setdefault(name, []).append((_begin(day), float(cost_nusd)))
    return Pace(
        # what costs nothing is known to cost nothing
        profile([(_begin(day), float(cost_nusd)) for day, _, _, _, cost_nusd in rows], wall) or Profile(0.0),
        {name: profile(days, wall) for name, days in named.items()},
    )


async def read_spending_pace(ledger: Spent, wall: float, filters: Mapping[str, str]) -> Pace:
    """Of a part of everything of which it is known that something was asked."""
    days = await ledger.spend_by_day(_window_ms(wall), None, filters=filters)
    return Pace(profile([(_begin(day), float(cost)) for day, cost in days], wall) or Profile(0.0))


async def read_rates(ledger: Days, wall: float, group: str, among: Sequence[str]) -> dict[str, Rate | None]:
    """How much is asked of each of these providers or chains, as quotas count it: attempts that were sent, and their tokens."""
    days: dict[str, list[Day]] = {}
    for day, name, attempts, tokens, _ in await ledger.used_by_day(group, _window_ms(wall), None, filters={}, among=among):
        if name is not None:
            days.setdefault(name, []).append(Day(_begin(day), attempts, tokens))
    return {name: observed(each, wall) for name, each in days.items()}


def month_end(wall: float) -> float:
    """In UTC, as budgets are."""
    first = datetime.fromtimestamp(wall, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first + timedelta(days=32)).replace(day=1).timestamp()


def _window_ms(wall: float) -> int:
    """Whole days, so that the first is not a part of one."""
    return round((wall // DAY_S - WINDOW_DAYS) * DAY_S * 1000)


@lru_cache(maxsize=128)
def _begin(day: str) -> float:
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
