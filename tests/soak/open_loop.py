"""Callers who do not wait for each other: so many requests a second, whatever becomes of them, on connections that are kept.

`python -m tests.soak.open_loop` reads an `OpenPlan` as one JSON line, opens its connections, prints `{"ready": true}`, waits for a
line, runs, and prints an `OpenResult`. A request that is due when all connections are busy gets a new one, up to `most` of them.

It notes with each answer when it came, so that what was reached can be told of any part of the run.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field

import orjson
import uvloop

from tests.bench.load import Answer, Connection, chat_body, quantile, request_bytes

_STEP_S = 0.005
_LAST_S = 30.0  # for what is under way when the time is over


@dataclass(slots=True)
class OpenPlan:
    port: int
    key: str
    model: str
    stream: bool
    rate: float  # requests a second
    seconds: float
    connections: int
    most: int
    from_s: float = 2.0  # what ends before is not counted as reached: at first there is nothing to be refused


@dataclass(slots=True)
class OpenResult:
    """`whole_per_s`: whole answers that ended between `from_s` and the end of the run, a second. Times in milliseconds."""

    offered: int = 0
    unsent: int = 0  # no connection was free
    broken: int = 0  # neither whole nor refused: cut off, or no answer
    whole: int = 0
    whole_per_s: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    refused_p50_ms: float = 0.0
    refused_p99_ms: float = 0.0
    whole_p50_ms: float = 0.0
    whole_p99_ms: float = 0.0
    first_p50_ms: float = 0.0
    first_p99_ms: float = 0.0
    late_p99_ms: float = 0.0  # of this program itself: how late a request was sent
    connections: int = 0
    cpu_share: float = 0.0


class Callers:
    def __init__(self, plan: OpenPlan) -> None:
        self.plan = plan
        self.result = OpenResult()
        body = chat_body(plan.model, stream=plan.stream, prompt_bytes=800)
        self._request = request_bytes(body, port=plan.port, key=plan.key)
        self._idle: deque[Connection] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._statuses: Counter[str] = Counter()
        self._refused: list[float] = []
        self._whole: list[tuple[float, float]] = []  # (when it ended, how long it took)
        self._firsts: list[float] = []
        self._late: list[float] = []
        self._open = 0
        self._running = 0
        self._over = False

    async def open(self) -> None:
        for _ in range(self.plan.connections):
            self._idle.append(await self._connect())

    async def _connect(self) -> Connection:
        self._open += 1
        self.result.connections = max(self.result.connections, self._open)
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self._ended), "127.0.0.1", self.plan.port
        )
        return connection

    async def run(self) -> None:
        plan, began, cpu = self.plan, time.perf_counter(), time.process_time()
        total = int(plan.rate * plan.seconds)
        while self.result.offered < total:
            now = time.perf_counter()
            due = min(total, int((now - began) * plan.rate))
            while self.result.offered < due:
                self._late.append(now - began - self.result.offered / plan.rate)
                self.result.offered += 1
                self._send()
            await asyncio.sleep(_STEP_S)
        ended = time.perf_counter()
        self.result.cpu_share = (time.process_time() - cpu) / (ended - began)
        until = ended + _LAST_S
        while self._running and time.perf_counter() < until:  # noqa: ASYNC110 - those who end it are many
            await asyncio.sleep(_STEP_S)
        self._over = True
        self._sum_up(began + plan.from_s, ended)

    def _send(self) -> None:
        while self._idle:
            connection = self._idle.popleft()
            if connection.transport is not None and not connection.transport.is_closing():
                self._running += 1
                connection.send(self._request)
                return
        if self._open >= self.plan.most:
            self.result.unsent += 1
            return
        task = asyncio.get_running_loop().create_task(self._send_anew())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _send_anew(self) -> None:
        self._running += 1
        try:
            connection = await self._connect()
        except OSError:
            self._running -= 1
            self._open -= 1
            self.result.broken += 1
            return
        connection.send(self._request)

    def _ended(self, connection: Connection, answer: Answer) -> None:
        self._running -= 1
        if self._over:
            return
        self._statuses[str(answer.status)] += 1
        took = answer.ended - answer.began
        if answer.status == 503 and answer.whole:
            self._refused.append(took)
        elif answer.status == 200 and answer.whole:
            self._whole.append((answer.ended, took))
            self._firsts.append(answer.first - answer.began)
        else:
            self.result.broken += 1
        if connection.transport is not None and not connection.transport.is_closing():
            self._idle.append(connection)
        else:
            self._open -= 1

    def _sum_up(self, since: float, until: float) -> None:
        result = self.result
        result.broken += self._running
        result.statuses = dict(self._statuses)
        result.whole = len(self._whole)
        result.whole_per_s = sum(since <= ended < until for ended, _ in self._whole) / (until - since)
        refused, firsts, late = sorted(self._refused), sorted(self._firsts), sorted(self._late)
        whole = sorted([took for _, took in self._whole])
        result.refused_p50_ms = quantile(refused, 0.50) * 1e3
        result.refused_p99_ms = quantile(refused, 0.99) * 1e3
        result.whole_p50_ms = quantile(whole, 0.50) * 1e3
        result.whole_p99_ms = quantile(whole, 0.99) * 1e3
        result.first_p50_ms = quantile(firsts, 0.50) * 1e3
        result.first_p99_ms = quantile(firsts, 0.99) * 1e3
        result.late_p99_ms = quantile(late, 0.99) * 1e3


async def _main(plan: OpenPlan) -> OpenResult:
    callers = Callers(plan)
    await callers.open()
    print('{"ready":true}', flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await callers.run()
    return callers.result


if __name__ == "__main__":
    print(orjson.dumps(uvloop.run(_main(OpenPlan(**orjson.loads(sys.stdin.readline()))))).decode(), flush=True)
