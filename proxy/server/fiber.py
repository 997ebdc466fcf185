"""A task for one request that starts at once and is resumed from where its news arrives.

asyncio's own task waits for the next turn of the event loop to start and for one more each time that what it awaited is there. Most
requests here wait once, for the upstream's answer, so both turns are most of what a task costs: a fiber takes its first step in the
callback that read the request, and the next in the callback that read the answer.

    start ──> running ──await of a future──> waiting ──done──> running …          as any task; `asyncio.timeout` works inside
                 └──────await of a waiter──> parked ──set_result──> running …     see `new_waiter`

It is a third-party task as asyncio provides for (https://docs.python.org/3.11/library/asyncio-extending.html): `current_task` finds it,
and it is cancelled like one. Steps never nest: `start` and `set_result` belong into callbacks of the loop; inside a task they wait for
its step to end.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Coroutine, Generator
from typing import Any


class Fiber:
    """Runs one coroutine, which must handle its own exceptions: what escapes it goes to the loop's exception handler."""

    __slots__ = ("__weakref__", "_cancel_message", "_cancels", "_coroutine", "_fut_waiter", "_loop", "_must_cancel", "_parked")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._coroutine: Coroutine[Any, Any, None]  # from `start` on
        self._fut_waiter: asyncio.Future[Any] | None = None
        self._parked = False
        self._must_cancel = False
        self._cancel_message: Any = None  # anyio knows its own cancellations by it
        self._cancels = 0

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine = coroutine
        self._step()

    # -- what a task can do

    def cancel(self, msg: object = None) -> bool:
        self._cancels += 1
        if self._fut_waiter is not None and self._fut_waiter.cancel(msg):
            return True
        self._must_cancel = True
        self._cancel_message = msg
        if self._parked:
            self._parked = False
            self._loop.call_soon(self._step)
        return True

    def uncancel(self) -> int:
        if self._cancels > 0:
            self._cancels -= 1
        return self._cancels

    def cancelling(self) -> int:
        return self._cancels

    def get_coro(self) -> Coroutine[Any, Any, None]:
        return self._coroutine

    def get_name(self) -> str:
        return "fiber"

    # -- what a waiter can do, for the one who parked on it

    def __await__(self) -> Generator[Any, None, None]:
        return iter((self,))  # type: ignore[return-value]  # what `yield self` comes to, with nothing to resume

    def done(self) -> bool:
        return not self._parked

    def set_result(self, result: None, /) -> None:
        if self._parked:
            self._parked = False
            self._step()

    def set_exception(self, exception: BaseException, /) -> None:
        if self._parked:
            self._parked = False
            self._step(exception)

    # -- steps

    def _step(self, error: BaseException | None = None) -> None:
        if self._must_cancel:
            self._must_cancel = False
            error = asyncio.CancelledError() if self._cancel_message is None else asyncio.CancelledError(self._cancel_message)
        try:
            _enter_task(self._loop, self)  # type: ignore[arg-type]
        except RuntimeError:  # called inside a task after all: then its turn comes when that one has had its own
            self._loop.call_soon(self._step, error)
            return
        try:
            waited = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        except StopIteration:
            return
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as fault:  # noqa: BLE001 - as a task keeps its exception, for nobody here would take it
            self._escaped(fault)
            return
        finally:
            _leave_task(self._loop, self)  # type: ignore[arg-type]
        if waited is self:
            self._parked = True
            if self._must_cancel:  # it came while the step ran
                self._parked = False
                self._loop.call_soon(self._step)
        elif waited is None:  # asyncio.sleep(0)
            self._loop.call_soon(self._step)
        else:
            waited._asyncio_future_blocking = False
            waited.add_done_callback(self._wake)
            self._fut_waiter = waited
            if self._must_cancel and waited.cancel(self._cancel_message):
                self._must_cancel = False

    def _wake(self, _: asyncio.Future[Any]) -> None:
        self._fut_waiter = None
        self._step()  # the future raises in the coroutine what it has to raise

    def _escaped(self, fault: BaseException) -> None:
        if not isinstance(fault, asyncio.CancelledError):
            self._loop.call_exception_handler({"message": "a request's fiber failed", "exception": fault})


def new_waiter(loop: asyncio.AbstractEventLoop) -> Fiber | asyncio.Future[None]:
    """To be awaited at once, by whoever asks: inside a fiber the fiber itself, which then runs on as soon as it is told, else a future.

    `loop` is the running one: to ask asyncio which that is takes a system call.
    """
    task: Any = asyncio.current_task(loop)
    return task if type(task) is Fiber else loop.create_future()
