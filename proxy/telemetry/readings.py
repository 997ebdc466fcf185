"""What others know and a scrape shows: how providers are, what budgets, quotas and limits leave, which alerts are open.

Each kind of reading has a bound of its own. What is beyond it is folded into `other`: sums where sums mean something, else the worst
of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.core.alerts import SEVERITIES
from proxy.core.money import NUSD_PER_USD
from proxy.telemetry.families import CACHE_RESULTS, CACHE_STORES, DELIVERY_RESULTS, PROVIDER_STATES

OTHER = "other"
EVERY_KEY = "all"  # a quota that all keys of a provider share
MAX_PROVIDERS = 60  # what is set aside here is room that chains and targets do not have
MAX_BUDGETS = 100
MAX_QUOTAS = 60
MAX_RATES = 100
MAX_CHANNELS = 20
MAX_CACHED_CHAINS = 40
MAX_READING_SERIES = (
    (len(PROVIDER_STATES) + 1) * (MAX_PROVIDERS + 1)
    + 2 * (MAX_BUDGETS + 1)
    + 2 * (MAX_QUOTAS + 1)
    + MAX_RATES
    + 1
    + len(SEVERITIES)
    + len(DELIVERY_RESULTS) * (MAX_CHANNELS + 1)
)
MAX_CACHE_SERIES = (
    len(CACHE_RESULTS) * (MAX_CACHED_CHAINS + 1) + MAX_CACHED_CHAINS + 1 + 2 * len(CACHE_STORES) * (MAX_CACHED_CHAINS + 1) + 1
)

Labels = tuple[str, ...]
Samples = list[tuple[Labels, float]]


class ProviderReading(NamedTuple):
    """`state` is one of PROVIDER_STATES. `check_s` None: it was not checked, or did not answer."""

    provider: str
    state: str
    check_s: float | None


class BudgetReading(NamedTuple):
    scope: str
    name: str
    limit_nusd: int
    spent_nusd: int


class QuotaReading(NamedTuple):
    """`key` is the credential's fingerprint, None where all keys share the quota."""

    provider: str
    key: str | None
    unit: str
    per: str
    limit: int
    used: int


class RateReading(NamedTuple):
    provider: str
    unit: str
    remaining: float


@dataclass(frozen=True, slots=True)
class CacheReading:
    """`requests`: (chain, result) -> how many. `saved_nusd`: by chain. `held`: (chain, store) -> answers and bytes."""

    requests: Mapping[tuple[str, str], int] = field(default_factory=dict)
    saved_nusd: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    faults: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Each is called once per scrape and must be quick. `deliveries`: (channel, result) -> how many."""

    providers: Callable[[], Iterable[ProviderReading]] = tuple
    budgets: Callable[[], Iterable[BudgetReading]] = tuple
    quotas: Callable[[], Iterable[QuotaReading]] = tuple
    rates: Callable[[], Iterable[RateReading]] = tuple
    alerts_open: Callable[[], Mapping[str, int]] = dict
    deliveries: Callable[[], Mapping[tuple[str, str], int]] = dict
    cache: Callable[[], CacheReading] = CacheReading


def samples(readings: Readings) -> Iterator[tuple[str, Samples]]:
    """The name of each family, and what it has to say."""
    yield from _providers(readings.providers())
    yield from _budgets(readings.budgets())
    yield from _quotas(readings.quotas())
    rates = _Folded(MAX_RATES, min)
    for rate in readings.rates():
        rates.add((rate.provider, rate.unit), rate.remaining, other=(OTHER, OTHER))
    yield "tollbridge_rate_limit_remaining", rates.samples()
    open_now = readings.alerts_open()
    yield "tollbridge_alerts_open", [((severity,), open_now.get(severity, 0)) for severity in SEVERITIES]
    yield delivered(readings)


def delivered(readings: Readings) -> tuple[str, Samples]:
    """The one family that is counted: the others say how things stand."""
    deliveries = _Folded((MAX_CHANNELS) * len(DELIVERY_RESULTS), _sum)
    for (channel, result), count in readings.deliveries().items():
        deliveries.add((channel, result), count, other=(OTHER, result))
    return "tollbridge_alert_deliveries_total", deliveries.samples()


def cached(reading: CacheReading) -> Iterator[tuple[str, Samples]]:
    """What this process has counted and holds: each worker has something to say of it."""
    requests, saved = _Folded(MAX_CACHED_CHAINS * len(CACHE_RESULTS), _sum), _Folded(MAX_CACHED_CHAINS, _sum)
    for (chain, result), count in reading.requests.items():
        requests.add((chain, result), count, other=(OTHER, result))
    for chain, nusd in reading.saved_nusd.items():
        saved.add((chain,), nusd / NUSD_PER_USD, other=(OTHER,))
    entries, sizes = (_Folded(MAX_CACHED_CHAINS * len(CACHE_STORES), _sum) for _ in range(2))
    for (chain, store), (count, size) in reading.held.items():
        entries.add((chain, store), count, other=(OTHER, store))
        sizes.add((chain, store), size, other=(OTHER, store))
    yield "tollbridge_cache_requests_total", requests.samples()
    yield "tollbridge_cache_saved_usd_total", saved.samples()
    yield "tollbridge_cache_entries", entries.samples()
    yield "tollbridge_cache_bytes", sizes.samples()
    yield "tollbridge_cache_faults_total", [((), reading.faults)]


def _providers(readings: Iterable[ProviderReading]) -> Iterator[tuple[str, Samples]]:
    states = _Folded(MAX_PROVIDERS * len(PROVIDER_STATES), _sum)
    checks = _Folded(MAX_PROVIDERS, max)
    for reading in readings:
        for state in PROVIDER_STATES:
            states.add((reading.provider, state), int(state == reading.state), other=(OTHER, state))
        if reading.check_s is not None:
            checks.add((reading.provider,), reading.check_s, other=(OTHER,))
    yield "tollbridge_provider_state", states.samples()
    yield "tollbridge_provider_check_seconds", checks.samples()


def _budgets(readings: Iterable[BudgetReading]) -> Iterator[tuple[str, Samples]]:
    limits, spent = _Folded(MAX_BUDGETS, _sum), _Folded(MAX_BUDGETS, _sum)
    for reading in readings:
        key = (reading.scope, reading.name or EVERY_KEY)
        limits.add(key, reading.limit_nusd / NUSD_PER_USD, other=(OTHER, OTHER))
        spent.add(key, reading.spent_nusd / NUSD_PER_USD, other=(OTHER, OTHER))
    yield "tollbridge_budget_limit_usd", limits.samples()
    yield "tollbridge_budget_spent_usd", spent.samples()


def _quotas(readings: Iterable[QuotaReading]) -> Iterator[tuple[str, Samples]]:
    limits, used = _Folded(MAX_QUOTAS, _sum), _Folded(MAX_QUOTAS, _sum)
    for reading in readings:
        key = (reading.provider, reading.key or EVERY_KEY, reading.unit, reading.per)
        limits.add(key, reading.limit, other=(OTHER, OTHER, OTHER, OTHER))
        used.add(key, reading.used, other=(OTHER, OTHER, OTHER, OTHER))
    yield "tollbridge_quota_limit", limits.samples()
    yield "tollbridge_quota_used", used.samples()


class _Folded:
    """At most `limit` keys of their own; the others, and what has the same key, are combined."""

    def __init__(self, limit: int, combine: Callable[[float, float], float]) -> None:
        self._limit = limit
        self._combine = combine
        self._values: dict[Labels, float] = {}

    def add(self, key: Labels, value: float, *, other: Labels) -> None:
        values = self._values
        if key not in values and len(values) >= self._limit:
            key = other
        values[key] = self._combine(values[key], value) if key in values else value

    def samples(self) -> Samples:
        return list(self._values.items())


def _sum(a: float, b: float) -> float:
    return a + b
