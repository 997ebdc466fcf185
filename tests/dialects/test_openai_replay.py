"""What a conversation that was begun at another provider becomes for one that takes less of it back."""

import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.catalogue import load_catalogue
from proxy.core.target import Provider, Quirks, Target
from proxy.dialects.openai_chat import patched_body
from proxy.dialects.openai_replay import with_call_ids, without_fields
from tests.dialects.fields import chat_request

pytestmark = pytest.mark.unit

MISTRAL = load_catalogue()["mistral"].quirks
NINE = re.compile(r"[a-zA-Z0-9]{9}")
REPLAYED: list[dict[str, Any]] = [
    {"role": "user", "content": "Hi", "name": "ada"},
    {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "reasoning_content": "By the bridge.",
        "reasoning_details": [
            {"type": "reasoning.text", "text": "By the bridge.", "format": "anthropic", "provider": "anthropic"}
        ],
        "tool_calls": [
            {"id": "toolu_01A09q90qw90lq917835lq9", "type": "function", "function": {"name": "look", "arguments": "{}"}},
            {"id": "call_2", "type": "function", "function": {"name": "look", "arguments": "{}"}},
            {"id": "D681PevKs", "type": "function", "function": {"name": "look", "arguments": "{}"}},
        ],
    },
    {"role": "tool", "tool_call_id": "call_2", "name": "look", "content": "two"},
    {"role": "tool", "tool_call_id": "D681PevKs", "content": "three"},
    {"role": "tool", "tool_call_id": "toolu_01A09q90qw90lq917835lq9", "content": "one"},
]


def target(quirks: Quirks) -> Target:
    return Target(Provider("p", "openai", "http://127.0.0.1/v1", ()), "m", "m", quirks=quirks)


def call_ids(messages: list[dict[str, Any]]) -> list[str]:
    return [call["id"] for message in messages for call in message.get("tool_calls") or ()]


def answered_ids(messages: list[dict[str, Any]]) -> list[str]:
    return [message["tool_call_id"] for message in messages if "tool_call_id" in message]


def test_mistral_gets_ids_of_nine_characters_and_no_field_that_it_does_not_know() -> None:
    request = chat_request({"model": "smart", "messages": REPLAYED})
    before = orjson.dumps(request.body)
    body, dropped = patched_body(request, target(MISTRAL))
    messages = body["messages"]
    assert [message.keys() for message in messages] == [
        {"role", "content"},
        {"role", "content", "tool_calls"},
        {"role", "content", "tool_call_id"},
        {"role", "content", "tool_call_id"},
        {"role", "content", "tool_call_id"},
    ]
    first, second, third = call_ids(messages)
    assert answered_ids(messages) == [second, third, first]
    assert third == "D681PevKs", "one of its own stays as it is"
    assert len({first, second, third}) == 3
    assert all(NINE.fullmatch(id_) for id_ in (first, second, third))
    assert dropped == ("messages[].name", "messages[].reasoning_content", "messages[].reasoning_details")
    assert orjson.dumps(request.body) == before


def test_whoever_takes_anything_gets_the_very_messages_that_came() -> None:
    request = chat_request({"model": "smart", "messages": REPLAYED})
    body, dropped = patched_body(request, target(Quirks()))
    assert body["messages"] is request.body["messages"]
    assert dropped == ()


def test_an_empty_field_is_taken_out_and_is_no_loss() -> None:
    """The SDK's own `message.model_dump()` sends nulls for all that an answer did not have."""
    said: dict[str, Any] = {
        "role": "assistant",
        "content": "x",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
    }
    assert without_fields([said], MISTRAL.drop_in_messages) == ([{"role": "assistant", "content": "x"}], set())


def test_an_id_is_the_same_in_every_request_of_the_conversation() -> None:
    """Otherwise what a provider keeps in its cache would never be found again."""
    assert with_call_ids(REPLAYED, 9) == with_call_ids(REPLAYED, 9)
    assert call_ids(with_call_ids(REPLAYED, 9)) == call_ids(with_call_ids([*REPLAYED, {"role": "user", "content": "x"}], 9))


def test_an_id_that_is_made_is_not_one_that_is_there_already() -> None:
    (made,) = call_ids(with_call_ids([{"role": "assistant", "tool_calls": [{"id": "call_2"}]}], 9))
    both = call_ids(with_call_ids([{"role": "assistant", "tool_calls": [{"id": "call_2"}, {"id": made}]}], 9))
    assert both[1] == made
    assert both[0] != made
    assert NINE.fullmatch(both[0])


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "tool_calls": None},
        {"role": "assistant", "tool_calls": "what?"},
        {"role": "assistant", "tool_calls": [None, 5, {}, {"id": None}, {"id": 7}]},
        {"role": "tool", "tool_call_id": None},
        {"role": "tool", "tool_call_id": 7},
    ],
)
def test_what_is_no_id_is_the_upstreams_to_judge(message: dict[str, Any]) -> None:
    assert with_call_ids([message], 9) == [message]


@pytest.mark.property
@given(st.lists(st.text(max_size=12) | st.text("abcXYZ019", min_size=9, max_size=9), max_size=12), st.integers(8, 64))
def test_any_ids_come_out_in_form_and_told_apart(ids: list[str], length: int) -> None:
    messages: list[dict[str, Any]] = [{"role": "assistant", "tool_calls": [{"id": id_} for id_ in ids]}]
    messages += [{"role": "tool", "tool_call_id": id_} for id_ in ids]
    written = with_call_ids(messages, length)
    made = call_ids(written)
    assert answered_ids(written) == made
    assert all(len(id_) == length and id_.isascii() and id_.isalnum() for id_ in made)
    assert len(set(made)) == len(set(ids))
