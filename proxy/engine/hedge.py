"""Hedging the first token: when the first target is late, the next one is asked as well, and the first content wins.

    first asked --content, or a fault--> as without hedging
        '--late--> may it? --no--> as without hedging
                      '--yes--> both asked --content of one--> the other is let go (`hedged_out`)
                                    |--one fails--> the other simply goes on
                                    '--the caller leaves, or the proxy stops--> both end

What runs a request is one task; here each of the two attempts has one of its own until content is there, with its own deadlines, and
hands its connection back to the request's task then. Nothing of either has reached the caller by that time, so that the rules of
failover hold unchanged: every attempt has its permit, its begin record and exactly one end. Late is noticed by the timer of all
deadlines, at most a tenth of a second after the fact.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.core.chat import ChatRequest
from proxy.core.deadlines import NEVER
from proxy.core.errors import CannotCarry, ErrorClass, ProxyError, UpstreamError
from proxy.core.ports import RequestHead
from proxy.core.target import Chain, HedgeSettings
from proxy.engine.attempt import Attempt
from proxy.engine.books import Books
from proxy.engine.consumed import so_far
from proxy.engine.control import Control
from proxy.engine.onward import Onward
from proxy.engine.racer import Racer
from proxy.engine.services import Services
from proxy.routing.deployment import Permit
from proxy.routing.plan import Candidate
from proxy.routing.verdict import Effect, Verdict, judge

Begin = Callable[[Candidate, Permit, float], tuple[Attempt, RequestHead]]
Hear = Callable[[Attempt, UpstreamError], Verdict]


def lateness_s(hedge: HedgeSettings, way: list[Candidate], position: int, now: float) -> float | None:
    """Seconds from its begin after which the candidate at `position` is late. None: nobody knows yet what is usual there, or there is
    no other target behind it."""
    first = way[position]
    if first.target.answer is not None or not any(_may_stand_in(other, first) for other in way[position + 1 :]):
        return None
    if hedge.after is None:
        return hedge.after_s
    standing = first.deployment.standing
    if standing is None:
        return None
    standing.forget(now)
    return standing.late_s(hedge.after)


def _may_stand_in(other: Candidate, first: Candidate) -> bool:
    """Another key of the same target would be as late, and a canned answer would always win."""
    return other.target.name != first.target.name and other.target.answer is None


class Race:
    """The first attempt of a request and, once that is late, a second one. `run` returns the first content, or raises, of `attempt`: the
    one that is left for the request to go on with, or to end by. The other has been settled by then.

    `way` and `position` are the candidates and where the request has got to among them: the second one has moved to behind the first.
    Implements `Watched`: its deadline is when the first is late.
    """

    __slots__ = (
        "_begin",
        "_books",
        "_chain",
        "_control",
        "_due",
        "_first",
        "_hear",
        "_late_s",
        "_news",
        "_onward",
        "_request",
        "_result",
        "_second",
        "_services",
        "attempt",
        "deadline",
        "position",
        "way",
    )

    def __init__(
        self,
        services: Services,
        control: Control,
        chain: Chain,
        books: Books,
        onward: Onward,
        *,
        request: ChatRequest,
        way: list[Candidate],
        position: int,
        late_s: float,
        begin: Begin,
        hear: Hear,
    ) -> None:
        self._services = services
        self._control = control
        self._chain = chain
        self._books = books
        self._onward = onward
        self._request = request
        self._late_s = late_s
        self._begin = begin
        self._hear = hear
        self._due = False
        self._result: str | None = None
        self._first: Racer
        self._second: Racer | None = None
        self._news: asyncio.Future[None]
        self.attempt: Attempt
        self.deadline = NEVER
        self.way = way
        self.position = position

    async def run(self, first: Attempt, head: RequestHead, *, fresh: bool) -> bytes:
        """Raises UpstreamError; CancelledError when the request's task is cancelled by somebody else than its control."""
        services, books, control = self._services, self._books, self._control
        waited_s, began_at = books.waited_s, first.started_at
        self.attempt = first
        self._news = asyncio.get_running_loop().create_future()
        self._first = self._start(first, head, fresh=fresh)
        self.deadline = began_at + self._late_s
        services.deadlines.watch(self)
        try:
            return await self._decided()
        except asyncio.CancelledError:
            cause = control.cause()
            self._end_other(cause or UpstreamError(ErrorClass.DRAINED, "the proxy was stopped"))
            if cause is None:
                raise
            raise cause from None
        finally:
            services.deadlines.forget(self)
            for racer in self._racers():
                racer.stop()
            self._end_other(UpstreamError(ErrorClass.HEDGED_OUT, "the other target's attempt decided"))
            self.attempt.control = control
            # the attempts ran beside each other: what the caller waited for in vain is the time until the one that is left began
            books.waited_s = waited_s + self.attempt.started_at - began_at
            if self._result is not None:
                services.meter.hedged(self._chain.name, self._result)

    def expire(self, now: float) -> None:
        self.deadline = NEVER
        self._due = True
        self._wake()

    # -- the race

    async def _decided(self) -> bytes:
        loop = asyncio.get_running_loop()
        while True:
            await self._news
            self._news = loop.create_future()
            running = [racer for racer in self._racers() if not racer.attempt.settled]
            for racer in running:
                if racer.out is not None:
                    return self._won(racer, racer.out, running)
            for racer in running:
                if racer.error is not None:
                    self._failed(racer, racer.error, [other for other in running if not other.attempt.settled])
            if self._due:
                self._due = False
                if self._first.error is None:
                    self._ask_another()

    def _won(self, winner: Racer, out: bytes, running: list[Racer]) -> bytes:
        self.attempt = winner.attempt
        if self._second is not None and not self._second.attempt.settled:
            self._result = "won" if winner is self._second else "lost"
        for racer in running:
            if racer is not winner:
                racer.stop()
                self._end_other(UpstreamError(ErrorClass.HEDGED_OUT, "another target answered first"))
        return out

    def _failed(self, racer: Racer, error: UpstreamError, running: list[Racer]) -> None:
        """Raises when that was the last one, or when its fault is one that no other target would mend."""
        self.attempt = racer.attempt
        if len(running) == 1:
            raise error
        (other,) = [one for one in running if one is not racer]
        error = self._onward.as_seen(error, racer.attempt)
        first = racer is self._first
        if first and not judge(error, failover_on=self._chain.failover_on, committed=False).try_next:
            raise error  # and the other is let go
        now = self._services.clock.monotonic()
        self._hear(racer.attempt, error)
        self._onward.errors.append(error)
        self._onward.note(racer.attempt, error, now, "next" if first else "wait")
        self._books.end(racer.attempt, "failed", now, error=error)
        if first:
            self._onward.tell_failover(racer.attempt, other.attempt.candidate, error)
        racer.attempt.close()
        self.attempt = other.attempt

    def _ask_another(self) -> None:
        services, chain = self._services, self._chain
        hedge = chain.hedge
        now = services.clock.monotonic()
        found = self._another()
        if hedge is None or found is None:
            self._result = "refused"
            return
        if not services.hedges.may(chain.name, hedge.max_extra, now):
            self._result = "capped"
            return
        candidate = self.way[found]
        ask = self._onward.ask(candidate.target) if candidate.deployment.allowances else None
        permit = candidate.deployment.acquire(now, ask)
        if permit is None:
            self._result = "refused"
            return
        try:
            attempt, head = self._begin(candidate, permit, now)
        except (CannotCarry, ProxyError):  # its format has no words for this request, or the ledger cannot be written
            permit.unused(now)
            self._result = "refused"
            return
        services.hedges.sent(chain.name, now)
        self._result = "failed"  # unless it turns out otherwise
        self.way = [*self.way[: self.position + 1], candidate, *self.way[self.position + 1 : found], *self.way[found + 1 :]]
        self.position += 1
        after_ms = round((now - self._first.attempt.started_at) * 1000, 1)
        self._books.extra = {**(self._books.extra or {}), "hedged": True}
        self._books.notes.append(
            {"attempt": attempt.n, "target": candidate.target.name, "hedge": True, "after_ms": after_ms, "then": "race"}
        )
        self._second = self._start(attempt, head, fresh=False)

    def _another(self) -> int | None:
        """Where among the candidates the next one is that can be asked at once and is not on probation."""
        first = self.way[self.position]
        position: int | None = self.position
        while position is not None:
            position = self._onward.following(self.way, position, None)
            if position is not None:
                other = self.way[position]
                if _may_stand_in(other, first) and other.deployment.breaker.calm:
                    return position
        return None

    # -- its parts

    def _start(self, attempt: Attempt, head: RequestHead, *, fresh: bool) -> Racer:
        total_at = self._onward.total_at(attempt.candidate.target)
        return Racer(self._services, self._request, attempt, head, total_at=total_at, fresh=fresh, wake=self._wake)

    def _wake(self) -> None:
        if not self._news.done():
            self._news.set_result(None)

    def _racers(self) -> list[Racer]:
        return [self._first] if self._second is None else [self._first, self._second]

    def _end_other(self, error: UpstreamError) -> None:
        """Settles the attempt that is not the one that is left, unless that is done."""
        now = self._services.clock.monotonic()
        for racer in self._racers():
            attempt = racer.attempt
            if attempt is self.attempt or attempt.settled:
                continue
            racer.stop()
            attempt.close()
            attempt.permit.release(Effect.NEUTRAL, now)
            known = attempt.stream is not None and (attempt.stream.committed or attempt.stream.usage is not None)
            usage = so_far(attempt, self._request) if known else None
            if error.error_class is ErrorClass.HEDGED_OUT:
                self._onward.note(attempt, error, now, "stop")
            gone = error.error_class is ErrorClass.CLIENT_GONE
            self._books.end(attempt, "client_gone" if gone else "failed", now, usage=usage, error=error)
            standing = attempt.candidate.deployment.standing
            if racer is self._first and standing is not None and attempt.content_at is None:
                # how late it would have been nobody knows: later than what made it late, which then stays what is usual
                standing.note_first_token(now, self._late_s)
