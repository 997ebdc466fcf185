"""What the mutations start from: a request of each kind, and of each wire format a whole answer, a stream and errors.

The goldens are taken where there are some; the rest is written here, short, for the shorter a seed, the more of its mutants hit something.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson

GOLDENS = Path(__file__).parents[1] / "dialects" / "goldens"


def sse(*objects: Any, done: bool = False, names: bool = False) -> bytes:
    events = [(f"event: {value['type']}\n".encode() if names else b"") + b"data: " + orjson.dumps(value) for value in objects]
    return b"".join(event + b"\n\n" for event in [*events, *([b"data: [DONE]"] if done else [])])


def ndjson(*objects: Any) -> bytes:
    return b"".join(orjson.dumps(value) + b"\n" for value in objects)


def aws_frame(kind: str, payload: bytes, *, message_type: str = "event") -> bytes:
    names = {":event-type" if message_type == "event" else ":exception-type": kind, ":message-type": message_type}
    block = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value.encode())) + value.encode()
        for name, value in names.items()
    )
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    body = prelude + struct.pack(">I", crc32(prelude)) + block + payload
    return body + struct.pack(">I", crc32(body))


def aws_stream(events: Iterable[tuple[str, bytes]]) -> bytes:
    return b"".join(aws_frame(kind, payload) for kind, payload in events)


@cache
def golden(name: str) -> bytes:
    return (GOLDENS / name).read_bytes()


# -- what callers send

CHAT = orjson.dumps({"model": "smart", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 7, "n": 1})
CONVERSATION = orjson.dumps(
    {
        "model": "smart",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral"}},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
                    {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "Hm.",
                "reasoning_details": [{"type": "reasoning.text", "text": "Hm.", "signature": "c2ln", "format": "anthropic",
                "provider": "p"}],
                "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a": [1, {"b": null}]}'}}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "A hat."}]},
            {"role": "user", "content": "And now?"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "look",
                    "strict": True,
                    "parameters": {
                        "type": "object",
                        "properties": {"a": {"$ref": "#/$defs/a"}, "b": {"type": ["string", "null"], "enum": ["x", None]}},
                        "required": ["a"],
                        "$defs": {"a": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/a"}]}},
                    },
                },
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": True}},
        "stream": True,
        "stream_options": {"include_usage": True},
        "reasoning_effort": "low",
        "stop": ["\n", "END"],
        "temperature": 0.5,
        "seed": 7,
        "logit_bias": {"50256": -100},
        "metadata": {"department": "research", "task": "summary", "trip": "summer"},
        "api_base": "http://169.254.169.254/",
    }
)  # fmt: skip
EMBEDDINGS = (
    orjson.dumps({"model": "smart", "input": ["Hi", "Ho"], "encoding_format": "float", "dimensions": 8, "user": "u"}),
    orjson.dumps({"model": "smart", "input": [[1, 2], [3]], "encoding_format": "base64"}),
)


def chats() -> tuple[bytes, ...]:
    return CHAT, CONVERSATION, golden("full.json")


# -- OpenAI's words

_USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 2}}
_CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a":'}}


def _chunk(delta: dict[str, Any] | None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}


OPENAI_STREAM = sse(
    _chunk({"role": "assistant", "content": ""}), _chunk({"reasoning_content": "Hm"}), _chunk({"content": "Grüße 🌍"}),
    _chunk({"tool_calls": [_CALL]}), _chunk({"tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}]}),
    _chunk({}, "tool_calls"), _chunk(None, usage=_USAGE), done=True,
)  # fmt: skip
OPENAI_BROKEN = sse(_chunk({"content": "Hi"}), {"error": {"message": "overloaded", "type": "server_error", "code": 503}})
OPENAI_WHOLE = orjson.dumps(
    {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "tool_calls": [_CALL], "refusal": None},
                "finish_reason": "stop",
            }
        ],
        "usage": _USAGE,
    }
)
OPENAI_EMBEDDINGS = orjson.dumps(
    {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}, {"index": 1, "embedding": "AAAAPwAAgL8="}],
        "model": "m",
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }
)
ERRORS = (
    (
        b'{"error": {"message": "Incorrect API key provided: sk-abc", "type": "invalid_request_error", "param": null,'
        b' "code": "invalid_api_key"}}'
    ),
    b'{"error": {"message": "maximum context length is 8192 tokens", "param": "messages", "code": "context_length_exceeded"}}',
    b'{"error": "rate limited, try again in 6.5s", "message": "m", "detail": [{"loc": ["body", 1], "msg": "m"}]}',
    (
        b'[{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo",'
        b' "retryDelay": "48s"}, {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]}}]'
    ),
    b'{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "r"}',
    b'{"message": "Too many requests", "__type": "com.amazon#ThrottlingException", "error_type": "TOO_MANY_TOKENS"}',
    b"<html><body>502 Bad Gateway</body></html>",
)
ANTHROPIC_WHOLE = orjson.dumps(
    {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [
            {"type": "thinking", "thinking": "Hm", "signature": "c2ln"},
            {"type": "text", "text": "Hi", "citations": [{"type": "char_location", "cited_text": "x", "document_index": 0}]},
            {"type": "tool_use", "id": "t1", "name": "look", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "usage": {
            "input_tokens": 3,
            "cache_read_input_tokens": 2,
            "cache_creation": {"ephemeral_1h_input_tokens": 1},
            "output_tokens": 5,
        },
    }
)
_CANDIDATE = {
    "content": {
        "role": "model",
        "parts": [
            {"text": "Hm", "thought": True},
            {"text": "Hi", "thoughtSignature": "c2ln"},
            {"functionCall": {"name": "look", "args": {"a": 1}}},
            {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
        ],
    },
    "finishReason": "STOP",
    "index": 0,
    "groundingMetadata": {
        "groundingChunks": [{"web": {"uri": "https://example.com", "title": "t"}}],
        "groundingSupports": [{"segment": {"startIndex": 0, "endIndex": 2, "text": "Hi"}, "groundingChunkIndices": [0]}],
    },
    "logprobsResult": {"chosenCandidates": [{"token": "Hi", "logProbability": -0.5}]},
}
_GEMINI_USAGE = {
    "promptTokenCount": 7, "candidatesTokenCount": 5, "thoughtsTokenCount": 1, "cachedContentTokenCount": 2, "totalTokenCount": 13,
}  # fmt: skip
GEMINI_WHOLE = orjson.dumps(
    {"candidates": [_CANDIDATE], "usageMetadata": _GEMINI_USAGE, "modelVersion": "gemini", "responseId": "r"}
)
GEMINI_STREAM = sse(
    {"candidates": [{"content": {"role": "model", "parts": [{"text": "Grüße"}]}, "index": 0}], "modelVersion": "gemini"},
    {"candidates": [_CANDIDATE], "usageMetadata": _GEMINI_USAGE},
)
GEMINI_BLOCKED = sse({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 7}})
COHERE_WHOLE = orjson.dumps(
    {
        "id": "c",
        "finish_reason": "TOOL_CALL",
        "message": {
            "role": "assistant",
            "tool_plan": "Look.",
            "content": [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Hi"}],
            "tool_calls": [{"id": "t", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
            "citations": [
                {"start": 0, "end": 2, "text": "Hi", "sources": [{"type": "document", "id": "d", "document": {"title": "t"}}]}
            ],
        },
        "usage": {"billed_units": {"input_tokens": 3, "output_tokens": 4}, "tokens": {"input_tokens": 9, "output_tokens": 4}},
    }
)
_OLLAMA_END = {"done": True, "done_reason": "stop", "prompt_eval_count": 7, "eval_count": 3}
OLLAMA_WHOLE = orjson.dumps(
    {
        "model": "qwen",
        "created_at": "2025-06-01T09:30:00Z",
        "message": {
            "role": "assistant",
            "content": "Hi",
            "thinking": "Hm",
            "tool_calls": [{"function": {"name": "look", "arguments": {"a": 1}}}],
        },
        **_OLLAMA_END,
    }
)
OLLAMA_STREAM = ndjson(
    {"model": "qwen", "message": {"role": "assistant", "content": "Gr"}, "done": False},
    {
        "model": "qwen",
        "message": {"content": "üße", "tool_calls": [{"function": {"name": "look", "arguments": {}}}]},
        "done": False,
    },
    {"model": "qwen", "message": {"content": ""}, **_OLLAMA_END},
)
BEDROCK_WHOLE = orjson.dumps(
    {
        "output": {
            "message": {
                "role": "assistant",
                "content": [
                    {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "c2ln"}}},
                    {"text": "Hi"},
                    {"toolUse": {"toolUseId": "t", "name": "look", "input": {"a": 1}}},
                    {
                        "citationsContent": {
                            "content": [{"text": "Hi"}],
                            "citations": [{"title": "t", "location": {"documentPage": {}}}],
                        }
                    },
                ],
            }
        },
        "stopReason": "tool_use",
        "usage": {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10, "cacheReadInputTokens": 2},
        "metrics": {"latencyMs": 5},
    }
)


@cache
def bedrock_events() -> tuple[tuple[str, bytes], ...]:
    return tuple((kind, orjson.dumps(payload)) for kind, payload in orjson.loads(golden("bedrock/stream.json")))


@cache
def bedrock_lines() -> bytes:
    """The stream with its frames taken off: a line each, `type JSON`, so that what is inside can be changed and framed again."""
    return b"\n".join(kind.encode() + b" " + payload for kind, payload in bedrock_events())


# a vector or two in each native format's embeddings
EMBEDDED = (
    b'{"embeddings": [{"values": [0.5, -1.0]}, {"values": [0, 1]}], "usageMetadata": {"promptTokenCount": 2}}',
    b'{"predictions": [{"embeddings": {"values": [0.5], "statistics": {"token_count": 2, "truncated": false}}}]}',
    b'{"id": "e", "embeddings": {"float": [[0.5, -1.0], [0, 1]]}, "meta": {"billed_units": {"input_tokens": 2}}}',
    b'{"model": "m", "embeddings": [[0.5, -1.0], [0, 1]], "prompt_eval_count": 2}',
    b'{"embedding": [0.5, -1.0], "inputTextTokenCount": 2, "embeddingsByType": {"float": [0.5]}}',
    b'{"embeddings": [{"embeddingType": "TEXT", "embedding": [0.5]}], "inputTokenCount": 2}',
)

# -- the rest

CONFIG = b"""server: {host: 127.0.0.1, port: 8080, max_body: 32MiB, drain: {delay: 2s, timeout: 30s}}
data_dir: ./data
auth: {admin_token: "${TOKEN:-abcdefghijkl}"}
defaults: {timeouts: {connect: 3s}, retries: 1, circuit: {failures: 5, error_rate: 0.5}}
providers:
  groq: {api_key: "${KEY}", budget: {usd: 50, per: month}, quotas: [{requests: 10, per: day, time_zone: UTC}], limits: {rpm: 30}}
  mine:
    dialect: openai
    base_url: &url http://10.0.0.5:8000/v1
    api_keys: ["${KEY}", other-key-1]
    prices: {"*": {input: 0.20, output: 0.60}}
    models: {m: {context: 8192, capabilities: [tools], price: {input: 1, output: 2}}}
chains:
  smart: [groq/llama, mine/m]
  "claude-*": [mine/claude-*]
  long: {targets: [{target: mine/m, weight: 2, timeouts: {first_token: 90s}}], strategy: order, failover_on: [429, 5xx]}
clients: {a: {key: "${KEY}-client", chains: [smart], department: research, budget: {usd: 5, per: day}}}
alerts: {budget: [0.8, 1.0], to: [{webhook: "https://example.com/x"}]}
"""
ENV_FILE = b'# keys\nKEY=SECRET\nexport A=1\nQUOTED="SECRET"\nB=\'x # y\'\nC="a\\n${A}"  # said\nD=${B:-z}\n\n'
RETRY_AFTER = (
    b"retry-after: 7", b"retry-after: Wed, 21 Oct 2026 07:28:00 GMT\ndate: Wed, 21 Oct 2026 07:27:00 GMT", b"retry-after-ms: 250.5",
    b"x-ms-retry-after-ms: 1000", b"x-ratelimit-remaining-requests: 0\nx-ratelimit-reset-requests: 6m0s",
    b"x-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 20ms", b"x-ratelimit-remaining: 0\nx-ratelimit-reset: 1760000000000",
    b"anthropic-ratelimit-tokens-remaining: 0\nanthropic-ratelimit-tokens-reset: 2026-11-21T17:00:00Z", b"body: 48s", b"body: 1.5e3",
)  # fmt: skip
REQUESTS = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;a=b\r\n}\r\n0\r\nX-T: 1\r\n\r\n",
    b"GET /readyz HTTP/1.1\r\nHost: x\r\nX-A: b\r\n\r\nPOST /chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /v1/embeddings?a=b HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: keep-alive\r\n\r\n{}",
    b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: [::1]:80\r\nOrigin: http://a\r\nConnection: close\r\n\r\n",
)
RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 11\r\n\r\nhello world",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;name=value\r\n world\r\n0\r\nx-trailer: t\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {}\n\n",
    (
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 429 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
    ),
)
HTTP_TOKENS = (
    b"Content-Length: 5\r\n", b"Content-Length: +5\r\n", b"Content-Length: 5, 5\r\n", b"Content-Length: 0x5\r\n", b"Content-Length : 5\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding:\x0bchunked\r\n", b"TE: trailers\r\n",
    b"Transfer-Encoding: identity\r\n", b"Host: y\r\n", b" folded\r\n", b"\tfolded\r\n", b"\r\n", b"\n", b"\r", b"\x00", b"\xff",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n", b"-1\r\n", b"5 \r\n", b"5\n", b"GET / HTTP/1.1\r\n", b" HTTP/2.0", b" HTTP/0.9", b"Upgrade: h2c\r\n",
    b"x" * 9000,
    b"A: b\r\n" * 101, b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"HTTP/1.1 101 Switching\r\n\r\n", b"HTTP/1.1 304 No\r\n\r\n",
)  # fmt: skip
