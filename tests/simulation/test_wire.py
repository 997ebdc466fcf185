"""What a simulated upstream writes is what the production dialect of its provider reads, streamed and whole."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from proxy.accounting.usage import usage_from_openai
from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.target import Credential, Provider, Secret, Target
from proxy.dialects.anthropic.dialect import AnthropicMessages
from proxy.dialects.base import OutboundDialect
from proxy.dialects.bedrock.dialect import BedrockConverse
from proxy.dialects.cohere.dialect import CohereChat
from proxy.dialects.gemini.dialect import Gemini
from proxy.dialects.ollama.dialect import OllamaChat
from proxy.dialects.openai_chat import AzureChat, OpenAIChat
from proxy.dialects.openai_request import OpenAIChatInbound
from proxy.dialects.vertex import Vertex
from proxy.simulation import wire

pytestmark = pytest.mark.unit

DIALECTS: dict[str, OutboundDialect] = {
    "openai": OpenAIChat(usage_from_openai),
    "azure": AzureChat(usage_from_openai),
    "anthropic": AnthropicMessages(),
    "gemini": Gemini(),
    "vertex": Vertex(),
    "cohere": CohereChat(),
    "ollama": OllamaChat(),
    "bedrock": BedrockConverse(),
}
PLACES = [
    ("openai", "gpt-5"),
    ("azure", "gpt-4o"),
    ("anthropic", "claude-sonnet-4-5"),
    ("gemini", "gemini-2.5-pro"),
    ("vertex", "gemini-2.5-pro"),
    ("vertex", "claude-sonnet-4-5@20250929"),
    ("cohere", "command-a-03-2025"),
    ("ollama", "llama3:8b"),
    ("bedrock", "anthropic.claude-3-5-sonnet-20241022-v2:0"),
]
TEXTS = ["Some ", "words, ", "in pieces."]


def place(dialect: str, model: str) -> Target:
    made = Provider("p", dialect, "http://p", (Credential("k", Secret("fake")),), project="p", location="l", region="r")
    return Target(made, model, model)


def request(*, stream: bool, **more: Any) -> ChatRequest:
    body = {"model": "smart", "messages": [{"role": "user", "content": "Hi"}], "stream": stream, **more}
    return OpenAIChatInbound().decode_request(orjson.dumps(body))


def asked(dialect: str, target: Target, sent: ChatRequest) -> wire.Asked:
    outbound = DIALECTS[dialect].encode_request(sent, target)
    return wire.read_request(dialect, outbound.path, outbound.body)


@pytest.mark.parametrize(("dialect", "model"), PLACES)
def test_a_request_is_read_in_every_dialect(dialect: str, model: str) -> None:
    target = place(dialect, model)
    for stream in (False, True):
        found = asked(dialect, target, request(stream=stream, max_tokens=77))
        assert (found.model, found.stream, found.max_tokens) == (model, stream, 77)


def test_the_deployment_in_a_dated_path_is_the_model() -> None:
    target = place("azure", "my model")
    dated = replace(target, provider=replace(target.provider, api_version="2024-10-21"))
    assert asked("azure", dated, request(stream=False)).model == "my model"


@pytest.mark.parametrize("cut_off", [False, True])
@pytest.mark.parametrize(("dialect", "model"), PLACES)
def test_a_whole_answer_is_understood(dialect: str, model: str, cut_off: bool) -> None:
    target, sent = place(dialect, model), request(stream=False)
    answer = wire.Answer("x-1", model, 1_800_000_000, TEXTS, 12, 34, cut_off)
    found = DIALECTS[dialect].decode_answer(wire.whole(asked(dialect, target, sent).form, answer), sent, target)
    assert orjson.loads(found.body)["choices"][0]["message"]["content"] == "".join(TEXTS)
    assert found.finish_reason == ("length" if cut_off else "stop")
    assert found.usage is not None
    assert (found.usage.input_tokens, found.usage.output_tokens) == (12, 34)


@pytest.mark.parametrize("cut_off", [False, True])
@pytest.mark.parametrize(("dialect", "model"), PLACES)
def test_a_streamed_answer_is_understood_piece_by_piece(dialect: str, model: str, cut_off: bool) -> None:
    target, sent = place(dialect, model), request(stream=True)
    answer = wire.Answer("x-1", model, 1_800_000_000, TEXTS, 12, 34, cut_off)
    stream = DIALECTS[dialect].answer_stream(sent, target)
    pieces = wire.streamed(asked(dialect, target, sent).form, answer)
    assert len(pieces) == len(TEXTS) + 1
    before = stream.committed
    out = stream.feed(pieces[0])
    assert (before, stream.committed, stream.done) == (False, True, False)
    out += b"".join([stream.feed(piece) for piece in pieces[1:]]) + stream.close()
    assert stream.error is None
    assert stream.malformed == 0
    chunks = [orjson.loads(line[6:]) for line in out.split(b"\n") if line.startswith(b"data: {")]
    said = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(said) == "".join(TEXTS)
    assert stream.finish_reason == ("length" if cut_off else "stop")
    assert stream.usage is not None
    assert (stream.usage.input_tokens, stream.usage.output_tokens) == (12, 34)


ERRORS = [
    (400, "invalid_request_error", ErrorClass.INVALID_REQUEST),
    (401, "invalid_api_key", ErrorClass.AUTH),
    (404, "model_not_found", ErrorClass.MODEL_NOT_FOUND),
    (429, "rate_limit_exceeded", ErrorClass.RATE_LIMITED),
    (500, "server_error", ErrorClass.SERVER_ERROR),
]


@pytest.mark.parametrize(("status", "code", "error_class"), ERRORS)
@pytest.mark.parametrize(("dialect", "model"), PLACES)
def test_an_error_is_what_it_is_in_every_dialect(
    dialect: str, model: str, status: int, code: str, error_class: ErrorClass
) -> None:
    form = asked(dialect, place(dialect, model), request(stream=False)).form
    found = DIALECTS[dialect].decode_error(status, (), wire.error(form, status, code))
    assert isinstance(found, UpstreamError)
    assert found.error_class is error_class
