"""What an error of Amazon Bedrock means: as an answer of its own, and as an exception inside of a stream.

    HTTP      `x-amzn-errortype: ValidationException:http://…` and {"message"}; or {"__type": "…#ValidationException", "Message"}
    stream    a frame with `:message-type: exception`, `:exception-type: validationException` and {"message"}
    https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html#API_runtime_Converse_Errors
    https://docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html

The kind says what happened, and of two kinds the text says what was meant: a ValidationException may be a prompt that is too long, or a
model that is not there; an AccessDeniedException may be about one model, which is no fault of the key. Where no kind is given, the
status and the text are all there is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.dialects import openai_errors

_BY_KIND: dict[str, ErrorClass] = {
    "ThrottlingException": ErrorClass.RATE_LIMITED,
    "TooManyRequestsException": ErrorClass.RATE_LIMITED,
    "ServiceQuotaExceededException": ErrorClass.RATE_LIMITED,
    "ModelNotReadyException": ErrorClass.OVERLOADED,  # 429, but nobody asked too often: it is being loaded
    "ServiceUnavailableException": ErrorClass.OVERLOADED,
    "ModelTimeoutException": ErrorClass.RETRYABLE_4XX,  # 408
    "ModelErrorException": ErrorClass.RETRYABLE_4XX,  # 424
    "RequestTimeoutException": ErrorClass.RETRYABLE_4XX,
    "ModelStreamErrorException": ErrorClass.SERVER_ERROR,
    "InternalServerException": ErrorClass.SERVER_ERROR,
    "InternalFailure": ErrorClass.SERVER_ERROR,
    "AccessDeniedException": ErrorClass.AUTH,
    "ExpiredToken": ErrorClass.AUTH,
    "ExpiredTokenException": ErrorClass.AUTH,
    "IncompleteSignature": ErrorClass.AUTH,
    "IncompleteSignatureException": ErrorClass.AUTH,
    "InvalidClientTokenId": ErrorClass.AUTH,
    "InvalidSignatureException": ErrorClass.AUTH,  # a clock that is wrong, too
    "MissingAuthenticationToken": ErrorClass.AUTH,
    "MissingAuthenticationTokenException": ErrorClass.AUTH,
    "NotAuthorized": ErrorClass.AUTH,
    "OptInRequired": ErrorClass.AUTH,
    "RequestExpired": ErrorClass.AUTH,
    "SignatureDoesNotMatch": ErrorClass.AUTH,
    "UnauthorizedException": ErrorClass.AUTH,
    "UnrecognizedClientException": ErrorClass.AUTH,
    "ResourceNotFoundException": ErrorClass.MODEL_NOT_FOUND,
    "UnknownOperationException": ErrorClass.MODEL_NOT_FOUND,  # no Converse at this address
    "RequestEntityTooLargeException": ErrorClass.CONTEXT_LENGTH,
    "SerializationException": ErrorClass.INVALID_REQUEST,
    "ValidationException": ErrorClass.INVALID_REQUEST,
    "ValidationError": ErrorClass.INVALID_REQUEST,
}

# what the model behind it said comes with these words in front
_QUOTED = r"(?:the model returned the following errors: )?"
# how a text begins -> what it means; what a caller sent comes later in it
_BY_TEXT: tuple[tuple[re.Pattern[str], ErrorClass], ...] = tuple(
    (re.compile(f"{_QUOTED}(?:{pattern})", re.IGNORECASE), error_class)
    for pattern, error_class in (
        (r"(?:validation error: )?input is too long|(?:messages: )?prompt is too long", ErrorClass.CONTEXT_LENGTH),
        (
            r"input tokens? exceed|too many (?:input|prompt) tokens|input length and `?max_tokens`? exceed",
            ErrorClass.CONTEXT_LENGTH,
        ),
        (r"this model's maximum (?:context|prompt) length|.{0,80}maximum context length", ErrorClass.CONTEXT_LENGTH),
        (r"the provided model identifier is invalid", ErrorClass.MODEL_NOT_FOUND),
        (r"invocation of model id .{1,300} with on-demand throughput", ErrorClass.MODEL_NOT_FOUND),
        (r"the (?:provided )?model .{0,300}doesn.t support on-demand throughput", ErrorClass.MODEL_NOT_FOUND),
        (r"this action doesn.t support the model that you provided", ErrorClass.MODEL_NOT_FOUND),
        (r"you don.t have access to the model", ErrorClass.MODEL_NOT_FOUND),
        # a role that may use one model and not another is a good one
        (r"user: \S{1,300} is not authorized to perform: bedrock:\w+ on resource", ErrorClass.MODEL_NOT_FOUND),
        (r"you invoked an unsupported model or your request did not allow prompt caching", ErrorClass.INVALID_REQUEST),
        (r"output blocked by content filtering policy", ErrorClass.CONTENT_POLICY),
    )
)
_TOLD_BY_TEXT = frozenset((ErrorClass.INVALID_REQUEST, ErrorClass.AUTH))


def decode_error(status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> UpstreamError:
    """An answer whose status is not 2xx."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    told = next((value.decode("latin-1") for name, value in headers if name == b"x-amzn-errortype"), "")
    if not isinstance(parsed, dict):
        parsed = {}
    kind = _kind(told) or kind_of(parsed)
    if status < 400 or (kind not in _BY_KIND and not isinstance(_message(parsed), str)):
        return openai_errors.decode_error(status, body)
    return error_of(kind, parsed, status=status)


def error_of(kind: str | None, said: dict[str, Any], *, status: int) -> UpstreamError:
    """`kind` as in the tables, or as a stream writes it; None where only status and text can tell."""
    name = kind[:1].upper() + kind[1:] if kind else ""
    message = _message(said)
    error_class = _BY_KIND.get(name)
    if error_class is None:
        # an unknown kind: the status tells, and in a stream there is none
        error_class = openai_errors.error_from_object(said, status=status if status >= 400 else None).error_class
    if message is not None and (error_class in _TOLD_BY_TEXT or not name):
        error_class = next((meant for pattern, meant in _BY_TEXT if pattern.match(message[:2000])), error_class)
    return UpstreamError(error_class, message or name or "no message", status=status)


def kind_of(said: dict[str, Any]) -> str | None:
    """What the body itself says: `__type`, perhaps inside of `Output`, as AWS answers for operations that it does not know."""
    inner = said.get("Output")
    found = said.get("__type") or (inner.get("__type") if isinstance(inner, dict) else None) or said.get("code")
    return _kind(found) if isinstance(found, str) else None


def _kind(told: str) -> str | None:
    """`com.amazon.coral.service#UnknownOperationException`, `ValidationException:http://…`."""
    return told.partition(":")[0].rpartition("#")[2].strip() or None


def _message(said: dict[str, Any]) -> str | None:
    message = said.get("message") or said.get("Message")
    return message if isinstance(message, str) else None
