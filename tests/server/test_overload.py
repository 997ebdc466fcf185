"""How many requests may run, by how late the loop is. Time is told, so a second of overload takes no time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.settings import ServerSettings
from proxy.core.deadlines import NEVER, TICK_S
from proxy.server.doorbell import Doorbell
from proxy.server.line import Line
from proxy.server.overload import (
    CALM_S,
    CROWD,
    CROWD_WAITS,
    FLOOR,
    MAX_IN_FLIGHT,
    MAX_WAIT_S,
    NOTICE_S,
    PATIENCE_S,
    PULSE_S,
    TOO_LONG_S,
    TOO_MANY_EACH,
    TOO_MANY_PER_S,
    Governor,
    LoopWatch,
)
from proxy.server.run_delay import RunDelay

unit = pytest.mark.unit


@dataclass
class World:
    """A loop whose turns are as long as the requests that run make them, asked for more than it can do."""

    governor: Governor = field(default_factory=Governor)
    now: float = 100.0
    live: int = 0

    def look(
        self, late_s: float = 0.0, *, refused: int = 0, others_s: float = 0.0, standing: int = 0, waited_s: float = 0.0
    ) -> bool:
        self.governor.expect(self.now + PULSE_S)
        self.now += PULSE_S
        self.now += late_s
        self.governor.refused += refused
        return self.governor.look(self.now, self.live, others_s, standing=standing, waited_s=waited_s)

    def for_(self, seconds: float, late_s: float = 0.0, *, refused: int = 0) -> None:
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.look(late_s, refused=refused)


def shedding(live: int = 1_000) -> World:
    world = World(live=live)
    world.for_(PATIENCE_S * 1.1, MAX_WAIT_S * 0.66, refused=1)
    assert world.governor.shedding
    return world


@unit
def test_what_is_not_written_is_what_a_governor_begins_with() -> None:
    assert (ServerSettings().max_in_flight, ServerSettings().max_wait_s) == (MAX_IN_FLIGHT, MAX_WAIT_S)


@unit
def test_in_calm_there_is_room_for_as_many_as_the_configuration_says() -> None:
    governor = Governor(max_in_flight=10, max_wait_s=0.1)
    governor.expect(5.0)
    assert not governor.refuses(9, 5.0)
    assert governor.refuses(10, 5.0)


@unit
@pytest.mark.parametrize(
    ("live", "late_s", "soon"),
    [(0, 0.0, False), (FLOOR - 1, NOTICE_S / 2, False), (1, NOTICE_S * 1.01, True), (FLOOR, 0.0, True)],
    ids=["idle", "a few requests", "late", "busy"],
)
def test_who_looks_closely_has_a_reason(live: int, late_s: float, soon: bool) -> None:
    assert World(live=live).look(late_s) is soon


@unit
def test_a_loop_that_is_late_for_a_second_sheds_and_one_that_is_late_for_a_moment_does_not() -> None:
    world = World(live=500)
    world.look(MAX_WAIT_S * 30)
    told = [world.governor.shedding]
    world.look()
    for part in (0.9, 0.2):
        world.for_(PATIENCE_S * part, MAX_WAIT_S * 0.31)
        told.append(world.governor.shedding)
    assert told == [False, False, True]
    assert world.governor.room == 500
    assert world.governor.refuses(500, world.now)


@unit
def test_one_look_in_between_that_is_in_time_begins_it_anew() -> None:
    world = World(live=500)
    for _ in range(5):
        world.for_(PATIENCE_S * 0.9, MAX_WAIT_S * 0.31)
        world.look()
    assert not world.governor.shedding


@unit
@pytest.mark.parametrize("came_in", [1, 3, 10, 40], ids="in {} turns".format)
def test_a_thousand_may_come_to_an_idle_proxy_at_once_and_none_is_refused(came_in: int) -> None:
    """However long the turns in which they come, and how late the loop is with all of them from then on."""
    world = World()
    for _ in range(came_in):
        world.look(0.5 / came_in)
        for _ in range(1_000 // came_in):
            assert not world.governor.refuses(world.live, world.now)
            world.live += 1
    world.for_(5.0, MAX_WAIT_S * 0.7)
    assert world.live <= world.governor.room


@unit
def test_of_a_crowd_that_is_larger_no_more_are_taken_while_the_loop_is_late_and_shedding_begins_at_once() -> None:
    world = World(live=CROWD - 1)
    rooms = []
    for late in (0.31, 0.0):
        world.look(MAX_WAIT_S * late)
        rooms.append(world.governor.room)
    assert rooms == [CROWD, MAX_IN_FLIGHT]
    world.live = CROWD + 500
    world.look(MAX_WAIT_S * 0.31)
    assert (world.governor.shedding, world.governor.room) == (True, CROWD + 500)


@unit
def test_to_stand_in_line_counts_for_half() -> None:
    world = World(live=500)
    for _ in range(200):
        world.look(waited_s=MAX_WAIT_S * 0.5, standing=400, refused=1)
    told = [world.governor.shedding]
    for _ in range(200):
        world.look(waited_s=MAX_WAIT_S * 0.6, standing=400, refused=1)
    assert [*told, world.governor.shedding] == [False, True]


@unit
def test_once_some_are_refused_it_counts_for_three_quarters() -> None:
    rooms = []
    for waited in (0.8, 0.9):  # of the room for as long as a line takes
        world = shedding(1_000)
        world.governor.room = world.live
        for _ in range(20):
            world.look(waited_s=MAX_WAIT_S * waited, standing=400, refused=1)
        rooms.append(world.governor.room)
    assert rooms[0] == 1_000
    assert rooms[1] < 1_000


@unit
@pytest.mark.parametrize(("standing", "rooms"), [(400, [950, 902]), (600, [500, 250])], ids=["some", "most"])
def test_where_most_stand_in_line_room_is_halved_since_that_helps_at_once(standing: int, rooms: list[int]) -> None:
    world = shedding(1_000)
    world.governor.room = world.live
    found = []
    for _ in rooms:
        world.look(MAX_WAIT_S * CROWD_WAITS, standing=standing, refused=1)
        found.append(world.governor.room)
        world.live = world.governor.room
    assert found == rooms


@unit
def test_with_few_requests_it_is_not_they_that_make_the_loop_late() -> None:
    world = World(live=FLOOR - 1)
    world.for_(5.0, MAX_WAIT_S * 2)
    assert not world.governor.shedding
    assert world.governor.room == MAX_IN_FLIGHT


@unit
def test_room_shrinks_while_the_loop_is_late_and_what_was_taken_has_come_into_effect() -> None:
    world = shedding(1_000)
    world.governor.room = 1_000
    world.for_(3.0, MAX_WAIT_S * 0.7, refused=1)
    assert 900 <= world.governor.room < 960, "nobody has gone since, so nothing more is taken"
    world.live = before = world.governor.room
    world.for_(0.5, MAX_WAIT_S * 0.7, refused=1)
    assert world.governor.room < before


@unit
def test_room_is_never_less_than_the_floor_and_never_more_than_the_configuration_says() -> None:
    world = shedding()
    for _ in range(500):
        world.live = world.governor.room
        world.look(MAX_WAIT_S, refused=1)
    assert world.governor.room == FLOOR
    world.for_(20.0, refused=1)
    assert world.governor.room == MAX_IN_FLIGHT
    assert world.governor.shedding, "as long as somebody is refused"


@unit
def test_a_smaller_number_than_the_floor_holds() -> None:
    world = World(Governor(max_in_flight=8, max_wait_s=MAX_WAIT_S), live=FLOOR)
    world.for_(1.0, MAX_WAIT_S)
    assert world.governor.room == 8


@unit
def test_moments_of_lateness_among_looks_in_time_take_no_room() -> None:
    """A program beside it takes the core now and then: refusing requests would not help."""
    world = shedding()
    before = world.governor.room
    for _ in range(100):
        for late in (1.0, 0.0, 0.0):
            world.look(MAX_WAIT_S * late, refused=1)
    assert world.governor.room >= before


@unit
def test_it_is_over_when_nobody_was_refused_for_a_second() -> None:
    world = shedding()
    told = []
    for seconds in (CALM_S / 2, CALM_S * 1.5):
        world.for_(seconds)
        told.append((world.governor.shedding, world.governor.room == MAX_IN_FLIGHT))
    assert told == [(True, False), (False, True)]


@unit
@pytest.mark.parametrize(
    ("refused_per_s", "begun_per_s", "overwhelmed"),
    [
        (TOO_MANY_PER_S * 1.1, TOO_MANY_PER_S / TOO_MANY_EACH, True),
        (TOO_MANY_PER_S * 1.1, TOO_MANY_PER_S / TOO_MANY_EACH * 1.2, False),
        (TOO_MANY_PER_S * 0.9, 0, False),
    ],
    ids=["much more than begin", "not so much more", "few"],
)
def test_when_the_refusing_takes_too_much_time_it_says_so(refused_per_s: float, begun_per_s: float, overwhelmed: bool) -> None:
    governor, begun = Governor(), 0.0
    for step in range(100):
        governor.refused += round(refused_per_s / 20)
        begun += begun_per_s / 20
        governor.weigh(100.0 + step / 20, round(begun))
    assert governor.overwhelmed is overwhelmed
    governor.weigh(200.0, round(begun))
    assert not governor.overwhelmed


@unit
def test_what_is_read_when_the_turn_has_lasted_too_long_is_refused_where_a_crowd_is_in_already() -> None:
    governor = Governor()
    governor.expect(10.0)
    assert not governor.refuses(CROWD, 10.0 + CROWD_WAITS * MAX_WAIT_S)
    assert governor.refuses(CROWD, 10.0 + CROWD_WAITS * MAX_WAIT_S + 0.001)
    assert not governor.refuses(CROWD - 1, 11.0)


@unit
def test_a_wait_of_zero_means_that_only_the_number_counts() -> None:
    world = World(Governor(max_in_flight=100, max_wait_s=0.0), live=99)
    for _ in range(100):
        assert not world.look(3.0)
    assert not world.governor.refuses(99, world.now + 60)
    assert world.governor.late_at == NEVER
    assert world.governor.refuses(100, world.now)


@unit
def test_a_reload_that_changes_nothing_here_does_not_end_it_and_one_that_does_begins_anew() -> None:
    world = shedding()
    room = world.governor.room
    world.governor.configure(max_in_flight=MAX_IN_FLIGHT, max_wait_s=MAX_WAIT_S)
    assert (world.governor.shedding, world.governor.room) == (True, room)
    world.governor.configure(max_in_flight=9_000, max_wait_s=MAX_WAIT_S)
    assert (world.governor.shedding, world.governor.room) == (False, 9_000)


@pytest.mark.property
@given(
    st.lists(st.tuples(st.floats(0, 2), st.integers(0, 5_000), st.integers(0, 3)), max_size=200),
    st.integers(1, 5_000),
    st.sampled_from([0.0, 0.02, 0.1, 1.0]),
)
def test_whatever_comes_room_keeps_within_its_bounds(looks: list[tuple[float, int, int]], most: int, max_wait_s: float) -> None:
    world = World(Governor(max_in_flight=most, max_wait_s=max_wait_s))
    for late_s, live, refused in looks:
        world.live = live
        world.look(late_s, refused=refused)
        assert min(FLOOR, most) <= world.governor.room <= most
        assert world.governor.room == most or world.governor.shedding or late_s >= 0.3 * max_wait_s


@unit
@pytest.mark.parametrize(
    ("capacity", "factor", "seconds"), [(200, 5, 0.5), (200, 5, 5.0), (1_000, 10, 2.0), (100, 2, 0.1)], ids=str
)
def test_a_loop_that_is_asked_for_more_than_it_can_do_stays_busy_and_is_not_late(
    capacity: int, factor: int, seconds: float
) -> None:
    """A model of streams: each takes a share of the loop while it runs, and above `capacity` of them a turn gets longer and longer.
    `factor` times as many come as could be served."""
    governor, now, live, done = Governor(), 0.0, 0.0, 0.0
    late: list[float] = []
    coming = capacity / seconds * factor
    while now < 60:
        turn_s = PULSE_S * min(live / capacity, 40.0) if live > capacity else 0.001
        step_s = PULSE_S + turn_s
        governor.expect(now + PULSE_S)
        now += step_s
        ended = min(live, capacity) * step_s / seconds if live else 0.0
        live -= ended
        arriving = coming * step_s
        taken = max(0.0, min(arriving, governor.room - live))
        governor.refused += int(arriving - taken)
        live += taken
        governor.look(now, int(live))
        if now > 30:
            done += ended
            late.append(turn_s)
    assert done >= 0.9 * 30 * capacity / seconds
    late.sort()
    assert late[len(late) // 2] <= 0.66 * MAX_WAIT_S


@unit
def test_a_loop_that_is_late_because_others_have_the_processor_sheds_nobody_but_is_looked_at_closely() -> None:
    world = World(live=500)
    for _ in range(50):
        assert world.look(MAX_WAIT_S, others_s=MAX_WAIT_S * 0.8)
        assert world.governor.late_s == pytest.approx(MAX_WAIT_S)
    assert not world.governor.shedding
    for _ in range(50):
        world.look(MAX_WAIT_S, others_s=MAX_WAIT_S * 0.6, refused=1)
    assert world.governor.shedding


# -- keeping it looking


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def request(self, fields: dict[str, Any]) -> None: ...
    def error(self, event: str, **fields: Any) -> None: ...
    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))


class Bell:
    def __init__(self) -> None:
        self.told: list[tuple[float, bool, bool]] = []
        self.up = False

    def looked(self, due: float, *, busy: bool, late: bool) -> None:
        self.told.append((due, busy, late))
        self.up = busy

    def take_down(self) -> None:
        self.up = False


class Others(RunDelay):
    """How long others had the processor since the last look."""

    s = 0.0

    def since_last_s(self) -> float:
        return self.s


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@unit
def test_the_watch_has_a_timer_of_its_own_only_while_there_is_much_to_do() -> None:
    governor, live, clock, log, bell = Governor(), set[int](), Clock(), Log(), Bell()
    line = Line(monotonic=clock, heard=lambda: None)
    watch = LoopWatch(governor, live, line, cast(Doorbell, bell), monotonic=clock, run_delay=Others(), log=log)

    async def scenario() -> None:
        watch.tick(0.0)
        assert governor.late_at == pytest.approx(TICK_S + CROWD_WAITS * MAX_WAIT_S)
        live.update(range(FLOOR))
        clock.now = TICK_S
        watch.tick(clock.now)
        assert governor.late_at == pytest.approx(TICK_S + PULSE_S + CROWD_WAITS * MAX_WAIT_S)
        assert bell.told == [(TICK_S, False, False), (TICK_S + PULSE_S, True, False)]
        assert watch.too_long_at == pytest.approx(TICK_S + PULSE_S + TOO_LONG_S)
        watch.stop()
        assert not bell.up

    asyncio.run(scenario())


@unit
def test_the_watch_tells_when_it_begins_and_ends_and_that_turns_are_long() -> None:
    governor, live, clock, log, bell = Governor(), set(range(500)), Clock(), Log(), Bell()
    line = Line(monotonic=clock, heard=lambda: None)
    watch = LoopWatch(governor, live, line, cast(Doorbell, bell), monotonic=clock, run_delay=Others(), log=log)

    async def scenario() -> None:
        for _ in range(12):
            clock.now += PULSE_S + MAX_WAIT_S
            watch._beat()
            watch.stop()
        assert (governor.room, log.lines) == (500, []), "nobody was refused"
        governor.refused += 1
        watch._beat()
        watch.stop()
        assert log.lines == [("shedding", {"running": 500, "late_ms": 0})]
        assert [late for _, _, late in bell.told] == [False] + [True] * 11 + [False], (
            "of the first look nobody knows when it was due"
        )
        governor.refused += 16
        while governor.shedding:
            clock.now += PULSE_S
            watch._beat()
            watch.stop()
        assert log.lines[-1] == ("shedding_over", {"refused": 17})

    asyncio.run(scenario())
