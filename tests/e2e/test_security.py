"""What crosses the proxy in either direction besides bodies: only what it makes itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.torture.scripts import SCRIPTS
from proxy.torture.upstream import Call, Upstream, completion
from tests.e2e.conftest import KEY, Start, provider
from tests.e2e.running import Proxy

pytestmark = pytest.mark.integration

CANARY = "canary-that-stays-outside"
# of a caller: what browsers, SDKs, proxies and attackers send along
FROM_A_CALLER = {
    "cookie": f"session={CANARY}",
    "proxy-authorization": f"Basic {CANARY}",
    "x-forwarded-for": f"{CANARY}, 10.0.0.1",
    "x-forwarded-host": CANARY,
    "x-forwarded-proto": CANARY,
    "forwarded": f"for={CANARY}",
    "x-real-ip": CANARY,
    "via": f"1.1 {CANARY}",
    "connection": "keep-alive, x-hop",
    "x-hop": CANARY,
    "te": "trailers",
    "trailer": CANARY,
    "traceparent": f"00-{CANARY}-01",
    "tracestate": CANARY,
    "baggage": CANARY,
    "referer": f"http://{CANARY}/",
    "user-agent": CANARY,
    "accept-encoding": "gzip, br",
    "openai-organization": CANARY,
    "openai-project": CANARY,
    "anthropic-beta": CANARY,
    "x-stainless-lang": CANARY,
    "x-amz-security-token": CANARY,
    "x-goog-api-key": CANARY,
    "x-request-id": CANARY,
}
TO_AN_UPSTREAM = {
    "request-line",
    "host",
    "content-type",
    "content-length",
    "authorization",
    "accept",
    "accept-encoding",
    "user-agent",
}
FROM_AN_UPSTREAM = {
    "set-cookie": f"a={CANARY}",
    "server": CANARY,
    "via": CANARY,
    "x-request-id": CANARY,
    "openai-organization": f"org-{CANARY}",
    "openai-processing-ms": CANARY,
    "anthropic-organization-id": CANARY,
    "access-control-allow-origin": "*",
    "access-control-allow-credentials": "true",
    "content-security-policy": CANARY,
    "location": f"http://{CANARY}/",
    "www-authenticate": CANARY,
    "strict-transport-security": CANARY,
    "x-tollbridge-provider": CANARY,
    "x-ratelimit-remaining-requests": "7",
    "alt-svc": CANARY,
    "link": CANARY,
}
TO_A_CALLER = {
    "content-type", "content-length", "transfer-encoding", "cache-control", "retry-after", "server-timing", "date", "connection",
    "x-request-id", "x-should-retry", "x-tollbridge-provider", "x-tollbridge-model", "x-tollbridge-attempts", "x-tollbridge-dropped",
    "x-content-type-options", "referrer-policy",
}  # fmt: skip


async def talkative(call: Call) -> None:
    """Answers well, with headers of every kind."""
    if call.stream:
        await call.head(200, {**FROM_AN_UPSTREAM, "content-type": "text/event-stream", "transfer-encoding": "chunked"})
        await call.event(
            {**completion(), "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
        )
        await call.rest()
    else:
        await call.json(200, completion(), FROM_AN_UPSTREAM)


async def talkative_refusal(call: Call) -> None:
    await call.error(400, FROM_AN_UPSTREAM, message="no")


@pytest.fixture(scope="module")
def talker() -> Iterator[Upstream]:
    made = Upstream({**SCRIPTS, "talkative": talkative, "talkative_refusal": talkative_refusal})
    made.start()
    yield made
    made.stop()
    assert made.faults == []


@pytest.fixture(scope="module", params=["fast", "asgi"])
def proxy(request: pytest.FixtureRequest, start: Start, talker: Upstream) -> Proxy:
    return start(
        {
            "server": {"log_level": "debug"},
            "defaults": {"retries": 0},
            "providers": {"native": provider(talker.url), "by_httpx": provider(talker.url, transport="httpx")},
            "chains": {
                "native": ["native/talkative"],
                "by_httpx": ["by_httpx/talkative"],
                "refused": ["native/talkative_refusal"],
            },
        },
        door=request.param,
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("chain", ["native", "by_httpx"])
def test_nothing_of_a_callers_headers_goes_to_a_provider(proxy: Proxy, talker: Upstream, chain: str, stream: bool) -> None:
    answer = proxy.client.chat(chain, stream=stream, headers=FROM_A_CALLER)
    assert answer.status == 200

    sent = talker.headers["talkative"]
    assert set(sent) <= TO_AN_UPSTREAM
    assert CANARY not in str(sent)
    assert sent["authorization"] == f"Bearer {KEY}"
    assert sent["accept-encoding"] == "identity"
    assert sent["host"] == f"127.0.0.1:{talker.port}"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("chain", ["native", "by_httpx", "refused"])
def test_nothing_of_a_providers_headers_goes_to_a_caller(proxy: Proxy, chain: str, stream: bool) -> None:
    answer = proxy.client.chat(chain, stream=stream)
    assert answer.status == (400 if chain == "refused" else 200)
    assert set(answer.headers) <= TO_A_CALLER
    assert CANARY not in str(answer.headers)


def test_debugging_the_proxy_does_not_make_its_libraries_talk(proxy: Proxy) -> None:
    """httpx and what is below it log requests with their headers at that level, keys included."""
    proxy.client.chat("by_httpx")
    for name in ("httpx2", "httpcore2", "httpx", "httpcore", "hpack", "asyncio", "urllib3", "botocore"):
        assert not logging.getLogger(name).isEnabledFor(logging.DEBUG), name


def test_a_proxy_in_the_environment_and_a_netrc_change_nothing(
    start: Start, talker: Upstream, monkeypatch_module: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / ".netrc").write_text(f"machine 127.0.0.1 login {CANARY} password {CANARY}\n")
    os.chmod(home / ".netrc", 0o600)
    nowhere = "http://127.0.0.1:9/"
    environ: dict[str, Any] = {"HOME": str(home), "NETRC": str(home / ".netrc"), "SSL_CERT_FILE": "/nowhere", "SSLKEYLOGFILE": ""}
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        environ[name] = nowhere
    for name, value in environ.items():
        monkeypatch_module.setenv(name, value)
    monkeypatch_module.delenv("NO_PROXY", raising=False)
    stanzas = {"native": provider(talker.url), "by_httpx": provider(talker.url, transport="httpx", api_key="sk-of-httpx-1")}
    proxy = start({"providers": stanzas, "chains": {name: [f"{name}/talkative"] for name in stanzas}}, environ=environ)
    for chain, key in (("native", KEY), ("by_httpx", "sk-of-httpx-1")):
        assert proxy.client.chat(chain).status == 200
        assert talker.headers["talkative"]["authorization"] == f"Bearer {key}"
