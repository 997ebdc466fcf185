"""Amazon Bedrock Converse and ConverseStream: their answers, told as events. `request.py` is what is asked.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html and …/API_runtime_ConverseStream.html

    stream  = messageStart  block*  messageStop  metadata          frames of AWS's event stream: the kind is in `:event-type`
    block   = contentBlockStart? contentBlockDelta* contentBlockStop      each with the `contentBlockIndex` of its block
            | an exception frame, and the end

    block                                events
    text                                 TextDelta, and for its citations Annotation where they have a URL, else Extra("citations")
    reasoningContent                     ThinkingDelta, then a ReasoningDetail `reasoning.text` if there is a signature
      redactedContent                    ReasoningDetail `reasoning.encrypted`
    toolUse                              ToolCallStarted, ToolArgsDelta, ToolCallEnded: counted by themselves, not by block
      of type server_tool_use            Extra("server_tool_use"), and its toolResult Extra("server_tool_result")
    image                                ImageDelta, when it is whole
    anything else                        Extra of that name, if it is in a whole answer; skipped in a stream

    stopReason    stop: end_turn, stop_sequence · tool_calls: tool_use · length: max_tokens, model_context_window_exceeded
                  content_filter: guardrail_intervened, content_filtered · a failure: malformed_model_output, malformed_tool_use
    usage         inputTokens, to which the cached ones are added: cacheReadInputTokens, cacheWriteInputTokens; outputTokens, of which
                  reasoning is not told apart

Blocks of text and of reasoning have no start. The reason for the end and the usage come in two frames, in either order: the stream is done
when both are there, and only then is the reason told. `p`, padding of a random length in every frame, is read by nobody. Under
`provider_extras` stand the guardrails' `trace`, `additionalModelResponseFields`, and what the request ran as.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import orjson

from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.events import (
    Annotation,
    Event,
    Extra,
    Finished,
    FinishReason,
    ImageDelta,
    ReasoningDetail,
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
from proxy.core.usage import Usage
from proxy.dialects.base import WRONG_SHAPE, OutboundRequest
from proxy.dialects.bedrock.errors import decode_error, error_of, kind_of
from proxy.dialects.bedrock.messages import FORMAT
from proxy.dialects.bedrock.request import encode
from proxy.dialects.native import NativeDialect
from proxy.dialects.openai_chat import MAX_MALFORMED_EVENTS, parse_mending
from proxy.dialects.openai_fields import made_call_id
from proxy.wire.aws_eventstream import EventStreamError, EventStreamSplitter, Message, MessageTooLarge

MAX_TOKENS = 100_000_000  # no answer has ever had more: beyond it a figure is noise
MAX_HELD_CHARS = 32 * 1024 * 1024  # of thoughts, pictures and server tools' results, until their block is whole
MAX_OPEN_BLOCKS = 1024

_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
_FAILURES = frozenset(("malformed_model_output", "malformed_tool_use"))
_BLOCKS = ("text", "reasoningContent", "citationsContent", "toolUse", "toolResult", "image")  # what a block is known by
_SHOWN = ("trace", "performanceConfig", "serviceTier")  # of metadata, as they are


class BedrockConverse(NativeDialect):
    """Implements `OutboundDialect`. The base URL is that of the region's runtime; a call without a bearer key is signed elsewhere."""

    stream_type: ClassVar[bytes] = b"application/vnd.amazon.eventstream"

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        return encode(request, target)

    def decode_response(self, answer: dict[str, Any], target: Target) -> list[Event]:
        output = answer.get("output")
        message = output.get("message") if isinstance(output, dict) else None
        if not isinstance(message, dict):
            kind = kind_of(answer)
            if kind is not None or isinstance(answer.get("message"), str):
                raise error_of(kind, answer, status=200)
            raise UpstreamError(ErrorClass.EMPTY, "the answer has no message", status=200)
        told = _Message(target, f"{answer.get('metrics')}{answer.get('usage')}")
        events: list[Event] = [Started(), *told.whole(message.get("content") or [])]
        events += told.end_said(answer)
        events += told.metadata(answer)
        events += told.finish()
        if isinstance(events[-1], StreamFailed):
            raise events[-1].error
        return events

    def decoder(self, request: ChatRequest, target: Target) -> BedrockDecoder:
        return BedrockDecoder(target, request.id)

    def decode_error(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> UpstreamError:
        return decode_error(status, headers, body)


class BedrockDecoder:
    """One stream: implements `StreamDecoder` over AWS's frames."""

    def __init__(self, target: Target, seed: str) -> None:
        self.done = False
        self.frames = 0
        self.malformed = 0
        self.mended = 0
        self._failed = False
        self._splitter = EventStreamSplitter()
        self._message = _Message(target, seed)

    def feed(self, data: bytes) -> list[Event]:
        if self._over():
            return []
        fault: EventStreamError | None = None
        try:
            frames = self._splitter.feed(data)
        except EventStreamError as error:
            frames, fault = error.before, error
        out: list[Event] = []
        for frame in frames:
            self.frames += 1
            out += self._decode(frame)
            if out and type(out[-1]) is StreamFailed:
                self._failed = True
            if self._over():
                return out
        if fault is not None:
            self._failed = True
            kind = ErrorClass.TOO_LARGE if isinstance(fault, MessageTooLarge) else ErrorClass.MALFORMED
            out.append(StreamFailed(UpstreamError(kind, f"no event stream of AWS: {fault}", status=200)))
        return out

    def usage_so_far(self) -> Usage | None:
        return None  # it comes with the last event

    def close(self) -> list[Event]:
        self._splitter.close()  # an unfinished frame says nothing
        return [] if self._over() else self._message.close()

    def _over(self) -> bool:
        return self.done or self._failed

    def _decode(self, frame: Message) -> list[Event]:
        headers = frame.headers
        kind = headers.get(":event-type")
        if kind is None and (":exception-type" in headers or ":error-code" in headers):
            return [StreamFailed(_exception(frame))]
        try:
            event = orjson.loads(frame.payload)
        except orjson.JSONDecodeError:
            event, mended = parse_mending(frame.payload)
            self.mended += mended is not None
        try:
            if kind is not None:
                return self._event(kind, event)
        except WRONG_SHAPE:
            pass  # something of the wrong type, or no object at all
        self.malformed += 1
        if self.malformed <= MAX_MALFORMED_EVENTS:
            return []
        said = f"more than {MAX_MALFORMED_EVENTS} events of the stream could not be read"
        return [StreamFailed(UpstreamError(ErrorClass.MALFORMED_EVENT, said, status=200))]

    def _event(self, kind: object, event: dict[str, Any]) -> list[Event]:
        message = self._message
        index = event.get("contentBlockIndex")
        match kind:
            case "contentBlockDelta":
                return message.delta(index, event["delta"]) if message.has_room() else [_too_large()]
            case "contentBlockStart":
                return message.start(index, event["start"]) if message.has_room() else [_too_large()]
            case "contentBlockStop":
                return message.stop(index)
            case "messageStart":
                return [Started()]
            case "messageStop":
                events = message.end_said(event)
            case "metadata":
                events = message.metadata(event)
            case _:
                return []  # what is yet to come
        if message.complete:
            events += message.finish()
            self.done = True
        return events


@dataclass(slots=True)
class _Block:
    """A content block that is not whole yet. `said` is what its start told, `held` what has come since and is needed whole."""

    kind: Literal["text", "thought", "call", "server_tool_use", "server_tool_result", "image"]
    said: dict[str, Any] = field(default_factory=dict)
    call: int = 0  # the number of a tool call
    start: int = 0  # where its text begins in the answer's
    position: dict[str, int] | None = None  # of a thought: what stood before it
    signature: str = ""
    sealed: list[str] = field(default_factory=list)  # redactedContent, in base64
    held: list[Any] = field(default_factory=list)
    citations: list[dict[str, Any]] = field(default_factory=list)


class _Message:
    """The state of one answer. The same for whole answers, whose blocks start and stop at once. `seed`: of ids for calls without."""

    def __init__(self, target: Target, seed: str) -> None:
        self._model = target.upstream_model
        self._seed = seed
        self._blocks: dict[object, _Block] = {}
        self._chars = 0  # of text so far
        self._last_start = 0  # where the last block with text began
        self._calls = 0
        self._held_chars = 0
        self._reason: str | None = None
        self._ended = False
        self._described = False

    @property
    def complete(self) -> bool:
        """Why it ended and what it consumed are both known."""
        return self._ended and self._described

    def has_room(self) -> bool:
        return self._held_chars <= MAX_HELD_CHARS and len(self._blocks) <= MAX_OPEN_BLOCKS

    def start(self, index: object, start: dict[str, Any]) -> list[Event]:
        events = self.stop(index)
        use, result, image = start.get("toolUse"), start.get("toolResult"), start.get("image")
        if isinstance(use, dict):
            if use.get("type") == "server_tool_use":
                self._blocks[index] = _Block("server_tool_use", said=use)
                return events
            name = _string(use.get("name"))
            id_ = _string(use.get("toolUseId")) or made_call_id(self._seed, self._calls, name)
            self._blocks[index] = _Block("call", call=self._calls)
            events.append(ToolCallStarted(self._calls, id_, name))
            self._calls += 1
        elif isinstance(result, dict):
            self._blocks[index] = _Block("server_tool_result", said=result)
        elif isinstance(image, dict):
            self._blocks[index] = _Block("image", said=image)
        return events

    def delta(self, index: object, delta: dict[str, Any]) -> list[Event]:
        block = self._blocks.get(index)
        text = delta.get("text")
        if type(text) is str:
            if block is None:
                self._blocks[index] = _Block("text", start=self._chars)
            self._chars += len(text)
            return [TextDelta(text)] if text else []
        thought = delta.get("reasoningContent")
        if thought is not None:
            return self._thought(block or self._open(index, "thought"), thought)
        citation = delta.get("citation")
        if isinstance(citation, dict):
            block = block or self._open(index, "text")
            block.citations.append(citation)
            self._held_chars += 256 + sum(len(_string(source.get("text"))) for source in citation.get("sourceContent") or [])
            return []
        if block is None:
            return []
        use, result, image = delta.get("toolUse"), delta.get("toolResult"), delta.get("image")
        if use is not None:
            piece = _string(use.get("input"))
            if block.kind == "call":
                return [ToolArgsDelta(block.call, piece)] if piece else []
            self._hold(block, piece, len(piece))
        elif result is not None:
            for part in result:
                self._hold(block, part, len(_string(part.get("text"))) + 256)
        elif image is not None:
            piece = _string((image.get("source") or {}).get("bytes"))
            self._hold(block, piece, len(piece))
        return []

    def stop(self, index: object) -> list[Event]:
        block = self._blocks.pop(index, None)
        if block is None:
            return []
        match block.kind:
            case "text":
                return self._citations(block)
            case "thought":
                return self._sealed(block)
            case "call":
                return [ToolCallEnded(block.call)]
            case "server_tool_use":
                given = "".join(block.held)
                return [Extra("server_tool_use", {**block.said, "input": _parsed(given)} if given else block.said)]
            case "server_tool_result":
                return [Extra("server_tool_result", {**block.said, "content": block.held})]
            case "image":
                data = _joined(block.held)
                format_ = _string(block.said.get("format")) or "png"
                return [ImageDelta(f"data:image/{format_};base64,{data}")] if data else []

    def whole(self, content: list[Any]) -> list[Event]:
        events: list[Event] = []
        for number, block in enumerate(content):
            events += self._whole_block(number, block)
            events += self.stop(number)
        return events

    def end_said(self, said: dict[str, Any]) -> list[Event]:
        """`said` has the reason for the end: messageStop, or the whole answer."""
        self._ended = True
        self._reason = _string(said.get("stopReason")) or None
        fields = said.get("additionalModelResponseFields")
        return [Extra("additionalModelResponseFields", fields)] if fields else []

    def metadata(self, said: dict[str, Any]) -> list[Event]:
        self._described = True
        events: list[Event] = [Extra(name, said[name]) for name in _SHOWN if said.get(name)]
        usage = said.get("usage")
        if isinstance(usage, dict):
            if usage.get("cacheDetails") or usage.get("serverToolUsage"):
                events.append(Extra("usage", usage))  # OpenAI's has no field for how long what is written to a cache stays there
            read = _usage(usage)
            events += [UsageReported(read)] if read is not None else []
        return events

    def finish(self) -> list[Event]:
        """Whatever is open is closed, and the reason told."""
        events: list[Event] = []
        for index in list(self._blocks):
            events += self.stop(index)
        if self._reason in _FAILURES:
            fault = f"the model broke its own protocol: {self._reason}"
            return [*events, StreamFailed(UpstreamError(ErrorClass.MODEL_FAULT, fault, status=200))]
        reason = _REASONS.get(self._reason or "", "stop")
        if reason == "stop" and self._calls:
            reason = "tool_calls"
        return [*events, Finished(reason, self._reason)]

    def close(self) -> list[Event]:
        """The bytes have ended: the reason, if it was told, without what should have come beside it."""
        return self.finish() if self._ended else []

    # -- blocks

    def _whole_block(self, index: int, block: dict[str, Any]) -> list[Event]:
        """A block of a whole answer, as the start and the deltas that it would have been."""
        kind = next((name for name in _BLOCKS if name in block), None)
        said: Any = block.get(kind) if kind is not None else None
        match kind:
            case "text":
                return self.delta(index, {"text": said})
            case "reasoningContent":
                parts = said.get("reasoningText") or {}
                pieces = [{name: parts[name]} for name in ("text", "signature") if parts.get(name)]
                pieces += [{"redactedContent": said["redactedContent"]}] if said.get("redactedContent") else []
                deltas: list[dict[str, Any]] = [{"reasoningContent": piece} for piece in pieces]
            case "citationsContent":
                deltas = [{"citation": citation} for citation in said.get("citations") or []]
                deltas += [{"text": piece["text"]} for piece in said.get("content") or []]
            case "toolUse":
                given = said.get("input")
                text = given if isinstance(given, str) else _json(given)
                events = self.start(index, {"toolUse": {name: value for name, value in said.items() if name != "input"}})
                return events + self.delta(index, {"toolUse": {"input": "" if given is None else text}})
            case "toolResult":
                events = self.start(index, {"toolResult": {name: value for name, value in said.items() if name != "content"}})
                return events + self.delta(index, {"toolResult": said.get("content") or []})
            case "image":
                return self.start(index, {"image": said}) + self.delta(index, {"image": said})
            case _:
                return [Extra(name, value) for name, value in block.items() if name != "type"]
        return [event for delta in deltas for event in self.delta(index, delta)]

    def _open(self, index: object, kind: Literal["text", "thought"]) -> _Block:
        block = self._blocks[index] = _Block(kind, start=self._chars)
        if kind == "thought" and (self._chars or self._calls):
            block.position = {"text": self._chars, "calls": self._calls}
        return block

    def _hold(self, block: _Block, piece: Any, chars: int) -> None:
        block.held.append(piece)
        self._held_chars += chars

    def _thought(self, block: _Block, thought: dict[str, Any]) -> list[Event]:
        text, sealed = _string(thought.get("text")), _string(thought.get("redactedContent"))
        block.signature += _string(thought.get("signature"))
        if sealed:
            block.sealed.append(sealed)
            self._held_chars += len(sealed)
        if not text:
            return []
        self._hold(block, text, len(text))
        return [ThinkingDelta(text)]

    def _sealed(self, block: _Block) -> list[Event]:
        """What is not sealed cannot be put back either."""
        found: list[dict[str, Any]] = []
        if block.signature:
            found.append({"type": "reasoning.text", "text": "".join(block.held), "signature": block.signature})
        if block.sealed:
            found.append({"type": "reasoning.encrypted", "data": _joined(block.sealed)})
        about: dict[str, Any] = {"format": FORMAT, "model": self._model}
        if block.position is not None:
            about["position"] = block.position
        return [ReasoningDetail({**detail, **about}) for detail in found]

    def _citations(self, block: _Block) -> list[Event]:
        """With the part of the text that they are about: their block's, or that of the block before them, if theirs has none."""
        if self._chars > block.start:
            self._last_start = block.start
        return [_citation(found, self._last_start, self._chars) for found in block.citations]


def _citation(citation: dict[str, Any], start: int, end: int) -> Event:
    place = {"start_index": start, "end_index": end}
    web = (citation.get("location") or {}).get("web") or {}
    url = web.get("url") or citation.get("source")
    if isinstance(url, str) and url.startswith(("https://", "http://")):
        title = _string(citation.get("title")) or _string(web.get("domain"))
        return Annotation({"type": "url_citation", "url_citation": {"url": url, "title": title, **place}})
    return Extra("citations", {**citation, **place})


def _exception(frame: Message) -> UpstreamError:
    """A frame that is no event: an exception, or an error that AWS itself had."""
    headers = frame.headers
    kind = headers.get(":exception-type") or headers.get(":error-code")
    try:
        said = orjson.loads(frame.payload)
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        said = {"message": headers.get(":error-message")}
    return error_of(kind if isinstance(kind, str) else None, said, status=200)


def _too_large() -> StreamFailed:
    return StreamFailed(UpstreamError(ErrorClass.TOO_LARGE, "the blocks of the stream are too many or too large", status=200))


def _usage(found: dict[str, Any]) -> Usage | None:
    """None where a total makes no sense: then it is better counted than believed."""
    read = found.get("cacheReadInputTokens", found.get("cacheReadInputTokenCount", 0))
    written = found.get("cacheWriteInputTokens", found.get("cacheWriteInputTokenCount", 0))
    counts = [_count(value) for value in (found.get("inputTokens"), read or 0, written or 0, found.get("outputTokens"))]
    fresh, cached, kept, output = counts
    if fresh is None or cached is None or kept is None or output is None:
        return None
    return Usage(
        fresh + cached + kept,
        output,
        cached_input_tokens=cached,
        cache_write_tokens=kept,
        cache_write_1h_tokens=min(_for_an_hour(found.get("cacheDetails")), kept),
    )


def _for_an_hour(details: object) -> int:
    """How many of the written tokens are kept for an hour: they cost more. `[{ttl: "1h" or "5m", inputTokens}]`"""
    entries = details if isinstance(details, list) else []
    return sum([_count(e.get("inputTokens")) or 0 for e in entries if isinstance(e, dict) and e.get("ttl") == "1h"])


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


def _joined(pieces: list[str]) -> str:
    """Base64 that came in pieces, each of them whole in itself."""
    if len(pieces) == 1:
        return pieces[0]
    try:
        return base64.b64encode(b"".join([binascii.a2b_base64(piece) for piece in pieces])).decode()
    except (binascii.Error, ValueError):
        return "".join(pieces)


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return "{}"  # nested deeper than JSON can be written


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""
