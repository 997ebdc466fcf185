"""Going on after a stream broke: the next target is asked for the rest, and the caller sees one answer.

    committed --breaks--> may it? --no---> error event, no end mark          as without `on_break: continue`
                             '--yes--> settled (billed), the next target asked for the rest --content--> told behind the seam
                                          ^                                        |--breaks again: once more, at most
                                          '-----------------------------------------'--fails before content: the next target
                                                                                    '--none left: error event, no end mark

Each attempt is one like any other to the ledger, the breakers and the deadlines. What is asked and told is `dialects/continuing.py`'s.
"""

from __future__ import annotations

from proxy.core.chat import ChatRequest
from proxy.core.deadlines import NEVER
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.ports import HeaderList, Sink
from proxy.core.target import Chain
from proxy.core.usage import Usage
from proxy.dialects.base import OutboundDialect
from proxy.dialects.continuing import Continuing, JoinedStream, Past, added, never_after, with_text
from proxy.engine.attempt import WRITE_STALL_S, Attempt
from proxy.engine.books import Books
from proxy.engine.consumed import so_far
from proxy.engine.control import Control
from proxy.engine.exchange import Exchange
from proxy.engine.onward import Onward
from proxy.engine.services import Services
from proxy.routing.plan import Candidate
from proxy.routing.verdict import client_error, judge

MAX_CONTINUATIONS = 2
_NEVER_AFTER = frozenset((ErrorClass.CLIENT_GONE, ErrorClass.DRAINED, ErrorClass.TOTAL_TIMEOUT))


class ResumableSink:
    """Implements `Sink` on top of one that can be started once only. An error, after the start, is the event that a broken stream ends
    with."""

    __slots__ = ("_inner", "broken", "drain", "push", "started")

    def __init__(self, inner: Sink) -> None:
        self._inner = inner
        self.push = inner.push  # called for every chunk: nothing comes in between
        self.drain = inner.drain
        self.started = False
        self.broken = b""

    def start(self, status: int, headers: HeaderList) -> None:
        if not self.started:
            self.started = True
            self._inner.start(status, headers)

    async def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        if self.started:
            await self._inner.finish(self.broken)
        else:
            await self._inner.respond(status, headers, body)

    async def finish(self, data: bytes = b"") -> None:
        await self._inner.finish(data)

    def abort(self) -> None:
        self._inner.abort()


class Continuation:
    """One for each request that may be gone on with, see `continuation_of`. `sink` stands in for the caller's own from then on."""

    __slots__ = ("_books", "_chain", "_continued", "_control", "_exchange", "_onward", "_past", "_request", "_services", "sink")

    def __init__(
        self, services: Services, control: Control, exchange: Exchange, chain: Chain, books: Books, onward: Onward, sink: Sink
    ) -> None:
        self._services = services
        self._control = control
        self._exchange = exchange
        self._chain = chain
        self._books = books
        self._onward = onward
        self._request: ChatRequest = exchange.request  # as the caller sent it
        self._past: Past | None = None
        self._continued: list[int] = []
        self.sink = ResumableSink(sink)

    def around(self, dialect: OutboundDialect) -> OutboundDialect:
        return Continuing(dialect, self._past)

    async def after(
        self, attempt: Attempt, error: UpstreamError, now: float, candidates: list[Candidate], position: int
    ) -> int | None:
        """Which candidate is to go on with what `attempt`, which is committed, has told; it is settled then. None: nobody may or can."""
        stream = attempt.stream
        if not isinstance(stream, JoinedStream) or error.error_class in _NEVER_AFTER or self._control.gone:
            return None
        following = self._next(candidates, position, error)
        why = self._why_not(stream, error, following)
        if why is not None or following is None:
            self._onward.note(attempt, error, now, "stop")
            self._books.notes[-1]["not_continued"] = why
            return None
        usage = so_far(attempt, self._exchange.request)
        self._onward.note(attempt, error, now, "continue")
        self._onward.errors.append(error)
        books = self._books
        books.end(attempt, "failed", now, usage=usage, error=error)
        self._continued.append(attempt.n)
        books.extra = (books.extra or {}) | {"continued": list(self._continued)}
        books.resumed = True
        if books.first_token_s is None and attempt.content_at is not None:
            books.first_token_s = attempt.content_at - self._exchange.received
        self._services.meter.count("continued")
        self._onward.tell_failover(attempt, candidates[following], error)
        self._ask_for_the_rest(attempt, stream, usage)
        self.sink.broken = self._services.inbound.stream_error(client_error(error, committed=True))
        await self._push(attempt.unsent)
        return following

    def _next(self, candidates: list[Candidate], position: int, error: UpstreamError) -> int | None:
        following = self._onward.following(candidates, position, error)
        while following is not None and candidates[following].target.answer is not None:
            following = self._onward.following(candidates, following, error)  # a canned answer is the rest of nothing
        return following

    def _why_not(self, stream: JoinedStream, error: UpstreamError, following: int | None) -> str | None:
        if stream.told.why is not None:
            return f"{stream.told.why} cannot be gone on after"
        if len(self._continued) >= MAX_CONTINUATIONS:
            return f"it broke for the {MAX_CONTINUATIONS + 1}rd time"
        before = UpstreamError(error.broke_as or error.error_class, error.message)
        if not judge(before, failover_on=self._chain.failover_on, committed=False).try_next:
            return f"{before.error_class.value} does not lead to the next target"
        return "no other target is left" if following is None else None

    def _ask_for_the_rest(self, attempt: Attempt, stream: JoinedStream, usage: Usage) -> None:
        told = stream.told
        spent = usage if self._past is None else added(self._past.spent, usage)
        self._past = Past(self._request, told, spent, attempt.candidate.target)
        # what estimates and counts go by: the text so far is a part of what is sent
        self._exchange.request = with_text(self._request, told.text, spent) if told.text.strip() else self._request

    async def _push(self, data: bytes) -> None:
        """What had still been good when the stream broke."""
        if data and not self.sink.push(data):
            control = self._control
            control.phase = ErrorClass.CLIENT_GONE
            control.deadline = self._services.clock.monotonic() + WRITE_STALL_S
            await self.sink.drain()
            control.deadline = NEVER


def continuation_of(
    services: Services, control: Control, exchange: Exchange, chain: Chain, books: Books, onward: Onward, sink: Sink
) -> Continuation | None:
    """None where no break can be gone on after, whatever comes."""
    request = exchange.request
    if not request.stream or request.kind != "chat" or never_after(request) is not None:
        return None
    return Continuation(services, control, exchange, chain, books, onward, sink)
