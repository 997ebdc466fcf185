"""Which bytes are answered at the door: a whole `GET /livez` that asks for nothing but an answer. Any other goes the ordinary way."""

import pytest

from proxy.server.alive import alive_answer, asks_if_alive, asks_to_close

pytestmark = pytest.mark.unit

PLAIN = b"GET /livez HTTP/1.1\r\nHost: 10.0.0.7:8080\r\n"


@pytest.mark.parametrize(
    "more",
    [
        b"",
        b"User-Agent: kube-probe/1.31\r\nAccept: */*\r\nConnection: close\r\n",
        b"Accept-Encoding: gzip, compressed\r\nConnection: keep-alive\r\n",
        b"accept-encoding:identity\r\n",
    ],
)
def test_a_probe(more: bytes) -> None:
    assert asks_if_alive(PLAIN + more + b"\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        PLAIN,
        PLAIN + b"\r\n" + PLAIN + b"\r\n",
        PLAIN + b"\r\nx",
        PLAIN + b"Content-Length: 1\r\n\r\nx",
        PLAIN + b"Content-Length: 0\r\n\r\n",
        PLAIN + b"Transfer-Encoding: chunked\r\n\r\n",
        PLAIN + b"Expect: 100-continue\r\n\r\n",
        PLAIN + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        PLAIN + b"Host: other\r\n\r\n",
        PLAIN + b"User-Agent: a\r\n b\r\n\r\n",
        PLAIN + b"User-Agent : a\r\n\r\n",
        PLAIN + b"User-Agent: \x00\r\n\r\n",
        PLAIN + b"Authorization: Bearer x\r\n\r\n",
        PLAIN + b"Accept: */*\r\n" * 8 + b"\r\n",
        PLAIN.replace(b"\r\n", b"\n") + b"\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nAccept: */*\r\n\r\n",
        PLAIN.replace(b"1.1", b"1.0") + b"\r\n",
        PLAIN.replace(b"GET", b"HEAD") + b"\r\n",
        PLAIN.replace(b"/livez", b"/livez?x") + b"\r\n",
        PLAIN.replace(b"/livez", b"/readyz") + b"\r\n",
    ],
)
def test_what_is_read_as_any_other_request(data: bytes) -> None:
    assert not asks_if_alive(data)


@pytest.mark.parametrize(("value", "closes"), [(b"close", True), (b"Close", True), (b"keep-alive", False), (b"close-ish", False)])
def test_whether_it_is_the_last_request(value: bytes, closes: bool) -> None:
    assert asks_to_close(PLAIN + b"Connection: " + value + b"\r\n\r\n") is closes


@pytest.mark.parametrize("keep_alive", [True, False])
def test_the_answer(keep_alive: bool) -> None:
    head, _, body = alive_answer("id-1", [(b"date", b"today")], keep_alive=keep_alive).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    assert {b"x-request-id: id-1", b"date: today", b"content-length: %d" % len(body)} <= set(lines)
    assert (b"connection: close" in lines) is not keep_alive
    assert body == b'{"status":"ok"}'
