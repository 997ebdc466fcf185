"""Events in OpenAI's words, streamed and whole: what the openai SDK reads, the rules of a stream, and what is made of broken ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming._deltas import accumulate_delta
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.events import (
    Annotation,
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
from proxy.core.target import Provider, Target
from proxy.core.usage import Usage
from proxy.dialects.base import MAX_KEPT_TEXT_BYTES
from proxy.dialects.chat_encoder import (
    MAX_HELD_EXTRAS_BYTES,
    ChatEncoder,
    TranslatedStream,
    collect,
    encode_whole,
)
from proxy.dialects.openai_chat import DONE, completion_id, usage_object
from tests.dialects.fields import CREATED, REQUEST_ID, chat_request

pytestmark = pytest.mark.unit

TARGET = Target(Provider("acme", "acme", "https://acme.example", ()), "acme-large", "acme-large")
USAGE = Usage(
    100, 20, cached_input_tokens=60, cache_write_tokens=30, reasoning_tokens=8, input_audio_tokens=5, output_audio_tokens=2
)
DETAIL = {"type": "reasoning.text", "text": "Hm.", "signature": "c2ln", "format": "acme"}
CITATION = {"type": "url_citation", "url_citation": {"url": "https://a.example", "title": "A", "start_index": 0, "end_index": 2}}
TOKEN = {"token": "Hi", "logprob": -0.25, "bytes": [72, 105], "top_logprobs": []}


def request(*, include_usage: bool = True) -> ChatRequest:
    body = {"model": "smart", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    return chat_request({**body, "stream_options": {"include_usage": True}} if include_usage else body)


def told(events: Iterable[Event], *, include_usage: bool = True) -> bytes:
    encoder = ChatEncoder(request(include_usage=include_usage), TARGET)
    return encoder.feed(events) + encoder.close()


def chunks(out: bytes) -> list[dict[str, Any]]:
    """Read like a caller would: comments and the end mark aside."""
    events = out.split(b"\n\n")
    assert events.pop() == b""
    payloads = [event.removeprefix(b"data: ") for event in events if not event.startswith(b":")]
    return [orjson.loads(payload) for payload in payloads if payload != b"[DONE]"]


def deltas(out: bytes) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in chunks(out) if chunk["choices"]]


def accumulated(out: bytes) -> dict[int, dict[str, Any]]:
    """{choice: {message, finish_reason, logprobs}} as the openai SDK adds up deltas."""
    found: dict[int, dict[str, Any]] = {}
    for chunk in chunks(out):
        for choice in chunk["choices"]:
            state = found.setdefault(choice["index"], {"message": {}, "finish_reason": None, "logprobs": []})
            state["message"] = accumulate_delta(state["message"], copy.deepcopy(choice["delta"]))
            state["finish_reason"] = choice["finish_reason"] or state["finish_reason"]
            state["logprobs"] += (choice.get("logprobs") or {}).get("content") or []
    return found


def whole(events: Sequence[Event]) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(encode_whole(events, request(), TARGET).body)
    return found


def message_of(events: Sequence[Event]) -> dict[str, Any]:
    found: dict[str, Any] = whole(events)["choices"][0]["message"]
    return found


class Script:
    """A StreamDecoder for bytes that are numbers: byte n brings the events of frame n. `mark`: the byte that is the end mark."""

    def __init__(self, frames: Sequence[Sequence[Event]], *, mark: int | None = None, at_close: Sequence[Event] = ()) -> None:
        self._frames = frames
        self._mark = mark
        self._at_close = list(at_close)
        self.done = False
        self.frames = 0
        self.malformed = 0
        self.mended = 0

    def feed(self, data: bytes) -> list[Event]:
        out: list[Event] = []
        for number in data:
            self.frames += 1
            if number == self._mark:
                self.done = True
                break
            out += self._frames[number]
        return out

    def usage_so_far(self) -> Usage | None:
        return None

    def close(self) -> list[Event]:
        return self._at_close


def translated(frames: Sequence[Sequence[Event]], *, mark: int | None = None, at_close: Sequence[Event] = ()) -> TranslatedStream:
    return TranslatedStream(Script(frames, mark=mark, at_close=at_close), request(), TARGET)


def error(kind: ErrorClass = ErrorClass.OVERLOADED) -> UpstreamError:
    return UpstreamError(kind, "too busy", status=529)


# -- any legal answer

texts = st.text(max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)
# an entry of a list as it may be: with an index of the upstream's own, too
entries = st.fixed_dictionaries(
    {"type": st.sampled_from(("reasoning.text", "reasoning.encrypted"))},
    optional={"data": texts, "index": st.integers(0, 9), "more": st.lists(st.integers(0, 9), max_size=2)},
)
usages = st.builds(Usage, *[st.integers(0, 10**6)] * 7)
reasons: st.SearchStrategy[FinishReason] = st.sampled_from(("stop", "length", "tool_calls", "content_filter"))


# whatever may come at any time, made by its choice
ANYTIME: dict[str, Callable[[int], st.SearchStrategy[Event]]] = {
    "text": lambda choice: st.builds(TextDelta, texts, st.just(choice)),
    "think": lambda choice: st.builds(ThinkingDelta, texts, st.just(choice)),
    "refuse": lambda choice: st.builds(RefusalDelta, texts, st.just(choice)),
    "detail": lambda choice: st.builds(ReasoningDetail, entries, st.just(choice)),
    "image": lambda choice: st.builds(ImageDelta, st.sampled_from(("https://a.example", "https://b.example")), st.just(choice)),
    "cite": lambda choice: st.just(Annotation(CITATION, choice)),
    "probability": lambda choice: st.builds(LogprobsDelta, st.lists(st.just(TOKEN), max_size=2), st.just(choice)),
    "extra": lambda choice: st.builds(Extra, st.sampled_from(("grounding", "safety")), json_values, st.just(choice)),
    "usage": lambda choice: st.builds(UsageReported, usages),
    "ping": lambda choice: st.just(KeepAlive()),
}


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """By the grammar of `core/events.py`, calls interleaved and all, with the parts that may be missing sometimes missing."""
    events: list[Event] = [Started(draw(st.none() | st.just("acme-large-2025")))] if draw(st.booleans()) else []
    choices = draw(st.integers(1, 2))
    open_calls: list[tuple[int, int]] = []
    calls = [0] * choices
    for kind in draw(st.lists(st.sampled_from(("call", "arguments", "arguments", "end", *ANYTIME)), max_size=12)):
        choice = draw(st.integers(0, choices - 1))
        if kind == "call":
            events.append(ToolCallStarted(calls[choice], f"call_{choice}_{calls[choice]}", draw(texts), choice))
            open_calls.append((choice, calls[choice]))
            calls[choice] += 1
        elif kind == "arguments" and open_calls:
            of, index = draw(st.sampled_from(open_calls))
            events.append(ToolArgsDelta(index, draw(texts), of))
        elif kind == "end" and open_calls:
            of, index = open_calls.pop(draw(st.integers(0, len(open_calls) - 1)))
            events.append(ToolCallEnded(index, of))
        elif kind in ANYTIME:
            events.append(draw(ANYTIME[kind](choice)))
    events += [Finished(draw(reasons), None, choice) for choice in range(choices)]
    if draw(st.booleans()):
        events += [KeepAlive(), UsageReported(draw(usages))]
    return events


@pytest.mark.property
@given(answers(), st.lists(st.integers(0, 40)))
def test_however_events_are_grouped_the_same_bytes_come_out(events: list[Event], cuts: list[int]) -> None:
    expected = told(events)
    encoder = ChatEncoder(request(), TARGET)
    edges = [0, *sorted(cut for cut in cuts if cut < len(events)), len(events)]
    out = b"".join([encoder.feed(events[start:end]) for start, end in pairwise(edges)])
    assert out + encoder.close() == expected
    one_by_one = ChatEncoder(request(), TARGET)
    assert b"".join([one_by_one.feed([event]) for event in events]) + one_by_one.close() == expected


@pytest.mark.property
@given(answers())
def test_what_a_stream_adds_up_to_is_the_whole_answer(events: list[Event]) -> None:
    answer = whole(events)
    out = told(events)
    found = accumulated(out)
    assert sorted(found) == [choice["index"] for choice in answer["choices"]]
    for choice in answer["choices"]:
        streamed = found[choice["index"]]
        message = choice["message"]
        for name in ("reasoning_details", "tool_calls", "images", "annotations"):
            listed = streamed["message"].get(name, [])
            assert [entry.pop("index") for entry in listed] == list(range(len(listed)))
            expected = [{key: value for key, value in entry.items() if key != "index"} for entry in message.get(name, [])]
            assert listed == expected
        for name in ("content", "refusal", "reasoning_content"):
            assert (streamed["message"].get(name) or "") == (message.get(name) or "")
        assert streamed["message"].get("provider_extras") == message.get("provider_extras")
        assert streamed["message"]["role"] == message["role"]
        assert streamed["finish_reason"] == choice["finish_reason"]
        assert streamed["logprobs"] == (choice["logprobs"] or {"content": []})["content"]
    usage = [chunk["usage"] for chunk in chunks(out) if "usage" in chunk]
    assert usage == ([answer["usage"]] if "usage" in answer else [])


@pytest.mark.property
@given(answers(), st.booleans())
def test_a_stream_keeps_the_rules_and_the_sdks_types(events: list[Event], include_usage: bool) -> None:
    out = told(events, include_usage=include_usage)
    assert out.endswith(DONE)
    assert out.count(b"data: [DONE]") == 1
    found = chunks(out)
    for chunk in found:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    assert {(chunk["id"], chunk["object"], chunk["created"]) for chunk in found} == {
        (f"chatcmpl-{REQUEST_ID}", "chat.completion.chunk", CREATED)
    }
    assert len({chunk["model"] for chunk in found}) == 1
    without_choices = [position for position, chunk in enumerate(found) if not chunk["choices"]]
    assert without_choices in ([], [len(found) - 1])
    assert include_usage or not without_choices
    assert [position for position, chunk in enumerate(found) if "usage" in chunk] == without_choices
    for index in {chunk["choices"][0]["index"] for chunk in found if chunk["choices"]}:
        own = [chunk["choices"][0] for chunk in found if chunk["choices"] and chunk["choices"][0]["index"] == index]
        assert [position for position, choice in enumerate(own) if "role" in choice["delta"]] == [0]
        assert [position for position, choice in enumerate(own) if choice["finish_reason"]] == [len(own) - 1]
        assert own[-1]["delta"] == {}


@pytest.mark.property
@given(answers())
def test_a_whole_answer_is_of_the_sdks_types(events: list[Event]) -> None:
    answer = whole(events)
    ChatCompletion.model_validate(answer, strict=True)
    for choice in answer["choices"]:  # and but for what OpenAI has no words for, of nothing else
        for name in ("reasoning_content", "reasoning_details", "images", "provider_extras"):
            choice["message"].pop(name, None)
    ChatCompletion.model_validate(answer, strict=True, extra="forbid")


# -- streams


def test_a_plain_answer_looks_like_openais() -> None:
    out = told([Started("acme-large-2025"), TextDelta("Hi"), TextDelta(" there"), Finished("stop"), UsageReported(USAGE)])
    head = {"id": f"chatcmpl-{REQUEST_ID}", "object": "chat.completion.chunk", "created": CREATED, "model": "acme-large-2025"}
    assert chunks(out) == [
        {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {"content": " there"}, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**head, "choices": [], "usage": usage_object(USAGE)},
    ]


def test_the_model_is_the_targets_where_the_upstream_names_none() -> None:
    assert {chunk["model"] for chunk in chunks(told([Started(), TextDelta("Hi"), Finished("stop")]))} == {"acme-large"}
    assert whole([TextDelta("Hi"), Finished("stop")])["model"] == "acme-large"


def test_a_model_that_is_named_late_does_not_change_the_stream() -> None:
    events: list[Event] = [
        Started(),
        TextDelta("Hi"),
        Started("late"),
        TextDelta("!"),
        Started("later"),
        Finished("stop"),
        UsageReported(USAGE),
    ]
    assert {chunk["model"] for chunk in chunks(told(events))} == {"acme-large"}
    assert whole(events)["model"] == "late"


def test_the_role_comes_once() -> None:
    out = told([ThinkingDelta("Hm"), TextDelta("Hi"), ToolCallStarted(0, "call_1", "f"), Finished("tool_calls")])
    assert [delta.get("role") for delta in deltas(out)] == ["assistant", None, None, None, None]


@pytest.mark.parametrize(
    ("event", "first"),
    [
        (TextDelta("Hi"), {"content": "Hi"}),
        (ThinkingDelta("Hm"), {"content": "", "reasoning_content": "Hm"}),
        (RefusalDelta("No"), {"content": None, "refusal": "No"}),
        (ReasoningDetail(DETAIL), {"content": "", "reasoning_details": [{**DETAIL, "provider": "acme", "index": 0}]}),
        (
            ToolCallStarted(0, "call_1", "f"),
            {
                "content": None,
                "tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}],
            },
        ),
        (
            ImageDelta("https://a.example/i.png"),
            {"content": "", "images": [{"type": "image_url", "image_url": {"url": "https://a.example/i.png"}, "index": 0}]},
        ),
        (Annotation(CITATION), {"content": "", "annotations": [{**CITATION, "index": 0}]}),
        (Finished("content_filter"), {"content": ""}),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, dict) else "",
)
def test_what_stands_beside_the_role_in_a_first_delta(event: Event, first: dict[str, Any]) -> None:
    assert deltas(told([event]))[0] == {"role": "assistant", **first}


def test_a_call_is_told_as_openai_does() -> None:
    events: list[Event] = [
        ToolCallStarted(0, "call_1", "f"),
        ToolArgsDelta(0, ""),
        ToolArgsDelta(0, '{"a":'),
        ToolArgsDelta(0, "1}"),
    ]
    first, *rest = deltas(told([TextDelta("Look:"), *events, ToolCallEnded(0), Finished("tool_calls")]))[1:]
    assert first == {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}]}
    assert rest == [
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
        {},
    ]


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "left open"])
@pytest.mark.parametrize("pieces", [[], [""], ["", ""]], ids=["none", "empty", "twice empty"])
def test_empty_tool_arguments_become_an_empty_object(pieces: list[str], ended: bool) -> None:
    events: list[Event] = [ToolCallStarted(0, "call_1", "f"), *[ToolArgsDelta(0, piece) for piece in pieces]]
    events += [ToolCallEnded(0), Finished("tool_calls")] if ended else [Finished("tool_calls")]
    assert accumulated(told(events))[0]["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert message_of(events)["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert told(events).count(b'"{}"') == 1


def test_parallel_calls_keep_their_indices_though_they_come_in_turns() -> None:
    events: list[Event] = [
        ToolCallStarted(0, "call_a", "a"),
        ToolCallStarted(1, "call_b", "b"),
        ToolArgsDelta(1, '{"b"'),
        ToolArgsDelta(0, '{"a":1}'),
        ToolArgsDelta(1, ":2}"),
        ToolCallEnded(1),
        ToolCallEnded(0),
        Finished("tool_calls"),
    ]
    calls = accumulated(told(events))[0]["message"]["tool_calls"]
    assert [(call["index"], call["id"], call["function"]["arguments"]) for call in calls] == [
        (0, "call_a", '{"a":1}'),
        (1, "call_b", '{"b":2}'),
    ]
    assert [call["id"] for call in message_of(events)["tool_calls"]] == ["call_a", "call_b"]


def test_a_finish_reason_stands_at_the_end_and_the_last_one_counts() -> None:
    out = told([TextDelta("Hi"), Finished("stop"), TextDelta("!"), Finished("length"), UsageReported(USAGE)])
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks(out)[:-1]] == [None, None, "length"]


def test_each_choice_has_its_role_and_its_finish() -> None:
    out = told(
        [TextDelta("a"), TextDelta("b", 1), TextDelta("a"), Finished("stop"), TextDelta("b", 1), Finished("length", None, 1)]
    )
    found = accumulated(out)
    assert {index: (state["message"]["content"], state["finish_reason"]) for index, state in found.items()} == {
        0: ("aa", "stop"),
        1: ("bb", "length"),
    }


@pytest.mark.parametrize(("events", "reason"), [([TextDelta("Hi")], "stop"), ([ToolCallStarted(0, "call_1", "f")], "tool_calls")])
def test_a_finish_that_the_upstream_kept_to_itself_is_told_all_the_same(events: list[Event], reason: str) -> None:
    assert chunks(told(events))[-1]["choices"][0]["finish_reason"] == reason
    answer = encode_whole(events, request(), TARGET)
    assert answer.finish_reason == orjson.loads(answer.body)["choices"][0]["finish_reason"] == reason


def test_the_usage_chunk_goes_only_to_those_who_asked() -> None:
    events: list[Event] = [TextDelta("Hi"), Finished("stop"), UsageReported(USAGE)]
    assert chunks(told(events))[-1]["choices"] == []
    assert all(chunk["choices"] for chunk in chunks(told(events, include_usage=False)))
    assert b"usage" not in told(events, include_usage=False)
    assert all(chunk["choices"] for chunk in chunks(told(events[:2])))  # and not if there is none


def test_usage_is_set_and_not_added() -> None:
    events: list[Event] = [UsageReported(Usage(868, 1)), TextDelta("Hi"), UsageReported(Usage(4230, 7)), Finished("stop")]
    assert chunks(told(events))[-1]["usage"]["prompt_tokens"] == 4230
    assert whole(events)["usage"]["total_tokens"] == 4237


def test_usage_has_openais_shape_and_its_own_total() -> None:
    assert usage_object(USAGE) == {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30, "audio_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 8, "audio_tokens": 2},
    }


def test_a_keep_alive_is_a_comment() -> None:
    out = told([KeepAlive(), TextDelta("Hi"), KeepAlive(), Finished("stop")])
    assert out.startswith(b": keep-alive\n\ndata: {")
    assert out.count(b": keep-alive\n\n") == 2
    assert [delta.get("role") for delta in deltas(out)] == ["assistant", None]


def test_extras_are_told_at_once_before_the_finish() -> None:
    events: list[Event] = [
        Extra("search", {"q": 1}),
        TextDelta("Hi"),
        Extra("safety", []),
        Extra("search", None),
        Finished("stop"),
    ]
    assert deltas(told(events))[1:] == [{"provider_extras": {"search": [{"q": 1}, None], "safety": [[]]}}, {}]
    assert message_of(events)["provider_extras"] == {"search": [{"q": 1}, None], "safety": [[]]}


@pytest.mark.parametrize("over", [False, True], ids=["at the bound", "one over"])
def test_extras_are_held_up_to_a_bound(over: bool) -> None:
    encoder = ChatEncoder(request(), TARGET)
    fits = MAX_HELD_EXTRAS_BYTES - len("x") - len('""')
    out = encoder.feed([Extra("x", "a" * (fits + over))])
    assert bool(out) is over
    assert (out + encoder.close()).count(b"provider_extras") == 1


def test_log_probabilities_stand_beside_the_delta() -> None:
    events: list[Event] = [LogprobsDelta([TOKEN]), TextDelta("Hi"), LogprobsDelta([TOKEN]), LogprobsDelta([]), Finished("stop")]
    found = [chunk["choices"][0] for chunk in chunks(told(events))]
    assert found[0] == {
        "index": 0,
        "delta": {"role": "assistant", "content": ""},
        "logprobs": {"content": [TOKEN], "refusal": None},
        "finish_reason": None,
    }
    assert found[2] == {"index": 0, "delta": {}, "logprobs": {"content": [TOKEN], "refusal": None}, "finish_reason": None}
    assert whole(events)["choices"][0]["logprobs"] == {"content": [TOKEN, TOKEN], "refusal": None}


def test_a_detail_is_pinned_to_who_sealed_it_and_left_alone_otherwise() -> None:
    mine = {**DETAIL, "provider": "someone else", "index": 7}
    before = copy.deepcopy(mine)
    (entry,) = message_of([ReasoningDetail(mine), Finished("stop")])["reasoning_details"]
    assert entry == {**DETAIL, "provider": "acme", "index": 7}
    assert deltas(told([ReasoningDetail(mine)]))[0]["reasoning_details"] == [{**DETAIL, "provider": "acme", "index": 0}]
    assert mine == before


@pytest.mark.parametrize("text", ["a\ud83d", "\udc00", "\ud83d\ude00"], ids=["high", "low", "a pair of halves"])
def test_lone_surrogates_are_mended(text: str) -> None:
    events: list[Event] = [TextDelta("x"), TextDelta(text), ThinkingDelta(text), Extra("e", {text: [text]}), Finished("stop")]
    mended = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    message = accumulated(told(events))[0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("x" + mended, mended)
    assert message["provider_extras"] == message_of(events)["provider_extras"] == {"e": [{mended: [mended]}]}
    assert message_of(events)["content"] == "x" + mended


@pytest.mark.parametrize("shape", ["list", "object"])
def test_what_is_nested_deeper_than_can_be_written_is_cut(shape: str) -> None:
    deep: Any = 1
    for _ in range(900):
        deep = [deep] if shape == "list" else {"a": deep}
    events: list[Event] = [TextDelta("Hi"), Extra("deep", deep), Finished("stop")]
    assert b"provider_extras" in told(events)
    assert accumulated(told(events))[0]["message"]["content"] == message_of(events)["content"] == "Hi"


@pytest.mark.parametrize("text", ["\u2028\u2029\x85", "line\nline\r\n", "\x00\x1f", '"\\', "Grüße 🌍"])
def test_any_text_goes_through(text: str) -> None:
    out = told([TextDelta(text), TextDelta(text), Finished("stop")])
    assert accumulated(out)[0]["message"]["content"] == text * 2


def test_an_empty_piece_is_no_chunk() -> None:
    events: list[Event] = [TextDelta(""), ThinkingDelta(""), RefusalDelta(""), TextDelta("Hi"), TextDelta(""), Finished("stop")]
    assert [delta.get("content") for delta in deltas(told(events))] == ["Hi", None]


def test_names_of_the_upstreams_are_written_as_json() -> None:
    out = told([Started('a"b'), ToolCallStarted(0, 'id"\n', 'na"me'), Finished("tool_calls")])
    assert {chunk["model"] for chunk in chunks(out)} == {'a"b'}
    call = deltas(out)[0]["tool_calls"][0]
    assert (call["id"], call["function"]["name"]) == ('id"\n', 'na"me')


# -- whole answers


@pytest.mark.parametrize(
    ("events", "content", "refusal"),
    [
        ([TextDelta("Hi"), TextDelta("!")], "Hi!", None),
        ([ToolCallStarted(0, "call_1", "f")], None, None),
        ([TextDelta("Look"), ToolCallStarted(0, "call_1", "f")], "Look", None),
        ([TextDelta(""), ToolCallStarted(0, "call_1", "f")], None, None),
        ([RefusalDelta("No"), RefusalDelta(".")], None, "No."),
        ([ThinkingDelta("Hm")], "", None),
        ([], "", None),
    ],
    ids=["text", "call", "text and call", "empty text and call", "refusal", "thoughts", "nothing"],
)
def test_content_is_null_where_something_else_came_in_its_place(
    events: list[Event], content: str | None, refusal: str | None
) -> None:
    message = message_of([*events, Finished("stop")])
    assert (message["content"], message["refusal"]) == (content, refusal)


def test_a_whole_answer_has_everything() -> None:
    events: list[Event] = [
        Started("acme-large-2025"),
        ThinkingDelta("H"),
        ThinkingDelta("m."),
        ReasoningDetail(DETAIL),
        TextDelta("Hi"),
        ImageDelta("data:image/png;base64,AAAA"),
        Annotation(CITATION),
        ToolCallStarted(0, "call_1", "f"),
        ToolArgsDelta(0, '{"a":'),
        ToolArgsDelta(0, "1}"),
        ToolCallEnded(0),
        Extra("safety", 1),
        Finished("tool_calls", "TOOL_USE"),
        UsageReported(USAGE),
    ]
    answer = encode_whole(events, request(), TARGET)
    assert orjson.loads(answer.body) == {
        "id": completion_id(request()),
        "object": "chat.completion",
        "created": CREATED,
        "model": "acme-large-2025",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hi",
                    "refusal": None,
                    "reasoning_content": "Hm.",
                    "reasoning_details": [{**DETAIL, "provider": "acme"}],
                    "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
                    "images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
                    "annotations": [CITATION],
                    "provider_extras": {"safety": [1]},
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": usage_object(USAGE),
    }
    assert (answer.usage, answer.finish_reason, answer.mended) == (USAGE, "tool_calls", False)


def test_choices_come_in_order_and_the_first_gives_the_finish_reason() -> None:
    answer = encode_whole([TextDelta("b", 1), Finished("length", None, 1), TextDelta("a"), Finished("stop")], request(), TARGET)
    assert [choice["message"]["content"] for choice in orjson.loads(answer.body)["choices"]] == ["a", "b"]
    assert answer.finish_reason == "stop"


def test_without_usage_there_is_none() -> None:
    answer = encode_whole([TextDelta("Hi"), Finished("stop")], request(), TARGET)
    assert answer.usage is None
    assert "usage" not in orjson.loads(answer.body)


@pytest.mark.parametrize("events", [[], [Started("m"), UsageReported(USAGE)], [KeepAlive()], [TextDelta("")], [Extra("e", 1)]])
def test_an_answer_with_neither_content_nor_an_end_is_empty(events: list[Event]) -> None:
    with pytest.raises(UpstreamError) as caught:
        encode_whole(events, request(), TARGET)
    assert caught.value.error_class is ErrorClass.EMPTY


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
def test_an_answer_without_content_that_ended_is_one(reason: FinishReason) -> None:
    """Thoughts ate the budget, or a filter everything: never a fault of the upstream's."""
    assert message_of([Finished(reason)])["content"] == ""
    stream = translated([[Finished(reason)]])
    out = stream.feed(b"\0") + stream.close()
    assert (stream.error, stream.committed, stream.finish_reason) == (None, False, reason)
    assert accumulated(out)[0] == {"message": {"role": "assistant", "content": ""}, "finish_reason": reason, "logprobs": []}


def test_a_failure_is_raised_as_it_is() -> None:
    fault = error()
    with pytest.raises(UpstreamError) as caught:
        collect([TextDelta("Hi"), StreamFailed(fault)])
    assert caught.value is fault


# -- what the engine sees of a stream


def test_a_stream_from_its_start_to_its_end_mark() -> None:
    stream = translated([[Started("m")], [TextDelta("Hi")], [TextDelta("!")], [Finished("stop")], [UsageReported(USAGE)]], mark=9)
    assert (stream.feed(b"\0"), stream.committed) == (b"", False)
    assert stream.feed(b"\1\2") != b""
    assert (stream.committed, stream.events, stream.finish_reason) == (True, 3, None)
    assert (stream.feed(b"\3"), stream.finish_reason, stream.done) == (b"", "stop", False)
    assert (stream.feed(b"\4\x09"), stream.done, stream.usage) == (b"", True, USAGE)
    out = stream.close()
    assert [chunk["choices"] == [] for chunk in chunks(out)] == [False, True]
    assert out.endswith(DONE)
    assert (stream.error, stream.end_mark_missing, bytes(stream.text), stream.text_bytes) == (None, False, b"Hi!", 3)
    assert stream.feed(b"\2") == b""


@pytest.mark.property
@given(answers(), st.lists(st.integers(0, 40)), st.booleans())
def test_however_the_bytes_of_a_stream_are_cut_it_is_the_same(events: list[Event], cuts: list[int], marked: bool) -> None:
    data = bytes(range(len(events))) + (b"\xff" if marked else b"")
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    seen = []
    for parts in (
        [data],
        [data[start:end] for start, end in pairwise(edges)],
        [bytes((byte,)) for byte in data],
    ):
        stream = translated([[event] for event in events], mark=255)
        out = b"".join([stream.feed(part) for part in parts]) + stream.close()
        facts = (
            stream.done,
            stream.usage,
            stream.finish_reason,
            stream.error,
            bytes(stream.text),
            stream.text_bytes,
            stream.events,
        )
        seen.append((out, facts, stream.committed, stream.end_mark_missing))
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][0] == told(events)
    assert seen[0][3] is not marked


@pytest.mark.parametrize(
    ("event", "commits"),
    [
        (Started("m"), False),
        (KeepAlive(), False),
        (UsageReported(USAGE), False),
        (Finished("stop"), False),
        (Extra("e", 1), False),
        (TextDelta(""), False),
        (ThinkingDelta(""), False),
        (RefusalDelta(""), False),
        (LogprobsDelta([]), False),
        (TextDelta("x"), True),
        (ThinkingDelta("x"), True),
        (RefusalDelta("x"), True),
        (ReasoningDetail(DETAIL), True),
        (ToolCallStarted(0, "call_1", "f"), True),
        (ImageDelta("https://a.example"), True),
        (Annotation(CITATION), True),
        (LogprobsDelta([TOKEN]), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_pings_and_role_frames_are_no_content(event: Event, commits: bool) -> None:
    stream = translated([[event]])
    stream.feed(b"\0")
    assert stream.committed == commits


def test_text_thoughts_refusals_and_calls_are_kept_to_be_counted() -> None:
    stream = translated(
        [[ThinkingDelta("Hm. "), TextDelta("Hé "), RefusalDelta("no "), ToolCallStarted(0, "id", "name"), ToolArgsDelta(0, "{}")]]
    )
    stream.feed(b"\0")
    assert bytes(stream.text) == "Hm. Hé no name{}".encode()
    assert stream.text_bytes == len(stream.text)


@pytest.mark.parametrize("over", [0, 1])
def test_kept_text_has_a_bound_and_its_size_has_none(over: int) -> None:
    stream = translated([[TextDelta("ab" * (MAX_KEPT_TEXT_BYTES // 2) + "c" * over)], [TextDelta("d")]])
    stream.feed(b"\0\1")
    assert bytes(stream.text) == b"ab" * (MAX_KEPT_TEXT_BYTES // 2)
    assert stream.text_bytes == MAX_KEPT_TEXT_BYTES + over + 1


def test_a_stream_that_ends_with_a_reason_but_no_mark_is_whole() -> None:
    stream = translated([[TextDelta("Hi"), Finished("stop"), UsageReported(USAGE)]])
    out = stream.feed(b"\0") + stream.close()
    assert (stream.error, stream.done, stream.end_mark_missing, stream.finish_reason) == (None, True, True, "stop")
    assert out.count(b'"finish_reason":"stop"') == 1
    assert out.endswith(DONE)


def test_a_stream_that_ends_with_a_mark_but_no_reason_is_whole() -> None:
    stream = translated([[ToolCallStarted(0, "call_1", "f")]], mark=9)
    out = stream.feed(b"\0\x09") + stream.close()
    assert (stream.error, stream.end_mark_missing, stream.finish_reason) == (None, False, "tool_calls")
    assert out.endswith(DONE)


@pytest.mark.parametrize(
    ("frames", "malformed", "expected"),
    [
        ([[TextDelta("Hi")]], 0, ErrorClass.TRUNCATED),
        ([[Started("m"), KeepAlive()]], 0, ErrorClass.TRUNCATED),
        ([[TextDelta("Hi"), Finished("stop"), TextDelta("b", 1)]], 0, ErrorClass.TRUNCATED),
        ([[TextDelta("Hi")]], 1, ErrorClass.TRUNCATED),
        ([], 0, ErrorClass.EMPTY),
        ([[]], 1, ErrorClass.MALFORMED),
    ],
    ids=["text", "no content", "one choice of two", "text and a malformed event", "nothing", "nothing that could be read"],
)
def test_a_stream_that_just_ends_is_not_whole(frames: list[list[Event]], malformed: int, expected: ErrorClass) -> None:
    script = Script(frames)
    script.malformed = malformed
    stream = TranslatedStream(script, request(), TARGET)
    stream.feed(bytes(range(len(frames))))
    assert DONE not in stream.close()
    assert stream.error is not None
    assert (stream.error.error_class, stream.done, stream.malformed) == (expected, False, malformed)
    assert stream.close() == b""


def test_an_end_mark_with_nothing_before_it_is_an_empty_answer() -> None:
    stream = translated([[Started("m"), Extra("e", 1), UsageReported(USAGE)]], mark=9)
    assert stream.feed(b"\0\x09") + stream.close() == b""
    assert stream.error is not None
    assert stream.error.error_class is ErrorClass.EMPTY


def test_what_a_decoder_still_held_belongs_to_the_answer() -> None:
    stream = translated([[TextDelta("Hi")]], at_close=[TextDelta("!"), Finished("length"), UsageReported(USAGE)])
    out = stream.feed(b"\0") + stream.close()
    assert accumulated(out)[0]["message"]["content"] == "Hi!"
    assert (stream.finish_reason, stream.usage, bytes(stream.text)) == ("length", USAGE, b"Hi!")


def test_nothing_follows_a_failure_and_what_was_before_it_is_told() -> None:
    fault = error()
    stream = translated([[TextDelta("Hi"), StreamFailed(fault), TextDelta("never")], [TextDelta("never")]], mark=9)
    out = stream.feed(b"\0")
    assert [delta["content"] for delta in deltas(out)] == ["Hi"]
    assert (stream.error, stream.done, stream.committed, bytes(stream.text)) == (fault, False, True, b"Hi")
    assert (stream.feed(b"\1"), stream.close(), stream.error) == (b"", b"", fault)


def test_an_error_after_the_beginning_but_before_content_commits_nothing() -> None:
    fault = error()
    stream = translated([[Started("m"), KeepAlive()], [StreamFailed(fault)]])
    stream.feed(b"\0\1")
    assert (stream.error, stream.committed) == (fault, False)


def test_a_failure_after_the_finish_reason_leaves_no_finish_behind() -> None:
    stream = translated([[TextDelta("Hi"), Finished("stop")], [StreamFailed(error())]])
    out = stream.feed(b"\0") + stream.feed(b"\1") + stream.close()
    assert b'"stop"' not in out
    assert DONE not in out


def test_an_end_mark_after_a_failure_ends_nothing() -> None:
    stream = translated([[TextDelta("Hi"), StreamFailed(error())]], mark=9)
    stream.feed(b"\0\x09")
    assert not stream.done


def test_a_failure_that_shows_at_the_close_is_one() -> None:
    fault = error(ErrorClass.MALFORMED_EVENT)
    stream = translated([[TextDelta("Hi"), Finished("stop")]], at_close=[StreamFailed(fault)])
    assert DONE not in stream.feed(b"\0") + stream.close()
    assert (stream.error, stream.done) == (fault, False)
