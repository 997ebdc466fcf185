"""What Gemini answers, whole and streamed, made by hand where no recording shows it."""

from __future__ import annotations

import os
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
    ImageDelta,
    LogprobsDelta,
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
from proxy.core.target import Provider, Target
from proxy.core.usage import Usage
from proxy.dialects.chat_encoder import collect
from proxy.dialects.gemini.dialect import Gemini, read_usage
from tests.dialects.fields import GOLDENS, PNG, chat_request
from tests.dialects.native_recordings import events_of, ways_to_cut

pytestmark = pytest.mark.unit

DIALECT = Gemini()
TARGET = Target(Provider("gemini", "gemini", "https://generativelanguage.googleapis.com", ()), "gemini-2.5-pro", "gemini-2.5-pro")
USAGE = {"promptTokenCount": 7, "candidatesTokenCount": 5, "totalTokenCount": 12}
ASKING = chat_request(
    {"model": "smart", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "stream_options": {"include_usage": True}}
)


def answer(*parts: dict[str, Any], reason: Any = "STOP", **candidate: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, **candidate}
    if reason is not None:
        made["finishReason"] = reason
    return {"candidates": [made], "modelVersion": "gemini-2.5-pro", "responseId": "r1"}


def read(*parts: dict[str, Any], **candidate: Any) -> list[Event]:
    """The events of a whole answer, without the first, which says the model."""
    started, *events = DIALECT.decode_response(answer(*parts, **candidate), TARGET)
    assert started == Started("gemini-2.5-pro")
    return events


def streamed(*chunks: dict[str, Any]) -> bytes:
    return b"".join([b"data: " + orjson.dumps(chunk) + b"\r\n\r\n" for chunk in chunks])


def read_stream(data: bytes) -> list[Event]:
    return events_of(DIALECT.decoder(ASKING, TARGET), [data])


def end(reason: Any = "stop", native: str = "STOP", choice: int = 0) -> Finished:
    return Finished(reason, native, choice)


# -- parts


def test_text_and_thoughts_are_kept_apart() -> None:
    assert read({"text": "Hm.", "thought": True}, {"text": "Hello"}) == [ThinkingDelta("Hm."), TextDelta("Hello"), end()]


@pytest.mark.parametrize("arguments", [{}, {"args": {}}, {"args": None}])
def test_a_call_without_arguments_has_none_to_tell(arguments: dict[str, Any]) -> None:
    """The encoder makes `{}` of them."""
    started, ended, finished = read({"functionCall": {"id": "a", "name": "now", **arguments}})
    assert (started, ended) == (ToolCallStarted(0, "a", "now"), ToolCallEnded(0))
    assert finished == end("tool_calls")


def test_a_call_comes_whole_with_its_own_id() -> None:
    assert read({"functionCall": {"id": "a", "name": "f", "args": {"x": [1, 2.5, "é", None]}}}) == [
        ToolCallStarted(0, "a", "f"),
        ToolArgsDelta(0, '{"x":[1,2.5,"é",null]}'),
        ToolCallEnded(0),
        end("tool_calls"),
    ]


def ids(events: list[Event]) -> list[str]:
    return [event.id for event in events if isinstance(event, ToolCallStarted)]


def test_ids_are_made_up_the_same_for_the_same_answer_and_another_for_every_call() -> None:
    call = {"functionCall": {"name": "f", "args": {"x": 1}}}
    first = ids(read(call, call, {"functionCall": {"name": "f", "args": {"x": 2}}}))
    assert len(set(first)) == 3
    assert ids(read(call, call, {"functionCall": {"name": "f", "args": {"x": 2}}})) == first
    assert all(len(id_) == 17 and id_.startswith("call_") for id_ in first)
    other = DIALECT.decode_response({**answer(call), "responseId": "r2"}, TARGET)
    assert not set(ids(other)) & set(first)
    bare = {"candidates": answer(call)["candidates"]}
    grown = [ids(DIALECT.decode_response({**bare, "usageMetadata": {"promptTokenCount": n}}, TARGET)) for n in (7, 8)]
    assert grown[0] != grown[1]


def test_in_a_stream_ids_hang_on_the_request() -> None:
    data = streamed(answer({"functionCall": {"name": "f"}}))
    other = chat_request({"model": "smart", "messages": [{"role": "user", "content": "Hi"}], "stream": True})
    other.id = "another"
    assert ids(read_stream(data)) == ids(read_stream(data))
    assert ids(read_stream(data)) != ids(events_of(DIALECT.decoder(other, TARGET), [data]))


def test_an_id_that_is_used_twice_is_not_believed() -> None:
    call = {"functionCall": {"id": "a", "name": "f"}}
    first, second = ids(read(call, call))
    assert (first, second[:5]) == ("a", "call_")


def pieces(*calls: dict[str, Any]) -> list[Event]:
    return read(*[{"functionCall": call} for call in calls])


def test_a_call_in_pieces_is_told_when_it_is_whole() -> None:
    more = {"willContinue": True}
    events = pieces(
        {"name": "f", "id": "a", **more},
        {"partialArgs": [{"jsonPath": "$.place.city", "stringValue": "Lis", **more}], **more},
        {"partialArgs": [{"jsonPath": "$.place.city", "stringValue": "boa"}], **more},
        {
            "partialArgs": [{"jsonPath": "$.days[0]", "numberValue": 3}, {"jsonPath": "$.days[1]", "nullValue": "NULL_VALUE"}],
            **more,
        },
        {"partialArgs": [{"jsonPath": "$['the hat']", "boolValue": True}], **more},
        {},
    )
    text = '{"place":{"city":"Lisboa"},"days":[3,null],"the hat":true}'
    assert events == [ToolCallStarted(0, "a", "f"), ToolArgsDelta(0, text), ToolCallEnded(0), end("tool_calls")]


@pytest.mark.parametrize("path", ["", "$", "x", "$.", "$..x", "$[*]", "$.x[99]", "$[0]", "$.a.b.[", "$" + ".a" * 99, 7, None])
def test_pieces_without_a_place_are_left_out(path: Any) -> None:
    events = pieces(
        {"name": "f", "willContinue": True}, {"partialArgs": [{"jsonPath": path, "stringValue": "?"}, 7]}, {"partialArgs": 7}
    )
    assert [type(event) for event in events if not isinstance(event, ToolArgsDelta)] == [ToolCallStarted, ToolCallEnded, Finished]


def test_a_call_that_never_ends_is_ended_by_the_next_or_by_the_finish() -> None:
    events = pieces({"name": "f", "id": "a", "willContinue": True}, {"name": "g", "id": "b", "willContinue": True})
    assert ids(events) == ["a", "b"]


def test_a_call_that_grows_without_end_fails() -> None:
    piece = {"partialArgs": [{"jsonPath": "$.x", "stringValue": "y" * 1_000_000, "willContinue": True}], "willContinue": True}
    with pytest.raises(UpstreamError) as error:
        pieces({"name": "f", "willContinue": True}, *[piece] * 9)
    assert error.value.error_class is ErrorClass.TOO_LARGE


def test_arguments_too_deep_to_write_are_the_models_fault() -> None:
    deep: Any = 1
    for _ in range(300):
        deep = {"a": deep}
    with pytest.raises(UpstreamError) as error:
        read({"functionCall": {"name": "f", "args": deep}})
    assert error.value.error_class is ErrorClass.MODEL_FAULT


def detail(**fields: Any) -> dict[str, Any]:
    return {"type": "reasoning.encrypted", "data": "U0lH", "format": "gemini", **fields}


@pytest.mark.parametrize(
    ("parts", "details"),
    [
        ([{"functionCall": {"id": "a", "name": "f"}, "thoughtSignature": "U0lH"}], [detail(id="a")]),
        ([{"text": "Hello", "thoughtSignature": "U0lH"}], [detail(text_end=5)]),
        ([{"text": "Hel"}, {"text": "lo"}, {"text": "", "thoughtSignature": "U0lH"}], [detail(text_end=5)]),
        ([{"text": "Hello"}, {"thoughtSignature": "U0lH"}], [detail(text_end=5)]),
        (
            [{"text": "Hm.", "thought": True, "thoughtSignature": "U0lH"}],
            [{"type": "reasoning.text", "text": "Hm.", "signature": "U0lH", "format": "gemini", "text_end": 0}],
        ),
        (
            [{"text": "Hi"}, {"toolCall": {"toolType": "GOOGLE_SEARCH_WEB"}, "thoughtSignature": "U0lH"}],
            [detail(text_end=2, part={"toolCall": {"toolType": "GOOGLE_SEARCH_WEB"}})],
        ),
        ([{"text": "Hi", "thoughtSignature": 7}], []),
    ],
)
def test_a_signature_is_told_with_the_place_that_it_was_on(parts: list[dict[str, Any]], details: list[dict[str, Any]]) -> None:
    assert [event.detail for event in read(*parts) if isinstance(event, ReasoningDetail)] == details


def test_code_that_google_ran_is_shown_and_can_go_back() -> None:
    code, result = {"language": "PYTHON", "code": "1+1"}, {"outcome": "OUTCOME_OK", "output": "2"}
    events = read({"executableCode": code}, {"codeExecutionResult": result})
    assert [event for event in events if isinstance(event, Extra)] == [
        Extra("executable_code", code),
        Extra("code_execution_result", result),
    ]
    assert [event.detail["part"] for event in events if isinstance(event, ReasoningDetail)] == [
        {"executableCode": code},
        {"codeExecutionResult": result},
    ]


@pytest.mark.parametrize(
    ("part", "event"),
    [
        ({"inlineData": {"mimeType": "image/png", "data": PNG}}, ImageDelta(f"data:image/png;base64,{PNG}")),
        (
            {"inlineData": {"mimeType": "audio/L16;rate=24000", "data": "AAAA"}},
            Extra("inline_data", {"mimeType": "audio/L16;rate=24000", "data": "AAAA"}),
        ),
        (
            {"inlineData": {"mimeType": "image/png", "data": PNG}, "thought": True},
            Extra("thought_data", {"mimeType": "image/png", "data": PNG}),
        ),
        ({"inlineData": None}, Extra("inline_data", None)),
        ({"fileData": {"fileUri": "gs://a"}}, Extra("part", {"fileData": {"fileUri": "gs://a"}})),
        ({"yetToCome": {"x": 1}}, Extra("part", {"yetToCome": {"x": 1}})),
    ],
)
def test_what_else_a_part_can_be(part: dict[str, Any], event: Event) -> None:
    assert read(part) == [event, end()]


# -- ends


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("STOP", "stop"),
        ("FINISH_REASON_UNSPECIFIED", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("IMAGE_SAFETY", "content_filter"),
        ("MODEL_ARMOR", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "stop"),
        ("OTHER", "stop"),
        ("YET_TO_COME", "stop"),
    ],
)
def test_finish_reasons(native: str, reason: Any) -> None:
    assert read({"text": "Hi"}, reason=native)[-1] == end(reason, native)


@pytest.mark.parametrize(
    ("number", "native", "reason"),
    [(1, "STOP", "stop"), (2, "MAX_TOKENS", "length"), (3, "SAFETY", "content_filter"), (99, "99", "stop")],
)
def test_finish_reasons_as_numbers(number: int, native: str, reason: Any) -> None:
    assert read({"text": "Hi"}, reason=number)[-1] == end(reason, native)


@pytest.mark.parametrize(
    ("native", "reason"),
    [("STOP", "tool_calls"), ("UNEXPECTED_TOOL_CALL", "tool_calls"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter")],
)
def test_a_call_makes_a_stop_of_tool_calls_and_of_nothing_else(native: str, reason: Any) -> None:
    assert read({"functionCall": {"name": "f"}}, reason=native)[-1] == end(reason, native)


def test_why_it_ended_is_shown_where_it_is_not_the_usual() -> None:
    assert Extra("finish_message", "Unexpected tool call: f") in read(
        reason="UNEXPECTED_TOOL_CALL", finishMessage="Unexpected tool call: f"
    )
    assert not [e for e in read({"text": "Hi"}, finishMessage="Model generated function call(s).") if isinstance(e, Extra)]


@pytest.mark.parametrize("content", [{}, {"parts": []}, {"role": "model"}, None, {"parts": None}, {"parts": [7]}])
@pytest.mark.parametrize(("native", "reason"), [("SAFETY", "content_filter"), ("MAX_TOKENS", "length")])
def test_no_text_at_all_is_an_answer(content: Any, native: str, reason: Any) -> None:
    found = DIALECT.decode_answer(orjson.dumps({"candidates": [{"content": content, "finishReason": native}]}), ASKING, TARGET)
    choice = orjson.loads(found.body)["choices"][0]
    assert choice["finish_reason"] == reason
    assert not choice["message"]["content"]


BLOCKED = {
    "promptFeedback": {"blockReason": "PROHIBITED_CONTENT", "blockReasonMessage": "No."},
    "usageMetadata": {"promptTokenCount": 9},
}


def test_a_prompt_that_was_blocked_is_a_content_filter() -> None:
    wanted = [
        Started(None),
        UsageReported(Usage(9, 0)),
        Extra("prompt_feedback", BLOCKED["promptFeedback"]),
        Finished("content_filter", "PROHIBITED_CONTENT"),
    ]
    assert DIALECT.decode_response(BLOCKED, TARGET) == wanted
    assert read_stream(streamed(BLOCKED)) == wanted


@pytest.mark.parametrize(
    "found", [{}, {"usageMetadata": USAGE}, {"candidates": []}, {"candidates": None}, {"promptFeedback": {}}]
)
def test_an_object_that_is_no_answer_is_an_empty_one(found: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError) as error:
        DIALECT.decode_answer(orjson.dumps(found), ASKING, TARGET)
    assert error.value.error_class is ErrorClass.EMPTY


# -- what else a candidate has


def test_several_candidates_are_choices_and_finish_at_the_end() -> None:
    candidates = [{**answer({"text": text})["candidates"][0], "index": index} for index, text in enumerate("ab")]
    assert DIALECT.decode_response({"candidates": candidates}, TARGET)[1:] == [
        TextDelta("a"),
        TextDelta("b", 1),
        end(),
        end(choice=1),
    ]


def test_an_index_that_is_left_out_is_the_position() -> None:
    candidates = [answer({"text": text})["candidates"][0] for text in "ab"]
    assert [
        event.choice for event in DIALECT.decode_response({"candidates": candidates}, TARGET) if isinstance(event, TextDelta)
    ] == [0, 1]


def test_log_probabilities() -> None:
    result = {
        "chosenCandidates": [{"token": "é", "logProbability": -0.5, "tokenId": 7}, {"token": "b"}],
        "topCandidates": [{"candidates": [{"token": "é", "logProbability": -0.5}, {"token": "e", "logProbability": -2}]}],
    }
    (told,) = [event for event in read({"text": "éb"}, logprobsResult=result) if isinstance(event, LogprobsDelta)]
    assert told.content == [
        {
            "token": "é",
            "logprob": -0.5,
            "bytes": [195, 169],
            "top_logprobs": [
                {"token": "é", "logprob": -0.5, "bytes": [195, 169]},
                {"token": "e", "logprob": -2, "bytes": [101]},
            ],
        },
        {"token": "b", "logprob": 0.0, "bytes": [98], "top_logprobs": []},
    ]


def citations(text: str, **grounding: Any) -> list[tuple[str, str, int, int]]:
    events = read({"text": text}, groundingMetadata=grounding)
    assert Extra("grounding_metadata", grounding) in events
    found = [event.annotation["url_citation"] for event in events if isinstance(event, Annotation)]
    return [(one["url"], one["title"], one["start_index"], one["end_index"]) for one in found]


WEB = [{"web": {"uri": "https://a.example", "title": "A"}}, {"web": {"uri": "https://b.example"}}]


@pytest.mark.parametrize(
    ("segment", "place"),
    [
        ({"startIndex": 6, "endIndex": 12, "text": "Grüße"}, (5, 10)),  # bytes, which are told as characters
        ({"endIndex": 5, "text": "Vier "}, (0, 5)),
        ({"startIndex": 0, "endIndex": 7, "text": "Grüße"}, (5, 10)),  # counted from another part: its words are found
        ({"startIndex": 90, "endIndex": 95, "text": "gone"}, (0, 12)),
        ({"startIndex": 5, "endIndex": 12}, (5, 10)),
        ({}, (0, 0)),
        (None, (0, 12)),
    ],
)
def test_a_citation_points_at_the_words_that_it_supports(segment: Any, place: tuple[int, int]) -> None:
    supports = [{"segment": segment, "groundingChunkIndices": [0]}]
    text = "Vier Grüße …"
    assert citations(text, groundingChunks=WEB[:1], groundingSupports=supports) == [("https://a.example", "A", *place)]


def test_a_source_that_supports_nothing_stands_at_the_end() -> None:
    supports = [{"segment": {"endIndex": 2}, "groundingChunkIndices": [1, 9, -1, "x"]}]
    assert citations("Hello", groundingChunks=[*WEB, {"web": {}}, 7], groundingSupports=supports) == [
        ("https://b.example", "", 0, 2),
        ("https://a.example", "A", 5, 5),
    ]


def test_places_and_documents_are_sources_too() -> None:
    chunks = [{"maps": {"uri": "https://maps.example", "title": "M"}}, {"retrievedContext": {"uri": "gs://doc"}}]
    assert [found[0] for found in citations("Hi", groundingChunks=chunks)] == ["https://maps.example", "gs://doc"]


@pytest.mark.parametrize("grounding", [{"webSearchQueries": ["x"]}, {"groundingChunks": 7, "groundingSupports": [7]}])
def test_grounding_without_sources_has_no_citations(grounding: dict[str, Any]) -> None:
    assert citations("Hi", **grounding) == []


def test_what_only_google_has_is_shown() -> None:
    ratings = [{"category": "HARM_CATEGORY_HARASSMENT", "probability": "LOW"}]
    found = {
        **answer(
            {"text": "Hi"},
            safetyRatings=ratings,
            avgLogprobs=-0.5,
            citationMetadata={"citations": [{}]},
            urlContextMetadata={"x": 1},
        ),
        "usageMetadata": {**USAGE, "serviceTier": "standard", "trafficType": "ON_DEMAND"},
        "promptFeedback": {"safetyRatings": ratings},
    }
    events = DIALECT.decode_response(found, TARGET)
    assert {event.name: event.value for event in events if isinstance(event, Extra)} == {
        "prompt_feedback": {"safetyRatings": ratings},
        "service_tier": "standard",
        "traffic_type": "ON_DEMAND",
        "safety_ratings": ratings,
        "avg_logprobs": -0.5,
        "citation_metadata": {"citations": [{}]},
        "url_context_metadata": {"x": 1},
    }


# -- usage


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        (USAGE, Usage(7, 5)),
        ({"promptTokenCount": 7}, Usage(7, 0)),
        ({}, Usage(0, 0)),
        (
            {
                "promptTokenCount": 100,
                "toolUsePromptTokenCount": 20,
                "cachedContentTokenCount": 60,
                "candidatesTokenCount": 30,
                "thoughtsTokenCount": 40,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 70}, {"modality": "AUDIO", "tokenCount": 30}],
                "toolUsePromptTokensDetails": [{"modality": "AUDIO", "tokenCount": 5}],
                "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 25}],
            },
            Usage(120, 70, 60, 0, 40, 35, 25),
        ),
        ({"promptTokenCount": 5, "promptTokensDetails": [{"modality": 4, "tokenCount": 3}]}, Usage(5, 0, 0, 0, 0, 3)),
        ({"promptTokenCount": 5, "cachedContentTokenCount": 9}, Usage(5, 0, 5)),
        ({"promptTokenCount": 5, "cachedContentTokenCount": -1}, Usage(5, 0)),
        ({"promptTokenCount": 5, "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 99}]}, Usage(5, 0, 0, 0, 0, 5)),
        ({"promptTokenCount": 5, "promptTokensDetails": [{"modality": "AUDIO"}, 7]}, Usage(5, 0)),
        ({"promptTokenCount": 5, "promptTokensDetails": 7}, Usage(5, 0)),
        ({"promptTokenCount": -5}, None),
        ({"promptTokenCount": 5.5}, None),
        ({"promptTokenCount": "5"}, None),
        ({"promptTokenCount": True}, None),
        ({"candidatesTokenCount": 10**12}, None),
        ({"thoughtsTokenCount": []}, Usage(0, 0)),
        ({"thoughtsTokenCount": [1]}, None),
    ],
)
def test_usage(told: dict[str, Any], usage: Usage | None) -> None:
    assert read_usage(told) == usage


def test_usage_that_comes_with_every_chunk_is_told_once_and_known_before() -> None:
    chunks = [
        {**answer({"text": "a"}, reason=None), "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": n}}
        for n in (1, 1, 2)
    ]
    reported = [event.usage for event in read_stream(streamed(*chunks)) if isinstance(event, UsageReported)]
    assert reported == [Usage(7, 2)]
    stream = DIALECT.answer_stream(ASKING, TARGET)
    stream.feed(streamed(*chunks[:2]))
    assert stream.usage == Usage(7, 1)


# -- streams


def test_grounding_that_grows_is_told_once_and_behind_the_finish_too() -> None:
    first = {"groundingChunks": WEB[:1]}
    data = streamed(
        answer({"text": "a"}, reason=None, groundingMetadata=first),
        answer({"text": "b"}, groundingMetadata={}),
        {"candidates": [{"groundingMetadata": {"groundingChunks": WEB}}], "usageMetadata": USAGE},
    )
    events = read_stream(data)
    assert [event.annotation["url_citation"]["url"] for event in events if isinstance(event, Annotation)] == [
        "https://a.example",
        "https://b.example",
    ]
    assert [event.value for event in events if isinstance(event, Extra)] == [{"groundingChunks": WEB}]
    assert isinstance(events[-1], Finished)
    assert UsageReported(Usage(7, 5)) in events


PIECE = {"candidates": [{"content": {"parts": [{"text": " you"}], "role": "model"}, "index": 0}], "usageMetadata": USAGE}


def piece(candidate: Any = None, part: Any = None, **rest: Any) -> dict[str, Any]:
    content = {"parts": [part or {"text": " you"}], "role": "model"}
    return {
        "candidates": [candidate or {"content": content, "index": 0}],
        "usageMetadata": {**USAGE, "thoughtsTokenCount": 3},
    } | rest


@pytest.mark.parametrize(
    "odd",
    [
        piece(),
        piece({"content": {"parts": [{"text": " you"}]}}),
        piece({"content": {"parts": [{"text": " you"}]}, "index": 1}),
        piece({"content": {"parts": [{"text": " you"}]}, "index": True}),
        piece({"content": {"parts": [{"text": " you"}]}, "index": 7}),
        piece({"content": {"parts": [{"text": " you"}]}, "index": []}),
        piece({"content": {"parts": [{"text": " you"}]}, "finishReason": "MAX_TOKENS"}),
        piece({"content": {"parts": [{"text": " a"}, {"text": " b"}]}, "index": 0}),
        piece({"content": {"parts": {"text": " you"}}, "index": 0}),
        piece({"content": None, "index": 0}),
        piece(part={"text": ""}),
        piece(part={"text": 5}),
        piece(part={"text": " Hm.", "thought": True}),
        piece(part={"text": " you", "thoughtSignature": "c2ln"}),
        piece(part={"functionCall": {"name": "f", "id": "a"}}),
        piece(usageMetadata=None),
        piece(usageMetadata=[1]),
        piece(promptFeedback={"blockReason": "SAFETY"}),
        piece(candidates=None),
        piece(candidates=[]),
    ],
    ids=str,
)
def test_the_quick_look_at_a_piece_of_text_sees_what_the_close_one_does(odd: dict[str, Any]) -> None:
    """`error`, and be it null, is for the close one."""
    first = {"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "index": index} for index in (0, 1)]}
    chunks: list[dict[str, Any]] = [first, PIECE, odd, PIECE, answer(), answer(index=1)]
    found = read_stream(streamed(*chunks))
    assert found == read_stream(streamed(*[{**chunk, "error": None} for chunk in chunks]))
    assert TextDelta(" you") in found


def test_a_call_before_the_chunk_that_stops_is_remembered() -> None:
    data = streamed(answer({"functionCall": {"name": "f"}}, reason=None), answer({"text": ""}))
    assert read_stream(data)[-1] == end("tool_calls")


def test_there_is_no_end_mark() -> None:
    decoder = DIALECT.decoder(ASKING, TARGET)
    decoder.feed(streamed(answer({"text": "a"})))
    assert decoder.done is False
    stream = DIALECT.answer_stream(ASKING, TARGET)
    out = stream.feed(streamed(answer({"text": "a"}))) + stream.close()
    assert (stream.done, stream.end_mark_missing, stream.error) == (True, True, None)
    assert out.endswith(b"data: [DONE]\n\n")


def test_a_stream_without_a_finish_reason_is_cut_off() -> None:
    stream = DIALECT.answer_stream(ASKING, TARGET)
    stream.feed(streamed(answer({"text": "a"}, reason=None)))
    stream.close()
    assert stream.error is not None
    assert stream.error.error_class is ErrorClass.TRUNCATED


def test_closing_twice_tells_the_end_once() -> None:
    decoder = DIALECT.decoder(ASKING, TARGET)
    decoder.feed(streamed(answer({"text": "a"})))
    assert [type(event) for event in decoder.close()] == [Finished]
    assert decoder.close() == []


OVERLOADED = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
BARE = orjson.dumps(OVERLOADED, option=orjson.OPT_INDENT_2)


@pytest.mark.parametrize(
    "tail",
    [
        streamed(OVERLOADED),
        BARE + b"\n\n",
        BARE,  # as the bytes end
        BARE.replace(b"\n", b"\r\n") + b"\r\n",
        b"[" + BARE + b"\n]\n",
    ],
)
def test_an_error_in_mid_stream_is_one_however_it_comes(tail: bytes) -> None:
    data = streamed(answer({"text": "a"}, reason=None)) + tail
    whole = events_of(DIALECT.decoder(ASKING, TARGET), [data])
    assert [type(event) for event in whole] == [Started, TextDelta, StreamFailed]
    failed = whole[-1]
    assert isinstance(failed, StreamFailed)
    assert failed.error.error_class is ErrorClass.OVERLOADED
    assert failed.error.message == "The model is overloaded."
    for cut in ways_to_cut(data, "error"):
        found = events_of(DIALECT.decoder(ASKING, TARGET), cut)
        assert found[:-1] == whole[:-1]
        assert isinstance(found[-1], StreamFailed)


def test_an_error_under_status_200_is_one() -> None:
    with pytest.raises(UpstreamError) as error:
        DIALECT.decode_response(OVERLOADED, TARGET)
    assert error.value.error_class is ErrorClass.OVERLOADED


def test_events_that_are_no_json_are_counted_and_end_the_stream_when_there_are_many() -> None:
    decoder = DIALECT.decoder(ASKING, TARGET)
    assert decoder.feed(b"data: {\r\n\r\n" * 3 + streamed(answer({"text": "a"}))) != []
    assert decoder.malformed == 3
    (failed,) = decoder.feed(b"data: 7\r\n\r\n")
    assert isinstance(failed, StreamFailed)
    assert failed.error.error_class is ErrorClass.MALFORMED_EVENT
    assert decoder.close() == []


def test_comments_and_line_ends_of_any_kind_are_read() -> None:
    lines = b": hello\r\n\r\n\r\n\r\n" + streamed(answer({"text": "a"}, reason=None))
    lines += b"event: x\ndata: " + orjson.dumps(answer({"text": "\u2028b"})) + b"\n\n"
    whole = read_stream(lines)
    assert [event.text for event in whole if isinstance(event, TextDelta)] == ["a", "\u2028b"]
    for cut in ways_to_cut(lines, "lines"):
        assert events_of(DIALECT.decoder(ASKING, TARGET), cut) == whole


def test_an_event_beyond_all_bounds_ends_the_stream() -> None:
    decoder = DIALECT.decoder(ASKING, TARGET)
    found = decoder.feed(streamed(answer({"text": "a" * 1_100_000})))
    assert isinstance(found[-1], StreamFailed)
    assert found[-1].error.error_class is ErrorClass.TOO_LARGE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                """candidates content parts text thought thoughtSignature functionCall name args id partialArgs jsonPath stringValue
                willContinue inlineData mimeType data executableCode finishReason index groundingMetadata groundingChunks web uri
                groundingSupports segment startIndex endIndex groundingChunkIndices logprobsResult chosenCandidates topCandidates
                token usageMetadata promptTokenCount promptTokensDetails modality promptFeedback blockReason error message code
                status""".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)


@pytest.mark.property
@settings(max_examples=150)
@given(
    parts=st.lists(JSON, max_size=3),
    candidate=st.dictionaries(
        st.sampled_from(["index", "finishReason", "groundingMetadata", "logprobsResult"]), JSON, max_size=3
    ),
    rest=st.dictionaries(
        st.sampled_from(["usageMetadata", "promptFeedback", "modelVersion", "error", "candidates"]), JSON, max_size=2
    ),
)
def test_nonsense_is_never_the_proxys_fault(parts: list[Any], candidate: dict[str, Any], rest: dict[str, Any]) -> None:
    found = {"candidates": [{"content": {"parts": parts}, **candidate}], **rest}
    data = streamed(found)
    whole = read_stream(data)
    assert not any(isinstance(event, StreamFailed) for event in whole[:-1])
    try:
        collect(DIALECT.decode_response(orjson.loads(orjson.dumps(found)), TARGET))
    except UpstreamError:
        pass


# -- the whole of it

STREAM: list[dict[str, Any]] = [
    {
        **answer({"text": "Weighing it.", "thought": True}, reason=None),
        "usageMetadata": {"promptTokenCount": 31, "thoughtsTokenCount": 20},
    },
    answer({"text": "Take “a hat”"}, reason=None),
    answer({"text": " 🌍.", "thoughtSignature": "dGV4dA=="}, reason=None),
    answer(
        {"functionCall": {"name": "get_weather", "args": {"city": "Lisboa"}}, "thoughtSignature": "Y2FsbA=="},
        {"functionCall": {"name": "get_time", "args": {}}},
        reason=None,
    ),
    {
        **answer({"text": ""}, index=0, groundingMetadata={"groundingChunks": WEB[:1]}),
        "usageMetadata": {"promptTokenCount": 31, "candidatesTokenCount": 12, "thoughtsTokenCount": 20, "totalTokenCount": 63},
    },
]


def test_a_stream_that_uses_everything() -> None:
    stream = DIALECT.answer_stream(ASKING, TARGET)
    out = stream.feed(streamed(*STREAM)) + stream.close()
    golden = GOLDENS / "gemini" / "stream.txt"
    if os.environ.get("WRITE_GOLDENS"):
        golden.write_bytes(out)
    assert out == golden.read_bytes()
    assert stream.usage == Usage(31, 32, reasoning_tokens=20)
    assert (stream.finish_reason, stream.error) == ("tool_calls", None)
