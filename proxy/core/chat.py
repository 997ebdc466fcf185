"""One chat completion as the engine sees it: the parsed body, and the few fields that everything needs, read once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
    each attempt patches a shallow copy. `needs` names the features that a target must have (see `config` capabilities).
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
