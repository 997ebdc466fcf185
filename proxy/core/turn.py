"""The present turn of the event loop, for those who must not wait for its end.

The loop deals with everything that was ready when a turn began, first come, first served; with many streams that takes long. Whoever
does the bulk of it counts its pieces here, and every `PIECES` of them whoever is in a hurry is asked. Counted, not timed: a clock would
have to be read for every piece.

A turn may have no end at all. libuv asks the kernel for a thousand sockets that are ready, and as long as it gets so many it asks again,
48 times, before a timer or a callback has its turn (https://github.com/libuv/libuv/blob/v1.x/src/unix/linux.c, `uv__io_poll`): with a
thousand busy streams that is seconds. So in a turn that is too long, whoever was read is not read any more until the next.

    usual --too long--> resting, one after the other --next turn--> usual
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from proxy.core.cork import Cork

PIECES = 32


class Source(Protocol):
    """What is read from: a connection."""

    def rest(self) -> None:
        """Is not read any more, until `read_on`."""

    def read_on(self) -> None:
        """Unless it rests for a reason of its own, too."""


def _nobody() -> None: ...


class Turn:
    """With each piece: `turn.left -= 1`, and `turn.pause(source)` where that leaves nothing."""

    __slots__ = ("_resting", "_until_asked", "cork", "hurried", "left", "pauses", "too_long")

    def __init__(self) -> None:
        self.cork = Cork()  # what it holds goes with the turn's end, and with each pause
        self.left = PIECES
        self.pauses = 0  # ever: while it moves, the loop does not hang
        self.too_long = False
        self.hurried: Callable[[], None] = _nobody  # called in a callback of the loop, in no task
        self._resting: list[Source] = []
        self._until_asked = PIECES

    def pause(self, source: Source) -> None:
        if self.too_long:  # then `left` stays as it is, so that this is called for each piece
            source.rest()
            self._resting.append(source)
            self._until_asked -= 1
            if self._until_asked:
                return
            self._until_asked = PIECES
        else:
            self.left = PIECES
        self.pauses += 1
        self.cork.let_go()
        self.hurried()

    def is_too_long(self) -> None:
        self.too_long = True
        self.left = 0
        self._until_asked = PIECES

    def end(self) -> None:
        """In the next one."""
        self.too_long = False
        self.left = PIECES
        resting, self._resting = self._resting, []
        for source in resting:
            source.read_on()
