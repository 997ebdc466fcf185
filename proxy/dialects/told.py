"""What a caller has been told of a streamed answer so far, read off the very bytes that were sent: chunks in OpenAI's words.

https://platform.openai.com/docs/api-reference/chat/streaming

Whoever made the bytes, here they are the same, so an answer of any dialect can be gone on with by any other. Only plain text can:
whatever else has been told (`why`) would be broken by a second author.
"""

from __future__ import annotations

from typing import Any

import orjson

from proxy.dialects.base import MAX_KEPT_TEXT_BYTES
from proxy.wire.sse import EventTooLarge, SseSplitter, event_data

FOLD_BYTES = 64 * 1024  # read at once: joined, chunks cost a fraction
MAX_SENT_BYTES = 64 * 1024 * 1024  # of an event: a picture may be large, and a dialect has let it through
# members of a delta that end the matter when they hold something
_NOT_TEXT = {
    "tool_calls": "a tool call",
    "function_call": "a function call",
    "refusal": "a refusal",
    "audio": "audio",
    "images": "an image",
}
_SEALS = ("signature", "data")  # of a piece of reasoning that only who thought it can go on with


class Told:
    """One answer. `note` takes what is sent, in whole events; everything else may be asked at any time.

    `id`, `created`, `model`: what every chunk must go on saying. `text`: the answer's, without thoughts. `role`: it has been named.
    `why`: what has been told that cannot be gone on after; None while all is text.
    """

    __slots__ = ("_created", "_finished", "_id", "_model", "_role", "_text", "_text_bytes", "_unread", "_unread_bytes", "_why")

    def __init__(self) -> None:
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._id: str | None = None
        self._created: int | None = None
        self._model: str | None = None
        self._role = False
        self._finished = False
        self._text: list[str] = []
        self._text_bytes = 0
        self._why: str | None = None

    def note(self, data: bytes) -> None:
        self._unread.append(data)
        self._unread_bytes += len(data)
        if self._unread_bytes > FOLD_BYTES:
            self._read()

    @property
    def id(self) -> str | None:
        self._read()
        return self._id

    @property
    def created(self) -> int | None:
        self._read()
        return self._created

    @property
    def model(self) -> str | None:
        self._read()
        return self._model

    @property
    def role(self) -> bool:
        self._read()
        return self._role

    @property
    def text(self) -> str:
        self._read()
        if len(self._text) > 1:
            self._text = ["".join(self._text)]
        return self._text[0] if self._text else ""

    @property
    def why(self) -> str | None:
        self._read()
        return "a finish reason" if self._finished and self._why is None else self._why

    def _read(self) -> None:
        if not self._unread:
            return
        data = b"".join(self._unread)
        self._unread.clear()
        self._unread_bytes = 0
        try:
            read = payloads(data)
        except EventTooLarge:
            self._cannot("an event of that size")
            return
        for payload in read:
            try:
                chunk = orjson.loads(payload)
            except orjson.JSONDecodeError:
                continue  # `[DONE]`; anything else has been skipped before it came here
            if type(chunk) is dict:
                self._note_chunk(chunk)

    def _note_chunk(self, chunk: dict[str, Any]) -> None:
        if self._id is None and isinstance(chunk.get("id"), str):
            self._id, self._created, self._model = chunk["id"], chunk.get("created"), chunk.get("model")
        choices = chunk.get("choices")
        for choice in choices if type(choices) is list else ():
            if type(choice) is not dict:
                continue
            if choice.get("index"):
                self._cannot("several choices")
            if choice.get("logprobs"):
                self._cannot("log-probabilities")
            self._finished = self._finished or bool(choice.get("finish_reason"))
            delta = choice.get("delta")
            if type(delta) is dict:
                self._note_delta(delta)

    def _note_delta(self, delta: dict[str, Any]) -> None:
        self._role = self._role or bool(delta.get("role"))
        for name, what in _NOT_TEXT.items():
            if delta.get(name):
                self._cannot(what)
        details = delta.get("reasoning_details")
        if details and not (type(details) is list and all(is_open(detail) for detail in details)):
            self._cannot("sealed reasoning")
        content = delta.get("content")
        if not content:
            return
        if not isinstance(content, str):
            self._cannot("parts that are not text")
            return
        self._text_bytes += len(content.encode("utf-8", "replace"))
        if self._text_bytes > MAX_KEPT_TEXT_BYTES:
            self._cannot(f"more than {MAX_KEPT_TEXT_BYTES >> 10} KiB of text")
            self._text.clear()
        else:
            self._text.append(content)

    def _cannot(self, what: str) -> None:
        self._why = self._why or what


def is_open(detail: object) -> bool:
    """Whether a piece of reasoning is plain text, or a summary, which nobody has sealed."""
    return isinstance(detail, dict) and not any(detail.get(seal) for seal in _SEALS)


def payloads(data: bytes) -> list[bytes]:
    """What stands behind `data:` in each event of a whole number of them. Raises EventTooLarge."""
    splitter = SseSplitter(MAX_SENT_BYTES)
    found = [event_data(event) for event in (*splitter.feed(data), splitter.close()) if event]
    return [payload for payload in found if payload]
