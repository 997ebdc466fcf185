"""Answers of the Messages API told as events: what is surprising about them, each by its name."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.events import (
    Annotation,
    Event,
    Extra,
    Finished,
    KeepAlive,
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
from proxy.core.usage import Usage
from proxy.dialects.anthropic import dialect as anthropic
from proxy.dialects.anthropic.dialect import AnthropicMessages
from tests.dialects.anthropic_judge import target_of
from tests.dialects.fields import GOLDENS, TOOL, chat_request

pytestmark = pytest.mark.unit

DIALECT = AnthropicMessages()
TARGET = target_of("claude-sonnet-4-5")
START_USAGE = {"input_tokens": 10, "output_tokens": 1}
MARK = {"format": "anthropic", "model": "claude-sonnet-4-5"}


def request(**fields: Any) -> ChatRequest:
    return chat_request({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True, **fields})


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join([b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event)) for event in events])


def start(**message: Any) -> dict[str, Any]:
    blank = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": [], "usage": START_USAGE}
    return {"type": "message_start", "message": {**blank, **message}}


def opened(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, **values: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **values}}


def closed(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def stopped(reason: str | None = "end_turn", usage: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason, **more}, "usage": usage or {"output_tokens": 5}}


STOP = {"type": "message_stop"}
PING = {"type": "ping"}


def decoded(*events: dict[str, Any]) -> list[Event]:
    decoder = DIALECT.decoder(request(), TARGET)
    return decoder.feed(sse(*events)) + decoder.close()


def content(*events: dict[str, Any]) -> list[Event]:
    """What blocks become, without the frame of the message."""
    found = decoded(start(), *events, stopped(), STOP)
    return [event for event in found if not isinstance(event, Started | Finished | UsageReported)]


def whole(**message: Any) -> list[Event]:
    answer: dict[str, Any] = {"type": "message", "model": "claude-x", "content": [], "stop_reason": "end_turn"}
    return DIALECT.decode_response({**answer, "usage": {"input_tokens": 10, "output_tokens": 5}, **message}, TARGET)


def usage_of(*events: dict[str, Any]) -> Usage | None:
    found = [event.usage for event in decoded(*events) if isinstance(event, UsageReported)]
    return found[-1] if found else None


# streams


def test_a_stream_of_text() -> None:
    assert decoded(
        start(), opened(0, type="text", text=""), PING, delta(0, "text_delta", text="Hi"), closed(0), stopped(), STOP
    ) == [
        Started("claude-x"),
        KeepAlive(),
        TextDelta("Hi"),
        Finished("stop", "end_turn"),
        UsageReported(Usage(10, 5)),
    ]


def test_the_golden_stream() -> None:
    """Everything in one: thoughts, text with a citation, a server's tool, parallel calls, one of them without arguments."""
    stream = (GOLDENS / "anthropic" / "stream.sse").read_bytes()
    told = DIALECT.answer_stream(request(stream_options={"include_usage": True}), TARGET)
    assert told.feed(stream) + told.close() == (GOLDENS / "anthropic" / "stream_told.sse").read_bytes()


def test_tool_calls_are_counted_by_themselves_not_by_block() -> None:
    assert content(
        opened(0, type="text", text=""),
        delta(0, "text_delta", text="Both."),
        closed(0),
        opened(1, type="tool_use", id="toolu_1", name="f", input={}),
        delta(1, "input_json_delta", partial_json='{"a":'),
        delta(1, "input_json_delta", partial_json="1}"),
        closed(1),
        opened(2, type="tool_use", id="toolu_2", name="g", input={}),
        delta(2, "input_json_delta", partial_json=""),
        closed(2),
    ) == [
        TextDelta("Both."),
        ToolCallStarted(0, "toolu_1", "f"),
        ToolArgsDelta(0, '{"a":'),
        ToolArgsDelta(0, "1}"),
        ToolCallEnded(0),
        ToolCallStarted(1, "toolu_2", "g"),
        ToolCallEnded(1),
    ]


def test_empty_tool_arguments_become_an_empty_object() -> None:
    events = [start(), opened(0, type="tool_use", id="toolu_1", name="f", input={}), closed(0), stopped("tool_use"), STOP]
    stream = DIALECT.answer_stream(request(), TARGET)
    assert b'"arguments":"{}"' in stream.feed(sse(*events)) + stream.close()


def test_an_input_that_came_with_the_start_is_told_when_nothing_else_came() -> None:
    block = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}
    assert content(opened(0, **block), closed(0))[1:] == [ToolArgsDelta(0, '{"a":1}'), ToolCallEnded(0)]
    pieces = content(opened(0, **block), delta(0, "input_json_delta", partial_json='{"b":2}'), closed(0))
    assert pieces[1:] == [ToolArgsDelta(0, '{"b":2}'), ToolCallEnded(0)]


def test_a_message_that_is_whole_at_its_start() -> None:
    """As it comes when one of the server's tools calls one of the caller's: no blocks, no message_delta."""
    caller = {"type": "code_execution_20250825", "tool_id": "srvtoolu_1"}
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}, "caller": caller}
    assert decoded(start(content=[call], stop_reason="tool_use", usage={"input_tokens": 0, "output_tokens": 0}), STOP) == [
        Started("claude-x"),
        ToolCallStarted(0, "toolu_1", "f"),
        ToolArgsDelta(0, '{"a":1}'),
        ToolCallEnded(0),
        Extra("caller", {"id": "toolu_1", **caller}),
        Finished("tool_calls", "tool_use"),
        UsageReported(Usage(0, 0)),
    ]


def test_thoughts_are_told_and_sealed() -> None:
    assert content(
        opened(0, type="thinking", thinking="", signature=""),
        delta(0, "thinking_delta", thinking="Hm"),
        delta(0, "thinking_delta", thinking="m."),
        delta(0, "signature_delta", signature="c2ln"),
        closed(0),
    ) == [
        ThinkingDelta("Hm"),
        ThinkingDelta("m."),
        ReasoningDetail({"type": "reasoning.text", "text": "Hmm.", "signature": "c2ln", **MARK}),
    ]


def test_thoughts_without_words_are_sealed_all_the_same() -> None:
    found = content(
        opened(0, type="thinking", thinking="", signature=""), delta(0, "signature_delta", signature="c2ln"), closed(0)
    )
    assert found == [ReasoningDetail({"type": "reasoning.text", "text": "", "signature": "c2ln", **MARK})]


def test_redacted_thoughts_are_data() -> None:
    found = content(opened(0, type="redacted_thinking", data="ZGF0YQ=="), closed(0))
    assert found == [ReasoningDetail({"type": "reasoning.encrypted", "data": "ZGF0YQ==", **MARK})]


def test_unsealed_thoughts_leave_nothing_to_put_back() -> None:
    assert content(opened(0, type="thinking"), delta(0, "thinking_delta", thinking="Hm."), closed(0)) == [ThinkingDelta("Hm.")]


def test_thoughts_know_their_place() -> None:
    found = content(
        opened(0, type="text", text=""),
        delta(0, "text_delta", text="Grüße"),
        closed(0),
        opened(1, type="tool_use", id="t", name="f", input={}),
        closed(1),
        opened(2, type="thinking", thinking="Hm.", signature="c2ln"),
        closed(2),
    )
    assert isinstance(found[-1], ReasoningDetail)
    assert found[-1].detail["position"] == {"text": 5, "calls": 1}


def test_what_was_thought_can_be_put_back_where_it_stood() -> None:
    blocks = [
        {"type": "thinking", "thinking": "A", "signature": "YQ=="},
        {"type": "text", "text": "One. "},
        {"type": "redacted_thinking", "data": "Yg=="},
        {"type": "text", "text": "Two."},
        {"type": "thinking", "thinking": "", "signature": "Yw=="},
        {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Oslo"}},
        {"type": "thinking", "thinking": "D", "signature": "ZA=="},
        {"type": "tool_use", "id": "toolu_2", "name": "get_weather", "input": {}},
    ]
    target = target_of("claude-opus-5")
    answer = {"type": "message", "content": blocks, "stop_reason": "tool_use", "usage": {"input_tokens": 1, "output_tokens": 1}}
    told = DIALECT.decode_answer(orjson.dumps(answer), request(), target)
    message = orjson.loads(told.body)["choices"][0]["message"]
    results = [{"role": "tool", "tool_call_id": id_, "content": "9"} for id_ in ("toolu_1", "toolu_2")]
    again = request(messages=[{"role": "user", "content": "Hi"}, message, *results], tools=[TOOL])
    encoded = DIALECT.encode_request(again, target)
    assert orjson.loads(encoded.body)["messages"][1]["content"] == blocks
    assert encoded.dropped == ()


def test_citations_with_an_address_are_annotations_and_others_extras() -> None:
    web = {
        "type": "web_search_result_location",
        "url": "https://a.example",
        "title": None,
        "cited_text": "x",
        "encrypted_index": "y",
    }
    source = {"type": "search_result_location", "source": "https://b.example", "title": "B", "cited_text": "x"}
    page = {"type": "page_location", "document_index": 0, "start_page_number": 1, "end_page_number": 2, "cited_text": "x"}
    assert content(
        opened(0, type="text", text=""),
        delta(0, "text_delta", text="So. "),
        closed(0),
        opened(1, type="text", text="", citations=[]),
        delta(1, "citations_delta", citation=web),
        delta(1, "text_delta", text="It is."),
        delta(1, "citations_delta", citation=source),
        delta(1, "citations_delta", citation=page),
        closed(1),
    )[2:] == [
        Annotation(
            {"type": "url_citation", "url_citation": {"url": "https://a.example", "title": "", "start_index": 4, "end_index": 10}}
        ),
        Annotation(
            {
                "type": "url_citation",
                "url_citation": {"url": "https://b.example", "title": "B", "start_index": 4, "end_index": 10},
            }
        ),
        Extra("citations", {**page, "start_index": 4, "end_index": 10}),
    ]


def test_server_tools_are_shown_whole_and_are_no_calls() -> None:
    use = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search"}
    result = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    assert content(
        opened(0, **use, input={}),
        delta(0, "input_json_delta", partial_json='{"query":'),
        delta(0, "input_json_delta", partial_json='"x"}'),
        closed(0),
        opened(1, **result),
        closed(1),
    ) == [Extra("server_tool_use", {**use, "input": {"query": "x"}}), Extra("web_search_tool_result", result)]


def test_an_input_that_was_cut_is_shown_as_text() -> None:
    found = content(opened(0, type="server_tool_use", input={}), delta(0, "input_json_delta", partial_json='{"qu'), closed(0))
    assert found == [Extra("server_tool_use", {"type": "server_tool_use", "input": '{"qu'})]


def test_blocks_and_deltas_that_nobody_knows_yet_are_put_together() -> None:
    assert content(
        opened(0, type="compaction", content=None),
        delta(0, "compaction_delta", content="So "),
        delta(0, "compaction_delta", content="far.", size=2),
        closed(0),
        opened(1, type="text", text=""),
        delta(1, "sparkle_delta", sparkle=True),
        delta(1, "text_delta", text="Hi"),
        closed(1),
    ) == [Extra("compaction", {"type": "compaction", "content": "So far.", "size": 2}), TextDelta("Hi")]


@pytest.mark.parametrize(
    "event",
    [
        {"type": "message_pause"},
        {"type": "content_block_delta"},
        {"type": "content_block_delta", "index": 0},
        {"type": "content_block_delta", "index": 0, "delta": {}},
        {"type": "content_block_delta", "index": 9, "delta": {"type": "input_json_delta", "partial_json": "{"}},
        {"type": "content_block_delta", "index": [], "delta": {"type": "text_delta", "text": None}},
        {"type": "content_block_start", "index": 0},
        {"type": "content_block_stop", "index": 9},
        {"type": "message_delta"},
        {"type": "message_delta", "delta": None, "usage": 3},
        {"type": "message_start"},
        {"no": "type"},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_passed_over(event: dict[str, Any]) -> None:
    decoder = DIALECT.decoder(request(), TARGET)
    stream = [start(), opened(0, type="text", text=""), delta(0, "text_delta", text="Hi")]
    out = decoder.feed(sse(*stream) + b"data: " + orjson.dumps(event) + b"\n\n" + sse(closed(0), stopped(), STOP))
    assert [event for event in out if isinstance(event, TextDelta)] == [TextDelta("Hi")]
    assert decoder.done


def test_a_server_that_leaves_out_starts_is_understood() -> None:
    found = decoded(start(), delta(0, "text_delta", text="Hi"), delta(1, "thinking_delta", thinking="Hm"), stopped(), STOP)
    assert found[1:3] == [TextDelta("Hi"), ThinkingDelta("Hm")]


def test_blocks_that_were_never_closed_are_closed_at_the_end() -> None:
    found = decoded(start(), opened(0, type="tool_use", id="t", name="f", input={}), stopped("tool_use"), STOP)
    assert found[1:4] == [ToolCallStarted(0, "t", "f"), ToolCallEnded(0), Finished("tool_calls", "tool_use")]


def test_nothing_is_told_after_the_finish_but_usage() -> None:
    late = [opened(1, type="text", text="late"), delta(1, "text_delta", text="late"), closed(1), PING]
    found = decoded(start(), stopped(), *late, stopped("max_tokens", {"output_tokens": 9}, container={"id": "c"}), STOP)
    assert found == [
        Started("claude-x"),
        Finished("stop", "end_turn"),
        UsageReported(Usage(10, 5)),
        KeepAlive(),
        UsageReported(Usage(10, 9)),
    ]


def test_the_end_mark_is_message_stop_and_nothing_is_read_after_it() -> None:
    decoder = DIALECT.decoder(request(), TARGET)
    decoder.feed(sse(start(), stopped(), STOP, start(), opened(0, type="text", text="another")))
    assert decoder.done
    assert decoder.feed(sse(delta(0, "text_delta", text="x"))) == []


def test_a_stream_that_never_said_why_it_ended_has_finished_all_the_same() -> None:
    assert decoded(start(), STOP)[1] == Finished("stop", None)
    assert Finished("tool_calls", None) in decoded(start(), opened(0, type="tool_use", id="t", name="f"), STOP)


# why it ended


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("tool_use", "tool_calls"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "length"),
        ("refusal", "content_filter"),
        ("something_new", "stop"),
    ],
)
def test_stop_reasons(native: str, reason: str) -> None:
    assert Finished(reason, native) in decoded(start(), stopped(native), STOP)  # type: ignore[arg-type]
    assert Finished(reason, native) in whole(stop_reason=native)  # type: ignore[arg-type]


def test_a_refusal_has_no_content_and_may_say_why() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "That could do harm."}
    expected = [Extra("stop_details", details), RefusalDelta("That could do harm."), Finished("content_filter", "refusal")]
    assert whole(stop_reason="refusal", stop_details=details)[1:4] == expected
    assert decoded(start(), stopped("refusal", stop_details=details), STOP)[1:4] == expected
    answer = DIALECT.decode_answer(
        orjson.dumps({"type": "message", "content": [], "stop_reason": "refusal", "usage": START_USAGE}), request(), TARGET
    )
    assert answer.finish_reason == "content_filter"


def test_what_only_anthropic_says_is_shown() -> None:
    found = decoded(start(container=None), stopped(stop_sequence="END", container={"id": "c"}), STOP)
    assert found[1:3] == [Extra("stop_sequence", "END"), Extra("container", {"id": "c"})]


# usage


def test_later_usage_wins_field_by_field() -> None:
    first = {"input_tokens": 868, "cache_read_input_tokens": 5, "output_tokens": 6}
    assert usage_of(start(usage=first), stopped(usage={"output_tokens": 3}), STOP) == Usage(873, 3, cached_input_tokens=5)
    more = {"input_tokens": 4230, "cache_read_input_tokens": None, "output_tokens": 30, "iterations": [{"input_tokens": 1}]}
    assert usage_of(start(usage=first), stopped(usage=more), STOP) == Usage(4235, 30, cached_input_tokens=5)


def test_input_includes_cache_reads_and_writes_but_not_their_breakdown() -> None:
    usage = {
        "input_tokens": 3,
        "cache_creation_input_tokens": 20,
        "cache_read_input_tokens": 1217,
        "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 112,
        "output_tokens_details": {"thinking_tokens": 99},
        "server_tool_use": {"web_search_requests": 7},
    }
    expected = Usage(1240, 112, cached_input_tokens=1217, cache_write_tokens=20, reasoning_tokens=99)
    assert UsageReported(expected) in whole(usage=usage)


@pytest.mark.parametrize(
    ("lasting", "hour"),
    [
        ({"ephemeral_5m_input_tokens": 15, "ephemeral_1h_input_tokens": 5}, 5),
        ({"ephemeral_1h_input_tokens": 20}, 20),
        ({"ephemeral_1h_input_tokens": 21}, 20),  # a part is no larger than its whole
        ({"ephemeral_1h_input_tokens": -1}, 0),
        ({"ephemeral_1h_input_tokens": "5"}, 0),
        ({}, 0),
        (None, 0),
        ([5], 0),
    ],
    ids=str,
)
def test_what_is_written_for_an_hour_is_told_apart_streamed_and_whole(lasting: Any, hour: int) -> None:
    said = {"input_tokens": 3, "cache_creation_input_tokens": 20, "cache_creation": lasting, "output_tokens": 1}
    expected = Usage(23, 1, cache_write_tokens=20, cache_write_1h_tokens=hour)
    assert UsageReported(expected) in whole(usage=said)
    assert usage_of(start(usage=said), stopped(usage={"output_tokens": 1}), STOP) == expected


def test_a_count_that_is_only_given_once_is_not_taken_back() -> None:
    assert usage_of(start(), stopped(usage={"input_tokens": 0, "output_tokens": 5}), STOP) == Usage(10, 5)


def test_the_placeholder_of_the_start_is_no_usage() -> None:
    assert usage_of(start(), opened(0, type="text", text="Hi")) is None
    assert usage_of(start(), {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, STOP) is None


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        [],
        {"input_tokens": 1},
        {"input_tokens": -1, "output_tokens": 1},
        {"input_tokens": 1.5, "output_tokens": 1},
        {"input_tokens": "1", "output_tokens": 1},
        {"input_tokens": True, "output_tokens": 1},
        {"input_tokens": 1, "output_tokens": 10**9},
        {"input_tokens": 1, "output_tokens": 1, "cache_read_input_tokens": -5},
    ],
    ids=str,
)
def test_nonsense_is_no_usage(usage: Any) -> None:
    assert not [event for event in whole(usage=usage) if isinstance(event, UsageReported)]


def test_thinking_is_not_more_than_the_whole() -> None:
    usage = {"input_tokens": 1, "output_tokens": 4, "output_tokens_details": {"thinking_tokens": 9}}
    assert UsageReported(Usage(1, 4, reasoning_tokens=4)) in whole(usage=usage)


# faults


@pytest.mark.parametrize(
    ("kind", "error_class"),
    [
        ("overloaded_error", ErrorClass.OVERLOADED),
        ("api_error", ErrorClass.SERVER_ERROR),
        ("rate_limit_error", ErrorClass.RATE_LIMITED),
        ("invalid_request_error", ErrorClass.INVALID_REQUEST),
        ("brand_new_error", ErrorClass.SERVER_ERROR),
    ],
)
def test_an_error_event_ends_the_stream(kind: str, error_class: ErrorClass) -> None:
    error = {"type": "error", "error": {"type": kind, "message": "Sorry"}}
    found = decoded(
        start(), opened(0, type="text", text=""), delta(0, "text_delta", text="Hi"), error, closed(0), stopped(), STOP
    )
    failed = found[-1]
    assert isinstance(failed, StreamFailed)
    assert (failed.error.error_class, failed.error.message) == (error_class, "Sorry")
    assert found[:-1] == [Started("claude-x"), TextDelta("Hi")]


def test_an_error_of_another_shape_is_one_too() -> None:
    decoder = DIALECT.decoder(request(), TARGET)
    (failed,) = decoder.feed(b'data: {"error": {"message": "quota", "code": 429}}\n\n')
    assert isinstance(failed, StreamFailed)
    assert failed.error.error_class is ErrorClass.RATE_LIMITED


@pytest.mark.parametrize(
    ("answer", "error_class"),
    [
        ({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, ErrorClass.OVERLOADED),
        ({"error": {"message": "x", "code": 503}}, ErrorClass.OVERLOADED),
        ({}, ErrorClass.EMPTY),
        ({"type": "message", "content": None}, ErrorClass.EMPTY),
        ({"type": "completion", "completion": "Hi"}, ErrorClass.EMPTY),
    ],
)
def test_what_is_no_answer(answer: dict[str, Any], error_class: ErrorClass) -> None:
    with pytest.raises(UpstreamError) as failed:
        DIALECT.decode_response(answer, TARGET)
    assert failed.value.error_class is error_class


def test_a_whole_answer_with_strange_blocks() -> None:
    found = whole(content=["x", None, {}, {"type": 7}, {"type": "text"}, {"type": "text", "text": "Hi"}])
    assert [event for event in found if isinstance(event, TextDelta)] == [TextDelta("Hi")]


def test_input_that_is_nested_too_deeply_does_no_harm() -> None:
    deep: dict[str, Any] = {}
    for _ in range(400):
        deep = {"a": deep}
    assert ToolArgsDelta(0, "{}") in whole(content=[{"type": "tool_use", "id": "t", "name": "f", "input": deep}])


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anthropic, "MAX_HELD_CHARS", 10)
    piece = delta(0, "thinking_delta", thinking="x" * 5)
    bounded = decoded(start(), opened(0, type="thinking"), piece, piece, closed(0), opened(1, type="thinking"), piece, piece)
    assert not any(isinstance(event, StreamFailed) for event in bounded)
    failed = decoded(start(), opened(0, type="thinking"), piece, piece, piece, piece)[-1]
    assert isinstance(failed, StreamFailed)
    assert failed.error.error_class is ErrorClass.TOO_LARGE


def test_open_blocks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anthropic, "MAX_OPEN_BLOCKS", 2)
    assert not any(
        isinstance(event, StreamFailed) for event in decoded(start(), *[opened(index, type="text") for index in range(2)])
    )
    assert isinstance(decoded(start(), *[opened(index, type="text") for index in range(3)])[-1], StreamFailed)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "x", "text", "tool_use", "thinking", "end_turn"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "type index delta content_block message content usage input text citations error stop_reason".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
_KINDS = st.sampled_from(
    "message_start content_block_start content_block_delta content_block_stop message_delta message_stop error ping".split()
)


@pytest.mark.property
@given(
    st.lists(
        st.builds(
            lambda kind, rest: {**(rest if isinstance(rest, dict) else {}), "type": kind},
            _KINDS,
            _JSON,
        ),
        max_size=8,
    )
)
def test_no_stream_of_events_makes_it_fall_over(events: list[dict[str, Any]]) -> None:
    stream = DIALECT.answer_stream(request(), TARGET)
    stream.feed(sse(*events))
    stream.close()


@pytest.mark.property
@given(_JSON)
def test_no_answer_makes_it_fall_over(answer: Any) -> None:
    try:
        DIALECT.decode_answer(orjson.dumps(answer), request(), TARGET)
    except UpstreamError:
        pass
