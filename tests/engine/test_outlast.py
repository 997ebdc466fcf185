"""`drain_on_disconnect`: a stream whose caller has left is read to its end, where the provider bills to there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from proxy.core.errors import ErrorClass
from proxy.core.target import Target, Timeouts
from tests.engine.harness import (
    COST,
    COUNTED,
    DONE,
    FOREVER,
    HI,
    ROLE,
    STOP,
    Served,
    World,
    chunk,
    fault,
    streamed,
    target,
    world,
)

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

HELD = 30.0  # seconds that an interruption cuts short

# what is still to come when the caller leaves, and what then stands in the row: how it was known, output tokens, cost
ENDS: list[tuple[str, tuple[Any, ...], tuple[str, int, int | None]]] = [
    ("to the end", (chunk("more"), STOP, COUNTED, DONE), ("provider", 20, COST)),
    ("without a word of usage", (chunk("more"), STOP, DONE), ("estimated", 2, None)),
    ("until it breaks", (chunk("x" * 400), fault(ErrorClass.RESET_STREAM)), ("estimated", 101, None)),
    (
        "until it says that it failed",
        (chunk("x" * 400), b'data: {"error": {"message": "no"}}\n\n', FOREVER),
        ("estimated", 101, None),
    ),
]


def draining(**rest: Any) -> Target:
    return target("a", provider={"drain_on_disconnect": True}, **rest)


def holding(*rest: Any, before: tuple[bytes, ...] = (ROLE, HI), to: Target | None = None) -> World:
    """An upstream that says when it holds back what follows on `before`."""
    around = world(to or draining(), a=streamed())
    around.scripts["a"] = [streamed(*before, around.waiting.set, HELD, *rest)]
    return around


async def left(around: World, leave: Callable[[Served], None]) -> Served:
    """A request whose caller leaves while the upstream holds the rest of its answer back, which comes as soon as that wait is over."""
    served = around.start(stream=True)
    await asyncio.wait_for(around.waiting.wait(), 10)
    leave(served)
    await asyncio.wait_for(served.task, 10)
    return served


def gone(served: Served) -> None:
    served.control.client_gone()


@pytest.mark.parametrize(("rest", "told"), [end[1:] for end in ENDS], ids=[end[0] for end in ENDS])
async def test_the_rest_is_read_and_billed(rest: tuple[Any, ...], told: tuple[str, int, int | None]) -> None:
    around = holding(*rest)
    served = await left(around, gone)
    assert served.sink.ended == "cut"
    assert b"more" not in served.sink.body
    (end,) = around.ends
    source, output_tokens, cost_nusd = told
    assert (end.outcome, end.error_class) == ("client_gone", "client_gone")
    assert (end.usage_source, end.output_tokens) == (source, output_tokens)
    assert cost_nusd is None or end.cost_nusd == cost_nusd
    assert (around.end.outcome, around.end.http_status) == ("client_gone", 499)
    around.check_books()


async def test_without_it_the_upstream_is_let_go_at_once() -> None:
    around = holding(STOP, COUNTED, DONE, to=target("a"))
    await left(around, gone)
    (end,) = around.ends
    assert (end.usage_source, end.output_tokens) == ("estimated", 1)


async def test_before_content_nothing_is_read_to_its_end() -> None:
    around = holding(HI, STOP, COUNTED, DONE, before=(ROLE,))
    await left(around, gone)
    (end,) = around.ends
    assert (end.outcome, end.usage_source) == ("client_gone", None)
    around.check_books()


async def test_a_caller_who_does_not_read_is_cut_off_before_the_rest_is_read() -> None:
    around = world(draining(), a=streamed(ROLE, HI, 0.0, STOP, COUNTED, DONE))
    served = around.start(stream=True)
    served.sink.stuck = True
    await asyncio.wait_for(around.waiting.wait(), 10)
    around.clock.now += 61.0
    around.services.deadlines.tick(around.clock.now)
    await asyncio.sleep(0)
    assert served.sink.ended == "cut"
    gone(served)  # what the cut leads to
    await asyncio.wait_for(served.task, 10)
    (end,) = around.ends
    assert (end.outcome, end.usage_source, end.output_tokens) == ("client_gone", "provider", 20)


@pytest.mark.parametrize("how", ["stands still", "total", "the proxy stops"])
async def test_it_is_not_waited_for_for_ever(how: str) -> None:
    around = holding(FOREVER, to=draining(timeouts=Timeouts(total_s=100.0)))
    served = around.start(stream=True)
    await asyncio.wait_for(around.waiting.wait(), 10)
    gone(served)
    around.waiting.clear()
    await asyncio.wait_for(around.waiting.wait(), 10)
    if how == "the proxy stops":
        served.control.interrupt(ErrorClass.DRAINED)
    else:
        around.clock.now += 30.0 if how == "stands still" else 100.0
        around.services.deadlines.tick(around.clock.now)
    await asyncio.wait_for(served.task, 10)
    (end,) = around.ends
    assert (end.outcome, end.usage_source) == ("client_gone", "estimated")
    around.check_books()


async def test_a_task_that_is_torn_down_meanwhile_leaves_its_row() -> None:
    around = holding(FOREVER)
    served = around.start(stream=True)
    await asyncio.wait_for(around.waiting.wait(), 10)
    gone(served)
    around.waiting.clear()
    await asyncio.wait_for(around.waiting.wait(), 10)
    served.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await served.task
    (end,) = around.ends
    assert (end.outcome, end.error_class) == ("failed", "drained")
    around.check_books()
