"""How budgets, quotas and rate limits stand: what reports, alerts and the dashboard read, whoever counts.

A running proxy has these from its counters (`Budgets.states`, `Quotas.states`, `Throttle.states`); without one, `read_states` makes the
same of the ledger's sums. Wall times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from proxy.accounting.periods import period
from proxy.config.settings import Settings
from proxy.core.limits import Budget, Per, Quota, Unit
from proxy.core.target import Provider

Scope = Literal["total", "provider", "client", "department", "agent", "judge"]


@dataclass(frozen=True, slots=True)
class BudgetState:
    """`name` is None for the total, of a judge the chain's whose answers it judges. `held_nusd`: for requests under way. `resets` None:
    never."""

    scope: Scope
    name: str | None
    limit_nusd: int
    spent_nusd: int
    held_nusd: int
    per: Per
    hard: bool
    start: float
    resets: float | None

    @property
    def utilization(self) -> float:
        """Spent, as a share of the limit; a limit of 0 is always full."""
        return self.spent_nusd / self.limit_nusd if self.limit_nusd else 1.0


@dataclass(frozen=True, slots=True)
class QuotaState:
    """`key` is the credential's id where each has a quota of its own, else None. `start`: since when `used` counts. `resets` None:
    never."""

    provider: str
    key: str | None
    unit: Unit
    limit: int
    used: int
    held: int
    per: Per
    time_zone: str
    hour: int
    start: float
    resets: float | None

    @property
    def utilization(self) -> float:
        return self.used / self.limit


@dataclass(frozen=True, slots=True)
class RateState:
    """What may be asked in a short time. From the file it is a sliding minute, counted here; learned is what the provider said last.

    `model` None: of all models of the key. `used` is `limit - remaining`. `resets_s`: until the limit is whole again, None where nobody
    said. `per_minute`: the present rate in that unit, None while it is not known.
    """

    provider: str
    key: str
    model: str | None
    unit: Unit
    limit: int
    used: int
    remaining: int
    resets_s: float | None
    source: Literal["file", "learned"]
    per_minute: float | None


class Sums(Protocol):
    """What is read of the ledger; implemented by the storage. Times are milliseconds since 1970."""

    async def spent_nusd(self, scope: str, name: str | None, since_ms: int) -> int: ...
    async def used(self, provider: str, credential: str | None, since_ms: int) -> tuple[int, int]:
        """Attempts that were sent, and tokens."""
        ...

    async def quota_resets(self) -> Mapping[tuple[str, str | None], int]:
        """When the operator last let the quotas of (provider, credential) begin anew; credential None: of all its keys."""
        ...


def budgets_of(settings: Settings) -> Iterator[tuple[Scope, str | None, Budget]]:
    """Every budget that the configuration states."""
    if settings.budget is not None:
        yield "total", None, settings.budget
    for provider in settings.providers.values():
        if provider.budget is not None:
            yield "provider", provider.name, provider.budget
    for client in settings.clients.values():
        if client.budget is not None:
            yield "client", client.name, client.budget
    for name, budget in settings.departments.items():
        yield "department", name, budget
    for name, budget in settings.agents.items():
        yield "agent", name, budget
    for name, quality in settings.gates().items():
        if quality.judge_budget is not None:
            yield "judge", name, quality.judge_budget


def quotas_of(provider: Provider) -> Iterator[tuple[str | None, Quota]]:
    """Every quota of a provider, with the credential's id where each has its own."""
    for quota in provider.quotas:
        if quota.each_key:
            for credential in provider.credentials:
                yield credential.id, quota
        else:
            yield None, quota


def begun_ms(resets: Mapping[tuple[str, str | None], int], provider: str, key: str | None) -> int:
    """When the operator last let this quota begin anew, 0 for never. One that all keys share begins anew only for all of them."""
    return max(resets.get((provider, None), 0), resets.get((provider, key), 0) if key is not None else 0)


async def read_states(settings: Settings, ledger: Sums, wall: float) -> tuple[list[BudgetState], list[QuotaState]]:
    """How budgets and quotas stand by the ledger alone; nothing is held then. Raises LedgerUnavailable."""
    budgets = [await _read_budget(scope, name, budget, ledger, wall) for scope, name, budget in budgets_of(settings)]
    providers = [provider for provider in settings.providers.values() if provider.enabled and provider.quotas]
    resets = await ledger.quota_resets() if providers else {}
    quotas = [
        await _read_quota(provider.name, key, quota, resets, ledger, wall)
        for provider in providers
        for key, quota in quotas_of(provider)
    ]
    return budgets, quotas


async def _read_budget(scope: Scope, name: str | None, budget: Budget, ledger: Sums, wall: float) -> BudgetState:
    start, resets = period(budget.per, wall)
    spent = await ledger.spent_nusd(scope, name, round(start * 1000))
    return BudgetState(scope, name, budget.limit_nusd, spent, 0, budget.per, budget.hard, start, resets)


async def _read_quota(
    provider: str, key: str | None, quota: Quota, resets: Mapping[tuple[str, str | None], int], ledger: Sums, wall: float
) -> QuotaState:
    begin, end = period(quota.per, wall, time_zone=quota.time_zone, hour=quota.hour)
    since_ms = max(round(begin * 1000), begun_ms(resets, provider, key))
    requests, tokens = await ledger.used(provider, key, since_ms)
    used = requests if quota.unit == "requests" else tokens
    return QuotaState(
        provider, key, quota.unit, quota.limit, used, 0, quota.per, quota.time_zone, quota.hour, since_ms / 1000, end
    )
