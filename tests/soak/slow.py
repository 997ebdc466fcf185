"""Callers that are slow on purpose: heads that never end, bodies that stall or trickle, streams that nobody reads. Among them honest
ones, who must not notice.

A stalled body ends with the grace that every body has, a trickling one with the time that the longest may take. That a stream which
nobody reads is given up shows at the upstream, which is hung up on.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from proxy.engine.attempt import WRITE_STALL_S
from proxy.server.protocol import BODY_GRACE_S, BODY_S, HEAD_S
from tests.bench.processes import Child, python
from tests.soak.hasty import PATIENCE_S
from tests.soak.honest import HonestPlan
from tests.soak.stage import (
    CANARIES,
    Caller,
    Check,
    Options,
    Stage,
    all_of,
    at_most,
    common_config,
    none_of,
    p99_ms,
    wait_until,
)

_HEADS, _HEADS_SHORT = 2_000, 60
_BODIES, _BODIES_SHORT = 500, 20
_READERS, _READERS_SHORT = 500, 12
_HONEST_RATE, _HONEST_RATE_SHORT = 100.0, 20.0
_BASELINE_S, _BASELINE_SHORT_S = 20.0, 0.5
_DRIP_S = 1.0  # between two bytes of a head
_TRICKLE_BYTES = 2_048  # of a body, each time
_LATE_S = 1.0
_PATIENCE_S = 30.0
_FILL_S = 30.0
_SMALL_BUFFER = 4_096
_AT_ONCE = 100
_APART_S, _APART_SHORT_S = 0.05, 0.01  # each of them takes some megabytes before it is full


@dataclass(slots=True)
class _Kind:
    """One way to be slow. `ends_s`: what its limit is; `lasted`: how long each was borne."""

    ends_s: float
    lasted: list[float] = field(default_factory=list)
    heard: Counter[int] = field(default_factory=Counter)  # statuses


class _Slow(asyncio.Protocol):
    """Sends the first bytes at once and a few more each second, until it is told or cut off."""

    def __init__(self, kind: _Kind, first: bytes, drip: bytes) -> None:
        self.kind = kind
        self.first = first
        self.drip = drip
        self.transport: asyncio.Transport
        self._began = 0.0
        self._status = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's transports are not registered with asyncio's classes
        self._began = time.monotonic()
        self.transport.write(self.first)
        self._next()

    def _next(self) -> None:
        if self.drip and not self.transport.is_closing():
            self._timer = asyncio.get_running_loop().call_later(_DRIP_S, self._more)

    def _more(self) -> None:
        self.transport.write(self.drip)
        self._next()

    def data_received(self, data: bytes) -> None:
        CANARIES.look("an answer to a slow caller", data)
        if not self._status:
            self._status = int(data[9:12])
            self._note()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._status:
            self._note()

    def _note(self) -> None:
        self.kind.lasted.append(time.monotonic() - self._began)
        self.kind.heard[self._status] += 1
        self.drip = b""


class _NonReader(asyncio.Protocol):
    def __init__(self, request: bytes) -> None:
        self.request = request
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # as above
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.transport.pause_reading()


async def run(folder: Path, options: Options) -> list[Check]:
    with Stage(folder, options) as stage:
        stage.prepare(common_config(stage), module="tests.soak.hasty" if options.short else "proxy")
        await asyncio.to_thread(stage.start)
        await stage.warmed()
        return await _act(stage)


async def _act(stage: Stage) -> list[Check]:
    options = stage.options
    limits = {"HEAD_S": HEAD_S, "BODY_S": BODY_S, "BODY_GRACE_S": BODY_GRACE_S, "WRITE_STALL_S": WRITE_STALL_S}
    limits = PATIENCE_S if options.short else limits
    heads, stalled, trickling = (_Kind(limits[name]) for name in ("HEAD_S", "BODY_GRACE_S", "BODY_S"))
    bodies, readers = options.of(_BODIES, _BODIES_SHORT), options.of(_READERS, _READERS_SHORT)
    rate = _HONEST_RATE_SHORT if options.short else _HONEST_RATE

    honest = _Honest(stage, rate)
    await asyncio.to_thread(honest.begin)
    await asyncio.sleep(_BASELINE_SHORT_S if options.short else _BASELINE_S)
    disturbed = time.monotonic()
    head = _head(stage.port, 1 << 20)
    made: list[asyncio.BaseTransport] = []
    for kind, count, first, drip in (
        (heads, options.of(_HEADS, _HEADS_SHORT), b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: ", b"x"),
        (stalled, bodies // 2, head + b'{"model"', b""),
        (trickling, bodies - bodies // 2, head + b'{"model": "' + b"m" * _TRICKLE_BYTES * 2, b"m" * _TRICKLE_BYTES),
    ):
        made += await _open(stage.port, count, partial(_Slow, kind, first, drip))
    for at in range(readers):
        made.append(await _non_reader(stage, at))
        await asyncio.sleep(_APART_SHORT_S if options.short else _APART_S)
    if not options.short:
        await wait_until(lambda: _stalled(stage) >= readers, _FILL_S, poll_s=0.5)
    filled = time.monotonic()
    kinds = (heads, stalled, trickling)
    wanted = options.of(_HEADS, _HEADS_SHORT) + bodies + readers
    await wait_until(
        lambda: sum(len(kind.lasted) for kind in kinds) + len(_given_up(stage)) >= wanted,
        max(limits.values()) + _PATIENCE_S,
        poll_s=0.5,
    )
    asked = await asyncio.to_thread(honest.end)
    given_up = _given_up(stage)
    borne = [record["gone"] - record["arrived"] for record in given_up]
    late = [record["gone"] - record["stalled"] for record in given_up]
    for transport in made:
        transport.close()
    still = await stage.settled()
    statuses = Counter(status for _, _, status in asked)
    calm, filling, then = (
        [took for at, took, _ in asked if since <= at < until]
        for since, until in ((0.0, disturbed), (disturbed, filled), (filled, float("inf")))
    )

    found = [
        Check("honest requests", f"{len(asked):,} at {rate:g}/s"),
        Check("their statuses", ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items()))),
        none_of("honest requests, not whole and 200", len(asked) - statuses[200]),
        Check("honest p99: calm; while the buffers of the non-readers fill; then", _p99s(calm, filling, then)),
        at_most("honest p99 then, to the calm", p99_ms(then) / p99_ms(calm), 2, "×", timing=True),
    ]
    for name, kind, count in (
        ("slow heads", heads, options.of(_HEADS, _HEADS_SHORT)),
        ("stalled bodies", stalled, bodies // 2),
        ("trickling bodies", trickling, bodies - bodies // 2),
    ):
        found += _reaped(name, kind.lasted, kind.lasted, count, kind.ends_s)
        found.append(all_of(f"{name}, told 408", kind.heard[408], count))
    # the caller's side is full before the upstream's is, and that after the request came
    found += _reaped("streams that nobody reads", borne, late, readers, limits["WRITE_STALL_S"])
    rows = stage.sql("SELECT count(*) FROM requests WHERE task_id GLOB 'n[0-9]*' AND outcome = 'client_gone' AND ended = 1")
    found.append(all_of("their rows, client_gone", rows[0][0], readers))
    return [*found, none_of("still in use, here or upstream", still)]


def _endless(stage: Stage) -> str:
    """At a pace at which the honest ones can be told apart from those that fill up."""
    return "endless-2" if stage.options.short else "endless-20"


def _stalled(stage: Stage) -> int:
    return sum(record["model"] == _endless(stage) and record["stalled"] > 0 for record in stage.served())


def _p99s(*spans: list[float]) -> str:
    return "; ".join(f"{p99_ms(seconds):,.1f} ms" for seconds in spans)


def _given_up(stage: Stage) -> list[dict[str, Any]]:
    """The streams that the upstream was hung up on."""
    return [record for record in stage.served() if record["model"] == _endless(stage) and record["gone"]]


def _reaped(name: str, lasted: list[float], late: list[float], count: int, limit_s: float) -> list[Check]:
    """`lasted` is no shorter than the time that counts, `late` no longer."""
    return [
        all_of(f"{name}, ended", len(lasted), count),
        none_of(f"{name}, ended before {limit_s:g} s", sum(seconds < limit_s - 0.2 for seconds in lasted)),
        at_most(f"{name}, ended after at most", max(late, default=float("inf")), limit_s + _LATE_S, "s", timing=True),
    ]


class _Honest:
    """`honest.py`, from `begin` to `end`."""

    def __init__(self, stage: Stage, rate: float) -> None:
        self._plan = HonestPlan(stage.port, CANARIES.client_key, "whole", rate)
        self._child = Child(python("-m", "tests.soak.honest"), log=stage.folder / "honest.log", pipes=True)

    def begin(self) -> None:
        self._child.say(orjson.dumps(self._plan).decode())
        self._child.line(_PATIENCE_S * 2)

    def end(self) -> list[tuple[float, float, int]]:
        """When each was asked, how long it took, and its status."""
        try:
            self._child.say("enough")
            found = self._child.line(_PATIENCE_S * 2)
        finally:
            self._child.stop()
        CANARIES.look("an honest caller's answer", found["last"].encode("latin-1"))
        return [(at, took, status) for at, took, status in found["asked"]]


def _head(port: int, length: int) -> bytes:
    lines = (
        "POST /v1/chat/completions HTTP/1.1",
        f"host: 127.0.0.1:{port}",
        f"authorization: Bearer {CANARIES.client_key}",
        "content-type: application/json",
        f"content-length: {length}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def _open(port: int, count: int, make: partial[_Slow]) -> list[asyncio.BaseTransport]:
    loop = asyncio.get_running_loop()
    made: list[asyncio.BaseTransport] = []
    for at in range(0, count, _AT_ONCE):
        opening = (loop.create_connection(make, "127.0.0.1", port) for _ in range(min(_AT_ONCE, count - at)))
        made += [transport for transport, _ in await asyncio.gather(*opening)]
    return made


async def _non_reader(stage: Stage, number: int) -> asyncio.BaseTransport:
    """With a small window, so that it is full at once."""
    loop = asyncio.get_running_loop()
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
    made.setblocking(False)
    await loop.sock_connect(made, ("127.0.0.1", stage.port))
    request = Caller(stage.port).request(_endless(stage), stream=True, marker=f"n{number}")
    transport, _ = await loop.create_connection(lambda: _NonReader(request), sock=made)
    return transport
