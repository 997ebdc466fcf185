"""OpenAI chat completions, the upstream's side, for every provider that speaks the format: patched in, checked and passed through out.

https://platform.openai.com/docs/api-reference/chat/create and …/chat/streaming

A stream is a sequence of `chat.completion.chunk` events and ends with `data: [DONE]`:

    role chunk?  content chunk*  finish chunk  usage chunk?  [DONE]

but providers differ: an empty first chunk (Azure), usage on the finish chunk (DeepSeek) or on every chunk (Perplexity), twice (Groq),
comments as keep-alives and errors inside a 200 (OpenRouter, Groq), no `[DONE]` (Perplexity, Writer), finish reasons of its own
(Together). `ChatStream` takes all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import orjson

from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.target import Quirks, Target
from proxy.core.usage import Usage
from proxy.dialects.base import MAX_KEPT_TEXT_BYTES, OutboundRequest, WholeAnswer
from proxy.dialects.chunk_template import ChunkTemplate, template_of
from proxy.dialects.openai_errors import decode_error, error_from_object
from proxy.dialects.openai_replay import with_call_ids, without_fields
from proxy.wire.sse import MAX_EVENT_BYTES, EventTooLarge, SseSplitter, event_data

UsageReader = Callable[[dict[str, Any], Quirks], Usage | None]

MAX_MALFORMED_EVENTS = 3
FIRST_LEARNT = 4  # events of a stream, after which it is worth knowing what they have in common
_TEXTS_HELD, _LONG_READ_BYTES = 64, 8192  # so what waits to be taken in is at most half a megabyte
DONE = b"data: [DONE]\n\n"
# fields of a delta or a message that are content: any of them, when it holds something, commits the answer
_CONTENT_FIELDS = (
    "content",
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "tool_calls",
    "function_call",
    "refusal",
    "audio",
    "images",
    "tool_plan",
)
# What some say for `stop`, where programs that know OpenAI's words alone would fail: Together at the end of the text
# (https://github.com/openai/openai-dotnet/pull/267), text-generation-inference and what is built on it there and at a stop sequence
# (https://github.com/huggingface/text-generation-inference/pull/2344), both in 2024.
FINISH_REASONS = {"eos": "stop", "eos_token": "stop", "stop_sequence": "stop"}
# Within a string of JSON its quotes would be escaped, so this is a member and its value wherever it stands.
_FOREIGN_REASON = re.compile(rb'("finish_reason"\s*:\s*)"(%b)"' % "|".join(FINISH_REASONS).encode())
_ONLY_OBJECTS = {dict}
_BETWEEN_BYTES = len(b"\n\ndata: {") - len(b",{")
_TEXT_FIELDS = ("content", "reasoning_content", "reasoning", "refusal")


class OpenAIChat:
    """Implements `OutboundDialect`. `read_usage` is how the accounting reads a usage object."""

    stream_type = b"text/event-stream"

    def __init__(self, read_usage: UsageReader) -> None:
        self._read_usage = read_usage

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        body, dropped = patched_body(request, target)
        return OutboundRequest(self._path(target), orjson.dumps(body), dropped)

    def _path(self, target: Target) -> str:
        return "/chat/completions"

    def decode_answer(self, body: bytes, request: ChatRequest, target: Target) -> WholeAnswer:
        parsed, mended = parse_mending(body)
        if mended is None:
            raise UpstreamError(ErrorClass.MALFORMED, "the answer is not valid JSON", status=200)
        if isinstance(parsed, list) and parsed and isinstance(parsed[0], dict) and "error" in parsed[0]:
            parsed = parsed[0]
        if not isinstance(parsed, dict):
            raise UpstreamError(ErrorClass.EMPTY, "the answer is not an object", status=200)
        choices = parsed.get("choices")
        if parsed.get("error") or (not choices and ("code" in parsed or "detail" in parsed)):
            raise error_from_object(parsed, status=None)
        if type(choices) is not list or not choices or type(choices[0]) is not dict:
            raise UpstreamError(ErrorClass.EMPTY, "the answer has no choices", status=200)
        usage = parsed.get("usage")
        first = choices[0]
        finish_reason = first.get("finish_reason")
        passed = mended
        if _is_foreign(finish_reason) or (len(choices) > 1 and _any_foreign(choices)):
            passed = with_known_reasons(mended)
            finish_reason = FINISH_REASONS[finish_reason] if _is_foreign(finish_reason) else finish_reason
        return WholeAnswer(
            passed,
            self._read_usage(usage, target.quirks) if type(usage) is dict else None,
            finish_reason if type(finish_reason) is str and finish_reason else None,  # Snowflake says ""
            mended is not body,
        )

    def text_of(self, body: bytes) -> bytes:
        return text_of_completion(body)

    def answer_stream(self, request: ChatRequest, target: Target) -> ChatStream:
        return ChatStream(self._read_usage, quirks=target.quirks, include_usage=request.include_usage)

    def stream_from_whole(self, body: bytes, request: ChatRequest) -> bytes:
        return whole_to_stream(orjson.loads(body), include_usage=request.include_usage)

    def decode_error(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> UpstreamError:
        return decode_error(status, body)


class AzureChat(OpenAIChat):
    """Azure OpenAI: the same bodies under two URL styles, the dated one with the deployment in its path.

    https://learn.microsoft.com/azure/ai-foundry/openai/reference
    """

    def _path(self, target: Target) -> str:
        version = target.provider.api_version
        if version is None:
            return "/openai/v1/chat/completions"
        return f"/openai/deployments/{_path_segment(target.upstream_model)}/chat/completions?api-version={_path_segment(version)}"


def patched_body(request: ChatRequest, target: Target) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The caller's body as this target takes it, and the names of what was left out. The caller's own object is not touched."""
    quirks = target.quirks
    body = dict(request.body)
    body["model"] = target.upstream_model
    dropped: set[str] = set()
    for name, better in quirks.rename.items():
        if name in body:
            value = body.pop(name)
            if body.get(better) is None:
                body[better] = value
            elif value is not None and value != body[better]:
                dropped.add(name)
    if quirks.drop and not quirks.drop.isdisjoint(body):
        found = quirks.drop & body.keys()
        dropped |= found
        for name in found:
            del body[name]
    if request.kind == "chat":
        if quirks.developer_role is not None:
            body["messages"] = [
                {**message, "role": quirks.developer_role} if message["role"] == "developer" else message
                for message in body["messages"]
            ]
        if quirks.drop_in_messages:
            body["messages"], lost = without_fields(body["messages"], quirks.drop_in_messages)
            dropped |= lost
        if quirks.call_id_length is not None:
            body["messages"] = with_call_ids(body["messages"], quirks.call_id_length)
    if request.stream:
        if quirks.usage_in_stream == "stream_options":
            options = body.get("stream_options")
            body["stream_options"] = {**options, "include_usage": True} if options else {"include_usage": True}
        else:
            body.pop("stream_options", None)
    return body, tuple(sorted(dropped)) if dropped else ()


class ChatStream:
    """One streamed answer on its way through. Implements `AnswerStream`; `docs/failover.md` says what happens to which event."""

    __slots__ = (
        "_aligned",
        "_foreign_reason",
        "_include_usage",
        "_kept",
        "_learn_at",
        "_quirks",
        "_read_usage",
        "_splitter",
        "_template",
        "_text_bytes",
        "_texts",
        "committed",
        "done",
        "end_mark_missing",
        "error",
        "events",
        "finish_reason",
        "malformed",
        "mended",
        "usage",
    )

    def __init__(self, read_usage: UsageReader, *, quirks: Quirks, include_usage: bool) -> None:
        self._read_usage = read_usage
        self._quirks = quirks
        self._include_usage = include_usage
        self._splitter = SseSplitter()
        self._aligned = False  # what comes next begins an event
        self._foreign_reason = False  # a finish reason came that OpenAI does not know
        self._template: ChunkTemplate | None = None
        self._learn_at = FIRST_LEARNT  # events
        self._texts: list[str] = []  # content that has come and is not yet in
        self._kept = bytearray()
        self._text_bytes = 0
        self.committed = False
        self.done = False
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.error: UpstreamError | None = None
        self.events = 0
        self.malformed = 0
        self.mended = 0
        self.end_mark_missing = False

    def feed(self, data: bytes) -> bytes:
        if self.done or self.error is not None:
            return b""
        if self._aligned:
            if self._template is not None and (texts := self._template.texts_of(data)) is not None:
                self.events += len(texts)
                held = self._texts
                held += texts
                if len(held) >= _TEXTS_HELD or len(data) > _LONG_READ_BYTES:
                    self._take_in()
                return data
            if data.startswith(b"data: {") and data.endswith(b"}\n\n"):
                chunks = _chunks_of(data)
                if chunks is not None:
                    return self._pass_chunks(data, chunks)
        if len(data) > _LONG_READ_BYTES:
            # many events, and perhaps but a part of the first or the last: the others are whole
            end = (data.rfind(b"\n\n") if self._aligned else data.find(b"\n\n")) + 2
            if 1 < end < len(data):
                return self.feed(data[:end]) + self.feed(data[end:])
        out = self._feed_events(data)
        self._aligned = self._splitter.between_events
        return out

    def _feed_events(self, data: bytes) -> bytes:
        """Any bytes at all: cut into events, each looked at by itself."""
        try:
            events = self._splitter.feed(data)
        except EventTooLarge:
            self.error = UpstreamError(ErrorClass.TOO_LARGE, "an event of the stream is larger than 1 MiB")
            return b""
        out: list[bytes] = []
        for event in events:
            self.events += 1
            if event.startswith(b"data: {") and b"\n" not in event:
                payload = event[6:]
            else:
                event = self._in_utf8(event)
                data_of_event = event_data(event)
                if data_of_event is None:
                    out.append(event)  # a comment: keeps the connection alive, is no content
                    continue
                payload = data_of_event
                if payload.startswith(b"[DONE]"):
                    self.done = True
                    break
                if not payload:
                    continue
            try:
                chunk = orjson.loads(payload)
            except orjson.JSONDecodeError:
                chunk, event = self._mend(payload)
            if type(chunk) is not dict:
                if self._skip_malformed():
                    break
                continue
            if self._passes(chunk):
                out.append(event)
            elif self._failed():
                break
        if not out:
            return b""
        out.append(b"")
        passed = b"\n\n".join(out)
        return with_known_reasons(passed) if self._foreign_reason else passed

    def _pass_chunks(self, data: bytes, chunks: list[dict[str, Any]]) -> bytes:
        """Whole events with a chunk each, as nearly all reads bring them: as a rule nothing is copied."""
        texts = self._texts
        index = odd = 0
        held_back: list[int] = []
        for index, chunk in enumerate(chunks):
            # by far the most chunks are one piece of text and nothing else
            try:
                (choice,) = chunk["choices"]
                delta = choice["delta"]
                content = delta["content"]
                if (
                    type(content) is str
                    and content
                    and choice["finish_reason"] is None
                    and len(delta) == 1
                    and "error" not in chunk
                    and "x_groq" not in chunk
                    and not chunk.get("usage")
                ):
                    texts.append(content)
                    continue
            except (KeyError, TypeError, ValueError):
                pass  # something else, which is looked at closely
            odd += 1
            if not self._passes(chunk):
                held_back.append(index)
                if self.error is not None:
                    break
        self.events += len(chunks)
        if odd <= index:
            self.committed = True
        if self.events >= self._learn_at and not held_back:
            self._learn(data, chunks[-1])
        if len(texts) >= _TEXTS_HELD or len(data) > _LONG_READ_BYTES:
            self._take_in()
        if self._foreign_reason:
            data = with_known_reasons(data)
        if not held_back:
            return data
        events = data.split(b"\n\n")
        stop = held_back[-1] if self.error is not None else len(chunks)
        return b"".join([event + b"\n\n" for index, event in enumerate(events[:stop]) if index not in held_back])

    def _learn(self, data: bytes, chunk: dict[str, Any]) -> None:
        """From the last event of a read, if it is a piece of text and nothing else: those that come may be like it. What proves wrong is
        learnt anew when twice as much has come."""
        self._learn_at = 2 * self.events
        try:
            (choice,) = chunk["choices"]
            told = [name for name, value in choice["delta"].items() if value and name != "role"]
            alone = len(told) == 1 and not choice.get("finish_reason") and not chunk.get("usage")
        except (AttributeError, KeyError, TypeError, ValueError):
            return
        if alone and "error" not in chunk and "x_groq" not in chunk:
            self._template = template_of(data.rpartition(b"\n\ndata: ")[2].removeprefix(b"data: ")[:-2], chunk)

    @property
    def text(self) -> bytearray:
        self._take_in()
        return self._kept

    @property
    def text_bytes(self) -> int:
        self._take_in()
        return self._text_bytes

    def _take_in(self) -> None:
        """Texts wait until there are some: joined, they cost a fraction."""
        raw = "".join(self._texts).encode("utf-8", "replace")
        self._texts.clear()
        self._text_bytes += len(raw)
        if len(self._kept) < MAX_KEPT_TEXT_BYTES:
            self._kept += raw

    def close(self) -> bytes:
        if self.error is not None:
            return b""
        if not self.done:
            return self._close_unmarked()
        if not self.committed and self.finish_reason is None and self.usage is None:
            self.error = UpstreamError(ErrorClass.EMPTY, "the stream ended without any content", status=200)
            return b""
        return DONE

    def _close_unmarked(self) -> bytes:
        """The bytes ended without an end mark: a finish reason makes that an answer all the same."""
        rest = self._splitter.close()
        out = self.feed(rest + b"\n\n") if rest else b""
        if self.error is not None:
            return out
        if not self.done and self.finish_reason is None:
            self.error = self._not_whole()
            return out
        self.end_mark_missing = not self.done
        self.done = True
        return out + DONE

    def _not_whole(self) -> UpstreamError:
        if self.events == self.malformed and not self.committed:
            kind = ErrorClass.MALFORMED if self.malformed else ErrorClass.EMPTY
            return UpstreamError(kind, "the stream ended without any event that could be read", status=200)
        return UpstreamError(ErrorClass.TRUNCATED, "the stream ended without a finish reason or an end mark", status=200)

    def _failed(self) -> bool:
        return self.error is not None

    def _passes(self, chunk: dict[str, Any]) -> bool:
        """Notes what a chunk says; true when it goes on to the caller."""
        error = chunk.get("error")
        usage = chunk.get("usage")
        if usage is None and "x_groq" in chunk:
            inner = chunk["x_groq"]
            usage = inner.get("usage") if type(inner) is dict else None
        if type(usage) is dict:
            self.usage = self._read_usage(usage, self._quirks) or self.usage  # later wins: some repeat it in every chunk
        choices = chunk.get("choices")
        if error or (error is not None and not choices):
            self.error = error_from_object(chunk, status=None)
            return False
        if not choices:
            if "choices" not in chunk and chunk.get("object") in (None, "error") and usage is None:
                self.error = self._not_a_chunk(chunk)
                return self.error is None
            return usage is None or self._include_usage
        if type(choices) is not list:
            self._skip_malformed()
            return False
        for choice in choices:
            if type(choice) is not dict:
                continue
            delta = choice.get("delta")
            if type(delta) is dict:
                self._note_delta(delta)
            finish_reason = choice.get("finish_reason")
            if finish_reason and type(finish_reason) is str:
                if finish_reason in FINISH_REASONS:
                    finish_reason = FINISH_REASONS[finish_reason]
                    self._foreign_reason = True
                self.finish_reason = finish_reason
                self.committed = True
        return True

    def _note_delta(self, delta: dict[str, Any]) -> None:
        content = delta.get("content")
        if type(content) is str and content:
            self.committed = True
            self._texts.append(content)
            if len(delta) == 1:
                return
        for name in _CONTENT_FIELDS:
            value = delta.get(name)
            if not value or (name == "content" and type(value) is str):
                continue
            self.committed = True
            if type(value) is str:
                self._texts.append(value)
            elif name == "tool_calls" and type(value) is list:
                for call in value:
                    self._texts.append(_call_text(call))
            elif name == "content":
                self._texts.append(_parts_text(value))
            elif name == "function_call":
                self._texts.append(_call_text({"function": value}))

    def _mend(self, payload: bytes) -> tuple[Any, bytes]:
        chunk, mended = parse_mending(payload)
        if mended is None:
            return None, b""
        self.mended += 1
        return chunk, b"data: " + mended.replace(b"\n", b" ")

    def _in_utf8(self, event: bytes) -> bytes:
        """What passes without being parsed, a comment or an event's name, must be readable too."""
        if event.isascii():
            return event
        mended = event.decode("utf-8", "replace").encode()
        self.mended += mended != event
        return mended

    def _skip_malformed(self) -> bool:
        """Counts an event that is no chunk; true when there have been too many."""
        self.malformed += 1
        if self.malformed > MAX_MALFORMED_EVENTS:
            self.error = UpstreamError(
                ErrorClass.MALFORMED_EVENT, f"more than {MAX_MALFORMED_EVENTS} events of the stream could not be read", status=200
            )
        return self.error is not None

    def _not_a_chunk(self, chunk: dict[str, Any]) -> UpstreamError | None:
        """A flat error, as some servers send mid-stream, or an object from beyond the format, which is let through."""
        if "message" in chunk or "detail" in chunk:
            return error_from_object(chunk, status=None)
        return None


def completion_id(request: ChatRequest) -> str:
    return f"chatcmpl-{request.id}"


def usage_object(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`, the total counted anew."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "audio_tokens": usage.input_audio_tokens,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": usage.output_audio_tokens,
        },
    }


def _chunks_of(data: bytes) -> list[dict[str, Any]] | None:
    """The JSON objects of `data: {…}\\n\\n` events, parsed together; None when the bytes hold anything but such events."""
    if b"\r" in data or len(data) > MAX_EVENT_BYTES:
        return None
    events = data[6:-2]
    values = events.replace(b"\n\ndata: {", b",{")
    if b"\n" in values:
        return None
    try:
        chunks = orjson.loads(b"[%b]" % values)
    except orjson.JSONDecodeError:
        return None
    # as many values as events: then no event is half of another
    whole = (len(chunks) - 1) * _BETWEEN_BYTES == len(events) - len(values)
    return chunks if whole and set(map(type, chunks)) == _ONLY_OBJECTS else None


def with_known_reasons(passed: bytes) -> bytes:
    """JSON, alone or in events, with the finish reasons of FINISH_REASONS in OpenAI's words and not a byte else changed."""
    return _FOREIGN_REASON.sub(lambda found: b'%b"%b"' % (found[1], FINISH_REASONS[found[2].decode()].encode()), passed)


def _is_foreign(reason: object) -> TypeGuard[str]:
    return type(reason) is str and reason in FINISH_REASONS


def _any_foreign(choices: list[Any]) -> bool:
    return any(type(choice) is dict and _is_foreign(choice.get("finish_reason")) for choice in choices)


def parse_mending(raw: bytes) -> tuple[Any, bytes | None]:
    """JSON, with bytes that are not UTF-8 and lone surrogate escapes replaced by U+FFFD.

    (the value, its text: `raw` itself where nothing was wrong); (None, None) for what is no JSON.
    """
    try:
        return orjson.loads(raw), raw
    except orjson.JSONDecodeError:
        pass
    mended = _ESCAPE.sub(_no_lone_surrogate, raw.decode("utf-8", "replace")).encode()
    try:
        return orjson.loads(mended), mended
    except orjson.JSONDecodeError:
        return None, None


# one escape at a time, so that a backslash that is itself escaped starts none; a surrogate without its other half is group 1
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def _no_lone_surrogate(escape: re.Match[str]) -> str:
    return "\ufffd" if escape[1] else escape[0]


def whole_to_stream(answer: dict[str, Any], *, include_usage: bool) -> bytes:
    """A whole completion as the stream of one: for an upstream that answers a streamed request with plain JSON. Raises UpstreamError."""
    base = {
        "id": answer.get("id") or "chatcmpl-0",
        "object": "chat.completion.chunk",
        "created": answer.get("created") or 0,
        "model": answer.get("model") or "",
    }
    chunks: list[dict[str, Any]] = []
    for position, choice in enumerate(answer["choices"]):
        if type(choice) is not dict:
            continue
        index = choice.get("index", position)
        message = choice.get("message")
        delta = dict(message) if type(message) is dict else {}
        delta.setdefault("role", "assistant")
        calls = delta.get("tool_calls")
        if type(calls) is list:
            delta["tool_calls"] = [{"index": i, **call} if type(call) is dict else call for i, call in enumerate(calls)]
        said = {"index": index, "delta": delta, "finish_reason": None}
        if choice.get("logprobs"):
            said["logprobs"] = choice["logprobs"]
        chunks.append({**base, "choices": [said]})
        end = {"index": index, "delta": {}, "finish_reason": choice.get("finish_reason") or "stop"}
        chunks.append({**base, "choices": [end]})
    if include_usage and answer.get("usage"):
        chunks.append({**base, "choices": [], "usage": answer["usage"]})
    try:
        return b"".join([b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks]) + DONE
    except TypeError:  # orjson reads 1024 levels and writes 254
        raise UpstreamError(ErrorClass.MALFORMED, "the answer is nested too deeply to be told again", status=200) from None


def text_of_completion(body: bytes) -> bytes:
    """The text of a whole completion in OpenAI's shape, reasoning and tool calls included, so that it can be counted."""
    choices: list[Any] = parse_mending(body)[0]["choices"]
    texts: list[str] = []
    for choice in choices:
        message = choice.get("message") if type(choice) is dict else None
        if type(message) is not dict:
            continue
        for name in _TEXT_FIELDS:
            value = message.get(name)
            texts.append(value if type(value) is str else _parts_text(value))
        calls = message.get("tool_calls")
        texts += [_call_text(call) for call in calls] if type(calls) is list else []
        texts.append(_call_text({"function": message.get("function_call")}))
    return "".join(texts).encode("utf-8", "replace")


def _call_text(call: object) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return ""
    return "".join([value for value in (function.get("name"), function.get("arguments")) if isinstance(value, str)])


def _parts_text(parts: object) -> str:
    """The text in a list of content parts, thinking included (Mistral), however deep they lie in each other."""
    texts: list[str] = []
    rest = [parts]
    while rest:
        part = rest.pop()
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, list):
            rest += reversed(part)
        elif isinstance(part, dict):
            rest.append(part.get("text") or part.get("thinking"))
    return "".join(texts)


def _path_segment(text: str) -> str:
    safe = "-._~"
    return "".join(
        [c if c.isascii() and (c.isalnum() or c in safe) else "".join([f"%{b:02X}" for b in c.encode()]) for c in text]
    )
