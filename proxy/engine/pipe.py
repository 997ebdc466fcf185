"""The way of a committed stream: upstream's bytes in, the caller's bytes out, in one synchronous step from read to write.

No task wakes up for a chunk: the connection hands what it read to `consume`, which writes it on at once. The task sleeps until there is
something to wait for: a slow caller, the end, a fault.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from proxy.accounting.usage import estimate_output
from proxy.core.errors import ErrorClass
from proxy.dialects.base import AnswerStream
from proxy.engine.control import Control

PROGRESS_S = 2.0
PROGRESS_TOKENS = 256
FIRST_LOOK_EVENTS, LOOK_EVENTS = 8, 64  # to count the tokens of a stream so far takes as long as a chunk of it
# looked up once: a member costs fifteen times what a global does, and these are needed for every chunk
_IDLE_TIMEOUT, _TOTAL_TIMEOUT = ErrorClass.IDLE_TIMEOUT, ErrorClass.TOTAL_TIMEOUT


class Taker(Protocol):
    """The part of a `Sink` that a pipe writes to."""

    def push(self, data: bytes) -> bool: ...


class Nobody:
    """Takes what nobody reads any more."""

    def push(self, data: bytes) -> bool:
        return True


class Pipe:
    """`last` holds back what came with the end, or before a fault: those bytes go out once the attempt is settled. `progress` hears how
    many tokens came so far, by estimate: after 2 s or 256 tokens, whichever is first, with the event that comes next."""

    __slots__ = (
        "_control",
        "_idle_s",
        "_look_at",
        "_looked_events",
        "_looked_tokens",
        "_monotonic",
        "_progress",
        "_progress_at",
        "_seen",
        "_sink",
        "_stream",
        "_told",
        "_total_at",
        "last",
    )

    def __init__(
        self,
        stream: AnswerStream,
        sink: Taker,
        control: Control,
        progress: Callable[[int], None],
        monotonic: Callable[[], float],
        *,
        idle_s: float,
        total_at: float,
    ) -> None:
        self._stream = stream
        self._sink = sink
        self._control = control
        self._progress = progress
        self._monotonic = monotonic
        self._idle_s = idle_s
        self._total_at = total_at
        self._seen = stream.events
        self._progress_at = monotonic() + PROGRESS_S
        self._look_at = stream.events + FIRST_LOOK_EVENTS
        self._told = self._looked_tokens = 0
        self._looked_events = stream.events
        self.last = b""

    def consume(self, data: bytes) -> bool:
        """False when there is something to wait for: the stream is over (`done` or `error`), or the caller is slow."""
        stream = self._stream
        out = stream.feed(data)
        if stream.done or stream.error is not None:
            self.last = out
            return False
        events = stream.events
        if events != self._seen:
            self._seen = events
            self.arm()
        return not out or self._sink.push(out)

    def arm(self) -> None:
        """Progress is a whole event: a drip of bytes does not move this deadline."""
        now = self._monotonic()
        control = self._control
        deadline = now + self._idle_s
        if deadline < self._total_at:
            control.phase = _IDLE_TIMEOUT
            control.deadline = deadline
        else:
            control.phase = _TOTAL_TIMEOUT
            control.deadline = self._total_at
        if now >= self._progress_at or self._seen >= self._look_at:
            self._look(now)

    def _look(self, now: float) -> None:
        """The next look is when there should be 256 tokens more, as the events since the last one were."""
        tokens = estimate_output(self._stream.text_bytes)
        came, events = tokens - self._looked_tokens, self._seen - self._looked_events
        self._looked_tokens, self._looked_events = tokens, self._seen
        if now >= self._progress_at or tokens - self._told >= PROGRESS_TOKENS:
            self._progress_at = now + PROGRESS_S
            self._told = tokens
            self._progress(tokens)
        ahead = (self._told + PROGRESS_TOKENS - tokens) * events // max(came, 1)
        self._look_at = self._seen + min(max(ahead, 1), LOOK_EVENTS)
