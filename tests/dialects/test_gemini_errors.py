"""Google's errors: what each of them means, for the caller, for the key and for the model."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.dialects.gemini.errors import decode_error, error_from_object

pytestmark = pytest.mark.unit


def body(code: int, status: str, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message, "status": status}
    return {"error": {**error, "details": list(details)} if details else error}


def decoded(code: int, status: str, message: str, *details: dict[str, Any]) -> UpstreamError:
    return decode_error(code, orjson.dumps(body(code, status, message, *details)))


QUOTA = "You exceeded your current quota, please check your plan and billing details. For more information, head to: https://x."


def reason(name: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": name, "domain": "googleapis.com"}


def retry(delay: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def quota(name: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaMetric": "x", "quotaId": name}]}


TABLE: list[tuple[int, str, str, tuple[dict[str, Any], ...], ErrorClass]] = [
    (400, "INVALID_ARGUMENT", "Request contains an invalid argument.", (), ErrorClass.INVALID_REQUEST),
    (400, "INVALID_ARGUMENT", "Thinking level MEDIUM is not supported for this model.", (), ErrorClass.INVALID_REQUEST),
    (
        400,
        "INVALID_ARGUMENT",
        "Function call is missing a thought_signature in functionCall parts.",
        (),
        ErrorClass.INVALID_REQUEST,
    ),
    (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", (reason("API_KEY_INVALID"),), ErrorClass.AUTH),
    (400, "INVALID_ARGUMENT", "API key expired. Please renew the API key.", (), ErrorClass.AUTH),
    (
        400,
        "INVALID_ARGUMENT",
        "The input token count (2000000) exceeds the maximum number of tokens allowed (1048576).",
        (),
        ErrorClass.CONTEXT_LENGTH,
    ),
    (400, "INVALID_ARGUMENT", "Request payload size exceeds the limit: 20971520 bytes.", (), ErrorClass.CONTEXT_LENGTH),
    (400, "FAILED_PRECONDITION", "User location is not supported for the API use.", (), ErrorClass.AUTH),
    (
        400,
        "FAILED_PRECONDITION",
        "Gemini API free tier is not available in your country. Please enable billing on your project.",
        (),
        ErrorClass.INSUFFICIENT_QUOTA,
    ),
    (400, "INVALID_ARGUMENT", "The prompt was blocked due to safety.", (), ErrorClass.CONTENT_POLICY),
    (401, "UNAUTHENTICATED", "Request had invalid authentication credentials.", (), ErrorClass.AUTH),
    (403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers.", (), ErrorClass.AUTH),
    (
        403,
        "PERMISSION_DENIED",
        "Vertex AI API has not been used in project 1 before.",
        (reason("SERVICE_DISABLED"),),
        ErrorClass.AUTH,
    ),
    (
        403,
        "PERMISSION_DENIED",
        "This API method requires billing to be enabled.",
        (reason("BILLING_DISABLED"),),
        ErrorClass.INSUFFICIENT_QUOTA,
    ),
    # what the caller named, not the key
    (
        403,
        "PERMISSION_DENIED",
        "You do not have permission to access the File abc or it may not exist.",
        (),
        ErrorClass.INVALID_REQUEST,
    ),
    (403, "PERMISSION_DENIED", "CachedContent not found (or permission denied)", (), ErrorClass.INVALID_REQUEST),
    (404, "NOT_FOUND", "File files/abc is not found.", (), ErrorClass.INVALID_REQUEST),
    (404, "NOT_FOUND", "models/x is not found for API version v1beta.", (), ErrorClass.MODEL_NOT_FOUND),
    (
        404,
        "NOT_FOUND",
        "Publisher Model `projects/p/locations/l/publishers/google/models/x` was not found or your project does not have access to it.",
        (),
        ErrorClass.MODEL_NOT_FOUND,
    ),
    (409, "ABORTED", "The operation was aborted.", (), ErrorClass.RETRYABLE_4XX),
    (429, "RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later.", (), ErrorClass.RATE_LIMITED),
    (429, "RESOURCE_EXHAUSTED", QUOTA, (retry("48s"),), ErrorClass.RATE_LIMITED),
    (429, "RESOURCE_EXHAUSTED", QUOTA, (quota("RequestsPerMinute"),), ErrorClass.RATE_LIMITED),
    (429, "RESOURCE_EXHAUSTED", QUOTA, (quota("RequestsPerDayPerProject-FreeTier"),), ErrorClass.RATE_LIMITED),
    (429, "RESOURCE_EXHAUSTED", QUOTA + "\nPlease retry in 4.5s.", (), ErrorClass.RATE_LIMITED),
    (429, "RESOURCE_EXHAUSTED", QUOTA, (), ErrorClass.INSUFFICIENT_QUOTA),
    (429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted.", (retry("9s"),), ErrorClass.INSUFFICIENT_QUOTA),
    (429, "RESOURCE_EXHAUSTED", "Too many tokens.", (reason("RATE_LIMIT_EXCEEDED"),), ErrorClass.RATE_LIMITED),
    (499, "CANCELLED", "The operation was cancelled.", (), ErrorClass.RETRYABLE_4XX),
    (500, "INTERNAL", "An internal error has occurred.", (), ErrorClass.SERVER_ERROR),
    (500, "UNKNOWN", "?", (), ErrorClass.SERVER_ERROR),
    (503, "UNAVAILABLE", "The model is overloaded. Please try again later.", (), ErrorClass.OVERLOADED),
    (504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete.", (), ErrorClass.SERVER_ERROR),
]


@pytest.mark.parametrize(("code", "status", "message", "details", "error_class"), TABLE)
def test_what_an_error_means(
    code: int, status: str, message: str, details: tuple[dict[str, Any], ...], error_class: ErrorClass
) -> None:
    error = decoded(code, status, message, *details)
    assert (error.error_class, error.status, error.message, error.code) == (error_class, code, message, status)


@pytest.mark.parametrize(("code", "status", "message", "details", "error_class"), TABLE)
def test_in_a_stream_or_in_an_array_it_means_the_same(
    code: int, status: str, message: str, details: tuple[dict[str, Any], ...], error_class: ErrorClass
) -> None:
    found = body(code, status, message, *details)
    assert error_from_object(found).error_class is error_class
    assert decode_error(code, orjson.dumps([found])).error_class is error_class


@pytest.mark.parametrize(
    ("message", "details", "delay"),
    [
        ("?", (retry("48s"),), "48s"),
        ("?", (reason("RATE_LIMIT_EXCEEDED"), retry("1.5s")), "1.5s"),
        ("Please retry in 48.939935699s.", (), "48.939935699s"),
        ("Please retry in 7h3m5.2s.", (), "7h3m5.2s"),
        ("Please retry in 500ms.", (), "500ms"),
        ("Please retry in 48.9s.", (retry("48s"),), "48s"),
        (QUOTA, (quota("RequestsPerDay"),), "1h"),  # nobody says when the day ends
        (QUOTA, (quota("RequestsPerDay"), retry("20s")), "20s"),
        (QUOTA, (quota("RequestsPerMinute"),), None),
        ("Please retry in a while.", (), None),
        ("?", (), None),
    ],
)
def test_how_long_to_wait(message: str, details: tuple[dict[str, Any], ...], delay: str | None) -> None:
    assert decoded(429, "RESOURCE_EXHAUSTED", message, *details).body_delay == delay


@pytest.mark.parametrize(
    "message",
    [
        "Invalid value at 'contents[0].parts[0]' (TYPE_STRING), \"user location is not supported\"",
        "Unknown function: enable billing",
        'Invalid JSON payload received. Unknown name "api key not valid": Cannot find field.',
    ],
)
def test_a_callers_own_words_set_no_key_aside(message: str) -> None:
    assert decoded(400, "INVALID_ARGUMENT", message).error_class is ErrorClass.INVALID_REQUEST


@pytest.mark.parametrize(
    ("status", "raw", "error_class"),
    [
        (404, b"<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>", ErrorClass.MODEL_NOT_FOUND),
        (502, b"<html>Bad Gateway</html>", ErrorClass.SERVER_ERROR),
        (503, b"", ErrorClass.OVERLOADED),
        (429, b"null", ErrorClass.RATE_LIMITED),
        (400, b"[]", ErrorClass.INVALID_REQUEST),
        (400, b'{"error": "text"}', ErrorClass.INVALID_REQUEST),
        (302, b'{"error": {"code": 503}}', ErrorClass.REDIRECT),
    ],
)
def test_without_googles_envelope_the_status_is_all_there_is(status: int, raw: bytes, error_class: ErrorClass) -> None:
    error = decode_error(status, raw)
    assert (error.error_class, error.status) == (error_class, status)


def test_a_long_message_is_read_in_linear_time() -> None:
    decoded(429, "RESOURCE_EXHAUSTED", "retry in " + "1h" * 500_000)
    decoded(403, "PERMISSION_DENIED", "file " * 200_000)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from("error code message status details reason violations quotaId".split()), inner, max_size=4
        )
    ),
    max_leaves=15,
)


@pytest.mark.property
@given(status=st.sampled_from([200, 400, 403, 404, 429, 500]), found=JSON)
def test_whatever_comes_is_an_error(status: int, found: Any) -> None:
    assert isinstance(decode_error(status, orjson.dumps(found)), UpstreamError)
    assert isinstance(error_from_object({"error": found}), UpstreamError)
