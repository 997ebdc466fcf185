"""What Converse answers, frame by frame and whole: what becomes of it, and what is made of frames that are broken or unheard of."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.events import (
    Annotation,
    Event,
    Extra,
    Finished,
    ImageDelta,
    ReasoningDetail,
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
from proxy.dialects.bedrock import dialect as bedrock
from proxy.dialects.bedrock.dialect import BedrockConverse
from proxy.dialects.chat_encoder import collect
from proxy.dialects.openai_chat import MAX_MALFORMED_EVENTS
from tests.dialects.bedrock_judge import CLAUDE, target_of
from tests.dialects.bedrock_recordings import cut_at, event, exception, frame
from tests.dialects.fields import GOLDENS, chat_request

pytestmark = pytest.mark.unit

DIALECT = BedrockConverse()
TARGET = target_of(CLAUDE)
USAGE = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}


def request(*, stream: bool = True) -> ChatRequest:
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return chat_request({"model": "smart", "messages": [{"role": "user", "content": "Hi"}], **options})


def start(index: int, said: dict[str, Any]) -> bytes:
    return event("contentBlockStart", {"contentBlockIndex": index, "p": "abcde", "start": said})


def delta(index: int, said: dict[str, Any]) -> bytes:
    return event("contentBlockDelta", {"contentBlockIndex": index, "delta": said, "p": "abcdefghijklmnop"})


def stop(index: int) -> bytes:
    return event("contentBlockStop", {"contentBlockIndex": index, "p": "abc"})


def tool(index: int, id_: str, name: str, *pieces: str, **more: Any) -> bytes:
    pieces_sent = b"".join(delta(index, {"toolUse": {"input": piece}}) for piece in pieces)
    return start(index, {"toolUse": {"toolUseId": id_, "name": name, **more}}) + pieces_sent + stop(index)


BEGIN = event("messageStart", {"p": "abcdefg", "role": "assistant"})
TURN_END = event("messageStop", {"p": "a", "stopReason": "end_turn"})
METADATA = event("metadata", {"metrics": {"latencyMs": 900}, "p": "abcd", "usage": USAGE})
END = TURN_END + METADATA
ENDED = [UsageReported(Usage(10, 5)), Finished("stop", "end_turn")]


def told(*frames: bytes, close: bool = True) -> list[Event]:
    decoder = DIALECT.decoder(request(), TARGET)
    found = [one for data in frames for one in decoder.feed(data)]
    return found + decoder.close() if close else found


def failure(events: list[Event]) -> UpstreamError:
    assert isinstance(events[-1], StreamFailed)
    return events[-1].error


# -- the story


def test_a_stream_with_everything_in_it() -> None:
    """`stream.json` are the frames, `stream.sse` what the caller reads."""
    folder = GOLDENS / "bedrock"
    frames = b"".join(event(kind, payload) for kind, payload in orjson.loads((folder / "stream.json").read_bytes()))
    stream = DIALECT.answer_stream(request(), TARGET)
    sent = stream.feed(frames) + stream.close()
    assert stream.error is None
    assert sent.decode() == (folder / "stream.sse").read_text(encoding="utf-8")
    for line in sent.split(b"\n\n")[:-2]:
        ChatCompletionChunk.model_validate(orjson.loads(line.removeprefix(b"data: ")), strict=True)


BLOCKS: dict[str, tuple[bytes, list[Event]]] = {
    "text without a start": (delta(0, {"text": "Hi"}) + delta(0, {"text": "!"}) + stop(0), [TextDelta("Hi"), TextDelta("!")]),
    "empty text": (delta(0, {"text": ""}) + stop(0), []),
    "text with a start that says nothing": (start(0, {}) + delta(0, {"text": "Hi"}) + stop(0), [TextDelta("Hi")]),
    "a call": (
        tool(0, "t1", "add", '{"a":', "1}"),
        [ToolCallStarted(0, "t1", "add"), ToolArgsDelta(0, '{"a":'), ToolArgsDelta(0, "1}"), ToolCallEnded(0)],
    ),
    "a call of no arguments": (tool(0, "t1", "now", ""), [ToolCallStarted(0, "t1", "now"), ToolCallEnded(0)]),
    "a call without any delta": (tool(0, "t1", "now"), [ToolCallStarted(0, "t1", "now"), ToolCallEnded(0)]),
    "calls are counted by themselves": (
        delta(0, {"text": "I look."}) + stop(0) + tool(1, "t1", "a", type="tool_use") + tool(3, "t2", "b"),
        [
            TextDelta("I look."),
            ToolCallStarted(0, "t1", "a"),
            ToolCallEnded(0),
            ToolCallStarted(1, "t2", "b"),
            ToolCallEnded(1),
        ],
    ),
    "blocks that run side by side": (
        start(0, {"toolUse": {"toolUseId": "t1", "name": "a"}})
        + start(1, {"toolUse": {"toolUseId": "t2", "name": "b"}})
        + delta(1, {"toolUse": {"input": "{}"}})
        + delta(0, {"toolUse": {"input": "{}"}})
        + stop(0)
        + stop(1),
        [
            ToolCallStarted(0, "t1", "a"),
            ToolCallStarted(1, "t2", "b"),
            ToolArgsDelta(1, "{}"),
            ToolArgsDelta(0, "{}"),
            ToolCallEnded(0),
            ToolCallEnded(1),
        ],
    ),
    "a block that is never stopped": (
        start(0, {"toolUse": {"toolUseId": "t1", "name": "a"}}),
        [ToolCallStarted(0, "t1", "a"), ToolCallEnded(0)],
    ),
    "arguments of no call": (delta(5, {"toolUse": {"input": "{}"}}) + stop(5), []),
    "sealed thoughts": (
        delta(0, {"reasoningContent": {"text": "By the "}})
        + delta(0, {"reasoningContent": {"text": "bridge."}})
        + delta(0, {"reasoningContent": {"signature": "c2ln"}})
        + stop(0),
        [
            ThinkingDelta("By the "),
            ThinkingDelta("bridge."),
            ReasoningDetail(
                {"type": "reasoning.text", "text": "By the bridge.", "signature": "c2ln", "format": "bedrock", "model": CLAUDE}
            ),
        ],
    ),
    "thoughts that nobody sealed": (delta(0, {"reasoningContent": {"text": "Hm."}}) + stop(0), [ThinkingDelta("Hm.")]),
    "a signature alone": (
        delta(0, {"reasoningContent": {"signature": "c2ln"}}) + stop(0),
        [ReasoningDetail({"type": "reasoning.text", "text": "", "signature": "c2ln", "format": "bedrock", "model": CLAUDE})],
    ),
    "thoughts behind text and a call": (
        delta(0, {"text": "Well."})
        + stop(0)
        + tool(1, "t1", "a")
        + delta(2, {"reasoningContent": {"signature": "cw=="}})
        + stop(2),
        [
            TextDelta("Well."),
            ToolCallStarted(0, "t1", "a"),
            ToolCallEnded(0),
            ReasoningDetail(
                {
                    "type": "reasoning.text",
                    "text": "",
                    "signature": "cw==",
                    "format": "bedrock",
                    "model": CLAUDE,
                    "position": {"text": 5, "calls": 1},
                }
            ),
        ],
    ),
    "redacted thoughts in pieces": (
        delta(0, {"reasoningContent": {"redactedContent": base64.b64encode(b"seal").decode()}})
        + delta(0, {"reasoningContent": {"redactedContent": base64.b64encode(b"ed").decode()}})
        + stop(0),
        [
            ReasoningDetail(
                {
                    "type": "reasoning.encrypted",
                    "data": base64.b64encode(b"sealed").decode(),
                    "format": "bedrock",
                    "model": CLAUDE,
                }
            )
        ],
    ),
    "a picture in pieces": (
        start(0, {"image": {"format": "webp"}})
        + delta(0, {"image": {"source": {"bytes": base64.b64encode(b"RIFF").decode()}}})
        + delta(0, {"image": {"source": {"bytes": base64.b64encode(b"WEBP").decode()}}})
        + stop(0),
        [ImageDelta("data:image/webp;base64," + base64.b64encode(b"RIFFWEBP").decode())],
    ),
    "the provider's own tool is no call of ours": (
        tool(0, "s1", "nova_grounding", '{"query":', '"x"}', type="server_tool_use")
        + start(1, {"toolResult": {"toolUseId": "s1", "status": "success", "type": "nova_grounding_result"}})
        + delta(1, {"toolResult": [{"text": "[HIDDEN]"}]})
        + stop(1),
        [
            Extra(
                "server_tool_use",
                {"toolUseId": "s1", "name": "nova_grounding", "type": "server_tool_use", "input": {"query": "x"}},
            ),
            Extra(
                "server_tool_result",
                {"toolUseId": "s1", "status": "success", "type": "nova_grounding_result", "content": [{"text": "[HIDDEN]"}]},
            ),
        ],
    ),
    "a citation of a document, before its text": (
        delta(0, {"text": "Hm: "})
        + stop(0)
        + delta(1, {"citation": {"title": "facts", "location": {"documentChar": {"start": 0}}}})
        + delta(1, {"text": "Ruby"})
        + stop(1),
        [
            TextDelta("Hm: "),
            TextDelta("Ruby"),
            Extra(
                "citations",
                {"title": "facts", "location": {"documentChar": {"start": 0}}, "start_index": 4, "end_index": 8},
            ),
        ],
    ),
    "a citation of the web, in a block behind its text": (
        delta(0, {"text": "Ruby 4"})
        + stop(0)
        + delta(1, {"citation": {"location": {"web": {"url": "https://r.example", "domain": "r.example"}}}})
        + stop(1),
        [
            TextDelta("Ruby 4"),
            Annotation(
                {
                    "type": "url_citation",
                    "url_citation": {"url": "https://r.example", "title": "r.example", "start_index": 0, "end_index": 6},
                }
            ),
        ],
    ),
    "events that are yet to come": (
        event("contentBlockHint", {"hint": 1}) + delta(0, {"somethingNew": 1}) + delta(0, {"text": "Hi"}) + stop(9),
        [TextDelta("Hi")],
    ),
}


@pytest.mark.parametrize("case", BLOCKS)
def test_a_block(case: str) -> None:
    frames, expected = BLOCKS[case]
    found = told(BEGIN + frames + END)
    calls = any(isinstance(one, ToolCallStarted) for one in expected)
    reason = Finished("tool_calls" if calls else "stop", "end_turn")
    held = [one for one in expected if isinstance(one, ToolCallEnded)] if case == "a block that is never stopped" else []
    expected = [one for one in expected if one not in held]
    assert found == [Started(), *expected, UsageReported(Usage(10, 5)), *held, reason]


def test_a_call_without_an_id_gets_one_of_its_own() -> None:
    frames = BEGIN + tool(0, "", "now") + tool(1, "", "now") + END
    ids = [one.id for one in told(frames) if isinstance(one, ToolCallStarted)]
    assert len(set(ids)) == 2
    assert ids == [one.id for one in told(frames) if isinstance(one, ToolCallStarted)]


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("tool_use", "tool_calls"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("something_new", "stop"),
    ],
)
def test_why_it_ended(native: str, reason: str) -> None:
    assert told(event("messageStop", {"stopReason": native}) + METADATA)[-1] == Finished(reason, native)  # type: ignore[arg-type]
    answer = {"output": {"message": {"content": [{"text": "Hi"}]}}, "stopReason": native, "usage": USAGE}
    assert DIALECT.decode_response(answer, TARGET)[-1] == Finished(reason, native)  # type: ignore[arg-type]


@pytest.mark.parametrize("native", ["malformed_model_output", "malformed_tool_use"])
def test_a_model_that_breaks_its_own_protocol_is_at_fault(native: str) -> None:
    error = failure(told(event("messageStop", {"stopReason": native}) + METADATA))
    assert error.error_class is ErrorClass.MODEL_FAULT
    with pytest.raises(UpstreamError) as caught:
        DIALECT.decode_response({"output": {"message": {"content": []}}, "stopReason": native}, TARGET)
    assert caught.value.error_class is ErrorClass.MODEL_FAULT


# -- the end


@pytest.mark.parametrize("frames", [TURN_END + METADATA, METADATA + TURN_END])
def test_the_stream_is_done_when_reason_and_usage_are_both_there(frames: bytes) -> None:
    decoder = DIALECT.decoder(request(), TARGET)
    first = int.from_bytes(frames[:4])
    states = []
    for data in (frames[:first], frames[first:]):
        found = decoder.feed(data)
        states.append((decoder.done, Finished("stop", "end_turn") in found))
    assert states == [(False, False), (True, True)]
    assert decoder.feed(delta(0, {"text": "too late"})) == []
    assert decoder.close() == []


def test_a_stream_that_ends_without_its_usage_is_whole_all_the_same() -> None:
    assert told(delta(0, {"text": "Hi"}) + TURN_END) == [TextDelta("Hi"), Finished("stop", "end_turn")]


def test_a_stream_without_a_reason_is_not_whole() -> None:
    assert told(delta(0, {"text": "Hi"}) + METADATA) == [TextDelta("Hi"), UsageReported(Usage(10, 5))]


def test_an_unfinished_frame_says_nothing() -> None:
    assert told(delta(0, {"text": "Hi"}) + TURN_END[:-1]) == [TextDelta("Hi")]


def test_what_the_provider_adds_is_shown() -> None:
    stopped = event("messageStop", {"stopReason": "end_turn", "additionalModelResponseFields": {"stop_sequence": "x"}})
    about = {"trace": {"guardrail": {"a": 1}}, "performanceConfig": {"latency": "optimized"}, "serviceTier": {"type": "flex"}}
    usage = {**USAGE, "cacheDetails": [{"ttl": "1h", "inputTokens": 3}]}
    expected = {
        "additionalModelResponseFields": [{"stop_sequence": "x"}],
        "trace": [{"guardrail": {"a": 1}}],
        "performanceConfig": [{"latency": "optimized"}],
        "serviceTier": [{"type": "flex"}],
        "usage": [usage],
    }
    found = collect(told(stopped + event("metadata", {**about, "usage": usage, "p": "abc"})))
    assert found.choices[0].extras == expected
    answer = {
        "output": {"message": {"content": []}},
        "stopReason": "end_turn",
        "additionalModelResponseFields": {"stop_sequence": "x"},
        **about,
        "usage": usage,
    }
    assert collect(DIALECT.decode_response(answer, TARGET)).choices[0].extras == expected


USAGES: list[tuple[dict[str, Any], Usage | None]] = [
    (USAGE, Usage(10, 5)),
    (
        {**USAGE, "cacheReadInputTokens": 30, "cacheWriteInputTokens": 7},
        Usage(47, 5, cached_input_tokens=30, cache_write_tokens=7),
    ),
    # both names are sent: it is one count
    (
        {
            **USAGE,
            "cacheReadInputTokens": 30,
            "cacheReadInputTokenCount": 30,
            "cacheWriteInputTokens": 0,
            "cacheWriteInputTokenCount": 0,
        },
        Usage(40, 5, cached_input_tokens=30),
    ),
    ({**USAGE, "cacheReadInputTokenCount": 30}, Usage(40, 5, cached_input_tokens=30)),
    ({**USAGE, "cacheReadInputTokens": None}, Usage(10, 5)),
    (
        {
            **USAGE,
            "cacheWriteInputTokens": 7,
            "cacheDetails": [{"ttl": "1h", "inputTokens": 5}, {"ttl": "5m", "inputTokens": 2}],
        },
        Usage(17, 5, cache_write_tokens=7, cache_write_1h_tokens=5),
    ),
    (
        {**USAGE, "cacheWriteInputTokens": 7, "cacheDetails": [{"ttl": "1h", "inputTokens": 9}, {"ttl": "1h"}, None]},
        Usage(17, 5, cache_write_tokens=7, cache_write_1h_tokens=7),
    ),
    ({**USAGE, "cacheWriteInputTokens": 7, "cacheDetails": 5}, Usage(17, 5, cache_write_tokens=7)),
    ({"inputTokens": 10}, None),
    ({"outputTokens": 5}, None),
    ({**USAGE, "inputTokens": -1}, None),
    ({**USAGE, "inputTokens": 10.5}, None),
    ({**USAGE, "inputTokens": "10"}, None),
    ({**USAGE, "outputTokens": True}, None),
    ({**USAGE, "outputTokens": 10**12}, None),
    ({**USAGE, "cacheReadInputTokens": -3}, None),
    ({}, None),
]


@pytest.mark.parametrize(("said", "usage"), USAGES)
def test_usage(said: dict[str, Any], usage: Usage | None) -> None:
    assert collect(told(TURN_END + event("metadata", {"usage": said}))).usage == usage
    answer = {"output": {"message": {"content": []}}, "stopReason": "end_turn", "usage": said}
    assert collect(DIALECT.decode_response(answer, TARGET)).usage == usage


# -- exceptions inside of a stream

EXCEPTIONS = [
    ("throttlingException", {"message": "Too many tokens, please wait before trying again."}, ErrorClass.RATE_LIMITED),
    ("serviceUnavailableException", {"message": "Bedrock is unable to process your request."}, ErrorClass.OVERLOADED),
    ("internalServerException", {"message": "The system encountered an unexpected error."}, ErrorClass.SERVER_ERROR),
    (
        "modelStreamErrorException",
        {"message": "Model Stream Error", "originalStatusCode": 500, "originalMessage": "The model stream failed."},
        ErrorClass.SERVER_ERROR,
    ),
    ("validationException", {"message": "The model returned the following errors: Bad."}, ErrorClass.INVALID_REQUEST),
    ("validationException", {"message": "Input is too long for requested model."}, ErrorClass.CONTEXT_LENGTH),
    ("modelTimeoutException", {"message": "The model timed out."}, ErrorClass.RETRYABLE_4XX),
    ("somethingNewException", {"message": "What now?"}, ErrorClass.SERVER_ERROR),
]


@pytest.mark.parametrize(("kind", "said", "error_class"), EXCEPTIONS)
@pytest.mark.parametrize("before", [b"", BEGIN, BEGIN + delta(0, {"text": "Hi"}), BEGIN + delta(0, {"text": "Hi"}) + TURN_END])
def test_an_exception_ends_the_stream(kind: str, said: dict[str, Any], error_class: ErrorClass, before: bytes) -> None:
    found = told(before + exception(kind, said) + delta(0, {"text": "more"}) + END)
    error = failure(found)
    assert (error.error_class, error.message, error.status) == (error_class, said["message"], 200)
    assert [one.text for one in found if isinstance(one, TextDelta)] == (["Hi"] if b"Hi" in before else [])


def test_an_error_of_aws_itself_ends_the_stream() -> None:
    headers = {":message-type": "error", ":error-code": "InternalFailure", ":error-message": "Something broke."}
    error = failure(told(BEGIN, frame(headers, b"")))
    assert (error.error_class, error.message) == (ErrorClass.SERVER_ERROR, "Something broke.")


def test_an_exception_without_a_word_is_one_all_the_same() -> None:
    error = failure(told(exception("throttlingException", b"")))
    assert (error.error_class, error.message) == (ErrorClass.RATE_LIMITED, "ThrottlingException")


# -- what is broken

BROKEN_EVENTS = [
    event("contentBlockDelta", b"not json"),
    event("contentBlockDelta", []),
    event("contentBlockDelta", None),
    event("contentBlockDelta", {"contentBlockIndex": 0}),
    event("contentBlockDelta", {"contentBlockIndex": 0, "delta": "text"}),
    event("contentBlockDelta", {"contentBlockIndex": [], "delta": {"text": "x"}}),
    event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": "x"}}),
    event("contentBlockStart", {"contentBlockIndex": 0}),
    frame({":message-type": "event"}, {"a": 1}),
    frame({}, b""),
]


@pytest.mark.parametrize("broken", BROKEN_EVENTS)
def test_an_event_that_cannot_be_read_is_counted_and_skipped(broken: bytes) -> None:
    decoder = DIALECT.decoder(request(), TARGET)
    found = decoder.feed(BEGIN + broken + delta(0, {"text": "Hi"}) + END)
    assert found == [Started(), TextDelta("Hi"), *ENDED]
    assert (decoder.malformed, decoder.frames) == (1, 5)


def test_too_many_of_them_end_the_stream() -> None:
    fits = BROKEN_EVENTS[0] * MAX_MALFORMED_EVENTS
    assert told(fits + END) == ENDED
    error = failure(told(fits + BROKEN_EVENTS[0] + END))
    assert error.error_class is ErrorClass.MALFORMED_EVENT


def test_text_that_is_no_utf_8_is_mended() -> None:
    decoder = DIALECT.decoder(request(), TARGET)
    found = decoder.feed(event("contentBlockDelta", b'{"contentBlockIndex":0,"delta":{"text":"a\xffb"}}'))
    assert found == [TextDelta("a\ufffdb")]
    assert (decoder.mended, decoder.malformed) == (1, 0)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_bytes_that_are_no_event_stream_end_it_and_what_came_before_is_told(size: int) -> None:
    data = BEGIN + delta(0, {"text": "Hi"}) + b"HTTP/1.1 502 Bad Gateway\r\n\r\n"
    found = told(*[data[i : i + size] for i in range(0, len(data), size)])
    assert found[:-1] == [Started(), TextDelta("Hi")]
    assert failure(found).error_class is ErrorClass.MALFORMED


def test_a_frame_without_end_is_too_large() -> None:
    error = failure(told(frame({}, b"")[:0] + _huge_prelude()))
    assert error.error_class is ErrorClass.TOO_LARGE


def _huge_prelude() -> bytes:
    from struct import pack
    from zlib import crc32

    lengths = pack(">II", 1 << 30, 0)
    return lengths + pack(">I", crc32(lengths))


def test_what_must_be_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bedrock, "MAX_HELD_CHARS", 100)
    fits = delta(0, {"reasoningContent": {"text": "x" * 100}})
    assert told(fits + stop(0) + END)[-1] == Finished("stop", "end_turn")
    over = delta(0, {"reasoningContent": {"text": "x" * 101}})
    assert failure(told(over + stop(0) + delta(1, {"text": "x"}))).error_class is ErrorClass.TOO_LARGE


def test_open_blocks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bedrock, "MAX_OPEN_BLOCKS", 5)
    five = b"".join(delta(index, {"text": "x"}) for index in range(5))
    assert told(five + END)[-1] == Finished("stop", "end_turn")
    six = b"".join(delta(index, {"text": "x"}) for index in range(7))
    assert failure(told(six)).error_class is ErrorClass.TOO_LARGE


# -- whole answers


def whole(*content: Any, reason: str = "end_turn") -> dict[str, Any]:
    message = {"role": "assistant", "content": list(content)}
    return {"output": {"message": message}, "stopReason": reason, "usage": USAGE, "metrics": {"latencyMs": 5}}


WHOLE_BLOCKS: list[tuple[dict[str, Any], list[Event]]] = [
    ({"text": "Hi"}, [TextDelta("Hi")]),
    ({"type": "text", "text": "Hi"}, [TextDelta("Hi")]),
    (
        {"toolUse": {"toolUseId": "t1", "name": "add", "input": {"a": 1}, "type": "tool_use"}},
        [ToolCallStarted(0, "t1", "add"), ToolArgsDelta(0, '{"a":1}'), ToolCallEnded(0)],
    ),
    (
        {"toolUse": {"toolUseId": "t1", "name": "now", "input": {}}},
        [ToolCallStarted(0, "t1", "now"), ToolArgsDelta(0, "{}"), ToolCallEnded(0)],
    ),
    ({"toolUse": {"toolUseId": "t1", "name": "now"}}, [ToolCallStarted(0, "t1", "now"), ToolCallEnded(0)]),
    (
        {"toolUse": {"toolUseId": "t1", "name": "now", "input": '{"a":1}'}},
        [ToolCallStarted(0, "t1", "now"), ToolArgsDelta(0, '{"a":1}'), ToolCallEnded(0)],
    ),
    (
        {"image": {"format": "png", "source": {"bytes": "iVBO"}}},
        [ImageDelta("data:image/png;base64,iVBO")],
    ),
    ({"audio": {"format": "mp3", "source": {"bytes": "AAAA"}}}, [Extra("audio", {"format": "mp3", "source": {"bytes": "AAAA"}})]),
    ({"type": "something_new", "somethingNew": 1}, [Extra("somethingNew", 1)]),
    ({}, []),
]


@pytest.mark.parametrize(("block", "expected"), WHOLE_BLOCKS)
def test_a_block_of_a_whole_answer(block: dict[str, Any], expected: list[Event]) -> None:
    found = DIALECT.decode_response(whole(block), TARGET)
    assert found[:-2] == [Started(), *expected]
    assert isinstance(found[-2], UsageReported)


def test_a_whole_answer_is_a_completion() -> None:
    body = orjson.dumps(whole({"text": "Hi"}, {"toolUse": {"toolUseId": "t1", "name": "a", "input": {}}}, reason="tool_use"))
    answer = DIALECT.decode_answer(body, request(stream=False), TARGET)
    found = ChatCompletion.model_validate(orjson.loads(answer.body), strict=True)
    assert found.choices[0].message.content == "Hi"
    assert found.choices[0].finish_reason == "tool_calls"
    assert (answer.usage, answer.finish_reason) == (Usage(10, 5), "tool_calls")


@pytest.mark.parametrize(
    ("answer", "error_class"),
    [
        ({}, ErrorClass.EMPTY),
        ({"output": None}, ErrorClass.EMPTY),
        ({"output": {"message": None}}, ErrorClass.EMPTY),
        ({"message": "The provided model identifier is invalid."}, ErrorClass.MODEL_NOT_FOUND),
        ({"__type": "com.amazon#ThrottlingException", "message": "Slow down"}, ErrorClass.RATE_LIMITED),
        # what an operation that is not known at this address is answered with
        (
            {"Output": {"__type": "com.amazon.coral.service#UnknownOperationException"}, "Version": "1.0"},
            ErrorClass.MODEL_NOT_FOUND,
        ),
    ],
)
def test_a_whole_answer_that_is_none(answer: dict[str, Any], error_class: ErrorClass) -> None:
    with pytest.raises(UpstreamError) as caught:
        DIALECT.decode_response(answer, TARGET)
    assert caught.value.error_class is error_class


@pytest.mark.parametrize("content", [[7], ["x"], [{"text": 7}], [{"toolUse": None}], [{"citationsContent": []}], 7])
def test_a_whole_answer_of_another_shape_is_never_a_fault_of_ours(content: Any) -> None:
    body = orjson.dumps({"output": {"message": {"content": content}}, "stopReason": "end_turn"})
    try:
        DIALECT.decode_answer(body, request(stream=False), TARGET)
    except UpstreamError as error:
        assert error.error_class in (ErrorClass.MALFORMED, ErrorClass.EMPTY)  # noqa: PT017  whichever it is


# -- any stream

TEXTS = st.sampled_from(["", "Hi", "Grüße \u2028", "x" * 30])
INDICES = st.integers(0, 3)
FRAMES = st.lists(
    st.one_of(
        st.builds(lambda index, said: delta(index, {"text": said}), INDICES, TEXTS),
        st.builds(lambda index, said: delta(index, {"toolUse": {"input": said}}), INDICES, TEXTS),
        st.builds(lambda index, said: delta(index, {"reasoningContent": {"text": said}}), INDICES, TEXTS),
        st.builds(lambda index, said: delta(index, {"reasoningContent": {"signature": said}}), INDICES, TEXTS),
        st.builds(lambda index, said: delta(index, {"citation": {"title": said}}), INDICES, TEXTS),
        st.builds(lambda index, said: start(index, {"toolUse": {"toolUseId": said, "name": "f"}}), INDICES, TEXTS),
        INDICES.map(stop),
        st.sampled_from([BEGIN, TURN_END, METADATA, *BROKEN_EVENTS, b"\x00" * 12]),
        st.sampled_from([exception(kind, said) for kind, said, _ in EXCEPTIONS]),
    ),
    max_size=14,
).map(b"".join)


def comparable(events: Iterable[Event]) -> list[Any]:
    return [(one.error.error_class, one.error.message) if isinstance(one, StreamFailed) else one for one in events]


@pytest.mark.property
@given(FRAMES, st.lists(st.integers(0, 3000), max_size=8))
@settings(max_examples=120, deadline=None)
def test_any_cut_gives_the_same_events_whatever_is_in_the_frames(data: bytes, places: list[int]) -> None:
    expected = comparable(told(data))
    assert comparable(told(*cut_at(data, places))) == expected
    assert comparable(told(*[data[i : i + 1] for i in range(len(data))])) == expected
    assert sum(1 for one in expected if isinstance(one, Finished | tuple)) <= 1
    stream = DIALECT.answer_stream(request(), TARGET)
    sent = stream.feed(data) + stream.close()
    assert (stream.error is None) is sent.endswith(b"data: [DONE]\n\n")


@pytest.mark.property
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["contentBlockDelta", "contentBlockStart", "messageStop", "metadata", "x"]),
            st.recursive(
                st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=4),
                lambda inner: (
                    st.lists(inner, max_size=2)
                    | st.dictionaries(
                        st.sampled_from(
                            "contentBlockIndex delta start text toolUse input reasoningContent citation image usage toolResult".split()
                        ),
                        inner,
                        max_size=3,
                    )
                ),
                max_leaves=8,
            ),
        ),
        max_size=6,
    )
)
@settings(max_examples=120, deadline=None)
def test_no_payload_is_ever_a_fault_of_ours(frames: list[tuple[str, Any]]) -> None:
    told(b"".join(event(kind, payload) for kind, payload in frames))
