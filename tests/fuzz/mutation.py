"""Bytes that are nearly right: a seed, and a few edits that break it where formats break.

An edit is five small numbers. What it does is chosen by the first of them; the others say where, how far and with what. Nothing here
knows the format: the seeds and the tokens do. Made by hand and not by hypothesis, which takes longer to draw such an input than most
checks take for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

Edit = tuple[int, int, int, int, int]

MAX_BYTES = 64 * 1024  # of an input: what is larger finds nothing that is not found smaller, and takes its time
MAX_EDITS = 6
_BIG = 1 << 16
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|[A-Za-z_][A-Za-z0-9_-]*|[^\sA-Za-z0-9]')

# what JSON, UTF-8, HTTP and line-based formats have been seen to stumble over
TOKENS: tuple[bytes, ...] = (
    b"null", b"true", b"{}", b"[]", b'""', b'"x"', b"0", b"-1", b"1e999", b"-0.0", b"NaN", b"9" * 400, b"18446744073709551616",
    b"1.5", b'"\\ud83d"', b'"\\u0000"', b'"\\u202e"', b"\\ud83d", b"\\", b'"', b"\xff", b"\xed\xa0\x80", b"\xf0\x9f\x8c", b"\xef\xbb\xbf",
    b"\xe2\x80\xa8", b"\xc2\x85", b"\x00", b"\x7f", b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b" ", b"\t", b":", b",", b"{", b"}", b"[",
    b"]", b"[" * 70 + b"]" * 70, b'{"a":' * 70 + b"1" + b"}" * 70, b"[" * 300 + b"]" * 300, b"[" * 900 + b"]" * 900,
    b'{"text":' * 900 + b"1" + b"}" * 900, b'{"error":' * 300 + b"1" + b"}" * 300, b"data:", b"data: [DONE]\n\n", b"event: error\n",
    b'data: {"error":{"message":"m","type":"t","code":"c"}}\n\n', b'{"type":"error"}', b'{"message":null}', b": ping\n\n", b"x" * 3000,
)  # fmt: skip


def cut_places(data: bytes) -> list[int]:
    """Places to cut `data` at, drawn from itself: the same input is always cut the same way."""
    random = Random(data)
    return sorted(random.randrange(len(data) + 1) for _ in range(random.randrange(1, 12)))


def pieces_of(data: bytes, places: Sequence[int]) -> list[bytes]:
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if a < b]


def edited(seed: bytes, edits: Sequence[Edit], tokens: Sequence[bytes] = TOKENS, others: Sequence[bytes] = ()) -> bytes:
    """`seed` after all edits. `others` are whole inputs of which parts may be put in."""
    data = seed
    for edit in edits:
        data = _edited(data, edit, tokens, others or (seed,))[:MAX_BYTES]
    return data


def _edited(data: bytes, edit: Edit, tokens: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    kind, where, length, what, more = edit
    at = where % (len(data) + 1)
    end = min(len(data), at + length % 64 + 1)
    token = tokens[what % len(tokens)]
    match kind % 10:
        case 0:  # a flipped bit
            return data[:at] + bytes([data[at] ^ 1 << what % 8]) + data[at + 1 :] if at < len(data) else data + b"\x00"
        case 1:  # a hole
            return data[:at] + data[end:]
        case 2:
            return data[:at] + token + data[at:]
        case 3:
            return data[:at] + token + data[end:]
        case 4:  # said twice, or often
            return data[:end] + data[at:end] * (more % 40) + data[end:]
        case 5:  # broken off
            return data[:at]
        case 6:  # a piece of another
            other = others[what % len(others)]
            begin = more % (len(other) + 1)
            return data[:at] + other[begin : begin + length % 400] + data[at:]
        case 7 | 8:  # a word, a number or a text becomes another
            return _with_token(data, where, token)
        case _:  # two of them change places
            return _with_token(data, where, _token(data, more))


def _spans(data: bytes) -> list[tuple[int, int]]:
    return [found.span() for found in _TOKEN.finditer(data[:MAX_BYTES])]


def _token(data: bytes, which: int) -> bytes:
    spans = _spans(data)
    if not spans:
        return b""
    start, end = spans[which % len(spans)]
    return data[start:end]


def _with_token(data: bytes, which: int, token: bytes) -> bytes:
    spans = _spans(data)
    if not spans:
        return data + token
    start, end = spans[which % len(spans)]
    return data[:start] + token + data[end:]


def random_input(random: Random, seeds: Sequence[bytes], tokens: Sequence[bytes] = TOKENS) -> bytes:
    """A seed with one to MAX_EDITS edits."""
    edits = [
        (random.randrange(10), random.randrange(_BIG), random.randrange(_BIG), random.randrange(_BIG), random.randrange(_BIG))
        for _ in range(random.randint(1, MAX_EDITS))
    ]
    return edited(random.choice(seeds), edits, tokens, seeds)
