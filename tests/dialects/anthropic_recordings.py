"""Recorded traffic of the Messages API: from Anthropic, Vertex AI, and Bedrock's InvokeModel, whose streams carry the same events.

And its requests as an OpenAI client would have sent them, so that what we make of those can be held against what was sent.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import orjson

from tests.corpus.recordings import CORPUS

_APIS = ("anthropic.messages", "bedrock.invoke_anthropic", "bedrock.invoke_anthropic_stream")


@dataclass(frozen=True)
class Exchange:
    """`body` is a stream as server-sent events, whatever it came as, or a JSON object."""

    id: str
    provider: str
    model: str
    request: dict[str, Any] | None
    status: int
    streamed: bool
    body: bytes

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """Of the first message: some recordings hold several streams. Read line by line, unlike anything in the proxy."""
        lines = self.body.replace(b"\r", b"\n").split(b"\n")
        found = [orjson.loads(line[5:]) for line in lines if line.startswith(b"data:")]
        ends = [index for index, event in enumerate(found) if event["type"] == "message_stop"]
        return found[: ends[0] + 1] if ends else found

    @cached_property
    def answer(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.body)
        return found


@cache
def exchanges() -> tuple[Exchange, ...]:
    """None where the corpus is missing."""
    index = CORPUS / "index.jsonl"
    if not index.is_file():
        return ()
    entries = [orjson.loads(line) for line in index.read_bytes().splitlines()]
    found = [_exchange(orjson.loads((CORPUS / entry["file"]).read_bytes())) for entry in entries if entry["api"] in _APIS]
    return tuple(exchange for exchange in found if b'"completion"' not in exchange.body[:60])  # one is of the older Complete API


def _exchange(raw: Mapping[str, Any]) -> Exchange:
    response = raw["response"]
    body = response["body"].encode()
    if response["encoding"] == "base64":
        body = _sse_of_frames(base64.b64decode(body))
    request = raw["request"]["json"]
    named = re.search(r"models?/([^/:]+)", raw["request"]["path"] or "")
    model = (request or {}).get("model") or (named[1] if named is not None else "claude-sonnet-4-5")
    streamed = response["framing"] in ("sse", "eventstream")
    return Exchange(raw["id"], raw["provider"], model, request, response["status"] or 200, streamed, body)


def _sse_of_frames(frames: bytes) -> bytes:
    """AWS event-stream frames: 4 bytes of total length, 4 of the headers' length, 4 of checksum, headers, payload, 4 of checksum."""
    out, at = bytearray(), 0
    while at < len(frames):
        total, headers = (int.from_bytes(frames[at + shift : at + shift + 4]) for shift in (0, 4))
        payload = orjson.loads(frames[at + 12 + headers : at + total - 4])
        event = orjson.loads(base64.b64decode(payload["bytes"]))
        out += b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))
        at += total
    return bytes(out)


class Untold(Exception):
    """A recorded request that no OpenAI client could have sent."""


def as_openai(request: Mapping[str, Any], *, provider: str) -> dict[str, Any]:
    """Raises Untold."""
    body = {name: value for name, value in request.items() if name not in _OWN_WORDS}
    body["model"] = request.get("model", "unnamed")
    system = request.get("system")
    messages = [{"role": "system", "content": _list(system)}] if system else []
    for message in request["messages"]:
        messages += _messages(message, provider)
    body["messages"] = messages
    if "max_tokens" in request:
        body["max_completion_tokens"] = request["max_tokens"]
    if "stop_sequences" in request:
        body["stop"] = request["stop_sequences"]
    if "tools" in request:
        body["tools"] = [_tool(tool) for tool in request["tools"]]
    if "tool_choice" in request:
        choice = dict(request["tool_choice"])
        if "disable_parallel_tool_use" in choice:
            body["parallel_tool_calls"] = not choice["disable_parallel_tool_use"]
        named = {"type": "function", "function": {"name": choice.get("name")}}
        body["tool_choice"] = {"auto": "auto", "any": "required", "none": "none"}.get(choice["type"], named)
    wanted = request.get("output_format") or request.get("output_config", {}).get("format")
    if wanted:
        body["response_format"] = {"type": "json_schema", "json_schema": {"schema": wanted["schema"], "strict": True}}
    config = {name: value for name, value in request.get("output_config", {}).items() if name != "format"}
    if config:
        body["output_config"] = config
    if "metadata" in request:
        body["user"] = request["metadata"]["user_id"]
    return body


_OWN_WORDS = frozenset(
    """model system messages max_tokens stop_sequences tools tool_choice output_format output_config metadata
    anthropic_version""".split()
)


def _list(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _messages(message: Mapping[str, Any], provider: str) -> list[dict[str, Any]]:
    blocks = _list(message["content"])
    if message["role"] == "assistant":
        return [_assistant(blocks, provider)]
    if message["role"] == "system":
        if any(block["type"] != "text" for block in blocks):
            raise Untold("tools that come in the middle of a conversation")
        return [{"role": "developer", "content": blocks}]
    results = [
        {
            "role": "tool",
            "tool_call_id": block["tool_use_id"],
            "content": [_part(inner) for inner in _list(block.get("content", []))],
            **({"cache_control": block["cache_control"]} if "cache_control" in block else {}),
        }
        for block in blocks
        if block["type"] == "tool_result"
    ]
    parts = [_part(block) for block in blocks if block["type"] != "tool_result"]
    return [*results, {"role": "user", "content": parts}] if parts else results


def _assistant(blocks: list[dict[str, Any]], provider: str) -> dict[str, Any]:
    found: dict[str, Any] = {"role": "assistant", "content": [], "tool_calls": [], "reasoning_details": []}
    chars = 0
    kinds = [block["type"] for block in blocks]
    if any(kind.endswith("_tool_result") for kind in kinds[: kinds.index("thinking") if "thinking" in kinds[1:] else 0]):
        raise Untold("thoughts between the server's own tools")
    for block in blocks:
        position = {"text": chars, "calls": len(found["tool_calls"])}
        sealed = {"format": "anthropic", "provider": provider, "position": position}
        match block["type"]:
            case "text":
                found["content"].append(block)
                chars += len(block["text"])
            case "thinking":
                thought = {"type": "reasoning.text", "text": block["thinking"], "signature": block["signature"]}
                found["reasoning_details"].append({**thought, **sealed})
            case "redacted_thinking":
                found["reasoning_details"].append({"type": "reasoning.encrypted", "data": block["data"], **sealed})
            case "tool_use":
                function = {"name": block["name"], "arguments": orjson.dumps(block["input"]).decode()}
                found["tool_calls"].append({"id": block["id"], "type": "function", "function": function})
            case _:
                found["content"].append(block)
    return found


def _part(block: dict[str, Any]) -> dict[str, Any]:
    source = block.get("source")
    mark = {"cache_control": block["cache_control"]} if "cache_control" in block else {}
    match block["type"], source.get("type") if isinstance(source, dict) else None:
        case "text", None:
            return block
        case "image", "base64":
            assert source is not None
            return {"type": "image_url", "image_url": {"url": f"data:{source['media_type']};base64,{source['data']}"}, **mark}
        case "image", "url":
            assert source is not None
            return {"type": "image_url", "image_url": {"url": source["url"]}, **mark}
        case "document", "base64":
            assert source is not None
            data = f"data:{source['media_type']};base64,{source['data']}"
            return {"type": "file", "file": {"file_data": data, "filename": block.get("title")}, **mark}
        case (("document" | "image" | "search_result" | "tool_reference" | "container_upload"), _):
            return block  # with citations, by id: callers who know Anthropic's own parts
    raise Untold(f"{block['type']} in a user message")


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type", "custom") != "custom":
        return tool
    read = ("name", "description", "strict")
    function = {name: tool[name] for name in read if name in tool}
    rest = {name: value for name, value in tool.items() if name not in (*read, "input_schema", "type")}
    return {"type": "function", "function": {**function, "parameters": tool["input_schema"]}, **rest}
