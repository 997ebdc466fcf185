"""Requests that ask the same at the same time: one of them goes, and the others wait for what it brings.

    nobody asks it ──lead──> in flight ──land──> over: the followers are given the answer, or sent on their own way
                              ^   │
                              '───'  hand_on: the leader failed or left, and the follower who waits longest leads now

A leader that fails says something of the next: after MAX_FAILURES of them whoever still waits goes alone, as without any of this, so
that nobody waits for a long row of failures. Not for two threads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from enum import Enum

from proxy.core.kept import Kept

MAX_FAILURES = 2
MAX_FOLLOWERS = 10_000  # of one flight; who comes later goes alone


class Turn(Enum):
    """What a follower is told when there is no answer for it."""

    LEAD = "the flight is its own now"
    ALONE = "it goes alone"


_Told = Kept | Turn


class Flight:
    __slots__ = ("_failures", "_flights", "followers", "key")

    def __init__(self, flights: dict[bytes, Flight], key: bytes) -> None:
        self._flights = flights
        self._failures = 0
        self.key = key
        self.followers: deque[asyncio.Future[_Told]] = deque()

    async def follow(self) -> _Told:
        """Waits for the answer or a turn. May be cancelled at any time."""
        if len(self.followers) >= MAX_FOLLOWERS:
            return Turn.ALONE
        waiter: asyncio.Future[_Told] = asyncio.get_running_loop().create_future()
        self.followers.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.result() is Turn.LEAD:
                self.hand_on(failed=False)  # its turn came in the moment in which it left
            raise

    def land(self, kept: Kept | None) -> None:
        """The flight is over. None: each goes its own way."""
        if self._flights.get(self.key) is self:
            del self._flights[self.key]
        told = Turn.ALONE if kept is None else kept
        while self.followers:
            waiter = self.followers.popleft()
            if not waiter.done():
                waiter.set_result(told)

    def hand_on(self, *, failed: bool) -> None:
        """The leader has no answer, and leads no longer. `failed`: as others would, too; else it left."""
        self._failures += failed
        if self._failures >= MAX_FAILURES:
            self.land(None)
            return
        while self.followers:
            waiter = self.followers.popleft()
            if not waiter.done():
                waiter.set_result(Turn.LEAD)
                return
        self.land(None)


class Flights:
    def __init__(self) -> None:
        self._open: dict[bytes, Flight] = {}

    def __len__(self) -> int:
        return len(self._open)

    def keys(self) -> Iterable[bytes]:
        return self._open.keys()

    def find(self, key: bytes) -> Flight | None:
        """The one to follow."""
        return self._open.get(key)

    def lead(self, key: bytes) -> Flight:
        """A new one, where there is none: it must be landed, or handed on until nobody is left."""
        assert key not in self._open
        flight = self._open[key] = Flight(self._open, key)
        return flight
