"""The answer that is measured, read from a whole one in OpenAI's chat format. Of several choices the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

MAX_CALLS: Final = 64
MAX_BODY_BYTES: Final = 1 << 20  # more is no text that anybody reads: it is not measured


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    """`refusal`: what OpenAI tells in a field of its own. `thoughts` are not measured."""

    text: str
    finish_reason: str | None = None
    refusal: str | None = None
    calls: tuple[Call, ...] = ()


def read_answer(body: bytes) -> Answer | None:
    """None for what is no whole answer of text or calls (spoken, pictures) or too large, of which nothing can be said."""
    if len(body) > MAX_BODY_BYTES:
        return None
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    choices = parsed.get("choices") if isinstance(parsed, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(message, dict) or message.get("audio") or message.get("images"):
        return None
    finish_reason, refusal = first.get("finish_reason"), message.get("refusal")
    return Answer(
        _text(message.get("content")),
        finish_reason if isinstance(finish_reason, str) else None,
        refusal if isinstance(refusal, str) and refusal else None,
        tuple(_calls(message.get("tool_calls"))),
    )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join([text for text in texts if isinstance(text, str)])


def _calls(calls: Any) -> list[Call]:
    found = []
    for call in calls[:MAX_CALLS] if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            arguments = function.get("arguments")
            found.append(Call(function["name"], arguments if isinstance(arguments, str) else ""))
    return found
