"""A hand-written peer on a loopback socket that says exactly the bytes that a test wants, on either event loop."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from proxy.core.ports import Origin, RequestHead, UpstreamTransport
from proxy.upstream.client import HttpxTransport
from proxy.upstream.pool import NativeTransport

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


class ManualClock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_700_000_000.0 + self.now


class Line:
    """The peer's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader, self.writer, self.number = reader, writer, number
        self.requests = 0
        self.closed = asyncio.Event()  # set when the client has gone

    async def request(self) -> tuple[bytes, bytes]:
        """Head and body of the next request."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = await self.reader.readexactly(int(length[0].partition(b":")[2])) if length else b""
        self.requests += 1
        return head, body

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """RST rather than FIN."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Returns when the client has closed its end."""
        while await self.reader.read(65536):
            pass


Script = Callable[[Line], Awaitable[None]]


class Peer:
    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.port = 0
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, script: Script, *, ssl: Any = None) -> int:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            line = Line(reader, writer, len(self.lines))
            self.lines.append(line)
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await script(line)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                self._tasks.discard(task)
                line.closed.set()
                writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=ssl)
        self._servers.append(server)
        self.port = server.sockets[0].getsockname()[1]
        return self.port

    def head(self, *, scheme: str = "http", host: str = "127.0.0.1", **more: Any) -> RequestHead:
        origin = Origin(scheme, host, self.port, **more)
        return RequestHead.make(origin, "POST", "/v1/chat/completions", [(b"content-type", b"application/json")])

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def peer(anyio_backend: Any) -> AsyncIterator[Peer]:
    made = Peer()
    yield made
    await made.stop()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def native(clock: ManualClock) -> AsyncIterator[NativeTransport]:
    transport = NativeTransport(clock)
    yield transport
    await transport.aclose()
    assert (transport.in_use, transport.idle) == (0, 0)


@pytest.fixture(params=["native", "httpx"])
async def transport(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[NativeTransport | HttpxTransport]:
    made = NativeTransport(clock) if request.param == "native" else HttpxTransport()
    yield made
    assert made.in_use == 0
    await made.aclose()


async def _answer(
    transport: UpstreamTransport, head: RequestHead, body: bytes = b"{}", **options: Any
) -> tuple[int, bytes, bool]:
    """Status, whole body, and whether the connection had served before."""
    response = await transport.send(head, body, **{"connect_timeout_s": 5.0, **options})
    try:
        parts = []
        while data := await response.read():
            parts.append(data)
        return response.status, b"".join(parts), response.reused
    finally:
        response.close()


async def _eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the event loop is what it waits for
            await asyncio.sleep(0)


async def _echo(line: Line) -> None:
    while True:
        await line.request()
        await line.say(OK)


@pytest.fixture
def answer() -> Callable[..., Awaitable[tuple[int, bytes, bool]]]:
    return _answer


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    return _eventually


@pytest.fixture
def echo() -> Script:
    """A peer that answers `{}` to every request."""
    return _echo


@pytest.fixture
async def tunnel(anyio_backend: Any) -> AsyncIterator[Callable[[list[bytes]], Awaitable[int]]]:
    """A forward proxy that speaks CONNECT; what it was asked goes into the list that it is started with."""
    proxies = Peer()

    async def start(asked: list[bytes]) -> int:
        async def script(line: Line) -> None:
            head, _ = await line.request()
            asked.append(head)
            host, _, port = head.split()[1].decode().partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            await line.say(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_copy(line.reader, writer), _copy(reader, line.writer))

        return await proxies.serve(script)

    yield start
    await proxies.stop()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
