"""The official `openai` SDK as the client, which is what most callers are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from proxy.torture.upstream import Call, Upstream, chunk_of, completion, delta, finish, role, usage
from tests.e2e.client import MESSAGES
from tests.e2e.conftest import Start, provider
from tests.e2e.running import Proxy

pytestmark = pytest.mark.integration

CLIENT_KEY = "sk-caller-1"
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


async def tools(call: Call) -> None:
    calls = [
        {
            "index": index,
            "id": f"call_{index}",
            "type": "function",
            "function": {"name": "weather", "arguments": f'{{"city": "{city}"}}'},
        }
        for index, city in enumerate(("Oslo", "Rome"))
    ]
    if call.stream:
        await call.begin_stream()
        await call.event(role())
        for one in calls:
            function = one["function"]
            assert isinstance(function, dict)
            start = {**one, "function": {"name": function["name"], "arguments": ""}}
            await call.event(chunk_of([{"index": 0, "delta": {"tool_calls": [start]}, "finish_reason": None}]))
            for piece in (function["arguments"][:6], function["arguments"][6:]):
                part = {"index": one["index"], "function": {"arguments": piece}}
                await call.event(chunk_of([{"index": 0, "delta": {"tool_calls": [part]}, "finish_reason": None}]))
        await call.event(finish("tool_calls"))
        await call.event(usage())
        await call.chunk(b"data: [DONE]\n\n")
        await call.end_stream()
    else:
        message = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{k: v for k, v in one.items() if k != "index"} for one in calls],
        }
        await call.json(200, completion(choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}]))


async def rich(call: Call) -> None:
    """Two choices, log-probabilities, reasoning, and fields of which nobody has heard."""
    logprobs = {"content": [{"token": "Hi", "logprob": -0.25, "bytes": [72, 105], "top_logprobs": []}], "refusal": None}
    if call.stream:
        await call.begin_stream()
        await call.event(role())
        await call.event(chunk_of([{"index": 0, "delta": {"reasoning_content": "Thinking."}, "finish_reason": None}]))
        await call.event({**delta("Hi"), "x_provider_extra": {"a": 1}})
        await call.rest()
    else:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": "Hi", "reasoning": "Thinking."},
                "logprobs": logprobs,
                "finish_reason": "stop",
            }
            for index in range(2)
        ]
        await call.json(200, completion(choices=choices, x_provider_extra={"a": 1}, system_fingerprint="fp_1"))


@pytest.fixture(scope="module")
def proxy(start: Start, upstream: Upstream) -> Proxy:
    upstream.scripts = {**upstream.scripts, "tools": tools, "rich": rich}
    one = provider(upstream.url)
    return start(
        {
            "defaults": {"retries": 0},
            "providers": {
                "fake": {**one, "models": {"no-tools": {"capabilities": ["json_object"]}}},
                "auth": one,
                "busy": one,
                "down": one,
                # the catalogue's quirks come with the names: groq renames and drops, mistral takes no developer role
                "groq": {"base_url": upstream.url, "api_key": "sk-groq-1"},
                "mistral": {"base_url": upstream.url, "api_key": "sk-mistral-1"},
            },
            "chains": {
                "smart": ["fake/ok"],
                "tools": ["fake/tools"],
                "rich": ["fake/rich"],
                "no-tools": ["fake/no-tools"],
                "bad": ["fake/status_400"],
                "gone": ["auth/status_401"],
                "busy": ["busy/limit_seconds"],
                "down": ["down/status_500"],
                "with/slash": ["fake/org/model-1"],
                "elsewhere-*": ["fake/*"],
            },
            "clients": {"caller": {"key": CLIENT_KEY}, "narrow": {"key": "sk-narrow-1", "chains": ["smart"]}},
        }
    )


@pytest.fixture
def sdk(proxy: Proxy) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        yield client


def ask(sdk: openai.OpenAI, model: str, **more: Any) -> Any:
    return sdk.chat.completions.create(model=model, messages=MESSAGES, **more)  # type: ignore[arg-type]


def test_a_completion(sdk: openai.OpenAI) -> None:
    answer = ask(sdk, "smart")

    assert answer.choices[0].message.content == "Hello from upstream"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 7)


def test_the_answer_s_headers(sdk: openai.OpenAI) -> None:
    raw = sdk.chat.completions.with_raw_response.create(model="smart", messages=MESSAGES)  # type: ignore[arg-type]

    headers = raw.headers
    assert (headers["x-tollbridge-provider"], headers["x-tollbridge-model"], headers["x-tollbridge-attempts"]) == (
        "fake",
        "ok",
        "1",
    )
    assert headers["server-timing"].startswith("upstream;dur=")
    assert len(headers["x-request-id"]) == 26


def test_a_stream(sdk: openai.OpenAI) -> None:
    chunks = list(ask(sdk, "smart", stream=True))

    assert "".join([chunk.choices[0].delta.content or "" for chunk in chunks]) == "Hello from upstream"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_the_usage_chunk_reaches_those_who_asked(sdk: openai.OpenAI, upstream: Upstream) -> None:
    chunks = list(ask(sdk, "smart", stream=True, stream_options={"include_usage": True}))

    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 7


def test_usage_is_asked_of_the_upstream_whoever_wants_it(sdk: openai.OpenAI, upstream: Upstream) -> None:
    list(ask(sdk, "smart", stream=True))

    assert upstream.bodies["ok"]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("stream", [False, True])
def test_parallel_tool_calls(sdk: openai.OpenAI, upstream: Upstream, stream: bool) -> None:
    answer = ask(sdk, "tools", tools=[TOOL], parallel_tool_calls=True, stream=stream)
    if stream:
        found: dict[int, list[str]] = {}
        for chunk in answer:
            for call in chunk.choices[0].delta.tool_calls or []:
                found.setdefault(call.index, []).append(call.function.arguments or "")
        arguments = ["".join(pieces) for pieces in found.values()]
    else:
        assert answer.choices[0].finish_reason == "tool_calls"
        arguments = [call.function.arguments for call in answer.choices[0].message.tool_calls]

    assert [json.loads(text) for text in arguments] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert upstream.bodies["tools"]["tools"] == [TOOL]
    assert upstream.bodies["tools"]["parallel_tool_calls"] is True


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"type": "object"}}},
    ],
    ids=["json_object", "json_schema"],
)
def test_json_modes_are_passed_on(sdk: openai.OpenAI, upstream: Upstream, response_format: dict[str, Any]) -> None:
    ask(sdk, "smart", response_format=response_format)

    assert upstream.bodies["ok"]["response_format"] == response_format


def test_choices_log_probabilities_and_reasoning_come_through(sdk: openai.OpenAI, upstream: Upstream) -> None:
    answer = ask(sdk, "rich", n=2, logprobs=True, top_logprobs=0, seed=7, stop=["END"])

    assert [choice.message.content for choice in answer.choices] == ["Hi", "Hi"]
    assert answer.choices[0].logprobs.content[0].logprob == -0.25
    assert answer.choices[1].message.reasoning == "Thinking."
    assert answer.x_provider_extra == {"a": 1}
    sent = upstream.bodies["rich"]
    assert (sent["n"], sent["logprobs"], sent["top_logprobs"], sent["seed"], sent["stop"]) == (2, True, 0, 7, ["END"])


def test_reasoning_and_unknown_fields_of_a_stream_come_through(sdk: openai.OpenAI) -> None:
    chunks = list(ask(sdk, "rich", stream=True))

    assert [getattr(chunk.choices[0].delta, "reasoning_content", None) for chunk in chunks].count("Thinking.") == 1
    assert [getattr(chunk, "x_provider_extra", None) for chunk in chunks].count({"a": 1}) == 1


def test_unknown_fields_of_a_request_are_passed_on(sdk: openai.OpenAI, upstream: Upstream) -> None:
    ask(sdk, "smart", extra_body={"top_k": 40, "provider_options": {"deep": [1, {"x": None}]}})

    assert upstream.bodies["ok"]["top_k"] == 40
    assert upstream.bodies["ok"]["provider_options"] == {"deep": [1, {"x": None}]}


def test_images_and_audio_are_passed_on(sdk: openai.OpenAI, upstream: Upstream) -> None:
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ]
    sdk.chat.completions.create(model="smart", messages=[{"role": "user", "content": content}])  # type: ignore[list-item, misc]

    assert upstream.bodies["ok"]["messages"][0]["content"] == content


def test_fields_that_could_redirect_the_call_have_no_effect(sdk: openai.OpenAI, upstream: Upstream) -> None:
    forbidden = {
        "api_base": "http://evil.invalid",
        "base_url": "http://evil.invalid",
        "api_key": "sk-evil",
        "headers": {"a": "b"},
        "url": "x",
    }
    ask(sdk, "smart", extra_body=forbidden)

    assert not forbidden.keys() & upstream.bodies["ok"].keys()


def test_only_our_own_headers_go_upstream(sdk: openai.OpenAI, upstream: Upstream) -> None:
    ask(
        sdk,
        "smart",
        extra_headers={"cookie": "a=b", "x-forwarded-for": "1.2.3.4", "openai-organization": "org", "traceparent": "00-1-2-3"},
    )

    sent = upstream.headers["ok"]
    assert sent.keys() == {
        "request-line",
        "host",
        "content-type",
        "content-length",
        "accept-encoding",
        "user-agent",
        "authorization",
    }
    assert sent["authorization"] == "Bearer sk-upstream-1"
    assert sent["accept-encoding"] == "identity"


def test_tags_are_taken_out_of_the_metadata(sdk: openai.OpenAI, upstream: Upstream, proxy: Proxy) -> None:
    raw = sdk.chat.completions.with_raw_response.create(
        model="smart",
        messages=MESSAGES,  # type: ignore[arg-type]
        metadata={"department": "research", "agent": "search", "task": "triage", "task_id": "t-1", "mine": "kept"},
        extra_headers={"x-tollbridge-task": "summary"},
    )

    assert upstream.bodies["ok"]["metadata"] == {"mine": "kept"}
    row = proxy.client.row(raw.headers["x-request-id"])
    assert (row["client"], row["department"], row["agent"], row["task"], row["task_id"]) == (
        "caller",
        "research",
        "search",
        "summary",
        "t-1",
    )


def test_quirks_of_a_provider_from_the_catalogue(sdk: openai.OpenAI, upstream: Upstream) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, *MESSAGES]
    sdk.chat.completions.create(model="mistral/quirky-m", messages=messages, max_completion_tokens=5)  # type: ignore[arg-type]
    sdk.chat.completions.create(model="groq/quirky-g", messages=messages, max_completion_tokens=5)  # type: ignore[arg-type]

    assert upstream.bodies["quirky-m"]["messages"][0]["role"] == "system"
    assert upstream.bodies["quirky-m"]["max_tokens"] == 5
    assert "max_completion_tokens" not in upstream.bodies["quirky-m"]
    assert upstream.bodies["quirky-g"]["max_completion_tokens"] == 5


def test_models(sdk: openai.OpenAI, proxy: Proxy) -> None:
    names = [model.id for model in sdk.models.list()]

    assert names[:3] == ["smart", "tools", "rich"]
    assert "elsewhere-*" not in names
    assert "fake/org/model-1" in names
    assert sdk.models.retrieve("smart").owned_by == "tollbridge"
    # the SDK escapes the slash; others send it as it is
    assert sdk.models.retrieve("fake/org/model-1").owned_by == "fake"
    plain = proxy.client.get("/v1/models/fake/org/model-1", {"authorization": f"Bearer {CLIENT_KEY}"})
    assert plain.json["id"] == "fake/org/model-1"
    escaped = proxy.client.get("/v1/models/fake%2Forg%2Fmodel-1", {"authorization": f"Bearer {CLIENT_KEY}"})
    assert escaped.json == plain.json
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("nothing")


def test_the_same_routes_without_v1(proxy: Proxy) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{proxy.port}", api_key=CLIENT_KEY, max_retries=0) as sdk:
        assert ask(sdk, "smart").choices[0].message.content == "Hello from upstream"
        assert next(model.id for model in sdk.models.list()) == "smart"


def test_direct_targets_and_wildcards(sdk: openai.OpenAI, upstream: Upstream) -> None:
    ask(sdk, "fake/some/model")
    ask(sdk, "elsewhere-abc")

    assert upstream.bodies["some/model"]["model"] == "some/model"
    assert upstream.bodies["abc"]["model"] == "abc"


@pytest.mark.parametrize(
    ("model", "raised", "status", "code"),
    [
        ("bad", openai.BadRequestError, 400, "invalid_value"),
        ("nothing", openai.NotFoundError, 404, "model_not_found"),
        ("busy", openai.RateLimitError, 429, "rate_limit_exceeded"),
        ("down", openai.InternalServerError, 502, "upstream_unavailable"),
        ("gone", openai.InternalServerError, 502, "provider_auth"),
    ],
)
def test_errors_are_the_sdk_s_own_classes(
    sdk: openai.OpenAI, model: str, raised: type[openai.APIStatusError], status: int, code: str
) -> None:
    with pytest.raises(raised) as caught:
        ask(sdk, model)

    assert (caught.value.status_code, caught.value.code) == (status, code)


def test_a_wrong_key_is_the_caller_s_own(proxy: Proxy) -> None:
    with (
        openai.OpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key="sk-wrong", max_retries=0) as sdk,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        ask(sdk, "smart")

    assert caught.value.code == "invalid_api_key"
    assert "sk-wrong" not in str(caught.value)


def test_a_key_for_some_chains_opens_no_others(proxy: Proxy) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key="sk-narrow-1", max_retries=0) as sdk:
        assert ask(sdk, "smart").choices
        assert [model.id for model in sdk.models.list()] == ["smart"]
        for model in ("tools", "fake/ok", "elsewhere-ok"):
            with pytest.raises(openai.PermissionDeniedError):
                ask(sdk, model)


def test_a_stream_that_breaks_raises(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError, match="broke off"):
        list(ask(sdk, "fake/reset_after_content", stream=True))


def test_the_sdk_does_not_repeat_what_a_spent_chain_has_tried(proxy: Proxy, upstream: Upstream) -> None:
    before = upstream.requests["status_502"]
    with (
        openai.OpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key=CLIENT_KEY, max_retries=3) as sdk,
        pytest.raises(openai.InternalServerError),
    ):
        ask(sdk, "fake/status_502")

    assert upstream.requests["status_502"] - before == 1


def test_a_feature_that_no_target_has_is_refused_by_name(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(sdk, "no-tools", tools=[TOOL])

    assert caught.value.code == "unsupported_feature"
    assert "tools" in caught.value.message


@pytest.mark.anyio
async def test_the_asynchronous_client(proxy: Proxy) -> None:
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key=CLIENT_KEY, max_retries=0) as sdk:
        create: Any = sdk.chat.completions.create
        chunks = [chunk async for chunk in await create(model="smart", messages=MESSAGES, stream=True)]

    assert "".join([chunk.choices[0].delta.content or "" for chunk in chunks]) == "Hello from upstream"
