"""Time that is set: everything happens in its order and at its moment, and nobody waits."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from proxy.simulation.loop import BEGAN_S, Deadlock, VirtualClock, VirtualLoop

pytestmark = pytest.mark.unit
Clocked = Callable[[VirtualClock], Coroutine[Any, Any, Any]]


def run(work: Clocked, *, start: float = 0.0) -> Any:
    clock = VirtualClock(start)
    loop = VirtualLoop(clock)
    try:
        return loop.run_until_complete(work(clock))
    finally:
        loop.close()


def test_sleepers_wake_in_the_order_and_at_the_time_that_they_asked_for() -> None:
    async def work(clock: VirtualClock) -> list[tuple[str, float]]:
        woken = []

        async def sleeper(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            woken.append((name, clock.passed_s))

        await asyncio.gather(sleeper("c", 86_400), sleeper("a", 0.1), sleeper("b", 0.3), sleeper("a2", 0.1))
        return woken

    assert run(work) == [("a", 0.1), ("a2", 0.1), ("b", 0.3), ("c", 86_400.0)]


def test_a_moment_is_met_exactly_after_many_small_steps() -> None:
    async def work(clock: VirtualClock) -> float:
        loop = asyncio.get_running_loop()
        reached: asyncio.Future[float] = loop.create_future()
        loop.call_at(BEGAN_S + 600.0, lambda: reached.set_result(clock.passed_s))
        for _ in range(6_001):
            await asyncio.sleep(0.1)
        return await reached

    assert run(work) == 600.0


def test_the_wall_goes_along() -> None:
    async def work(clock: VirtualClock) -> float:
        await asyncio.sleep(90)
        return clock.wall()

    assert run(work, start=1_800_000_000.0) == 1_800_000_090.0


def test_a_timeout_passes_when_nothing_else_happens() -> None:
    async def work(clock: VirtualClock) -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3_600):
                await asyncio.Event().wait()
        return clock.passed_s

    began = time.monotonic()
    assert run(work) == 3_600
    assert time.monotonic() - began < 60


def test_a_timer_that_is_taken_back_costs_no_time() -> None:
    async def work(clock: VirtualClock) -> float:
        asyncio.get_running_loop().call_later(50, pytest.fail).cancel()
        await asyncio.sleep(2)
        return clock.passed_s

    assert run(work) == 2


def test_work_for_threads_is_done_at_once_and_its_fault_comes_back() -> None:
    async def work(clock: VirtualClock) -> float:
        assert await asyncio.to_thread(sum, [1, 2]) == 3
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        return clock.passed_s

    assert run(work) == 0


def test_waiting_for_nothing_that_can_come_is_told() -> None:
    async def work(clock: VirtualClock) -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        run(work)
