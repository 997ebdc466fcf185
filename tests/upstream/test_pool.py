"""Connections are kept, found stale, expired and given back; a cancelled call leaves nothing behind."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.ports import Origin, RequestHead
from proxy.routing.verdict import RULES, Effect
from proxy.upstream.client import HttpxTransport
from proxy.upstream.pool import NativeTransport
from proxy.upstream.response import NativeResponse

if TYPE_CHECKING:
    from tests.upstream.conftest import Line, ManualClock, Peer, Script

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

Answer = Callable[..., Coroutine[Any, Any, tuple[int, bytes, bool]]]
Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
Both = NativeTransport | HttpxTransport

HEAD_5 = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"


async def test_a_thousand_requests_share_one_connection(
    native: NativeTransport, peer: Peer, echo: Script, answer: Answer
) -> None:
    await peer.serve(echo)
    seen = [await answer(native, peer.head()) for _ in range(1000)]
    assert seen == [(200, b"{}", False)] + [(200, b"{}", True)] * 999
    assert (len(peer.lines), peer.lines[0].requests, native.in_use, native.idle) == (1, 1000, 0, 1)


async def test_one_connection_serves_one_request_at_a_time(transport: Both, peer: Peer, echo: Script, answer: Answer) -> None:
    await peer.serve(echo)
    first = await transport.send(peer.head(), b"{}", connect_timeout_s=5)
    second = await transport.send(peer.head(), b"{}", connect_timeout_s=5)
    assert (len(peer.lines), transport.in_use) == (2, 2)
    for response in (first, second):
        assert await response.read() == b"{}"
        assert await response.read() == b""
        response.close()
        response.close()
    assert transport.in_use == 0
    assert (await answer(transport, peer.head()))[2] is True


async def test_a_reading_that_was_interrupted_goes_on_where_it_was(transport: Both, peer: Peer) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        await line.say(HEAD_5 + b"he")
        asked.set()
        await go_on.wait()
        await line.say(b"llo")

    await peer.serve(script)
    response = await transport.send(peer.head(), b"{}", connect_timeout_s=5)
    await asked.wait()
    body = await response.read()
    for _ in range(2):
        reading = asyncio.create_task(response.read())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    go_on.set()
    while data := await response.read():
        body += data
    response.close()
    assert body == b"hello"


async def test_the_connection_used_last_serves_next(native: NativeTransport, peer: Peer, echo: Script) -> None:
    await peer.serve(echo)
    held = [await native.send(peer.head(), b"{}", connect_timeout_s=5) for _ in range(3)]
    for response in held:
        await response.read()
        response.close()
    response = await native.send(peer.head(), b"{}", connect_timeout_s=5)
    assert [line.requests for line in peer.lines] == [1, 1, 2]
    response.close()


async def test_pools_are_per_origin(native: NativeTransport, peer: Peer, echo: Script, answer: Answer) -> None:
    await peer.serve(echo)
    await answer(native, peer.head())
    other = RequestHead.make(Origin("http", "localhost", peer.port), "POST", "/", [])
    assert (await answer(native, other))[2] is False
    assert native.idle == 2


async def test_fresh_forbids_a_pooled_connection(transport: Both, peer: Peer, echo: Script, answer: Answer) -> None:
    await peer.serve(echo)
    await answer(transport, peer.head())
    assert (await answer(transport, peer.head(), fresh=True))[2] is False
    assert len(peer.lines) == 2


async def test_idle_connections_expire(
    native: NativeTransport, clock: ManualClock, peer: Peer, echo: Script, answer: Answer
) -> None:
    await peer.serve(echo)
    await answer(native, peer.head())
    clock.now += 54.9
    native.tick()
    assert native.idle == 1
    clock.now += 0.1
    native.tick()
    assert native.idle == 0
    await peer.lines[0].closed.wait()


async def test_no_more_idle_connections_than_allowed(clock: ManualClock, peer: Peer, echo: Script) -> None:
    await peer.serve(echo)
    native = NativeTransport(clock, max_idle_per_origin=2)
    held = [await native.send(peer.head(), b"{}", connect_timeout_s=5) for _ in range(4)]
    for response in held:
        await response.read()
        response.close()
    assert (native.in_use, native.idle) == (0, 2)
    await native.aclose()


@pytest.mark.parametrize("last_word", ["close", "reset", "speak"])
async def test_an_idle_connection_that_dies_or_speaks_is_dropped_at_once(
    last_word: str, native: NativeTransport, peer: Peer, answer: Answer, eventually: Eventually
) -> None:
    told = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        await line.say(HEAD_5 + b"hello")
        await told.wait()
        if last_word == "reset":
            line.reset()
        elif last_word == "speak":
            await line.say(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
            await line.gone()

    await peer.serve(script)
    await answer(native, peer.head())
    assert native.idle == 1
    told.set()
    await eventually(lambda: native.idle == 0)
    await peer.lines[0].closed.wait()
    assert (await answer(native, peer.head()))[2] is False


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        HEAD_5 + b"hello, and more",
    ],
)
async def test_a_connection_that_must_not_serve_again(data: bytes, native: NativeTransport, peer: Peer, answer: Answer) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(data)
        await line.gone()

    await peer.serve(script)
    assert await answer(native, peer.head()) == (200, b"hello", False)
    assert (native.in_use, native.idle) == (0, 0)
    await peer.lines[0].closed.wait()


async def test_a_body_that_was_not_read_to_its_end_cuts_the_connection(transport: Both, peer: Peer) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(HEAD_5 + b"he")
        await line.gone()

    await peer.serve(script)
    response = await transport.send(peer.head(), b"{}", connect_timeout_s=5)
    assert await response.read() == b"he"
    response.close()
    assert transport.in_use == 0
    await peer.lines[0].closed.wait()


async def test_a_peer_that_speaks_before_it_is_asked(native: NativeTransport, peer: Peer, answer: Answer) -> None:
    async def script(line: Line) -> None:
        await line.say(b"220 mail.example.com ESMTP\r\n")
        await line.gone()

    await peer.serve(script)
    with pytest.raises(UpstreamError) as caught:
        await answer(native, peer.head())
    assert caught.value.error_class in (ErrorClass.MALFORMED, ErrorClass.RESET)
    assert native.in_use == 0


async def test_a_slow_reader_holds_the_peer_back(native: NativeTransport, peer: Peer) -> None:
    """64 MiB are offered; unread, only what the buffers hold leaves the peer."""
    total, written = 64 << 20, 0
    stuck = asyncio.Event()

    async def script(line: Line) -> None:
        nonlocal written
        await line.request()
        await line.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        while written < total:
            line.writer.write(b"x" * 65536)
            written += 65536
            if line.writer.transport.get_write_buffer_size() > 1 << 20:
                stuck.set()
            await line.writer.drain()
        await line.gone()

    await peer.serve(script)
    response = await native.send(peer.head(), b"{}", connect_timeout_s=5)
    received = len(await response.read())
    async with asyncio.timeout(30):
        for _ in range(2000):
            await asyncio.sleep(0)
    assert written < total // 2
    while data := await response.read():
        assert len(data) <= 1 << 20
        received += len(data)
    assert received == total
    response.close()


class TestCancelling:
    """At each stage: the socket is closed, the count is back to nothing."""

    async def _cancelled(self, transport: Both, head: RequestHead, until: Callable[[], Awaitable[object]]) -> None:
        async def call() -> None:
            response = await transport.send(head, b"{}", connect_timeout_s=30)
            try:
                while await response.read():
                    pass
            finally:
                response.close()

        task = asyncio.create_task(call())
        await until()
        assert transport.in_use == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert transport.in_use == 0

    async def test_while_the_name_is_looked_up(self, clock: ManualClock, peer: Peer) -> None:
        asked = asyncio.Event()

        async def never(host: str) -> list[str]:
            asked.set()
            await asyncio.Event().wait()
            return []

        native = NativeTransport(clock, resolver=never)
        await self._cancelled(native, peer.head(host="example.com"), asked.wait)
        await native.aclose()

    async def test_while_connecting(self, native: NativeTransport, peer: Peer, echo: Script) -> None:
        await peer.serve(echo)

        async def at_once() -> None:
            await asyncio.sleep(0)

        await self._cancelled(native, peer.head(), at_once)

    async def test_in_the_tls_handshake(self, transport: Both, peer: Peer) -> None:
        hello = asyncio.Event()

        async def script(line: Line) -> None:
            await line.reader.read(1)
            hello.set()
            await line.gone()

        await peer.serve(script)
        await self._cancelled(transport, peer.head(scheme="https"), hello.wait)
        await peer.lines[0].closed.wait()

    @pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n", HEAD_5, HEAD_5 + b"he"])
    async def test_while_waiting_for_bytes(self, said: bytes, transport: Both, peer: Peer, eventually: Eventually) -> None:
        asked = asyncio.Event()

        async def script(line: Line) -> None:
            await line.request()
            await line.say(said)
            asked.set()
            await line.gone()

        await peer.serve(script)
        await self._cancelled(transport, peer.head(), asked.wait)
        await peer.lines[0].closed.wait()

    async def test_over_and_over(self, transport: Both, peer: Peer, answer: Answer, echo: Script) -> None:
        """Calls cancelled at every step of the event loop: afterwards the pool still serves, and nothing is held."""
        await peer.serve(echo)
        for turns in range(60):
            task = asyncio.create_task(answer(transport, peer.head()))
            for _ in range(turns % 20):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert transport.in_use == 0
        assert (await answer(transport, peer.head()))[:2] == (200, b"{}")


async def test_closing_ends_what_is_in_flight(clock: ManualClock, peer: Peer) -> None:
    native = NativeTransport(clock)

    async def script(line: Line) -> None:
        await line.request()
        await line.say(HEAD_5 + b"he")
        await line.gone()

    await peer.serve(script)
    response = await native.send(peer.head(), b"{}", connect_timeout_s=5)
    assert await response.read() == b"he"
    await native.aclose()
    with pytest.raises(UpstreamError):
        await response.read()
    response.close()
    assert (native.in_use, native.idle) == (0, 0)
    with pytest.raises(UpstreamError) as caught:
        await native.send(peer.head(), b"{}", connect_timeout_s=5)
    assert caught.value.sent is False


async def test_an_address_that_is_silent_leaves_time_for_the_next(
    clock: ManualClock, peer: Peer, echo: Script, answer: Answer
) -> None:
    """The first accepts and never speaks TLS; it gets half of the time, and its socket is closed."""

    async def resolver(host: str) -> list[str]:
        return ["127.0.0.1", "127.0.0.2"]

    async def silent(line: Line) -> None:
        await line.gone()

    await peer.serve(silent)
    native = NativeTransport(clock, resolver=resolver)
    with pytest.raises(UpstreamError) as caught:
        await answer(native, peer.head(scheme="https", host="api.example.com"), connect_timeout_s=3)
    assert caught.value.error_class is ErrorClass.CONNECT  # the second one's word: nobody listens there
    await peer.lines[0].closed.wait()
    assert native.in_use == 0
    await native.aclose()


async def test_requests_leave_no_garbage_to_collect(native: NativeTransport, peer: Peer, echo: Script, answer: Answer) -> None:
    await peer.serve(echo)
    await answer(native, peer.head())
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(thing, NativeResponse) for thing in gc.get_objects())
        for _ in range(50):
            await answer(native, peer.head())
        assert sum(isinstance(thing, NativeResponse) for thing in gc.get_objects()) == before
    finally:
        gc.enable()


async def test_addresses_are_tried_in_turn(clock: ManualClock, peer: Peer, echo: Script, answer: Answer) -> None:
    async def resolver(host: str) -> list[str]:
        return ["127.0.0.2", "::1", "127.0.0.1"]  # nobody listens at the first two

    await peer.serve(echo)
    native = NativeTransport(clock, resolver=resolver)
    assert (await answer(native, peer.head(host="api.example.com")))[:2] == (200, b"{}")
    await native.aclose()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
async def test_without_a_file_descriptor_it_is_not_the_provider_that_fails(
    native: NativeTransport, peer: Peer, echo: Script, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    await peer.serve(echo)

    async def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(native, "_open", refused)
    with pytest.raises(UpstreamError) as caught:
        await native.send(peer.head(), b"{}", connect_timeout_s=5)
    assert (caught.value.error_class, caught.value.sent) == (ErrorClass.INTERNAL, False)
    assert RULES[ErrorClass.INTERNAL].effect is Effect.NEUTRAL
