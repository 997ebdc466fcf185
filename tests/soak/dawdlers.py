"""The many who are slow on purpose, in a process of their own: heads that never end, bodies that stall or trickle, streams that nobody
reads.

`python -m tests.soak.dawdlers` reads a `DawdlersPlan` as one JSON line, opens all of them, prints `{"open": true}`, answers each line with
how many heads and bodies have ended (`{"ended": N}`), until the line is `enough`, and prints a `DawdlersResult`.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

import orjson
import uvloop

from tests.bench.processes import raise_file_limit

_DRIP_S = 1.0  # between two bytes of a head, and two pieces of a body
_TRICKLE_BYTES = 2_048  # of a body, each time
_SMALL_BUFFER = 4_096
_AT_ONCE = 100
HEADS, STALLED, TRICKLING = "slow heads", "stalled bodies", "trickling bodies"


@dataclass(slots=True)
class DawdlersPlan:
    """How many of each. `requests`: of those who do not read, one each."""

    port: int
    key: str
    heads: int
    stalled: int
    trickling: int
    requests: list[str]
    apart_s: float  # between two of the requests


@dataclass(slots=True)
class Kind:
    """One way to be slow: how long each was borne, in seconds, and the status that it was told, 0 for none."""

    lasted: list[float] = field(default_factory=list)
    heard: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class DawdlersResult:
    """`late_s`: how much later than it should at the most a drip was sent. `answers`: all that was read."""

    kinds: dict[str, Kind] = field(default_factory=dict)
    late_s: float = 0.0
    answers: str = ""


class _Record:
    def __init__(self) -> None:
        self.lasted: list[float] = []
        self.heard: Counter[str] = Counter()


class Dawdlers:
    def __init__(self, plan: DawdlersPlan) -> None:
        self.plan = plan
        self.kinds = {name: _Record() for name in (HEADS, STALLED, TRICKLING)}
        self.late_s = 0.0
        self.answers: list[bytes] = []
        self._made: list[asyncio.BaseTransport] = []

    async def open(self) -> None:
        plan = self.plan
        body = _head(plan, 1 << 20)
        for request in plan.requests:
            self._made.append(await self._non_reader(request.encode()))
            await asyncio.sleep(plan.apart_s)
        for name, count, first, drip in (
            (HEADS, plan.heads, b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: ", b"x"),
            (STALLED, plan.stalled, body + b'{"model"', b""),
            (TRICKLING, plan.trickling, body + b'{"model": "' + b"m" * _TRICKLE_BYTES * 2, b"m" * _TRICKLE_BYTES),
        ):
            await self._open(count, partial(_Slow, self, self.kinds[name], first, drip))

    async def _open(self, count: int, make: partial[_Slow]) -> None:
        loop = asyncio.get_running_loop()
        for at in range(0, count, _AT_ONCE):
            opening = (loop.create_connection(make, "127.0.0.1", self.plan.port) for _ in range(min(_AT_ONCE, count - at)))
            self._made += [transport for transport, _ in await asyncio.gather(*opening)]

    async def _non_reader(self, request: bytes) -> asyncio.BaseTransport:
        """With a small window, so that it is full at once."""
        loop = asyncio.get_running_loop()
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
        made.setblocking(False)
        await loop.sock_connect(made, ("127.0.0.1", self.plan.port))
        transport, _ = await loop.create_connection(lambda: _NonReader(request), sock=made)
        return transport

    def ended(self) -> int:
        return sum(len(record.lasted) for record in self.kinds.values())

    def close(self) -> DawdlersResult:
        for transport in self._made:
            transport.close()
        kinds = {name: Kind(record.lasted, dict(record.heard)) for name, record in self.kinds.items()}
        return DawdlersResult(kinds, self.late_s, b"".join(self.answers).decode("latin-1"))


class _Slow(asyncio.Protocol):
    """Sends the first bytes at once and a few more each second, until it is told or cut off."""

    def __init__(self, dawdlers: Dawdlers, record: _Record, first: bytes, drip: bytes) -> None:
        self._dawdlers = dawdlers
        self._record = record
        self._first = first
        self._drip = drip
        self._transport: asyncio.Transport
        self._began = 0.0
        self._due = 0.0
        self._status = ""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports are not registered with asyncio's classes
        self._began = time.monotonic()
        self._transport.write(self._first)
        self._next()

    def _next(self) -> None:
        if self._drip and not self._transport.is_closing():
            self._due = time.monotonic() + _DRIP_S
            self._timer = asyncio.get_running_loop().call_later(_DRIP_S, self._more)

    def _more(self) -> None:
        dawdlers = self._dawdlers
        dawdlers.late_s = max(dawdlers.late_s, time.monotonic() - self._due)
        self._transport.write(self._drip)
        self._next()

    def data_received(self, data: bytes) -> None:
        self._dawdlers.answers.append(data)
        if not self._status:
            self._status = data[9:12].decode("latin-1")
            self._note()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._status:
            self._note()

    def _note(self) -> None:
        self._record.lasted.append(time.monotonic() - self._began)
        self._record.heard[self._status or "0"] += 1
        self._drip = b""


class _NonReader(asyncio.Protocol):
    def __init__(self, request: bytes) -> None:
        self.request = request
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # as above
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.transport.pause_reading()


def _head(plan: DawdlersPlan, length: int) -> bytes:
    lines = (
        "POST /v1/chat/completions HTTP/1.1",
        f"host: 127.0.0.1:{plan.port}",
        f"authorization: Bearer {plan.key}",
        "content-type: application/json",
        f"content-length: {length}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def _main(plan: DawdlersPlan) -> DawdlersResult:
    loop = asyncio.get_running_loop()
    dawdlers = Dawdlers(plan)
    await dawdlers.open()
    print('{"open":true}', flush=True)
    while (await loop.run_in_executor(None, sys.stdin.readline)).strip() not in ("", "enough"):
        print(orjson.dumps({"ended": dawdlers.ended()}).decode(), flush=True)
    return dawdlers.close()


if __name__ == "__main__":
    raise_file_limit()
    print(orjson.dumps(uvloop.run(_main(DawdlersPlan(**orjson.loads(sys.stdin.readline()))))).decode(), flush=True)
