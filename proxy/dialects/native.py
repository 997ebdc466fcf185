"""What the native dialects share: a wire format that is not OpenAI's is decoded into events, and those are told in OpenAI's words.

    upstream bytes --framing (wire/)--> frames --dialect--> events (core/events.py) --ChatEncoder--> the caller's bytes

A dialect of this kind implements `NativeDialect`: `encode_request`, `decode_response`, `decoder` and `decode_error`. Whole answers and
streams go through the same events and the same encoder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import orjson

from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.events import Event, KeepAlive, StreamFailed
from proxy.core.target import Target
from proxy.core.usage import Usage
from proxy.dialects.base import WRONG_SHAPE, AnswerStream, OutboundRequest, WholeAnswer
from proxy.dialects.chat_encoder import StreamDecoder as StreamDecoder  # a dialect's second half: imported from here
from proxy.dialects.chat_encoder import TranslatedStream, encode_whole
from proxy.dialects.openai_chat import MAX_MALFORMED_EVENTS, parse_mending, text_of_completion, whole_to_stream
from proxy.wire.ndjson import LineSplitter, LineTooLarge
from proxy.wire.sse import EventTooLarge, SseSplitter, event_data

_KEEP_ALIVE = KeepAlive()


class NativeDialect(ABC):
    """Implements `OutboundDialect` on top of four methods of the format's own. Stateless: one object serves every request."""

    stream_type: ClassVar[bytes] = b"text/event-stream"

    @abstractmethod
    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        """Raises CallerError for what is wrong in itself, CannotCarry for what this format or target has no words for."""

    @abstractmethod
    def decode_response(self, answer: dict[str, Any], target: Target) -> list[Event]:
        """The events of a whole answer's JSON. Raises UpstreamError for an error in disguise or an object that is no answer."""

    @abstractmethod
    def decoder(self, request: ChatRequest, target: Target) -> StreamDecoder: ...

    @abstractmethod
    def decode_error(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> UpstreamError: ...

    def decode_answer(self, body: bytes, request: ChatRequest, target: Target) -> WholeAnswer:
        parsed, mended = parse_mending(body)
        if mended is None:
            raise UpstreamError(ErrorClass.MALFORMED, "the answer is not valid JSON", status=200)
        if not isinstance(parsed, dict):
            raise UpstreamError(ErrorClass.EMPTY, "the answer is not an object", status=200)
        try:
            events = self.decode_response(parsed, target)
        except WRONG_SHAPE:
            raise UpstreamError(
                ErrorClass.MALFORMED, "the answer is not of the shape that its format asks for", status=200
            ) from None
        answer = encode_whole(events, request, target)
        answer.mended = mended is not body
        return answer

    def text_of(self, body: bytes) -> bytes:
        return text_of_completion(body)

    def answer_stream(self, request: ChatRequest, target: Target) -> AnswerStream:
        return TranslatedStream(self.decoder(request, target), request, target)

    def stream_from_whole(self, body: bytes, request: ChatRequest) -> bytes:
        return whole_to_stream(orjson.loads(body), include_usage=request.include_usage)


class JsonDecoder(ABC):
    """The part of a StreamDecoder that is the same for any framing with a JSON object in each frame: implement `_decode`, and set
    `done` at the end mark."""

    frame: ClassVar[str]  # what it is called in errors

    def __init__(self) -> None:
        self.done = False
        self.frames = 0
        self.malformed = 0
        self.mended = 0
        self._failed = False

    def usage_so_far(self) -> Usage | None:
        return None

    @abstractmethod
    def _decode(self, value: dict[str, Any]) -> list[Event]:
        """The events of one frame. A StreamFailed must be the last."""

    def _read(self, payload: bytes, out: list[Event]) -> None:
        """One frame's JSON. What is none, or has something of the wrong type inside, is malformed."""
        try:
            value = orjson.loads(payload)
        except orjson.JSONDecodeError:
            value, mended = parse_mending(payload)
            self.mended += mended is not None
        try:
            decoded = self._decode(value) if type(value) is dict else None
        except WRONG_SHAPE:
            decoded = None
        if decoded is None:
            self.malformed += 1
            if self.malformed > MAX_MALFORMED_EVENTS:
                out += self._fail(
                    ErrorClass.MALFORMED_EVENT, f"more than {MAX_MALFORMED_EVENTS} {self.frame}s of the stream could not be read"
                )
            return
        out += decoded
        if decoded and type(decoded[-1]) is StreamFailed:
            self._failed = True

    def _over(self) -> bool:
        return self.done or self._failed

    def _fail(self, error_class: ErrorClass, message: str) -> list[Event]:
        self._failed = True
        return [StreamFailed(UpstreamError(error_class, message, status=200))]


class SseDecoder(JsonDecoder):
    """For server-sent events. `[DONE]` is an end mark wherever it comes."""

    frame = "event"

    def __init__(self) -> None:
        super().__init__()
        self._splitter = SseSplitter()

    def feed(self, data: bytes) -> list[Event]:
        if self._over():
            return []
        try:
            events = self._splitter.feed(data)
        except EventTooLarge:
            return self._fail(ErrorClass.TOO_LARGE, "an event of the stream is larger than 1 MiB")
        out: list[Event] = []
        for event in events:
            self.frames += 1
            payload = event[6:] if event[:6] == b"data: " and b"\n" not in event else _payload(event)
            if payload is None:
                out.append(_KEEP_ALIVE)  # a comment
                continue
            if not payload:
                continue
            if payload == b"[DONE]":
                self.done = True
                break
            self._read(payload, out)
            if self.done or self._failed:
                break
        return out

    def close(self) -> list[Event]:
        rest = self._splitter.close()
        return self.feed(rest + b"\n\n") if rest else []


class LineDecoder(JsonDecoder):
    """For an object on each line (NDJSON)."""

    frame = "line"

    def __init__(self) -> None:
        super().__init__()
        self._splitter = LineSplitter()

    def feed(self, data: bytes) -> list[Event]:
        if self._over():
            return []
        try:
            return self._lines(self._splitter.feed(data))
        except LineTooLarge as error:
            out = self._lines(error.lines)
            return out if self._over() else out + self._fail(ErrorClass.TOO_LARGE, "a line of the stream is larger than 1 MiB")

    def close(self) -> list[Event]:
        if self._over():
            return []
        rest = self._splitter.close()
        return self._lines([rest]) if rest else []

    def _lines(self, lines: Sequence[bytes]) -> list[Event]:
        out: list[Event] = []
        for line in lines:
            self.frames += 1
            self._read(line, out)
            if self._over():
                break
        return out


def _payload(event: bytes) -> bytes | None:
    """`event_data`, with the shape that most events of more than a line have read at once: `data: …` below `event: …`."""
    lines = event.split(b"\n")
    if len(lines) == 2 and lines[1][:6] == b"data: " and lines[0][:6] == b"event:":
        return lines[1][6:]
    return event_data(event)
