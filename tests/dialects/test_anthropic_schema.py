"""JSON schemas brought into the subset that Anthropic holds its output to."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects.anthropic.schema import NotStrict, strict_schema, tool_schema

pytestmark = pytest.mark.unit

TEXT = {"type": "string"}


def strict(schema: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    noted: list[str] = []
    return strict_schema(schema, noted.append), noted


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


@pytest.mark.parametrize(
    "schema",
    [
        an_object(a=TEXT),
        {**an_object(a=TEXT), "required": ["a"], "title": "T", "description": "D"},
        an_object(a={"type": ["string", "null"]}),
        an_object(a={"anyOf": [TEXT, {"type": "null"}]}),
        an_object(a={"type": "array", "items": TEXT, "minItems": 1}),
        an_object(a={"type": "string", "format": "date-time"}),
        an_object(a={"enum": ["x", 1, None]}, b={"const": "y"}, c={"type": "string", "default": "z"}),
        {**an_object(a={"$ref": "#/$defs/A"}), "$defs": {"A": an_object(b={"$ref": "#/$defs/B"}), "B": TEXT}},
        {**an_object(a={"$ref": "#/definitions/A"}), "definitions": {"A": TEXT}},
        {"type": "array", "items": TEXT},
        an_object(**{"$ref": TEXT, "type": TEXT, "properties": TEXT}),
    ],
    ids=str,
)
def test_what_is_in_the_subset_stays_as_it_is(schema: dict[str, Any]) -> None:
    found, noted = strict(schema)
    assert found == schema
    assert list(found) == list(schema)
    assert noted == []


@pytest.mark.parametrize(
    ("schema", "expected", "noted"),
    [
        ({"type": "object", "properties": {"a": TEXT}}, an_object(a=TEXT), []),
        ({"properties": {"a": TEXT}}, an_object(a=TEXT), []),
        ({**an_object(a=TEXT), "additionalProperties": True}, an_object(a=TEXT), ["additionalProperties"]),
        ({"type": "integer", "minimum": 1}, {"type": "integer", "description": "(minimum: 1)"}, ["minimum"]),
        (
            {"type": "string", "description": "Two letters.", "minLength": 2, "pattern": "[a-z]+"},
            {"type": "string", "description": 'Two letters. (minLength: 2, pattern: "[a-z]+")'},
            ["minLength", "pattern"],
        ),
        ({"type": "string", "format": "binary"}, {"type": "string", "description": '(format: "binary")'}, ["format"]),
        (
            {"type": "array", "items": TEXT, "minItems": 3},
            {"type": "array", "items": TEXT, "description": "(minItems: 3)"},
            ["minItems"],
        ),
        ({"oneOf": [TEXT, {"type": "null"}]}, {"anyOf": [TEXT, {"type": "null"}]}, []),
        (
            {"allOf": [{"$ref": "#/$defs/A"}], "description": "An A.", "$defs": {"A": TEXT}},
            {"$defs": {"A": TEXT}, "$ref": "#/$defs/A"},
            ["description"],
        ),
        ({"type": "string", "$schema": "https://json-schema.org", "examples": ["x"]}, TEXT, []),
    ],
    ids=str,
)
def test_what_is_not_is_rewritten_or_described(schema: dict[str, Any], expected: dict[str, Any], noted: list[str]) -> None:
    assert strict(schema) == (expected, noted)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"description": "anything"},
        an_object(a={}),
        an_object(a=True),
        {"type": "object"},
        an_object(a={"type": "object"}),
        {"type": "object", "additionalProperties": TEXT},
        {"type": "object", "properties": {}, "additionalProperties": True},
        {"enum": [{"a": 1}]},
        {"type": "array", "items": {}},
        an_object(a={"$ref": "#"}),
        an_object(a={"$ref": "https://schemas.example/a"}),
        {"$ref": "#/$defs/A", "$defs": {"A": an_object(next={"$ref": "#/$defs/A"})}},
        {"$ref": "#/$defs/A", "$defs": {"A": an_object(b={"$ref": "#/$defs/B"}), "B": an_object(a={"$ref": "#/$defs/A"})}},
    ],
    ids=str,
)
def test_what_cannot_be_said_is_not_strict(schema: dict[str, Any]) -> None:
    with pytest.raises(NotStrict):
        strict(schema)


def test_a_long_chain_of_references_is_no_recursion() -> None:
    chain: dict[str, Any] = {f"D{number}": an_object(a={"$ref": f"#/$defs/D{number + 1}"}) for number in range(3000)}
    strict({"$ref": "#/$defs/D0", "$defs": {**chain, "D3000": TEXT}})


def test_a_tools_schema_is_left_alone() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "additionalProperties": TEXT}
    assert tool_schema(schema, pytest.fail) is schema


def test_a_tools_schema_is_an_object() -> None:
    assert tool_schema({"properties": {"a": TEXT}}, pytest.fail) == {"type": "object", "properties": {"a": TEXT}}


def test_a_tools_schema_does_not_refer_at_its_top() -> None:
    definitions = {"A": {"$ref": "#/$defs/B"}, "B": an_object(c={"$ref": "#/$defs/C"}), "C": TEXT}
    schema = {"$ref": "#/$defs/A", "$defs": definitions}
    assert tool_schema(schema, pytest.fail) == {**an_object(c={"$ref": "#/$defs/C"}), "$defs": definitions}
    circle = {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}
    assert tool_schema(circle, pytest.fail)["type"] == "object"


def test_alternatives_at_the_top_of_a_tools_schema_are_laid_together() -> None:
    noted: list[str] = []
    schema = {
        "description": "D",
        "required": ["x"],
        "properties": {"x": TEXT},
        "oneOf": [{"properties": {"a": TEXT}, "required": ["a", "x"]}, {"properties": {"b": TEXT}, "required": ["x"]}, False],
    }
    found = tool_schema(schema, noted.append)
    assert found["properties"] == {"a": TEXT, "b": TEXT, "x": TEXT}
    assert found["required"] == ["x"]
    assert noted == ["oneOf"]


def test_what_must_all_hold_at_the_top_is_no_loss() -> None:
    parts = [{"properties": {"a": TEXT}, "required": ["a"]}, {"properties": {"b": TEXT}, "required": ["b"]}]
    found = tool_schema({"allOf": parts}, pytest.fail)
    assert found == {"type": "object", "properties": {"a": TEXT, "b": TEXT}, "required": ["a", "b"]}
