"""What can follow an attempt that failed: the next candidate, a retry of the only one, or nothing, and what is noted of it."""

from __future__ import annotations

from math import inf

from proxy.accounting.budgets import ask_of
from proxy.core.allowance import Ask
from proxy.core.errors import AllProvidersUnavailable, ErrorClass, ProxyError, UpstreamError
from proxy.core.redact import one_line
from proxy.core.target import Chain, FailoverCause, Target
from proxy.engine.attempt import Attempt
from proxy.engine.books import Books
from proxy.engine.exchange import Exchange
from proxy.engine.services import Services
from proxy.routing.plan import SHORT_WAIT_S, Candidate, Plan, backoff_s, frees_soon, larger_context
from proxy.routing.verdict import RULES, Effect, Verdict, client_error

AFTER_SOONEST_S = 0.1  # so that not all who wait for one moment come at it
HOLD_SLACK_S = 120.0  # after a request's total time, in which it must have ended, until what it holds is given up for lost
# what somebody must mend, and what a failover would hide: said aloud each time
_LOUD = frozenset(
    (ErrorClass.AUTH, ErrorClass.MODEL_NOT_FOUND, ErrorClass.INSUFFICIENT_QUOTA, ErrorClass.TLS, ErrorClass.REDIRECT)
)
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
# what is the caller's to mend, and would be the same again
_CALLERS = frozenset((ErrorClass.INVALID_REQUEST, ErrorClass.CONTEXT_LENGTH, ErrorClass.CONTENT_POLICY))


class Onward:
    """One per request. `errors`: what its attempts failed with so far, in their order. `failed`: the last of them at each deployment."""

    __slots__ = ("_books", "_exchange", "_services", "_walked_again", "errors", "failed")

    def __init__(self, services: Services, exchange: Exchange, books: Books) -> None:
        self._services = services
        self._exchange = exchange
        self._books = books
        self.errors: list[UpstreamError] = []
        self.failed: dict[int, UpstreamError] = {}  # by the id of the deployment, which outlives the request
        self._walked_again = False

    @property
    def latest(self) -> UpstreamError | None:
        return self.errors[-1] if self.errors else None

    def ask(self, target: Target) -> Ask:
        """What an attempt at a target may take of its quotas, limits and budget."""
        services = self._services
        rates = services.prices.rates(target, services.clock.wall())
        return ask_of(self._exchange.request, target, rates, self.lost_at(target))

    def total_at(self, target: Target) -> float:
        """When the one time for all attempts together is over, by the clock of this target."""
        return self._exchange.received + target.timeouts.total_s

    def lost_at(self, target: Target) -> float:
        return self.total_at(target) + HOLD_SLACK_S

    def following(self, candidates: list[Candidate], position: int, error: UpstreamError | None) -> int | None:
        """The next candidate worth trying after `position`, None when the chain is spent. One that is over its limits for a moment is
        worth it when there is no other."""
        if self._walked_again and self._books.attempts > len(candidates):
            return None
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

    def as_seen(self, error: UpstreamError, attempt: Attempt) -> UpstreamError:
        """The error by what the caller has seen: a break after content has a name of its own. Redacts what the provider said."""
        redact = self._services.redact
        error.message = one_line(redact(error.message))
        error.code = redact(error.code) if error.code else None
        error.param = redact(error.param) if error.param else None
        if attempt.committed and error.error_class not in _NAMED_BREAKS:
            error.broke_as = error.error_class
            error.error_class = ErrorClass.STREAM_INTERRUPTED
        return error

    def limit_wait_s(self, candidate: Candidate, ask: Ask | None, now: float, waited_s: float) -> float | None:
        """How long to wait for the last candidate, which is over a limit of a minute; None when it is not worth it."""
        wait_s = candidate.deployment.brief_wait_s(now, ask)
        if wait_s is None or waited_s + wait_s > SHORT_WAIT_S:
            return None
        return wait_s if now + wait_s < self._exchange.received + candidate.target.timeouts.total_s else None

    def retry_wait_s(self, candidate: Candidate, error: UpstreamError, verdict: Verdict, retries: int) -> float | None:
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

    def until_usable_s(self, plan: Plan, chain: Chain) -> float | None:
        """How long to wait when nothing can be tried now; None when it is not worth it. A short cooldown always is; the end of an open
        circuit or the like is within the retry budget, for many wait for it."""
        if plan.cooling_s is not None and plan.cooling_s <= SHORT_WAIT_S:
            return plan.cooling_s
        first = chain.targets[0] if chain.targets else None
        if plan.soonest_s is None or plan.soonest_s > SHORT_WAIT_S or first is None or first.retries == 0:
            return None
        now = self._services.clock.monotonic()
        if now + plan.soonest_s >= self._exchange.received + first.timeouts.total_s:
            return None
        if not self._services.retry_budgets.take(first.provider.name, now):
            self._services.meter.count("budget_exhausted")
            return None
        self._services.meter.count("walked_again")
        return plan.soonest_s + self._services.random() * AFTER_SOONEST_S

    def again(self, way: list[Candidate], *, failover_on: frozenset[FailoverCause]) -> tuple[int, float] | None:
        """When every target has failed or is in no state to be asked: which of them to try once more, and the seconds to wait before it.

        The one that can be asked soonest, if that is soon and it did nothing that would come again at once; once a request, and
        never more than one attempt beyond the length of the chain. None: nothing is worth waiting for.
        """
        if self._walked_again or self._books.resumed or self._books.attempts > len(way):
            return None
        if any(error.error_class in _CALLERS for error in self.errors):
            return None
        now = self._services.clock.monotonic()
        found = [
            (wait_s, position)
            for position, candidate in enumerate(way)
            if (wait_s := self._again_in_s(candidate, now, failover_on)) is not None
        ]
        if not found:
            return None
        wait_s, position = min(found)
        if not self._services.retry_budgets.take(way[position].target.provider.name, now):
            self._services.meter.count("budget_exhausted")
            return None
        self._walked_again = True
        self._services.meter.count("walked_again")
        return position, wait_s

    def _again_in_s(self, candidate: Candidate, now: float, failover_on: frozenset[FailoverCause]) -> float | None:
        target, deployment = candidate.target, candidate.deployment
        if target.retries == 0 or target.answer is not None:
            return None
        error = self.failed.get(id(deployment))
        effect = Effect.FAIL
        if error is not None:
            rule = RULES[error.error_class]
            if not (rule.same_target and (rule.cause is None or rule.cause in failover_on)):
                return None
            effect = rule.effect
        ask = self.ask(target) if deployment.allowances else None
        wait_s = max(backoff_s(effect, 0, self._services.random), deployment.usable_in_s(now, ask))
        total_at = self._exchange.received + target.timeouts.total_s
        return wait_s if wait_s <= SHORT_WAIT_S and now + wait_s < total_at else None

    def tell_failover(self, attempt: Attempt, following: Candidate, error: UpstreamError) -> None:
        services = self._services
        from_, to = _label(attempt.candidate.target), _label(following.target)
        if from_ != to:
            services.meter.failover(from_, to, error.error_class.value)
        if error.error_class in _LOUD:
            services.meter.count("warned_failover")

    def note(self, attempt: Attempt, error: UpstreamError, now: float, decision: str) -> None:
        """What an attempt failed with and what was decided, for the trace."""
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

    def spent(self, plan: Plan) -> ProxyError:
        """The error when nothing is left to try: what the attempts failed with or, if there were none, why not."""
        if self.errors:
            return client_error(self.errors[-1], earlier=self.errors[:-1])
        return self.unavailable(plan)

    def unavailable(self, plan: Plan) -> ProxyError:
        self._services.meter.count("chain_exhausted")
        now = self._services.clock.monotonic()
        told = [*plan.trace, *self._books.notes]
        reasons = "; ".join([f"{entry['target']}: {entry['skipped']}" for entry in told if "skipped" in entry])
        soonest_s = plan.soonest_s
        if plan.candidates:  # of which none could be had
            soonest_s = min([c.deployment.usable_in_s(now, self.ask(c.target)) for c in plan.candidates])
        if told and all(str(entry.get("skipped", "")).startswith("cooling down") for entry in told):
            return client_error(
                UpstreamError(ErrorClass.RATE_LIMITED, reasons, retry_after_s=soonest_s)
            )  # as at the first refusal
        return AllProvidersUnavailable(
            f"No target of `{self._exchange.request.model}` can be tried now ({one_line(reasons, 400)}).",
            retry_after_s=soonest_s if soonest_s is not None and soonest_s < inf else None,
        )


def _label(target: Target) -> str:
    return f"{target.provider.name}/{target.label}"
