"""Recorded requests of the Messages API, told by an OpenAI client and made again: what goes out is what was recorded."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.core.errors import CannotCarry
from proxy.dialects.anthropic.dialect import AnthropicMessages
from tests.corpus.recordings import needs_corpus
from tests.dialects.anthropic_judge import judge, target_of
from tests.dialects.anthropic_recordings import Exchange, Untold, as_openai, exchanges
from tests.dialects.fields import chat_request

pytestmark = [pytest.mark.unit, needs_corpus]

RECORDED = [exchange for exchange in exchanges() if exchange.request is not None and exchange.request.get("messages")]
every_request = pytest.mark.parametrize("exchange", RECORDED, ids=lambda exchange: exchange.id)


def canonical(body: dict[str, Any]) -> dict[str, Any]:
    """Spellings that mean the same brought to one, and without what an OpenAI client has no words for: a cache mark on a tool call,
    a tool result that is marked as an error. A system message in the middle goes to the top."""
    found = {name: value for name, value in body.items() if value not in (None, [], False, "")}
    late = [block for message in body["messages"] if message["role"] == "system" for block in _blocks(message["content"])]
    for name in ("model", "anthropic_version"):
        found.pop(name, None)
    if "output_format" in found:
        found["output_config"] = {**found.get("output_config", {}), "format": found.pop("output_format")}
    if "system" in found:
        found["system"] = _blocks(found["system"])
    if late:
        found["system"] = found.get("system", []) + late
    messages: list[dict[str, Any]] = []
    for message in found["messages"]:
        if message["role"] == "system":
            continue
        if messages and messages[-1]["role"] == message["role"]:
            messages[-1]["content"] += _blocks(message["content"])
        else:
            messages.append({"role": message["role"], "content": _blocks(message["content"])})
    found["messages"] = messages
    if "tools" in found:
        found["tools"] = [
            {
                name: value
                for name, value in tool.items()
                if value not in ("", False, None) and (name, value) != ("type", "custom")
            }
            for tool in found["tools"]
        ]
    return found


def _blocks(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [_block(block) for block in ([{"type": "text", "text": content}] if isinstance(content, str) else content)]


def _block(block: dict[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in block.items() if value is not None}
    match found["type"]:
        case "tool_result":
            content = found.pop("content", "")
            if not isinstance(content, str) or content.strip():
                found["content"] = _blocks(content)
            found.pop("is_error", None)
        case "tool_use":
            found.pop("caller", None)
            found.pop("cache_control", None)
        case "text":
            found.pop("citations", None)
    return found


@every_request
def test_recorded_requests_are_made_again(exchange: Exchange) -> None:
    recorded = exchange.request
    assert recorded is not None
    headers = {"anthropic-beta": "mcp-client-2025-04-04"} if "mcp_servers" in recorded else {}
    target = target_of(exchange.model, headers=headers)
    try:
        told = as_openai(recorded, provider=target.provider.name)
    except Untold as reason:
        pytest.skip(f"no OpenAI client could have sent it: {reason}")
    try:
        made = AnthropicMessages().encode_request(chat_request(told), target)
    except CannotCarry:
        assert exchange.status >= 400  # the upstream would not have it either
        return
    body = orjson.loads(made.body)
    if "mcp_servers" not in recorded:
        judge(body)
    if exchange.status < 400:
        assert set(made.dropped) <= {"messages[].content[].citations"}
        assert canonical(body) == canonical(recorded)
