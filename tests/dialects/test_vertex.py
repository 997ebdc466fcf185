"""Vertex AI: two publishers' formats under one project and location."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from proxy.core.errors import CannotCarry, ErrorClass
from proxy.core.events import Finished, TextDelta
from proxy.core.target import Provider, Target
from proxy.dialects.anthropic.dialect import AnthropicDecoder
from proxy.dialects.base import OutboundRequest
from proxy.dialects.gemini.dialect import GeminiDecoder
from proxy.dialects.vertex import Vertex
from tests.dialects.fields import FIELDS, FOREIGN_FIELDS, NESTED_FIELDS, TOOL, chat_request, full_body, where_is
from tests.dialects.gemini_judge import judge

pytestmark = pytest.mark.unit

DIALECT = Vertex()
PROVIDER = Provider("vertex", "vertex", "https://aiplatform.googleapis.com", (), project="my-project", location="global")
HI = {"role": "user", "content": "Hi"}
CLAUDE = "claude-sonnet-4-5@20250929"
HERE = "/v1/projects/my-project/locations/global"


def target(model: str, **provider: Any) -> Target:
    return Target(replace(PROVIDER, **provider), model, "a-model")


def encode(model: str, **fields: Any) -> OutboundRequest:
    return DIALECT.encode_request(chat_request({"model": "smart", "messages": [HI], **fields}), target(model))


@pytest.mark.parametrize(
    ("model", "stream", "path"),
    [
        ("gemini-2.5-pro", False, "/publishers/google/models/gemini-2.5-pro:generateContent"),
        ("gemini-2.5-pro", True, "/publishers/google/models/gemini-2.5-pro:streamGenerateContent?alt=sse"),
        ("publishers/google/models/gemini-2.5-pro", False, "/publishers/google/models/gemini-2.5-pro:generateContent"),
        ("models/gemini-2.5-pro", False, "/publishers/google/models/gemini-2.5-pro:generateContent"),
        ("gemini-2.5-pro@default", False, "/publishers/google/models/gemini-2.5-pro@default:generateContent"),
        ("endpoints/12345", True, "/endpoints/12345:streamGenerateContent?alt=sse"),
        ("a/../b", False, "/publishers/google/models/a%2F..%2Fb:generateContent"),
        (CLAUDE, False, f"/publishers/anthropic/models/{CLAUDE}:rawPredict"),
        (CLAUDE, True, f"/publishers/anthropic/models/{CLAUDE}:streamRawPredict"),
        (f"publishers/anthropic/models/{CLAUDE}", False, f"/publishers/anthropic/models/{CLAUDE}:rawPredict"),
    ],
)
def test_the_path_names_project_location_publisher_and_model(model: str, stream: bool, path: str) -> None:
    assert encode(model, stream=stream).path == HERE + path


def test_project_and_location_are_escaped() -> None:
    request = chat_request({"model": "smart", "messages": [HI]})
    to = target("gemini-2.5-pro", project="example.com:my project", location="eu/../x")
    found = DIALECT.encode_request(request, to)
    assert found.path.startswith("/v1/projects/example.com:my%20project/locations/eu%2F..%2Fx/publishers/")


@pytest.mark.parametrize("model", ["gemini-2.5-pro", CLAUDE])
@pytest.mark.parametrize("missing", ["project", "location"])
def test_without_a_project_and_a_location_there_is_no_address(model: str, missing: str) -> None:
    request = chat_request({"model": "smart", "messages": [HI]})
    with pytest.raises(CannotCarry, match="project"):
        DIALECT.encode_request(request, target(model, **{missing: None}))


def test_other_publishers_are_refused() -> None:
    with pytest.raises(CannotCarry, match="publishers/mistralai"):
        encode("publishers/mistralai/models/mistral-large")


def test_claude_gets_anthropics_body_without_the_model_and_with_its_version() -> None:
    body = orjson.loads(encode(CLAUDE, stream=True, tools=[TOOL]).body)
    assert body["anthropic_version"] == "vertex-2023-10-16"
    assert "model" not in body
    assert body["stream"] is True
    assert body["messages"]
    assert body["tools"][0]["name"] == "get_weather"


def test_gemini_gets_googles_body() -> None:
    found = judge(encode("gemini-2.5-pro", tools=[TOOL]).body)
    assert found["contents"] == [{"role": "user", "parts": [{"text": "Hi"}]}]
    assert "parametersJsonSchema" in found["tools"][0]["functionDeclarations"][0]


def test_the_conversation_that_uses_everything_goes_out_whole() -> None:
    found = DIALECT.encode_request(chat_request(full_body()), target("gemini-3-pro-preview"))
    judge(found.body)
    assert "service_tier" in found.dropped


# -- where the services differ


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("gs://bucket/a.png", {"mimeType": "image/png", "fileUri": "gs://bucket/a.png"}),
        ("http://a.example/b.webp", {"mimeType": "image/webp", "fileUri": "http://a.example/b.webp"}),
        ("https://a.example/b", {"mimeType": "image/jpeg", "fileUri": "https://a.example/b"}),  # a type must be named
    ],
)
@pytest.mark.parametrize("model", ["gemini-2.0-flash", "gemini-2.5-pro"])
def test_links_are_fetched_for_every_model(model: str, url: str, wanted: dict[str, Any]) -> None:
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    body = orjson.loads(encode(model, messages=[picture]).body)
    assert body["contents"][0]["parts"] == [{"fileData": wanted}]


def test_a_link_to_a_file_must_tell_its_type() -> None:
    file = {"role": "user", "content": [{"type": "file", "file": {"file_data": "gs://bucket/a"}}]}
    with pytest.raises(CannotCarry, match="whose name does not tell their media type"):
        encode("gemini-2.5-pro", messages=[file])


def test_what_only_the_gemini_api_knows_is_dropped_by_name() -> None:
    strict = {"type": "function", "function": {**TOOL["function"], "strict": True}}
    found = encode("gemini-2.5-pro", service_tier="flex", tools=[strict])
    assert found.dropped == ("service_tier", "tools[].function.strict")


def test_googles_own_tools_are_not_shown() -> None:
    body = orjson.loads(encode("gemini-3-pro-preview", tools=[TOOL, {"google_search": {}}]).body)
    assert "toolConfig" not in body


@pytest.mark.property
@pytest.mark.parametrize(
    "name", [n for n in (*FIELDS, *FOREIGN_FIELDS, *NESTED_FIELDS) if n != "response_format.json_schema.strict"]
)
def test_every_field_is_on_the_wire_or_dropped_by_name(name: str) -> None:
    where_is(name, DIALECT, target("gemini-3-pro-preview"))


# -- answers


GEMINI_ANSWER = {"candidates": [{"content": {"parts": [{"text": "Hello"}]}, "finishReason": "STOP"}]}
CLAUDE_ANSWER = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


@pytest.mark.parametrize(("model", "answer"), [("gemini-2.5-pro", GEMINI_ANSWER), (CLAUDE, CLAUDE_ANSWER)])
def test_whole_answers_are_read_in_the_format_of_the_model(model: str, answer: dict[str, Any]) -> None:
    events = DIALECT.decode_response(answer, target(model))
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["Hello"]
    assert [event.reason for event in events if isinstance(event, Finished)] == ["stop"]


def test_streams_are_read_in_the_format_of_the_model() -> None:
    request = chat_request({"model": "smart", "messages": [HI], "stream": True})
    assert isinstance(DIALECT.decoder(request, target("gemini-2.5-pro")), GeminiDecoder)
    assert isinstance(DIALECT.decoder(request, target(CLAUDE)), AnthropicDecoder)


@pytest.mark.parametrize(
    ("status", "body", "error_class"),
    [
        (
            429,
            {"error": {"code": 429, "message": 'Quota exceeded. "type"', "status": "RESOURCE_EXHAUSTED"}},
            ErrorClass.RATE_LIMITED,
        ),
        (401, {"error": {"code": 401, "message": "Invalid.", "status": "UNAUTHENTICATED"}}, ErrorClass.AUTH),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, ErrorClass.OVERLOADED),
        (
            400,
            {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 8 maximum"}},
            ErrorClass.CONTEXT_LENGTH,
        ),
    ],
)
def test_errors_are_googles_or_anthropics(status: int, body: dict[str, Any], error_class: ErrorClass) -> None:
    assert DIALECT.decode_error(status, (), orjson.dumps(body)).error_class is error_class


def test_what_is_no_json_is_told_by_its_status() -> None:
    assert DIALECT.decode_error(502, (), b"<html>").error_class is ErrorClass.SERVER_ERROR
