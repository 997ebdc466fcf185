"""One try at one target: send, wait for content, and carry the answer across, all but its last bytes.

    waiting --`reach`: content--> reached --`carry`--> committed --end--> the last bytes are returned

Before `committed` nothing has reached the caller, and another target can take over. The last bytes are the relay's to send, because the
attempt must be settled before they go. Both steps raise UpstreamError; `committed` then says whether the caller has already seen a part,
and `unsent` what had still been good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.ports import Clock, HeaderList, RequestHead, Sink, UpstreamResponse, UpstreamTransport
from proxy.core.usage import Usage
from proxy.dialects.base import AnswerStream, OutboundDialect, OutboundRequest
from proxy.engine.control import Control
from proxy.engine.pipe import Nobody, Pipe
from proxy.routing.deployment import Permit
from proxy.routing.plan import Candidate
from proxy.routing.retry_after import exhausted_reset_s, is_nonsense, retry_after_s

FIRST_TOKEN_STREAM_S = 60.0
FIRST_TOKEN_WHOLE_S = 300.0
WRITE_STALL_S = 60.0
LINGER_S = 1.0  # for the upstream's last bytes after [DONE], so that its connection can serve again
MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_EMBEDDINGS_BYTES = 128 * 1024 * 1024  # 2,048 vectors of 3,072 numbers
MAX_ERROR_BYTES = 64 * 1024
MAX_HELD_BYTES = 1024 * 1024  # of events before the first content

EVENT_STREAM = b"text/event-stream; charset=utf-8"

_TTFB_TIMEOUT = ErrorClass.TTFB_TIMEOUT  # members that are needed for every request; looked up on their class they are slow

Headers = Callable[["Attempt", bytes], HeaderList]
Progress = Callable[["Attempt", int], None]  # an attempt, and how many tokens of its answer came so far


class Attempt:
    """`reset_s`: a rate limit that this answer says is used up now. `over`: all of the answer is there. `control`: what ends its waits
    from outside. Times are monotonic."""

    __slots__ = (
        "_clock",
        "_dialect",
        "_response",
        "body",
        "candidate",
        "committed",
        "content_at",
        "control",
        "dispatched_at",
        "finish_reason",
        "id",
        "mended",
        "n",
        "odd_wait",
        "outbound",
        "over",
        "permit",
        "received_bytes",
        "reset_s",
        "settled",
        "started_at",
        "status",
        "stream",
        "unsent",
        "usage",
    )

    def __init__(
        self,
        id_: str,
        n: int,
        candidate: Candidate,
        permit: Permit,
        dialect: OutboundDialect,
        outbound: OutboundRequest,
        control: Control,
        clock: Clock,
        started_at: float,
    ) -> None:
        self.id = id_
        self.n = n
        self.candidate = candidate
        self.permit = permit
        self.outbound = outbound
        self.started_at = self.dispatched_at = started_at
        self.content_at: float | None = None
        self.status: int | None = None
        self.committed = False
        self.settled = False
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.stream: AnswerStream | None = None
        self.body = b""  # of a whole answer
        self.mended = False
        self.over = False
        self.unsent = b""
        self.received_bytes = 0
        self.reset_s: float | None = None
        self.odd_wait = False  # it asked for a wait that makes no sense
        self._dialect = dialect
        self.control = control
        self._clock = clock
        self._response: UpstreamResponse | None = None

    async def reach(
        self, request: ChatRequest, transport: UpstreamTransport, head: RequestHead, *, total_at: float, fresh: bool
    ) -> bytes:
        """Send, and wait for content. What has come by then and is still to be handed on: of a whole answer, or a stream that has
        ended (`over`), everything."""
        target = self.candidate.target
        timeouts = target.timeouts
        first_token_s = timeouts.first_token_s
        if first_token_s is None:
            first_token_s = FIRST_TOKEN_STREAM_S if request.stream and not target.reasoning else FIRST_TOKEN_WHOLE_S
        self._arm(_TTFB_TIMEOUT, self.started_at + first_token_s, total_at)
        response = self._response = await transport.send(
            head, self.outbound.body, connect_timeout_s=timeouts.connect_s, fresh=fresh
        )
        deployment = self.candidate.deployment
        deployment.heard = response.headers
        deployment.heard_at = self._clock.monotonic()
        status = self.status = response.status
        if not 200 <= status < 300:
            raise await self._refusal(response)
        fields = dict(response.headers)
        if fields.get(b"content-encoding", b"identity").lower() not in (b"", b"identity"):
            raise UpstreamError(ErrorClass.TOO_LARGE, "the answer is compressed, which was not asked for", status=status)
        content_type = fields.get(b"content-type", b"").lower()
        if b"0" in fields.values():  # `remaining: 0`, perhaps
            self.reset_s = exhausted_reset_s(response.headers, wall=self._clock.wall())
        if not request.stream:
            if content_type.startswith((b"text/html", b"text/event-stream")):
                what = content_type.decode("latin-1")[:60]
                raise UpstreamError(ErrorClass.BAD_CONTENT_TYPE, f"answered with {what}", status=status)
            body = response.at_hand()
            return self._whole(await self._read_body(response, request) if body is None else body, request)
        start = b""
        if not content_type.startswith(self._dialect.stream_type):
            start = await self._first_bytes(response, content_type)
            if start.lstrip()[:1] in (b"{", b"["):
                self._whole(start + await self._read_body(response, request), request)
                self.over = True
                return self._dialect.stream_from_whole(self.body, request)
        return await self._first_content(response, request, start)

    async def carry(self, first: bytes, *, total_at: float, sink: Sink, headers: Headers, progress: Progress) -> bytes:
        """Hands on a stream that has been reached, beginning with `first`; returns its last bytes, which are still to be sent."""
        self.committed = True  # from here on the caller sees something: no other target can take over
        sink.start(200, headers(self, EVENT_STREAM))
        response, stream = self._response, self.stream
        if self.over or response is None or stream is None:
            return first
        out = first
        if not stream.done and stream.error is None:
            out = await self._pump(response, stream, out, total_at, sink, progress)
        return out + self._closed(stream, out)

    async def linger(self) -> None:
        """After the answer is out: read the end of the upstream's framing, so that its connection can serve again."""
        response = self._response
        if response is None or self.stream is None or not self.stream.done:
            return
        self.control.phase = ErrorClass.IDLE_TIMEOUT
        self.control.deadline = self._clock.monotonic() + LINGER_S
        for _ in range(4):
            if not await response.read():
                return

    async def outlast(self, *, total_at: float, progress: Progress) -> bool:
        """The caller has left, and the provider bills to the end: reads on to there, for what it tells of usage, and gives it to nobody.
        Whatever ends that early does no harm. False: the task was cancelled by somebody else."""
        response, stream, control = self._response, self.stream, self.control
        if response is None or stream is None:
            return True
        idle_s = self.candidate.target.timeouts.between_tokens_s
        pipe = Pipe(stream, Nobody(), control, partial(progress, self), self._clock.monotonic, idle_s=idle_s, total_at=total_at)
        while not stream.done and stream.error is None:
            pipe.arm()
            try:
                if await response.pump(pipe.consume):
                    break
            except asyncio.CancelledError:
                why = control.reason
                if control.cause() is None:
                    return False
                if why is not ErrorClass.CLIENT_GONE:
                    break  # it stood still, or took too long, or the proxy must stop
            except UpstreamError:
                break
        if stream.error is None:
            stream.close()
        self.finish_reason = stream.finish_reason
        return True

    def close(self) -> None:
        """Idempotent. A connection that is not at the end of its answer is cut."""
        if self._response is not None:
            self._response.close()

    def text(self) -> bytes:
        """What there is to count, at most MAX_KEPT_TEXT_BYTES of it."""
        return bytes(self.stream.text) if self.stream is not None else self._dialect.text_of(self.body)

    @property
    def text_bytes(self) -> int:
        """How much text, thoughts and tool arguments came; of a whole answer how much of anything."""
        return self.stream.text_bytes if self.stream is not None else self.received_bytes

    # -- steps

    def _arm(self, phase: ErrorClass, deadline: float, total_at: float) -> None:
        control = self.control
        if total_at < deadline:
            control.phase = ErrorClass.TOTAL_TIMEOUT
            control.deadline = total_at
        else:
            control.phase = phase
            control.deadline = deadline

    async def _refusal(self, response: UpstreamResponse) -> UpstreamError:
        body = b""
        try:
            while len(body) < MAX_ERROR_BYTES and (data := await response.read()):
                body += data
        except UpstreamError:
            pass  # an error's body that breaks off is as good as what came of it
        error = self._dialect.decode_error(response.status, response.headers, body[:MAX_ERROR_BYTES])
        error.retry_after_s = retry_after_s(response.headers, wall=self._clock.wall(), body_delay=error.body_delay)
        self.odd_wait = is_nonsense(response.headers)
        return error

    async def _read_body(self, response: UpstreamResponse, request: ChatRequest) -> bytes:
        body = await response.read()
        pieces: list[bytes] = []
        size = len(body)
        while data := await response.read():
            pieces.append(data)
            size += len(data)
            if size > MAX_ANSWER_BYTES and (request.kind == "chat" or size > MAX_EMBEDDINGS_BYTES):
                limit = MAX_ANSWER_BYTES if request.kind == "chat" else MAX_EMBEDDINGS_BYTES
                raise UpstreamError(ErrorClass.TOO_LARGE, f"the answer is larger than {limit >> 20} MiB", status=self.status)
        return b"".join([body, *pieces]) if pieces else body

    def _whole(self, body: bytes, request: ChatRequest) -> bytes:
        if not body or body.isspace():
            raise UpstreamError(ErrorClass.EMPTY, "the answer has no body", status=self.status)
        self.received_bytes = len(body)
        answer = self._dialect.decode_answer(body, request, self.candidate.target)
        self.usage = answer.usage
        self.finish_reason = answer.finish_reason
        self.mended = answer.mended
        self.body = answer.body
        self.content_at = self._clock.monotonic()  # the permit hears of it with the release, which follows
        return answer.body

    async def _first_bytes(self, response: UpstreamResponse, content_type: bytes) -> bytes:
        """A stream was asked for and the answer does not call itself one: its first bytes tell what it is."""
        if content_type.startswith(b"text/html"):
            raise UpstreamError(ErrorClass.BAD_CONTENT_TYPE, "answered with a page of HTML", status=self.status)
        start = b""
        while not start or start.isspace():
            data = await response.read()
            if not data:
                raise UpstreamError(ErrorClass.EMPTY, "the answer has no body", status=self.status)
            start = (start + data)[-MAX_HELD_BYTES:]
        return start

    async def _first_content(self, response: UpstreamResponse, request: ChatRequest, first: bytes) -> bytes:
        stream = self.stream = self._dialect.answer_stream(request, self.candidate.target)
        held: list[bytes] = []
        held_bytes = 0
        data = first
        while not stream.committed:
            data = data or await response.read()
            held.append(stream.feed(data) if data else b"")
            held_bytes += len(held[-1])
            if stream.done or not data or _failure(stream) is not None:
                break
            if held_bytes > MAX_HELD_BYTES:
                raise UpstreamError(ErrorClass.TOO_LARGE, "more than 1 MiB came before any content", status=self.status)
            data = b""
        out = b"".join(held)
        if stream.committed:
            self.content_at = self._clock.monotonic()
            self.permit.first_content(self.content_at)
            return out
        out += self._closed(stream, b"")
        # an empty answer, which is legal: it has ended, and nothing else will come
        self.over = True
        self.permit.first_content(self._clock.monotonic())
        return out

    def _closed(self, stream: AnswerStream, out: bytes) -> bytes:
        """The stream's last bytes, which follow on `out`. Raises what it failed with."""
        tail = stream.close() if _failure(stream) is None else b""
        self.finish_reason = stream.finish_reason
        failed = _failure(stream)
        if failed is not None:
            self.unsent = out + tail if self.committed else b""
            raise failed
        self.usage = stream.usage
        return tail

    async def _pump(
        self, response: UpstreamResponse, stream: AnswerStream, out: bytes, total_at: float, sink: Sink, progress: Progress
    ) -> bytes:
        """Carries the stream to its end; returns what is still to be sent with it."""
        control = self.control
        idle_s = self.candidate.target.timeouts.between_tokens_s
        pipe = Pipe(stream, sink, control, partial(progress, self), self._clock.monotonic, idle_s=idle_s, total_at=total_at)
        flowing = sink.push(out) if out else True
        while True:
            if not flowing:
                control.phase = ErrorClass.CLIENT_GONE
                control.deadline = self._clock.monotonic() + WRITE_STALL_S
                await sink.drain()
            pipe.arm()
            try:
                ended = await response.pump(pipe.consume)
            except UpstreamError:
                # cut short, but perhaps after all that matters: a finish reason without an end mark is an answer
                if stream.finish_reason is None:
                    raise
                ended = True
            if ended or stream.done or stream.error is not None:
                return pipe.last
            flowing = False


def _failure(stream: AnswerStream) -> UpstreamError | None:
    return stream.error
