"""Anthropic Messages: its answers, whole and streamed, told as events.

https://docs.anthropic.com/en/api/messages and …/messages-streaming

    stream   = message_start block* message_delta message_stop      `ping` anywhere, or `error` and the end
    block    = content_block_start content_block_delta* content_block_stop      each with the `index` of its block

    block                                events
    text                                 TextDelta, and for its citations Annotation where they have a URL, else Extra("citations")
    thinking                             ThinkingDelta, then a ReasoningDetail `reasoning.text` with the signature
    redacted_thinking                    ReasoningDetail `reasoning.encrypted`
    tool_use                             ToolCallStarted, ToolArgsDelta, ToolCallEnded: counted by themselves, not by block
    anything else                        Extra of that name, when it is whole: server tools and their results, and what is yet to come

A whole answer is its blocks, each of them started and stopped at once; so is what a `message_start` already holds (a tool that was called
from within another brings its whole message there, and no `message_delta`). Usage comes twice, in `message_start` with a placeholder for
the output, and cumulative in `message_delta`: the later wins field by field, and only then is it told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson

from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, InvalidRequest, UpstreamError
from proxy.core.events import (
    Annotation,
    Event,
    Extra,
    Finished,
    FinishReason,
    KeepAlive,
    ReasoningDetail,
    RefusalDelta,
    Started,
    StreamFailed,
    TextDelta,
    ThinkingDelta,
    ToolArgsDelta,
    ToolCallEnded,
    ToolCallStarted,
    UsageReported,
)
from proxy.core.target import Target
from proxy.core.usage import Usage, UsageSource
from proxy.dialects.anthropic.errors import decode_error, error_of
from proxy.dialects.anthropic.messages import FORMAT
from proxy.dialects.anthropic.request import body_of, knobs_of
from proxy.dialects.base import OutboundRequest
from proxy.dialects.native import NativeDialect, SseDecoder

VERTEX_VERSION = "vertex-2023-10-16"
MAX_TOKENS = 100_000_000  # no answer has ever had more: beyond it a figure is noise
MAX_HELD_CHARS = 8 * 1024 * 1024  # of thoughts and server tools' results, until their block is whole
MAX_OPEN_BLOCKS = 1024

_FINISH_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",  # a long turn of server tools was cut: the answer is not whole
    "refusal": "content_filter",
}
# of a message and of message_delta; whatever else they hold is shown as Extra
_READ = frozenset(("id", "type", "role", "model", "content", "stop_reason", "usage"))
_INPUT_COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class AnthropicMessages(NativeDialect):
    """The Claude API, and who else speaks it. The header `anthropic-version` is the catalogue's.

    With API version 2023-06-01; from 2026-10-21 on `temperature`, `top_p` and `top_k` are refused for every model.
    """

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        knobs = knobs_of(request, target)
        body = body_of(request, target, knobs)
        return OutboundRequest("/v1/messages", _dumped({"model": target.upstream_model, **body}), knobs.dropped)

    def decode_response(self, answer: dict[str, Any], target: Target) -> list[Event]:
        if answer.get("type") == "error" or answer.get("error"):
            raise error_of(answer, status=None)
        if not isinstance(answer.get("content"), list):
            raise UpstreamError(ErrorClass.EMPTY, "the answer has no content", status=200)
        message = _Message(target)
        return [*message.start(answer), *message.end()]

    def decoder(self, request: ChatRequest, target: Target) -> AnthropicDecoder:
        return AnthropicDecoder(target)

    def decode_error(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> UpstreamError:
        return decode_error(status, body)


class VertexAnthropic(AnthropicMessages):
    """The same models at Vertex AI: the model stands in the path, the version in the body.

    https://docs.cloud.google.com/vertex-ai/generative-ai/docs/partner-models/claude/use-claude
    The path goes under `…/projects/<project>/locations/<location>`.
    """

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        knobs = knobs_of(request, target)
        body = {"anthropic_version": VERTEX_VERSION, **body_of(request, target, knobs)}
        method = "streamRawPredict" if request.stream else "rawPredict"
        path = f"/publishers/anthropic/models/{quote(target.upstream_model, safe='@')}:{method}"
        return OutboundRequest(path, _dumped(body), knobs.dropped)


class AnthropicDecoder(SseDecoder):
    """One stream."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._message = _Message(target)

    def _decode(self, event: dict[str, Any]) -> list[Event]:
        message = self._message
        kind = event.get("type")
        if kind == "content_block_delta":
            delta, index = event.get("delta"), event.get("index")
            if not isinstance(delta, dict):
                return []
            if message.held_chars > MAX_HELD_CHARS:
                return [StreamFailed(UpstreamError(ErrorClass.TOO_LARGE, "a block of the stream is too large", status=200))]
            return message.delta(index, delta)
        match kind:
            case "content_block_start":
                block = event.get("content_block")
                if message.open_blocks >= MAX_OPEN_BLOCKS:
                    return [StreamFailed(UpstreamError(ErrorClass.TOO_LARGE, "too many blocks are open at once", status=200))]
                return message.block_start(event.get("index"), block) if isinstance(block, dict) else []
            case "content_block_stop":
                return message.block_stop(event.get("index"))
            case "message_start":
                start = event.get("message")
                return message.start(start) if isinstance(start, dict) else []
            case "message_delta":
                return message.update(event)
            case "message_stop":
                self.done = True
                return message.end()
            case "ping":
                return [KeepAlive()]
            case "error":
                return [StreamFailed(error_of(event, status=None))]
        return [StreamFailed(error_of(event, status=None))] if event.get("error") else []


@dataclass(slots=True)
class _Block:
    """A content block that is not whole yet: what was said of it at its start, and what has come since and must be held."""

    raw: dict[str, Any]
    kind: str
    call: int | None = None  # the number of a tool call
    start: int = 0  # where its text begins in the answer's
    position: dict[str, int] | None = None  # of a thought: what stood before it
    signature: str = ""
    held: list[str] = field(default_factory=list)  # thoughts, or a server tool's input
    citations: list[dict[str, Any]] = field(default_factory=list)


class _Message:
    """The state of one answer. The same for whole answers, whose blocks start and stop at once."""

    def __init__(self, target: Target) -> None:
        self._model = target.upstream_model
        self._blocks: dict[object, _Block] = {}
        self._chars = 0  # of text so far
        self._calls = 0
        self._usage: dict[str, Any] = {}
        self._output_counted = False  # else it is the placeholder of message_start
        self._usage_told = False
        self._stop_reason: str | None = None
        self._finished = False
        self.held_chars = 0

    @property
    def open_blocks(self) -> int:
        return len(self._blocks)

    def start(self, message: dict[str, Any]) -> list[Event]:
        """A message_start, which as a rule holds nothing yet, or a whole answer."""
        model = message.get("model")
        out: list[Event] = [Started(model if isinstance(model, str) and model else None)]
        content = message.get("content")
        for number, block in enumerate(content if isinstance(content, list) else ()):
            if isinstance(block, dict):
                out += self.block_start(("whole", number), block)
                out += self.block_stop(("whole", number))
        self._merge(message.get("usage"))
        self._output_counted = message.get("stop_reason") is not None
        return out + self._extras(message) + self._note_stop(message)

    def block_start(self, index: object, raw: dict[str, Any]) -> list[Event]:
        if self._finished:
            return []
        kind = raw.get("type")
        block = _Block(raw, kind if isinstance(kind, str) else "unknown", start=self._chars)
        out = self.block_stop(index) if index in self._blocks else []
        self._blocks[index] = block
        match block.kind:
            case "text":
                block.citations = [citation for citation in _list(raw.get("citations")) if isinstance(citation, dict)]
                return out + self._text(raw.get("text"))
            case "thinking":
                self._place(block)
                block.signature = _string(raw.get("signature"))
                return out + self._thought(block, raw.get("thinking"))
            case "redacted_thinking":
                self._place(block)
            case "tool_use":
                block.call = self._calls
                self._calls += 1
                out.append(ToolCallStarted(block.call, _string(raw.get("id")), _string(raw.get("name"))))
        return out

    def delta(self, index: object, delta: dict[str, Any]) -> list[Event]:
        if self._finished:
            return []
        kind = delta.get("type")
        if kind == "text_delta":
            return self._text(delta.get("text"))
        block = self._blocks.get(index)
        if block is None:
            # a server that leaves starts out: what comes tells what it is
            if kind not in ("thinking_delta", "signature_delta"):
                return []
            self.block_start(index, {"type": "thinking"})
            block = self._blocks[index]
        match kind:
            case "input_json_delta":
                text = _string(delta.get("partial_json"))
                if block.call is not None:
                    block.held = block.held or [""]  # something came: the input of the start does not count
                    return [ToolArgsDelta(block.call, text)] if text else []
                self._hold(block, text)
            case "thinking_delta":
                return self._thought(block, delta.get("thinking"))
            case "signature_delta":
                block.signature += _string(delta.get("signature"))
            case "citations_delta":
                citation = delta.get("citation")
                if isinstance(citation, dict):
                    block.citations.append(citation)
                    self.held_chars += 256 + len(_string(citation.get("cited_text")))
            case _:
                self._extend(block, delta)
        return []

    def block_stop(self, index: object) -> list[Event]:
        block = self._blocks.pop(index, None)
        if block is None:
            return []
        match block.kind:
            case "text":
                return [self._citation(citation, block.start) for citation in block.citations]
            case "thinking":
                return self._detail(block, {"type": "reasoning.text", "text": "".join(block.held), "signature": block.signature})
            case "redacted_thinking":
                return self._detail(block, {"type": "reasoning.encrypted", "data": block.raw.get("data")})
            case "tool_use" if block.call is not None:
                return self._call_end(block, block.call)
        return [Extra(block.kind, self._whole(block))]

    def update(self, event: dict[str, Any]) -> list[Event]:
        """A message_delta: why it stopped, and what it consumed."""
        usage = event.get("usage")
        self._merge(usage)
        self._output_counted |= isinstance(usage, dict) and usage.get("output_tokens") is not None
        delta = event.get("delta")
        if not isinstance(delta, dict):
            delta = {}
        out = self._extras({**{name: value for name, value in event.items() if name != "delta"}, **delta})
        out += self._note_stop(delta)
        if self._stop_reason is not None:
            out += self._finish()
        return out + self._report()

    def end(self) -> list[Event]:
        """The end, of a whole answer too."""
        return self._finish() + ([] if self._usage_told else self._report())

    def _finish(self) -> list[Event]:
        if self._finished:
            return []
        self._finished = True
        out: list[Event] = []
        for index in list(self._blocks):
            out += self.block_stop(index)
        native = self._stop_reason
        unsaid: FinishReason = "tool_calls" if native is None and self._calls else "stop"
        out.append(Finished(_FINISH_REASONS.get(native or "", unsaid), native))
        return out

    def _note_stop(self, found: dict[str, Any]) -> list[Event]:
        reason = found.get("stop_reason")
        if isinstance(reason, str) and reason:
            self._stop_reason = reason
        details = found.get("stop_details")
        explanation = details.get("explanation") if isinstance(details, dict) and reason == "refusal" else None
        return [RefusalDelta(explanation)] if isinstance(explanation, str) and explanation and not self._finished else []

    def _extras(self, found: dict[str, Any]) -> list[Event]:
        """Fields of the message itself that only this provider has."""
        if self._finished:
            return []
        return [Extra(name, value) for name, value in found.items() if name not in _READ and value]

    def _text(self, text: object) -> list[Event]:
        if not isinstance(text, str) or not text:
            return []
        self._chars += len(text)
        return [TextDelta(text)]

    def _thought(self, block: _Block, text: object) -> list[Event]:
        if not isinstance(text, str) or not text:
            return []
        self._hold(block, text)
        return [ThinkingDelta(text)]

    def _hold(self, block: _Block, text: str) -> None:
        block.held.append(text)
        self.held_chars += len(text)

    def _extend(self, block: _Block, delta: dict[str, Any]) -> None:
        """A delta of a kind that nobody knows yet: its strings continue those of the block."""
        raw = block.raw = dict(block.raw)
        for name, value in delta.items():
            if name != "type":
                raw[name] = _string(raw.get(name)) + value if isinstance(value, str) else value
                self.held_chars += len(value) if isinstance(value, str) else 256

    def _place(self, block: _Block) -> None:
        if self._chars or self._calls:
            block.position = {"text": self._chars, "calls": self._calls}

    def _detail(self, block: _Block, detail: dict[str, Any]) -> list[Event]:
        """What is not sealed cannot be put back either."""
        self.held_chars -= sum(map(len, block.held))
        if not (detail.get("signature") or detail.get("data")):
            return []
        if block.position is not None:
            detail["position"] = block.position
        return [ReasoningDetail({**detail, "format": FORMAT, "model": self._model})]

    def _call_end(self, block: _Block, call: int) -> list[Event]:
        out: list[Event] = []
        given = block.raw.get("input")
        if not block.held and isinstance(given, dict) and given:
            out.append(ToolArgsDelta(call, _json(given)))
        caller = block.raw.get("caller")
        out.append(ToolCallEnded(call))
        if isinstance(caller, dict) and caller.get("type") != "direct":
            out.append(Extra("caller", {"id": _string(block.raw.get("id")), **caller}))  # called from within a server tool
        return out

    def _whole(self, block: _Block) -> dict[str, Any]:
        """A block of another kind, with the input that came in pieces."""
        text = "".join(block.held)
        self.held_chars -= len(text)
        if not text:
            return block.raw
        try:
            return {**block.raw, "input": orjson.loads(text)}
        except orjson.JSONDecodeError:
            return {**block.raw, "input": text}

    def _citation(self, citation: dict[str, Any], start: int) -> Event:
        place = {"start_index": start, "end_index": self._chars}
        url = citation.get("url") or citation.get("source")
        if isinstance(url, str) and url.startswith(("https://", "http://")):
            found = {"url": url, "title": _string(citation.get("title")), **place}
            return Annotation({"type": "url_citation", "url_citation": found})
        return Extra("citations", {**citation, **place})

    def _merge(self, usage: object) -> None:
        if not isinstance(usage, dict):
            return
        for name, value in usage.items():
            # cumulative: a 0 after a count is a server that fills in each place only once
            if value is not None and (value or name not in _INPUT_COUNTS or not self._usage.get(name)):
                self._usage[name] = value

    def _report(self) -> list[Event]:
        usage = _usage(self._usage) if self._output_counted else None
        self._usage_told = usage is not None
        return [UsageReported(usage)] if usage is not None else []


def _usage(found: dict[str, Any]) -> Usage | None:
    """None without a count of the output, or with one that makes no sense: then it is better counted than believed."""
    counts = [_count(found.get(name, 0)) for name in _INPUT_COUNTS]
    output = _count(found.get("output_tokens"))
    fresh, written, cached = counts
    if output is None or fresh is None or written is None or cached is None:
        return None
    details = found.get("output_tokens_details")
    thought = _count(details.get("thinking_tokens", 0)) if isinstance(details, dict) else 0
    lasting = found.get("cache_creation")  # says of `cache_creation_input_tokens` how long they are kept
    hour = _count(lasting.get("ephemeral_1h_input_tokens", 0)) if isinstance(lasting, dict) else 0
    return Usage(
        input_tokens=fresh + written + cached,
        output_tokens=output,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=min(thought or 0, output),
        source=UsageSource.PROVIDER,
        cache_write_1h_tokens=min(hour or 0, written),
    )


def _dumped(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:
        # only the arguments of a call can be: they come as text, which nobody has looked into
        raise InvalidRequest("The arguments of a tool call are nested too deeply.", param="messages") from None


def _json(value: dict[str, Any]) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return "{}"  # nested deeper than JSON can be written


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
