"""Requests that come faster than they can be begun stand in line, and nobody has to wait for the end of one turn."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from proxy.server.line import MAX_SLICE_S, SLICE_S, Line

pytestmark = pytest.mark.unit

BEGIN_S = 0.001  # what it takes to begin one


@dataclass(eq=False)
class Asked:
    world: World
    name: str = ""
    disconnected: bool = False

    def begin(self) -> None:
        self.world.line.begun += 1
        self.world.now += BEGIN_S
        self.world.begun.append(self.name)


@dataclass
class World:
    now: float = 100.0
    heard: list[float] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    line: Line = field(init=False)

    def __post_init__(self) -> None:
        self.line = Line(monotonic=lambda: self.now, heard=lambda: self.heard.append(self.now))

    def form(self) -> None:
        self.line.begun += 2
        self.line.pause(self.now, long=True)


@pytest.mark.parametrize(
    ("long", "began", "formed"),
    [(True, 2, True), (True, 1, False), (False, 30, False)],
    ids=["a crowd", "chunks", "a short turn"],
)
def test_a_line_forms_in_a_long_turn_that_is_made_of_requests(long: bool, began: int, formed: bool) -> None:
    async def scenario() -> None:
        world = World()
        world.line.begun = began
        world.line.pause(world.now, long=long)
        assert world.line.formed is formed

    asyncio.run(scenario())


def test_only_those_count_that_began_since_the_last_pause() -> None:
    world = World()
    world.line.begun = 1
    world.line.pause(world.now, long=True)
    world.line.begun = 2
    world.line.pause(world.now, long=True)
    assert not world.line.formed


def test_in_each_turn_some_are_begun_in_their_order_and_the_line_is_over_when_nobody_stands_there() -> None:
    async def scenario() -> None:
        world = World()
        world.form()
        for number in range(20):
            world.line.add(Asked(world, str(number)))
        world.now += SLICE_S / 2
        assert len(world.line) == 20
        assert world.line.waited_s(world.now) == pytest.approx(SLICE_S / 2)
        turns = []
        while world.line.formed:
            before = len(world.begun)
            await asyncio.sleep(0)
            turns.append(len(world.begun) - before)
        assert turns[0] == round(SLICE_S / BEGIN_S)
        assert world.begun == [str(number) for number in range(20)]
        assert (len(world.line), world.line.waited_s(world.now)) == (0, 0.0)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("rest_s", "slice_s"), [(0.001, SLICE_S), (0.1, 0.05), (1.0, MAX_SLICE_S)], ids=["short", "half as long", "bounded"]
)
def test_they_are_begun_for_half_as_long_as_the_rest_of_a_turn_takes(rest_s: float, slice_s: float) -> None:
    async def scenario() -> None:
        world = World()
        world.form()
        for _ in range(1_000):
            world.line.add(Asked(world))
        world.now += rest_s
        await asyncio.sleep(0)
        assert len(world.begun) == pytest.approx(slice_s / BEGIN_S, abs=1)
        assert len(world.heard) == pytest.approx(slice_s / SLICE_S, abs=1), "meanwhile others are heard"

    asyncio.run(scenario())


def test_who_has_left_is_not_begun_and_an_empty_line_is_over_in_the_next_turn() -> None:
    async def scenario() -> None:
        world = World()
        world.form()
        world.line.add(Asked(world, "gone", disconnected=True))
        world.line.add(Asked(world, "here"))
        await asyncio.sleep(0)
        assert (world.begun, world.line.formed) == (["here"], False)
        world.form()
        await asyncio.sleep(0)
        assert not world.line.formed

    asyncio.run(scenario())
