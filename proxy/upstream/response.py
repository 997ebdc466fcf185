"""One HTTP/1.1 response as it arrives: bytes in, head and body out (RFC 9112). No I/O here; `connection.py` feeds it.

    waiting for the head ── final head ──> body ── message complete ──> ended
          │  ^                              │
          └──┘ up to 8 interim 1xx          └── fault: what was received is read first, then the fault is raised

Framing is httptools' (llhttp). What it leaves open is refused here: content-length beside transfer-encoding, a transfer
coding other than `chunked`, an upgrade, heads and trailers without end. A fault is remembered as (class, message) and
becomes an exception only where it is raised, so that no traceback keeps a connection alive.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import chain
from typing import Any, Protocol

import httptools

from proxy.core.errors import ErrorClass, UpstreamError

MAX_HEAD_BYTES = 64 * 1024  # interim heads and the final one together; trailers and chunk extensions by themselves
MAX_HEADERS = 200
MAX_INTERIM = 8
HIGH_WATER_BYTES = 64 * 1024  # of body not yet read: beyond it the socket is not read either


class Carrier(Protocol):
    """What a response asks of the connection that it comes over."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def release(self, response: NativeResponse) -> None: ...


class Waiter(Protocol):
    """The part of a future that is needed here: awaited by the reader, told by the connection, perhaps running the reader at once."""

    def __await__(self) -> Generator[Any, None, None]: ...
    def done(self) -> bool: ...
    def set_result(self, result: None, /) -> None: ...
    def set_exception(self, exception: BaseException, /) -> None: ...


class NativeResponse:
    """`core.ports.UpstreamResponse`, and the target of the parser's callbacks."""

    __slots__ = (
        "_announced_bytes",
        "_carrier",
        "_chunked",
        "_chunks",
        "_closed",
        "_consume",
        "_ended",
        "_fault",
        "_fields",
        "_head_bytes",
        "_interim",
        "_new_waiter",
        "_parser",
        "_paused",
        "_silent_bytes",
        "_started",
        "_stopped",
        "_taken_bytes",
        "_waiter",
        "headers",
        "keep_alive",
        "on_body",
        "reused",
        "status",
    )

    def __init__(self, carrier: Carrier, new_waiter: Callable[[], Waiter], *, reused: bool) -> None:
        self.status = 0  # until the final head is complete
        self.headers: list[tuple[bytes, bytes]] = []
        self.reused = reused
        self.keep_alive = False  # known when the message is complete: the connection may serve again
        self._carrier = carrier
        self._new_waiter = new_waiter
        self._waiter: Waiter | None = None
        self._chunks: list[bytes] = []  # of the body, not yet read
        self._taken_bytes = 0  # of the body, read
        self.on_body = self._chunks.append  # for the parser, which calls it for every piece: no Python in between
        self._silent_bytes = 0  # fed since the last body byte, without one
        self._fields: list[tuple[bytes, bytes]] = []  # of the head, as they come
        self._head_bytes = 0
        self._announced_bytes: int | None = None
        self._interim = 0
        self._chunked = self._started = self._ended = self._paused = self._closed = self._stopped = False
        self._consume: Callable[[bytes], bool] | None = None
        self._fault: tuple[ErrorClass, str] | None = None
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    # -- for the caller ------------------------------------------------------------------------------------------------

    async def head(self) -> None:
        """Returns when `status` and `headers` are there. Raises UpstreamError."""
        if not self.status and not self._ended:
            self._waiter = waiter = self._new_waiter()
            try:
                await waiter
            finally:
                self._waiter = None
        if not self.status:
            self._raise()

    async def read(self) -> bytes:
        """The next bytes of the body, as many as are there; `b""` at its end. Raises UpstreamError."""
        if not self._chunks and not self._ended:
            self._waiter = waiter = self._new_waiter()
            try:
                await waiter
            finally:
                self._waiter = None
        if self._chunks:
            return self._take()
        if self._fault is not None:
            self._raise()
        return b""

    def at_hand(self) -> bytes | None:
        if self._ended and self._fault is None and not self._taken_bytes:
            return self._take() if self._chunks else b""
        return None

    async def pump(self, consume: Callable[[bytes], bool]) -> bool:
        """The body to `consume` as it arrives, straight from the socket's callback, until it returns False; true at the body's end.

        Raises UpstreamError, and what `consume` raised.
        """
        while True:
            if self._chunks:
                if not consume(self._take()):
                    return False
            elif self._ended:
                if self._fault is not None:
                    self._raise()
                return True
            else:
                self._consume = consume
                self._waiter = waiter = self._new_waiter()
                try:
                    await waiter
                finally:
                    self._waiter = self._consume = None
                if self._stopped:
                    self._stopped = False
                    return False

    def _take(self) -> bytes:
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._taken_bytes += len(data)
        if self._paused:
            self._paused = False
            self._carrier.resume()
        return data

    def close(self) -> None:
        """Idempotent. A response that came whole leaves its connection to the next request, any other takes it down."""
        if not self._closed:
            self._closed = True
            if not self._ended:
                self._end((ErrorClass.RESET_STREAM, "the response was closed before its end"))
            self._carrier.release(self)

    @property
    def complete(self) -> bool:
        """The message has ended as its framing says; nothing more may come for it."""
        return self._ended and self._fault is None

    # -- for the connection --------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes from the peer. After the end of the message they make the connection unfit for another."""
        if self._ended:
            self.keep_alive = False
            return
        self._started = True
        parser, chunks, status = self._parser, self._chunks, self.status
        held = len(chunks)
        assert parser is not None  # it lives until the end
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as error:  # also what a callback raised, and an upgrade
            if not self._ended:
                self._end((ErrorClass.MALFORMED, f"not a valid HTTP/1.1 response: {error}"))
            self.keep_alive = False
        # who waits hears of it only now: it may run on at once, and must not do so inside the parser
        waiter = self._waiter
        if len(chunks) != held:
            self._silent_bytes = 0
            if waiter is None:
                self._hold_back()
            elif self._consume is not None and not waiter.done():
                self._hand_over(self._consume, waiter)
            else:
                self._wake()
            return
        if self.status == status and not self._ended:
            self._silent_bytes += len(data)
            if self._silent_bytes <= MAX_HEAD_BYTES:
                return
            self._end((ErrorClass.MALFORMED, f"more than {MAX_HEAD_BYTES} bytes of header or trailer fields"))
        self._wake()

    def _hold_back(self) -> None:
        """Nobody reads just now: what waits is bounded by reading no further."""
        if not self._paused and not self._ended and sum(map(len, self._chunks)) > HIGH_WATER_BYTES:
            self._paused = True
            self._carrier.pause()

    def _hand_over(self, consume: Callable[[bytes], bool], waiter: Waiter) -> None:
        try:
            if consume(self._take()):
                if self._ended:
                    self._wake()
                return
            self._stopped = True
        except Exception as fault:  # noqa: BLE001 - it belongs to whoever pumps, not to the event loop
            self._waiter = None
            waiter.set_exception(fault)
            return
        self._wake()

    def end_of_input(self, error: Exception | None) -> None:
        """The connection is gone: orderly (`error` None) or not."""
        if self._ended:
            return
        how = "closed" if error is None else f"lost ({type(error).__name__})"
        if not self._started and self.reused:
            self._end((ErrorClass.STALE_RETRY, f"the pooled connection was {how} before any response byte"))
        elif not self.status:
            self._end((ErrorClass.RESET, f"the connection was {how} before the response's head"))
        elif error is not None:
            inside = ErrorClass.RESET_STREAM if self._received_bytes else ErrorClass.RESET_BODY
            self._end((inside, f"the connection was {how} after {self._received_bytes} bytes of the body"))
        elif self._chunked or self._announced_bytes is not None:
            self._end((ErrorClass.TRUNCATED, f"the body ended after {self._received_bytes} bytes, before its announced end"))
        else:
            self._end(None)  # delimited by the close
        self._wake()

    @property
    def _received_bytes(self) -> int:
        return self._taken_bytes + sum(map(len, self._chunks))

    def _end(self, fault: tuple[ErrorClass, str] | None) -> None:
        self._ended = True
        self._fault = fault
        self._parser = None  # it holds our methods: a cycle

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _raise(self) -> None:
        error_class, message = self._fault or (ErrorClass.RESET, "no response")
        raise UpstreamError(error_class, message)

    # -- for the parser ------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._ended:
            self.keep_alive = False  # bytes after the end; what they are does not matter
            raise _Refused

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # else a trailer: bounded by _silent_bytes, not kept
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        fields = self._fields
        self.headers = headers = [(name.lower(), value.strip()) for name, value in fields]
        self._head_bytes += sum(map(len, chain.from_iterable(fields))) + 4 * len(fields)
        if len(fields) > MAX_HEADERS:
            self._refuse(f"more than {MAX_HEADERS} header fields")
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(f"a head of more than {MAX_HEAD_BYTES} bytes")
        fields.clear()
        for name, value in headers:
            if name == b"content-length":
                self._announced_bytes = int(value) if value.isdigit() else self._refuse("content-length is not a number")
            elif name == b"transfer-encoding":
                if self._chunked or value.lower() != b"chunked":
                    self._refuse("a transfer coding other than chunked")
                self._chunked = True
        if self._chunked and self._announced_bytes is not None:
            self._refuse("both content-length and transfer-encoding")
        if status < 200:
            self._interim += 1
            if status < 100 or status == 101 or self._interim > MAX_INTERIM:
                self._refuse(f"an interim response too many or unasked ({status})")
            return
        if status > 599:
            self._refuse(f"status {status}")
        self.status = status
        self._silent_bytes = 0

    def on_message_complete(self) -> None:
        if not self.status:  # the end of an interim response
            self._chunked, self._announced_bytes = False, None
            return
        assert self._parser is not None
        self.keep_alive = self._parser.should_keep_alive()
        self._end(None)

    def _refuse(self, why: str) -> int:
        self._end((ErrorClass.MALFORMED, why))
        raise _Refused


class _Refused(Exception):
    """Stops the parser; the fault has been noted."""
