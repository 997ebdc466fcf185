"""An upstream that refuses what Converse refuses: unknown and misplaced keys, wrong types, and what its error messages tell of.

The rules are those of https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html and of the API's own error
messages, which are quoted. botocore's reading of AWS's own model of the API is the second judge, where it is installed.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import orjson
import pytest

from proxy.core.chat import ChatRequest
from proxy.core.target import Provider, Target
from proxy.dialects.base import OutboundRequest
from proxy.dialects.bedrock.dialect import BedrockConverse
from tests.dialects.fields import chat_request

CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "us.amazon.nova-2-lite-v1:0"

_TOP: dict[str, type] = {
    "messages": list,
    "system": list,
    "inferenceConfig": dict,
    "toolConfig": dict,
    "guardrailConfig": dict,
    "additionalModelRequestFields": dict,
    "promptVariables": dict,
    "additionalModelResponseFieldPaths": list,
    "requestMetadata": dict,
    "performanceConfig": dict,
    "serviceTier": dict,
    "outputConfig": dict,
}
_INFERENCE: dict[str, type | tuple[type, ...]] = {
    "maxTokens": int,
    "temperature": (int, float),
    "topP": (int, float),
    "stopSequences": list,
}
_IN_SYSTEM = frozenset(("text", "guardContent", "cachePoint"))
_IN_USER = frozenset("text image document video audio toolResult guardContent cachePoint searchResult".split())
_IN_ASSISTANT = frozenset("text toolUse reasoningContent cachePoint guardContent".split())
_IN_RESULTS = frozenset("text json image document video searchResult".split())
_FORMATS = {
    "image": frozenset(("png", "jpeg", "gif", "webp")),
    "document": frozenset(("pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md")),
    "video": frozenset(("mkv", "mov", "mp4", "webm", "flv", "mpeg", "mpg", "wmv", "three_gp")),
    "audio": frozenset("mp3 opus wav aac flac mp4 ogg mkv mka x-aac m4a mpeg mpga pcm webm".split()),
}
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_CALL_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
_DOCUMENT_NAME = re.compile(r"(?!.*\s\s)[a-zA-Z0-9_\s()\[\]-]{1,200}")
_METADATA = re.compile(r"[a-zA-Z0-9\s:_@$#=/+,\-.]{0,256}")


def target_of(model: str, **changes: Any) -> Target:
    provider = Provider("aws", "bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com", ())
    return Target(provider, model, model, **changes)


def sent(body: dict[str, Any] | ChatRequest, model: str = CLAUDE, **changes: Any) -> tuple[dict[str, Any], OutboundRequest]:
    """What would be sent, when both judges have let it pass, and the request around it."""
    request = body if isinstance(body, ChatRequest) else chat_request({"model": "m", **body})
    found = BedrockConverse().encode_request(request, target_of(model, **changes))
    judged = judge(found.body)
    if shape_of(request.stream) is not None:
        judge_by_botocore(judged, stream=request.stream)
    return judged, found


def judge(raw: bytes) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(raw)
    _typed(body, _TOP, "the request")
    _typed(body.get("inferenceConfig", {}), _INFERENCE, "inferenceConfig")
    inference = body.get("inferenceConfig", {"maxTokens": 1})
    assert inference, "empty"
    assert inference.get("maxTokens", 1) >= 1
    assert all(0 <= inference.get(name, 0) <= 1 for name in ("temperature", "topP"))
    assert all(isinstance(stop, str) and stop for stop in inference.get("stopSequences", []))
    for block in body.get("system", []):
        assert _kind(block) in _IN_SYSTEM
        assert block.get("text", "x").strip()
    _messages(body)
    _tools(body.get("toolConfig"))
    _output(body.get("outputConfig", {}))
    metadata = body.get("requestMetadata", {"a": "b"})
    assert 1 <= len(metadata) <= 16
    assert all(name and _METADATA.fullmatch(name) and _METADATA.fullmatch(value) for name, value in metadata.items())
    assert body.get("serviceTier", {"type": "default"})["type"] in ("priority", "default", "flex", "reserved")
    _no_conflict(body)
    return body


def _messages(body: dict[str, Any]) -> None:
    messages = body["messages"]
    # "A conversation must alternate between user and assistant roles."
    roles = [message["role"] for message in messages]
    assert roles == [("user", "assistant")[(index + (roles[0] == "assistant")) % 2] for index in range(len(roles))]
    waiting: list[str] = []
    names: list[str] = []
    for message in messages:
        assert message.keys() == {"role", "content"}
        content = message["content"]
        assert content, "The content field in the Message object is empty."
        kinds = [_kind(block) for block in content]
        # "There is nothing available to cache. Please remove the invalid cache point and try again."
        assert kinds[0] != "cachePoint"
        assert set(kinds) <= (_IN_USER if message["role"] == "user" else _IN_ASSISTANT), kinds
        for kind, block in zip(kinds, content, strict=True):
            _block(kind, block[kind])
        if "document" in kinds:
            assert "text" in kinds, "a document needs a text beside it"
        names += [block["document"]["name"] for block in content if "document" in block]
        results = [block["toolResult"] for block in content if "toolResult" in block]
        # "The number of toolResult blocks … exceeds the number of toolUse blocks of previous turn", "Expected toolResult blocks …"
        assert sorted(result["toolUseId"] for result in results) == sorted(waiting)
        if results:
            others = [index for index, kind in enumerate(kinds) if kind not in ("toolResult", "cachePoint")]
            assert all(kinds.index("toolResult") < index for index in others)
        for result in results:
            assert result.keys() <= {"toolUseId", "content", "status"}
            assert result["content"]
            for inner in result["content"]:
                assert _kind(inner) in _IN_RESULTS
                _block(_kind(inner), inner[_kind(inner)])
                names += [inner["document"]["name"]] if "document" in inner else []
        waiting = [block["toolUse"]["toolUseId"] for block in content if "toolUse" in block]
        # "The toolUse blocks at messages.2.content contain duplicate Ids"
        assert len(set(waiting)) == len(waiting)
        if waiting or results:
            # "The toolConfig field must be defined when using toolUse and toolResult content blocks."
            assert body["toolConfig"]["tools"]
    assert len(set(names)) == len(names), "documents of one name"


def _block(kind: str, said: Any) -> None:
    match kind:
        case "text":
            # "The text field in the ContentBlock object at messages.0.content.0 is blank. Add text to the text field, and try again."
            assert isinstance(said, str)
            assert said.strip()
        case "toolUse":
            assert said.keys() == {"toolUseId", "name", "input"}
            assert _CALL_ID.fullmatch(said["toolUseId"])
            assert _NAME.fullmatch(said["name"])
            assert isinstance(said["input"], dict)
        case "image" | "document" | "video" | "audio":
            allowed = {"format", "source"} | ({"name", "context", "citations"} if kind == "document" else set())
            assert said.keys() <= allowed
            assert said["format"] in _FORMATS[kind]
            assert _kind(said["source"]) in ("bytes", "s3Location", "text", "content")
            if kind == "document":
                assert _DOCUMENT_NAME.fullmatch(said["name"])
        case "reasoningContent":
            inner = said[_kind(said)]
            assert isinstance(inner, str) or inner.keys() == {"text", "signature"}
        case "cachePoint":
            assert said["type"] == "default"
            assert said.keys() <= {"type", "ttl"}


def _tools(config: dict[str, Any] | None) -> None:
    if config is None:
        return
    assert config.keys() <= {"tools", "toolChoice"}
    names = []
    for tool in config["tools"]:
        kind = _kind(tool)
        assert kind in ("toolSpec", "systemTool", "cachePoint")
        if kind == "toolSpec":
            spec = tool["toolSpec"]
            assert {"name", "inputSchema"} <= spec.keys() <= {"name", "inputSchema", "description", "strict"}
            assert _NAME.fullmatch(spec["name"])
            assert spec.get("description", "x").strip()
            assert spec["inputSchema"]["json"]["type"] == "object"
            if spec.get("strict"):
                # "For 'object' type, 'additionalProperties' must be explicitly set to false"
                assert spec["inputSchema"]["json"]["additionalProperties"] is False
            names.append(spec["name"])
    assert len(set(names)) == len(names)
    assert "cachePoint" not in config["tools"][0]
    match config.get("toolChoice"):
        case None | {"auto": {}} | {"any": {}}:
            pass
        case {"tool": {"name": name}}:
            assert name in names
        case other:
            raise AssertionError(other)


def _output(config: dict[str, Any]) -> None:
    assert config.keys() <= {"textFormat", "effort"}
    assert config.get("effort", "low") in ("low", "medium", "high", "xhigh", "max")
    if "textFormat" in config:
        text_format = config["textFormat"]
        assert text_format["type"] == "json_schema"
        definition = text_format["structure"]["jsonSchema"]
        assert definition.keys() <= {"schema", "name", "description"}
        schema = orjson.loads(definition["schema"])
        assert schema["additionalProperties"] is False


def _no_conflict(body: dict[str, Any]) -> None:
    additional, inference = body.get("additionalModelRequestFields", {"x": 1}), body.get("inferenceConfig", {})
    assert additional, "empty"
    if "tool_choice" in additional:
        # "The additional field tool_choice/type conflicts with the existing field toolConfig.toolChoice.auto."
        assert "toolChoice" not in body["toolConfig"]
    thinking = additional.get("thinking", {})
    if thinking.get("type") == "enabled":
        # "`max_tokens` must be greater than `thinking.budget_tokens`", "… must be greater than or equal to 1024"
        assert 1024 <= thinking["budget_tokens"] < inference.get("maxTokens", 1 << 30)
    if thinking.get("type") in ("enabled", "adaptive"):
        # "`temperature` may only be set to 1 when thinking is enabled", "Thinking may not be enabled when tool_choice forces tool use."
        assert inference.get("temperature", 1) == 1
        assert inference.get("topP", 1) >= 0.95
        assert "top_k" not in additional
        assert body.get("toolConfig", {}).get("toolChoice", {"auto": {}}) == {"auto": {}}
        assert additional.get("tool_choice", {"type": "auto"})["type"] == "auto"
    if additional.get("reasoningConfig") == {"type": "enabled", "maxReasoningEffort": "high"}:
        # "`maxTokens` must be unset when reasoningConfig type is 'enabled' and maxReasoningEffort is 'high'"
        assert not inference.keys() & {"maxTokens", "temperature", "topP"}


def _kind(union: dict[str, Any]) -> str:
    """Of a union exactly one member is set."""
    assert len(union) == 1, union.keys()
    return next(iter(union))


def _typed(found: dict[str, Any], types: dict[str, Any], what: str) -> None:
    unknown = found.keys() - types.keys()
    assert not unknown, f"{what} has {sorted(unknown)}"
    for name, value in found.items():
        assert isinstance(value, types[name]), f"{what}.{name} is {value!r}"
        assert not isinstance(value, bool)


# -- botocore


@cache
def shape_of(stream: bool) -> Any:
    """AWS's own model of the request. None where botocore is not installed."""
    try:
        import botocore.loaders
        import botocore.model
    except ModuleNotFoundError:
        return None
    model = botocore.loaders.Loader().load_service_model("bedrock-runtime", "service-2")
    operation = botocore.model.ServiceModel(model).operation_model("ConverseStream" if stream else "Converse")
    return operation.input_shape


def judge_by_botocore(body: dict[str, Any], *, stream: bool) -> None:
    """Unknown keys, types, unions, lengths, as the AWS SDK refuses them before it sends."""
    validate = pytest.importorskip("botocore.validate", reason="botocore is not installed: it is the judge here")
    report = validate.ParamValidator().validate({"modelId": "m", **body}, shape_of(stream))
    assert not report.has_errors(), report.generate_report()
