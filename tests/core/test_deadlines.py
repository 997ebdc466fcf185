"""One timer for everything that has a deadline."""

import pytest

from proxy.core.deadlines import AT_ONCE, NEVER, SPREAD_S, STEP_S, Deadlines

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


def crowd(wheel: Deadlines, count: int) -> list[Item]:
    items = [Item(1.0, wheel) for _ in range(count)]
    for item in items:
        wheel.watch(item)
    return items


def gone(items: list[Item]) -> int:
    return sum(len(item.expired) for item in items)


def test_a_crowd_whose_time_is_over_goes_a_few_at_a_time() -> None:
    wheel = Deadlines()
    items = crowd(wheel, 3_000)
    assert wheel.turn(1.0)
    assert gone(items) == AT_ONCE
    now, steps = 1.0, []
    more = True
    while more:
        now, before = now + STEP_S, gone(items)
        more = wheel.go_on(now)
        steps.append(gone(items) - before)
    assert gone(items) == 3_000
    assert max(steps) <= 3_000 * STEP_S / SPREAD_S + 1
    assert now <= 1.0 + SPREAD_S + STEP_S


def test_however_seldom_the_loop_comes_to_it_a_crowd_has_gone_in_time() -> None:
    wheel = Deadlines()
    items = crowd(wheel, 3_000)
    assert wheel.turn(1.0)
    assert wheel.go_on(1.0 + SPREAD_S / 2)
    assert 1_500 <= gone(items) <= 1_500 + AT_ONCE
    assert not wheel.go_on(1.0 + SPREAD_S)
    assert gone(items) == 3_000


def test_few_are_gone_at_once() -> None:
    wheel = Deadlines()
    items = crowd(wheel, AT_ONCE)
    assert not wheel.turn(1.0)
    assert gone(items) == AT_ONCE


def test_a_tick_while_a_crowd_is_going_takes_a_few_more_and_asks_for_no_second_timer() -> None:
    wheel = Deadlines()
    items = crowd(wheel, 100)
    assert wheel.turn(1.0)
    later = Item(1.05)
    wheel.watch(later)
    assert not wheel.turn(1.1)
    assert AT_ONCE < gone(items) < 100
    assert later.expired == [], "its turn is after theirs"
    assert not wheel.go_on(1.0 + SPREAD_S)
    wheel.turn(1.4)
    assert later.expired == [1.4]


def test_who_got_more_time_or_left_while_he_waited_to_be_turned_out_is_spared() -> None:
    wheel = Deadlines()
    items = crowd(wheel, 100)
    assert wheel.turn(1.0)
    moved, left = items[-1], items[-2]
    moved.deadline = 9.0
    wheel.forget(left)
    assert not wheel.go_on(1.0 + SPREAD_S)
    assert (moved.expired, left.expired) == ([], [])
    assert gone(items) == 98


def test_a_fault_of_one_costs_the_others_a_tick_at_the_most() -> None:
    class Faulty(Item):
        def expire(self, now: float) -> None:
            super().expire(now)
            raise ValueError("a fault")

    wheel = Deadlines()
    faulty = Faulty(1.0)
    wheel.watch(faulty)
    items = crowd(wheel, 10)
    with pytest.raises(ValueError, match="a fault"):
        wheel.turn(1.0)
    for now in (1.1, 1.2, 1.3, 1.4, 1.5):
        wheel.turn(now)
    assert gone(items) == 10
