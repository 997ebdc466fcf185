"""One request whose answer may be kept, or may be there already.

    find ──kept, or brought by one who asked the same──> give
      '──nothing──> the relay walks, through a `Tee` ──whole and good──> kept, and given to those who wait
                                                       '──anything else──> the next of them leads, or each goes alone (flights.py)

Looked for is what the first target of the plan would answer; kept is an answer for the target that gave it. So what is kept stands for the
target that would be asked now, and not for one that helped out while another was down. While nothing of a chain can be asked, whatever
is kept of its targets is good enough.
"""

from __future__ import annotations

import asyncio

from proxy.accounting.pricing import charge
from proxy.accounting.throttle import ClientAccount
from proxy.core.deadlines import NEVER
from proxy.core.errors import ErrorClass
from proxy.core.kept import MAX_ANSWER_BYTES, Kept, Room
from proxy.core.ports import HeaderList, Sink
from proxy.core.target import CacheSettings, Chain, Target
from proxy.core.usage import Usage
from proxy.engine.answers import DEGRADED, header_value
from proxy.engine.attempt import EVENT_STREAM, FIRST_TOKEN_STREAM_S, FIRST_TOKEN_WHOLE_S, WRITE_STALL_S, Attempt
from proxy.engine.books import OK, Books
from proxy.engine.cache import HIT, JOINED, MAX_RECORDED_BYTES, MISS, REFRESH, room_of
from proxy.engine.cache_key import asked, is_worth_keeping, key_of, may_keep
from proxy.engine.control import Control
from proxy.engine.exchange import Exchange
from proxy.engine.flights import Flight, Turn
from proxy.engine.services import Services
from proxy.routing.plan import Plan

# reasons in a plan's trace that another moment may change: what is kept of such a target may be given meanwhile
_FOR_THE_MOMENT = ("circuit ", "cooling down ", "latched: ", "slow start", "at capacity", "quota ", "budget ", "rate limit: ")


def keeping_of(services: Services, exchange: Exchange, chain: Chain, books: Books, control: Control) -> Keeping | None:
    """None: its answer is neither kept nor taken from what is kept."""
    settings, room = room_of(chain, exchange.settings)
    if not may_keep(exchange.request, settings, exchange.wishes.cache):
        return None
    return Keeping(services, exchange, chain, books, control, settings, room)


class Keeping:
    """`waited`: it has followed another request, so what was planned before may be out of date. Every one that was found nothing for
    must be told when it is `over`."""

    __slots__ = (
        "_began_ms",
        "_books",
        "_chain",
        "_control",
        "_exchange",
        "_flight",
        "_good",
        "_owner",
        "_question",
        "_recorded",
        "_recorded_bytes",
        "_room",
        "_services",
        "_settings",
        "state",
        "waited",
    )

    def __init__(
        self,
        services: Services,
        exchange: Exchange,
        chain: Chain,
        books: Books,
        control: Control,
        settings: CacheSettings,
        room: Room,
    ) -> None:
        self._services = services
        self._exchange = exchange
        self._chain = chain
        self._books = books
        self._control = control
        self._settings = settings
        self._room = room
        client = exchange.client
        name = "" if client is None else client.name if client.key_id is None else f"{client.name}\0{client.key_id}"
        self._owner = None if settings.shared else name
        self._question = asked(exchange.request)
        self._began_ms = _now_ms(services)
        self._flight: Flight | None = None
        self._good: tuple[Attempt, Usage] | None = None
        self._recorded: list[bytes] | None = []  # None: it is not to be kept any more
        self._recorded_bytes = 0
        self.state = REFRESH if exchange.wishes.cache == "refresh" else MISS
        self.waited = False

    # -- what is there

    async def find(self, plan: Plan) -> Kept | None:
        """The answer that is kept, or that another request has just brought. None: it must be asked for."""
        kept = await self._find(plan)
        result = self.state
        if kept is not None:
            result = JOINED if self.waited else HIT
        self._services.cache.count(self._chain.name, result, kept.cost_nusd if kept is not None else None)
        return kept

    async def _find(self, plan: Plan) -> Kept | None:
        flights = self._services.cache.flights
        candidates = plan.candidates
        if not candidates:
            return None if self.state is REFRESH else await self._look(_out_of_order(plan, self._chain))
        target = candidates[0].target
        key = self._key(target)
        flight = flights.find(key)
        if self.state is REFRESH:  # what it brings is new, and good enough for those who come after it
            self._flight = flights.lead(key) if flight is None else None
            return None
        if flight is not None:
            told = await self._follow(flight, target)
            if isinstance(told, Kept):
                return told
            self._flight = flight if told is Turn.LEAD else None
            return None
        flight = flights.lead(key)
        try:
            kept = await self._look([target])
        except BaseException:  # cancelled, too: those who wait for this one must not wait for ever
            flight.hand_on(failed=False)
            raise
        if kept is not None:
            flight.land(kept)
        else:
            self._flight = flight
        return kept

    async def _look(self, targets: list[Target]) -> Kept | None:
        now_ms = _now_ms(self._services)
        for target in targets:
            kept = await self._services.cache.get(self._settings, self._room, self._key(target), now_ms)
            if kept is not None:
                return kept
        return None

    async def _follow(self, flight: Flight, target: Target) -> Kept | Turn:
        """Waits no longer than it would for the target's first content, and then goes alone."""
        services, control, received = self._services, self._control, self._exchange.received
        first_token_s = target.timeouts.first_token_s
        if first_token_s is None:
            streamed = self._exchange.request.stream and not target.reasoning
            first_token_s = FIRST_TOKEN_STREAM_S if streamed else FIRST_TOKEN_WHOLE_S
        began = services.clock.monotonic()
        self.waited = True
        control.phase = ErrorClass.TTFB_TIMEOUT
        control.deadline = received + min(first_token_s, target.timeouts.total_s)
        try:
            return await flight.follow()
        except asyncio.CancelledError:
            if control.reason is not ErrorClass.TTFB_TIMEOUT or control.gone:
                raise
            control.cause()
            return Turn.ALONE
        finally:
            control.deadline = NEVER
            self._books.waited_s += services.clock.monotonic() - began

    def _key(self, target: Target) -> bytes:
        return key_of(self._question, self._services.cache.identity(self._chain, target), self._owner)

    async def give(self, kept: Kept, sink: Sink, limits: ClientAccount | None) -> None:
        """Answers with what is kept. Its row costs nothing and says what that saved."""
        services, exchange, books, control = self._services, self._exchange, self._books, self._control
        now = services.clock.monotonic()
        own_s = max(0.0, now - exchange.received - books.waited_s)
        books.first_token_s = now - exchange.received
        books.overhead_s = own_s
        told = {
            "state": "hit",
            "provider": kept.provider,
            "model": kept.upstream_model,
            "of": kept.request_id,
            "saved_nusd": kept.cost_nusd,
            "input_tokens": kept.input_tokens,
            "output_tokens": kept.output_tokens,
        }
        books.extra = (books.extra or {}) | {"cache": told}
        books.close_unattempted(OK, now)
        headers = self._headers(kept, own_s)
        if limits is not None:
            headers += limits.headers(now)
        if services.degraded:
            headers.append((DEGRADED, services.degraded))
        control.phase = ErrorClass.CLIENT_GONE
        control.deadline = now + WRITE_STALL_S
        if services.journal.strict:
            await services.journal.synced()
        if exchange.request.stream:
            sink.start(200, headers)
            await sink.finish(kept.body)
        else:
            await sink.respond(200, headers, kept.body)

    def _headers(self, kept: Kept, own_s: float) -> list[tuple[bytes, bytes]]:
        age_s = max(0, _now_ms(self._services) - kept.kept_ms) // 1000
        headers = [
            (b"content-type", EVENT_STREAM if self._exchange.request.stream else b"application/json"),
            (b"x-request-id", self._exchange.id.encode()),
            (b"x-tollbridge-provider", kept.provider.encode()),
            (b"x-tollbridge-model", header_value(kept.upstream_model)),
            (b"x-tollbridge-attempts", b"0"),
            (b"x-tollbridge-cache", b"hit"),
            (b"age", b"%d" % age_s),
            (b"server-timing", b"proxy;dur=%.1f" % (own_s * 1000)),
            (b"cache-control", b"no-cache"),
        ]
        if kept.dropped:
            headers.append((b"x-tollbridge-dropped", ", ".join(kept.dropped).encode()))
        return headers

    # -- what is to be kept

    def tee(self, sink: Sink) -> Sink:
        """Where the answer goes now: to the caller as before, and here."""
        return Tee(sink, self)

    def record(self, data: bytes) -> None:
        recorded, cache = self._recorded, self._services.cache
        if recorded is None:
            return
        size = len(data)
        recorded.append(data)
        self._recorded_bytes += size
        cache.recorded_bytes += size
        if self._recorded_bytes > MAX_ANSWER_BYTES or cache.recorded_bytes > MAX_RECORDED_BYTES:
            self._forget()

    def answered(self, attempt: Attempt, usage: Usage) -> None:
        """The attempt's answer is whole, and the last of it is about to go out."""
        try:
            if self._is_good(attempt):
                self._good = (attempt, usage)
        except Exception as fault:  # noqa: BLE001 - the answer is whole and paid for: it must not be lost over its copy
            self._forgo(fault)

    def _is_good(self, attempt: Attempt) -> bool:
        """Whole, not empty, not canned, not put together from two, and not measured to be bad."""
        request, stream = self._exchange.request, attempt.stream
        if not is_worth_keeping(request, attempt.finish_reason) or attempt.candidate.target.answer is not None:
            return False
        if (stream is not None and stream.malformed) or (request.kind == "chat" and not attempt.text()):
            return False
        extra, gate = self._books.extra or {}, self._chain.quality
        measured = extra.get("quality")
        return not extra.get("continued") and (gate is None or measured is None or measured >= gate.min)

    def settle(self) -> None:
        """All of the answer is recorded. A good one is kept, and those who wait for it have it."""
        if self._good is None or self._recorded is None:
            return
        try:
            self._keep(*self._good, b"".join(self._recorded))
        except Exception as fault:  # noqa: BLE001 - as above
            self._forgo(fault)

    def _keep(self, attempt: Attempt, usage: Usage, body: bytes) -> None:
        services, target = self._services, attempt.candidate.target
        cost_nusd, _ = charge(usage, services.prices.rates(target, services.clock.wall()))
        kept = Kept(
            self._exchange.id,
            self._chain.name,
            target.provider.name,
            target.upstream_model,
            _now_ms(services),
            cost_nusd,
            usage.input_tokens,
            usage.output_tokens,
            attempt.outbound.dropped,
            body,
        )
        self._forget_pieces()
        services.cache.put(self._settings, self._room, self._key(target), kept, self._began_ms)
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.land(kept)

    def over(self) -> None:
        """The request has ended: nobody waits for it any longer."""
        self._forget_pieces()
        flight, self._flight = self._flight, None
        if flight is None:
            return
        if self._books.outcome == "ok":
            flight.land(None)  # as good as it was, it is not kept: nor would those of the others be
        else:
            flight.hand_on(failed=self._books.outcome == "failed" and not self._control.gone)

    def _forgo(self, fault: Exception) -> None:
        self._services.log.error("cache_failed", request_id=self._exchange.id, fault=type(fault).__name__)
        self._forget()

    def _forget(self) -> None:
        """It is too large: who waits for it would wait in vain."""
        self._forget_pieces()
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.land(None)

    def _forget_pieces(self) -> None:
        if self._recorded is not None:
            self._services.cache.recorded_bytes -= self._recorded_bytes
            self._recorded = None


class Tee:
    """A `Sink` that lets a `Keeping` read along."""

    __slots__ = ("_keeping", "_sink")

    def __init__(self, sink: Sink, keeping: Keeping) -> None:
        self._sink = sink
        self._keeping = keeping

    async def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        if status == 200:
            headers = self._marked(headers)
            self._keeping.record(body)
            self._keeping.settle()
        await self._sink.respond(status, headers, body)

    def start(self, status: int, headers: HeaderList) -> None:
        self._sink.start(status, self._marked(headers))

    def push(self, data: bytes) -> bool:
        self._keeping.record(data)
        return self._sink.push(data)

    async def drain(self) -> None:
        await self._sink.drain()

    async def finish(self, data: bytes = b"") -> None:
        self._keeping.record(data)
        self._keeping.settle()  # before the last bytes go: a caller that reads slowly holds nobody up
        await self._sink.finish(data)

    def abort(self) -> None:
        self._sink.abort()

    def _marked(self, headers: HeaderList) -> HeaderList:
        return [*headers, (b"x-tollbridge-cache", self._keeping.state.encode())]


def _out_of_order(plan: Plan, chain: Chain) -> list[Target]:
    """The targets that nothing but this moment keeps from being asked."""
    reasons = {entry["target"]: str(entry.get("skipped", "")) for entry in plan.trace}
    return [target for target in chain.targets if reasons.get(target.name, "").startswith(_FOR_THE_MOMENT)]


def _now_ms(services: Services) -> int:
    return int(services.clock.wall() * 1000)
