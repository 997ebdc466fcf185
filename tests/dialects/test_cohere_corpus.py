"""Every recorded answer of Cohere's v2 chat: what is told of it is what a plain reading says, however its bytes are cut."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.events import Annotation, Extra, Finished, StreamFailed
from proxy.core.target import Provider, Target
from proxy.core.usage import Usage
from proxy.dialects.chat_encoder import Collected, collect
from proxy.dialects.cohere.dialect import CohereChat
from tests.corpus.recordings import needs_corpus
from tests.dialects.fields import chat_request
from tests.dialects.native_recordings import Recorded, comparable, events_of, recordings, ways_to_cut

pytestmark = [pytest.mark.unit, needs_corpus]

DIALECT = CohereChat()
TARGET = Target(Provider("cohere", "cohere", "https://api.cohere.com", ()), "command-a-03-2025", "command-a")
ALL = recordings("cohere.v2.chat")
# those that are not in this half of the corpus are known from its description
ERRORS = {
    "cohere-cohere-v2-chat-d2c1130be8": (ErrorClass.AUTH, 401),  # {"id", "message"}
    "cohere-cohere-v2-chat-87147b6d3b": (ErrorClass.CONTEXT_LENGTH, 400),  # error_type TOO_MANY_TOKENS
}
FAILED_STREAMS = {"cohere-cohere-v2-chat-569411199e": ErrorClass.MODEL_FAULT}  # error_type INVALID_TOOL_GENERATION in message-end
ANSWERS = [found for found in ALL if found.status == 200 and not found.streamed]
STREAMS = [found for found in ALL if found.status == 200 and found.streamed]
WHOLE_STREAMS = [found for found in STREAMS if found.id not in FAILED_STREAMS]

REQUEST = chat_request({"model": "smart", "messages": [{"role": "user", "content": "Hi"}]})
STREAM_REQUEST = chat_request(
    {
        "model": "smart",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
)
FINISH = {"COMPLETE": "stop", "STOP_SEQUENCE": "stop", "MAX_TOKENS": "length", "TOOL_CALL": "tool_calls"}


def by_id(found: list[Recorded]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("recorded", found, ids=lambda recorded: recorded.id)


def arguments(text: str | None) -> str:
    return "{}" if text in (None, "", "null") else str(text)


def plain_reading(recorded: Recorded) -> dict[str, Any]:
    """Text, thoughts, calls, citations, the reason and the usage, as they stand in the recording."""
    found: dict[str, Any] = {"text": "", "thoughts": "", "calls": [], "citations": 0}
    if not recorded.streamed:
        (answer,) = recorded.objects
        message = answer["message"]
        for block in message.get("content") or []:
            found["text"] += block.get("text", "")
            found["thoughts"] += block.get("thinking", "")
        found["text"] += message.get("tool_plan") or ""
        for call in message.get("tool_calls") or []:
            found["calls"].append((call["id"], call["function"]["name"], arguments(call["function"]["arguments"])))
        found["citations"] = len(message.get("citations") or [])
        return {**found, "reason": answer["finish_reason"], "usage": answer["usage"]}
    for event in recorded.objects:
        message = event.get("delta", {}).get("message", {})
        match event["type"]:
            case "content-start" | "content-delta":
                found["text"] += message["content"].get("text", "")
                found["thoughts"] += message["content"].get("thinking", "")
            case "tool-plan-delta":
                found["text"] += message["tool_plan"]
            case "tool-call-start":
                call = message["tool_calls"]
                found["calls"].append([call["id"], call["function"]["name"], call["function"]["arguments"]])
            case "tool-call-delta":
                found["calls"][-1][2] += message["tool_calls"]["function"]["arguments"]
            case "citation-start":
                found["citations"] += 1
            case "message-end":
                found |= {"reason": event["delta"]["finish_reason"], "usage": event["delta"]["usage"]}
    found["calls"] = [(id_, name, arguments(text)) for id_, name, text in found["calls"]]
    return found


def usage_of(said: dict[str, Any]) -> Usage:
    tokens, billed = said["tokens"], said["billed_units"]
    return Usage(
        tokens["input_tokens"],
        tokens["output_tokens"],
        cached_input_tokens=said.get("cached_tokens", 0),
        reasoning_tokens=tokens.get("reasoning_tokens", 0),
        billed=Usage(billed["input_tokens"], billed["output_tokens"]),
    )


def told(collected: Collected) -> dict[str, Any]:
    choice = collected.choices[0]
    calls = [(call.id, call.name, "".join(call.arguments) or "{}") for _, call in sorted(choice.calls.items())]
    return {
        "text": "".join(choice.text),
        "thoughts": "".join(choice.thoughts),
        "calls": calls,
        "citations": len(choice.extras.get("citations", [])),
        "reason": choice.reason,
        "usage": collected.usage,
    }


def expected(recorded: Recorded) -> dict[str, Any]:
    found = plain_reading(recorded)
    return {**found, "reason": FINISH[found["reason"]], "usage": usage_of(found["usage"])}


def test_there_is_something_to_read() -> None:
    assert ANSWERS
    assert STREAMS
    assert [found.id for found in ALL if found.status != 200 and found.id not in ERRORS] == []


@by_id(ANSWERS)
def test_a_whole_answer(recorded: Recorded) -> None:
    events = DIALECT.decode_response(orjson.loads(recorded.body), TARGET)
    assert told(collect(events)) == expected(recorded)
    assert isinstance(events[-1], Finished)


@by_id(ANSWERS)
def test_a_whole_answer_is_one_of_openais(recorded: Recorded) -> None:
    answer = DIALECT.decode_answer(recorded.body, REQUEST, TARGET)
    assert not answer.mended
    found = orjson.loads(answer.body)
    found["choices"][0]["message"].pop("provider_extras", None)
    found["choices"][0]["message"].pop("reasoning_content", None)
    ChatCompletion.model_validate(found, strict=True)
    for call in found["choices"][0]["message"].get("tool_calls") or []:
        assert isinstance(orjson.loads(call["function"]["arguments"]), dict)


@by_id(STREAMS)
def test_a_stream(recorded: Recorded) -> None:
    decoder = DIALECT.decoder(STREAM_REQUEST, TARGET)
    events = events_of(decoder, [recorded.body])
    if recorded.id in FAILED_STREAMS:
        assert isinstance(events[-1], StreamFailed)
        assert events[-1].error.error_class is FAILED_STREAMS[recorded.id]
        return
    assert told(collect(events)) == expected(recorded)
    assert isinstance(events[-1], Finished)
    assert (decoder.done, decoder.malformed, decoder.mended) == (True, 0, 0)


@by_id(STREAMS)
def test_any_cut_of_a_stream_gives_the_same_events(recorded: Recorded) -> None:
    whole = comparable(events_of(DIALECT.decoder(STREAM_REQUEST, TARGET), [recorded.body]))
    for pieces in ways_to_cut(recorded.body, recorded.id):
        assert comparable(events_of(DIALECT.decoder(STREAM_REQUEST, TARGET), pieces)) == whole


@by_id(WHOLE_STREAMS)
def test_a_stream_is_one_of_openais(recorded: Recorded) -> None:
    stream = DIALECT.answer_stream(STREAM_REQUEST, TARGET)
    out = stream.feed(recorded.body) + stream.close()
    assert stream.error is None
    payloads = [event.removeprefix(b"data: ") for event in out.split(b"\n\n") if event]
    assert payloads.pop() == b"[DONE]"
    chunks = [orjson.loads(payload) for payload in payloads]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert text == plain_reading(recorded)["text"]
    assert chunks[-1]["usage"]["prompt_tokens"] == expected(recorded)["usage"].input_tokens


@by_id(ANSWERS + WHOLE_STREAMS)
def test_a_citation_stands_where_its_text_is(recorded: Recorded) -> None:
    if recorded.streamed:
        events = events_of(DIALECT.decoder(STREAM_REQUEST, TARGET), [recorded.body])
    else:
        events = DIALECT.decode_response(orjson.loads(recorded.body), TARGET)
    text = "".join(collect(events).choices[0].text)
    for event in events:
        if isinstance(event, Extra) and event.name == "citations":
            assert text[event.value["start"] : event.value["end"]] == event.value["text"]
        # no recorded source has an address
        assert not isinstance(event, Annotation)


@by_id([found for found in ALL if found.status != 200])
def test_an_error(recorded: Recorded) -> None:
    error = DIALECT.decode_error(recorded.status, [], recorded.body)
    assert isinstance(error, UpstreamError)
    assert (error.error_class, error.status) == ERRORS[recorded.id]
    assert error.message == recorded.objects[0]["message"]
