"""Budgets, quotas and rate limits of one running proxy, kept in step with its configuration and with its ledger.

What they have counted is a cache of the ledger: before the first request, and again after a reload, each is raised to the ledger's
sum, so that a restart forgets nothing and a new budget knows what was spent before it was written. The minute of a rate limit is not
worth that: it begins empty.

Workers of one proxy count together (`core/shared.py`); it is one of them, the lead, that asks the ledger.
"""

from __future__ import annotations

from proxy.accounting.budgets import Budgets
from proxy.accounting.quotas import Quotas
from proxy.accounting.states import Sums, budgets_of
from proxy.accounting.throttle import Throttle
from proxy.config.settings import Settings
from proxy.core.allowance import Allowance
from proxy.core.ports import Clock
from proxy.core.shared import ALONE, Shared
from proxy.core.target import Credential, Target


def needs_sums(settings: Settings) -> bool:
    """Whether anything is configured that the ledger has sums for, which a start waits for."""
    return any(budgets_of(settings)) or any(provider.quotas for provider in settings.providers.values())


class Spending:
    """`budgets`, `quotas` and `throttle` are there for good; `configure` changes what is in them."""

    def __init__(self, clock: Clock, shared: Shared = ALONE) -> None:
        self._clock = clock
        self.budgets = Budgets(clock, shared)
        self.quotas = Quotas(clock, shared)
        self.throttle = Throttle(shared)

    def configure(self, settings: Settings) -> None:
        """At the start and after a reload: whatever stays keeps what was counted."""
        self.budgets.configure(budgets_of(settings))
        self.quotas.configure(settings.providers.values())
        self.throttle.configure(settings, self._clock.monotonic())

    def allowances(self, target: Target, credential: Credential) -> tuple[Allowance, ...]:
        """What the attempts at a target with one key are held against; what lasts longest first, for it is that which a skip names."""
        return (
            *self.budgets.of_provider(target.provider),
            *self.quotas.of(target.provider, credential),
            *self.throttle.of(target, credential, self._clock.monotonic()),
        )

    @property
    def is_counted(self) -> bool:
        """Whether anything is configured that the ledger has sums for."""
        wall = self._clock.wall()
        return bool(self.budgets.states(wall) or self.quotas.accounts())

    async def seed(self, ledger: Sums) -> None:
        """Raise what is counted to what the ledger has. Raises LedgerUnavailable."""
        for budget in self.budgets.states(self._clock.wall()):
            spent = await ledger.spent_nusd(budget.scope, budget.name, round(budget.start * 1000))
            self.budgets.seed(budget.scope, budget.name, spent, start=budget.start)
        accounts = self.quotas.accounts()
        if accounts:
            self.quotas.begin_anew(await ledger.quota_resets())
        for account in accounts:
            start = account.now().start
            requests, tokens = await ledger.used(account.provider, account.key, round(start * 1000))
            account.seed(requests if account.quota.unit == "requests" else tokens, start)

    def listen(self) -> None:
        """Take over what other workers have done, and tell them what is free again. Several times a second, where there are others."""
        self.quotas.follow()
        self.throttle.refresh(self._clock.monotonic())

    def sweep(self) -> int:
        """Let go of what is held by requests that must long have ended. Returns how many, which is 0 unless something has gone wrong."""
        now = self._clock.monotonic()
        return self.budgets.sweep(now) + self.quotas.sweep(now)
