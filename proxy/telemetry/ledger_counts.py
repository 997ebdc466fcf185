"""What the drainer counted, as events: it is a process of its own, and its counters stand in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping

EVENTS_OF = {"interrupted_attempts": "recovered", "corrupt": "ledger_corrupt"}


class LedgerCounts:
    """Tells what was added since the last look. The first look is where it begins: the ledger remembers for longer than a process lives.

    A ledger that was made anew counts from 0: where a counter has become less, all of them are new. `remade`: how often it was, as told.
    """

    def __init__(self, count: Callable[[str], None]) -> None:
        self.remade = 0
        self._count = count
        self._last: Mapping[str, int] | None = None

    def look(self, counters: Mapping[str, int]) -> None:
        """`counters`: name -> value, those that are 0 left out."""
        last, self._last = self._last, dict(counters)
        if last is None:
            return
        if any(counters.get(name, 0) < value for name, value in last.items()):
            last = {}
        for name, event in EVENTS_OF.items():
            new = counters.get(name, 0) - last.get(name, 0)
            self.remade += new if name == "corrupt" else 0
            for _ in range(new):
                self._count(event)
