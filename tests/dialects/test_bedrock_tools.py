"""Tools, who may be called, and answers that are held to a schema, as Converse has words for them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.core.errors import CannotCarry, InvalidValue
from proxy.dialects.bedrock.models import holds_to_schemas
from tests.dialects.bedrock_judge import CLAUDE, NOVA, sent
from tests.dialects.bedrock_words import CALLED, CLAUDE_5, CLAUDE_37, CLAUDE_46, HI, LLAMA, MISTRAL, PROFILE, dropped
from tests.dialects.fields import FIELDS, TOOL

pytestmark = pytest.mark.unit

# -- tools


def chosen(choice: Any, model: str = CLAUDE, **more: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(toolConfig and whatever concerns it, dropped)."""
    given = [TOOL, {"type": "function", "function": {"name": "get_time"}}]
    found, outbound = sent({"messages": HI, "tools": given, "tool_choice": choice, **more}, model)
    config = found.get("toolConfig", {})
    told = {"tools": [tool["toolSpec"]["name"] for tool in config.get("tools", [])]}
    if "toolChoice" in config:
        told["choice"] = config["toolChoice"]
    if "additionalModelRequestFields" in found:
        told["additional"] = found["additionalModelRequestFields"]
    return told, outbound.dropped


BOTH = ["get_weather", "get_time"]
NAMED = {"type": "function", "function": {"name": "get_time"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}
CHOICES: list[tuple[Any, str, dict[str, Any], tuple[str, ...]]] = [
    (None, CLAUDE, {"tools": BOTH}, ()),
    ("auto", CLAUDE, {"tools": BOTH}, ()),
    ("none", CLAUDE, {"tools": []}, ("tools",)),
    ("required", CLAUDE, {"tools": BOTH, "choice": {"any": {}}}, ()),
    (NAMED, CLAUDE, {"tools": BOTH, "choice": {"tool": {"name": "get_time"}}}, ()),
    (ALLOWED, CLAUDE, {"tools": ["get_time"], "choice": {"any": {}}}, ()),
    (NAMED, NOVA, {"tools": BOTH, "choice": {"tool": {"name": "get_time"}}}, ()),
    (NAMED, MISTRAL, {"tools": ["get_time"], "choice": {"any": {}}}, ()),
    ("required", MISTRAL, {"tools": BOTH, "choice": {"any": {}}}, ()),
    ("auto", LLAMA, {"tools": BOTH}, ()),
]


@pytest.mark.parametrize(("choice", "model", "told", "lost"), CHOICES)
def test_tool_choice(choice: Any, model: str, told: dict[str, Any], lost: tuple[str, ...]) -> None:
    assert chosen(choice, model) == (told, lost)


@pytest.mark.parametrize("model", [LLAMA, "us.anthropic.claude-fable-5-1"])
@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_cannot_be_demanded_of_every_model(choice: Any, model: str) -> None:
    with pytest.raises(CannotCarry) as caught:
        chosen(choice, model)
    assert caught.value.param == "tool_choice"


def test_a_choice_of_what_is_not_there_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidValue) as caught:
        sent({"messages": HI, "tools": [TOOL], "tool_choice": NAMED})
    assert caught.value.param == "tool_choice"


SERIAL: list[tuple[Any, dict[str, Any]]] = [
    (None, {"type": "auto"}),
    ("auto", {"type": "auto"}),
    ("required", {"type": "any"}),
    (NAMED, {"type": "tool", "name": "get_time"}),
]


@pytest.mark.parametrize(("choice", "kind"), SERIAL)
def test_one_call_at_a_time_is_said_in_anthropics_words_and_only_there(choice: Any, kind: dict[str, Any]) -> None:
    """ "The additional field tool_choice/type conflicts with the existing field toolConfig.toolChoice.auto"."""
    told, lost = chosen(choice, parallel_tool_calls=False)
    assert told == {"tools": BOTH, "additional": {"tool_choice": {**kind, "disable_parallel_tool_use": True}}}
    assert lost == ()


@pytest.mark.parametrize("model", [NOVA, CLAUDE_37, PROFILE])
def test_one_call_at_a_time_is_dropped_where_no_word_for_it_is_known(model: str) -> None:
    told, lost = chosen("auto", model, parallel_tool_calls=False)
    assert (told, lost) == ({"tools": BOTH}, ("parallel_tool_calls",))


def test_no_call_at_all_is_no_call_at_once() -> None:
    assert dropped({"messages": HI, "parallel_tool_calls": False}) == ()
    assert dropped({"messages": HI, "parallel_tool_calls": True, "tools": [TOOL]}) == ()


def test_tools_stay_where_they_were_called_although_none_may_be() -> None:
    """Bedrock refuses a conversation with calls and no toolConfig, and has no word for "none"."""
    found, outbound = sent({"messages": CALLED, "tools": [TOOL], "tool_choice": "none"})
    assert found["toolConfig"]["tools"][0]["toolSpec"]["name"] == "get_weather"
    assert outbound.dropped == ("tool_choice",)


def test_tools_that_were_called_and_are_not_offered_any_more_are_declared() -> None:
    found, outbound = sent({"messages": CALLED})
    assert found["toolConfig"] == {"tools": [{"toolSpec": {"name": "get_weather", "inputSchema": {"json": {"type": "object"}}}}]}
    assert outbound.dropped == ()


def test_a_tool_of_the_models_maker_is_passed_on() -> None:
    grounding = {"systemTool": {"name": "nova_grounding"}}
    found, _ = sent({"messages": HI, "tools": [{"type": "system", **grounding}, TOOL]}, NOVA)
    assert found["toolConfig"]["tools"][0] == grounding
    assert found["toolConfig"]["tools"][1]["toolSpec"]["name"] == "get_weather"


@pytest.mark.parametrize("tool", [{"type": "web_search"}, {"type": "custom", "custom": {"name": "x"}}])
def test_tools_of_other_kinds_rule_the_target_out(tool: dict[str, Any]) -> None:
    with pytest.raises(CannotCarry):
        sent({"messages": HI, "tools": [tool]})


def spec(parameters: dict[str, Any] | None, model: str = CLAUDE, **more: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    function = {"name": "f", **({"parameters": parameters} if parameters is not None else {}), **more}
    found, outbound = sent({"messages": HI, "tools": [{"type": "function", "function": function}]}, model)
    told: dict[str, Any] = found["toolConfig"]["tools"][0]["toolSpec"]
    return told, outbound.dropped


def test_a_tool_without_parameters_takes_an_empty_object() -> None:
    assert spec(None) == ({"name": "f", "inputSchema": {"json": {"type": "object", "properties": {}}}}, ())
    assert spec({})[0]["inputSchema"] == {"json": {"type": "object"}}


@pytest.mark.parametrize("description", ["", " ", None])
def test_a_blank_description_is_left_out(description: Any) -> None:
    assert "description" not in spec({}, description=description)[0]


def test_parameters_must_be_of_an_object() -> None:
    with pytest.raises(InvalidValue):
        spec({"type": "string"})


STRICT_SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}


def test_a_strict_tool_is_narrowed_to_what_is_enforced() -> None:
    told, lost = spec(STRICT_SCHEMA, strict=True)
    assert told["strict"] is True
    assert told["inputSchema"]["json"]["additionalProperties"] is False
    assert lost == ("tools[].function.parameters.minimum",)


@pytest.mark.parametrize(
    ("schema", "model"),
    [
        ({"type": "object", "additionalProperties": {"type": "string"}}, CLAUDE),
        (STRICT_SCHEMA, NOVA),
        (STRICT_SCHEMA, CLAUDE_37),
        (STRICT_SCHEMA, CLAUDE_5),  # "tools.0.custom.strict: Extra inputs are not permitted"
    ],
)
def test_strict_is_dropped_where_it_is_not_enforced(schema: dict[str, Any], model: str) -> None:
    told, lost = spec(schema, model, strict=True)
    assert "strict" not in told
    assert lost == ("tools[].function.strict",)
    assert told["inputSchema"]["json"] == schema


# -- the answer


@pytest.mark.parametrize(
    ("model", "holds"),
    [
        (CLAUDE, True),
        (CLAUDE_46, True),
        (CLAUDE_37, False),
        (CLAUDE_5, False),
        ("us.anthropic.claude-opus-4-7", False),
        (NOVA, False),
        (LLAMA, False),
        ("qwen.qwen3-32b-v1:0", True),
        ("zai.glm-4.7-flash", True),
        ("openai.gpt-oss-120b-1:0", True),
        (PROFILE, True),
    ],
)
def test_who_holds_an_answer_to_a_schema(model: str, holds: bool) -> None:
    body = {"messages": HI, "response_format": FIELDS["response_format"]}
    assert holds_to_schemas(model) is holds
    if holds:
        definition = sent(body, model)[0]["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
        assert definition["name"] == "hats"
        assert orjson.loads(definition["schema"])["required"] == ["hats"]
    else:
        with pytest.raises(CannotCarry) as caught:
            sent(body, model)
        assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({"type": "json_object"}, CannotCarry),
        ({"type": "grammar"}, CannotCarry),
        ("json", CannotCarry),
        ({"type": "json_schema"}, InvalidValue),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, InvalidValue),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "object", "additionalProperties": True}}}, CannotCarry),
    ],
)
def test_other_formats(wanted: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        sent({"messages": HI, "response_format": wanted})


def test_text_is_what_comes_unasked() -> None:
    found, outbound = sent({"messages": HI, "response_format": {"type": "text"}})
    assert (found, outbound.dropped) == ({"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}, ())
