"""The fast lane: uvicorn's HTTP protocol class, which answers the completion routes itself and hands everything else to ASGI unchanged.

It also holds what an ASGI application comes too late for: deadlines for headers and bodies, limits on their size, and the few forms of a
request that two servers might read differently.

    idle -> head -> body -> answering -> idle        deadlines: keep-alive, 10 s, 30 s and a least rate, the engine's own

uvicorn keeps one cycle a request; `FastCycle` is such a cycle that runs the engine instead of an application, in a fiber of its own.
Pipelining stays uvicorn's.
"""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import httptools
import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.utils import is_ssl
from uvicorn.server import ServerState

from proxy.config.settings import ClientSettings, Settings
from proxy.core.deadlines import NEVER
from proxy.core.errors import (
    BadHttp,
    HeadersTooLarge,
    InternalError,
    ProxyError,
    RequestTooLarge,
    SlowClient,
    UnsupportedMediaType,
    UriTooLong,
)
from proxy.core.ports import HeaderList
from proxy.dialects.openai_request import error_object
from proxy.engine.answers import error_headers
from proxy.engine.attempt import WRITE_STALL_S
from proxy.engine.control import Control
from proxy.server.alive import alive_answer
from proxy.server.doorbell import Caller
from proxy.server.fiber import Fiber
from proxy.server.gateway import Gateway
from proxy.server.refusal import RETRY_AFTER_S

HEAD_S = 10.0
BODY_S = 30.0
BODY_GRACE_S = 5.0
BODY_BYTES_PER_S = 1024
KEEP_ALIVE_S = 75.0
LINGER_S = 1.0
MAX_HEADER_BYTES = 32 * 1024
MAX_HEADERS = 100
MAX_URL_BYTES = 8 * 1024
MAX_PIPELINED = 8
READ_BYTES = 64 * 1024
MAX_AHEAD_BYTES = 64 * 1024  # of bodies that wait for their turn, before no more is read; until then a hang-up is noticed at once
LARGE_BODY_BYTES = 64 * 1024  # not waited for when the request will be refused
_LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]{1,11})(?=\r)", re.IGNORECASE)
OFFER_WITHIN_BYTES = 2048  # of the head: where it stands in practice, and as far as every head can be looked through
_OFFER, _NO_OFFER = b"\r\nUpgrade: h2c\r\n", b"\r\nIgnored: h2c\r\n"
HOT_PATHS = frozenset((b"/v1/chat/completions", b"/chat/completions"))


class FastCycle:
    """One completion on the fast lane: collects the body, runs the engine, and is the engine's `Sink`."""

    __slots__ = (
        "_head",
        "_protocol",
        "body",
        "client",
        "control",
        "disconnected",
        "headers",
        "http_11",
        "keep_alive",
        "message_event",
        "more_body",
        "queued",
        "request_id",
        "response_complete",
        "response_started",
        "seat",
    )

    def __init__(
        self,
        protocol: FastProtocol,
        headers: dict[bytes, bytes],
        client: ClientSettings | None,
        *,
        request_id: str,
        keep_alive: bool,
        http_11: bool,
    ) -> None:
        self._protocol = protocol
        self.headers = headers
        self.client = client
        self.http_11 = http_11
        self._head = b""
        self.request_id = request_id
        self.keep_alive = keep_alive
        self.control: Control | None = None
        self.body = b""
        self.more_body = True
        self.queued = False
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self.seat: str | None = None  # among the requests of its address, where they are counted
        self.message_event = _NO_EVENT  # uvicorn sets it to wake an application; nothing waits for it here

    def run(self) -> None:
        """Called by the event loop, and by nothing that runs in a task."""
        if not self.disconnected:
            gateway = self._protocol.gateway
            line = gateway.line
            if (line.formed or len(gateway.live) >= gateway.governor.room) and gateway.is_full():
                self.refuse(gateway.overloaded())
                self._protocol.has_been_refused()
            elif line.formed:
                self._protocol.running = self  # whoever hangs up now is noticed, also behind what is sent ahead
                line.add(self)
            else:
                self.begin()

    def begin(self) -> None:
        """One for which there is room: likewise."""
        protocol = self._protocol
        gateway = protocol.gateway
        gateway.line.begun += 1
        if gateway.addresses.counts and not self._take_seat(gateway):
            return
        fiber = Fiber(protocol.loop)
        self.control = Control(fiber)
        protocol.running = self
        fiber.start(self._serve(protocol, self.control))

    def _take_seat(self, gateway: Gateway) -> bool:
        peer = self._protocol.client
        try:
            self.seat = gateway.addresses.enter(gateway.addresses.caller(peer[0] if peer else None, self.headers))
        except ProxyError as error:
            self.refuse(error)
            return False
        return True

    def refuse(self, error: ProxyError) -> None:
        """An answer for which nothing was begun. The body has been read, so the connection can stay."""
        self._protocol.gateway.services.meter.rejected(error.code)
        body = orjson.dumps(error_object(error))
        self.response_started = True
        head = self._render(error.status, error_headers(self.request_id, error))
        self._send(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        self._complete()

    async def _serve(self, protocol: FastProtocol, control: Control) -> None:
        try:
            await protocol.gateway.chat(
                self.headers, self.body, self.client, self, control, request_id=self.request_id, admitted=True
            )
        except asyncio.CancelledError:
            if control.cause() is None:
                raise
        except Exception as fault:  # noqa: BLE001 - the reason follows
            # the last line of defence: a fault of our own costs this request, never the process
            protocol.gateway.services.log.error("internal_error", request_id=self.request_id, fault=repr(fault)[:500])
            if not self.response_started and not self.disconnected:
                error = InternalError("The proxy failed on this request.")
                await self.respond(500, error_headers(self.request_id, error), orjson.dumps(error_object(error)))
        finally:
            if self.seat is not None:
                protocol.gateway.addresses.leave(self.seat)
            if not self.response_complete and not self.disconnected:
                protocol.transport.abort()

    # -- Sink

    async def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        self.response_started = True
        self._send(b"%bcontent-length: %d\r\n\r\n%b" % (self._render(status, headers), len(body), body))
        self._complete()

    def start(self, status: int, headers: HeaderList) -> None:
        self.response_started = True
        if self.http_11:
            self._head = self._render(status, headers) + b"transfer-encoding: chunked\r\n\r\n"
        else:
            self.keep_alive = False
            self._head = self._render(status, headers) + b"\r\n"

    def push(self, data: bytes) -> bool:
        if self.http_11:
            data = b"%b%x\r\n%b\r\n" % (self._head, len(data), data)
        elif self._head:
            data = self._head + data
        self._head = b""
        protocol = self._protocol
        if not self.disconnected:
            protocol.transport.write(data)
        return not protocol.flow.write_paused

    async def drain(self) -> None:
        flow = self._protocol.flow
        if flow.write_paused:
            await flow.drain()

    async def finish(self, data: bytes = b"") -> None:
        if not self.http_11:
            data = self._head + data
        elif data:
            data = b"%b%x\r\n%b\r\n0\r\n\r\n" % (self._head, len(data), data)
        else:
            data = self._head + b"0\r\n\r\n"
        self._head = b""
        self._send(data)
        self._complete()

    def abort(self) -> None:
        self.response_complete = True
        if not self.disconnected:
            self._protocol.transport.abort()

    def _render(self, status: int, headers: HeaderList) -> bytes:
        lines = b"\r\n".join(map(b": ".join, (*headers, *self._protocol.server_state.default_headers)))
        return b"%b%b\r\n%b" % (STATUS_LINE[status], lines, b"" if self.keep_alive else b"connection: close\r\n")

    def _send(self, data: bytes) -> None:
        if not self.disconnected:
            self._protocol.transport.write(data)

    def _complete(self) -> None:
        self.response_complete = True
        protocol = self._protocol
        if self.disconnected:
            return
        if self.more_body:
            # answered before the whole request was read: what still comes is not another request
            protocol.linger()
        elif not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()


@dataclass(frozen=True, slots=True)
class _KnownHead:
    """A head that was read and allowed in, as the bytes before and after the digits of its content-length."""

    before: bytes
    after: bytes
    headers: dict[bytes, bytes]
    client: ClientSettings | None
    settings: Settings


def _known_head(data: bytes, cycle: FastCycle, settings: Settings) -> _KnownHead | None:
    """Of a request that came whole in one read; None when its head is not of the kind that can be told by comparing."""
    if not cycle.keep_alive or not cycle.http_11 or b"expect" in cycle.headers or b"transfer-encoding" in cycle.headers:
        return None
    head_end = data.find(b"\r\n\r\n") + 4
    found = _LENGTH.search(data, 0, head_end)
    if found is None or not data.startswith(b"POST ") or len(data) - head_end != len(cycle.body):
        return None
    return _KnownHead(data[: found.start(1)], data[found.end(1) : head_end], cycle.headers, cycle.client, settings)


def _without_offer(data: bytes) -> bytes:
    """HTTP/2 was only offered, as Java's HttpClient and `curl --http2` do with each new connection; who does not take it answers as
    usual (RFC 9110, section 7.8). The parser would leave the body unread, so it gets to know the header by another name."""
    head, end, body = data.partition(b"\r\n\r\n")
    return (head + b"\r\n").replace(_OFFER, _NO_OFFER)[:-2] + end + body


def _address(transport: asyncio.Transport, end: str) -> tuple[str, int] | None:
    """Host and port of `sockname` or `peername`; None of what has none, a socket with a path say."""
    found = transport.get_extra_info(end)
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None


class FastProtocol(HttpToolsProtocol, Caller):
    """Given to uvicorn as `http=`. The gateway comes with the application's lifespan state."""

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        gateway: Gateway = app_state["gateway"]
        self.gateway = gateway
        self.deadline = NEVER
        self._monotonic = gateway.services.clock.monotonic
        self._header_bytes = 0
        self._body_bytes = 0
        self._reading_since: float | None = None  # a request has begun to arrive and is not whole
        self._in_body = False
        self._refusal: ProxyError | None = None
        self._parting: ProxyError | None = None  # what is told once all that came before has been answered
        self._lingering = False
        self._fast: FastCycle | None = None  # whose body is arriving
        self._pieces: list[bytes] = []  # of that, after the first
        self._began: FastCycle | None = None  # by the bytes that are being read
        self.running: Any = None  # whose answer is under way; uvicorn's `cycle` is the one that came last
        self._known: _KnownHead | None = None
        self._seat: str | None = None  # among the connections of its address, where they are counted
        self._alive = False  # the request is `GET /livez`
        self._turned_away = False
        self._refused_at = -NEVER
        self._turn = gateway.turn

    # -- connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.connections.add(self)
        self.transport = cast(asyncio.Transport, self._turn.cork.wrap(transport, self.loop))
        self.flow = FlowControl(transport)
        self.server = _address(transport, "sockname")
        self.client = _address(transport, "peername")
        self.scheme = "https" if is_ssl(transport) else "http"
        self.deadline = self._monotonic() + HEAD_S
        gateway = self.gateway
        gateway.services.deadlines.watch(self)
        if len(self.connections) >= gateway.door.cap:
            gateway.door.full()
        if gateway.addresses.counts:
            self._take_seat()
        if gateway.bell.up:
            gateway.bell.add(self)

    def _take_seat(self) -> None:
        try:
            self._seat = self.gateway.addresses.connect(self.client[0] if self.client else None)
        except ProxyError as error:
            self._tell(error)
            self._lingering = True  # what was sent already is not read
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gateway.services.deadlines.forget(self)
        self.gateway.bell.forget(self)
        if self._seat is not None:
            self.gateway.addresses.disconnect(self._seat)
        cycles: list[Any] = [self.running, self.cycle, *[cycle for cycle, _ in self.pipeline]]
        self.pipeline.clear()
        for cycle in cycles:
            if cycle is None or cycle.response_complete or cycle.disconnected:
                continue
            cycle.disconnected = True
            if not isinstance(cycle, FastCycle):
                cycle.message_event.set()
            elif cycle.control is not None:
                cycle.control.client_gone()
        super().connection_lost(exc)
        # a cycle knows its connection: left to the collector, those of a crowd that goes stay for minutes
        self.cycle = self.running = self._fast = self._began = self._known = None  # type: ignore[assignment]

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        if self.deadline == NEVER:
            self.deadline = self._monotonic() + WRITE_STALL_S

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        if not self._answering():
            if not self._turned_away:
                self.flow.resume_reading()
        elif self._reading_since is None:
            self.deadline = NEVER

    def rest(self) -> None:
        """Until the next turn of the loop. In the midst of this one the doorbell still hears whoever rests."""
        self.transport.pause_reading()

    def read_on(self) -> None:
        if not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    @property
    def descriptor(self) -> int | None:
        raw = self.transport.get_extra_info("socket")
        return None if raw is None or self.scheme == "https" or self.transport.is_closing() else raw.fileno()

    def hear(self, descriptor: int) -> bool:
        """As the event loop does, but in the midst of a long turn of it (`doorbell.py`)."""
        if self.flow.read_paused or self.transport.is_closing():
            return False
        try:
            data = os.read(descriptor, READ_BYTES)
        except OSError:  # the loop will come to it
            return False
        try:
            if data:  # else an end, to which the loop will come, too
                self.data_received(data)
                self._turn.cork.let_go()  # nobody knows when this turn ends
        except Exception as fault:  # noqa: BLE001 - as the loop deals with whatever a protocol raises
            self.loop.call_exception_handler(
                {
                    "message": "a caller's bytes were not dealt with",
                    "exception": fault,
                    "protocol": self,
                    "transport": self.transport,
                }
            )
            self.transport.abort()
        return True

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        known = self._known
        if known is None or self._reading_since is not None or self._answering() or not self._take_known(known, data):
            self._began = None
            self._feed(data)
        turn = self._turn
        turn.left -= 1
        if turn.left <= 0:
            turn.pause(self)  # not before: whoever is heard then may be this caller

    def _feed(self, data: bytes) -> None:
        if self._reading_since is None and data.find(_OFFER, 0, OFFER_WITHIN_BYTES) >= 0:
            data = _without_offer(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(self._refusal or BadHttp("The request could not be read as HTTP/1.1."))
        except httptools.HttpParserUpgrade:  # CONNECT
            self._refuse(BadHttp("Upgrades are not served here."))
        else:
            if self._reading_since is None:
                if self._began is not None:
                    self._known = _known_head(data, self._began, self.gateway.settings)
            elif self.deadline == NEVER or not self._in_body:
                # the first piece of something longer: from now on it has its time to arrive
                self.deadline = self._reading_since + (BODY_GRACE_S if self._in_body else HEAD_S)
        if self._began is not None:
            self._began.run()  # not before: that was inside the parser

    def _take_known(self, known: _KnownHead, data: bytes) -> bool:
        """A client that keeps its connection sends the same head again and again, but for the length of the body: what was read
        of it once need not be read again. True when `data` was exactly one such request."""
        gateway = self.gateway
        if known.settings is not gateway.settings or gateway.draining or not data.startswith(known.before):
            return False
        start = len(known.before)
        end = data.find(b"\r", start, start + 12)
        digits = data[start:end]
        body_at = end + len(known.after)
        if end < 0 or not digits.isdigit() or not data.startswith(known.after, end) or len(data) - body_at != int(digits):
            return False
        if int(digits) > known.settings.server.max_body_bytes:
            return False
        line = gateway.line
        if (line.formed or len(gateway.live) >= gateway.governor.room) and gateway.is_full():
            self._refuse_known(gateway)
            return True
        self.deadline = NEVER
        fast = FastCycle(self, known.headers, known.client, request_id=gateway.new_id(), keep_alive=True, http_11=True)
        fast.body = data[body_at:]
        fast.more_body = False
        self.cycle = fast  # type: ignore[assignment]
        if line.formed:
            self.running = fast
            line.add(fast)
        else:
            fast.begin()
        return True

    def expire(self, now: float) -> None:
        """The deadline of whatever state the connection is in has passed."""
        self.deadline = NEVER
        if self._turned_away:
            self._turned_away = False
            self.deadline = now + KEEP_ALIVE_S
            self.flow.resume_reading()
            self.gateway.bell.add(self)
            return
        since = self._reading_since
        if since is None:
            cycle: Any = self.cycle
            # idle, lingering long enough, or nobody reads; the fast lane's answers have the engine's deadline for that
            if not self._answering() or (self.flow.write_paused and not isinstance(cycle, FastCycle)):
                self._hang_up()
            return
        spent = now - since
        if self._in_body and spent < BODY_S and self._body_bytes >= BODY_BYTES_PER_S * spent:
            self.deadline = min(now + 1.0, since + BODY_S)
            return
        self.gateway.services.meter.count("slow_client")
        self._refuse(SlowClient("The request took too long to arrive."))

    def shutdown(self) -> None:
        """The server is to stop: idle connections go at once, a request that is still arriving is taken and answered first."""
        if self._answering() or self._reading_since is not None:
            cycle: Any = self.cycle
            if cycle is not None:
                cycle.keep_alive = False
        else:
            self.transport.close()

    def _close(self) -> None:
        self.transport.close()
        self.deadline = self._monotonic() + WRITE_STALL_S

    def _hang_up(self) -> None:
        """Closing waits until all is sent, which never comes where nobody reads."""
        if self.transport.is_closing() or self.transport.get_write_buffer_size():
            self.gateway.services.meter.count("slow_reader")
            self.transport.abort()
        else:
            self.transport.close()

    # -- parser callbacks

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._header_bytes = 0
        self._body_bytes = 0
        self._in_body = False
        self._fast = None
        self._alive = False
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop(BadHttp("Too many requests were sent ahead on one connection."))
        self._reading_since = self._monotonic()

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > MAX_URL_BYTES:
            self._stop(UriTooLong(f"The URL is longer than {MAX_URL_BYTES} bytes."))

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self.headers
        headers.append((name.lower(), value))
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES or len(headers) > MAX_HEADERS:
            self._stop(HeadersTooLarge(f"At most {MAX_HEADERS} headers and {MAX_HEADER_BYTES} bytes of them are taken."))

    def on_headers_complete(self) -> None:
        self._in_body = True
        self.deadline = NEVER  # whatever was due for the head; `data_received` sets the body's
        headers = dict(self.headers)
        url = self.url
        if url[:1] != b"/" or b"\\" in url:
            self._stop(BadHttp("The request target must be a path."))
        if b"upgrade" in headers:
            # llhttp leaves the body of such a request unread, so it cannot simply be ignored
            self._stop(BadHttp("Upgrades are not served here: send plain HTTP/1.1, without an Upgrade header."))
        http_version = self.parser.get_http_version()
        if http_version != "1.1" and http_version != "1.0":  # a line without a version is taken for 0.9 by the parser
            self._stop(BadHttp("This version of HTTP is not served: send HTTP/1.1."))
        if b"host" not in headers and http_version == "1.1":
            self._stop(BadHttp("There must be a Host header."))
        if len(headers) != len(self.headers) and [name for name, _ in self.headers].count(b"host") > 1:
            self._stop(BadHttp("There must be one Host header."))
        if b"transfer-encoding" in headers and not self._is_only_chunked():
            self._stop(
                BadHttp("The one transfer coding that is read here is chunked: send the body in it alone, or with its length.")
            )
        gateway = self.gateway
        length = headers.get(b"content-length")
        if length is not None and int(length) > gateway.settings.server.max_body_bytes:
            self._stop(self._too_large())
        path, _, _ = url.partition(b"?")
        page = b"origin" in headers and gateway.settings.server.cors_origins  # what a page needs in an answer, the ASGI door has
        if path not in HOT_PATHS or self.parser.get_method() != b"POST" or page:
            if path == b"/livez" and self._asks_alone(headers):
                self._alive = True
            else:
                self._to_asgi()
            return
        if b"content-encoding" in headers and headers[b"content-encoding"].lower() != b"identity":
            self._stop(UnsupportedMediaType("Compressed requests are not taken: send the body as it is."))
        try:
            gateway.guard.check_host(gateway.settings, headers)
            client = gateway.guard.client(gateway.settings, headers)
        except ProxyError as error:
            self._stop(error)
        if length is None or int(length) > LARGE_BODY_BYTES:
            self._hurry(gateway)
        if headers.get(b"expect", b"").lower() == b"100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        keep_alive = http_version != "1.0" and self.parser.should_keep_alive() and not gateway.draining
        self._fast = FastCycle(
            self, headers, client, request_id=gateway.new_id(), keep_alive=keep_alive, http_11=http_version == "1.1"
        )

    def _is_only_chunked(self) -> bool:
        """Another coding beside it the parser leaves in the body, where the next server might undo it."""
        return all(value.lower() == b"chunked" for name, value in self.headers if name == b"transfer-encoding")

    def _hurry(self, gateway: Gateway) -> None:
        """A large body is not waited for when its request will be refused; behind answers under way it waits for its turn."""
        if len(gateway.live) >= gateway.governor.room and not self._answering():
            self._stop(gateway.overloaded())

    def _asks_alone(self, headers: dict[bytes, bytes]) -> bool:
        """A GET of nothing but itself, on a connection on which nothing else is being answered."""
        plain = headers.keys().isdisjoint((b"content-length", b"transfer-encoding", b"expect"))
        return plain and self.parser.get_method() == b"GET" and not self._answering()

    def _tell_alive(self) -> None:
        """As the route does, but in this turn of the event loop, however much there is to do in the next."""
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self.transport.write(alive_answer(self.gateway.new_id(), self.server_state.default_headers, keep_alive=keep_alive))
        self._turn.cork.let_go()
        if not keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _to_asgi(self) -> None:
        """The rest of uvicorn's own way for a request, from a scope with the headers that were collected."""
        headers, url, expect = self.headers, self.url, False
        super().on_message_begin()
        for pair in headers:
            self.headers.append(pair)
            expect = expect or pair == (b"expect", b"100-continue")
        self.url, self.expect_100_continue = url, expect
        super().on_headers_complete()
        if not self.pipeline:
            self.running = self.cycle
        else:
            self.flow.resume_reading()  # see `on_message_complete`; uvicorn itself pauses again over a large body

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self.gateway.settings.server.max_body_bytes:
            self._stop(self._too_large())
        fast = self._fast
        if fast is None:
            super().on_body(body)
        elif not fast.body:
            fast.body = body  # most come in one piece, which is not copied again
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        self._reading_since = None
        self._in_body = False
        self.deadline = NEVER
        fast = self._fast
        if fast is None:
            if self._alive:
                self._tell_alive()
            else:
                super().on_message_complete()
            return
        self._fast = None
        fast.more_body = False
        if self._pieces:
            fast.body = b"".join([fast.body, *self._pieces])
            self._pieces.clear()
        idle = not self._answering()
        self.cycle = fast  # type: ignore[assignment]
        if idle:
            self._began = fast
        else:
            self.pipeline.appendleft((fast, self.app))  # type: ignore[arg-type]
            # whoever sends ahead may hang up as well, and only who reads notices
            if sum([len(cycle.body) for cycle, _ in self.pipeline]) > MAX_AHEAD_BYTES:
                self.flow.pause_reading()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self.deadline = self._monotonic() + WRITE_STALL_S  # for what is still to be sent
            return
        if self.flow.write_paused:
            self.flow.pause_reading()  # who takes no answers asks no more: until `resume_writing`
        else:
            self.flow.resume_reading()
        if self.pipeline:
            following: Any
            following, app = self.pipeline.pop()
            self.running = following
            if isinstance(following, FastCycle):
                self.loop.call_soon(following.run)  # not at once: this is inside the last one's fiber
            else:
                self._start_asgi_task(following, app)
        elif self._parting is not None:
            error, self._parting = self._parting, None
            self._tell(error)
            self.linger()
        elif self._reading_since is None and not self._lingering:
            self.deadline = self._monotonic() + (WRITE_STALL_S if self.flow.write_paused else KEEP_ALIVE_S)

    def _answering(self) -> bool:
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn's annotation says
        return cycle is not None and not cycle.response_complete

    # -- refusing

    def _too_large(self) -> ProxyError:
        return RequestTooLarge(
            f"The body is larger than {self.gateway.settings.server.max_body_bytes} bytes (`server.max_body`)."
        )

    def _stop(self, error: ProxyError) -> NoReturn:
        """Inside a parser callback: raising stops the parser, and what is remembered becomes the answer."""
        self._refusal = error
        raise error

    def _refuse(self, error: ProxyError) -> None:
        """Answers what cannot be served, after what came before it, and reads no further."""
        self._refusal = None
        self._reading_since = None
        cycle: Any = self.cycle
        if cycle is not None and cycle.more_body:  # only off the fast lane is there a cycle before its request is whole
            if cycle.response_started:
                (self.linger if cycle.response_complete else self._close)()  # it has its answer
                return
            self._give_up(cycle)
        if self._answering():
            self._parting = error
            self._lingering = True
            return
        self._tell(error)
        self.linger()

    def _give_up(self, cycle: Any) -> None:
        """Of a request that will never be whole: to its application, if it has one already, it is as if the caller had left."""
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else self.running
        else:
            cycle.disconnected = cycle.response_complete = True
            cycle.message_event.set()

    def _tell(self, error: ProxyError) -> None:
        """The last answer on this connection."""
        self.gateway.services.meter.rejected(error.code)
        body = orjson.dumps(error_object(error))
        lines = [STATUS_LINE[error.status]]
        lines += [b"%b: %b\r\n" % pair for pair in error_headers(self.gateway.new_id(), error)]
        lines.append(b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        self.transport.write(b"".join(lines))

    def _refuse_known(self, gateway: Gateway) -> None:
        """One for which there is no room, and of which nothing was made."""
        server_state = self.server_state
        server_state.total_requests += 1
        self.transport.write(gateway.refuse(server_state.default_headers))
        self.deadline = self._monotonic() + (WRITE_STALL_S if self.flow.write_paused else KEEP_ALIVE_S)
        self.has_been_refused()

    def has_been_refused(self) -> None:
        """Because there was no room. Where that takes too much time, whoever comes again without having waited is made to."""
        now = self._monotonic()
        if self.gateway.governor.overwhelmed and now - self._refused_at < 2 * RETRY_AFTER_S:
            self.turn_away()
        self._refused_at = now

    def turn_away(self) -> None:
        """The last answer said when to come again. Until then nothing is read here."""
        if not self.transport.is_closing() and not self.pipeline and self._reading_since is None:
            self._turned_away = True
            self.flow.pause_reading()
            self.gateway.bell.forget(self)
            self.deadline = self._monotonic() + RETRY_AFTER_S

    def linger(self) -> None:
        """Closing while bytes are still coming would reset the connection and take the answer with it: let them come a moment, unread."""
        self._lingering = True
        self._reading_since = None
        self.deadline = self._monotonic() + LINGER_S
        if self.transport.can_write_eof():
            self.transport.write_eof()


class _NoEvent(asyncio.Event):
    """Set by uvicorn on every cycle when its connection ends."""

    def set(self) -> None:
        return


_NO_EVENT = _NoEvent()
