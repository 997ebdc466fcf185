"""Pages of other origins, through both doors, by raw requests as browsers send them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from proxy.torture.upstream import Upstream
from tests.e2e.client import chat_body, raw_exchange
from tests.e2e.conftest import Start, provider
from tests.e2e.running import Door, Proxy

pytestmark = pytest.mark.integration

LISTED, OTHER = b"https://app.example.com", b"https://evil.example.com"
CHAT, MODELS = b"/v1/chat/completions", b"/v1/models"
KEY = b"Authorization: Bearer sk-caller-1\r\n"
HTTP_MD = (Path(__file__).parents[2] / "docs" / "http.md").read_bytes()
_TABLE = HTTP_MD.partition(b"A completion has besides:")[2].partition(b"\n\nA stream")[0]
DOCUMENTED = {
    name for line in re.findall(rb"^\| (`.+?`) \|", _TABLE, flags=re.MULTILINE) for name in re.findall(rb"`(.+?)`", line)
}


@pytest.fixture(scope="module", params=["fast", "asgi"])
def proxy(start: Start, upstream: Upstream, request: pytest.FixtureRequest) -> Proxy:
    door: Door = request.param
    return start(
        {
            "server": {"cors_origins": [LISTED.decode()]},
            "providers": {"fake": provider(upstream.url)},
            "chains": {"smart": ["fake/ok"]},
            "clients": {"page": {"key": "sk-caller-1"}},
        },
        door=door,
    )


def ask(proxy: Proxy, method: bytes, path: bytes, origin: bytes, more: bytes = b"", body: bytes = b"") -> tuple[int, list[bytes]]:
    """The status, and the lines of the head, of which a header may stand twice."""
    head = b"%b %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n" % (method, path, len(body))
    origin_line = b"Origin: " + origin + b"\r\n" if origin else b""
    answer = raw_exchange(proxy.port, head + origin_line + more + b"\r\n" + body)
    lines = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")
    return int(lines[0].split(b" ")[1]), [line for line in lines[1:] if line.lower() != b"connection: close"]


def preflight(method: bytes = b"POST", headers: bytes = b"authorization,content-type,x-stainless-lang") -> bytes:
    return b"Access-Control-Request-Method: %b\r\nAccess-Control-Request-Headers: %b\r\n" % (method, headers)


def chat(*, stream: bool = False) -> bytes:
    return json.dumps(chat_body("smart", stream=stream)).encode()


def sharing(lines: list[bytes]) -> dict[bytes, bytes]:
    return {name: value for name, _, value in (line.partition(b": ") for line in lines) if name.startswith(b"access-control")}


@pytest.mark.parametrize(("path", "method"), [(CHAT, b"POST"), (b"/chat/completions", b"POST"), (MODELS, b"GET")])
def test_a_preflight_of_a_listed_origin_needs_no_key(proxy: Proxy, path: bytes, method: bytes) -> None:
    status, lines = ask(proxy, b"OPTIONS", path, LISTED, preflight(method))

    assert status == 204
    assert sharing(lines) == {
        b"access-control-allow-origin": LISTED,
        b"access-control-allow-methods": method,
        b"access-control-allow-headers": b"authorization,content-type,x-stainless-lang",
        b"access-control-max-age": b"600",
    }
    assert b"vary: origin, access-control-request-headers" in lines
    assert not [line for line in lines if line.startswith(b"content-length")]


def test_only_names_of_headers_are_echoed(proxy: Proxy) -> None:
    _, lines = ask(proxy, b"OPTIONS", CHAT, LISTED, preflight(headers=b'a, "<script>"'))
    assert b"access-control-allow-headers" not in sharing(lines)


@pytest.mark.parametrize(
    ("path", "origin", "more"),
    [
        (CHAT, OTHER, preflight()),
        (CHAT, b"null", preflight()),
        (CHAT, LISTED + b".evil.example", preflight()),
        (CHAT, LISTED, b""),  # an OPTIONS that asks for nothing
        (b"/api/v1/requests", OTHER, preflight(b"GET")),
        (b"/api/v1/quotas/reset", LISTED, preflight(b"POST")),
        (b"/metrics", LISTED, preflight(b"GET")),
    ],
)
def test_other_preflights_get_nothing_that_a_browser_would_take(proxy: Proxy, path: bytes, origin: bytes, more: bytes) -> None:
    status, lines = ask(proxy, b"OPTIONS", path, origin, more)
    assert status == 405
    assert b"access-control-allow-methods" not in sharing(lines)


@pytest.mark.parametrize("stream", [False, True])
def test_a_listed_origin_may_read_its_answers(proxy: Proxy, stream: bool) -> None:
    status, lines = ask(proxy, b"POST", CHAT, LISTED, KEY, chat(stream=stream))

    assert status == 200
    found = sharing(lines)
    assert found.pop(b"access-control-allow-origin") == LISTED
    exposed = found.pop(b"access-control-expose-headers").split(b", ")
    assert DOCUMENTED | {b"x-request-id", b"retry-after", b"x-should-retry"} <= set(exposed)
    assert found == {}, "nothing else: a browser's own credentials are not asked for"
    assert b"vary: origin" in lines


@pytest.mark.parametrize(
    ("more", "body", "expected"),
    [(b"", chat(), 401), (KEY, b"{", 400), (KEY + b"Content-Encoding: gzip\r\n", b"abc", 415)],
)
def test_it_may_read_errors_too(proxy: Proxy, more: bytes, body: bytes, expected: int) -> None:
    status, lines = ask(proxy, b"POST", CHAT, LISTED, more, body)
    assert (status, sharing(lines)[b"access-control-allow-origin"]) == (expected, LISTED)


def test_another_origin_may_not(proxy: Proxy) -> None:
    status, lines = ask(proxy, b"POST", CHAT, OTHER, KEY, chat())
    assert (status, sharing(lines)) == (200, {})  # its key is a key; its browser keeps the answer from it
    assert b"vary: origin" in lines


def test_without_an_origin_a_completion_is_as_ever(proxy: Proxy) -> None:
    status, lines = ask(proxy, b"POST", CHAT, b"", KEY, chat())
    assert (status, sharing(lines)) == (200, {})


@pytest.mark.parametrize("path", [b"/api/v1/requests", b"/api/v1/monitoring/dashboard", b"/api/status"])
def test_a_listed_origin_may_read_what_the_operator_reads(proxy: Proxy, path: bytes) -> None:
    status, lines = ask(proxy, b"OPTIONS", path, LISTED, preflight(b"GET", b"authorization"))
    assert (status, sharing(lines)[b"access-control-allow-methods"]) == (204, b"GET")
    _, lines = ask(proxy, b"GET", path, LISTED)
    found = sharing(lines)
    assert found.pop(b"access-control-allow-origin") == LISTED
    assert set(found) == {b"access-control-expose-headers"}, "a browser's own credentials are not asked for"


def test_another_origin_may_not_read_it(proxy: Proxy) -> None:
    _, lines = ask(proxy, b"GET", b"/api/v1/requests", OTHER)
    assert sharing(lines) == {}
    assert b"vary: origin" in lines


@pytest.mark.parametrize(("method", "path"), [(b"POST", b"/api/v1/quotas/reset"), (b"GET", b"/metrics")])
def test_what_changes_something_and_the_metrics_are_for_no_page(proxy: Proxy, method: bytes, path: bytes) -> None:
    _, lines = ask(proxy, method, path, LISTED)
    assert sharing(lines) == {}
