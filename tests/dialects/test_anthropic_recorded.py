"""Every recorded answer of the Messages API, whole and streamed, held against an independent reading of the recording."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.events import Event, Extra, Finished, KeepAlive, StreamFailed, UsageReported
from proxy.dialects.anthropic.dialect import AnthropicMessages
from proxy.dialects.chat_encoder import Collected, collect
from tests.corpus.recordings import needs_corpus
from tests.corpus.upstream import pieces
from tests.dialects.anthropic_judge import target_of
from tests.dialects.anthropic_recordings import Exchange, exchanges
from tests.dialects.fields import chat_request

pytestmark = [pytest.mark.unit, needs_corpus]

DIALECT = AnthropicMessages()
WHOLE = [exchange for exchange in exchanges() if not exchange.streamed and exchange.status < 400]
STREAMS = [exchange for exchange in exchanges() if exchange.streamed and exchange.status < 400]
FAILED = [exchange for exchange in exchanges() if exchange.status >= 400]
CLASSES = {
    "invalid_request_error": ErrorClass.INVALID_REQUEST,
    "authentication_error": ErrorClass.AUTH,
    "permission_error": ErrorClass.AUTH,
    "billing_error": ErrorClass.INSUFFICIENT_QUOTA,
    "not_found_error": ErrorClass.MODEL_NOT_FOUND,
    "request_too_large": ErrorClass.CONTEXT_LENGTH,
    "rate_limit_error": ErrorClass.RATE_LIMITED,
    "api_error": ErrorClass.SERVER_ERROR,
    "overloaded_error": ErrorClass.OVERLOADED,
}
REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "refusal": "content_filter",
    "pause_turn": "length",
    "model_context_window_exceeded": "length",
}

every_whole = pytest.mark.parametrize("exchange", WHOLE, ids=lambda exchange: exchange.id)
every_stream = pytest.mark.parametrize("exchange", STREAMS, ids=lambda exchange: exchange.id)
every_failure = pytest.mark.parametrize("exchange", FAILED, ids=lambda exchange: exchange.id)


def request(*, stream: bool = True) -> ChatRequest:
    return chat_request({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream})


def decoded(cuts: Iterable[bytes]) -> list[Event]:
    decoder = DIALECT.decoder(request(), target_of("claude-sonnet-4-5"))
    out: list[Event] = []
    for cut in cuts:
        out += decoder.feed(cut)
    out += decoder.close()
    assert decoder.done
    assert decoder.malformed == 0
    return out


def put_together(exchange: Exchange) -> dict[str, Any]:
    """A stream as the message that it tells, read in another way than the decoder does."""
    message: dict[str, Any] = {}
    usage: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    for event in exchange.events:
        match event["type"]:
            case "message_start":
                message = dict(event["message"])
                usage = dict(message["usage"])
                blocks = dict(enumerate(message["content"]))
            case "content_block_start":
                blocks[event["index"]] = dict(event["content_block"])
            case "content_block_delta":
                block, delta = blocks[event["index"]], dict(event["delta"])
                kind = delta.pop("type")
                if kind == "citations_delta":
                    block["citations"] = [*(block.get("citations") or []), delta["citation"]]
                    continue
                for name, value in delta.items():
                    block[name] = (block.get(name) or "") + value
            case "message_delta":
                message |= event["delta"] | {name: event[name] for name in event.keys() - {"type", "delta", "usage"}}
                usage |= {name: value for name, value in event["usage"].items() if value is not None}
            case _:
                assert event["type"] in ("content_block_stop", "ping", "message_stop")
    for block in blocks.values():
        if "partial_json" in block:
            text = block.pop("partial_json")
            block["input"] = orjson.loads(text) if text else {}
    return {**message, "content": [blocks[index] for index in sorted(blocks)], "usage": usage}


def check(found: Collected, message: dict[str, Any]) -> None:
    choice = found.choices[0]
    content = message["content"]
    assert found.model == message.get("model")
    assert "".join(choice.text) == "".join(block["text"] for block in content if block["type"] == "text")
    assert "".join(choice.thoughts) == "".join(block["thinking"] for block in content if block["type"] == "thinking")
    calls = [(block["id"], block["name"], block["input"]) for block in content if block["type"] == "tool_use"]
    assert [(call.id, call.name, orjson.loads("".join(call.arguments) or "{}")) for call in choice.calls.values()] == calls
    assert list(choice.calls) == list(range(len(calls)))
    sealed = [block.get("signature") or block.get("data") for block in content if block["type"].endswith("thinking")]
    assert [detail.get("signature") or detail.get("data") for detail in choice.details] == [seal for seal in sealed if seal]
    citations = [citation for block in content if block["type"] == "text" for citation in block.get("citations") or []]
    assert len(choice.annotations) + len(choice.extras.get("citations", [])) == len(citations)
    assert [note["url_citation"]["url"] for note in choice.annotations] == [cite["url"] for cite in citations if "url" in cite]
    for kind in {block["type"] for block in content} - {"text", "thinking", "redacted_thinking", "tool_use"}:
        assert choice.extras[kind] == [block for block in content if block["type"] == kind]
    assert choice.reason == REASONS.get(message["stop_reason"], "stop")
    check_usage(found, message["usage"])


def check_usage(found: Collected, said: dict[str, Any]) -> None:
    assert found.usage is not None
    written, cached = said.get("cache_creation_input_tokens") or 0, said.get("cache_read_input_tokens") or 0
    assert found.usage.input_tokens == said["input_tokens"] + written + cached
    assert found.usage.output_tokens == said["output_tokens"]
    assert found.usage.cached_input_tokens == cached
    assert found.usage.cache_write_tokens == written
    assert found.usage.reasoning_tokens == ((said.get("output_tokens_details") or {}).get("thinking_tokens") or 0)


def check_grammar(events: list[Event]) -> None:
    """The order that `core/events.py` draws: nothing but usage and keep-alives after the finish, which comes once."""
    told = [event for event in events if not isinstance(event, KeepAlive)]
    ends = [index for index, event in enumerate(told) if isinstance(event, Finished)]
    assert len(ends) == 1
    assert all(isinstance(event, UsageReported) for event in told[ends[0] + 1 :])
    assert not any(isinstance(event, StreamFailed) for event in told)


@every_whole
def test_whole_answers(exchange: Exchange) -> None:
    events = DIALECT.decode_response(exchange.answer, target_of("claude-sonnet-4-5"))
    check_grammar(events)
    check(collect(events), exchange.answer)


@every_whole
def test_whole_answers_become_completions(exchange: Exchange) -> None:
    answer = DIALECT.decode_answer(exchange.body, request(stream=False), target_of("claude-sonnet-4-5"))
    assert answer.finish_reason == REASONS[exchange.answer["stop_reason"]]
    assert answer.usage is not None
    assert not answer.mended
    ChatCompletion.model_validate(orjson.loads(answer.body), strict=True)


@every_stream
def test_streamed_answers(exchange: Exchange) -> None:
    events = decoded([exchange.body])
    check_grammar(events)
    check(collect(events), put_together(exchange))


@every_stream
def test_a_stream_and_the_whole_message_that_it_tells_are_the_same(exchange: Exchange) -> None:
    streamed = collect(decoded([exchange.body]))
    whole = collect(DIALECT.decode_response(put_together(exchange), target_of("claude-sonnet-4-5")))
    assert streamed.usage == whole.usage
    for answer in (streamed, whole):
        for call in answer.choices[0].calls.values():
            call.arguments = [orjson.dumps(orjson.loads("".join(call.arguments) or "{}")).decode()]
        choice = answer.choices[0]
        choice.text, choice.thoughts = ["".join(choice.text)], ["".join(choice.thoughts)]
        choice.extras.pop("container", None)  # told twice in streams: where it began and where it ended
    assert streamed.choices == whole.choices


@every_stream
def test_however_a_stream_is_cut_the_events_are_the_same(exchange: Exchange) -> None:
    whole = decoded([exchange.body])
    assert decoded([exchange.body[index : index + 1] for index in range(len(exchange.body))]) == whole
    assert decoded(pieces(exchange.body, Random(exchange.id))) == whole


@pytest.mark.property
@given(st.data())
def test_any_cut_of_any_stream_gives_the_same_events(data: st.DataObject) -> None:
    exchange = data.draw(st.sampled_from(STREAMS))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(exchange.body) - 1), max_size=12)))
    places = [0, *cuts, len(exchange.body)]
    parts = [exchange.body[start:end] for start, end in pairwise(places)]
    assert decoded(parts) == decoded([exchange.body])


@every_stream
def test_streams_become_chunks(exchange: Exchange) -> None:
    stream = DIALECT.answer_stream(request(), target_of("claude-sonnet-4-5"))
    out = stream.feed(exchange.body) + stream.close()
    assert stream.error is None
    assert out.endswith(b"data: [DONE]\n\n")
    for line in out.split(b"\n\n"):
        if line.startswith(b"data: {"):
            ChatCompletionChunk.model_validate(orjson.loads(line[6:]), strict=True)
    assert stream.finish_reason == REASONS[put_together(exchange)["stop_reason"]]


@every_stream
def test_a_stream_that_breaks_anywhere_never_looks_whole(exchange: Exchange) -> None:
    end = exchange.body.index(b"event: message_delta")
    for index in Random(exchange.id).sample(range(end), 5):
        stream = DIALECT.answer_stream(request(), target_of("claude-sonnet-4-5"))
        out = stream.feed(exchange.body[:index]) + stream.close()
        assert stream.error is not None
        assert stream.error.error_class in (ErrorClass.TRUNCATED, ErrorClass.EMPTY, ErrorClass.MALFORMED)
        assert b"[DONE]" not in out
        assert stream.usage is None  # what message_start says of the output is a placeholder


@every_failure
def test_recorded_errors(exchange: Exchange) -> None:
    error = DIALECT.decode_error(exchange.status, (), exchange.body)
    said = exchange.answer["error"]
    expected = ErrorClass.CONTEXT_LENGTH if "prompt is too long" in said["message"] else CLASSES[said["type"]]
    assert error.error_class is expected
    assert error.message == said["message"]
    assert error.status == exchange.status


@every_failure
def test_a_recorded_error_is_the_same_inside_of_a_stream(exchange: Exchange) -> None:
    decoder = DIALECT.decoder(request(), target_of("claude-sonnet-4-5"))
    (event,) = decoder.feed(b"event: error\ndata: %b\n\n" % orjson.dumps(orjson.loads(exchange.body)))
    assert isinstance(event, StreamFailed)
    assert event.error.error_class is DIALECT.decode_error(exchange.status, (), exchange.body).error_class


@every_failure
def test_an_error_under_status_200_is_one_all_the_same(exchange: Exchange) -> None:
    with pytest.raises(UpstreamError):
        DIALECT.decode_response(exchange.answer, target_of("claude-sonnet-4-5"))


def test_server_tools_are_shown_and_are_no_calls() -> None:
    found = [event for exchange in STREAMS for event in decoded([exchange.body]) if isinstance(event, Extra)]
    assert {"server_tool_use", "web_search_tool_result"} <= {event.name for event in found}
    assert all(isinstance(event.value["input"], dict) for event in found if event.name == "server_tool_use")
