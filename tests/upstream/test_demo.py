"""The demo models speak OpenAI's dialect, say that they are canned, and fail as promised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.ports import Origin, RequestHead
from proxy.upstream.canned import example
from proxy.upstream.demo import CUT_AFTER_PIECES, DemoTransport

if TYPE_CHECKING:
    from tests.upstream.conftest import ManualClock

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

HEAD = RequestHead.make(Origin("http", "demo", 80), "POST", "/v1/chat/completions", [])
HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello   there"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 3},
                "detail": {"type": "boolean"},
            },
            "required": ["city", "unit", "days"],
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}


class Naps:
    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture
def demo(clock: ManualClock, naps: Naps) -> DemoTransport:
    return DemoTransport(clock, naps)


async def ask(demo: DemoTransport, model: str = "chat", **fields: Any) -> tuple[int, bytes]:
    body = orjson.dumps({"model": model, "messages": HELLO, **fields})
    response = await demo.send(HEAD, body, connect_timeout_s=1)
    parts = []
    while data := await response.read():
        parts.append(data)
    response.close()
    return response.status, b"".join(parts)


async def whole(demo: DemoTransport, **fields: Any) -> ChatCompletion:
    status, body = await ask(demo, **fields)
    assert status == 200
    return ChatCompletion.model_validate_json(body, strict=True)


async def streamed(demo: DemoTransport, **fields: Any) -> list[ChatCompletionChunk]:
    status, body = await ask(demo, stream=True, **fields)
    assert status == 200
    *events, done, end = body.decode().split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [ChatCompletionChunk.model_validate_json(event.removeprefix("data: ")) for event in events]


async def test_a_whole_answer(demo: DemoTransport) -> None:
    completion = await whole(demo)
    choice = completion.choices[0]
    assert choice.message.content is not None
    assert choice.message.content.startswith("This is Tollbridge's built-in demo model")
    assert "“Hello there”" in choice.message.content
    assert choice.finish_reason == "stop"
    assert (completion.model, completion.object) == ("chat", "chat.completion")
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == 7  # system Be brief . user Hello there
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


async def test_a_streamed_answer_says_the_same_as_the_whole_one(demo: DemoTransport) -> None:
    text = (await whole(demo)).choices[0].message.content
    chunks = await streamed(demo, stream_options={"include_usage": True})
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == text
    assert [choice.delta.role for chunk in chunks for choice in chunk.choices].count("assistant") == 1
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == (await whole(demo)).usage
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1


async def test_usage_comes_only_when_asked_for(demo: DemoTransport) -> None:
    assert all(chunk.usage is None and chunk.choices for chunk in await streamed(demo))


async def test_the_echo_is_bounded(demo: DemoTransport) -> None:
    completion = await whole(demo, messages=[{"role": "user", "content": [{"type": "text", "text": "long " * 5000}]}])
    assert len(completion.choices[0].message.content or "") < 500


async def test_n_answers(demo: DemoTransport) -> None:
    assert [choice.index for choice in (await whole(demo, n=3)).choices] == [0, 1, 2]
    finished = [choice.index for chunk in await streamed(demo, n=2) for choice in chunk.choices if choice.finish_reason]
    assert finished == [0, 1]


async def test_a_tool_call(demo: DemoTransport) -> None:
    choice = (await whole(demo, tools=[WEATHER, TIME])).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert orjson.loads(call.function.arguments) == {"city": "demo", "unit": "celsius", "days": 3}


async def test_a_forced_tool_and_one_without_parameters(demo: DemoTransport) -> None:
    forced = {"type": "function", "function": {"name": "get_time"}}
    (call,) = (await whole(demo, tools=[WEATHER, TIME], tool_choice=forced)).choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("get_time", "{}")


async def test_parallel_tool_calls_are_streamed_under_their_indices(demo: DemoTransport) -> None:
    prompt = [{"role": "user", "content": "Call both in parallel."}]
    chunks = await streamed(demo, tools=[WEATHER, TIME], messages=prompt)
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        for delta in chunk.choices[0].delta.tool_calls or []:
            assert delta.function is not None
            calls.setdefault(delta.index, [delta.id or "", delta.function.name or "", ""])[2] += delta.function.arguments or ""
    assert [call[:2] for call in calls.values()] == [["call_demo_0", "get_weather"], ["call_demo_1", "get_time"]]
    assert orjson.loads(calls[0][2])["days"] == 3
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [WEATHER], "tool_choice": "none"},
        {"tools": [WEATHER], "messages": [*HELLO, {"role": "tool", "tool_call_id": "call_demo_0", "content": "sunny"}]},
        {"tools": []},
    ],
)
async def test_text_where_no_tool_call_is_due(fields: dict[str, Any], demo: DemoTransport) -> None:
    assert (await whole(demo, **fields)).choices[0].finish_reason == "stop"


async def test_json_mode(demo: DemoTransport) -> None:
    content = (await whole(demo, response_format={"type": "json_object"})).choices[0].message.content
    assert isinstance(orjson.loads(content or ""), dict)


async def test_a_json_schema_is_satisfied(demo: DemoTransport) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 6},
            "kind": {"enum": ["a", "b"]},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": 2},
            "size": {"type": "object", "properties": {"width": {"type": "number"}}, "required": ["width"]},
            "note": {"anyOf": [{"type": "null"}, {"type": "string"}]},
        },
        "required": ["name", "kind", "tags", "size", "note"],
        "$defs": {"tag": {"type": "string", "maxLength": 2}},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, "strict": True}}
    content = (await whole(demo, response_format=wanted)).choices[0].message.content
    assert orjson.loads(content or "") == {
        "name": "demo..",
        "kind": "a",
        "tags": ["de", "de"],
        "size": {"width": 1},
        "note": None,
    }


@pytest.mark.parametrize("choice", [{"type": "function", "function": "get_time"}, {"function": None}, {}, "get_time"])
async def test_a_forced_tool_that_makes_no_sense_is_as_none(choice: Any, demo: DemoTransport) -> None:
    (call,) = (await whole(demo, tools=[WEATHER, TIME], tool_choice=choice)).choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"


@pytest.mark.parametrize(
    "schema", [{"enum": 5}, {"enum": {"a": 1}}, {"anyOf": 5}, {"oneOf": {"a": 1}}, {"allOf": "x"}, {"type": {}}]
)
def test_a_schema_that_makes_no_sense_has_an_example_all_the_same(schema: Any) -> None:
    assert orjson.dumps(example({"type": "object", "properties": {"a": schema}, "required": ["a"]}))


def test_a_schema_that_refers_to_itself_ends() -> None:
    names = [f"p{number}" for number in range(50)]
    schema: dict[str, Any] = {"type": "object", "properties": {name: {"$ref": "#"} for name in names}, "required": names}
    assert len(orjson.dumps(example(schema))) < 1 << 20


async def test_flaky_fails_every_second_call(demo: DemoTransport) -> None:
    assert [(await ask(demo, "flaky"))[0] for _ in range(4)] == [503, 200, 503, 200]


async def test_down_is_down(demo: DemoTransport) -> None:
    status, body = await ask(demo, "down")
    assert status == 503
    assert orjson.loads(body)["error"]["code"] == "service_unavailable"


async def test_an_unknown_model(demo: DemoTransport) -> None:
    status, body = await ask(demo, "gpt-9")
    assert status == 404
    assert orjson.loads(body)["error"] == {
        "message": "The model `gpt-9` does not exist.",
        "type": "invalid_request_error",
        "param": None,
        "code": "model_not_found",
    }


@pytest.mark.parametrize("stream", [True, False])
async def test_cut_breaks_off_in_the_middle(stream: bool, demo: DemoTransport) -> None:
    body = orjson.dumps({"model": "cut", "messages": HELLO, "stream": stream})
    response = await demo.send(HEAD, body, connect_timeout_s=1)
    received = b"".join([await response.read() for _ in range(CUT_AFTER_PIECES if stream else 1)])
    with pytest.raises(UpstreamError) as caught:
        await response.read()
    assert caught.value.error_class is ErrorClass.RESET_STREAM
    assert b"demo model" in received if not stream else b'"content":" is"' in received
    assert b"[DONE]" not in received
    assert await (await demo.send(HEAD, body, connect_timeout_s=1)).read() != b""


async def test_slow_takes_its_time(demo: DemoTransport, naps: Naps) -> None:
    await ask(demo, "chat", stream=True)
    assert naps.taken == []
    await ask(demo, "slow", stream=True)
    assert naps.taken[:3] == [2.0, 0.15, 0.15]
    naps.taken.clear()
    await ask(demo, "slow")
    assert naps.taken == [2.0]
