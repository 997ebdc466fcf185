"""The other transport: httpx2, for providers with `transport: httpx`, and all of its exceptions mapped at this one door.

httpx2 is imported on first use: it takes longer to import than the server has to start. Only its transport layer is used, so
there are no redirects, no cookies, no environment, no decoding and no headers but ours. It sets no time limit but the one for
connecting. Two things it cannot do: cap interim responses (h11 reads any number of them; the caller's clock ends that) and
bound the name lookup by itself (it counts as connecting).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.ports import Origin, RequestHead
from proxy.upstream.response import MAX_HEAD_BYTES, MAX_HEADERS
from proxy.upstream.tls import client_context

if TYPE_CHECKING:
    import httpcore2
    import httpx2

KEEP_ALIVE_S = 55.0
MAX_IDLE = 256


class HttpxTransport:
    """`core.ports.UpstreamTransport` over httpx2. One of its pools per (scheme, CA file, forward proxy, reuse or not)."""

    def __init__(self) -> None:
        self._pools: dict[tuple[str, str | None, str | None, bool], httpx2.AsyncHTTPTransport] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.in_use = 0

    async def send(self, head: RequestHead, body: bytes, *, connect_timeout_s: float, fresh: bool = False) -> HttpxResponse:
        if isinstance(asyncio.current_task(), asyncio.Task):
            return await self._send(head, body, connect_timeout_s, fresh)
        # anyio, under httpx2, knows asyncio's own tasks only: whoever runs in anything else has one made for the call
        sending = asyncio.get_running_loop().create_task(self._send(head, body, connect_timeout_s, fresh))
        try:
            return await sending
        except asyncio.CancelledError:
            if sending.done() and not sending.cancelled() and sending.exception() is None:
                sending.result().close()  # the answer was there, and nobody has been told of it
            raise

    async def _send(self, head: RequestHead, body: bytes, connect_timeout_s: float, fresh: bool) -> HttpxResponse:
        import httpx2  # see above

        origin = head.origin
        exchange = _Exchange()
        headers = list(head.headers)
        if all(name != b"accept-encoding" for name, _ in headers):
            headers.append((b"accept-encoding", b"identity"))
        request = httpx2.Request(
            head.method,
            f"{origin.scheme}://{origin.authority}/",
            headers=headers,
            content=body,
            extensions={
                "timeout": {"connect": connect_timeout_s, "read": None, "write": None, "pool": None},
                "target": head.path.encode("ascii"),  # as it is: a URL object would normalise it
                "trace": exchange.note,
            },
        )
        self.in_use += 1
        try:
            response = await self._pool(origin, fresh=fresh).handle_async_request(request)
        except BaseException as error:
            self.in_use -= 1
            if exchange.stream is not None:
                self._close_later(exchange.stream.aclose())
            if isinstance(error, (httpx2.HTTPError, OSError)):  # OSError: what httpcore2 lets through of TLS and sockets
                raise _before_head(error, exchange, head) from error
            raise
        response.request = request
        answer = HttpxResponse(self, response, reused=not exchange.connected)
        if answer.oversized():
            answer.close()
            raise UpstreamError(ErrorClass.MALFORMED, "a head that is too large, or an upgrade that nobody asked for")
        return answer

    def _pool(self, origin: Origin, *, fresh: bool) -> httpx2.AsyncHTTPTransport:
        key = (origin.scheme, origin.ca_file, origin.proxy_url, fresh)
        pool = self._pools.get(key)
        if pool is None:
            import httpx2  # see above

            pool = self._pools[key] = httpx2.AsyncHTTPTransport(
                verify=_context(origin),
                trust_env=False,
                http2=False,
                limits=httpx2.Limits(
                    max_connections=None,
                    max_keepalive_connections=0 if fresh else MAX_IDLE,
                    keepalive_expiry=KEEP_ALIVE_S,
                ),
                proxy=origin.proxy_url,
            )
        return pool

    def _close_later(self, closing: Coroutine[Any, Any, None]) -> None:
        """httpx2 closes asynchronously; whoever cancels or calls `UpstreamResponse.close` does not wait."""
        task = asyncio.get_running_loop().create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled():
            task.exception()  # what goes wrong while closing interests nobody

    def release(self, response: httpx2.Response | None, reading: asyncio.Task[bytes] | None) -> None:
        """A response is done with; one that was not read to its end is cut, while it is being read, too."""
        self.in_use -= 1
        if response is not None:
            self._close_later(_cut(response, reading))

    async def aclose(self) -> None:
        if self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)
        for pool in self._pools.values():
            await pool.aclose()
        self._pools.clear()


class HttpxResponse:
    """`core.ports.UpstreamResponse`. Each piece is read by a task of its own: httpx2 closes what is cancelled while it reads, and whoever
    waits for a piece may be interrupted and yet want the rest."""

    def __init__(self, transport: HttpxTransport, response: httpx2.Response, *, reused: bool) -> None:
        self.status = response.status_code
        self.headers = [(name.lower(), value) for name, value in response.headers.raw]
        self.reused = reused
        self._transport = transport
        self._response = response
        self._body: AsyncIterator[bytes] = response.aiter_raw()
        self._reading: asyncio.Task[bytes] | None = None
        self._received = 0
        self._ended = False
        self._closed = False

    def oversized(self) -> bool:
        size = sum(len(name) + len(value) + 4 for name, value in self.headers)
        return size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS or not 200 <= self.status <= 599

    def at_hand(self) -> bytes | None:
        return None

    async def pump(self, consume: Callable[[bytes], bool]) -> bool:
        while data := await self.read():
            if not consume(data):
                return False
        return True

    async def read(self) -> bytes:
        import httpx2  # see above: imported long ago when this runs

        if self._ended:
            return b""
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._next())
        try:
            data = await asyncio.shield(self._reading)
        except (httpx2.HTTPError, OSError) as error:
            self._reading, self._ended = None, True
            raise _inside_body(error, self._received) from error
        self._reading = None
        self._received += len(data)
        self._ended = not data
        return data

    async def _next(self) -> bytes:
        return await anext(self._body, b"")

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._transport.release(None if self._ended else self._response, self._reading)
            self._ended = True


async def _cut(response: httpx2.Response, reading: asyncio.Task[bytes] | None) -> None:
    if reading is not None:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    await response.aclose()


class _Exchange:
    """What httpcore2's trace tells of one request: whether it made a connection, and whether it began to write.

    `stream` is the connection made: httpcore2 2.16 leaves it open when it is cancelled in the TLS handshake.
    """

    def __init__(self) -> None:
        self.connected = False
        self.sent = False
        self.stream: httpcore2.AsyncNetworkStream | None = None

    async def note(self, event: str, info: dict[str, Any]) -> None:
        if event.endswith("connect_tcp.started"):
            self.connected = True
        elif event.endswith("connect_tcp.complete"):
            self.stream = info["return_value"]
        elif event == "http11.send_request_headers.started":
            self.sent = True


def _context(origin: Origin) -> ssl.SSLContext:
    """One that trusts nobody for http targets, which have no use for it: reading the system's store takes its time."""
    if origin.scheme != "https":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return client_context(origin.ca_file)
    except OSError as error:
        raise UpstreamError(ErrorClass.TLS, f"no CA certificates: {error}", sent=False) from error


def _before_head(error: Exception, exchange: _Exchange, head: RequestHead) -> UpstreamError:
    import httpx2  # see above

    causes = list(_causes(error))
    where = head.origin.authority
    gone = "disconnected without" in str(error)
    match error:
        case httpx2.ConnectTimeout() | httpx2.PoolTimeout():
            return UpstreamError(ErrorClass.CONNECT_TIMEOUT, f"no connection to {where} in time", sent=False)
        case httpx2.ProxyError():
            return UpstreamError(ErrorClass.CONNECT, "the forward proxy refused the tunnel", sent=False)
        case _ if any(isinstance(cause, ssl.SSLError) for cause in causes) and exchange.connected:
            return UpstreamError(ErrorClass.TLS, f"TLS with {where} failed: {error}", sent=exchange.sent)
        case httpx2.ConnectError() if any(isinstance(cause, socket.gaierror) for cause in causes):
            return UpstreamError(ErrorClass.DNS, f"{head.origin.host} does not resolve: {error}", sent=False)
        case httpx2.ConnectError():
            return UpstreamError(ErrorClass.CONNECT, f"cannot connect to {where}: {error}", sent=False)
        case httpx2.RemoteProtocolError() if not gone:
            return UpstreamError(ErrorClass.MALFORMED, f"not a valid HTTP/1.1 response: {error}")
        case _ if not exchange.sent:
            return UpstreamError(ErrorClass.CONNECT, f"cannot connect to {where}: {error}", sent=False)
        case _ if not exchange.connected:
            return UpstreamError(ErrorClass.STALE_RETRY, "the pooled connection was closed before any response byte")
        case _:
            return UpstreamError(ErrorClass.RESET, f"the connection was lost before the response's head: {error}")


def _inside_body(error: Exception, received: int) -> UpstreamError:
    import httpx2  # see above

    if isinstance(error, httpx2.RemoteProtocolError):
        if "without sending complete message body" in str(error) or "incomplete chunked read" in str(error):
            return UpstreamError(ErrorClass.TRUNCATED, f"the body ended after {received} bytes, before its announced end")
        return UpstreamError(ErrorClass.MALFORMED, f"not a valid HTTP/1.1 response: {error}")
    inside = ErrorClass.RESET_STREAM if received else ErrorClass.RESET_BODY
    return UpstreamError(inside, f"the connection was lost after {received} bytes of the body")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it came from, a group's members too."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return
        yield seen
        if isinstance(seen, BaseExceptionGroup):
            for member in seen.exceptions:
                yield from _causes(member)
        seen = seen.__cause__ or seen.__context__
