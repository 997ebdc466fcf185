"""What Mistral is sent, judged by its own SDK: OpenAI's format with the catalogue's quirks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from mistralai.client.models import ChatCompletionRequest

from proxy.accounting.usage import usage_from_openai
from proxy.config.load import load
from proxy.core.target import Target
from proxy.dialects.openai_chat import OpenAIChat
from tests.dialects.fields import chat_request

pytestmark = pytest.mark.unit

MODEL = "mistral-large-latest"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": True}}
CALL = {"id": "toolu_01ABCdefGHI-jkl", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}],
    },
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Hm."},
    {"role": "tool", "tool_call_id": CALL["id"], "content": "rain"},
]
KNOBS: list[dict[str, Any]] = [
    {},
    {"stream": True, "stream_options": {"include_usage": True}},
    {"temperature": 0.5, "top_p": 0.9, "max_completion_tokens": 10, "seed": 7, "stop": ["x"], "n": 2},
    {"presence_penalty": 0.1, "frequency_penalty": 0.1, "parallel_tool_calls": False, "tool_choice": "required"},
    {"tool_choice": {"type": "function", "function": {"name": "weather"}}, "metadata": {"a": "b"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}}},
    {"user": "u", "service_tier": "auto", "store": False, "logprobs": True, "top_logprobs": 2},
]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    path = tmp_path_factory.mktemp("mistral") / "providers.yaml"
    path.write_text(f"chains: {{smart: [mistral/{MODEL}]}}\n")
    settings = load(path, environ={"MISTRAL_API_KEY": "fake-key"}, env_file=Path("/dev/null"))
    return settings.chains["smart"].targets[0]


@pytest.mark.parametrize("knobs", KNOBS, ids=lambda knobs: ",".join(knobs) or "plain")
def test_the_sdk_knows_every_field_and_takes_every_value(knobs: dict[str, Any], target: Target) -> None:
    asked = chat_request({"model": "smart", "messages": CONVERSATION, "tools": [TOOL], **knobs})
    sent = orjson.loads(OpenAIChat(usage_from_openai).encode_request(asked, target).body)
    known = {field.alias or name for name, field in ChatCompletionRequest.model_fields.items()}
    assert sent.keys() <= known
    ChatCompletionRequest.model_validate(sent)
    ids = [sent["messages"][2]["tool_calls"][0]["id"], sent["messages"][3]["tool_call_id"]]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 9
    assert ids[0].isalnum()
    assert sent["messages"][0]["role"] == "system"
    assert "reasoning_content" not in sent["messages"][2]
