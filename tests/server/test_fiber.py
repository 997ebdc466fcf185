"""A fiber behaves as a task does, but for when it runs."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from proxy.server.fiber import Fiber, new_waiter

pytestmark = pytest.mark.unit


class Stage:
    """Runs things as callbacks of a loop, where fibers live, and keeps what happened in order."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.faults: list[dict[str, Any]] = []

    def play(self, scene: Callable[[asyncio.AbstractEventLoop], Awaitable[None]]) -> list[Any]:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: self.faults.append(context))
            await scene(loop)

        asyncio.run(main())
        return self.seen


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def turns(number: int = 3) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def started(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> Fiber:
    fiber = Fiber(loop)
    loop.call_soon(fiber.start, coroutine)
    await turns(1)
    return fiber


def test_the_first_step_is_taken_by_start_and_the_next_by_whoever_tells_the_waiter(stage: Stage) -> None:
    async def work() -> None:
        stage.seen.append("started")
        waiter = new_waiter(asyncio.get_running_loop())
        assert isinstance(waiter, Fiber)
        await waiter
        stage.seen.append("resumed")

    def told(fiber: Fiber) -> None:
        assert not fiber.done()
        fiber.set_result(None)
        stage.seen.append("told")

    async def scene(loop: asyncio.AbstractEventLoop) -> None:
        fiber = await started(loop, work())
        stage.seen.append("waits")
        loop.call_soon(told, fiber)
        await turns()

    assert stage.play(scene) == ["started", "waits", "resumed", "told"]


def test_it_is_the_current_task_and_only_while_it_runs(stage: Stage) -> None:
    async def work() -> None:
        stage.seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        stage.seen.append(asyncio.current_task())

    async def scene(loop: asyncio.AbstractEventLoop) -> None:
        fiber = await started(loop, work())
        await turns()
        assert stage.seen == [fiber, fiber]
        assert isinstance(asyncio.current_task(), asyncio.Task)

    stage.play(scene)


def test_outside_a_fiber_a_waiter_is_a_future(stage: Stage) -> None:
    async def scene(loop: asyncio.AbstractEventLoop) -> None:
        assert isinstance(new_waiter(asyncio.get_running_loop()), asyncio.Future)

    stage.play(scene)


def test_futures_are_awaited_as_by_any_task(stage: Stage) -> None:
    async def work(good: asyncio.Future[int], bad: asyncio.Future[int]) -> None:
        stage.seen.append(await good)
        try:
            await bad
        except ValueError as fault:
            stage.seen.append(str(fault))

    async def scene(loop: asyncio.AbstractEventLoop) -> None:
        good, bad = loop.create_future(), loop.create_future()
        await started(loop, work(good, bad))
        good.set_result(7)
        bad.set_exception(ValueError("odd"))
        await turns()

    assert stage.play(scene) == [7, "odd"]


def test_an_exception_for_the_waiter_is_raised_where_it_is_awaited(stage: Stage) -> None:
    async def work() -> None:
        try:
            await new_waiter(asyncio.get_running_loop())
        except ValueError as fault:
            stage.seen.append(str(fault))

    async def scene(loop: asyncio.AbstractEventLoop) -> None:
        fiber = await started(loop, work())
        loop.call_soon(fiber.set_exception, ValueError("torn"))
        await turns()

    assert stage.play(scene) == ["torn"]


@pytest.mark.parametrize("how", ["parked", "future", "running"])
def test_it_is_cancelled_wherever_it_waits_and_may_go_on(stage: Stage, how: str) -> None:
    async def work(loop: asyncio.AbstractEventLoop, fiber: Fiber) -> None:
        try:
            if how == "running":
                fiber.cancel()
            await (loop.create_future() if how == "future" else new_waiter(asyncio.get_running_loop()))
        except asyncio.CancelledError:
            stage.seen.append(("cancelled", fiber.cancelling(), fiber.uncancel()))
        await asyncio.sleep(0)
        stage.seen.append("goes on")

    async def scene(loop: asyncio.AbstractEventLoop) -> None:
        fiber = Fiber(loop)
        loop.call_soon(fiber.start, work(loop, fiber))
        await turns(1)
        if how != "running":
            fiber.cancel()
        await turns(4)

    assert stage.play(scene) == [("cancelled", 1, 0), "goes on"]


def test_news_that_comes_after_a_cancellation_does_not_undo_it(stage: Stage) -> None:
    async def work() -> None:
        try:
            await new_waiter(asyncio.get_running_loop())
            stage.seen.append("news")
        except asyncio.CancelledError:
            stage.seen.append("cancelled")

    async def scene(loop: asyncio.AbstractEventLoop) -> None:
        fiber = await started(loop, work())
        fiber.cancel()
        assert fiber.done()
        fiber.set_result(None)
        fiber.set_exception(ValueError())
        await turns()
        fiber.set_result(None)

    assert stage.play(scene) == ["cancelled"]
    assert stage.faults == []


def test_inside_a_task_a_step_is_put_off_until_that_has_had_its_own(stage: Stage) -> None:
    async def work() -> None:
        stage.seen.append("started")
        try:
            await new_waiter(asyncio.get_running_loop())
        except ValueError as fault:
            stage.seen.append(str(fault))

    async def scene(loop: asyncio.AbstractEventLoop) -> None:
        fiber = Fiber(loop)
        fiber.start(work())
        stage.seen.append("put off")
        await turns()
        fiber.set_exception(ValueError("torn"))
        stage.seen.append("put off again")
        await turns()

    assert stage.play(scene) == ["put off", "started", "put off again", "torn"]


def test_time_limits_hold_inside(stage: Stage) -> None:
    async def work() -> None:
        try:
            async with asyncio.timeout(0):
                await new_waiter(asyncio.get_running_loop())
        except TimeoutError:
            stage.seen.append("timeout")
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
        stage.seen.append("in time")

    async def scene(loop: asyncio.AbstractEventLoop) -> None:
        fiber = await started(loop, work())
        await turns(50)
        assert fiber.cancelling() == 0

    assert stage.play(scene) == ["timeout", "in time"]


def test_a_message_of_the_cancellation_arrives(stage: Stage) -> None:
    async def work(park: bool, loop: asyncio.AbstractEventLoop) -> None:
        try:
            await (new_waiter(asyncio.get_running_loop()) if park else loop.create_future())
        except asyncio.CancelledError as error:
            stage.seen.append(error.args)

    async def scene(loop: asyncio.AbstractEventLoop) -> None:
        for park in (True, False):
            (await started(loop, work(park, loop))).cancel("scope")
            await turns()

    assert stage.play(scene) == [("scope",), ("scope",)]


def test_what_escapes_goes_to_the_loops_handler_and_a_cancellation_to_nobody(stage: Stage) -> None:
    async def faulty() -> None:
        raise ValueError("odd")

    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def scene(loop: asyncio.AbstractEventLoop) -> None:
        await started(loop, faulty())
        await started(loop, cancelled())

    stage.play(scene)
    assert [str(fault["exception"]) for fault in stage.faults] == ["odd"]
