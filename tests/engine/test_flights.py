"""Who asks the same at the same time: whatever leaders and followers do, nobody waits for ever and there is one leader at a time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.kept import Kept
from proxy.engine.flights import MAX_FAILURES, Flight, Flights, Turn

KEPT = Kept("R1", "smart", "a", "m", 0, None, 0, 0, (), b"{}")
KEY = b"k"


class Crowd:
    """Requests that ask the same. `leading`: who leads, by number."""

    def __init__(self) -> None:
        self.flights = Flights()
        self.leading: list[int] = []
        self.told: dict[int, Kept | Turn | None] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.flight: Flight | None = None

    def come(self) -> None:
        number = len(self.tasks)
        self.tasks[number] = asyncio.create_task(self._come(number))

    async def _come(self, number: int) -> None:
        flight = self.flights.find(KEY)
        if flight is None:
            self.flight = self.flights.lead(KEY)
            self.leading.append(number)
            return
        told = self.told[number] = await flight.follow()
        if told is Turn.LEAD:
            self.leading.append(number)

    async def settle(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)


STEPS = st.lists(st.sampled_from(["come", "come", "land", "fail", "leave", "lose", "lose while told"]), max_size=25)


@pytest.mark.property
@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_there_is_one_leader_at_a_time_and_nobody_waits_for_ever(steps: list[str]) -> None:
    async def play() -> None:
        crowd = Crowd()
        for step in steps:
            if step == "come":
                crowd.come()
            elif step in ("lose", "lose while told"):
                waiting = [n for n, task in crowd.tasks.items() if not task.done() and n not in crowd.told]
                if waiting:
                    if step == "lose while told" and crowd.leading and crowd.flight is not None:
                        crowd.leading.pop()
                        crowd.flight.hand_on(failed=False)  # its turn has come, and it does not know yet
                    crowd.tasks[waiting[0]].cancel()
            elif crowd.leading and crowd.flight is not None:
                crowd.leading.pop()
                if step == "land":
                    crowd.flight.land(KEPT)
                else:
                    crowd.flight.hand_on(failed=step == "fail")
            await crowd.settle()
            assert len(crowd.leading) <= 1
            assert bool(crowd.leading) is (len(crowd.flights) == 1)
            waits = [task for task in crowd.tasks.values() if not task.done()]
            assert crowd.leading or not waits
        if crowd.leading and crowd.flight is not None:
            crowd.flight.land(None)
        await crowd.settle()
        assert all(task.done() for task in crowd.tasks.values())
        assert len(crowd.flights) == 0

    asyncio.run(play())


@pytest.mark.unit
@pytest.mark.anyio
async def test_after_so_many_failures_all_go_alone() -> None:
    crowd = Crowd()
    for _ in range(5):
        crowd.come()
    await crowd.settle()
    assert crowd.flight is not None
    for _ in range(MAX_FAILURES):
        crowd.leading.pop()
        crowd.flight.hand_on(failed=True)
        await crowd.settle()
    assert crowd.leading == []
    assert list(crowd.told.values()) == [Turn.LEAD, Turn.ALONE, Turn.ALONE, Turn.ALONE]


@pytest.mark.unit
@pytest.mark.anyio
async def test_those_beyond_the_bound_go_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.engine.flights.MAX_FOLLOWERS", 2)
    crowd = Crowd()
    for _ in range(4):
        crowd.come()
    await crowd.settle()
    assert crowd.told == {3: Turn.ALONE}
    assert crowd.flight is not None
    crowd.flight.land(KEPT)
    await crowd.settle()
    assert crowd.told == {1: KEPT, 2: KEPT, 3: Turn.ALONE}
