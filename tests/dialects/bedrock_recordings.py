"""Recorded traffic of Amazon Bedrock's Converse and ConverseStream, read in another way than the proxy does.

And its requests as an OpenAI client would have sent them, so that what we make of those can be held against what was sent.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from random import Random
from typing import Any
from zlib import crc32

import orjson

from tests.corpus.recordings import CORPUS

_APIS = ("bedrock.converse", "bedrock.converse_stream")


@dataclass(frozen=True)
class Exchange:
    """`status` of an error that kept none is 400."""

    id: str
    api: str
    model: str
    path: str
    request: dict[str, Any] | None
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    streamed: bool
    body: bytes

    @cached_property
    def answer(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.body)
        return found

    @cached_property
    def frames(self) -> list[tuple[str, dict[str, Any]]]:
        """(event type, payload) by lengths alone. The type is the last string of a header that begins so."""
        found, at = [], 0
        while at < len(self.body):
            total, headers = struct.unpack_from(">II", self.body, at)
            block = self.body[at + 12 : at + 12 + headers]
            kind = block.partition(b":event-type")[2]
            length = int.from_bytes(kind[1:3])
            found.append((kind[3 : 3 + length].decode(), orjson.loads(self.body[at + 12 + headers : at + total - 4])))
            at += total
        return found

    @cached_property
    def told(self) -> dict[str, Any]:
        """A stream as the whole answer that it tells; a whole answer as it is."""
        return _put_together(self.frames) if self.streamed else self.answer


@cache
def exchanges(*apis: str) -> tuple[Exchange, ...]:
    """None where the corpus is missing."""
    index = CORPUS / "index.jsonl"
    if not index.is_file():
        return ()
    entries = [orjson.loads(line) for line in index.read_bytes().splitlines()]
    return tuple(
        _exchange(entry["api"], entry["model"], orjson.loads((CORPUS / entry["file"]).read_bytes()))
        for entry in entries
        if entry["api"] in (apis or _APIS)
    )


def _exchange(api: str, model: str | None, raw: Mapping[str, Any]) -> Exchange:
    response, path = raw["response"], raw["request"]["path"] or ""
    body = response["body"].encode()
    if response["encoding"] == "base64":
        body = base64.b64decode(body)
    headers = tuple((name.encode(), value.encode()) for name, value in (response["headers"] or {}).items())
    return Exchange(
        raw["id"],
        api,
        model or "unnamed",
        path,
        raw["request"]["json"],
        response["status"] or 400,
        headers,
        response["framing"] == "eventstream",
        body,
    )


def frame(headers: Mapping[str, str], payload: Any) -> bytes:
    """One frame as AWS sends it. A payload that is no bytes is written as JSON."""
    block = b""
    for name, value in headers.items():
        block += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value.encode())) + value.encode()
    body = payload if isinstance(payload, bytes) else orjson.dumps(payload)
    prelude = struct.pack(">II", 16 + len(block) + len(body), len(block))
    whole = prelude + struct.pack(">I", crc32(prelude)) + block + body
    return whole + struct.pack(">I", crc32(whole))


def event(kind: str, payload: Any) -> bytes:
    return frame({":event-type": kind, ":content-type": "application/json", ":message-type": "event"}, payload)


def exception(kind: str, payload: Any) -> bytes:
    return frame({":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}, payload)


def ways_to_cut(data: bytes, seed: str) -> Iterable[list[bytes]]:
    """Byte by byte, by sevens, inside every prelude, and ten times at random."""
    yield [data[i : i + 1] for i in range(len(data))]
    yield [data[i : i + 7] for i in range(0, len(data), 7)]
    starts, at = [], 0
    while at < len(data):
        starts.append(at)
        at += int.from_bytes(data[at : at + 4])
    yield cut_at(data, [start + shift for start in starts for shift in (3, 8, 11, 12)])
    random = Random(seed)
    for _ in range(10):
        yield cut_at(data, [random.randrange(len(data)) for _ in range(random.randrange(1, 40))])


def cut_at(data: bytes, places: Iterable[int]) -> list[bytes]:
    at = sorted({min(place, len(data)) for place in places})
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


def _put_together(frames: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    starts: dict[int, dict[str, Any]] = {}
    deltas: dict[int, list[dict[str, Any]]] = {}
    answer: dict[str, Any] = {}
    for kind, payload in frames:
        match kind:
            case "contentBlockStart":
                starts[payload["contentBlockIndex"]] = payload["start"]
            case "contentBlockDelta":
                deltas.setdefault(payload["contentBlockIndex"], []).append(payload["delta"])
            case "messageStop" | "metadata":
                answer |= {name: value for name, value in payload.items() if name != "p"}
            case _:
                assert kind in ("messageStart", "contentBlockStop")
    content = [_block(starts.get(index, {}), deltas.get(index, [])) for index in sorted(starts.keys() | deltas.keys())]
    return {**answer, "output": {"message": {"role": "assistant", "content": content}}}


def _block(start: dict[str, Any], deltas: list[dict[str, Any]]) -> dict[str, Any]:
    if "toolUse" in start:
        text = "".join(delta["toolUse"]["input"] for delta in deltas)
        return {"toolUse": {**start["toolUse"], "input": orjson.loads(text) if text else {}}}
    if "toolResult" in start:
        return {"toolResult": {**start["toolResult"], "content": [part for delta in deltas for part in delta["toolResult"]]}}
    text = "".join(delta.get("text", "") for delta in deltas)
    citations = [delta["citation"] for delta in deltas if "citation" in delta]
    if citations:
        return {"citationsContent": {"content": [{"text": text}], "citations": citations}}
    thoughts = [delta["reasoningContent"] for delta in deltas if "reasoningContent" in delta]
    if not thoughts:
        return {"text": text}
    sealed = "".join(thought.get("redactedContent", "") for thought in thoughts)
    if sealed:
        return {"reasoningContent": {"redactedContent": sealed}}
    joined = {name: "".join(thought.get(name, "") for thought in thoughts) for name in ("text", "signature")}
    return {"reasoningContent": {"reasoningText": {name: value for name, value in joined.items() if value}}}


# -- requests


class Untold(Exception):
    """A recorded request that no OpenAI client could have sent."""


def as_openai(request: Mapping[str, Any], *, provider: str) -> dict[str, Any]:
    """Raises Untold."""
    messages: list[dict[str, Any]] = []
    for message in ({"role": "system", "content": request.get("system") or []}, *request["messages"]):
        messages += [_assistant(message["content"], provider)] if message["role"] == "assistant" else _others(message)
    body = {"model": "m", "messages": messages, **_fields(request), **_additional(request)}
    tools = request.get("toolConfig", {})
    if tools:
        body["tools"] = _tools(tools["tools"])
        match tools.get("toolChoice", {}):
            case {"any": _}:
                body["tool_choice"] = "required"
            case {"tool": function}:
                body["tool_choice"] = {"type": "function", "function": function}
    return body


def _fields(request: Mapping[str, Any]) -> dict[str, Any]:
    names = {"maxTokens": "max_tokens", "temperature": "temperature", "topP": "top_p", "stopSequences": "stop"}
    found = {names[name]: value for name, value in request.get("inferenceConfig", {}).items()}
    wanted = request.get("outputConfig", {}).get("textFormat", {}).get("structure", {}).get("jsonSchema")
    if wanted:
        schema = {**wanted, "schema": orjson.loads(wanted["schema"])}
        found["response_format"] = {"type": "json_schema", "json_schema": schema}
    for name in ("additionalModelResponseFieldPaths", "guardrailConfig", "performanceConfig"):
        if name in request:
            found[name] = request[name]
    if "requestMetadata" in request:
        found["metadata"] = request["requestMetadata"]
    if "serviceTier" in request:
        found["service_tier"] = request["serviceTier"]["type"]
    return found


def _additional(request: Mapping[str, Any]) -> dict[str, Any]:
    """In the words that a caller has for them, where there are any."""
    match request.get("additionalModelRequestFields", {}):
        case {"thinking": thinking}:
            return {"thinking": thinking}
        case {"reasoningConfig": {"maxReasoningEffort": word}} | {"reasoning_effort": word} | {"reasoning_config": word}:
            return {"reasoning_effort": word}
        case {"inferenceConfig": {"topK": count}}:
            return {"top_k": count}
        case own:
            return {"additionalModelRequestFields": own} if own else {}


def _others(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of the user or the system: tool results are messages of their own."""
    found: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for block in message["content"]:
        if "toolResult" in block:
            result = block["toolResult"]
            content = [part for inner in result["content"] for part in _parts(inner)]
            found.append({"role": "tool", "tool_call_id": result["toolUseId"], "content": content})
        elif "cachePoint" in block and (parts or found):
            (parts[-1] if parts else found[-1])["cache_control"] = {"type": "ephemeral"}
        else:
            parts += _parts(block)
    return [*found, {"role": message["role"], "content": parts}] if parts else found


def _assistant(content: list[dict[str, Any]], provider: str) -> dict[str, Any]:
    found: dict[str, Any] = {"role": "assistant", "content": [], "tool_calls": [], "reasoning_details": []}
    chars = 0
    for block in content:
        match block:
            case {"text": text}:
                found["content"].append({"type": "text", "text": text})
                chars += len(text)
            case {"toolUse": use}:
                function = {"name": use["name"], "arguments": orjson.dumps(use["input"]).decode()}
                found["tool_calls"].append({"id": use["toolUseId"], "type": "function", "function": function})
            case {"reasoningContent": {"reasoningText": thought}}:
                position = {"text": chars, "calls": len(found["tool_calls"])}
                detail = {"type": "reasoning.text", "format": "bedrock", "provider": provider, "position": position, **thought}
                found["reasoning_details"].append(detail)
            case _:
                raise Untold(f"{next(iter(block))} in an assistant message")
    return found


def _parts(block: dict[str, Any]) -> list[dict[str, Any]]:
    kind, said = next(iter(block.items()))
    match kind:
        case "text":
            return [{"type": "text", "text": said}]
        case "json":
            return [{"type": "text", "text": orjson.dumps(said).decode()}]
        case "image":
            return [{"type": "image_url", "image_url": {"url": _url(said, "image")}}]
        case "video":
            return [{"type": "video_url", "video_url": {"url": _url(said, "video")}}]
        case "document" if said["source"].keys() == {"bytes"} and "context" not in said and "citations" not in said:
            data = f"data:{_TYPES[said['format']]};base64,{said['source']['bytes']}"
            return [{"type": "file", "file": {"file_data": data, "filename": f"{said['name']}.{said['format']}"}}]
        case "document" | "searchResult" | "guardContent":
            return [{"type": kind, kind: said}]  # callers who know Converse's own parts
    raise Untold(f"{kind} in a user message")


_TYPES = {
    "pdf": "application/pdf",
    "txt": "text/plain",
    "csv": "text/csv",
    "md": "text/markdown",
    "html": "text/html",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


def _url(said: dict[str, Any], kind: str) -> str:
    source, format_ = said["source"], {"three_gp": "3gpp"}.get(said["format"], said["format"])
    if "s3Location" in source:
        return str(source["s3Location"]["uri"])
    return f"data:{kind}/{format_};base64,{source['bytes']}"


def _tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for tool in tools:
        if "cachePoint" in tool:
            found[-1]["cache_control"] = {"type": "ephemeral"}
        elif "toolSpec" in tool:
            spec = tool["toolSpec"]
            function = {name: spec[name] for name in ("name", "description", "strict") if name in spec}
            found.append({"type": "function", "function": {**function, "parameters": spec["inputSchema"]["json"]}})
        else:
            found.append({"type": "system", **tool})
    return found
