"""Every field of a chat request, each with a telling value, and the question what became of it: on the wire, dropped by name, or refused.

The tables are what `openai.types.chat.CompletionCreateParams` knows (`test_knobs.py` holds them against it), and what callers send besides.
No value is what the field's absence would mean, so that a field which makes no difference upstream was lost.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import orjson

from proxy.core.chat import ChatRequest
from proxy.core.errors import CallerError, CannotCarry
from proxy.core.target import Target
from proxy.dialects.base import OutboundRequest
from proxy.dialects.openai_request import OpenAIChatInbound

GOLDENS = Path(__file__).parent / "goldens"
REQUEST_ID = "01JZ0000000000000000000000"
CREATED = 1_750_000_000

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
WAV = "UklGRigAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQQAAAAAAAAA"
PDF = "JVBERi0xLjQKJSVFT0YK"

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"hats": {"type": "integer"}}, "required": ["hats"]}

# top-level fields of OpenAI's, but for `model` and `messages`
FIELDS: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "frequency_penalty": -0.5,
    "function_call": {"name": "get_weather"},
    "functions": [TOOL["function"]],
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "max_completion_tokens": 77,
    "max_tokens": 78,
    "metadata": {"trip": "summer"},
    "modalities": ["text", "audio"],
    "moderation": {"model": "omni-moderation-latest"},
    "n": 2,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "A hat."},
    "presence_penalty": 0.25,
    "prompt_cache_key": "travel-guide",
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "response_format": {"type": "json_schema", "json_schema": {"name": "hats", "schema": SCHEMA}},
    "safety_identifier": "hashed-user-17",
    "seed": 7,
    "service_tier": "flex",
    "stop": ["END"],
    "store": True,
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "tool_choice": "required",
    "tools": [TOOL],
    "top_logprobs": 2,
    "top_p": 0.9,
    "user": "user-17",
    "verbosity": "low",
    "web_search_options": {"search_context_size": "low"},
}
# not OpenAI's, but sent by many: other providers' own, and one that nobody knows
FOREIGN_FIELDS: dict[str, Any] = {
    "cache_control": {"type": "ephemeral"},
    "made_up_by_the_caller": {"at": ["all"]},
    "min_p": 0.05,
    "reasoning": {"effort": "low"},
    "repetition_penalty": 1.1,
    "thinking": {"type": "enabled", "budget_tokens": 1500},
    "top_k": 40,
}
# what a field needs beside it in order to mean anything
BESIDE: dict[str, dict[str, Any]] = {
    "audio": {"modalities": ["text", "audio"]},
    "function_call": {"functions": FIELDS["functions"]},
    "parallel_tool_calls": {"tools": FIELDS["tools"]},
    "stream_options": {"stream": True},
    "tool_choice": {"tools": FIELDS["tools"]},
    "top_logprobs": {"logprobs": True},
}
# the proxy's own business: how the caller is answered
OURS: frozenset[str] = frozenset(("stream", "stream_options"))

# a conversation without any of the optional fields of NESTED_FIELDS
CONVERSATION: dict[str, Any] = {
    "model": "smart",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "You help travellers."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Where is this?"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            ],
        },
        {
            "role": "assistant",
            "content": "I look that up.",
            "tool_calls": [
                {"id": "call_w1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Lisboa"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_w1", "content": [{"type": "text", "text": "21 degrees"}]},
        {"role": "user", "content": "And what do I pack?"},
    ],
    "tools": [TOOL],
    "response_format": FIELDS["response_format"],
}
# name as it is dropped -> (where it stands in CONVERSATION, value)
NESTED_FIELDS: dict[str, tuple[tuple[str | int, ...], Any]] = {
    "messages[].name": (("messages", 1, "name"), "ada"),
    "messages[].cache_control": (("messages", 4, "cache_control"), {"type": "ephemeral"}),
    "messages[].made_up": (("messages", 1, "made_up"), 1),
    "messages[].refusal": (("messages", 2, "refusal"), "I would rather not say."),
    "messages[].audio": (("messages", 2, "audio"), {"id": "audio_1"}),
    "messages[].reasoning_content": (("messages", 2, "reasoning_content"), "By the bridge."),
    "messages[].reasoning": (("messages", 2, "reasoning"), "By the bridge."),
    "messages[].reasoning_details": (
        ("messages", 2, "reasoning_details"),
        [{"type": "reasoning.text", "text": "By the bridge.", "signature": "c2ln", "format": "another", "provider": "another"}],
    ),
    "messages[].annotations": (
        ("messages", 2, "annotations"),
        [{"type": "url_citation", "url_citation": {"url": "https://a.example"}}],
    ),
    "messages[].provider_extras": (("messages", 2, "provider_extras"), {"search": [1]}),
    "messages[].tool_calls[].extra_content": (
        ("messages", 2, "tool_calls", 0, "extra_content"),
        {"google": {"thought_signature": "c2ln"}},
    ),
    "messages[].content[].cache_control": (("messages", 0, "content", 0, "cache_control"), {"type": "ephemeral"}),
    "messages[].content[].prompt_cache_breakpoint": (
        ("messages", 0, "content", 0, "prompt_cache_breakpoint"),
        {"mode": "explicit"},
    ),
    "messages[].content[].image_url.detail": (("messages", 1, "content", 1, "image_url", "detail"), "low"),
    "messages[].content[].image_url.made_up": (("messages", 1, "content", 1, "image_url", "made_up"), 1),
    "tools[].cache_control": (("tools", 0, "cache_control"), {"type": "ephemeral"}),
    "tools[].made_up": (("tools", 0, "made_up"), 1),
    "tools[].function.made_up": (("tools", 0, "function", "made_up"), 1),
    "tools[].function.strict": (("tools", 0, "function", "strict"), True),
    "response_format.json_schema.description": (("response_format", "json_schema", "description"), "What to take along."),
    "response_format.json_schema.strict": (("response_format", "json_schema", "strict"), True),
}

Fate = Literal["carried", "in part", "dropped", "refused"]


class EncodesRequests(Protocol):
    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest: ...


def chat_request(body: Mapping[str, Any]) -> ChatRequest:
    """The body as it comes out of the caller's side of the proxy."""
    request = OpenAIChatInbound().decode_request(orjson.dumps(body))
    request.id, request.created = REQUEST_ID, CREATED
    return request


def full_body(*, without: Collection[str] = ()) -> dict[str, Any]:
    """`goldens/full.json`, without what a format cannot carry: names of top-level fields, types of content parts, and
    `remote image_url` for those images that are links."""
    body: dict[str, Any] = orjson.loads((GOLDENS / "full.json").read_bytes())
    for message in body["messages"]:
        content = message["content"]
        if isinstance(content, list):
            message["content"] = [part for part in content if part["type"] not in without and _kind(part) not in without]
    return {name: value for name, value in body.items() if name not in without}


def with_field(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(a body with the field, the same without it); `name` is of any of the tables."""
    if name in NESTED_FIELDS:
        path, value = NESTED_FIELDS[name]
        return _with_nested(CONVERSATION, path, value), CONVERSATION
    without = {"model": "smart", "messages": [{"role": "user", "content": "What do I pack?"}], **BESIDE.get(name, {})}
    return {**without, name: FIELDS[name] if name in FIELDS else FOREIGN_FIELDS[name]}, without


def where_is(
    name: str,
    encoder: EncodesRequests,
    target: Target,
    *,
    body: Mapping[str, Any] | None = None,
    without: Mapping[str, Any] | None = None,
) -> Fate:
    """What became of a field. Fails when it left no trace: neither upstream, nor in `dropped`, nor as a refusal.

    For a field of the tables `body` and `without` come of themselves.
    """
    if body is None or without is None:
        body, without = with_field(name)
    base = encoder.encode_request(chat_request(without), target)
    try:
        found = encoder.encode_request(chat_request(body), target)
    except (CannotCarry, CallerError):
        return "refused"
    changed = (found.path, orjson.loads(found.body)) != (base.path, orjson.loads(base.body))
    named = any(_names(dropped, name) for dropped in found.dropped)
    if named:
        return "in part" if changed else "dropped"
    assert changed or name in OURS, f"`{name}` is neither on the wire nor in {found.dropped}: there is no third place"
    return "carried"


def _kind(part: Mapping[str, Any]) -> str:
    remote = part["type"] == "image_url" and not part["image_url"]["url"].startswith("data:")
    return f"remote {part['type']}" if remote else str(part["type"])


def _names(dropped: str, name: str) -> bool:
    """The field itself, a part of it, or what it is a part of; a nested one also by its own name alone."""
    if "[]" in name and dropped == name.rsplit(".", 1)[1]:
        return True
    return dropped == name or dropped.startswith((f"{name}.", f"{name}[")) or name.startswith((f"{dropped}.", f"{dropped}["))


def _with_nested(body: Mapping[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    changed: dict[str, Any] = copy.deepcopy(dict(body))
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return changed
