"""One timer for all requests and connections: whoever has a deadline is looked at on every tick.

Setting a deadline is an attribute write, so it can be done on every chunk; a timer of the event loop each would cost a
microsecond to set and another to cancel. The price is precision: a deadline is noticed up to one tick late.

Of thousands whose time is over at once each costs something to turn out, and nobody else would be served meanwhile. So they go a few
at a time, with pauses, within `SPREAD_S`:

    turn --who is late now--> a few expire --STEP_S later--> go_on: a few more ... all of them have
"""

from __future__ import annotations

from math import ceil
from typing import Protocol

TICK_S = 0.1
HELD_UP_S = 1.0
SPREAD_S = 0.3
STEP_S = 0.002
AT_ONCE = 4  # at least
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
        self._late: list[Watched] = []  # those who were late at the last turn that looked
        self._done = 0  # of them
        self._looked = 0.0

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, item: Watched) -> None:
        self._watched[item] = None

    def forget(self, item: Watched) -> None:
        self._watched.pop(item, None)

    def turn(self, now: float) -> bool:
        """What the timer calls each `TICK_S`. True: there are more, for whom `go_on` is to be called after each `STEP_S`.

        When this process was itself held up (stopped, starved of the processor, asleep with its host), what it waited for may have
        come long ago and not been read yet: then the event loop gets one turn to do so.
        """
        self._spared = not self._spared and now - self._turned > HELD_UP_S
        self._turned = now
        if self._spared:
            return False
        under_way = bool(self._late)
        if not under_way:
            self._look(now)
        return self.go_on(now) and not under_way

    def go_on(self, now: float) -> bool:
        """So many of them that all have gone within `SPREAD_S`, however seldom this is called. True: there are more."""
        late, done = self._late, self._done
        self._done = due = min(len(late), max(done + AT_ONCE, ceil(len(late) * (now - self._looked) / SPREAD_S)))
        if due == len(late):
            self._late = []
        for item in late[done:due]:
            if item.deadline <= now and item in self._watched:  # still
                item.expire(now)
        return due < len(late)

    def tick(self, now: float) -> None:
        """All at once."""
        self._look(now)
        while self.go_on(now):
            pass

    def _look(self, now: float) -> None:
        self._late = [item for item in self._watched if item.deadline <= now]
        self._done, self._looked = 0, now
