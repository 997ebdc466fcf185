"""What Converse is asked for each thing that a caller can ask for, and what it is not asked because it would refuse it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.errors import CallerError, CannotCarry, InvalidRequest
from proxy.core.target import Quirks
from proxy.dialects.bedrock.dialect import BedrockConverse
from proxy.dialects.bedrock.request import MAX_METADATA
from tests.dialects.bedrock_judge import CLAUDE, NOVA, judge, sent, shape_of, target_of
from tests.dialects.bedrock_words import (
    CALL,
    CALLED,
    CLAUDE_5,
    CLAUDE_37,
    CLAUDE_46,
    COHERE,
    EPHEMERAL,
    FOREIGN_THOUGHTS,
    HI,
    LLAMA,
    MISTRAL,
    PROFILE,
    RED,
    REDACTED,
    SEALED,
    file,
    text,
)
from tests.dialects.fields import (
    CONVERSATION,
    FIELDS,
    FOREIGN_FIELDS,
    GOLDENS,
    NESTED_FIELDS,
    TOOL,
    chat_request,
    full_body,
    where_is,
    with_field,
)

pytestmark = pytest.mark.unit

# -- the whole of it


@pytest.mark.parametrize(
    ("name", "model", "without"),
    [
        ("full", CLAUDE, "logprobs top_logprobs input_audio"),
        ("adaptive", CLAUDE_46, "logprobs top_logprobs input_audio tool_choice"),
        ("nova", NOVA, "logprobs top_logprobs input_audio response_format"),
    ],
)
def test_a_conversation_that_uses_everything(name: str, model: str, without: str) -> None:
    """Read by eye against the documentation; `remote image_url` is what no model behind Bedrock takes."""
    found, outbound = sent(full_body(without=(*without.split(), "remote image_url")), model)
    told = {"path": outbound.path, "dropped": outbound.dropped, "body": found}
    golden = GOLDENS / "bedrock" / f"{name}.json"
    assert orjson.loads(orjson.dumps(told)) == orjson.loads(golden.read_bytes())


# fate by field where it is not dropped, for Claude 4.5, Nova 2 and a model of which nothing is known
CARRIED = {
    "max_completion_tokens",
    "max_tokens",
    "metadata",
    "service_tier",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "tools",
    "functions",
    "top_p",
    "messages[].refusal",
    "response_format.json_schema.description",
}
REFUSED = {"audio", "logprobs", "modalities", "n", "top_logprobs"}
FATES: dict[str, dict[str, str]] = {
    CLAUDE: dict.fromkeys(
        (
            "function_call",
            "messages[].cache_control",
            "messages[].content[].cache_control",
            "parallel_tool_calls",
            "reasoning_effort",
            "response_format",
            "thinking",
            "tool_choice",
            "tools[].cache_control",
            "tools[].function.strict",
            "top_k",
        ),
        "carried",
    ),
    NOVA: {
        **dict.fromkeys(
            (
                "function_call",
                "messages[].cache_control",
                "messages[].content[].cache_control",
                "reasoning_effort",
                "tool_choice",
                "top_k",
            ),
            "carried",
        ),
        "response_format": "refused",
    },
    PROFILE: {
        **dict.fromkeys(("function_call", "response_format", "tool_choice", "tools[].function.strict"), "carried"),
    },
}
ASKED = [
    (name, model)
    for model in FATES
    for name in [*FIELDS, *FOREIGN_FIELDS, *NESTED_FIELDS]
    # with it and without it an answer is held to its schema; and where it cannot be, there is nothing to describe
    if name != "response_format.json_schema.strict" and not (model == NOVA and name.startswith("response_format."))
]


@pytest.mark.parametrize(("name", "model"), ASKED)
def test_every_field_is_carried_dropped_by_name_or_refused(name: str, model: str) -> None:
    body, without = with_field(name)
    if model == NOVA and "response_format" in without:
        body, without = ({key: value for key, value in given.items() if key != "response_format"} for given in (body, without))
    expected = "refused" if name in REFUSED else FATES[model].get(name, "carried" if name in CARRIED else "dropped")
    if name in ("audio", "top_logprobs"):  # what they need beside them is refused already
        with pytest.raises(CannotCarry):
            sent(body, model)
        return
    assert where_is(name, BedrockConverse(), target_of(model), body=body, without=without) == expected


def test_an_answer_is_held_to_its_schema_with_strict_and_without() -> None:
    schemas = []
    for strict in (None, False, True):
        said = {"name": "hats", "schema": FIELDS["response_format"]["json_schema"]["schema"], "strict": strict}
        found, outbound = sent({"messages": HI, "response_format": {"type": "json_schema", "json_schema": said}})
        assert outbound.dropped == ()
        schemas.append(found["outputConfig"])
    assert schemas[0] == schemas[1] == schemas[2]


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (CLAUDE, "us.anthropic.claude-sonnet-4-5-20250929-v1%3A0"),
        ("google.gemma-3-27b-it", "google.gemma-3-27b-it"),
        (PROFILE, "arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aapplication-inference-profile%2Fmi1dadi0g15f"),
        ("my model/../x?a=b#c", "my%20model%2F..%2Fx%3Fa%3Db%23c"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_the_model_stands_in_the_path(model: str, path: str, stream: bool) -> None:
    _, outbound = sent({"messages": HI, "stream": stream}, model)
    assert outbound.path == f"/model/{path}/{'converse-stream' if stream else 'converse'}"


def test_the_callers_body_is_not_changed() -> None:
    body = full_body(without=("logprobs", "top_logprobs", "input_audio", "remote image_url"))
    request = chat_request(body)
    before = orjson.dumps(request.body)
    BedrockConverse().encode_request(request, target_of(CLAUDE))
    assert orjson.dumps(request.body) == before


def test_quirks_rename_and_drop() -> None:
    quirks = Quirks(rename={"max_tokens": "max_completion_tokens"}, drop=frozenset(("temperature", "tools")))
    body = {"messages": HI, "max_tokens": 5, "temperature": 1, "tools": [TOOL], "tool_choice": "auto"}
    found, outbound = sent(body, quirks=quirks)
    assert found["inferenceConfig"] == {"maxTokens": 5}
    assert "toolConfig" not in found
    assert {"temperature", "tools"} <= set(outbound.dropped)


# -- reasoning


def asked(model: str, target: dict[str, Any] | None = None, **fields: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(all but the messages, dropped)."""
    found, outbound = sent({"messages": HI, **fields}, model, **(target or {}))
    return {name: value for name, value in found.items() if name != "messages"}, outbound.dropped


def thinks(config: dict[str, Any]) -> dict[str, Any]:
    return {"additionalModelRequestFields": {"thinking": config}}


BUDGET_2048 = {"type": "enabled", "budget_tokens": 2048}
EFFORTS: list[tuple[str, dict[str, Any], dict[str, Any], tuple[str, ...]]] = [
    (CLAUDE, {"reasoning_effort": "low"}, thinks(BUDGET_2048), ()),
    (CLAUDE, {"reasoning_effort": "none"}, thinks({"type": "disabled"}), ()),
    (CLAUDE, {"reasoning_effort": "ludicrous"}, {}, ("reasoning_effort",)),
    ("anthropic.claude-3-haiku-20240307-v1:0", {"reasoning_effort": "low"}, {}, ("reasoning_effort",)),
    (
        CLAUDE_46,
        {"reasoning_effort": "high"},
        {"outputConfig": {"effort": "high"}, **thinks({"type": "adaptive"})},
        (),
    ),
    (
        CLAUDE_46,
        {"reasoning_effort": "xhigh"},
        {"outputConfig": {"effort": "high"}, **thinks({"type": "adaptive"})},
        ("reasoning_effort",),
    ),
    (
        CLAUDE_5,
        {"reasoning_effort": "medium"},
        {"outputConfig": {"effort": "medium"}, **thinks({"type": "adaptive", "display": "summarized"})},
        (),
    ),
    (
        CLAUDE,
        {"reasoning_effort": "high", "max_tokens": 4096},
        {"inferenceConfig": {"maxTokens": 4096}, **thinks({"type": "enabled", "budget_tokens": 3276})},
        (),
    ),
    # too little room to think and to answer
    (
        CLAUDE,
        {"reasoning_effort": "high", "max_tokens": 1000},
        {"inferenceConfig": {"maxTokens": 1000}},
        ("reasoning_effort",),
    ),
    (CLAUDE, {"thinking": {"type": "enabled", "budget_tokens": 1500}}, thinks({"type": "enabled", "budget_tokens": 1500}), ()),
    (
        CLAUDE_46,
        {"thinking": {"type": "enabled", "budget_tokens": 1500}},
        thinks({"type": "adaptive"}),
        ("thinking.budget_tokens",),
    ),
    (CLAUDE, {"thinking": {"type": "adaptive"}}, thinks({"type": "enabled", "budget_tokens": 8192}), ("thinking.type",)),
    (
        CLAUDE,
        {"reasoning_effort": "low", "temperature": 0.5, "top_p": 0.9, "top_k": 5},
        thinks(BUDGET_2048),
        (
            "temperature",
            "top_k",
            "top_p",
        ),
    ),
    (
        NOVA,
        {"reasoning_effort": "minimal"},
        {"additionalModelRequestFields": {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}}},
        ("reasoning_effort",),
    ),
    (
        NOVA,
        {"reasoning_effort": "high", "temperature": 0.5, "top_p": 0.5},
        {"additionalModelRequestFields": {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}}},
        ("temperature", "top_p"),
    ),
    # a limit on what may be written comes first
    (
        NOVA,
        {"reasoning_effort": "high", "max_tokens": 100},
        {
            "inferenceConfig": {"maxTokens": 100},
            "additionalModelRequestFields": {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "medium"}},
        },
        ("reasoning_effort",),
    ),
    (
        NOVA,
        {"reasoning_effort": "none"},
        {"additionalModelRequestFields": {"reasoningConfig": {"type": "disabled"}}},
        (),
    ),
    ("us.amazon.nova-pro-v1:0", {"reasoning_effort": "low"}, {}, ("reasoning_effort",)),
    (
        "openai.gpt-oss-120b-1:0",
        {"reasoning_effort": "high"},
        {"additionalModelRequestFields": {"reasoning_effort": "high"}},
        (),
    ),
    (
        "us.openai.gpt-5-1",
        {"reasoning_effort": "high"},
        {"additionalModelRequestFields": {"reasoning": {"effort": "high"}}},
        (),
    ),
    ("openai.gpt-oss-120b-1:0", {"reasoning_effort": "none"}, {}, ("reasoning_effort",)),
    (
        "qwen.qwen3-32b-v1:0",
        {"reasoning_effort": "max"},
        {"additionalModelRequestFields": {"reasoning_config": "high"}},
        ("reasoning_effort",),
    ),
    (PROFILE, {"reasoning_effort": "low", "thinking": BUDGET_2048}, {}, ("reasoning_effort", "thinking")),
    # in Converse's own words: nothing is added to that
    (
        CLAUDE,
        {"additionalModelRequestFields": {"thinking": BUDGET_2048, "x": 1}, "reasoning_effort": "high", "temperature": 0.5},
        {"additionalModelRequestFields": {"thinking": BUDGET_2048, "x": 1}},
        ("reasoning_effort", "temperature"),
    ),
]


@pytest.mark.parametrize(("model", "fields", "told", "lost"), EFFORTS)
def test_how_much_to_think(model: str, fields: dict[str, Any], told: dict[str, Any], lost: tuple[str, ...]) -> None:
    assert asked(model, **fields) == (told, lost)


def test_a_budget_leaves_room_under_what_the_model_can_write() -> None:
    told, lost = asked(CLAUDE, {"max_output": 8192}, reasoning_effort="max")
    assert told == thinks({"type": "enabled", "budget_tokens": 6553})
    assert lost == ()


def test_a_demanded_call_is_made_without_thinking() -> None:
    body = {"messages": HI, "tools": [TOOL], "tool_choice": "required", "reasoning_effort": "low"}
    found, outbound = sent(body)
    assert "additionalModelRequestFields" not in found
    assert outbound.dropped == ("reasoning_effort",)


# -- the rest


@pytest.mark.parametrize(
    ("model", "fields", "inference", "lost"),
    [
        (NOVA, {"temperature": 1.7, "top_p": -1}, {"temperature": 1, "topP": 0}, ("temperature", "top_p")),
        (NOVA, {"temperature": 0.3, "top_p": 0.5}, {"temperature": 0.3, "topP": 0.5}, ()),
        (CLAUDE, {"temperature": 0.3, "top_p": 0.5}, {"temperature": 0.3}, ("top_p",)),  # one of them
        (CLAUDE, {"top_p": 0.5}, {"topP": 0.5}, ()),
        (CLAUDE_37, {"temperature": 0.3, "top_p": 0.5}, {"temperature": 0.3, "topP": 0.5}, ()),
        # "`temperature` is deprecated for this model."
        (CLAUDE_5, {"temperature": 0.3, "top_p": 0.5, "top_k": 3}, None, ("temperature", "top_k", "top_p")),
        (CLAUDE, {"stop": "END"}, {"stopSequences": ["END"]}, ()),
        (CLAUDE, {"stop": ["\n", "END"]}, {"stopSequences": ["END"]}, ("stop",)),
        (NOVA, {"stop": ["\n", ""]}, {"stopSequences": ["\n"]}, ("stop",)),
        (CLAUDE, {"stop": []}, None, ()),
        (CLAUDE, {"max_tokens": 5, "max_completion_tokens": 7}, {"maxTokens": 7}, ("max_tokens",)),
    ],
)
def test_inference_config(model: str, fields: dict[str, Any], inference: dict[str, Any] | None, lost: tuple[str, ...]) -> None:
    told, dropped_names = asked(model, **fields)
    assert told.get("inferenceConfig") == inference
    assert dropped_names == lost


def test_no_more_is_asked_for_than_the_model_can_write() -> None:
    assert asked(NOVA, {"max_output": 5000}, max_tokens=9000) == ({"inferenceConfig": {"maxTokens": 5000}}, ("max_tokens",))


@pytest.mark.parametrize(
    ("model", "additional", "lost"),
    [
        (CLAUDE, {"top_k": 40}, ("frequency_penalty", "seed")),
        (NOVA, {"inferenceConfig": {"topK": 40}}, ("frequency_penalty", "seed")),
        (MISTRAL, {"top_k": 40}, ("frequency_penalty", "seed")),
        (COHERE, {"k": 40, "seed": 7, "frequency_penalty": 0.5}, ()),
        ("ai21.jamba-1-5-large-v1:0", {"frequency_penalty": 0.5}, ("seed", "top_k")),
        (LLAMA, None, ("frequency_penalty", "seed", "top_k")),
        (PROFILE, None, ("frequency_penalty", "seed", "top_k")),
    ],
)
def test_what_each_family_has_a_name_for(model: str, additional: dict[str, Any] | None, lost: tuple[str, ...]) -> None:
    told, dropped_names = asked(model, top_k=40, seed=7, frequency_penalty=0.5)
    assert told.get("additionalModelRequestFields") == additional
    assert dropped_names == lost


def test_what_asks_for_nothing_is_not_called_lost() -> None:
    nothing: dict[str, Any] = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "logprobs": False,
        "top_logprobs": 0,
        "n": 1,
        "store": False,
        "service_tier": "auto",
        "stop": None,
        "metadata": {},
        "modalities": ["text"],
        "tools": [],
        "user": None,
    }
    assert asked(CLAUDE, **nothing) == ({}, ())


@pytest.mark.parametrize(
    ("tier", "told", "lost"),
    [
        ("default", {"type": "default"}, ()),
        ("priority", {"type": "priority"}, ()),
        ("flex", {"type": "flex"}, ()),
        ("reserved", {"type": "reserved"}, ()),
        ("auto", None, ()),
        ("scale", None, ("service_tier",)),
        (7, None, ("service_tier",)),
    ],
)
def test_service_tier(tier: Any, told: Any, lost: tuple[str, ...]) -> None:
    found, names = asked(CLAUDE, service_tier=tier)
    assert (found.get("serviceTier"), names) == (told, lost)


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"trip": "summer", "id": "a-1 b:_@$#=/+,."}, True),
        ({"trip": ""}, True),
        ({f"k{n}": "v" for n in range(MAX_METADATA)}, True),
        ({f"k{n}": "v" for n in range(MAX_METADATA + 1)}, False),
        ({"trip": "x" * 256}, True),
        ({"trip": "x" * 257}, False),
        ({"": "x"}, False),
        ({"trip": "sömmer"}, False),
        ({"trip": 7}, False),
        ({"trip": None}, False),
    ],
)
def test_metadata(metadata: dict[str, Any], told: bool) -> None:
    found, names = asked(CLAUDE, metadata=metadata)
    assert found.get("requestMetadata") == (metadata if told else None)
    assert names == (() if told else ("metadata",))


def test_converses_own_fields_are_carried_as_they_are() -> None:
    own: dict[str, Any] = {
        "additionalModelRequestFields": {"anthropic_beta": ["x"]},
        "additionalModelResponseFieldPaths": ["/stop_sequence"],
        "guardrailConfig": {"guardrailIdentifier": "g1", "guardrailVersion": "1", "streamProcessingMode": "async"},
        "performanceConfig": {"latency": "optimized"},
        "promptVariables": {"city": {"text": "Lisboa"}},
        "requestMetadata": {"team": "travel"},
    }
    found, names = asked(CLAUDE, None, stream=True, **own)
    assert (found, names) == (own, ())
    found, names = asked(CLAUDE, None, **own)  # only a stream has a mode
    assert found["guardrailConfig"] == {"guardrailIdentifier": "g1", "guardrailVersion": "1"}
    assert names == ("guardrailConfig.streamProcessingMode",)
    for name in own:
        assert asked(CLAUDE, None, **{name: "wrong"}) == ({}, (name,))


def test_arguments_that_are_nested_too_deeply_are_the_callers_mistake() -> None:
    arguments = '{"a":' * 300 + "1" + "}" * 300
    call = {**CALL, "function": {"name": "get_weather", "arguments": arguments}}
    with pytest.raises(InvalidRequest):
        sent({"messages": [*HI, {"role": "assistant", "tool_calls": [call]}, CALLED[2]], "tools": [TOOL]})


def test_botocore_is_there_or_the_strict_judge_is_alone() -> None:
    if shape_of(True) is None:
        pytest.skip("botocore is not installed: the judge that knows AWS's own model of the API was not asked")
    with pytest.raises(AssertionError):
        judge(b'{"messages":[{"role":"user","content":[{"text":"Hi"}]}],"made_up":1}')


# -- any request

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5000) | st.floats(-3, 3) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
TEXTS = st.sampled_from(["", " ", "Hi", "Grüße \u2028", "x" * 50])
PARTS = st.lists(
    st.one_of(
        TEXTS.map(text),
        st.just({"type": "image_url", "image_url": {"url": RED}}),
        st.sampled_from(["a.pdf", "b?.pdf", "", None]).map(lambda name: file(filename=name)),
        TEXTS.map(lambda said: text(said, cache_control=EPHEMERAL)),
    ),
    max_size=4,
)
POSITIONS = st.builds(lambda chars, calls: {"text": chars, "calls": calls}, st.integers(0, 8), st.integers(0, 3))
DETAILS = st.lists(
    st.one_of(
        POSITIONS.map(lambda position: {**SEALED, "position": position}),
        POSITIONS.map(lambda position: {**REDACTED, "position": position}),
        st.sampled_from(FOREIGN_THOUGHTS),
    ),
    max_size=3,
)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Well-formed as OpenAI has it: every call is answered at once. In any order and with anything in it."""
    found: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 6))):
        match draw(st.sampled_from(["system", "user", "assistant", "calls"])):
            case "system":
                found.append({"role": "system", "content": draw(TEXTS)})
            case "user":
                found.append({"role": "user", "content": draw(PARTS), "cache_control": draw(st.sampled_from([None, EPHEMERAL]))})
            case "assistant":
                found.append({"role": "assistant", "content": draw(TEXTS), "reasoning_details": draw(DETAILS)})
            case _:
                ids = draw(st.lists(st.sampled_from(["call_1", "a.b:c", "x" * 70, "é"]), min_size=1, max_size=3, unique=True))
                calls = [{**CALL, "id": id_} for id_ in ids]
                turn = {"role": "assistant", "content": draw(TEXTS), "tool_calls": calls, "reasoning_details": draw(DETAILS)}
                found.append(turn)
                found += [{"role": "tool", "tool_call_id": id_, "content": draw(PARTS)} for id_ in draw(st.permutations(ids))]
    return [*found, {"role": "user", "content": "And?"}]


KNOBS = st.fixed_dictionaries(
    {},
    optional={
        "tools": st.just([TOOL]),
        "tool_choice": st.sampled_from(["auto", "none", "required", {"type": "function", "function": {"name": "get_weather"}}]),
        "parallel_tool_calls": st.booleans(),
        "reasoning_effort": st.sampled_from(["none", "minimal", "low", "high", "max"]),
        "thinking": st.sampled_from([{"type": "adaptive"}, {"type": "enabled", "budget_tokens": 1500}, {"type": "disabled"}]),
        "max_tokens": st.integers(1, 60_000),
        "temperature": st.floats(-1, 3, allow_nan=False),
        "top_p": st.floats(-1, 3, allow_nan=False),
        "top_k": st.integers(0, 500),
        "stop": st.lists(TEXTS, max_size=3),
    },
)
MODELS = st.sampled_from([CLAUDE, CLAUDE_37, CLAUDE_46, CLAUDE_5, NOVA, MISTRAL, PROFILE, "us.anthropic.claude-opus-5-5"])


@pytest.mark.property
@given(conversations(), KNOBS, MODELS)
@settings(max_examples=100, deadline=None)
def test_whatever_is_asked_is_taken_by_the_judge_or_refused_by_name(
    given_messages: list[dict[str, Any]], knobs: dict[str, Any], model: str
) -> None:
    try:
        sent({"messages": given_messages, **knobs}, model)
    except CannotCarry:
        pass


@pytest.mark.property
@given(st.dictionaries(st.sampled_from([*FIELDS, *FOREIGN_FIELDS, "guardrailConfig", "requestMetadata"]), JSON, max_size=4))
@settings(max_examples=100, deadline=None)
def test_nonsense_is_the_callers_mistake_and_never_ours(fields: dict[str, Any]) -> None:
    try:
        BedrockConverse().encode_request(chat_request({**CONVERSATION, **fields}), target_of(CLAUDE))
    except (CannotCarry, CallerError):
        pass
