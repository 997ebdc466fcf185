"""An event loop whose time is set, not measured: what is due next is due at once.

asyncio's own loop asks its selector to wait until the next timer is due. This one has a selector that puts the clock forward by that
long instead of waiting. So everything that runs on it, tasks, timers and timeouts alike, runs in the order and at the times that it
would have if computing took none, and an hour of it takes as long as its computing does. There are no sockets on it and no threads: work
for an executor is done where it is asked for.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

_T = TypeVar("_T")
_P = ParamSpec("_P")

# what a timer may be early by: more than the last digit of a time that is weeks long, less than anything that is told apart
_RESOLUTION_S = 1e-9
BEGAN_S = 1_000.0  # the monotonic time at which a simulation begins: a machine's own is never 0 either


class Deadlock(RuntimeError):
    """Everybody waits, and for nothing that has a time."""


class VirtualClock:
    """`core.ports.Clock`. `start`: what the wall shows when it begins, in seconds since 1970."""

    def __init__(self, start: float = 0.0) -> None:
        self.now = BEGAN_S
        self._start = start

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self._start + self.passed_s

    @property
    def passed_s(self) -> float:
        """Since it began."""
        return round(self.now - BEGAN_S, 9)


class InlineExecutor(ThreadPoolExecutor):
    """Does at once, in the caller's thread, what it is given."""

    def __init__(self) -> None:
        super().__init__(1)

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        future: Future[_T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as fault:  # noqa: BLE001 - it is the caller's, as it would be from a thread
            future.set_exception(fault)
        return future


class _Selector(selectors.BaseSelector):
    """Registers what it is given, hears of none of it, and passes the time that it is asked to wait."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._registered: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._registered[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._registered.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock("nothing is left that has a time, and somebody still waits")
        if timeout > 0:
            # on a grid as fine as what a timer may be early by, so that a moment that is named in the file is met exactly
            self._clock.now = round(self._clock.now + timeout, 9)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._registered


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(_Selector(clock))
        self._virtual = clock
        self._clock_resolution = _RESOLUTION_S
        self.set_default_executor(InlineExecutor())

    def time(self) -> float:
        return self._virtual.now
