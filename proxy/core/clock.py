"""The wall clock may be set by hand or jump with a correction; the monotonic one cannot. Whoever looks at both notices."""

from __future__ import annotations

from proxy.core.ports import Clock

STEP_S = 2.0  # less is drift that is being corrected


class WallWatch:
    """Compares the two. Deadlines, cooldowns and durations are of the monotonic one, so that a jump changes only what is written down."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_s = clock.wall() - clock.monotonic()

    def look(self) -> float | None:
        """By how many seconds the wall clock jumped since the last look, back if negative; None if it did not."""
        offset_s = self._clock.wall() - self._clock.monotonic()
        step_s = offset_s - self._offset_s
        self._offset_s = offset_s
        return step_s if abs(step_s) >= STEP_S else None
