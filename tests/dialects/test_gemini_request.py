"""What Gemini is asked: every field on the wire, dropped by name, or refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.errors import CallerError, CannotCarry, InvalidRequest, InvalidValue
from proxy.core.target import Provider, Quirks, Target
from proxy.dialects.base import OutboundRequest
from proxy.dialects.gemini.contents import SKIP_SIGNATURE
from proxy.dialects.gemini.dialect import Gemini
from tests.dialects.fields import (
    FIELDS,
    FOREIGN_FIELDS,
    GOLDENS,
    NESTED_FIELDS,
    PDF,
    PNG,
    SCHEMA,
    TOOL,
    WAV,
    Fate,
    chat_request,
    full_body,
    where_is,
)
from tests.dialects.gemini_judge import judge

pytestmark = pytest.mark.unit

DIALECT = Gemini()
PROVIDER = Provider("gemini", "gemini", "https://generativelanguage.googleapis.com", ())
HI = {"role": "user", "content": "Hi"}
SIGNATURE = "c2lnbmVk"


def target(model: str = "gemini-3-flash-preview", **fields: Any) -> Target:
    return Target(PROVIDER, model, "a-model", **fields)


def encode(on: str | Target = "gemini-3-flash-preview", **fields: Any) -> OutboundRequest:
    body = {"model": "smart", "messages": [HI], **fields}
    return DIALECT.encode_request(chat_request(body), target(on) if isinstance(on, str) else on)


def sent(on: str | Target = "gemini-3-flash-preview", **fields: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What is sent beyond the contents, and what was dropped."""
    found = encode(on, **fields)
    body = judge(found.body)
    return {name: value for name, value in body.items() if name != "contents"}, found.dropped


def config(on: str | Target = "gemini-3-flash-preview", **fields: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    body, dropped = sent(on, **fields)
    return body.get("generationConfig", {}), dropped


def contents(*messages: Mapping[str, Any], on: str = "gemini-3-flash-preview", **fields: Any) -> Any:
    """(systemInstruction or None, contents, dropped)."""
    found = encode(on, messages=list(messages), **fields)
    body = judge(found.body)
    return body.get("systemInstruction"), body["contents"], found.dropped


def user(*parts: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def calling(*calls: tuple[str, str], **fields: Any) -> dict[str, Any]:
    """An assistant's message with calls: (id, arguments)."""
    made = [{"id": id_, "type": "function", "function": {"name": "get_weather", "arguments": text}} for id_, text in calls]
    return {"role": "assistant", "content": None, "tool_calls": made, **fields}


def answer(id_: str, content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": content}


def link(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


# -- the whole of it


@pytest.mark.parametrize("name", ["full", "full_before_3"])
def test_the_conversation_that_uses_everything(name: str) -> None:
    if name == "full":
        body, to = full_body(), target("gemini-3.5-flash")
    else:  # no answer in JSON beside functions, no calls that must be signed, other thinking
        body, to = full_body(without=("response_format",)), target("gemini-2.5-pro")
    found = DIALECT.encode_request(chat_request(body), to)
    got = {"path": found.path, "dropped": list(found.dropped), "body": judge(found.body)}
    golden = GOLDENS / "gemini" / f"{name}.json"
    if os.environ.get("WRITE_GOLDENS"):
        golden.write_bytes(orjson.dumps(got, option=orjson.OPT_INDENT_2) + b"\n")
    assert got == orjson.loads(golden.read_bytes())
    assert got["body"] == orjson.loads(found.body)


IN_PART: dict[str, Fate] = {"web_search_options": "in part"}
CARRIED = frozenset(
    """frequency_penalty function_call functions logprobs max_completion_tokens max_tokens modalities n presence_penalty
    reasoning_effort response_format seed service_tier stop stream stream_options temperature tool_choice tools top_logprobs top_p
    top_k messages[].refusal tools[].function.strict response_format.json_schema.description""".split()
)
KEPT_ANYWAY = frozenset(("response_format.json_schema.strict",))  # answers always keep to their schema


@pytest.mark.property
@pytest.mark.parametrize("name", [name for name in (*FIELDS, *FOREIGN_FIELDS, *NESTED_FIELDS) if name not in KEPT_ANYWAY])
def test_every_field_is_on_the_wire_or_dropped_by_name(name: str) -> None:
    assert where_is(name, DIALECT, target()) == IN_PART.get(name, "carried" if name in CARRIED else "dropped")


MODELS = ["gemini-2.0-flash", "gemini-2.5-flash-lite", "gemini-2.5-pro", "gemini-flash-latest", "gemma-3-27b-it", "tunedModels/x"]


@pytest.mark.property
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", [*FIELDS, *FOREIGN_FIELDS])
def test_whatever_the_model_no_field_is_lost(name: str, model: str) -> None:
    where_is(name, DIALECT, target(model))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "name", "function", "mode"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.property
@settings(max_examples=120)
@given(fields=st.dictionaries(st.sampled_from([*FIELDS, *FOREIGN_FIELDS, "google", "safety_settings"]), JSON, max_size=4))
def test_nonsense_in_a_field_is_the_callers_mistake_or_the_upstreams_to_judge(fields: dict[str, Any]) -> None:
    try:
        encode(**fields)
    except (CallerError, CannotCarry):
        pass


# -- path


@pytest.mark.parametrize(
    ("model", "stream", "path"),
    [
        ("gemini-2.5-pro", False, "/v1beta/models/gemini-2.5-pro:generateContent"),
        ("gemini-2.5-pro", True, "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse"),
        ("models/gemini-2.5-pro", False, "/v1beta/models/gemini-2.5-pro:generateContent"),
        ("tunedModels/my-own", False, "/v1beta/tunedModels/my-own:generateContent"),
        ("../secret?x#y z", False, "/v1beta/models/..%2Fsecret%3Fx%23y%20z:generateContent"),
        ("models/a/b", False, "/v1beta/models/a%2Fb:generateContent"),
    ],
)
def test_the_path_names_the_model_and_the_method(model: str, stream: bool, path: str) -> None:
    found = encode(model, stream=stream)
    assert found.path == path
    assert "stream" not in orjson.loads(found.body)
    assert "model" not in orjson.loads(found.body)


# -- messages


def test_system_and_developer_messages_are_the_instruction_wherever_they_stand() -> None:
    system, found, _ = contents(
        {"role": "system", "content": "One."}, HI, {"role": "developer", "content": [{"type": "text", "text": "Two."}]}
    )
    assert system == {"parts": [{"text": "One."}, {"text": "Two."}]}
    assert found == [{"role": "user", "parts": [{"text": "Hi"}]}]


def test_an_instruction_alone_is_what_the_user_says() -> None:
    """`contents is not specified` otherwise."""
    assert contents({"role": "system", "content": "Say hello."})[:2] == (
        None,
        [{"role": "user", "parts": [{"text": "Say hello."}]}],
    )


def test_a_model_that_takes_no_instruction_is_told_by_the_user() -> None:
    told = [{"role": "user", "parts": [{"text": "Be brief."}, {"text": "Hi"}]}]
    system = {"role": "system", "content": "Be brief."}
    assert contents(system, HI, on="gemma-3-27b-it")[:2] == (None, told)
    spoken = {"role": "assistant", "content": "Hello"}
    assert contents(system, spoken, HI, on="models/gemma-3-4b-it")[1] == [
        {"role": "user", "parts": [{"text": "Be brief."}]},
        {"role": "model", "parts": [{"text": "Hello"}]},
        {"role": "user", "parts": [{"text": "Hi"}]},
    ]
    assert contents(system, HI, on="gemma-4-31b-it")[0] == {"parts": [{"text": "Be brief."}]}


def test_a_picture_in_the_instruction_is_refused() -> None:
    with pytest.raises(CannotCarry, match="anything but text in a system message") as error:
        contents({"role": "system", "content": [link(f"data:image/png;base64,{PNG}")]}, HI)
    assert error.value.param == "messages[0].content[0]"


def test_neighbours_of_one_role_are_one_content() -> None:
    _, found, _ = contents(
        HI,
        {"role": "user", "content": "Again"},
        {"role": "assistant", "content": "Yes"},
        {"role": "assistant", "content": "?"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "Third"},
    )
    assert [(content["role"], [part["text"] for part in content["parts"]]) for content in found] == [
        ("user", ["Hi", "Again"]),
        ("model", ["Yes", "?"]),
        ("user", ["Third"]),
    ]


def test_nothing_said_is_an_empty_text_of_the_users_and_nothing_of_the_models() -> None:
    assert contents({"role": "user", "content": ""}, {"role": "assistant", "content": None})[1] == [
        {"role": "user", "parts": [{"text": ""}]}
    ]


def test_calls_and_their_results_keep_ids_names_and_order() -> None:
    _, found, _ = contents(
        HI,
        calling(("call_1", '{"city": "Lisboa"}'), ("call_2", "")),
        answer("call_1", '{"celsius": 21}'),
        answer("call_2", "21 degrees"),
        {"role": "user", "content": "Thanks"},
        on="gemini-2.5-flash",
    )
    assert found[1:] == [
        {
            "role": "model",
            "parts": [
                {"functionCall": {"id": "call_1", "name": "get_weather", "args": {"city": "Lisboa"}}},
                {"functionCall": {"id": "call_2", "name": "get_weather", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "call_1", "name": "get_weather", "response": {"celsius": 21}}},
                {"functionResponse": {"id": "call_2", "name": "get_weather", "response": {"result": "21 degrees"}}},
                {"text": "Thanks"},
            ],
        },
    ]


@pytest.mark.parametrize(
    ("text", "response"),
    [
        ('{"a": 1}', {"a": 1}),
        ('  {"a": 1}\n', {"a": 1}),
        ("{}", {}),
        ("[1, 2]", {"result": "[1, 2]"}),
        ("null", {"result": "null"}),
        ("", {"result": ""}),
        ("{not json", {"result": "{not json"}),
        ('{"id": 12345678901234567890123}', {"result": '{"id": 12345678901234567890123}'}),  # no reader keeps all digits
        ('{"a":' * 70 + "1" + "}" * 70, {"result": '{"a":' * 70 + "1" + "}" * 70}),
    ],
)
def test_a_result_is_the_object_that_it_spells_or_text(text: str, response: dict[str, Any]) -> None:
    _, found, _ = contents(HI, calling(("call_1", "{}")), answer("call_1", text))
    assert found[-1]["parts"][0]["functionResponse"]["response"] == response


def test_a_result_of_no_call_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidRequest) as error:
        contents(HI, calling(("call_1", "{}")), answer("call_2", "?"))
    assert error.value.param == "messages[2].tool_call_id"


def test_the_retired_function_role_is_a_result_too() -> None:
    legacy = {"role": "assistant", "content": None, "function_call": {"name": "get_weather", "arguments": "{}"}}
    _, found, _ = contents(HI, legacy, {"role": "function", "name": "get_weather", "content": "21"}, on="gemini-2.5-flash")
    (call,), (result,) = found[1]["parts"], found[2]["parts"]
    assert call["functionCall"]["id"] == result["functionResponse"]["id"]
    assert result["functionResponse"]["name"] == "get_weather"


def test_arguments_too_deep_to_write_are_the_callers_mistake() -> None:
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        contents(HI, calling(("call_1", '{"a":' * 400 + "1" + "}" * 400)))


# -- media


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        (link(f"data:image/png;base64,{PNG}"), {"inlineData": {"mimeType": "image/png", "data": PNG}}),
        (
            link("https://a.example/b.JPG?w=2#x"),
            {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://a.example/b.JPG?w=2#x"}},
        ),
        (link("https://a.example/b"), {"fileData": {"fileUri": "https://a.example/b"}}),
        (
            {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}},
            {"inlineData": {"mimeType": "application/pdf", "data": PDF}},
        ),
        (
            {"type": "file", "file": {"filename": "a.csv", "file_data": "YSxi"}},
            {"inlineData": {"mimeType": "text/csv", "data": "YSxi"}},
        ),
        (
            {"type": "file", "file": {"file_data": "https://a.example/b.pdf"}},
            {"fileData": {"mimeType": "application/pdf", "fileUri": "https://a.example/b.pdf"}},
        ),
        (
            {"type": "file", "file": {"file_id": "https://generativelanguage.googleapis.com/v1beta/files/x"}},
            {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/x"}},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}},
            {"inlineData": {"mimeType": "audio/wav", "data": WAV}},
        ),
        (
            {"type": "video_url", "video_url": {"url": "https://www.youtube.com/watch?v=1"}},
            {"fileData": {"mimeType": "video/mp4", "fileUri": "https://www.youtube.com/watch?v=1"}},
        ),
    ],
)
def test_media_go_inline_or_as_links(part: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert contents(user(part))[1] == [{"role": "user", "parts": [wanted]}]


@pytest.mark.parametrize(
    ("part", "on", "feature"),
    [
        (link("http://a.example/b.png"), "gemini-3-flash-preview", "http:// links"),
        (link("gs://bucket/b.png"), "gemini-3-flash-preview", "gs:// links"),
        (link("s3://bucket/b.png"), "gemini-3-flash-preview", "s3:// links"),
        (link("https://a.example/b.png"), "gemini-2.0-flash", "remote images before Gemini 2.5"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "gemini-3-flash-preview", "ids of uploaded files"),
        ({"type": "tool_reference", "name": "x"}, "gemini-3-flash-preview", "content parts of type tool_reference"),
    ],
)
def test_what_it_does_not_fetch_is_refused(part: dict[str, Any], on: str, feature: str) -> None:
    with pytest.raises(CannotCarry, match=f"^{feature}$") as error:
        contents(user({"type": "text", "text": "?"}, part), on=on)
    assert error.value.param == "messages[0].content[1]"


def test_older_models_fetch_what_is_googles() -> None:
    contents(user(link("https://youtu.be/1")), on="gemini-2.0-flash")


def test_data_without_a_type_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidValue):
        contents(user({"type": "file", "file": {"file_data": "AAAA"}}))


PICTURE = {"inlineData": {"mimeType": "image/png", "data": PNG}}


@pytest.mark.parametrize("on", ["gemini-3-flash-preview", "gemini-2.5-flash"])
def test_pictures_in_results_stand_within_since_gemini_3_and_before_that_behind_all_results(on: str) -> None:
    shown = [{"type": "text", "text": "Look"}, link(f"data:image/png;base64,{PNG}")]
    _, found, _ = contents(HI, calling(("a", "{}"), ("b", "{}")), answer("a", shown), answer("b", "done"), on=on)
    first, second, *beside = found[-1]["parts"]
    assert first["functionResponse"].get("parts") == ([PICTURE] if on == "gemini-3-flash-preview" else None)
    assert second["functionResponse"]["response"] == {"result": "done"}
    assert beside == ([] if on == "gemini-3-flash-preview" else [PICTURE])


# -- signatures


def sealed(**detail: Any) -> dict[str, Any]:
    return {"type": "reasoning.encrypted", "data": SIGNATURE, "format": "gemini", "provider": "gemini", **detail}


def test_a_signature_goes_back_to_its_call() -> None:
    _, found, dropped = contents(HI, calling(("a", "{}"), ("b", "{}"), reasoning_details=[sealed(id="b")]), on="gemini-2.5-pro")
    assert [part.get("thoughtSignature") for part in found[1]["parts"]] == [None, SIGNATURE]
    assert dropped == ()


@pytest.mark.parametrize(("on", "first"), [("gemini-3-pro-preview", SKIP_SIGNATURE), ("gemini-flash-latest", SKIP_SIGNATURE)])
def test_since_gemini_3_the_first_call_of_a_step_is_never_without_one(on: str, first: str) -> None:
    _, found, _ = contents(HI, calling(("a", "{}"), ("b", "{}")), answer("a", "1"), answer("b", "2"), on=on)
    assert [part.get("thoughtSignature") for part in found[1]["parts"]] == [first, None]


@pytest.mark.parametrize("on", ["gemini-2.5-pro", "gemini-2.0-flash", "gemma-3-27b-it"])
def test_before_that_nothing_is_made_up(on: str) -> None:
    assert "thoughtSignature" not in contents(HI, calling(("a", "{}")), on=on)[1][1]["parts"][0]


@pytest.mark.parametrize(
    "detail",
    [
        sealed(id="a", provider="vertex"),
        sealed(id="a", format="anthropic"),
        sealed(id="unknown-place", data=None),
        sealed(),
        {"type": "reasoning.text", "text": "Hm.", "signature": "c2ln", "format": "anthropic", "provider": "anthropic"},
    ],
)
def test_what_another_sealed_is_dropped_by_name(detail: dict[str, Any]) -> None:
    _, found, dropped = contents(HI, calling(("a", "{}"), reasoning_details=[detail]), on="gemini-2.5-pro")
    assert "thoughtSignature" not in found[1]["parts"][0]
    assert dropped == ("messages[].reasoning_details",)


SEARCH = {"toolCall": {"toolType": "GOOGLE_SEARCH_WEB", "id": "s1", "args": {"queries": ["x"]}}}


@pytest.mark.parametrize(
    ("details", "parts"),
    [
        ([sealed(text_end=10)], [{"text": "Ten chars.", "thoughtSignature": SIGNATURE}, {"text": " More."}]),
        ([sealed(text_end=16)], [{"text": "Ten chars. More.", "thoughtSignature": SIGNATURE}]),
        ([sealed(text_end=99)], [{"text": "Ten chars. More.", "thoughtSignature": SIGNATURE}]),
        (
            [sealed(text_end=10), sealed(text_end=16, data="c2Vjb25k")],
            [{"text": "Ten chars.", "thoughtSignature": SIGNATURE}, {"text": " More.", "thoughtSignature": "c2Vjb25k"}],
        ),
        ([sealed(text_end=0, part=SEARCH)], [{**SEARCH, "thoughtSignature": SIGNATURE}, {"text": "Ten chars. More."}]),
        ([sealed(text_end=10, part=SEARCH, data="")], [{"text": "Ten chars."}, SEARCH, {"text": " More."}]),
        (
            [{**sealed(text_end=0, text="Hm.", signature=SIGNATURE), "type": "reasoning.text", "data": None}],
            [{"text": "Hm.", "thought": True, "thoughtSignature": SIGNATURE}, {"text": "Ten chars. More."}],
        ),
    ],
)
def test_signed_text_and_parts_go_back_to_where_they_stood(details: list[dict[str, Any]], parts: list[dict[str, Any]]) -> None:
    _, found, dropped = contents(HI, {"role": "assistant", "content": "Ten chars. More.", "reasoning_details": details})
    assert found[1]["parts"] == parts
    assert dropped == ()


def test_a_signature_on_no_text_is_a_part_without_text() -> None:
    made = calling(("a", "{}"), reasoning_details=[sealed(text_end=0), sealed(id="a", data="Y2FsbA==")])
    _, found, _ = contents(HI, made)
    assert [(part.get("text"), part["thoughtSignature"]) for part in found[1]["parts"]] == [("", SIGNATURE), (None, "Y2FsbA==")]


# -- tools


def test_functions_are_declared_with_their_json_schema() -> None:
    body, dropped = sent(tools=[TOOL, {"type": "function", "function": {"name": "now", "parameters": {}}}])
    function = TOOL["function"]
    assert body["tools"] == [
        {
            "functionDeclarations": [
                {"name": "get_weather", "description": function["description"], "parametersJsonSchema": function["parameters"]},
                {"name": "now"},
            ]
        }
    ]
    assert dropped == ()


def schema_sent(schema: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    body, dropped = sent(tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}])
    return body["tools"][0]["functionDeclarations"][0]["parametersJsonSchema"], dropped


def test_schemas_are_put_into_words_that_google_knows() -> None:
    found, dropped = schema_sent(
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "OBJECT",
            "properties": {
                "kind": {"const": "dog"},
                "owner": {"allOf": [{"$ref": "#/definitions/Owner"}], "description": "Whose."},
                "size": {"type": "string", "nullable": True},
                "age": {"type": "integer", "exclusiveMinimum": 0},
                "fur": {"enum": ["long", None]},
            },
            "additionalProperties": False,
            "definitions": {"Owner": {"type": "object", "properties": {"dog": {"$ref": "#"}}}},
        }
    )
    assert found == {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": ["dog"]},
            "owner": {"description": "Whose.", "anyOf": [{"$ref": "#/$defs/Owner"}]},
            "size": {"type": ["string", "null"]},
            "age": {"type": "integer", "minimum": 1},
            "fur": {"anyOf": [{"enum": ["long"]}, {"type": "null"}]},
        },
        "additionalProperties": False,
        "$defs": {"Owner": {"type": "object", "properties": {"dog": {"$ref": "#"}}}},
    }
    assert dropped == ()


def test_an_enum_of_what_is_neither_text_nor_number_is_dropped_by_name() -> None:
    found, dropped = schema_sent({"type": "object", "properties": {"yes": {"const": True}}})
    assert found == {"type": "object", "properties": {"yes": {"type": "boolean"}}}
    assert dropped == ("tools[].function.parameters.enum",)


AUTO_OTHERS = [TOOL, {"type": "function", "function": {"name": "now"}}]


@pytest.mark.parametrize(
    ("choice", "calling_config", "declared"),
    [
        (None, None, 2),
        ("auto", None, 2),
        ("none", {"mode": "NONE"}, 2),
        ("required", {"mode": "ANY"}, 2),
        ({"type": "function", "function": {"name": "now"}}, {"mode": "ANY", "allowedFunctionNames": ["now"]}, 2),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]},
            },
            {"mode": "ANY", "allowedFunctionNames": ["now"]},
            2,
        ),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "now"}}]},
            },
            None,
            1,
        ),
    ],
)
def test_tool_choice_in_all_its_forms(choice: Any, calling_config: dict[str, Any] | None, declared: int) -> None:
    body, dropped = sent(tools=AUTO_OTHERS, tool_choice=choice)
    assert body.get("toolConfig", {}).get("functionCallingConfig") == calling_config
    assert len(body["tools"][0]["functionDeclarations"]) == declared
    assert dropped == ()


def test_a_choice_among_no_tools_is_dropped() -> None:
    assert sent(tool_choice="required") == ({}, ("tool_choice",))
    assert sent(tool_choice="none") == ({}, ())


@pytest.mark.parametrize("choice", ["any", 7, ["auto"], {}])
def test_a_choice_that_is_none_is_the_callers_mistake(choice: Any) -> None:
    with pytest.raises(InvalidValue):
        sent(tools=[TOOL], tool_choice=choice)


@pytest.mark.parametrize("choice", [{"type": "custom", "custom": {"name": "x"}}, {"type": "mcp"}])
def test_a_choice_of_another_kind_is_refused(choice: Any) -> None:
    with pytest.raises(CannotCarry):
        sent(tools=[TOOL], tool_choice=choice)


STRICT = {"type": "function", "function": {**TOOL["function"], "strict": True}}


@pytest.mark.parametrize(
    ("on", "choice", "mode", "dropped"),
    [
        ("gemini-3-flash-preview", None, "VALIDATED", ()),
        ("gemini-2.5-flash", "auto", "VALIDATED", ()),
        ("gemini-2.5-flash", "required", "ANY", ()),  # which keeps to the schema in any case
        ("gemini-2.5-flash", "none", "NONE", ("tools[].function.strict",)),
        ("gemini-2.0-flash", None, None, ("tools[].function.strict",)),
        ("gemma-3-27b-it", None, None, ("tools[].function.strict",)),
    ],
)
def test_strict_functions_are_validated_where_that_is_known(
    on: str, choice: str | None, mode: str | None, dropped: tuple[str, ...]
) -> None:
    body, found = sent(on, tools=[STRICT], tool_choice=choice)
    assert body.get("toolConfig", {}).get("functionCallingConfig", {}).get("mode") == mode
    assert found == dropped


def test_the_retired_functions_are_tools() -> None:
    body, dropped = sent(functions=[{**TOOL["function"], "more": 1}], function_call={"name": "get_weather"})
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["get_weather"]}}
    assert body["tools"][0]["functionDeclarations"][0]["name"] == "get_weather"
    assert dropped == ("functions[].more",)
    assert "functions" in sent(tools=[TOOL], functions=[TOOL["function"]])[1]


@pytest.mark.parametrize(
    ("tool", "wanted"),
    [
        ({"google_search": {}}, {"googleSearch": {}}),
        ({"googleSearch": {"timeRangeFilter": {}}}, {"googleSearch": {"timeRangeFilter": {}}}),
        ({"code_execution": {}}, {"codeExecution": {}}),
        ({"urlContext": {}}, {"urlContext": {}}),
    ],
)
def test_googles_own_tools_go_as_they_are(tool: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert sent("gemini-2.5-flash", tools=[tool])[0]["tools"] == [wanted]


def test_googles_own_tools_beside_functions_are_shown_since_gemini_3_and_refused_before() -> None:
    body, _ = sent(tools=[TOOL, {"google_search": {}}])
    assert [list(tool) for tool in body["tools"]] == [["functionDeclarations"], ["googleSearch"]]
    assert body["toolConfig"] == {"includeServerSideToolInvocations": True}
    with pytest.raises(CannotCarry, match="before Gemini 3"):
        sent("gemini-2.5-flash", tools=[TOOL, {"google_search": {}}])


@pytest.mark.parametrize("tool", [{"type": "custom", "custom": {"name": "x"}}, {"type": "web_search"}, {"unknown": {}}, {}])
def test_tools_of_other_kinds_are_refused(tool: dict[str, Any]) -> None:
    with pytest.raises(CannotCarry) as error:
        sent(tools=[TOOL, tool])
    assert error.value.param == "tools[1]"


@pytest.mark.parametrize("tool", [7, {"type": "function"}, {"type": "function", "function": {"name": "x", "parameters": "?"}}])
def test_tools_that_are_none_are_the_callers_mistake(tool: Any) -> None:
    with pytest.raises(InvalidRequest):
        sent(tools=[tool])


@pytest.mark.parametrize(
    ("fields", "on", "searches", "dropped"),
    [
        ({}, "gemini-2.5-flash", True, ()),
        ({"tools": [TOOL]}, "gemini-3-flash-preview", False, ("web_search_options",)),
        ({"response_format": {"type": "json_object"}}, "gemini-2.5-flash", False, ("web_search_options",)),
        ({"response_format": {"type": "json_object"}}, "gemini-3-flash-preview", True, ()),
    ],
)
def test_a_web_search_is_googles_where_it_can_be(
    fields: dict[str, Any], on: str, searches: bool, dropped: tuple[str, ...]
) -> None:
    body, found = sent(on, web_search_options={}, **fields)
    assert ({"googleSearch": {}} in body.get("tools", [])) is searches
    assert found == dropped


# -- the format of the answer


def test_a_schema_for_the_answer_takes_along_its_name() -> None:
    named = {"name": "hats", "description": "All of them.", "strict": True, "schema": SCHEMA}
    assert config(response_format={"type": "json_schema", "json_schema": named}) == (
        {
            "responseMimeType": "application/json",
            "responseJsonSchema": {"title": "hats", "description": "All of them.", **SCHEMA},
        },
        (),
    )


def test_what_the_schema_says_of_itself_goes_before_and_the_rest_is_dropped_by_name() -> None:
    named = {"name": "hats", "description": "All.", "schema": {**SCHEMA, "title": "Hats", "description": "Some."}, "more": 1}
    found, dropped = config(response_format={"type": "json_schema", "json_schema": named})
    assert found["responseJsonSchema"]["title"] == "Hats"
    assert dropped == tuple(f"response_format.json_schema.{name}" for name in ("description", "more", "name"))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"type": "text"}, {}),
        ({"type": "json_object"}, {"responseMimeType": "application/json"}),
        ({"type": "json_schema"}, {"responseMimeType": "application/json"}),
    ],
)
def test_other_formats_of_the_answer(wanted: dict[str, Any], found: dict[str, Any]) -> None:
    assert config(response_format=wanted) == (found, ())


def test_a_format_that_is_not_known_is_refused() -> None:
    with pytest.raises(CannotCarry, match="a response format of type grammar"):
        config(response_format={"type": "grammar", "grammar": "x"})


def test_json_beside_functions_is_refused_before_gemini_3() -> None:
    wanted = {"type": "json_object"}
    with pytest.raises(CannotCarry, match="before Gemini 3"):
        sent("gemini-2.5-pro", tools=[TOOL], response_format=wanted)
    sent("gemini-3-flash-preview", tools=[TOOL], response_format=wanted)


# -- the knobs


@pytest.mark.parametrize(
    ("fields", "wanted", "dropped"),
    [
        ({"temperature": 0}, {"temperature": 0}, ()),
        ({"temperature": 3}, {"temperature": 2.0}, ("temperature",)),
        ({"presence_penalty": 2}, {"presencePenalty": 1.99}, ("presence_penalty",)),
        ({"frequency_penalty": -3}, {"frequencyPenalty": -2.0}, ("frequency_penalty",)),
        ({"top_p": 0.5, "top_k": 7}, {"topP": 0.5, "topK": 7}, ()),
        ({"stop": "END"}, {"stopSequences": ["END"]}, ()),
        ({"stop": []}, {}, ()),
        ({"stop": list("abcdefg")}, {"stopSequences": list("abcde")}, ("stop",)),
        ({"seed": -1}, {"seed": -1}, ()),
        ({"seed": 2**31}, {"seed": 0}, ("seed",)),
        ({"n": 1}, {}, ()),
        ({"n": 3}, {"candidateCount": 3}, ()),
        ({"max_tokens": 5}, {"maxOutputTokens": 5}, ()),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"maxOutputTokens": 6}, ("max_tokens",)),
        ({"logprobs": True}, {"responseLogprobs": True}, ()),
        ({"logprobs": True, "top_logprobs": 0}, {"responseLogprobs": True}, ()),
        ({"logprobs": False, "top_logprobs": 3}, {}, ("top_logprobs",)),
        ({"modalities": ["text", "image"]}, {"responseModalities": ["TEXT", "IMAGE"]}, ()),
        (
            {"audio": {"voice": "Kore", "format": "wav"}},
            {"speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}}},
            ("audio.format",),
        ),
        ({"audio": {"voice": "alloy"}}, {}, ("audio.voice",)),
        ({"parallel_tool_calls": True}, {}, ()),
    ],
)
def test_the_knobs(fields: dict[str, Any], wanted: dict[str, Any], dropped: tuple[str, ...]) -> None:
    assert config(**fields) == (wanted, dropped)


def test_no_more_is_asked_for_than_the_model_can() -> None:
    assert config(target(max_output=100), max_tokens=101) == ({"maxOutputTokens": 100}, ("max_tokens",))


THINKING = [
    # model, effort, level or budget, whether thoughts are shown, whether it is named as not quite what was asked
    ("gemini-3-flash-preview", "minimal", "MINIMAL", True, False),
    ("gemini-3-flash-preview", "medium", "MEDIUM", True, False),
    ("gemini-3-flash-preview", "none", "MINIMAL", False, True),
    ("gemini-3-flash-preview", "xhigh", "HIGH", True, True),
    ("gemini-3-pro-preview", "minimal", "LOW", True, False),
    ("gemini-3-pro-preview", "medium", "HIGH", True, False),
    ("gemini-3.1-pro-preview", "medium", "MEDIUM", True, False),
    ("gemini-3.1-pro-preview", "none", "LOW", False, True),
    ("gemini-3.1-flash-lite", "minimal", "MINIMAL", True, False),
    ("gemini-3.8-flash", "minimal", "LOW", True, False),
    ("gemini-flash-latest", "high", "HIGH", True, False),
    ("gemini-flash-lite-latest", "minimal", "MINIMAL", True, False),
    ("models/gemini-3-flash-preview", "low", "LOW", True, False),
    ("gemini-2.5-flash", "minimal", 1024, True, False),
    ("gemini-2.5-flash", "medium", 8192, True, False),
    ("gemini-2.5-flash", "high", 24576, True, False),
    ("gemini-2.5-flash", "none", 0, False, False),
    ("gemini-2.5-pro", "none", 128, False, True),
    ("gemini-2.5-pro", "xhigh", 32768, True, True),
    ("gemini-2.5-flash-lite-preview-09-2025", "low", 1024, True, False),
]


@pytest.mark.parametrize(("on", "effort", "amount", "shown", "named"), THINKING)
def test_effort_is_a_level_since_gemini_3_and_a_budget_before(
    on: str, effort: str, amount: Any, shown: bool, named: bool
) -> None:
    found, dropped = config(on, reasoning_effort=effort)
    wanted = {"thinkingBudget" if isinstance(amount, int) else "thinkingLevel": amount}
    assert found["thinkingConfig"] == (wanted | {"includeThoughts": True} if shown else wanted)
    assert dropped == (("reasoning_effort",) if named else ())


@pytest.mark.parametrize(
    "on",
    [
        "gemini-2.0-flash",
        "gemini-1.5-pro",
        "gemma-3-27b-it",
        "gemini-3-pro-image-preview",
        "gemini-2.5-pro-preview-tts",
        "tunedModels/x",
    ],
)
def test_models_that_do_not_think_are_not_told_to(on: str) -> None:
    assert config(on, reasoning_effort="low") == ({}, ("reasoning_effort",))


def test_an_effort_that_nobody_knows_is_dropped() -> None:
    assert config(reasoning_effort="heroic") == ({}, ("reasoning_effort",))


@pytest.mark.parametrize(
    ("tier", "wanted", "dropped"),
    [
        ("auto", {}, ()),
        ("default", {"serviceTier": "standard"}, ()),
        ("priority", {"serviceTier": "priority"}, ()),
        ("scale", {}, ("service_tier",)),
    ],
)
def test_service_tiers(tier: str, wanted: dict[str, Any], dropped: tuple[str, ...]) -> None:
    assert sent(service_tier=tier) == (wanted, dropped)


SAFETY = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]


@pytest.mark.parametrize(
    "fields",
    [{"safety_settings": SAFETY}, {"safetySettings": SAFETY}, {"google": {"safety_settings": SAFETY}}],
)
def test_safety_settings_go_as_they_are(fields: dict[str, Any]) -> None:
    assert sent(**fields) == ({"safetySettings": SAFETY}, ())


def test_googles_own_fields_go_before_what_was_made_of_openais() -> None:
    own = {
        "thinking_config": {"thinkingBudget": 77},
        "cached_content": "cachedContents/1",
        "imageConfig": {"aspectRatio": "1:1"},
        "contents": "no",
    }
    body, dropped = sent("gemini-2.5-flash", google=own, reasoning_effort="low")
    assert body == {
        "cachedContent": "cachedContents/1",
        "generationConfig": {"thinkingConfig": {"thinkingBudget": 77}, "imageConfig": {"aspectRatio": "1:1"}},
    }
    assert dropped == ("google.contents", "reasoning_effort")
    assert sent(google="?")[1] == ("google",)


# -- the provider's data, the caller's object


def test_quirks_drop_and_rename_the_callers_fields() -> None:
    quirks = Quirks(drop=frozenset(("seed", "tools")), rename={"max_tokens": "max_completion_tokens"})
    body, dropped = sent(replace(target(), quirks=quirks), seed=7, tools=[TOOL], max_tokens=9)
    assert body == {"generationConfig": {"maxOutputTokens": 9}}
    assert dropped == ("seed", "tools")


def test_the_callers_object_is_not_changed() -> None:
    request = chat_request(full_body())
    before = orjson.dumps(request.body)
    DIALECT.encode_request(request, target())
    assert orjson.dumps(request.body) == before
