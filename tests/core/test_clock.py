"""A wall clock that is moved is noticed, once; drift is not."""

import pytest

from proxy.core.clock import STEP_S, WallWatch

pytestmark = pytest.mark.unit
DAY_S = 86_400.0


class Clocks:
    def __init__(self) -> None:
        self.now = 100.0
        self.offset = 1_700_000_000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self.offset


@pytest.mark.parametrize("moved_s", [DAY_S, -DAY_S, STEP_S, -STEP_S])
def test_a_jump_is_told_once_and_by_how_much(moved_s: float) -> None:
    clocks = Clocks()
    watch = WallWatch(clocks)
    clocks.now += 1.0
    assert watch.look() is None
    clocks.offset += moved_s
    assert watch.look() == pytest.approx(moved_s, abs=0.01)
    assert watch.look() is None


def test_drift_that_is_corrected_little_by_little_is_none() -> None:
    clocks = Clocks()
    watch = WallWatch(clocks)
    for _ in range(100):
        clocks.now += 1.0
        clocks.offset += STEP_S / 4
        assert watch.look() is None
