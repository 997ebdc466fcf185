"""Requests read and answers written as each dialect's provider would: what a simulated upstream needs of them, and no more.

OpenAI      https://platform.openai.com/docs/api-reference/chat
Anthropic   https://docs.anthropic.com/en/api/messages-streaming
Gemini      https://ai.google.dev/api/generate-content
Cohere      https://docs.cohere.com/v2/reference/chat-stream
Ollama      https://github.com/ollama/ollama/blob/main/docs/api.md
Bedrock     https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote
from zlib import crc32

import orjson

_JSON = ((b"content-type", b"application/json"),)
_SSE = ((b"content-type", b"text/event-stream"),)
_NDJSON = ((b"content-type", b"application/x-ndjson"),)
_EVENTS = ((b"content-type", b"application/vnd.amazon.eventstream"),)
_MODEL = re.compile(r"/(?:models?|deployments)/([^/:?]+(?:%3A[^/?]+)?)")
_LIMITS = ("max_completion_tokens", "max_tokens")
_NESTED_LIMITS = (("generationConfig", "maxOutputTokens"), ("inferenceConfig", "maxTokens"), ("options", "num_predict"))

HeaderTuple = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a request decides on its answer. `form`: the dialect, or the one that a model of Vertex AI is asked in."""

    form: str
    model: str
    stream: bool
    wants_usage: bool
    max_tokens: int | None


@dataclass(frozen=True, slots=True)
class Answer:
    """`texts`: the answer, in the pieces that it streams in. `cut_off`: it ends at the limit that was asked for."""

    id: str
    model: str
    created: int
    texts: Sequence[str]
    input_tokens: int
    output_tokens: int
    cut_off: bool = False
    usage: bool = True

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def total(self) -> int:
        return self.input_tokens + self.output_tokens

    def ended(self, words: tuple[str, str]) -> str:
        """The finish reason, of that for a whole answer and that for one that was cut off."""
        return words[self.cut_off]


def read_request(dialect: str, path: str, body: bytes) -> Asked:
    fields: dict[str, Any] = orjson.loads(body)
    found = _MODEL.search(path)
    model = unquote(found[1]) if found else str(fields.get("model", ""))
    options = fields.get("stream_options")
    limits = [fields.get(name) for name in _LIMITS]
    limits += [part.get(name) for section, name in _NESTED_LIMITS if isinstance(part := fields.get(section), dict)]
    return Asked(
        form=_form(dialect, path),
        model=model,
        stream=fields.get("stream") is True or "stream" in path.rpartition("/")[2],
        wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
        max_tokens=next((limit for limit in limits if isinstance(limit, int)), None),
    )


def whole(form: str, answer: Answer) -> bytes:
    """The body of an answer that is not streamed."""
    return orjson.dumps(_FORMS[form].whole(answer))


def streamed(form: str, answer: Answer) -> list[bytes]:
    """One piece for each text, the first with what comes before it; and one for the end."""
    return _FORMS[form].streamed(answer)


def error(form: str, status: int, code: str) -> bytes:
    """The body of an answer that is an error."""
    return orjson.dumps(_FORMS[form].error(status, code, f"simulated: {code}"))


def headers(form: str, *, stream: bool) -> HeaderTuple:
    return _FORMS[form].stream_headers if stream else _JSON


@dataclass(frozen=True, slots=True)
class _Form:
    whole: Callable[[Answer], Mapping[str, Any]]
    streamed: Callable[[Answer], list[bytes]]
    error: Callable[[int, str, str], Mapping[str, Any]]
    stream_headers: HeaderTuple = _SSE


def _form(dialect: str, path: str) -> str:
    match dialect:
        case "azure":
            return "openai"
        case "vertex":
            return "anthropic" if "/publishers/anthropic/" in path else "gemini"
        case _:
            return dialect


def _sse(event: Mapping[str, Any], name: str | None = None) -> bytes:
    head = b"" if name is None else b"event: %b\n" % name.encode()
    return head + b"data: " + orjson.dumps(event) + b"\n\n"


# -- OpenAI

_OPENAI_ENDS = ("stop", "length")


def _openai_usage(answer: Answer) -> dict[str, int]:
    return {"prompt_tokens": answer.input_tokens, "completion_tokens": answer.output_tokens, "total_tokens": answer.total}


def _openai_whole(answer: Answer) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text}
    choice = {"index": 0, "message": message, "finish_reason": answer.ended(_OPENAI_ENDS)}
    common = {"id": answer.id, "object": "chat.completion", "created": answer.created, "model": answer.model}
    return {**common, "choices": [choice], **({"usage": _openai_usage(answer)} if answer.usage else {})}


def _openai_streamed(answer: Answer) -> list[bytes]:
    common = {"id": answer.id, "object": "chat.completion.chunk", "created": answer.created, "model": answer.model}

    def chunk(delta: dict[str, Any], end: str | None = None) -> bytes:
        return _sse({**common, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]})

    pieces = [chunk({"content": text}) for text in answer.texts]
    pieces[0] = chunk({"role": "assistant", "content": ""}) + pieces[0]
    usage = _sse({**common, "choices": [], "usage": _openai_usage(answer)}) if answer.usage else b""
    return [*pieces, chunk({}, answer.ended(_OPENAI_ENDS)) + usage + b"data: [DONE]\n\n"]


def _openai_error(status: int, code: str, message: str) -> dict[str, Any]:
    kind = "server_error" if status >= 500 else "insufficient_quota" if code == "insufficient_quota" else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


# -- Anthropic

_ANTHROPIC_ENDS = ("end_turn", "max_tokens")
_ANTHROPIC_ERRORS = {
    "invalid_api_key": "authentication_error",
    "permission_denied": "permission_error",
    "model_not_found": "not_found_error",
    "rate_limit_exceeded": "rate_limit_error",
    "insufficient_quota": "billing_error",
    "server_error": "api_error",
}


def _anthropic_whole(answer: Answer) -> dict[str, Any]:
    return {
        "id": answer.id,
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [{"type": "text", "text": answer.text}],
        "stop_reason": answer.ended(_ANTHROPIC_ENDS),
        "stop_sequence": None,
        "usage": {"input_tokens": answer.input_tokens, "output_tokens": answer.output_tokens},
    }


def _anthropic_streamed(answer: Answer) -> list[bytes]:
    def event(kind: str, **fields: Any) -> bytes:
        return _sse({"type": kind, **fields}, kind)

    message = {**_anthropic_whole(answer), "content": [], "stop_reason": None}
    message["usage"] = {"input_tokens": answer.input_tokens, "output_tokens": 1}
    pieces = [event("content_block_delta", index=0, delta={"type": "text_delta", "text": text}) for text in answer.texts]
    opened = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    pieces[0] = event("message_start", message=message) + opened + pieces[0]
    delta = {"stop_reason": answer.ended(_ANTHROPIC_ENDS), "stop_sequence": None}
    ended = event("message_delta", delta=delta, usage={"output_tokens": answer.output_tokens})
    return [*pieces, event("content_block_stop", index=0) + ended + event("message_stop")]


def _anthropic_error(status: int, code: str, message: str) -> dict[str, Any]:
    kind = "overloaded_error" if status == 529 else _ANTHROPIC_ERRORS.get(code, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


# -- Gemini

_GEMINI_ENDS = ("STOP", "MAX_TOKENS")
_GEMINI_STATES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


def _gemini_part(answer: Answer, text: str, end: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    if end is not None:
        candidate["finishReason"] = end
    usage = {
        "promptTokenCount": answer.input_tokens,
        "candidatesTokenCount": answer.output_tokens,
        "totalTokenCount": answer.total,
    }
    counted = {"usageMetadata": usage} if end is not None else {}
    return {"candidates": [candidate], **counted, "modelVersion": answer.model, "responseId": answer.id}


def _gemini_whole(answer: Answer) -> dict[str, Any]:
    return _gemini_part(answer, answer.text, answer.ended(_GEMINI_ENDS))


def _gemini_streamed(answer: Answer) -> list[bytes]:
    pieces = [_sse(_gemini_part(answer, text, None)) for text in answer.texts]
    return [*pieces, _sse(_gemini_part(answer, "", answer.ended(_GEMINI_ENDS)))]


def _gemini_error(status: int, code: str, message: str) -> dict[str, Any]:
    state = _GEMINI_STATES.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
    return {"error": {"code": status, "message": message, "status": state}}


# -- Cohere

_COHERE_ENDS = ("COMPLETE", "MAX_TOKENS")


def _cohere_usage(answer: Answer) -> dict[str, Any]:
    tokens = {"input_tokens": answer.input_tokens, "output_tokens": answer.output_tokens}
    return {"billed_units": tokens, "tokens": tokens}


def _cohere_whole(answer: Answer) -> dict[str, Any]:
    return {
        "id": answer.id,
        "finish_reason": answer.ended(_COHERE_ENDS),
        "message": {"role": "assistant", "content": [{"type": "text", "text": answer.text}]},
        "usage": _cohere_usage(answer),
    }


def _cohere_streamed(answer: Answer) -> list[bytes]:
    def event(kind: str, **fields: Any) -> bytes:
        return _sse({"type": kind, **fields}, kind)

    def delta(kind: str, content: dict[str, str]) -> bytes:
        return event(kind, index=0, delta={"message": {"content": content}})

    pieces = [delta("content-delta", {"text": text}) for text in answer.texts]
    started = {"message": {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}}
    opened = delta("content-start", {"type": "text", "text": ""})
    pieces[0] = event("message-start", id=answer.id, delta=started) + opened + pieces[0]
    ended = {"finish_reason": answer.ended(_COHERE_ENDS), "usage": _cohere_usage(answer)}
    return [*pieces, event("content-end", index=0) + event("message-end", id=answer.id, delta=ended)]


def _cohere_error(status: int, code: str, message: str) -> dict[str, Any]:
    return {"message": message}


# -- Ollama

_OLLAMA_ENDS = ("stop", "length")


def _ollama_part(answer: Answer, text: str, end: str | None) -> dict[str, Any]:
    part: dict[str, Any] = {
        "model": answer.model,
        "created_at": "2027-01-01T00:00:00Z",
        "message": {"role": "assistant", "content": text},
        "done": end is not None,
    }
    if end is not None:
        part |= {"done_reason": end, "prompt_eval_count": answer.input_tokens, "eval_count": answer.output_tokens}
    return part


def _ollama_whole(answer: Answer) -> dict[str, Any]:
    return _ollama_part(answer, answer.text, answer.ended(_OLLAMA_ENDS))


def _ollama_streamed(answer: Answer) -> list[bytes]:
    parts = [_ollama_part(answer, text, None) for text in answer.texts]
    return [orjson.dumps(part) + b"\n" for part in (*parts, _ollama_part(answer, "", answer.ended(_OLLAMA_ENDS)))]


def _ollama_error(status: int, code: str, message: str) -> dict[str, Any]:
    return {"error": message}


# -- Bedrock

_BEDROCK_ENDS = ("end_turn", "max_tokens")


def _bedrock_usage(answer: Answer) -> dict[str, int]:
    return {"inputTokens": answer.input_tokens, "outputTokens": answer.output_tokens, "totalTokens": answer.total}


def _bedrock_whole(answer: Answer) -> dict[str, Any]:
    return {
        "output": {"message": {"role": "assistant", "content": [{"text": answer.text}]}},
        "stopReason": answer.ended(_BEDROCK_ENDS),
        "usage": _bedrock_usage(answer),
        "metrics": {"latencyMs": 1},
    }


def _bedrock_streamed(answer: Answer) -> list[bytes]:
    pieces = [_message("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}}) for text in answer.texts]
    pieces[0] = _message("messageStart", {"role": "assistant"}) + pieces[0]
    ended = _message("messageStop", {"stopReason": answer.ended(_BEDROCK_ENDS)})
    counted = _message("metadata", {"usage": _bedrock_usage(answer), "metrics": {"latencyMs": 1}})
    return [*pieces, _message("contentBlockStop", {"contentBlockIndex": 0}) + ended + counted]


def _message(kind: str, payload: Mapping[str, Any]) -> bytes:
    """One message of AWS's event stream (`wire/aws_eventstream.py` has its layout); a header's type 7 is a string."""
    said = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    head = b"".join(
        struct.pack(">B", len(name)) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in said.items()
    )
    body = orjson.dumps(payload)
    prelude = struct.pack(">II", 16 + len(head) + len(body), len(head))
    checked = prelude + struct.pack(">I", crc32(prelude)) + head + body
    return checked + struct.pack(">I", crc32(checked))


_FORMS: Mapping[str, _Form] = {
    "openai": _Form(_openai_whole, _openai_streamed, _openai_error),
    "anthropic": _Form(_anthropic_whole, _anthropic_streamed, _anthropic_error),
    "gemini": _Form(_gemini_whole, _gemini_streamed, _gemini_error),
    "cohere": _Form(_cohere_whole, _cohere_streamed, _cohere_error),
    "ollama": _Form(_ollama_whole, _ollama_streamed, _ollama_error, _NDJSON),
    "bedrock": _Form(_bedrock_whole, _bedrock_streamed, _cohere_error, _EVENTS),
}
