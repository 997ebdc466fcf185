"""Whether a client may still spend: reserve before a request, settle after it.

    reserve(bound) ──▶ Hold ──▶ settle(cost): the hold becomes what it really cost
                        └─────▶ release():    nothing was consumed, the hold is gone

A hard budget admits a request while what is spent plus what is held is below the limit, and each admitted request holds its
upper bound. So however many arrive at once, one at most crosses the limit, and the sum ends at most that one's bound above it. A
soft budget admits everything and says when it is over. All runs on one event loop and nothing here awaits: no locks.

Periods are UTC: a day from midnight, a month from its first, `once` for ever. What is reserved in a period is settled in it. The
sums are a cache of the ledger: `seed` raises an account to what the ledger has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Protocol

from proxy.accounting.pricing import Rates
from proxy.accounting.tokens import is_media
from proxy.core.chat import ChatRequest
from proxy.core.errors import BudgetExceeded
from proxy.core.money import nusd_to_usd
from proxy.core.target import Target

Per = Literal["day", "month", "once"]

DEFAULT_OUTPUT_TOKENS: Final = 4_096  # held for an answer whose length the request does not limit, or the model's limit if less
MEDIUM_BOUND_TOKENS: Final = 16_384  # more than any provider charges for one image; of other media it is a page or ten minutes
BYTES_PER_MEDIUM_TOKEN: Final = 64  # and for inline media this many bytes of base64 are held to be a token besides
BUSY_RETRY_S: Final = 1.0


class Budgeted(Protocol):
    """What is read of a client's settings. `budget_nusd` None: no budget."""

    @property
    def name(self) -> str: ...
    @property
    def budget_nusd(self) -> int | None: ...
    @property
    def budget_per(self) -> Per | None: ...
    @property
    def budget_hard(self) -> bool: ...


def period(per: Per | None, wall: float) -> tuple[float, float | None]:
    """The start and the end, in seconds since 1970, of the period that `wall` is in. `once` starts with 1970 and has no end."""
    now = datetime.fromtimestamp(wall, UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    match per:
        case "day":
            return midnight.timestamp(), (midnight + timedelta(days=1)).timestamp()
        case "month":
            first = midnight.replace(day=1)
            return first.timestamp(), (first + timedelta(days=32)).replace(day=1).timestamp()
        case _:
            return 0.0, None


@dataclass(slots=True)
class _Account:
    """One client in one period."""

    per: Per | None
    start: float
    end: float | None
    spent_nusd: int = 0
    held_nusd: int = 0
    outstanding: int = 0


class Hold:
    """A place that a request has taken in a budget. Exactly one of `settle` and `release` counts; whatever follows is ignored.

    `over`: the budget is soft and already spent.
    """

    __slots__ = ("_account", "bound_nusd", "over")

    def __init__(self, account: _Account | None, bound_nusd: int, *, over: bool = False) -> None:
        self._account = account
        self.bound_nusd = bound_nusd
        self.over = over

    def settle(self, cost_nusd: int | None) -> None:
        """The request is over and cost this. None: nobody knows, and its bound is charged."""
        account = self._account
        if account is not None:
            account.spent_nusd += self.bound_nusd if cost_nusd is None else cost_nusd
            self.release()

    def release(self) -> None:
        account = self._account
        if account is not None:
            self._account = None
            account.held_nusd -= self.bound_nusd
            account.outstanding -= 1


class Budgets:
    """Every client's account. Wall times are seconds since 1970."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    def reserve(self, client: Budgeted, bound_nusd: int | None, wall: float) -> Hold:
        """Raises BudgetExceeded. A request that nobody can price (`bound_nusd` None) has no place in a hard budget."""
        limit = client.budget_nusd
        if limit is None:
            return Hold(None, bound_nusd or 0)
        account = self._account(client, wall)
        over = account.spent_nusd + account.held_nusd >= limit
        if client.budget_hard:
            if over:
                raise _exceeded(client.name, limit, account, wall)
            if bound_nusd is None:
                raise BudgetExceeded(
                    f"client {client.name} has a hard budget, and a model that may answer has no known price: "
                    "give it one under prices: in providers.yaml, or make the budget soft"
                )
        bound = bound_nusd or 0
        account.held_nusd += bound
        account.outstanding += 1
        return Hold(account, bound, over=over)

    def seed(self, client: Budgeted, spent_nusd: int, wall: float) -> bool:
        """Raise what is spent in this period to what the ledger has. False if it was that much already.

        Never lowers and never adds, so it may come late, when requests of this life are already in both, and more than once.
        """
        account = self._account(client, wall)
        if spent_nusd <= account.spent_nusd:
            return False
        account.spent_nusd = spent_nusd
        return True

    def state(self, client: Budgeted, wall: float) -> tuple[int, int]:
        """What is spent in this period, and what is held besides, in nano-dollars."""
        account = self._account(client, wall)
        return account.spent_nusd, account.held_nusd

    @property
    def outstanding(self) -> int:
        """How many holds of the current periods are neither settled nor released."""
        return sum(account.outstanding for account in self._accounts.values())

    def keep(self, clients: Collection[str]) -> None:
        """After a reload: forget clients that are gone. The others keep their sums, whatever their limit is now."""
        for name in self._accounts.keys() - set(clients):
            del self._accounts[name]

    def _account(self, client: Budgeted, wall: float) -> _Account:
        account = self._accounts.get(client.name)
        if account is None or account.per != client.budget_per or (account.end is not None and wall >= account.end):
            start, end = period(client.budget_per, wall)
            account = self._accounts[client.name] = _Account(client.budget_per, start, end)
        return account


def _exceeded(name: str, limit: int, account: _Account, wall: float) -> BudgetExceeded:
    spent = f"${nusd_to_usd(account.spent_nusd)} of ${nusd_to_usd(limit)} spent"
    if account.spent_nusd < limit:
        message = (
            f"the budget of client {name} is taken up by requests in flight: {spent}, ${nusd_to_usd(account.held_nusd)} held"
        )
        return BudgetExceeded(message, retry_after_s=BUSY_RETRY_S)
    if account.end is None:
        return BudgetExceeded(f"the budget of client {name} is used up: {spent}, and it does not reset")
    resets = datetime.fromtimestamp(account.end, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    message = f"the budget of client {name} is used up: {spent} this {account.per}; it resets at {resets}"
    return BudgetExceeded(message, retry_after_s=account.end - wall)


def request_bound_nusd(request: ChatRequest, targets: Iterable[tuple[Target, Rates | None]]) -> int | None:
    """The most that a request can cost at any of the targets it may be sent to. None if one of them has no price.

    The prompt is held to be one token a byte, which no vocabulary exceeds, with `MEDIUM_BOUND_TOKENS` for each medium in place of
    its base64; the answer is as long as the request allows, times its choices. Embeddings have none.
    """
    input_tokens = _input_bound(request)
    highest = 0
    for target, rates in targets:
        if target.disabled is not None or not target.provider.enabled:
            continue
        if rates is None:
            return None
        output_tokens = request.max_output_tokens
        if request.kind == "embeddings":
            output_tokens = 0
        elif output_tokens is None:
            output_tokens = min(target.max_output or DEFAULT_OUTPUT_TOKENS, DEFAULT_OUTPUT_TOKENS)
        highest = max(highest, rates.bound_nusd(input_tokens, output_tokens * request.choices))
    return highest


def _input_bound(request: ChatRequest) -> int:
    """The body is at least as many bytes as its messages and tools are once read: JSON's escapes only ever add."""
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
