"""What ends a request from outside while it waits, and how the request learns why."""

import asyncio

import pytest

from proxy.core.deadlines import NEVER, Deadlines
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.engine.control import Control

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


class Waiting:
    """A task that waits for ever, and tells what ended the wait."""

    def __init__(self, waits: int = 1) -> None:
        self.control: Control
        self.causes: list[UpstreamError | None] = []
        self.ready = asyncio.Event()
        self.interrupted = asyncio.Event()
        self.after = asyncio.Event()
        self._waits = waits
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> str:
        task = asyncio.current_task()
        assert task is not None
        self.control = Control(task)
        for _ in range(self._waits):
            try:
                self.ready.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cause = self.control.cause()
                self.causes.append(cause)
                self.interrupted.set()
                if cause is None:
                    raise
        await asyncio.wait_for(self.after.wait(), 30)
        return "went on"


@pytest.mark.parametrize(
    "phase", [ErrorClass.TTFB_TIMEOUT, ErrorClass.IDLE_TIMEOUT, ErrorClass.TOTAL_TIMEOUT, ErrorClass.CLIENT_GONE]
)
async def test_a_deadline_ends_the_wait_with_what_it_means_and_the_task_goes_on(phase: ErrorClass) -> None:
    waiting = Waiting()
    await waiting.ready.wait()
    wheel = Deadlines()
    wheel.watch(waiting.control)
    waiting.control.phase = phase
    waiting.control.deadline = 10.0
    wheel.tick(9.9)
    wheel.tick(10.0)
    wheel.tick(10.1)
    waiting.after.set()
    assert await waiting.task == "went on"
    assert [cause.error_class for cause in waiting.causes if cause] == [phase]
    assert waiting.control.deadline == NEVER
    assert waiting.task.cancelling() == 0  # uncancelled: timeouts and task groups inside would otherwise misread it


async def test_a_caller_who_leaves_is_told_apart_from_a_slow_one() -> None:
    waiting = Waiting()
    await waiting.ready.wait()
    waiting.control.client_gone()
    waiting.after.set()
    await waiting.task
    assert waiting.control.gone
    assert [cause.error_class for cause in waiting.causes if cause] == [ErrorClass.CLIENT_GONE]


async def test_the_first_reason_counts_but_a_caller_who_left_is_gone_whatever_came_first() -> None:
    waiting = Waiting()
    await waiting.ready.wait()
    waiting.control.interrupt(ErrorClass.DRAINED)
    waiting.control.interrupt(ErrorClass.IDLE_TIMEOUT)
    waiting.after.set()
    await waiting.task
    assert [cause.error_class for cause in waiting.causes if cause] == [ErrorClass.DRAINED]

    waiting = Waiting()
    await waiting.ready.wait()
    waiting.control.interrupt(ErrorClass.IDLE_TIMEOUT)
    waiting.control.client_gone()
    waiting.after.set()
    await waiting.task
    assert [cause.error_class for cause in waiting.causes if cause] == [ErrorClass.CLIENT_GONE]


async def test_one_interruption_cancels_once_and_the_next_again() -> None:
    waiting = Waiting(waits=2)
    await waiting.ready.wait()
    waiting.control.interrupt(ErrorClass.IDLE_TIMEOUT)
    await waiting.interrupted.wait()
    waiting.control.interrupt(ErrorClass.DRAINED)
    waiting.after.set()
    await waiting.task
    assert [cause.error_class for cause in waiting.causes if cause] == [ErrorClass.IDLE_TIMEOUT, ErrorClass.DRAINED]
    assert waiting.task.cancelling() == 0


async def test_a_cancellation_from_elsewhere_is_not_swallowed() -> None:
    waiting = Waiting()
    await waiting.ready.wait()
    waiting.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting.task
    assert waiting.causes == [None]


async def test_an_interruption_inside_a_timeout_is_ours_and_not_the_timeouts() -> None:
    seen: list[ErrorClass] = []

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        control = Control(task)
        asyncio.get_running_loop().call_soon(control.interrupt, ErrorClass.DRAINED)
        try:
            async with asyncio.timeout(30):
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            cause = control.cause()
            assert cause is not None
            seen.append(cause.error_class)

    await asyncio.create_task(run())
    assert seen == [ErrorClass.DRAINED]


async def test_a_request_that_is_over_is_not_harmed() -> None:
    waiting = Waiting()
    await waiting.ready.wait()
    waiting.control.interrupt(ErrorClass.DRAINED)
    waiting.after.set()
    await waiting.task
    waiting.control.interrupt(ErrorClass.DRAINED)
    waiting.control.client_gone()
    assert waiting.task.result() == "went on"
