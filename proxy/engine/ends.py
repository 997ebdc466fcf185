"""How a request ends: with the last bytes of an answer, with an error event in a stream that broke, or with an error alone.

Whatever it is, the attempt is settled first, synchronously, and the bytes go out afterwards: whoever kills the process then cannot make
the ledger forget it.
"""

from __future__ import annotations

from proxy.accounting.throttle import ClientAccount
from proxy.core.deadlines import NEVER
from proxy.core.errors import ErrorClass, ProxyError, UpstreamError
from proxy.core.ports import HeaderList, Sink
from proxy.core.usage import Usage
from proxy.dialects.embeddings import with_usage
from proxy.engine.answers import DEGRADED, answer_headers, error_headers
from proxy.engine.attempt import WRITE_STALL_S, Attempt
from proxy.engine.books import CLIENT_GONE, OK, Books
from proxy.engine.consumed import counted, is_doubtful, so_far
from proxy.engine.control import Control
from proxy.engine.exchange import Exchange
from proxy.engine.keeping import Keeping
from proxy.engine.quality_gate import Given, QualityGate
from proxy.engine.services import Services
from proxy.routing.deployment import Permit
from proxy.routing.verdict import Effect, client_error

_OK, _CLIENT_GONE = Effect.OK, ErrorClass.CLIENT_GONE  # needed for every request; looked up on their class they are slow


class Ends:
    """One per request. `limits`: what the client is held to, if anything. `gate`: where its answers are measured before they go out."""

    __slots__ = ("_books", "_control", "_exchange", "_keeping", "_services", "_sink", "gate", "limits")

    def __init__(self, services: Services, control: Control, exchange: Exchange, sink: Sink, books: Books) -> None:
        self._services = services
        self._control = control
        self._exchange = exchange
        self._sink = sink
        self._books = books
        self._keeping: Keeping | None = None
        self.gate: QualityGate | None = None
        self.limits: ClientAccount | None = None

    def keep(self, keeping: Keeping, sink: Sink) -> Sink:
        """The answer may be kept; where it goes from now on."""
        self._keeping = keeping
        self._sink = keeping.tee(sink)
        return self._sink

    def through(self, sink: Sink) -> None:
        """Where the answer goes from now on."""
        self._sink = sink

    async def answer(self, attempt: Attempt, last: bytes) -> int | None:
        """Settles what is whole and hands on its last bytes. Or it is held, for it is not good enough, and the candidate is to be asked
        whose place is returned."""
        usage = attempt.usage
        request = self._exchange.request
        if usage is not None and is_doubtful(usage, attempt, request):
            self._services.meter.count("usage_suspect")
            usage = None
        self._control.deadline = NEVER
        if usage is None:
            usage = await counted(attempt, self._exchange, self._services, self._control)
            if request.kind == "embeddings":
                last = with_usage(last, usage)
        now = self._services.clock.monotonic()
        attempt.permit.release(_OK if attempt.reset_s is None else Effect.RATE, now, attempt.reset_s)
        if self.gate is not None:
            return await self._weighed(self.gate, attempt, usage, last, now)
        self._books.end(attempt, "ok", now, usage=usage, closing=OK)
        if self._keeping is not None:
            self._keeping.answered(attempt, usage)
        if attempt.stream is not None or attempt.mended:
            self._note_oddities(attempt)
        self._control.phase = _CLIENT_GONE
        self._control.deadline = now + WRITE_STALL_S
        if self._services.journal.strict:
            await self._services.journal.synced()
        if attempt.committed:
            await self._sink.finish(last)
            await attempt.linger()
        else:
            await self._sink.respond(200, self.headers(attempt, b"application/json"), last)
        return None

    async def _weighed(self, gate: QualityGate, attempt: Attempt, usage: Usage, last: bytes, now: float) -> int | None:
        """Billed at once; what comes of it shows when it has been measured."""
        self._books.end(attempt, "ok", now, usage=usage)
        self._note_oddities(attempt)
        given = await gate.weigh(attempt, usage, last)
        if given is None:
            return gate.following
        await self._give(given)
        return None

    @property
    def holds(self) -> bool:
        """Whether there is an answer to fall back on."""
        return self.gate is not None and self.gate.held is not None

    async def fall_back(self) -> bool:
        """Gives the answer that is held, if one is."""
        given = self.gate.fall_back() if self.gate is not None else None
        if given is None:
            return False
        await self._give(given)
        return True

    async def _give(self, given: Given) -> None:
        now = self._services.clock.monotonic()
        self._books.answered = given.attempt
        self._books.close_unattempted(OK, now, given.usage)
        if self._keeping is not None:
            self._keeping.answered(given.attempt, given.usage)
        self._control.phase = _CLIENT_GONE
        self._control.deadline = now + WRITE_STALL_S
        if self._services.journal.strict:
            await self._services.journal.synced()
        await self._sink.respond(200, self.headers(given.attempt, b"application/json", settled=True), given.body)

    async def broken(self, attempt: Attempt, error: UpstreamError, now: float) -> None:
        """After content: bill what was relayed, say so in the stream, and never end as if it were whole."""
        usage = so_far(attempt, self._exchange.request)
        if error.error_class is ErrorClass.CLIENT_GONE:
            if not self._control.gone:
                self._services.meter.count("slow_reader")
            self._books.end(attempt, "client_gone", now, usage=usage, error=error, closing=CLIENT_GONE)
            self._sink.abort()
            return
        drained = error.error_class is ErrorClass.DRAINED
        answer = client_error(error, committed=True)
        closing = ("interrupted" if drained else "failed", 200, answer.code)
        self._books.end(attempt, "failed", now, usage=usage, error=error, closing=closing)
        if drained:
            self._services.meter.count("drained_cut")
        self._note_oddities(attempt)
        self._control.phase = ErrorClass.CLIENT_GONE
        self._control.deadline = now + WRITE_STALL_S
        if self._services.journal.strict:
            await self._services.journal.synced()
        await self._sink.finish(attempt.unsent + self._services.inbound.stream_error(answer))

    async def unseen(self, attempt: Attempt, error: UpstreamError, now: float) -> None:
        """Before content, by the caller's leaving or our own stopping."""
        if error.error_class is ErrorClass.DRAINED:
            if self.holds:
                self._books.end(attempt, "failed", now, error=error)
                await self.fall_back()
                return
            answer = client_error(error)
            self._books.end(attempt, "failed", now, error=error, closing=("interrupted", answer.status, answer.code))
            await self.error(answer)
            return
        self._books.end(attempt, "client_gone", now, error=error, closing=CLIENT_GONE)
        self._sink.abort()

    async def between(self, error: UpstreamError) -> None:
        """The caller left, or the proxy must stop, while no attempt was open."""
        now = self._services.clock.monotonic()
        if error.error_class is ErrorClass.DRAINED and not self._books.closed:
            if await self.fall_back():
                return
            answer = client_error(error)
            self._books.close_unattempted(("interrupted", answer.status, answer.code), now)
            await self.error(answer)
        else:
            self._books.close_unattempted(CLIENT_GONE, now)
            self._sink.abort()

    def torn_down(self, attempt: Attempt | None, permit: Permit) -> None:
        """Cancelled, and not by one of our own interruptions: the server is being taken apart around us."""
        now = self._services.clock.monotonic()
        if attempt is None:
            permit.unused(now)
        else:
            permit.release(Effect.NEUTRAL, now)
            error = UpstreamError(ErrorClass.DRAINED, "the proxy was stopped")
            usage = so_far(attempt, self._exchange.request) if attempt.committed else None
            self._books.end(attempt, "failed", now, usage=usage, error=error, closing=("interrupted", None, "draining"))
            self._books.close_unattempted(("interrupted", None, "draining"), now)  # one that was settled while it was measured

    async def error(self, error: ProxyError) -> None:
        """Tells the caller; the books are closed by then."""
        headers = error_headers(self._exchange.id, error, attempts=self._books.attempts)
        if self.limits is not None:
            headers += self.limits.headers(self._services.clock.monotonic())
        if self._services.degraded:
            headers.append((DEGRADED, self._services.degraded))
        if self._services.journal.strict:
            await self._services.journal.synced()
        await self._sink.respond(error.status, headers, self._services.inbound.encode_error(error))

    def headers(self, attempt: Attempt, content_type: bytes, *, settled: bool = False) -> HeaderList:
        """`settled`: its time is among that which was waited already."""
        now = self._services.clock.monotonic()
        upstream_s = (attempt.content_at or now) - attempt.dispatched_at
        own_s = now - self._exchange.received - self._books.waited_s - (0.0 if settled else upstream_s)
        headers = answer_headers(
            self._exchange.id,
            attempt.candidate.target,
            self._books.attempts,
            content_type,
            upstream_s=upstream_s,
            own_s=max(0.0, own_s),
            dropped=attempt.outbound.dropped,
        )
        if self.limits is not None:
            headers += self.limits.headers(now)
        if self._services.degraded:
            headers.append((DEGRADED, self._services.degraded))
        return headers

    def _note_oddities(self, attempt: Attempt) -> None:
        stream, meter = attempt.stream, self._services.meter
        if attempt.mended:
            meter.count("bad_utf8")
        if stream is None:
            return
        if stream.end_mark_missing:
            meter.count("missing_done")
        if stream.malformed:
            meter.count("malformed_event")
        if stream.mended:
            meter.count("bad_utf8")
