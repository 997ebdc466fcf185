"""What an error of Google's means, whether it is an answer's whole body or an event of a stream.

https://ai.google.dev/gemini-api/docs/troubleshooting
https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto and …/error_details.proto

    {"error": {"code": 429, "message": …, "status": "RESOURCE_EXHAUSTED", "details": [{"@type": …ErrorInfo, "reason", "domain"},
                                                                                      {"@type": …RetryInfo, "retryDelay": "48s"}]}}
    [{"error": …}]      the same, of a stream that was not asked for with alt=sse

The first that knows decides: what the message is about, a detail's reason, the message's words, the status.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.dialects import openai_errors

_BY_STATUS: dict[str, ErrorClass] = {
    "INVALID_ARGUMENT": ErrorClass.INVALID_REQUEST,
    "OUT_OF_RANGE": ErrorClass.INVALID_REQUEST,
    "FAILED_PRECONDITION": ErrorClass.INVALID_REQUEST,
    "UNAUTHENTICATED": ErrorClass.AUTH,
    "PERMISSION_DENIED": ErrorClass.AUTH,
    "NOT_FOUND": ErrorClass.MODEL_NOT_FOUND,
    "UNIMPLEMENTED": ErrorClass.MODEL_NOT_FOUND,
    "RESOURCE_EXHAUSTED": ErrorClass.RATE_LIMITED,
    "ABORTED": ErrorClass.RETRYABLE_4XX,
    "CANCELLED": ErrorClass.RETRYABLE_4XX,
    "UNAVAILABLE": ErrorClass.OVERLOADED,
    "DEADLINE_EXCEEDED": ErrorClass.SERVER_ERROR,
    "INTERNAL": ErrorClass.SERVER_ERROR,
    "UNKNOWN": ErrorClass.SERVER_ERROR,
    "DATA_LOSS": ErrorClass.SERVER_ERROR,
}

# https://github.com/googleapis/googleapis/blob/master/google/api/error_reason.proto
_BY_REASON: dict[str, ErrorClass] = {
    **dict.fromkeys(
        """ACCESS_TOKEN_EXPIRED ACCESS_TOKEN_SCOPE_INSUFFICIENT ACCESS_TOKEN_TYPE_UNSUPPORTED ACCOUNT_STATE_INVALID
        API_KEY_ANDROID_APP_BLOCKED API_KEY_HTTP_REFERRER_BLOCKED API_KEY_INVALID API_KEY_IOS_APP_BLOCKED
        API_KEY_IP_ADDRESS_BLOCKED API_KEY_SERVICE_BLOCKED CONSUMER_INVALID CONSUMER_SUSPENDED CREDENTIALS_MISSING
        IAM_PERMISSION_DENIED LOCATION_ORG_POLICY_VIOLATED LOCATION_POLICY_VIOLATED ORG_RESTRICTION_VIOLATION
        SECURITY_POLICY_VIOLATED SERVICE_DISABLED USER_PROJECT_DENIED""".split(),
        ErrorClass.AUTH,
    ),
    "BILLING_DISABLED": ErrorClass.INSUFFICIENT_QUOTA,
    "RATE_LIMIT_EXCEEDED": ErrorClass.RATE_LIMITED,
    "RESOURCE_QUOTA_EXCEEDED": ErrorClass.RATE_LIMITED,
}

# something that the caller named is missing or another's: no fault of the key or of the model, which would be set aside for everybody
_NAMED_BY_CALLER = re.compile(
    r"\baccess the file\b|\bfile \S{1,200} (?:is )?not\b|\bcached ?content\b|\bcorpus\b|\bfile ?search ?store\b", re.IGNORECASE
)
_SPENT = re.compile(r"credits are depleted|enable billing|requires billing|billing (?:is |has been )?disabled", re.IGNORECASE)
_BY_TEXT: tuple[tuple[re.Pattern[str], ErrorClass], ...] = (
    (
        re.compile(r"input token count|exceeds the maximum number of tokens|payload size exceeds", re.IGNORECASE),
        ErrorClass.CONTEXT_LENGTH,
    ),
    (re.compile(r"user location is not supported|api key (?:not valid|expired|not found)", re.IGNORECASE), ErrorClass.AUTH),
    (
        re.compile(r"\bprohibited_content\b|\bblocked (?:by|due to|for)\b|usage guidelines|responsible ai", re.IGNORECASE),
        ErrorClass.CONTENT_POLICY,
    ),
)
_OWN_WORDS = re.compile(r"[^'\"`:]*")
_RETRY_IN = re.compile(r"\bretry in ((?:[0-9]{1,9}(?:\.[0-9]{0,12})?(?:ms|[hms])){1,4})")
_MAX_READ = 4000  # characters of a message: these are regular expressions
_UNTIL_TOMORROW = "1h"  # for a quota of a day, where nothing else is said


def decode_error(status: int, body: bytes) -> UpstreamError:
    """An answer whose status is not 2xx."""
    found = openai_errors.decode_error(status, body)
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return found
    return found if found.error_class is ErrorClass.REDIRECT else _refined(found, parsed)


def error_from_object(parsed: Any) -> UpstreamError:
    """An error in a stream's event, or in a body with status 200."""
    return _refined(openai_errors.error_from_object(parsed, status=None), parsed)


def _refined(found: UpstreamError, parsed: Any) -> UpstreamError:
    """What the shared tables made of it, and what Google says besides."""
    if isinstance(parsed, list):
        parsed = parsed[0] if parsed else None
    error = parsed.get("error") if isinstance(parsed, dict) else None
    if not isinstance(error, dict):
        return found
    details = error.get("details")
    details = [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []
    status = error.get("status")
    status = status if isinstance(status, str) else None
    return UpstreamError(
        _class_of(found, status, details),
        found.message,
        status=found.status,
        code=found.code or status,
        param=found.param,
        body_delay=found.body_delay or _delay(found.message, details),
    )


def _class_of(found: UpstreamError, status: str | None, details: list[dict[str, Any]]) -> ErrorClass:
    message = found.message[:_MAX_READ]
    base = found.error_class
    if status is not None and base in (ErrorClass.INVALID_REQUEST, ErrorClass.SERVER_ERROR):
        base = _BY_STATUS.get(status, base)
    reasons = [detail.get("reason") for detail in details]
    told = next((_BY_REASON[reason] for reason in reasons if isinstance(reason, str) and reason in _BY_REASON), None)
    if told is None and base in (ErrorClass.AUTH, ErrorClass.MODEL_NOT_FOUND) and _NAMED_BY_CALLER.search(message):
        return ErrorClass.INVALID_REQUEST
    match told or base:
        case ErrorClass.INVALID_REQUEST | ErrorClass.AUTH as refined:
            return _by_text(message, refined)
        case ErrorClass.RATE_LIMITED | ErrorClass.INSUFFICIENT_QUOTA as refined:
            # "exceeded your current quota" is said of a minute's quota as of a day's; one that is spent for good has no wait
            if _says(_SPENT, message):
                return ErrorClass.INSUFFICIENT_QUOTA
            passing = found.body_delay or _delay(message, details) or any("violations" in detail for detail in details)
            return ErrorClass.RATE_LIMITED if passing else refined
        case settled:
            return settled


def _by_text(message: str, base: ErrorClass) -> ErrorClass:
    if _says(_SPENT, message):
        return ErrorClass.INSUFFICIENT_QUOTA
    for pattern, error_class in _BY_TEXT:
        if _says(pattern, message) if error_class is ErrorClass.AUTH else pattern.search(message):
            return error_class
    return base


def _says(pattern: re.Pattern[str], message: str) -> bool:
    """In Google's own words. A caller's come quoted or behind a colon, and must not set a key aside for everybody."""
    found, own = pattern.search(message), _OWN_WORDS.match(message)
    return found is not None and own is not None and found.start() <= own.end()


def _delay(message: str, details: list[dict[str, Any]]) -> str | None:
    """A wait that only the words tell, or that of a quota of a day."""
    said = _RETRY_IN.search(message[:_MAX_READ])
    if said is not None:
        return said[1]
    for detail in details:
        violations = detail.get("violations")
        for violation in violations if isinstance(violations, list) else []:
            quota = violation.get("quotaId") if isinstance(violation, dict) else None
            if isinstance(quota, str) and "PerDay" in quota:
                return _UNTIL_TOMORROW
    return None
