"""Callers who have something to say are heard in the midst of a long turn of the event loop.

The loop deals with what is ready in the order in which it became so. Of hundreds of streams nearly all of it is their chunks, which may
take some milliseconds more; behind them wait a load balancer's probe, and whoever must be told that there is no room. So while there is
much to do, the sockets of all callers are in a second poll set besides the loop's own, and when a turn takes long, those that are readable
are read between two chunks (`core/turn.py`), and those who knock are let in.

    down --there is much to do, or a turn takes long--> up --not any more--> down        looks at the loop end it (`overload.py`)

What is read here the loop does not find any more, and that is all that it notices: sockets do not block, and ends and faults are left
to it.
"""

from __future__ import annotations

import contextlib
import contextvars
import select
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Protocol

from proxy.core.deadlines import NEVER

HEARD_S = 0.008  # at once, and no longer than it has been since: those who were heard before have something to do, too
LONG_S = 0.008  # of a turn: from here on it is a long one
EARLIER_S = 0.008  # likewise after a long turn, so long before a look is due; else from when it is
_LOOKED_AT = 256
ADDED_AT_ONCE = 128  # of thousands, all at once would be a long turn by themselves
_READABLE = select.EPOLLIN  # and nothing else: with a hang-up or a fault it is the loop's affair


class Caller(ABC):
    """One connection's protocol."""

    @property
    @abstractmethod
    def descriptor(self) -> int | None:
        """Of its socket; None where there is nothing to be heard: it is being closed, or the bytes on it are encrypted."""

    @abstractmethod
    def hear(self, descriptor: int) -> bool:
        """Reads and deals with what has come, and raises nothing. False when nothing was read."""


class Entrance(Protocol):
    """`door.py`'s."""

    @property
    def callers(self) -> Iterable[object]: ...
    def take_in(self) -> None: ...
    def hand_over(self) -> None: ...


class Doorbell:
    def __init__(self, door: Entrance, *, monotonic: Callable[[], float], turn_began: Callable[[], float]) -> None:
        """`turn_began`: the present turn, or its first pause, by the same clock; NEVER as long as there was none."""
        self._door = door
        self._monotonic = monotonic
        self._turn_began = turn_began
        self._long_from = NEVER  # when the present turn is a long one
        self._poll: select.epoll | None = None
        self._callers: dict[int, Caller] = {}
        self._descriptors: dict[Caller, int] = {}
        self._to_add: dict[Caller, None] = {}  # of those who were there when it was put up
        self._context = contextvars.copy_context()  # not that of the stream whose chunk was read last
        self._listening = False
        self._heard_until = 0.0

    @property
    def up(self) -> bool:
        return self._poll is not None

    def looked(self, due: float, *, busy: bool, late: bool) -> None:
        """With each look at the loop, which is at the start of a turn: when the next is due, whether there is much to do, and whether
        the last turn was a long one."""
        if not busy:
            self.take_down()
        else:
            self._put_up()
        self._long_from = due - EARLIER_S if late else due
        if late:
            self._door.take_in()
        self._door.hand_over()

    def _put_up(self) -> None:
        if self._poll is None:
            try:
                self._poll = select.epoll()
            except OSError:  # no descriptor is left: then everybody waits for the loop
                return
            self._to_add = dict.fromkeys(caller for caller in self._door.callers if isinstance(caller, Caller))
        for _ in range(min(ADDED_AT_ONCE, len(self._to_add))):
            self.add(self._to_add.popitem()[0])

    def take_down(self) -> None:
        if self._poll is not None:
            self._poll.close()
            self._poll = None
            self._callers.clear()
            self._descriptors.clear()
            self._to_add.clear()

    def add(self, caller: Caller) -> None:
        descriptor = caller.descriptor
        if self._poll is None or descriptor is None or caller in self._descriptors:
            return
        try:
            self._poll.register(descriptor, select.EPOLLIN)
        except (OSError, ValueError):  # it is closed already, or the kernel has no room for more
            return
        self._callers[descriptor] = caller
        self._descriptors[caller] = descriptor

    def forget(self, caller: Caller) -> None:
        """Before its socket is closed."""
        self._to_add.pop(caller, None)
        descriptor = self._descriptors.pop(caller, None)
        if descriptor is None:
            return
        self._callers.pop(descriptor, None)
        if self._poll is not None:
            with contextlib.suppress(OSError):  # closed after all, by which it left
                self._poll.unregister(descriptor)

    def in_a_long_turn(self, now: float) -> bool:
        return now >= self._long_from or now - self._turn_began() >= LONG_S

    def listen(self) -> None:
        """In a callback of the loop."""
        if self._listening:
            return
        now = self._monotonic()
        if not self.in_a_long_turn(now):
            return
        self._put_up()
        poll = self._poll
        if poll is None:
            return
        self._listening = True
        try:
            self._context.run(self._hear, poll, now + min(now - self._heard_until, HEARD_S))
        finally:
            self._listening = False
            self._heard_until = self._monotonic()

    def _hear(self, poll: select.epoll, until: float) -> None:
        self._door.take_in()
        for descriptor, events in poll.poll(0, _LOOKED_AT):
            caller = self._callers.get(descriptor) if events == _READABLE else None
            if caller is not None and caller.hear(descriptor) and self._monotonic() >= until:
                return
