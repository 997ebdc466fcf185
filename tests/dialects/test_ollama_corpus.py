"""Every recorded answer of Ollama's /api/chat: what is told of it is what a plain reading says, however its bytes are cut."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.events import Finished
from proxy.core.target import Provider, Target
from proxy.core.usage import Usage
from proxy.dialects.chat_encoder import Collected, collect
from proxy.dialects.ollama.dialect import OllamaChat
from tests.corpus.recordings import needs_corpus
from tests.dialects.fields import chat_request
from tests.dialects.native_recordings import Recorded, comparable, events_of, recordings, ways_to_cut

pytestmark = [pytest.mark.unit, needs_corpus]

DIALECT = OllamaChat()
TARGET = Target(Provider("ollama", "ollama", "http://127.0.0.1:11434", ()), "qwen3:14b", "qwen3")
HI = {"model": "smart", "messages": [{"role": "user", "content": "Hi"}]}
REQUEST = chat_request(HI)
STREAM_REQUEST = chat_request({**HI, "stream": True, "stream_options": {"include_usage": True}})

ALL = recordings("ollama.chat")
ERRORS = {"ollama-ollama-chat-9dfec6ec86": (ErrorClass.MODEL_NOT_FOUND, 404)}
# filed under this api, but answers of the server's OpenAI endpoint
MISFILED = frozenset(found.id for found in ALL if not found.streamed and "choices" in found.objects[0])
ANSWERS = [found for found in ALL if found.status == 200 and not found.streamed and found.id not in MISFILED]
STREAMS = [found for found in ALL if found.status == 200 and found.streamed]


def by_id(found: list[Recorded]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("recorded", found, ids=lambda recorded: recorded.id)


def expected(recorded: Recorded) -> dict[str, Any]:
    """Text, thoughts, calls, the reason and the usage, as they stand in the recording."""
    said = [line["message"] for line in recorded.objects]
    last = recorded.objects[-1]
    calls = [call for message in said for call in message.get("tool_calls") or []]
    counted = "eval_count" in last or "prompt_eval_count" in last
    return {
        "text": "".join(message.get("content") or "" for message in said),
        "thoughts": "".join(message.get("thinking") or "" for message in said),
        "calls": [(call["function"]["name"], call["function"]["arguments"]) for call in calls],
        "ids": [call["id"] for call in calls if "id" in call],
        "reason": "tool_calls" if calls and last.get("done_reason") == "stop" else last.get("done_reason", "stop"),
        "usage": Usage(last.get("prompt_eval_count", 0), last.get("eval_count", 0)) if counted else None,
        "model": last["model"],
    }


def told(collected: Collected, recorded: Recorded) -> dict[str, Any]:
    choice = collected.choices[0]
    calls = [call for _, call in sorted(choice.calls.items())]
    assert len({call.id for call in calls}) == len(calls)
    given = expected(recorded)["ids"]
    return {
        "text": "".join(choice.text),
        "thoughts": "".join(choice.thoughts),
        "calls": [(call.name, orjson.loads("".join(call.arguments) or "{}")) for call in calls],
        "ids": [call.id for call in calls if call.id in given],
        "reason": choice.reason,
        "usage": collected.usage,
        "model": collected.model,
    }


def test_there_is_something_to_read() -> None:
    assert ANSWERS
    assert STREAMS
    assert [found.id for found in ALL if found.status != 200 and found.id not in ERRORS] == []


@by_id(ANSWERS)
def test_a_whole_answer(recorded: Recorded) -> None:
    events = DIALECT.decode_response(orjson.loads(recorded.body), TARGET)
    assert told(collect(events), recorded) == expected(recorded)
    assert isinstance(events[-1], Finished)


@by_id(ANSWERS)
def test_a_whole_answer_is_one_of_openais(recorded: Recorded) -> None:
    answer = DIALECT.decode_answer(recorded.body, REQUEST, TARGET)
    found = orjson.loads(answer.body)
    for extra in ("provider_extras", "reasoning_content"):
        found["choices"][0]["message"].pop(extra, None)
    ChatCompletion.model_validate(found, strict=True)
    assert answer.usage == expected(recorded)["usage"]


@by_id(STREAMS)
def test_a_stream(recorded: Recorded) -> None:
    decoder = DIALECT.decoder(STREAM_REQUEST, TARGET)
    events = events_of(decoder, [recorded.body])
    assert told(collect(events), recorded) == expected(recorded)
    assert isinstance(events[-1], Finished)
    assert (decoder.done, decoder.malformed, decoder.mended) == (True, 0, 0)
    assert decoder.frames == len(recorded.objects)


@by_id(STREAMS)
def test_any_cut_of_a_stream_gives_the_same_events(recorded: Recorded) -> None:
    whole = comparable(events_of(DIALECT.decoder(STREAM_REQUEST, TARGET), [recorded.body]))
    for pieces in ways_to_cut(recorded.body, recorded.id):
        assert comparable(events_of(DIALECT.decoder(STREAM_REQUEST, TARGET), pieces)) == whole


@by_id(STREAMS)
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
    assert text == expected(recorded)["text"]


@by_id([found for found in ALL if found.status != 200])
def test_an_error(recorded: Recorded) -> None:
    error = DIALECT.decode_error(recorded.status, [], recorded.body)
    assert (error.error_class, error.status) == ERRORS[recorded.id]


@by_id([found for found in ALL if found.id in MISFILED])
def test_an_answer_in_another_format_is_none(recorded: Recorded) -> None:
    with pytest.raises(UpstreamError) as caught:
        DIALECT.decode_answer(recorded.body, REQUEST, TARGET)
    assert caught.value.error_class is ErrorClass.EMPTY
