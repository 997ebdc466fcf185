"""The JSON schema of `providers.yaml`, for editors: `tollbridge schema`, kept as `proxy/config/providers.schema.json`.

Made from the models of `schema.py`. Where a number or a word is due, a variable may stand, too. https://json-schema.org/draft/2020-12
"""

from __future__ import annotations

import json
from typing import Any

from proxy.config.schema import File

SCALARS = frozenset(("integer", "number", "boolean"))
VARIABLE = {"type": "string", "pattern": r"\$\{"}


def json_schema() -> dict[str, Any]:
    schema = _clean(File.model_json_schema(by_alias=True))
    assert isinstance(schema, dict)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Tollbridge: providers.yaml"}


def schema_text() -> str:
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def _clean(node: Any) -> Any:
    """Without pydantic's titles and nulls, and with variables allowed."""
    if isinstance(node, list):
        return [_clean(item) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("properties"), dict):
        node = {**node, "properties": {name: _clean(item) for name, item in node["properties"].items()}}
        rest = {key: item if key == "properties" else _clean(item) for key, item in node.items() if key != "title"}
        return {**rest, "type": ["object", "null"]} if rest.get("type") == "object" else rest
    node = {key: _clean(item) for key, item in node.items() if key not in ("title", "default", "discriminator")}
    if "anyOf" in node:
        choices = [choice for choice in node["anyOf"] if choice != {"type": "null"}]
        if len(choices) == 1:
            node = {**{key: item for key, item in node.items() if key != "anyOf"}, **choices[0], **_words(node)}
        else:
            node["anyOf"] = choices
    elif node.get("type") == "object":
        node["type"] = ["object", "null"]
    elif node.get("type") in SCALARS or "enum" in node:
        words = _words(node)
        node = {**words, "anyOf": [{key: item for key, item in node.items() if key not in words}, VARIABLE]}
    return node


def _words(node: dict[str, Any]) -> dict[str, Any]:
    return {key: node[key] for key in ("description", "examples") if key in node}
