"""One timer for all requests and connections: whoever has a deadline is looked at on every tick.

Setting a deadline is an attribute write, so it can be done on every chunk; a timer of the event loop each would cost a
microsecond to set and another to cancel. The price is precision: a deadline is noticed up to one tick late.
"""

from __future__ import annotations

from typing import Protocol

TICK_S = 0.1
HELD_UP_S = 1.0
NEVER = float("inf")


class Watched(Protocol):
    deadline: float  # monotonic seconds, NEVER for none

    def expire(self, now: float) -> None:
        """Called once a tick while `deadline` is past; expected to move or clear it."""


class Deadlines:
    def __init__(self) -> None:
        self._watched: dict[Watched, None] = {}  # in order, so that what expires together does so alike each time
        self._turned = NEVER
        self._spared = False

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, item: Watched) -> None:
        self._watched[item] = None

    def forget(self, item: Watched) -> None:
        self._watched.pop(item, None)

    def turn(self, now: float) -> None:
        """What the timer calls: `tick`, unless this process was itself held up (stopped, starved of the processor, asleep with its host).

        Then what it waited for may have come long ago and not been read yet: the event loop gets one turn to do so.
        """
        self._spared = not self._spared and now - self._turned > HELD_UP_S
        self._turned = now
        if not self._spared:
            self.tick(now)

    def tick(self, now: float) -> None:
        late = [item for item in self._watched if item.deadline <= now]
        for item in late:
            item.expire(now)
