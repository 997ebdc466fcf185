"""What a worker sends on to the lead arrives as it was asked, and a lead that is away is told as such. Over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from starlette.types import Message, Receive, Scope, Send

from proxy.workers.siblings import MAX_BODY_BYTES, MAX_HEAD_BYTES, Reception, ToTheLead, frame, is_for_the_lead

pytestmark = [pytest.mark.integration, pytest.mark.anyio]
STATE = {"gateway": SimpleNamespace(new_id=lambda: "01ID")}


class Lead:
    """An application that says what it was asked."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.bodies: list[bytes] = []
        self.answer = b'{"data": []}'

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.bodies.append((await receive())["body"])
        headers = [(b"content-type", b"application/json"), (b"x-request-id", b"01LEAD")]
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": self.answer[:3], "more_body": True})
        await send({"type": "http.response.body", "body": self.answer[3:], "more_body": False})


async def own(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"own"})


@asynccontextmanager
async def reception(application: Any, path: Path) -> AsyncIterator[socket.socket]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(16)
    listener.setblocking(False)
    desk = Reception(application, lambda: STATE)
    await desk.open(listener)
    yield listener
    desk.close()


async def ask(
    application: Any, path: str, *, body: list[bytes] | None = None, **more: Any
) -> tuple[int, dict[bytes, bytes], bytes]:
    pieces = [b""] if body is None else body
    coming: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": n < len(pieces) - 1} for n, piece in enumerate(pieces)
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return coming.pop(0) if coming else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "scheme": "http",
        "headers": [],
        "client": ("127.0.0.1", 4711),
        "state": STATE,
        **more,
    }
    await application(scope, receive, send)
    start, *parts = sent
    return start["status"], dict(start["headers"]), b"".join(part.get("body", b"") for part in parts)


@pytest.mark.parametrize(
    ("path", "lead"),
    [
        ("/api/v1/requests", True),
        ("/api/status", True),
        ("/dashboard", True),
        ("/dashboard/static/page.js", True),
        ("/metrics", True),
        ("/", True),
        ("/v1/models", False),
        ("/v1/embeddings", False),
        ("/livez", False),
        ("/readyz", False),
        ("/apiary", False),
        ("/metricsx", False),
    ],
)
async def test_what_the_lead_answers(path: str, lead: bool) -> None:
    assert is_for_the_lead(path) is lead


async def test_a_question_arrives_as_it_was_asked_and_the_answer_comes_back(tmp_path: Path) -> None:
    lead = Lead()
    async with reception(lead, tmp_path / "lead.sock"):
        application = ToTheLead(own, tmp_path / "lead.sock")
        status, headers, body = await ask(
            application,
            "/api/v1/alerts/ü",
            method="POST",
            query_string=b"a=1&b=%20\xff",
            headers=[(b"authorization", b"Bearer x"), (b"cookie", b"a=\xe4")],
            client=("10.1.2.3", 99),
            body=[b"one ", b"two"],
        )

    assert (status, headers[b"x-request-id"], body) == (202, b"01LEAD", lead.answer)
    (scope,) = lead.scopes
    assert (scope["method"], scope["path"], scope["query_string"]) == ("POST", "/api/v1/alerts/ü", b"a=1&b=%20\xff")
    assert scope["headers"] == [(b"authorization", b"Bearer x"), (b"cookie", b"a=\xe4")]
    assert scope["client"] == ("10.1.2.3", 99)
    assert scope["state"] is STATE
    assert lead.bodies == [b"one two"]


async def test_what_is_the_workers_own_stays_with_it(tmp_path: Path) -> None:
    application = ToTheLead(own, tmp_path / "nobody.sock")
    assert await ask(application, "/v1/models") == (200, {}, b"own")


async def test_a_large_answer_comes_whole(tmp_path: Path) -> None:
    lead = Lead()
    lead.answer = b"x" * 3_000_000
    async with reception(lead, tmp_path / "lead.sock"):
        _, _, body = await ask(ToTheLead(own, tmp_path / "lead.sock"), "/api/v1/requests")
    assert body == lead.answer


async def test_a_lead_that_is_away_is_503(tmp_path: Path) -> None:
    status, headers, body = await ask(ToTheLead(own, tmp_path / "nobody.sock"), "/metrics")
    assert (status, headers[b"retry-after"], headers[b"x-request-id"]) == (503, b"1", b"01ID")
    assert orjson.loads(body)["error"]["code"] == "overloaded"


async def test_a_lead_that_fails_is_503(tmp_path: Path) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("no answer")

    async with reception(broken, tmp_path / "lead.sock"):
        status, _, _ = await ask(ToTheLead(own, tmp_path / "lead.sock"), "/api/status")
    assert status == 503


async def test_a_lead_that_hangs_is_503(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)  # as the supervisor holds it: connections are taken, nobody reads
    listener.bind(str(tmp_path / "lead.sock"))
    listener.listen(16)
    status, _, _ = await ask(ToTheLead(own, tmp_path / "lead.sock", answer_s=0.05), "/api/status")
    listener.close()
    assert status == 503


async def test_a_body_has_its_limit(tmp_path: Path) -> None:
    lead = Lead()
    async with reception(lead, tmp_path / "lead.sock"):
        application = ToTheLead(own, tmp_path / "lead.sock")
        assert (await ask(application, "/api/status", body=[b"x" * MAX_BODY_BYTES]))[0] == 202
        assert (await ask(application, "/api/status", body=[b"x" * MAX_BODY_BYTES, b"y"]))[0] == 413
    assert len(lead.scopes) == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 8,
        frame({}, b"")[:-1],
        frame({}, b""),
        frame({"method": "GET"}, b"x" * 10),
        b"\x02\0\0\0\0\0\0\0[]",
        (MAX_HEAD_BYTES + 1).to_bytes(4, "little") + b"\0\0\0\0",
    ],
    ids=range(8),
)
async def test_what_is_no_question_gets_no_answer_and_harms_nobody(tmp_path: Path, sent: bytes) -> None:
    lead = Lead()
    async with reception(lead, tmp_path / "lead.sock"):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "lead.sock"))
        writer.write(sent)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        assert (await ask(ToTheLead(own, tmp_path / "lead.sock"), "/api/status"))[0] == 202
