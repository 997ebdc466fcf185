"""What the catalogue says that a target lacks is what its dialect cannot carry: a request that needs it is passed over with that
reason when the plan is made, and not only when it is to be written."""

from pathlib import Path
from typing import Any

import pytest

from proxy.config.load import load
from proxy.core.errors import CannotCarry
from proxy.core.target import FEATURES, Target
from tests.dialects.fields import FIELDS, PDF, PNG, TOOL, WAV, chat_request
from tests.providers_doc import NATIVE

pytestmark = pytest.mark.unit

TARGETS = """
anthropic/claude-3-5-haiku-20241022 anthropic/claude-opus-4-1 anthropic/claude-sonnet-4-5 anthropic/claude-opus-4-6
anthropic/claude-opus-5-5 gemini/gemini-2.0-flash gemini/gemini-2.5-flash gemini/gemini-3-pro-preview vertex/gemini-2.5-pro
vertex/claude-sonnet-4@20250514 vertex/claude-sonnet-4-5@20250929 bedrock/anthropic.claude-3-haiku-20240307-v1:0
bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0 bedrock/global.anthropic.claude-opus-5 bedrock/us.amazon.nova-pro-v1:0
bedrock/global.amazon.nova-2-lite-v1:0 bedrock/us.meta.llama3-3-70b-instruct-v1:0 bedrock/mistral.mistral-large-3-675b-instruct
bedrock/us.deepseek.r1-v1:0 bedrock/cohere.command-r-plus-v1:0 bedrock/ai21.jamba-1-5-large-v1:0 bedrock/openai.gpt-oss-120b-1:0
bedrock/us.amazon.nova-2-omni-v1:0 bedrock/amazon.titan-text-express-v1 bedrock/meta.llama9-7b bedrock/mistral.voxtral-mini-3b-2507
bedrock/mistral.new-1 bedrock/global.openai.gpt-6-sol bedrock/qwen.qwen3-32b-v1:0 bedrock/cohere.new-1 bedrock/ai21.new-1
bedrock/eu.anthropic.claude-next-9 bedrock/arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/abc
cohere/command-a-03-2025 cohere/command-a-vision-07-2025 cohere/command-a-reasoning-08-2025 ollama/llama3.2
""".split()


OF_CHAT = FEATURES.keys() - {"embeddings"}


def saying(part: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, part]}]}


ASKS: dict[str, dict[str, Any]] = {
    "tools": {"tools": [TOOL]},
    "parallel_tools": {"tools": [TOOL], "parallel_tool_calls": True},
    "streamed_tools": {"tools": [TOOL], "stream": True},
    "vision": saying({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}),
    "documents": saying({"type": "file", "file": {"filename": "trip.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}}),
    "audio": saying({"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}}),
    "video": saying({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAAHGZ0eXBtcDQyAAAAAG1wNDI="}}),
    "audio_output": {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
    "image_output": {"modalities": ["text", "image"]},
    "json_object": {"response_format": {"type": "json_object"}},
    "json_schema": {"response_format": FIELDS["response_format"]},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "n": {"n": 2},
}


@pytest.fixture(scope="module")
def targets() -> dict[str, Target]:
    environ = {f"{name}_API_KEY": "k-1" for name in ("ANTHROPIC", "GEMINI", "COHERE")}
    clouds = {"AWS_REGION": "us-east-1", "GOOGLE_CLOUD_PROJECT": "p1"}
    file = Path(__file__).with_name("native_providers.yaml")
    settings = load(file, environ={**environ, **clouds})
    found = {name: settings.resolve(name) for name in TARGETS}
    return {name: chain.targets[0] for name, chain in found.items() if chain is not None}


def body_that_needs(feature: str) -> dict[str, Any]:
    return {"model": "smart", "messages": [{"role": "user", "content": "Hi"}], **ASKS[feature]}


def test_each_feature_is_asked_for_by_itself() -> None:
    assert ASKS.keys() == OF_CHAT
    for feature in OF_CHAT:
        needs = chat_request(body_that_needs(feature)).needs
        assert feature in needs
        assert needs - {feature} <= {"tools"}


@pytest.mark.parametrize("name", TARGETS)
def test_what_a_dialect_cannot_carry_is_known_before(name: str, targets: dict[str, Target]) -> None:
    target = targets[name]
    dialect = NATIVE[target.provider.dialect]
    refused = set()
    for feature in OF_CHAT:
        try:
            dialect.encode_request(chat_request(body_that_needs(feature)), target)
        except CannotCarry:
            refused.add(feature)
    lacks = target.provider.lacks | target.lacks
    assert refused <= lacks, "the plan would choose a target that cannot serve the request"
    assert target.provider.lacks & OF_CHAT <= refused, "the plan would pass over a target that can"
