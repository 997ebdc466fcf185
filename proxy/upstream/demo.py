"""The built-in upstream: canned answers in OpenAI's dialect, in this process, so that the first request works without any key.

    chat    answers            slow   the same, taking its time       flaky  503 on every second call, the first among them
    down    503 always         cut    breaks off in the middle        else   404 as OpenAI would say it

Shapes: https://platform.openai.com/docs/api-reference/chat. Answers say that they are canned; numbers are counted, not made up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import orjson

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.ports import Clock, RequestHead
from proxy.upstream.canned import arguments_for, canned_text, json_for, prompt_text, tokens_in

MODELS = ("chat", "slow", "flaky", "down", "cut")
SLOW_FIRST_S = 2.0
SLOW_BETWEEN_S = 0.15
CUT_AFTER_PIECES = 6

_JSON = ((b"content-type", b"application/json"),)
_SSE = ((b"content-type", b"text/event-stream; charset=utf-8"),)

Piece = dict[str, Any]  # a delta, with its choice's index


class DemoTransport:
    """`core.ports.UpstreamTransport` without a network. `sleep` is asyncio's, or a test's."""

    def __init__(self, clock: Clock, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._clock = clock
        self._sleep = sleep
        self._calls = 0
        self._flaky_calls = 0

    async def send(self, head: RequestHead, body: bytes, *, connect_timeout_s: float, fresh: bool = False) -> DemoResponse:
        request: dict[str, Any] = orjson.loads(body) if body else {}
        model = str(request.get("model", ""))
        self._calls += 1
        if model == "flaky":
            self._flaky_calls += 1
        if model == "down" or (model == "flaky" and self._flaky_calls % 2):
            return self._error(503, f"The demo model `{model}` is down on purpose.", "server_error", "service_unavailable")
        if model not in MODELS:
            return self._error(404, f"The model `{model[:100]}` does not exist.", "invalid_request_error", "model_not_found")
        return self._answer(request, model)

    async def aclose(self) -> None:
        """There is nothing to close."""

    def _error(self, status: int, message: str, type_: str, code: str) -> DemoResponse:
        error = {"error": {"message": message, "type": type_, "param": None, "code": code}}
        return DemoResponse(status, _JSON, iter([orjson.dumps(error)]), self._sleep)

    def _answer(self, request: dict[str, Any], model: str) -> DemoResponse:
        common = {"id": f"chatcmpl-demo-{self._calls:08d}", "created": int(self._clock.wall()), "model": model}
        choices = [_message(request) for _ in range(_count(request))]
        usage = _usage(request, choices)
        slow = (SLOW_FIRST_S, SLOW_BETWEEN_S) if model == "slow" else (0.0, 0.0)
        if request.get("stream") is True:
            options = request.get("stream_options")
            wants_usage = isinstance(options, dict) and options.get("include_usage") is True
            frames = list(_stream(common, choices, usage if wants_usage else None))
            if model == "cut":
                frames = frames[:CUT_AFTER_PIECES]
            return DemoResponse(200, _SSE, iter(frames), self._sleep, slow=slow, cut=model == "cut")
        whole = orjson.dumps({**common, "object": "chat.completion", "choices": _choices(choices), "usage": usage})
        if model == "cut":
            return DemoResponse(200, _JSON, iter([whole[: len(whole) // 2]]), self._sleep, cut=True)
        return DemoResponse(200, _JSON, iter([whole]), self._sleep, slow=slow)


class DemoResponse:
    """`core.ports.UpstreamResponse`: pieces of a body, with pauses before them if slow, and a reset after them if cut."""

    def __init__(
        self,
        status: int,
        headers: tuple[tuple[bytes, bytes], ...],
        pieces: Iterator[bytes],
        sleep: Callable[[float], Awaitable[None]],
        *,
        slow: tuple[float, float] = (0.0, 0.0),
        cut: bool = False,
    ) -> None:
        self.status = status
        self.headers = list(headers)
        self.reused = False
        self._pieces = pieces
        self._sleep = sleep
        self._pause_s, self._then_s = slow
        self._cut = cut

    def at_hand(self) -> bytes | None:
        return None

    async def pump(self, consume: Callable[[bytes], bool]) -> bool:
        while data := await self.read():
            if not consume(data):
                return False
        return True

    async def read(self) -> bytes:
        piece = next(self._pieces, None)
        if piece is None:
            if self._cut:
                raise UpstreamError(ErrorClass.RESET_STREAM, "the demo model `cut` broke off on purpose")
            return b""
        if self._pause_s:
            await self._sleep(self._pause_s)
            self._pause_s = self._then_s
        return piece

    def close(self) -> None:
        self._pieces, self._cut = iter(()), False


def _count(request: dict[str, Any]) -> int:
    n = request.get("n")
    return n if isinstance(n, int) and 1 <= n <= 16 else 1


def _message(request: dict[str, Any]) -> dict[str, Any]:
    """The assistant's message: tool calls where tools are offered and not yet answered, JSON where asked for, else text."""
    calls = _tool_calls(request)
    if calls:
        return {"role": "assistant", "content": None, "tool_calls": calls}
    format_ = request.get("response_format")
    if isinstance(format_, dict) and format_.get("type") in ("json_object", "json_schema"):
        return {"role": "assistant", "content": json_for(format_)}
    return {"role": "assistant", "content": canned_text(request)}


def _tool_calls(request: dict[str, Any]) -> list[dict[str, Any]]:
    choice, messages = request.get("tool_choice"), request.get("messages") or []
    answered = isinstance(messages[-1], dict) and messages[-1].get("role") == "tool" if messages else False
    tools = [tool.get("function") for tool in request.get("tools") or [] if isinstance(tool, dict)]
    offered = [function for function in tools if isinstance(function, dict)]
    if not offered or choice == "none" or answered:
        return []
    match choice:
        case {"function": {"name": forced}}:
            offered = [function for function in offered if function.get("name") == forced] or offered
    names = offered[:1]
    if "parallel" in prompt_text(request).lower() and request.get("parallel_tool_calls") is not False:
        names = (offered * 2)[:2]
    return [
        {
            "id": f"call_demo_{index}",
            "type": "function",
            "function": {"name": function.get("name", ""), "arguments": arguments_for(function.get("parameters"))},
        }
        for index, function in enumerate(names)
    ]


def _finish_reason(message: dict[str, Any]) -> str:
    return "tool_calls" if "tool_calls" in message else "stop"


def _choices(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"index": index, "message": {**message, "refusal": None}, "logprobs": None, "finish_reason": _finish_reason(message)}
        for index, message in enumerate(messages)
    ]


def _usage(request: dict[str, Any], messages: list[dict[str, Any]]) -> dict[str, int]:
    said = tokens_in(request.get("messages")) + tokens_in(request.get("tools"))
    answered = sum(tokens_in(message.get("content")) + tokens_in(message.get("tool_calls")) for message in messages)
    return {"prompt_tokens": said, "completion_tokens": answered, "total_tokens": said + answered}


def _stream(common: dict[str, Any], messages: list[dict[str, Any]], usage: dict[str, int] | None) -> Iterator[bytes]:
    """The frames of a streamed answer: role, words, finish, usage if asked for, `[DONE]`."""
    chunk = {**common, "object": "chat.completion.chunk"}
    extra: dict[str, Any] = {} if usage is None else {"usage": None}
    for index, message in enumerate(messages):
        deltas = [{"role": "assistant", "content": "" if message["content"] is not None else None}, *_deltas(message)]
        for delta in deltas:
            yield _frame({**chunk, "choices": [{"index": index, "delta": delta, "finish_reason": None}], **extra})
        yield _frame({**chunk, "choices": [{"index": index, "delta": {}, "finish_reason": _finish_reason(message)}], **extra})
    if usage is not None:
        yield _frame({**chunk, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _deltas(message: dict[str, Any]) -> Iterator[Piece]:
    for index, call in enumerate(message.get("tool_calls", ())):
        function = call["function"]
        yield {"tool_calls": [{"index": index, **call, "function": {"name": function["name"], "arguments": ""}}]}
        arguments = function["arguments"]
        for start in range(0, len(arguments), 12):
            yield {"tool_calls": [{"index": index, "function": {"arguments": arguments[start : start + 12]}}]}
    words = (message["content"] or "").split(" ")
    for position, word in enumerate(words if message["content"] else ()):
        yield {"content": word if position == 0 else " " + word}


def _frame(event: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"
