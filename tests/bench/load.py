"""The load generator: keep-alive connections over bare sockets, each with one request at a time.

`python -m tests.bench.load` reads a `Plan` as one JSON line, opens its connections, warms them up, prints `{"ready": true}`,
waits for a line, runs, and prints a `Result`. `Connection` is the client itself; the soak programs use it, too.

An answer is *whole* when its framing was complete and, for a stream, `[DONE]` came. Latencies run from the write of
the request to the read that completed its answer; a gap is the time between two reads of one stream that brought events, and
events that came in one read have gaps of 0.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_EVENTS = re.compile(rb"\r\ncontent-type: *text/event-stream", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"\r\nx-request-id: *([^\r]*)", re.IGNORECASE)
_END = b"\r\n0\r\n\r\n"
_EVENT = b"data: "
_DONE = b"data: [DONE]"


@dataclass(slots=True)
class Plan:
    """One run. `abort_every`: every n-th request is hung up on (0: none), by turns at its answer's first bytes and after 1 ms."""

    port: int
    model: str
    stream: bool = False
    connections: int = 32
    requests: int = 1_000
    warmup: int = 0
    prompt_bytes: int = 800
    events: int = 0  # `data:` events that a whole stream has; 0: not checked
    time_limit_s: float = 60.0
    abort_every: int = 0
    key: str = "sk-client"


@dataclass(slots=True)
class Result:
    """What one run saw. Times in milliseconds."""

    requests: int = 0
    whole: int = 0
    truncated: int = 0
    failed: int = 0  # a status other than 200, or no answer at all
    aborted: int = 0  # by us, on purpose
    unfinished: int = 0  # still running at the time limit
    events: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    latency_p50_ms: float = 0.0
    latency_p99_ms: float = 0.0
    first_p50_ms: float = 0.0
    gap_p50_ms: float = 0.0
    gap_p99_ms: float = 0.0
    gap_max_ms: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Answer:
    """One answer as far as it came. `whole`: framing complete, and `[DONE]` seen if it is a stream."""

    status: int = 0
    whole: bool = False
    done: bool = False
    chunked: bool = False
    streamed: bool = False
    events: int = 0
    head: bytes = b""
    body: bytes = b""  # kept only where asked for
    began: float = 0.0
    first: float = 0.0
    ended: float = 0.0

    @property
    def request_id(self) -> str:
        found = _REQUEST_ID.search(self.head)
        return found[1].decode() if found else ""


def request_bytes(body: dict[str, Any], *, port: int, headers: tuple[str, ...] = (), key: str = "sk-client") -> bytes:
    payload = orjson.dumps(body)
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        f"host: 127.0.0.1:{port}",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        "accept: */*",
        "user-agent: bench",
        f"content-length: {len(payload)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + payload


def chat_body(model: str, *, stream: bool, prompt_bytes: int, user: str | None = None) -> dict[str, Any]:
    """An ordinary request whose JSON is about 200 bytes longer than its prompt."""
    words = "The quick brown fox jumps over the lazy dog. "
    prompt = (words * (prompt_bytes // len(words) + 1))[:prompt_bytes]
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": prompt}],
        "temperature": 0.7,
        "max_tokens": 512,
    }
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    if user is not None:
        body["user"] = user
    return body


class Connection(asyncio.Protocol):
    """One keep-alive connection. `on_end` hears of every answer, whole or not; of one cut off, what there was."""

    def __init__(
        self, on_end: Callable[[Connection, Answer], None], *, gaps: array[float] | None = None, keep: bool = False
    ) -> None:
        self.transport: asyncio.Transport | None = None
        self.answer: Answer | None = None
        self.on_data: Callable[[Connection], None] | None = None
        self.lost = asyncio.Event()
        self._on_end = on_end
        self._gaps = gaps
        self._keep = keep
        self._head = b""
        self._in_head = True
        self._left = 0
        self._tail = b""
        self._last = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's transports are not registered with asyncio's classes

    def send(self, request: bytes) -> None:
        assert self.transport is not None
        self.answer = Answer(began=time.perf_counter())
        self._in_head = True
        self._head = b""
        self._tail = b""
        self._last = 0.0
        self.transport.write(request)

    def hang_up(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def hang_up_on(self, answer: Answer | None) -> None:
        if self.answer is answer:
            self.hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.lost.set()
        if self.answer is not None:
            self._finish(whole=False)

    def data_received(self, data: bytes) -> None:
        answer = self.answer
        if answer is None:
            self.hang_up()  # an answer to nothing
            return
        if self._in_head:
            if not answer.first:
                answer.first = time.perf_counter()
            data = self._read_head(answer, data)
            if self._in_head:
                return
        if self._keep:
            answer.body += data
        if answer.chunked:
            self._read_chunked(answer, data)
        else:
            self._left -= len(data)
            if self._left <= 0:
                self._finish(whole=self._left == 0)
                return
        if self.on_data is not None:
            self.on_data(self)

    def _read_head(self, answer: Answer, data: bytes) -> bytes:
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return b""
        head, rest = self._head[: end + 2], self._head[end + 4 :]
        answer.head = head
        answer.status = int(head[9:12])
        answer.chunked = _CHUNKED.search(head) is not None
        answer.streamed = _EVENTS.search(head) is not None
        length = _LENGTH.search(head)
        self._left = int(length[1]) if length else 0
        self._in_head = False
        return rest

    def _read_chunked(self, answer: Answer, data: bytes) -> None:
        """Events are counted and the end is looked for by bytes alone; what two reads share is in the tail."""
        seen = self._tail + data
        events = seen.count(_EVENT) - self._tail.count(_EVENT)
        self._tail = seen[-12:]
        if events:
            answer.events += events
            gaps = self._gaps
            if gaps is not None:
                now = time.perf_counter()
                if self._last:
                    gaps.append(now - self._last)
                    events -= 1
                gaps.extend([0.0] * events)
                self._last = now
        if _DONE in seen:
            answer.done = True
        if seen.endswith(_END):
            self._finish(whole=answer.done or not answer.streamed)

    def _finish(self, *, whole: bool) -> None:
        answer = self.answer
        assert answer is not None
        answer.ended = time.perf_counter()
        answer.whole = whole
        self.answer = None
        self._on_end(self, answer)


class Run:
    """Keeps `connections` requests in flight until the plan's number has been started, and sums up what came back."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.result = Result()
        body = chat_body(plan.model, stream=plan.stream, prompt_bytes=plan.prompt_bytes)
        self._request = request_bytes(body, port=plan.port, key=plan.key)
        self._latencies = array("d")
        self._firsts = array("d")
        self._gaps = array("d")
        self._statuses: Counter[str] = Counter()
        self._started = 0
        self._ended = 0
        self._target = 0
        self._measured = False
        self._aborting: set[Connection] = set()
        self._connections: set[Connection] = set()
        self._reopening: set[asyncio.Task[None]] = set()
        self._done = asyncio.Event()

    async def open(self) -> None:
        for at in range(0, self.plan.connections, 100):
            await asyncio.gather(*(self._connect() for _ in range(at, min(at + 100, self.plan.connections))))

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection(self._on_end, gaps=self._gaps if self.plan.stream else None), "127.0.0.1", self.plan.port
        )
        self._connections.add(connection)
        return connection

    async def phase(self, requests: int, *, measured: bool) -> None:
        self._measured = measured
        self._started, self._ended, self._target = 0, 0, requests
        self._done.clear()
        del self._gaps[:]
        began, cpu = time.perf_counter(), time.process_time()
        for connection in list(self._connections):
            self._next(connection)
        if requests:
            try:
                async with asyncio.timeout(self.plan.time_limit_s):
                    await self._done.wait()
            except TimeoutError:
                pass
        if measured:
            self.result.seconds = time.perf_counter() - began
            self.result.cpu_seconds = time.process_time() - cpu
            self.result.unfinished = self._target - self._ended
            self.result.requests = self._target

    async def close(self) -> None:
        self._measured = False
        self._target = 0  # what is still running ends now, and nothing follows it
        if self._reopening:
            await asyncio.gather(*self._reopening)
        connections = list(self._connections)
        for connection in connections:
            connection.hang_up()
        for connection in connections:
            await connection.lost.wait()

    def _next(self, connection: Connection) -> None:
        if self._started >= self._target:
            return
        self._started += 1
        every = self.plan.abort_every
        if every and self._measured and self._started % every == 0:
            self._aborting.add(connection)
            connection.send(self._request)
            if self._started // every % 2:
                connection.on_data = Connection.hang_up
            else:
                asyncio.get_running_loop().call_later(0.001, connection.hang_up_on, connection.answer)
        else:
            connection.send(self._request)

    def _on_end(self, connection: Connection, answer: Answer) -> None:
        self._ended += 1
        if self._measured:
            self._note(connection, answer)
        if self._ended >= self._target:
            self._done.set()
        if connection.transport is not None and not connection.transport.is_closing():
            connection.on_data = None
            self._next(connection)
        else:
            self._connections.discard(connection)
            if self._started >= self._target:
                return
            task = asyncio.get_running_loop().create_task(self._reopen())
            self._reopening.add(task)
            task.add_done_callback(self._reopening.discard)

    async def _reopen(self) -> None:
        try:
            self._next(await self._connect())
        except OSError:
            if self._started >= self._target:
                return
            self._started += 1
            self._ended += 1
            self.result.failed += 1
            if self._ended >= self._target:
                self._done.set()

    def _note(self, connection: Connection, answer: Answer) -> None:
        result = self.result
        aborted = connection in self._aborting
        self._aborting.discard(connection)
        if aborted and not answer.whole:
            result.aborted += 1
            return
        self._statuses[str(answer.status)] += 1
        result.events += answer.events
        if answer.status != 200:
            result.failed += 1
        elif not answer.whole or (self.plan.events and answer.events != self.plan.events):
            result.truncated += 1
        else:
            result.whole += 1
        self._latencies.append(answer.ended - answer.began)
        self._firsts.append(answer.first - answer.began)

    def summary(self) -> Result:
        result = self.result
        result.statuses = dict(self._statuses)
        latencies, gaps = sorted(self._latencies), sorted(self._gaps)
        result.latency_p50_ms = quantile(latencies, 0.50) * 1e3
        result.latency_p99_ms = quantile(latencies, 0.99) * 1e3
        result.first_p50_ms = quantile(sorted(self._firsts), 0.50) * 1e3
        result.gap_p50_ms = quantile(gaps, 0.50) * 1e3
        result.gap_p99_ms = quantile(gaps, 0.99) * 1e3
        result.gap_max_ms = gaps[-1] * 1e3 if gaps else 0.0
        return result


def quantile(ordered: list[float], share: float) -> float:
    """Nearest rank; 0 for nothing."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


async def run(plan: Plan, wait: Callable[[], Any] | None = None) -> Result:
    """Open, warm up, `wait` (in a thread: it may block), run. What `wait` returns is of no interest."""
    this = Run(plan)
    await this.open()
    await this.phase(plan.warmup, measured=False)
    if wait is not None:
        await asyncio.get_running_loop().run_in_executor(None, wait)
    await this.phase(plan.requests, measured=True)
    await this.close()
    return this.summary()


def _ready_then_go() -> None:
    print('{"ready":true}', flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    print(orjson.dumps(uvloop.run(run(Plan(**orjson.loads(sys.stdin.readline())), _ready_then_go))).decode(), flush=True)
