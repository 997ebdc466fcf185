"""The benchmark's upstream, which also keeps a record of every request, and answers badly where it is asked to.

`python -m tests.soak.upstream` is started as the other and knows its models, and by name:

    hold            no answer, ever
    primary         as `mixed`, or reset before the head while it is dead (`GET /dead`, `GET /well`)
    reset           reset before the head
    early-cut       a stream's role, then the end of the connection; of a whole answer half
    cut             a stream of 20 words whose connection ends after the tenth, without an end of any kind; whole answers are whole
    html            502 with a page
    bad-json        200 with half of an object
    echo-N          N with the key that it was sent, in the body and in headers; echo-stream: as an error event after three words
    bomb            200 with 200 MiB of nothing in 200 KiB of gzip, whose checksum is wrong: only who unpacks all of it finds that out
    line            a stream, or a body, of 48 MiB in one line
    endless-N       words of 16 KiB without end, one each N ms

`GET /seen` lists what was asked. `GET /counts` sums it up, with how many are under way (`busy`), had a socket that took no more (`full`)
and were hung up on (`left`), and takes no longer the more there were.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import sys
import time
import zlib
from dataclasses import asdict, dataclass

import orjson
import uvloop

from tests.bench.upstream import Connection, Provider, Script, Served, port_of, stream_pieces

_KEY = re.compile(rb"\r\nauthorization: *Bearer ([^\r]*)", re.IGNORECASE)
_MODEL = re.compile(rb'"model" *: *"([^"]*)"')
_STREAM = re.compile(rb'"stream" *: *true')
_USER = re.compile(rb'"user" *: *"([^"]*)"')
_HEAD = b"HTTP/1.1 %d Said So\r\ncontent-type: %b\r\n%b\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n"
_SSE = b"text/event-stream"
_LINE_PIECE = b"x" * 65_536
_LINE_PIECES = 768
_ENDLESS = 1 << 40
_SMALL_BUFFER = 65_536  # or it takes the kernel some megabytes to be full


def _event(delta: bytes) -> bytes:
    return (
        b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
        b'"choices":[{"index":0,"delta":{%b},"finish_reason":null}]}\n\n' % delta
    )


_ROLE = _event(b'"role":"assistant"')
_LONG_WORD = _event(b'"content":"%b"' % (b"w" * 16_384))


def _bomb(mebibytes: int) -> bytes:
    """The second mebibyte is packed as every one behind it, so only two are."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    first, second = (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + second * (mebibytes - 1) + packer.flush()


BOMB = _bomb(200)


@dataclass(slots=True)
class Noted(Served):
    """Monotonic seconds of this host; `gone`: the peer hung up before it had all of the answer."""

    arrived: float = 0.0
    gone: float = 0.0
    stalled: float = 0.0  # when the socket last took no more


class Keeper(Provider):
    """Keeps `Noted`s. `dead`: the primary is."""

    dead = False

    def __init__(self) -> None:
        super().__init__(keep=True)
        self.busy = self.full = self.left = 0

    def served(self, marker: str, model: str, script: Script, *, stream: bool) -> Noted:
        made = super().served(marker, model, script, stream=stream)
        assert made is not None
        noted = Noted(**asdict(made), arrived=time.monotonic())
        self.seen[-1] = noted
        return noted


class Scripted(Connection):
    provider: Keeper

    def __init__(self, provider: Keeper, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(provider, loop)
        self._noted: Noted | None = None
        self._key = b""
        self._piece = b""
        self._left = 0
        self._pause_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False

    def data_received(self, data: bytes) -> None:
        key = _KEY.search(data)
        if key is not None:
            self._key = key[1]
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        noted = self._noted
        if noted is not None and not noted.whole:
            noted.gone = time.monotonic()
            self.provider.left += 1
        self._finished()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self._paused = True
        if self._noted is not None:
            self.provider.full += not self._noted.stalled
            self._noted.stalled = time.monotonic()

    def resume_writing(self) -> None:
        self._paused = False
        if self._timer is None:
            self._pump()

    def ended(self) -> None:
        self._finished()
        super().ended()

    def _finished(self) -> None:
        if self._noted is not None:
            self._noted = None
            self.provider.busy -= 1

    def _tell(self, path: bytes) -> None:
        if path in (b"/dead", b"/well"):
            self.provider.dead = path == b"/dead"
        if path == b"/counts":
            provider = self.provider
            now = {"busy": provider.busy, "full": provider.full, "left": provider.left}
            self._say(200, orjson.dumps({**asdict(provider.counts), **now}))
        else:
            super()._tell(path)

    def _answer(self, path: bytes, body: bytes) -> None:
        found = _MODEL.search(body)
        model = found[1].decode() if found else ""
        if model == "primary" and not self.provider.dead:
            super()._answer(path, body.replace(b'"primary"', b'"mixed"', 1))
            self.provider.seen[-1].model = model
        elif model in _ODD:
            marker = _USER.search(body)
            streamed = _STREAM.search(body) is not None
            status = 200 if model in ("hold", "cut", "endless-2", "endless-20") else 500
            script = Script(b"", [], False, 0, 0, 0, 0, status=status)
            noted = self.provider.served(marker[1].decode() if marker else "", model, script, stream=streamed)
            self._start(noted)
            _ODD[model](self, noted)
        else:
            super()._answer(path, body)
        last = self.provider.seen[-1] if self.provider.seen else None
        if self._busy and self._noted is None and isinstance(last, Noted):
            self._start(last)

    def _start(self, noted: Noted) -> None:
        self._noted = noted
        self.provider.busy += 1

    # -- what becomes of it

    def _say(self, status: int, body: bytes, kind: bytes = b"application/json", more: bytes = b"") -> None:
        self.transport.write(_HEAD % (status, kind, b"content-length: %d\r\n%b" % (len(body), more)) + body)
        self._finished()

    def hold(self, _: Noted) -> None:
        self._busy = True

    def reset(self, _: Noted) -> None:
        """RST instead of FIN."""
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._finished()
        self.transport.abort()

    def early_cut(self, noted: Noted) -> None:
        if noted.stream:
            self.transport.write(_HEAD % (200, _SSE, _CHUNKED) + _chunk(_ROLE))
        else:
            self.transport.write(_HEAD % (200, b"application/json", b"content-length: 400\r\n") + b'{"id":')
        self._finished()
        self.transport.close()

    def cut(self, noted: Noted) -> None:
        pieces = stream_pieces(20, per_write=10, reported=None)
        noted.output_tokens = 10
        self.transport.write(_HEAD % (200, _SSE, _CHUNKED) + pieces[0])
        self._finished()
        self.transport.close()

    def html(self, _: Noted) -> None:
        self._say(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>", b"text/html")

    def bad_json(self, _: Noted) -> None:
        self._say(200, b'{"id": "chatcmpl-1", "choices": [{"index": 0,')

    def echo(self, noted: Noted) -> None:
        key = self._key
        _, _, how = noted.model.partition("-")
        error = b'{"error":{"message":"no good: %b, Bearer %b!","type":"invalid_request_error","param":"%b","code":"%b"}}' % (
            (key,) * 4
        )
        headers = b"x-key: %b\r\nset-cookie: key=%b\r\nopenai-organization: %b\r\n" % ((key,) * 3)
        if how == "stream" and noted.stream:
            pieces = stream_pieces(3, per_write=10, reported=None)
            self.transport.write(
                _HEAD % (200, _SSE, _CHUNKED + headers) + pieces[0] + _chunk(b"data: %b\n\n" % error) + b"0\r\n\r\n"
            )
            self._finished()
        else:
            self._say(int(how) if how.isdecimal() else 500, error, more=headers)

    def bomb(self, noted: Noted) -> None:
        self._say(200, BOMB, _SSE if noted.stream else b"application/json", b"content-encoding: gzip\r\n")

    def line(self, noted: Noted) -> None:
        kind = _SSE if noted.stream else b"application/json"
        self.transport.write(_HEAD % (200, kind, _CHUNKED) + _chunk(b'data: {"choices": [{"delta": {"content": "'))
        self._busy, self._piece, self._left = True, _chunk(_LINE_PIECE), _LINE_PIECES
        self._pump()

    def endless(self, noted: Noted) -> None:
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SMALL_BUFFER)
        self.transport.write(_HEAD % (200, _SSE, _CHUNKED) + _chunk(_ROLE))
        self._busy, self._piece, self._left = True, _chunk(_LONG_WORD), _ENDLESS
        self._pause_s = int(noted.model.removeprefix("endless-")) / 1_000
        self._pump()

    def _pump(self) -> None:
        self._timer = None
        if self._left and not self._paused and not self.transport.is_closing():
            self._left -= 1
            self.transport.write(self._piece)
            self._timer = self.loop.call_later(self._pause_s, self._pump)


_ODD = {
    "hold": Scripted.hold,
    "primary": Scripted.reset,
    "reset": Scripted.reset,
    "early-cut": Scripted.early_cut,
    "cut": Scripted.cut,
    "html": Scripted.html,
    "bad-json": Scripted.bad_json,
    "bomb": Scripted.bomb,
    "line": Scripted.line,
    "endless-2": Scripted.endless,
    "endless-20": Scripted.endless,
    **{f"echo-{how}": Scripted.echo for how in ("200", "400", "401", "500", "stream")},
}


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _main() -> None:
    loop = asyncio.get_running_loop()
    provider = Keeper()
    provider.start(loop)
    server = await loop.create_server(lambda: Scripted(provider, loop), "127.0.0.1", 0, backlog=4096)
    print(orjson.dumps({"port": port_of(server)}).decode(), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # until whoever started this is gone
    server.close()


if __name__ == "__main__":
    uvloop.run(_main())
