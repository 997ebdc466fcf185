"""What came back is kept byte for byte, whole or not; and the upstream takes what a gateway may send."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator

import pytest

from proxy.torture import caller
from proxy.torture.caller import Gateway, Reply, chat, exchange, read
from proxy.torture.scripts import SCRIPTS
from proxy.torture.upstream import Upstream
from tests.e2e.client import WAIT_S

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


async def _read(data: bytes) -> tuple[Reply, type[Exception] | None]:
    reader, reply = asyncio.StreamReader(), Reply()
    reader.feed_data(data)
    reader.feed_eof()
    try:
        await read(reader, reply)
    except (EOFError, ValueError) as fault:
        return reply, type(fault)
    return reply, None


@pytest.mark.unit
@pytest.mark.parametrize(
    ("data", "body", "whole"),
    [
        (HEAD + b"Content-Length: 5\r\n\r\nhello", b"hello", True),
        (HEAD + b"Content-Length: 9\r\n\r\nhello", b"hello", False),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", b"hello", True),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nl", b"hell", False),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"", False),
        (HEAD + b"\r\nhello", b"hello", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"Content-Length: 0\r\n\r\n", b"", True),
        (b"SSH-2.0\r\n\r\n", b"", False),
        (b"HTTP/1.1 200", b"", False),
    ],
)
async def test_every_framing_and_its_breaks(data: bytes, body: bytes, whole: bool) -> None:
    reply, fault = await _read(data)
    assert (bytes(reply.body), reply.whole) == (body, whole)
    assert (fault is None) == whole


@pytest.mark.unit
@pytest.mark.parametrize(("more", "whole"), [(0, True), (1, False)])
async def test_an_answer_is_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch, more: int, whole: bool) -> None:
    monkeypatch.setattr(caller, "MAX_BODY_BYTES", 100)
    reply, _ = await _read(HEAD + b"Content-Length: %d\r\n\r\n" % (100 + more) + b"x" * (100 + more))
    assert reply.whole == whole
    assert len(reply.body) <= 100


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    made = Upstream(SCRIPTS)
    made.start()
    yield made
    made.stop()
    assert made.faults == []


@pytest.mark.integration
async def test_the_upstream_takes_a_body_in_chunks_and_says_what_it_cannot_read(upstream: Upstream) -> None:
    gateway = Gateway.at(upstream.url)
    body = chat("in chunks", stream=False)
    pieces = b"".join([b"%x\r\n%b\r\n" % (len(body[at : at + 20]), body[at : at + 20]) for at in range(0, len(body), 20)])
    plain = gateway.post(b"", {"transfer-encoding": "chunked"}).replace(b"content-length: 0\r\n", b"")
    reply = await exchange(gateway, plain + pieces + b"0\r\n\r\n", patience_s=WAIT_S)
    assert (reply.status, reply.text) == (200, "Hello from upstream")
    assert upstream.bodies["in chunks"] == json.loads(body)
    assert upstream.sent_bytes["in chunks"] > 0

    for nonsense in (b"{", b"[]", b"[" * 100_000):
        assert (await exchange(gateway, gateway.post(nonsense), patience_s=WAIT_S)).status == 400
    assert upstream.unreadable == 3


@pytest.mark.integration
async def test_nobody_there_and_nobody_who_answers_are_told_apart(upstream: Upstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        hung = await exchange(Gateway.at(f"127.0.0.1:{port}"), b"GET / HTTP/1.1\r\n\r\n", patience_s=0.2)
    gone = await exchange(Gateway.at(f"127.0.0.1:{port}"), b"GET / HTTP/1.1\r\n\r\n", patience_s=WAIT_S)
    assert (hung.status, hung.hung) == (0, True)
    assert (gone.status, gone.hung) == (0, False)


@pytest.mark.integration
async def test_who_strays_is_counted_by_name(upstream: Upstream) -> None:
    gateway = Gateway.at(upstream.url)
    await exchange(
        gateway, f"GET /v1/stolen/somebody/else HTTP/1.1\r\nhost: {gateway.authority}\r\n\r\n".encode(), patience_s=WAIT_S
    )
    assert upstream.strays["somebody"] == 1
