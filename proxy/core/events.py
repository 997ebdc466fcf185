"""The words in which every native dialect tells an answer, whole or streamed: small, ours, in the order in which it came.

    answer  = Started? (KeepAlive | UsageReported | delta)* Finished+ (UsageReported | KeepAlive)*
            | … StreamFailed                                         nothing follows a failure
    delta   = TextDelta | RefusalDelta | ThinkingDelta | ReasoningDetail | call | ImageDelta | Annotation | LogprobsDelta | Extra
    call    = ToolCallStarted ToolArgsDelta* ToolCallEnded           of one `index`; calls of other indices may come in between

`choice` is 0 but where a request asked for several. There is one Finished for each choice. Usage is cumulative: a later report
replaces an earlier one. Not content: Started, KeepAlive, UsageReported, Finished, Extra.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from proxy.core.errors import UpstreamError
from proxy.core.usage import Usage

# OpenAI's words; a dialect maps its own onto them by a table and takes `stop` for one that it does not know
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(slots=True)
class Started:
    """The upstream has begun. `model` is what it calls itself, None where it does not say."""

    model: str | None = None


@dataclass(slots=True)
class TextDelta:
    text: str
    choice: int = 0


@dataclass(slots=True)
class RefusalDelta:
    text: str
    choice: int = 0


@dataclass(slots=True)
class ThinkingDelta:
    """Thoughts to be read. What must be sent back with them is in a ReasoningDetail."""

    text: str
    choice: int = 0


@dataclass(slots=True)
class ReasoningDetail:
    """A piece of reasoning that is sealed by who thought it, whole, as the caller is to send it back.

    `detail` has `type` (`reasoning.text` with `text` and `signature`, `reasoning.encrypted` with `data`), `format` (the dialect's
    name) and whatever else the dialect needs to put it back where it was; the encoder adds `provider`.
    """

    detail: dict[str, Any]
    choice: int = 0


@dataclass(slots=True)
class ToolCallStarted:
    """`index` counts the tool calls of a choice from 0, whatever the upstream counts."""

    index: int
    id: str
    name: str
    choice: int = 0


@dataclass(slots=True)
class ToolArgsDelta:
    """A piece of the arguments, which are JSON text when they are whole."""

    index: int
    text: str
    choice: int = 0


@dataclass(slots=True)
class ToolCallEnded:
    """A call of which no arguments came is a call with `{}`: the encoder sees to that."""

    index: int
    choice: int = 0


@dataclass(slots=True)
class ImageDelta:
    """A picture that was made: an https or a data URL."""

    url: str
    choice: int = 0


@dataclass(slots=True)
class Annotation:
    """A citation in OpenAI's shape: `{"type": "url_citation", "url_citation": {"url", "title", "start_index", "end_index"}}`."""

    annotation: dict[str, Any]
    choice: int = 0


@dataclass(slots=True)
class LogprobsDelta:
    """Entries of OpenAI's `logprobs.content`."""

    content: list[dict[str, Any]]
    choice: int = 0


@dataclass(slots=True)
class Extra:
    """Something that only this provider has, shown under `provider_extras`; several of one name make a list."""

    name: str
    value: Any
    choice: int = 0


@dataclass(slots=True)
class UsageReported:
    usage: Usage


@dataclass(slots=True)
class Finished:
    """`native`: the upstream's own word, where there is one."""

    reason: FinishReason
    native: str | None = None
    choice: int = 0


@dataclass(slots=True)
class StreamFailed:
    error: UpstreamError


@dataclass(slots=True)
class KeepAlive:
    pass


ChoiceEvent = (
    TextDelta
    | RefusalDelta
    | ThinkingDelta
    | ReasoningDetail
    | ToolCallStarted
    | ToolArgsDelta
    | ToolCallEnded
    | ImageDelta
    | Annotation
    | LogprobsDelta
    | Extra
    | Finished
)
Event = ChoiceEvent | Started | UsageReported | StreamFailed | KeepAlive
