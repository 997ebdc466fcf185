"""Going on with an answer that broke off: what the next target is asked, and how its stream is told as the rest of the first one.

    exact          the text so far is the last message, the assistant's, and marked as its provider wants it marked (`Quirks.prefix`);
                   the model's answer is the rest
    instruction    the text so far is the assistant's message, and a user's message behind it asks to go on, beginning with its last words

`Continuing` is a dialect around a dialect: one for each attempt of a request that may be gone on with. The first of them changes
nothing and takes notes; the later ones ask for the rest and tell it with the first one's id, time, model and role, the seam closed
(`seam.py`), and the usage of all of them added up. Chunks in OpenAI's words come out of every dialect, so any can go on after any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import orjson

from proxy.core.chat import ChatRequest
from proxy.core.errors import CannotCarry, UpstreamError
from proxy.core.target import Prefix, Target
from proxy.core.usage import Usage
from proxy.dialects.anthropic.models import continues_prefix
from proxy.dialects.base import AnswerStream, OutboundDialect, OutboundRequest, WholeAnswer
from proxy.dialects.openai_chat import DONE, usage_object
from proxy.dialects.seam import Seam, anchor_of
from proxy.dialects.told import MAX_SENT_BYTES, Told
from proxy.wire.sse import SseSplitter, event_data

_INSTRUCTION = (
    "Your last message was cut off in the middle by a fault of the line. Write the rest of it, so that both together are one whole"
    " answer. Begin with its last words, which are given below, letter for letter and without the quotation marks; then go on from"
    " there in the same language, tone and format. Do not begin anew, and do not mention this message or the fault.\n\n"
)
INSTRUCTION_START = _INSTRUCTION[:60]  # by which a test upstream knows it
_LIMITS = ("max_completion_tokens", "max_tokens")
_REASONING = ("reasoning_effort", "reasoning", "thinking", "enable_thinking")
_NOT_TEXT = {
    "json_object": "JSON mode",
    "json_schema": "a JSON schema",
    "logprobs": "log-probabilities",
    "n": "several choices",
    "audio_output": "audio",
    "image_output": "images",
}
_CALLS = ("tool_calls", "function_call")
_THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details")
_CLAUDE = Prefix()


@dataclass(frozen=True, slots=True)
class Past:
    """What came before the attempt that goes on: the caller's request as it was, what has been told of its answer, what that took, and
    the target whose stream broke last."""

    request: ChatRequest
    told: Told
    spent: Usage
    broken: Target


@dataclass(frozen=True, slots=True)
class Asked:
    """What goes to the target that is to go on. `exact`: it takes the text as the beginning of its own answer; `trimmed`: without the
    white space at the end."""

    request: ChatRequest
    exact: bool
    trimmed: bool = False
    prefix: Prefix | None = None


def never_after(request: ChatRequest) -> str | None:
    """What the request asks for that no second model can go on with; None if nothing."""
    for need, what in _NOT_TEXT.items():
        if need in request.needs:
            return what
    last = request.body["messages"][-1]
    if last.get("role") == "assistant" and (last.get("tool_calls") or not isinstance(last.get("content"), str)):
        return "a beginning of the caller's own that is not text"
    return None


def prefix_of(target: Target, request: ChatRequest) -> Prefix | None:
    """How the target is told to go on with a message, None where it cannot be relied on: nobody says that a model which thinks, or is
    asked to, takes a beginning of its answer."""
    if target.reasoning or any(request.body.get(name) not in (None, False, "none") for name in _REASONING):
        return None
    provider = target.provider
    if provider.dialect in ("anthropic", "bedrock", "vertex"):
        return _CLAUDE if continues_prefix(target.upstream_model) else None
    prefix = target.quirks.prefix
    if prefix is not None and prefix.path is not None and urlsplit(provider.base_url).path.strip("/"):
        return None  # another address than the one that the path belongs to
    return prefix


def with_text(request: ChatRequest, text: str, spent: Usage, extra: dict[str, Any] | None = None) -> ChatRequest:
    """The request with `text` as the assistant's last message, and with as many tokens left as the answer may still have."""
    body = dict(request.body)
    messages = list(body["messages"])
    last = messages[-1]
    if last.get("role") == "assistant":
        messages[-1] = {**last, "content": last["content"] + text, **(extra or {})}
    else:
        messages.append({"role": "assistant", "content": text, **(extra or {})})
    body["messages"] = messages
    for name in _LIMITS:
        if isinstance(body.get(name), int):
            body[name] = max(1, body[name] - spent.output_tokens)
    limit = request.max_output_tokens
    return replace(
        request,
        body=body,
        body_bytes=request.body_bytes + len(text.encode("utf-8", "replace")),
        max_output_tokens=None if limit is None else max(1, limit - spent.output_tokens),
    )


def asked_of(target: Target, past: Past) -> Asked:
    text = past.told.text
    if not text.strip():
        return Asked(past.request, exact=True, trimmed=True)  # nothing to go on with: thoughts, at most
    prefix = prefix_of(target, past.request)
    if prefix is None:
        request = with_text(past.request, text, past.spent)
        request.body["messages"].append({"role": "user", "content": f"{_INSTRUCTION}“{anchor_of(text)}”"})
        return Asked(request, exact=False)
    # "final assistant content cannot end with trailing whitespace", says Anthropic, and means every message that is gone on with
    trimmed = prefix is _CLAUDE and text != text.rstrip()
    request = with_text(past.request, text.rstrip() if trimmed else text, past.spent, dict(prefix.message))
    request.body.update(prefix.body)
    return Asked(request, exact=True, trimmed=trimmed, prefix=prefix)


class Continuing:
    """Implements `OutboundDialect` around another one, for one attempt. `told`: what the caller knows of the answer when it ends."""

    def __init__(self, inner: OutboundDialect, past: Past | None) -> None:
        self._inner = inner
        self._past = past
        self._asked: Asked | None = None
        self._target: Target | None = None
        self._usage: Usage | None = None  # of a whole answer
        self.told = Told() if past is None else past.told

    @property
    def stream_type(self) -> bytes:
        return self._inner.stream_type

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        if self._past is None:
            return self._inner.encode_request(request, target)
        if target.answer is not None:
            raise CannotCarry("the rest of an answer")
        self._target = target
        asked = self._asked = asked_of(target, self._past)
        outbound = self._inner.encode_request(asked.request, target)
        if asked.prefix is not None and asked.prefix.path is not None:
            outbound.path = asked.prefix.path
        return outbound

    def decode_answer(self, body: bytes, request: ChatRequest, target: Target) -> WholeAnswer:
        answer = self._inner.decode_answer(body, request, target)
        self._usage = answer.usage
        return answer

    def text_of(self, body: bytes) -> bytes:
        return self._inner.text_of(body)

    def answer_stream(self, request: ChatRequest, target: Target) -> AnswerStream:
        inner = self._inner.answer_stream(request, target)
        return JoinedStream(inner, self.told, self._joiner(lambda: inner.usage))

    def stream_from_whole(self, body: bytes, request: ChatRequest) -> bytes:
        out = self._inner.stream_from_whole(body, request)
        joiner = self._joiner(lambda: self._usage)
        return out if joiner is None else joiner.rewrite(out)

    def decode_error(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> UpstreamError:
        return self._inner.decode_error(status, headers, body)

    def _joiner(self, usage: Callable[[], Usage | None]) -> Joiner | None:
        past, asked, target = self._past, self._asked, self._target
        if past is None or asked is None or target is None:
            return None
        text = past.told.text
        echoes = asked.prefix is not None and asked.prefix.echoes
        seam = Seam(text, exact=asked.exact, trimmed=asked.trimmed, echoes=echoes)
        mark = {"continued": {"from": past.broken.name, "by": target.name, "after_characters": len(text)}}
        return Joiner(past, seam, mark, usage)


class Joiner:
    """Retells the stream of the attempt that goes on. `rewrite` takes whole events and gives whole events; the first of them has `mark`
    as its `x_tollbridge`."""

    def __init__(self, past: Past, seam: Seam, mark: dict[str, Any], usage: Callable[[], Usage | None]) -> None:
        told = past.told
        self._past = past
        self._seam = seam
        self._usage = usage
        self._head = {"id": told.id or f"chatcmpl-{past.request.id}", "created": told.created or past.request.created}
        self._model = told.model
        self._has_text = bool(told.text)
        self._has_role = told.role
        self._mark: dict[str, Any] | None = mark
        self._splitter = SseSplitter(MAX_SENT_BYTES)

    def rewrite(self, data: bytes) -> bytes:
        out: list[bytes] = []
        for event in self._splitter.feed(data):
            payload = event_data(event)
            if payload is None:
                out.append(event + b"\n\n")  # a comment
                continue
            if payload.startswith(b"[DONE]"):
                out.append(self._flush() + DONE)
                continue
            chunk = orjson.loads(payload)  # what has come through a dialect can be read
            if type(chunk) is dict:
                out.append(self._chunk(chunk))
        return b"".join(out)

    def _chunk(self, chunk: dict[str, Any]) -> bytes:
        choices = chunk.get("choices")
        usage = chunk.pop("usage", None)
        if type(choices) is not list or not choices or type(choices[0]) is not dict:
            if usage is None:
                return self._say(chunk)
            summed = self._summed()  # None: one of them said nothing, so a sum would be wrong
            return b"" if summed is None else self._flush() + self._say({**chunk, "usage": summed})
        choice = choices[0]
        delta = dict(choice["delta"]) if type(choice.get("delta")) is dict else {}
        finish = choice.get("finish_reason")
        content = delta.pop("content", None)
        if self._has_role:
            delta.pop("role", None)
        if self._has_text:
            for name in _THOUGHTS:
                delta.pop(name, None)  # thoughts stand before an answer, not in it
        text = self._seam.feed(content) if isinstance(content, str) else ""
        if finish or any(delta.get(name) for name in _CALLS):
            text += self._seam.close()
        if text or "role" in delta:
            delta["content"] = text
        self._has_role = self._has_role or "role" in delta
        out = b""
        if any(delta.values()):
            out = self._say({**chunk, "choices": [{**choice, "index": 0, "delta": delta, "finish_reason": None}]})
        if finish:
            end = {**chunk, "choices": [{**choice, "index": 0, "delta": {}}]}
            summed = self._summed() if usage else None
            out += self._say(end if summed is None else {**end, "usage": summed})
        return out

    def _flush(self) -> bytes:
        """What the seam still holds, where the stream has ended without a finish reason."""
        text = self._seam.close()
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        return self._say({"object": "chat.completion.chunk", "choices": [choice]}) if text else b""

    def _say(self, chunk: dict[str, Any]) -> bytes:
        """A chunk with the first answer's head."""
        said = {**chunk, **self._head}
        if self._model is not None:
            said["model"] = self._model
        if self._mark is not None:
            said["x_tollbridge"], self._mark = self._mark, None
        return b"data: %b\n\n" % orjson.dumps(said)

    def _summed(self) -> dict[str, Any] | None:
        mine = self._usage()
        return None if mine is None else usage_object(added(self._past.spent, mine))


class JoinedStream:
    """Implements `AnswerStream` around another one: takes notes of what is told and, with a joiner, retells it."""

    __slots__ = ("_inner", "_joiner", "_told")

    def __init__(self, inner: AnswerStream, told: Told, joiner: Joiner | None) -> None:
        self._inner = inner
        self._told = told
        self._joiner = joiner

    def feed(self, data: bytes) -> bytes:
        return self._pass(self._inner.feed(data))

    def close(self) -> bytes:
        return self._pass(self._inner.close())

    def _pass(self, out: bytes) -> bytes:
        if out and self._joiner is not None:
            out = self._joiner.rewrite(out)
        if out:
            self._told.note(out)
        return out

    @property
    def told(self) -> Told:
        return self._told

    @property
    def committed(self) -> bool:
        return self._inner.committed

    @property
    def done(self) -> bool:
        return self._inner.done

    @property
    def finish_reason(self) -> str | None:
        return self._inner.finish_reason

    @property
    def error(self) -> UpstreamError | None:
        return self._inner.error

    @property
    def events(self) -> int:
        return self._inner.events

    @property
    def malformed(self) -> int:
        return self._inner.malformed

    @property
    def mended(self) -> int:
        return self._inner.mended

    @property
    def end_mark_missing(self) -> bool:
        return self._inner.end_mark_missing

    @property
    def usage(self) -> Usage | None:
        return self._inner.usage

    @property
    def text(self) -> bytes | bytearray:
        return self._inner.text

    @property
    def text_bytes(self) -> int:
        return self._inner.text_bytes


def added(one: Usage, other: Usage) -> Usage:
    """The sum; its source is the less certain of the two."""
    order = ("provider", "counted", "estimated")
    return Usage(
        one.input_tokens + other.input_tokens,
        one.output_tokens + other.output_tokens,
        cached_input_tokens=one.cached_input_tokens + other.cached_input_tokens,
        cache_write_tokens=one.cache_write_tokens + other.cache_write_tokens,
        reasoning_tokens=one.reasoning_tokens + other.reasoning_tokens,
        input_audio_tokens=one.input_audio_tokens + other.input_audio_tokens,
        output_audio_tokens=one.output_audio_tokens + other.output_audio_tokens,
        source=max(one.source, other.source, key=lambda source: order.index(str(source))),
    )
