"""An upstream that refuses what Cohere's v2 chat refuses: unknown and misplaced keys, wrong types, figures beyond their range.

https://docs.cohere.com/v2/reference/chat, https://docs.cohere.com/v2/docs/structured-outputs, and the API's own error messages,
which are quoted.
"""

from __future__ import annotations

from typing import Any

import orjson

_TOP = frozenset(
    """model messages stream tools strict_tools tool_choice documents citation_options response_format safety_mode max_tokens
    stop_sequences temperature seed frequency_penalty presence_penalty k p logprobs thinking priority""".split()
)
_MESSAGES = {
    "system": ({"role", "content"}, set()),
    "user": ({"role", "content"}, set()),
    "assistant": ({"role"}, {"content", "tool_calls", "tool_plan", "citations"}),
    "tool": ({"role", "tool_call_id", "content"}, set()),
}
_PARTS = {
    "system": {"text"},
    "user": {"text", "image_url"},
    "assistant": {"text", "thinking"},
    "tool": {"text", "document"},
}
_RANGES = {
    "temperature": (0, 1),  # "temperature must be between 0 and 1.0 inclusive."
    "frequency_penalty": (0, 1),
    "presence_penalty": (0, 1),  # "presence_penalty must be between 0 and 1 inclusive."
    "p": (0.01, 0.99),
    "k": (0, 500),
    "seed": (0, 2**64 - 1),
}
_UNSUPPORTED_KEYWORDS = frozenset(
    """not allOf oneOf minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minItems maxItems uniqueItems minLength
    maxLength""".split()
)


def judge(raw: bytes) -> dict[str, Any]:
    """The body, if it is one that the API takes."""
    body: dict[str, Any] = orjson.loads(raw)
    _keys(body, {"model", "messages", "stream"}, set(_TOP), "the request")
    assert type(body["stream"]) is bool
    for name, (low, high) in _RANGES.items():
        if name in body:
            assert low <= body[name] <= high, f"{name} is {body[name]}"
    # "cannot specify both frequency_penalty and presence_penalty."
    assert not ("frequency_penalty" in body and "presence_penalty" in body)
    assert len(body.get("stop_sequences", [])) <= 5
    assert all(isinstance(stop, str) for stop in body.get("stop_sequences", []))
    assert type(body.get("max_tokens", 1)) is int
    assert type(body.get("logprobs", True)) is bool
    _messages(body["messages"])
    _tools(body)
    if "response_format" in body:
        # "The parameter is not supported when used in combinations with the `documents` or `tools` parameters."
        assert "tools" not in body
        assert "documents" not in body
        _keys(body["response_format"], {"type"}, {"json_schema"}, "response_format")
        assert body["response_format"]["type"] == "json_object"
        if "json_schema" in body["response_format"]:
            assert body["response_format"]["json_schema"]["type"] == "object"
            _schema(body["response_format"]["json_schema"])
    if "thinking" in body:
        _keys(body["thinking"], {"type"}, {"token_budget"}, "thinking")
        assert body["thinking"]["type"] in ("enabled", "disabled")
        assert body["thinking"].get("token_budget", 1) > 0
    return body


def _messages(messages: list[dict[str, Any]]) -> None:
    assert messages
    # "system turn must be the first in the list"
    assert all(message["role"] != "system" for message in messages[1:])
    open_calls: set[str] = set()
    for message in messages:
        role = message["role"]
        _keys(message, *_MESSAGES[role], f"a message of {role}")
        assert role != "assistant" or "content" in message or "tool_calls" in message
        content = message.get("content", "")
        if not isinstance(content, str):
            assert content
            for part in content:
                _part(part, role)
        for call in message.get("tool_calls", []):
            _keys(call, {"id", "type", "function"}, set(), "a call")
            _keys(call["function"], {"name", "arguments"}, set(), "a call's function")
            assert isinstance(orjson.loads(call["function"]["arguments"]), dict)
            open_calls.add(call["id"])
        if "tool_plan" in message:
            assert isinstance(message["tool_plan"], str)
            assert message["tool_calls"]
        if role == "tool":
            assert message["tool_call_id"] in open_calls


def _part(part: dict[str, Any], role: str) -> None:
    kind = part["type"]
    assert kind in _PARTS[role], f"{kind} in a message of {role}"
    _keys(part, {"type", kind}, set(), f"a part of type {kind}")
    if kind == "image_url":
        _keys(part["image_url"], {"url"}, {"detail"}, "image_url")
        assert part["image_url"]["url"].startswith(("https://", "http://", "data:image/"))
    elif kind == "document":
        _keys(part["document"], {"data"}, {"id"}, "a document")
    else:
        assert isinstance(part[kind], str)


def _tools(body: dict[str, Any]) -> None:
    if "tool_choice" in body:
        assert body["tool_choice"] in ("REQUIRED", "NONE")
    if "strict_tools" in body or "tool_choice" in body:
        assert body["tools"]
    for tool in body.get("tools", []):
        _keys(tool, {"type", "function"}, set(), "a tool")
        _keys(tool["function"], {"name", "parameters"}, {"description"}, "a function")  # `strict` there is a 422
        assert tool["function"]["parameters"]["type"] == "object"
        if body.get("strict_tools"):
            # "You must specify at least one `required` parameter."
            assert tool["function"]["parameters"]["required"]


def _schema(schema: Any) -> None:
    """Within the documented subset. Property names are no keywords."""
    if not isinstance(schema, dict):
        return
    assert _UNSUPPORTED_KEYWORDS.isdisjoint(schema), sorted(_UNSUPPORTED_KEYWORDS & schema.keys())
    assert schema.get("format", "date") in ("date-time", "uuid", "date", "time")
    assert not any(sign in schema.get("pattern", "") for sign in ("^", "$", "?=", "?!"))
    if schema.get("type") == "object":
        assert schema["required"]  # "Every object in the schema must have at least one `required` field specified"
    for inner in (*schema.get("properties", {}).values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", [])):
        _schema(inner)
    for name in ("items", "additionalProperties"):
        _schema(schema.get(name))


def _keys(found: dict[str, Any], needed: set[str], allowed: set[str], what: str) -> None:
    assert isinstance(found, dict), what
    missing, unknown = needed - found.keys(), found.keys() - needed - allowed
    assert not missing, f"{what} lacks {sorted(missing)}"
    assert not unknown, f"{what} has {sorted(unknown)}"
