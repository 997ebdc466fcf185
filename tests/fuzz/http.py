"""The checks that need an event loop: requests as the fast lane reads them, and the answers of upstreams.

The requests are read a second time by h11, which shares no code with what reads them in the proxy: whatever the proxy takes for a request
must be the same request to h11, or one that h11 refuses. Two servers that read the same bytes differently are how requests are smuggled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.server import ServerState

from proxy.config.load import load
from proxy.config.settings import Settings
from proxy.runtime import Runtime
from proxy.server.protocol import FastProtocol
from tests.fuzz.mutation import cut_places, pieces_of
from tests.upstream.test_response import Outcome

FILE = """
providers:
  demo: {}
  openai: {api_key: fake-key-1}
  azure: {api_key: fake-key-2, base_url: "https://a.openai.azure.com", api_version: 2024-10-21}
  gemini: {api_key: fake-key-3}
  vertex: {api_key: fake-key-4, project: p, location: l}
  bedrock: {api_key: fake-key-5, region: us-east-1}
chains:
  smart: [openai/gpt-4o, gemini/gemini-2.5-pro]
  "any-*": [azure/any-*, gemini/*, bedrock/*]
clients: {a: {key: k-client-1}}
"""
KEY = b"k-client-1"
LABELS = frozenset(("gpt-4o", "gemini-2.5-pro"))
MODEL_NAMES = (
    b"smart", b"any-thing", b"gemini/gemini-2.5-pro", b"gemini/tunedModels/x", b"vertex/publishers/anthropic/models/claude",
    b"bedrock/arn:aws:bedrock:us-east-1:1:inference-profile/x", b"azure/gpt-4o", b"vertex/endpoints/12",
)  # fmt: skip
NAME_TOKENS = (
    b"/", b"//", b"/../", b"/./", b"..", b"..%2f", b"%2e%2e/", b"?", b"?a=b", b"#", b"%00", b"%0d%0a", b"\r\n", b"\n", b"\x00", b" ", b"*",
    b":generateContent", b":", b"@", b"\\", b"tunedModels/", b"models/", b"publishers/google/models/", b"endpoints/", b"\xc2\x85",
    b"\xe2\x80\xae", b"\xe2\x80\x8b", b"e\xcc\x81", b"\xf0\x9f\x98\x80", b"\xff", b"x" * 300, b"-1", b"9" * 30, b"1e9", b"America",
    b"+", b"T",
    b"2026-13-45", b"9999-12-31T23:59:59+14:00", b"0001-01-01", b"99999w", "²".encode(), "٣".encode(), b"./", b"posixrules",
)  # fmt: skip
YAML_TOKENS = (
    b"null", b"~", b"true", b"-1", b"1e999", b".nan", b".inf", b"9" * 5000, b"''", b"[]", b"{}", b"- ", b": ", b"? ", b"&a ", b"*a",
    b"*url",
    b"<<: *url", b"!!python/object/apply:os.system [id]", b"!x ", b"%YAML 1.2\n---\n", b"---\n", b"...\n", b"|\n  x", b">-\n", b"\t", b"\n",
    b"\r\n", b"\xc2\x85", b"\xef\xbb\xbf", b"\xff", b"\x00", b"\x07", b"\\", b'"', b"'", b"#", b"@", b"`", b"${", b"${KEY}", b"${NOPE}",
    b"${file:/etc/passwd}", b"${file:/}", b"${A:-${B}}", b"3s", b"-5m", b"1TiB", b"2026-01-01", b"1:30", b"0x1f", b"demo/chat",
    b"a/*", b"*",
    b"http://169.254.169.254/", b"ftp://x", b"http://[::1", b"[" * 100, b"{a: " * 100, b"x" * 3000, "é".encode(), "\u202e".encode(),
)  # fmt: skip


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="tollbridge-fuzz-")


@cache
def settings() -> Settings:
    path = Path(_folder().name) / "providers.yaml"
    path.write_text(FILE, encoding="utf-8")
    return load(path, environ={})


@cache
def loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


class Transport(asyncio.Transport):
    """Takes what is written, and remembers it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 5), "sockname": ("127.0.0.1", 80)}.get(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        return

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return


class Door:
    """A runtime that is not started, with an engine and an application behind its protocol that only note what they are given."""

    def __init__(self) -> None:
        self.runtime = Runtime(settings(), reload=settings, watch=False)
        self.gateway = self.runtime.gateway
        self.seen: list[tuple[bytes, bytes, bytes]] = []
        self.gateway.chat = self._chat  # type: ignore[method-assign,assignment]
        self.config = Config(
            self._application, interface="asgi3", http=FastProtocol, ws="none", lifespan="off", log_config=None, access_log=False
        )
        self.config.load()

    async def _chat(self, headers: Any, body: bytes, client: Any, sink: Any, _control: Any, *, request_id: str) -> None:
        assert client is not None, "nobody comes in without a key"
        presented = (headers.get(b"authorization", b""), headers.get(b"x-api-key", b""), headers.get(b"api-key", b""))
        assert any(KEY in value for value in presented)
        self.seen.append((b"POST", b"fast", body))
        await sink.respond(200, [(b"x-request-id", request_id.encode())], b"{}")

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if message["type"] == "http.request":
            self.seen.append((scope["method"].encode(), scope["raw_path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def take(self, pieces: Sequence[bytes]) -> tuple[list[tuple[bytes, bytes, bytes]], bytes]:
        """The requests that got in, and what was answered."""
        self.seen = []
        return loop().run_until_complete(self._take(pieces))

    async def _take(self, pieces: Sequence[bytes]) -> tuple[list[tuple[bytes, bytes, bytes]], bytes]:
        transport = Transport()
        protocol = FastProtocol(self.config, ServerState(), {"gateway": self.gateway})
        protocol.connection_made(transport)
        for piece in pieces:
            if transport.closed:
                break
            protocol.data_received(piece)
            if len(pieces) < 20:
                await _settle()
        await _settle()
        protocol.connection_lost(None)
        await _settle()
        return self.seen, bytes(transport.written)


async def _settle() -> None:
    """Long enough for every request that is there to be answered: each takes a few turns of the loop."""
    for _ in range(12):
        await asyncio.sleep(0)


@cache
def door() -> Door:
    async def make() -> Door:
        return Door()

    return loop().run_until_complete(make())


def read_by_h11(data: bytes) -> list[tuple[bytes, bytes]] | None:
    """(method, body) of each request; an unfinished one is left out, and so is everything from the first that h11 refuses."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    found: list[tuple[bytes, bytes]] = []
    method, body = b"", b""
    try:
        connection.receive_data(data)
        while True:
            match connection.next_event():
                case h11.Request(method=method):
                    body = b""
                case h11.Data(data=more):
                    body += bytes(more)
                case h11.EndOfMessage():
                    found.append((method, body))
                    connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                    connection.send(h11.EndOfMessage())
                    if connection.our_state is h11.MUST_CLOSE:
                        return found
                    connection.start_next_cycle()
                case _:
                    return found
    except (h11.RemoteProtocolError, h11.LocalProtocolError):
        return found


def check_requests(data: bytes) -> None:
    """Bytes on a connection are requests that h11 reads alike, or refused; and never more requests for being cut."""
    data = data.replace(b"Bearer k\r", b"Bearer k-client-1\r")
    seen, answers = door().take([data])
    judged = read_by_h11(data) or []
    # a request that h11 refuses ends what can be compared
    for (method, _, body), (expected_method, expected_body) in zip(seen, judged, strict=False):
        assert (method, body) == (expected_method, expected_body)
    assert answers == b"" or answers.startswith(b"HTTP/1.1 ")
    # noise behind a request cuts the connection, and sooner when it comes along with it: the same requests, then, but not as many
    for pieces in (pieces_of(data, cut_places(data)), [data[i : i + 1] for i in range(len(data))]):
        if len(pieces) < 1500:
            again, _ = door().take(pieces)
            fewer = min(len(again), len(seen))
            assert again[:fewer] == seen[:fewer]


def check_response(data: bytes) -> None:
    """However it is cut, the answer of an upstream is the same head, the same body and the same fault."""
    whole = facts([data])
    assert facts(pieces_of(data, cut_places(data))) == whole
    if len(data) < 1500:
        assert facts([data[i : i + 1] for i in range(len(data))]) == whole


def facts(pieces: Sequence[bytes]) -> tuple[object, ...]:
    """Not whether the connection may serve again: empty lines behind an answer are overlooked only when they come along with it."""
    status, headers, body, fault, _, complete = Outcome(list(pieces), eof=True).facts()
    return status, headers, body, fault, complete
