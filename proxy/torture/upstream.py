"""A provider that says exactly the bytes that it is told to say: well-behaved, lying, or silent. Raw asyncio, no HTTP library.

It runs on an event loop of its own in a thread. What it does with a request depends on the model's name: `scripts[model]`, else the
script that `aliases` has for it, else `ok`. It counts requests by model, keeps the last body and headers of each, and notes when a
peer hung up, which keys it was shown, and who was led astray. `gate(model)` holds the `hold…` scripts
until somebody lets them go on.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

PAUSE_S = 0.05  # between the pieces of what drips or pings
READ_S = 0.1  # for the gateway to have read what was sent: a reset throws away what it has not
FOREVER_S = 60.0  # nothing is waited for longer: by then whoever is tried has failed
TEXT = ("Hello", " from", " upstream")
PROMPT_TOKENS, COMPLETION_TOKENS = 11, 7
USAGE = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS, "total_tokens": 18}

JSON = {"content-type": "application/json"}
SSE = {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}
DONE = b"data: [DONE]\n\n"
STOLEN = "/v1/stolen/"  # an address that nobody asks for unless an answer or a caller talked him into it
MAX_BODY_BYTES = 64 * 1024 * 1024
START_S = 10.0


class PeerGone(Exception):
    """The gateway closed the connection while a script was under way."""


@dataclass(slots=True)
class Call:
    """One request, and the means to answer it."""

    upstream: Upstream
    model: str
    body: dict[str, Any]
    headers: dict[str, str]
    connection: int
    nth: int  # on this connection, from 1
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    keep: bool = True  # the connection may serve again

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        try:
            await self.writer.drain()
        except ConnectionError:
            raise PeerGone from None
        self.upstream.sent_bytes[self.model] += len(data)

    async def head(self, status: int, headers: dict[str, str]) -> None:
        if not self.upstream.keep_alive:
            headers = {**headers, "connection": "close"}
            self.keep = False
        await self.send(rendered_head(status, headers))

    async def whole(self, status: int, body: bytes, headers: dict[str, str] = JSON) -> None:
        await self.head(status, {**headers, "content-length": str(len(body))})
        await self.send(body)

    async def json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        await self.whole(status, json.dumps(value).encode(), {**JSON, **(headers or {})})

    async def error(self, status: int, headers: dict[str, str] | None = None, **fields: Any) -> None:
        await self.json(
            status, {"error": {"message": "the upstream says no", "type": None, "param": None, "code": None, **fields}}, headers
        )

    async def begin_stream(self) -> None:
        await self.head(200, SSE)

    async def chunk(self, data: bytes) -> None:
        """One piece of a chunked body."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def event(self, value: Any) -> None:
        await self.chunk(event(value))

    async def end_stream(self) -> None:
        await self.send(b"0\r\n\r\n")

    async def content(self, count: int = 2) -> None:
        """A stream's beginning: the role, then some text."""
        await self.begin_stream()
        await self.event(role())
        for text in TEXT[:count]:
            await self.event(delta(text))

    async def rest(self) -> None:
        """A stream's good end, after `content()`."""
        for text in TEXT[2:]:
            await self.event(delta(text))
        await self.event(finish())
        if (self.body.get("stream_options") or {}).get("include_usage"):
            await self.event(usage())
        await self.chunk(DONE)
        await self.end_stream()

    def reset(self) -> None:
        """RST instead of FIN."""
        self.keep = False
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        self.keep = False
        self.writer.close()

    async def silence(self, seconds: float = FOREVER_S) -> None:
        """Says nothing until the peer goes. Raises PeerGone."""
        try:
            async with asyncio.timeout(seconds):
                while await self.reader.read(4096):
                    pass
        except TimeoutError:
            return
        except ConnectionError:
            pass
        raise PeerGone

    async def held(self) -> None:
        """Waits for the model's gate, or the peer's leaving (PeerGone)."""
        gate = asyncio.wrap_future(self.upstream.gate(self.model))
        silence = asyncio.ensure_future(self.silence())
        try:
            done, _ = await asyncio.wait((gate, silence), return_when=asyncio.FIRST_COMPLETED)
            if gate not in done:
                silence.result()
        finally:
            silence.cancel()
            await asyncio.gather(silence, return_exceptions=True)


def rendered_head(status: int, headers: dict[str, str], version: str = "1.1") -> bytes:
    lines = [f"HTTP/{version} {status} Said So", *[f"{name}: {value}" for name, value in headers.items()]]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def chunk_of(choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}


def role() -> dict[str, Any]:
    return chunk_of([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])


def delta(text: str, **more: Any) -> dict[str, Any]:
    return chunk_of([{"index": 0, "delta": {"content": text, **more}, "finish_reason": None}])


def finish(reason: str = "stop") -> dict[str, Any]:
    return chunk_of([{"index": 0, "delta": {}, "finish_reason": reason}])


def usage(value: dict[str, Any] = USAGE) -> dict[str, Any]:
    return chunk_of([], usage=value)


def completion(text: str = "".join(TEXT), **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": USAGE,
        **more,
    }


Script = Callable[[Call], Awaitable[None]]


@dataclass(slots=True)
class Upstream:
    """`scripts`: what is done with a request, by model; `ok` for all others. `keep_alive` False: every connection serves one request.

    `port` 0 takes a free one. `strays` counts requests for an address under `STOLEN`, by the name that follows.
    """

    scripts: Mapping[str, Script]
    port: int = 0
    host: str = "127.0.0.1"
    keep_alive: bool = True
    connections: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    bodies: dict[str, dict[str, Any]] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    sent_bytes: Counter[str] = field(default_factory=Counter)  # of answers, as far as the network took them
    unreadable: int = 0  # requests whose body is no JSON object: they get a 400
    strays: Counter[str] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)  # that callers showed
    hung_up_at: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # monotonic seconds, by model
    faults: list[str] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)  # model -> script, for models whose name is none
    _gates: dict[str, Future[None]] = field(default_factory=dict)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None
    _stop: asyncio.Event | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    def gate(self, model: str) -> Future[None]:
        return self._gates.setdefault(model, Future())

    def release(self, model: str) -> None:
        """Lets the requests for a held model go on, and those to come."""
        gate = self.gate(model)
        if not gate.done():
            gate.set_result(None)

    def close_idle(self) -> None:
        """Closes every connection, as a provider does with those that have been idle for too long."""
        done = threading.Event()

        def close() -> None:
            for writer in self._writers:
                writer.close()
            done.set()

        assert self._loop is not None
        self._loop.call_soon_threadsafe(close)
        done.wait(5)

    def start(self) -> None:
        """Raises OSError when the address cannot be had."""
        listener = socket.create_server((self.host, self.port), backlog=512)
        self.port = listener.getsockname()[1]
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(listener, ready)), name="upstream", daemon=True)
        self._thread.start()
        if not ready.wait(START_S):
            raise TimeoutError("the upstream's thread did not start")

    def stop(self) -> None:
        assert self._loop is not None
        assert self._stop is not None
        assert self._thread is not None
        for gate in self._gates.values():
            if not gate.done():
                gate.set_result(None)
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _run(self, listener: socket.socket, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()
        transports: WeakSet[asyncio.WriteTransport] = WeakSet()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            self._writers.add(writer)
            transports.add(writer.transport)
            task = asyncio.ensure_future(self._serve(reader, writer, self.connections))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, sock=listener)
        ready.set()
        await self._stop.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for transport in list(transports):
            transport.abort()  # one with bytes that nobody reads would stay open
        await asyncio.sleep(0)  # their sockets are closed in the next turn

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        nth = 0
        try:
            while True:
                nth += 1
                call = await self._read(reader, writer, connection, nth)
                try:
                    await self.scripts.get(self.aliases.get(call.model, call.model), self.scripts["ok"])(call)
                except PeerGone:
                    self.hung_up_at[call.model].append(time.monotonic())
                    return
                if not call.keep:
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
            return  # it went, or it does not speak HTTP
        except Exception as fault:  # noqa: BLE001 - whoever judges looks at these: a fault of the fake must not pass for one of the gateway
            self.faults.append(repr(fault))
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int, nth: int) -> Call:
        raw = await reader.readexactly(1)
        if raw == b"\x16":  # a TLS handshake, which is answered in plain text
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            raise ConnectionError
        raw += await reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            sent = await _chunked(reader)
        else:
            sent = await reader.readexactly(min(int(headers.get("content-length", "0")), MAX_BODY_BYTES))
        path = first.split(" ")[1].partition("?")[0] if first.count(" ") == 2 else first
        if path.startswith(STOLEN):
            self.strays[path.removeprefix(STOLEN).partition("/")[0]] += 1
        try:
            body = json.loads(sent) if sent else {}
            if not isinstance(body, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError):
            self.unreadable += 1
            writer.write(rendered_head(400, {"content-length": "0", "connection": "close"}))
            raise ConnectionError from None
        model = str(body.get("model", first))
        self.requests[model] += 1
        self.bodies[model] = body
        self.headers[model] = {"request-line": first, **headers}
        if key := headers.get("authorization", "").removeprefix("Bearer "):
            self.keys.add(key)
        return Call(self, model, body, headers, connection, nth, reader, writer)


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readline()).partition(b";")[0], 16):
        if len(body) + size > MAX_BODY_BYTES:
            raise ConnectionError
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body
