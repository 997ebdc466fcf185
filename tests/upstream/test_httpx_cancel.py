"""httpx2's transport under a fiber that is cancelled: whatever was open is closed, at whichever moment that comes."""

import asyncio
from typing import Any, cast

import pytest

from proxy.core.ports import RequestHead
from proxy.server.fiber import Fiber
from proxy.upstream.client import HttpxResponse, HttpxTransport

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


class Answer:
    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("turns", range(1, 6))
async def test_an_answer_that_comes_as_its_caller_leaves_is_closed(turns: int) -> None:
    """Between the turn in which it is there and the one in which the fiber is told of it, there is one in which nobody holds it."""
    transport, answer = HttpxTransport(), Answer()
    sent = received = False
    ended = asyncio.Event()

    async def send(*_: object) -> HttpxResponse:
        nonlocal sent
        await asyncio.sleep(0)
        sent = True
        return cast(HttpxResponse, answer)

    cast(Any, transport)._send = send

    async def call() -> None:
        nonlocal received
        try:
            await transport.send(cast(RequestHead, None), b"", connect_timeout_s=1.0)
            received = True
        finally:
            ended.set()

    fiber = Fiber(asyncio.get_running_loop())
    asyncio.get_running_loop().call_soon(fiber.start, call())
    for _ in range(turns):
        await asyncio.sleep(0)
    fiber.cancel()
    async with asyncio.timeout(10.0):
        await ended.wait()
    assert answer.closed == (sent and not received)
