"""One request to a gateway and what came back, byte for byte: a client that mends nothing, follows nothing and repeats nothing.

Raw asyncio: a library would hide the very things that are looked for, such as a body that ends before its framing does.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

MAX_HEAD_BYTES = 256 * 1024
MAX_BODY_BYTES = 48 * 1024 * 1024  # more than any gateway should pass on
CANARY = "canary-7f3a9c21"  # in headers of the caller's that are nobody else's business
MESSAGES = [{"role": "user", "content": "Say hello."}]


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where it is. `base` is the path before `/chat/completions`."""

    host: str
    port: int
    base: str
    tls: bool
    key: str | None = None

    @classmethod
    def at(cls, url: str, key: str | None = None) -> Gateway:
        """`http://127.0.0.1:4000`, with or without `/v1`. Raises ValueError."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a gateway: write http://127.0.0.1:4000 or https://gateway.example/v1")
        tls = parts.scheme == "https"
        base = parts.path.rstrip("/") or "/v1"
        return cls(parts.hostname, parts.port or (443 if tls else 80), base, tls, key)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            self.host, self.port, ssl=ssl.create_default_context() if self.tls else None, limit=MAX_HEAD_BYTES
        )

    def post(self, body: bytes, headers: dict[str, str] | None = None) -> bytes:
        """The bytes of a request for a completion."""
        sent = {
            "host": self.authority,
            "content-type": "application/json",
            "content-length": str(len(body)),
            **({"authorization": f"Bearer {self.key}"} if self.key else {}),
            "cookie": f"session={CANARY}",
            "x-forwarded-for": "203.0.113.77",
            "connection": "close",
            **(headers or {}),
        }
        lines = "".join([f"{name}: {value}\r\n" for name, value in sent.items()])
        return f"POST {self.base}/chat/completions HTTP/1.1\r\n{lines}\r\n".encode() + body


@dataclass(slots=True)
class Reply:
    """`status` 0: no answer at all. `whole`: the framing ended as announced. `hung`: patience was over first. Seconds since the request."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    whole: bool = False
    hung: bool = False
    ended_s: float = 0.0

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def payloads(self) -> list[str]:
        """What stands behind `data:` in each whole event."""
        text = self.body.decode("utf-8", "replace").replace("\r\n", "\n")
        found = []
        for event in text.split("\n\n")[:-1]:
            lines = [line[5:].removeprefix(" ") for line in event.split("\n") if line.startswith("data:")]
            if lines:
                found.append("\n".join(lines))
        return found

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The answer as objects: the events of a stream that are any, or the one body."""
        texts = self.payloads if self.is_stream else [self.body.decode("utf-8", "replace")]
        return [value for value in map(_parsed, texts) if isinstance(value, dict)]

    @property
    def done(self) -> int:
        """How many end marks a stream has."""
        return self.payloads.count("[DONE]")

    @property
    def text(self) -> str:
        pieces = []
        for value in self.objects:
            for choice in value.get("choices") or ():
                said = choice.get("delta" if self.is_stream else "message") or {}
                pieces.append(said.get("content") or "")
        return "".join(pieces)

    @property
    def finished(self) -> bool:
        return any(choice.get("finish_reason") for value in self.objects for choice in value.get("choices") or ())

    @property
    def error(self) -> dict[str, Any] | None:
        """What the last object calls an error."""
        value = self.objects[-1].get("error") if self.objects else None
        return value if isinstance(value, dict) else None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def chat(model: str, *, stream: bool, **fields: Any) -> bytes:
    asked = {"model": model, "messages": MESSAGES, **fields}
    if stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(asked).encode()


async def exchange(gateway: Gateway, data: bytes, *, patience_s: float, half_close: bool = False) -> Reply:
    """Sends exactly these bytes and reads one answer. Whatever goes wrong is in the reply."""
    reply, began = Reply(), time.monotonic()
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(patience_s):
            reader, writer = await gateway.connect()
            writer.write(data)
            if half_close and writer.can_write_eof():
                writer.write_eof()
            await read(reader, reply)
    except TimeoutError:
        reply.hung = True
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
        pass  # what came so far is what there is to judge
    finally:
        if writer is not None:
            writer.close()
    reply.ended_s = time.monotonic() - began
    return reply


async def read_head(reader: asyncio.StreamReader, reply: Reply) -> None:
    """Status and headers of the answer; interim ones are passed over. Raises EOFError, ValueError."""
    status, lines = 100, list[str]()
    while 100 <= status < 200:
        raw = await reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").rstrip().split("\r\n")
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError("not an answer in HTTP/1")
        status = int(rest[:3])
    reply.headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    reply.status = status


async def read(reader: asyncio.StreamReader, reply: Reply) -> None:
    """A whole answer into `reply`, piece by piece, so that what came before a fault is kept."""
    await read_head(reader, reply)
    if reply.headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await reader.readline()).partition(b";")[0], 16):
            await _take(reader, reply, size)
            await reader.readline()
        await reader.readline()
    elif (length := reply.headers.get("content-length")) is not None:
        await _take(reader, reply, int(length))
    else:
        while piece := await reader.read(65536):
            _keep(reply, piece)
    reply.whole = True


async def _take(reader: asyncio.StreamReader, reply: Reply, size: int) -> None:
    while size:
        piece = await reader.read(min(size, 65536))
        if not piece:
            raise EOFError
        size -= len(piece)
        _keep(reply, piece)


def _keep(reply: Reply, piece: bytes) -> None:
    if len(reply.body) + len(piece) > MAX_BODY_BYTES:
        raise ValueError("more than any gateway should pass on")
    reply.body += piece
