"""Recorded traffic of the Gemini API and of Vertex AI: every answer is read as something else than the proxy reads it, every request is
rebuilt from what a caller would have asked, and what a model said goes back as it came.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.events import Finished, UsageReported
from proxy.core.target import Provider, Target
from proxy.dialects.chat_encoder import CollectedChoice, collect
from proxy.dialects.gemini.dialect import Gemini
from proxy.dialects.vertex import VertexGemini
from tests.corpus.recordings import needs_corpus
from tests.dialects.fields import chat_request
from tests.dialects.gemini_judge import Refused, in_camel_case, judge
from tests.dialects.gemini_recordings import NoWords, answered, arrays, as_openai, asked, canonical, canonical_part
from tests.dialects.native_recordings import Recorded, cut_at, events_of, ways_to_cut

pytestmark = [pytest.mark.unit, needs_corpus]

PROVIDER = Provider("gemini", "gemini", "https://generativelanguage.googleapis.com", ())
HI = {"role": "user", "content": "Hi"}

RECORDINGS = list(answered())
# status 200, but no answers: what a fixture of an SDK's keeps of another method
NO_ANSWERS = frozenset(("gemini-gemini-generatecontent-2ce6c8145c", "gemini-gemini-generatecontent-8ec9c57d2e"))
ANSWERS = [r for r in RECORDINGS if r.status == 200 and r.id not in NO_ANSWERS]
STREAMS = [r for r in ANSWERS if r.streamed]
ERRORS = [r for r in RECORDINGS if r.status != 200]

every_answer = pytest.mark.parametrize("recording", ANSWERS, ids=lambda recording: recording.id)
every_stream = pytest.mark.parametrize("recording", STREAMS, ids=lambda recording: recording.id)

_FINISH = {"STOP": "stop", 1: "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter", "UNEXPECTED_TOOL_CALL": "stop"}


def dialect(recording: Recorded) -> Gemini:
    return VertexGemini() if recording.id.startswith("vertex") else Gemini()


def target(recording: Recorded) -> Target:
    return Target(PROVIDER, recording.model, recording.model)


@cache
def asking(*, stream: bool) -> ChatRequest:
    return chat_request({"model": "smart", "messages": [HI], "stream": stream})


def choice_of(recording: Recorded) -> CollectedChoice:
    """What the proxy reads of choice 0."""
    if recording.streamed:
        decoder = dialect(recording).decoder(asking(stream=True), target(recording))
        return collect(events_of(decoder, [recording.body])).choices[0]
    return collect(dialect(recording).decode_response(recording.objects[0], target(recording))).choices[0]


def parts_of(recording: Recorded) -> list[dict[str, Any]]:
    """All parts of the first candidates, in their order."""
    candidates = [found for item in recording.objects for found in (item.get("candidates") or [])[:1]]
    return [part for candidate in candidates for part in (candidate.get("content") or {}).get("parts") or []]


def _calls(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls as they are, those in pieces put together: in recorded ones, of strings."""
    calls: list[dict[str, Any]] = []
    for part in parts:
        call = part.get("functionCall", {})
        if "name" in call:
            calls.append({"args": {}, **call})
        for piece in call.get("partialArgs", []):
            _lengthen(calls[-1]["args"], piece["jsonPath"].replace("[", ".[").split(".")[1:], piece["stringValue"])
    return calls


def _lengthen(place: Any, steps: list[str], text: str) -> None:
    step, *rest = steps
    key: Any = step
    if step.startswith("["):
        key = int(step[1:-1])
        place.extend([None] * (key + 1 - len(place)))
    here = place[key] if isinstance(place, list) else place.get(key)
    if not rest:
        place[key] = (here or "") + text
        return
    if here is None:
        place[key] = [] if rest[0].startswith("[") else {}
    _lengthen(place[key], rest, text)


# -- answers


@every_answer
def test_the_words_the_calls_and_the_end_are_the_recorded_ones(recording: Recorded) -> None:
    parts, choice = parts_of(recording), choice_of(recording)
    assert "".join(choice.text) == "".join(part.get("text", "") for part in parts if not part.get("thought"))
    assert "".join(choice.thoughts) == "".join(part.get("text", "") for part in parts if part.get("thought"))
    calls = _calls(parts)
    found = [(call.name, orjson.loads("".join(call.arguments) or "{}")) for call in choice.calls.values()]
    assert found == [(call["name"], call.get("args", {})) for call in calls]
    assert len({call.id for call in choice.calls.values()}) == len(calls)
    assert all(call.id == given["id"] for call, given in zip(choice.calls.values(), calls, strict=True) if given.get("id"))
    native = [found["finishReason"] for item in recording.objects for found in item["candidates"] if "finishReason" in found][-1]
    expected = _FINISH[native]
    assert choice.reason == ("tool_calls" if calls and expected == "stop" else expected)


@every_answer
def test_the_usage_is_the_last_one_told(recording: Recorded) -> None:
    told = [item["usageMetadata"] for item in recording.objects if "usageMetadata" in item]
    if recording.streamed:
        events = events_of(dialect(recording).decoder(asking(stream=True), target(recording)), [recording.body])
    else:
        events = dialect(recording).decode_response(recording.objects[0], target(recording))
    usage = [event.usage for event in events if isinstance(event, UsageReported)]
    assert bool(usage) is bool(told)
    if not told:
        return
    last = told[-1]
    assert usage[-1].input_tokens == last.get("promptTokenCount", 0) + last.get("toolUsePromptTokenCount", 0)
    assert usage[-1].output_tokens == last.get("candidatesTokenCount", 0) + last.get("thoughtsTokenCount", 0)
    assert usage[-1].reasoning_tokens == last.get("thoughtsTokenCount", 0)
    assert usage[-1].cached_input_tokens == last.get("cachedContentTokenCount", 0)
    heard = [entry.get("tokenCount", 0) for entry in last.get("promptTokensDetails", []) if entry["modality"] == "AUDIO"]
    assert usage[-1].input_audio_tokens == sum(heard)
    assert usage[-1].input_tokens + usage[-1].output_tokens == last.get("totalTokenCount", 76)  # once it is not told


@every_stream
def test_however_the_bytes_are_cut_the_events_are_the_same(recording: Recorded) -> None:
    whole = events_of(dialect(recording).decoder(asking(stream=True), target(recording)), [recording.body])
    for pieces in ways_to_cut(recording.body, recording.id):
        assert events_of(dialect(recording).decoder(asking(stream=True), target(recording)), pieces) == whole


@pytest.mark.property
@pytest.mark.skipif(not STREAMS, reason="there is no recorded stream here")
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_wherever_a_stream_is_cut_the_events_are_the_same(data: st.DataObject) -> None:
    recording = data.draw(st.sampled_from(STREAMS))
    places = data.draw(st.lists(st.integers(0, len(recording.body)), max_size=12))
    decoders = [dialect(recording).decoder(asking(stream=True), target(recording)) for _ in range(2)]
    assert events_of(decoders[0], cut_at(recording.body, places)) == events_of(decoders[1], [recording.body])


@every_stream
def test_a_stream_that_breaks_off_never_looks_whole(recording: Recorded) -> None:
    """The last chunk has the finish reason; without it there is none."""
    last = recording.body.rstrip().rfind(b"data:")
    events = events_of(dialect(recording).decoder(asking(stream=True), target(recording)), [recording.body[:last]])
    assert not any(isinstance(event, Finished) for event in events)


@pytest.mark.parametrize("recording", [r for r in ANSWERS if not r.streamed], ids=lambda recording: recording.id)
def test_a_whole_answer_as_a_stream_is_the_same_answer(recording: Recorded) -> None:
    """Ids that are made up differ, since no two answers may share them."""
    framed = b"data: " + orjson.dumps(recording.objects[0]) + b"\r\n\r\n"
    streamed = collect(events_of(dialect(recording).decoder(asking(stream=True), target(recording)), [framed]))
    whole = collect(dialect(recording).decode_response(recording.objects[0], target(recording)))
    assert streamed.usage == whole.usage
    assert streamed.choices.keys() == whole.choices.keys()
    for index, choice in streamed.choices.items():
        other = whole.choices[index]
        assert (choice.text, choice.reason, choice.extras) == (other.text, other.reason, other.extras)
        assert [call.arguments for call in choice.calls.values()] == [call.arguments for call in other.calls.values()]


@every_answer
def test_what_the_model_said_goes_back_as_it_came(recording: Recorded) -> None:
    """Through a caller who keeps the message: signatures on the parts that they were on, Google's own tools where they stood."""
    if any("inlineData" in part for part in parts_of(recording)):
        pytest.skip("OpenAI's callers cannot send an assistant's pictures back")
    to = target(recording)
    if recording.streamed:
        stream = dialect(recording).answer_stream(asking(stream=True), to)
        chunks = (stream.feed(recording.body) + stream.close()).split(b"\n\n")
        message = _merged([orjson.loads(chunk[6:]) for chunk in chunks if chunk and b"[DONE]" not in chunk])
    else:
        answer = dialect(recording).decode_answer(recording.body, asking(stream=False), to)
        message = orjson.loads(answer.body)["choices"][0]["message"]
    sent = dialect(recording).encode_request(chat_request({"model": "smart", "messages": [HI, message, HI]}), to)
    assert "messages[].reasoning_details" not in sent.dropped
    contents = orjson.loads(sent.body)["contents"]
    found = [] if len(contents) == 1 else contents[1]["parts"]
    wanted = _as_it_was(parts_of(recording))
    for part in (found, wanted):
        if part and "functionCall" in part[-1] and not any("thoughtSignature" in one for one in part if "functionCall" in one):
            next(one for one in part if "functionCall" in one)["thoughtSignature"] = "made up, or not needed"
    ids = [part["functionCall"]["id"] for part in found if "functionCall" in part]
    given = [part["functionCall"]["id"] for part in parts_of(recording) if part.get("functionCall", {}).get("id")]
    assert len(set(ids)) == len(ids)
    assert set(given) <= set(ids)
    assert _without_made_up([canonical_part(part) for part in found]) == _without_made_up(
        [canonical_part(part) for part in wanted]
    )


def _as_it_was(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pieces of text that nothing divides are one, thoughts that nobody signed are gone, calls come last."""
    found: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    text = ""
    for part in parts:
        if part.get("thought") and "thoughtSignature" not in part:
            continue
        if "functionCall" in part:
            if "name" in part["functionCall"]:
                calls.append(part)
            continue
        if "text" in part and "thought" not in part:
            text += part["text"]
            if "thoughtSignature" in part:
                found.append({"text": text, "thoughtSignature": part["thoughtSignature"]})
                text = ""
            continue
        if text:
            found.append({"text": text})
            text = ""
        found.append(part)
    whole = [{**part, "functionCall": call} for part, call in zip(calls, _calls(parts), strict=True)]
    return [*found, *([{"text": text}] if text else []), *whole]


def _without_made_up(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in part.items() if value != "made up, or not needed" and not _skipping(name, value)}
        for part in parts
    ]


def _skipping(name: str, value: Any) -> bool:
    return name == "thoughtSignature" and isinstance(value, str) and value.startswith("c2tpcF90aG91Z2h0")


def _merged(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The message of choice 0, as a caller puts it together."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            for detail in delta.get("reasoning_details", []):
                message.setdefault("reasoning_details", []).append({k: v for k, v in detail.items() if k != "index"})
            for piece in delta.get("tool_calls", []):
                calls = message.setdefault("tool_calls", [])
                if piece["index"] == len(calls):
                    calls.append({**piece, "function": dict(piece["function"])})
                else:
                    calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    return message


@pytest.mark.parametrize("id_", sorted(NO_ANSWERS))
def test_what_is_no_answer_is_an_empty_one(id_: str) -> None:
    recording = next((found for found in RECORDINGS if found.id == id_), None)
    if recording is None:
        pytest.skip("this corpus does not have it")
    with pytest.raises(UpstreamError) as error:
        dialect(recording).decode_answer(recording.body, asking(stream=False), target(recording))
    assert error.value.error_class is ErrorClass.EMPTY


@pytest.mark.parametrize("recording", arrays(), ids=lambda recording: recording.id)
def test_streams_as_one_json_array(recording: Recorded) -> None:
    pytest.skip("comes of streamGenerateContent without alt=sse, which is never left out")


# -- errors

CLASSES = {
    "gemini-gemini-generatecontent-52da82018a": ErrorClass.AUTH,  # 400 API_KEY_INVALID
    "gemini-gemini-generatecontent-586b82fb90": ErrorClass.MODEL_NOT_FOUND,
    "gemini-gemini-generatecontent-6ddf5209ee": ErrorClass.AUTH,
    "gemini-gemini-generatecontent-d17fdae8a8": ErrorClass.MODEL_NOT_FOUND,
    "gemini-gemini-generatecontent-dbc664762a": ErrorClass.RATE_LIMITED,  # a quota of a minute, with RetryInfo
    "gemini-gemini-generatecontent-ebb7f26f2b": ErrorClass.RATE_LIMITED,  # no details
    "gemini-gemini-generatecontent-f45bb5950d": ErrorClass.MODEL_NOT_FOUND,
    "gemini-gemini-streamgeneratecontent-11af072524": ErrorClass.AUTH,  # JSON as text/event-stream
    "gemini-gemini-streamgeneratecontent-ab245c3659": ErrorClass.AUTH,
    "gemini-gemini-streamgeneratecontent-e74eb82f6f": ErrorClass.MODEL_NOT_FOUND,
    "vertex-gemini-generatecontent-2920eb3a68": ErrorClass.INVALID_REQUEST,  # a link that may not be fetched
    "vertex-gemini-generatecontent-ed7ba7c118": ErrorClass.INVALID_REQUEST,
    "vertex-gemini-generatecontent-ffb71bf0cd": ErrorClass.INVALID_REQUEST,  # temperature 1000
}
_BY_STATUS = {
    400: {ErrorClass.INVALID_REQUEST, ErrorClass.AUTH, ErrorClass.CONTEXT_LENGTH, ErrorClass.CONTENT_POLICY},
    401: {ErrorClass.AUTH},
    403: {ErrorClass.AUTH, ErrorClass.INVALID_REQUEST},
    404: {ErrorClass.MODEL_NOT_FOUND, ErrorClass.INVALID_REQUEST},
    429: {ErrorClass.RATE_LIMITED, ErrorClass.INSUFFICIENT_QUOTA},
    500: {ErrorClass.SERVER_ERROR},
    503: {ErrorClass.OVERLOADED},
    504: {ErrorClass.SERVER_ERROR},
}


@pytest.mark.parametrize("recording", ERRORS, ids=lambda recording: recording.id)
def test_errors_are_what_they_are(recording: Recorded) -> None:
    error = dialect(recording).decode_error(recording.status, (), recording.body)
    assert error.status == recording.status
    assert error.message == orjson.loads(recording.body)["error"]["message"]
    assert error.error_class in _BY_STATUS[recording.status]
    assert error.error_class is CLASSES.get(recording.id, error.error_class)
    assert (error.body_delay is not None) is (b"retryDelay" in recording.body)


# -- requests


every_request = pytest.mark.parametrize("recording", list(asked()), ids=lambda recording: recording.id)


@every_request
def test_a_recorded_request_is_rebuilt_from_what_a_caller_would_have_asked(recording: Recorded) -> None:
    assert recording.asked is not None
    try:
        body = as_openai(recording.asked)
    except NoWords as reason:
        pytest.skip(f"OpenAI has no words for {reason}")
    sent = dialect(recording).encode_request(chat_request(body), target(recording))
    found = judge(sent.body)
    for content in found["contents"]:
        content["parts"] = [canonical_part(part) for part in content["parts"]]
    wanted = canonical(recording.asked)
    for content in (*found["contents"], *wanted["contents"]):
        content["parts"] = _without_made_up(content["parts"])
    assert found == wanted
    assert sent.dropped == ()


# what is taken but documented otherwise: a tool that is a word, from a test that mocks its provider
TAKEN_ALL_THE_SAME = frozenset(("gemini-gemini-generatecontent-6241ea4e4d",))


@every_request
def test_the_judge_takes_what_google_took(recording: Recorded) -> None:
    try:
        judge(orjson.dumps(recording.asked), ours=False)
    except Refused:
        assert recording.id in TAKEN_ALL_THE_SAME


def test_the_spellings_of_keys_are_one() -> None:
    assert in_camel_case(
        {"generation_config": {"top_p": 1}, "tools": [{"function_declarations": [{"parameters": {"a_b": 1}}]}]}
    ) == {
        "generationConfig": {"topP": 1},
        "tools": [{"functionDeclarations": [{"parameters": {"a_b": 1}}]}],
    }
