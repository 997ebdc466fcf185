"""Lossless or loud: every field of a request is either carried to the target or named as dropped. There is no third place.

A native dialect takes each field by name; what nobody took, and what a taker says it could not carry, comes out of `dropped`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# the proxy's own business in every dialect
_OURS = frozenset(("model", "messages", "stream", "stream_options"))


class Knobs:
    """The top-level fields of one request body."""

    __slots__ = ("_body", "_dropped", "_taken")

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body
        self._taken: set[str] = set(_OURS)
        self._dropped: set[str] = set()

    def take(self, name: str) -> Any:
        """The value, None for absent, null or dropped before. Whoever takes a field carries it, or says `drop`."""
        self._taken.add(name)
        return None if name in self._dropped else self._body.get(name)

    def drop(self, name: str) -> None:
        """For what was taken and cannot be carried after all, and for a part of it: `messages[].name`, `tools[].function.strict`."""
        self._dropped.add(name)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Sorted. A null says nothing, so leaving it out loses nothing."""
        left = {name for name, value in self._body.items() if value is not None and name not in self._taken}
        return tuple(sorted(left | self._dropped))
