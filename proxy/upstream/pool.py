"""The hot path's transport: connections kept per origin, last in first out, over our own HTTP/1.1 client.

Why our own: docs/decisions/0001-own-http-client-on-the-hot-path.md. A request that finds an idle connection costs one dict
lookup, one write, one future. Connecting is the slow path: name, addresses in turn, tunnel, TLS, all within one time limit.

An origin's idle connections are a dict used as an ordered set: `popitem` gives the one used last, a connection that dies
while idle leaves by itself, the one that has waited longest is first; all O(1).
"""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from urllib.parse import unquote, urlsplit

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.ports import Clock, Origin, RequestHead
from proxy.core.turn import Turn
from proxy.upstream.connection import Connection
from proxy.upstream.resolve import Resolver
from proxy.upstream.response import NativeResponse, Waiter
from proxy.upstream.tls import client_context

MAX_ADDRESSES = 4  # tried of those that a name has


def _future(loop: asyncio.AbstractEventLoop) -> Waiter:
    return loop.create_future()


class NativeTransport:
    """`core.ports.UpstreamTransport`. `resolver`: from a host name to addresses; raises UpstreamError(dns).

    `new_waiter` is what a response's reader waits on: a future, unless whoever runs the requests has something quicker.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        resolver: Callable[[str], Awaitable[Sequence[str]]] | None = None,
        new_waiter: Callable[[asyncio.AbstractEventLoop], Waiter] = _future,
        max_idle_per_origin: int = 256,
        idle_s: float = 55.0,
    ) -> None:
        self._clock = clock
        self._own_resolver = Resolver(clock)
        self._resolve = resolver or self._own_resolver
        self._new_waiter = new_waiter
        self.turn = Turn()
        self._max_idle = max_idle_per_origin
        self._idle_s = idle_s
        self._idle: dict[Origin, dict[Connection, None]] = {}
        self._busy: set[Connection] = set()
        self._connecting = 0
        self._closed = False

    @property
    def in_use(self) -> int:
        """Connections that carry a request or are being made for one."""
        return len(self._busy) + self._connecting

    @property
    def idle(self) -> int:
        return sum(map(len, self._idle.values()))

    async def send(self, head: RequestHead, body: bytes, *, connect_timeout_s: float, fresh: bool = False) -> NativeResponse:
        idle = self._idle.get(head.origin)
        if idle and not fresh:
            connection, _ = idle.popitem()
        else:
            connection = await self._connect(head.origin, connect_timeout_s)
        self._busy.add(connection)
        response = connection.exchange(b"%s%d\r\n\r\n" % (head.rendered, len(body)), body)
        try:
            await response.head()
        except BaseException:
            response.close()
            raise
        return response

    def tick(self) -> None:
        """Called once a second: connections idle for too long go."""
        oldest = self._clock.monotonic() - self._idle_s
        for origin, idle in list(self._idle.items()):
            while idle and (longest := next(iter(idle))).idle_since <= oldest:
                longest.drop()
            if not idle:
                self._idle.pop(origin, None)

    async def aclose(self) -> None:
        """Cuts everything, requests in flight too."""
        self._closed = True
        for connection in [*self._busy, *(c for idle in self._idle.values() for c in idle)]:
            connection.drop()
        await self._own_resolver.aclose()
        await asyncio.sleep(0)  # let the event loop close the sockets
        await asyncio.sleep(0)

    # -- connection.Owner ----------------------------------------------------------------------------------------------

    def park(self, connection: Connection) -> bool:
        """Take back a connection that can serve again; false when there are enough."""
        idle = self._idle.get(connection.origin)
        if idle is None:
            idle = self._idle[connection.origin] = {}
        if self._closed or len(idle) >= self._max_idle:
            return False
        self._busy.discard(connection)
        connection.idle_since = self._clock.monotonic()
        idle[connection] = None
        return True

    def forget(self, connection: Connection) -> None:
        self._busy.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle is not None:
            idle.pop(connection, None)

    # -- connecting ----------------------------------------------------------------------------------------------------

    async def _connect(self, origin: Origin, timeout_s: float) -> Connection:
        if self._closed:
            raise UpstreamError(ErrorClass.CONNECT, "the transport is closed", sent=False)
        self._connecting += 1
        try:
            async with asyncio.timeout(timeout_s):
                if origin.proxy_url is None:
                    return await self._open(origin, origin.host, origin.port, _context(origin), timeout_s)
                return await self._tunnel(origin, origin.proxy_url, timeout_s)
        except TimeoutError as error:
            raise UpstreamError(
                ErrorClass.CONNECT_TIMEOUT, f"no connection to {origin.authority} within {timeout_s:g} s", sent=False
            ) from error
        except ssl.SSLError as error:
            raise UpstreamError(ErrorClass.TLS, _tls_message(origin, error), sent=False) from error
        except OSError as error:
            # without a file descriptor it is not the provider that fails
            error_class = ErrorClass.INTERNAL if error.errno in (errno.EMFILE, errno.ENFILE) else ErrorClass.CONNECT
            raise UpstreamError(error_class, _connect_message(origin, error), sent=False) from error
        finally:
            self._connecting -= 1

    async def _open(self, origin: Origin, host: str, port: int, context: ssl.SSLContext | None, timeout_s: float) -> Connection:
        """The first of the host's addresses that answers. Each but the last has its share of the time that is left."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        addresses = list(await self._resolve(host))[:MAX_ADDRESSES]
        for left in range(len(addresses), 0, -1):
            connection = Connection(self, origin, partial(self._new_waiter, loop), self.turn)
            try:
                async with asyncio.timeout((deadline - loop.time()) / left if left > 1 else None):
                    await loop.create_connection(
                        lambda made=connection: made,
                        addresses[-left],
                        port,
                        ssl=context,
                        server_hostname=origin.host if context is not None else None,
                    )
                return connection
            except ssl.SSLError:
                raise  # an answer, and a wrong one: the other addresses serve the same
            except OSError:  # TimeoutError is one too
                if left == 1:
                    raise
        raise UpstreamError(ErrorClass.DNS, f"{host} has no address", sent=False)

    async def _tunnel(self, origin: Origin, proxy_url: str, timeout_s: float) -> Connection:
        """Through a forward proxy by CONNECT (RFC 9110, 9.3.6), for http targets too: the proxy never sees our headers."""
        parts = urlsplit(proxy_url)
        if parts.scheme != "http" or not parts.hostname:
            raise UpstreamError(ErrorClass.CONNECT, "a forward proxy's URL is http://host:port", sent=False)
        connection = await self._open(origin, parts.hostname, parts.port or 80, None, timeout_s)
        try:
            response = connection.exchange(_connect_request(origin, parts.username, parts.password), b"")
            try:
                await response.head()
            except UpstreamError as error:
                raise UpstreamError(ErrorClass.CONNECT, f"the forward proxy: {error.message}", sent=False) from error
            if not 200 <= response.status < 300:
                raise UpstreamError(ErrorClass.CONNECT, f"the forward proxy answered {response.status} to CONNECT", sent=False)
            connection.detach()
            if origin.scheme == "https":
                context = _context(origin)
                assert context is not None
                await connection.start_tls(context)
            return connection
        except BaseException:
            connection.drop()
            raise


def _context(origin: Origin) -> ssl.SSLContext | None:
    if origin.scheme != "https":
        return None
    try:
        return client_context(origin.ca_file)
    except OSError as error:
        raise UpstreamError(ErrorClass.TLS, f"no CA certificates: {error}", sent=False) from error


def _connect_request(origin: Origin, user: str | None, password: str | None) -> bytes:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    lines = [f"CONNECT {host}:{origin.port} HTTP/1.1", f"host: {host}:{origin.port}"]
    if user is not None:
        pair = f"{unquote(user)}:{unquote(password or '')}".encode()
        lines.append(f"proxy-authorization: Basic {base64.b64encode(pair).decode()}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def _tls_message(origin: Origin, error: ssl.SSLError) -> str:
    reason = getattr(error, "verify_message", "") or error.reason or str(error)
    return f"TLS with {origin.authority} failed: {reason}"


def _connect_message(origin: Origin, error: OSError) -> str:
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return f"cannot connect to {origin.authority}: {reason}"
