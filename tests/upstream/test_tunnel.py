"""Through a forward proxy by CONNECT. Over TLS: test_tls.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.upstream.pool import NativeTransport

if TYPE_CHECKING:
    from tests.upstream.conftest import Line, Peer, Script

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

Answer = Callable[..., Awaitable[tuple[int, bytes, bool]]]


async def test_http_through_a_tunnel(
    native: NativeTransport, peer: Peer, echo: Script, answer: Answer, tunnel: Callable[..., Awaitable[int]]
) -> None:
    await peer.serve(echo)
    asked: list[bytes] = []
    head = peer.head(proxy_url=f"http://127.0.0.1:{await tunnel(asked)}")
    assert await answer(native, head) == (200, b"{}", False)
    assert await answer(native, head) == (200, b"{}", True)
    assert asked == [b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % (peer.port, peer.port)]


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n", "407"),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", "502"),
        (b"", "before the response's head"),
        (b"hello\r\n\r\n", "not a valid HTTP/1.1 response"),
    ],
)
async def test_a_proxy_that_refuses(reply: bytes, word: str, native: NativeTransport, peer: Peer, answer: Answer) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(reply)

    port = await peer.serve(script)
    head = peer.head(host="api.example.com", proxy_url=f"http://user:hidden@127.0.0.1:{port}")
    with pytest.raises(UpstreamError) as caught:
        await answer(native, head)
    assert (caught.value.error_class, caught.value.sent) == (ErrorClass.CONNECT, False)
    assert word in caught.value.message
    assert "hidden" not in caught.value.message
    assert native.in_use == 0
    await peer.lines[0].closed.wait()


async def test_a_proxy_that_is_silent(native: NativeTransport, peer: Peer, answer: Answer) -> None:
    async def script(line: Line) -> None:
        await line.gone()

    port = await peer.serve(script)
    with pytest.raises(UpstreamError) as caught:
        await answer(native, peer.head(proxy_url=f"http://127.0.0.1:{port}"), connect_timeout_s=0.1)
    assert caught.value.error_class is ErrorClass.CONNECT_TIMEOUT
    assert native.in_use == 0
    await peer.lines[0].closed.wait()
