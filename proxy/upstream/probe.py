"""Asks providers for their model lists, which costs nothing: is the key right, is the provider there? Never a completion.

One question per key, all at once. What a provider answers is not trusted: no redirect is followed, no environment proxy is
used, and at most MAX_BODY_BYTES are read. httpx2 is imported when it is needed, since it is off the hot path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import orjson

from proxy.core.redact import one_line
from proxy.core.target import Credential, Provider
from proxy.upstream.tls import client_context

if TYPE_CHECKING:
    import httpx2

MAX_BODY_BYTES = 16 << 20
TIMEOUT_S = 10.0
# Google and xAI call a wrong key a bad request; this is how their answers say it
_WRONG_KEY_MARKS = (b"API_KEY_INVALID", b"Incorrect API key")


class Finding(StrEnum):
    OK = "ok"
    BAD_KEY = "bad_key"
    UNREACHABLE = "unreachable"
    FAULT = "fault"  # it answered, but not with a list of models
    UNKNOWN = "unknown"  # it has no list to ask for


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of one question. `key` is at most the key's last four characters, `models` how many are listed.

    `ms` is the time to the whole answer, None when there was none. `detail` says in words what is wrong.
    """

    provider: str
    key: str | None
    finding: Finding
    models: int | None = None
    ms: float | None = None
    detail: str | None = None


async def probe_all(
    providers: Iterable[Provider], *, monotonic: Callable[[], float], timeout_s: float = TIMEOUT_S
) -> list[Probe]:
    """One `Probe` for each key of each provider that is enabled and not built in, in their order. Raises nothing of its own."""
    questions = [
        _probe(provider, credential, monotonic, timeout_s)
        for provider in providers
        if provider.enabled and provider.transport != "demo"
        for credential in provider.credentials
    ]
    return list(await asyncio.gather(*questions))


async def _probe(provider: Provider, credential: Credential, monotonic: Callable[[], float], timeout_s: float) -> Probe:
    import httpx2  # see above

    key = credential.secret.tail() if credential.secret else None
    if provider.signs or provider.model_list_path is None:  # a key that is signed with is never sent
        return Probe(provider.name, key, Finding.UNKNOWN, detail="it has no model list to ask for")
    begun = monotonic()
    try:
        async with asyncio.timeout(timeout_s), _client(provider) as client:
            status, body = await _get(client, provider.base_url + provider.model_list_path, _headers(provider, credential))
    except TimeoutError:
        return Probe(provider.name, key, Finding.UNREACHABLE, detail=f"no answer within {timeout_s:g} s")
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        reason = one_line(str(error)) or type(error).__name__
        return Probe(provider.name, key, Finding.UNREACHABLE, detail=reason)
    finding, models, detail = _judge(status, body)
    return Probe(provider.name, key, finding, models, round((monotonic() - begun) * 1000, 1), detail)


def _client(provider: Provider) -> httpx2.AsyncClient:
    import httpx2  # see above

    forward = provider.proxy_url.reveal() if provider.proxy_url else None
    return httpx2.AsyncClient(
        verify=client_context(provider.ca_file), proxy=forward, trust_env=False, follow_redirects=False, timeout=None
    )


def _headers(provider: Provider, credential: Credential) -> dict[str, str]:
    headers = {**provider.headers, "accept": "application/json", "accept-encoding": "identity"}
    if credential.secret is not None:
        headers[provider.auth_header] = provider.auth_prefix + credential.secret.reveal()
    return headers


async def _get(client: httpx2.AsyncClient, url: str, headers: dict[str, str]) -> tuple[int, bytes]:
    async with client.stream("GET", url, headers=headers) as response:
        body = bytearray()
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise ValueError(f"the answer is longer than {MAX_BODY_BYTES >> 20} MiB")
        return response.status_code, bytes(body)


def _judge(status: int, body: bytes) -> tuple[Finding, int | None, str | None]:
    match status:
        case 200:
            models = _count(body)
            if models is None:
                return Finding.FAULT, None, "the answer is not a list of models"
            return Finding.OK, models, None
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


def _count(body: bytes) -> int | None:
    """How many models a list names, in the shapes that there are: `{"data": […]}`, `{"models": […]}`, `[…]`."""
    try:
        answer: Any = orjson.loads(body)
    except ValueError:
        return None
    if isinstance(answer, dict):
        name = "data" if "data" in answer else "models"
        # Ollama without any model says `"data": null`
        answer = answer[name] or [] if name in answer else None
    return len(answer) if isinstance(answer, list) else None
