"""What a lying peer does and what it is called, over real sockets, through both transports and on both event loops."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.ports import Origin, RequestHead
from proxy.upstream.client import HttpxTransport
from proxy.upstream.pool import NativeTransport

if TYPE_CHECKING:
    from tests.upstream.conftest import Line, Peer, Script

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

Answer = Callable[..., Awaitable[tuple[int, bytes, bool]]]
Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
Both = NativeTransport | HttpxTransport

LENGTH_5 = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
FIELDS = b"".join(b"x-%d: y\r\n" % i for i in range(201))

# What the peer says, how it leaves (None: it stays), and what that is called.
FAULTS = {
    "closes before the head": (b"", "close", ErrorClass.RESET),
    "resets before the head": (b"", "reset", ErrorClass.RESET),
    "resets before the body": (LENGTH_5, "reset", ErrorClass.RESET_BODY),
    "resets in the body": (LENGTH_5 + b"he", "reset", ErrorClass.RESET_STREAM),
    "resets between chunks": (CHUNKED + b"2\r\nhe\r\n", "reset", ErrorClass.RESET_STREAM),
    "closes before the body": (LENGTH_5, "close", ErrorClass.TRUNCATED),
    "closes in the body": (LENGTH_5 + b"he", "close", ErrorClass.TRUNCATED),
    "closes before the last chunk": (CHUNKED + b"2\r\nhe\r\n", "close", ErrorClass.TRUNCATED),
    "speaks another protocol": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", None, ErrorClass.MALFORMED),
    "sends a bad chunk size": (CHUNKED + b"2\r\nhe\r\nxyz\r\n", None, ErrorClass.MALFORMED),
    "negative content-length": (b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n", None, ErrorClass.MALFORMED),
    "a transfer coding of gzip": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", None, ErrorClass.MALFORMED),
    "a head of 128 KiB": (b"HTTP/1.1 200 OK\r\nx: " + b"y" * (128 << 10) + b"\r\n\r\n", None, ErrorClass.MALFORMED),
    "201 header fields": (b"HTTP/1.1 200 OK\r\n" + FIELDS + b"\r\n", None, ErrorClass.MALFORMED),
    "switches protocols": (
        b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        None,
        ErrorClass.MALFORMED,
    ),
}


def scripted(data: bytes, leave: str | None) -> Script:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(data)
        if leave == "reset":
            line.reset()
        elif leave is None:
            await line.gone()

    return script


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_has_its_name(name: str, transport: Both, peer: Peer, answer: Answer, eventually: Eventually) -> None:
    data, leave, error_class = FAULTS[name]
    await peer.serve(scripted(data, leave))
    with pytest.raises(UpstreamError) as caught:
        await answer(transport, peer.head())
    assert (caught.value.error_class, caught.value.sent) == (error_class, True)
    assert transport.in_use == 0
    await eventually(lambda: all(line.closed.is_set() for line in peer.lines))


async def test_both_lengths_are_refused(native: NativeTransport, peer: Peer, answer: Answer) -> None:
    both = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n"
    await peer.serve(scripted(both, None))
    with pytest.raises(UpstreamError) as caught:
        await answer(native, peer.head())
    assert caught.value.error_class is ErrorClass.MALFORMED


async def test_a_flood_of_interim_responses_is_cut_off(native: NativeTransport, peer: Peer, answer: Answer) -> None:
    await peer.serve(scripted(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2000, None))
    with pytest.raises(UpstreamError) as caught:
        await answer(native, peer.head())
    assert caught.value.error_class is ErrorClass.MALFORMED


async def test_refused(transport: Both, answer: Answer) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        head = RequestHead.make(Origin("http", "127.0.0.1", unused.getsockname()[1]), "POST", "/", [])
        with pytest.raises(UpstreamError) as caught:
            await answer(transport, head)
    assert (caught.value.error_class, caught.value.sent) == (ErrorClass.CONNECT, False)


async def test_an_unknown_host(transport: Both, answer: Answer) -> None:
    head = RequestHead.make(Origin("http", "does-not-exist.invalid", 80), "POST", "/", [])
    with pytest.raises(UpstreamError) as caught:
        await answer(transport, head)
    assert (caught.value.error_class, caught.value.sent) == (ErrorClass.DNS, False)


async def test_a_connection_that_is_never_accepted(transport: Both, answer: Answer) -> None:
    """A listener whose queue is full drops every further SYN."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        queued = []
        for _ in range(3):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(full.getsockname())
            queued.append(one)
        head = RequestHead.make(Origin("http", "127.0.0.1", full.getsockname()[1]), "POST", "/", [])
        with pytest.raises(UpstreamError) as caught:
            await answer(transport, head, connect_timeout_s=0.2)
        for one in queued:
            one.close()
    assert (caught.value.error_class, caught.value.sent) == (ErrorClass.CONNECT_TIMEOUT, False)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
    ],
)
async def test_every_way_to_delimit_a_body(data: bytes, transport: Both, peer: Peer, answer: Answer) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(data)

    await peer.serve(script)
    assert await answer(transport, peer.head()) == (200, b"hello", False)


async def test_redirects_are_returned_and_encodings_left_alone(transport: Both, peer: Peer) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(
            b"HTTP/1.1 307 Elsewhere\r\nLocation: http://169.254.169.254/\r\n"
            b"Content-Encoding: gzip\r\ncontent-length: 3\r\n\r\nabc"
        )

    await peer.serve(script)
    response = await transport.send(peer.head(), b"{}", connect_timeout_s=5)
    assert response.status == 307
    assert (b"content-encoding", b"gzip") in list(response.headers)
    assert await response.read() == b"abc"
    assert await response.read() == b""
    response.close()
    assert len(peer.lines) == 1


async def test_the_upstream_sees_our_headers_and_no_others(transport: Both, peer: Peer, answer: Answer) -> None:
    heads: list[bytes] = []

    async def script(line: Line) -> None:
        heads.append((await line.request())[0])
        await line.say(b"HTTP/1.1 204 No Content\r\n\r\n")

    await peer.serve(script)
    origin = Origin("http", "127.0.0.1", peer.port)
    fields = [(b"accept-encoding", b"identity"), (b"authorization", b"Bearer sk-test"), (b"content-type", b"application/json")]
    await answer(transport, RequestHead.make(origin, "POST", "/v1/a%2Fb?api-version=1", fields))
    first, *lines = heads[0].decode().rstrip().split("\r\n")
    assert first == "POST /v1/a%2Fb?api-version=1 HTTP/1.1"
    expected = [f"{name.decode()}: {value.decode()}" for name, value in fields]
    assert sorted(line.lower() for line in lines) == sorted(
        [line.lower() for line in expected] + [f"host: 127.0.0.1:{peer.port}", "content-length: 2"]
    )


async def test_a_stale_connection(transport: Both, peer: Peer, answer: Answer) -> None:
    """It answers once and then drops the second request unread; a fresh connection would serve."""

    async def script(line: Line) -> None:
        await line.request()
        await line.say(LENGTH_5 + b"hello")
        if line.number == 0:
            await line.request()

    await peer.serve(script)
    await answer(transport, peer.head())
    with pytest.raises(UpstreamError) as caught:
        await answer(transport, peer.head())
    assert (caught.value.error_class, caught.value.sent) == (ErrorClass.STALE_RETRY, True)
    assert await answer(transport, peer.head(), fresh=True) == (200, b"hello", False)


async def test_an_answer_before_the_request_was_read(transport: Both, peer: Peer, answer: Answer) -> None:
    """A peer that refuses a large body at once, and closes."""

    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        await line.say(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")
        await line.gone()

    await peer.serve(script)
    assert (await answer(transport, peer.head(), b"x" * (8 << 20)))[:2] == (413, b"big")


async def test_an_answer_is_delivered_though_the_peer_resets_while_we_write(
    native: NativeTransport, peer: Peer, answer: Answer
) -> None:
    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        await line.say(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")

    await peer.serve(script)
    assert (await answer(native, peer.head(), b"x" * (8 << 20)))[:2] == (413, b"big")
    assert (native.in_use, native.idle) == (0, 0)
