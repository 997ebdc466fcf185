"""From what an attempt failed with to what is done about it: one table, read by the relay, the ledger and the documentation.

Three questions, three answers: may the next target be tried, what does the deployment hear of it, and how long does it rest.
`docs/failover.md` shows RULES as a table; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from proxy.core.errors import ChainSpent, Draining, ErrorClass, InternalError, ProxyError, UpstreamError
from proxy.core.redact import one_line
from proxy.core.target import FailoverCause
from proxy.routing.retry_after import clamp_cooldown


class Effect(StrEnum):
    """What a deployment hears of an attempt."""

    OK = "ok"
    FAIL = "fail"  # the breaker counts it
    RATE = "rate"  # the deployment cools down
    AUTH = "auth"  # the key is refused: latch on (provider, credential)
    QUOTA = "quota"  # the key's account is spent: the same latch, another reason
    CONFIG = "config"  # the provider does not know the model: latch on (provider, model)
    NEUTRAL = "neutral"


Billed = Literal["free", "risk", "estimated"]
Category = Literal["transient", "permanent"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What follows from one class of error.

    `cause`: the word of `failover_on` that must be there for the next target to be tried; None: it always is. `try_next` False:
    never. `same_target`: if this is the only usable target it may be tried again. `billed`: what an attempt of which the caller
    saw nothing leaves in the ledger (after content it is always the estimate of what was seen); a request that was never sent is
    free. `status`, `type`, `code`, `message`: what the caller is told once the chain is spent.
    """

    cause: FailoverCause | None
    try_next: bool
    same_target: bool
    effect: Effect
    category: Category
    billed: Billed
    status: int
    type: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    try_next: bool
    penalise: Effect
    cooldown_s: float | None


_UPSTREAM = "upstream_error"
_CALLER = "invalid_request_error"


def _fault(
    cause: FailoverCause | None,
    message: str,
    *,
    billed: Billed = "risk",
    same_target: bool = True,
    try_next: bool = True,
    effect: Effect = Effect.FAIL,
    category: Category = "transient",
    status: int = 502,
    type_: str = _UPSTREAM,
    code: str = "upstream_unavailable",
) -> Rule:
    return Rule(cause, try_next, same_target, effect, category, billed, status, type_, code, message)


def _timeout(message: str, *, billed: Billed = "risk", same_target: bool = False) -> Rule:
    return _fault("timeout", message, billed=billed, same_target=same_target, status=504, code="upstream_timeout")


def _permanent(cause: FailoverCause, effect: Effect, message: str, *, status: int, code: str, type_: str = _UPSTREAM) -> Rule:
    return Rule(cause, True, False, effect, "permanent", "free", status, type_, code, message)


def _callers(cause: FailoverCause | None, message: str, *, code: str, try_next: bool) -> Rule:
    return Rule(cause, try_next, False, Effect.NEUTRAL, "permanent", "free", 400, _CALLER, code, message)


RULES: dict[ErrorClass, Rule] = {
    # no connection
    ErrorClass.CONNECT: _fault("connection", "The provider refused the connection.", billed="free"),
    ErrorClass.DNS: _fault("connection", "The provider's host name could not be resolved.", billed="free"),
    ErrorClass.CONNECT_TIMEOUT: _timeout("The connection to the provider took too long.", billed="free", same_target=True),
    ErrorClass.TLS: _fault(
        "connection", "The provider's TLS certificate could not be trusted.",
        billed="free", same_target=False, category="permanent", code="upstream_tls",
    ),
    ErrorClass.STALE_RETRY: _fault(
        "connection", "The provider closed the connection before it answered.", billed="free", effect=Effect.NEUTRAL
    ),
    # a connection that broke
    ErrorClass.RESET: _fault("connection", "The provider closed the connection before it answered."),
    ErrorClass.RESET_BODY: _fault("connection", "The provider closed the connection before its answer began."),
    ErrorClass.RESET_STREAM: _fault("connection", "The provider closed the connection before the first content."),
    ErrorClass.STREAM_INTERRUPTED: _fault(
        None, "The provider's answer broke off.", billed="estimated", same_target=False, try_next=False, code="stream_interrupted"
    ),
    ErrorClass.TRUNCATED: _fault("connection", "The provider's answer ended too early."),
    # time
    ErrorClass.TTFB_TIMEOUT: _timeout("The provider sent no content in time."),
    ErrorClass.IDLE_TIMEOUT: _timeout("The provider stopped sending."),
    ErrorClass.TOTAL_TIMEOUT: _timeout("The provider did not finish in time."),
    # limits
    ErrorClass.RATE_LIMITED: _fault(
        "429", "Every provider that could serve this is rate-limited now.",
        billed="free", effect=Effect.RATE, status=429, type_="rate_limit_error", code="rate_limit_exceeded",
    ),
    ErrorClass.INSUFFICIENT_QUOTA: _permanent(
        "429", Effect.QUOTA, "The proxy's account at the provider has no quota or credit left.",
        status=429, code="insufficient_quota", type_="insufficient_quota",
    ),
    ErrorClass.OVERLOADED: _fault(
        "5xx", "The provider is overloaded.", billed="free", status=503, type_="overloaded_error", code="overloaded"
    ),
    # what the provider says is wrong
    ErrorClass.SERVER_ERROR: _fault("5xx", "The provider failed with a server error.", billed="free"),
    ErrorClass.INVALID_REQUEST: _callers(
        None, "The provider refused the request as invalid.", code="invalid_request", try_next=False
    ),
    ErrorClass.CONTEXT_LENGTH: _callers(
        None, "The request is longer than the model's context.", code="context_length_exceeded", try_next=True
    ),
    ErrorClass.CONTENT_POLICY: _callers(
        "policy", "The provider refused the request under its content policy.", code="content_policy", try_next=True
    ),
    ErrorClass.AUTH: _permanent(
        "auth", Effect.AUTH, "The provider refused the proxy's own key: its operator must look at it.",
        status=502, code="provider_auth",
    ),
    ErrorClass.MODEL_NOT_FOUND: _permanent(
        "not_found", Effect.CONFIG, "The provider does not have this model.", status=502, code="model_unavailable"
    ),
    ErrorClass.RETRYABLE_4XX: _fault("5xx", "The provider could not take the request just then.", billed="free"),
    # answers that are none
    ErrorClass.EMPTY: _fault("5xx", "The provider's answer was empty."),
    ErrorClass.MALFORMED: _fault("5xx", "The provider's answer could not be read."),
    ErrorClass.MALFORMED_EVENT: _fault("5xx", "The provider's stream could not be read."),
    ErrorClass.TOO_LARGE: _fault("5xx", "The provider's answer was too large.", same_target=False),
    ErrorClass.BAD_CONTENT_TYPE: _fault("5xx", "The provider answered with something that is not a completion."),
    ErrorClass.REDIRECT: _fault(
        "5xx", "The provider answered with a redirect, which is not followed.",
        billed="free", same_target=False, category="permanent",
    ),
    ErrorClass.MODEL_FAULT: _fault(
        None, "The model produced output that its provider could not use.", effect=Effect.NEUTRAL
    ),
    # not the upstream's doing
    ErrorClass.CLIENT_GONE: _fault(
        None, "The caller left.", same_target=False, try_next=False, effect=Effect.NEUTRAL, status=499, code="client_gone"
    ),
    ErrorClass.DRAINED: _fault(
        None, "The proxy is stopping; try again.",
        same_target=False, try_next=False, effect=Effect.NEUTRAL, status=503, type_="overloaded_error", code="draining",
    ),
    ErrorClass.HEDGED_OUT: _fault(
        None, "Another target answered first.", same_target=False, try_next=False, effect=Effect.NEUTRAL
    ),
    ErrorClass.INTERRUPTED: _fault(
        None, "The proxy stopped before this ended.",
        billed="estimated", same_target=False, try_next=False, effect=Effect.NEUTRAL, code="stream_interrupted",
    ),
    ErrorClass.INTERNAL: _fault(
        None, "The proxy failed on this answer.",
        same_target=False, effect=Effect.NEUTRAL, category="permanent", status=500, type_="api_error", code="internal_error",
    ),
}  # fmt: skip

_CALLERS = frozenset((ErrorClass.INVALID_REQUEST, ErrorClass.CONTEXT_LENGTH, ErrorClass.CONTENT_POLICY))
# statuses that say something about who is calling, or that SDKs retry by themselves: not for a provider's "invalid request"
_NOT_THE_CALLERS = frozenset((401, 402, 403, 407, 408, 409, 425, 429))
MAX_MESSAGE_CHARS = 300


def judge(error: UpstreamError, *, failover_on: frozenset[FailoverCause], committed: bool) -> Verdict:
    """What to do about an attempt's error. Once the caller has seen content (`committed`) no other target is tried."""
    rule = RULES[error.error_class]
    effect = rule.effect
    if error.error_class is ErrorClass.OVERLOADED and error.retry_after_s is not None:
        effect = Effect.RATE
    elif error.error_class is ErrorClass.RETRYABLE_4XX and error.status == 409:
        effect = Effect.NEUTRAL
    cooldown_s = clamp_cooldown(error.retry_after_s) if effect is Effect.RATE else None
    if committed and effect is Effect.RATE:
        # it broke an answer that had begun, which is more than asking us to wait
        effect = Effect.FAIL
    try_next = rule.try_next and not committed and (rule.cause is None or rule.cause in failover_on)
    return Verdict(try_next, effect, cooldown_s)


def client_error(error: UpstreamError, *, earlier: Sequence[UpstreamError] = (), committed: bool = False) -> ProxyError:
    """The answer once the chain is spent. `error` is the last attempt's, `earlier` those before it, messages already redacted.

    Which of several is told: a fault of the caller's own, for only the caller can mend it; else, leaving out what only the
    operator can mend as long as anything else went wrong: a rate limit if there is nothing but rate limits, with the shortest
    wait; else the last fault that is not a rate limit. After content it is always `stream_interrupted`.
    """
    if committed:
        rule = RULES[error.error_class]
        message = f"The answer broke off and is not whole. {rule.message}"
        return ChainSpent(message, status=502, type_=_UPSTREAM, code="stream_interrupted")
    told = _told([*earlier, error])
    rule = RULES[told.error_class]
    match told.error_class:
        case ErrorClass.DRAINED:
            return Draining(rule.message)
        case ErrorClass.INTERNAL:
            return InternalError(rule.message)
        case ErrorClass.INVALID_REQUEST | ErrorClass.CONTEXT_LENGTH | ErrorClass.CONTENT_POLICY:
            return _callers_fault(told, rule)
        case ErrorClass.RATE_LIMITED:
            limited = [other for other in (*earlier, error) if other.error_class is ErrorClass.RATE_LIMITED]
            wait_s: float | None = min([clamp_cooldown(other.retry_after_s) for other in limited])
        case _:
            wait_s = (
                clamp_cooldown(told.retry_after_s) if told.retry_after_s is not None and rule.category == "transient" else None
            )
    return ChainSpent(rule.message, status=rule.status, type_=rule.type, code=rule.code, retry_after_s=wait_s)


def _told(errors: list[UpstreamError]) -> UpstreamError:
    last = errors[-1]
    if last.error_class in (ErrorClass.DRAINED, ErrorClass.CLIENT_GONE):
        return last
    callers = [error for error in errors if error.error_class in _CALLERS]
    if callers:
        return callers[-1]
    # a stale connection was made good by a fresh one: it is nobody's last word
    errors = [error for error in errors if error.error_class is not ErrorClass.STALE_RETRY] or errors
    transient = [error for error in errors if RULES[error.error_class].category == "transient"] or errors
    return next((error for error in reversed(transient) if error.error_class is not ErrorClass.RATE_LIMITED), transient[-1])


def _callers_fault(error: UpstreamError, rule: Rule) -> ChainSpent:
    """The caller's own mistake, in the provider's words: the status, code and param as the provider gave them, on one line."""
    status = rule.status
    code = rule.code
    if error.error_class is ErrorClass.INVALID_REQUEST:
        if error.status is not None and 400 <= error.status < 500 and error.status not in _NOT_THE_CALLERS:
            status = error.status
        if error.code:
            code = one_line(error.code, 64)
    param = one_line(error.param, 128) if error.param else None
    message = one_line(error.message, MAX_MESSAGE_CHARS) or rule.message
    return ChainSpent(message, status=status, type_=rule.type, code=code, param=param)
