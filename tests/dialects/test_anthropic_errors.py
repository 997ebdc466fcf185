"""Errors of the Messages API by table: type, code and text."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.core.errors import ErrorClass
from proxy.dialects.anthropic.dialect import AnthropicMessages

pytestmark = pytest.mark.unit


def classified(status: int, kind: str, message: str = "Sorry", code: str | None = None) -> ErrorClass:
    error: dict[str, Any] = {"type": kind, "message": message, "details": {"error_code": code} if code else None}
    body = orjson.dumps({"type": "error", "error": error, "request_id": "req_1"})
    found = AnthropicMessages().decode_error(status, (), body)
    assert (found.status, found.message, found.code) == (status, message, code)
    return found.error_class


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (400, "invalid_request_error", ErrorClass.INVALID_REQUEST),
        (401, "authentication_error", ErrorClass.AUTH),
        (402, "billing_error", ErrorClass.INSUFFICIENT_QUOTA),
        (403, "permission_error", ErrorClass.AUTH),
        (404, "not_found_error", ErrorClass.MODEL_NOT_FOUND),
        (409, "conflict_error", ErrorClass.RETRYABLE_4XX),
        (413, "request_too_large", ErrorClass.CONTEXT_LENGTH),
        (429, "rate_limit_error", ErrorClass.RATE_LIMITED),
        (500, "api_error", ErrorClass.SERVER_ERROR),
        (504, "timeout_error", ErrorClass.SERVER_ERROR),
        (529, "overloaded_error", ErrorClass.OVERLOADED),
        (418, "teapot_error", ErrorClass.INVALID_REQUEST),
        (599, "teapot_error", ErrorClass.SERVER_ERROR),
    ],
)
def test_by_type(status: int, kind: str, expected: ErrorClass) -> None:
    assert classified(status, kind) is expected


@pytest.mark.parametrize(
    ("status", "kind", "message", "expected"),
    [
        (400, "invalid_request_error", "prompt is too long: 3333404 tokens > 200000 maximum", ErrorClass.CONTEXT_LENGTH),
        (
            400,
            "invalid_request_error",
            "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input length",
            ErrorClass.CONTEXT_LENGTH,
        ),
        (
            400,
            "invalid_request_error",
            "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade.",
            ErrorClass.INSUFFICIENT_QUOTA,
        ),
        (
            400,
            "invalid_request_error",
            "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.",
            ErrorClass.INSUFFICIENT_QUOTA,
        ),
        (
            400,
            "invalid_request_error",
            "You have reached your specified workspace API usage limits.",
            ErrorClass.INSUFFICIENT_QUOTA,
        ),
        (400, "invalid_request_error", "Output blocked by content filtering policy", ErrorClass.CONTENT_POLICY),
        (500, "api_error", "Output blocked by content filtering policy", ErrorClass.CONTENT_POLICY),
        (400, "invalid_request_error", "max_tokens: 99999 > 64000, which is the maximum", ErrorClass.INVALID_REQUEST),
        (404, "not_found_error", "model: claude-sonet-4-5", ErrorClass.MODEL_NOT_FOUND),
        (404, "not_found_error", "File not found: file_123", ErrorClass.INVALID_REQUEST),
        (404, "not_found_error", "Container not found", ErrorClass.INVALID_REQUEST),
        (429, "rate_limit_error", "This request would exceed your organization's rate limit", ErrorClass.RATE_LIMITED),
        # a caller's own words, quoted, spend no balance
        (
            400,
            "invalid_request_error",
            "tools.0.custom.name: 'your credit balance is too low' is not a name",
            ErrorClass.INVALID_REQUEST,
        ),
    ],
)
def test_by_text(status: int, kind: str, message: str, expected: ErrorClass) -> None:
    assert classified(status, kind, message) is expected


@pytest.mark.parametrize(
    ("status", "kind", "code", "expected"),
    [
        (429, "rate_limit_error", "enforced_spend_limit_reached", ErrorClass.INSUFFICIENT_QUOTA),
        (429, "rate_limit_error", "contract_spend_limit_reached", ErrorClass.INSUFFICIENT_QUOTA),
        (429, "rate_limit_error", "ramp_limit_exceeded", ErrorClass.RATE_LIMITED),
        (408, "invalid_request_error", "request_body_timeout", ErrorClass.RETRYABLE_4XX),
        (429, "rate_limit_error", "brand_new_code", ErrorClass.RATE_LIMITED),
    ],
)
def test_by_code(status: int, kind: str, code: str, expected: ErrorClass) -> None:
    assert classified(status, kind, code=code) is expected


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (503, b"<html>", ErrorClass.OVERLOADED),
        (502, b"", ErrorClass.SERVER_ERROR),
        (302, b"", ErrorClass.REDIRECT),
        (529, b"null", ErrorClass.OVERLOADED),
        (400, b'{"error": "text"}', ErrorClass.INVALID_REQUEST),
        (400, b'{"error": {"type": 7, "message": 7, "details": []}}', ErrorClass.INVALID_REQUEST),
        # Google, in front of the same models
        (403, b'{"error": {"code": 403, "message": "x", "status": "PERMISSION_DENIED"}}', ErrorClass.AUTH),
        (429, b'[{"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED"}}]', ErrorClass.RATE_LIMITED),
        (
            404,
            b'{"error": {"code": 404, "message": "Publisher Model x was not found", "status": "NOT_FOUND"}}',
            ErrorClass.MODEL_NOT_FOUND,
        ),
    ],
)
def test_other_shapes(status: int, body: bytes, expected: ErrorClass) -> None:
    assert AnthropicMessages().decode_error(status, (), body).error_class is expected
