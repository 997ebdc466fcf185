"""What native dialects stand on, by a toy one: whole answers, streams of server-sent events, and everything that is wrong with both."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.events import Event, Finished, KeepAlive, Started, StreamFailed, TextDelta, UsageReported
from proxy.core.target import Provider, Target
from proxy.core.usage import Usage
from proxy.dialects.base import OutboundDialect, OutboundRequest
from proxy.dialects.native import NativeDialect, SseDecoder, StreamDecoder
from proxy.dialects.openai_chat import DONE, MAX_MALFORMED_EVENTS
from proxy.wire.sse import MAX_EVENT_BYTES
from tests.dialects.fields import chat_request

pytestmark = pytest.mark.unit

TARGET = Target(Provider("toy", "toy", "https://toy.example", ()), "toy-1", "toy-1")


class ToyDecoder(SseDecoder):
    """{"say": text}, {"end": reason}, {"fail": text}, {"bye": true} is the end mark."""

    def _decode(self, event: dict[str, Any]) -> list[Event]:
        if "fail" in event:
            return [TextDelta("last words"), StreamFailed(UpstreamError(ErrorClass.OVERLOADED, event["fail"]))]
        if "bye" in event:
            self.done = True
            return []
        if "end" in event:
            return [Finished(event["end"]["reason"])]
        return [TextDelta(event["say"])] if "say" in event else []


class Toy(NativeDialect):
    """Answers {"said": […], "reason": {"finish": …}, "tokens": […]}."""

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        return OutboundRequest("/toy", b"{}", ())

    def decode_response(self, answer: dict[str, Any], target: Target) -> list[Event]:
        if "error" in answer:
            raise UpstreamError(ErrorClass.AUTH, answer["error"]["message"])
        events: list[Event] = [Started("toy-1-2025"), *[TextDelta(text) for text in answer["said"]]]
        if "reason" in answer:
            events.append(Finished(answer["reason"]["finish"]))
        return [*events, UsageReported(Usage(*answer["tokens"]))]

    def decoder(self, request: ChatRequest, target: Target) -> StreamDecoder:
        return ToyDecoder()

    def decode_error(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> UpstreamError:
        return UpstreamError(ErrorClass.SERVER_ERROR, "toy", status=status)


DIALECT = Toy()
GOOD = {"said": ["Hi", "!"], "reason": {"finish": "stop"}, "tokens": [5, 2]}


def request(**fields: Any) -> ChatRequest:
    return chat_request({"model": "smart", "messages": [{"role": "user", "content": "Hi"}], **fields})


def refused(body: bytes) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        DIALECT.decode_answer(body, request(), TARGET)
    return caught.value


def sse(*values: object) -> bytes:
    return b"".join([b"data: " + orjson.dumps(value) + b"\n\n" for value in values])


def decoded(parts: Sequence[bytes]) -> tuple[list[Event], ToyDecoder]:
    decoder = ToyDecoder()
    events = [event for part in parts for event in decoder.feed(part)]
    return events + decoder.close(), decoder


def text_of(events: Sequence[Event]) -> str:
    return "".join([event.text for event in events if isinstance(event, TextDelta)])


# -- whole answers


def test_a_native_dialect_is_an_outbound_one() -> None:
    dialect: OutboundDialect = DIALECT
    assert dialect.stream_type == b"text/event-stream"


def test_a_whole_answer() -> None:
    answer = DIALECT.decode_answer(orjson.dumps(GOOD), request(), TARGET)
    found = orjson.loads(answer.body)
    assert found["choices"][0]["message"] == {"role": "assistant", "content": "Hi!", "refusal": None}
    assert (found["model"], answer.usage, answer.finish_reason, answer.mended) == ("toy-1-2025", Usage(5, 2), "stop", False)
    assert DIALECT.text_of(answer.body) == b"Hi!"


@pytest.mark.parametrize("text", [b"caf\xe9", b"\\ud83d!", b"\xff"], ids=["latin-1", "half a pair", "no utf-8"])
def test_text_that_is_no_utf_8_is_mended(text: bytes) -> None:
    answer = DIALECT.decode_answer(b'{"said": ["%b"], "tokens": [1, 1]}' % text, request(), TARGET)
    assert answer.mended
    assert "\ufffd" in orjson.loads(answer.body)["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"<html>", ErrorClass.MALFORMED),
        (b'{"said": ["Hi"', ErrorClass.MALFORMED),
        (b"null", ErrorClass.EMPTY),
        (b"[]", ErrorClass.EMPTY),
        (b'"Hi"', ErrorClass.EMPTY),
        (b'{"error": {"message": "bad key"}}', ErrorClass.AUTH),
        (b'{"error": "bad key"}', ErrorClass.MALFORMED),
        (b"{}", ErrorClass.MALFORMED),
        (b'{"said": null}', ErrorClass.MALFORMED),
        (b'{"said": [], "reason": "stop", "tokens": []}', ErrorClass.MALFORMED),
        (b'{"said": [], "tokens": [1, 1]}', ErrorClass.EMPTY),
    ],
)
def test_a_200_that_is_no_answer(body: bytes, expected: ErrorClass) -> None:
    assert refused(body).error_class is expected


def test_a_whole_answer_as_the_stream_that_was_asked_for() -> None:
    asked = request(stream=True, stream_options={"include_usage": True})
    body = DIALECT.decode_answer(orjson.dumps(GOOD), asked, TARGET).body
    out = DIALECT.stream_from_whole(body, asked)
    chunks = [orjson.loads(event[6:]) for event in out.split(b"\n\n")[:-2]]
    assert chunks[0]["choices"][0]["delta"]["content"] == "Hi!"
    assert chunks[1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[2]["usage"]["total_tokens"] == 7
    assert {(chunk["id"], chunk["model"], chunk["created"]) for chunk in chunks} == {
        (chunks[0]["id"], "toy-1-2025", asked.created)
    }
    assert out.endswith(DONE)


# -- streams

FRAMES = [
    b": a comment\n\n",
    b'data: {"say":"a"}\n\n',
    b'data:{"say":"b"}\r\n\r\n',
    b'event: say\ndata: {"say":"c"}\n\n',
    b'event:say\r\nid: 7\r\ndata: {"say":\r\ndata: "d"}\r\n\r\n',
    b'data: {"say":\ndata: "e"}\n\n',
    b'event: say\ndata: {"say":\ndata: "f"}\n\n',
    b"event: ping\n\n",
    b"data:\n\n",
    b"\n\n",
    'data: {"say":"é\u2028\u0085🌍"}\n\n'.encode(),
    b'data: {"unknown":["things"]}\n\n',
    b'data: {"say":"\xff"}\n\n',
    b'data: {"say":"\\ud83d"}\n\n',
    b'data: {"end":{"reason":"stop"}}\n\n',
]


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", sse({"bye": True}), b""])
def test_every_framing_of_an_event_is_read(end: bytes) -> None:
    events, decoder = decoded([b"".join(FRAMES) + end])
    assert text_of(events) == "abcdefé\u2028\u0085🌍\ufffd\ufffd"
    assert (events[0], events[-1]) == (KeepAlive(), Finished("stop"))
    assert sum(isinstance(event, KeepAlive) for event in events) == 2  # an event of a name alone is no more than that either
    assert (decoder.done, decoder.frames, decoder.malformed, decoder.mended) == (bool(end), len(FRAMES) - 1 + bool(end), 0, 2)


@pytest.mark.property
@given(st.lists(st.sampled_from(FRAMES), max_size=6), st.sampled_from((b"data: [DONE]\n\n", b'data: {"say":"cut')), st.data())
def test_however_the_bytes_are_cut_the_same_events_come_out(frames: list[bytes], end: bytes, data: st.DataObject) -> None:
    raw = b"".join(frames) + end
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)))))
    edges = [0, *cuts, len(raw)]
    pieces = [raw[start:stop] for start, stop in pairwise(edges)]
    seen = []
    for parts in ([raw], pieces, [raw[at : at + 1] for at in range(len(raw))]):
        events, decoder = decoded(parts)
        seen.append((events, decoder.done, decoder.frames, decoder.malformed, decoder.mended))
    assert seen[0] == seen[1] == seen[2]


def test_a_letter_cut_between_reads_is_whole() -> None:
    raw = sse({"say": "é🌍"})
    for cut in range(len(raw)):
        assert text_of(decoded([raw[:cut], raw[cut:]])[0]) == "é🌍"


def test_nothing_is_read_after_the_end_mark() -> None:
    decoder = ToyDecoder()
    events = decoder.feed(sse({"say": "a"}, {"bye": True}, {"say": "b"}))
    assert (text_of(events), decoder.done, decoder.frames) == ("a", True, 2)
    assert decoder.feed(sse({"say": "c"})) == decoder.close() == []


def test_a_failure_is_the_last_event() -> None:
    decoder = ToyDecoder()
    events = decoder.feed(sse({"say": "a"}, {"fail": "too busy"}, {"say": "b"}))
    assert [type(event) for event in events] == [TextDelta, TextDelta, StreamFailed]
    assert decoder.feed(sse({"say": "c"})) == decoder.close() == []
    assert not decoder.done


@pytest.mark.parametrize(
    "bad", [b"data: {\n\n", b"data: null\n\n", b"data: [1]\n\n", b'data: {"end":"stop"}\n\n', b'data: {"end":{}}\n\n']
)
def test_events_that_cannot_be_read_are_skipped_up_to_a_bound(bad: bytes) -> None:
    good = sse({"say": "a"})
    events, decoder = decoded([good + bad * MAX_MALFORMED_EVENTS + good])
    assert (text_of(events), decoder.malformed) == ("aa", MAX_MALFORMED_EVENTS)
    events, decoder = decoded([good + bad * (MAX_MALFORMED_EVENTS + 1) + good])
    assert text_of(events) == "a"
    assert isinstance(events[-1], StreamFailed)
    assert events[-1].error.error_class is ErrorClass.MALFORMED_EVENT
    assert decoder.feed(good) == []


@pytest.mark.parametrize("over", [0, 1])
def test_an_event_has_a_bound(over: int) -> None:
    filler = MAX_EVENT_BYTES - len(b'data: {"say":""}') + over
    events, _ = decoded([b'data: {"say":"%b"}\n\n' % (b"a" * filler)])
    if over:
        assert isinstance(events[0], StreamFailed)
        assert events[0].error.error_class is ErrorClass.TOO_LARGE
    else:
        assert len(text_of(events)) == filler


def test_an_event_that_is_not_ended_is_read_at_the_close() -> None:
    assert text_of(decoded([b'data: {"say":"a"}'])[0]) == "a"
    assert text_of(decoded([b'data: {"say":"a"}\r'])[0]) == "a"
    events, decoder = decoded([b'data: {"say":"a"}\n\ndata: {"say":"b'])
    assert (text_of(events), decoder.malformed) == ("a", 1)


def test_an_end_mark_that_is_not_ended_is_one() -> None:
    stream = DIALECT.answer_stream(request(stream=True), TARGET)
    out = stream.feed(sse({"say": "a"}) + b"data: [DONE]") + stream.close()
    assert (stream.error, stream.end_mark_missing, stream.finish_reason) == (None, False, "stop")
    assert out.endswith(DONE)


def test_a_stream_through_the_dialect() -> None:
    stream = DIALECT.answer_stream(request(stream=True), TARGET)
    out = stream.feed(b"".join(FRAMES[:4]))
    out += stream.feed(sse({"end": {"reason": "length"}}) + b"data: [DONE]\n\n")
    assert (stream.done, stream.committed, stream.finish_reason, bytes(stream.text), stream.events) == (
        True,
        True,
        "length",
        b"abc",
        6,
    )
    out += stream.close()
    assert out.startswith(b": keep-alive\n\n")
    assert out.endswith(DONE)
    assert b"toy-1" in out
