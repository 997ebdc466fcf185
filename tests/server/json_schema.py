"""Holds a value against the part of JSON Schema that `proxy/server/shapes.py` is written in, and says where it does not fit.

Every keyword that is not known here is a fault: what is not checked must not look as if it were.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_KNOWN = {
    "$ref",
    "additionalProperties",
    "anyOf",
    "description",
    "enum",
    "format",
    "items",
    "maximum",
    "minimum",
    "pattern",
    "properties",
    "required",
    "type",
}


def faults(value: Any, schema: Mapping[str, Any], document: Mapping[str, Any], where: str = "$") -> Iterator[str]:
    """What is wrong with `value`; `$ref` is looked up in `document`."""
    assert set(schema) <= _KNOWN, f"{where}: {set(schema) - _KNOWN} is not checked"
    if "$ref" in schema:
        yield from faults(value, _found(schema["$ref"], document), document, where)
        return
    if "anyOf" in schema:
        found = [list(faults(value, one, document, where)) for one in schema["anyOf"]]
        if all(found):
            yield from min(found, key=len)
        return
    types = schema.get("type", [])
    names = [types] if isinstance(types, str) else types
    if names and not any(_is(value, name) for name in names):
        yield f"{where}: {value!r} is none of {names}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"
    match value:
        case dict():
            yield from _object(value, schema, document, where)
        case list():
            for number, item in enumerate(value):
                yield from faults(item, schema.get("items", {}), document, f"{where}[{number}]")
        case str():
            yield from _text(value, schema, where)
        case int() | float() if not isinstance(value, bool):
            if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
                yield f"{where}: {value} is not between {schema.get('minimum')} and {schema.get('maximum')}"


def _object(value: dict[str, Any], schema: Mapping[str, Any], document: Mapping[str, Any], where: str) -> Iterator[str]:
    fields = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where}.{name} is missing"
    for name, item in value.items():
        if name in fields:
            yield from faults(item, fields[name], document, f"{where}.{name}")
        elif schema.get("additionalProperties", True) is False:
            yield f"{where}.{name} is not described"


def _text(value: str, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{where}: {value!r} does not match {schema['pattern']}"
    if schema.get("format") == "date-time":
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            yield f"{where}: {value!r} is no time"
            return
        if moment.tzinfo is None:
            yield f"{where}: {value!r} has no zone"


def _is(value: Any, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _found(pointer: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = document
    for part in pointer.removeprefix("#/").split("/"):
        found = found[part]
    assert isinstance(found, Mapping)
    return found
