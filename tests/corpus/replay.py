"""Every recording through the running proxy, read by the official SDK, and once more by the SDK straight from the recording."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import openai
import orjson
import uvicorn
import yaml

from proxy.app import create_app
from proxy.config.load import load
from proxy.core.target import Credential, Target
from proxy.routing.deployment import Deployment, Deployments
from proxy.runtime import Runtime
from proxy.server.protocol import FastProtocol
from tests import prices
from tests.corpus.recordings import ROOT, Recording
from tests.corpus.upstream import MARKER, Replayer

AT_ONCE = 24
LEDGER_S = 20.0
LIMIT_S = 120.0
Trait = tuple[str, str, str]
# a provider that it knows with the same dialect needs none in its stanza, and has its quirks
CATALOGUE: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "proxy" / "catalogue.yaml").read_text(encoding="utf-8"))


@dataclass
class Read:
    """What the SDK made of one answer: a whole one as a single item, a stream as its chunks, an error as its own fields."""

    status: int | None = None
    request_id: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, Any] | None = None
    broke_off: bool = False


@dataclass
class Replay:
    """All that was seen. `rows` are the ledger's, `details` those of failed requests with their attempts, both by recording."""

    direct: dict[str, Read]
    proxied: dict[str, Read]
    rows: dict[str, dict[str, Any]]
    details: dict[str, dict[str, Any]]
    received: dict[str, list[dict[str, Any]]]
    paths: dict[str, str]


class _Unkept(dict[int, Any]):
    def __setitem__(self, key: int, value: object) -> None:
        """Nothing is kept."""


class _NoMemory(Deployments):
    """Each request finds its target as if it were the first: a recorded 401 or used-up limit must not close the way for the next."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(lambda: 0.5)
        self.layouts = _Unkept()

    def get(self, target: Target, credential: Credential) -> Deployment:
        return Deployments(self._random).get(target, credential)


def stanza(recording: Recording) -> str:
    """Under which name of the configuration this recording's provider stands."""
    if recording.provider != "azure":
        return recording.provider
    if "/deployments/" in recording.path:
        return "azure"
    return "azure-v1" if "/openai/v1/" in recording.path else "azure-models"


def telling(recordings: Iterable[Recording]) -> list[Recording]:
    """Short ones in which every trait of any of them occurs; each has one that no other of these has."""
    found: list[Recording] = []
    seen: Counter[Trait] = Counter()
    for recording in sorted(recordings, key=lambda one: len(one.body)):
        if not traits(recording) <= seen.keys():
            found.append(recording)
            seen.update(traits(recording))
    for recording in found[::-1]:
        if all(seen[trait] > 1 for trait in traits(recording)):
            found.remove(recording)
            seen.subtract(traits(recording))
    return found


@cache
def traits(recording: Recording) -> frozenset[Trait]:
    """How each provider answers, which fields it reports usage in and is asked with; and the fields of all that is said and asked."""
    name = stanza(recording)
    found: set[Trait] = {(name, recording.framing, str(recording.status))}
    found |= {(name, "asked", key) for key in recording.request}
    found |= {(name, "usage", field) for usage in recording.usage_objects for field in _fields(usage)}
    found |= {("any", recording.framing, field) for item in recording.objects for field in _fields(item)}
    found |= {("any", "asked", field) for field in _fields(recording.request)}
    return frozenset(found)


def _fields(value: Any, path: str = "") -> Iterator[str]:
    """Where each value is, and of which type: `.choices[].delta.content str`."""
    match value:
        case dict():
            for key, inner in value.items():
                yield from _fields(inner, f"{path}.{key}")
        case list():
            for inner in value:
                yield from _fields(inner, f"{path}[]")
        case _:
            yield f"{path} {type(value).__name__}"


def configuration(recordings: Iterable[Recording], upstream_port: int, transport: str) -> dict[str, Any]:
    providers: dict[str, Any] = {}
    for name in sorted({stanza(recording) for recording in recordings}):
        facts: dict[str, Any] = {
            "base_url": f"http://127.0.0.1:{upstream_port}/{name}",
            "api_key": "sk-fake",
            "transport": transport,
        }
        if name == "azure":
            facts["api_version"] = "2024-12-01-preview"
        elif name == "azure-v1":
            facts["dialect"] = "azure"
        elif CATALOGUE.get(name, {}).get("dialect") != "openai":
            facts["dialect"] = "openai"
        providers[name] = facts
    return {"server": {"log_level": "error"}, "defaults": {"retries": 0}, "providers": providers, "chains": {}}


async def replay(recordings: Iterable[Recording], folder: Path, *, transport: str = "native", direct_too: bool = True) -> Replay:
    by_id = {recording.id: recording for recording in recordings}
    upstream = Replayer(by_id)
    await upstream.start()
    try:
        path = folder / "providers.yaml"
        path.write_bytes(orjson.dumps(configuration(by_id.values(), upstream.port, transport)))
        async with asyncio.timeout(LIMIT_S), _proxy(path, folder / "data") as port:
            straight = _Reader(f"http://127.0.0.1:{upstream.port}/direct", prefixed=False)
            through = _Reader(f"http://127.0.0.1:{port}/v1", prefixed=True)
            turns = asyncio.Semaphore(AT_ONCE)
            direct: dict[str, Read] = {}
            proxied: dict[str, Read] = {}

            async def both(recording: Recording) -> None:
                async with turns:
                    if direct_too:
                        direct[recording.id] = await straight.read(recording)
                    proxied[recording.id] = await through.read(recording)

            async with asyncio.TaskGroup() as group:
                for recording in by_id.values():
                    group.create_task(both(recording))
            await straight.close()
            await through.close()
            rows, details = await _ledger(f"http://127.0.0.1:{port}", proxied)
    finally:
        await upstream.stop()
    return Replay(direct, proxied, rows, details, upstream.received, upstream.paths)


class _Reader:
    def __init__(self, base_url: str, *, prefixed: bool) -> None:
        self._prefixed = prefixed
        http = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=AT_ONCE), timeout=30.0, trust_env=False)
        self._client = openai.AsyncOpenAI(base_url=base_url, api_key="sk-fake", max_retries=0, http_client=http)

    async def close(self) -> None:
        await self._client.close()

    async def read(self, recording: Recording) -> Read:
        body = dict(recording.request)
        model, messages = body.pop("model"), body.pop("messages")
        if self._prefixed:
            model = f"{stanza(recording)}/{model}"
        stream = body.pop("stream", openai.omit)
        read = Read()
        try:
            raw = await self._client.chat.completions.with_raw_response.create(
                model=model, messages=messages, stream=stream, extra_body={**body, MARKER: recording.id}
            )
            read.status, read.headers = raw.status_code, dict(raw.headers)
            parsed = raw.parse()
            if stream is True:
                async for chunk in parsed:
                    read.items.append(_plain(chunk))
            else:
                read.items.append(_plain(parsed))
        except openai.APIStatusError as error:
            read.status, read.headers = error.status_code, dict(error.response.headers)
            read.error = {"message": error.message, "code": error.code, "type": error.type, "param": error.param}
        except openai.APIError as error:
            read.error = {"message": error.message, "code": error.code, "type": error.type, "param": error.param}
            read.broke_off = True
        read.request_id = read.headers.get("x-request-id")
        return read


def _plain(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.model_dump(exclude_unset=True, warnings=False)
    found.pop("_request_id", None)
    return found


@asynccontextmanager
async def _proxy(path: Path, data_dir: Path) -> AsyncIterator[int]:
    """The proxy in this process, behind its own protocol, on a free port."""

    def forget(runtime: Runtime) -> None:
        runtime.gateway.services.deployments = _NoMemory()

    prices.lay(data_dir)
    app = create_app(lambda: load(path, environ={}, overrides={"data_dir": data_dir}), on_runtime=forget)
    config = uvicorn.Config(
        app, http=FastProtocol, ws="none", lifespan="on", log_config=None, access_log=False, timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:
            if serving.done():
                await serving
                raise RuntimeError("the proxy did not start")
            await asyncio.sleep(0.01)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


async def _ledger(base_url: str, reads: dict[str, Read]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The rows of these requests, once they have all ended there, by recording; and the failed ones with their attempts."""
    recording_of = {read.request_id: id_ for id_, read in reads.items() if read.request_id is not None}
    async with httpx2.AsyncClient(base_url=base_url, timeout=30.0, trust_env=False) as http:
        rows: list[dict[str, Any]] = []
        until = asyncio.get_running_loop().time() + LEDGER_S
        while len(rows) < len(recording_of) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.2)
            rows = [row for row in await _pages(http) if row["outcome"] != "running"]
        details = {}
        for row in rows:
            if row["outcome"] != "ok":
                details[recording_of[row["id"]]] = (await http.get(f"/api/v1/requests/{row['id']}")).json()
    return {recording_of[row["id"]]: row for row in rows if row["id"] in recording_of}, details


async def _pages(http: httpx2.AsyncClient) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    before = ""
    while True:
        page = (await http.get(f"/api/v1/requests?limit=1000{before}")).json()
        rows += page["data"]
        if page["next"] is None:
            return rows
        before = f"&before={page['next']}"
