from __future__ import annotations

import gc

import pytest

from proxy.core.garbage import thresholds


@pytest.mark.parametrize(
    ("connections", "expected"),
    [
        (0, (20_000, 20, 20)),
        (1, (20_100, 20, 20)),
        (500, (70_000, 20, 20)),
        (501, (70_100, 1_000, 20)),
        (5_000, (520_000, 1_000, 20)),
    ],
)
def test_a_walk_waits_for_as_much_more_as_the_callers_have(connections: int, expected: tuple[int, int, int]) -> None:
    assert thresholds(connections) == expected


def test_the_interpreter_takes_what_the_most_callers_come_to() -> None:
    before = gc.get_threshold()
    try:
        gc.set_threshold(*thresholds(1_000_000))
        assert gc.get_threshold() == thresholds(1_000_000)
    finally:
        gc.set_threshold(*before)
