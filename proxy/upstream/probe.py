"""Asks providers what costs nothing, their model list or the state of a key: is the key right, is the provider there? Never a completion.

One question per key, all at once, each asked a second time before it counts as failed: at once after a failure, and beside the first
when half of the time is over, so that both have ended in time. What a provider answers is not trusted: no redirect is followed, no
environment proxy is used, and at most MAX_BODY_BYTES are read. The transport is a provider's own (`core.ports.UpstreamTransport`), so
that a check meets the same proxies, authorities and names as a call does.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import orjson

from proxy.core.errors import UpstreamError
from proxy.core.ports import RequestHead, UpstreamResponse, UpstreamTransport
from proxy.core.redact import one_line
from proxy.core.target import Credential, Provider
from proxy.upstream.client import HttpxTransport
from proxy.upstream.origin import parse_base_url
from proxy.upstream.pool import NativeTransport

MAX_BODY_BYTES = 4 << 20
TIMEOUT_S = 10.0
REPEAT_AFTER_S = 1.0  # a quarter of the timeout where that is less
# Google and xAI call a wrong key a bad request; this is how their answers say it
_WRONG_KEY_MARKS = (b"API_KEY_INVALID", b"Incorrect API key")
# these list in pages, of 20 or 50 models unless asked for more; 1,000 is the most that each gives:
# https://platform.claude.com/docs/en/api/models/list, https://ai.google.dev/api/models#method:-models.list,
# https://docs.cohere.com/reference/list-models
_WHOLE_LIST = {"anthropic": "?limit=1000", "gemini": "?pageSize=1000", "cohere": "?page_size=1000"}
_MORE = ("has_more", "nextPageToken", "next_page_token")  # how they say that there is another page
_GZIP = 31  # what zlib calls its format (https://docs.python.org/3/library/zlib.html#zlib.decompressobj)

Sleep = Callable[[float], Awaitable[object]]


class Finding(StrEnum):
    OK = "ok"
    BAD_KEY = "bad_key"
    UNREACHABLE = "unreachable"
    FAULT = "fault"  # it answered, but not with what it was asked for
    UNKNOWN = "unknown"  # it has nothing to ask for


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of one question. `key` is at most the key's last four characters, `credential` its fingerprint; `models` how many are
    listed.

    `ms` is the time to the whole answer, None when there was none; `status` is the answer's. `detail` says in words what is wrong.
    """

    provider: str
    key: str | None
    finding: Finding
    models: int | None = None
    ms: float | None = None
    detail: str | None = None
    status: int | None = None
    credential: str = "none"

    @property
    def failed(self) -> bool:
        return self.finding not in (Finding.OK, Finding.UNKNOWN)


@asynccontextmanager
async def own_transports(monotonic: Callable[[], float]) -> AsyncIterator[Mapping[str, UpstreamTransport]]:
    """Transports for checks alone. They keep no connection: a check that connects anew also tells of names, addresses and TLS."""
    transports = make_transports(monotonic)
    try:
        yield transports
    finally:
        for transport in transports.values():
            await transport.aclose()


def make_transports(monotonic: Callable[[], float]) -> dict[str, UpstreamTransport]:
    return {"native": NativeTransport(_Clock(monotonic), max_idle_per_origin=0), "httpx": HttpxTransport()}


class _Clock:
    """A transport asks for monotonic time only."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic
        self.wall = monotonic


async def probe_all(
    providers: Iterable[Provider],
    *,
    monotonic: Callable[[], float],
    timeout_s: float = TIMEOUT_S,
    transports: Mapping[str, UpstreamTransport] | None = None,
    sleep: Sleep = asyncio.sleep,
) -> list[Probe]:
    """One `Probe` for each key of each provider that is enabled and not built in, in their order. Raises nothing of its own."""
    asked = [
        (provider, credential)
        for provider in providers
        if provider.enabled and provider.transport != "demo"
        for credential in provider.credentials
    ]

    async def ask_all(transports: Mapping[str, UpstreamTransport]) -> list[Probe]:
        questions = [
            probe(provider, credential, transports=transports, monotonic=monotonic, timeout_s=timeout_s, sleep=sleep)
            for provider, credential in asked
        ]
        return list(await asyncio.gather(*questions))

    if transports is not None:
        return await ask_all(transports)
    async with own_transports(monotonic) as made:
        return await ask_all(made)


def no_question(provider: Provider) -> str | None:
    """Why a provider cannot be asked for free; None when it can."""
    if provider.transport == "demo":
        return "it is built in and needs no check"
    if provider.signs:  # a key that is signed with is never sent
        return "it has no free check that its credentials could be sent to"
    if provider.check_url is None and provider.model_list_path is None:
        return "it has no model list to ask for"
    return None


async def probe(
    provider: Provider,
    credential: Credential,
    *,
    transports: Mapping[str, UpstreamTransport],
    monotonic: Callable[[], float],
    timeout_s: float,
    sleep: Sleep = asyncio.sleep,
) -> Probe:
    """What is found out within `timeout_s`, a second try included. Raises nothing of its own."""
    blank = Probe(
        provider.name, credential.secret.tail() if credential.secret else None, Finding.UNKNOWN, credential=credential.id
    )
    if (why_not := no_question(provider)) is not None:
        return replace(blank, detail=why_not)

    async def ask() -> Probe:
        return await _ask(provider, credential, blank, transports[provider.transport], monotonic, timeout_s)

    try:
        async with asyncio.timeout(timeout_s):
            return await _twice(ask, timeout_s, sleep)
    except TimeoutError:
        return replace(blank, finding=Finding.UNREACHABLE, detail=f"no answer within {timeout_s:g} s")


async def _twice(ask: Callable[[], Awaitable[Probe]], timeout_s: float, sleep: Sleep) -> Probe:
    """The first answer that is no failure; of two failures the later one."""
    first = asyncio.ensure_future(ask())
    tries = {first}
    try:
        await asyncio.wait(tries, timeout=timeout_s / 2)
        if first.done():
            if not first.result().failed:
                return first.result()
            await sleep(min(REPEAT_AFTER_S, timeout_s / 4))
            return await ask()
        tries.add(asyncio.ensure_future(ask()))
        done, running = await asyncio.wait(tries, return_when=asyncio.FIRST_COMPLETED)
        while running and all(task.result().failed for task in done):
            done, running = await asyncio.wait(running)
        found = [task.result() for task in done]
        return next((probe for probe in found if not probe.failed), found[0])
    finally:
        for task in tries:
            task.cancel()


async def _ask(
    provider: Provider,
    credential: Credential,
    blank: Probe,
    transport: UpstreamTransport,
    monotonic: Callable[[], float],
    timeout_s: float,
) -> Probe:
    """The key's own state first, where there is such a question; then the list, unless the first has told of the same address."""
    begun = monotonic()
    found = blank
    models = None
    try:
        if provider.check_url is not None:
            status, body = await _get(transport, provider, credential, provider.check_url, timeout_s)
            finding, detail = (Finding.OK, None) if status == 200 else _judge(status, body)[::2]
            found = replace(found, status=status, finding=finding, detail=detail)
        if not found.failed and not _told_of_address(provider):
            url = provider.base_url + (provider.model_list_path or "")
            status, body = await _get(transport, provider, credential, url, timeout_s, _WHOLE_LIST.get(provider.dialect, ""))
            finding, models, detail = _judge(status, body)
            found = replace(found, status=status, finding=finding, detail=detail)
    except UpstreamError as error:
        return replace(blank, finding=Finding.UNREACHABLE, detail=one_line(error.message))
    except ValueError as error:
        return replace(blank, finding=Finding.UNREACHABLE, detail=one_line(str(error)) or type(error).__name__)
    return replace(found, models=models, ms=round((monotonic() - begun) * 1000, 1))


def _told_of_address(provider: Provider) -> bool:
    """The question about the key goes where calls go, so that its answer says that the provider is there."""
    if provider.check_url is None:
        return False
    return provider.model_list_path is None or provider.check_url.startswith(provider.base_url + "/")


async def _get(
    transport: UpstreamTransport, provider: Provider, credential: Credential, url: str, timeout_s: float, query: str = ""
) -> tuple[int, bytes]:
    forward = provider.proxy_url.reveal() if provider.proxy_url else None
    origin, path = parse_base_url(url, ca_file=provider.ca_file, proxy_url=forward)
    head = RequestHead.make(origin, "GET", path + query, _headers(provider, credential))
    response = await transport.send(head, b"", connect_timeout_s=timeout_s, fresh=True)
    try:
        return response.status, await _body(response)
    finally:
        response.close()


def _headers(provider: Provider, credential: Credential) -> list[tuple[bytes, bytes]]:
    headers = {"accept": "application/json", **provider.headers, "accept-encoding": "gzip", "user-agent": "tollbridge"}
    if credential.secret is not None:
        headers[provider.auth_header] = provider.auth_prefix + credential.secret.reveal()
    return [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]


async def _body(response: UpstreamResponse) -> bytes:
    """The whole of it, unpacked. Raises ValueError when it is longer than MAX_BODY_BYTES either way."""
    packed = dict(response.headers).get(b"content-encoding", b"").strip().lower() in (b"gzip", b"x-gzip")
    unpack = zlib.decompressobj(_GZIP) if packed else None
    body = bytearray()
    while piece := await response.read():
        try:
            body += piece if unpack is None else unpack.decompress(piece, MAX_BODY_BYTES + 1 - len(body))
        except zlib.error as error:
            raise ValueError("the answer cannot be unpacked") from error
        if len(body) > MAX_BODY_BYTES:
            raise ValueError(f"the answer is longer than {MAX_BODY_BYTES >> 20} MiB")
    return bytes(body)


def _judge(status: int, body: bytes) -> tuple[Finding, int | None, str | None]:
    match status:
        case 200:
            is_list, models = _listed(body)
            return (Finding.OK, models, None) if is_list else (Finding.FAULT, None, "the answer is not a list of models")
        case 400 if any(mark in body for mark in _WRONG_KEY_MARKS):
            return Finding.BAD_KEY, None, "refused with 400"
        case 401 | 403:
            return Finding.BAD_KEY, None, f"refused with {status}"
        case 404 | 405:
            return Finding.UNKNOWN, None, f"it is there, but has no model list ({status})"
        case 429:
            return Finding.OK, None, "the key is right, and rate limited now (429)"
        case _:
            return Finding.FAULT, None, f"it answered {status}"


def _listed(body: bytes) -> tuple[bool, int | None]:
    """Whether it is a list in one of the shapes that there are, `{"data": […]}`, `{"models": […]}`, `[…]`, and how many models it names:
    None where it goes on in another page."""
    try:
        answer: Any = orjson.loads(body)
    except ValueError:
        return False, None
    more = False
    if isinstance(answer, dict):
        more = any(answer.get(name) for name in _MORE)
        name = "data" if "data" in answer else "models"
        # Ollama without any model says `"data": null`
        answer = answer[name] or [] if name in answer else None
    if not isinstance(answer, list):
        return False, None
    return True, None if more else len(answer)
