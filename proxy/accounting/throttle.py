"""How much may be asked in a minute: of a provider by us, and of us by a client.

A window is the last 60 seconds, in slots of a quarter of a second; a slot counts until all of it is older than a minute. So in no
60 seconds is more let go than the limit, and a place is free again at most a quarter of a second late. Tokens are held at what is
likely and settled at what they were. A request that is larger than the whole limit is let go when the window is empty: then it is the
provider's to refuse.

    provider  limits.rpm, limits.tpm       for each key, over all its models
    model     models.*.limits.rpm, tpm     for each key and model
    client    limits.rpm, tpm, in_flight   refused with 429 and told in `x-ratelimit-*` headers, as OpenAI's API does:
                                           https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers

Workers add up: each publishes what it has used of the minute, twice as often as a slot passes. Two may ask at one moment, so at most one
request for each worker is let go too many; one that takes another's seat takes what that used along, until the last of it is a minute old.

What providers say of their own limits is learned from the headers of their last answers (`routing/learned.py`) and only shown here: an
answer that leaves nothing cools its deployment down until the reset. Times are monotonic.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from math import ceil
from typing import Final, Protocol

from proxy.accounting.states import RateState
from proxy.config.settings import Settings
from proxy.core.allowance import Ask
from proxy.core.errors import RateLimitExceeded
from proxy.core.limits import NO_LIMITS, RateLimits, Unit
from proxy.core.ports import HeaderList
from proxy.core.shared import ALONE, LONE_CELL, LONE_WINDOW, Cell, Shared, WindowCell
from proxy.core.target import Credential, Target

WINDOW_S: Final = 60.0
SLOT_S: Final = 0.25
MAX_WINDOWS: Final = 10_000
MAX_SAMPLES: Final = 16
_STEPS: Final = 8
BUSY_RETRY_S: Final = 1.0

Key = tuple[str, str, str | None]  # provider, credential, model or None for all of them


class Learned(Protocol):
    """A limit that a provider told of in its last answer at one deployment. `attempts` and `tokens` count since the start."""

    @property
    def provider(self) -> str: ...
    @property
    def credential(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def unit(self) -> Unit: ...
    @property
    def limit(self) -> int: ...
    @property
    def remaining(self) -> int: ...
    @property
    def resets_s(self) -> float | None: ...
    @property
    def attempts(self) -> int: ...
    @property
    def tokens(self) -> int: ...


class _Slot:
    """What was let go in a quarter of a second."""

    __slots__ = ("amount", "counts_until", "gone")

    def __init__(self, counts_until: float) -> None:
        self.amount = 0
        self.counts_until = counts_until
        self.gone = False


class Window:
    """A limit of one unit in any minute. At most 241 slots of this worker's; what the others have used is asked of them."""

    __slots__ = ("_cell", "_slots", "_used", "limit", "unit")

    def __init__(self, unit: Unit, limit: int) -> None:
        self.unit = unit
        self.limit = limit
        self._slots: deque[_Slot] = deque()
        self._used = 0
        self._cell: WindowCell = LONE_WINDOW

    def share(self, cell: WindowCell, now: float) -> None:
        """Count with the other workers, and go on from what this one's predecessor used."""
        left = cell.left(now)
        if left is not None:
            slot = _Slot(left.last)
            slot.amount = left.used
            self._slots = deque(sorted([*self._slots, slot], key=lambda slot: slot.counts_until))
            self._used += left.used
        self._cell = cell
        self._publish()

    @property
    def shared(self) -> bool:
        return self._cell is not LONE_WINDOW

    def close(self) -> None:
        self._cell.close()
        self._cell = LONE_WINDOW

    def used(self, now: float) -> int:
        return self._own(now) + self._cell.others(now)

    def refresh(self, now: float) -> None:
        """Tell the others what is free again."""
        if self._slots:
            self._own(now)

    def _own(self, now: float) -> int:
        slots = self._slots
        if slots and slots[0].counts_until <= now:
            while slots and slots[0].counts_until <= now:
                slot = slots.popleft()
                slot.gone = True
                self._used -= slot.amount
            self._publish()
        return self._used

    def _publish(self) -> None:
        if self._cell is LONE_WINDOW:
            return
        slots = self._slots
        if slots:
            self._cell.publish(self._used, slots[0].counts_until, slots[-1].counts_until)
        else:
            self._cell.publish(0, 0.0, 0.0)

    def fits(self, now: float, amount: int) -> bool:
        used = self.used(now)
        return used + amount <= self.limit or (not used and amount > self.limit)

    def take(self, now: float, amount: int) -> _Slot:
        self._own(now)
        counts_until = (now // SLOT_S + 1) * SLOT_S + WINDOW_S
        slots = self._slots
        if not slots or slots[-1].counts_until < counts_until:
            slots.append(_Slot(counts_until))
        slot = slots[-1]
        slot.amount += amount
        self._used += amount
        self._publish()
        return slot

    def correct(self, slot: _Slot, by: int) -> None:
        """What was taken turned out to be so much more, or less."""
        if not slot.gone:
            slot.amount += by
            self._used += by
            self._publish()

    def free_in_s(self, now: float, amount: int) -> float:
        """Seconds until `amount` fits: 0 for now. Of the others only the ends are known: between these, theirs is held to end evenly."""
        self._own(now)
        ends = [(slot.counts_until, slot.amount) for slot in self._slots]
        shares = self._cell.shares(now)
        for used, first, last in shares:
            step, more = (last - first) / _STEPS, used - 1
            ends.append((first, 1))
            ends += [(first + step * n, more * n // _STEPS - more * (n - 1) // _STEPS) for n in range(1, _STEPS + 1)]
        if shares:
            ends.sort()
        left = sum([used for _, used in ends])
        wanted = max(0, self.limit - amount)
        for end, used in ends:
            if left <= wanted:
                break
            left -= used
            if left <= wanted:
                return end - now
        return 0.0

    def whole_in_s(self, now: float) -> float:
        """Seconds until nothing of it is used."""
        own = self._slots[-1].counts_until - now if self._own(now) else 0.0
        return max([own, *[share.last - now for share in self._cell.shares(now)]])


class RateAccount:
    """The limits of one key, or of one key at one model. An Allowance."""

    __slots__ = ("_requests", "_shared", "_tokens", "key", "limits")

    brief = True

    def __init__(self, key: Key, limits: RateLimits, shared: Shared = ALONE, now: float = 0.0) -> None:
        self.key = key
        self._shared = shared
        self._requests = Window("requests", 0)
        self._tokens = Window("tokens", 0)
        self.configure(limits, now)

    def configure(self, limits: RateLimits, now: float = 0.0) -> None:
        """`now` matters where several workers count."""
        self.limits = limits
        self._requests.limit = limits.rpm or 0
        self._tokens.limit = limits.tpm or 0
        if self._shared is ALONE:
            return
        provider, credential, model = self.key
        for window in (self._requests, self._tokens):
            if window.limit and not window.shared:
                whose = "client" if not provider else "key" if model is None else "model"
                window.share(self._shared.window(whose, window.unit, provider, credential, model or ""), now)
            elif not window.limit:
                window.close()

    def refresh(self, now: float) -> None:
        self._requests.refresh(now)
        self._tokens.refresh(now)

    def close(self) -> None:
        self._requests.close()
        self._tokens.close()

    def windows(self) -> list[Window]:
        """Those that limit anything."""
        return [window for window in (self._requests, self._tokens) if window.limit]

    def refuses(self, now: float, ask: Ask | None = None) -> str | None:
        for window, amount in self.amounts(None if ask is None else ask.expected_tokens):
            if not window.fits(now, amount):
                return f"rate limit: {window.limit:,} {window.unit} a minute, free in {_seconds(window.free_in_s(now, amount))}"
        return None

    def free_in_s(self, now: float, ask: Ask | None = None) -> float:
        amounts = self.amounts(None if ask is None else ask.expected_tokens)
        return max([0.0 if w.fits(now, amount) else w.free_in_s(now, amount) for w, amount in amounts], default=0.0)

    def take(self, now: float, ask: Ask) -> RateHeld:
        return self.hold(now, ask.expected_tokens)

    def hold(self, now: float, tokens: int) -> RateHeld:
        return RateHeld(self._requests, self._tokens, now, tokens)

    def amounts(self, tokens: int | None) -> list[tuple[Window, int]]:
        """What one request needs of each window. `tokens` None: any at all."""
        both = ((self._requests, 1), (self._tokens, 1 if tokens is None else tokens))
        return [(window, amount) for window, amount in both if window.limit]


class RateHeld:
    """What was taken of a minute's requests and tokens."""

    __slots__ = ("_done", "_request", "_requests", "_slot", "_taken", "_tokens")

    def __init__(self, requests: Window, tokens: Window, now: float, expected_tokens: int) -> None:
        self._done = False
        self._requests = requests
        self._tokens = tokens
        self._taken = expected_tokens
        self._request = requests.take(now, 1)
        self._slot = tokens.take(now, expected_tokens)

    def settle(self, requests: int, tokens: int, cost_nusd: int | None) -> None:
        if not self._done:
            self._done = True
            self._requests.correct(self._request, requests - 1)
            self._tokens.correct(self._slot, tokens - self._taken)

    def release(self) -> None:
        self.settle(0, 0, 0)


class ClientAccount:
    """What one client may ask in a minute, and at one time."""

    __slots__ = ("_cell", "_rate", "_shared", "in_flight", "name")

    def __init__(self, name: str, limits: RateLimits, shared: Shared = ALONE, now: float = 0.0) -> None:
        self.name = name
        self.in_flight = 0
        self._shared = shared
        self._cell: Cell = LONE_CELL
        self._rate = RateAccount(("", name, None), limits, shared, now)
        self.configure(limits, now)

    def configure(self, limits: RateLimits, now: float = 0.0) -> None:
        self._rate.configure(limits, now)
        if limits.in_flight is None:
            self._cell.close()
            self._cell = LONE_CELL
        elif self._cell is LONE_CELL:
            self._cell = self._shared.cell("client", self.name)
            self._cell.publish(self.in_flight)

    def refresh(self, now: float) -> None:
        self._rate.refresh(now)

    def close(self) -> None:
        self._rate.close()
        self._cell.close()
        self._cell = LONE_CELL

    def enter(self, now: float, tokens: int) -> Seat:
        """For a request of so many tokens, as it seems. Raises RateLimitExceeded. The seat must be left."""
        limits = self._rate.limits
        if limits.in_flight is not None and self.in_flight + self._cell.others() >= limits.in_flight:
            message = f"Client {self.name} may have {limits.in_flight} requests running at a time (`limits.in_flight`)."
            raise RateLimitExceeded(message, retry_after_s=BUSY_RETRY_S)
        for window, amount in self._rate.amounts(tokens):
            if not window.fits(now, amount):
                key = "rpm" if window.unit == "requests" else "tpm"
                message = f"Client {self.name} may ask {window.limit:,} {window.unit} in a minute (`limits.{key}`)."
                raise RateLimitExceeded(message, retry_after_s=window.free_in_s(now, amount))
        self.count(1)
        return Seat(self, self._rate.hold(now, tokens))

    def count(self, more: int) -> None:
        """So many more are running, or fewer."""
        self.in_flight += more
        self._cell.publish(self.in_flight)

    def headers(self, now: float) -> HeaderList:
        """How it stands, as OpenAI's API says it. `reset` is when the limit is whole again."""
        found: list[tuple[bytes, bytes]] = []
        for window in self._rate.windows():
            unit = window.unit.encode()
            found += [
                (b"x-ratelimit-limit-" + unit, b"%d" % window.limit),
                (b"x-ratelimit-remaining-" + unit, b"%d" % max(0, window.limit - window.used(now))),
                (b"x-ratelimit-reset-" + unit, b"%ds" % ceil(window.whole_in_s(now))),
            ]
        return found


class Seat:
    """A client's request that is under way. `leave` counts once."""

    __slots__ = ("_account", "_held")

    def __init__(self, account: ClientAccount, held: RateHeld) -> None:
        self._account: ClientAccount | None = account
        self._held = held

    def leave(self, tokens: int) -> None:
        """It is over and took so many tokens."""
        if self._account is not None:
            self._account.count(-1)
            self._account = None
            self._held.settle(1, tokens, None)


class Throttle:
    """Every window. `clients`: those that have limits. `learned` tells what providers said of theirs; the composition root sets it."""

    def __init__(self, shared: Shared = ALONE) -> None:
        self._shared = shared
        self.clients: dict[str, ClientAccount] = {}
        self.learned: Callable[[float], Iterable[Learned]] = lambda now: ()
        self._accounts: dict[Key, RateAccount] = {}
        self._before: dict[Key, RateAccount] = {}  # of the last configuration, until they are asked for in this one
        self._samples: dict[Key, deque[tuple[float, int, int]]] = {}

    def configure(self, settings: Settings, now: float) -> None:
        """At the start and after a reload: whoever stays keeps what was counted."""
        before, self.clients = self.clients, {}
        for client in settings.clients.values():
            if client.limits != NO_LIMITS:
                account = before.pop(client.name, None) or ClientAccount(client.name, client.limits, self._shared, now)
                account.configure(client.limits, now)
                self.clients[client.name] = account
        for client_gone in before.values():
            client_gone.close()
        for gone in self._before.values():
            gone.close()
        self._before, self._accounts = self._accounts, {}
        for target in [target for chain in settings.chains.values() for target in chain.targets]:
            for credential in target.provider.credentials:
                self.of(target, credential, now)

    def of(self, target: Target, credential: Credential, now: float) -> tuple[RateAccount, ...]:
        """What the attempts at a target with one key are held against."""
        provider = target.provider
        if not provider.enabled:
            return ()
        both = ((None, provider.limits), (target.upstream_model, target.limits))
        return tuple(
            [
                self._account((provider.name, credential.id, model), limits, now)
                for model, limits in both
                if limits.rpm is not None or limits.tpm is not None
            ]
        )

    def _account(self, key: Key, limits: RateLimits, now: float) -> RateAccount:
        account = self._accounts.get(key)
        if account is None:
            if len(self._accounts) >= MAX_WINDOWS:
                self._drop_idle(now)
            kept = self._before.pop(key, None)
            account = self._accounts[key] = RateAccount(key, limits, self._shared, now) if kept is None else kept
        account.configure(limits, now)
        return account

    def _drop_idle(self, now: float) -> None:
        """Models that were not asked for a minute; those of a key as a whole are few and shared, and stay."""
        kept: dict[Key, RateAccount] = {}
        for key, account in self._accounts.items():
            if key[2] is None or any(window.used(now) for window in account.windows()):
                kept[key] = account
            else:
                account.close()
        for account in self._before.values():
            account.close()
        self._before.clear()
        self._accounts = kept

    def refresh(self, now: float) -> None:
        """Tell the other workers what is free again."""
        for account in self._accounts.values():
            account.refresh(now)
        for client in self.clients.values():
            client.refresh(now)

    def states(self, now: float) -> list[RateState]:
        """Those of the file first. Call it every few seconds: present rates of learned limits come of two looks."""
        states = [state for account in self._accounts.values() for state in _file_states(account, now)]
        learned = list(self.learned(now))
        rates = self._rates(learned, now)
        for one in learned:
            attempts, tokens = rates[one.provider, one.credential, one.model]
            states.append(
                RateState(
                    one.provider, one.credential, one.model, one.unit, one.limit,
                    used=max(0, one.limit - one.remaining),
                    remaining=one.remaining,
                    resets_s=one.resets_s,
                    source="learned",
                    per_minute=attempts if one.unit == "requests" else tokens,
                )
            )  # fmt: skip
        return states

    def _rates(self, learned: list[Learned], now: float) -> dict[Key, tuple[float | None, float | None]]:
        """Attempts and tokens a minute of each deployment, over the last minute or as much of it as was looked at."""
        totals: dict[Key, tuple[int, int]] = {(o.provider, o.credential, o.model): (o.attempts, o.tokens) for o in learned}
        self._samples = {key: self._samples.get(key) or deque(maxlen=MAX_SAMPLES) for key in totals}
        found: dict[Key, tuple[float | None, float | None]] = {}
        for key, (attempts, tokens) in totals.items():
            samples = self._samples[key]
            if not samples or now - samples[-1][0] >= WINDOW_S / (MAX_SAMPLES - 2):
                samples.append((now, attempts, tokens))
            while len(samples) > 2 and samples[1][0] <= now - WINDOW_S:
                samples.popleft()
            then, attempts_then, tokens_then = samples[0]
            if now - then < 1.0:
                found[key] = None, None
            else:
                found[key] = (attempts - attempts_then) * 60 / (now - then), (tokens - tokens_then) * 60 / (now - then)
        return found


def _file_states(account: RateAccount, now: float) -> list[RateState]:
    provider, credential, model = account.key
    states = []
    for window in account.windows():
        used = window.used(now)
        remaining = max(0, window.limit - used)
        states.append(
            RateState(
                provider,
                credential,
                model,
                window.unit,
                window.limit,
                used,
                remaining,
                window.whole_in_s(now),
                "file",
                float(used),
            )
        )
    return states


def _seconds(wait_s: float) -> str:
    return f"{ceil(wait_s)} s"
