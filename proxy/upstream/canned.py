"""What the demo models say: a labelled echo, and JSON that satisfies a schema in the simple cases."""

from __future__ import annotations

import re
from typing import Any

import orjson

MAX_ECHO = 120
MAX_DEPTH = 8
MAX_VALUES = 500

_WORDS = re.compile(r"\w+|[^\w\s]")


def canned_text(request: dict[str, Any]) -> str:
    heard = " ".join(prompt_text(request).split())
    if len(heard) > MAX_ECHO:
        heard = heard[:MAX_ECHO] + "…"
    said = f" You said: “{heard}”" if heard else ""
    return (
        "This is Tollbridge's built-in demo model: a canned answer, no language model was asked."
        f"{said} Put a provider's key into the environment and ask the model `default` for a real one."
    )


def prompt_text(request: dict[str, Any]) -> str:
    """The last user message's text; parts that are not text are left out."""
    for message in reversed(request.get("messages") or []):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, list):
                return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
            return str(content or "")
    return ""


def tokens_in(value: Any) -> int:
    """Words and punctuation marks of every string in it: what the demo calls tokens."""
    if isinstance(value, str):
        return sum(1 for _ in _WORDS.finditer(value))
    if isinstance(value, dict):
        return sum(map(tokens_in, value.values()))
    if isinstance(value, list):
        return sum(map(tokens_in, value))
    return 0


def arguments_for(parameters: Any) -> str:
    """A call's arguments: the required properties of the function's schema, as JSON text."""
    value = example(parameters) if isinstance(parameters, dict) else {}
    return orjson.dumps(value if isinstance(value, dict) else {}).decode()


def json_for(response_format: dict[str, Any]) -> str:
    """JSON text for `response_format`."""
    wanted = response_format.get("json_schema")
    schema = wanted.get("schema") if isinstance(wanted, dict) else None
    if isinstance(schema, dict):
        return orjson.dumps(example(schema)).decode()
    return '{"answer":"This is Tollbridge\'s built-in demo model."}'


def example(schema: Any) -> Any:
    """A value that satisfies the schema where that is simple: const, enum, type, required, items, local `$ref`, unions."""
    return _Sampler(schema).value(schema)


class _Sampler:
    """One schema's example. Schemas can refer to themselves: depth and number of values are bounded, the rest is null."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._left = MAX_VALUES

    def value(self, schema: Any, depth: int = 0) -> Any:
        self._left -= 1
        if not isinstance(schema, dict) or depth > MAX_DEPTH or self._left < 0:
            return None
        if "const" in schema:
            return schema["const"]
        if _has_items(schema.get("enum")):
            return schema["enum"][0]
        if isinstance(schema.get("$ref"), str):
            return self.value(_referred(schema["$ref"], self._root), depth + 1)
        for union in ("anyOf", "oneOf", "allOf"):
            if _has_items(schema.get(union)):
                return self.value(schema[union][0], depth + 1)
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = kind[0] if kind else None
        match kind:
            case "object" | None:
                return self._object(schema, depth)
            case "array":
                size = schema.get("minItems", 1)
                items = range(min(size, MAX_VALUES) if isinstance(size, int) else 1)
                return [self.value(schema.get("items", {}), depth + 1) for _ in items]
            case "integer" | "number":
                return _number(schema, kind)
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return _text(schema)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties, required = schema.get("properties"), schema.get("required")
        known = properties if isinstance(properties, dict) else {}
        return {
            str(name): self.value(known.get(name, {}), depth + 1) for name in (required if isinstance(required, list) else ())
        }


def _has_items(value: Any) -> bool:
    return isinstance(value, list) and value != []


def _number(schema: dict[str, Any], kind: str) -> int | float:
    for bound, step in (("minimum", 0), ("exclusiveMinimum", 1), ("maximum", 0), ("exclusiveMaximum", -1)):
        if isinstance(schema.get(bound), int | float):
            value = schema[bound] + step
            return int(value) if kind == "integer" else value
    return 1


def _text(schema: dict[str, Any]) -> str:
    formats = {
        "date": "2030-01-31",
        "date-time": "2030-01-31T12:00:00Z",
        "email": "demo@example.com",
        "uri": "https://example.com",
    }
    text = formats.get(str(schema.get("format")), "demo")
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength")
    if isinstance(shortest, int) and len(text) < shortest <= 4096:
        text = text.ljust(shortest, ".")
    return text[:longest] if isinstance(longest, int) and longest >= 0 else text


def _referred(reference: str, root: Any) -> Any:
    node = root
    for part in reference.removeprefix("#").strip("/").split("/") if reference.startswith("#") else ():
        if not part:
            continue
        node = node.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(node, dict) else None
    return node if reference.startswith("#") else None
