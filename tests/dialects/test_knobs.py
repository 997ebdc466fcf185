"""No third place: what is not taken is dropped by name. And the tables by which every dialect is asked for each field."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import completion_create_params

from proxy.core.chat import ChatRequest
from proxy.core.errors import CannotCarry, InvalidValue
from proxy.core.target import Provider, Target
from proxy.dialects.base import OutboundRequest
from proxy.dialects.knobs import Knobs
from proxy.dialects.openai_messages import read_turns
from tests.dialects.fields import (
    CONVERSATION,
    FIELDS,
    FOREIGN_FIELDS,
    NESTED_FIELDS,
    chat_request,
    full_body,
    where_is,
    with_field,
)

pytestmark = pytest.mark.unit

TARGET = Target(Provider("acme", "acme", "https://acme.example", ()), "acme-large", "acme-large")


def test_what_nobody_took_is_dropped_in_order() -> None:
    knobs = Knobs({"user": "u", "temperature": 1, "seed": 0, "model": "m", "messages": [], "stream": True, "stream_options": {}})
    assert knobs.take("temperature") == 1
    assert knobs.dropped == ("seed", "user")


def test_a_null_says_nothing_but_a_zero_and_a_false_do() -> None:
    knobs = Knobs({"user": None, "top_p": None, "seed": 0, "store": False})
    assert knobs.take("user") is None
    assert knobs.take("absent") is None
    assert knobs.dropped == ("seed", "store")


def test_what_was_taken_may_be_dropped_after_all_and_in_part() -> None:
    knobs = Knobs({"seed": 7, "tools": []})
    assert (knobs.take("seed"), knobs.take("tools")) == (7, [])
    knobs.drop("seed")
    knobs.drop("tools[].function.strict")
    knobs.drop("seed")
    assert knobs.dropped == ("seed", "tools[].function.strict")


def test_what_was_dropped_is_not_carried_later() -> None:
    """A quirk drops a field before the dialect asks for it."""
    knobs = Knobs({"seed": 7})
    assert knobs.take("seed") == 7
    knobs.drop("seed")
    assert knobs.take("seed") is None
    assert knobs.dropped == ("seed",)


@pytest.mark.property
@given(
    st.dictionaries(st.sampled_from(sorted(FIELDS)), st.none() | st.integers()),
    st.sets(st.sampled_from(sorted(FIELDS))),
    st.sets(st.sampled_from(sorted(FIELDS))),
)
def test_every_field_is_taken_or_dropped(body: dict[str, Any], taken: set[str], dropped: set[str]) -> None:
    knobs = Knobs(body)
    found = {name: knobs.take(name) for name in taken}
    for name in dropped & body.keys():
        knobs.drop(name)
    ours = {"stream", "stream_options"}
    told = {name for name, value in body.items() if value is not None} - ours
    assert told <= {name for name, value in found.items() if value is not None} | set(knobs.dropped)
    assert list(knobs.dropped) == sorted(set(knobs.dropped))


# -- the tables


def test_the_table_has_every_field_of_openais() -> None:
    known = completion_create_params.CompletionCreateParamsBase.__annotations__.keys() | {"stream"}
    assert set(FIELDS) == known - {"model", "messages"}
    assert set(FIELDS).isdisjoint(FOREIGN_FIELDS)


def test_the_full_request_is_one_that_a_caller_may_send() -> None:
    request = chat_request(full_body())
    assert request.needs == {"tools", "streamed_tools", "vision", "audio", "documents", "json_schema", "logprobs"}
    assert {part["type"] for message in request.body["messages"] for part in message["content"] if isinstance(part, dict)} == {
        "text",
        "image_url",
        "file",
        "input_audio",
    }
    # the retired ones, and what makes it another kind of request, are left to the table
    missing = set(FIELDS) - request.body.keys()
    assert missing == {
        "audio",
        "function_call",
        "functions",
        "max_tokens",
        "moderation",
        "prompt_cache_options",
        "prompt_cache_retention",
    }


def test_parts_and_fields_can_be_taken_out_of_the_full_request() -> None:
    body = full_body(without=("remote image_url", "input_audio", "logit_bias"))
    assert "logit_bias" not in body
    assert [part["type"] for part in body["messages"][2]["content"]] == ["text", "image_url", "file"]
    assert [part["type"] for part in full_body(without=("image_url",))["messages"][2]["content"]] == [
        "text",
        "file",
        "input_audio",
    ]


class Toy:
    """Carries temperature, refuses logprobs, and loses `seed`."""

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        knobs = Knobs(request.body)
        body = {"turns": [turn.text for turn in read_turns(request.body["messages"], knobs)]}
        if knobs.take("logprobs"):
            raise CannotCarry("log probabilities", param="logprobs")
        if request.choices > 1:
            raise InvalidValue("`n` must be 1.", param="n")
        if (temperature := knobs.take("temperature")) is not None:
            body["temperature"] = temperature
        if (user := knobs.take("user")) is not None:
            body["user"] = user[:3]
            knobs.drop("user")
        knobs.take("seed")
        return OutboundRequest("/chat", orjson.dumps(body), knobs.dropped)


@pytest.mark.parametrize(
    ("name", "fate"),
    [
        ("temperature", "carried"),
        ("user", "in part"),
        ("logprobs", "refused"),
        ("n", "refused"),
        ("tools", "dropped"),
        ("tool_choice", "dropped"),
        ("stream_options", "carried"),
        ("made_up_by_the_caller", "dropped"),
        ("messages[].refusal", "carried"),
        ("messages[].name", "dropped"),
        ("messages[].reasoning_content", "dropped"),
        ("tools[].made_up", "dropped"),
        ("response_format.json_schema.strict", "dropped"),
    ],
)
def test_the_question_what_became_of_a_field(name: str, fate: str) -> None:
    assert where_is(name, Toy(), TARGET) == fate


def test_the_question_finds_what_is_lost() -> None:
    with pytest.raises(AssertionError, match="`seed` is neither on the wire nor in"):
        where_is("seed", Toy(), TARGET)


@pytest.mark.parametrize("name", [*FIELDS, *FOREIGN_FIELDS, *NESTED_FIELDS])
def test_a_field_of_the_tables_makes_one_difference(name: str) -> None:
    body, without = with_field(name)
    assert body != without
    assert chat_request(body).body == body
    if name in NESTED_FIELDS:
        assert without == CONVERSATION
