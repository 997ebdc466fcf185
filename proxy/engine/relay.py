"""One request end to end: admit it, plan its way, try the targets in turn until one answers, and see that it is written down.

    admit -> plan -> attempt --ok----------------------------> settle -> answer
                        |--fault before content--> verdict --next--> attempt …
                        |                             '----stop--> settle -> error
                        '--fault after content-----> settle -> error event, no end mark

`serve` owns the caller's sink. An attempt is settled exactly once, synchronously, before the last bytes of its answer are handed on:
whoever kills the process afterwards cannot make the ledger forget it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from proxy.accounting.budgets import Reserved, expected_tokens
from proxy.accounting.throttle import Seat
from proxy.core.deadlines import NEVER
from proxy.core.errors import (
    CallerError,
    CannotCarry,
    ErrorClass,
    ProxyError,
    UnsupportedFeature,
    UpstreamError,
)
from proxy.core.ports import RequestHead, Sink
from proxy.core.target import Chain, HedgeSettings, Provider, Target
from proxy.core.wishes import NO_WISHES
from proxy.dialects.base import OutboundDialect
from proxy.engine.admission import check_allowed, held_for, not_by_name, prices_read
from proxy.engine.attempt import Attempt
from proxy.engine.books import Books
from proxy.engine.choosing import make_plan, plan_in_order
from proxy.engine.continuation import Continuation, continuation_of
from proxy.engine.control import Control
from proxy.engine.ends import Ends
from proxy.engine.exchange import Exchange
from proxy.engine.heads import Heads
from proxy.engine.hedge import Race, lateness_s
from proxy.engine.keeping import Keeping, keeping_of
from proxy.engine.onward import Onward
from proxy.engine.quality_gate import QualityGate, is_gated
from proxy.engine.services import Services
from proxy.routing.breaker import State
from proxy.routing.deployment import Permit
from proxy.routing.plan import Candidate, Plan
from proxy.routing.verdict import Effect, Verdict, client_error, judge

# error classes that are also counted as an oddity of their own
_EVENTS = {
    ErrorClass.STALE_RETRY: "stale_retry",
    ErrorClass.AUTH: "auth_latched",
    ErrorClass.INSUFFICIENT_QUOTA: "auth_latched",
    ErrorClass.MODEL_NOT_FOUND: "config_error",
    ErrorClass.REDIRECT: "redirect",
    ErrorClass.INTERNAL: "internal_error",
}
_CLIENT_GONE = ErrorClass.CLIENT_GONE
_FROM_OUTSIDE = frozenset((ErrorClass.CLIENT_GONE, ErrorClass.DRAINED))


@dataclass(frozen=True, slots=True)
class _Step:
    """The next thing to try: which candidate, after how many retries there, whether on a connection of its own, and how long it was
    waited for because of its limits."""

    position: int
    retries: int = 0
    fresh: bool = False
    waited_s: float = 0.0


_FIRST_STEP = _Step(0)


class Relay:
    """The state of one request. `serve` is called once."""

    __slots__ = (
        "_books",
        "_chain",
        "_continuation",
        "_control",
        "_ends",
        "_exchange",
        "_failing",
        "_gated",
        "_heads",
        "_hold",
        "_keeping",
        "_plan",
        "_seat",
        "_services",
        "_sink",
        "_way",
    )

    def __init__(
        self, services: Services, heads: Heads, control: Control, exchange: Exchange, sink: Sink, *, gated: bool = True
    ) -> None:
        """`gated`: its answer may be measured, where its chain says so."""
        self._services = services
        self._gated = gated
        self._heads = heads
        self._control = control
        self._exchange = exchange
        self._sink = sink
        self._books = Books(services, exchange)
        self._ends = Ends(services, control, exchange, sink, self._books)
        self._failing: Onward | None = None
        self._continuation: Continuation | None = None  # where it may go on after a break
        self._hold: Reserved | None = None
        self._keeping: Keeping | None = None  # where its answer may be kept, or be there already
        self._seat: Seat | None = None
        self._chain: Chain  # from `_admit` on
        self._plan: Plan
        self._way: list[Candidate]  # what may be tried, in order: the plan's, unless a hedge moves one up

    @property
    def _onward(self) -> Onward:
        """What goes on after a failure. Most requests have none, and need nothing of it."""
        if self._failing is None:
            self._failing = Onward(self._services, self._exchange, self._books)
        return self._failing

    async def serve(self) -> None:
        services, exchange, books = self._services, self._exchange, self._books
        meter, now = services.meter, services.clock.monotonic
        meter.request_started()
        services.deadlines.watch(self._control)
        try:
            try:
                if not services.prices.ready:
                    await prices_read(services, exchange)
                self._admit()
                if self._keeping is None:
                    await self._walk()
                else:
                    await self._recall(self._keeping)
            except ProxyError as error:
                if await self._ends.fall_back():
                    return
                outcome = "rejected" if isinstance(error, CallerError) else "failed"
                books.close_unattempted((outcome, error.status, error.code), now())
                await self._ends.error(error)
        except asyncio.CancelledError:
            # between attempts, or while an error was being told
            cause = self._control.cause()
            if cause is None:
                books.close_unattempted(("interrupted", None, "draining"), now())
                raise
            await self._ends.between(cause)
        finally:
            services.deadlines.forget(self._control)
            if self._hold is not None:
                self._hold.settle(None if books.unpriced else books.cost_nusd)
            if self._seat is not None:
                self._seat.leave(books.tokens)
            meter.request_ended(
                books.chain.name if books.chain is not None else "none",
                books.outcome,
                exchange.request.stream,
                now() - exchange.received,
                books.first_token_s,
                books.overhead_s,
            )

    @property
    def cost_nusd(self) -> int | None:
        """What its attempts have cost; None: for one of them no price is known."""
        return None if self._books.unpriced else self._books.cost_nusd

    # -- admission

    def _admit(self) -> None:
        services, exchange = self._services, self._exchange
        client, request = exchange.client, exchange.request
        if client is not None and (limits := services.throttle.clients.get(client.name)) is not None:
            self._ends.limits = limits
            self._seat = limits.enter(services.clock.monotonic(), expected_tokens(request))
        chain = exchange.settings.resolve(request.model)
        if chain is None or chain.name != request.model or chain.direct:
            chain = not_by_name(services, exchange, chain)
        self._chain = self._books.chain = chain
        if client is not None:
            check_allowed(client, request.model, chain)
        if chain.cache is not None or exchange.wishes.cache is not None:
            self._keeping = keeping_of(services, exchange, chain, self._books, self._control)
        if services.budgets.active and self._keeping is None:
            self._hold = held_for(services, exchange, chain)
        if chain.quality is not None and self._gated and is_gated(request):
            self._ends.gate = QualityGate(chain.quality, services, exchange, self._books, self._control, self._onward)
        self._make_plan()

    def _make_plan(self) -> None:
        services, exchange, chain = self._services, self._exchange, self._chain
        if chain.strategy == "order" and exchange.wishes is NO_WISHES:
            made = plan_in_order(chain, exchange.request, services.deployments, services.clock.monotonic(), services.trickle)
        else:
            made = make_plan(
                chain,
                exchange.request,
                wishes=exchange.wishes,
                client=exchange.client.name if exchange.client is not None else None,
                deployments=services.deployments,
                prices=services.prices,
                now=services.clock.monotonic(),
                wall=services.clock.wall(),
                random=services.random,
                trickle=services.trickle,
            )
        self._plan = made
        self._books.trace = made.trace
        if made.asked is not None:
            self._books.extra = {**(self._books.extra or {}), "asked": made.asked}

    async def _recall(self, keeping: Keeping) -> None:
        """Answers with what is kept, which costs nothing and so asks nothing of a budget. Else it walks, for others to have it, too."""
        kept = await keeping.find(self._plan)
        if kept is not None:
            await keeping.give(kept, self._sink, self._ends.limits)
            return
        self._sink = self._ends.keep(keeping, self._sink)
        try:
            if self._services.budgets.active:
                self._hold = held_for(self._services, self._exchange, self._chain)
            if keeping.waited:
                self._make_plan()
            await self._walk()
        finally:
            keeping.over()

    # -- the way down the chain

    async def _walk(self) -> None:
        """Returns when the caller has been answered, one way or the other. Raises ProxyError when nothing could be tried."""
        if self._chain.on_break == "continue":
            self._may_continue()
        self._way = self._plan.candidates or await self._candidates()
        step: _Step | None = _FIRST_STEP
        while step is not None:
            candidate = self._way[step.position]
            deployment = candidate.deployment
            ask = self._onward.ask(candidate.target) if deployment.allowances else None
            now = self._services.clock.monotonic()
            permit = deployment.acquire(now, ask)
            if permit is not None:
                if not deployment.breaker.calm and deployment.breaker.state is State.HALF_OPEN:
                    self._services.meter.count("probes")
                step = await self._try(candidate, permit, step)
                continue
            following = self._onward.following(self._way, step.position, self._onward.latest)
            if following is None and (wait_s := self._onward.limit_wait_s(candidate, ask, now, step.waited_s)) is not None:
                await self._pause(wait_s)
                step = replace(step, waited_s=step.waited_s + wait_s)
                continue
            reason = (deployment.refusal(now, ask) if ask is not None else None) or "no permit: circuit or capacity"
            self._books.notes.append({"target": candidate.target.name, "skipped": reason})
            if following is None:
                again = None if self._ends.holds else self._onward.again(self._way, failover_on=self._chain.failover_on)
                if again is None:
                    raise self._onward.spent(self._plan)
                following, wait_s = again
                await self._pause(wait_s)
            step = _Step(following)

    def _may_continue(self) -> None:
        found = continuation_of(self._services, self._control, self._exchange, self._chain, self._books, self._onward, self._sink)
        if found is not None:
            self._continuation, self._sink = found, found.sink
            self._ends.through(found.sink)

    async def _candidates(self) -> list[Candidate]:
        """When there is nothing to try at once: what is over in a moment is worth waiting for, anything else is told."""
        wait_s = self._onward.until_usable_s(self._plan, self._chain)
        if wait_s is not None:
            await self._pause(wait_s)
            self._make_plan()
            if self._plan.candidates:
                return self._plan.candidates
        if self._plan.lacking is not None:
            raise UnsupportedFeature(
                f"No target of `{self._exchange.request.model}` can serve this request: {self._plan.lacking}."
            )
        raise self._onward.unavailable(self._plan)

    async def _try(self, candidate: Candidate, permit: Permit, step: _Step) -> _Step | None:
        """One attempt and what follows from it: another step, or None once the caller has been answered."""
        services, exchange, control = self._services, self._exchange, self._control
        target = candidate.target
        provider = target.provider
        started_at = services.clock.monotonic()
        attempt: Attempt | None = None
        try:
            attempt, head = self._begin(candidate, permit, started_at)
            total_at = exchange.received + target.timeouts.total_s
            if self._chain.hedge is not None and (race := self._race(self._chain.hedge, step.position, started_at)) is not None:
                try:
                    last = await race.run(attempt, head, fresh=step.fresh)
                finally:
                    attempt, self._way, step = race.attempt, race.way, replace(step, position=race.position)
                total_at = self._onward.total_at(attempt.candidate.target)
            else:
                if provider.signs:
                    head = await services.authorizer.authorize(provider, candidate.credential, head, attempt.outbound.body)
                transport = services.transports[provider.transport]
                last = await attempt.reach(exchange.request, transport, head, total_at=total_at, fresh=step.fresh)
            if exchange.request.stream:
                last = await attempt.carry(
                    last, total_at=total_at, sink=self._sink, headers=self._ends.headers, progress=self._books.progress
                )
            if self._ends.gate is not None:
                self._ends.gate.ahead(self._way, step.position)
            following = await self._ends.answer(attempt, last)
            return None if following is None else _Step(following)
        except UpstreamError as raised:
            error = raised
        except asyncio.CancelledError:
            cause = control.cause()
            if cause is None or not await self._outlasted(attempt, cause):
                self._ends.torn_down(attempt, attempt.permit if attempt is not None else permit)
                raise
            error = cause
        except ProxyError:
            permit.unused(started_at)
            raise
        except CannotCarry as lack:
            permit.unused(started_at)
            return self._passed_over(target, lack, step)
        except Exception as fault:  # noqa: BLE001 - for the reason given below
            # a fault of our own must cost neither the row nor the caller's answer; it is logged whole and answered as an error
            services.log.error("internal_error", request_id=exchange.id, fault=repr(fault)[:500])
            error = UpstreamError(ErrorClass.INTERNAL, "the proxy failed on this answer")
        finally:
            control.deadline = NEVER
            if attempt is not None:
                attempt.close()
        if attempt is None:
            permit.unused(started_at)
            raise client_error(error)
        if attempt.settled:
            return None  # the answer was out, or on its way, when this happened
        return await self._after(attempt, self._onward.as_seen(error, attempt), step)

    async def _outlasted(self, attempt: Attempt | None, cause: UpstreamError) -> bool:
        """Where a provider bills an answer to its end though nobody reads it, it is read to there; false when that was cut short from
        elsewhere."""
        if cause.error_class is not _CLIENT_GONE or attempt is None or not attempt.committed or attempt.settled:
            return True
        target = attempt.candidate.target
        if not target.provider.drain_on_disconnect:
            return True
        self._sink.abort()  # a caller who does not read is still there
        return await attempt.outlast(total_at=self._onward.total_at(target), progress=self._books.progress)

    def _begin(self, candidate: Candidate, permit: Permit, now: float) -> tuple[Attempt, RequestHead]:
        """An attempt that is written down and may be sent. Raises CannotCarry and LedgerUnavailable."""
        services, exchange = self._services, self._exchange
        target = candidate.target
        provider = target.provider
        dialect = services.outbound[provider.dialect] if exchange.request.kind == "chat" else self._embedder(provider)
        if self._continuation is not None:
            dialect = self._continuation.around(dialect)
        outbound = dialect.encode_request(exchange.request, target)
        if outbound.dropped and self._chain.strict:
            raise CannotCarry(", ".join(outbound.dropped))
        attempt_id, n = self._books.begin(candidate)
        attempt = Attempt(attempt_id, n, candidate, permit, dialect, outbound, self._control, services.clock, now)
        if n == 1:
            services.retry_budgets.on_first_attempt(provider.name, now)
        return attempt, self._heads.get(provider, candidate.credential, outbound.path)

    def _race(self, hedge: HedgeSettings, position: int, now: float) -> Race | None:
        """What may ask the next target as well. None: this request is not to be hedged, or has been."""
        services, books, request = self._services, self._books, self._exchange.request
        if not request.stream or books.resumed:
            return None
        if books.attempts == 1:
            services.hedges.asked(self._chain.name, now)
        if books.extra is not None and "hedged" in books.extra:
            return None
        late_s = lateness_s(hedge, self._way, position, now)
        if late_s is None:
            return None
        return Race(
            services,
            self._control,
            self._chain,
            books,
            self._onward,
            request=request,
            way=self._way,
            position=position,
            late_s=late_s,
            begin=self._begin,
            hear=self._hear,
        )

    def _embedder(self, provider: Provider) -> OutboundDialect:
        try:
            return self._services.embedders[provider.dialect]
        except KeyError:
            raise CannotCarry("embeddings") from None

    def _passed_over(self, target: Target, lack: CannotCarry, step: _Step) -> _Step:
        """The target's format has no words for this request, which showed only when it was to be written in it."""
        self._books.notes.append({"target": target.name, "skipped": f"cannot carry {lack.feature}"})
        following = self._onward.following(self._way, step.position, None)
        if following is not None:
            return _Step(following)
        if self._onward.errors:
            raise self._onward.spent(self._plan)
        model = self._exchange.request.model
        raise UnsupportedFeature(f"No target of `{model}` can carry {lack.feature}.", param=lack.param)

    def _hear(self, attempt: Attempt, error: UpstreamError) -> Verdict:
        """What is to be done about a failed attempt; its deployment hears of it."""
        now = self._services.clock.monotonic()
        verdict = judge(error, failover_on=self._chain.failover_on, committed=attempt.committed)
        penalise = verdict.penalise
        if penalise is Effect.CONFIG and self._exchange.request.kind == "embeddings":
            penalise = Effect.NEUTRAL  # a model that cannot embed may chat well: its deployment is the same
        attempt.permit.release(penalise, now, verdict.cooldown_s)
        event = _EVENTS.get(error.error_class)
        if event is not None:
            self._services.meter.count(event)
        if attempt.odd_wait:
            self._services.meter.count("bad_retry_after")
        return verdict

    async def _after(self, attempt: Attempt, error: UpstreamError, step: _Step) -> _Step | None:
        """What follows a failed attempt: another step, or None once the caller has been told."""
        now = self._services.clock.monotonic()
        verdict = self._hear(attempt, error)
        if attempt.committed:
            if self._continuation is not None:
                following = await self._continuation.after(attempt, error, now, self._way, step.position)
                if following is not None:
                    return _Step(following)
            await self._ends.broken(attempt, error, now)
            return None
        if error.error_class is ErrorClass.STALE_RETRY and not step.fresh:
            self._books.end(attempt, "failed", now, error=error)
            return _Step(step.position, retries=step.retries, fresh=True)
        self._onward.errors.append(error)
        self._onward.failed[id(attempt.candidate.deployment)] = error
        if error.error_class in _FROM_OUTSIDE or self._control.gone:
            await self._ends.unseen(attempt, error, now)
            return None
        if verdict.try_next or self._books.resumed:
            if len(self._way) == 1:
                wait_s = self._onward.retry_wait_s(attempt.candidate, error, verdict, step.retries)
                if wait_s is not None:
                    self._onward.note(attempt, error, now, "retry")
                    self._books.end(attempt, "failed", now, error=error)
                    await self._pause(wait_s)
                    # after a stale connection not another one
                    return _Step(step.position, retries=step.retries + 1, fresh=step.fresh)
            following = self._onward.following(self._way, step.position, error)
            if following is not None:
                self._onward.note(attempt, error, now, "next")
                self._books.end(attempt, "failed", now, error=error)
                self._onward.tell_failover(attempt, self._way[following], error)
                return _Step(following)
            again = None
            if len(self._way) > 1 and not self._ends.holds:
                again = self._onward.again(self._way, failover_on=self._chain.failover_on)
            if again is not None:
                self._onward.note(attempt, error, now, "again")
                self._books.end(attempt, "failed", now, error=error)
                await self._pause(again[1])
                return _Step(again[0])
        self._onward.note(attempt, error, now, "stop")
        if self._ends.holds:
            self._books.end(attempt, "failed", now, error=error)
            await self._ends.fall_back()
            return None
        answer = client_error(error, earlier=self._onward.errors[:-1])
        self._books.end(attempt, "failed", now, error=error, closing=("failed", answer.status, answer.code))
        await self._ends.error(answer)
        return None

    async def _pause(self, seconds: float) -> None:
        self._books.waited_s += seconds
        await self._services.sleep(seconds)
