"""Events told in OpenAI's words: as `chat.completion.chunk` events while they come, or as one `chat.completion` when all are there.

https://platform.openai.com/docs/api-reference/chat/streaming and …/chat/object

    event             in a chunk                                            in a whole answer
    TextDelta         delta.content                                         message.content
    RefusalDelta      delta.refusal                                         message.refusal
    ThinkingDelta     delta.reasoning_content                               message.reasoning_content
    ReasoningDetail   delta.reasoning_details: [{index, …, provider}]       message.reasoning_details
    ToolCall…         delta.tool_calls: [{index, id, type, function}]       message.tool_calls
    ImageDelta        delta.images: [{index, type, image_url: {url}}]       message.images
    Annotation        delta.annotations: [{index, …}]                       message.annotations
    LogprobsDelta     logprobs.content of the choice                        the same
    Extra             delta.provider_extras: {name: [value, …]}             message.provider_extras
    KeepAlive         a comment
    Started           model, of every chunk                                 model
    UsageReported     usage, in a last chunk without choices                usage
    Finished          finish_reason, in a chunk of its own at the end       finish_reason

As the caller sees it:    (delta with the role)  delta*  extras?  finish      for each choice, then   usage?  [DONE]

Lists in a delta carry an `index`, for the openai SDK merges the objects of lists by it and fails on those without. The values of Extra
have no place for one, so they are held and told all at once before the finish.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, assert_never

import orjson

from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.events import (
    Annotation,
    ChoiceEvent,
    Event,
    Extra,
    Finished,
    FinishReason,
    ImageDelta,
    KeepAlive,
    LogprobsDelta,
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
from proxy.core.usage import Usage
from proxy.dialects.base import MAX_KEPT_TEXT_BYTES, WholeAnswer
from proxy.dialects.openai_chat import DONE, completion_id, usage_object

MAX_DEPTH = 200  # orjson reads 1024 levels and writes 254
MAX_HELD_EXTRAS_BYTES = 1024 * 1024  # of one choice; more than that is told early

_KEEP_ALIVE = b": keep-alive\n\n"
_END = b'},"finish_reason":null}]}\n\n'
# how the first delta of a choice begins: beside text, beside thoughts and the like, beside what comes in place of text
_ROLE = b'"role":"assistant",'
_ROLE_AND_CONTENT = b'"role":"assistant","content":"",'
_ROLE_AND_NULL = b'"role":"assistant","content":null,'


class StreamDecoder(Protocol):
    """A streamed answer from bytes to events. `feed` and `close` never raise: a fault is a StreamFailed, and nothing follows it.

    `done`: the format's own end mark was read. `frames`: whole frames so far, keep-alives included, `malformed` those that could not
    be read (more than MAX_MALFORMED_EVENTS end the stream), `mended` those whose text was no valid UTF-8.
    """

    done: bool
    frames: int
    malformed: int
    mended: int

    def feed(self, data: bytes) -> list[Event]: ...

    def usage_so_far(self) -> Usage | None:
        """What the upstream has said and no event has told yet: some say it with every chunk, and only the last one counts."""
        ...

    def close(self) -> list[Event]:
        """The bytes have ended: what was still held. Whether the answer is whole, the encoder judges by Finished and `done`."""
        ...


@dataclass(slots=True)
class _Telling:
    """How far one choice has been told. `calls`: the tool calls that have not ended, and whether arguments have come for them."""

    choice: int
    begun: bool = False
    called: bool = False
    calls: dict[int, bool] = field(default_factory=dict)
    listed: dict[str, int] = field(default_factory=dict)  # how many entries each list has
    extras: dict[str, list[bytes]] = field(default_factory=dict)
    extras_bytes: int = 0
    reason: FinishReason | None = None


class ChatEncoder:
    """Events to the bytes of a chat stream. However the events are grouped into `feed` calls, the same bytes come out.

    `close` tells the end: what finished, the usage if it was asked for, `[DONE]`. It is not for a stream that failed.
    """

    __slots__ = ("_begun", "_choices", "_head", "_model", "_request", "_target", "_text_head", "_usage")

    def __init__(self, request: ChatRequest, target: Target) -> None:
        self._request = request
        self._target = target
        self._choices: dict[int, _Telling] = {}
        self._model = ""
        self._head = b""  # of every chunk, up to the index of the choice
        self._text_head = b""  # of a chunk with text of choice 0, by far the most,
        self._begun = False  # once that choice has begun
        self._usage: Usage | None = None

    @property
    def finish_reason(self) -> FinishReason | None:
        """Of the first choice that has one."""
        return next((self._choices[choice].reason for choice in sorted(self._choices) if self._choices[choice].reason), None)

    @property
    def finished(self) -> bool:
        """There is a choice, and each has said why it ended."""
        return bool(self._choices) and all(telling.reason is not None for telling in self._choices.values())

    def feed(self, events: Iterable[Event]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if type(event) is TextDelta and self._begun and event.choice == 0:
                if event.text:
                    out.append(self._text_head + _json(event.text) + _END)
            elif type(event) is UsageReported:  # with every chunk, at some
                self._usage = event.usage
            else:
                out.append(self._encode(event))
        return b"".join(out)

    def close(self) -> bytes:
        if not self._choices:
            self._telling(0)  # an answer of nothing is one all the same
        out = [self._finish(self._choices[choice]) for choice in sorted(self._choices)]
        if self._request.include_usage and self._usage is not None:
            out.append(b"data: %b\n\n" % _json({**self._base(), "choices": [], "usage": usage_object(self._usage)}))
        out.append(DONE)
        return b"".join(out)

    def _encode(self, event: Event) -> bytes:
        match event:
            case Started(model):
                self._model = self._model or model or ""
                return b""
            case KeepAlive():
                return _KEEP_ALIVE
            case StreamFailed() | UsageReported():
                return b""  # a failure is told by the engine, once the attempt is settled
            case _:
                return self._encode_delta(self._telling(event.choice), event)

    def _encode_delta(self, telling: _Telling, event: ChoiceEvent) -> bytes:
        match event:
            case TextDelta(text):
                return self._delta(telling, b'"content":' + _json(text), _ROLE) if text else b""
            case ThinkingDelta(text):
                return self._delta(telling, b'"reasoning_content":' + _json(text), _ROLE_AND_CONTENT) if text else b""
            case ToolArgsDelta(index, text):
                return self._arguments(telling, index, text) if text else b""
            case ToolCallStarted(index, id_, name):
                telling.called = True
                telling.calls[index] = False
                call = b'{"index":%d,"id":%b,"type":"function","function":{"name":%b,"arguments":""}}'
                return self._delta(telling, b'"tool_calls":[%b]' % (call % (index, _json(id_), _json(name))), _ROLE_AND_NULL)
            case ToolCallEnded(index):
                has_arguments = telling.calls.pop(index, True)
                return b"" if has_arguments else self._arguments(telling, index, "{}")
            case RefusalDelta(text):
                return self._delta(telling, b'"refusal":' + _json(text), _ROLE_AND_NULL) if text else b""
            case ReasoningDetail(detail):
                return self._entry(telling, "reasoning_details", {**detail, "provider": self._target.provider.name})
            case ImageDelta(url):
                return self._entry(telling, "images", _image(url))
            case Annotation(annotation):
                return self._entry(telling, "annotations", annotation)
            case LogprobsDelta(content):
                return self._logprobs(telling, content) if content else b""
            case Extra(name, value):
                return self._hold_extra(telling, name, value)
            case Finished(reason):
                telling.reason = reason
                return b""
            case _:
                assert_never(event)

    # -- pieces

    def _telling(self, choice: int) -> _Telling:
        telling = self._choices.get(choice)
        if telling is None:
            telling = self._choices[choice] = _Telling(choice)
        return telling

    def _arguments(self, telling: _Telling, index: int, text: str) -> bytes:
        if index in telling.calls:
            telling.calls[index] = True
        call = b'"tool_calls":[{"index":%d,"function":{"arguments":%b}}]' % (index, _json(text))
        return self._delta(telling, call, _ROLE_AND_NULL)

    def _entry(self, telling: _Telling, name: str, entry: Mapping[str, Any]) -> bytes:
        """One more of a list. An `index` of the upstream's own would take the place of ours, by which callers merge."""
        index = telling.listed.get(name, 0)
        telling.listed[name] = index + 1
        return self._delta(telling, b'"%b":[%b]' % (name.encode(), _json({**entry, "index": index})), _ROLE_AND_CONTENT)

    def _logprobs(self, telling: _Telling, content: list[dict[str, Any]]) -> bytes:
        delta = self._delta(telling, b"", _ROLE_AND_CONTENT[:-1]).removesuffix(_END)
        return b'%b},"logprobs":{"content":%b,"refusal":null%b' % (delta, _json(content), _END)

    def _hold_extra(self, telling: _Telling, name: str, value: object) -> bytes:
        raw = _json(value)
        telling.extras.setdefault(name, []).append(raw)
        telling.extras_bytes += len(name) + len(raw)
        return self._tell_extras(telling) if telling.extras_bytes > MAX_HELD_EXTRAS_BYTES else b""

    def _tell_extras(self, telling: _Telling) -> bytes:
        if not telling.extras:
            return b""
        members = [b"%b:[%b]" % (_json(name), b",".join(values)) for name, values in telling.extras.items()]
        telling.extras = {}
        telling.extras_bytes = 0
        return self._delta(telling, b'"provider_extras":{%b}' % b",".join(members), _ROLE_AND_CONTENT)

    def _finish(self, telling: _Telling) -> bytes:
        out = [self._encode_delta(telling, ToolCallEnded(index)) for index in sorted(telling.calls)]
        out.append(self._tell_extras(telling))
        if not telling.begun:
            out.append(self._delta(telling, b"", _ROLE_AND_CONTENT[:-1]))
        telling.reason = telling.reason or ("tool_calls" if telling.called else "stop")
        out.append(b'%b%d,"delta":{},"finish_reason":"%b"}]}\n\n' % (self._head, telling.choice, telling.reason.encode()))
        return b"".join(out)

    def _delta(self, telling: _Telling, members: bytes, role: bytes) -> bytes:
        """A chunk with one delta; the first of a choice names the role, with `role` standing in front of it."""
        if telling.begun:
            return b'%b%d,"delta":{%b%b' % (self._head, telling.choice, members, _END)
        telling.begun = True
        if not self._head:
            self._head = b'data: %b,"choices":[{"index":' % _json(self._base())[:-1]
        if telling.choice == 0:
            self._text_head = self._head + b'0,"delta":{"content":'
            self._begun = True
        return b'%b%d,"delta":{%b%b%b' % (self._head, telling.choice, role, members, _END)

    def _base(self) -> dict[str, Any]:
        """What every chunk says, the same in all of them: from the first on, a model that is named later is not heard."""
        self._model = self._model or self._target.upstream_model
        return {
            "id": completion_id(self._request),
            "object": "chat.completion.chunk",
            "created": self._request.created,
            "model": self._model,
        }


class TranslatedStream:
    """One streamed answer, decoded and told anew. Implements `AnswerStream`.

    The end is held back until `close`, so that an answer which breaks after its finish reason never looks whole.
    """

    __slots__ = (
        "_decoder",
        "_encoder",
        "_usage",
        "committed",
        "done",
        "end_mark_missing",
        "error",
        "events",
        "finish_reason",
        "malformed",
        "mended",
        "text",
        "text_bytes",
    )

    def __init__(self, decoder: StreamDecoder, request: ChatRequest, target: Target) -> None:
        self._decoder = decoder
        self._encoder = ChatEncoder(request, target)
        self.committed = False
        self.done = False
        self._usage: Usage | None = None
        self.finish_reason: str | None = None
        self.error: UpstreamError | None = None
        self.text = bytearray()
        self.text_bytes = 0
        self.events = 0
        self.malformed = 0
        self.mended = 0
        self.end_mark_missing = False

    @property
    def usage(self) -> Usage | None:
        return self._usage or self._decoder.usage_so_far()

    def feed(self, data: bytes) -> bytes:
        if self.done or self.error is not None:
            return b""
        decoder = self._decoder
        out = self._take(decoder.feed(data))
        self.done = decoder.done and self.error is None
        return out

    def close(self) -> bytes:
        if self.error is not None:
            return b""
        out = b""
        if not self.done:
            out = self._take(self._decoder.close())
            if self._failed():
                return out
            if not self._decoder.done and not self._encoder.finished:
                self.error = self._not_whole()
                return out
            self.end_mark_missing = not self._decoder.done
            self.done = True
        if not self.committed and self.finish_reason is None:
            self.error = _nothing()
            return b""
        out += self._encoder.close()
        self.finish_reason = self._encoder.finish_reason
        return out

    def _take(self, events: list[Event]) -> bytes:
        decoder = self._decoder
        self.events, self.malformed, self.mended = decoder.frames, decoder.malformed, decoder.mended
        texts: list[str] = []
        for position, event in enumerate(events):
            if type(event) is TextDelta or type(event) is ThinkingDelta or type(event) is ToolArgsDelta:
                if event.text:
                    texts.append(event.text)
            elif type(event) is UsageReported:
                self._usage = event.usage
            elif type(event) is StreamFailed:
                self.error = event.error
                events = events[:position]
                break
            else:
                self._note(event, texts)
        if texts:
            self._note_content("".join(texts))
        return self._encoder.feed(events)

    def _note(self, event: Event, texts: list[str]) -> None:
        match event:
            case ToolCallStarted(name=name):
                texts.append(name)
            case RefusalDelta(text):
                if text:
                    texts.append(text)
            case ReasoningDetail() | ImageDelta() | Annotation():
                self.committed = True
            case LogprobsDelta(content):
                if content:
                    self.committed = True
            case Finished(reason):
                self.finish_reason = reason
            case _:
                pass  # no content

    def _note_content(self, text: str) -> None:
        self.committed = True
        raw = text.encode("utf-8", "replace")
        self.text_bytes += len(raw)
        room = MAX_KEPT_TEXT_BYTES - len(self.text)
        if room > 0:
            self.text += raw[:room]

    def _failed(self) -> bool:
        return self.error is not None

    def _not_whole(self) -> UpstreamError:
        if self.events == self.malformed and not self.committed:
            kind = ErrorClass.MALFORMED if self.malformed else ErrorClass.EMPTY
            return UpstreamError(kind, "the stream ended without any event that could be read", status=200)
        return UpstreamError(ErrorClass.TRUNCATED, "the stream ended without a finish reason or an end mark", status=200)


@dataclass(slots=True)
class CollectedCall:
    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class CollectedChoice:
    """One choice of an answer, put together. `reason` None: it never said."""

    text: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    details: list[dict[str, Any]] = field(default_factory=list)
    calls: dict[int, CollectedCall] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    extras: dict[str, list[Any]] = field(default_factory=dict)
    reason: FinishReason | None = None

    @property
    def has_content(self) -> bool:
        if any(self.text) or any(self.refusal) or any(self.thoughts):
            return True
        return bool(self.details or self.calls or self.images or self.annotations or self.logprobs)


@dataclass(slots=True)
class Collected:
    model: str | None = None
    usage: Usage | None = None
    choices: dict[int, CollectedChoice] = field(default_factory=dict)


def collect(events: Iterable[Event]) -> Collected:
    """The answer that events add up to, streamed or not. Raises the UpstreamError of a StreamFailed."""
    found = Collected()
    for event in events:
        match event:
            case Started(model):
                found.model = found.model or model
            case UsageReported(usage):
                found.usage = usage
            case StreamFailed(error):
                raise error
            case KeepAlive():
                pass
            case _:
                choice = found.choices.get(event.choice)
                if choice is None:
                    choice = found.choices[event.choice] = CollectedChoice()
                _add(choice, event)
    return found


def _add(choice: CollectedChoice, event: ChoiceEvent) -> None:
    match event:
        case TextDelta(text):
            choice.text.append(text)
        case RefusalDelta(text):
            choice.refusal.append(text)
        case ThinkingDelta(text):
            choice.thoughts.append(text)
        case ReasoningDetail(detail):
            choice.details.append(detail)
        case ToolCallStarted(index, id_, name):
            choice.calls[index] = CollectedCall(id_, name)
        case ToolArgsDelta(index, text):
            if index in choice.calls:
                choice.calls[index].arguments.append(text)
        case ToolCallEnded():
            pass
        case ImageDelta(url):
            choice.images.append(url)
        case Annotation(annotation):
            choice.annotations.append(annotation)
        case LogprobsDelta(content):
            choice.logprobs += content
        case Extra(name, value):
            choice.extras.setdefault(name, []).append(value)
        case Finished(reason):
            choice.reason = reason
        case _:
            assert_never(event)


def encode_whole(events: Iterable[Event], request: ChatRequest, target: Target) -> WholeAnswer:
    """A whole `chat.completion`. Raises UpstreamError: a StreamFailed's own, EMPTY when nothing came and nothing finished."""
    found = collect(events)
    if not any(choice.has_content or choice.reason for choice in found.choices.values()):
        raise _nothing()
    choices = sorted(found.choices.items())
    answer: dict[str, Any] = {
        "id": completion_id(request),
        "object": "chat.completion",
        "created": request.created,
        "model": found.model or target.upstream_model,
        "choices": [_choice_object(index, choice, target.provider.name) for index, choice in choices],
    }
    if found.usage is not None:
        answer["usage"] = usage_object(found.usage)
    return WholeAnswer(_json(answer), found.usage, _reason(choices[0][1]))


def _choice_object(index: int, choice: CollectedChoice, provider: str) -> dict[str, Any]:
    text, refusal = "".join(choice.text), "".join(choice.refusal)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if not text and (choice.calls or refusal) else text,
        "refusal": refusal or None,
    }
    optional = {
        "reasoning_content": "".join(choice.thoughts),
        "reasoning_details": [{**detail, "provider": provider} for detail in choice.details],
        "tool_calls": [_call_object(call) for call in choice.calls.values()],
        "images": [_image(url) for url in choice.images],
        "annotations": choice.annotations,
        "provider_extras": choice.extras,
    }
    message |= {name: value for name, value in optional.items() if value}
    logprobs = {"content": choice.logprobs, "refusal": None} if choice.logprobs else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": _reason(choice)}


def _reason(choice: CollectedChoice) -> FinishReason:
    return choice.reason or ("tool_calls" if choice.calls else "stop")


def _call_object(call: CollectedCall) -> dict[str, Any]:
    arguments = "".join(call.arguments) or "{}"
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def _nothing() -> UpstreamError:
    return UpstreamError(ErrorClass.EMPTY, "the answer ended without any content", status=200)


def _json(value: object) -> bytes:
    """JSON of what came out of JSON, and of text that was cut between the halves of a surrogate pair."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_mended(value, MAX_DEPTH))


def _mended(value: Any, depth: int) -> Any:
    """Without lone surrogates, and without what lies deeper than can be written."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        return {_mended(name, depth): _mended(inner, depth - 1) for name, inner in value.items()} if depth else None
    if isinstance(value, list):
        return [_mended(inner, depth - 1) for inner in value] if depth else None
    return value
