"""Requests that are too slow, too large, or that two servers might read differently; byte by byte."""

from __future__ import annotations

import json
import socket
import time

import pytest

from proxy.server import protocol
from proxy.torture.upstream import Upstream
from tests.e2e.client import WAIT_S, chat_body, raw_exchange, until
from tests.e2e.conftest import Start, provider
from tests.e2e.running import Proxy

pytestmark = pytest.mark.integration

BODY = json.dumps(chat_body("smart")).encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\n"
GOOD = POST + b"Host: x\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


def calls(upstream: Upstream) -> int:
    """Completions that reached it; checks of its health come and go."""
    return sum(count for name, count in upstream.requests.items() if not name.startswith("GET "))


@pytest.fixture(scope="module")
def proxy(start: Start, upstream: Upstream) -> Proxy:
    return start(
        {"server": {"max_body": "64KiB"}, "providers": {"fake": provider(upstream.url)}, "chains": {"smart": ["fake/ok"]}}
    )


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def code(answer: bytes) -> str:
    return str(json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]["code"])


REFUSED = {
    "two_hosts": (POST + b"Host: a\r\nHost: b\r\nContent-Length: 0\r\n\r\n", 400, "bad_http_request"),
    "no_host": (POST + b"Content-Length: 0\r\n\r\n", 400, "bad_http_request"),
    "length_and_chunked": (
        POST + b"Host: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "bad_http_request",
    ),
    "two_lengths": (POST + b"Host: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd", 400, "bad_http_request"),
    "absolute_form": (
        b"POST http://x/v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        400,
        "bad_http_request",
    ),
    "folded_header": (POST + b"Host: x\r\nX-A: 1\r\n  2\r\nContent-Length: 0\r\n\r\n", 400, "bad_http_request"),
    "bare_line_feeds": (b"POST /v1/chat/completions HTTP/1.1\nHost: x\nContent-Length: 0\n\n", 400, "bad_http_request"),
    "no_version": (b"POST /v1/chat/completions\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 400, "bad_http_request"),
    "another_version": (b"POST /v1/chat/completions HTTP/2.0\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 400, "bad_http_request"),
    "not_http": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "bad_http_request"),
    "upgrade": (b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 400, "bad_http_request"),
    "upgrade_with_body": (
        POST + b"Host: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\n{}",
        400,
        "bad_http_request",
    ),
    "connect": (b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", 400, "bad_http_request"),
    "long_url": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "uri_too_long"),
    "many_headers": (POST + b"Host: x\r\n" + b"X-A: b\r\n" * 101 + b"Content-Length: 0\r\n\r\n", 431, "headers_too_large"),
    "large_headers": (POST + b"Host: x\r\nX-A: " + b"b" * 33_000 + b"\r\nContent-Length: 0\r\n\r\n", 431, "headers_too_large"),
    "large_body": (POST + b"Host: x\r\nContent-Length: 65537\r\n\r\n", 413, "request_too_large"),
    "compressed_body": (
        POST + b"Host: x\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        415,
        "unsupported_media_type",
    ),
    "large_chunked_body": (
        POST + b"Host: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"8000\r\n%b\r\n" % (b" " * 0x8000) * 3 + b"0\r\n\r\n",
        413,
        "request_too_large",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_and_the_connection_closed(proxy: Proxy, upstream: Upstream, name: str) -> None:
    data, expected_status, expected_code = REFUSED[name]
    before = calls(upstream)
    answer = raw_exchange(proxy.port, data + GOOD)

    assert status(answer) == expected_status
    assert code(answer) == expected_code
    assert answer.count(b"HTTP/1.1 ") == 1, "what follows must not be read as a request"
    assert b"connection: close" in answer
    assert b"x-request-id: " in answer
    assert calls(upstream) == before


@pytest.mark.parametrize(("name", "reason"), [("two_hosts", "smuggle"), ("large_body", "size"), ("many_headers", "size")])
def test_refusals_are_counted(proxy: Proxy, name: str, reason: str) -> None:
    def refused() -> float:
        return proxy.client.metrics()[f'tollbridge_rejected_total{{reason="{reason}"}}']

    before = refused()
    raw_exchange(proxy.port, REFUSED[name][0])
    assert refused() == before + 1


def test_slow_headers(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    usual_s = protocol.HEAD_S
    monkeypatch.setattr(protocol, "HEAD_S", 0.2)
    began = time.monotonic()
    answer = raw_exchange(proxy.port, POST + b"Host: x\r\nX-Slow")

    assert (status(answer), code(answer)) == (408, "request_timeout")
    assert time.monotonic() - began < usual_s


def test_a_connection_that_says_nothing_is_closed(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.2)
    assert raw_exchange(proxy.port, b"") == b""


def test_a_body_that_stops_coming(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "BODY_GRACE_S", 0.2)
    monkeypatch.setattr(protocol, "BODY_S", 0.4)
    before = proxy.client.metrics()['tollbridge_events_total{event="slow_client"}']
    answer = raw_exchange(proxy.port, GOOD[:-5])

    assert (status(answer), code(answer)) == (408, "request_timeout")
    assert proxy.client.metrics()['tollbridge_events_total{event="slow_client"}'] == before + 1


def test_half_a_request_and_a_hang_up(proxy: Proxy, upstream: Upstream) -> None:
    before = calls(upstream)
    assert raw_exchange(proxy.port, GOOD[:-5], half_close=True) == b""
    assert calls(upstream) == before
    assert not proxy.runtime.gateway.live


def test_requests_sent_ahead_are_answered_in_order(proxy: Proxy) -> None:
    models = ["smart", "nothing", "smart"]
    sent = b""
    for model in models:
        body = json.dumps(chat_body(model)).encode()
        sent += POST + b"Host: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    answer = raw_exchange(proxy.port, sent + b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [200, 404, 200, 200]


def test_expect_100_continue(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=WAIT_S) as connection:
        connection.sendall(
            POST + b"Host: x\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY)
        )
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("stream", [False, True])
def test_http_1_0_is_answered_and_closed(proxy: Proxy, stream: bool) -> None:
    body = json.dumps(chat_body("smart", stream=stream)).encode()
    answer = raw_exchange(proxy.port, b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    assert status(answer) == 200
    assert b"transfer-encoding" not in answer
    assert answer.endswith(b"data: [DONE]\n\n" if stream else b"}")


def test_a_body_in_chunks(proxy: Proxy) -> None:
    pieces = b"".join([b"%x\r\n%b\r\n" % (len(BODY[at : at + 20]), BODY[at : at + 20]) for at in range(0, len(BODY), 20)])
    answer = raw_exchange(
        proxy.port, POST + b"Host: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + pieces + b"0\r\n\r\n"
    )

    assert status(answer) == 200


BAD_BODIES = {
    "empty": (b"", "invalid_json"),
    "truncated": (b'{"model": "smart"', "invalid_json"),
    "nan": (b'{"model": "smart", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}', "invalid_json"),
    "trailing": (BODY + b"{}", "invalid_json"),
    "byte_order_mark": (b"\xef\xbb\xbf" + BODY, "invalid_json"),
    "not_utf8": (BODY.replace(b"hello", b"\xff\xfe"), "invalid_json"),
    "lone_surrogate": (BODY.replace(b"hello", b"\\ud83d"), "invalid_json"),
    "too_deep": (BODY[:-1] + b', "x": ' + b"[" * 70 + b"]" * 70 + b"}", "invalid_json"),
    "far_too_deep": (BODY[:-1] + b', "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "invalid_json"),
    "infinite": (BODY[:-1] + b', "temperature": 1e999}', "invalid_json"),
    "huge_integer": (BODY[:-1] + b', "max_tokens": 99999999999999999999999}', "invalid_value"),
    "negative": (BODY[:-1] + b', "max_tokens": -1}', "invalid_value"),
    "many_choices": (BODY[:-1] + b', "n": 17}', "invalid_value"),
    "a_list": (b"[]", "invalid_request"),
    "no_messages": (b'{"model": "smart"}', "invalid_request"),
    "no_model": (b'{"messages": []}', "invalid_request"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_is_the_caller_s_mistake(proxy: Proxy, upstream: Upstream, name: str) -> None:
    data, expected = BAD_BODIES[name]
    before = calls(upstream)
    answer = proxy.client.request("POST", "/v1/chat/completions", data)

    assert (answer.status, answer.error["code"]) == (400, expected)
    assert "x-should-retry" not in answer.headers
    assert calls(upstream) == before


@pytest.mark.parametrize("model", ["x" * 300, "a\nb", "a\x00b", "a\u202eb", "e\u0301", "\ud83d\ude00" * 70], ids=ascii)
def test_odd_model_names_are_not_found(proxy: Proxy, model: str) -> None:
    answer = proxy.client.chat(model)

    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


def test_of_two_keys_of_one_name_the_last_goes_upstream(proxy: Proxy, upstream: Upstream) -> None:
    answer = proxy.client.request("POST", "/v1/chat/completions", BODY[:-1] + b', "user": "first", "user": "second"}')

    assert answer.status == 200
    assert upstream.bodies["ok"]["user"] == "second"


def test_connections_leave_nothing_behind(proxy: Proxy) -> None:
    until(lambda: not proxy.runtime.gateway.live, what="the end of every request")
