"""What we send, judged by the types of Anthropic's own SDK, with nothing besides them allowed.

Its iterables are lazy: messages, contents, tools and system blocks are each validated by themselves, or nothing of them would be.
The SDK is of API version 2026-10-21, which knows no sampling parameters; the older version that we speak takes them.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from pydantic import TypeAdapter, ValidationError

from proxy.core.errors import CannotCarry
from proxy.dialects.anthropic.dialect import AnthropicMessages
from tests.dialects.anthropic_judge import MODELS, target_of
from tests.dialects.anthropic_recordings import Exchange, Untold, as_openai, exchanges
from tests.dialects.fields import CONVERSATION, FIELDS, FOREIGN_FIELDS, GOLDENS, NESTED_FIELDS, chat_request, with_field

NOT_INSTALLED = "the anthropic SDK is not installed: its types are the judge here"
types: Any = pytest.importorskip("anthropic.types", reason=NOT_INSTALLED)
params: Any = pytest.importorskip("anthropic.types.message_create_params", reason=NOT_INSTALLED)

pytestmark = pytest.mark.unit

DIALECT = AnthropicMessages()
SAMPLING = ("temperature", "top_p", "top_k")
# fields of beta features, which the SDK has types of its own for
BETA_TOOLS = frozenset(("advisor_20260301", "computer_20250124", "mcp_toolset"))
_WHOLE = TypeAdapter(params.MessageCreateParamsNonStreaming)
_STREAMED = TypeAdapter(params.MessageCreateParamsStreaming)
_MESSAGES = TypeAdapter(list[types.MessageParam])
_CONTENT = TypeAdapter(list[types.ContentBlockParam])
_SYSTEM = TypeAdapter(list[types.TextBlockParam])
_TOOLS = TypeAdapter(list[types.ToolUnionParam])
RECORDED = [exchange for exchange in exchanges() if exchange.request is not None and exchange.request.get("messages")]


def judge(body: dict[str, Any]) -> None:
    rest = {name: value for name, value in body.items() if name not in SAMPLING}
    (_STREAMED if body.get("stream") else _WHOLE).validate_python(rest, extra="forbid")
    _MESSAGES.validate_python(body["messages"], extra="forbid")
    for message in body["messages"]:
        _CONTENT.validate_python(message["content"], extra="forbid")
        for block in message["content"]:
            if block["type"] == "tool_result" and "content" in block:
                known = [inner for inner in block["content"] if inner["type"] != "tool_reference"]  # is of results only
                _CONTENT.validate_python(known, extra="forbid")
    _SYSTEM.validate_python(body.get("system", []), extra="forbid")
    tools = [tool for tool in body.get("tools", []) if tool.get("type") not in BETA_TOOLS]
    _TOOLS.validate_python(tools, extra="forbid")


@pytest.mark.parametrize("name", ["full.json", "full_adaptive.json"])
def test_goldens(name: str) -> None:
    judge(orjson.loads((GOLDENS / "anthropic" / name).read_bytes()))


def test_the_judge_refuses() -> None:
    body = orjson.loads((GOLDENS / "anthropic" / "full.json").read_bytes())
    for change in (
        {"seed": 7},
        {"system": [{"type": "text"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    ):
        with pytest.raises(ValidationError):
            judge({**body, **change})


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", [*FIELDS, *FOREIGN_FIELDS, *NESTED_FIELDS])
def test_every_field(name: str, model: str) -> None:
    try:
        encoded = DIALECT.encode_request(chat_request(with_field(name)[0]), target_of(model))
    except CannotCarry:
        return
    judge(orjson.loads(encoded.body))


@pytest.mark.parametrize("model", MODELS)
def test_a_conversation(model: str) -> None:
    body = {name: value for name, value in CONVERSATION.items() if name != "response_format"}
    judge(orjson.loads(DIALECT.encode_request(chat_request(body), target_of(model)).body))


@pytest.mark.parametrize("exchange", RECORDED, ids=lambda exchange: exchange.id)
def test_recorded_requests_made_again(exchange: Exchange) -> None:
    assert exchange.request is not None
    try:
        encoded = DIALECT.encode_request(
            chat_request(as_openai(exchange.request, provider="anthropic")), target_of(exchange.model)
        )
    except (Untold, CannotCarry) as reason:
        pytest.skip(str(reason))
    body = orjson.loads(encoded.body)
    body.get("output_config", {}).pop("task_budget", None)  # beta
    judge(body)
