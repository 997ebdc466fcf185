"""What an error of the Messages API means, as an answer of its own and inside of a stream.

    {"type": "error", "error": {"type", "message", "details": {"error_code"} | null}, "request_id"}
    https://docs.anthropic.com/en/api/errors

    error.type                     HTTP   ours
    invalid_request_error          400    INVALID_REQUEST, unless code or text say more
    authentication_error           401    AUTH
    billing_error                  402    INSUFFICIENT_QUOTA
    permission_error               403    AUTH
    not_found_error                404    MODEL_NOT_FOUND for `model: …`, INVALID_REQUEST where a file or the like is missing
    conflict_error                 409    RETRYABLE_4XX
    request_too_large              413    CONTEXT_LENGTH
    rate_limit_error               429    RATE_LIMITED; INSUFFICIENT_QUOTA when a month's limit is spent
    api_error                      500    SERVER_ERROR
    timeout_error                  504    SERVER_ERROR
    overloaded_error               529    OVERLOADED

Much is told by the text alone: a prompt that is too long, a spent balance. What is no error of this shape, such as Google's in front of the
same models, is judged like any other.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.dialects import openai_errors

# `error.details.error_code`, which wins over everything
_BY_CODE: dict[str, ErrorClass] = {
    "contract_spend_limit_reached": ErrorClass.INSUFFICIENT_QUOTA,
    "enforced_spend_limit_reached": ErrorClass.INSUFFICIENT_QUOTA,
    "linked_organization_billing_unavailable": ErrorClass.INSUFFICIENT_QUOTA,
    "linked_organization_spend_limit_reached": ErrorClass.INSUFFICIENT_QUOTA,
    "organization_on_hold": ErrorClass.INSUFFICIENT_QUOTA,
    "user_profile_not_billable": ErrorClass.INSUFFICIENT_QUOTA,
    "ramp_limit_exceeded": ErrorClass.RATE_LIMITED,
    "request_body_too_large_after_decoding": ErrorClass.CONTEXT_LENGTH,
    "request_body_timeout": ErrorClass.RETRYABLE_4XX,
}
# types that the common table does not know, or takes for something else
_BY_TYPE: dict[str, ErrorClass] = {
    "billing_error": ErrorClass.INSUFFICIENT_QUOTA,
    "conflict_error": ErrorClass.RETRYABLE_4XX,
    "timeout_error": ErrorClass.SERVER_ERROR,
}
# the whole text, or how it begins: what a caller sent comes later in it
_BY_TEXT: tuple[tuple[re.Pattern[str], ErrorClass], ...] = (
    (
        re.compile(r"(?:messages: )?prompt is too long|input length and `?max_tokens`? exceed", re.IGNORECASE),
        ErrorClass.CONTEXT_LENGTH,
    ),
    (
        re.compile(r"you have reached your specified (?:workspace )?api usage limits", re.IGNORECASE),
        ErrorClass.INSUFFICIENT_QUOTA,
    ),
    (re.compile(r"your credit balance is too low", re.IGNORECASE), ErrorClass.INSUFFICIENT_QUOTA),
    (re.compile(r"output blocked by content filtering policy", re.IGNORECASE), ErrorClass.CONTENT_POLICY),
    # something else that the request names is missing, which is no fault of the model's name
    (re.compile(r"(?:container|file|skill|session|tool|thread)\b", re.IGNORECASE), ErrorClass.INVALID_REQUEST),
)
_TOLD_BY_TEXT = frozenset(("invalid_request_error", "rate_limit_error", "api_error"))


def decode_error(status: int, body: bytes) -> UpstreamError:
    """An answer whose status is not 2xx. The retry hint is in its headers and is read elsewhere."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    if isinstance(parsed, dict) and isinstance(parsed.get("error"), dict) and status >= 400:
        return error_of(parsed, status=status)
    return openai_errors.decode_error(status, body)


def error_of(parsed: dict[str, Any], *, status: int | None) -> UpstreamError:
    """`parsed`: the whole body, or a stream's `error` event. With `status` None it must tell by itself what it is."""
    found = openai_errors.error_from_object(parsed, status=status)
    error = parsed.get("error")
    if not isinstance(error, dict):
        return found
    details = error.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    if isinstance(code, str):
        found.code = code
    kind = error.get("type")
    told = _BY_CODE.get(code) if isinstance(code, str) else None
    if told is None and isinstance(kind, str):
        told = _BY_TYPE.get(kind) or _by_text(kind, found.message)
    if told is not None:
        found.error_class = told
    return found


def _by_text(kind: str, message: str) -> ErrorClass | None:
    for pattern, error_class in _BY_TEXT:
        missing = error_class is ErrorClass.INVALID_REQUEST
        if (kind == "not_found_error" if missing else kind in _TOLD_BY_TEXT) and pattern.match(message):
            return error_class
    return None
