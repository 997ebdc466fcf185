"""What every soak program stands on: an upstream that keeps count, the server as anybody runs it, a client, and its findings."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from tests.bench.load import Answer, Connection, chat_body, request_bytes
from tests.bench.processes import Child, HarnessError, get, python
from tests.bench.subjects import Tollbridge, bench_config


@dataclass(frozen=True, slots=True)
class Check:
    """`ok` None: a figure for information, held against nothing."""

    what: str
    found: str
    bar: str = ""
    ok: bool | None = None


def none_of(what: str, count: int) -> Check:
    return Check(what, f"{count:,}", "0", count == 0)


def at_most(what: str, value: float, bar: float, unit: str) -> Check:
    return Check(what, f"{value:,.{2 if abs(value) < 10 else 1}f} {unit}", f"≤ {bar:,g} {unit}", value <= bar)


@dataclass(frozen=True, slots=True)
class Options:
    short: bool = False
    transport: str = "native"


class Stage:
    """The upstream is up while this is entered; the server starts when told to, on the same port and data each time."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.folder = folder
        self.options = options
        self._upstream = Child(python("-m", "tests.bench.upstream", "--keep"), log=folder / "upstream.log", pipes=True)
        self.upstream_port: int = self._upstream.line(20.0)["port"]
        self.server: Tollbridge

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "server"):
            self.server.stop()
        self._upstream.stop()

    def prepare(self, config: Mapping[str, Any]) -> None:
        self.server = Tollbridge(self.folder, self.upstream_port, None, config=config)

    def start(self) -> float:
        return self.server.start()

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def child(self) -> Child:
        child = self.server.child
        if child is None:
            raise HarnessError("the server has not been started")
        return child

    def served(self) -> list[dict[str, Any]]:
        """What the upstream gave out, answer by answer."""
        found: list[dict[str, Any]] = orjson.loads(get(self.upstream_port, "/seen", timeout_s=60)[1])
        return found

    def rows(self) -> Iterator[dict[str, Any]]:
        """The whole ledger, newest first, page by page."""
        before = ""
        while True:
            page = self.api(f"/api/v1/requests?limit=1000{before}")
            yield from page["data"]
            if page["next"] is None:
                return
            before = f"&before={page['next']}"

    def api(self, path: str) -> dict[str, Any]:
        status, body = get(self.port, path, timeout_s=30)
        if status != 200:
            raise HarnessError(f"GET {path}: {status} {body[:300]!r}")
        found: dict[str, Any] = json.loads(body)
        return found

    def sums(self) -> dict[str, Any]:
        """`GET /api/v1/usage`, ungrouped dimensions added up."""
        totals: dict[str, Any] = {}
        for row in self.api("/api/v1/usage?group_by=provider")["data"]:
            for name, value in row.items():
                if isinstance(value, int) and not isinstance(value, bool):
                    totals[name] = totals.get(name, 0) + value
        return totals

    async def drained(self, wanted: set[str], *, timeout_s: float = 30.0) -> list[dict[str, Any]]:
        """The ledger's rows, once all of the wanted ones have ended there, or when that takes too long."""
        until = time.monotonic() + timeout_s
        while True:
            rows = list(self.rows())
            ended = {row["id"] for row in rows if row["outcome"] != "running"}
            if wanted <= ended or time.monotonic() > until:
                return rows
            await asyncio.sleep(0.5)


def mock_provider(stage: Stage) -> dict[str, Any]:
    """The benchmark's configuration, with the models whose tokens are drawn at random."""
    return bench_config(stage.upstream_port, ("mixed", "mixed-nousage"), transport=stage.options.transport)


class Caller:
    """One client with one connection, opened anew whenever it is gone."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: Connection | None = None
        self._waiting: asyncio.Future[Answer] | None = None

    async def ask(self, model: str, *, stream: bool, marker: str) -> Answer:
        """The answer as far as it came; an `OSError` when nobody listens."""
        loop = asyncio.get_running_loop()
        connection = self._connection
        if connection is None or connection.transport is None or connection.transport.is_closing():
            _, connection = await loop.create_connection(lambda: Connection(self._ended), "127.0.0.1", self._port)
            self._connection = connection
        body = chat_body(model, stream=stream, prompt_bytes=200, user=marker)
        self._waiting = loop.create_future()
        connection.send(request_bytes(body, port=self._port, headers=(f"x-tollbridge-task-id: {marker}",)))
        return await self._waiting

    def _ended(self, _: Connection, answer: Answer) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)

    async def close(self) -> None:
        if self._connection is not None and self._connection.transport is not None:
            self._connection.hang_up()
            await self._connection.lost.wait()
