"""Ollama's /api/chat: the answer, whole and streamed, and its errors. `request.py` is what is asked.

https://github.com/ollama/ollama/blob/main/docs/api.md#generate-a-chat-completion and https://docs.ollama.com/api/chat

    stream  = line* last        of JSON objects, one a line; no `data:`, no end mark but `done: true`
    line    = {model, created_at, message: {role, content, thinking?, tool_calls?}, logprobs?, done: false}
    last    = the same with done: true, done_reason, counts and durations
            | {error, status?}
    whole   = last, with all of the message

A call comes whole, its arguments an object; an id only from newer servers, and `function.index` may be missing or 0 for all. The reason
for the end is `stop` beside calls too, so `tool_calls` is told from their having come.

    done_reason   stop: stop, load, unload · length: length
    usage         prompt_eval_count (missing when all of the prompt was cached), eval_count,
                  prompt_eval_cached_count of newer servers, part of the first
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.events import (
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
from proxy.dialects.native import LineDecoder, NativeDialect, StreamDecoder
from proxy.dialects.ollama.request import encode
from proxy.dialects.openai_errors import decode_error, error_from_object
from proxy.dialects.openai_fields import made_call_id

MAX_TOKENS = 100_000_000  # of any one count: beyond it a figure is noise

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "load": "stop",  # of a request without messages: the model was only loaded
    "unload": "stop",
}
_TIMINGS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")  # nanoseconds

# what the text says more exactly than the status, which is 500 for most things
_BY_TEXT: tuple[tuple[re.Pattern[str], ErrorClass], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), error_class)
    for pattern, error_class in (
        (
            r"prompt too long|exceeded max context length|exceeds the (?:available )?context|input length exceeds",
            ErrorClass.CONTEXT_LENGTH,
        ),
        (r"server busy|maximum pending requests|loading model|is (?:still )?loading", ErrorClass.OVERLOADED),
        # other models hold it, and are unloaded in time
        (
            r"requires more (?:system |gpu )?memory|out of memory|insufficient (?:memory|vram)|resource limitations",
            ErrorClass.OVERLOADED,
        ),
        (r"does not support (?:tools|thinking|chat|images|vision|insert|completion)", ErrorClass.INVALID_REQUEST),
        # of the cloud's models: not for this account, whose key is good for others
        (r"requires a subscription", ErrorClass.MODEL_NOT_FOUND),
    )
)
_BY_STATUS: dict[int, ErrorClass] = {499: ErrorClass.RETRYABLE_4XX}  # "request canceled"


class OllamaChat(NativeDialect):
    """Implements `OutboundDialect`."""

    stream_type = b"application/x-ndjson"

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        return encode(request, target)

    def decode_response(self, answer: dict[str, Any], target: Target) -> list[Event]:
        if not isinstance(answer.get("message"), dict) and not answer.get("error"):
            raise UpstreamError(ErrorClass.EMPTY, "the answer has no message", status=200)
        # to the nanosecond when, and how long it took: no two answers have the same
        events = _Telling(f"{answer.get('created_at')} {answer.get('total_duration')}").line(answer)
        if isinstance(events[-1], StreamFailed):
            raise events[-1].error
        return events

    def decoder(self, request: ChatRequest, target: Target) -> StreamDecoder:
        return OllamaDecoder(request.id)

    def decode_error(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> UpstreamError:
        try:
            parsed = orjson.loads(body)
        except orjson.JSONDecodeError:
            parsed = None
        if isinstance(parsed, dict) and status >= 400:
            return _error(parsed, status)
        return decode_error(status, body)


class OllamaDecoder(LineDecoder):
    def __init__(self, seed: str) -> None:
        super().__init__()
        self._told = _Telling(seed)

    def _decode(self, line: dict[str, Any]) -> list[Event]:
        events = self._told.line(line)
        self.done = line.get("done") is True
        return events


class _Telling:
    """One answer on its way into events, a line at a time."""

    __slots__ = ("_calls", "_seed", "_started")

    def __init__(self, seed: str) -> None:
        self._seed = seed  # of ids for calls that have none
        self._started = False
        self._calls = 0

    def line(self, line: dict[str, Any]) -> list[Event]:
        if line.get("error"):
            return [StreamFailed(_error(line, None))]
        events: list[Event] = []
        if not self._started:
            self._started = True
            model = line.get("model")
            events.append(Started(model if isinstance(model, str) and model else None))
        message = line.get("message") or {}
        thought = message.get("thinking")
        if thought and isinstance(thought, str):
            events.append(ThinkingDelta(thought))
        text = message.get("content")
        if text and isinstance(text, str):
            events.append(TextDelta(text))
        calls = message.get("tool_calls")
        if calls:
            for call in calls:
                events += self._call(call)
        logprobs = line.get("logprobs")
        if logprobs:
            found = [_logprob(item) for item in logprobs if _is_token(item)]
            events += [LogprobsDelta(found)] if found else []
        if line.get("done") is True:
            events += self._end(line)
        return events

    def _call(self, call: dict[str, Any]) -> list[Event]:
        function = call["function"]
        name, id_, arguments = function["name"], call.get("id"), function.get("arguments")
        name = name if isinstance(name, str) else ""
        index = self._calls
        self._calls += 1
        if not isinstance(id_, str) or not id_:
            id_ = made_call_id(self._seed, index, name)
        events: list[Event] = [ToolCallStarted(index, id_, name)]
        if arguments is not None and arguments != "":
            text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
            events.append(ToolArgsDelta(index, text))
        events.append(ToolCallEnded(index))
        return events

    def _end(self, last: dict[str, Any]) -> list[Event]:
        events: list[Event] = []
        usage = _usage(last)
        if usage is not None:
            events.append(UsageReported(usage))
        timings = {name: last[name] for name in _TIMINGS if name in last}
        if timings:
            events.append(Extra("timings", timings))
        native = last.get("done_reason")
        reason = _REASONS.get(native, "stop") if isinstance(native, str) else "stop"
        if reason == "stop" and self._calls:
            reason = "tool_calls"
        events.append(Finished(reason, native if isinstance(native, str) else None))
        return events


def _logprob(item: dict[str, Any]) -> dict[str, Any]:
    """As OpenAI has it, which is nearly how Ollama does."""
    alternatives = item.get("top_logprobs") or []
    return {**_token(item), "top_logprobs": [_token(other) for other in alternatives if _is_token(other)]}


def _token(item: dict[str, Any]) -> dict[str, Any]:
    return {"token": item["token"], "logprob": item["logprob"], "bytes": item.get("bytes") or list(item["token"].encode())}


def _is_token(item: object) -> bool:
    return isinstance(item, dict) and isinstance(item.get("token"), str) and isinstance(item.get("logprob"), int | float)


def _usage(last: dict[str, Any]) -> Usage | None:
    """None where nothing was counted, or a count makes no sense."""
    if "prompt_eval_count" not in last and "eval_count" not in last:
        return None
    read, written = _count(last.get("prompt_eval_count")), _count(last.get("eval_count"))
    if read is None or written is None:
        return None
    return Usage(read, written, cached_input_tokens=min(_count(last.get("prompt_eval_cached_count")) or 0, read))


def _count(value: object) -> int | None:
    if value is None:
        return 0
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS else None


def _error(said: dict[str, Any], status: int | None) -> UpstreamError:
    """`{"error": text}`; in a stream a `status` may stand beside it."""
    error = error_from_object(said, status=status)
    if error.error_class is ErrorClass.RATE_LIMITED:
        return error
    by_text = next((error_class for pattern, error_class in _BY_TEXT if pattern.search(error.message[:2000])), None)
    error.error_class = by_text or _BY_STATUS.get(error.status or 0, error.error_class)
    return error
