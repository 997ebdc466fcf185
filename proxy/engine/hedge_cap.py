"""How many requests of a chain were asked twice, and whether one more may be: a share of the hour that lies behind.

Counted in minutes. What is partly outside the hour counts if it is a hedge and does not if it is a request, so that the share holds for
the hour up to each hedge whenever in a minute that begins. In memory, of one process: each worker keeps the share of what it serves.
"""

from __future__ import annotations

from collections import deque

MINUTES = 60
MAX_CHAINS = 4_096
_EXACT = 1e-9  # 0.05 times 20 is 1, whatever binary fractions make of it


class _Minute:
    __slots__ = ("hedges", "number", "requests")

    def __init__(self, number: int) -> None:
        self.number = number
        self.requests = 0
        self.hedges = 0


class HedgeCaps:
    """By chain. Times are monotonic seconds."""

    __slots__ = ("_chains",)

    def __init__(self) -> None:
        self._chains: dict[str, deque[_Minute]] = {}

    def asked(self, chain: str, now: float) -> None:
        """A request that might be hedged."""
        self._minute(chain, now).requests += 1

    def may(self, chain: str, share: float, now: float) -> bool:
        """Whether a hedge now leaves those of the last hour within their share of its requests."""
        present = int(now // 60)
        minutes = self._chains.get(chain, ())
        requests = sum([minute.requests for minute in minutes if minute.number > present - MINUTES])
        hedges = sum([minute.hedges for minute in minutes if minute.number >= present - MINUTES])
        return hedges + 1 <= share * requests + _EXACT

    def sent(self, chain: str, now: float) -> None:
        """One was sent."""
        self._minute(chain, now).hedges += 1

    def _minute(self, chain: str, now: float) -> _Minute:
        minutes = self._chains.get(chain)
        if minutes is None:
            if len(self._chains) >= MAX_CHAINS:
                self._chains.clear()  # who was forgotten begins without anything to draw on: the share still holds
            minutes = self._chains[chain] = deque()
        present = int(now // 60)
        if not minutes or minutes[-1].number != present:
            minutes.append(_Minute(present))
            while minutes[0].number < present - MINUTES:
                minutes.popleft()
        return minutes[-1]
