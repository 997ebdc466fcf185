"""Identifiers that sort by time: ULIDs (https://github.com/ulid/spec), Crockford base 32, 26 characters."""

from __future__ import annotations

import os
from collections.abc import Callable

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_RANDOM_BITS = 80
_LOW_BITS = 20
_LOW_MASK = (1 << _LOW_BITS) - 1


class UlidFactory:
    """Makes ULIDs that never go back, even when the wall clock does: the last one is then counted up, as within a millisecond."""

    def __init__(self, wall: Callable[[], float], entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._wall = wall
        self._entropy = entropy
        self._last_ms = -1
        self._high = 0  # the upper 108 bits of the last one, and
        self._head = ""  # their 22 characters
        self._low = 0  # the lower 20 bits

    def __call__(self) -> str:
        now_ms = int(self._wall() * 1000)
        if now_ms > self._last_ms:
            self._last_ms = now_ms
            # the top bit of the random part is left free so that counting up never overflows
            self._start(now_ms << _RANDOM_BITS | int.from_bytes(self._entropy(10), "big") >> 1)
        else:
            self._low += 1
            if self._low > _LOW_MASK:
                self._start((self._high + 1) << _LOW_BITS)
        low = self._low
        return f"{self._head}{_PAIRS[low >> 10]}{_PAIRS[low & 1023]}"

    def _start(self, value: int) -> None:
        self._high = value >> _LOW_BITS
        self._head = encode(value)[:-4]
        self._low = value & _LOW_MASK


def encode(value: int) -> str:
    """128 bits as 26 characters."""
    pairs = _PAIRS
    return "".join([pairs[value >> shift & 1023] for shift in range(120, -1, -10)])
