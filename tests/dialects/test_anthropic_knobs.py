"""Numbers and switches: what is carried, adapted to the model, dropped by name or refused. There is no fifth place."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import CallerError, CannotCarry
from proxy.core.target import Quirks, Target
from proxy.dialects.anthropic.dialect import AnthropicMessages
from tests.dialects.anthropic_judge import MODELS, judge, target_of
from tests.dialects.fields import BESIDE, FIELDS, FOREIGN_FIELDS, NESTED_FIELDS, TOOL, chat_request, where_is

pytestmark = pytest.mark.unit

DIALECT = AnthropicMessages()
SONNET, ADAPTIVE, NEWEST = "claude-sonnet-4-5", "claude-opus-4-6", "claude-opus-5-5"
SUMMARIZED = {"type": "adaptive", "display": "summarized"}
USER = {"role": "user", "content": "Hi"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def encode(target: Target, fields: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the body but for model and messages, what was dropped)"""
    encoded = DIALECT.encode_request(chat_request({"model": "smart", "messages": [USER], **fields}), target)
    body = orjson.loads(encoded.body)
    judge(body)
    return {name: value for name, value in body.items() if name not in ("model", "messages")}, encoded.dropped


def knobs(model: str = SONNET, /, **fields: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    body, dropped = encode(target_of(model), fields)
    if not {"max_tokens", "max_completion_tokens"} & fields.keys() and "thinking" not in body:
        assert body.pop("max_tokens") == 4096
    return body, dropped


# max_tokens


@pytest.mark.parametrize(
    ("max_output", "fields", "expected", "dropped"),
    [
        (None, {}, 4096, ()),
        (64000, {}, 64000, ()),
        (None, {"max_tokens": 10}, 10, ()),
        (None, {"max_completion_tokens": 10}, 10, ()),
        (None, {"max_completion_tokens": 10, "max_tokens": 10}, 10, ()),
        (None, {"max_completion_tokens": 10, "max_tokens": 20}, 10, ("max_tokens",)),
        (8192, {"max_tokens": 9000}, 8192, ("max_tokens",)),
        (8192, {"max_completion_tokens": 9000}, 8192, ("max_completion_tokens",)),
    ],
)
def test_max_tokens_is_always_there(
    max_output: int | None, fields: dict[str, Any], expected: int, dropped: tuple[str, ...]
) -> None:
    assert encode(target_of(SONNET, max_output=max_output), fields) == ({"max_tokens": expected}, dropped)


# thinking


@pytest.mark.parametrize(
    ("model", "effort", "expected", "dropped"),
    [
        (SONNET, "minimal", {"thinking": {"type": "enabled", "budget_tokens": 1024}}, ()),
        (SONNET, "low", {"thinking": {"type": "enabled", "budget_tokens": 2048}}, ()),
        (SONNET, "medium", {"thinking": {"type": "enabled", "budget_tokens": 8192}}, ()),
        (SONNET, "high", {"thinking": {"type": "enabled", "budget_tokens": 16384}}, ()),
        (SONNET, "xhigh", {"thinking": {"type": "enabled", "budget_tokens": 32768}}, ()),
        (SONNET, "none", {"thinking": {"type": "disabled"}}, ()),
        (SONNET, "hardest", {}, ("reasoning_effort",)),
        ("claude-3-5-haiku-20241022", "high", {}, ("reasoning_effort",)),
        (ADAPTIVE, "medium", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"}}, ()),
        (ADAPTIVE, "minimal", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, ("reasoning_effort",)),
        (ADAPTIVE, "xhigh", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}, ("reasoning_effort",)),
        (ADAPTIVE, "max", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, ()),
        ("claude-opus-4-8", "xhigh", {"thinking": SUMMARIZED, "output_config": {"effort": "xhigh"}}, ()),
        ("claude-opus-5", "none", {"thinking": {"type": "disabled"}}, ()),
        ("claude-sonnet-5-5", "none", {"thinking": {"type": "between_tools"}}, ()),
        (NEWEST, "none", {"output_config": {"effort": "low"}}, ("reasoning_effort",)),
        (NEWEST, "high", {"thinking": SUMMARIZED, "output_config": {"effort": "high"}}, ()),
        ("kimi-k2", "high", {}, ("reasoning_effort",)),
    ],
)
def test_reasoning_effort(model: str, effort: str, expected: dict[str, Any], dropped: tuple[str, ...]) -> None:
    body, named = encode(target_of(model), {"reasoning_effort": effort})
    budget = expected.get("thinking", {}).get("budget_tokens", 0)
    assert body == {"max_tokens": 4096 + budget, **expected}
    assert named == dropped


def test_a_name_that_says_nothing_thinks_if_the_configuration_says_so() -> None:
    body, _ = encode(target_of("kimi-k2", reasoning=True), {"reasoning_effort": "low"})
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 2048}


@pytest.mark.parametrize(
    ("max_output", "fields", "max_tokens", "budget"),
    [
        (None, {}, 16384 + 4096, 16384),
        (64000, {}, 64000, 16384),
        (8192, {}, 8192, 6553),
        (None, {"max_completion_tokens": 4000}, 4000, 3200),
        (None, {"max_completion_tokens": 1280}, 1280, 1024),
        (None, {"max_completion_tokens": 1279}, 1279, None),
        (None, {"max_completion_tokens": 100}, 100, None),
    ],
)
def test_a_budget_leaves_room_for_the_answer(
    max_output: int | None, fields: dict[str, Any], max_tokens: int, budget: int | None
) -> None:
    body, dropped = encode(target_of(SONNET, max_output=max_output), {"reasoning_effort": "high", **fields})
    assert body["max_tokens"] == max_tokens
    assert body.get("thinking") == ({"type": "enabled", "budget_tokens": budget} if budget else None)
    assert dropped == (() if budget else ("reasoning_effort",))


@pytest.mark.parametrize(
    ("model", "asked", "expected", "dropped"),
    [
        (SONNET, {"type": "enabled", "budget_tokens": 1500}, {"type": "enabled", "budget_tokens": 1500}, ()),
        (SONNET, {"type": "disabled"}, {"type": "disabled"}, ()),
        (SONNET, {"type": "adaptive"}, {"type": "enabled", "budget_tokens": 8192}, ("thinking.type",)),
        (ADAPTIVE, {"type": "adaptive", "display": "omitted"}, {"type": "adaptive", "display": "omitted"}, ()),
        (ADAPTIVE, {"type": "enabled", "budget_tokens": 1500}, {"type": "adaptive"}, ("thinking.budget_tokens",)),
        (NEWEST, {"type": "disabled"}, None, ("thinking",)),
        ("claude-sonnet-5-5", {"type": "disabled"}, {"type": "between_tools"}, ("thinking",)),
        ("claude-sonnet-5-5", {"type": "between_tools"}, {"type": "between_tools"}, ()),
        ("claude-3-5-haiku-20241022", {"type": "enabled", "budget_tokens": 1500}, None, ("thinking",)),
        (SONNET, "yes", None, ("thinking",)),
    ],
)
def test_anthropics_own_thinking(model: str, asked: Any, expected: dict[str, Any] | None, dropped: tuple[str, ...]) -> None:
    body, named = encode(target_of(model), {"thinking": asked})
    assert body.get("thinking") == expected
    assert named == dropped


def test_a_callers_own_budget_is_fitted_into_the_callers_own_limit() -> None:
    fields = {"thinking": {"type": "enabled", "budget_tokens": 9000}, "max_tokens": 5000}
    body, dropped = encode(target_of(SONNET), fields)
    assert body == {"max_tokens": 5000, "thinking": {"type": "enabled", "budget_tokens": 4000}}
    assert dropped == ("thinking.budget_tokens",)


def test_anthropics_own_words_win_over_reasoning_effort() -> None:
    body, dropped = knobs(ADAPTIVE, output_config={"effort": "max"}, reasoning_effort="low")
    assert body["output_config"] == {"effort": "max"}
    assert dropped == ("reasoning_effort",)


def test_a_demanded_call_leaves_no_budget_but_an_effort() -> None:
    forced = {"tools": [TOOL], "tool_choice": "required", "reasoning_effort": "high"}
    body, dropped = encode(target_of(SONNET), forced)
    assert "thinking" not in body
    assert dropped == ("reasoning_effort",)
    body, dropped = encode(target_of(ADAPTIVE), forced)
    assert body["thinking"] == {"type": "adaptive"}  # recorded: it gives way by itself
    assert dropped == ()


def test_a_loop_that_was_begun_without_thoughts_goes_on_without() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages = [USER, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "a", "content": "1"}]
    body, dropped = encode(target_of(SONNET), {"messages": messages, "tools": [TOOL], "reasoning_effort": "high"})
    assert "thinking" not in body
    assert dropped == ("reasoning_effort",)
    body, dropped = encode(target_of(ADAPTIVE), {"messages": messages, "tools": [TOOL], "reasoning_effort": "high"})
    assert body["thinking"] == {"type": "adaptive"}
    assert dropped == ()


def test_a_prefilled_answer_is_not_thought_about() -> None:
    messages = [USER, {"role": "assistant", "content": "So"}]
    body, dropped = encode(target_of(SONNET), {"messages": messages, "reasoning_effort": "high"})
    assert "thinking" not in body
    assert dropped == ("reasoning_effort",)


# sampling


@pytest.mark.parametrize(
    ("model", "fields", "expected", "dropped"),
    [
        (SONNET, {"temperature": 0.5}, {"temperature": 0.5}, ()),
        (SONNET, {"temperature": 0}, {"temperature": 0}, ()),
        (SONNET, {"temperature": 1}, {"temperature": 1}, ()),
        (SONNET, {"temperature": 1.7}, {"temperature": 1}, ("temperature",)),
        (SONNET, {"temperature": -1}, {"temperature": 0}, ("temperature",)),
        (SONNET, {"top_p": 0.9}, {"top_p": 0.9}, ()),
        (SONNET, {"top_p": 0.9, "temperature": 0.5}, {"temperature": 0.5}, ("top_p",)),
        ("claude-3-5-haiku-20241022", {"top_p": 0.9, "temperature": 0.5}, {"top_p": 0.9, "temperature": 0.5}, ()),
        (SONNET, {"top_k": 40}, {"top_k": 40}, ()),
        (NEWEST, {"temperature": 0.5, "top_p": 0.9, "top_k": 4}, {}, ("temperature", "top_k", "top_p")),
        (NEWEST, {"temperature": 1}, {}, ("temperature",)),
        ("kimi-k2", {"temperature": 0.5, "top_p": 0.9, "top_k": 4}, {"temperature": 0.5, "top_p": 0.9, "top_k": 4}, ()),
    ],
)
def test_sampling(model: str, fields: dict[str, Any], expected: dict[str, Any], dropped: tuple[str, ...]) -> None:
    assert knobs(model, **fields) == (expected, dropped)


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"temperature": 0.5}, {}),
        ({"temperature": 1}, {"temperature": 1}),
        ({"top_p": 0.9}, {}),
        ({"top_p": 0.97}, {"top_p": 0.97}),
    ],
)
def test_a_model_that_thinks_is_hardly_to_be_steered(fields: dict[str, Any], kept: dict[str, Any]) -> None:
    body, dropped = encode(target_of(SONNET), {"reasoning_effort": "low", **fields})
    assert {name: body[name] for name in ("temperature", "top_p") if name in body} == kept
    assert dropped == (() if kept else tuple(fields))


@pytest.mark.parametrize("value", ["hot", True, [1]])
def test_a_temperature_that_is_none_is_the_callers_fault(value: Any) -> None:
    with pytest.raises(CallerError) as fault:
        knobs(temperature=value)
    assert fault.value.param == "temperature"


# the rest


@pytest.mark.parametrize(
    ("fields", "expected", "dropped"),
    [
        ({"stop": "END"}, {"stop_sequences": ["END"]}, ()),
        ({"stop": ["A", "\n\n", "B"]}, {"stop_sequences": ["A", "B"]}, ("stop",)),
        ({"stop": "\n"}, {}, ("stop",)),
        ({"stop": []}, {}, ()),
        ({"stop": 7}, {}, ("stop",)),
        ({"user": "ada"}, {"metadata": {"user_id": "ada"}}, ()),
        ({"safety_identifier": "s"}, {"metadata": {"user_id": "s"}}, ()),
        ({"safety_identifier": "s", "user": "ada"}, {"metadata": {"user_id": "s"}}, ("user",)),
        ({"user": "x" * 257}, {}, ("user",)),
        ({"service_tier": "auto"}, {"service_tier": "auto"}, ()),
        ({"service_tier": "default"}, {"service_tier": "standard_only"}, ()),
        ({"service_tier": "flex"}, {}, ("service_tier",)),
        ({"metadata": {"trip": "summer"}}, {}, ("metadata",)),
        ({"seed": 7, "verbosity": "low", "web_search_options": {}}, {}, ("seed", "verbosity", "web_search_options")),
        ({"response_format": {"type": "text"}}, {}, ()),
        ({"container": "container_1", "speed": "fast"}, {"container": "container_1", "speed": "fast"}, ()),
        ({"context_management": {"edits": []}}, {}, ("context_management",)),
        # what asks for nothing loses nothing
        ({"n": 1, "logprobs": False, "top_logprobs": 0, "store": False, "modalities": ["text"]}, {}, ()),
        ({"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}}, {}, ()),
        ({"seed": None, "user": None, "tools": None, "stop": None}, {}, ()),
        ({"frequency_penalty": 0.1, "store": True}, {}, ("frequency_penalty", "store")),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_rest(fields: dict[str, Any], expected: dict[str, Any], dropped: tuple[str, ...]) -> None:
    assert knobs(SONNET, **fields) == (expected, dropped)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
    ],
)
def test_features_without_words_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(CannotCarry) as refused:
        knobs(**fields)
    assert refused.value.param == param


def test_what_wants_a_beta_header_is_carried_where_that_is_configured() -> None:
    target = target_of(SONNET, headers={"anthropic-beta": "mcp-client-2025-11-20"})
    servers = [{"type": "url", "url": "https://mcp.example", "name": "x"}]
    encoded = DIALECT.encode_request(chat_request({"model": "m", "messages": [USER], "mcp_servers": servers}), target)
    assert orjson.loads(encoded.body)["mcp_servers"] == servers
    assert encoded.dropped == ()


def test_an_answers_schema_becomes_its_format() -> None:
    named = {"name": "Answer", "description": "What it is.", "strict": True, "schema": SCHEMA}
    body, dropped = knobs(response_format={"type": "json_schema", "json_schema": named})
    schema = {**SCHEMA, "title": "Answer", "description": "What it is."}
    assert body == {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    assert dropped == ()


def test_an_answers_schema_stands_beside_the_effort() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    body, _ = knobs(ADAPTIVE, response_format=wanted, reasoning_effort="low")
    assert body["output_config"].keys() == {"format", "effort"}


def test_a_schema_with_another_title_keeps_it() -> None:
    named = {"name": "a", "schema": {**SCHEMA, "title": "b", "description": "Two."}, "description": "One."}
    body, dropped = knobs(response_format={"type": "json_schema", "json_schema": named})
    schema = body["output_config"]["format"]["schema"]
    assert (schema["title"], schema["description"]) == ("b", "One. Two.")
    assert dropped == ("response_format.json_schema.name",)


@pytest.mark.parametrize(
    ("model", "schema", "feature"),
    [
        ("claude-3-7-sonnet-20250219", SCHEMA, "an answer that holds to a JSON schema"),
        (SONNET, {"type": "object"}, "a JSON schema with keys that are not known beforehand"),
        (SONNET, {"$defs": {"A": {"$ref": "#/$defs/A"}}, "$ref": "#/$defs/A"}, "a recursive JSON schema"),
    ],
)
def test_schemas_that_cannot_be_held_to_are_refused(model: str, schema: dict[str, Any], feature: str) -> None:
    with pytest.raises(CannotCarry) as refused:
        knobs(model, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}})
    assert refused.value.feature == feature


@pytest.mark.parametrize("named", [None, {}, {"schema": "x"}, "x"])
def test_a_schema_that_is_none_is_the_callers_fault(named: Any) -> None:
    with pytest.raises(CallerError) as fault:
        knobs(response_format={"type": "json_schema", "json_schema": named})
    assert fault.value.param == "response_format.json_schema.schema"


def test_quirks_of_the_provider_come_first() -> None:
    quirks = Quirks(drop=frozenset(("top_k", "user", "absent")), rename={"max_tokens": "max_completion_tokens"})
    body, dropped = encode(target_of(SONNET, quirks=quirks), {"top_k": 4, "user": "ada", "max_tokens": 5})
    assert body == {"max_tokens": 5}
    assert dropped == ("top_k", "user")


# no third place


# the format knows no JSON schema that is not held to
ALWAYS_SO = frozenset(("response_format.json_schema.strict",))


@pytest.mark.property
@pytest.mark.parametrize("model", [*MODELS, "kimi-k2"])
@pytest.mark.parametrize("name", [*FIELDS, *FOREIGN_FIELDS, *NESTED_FIELDS])
def test_every_field_is_on_the_wire_or_named(name: str, model: str) -> None:
    if name in ALWAYS_SO:
        return
    if any("tool" in beside for beside in BESIDE.get(name, {})) and name == "tool_choice" and model.endswith("-5-5"):
        return  # refused, as a test above shows
    try:
        fate = where_is(name, DIALECT, target_of(model))
    except CannotCarry:
        return  # already for what it needs beside it
    assert fate in ("carried", "in part", "dropped", "refused")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "function", "auto", "json_schema", "#/$defs/a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                """type function name parameters strict properties $ref $defs a anyOf allOf oneOf items enum required format schema
                json_schema additionalProperties cache_control allowed_tools tools mode effort budget_tokens minItems""".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@pytest.mark.property
@given(name=st.sampled_from([*FIELDS, *FOREIGN_FIELDS, "output_config", "container"]), value=_JSON, model=st.sampled_from(MODELS))
def test_no_value_of_any_field_makes_it_fall_over(name: str, value: Any, model: str) -> None:
    wrapped = {
        "tools": [{"type": "function", "function": value}],
        "response_format": {"type": "json_schema", "json_schema": value},
    }
    for given_ in (value, wrapped.get(name, value)):
        try:
            request = chat_request({"model": "m", "messages": [USER], "tools": [TOOL], name: given_})
            DIALECT.encode_request(request, target_of(model))
        except (CannotCarry, CallerError):
            pass


@pytest.mark.property
@given(schema=_JSON)
def test_whatever_the_schema_the_api_would_take_it(schema: Any) -> None:
    named = {"name": "a", "schema": schema}
    tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": schema}}
    for fields in ({"response_format": {"type": "json_schema", "json_schema": named}}, {"tools": [tool]}):
        try:
            request = chat_request({"model": "m", "messages": [USER], **fields})
            encoded = DIALECT.encode_request(request, target_of(SONNET))
        except (CannotCarry, CallerError):
            continue
        judge(orjson.loads(encoded.body))


_TEXTS = st.sampled_from(["Hi", "", " \n", "Grüße 🌍", "x" * 50])
_IDS = st.sampled_from(["a", "b", "call_1", "functions.f:0", "ü"])
_DETAILS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["reasoning.text", "reasoning.encrypted"]),
            "text": _TEXTS,
            "signature": st.sampled_from(["", "c2ln"]),
            "data": st.sampled_from(["", "ZGF0YQ=="]),
            "format": st.sampled_from(["anthropic", "gemini"]),
            "provider": st.sampled_from(["anthropic", "vertex"]),
            "position": st.fixed_dictionaries({"text": st.integers(0, 60), "calls": st.integers(0, 3)}),
        }
    ),
    max_size=2,
)


@st.composite
def _exchange(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A turn of the assistant, with the results of its calls if it has any."""
    ids = draw(st.lists(_IDS, max_size=3, unique=True))
    calls = [{"id": id_, "type": "function", "function": {"name": "get_weather", "arguments": "{}"}} for id_ in ids]
    answer = {"role": "assistant", "content": draw(_TEXTS), "tool_calls": calls, "reasoning_details": draw(_DETAILS)}
    results = [{"role": "tool", "tool_call_id": id_, "content": draw(_TEXTS)} for id_ in ids]
    return [answer, *results]


@st.composite
def _conversation(draw: st.DrawFn) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["user", "system", "exchange"]))
        found += draw(_exchange()) if kind == "exchange" else [{"role": kind, "content": draw(_TEXTS)}]
    return [*found, {"role": "user", "content": "Go on."}] if draw(st.booleans()) else found


@pytest.mark.property
@given(
    messages=_conversation(),
    model=st.sampled_from(MODELS),
    fields=st.fixed_dictionaries(
        {},
        optional={
            "reasoning_effort": st.sampled_from(["none", "minimal", "low", "high", "xhigh"]),
            "thinking": st.sampled_from([{"type": "enabled", "budget_tokens": 2000}, {"type": "adaptive"}, {"type": "disabled"}]),
            "max_tokens": st.sampled_from([1, 1500, 3000, 50000]),
            "temperature": st.sampled_from([0, 0.3, 1, 2]),
            "top_p": st.sampled_from([0.1, 0.99]),
            "top_k": st.just(5),
            "tool_choice": st.sampled_from(["auto", "none", "required"]),
            "parallel_tool_calls": st.booleans(),
            "stop": st.sampled_from([["\n"], ["END", " "], "x"]),
        },
    ),
)
def test_whatever_is_asked_the_api_would_take_it(messages: list[dict[str, Any]], model: str, fields: dict[str, Any]) -> None:
    request = chat_request({"model": "smart", "messages": messages, "tools": [TOOL], **fields})
    try:
        encoded = DIALECT.encode_request(request, target_of(model, max_output=32000))
    except (CannotCarry, CallerError):
        return
    judge(orjson.loads(encoded.body))
