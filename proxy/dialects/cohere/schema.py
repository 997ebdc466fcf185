"""JSON schemas in the subset that Cohere keeps an answer to; what it cannot be held to is left out, and named.

https://docs.cohere.com/v2/docs/structured-outputs#unsupported-schema-features and #schema-constraints

    kept            types, enum, const, $ref, $defs, anyOf, additionalProperties, nested objects and arrays
    changed         oneOf becomes anyOf; one schema alone in allOf stands for itself; `^` and `$` around a pattern go, which is of the
                    whole string anyway; a $ref at the top is resolved, since the top must say that it is an object
    left out        ranges of numbers, lengths of strings and arrays, uniqueItems, allOf, not, other formats than four, look-ahead
    refused         a top that is no object, and an object that requires none of its properties
"""

from __future__ import annotations

from proxy.core.errors import CannotCarry
from proxy.dialects.json_schema import Schema, modern_definitions, only_part_of_all, rewrite

_UNSUPPORTED = frozenset(
    """allOf exclusiveMaximum exclusiveMinimum maxItems maxLength maxProperties maximum minItems minLength minProperties minimum
    multipleOf not uniqueItems""".split()
)
_FORMATS = frozenset(("date", "date-time", "time", "uuid"))
_NOT_IN_PATTERNS = ("^", "$", "?=", "?!")
_DEFINITIONS = "#/$defs/"


def adapted(schema: Schema) -> tuple[Schema, frozenset[str]]:
    """The schema of an answer, and the keywords that were left out. Raises CannotCarry."""
    found = _Subset(_with_plain_top(modern_definitions(schema)))
    if found.schema.get("type") != "object":
        raise CannotCarry("a JSON schema that is not of an object", param="response_format")
    if found.requires_nothing:
        raise CannotCarry("a JSON schema with an object that requires nothing", param="response_format")
    return found.schema, frozenset(found.lost)


def is_whole(schema: Schema) -> bool:
    """Whether nothing would be lost of a tool's parameters, and every object requires something: then calls can be held to them."""
    found = _Subset(schema)
    return not found.lost and not found.requires_nothing


class _Subset:
    def __init__(self, schema: Schema) -> None:
        self.lost: set[str] = set()
        self.requires_nothing = False  # some object of it
        self.schema = rewrite(schema, (only_part_of_all, self._rule))

    def _rule(self, schema: Schema) -> Schema:
        if schema.get("type") == "object" and not schema.get("required"):
            self.requires_nothing = True
        for keyword in _UNSUPPORTED & schema.keys():
            del schema[keyword]
            self.lost.add(keyword)
        if "oneOf" in schema and "anyOf" not in schema:
            schema["anyOf"] = schema.pop("oneOf")
            self.lost.add("oneOf")  # that it is one alone
        if schema.get("format", "date") not in _FORMATS:
            del schema["format"]
            self.lost.add("format")
        pattern = schema.get("pattern")
        if isinstance(pattern, str):
            schema["pattern"] = pattern.removeprefix("^").removesuffix("$")
            if any(sign in schema["pattern"] for sign in _NOT_IN_PATTERNS):
                del schema["pattern"]
                self.lost.add("pattern")
        return schema


def _with_plain_top(schema: Schema) -> Schema:
    reference, definitions = schema.get("$ref"), schema.get("$defs")
    if not isinstance(reference, str) or not reference.startswith(_DEFINITIONS) or not isinstance(definitions, dict):
        return schema
    definition = definitions.get(reference.removeprefix(_DEFINITIONS))
    if not isinstance(definition, dict):
        return schema
    return {**definition, **{name: value for name, value in schema.items() if name != "$ref"}}
