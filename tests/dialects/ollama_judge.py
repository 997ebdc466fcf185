"""An upstream that says what the Ollama server keeps to itself: it ignores unknown fields, so that a misplaced one is only lost.

https://github.com/ollama/ollama/blob/main/api/types.go
"""

from __future__ import annotations

import binascii
from typing import Any

import orjson

_TOP = frozenset("model messages stream format keep_alive tools options think truncate shift logprobs top_logprobs".split())
_MESSAGE = frozenset("role content thinking images tool_calls tool_name tool_call_id".split())
_OPTIONS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("num_ctx", "num_predict", "top_k", "seed", "num_keep", "repeat_last_n", "num_gpu", "num_thread"), int),
    **dict.fromkeys(
        ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "frequency_penalty", "presence_penalty"), (int, float)
    ),
    "stop": list,
}


def judge(raw: bytes) -> dict[str, Any]:
    """The body, if all of it is read by the server."""
    body: dict[str, Any] = orjson.loads(raw)
    _keys(body, _TOP, "the request")
    assert isinstance(body["model"], str)
    assert type(body["stream"]) is bool, "absent means true"
    assert body["messages"]
    for message in body["messages"]:
        _message(message)
    for name, value in body.get("options", {}).items():
        assert name in _OPTIONS, f"options.{name}"
        assert isinstance(value, _OPTIONS[name]), f"options.{name}"  # 'option "seed" must be of type integer'
        assert not isinstance(value, bool)
    for tool in body.get("tools", []):
        assert tool["type"] == "function"
        _keys(tool, {"type", "function"}, "a tool")
        _keys(tool["function"], {"name", "description", "parameters"}, "a function")
        assert tool["function"]["parameters"]["type"] == "object"
    assert body.get("format", "json") == "json" or isinstance(body["format"], dict)
    assert body.get("think", True) in (True, False, "low", "medium", "high", "max")
    assert type(body.get("logprobs", True)) is bool
    assert 0 <= body.get("top_logprobs", 0) <= 20  # "top_logprobs must be between 0 and 20"
    return body


def _message(message: dict[str, Any]) -> None:
    _keys(message, _MESSAGE, "a message")
    assert message["role"] in ("system", "user", "assistant", "tool")
    assert isinstance(message["content"], str)
    for image in message.get("images", []):
        binascii.a2b_base64(image, strict_mode=True)  # no data URL
    for call in message.get("tool_calls", []):
        assert message["role"] == "assistant"
        _keys(call, {"id", "function"}, "a call")
        _keys(call["function"], {"index", "name", "arguments"}, "a call's function")
        # where it is text, the server has "cannot unmarshal string into Go struct field"
        assert isinstance(call["function"]["arguments"], dict)
    assert "thinking" not in message or message["role"] == "assistant"
    assert ("tool_call_id" in message) == (message["role"] == "tool")


def _keys(found: dict[str, Any], allowed: frozenset[str] | set[str], what: str) -> None:
    unknown = found.keys() - allowed
    assert not unknown, f"{what} has {sorted(unknown)}"
