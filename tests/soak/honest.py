"""An honest caller in a process of his own, who must not notice what goes on beside him.

`python -m tests.soak.honest` reads an `HonestPlan` as one JSON line, prints `{"ready": true}`, asks for a small whole answer so many times
a second, one after the other on one connection, until there is another line, and prints an `HonestResult`.

A time runs from when he sends to when the kernel has the last of the answer for him (`probe.py`): the many who are slow on purpose share a
processor with him, and what they make him wait for it is not the proxy's doing. Where the answer before came so late that the next request
could not be sent when it was due, its time runs from then: else a second without answers would be one slow request, not a hundred.
"""

from __future__ import annotations

import re
import select
import socket
import sys
import time
from dataclasses import dataclass, field

import orjson

from tests.bench.load import chat_body, request_bytes
from tests.soak.probe import connected, received

_HEAD = re.compile(rb"HTTP/1\.1 (\d+) .*?\r\ncontent-length: *(\d+)(?=\r).*?\r\n\r\n", re.IGNORECASE | re.DOTALL)


@dataclass(slots=True)
class HonestPlan:
    port: int
    key: str
    model: str
    rate: float  # requests a second


@dataclass(slots=True)
class HonestResult:
    """`asked`: when (monotonic seconds of this host), how long it took in seconds, and the status; 0 for what was not whole."""

    asked: list[tuple[float, float, int]] = field(default_factory=list)
    last: str = ""  # of the answers


def run(plan: HonestPlan) -> HonestResult:
    request = request_bytes(chat_body(plan.model, stream=False, prompt_bytes=200), port=plan.port, key=plan.key)
    result, connection = HonestResult(), connected(plan.port)
    began, began_ns, ended_ns, answer = time.monotonic(), time.time_ns(), 0, b""
    while not select.select([sys.stdin], [], [], max(0.0, began + len(result.asked) / plan.rate - time.monotonic()))[0]:
        at, due_ns = time.monotonic(), began_ns + round(len(result.asked) / plan.rate * 1e9)
        sent_ns = due_ns if ended_ns > due_ns else time.time_ns()
        try:
            connection.sendall(request)
            status, answer, ended_ns = _answer(connection)
        except OSError:
            status, ended_ns = 0, time.time_ns()
            connection.close()
            connection = connected(plan.port)
        result.asked.append((at, (ended_ns - sent_ns) / 1e9, status))
    connection.close()
    result.last = answer.decode("latin-1")
    return result


def _answer(connection: socket.socket) -> tuple[int, bytes, int]:
    data = b""
    while True:
        piece, at_ns = received(connection)
        data += piece
        head = _HEAD.match(data)
        if head is not None and len(data) - head.end() >= int(head[2]):
            return int(head[1]), data, at_ns


if __name__ == "__main__":
    plan = HonestPlan(**orjson.loads(sys.stdin.readline()))
    print('{"ready":true}', flush=True)
    print(orjson.dumps(run(plan)).decode(), flush=True)
