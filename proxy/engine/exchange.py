"""What a request is to the engine once it is parsed and its caller is known, and what it has come to so far."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.config.settings import ClientSettings, Settings
from proxy.core.chat import ChatRequest, Tags
from proxy.core.wishes import Wishes


@dataclass(slots=True)
class Exchange:
    """`settings` is the snapshot in force when the request came, for the request's life. `received` is monotonic, `time_ms` wall."""

    id: str
    settings: Settings
    client: ClientSettings | None
    request: ChatRequest
    tags: Tags
    wishes: Wishes
    received: float
    time_ms: int
