"""Who gives the canned answers of static targets: in this process, at once, in the shapes of OpenAI's chat completions.

https://platform.openai.com/docs/api-reference/chat. The answer's `model` is `static`, so that nobody takes it for a model's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from proxy.core.ports import RequestHead

_JSON = ((b"content-type", b"application/json"),)
_SSE = ((b"content-type", b"text/event-stream; charset=utf-8"),)
_NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


class StaticTransport:
    """`core.ports.UpstreamTransport` for what `dialects/static.py` asks."""

    async def send(self, head: RequestHead, body: bytes, *, connect_timeout_s: float, fresh: bool = False) -> StaticResponse:
        asked: dict[str, Any] = orjson.loads(body)
        common = {"id": asked["id"], "created": asked["created"], "model": asked["model"]}
        message = {"role": "assistant", "content": asked["answer"]}
        if asked["stream"]:
            return StaticResponse(_SSE, _streamed(common, message))
        choice = {"index": 0, "message": {**message, "refusal": None}, "logprobs": None, "finish_reason": "stop"}
        return StaticResponse(
            _JSON, orjson.dumps({**common, "object": "chat.completion", "choices": [choice], "usage": _NO_USAGE})
        )

    async def aclose(self) -> None:
        """There is nothing to close."""


class StaticResponse:
    """`core.ports.UpstreamResponse`: everything in one piece."""

    status = 200
    reused = False

    def __init__(self, headers: tuple[tuple[bytes, bytes], ...], body: bytes) -> None:
        self.headers = headers
        self._body = body

    def at_hand(self) -> bytes | None:
        data, self._body = self._body, b""
        return data

    async def pump(self, consume: Callable[[bytes], bool]) -> bool:
        data = await self.read()
        return not data or consume(data)

    async def read(self) -> bytes:
        data, self._body = self._body, b""
        return data

    def close(self) -> None:
        self._body = b""


def _streamed(common: dict[str, Any], message: dict[str, str]) -> bytes:
    chunk = {**common, "object": "chat.completion.chunk"}
    chunks: list[dict[str, Any]] = [
        {**chunk, "choices": [{"index": 0, "delta": message, "finish_reason": None}]},
        {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**chunk, "choices": [], "usage": _NO_USAGE},
    ]
    return b"".join([b"data: " + orjson.dumps(each) + b"\n\n" for each in chunks]) + b"data: [DONE]\n\n"
