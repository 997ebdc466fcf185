"""How soon what died is started again: at once, and ever slower while its successors die young."""

from __future__ import annotations

STEADY_S = 1.0  # who has served so long has not died of its start
DELAYS_S = (0.0, 0.0, 0.0, 0.25, 0.5, 1.0, 2.0, 5.0)


class Restarts:
    """Of one seat, or of the drainer. `count` is of all since the start."""

    def __init__(self) -> None:
        self.count = 0
        self._young = 0

    def died(self, served_s: float | None) -> float:
        """It died `served_s` after it began to serve, None if it never did. Returns how long to wait before the next start, seconds."""
        self._young = 0 if served_s is not None and served_s >= STEADY_S else self._young + 1
        self.count += 1
        return DELAYS_S[min(self._young, len(DELAYS_S) - 1)]
