"""An answer that is kept, to be given again to whoever asks the same, and what a place where answers are kept can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

OVERHEAD_BYTES = 512  # what an answer takes besides its body, roughly
MAX_ANSWER_BYTES = 4 << 20  # of one answer; a larger one is not kept


@dataclass(frozen=True, slots=True)
class Kept:
    """`body` went to the caller who was answered first: a whole answer, or every event of a stream with its end mark. `request_id` is that
    request's. `kept_ms`: milliseconds since 1970. `cost_nusd`: what it cost then, None where no price was known. `dropped` names the
    parameters that its target did not take."""

    request_id: str
    chain: str
    provider: str
    upstream_model: str
    kept_ms: int
    cost_nusd: int | None
    input_tokens: int
    output_tokens: int
    dropped: tuple[str, ...]
    body: bytes

    @property
    def size(self) -> int:
        """Bytes that it counts for."""
        return len(self.body) + OVERHEAD_BYTES


class Room(NamedTuple):
    """What is kept together, and how much of it. `pool` is the name of a chain that has room of its own, empty for all others."""

    pool: str
    ttl_ms: int
    max_entries: int
    max_bytes: int


class Held(NamedTuple):
    """How much is kept of one chain. Answers that are too old are counted until they are swept."""

    entries: int
    size: int


class StoreFault(Exception):
    """The place where answers are kept cannot be used. The message names no key and no answer."""


class KeptStore(Protocol):
    """Keys are digests. Synchronous; may raise StoreFault."""

    def get(self, room: Room, key: bytes, now_ms: int) -> Kept | None:
        """The answer, unless it is older than the room's time."""
        ...

    def put(self, room: Room, key: bytes, kept: Kept, began_ms: int) -> None:
        """Keep it, in the place of those that were not asked for the longest where there is no room. Not if its chain was cleared
        after `began_ms`, when its request began."""
        ...

    def clear(self, chain: str | None, now_ms: int) -> int:
        """Forget what is kept of a chain, or everything. How many those were."""
        ...

    def sweep(self, now_ms: int) -> None:
        """Forget what is too old for anybody to be given."""
        ...

    def held(self) -> dict[str, Held]:
        """By chain."""
        ...

    def is_there(self) -> bool:
        """Whether there is anything to read or to clear."""
        ...

    def close(self) -> None: ...
