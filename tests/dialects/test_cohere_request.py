"""What Cohere is asked: every field on the wire, dropped by name, or refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from proxy.core.errors import CallerError, CannotCarry, InvalidRequest, InvalidValue
from proxy.core.target import Provider, Quirks, Target
from proxy.dialects.base import OutboundRequest
from proxy.dialects.cohere.dialect import CohereChat
from tests.corpus.recordings import needs_corpus
from tests.dialects.cohere_judge import judge
from tests.dialects.fields import (
    BESIDE,
    CONVERSATION,
    FIELDS,
    FOREIGN_FIELDS,
    GOLDENS,
    NESTED_FIELDS,
    PNG,
    SCHEMA,
    TOOL,
    Fate,
    chat_request,
    full_body,
    where_is,
    with_field,
)
from tests.dialects.native_recordings import Recorded, recordings

pytestmark = pytest.mark.unit

DIALECT = CohereChat()
PROVIDER = Provider("cohere", "cohere", "https://api.cohere.com", ())
TARGET = Target(PROVIDER, "command-a-03-2025", "command-a", reasoning=True)
HI = {"role": "user", "content": "Hi"}


def encode(target: Target = TARGET, **fields: Any) -> OutboundRequest:
    return DIALECT.encode_request(chat_request({"model": "smart", "messages": [HI], **fields}), target)


def sent(target: Target = TARGET, **fields: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What is sent beyond model, messages and stream, and what was dropped."""
    found = encode(target, **fields)
    body = judge(found.body)
    return {name: value for name, value in body.items() if name not in ("model", "messages", "stream")}, found.dropped


def messages(*given: Mapping[str, Any], **fields: Any) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    found = encode(messages=list(given), **fields)
    return judge(found.body)["messages"], found.dropped


# -- the whole of it


FULL = {
    # Cohere has no words for files and sound, nor for a format of the answer beside tools
    "full": ("file", "input_audio", "response_format"),
    "full_structured": ("file", "input_audio", "tools", "tool_choice", "parallel_tool_calls"),
}


@pytest.mark.parametrize("name", FULL)
def test_the_conversation_that_uses_everything(name: str) -> None:
    found = DIALECT.encode_request(chat_request(full_body(without=FULL[name])), TARGET)
    got = {"path": found.path, "dropped": list(found.dropped), "body": judge(found.body)}
    golden = GOLDENS / "cohere" / f"{name}.json"
    if os.environ.get("WRITE_GOLDENS"):
        golden.write_bytes(orjson.dumps(got, option=orjson.OPT_INDENT_2) + b"\n")
    assert got == orjson.loads(golden.read_bytes())


@pytest.mark.parametrize(
    ("without", "feature", "param"),
    [
        (("input_audio", "response_format"), "files", "messages[2].content[3]"),
        (("file", "response_format"), "audio input", "messages[2].content[3]"),
        (("file", "input_audio"), "response_format beside tools", "response_format"),
    ],
)
def test_what_of_it_cannot_be_carried(without: tuple[str, ...], feature: str, param: str) -> None:
    with pytest.raises(CannotCarry) as caught:
        DIALECT.encode_request(chat_request(full_body(without=without)), TARGET)
    assert (caught.value.feature, caught.value.param) == (feature, param)


def test_the_callers_body_is_left_alone() -> None:
    request = chat_request(full_body(without=FULL["full"]))
    before = orjson.dumps(request.body)
    DIALECT.encode_request(request, TARGET)
    assert orjson.dumps(request.body) == before


# -- no third place


FATES: dict[str, Fate] = {
    "audio": "refused",
    "frequency_penalty": "in part",  # below 0 is not known
    "functions": "carried",
    "function_call": "carried",
    "logprobs": "carried",
    "max_completion_tokens": "carried",
    "max_tokens": "carried",
    "modalities": "refused",
    "n": "refused",
    "presence_penalty": "carried",
    "reasoning_effort": "carried",
    "response_format": "carried",
    "seed": "carried",
    "stop": "carried",
    "stream": "carried",
    "stream_options": "carried",
    "temperature": "carried",
    "thinking": "carried",
    "tool_choice": "carried",
    "tools": "carried",
    "top_k": "carried",
    "top_p": "carried",
}


@pytest.mark.parametrize("name", [*FIELDS, *FOREIGN_FIELDS])
def test_every_field_is_carried_dropped_or_refused(name: str) -> None:
    body, without = with_field(name)
    if name == "audio":
        without = {key: value for key, value in without.items() if key != "modalities"}  # refused by itself
    assert where_is(name, DIALECT, TARGET, body=body, without=without) == FATES.get(name, "dropped")


NESTED_FATES: dict[str, Fate] = {
    "messages[].content[].image_url.detail": "carried",
    "messages[].reasoning": "carried",
    "messages[].reasoning_content": "carried",
    "messages[].refusal": "carried",
    "tools[].function.strict": "carried",
}
# an answer is held to its schema without being asked to
ALWAYS_SO = frozenset(("response_format.json_schema.strict",))


@pytest.mark.parametrize("name", sorted(NESTED_FIELDS.keys() - ALWAYS_SO))
def test_every_nested_field_is_carried_or_dropped(name: str) -> None:
    body, without = with_field(name)
    other = "tools" if name.startswith("response_format") else "response_format"  # one is not taken beside the other
    bodies = [{key: value for key, value in each.items() if key != other} for each in (body, without)]
    assert where_is(name, DIALECT, TARGET, body=bodies[0], without=bodies[1]) == NESTED_FATES.get(name, "dropped")


@pytest.mark.property
@given(st.sets(st.sampled_from(sorted(FIELDS.keys() | FOREIGN_FIELDS.keys()))), st.booleans())
@settings(max_examples=120, deadline=None)
def test_any_fields_together_make_a_request_that_is_taken(names: set[str], reasoning: bool) -> None:
    body: dict[str, Any] = {"model": "smart", "messages": CONVERSATION["messages"]}
    for name in sorted(names):
        body |= {**BESIDE.get(name, {}), name: {**FIELDS, **FOREIGN_FIELDS}[name]}
    try:
        found = DIALECT.encode_request(chat_request(body), Target(PROVIDER, "command-a", "command-a", reasoning=reasoning))
    except (CannotCarry, CallerError):
        return
    wire = judge(found.body)
    known = {"max_completion_tokens": "max_tokens", "stop": "stop_sequences", "top_p": "p", "top_k": "k", "functions": "tools"}
    for name in names - {"stream_options", "stream", "modalities", "function_call", "reasoning_effort"}:
        assert known.get(name, name) in wire or any(dropped.startswith(name) for dropped in found.dropped), name


# -- messages


def test_all_system_messages_are_one_in_front() -> None:
    found, _ = messages(
        {"role": "system", "content": "A."}, HI, {"role": "developer", "content": [{"type": "text", "text": "B."}]}, HI
    )
    parts = [{"type": "text", "text": "A."}, {"type": "text", "text": "B."}]
    assert found == [{"role": "system", "content": parts}, HI, HI]


def test_one_system_message_is_plain_text() -> None:
    assert messages({"role": "system", "content": [{"type": "text", "text": "A."}]}, HI)[0][0] == {
        "role": "system",
        "content": "A.",
    }


def test_text_beside_calls_is_the_plan_and_comes_back_as_it_was_told() -> None:
    call = {"id": "get_weather_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Lisboa"}'}}
    found, dropped = messages(
        HI,
        {"role": "assistant", "content": "I look that up.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "get_weather_1", "content": "21"},
    )
    assert found[1] == {"role": "assistant", "tool_plan": "I look that up.", "tool_calls": [call]}
    assert found[2] == {"role": "tool", "tool_call_id": "get_weather_1", "content": "21"}
    assert dropped == ()


def test_calls_without_text_have_no_plan_and_empty_arguments_are_an_object() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "get_time", "arguments": ""}}
    found, _ = messages(HI, {"role": "assistant", "content": None, "tool_calls": [call]})
    assert found[1] == {"role": "assistant", "tool_calls": [{**call, "function": {"name": "get_time", "arguments": "{}"}}]}


def test_thoughts_that_nobody_sealed_go_back() -> None:
    found, dropped = messages(HI, {"role": "assistant", "content": "Yes.", "reasoning_content": "Is it? It is."}, HI)
    assert found[1]["content"] == [{"type": "thinking", "thinking": "Is it? It is."}, {"type": "text", "text": "Yes."}]
    assert dropped == ()


def test_thoughts_that_somebody_else_sealed_do_not() -> None:
    sealed = {"type": "reasoning.text", "text": "Hm.", "signature": "c2ln", "format": "anthropic", "provider": "anthropic"}
    answer = {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm.", "reasoning_details": [sealed]}
    found, dropped = messages(HI, answer, HI)
    assert found[1] == {"role": "assistant", "content": "Yes."}
    assert dropped == ("messages[].reasoning_details",)


def test_images_are_links_or_data_with_their_detail() -> None:
    parts = [
        {"type": "text", "text": "Both?"},
        {"type": "image_url", "image_url": {"url": "https://images.example/a.jpg", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ]
    assert messages({"role": "user", "content": parts})[0] == [{"role": "user", "content": parts}]


def test_documents_of_a_tool_stay_documents() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    document = {"type": "document", "document": {"id": "1", "data": {"text": "Hats."}}}
    content = [document, {"type": "text", "text": "That was all."}]
    found, _ = messages(
        HI, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": content}
    )
    assert found[2]["content"] == content


IMAGE = {"type": "image_url", "image_url": {"url": "https://images.example/a.jpg"}}


@pytest.mark.parametrize(
    ("message", "feature"),
    [
        ({"role": "system", "content": [IMAGE]}, "images in system messages"),
        ({"role": "assistant", "content": [IMAGE]}, "images in assistant messages"),
        ({"role": "tool", "tool_call_id": "c", "content": [IMAGE]}, "images in tool results"),
        ({"role": "user", "content": [{"type": "video_url", "video_url": {"url": "https://v.example/a.mp4"}}]}, "videos"),
        ({"role": "user", "content": [{"type": "search_result", "text": "x"}]}, "content of type 'search_result'"),
        ({"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}, "files"),
    ],
)
def test_content_that_cannot_be_carried(message: dict[str, Any], feature: str) -> None:
    with pytest.raises(CannotCarry) as caught:
        encode(messages=[message, HI])
    assert (caught.value.feature, caught.value.param) == (feature, "messages[0].content[0]")


# -- tools


def tool(name: str, parameters: dict[str, Any] | None = None, *, strict: bool | None = None) -> dict[str, Any]:
    function: dict[str, Any] = {"name": name}
    if parameters is not None:
        function["parameters"] = parameters
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


NONE: dict[str, Any] = {"type": "object", "properties": {}}
TWO = [tool("a", SCHEMA), tool("b")]
SENT_TWO = [tool("a", SCHEMA), tool("b", NONE)]


@pytest.mark.parametrize(
    ("choice", "tools", "wire"),
    [
        (None, SENT_TWO, None),
        ("auto", SENT_TWO, None),
        ("none", SENT_TWO, "NONE"),
        ("required", SENT_TWO, "REQUIRED"),
        ({"type": "function", "function": {"name": "b"}}, SENT_TWO[1:], "REQUIRED"),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "a"}}]},
            },
            SENT_TWO[:1],
            None,
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool("a"), tool("b")]}},
            SENT_TWO,
            "REQUIRED",
        ),
    ],
)
def test_tool_choice_in_all_its_forms(choice: Any, tools: list[dict[str, Any]], wire: str | None) -> None:
    found, dropped = sent(tools=TWO, tool_choice=choice)
    assert found == {"tools": tools, **({"tool_choice": wire} if wire else {})}
    assert dropped == ()


@pytest.mark.parametrize(
    "choice", ["any", 7, {"type": "function"}, {"type": "function", "function": {"name": "c"}}, {"type": "allowed_tools"}]
)
def test_a_tool_choice_that_makes_no_sense(choice: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        encode(tools=TWO, tool_choice=choice)
    assert caught.value.param == "tool_choice"


def test_a_choice_of_no_tools_is_dropped() -> None:
    assert sent(tool_choice="required", tools=[]) == ({}, ("tool_choice",))


def test_the_retired_functions_are_tools() -> None:
    found, dropped = sent(functions=[TOOL["function"]], function_call={"name": "get_weather"})
    assert found == {"tools": [TOOL], "tool_choice": "REQUIRED"}
    assert dropped == ()
    assert sent(functions=[TOOL["function"]], function_call="none")[0]["tool_choice"] == "NONE"
    both = sent(functions=[TOOL["function"]], function_call="none", tool_choice="required")
    assert both == ({"tools": [TOOL], "tool_choice": "REQUIRED"}, ("function_call",))
    assert sent(functions=[TOOL["function"]], tools=[TOOL]) == ({"tools": [TOOL]}, ("functions",))
    with pytest.raises(InvalidRequest):
        encode(functions={"name": "f"})


LIMITED = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("tools", "strict"),
    [
        ([tool("a", SCHEMA, strict=True)], True),
        ([tool("a", SCHEMA, strict=True), tool("b", SCHEMA, strict=True)], True),
        ([tool("a", SCHEMA, strict=True), tool("b", SCHEMA)], False),  # it is one switch for all
        ([tool("a", SCHEMA, strict=True), tool("b", NONE, strict=True)], False),  # a parameter must be required
        ([tool("a", strict=True)], False),
        ([tool("a", LIMITED, strict=True)], False),  # what calls could not be held to
    ],
)
def test_strict_tools_are_all_strict_or_none_is(tools: list[dict[str, Any]], strict: bool) -> None:
    found, dropped = sent(tools=tools)
    assert found.get("strict_tools") is (True if strict else None)
    assert dropped == (() if strict else ("tools[].function.strict",))


def test_strict_tools_may_have_200_fields() -> None:
    def with_fields(count: int) -> list[dict[str, Any]]:
        properties = {f"p{number}": {"type": "string"} for number in range(count)}
        return [tool("a", {"type": "object", "properties": properties, "required": ["p0"]}, strict=True)]

    assert sent(tools=with_fields(200))[1] == ()
    assert sent(tools=with_fields(201))[1] == ("tools[].function.strict",)


def test_the_parameters_of_a_tool_are_never_cut() -> None:
    assert sent(tools=[tool("a", LIMITED)])[0]["tools"][0]["function"]["parameters"] == LIMITED


@pytest.mark.parametrize("kind", ["custom", "web_search"])
def test_tools_that_are_not_functions_cannot_be_carried(kind: str) -> None:
    with pytest.raises(CannotCarry) as caught:
        encode(tools=[tool("a"), {"type": kind, kind: {"name": "b"}}])
    assert (caught.value.feature, caught.value.param) == (f"tools of type {kind!r}", "tools[1]")


@pytest.mark.parametrize(
    "broken",
    [
        "x",
        {"type": "function"},
        {"type": "function", "function": {}},
        {"type": "function", "function": {"name": "a", "parameters": []}},
    ],
)
def test_a_tool_that_is_none(broken: Any) -> None:
    with pytest.raises(InvalidRequest):
        encode(tools=[broken])


# -- the format of the answer


def schema_format(schema: Any, **rest: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **rest}}


@pytest.mark.parametrize(
    ("asked", "wire"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "json_object"}),
        ({"type": "json_object", "schema": SCHEMA}, {"type": "json_object", "json_schema": SCHEMA}),
        (schema_format(SCHEMA), {"type": "json_object", "json_schema": SCHEMA}),
        (schema_format(SCHEMA, strict=True), {"type": "json_object", "json_schema": SCHEMA}),
    ],
)
def test_response_formats(asked: dict[str, Any], wire: dict[str, Any] | None) -> None:
    assert sent(response_format=asked) == ({"response_format": wire} if wire else {}, ())


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": sorted(properties)}


@pytest.mark.parametrize(
    ("schema", "kept", "lost"),
    [
        (of(minimum={"type": "integer", "minimum": 1}), of(minimum={"type": "integer"}), ["minimum"]),  # a name is no keyword
        (
            of(a={"type": "array", "items": {"type": "string", "maxLength": 3}}),
            of(a={"type": "array", "items": {"type": "string"}}),
            ["maxLength"],
        ),
        (of(a={"type": "string", "format": "date"}), of(a={"type": "string", "format": "date"}), []),
        (of(a={"type": "string", "format": "email"}), of(a={"type": "string"}), ["format"]),
        (of(a={"type": "string", "pattern": "^[a-z]+$"}), of(a={"type": "string", "pattern": "[a-z]+"}), []),
        (of(a={"type": "string", "pattern": "^(?=x).+$"}), of(a={"type": "string"}), ["pattern"]),
        (of(a={"oneOf": [{"type": "string"}, SCHEMA]}), of(a={"anyOf": [{"type": "string"}, SCHEMA]}), ["oneOf"]),
        (of(a={"allOf": [SCHEMA], "description": "d"}), of(a={**SCHEMA, "description": "d"}), []),
        (of(a={"anyOf": [{"type": "string"}, {"type": "null"}]}), of(a={"anyOf": [{"type": "string"}, {"type": "null"}]}), []),
        ({"$ref": "#/$defs/A", "$defs": {"A": SCHEMA}}, {**SCHEMA, "$defs": {"A": SCHEMA}}, []),
        ({"$ref": "#/definitions/A", "definitions": {"A": SCHEMA}}, {**SCHEMA, "$defs": {"A": SCHEMA}}, []),
    ],
)
def test_a_schema_is_cut_to_what_an_answer_is_held_to(schema: dict[str, Any], kept: dict[str, Any], lost: list[str]) -> None:
    found, dropped = sent(response_format=schema_format(schema))
    assert found["response_format"]["json_schema"] == kept
    assert list(dropped) == [f"response_format.json_schema.schema.{keyword}" for keyword in lost]


@pytest.mark.parametrize(
    ("asked", "feature"),
    [
        (schema_format({"type": "array", "items": {"type": "string"}}), "a JSON schema that is not of an object"),
        (schema_format({"anyOf": [SCHEMA]}), "a JSON schema that is not of an object"),
        (schema_format({"type": "object"}), "a JSON schema with an object that requires nothing"),
        (schema_format(of(a={"type": "object", "properties": {}})), "a JSON schema with an object that requires nothing"),
        ({"type": "grammar"}, "a response_format of type 'grammar'"),
    ],
)
def test_formats_that_cannot_be_carried(asked: dict[str, Any], feature: str) -> None:
    with pytest.raises(CannotCarry) as caught:
        encode(response_format=asked)
    assert (caught.value.feature, caught.value.param) == (feature, "response_format")


def test_a_format_beside_tools_that_may_not_be_called_needs_no_tools() -> None:
    assert sent(tools=TWO, tool_choice="none", response_format={"type": "json_object"}) == (
        {"response_format": {"type": "json_object"}},
        (),
    )


def test_a_format_beside_documents_cannot_be_carried() -> None:
    with pytest.raises(CannotCarry, match="response_format beside documents"):
        encode(response_format={"type": "json_object"}, documents=["Hats."])


# -- numbers


OWN = {"documents": ["Hats."], "citation_options": {"mode": "OFF"}, "safety_mode": "STRICT"}


@pytest.mark.parametrize(
    ("fields", "wire", "dropped"),
    [
        ({"temperature": 0}, {"temperature": 0}, ()),
        ({"temperature": 1}, {"temperature": 1}, ()),
        ({"temperature": 1.3}, {"temperature": 1.0}, ("temperature",)),
        ({"top_p": 0.5}, {"p": 0.5}, ()),
        ({"top_p": 1}, {"p": 0.99}, ("top_p",)),
        ({"top_p": 0}, {"p": 0.01}, ("top_p",)),
        ({"top_k": 501}, {"k": 500}, ("top_k",)),
        ({"seed": 7}, {"seed": 7}, ()),
        ({"seed": -7}, {}, ("seed",)),
        ({"frequency_penalty": 0.5}, {"frequency_penalty": 0.5}, ()),
        ({"frequency_penalty": 0, "presence_penalty": 0}, {"frequency_penalty": 0}, ()),
        ({"frequency_penalty": 0, "presence_penalty": 0.5}, {"presence_penalty": 0.5}, ()),
        ({"frequency_penalty": 0.5, "presence_penalty": 0.5}, {"frequency_penalty": 0.5}, ("presence_penalty",)),
        ({"frequency_penalty": -1, "presence_penalty": 2}, {"presence_penalty": 1.0}, ("frequency_penalty", "presence_penalty")),
        ({"stop": "END"}, {"stop_sequences": ["END"]}, ()),
        ({"stop": []}, {}, ()),
        ({"stop": list("abcdef")}, {"stop_sequences": list("abcde")}, ("stop",)),
        ({"max_tokens": 5}, {"max_tokens": 5}, ()),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_tokens": 6}, ("max_tokens",)),
        ({"max_completion_tokens": 6, "max_tokens": 6}, {"max_tokens": 6}, ()),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": True}, ("top_logprobs",)),
        ({"logprobs": False}, {}, ()),
        ({"p": 0.4, "k": 3, "priority": 1}, {"p": 0.4, "k": 3, "priority": 1}, ()),
        ({"p": 0.4, "top_p": 0.5}, {"p": 0.5}, ("p",)),
        (OWN, OWN, ()),
        ({"temperature": None, "user": None}, {}, ()),
        ({"parallel_tool_calls": True, "modalities": ["text"], "n": 1}, {}, ()),
    ],
)
def test_numbers_and_what_is_cohere_s_own(fields: dict[str, Any], wire: dict[str, Any], dropped: tuple[str, ...]) -> None:
    assert sent(**fields) == (wire, dropped)


@pytest.mark.parametrize(("name", "value"), [("temperature", "hot"), ("top_p", True), ("stop", 5), ("stop", [1])])
def test_what_is_no_number(name: str, value: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        encode(**{name: value})
    assert caught.value.param == name


def test_no_more_is_asked_for_than_the_model_can_write() -> None:
    small = Target(PROVIDER, "command-r", "command-r", max_output=4096)
    assert sent(small, max_tokens=4096) == ({"max_tokens": 4096}, ())
    assert sent(small, max_tokens=4097) == ({"max_tokens": 4096}, ("max_tokens",))


@pytest.mark.parametrize(
    ("fields", "wire", "dropped"),
    [
        ({"reasoning_effort": "none"}, {"type": "disabled"}, ()),
        ({"reasoning_effort": "minimal"}, {"type": "enabled", "token_budget": 512}, ()),
        ({"reasoning_effort": "low"}, {"type": "enabled", "token_budget": 2048}, ()),
        ({"reasoning_effort": "high"}, {"type": "enabled"}, ()),
        ({"reasoning_effort": "whatever"}, None, ("reasoning_effort",)),
        ({"thinking": {"type": "enabled", "token_budget": 9}}, {"type": "enabled", "token_budget": 9}, ()),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, {"type": "enabled", "token_budget": 9}, ()),
        ({"thinking": {"type": "adaptive"}}, None, ("thinking",)),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "low"}, {"type": "disabled"}, ("reasoning_effort",)),
    ],
)
def test_thinking(fields: dict[str, Any], wire: dict[str, Any] | None, dropped: tuple[str, ...]) -> None:
    assert sent(**fields) == ({"thinking": wire} if wire else {}, dropped)


def test_thoughts_leave_room_for_the_answer() -> None:
    found, _ = sent(reasoning_effort="low", max_tokens=1000)
    assert found["thinking"] == {"type": "enabled", "token_budget": 500}


def test_a_model_that_does_not_reason_is_not_told_to() -> None:
    plain = Target(PROVIDER, "command-r7b-12-2024", "command-r7b")
    assert sent(plain, reasoning_effort="high") == ({}, ("reasoning_effort",))


def test_quirks_rename_and_drop_fields_of_the_caller() -> None:
    quirks = Quirks(rename={"best_k": "top_k"}, drop=frozenset(("seed", "stop")))
    target = Target(PROVIDER, "command-r", "command-r", quirks=quirks)
    assert sent(target, best_k=3, seed=7, stop=None) == ({"k": 3}, ("seed",))
    assert sent(target, best_k=3, top_k=4) == ({"k": 4}, ("best_k",))


# -- the provider's own types, and what others have sent it


@pytest.mark.parametrize("name", FULL)
def test_the_sdk_has_no_objection(name: str) -> None:
    types: Any = pytest.importorskip("cohere", reason="the cohere SDK, which is not installed here, is the judge")
    body = orjson.loads(DIALECT.encode_request(chat_request(full_body(without=FULL[name])), TARGET).body)
    TypeAdapter(list[types.ChatMessageV2]).validate_python(body["messages"])
    TypeAdapter(list[types.ToolV2]).validate_python(body.get("tools", []))
    if "response_format" in body:
        TypeAdapter(types.ResponseFormatV2).validate_python(body["response_format"])
    TypeAdapter(types.Thinking).validate_python(body["thinking"])


def as_an_openai_client_would(asked: dict[str, Any]) -> dict[str, Any]:
    """A recorded request of Cohere's in OpenAI's words."""
    choices = {"REQUIRED": "required", "NONE": "none"}
    body = {**asked, "messages": []}
    for message in asked["messages"]:
        message = dict(message)
        if message["role"] == "assistant" and message.get("tool_calls"):
            message["content"] = message.pop("tool_plan", None)
        body["messages"].append(message)
    if "tool_choice" in asked:
        body["tool_choice"] = choices[asked["tool_choice"]]
    if isinstance(asked.get("response_format"), dict):
        format_ = asked["response_format"]
        schema = format_.get("schema") or format_.get("json_schema")
        body["response_format"] = schema_format(schema) if schema else {"type": "json_object"}
    return body


def canonical(asked: dict[str, Any]) -> dict[str, Any]:
    """One text alone is a string; no text at all, and what is empty, is left out."""
    found = {"stream": False, **asked, "messages": []}
    for message in asked["messages"]:
        message = dict(message)
        content = message.get("content")
        if isinstance(content, list):
            content = [part for part in content if part != {"type": "text", "text": ""}]
            if len(content) == 1 and content[0]["type"] == "text":
                content = content[0]["text"]
        message["content"] = content
        found["messages"].append({key: value for key, value in message.items() if value not in (None, "", [])})
    if isinstance(found.get("response_format"), dict) and "schema" in found["response_format"]:
        found["response_format"] = {"type": "json_object", "json_schema": found["response_format"]["schema"]}
    for tool_ in found.get("tools") or []:
        if tool_["function"].get("description") is None:
            tool_["function"].pop("description", None)
    return found


ASKED = [found for found in recordings("cohere.v2.chat") if found.asked is not None]


@needs_corpus
@pytest.mark.parametrize("recorded", ASKED, ids=lambda recorded: recorded.id)
def test_recorded_requests_are_made_of_what_an_openai_client_would_have_sent(recorded: Recorded) -> None:
    assert recorded.asked is not None
    target = Target(PROVIDER, recorded.asked["model"], "m", reasoning=True)
    found = DIALECT.encode_request(chat_request(as_an_openai_client_would(recorded.asked)), target)
    assert found.dropped == ()
    assert canonical(orjson.loads(found.body)) == canonical(recorded.asked)
