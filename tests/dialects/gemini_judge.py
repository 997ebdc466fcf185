"""An upstream that refuses what Gemini refuses: unknown and misplaced keys, and the rules that stand in no schema.

https://ai.google.dev/api/generate-content, https://ai.google.dev/api/caching#Content, and the API's own error messages, which are
quoted. Both spellings of a key are taken, as the API does; recorded requests that were answered pass, but for those that Google takes
and documents otherwise.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any

import orjson

_TOP = frozenset(
    """contents systemInstruction tools toolConfig safetySettings generationConfig cachedContent labels serviceTier store
    model""".split()
)
_CONFIG = frozenset(
    """temperature topP topK candidateCount maxOutputTokens stopSequences presencePenalty frequencyPenalty seed responseMimeType
    responseSchema responseJsonSchema responseModalities responseLogprobs logprobs thinkingConfig speechConfig mediaResolution
    imageConfig enableEnhancedCivicAnswers audioTimestamp""".split()
)
_DATA = frozenset(
    """text inlineData fileData functionCall functionResponse executableCode codeExecutionResult toolCall toolResponse""".split()
)
_PART = _DATA | {"thought", "thoughtSignature", "videoMetadata", "mediaResolution"}
_MEMBERS: dict[str, tuple[frozenset[str], frozenset[str]]] = {  # what must be there, what may
    "inlineData": (frozenset(("mimeType", "data")), frozenset()),
    "fileData": (frozenset(("fileUri",)), frozenset(("mimeType",))),
    "functionCall": (frozenset(("name",)), frozenset(("id", "args"))),
    "functionResponse": (frozenset(("name", "response")), frozenset(("id", "parts"))),
    "executableCode": (frozenset(("code", "language")), frozenset(("id",))),
    "codeExecutionResult": (frozenset(("outcome",)), frozenset(("output", "id"))),
    "toolCall": (frozenset(("toolType",)), frozenset(("id", "args"))),
    "toolResponse": (frozenset(("toolType",)), frozenset(("id", "response"))),
}
_TOOLS = frozenset(
    """functionDeclarations googleSearch googleSearchRetrieval codeExecution urlContext fileSearch googleMaps computerUse
    enterpriseWebSearch retrieval""".split()
)
_FUNCTION = frozenset(("name", "description", "parameters", "parametersJsonSchema", "response", "responseJsonSchema"))
_OPENAPI = frozenset(  # "Unknown name "additionalProperties" at '…parameters': Cannot find field."
    """type format title description nullable enum items maxItems minItems properties required minProperties maxProperties minLength
    maxLength pattern example anyOf propertyOrdering default minimum maximum""".split()
)
_RANGES = {"temperature": (0.0, 2.0), "topP": (0.0, 1.0), "presencePenalty": (-2.0, 1.9999), "frequencyPenalty": (-2.0, 1.9999)}
_LEVELS = frozenset(("MINIMAL", "LOW", "MEDIUM", "HIGH"))
_MODES = frozenset(("AUTO", "ANY", "NONE", "VALIDATED"))
_TIERS = frozenset(("flex", "standard", "priority"))
_FUNCTION_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}")
# objects whose keys are the caller's own
_OPAQUE = frozenset(("args", "response", "parametersJsonSchema", "responseJsonSchema", "parameters", "responseSchema", "labels"))


class Refused(Exception):
    """400 INVALID_ARGUMENT."""


def judge(body: bytes, *, ours: bool = True) -> dict[str, Any]:
    """The request in camel case. Raises Refused. `ours`: also what Google takes but we never mean to send."""
    request: dict[str, Any] = in_camel_case(orjson.loads(body))
    _known(request, _TOP, "the request")
    _contents(request.get("contents"), ours=ours)
    if "systemInstruction" in request:
        system = request["systemInstruction"]
        _known(system, {"parts", "role"}, "systemInstruction")
        _require(all(part.keys() == {"text"} for part in system["parts"]), "only text in systemInstruction")
    declared = _tools(request.get("tools", []))
    _tool_config(request.get("toolConfig", {}), declared)
    _config(request.get("generationConfig", {}), ours=ours)
    _require(request.get("serviceTier", "flex") in _TIERS, "serviceTier")
    for setting in request.get("safetySettings", []):
        _known(setting, {"category", "threshold", "method"}, "safetySettings")
    return request


def in_camel_case(value: Any, key: str = "") -> Any:
    if isinstance(value, list):
        return [in_camel_case(item, key) for item in value]
    if not isinstance(value, dict) or key in _OPAQUE:
        return value
    return {name: in_camel_case(inner, name) for name, inner in ((_camel(name), inner) for name, inner in value.items())}


def _contents(contents: Any, *, ours: bool) -> None:
    _require(isinstance(contents, list) and contents, "contents is not specified")
    open_calls: list[dict[str, Any]] = []
    before = ""
    for content in contents:
        _known(content, {"role", "parts"}, "contents[]")
        role = content.get("role", "user")
        _require(role in ("user", "model"), "Please use a valid role: user, model.")
        _require(not ours or role != before, "neighbours of one role are one content")
        before = role
        parts = content.get("parts")
        _require(isinstance(parts, list) and parts, "contents.parts must not be empty.")
        for part in parts:
            _part(part, role, ours=ours)
        answers = [part["functionResponse"] for part in parts if "functionResponse" in part]
        if answers:
            said = "Please ensure that the number of function response parts is equal to the number of function call parts"
            _require(len(answers) == len(open_calls), said)
            _require(
                [a["name"] for a in answers] == [c["name"] for c in open_calls] or not ours, "answers in the order of the calls"
            )
            _require(
                [a.get("id") for a in answers] == [c.get("id") for c in open_calls] or not ours,
                "answers with the ids of the calls",
            )
            _require(not ours or all("functionResponse" in part for part in parts[: len(answers)]), "answers come first")
        open_calls = [part["functionCall"] for part in parts if "functionCall" in part]


def _part(part: dict[str, Any], role: str, *, ours: bool) -> None:
    _known(part, _PART, "parts[]")
    data = part.keys() & _DATA
    if not ours and not data:
        return
    _require(len(data) == 1, "required oneof field 'data' must have one initialized field")
    (kind,) = data
    _require((kind == "functionResponse") <= (role == "user"), "function responses are the user's")
    _require((kind == "functionCall") <= (role == "model"), "function calls are the model's")
    if kind == "text":
        _require(isinstance(part["text"], str), "text")
    else:
        required, optional = _MEMBERS[kind]
        _known(part[kind], required | optional, kind)
        _require(not ours or required <= part[kind].keys(), f"{kind} lacks {required - part[kind].keys()}")
    if "thoughtSignature" in part:
        _require(role == "model", "only a model signs")
        _base64(part["thoughtSignature"])
    if kind == "inlineData":
        _require(re.fullmatch(r"[a-z]+/[a-z0-9.+-]+", part[kind]["mimeType"]), "Unsupported MIME type")
        if ours:
            _base64(part[kind]["data"])
    if kind == "functionResponse":
        _require(isinstance(part[kind]["response"], dict), "Proto field is not a message: response is a Struct")
        for inner in part[kind].get("parts", []):
            _known(inner, {"inlineData", "fileData"}, "functionResponse.parts[]")


def _tools(tools: Any) -> set[str]:
    declared: set[str] = set()
    for tool in tools:
        _known(tool, _TOOLS, "tools[]")
        _require(tool, "tools[] is empty")
        for function in tool.get("functionDeclarations", []):
            _known(function, _FUNCTION, "functionDeclarations[]")
            _require(
                _FUNCTION_NAME.fullmatch(function["name"]), "Invalid function name. Must start with a letter or an underscore."
            )
            _require(not {"parameters", "parametersJsonSchema"} <= function.keys(), "parameters and parametersJsonSchema")
            _require(function["name"] not in declared, "Duplicate function declaration found")
            declared.add(function["name"])
            _openapi(function.get("parameters", {}))
            _json_schema(function.get("parametersJsonSchema", {}))
    return declared


def _tool_config(config: dict[str, Any], declared: set[str]) -> None:
    _known(config, {"functionCallingConfig", "includeServerSideToolInvocations", "retrievalConfig"}, "toolConfig")
    calling = config.get("functionCallingConfig")
    if calling is None:
        return
    _require(declared, "Function calling config is set without function_declarations.")
    _known(calling, {"mode", "allowedFunctionNames"}, "functionCallingConfig")
    _require(calling["mode"] in _MODES, "mode")
    if "allowedFunctionNames" in calling:
        _require(
            calling["mode"] in ("ANY", "VALIDATED"), "allowed_function_names should be set only when mode is ANY or VALIDATED"
        )
        _require(set(calling["allowedFunctionNames"]) <= declared, "allowed_function_names must be declared")


def _config(config: dict[str, Any], *, ours: bool) -> None:
    _known(config, _CONFIG, "generationConfig")
    for name, (low, high) in _RANGES.items():
        _require(low <= config.get(name, low) <= high, f"Unable to submit request because it has a {name} value of …")
    _require(len(config.get("stopSequences", [])) <= 5, "stop_sequences: at most 5")
    _require(-(2**31) <= config.get("seed", 0) < 2**31, "seed: Value out of range (TYPE_INT32)")
    _require(not {"responseSchema", "responseJsonSchema"} <= config.keys(), "responseSchema and responseJsonSchema")
    if "responseJsonSchema" in config:
        _require(config.get("responseMimeType") == "application/json", "response_json_schema needs responseMimeType")
    _require("logprobs" not in config or config.get("responseLogprobs") is True, "logprobs needs responseLogprobs")
    _openapi(config.get("responseSchema", {}) if ours else {})
    _json_schema(config.get("responseJsonSchema", {}))
    thinking = config.get("thinkingConfig", {})
    _known(thinking, {"includeThoughts", "thinkingBudget", "thinkingLevel"}, "thinkingConfig")
    _require(
        not {"thinkingBudget", "thinkingLevel"} <= thinking.keys(),
        "You can only set only one of thinking budget and thinking level.",
    )
    _require(thinking.get("thinkingLevel", "LOW").upper() in _LEVELS, "thinkingLevel")


def _openapi(schema: dict[str, Any]) -> None:
    for inner in _inside(schema):
        _known(inner, _OPENAPI, "a Schema")
        _require(isinstance(inner.get("type", ""), str | int), "Proto field is not repeating, cannot start list.")


def _json_schema(schema: dict[str, Any]) -> None:
    """What Google documents: a reference stands alone, enums are of strings and numbers."""
    for inner in _inside(schema):
        if "$ref" in inner:
            _require(
                all(name.startswith("$") for name in inner), "If $ref is set on a sub-schema, no other properties may be set"
            )
        _require(all(type(value) in (str, int, float) for value in inner.get("enum", [])), "enum of strings and numbers")
        _require("const" not in inner and "$schema" not in inner and "nullable" not in inner, "is not among the keywords")
        kinds = inner.get("type", [])
        _require(all(kind.islower() for kind in ([kinds] if isinstance(kinds, str) else kinds)), "types in lower case")


def _inside(schema: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(schema, dict):
        return
    yield schema
    for name, value in schema.items():
        if name in ("properties", "$defs", "definitions", "patternProperties"):
            for inner in value.values():
                yield from _inside(inner)
        elif name in ("anyOf", "oneOf", "allOf", "prefixItems"):
            for inner in value:
                yield from _inside(inner)
        elif name in ("items", "additionalProperties", "not"):
            yield from _inside(value)


def _known(found: Any, known: Any, where: str) -> None:
    _require(isinstance(found, dict), f"{where} is no object")
    for name in found:
        _require(name in known, f'Invalid JSON payload received. Unknown name "{name}" at {where}: Cannot find field.')


def _base64(text: str) -> None:
    try:
        base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)  # either alphabet
    except binascii.Error:
        raise Refused("Base64 decoding failed") from None


def _require(holds: object, message: str) -> None:
    if not holds:
        raise Refused(message)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)
