"""What every soak program stands on: an upstream that keeps count, the server as anybody runs it, a client, and its findings."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from tests.bench.load import Answer, Connection, chat_body, quantile, request_bytes
from tests.bench.processes import Child, HarnessError, get, open_files, python, tree
from tests.bench.subjects import Tollbridge, bench_config
from tests.soak.canary import Canaries

CANARIES = Canaries()
MIB = 1 << 20
PROMPT_BYTES = 200
_SAMPLE = re.compile(r"^(\w+)(\{.*\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Check:
    """`ok` None: a figure for information, held against nothing. `timing`: it says as much of the machine as of the proxy."""

    what: str
    found: str
    bar: str = ""
    ok: bool | None = None
    timing: bool = False


def none_of(what: str, count: int) -> Check:
    return Check(what, f"{count:,}", "0", count == 0)


def all_of(what: str, count: int, wanted: int) -> Check:
    return Check(what, f"{count:,}", f"{wanted:,}", count == wanted)


def at_most(what: str, value: float, bar: float, unit: str, *, timing: bool = False) -> Check:
    return Check(what, f"{_figure(value)} {unit}", f"≤ {bar:,g} {unit}", value <= bar, timing)


def at_least(what: str, value: float, bar: float, unit: str, *, timing: bool = False) -> Check:
    return Check(what, f"{_figure(value)} {unit}", f"≥ {bar:,g} {unit}", value >= bar, timing)


def p99_ms(seconds: list[float]) -> float:
    return quantile(sorted(seconds), 0.99) * 1e3


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{2 if abs(value) < 10 else 1}f}"


@dataclass(frozen=True, slots=True)
class Options:
    """`short`: as few as still say something, for the tests; what is timed is then not held against its bar."""

    short: bool = False
    transport: str = "native"
    prices: Path | None = None  # a folder where compiled prices are kept from one stage to the next

    def of(self, whole: int, short: int) -> int:
        return short if self.short else whole


class Server(Tollbridge):
    """The program under test, with the canaries in its environment. `module`: what is run in place of `proxy`."""

    workers = 1
    module = "proxy"

    def argv(self) -> list[str]:
        options = ["--config", str(self.config), "--port", str(self.port), "--data-dir", str(self.data_dir)]
        several = ["--workers", str(self.workers)] if self.workers > 1 else []
        return python("-m", self.module, "serve", *options, *several)

    def env(self) -> Mapping[str, str]:
        return CANARIES.environment()

    def write(self, settings: Mapping[str, Any]) -> None:
        """The configuration, as an editor writes it: another file, renamed over the old one."""
        fresh = self.config.with_suffix(".new")
        fresh.write_bytes(orjson.dumps(settings, option=orjson.OPT_INDENT_2))
        fresh.replace(self.config)


class Stage:
    """The upstream is up while this is entered; the server starts when told to, on the same port and data each time.

    When it is left, everything below the folder is searched for the canaries.
    """

    def __init__(self, folder: Path, options: Options) -> None:
        self.folder = folder
        self.options = options
        self._upstream = Child(python("-m", "tests.soak.upstream"), log=folder / "upstream.log", pipes=True)
        self.upstream_port: int = self._upstream.line(60.0)["port"]
        self.server: Server
        self.data_dir: Path | None = None  # where it is not to be beside the configuration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "server") and self.server.child is not None:
            self.server.child.stop(first=signal.SIGINT)  # which waits for nobody to notice
        self._upstream.stop()
        CANARIES.search(self.folder)

    def prepare(self, config: Mapping[str, Any], *, workers: int = 1, module: str = "proxy") -> None:
        """The configuration gets the canaries: the providers' key, a client, the operator's token."""
        self.server = Server(self.folder, self.upstream_port, None, config=guarded(config))
        self.server.data_dir = self.data_dir or self.server.data_dir
        if self.options.prices is not None:
            self.server.data_dir.mkdir(mode=0o700, parents=True)
            (self.server.data_dir / "cache").symlink_to(self.options.prices)
        self.server.workers = workers
        self.server.module = module

    def start(self) -> float:
        return self.server.start()

    def stop(self, first: signal.Signals = signal.SIGTERM, *, grace_s: float = 60.0) -> int:
        """The exit code."""
        return self.child.stop(grace_s, first=first)

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def child(self) -> Child:
        child = self.server.child
        if child is None:
            raise HarnessError("the server has not been started")
        return child

    # -- what the kernel says

    def rss_mib(self) -> float:
        return self.child.rss_bytes() / MIB

    def processes(self) -> list[tuple[int, str]]:
        """(id, `[name] command line`) of the server and all that descend from it: a worker has its supervisor's command line and a
        name of its own."""
        found = []
        for pid in tree(self.child.pid):
            try:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append((pid, f"[{name}] {line}"))
            except OSError:
                continue
        return found

    def files(self) -> int:
        return sum(open_files(pid) for pid in tree(self.child.pid))

    # -- what the upstream says

    def served(self) -> list[dict[str, Any]]:
        """What it was asked, one by one, as `tests.soak.upstream.Noted` has it."""
        found: list[dict[str, Any]] = orjson.loads(get(self.upstream_port, "/seen", timeout_s=120)[1])
        return found

    def counts(self) -> dict[str, Any]:
        """What it was asked, in sum; `busy`: with how much it is busy now."""
        found: dict[str, Any] = orjson.loads(get(self.upstream_port, "/counts", timeout_s=30)[1])
        return found

    def tell_upstream(self, what: str) -> None:
        """`dead` or `well`: what becomes of the model `primary`."""
        get(self.upstream_port, f"/{what}", timeout_s=30)

    # -- what the server says

    def get(self, path: str, *, timeout_s: float = 30.0, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """As the operator, unless other headers are given. The answer is searched for the canaries."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request("GET", path, headers=CANARIES.authorization() if headers is None else dict(headers))
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        CANARIES.look(f"GET {path.partition('?')[0]}", str(answer.headers).encode() + body)
        return answer.status, body

    def api(self, path: str) -> dict[str, Any]:
        status, body = self.get(path)
        if status != 200:
            raise HarnessError(f"GET {path}: {status} {body[:300]!r}")
        found: dict[str, Any] = json.loads(body)
        return found

    def metrics(self) -> dict[str, float]:
        """Sample -> value, samples as they are written: `name{label="value"}`."""
        status, body = self.get("/metrics")
        if status != 200:
            raise HarnessError(f"GET /metrics: {status} {body[:300]!r}")
        return {name + labels: float(value) for name, labels, value in _SAMPLE.findall(body.decode())}

    def rows(self) -> Iterator[dict[str, Any]]:
        """The whole ledger, newest first, page by page."""
        before = ""
        while True:
            page = self.api(f"/api/v1/requests?limit=1000{before}")
            yield from page["data"]
            if page["next"] is None:
                return
            before = f"&before={page['next']}"

    def sums(self) -> dict[str, Any]:
        """`GET /api/v1/usage`, ungrouped dimensions added up."""
        totals: dict[str, Any] = {}
        for row in self.api("/api/v1/usage?group_by=provider")["data"]:
            for name, value in row.items():
                if isinstance(value, int) and not isinstance(value, bool):
                    totals[name] = totals.get(name, 0) + value
        return totals

    # -- what the ledger says

    def sql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """From the database itself, past the proxy's own readers."""
        path = self.server.data_dir / "ledger.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(query, parameters).fetchall()

    async def ended(self, wanted: set[str], *, timeout_s: float = 60.0) -> None:
        """Until all of these requests have ended in the ledger, or that takes too long."""
        await wait_until(lambda: self._holds(wanted), timeout_s, poll_s=0.2)

    def _holds(self, wanted: set[str]) -> bool:
        return wanted <= {row[0] for row in self.sql("SELECT id FROM request_rows WHERE ended = 1")}

    def _has(self, request_id: str) -> bool:
        try:
            return bool(self.sql("SELECT 1 FROM request_rows WHERE id = ? AND ended = 1", request_id))
        except sqlite3.OperationalError:  # the drainer has not made it yet
            return False

    async def drained(self, wanted: set[str], *, timeout_s: float = 30.0) -> list[dict[str, Any]]:
        """The ledger's rows, once all of the wanted ones have ended there, or when that takes too long."""
        until = time.monotonic() + timeout_s
        while True:
            rows = list(self.rows())
            ended = {row["id"] for row in rows if row["outcome"] != "running"}
            if wanted <= ended or time.monotonic() > until:
                return rows
            await asyncio.sleep(0.5)

    async def warmed(self, *, timeout_s: float = 30.0) -> None:
        """Waits until the server has read its prices, which another process compiles for it the first time."""
        await wait_until(lambda: not any("price_data" in command for _, command in self.processes()), timeout_s)

    async def settled(self, *, timeout_s: float = 60.0) -> int:
        """Waits until nothing runs any more and the ledger holds all that did. What still runs upstream and here: 0 but for a fault.

        A last request is made: where one process writes, its row comes behind those of all that ended before.
        """
        until = time.monotonic() + timeout_s
        left = 1
        while left and time.monotonic() < until:
            left = int(self.metrics()["tollbridge_requests_in_flight"]) + self.counts()["busy"]
            await asyncio.sleep(0.05)
        caller = Caller(self.port)
        last = await caller.ask("mixed", stream=False, marker="the last one")
        await caller.close()
        if not await wait_until(lambda: self._has(last.request_id), timeout_s):
            raise HarnessError(f"{last.request_id} is not in the ledger after {timeout_s:.0f} s")
        return left


async def wait_until(condition: Callable[[], bool], timeout_s: float, *, poll_s: float = 0.05) -> bool:
    """False: it took too long. What is waited for happens in other processes, so that nothing could wake us."""
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            return False
        await asyncio.sleep(poll_s)
    return True


def guarded(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with clients, an operator and keys from the environment, where it does not say otherwise."""
    providers = {
        name: {**stanza, "api_key": "${SOAK_PROVIDER_KEY}"} if "api_key" in stanza else stanza
        for name, stanza in config["providers"].items()
    }
    clients = {"soak": {"key": "${SOAK_CLIENT_KEY}"}}
    return {"auth": {"admin_token": "${SOAK_ADMIN_TOKEN}"}, "clients": clients, **config, "providers": providers}


def mock_provider(stage: Stage) -> dict[str, Any]:
    """The benchmark's configuration, with the models whose tokens are drawn at random.

    Nothing is refused because the machine is busy, which it may be with other things: that is what `overload` is about.
    """
    config = bench_config(stage.upstream_port, ("mixed", "mixed-nousage"), transport=stage.options.transport)
    config["server"]["max_wait"] = "0s"
    return config


# the circuit stays closed: a provider that fails every request is asked every time
NEVER_OPEN = {"failures": 1_000_000, "error_rate": 1.0, "min_requests": 1_000_000}
# USD per million tokens; a cached token costs 12.5 nano-dollars, so that rounding has something to do
PRICES = {"input": "0.59", "output": "0.79", "cached_input": "0.0125"}
ODD = ("down", "reset", "echo-400", "echo-500", "html", "bad-json", "early-cut")


def common_config(stage: Stage) -> dict[str, Any]:
    """What the programs share that do not need one of their own: chains by the name of what becomes of them."""
    config = mock_provider(stage)
    mock = {**config["providers"]["mock"], "prices": {"*": {name: float(price) for name, price in PRICES.items()}}}
    # four seconds at most from the primary's recovery to the next probe
    quick = {"failures": 5, "open": "500ms", "open_max": "2s"}
    config["providers"] = {
        "mock": mock,
        "broken": {**mock, "circuit": NEVER_OPEN},
        "primary": {**mock, **({"circuit": quick} if stage.options.short else {})},
        "storm": mock,
        "storm-closed": {**mock, "circuit": NEVER_OPEN},
    }
    config["chains"] |= {
        "failover": ["broken/down", "mock/mixed"],
        "outage": ["primary/primary", "mock/mixed"],
        "storm": ["storm/down"],
        "storm-closed": ["storm-closed/down"],
        **{f"odd-{name}": [f"broken/{name}", "mock/mixed"] for name in ODD},
        **{name: [f"mock/{name}"] for name in ("hold", "whole", "lone-2000", "lone-50", "endless-2", "endless-20")},
        **{name: [f"broken/{name}"] for name in ("cut", "bomb", "line", "echo-200", "echo-401", "echo-stream")},
    }
    return config


Act = Callable[[Stage], Coroutine[Any, Any, list[Check]]]
Run = Callable[[Path, Options], Coroutine[Any, Any, list[Check]]]


def alone(act: Act) -> Run:
    """A program that needs nothing but a running server with the common configuration, on a stage of its own."""

    async def run(folder: Path, options: Options) -> list[Check]:
        with Stage(folder, options) as stage:
            stage.prepare(common_config(stage))
            await asyncio.to_thread(stage.start)
            await stage.warmed()
            return await act(stage)

    return run


class Watched(Connection):
    """A connection whose every byte is searched for the canaries."""

    where = "an answer"
    _looked = b""

    def data_received(self, data: bytes) -> None:
        self._looked = CANARIES.look(self.where, data, self._looked)
        super().data_received(data)


class Caller:
    """One client with one connection, opened anew whenever it is gone."""

    def __init__(self, port: int, *, keep: bool = False, where: str = Watched.where) -> None:
        self.connection: Watched | None = None
        self._port = port
        self._keep = keep
        self._where = where
        self._waiting: asyncio.Future[Answer] | None = None

    async def ask(
        self,
        model: str,
        *,
        stream: bool,
        marker: str,
        on_data: Callable[[Connection], None] | None = None,
        user: str | None = None,
    ) -> Answer:
        """The answer as far as it came; an `OSError` when nobody listens. `on_data`: called with each piece of the body."""
        connection = await self.connected()
        connection.on_data = on_data
        connection.send(self.request(model, stream=stream, marker=marker, user=user))
        return await self.answer()

    async def connected(self) -> Watched:
        connection = self.connection
        if connection is None or connection.transport is None or connection.transport.is_closing():
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(lambda: Watched(self._ended, keep=self._keep), "127.0.0.1", self._port)
            connection.where = self._where
            self.connection = connection
        self._waiting = asyncio.get_running_loop().create_future()
        return connection

    def request(self, model: str, *, stream: bool, marker: str, user: str | None = None) -> bytes:
        body = chat_body(model, stream=stream, prompt_bytes=PROMPT_BYTES, user=user if user is not None else marker)
        headers = (f"x-tollbridge-task-id: {marker}",)
        return request_bytes(body, port=self._port, headers=headers, key=CANARIES.client_key)

    async def answer(self) -> Answer:
        """Of what `connected` made room for."""
        assert self._waiting is not None
        return await self._waiting

    def _ended(self, _: Connection, answer: Answer) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)

    async def close(self) -> None:
        if self.connection is not None and self.connection.transport is not None:
            self.connection.hang_up()
            await self.connection.lost.wait()


async def each(numbers: Iterator[int], clients: int, port: int, ask: Callable[[Caller, int], Coroutine[Any, Any, None]]) -> None:
    """So many clients share the numbers out among themselves, one request at a time each."""

    async def client() -> None:
        caller = Caller(port)
        for number in numbers:
            await ask(caller, number)
        await caller.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())


async def paced(rate: float, seconds: float, ask: Callable[[int], Coroutine[Any, Any, None]]) -> int:
    """An open loop: requests start by the clock, whatever becomes of those before. How many there were."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as group:
        number = 0
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
            group.create_task(ask(number))
    return number + 1
