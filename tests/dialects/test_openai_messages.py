"""OpenAI's messages as turns: who said what, which call a result answers, what each part is, and what is wrong with a bad one."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.chat import MediaPart, OtherPart, Part, TextPart, ToolCall, Turn
from proxy.core.errors import CallerError, CannotCarry, InvalidRequest, InvalidValue
from proxy.dialects.knobs import Knobs
from proxy.dialects.openai_messages import arguments_object, decoded, read_turns, split_data_url
from tests.dialects.fields import NESTED_FIELDS, PDF, PNG, WAV, full_body, with_field

pytestmark = pytest.mark.unit

MARK = {"type": "ephemeral"}
EMPTY: tuple[Any, ...] = (None, "", [], {})


def read(*messages: dict[str, Any], thoughts: bool = False) -> tuple[list[Turn], tuple[str, ...]]:
    knobs = Knobs({})
    return read_turns(messages, knobs, thoughts=thoughts), knobs.dropped


def turn(message: dict[str, Any]) -> Turn:
    turns, dropped = read(message)
    assert dropped == ()
    return turns[0]


def part(content: dict[str, Any]) -> Part:
    (found,) = turn({"role": "user", "content": [content]}).parts
    return found


def called(id_: str = "call_1", name: str = "f", arguments: object = "{}") -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def wrong(*messages: dict[str, Any]) -> CallerError:
    with pytest.raises(CallerError) as caught:
        read(*messages)
    return caught.value


# -- turns


def test_the_full_conversation() -> None:
    turns, dropped = read(*full_body()["messages"])
    assert [turn.role for turn in turns] == ["system", "system", "user", "assistant", "tool", "tool", "user"]
    assert [turn.where for turn in turns] == [f"messages[{index}]" for index in range(7)]
    assert [[type(part).__name__ for part in turn.parts] for turn in turns] == [
        ["TextPart"],
        ["TextPart"],
        ["TextPart", "MediaPart", "MediaPart", "MediaPart", "MediaPart"],
        ["TextPart"],
        ["TextPart", "TextPart"],
        ["TextPart"],
        ["TextPart", "TextPart"],
    ]
    assert [(turn.call_id, turn.name) for turn in turns[4:6]] == [("call_weather1", "get_weather"), ("call_time2", "get_time")]
    assert [(call.id, call.name, set(call.arguments), call.text[:1]) for call in turns[3].calls] == [
        ("call_weather1", "get_weather", {"place", "unit", "day"}, "{"),
        ("call_time2", "get_time", set(), "{"),
    ]
    assert [detail["format"] for detail in turns[3].reasoning] == ["anthropic", "gemini"]
    assert turns[6].parts == [TextPart("The guide says: bring a hat.", MARK), TextPart("So what do I pack?")]
    assert turns[4].text == '{"celsius": 21, "sky": "clear"}'
    assert dropped == ("messages[].name",)


@pytest.mark.parametrize(
    ("role", "expected"), [("system", "system"), ("developer", "system"), ("user", "user"), ("assistant", "assistant")]
)
def test_roles(role: str, expected: str) -> None:
    assert turn({"role": role, "content": "Hi"}) == Turn(expected, "messages[0]", [TextPart("Hi")])  # type: ignore[arg-type]


@pytest.mark.parametrize("role", ["model", "System", "", "human"])
def test_a_role_that_nobody_has_is_the_callers_mistake(role: str) -> None:
    error = wrong({"role": "user", "content": "Hi"}, {"role": role, "content": "Hi"})
    assert (type(error), error.param) == (InvalidValue, "messages[1].role")
    assert repr(role) in error.message


@pytest.mark.parametrize("message", [{}, {"content": None}, {"content": ""}, {"content": []}])
def test_no_content_is_no_parts(message: dict[str, Any]) -> None:
    assert turn({"role": "assistant", **message}).parts == []


def test_strings_in_a_list_of_parts_are_text() -> None:
    assert turn({"role": "user", "content": ["a", {"type": "text", "text": "b"}]}).text == "ab"


@pytest.mark.parametrize("content", [7, {"type": "text", "text": "x"}, True])
def test_content_of_another_type(content: object) -> None:
    error = wrong({"role": "user", "content": content})
    assert (type(error), error.param) == (InvalidRequest, "messages[0].content")


def test_a_mark_on_the_message_itself() -> None:
    assert turn({"role": "user", "content": "Hi", "cache_control": MARK}).cache_control == MARK


def test_a_refusal_is_text() -> None:
    assert turn({"role": "assistant", "content": None, "refusal": "No."}).parts == [TextPart("No.")]
    assert turn({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}).parts == [TextPart("No.")]
    assert turn({"role": "assistant", "content": "Hi", "refusal": None}).text == "Hi"


def test_a_refusal_that_is_no_text() -> None:
    assert wrong({"role": "assistant", "refusal": ["No."]}).param == "messages[0].refusal"


# -- what is dropped


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in NESTED_FIELDS
        if name.startswith("messages[]") and not name.endswith(("cache_control", "detail", "refusal"))
    ],
)
def test_what_no_dialect_reads_is_dropped_by_name(name: str) -> None:
    """But for reasoning_details, of which the dialect itself gives account."""
    body, _ = with_field(name)
    expected = () if name == "messages[].reasoning_details" else (name,)
    assert read(*body["messages"])[1] == expected


@pytest.mark.parametrize("value", EMPTY)
def test_what_says_nothing_is_not_named(value: object) -> None:
    names = """annotations audio cache_control function_call made_up name reasoning reasoning_content reasoning_details refusal
    tool_calls""".split()
    content = [{"type": "text", "text": "Hi", "made_up": value, "cache_control": value}]
    assert turn({"role": "assistant", "content": content, **dict.fromkeys(names, value)}) == Turn(
        "assistant", "messages[0]", [TextPart("Hi")]
    )


@pytest.mark.parametrize("value", [0, False, 1, "x", [None], {"a": None}])
def test_what_says_something_is_named(value: object) -> None:
    content = [{"type": "text", "text": "Hi", "made_up": value}]
    assert read({"role": "user", "content": content, "also": value})[1] == ("messages[].also", "messages[].content[].made_up")


@pytest.mark.parametrize(
    ("role", "fields"),
    [
        ("user", {"tool_calls": [called()], "refusal": "No.", "reasoning_content": "Hm", "tool_call_id": "call_1"}),
        ("system", {"function_call": {"name": "f"}, "reasoning_details": [{}]}),
        ("assistant", {"tool_call_id": "call_1"}),
        ("tool", {"tool_calls": [called()], "refusal": "No."}),
    ],
)
def test_what_belongs_to_another_role_is_dropped(role: str, fields: dict[str, Any]) -> None:
    answers = {"tool_call_id": "call_1"} if role == "tool" else {}
    turns, dropped = read({"role": role, "content": "Hi", **answers, **fields})
    assert dropped == tuple(sorted(f"messages[].{name}" for name in fields))
    assert (turns[0].text, turns[0].calls, turns[0].reasoning) == ("Hi", [], [])


@pytest.mark.parametrize("mark", ["ephemeral", 1, True, [1]])
def test_a_mark_that_is_no_object_is_dropped(mark: object) -> None:
    content = [{"type": "text", "text": "Hi", "cache_control": mark}]
    turns, dropped = read({"role": "user", "content": content, "cache_control": mark})
    assert dropped == ("messages[].cache_control", "messages[].content[].cache_control")
    assert turns[0] == Turn("user", "messages[0]", [TextPart("Hi")])


# -- reasoning


def test_details_are_kept_for_who_sealed_them() -> None:
    details = [{"type": "reasoning.text", "format": "a"}, {"type": "reasoning.encrypted", "format": "b"}]
    assert turn({"role": "assistant", "content": "Hi", "reasoning_details": details}).reasoning == details


@pytest.mark.parametrize("details", ["text", {"type": "reasoning.text"}, [{"type": "reasoning.text"}, "text"], 7])
def test_details_of_another_shape_are_dropped(details: object) -> None:
    turns, dropped = read({"role": "assistant", "content": "Hi", "reasoning_details": details})
    assert dropped == ("messages[].reasoning_details",)
    assert turns[0].reasoning == ([{"type": "reasoning.text"}] if isinstance(details, list) else [])


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_plain_thoughts_go_to_the_dialects_that_carry_them(name: str) -> None:
    message = {"role": "assistant", "content": "Hi", name: "Hm."}
    for thoughts, dropped in ((True, ()), (False, (f"messages[].{name}",))):
        turns, found = read(message, thoughts=thoughts)
        assert (turns[0].thoughts, found) == ("Hm.", dropped)


def test_thoughts_that_the_details_tell_again_are_not_lost() -> None:
    message = {"role": "assistant", "content": "Hi", "reasoning_content": "Hm.", "reasoning_details": [{"text": "Hm."}]}
    assert read(message)[1] == ()


def test_thoughts_told_twice_are_carried_once_and_two_of_them_not_both() -> None:
    same = {"role": "assistant", "reasoning_content": "Hm.", "reasoning": "Hm."}
    assert (read(same, thoughts=True)[0][0].thoughts, read(same, thoughts=True)[1]) == ("Hm.", ())
    turns, dropped = read({**same, "reasoning": "Ah."}, thoughts=True)
    assert (turns[0].thoughts, dropped) == ("Hm.", ("messages[].reasoning",))


def test_thoughts_of_another_type_are_dropped() -> None:
    turns, dropped = read({"role": "assistant", "content": "Hi", "reasoning": {"text": "Hm"}}, thoughts=True)
    assert (turns[0].thoughts, dropped) == (None, ("messages[].reasoning",))


# -- calls and results


@pytest.mark.parametrize(
    ("arguments", "expected", "text"),
    [
        ('{"a": 1}', {"a": 1}, '{"a": 1}'),
        ("{}", {}, "{}"),
        ("", {}, "{}"),
        (" \n", {}, "{}"),
        ("null", {}, "{}"),
        (None, {}, "{}"),
        ({"a": 1}, {"a": 1}, '{"a":1}'),
    ],
)
def test_arguments_are_an_object_and_its_text(arguments: object, expected: dict[str, Any], text: str) -> None:
    assert turn({"role": "assistant", "tool_calls": [called(arguments=arguments)]}).calls == [
        ToolCall("call_1", "f", expected, text)
    ]


@pytest.mark.parametrize("arguments", ["{", "[]", "7", '"text"', "{'a': 1}", '{"a": 1} {', 7, [], True])
def test_arguments_that_spell_no_object(arguments: object) -> None:
    error = wrong({"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [called(), called(arguments=arguments)]})
    assert (type(error), error.param) == (InvalidValue, "messages[1].tool_calls[1].function.arguments")


def test_arguments_of_a_place_that_the_dialect_names() -> None:
    assert arguments_object('{"a":null}', "here") == {"a": None}
    with pytest.raises(InvalidValue) as caught:
        arguments_object("x", "here")
    assert caught.value.param == "here.arguments"


@pytest.mark.parametrize(
    "call",
    [
        None,
        "call_1",
        {},
        {"id": "call_1", "type": "function"},
        {"id": "call_1", "function": "f"},
        {"id": "call_1", "function": {"arguments": "{}"}},
        {"id": "call_1", "function": {"name": ""}},
        {"id": "call_1", "function": {"name": 7}},
        {"function": {"name": "f"}},
        {"id": "", "function": {"name": "f"}},
        {"id": 7, "function": {"name": "f"}},
    ],
)
def test_a_call_without_id_or_name(call: object) -> None:
    error = wrong({"role": "assistant", "tool_calls": [called(), call]})
    assert (type(error), error.param) == (InvalidRequest, "messages[0].tool_calls[1]")


@pytest.mark.parametrize("calls", ["x", {"id": "call_1"}, 7])
def test_calls_that_are_no_list(calls: object) -> None:
    assert wrong({"role": "assistant", "tool_calls": calls}).param == "messages[0].tool_calls"


def test_a_call_of_a_custom_tool_cannot_be_carried() -> None:
    call = {"id": "call_1", "type": "custom", "custom": {"name": "grep", "input": "x"}}
    with pytest.raises(CannotCarry) as caught:
        read({"role": "assistant", "tool_calls": [call]})
    assert (caught.value.feature, caught.value.param) == ("calls of custom tools", "messages[0].tool_calls[0]")


def test_what_is_in_a_call_besides_is_dropped() -> None:
    call = {**called(), "index": 0, "extra_content": {"a": 1}}
    call["function"] = {**call["function"], "parsed_arguments": {"a": 1}}
    turns, dropped = read({"role": "assistant", "tool_calls": [call]})
    assert dropped == ("messages[].tool_calls[].extra_content", "messages[].tool_calls[].function.parsed_arguments")
    assert turns[0].calls == [ToolCall("call_1", "f", {}, "{}")]


def test_a_results_function_is_found_by_the_calls_id() -> None:
    calls = {"role": "assistant", "tool_calls": [called("call_a", "a"), called("call_b", "b")]}
    results = [{"role": "tool", "tool_call_id": id_, "content": "x"} for id_ in ("call_b", "call_a", "call_c")]
    turns, dropped = read(calls, *results)
    assert [(turn.call_id, turn.name) for turn in turns[1:]] == [("call_b", "b"), ("call_a", "a"), ("call_c", None)]
    assert dropped == ()


def test_a_result_may_name_its_function_itself() -> None:
    calls = {"role": "assistant", "tool_calls": [called("call_a", "a")]}
    turns, dropped = read(
        calls, *[{"role": "tool", "tool_call_id": id_, "content": "x", "name": "a"} for id_ in ("call_a", "call_z")]
    )
    assert ([turn.name for turn in turns[1:]], dropped) == (["a", "a"], ())
    turns, dropped = read(calls, {"role": "tool", "tool_call_id": "call_a", "content": "x", "name": "other"})
    assert (turns[1].name, dropped) == ("a", ("messages[].name",))


@pytest.mark.parametrize("call_id", [None, "", 7, ["call_1"]])
def test_a_result_that_names_no_call(call_id: object) -> None:
    error = wrong({"role": "tool", "content": "x", "tool_call_id": call_id})
    assert (type(error), error.param) == (InvalidRequest, "messages[0].tool_call_id")


def test_the_retired_function_role_answers_the_call_before_it() -> None:
    turns, dropped = read(
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": 1}'}},
        {"role": "function", "name": "f", "content": "21"},
        {"role": "assistant", "function_call": {"name": "g", "arguments": ""}},
        {"role": "function", "name": "g", "content": "22"},
    )
    assert dropped == ()
    assert turns[1].calls == [ToolCall("call_1", "f", {"a": 1}, '{"a": 1}')]
    assert [(turn.role, turn.call_id, turn.name) for turn in turns if turn.role == "tool"] == [
        ("tool", "call_1", "f"),
        ("tool", "call_3", "g"),
    ]


def test_a_retired_function_result_needs_its_call() -> None:
    assert wrong({"role": "function", "name": "f", "content": "21"}).param == "messages[0]"


@pytest.mark.parametrize("call", ["f", {"arguments": "{}"}, {"name": ""}, [1]])
def test_a_retired_call_without_a_name(call: object) -> None:
    assert wrong({"role": "assistant", "function_call": call}).param == "messages[0].function_call"


# -- parts


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"type": "text", "text": "Hi", "cache_control": MARK}, TextPart("Hi", MARK)),
        ({"type": "text", "text": ""}, TextPart("")),
        (
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}, "cache_control": MARK},
            MediaPart("image", "image/png", data=PNG, detail="low", cache_control=MARK),
        ),
        (
            {"type": "image_url", "image_url": {"url": "https://a.example/i.jpg"}},
            MediaPart("image", url="https://a.example/i.jpg"),
        ),
        ({"type": "image_url", "image_url": "https://a.example/i.jpg"}, MediaPart("image", url="https://a.example/i.jpg")),
        ({"type": "image_url", "image_url": {"url": "HTTPS://A.example/i"}}, MediaPart("image", url="HTTPS://A.example/i")),
        ({"type": "image_url", "image_url": {"url": "gs://bucket/i.png"}}, MediaPart("image", url="gs://bucket/i.png")),
        ({"type": "video_url", "video_url": {"url": "s3://bucket/v.mp4"}}, MediaPart("video", url="s3://bucket/v.mp4")),
        ({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}, MediaPart("video", "video/mp4", data="AAAA")),
        ({"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}}, MediaPart("audio", "audio/wav", data=WAV)),
        (
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
            MediaPart("audio", "audio/mpeg", data="AAAA"),
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "flac"}},
            MediaPart("audio", "audio/flac", data="AAAA"),
        ),
        ({"type": "input_audio", "input_audio": {"data": "AAAA"}}, MediaPart("audio", None, data="AAAA")),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": ""}}, MediaPart("audio", None, data="AAAA")),
        ({"type": "input_audio", "input_audio": {"data": WAV}}, MediaPart("audio", "audio/wav", data=WAV)),
        (
            {"type": "input_audio", "input_audio": {"data": "data:audio/ogg;base64,AAAA"}},
            MediaPart("audio", "audio/ogg", data="AAAA"),
        ),
        (
            {
                "type": "file",
                "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
                "cache_control": MARK,
            },
            MediaPart("file", "application/pdf", data=PDF, filename="a.pdf", cache_control=MARK),
        ),
        ({"type": "file", "file": {"file_data": PDF}}, MediaPart("file", "application/pdf", data=PDF)),
        (
            {"type": "file", "file": {"file_data": "AAAA", "filename": "B.PDF"}},
            MediaPart("file", "application/pdf", data="AAAA", filename="B.PDF"),
        ),
        ({"type": "file", "file": {"file_data": "AAAA\nAA==\n"}}, MediaPart("file", None, data="AAAA\nAA==\n")),
        (
            {"type": "file", "file": {"file_data": "data:text/plain;base64,AAAA", "filename": "c.pdf"}},
            MediaPart("file", "text/plain", data="AAAA", filename="c.pdf"),
        ),
        ({"type": "file", "file": {"file_id": "file-1"}}, MediaPart("file", file_id="file-1")),
        ({"type": "file", "file": {"file_url": "https://a.example/a"}}, MediaPart("file", url="https://a.example/a")),
    ],
    ids=lambda value: orjson.dumps(value).decode()[:60] if isinstance(value, dict) else "",
)
def test_a_part(content: dict[str, Any], expected: Part) -> None:
    assert part(content) == expected


def test_a_part_of_a_type_beyond_openais_is_kept_as_it_is() -> None:
    sent = {"type": "document", "source": {"type": "text"}, "anything": 1}
    assert part(sent) == OtherPart("document", sent)


def test_a_file_that_is_here_goes_before_one_that_is_elsewhere() -> None:
    turns, dropped = read({"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1", "file_data": PDF}}]})
    assert turns[0].parts == [MediaPart("file", "application/pdf", data=PDF)]
    assert dropped == ("messages[].content[].file.file_id",)


def test_what_is_in_a_part_besides_is_dropped() -> None:
    content = [
        {"type": "text", "text": "Hi", "prompt_cache_breakpoint": {"mode": "explicit"}},
        {"type": "image_url", "image_url": {"url": "https://a.example", "detail": 7, "width": 9}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav", "seconds": 1}},
        {"type": "file", "file": {"file_data": "AAAA", "filename": 7, "pages": [1]}},
    ]
    assert read({"role": "user", "content": content})[1] == (
        "messages[].content[].file.filename",
        "messages[].content[].file.pages",
        "messages[].content[].image_url.detail",
        "messages[].content[].image_url.width",
        "messages[].content[].input_audio.seconds",
        "messages[].content[].prompt_cache_breakpoint",
    )


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (7, ""),
        (None, ""),
        ({}, ""),
        ({"type": None}, ""),
        ({"type": ["text"]}, ""),
        ({"type": "text"}, ".text"),
        ({"type": "text", "text": 7}, ".text"),
        ({"type": "refusal", "refusal": None}, ".refusal"),
        ({"type": "image_url"}, ".image_url.url"),
        ({"type": "image_url", "image_url": {}}, ".image_url.url"),
        ({"type": "image_url", "image_url": {"url": ""}}, ".image_url.url"),
        ({"type": "image_url", "image_url": {"url": "/etc/passwd"}}, ".image_url.url"),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, ".image_url.url"),
        ({"type": "image_url", "image_url": {"url": PNG}}, ".image_url.url"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64"}}, ".image_url.url"),
        ({"type": "video_url", "video_url": [1]}, ".video_url.url"),
        ({"type": "input_audio"}, ".input_audio"),
        ({"type": "input_audio", "input_audio": "AAAA"}, ".input_audio"),
        ({"type": "input_audio", "input_audio": {"format": "wav"}}, ".input_audio.data"),
        ({"type": "file"}, ".file"),
        ({"type": "file", "file": {}}, ".file.file_data"),
        ({"type": "file", "file": {"file_id": 7}}, ".file.file_data"),
        ({"type": "file", "file": {"file_data": "not base64!"}}, ".file.file_data"),
        ({"type": "file", "file": {"file_data": "ftp://a.example"}}, ".file.file_data"),
    ],
)
def test_a_bad_part_is_named(content: object, param: str) -> None:
    error = wrong({"role": "user", "content": "x"}, {"role": "user", "content": ["x", content]})
    assert error.param == f"messages[1].content[1]{param}"
    assert error.param in error.message


# -- data URLs and base64


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"data:image/png;base64,{PNG}", ("image/png", PNG)),
        ("DATA:Image/PNG;BASE64,AAAA", ("image/png", "AAAA")),
        ("data:image/jpg;base64,AAAA", ("image/jpeg", "AAAA")),
        ("data:text/plain;charset=utf-8;base64,AAAA", ("text/plain", "AAAA")),
        ('data:text/plain;charset="utf-8";name=a.txt;base64,AAAA', ("text/plain", "AAAA")),
        ("data: image/png ; base64 ,AAAA", ("image/png", "AAAA")),
        ("data:application/vnd.ms-excel.sheet+xml;base64,AAAA", ("application/vnd.ms-excel.sheet+xml", "AAAA")),
        ("data:;base64,AAAA", (None, "AAAA")),
        ("data:png;base64,AAAA", (None, "AAAA")),
        ("data:image/png;base64,AA%2BA", ("image/png", "AA+A")),
        ("data:image/png;base64,", ("image/png", "")),
        ("data:text/plain,Hi%20there", ("text/plain", base64.b64encode(b"Hi there").decode())),
        ("data:,Hi", (None, base64.b64encode(b"Hi").decode())),
        ("data:text/csv;header=present,a,b", ("text/csv", base64.b64encode(b"a,b").decode())),
        ("data:image/png;base64", None),
        ("data:", None),
        ("https://a.example/data:image/png;base64,AAAA", None),
        ("", None),
    ],
)
def test_data_urls(url: str, expected: tuple[str | None, str] | None) -> None:
    assert split_data_url(url) == expected


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (base64.b64decode(PNG), "image/png"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "image/jpeg"),
        (b"GIF89a\1\0\1\0", "image/gif"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\x24\0\0\0AVI LIST", None),
        (b"%PDF-1.7\n", "application/pdf"),
        (b"", None),
        (b"plain", None),
    ],
)
def test_data_without_a_type_tells_it_by_its_first_bytes(start: bytes, expected: str | None) -> None:
    url = "data:;base64," + base64.b64encode(start).decode()
    found = part({"type": "image_url", "image_url": {"url": url}})
    assert isinstance(found, MediaPart)
    assert found.media_type == expected


def test_a_type_that_is_given_is_believed() -> None:
    assert part({"type": "image_url", "image_url": {"url": f"data:image/webp;base64,{PNG}"}}) == MediaPart(
        "image", "image/webp", data=PNG
    )


@pytest.mark.property
@given(st.binary())
def test_base64_is_read_with_and_without_line_ends(raw: bytes) -> None:
    assert decoded(base64.b64encode(raw).decode(), "x") == raw
    assert decoded(binascii.b2a_base64(raw).decode(), "x") == raw
    assert decoded(base64.encodebytes(raw).decode(), "x") == raw


@pytest.mark.parametrize("data", ["A", "AA", "AAA!", "AA==A", "Grüße", "A" * 5, "=", "AA-_"])
def test_what_is_no_base64(data: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        decoded(data, "messages[0].content[1].file.file_data")
    assert caught.value.param == "messages[0].content[1].file.file_data"


def test_a_long_wrong_file_is_judged_in_no_time() -> None:
    """Nothing here looks twice at a megabyte."""
    for data in (" " * 1_000_000 + "!", "A" * 1_000_000 + "!", "data:" + ";" * 1_000_000, "=" * 1_000_000):
        assert wrong({"role": "user", "content": [{"type": "file", "file": {"file_data": data}}]}).param is not None


# -- anything at all

values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(("", "x", "data:,", "https://a", "{}", "text", "call_1")),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(("id", "name", "type", "url", "function", "text")), inner, max_size=3)
    ),
    max_leaves=5,
)
fields = st.sampled_from(
    """content name tool_calls tool_call_id function_call refusal reasoning_details reasoning_content cache_control made_up""".split()
)
kinds = st.sampled_from("text refusal image_url video_url input_audio file thinking".split())
parts = st.builds(lambda kind, inner, mark: {"type": kind, kind: inner, "cache_control": mark}, kinds, values, values)


@pytest.mark.property
@given(
    st.lists(
        st.builds(
            lambda role, rest, content: {**rest, **({"content": content} if content else {}), "role": role},
            st.sampled_from(("system", "developer", "user", "assistant", "tool", "function", "other")),
            st.dictionaries(fields, values, max_size=4),
            st.lists(parts | values, max_size=2),
        ),
        max_size=4,
    )
)
def test_any_messages_are_read_or_refused_with_a_place(messages: list[dict[str, Any]]) -> None:
    before = orjson.dumps(messages)
    place: str | None = "messages["
    try:
        assert len(read(*messages)[0]) == len(messages)
    except (CallerError, CannotCarry) as error:
        place = error.param
    assert place is not None
    assert place.startswith("messages[")
    assert orjson.dumps(messages) == before
