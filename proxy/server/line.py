"""Where requests wait that come faster than they can be begun.

A crowd that is begun as it is read makes one turn of the event loop of it, in which nobody else has his own. So once a turn takes long and
requests are what it is made of, those that are read from then on stand in line: to read one takes a tenth of what it takes to begin it.
In the next turns some are begun, for half as long as the rest of a turn takes, and whoever comes meanwhile stands behind them.

    none --a long turn, in which requests began--> formed --nobody stands there any more--> none

How long the first has stood there counts for how late the proxy is (`overload.py`), besides how late its loop is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

SLICE_S = 0.008  # for beginning, in each turn, at least
MAX_SLICE_S = 0.1
_A_FEW = 2


class Standing(Protocol):
    """A request that was read."""

    @property
    def disconnected(self) -> bool: ...
    def begin(self) -> None:
        """In a callback of the loop."""


class Line:
    def __init__(self, *, monotonic: Callable[[], float], heard: Callable[[], None]) -> None:
        """`heard`: called every `SLICE_S` while requests are begun, for those who must not wait for the end of the turn."""
        self.formed = False
        self.begun = 0  # ever, in line or not
        self._monotonic = monotonic
        self._heard = heard
        self._standing: deque[tuple[float, Standing]] = deque()
        self._begun_before = 0
        self._served_until = 0.0

    def __len__(self) -> int:
        return len(self._standing)

    def waited_s(self, now: float) -> float:
        """By whoever is the first."""
        return now - self._standing[0][0] if self._standing else 0.0

    def add(self, one: Standing) -> None:
        self._standing.append((self._monotonic(), one))

    def pause(self, now: float, *, long: bool) -> None:
        """Between some pieces of a turn. `long`: it has taken long already."""
        began = self.begun - self._begun_before
        self._begun_before = self.begun
        if long and began >= _A_FEW and not self.formed:
            self.formed = True
            self._served_until = now
            asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        standing = self._standing
        now = self._monotonic()
        until = now + min(max((now - self._served_until) / 2, SLICE_S), MAX_SLICE_S)
        heard_at = now + SLICE_S
        while standing and now < until:
            _, one = standing.popleft()
            if not one.disconnected:
                one.begin()
            now = self._monotonic()
            if now >= heard_at:
                self._heard()
                now = self._monotonic()
                heard_at = now + SLICE_S
        self._served_until = now
        if standing:
            asyncio.get_running_loop().call_soon(self._serve)
        else:
            self.formed = False
