"""How a deployment has done lately: what `fastest`, `score` and hedging go by. Kept only where a chain asks for it.

It is fed once for each attempt that ends, where that is written down, and holds the last 128 of ten minutes: what is older says nothing any
more, and a target that nobody asked for so long is unknown again. In memory, of one process. Nothing here reads a clock.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import ceil, sqrt

RECENT_S = 600.0
SAMPLES = 128
LEAST_SAMPLES = 5  # fewer tell nothing of what is usual
MAX_TOKENS_PER_S = 10_000.0
_LEAST_TOKENS = 8  # of an answer that says how fast they come
_LEAST_S = 0.001
_NEWEST_WEIGHT = 0.2  # of the newest answer in the moving means


class Standing:
    """`tokens_per_s` (after the first content) and `quality` (0 to 1) are moving means, None while unknown. `ok` of `ended` attempts went
    well, of those that say something about the upstream."""

    __slots__ = ("_ends", "_firsts", "_last", "_sorted", "ok", "quality", "tokens_per_s")

    def __init__(self) -> None:
        self._firsts: deque[tuple[float, float]] = deque()  # (when, seconds), oldest first
        self._sorted: list[float] = []  # the same seconds
        self._ends: deque[tuple[float, bool]] = deque()
        self._last: float | None = None  # when something was heard
        self.ok = 0
        self.tokens_per_s: float | None = None
        self.quality: float | None = None

    @property
    def ended(self) -> int:
        return len(self._ends)

    @property
    def samples(self) -> int:
        """First tokens that are known."""
        return len(self._sorted)

    def first_token_s(self, quantile: float) -> float | None:
        """Seconds until the first content of a stream, of which that share (0 to 1) took no longer; None below five samples."""
        known = self._sorted
        if len(known) < LEAST_SAMPLES:
            return None
        return known[min(len(known), max(1, ceil(quantile * len(known)))) - 1]

    def late_s(self, quantile: float) -> float | None:
        """When a first token is late: what that share took no longer than, as far as the samples can tell. By chance a few more slow ones
        may be among them than that share leaves room for. So it is at most twice what it may be as well: what stands two standard
        deviations of a rank below. None below five samples."""
        known = self._sorted
        count = len(known)
        if count < LEAST_SAMPLES:
            return None
        place = quantile * count
        least = max(count // 2, place - 2 * sqrt(place * (1 - quantile)))
        return min(known[min(count, ceil(place)) - 1], 2 * known[ceil(least) - 1])

    def note(
        self,
        now: float,
        *,
        ok: bool | None,
        stream: bool,
        first_token_s: float | None = None,
        total_s: float = 0.0,
        output_tokens: int = 0,
    ) -> None:
        """An attempt has ended. `ok` None: it says nothing about the upstream (the caller left). `first_token_s`: from its begin until the
        first content, which of a whole answer is its end; `total_s`: until its end."""
        self.forget(now)
        self._last = now
        if ok is not None:
            if len(self._ends) >= SAMPLES:
                self._drop_end()
            self._ends.append((now, ok))
            self.ok += ok
        if first_token_s is None:
            return
        if stream:
            self.note_first_token(now, first_token_s)
            began_s = first_token_s
        else:
            # a whole answer hides when it began: what is usual is taken off, or nothing where that is unknown
            usual_s = self.first_token_s(0.5)
            began_s = usual_s if usual_s is not None and usual_s < total_s else 0.0
        if ok and output_tokens >= _LEAST_TOKENS:
            speed = min(MAX_TOKENS_PER_S, output_tokens / max(_LEAST_S, total_s - began_s))
            self.tokens_per_s = _mean(self.tokens_per_s, speed)

    def note_first_token(self, now: float, seconds: float) -> None:
        """A first token, or how long one was waited for in vain."""
        if len(self._firsts) >= SAMPLES:
            self._drop_first()
        self._firsts.append((now, seconds))
        insort(self._sorted, seconds)

    def note_quality(self, quality: float) -> None:
        """How good an answer was held to be, 0 to 1."""
        self.quality = _mean(self.quality, quality)

    def forget(self, now: float) -> None:
        """Drop what is no longer recent. To be called before something is read for a decision."""
        since = now - RECENT_S
        while self._firsts and self._firsts[0][0] <= since:
            self._drop_first()
        while self._ends and self._ends[0][0] <= since:
            self._drop_end()
        if self._last is not None and self._last <= since:
            self._last = self.tokens_per_s = self.quality = None

    def _drop_first(self) -> None:
        _, seconds = self._firsts.popleft()
        del self._sorted[bisect_left(self._sorted, seconds)]

    def _drop_end(self) -> None:
        _, ok = self._ends.popleft()
        self.ok -= ok


def _mean(known: float | None, newest: float) -> float:
    return newest if known is None else known + _NEWEST_WEIGHT * (newest - known)
