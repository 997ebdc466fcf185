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
from math import inf

from proxy.accounting.budgets import Reserved, ask_of, expected_tokens, request_bound_nusd
from proxy.accounting.throttle import ClientAccount, Seat
from proxy.accounting.usage import estimate_input, estimate_output, suspect
from proxy.config.settings import ClientSettings
from proxy.core.allowance import Ask
from proxy.core.deadlines import NEVER
from proxy.core.errors import (
    AllProvidersUnavailable,
    CallerError,
    CannotCarry,
    ErrorClass,
    ModelNotAllowed,
    ModelNotFound,
    ProxyError,
    UnsupportedFeature,
    UpstreamError,
)
from proxy.core.ports import HeaderList, Sink
from proxy.core.redact import one_line
from proxy.core.target import Chain, Provider, Target
from proxy.core.usage import Usage, UsageSource
from proxy.dialects.base import OutboundDialect
from proxy.dialects.embeddings import with_usage
from proxy.engine.answers import answer_headers, error_headers
from proxy.engine.attempt import WRITE_STALL_S, Attempt
from proxy.engine.books import CLIENT_GONE, OK, Books
from proxy.engine.control import Control
from proxy.engine.exchange import Exchange
from proxy.engine.heads import Heads
from proxy.engine.services import Services
from proxy.routing.breaker import State
from proxy.routing.deployment import Permit
from proxy.routing.plan import SHORT_WAIT_S, Candidate, Plan, backoff_s, frees_soon, larger_context, plan
from proxy.routing.verdict import RULES, Effect, Verdict, client_error, judge

PRICES_WAIT_S = 5.0  # for the price data, which is read in the background from the start on
HOLD_SLACK_S = 120.0  # after a request's total time, in which it must have ended, until what it holds is given up for lost
# what somebody must mend, and what a failover would hide: said aloud each time
_LOUD = frozenset(
    (ErrorClass.AUTH, ErrorClass.MODEL_NOT_FOUND, ErrorClass.INSUFFICIENT_QUOTA, ErrorClass.TLS, ErrorClass.REDIRECT)
)
# error classes that are also counted as an oddity of their own
_EVENTS = {
    ErrorClass.STALE_RETRY: "stale_retry",
    ErrorClass.AUTH: "auth_latched",
    ErrorClass.INSUFFICIENT_QUOTA: "auth_latched",
    ErrorClass.MODEL_NOT_FOUND: "config_error",
    ErrorClass.REDIRECT: "redirect",
    ErrorClass.INTERNAL: "internal_error",
}
_FROM_OUTSIDE = frozenset((ErrorClass.CLIENT_GONE, ErrorClass.DRAINED))
# what a break after content is still called: the rest, an error event of the provider's too, is `stream_interrupted` by then
_NAMED_BREAKS = frozenset(
    (
        ErrorClass.TRUNCATED,
        ErrorClass.IDLE_TIMEOUT,
        ErrorClass.TOTAL_TIMEOUT,
        ErrorClass.TOO_LARGE,
        ErrorClass.MALFORMED,
        ErrorClass.MALFORMED_EVENT,
        ErrorClass.CLIENT_GONE,
        ErrorClass.DRAINED,
        ErrorClass.INTERNAL,
    )
)


@dataclass(frozen=True, slots=True)
class _Step:
    """The next thing to try: which candidate, after how many retries there, whether on a connection of its own, and how long it was
    waited for because of its limits."""

    position: int
    retries: int = 0
    fresh: bool = False
    waited_s: float = 0.0


_FIRST_STEP = _Step(0)
_OK, _CLIENT_GONE = Effect.OK, ErrorClass.CLIENT_GONE  # needed for every request; looked up on their class they are slow


class Relay:
    """The state of one request. `serve` is called once."""

    __slots__ = (
        "_books",
        "_chain",
        "_control",
        "_errors",
        "_exchange",
        "_heads",
        "_hold",
        "_limits",
        "_plan",
        "_seat",
        "_services",
        "_sink",
    )

    def __init__(self, services: Services, heads: Heads, control: Control, exchange: Exchange, sink: Sink) -> None:
        self._services = services
        self._heads = heads
        self._control = control
        self._exchange = exchange
        self._sink = sink
        self._books = Books(services, exchange)
        self._errors: list[UpstreamError] = []
        self._hold: Reserved | None = None
        self._limits: ClientAccount | None = None  # of the client, if it has any
        self._seat: Seat | None = None
        self._chain: Chain  # from `_admit` on
        self._plan: Plan

    async def serve(self) -> None:
        services, exchange, books = self._services, self._exchange, self._books
        meter, now = services.meter, services.clock.monotonic
        meter.request_started()
        services.deadlines.watch(self._control)
        try:
            try:
                if not services.prices.ready:
                    await self._wait_for_prices()
                self._admit()
                await self._walk()
            except ProxyError as error:
                outcome = "rejected" if isinstance(error, CallerError) else "failed"
                books.close_unattempted((outcome, error.status, error.code), now())
                await self._answer_error(error)
        except asyncio.CancelledError:
            # between attempts, or while an error was being told
            cause = self._control.cause()
            if cause is None:
                raise
            await self._end_between(cause)
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

    # -- admission

    def _admit(self) -> None:
        services, exchange = self._services, self._exchange
        client, request = exchange.client, exchange.request
        if client is not None and (limits := services.throttle.clients.get(client.name)) is not None:
            self._limits = limits
            self._seat = limits.enter(services.clock.monotonic(), expected_tokens(request))
        chain = exchange.settings.resolve(request.model)
        if chain is None or chain.name != request.model or chain.direct:
            # a key where the model belongs is no model's name: it stands in no row, and no provider sees it
            shown = services.redact.exact(request.model)
            if shown != request.model:
                request.model, chain = shown, None
        if chain is None:
            raise ModelNotFound(_no_such_model(request.model), param="model")
        self._chain = self._books.chain = chain
        if client is not None and client.is_limited and not client.may_use(request.model, None if chain.direct else chain.name):
            raise ModelNotAllowed(_not_allowed(request.model, client), param="model")
        if services.budgets.active:
            self._reserve(chain)
        self._make_plan()

    def _reserve(self, chain: Chain) -> None:
        services, exchange = self._services, self._exchange
        tags = exchange.tags
        accounts = services.budgets.of(exchange.client.name if exchange.client is not None else None, tags.department, tags.agent)
        if accounts:
            usable = [target for target in chain.targets if target.provider.enabled and target.disabled is None]
            wall = services.clock.wall()
            bound = request_bound_nusd(exchange.request, [(target, services.prices.rates(target, wall)) for target in usable])
            until = max([self._lost_at(target) for target in usable], default=exchange.received + HOLD_SLACK_S)
            self._hold = services.budgets.reserve(accounts, bound, until)

    def _lost_at(self, target: Target) -> float:
        return self._exchange.received + target.timeouts.total_s + HOLD_SLACK_S

    async def _wait_for_prices(self) -> None:
        """In the first second of a first start the price data may not be read yet: only a target that needs it waits."""
        services, exchange = self._services, self._exchange
        chain = exchange.settings.resolve(exchange.request.model)
        wall = services.clock.wall()
        targets = chain.targets if chain is not None else ()
        needed = any(target.provider.enabled and services.prices.rates(target, wall) is None for target in targets)
        if needed and services.warming is not None:
            await asyncio.wait([services.warming], timeout=PRICES_WAIT_S)

    def _make_plan(self) -> None:
        services, exchange = self._services, self._exchange
        made = plan(
            self._chain,
            services.deployments,
            services.clock.monotonic(),
            needs=exchange.request.needs,
            prefer=exchange.wishes.prefer,
            trickle=services.trickle,
        )
        if made.picky:
            made = self._without_refusals(made)
        self._plan = made
        self._books.trace = made.trace

    def _without_refusals(self, made: Plan) -> Plan:
        """Leaves out targets that refuse a parameter of this request, and on a strict chain those that would drop one."""
        body = self._exchange.request.body
        refused: dict[str, str] = {}
        for candidate in made.candidates:
            quirks = candidate.target.quirks
            names = sorted(name for name in quirks.refuse if body.get(name) and not (name == "n" and body[name] == 1))
            if names:
                refused[candidate.target.name] = f"refuses {', '.join(names)}"
            elif self._chain.strict and not quirks.drop.isdisjoint(body):
                refused[candidate.target.name] = f"would drop {', '.join(sorted(quirks.drop & body.keys()))}"
        if not refused:
            return made
        left = [candidate for candidate in made.candidates if candidate.target.name not in refused]
        return replace(
            made,
            candidates=left,
            trace=[{"target": e["target"], "skipped": refused[e["target"]]} if e["target"] in refused else e for e in made.trace],
            lacking=made.lacking if left or made.lacking else next(iter(refused.values())),
        )

    # -- the way down the chain

    async def _walk(self) -> None:
        """Returns when the caller has been answered, one way or the other. Raises ProxyError when nothing could be tried."""
        candidates = self._plan.candidates or await self._candidates()
        step: _Step | None = _FIRST_STEP
        while step is not None:
            candidate = candidates[step.position]
            deployment = candidate.deployment
            ask = self._ask(candidate.target) if deployment.allowances else None
            now = self._services.clock.monotonic()
            permit = deployment.acquire(now, ask)
            if permit is not None:
                if not deployment.breaker.calm and deployment.breaker.state is State.HALF_OPEN:
                    self._services.meter.count("probes")
                step = await self._try(candidate, permit, candidates, step)
                continue
            following = self._following(candidates, step.position, self._errors[-1] if self._errors else None)
            if following is None and (wait_s := self._limit_wait_s(candidate, ask, now, step.waited_s)) is not None:
                await self._pause(wait_s)
                step = replace(step, waited_s=step.waited_s + wait_s)
                continue
            reason = (deployment.refusal(now, ask) if ask is not None else None) or "no permit: circuit or capacity"
            self._books.notes.append({"target": candidate.target.name, "skipped": reason})
            if following is None:
                raise client_error(self._errors[-1], earlier=self._errors[:-1]) if self._errors else self._unavailable()
            step = _Step(following)

    def _ask(self, target: Target) -> Ask:
        """What an attempt at a target may take of its quotas, limits and budget."""
        services = self._services
        rates = services.prices.rates(target, services.clock.wall())
        return ask_of(self._exchange.request, target, rates, self._lost_at(target))

    def _limit_wait_s(self, candidate: Candidate, ask: Ask | None, now: float, waited_s: float) -> float | None:
        """How long to wait for the last candidate, which is over a limit of a minute; None when it is not worth it."""
        wait_s = candidate.deployment.brief_wait_s(now, ask)
        if wait_s is None or waited_s + wait_s > SHORT_WAIT_S:
            return None
        return wait_s if now + wait_s < self._exchange.received + candidate.target.timeouts.total_s else None

    async def _candidates(self) -> list[Candidate]:
        """When there is nothing to try at once: a short cooldown is worth waiting for, anything else is told."""
        cooling_s = self._plan.cooling_s
        if cooling_s is not None and cooling_s <= SHORT_WAIT_S:
            await self._pause(cooling_s)
            self._make_plan()
            if self._plan.candidates:
                return self._plan.candidates
        if self._plan.lacking is not None:
            raise UnsupportedFeature(
                f"No target of `{self._exchange.request.model}` can serve this request: {self._plan.lacking}."
            )
        raise self._unavailable()

    async def _try(self, candidate: Candidate, permit: Permit, candidates: list[Candidate], step: _Step) -> _Step | None:
        """One attempt and what follows from it: another step, or None once the caller has been answered."""
        services, exchange, control = self._services, self._exchange, self._control
        target = candidate.target
        provider = target.provider
        started_at = services.clock.monotonic()
        attempt: Attempt | None = None
        try:
            dialect = services.outbound[provider.dialect] if exchange.request.kind == "chat" else self._embedder(provider)
            outbound = dialect.encode_request(exchange.request, target)
            if outbound.dropped and self._chain.strict:
                raise CannotCarry(", ".join(outbound.dropped))
            attempt_id, n = self._books.begin(candidate)
            attempt = Attempt(attempt_id, n, candidate, permit, dialect, outbound, control, services.clock, started_at)
            if n == 1:
                services.retry_budgets.on_first_attempt(provider.name, started_at)
            head = self._heads.get(provider, candidate.credential, outbound.path)
            if provider.signs:
                head = await services.authorizer.authorize(provider, candidate.credential, head, outbound.body)
            last = await attempt.run(
                exchange.request,
                services.transports[provider.transport],
                head,
                total_at=exchange.received + target.timeouts.total_s,
                fresh=step.fresh,
                sink=self._sink,
                headers=self._headers,
                journal=services.journal,
            )
            await self._answer(attempt, last)
            return None
        except UpstreamError as raised:
            error = raised
        except asyncio.CancelledError:
            cause = control.cause()
            if cause is None:
                self._torn_down(attempt, permit)
                raise
            error = cause
        except ProxyError:
            permit.unused(started_at)
            raise
        except CannotCarry as lack:
            permit.unused(started_at)
            return self._passed_over(target, lack, candidates, step)
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
        return await self._after(attempt, self._as_seen(error, attempt), candidates, step)

    def _embedder(self, provider: Provider) -> OutboundDialect:
        found = self._services.embedders.get(provider.dialect)
        if found is None:
            raise CannotCarry("embeddings")
        return found

    def _passed_over(self, target: Target, lack: CannotCarry, candidates: list[Candidate], step: _Step) -> _Step:
        """The target's format has no words for this request, which showed only when it was to be written in it."""
        self._books.notes.append({"target": target.name, "skipped": f"cannot carry {lack.feature}"})
        following = self._following(candidates, step.position, None)
        if following is not None:
            return _Step(following)
        if self._errors:
            raise client_error(self._errors[-1], earlier=self._errors[:-1])
        model = self._exchange.request.model
        raise UnsupportedFeature(f"No target of `{model}` can carry {lack.feature}.", param=lack.param)

    async def _answer(self, attempt: Attempt, last: bytes) -> None:
        """Settles what is whole and hands on its last bytes."""
        usage = attempt.usage
        if usage is not None and self._is_doubtful(usage, attempt):
            self._services.meter.count("usage_suspect")
            usage = None
        self._control.deadline = NEVER
        if usage is None:
            usage = await self._counted(attempt)
            if self._exchange.request.kind == "embeddings":
                last = with_usage(last, usage)
        now = self._services.clock.monotonic()
        attempt.permit.release(_OK if attempt.reset_s is None else Effect.RATE, now, attempt.reset_s)
        self._books.end(attempt, "ok", now, usage=usage, closing=OK)
        self._note_oddities(attempt)
        self._control.phase = _CLIENT_GONE
        self._control.deadline = now + WRITE_STALL_S
        if self._services.journal.strict:
            await self._services.journal.synced()
        if attempt.committed:
            await self._sink.finish(last)
            await attempt.linger()
        else:
            await self._sink.respond(200, self._headers(attempt, b"application/json"), last)

    async def _after(self, attempt: Attempt, error: UpstreamError, candidates: list[Candidate], step: _Step) -> _Step | None:
        """What follows a failed attempt: another step, or None once the caller has been told."""
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
        if attempt.committed:
            await self._end_broken(attempt, error, now)
            return None
        if error.error_class is ErrorClass.STALE_RETRY and not step.fresh:
            self._books.end(attempt, "failed", now, error=error)
            return _Step(step.position, retries=step.retries, fresh=True)
        self._errors.append(error)
        if error.error_class in _FROM_OUTSIDE or self._control.gone:
            await self._end_unseen(attempt, error, now)
            return None
        if verdict.try_next:
            if len(candidates) == 1:
                wait_s = self._retry_wait_s(attempt.candidate, error, verdict, step.retries)
                if wait_s is not None:
                    self._note_verdict(attempt, error, now, "retry")
                    self._books.end(attempt, "failed", now, error=error)
                    await self._pause(wait_s)
                    return _Step(step.position, retries=step.retries + 1)
            following = self._following(candidates, step.position, error)
            if following is not None:
                self._note_verdict(attempt, error, now, "next")
                self._books.end(attempt, "failed", now, error=error)
                self._tell_failover(attempt, candidates[following], error)
                return _Step(following)
        self._note_verdict(attempt, error, now, "stop")
        answer = client_error(error, earlier=self._errors[:-1])
        self._books.end(attempt, "failed", now, error=error, closing=("failed", answer.status, answer.code))
        await self._answer_error(answer)
        return None

    async def _pause(self, seconds: float) -> None:
        self._books.waited_s += seconds
        await self._services.sleep(seconds)

    def _following(self, candidates: list[Candidate], position: int, error: UpstreamError | None) -> int | None:
        """The next candidate worth trying after `position`, None when the chain is spent. One that is over its limits for a moment is
        worth it when there is no other."""
        now = self._services.clock.monotonic()
        soon: int | None = None
        too_long = error is not None and error.error_class is ErrorClass.CONTEXT_LENGTH
        context_of = self._services.prices.context_window
        for following in range(position + 1, len(candidates)):
            candidate = candidates[following]
            if too_long and not larger_context(candidate.target, candidates[position].target, context_of):
                continue
            if now - self._exchange.received >= candidate.target.timeouts.total_s:
                continue  # one time for the whole sequence: another attempt would be paid for and cut off at once
            if candidate.deployment.unusable(now) is None:
                return following
            if soon is None and candidate.deployment.allowances and frees_soon(candidate.deployment, now):
                soon = following
        return soon

    def _as_seen(self, error: UpstreamError, attempt: Attempt) -> UpstreamError:
        """The error by what the caller has seen: a break after content has a name of its own. Redacts what the provider said."""
        redact = self._services.redact
        error.message = one_line(redact(error.message))
        error.code = redact(error.code) if error.code else None
        error.param = redact(error.param) if error.param else None
        if attempt.committed and error.error_class not in _NAMED_BREAKS:
            error.error_class = ErrorClass.STREAM_INTERRUPTED
        return error

    def _retry_wait_s(self, candidate: Candidate, error: UpstreamError, verdict: Verdict, retries: int) -> float | None:
        """How long to wait before the one usable target is tried again; None when it is not."""
        services = self._services
        if retries >= candidate.target.retries or not RULES[error.error_class].same_target:
            return None
        wait_s = backoff_s(verdict.penalise, retries, services.random)
        if verdict.cooldown_s is not None:
            wait_s = max(wait_s, verdict.cooldown_s)
        now = services.clock.monotonic()
        total_at = self._exchange.received + candidate.target.timeouts.total_s
        if wait_s > SHORT_WAIT_S or now + wait_s >= total_at:
            return None
        if candidate.deployment.unusable(now + wait_s) is not None:
            return None
        if not services.retry_budgets.take(candidate.target.provider.name, now):
            services.meter.count("budget_exhausted")
            return None
        return wait_s

    def _tell_failover(self, attempt: Attempt, following: Candidate, error: UpstreamError) -> None:
        services = self._services
        from_, to = _label(attempt.candidate.target), _label(following.target)
        if from_ != to:
            services.meter.failover(from_, to, error.error_class.value)
        if error.error_class in _LOUD:
            services.meter.count("warned_failover")

    def _note_verdict(self, attempt: Attempt, error: UpstreamError, now: float, decision: str) -> None:
        if error.error_class in _LOUD:
            self._services.log.warning(
                "upstream_needs_attention",
                request_id=self._exchange.id,
                target=attempt.candidate.target.name,
                error_class=error.error_class.value,
                message=error.message,
                then=decision,
            )
        self._books.notes.append(
            {
                "attempt": attempt.n,
                "target": attempt.candidate.target.name,
                "error": error.error_class.value,
                "ms": round((now - attempt.started_at) * 1000, 1),
                "then": decision,
            }
        )

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

    # -- usage

    def _is_doubtful(self, usage: Usage, attempt: Attempt) -> bool:
        request = self._exchange.request
        if usage.input_tokens <= request.body_bytes and usage.output_tokens <= attempt.text_bytes:
            return False  # a token is a byte at least
        limit = request.max_output_tokens
        return suspect(
            usage,
            body_bytes=request.body_bytes,
            text_bytes=attempt.text_bytes,
            max_output=limit * request.choices if limit is not None else None,
            body=request.body,
        )

    async def _counted(self, attempt: Attempt) -> Usage:
        """Our own count, off the loop; the estimate when the caller leaves meanwhile, for then there is no time for it."""
        services = self._services
        text = attempt.text()
        if attempt.stream is not None and attempt.text_bytes > len(text):
            return self._estimated(attempt)
        counter, body = services.counter, self._exchange.request.body
        embeds = self._exchange.request.kind == "embeddings"

        def count() -> tuple[int, int]:
            if embeds:
                return counter.count_input(body.get("input")), 0
            return counter.count_prompt(body), counter.count_texts([text.decode("utf-8", "replace")])

        loop = asyncio.get_running_loop()
        try:
            input_tokens, output_tokens = await loop.run_in_executor(services.executor, count)
        except asyncio.CancelledError:
            if self._control.cause() is None:
                raise
            return self._estimated(attempt)
        except Exception as fault:  # noqa: BLE001 - the answer is whole and paid for: it must not be lost over its count
            services.log.error("counting_failed", request_id=self._exchange.id, fault=repr(fault)[:500])
            return self._estimated(attempt)
        return Usage(input_tokens, output_tokens, source=UsageSource.COUNTED)

    def _estimated(self, attempt: Attempt) -> Usage:
        """What can be said at once: by the bytes that went and came."""
        request = self._exchange.request
        output_tokens = estimate_output(attempt.text_bytes) if request.kind == "chat" else 0
        return Usage(estimate_input(request.body_bytes), output_tokens, source=UsageSource.ESTIMATED)

    def _so_far(self, attempt: Attempt) -> Usage:
        """Of an answer that broke off: the provider's own figure once it is final, else at least what was seen."""
        estimated = self._estimated(attempt)
        reported = attempt.stream.usage if attempt.stream is not None else None
        if reported is None or self._is_doubtful(reported, attempt):
            return estimated
        if attempt.finish_reason is not None or reported.output_tokens >= estimated.output_tokens:
            return reported
        return replace(reported, output_tokens=estimated.output_tokens, source=UsageSource.ESTIMATED)

    # -- the ends that are not whole answers

    async def _end_broken(self, attempt: Attempt, error: UpstreamError, now: float) -> None:
        """After content: bill what was relayed, say so in the stream, and never end as if it were whole."""
        usage = self._so_far(attempt)
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

    async def _end_unseen(self, attempt: Attempt, error: UpstreamError, now: float) -> None:
        """Before content, by the caller's leaving or our own stopping."""
        if error.error_class is ErrorClass.DRAINED:
            answer = client_error(error)
            self._books.end(attempt, "failed", now, error=error, closing=("interrupted", answer.status, answer.code))
            await self._answer_error(answer)
            return
        self._books.end(attempt, "client_gone", now, error=error, closing=CLIENT_GONE)
        self._sink.abort()

    async def _end_between(self, error: UpstreamError) -> None:
        """The caller left, or the proxy must stop, while no attempt was open."""
        now = self._services.clock.monotonic()
        if error.error_class is ErrorClass.DRAINED and not self._books.closed:
            answer = client_error(error)
            self._books.close_unattempted(("interrupted", answer.status, answer.code), now)
            await self._answer_error(answer)
        else:
            self._books.close_unattempted(CLIENT_GONE, now)
            self._sink.abort()

    def _torn_down(self, attempt: Attempt | None, permit: Permit) -> None:
        """Cancelled, and not by one of our own interruptions: the server is being taken apart around us."""
        now = self._services.clock.monotonic()
        if attempt is None:
            permit.unused(now)
        else:
            permit.release(Effect.NEUTRAL, now)
            error = UpstreamError(ErrorClass.DRAINED, "the proxy was stopped")
            usage = self._so_far(attempt) if attempt.committed else None
            self._books.end(attempt, "failed", now, usage=usage, error=error, closing=("interrupted", None, "draining"))

    async def _answer_error(self, error: ProxyError) -> None:
        headers = error_headers(self._exchange.id, error, attempts=self._books.attempts)
        if self._limits is not None:
            headers += self._limits.headers(self._services.clock.monotonic())
        if self._services.journal.strict:
            await self._services.journal.synced()
        await self._sink.respond(error.status, headers, self._services.inbound.encode_error(error))

    def _unavailable(self) -> ProxyError:
        self._services.meter.count("chain_exhausted")
        now = self._services.clock.monotonic()
        told = [*self._plan.trace, *self._books.notes]
        reasons = "; ".join([f"{entry['target']}: {entry['skipped']}" for entry in told if "skipped" in entry])
        soonest_s = self._plan.soonest_s
        if self._plan.candidates:  # of which none could be had
            soonest_s = min([c.deployment.usable_in_s(now, self._ask(c.target)) for c in self._plan.candidates])
        if told and all(str(entry.get("skipped", "")).startswith("cooling down") for entry in told):
            return client_error(
                UpstreamError(ErrorClass.RATE_LIMITED, reasons, retry_after_s=soonest_s)
            )  # as at the first refusal
        return AllProvidersUnavailable(
            f"No target of `{self._exchange.request.model}` can be tried now ({one_line(reasons, 400)}).",
            retry_after_s=soonest_s if soonest_s is not None and soonest_s < inf else None,
        )

    def _headers(self, attempt: Attempt, content_type: bytes) -> HeaderList:
        now = self._services.clock.monotonic()
        upstream_s = (attempt.content_at or now) - attempt.dispatched_at
        own_s = now - self._exchange.received - upstream_s - self._books.waited_s
        target = attempt.candidate.target
        headers = answer_headers(
            self._exchange.id,
            target,
            attempt.n,
            content_type,
            upstream_s=upstream_s,
            own_s=max(0.0, own_s),
            dropped=attempt.outbound.dropped,
        )
        if self._limits is not None:
            headers += self._limits.headers(now)
        return headers


def _label(target: Target) -> str:
    return f"{target.provider.name}/{target.label}"


def _not_allowed(model: str, client: ClientSettings) -> str:
    chains = [] if client.chains is None else [", ".join(sorted(client.chains)) or "no chain"]
    names = [] if client.models is None else [f"names like {', '.join(client.models)}" if client.models else "no model"]
    return f"This key may not use the model `{model}`: it may use {' and of these '.join([*chains, *names])}."


def _no_such_model(model: str) -> str:
    return f"There is no model `{model}`: name a chain of the configuration, or a provider and its model as provider/model."
