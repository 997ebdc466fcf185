"""JSON Schemas in other words: what each rule makes of them, and that nobody else's object is changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.json_schema import (
    Rule,
    const_as_enum,
    limits_included,
    modern_definitions,
    null_beside_enum,
    nullable_as_type,
    only_part_of_all,
    reference_alone,
    rewrite,
    type_in_lower_case,
    without,
)

pytestmark = pytest.mark.unit

S = {"type": "string"}

RULES: list[tuple[Rule, dict[str, Any], dict[str, Any]]] = [
    (without("$schema", "$comment"), {"$schema": "http://json-schema.org/draft-07/schema#", **S}, S),
    (type_in_lower_case, {"type": "OBJECT"}, {"type": "object"}),
    (type_in_lower_case, {"type": ["string", "null"]}, {"type": ["string", "null"]}),
    (nullable_as_type, {**S, "nullable": True}, {"type": ["string", "null"]}),
    (nullable_as_type, {**S, "nullable": False}, S),
    (nullable_as_type, {**S, "enum": ["a"], "nullable": True}, {"type": ["string", "null"], "enum": ["a", None]}),
    (nullable_as_type, {"nullable": {"a": 1}}, {"nullable": {"a": 1}}),
    (const_as_enum, {"const": "a"}, {"type": "string", "enum": ["a"]}),
    (const_as_enum, {"const": 3}, {"type": "integer", "enum": [3]}),
    (const_as_enum, {"const": 3, "type": "number"}, {"type": "number", "enum": [3]}),
    (const_as_enum, {"const": None}, {"type": "null"}),
    (const_as_enum, {"const": True}, {"type": "boolean", "enum": [True]}),
    (null_beside_enum, {"enum": ["a", None]}, {"anyOf": [{"enum": ["a"]}, {"type": "null"}]}),
    (null_beside_enum, {"enum": ["a", "b"]}, {"enum": ["a", "b"]}),
    (
        null_beside_enum,
        {"type": ["string", "null"], "enum": ["a", None], "description": "A letter."},
        {"description": "A letter.", "anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]},
    ),
    (null_beside_enum, {"enum": [None], "title": "Nothing"}, {"title": "Nothing", "type": "null"}),
    (only_part_of_all, {"allOf": [S], "title": "Name"}, {**S, "title": "Name"}),
    (only_part_of_all, {"allOf": [S], "maxLength": 3}, {"allOf": [S], "maxLength": 3}),
    (only_part_of_all, {"allOf": [S, {"maxLength": 3}]}, {"allOf": [S, {"maxLength": 3}]}),
    (reference_alone, {"$ref": "#/$defs/A", "description": "One."}, {"description": "One.", "anyOf": [{"$ref": "#/$defs/A"}]}),
    (reference_alone, {"$ref": "#/$defs/A", "$defs": {"A": S}}, {"$ref": "#/$defs/A", "$defs": {"A": S}}),
    (reference_alone, {"$ref": "#/$defs/A"}, {"$ref": "#/$defs/A"}),
    (limits_included, {"type": "integer", "exclusiveMinimum": 3}, {"type": "integer", "minimum": 4}),
    (limits_included, {"type": "integer", "exclusiveMaximum": 3}, {"type": "integer", "maximum": 2}),
    (limits_included, {"type": "number", "exclusiveMinimum": 3}, {"type": "number", "exclusiveMinimum": 3}),
    (
        limits_included,
        {"type": "integer", "exclusiveMinimum": 3, "minimum": 9},
        {"type": "integer", "exclusiveMinimum": 3, "minimum": 9},
    ),
]


@pytest.mark.parametrize(("rule", "schema", "wanted"), RULES)
def test_a_rule_says_the_same_in_other_words(rule: Rule, schema: dict[str, Any], wanted: dict[str, Any]) -> None:
    before = copy.deepcopy(schema)
    assert rewrite(schema, (rule,)) == wanted
    assert schema == before


PLACES = [
    {"properties": {"a": S}},
    {"patternProperties": {"^a": S}},
    {"$defs": {"A": S}},
    {"definitions": {"A": S}},
    {"items": S},
    {"items": [S]},
    {"prefixItems": [S]},
    {"additionalProperties": S},
    {"anyOf": [S]},
    {"oneOf": [S]},
    {"allOf": [S]},
    {"not": S},
    {"if": S, "then": S, "else": S},
    {"properties": {"properties": {"properties": {"type": S}}}},
]


def marked(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type") == "string":
        schema["title"] = "Seen"
    return schema


@pytest.mark.parametrize("schema", PLACES)
def test_rules_reach_every_schema_inside_a_schema(schema: dict[str, Any]) -> None:
    found = rewrite(schema, (marked,))
    assert str(found).count("'Seen'") == str(schema).count("'string'")


@pytest.mark.parametrize("name", ["enum", "const", "default", "examples", "required"])
def test_values_are_not_schemas(name: str) -> None:
    schema = {name: [S, {"properties": {"a": S}}]}
    assert rewrite(schema, (marked,)) == schema


def test_true_and_false_are_schemas_too() -> None:
    schema = {"additionalProperties": False, "items": True, "anyOf": [True]}
    assert rewrite(schema, (marked,)) == schema


def test_rules_go_from_the_inside_out_and_in_their_order() -> None:
    schema = {"properties": {"a": {"allOf": [{"$ref": "#/$defs/A"}], "description": "One."}}}
    assert rewrite(schema, (only_part_of_all, reference_alone)) == {
        "properties": {"a": {"description": "One.", "anyOf": [{"$ref": "#/$defs/A"}]}}
    }


def test_definitions_get_their_newer_name_with_all_that_refers_to_them() -> None:
    schema = {
        "definitions": {"A": S, "B": {"properties": {"a": {"$ref": "#/definitions/A"}}}},
        "anyOf": [{"$ref": "#/definitions/B"}, {"$ref": "#/properties/x"}],
    }
    before = copy.deepcopy(schema)
    assert modern_definitions(schema) == {
        "$defs": {"A": S, "B": {"properties": {"a": {"$ref": "#/$defs/A"}}}},
        "anyOf": [{"$ref": "#/$defs/B"}, {"$ref": "#/properties/x"}],
    }
    assert schema == before


@pytest.mark.parametrize("schema", [S, {"$defs": {}, "definitions": {"A": S}}, {"definitions": "none"}])
def test_what_has_no_older_definitions_is_left_alone(schema: dict[str, Any]) -> None:
    assert modern_definitions(schema) is schema


NAMES = st.sampled_from(
    """type enum const anyOf allOf oneOf items properties $ref $defs definitions nullable required format description
    additionalProperties exclusiveMinimum minimum title default not $schema""".split()
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["string", "integer", "OBJECT", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.property
@given(schema=st.dictionaries(NAMES, VALUES, max_size=6))
def test_nothing_that_is_called_a_schema_breaks_the_rules(schema: dict[str, Any]) -> None:
    before = copy.deepcopy(schema)
    rules = [rule for rule, _, _ in RULES]
    once = rewrite(modern_definitions(schema), rules)
    assert schema == before
    assert isinstance(once, dict)
