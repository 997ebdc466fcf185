"""Identifiers that sort by time: ULIDs (https://github.com/ulid/spec), Crockford base 32, 26 characters."""

from __future__ import annotations

import os
from collections.abc import Callable

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_FIVE_BITS = bytes([ord(_ALPHABET[byte & 31]) for byte in range(256)])  # a random byte -> a character
_RANDOM_CHARS = 12  # and 4 that count
_COUNT_BITS = 20


class UlidFactory:
    """Makes ULIDs that never go back, even when the wall clock does: the last one is then counted up, as within a millisecond.

    The time, 12 random characters and the first of those that count are drawn anew each millisecond.
    """

    def __init__(self, wall: Callable[[], float], entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._wall = wall
        self._entropy = entropy
        self._last_ms = -1
        self._head = ""  # all but what counts
        self._count = 0

    def __call__(self) -> str:
        now_ms = int(self._wall() * 1000)
        count = self._count + 1
        if now_ms > self._last_ms:
            count = self._start(now_ms)
        elif count >> _COUNT_BITS:
            count = self._start(self._last_ms + 1)
        self._count = count
        return f"{self._head}{_PAIRS[count >> 10]}{_PAIRS[count & 1023]}"

    def _start(self, ms: int) -> int:
        self._last_ms = ms
        pairs, random = _PAIRS, self._entropy(_RANDOM_CHARS + 2)
        time = f"{pairs[ms >> 40]}{pairs[ms >> 30 & 1023]}{pairs[ms >> 20 & 1023]}{pairs[ms >> 10 & 1023]}{pairs[ms & 1023]}"
        self._head = time + random[:_RANDOM_CHARS].translate(_FIVE_BITS).decode()
        return random[-1] << 8 | random[-2]
