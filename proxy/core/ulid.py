"""Identifiers that sort by time: ULIDs (https://github.com/ulid/spec), Crockford base 32, 26 characters."""

from __future__ import annotations

import os
from collections.abc import Callable

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_RANDOM_BITS = 80


class UlidFactory:
    """Makes ULIDs that never go back, even when the wall clock does: the last one is then counted up, as within a millisecond."""

    def __init__(self, wall: Callable[[], float], entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._wall = wall
        self._entropy = entropy
        self._last_ms = -1
        self._random = 0

    def __call__(self) -> str:
        now_ms = int(self._wall() * 1000)
        if now_ms > self._last_ms:
            self._last_ms = now_ms
            # the top bit is left free so that counting up never overflows
            self._random = int.from_bytes(self._entropy(10), "big") >> 1
        else:
            self._random += 1
        return encode(self._last_ms << _RANDOM_BITS | self._random)


def encode(value: int) -> str:
    """128 bits as 26 characters."""
    pairs = _PAIRS
    return "".join([pairs[value >> shift & 1023] for shift in range(120, -1, -10)])
