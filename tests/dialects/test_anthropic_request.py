"""What an OpenAI request becomes in Anthropic's words: the conversation, its tools and its media."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from proxy.core.chat import ChatRequest
from proxy.core.errors import CallerError, CannotCarry
from proxy.dialects.anthropic.dialect import AnthropicMessages, VertexAnthropic
from tests.dialects.anthropic_judge import MODELS, judge, target_of
from tests.dialects.fields import GOLDENS, PDF, PNG, TOOL, WAV, chat_request, full_body

pytestmark = pytest.mark.unit

DIALECT = AnthropicMessages()
SONNET = "claude-sonnet-4-5"
USER = {"role": "user", "content": "Hi"}
EPHEMERAL = {"type": "ephemeral"}


def request(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    return chat_request({"model": "smart", "messages": list(messages) or [USER], **fields})


def sent(*messages: dict[str, Any], model: str = SONNET, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(DIALECT.encode_request(request(*messages, **fields), target_of(model)).body)
    judge(body)
    return body


def dropped(*messages: dict[str, Any], model: str = SONNET, **fields: Any) -> tuple[str, ...]:
    return DIALECT.encode_request(request(*messages, **fields), target_of(model)).dropped


def refusal(*messages: dict[str, Any], model: str = SONNET, **fields: Any) -> tuple[str, str | None]:
    with pytest.raises(CannotCarry) as refused:
        DIALECT.encode_request(request(*messages, **fields), target_of(model))
    return refused.value.feature, refused.value.param


def user(*parts: dict[str, Any] | str) -> dict[str, Any]:
    return {"role": "user", "content": [text(part) if isinstance(part, str) else part for part in parts]}


def assistant(content: str | None = None, *calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls), **more}


def call(id_: str = "call_1", name: str = "get_weather", arguments: str = "{}") -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(id_: str = "call_1", content: Any = "21", **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": content, **more}


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def file(data: str | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "file", "file": {"file_data": data, **more} if data else more}


def thought(words: str = "Hm.", signature: str = "c2ln", **more: Any) -> dict[str, Any]:
    sealed = {"format": "anthropic", "provider": "anthropic", **more}
    return {"type": "reasoning.text", "text": words, "signature": signature, **sealed}


# the whole


@pytest.mark.parametrize(("model", "golden"), [(SONNET, "full.json"), ("claude-opus-5", "full_adaptive.json")])
def test_a_conversation_that_uses_everything(model: str, golden: str) -> None:
    body = full_body(without=("input_audio", "logprobs", "top_logprobs"))
    encoded = DIALECT.encode_request(chat_request(body), target_of(model))
    assert encoded.path == "/v1/messages"
    assert orjson.loads(encoded.body) == orjson.loads((GOLDENS / "anthropic" / golden).read_bytes())
    judge(orjson.loads(encoded.body))


def test_the_callers_body_is_not_touched() -> None:
    body = full_body(without=("input_audio", "logprobs", "top_logprobs"))
    asked = chat_request(body)
    before = orjson.dumps(asked.body)
    DIALECT.encode_request(asked, target_of(SONNET))
    assert orjson.dumps(asked.body) == before


def test_the_same_request_becomes_the_same_bytes() -> None:
    body = full_body(without=("input_audio", "logprobs", "top_logprobs"))
    assert len({DIALECT.encode_request(chat_request(body), target_of(SONNET)).body for _ in range(3)}) == 1


def test_vertex_has_the_model_in_its_path_and_the_version_in_its_body() -> None:
    target = target_of("claude-3-7-sonnet@20250219")
    whole = VertexAnthropic().encode_request(request(), target)
    body = orjson.loads(whole.body)
    assert whole.path == "/publishers/anthropic/models/claude-3-7-sonnet@20250219:rawPredict"
    assert body == {
        "anthropic_version": "vertex-2023-10-16",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": [text("Hi")]}],
    }
    streamed = VertexAnthropic().encode_request(request(stream=True), target)
    assert streamed.path.endswith(":streamRawPredict")
    assert orjson.loads(streamed.body)["stream"] is True


def test_a_models_name_cannot_leave_its_place_in_vertex_paths() -> None:
    encoded = VertexAnthropic().encode_request(request(), target_of("claude/../../x?y"))
    assert encoded.path == "/publishers/anthropic/models/claude%2F..%2F..%2Fx%3Fy:rawPredict"


# roles


def test_system_and_developer_messages_go_to_the_top_wherever_they_stand() -> None:
    body = sent(
        {"role": "system", "content": "A"},
        user("Hi"),
        {"role": "developer", "content": [text("B", cache_control=EPHEMERAL)]},
        assistant("Hello"),
        {"role": "system", "content": "C"},
        user("Bye"),
    )
    assert body["system"] == [text("A"), text("B", cache_control=EPHEMERAL), text("C")]
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]


def test_consecutive_messages_of_a_role_become_one() -> None:
    body = sent(user("A"), user("B", "C"), assistant("D"), assistant("E"), user("F"))
    assert [(message["role"], len(message["content"])) for message in body["messages"]] == [
        ("user", 3),
        ("assistant", 2),
        ("user", 1),
    ]


def test_empty_and_blank_texts_are_never_sent() -> None:
    body = sent(user("", " \n"), user("Hi", ""), assistant(""), user("\t", "there"))
    assert body["messages"] == [{"role": "user", "content": [text("Hi"), text("there")]}]


def test_a_conversation_of_nothing_is_the_callers_fault() -> None:
    with pytest.raises(CallerError):
        sent({"role": "user", "content": ""})


def test_system_messages_alone_are_put_to_the_model_as_the_users() -> None:
    message = {"role": "system", "content": "Tell a joke."}
    assert sent(message)["messages"] == [{"role": "user", "content": [text("Tell a joke.")]}]
    assert "system" not in sent(message)
    assert dropped(message) == ("messages[].role",)


def test_a_conversation_that_begins_with_the_assistant_is_opened_by_a_greeting() -> None:
    body = sent(assistant("How can I help?"), user("Hi"))
    assert body["messages"][0] == {"role": "user", "content": [text("Hello.")]}
    assert body["messages"][1] == {"role": "assistant", "content": [text("How can I help?")]}


def test_an_assistant_message_at_the_end_is_continued_by_models_that_can() -> None:
    assert sent(USER, assistant("The answer is ("))["messages"][-1]["content"] == [text("The answer is (")]


def test_an_assistant_message_at_the_end_loses_its_trailing_blanks() -> None:
    assert sent(USER, assistant("Sure: \n"))["messages"][-1]["content"] == [text("Sure:")]
    assert dropped(USER, assistant("Sure: \n")) == ("messages[].content",)


def test_models_that_continue_nothing_are_passed_over() -> None:
    feature, param = refusal(USER, assistant("The answer is ("), model="claude-opus-4-6")
    assert feature == "a conversation that ends with an assistant message"
    assert param == "messages[1]"


def test_a_refusal_of_the_assistant_is_text() -> None:
    assert sent(USER, {"role": "assistant", "refusal": "No."}, USER)["messages"][1]["content"] == [text("No.")]


# tools


def test_tool_results_stand_together_before_the_text_that_follows() -> None:
    body = sent(
        USER, assistant("Both.", call("a"), call("b")), result("a", "1"), user("Hm"), result("b", "2"), user("So?"), tools=[TOOL]
    )
    assert body["messages"][1]["content"] == [
        text("Both."),
        {"type": "tool_use", "id": "a", "name": "get_weather", "input": {}},
        {"type": "tool_use", "id": "b", "name": "get_weather", "input": {}},
    ]
    assert body["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "a", "content": [text("1")]},
        {"type": "tool_result", "tool_use_id": "b", "content": [text("2")]},
        text("Hm"),
        text("So?"),
    ]


def test_an_empty_tool_result_has_no_content() -> None:
    body = sent(USER, assistant(None, call()), result(content=""), tools=[TOOL])
    assert body["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": "call_1"}]


def test_tool_results_may_hold_images_and_documents() -> None:
    content = [text("See:"), image(f"data:image/png;base64,{PNG}"), file(f"data:application/pdf;base64,{PDF}")]
    (block,) = sent(USER, assistant(None, call()), result(content=content), tools=[TOOL])["messages"][2]["content"]
    assert [part["type"] for part in block["content"]] == ["text", "image", "document"]


@pytest.mark.parametrize("id_", ["functions.get_weather:0", "call 1", "ü", "x" * 200])
def test_call_ids_that_are_refused_are_replaced_in_call_and_result(id_: str) -> None:
    body = sent(USER, assistant(None, call(id_)), result(id_), tools=[TOOL])
    ours = body["messages"][1]["content"][0]["id"]
    assert ours != id_
    assert body["messages"][2]["content"][0]["tool_use_id"] == ours
    assert sent(USER, assistant(None, call(id_)), result(id_), tools=[TOOL]) == body


def test_different_bad_ids_stay_different() -> None:
    body = sent(USER, assistant(None, call("a.b"), call("a:b")), result("a:b", "2"), result("a.b", "1"), tools=[TOOL])
    first, second = (block["id"] for block in body["messages"][1]["content"])
    assert [block["tool_use_id"] for block in body["messages"][2]["content"]] == [second, first]


def test_an_id_that_comes_again_in_a_later_turn_belongs_to_that_turn() -> None:
    again = assistant(None, call("x.0"))
    body = sent(USER, again, result("x.0", "1"), again, result("x.0", "2"), tools=[TOOL])
    assert body["messages"][3]["content"][0]["id"] == body["messages"][4]["content"][0]["tool_use_id"]


def test_an_id_that_comes_twice_in_a_turn_is_told_apart() -> None:
    body = sent(USER, assistant(None, call("a")), assistant(None, call("b")), result("a"), result("b"), tools=[TOOL])
    assert [block["id"] for block in body["messages"][1]["content"]] == ["a", "b"]
    twice = request(USER, assistant(None, call("a"), call("a")), result("a"), tools=[TOOL])
    content = orjson.loads(DIALECT.encode_request(twice, target_of(SONNET)).body)["messages"][1]["content"]
    assert content[0]["id"] != content[1]["id"]


def test_retired_functions_are_tools() -> None:
    called = {"role": "assistant", "content": None, "function_call": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    messages: list[dict[str, Any]] = [USER, called, {"role": "function", "name": "get_weather", "content": "9"}]
    body = sent(*messages, functions=[TOOL["function"]], function_call={"name": "get_weather"})
    assert body["tools"][0]["name"] == "get_weather"
    assert body["tool_choice"] == {"type": "tool", "name": "get_weather"}
    assert body["messages"][1]["content"][0]["input"] == {"city": "Oslo"}


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, None),
        ("auto", None, {"type": "auto"}),
        ("none", None, {"type": "none"}),
        ("required", None, {"type": "any"}),
        ({"type": "function", "function": {"name": "get_weather"}}, None, {"type": "tool", "name": "get_weather"}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (None, True, {"type": "auto", "disable_parallel_tool_use": False}),
        ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
        ("none", False, {"type": "none"}),
        ({"type": "tool", "name": "get_weather"}, None, {"type": "tool", "name": "get_weather"}),
    ],
)
def test_tool_choice(choice: Any, parallel: bool | None, expected: dict[str, Any] | None) -> None:
    body = sent(tools=[TOOL], tool_choice=choice, parallel_tool_calls=parallel)
    assert body.get("tool_choice") == expected
    assert dropped(tools=[TOOL], tool_choice=choice, parallel_tool_calls=parallel) == ()


def test_allowed_tools_leave_only_those() -> None:
    other = {"type": "function", "function": {"name": "get_time"}}
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [other]}}
    body = sent(tools=[TOOL, other], tool_choice=choice)
    assert [tool["name"] for tool in body["tools"]] == ["get_time"]
    assert body["tool_choice"] == {"type": "any"}


def test_a_choice_without_tools_is_dropped() -> None:
    assert "tool_choice" not in sent(tool_choice="auto", parallel_tool_calls=False)
    assert dropped(tool_choice="auto", parallel_tool_calls=False) == ("parallel_tool_calls", "tool_choice")


@pytest.mark.parametrize("choice", ["maybe", {"type": "function"}, {"type": "custom", "custom": {"name": "x"}}, 7])
def test_a_choice_that_is_none_is_refused(choice: Any) -> None:
    with pytest.raises((CallerError, CannotCarry)):
        sent(tools=[TOOL], tool_choice=choice)


def test_models_that_take_no_demanded_call_are_passed_over() -> None:
    assert refusal(tools=[TOOL], tool_choice="required", model="claude-opus-5-5") == ("a demanded tool call", "tool_choice")
    assert sent(tools=[TOOL], tool_choice="required", model="claude-haiku-5-5")["tool_choice"] == {"type": "any"}


def test_anthropics_own_tools_are_carried_as_they_are() -> None:
    own = [
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
        {"type": "code_execution_20260120", "name": "code_execution"},
        {"type": "custom", "name": "mine", "input_schema": {"type": "object"}},
    ]
    assert sent(tools=[*own, TOOL])["tools"][:3] == own


@pytest.mark.parametrize("tool", [{"type": "custom", "custom": {"name": "x"}}, {"type": "web_search"}, {"type": "mcp"}])
def test_tools_of_others_are_refused(tool: dict[str, Any]) -> None:
    assert refusal(tools=[tool])[1] == "tools[0]"


@pytest.mark.parametrize("tool", ["x", {"type": "function"}, {"type": "function", "function": {"name": 1}}, {"type": 3}])
def test_a_tool_that_is_none_is_the_callers_fault(tool: Any) -> None:
    with pytest.raises(CallerError):
        sent(tools=[tool])


def test_a_tool_without_parameters_takes_an_empty_object() -> None:
    (tool,) = sent(tools=[{"type": "function", "function": {"name": "f"}}])["tools"]
    assert tool == {"name": "f", "input_schema": {"type": "object", "properties": {}}}


def test_parameters_that_are_no_object_are_the_callers_fault() -> None:
    with pytest.raises(CallerError) as fault:
        sent(tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}])
    assert fault.value.param == "tools[0].function.parameters"


def strict_tool(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "strict": True, "parameters": parameters}}


def test_strict_tools_are_held_to_the_subset() -> None:
    parameters = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
    (tool,) = sent(tools=[strict_tool(parameters)])["tools"]
    assert tool["strict"] is True
    assert tool["input_schema"]["additionalProperties"] is False
    assert dropped(tools=[strict_tool(parameters)]) == ("tools[].function.parameters.minimum",)


def test_strictness_is_dropped_where_the_schema_or_the_model_has_none() -> None:
    free = {"type": "object", "additionalProperties": {"type": "string"}}
    (tool,) = sent(tools=[strict_tool(free)])["tools"]
    assert tool == {"name": "f", "input_schema": free}
    assert dropped(tools=[strict_tool(free)]) == ("tools[].function.strict",)
    plain = {"type": "object", "properties": {}}
    assert dropped(tools=[strict_tool(plain)], model="claude-3-7-sonnet-20250219") == ("tools[].function.strict",)


def test_a_choice_at_the_top_of_a_schema_is_laid_together() -> None:
    one = {"properties": {"city": {"type": "string"}, "day": {"type": "string"}}, "required": ["city", "day"]}
    two = {"properties": {"place": {"$ref": "#/$defs/P"}, "day": {"type": "string"}}, "required": ["place", "day"]}
    parameters = {"anyOf": [one, {"$ref": "#/$defs/Two"}], "$defs": {"P": {"type": "object"}, "Two": two}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    (found,) = sent(tools=[tool])["tools"]
    assert found["input_schema"]["properties"].keys() == {"city", "day", "place"}
    assert found["input_schema"]["required"] == ["day"]
    assert found["input_schema"]["$defs"] == parameters["$defs"]
    assert dropped(tools=[tool]) == ("tools[].function.parameters.anyOf",)


def test_cache_marks_stay_where_they_are() -> None:
    body = sent(
        user(text("A", cache_control=EPHEMERAL), "B"),
        assistant("C", call(), cache_control=EPHEMERAL),
        result(content=[text("D", cache_control=EPHEMERAL)]),
        {**user("E", "F"), "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        tools=[{**TOOL, "cache_control": EPHEMERAL}],
        cache_control=EPHEMERAL,
    )
    first, second, third = (message["content"] for message in body["messages"])
    assert first == [text("A", cache_control=EPHEMERAL), text("B")]
    assert second[-1]["type"] == "tool_use"
    assert second[-1]["cache_control"] == EPHEMERAL
    assert third[0] == {"type": "tool_result", "tool_use_id": "call_1", "content": [text("D")], "cache_control": EPHEMERAL}
    assert third[2] == text("F", cache_control={"type": "ephemeral", "ttl": "1h"})
    assert body["tools"][0]["cache_control"] == EPHEMERAL
    assert body["cache_control"] == EPHEMERAL


# media


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (
            image(f"data:image/png;base64,{PNG}"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        ),
        (
            image(f"data:image/jpg;base64,{PNG}"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": PNG}},
        ),
        (
            image(f"data:;base64,{PNG}"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        ),
        (
            image("https://images.example/a.png"),
            {"type": "image", "source": {"type": "url", "url": "https://images.example/a.png"}},
        ),
        (
            file(f"data:image/webp;base64,{PNG}"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": PNG}},
        ),
        (
            file(f"data:application/pdf;base64,{PDF}", filename="a.pdf"),
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}, "title": "a.pdf"},
        ),
        (
            file(PDF),
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}},
        ),
        (
            file("https://papers.example/a.pdf"),
            {"type": "document", "source": {"type": "url", "url": "https://papers.example/a.pdf"}},
        ),
        (
            file("data:text/plain;base64," + base64.b64encode("Grüße".encode()).decode()),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Grüße"}},
        ),
        (
            file(base64.b64encode(b"a,b").decode(), filename="a.csv"),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a,b"}, "title": "a.csv"},
        ),
        (
            file("data:application/json;base64," + base64.b64encode(b"{}").decode()),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "{}"}},
        ),
        (
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "x"},
                "citations": {"enabled": True},
            },
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "x"},
                "citations": {"enabled": True},
            },
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_media(part: dict[str, Any], block: dict[str, Any]) -> None:
    assert sent(user(part))["messages"][0]["content"] == [block]


@pytest.mark.parametrize(
    ("part", "feature"),
    [
        (image("data:image/tiff;base64,SUkqAA=="), "images of type image/tiff"),
        (image("data:;base64,AAAA"), "images of an unknown type"),
        (image("http://images.example/a.png"), "images by links that are not https"),
        (image("gs://bucket/a.png"), "images by links that are not https"),
        (file(file_id="file-1"), "files by id, which are known only where they were uploaded"),
        (file("data:application/zip;base64,UEsDBA=="), "documents of type application/zip"),
        (file("UEsDBA=="), "documents of an unknown type"),
        (file("gs://bucket/a.pdf"), "documents by links that are not https"),
        ({"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}}, "audio input"),
        ({"type": "video_url", "video_url": {"url": "https://v.example/a.mp4"}}, "video input"),
        ({"type": "hologram"}, "content parts of type hologram"),
        ({"type": "document", "title": "no source"}, "content parts of type document"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_media_that_cannot_be_carried_is_refused_with_its_place(part: dict[str, Any], feature: str) -> None:
    assert refusal(user("See"), user("this", part)) == (feature, "messages[1].content[1]")


def test_text_that_is_no_utf8_is_the_callers_fault() -> None:
    with pytest.raises(CallerError) as fault:
        sent(user(file("data:text/plain;base64,/w==")))
    assert fault.value.param == "messages[0].content[0]"


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_only_users_and_tools_may_show_images(role: str) -> None:
    message = {"role": role, "content": [image(f"data:image/png;base64,{PNG}")]}
    assert refusal(message, USER)[1] == "messages[0].content[0]"


# reasoning


def loop(*details: dict[str, Any], said: str | None = "I look.") -> list[dict[str, Any]]:
    return [USER, assistant(said, call(), reasoning_details=list(details)), result()]


def kinds(body: dict[str, Any], index: int = 1) -> list[str]:
    return [block["type"] for block in body["messages"][index]["content"]]


def test_thoughts_are_put_back_before_text_and_call() -> None:
    sealed = {"type": "reasoning.encrypted", "data": "ZGF0YQ==", "format": "anthropic", "provider": "anthropic"}
    body = sent(*loop(thought(), sealed), tools=[TOOL], reasoning_effort="high")
    assert kinds(body) == ["thinking", "redacted_thinking", "text", "tool_use"]
    assert body["messages"][1]["content"][0] == {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    assert body["messages"][1]["content"][1] == {"type": "redacted_thinking", "data": "ZGF0YQ=="}
    assert body["thinking"]["type"] == "enabled"


def test_thoughts_whose_words_were_left_out_are_put_back_by_their_signature() -> None:
    body = sent(*loop(thought("")), tools=[TOOL], model="claude-opus-5")
    assert body["messages"][1]["content"][0] == {"type": "thinking", "thinking": "", "signature": "c2ln"}


def test_thoughts_are_put_back_where_they_stood() -> None:
    message = assistant("AABBB", call("a"), call("b"))
    message["reasoning_details"] = [
        thought("1"),
        thought("2", position={"text": 2, "calls": 0}),
        thought("3", position={"text": 5, "calls": 1}),
    ]
    body = sent(USER, message, result("a"), result("b"), tools=[TOOL], model="claude-opus-5")
    content = body["messages"][1]["content"]
    assert [block.get("text") or block.get("thinking") or block["id"] for block in content] == [
        "1",
        "AA",
        "2",
        "BBB",
        "a",
        "3",
        "b",
    ]


@pytest.mark.parametrize("position", [7, {"text": "x"}, {"text": -1, "calls": 10**9}, {"text": 10**9}, {}])
def test_a_place_that_makes_no_sense_does_no_harm(position: Any) -> None:
    body = sent(*loop(thought(position=position)), tools=[TOOL], model="claude-opus-5")
    assert sorted(kinds(body))[:2] in (["text", "thinking"], ["text", "tool_use"])


@pytest.mark.parametrize(
    "detail",
    [
        thought(provider="vertex"),
        thought(format="gemini"),
        thought(signature=""),
        thought(type="reasoning.encrypted"),
        thought(type="reasoning.summary"),
        {"type": "reasoning.text", "text": "Hm."},
    ],
)
def test_thoughts_of_others_are_dropped(detail: dict[str, Any]) -> None:
    assert kinds(sent(*loop(detail), tools=[TOOL])) == ["text", "tool_use"]
    assert dropped(*loop(detail), tools=[TOOL]) == ("messages[].reasoning_details",)


@pytest.mark.parametrize(
    ("model", "thinker", "kept"),
    [
        ("claude-sonnet-4-5", "claude-opus-4-6", True),
        ("claude-opus-5-5", "claude-opus-5-5", True),
        ("claude-opus-5-5", "claude-sonnet-4-5", False),
        ("claude-opus-5", "claude-opus-5-5", False),
    ],
)
def test_newer_models_take_back_their_own_thoughts_only(model: str, thinker: str, kept: bool) -> None:
    body = sent(*loop(thought(model=thinker)), tools=[TOOL], model=model, reasoning_effort="high")
    assert ("thinking" in kinds(body)) is kept


def test_a_request_that_does_not_think_holds_no_thoughts_in_its_last_turn() -> None:
    earlier = loop(thought(), said="Before.")
    body = sent(*earlier, *loop(thought())[1:], tools=[TOOL])
    assert kinds(body, 1)[0] == "thinking"
    assert kinds(body, 3)[0] == "text"
    assert dropped(*earlier, *loop(thought())[1:], tools=[TOOL]) == ("messages[].reasoning_details",)


def test_a_turn_of_thoughts_alone_is_left_out() -> None:
    message = assistant(None, reasoning_details=[thought()])
    assert len(sent(USER, message, USER)["messages"]) == 1
    assert dropped(USER, message, USER) == ("messages[].reasoning_details",)


def test_a_turn_does_not_end_with_thoughts() -> None:
    details = [thought("1"), thought("2", position={"text": 7, "calls": 1})]
    body = sent(*loop(*details), tools=[TOOL], model="claude-opus-5")
    assert kinds(body) == ["thinking", "text", "tool_use"]
    assert dropped(*loop(*details), tools=[TOOL], model="claude-opus-5") == ("messages[].reasoning_details",)


def test_thinking_parts_of_unknown_origin_are_dropped() -> None:
    message = {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, text("Hi")]}
    assert sent(USER, message, USER)["messages"][1]["content"] == [text("Hi")]
    assert dropped(USER, message, USER) == ("messages[].content[].thinking",)


def test_what_anthropics_own_tools_did_can_be_put_back() -> None:
    own = [
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
    ]
    assert sent(USER, {"role": "assistant", "content": [*own, text("Found.")]}, USER)["messages"][1]["content"] == [
        *own,
        text("Found."),
    ]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_gets_a_body_that_its_api_takes(model: str) -> None:
    body = full_body(without=("input_audio", "logprobs", "top_logprobs", "tool_choice", "response_format"))
    judge(orjson.loads(DIALECT.encode_request(chat_request(body), target_of(model)).body))


def test_arguments_nested_too_deeply_are_the_callers_fault() -> None:
    deep = '{"a":' * 300 + "1" + "}" * 300
    with pytest.raises(CallerError):
        sent(USER, assistant(None, call(arguments=deep)), result(), tools=[TOOL])
