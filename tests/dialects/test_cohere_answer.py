"""What Cohere answers, told in events: whole, streamed, broken, and refused."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.events import (
    Annotation,
    Event,
    Extra,
    Finished,
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
from proxy.core.target import Provider, Target
from proxy.core.usage import Usage
from proxy.dialects.cohere.dialect import CohereChat
from proxy.dialects.openai_chat import MAX_MALFORMED_EVENTS
from proxy.wire.sse import MAX_EVENT_BYTES
from tests.dialects.fields import GOLDENS, chat_request
from tests.dialects.native_recordings import comparable, cut_at, events_of

pytestmark = pytest.mark.unit

DIALECT = CohereChat()
TARGET = Target(Provider("cohere", "cohere", "https://api.cohere.com", ()), "command-a-03-2025", "command-a")
REQUEST = chat_request({"model": "smart", "messages": [{"role": "user", "content": "Hi"}], "stream": True})
GOLDEN = (GOLDENS / "cohere" / "stream.sse").read_bytes()

START = {"type": "message-start", "id": "c1", "delta": {"message": {"role": "assistant"}}}


def decoded(*pieces: bytes) -> list[Event]:
    return events_of(DIALECT.decoder(REQUEST, TARGET), pieces)


def stream(*events: dict[str, Any]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (str(event.get("type")).encode(), orjson.dumps(event)) for event in events)


def streamed(*events: dict[str, Any]) -> list[Event]:
    return decoded(stream(*events))


def whole(message: Any, **rest: Any) -> list[Event]:
    return DIALECT.decode_response({"id": "c1", "finish_reason": "COMPLETE", "message": message, **rest}, TARGET)


def content_delta(**content: Any) -> dict[str, Any]:
    return {"type": "content-delta", "index": 0, "delta": {"message": {"content": content}}}


def call_event(kind: str, index: int | None, **call: Any) -> dict[str, Any]:
    return {"type": f"tool-call-{kind}", "index": index, "delta": {"message": {"tool_calls": call}}}


def end(reason: str = "COMPLETE", **rest: Any) -> dict[str, Any]:
    return {"type": "message-end", "delta": {"finish_reason": reason, **rest}}


def text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


# -- streams


def test_a_stream_with_everything() -> None:
    got = [[type(event).__name__, asdict(event)] for event in decoded(GOLDEN)]
    golden = GOLDENS / "cohere" / "stream.events.json"
    if os.environ.get("WRITE_GOLDENS"):
        golden.write_bytes(orjson.dumps(got, option=orjson.OPT_INDENT_2) + b"\n")
    assert got == orjson.loads(golden.read_bytes())


@pytest.mark.property
@given(st.lists(st.integers(0, len(GOLDEN)), max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_cut_gives_the_same_events(places: list[int]) -> None:
    assert decoded(*cut_at(GOLDEN, places)) == decoded(GOLDEN)


def test_byte_by_byte_is_the_same() -> None:
    assert decoded(*[GOLDEN[i : i + 1] for i in range(len(GOLDEN))]) == decoded(GOLDEN)


def test_the_end_is_message_end_and_nothing_after_it_is_read() -> None:
    decoder = DIALECT.decoder(REQUEST, TARGET)
    assert events_of(decoder, [stream(START, end(), content_delta(text="more"))]) == [Started(), Finished("stop", "COMPLETE")]
    assert decoder.done


def test_a_stream_that_breaks_off_has_no_end() -> None:
    decoder = DIALECT.decoder(REQUEST, TARGET)
    assert events_of(decoder, [stream(START, content_delta(text="Hel"))]) == [Started(), TextDelta("Hel")]
    assert not decoder.done


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        ("null",),
        ("nu", "ll"),
        (" ", "null "),
    ],
)
def test_arguments_of_null_are_none(pieces: tuple[str, ...]) -> None:
    deltas = [call_event("delta", 0, function={"arguments": piece}) for piece in pieces]
    first = call_event("start", 0, id="a", function={"name": "f", "arguments": ""})
    assert streamed(START, first, *deltas, call_event("end", 0), end("TOOL_CALL"))[1:] == [
        ToolCallStarted(0, "a", "f"),
        ToolCallEnded(0),
        Finished("tool_calls", "TOOL_CALL"),
    ]


def test_arguments_that_only_begin_like_null_are_whole() -> None:
    events = streamed(
        call_event("start", 0, id="a", function={"name": "f", "arguments": "n"}),
        call_event("delta", 0, function={"arguments": "u"}),
        call_event("delta", 0, function={"arguments": "m"}),
        call_event("delta", 0, function={"arguments": "null"}),
        call_event("end", 0),
    )
    assert [event.text for event in events if isinstance(event, ToolArgsDelta)] == ["num", "null"]


def test_a_call_that_is_not_ended_ends_with_the_answer() -> None:
    events = streamed(call_event("start", 0, id="a", function={"name": "f", "arguments": "{}"}), end("TOOL_CALL"))
    assert events == [ToolCallStarted(0, "a", "f"), ToolArgsDelta(0, "{}"), ToolCallEnded(0), Finished("tool_calls", "TOOL_CALL")]


def test_calls_are_counted_by_us_whatever_the_index_of_their_events() -> None:
    events = streamed(
        call_event("start", 3, id="a", function={"name": "f"}),
        call_event("end", 3),
        call_event("start", 3, id="b", function={"name": "g"}),
        call_event("delta", 3, function={"arguments": "{}"}),
        call_event("delta", 9, function={"arguments": "lost"}),
        call_event("end", 3),
    )
    assert events == [
        ToolCallStarted(0, "a", "f"),
        ToolCallEnded(0),
        ToolCallStarted(1, "b", "g"),
        ToolArgsDelta(1, "{}"),
        ToolCallEnded(1),
    ]


def test_a_call_without_an_id_gets_one_that_is_its_own() -> None:
    def ids(request_id: str) -> list[str]:
        request = chat_request({"model": "smart", "messages": [{"role": "user", "content": "Hi"}]})
        request.id = request_id
        call = {"name": "f", "arguments": "{}"}
        raw = stream(call_event("start", 0, function=call), call_event("end", 0), call_event("start", 1, function=call))
        events = events_of(DIALECT.decoder(request, TARGET), [raw])
        return [event.id for event in events if isinstance(event, ToolCallStarted)]

    assert ids("one") == ids("one")
    assert len({*ids("one"), *ids("two")}) == 4


def test_what_is_not_known_is_skipped() -> None:
    assert streamed(START, {"type": "debug", "prompt": "…"}, {"type": "content-bounced", "index": 4}, {}, end()) == [
        Started(),
        Finished("stop", "COMPLETE"),
    ]


def test_a_block_of_another_type_is_shown() -> None:
    block = {"type": "hologram", "frames": [1]}
    start = {"type": "content-start", "index": 0, "delta": {"message": {"content": block}}}
    assert streamed(start) == [Extra("content", block)]
    assert whole({"content": [block]})[1] == Extra("content", block)


def test_frames_that_are_not_of_this_shape_are_counted() -> None:
    decoder = DIALECT.decoder(REQUEST, TARGET)
    odd = [b"data: [1]\n\n", b"data: {\n\n", stream({"type": "content-delta", "delta": None}), stream(content_delta(text="x"))]
    assert events_of(decoder, odd) == [TextDelta("x")]
    assert (decoder.malformed, decoder.frames) == (3, 4)
    assert MAX_MALFORMED_EVENTS == 3
    (failed,) = decoder.feed(b"data: {\n\n")
    assert isinstance(failed, StreamFailed)
    assert failed.error.error_class is ErrorClass.MALFORMED_EVENT


def test_an_event_has_a_bound() -> None:
    (failed,) = decoded(b"data: " + b"x" * MAX_EVENT_BYTES + b"\n\n")
    assert isinstance(failed, StreamFailed)
    assert failed.error.error_class is ErrorClass.TOO_LARGE


def test_broken_utf8_is_mended() -> None:
    decoder = DIALECT.decoder(REQUEST, TARGET)
    raw = stream(content_delta(text="@")).replace(b"@", b"\xff")
    assert events_of(decoder, [raw]) == [TextDelta("\ufffd")]
    assert decoder.mended == 1


# -- whole answers


def test_a_whole_answer_with_everything() -> None:
    citation = {
        "start": 0,
        "end": 5,
        "text": "Bring",
        "content_index": 1,
        "sources": [{"type": "document", "id": "1", "document": {"url": "https://guide.example", "title": "Guide"}}],
    }
    usage = {"tokens": {"input_tokens": 9.0, "output_tokens": 4}, "billed_units": {"input_tokens": 1}, "cached_tokens": 3}
    events = whole(
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "Hm."}, text_block("Bring a hat.")],
            "tool_plan": " I look.",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": None}},
            ],
            "citations": [citation],
        },
        finish_reason="TOOL_CALL",
        usage=usage,
        logprobs=[{"text": "Bring", "token_ids": [1], "logprobs": [-0.5]}],
    )
    place = {"url": "https://guide.example", "title": "Guide", "start_index": 0, "end_index": 5}
    assert events == [
        Started(),
        ThinkingDelta("Hm."),
        TextDelta("Bring a hat."),
        TextDelta(" I look."),
        ToolCallStarted(0, "a", "f"),
        ToolArgsDelta(0, '{"x":1}'),
        ToolCallEnded(0),
        ToolCallStarted(1, "b", "g"),
        ToolCallEnded(1),
        Annotation({"type": "url_citation", "url_citation": place}),
        Extra("citations", citation),
        LogprobsDelta([{"token": "Bring", "logprob": -0.5, "bytes": list(b"Bring"), "top_logprobs": []}]),
        UsageReported(Usage(9, 4, cached_input_tokens=3, billed=Usage(1, 0))),
        Extra("usage", usage),
        Finished("tool_calls", "TOOL_CALL"),
    ]


@pytest.mark.parametrize(
    ("native", "calls", "reason"),
    [
        ("COMPLETE", False, "stop"),
        ("STOP_SEQUENCE", False, "stop"),
        ("MAX_TOKENS", False, "length"),
        ("MAX_TOKENS", True, "length"),
        ("TOOL_CALL", True, "tool_calls"),
        ("COMPLETE", True, "tool_calls"),
        ("ERROR_TOXIC", False, "content_filter"),
        ("ERROR_LIMIT", False, "length"),
        ("SOMETHING_NEW", False, "stop"),
    ],
)
def test_reasons_for_the_end(native: str, calls: bool, reason: str) -> None:
    call = {"id": "a", "function": {"name": "f", "arguments": "{}"}}
    events = whole({"content": [text_block("Hi")], "tool_calls": [call] if calls else None}, finish_reason=native)
    assert events[-1] == Finished(reason, native)  # type: ignore[arg-type]
    first = [call_event("start", 0, **call)] if calls else []
    assert streamed(*first, end(native))[-1] == events[-1]


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        ({"tokens": {"input_tokens": 5, "output_tokens": 7}}, Usage(5, 7)),
        ({"tokens": {"input_tokens": 5.0, "output_tokens": 7.0}}, Usage(5, 7)),
        ({"tokens": {"input_tokens": 5}}, Usage(5, 0)),
        ({"billed_units": {"input_tokens": 5, "output_tokens": 7}}, Usage(5, 7)),
        ({"tokens": {}, "billed_units": {"output_tokens": 7}}, Usage(0, 7)),
        (
            {"tokens": {"input_tokens": 5, "output_tokens": 7, "reasoning_tokens": 3}, "cached_tokens": 4},
            Usage(5, 7, cached_input_tokens=4, reasoning_tokens=3),
        ),
        (
            {"tokens": {"input_tokens": 5, "output_tokens": 7, "reasoning_tokens": 9}, "cached_tokens": 6},
            Usage(5, 7, cached_input_tokens=5, reasoning_tokens=7),
        ),
        ({"tokens": {"input_tokens": 5, "output_tokens": 7}, "cached_tokens": -1}, Usage(5, 7)),
        (
            {"tokens": {"input_tokens": 5, "output_tokens": 7}, "billed_units": {"input_tokens": 2.0, "output_tokens": 6}},
            Usage(5, 7, billed=Usage(2, 6)),
        ),
        (  # images are billed, and are not among the input
            {"tokens": {"input_tokens": 5, "output_tokens": 7, "image_tokens": 90}, "billed_units": {"input_tokens": 92}},
            Usage(5, 7, billed=Usage(92, 0)),
        ),
        (
            {"tokens": {"input_tokens": 5, "output_tokens": 7}, "billed_units": {"input_tokens": 0, "output_tokens": 0}},
            Usage(5, 7),
        ),
        ({"tokens": {"input_tokens": 5, "output_tokens": 7}, "billed_units": {"search_units": 1}}, Usage(5, 7)),
        ({"tokens": {"input_tokens": 5, "output_tokens": 7}, "billed_units": {"input_tokens": -1}}, Usage(5, 7)),
        ({"tokens": {"input_tokens": 5, "output_tokens": 7}, "billed_units": [1]}, Usage(5, 7)),
        ({"tokens": {"input_tokens": -5, "output_tokens": 7}}, None),
        ({"tokens": {"input_tokens": 5.5, "output_tokens": 7}}, None),
        ({"tokens": {"input_tokens": "5", "output_tokens": 7}}, None),
        ({"tokens": {"input_tokens": True, "output_tokens": 7}}, None),
        ({"tokens": {"input_tokens": 1e300, "output_tokens": 7}}, None),
        ({"cached_tokens": 4}, None),
        ({}, None),
        (None, None),
    ],
)
def test_usage(said: Any, usage: Usage | None) -> None:
    events = whole({"content": [text_block("Hi")]}, usage=said)
    assert [event.usage for event in events if isinstance(event, UsageReported)] == ([usage] if usage else [])
    assert [event.value for event in events if isinstance(event, Extra)] == ([said] if said else [])


@pytest.mark.parametrize(
    ("item", "logprob"),
    [
        ({"text": "Hi", "token_ids": [1], "logprobs": [-1]}, -1.0),
        ({"text": "Hi", "token_ids": [1, 2], "logprobs": [-1, -0.5]}, -1.5),  # of a piece of two tokens: both had to come
        ({"text": "Hi", "token_ids": [1]}, None),
        ({"text": "Hi", "token_ids": [1], "logprobs": []}, None),
        ({"token_ids": [1], "logprobs": [-1]}, None),
    ],
)
def test_log_probabilities(item: dict[str, Any], logprob: float | None) -> None:
    found = [event for event in whole({"content": []}, logprobs=[item]) if isinstance(event, LogprobsDelta)]
    assert [event.content[0]["logprob"] for event in found] == ([logprob] if logprob is not None else [])


@pytest.mark.parametrize("odd", [5, "x", [1], {"text": "Hi", "logprobs": 5}, {"text": "Hi", "logprobs": ["x"]}])
def test_log_probabilities_that_are_none_cost_no_text(odd: Any) -> None:
    assert streamed({**content_delta(text="Hi"), "logprobs": odd}) == [TextDelta("Hi")]


@pytest.mark.parametrize("kind", ["THINKING_CONTENT", "PLAN"])
def test_citations_of_what_is_not_text_are_no_annotations(kind: str) -> None:
    sources = [{"type": "document", "document": {"url": "https://a.example"}}]
    citation = {"start": 0, "end": 1, "text": "H", "type": kind, "sources": sources}
    assert whole({"content": [text_block("Hi")], "citations": [citation]})[2:-1] == [Extra("citations", citation)]


def test_the_words_of_an_unstreamed_answer_without_a_list() -> None:
    assert whole({"content": "Hi"})[1] == TextDelta("Hi")
    assert whole({})[-1] == Finished("stop", "COMPLETE")


# -- failures inside a 200


ENDINGS: list[tuple[dict[str, Any], ErrorClass]] = [
    (
        {"finish_reason": "ERROR", "error": "bad call", "error_type": "INVALID_TOOL_GENERATION", "usage": {}},
        ErrorClass.MODEL_FAULT,
    ),
    ({"finish_reason": "ERROR", "error": "no idea"}, ErrorClass.SERVER_ERROR),
    ({"finish_reason": "ERROR"}, ErrorClass.SERVER_ERROR),
    ({"finish_reason": "TIMEOUT"}, ErrorClass.SERVER_ERROR),
    ({"finish_reason": "ERROR", "error": "too many tokens: size limit exceeded"}, ErrorClass.CONTEXT_LENGTH),
]


@pytest.mark.parametrize(("said", "error_class"), ENDINGS)
def test_an_answer_that_ends_with_an_error(said: dict[str, Any], error_class: ErrorClass) -> None:
    events = streamed(START, content_delta(text="Hel"), {"type": "message-end", "delta": said})
    assert events[:2] == [Started(), TextDelta("Hel")]
    assert isinstance(events[-1], StreamFailed)
    assert events[-1].error.error_class is error_class
    with pytest.raises(UpstreamError) as caught:
        whole({"content": [text_block("Hel")]}, **said)
    assert caught.value.error_class is error_class


def test_what_a_failed_answer_used_is_told() -> None:
    usage = {"tokens": {"input_tokens": 5, "output_tokens": 7}}
    events = streamed(end("ERROR", error="x", usage=usage))
    assert [type(event) for event in events] == [UsageReported, Extra, StreamFailed]


def test_an_error_as_an_event() -> None:
    events = decoded(b'data: {"id":"1","message":"internal server error, this has been reported"}\n\n')
    assert isinstance(events[0], StreamFailed)
    assert events[0].error.error_class is ErrorClass.SERVER_ERROR


@pytest.mark.parametrize(
    ("answer", "error_class"),
    [
        ({}, ErrorClass.EMPTY),
        ({"id": "1", "choices": [{}]}, ErrorClass.EMPTY),
        ({"id": "1", "message": "invalid api token"}, ErrorClass.SERVER_ERROR),
        ({"id": "1", "message": "too many tokens: 4292"}, ErrorClass.CONTEXT_LENGTH),
        ({"error": {"message": "nope"}}, ErrorClass.SERVER_ERROR),
    ],
)
def test_an_error_in_disguise(answer: dict[str, Any], error_class: ErrorClass) -> None:
    with pytest.raises(UpstreamError) as caught:
        DIALECT.decode_response(answer, TARGET)
    assert caught.value.error_class is error_class


def test_an_answer_of_another_shape_is_the_upstreams_fault() -> None:
    for message in ({"content": [1]}, {"tool_calls": [None]}, {"content": 5}):
        with pytest.raises(UpstreamError) as caught:
            DIALECT.decode_answer(orjson.dumps({"message": message, "finish_reason": "COMPLETE"}), REQUEST, TARGET)
        assert caught.value.error_class is ErrorClass.MALFORMED


WORDS = st.sampled_from(
    """type index delta message content text thinking tool_calls tool_plan function arguments name id citations sources document url
    start end usage tokens input_tokens finish_reason logprobs error""".split()
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**18) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
KINDS = st.sampled_from(
    """message-start content-start content-delta content-end tool-plan-delta tool-call-start tool-call-delta tool-call-end
    citation-start citation-end message-end other""".split()
)


@pytest.mark.property
@given(st.lists(st.tuples(KINDS, JSON_VALUES, JSON_VALUES), max_size=6))
@settings(max_examples=100, deadline=None)
def test_no_event_makes_the_decoder_raise(found: list[tuple[str, Any, Any]]) -> None:
    raw = b"".join(stream({"type": kind, "index": index, "delta": {"message": inner}}) for kind, index, inner in found)
    raw += b"".join(stream({"type": kind, "delta": inner}) for kind, inner, _ in found)
    assert comparable(decoded(*cut_at(raw, [7, 50]))) == comparable(decoded(raw))


# -- refusals


@pytest.mark.parametrize(
    ("status", "said", "error_class"),
    [
        (400, {"id": "1", "message": "invalid request: list of documents must not be empty"}, ErrorClass.INVALID_REQUEST),
        (400, {"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081"}, ErrorClass.CONTEXT_LENGTH),
        (400, {"message": "the prompt", "error_type": "TOO_MANY_TOKENS"}, ErrorClass.CONTEXT_LENGTH),
        (400, {"message": "too many tokens: max tokens must be less than or equal to 4096"}, ErrorClass.INVALID_REQUEST),
        (400, {"message": "invalid request: model 'command' is not supported by the chat API"}, ErrorClass.MODEL_NOT_FOUND),
        (
            400,
            {"message": "invalid request: 'model x is not supported by the chat API' has no words"},
            ErrorClass.INVALID_REQUEST,
        ),
        (401, {"id": "1", "message": "invalid api token"}, ErrorClass.AUTH),
        (401, {"message": "Incorrect API key provided: ***."}, ErrorClass.AUTH),
        (402, {"message": "Please add or update your payment method"}, ErrorClass.INSUFFICIENT_QUOTA),
        (403, {"message": "forbidden"}, ErrorClass.AUTH),
        (404, {"message": "model 'command-nightly' was removed on September 15, 2025."}, ErrorClass.MODEL_NOT_FOUND),
        (422, {"message": "invalid type: parameter tools is of type string"}, ErrorClass.INVALID_REQUEST),
        (422, {"message": "invalid tool generation", "error_type": "INVALID_TOOL_GENERATION"}, ErrorClass.MODEL_FAULT),
        (429, {"message": "You are using a Trial key, which is limited to 40 API calls / minute."}, ErrorClass.RATE_LIMITED),
        (
            429,
            {"message": "You are using a Trial key, which is limited to 1000 API calls / month."},
            ErrorClass.INSUFFICIENT_QUOTA,
        ),
        (429, {"message": "too many tokens, please wait and try again"}, ErrorClass.RATE_LIMITED),
        (498, {"data": "deny-listed"}, ErrorClass.CONTENT_POLICY),
        (499, {"message": "request cancelled by user"}, ErrorClass.RETRYABLE_4XX),
        (500, {"message": "internal server error, this has been reported to our developers."}, ErrorClass.SERVER_ERROR),
        (501, {"data": "not implemented"}, ErrorClass.SERVER_ERROR),
        (503, {"data": "unavailable"}, ErrorClass.OVERLOADED),
        (504, {"data": "timeout"}, ErrorClass.SERVER_ERROR),
    ],
)
def test_errors(status: int, said: dict[str, Any], error_class: ErrorClass) -> None:
    error = DIALECT.decode_error(status, [], orjson.dumps(said))
    assert (error.error_class, error.status) == (error_class, status)
    assert error.message == said.get("message", "no message")
    assert error.code == (said["error_type"].lower() if "error_type" in said else None)


@pytest.mark.parametrize(
    ("status", "body", "error_class"),
    [
        (502, b"<html>", ErrorClass.SERVER_ERROR),
        (429, b"", ErrorClass.RATE_LIMITED),
        (498, b"[]", ErrorClass.CONTENT_POLICY),
        (302, b"{}", ErrorClass.REDIRECT),
        (400, b'{"message": {"a": 1}}', ErrorClass.INVALID_REQUEST),
        (400, b'{"message": null, "error_type": 5}', ErrorClass.INVALID_REQUEST),
    ],
)
def test_errors_that_are_no_json_of_cohere_s(status: int, body: bytes, error_class: ErrorClass) -> None:
    error = DIALECT.decode_error(status, [], body)
    assert (error.error_class, error.status) == (error_class, status)
