"""How long quotas last and when the next one runs out; what a month will have cost at its end. Pure: times are handed in.

Two figures for each quota and each chain. *A full quota lasts*: the limit over what is asked for in a day, a chain's being the sum
of its providers'. *Runs out*: the moment from which nothing is left, found by walking through time with what is left now, every
reset counted:

    the first provider of the chain with something left serves ── it is empty ── the next one serves ── … ── none is left: runs out
                                  └─ a reset fills it again, and it serves again

It looks a good year ahead. Quotas that never come back may last longer: then the share of what is asked that fell to them says how long.

What is asked for in a day is given, or a `Profile` of the ledger's last four weeks: a mean, and after two weeks how the days of
the week differ from it. A quota in requests is compared with tokens by how many tokens a request takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final, Literal

from proxy.core.limits import Unit
from proxy.monitoring.picture import Rationed

DAY_S: Final = 86_400.0
WINDOW_DAYS: Final = 28
WEEK: Final = 7
LOOK_AHEAD_S: Final = 400 * DAY_S  # after more than a year resets and weekdays bring nothing new
SETTLED_S: Final = 36 * DAY_S  # from then on the walk shows how much of what is asked falls to quotas that never come back
HORIZON_S: Final = 20 * 365 * DAY_S  # what lasts longer lasts for ever
MAX_STEPS: Final = 10_000
_LONGEST_DAY_S: Final = 25 * 3_600.0  # when clocks go back
_LONGEST_MONTH_S: Final = 31 * DAY_S + 3_600.0
_AT_ONCE_S = 1.0  # a tank that is empty so shortly before the next event is empty then: just enough is not too little
_NOTHING: Final = 1e-9
_UNITS: Final[tuple[Unit, ...]] = ("tokens", "requests")
_FOREVER: Final = float("inf")


NextReset = Callable[[Rationed, float], float | None]
"""The first reset of a quota after a moment, in seconds since 1970; None: it never comes back."""


@dataclass(frozen=True, slots=True)
class Profile:
    """So much a day, in the mean. `weekdays`: what a day of the week takes, as a multiple of the mean, Monday (UTC) first; None:
    they are not told apart."""

    mean: float
    weekdays: tuple[float, ...] | None = None

    def at(self, wall: float) -> float:
        """A day's worth at the pace of that moment."""
        return self.mean if self.weekdays is None else self.mean * self.weekdays[_weekday(wall)]

    def between(self, start: float, end: float) -> float:
        """What comes together from one moment to another."""
        if self.weekdays is None:
            return self.mean * max(0.0, end - start) / DAY_S
        total, now = 0.0, start
        while now < end:
            until = min(end, _midnight_after(now))
            total += self.at(now) * (until - now) / DAY_S
            now = until
        return total

    def scaled(self, mean: float) -> Profile:
        return replace(self, mean=mean)


@dataclass(frozen=True, slots=True)
class Rate:
    """How much is asked of a provider or a chain. `tokens_per_request` None: it is not known, so the one unit says nothing of the
    other. `requests` None: follows from the tokens."""

    tokens: Profile
    tokens_per_request: float | None
    source: Literal["given", "ledger"]
    requests: Profile | None = None

    def of(self, unit: Unit) -> Profile | None:
        """Per day in that unit, None where it cannot be told."""
        if unit == "tokens":
            return self.tokens
        if self.requests is not None:
            return self.requests
        if not self.tokens_per_request:
            return None
        return self.tokens.scaled(self.tokens.mean / self.tokens_per_request)


@dataclass(frozen=True, slots=True)
class Forecast:
    """`known`: there is a rate to reckon with; else the rest is None. `per_day` is in the quota's unit, a chain's in tokens.

    `lasts_days` None: without end, for want of a quota or of anything asked. `runs_out` in seconds since 1970, None: never.
    """

    known: bool
    lasts_days: float | None = None
    runs_out: float | None = None
    per_day: float | None = None


UNKNOWN: Final = Forecast(known=False)


@dataclass(frozen=True, slots=True)
class Day:
    """What the ledger has of a UTC day; `start` in seconds since 1970. `requests` are the attempts sent, as quotas count them."""

    start: float
    requests: float
    tokens: float


# -- How much is asked for


def profile(days: Iterable[tuple[float, float]], now: float) -> Profile | None:
    """Of (begin of the UTC day, sum) in any order; days that are missing are 0. None: there is nothing to reckon with.

    Whole days count, those of the last four weeks, and of these whole weeks where there is one, so that no day of the week weighs
    more than another. The first day of all was hardly a whole one: it counts only where there are fewer than three. Where there
    is none but today, it counts as if it were over.
    """
    sums: dict[int, float] = {}
    for start, value in days:
        number = round(start / DAY_S)
        sums[number] = sums.get(number, 0.0) + value
    yesterday = int(now // DAY_S) - 1
    began = min((number for number, value in sums.items() if value > 0), default=None)
    if began is None or began > yesterday + 1:
        return None
    if began > yesterday:
        return Profile(sums[began])
    known = yesterday - began + 1
    count = min(known - 1 if known >= 3 else known, WINDOW_DAYS)
    if count >= WEEK:
        count -= count % WEEK
    counted = range(yesterday - count + 1, yesterday + 1)
    mean = sum(sums.get(number, 0.0) for number in counted) / count
    if count < 2 * WEEK or mean <= 0:
        return Profile(mean)
    weekdays = [0.0] * WEEK
    for number in counted:
        weekdays[_weekday_of(number)] += sums.get(number, 0.0)
    return Profile(mean, tuple([together / mean / (count // WEEK) for together in weekdays]))


def observed(days: Sequence[Day], now: float) -> Rate | None:
    """The rate at which the ledger's last weeks went, None where it has nothing of them."""
    tokens = profile([(day.start, day.tokens) for day in days], now)
    requests = profile([(day.start, day.requests) for day in days], now)
    if requests is None:
        return None
    all_tokens, all_requests = sum(day.tokens for day in days), sum(day.requests for day in days)
    return Rate(tokens or Profile(0.0), all_tokens / all_requests if all_tokens else None, "ledger", requests)


def given(tokens_per_day: float | None, tokens_per_request: float | None, ledger: Rate | None) -> Rate | None:
    """What is given wins over what the ledger has: so many tokens a day, a request taking so many. None: neither says anything."""
    per_request = tokens_per_request or (ledger.tokens_per_request if ledger else None)
    if tokens_per_day is not None:
        return Rate(Profile(tokens_per_day), per_request, "given")
    if ledger is None or tokens_per_request is None:
        return ledger
    return replace(ledger, tokens_per_request=per_request, requests=None)


def month_end_nusd(spent_nusd: int, daily: Profile | None, now: float, end: float) -> int | None:
    """What will have been spent when the month ends: what was, and the days that are left at the usual pace. None: there is none."""
    return None if daily is None else spent_nusd + round(daily.between(now, end))


# -- How long it lasts


def quota_forecast(quota: Rationed, rate: Rate | None, now: float, next_reset: NextReset, *, keys: int = 1) -> Forecast:
    """Of one quota by itself. `keys`: how many keys of the provider share what is asked, where each has a quota of its own."""
    pace = rate.of(quota.unit) if rate else None
    if pace is None:
        return UNKNOWN
    mine = pace.scaled(pace.mean / keys) if quota.key is not None else pace
    if mine.mean <= 0:
        return Forecast(known=True, per_day=0.0)
    walk = _Walk([[_Tank(quota)]], {quota.unit: mine}, next_reset)
    return Forecast(True, quota.limit / mine.mean, walk.runs_out(now), mine.mean)


def quota_forecasts(
    quotas: Sequence[Rationed], rates: Mapping[str, Rate | None], now: float, next_reset: NextReset
) -> list[Forecast]:
    """One for each quota, in their order. `rates` by provider."""
    keys = {provider: _keys(each) for provider, each in _by_provider(quotas).items()}
    return [
        quota_forecast(quota, rates.get(quota.provider), now, next_reset, keys=keys[quota.provider] if quota.key else 1)
        for quota in quotas
    ]


def chain_forecast(
    providers: Sequence[str], quotas: Sequence[Rationed], rate: Rate | None, now: float, next_reset: NextReset
) -> Forecast:
    """Of a chain that uses these providers, in this order, at its own rate; each serves alone as long as it has something left.

    Other chains that use the same providers are not counted in. A provider without a quota lasts for ever, and so does the chain.
    """
    if rate is None:
        return UNKNOWN
    per_day = rate.tokens.mean
    own = _by_provider(quotas)
    if any(provider not in own for provider in providers):
        return Forecast(True, per_day=per_day)
    units = {unit: pace for unit in _UNITS if (pace := rate.of(unit)) is not None}
    used = [quota for provider in providers for quota in own[provider]]
    if any(quota.unit not in units for quota in used):
        return UNKNOWN
    if all(units[quota.unit].mean <= 0 for quota in used):
        return Forecast(True, per_day=per_day)
    in_order = list(dict.fromkeys(providers))
    pools = [pool for provider in in_order for pool in _pools(own[provider])]
    lasts = sum(_full_days(own[provider], units) for provider in in_order)
    return Forecast(True, lasts, _Walk(pools, units, next_reset).runs_out(now), per_day)


# -- The walk


class _Tank:
    """A quota on the walk: what is left of it, and when it is filled again."""

    __slots__ = ("left", "limit", "longest_s", "per", "quota", "resets", "unit")

    def __init__(self, quota: Rationed) -> None:
        self.quota = quota
        self.unit = quota.unit
        self.limit = float(quota.limit)
        self.left = max(0.0, float(quota.limit - quota.used))
        self.resets = quota.resets
        self.longest_s = {"day": _LONGEST_DAY_S, "month": _LONGEST_MONTH_S}.get(quota.per)

    def lasts_for_ever(self, now: float, profile: Profile) -> bool:
        """What is left reaches to the reset, and a full one beyond the longest period there is, even on the busiest day."""
        if self.resets is None or self.longest_s is None:
            return False
        busiest = profile.mean * max(profile.weekdays or (1.0,)) / DAY_S
        return self.left >= busiest * (self.resets - now) and self.limit >= busiest * self.longest_s


class _Walk:
    """Through time, from one event to the next: a tank is empty, a tank is filled, or a day with another pace begins.

    `pools` are used in their order; one serves while all its tanks have something left. A tank may be in several.
    """

    def __init__(self, pools: Sequence[Sequence[_Tank]], rates: Mapping[Unit, Profile], next_reset: NextReset) -> None:
        self._pools = pools
        self._rates = rates
        self._next_reset = next_reset
        self._tanks = list({id(tank): tank for pool in pools for tank in pool}.values())
        self._weekly = any(rate.weekdays is not None for rate in rates.values())
        self._fill_at = min((tank.resets for tank in self._tanks if tank.resets is not None), default=_FOREVER)
        self._from_once = 0.0  # days' worth that pools with a tank that is never filled again have served, once settled

    def runs_out(self, now: float) -> float | None:
        """When no pool has anything left, None: never, as far as can be seen."""
        settled, end = now + SETTLED_S, now + LOOK_AHEAD_S
        for _ in range(MAX_STEPS):
            self._fill(now)
            pool = self._serving()
            if pool is None:
                return now
            if all(tank.lasts_for_ever(now, self._rates[tank.unit]) for tank in pool):
                return None
            if now >= end:
                break
            until = min(end, self._next_event(now), *([settled] if now < settled else []))
            before, now = now, self._drain(pool, now, until)
            if before >= settled and any(tank.resets is None for tank in pool):
                self._from_once += self._days_worth(before, now)
        return self._beyond(now, now - settled)

    def _serving(self) -> Sequence[_Tank] | None:
        for pool in self._pools:
            for tank in pool:
                if tank.left <= _NOTHING:
                    break
            else:
                return pool
        return None

    def _beyond(self, now: float, watched_s: float) -> float | None:
        """What the quotas that never come back still last, if it goes on as it has since it settled."""
        if self._from_once <= 0 or watched_s <= 0:
            return None
        rest = [pool for pool in self._pools if all(tank.resets is not None for tank in pool)]
        if rest and _Walk(rest, self._rates, self._next_reset).runs_out(now) is None:
            return None
        share = self._from_once / (watched_s / DAY_S)
        worth = 0.0
        for pool in self._pools:
            once = [tank.left / self._rates[tank.unit].mean for tank in pool if tank.resets is None]
            worth += min(once, default=0.0)
        lasts_s = worth / share * DAY_S
        return now + lasts_s if lasts_s < HORIZON_S else None

    def _days_worth(self, start: float, end: float) -> float:
        """So much time as there was, more of it on busy days."""
        pace = next(iter(self._rates.values()))
        return pace.at(start) / pace.mean * (end - start) / DAY_S if pace.mean > 0 else 0.0

    def _next_event(self, now: float) -> float:
        return min(self._fill_at, _midnight_after(now)) if self._weekly else self._fill_at

    def _drain(self, pool: Sequence[_Tank], now: float, until: float) -> float:
        """Takes from the pool until the next event, or until a tank is empty; when that is."""
        paces = [(tank, self._rates[tank.unit].at(now) / DAY_S) for tank in pool]
        empty_s, first = min(
            ((tank.left / pace, tank) for tank, pace in paces if pace > 0), key=_first, default=(HORIZON_S, None)
        )
        step = min(empty_s, until - now)
        for tank, pace in paces:
            tank.left = max(0.0, tank.left - pace * step)
        if first is not None and empty_s < until - now - _AT_ONCE_S:
            first.left = 0.0
            return now + empty_s
        return until

    def _fill(self, now: float) -> None:
        if now < self._fill_at:
            return
        for tank in self._tanks:
            while tank.resets is not None and tank.resets <= now:
                tank.left = tank.limit
                tank.resets = self._next_reset(tank.quota, tank.resets)
        self._fill_at = min((tank.resets for tank in self._tanks if tank.resets is not None), default=_FOREVER)


def _first(pair: tuple[float, object]) -> float:
    return pair[0]


def _pools(quotas: Sequence[Rationed]) -> list[list[_Tank]]:
    """Of one provider: what its keys share is in every pool, and each key with quotas of its own is a pool."""
    shared = [_Tank(quota) for quota in quotas if quota.key is None]
    own: dict[str, list[_Tank]] = {}
    for quota in quotas:
        if quota.key is not None:
            own.setdefault(quota.key, []).append(_Tank(quota))
    return [[*shared, *tanks] for tanks in own.values()] or [shared]


def _full_days(quotas: Sequence[Rationed], rates: Mapping[Unit, Profile]) -> float:
    """How many days a provider serves with all its quotas full: as its tightest says, keys with quotas of their own added up."""
    days: dict[str | None, float] = {}
    for quota in quotas:
        if (pace := rates[quota.unit].mean) > 0:
            days[quota.key] = min(days.get(quota.key, _FOREVER), quota.limit / pace)
    shared = days.pop(None, _FOREVER)
    return min(shared, sum(days.values())) if days else shared


def _by_provider(quotas: Iterable[Rationed]) -> dict[str, list[Rationed]]:
    ordered = sorted(quotas, key=lambda quota: quota.provider)
    return {provider: list(each) for provider, each in groupby(ordered, key=lambda quota: quota.provider)}


def _keys(quotas: Iterable[Rationed]) -> int:
    return len({quota.key for quota in quotas if quota.key is not None}) or 1


def _weekday(wall: float) -> int:
    """Monday is 0."""
    return _weekday_of(int(wall // DAY_S))


def _weekday_of(day: int) -> int:
    """1970 began on a Thursday."""
    return (day + 3) % WEEK


def _midnight_after(wall: float) -> float:
    return wall - wall % DAY_S + DAY_S
