"""What may still be spent: reserve before a request, settle after it.

    reserve(bound) ──▶ Reserved ──▶ settle(cost): the hold becomes what it really cost
                          └───────▶ release():    nothing was consumed, the hold is gone

A hard budget admits a request while what is spent plus what is held is below the limit, and each admitted request holds its
upper bound. So however many arrive at once, one at most crosses the limit, and the sum ends at most that one's bound above it. A
soft budget admits everything. All runs on one event loop and nothing here awaits: no locks.

A request is held by every budget that it falls under, or by none: the total, its client's, its department's, its agent's. A provider's
is held by the single attempt, with what that may cost there, and one that is spent sets the provider aside (`core/allowance.py`).

Periods are UTC: a day from midnight, a month from its first, `once` for ever. What is reserved in a period is settled in it. The
sums are a cache of the ledger: `seed` raises an account to what the ledger has.

Workers add up: each asks what all have spent and hold, and publishes its own. Two may ask at one moment, before either has published,
so the sum ends at most one request's bound for each worker above the limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Any, Final

from proxy.accounting.periods import Account, Hold, Tally, rfc3339
from proxy.accounting.pricing import Rates
from proxy.accounting.states import BudgetState, Scope
from proxy.accounting.tokens import is_media
from proxy.accounting.usage import estimate_input
from proxy.core.allowance import Ask
from proxy.core.chat import ChatRequest
from proxy.core.errors import BudgetExceeded
from proxy.core.limits import Budget
from proxy.core.money import nusd_to_usd
from proxy.core.ports import Clock
from proxy.core.shared import ALONE, Shared
from proxy.core.target import Provider, Target

DEFAULT_OUTPUT_TOKENS: Final = 4_096  # held for an answer whose length the request does not limit, or the model's limit if less
EXPECTED_OUTPUT_TOKENS: Final = 1_024  # what is expected then
MEDIUM_BOUND_TOKENS: Final = 16_384  # more than any provider charges for one image; of other media it is a page or ten minutes
BYTES_PER_MEDIUM_TOKEN: Final = 64  # and for inline media this many bytes of base64 are held to be a token besides
BUSY_RETRY_S: Final = 1.0
NO_PRICE: Final = (
    "has a hard budget, and a model that may answer has no known price: "
    "give it one under prices: in providers.yaml, or make the budget soft."
)
THIS: Final = {"day": " today", "month": " this month", "once": ""}

Key = tuple[Scope, str | None]


class BudgetAccount:
    """One budget and what is spent of it. For a provider it is an Allowance."""

    __slots__ = ("_account", "_clock", "budget", "key")

    brief = False  # what is spent does not come back in a moment

    def __init__(self, key: Key, budget: Budget, clock: Clock, shared: Shared = ALONE) -> None:
        self.key = key
        self.budget = budget
        self._clock = clock
        scope, name = key
        self._account = Account(budget.per, clock.wall(), cell=shared.period("budget", scope, name or "", budget.per))

    def now(self) -> Tally:
        return self._account.at(self._clock.wall())

    @property
    def whose(self) -> str:
        scope, name = self.key
        return "The total budget" if name is None else f"The budget of {scope} {name}"

    def fits(self, budget: Budget) -> bool:
        """Whether what was counted can stand for another budget: its period is the same."""
        return self._account.per == budget.per

    def refusal(self, *, priced: bool) -> BudgetExceeded | None:
        """Why a request may not be reserved now, None if it may."""
        if not self.budget.hard:
            return None
        limit, tally = self.budget.limit_nusd, self.now()
        used, held = tally.taken()
        if used + held >= limit:
            return self._exceeded(tally, used, held)
        if priced:
            return None
        scope, name = self.key
        return BudgetExceeded(f"{'Everything' if name is None else f'{scope.capitalize()} {name}'} {NO_PRICE}")

    def _exceeded(self, tally: Tally, used: int, held: int) -> BudgetExceeded:
        limit = self.budget.limit_nusd
        spent = f"${nusd_to_usd(used)} of ${nusd_to_usd(limit)} spent"
        if used < limit:
            message = f"{self.whose} is taken up by requests in flight: {spent}, ${nusd_to_usd(held)} held."
            return BudgetExceeded(message, retry_after_s=BUSY_RETRY_S)
        if tally.end is None:
            return BudgetExceeded(f"{self.whose} is used up: {spent}, and it does not reset.")
        message = f"{self.whose} is used up: {spent}{THIS[self.budget.per]}; it resets at {rfc3339(tally.end)}."
        return BudgetExceeded(message, retry_after_s=tally.end - self._clock.wall())

    def hold(self, bound_nusd: int, until: float) -> Hold:
        return self.now().take(bound_nusd, until)

    def state(self, wall: float) -> BudgetState:
        tally, budget, (scope, name) = self._account.at(wall), self.budget, self.key
        used, held = tally.taken()
        return BudgetState(scope, name, budget.limit_nusd, used, held, budget.per, budget.hard, tally.start, tally.end)

    def seed(self, spent_nusd: int, start: float) -> bool:
        return self._account.seed(spent_nusd, start=start, wall=self._clock.wall())

    def sweep(self, now: float) -> int:
        return self._account.sweep(now)

    @property
    def outstanding(self) -> int:
        return self._account.outstanding

    def close(self) -> None:
        self._account.close()

    # -- Allowance

    def refuses(self, now: float, ask: Ask | None = None) -> str | None:
        refusal = self.refusal(priced=ask is None or ask.cost_nusd is not None)
        if refusal is None:
            return None
        tally, limit = self.now(), self.budget.limit_nusd
        used, held = tally.taken()
        if used + held < limit:
            return "no known price, which its hard budget needs"
        if used < limit:
            return "budget taken up by requests in flight"
        resets = f", resets {rfc3339(tally.end)}" if tally.end is not None else ""
        return f"budget spent: ${nusd_to_usd(used)} of ${nusd_to_usd(limit)}{THIS[self.budget.per]}{resets}"

    def free_in_s(self, now: float, ask: Ask | None = None) -> float:
        refusal = self.refusal(priced=ask is None or ask.cost_nusd is not None)
        if refusal is None:
            return 0.0
        return inf if refusal.retry_after_s is None else refusal.retry_after_s

    def take(self, now: float, ask: Ask) -> _Held:
        return _Held(self.hold(ask.cost_nusd or 0, ask.until))


class _Held:
    """What an attempt holds of a provider's budget."""

    __slots__ = ("_hold",)

    def __init__(self, hold: Hold) -> None:
        self._hold = hold

    def settle(self, requests: int, tokens: int, cost_nusd: int | None) -> None:
        self._hold.settle(cost_nusd)

    def release(self) -> None:
        self._hold.release()


class Reserved:
    """A place that a request has taken in all the budgets that it falls under. Exactly one of `settle` and `release` counts."""

    __slots__ = ("_holds", "bound_nusd")

    def __init__(self, holds: list[Hold], bound_nusd: int) -> None:
        self._holds = holds
        self.bound_nusd = bound_nusd

    def settle(self, cost_nusd: int | None) -> None:
        """The request is over and cost this. None: nobody knows, and its bound is charged."""
        for hold in self._holds:
            hold.settle(cost_nusd)

    def release(self) -> None:
        for hold in self._holds:
            hold.release()


class Budgets:
    """Every budget's account. `active`: there are such as a request may fall under, those of providers apart."""

    def __init__(self, clock: Clock, shared: Shared = ALONE) -> None:
        self._clock = clock
        self._shared = shared
        self._accounts: dict[Key, BudgetAccount] = {}
        self.active = False

    def configure(self, stated: Iterable[tuple[Scope, str | None, Budget]]) -> None:
        """At the start and after a reload. An account keeps its sums while its budget has the same period, whatever the limit."""
        before = self._accounts
        self._accounts = {}
        for scope, name, budget in stated:
            account = before.get((scope, name))
            if account is None or not account.fits(budget):
                account = BudgetAccount((scope, name), budget, self._clock, self._shared)
            else:
                del before[scope, name]
            account.budget = budget
            self._accounts[scope, name] = account
        for account in before.values():
            account.close()
        self.active = any(scope not in ("provider", "judge") for scope, _ in self._accounts)

    def of(self, client: str | None, department: str | None, agent: str | None) -> list[BudgetAccount]:
        """The accounts that a request falls under; what is nearest to the caller first, for it is that which a refusal names."""
        keys: tuple[Key, ...] = (("client", client), ("agent", agent), ("department", department), ("total", None))
        accounts = self._accounts
        return [accounts[key] for key in keys if key in accounts]

    def of_provider(self, provider: Provider) -> tuple[BudgetAccount, ...]:
        """What the attempts at a provider are held against: one or none."""
        account = self._accounts.get(("provider", provider.name))
        return () if account is None else (account,)

    def of_judge(self, chain: str) -> BudgetAccount | None:
        """What a chain's judge may cost."""
        return self._accounts.get(("judge", chain))

    def reserve(self, accounts: list[BudgetAccount], bound_nusd: int | None, until: float) -> Reserved:
        """Raises BudgetExceeded, with nothing held. A request that nobody can price (`bound_nusd` None) has no place in a hard budget.

        `until`, monotonic: who has not settled by then has lost the place.
        """
        for account in accounts:
            refusal = account.refusal(priced=bound_nusd is not None)
            if refusal is not None:
                raise refusal
        bound = bound_nusd or 0
        return Reserved([account.hold(bound, until) for account in accounts], bound)

    def seed(self, scope: Scope, name: str | None, spent_nusd: int, *, start: float) -> bool:
        """Raise what is spent since `start` to what the ledger has. False if there is no such budget, its period is another, or it was
        that much already."""
        account = self._accounts.get((scope, name))
        return account is not None and account.seed(spent_nusd, start)

    def states(self, wall: float) -> list[BudgetState]:
        """In the order of the configuration: the total, providers, clients, departments, agents, judges."""
        return [account.state(wall) for account in self._accounts.values()]

    def sweep(self, now: float) -> int:
        """Let go of holds whose time is over. Returns how many there were, which is 0 unless something has gone wrong."""
        return sum([account.sweep(now) for account in self._accounts.values()])

    @property
    def outstanding(self) -> int:
        """How many holds are neither settled nor released."""
        return sum([account.outstanding for account in self._accounts.values()])


def request_bound_nusd(request: ChatRequest, targets: Iterable[tuple[Target, Rates | None]]) -> int | None:
    """The most that a request can cost at any of the targets it may be sent to. None if one of them has no price.

    The prompt is held to be one token a byte, which no vocabulary exceeds, with `MEDIUM_BOUND_TOKENS` for each medium in place of
    its base64; the answer is as long as the request allows, times its choices. Embeddings have none.
    """
    input_tokens = input_bound(request)
    highest = 0
    for target, rates in targets:
        if target.disabled is not None or not target.provider.enabled:
            continue
        if rates is None:
            return None
        highest = max(highest, rates.bound_nusd(input_tokens, output_bound(request, target)))
    return highest


def output_bound(request: ChatRequest, target: Target) -> int:
    """The tokens of the longest answer."""
    if request.kind == "embeddings":
        return 0
    output_tokens = request.max_output_tokens
    if output_tokens is None:
        output_tokens = min(target.max_output or DEFAULT_OUTPUT_TOKENS, DEFAULT_OUTPUT_TOKENS)
    return output_tokens * request.choices


def ask_of(request: ChatRequest, target: Target, rates: Rates | None, until: float) -> Ask:
    """The most that one attempt at a target can take, and what it will probably take."""
    input_tokens, output_tokens = input_bound(request), output_bound(request, target)
    return Ask(
        input_tokens + output_tokens,
        min(expected_tokens(request), input_tokens + output_tokens),
        None if rates is None else rates.bound_nusd(input_tokens, output_tokens),
        until,
    )


def expected_tokens(request: ChatRequest) -> int:
    """What a request will probably take, wherever it goes."""
    limit = request.max_output_tokens
    output_tokens = 0 if request.kind == "embeddings" else request.choices * (EXPECTED_OUTPUT_TOKENS if limit is None else limit)
    return min(estimate_input(request.body_bytes), input_bound(request)) + output_tokens


def input_bound(request: ChatRequest) -> int:
    """The most tokens that a prompt can be. The body is at least as many bytes as its messages and tools are once read: JSON's
    escapes only ever add."""
    inline_bytes = media = 0
    messages = request.body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and is_media(part):
                media += 1
                inline_bytes += _inline_bytes(part)
    media_tokens = media * MEDIUM_BOUND_TOKENS + inline_bytes // BYTES_PER_MEDIUM_TOKEN
    return max(request.body_bytes - inline_bytes, 0) + media_tokens


def _inline_bytes(part: Mapping[str, Any]) -> int:
    """The base64 of a part: an image's data URL, an audio clip's or a file's data."""
    kind = part.get("type")
    media = part.get(kind) if isinstance(kind, str) else None
    if isinstance(media, str):
        return len(media) if media.startswith("data:") else 0
    if not isinstance(media, dict):
        return 0
    return sum(
        len(value)
        for key in ("url", "data", "file_data")
        if isinstance(value := media.get(key), str) and (key != "url" or value.startswith("data:"))
    )
