"""Every recorded answer of Converse and ConverseStream, held against an independent reading of the recording."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass
from proxy.core.events import Event, Finished, StreamFailed, UsageReported
from proxy.core.target import Provider, Target
from proxy.dialects.bedrock.dialect import BedrockConverse
from proxy.dialects.chat_encoder import Collected, collect
from tests.corpus.recordings import needs_corpus
from tests.dialects.bedrock_recordings import Exchange, cut_at, exchanges, ways_to_cut
from tests.dialects.fields import chat_request

pytestmark = [pytest.mark.unit, needs_corpus]

DIALECT = BedrockConverse()
WHOLE = [exchange for exchange in exchanges() if not exchange.streamed and exchange.status < 400]
STREAMS = [exchange for exchange in exchanges() if exchange.streamed]
FAILED = [exchange for exchange in exchanges() if exchange.status >= 400]
REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
# of all that Bedrock refused: what is not the caller's own mistake, known by its text
FAILURES = {
    "bedrock-bedrock-converse-9f8a19e62b": ErrorClass.MODEL_NOT_FOUND,
    "bedrock-bedrock-converse-stream-1851fe048b": ErrorClass.MODEL_NOT_FOUND,
    "bedrock-bedrock-invoke-other-810fe112eb": ErrorClass.MODEL_NOT_FOUND,  # 403, for one model
    "bedrock-bedrock-invoke-other-d08460fbe5": ErrorClass.MODEL_NOT_FOUND,
}

every_whole = pytest.mark.parametrize("exchange", WHOLE, ids=lambda exchange: exchange.id)
every_stream = pytest.mark.parametrize("exchange", STREAMS, ids=lambda exchange: exchange.id)


def target(exchange: Exchange) -> Target:
    return Target(Provider("aws", "bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com", ()), exchange.model, "x")


def request(*, stream: bool) -> ChatRequest:
    return chat_request({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream})


def decoded(exchange: Exchange, cuts: Iterable[bytes]) -> list[Event]:
    decoder = DIALECT.decoder(request(stream=True), target(exchange))
    found = [told for cut in cuts for told in decoder.feed(cut)] + decoder.close()
    assert decoder.malformed == 0
    return found


def check(found: Collected, answer: dict[str, Any]) -> None:
    choice = found.choices[0]
    content = answer["output"]["message"]["content"]
    cited = [block["citationsContent"] for block in content if "citationsContent" in block]
    texts = [
        piece
        for block in content
        for piece in (
            [part["text"] for part in block["citationsContent"].get("content", [])]
            if "citationsContent" in block
            else [block.get("text", "")]
        )
    ]
    assert "".join(choice.text) == "".join(texts)
    thoughts = [block["reasoningContent"] for block in content if "reasoningContent" in block]
    readable = [thought["reasoningText"] for thought in thoughts if "reasoningText" in thought]
    assert "".join(choice.thoughts) == "".join(thought["text"] for thought in readable)
    sealed = [thought.get("redactedContent") or thought["reasoningText"].get("signature") for thought in thoughts]
    assert [detail.get("data") or detail.get("signature") for detail in choice.details] == [seal for seal in sealed if seal]
    uses = [block["toolUse"] for block in content if "toolUse" in block]
    calls = [(use["toolUseId"], use["name"], use["input"]) for use in uses if use.get("type") != "server_tool_use"]
    assert [(call.id, call.name, orjson.loads("".join(call.arguments) or "{}")) for call in choice.calls.values()] == calls
    assert list(choice.calls) == list(range(len(calls)))
    assert choice.extras.get("server_tool_use", []) == [use for use in uses if use.get("type") == "server_tool_use"]
    assert choice.extras.get("server_tool_result", []) == [block["toolResult"] for block in content if "toolResult" in block]
    citations = [citation for block in cited for citation in block["citations"]]
    assert len(choice.annotations) + len(choice.extras.get("citations", [])) == len(citations)
    urls = [citation.get("location", {}).get("web", {}).get("url") or citation.get("source") for citation in citations]
    assert [note["url_citation"]["url"] for note in choice.annotations] == [url for url in urls if url]
    text = "".join(choice.text)
    for note in [*(note["url_citation"] for note in choice.annotations), *choice.extras.get("citations", [])]:
        assert 0 <= note["start_index"] < note["end_index"] <= len(text)
    assert choice.extras.get("trace", []) == ([answer["trace"]] if answer.get("trace") else [])
    assert choice.reason == REASONS[answer["stopReason"]]
    check_usage(found, answer)


def check_usage(found: Collected, answer: dict[str, Any]) -> None:
    said = answer.get("usage")
    if said is None:
        assert found.usage is None
        return
    assert found.usage is not None
    assert found.usage.input_tokens + found.usage.output_tokens == said["totalTokens"]
    assert found.usage.output_tokens == said["outputTokens"]
    assert found.usage.cached_input_tokens == said.get("cacheReadInputTokens", 0)
    assert found.usage.cache_write_tokens == said.get("cacheWriteInputTokens", 0)


def check_grammar(events: list[Event]) -> None:
    """The order that `core/events.py` draws: nothing but usage after the finish, which comes once."""
    ends = [index for index, event in enumerate(events) if isinstance(event, Finished)]
    assert len(ends) == 1
    assert all(isinstance(event, UsageReported) for event in events[ends[0] + 1 :])
    assert not any(isinstance(event, StreamFailed) for event in events)


@every_whole
def test_a_whole_answer(exchange: Exchange) -> None:
    events = DIALECT.decode_response(exchange.answer, target(exchange))
    check_grammar(events)
    check(collect(events), exchange.answer)
    answer = DIALECT.decode_answer(exchange.body, request(stream=False), target(exchange))
    assert answer.finish_reason == REASONS[exchange.answer["stopReason"]]
    assert not answer.mended
    assert b'"p":' not in answer.body


@every_stream
def test_a_stream(exchange: Exchange) -> None:
    events = decoded(exchange, [exchange.body])
    check_grammar(events)
    check(collect(events), exchange.told)


@every_stream
def test_a_stream_says_the_same_as_the_whole_answer_would(exchange: Exchange) -> None:
    streamed, whole = (
        collect(decoded(exchange, [exchange.body])),
        collect(DIALECT.decode_response(exchange.told, target(exchange))),
    )
    for found in (streamed, whole):
        for call in found.choices[0].calls.values():  # written in pieces by the one, in our way by the other
            call.arguments = [orjson.dumps(orjson.loads("".join(call.arguments) or "{}")).decode()]
        found.choices[0].text = ["".join(found.choices[0].text)]
        found.choices[0].thoughts = ["".join(found.choices[0].thoughts)]
    assert streamed == whole


@every_stream
def test_any_cut_gives_the_same_events(exchange: Exchange) -> None:
    expected = decoded(exchange, [exchange.body])
    for cuts in ways_to_cut(exchange.body, exchange.id):
        assert decoded(exchange, cuts) == expected


@pytest.mark.property
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_cut_gives_the_same_bytes_to_the_caller(data: st.DataObject) -> None:
    exchange = data.draw(st.sampled_from(STREAMS))
    places = data.draw(st.lists(st.integers(0, len(exchange.body)), max_size=10))

    def told(cuts: list[bytes]) -> bytes:
        stream = DIALECT.answer_stream(request(stream=True), target(exchange))
        out = b"".join([stream.feed(cut) for cut in cuts])
        out += stream.close()
        assert stream.error is None
        return out

    whole = told([exchange.body])
    assert told(cut_at(exchange.body, places)) == whole
    assert b'"p":' not in whole
    assert whole.endswith(b"data: [DONE]\n\n")


@every_stream
def test_a_stream_that_breaks_off_anywhere_is_never_taken_for_whole(exchange: Exchange) -> None:
    at, ends = 0, []
    for kind, _ in exchange.frames:
        at += int.from_bytes(exchange.body[at : at + 4])
        ends.append((at, kind))
    stop = next(end for end, kind in ends if kind == "messageStop")
    for end, _ in ends[:-1]:
        stream = DIALECT.answer_stream(request(stream=True), target(exchange))
        for piece in (exchange.body[:end], exchange.body[end : end + 9]):
            stream.feed(piece)
        stream.close()
        assert (stream.error is None) is (end >= stop)
        if stream.error is not None:
            assert stream.error.error_class in (ErrorClass.TRUNCATED, ErrorClass.EMPTY)


@pytest.mark.parametrize(
    "exchange",
    FAILED + [exchange for exchange in exchanges("bedrock.invoke_other", "bedrock.count_tokens") if exchange.status >= 400],
    ids=lambda exchange: exchange.id,
)
def test_an_error(exchange: Exchange) -> None:
    error = DIALECT.decode_error(exchange.status, exchange.headers, exchange.body)
    assert error.error_class is FAILURES.get(exchange.id, ErrorClass.INVALID_REQUEST)
    assert (error.status, error.message) == (exchange.status, exchange.answer["message"])
