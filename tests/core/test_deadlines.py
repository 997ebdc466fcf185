"""One timer for everything that has a deadline."""

import pytest

from proxy.core.deadlines import NEVER, Deadlines

pytestmark = pytest.mark.unit


class Item:
    def __init__(self, deadline: float, wheel: Deadlines | None = None) -> None:
        self.deadline = deadline
        self.expired: list[float] = []
        self._wheel = wheel

    def expire(self, now: float) -> None:
        self.expired.append(now)
        self.deadline = NEVER
        if self._wheel is not None:
            self._wheel.forget(self)


def test_only_what_is_late_expires_and_only_once_if_it_moves_on() -> None:
    wheel = Deadlines()
    early, late, never = Item(1.0), Item(2.0), Item(NEVER)
    for item in (early, late, never):
        wheel.watch(item)
    wheel.tick(0.9)
    wheel.tick(1.0)
    wheel.tick(1.5)
    wheel.tick(9.0)
    assert (early.expired, late.expired, never.expired) == ([1.0], [9.0], [])


def test_what_is_forgotten_is_not_asked_again() -> None:
    wheel = Deadlines()
    item = Item(1.0)
    wheel.watch(item)
    wheel.watch(item)
    assert len(wheel) == 1
    wheel.forget(item)
    wheel.forget(item)
    wheel.tick(2.0)
    assert item.expired == []
    assert len(wheel) == 0


def test_an_item_may_leave_while_it_expires() -> None:
    wheel = Deadlines()
    items = [Item(1.0, wheel) for _ in range(3)]
    for item in items:
        wheel.watch(item)
    wheel.tick(1.0)
    assert [item.expired for item in items] == [[1.0]] * 3
    assert len(wheel) == 0


def test_a_deadline_that_is_moved_by_an_attribute_write_counts_at_once() -> None:
    wheel = Deadlines()
    item = Item(1.0)
    wheel.watch(item)
    item.deadline = 5.0
    wheel.tick(4.9)
    assert item.expired == []


def test_after_a_pause_of_our_own_there_is_a_turn_for_what_came_meanwhile_but_not_two() -> None:
    wheel = Deadlines()
    item = Item(3.0)
    wheel.watch(item)
    for now in (0.0, 0.1, 5.0):  # stopped for five seconds
        wheel.turn(now)
    assert item.expired == []
    wheel.turn(5.1)
    assert item.expired == [5.1]

    item.deadline = 6.0
    for now in (10.0, 15.0):  # so busy that every turn is late
        wheel.turn(now)
    assert item.expired == [5.1, 15.0]
