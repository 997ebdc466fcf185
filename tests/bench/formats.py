"""The wire formats that are not OpenAI's, as their providers write them: every event of an answer as bytes, made once.

    anthropic   POST /v1/messages                                       server-sent events
    gemini      POST /v1beta/models/M:streamGenerateContent?alt=sse     server-sent events with CRLF; whole: …:generateContent
    cohere      POST /v2/chat                                           server-sent events
    ollama      POST /api/chat                                          a JSON object a line
    bedrock     POST /model/M/converse-stream                           frames of AWS's event stream; whole: …/converse

The events are what the services send, padding, timestamps and counts included, with one short word in each. Vertex AI has no format of
its own: its models speak those of Gemini and Anthropic.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import orjson

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Script:
    """The events of a stream: what comes before the first word, one for each word, what comes after the last."""

    before: list[bytes]
    words: list[bytes]
    after: list[bytes]


@dataclass(frozen=True, slots=True)
class Format:
    """`path`: group `model` is there if the path names it; `stream` is there and not empty if the path asks for a stream."""

    name: str
    path: re.Pattern[bytes]
    stream_type: bytes
    stream: Callable[[int, int], Script]  # (words, input tokens): each word is a token
    whole: Callable[[str, int, int], dict[str, Any]]  # (text, input tokens, output tokens)


def _padding(number: int) -> int:
    """How long the padding of an event is: looks random, and is the same each time."""
    return number * 7919 % 61


# -- Anthropic

_CLAUDE = {"model": "claude-sonnet-4-5-20250929", "id": "msg_014benchmark000000000001", "type": "message", "role": "assistant"}


def _anthropic_stream(words: int, input_tokens: int) -> Script:
    start: dict[str, Any] = {
        **_CLAUDE,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _anthropic_usage(input_tokens, 1),
    }
    counts = {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": words,
    }
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    word = {"index": 0, "delta": {"type": "text_delta", "text": " word"}}
    return Script(
        before=[
            _anthropic_event("message_start", {"message": start}),
            _anthropic_event("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
            b'event: ping\ndata: {"type": "ping"}\n\n',
        ],
        words=[_anthropic_event("content_block_delta", word, spaces=_padding(number) // 4) for number in range(words)],
        after=[
            _anthropic_event("content_block_stop", {"index": 0}),
            _anthropic_event("message_delta", {"delta": ended, "usage": counts}),
            _anthropic_event("message_stop", {}),
        ],
    )


def _anthropic_event(kind: str, said: dict[str, Any], *, spaces: int = 4) -> bytes:
    """With blanks before the last brace, as the service pads its events."""
    data = orjson.dumps({"type": kind, **said})
    return b"event: %b\ndata: %b%b}\n\n" % (kind.encode(), data[:-1], b" " * spaces)


def _anthropic_usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }


def _anthropic_whole(text: str, input_tokens: int, output_tokens: int) -> dict[str, Any]:
    content = [{"type": "text", "text": text}]
    usage = _anthropic_usage(input_tokens, output_tokens)
    return {**_CLAUDE, "content": content, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage}


# -- Gemini


def _gemini_stream(words: int, input_tokens: int) -> Script:
    """Nothing but answers; each tells the usage so far."""
    events = [_gemini_event(_gemini_answer(" word", input_tokens, number + 1)) for number in range(words)]
    return Script(before=[], words=events, after=[_gemini_event(_gemini_whole("", input_tokens, words))])


def _gemini_event(answer: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(answer) + b"\r\n\r\n"


def _gemini_answer(text: str, input_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}],
        "usageMetadata": {
            "promptTokenCount": input_tokens,
            "candidatesTokenCount": output_tokens,
            "totalTokenCount": input_tokens + output_tokens,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": input_tokens}],
        },
        "modelVersion": "gemini-2.5-flash",
        "responseId": "M1GDaNrGOJ7NkdUPbenchmk",
    }


def _gemini_whole(text: str, input_tokens: int, output_tokens: int) -> dict[str, Any]:
    answer = _gemini_answer(text, input_tokens, output_tokens)
    answer["candidates"][0]["finishReason"] = "STOP"
    return answer


# -- Cohere

_COHERE_ID = "6cd6ce61-bb3b-46f6-907e-000000000001"


def _cohere_stream(words: int, input_tokens: int) -> Script:
    message = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    block = {"message": {"content": {"type": "text", "text": ""}}}
    word = _cohere_event("content-delta", {"index": 0, "delta": {"message": {"content": {"text": " word"}}}})
    return Script(
        before=[
            _cohere_event("message-start", {"id": _COHERE_ID, "delta": {"message": message}}),
            _cohere_event("content-start", {"index": 0, "delta": block}),
        ],
        words=[word] * words,
        after=[
            _cohere_event("content-end", {"index": 0}),
            _cohere_event("message-end", {"delta": _cohere_end(input_tokens, words)}),
            _DONE,
        ],
    )


def _cohere_event(kind: str, said: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **said}))


def _cohere_end(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    tokens = {"input_tokens": input_tokens, "output_tokens": output_tokens}
    billed = {"input_tokens": input_tokens - 62, "output_tokens": output_tokens}  # without the template
    return {"finish_reason": "COMPLETE", "usage": {"billed_units": billed, "tokens": tokens, "cached_tokens": 0}}


def _cohere_whole(text: str, input_tokens: int, output_tokens: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": [{"type": "text", "text": text}]}
    return {"id": _COHERE_ID, "message": message, **_cohere_end(input_tokens, output_tokens)}


# -- Ollama


def _ollama_stream(words: int, input_tokens: int) -> Script:
    lines = [_ollama_line({**_ollama_said(" word", number), "done": False}) for number in range(words)]
    last = {**_ollama_said("", words), **_ollama_end(input_tokens, words)}
    return Script(before=[], words=lines, after=[_ollama_line(last)])


def _ollama_line(said: dict[str, Any]) -> bytes:
    return orjson.dumps(said) + b"\n"


def _ollama_said(text: str, number: int) -> dict[str, Any]:
    """A word each 5 ms."""
    when = f"2026-08-20T13:{47 + number // 12_000}:{number // 200 % 60:02}.{number * 5 % 1_000:03}{_padding(number):03}Z"
    return {"model": "gemma3:1b", "created_at": when, "message": {"role": "assistant", "content": text}}


def _ollama_end(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "done_reason": "stop",
        "done": True,
        "total_duration": 572_052_292,
        "load_duration": 34_791_000,
        "prompt_eval_count": input_tokens,
        "prompt_eval_duration": 18_138_958,
        "eval_count": output_tokens,
        "eval_duration": 518_871_583,
    }


def _ollama_whole(text: str, input_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {**_ollama_said(text, 0), **_ollama_end(input_tokens, output_tokens)}


# -- Amazon Bedrock


def _bedrock_stream(words: int, input_tokens: int) -> Script:
    word = {"contentBlockIndex": 0, "delta": {"text": " word"}}
    usage = {"usage": _bedrock_usage(input_tokens, words), "metrics": {"latencyMs": 1289}}
    return Script(
        before=[_bedrock_event("messageStart", {"role": "assistant"}, 22)],
        words=[_bedrock_event("contentBlockDelta", word, number) for number in range(words)],
        after=[
            _bedrock_event("contentBlockStop", {"contentBlockIndex": 0}, 14),
            _bedrock_event("messageStop", {"stopReason": "end_turn"}, 36),
            _bedrock_event("metadata", usage, 40),
        ],
    )


def _bedrock_event(kind: str, said: dict[str, Any], number: int) -> bytes:
    """A frame with padding under `p`, as the service pads its events."""
    head = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return frame(head, orjson.dumps({**said, "p": _LETTERS[: 1 + _padding(number)]}))


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """https://smithy.io/2.0/aws/amazon-eventstream.html; 7 is the type of a string."""
    head = b"".join(
        bytes((len(name),)) + name.encode() + b"\x07" + len(value).to_bytes(2, "big") + value.encode()
        for name, value in headers.items()
    )
    prelude = (12 + len(head) + len(payload) + 4).to_bytes(4, "big") + len(head).to_bytes(4, "big")
    message = prelude + crc32(prelude).to_bytes(4, "big") + head + payload
    return message + crc32(message).to_bytes(4, "big")


def _bedrock_usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    total = input_tokens + output_tokens
    return {"inputTokens": input_tokens, "outputTokens": output_tokens, "serverToolUsage": {}, "totalTokens": total}


def _bedrock_whole(text: str, input_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "metrics": {"latencyMs": 1289},
        "output": {"message": {"content": [{"text": text}], "role": "assistant"}},
        "stopReason": "end_turn",
        "usage": _bedrock_usage(input_tokens, output_tokens),
    }


# -- all of them

_EVENTS = b"text/event-stream; charset=utf-8"
FORMATS = {
    found.name: found
    for found in (
        Format("anthropic", re.compile(rb"/v1/messages"), _EVENTS, _anthropic_stream, _anthropic_whole),
        Format(
            "gemini",
            re.compile(rb"/v1beta/models/(?P<model>[^:/]+):(?:generateContent|(?P<stream>streamGenerateContent)\?alt=sse)"),
            b"text/event-stream",
            _gemini_stream,
            _gemini_whole,
        ),
        Format("cohere", re.compile(rb"/v2/chat"), b"text/event-stream", _cohere_stream, _cohere_whole),
        Format("ollama", re.compile(rb"/api/chat"), b"application/x-ndjson", _ollama_stream, _ollama_whole),
        Format(
            "bedrock",
            re.compile(rb"/model/(?P<model>[^/]+)/converse(?P<stream>-stream)?"),
            b"application/vnd.amazon.eventstream",
            _bedrock_stream,
            _bedrock_whole,
        ),
    )
}
