"""A connection that sends the same head again: answered as a new one would be, however the bytes arrive and whatever else they hold."""

from __future__ import annotations

import gc
import json
import socket
import weakref
from typing import cast

import pytest

from proxy.server.protocol import FastProtocol
from proxy.torture.upstream import Upstream
from tests.e2e.client import WAIT_S, chat_body, until
from tests.e2e.conftest import Start, provider
from tests.e2e.running import Proxy

pytestmark = pytest.mark.integration

KEYS = {"alice": "key-of-alice-1", "bob": "key-of-bob-12"}


@pytest.fixture(scope="module")
def proxy(start: Start, upstream: Upstream) -> Proxy:
    return start(
        {
            "server": {"max_body": "64KiB"},
            "providers": {"fake": provider(upstream.url)},
            "chains": {"smart": ["fake/ok"], "other": ["fake/ok"]},
            "clients": {
                "alice": {"key": KEYS["alice"]},
                "bob": {"key": KEYS["bob"], "chains": ["other"]},
            },
        }
    )


def request(
    model: str = "smart", *, key: str = "alice", padding: int = 0, body: bytes | None = None, length: int | None = None
) -> bytes:
    if body is None:
        body = json.dumps({**chat_body(model), "user": "x" * padding}).encode()
    length = len(body) if length is None else length
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEYS.get(key, key)}\r\nContent-Length: {length}\r\n"
    return head.encode() + b"Content-Type: application/json\r\n\r\n" + body


class Connection:
    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        self._read = b""

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def status(self) -> int:
        """Of the next answer, which is read whole; 0 when the connection has ended instead."""
        while b"\r\n\r\n" not in self._read:
            data = self._socket.recv(65_536)
            if not data:
                return 0
            self._read += data
        head, _, rest = self._read.partition(b"\r\n\r\n")
        lines = [line.partition(b": ") for line in head.split(b"\r\n")[1:]]
        length = next(int(value) for name, _, value in lines if name == b"content-length")
        while len(rest) < length:
            rest += self._socket.recv(65_536)
        self._read = rest[length:]
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        self._socket.close()


def answers(proxy: Proxy, pieces: list[bytes], count: int, *, warm: bool) -> list[int]:
    """What a connection answers to these pieces; `warm`: after it has been through the same head once."""
    connection = Connection(proxy.port)
    try:
        if warm:
            connection.send(request())
            assert connection.status() == 200
        for piece in pieces:
            connection.send(piece)
        return [connection.status() for _ in range(count)]
    finally:
        connection.close()


WHOLE = request(padding=5)
ARRIVALS: dict[str, tuple[list[bytes], int]] = {
    "the same again": ([request()], 1),
    "another length, more digits": ([request(padding=2_000)], 1),
    "two in one packet": ([request() + request(padding=9)], 2),
    "head and body apart": ([WHOLE[:-40], WHOLE[-40:]], 1),
    "cut inside the head": ([WHOLE[:30], WHOLE[30:]], 1),
    "cut inside the digits": (
        [WHOLE[: WHOLE.index(b"Content-Length: ") + 17], WHOLE[WHOLE.index(b"Content-Length: ") + 17 :]],
        1,
    ),
    "more than a request": ([request() + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"], 2),
    "another key": ([request("other", key="bob")], 1),
    "another key that may not": ([request(key="bob")], 1),
    "a wrong key": ([request(key="nobody-at-all-1")], 1),
    "an empty body": ([request(body=b"")], 1),
    "no JSON": ([request(body=b"{nope")], 1),
    "a length that is none": ([request().replace(b"Content-Length: ", b"Content-Length: +")], 1),
    "a length too large": ([request(length=65_537)], 1),
    "a body beyond the limit": ([request(padding=66_000)], 1),
    "a second host": ([request().replace(b"Host: x\r\n", b"Host: x\r\nHost: y\r\n")], 1),
    "garbage": ([b"\x16\x03\x01\r\n\r\n"], 1),
}


@pytest.mark.parametrize("name", ARRIVALS)
def test_a_known_head_is_answered_as_a_new_one(proxy: Proxy, name: str) -> None:
    pieces, count = ARRIVALS[name]
    assert answers(proxy, pieces, count, warm=True) == answers(proxy, pieces, count, warm=False)


def test_most_of_them_are_answered_with_a_completion(proxy: Proxy) -> None:
    found = {name: answers(proxy, pieces, count, warm=True) for name, (pieces, count) in ARRIVALS.items()}
    assert [name for name, statuses in found.items() if set(statuses) == {200}] == list(ARRIVALS)[:8]
    assert found["another key that may not"] == [403]
    assert found["a wrong key"] == [401]


def test_a_connection_that_has_ended_leaves_nothing_to_the_collector(proxy: Proxy) -> None:
    """What only the collector frees stays for minutes, of each caller of a crowd that has gone."""
    connection = Connection(proxy.port)
    connection.send(request())
    assert connection.status() == 200
    connection.send(request())
    assert connection.status() == 200
    kept = [weakref.ref(one) for one in cast(set[FastProtocol], proxy.runtime.gateway.door.callers)]
    assert kept
    gc.disable()
    try:
        connection.close()
        until(lambda: all(one() is None for one in kept), what="the end of the connection, and of all that it held")
    finally:
        gc.enable()
