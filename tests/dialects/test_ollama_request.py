"""What Ollama is asked: every field on the wire, dropped by name, or refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.errors import CallerError, CannotCarry, InvalidRequest, InvalidValue
from proxy.core.target import Provider, Quirks, Target
from proxy.dialects.base import OutboundRequest
from proxy.dialects.ollama.dialect import OllamaChat
from proxy.dialects.ollama.request import MAX_RESOLVED_SCHEMAS
from tests.corpus.recordings import needs_corpus
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
from tests.dialects.ollama_judge import judge

pytestmark = pytest.mark.unit

DIALECT = OllamaChat()
PROVIDER = Provider("ollama", "ollama", "http://127.0.0.1:11434", ())
TARGET = Target(PROVIDER, "qwen3:14b", "qwen3", reasoning=True)
PLAIN = Target(PROVIDER, "gemma3:1b", "gemma3")
GPT_OSS = Target(PROVIDER, "gpt-oss:20b", "gpt-oss")
HI = {"role": "user", "content": "Hi"}
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}


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

REFUSED = ("remote image_url", "file", "input_audio")


def test_the_conversation_that_uses_everything() -> None:
    found = DIALECT.encode_request(chat_request(full_body(without=REFUSED)), TARGET)
    got = {"path": found.path, "dropped": list(found.dropped), "body": judge(found.body)}
    golden = GOLDENS / "ollama" / "full.json"
    if os.environ.get("WRITE_GOLDENS"):
        golden.write_bytes(orjson.dumps(got, option=orjson.OPT_INDENT_2) + b"\n")
    assert got == orjson.loads(golden.read_bytes())


@pytest.mark.parametrize(
    ("kept", "feature", "param"),
    [
        ("remote image_url", "remote images", "messages[2].content[2]"),
        ("file", "files", "messages[2].content[2]"),
        ("input_audio", "audio input", "messages[2].content[2]"),
    ],
)
def test_what_of_it_cannot_be_carried(kept: str, feature: str, param: str) -> None:
    with pytest.raises(CannotCarry) as caught:
        DIALECT.encode_request(chat_request(full_body(without=[name for name in REFUSED if name != kept])), TARGET)
    assert (caught.value.feature, caught.value.param) == (feature, param)


def test_the_callers_body_is_left_alone() -> None:
    request = chat_request(full_body(without=REFUSED))
    before = orjson.dumps(request.body)
    DIALECT.encode_request(request, TARGET)
    assert orjson.dumps(request.body) == before


@pytest.mark.parametrize("streamed", [True, False])
def test_a_stream_is_always_asked_for_or_not(streamed: bool) -> None:
    assert judge(encode(stream=streamed).body)["stream"] is streamed
    assert judge(encode().body)["stream"] is False


# -- no third place


FATES: dict[str, Fate] = {
    "audio": "refused",
    "frequency_penalty": "carried",
    "functions": "carried",
    "function_call": "dropped",  # of the only one there is
    "logprobs": "carried",
    "max_completion_tokens": "carried",
    "max_tokens": "carried",
    "min_p": "carried",
    "modalities": "refused",
    "n": "refused",
    "presence_penalty": "carried",
    "reasoning_effort": "in part",
    "repetition_penalty": "carried",
    "response_format": "carried",
    "seed": "carried",
    "stop": "carried",
    "stream": "carried",
    "stream_options": "carried",
    "temperature": "carried",
    "tools": "carried",
    "top_k": "carried",
    "top_logprobs": "carried",
    "top_p": "carried",
}


@pytest.mark.parametrize("name", [*FIELDS, *FOREIGN_FIELDS])
def test_every_field_is_carried_dropped_or_refused(name: str) -> None:
    body, without = with_field(name)
    if name == "audio":
        without = {key: value for key, value in without.items() if key != "modalities"}  # refused by itself
    assert where_is(name, DIALECT, TARGET, body=body, without=without) == FATES.get(name, "dropped")


NESTED_FATES: dict[str, Fate] = {
    "messages[].reasoning": "carried",
    "messages[].reasoning_content": "carried",
    "messages[].refusal": "carried",
}
# an answer is held to its schema without being asked to
ALWAYS_SO = frozenset(("response_format.json_schema.strict",))


@pytest.mark.parametrize("name", sorted(NESTED_FIELDS.keys() - ALWAYS_SO))
def test_every_nested_field_is_carried_or_dropped(name: str) -> None:
    assert where_is(name, DIALECT, TARGET) == NESTED_FATES.get(name, "dropped")


WIRE_NAMES = {
    "max_completion_tokens": "num_predict",
    "max_tokens": "num_predict",
    "repetition_penalty": "repeat_penalty",
    "response_format": "format",
    "functions": "tools",
    "reasoning_effort": "think",
}


@pytest.mark.property
@given(
    st.sets(st.sampled_from(sorted(FIELDS.keys() | FOREIGN_FIELDS.keys()))),
    st.sampled_from([TARGET, PLAIN, GPT_OSS]),
)
@settings(max_examples=120, deadline=None)
def test_any_fields_together_make_a_request_that_is_read(names: set[str], target: Target) -> None:
    body: dict[str, Any] = {"model": "smart", "messages": CONVERSATION["messages"]}
    for name in sorted(names):
        body |= {**BESIDE.get(name, {}), name: {**FIELDS, **FOREIGN_FIELDS}[name]}
    try:
        found = DIALECT.encode_request(chat_request(body), target)
    except (CannotCarry, CallerError):
        return
    wire = judge(found.body)
    carried = wire.keys() | wire.get("options", {}).keys()
    for name in names - {"stream_options", "stream"}:
        assert WIRE_NAMES.get(name, name) in carried or any(dropped.startswith(name) for dropped in found.dropped), name


# -- messages


def test_what_a_person_wrote_in_parts_is_paragraphs() -> None:
    parts = [{"type": "text", "text": "One."}, IMAGE, {"type": "text", "text": "Two."}]
    found, _ = messages(
        {"role": "system", "content": [{"type": "text", "text": "A."}, {"type": "text", "text": "B."}]},
        {"role": "user", "content": parts},
    )
    assert found == [
        {"role": "system", "content": "A.\n\nB."},
        {"role": "user", "content": "One.\n\nTwo.", "images": [PNG]},
    ]


def test_calls_have_their_arguments_as_an_object_and_results_the_name_of_their_tool() -> None:
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Lisboa"}'}},
        {"id": "c2", "type": "function", "function": {"name": "get_time", "arguments": ""}},
    ]
    found, dropped = messages(
        HI,
        {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": '{"a":'}, {"type": "text", "text": "1}"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "21"},
    )
    assert found[1:] == [
        {
            "role": "assistant",
            "content": "I look.",
            "thinking": "Hm.",
            "tool_calls": [
                {"id": "c1", "function": {"name": "get_weather", "arguments": {"city": "Lisboa"}}},
                {"id": "c2", "function": {"name": "get_time", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": '{"a":1}', "tool_name": "get_time", "tool_call_id": "c2"},
        {"role": "tool", "content": "21", "tool_name": "get_weather", "tool_call_id": "c1"},
    ]
    assert dropped == ()


def test_arguments_that_are_no_object_are_the_callers_mistake() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "[1]"}}
    with pytest.raises(InvalidValue) as caught:
        encode(messages=[HI, {"role": "assistant", "tool_calls": [call]}])
    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"


def test_a_result_of_a_call_that_is_not_there_has_no_name() -> None:
    found, _ = messages(HI, {"role": "tool", "tool_call_id": "c1", "content": "21"})
    assert found[1] == {"role": "tool", "content": "21", "tool_call_id": "c1"}


def test_thoughts_that_somebody_sealed_do_not_go_elsewhere() -> None:
    sealed = {"type": "reasoning.encrypted", "data": "c2Vh", "format": "gemini", "provider": "gemini"}
    found, dropped = messages(
        HI, {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm.", "reasoning_details": [sealed]}
    )
    assert found[1] == {"role": "assistant", "content": "Yes."}
    assert dropped == ("messages[].reasoning_details",)


def test_images_of_any_turn_are_carried_and_their_detail_is_not() -> None:
    detailed = {"type": "image_url", "image_url": {**IMAGE["image_url"], "detail": "high"}}  # type: ignore[dict-item]
    found, dropped = messages(HI, {"role": "tool", "tool_call_id": "c1", "content": [detailed]})
    assert found[1]["images"] == [PNG]
    assert dropped == ("messages[].content[].image_url.detail",)


@pytest.mark.parametrize(
    ("part", "feature"),
    [
        ({"type": "image_url", "image_url": {"url": "https://images.example/a.jpg"}}, "remote images"),
        ({"type": "video_url", "video_url": {"url": "https://v.example/a.mp4"}}, "videos"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "files"),
        ({"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}}, "audio input"),
        ({"type": "search_result", "text": "x"}, "content of type 'search_result'"),
    ],
)
def test_content_that_cannot_be_carried(part: dict[str, Any], feature: str) -> None:
    with pytest.raises(CannotCarry) as caught:
        encode(messages=[HI, {"role": "user", "content": [{"type": "text", "text": "x"}, part]}])
    assert (caught.value.feature, caught.value.param) == (feature, "messages[1].content[1]")


# -- tools


def tool(name: str, parameters: dict[str, Any] | None = None, **rest: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **({"parameters": parameters} if parameters else {}), **rest}}


NONE: dict[str, Any] = {"type": "object", "properties": {}}
TWO = [tool("a", SCHEMA), tool("b")]
SENT_TWO = [tool("a", SCHEMA), tool("b", NONE)]


@pytest.mark.parametrize(
    ("choice", "tools", "dropped"),
    [
        (None, SENT_TWO, ()),
        ("auto", SENT_TWO, ()),
        ("none", [], ()),  # which is what it means
        ("required", SENT_TWO, ("tool_choice",)),
        ({"type": "function", "function": {"name": "b"}}, SENT_TWO[1:], ("tool_choice",)),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("a")]}}, SENT_TWO[:1], ()),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool("a")]}}, SENT_TWO[:1], ("tool_choice",)),
    ],
)
def test_tool_choice_in_all_its_forms(choice: Any, tools: list[dict[str, Any]], dropped: tuple[str, ...]) -> None:
    assert sent(tools=TWO, tool_choice=choice) == ({"tools": tools} if tools else {}, dropped)


def test_calls_cannot_be_held_to_a_schema_nor_to_one_at_a_time() -> None:
    assert sent(tools=[tool("a", SCHEMA, strict=True)], parallel_tool_calls=False) == (
        {"tools": SENT_TWO[:1]},
        ("parallel_tool_calls", "tools[].function.strict"),
    )
    assert sent(tools=[TOOL], parallel_tool_calls=True) == ({"tools": [TOOL]}, ())


CITY = {"type": "object", "properties": {"name": {"type": "string"}}}


@pytest.mark.parametrize(
    ("given", "wire"),
    [
        (
            {"type": "object", "properties": {"to": {"$ref": "#/$defs/City", "description": "Where."}}, "$defs": {"City": CITY}},
            {"type": "object", "properties": {"to": {**CITY, "description": "Where."}}},
        ),
        (
            {"type": "object", "properties": {"to": {"$ref": "#/definitions/City"}}, "definitions": {"City": CITY}},
            {"type": "object", "properties": {"to": CITY}},
        ),
        (
            {
                "type": "object",
                "properties": {"all": {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}]}}},
                "$defs": {"A": {"type": "object", "properties": {"b": {"$ref": "#/$defs/B"}}}, "B": {"type": "string"}},
            },
            {
                "type": "object",
                "properties": {
                    "all": {
                        "type": "array",
                        "items": {"anyOf": [{"type": "object", "properties": {"b": {"type": "string"}}}, {"type": "null"}]},
                    }
                },
            },
        ),
        ({"type": "object", "properties": {"$ref": {"type": "string"}}},) * 2,  # a property may be called so
        ({"type": "object", "properties": {"a": {"$ref": "#/elsewhere"}}},) * 2,
    ],
)
def test_references_in_a_tools_schema_are_resolved(given: dict[str, Any], wire: dict[str, Any]) -> None:
    assert sent(tools=[tool("a", given)])[0]["tools"][0]["function"]["parameters"] == wire


def test_a_schema_that_stands_inside_itself_keeps_its_reference() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#/$defs/Tree"}}}
    schema = {"type": "object", "properties": {"root": {"$ref": "#/$defs/Tree"}}, "$defs": {"Tree": tree}}
    found = sent(tools=[tool("a", schema)])[0]["tools"][0]["function"]["parameters"]
    assert found == {**schema, "properties": {"root": tree}}


def test_a_schema_that_would_grow_without_end_keeps_its_references() -> None:
    definitions: dict[str, Any] = {"D0": {"type": "string"}}
    for number in range(1, 40):
        reference = {"$ref": f"#/$defs/D{number - 1}"}
        definitions[f"D{number}"] = {"type": "object", "properties": {"a": reference, "b": reference}}
    schema = {"type": "object", "properties": {"x": {"$ref": "#/$defs/D39"}}, "$defs": definitions}
    body = encode(tools=[tool("a", schema)]).body
    assert b'"$defs"' in body
    assert len(body) < MAX_RESOLVED_SCHEMAS * 200


# -- the format of the answer, options, thinking


def schema_format(schema: Any, **rest: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **rest}}


@pytest.mark.parametrize(
    ("fields", "wire", "dropped"),
    [
        ({"response_format": {"type": "text"}}, {}, ()),
        ({"response_format": {"type": "json_object"}}, {"format": "json"}, ()),
        ({"response_format": schema_format(SCHEMA, strict=True)}, {"format": SCHEMA}, ()),
        ({"response_format": schema_format(SCHEMA), "tools": [TOOL]}, {"format": SCHEMA, "tools": [TOOL]}, ()),
        ({"format": SCHEMA}, {"format": SCHEMA}, ()),
        ({"format": "json", "response_format": schema_format(SCHEMA)}, {"format": SCHEMA}, ("format",)),
        ({"format": ""}, {}, ()),
    ],
)
def test_formats(fields: dict[str, Any], wire: dict[str, Any], dropped: tuple[str, ...]) -> None:
    assert sent(**fields) == (wire, dropped)


def test_a_format_of_another_kind_cannot_be_carried() -> None:
    with pytest.raises(CannotCarry) as caught:
        encode(response_format={"type": "grammar"})
    assert (caught.value.feature, caught.value.param) == ("a response_format of type 'grammar'", "response_format")


@pytest.mark.parametrize("broken", ["json", {"type": "json_schema"}, {"type": "json_schema", "json_schema": "x"}])
def test_a_format_that_is_none(broken: Any) -> None:
    with pytest.raises(InvalidRequest):
        encode(response_format=broken)


@pytest.mark.parametrize(
    ("fields", "options", "dropped"),
    [
        (
            {"temperature": 1.7, "top_p": 1, "top_k": 40, "min_p": 0.1},
            {"temperature": 1.7, "top_p": 1, "top_k": 40, "min_p": 0.1},
            (),
        ),
        ({"frequency_penalty": -1, "presence_penalty": 2}, {"frequency_penalty": -1, "presence_penalty": 2}, ()),
        ({"repetition_penalty": 1.1}, {"repeat_penalty": 1.1}, ()),
        ({"repetition_penalty": 1.1, "repeat_penalty": 1.2}, {"repeat_penalty": 1.1}, ("repeat_penalty",)),
        ({"seed": -7, "stop": "END"}, {"seed": -7, "stop": ["END"]}, ()),
        ({"max_tokens": 5}, {"num_predict": 5}, ()),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"num_predict": 6}, ("max_tokens",)),
        ({"num_ctx": 8192}, {"num_ctx": 8192}, ()),
        ({"options": {"num_ctx": 8192, "num_gpu": 1}}, {"num_ctx": 8192, "num_gpu": 1}, ()),
        ({"options": {"seed": 7}, "seed": 7}, {"seed": 7}, ()),
        ({"options": {"seed": 7}, "seed": 8}, {"seed": 8}, ("options.seed",)),
        ({"options": {}}, None, ()),
    ],
)
def test_options(fields: dict[str, Any], options: dict[str, Any] | None, dropped: tuple[str, ...]) -> None:
    assert sent(**fields) == ({"options": options} if options else {}, dropped)


def test_options_that_are_none() -> None:
    with pytest.raises(InvalidRequest):
        encode(options=[1])
    with pytest.raises(InvalidValue):
        encode(temperature="hot")


def test_what_is_ollama_s_own_is_carried() -> None:
    own: dict[str, Any] = {"keep_alive": "5m", "think": "max", "truncate": False, "shift": False}
    assert sent(**own) == (own, ())
    assert sent(keep_alive=0) == ({"keep_alive": 0}, ())


def test_log_probabilities_are_asked_for_as_they_are() -> None:
    assert sent(logprobs=True, top_logprobs=3) == ({"logprobs": True, "top_logprobs": 3}, ())
    assert sent(logprobs=False) == ({}, ())


@pytest.mark.parametrize(
    ("target", "effort", "think", "dropped"),
    [
        (TARGET, "none", False, False),
        (TARGET, "low", True, True),  # that it thinks is told, how much is not
        (TARGET, "high", True, True),
        (PLAIN, "none", False, False),
        (PLAIN, "low", None, True),  # "does not support thinking" is a 400
        (GPT_OSS, "low", "low", False),
        (GPT_OSS, "medium", "medium", False),
        (GPT_OSS, "high", "high", False),
        (GPT_OSS, "minimal", "low", True),
        (GPT_OSS, "xhigh", "high", True),
        (GPT_OSS, "none", "low", True),  # it always thinks
        (TARGET, "whatever", None, True),
    ],
)
def test_reasoning_effort(target: Target, effort: str, think: bool | str | None, dropped: bool) -> None:
    wire = {} if think is None else {"think": think}
    assert sent(target, reasoning_effort=effort) == (wire, ("reasoning_effort",) if dropped else ())


def test_think_goes_before_effort() -> None:
    assert sent(think=False, reasoning_effort="high") == ({"think": False}, ("reasoning_effort",))


@pytest.mark.parametrize(
    ("fields", "feature"),
    [
        ({"n": 2}, "n > 1"),
        ({"modalities": ["text", "audio"]}, "answers that are not text"),
        ({"audio": {"voice": "alloy"}}, "audio output"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools of type 'custom'"),
    ],
)
def test_features_that_cannot_be_carried(fields: dict[str, Any], feature: str) -> None:
    with pytest.raises(CannotCarry) as caught:
        encode(**fields)
    assert caught.value.feature == feature


def test_quirks_rename_and_drop_fields_of_the_caller() -> None:
    quirks = Quirks(rename={"context": "num_ctx"}, drop=frozenset(("seed",)))
    target = Target(PROVIDER, "qwen3", "qwen3", quirks=quirks)
    assert sent(target, context=4096, seed=7) == ({"options": {"num_ctx": 4096}}, ("seed",))


# -- the provider's own types, and what others have sent it


def test_the_sdk_has_no_objection() -> None:
    types: Any = pytest.importorskip("ollama._types", reason="the ollama SDK, which is not installed here, is the judge")
    body = orjson.loads(DIALECT.encode_request(chat_request(full_body(without=REFUSED)), TARGET).body)
    types.ChatRequest.model_validate(body)
    assert body.keys() <= types.ChatRequest.model_fields.keys()
    assert body["options"].keys() <= types.Options.model_fields.keys()
    for message in body["messages"]:
        assert message.keys() <= types.Message.model_fields.keys() | {"tool_call_id"}  # which is newer than these types


OPENAI_NAMES = {"num_predict": "max_tokens", "repeat_penalty": "repetition_penalty"}


def as_an_openai_client_would(asked: dict[str, Any]) -> dict[str, Any]:
    """A recorded request of Ollama's in OpenAI's words, as far as it has any."""
    body = {name: value for name, value in asked.items() if name not in ("options", "format") and value is not None}
    for name, value in (asked.get("options") or {}).items():
        body[OPENAI_NAMES.get(name, name)] = value
    if isinstance(asked.get("format"), dict):
        body["response_format"] = schema_format(asked["format"])
    elif asked.get("format"):
        body["response_format"] = {"type": "json_object"}
    body["messages"] = []
    for message in asked["messages"]:
        message = dict(message)
        images = message.pop("images", None)
        if images:
            parts = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}} for image in images]
            message["content"] = [{"type": "text", "text": message["content"]}, *parts]
        body["messages"].append(message)
    return body


def canonical(asked: dict[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in asked.items() if value not in (None, "", [], {})}
    found["stream"] = asked.get("stream", False)
    if "options" in found:
        found["options"].pop("think", None)  # misplaced by the client that was recorded: it is no option
    return {name: value for name, value in found.items() if value != {}}


ASKED = [found for found in recordings("ollama.chat") if found.asked is not None]


@needs_corpus
@pytest.mark.parametrize("recorded", ASKED, ids=lambda recorded: recorded.id)
def test_recorded_requests_are_made_of_what_an_openai_client_would_have_sent(recorded: Recorded) -> None:
    assert recorded.asked is not None
    target = Target(PROVIDER, recorded.asked["model"], "m")
    body = as_an_openai_client_would(recorded.asked)
    body.pop("think", None)
    found = DIALECT.encode_request(chat_request(body), target)
    assert found.dropped == ()
    assert canonical(orjson.loads(found.body)) == canonical(recorded.asked)
