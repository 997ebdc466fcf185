"""A conversation as Converse takes it: turns, results, pictures and documents, cache points, thoughts that were sealed."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.core.errors import CannotCarry, InvalidRequest, InvalidValue
from proxy.dialects.bedrock.messages import MAX_NAME_CHARS
from proxy.dialects.bedrock.models import family_of
from tests.dialects.bedrock_judge import CLAUDE, NOVA, sent
from tests.dialects.bedrock_words import (
    CALL,
    CALLED,
    CLAUDE_46,
    EPHEMERAL,
    FOREIGN_THOUGHTS,
    HI,
    HOUR,
    LLAMA,
    MISTRAL,
    POINT,
    PROFILE,
    RED,
    REDACTED,
    SEALED,
    file,
    messages,
    text,
    user,
)
from tests.dialects.fields import PDF, PNG, TOOL, WAV

pytestmark = pytest.mark.unit

# -- turns


def test_system_and_developer_messages_go_on_top_in_their_order() -> None:
    body = {
        "messages": [
            {"role": "system", "content": "One."},
            *HI,
            {"role": "developer", "content": [text("Two."), text(" "), text("Three.")]},
        ]
    }
    found, _ = sent(body)
    assert found["system"] == [{"text": "One."}, {"text": "Two."}, {"text": "Three."}]
    assert found["messages"] == [{"role": "user", "content": [{"text": "Hi"}]}]


def test_instructions_alone_are_asked_as_a_question() -> None:
    found, outbound = sent({"messages": [{"role": "system", "content": "Say something."}]})
    assert found["messages"] == [{"role": "user", "content": [{"text": "Say something."}]}]
    assert "system" not in found
    assert outbound.dropped == ("messages[].role",)


@pytest.mark.parametrize("content", ["", " \n", None, [], [{"type": "text", "text": "\t"}]])
def test_blank_text_is_left_out_and_nothing_at_all_is_refused(content: Any) -> None:
    assert messages({"role": "user", "content": content}, *HI) == [{"role": "user", "content": [{"text": "Hi"}]}]
    with pytest.raises(InvalidRequest):
        sent({"messages": [{"role": "user", "content": content}]})


def test_consecutive_messages_of_a_role_are_one_turn() -> None:
    found = messages(*HI, *HI, {"role": "assistant", "content": "A"}, {"role": "assistant", "content": "B"}, *HI)
    assert [(message["role"], message["content"]) for message in found] == [
        ("user", [{"text": "Hi"}, {"text": "Hi"}]),
        ("assistant", [{"text": "A"}, {"text": "B"}]),
        ("user", [{"text": "Hi"}]),
    ]


def test_who_must_begin() -> None:
    given = [{"role": "assistant", "content": "Hello there!"}, *HI]
    assert messages(*given)[0]["role"] == "assistant"  # Claude takes it
    assert messages(*given, model=NOVA)[0] == {"role": "user", "content": [{"text": "Hello."}]}


def test_a_conversation_that_ends_with_the_assistant() -> None:
    given = [*HI, {"role": "assistant", "content": "The answer is \n"}]
    found, outbound = sent({"messages": given})
    assert found["messages"][-1]["content"] == [{"text": "The answer is"}]
    assert outbound.dropped == ("messages[].content",)
    with pytest.raises(CannotCarry) as caught:
        sent({"messages": given}, CLAUDE_46)
    assert caught.value.param == "messages[1]"


def test_tool_results_come_together_and_first() -> None:
    second = {**CALL, "id": "call_2", "function": {"name": "get_time", "arguments": ""}}
    found = messages(
        *HI,
        {"role": "assistant", "content": "I look.", "tool_calls": [CALL, second]},
        {"role": "tool", "tool_call_id": "call_2", "content": [text("09:30"), text(" sharp")]},
        {"role": "user", "content": "Hurry!"},
        {"role": "tool", "tool_call_id": "call_1", "content": "21 degrees"},
        {"role": "user", "content": "Well?"},
        tools=[TOOL],
    )
    assert [block.get("toolUse", {}).get("input") for block in found[1]["content"]] == [None, {"city": "Lisboa"}, {}]
    assert found[2]["content"] == [
        {"toolResult": {"toolUseId": "call_2", "content": [{"text": "09:30"}, {"text": " sharp"}]}},
        {"toolResult": {"toolUseId": "call_1", "content": [{"text": "21 degrees"}]}},
        {"text": "Hurry!"},
        {"text": "Well?"},
    ]


@pytest.mark.parametrize("content", ["", "  ", [], None])
def test_an_empty_tool_result_says_that_it_is_empty(content: Any) -> None:
    found = messages(*CALLED[:2], {"role": "tool", "tool_call_id": "call_1", "content": content}, tools=[TOOL])
    assert found[-1]["content"][0]["toolResult"]["content"] == [{"text": "(empty)"}]


def test_a_tool_may_answer_with_a_picture_and_a_document() -> None:
    parts = [text("Look:"), {"type": "image_url", "image_url": {"url": RED}}, file(filename="map.pdf")]
    found = messages(*CALLED[:2], {"role": "tool", "tool_call_id": "call_1", "content": parts}, tools=[TOOL])
    content = found[-1]["content"][0]["toolResult"]["content"]
    assert [next(iter(block)) for block in content] == ["text", "image", "document"]


def test_the_retired_functions_are_tools() -> None:
    body = {
        "messages": [
            *HI,
            {"role": "assistant", "content": None, "function_call": {"name": "get_weather", "arguments": "{}"}},
            {"role": "function", "name": "get_weather", "content": "21"},
        ],
        "functions": [TOOL["function"]],
        "function_call": {"name": "get_weather"},
    }
    found, outbound = sent(body)
    assert found["toolConfig"]["toolChoice"] == {"tool": {"name": "get_weather"}}
    assert outbound.dropped == ()


IDS = [
    (CLAUDE, "call_1", True),
    (CLAUDE, "functions.get_weather:0", False),
    ("moonshot.kimi-k2-thinking", "functions.get_weather:0", True),
    (CLAUDE, "x" * 64, True),
    (CLAUDE, "x" * 65, False),
    (NOVA, "ümlaut", False),
    (MISTRAL, "abcDEF123", True),
    (MISTRAL, "call_1", False),
]


@pytest.mark.parametrize(("model", "id_", "kept"), IDS)
def test_call_ids_that_a_model_refuses_are_replaced_in_call_and_result(model: str, id_: str, kept: bool) -> None:
    given = [
        *HI,
        {"role": "assistant", "tool_calls": [{**CALL, "id": id_}]},
        {"role": "tool", "tool_call_id": id_, "content": "21"},
    ]
    found = messages(*given, model=model, tools=[TOOL])
    used = found[1]["content"][0]["toolUse"]["toolUseId"]
    assert found[2]["content"][0]["toolResult"]["toolUseId"] == used
    assert (used == id_) is kept
    assert family_of(model).call_id.fullmatch(used)
    assert messages(*given, model=model, tools=[TOOL]) == found  # the same every time


def test_a_call_id_that_comes_twice_is_made_unique() -> None:
    """ "The toolUse blocks at messages.2.content contain duplicate Ids"."""
    again: list[dict[str, Any]] = [
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "22"},
    ]
    found = messages(*CALLED, *again, tools=[TOOL])
    first, second = (found[at]["content"][0]["toolUse"]["toolUseId"] for at in (1, 3))
    assert first != second
    assert [found[at]["content"][0]["toolResult"]["toolUseId"] for at in (2, 4)] == [first, second]


# -- media

MEDIA: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"type": "image_url", "image_url": {"url": RED}}, CLAUDE, {"image": {"format": "png", "source": {"bytes": PNG}}}),
    (
        {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,/9j/"}},
        CLAUDE,
        {"image": {"format": "jpeg", "source": {"bytes": "/9j/"}}},
    ),
    (
        {"type": "image_url", "image_url": {"url": "s3://bucket/a/photo.JPG"}},
        NOVA,
        {"image": {"format": "jpeg", "source": {"s3Location": {"uri": "s3://bucket/a/photo.JPG"}}}},
    ),
    (
        {"type": "video_url", "video_url": {"url": "data:video/quicktime;base64,AAAA"}},
        NOVA,
        {"video": {"format": "mov", "source": {"bytes": "AAAA"}}},
    ),
    (
        {"type": "video_url", "video_url": {"url": "s3://bucket/clip.mkv"}},
        NOVA,
        {"video": {"format": "mkv", "source": {"s3Location": {"uri": "s3://bucket/clip.mkv"}}}},
    ),
    (
        {"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}},
        "amazon.nova-2-omni-v1:0",
        {"audio": {"format": "wav", "source": {"bytes": WAV}}},
    ),
    (
        {"type": "input_audio", "input_audio": {"data": WAV, "format": "mp3"}},
        "mistral.voxtral-mini-3b-2507",
        {"audio": {"format": "mp3", "source": {"bytes": WAV}}},
    ),
    (file(filename="a.pdf"), CLAUDE, {"document": {"format": "pdf", "name": "a", "source": {"bytes": PDF}}}),
    (
        file("data:text/markdown;base64,IyBIaQ==", filename="notes.md"),
        CLAUDE,
        {"document": {"format": "md", "name": "notes", "source": {"bytes": "IyBIaQ=="}}},
    ),
    (
        file("data:application/octet-stream;base64,UEsDBA==", filename="Plan 2025.xlsx"),
        NOVA,
        {"document": {"format": "xlsx", "name": "Plan 2025", "source": {"bytes": "UEsDBA=="}}},
    ),
    (
        file("data:text/x-python;base64,cHJpbnQ=", filename="x.txt"),
        NOVA,
        {"document": {"format": "txt", "name": "x", "source": {"bytes": "cHJpbnQ="}}},
    ),
    (
        file("s3://bucket/report.docx"),
        NOVA,
        {"document": {"format": "docx", "name": "document", "source": {"s3Location": {"uri": "s3://bucket/report.docx"}}}},
    ),
    (file(RED), CLAUDE, {"image": {"format": "png", "source": {"bytes": PNG}}}),
    (
        {"type": "guardContent", "guardContent": {"text": {"text": "Guard this."}}},
        CLAUDE,
        {"guardContent": {"text": {"text": "Guard this."}}},
    ),
]


@pytest.mark.parametrize(("part", "model", "block"), MEDIA)
def test_media(part: dict[str, Any], model: str, block: dict[str, Any]) -> None:
    assert messages(user(text("Look."), part), model=model)[0]["content"] == [{"text": "Look."}, block]


REFUSED_PARTS: list[tuple[dict[str, Any], str]] = [
    ({"type": "image_url", "image_url": {"url": "https://images.example/harbour.jpg"}}, NOVA),
    ({"type": "image_url", "image_url": {"url": "gs://bucket/harbour.jpg"}}, NOVA),
    ({"type": "image_url", "image_url": {"url": "s3://bucket/photo.jpg"}}, CLAUDE),
    ({"type": "image_url", "image_url": {"url": "data:image/svg+xml;base64,PHN2Zz4="}}, CLAUDE),
    ({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}, CLAUDE),
    ({"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}}, CLAUDE),
    ({"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}}, NOVA),
    ({"type": "file", "file": {"file_id": "file-123"}}, CLAUDE),
    (file("data:application/zip;base64,UEsDBA=="), CLAUDE),
    (file("https://files.example/a.pdf"), CLAUDE),
    ({"type": "made_up", "made_up": {"a": 1}}, CLAUDE),
    ({"type": "guardContent"}, CLAUDE),
]


@pytest.mark.parametrize(("part", "model"), REFUSED_PARTS)
def test_media_that_cannot_be_had_rules_the_target_out(part: dict[str, Any], model: str) -> None:
    with pytest.raises(CannotCarry) as caught:
        sent({"messages": [user(text("Look."), part)]}, model)
    assert caught.value.param == "messages[0].content[1]"


@pytest.mark.parametrize(
    "message",
    [
        {"role": "system", "content": [{"type": "image_url", "image_url": {"url": RED}}]},
        {"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": RED}}]},
    ],
)
def test_media_belong_to_the_user(message: dict[str, Any]) -> None:
    with pytest.raises(CannotCarry) as caught:
        sent({"messages": [*HI, message, *HI]})
    assert caught.value.param == "messages[1].content[0]"


def test_base64_is_written_anew_where_it_is_not_plain_and_refused_where_it_is_none() -> None:
    broken = f"{PDF[:10]}\r\n {PDF[10:]}"
    found = messages(user(text("Read."), file(f"data:application/pdf;base64,{broken}")))
    assert found[0]["content"][1]["document"]["source"] == {"bytes": PDF}
    with pytest.raises(InvalidValue) as caught:
        sent({"messages": [user(text("Read."), file("data:application/pdf;base64,%%%"))]})
    assert caught.value.param == "messages[0].content[1]"


NAMES = [
    ("itinerary.pdf", "itinerary", True),
    ("Report 2025 (final) [v2]-b.pdf", "Report 2025 (final) [v2]-b", True),
    ("company_policy.pdf", "company_policy", True),
    ("invoice #123.pdf", "invoice 123", False),
    ("résumé.pdf", "r sum", False),
    ("Report -  Final.pdf", "Report - Final", False),
    ("a\tb.pdf", "a b", False),
    ("분기보고서.pdf", "document", False),
    ("archive.tar.pdf", "archive tar", False),
    ("x" * 300, "x" * (MAX_NAME_CHARS - 10), False),
    (None, "document", True),
]


@pytest.mark.parametrize(("filename", "name", "whole"), NAMES)
def test_the_name_of_a_document_holds_what_it_may(filename: str | None, name: str, whole: bool) -> None:
    found, outbound = sent({"messages": [user(text("Read."), file(filename=filename))]})
    assert found["messages"][0]["content"][1]["document"]["name"] == name
    assert outbound.dropped == (() if whole else ("messages[].content[].file.filename",))


def test_documents_of_one_name_are_told_apart() -> None:
    found = messages(user(text("Read."), file(filename="a.pdf"), file(filename="a.pdf"), file(), file()))
    names = [block["document"]["name"] for block in found[0]["content"][1:]]
    assert names == ["a", "a (2)", "document", "document (2)"]


def test_beside_a_document_there_is_text() -> None:
    assert messages(user(file(filename="itinerary.pdf")))[0]["content"][1] == {"text": "itinerary"}


# -- caching


def marked_body() -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": [text("Long.", cache_control=HOUR)]},
            user(text("One."), text("Two.", cache_control=EPHEMERAL)),
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": [text("21", cache_control=EPHEMERAL)]},
            {"role": "user", "content": "And?", "cache_control": EPHEMERAL},
        ],
        "tools": [TOOL, {**TOOL, "function": {"name": "get_time"}, "cache_control": EPHEMERAL}],
    }


def test_a_mark_is_a_cache_point_behind_what_it_marks() -> None:
    found, outbound = sent(marked_body())
    assert found["system"] == [{"text": "Long."}, {"cachePoint": {"type": "default", "ttl": "1h"}}]
    assert found["messages"][0]["content"] == [{"text": "One."}, {"text": "Two."}, POINT]
    assert [next(iter(block)) for block in found["messages"][2]["content"]] == [
        "toolResult",
        "cachePoint",
        "text",
        "cachePoint",
    ]
    assert found["toolConfig"]["tools"][-1] == POINT
    assert outbound.dropped == ()


def test_nova_caches_no_tools_and_others_nothing() -> None:
    found, outbound = sent(marked_body(), NOVA)
    assert outbound.dropped == ("tools[].cache_control",)
    assert POINT in found["messages"][0]["content"]
    for model in (LLAMA, MISTRAL, PROFILE):
        found, outbound = sent(marked_body(), model)
        assert b"cachePoint" not in outbound.body
        marks = ("messages[].cache_control", "messages[].content[].cache_control", "tools[].cache_control")
        assert outbound.dropped == marks


def test_there_is_no_cache_point_behind_nothing() -> None:
    """ "There is nothing available to cache. Please remove the invalid cache point and try again."."""
    blank: list[dict[str, Any]] = [
        user(text(" ", cache_control=EPHEMERAL), text("Hi")),
        {"role": "assistant", "content": "", "cache_control": EPHEMERAL},
    ]
    _, outbound = sent({"messages": [*blank, *HI]})
    assert b"cachePoint" not in outbound.body
    assert outbound.dropped == ("messages[].cache_control", "messages[].content[].cache_control")


def test_two_marks_in_one_place_are_one_cache_point() -> None:
    message = {"role": "user", "content": [text("Long.", cache_control=EPHEMERAL)], "cache_control": EPHEMERAL}
    assert messages(message)[0]["content"] == [{"text": "Long."}, POINT]


# -- thoughts


def thought_turn(*details: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    turn = {"role": "assistant", "content": "It is Lisboa.", "reasoning_details": list(details), **more}
    return [*HI, turn, *HI]


def test_sealed_thoughts_are_put_back_where_they_stood() -> None:
    later = {**SEALED, "text": "And the time?", "position": {"text": 6, "calls": 0}}
    last = {**REDACTED, "position": {"text": 13, "calls": 1}}
    second = {**CALL, "id": "call_2"}
    given = thought_turn(SEALED, later, last, tool_calls=[CALL, second])
    given[2:] = [
        {"role": "tool", "tool_call_id": "call_1", "content": "21"},
        {"role": "tool", "tool_call_id": "call_2", "content": "22"},
    ]
    found, outbound = sent({"messages": given, "tools": [TOOL], "reasoning_effort": "low"})
    content = found["messages"][1]["content"]
    assert [next(iter(block)) for block in content] == [
        "reasoningContent",
        "text",
        "reasoningContent",
        "text",
        "toolUse",
        "reasoningContent",
        "toolUse",
    ]
    assert content[0] == {"reasoningContent": {"reasoningText": {"text": "By the bridge.", "signature": "c2ln"}}}
    assert [content[1]["text"], content[3]["text"]] == ["It is ", "Lisboa."]
    assert content[5] == {"reasoningContent": {"redactedContent": "c2VhbGVk"}}
    assert outbound.dropped == ()


@pytest.mark.parametrize("detail", FOREIGN_THOUGHTS)
def test_thoughts_of_others_stay_behind(detail: dict[str, Any]) -> None:
    found, outbound = sent({"messages": thought_turn(detail), "reasoning_effort": "low"})
    assert found["messages"][1]["content"] == [{"text": "It is Lisboa."}]
    assert outbound.dropped == ("messages[].reasoning_details",)


def test_thoughts_of_the_same_family_are_read_by_the_next_model() -> None:
    detail = {**SEALED, "model": "us.anthropic.claude-sonnet-4-20250514-v1:0"}
    found, _ = sent({"messages": thought_turn(detail), "reasoning_effort": "low"})
    assert "reasoningContent" in found["messages"][1]["content"][0]


def test_a_turn_that_does_not_think_takes_no_thoughts_in_its_last_answer() -> None:
    found, outbound = sent({"messages": thought_turn(SEALED)})
    assert found["messages"][1]["content"] == [{"text": "It is Lisboa."}]
    assert outbound.dropped == ("messages[].reasoning_details",)


def test_thinking_does_not_begin_in_the_middle_of_a_tool_loop() -> None:
    """ "Expected `thinking` or `redacted_thinking`, but found `tool_use`"."""
    found, outbound = sent({"messages": CALLED, "tools": [TOOL], "reasoning_effort": "low"})
    assert "additionalModelRequestFields" not in found
    assert outbound.dropped == ("reasoning_effort",)


def test_a_turn_of_thoughts_alone_is_no_turn() -> None:
    found, outbound = sent({"messages": [*HI, {"role": "assistant", "content": "", "reasoning_details": [SEALED]}, *HI]})
    assert found["messages"] == [{"role": "user", "content": [{"text": "Hi"}, {"text": "Hi"}]}]
    assert outbound.dropped == ("messages[].reasoning_details",)
