"""JSON Schemas as callers write them, made into those that a provider's subset takes. Nothing here changes the caller's object.

https://json-schema.org/draft/2020-12/json-schema-core

`rewrite` takes a rule through every schema inside a schema, innermost first. A rule is given a copy that it may change, returns what is
to stand there, and can be any of the rules below:

    type_in_lower_case     {"type": "STRING"}                        {"type": "string"}
    nullable_as_type       OpenAPI's {"type": T, "nullable": true}   {"type": [T, "null"]}
    const_as_enum          {"const": 3}                              {"type": "integer", "enum": [3]}
    null_beside_enum       {"enum": ["a", null]}                     {"anyOf": [{"enum": ["a"]}, {"type": "null"}]}
    only_part_of_all       {"allOf": [S], "title": …}                S with the title
    reference_alone        {"$ref": R, "description": …}             {"anyOf": [{"$ref": R}], "description": …}
    limits_included        {"type": "integer", "exclusiveMinimum": 3}    {"type": "integer", "minimum": 4}

Each says the same in other words. What a rule cannot say in other words, it leaves as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Schema = dict[str, Any]
Rule = Callable[[Schema], Schema]

# where schemas stand inside a schema: as the value itself, in a list, under names
_ALONE = frozenset(
    """additionalItems additionalProperties contains contentSchema else if items not propertyNames then unevaluatedItems
    unevaluatedProperties""".split()
)
_LISTED = frozenset(("allOf", "anyOf", "items", "oneOf", "prefixItems"))
_NAMED = frozenset(("$defs", "definitions", "dependentSchemas", "patternProperties", "properties"))

# what describes a value without limiting it
_ANNOTATIONS = ("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly")

_JSON_TYPES: dict[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
_OLD_DEFINITIONS = "#/definitions/"


def rewrite(schema: Schema, rules: Iterable[Rule]) -> Schema:
    """The schema with every rule applied, in this order, to each schema inside it and then to itself."""
    rules = tuple(rules)

    def walk(found: Any) -> Any:
        if not isinstance(found, dict):
            return found  # true and false are schemas too
        copy: Schema = {}
        for name, value in found.items():
            if name in _NAMED and isinstance(value, dict):
                copy[name] = {key: walk(inner) for key, inner in value.items()}
            elif name in _LISTED and isinstance(value, list):
                copy[name] = [walk(inner) for inner in value]
            else:
                copy[name] = walk(value) if name in _ALONE else value
        for rule in rules:
            copy = rule(copy)
        return copy

    rewritten: Schema = walk(schema)
    return rewritten


def modern_definitions(schema: Schema) -> Schema:
    """`definitions` under their newer name, `$defs`, and the references to them. For a whole schema, before any rule."""
    if not isinstance(schema.get("definitions"), dict) or "$defs" in schema:
        return schema

    def renamed(found: Schema) -> Schema:
        reference = found.get("$ref")
        if isinstance(reference, str) and reference.startswith(_OLD_DEFINITIONS):
            found["$ref"] = "#/$defs/" + reference.removeprefix(_OLD_DEFINITIONS)
        return found

    found = rewrite(schema, (renamed,))
    found["$defs"] = found.pop("definitions")
    return found


def without(*keywords: str) -> Rule:
    """Leaves out keywords that say nothing about a value, such as `$schema` and `$comment`."""

    def rule(schema: Schema) -> Schema:
        for keyword in keywords:
            schema.pop(keyword, None)
        return schema

    return rule


def type_in_lower_case(schema: Schema) -> Schema:
    """As Google's own examples and others write types: STRING."""
    kind = schema.get("type")
    if isinstance(kind, str) and kind.isupper():
        schema["type"] = kind.lower()
    return schema


def nullable_as_type(schema: Schema) -> Schema:
    if not isinstance(schema.get("nullable"), bool):
        return schema
    nullable, kind = schema.pop("nullable"), schema.get("type")
    if nullable and isinstance(kind, str) and kind != "null":
        schema["type"] = [kind, "null"]
        if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
            schema["enum"] = [*schema["enum"], None]
    return schema


def const_as_enum(schema: Schema) -> Schema:
    if "const" not in schema or "enum" in schema:
        return schema
    value = schema.pop("const")
    if value is None:
        schema["type"] = "null"
        return schema
    schema.setdefault("type", _JSON_TYPES[type(value)])
    schema["enum"] = [value]
    return schema


def null_beside_enum(schema: Schema) -> Schema:
    values = schema.get("enum")
    if not isinstance(values, list) or None not in values:
        return schema
    rest = [value for value in values if value is not None]
    annotations: Schema = {name: schema.pop(name) for name in _ANNOTATIONS if name in schema}
    kinds = schema.get("type")
    if isinstance(kinds, list):
        kinds = [kind for kind in kinds if kind != "null"]
        schema["type"] = kinds[0] if len(kinds) == 1 else kinds
    if not rest:
        return {**annotations, "type": "null"}
    return {**annotations, "anyOf": [{**schema, "enum": rest}, {"type": "null"}]}


def only_part_of_all(schema: Schema) -> Schema:
    """As older generators write a reference with a description beside it."""
    parts = schema.get("allOf")
    if not isinstance(parts, list) or len(parts) != 1 or not isinstance(parts[0], dict):
        return schema
    rest = {name: value for name, value in schema.items() if name != "allOf"}
    if any(name not in _ANNOTATIONS and not name.startswith("$") for name in rest):
        return schema  # two schemas that both limit the value are not one
    return {**parts[0], **rest}


def reference_alone(schema: Schema) -> Schema:
    """For readers that take nothing beside a `$ref` but what itself begins with `$`."""
    if not isinstance(schema.get("$ref"), str) or all(name.startswith("$") for name in schema):
        return schema
    if "anyOf" in schema:
        return schema
    rest = {name: value for name, value in schema.items() if name != "$ref"}
    return {**rest, "anyOf": [{"$ref": schema["$ref"]}]}


def limits_included(schema: Schema) -> Schema:
    """Of integers, the only ones for which the next number is known."""
    if schema.get("type") != "integer":
        return schema
    for exclusive, inclusive, step in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
        limit = schema.get(exclusive)
        if type(limit) is int and inclusive not in schema:
            del schema[exclusive]
            schema[inclusive] = limit + step
    return schema
