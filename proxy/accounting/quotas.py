"""What a provider gives in a period, and what is left of it: the tokens or requests of a free tier, for a provider or each of its keys.

A quota that is used up sets the deployments aside that it is for, without a word to their circuits, and they come back by themselves
when its next period begins (`periods.py`). It is held and settled like a budget: an attempt may go while what is used plus what is
held is below the limit, and holds the most tokens it can take. So none is sent past the limit, and at most one crosses it.

Counted are the attempts that were sent, whatever came of them, and the tokens that the ledger has for them, prompt and answer. The
ledger can always make the same sums, which is what `seed` raises an account to after a start. Workers add up, as they do for budgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, inf
from typing import Final

from proxy.accounting.journal import Journal
from proxy.accounting.periods import Account, Hold, Tally, rfc3339
from proxy.accounting.records import QuotaReset
from proxy.accounting.states import QuotaState, begun_ms, quotas_of
from proxy.core.allowance import Ask
from proxy.core.errors import NotFound
from proxy.core.limits import Quota
from proxy.core.ports import Clock
from proxy.core.redact import one_line
from proxy.core.shared import ALONE, Shared
from proxy.core.target import Credential, Provider

BUSY_S: Final = 1.0
THIS: Final = {"day": " today", "month": " this month", "once": ""}

Key = tuple[str, str | None, str, str, str, int]  # provider, credential, unit, and when it begins anew


class QuotaAccount:
    """One quota and what is used of it. An Allowance."""

    __slots__ = ("_account", "_clock", "_requests", "begun_ms", "key", "limit", "provider", "quota")

    brief = False  # what is used up does not come back in a moment

    def __init__(self, provider: str, key: str | None, quota: Quota, clock: Clock, shared: Shared = ALONE) -> None:
        self.provider = provider
        self.key = key
        self.quota = quota
        self.limit = quota.limit
        self._clock = clock
        self._requests = quota.unit == "requests"
        name = "quota", provider, key or "", quota.unit, quota.per, quota.time_zone, str(quota.hour)
        self._account = Account(quota.per, clock.wall(), time_zone=quota.time_zone, hour=quota.hour, cell=shared.period(*name))
        self.begun_ms = self._account.begun_ms  # when the operator last let it begin anew

    def now(self) -> Tally:
        return self._account.at(self._clock.wall())

    def begin_anew(self, begun_ms: int) -> bool:
        """The operator says that it is whole again since then. False if that is known, or if another period has begun meanwhile."""
        wall = begun_ms / 1000
        if begun_ms <= self.begun_ms:
            return False
        self.begun_ms = begun_ms
        if wall < self.now().start:
            return False
        self._account.begin_anew(wall)
        return True

    def seed(self, used: int, start: float) -> bool:
        return self._account.seed(used, start=start, wall=self._clock.wall())

    def state(self, wall: float) -> QuotaState:
        tally, quota = self._account.at(wall), self.quota
        used, held = tally.taken()
        return QuotaState(
            self.provider, self.key, quota.unit, self.limit, used, held,
            quota.per, quota.time_zone, quota.hour, tally.start, tally.end,
        )  # fmt: skip

    def sweep(self, now: float) -> int:
        return self._account.sweep(now)

    @property
    def outstanding(self) -> int:
        return self._account.outstanding

    def follow(self) -> None:
        """Begin anew where another worker was told to."""
        begun = self._account.follow(self._clock.wall())
        if begun is not None:
            self.begun_ms = max(self.begun_ms, round(begun * 1000))

    def close(self) -> None:
        self._account.close()

    # -- Allowance

    def refuses(self, now: float, ask: Ask | None = None) -> str | None:
        tally = self._account.at(self._clock.wall())
        used, held = tally.taken()
        if used + held < self.limit:
            return None
        if used < self.limit:
            return "quota taken up by requests in flight"
        resets = f"resets {rfc3339(tally.end)}" if tally.end is not None else "does not reset"
        return f"quota spent: {used:,} of {self.limit:,} {self.quota.unit}{THIS[self.quota.per]}, {resets}"

    def free_in_s(self, now: float, ask: Ask | None = None) -> float:
        wall = self._clock.wall()
        tally = self._account.at(wall)
        used, held = tally.taken()
        if used + held < self.limit:
            return 0.0
        if used < self.limit:
            return BUSY_S
        return inf if tally.end is None else tally.end - wall

    def take(self, now: float, ask: Ask) -> _Held:
        return _Held(self.now().take(1 if self._requests else ask.tokens, ask.until), self._requests)


class _Held:
    """What an attempt holds of a quota."""

    __slots__ = ("_hold", "_requests")

    def __init__(self, hold: Hold, requests: bool) -> None:
        self._hold = hold
        self._requests = requests

    def settle(self, requests: int, tokens: int, cost_nusd: int | None) -> None:
        self._hold.settle(requests if self._requests else tokens)

    def release(self) -> None:
        self._hold.release()


class Quotas:
    """Every quota's account. Wall times are seconds since 1970."""

    def __init__(self, clock: Clock, shared: Shared = ALONE) -> None:
        self._clock = clock
        self._shared = shared
        self._accounts: dict[Key, QuotaAccount] = {}

    def configure(self, providers: Iterable[Provider]) -> None:
        """At the start and after a reload. An account keeps what it has counted while unit, period and whose it is stay the same."""
        before = self._accounts
        self._accounts = {}
        for provider in [provider for provider in providers if provider.enabled]:
            for key, quota in quotas_of(provider):
                name = _key(provider.name, key, quota)
                if name in self._accounts:  # the same twice: the smaller one decides
                    self._accounts[name].limit = min(self._accounts[name].limit, quota.limit)
                    continue
                account = before.pop(name, None) or QuotaAccount(provider.name, key, quota, self._clock, self._shared)
                account.quota = quota
                account.limit = quota.limit
                self._accounts[name] = account
        for account in before.values():
            account.close()

    def of(self, provider: Provider, credential: Credential) -> tuple[QuotaAccount, ...]:
        """What the attempts with one key are held against."""
        found = [
            self._accounts.get(_key(provider.name, credential.id if quota.each_key else None, quota)) for quota in provider.quotas
        ]
        return tuple(dict.fromkeys([account for account in found if account is not None]))

    def states(self, wall: float) -> list[QuotaState]:
        """In the order of the configuration."""
        return [account.state(wall) for account in self._accounts.values()]

    def accounts(self) -> list[QuotaAccount]:
        """What the ledger's sums are wanted for."""
        return list(self._accounts.values())

    def follow(self) -> None:
        """Begin anew where another worker was told to."""
        for account in self._accounts.values():
            account.follow()

    def begin_anew(self, resets: Mapping[tuple[str, str | None], int]) -> None:
        """What the ledger has of the operator's resets, milliseconds since 1970 by (provider, credential)."""
        for account in self._accounts.values():
            if since_ms := begun_ms(resets, account.provider, account.key):
                account.begin_anew(since_ms)

    def sweep(self, now: float) -> int:
        """Let go of holds whose time is over, by the monotonic clock. Returns how many, which is 0 unless something has gone wrong."""
        return sum([account.sweep(now) for account in self._accounts.values()])

    @property
    def outstanding(self) -> int:
        return sum([account.outstanding for account in self._accounts.values()])


def reset_quota(quotas: Quotas, journal: Journal, provider: str, key: str | None = None, *, wall: float) -> list[QuotaState]:
    """The operator says that a provider's quotas are whole again: at once, and in the ledger for the next start.

    `key`: only what this credential has for itself. Returns their states. Raises NotFound if there is nothing of the kind, and
    JournalError if it cannot be written down, with nothing changed.
    """
    accounts = [a for a in quotas.accounts() if a.provider == provider and (key is None or a.key == key)]
    if not accounts:
        own = "" if key is None else f" of its own for the key `{one_line(key, 64)}`"
        raise NotFound(f"Provider `{one_line(provider, 64)}` has no quota{own}: `GET /api/v1/quotas` lists them.")
    time_ms = ceil(wall * 1000)
    journal.append(QuotaReset(time_ms, provider, key))
    for account in accounts:
        account.begin_anew(time_ms)
    return [account.state(wall) for account in accounts]


def _key(provider: str, credential: str | None, quota: Quota) -> Key:
    return provider, credential, quota.unit, quota.per, quota.time_zone, quota.hour
