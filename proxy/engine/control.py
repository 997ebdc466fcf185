"""What may end a request from outside while it waits: its deadline, a caller who left, a proxy that must stop.

All of them cancel the request's one task, wherever it waits; `cause` then tells why, as the error that the attempt failed with. So a
deadline costs an attribute write, and no wait in the engine needs a timeout of its own.
"""

from __future__ import annotations

from typing import Protocol

from proxy.core.deadlines import NEVER
from proxy.core.errors import ErrorClass, UpstreamError

_MESSAGES: dict[ErrorClass, str] = {
    ErrorClass.TTFB_TIMEOUT: "no content arrived in time",
    ErrorClass.IDLE_TIMEOUT: "the stream stood still for too long",
    ErrorClass.TOTAL_TIMEOUT: "the request took longer than its total time",
    ErrorClass.CLIENT_GONE: "the client hung up",
    ErrorClass.DRAINED: "the proxy is shutting down",
}


_TTFB_TIMEOUT = ErrorClass.TTFB_TIMEOUT


class Task(Protocol):
    """What runs the request: asyncio's task, or one that behaves like it."""

    def cancel(self) -> bool: ...
    def uncancel(self) -> int: ...


class Control:
    """Implements `Watched`. One per request; lives as long as its task."""

    __slots__ = ("_task", "deadline", "gone", "phase", "reason")

    def __init__(self, task: Task) -> None:
        self._task = task
        self.deadline = NEVER
        self.phase = _TTFB_TIMEOUT  # what it means when the deadline passes
        self.reason: ErrorClass | None = None
        self.gone = False

    def expire(self, now: float) -> None:
        self.deadline = NEVER
        self.interrupt(self.phase)

    def client_gone(self) -> None:
        self.gone = True
        self.interrupt(ErrorClass.CLIENT_GONE)

    def interrupt(self, reason: ErrorClass) -> None:
        """Ends the current wait with `reason`; the first reason counts."""
        if self.reason is None:
            self.reason = reason
            self._task.cancel()

    def cause(self) -> UpstreamError | None:
        """Call on CancelledError. None: the cancellation came from elsewhere and must go on."""
        reason, self.reason = self.reason, None
        if reason is None:
            return None
        self._task.uncancel()
        return UpstreamError(ErrorClass.CLIENT_GONE if self.gone else reason, _MESSAGES[reason])
