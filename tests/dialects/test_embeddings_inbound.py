"""A caller's request for embeddings: the four forms of its input, and what is wrong is said with its `param`."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.core.chat import ChatRequest, Tags
from proxy.core.errors import CallerError, InvalidJson, InvalidRequest, InvalidValue, ModelNotFound
from proxy.core.target import FEATURES
from proxy.dialects.openai_embeddings import MAX_INPUTS, OpenAIEmbeddingsInbound

pytestmark = pytest.mark.unit

INBOUND = OpenAIEmbeddingsInbound()


def decode(**fields: Any) -> ChatRequest:
    return INBOUND.decode_request(orjson.dumps({"model": "m", "input": "Hi", **fields}))


@pytest.mark.parametrize(
    "given", ["Hi", ["Hi"], ["Hi", "Ho"], [1, 2, 0], [[1, 2], [3]], ["x"] * MAX_INPUTS, [[1]] * MAX_INPUTS, [7] * 8192]
)
def test_the_four_forms_of_an_input(given: Any) -> None:
    request = decode(input=given, dimensions=256, encoding_format="base64", user="u", made_up={"a": [1]})
    assert request.body == {
        "model": "m",
        "input": given,
        "dimensions": 256,
        "encoding_format": "base64",
        "user": "u",
        "made_up": {"a": [1]},
    }
    assert (request.kind, request.model, request.stream) == ("embeddings", "m", False)
    assert request.needs == {"embeddings"}
    assert request.max_output_tokens is None
    assert request.needs <= set(FEATURES)


@pytest.mark.parametrize(
    ("given", "kind", "param"),
    [
        (None, InvalidRequest, "input"),
        (5, InvalidRequest, "input"),
        ({"text": "Hi"}, InvalidRequest, "input"),
        ("", InvalidValue, "input"),
        ([], InvalidValue, "input"),
        (["Hi", ""], InvalidValue, "input[1]"),
        ([[1], []], InvalidValue, "input[1]"),
        ([[]], InvalidValue, "input[0]"),
        (["Hi", 5], InvalidRequest, "input[1]"),
        ([5, "Hi"], InvalidRequest, "input[0]"),
        ([[1], "Hi"], InvalidRequest, "input[1]"),
        ([[1], [1, "Hi"]], InvalidRequest, "input[1]"),
        ([[1], [[1]]], InvalidRequest, "input[1]"),
        ([1.5], InvalidRequest, "input[0]"),
        ([True], InvalidRequest, "input[0]"),
        ([None], InvalidRequest, "input[0]"),
        ([{"text": "Hi"}], InvalidRequest, "input[0]"),
        ([1, -1], InvalidValue, "input"),
        ([[1], [-1]], InvalidValue, "input[1]"),
        (["x"] * (MAX_INPUTS + 1), InvalidValue, "input"),
        ([[1]] * (MAX_INPUTS + 1), InvalidValue, "input"),
    ],
)
def test_an_input_that_is_none_is_told_with_its_place(given: Any, kind: type[CallerError], param: str) -> None:
    with pytest.raises(kind) as caught:
        decode(input=given)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("encoding_format", "hex"),
        ("encoding_format", 1),
        ("encoding_format", ["float"]),
        ("dimensions", 0),
        ("dimensions", -1),
        ("dimensions", 1.5),
        ("dimensions", "256"),
        ("dimensions", True),
        ("dimensions", 2.0**64),  # what JSON makes of an integer that is too large
    ],
)
def test_other_values_that_the_proxy_relies_on_are_checked(field: str, value: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        decode(**{field: value})
    assert caught.value.param == field


def test_a_null_says_nothing() -> None:
    assert decode(encoding_format=None, dimensions=None).kind == "embeddings"


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"", InvalidJson), (b"{", InvalidJson), (b"[]", InvalidRequest), (b'{"input": "Hi"}', InvalidRequest)],
)
def test_what_is_no_request_at_all(body: bytes, kind: type[CallerError]) -> None:
    with pytest.raises(kind):
        INBOUND.decode_request(body)
    with pytest.raises(ModelNotFound):
        decode(model="m\n")


def test_fields_that_could_redirect_the_call_go_no_further() -> None:
    assert decode(api_base="http://evil.invalid", extra_headers={"a": "b"}).body == {"model": "m", "input": "Hi"}


def test_tags_are_taken_out_of_the_metadata() -> None:
    request = decode(metadata={"department": "research", "mine": "kept"})
    assert request.tags == Tags(department="research")
    assert request.body["metadata"] == {"mine": "kept"}
