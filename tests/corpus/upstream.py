"""A provider that says again what a recording says, byte for byte, cut into pieces of random size.

Which recording is told by a field of the request that no provider knows: it arrives because unknown fields are passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from random import Random
from typing import Any

import orjson

from tests.corpus.recordings import Recording

MARKER = "replayed_recording"
MAX_PIECES = 200
# what belongs to the connection that was recorded, not to the answer
_OF_THE_CONNECTION = frozenset(("connection", "content-encoding", "content-length", "keep-alive", "transfer-encoding", "date"))
_CONTENT_TYPES = {"json": "application/json", "sse": "text/event-stream", "text": "text/plain"}


class Replayer:
    """`received` holds the bodies of the requests that came to a path with the prefix `/direct` left out, by recording."""

    def __init__(self, recordings: Mapping[str, Recording]) -> None:
        self._recordings = recordings
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.received: dict[str, list[dict[str, Any]]] = {}
        self.paths: dict[str, str] = {}
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._answer_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the caller has gone
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        if "content-length" not in headers:
            return False  # a health check, which nothing was recorded for
        body = orjson.loads(await reader.readexactly(int(headers["content-length"])))
        recording = self._recordings[body.pop(MARKER)]
        path = head[0].split(" ")[1]
        if not path.startswith("/direct/"):
            self.received.setdefault(recording.id, []).append(body)
            self.paths[recording.id] = path
        random = Random(f"{recording.id} {path}")
        framing = random.choice(("chunked", "chunked", "length", "close"))
        writer.write(_head(recording, framing))
        for piece in pieces(recording.body, random):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
            await asyncio.sleep(0)  # lets the piece be read before the next is written
        if framing == "chunked":
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return framing != "close"


def pieces(data: bytes, random: Random) -> list[bytes]:
    """The bytes in pieces of random size: of some bytes, of an event or so, or of several."""
    mean = max(random.choice((3, 40, 400, 4000)), -(-len(data) // MAX_PIECES))
    found = []
    at = 0
    while at < len(data):
        size = random.randint(1, 2 * mean)
        found.append(data[at : at + size])
        at += size
    return found


def _head(recording: Recording, framing: str) -> bytes:
    headers = {name.lower(): value for name, value in recording.headers if name.lower() not in _OF_THE_CONNECTION}
    if recording.status < 400:
        headers.setdefault("content-type", _CONTENT_TYPES[recording.framing])
    match framing:
        case "chunked":
            headers["transfer-encoding"] = "chunked"
        case "length":
            headers["content-length"] = str(len(recording.body))
        case _:
            headers["connection"] = "close"
    lines = [f"HTTP/1.1 {recording.status} Recorded", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace")
