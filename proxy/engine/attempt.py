"""One try at one target: send, wait for content, carry the answer across, and know what it cost.

    waiting --content--> committed --end--> settled            before `committed` nothing has reached the caller

An attempt ends by returning (the caller has a whole answer) or by raising UpstreamError; `committed` then says whether the caller has
already seen a part. Settling, which writes the journal's end record, is the relay's, and comes before the last bytes go out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from proxy.accounting.records import Progress
from proxy.accounting.usage import estimate_output
from proxy.core.chat import ChatRequest
from proxy.core.deadlines import NEVER
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.ports import HeaderList, RequestHead, Sink, UpstreamResponse, UpstreamTransport
from proxy.core.usage import Usage
from proxy.dialects.base import AnswerStream, OutboundDialect, OutboundRequest, WholeAnswer
from proxy.engine.control import Control
from proxy.routing.deployment import Permit
from proxy.routing.plan import Candidate
from proxy.routing.retry_after import exhausted_reset_s, retry_after_s

if TYPE_CHECKING:
    from proxy.engine.services import Services

FIRST_TOKEN_STREAM_S = 60.0
FIRST_TOKEN_WHOLE_S = 300.0
WRITE_STALL_S = 60.0
LINGER_S = 1.0  # for the upstream's last bytes after [DONE], so that its connection can serve again
PROGRESS_S = 2.0
PROGRESS_EVENTS = 256
MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
MAX_HELD_BYTES = 1024 * 1024  # of events before the first content

Settle = Callable[["Attempt"], Awaitable[None]]
Headers = Callable[["Attempt", bytes], HeaderList]


class Attempt:
    __slots__ = (
        "_control",
        "_dialect",
        "_response",
        "_services",
        "_sink",
        "answer",
        "candidate",
        "committed",
        "content_at",
        "dispatched_at",
        "id",
        "n",
        "outbound",
        "permit",
        "received_bytes",
        "reset_s",
        "settled",
        "started_at",
        "status",
        "stream",
        "unsent",
        "upstream_done_at",
        "usage",
    )

    def __init__(
        self,
        services: Services,
        control: Control,
        sink: Sink,
        *,
        id_: str,
        n: int,
        candidate: Candidate,
        permit: Permit,
        dialect: OutboundDialect,
        outbound: OutboundRequest,
        started_at: float,
    ) -> None:
        self._services = services
        self._control = control
        self._sink = sink
        self._dialect = dialect
        self._response: UpstreamResponse | None = None
        self.id = id_
        self.n = n
        self.candidate = candidate
        self.permit = permit
        self.outbound = outbound
        self.started_at = started_at
        self.dispatched_at = started_at
        self.content_at: float | None = None
        self.upstream_done_at: float | None = None
        self.status: int | None = None
        self.committed = False
        self.settled = False
        self.usage: Usage | None = None
        self.stream: AnswerStream | None = None
        self.answer: WholeAnswer | None = None
        self.unsent = b""
        self.received_bytes = 0
        self.reset_s: float | None = None  # a limit that this answer says is used up now

    async def run(
        self,
        request: ChatRequest,
        transport: UpstreamTransport,
        head: RequestHead,
        *,
        total_at: float,
        fresh: bool,
        settle: Settle,
        headers: Headers,
    ) -> None:
        control = self._control
        timeouts = self.candidate.target.timeouts
        first_token_s = timeouts.first_token_s
        if first_token_s is None:
            whole = not request.stream or self.candidate.target.reasoning
            first_token_s = FIRST_TOKEN_WHOLE_S if whole else FIRST_TOKEN_STREAM_S
        self._arm(ErrorClass.TTFB_TIMEOUT, self.started_at + first_token_s, total_at)
        self.dispatched_at = self._services.clock.monotonic()
        try:
            response = self._response = await transport.send(
                head, self.outbound.body, connect_timeout_s=timeouts.connect_s, fresh=fresh
            )
            self.status = response.status
            content_type, encoded = _content_headers(response.headers)
            if not 200 <= response.status < 300:
                raise await self._refusal(response)
            if encoded:
                raise UpstreamError(ErrorClass.TOO_LARGE, "the answer is compressed, which was not asked for", status=self.status)
            self.reset_s = exhausted_reset_s(response.headers, wall=self._services.clock.wall())
            if not request.stream:
                await self._whole(response, request, content_type, settle, headers)
            elif content_type.startswith(b"text/event-stream"):
                await self._stream(response, request, b"", total_at, settle, headers)
            else:
                await self._unlabelled_stream(response, request, content_type, total_at, settle, headers)
        except asyncio.CancelledError:
            error = control.cause()
            if error is None:
                raise
            raise error from None
        finally:
            control.deadline = NEVER
            if self._response is not None:
                self._response.close()

    def _arm(self, phase: ErrorClass, deadline: float, total_at: float) -> None:
        control = self._control
        if total_at < deadline:
            control.phase = ErrorClass.TOTAL_TIMEOUT
            control.deadline = total_at
        else:
            control.phase = phase
            control.deadline = deadline

    async def _refusal(self, response: UpstreamResponse) -> UpstreamError:
        body = await _read_at_most(response, MAX_ERROR_BYTES)
        error = self._dialect.decode_error(response.status, response.headers, body)
        error.retry_after_s = retry_after_s(response.headers, wall=self._services.clock.wall(), body_delay=error.body_delay)
        return error

    async def _whole(
        self, response: UpstreamResponse, request: ChatRequest, content_type: bytes, settle: Settle, headers: Headers
    ) -> None:
        body = await self._read_body(response)
        if content_type.startswith((b"text/html", b"text/event-stream")):
            raise UpstreamError(
                ErrorClass.BAD_CONTENT_TYPE, f"answered with {content_type.decode('latin-1')[:60]}", status=self.status
            )
        await self._answer_whole(self._decode(body), request, settle, headers)

    def _decode(self, body: bytes) -> WholeAnswer:
        if not body.strip():
            raise UpstreamError(ErrorClass.EMPTY, "the answer has no body", status=self.status)
        answer = self.answer = self._dialect.decode_answer(body, self.candidate.target)
        self.usage = answer.usage
        return answer

    async def _answer_whole(self, answer: WholeAnswer, request: ChatRequest, settle: Settle, headers: Headers) -> None:
        now = self._services.clock.monotonic()
        self.content_at = self.upstream_done_at = now
        self.permit.first_content(now)
        if answer.mended:
            self._services.meter.count("bad_utf8")
        self._control.deadline = NEVER
        await settle(self)
        if request.stream:
            body = self._dialect.stream_from_whole(answer, request)
            await self._sink.respond(200, headers(self, b"text/event-stream; charset=utf-8"), body)
        else:
            await self._sink.respond(200, headers(self, b"application/json"), answer.body)

    async def _unlabelled_stream(
        self,
        response: UpstreamResponse,
        request: ChatRequest,
        content_type: bytes,
        total_at: float,
        settle: Settle,
        headers: Headers,
    ) -> None:
        """A stream was asked for and the answer does not call itself one: its first bytes tell what it is."""
        if content_type.startswith(b"text/html"):
            raise UpstreamError(ErrorClass.BAD_CONTENT_TYPE, "answered with a page of HTML", status=self.status)
        start = b""
        while not start.strip():
            data = await response.read()
            if not data:
                raise UpstreamError(ErrorClass.EMPTY, "the answer has no body", status=self.status)
            start = (start + data)[-MAX_HELD_BYTES:]
        if start.lstrip()[:1] in (b"{", b"["):
            await self._answer_whole(self._decode(start + await self._read_body(response)), request, settle, headers)
        else:
            await self._stream(response, request, start, total_at, settle, headers)

    async def _read_body(self, response: UpstreamResponse) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while data := await response.read():
            pieces.append(data)
            size += len(data)
            if size > MAX_ANSWER_BYTES:
                raise UpstreamError(ErrorClass.TOO_LARGE, "the answer is larger than 32 MiB", status=self.status)
        self.received_bytes = size
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _stream(
        self,
        response: UpstreamResponse,
        request: ChatRequest,
        first: bytes,
        total_at: float,
        settle: Settle,
        headers: Headers,
    ) -> None:
        stream = self.stream = self._dialect.answer_stream(request, self.candidate.target)
        services, control, sink = self._services, self._control, self._sink
        monotonic = services.clock.monotonic
        idle_s = self.candidate.target.timeouts.between_tokens_s
        held: list[bytes] = []
        held_bytes = 0
        seen = 0
        progress_at = self.started_at + PROGRESS_S
        progress_events = PROGRESS_EVENTS
        while True:
            data = first or await self._read(response)
            first = b""
            out = stream.feed(data) if data else b""
            now = monotonic()
            if stream.committed and not self.committed:
                self.content_at = now
                self.permit.first_content(now)
                # from here on the caller has seen something: no other target can take over
                self.committed = True
                out = b"".join([*held, out])
                held.clear()
                sink.start(200, headers(self, b"text/event-stream; charset=utf-8"))
            if stream.error is not None:
                self.unsent = out
                raise stream.error
            if stream.done or not data:
                break
            if not self.committed:
                held_bytes += len(out)
                if held_bytes > MAX_HELD_BYTES:
                    raise UpstreamError(ErrorClass.TOO_LARGE, "more than 1 MiB came before any content", status=self.status)
                if out:
                    held.append(out)
                continue
            if out:
                control.phase = ErrorClass.CLIENT_GONE
                control.deadline = now + WRITE_STALL_S
                await sink.write(out)
            if stream.events != seen:
                # progress is a whole event: a drip of bytes does not move this deadline
                seen = stream.events
                self._arm(ErrorClass.IDLE_TIMEOUT, now + idle_s, total_at)
            if now >= progress_at or stream.content_events >= progress_events:
                progress_at = now + PROGRESS_S
                progress_events = stream.content_events + PROGRESS_EVENTS
                services.journal.append(Progress(self.id, estimate_output(stream.text_bytes)))
        self.upstream_done_at = now
        tail = stream.close()
        failed = _failure(stream)
        if failed is not None:
            self.unsent = out if self.committed else b""
            raise failed
        self.usage = stream.usage
        control.deadline = NEVER
        self._note_oddities(stream)
        await settle(self)
        if not self.committed:
            self.committed = True
            self.permit.first_content(now)
            sink.start(200, headers(self, b"text/event-stream; charset=utf-8"))
            out = b"".join([*held, out])
        await sink.finish(out + tail)
        if data:
            await self._linger(response)

    async def _read(self, response: UpstreamResponse) -> bytes:
        try:
            return await response.read()
        except UpstreamError as error:
            # cut short, but perhaps after all that matters: a finish reason without an end mark is an answer
            if self.stream is not None and self.stream.finish_reason is not None and self.committed:
                return b""
            raise error

    def _note_oddities(self, stream: AnswerStream) -> None:
        meter = self._services.meter
        if stream.end_mark_missing:
            meter.count("missing_done")
        if stream.malformed:
            meter.count("malformed_event")
        if stream.mended:
            meter.count("bad_utf8")

    async def _linger(self, response: UpstreamResponse) -> None:
        """The answer is out; what is left to read is the end of the upstream's framing."""
        self._control.phase = ErrorClass.IDLE_TIMEOUT
        self._control.deadline = self._services.clock.monotonic() + LINGER_S
        for _ in range(4):
            if not await response.read():
                return

    @property
    def text_bytes(self) -> int:
        return self.stream.text_bytes if self.stream is not None else 0

    @property
    def finish_reason(self) -> str | None:
        told = self.stream or self.answer
        return told.finish_reason if told is not None else None

    def kept_text(self) -> bytes:
        """What there is to count, at most MAX_KEPT_TEXT_BYTES of it."""
        if self.stream is not None:
            return bytes(self.stream.text)
        return self._dialect.text_of(self.answer.body) if self.answer is not None else b""


def _failure(stream: AnswerStream) -> UpstreamError | None:
    return stream.error


async def _read_at_most(response: UpstreamResponse, limit: int) -> bytes:
    """The start of an error's body. A body that breaks off is as good as what came of it."""
    body = b""
    try:
        while len(body) < limit and (data := await response.read()):
            body += data
    except UpstreamError:
        return body[:limit]
    return body[:limit]


def _content_headers(headers: HeaderList) -> tuple[bytes, bool]:
    """(content type, whether the body is compressed)"""
    content_type = b""
    encoded = False
    for name, value in headers:
        if name == b"content-type":
            content_type = value.lower()
        elif name == b"content-encoding":
            encoded = value.lower() not in (b"", b"identity")
    return content_type, encoded
