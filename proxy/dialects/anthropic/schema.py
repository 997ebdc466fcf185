"""JSON schemas as Anthropic takes them: any for the input of a tool, nearly; a strict subset where the output is held to one.

https://platform.claude.com/docs/en/build-with-claude/structured-outputs#json-schema-limitations

    in the subset    type, enum, const, anyOf, allOf, $ref and $defs, required, properties, items, title, description, default,
                     format (of _FORMATS), minItems of 0 and 1; additionalProperties false, which every object must say
    rewritten        oneOf -> anyOf; an allOf of one -> that one
    only described   minimum, maxLength, pattern and whatever else holds a value to something: it becomes part of the description, where
                     the model reads it and nothing enforces it, and is named to the caller
    impossible       objects with free keys, recursion, references outside the schema, values of any type: NotStrict

Outside strict mode one thing is refused, and not documented: `anyOf`, `oneOf` and `allOf` at the top of a tool's schema
(https://github.com/anthropics/claude-code/issues/40075). Its alternatives are laid together, and the choice among them is named as lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

Note = Callable[[str], None]  # is told of each keyword that is not enforced

_FORMATS = frozenset("date-time time date duration email hostname uri ipv4 ipv6 uuid".split())
_AS_IT_IS = ("type", "const", "title", "default", "required")
_UNIONS = ("anyOf", "oneOf", "allOf")
_DEFINITIONS = ("$defs", "definitions")
_RIVALS = frozenset(("type", "properties", "anyOf", "oneOf"))  # beside an allOf of one, which is then not all there is
_SAY_NOTHING = frozenset(("$schema", "$id", "$comment", "$anchor", "examples", "deprecated", "readOnly", "writeOnly"))
_READ = frozenset(
    (*_AS_IT_IS, *_UNIONS, *_DEFINITIONS, "$ref", "enum", "description", "properties", "items", "additionalProperties")
)


class NotStrict(Exception):
    """A schema that cannot be said in the subset. `feature` completes "cannot carry …"."""

    def __init__(self, feature: str) -> None:
        super().__init__(feature)
        self.feature = feature


def strict_schema(schema: dict[str, Any], note: Note) -> dict[str, Any]:
    """The schema in the subset. Raises NotStrict."""
    definitions = _definitions(schema)
    _no_recursion(schema, definitions)
    return _strict(schema, note)


def without_top_reference(schema: dict[str, Any]) -> dict[str, Any]:
    """What a schema that only refers to one of its definitions refers to, since a tool's must say at its top that it is an object."""
    definitions = _definitions(schema)
    for _ in range(len(definitions)):
        target = definitions.get(schema["$ref"]) if isinstance(schema.get("$ref"), str) else None
        if not isinstance(target, dict):
            break
        schema = {**target, **{name: schema[name] for name in _DEFINITIONS if name in schema}}
    return schema


def tool_schema(schema: dict[str, Any], note: Note) -> dict[str, Any]:
    """The input of a tool that is not strict: an object without a choice at its top."""
    schema = without_top_reference(schema)
    if not any(name in schema for name in _UNIONS):
        return schema if schema.get("type") == "object" else {"type": "object", **schema}
    definitions = _definitions(schema)
    merged = {name: value for name, value in schema.items() if name not in _UNIONS}
    merged["type"] = "object"
    properties: dict[str, Any] = {}
    required: list[Any] = []
    for union in _UNIONS:
        variants = [_resolved(variant, definitions) for variant in _list(schema.get(union))]
        if not variants:
            continue
        if union != "allOf":
            note(union)
        for variant in variants:
            properties.update(_dict(variant.get("properties")))
        needed = [_list(variant.get("required")) for variant in variants]
        required += [name for names in needed for name in names if union == "allOf" or all(name in others for others in needed)]
    merged["properties"] = {**properties, **_dict(schema.get("properties"))}
    required += _list(schema.get("required"))
    if required:
        merged["required"] = list(dict.fromkeys(name for name in required if isinstance(name, str)))
    return merged


def _strict(schema: object, note: Note) -> dict[str, Any]:
    if not isinstance(schema, dict):
        raise NotStrict("a JSON schema that takes any value")
    found: dict[str, Any] = {}
    for name in _DEFINITIONS:
        if isinstance(schema.get(name), dict):
            found[name] = {key: _strict(inner, note) for key, inner in schema[name].items()}
    if "$ref" in schema:
        if not isinstance(schema["$ref"], str):
            raise NotStrict("a JSON schema that refers to nothing")
        # nothing may stand beside a reference but definitions
        _note_all(note, schema.keys() - _SAY_NOTHING - {"$ref", "title", *_DEFINITIONS})
        return {**found, "$ref": schema["$ref"]}
    all_of = _list(schema.get("allOf"))
    if len(all_of) == 1 and isinstance(all_of[0], dict) and not schema.keys() & _RIVALS:
        return {**found, **_strict({**{key: value for key, value in schema.items() if key != "allOf"}, **all_of[0]}, note)}
    found.update({name: schema[name] for name in _AS_IT_IS if name in schema})
    for name in _UNIONS:
        if isinstance(schema.get(name), list):
            found["anyOf" if name == "oneOf" else name] = [_strict(inner, note) for inner in schema[name]]
    if "enum" in schema:
        if any(isinstance(value, dict | list) for value in _list(schema["enum"])):
            raise NotStrict("a JSON schema with an enumeration of objects or lists")
        found["enum"] = schema["enum"]
    kinds = _kinds(schema, found)
    if "object" in kinds:
        found.update(_object(schema, note))
    if "array" in kinds and "items" in schema:
        found["items"] = _strict(schema["items"], note)
    _describe(schema, found, note)
    order = ["anyOf" if name == "oneOf" else name for name in schema]
    return {name: found[name] for name in dict.fromkeys([*order, *found]) if name in found}


def _kinds(schema: dict[str, Any], found: dict[str, Any]) -> list[Any]:
    """The types, which are guessed where only the rest of the schema tells."""
    kind = schema.get("type")
    if kind is None and not found.keys() & {"anyOf", "allOf", "enum", "const"}:
        if "properties" not in schema and "items" not in schema:
            raise NotStrict("a JSON schema that takes any value")
        kind = found["type"] = "object" if "properties" in schema else "array"
    return kind if isinstance(kind, list) else [kind]


def _object(schema: dict[str, Any], note: Note) -> dict[str, Any]:
    properties, rest = schema.get("properties"), schema.get("additionalProperties")
    if isinstance(rest, dict) or (rest is True and not properties) or (rest is None and properties is None):
        raise NotStrict("a JSON schema with keys that are not known beforehand")
    if rest is True:
        note("additionalProperties")
    inner = {name: _strict(value, note) for name, value in _dict(properties).items()}
    return {"properties": inner, "additionalProperties": False}


def _describe(schema: dict[str, Any], found: dict[str, Any], note: Note) -> None:
    """What the subset has no keyword for is said in words."""
    extra = {name: value for name, value in schema.items() if name not in _READ and name not in _SAY_NOTHING}
    if isinstance(extra.get("format"), str) and extra["format"] in _FORMATS:
        found["format"] = extra.pop("format")
    if extra.get("minItems") in (0, 1):
        found["minItems"] = extra.pop("minItems")
    _note_all(note, extra)
    said = [f"{name}: {orjson.dumps(value).decode()}" for name, value in extra.items()]
    description = schema.get("description")
    words = [description] if isinstance(description, str) and description else []
    if said:
        words.append(f"({', '.join(said)})")
    if words:
        found["description"] = " ".join(words)


def _no_recursion(schema: dict[str, Any], definitions: dict[str, Any]) -> None:
    """Raises NotStrict for a reference that leads back to where it stands, or out of the schema."""
    waits_for = {name: set(_references(place)) for name, place in definitions.items()}
    outer = set(_references({name: value for name, value in schema.items() if name not in _DEFINITIONS}))
    used = outer.union(*waits_for.values())
    if used & {"#", "#/"}:
        raise NotStrict("a recursive JSON schema")
    if used - definitions.keys():
        raise NotStrict("a JSON schema that refers to another")
    needed_by: dict[str, list[str]] = {}
    for name, references in waits_for.items():
        for reference in references:
            needed_by.setdefault(reference, []).append(name)
    # what refers to nothing is settled, then what refers only to that, and so on: a circle is never reached
    settled = [name for name, references in waits_for.items() if not references]
    for name in settled:
        for waiting in needed_by.get(name, ()):
            waits_for[waiting].discard(name)
            if not waits_for[waiting]:
                settled.append(waiting)
    if len(settled) < len(definitions):
        raise NotStrict("a recursive JSON schema")


def _references(place: object) -> list[str]:
    found: list[str] = []
    pending = [place]
    while pending:
        inner = pending.pop()
        if isinstance(inner, dict):
            if isinstance(inner.get("$ref"), str):
                found.append(inner["$ref"])
            pending += inner.values()
        elif isinstance(inner, list):
            pending += inner
    return found


def _definitions(schema: dict[str, Any]) -> dict[str, Any]:
    """By the text of the reference to each."""
    return {f"#/{name}/{key}": value for name in _DEFINITIONS for key, value in _dict(schema.get(name)).items()}


def _resolved(variant: object, definitions: dict[str, Any]) -> dict[str, Any]:
    if isinstance(variant, dict) and isinstance(variant.get("$ref"), str):
        variant = definitions.get(variant["$ref"])
    return _dict(variant)


def _note_all(note: Note, names: Any) -> None:
    for name in names:
        note(name)


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
