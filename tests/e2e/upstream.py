"""A provider that says exactly the bytes that a test wants: well-behaved, lying, or silent.

It runs on an event loop of its own in a thread. What it does with a request depends on the model's name: `SCRIPTS[model]`, and
`ok` for every other. It counts requests by model, keeps the last body and headers of each, and notes when a peer hung up.
`gate(model)` holds the `hold…` scripts until the test lets them go on.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

PAUSE_S = 0.05  # between the pieces of what drips or pings
READ_S = 0.1  # for the proxy to have read what was sent: a reset throws away what it has not
FOREVER_S = 20.0  # nothing is waited for longer: by then a test has failed
TEXT = ("Hello", " from", " upstream")
PROMPT_TOKENS, COMPLETION_TOKENS = 11, 7
USAGE = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS, "total_tokens": 18}

JSON = {"content-type": "application/json"}
SSE = {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}
DONE = b"data: [DONE]\n\n"


class PeerGone(Exception):
    """The proxy closed the connection while a script was under way."""


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
        await self.json(status, {"error": {"message": "the upstream says no", "type": None, "param": None, "code": None, **fields}}, headers)

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
        done, _ = await asyncio.wait((gate, silence), return_when=asyncio.FIRST_COMPLETED)
        if gate in done:
            silence.cancel()
            await asyncio.gather(silence, return_exceptions=True)
        else:
            silence.result()


def rendered_head(status: int, headers: dict[str, str], version: str = "1.1") -> bytes:
    lines = [f"HTTP/{version} {status} Said So", *[f"{name}: {value}" for name, value in headers.items()]]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _chunk(choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}


def role() -> dict[str, Any]:
    return _chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])


def delta(text: str, **more: Any) -> dict[str, Any]:
    return _chunk([{"index": 0, "delta": {"content": text, **more}, "finish_reason": None}])


def finish(reason: str = "stop") -> dict[str, Any]:
    return _chunk([{"index": 0, "delta": {}, "finish_reason": reason}])


def usage(value: dict[str, Any] = USAGE) -> dict[str, Any]:
    return _chunk([], usage=value)


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


# -- scripts

Script = Callable[[Call], Awaitable[None]]
SCRIPTS: dict[str, Script] = {}


def script(function: Script) -> Script:
    SCRIPTS[function.__name__] = function
    return function


@script
async def ok(call: Call) -> None:
    if call.stream:
        await call.content()
        await call.rest()
    else:
        await call.json(200, completion())


@script
async def reset_before_headers(call: Call) -> None:
    call.reset()


@script
async def closed_before_headers(call: Call) -> None:
    call.close()


@script
async def reset_after_headers(call: Call) -> None:
    await call.head(200, SSE if call.stream else {**JSON, "content-length": "400"})
    await asyncio.sleep(READ_S)
    call.reset()


@script
async def reset_before_content(call: Call) -> None:
    await call.begin_stream()
    await call.event(role())
    await asyncio.sleep(READ_S)
    call.reset()


@script
async def reset_after_content(call: Call) -> None:
    await call.content()
    await asyncio.sleep(READ_S)
    call.reset()


@script
async def cut_after_content(call: Call) -> None:
    """Closed in good order, but in the middle of the chunked framing."""
    await call.content()
    call.close()


@script
async def cut_before_content(call: Call) -> None:
    await call.begin_stream()
    await call.event(role())
    call.close()


@script
async def short_body(call: Call) -> None:
    body = json.dumps(completion()).encode()
    await call.head(200, {**JSON, "content-length": str(len(body))})
    await call.send(body[:40])
    call.close()


@script
async def short_chunked_body(call: Call) -> None:
    await call.head(200, {**JSON, "transfer-encoding": "chunked"})
    await call.chunk(json.dumps(completion()).encode()[:40])
    call.close()


@script
async def ends_before_content(call: Call) -> None:
    """The framing is whole, the answer is not."""
    await call.begin_stream()
    await call.event(role())
    await call.end_stream()


@script
async def ends_after_content(call: Call) -> None:
    await call.content()
    await call.end_stream()


@script
async def done_after_content(call: Call) -> None:
    """An end mark without a finish reason."""
    await call.content()
    await call.chunk(DONE)
    await call.end_stream()


@script
async def missing_done(call: Call) -> None:
    await call.content(3)
    await call.event(finish())
    await call.event(usage())
    await call.end_stream()


# time


@script
async def stall_before_head(call: Call) -> None:
    await call.silence()


@script
async def stall_after_head(call: Call) -> None:
    await call.head(200, SSE if call.stream else {**JSON, "content-length": "400"})
    await call.silence()


@script
async def pings_only(call: Call) -> None:
    await call.begin_stream()
    while True:
        await call.chunk(b": still here\n\n")
        await asyncio.sleep(PAUSE_S)


@script
async def stall_after_content(call: Call) -> None:
    await call.content()
    await call.silence()


@script
async def drip(call: Call) -> None:
    """A byte at a time, and never a whole event."""
    if call.stream:
        await call.content()
    else:
        await call.head(200, {**JSON, "transfer-encoding": "chunked"})
    while True:
        await call.chunk(b" ")
        await asyncio.sleep(PAUSE_S)


@script
async def endless(call: Call) -> None:
    await call.content()
    while True:
        await call.event(delta("and so on "))
        await asyncio.sleep(PAUSE_S)


# limits


def _limited(name: str, status: int, headers: Callable[[], dict[str, str]], **fields: Any) -> None:
    async def refuse(call: Call) -> None:
        await call.error(status, headers(), **{"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded", **fields})

    SCRIPTS[name] = refuse


def _ago(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


def _rfc3339(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


_limited("limit_seconds", 429, lambda: {"retry-after": "7"})
_limited("limit_fraction", 429, lambda: {"retry-after": "2.5"})
# the upstream's clock is an hour behind: its own date is what counts
_limited("limit_date", 429, lambda: {"date": _ago(-3600), "retry-after": _ago(-3600 + 20)})
_limited("limit_ms", 429, lambda: {"retry-after-ms": "1500", "retry-after": "9"})
_limited("limit_azure_ms", 429, lambda: {"x-ms-retry-after-ms": "1500"})
_limited("limit_reset_go", 429, lambda: {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m6s"})
_limited("limit_reset_go_ms", 429, lambda: {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "2500ms"})
_limited("limit_reset_epoch", 429, lambda: {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": f"{time.time() + 40:.0f}"})
_limited("limit_reset_epoch_ms", 429, lambda: {"x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{(time.time() + 40) * 1000:.0f}"})
_limited(
    "limit_reset_rfc3339",
    429,
    lambda: {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": _rfc3339(40)},
)
_limited("limit_reset_not_spent", 429, lambda: {"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "6m0s"})
_limited("limit_google", 429, dict, details=[{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "33s"}])
_limited("limit_absurd", 429, lambda: {"retry-after": "1000000000"})
_limited("limit_negative", 429, lambda: {"retry-after": "-5"})
_limited("limit_nan", 429, lambda: {"retry-after": "NaN"})
_limited("limit_unsaid", 429, dict)
_limited("no_quota", 429, dict, message="You exceeded your current quota", type="insufficient_quota", code="insufficient_quota")
_limited("payment_required", 402, dict, message="Insufficient balance", code=None)
_limited("overloaded_529", 529, dict, message="Overloaded", type="overloaded_error", code=None)
_limited("overloaded_503", 503, dict, message="Busy", type=None, code=None)
_limited("overloaded_503_wait", 503, lambda: {"retry-after": "9"}, message="Busy", type=None, code=None)


# what a provider says is wrong


def _refused(status: int, name: str | None = None, **fields: Any) -> None:
    async def refuse(call: Call) -> None:
        await call.error(status, **fields)

    SCRIPTS[name or f"status_{status}"] = refuse


for _status in (408, 409, 410, 425, 500, 502, 504, 520, 524):
    _refused(_status, message=f"The upstream's own words about {_status}")
for _status in (405, 413, 415, 422):
    _refused(_status, message="The upstream's own words", type="invalid_request_error", param="messages", code="odd_request")
_refused(400, message="Unknown value of `temperature`", type="invalid_request_error", param="temperature", code="invalid_value")
_refused(400, "context_length", message="maximum context length is 8192 tokens", code="context_length_exceeded")
_refused(400, "content_policy", message="flagged by our content policy", code="content_policy_violation")
_refused(401, message="Incorrect API key provided", code="invalid_api_key")
_refused(403, message="Your organisation may not", code=None)
_refused(404, message="The model `x` does not exist", code="model_not_found")


@script
async def key_echoed(call: Call) -> None:
    key = call.headers.get("authorization", "").removeprefix("Bearer ")
    await call.error(401, message=f"Incorrect API key provided: {key}. Mind the key {key}!", code=key)


@script
async def key_echoed_in_400(call: Call) -> None:
    key = call.headers.get("authorization", "").removeprefix("Bearer ")
    await call.error(400, message=f"Bad request with {key}", param=key, code=key)


@script
async def html_502(call: Call) -> None:
    await call.whole(502, b"<html><body><h1>502 Bad Gateway</h1>secret-hostname</body></html>", {"content-type": "text/html"})


@script
async def redirect(call: Call) -> None:
    await call.whole(302, b"", {"location": "http://169.254.169.254/latest/meta-data/"})


# errors dressed as answers


@script
async def masked_error(call: Call) -> None:
    await call.json(200, {"error": {"message": "Internal failure", "type": "server_error", "code": None}})


@script
async def masked_limit(call: Call) -> None:
    await call.json(200, {"error": {"message": "Too many requests", "type": "rate_limit_error", "code": 429}})


@script
async def masked_auth(call: Call) -> None:
    await call.json(200, {"error": {"message": "No auth credentials found", "code": 401}})


@script
async def error_event_first(call: Call) -> None:
    await call.begin_stream()
    await call.event(role())
    await call.event({"error": {"message": "Overloaded", "type": "overloaded_error"}})
    await call.end_stream()


@script
async def error_event_after_content(call: Call) -> None:
    await call.content()
    await call.event({"error": {"message": "Overloaded, says secret-hostname", "type": "overloaded_error"}})
    await call.end_stream()


# answers that are none


@script
async def empty_body(call: Call) -> None:
    await call.whole(200, b"", JSON)


@script
async def empty_stream(call: Call) -> None:
    await call.begin_stream()
    await call.end_stream()


@script
async def only_done(call: Call) -> None:
    await call.begin_stream()
    await call.chunk(DONE)
    await call.end_stream()


@script
async def no_choices(call: Call) -> None:
    if call.stream:
        await call.begin_stream()
        await call.event(_chunk([]))
        await call.chunk(DONE)
        await call.end_stream()
    else:
        await call.json(200, completion(choices=[]))


@script
async def null_body(call: Call) -> None:
    await call.whole(200, b"null")


@script
async def bad_json(call: Call) -> None:
    await call.whole(200, b'{"id": "chatcmpl-1", "choices": [{"index": 0,')


@script
async def html_200(call: Call) -> None:
    await call.whole(200, b"<html>Sign in to the Wi-Fi of secret-hostname</html>", {"content-type": "text/html; charset=utf-8"})


@script
async def gzip_unasked(call: Call) -> None:
    await call.whole(200, gzip.compress(json.dumps(completion()).encode()), {**JSON, "content-encoding": "gzip"})


@script
async def giant_event_first(call: Call) -> None:
    await call.begin_stream()
    await _giant(call)


@script
async def giant_event_after_content(call: Call) -> None:
    await call.content()
    await _giant(call)


async def _giant(call: Call) -> None:
    await call.chunk(b'data: {"choices": [{"delta": {"content": "')
    for _ in range(20):
        await call.chunk(b"x" * 65536)
    await call.silence()


@script
async def giant_body(call: Call) -> None:
    await call.head(200, {**JSON, "transfer-encoding": "chunked"})
    piece = b"x" * (1 << 20)
    for _ in range(40):
        await call.chunk(piece)
    await call.end_stream()


@script
async def interim_flood(call: Call) -> None:
    await call.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 2000)
    await call.silence()


@script
async def giant_head(call: Call) -> None:
    await call.send(rendered_head(200, {**JSON, **{f"x-{number}": "y" * 8000 for number in range(12)}}))
    await call.silence()


@script
async def not_http(call: Call) -> None:
    await call.send(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n")
    await call.silence()


@script
async def malformed_events(call: Call) -> None:
    await call.content()
    for number in range(4):
        await call.chunk(b"data: {not json %d\n\n" % number)
    await call.rest()


# oddities that are answers all the same


@script
async def one_malformed_event(call: Call) -> None:
    await call.content()
    await call.chunk(b"data: {not json\n\n")
    await call.rest()


@script
async def bad_utf8(call: Call) -> None:
    if call.stream:
        await call.content()
        await call.chunk(event(delta("§")).replace(b"\\u00a7", b"\xff\xfe"))
        await call.rest()
    else:
        await call.whole(200, json.dumps(completion("§")).encode().replace(b"\\u00a7", b"\xff\xfe"))


@script
async def lone_surrogate(call: Call) -> None:
    if call.stream:
        await call.content()
        await call.chunk(event(delta("§")).replace(b"\\u00a7", b"\\ud83d"))
        await call.rest()
    else:
        await call.whole(200, json.dumps(completion("§")).encode().replace(b"\\u00a7", b"\\ud83d"))


@script
async def split_utf8(call: Call) -> None:
    """A character cut in two by the network is no fault."""
    await call.content()
    whole = json.dumps(delta("é€🎉"), ensure_ascii=False).encode()
    whole = b"data: " + whole + b"\n\n"
    cut = whole.index("🎉".encode()) + 2
    await call.chunk(whole[:cut])
    await asyncio.sleep(PAUSE_S)
    await call.chunk(whole[cut:])
    await call.rest()


@script
async def json_to_stream(call: Call) -> None:
    await call.json(200, completion())


@script
async def empty_text(call: Call) -> None:
    if call.stream:
        await call.begin_stream()
        await call.event(role())
        await call.event(finish())
        await call.event(usage())
        await call.chunk(DONE)
        await call.end_stream()
    else:
        await call.json(200, completion(""))


@script
async def close_delimited(call: Call) -> None:
    """HTTP/1.0: the end of the body is the end of the connection."""
    if call.stream:
        await call.send(rendered_head(200, {"content-type": "text/event-stream"}, "1.0"))
        for value in (role(), delta("".join(TEXT)), finish(), usage()):
            await call.send(event(value))
        await call.send(DONE)
    else:
        await call.send(rendered_head(200, JSON, "1.0") + json.dumps(completion()).encode())
    call.close()


@script
async def no_usage(call: Call) -> None:
    if call.stream:
        await call.content(3)
        await call.event(finish())
        await call.chunk(DONE)
        await call.end_stream()
    else:
        await call.json(200, {key: value for key, value in completion().items() if key != "usage"})


@script
async def absurd_usage(call: Call) -> None:
    absurd = {"prompt_tokens": 90_000_000, "completion_tokens": 7, "total_tokens": 90_000_007}
    if call.stream:
        await call.content(3)
        await call.event(finish())
        await call.event(usage(absurd))
        await call.chunk(DONE)
        await call.end_stream()
    else:
        await call.json(200, completion(usage=absurd))


@script
async def negative_usage(call: Call) -> None:
    await call.json(200, completion(usage={"prompt_tokens": -4, "completion_tokens": 7, "total_tokens": 3}))


@script
async def limit_spent_by_this(call: Call) -> None:
    """A good answer which says that it was the last for a while."""
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m6s"}
    await call.json(200, completion(), headers)


@script
async def stale(call: Call) -> None:
    """Closes a connection that has served before as soon as it is used again."""
    if call.nth > 1:
        call.close()
    else:
        await ok(call)


@script
async def fails_once(call: Call) -> None:
    """A 500, then good answers; with `limit_once` a short rate limit."""
    if call.upstream.requests[call.model] == 1:
        await call.error(500)
    else:
        await ok(call)


@script
async def limit_once(call: Call) -> None:
    if call.upstream.requests[call.model] == 1:
        await call.error(429, {"retry-after-ms": "300"}, code="rate_limit_exceeded")
    else:
        await ok(call)


@script
async def wants_fine_key(call: Call) -> None:
    if call.headers.get("authorization") == "Bearer sk-fine":
        await ok(call)
    else:
        await call.error(401, message="Incorrect API key provided", code="invalid_api_key")


# held until the test says so


@script
async def hold_before_head(call: Call) -> None:
    await call.held()
    await ok(call)


@script
async def hold_before_content(call: Call) -> None:
    await call.begin_stream()
    await call.event(role())
    await call.held()
    await call.event(delta(TEXT[0]))
    await call.rest()


@script
async def hold_after_content(call: Call) -> None:
    await call.content()
    await call.held()
    await call.rest()


# -- the server


@dataclass(slots=True)
class Upstream:
    """`keep_alive` False: every connection serves one request."""

    port: int = 0
    keep_alive: bool = True
    connections: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    bodies: dict[str, dict[str, Any]] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
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
        return f"http://127.0.0.1:{self.port}/v1"

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
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(ready)), name="upstream", daemon=True)
        self._thread.start()
        assert ready.wait(5)

    def stop(self) -> None:
        assert self._loop is not None
        assert self._stop is not None
        assert self._thread is not None
        for gate in self._gates.values():
            if not gate.done():
                gate.set_result(None)
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _run(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            self._writers.add(writer)
            task = asyncio.ensure_future(self._serve(reader, writer, self.connections))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        nth = 0
        try:
            while True:
                nth += 1
                call = await self._read(reader, writer, connection, nth)
                try:
                    await SCRIPTS.get(self.aliases.get(call.model, call.model), ok)(call)
                except PeerGone:
                    self.hung_up_at[call.model].append(time.monotonic())
                    return
                if not call.keep:
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
            return  # it went, or it does not speak HTTP
        except Exception as fault:  # a test looks at these: a fault of the fake must not pass for one of the proxy
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
        body = json.loads(await reader.readexactly(int(headers.get("content-length", "0"))) or b"{}")
        model = str(body.get("model", first))
        self.requests[model] += 1
        self.bodies[model] = body
        self.headers[model] = {"request-line": first, **headers}
        return Call(self, model, body, headers, connection, nth, reader, writer)
