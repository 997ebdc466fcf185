"""Requests that are too slow, too large, or that two servers might read differently; byte by byte."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import pytest

from proxy.app import _listen
from proxy.server import protocol
from proxy.server.door import UNSENT_BYTES
from proxy.server.protocol import FastProtocol
from proxy.torture.upstream import Upstream
from tests.e2e.client import WAIT_S, chat_body, raw_exchange, until
from tests.e2e.conftest import Start, provider
from tests.e2e.running import Proxy

pytestmark = pytest.mark.integration

BODY = json.dumps(chat_body("smart")).encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\n"
GOOD = POST + b"Host: x\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


MORE_THAN_FIT = 2_000  # answers, in what a caller's and the proxy's kernel and the proxy itself hold for one


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
    "packed_and_chunked": (
        POST + b"Host: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        400,
        "bad_http_request",
    ),
    "packed_and_chunked_in_two_headers": (
        POST + b"Host: x\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
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
        POST + b"Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\n{}",
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


def test_a_body_that_trickles_is_looked_at_each_second_and_at_its_end() -> None:
    trickling = FastProtocol.__new__(FastProtocol)
    trickling._turned_away, trickling._in_body = False, True
    trickling._reading_since, trickling._body_bytes = 100.0, protocol.BODY_BYTES_PER_S * 100
    ends = 100.0 + protocol.BODY_S
    for now, again in ((105.0, 106.0), (ends - 1.5, ends - 0.5), (ends - 0.5, ends)):
        trickling.expire(now)
        assert trickling.deadline == again


def test_who_reads_nothing_of_an_answer_takes_little_of_it() -> None:
    """Of what the kernel would keep for him otherwise, megabytes."""
    (listener,) = _listen("127.0.0.1", 0)
    with listener, socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            accepted.setblocking(False)
            taken = 0
            with contextlib.suppress(BlockingIOError):
                while taken < 16 * UNSENT_BYTES:
                    taken += accepted.send(b"x" * 16_384)
    assert UNSENT_BYTES <= taken <= 4 * UNSENT_BYTES


def test_who_reads_no_answer_is_not_read_either(start: Start) -> None:
    demo = start({"chains": {"smart": ["demo/chat"]}})
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.connect(("127.0.0.1", demo.port))
        answered = demo.answered
        for asked in range(MORE_THAN_FIT):
            caller.sendall(GOOD)
            if not answers_soon(demo, answered + asked + 1):
                break
        assert 100 < asked < MORE_THAN_FIT - 1
        taken = b""
        while taken.count(b"HTTP/1.1 200") < asked:
            taken += caller.recv(65_536)
        until(lambda: demo.answered == answered + asked + 1, what="the last one is read, too")


def answers_soon(proxy: Proxy, count: int) -> bool:
    deadline = time.monotonic() + 1.0
    while proxy.answered < count:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.0002)
    return True


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


def answers(answer: bytes) -> list[tuple[int, str | None]]:
    """Status and error code of each on a connection."""
    found = []
    for part in answer.split(b"HTTP/1.1 ")[1:]:
        status_line, _, body = part.partition(b"\r\n\r\n")
        error = json.loads(body).get("error") if body.startswith(b"{") else None
        found.append((int(status_line[:3]), error["code"] if error else None))
    return found


UNREADABLE = (400, "bad_http_request")
LIST = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
EMBED = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (GOOD + b"garbage\r\n\r\n", [(200, None), UNREADABLE]),
        (LIST + b"garbage\r\n\r\n" + GOOD, [(200, None), UNREADABLE]),
        # a length in characters of what has more bytes
        (GOOD.replace(b"%d" % len(BODY), b"%d" % (len(BODY) - 2)), [(400, "invalid_json"), UNREADABLE]),
        (GOOD * (protocol.MAX_PIPELINED + 2), [(200, None)] * (protocol.MAX_PIPELINED + 1) + [UNREADABLE]),
        (LIST + EMBED + b"zz\r\n", [(200, None), UNREADABLE]),
        (GOOD + LIST + EMBED + b"zz\r\n", [(200, None), (200, None), UNREADABLE]),
    ],
    ids=["garbage", "garbage_off_the_fast_lane", "short_length", "too_many_ahead", "bad_chunk", "bad_chunk_behind_two"],
)
def test_what_cannot_be_read_is_told_after_what_came_before_it(
    proxy: Proxy, sent: bytes, expected: list[tuple[int, str | None]]
) -> None:
    answer = raw_exchange(proxy.port, sent)
    assert answers(answer) == expected
    assert answer.count(b"connection: close") == 1
    until(lambda: not proxy.runtime.gateway.live, what="the end of every request")


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"zz\r\n"], UNREADABLE),
        ([b"8000\r\n%b\r\n" % (b" " * 0x8000)] * 3 + [b"0\r\n\r\n"], (413, "request_too_large")),
    ],
    ids=["bad_chunk", "too_large"],
)
def test_a_body_that_is_refused_while_it_comes_off_the_fast_lane(
    proxy: Proxy, pieces: list[bytes], expected: tuple[int, str]
) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=WAIT_S) as connection:
        connection.sendall(EMBED.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n", "the application has it by now"
        connection.sendall(b"".join(pieces))
        seen = b""
        while piece := connection.recv(65536):
            seen += piece
    assert answers(seen) == [expected]


def test_a_body_that_stops_coming_off_the_fast_lane(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "BODY_GRACE_S", 0.2)
    monkeypatch.setattr(protocol, "BODY_S", 0.4)
    assert answers(raw_exchange(proxy.port, EMBED + b"5\r\nab")) == [(408, "request_timeout")]


@pytest.mark.parametrize("ahead", [b"", LIST, GOOD], ids=["alone", "before_another_route", "before_its_like"])
def test_who_hangs_up_while_his_request_stands_in_line_is_noticed(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, ahead: bytes
) -> None:
    line = proxy.runtime.gateway.line
    monkeypatch.setattr(line, "formed", True)  # nobody in it is begun
    try:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=WAIT_S) as connection:
            connection.sendall(GOOD + ahead)
            until(lambda: len(line) == 1, what="the request in line")
        (_, standing) = line._standing[0]
        until(lambda: standing.disconnected, what="that its caller is known to have left")
    finally:
        line._standing.clear()


def test_an_answer_that_came_before_its_request_was_whole_is_the_only_one(proxy: Proxy) -> None:
    post = EMBED.replace(b"/v1/embeddings", b"/v1/models")
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=WAIT_S) as connection:
        connection.sendall(post)
        seen = connection.recv(65536)
        assert status(seen) == 405
        connection.sendall(b"zz\r\n")
        connection.sendall(b"and more of it, for which nobody is reset")
        while piece := connection.recv(65536):
            seen += piece
    assert seen.count(b"HTTP/1.1 ") == 1


JAVA = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\nUpgrade: h2c\r\nUser-Agent: Java-http-client/21\r\n"


@pytest.mark.parametrize("offers", [[JAVA], [JAVA, JAVA], [JAVA, b""], [b"", JAVA]], ids=["once", "each_time", "first", "later"])
def test_an_offer_of_http_2_is_not_taken_and_the_request_answered(proxy: Proxy, upstream: Upstream, offers: list[bytes]) -> None:
    """The body says what the header would: it is left alone."""
    body = BODY[:-1] + b',"user":"\\r\\nUpgrade: h2c\\r\\n"}'
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=WAIT_S) as connection:
        for offer in offers:
            connection.sendall(POST + b"Host: x\r\n%bContent-Length: %d\r\n\r\n%b" % (offer, len(body), body))
            seen = b""
            while not seen.endswith(b"}"):
                piece = connection.recv(65536)
                assert piece
                seen += piece
            assert status(seen) == 200
            assert upstream.bodies["ok"]["user"] == "\r\nUpgrade: h2c\r\n"


def test_of_what_only_looks_like_an_offer_nothing_is_changed() -> None:
    body = b"\r\nUpgrade: h2c\r\n"
    data = POST + b"Host: x\r\n" + JAVA + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    assert protocol._without_offer(data) == data.replace(b"Upgrade: h2c", b"Ignored: h2c", 1)
    assert protocol._without_offer(POST + b"Upgrade: h2c\r\n") == POST + b"Ignored: h2c\r\n"


@pytest.mark.parametrize(
    "sent", [b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + JAVA + b"\r\n", EMBED[:-2] + JAVA + b"\r\n0\r\n\r\n"]
)
def test_nor_is_it_taken_off_the_fast_lane(proxy: Proxy, sent: bytes) -> None:
    answer = raw_exchange(proxy.port, sent + b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert [code for code, _ in answers(answer)][1:] == [200]
    assert answers(answer)[0] in ((200, None), (400, "invalid_json"))


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/embeddings"])
def test_a_body_that_says_that_it_is_as_it_is(proxy: Proxy, path: bytes) -> None:
    asked = GOOD.replace(b"/v1/chat/completions", path).replace(b"Host: x\r\n", b"Host: x\r\nContent-Encoding: %b\r\n")
    close = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert status(raw_exchange(proxy.port, asked % b"Identity" + close)) != 415
    assert status(raw_exchange(proxy.port, asked % b"gzip" + close)) == 415


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


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked"])
def test_a_body_in_chunks(proxy: Proxy, coding: bytes) -> None:
    pieces = b"".join([b"%x\r\n%b\r\n" % (len(BODY[at : at + 20]), BODY[at : at + 20]) for at in range(0, len(BODY), 20)])
    answer = raw_exchange(
        proxy.port, POST + b"Host: x\r\nTransfer-Encoding: %b\r\nConnection: close\r\n\r\n" % coding + pieces + b"0\r\n\r\n"
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
