"""The circuit breaker of one deployment: it stops asking an upstream that keeps failing, and finds out with one request when to
go on.

    CLOSED --5 fails in a row, or n >= 20 and half of them fails, in 30 s--> OPEN
    OPEN --open_for is over, and somebody asks--> HALF_OPEN                   one probe at a time, with a lease of 30 s
    HALF_OPEN --probe ok--> CLOSED, window empty, slow start                 --probe fails--> OPEN, longer
              --probe says nothing (rate limit, caller gone), or its lease ends--> the next caller probes
    slow start --2, 4, 8 … 64 in flight, or 10 s--> plain CLOSED             --any fail--> OPEN
    CLOSED, slow start --doubted--> HALF_OPEN                                so it is probed before it is used again

    open_for = min(5 · 2^(k-1), 30) s · U(0.75, 1.25); k is one more after a failed probe or when reopened within 300 s of the
    last close, else 1

Where targets share the load, only so many of them may open by their rate, or the others would be run over: see `Deployments`.

Every change of state and every probe starts a new generation. A result carries the generation that its permit was given in, and
one of an older generation is ignored: what was sent before the circuit opened says nothing about now. The window is judged when
a fail is recorded, never on a success. Time is monotonic and passed in, as is the randomness.

A circuit is doubted when another process has opened its own for the same upstream. It never opens for that: what it does next its own
probe decides, which may go at once.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from proxy.core.target import CircuitSettings

BUCKETS = 10
LEASE_S = 30.0
MEMORY_S = 300.0  # a circuit that reopens within this time of its last close stays open for longer
SLOW_START_S = 10.0
SLOW_START_FIRST = 2
SLOW_START_LAST = 64
JITTER = (0.75, 1.25)


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


# a member looked up on its class costs fifteen times what a global does
_CLOSED, _OPEN, _HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN


class Breaker:
    """`state` changes lazily: an OPEN circuit whose time is over becomes HALF_OPEN when somebody asks for a permit.

    `calm` is true while a permit is certain: CLOSED and not in slow start. `by_rate`: it opened for half of its requests failing, not for
    all of the last ones.
    """

    __slots__ = (
        "_bucket",
        "_closed_at",
        "_consecutive",
        "_counts",
        "_early",
        "_fails",
        "_k",
        "_may_open",
        "_probe_until",
        "_random",
        "_settings",
        "_slow_in_flight",
        "_slow_limit",
        "_slow_oks",
        "_slow_until",
        "_total",
        "_total_fails",
        "_width_s",
        "by_rate",
        "calm",
        "generation",
        "state",
        "until",
    )

    def __init__(
        self, settings: CircuitSettings, random: Callable[[], float], may_open: Callable[[Breaker], bool] | None = None
    ) -> None:
        """`may_open` is asked before it opens by its rate."""
        self._random = random
        self._may_open = may_open
        self.by_rate = False
        self.state = _CLOSED
        self.calm = True
        self.generation = 0
        self.until = 0.0  # while OPEN: when a probe may go
        self._k = 0
        self._closed_at: float | None = None
        self._probe_until: float | None = None  # while HALF_OPEN: the end of the probe's lease, None when nobody probes
        self._early = False  # this probe goes before `until`: see `hurry`
        self._slow_limit = 0  # 0: no slow start
        self._slow_until = 0.0
        self._slow_oks = 0
        self._slow_in_flight = 0
        self._settings = settings
        self._width_s = settings.window_s / BUCKETS
        self._counts = [0] * BUCKETS
        self._fails = [0] * BUCKETS
        self._bucket = 0
        self._total = 0
        self._total_fails = 0
        self._consecutive = 0

    # -- settings

    @property
    def settings(self) -> CircuitSettings:
        return self._settings

    def configure(self, settings: CircuitSettings) -> None:
        """New settings after a reload. The state is kept; the window starts anew only if its length changes."""
        if settings.window_s != self._settings.window_s:
            self._clear(settings)
        else:
            self._settings = settings

    # -- permits

    def ready(self, now: float) -> bool:
        """Whether `acquire` would give a permit."""
        match self.state:
            case State.CLOSED:
                return not self._slow_limit or now >= self._slow_until or self._slow_in_flight < self._slow_limit
            case State.OPEN:
                return now >= self.until
            case State.HALF_OPEN:
                return self._probe_until is None or now >= self._probe_until

    def acquire(self, now: float) -> int | None:
        """The generation that the result must carry, None when no request may go."""
        if self.calm:
            return self.generation
        if not self.ready(now):
            return None
        if self.state is _CLOSED:
            if now >= self._slow_until:
                self._end_slow_start()
            else:
                self._slow_in_flight += 1
            return self.generation
        self.state = _HALF_OPEN
        self.generation += 1
        self._probe_until = now + LEASE_S
        return self.generation

    def hurry(self) -> None:
        """Let one probe go before its time. If it fails the circuit stays open exactly as it would have."""
        if self.state is _OPEN:
            self.state = _HALF_OPEN
            self._probe_until = None
            self._early = True

    def doubt(self, now: float) -> bool:
        """Somebody else's circuit has opened. A closed one lets one probe go before the others; any other knows for itself.

        Returns whether that changed anything.
        """
        if self.state is not _CLOSED:
            return False
        if self._closed_at is None or now - self._closed_at > MEMORY_S:
            self._k = 0  # if the probe fails, that is a first opening
        self.state = _HALF_OPEN
        self.by_rate = False
        self.generation += 1
        self._probe_until = None
        self._end_slow_start()
        return True

    # -- results

    def ok(self, generation: int, now: float) -> int:
        """The first content came. Returns the generation that a later fault of the same request must carry."""
        if generation != self.generation:
            return generation
        if self.state is _CLOSED:
            bucket = int(now / self._width_s)
            if bucket != self._bucket:
                self._advance(bucket)
            self._counts[bucket % BUCKETS] += 1
            self._total += 1
            self._consecutive = 0
            if self._slow_limit:
                self._slow_ok(now)
        elif self.state is _HALF_OPEN:
            self._close(now)
        return self.generation

    def fail(self, generation: int, now: float) -> None:
        if generation != self.generation:
            return
        if self.state is _HALF_OPEN:
            if self._early and now < self.until:
                self._reopen()
            else:
                self._open(now, self._k + 1)
        elif self.state is _CLOSED:
            bucket = int(now / self._width_s)
            if bucket != self._bucket:
                self._advance(bucket)
            self._counts[bucket % BUCKETS] += 1
            self._fails[bucket % BUCKETS] += 1
            self._total += 1
            self._total_fails += 1
            self._consecutive += 1
            if self._is_too_much(now):
                recent = self._closed_at is not None and now - self._closed_at <= MEMORY_S
                self._open(now, self._k + 1 if recent else 1)

    def done(self, generation: int) -> None:
        """The request is over, whatever came of it. A probe that said nothing leaves its place to the next caller."""
        if generation != self.generation:
            return
        if self.state is _HALF_OPEN:
            self._probe_until = None
        elif self._slow_in_flight:
            self._slow_in_flight -= 1

    # -- facts

    def opens_in_s(self, now: float) -> float:
        """Seconds until somebody may be let through; 0 when now. A running probe tells soon: one second at most is said."""
        if self.ready(now):
            return 0.0
        if self.state is _OPEN:
            return self.until - now
        if self.state is _HALF_OPEN and self._probe_until is not None:
            return min(1.0, self._probe_until - now)
        return min(1.0, max(0.0, self._slow_until - now))

    @property
    def window(self) -> tuple[int, int]:
        """(results, fails) as last counted."""
        return self._total, self._total_fails

    # -- transitions

    def _is_too_much(self, now: float) -> bool:
        settings = self._settings
        if self._slow_limit and now < self._slow_until:
            return True
        if self._consecutive >= settings.failures:
            return True
        if self._total < settings.min_requests or self._total_fails / self._total < settings.error_rate:
            return False
        self.by_rate = self._may_open is None or self._may_open(self)
        return self.by_rate

    def _open(self, now: float, k: int) -> None:
        settings = self._settings
        low, high = JITTER
        # the exponent is bounded: 2^1024 would not be a float
        base_s = min(settings.open_s * 2.0 ** min(k - 1, 64), settings.open_max_s)
        self._k = k
        self.until = now + base_s * (low + (high - low) * self._random())
        self._reopen()

    def _reopen(self) -> None:
        self.state = _OPEN
        self.generation += 1
        self.calm = False
        self._probe_until = None
        self._early = False
        self._end_slow_start()

    def _close(self, now: float) -> None:
        self.state = _CLOSED
        self.by_rate = False
        self.generation += 1
        self._probe_until = None
        self._early = False
        self._closed_at = now
        self._clear(self._settings)
        self._slow_limit = SLOW_START_FIRST
        self._slow_until = now + SLOW_START_S
        self._slow_oks = 0
        self._slow_in_flight = 1  # the probe's own request, which goes on

    def _slow_ok(self, now: float) -> None:
        """Each round of as many successes as may be in flight doubles the limit."""
        self._slow_oks += 1
        if now >= self._slow_until:
            self._end_slow_start()
        elif self._slow_oks >= self._slow_limit:
            self._slow_oks = 0
            self._slow_limit *= 2
            if self._slow_limit > SLOW_START_LAST:
                self._end_slow_start()

    def _end_slow_start(self) -> None:
        self._slow_limit = 0
        self._slow_oks = 0
        self._slow_in_flight = 0
        self.calm = self.state is _CLOSED

    # -- window

    def _clear(self, settings: CircuitSettings) -> None:
        self._settings = settings
        self._width_s = settings.window_s / BUCKETS
        self._counts = [0] * BUCKETS
        self._fails = [0] * BUCKETS
        self._bucket = 0
        self._total = 0
        self._total_fails = 0
        self._consecutive = 0

    def _advance(self, bucket: int) -> None:
        """Forget the buckets that have left the window. Time that stands still or goes back forgets nothing."""
        if bucket < self._bucket:
            return
        for passed in range(max(self._bucket + 1, bucket - BUCKETS + 1), bucket + 1):
            slot = passed % BUCKETS
            self._total -= self._counts[slot]
            self._total_fails -= self._fails[slot]
            self._counts[slot] = self._fails[slot] = 0
        self._bucket = bucket
