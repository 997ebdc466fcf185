"""A caller beside the many who looks closely: how long `GET /livez` and a refusal take, from when he sends to when the kernel has the
answer for him. When he himself gets the processor does not count, nor does it when the many do.

`python -m tests.soak.probe` reads a `ProbePlan` as one JSON line, opens its connections, prints `{"ready": true}`, waits for a line, runs,
and prints a `ProbeResult`.

Beside each time there is the processor time that the server used meanwhile, as exactly as the kernel tells it of another process (some
milliseconds): what is over that, others had on a machine that is shared.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson

from tests.bench.load import chat_body, quantile, request_bytes
from tests.bench.processes import cpu_ns

_TIMEOUT_S = 30.0
_KEPT = 100  # connections, so that none asks again within the second that it is told to wait
_STAMPS = getattr(socket, "SO_TIMESTAMPNS", 35)  # of Linux; Python 3.11 has no name for it
_STAMP = struct.Struct("@qq")


@dataclass(slots=True)
class ProbePlan:
    """`pid`: the server's. `/livez` on a connection of its own, then a request on one that is kept, then a pause of `every_s`."""

    port: int
    pid: int
    key: str
    model: str
    seconds: float
    every_s: float = 0.02


@dataclass(slots=True)
class Times:
    """In milliseconds. `own`: of the server's processor time."""

    count: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    worst_ms: float = 0.0
    own_p99_ms: float = 0.0
    own_worst_ms: float = 0.0


@dataclass(slots=True)
class ProbeResult:
    alive: Times = field(default_factory=Times)
    refused: Times = field(default_factory=Times)
    silent: dict[str, int] = field(default_factory=dict)  # what there was instead of an answer, and how often


class Probe:
    def __init__(self, plan: ProbePlan) -> None:
        self._plan = plan
        self._request = request_bytes(chat_body(plan.model, stream=True, prompt_bytes=800), port=plan.port, key=plan.key)
        self._kept = deque(connected(plan.port) for _ in range(_KEPT))
        self._alive: list[tuple[int, int]] = []
        self._refused: list[tuple[int, int]] = []
        self._silent: Counter[str] = Counter()

    def run(self) -> ProbeResult:
        plan = self._plan
        began = time.monotonic()
        while time.monotonic() - began < plan.seconds:
            with self._counted("/livez"):
                self._ask_alive()
            with self._counted("request"):
                self._ask_more()
            time.sleep(plan.every_s)
        return ProbeResult(_times(self._alive), _times(self._refused), dict(self._silent))

    @contextlib.contextmanager
    def _counted(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._silent[f"{what}: {type(error).__name__}"] += 1

    def _ask_alive(self) -> None:
        with self._timed() as sent, connected(self._plan.port) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
            _, at = received(connection)
            self._alive.append((at - sent[0], cpu_ns(self._plan.pid) - sent[1]))

    def _ask_more(self) -> None:
        """Whoever is not refused hangs up: it would be one of the many."""
        connection = self._opened_long_before()
        with self._timed() as sent:
            connection.sendall(self._request)
            data, at = received(connection)
        if data.startswith(b"HTTP/1.1 503"):
            self._refused.append((at - sent[0], cpu_ns(self._plan.pid) - sent[1]))
            self._kept.append(connection)
        else:
            connection.close()
            self._kept.append(connected(self._plan.port))

    def _opened_long_before(self) -> socket.socket:
        """And still open: for a first request the server waits ten seconds, and one slow answer holds up the whole round."""
        while True:
            connection = self._kept.popleft()
            if not select.select([connection], [], [], 0)[0]:
                return connection
            connection.close()
            self._kept.append(connected(self._plan.port))

    @contextlib.contextmanager
    def _timed(self) -> Iterator[tuple[int, int]]:
        yield time.time_ns(), cpu_ns(self._plan.pid)


def connected(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
    made.setsockopt(socket.SOL_SOCKET, _STAMPS, 1)
    return made


def received(connection: socket.socket) -> tuple[bytes, int]:
    """The next bytes of an answer, and when the kernel had them, in nanoseconds of the wall clock."""
    data, told, _, _ = connection.recvmsg(65_536, 256)
    now = time.time_ns()
    if not data:
        raise ConnectionResetError
    for level, kind, value in told:
        if level == socket.SOL_SOCKET and kind == _STAMPS:
            seconds, nanoseconds = _STAMP.unpack(value)
            return data, seconds * 1_000_000_000 + nanoseconds
    return data, now


def _times(found: list[tuple[int, int]]) -> Times:
    if not found:
        return Times()
    took, own = (sorted(side) for side in zip(*found, strict=True))
    return Times(
        len(found),
        quantile(took, 0.5) / 1e6,
        quantile(took, 0.99) / 1e6,
        took[-1] / 1e6,
        quantile(own, 0.99) / 1e6,
        own[-1] / 1e6,
    )


if __name__ == "__main__":
    probe = Probe(ProbePlan(**orjson.loads(sys.stdin.readline())))
    print('{"ready":true}', flush=True)
    sys.stdin.readline()
    print(orjson.dumps(probe.run()).decode(), flush=True)
