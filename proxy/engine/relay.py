"""One request end to end: admit it, plan its way, try the targets in turn until one answers, and write down what happened.

    admit -> plan -> attempt --ok----------------------------> settle -> answer
                        |--fault before content--> verdict --next--> attempt …
                        |                             '----stop--> settle -> error
                        '--fault after content-----> settle -> error event, no end mark

`serve` owns the caller's sink. An attempt is settled exactly once, synchronously, before the last bytes of its answer are handed on:
whoever kills the process afterwards cannot make the ledger forget it.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace
from typing import Any

from proxy.accounting.budgets import Hold, request_bound_nusd
from proxy.accounting.journal import JournalError
from proxy.accounting.pricing import charge
from proxy.accounting.records import Begin, End, Rejected, RequestEnd, RequestOpen
from proxy.accounting.usage import estimate_input, estimate_output, suspect
from proxy.core.errors import (
    AllProvidersUnavailable,
    CallerError,
    ErrorClass,
    LedgerUnavailable,
    ModelNotAllowed,
    ModelNotFound,
    ProxyError,
    UnsupportedFeature,
    UpstreamError,
)
from proxy.core.money import nusd_to_usd
from proxy.core.ports import HeaderList, Sink
from proxy.core.redact import one_line
from proxy.core.target import Chain, Target
from proxy.core.usage import Usage, UsageSource
from proxy.engine.attempt import Attempt
from proxy.engine.control import Control
from proxy.engine.exchange import Exchange
from proxy.engine.heads import Heads
from proxy.engine.services import Services
from proxy.routing.deployment import Permit
from proxy.routing.plan import Candidate, Plan, backoff_s, larger_context, plan
from proxy.routing.verdict import RULES, Effect, Verdict, client_error, judge

PRICES_WAIT_S = 5.0  # for the price data, which is read in the background from the start on
SHORT_WAIT_S = 2.0  # a cooldown or backoff longer than this is not waited for
_LOUD = frozenset((ErrorClass.AUTH, ErrorClass.MODEL_NOT_FOUND, ErrorClass.INSUFFICIENT_QUOTA))
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
_BREAKS = frozenset((ErrorClass.RESET_STREAM, ErrorClass.RESET_BODY, ErrorClass.TRUNCATED, ErrorClass.RESET))


@dataclass(frozen=True, slots=True)
class _Step:
    """The next thing to try: which candidate, after how many retries there, and whether on a connection of its own."""

    position: int
    retries: int = 0
    fresh: bool = False


class Relay:
    """The state of one request. `serve` is called once."""

    __slots__ = (
        "_attempts",
        "_chain",
        "_closed",
        "_control",
        "_cost_nusd",
        "_errors",
        "_exchange",
        "_first_token_s",
        "_heads",
        "_hold",
        "_notes",
        "_opened",
        "_outcome",
        "_overhead_s",
        "_plan",
        "_services",
        "_sink",
        "_unpriced",
        "_waited_s",
    )

    def __init__(self, services: Services, heads: Heads, control: Control, exchange: Exchange, sink: Sink) -> None:
        self._services = services
        self._heads = heads
        self._control = control
        self._exchange = exchange
        self._sink = sink
        self._chain: Chain | None = None
        self._plan: Plan | None = None
        self._hold: Hold | None = None
        self._attempts = 0
        self._errors: list[UpstreamError] = []
        self._notes: list[dict[str, Any]] = []  # what the trace says beyond the plan
        self._opened = False  # a begin record carries who asks for what
        self._closed = False  # a record carries what came of it
        self._outcome = "failed"
        self._cost_nusd = 0
        self._unpriced = False
        self._first_token_s: float | None = None
        self._overhead_s: float | None = None
        self._waited_s = 0.0  # in attempts that failed and in pauses between them: not the proxy's own time

    async def serve(self) -> None:
        services, exchange = self._services, self._exchange
        services.meter.request_started()
        services.deadlines.watch(self._control)
        try:
            try:
                await self._admit()
                await self._walk()
            except ProxyError as error:
                self._close_unattempted("rejected" if isinstance(error, CallerError) else "failed", error.status, error.code)
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
                self._settle_budget(self._hold)
            chain = self._chain.name if self._chain is not None else "none"
            services.meter.request_ended(
                chain,
                self._outcome,
                exchange.request.stream,
                services.clock.monotonic() - exchange.received,
                self._first_token_s,
                self._overhead_s,
            )

    # -- admission

    async def _admit(self) -> None:
        services, exchange = self._services, self._exchange
        settings, client, request = exchange.settings, exchange.client, exchange.request
        chain = self._chain = settings.resolve(request.model)
        if chain is None:
            raise ModelNotFound(_no_such_model(request.model), param="model")
        if client is not None and client.chains is not None and (chain.direct or chain.name not in client.chains):
            allowed = ", ".join(sorted(client.chains))
            raise ModelNotAllowed(f"This key may not use the model `{request.model}`: it may use {allowed}.", param="model")
        if not services.prices.ready:
            await self._wait_for_prices(chain)
        if client is not None and client.budget_nusd is not None:
            usable = [target for target in chain.targets if target.provider.enabled and target.disabled is None]
            wall = services.clock.wall()
            bound = request_bound_nusd(request, [(target, services.prices.rates(target, wall)) for target in usable])
            self._hold = services.budgets.reserve(client, bound, wall)
        self._make_plan()

    async def _wait_for_prices(self, chain: Chain) -> None:
        """In the first second of a first start the price data may not be read yet: only a target that needs it waits."""
        services = self._services
        wall = services.clock.wall()
        needed = any(target.provider.enabled and services.prices.rates(target, wall) is None for target in chain.targets)
        if needed and services.warming is not None:
            await asyncio.wait([services.warming], timeout=PRICES_WAIT_S)

    def _make_plan(self) -> Plan:
        services, exchange, chain = self._services, self._exchange, self._chain
        assert chain is not None
        now = services.clock.monotonic()
        made = plan(
            chain,
            services.deployments,
            now,
            needs=exchange.request.needs,
            prefer=exchange.prefer,
            trickle=services.trickle,
        )
        refused = self._refusals(made)
        if refused:
            made = Plan(
                candidates=[c for c in made.candidates if c.target.name not in refused],
                trace=[
                    {"target": e["target"], "skipped": refused[e["target"]]} if e["target"] in refused else e for e in made.trace
                ],
                soonest_s=made.soonest_s,
                lacking=made.lacking,
                cooling_s=made.cooling_s,
            )
            if not made.candidates:
                made.lacking = made.lacking or next(iter(refused.values()))
        self._plan = made
        return made

    def _refusals(self, made: Plan) -> dict[str, str]:
        """Targets that refuse a parameter of this request outright; on a strict chain also those that would drop one."""
        chain = self._chain
        body = self._exchange.request.body
        found: dict[str, str] = {}
        for candidate in made.candidates:
            quirks = candidate.target.quirks
            if quirks.refuse:
                names = sorted(name for name in quirks.refuse if body.get(name) and not (name == "n" and body[name] == 1))
                if names:
                    found[candidate.target.name] = f"refuses {', '.join(names)}"
            if chain is not None and chain.strict and quirks.drop:
                names = sorted(quirks.drop & body.keys())
                if names:
                    found[candidate.target.name] = f"would drop {', '.join(names)}"
        return found

    # -- the way down the chain

    async def _walk(self) -> None:
        """Returns when the caller has been answered, one way or the other. Raises ProxyError when nothing could be tried."""
        candidates = await self._candidates()
        step: _Step | None = _Step(0)
        while step is not None:
            candidate = candidates[step.position]
            permit = candidate.deployment.acquire(self._services.clock.monotonic())
            if permit is None:
                self._notes.append({"target": candidate.target.name, "skipped": "no permit: circuit or capacity"})
                following = self._following(candidates, step.position, None)
                if following is None:
                    raise self._spent() if self._errors else self._unavailable()
                step = _Step(following)
                continue
            attempt = self._begin(candidate, permit)
            try:
                await self._run(attempt, fresh=step.fresh)
                return
            except UpstreamError as raised:
                error = raised
            if attempt.settled:
                return  # the answer was out, or on its way, when this happened
            step = await self._after(attempt, self._as_seen(error, attempt), candidates, step)

    async def _candidates(self) -> list[Candidate]:
        made = self._plan
        assert made is not None
        if not made.candidates and made.cooling_s is not None and made.cooling_s <= SHORT_WAIT_S:
            await self._pause(made.cooling_s)
            made = self._make_plan()
        if made.candidates:
            return made.candidates
        if made.lacking is not None:
            raise UnsupportedFeature(f"No target of `{self._exchange.request.model}` can serve this request: {made.lacking}.")
        raise self._unavailable()

    async def _after(self, attempt: Attempt, error: UpstreamError, candidates: list[Candidate], step: _Step) -> _Step | None:
        """What follows a failed attempt: another step, or None once the caller has been told."""
        verdict = self._judge(error, attempt)
        self._count(error)
        if attempt.committed:
            await self._end_broken(attempt, error)
            return None
        if error.error_class is ErrorClass.STALE_RETRY:
            self._settle_failed(attempt, error, end=None)
            return _Step(step.position, retries=step.retries, fresh=True)
        self._errors.append(error)
        if error.error_class in _FROM_OUTSIDE or self._control.gone:
            await self._end_interrupted(attempt, error)
            return None
        if verdict.try_next:
            if len(candidates) == 1:
                wait_s = self._retry_wait_s(attempt.candidate, error, verdict, step.retries)
                if wait_s is not None:
                    self._note_verdict(attempt, error, "retry")
                    self._settle_failed(attempt, error, end=None)
                    await self._pause(wait_s)
                    return _Step(step.position, retries=step.retries + 1)
            following = self._following(candidates, step.position, error)
            if following is not None:
                self._note_verdict(attempt, error, "next")
                self._settle_failed(attempt, error, end=None)
                self._tell_failover(attempt, candidates[following], error)
                return _Step(following)
        self._note_verdict(attempt, error, "stop")
        answer = self._spent()
        self._settle_failed(attempt, error, end=self._request_end("failed", answer.status, answer.code, attempt))
        await self._answer_error(answer)
        return None

    def _count(self, error: UpstreamError) -> None:
        event = _EVENTS.get(error.error_class)
        if event is not None:
            self._services.meter.count(event)

    async def _pause(self, seconds: float) -> None:
        self._waited_s += seconds
        await self._services.sleep(seconds)

    def _following(self, candidates: list[Candidate], position: int, error: UpstreamError | None) -> int | None:
        """The next candidate worth trying after `position`, None when the chain is spent."""
        now = self._services.clock.monotonic()
        failed = candidates[position]
        for following in range(position + 1, len(candidates)):
            candidate = candidates[following]
            if (
                error is not None
                and error.error_class is ErrorClass.CONTEXT_LENGTH
                and not larger_context(candidate.target, failed.target)
            ):
                continue
            if candidate.deployment.unusable(now) is None:
                return following
        return None

    def _begin(self, candidate: Candidate, permit: Permit) -> Attempt:
        """The begin record is in the kernel before anything is sent. Raises LedgerUnavailable."""
        services, exchange = self._services, self._exchange
        target = candidate.target
        self._attempts += 1
        n = self._attempts
        started_at = services.clock.monotonic()
        dialect = services.outbound[target.provider.dialect]
        outbound = dialect.encode_request(exchange.request, target)
        attempt_id = f"{exchange.id}-{n}"
        try:
            services.journal.append(
                Begin(
                    attempt_id,
                    exchange.id,
                    n,
                    exchange.time_ms if n == 1 else round(services.clock.wall() * 1000),
                    target.provider.name,
                    target.upstream_model,
                    candidate.credential.id,
                    estimate_input(exchange.request.body_bytes),
                    None if self._opened else self._request_open(),
                )
            )
        except JournalError as error:
            permit.release(Effect.NEUTRAL, started_at)
            self._attempts -= 1
            raise LedgerUnavailable("The ledger cannot be written, so nothing is sent that it could not account for.") from error
        self._opened = True
        return Attempt(
            services,
            self._control,
            self._sink,
            id_=attempt_id,
            n=n,
            candidate=candidate,
            permit=permit,
            dialect=dialect,
            outbound=outbound,
            started_at=started_at,
        )

    async def _run(self, attempt: Attempt, *, fresh: bool) -> None:
        candidate = attempt.candidate
        provider = candidate.target.provider
        if attempt.n == 1:
            self._services.retry_budgets.on_first_attempt(provider.name, attempt.started_at)
        try:
            await attempt.run(
                self._exchange.request,
                self._services.transports[provider.transport],
                self._heads.get(provider, candidate.credential, attempt.outbound.path),
                total_at=self._exchange.received + candidate.target.timeouts.total_s,
                fresh=fresh,
                settle=self._settle_ok,
                headers=self._answer_headers,
            )
        except UpstreamError:
            raise
        except asyncio.CancelledError:
            # not one of our own interruptions: the server is being torn down around us
            if not attempt.settled:
                error = UpstreamError(ErrorClass.DRAINED, "the proxy was stopped")
                attempt.permit.release(Effect.NEUTRAL, self._services.clock.monotonic())
                self._settle_failed(attempt, error, end=self._request_end("interrupted", None, "drained", attempt))
            raise
        except Exception as fault:
            # a fault of our own must cost neither the row nor the caller's answer; it is logged whole and answered as an error
            self._services.log.error("internal_error", request_id=self._exchange.id, fault=repr(fault)[:500])
            raise UpstreamError(ErrorClass.INTERNAL, "the proxy failed on this answer") from fault

    def _as_seen(self, error: UpstreamError, attempt: Attempt) -> UpstreamError:
        """The error by what the caller has seen: a break after content has a name of its own. Redacts the message."""
        error.message = one_line(self._services.redact(error.message))
        if attempt.committed and error.error_class in _BREAKS:
            error.error_class = ErrorClass.STREAM_INTERRUPTED
        return error

    def _judge(self, error: UpstreamError, attempt: Attempt) -> Verdict:
        chain = self._chain
        assert chain is not None
        verdict = judge(error, failover_on=chain.failover_on, committed=attempt.committed)
        attempt.permit.release(verdict.penalise, self._services.clock.monotonic(), verdict.cooldown_s)
        return verdict

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
            # it works, thanks to the next target, and hides a mistake: so it is said each time
            services.meter.count("warned_failover")
            services.log.warning(
                "failover_hides_a_mistake",
                request_id=self._exchange.id,
                target=attempt.candidate.target.name,
                next=following.target.name,
                error_class=error.error_class.value,
                message=error.message,
            )

    def _note_verdict(self, attempt: Attempt, error: UpstreamError, decision: str) -> None:
        took_ms = (self._services.clock.monotonic() - attempt.started_at) * 1000
        self._notes.append(
            {
                "attempt": attempt.n,
                "target": attempt.candidate.target.name,
                "error": error.error_class.value,
                "ms": round(took_ms, 1),
                "then": decision,
            }
        )

    # -- the ends

    async def _settle_ok(self, attempt: Attempt) -> None:
        """The answer is whole: know its usage, count it where the provider said nothing, and write it down."""
        usage = attempt.usage
        if usage is not None and self._is_doubtful(usage, attempt):
            self._services.meter.count("usage_suspect")
            usage = None
        if usage is None:
            usage = await self._counted(attempt)
        attempt.permit.release(
            Effect.RATE if attempt.reset_s is not None else Effect.OK, self._services.clock.monotonic(), attempt.reset_s
        )
        end = self._request_end("ok", 200, None, attempt)
        self._write_end(attempt, outcome="ok", usage=usage, error=None, at_risk=0, end=end)

    def _is_doubtful(self, usage: Usage, attempt: Attempt) -> bool:
        request = self._exchange.request
        limit = request.max_output_tokens
        return suspect(
            usage,
            body_bytes=request.body_bytes,
            text_bytes=max(attempt.text_bytes, attempt.received_bytes),
            max_output=limit * request.choices if limit is not None else None,
            body=request.body,
        )

    async def _counted(self, attempt: Attempt) -> Usage:
        """Our own count, off the loop; the estimate when the caller leaves meanwhile, for then there is no time for it."""
        services = self._services
        text = attempt.kept_text()
        if attempt.text_bytes > len(text):
            return self._estimated(attempt)
        counter, body = services.counter, self._exchange.request.body

        def count() -> tuple[int, int]:
            return counter.count_prompt(body), counter.count_texts([text.decode("utf-8", "replace")])

        loop = asyncio.get_running_loop()
        try:
            input_tokens, output_tokens = await loop.run_in_executor(services.executor, count)
        except asyncio.CancelledError:
            if self._control.cause() is None:
                raise
            return self._estimated(attempt)
        return Usage(input_tokens, output_tokens, source=UsageSource.COUNTED)

    def _estimated(self, attempt: Attempt) -> Usage:
        """What can be said at once: by the bytes that went and came."""
        output_tokens = estimate_output(attempt.text_bytes or attempt.received_bytes)
        return Usage(estimate_input(self._exchange.request.body_bytes), output_tokens, source=UsageSource.ESTIMATED)

    def _so_far(self, attempt: Attempt) -> Usage:
        """Of an answer that broke off: the provider's own figure once it is final, else at least what was seen."""
        estimated = self._estimated(attempt)
        reported = attempt.stream.usage if attempt.stream is not None else None
        if reported is None or self._is_doubtful(reported, attempt):
            return estimated
        if attempt.finish_reason is not None or reported.output_tokens >= estimated.output_tokens:
            return reported
        return replace(reported, output_tokens=estimated.output_tokens, source=UsageSource.ESTIMATED)

    async def _end_broken(self, attempt: Attempt, error: UpstreamError) -> None:
        """After content: bill what was relayed, say so in the stream, and never end as if it were whole."""
        usage = self._so_far(attempt)
        if error.error_class is ErrorClass.CLIENT_GONE:
            if not self._control.gone:
                self._services.meter.count("slow_reader")
            end = self._request_end("client_gone", 499, "client_gone", attempt)
            self._write_end(attempt, outcome="client_gone", usage=usage, error=error, at_risk=0, end=end)
            self._sink.abort()
            return
        answer = client_error(error, committed=True)
        end = self._request_end("interrupted" if error.error_class is ErrorClass.DRAINED else "failed", 200, answer.code, attempt)
        self._write_end(attempt, outcome="failed", usage=usage, error=error, at_risk=0, end=end)
        if error.error_class is ErrorClass.DRAINED:
            self._services.meter.count("drained_cut")
        await self._finish_quietly(attempt.unsent + self._services.inbound.stream_error(answer))

    async def _end_interrupted(self, attempt: Attempt, error: UpstreamError) -> None:
        """Before content, by the caller's leaving or our own stopping."""
        if error.error_class is ErrorClass.DRAINED:
            answer = client_error(error, committed=False)
            self._settle_failed(attempt, error, end=self._request_end("interrupted", answer.status, answer.code, attempt))
            await self._answer_error(answer)
            return
        self._settle_failed(attempt, error, end=self._request_end("client_gone", 499, "client_gone", attempt))
        self._sink.abort()

    async def _finish_quietly(self, data: bytes) -> None:
        try:
            await self._sink.finish(data)
        except asyncio.CancelledError:
            if self._control.cause() is None:
                raise

    def _settle_failed(self, attempt: Attempt, error: UpstreamError, *, end: RequestEnd | None) -> None:
        """An attempt of which the caller saw nothing. Sent and unanswered is at risk, not charged."""
        at_risk = 0
        if RULES[error.error_class].billed == "risk" and error.sent:
            at_risk = estimate_input(self._exchange.request.body_bytes)
        outcome = "client_gone" if error.error_class is ErrorClass.CLIENT_GONE else "failed"
        self._write_end(attempt, outcome=outcome, usage=None, error=error, at_risk=at_risk, end=end)

    def _write_end(
        self,
        attempt: Attempt,
        *,
        outcome: str,
        usage: Usage | None,
        error: UpstreamError | None,
        at_risk: int,
        end: RequestEnd | None,
    ) -> None:
        """The one place where an attempt ends: journal, budget, metrics, log. Synchronous, once."""
        if attempt.settled:
            return
        attempt.settled = True
        services = self._services
        target = attempt.candidate.target
        provider, model = target.provider.name, target.label
        now = services.clock.monotonic()
        cost_nusd, price_source = self._cost(target, usage)
        first_token_s = attempt.content_at - attempt.started_at if attempt.content_at is not None else None
        if usage is not None and self._first_token_s is None and attempt.content_at is not None:
            self._first_token_s = attempt.content_at - self._exchange.received
        used = usage or _NOTHING
        record = End(
            attempt.id,
            self._exchange.id,
            attempt.n,
            self._exchange.time_ms + round((attempt.started_at - self._exchange.received) * 1000),
            provider,
            target.upstream_model,
            attempt.candidate.credential.id,
            outcome,
            error.status if error is not None and error.status is not None else attempt.status,
            error.error_class.value if error is not None else None,
            RULES[error.error_class].category if error is not None else None,
            error.message if error is not None else None,
            _ms(first_token_s),
            round((now - attempt.started_at) * 1000, 3),
            used.input_tokens,
            used.cached_input_tokens,
            used.cache_write_tokens,
            used.output_tokens,
            used.reasoning_tokens,
            used.input_audio_tokens,
            used.output_audio_tokens,
            used.source.value if usage is not None else None,
            cost_nusd,
            price_source,
            at_risk,
            attempt.finish_reason,
            end,
        )
        self._append(record)
        services.meter.attempt_ended(
            provider,
            model,
            "ok" if error is None else error.error_class.value,
            now - attempt.started_at,
            first_token_s,
            usage,
            cost_nusd,
        )
        if cost_nusd is None:
            self._unpriced = True
        else:
            self._cost_nusd += cost_nusd
        if end is None:
            self._waited_s += now - attempt.started_at
        else:
            self._close(end, provider=provider, upstream_model=target.upstream_model, usage=usage)

    def _cost(self, target: Target, usage: Usage | None) -> tuple[int | None, str | None]:
        if usage is None:
            return 0, None
        return charge(usage, self._services.prices.rates(target, self._services.clock.wall()))

    def _append(self, record: End | Rejected) -> None:
        try:
            self._services.journal.append(record)
        except JournalError as error:
            # the answer goes out all the same: the caller has paid for it; the loss is counted and loud
            self._services.log.error("ledger_record_lost", request_id=self._exchange.id, fault=str(error))

    def _settle_budget(self, hold: Hold) -> None:
        if self._unpriced:
            hold.settle(None)
        else:
            hold.settle(self._cost_nusd)

    async def _end_between(self, error: UpstreamError) -> None:
        """The caller left, or the proxy must stop, while no attempt was open."""
        if error.error_class is ErrorClass.DRAINED:
            answer = client_error(error)
            self._close_unattempted("interrupted", answer.status, answer.code)
            await self._answer_error(answer)
        else:
            self._close_unattempted("client_gone", 499, "client_gone")
            self._sink.abort()

    def _close_unattempted(self, outcome: str, status: int, code: str) -> None:
        """A request that ends while no attempt is open: refused, or nothing left to try."""
        if self._closed:
            return
        end = self._request_end(outcome, status, code, None)
        self._append(Rejected(self._request_open(), end))
        self._close(end, provider=None, upstream_model=None, usage=None)

    def _close(self, end: RequestEnd, *, provider: str | None, upstream_model: str | None, usage: Usage | None) -> None:
        self._closed = True
        self._outcome = end.outcome
        self._log(end, provider=provider, upstream_model=upstream_model, usage=usage)

    async def _answer_error(self, error: ProxyError) -> None:
        headers = error_headers(self._exchange.id, error, attempts=self._attempts)
        await self._sink.respond(error.status, headers, self._services.inbound.encode_error(error))

    def _spent(self) -> ProxyError:
        return client_error(self._errors[-1], earlier=self._errors[:-1])

    def _unavailable(self) -> AllProvidersUnavailable:
        made = self._plan
        assert made is not None
        self._services.meter.count("chain_exhausted")
        reasons = "; ".join([f"{entry['target']}: {entry['skipped']}" for entry in made.trace if "skipped" in entry])
        return AllProvidersUnavailable(
            f"No target of `{self._exchange.request.model}` can be tried now ({one_line(reasons, 400)}).",
            retry_after_s=made.soonest_s,
        )

    # -- what is written

    def _request_open(self) -> RequestOpen:
        exchange = self._exchange
        tags = exchange.tags
        return RequestOpen(
            exchange.id,
            exchange.time_ms,
            exchange.client.name if exchange.client is not None else None,
            tags.department,
            tags.agent,
            tags.task,
            tags.task_id,
            exchange.request.model,
            self._chain.name if self._chain is not None else None,
            exchange.request.stream,
            exchange.settings.hash,
        )

    def _request_end(self, outcome: str, status: int | None, code: str | None, attempt: Attempt | None) -> RequestEnd:
        exchange = self._exchange
        now = self._services.clock.monotonic()
        content_at = attempt.content_at if attempt is not None else None
        if attempt is not None and content_at is not None:
            before_s = attempt.dispatched_at - exchange.received - self._waited_s
            after_s = now - content_at if attempt.stream is None else 0.0
            self._overhead_s = before_s + after_s
        trace = self._plan.trace if self._plan is not None else []
        return RequestEnd(
            outcome,
            status,
            self._attempts,
            round((now - exchange.received) * 1000, 3),
            _ms(content_at - exchange.received) if content_at is not None else None,
            _ms(self._overhead_s),
            attempt.finish_reason if attempt is not None else None,
            code,
            [*trace, *self._notes] if self._notes else trace,
            list(attempt.outbound.dropped) if attempt is not None else [],
        )

    def _answer_headers(self, attempt: Attempt, content_type: bytes) -> HeaderList:
        target = attempt.candidate.target
        exchange = self._exchange
        waited = (attempt.content_at or attempt.dispatched_at) - attempt.dispatched_at
        spent = self._services.clock.monotonic() - exchange.received - waited - self._waited_s
        headers = [
            (b"content-type", content_type),
            (b"x-request-id", exchange.id.encode()),
            (b"x-tollbridge-provider", target.provider.name.encode()),
            (b"x-tollbridge-model", header_value(target.upstream_model)),
            (b"x-tollbridge-attempts", b"%d" % attempt.n),
            (b"server-timing", b"upstream;dur=%.1f, proxy;dur=%.1f" % (waited * 1000, spent * 1000)),
        ]
        if content_type.startswith(b"text/event-stream"):
            headers.append((b"cache-control", b"no-cache"))
        if attempt.outbound.dropped:
            headers.append((b"x-tollbridge-dropped", ", ".join(attempt.outbound.dropped).encode()))
        return headers

    def _log(self, end: RequestEnd, *, provider: str | None, upstream_model: str | None, usage: Usage | None) -> None:
        exchange = self._exchange
        self._services.log.request(
            {
                "request_id": exchange.id,
                "client": exchange.client.name if exchange.client is not None else None,
                "model": exchange.request.model,
                "provider": provider,
                "upstream_model": upstream_model,
                "stream": exchange.request.stream,
                "outcome": end.outcome,
                "status": end.http_status,
                "error": end.error_code,
                "attempts": end.attempts,
                "input_tokens": usage.input_tokens if usage is not None else 0,
                "output_tokens": usage.output_tokens if usage is not None else 0,
                "cost_usd": None if self._unpriced else nusd_to_usd(self._cost_nusd),
                "first_token_ms": end.first_token_ms,
                "duration_ms": end.duration_ms,
            }
        )


_NOTHING = Usage()


def error_headers(request_id: str, error: ProxyError, *, attempts: int | None = None) -> list[tuple[bytes, bytes]]:
    headers = [(b"content-type", b"application/json"), (b"x-request-id", request_id.encode())]
    if attempts is not None:
        headers.append((b"x-tollbridge-attempts", b"%d" % attempts))
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if not error.retryable and not (isinstance(error, CallerError) and error.status != 429):
        # the chain has been through every way there is: an SDK's own retry would only repeat it
        headers.append((b"x-should-retry", b"false"))
    return headers


def header_value(text: str) -> bytes:
    """Text as a header value: printable ASCII as it is, everything else as `?`."""
    if text.isascii() and text.isprintable():
        return text.encode()
    return "".join([c if c.isascii() and c.isprintable() else "?" for c in text]).encode()


def _label(target: Target) -> str:
    return f"{target.provider.name}/{target.label}"


def _ms(seconds: float | None) -> float | None:
    return round(seconds * 1000, 3) if seconds is not None else None


def _no_such_model(model: str) -> str:
    return f"There is no model `{model}`: name a chain of the configuration, or a provider and its model as provider/model."
