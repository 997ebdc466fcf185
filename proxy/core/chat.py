"""One chat completion as the engine sees it: the parsed body, and the few fields that everything needs, read once.

An upstream that speaks the caller's own format gets that body, patched. For any other its messages are read into turns, which
`dialects/openai_messages.py` makes, and each native dialect writes those in its own way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Tags:
    """What a caller says about its use. `task` is a type with few values; `task_id` names the one task, on the row only."""

    department: str | None = None
    agent: str | None = None
    task: str | None = None
    task_id: str | None = None


NO_TAGS = Tags()


@dataclass(slots=True)
class ChatRequest:
    """A request that has been checked. `body` is the parsed object in the inbound dialect, ours to keep but not to change:
    each attempt patches a shallow copy. `needs` names the features that a target must have (see `config` capabilities). Embeddings are
    a request of the same kind to everything but the dialects: they have an `input` for `messages`, and no output.
    """

    dialect: str
    body: dict[str, Any]
    model: str
    stream: bool
    include_usage: bool
    body_bytes: int
    max_output_tokens: int | None = None
    choices: int = 1
    needs: frozenset[str] = frozenset()
    tags: Tags = NO_TAGS
    id: str = ""  # ours, and
    created: int = 0  # seconds since 1970: for answers that must carry both and come from an upstream that gives neither
    kind: Literal["chat", "embeddings"] = "chat"


@dataclass(slots=True)
class TextPart:
    text: str
    cache_control: dict[str, Any] | None = None


@dataclass(slots=True)
class MediaPart:
    """An image, an audio clip, a document or a video. One of `data` (base64), `url` and `file_id` is set.

    `media_type` is None where only the far end of a link could tell. `detail` is OpenAI's, of images.
    """

    kind: Literal["image", "audio", "file", "video"]
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    filename: str | None = None
    detail: str | None = None
    cache_control: dict[str, Any] | None = None


@dataclass(slots=True)
class OtherPart:
    """A content part of a type that is not OpenAI's, as it was sent."""

    type: str
    raw: dict[str, Any]


Part = TextPart | MediaPart | OtherPart


@dataclass(slots=True)
class ToolCall:
    """A call that the model made in an earlier turn. `arguments` is an object; `text` the JSON that the caller sent for it."""

    id: str
    name: str
    arguments: dict[str, Any]
    text: str


@dataclass(slots=True)
class Turn:
    """One message. `where` names it in errors (`messages[3]`).

    `system` stands for `developer` too. A `tool` turn answers the call `call_id`, whose function was `name`. `reasoning` are the
    details that this caller was once given and sends back, `thoughts` reasoning as plain text, which nobody sealed;
    `cache_control` is the mark on the message itself.
    """

    role: Literal["system", "user", "assistant", "tool"]
    where: str
    parts: list[Part]
    calls: list[ToolCall] = field(default_factory=list)
    reasoning: list[dict[str, Any]] = field(default_factory=list)
    call_id: str | None = None
    name: str | None = None
    cache_control: dict[str, Any] | None = None
    thoughts: str | None = None

    @property
    def text(self) -> str:
        """All text of it, joined as it stands."""
        return "".join([part.text for part in self.parts if isinstance(part, TextPart)])
