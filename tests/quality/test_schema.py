"""Whether a value satisfies a schema: keyword by keyword, and that what cannot be checked satisfies."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.quality.schema import MAX_DEPTH, MAX_STEPS, satisfies

pytestmark = pytest.mark.unit

CASES: list[tuple[Any, list[Any], list[Any]]] = [
    ({"type": "object"}, [{}], [[], "a", None]),
    ({"type": ["string", "null"]}, ["a", None], [1]),
    ({"type": "integer"}, [1, 1.0], [1.5, True, "1"]),
    ({"type": "number"}, [1, 1.5], [True, "1"]),
    ({"type": "boolean"}, [True], [1, None]),
    ({"type": "STRING"}, ["a"], [1]),
    ({"type": "string", "nullable": True}, ["a", None], [1]),
    ({"enum": ["a", 1]}, ["a", 1], ["b", True]),
    ({"const": None}, [None], [0, False]),
    ({"const": True}, [True], [1]),
    ({"properties": {"a": {"type": "string"}}}, [{}, {"a": "x"}, {"b": 1}, []], [{"a": 1}]),
    ({"required": ["a"]}, [{"a": None}], [{}]),
    ({"properties": {"a": {}}, "additionalProperties": False}, [{"a": 1}], [{"b": 1}]),
    ({"additionalProperties": {"type": "integer"}}, [{"a": 1}], [{"a": "x"}]),
    ({"items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, [[1], [1, 2]], [[], [1, 2, 3], ["a"]]),
    ({"prefixItems": [{"type": "string"}], "items": False}, [[], ["a"]], [[1], ["a", 2]]),
    ({"minLength": 2, "maxLength": 3}, ["ab", "abc", 1], ["a", "abcd"]),
    ({"minimum": 1, "maximum": 3}, [1, 3, "0"], [0, 4]),
    ({"exclusiveMinimum": 1, "exclusiveMaximum": 3}, [2], [1, 3]),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, ["a", None], [1]),
    ({"oneOf": [{"type": "integer"}, {"minimum": 5}]}, [1, 5.5], [6, 1.5]),
    ({"allOf": [{"minimum": 1}, {"maximum": 3}]}, [2], [0, 4]),
    ({"not": {"type": "string"}}, [1], ["a"]),
    ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}, [1], ["a"]),
    ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}}, [1], ["a"]),
    (
        {"properties": {"next": {"$ref": "#"}, "n": {"type": "integer"}}, "required": ["n"]},
        [{"n": 1, "next": {"n": 2}}],
        [{"n": 1, "next": {}}, {"n": 1, "next": {"n": "a"}}],
    ),
    (False, [], [1]),
    (True, [1], []),
]


@pytest.mark.parametrize(("schema", "good", "bad"), CASES, ids=[str(schema)[:40] for schema, _, _ in CASES])
def test_keywords(schema: Any, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not satisfies(value, schema)] == []
    assert [value for value in bad if satisfies(value, schema)] == []


@pytest.mark.parametrize(
    "schema",
    [
        None,
        3,
        "string",
        [],
        {"type": 3},
        {"type": "oddity"},
        {"enum": 3},
        {"required": "a"},
        {"properties": []},
        {"$ref": "http://x"},
        {"$ref": "#/no"},
    ],
    ids=str,
)
def test_what_is_no_schema_asks_for_nothing(schema: Any) -> None:
    assert satisfies({"b": 1}, schema)


def test_a_pattern_is_not_checked() -> None:
    assert satisfies("a" * 50, {"pattern": "^(a+)+$"})


def test_what_is_too_deep_or_too_long_satisfies() -> None:
    endless = {"$ref": "#"}
    assert satisfies(1, endless)
    deep: Any = "a"
    for _ in range(MAX_DEPTH + 2):
        deep = [deep]
    assert satisfies(deep, {"items": {"$ref": "#"}, "type": "array"})
    assert satisfies(["a"] * (MAX_STEPS + 1), {"items": {"type": "string"}})
    assert satisfies(1, {"oneOf": [{"$ref": "#"}, {"$ref": "#"}]})


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)
WORDS = st.sampled_from(
    ["type", "enum", "const", "properties", "required", "items", "anyOf", "oneOf", "allOf", "not", "$ref", "minimum", "a"]
)
ODD_SCHEMAS = st.recursive(
    st.one_of(JSON, st.sampled_from(["string", "object", "#", "#/a"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=4)),
    max_leaves=12,
)


@pytest.mark.property
@settings(max_examples=60, deadline=None)
@given(value=JSON, schema=ODD_SCHEMAS)
def test_no_schema_breaks_it(value: Any, schema: Any) -> None:
    assert satisfies(value, schema) in (True, False)
