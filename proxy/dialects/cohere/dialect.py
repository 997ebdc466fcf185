"""Cohere v2 chat: the answer, whole and streamed, and its errors. `request.py` is what is asked.

https://docs.cohere.com/v2/reference/chat and …/chat-stream

    stream  = message-start  block*  message-end  [DONE]
    block   = content-start content-delta* content-end                of type text or thinking
            | tool-plan-delta
            | tool-call-start tool-call-delta* tool-call-end          one after the other
            | citation-start citation-end                             as soon as the cited text is there

The type is in the data (`event:` repeats it). In events `message.tool_calls`, `content` and `citations` are one object each, in a whole
answer lists. Usage and the reason for the end are in message-end alone. A call without arguments has no delta, or the text `null`.

    finish_reason  stop: COMPLETE, STOP_SEQUENCE · length: MAX_TOKENS · tool_calls: TOOL_CALL · a failure: ERROR, TIMEOUT
    usage          tokens.input_tokens, tokens.output_tokens (template included; billed_units where they are missing),
                   cached_tokens (part of the input, but beside `tokens`), tokens.reasoning_tokens (part of the output)
    what it costs  billed_units.input_tokens, billed_units.output_tokens: without the template, but with the tokens of images,
                   which `tokens` counts apart from the input (image_tokens)

`tool_plan` is the text that a model says beside its calls, so it is told as text, which an OpenAI client sends back beside the calls,
and so it gets back into `tool_plan`. Thoughts are not sealed: as readable text they come and go. Citations have offsets into their
block of text; those that name a URL are told as annotations too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.events import (
    Annotation,
    Event,
    Extra,
    Finished,
    FinishReason,
    LogprobsDelta,
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
from proxy.dialects.base import OutboundRequest
from proxy.dialects.cohere.request import encode
from proxy.dialects.native import NativeDialect, SseDecoder, StreamDecoder
from proxy.dialects.openai_errors import decode_error, error_from_object
from proxy.dialects.openai_fields import made_call_id

MAX_TOKENS = 100_000_000  # of any one count: beyond it a figure is noise

_REASONS: dict[str, FinishReason] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",  # this one and the next are v1's
    "ERROR_LIMIT": "length",
}
_FAILURES = frozenset(("ERROR", "TIMEOUT"))

# what only Cohere says, or says otherwise than others: its own word for the kind, then the status, then the text
_BY_ERROR_TYPE: dict[str, ErrorClass] = {
    "INVALID_TOOL_GENERATION": ErrorClass.MODEL_FAULT,  # in a stream, and as a 422
    "TOO_MANY_TOKENS": ErrorClass.CONTEXT_LENGTH,
}
_BY_STATUS: dict[int, ErrorClass] = {
    498: ErrorClass.CONTENT_POLICY,  # the request or the answer has a token that is on the deny list
    499: ErrorClass.RETRYABLE_4XX,  # "request cancelled", also a stream that broke
}
_BY_TEXT: tuple[tuple[re.Pattern[str], ErrorClass], ...] = (
    # about the field, not about the prompt
    (re.compile(r"too many tokens: max tokens must", re.IGNORECASE), ErrorClass.INVALID_REQUEST),
    (
        re.compile(r"(?:invalid request: )?model .{1,200} is not supported by the \w+ API", re.IGNORECASE),
        ErrorClass.MODEL_NOT_FOUND,
    ),
    # of a trial key: over until next month, not until next minute
    (re.compile(r"you are using a trial key.{0,200}/ ?month", re.IGNORECASE), ErrorClass.INSUFFICIENT_QUOTA),
)


class CohereChat(NativeDialect):
    """Implements `OutboundDialect`."""

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        return encode(request, target)

    def decode_response(self, answer: dict[str, Any], target: Target) -> list[Event]:
        message = answer.get("message")
        if not isinstance(message, dict):
            if isinstance(message, str) or answer.get("error"):
                raise _error(answer, None)
            raise UpstreamError(ErrorClass.EMPTY, "the answer has no message", status=200)
        told = _Telling(str(answer.get("id")))
        events: list[Event] = [Started(), *told.whole(message)]
        for item in answer.get("logprobs") or []:
            events += _logprobs(item)
        events += told.end(answer)
        if isinstance(events[-1], StreamFailed):
            raise events[-1].error
        return events

    def decoder(self, request: ChatRequest, target: Target) -> StreamDecoder:
        return CohereDecoder(request.id)

    def decode_error(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> UpstreamError:
        try:
            parsed = orjson.loads(body)
        except orjson.JSONDecodeError:
            parsed = None
        if isinstance(parsed, dict) and status >= 400:
            return _error(parsed, status)
        error = decode_error(status, body)
        error.error_class = _BY_STATUS.get(status, error.error_class)
        return error


class CohereDecoder(SseDecoder):
    def __init__(self, seed: str) -> None:
        super().__init__()
        self._told = _Telling(seed)

    def _decode(self, event: dict[str, Any]) -> list[Event]:
        told = self._told
        kind = event.get("type")
        if kind == "content-delta":
            content = event["delta"]["message"]["content"]
            events = told.piece(content)
            return events + _logprobs(event["logprobs"]) if event.get("logprobs") else events
        message = (event.get("delta") or {}).get("message") or {}
        match kind:
            case "message-start":
                return [Started()]
            case "content-start":
                return told.block(event.get("index"), message.get("content") or {})
            case "tool-plan-delta":
                return told.text(message.get("tool_plan"))
            case "tool-call-start":
                return told.call(message.get("tool_calls") or {}, event.get("index"))
            case "tool-call-delta":
                function = (message.get("tool_calls") or {}).get("function") or {}
                return told.arguments(event.get("index"), function.get("arguments"))
            case "tool-call-end":
                return told.end_call(event.get("index"))
            case "citation-start":
                return told.citation(message.get("citations"))
            case "message-end":
                events = told.end(event.get("delta") or {})
                self.done = True
                return events
            case None if isinstance(event.get("message"), str):
                return [StreamFailed(_error(event, None))]
            case _:
                return []  # content-end, citation-end, debug, and whatever comes yet


class _Telling:
    """One answer on its way into events. `_chars` of text have been told, `_starts` says where among them each block began."""

    __slots__ = ("_calls", "_chars", "_count", "_seed", "_starts")

    def __init__(self, seed: str) -> None:
        self._seed = seed  # of ids for calls that have none
        self._chars = 0
        self._starts: dict[int, int] = {}
        self._count = 0  # of tool calls
        self._calls: dict[Any, _Call] = {}  # those that are open, by the index of their events

    def whole(self, message: dict[str, Any]) -> list[Event]:
        content = message.get("content")
        events: list[Event] = []
        for number, block in enumerate([{"text": content}] if isinstance(content, str) else content or []):
            events += self.block(number, block)
        events += self.text(message.get("tool_plan"))
        for number, call in enumerate(message.get("tool_calls") or []):
            events += self.call(call, number)
            events += self.end_call(number)
        for citation in message.get("citations") or []:
            events += self.citation(citation)
        return events

    def block(self, index: Any, block: dict[str, Any]) -> list[Event]:
        """A block of content begins, in a whole answer with all that is in it."""
        if isinstance(index, int):
            self._starts[index] = self._chars
        return self.piece(block) if block.get("type", "text") in ("text", "thinking") else [Extra("content", block)]

    def piece(self, content: dict[str, Any]) -> list[Event]:
        text = content.get("text")
        if text:
            return self.text(text)
        thought = content.get("thinking")
        if not thought or not isinstance(thought, str):
            return []
        return [ThinkingDelta(thought)]

    def text(self, text: Any) -> list[Event]:
        if not text or not isinstance(text, str):
            return []
        self._chars += len(text)
        return [TextDelta(text)]

    def call(self, call: dict[str, Any], index: Any) -> list[Event]:
        events = self.end_call(index)
        function = call.get("function") or {}
        name, id_ = function.get("name"), call.get("id")
        name = name if isinstance(name, str) else ""
        position = self._count
        self._count += 1
        self._calls[index] = _Call(position)
        events.append(
            ToolCallStarted(position, id_ if isinstance(id_, str) and id_ else made_call_id(self._seed, position, name), name)
        )
        return events + self.arguments(index, function.get("arguments"))

    def arguments(self, index: Any, arguments: Any) -> list[Event]:
        call = self._calls.get(index)
        if call is None or arguments is None:
            return []
        text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
        told = call.feed(text)
        return [ToolArgsDelta(call.position, told)] if told else []

    def end_call(self, index: Any) -> list[Event]:
        call = self._calls.pop(index, None)
        return [ToolCallEnded(call.position)] if call is not None else []

    def citation(self, citation: Any) -> list[Event]:
        if not isinstance(citation, dict):
            return []
        events: list[Event] = []
        start, end = citation.get("start"), citation.get("end")
        block = citation.get("content_index")
        if citation.get("type", "TEXT_CONTENT") == "TEXT_CONTENT" and isinstance(start, int) and isinstance(end, int):
            offset = self._starts.get(block, 0) if isinstance(block, int) else 0
            for source in citation.get("sources") or []:
                document = source.get("document") or {}
                url = document.get("url") if isinstance(document, dict) else None
                if isinstance(url, str) and url.startswith(("https://", "http://")):
                    title = document.get("title")
                    place = {"start_index": start + offset, "end_index": end + offset}
                    found = {"url": url, "title": title if isinstance(title, str) else url, **place}
                    events.append(Annotation({"type": "url_citation", "url_citation": found}))
        return [*events, Extra("citations", citation)]

    def end(self, said: dict[str, Any]) -> list[Event]:
        """`said` has the reason for the end, the usage and perhaps an error: message-end's delta, or the whole answer."""
        events = [event for index in list(self._calls) for event in self.end_call(index)]
        usage = said.get("usage")
        if isinstance(usage, dict) and usage:
            read = _usage(usage)
            events += [UsageReported(read)] if read is not None else []
            events.append(Extra("usage", usage))  # it has what is billed, which OpenAI's has no field for
        native = said.get("finish_reason")
        if native in _FAILURES:
            message = said.get("error") or f"the answer ended with {native}"
            return [*events, StreamFailed(_error({"message": message, "error_type": said.get("error_type")}, None))]
        if not isinstance(native, str):
            return events
        reason = _REASONS.get(native, "stop")
        if reason == "stop" and self._count:
            reason = "tool_calls"
        return [*events, Finished(reason, native)]


class _Call:
    """An open call. The text `null` is no arguments: what may yet become it is held back."""

    __slots__ = ("_held", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self._held: str | None = ""

    def feed(self, text: str) -> str:
        if self._held is None:
            return text
        self._held += text
        if "null".startswith(self._held.strip()):
            return ""
        text, self._held = self._held, None
        return text


def _usage(usage: dict[str, Any]) -> Usage | None:
    """None where a total makes no sense. A part is no larger than its whole."""
    tokens, billed = usage.get("tokens"), _totals(usage.get("billed_units"))
    totals = _totals(tokens) if tokens else billed
    if totals is None:
        return None
    read, written = totals
    return Usage(
        read,
        written,
        cached_input_tokens=min(_count(usage.get("cached_tokens")) or 0, read),
        reasoning_tokens=min(_count(tokens.get("reasoning_tokens")) or 0, written) if tokens else 0,
        billed=Usage(*billed) if tokens and billed and any(billed) else None,  # a bill of nothing for something is no bill
    )


def _totals(counts: Any) -> tuple[int, int] | None:
    if not isinstance(counts, dict) or not ("input_tokens" in counts or "output_tokens" in counts):
        return None
    read, written = _count(counts.get("input_tokens", 0)), _count(counts.get("output_tokens", 0))
    return (read, written) if read is not None and written is not None else None


def _count(value: object) -> int | None:
    """The SDK has these as floats."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS else None


def _logprobs(item: Any) -> list[Event]:
    """A piece of text with the log probability of each of its tokens; OpenAI has one for a piece, which is their sum."""
    text, values = (item.get("text"), item.get("logprobs")) if isinstance(item, dict) else (None, None)
    if not isinstance(text, str) or not isinstance(values, list) or not values:
        return []
    if not all(isinstance(value, int | float) for value in values):
        return []
    return [LogprobsDelta([{"token": text, "logprob": float(sum(values)), "bytes": list(text.encode()), "top_logprobs": []}])]


def _error(said: dict[str, Any], status: int | None) -> UpstreamError:
    """`{"message", "error_type"}`, of a body, of an event, of a message-end."""
    error = error_from_object(said, status=status)
    kind = said.get("error_type")
    by_text = next((error_class for pattern, error_class in _BY_TEXT if pattern.match(error.message[:2000])), None)
    by_type = _BY_ERROR_TYPE.get(kind) if isinstance(kind, str) else None
    by_status = _BY_STATUS.get(status) if status is not None else None
    error.error_class = by_text or by_type or by_status or error.error_class
    if error.code is None and isinstance(kind, str):
        error.code = kind.lower()
    return error
