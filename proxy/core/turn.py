"""The present turn of the event loop, for those who must not wait for its end.

The loop deals with everything that was ready when a turn began, first come, first served; with many streams that takes long. Whoever
does the bulk of it counts its pieces here, and every `PIECES` of them whoever is in a hurry is asked. Counted, not timed: a clock would
have to be read for every piece.
"""

from __future__ import annotations

from collections.abc import Callable

PIECES = 32


def _nobody() -> None: ...


class Turn:
    """Before each piece: `turn.left -= 1`, and `turn.pause()` where that leaves nothing."""

    __slots__ = ("hurried", "left", "pauses")

    def __init__(self) -> None:
        self.left = PIECES
        self.pauses = 0  # ever: while it moves, the loop does not hang
        self.hurried: Callable[[], None] = _nobody  # called in a callback of the loop, in no task

    def pause(self) -> None:
        self.left = PIECES
        self.pauses += 1
        self.hurried()
