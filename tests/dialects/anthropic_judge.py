"""An upstream that refuses what Anthropic refuses: unknown and misplaced keys, and the rules that stand in no schema.

https://docs.anthropic.com/en/api/messages, and the API's own error messages, which are quoted.
"""

from __future__ import annotations

import re
from typing import Any

from proxy.core.target import Provider, Target

MODELS = (
    "claude-3-5-haiku-20241022",
    "claude-3-7-sonnet-20250219",
    "claude-sonnet-4-5",
    "claude-opus-4-6",
    "claude-opus-4-8",
    "claude-opus-5",
    "claude-opus-5-5",
    "claude-sonnet-5-5",
    "claude-haiku-5-5",
)

_TOP = frozenset(
    """model max_tokens system messages tools tool_choice output_config thinking temperature top_p top_k stop_sequences metadata
    service_tier stream cache_control container diagnostics inference_geo speed""".split()
)
_MARK = frozenset(("cache_control",))
_BLOCKS: dict[str, tuple[frozenset[str], frozenset[str]]] = {  # what must be there, what may
    "text": (frozenset(("text",)), _MARK),
    "image": (frozenset(("source",)), _MARK),
    "document": (frozenset(("source",)), _MARK | {"title", "context", "citations"}),
    "search_result": (frozenset(("source", "title", "content")), _MARK | {"citations"}),
    "tool_use": (frozenset(("id", "name", "input")), _MARK),
    "tool_result": (frozenset(("tool_use_id",)), _MARK | {"content", "is_error"}),
    "thinking": (frozenset(("thinking", "signature")), frozenset()),
    "redacted_thinking": (frozenset(("data",)), frozenset()),
    "tool_reference": (frozenset(("tool_name",)), _MARK),
    "container_upload": (frozenset(("file_id",)), _MARK),
    "server_tool_use": (frozenset(("id", "name", "input")), _MARK | {"caller"}),
}
_SERVER_RESULT = (frozenset(("tool_use_id", "content")), _MARK | {"caller", "is_error"})
_PLACES = {
    "user": frozenset(("text", "image", "document", "search_result", "tool_result", "container_upload")),
    "assistant": frozenset(("text", "tool_use", "thinking", "redacted_thinking", "server_tool_use")),
    "tool_result": frozenset(("text", "image", "document", "search_result", "tool_reference")),
}
_SOURCES = {
    "base64": frozenset(("type", "media_type", "data")),
    "url": frozenset(("type", "url")),
    "text": frozenset(("type", "media_type", "data")),
    "file": frozenset(("type", "file_id")),
}
_STRICT_KEYWORDS = frozenset(
    """type enum const anyOf allOf $ref $defs definitions required properties items title description default format minItems
    additionalProperties""".split()
)
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")


def target_of(model: str, **settings: Any) -> Target:
    headers = settings.pop("headers", {})
    provider = Provider("anthropic", "anthropic", "https://api.anthropic.com", (), headers=headers)
    return Target(provider, model, model, **settings)


def judge(body: dict[str, Any]) -> None:
    """Fails where the API would answer 400."""
    assert body.keys() <= _TOP, f"Extra inputs are not permitted: {body.keys() - _TOP}"
    assert isinstance(body["model"], str)
    assert type(body["max_tokens"]) is int
    assert body["max_tokens"] >= 0
    for block in body.get("system", [{"type": "text", "text": "-"}]):
        assert block["type"] == "text"
        _judge_block(block)
    _judge_messages(body["messages"])
    _judge_tools(body)
    _judge_thinking(body)
    temperature = body.get("temperature")
    assert temperature is None or 0 <= temperature <= 1, "temperature: range: 0..1"
    assert all(text.strip() for text in body.get("stop_sequences", ["-"])), "each stop sequence must contain non-whitespace"
    assert body.get("metadata", {}).keys() <= {"user_id"}
    assert body.get("service_tier") in (None, "auto", "standard_only")
    config = body.get("output_config", {})
    assert config.keys() <= {"effort", "format", "task_budget"}
    if "format" in config:
        assert config["format"].keys() == {"type", "schema"}
        _judge_strict(config["format"]["schema"])


def _judge_messages(messages: list[dict[str, Any]]) -> None:
    assert messages, "messages: at least one message is required"
    assert messages[0]["role"] == "user", 'first message must use the "user" role'
    pending: list[str] = []
    for index, message in enumerate(messages):
        assert message.keys() == {"role", "content"}
        assert message["role"] == ("assistant" if index % 2 else "user"), "roles must alternate"
        content = message["content"]
        assert content, "messages: content must be non-empty"
        kinds = [block["type"] for block in content]
        own = {kind for kind in kinds if kind.endswith("_tool_result")} if message["role"] == "assistant" else set()
        assert set(kinds) <= _PLACES[message["role"]] | own, f"{message['role']} messages cannot contain {kinds}"
        for block in content:
            _judge_block(block)
        results = [block["tool_use_id"] for block in content if block["type"] == "tool_result"]
        assert kinds[: len(results)] == ["tool_result"] * len(results), "tool_result blocks must come first"
        assert not pending or set(pending) <= set(results), "tool_use ids were found without tool_result blocks after them"
        assert set(results) <= set(pending), "unexpected tool_use_id found in tool_result blocks"
        pending = [block["id"] for block in content if block["type"] == "tool_use"]
        assert len(set(pending)) == len(pending), "tool_use ids must be unique"
        if message["role"] == "assistant":
            assert kinds[-1] not in ("thinking", "redacted_thinking"), "the final block cannot be thinking"
    last = messages[-1]["content"][-1]
    if messages[-1]["role"] == "assistant" and last["type"] == "text":
        assert last["text"] == last["text"].rstrip(), "final assistant content cannot end with trailing whitespace"


def _judge_block(block: dict[str, Any]) -> None:
    needed, allowed = _BLOCKS.get(block["type"], _SERVER_RESULT)
    assert needed <= block.keys() <= needed | allowed | {"type"}, f"Extra inputs are not permitted: {block}"
    match block["type"]:
        case "text":
            assert block["text"].strip(), "text content blocks must contain non-whitespace text"
        case "tool_use":
            assert _NAME.fullmatch(block["id"]), "id: String should match pattern '^[a-zA-Z0-9_-]+$'"
            assert isinstance(block["input"], dict)
        case "tool_result":
            for inner in block.get("content", ()):
                assert inner["type"] in _PLACES["tool_result"]
                _judge_block(inner)
        case "image" | "document":
            source = block["source"]
            assert source.keys() == _SOURCES[source["type"]]
            if source["type"] == "url":
                assert source["url"].startswith("https://"), "Only HTTPS URLs are supported"
            elif source["type"] == "file":
                pass
            elif block["type"] == "image":
                assert source["media_type"] in ("image/jpeg", "image/png", "image/gif", "image/webp")
            else:
                assert source["media_type"] == ("text/plain" if source["type"] == "text" else "application/pdf")
        case "thinking":
            assert block["signature"], "signature: Field required"


def _judge_tools(body: dict[str, Any]) -> None:
    tools = body.get("tools")
    choice = body.get("tool_choice")
    if tools is None:
        assert choice is None, "tool_choice may only be specified while providing tools"
        return
    assert tools
    for tool in tools:
        assert _NAME.fullmatch(tool["name"])
        if "type" in tool and tool["type"] != "custom":
            continue  # Anthropic's own
        allowed = {"type", "name", "description", "input_schema", "strict", "cache_control", "defer_loading", "input_examples"}
        assert tool.keys() <= allowed
        schema = tool["input_schema"]
        assert schema["type"] == "object"
        assert not schema.keys() & {"oneOf", "allOf", "anyOf"}, (
            "input_schema does not support oneOf, allOf, or anyOf at the top level"
        )
        if tool.get("strict"):
            _judge_strict(schema)
    if choice is not None:
        expected = {"type"} | ({"name"} if choice["type"] == "tool" else set())
        more = set() if choice["type"] == "none" else {"disable_parallel_tool_use"}
        assert expected <= choice.keys() <= expected | more
        assert choice["type"] in ("auto", "any", "tool", "none")


def _judge_thinking(body: dict[str, Any]) -> None:
    thinking = body.get("thinking")
    if thinking is None:
        return
    forced = body.get("tool_choice", {}).get("type") in ("any", "tool")
    if thinking["type"] == "enabled":
        assert 1024 <= thinking["budget_tokens"] < body["max_tokens"], "max_tokens must be greater than thinking.budget_tokens"
        last = body["messages"][-1]
        if last["content"][0]["type"] == "tool_result":
            before = body["messages"][-2]["content"][0]["type"]
            assert before in ("thinking", "redacted_thinking"), f"Expected thinking or redacted_thinking, but found {before}"
        assert not forced, "Thinking may not be enabled when tool_choice forces tool use."
    if thinking["type"] in ("enabled", "adaptive"):
        assert body["messages"][-1]["role"] == "user"
        assert body.get("temperature", 1) == 1, "temperature may only be set to 1 when thinking is enabled"
        assert "top_k" not in body
        assert body.get("top_p", 1) >= 0.95
    else:
        assert thinking == {"type": thinking["type"]}


def _judge_strict(schema: dict[str, Any]) -> None:
    assert schema.keys() <= _STRICT_KEYWORDS, f"not supported: {schema.keys() - _STRICT_KEYWORDS}"
    if schema.get("type") == "object" or "properties" in schema:
        assert schema["additionalProperties"] is False, "'additionalProperties' must be explicitly set to false"
    assert schema.keys() & {"type", "anyOf", "allOf", "enum", "const", "$ref"}, "a schema needs a type"
    for name in ("properties", "$defs", "definitions"):
        for inner in schema.get(name, {}).values():
            _judge_strict(inner)
    for name in ("anyOf", "allOf"):
        for inner in schema.get(name, ()):
            _judge_strict(inner)
    if "items" in schema:
        _judge_strict(schema["items"])
