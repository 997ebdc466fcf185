"""Who takes the beginning of an answer, and what is read off the bytes that a caller was sent."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounting.usage import usage_from_openai
from proxy.config.load import load
from proxy.core.chat import ChatRequest
from proxy.core.target import Prefix, Provider, Quirks, Target
from proxy.core.usage import Usage, UsageSource
from proxy.dialects.base import AnswerStream
from proxy.dialects.continuing import Continuing, JoinedStream, Past, added, never_after, prefix_of
from proxy.dialects.openai_chat import OpenAIChat
from proxy.dialects.openai_request import OpenAIChatInbound
from proxy.dialects.told import FOLD_BYTES, MAX_SENT_BYTES, Told

pytestmark = pytest.mark.unit

KEYS = ("ANTHROPIC", "GROQ", "MISTRAL", "DEEPSEEK", "MOONSHOT", "DASHSCOPE", "OPENAI", "GEMINI", "COHERE", "OPENROUTER")
ENVIRON = {f"{name}_API_KEY": "k-1" for name in KEYS} | {"AWS_REGION": "eu-west-1", "GOOGLE_CLOUD_PROJECT": "p"}


def chat_request(**fields: Any) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True, **fields}
    return OpenAIChatInbound().decode_request(orjson.dumps(body))


Find = Callable[[str], Target]


@pytest.fixture(scope="module")
def find(tmp_path_factory: pytest.TempPathFactory) -> Find:
    file = tmp_path_factory.mktemp("known") / "providers.yaml"
    names = (
        "anthropic bedrock vertex groq mistral moonshot dashscope openai gemini cohere openrouter vllm lmstudio ollama".split()
    )
    stanzas = "".join([f"  {name}: {{}}\n" for name in names])
    file.write_text(f"providers:\n{stanzas}  deepseek: {{base_url: https://api.deepseek.com}}\n")
    settings = load(file, environ=ENVIRON)

    def found(name: str) -> Target:
        chain = settings.resolve(name)
        assert chain is not None
        return chain.targets[0]

    return found


@pytest.mark.parametrize(
    ("model", "message", "body", "path"),
    [
        ("anthropic/claude-sonnet-4-5", {}, {}, None),
        ("bedrock/eu.anthropic.claude-3-7-sonnet-20250219-v1:0", {}, {}, None),
        ("vertex/claude-opus-4-1", {}, {}, None),
        ("groq/llama-3.3-70b-versatile", {}, {}, None),
        ("mistral/mistral-large-latest", {"prefix": True}, {}, None),
        ("deepseek/deepseek-chat", {"prefix": True}, {}, "/beta/chat/completions"),
        ("moonshot/moonshot-v1-8k", {"partial": True}, {}, None),
        ("dashscope/qwen-plus", {"partial": True}, {}, None),
        ("vllm/any", {}, {"add_generation_prompt": False, "continue_final_message": True}, None),
    ],
)
def test_these_are_documented_to_go_on_with_a_last_assistant_message(
    find: Find, model: str, message: Any, body: Any, path: str | None
) -> None:
    prefix = prefix_of(find(model), chat_request())
    assert prefix is not None
    assert (prefix.message, prefix.body, prefix.path) == (message, body, path)


@pytest.mark.parametrize(
    "model",
    [
        "anthropic/claude-opus-4-6",
        "anthropic/claude-sonnet-5",
        "anthropic/some-other-model",
        "bedrock/meta.llama4-maverick-17b-instruct-v1:0",
        "vertex/gemini-2.0-flash",
        "groq/openai/gpt-oss-120b",
        "deepseek/deepseek-reasoner",
        "moonshot/kimi-k2.6",
        "openai/gpt-4o",
        "gemini/gemini-2.0-flash",
        "cohere/command-a-03-2025",
        "openrouter/anthropic/claude-sonnet-4.5",
        "ollama/llama3",
        "lmstudio/any",
    ],
)
def test_these_refuse_it_think_or_say_nothing_of_it(find: Find, model: str) -> None:
    assert prefix_of(find(model), chat_request()) is None


@pytest.mark.parametrize("field", [{"reasoning_effort": "high"}, {"thinking": {"type": "enabled"}}, {"enable_thinking": True}])
def test_nobody_who_is_asked_to_think_is_given_a_beginning(find: Find, field: dict[str, Any]) -> None:
    assert prefix_of(find("anthropic/claude-sonnet-4-5"), chat_request(**field)) is None
    assert prefix_of(find("anthropic/claude-sonnet-4-5"), chat_request(reasoning_effort="none")) is not None


def test_a_path_belongs_to_its_own_address_only(tmp_path: Path) -> None:
    (tmp_path / "providers.yaml").write_text("providers:\n  deepseek: {base_url: https://elsewhere.example/v1}\n")
    chain = load(tmp_path / "providers.yaml", environ=ENVIRON).resolve("deepseek/deepseek-chat")
    assert chain is not None
    assert prefix_of(chain.targets[0], chat_request()) is None


def test_what_a_request_asks_for_may_rule_it_out() -> None:
    begun: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
    assert never_after(chat_request(messages=begun)) is None
    assert never_after(chat_request(messages=[*begun, {"role": "assistant", "content": "Well"}])) is None
    parts = [{"type": "text", "text": "Well"}]
    assert "not text" in str(never_after(chat_request(messages=[*begun, {"role": "assistant", "content": parts}])))


def event(delta: dict[str, Any], **more: Any) -> bytes:
    value = {"id": "c", "created": 1, "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None, **more}]}
    return b"data: " + orjson.dumps(value) + b"\n\n"


def test_what_was_told_is_read_in_large_pieces_and_whenever_it_is_asked_for() -> None:
    told = Told()
    one = event({"role": "assistant", "content": "héllo "})
    count = FOLD_BYTES // len(one) * 3
    for _ in range(count):
        told.note(one)
    told.note(b": keep-alive\n\ndata: [DONE]\n\n")
    assert told.text == "héllo " * count
    assert (told.id, told.created, told.model, told.role, told.why) == ("c", 1, "m", True, None)


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (event({"content": [{"type": "thinking", "thinking": []}]}), "parts that are not text"),
        (event({"audio": {"data": "x"}}), "audio"),
        (event({"images": [{"index": 0}]}), "an image"),
        (event({"content": "x"}, logprobs={"content": [{}]}), "log-probabilities"),
        (event({"content": "x"}, index=1), "several choices"),
        (event({}, finish_reason="stop"), "a finish reason"),
        (event({"reasoning_details": [{"type": "reasoning.text", "text": "Hm"}]}), None),
        (event({"reasoning_details": "odd"}), "sealed reasoning"),
        (event({"annotations": [{"index": 0}]}), None),
        (b'data: {"choices":[null,{"delta":null}]}\n\ndata: 1\n\ndata: {"choices":"odd"}\n\n', None),
    ],
)
def test_what_else_was_told_may_rule_it_out(sent: bytes, why: str | None) -> None:
    told = Told()
    told.note(sent)
    assert told.why == why


def test_an_event_that_is_too_large_to_be_read_rules_it_out() -> None:
    told = Told()
    told.note(b"data: " + b"x" * MAX_SENT_BYTES + b"\n\n")
    assert told.why == "an event of that size"


def test_a_sum_is_no_surer_than_its_parts() -> None:
    one = Usage(1, 2, cached_input_tokens=3, reasoning_tokens=4)
    other = Usage(10, 20, cached_input_tokens=30, reasoning_tokens=40, source=UsageSource.ESTIMATED)
    summed = added(one, other)
    assert (summed.input_tokens, summed.output_tokens, summed.cached_input_tokens, summed.reasoning_tokens) == (11, 22, 33, 44)
    assert summed.source is added(other, one).source is UsageSource.ESTIMATED
    assert added(one, Usage(source=UsageSource.COUNTED)).source is UsageSource.COUNTED


# -- bytes in, bytes out

EXACT = Target(Provider("b", "openai", "http://b", ()), "m2", "m2", quirks=Quirks(prefix=Prefix()))
ALPHABET = "ab é漢\n."


def chunked(texts: list[str], of: str) -> bytes:
    base = {"id": of, "object": "chat.completion.chunk", "created": 1, "model": of}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *[{"content": text} for text in texts]]
    chunks = [{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    return b"".join([b"data: " + orjson.dumps(each) + b"\n\n" for each in chunks])


def read(stream: AnswerStream, data: bytes, cuts: list[int]) -> bytes:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return b"".join([stream.feed(data[a:b]) for a, b in pairwise(places)])


@pytest.mark.property
@given(
    st.lists(st.text(ALPHABET, min_size=1, max_size=4), min_size=1, max_size=8),
    st.lists(st.text("xyz ,", min_size=1, max_size=4), max_size=8),
    st.lists(st.integers(0, 10_000), max_size=6),
)
def test_however_the_bytes_of_both_come_the_answer_is_one(first: list[str], second: list[str], cuts: list[int]) -> None:
    request = chat_request()
    begun = Continuing(OpenAIChat(usage_from_openai), None)
    begun.encode_request(request, EXACT)
    stream = begun.answer_stream(request, EXACT)
    out = read(stream, chunked(first, "one") + b'data: {"id', cuts)
    assert isinstance(stream, JoinedStream)
    rest = Continuing(OpenAIChat(usage_from_openai), Past(request, stream.told, Usage(1, 2), EXACT))
    asked = orjson.loads(rest.encode_request(request, EXACT).body)
    so_far = "".join(first)
    assert (asked["messages"][-1]["content"] == so_far) == bool(so_far.strip())
    stream = rest.answer_stream(request, EXACT)
    end = b'data: {"id":"two","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    out += read(stream, chunked(second, "two") + end, cuts) + stream.close()
    told = [orjson.loads(each[6:]) for each in out.split(b"\n\n") if each.startswith(b"data: {")]
    deltas = [choice["delta"] for each in told for choice in each["choices"]]
    text = "".join([delta.get("content", "") for delta in deltas])
    assert text == so_far + "".join(second) if so_far.strip() else text.split() == "".join(first + second).split()
    assert {each["id"] for each in told} == {"one"}
    assert sum("role" in delta for delta in deltas) == 1
    assert sum("x_tollbridge" in each for each in told) == 1
    assert out.endswith(b"data: [DONE]\n\n")
    assert stream.error is None
