"""A cheap provider: speaks OpenAI's chat completions and the native formats over bare sockets, and keeps count of what it served.

`python -m tests.bench.upstream` listens on a free port of 127.0.0.1, prints `{"port": N}` and serves until its standard input
ends. The model's name says what comes back:

    whole           one JSON answer of about 600 bytes
    lone-N          a stream of N content chunks, 20 ms apart, each in a write of its own
    burst-N         the same, but ten chunks in each write: what arrives after a hiccup, or from a fast model
    flood-N         the same ten to a write, as fast as the socket takes them
    mixed           (soak) whole, or streamed at four words each 20 ms; tokens drawn at random, the usage reported
    mixed-nousage   (soak) the same with no usage reported: the text has one token a word, for whoever counts
    down            500, at once

A stream ends with a finish chunk, a usage chunk (whoever asks for it or not) and `[DONE]`. A request must say its length.
The field `user` is a marker that is kept with what was served. `GET /seen` lists that, `GET /counts` sums it up.

The path says which wire format is spoken: those of `formats.py` have their own, with the same words in as many chunks (but no `mixed`);
any other path is OpenAI's.

The requests are read by hand, and wrongly for the world at large: this is for clients that send well-formed requests with a
content-length, and every microsecond here is one that the program under test does not get.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import sys
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvloop

from tests.bench.formats import FORMATS, Format

TICK_S = 0.02
_SLOTS = 20
_BURST_EVENTS = 10
_CREATED = 1_790_000_000
_CHAT = b"/v1/chat/completions"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MODEL = re.compile(rb'"model" *: *"([^"]*)"')
_USER = re.compile(rb'"user" *: *"([^"]*)"')
_STREAM = re.compile(rb'"stream" *: *true')
_TEXT = (
    "A reverse proxy stands between the programs that ask and the servers that answer: it reads a request, decides who shall "
    "serve it, passes it on, and gives back what came."
)
_INPUT_TOKENS = 200


def _stream_head(content_type: bytes) -> bytes:
    lines = (b"HTTP/1.1 200 OK", b"content-type: " + content_type, b"cache-control: no-cache", b"transfer-encoding: chunked")
    return b"\r\n".join(lines) + b"\r\n\r\n"


_STREAM_HEAD = _stream_head(b"text/event-stream")


@dataclass(slots=True)
class Served:
    """One answer given. `whole`: all of it was handed to the socket."""

    marker: str
    model: str
    stream: bool
    status: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    usage_reported: bool
    whole: bool = False


@dataclass(slots=True)
class Counts:
    requests: int = 0
    failed: int = 0
    chunks: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class Script:
    """What is said for one model name: for whole answers one write, for streams several."""

    head: bytes
    pieces: list[bytes]
    spaced: bool
    chunks: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    usage_reported: bool = True
    status: int = 200


def usage(input_tokens: int, cached: int, output: int) -> dict[str, Any]:
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output,
        "total_tokens": input_tokens + output,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def whole_answer(text: str, *, reported: dict[str, Any] | None) -> bytes:
    body = orjson.dumps(
        {
            "id": "chatcmpl-benchmark000000000001",
            "object": "chat.completion",
            "created": _CREATED,
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": None, "annotations": []},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            **({"usage": reported} if reported else {}),
            "service_tier": "default",
            "system_fingerprint": "fp_benchmark",
        }
    )
    return _framed(200, body)


def _framed(status: int, body: bytes) -> bytes:
    reason = {200: "OK", 404: "Not Found", 411: "Length Required", 500: "Internal Server Error"}[status]
    return f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def _event(delta: dict[str, Any] | None, *, finish: str | None = None, reported: dict[str, Any] | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-benchmark000000000001",
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": "m",
        "system_fingerprint": "fp_benchmark",
        "choices": [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        **({"usage": reported} if reported else {}),
    }
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream_pieces(words: int, *, per_write: int, reported: dict[str, Any] | None) -> list[bytes]:
    """The role and the first word go together, the last piece holds finish, usage, [DONE] and the end of the body."""
    events = [_event({"content": " word"}) for _ in range(words)]
    end = [_event({}, finish="stop"), *([_event(None, reported=reported)] if reported else []), b"data: [DONE]\n\n"]
    return _writes([_event({"role": "assistant", "content": ""})], events, end, per_write=per_write)


def native_pieces(format_: Format, words: int, *, per_write: int) -> list[bytes]:
    """The same in a native format: what comes before the first word and after the last goes with the first and the last write."""
    script = format_.stream(words, _INPUT_TOKENS)
    return _writes(script.before, script.words, script.after, per_write=per_write)


def _writes(before: list[bytes], events: list[bytes], after: list[bytes], *, per_write: int) -> list[bytes]:
    """Each event is a chunk of the body, as servers send them."""
    writes = [b"".join(map(_chunked, events[at : at + per_write])) for at in range(0, len(events), per_write)]
    writes[0] = b"".join(map(_chunked, before)) + writes[0]
    writes.append(b"".join(map(_chunked, after)) + b"0\r\n\r\n")
    return writes


class Provider:
    """What all connections share: the scripts, the counts, the wheel of streams that tick every 20 ms."""

    def __init__(self, *, seed: int = 1, keep: bool = False) -> None:
        self.counts = Counts()
        self.seen: list[Served] = []
        self.keep = keep
        self.connections: set[Connection] = set()
        self._none_left = asyncio.Event()
        self._random = random.Random(seed)
        self._scripts: dict[str, Script] = {}
        self._native_scripts: dict[tuple[str, str], Script] = {}
        self._slots: list[list[Stream]] = [[] for _ in range(_SLOTS)]
        self._next_slot = 0

    def script(self, model: str, *, stream: bool) -> Script | None:
        if model.startswith("mixed"):
            return self._mixed(stream=stream, reported=model == "mixed")
        found = self._scripts.get(model)
        if found is None:
            found = _fixed(model)
            if found is not None:
                self._scripts[model] = found
        return found

    def native_script(self, format_: Format, model: str) -> Script | None:
        found = self._native_scripts.get((format_.name, model))
        if found is None:
            found = _fixed(model, format_)
            if found is not None:
                self._native_scripts[format_.name, model] = found
        return found

    def _mixed(self, *, stream: bool, reported: bool) -> Script:
        draw = self._random.randint
        words, input_tokens = draw(1, 40), draw(10, 5_000)
        # what is reported need not be what was said: reasoning and hidden tokens count as well
        output = words + draw(0, 30) if reported else words
        cached = draw(0, input_tokens) if reported and draw(0, 2) == 0 else 0
        told = usage(input_tokens, cached, output) if reported else None
        pieces = stream_pieces(words, per_write=4, reported=told) if stream else [whole_answer(" word" * words, reported=told)]
        head = _STREAM_HEAD if stream else b""
        return Script(head, pieces, stream, words if stream else 0, input_tokens, cached, output, reported)

    def served(self, marker: str, model: str, script: Script, *, stream: bool) -> Served | None:
        counts = self.counts
        counts.requests += 1
        if script.status != 200:
            counts.failed += 1
        else:
            counts.chunks += script.chunks
            counts.input_tokens += script.input_tokens
            counts.output_tokens += script.output_tokens
        if not self.keep:
            return None
        record = Served(
            marker,
            model,
            stream,
            script.status,
            script.input_tokens,
            script.cached_input_tokens,
            script.output_tokens,
            script.usage_reported,
        )
        self.seen.append(record)
        return record

    def add(self, stream: Stream) -> None:
        """Streams are spread over 20 slots of one millisecond, so that few streams are told a chunk at the same moment."""
        self._slots[self._next_slot].append(stream)
        self._next_slot = (self._next_slot + 1) % _SLOTS

    def opened(self, connection: Connection) -> None:
        self.connections.add(connection)
        self._none_left.clear()

    def lost(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._none_left.set()

    async def close(self) -> None:
        """Hangs up on everybody, and returns when the last connection is gone."""
        for connection in self.connections:
            connection.transport.abort()
        if self.connections:
            await self._none_left.wait()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for number in range(_SLOTS):
            self._arm(loop, number, now + TICK_S * number / _SLOTS)

    def _arm(self, loop: asyncio.AbstractEventLoop, number: int, at: float) -> None:
        def turn() -> None:
            self._slots[number] = [stream for stream in self._slots[number] if stream.step()]
            self._arm(loop, number, max(at + TICK_S, loop.time()))

        loop.call_at(at, turn)


def _fixed(model: str, format_: Format | None = None) -> Script | None:
    kind, _, number = model.partition("-")
    if kind == "whole":
        if format_ is not None:
            answer = _framed(200, orjson.dumps(format_.whole(_TEXT, _INPUT_TOKENS, 40)))
        else:
            answer = whole_answer(_TEXT, reported=usage(_INPUT_TOKENS, 0, 40))
        return Script(b"", [answer], False, 0, _INPUT_TOKENS, 0, 40)
    if kind == "down":
        body = orjson.dumps(
            {"error": {"message": "The server had an error", "type": "server_error", "param": None, "code": None}}
        )
        return Script(b"", [_framed(500, body)], False, 0, 0, 0, 0, status=500)
    if kind in ("lone", "burst", "flood") and number.isdecimal() and int(number) > 0:
        words = int(number)
        per_write = 1 if kind == "lone" else _BURST_EVENTS
        if format_ is not None:
            head, pieces = _stream_head(format_.stream_type), native_pieces(format_, words, per_write=per_write)
        else:
            head, pieces = _STREAM_HEAD, stream_pieces(words, per_write=per_write, reported=usage(_INPUT_TOKENS, 0, words))
        return Script(head, pieces, kind != "flood", words, _INPUT_TOKENS, 0, words)
    return None


class Stream:
    """One stream that ticks."""

    __slots__ = ("at", "connection", "pieces", "record", "transport")

    def __init__(self, connection: Connection, script: Script, record: Served | None) -> None:
        self.connection = connection
        self.transport = connection.transport
        self.pieces = script.pieces
        self.record = record
        self.at = 0

    def step(self) -> bool:
        if self.transport.is_closing():
            return False
        piece = self.pieces[self.at]
        self.at += 1
        self.transport.write(piece)
        if self.at < len(self.pieces):
            return True
        if self.record is not None:
            self.record.whole = True
        self.connection.ended()
        return False


class Connection(asyncio.Protocol):
    def __init__(self, provider: Provider, loop: asyncio.AbstractEventLoop) -> None:
        self.provider = provider
        self.loop = loop
        self.transport: asyncio.Transport
        self._buffer = b""
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's transports are not registered with asyncio's classes
        self.provider.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.provider.lost(self)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if not self._busy:
            self._read()

    def ended(self) -> None:
        self._busy = False
        if self._buffer:
            self._read()

    def _read(self) -> None:
        while self._buffer and not self._busy:
            buffer = self._buffer
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            if buffer.startswith(b"GET "):
                self._buffer = buffer[end + 4 :]
                self._tell(buffer[4 : buffer.index(b" ", 4)])
                continue
            length = _LENGTH.search(buffer, 0, end + 2)
            if length is None:
                self.transport.write(_framed(411, b'{"error":{"message":"content-length is needed"}}'))
                self.transport.close()
                return
            whole = end + 4 + int(length[1])
            if len(buffer) < whole:
                return
            self._buffer = buffer[whole:]
            path_at = buffer.index(b" ") + 1
            self._answer(buffer[path_at : buffer.index(b" ", path_at)], buffer[end + 4 : whole])

    def _tell(self, path: bytes) -> None:
        provider = self.provider
        if path == b"/seen":
            self.transport.write(_framed(200, orjson.dumps(provider.seen)))
        else:
            self.transport.write(_framed(200, orjson.dumps(provider.counts)))

    def _answer(self, path: bytes, body: bytes) -> None:
        found = _MODEL.search(body)
        model = found[1].decode() if found else ""
        model = model.removeprefix("mock/")
        streamed = _STREAM.search(body) is not None
        if path == _CHAT:
            script = self.provider.script(model, stream=streamed)
        else:
            model, streamed, script = self._native(path, model, streamed)
        if script is None:
            self.transport.write(
                _framed(404, b'{"error":{"message":"no such model","type":"invalid_request_error","code":"model_not_found"}}')
            )
            return
        marker = _USER.search(body) if self.provider.keep else None
        record = self.provider.served(marker[1].decode() if marker else "", model, script, stream=streamed)
        if not script.head:
            self.transport.write(script.pieces[0])
            if record is not None:
                record.whole = True
            return
        self.transport.write(script.head)
        self._busy = True
        stream = Stream(self, script, record)
        if script.spaced:
            self.provider.add(stream)
        else:
            self._flood(stream)

    def _native(self, path: bytes, model: str, streamed: bool) -> tuple[str, bool, Script | None]:
        """The model and whether to stream, as the path has them where it does, and what is to be said."""
        for format_ in FORMATS.values():
            call = format_.path.fullmatch(path)
            if call is not None:
                said = call.groupdict()
                if "model" in said:
                    model, streamed = said["model"].decode(), bool(said["stream"])
                return model, streamed, self.provider.native_script(format_, model)
        return model, streamed, self.provider.script(model, stream=streamed)

    def _flood(self, stream: Stream) -> None:
        if stream.step():
            self.loop.call_soon(self._flood, stream)


async def serve(provider: Provider, port: int = 0) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    provider.start(loop)
    return await loop.create_server(lambda: Connection(provider, loop), "127.0.0.1", port, backlog=4096)


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


@dataclass(slots=True)
class Options:
    port: int = 0
    keep: bool = False
    seed: int = 1
    rest: list[str] = field(default_factory=list)


async def _main(options: Options) -> None:
    server = await serve(Provider(seed=options.seed, keep=options.keep), options.port)
    print(orjson.dumps({"port": port_of(server)}).decode(), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until whoever started this is gone
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a cheap provider of chat completions, for measuring what stands before it")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep a record of every answer (GET /seen)")
    parser.add_argument("--seed", type=int, default=1)
    uvloop.run(_main(parser.parse_args(namespace=Options())))
