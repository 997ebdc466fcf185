"""The errors that a caller can see, and the one that an upstream can cause.

`ProxyError` and its children carry what OpenAI's error shape needs: status, type, code, param. A class is named after its
cause; the status and code are its own and never passed in. `UpstreamError` is what one attempt failed with: it is mapped to
a `ProxyError` only when the chain is spent (`routing/verdict.py` holds that table).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar


class ErrorClass(StrEnum):
    """Why an attempt did not succeed. Closed list: ledger column, metric label and documentation use these words."""

    CONNECT = "connect"
    DNS = "dns"
    CONNECT_TIMEOUT = "connect_timeout"
    TLS = "tls"
    STALE_RETRY = "stale_retry"  # a pooled connection was closed before any response byte
    RESET = "reset"  # before headers
    RESET_BODY = "reset_body"  # after headers, before any body
    RESET_STREAM = "reset_stream"  # inside the body, before the first content
    STREAM_INTERRUPTED = "stream_interrupted"  # after the first content
    TRUNCATED = "truncated"  # a clean end without finish_reason, or fewer bytes than announced
    TTFB_TIMEOUT = "ttfb_timeout"  # no first content in time
    IDLE_TIMEOUT = "idle_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    RATE_LIMITED = "rate_limited"
    INSUFFICIENT_QUOTA = "insufficient_quota"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "5xx"
    INVALID_REQUEST = "4xx"
    CONTEXT_LENGTH = "context_length"
    CONTENT_POLICY = "policy"
    AUTH = "auth"
    MODEL_NOT_FOUND = "config_error"
    RETRYABLE_4XX = "4xx_retryable"
    EMPTY = "empty"
    MALFORMED = "malformed"
    MALFORMED_EVENT = "malformed_event"
    TOO_LARGE = "too_large"
    BAD_CONTENT_TYPE = "bad_ctype"
    REDIRECT = "redirect"
    MODEL_FAULT = "model_fault"  # the model broke its own protocol, such as an unparsable tool call
    CLIENT_GONE = "client_gone"
    DRAINED = "drained"  # the proxy was told to stop
    HEDGED_OUT = "hedged_out"  # another attempt for the same answer had content first
    INTERRUPTED = "interrupted"  # the proxy died; written by recovery only
    INTERNAL = "internal"  # a fault of the proxy itself


class UpstreamError(Exception):
    """One attempt failed. `message` is for logs and the ledger; it is redacted before anything else sees it.

    `retry_after_s` is the upstream's own hint, unclamped. `code`, `param`: the upstream's, kept for faults that are the caller's.
    `body_delay` is a wait named in the body (Google's RetryInfo), as written there. `sent` is false only when no byte of the request
    can have reached the upstream. `broke_as` is its class from before a break after content got a name of its own.
    """

    def __init__(
        self,
        error_class: ErrorClass,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        body_delay: str | None = None,
        sent: bool = True,
    ) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.body_delay = body_delay
        self.sent = sent
        self.broke_as: ErrorClass | None = None


class ProxyError(Exception):
    """An answer that is an error, in OpenAI's shape. `retry_after_s` becomes a `retry-after` header, rounded up."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class CallerError(ProxyError):
    """The caller's own mistake: 4xx, never retried, never failed over."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class InvalidJson(CallerError):
    code = "invalid_json"


class InvalidRequest(CallerError):
    code = "invalid_request"


class InvalidValue(CallerError):
    code = "invalid_value"


class UnsupportedFeature(CallerError):
    """No target of the chain can serve a feature that the request asks for."""

    code = "unsupported_feature"


class CannotCarry(Exception):
    """A dialect has no words for something that this request cannot do without: the target is passed over with that reason.

    `feature` completes "cannot carry …"; `param` is where the request asks for it.
    """

    def __init__(self, feature: str, *, param: str | None = None) -> None:
        super().__init__(feature)
        self.feature = feature
        self.param = param


class BadHttp(CallerError):
    """The bytes are not a request that is safe to read: the connection is closed after the answer."""

    code = "bad_http_request"


class InvalidApiKey(CallerError):
    status = 401
    code = "invalid_api_key"


class ModelNotAllowed(CallerError):
    status = 403
    type = "permission_error"
    code = "model_not_allowed"


class Forbidden(CallerError):
    status = 403
    type = "permission_error"
    code = "forbidden"


class NotFound(CallerError):
    status = 404
    type = "not_found_error"
    code = "not_found"


class ModelNotFound(CallerError):
    status = 404
    code = "model_not_found"


class MethodNotAllowed(CallerError):
    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allowed: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.allowed = allowed


class SlowClient(CallerError):
    status = 408
    type = "timeout_error"
    code = "request_timeout"


class RequestTooLarge(CallerError):
    status = 413
    code = "request_too_large"


class UriTooLong(CallerError):
    status = 414
    code = "uri_too_long"


class UnsupportedMediaType(CallerError):
    status = 415
    code = "unsupported_media_type"


class HeadersTooLarge(CallerError):
    status = 431
    code = "headers_too_large"


class BudgetExceeded(CallerError):
    status = 429
    type = "insufficient_quota"
    code = "budget_exceeded"


class RateLimitExceeded(CallerError):
    """More than a client may ask, in a minute or at one time. Worth another try when `retry_after_s` is over."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retryable = True


class TooManyAdminAttempts(CallerError):
    status = 429
    type = "rate_limit_error"
    code = "too_many_attempts"


class InternalError(ProxyError):
    pass


class Overloaded(ProxyError):
    status = 503
    type = "overloaded_error"
    code = "overloaded"
    retryable = True


class Draining(ProxyError):
    status = 503
    type = "overloaded_error"
    code = "draining"
    retryable = True


class LedgerUnavailable(ProxyError):
    status = 503
    code = "ledger_unavailable"


class KeysUnavailable(ProxyError):
    """The file of the runtime keys cannot be changed now."""

    status = 503
    code = "keys_unavailable"


class AllProvidersUnavailable(ProxyError):
    """No target of the chain may be tried now: open circuits, cooldowns, latches, missing keys."""

    status = 503
    type = "upstream_error"
    code = "all_providers_unavailable"


class ChainSpent(ProxyError):
    """Every target that could be tried failed. The instance carries the last word's status and code (`routing/verdict.py`)."""

    type = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type_: str,
        code: str,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self.status = status  # type: ignore[misc]
        self.type = type_  # type: ignore[misc]
        self.code = code  # type: ignore[misc]
