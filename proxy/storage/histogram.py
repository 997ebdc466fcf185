"""Durations counted in bins that grow by 17 %, written as text that adds up by being put together.

Bin 0 is less than 0.5 ms, bin i from 1 to 94 is 0.5 ms · 1.17^(i-1) and more, bin 95 is 21 minutes and more. A histogram is a string
in any order: the character 32 + bin + 96 · (15k + d - 1) says d · 16^k durations in that bin, d from 1 to 15. So one more duration is
one more character, SQLite adds two histograms by `||` and a thousand by `group_concat`, and `shorten` writes each bin's count in as few
characters as it takes.

    "  P"  ── three durations: two in bin 0, one in bin 48       the same, shortened: "\x80P"

A percentile is told as the geometric middle of its bin, so it is at most 8.2 % off.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, repeat
from math import ceil, sqrt
from operator import mul

BINS = 96
SMALLEST_MS = 0.5
GROWTH = 1.17
BOUNDS_MS = list(accumulate(repeat(GROWTH, BINS - 2), mul, initial=SMALLEST_MS))
_FIRST = 32  # the first printable character
_FEW = 150  # characters that are quicker taken one by one
_REMEMBERED = 8_192  # what so many short histograms came to: some 4 MiB
_ONE = [chr(_FIRST + number) for number in range(BINS)]
_MIDDLES_MS = [SMALLEST_MS / 2, *[bound * sqrt(GROWTH) for bound in BOUNDS_MS[:-1]], BOUNDS_MS[-1]]
_TOLD_MS = [round(middle_ms, 2) for middle_ms in _MIDDLES_MS]


def histogram(durations_ms: Iterable[float]) -> str:
    """One character a duration."""
    return "".join([_ONE[bisect_right(BOUNDS_MS, duration_ms)] for duration_ms in durations_ms])


def counted(text: str, less: str = "") -> dict[int, int]:
    """Bin -> how many, of one histogram without another; only bins with any."""
    return {number: count for number, count in enumerate(_counts(text, less)) if count}


def shorten(text: str, less: str = "") -> str:
    """The same counts in as few characters as they can be said in, in order."""
    counts = _counts(text, less)
    return "".join([_ONE[number] if count == 1 else _digits(number, count) for number, count in enumerate(counts) if count > 0])


def percentiles(text: str, shares: tuple[float, ...], less: str = "") -> Sequence[float | None]:
    """For each share of 0..1 the duration in ms that so many are not longer than; None where nothing was counted.

    Those of the same hours are asked for again and again: they are remembered, where there are many of them and none is long.
    """
    return _percentiles(text, shares, less) if less or len(text) >= _FEW else _remembered(text, shares)


def _percentiles(text: str, shares: tuple[float, ...], less: str = "") -> Sequence[float | None]:
    """A report asks for thousands: what is done for each character is left to loops that are not Python's."""
    weights: Iterable[int]
    if less:
        counts = _counts(text, less)
        digits = [digit for digit, count in zip(_ONE, counts, strict=True) if count > 0]
        weights = [count for count in counts if count > 0]
    elif len(text) >= _FEW:
        times = Counter(text)
        digits = sorted(times, key=_told_of)
        weights = map(mul, map(times.__getitem__, digits), map(_weight_of, digits))
    elif text.isascii():  # each character is one duration, and their order is that of the bins
        digits = sorted(text)
        return [_told_of(digits[_place(share, len(digits)) - 1]) if digits else None for share in shares]
    else:
        digits = sorted(text, key=_told_of)
        weights = map(_weight_of, digits)
    upto = list(accumulate(weights))
    return [_told_of(digits[bisect_left(upto, _place(share, upto[-1]))]) if upto else None for share in shares]


_remembered = lru_cache(_REMEMBERED)(_percentiles)


def _place(share: float, total: int) -> int:
    """Of the one that so many are not longer than, from 1 on."""
    return max(1, ceil(share * total - 1e-9))


def _counts(text: str, less: str) -> list[int]:
    counts = [0] * BINS
    if len(text) < _FEW:
        for number, weight in map(_place_of, text):
            counts[number] += weight
    else:
        for digit, times in Counter(text).items():
            number, weight = _PLACES[digit]
            counts[number] += times * weight
    for digit, times in Counter(less).items() if less else ():
        number, weight = _PLACES[digit]
        counts[number] -= times * weight
    return counts


class _Places(dict[str, tuple[int, int]]):
    """Digit -> its bin, and how many it says; worked out when it is met."""

    def __missing__(self, digit: str) -> tuple[int, int]:
        digits, number = divmod(ord(digit) - _FIRST, BINS)
        power, value = divmod(digits, 15)
        place = self[digit] = number, (value + 1) << 4 * power
        return place


# Bounded by the digits that there are: a thousand for each factor of sixteen.
_PLACES = _Places()
_place_of = _PLACES.__getitem__


class _Told(dict[str, float]):
    """Digit -> the milliseconds that its bin is told as; worked out when it is met."""

    def __missing__(self, digit: str) -> float:
        told = self[digit] = _TOLD_MS[_place_of(digit)[0]]
        return told


class _Weights(dict[str, int]):
    """Digit -> how many it says; worked out when it is met."""

    def __missing__(self, digit: str) -> int:
        weight = self[digit] = _place_of(digit)[1]
        return weight


_told_of = _Told().__getitem__
_weight_of = _Weights().__getitem__


def _digits(number: int, count: int) -> str:
    found, power = [], 0
    while count:
        count, value = divmod(count, 16)
        if value:
            found.append(chr(_FIRST + number + BINS * (15 * power + value - 1)))
        power += 1
    return "".join(found)
