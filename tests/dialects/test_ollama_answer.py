"""What Ollama answers, told in events: whole, streamed, broken, and refused."""

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
from proxy.dialects.ollama.dialect import OllamaChat
from proxy.dialects.openai_chat import MAX_MALFORMED_EVENTS
from proxy.wire.ndjson import MAX_LINE_BYTES
from tests.dialects.fields import GOLDENS, chat_request
from tests.dialects.native_recordings import comparable, cut_at, events_of

pytestmark = pytest.mark.unit

DIALECT = OllamaChat()
TARGET = Target(Provider("ollama", "ollama", "http://127.0.0.1:11434", ()), "qwen3:14b", "qwen3")
GOLDEN = (GOLDENS / "ollama" / "stream.ndjson").read_bytes()
END = {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}


def request(id_: str = "r1") -> Any:
    found = chat_request({"model": "smart", "messages": [{"role": "user", "content": "Hi"}], "stream": True})
    found.id = id_
    return found


def decoded(*pieces: bytes) -> list[Event]:
    return events_of(DIALECT.decoder(request(), TARGET), pieces)


def lines(*found: Any) -> bytes:
    return b"".join(orjson.dumps(line) + b"\n" for line in found)


def streamed(*found: Any) -> list[Event]:
    return decoded(lines(*found))


def line(content: str = "", **message: Any) -> dict[str, Any]:
    return {"model": "m", "message": {"role": "assistant", "content": content, **message}, "done": False}


def whole(content: str = "", *, last: dict[str, Any] | None = None, **message: Any) -> list[Event]:
    answer = {**END, "created_at": "2025-06-01T09:30:00.123456789Z", **(last or {})}
    return DIALECT.decode_response({**answer, "message": {"role": "assistant", "content": content, **message}}, TARGET)


def call(name: str, arguments: Any, **rest: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}, **rest}


# -- streams


def test_it_is_no_event_stream() -> None:
    assert DIALECT.stream_type == b"application/x-ndjson"


def test_a_stream_with_everything() -> None:
    got = [[type(event).__name__, asdict(event)] for event in decoded(GOLDEN)]
    golden = GOLDENS / "ollama" / "stream.events.json"
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


def test_the_last_line_needs_no_end() -> None:
    assert decoded(GOLDEN.rstrip(b"\n")) == decoded(GOLDEN)
    assert decoded(GOLDEN.replace(b"\n", b"\r\n")) == decoded(GOLDEN)


def test_a_line_separator_is_part_of_the_text() -> None:
    raw = '{"model":"m","message":{"content":"a\u2028b\u0085c"},"done":false}\n'.encode()
    assert decoded(raw) == [Started("m"), TextDelta("a\u2028b\u0085c")]


def test_the_end_is_done_and_nothing_after_it_is_read() -> None:
    decoder = DIALECT.decoder(request(), TARGET)
    assert events_of(decoder, [lines(line("Hi"), END, line("more"))]) == [Started("m"), TextDelta("Hi"), Finished("stop", "stop")]
    assert (decoder.done, decoder.frames) == (True, 2)
    assert decoder.feed(lines(line("more"))) == []


def test_a_stream_that_breaks_off_has_no_end() -> None:
    decoder = DIALECT.decoder(request(), TARGET)
    assert events_of(decoder, [lines(line("Hel"))]) == [Started("m"), TextDelta("Hel")]
    assert not decoder.done


def test_calls_get_ids_that_are_their_own_where_they_have_none() -> None:
    raw = lines(
        line(tool_calls=[call("f", {}), call("f", {})]), line(tool_calls=[call("f", {}, id="call_x"), call("f", {}, id="")])
    )

    def ids(request_id: str) -> list[str]:
        events = events_of(DIALECT.decoder(request(request_id), TARGET), [raw])
        return [event.id for event in events if isinstance(event, ToolCallStarted)]

    assert ids("one") == ids("one")
    assert ids("one")[2] == "call_x"
    assert len({*ids("one"), *ids("two")}) == 7
    assert all(id_.startswith("call_") for id_ in ids("one"))


def test_whole_answers_get_other_ids_too() -> None:
    def id_of(last: dict[str, Any]) -> str:
        (started,) = [event for event in whole(tool_calls=[call("f", {})], last=last) if isinstance(event, ToolCallStarted)]
        return started.id

    first, second = {"created_at": "2025-06-01T09:30:00.1Z"}, {"created_at": "2025-06-01T09:30:00.2Z"}
    assert id_of(first) == id_of(first)
    assert id_of(first) != id_of(second)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"a": 1}, ['{"a":1}']),
        ({}, ["{}"]),
        ('{"a": 1}', ['{"a": 1}']),  # other servers of this format
        ("", []),
        (None, []),
    ],
)
def test_arguments(arguments: Any, told: list[str]) -> None:
    events = streamed(line(tool_calls=[call("f", arguments, id="c")]))
    assert events == [
        Started("m"),
        ToolCallStarted(0, "c", "f"),
        *[ToolArgsDelta(0, text) for text in told],
        ToolCallEnded(0),
    ]


def test_lines_that_are_not_of_this_shape_are_counted() -> None:
    decoder = DIALECT.decoder(request(), TARGET)
    odd = [b"[1]\n", b"{\n", lines({"message": "x"}), lines(line("x"))]
    assert events_of(decoder, odd) == [TextDelta("x")]
    assert (decoder.malformed, decoder.frames) == (3, 4)
    assert MAX_MALFORMED_EVENTS == 3
    (failed,) = decoder.feed(b"data: {}\n")
    assert isinstance(failed, StreamFailed)
    assert failed.error.error_class is ErrorClass.MALFORMED_EVENT
    assert decoder.feed(lines(END)) == []
    assert decoder.close() == []


def test_lines_that_say_something_else_are_skipped() -> None:
    assert streamed({"status": "loading"}, {"model": "m", "done": False}, END) == [Started(None), Finished("stop", "stop")]


def test_a_line_has_a_bound_and_what_came_before_is_not_lost() -> None:
    first = lines(line("Hi"))
    long = b'{"x": "' + b"x" * MAX_LINE_BYTES
    for pieces in ([first + long], [first, long], [first + long[:9], long[9:]], [first + long + b"\n"]):
        started, text, failed = decoded(*pieces)
        assert (started, text) == (Started("m"), TextDelta("Hi"))
        assert isinstance(failed, StreamFailed)
        assert failed.error.error_class is ErrorClass.TOO_LARGE


def test_what_came_after_the_end_may_be_too_large() -> None:
    assert decoded(lines(END) + b"x" * (MAX_LINE_BYTES + 1)) == [Started("m"), Finished("stop", "stop")]


def test_broken_utf8_is_mended() -> None:
    decoder = DIALECT.decoder(request(), TARGET)
    assert events_of(decoder, [lines(line("@")).replace(b"@", b"\xff")]) == [Started("m"), TextDelta("\ufffd")]
    assert decoder.mended == 1


# -- whole answers


def test_a_whole_answer_with_everything() -> None:
    events = whole(
        "Bring a hat.",
        thinking="Hm.",
        tool_calls=[call("get_time", {"zone": "WET"}, id="call_1")],
        last={
            "prompt_eval_count": 9,
            "eval_count": 4,
            "total_duration": 5,
            "logprobs": [{"token": "é", "logprob": -1.5}],
        },
    )
    assert events == [
        Started("m"),
        ThinkingDelta("Hm."),
        TextDelta("Bring a hat."),
        ToolCallStarted(0, "call_1", "get_time"),
        ToolArgsDelta(0, '{"zone":"WET"}'),
        ToolCallEnded(0),
        LogprobsDelta([{"token": "é", "logprob": -1.5, "bytes": [195, 169], "top_logprobs": []}]),
        UsageReported(Usage(9, 4)),
        Extra("timings", {"total_duration": 5}),
        Finished("tool_calls", "stop"),
    ]


@pytest.mark.parametrize(
    ("native", "calls", "reason"),
    [
        ("stop", False, "stop"),
        ("stop", True, "tool_calls"),
        ("length", False, "length"),
        ("length", True, "length"),
        ("load", False, "stop"),
        ("unload", False, "stop"),
        ("something new", False, "stop"),
        (None, False, "stop"),
        (None, True, "tool_calls"),
    ],
)
def test_reasons_for_the_end(native: str | None, calls: bool, reason: str) -> None:
    found = [call("f", {})] if calls else None
    assert whole("Hi", tool_calls=found, last={"done_reason": native})[-1] == Finished(reason, native)  # type: ignore[arg-type]
    first = [line(tool_calls=found)] if calls else []
    assert streamed(*first, {**END, "done_reason": native})[-1] == Finished(reason, native)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        ({"prompt_eval_count": 5, "eval_count": 7}, Usage(5, 7)),
        ({"eval_count": 7}, Usage(0, 7)),  # all of the prompt was cached, in older servers
        ({"prompt_eval_count": 5}, Usage(5, 0)),
        ({"prompt_eval_count": 5, "eval_count": 7, "prompt_eval_cached_count": 3}, Usage(5, 7, cached_input_tokens=3)),
        ({"prompt_eval_count": 5, "eval_count": 7, "prompt_eval_cached_count": 9}, Usage(5, 7, cached_input_tokens=5)),
        ({"prompt_eval_count": 5, "eval_count": 7, "prompt_eval_cached_count": "x"}, Usage(5, 7)),
        ({"prompt_eval_count": -5, "eval_count": 7}, None),
        ({"prompt_eval_count": 5.5, "eval_count": 7}, None),
        ({"prompt_eval_count": "5", "eval_count": 7}, None),
        ({"prompt_eval_count": True, "eval_count": 7}, None),
        ({"prompt_eval_count": 10**12, "eval_count": 7}, None),
        ({}, None),
    ],
)
def test_usage(said: dict[str, Any], usage: Usage | None) -> None:
    assert [event.usage for event in whole("Hi", last=said) if isinstance(event, UsageReported)] == ([usage] if usage else [])


@pytest.mark.parametrize("odd", [[1], [{}], [{"token": "x"}], [{"token": 1, "logprob": -1}], [{"token": "x", "logprob": "-1"}]])
def test_log_probabilities_that_are_none_cost_no_text(odd: list[Any]) -> None:
    assert streamed({**line("Hi"), "logprobs": odd}) == [Started("m"), TextDelta("Hi")]


# -- failures inside a 200


TEXTS: list[tuple[str, ErrorClass]] = [
    ("model 'qwen9' not found", ErrorClass.MODEL_NOT_FOUND),
    ("prompt too long; exceeded max context length by 4 tokens", ErrorClass.CONTEXT_LENGTH),
    ("server busy, please try again.  maximum pending requests exceeded", ErrorClass.OVERLOADED),
    ("llama runner process has terminated: exit status 2", ErrorClass.SERVER_ERROR),
    (
        "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error",
        ErrorClass.OVERLOADED,
    ),
    ("model requires more system memory (18.2 GiB) than is available (7.1 GiB)", ErrorClass.OVERLOADED),
    ("timed out waiting for llama runner to start", ErrorClass.SERVER_ERROR),
    ("something else", ErrorClass.SERVER_ERROR),
]


@pytest.mark.parametrize(("text", "error_class"), TEXTS)
def test_an_error_in_the_middle_of_a_stream(text: str, error_class: ErrorClass) -> None:
    events = streamed(line("Hel"), {"error": text}, line("lo"))
    assert events[:2] == [Started("m"), TextDelta("Hel")]
    (failed,) = events[2:]
    assert isinstance(failed, StreamFailed)
    assert (failed.error.error_class, failed.error.message) == (error_class, text)


def test_an_error_line_may_have_a_status() -> None:
    (failed,) = streamed({"error": "slow down", "status": 429})
    assert isinstance(failed, StreamFailed)
    assert (failed.error.error_class, failed.error.status) == (ErrorClass.RATE_LIMITED, 429)


@pytest.mark.parametrize(
    ("answer", "error_class"),
    [
        ({}, ErrorClass.EMPTY),
        ({"message": None, "done": True}, ErrorClass.EMPTY),
        ({"id": "chatcmpl-92", "object": "chat.completion", "choices": [{"message": {}}]}, ErrorClass.EMPTY),
        ({"error": "model 'x' not found"}, ErrorClass.MODEL_NOT_FOUND),
        ({"error": {"message": "no"}}, ErrorClass.SERVER_ERROR),
    ],
)
def test_an_error_in_disguise(answer: dict[str, Any], error_class: ErrorClass) -> None:
    with pytest.raises(UpstreamError) as caught:
        DIALECT.decode_response(answer, TARGET)
    assert caught.value.error_class is error_class


def test_an_answer_of_another_shape_is_the_upstreams_fault() -> None:
    broken: list[dict[str, Any]] = [{"tool_calls": [1]}, {"tool_calls": 5}, {"tool_calls": [{"function": {}}]}]
    for message in broken:
        with pytest.raises(UpstreamError) as caught:
            DIALECT.decode_answer(orjson.dumps({**END, "message": message}), request(), TARGET)
        assert caught.value.error_class is ErrorClass.MALFORMED


WORDS = st.sampled_from(
    """model message content thinking tool_calls function arguments name id index done done_reason eval_count prompt_eval_count
    logprobs token logprob error status""".split()
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**18) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.property
@given(st.lists(st.dictionaries(WORDS, JSON_VALUES, max_size=6), max_size=6), st.lists(st.integers(0, 300), max_size=5))
@settings(max_examples=100, deadline=None)
def test_no_line_makes_the_decoder_raise(found: list[dict[str, Any]], places: list[int]) -> None:
    raw = lines(*found)
    assert comparable(decoded(*cut_at(raw, places))) == comparable(decoded(raw))


# -- refusals


@pytest.mark.parametrize(
    ("status", "text", "error_class"),
    [
        (400, '"gemma3:1b" does not support tools', ErrorClass.INVALID_REQUEST),
        (400, '"gemma3:1b" does not support thinking', ErrorClass.INVALID_REQUEST),
        (400, 'think value "low" is not supported for this model', ErrorClass.INVALID_REQUEST),
        (400, "prompt too long; exceeded max context length by 4 tokens", ErrorClass.CONTEXT_LENGTH),
        (400, "the input length exceeds the context length", ErrorClass.CONTEXT_LENGTH),
        (400, 'option "seed" must be of type integer', ErrorClass.INVALID_REQUEST),
        (401, "unauthorized", ErrorClass.AUTH),
        (403, "this model requires a subscription, upgrade for access: https://ollama.com/upgrade", ErrorClass.MODEL_NOT_FOUND),
        (403, "forbidden", ErrorClass.AUTH),
        (404, "model 'nonexistent-model:latest' not found", ErrorClass.MODEL_NOT_FOUND),
        (404, 'model "x" not found, try pulling it first', ErrorClass.MODEL_NOT_FOUND),
        (429, "you (ada) have reached your session usage limit, please wait or upgrade to continue", ErrorClass.RATE_LIMITED),
        (429, "out of memory", ErrorClass.RATE_LIMITED),
        (499, "request canceled", ErrorClass.RETRYABLE_4XX),
        (500, "model requires more system memory (18.2 GiB) than is available (7.1 GiB)", ErrorClass.OVERLOADED),
        (500, "llama runner process has terminated: cudaMalloc failed: out of memory", ErrorClass.OVERLOADED),
        (500, "llama runner process has terminated: signal: aborted", ErrorClass.SERVER_ERROR),
        (500, "unexpected server status: llm server loading model", ErrorClass.OVERLOADED),
        (500, "something went wrong", ErrorClass.SERVER_ERROR),
        (502, "upstream error", ErrorClass.SERVER_ERROR),
        (503, "server busy, please try again.  maximum pending requests exceeded", ErrorClass.OVERLOADED),
    ],
)
def test_errors(status: int, text: str, error_class: ErrorClass) -> None:
    error = DIALECT.decode_error(status, [], orjson.dumps({"error": text}))
    assert (error.error_class, error.status, error.message) == (error_class, status, text)


@pytest.mark.parametrize(
    ("status", "body", "error_class"),
    [
        (404, b"404 page not found", ErrorClass.MODEL_NOT_FOUND),
        (502, b"<html>", ErrorClass.SERVER_ERROR),
        (400, b"[]", ErrorClass.INVALID_REQUEST),
        (302, b"{}", ErrorClass.REDIRECT),
        (500, b'{"error": null}', ErrorClass.SERVER_ERROR),
        (400, b'{"StatusCode":400,"Status":"400 Bad Request","error":"prompt too long; exceeded"}', ErrorClass.CONTEXT_LENGTH),
        (401, b'{"error":"unauthorized","signin_url":"https://ollama.com/connect"}', ErrorClass.AUTH),
    ],
)
def test_errors_of_other_shapes(status: int, body: bytes, error_class: ErrorClass) -> None:
    error = DIALECT.decode_error(status, [], body)
    assert (error.error_class, error.status) == (error_class, status)
