"""Recorded requests to Gemini as a caller of the proxy would have asked the same, so that what the proxy makes of them can be held
against what was recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import orjson

from tests.dialects.gemini_judge import in_camel_case
from tests.dialects.native_recordings import Recorded, recordings

APIS = ("gemini.generateContent", "gemini.streamGenerateContent")
PROVIDER = "gemini"

_CONFIG = {
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "maxOutputTokens": "max_tokens",
    "stopSequences": "stop",
    "seed": "seed",
    "candidateCount": "n",
    "responseLogprobs": "logprobs",
    "logprobs": "top_logprobs",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
}


class NoWords(Exception):
    """An OpenAI request has no words for something in it."""


def answered() -> Iterator[Recorded]:
    """Every recording with an answer of this format. A JSON array comes of streams that the proxy never asks for."""
    for api in APIS:
        for recording in recordings(api):
            if recording.framing != "json_array":
                yield recording


def asked() -> Iterator[Recorded]:
    """Every recording whose request was kept, and was answered."""
    for api in APIS:
        for recording in recordings(api):
            if recording.asked is not None and recording.status == 200:
                yield recording


def arrays() -> list[Recorded]:
    return [recording for api in APIS for recording in recordings(api) if recording.framing == "json_array"]


def as_openai(asked: dict[str, Any]) -> dict[str, Any]:
    """Raises NoWords."""
    asked = in_camel_case(asked)
    body: dict[str, Any] = {"model": "recorded", "messages": _messages(asked)}
    config = asked.get("generationConfig", {})
    body |= {ours: config[theirs] for theirs, ours in _CONFIG.items() if theirs in config}
    if "responseModalities" in config:
        body["modalities"] = [modality.lower() for modality in config["responseModalities"]]
    if "thinkingConfig" in config:
        body["google"] = {"thinking_config": config["thinkingConfig"]}
    if "responseSchema" in config:
        raise NoWords("a schema in Google's own dialect")
    if config.get("responseMimeType") == "application/json":
        schema = config.get("responseJsonSchema")
        body["response_format"] = (
            {"type": "json_object"} if schema is None else {"type": "json_schema", "json_schema": {"schema": schema}}
        )
    if asked.get("safetySettings"):
        body["safety_settings"] = asked["safetySettings"]
    if "labels" in asked or "cachedContent" in asked:
        raise NoWords("labels and caches")
    tools = [_tool(tool) for tool in asked.get("tools", [])]
    body |= {"tools": [one for found in tools for one in found]} if tools else {}
    return body | _choice(asked.get("toolConfig", {}))


def canonical(asked: dict[str, Any]) -> dict[str, Any]:
    """A recorded request as the proxy is to write it: what it does not say, or says in its own way, is brought to one form."""
    asked = in_camel_case(asked)
    found: dict[str, Any] = {name: value for name, value in asked.items() if name == "safetySettings" and value}
    if asked.get("systemInstruction"):
        found["systemInstruction"] = {"parts": asked["systemInstruction"]["parts"]}
    contents: list[dict[str, Any]] = []
    for content in asked["contents"]:
        role = content.get("role", "user")
        if not contents or contents[-1]["role"] != role:
            contents.append({"role": role, "parts": []})
        contents[-1]["parts"] += [canonical_part(part) for part in content["parts"]]
    found["contents"] = contents
    config = dict(asked.get("generationConfig", {}))
    for name, default in (("candidateCount", 1), ("responseMimeType", "text/plain")):
        if config.get(name) == default:
            del config[name]
    if config:
        found["generationConfig"] = config
    functions = [_canonical_function(f) for tool in asked.get("tools", []) for f in tool.get("functionDeclarations", [])]
    own = [{name: value} for tool in asked.get("tools", []) for name, value in tool.items() if name != "functionDeclarations"]
    if functions or own:
        found["tools"] = ([{"functionDeclarations": functions}] if functions else []) + own
    calling = asked.get("toolConfig", {}).get("functionCallingConfig", {})
    if calling.get("mode", "AUTO") not in ("AUTO", "VALIDATED"):
        found["toolConfig"] = {"functionCallingConfig": calling}
    return found


# -- the messages


def _messages(asked: dict[str, Any]) -> list[dict[str, Any]]:
    system = asked.get("systemInstruction") or {"parts": []}
    messages: list[dict[str, Any]] = [{"role": "system", "content": _text(part)} for part in system["parts"]]
    numbers = count()
    open_calls: list[str] = []
    for content in asked["contents"]:
        if content.get("role", "user") == "model":
            message, open_calls = _from_model(content["parts"], numbers)
            messages.append(message)
            continue
        said: list[dict[str, Any]] = []
        for part in content["parts"]:
            if "functionResponse" not in part:
                said.append(_from_user(part))
                continue
            response = part["functionResponse"]
            media = [_from_user(inner) for inner in response.get("parts", [])]
            text = {"type": "text", "text": orjson.dumps(response["response"]).decode()}
            messages.append({"role": "tool", "tool_call_id": open_calls.pop(0), "content": [text, *media]})
        if said:
            messages.append({"role": "user", "content": said})
    return messages


def _from_model(parts: list[dict[str, Any]], numbers: Iterator[int]) -> tuple[dict[str, Any], list[str]]:
    text = ""
    calls: list[dict[str, Any]] = []
    details: list[dict[str, Any]] = []
    for part in parts:
        signature = part.get("thoughtSignature")
        detail = {"type": "reasoning.encrypted", "data": signature or "", "format": "gemini", "provider": PROVIDER}
        if part.get("thought"):
            raise NoWords("thoughts without a seal")
        if "functionCall" in part:
            call = part["functionCall"]
            id_ = call.get("id") or f"made_{next(numbers)}"
            arguments = orjson.dumps(call.get("args", {})).decode()
            calls.append({"id": id_, "type": "function", "function": {"name": call["name"], "arguments": arguments}})
            if signature:
                details.append({**detail, "id": id_})
        elif "text" in part:
            if text and not details:
                raise NoWords("pieces of text that nothing divides")
            if not part["text"] and not signature:
                raise NoWords("text that is empty")
            text += part["text"]
            if signature:
                details.append({**detail, "text_end": len(text)})
        else:
            inner = {name: value for name, value in part.items() if name != "thoughtSignature"}
            if not inner:
                raise NoWords("a signature of nothing")
            details.append({**detail, "text_end": len(text), "part": inner})
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    message |= {"tool_calls": calls} if calls else {}
    message |= {"reasoning_details": details} if details else {}
    return message, [call["id"] for call in calls]


def _from_user(part: dict[str, Any]) -> dict[str, Any]:
    if "text" in part:
        return {"type": "text", "text": _text(part)}
    if "videoMetadata" in part or "mediaResolution" in part:
        raise NoWords("how to look at media")
    media = part.get("inlineData") or part["fileData"]
    kind = media["mimeType"].partition("/")[0]
    if "displayName" in media:
        raise NoWords("names of media")
    if "fileUri" in media:
        url = media["fileUri"]
        if "." not in url.rpartition("/")[2] and "youtu" not in url:
            raise NoWords("links with a type that they do not tell")
    else:
        url = f"data:{media['mimeType']};base64,{media['data']}"
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": url}}
    if kind == "video":
        return {"type": "video_url", "video_url": {"url": url}}
    return {"type": "file", "file": {"file_data": url}}


def _text(part: dict[str, Any]) -> str:
    text: str = part["text"]
    if not text:
        raise NoWords("text that is empty")
    return text


# -- tools


def _tool(tool: dict[str, Any]) -> list[dict[str, Any]]:
    if not isinstance(tool, dict):
        raise NoWords("a tool that is a word")
    own = [{name: value} for name, value in tool.items() if name != "functionDeclarations"]
    functions = []
    for function in tool.get("functionDeclarations", []):
        schema = function.get("parametersJsonSchema", function.get("parameters"))
        if b'"nullable"' in orjson.dumps(schema):
            raise NoWords("what may be null, which JSON Schema says in another way")
        if isinstance((schema or {}).get("type"), int):
            raise NoWords("types by their numbers")
        described = {name: function[name] for name in ("name", "description") if name in function}
        functions.append({"type": "function", "function": {**described, "parameters": schema}})
    return functions + own


def _choice(config: dict[str, Any]) -> dict[str, Any]:
    if "includeServerSideToolInvocations" in config:
        raise NoWords("tools to be shown without functions")
    calling = config.get("functionCallingConfig", {})
    names = [{"type": "function", "function": {"name": name}} for name in calling.get("allowedFunctionNames", [])]
    match calling.get("mode", "AUTO"):
        case "ANY" if names:
            return {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": names}}}
        case "ANY":
            return {"tool_choice": "required"}
        case "NONE":
            return {"tool_choice": "none"}
        case _:
            return {}


def canonical_part(part: dict[str, Any]) -> dict[str, Any]:
    """Ids that were left out are made up, and compared by hand."""
    found = dict(part)
    for kind, optional in (("functionCall", "args"), ("functionResponse", "response")):
        if kind in found:
            inner = {name: value for name, value in found[kind].items() if name not in ("id", "willContinue")}
            found[kind] = {optional: {}, **inner}
    return found


def _canonical_function(function: dict[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in function.items() if name not in ("parameters", "parametersJsonSchema")}
    schema = function.get("parametersJsonSchema", function.get("parameters"))
    return {**found, "parametersJsonSchema": _lower_types(schema)} if schema else found


def _lower_types(schema: Any) -> Any:
    """Google's older dialect writes STRING, and so do its users."""
    if isinstance(schema, list):
        return [_lower_types(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: inner.lower() if name == "type" and isinstance(inner, str) else _lower_types(inner)
        for name, inner in schema.items()
    }
