"""What the tests of Converse say: models of each kind, messages, parts, thoughts."""

from __future__ import annotations

from typing import Any

from tests.dialects.bedrock_judge import CLAUDE, NOVA, sent
from tests.dialects.fields import PDF, PNG

HI: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
CALL: dict[str, Any] = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Lisboa"}'},
}
CALLED: list[dict[str, Any]] = [
    *HI,
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "21 degrees"},
]
CLAUDE_46, CLAUDE_5, CLAUDE_37 = (
    "eu.anthropic.claude-sonnet-4-6",
    "us.anthropic.claude-sonnet-5",
    "anthropic.claude-3-7-sonnet-v1:0",
)
LLAMA, MISTRAL, COHERE = "us.meta.llama4-maverick-17b-instruct-v1:0", "mistral.mistral-large-2402-v1:0", "cohere.command-r-v1:0"
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/mi1dadi0g15f"
RED = f"data:image/png;base64,{PNG}"


def dropped(body: dict[str, Any], model: str = CLAUDE, **changes: Any) -> tuple[str, ...]:
    return sent(body, model, **changes)[1].dropped


def messages(*given: dict[str, Any], model: str = CLAUDE, **fields: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sent({"messages": list(given), **fields}, model)[0]["messages"]
    return found


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def file(data: str = f"data:application/pdf;base64,{PDF}", **more: Any) -> dict[str, Any]:
    return {"type": "file", "file": {"file_data": data, **more}}


EPHEMERAL, HOUR = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}
POINT = {"cachePoint": {"type": "default"}}
SEALED: dict[str, Any] = {
    "type": "reasoning.text",
    "text": "By the bridge.",
    "signature": "c2ln",
    "format": "bedrock",
    "provider": "aws",
}
REDACTED: dict[str, Any] = {"type": "reasoning.encrypted", "data": "c2VhbGVk", "format": "bedrock", "provider": "aws"}
FOREIGN_THOUGHTS: list[dict[str, Any]] = [
    {**SEALED, "provider": "aws-2"},
    {**SEALED, "format": "anthropic"},
    {**SEALED, "signature": None},
    {**SEALED, "type": "reasoning.summary"},
    {**SEALED, "model": NOVA},
    {**REDACTED, "data": ""},
]
