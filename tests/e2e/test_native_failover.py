"""Three providers, three formats, one conversation: the `openai` SDK in front, and a chain that fails over from one to the next.

The first (Anthropic's format) is overloaded, the second (Gemini's) breaks off before it says anything, the third (Cohere's) answers:
two tool calls at once, then, with their results, a text, then another. Whoever reads the answers cannot tell.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest

from tests.e2e.conftest import Start
from tests.e2e.running import Door, Proxy

pytestmark = pytest.mark.integration

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
Answer = Callable[[socket.socket, dict[str, Any]], None]


class Fake:
    """A provider on a port of its own: one connection after the other, each request noted, then answered by `answer`."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.faults: list[BaseException] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                try:
                    self._one(peer)
                except Exception as fault:  # noqa: BLE001 - it belongs to the test, which looks here
                    self.faults.append(fault)

    def _one(self, peer: socket.socket) -> None:
        file = peer.makefile("rb")
        method, path = file.readline().decode().split()[:2]
        headers: dict[str, str] = {}
        while (line := file.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        if method == "GET":  # the health check; nobody asks for it here
            peer.sendall(b"HTTP/1.1 404 \r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            return
        body = json.loads(file.read(int(headers["content-length"])))
        self.requests.append((path, headers, body))
        self._answer(peer, body)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        assert self.faults == []


def overloaded(peer: socket.socket, _: dict[str, Any]) -> None:
    body = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_1"}'
    peer.sendall(
        b"HTTP/1.1 529 \r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    )
    peer.sendall(body)


def breaks_off(peer: socket.socket, _: dict[str, Any]) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    event = b'data: {"candidates":[{"content":{"role":"model"}}],"usageMetadata":{"promptTokenCount":9}}\r\n\r\n'
    peer.sendall(b"%x\r\n%b\r\n" % (len(event), event))
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def cohere_events(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Calls first; a text once their results are there. Its usage depends on the turn, so that the rows can be told apart."""
    turn = len(body["messages"])
    yield {"type": "message-start", "id": f"answer-{turn}", "delta": {"message": {"role": "assistant", "content": []}}}
    if any(message["role"] == "tool" for message in body["messages"]):
        yield {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}}
        for piece in ("Rain in Oslo,", " sun in Rome", f" ({turn})."):
            yield {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": piece}}}}
        yield {"type": "content-end", "index": 0}
        reason = "COMPLETE"
    else:
        yield {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I look up both."}}}
        for index, city in enumerate(("Oslo", "Rome")):
            call = {"id": f"weather_{index}", "type": "function", "function": {"name": "weather", "arguments": ""}}
            yield {"type": "tool-call-start", "index": index, "delta": {"message": {"tool_calls": call}}}
            for piece in ('{"city": ', f'"{city}"}}'):
                part = {"function": {"arguments": piece}}
                yield {"type": "tool-call-delta", "index": index, "delta": {"message": {"tool_calls": part}}}
            yield {"type": "tool-call-end", "index": index}
        reason = "TOOL_CALL"
    usage = {
        "billed_units": {"input_tokens": 5 + turn, "output_tokens": 3},
        "tokens": {"input_tokens": 100 + turn, "output_tokens": 10 + turn},
    }
    yield {"type": "message-end", "delta": {"finish_reason": reason, "usage": usage}}


def answers(peer: socket.socket, body: dict[str, Any]) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
    for event in cohere_events(body):
        peer.sendall(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
    peer.sendall(b"data: [DONE]\n\n")


@pytest.fixture(scope="module")
def fakes() -> Iterator[dict[str, Fake]]:
    made = {"first": Fake(overloaded), "second": Fake(breaks_off), "third": Fake(answers)}
    yield made
    for fake in made.values():
        fake.stop()


@pytest.fixture(scope="module", params=["fast", "asgi"])
def proxy(request: pytest.FixtureRequest, start: Start, fakes: dict[str, Fake]) -> Proxy:
    for fake in fakes.values():
        fake.requests.clear()
    dialects = {"first": "anthropic", "second": "gemini", "third": "cohere"}
    prices = {"*": {"input": 1, "output": 2}}
    providers = {
        name: {"dialect": dialect, "base_url": fakes[name].url, "api_key": f"key-of-{name}", "prices": prices}
        for name, dialect in dialects.items()
    }
    chain = ["first/claude-sonnet-4-5", "second/gemini-2.5-flash", "third/command-a-03-2025"]
    door: Door = request.param
    return start({"providers": providers, "chains": {"smart": chain}}, door=door)


@pytest.fixture
def client(proxy: Proxy) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key="x", max_retries=0) as made:
        yield made


def turn(client: openai.OpenAI, messages: list[Any]) -> tuple[str, dict[str, Any], Any]:
    """One streamed answer: our id of it, the message that the SDK puts together, the usage chunk."""
    with client.chat.completions.with_streaming_response.create(
        model="smart", messages=messages, tools=[TOOL], stream=True, stream_options={"include_usage": True}
    ) as raw:
        request_id = raw.headers["x-request-id"]
        assert raw.headers["x-tollbridge-provider"] == "third"
        assert raw.headers["x-tollbridge-attempts"] == "3"
        chunks = list(raw.parse())
    content, usage = "", None
    calls: dict[int, Any] = {}
    reasons: list[str] = []
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
            for call in choice.delta.tool_calls or ():
                assert call.function is not None
                known = calls.setdefault(
                    call.index, {"id": call.id, "type": "function", "function": {"name": "", "arguments": ""}}
                )
                known["function"]["name"] += call.function.name or ""
                known["function"]["arguments"] += call.function.arguments or ""
    message: dict[str, Any] = {"role": "assistant", "content": content or None}
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    assert reasons == ["tool_calls" if calls else "stop"]
    return request_id, message, usage


def test_a_conversation_with_an_image_and_parallel_tools_fails_over_from_format_to_format(
    client: openai.OpenAI, proxy: Proxy, fakes: dict[str, Fake]
) -> None:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    question = {"role": "user", "content": [{"type": "text", "text": "What is the weather in these cities?"}, picture]}
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}, question]
    rows = []

    request_id, asked, usage = turn(client, messages)
    rows.append((request_id, usage, len(messages)))
    assert [json.loads(call["function"]["arguments"]) for call in asked["tool_calls"]] == [{"city": "Oslo"}, {"city": "Rome"}]
    messages.append(asked)
    for call, said in zip(asked["tool_calls"], ("rain", "sun"), strict=True):
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": said})

    for _ in range(2):
        request_id, said_, usage = turn(client, messages)
        rows.append((request_id, usage, len(messages)))
        assert said_["content"] == f"Rain in Oslo, sun in Rome ({len(messages)})."
        messages += [said_, {"role": "user", "content": "And tomorrow?"}]

    for request_id, usage, length in rows:
        row = proxy.client.row(request_id)
        assert (
            (row["input_tokens"], row["output_tokens"])
            == (100 + length, 10 + length)
            == (usage.prompt_tokens, usage.completion_tokens)
        )
        assert Decimal(row["cost_usd"]) == Decimal(5 + length + 2 * 3) / 1_000_000  # of what is billed
        assert (row["usage_source"], row["provider"], row["outcome"], row["attempts"]) == ("provider", "third", "ok", 3)
        tried = [(one["provider"], one["outcome"], one["error_class"], one["http_status"]) for one in row["attempt_list"]]
        assert tried == [
            ("first", "failed", "overloaded", 529),
            ("second", "failed", "reset_stream", 200),
            ("third", "ok", None, 200),
        ]
        story = [(entry["target"].partition("/")[0], entry["then"]) for entry in row["trace"] if "then" in entry]
        assert story == [("first", "next"), ("second", "next")]
    for fake in fakes.values():
        assert len(fake.requests) == 3


def test_each_provider_was_asked_in_its_own_words(client: openai.OpenAI, proxy: Proxy, fakes: dict[str, Fake]) -> None:
    path, headers, body = fakes["first"].requests[1]
    assert (path, headers["x-api-key"], headers["anthropic-version"]) == ("/v1/messages", "key-of-first", "2023-06-01")
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert [part["type"] for part in body["messages"][0]["content"]] == ["text", "image"]
    assert [part["type"] for part in body["messages"][1]["content"]] == ["text", "tool_use", "tool_use"]
    assert [part["type"] for part in body["messages"][2]["content"]] == ["tool_result", "tool_result"]
    assert (body["model"], body["stream"], body["max_tokens"]) == ("claude-sonnet-4-5", True, 4096)

    path, headers, body = fakes["second"].requests[1]
    assert path == "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    assert (headers["x-goog-api-key"], "authorization" in headers) == ("key-of-second", False)
    assert [content["role"] for content in body["contents"]] == ["user", "model", "user"]
    assert [list(part) for part in body["contents"][2]["parts"]] == [["functionResponse"], ["functionResponse"]]
    assert body["systemInstruction"]["parts"] == [{"text": "Be brief."}]

    path, headers, body = fakes["third"].requests[1]
    assert (path, headers["authorization"]) == ("/v2/chat", "Bearer key-of-third")
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "tool", "tool"]
