"""What an OpenAI-shaped error means, whoever sends it: a table by status, refined by what the body says.

Providers agree on the envelope only roughly: `{"error": {"message", "type", "code"}}` mostly, with `code` a string, an int or
missing, `error` a string (xAI), `{"detail": …}` (Mistral), `{"message": …}` (Cohere), an array around it all (Google), or no JSON.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from proxy.core.errors import ErrorClass, UpstreamError

_BY_STATUS: dict[int, ErrorClass] = {
    400: ErrorClass.INVALID_REQUEST,
    401: ErrorClass.AUTH,
    402: ErrorClass.INSUFFICIENT_QUOTA,
    403: ErrorClass.AUTH,
    404: ErrorClass.MODEL_NOT_FOUND,
    408: ErrorClass.RETRYABLE_4XX,
    409: ErrorClass.RETRYABLE_4XX,
    422: ErrorClass.INVALID_REQUEST,
    424: ErrorClass.RETRYABLE_4XX,
    425: ErrorClass.RETRYABLE_4XX,
    429: ErrorClass.RATE_LIMITED,
    498: ErrorClass.OVERLOADED,  # Groq: flex tier at capacity
    503: ErrorClass.OVERLOADED,
    529: ErrorClass.OVERLOADED,
}

# code or type as the provider words it, lower-case -> what it is; wins over the status
_BY_CODE: dict[str, ErrorClass] = {
    "context_length_exceeded": ErrorClass.CONTEXT_LENGTH,
    "string_above_max_length": ErrorClass.CONTEXT_LENGTH,
    "exceed_context_size_error": ErrorClass.CONTEXT_LENGTH,
    "too_many_prompt_tokens": ErrorClass.CONTEXT_LENGTH,
    "too_many_tokens": ErrorClass.CONTEXT_LENGTH,
    "request_too_large": ErrorClass.CONTEXT_LENGTH,
    "content_filter": ErrorClass.CONTENT_POLICY,
    "content_policy_violation": ErrorClass.CONTENT_POLICY,
    "responsibleaipolicyviolation": ErrorClass.CONTENT_POLICY,
    "data_inspection_failed": ErrorClass.CONTENT_POLICY,
    "insufficient_quota": ErrorClass.INSUFFICIENT_QUOTA,
    "insufficient_balance": ErrorClass.INSUFFICIENT_QUOTA,
    "billing_hard_limit_reached": ErrorClass.INSUFFICIENT_QUOTA,
    "billing_not_active": ErrorClass.INSUFFICIENT_QUOTA,
    "exceeded_current_quota_error": ErrorClass.INSUFFICIENT_QUOTA,
    "arrearage": ErrorClass.INSUFFICIENT_QUOTA,
    "invalid_api_key": ErrorClass.AUTH,
    "api_key_invalid": ErrorClass.AUTH,
    "invalid_authentication_error": ErrorClass.AUTH,
    "authentication_error": ErrorClass.AUTH,
    "permission_error": ErrorClass.AUTH,
    "unauthorized": ErrorClass.AUTH,
    "model_not_found": ErrorClass.MODEL_NOT_FOUND,
    "model_decommissioned": ErrorClass.MODEL_NOT_FOUND,
    "deploymentnotfound": ErrorClass.MODEL_NOT_FOUND,
    "invalid_model": ErrorClass.MODEL_NOT_FOUND,
    "unknown_model": ErrorClass.MODEL_NOT_FOUND,
    "not_found_error": ErrorClass.MODEL_NOT_FOUND,
    "rate_limit_exceeded": ErrorClass.RATE_LIMITED,
    "rate_limit_error": ErrorClass.RATE_LIMITED,
    "ratelimitreached": ErrorClass.RATE_LIMITED,
    "rate_limit_reached_error": ErrorClass.RATE_LIMITED,
    "resource_exhausted": ErrorClass.RATE_LIMITED,
    "too_many_requests": ErrorClass.RATE_LIMITED,
    "overloaded_error": ErrorClass.OVERLOADED,
    "engine_overloaded": ErrorClass.OVERLOADED,
    "engine_overloaded_error": ErrorClass.OVERLOADED,
    "unavailable": ErrorClass.OVERLOADED,
    "service_unavailable": ErrorClass.OVERLOADED,
    "server_error": ErrorClass.SERVER_ERROR,
    "internal_error": ErrorClass.SERVER_ERROR,
    "internal_server_error": ErrorClass.SERVER_ERROR,
    "api_error": ErrorClass.SERVER_ERROR,
    "tool_use_failed": ErrorClass.MODEL_FAULT,
    "json_validate_failed": ErrorClass.MODEL_FAULT,
}

# what only the text tells, for 4xx whose code says no more than "invalid request"
_BY_TEXT: tuple[tuple[re.Pattern[str], ErrorClass], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), error_class)
    for pattern, error_class in (
        (r"maximum context length|context length exceeded|context window|context_length", ErrorClass.CONTEXT_LENGTH),
        (r"prompt is too long|prompt too long|input is too long|input token count", ErrorClass.CONTEXT_LENGTH),
        # Moonshot, Z.ai, DashScope, llama.cpp, text-generation-inference
        (
            r"exceeded model token limit|prompt exceeds max length|range of input length|available context size|`inputs` tokens \+",
            ErrorClass.CONTEXT_LENGTH,
        ),
        (
            r"too many (?:input |prompt )?tokens|exceeds the maximum number of tokens|input tokens exceed",
            ErrorClass.CONTEXT_LENGTH,
        ),
        (r"exceeded your current quota|insufficient (?:credits|balance|funds|quota)", ErrorClass.INSUFFICIENT_QUOTA),
        (r"requires more credits|out of credits|credit balance is too low", ErrorClass.INSUFFICIENT_QUOTA),
        (
            r"content management policy|content policy|flagged (?:as|by|for)|input was flagged|safety system",
            ErrorClass.CONTENT_POLICY,
        ),
        (r"(?:incorrect|invalid|missing|no valid) api[ _-]?key|api key not valid|api_key_invalid", ErrorClass.AUTH),
        (
            r"model\S* (?:\S{1,200} ){0,2}(?:(?:is|was|does|could) )?(?:not (?:be )?(?:exist|found)|not a valid model)",
            ErrorClass.MODEL_NOT_FOUND,
        ),
        (r"no such model|unknown model|not a valid model id", ErrorClass.MODEL_NOT_FOUND),
    )
)
# these set a key or a model aside for everybody, so the words must be the provider's own: a caller's come quoted or behind a colon
_LATCHING = frozenset((ErrorClass.AUTH, ErrorClass.INSUFFICIENT_QUOTA, ErrorClass.MODEL_NOT_FOUND))
_OWN_WORDS = re.compile(r"[^'\"`:]*")
_NOT_A_MODEL = re.compile(
    r"\b(?:no such|unknown|find (?:the )?)\s*file\b|\bfile[ _-]?id\b|\bfile .{0,80}not found|\bnot a chat model\b", re.IGNORECASE
)
_REFINED_BY_TEXT = frozenset((ErrorClass.INVALID_REQUEST, ErrorClass.RATE_LIMITED, ErrorClass.AUTH, ErrorClass.SERVER_ERROR))


def decode_error(status: int, body: bytes) -> UpstreamError:
    """An answer whose status is not 2xx. The retry hint is in its headers and is read elsewhere."""
    parsed = _parse(body)
    if 300 <= status < 400:
        return UpstreamError(ErrorClass.REDIRECT, f"answered with a redirect ({status})", status=status)
    if parsed is None:
        # not JSON: the status is all there is; the text stays out, for it may be a page of HTML
        return UpstreamError(_by_status(status), f"HTTP {status}", status=status)
    return error_from_object(parsed, status=status)


def error_from_object(parsed: Any, *, status: int | None) -> UpstreamError:
    """`parsed`: the whole JSON body, or a stream's error event. With `status` None or 2xx the body must tell by itself what it is."""
    if isinstance(parsed, list):
        parsed = parsed[0] if parsed else {}
    envelope = parsed if isinstance(parsed, dict) else {}
    error = envelope.get("error", envelope)
    if isinstance(error, str):
        error = {**envelope, "message": error}
    if not isinstance(error, dict):
        error = {}
    codes = _codes(error, envelope)
    message = _message(error) or _message(envelope) or "no message"
    if status is None or status < 400:
        status = _inner_status(error)
    error_class = next((_BY_CODE[code] for code in codes if code in _BY_CODE), None)
    if error_class is ErrorClass.SERVER_ERROR and status is not None and status < 500:
        error_class = None  # `api_error` beside a 401 (Ollama) or a 429 says less than the status does
    if error_class is None or error_class in _REFINED_BY_TEXT:
        base = error_class or _by_status(status)
        error_class = _by_text(message, base) if base in _REFINED_BY_TEXT else base
    body_delay = _google_delay(error) or _openrouter_reset(error)
    if error_class is ErrorClass.INSUFFICIENT_QUOTA and status == 429 and body_delay is not None:
        error_class = ErrorClass.RATE_LIMITED  # Google words a per-minute limit like a spent quota; but a quota has no wait
    if error_class is ErrorClass.MODEL_NOT_FOUND and status == 404 and _NOT_A_MODEL.search(message[:2000]):
        error_class = ErrorClass.INVALID_REQUEST  # something else of the caller's is missing: no fault of the model's name
    param = error.get("param")
    code = error.get("code")
    return UpstreamError(
        error_class,
        message,
        status=status,
        code=code if isinstance(code, str) else None,
        param=param if isinstance(param, str) else None,
        body_delay=body_delay,
    )


def _parse(body: bytes) -> Any:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict | list) else None


def _by_status(status: int | None) -> ErrorClass:
    if status is None:
        return ErrorClass.SERVER_ERROR
    known = _BY_STATUS.get(status)
    if known is not None:
        return known
    return ErrorClass.INVALID_REQUEST if 400 <= status < 500 else ErrorClass.SERVER_ERROR


def _by_text(message: str, base: ErrorClass) -> ErrorClass:
    # bounded: a message may be a megabyte, and these are regular expressions
    head = message[:2000]
    own = _OWN_WORDS.match(head)
    own_chars = own.end() if own is not None else 0
    for pattern, error_class in _BY_TEXT:
        if base is ErrorClass.RATE_LIMITED and error_class is not ErrorClass.INSUFFICIENT_QUOTA:
            continue  # "too many tokens" is then a matter of time
        found = pattern.search(head)
        if found is not None and (error_class not in _LATCHING or found.start() <= own_chars):
            return error_class
    return base


def _codes(error: dict[str, Any], envelope: dict[str, Any]) -> list[str]:
    """Everything that names the kind, most telling first."""
    inner = error.get("innererror")
    found = [
        error.get("code"),
        inner.get("code") if isinstance(inner, dict) else None,
        *_google_reasons(error),
        error.get("type"),
        error.get("status"),
        envelope.get("code"),
        envelope.get("type"),
        envelope.get("error_type"),
    ]
    return [value.lower() for value in found if isinstance(value, str)]


def _message(error: dict[str, Any]) -> str | None:
    message = error.get("message") or error.get("detail")
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None  # OpenRouter hides the true cause there
    if isinstance(message, list):  # validation errors: [{"loc": […], "msg": …}]
        message = "; ".join(str(item.get("msg", item)) if isinstance(item, dict) else str(item) for item in message)
    if isinstance(message, dict):
        message = str(message.get("message", message))
    if isinstance(message, str) and isinstance(raw, str):
        return f"{message}: {raw}"
    return message if isinstance(message, str) else None


def _inner_status(error: dict[str, Any]) -> int | None:
    for key in ("status_code", "code", "status"):
        value = error.get(key)
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    kind = error.get("type")
    return 400 if kind == "invalid_request_error" else None


def _google_reasons(error: dict[str, Any]) -> list[Any]:
    details = error.get("details")
    return [item.get("reason") for item in details if isinstance(item, dict)] if isinstance(details, list) else []


def _openrouter_reset(error: dict[str, Any]) -> str | None:
    """OpenRouter puts the headers of its own limits into the body: the reset is a time in milliseconds since 1970."""
    metadata = error.get("metadata")
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    reset = headers.get("X-RateLimit-Reset") if isinstance(headers, dict) else None
    return reset if isinstance(reset, str) else None


def _google_delay(error: dict[str, Any]) -> str | None:
    details = error.get("details")
    for item in details if isinstance(details, list) else []:
        delay = item.get("retryDelay") if isinstance(item, dict) else None
        if isinstance(delay, str):
            return delay
    return None
