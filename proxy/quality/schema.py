"""Whether a value satisfies a JSON Schema, by the keywords that callers of language models use.

https://json-schema.org/draft/2020-12/json-schema-validation

Checked: type, enum, const, properties, required, additionalProperties, items, prefixItems, minItems, maxItems, minLength, maxLength,
minimum, maximum, exclusiveMinimum, exclusiveMaximum, anyOf, oneOf, allOf, not, $ref within the schema, and OpenAPI's nullable. What is
not checked satisfies: `pattern` and `format` above all, for a caller's pattern could take for ever. So does what is deeper or longer
than the bounds here: no verdict is not a bad one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

MAX_STEPS: Final = 20_000
MAX_DEPTH: Final = 40


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
    "number": _is_number,
}


def satisfies(value: Any, schema: Any) -> bool:
    """Never raises, whatever the schema is: what is no schema asks for nothing."""
    check = _Check(schema)
    return check.holds(value, schema, 0) or check.gave_up


class _Check:
    def __init__(self, root: Any) -> None:
        self.gave_up = False
        self._root = root
        self._steps = 0

    def holds(self, value: Any, schema: Any, depth: int) -> bool:
        self._steps += 1
        if self._steps > MAX_STEPS or depth > MAX_DEPTH:
            self.gave_up = True
            return True
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            return True
        if isinstance(reference := schema.get("$ref"), str) and not self.holds(value, self._found(reference), depth + 1):
            return False
        if value is None and schema.get("nullable") is True:
            return True
        return self._is_listed(value, schema) and self._fits(value, schema, depth) and self._combines(value, schema, depth)

    def _is_listed(self, value: Any, schema: Mapping[str, Any]) -> bool:
        kinds = schema.get("type")
        names = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
        known = [_TYPES[name.lower()] for name in names if isinstance(name, str) and name.lower() in _TYPES]
        if known and not any(is_one(value) for is_one in known):
            return False
        listed = schema.get("enum")
        if isinstance(listed, list) and not any(_same(value, one) for one in listed):
            return False
        return "const" not in schema or _same(value, schema["const"])

    def _fits(self, value: Any, schema: Mapping[str, Any], depth: int) -> bool:
        match value:
            case dict():
                return self._object(value, schema, depth)
            case list():
                return self._array(value, schema, depth)
            case str():
                return _between(len(value), schema, "minLength", "maxLength")
            case bool() | None:
                return True
            case _:
                return (
                    _between(value, schema, "minimum", "maximum")
                    and not (_is_number(low := schema.get("exclusiveMinimum")) and value <= low)
                    and not (_is_number(high := schema.get("exclusiveMaximum")) and value >= high)
                )

    def _object(self, value: dict[str, Any], schema: Mapping[str, Any], depth: int) -> bool:
        required = schema.get("required")
        if isinstance(required, list) and any(isinstance(name, str) and name not in value for name in required):
            return False
        fields = schema.get("properties")
        fields = fields if isinstance(fields, dict) else {}
        if not all(self.holds(value[name], inner, depth + 1) for name, inner in fields.items() if name in value):
            return False
        others = schema.get("additionalProperties")
        if others is None or "patternProperties" in schema:
            return True
        return all(self.holds(item, others, depth + 1) for name, item in value.items() if name not in fields)

    def _array(self, value: list[Any], schema: Mapping[str, Any], depth: int) -> bool:
        if not _between(len(value), schema, "minItems", "maxItems"):
            return False
        first = schema.get("prefixItems")
        first = first if isinstance(first, list) else []
        if not all(self.holds(item, inner, depth + 1) for item, inner in zip(value, first, strict=False)):
            return False
        rest = schema.get("items")
        return rest is None or all(self.holds(item, rest, depth + 1) for item in value[len(first) :])

    def _combines(self, value: Any, schema: Mapping[str, Any], depth: int) -> bool:
        for name in ("allOf", "anyOf", "oneOf"):
            inner = schema.get(name)
            if not isinstance(inner, list) or not inner:
                continue
            holding = sum([self.holds(value, one, depth + 1) for one in inner])
            if holding < {"allOf": len(inner), "anyOf": 1, "oneOf": 1}[name] or (name == "oneOf" and holding > 1):
                return False
        return "not" not in schema or not isinstance(schema["not"], dict) or not self.holds(value, schema["not"], depth + 1)

    def _found(self, reference: str) -> Any:
        """What a reference points to; `True`, which asks for nothing, where that is not within the schema."""
        if not reference.startswith("#"):
            return True
        found = self._root
        for part in reference.removeprefix("#").removeprefix("/").split("/") if reference not in ("#", "#/") else ():
            part = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or part not in found:
                return True
            found = found[part]
        return found


def _between(value: float, schema: Mapping[str, Any], least: str, most: str) -> bool:
    low, high = schema.get(least), schema.get(most)
    return not (_is_number(low) and value < low) and not (_is_number(high) and value > high)  # type: ignore[operator]


def _same(one: Any, other: Any) -> bool:
    """JSON's equality: true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
