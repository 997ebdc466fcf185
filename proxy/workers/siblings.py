"""What a worker that does not lead is asked of `/api`, `/dashboard` and `/metrics`, the lead answers: over a socket in the data directory.

The socket belongs to the supervisor, which holds it while a worker is replaced: who calls then waits a moment. Only this user may open it
(0600, in a folder of 0700). One connection, one question, one answer, each a frame:

    4 bytes length of the head | 4 bytes length of the body, little-endian | head, JSON | body

The head of a question is the request with the address of whoever asked, so that the lead decides who may; that of an answer, status and
headers.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.core.errors import Overloaded, RequestTooLarge
from proxy.server.endpoints import read_body, tell
from proxy.server.sink import AsgiSink

PREFIXES = ("/api/", "/dashboard/")
PATHS = frozenset(("/", "/api", "/dashboard", "/metrics"))
MAX_HEAD_BYTES = 256 * 1024
MAX_BODY_BYTES = 1 << 20  # of a question
MAX_ANSWER_BYTES = 64 << 20
ANSWER_S = 60.0  # a check of every provider takes its time
CONNECT_S = 2.0
_LENGTHS = struct.Struct("<II")


class BadFrame(Exception):
    """What came over the socket is no frame."""


def is_for_the_lead(path: str) -> bool:
    return path in PATHS or path.startswith(PREFIXES)


async def read_frame(reader: asyncio.StreamReader, max_body_bytes: int) -> tuple[dict[str, Any], bytes]:
    """Raises BadFrame, also where the connection ended."""
    try:
        head_bytes, body_bytes = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
        if head_bytes > MAX_HEAD_BYTES or body_bytes > max_body_bytes:
            raise BadFrame("it is too long")
        head = orjson.loads(await reader.readexactly(head_bytes))
        body = await reader.readexactly(body_bytes)
    except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
        raise BadFrame("it is not whole") from error
    if not isinstance(head, dict):
        raise BadFrame("its head is no object")
    return head, body


def frame(head: dict[str, Any], body: bytes) -> bytes:
    packed = orjson.dumps(head)
    return _LENGTHS.pack(len(packed), len(body)) + packed + body


class ToTheLead:
    """An ASGI application before that of a worker: it sends on what is the lead's."""

    def __init__(self, application: ASGIApp, lead: Path, *, answer_s: float = ANSWER_S) -> None:
        self._application = application
        self._lead = str(lead)
        self._answer_s = answer_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_for_the_lead(scope["path"]):
            await self._application(scope, receive, send)
            return
        try:
            body = await read_body(receive, MAX_BODY_BYTES)
            if body is None:
                return
            async with asyncio.timeout(self._answer_s):
                head, answer = await self._ask(_question(scope), body)
            status, headers = int(head["status"]), [_pair(pair) for pair in head["headers"]]
        except (OSError, BadFrame, TimeoutError, KeyError, TypeError, ValueError):
            restarting = Overloaded("The worker that answers this is being restarted; try again.", retry_after_s=1)
            await tell(AsgiSink(send), _new_id(scope), restarting)
            return
        except RequestTooLarge as refused:
            await tell(AsgiSink(send), _new_id(scope), refused)
            return
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer, "more_body": False})

    async def _ask(self, question: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_unix_connection(self._lead)
        try:
            writer.write(frame(question, body))
            await writer.drain()
            return await read_frame(reader, MAX_ANSWER_BYTES)
        finally:
            writer.close()


class Reception:
    """The lead's end: answers what its siblings send on, with its own application."""

    def __init__(self, application: ASGIApp, state: Callable[[], dict[str, Any]]) -> None:
        self._application = application
        self._state = state
        self._server: asyncio.Server | None = None

    async def open(self, listener: socket.socket) -> None:
        self._server = await asyncio.start_unix_server(self._answer, sock=listener)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                question, body = await read_frame(reader, MAX_BODY_BYTES)
                head, answer = await self._run(question, body)
                writer.write(frame(head, answer))
                await writer.drain()
        except (BadFrame, TimeoutError, OSError, KeyError, TypeError, ValueError):
            return  # who asked tells its caller that there was no answer
        finally:
            writer.close()

    async def _run(self, question: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        client = question["client"]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": str(question["scheme"]),
            "method": str(question["method"]),
            "path": str(question["path"]),
            "raw_path": str(question["path"]).encode(),
            "root_path": "",
            "query_string": str(question["query"]).encode("latin-1"),
            "headers": [_pair(pair) for pair in question["headers"]],
            "client": (str(client[0]), int(client[1])) if client is not None else None,
            "server": None,
            "state": self._state(),
        }
        coming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        head: dict[str, Any] = {}
        pieces: list[bytes] = []

        async def receive() -> Message:
            if coming:
                return coming.pop()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                head["status"] = message["status"]
                head["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in message["headers"]]
            else:
                pieces.append(message.get("body", b""))

        await self._application(scope, receive, send)
        return head, b"".join(pieces)


def _question(scope: Scope) -> dict[str, Any]:
    return {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode("latin-1"),
        "scheme": scope["scheme"],
        "client": list(scope["client"]) if scope.get("client") else None,
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
    }


def _pair(pair: Any) -> tuple[bytes, bytes]:
    name, value = pair
    return str(name).encode("latin-1"), str(value).encode("latin-1")


def _new_id(scope: Scope) -> str:
    request_id: str = scope["state"]["gateway"].new_id()
    return request_id
