"""The text of a runtime key: `tb_`, 43 characters that are 256 random bits in base 62, and 6 that are the checksum of what is before.

    tb_3kTMd9CzvBnU5cPYwQ1sJrXe8ZgFhLoA2iVbN7xKmyR0fEu

No character of it ends a word, so that a double click takes all of it; the prefix is there for people and for those who search for
leaked keys; the checksum (CRC-32) tells a key that was copied wrongly from one that nobody made, without looking anywhere. It
protects nothing: what is kept of a key is a digest of the whole.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import zlib
from collections.abc import Callable
from typing import Final

PREFIX: Final = "tb_"
KEY_BYTES: Final = 32
_RANDOM_CHARS: Final = 43  # 62 ** 43 > 2 ** 256
_CHECK_CHARS: Final = 6  # 62 ** 6 > 2 ** 32
KEY_CHARS: Final = len(PREFIX) + _RANDOM_CHARS + _CHECK_CHARS
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FORM: Final = re.compile(rb"tb_[0-9A-Za-z]{%d}" % (_RANDOM_CHARS + _CHECK_CHARS))


def new_key(entropy: Callable[[int], bytes]) -> str:
    """`entropy(n)` gives n random bytes, such as `os.urandom`."""
    head = PREFIX + _base62(int.from_bytes(entropy(KEY_BYTES), "big"), _RANDOM_CHARS)
    return head + _checksum(head.encode())


def has_our_prefix(key: bytes) -> bool:
    """Whether it means to be a runtime key."""
    return key.startswith(PREFIX.encode())


def is_well_formed(key: bytes) -> bool:
    """Whether it could have been made here: length, alphabet and checksum are right."""
    return _FORM.fullmatch(key) is not None and hmac.compare_digest(key[-_CHECK_CHARS:], _checksum(key[:-_CHECK_CHARS]).encode())


def key_digest(key: bytes, pepper: bytes | None = None) -> bytes:
    """What is kept of a key: SHA-256, or HMAC-SHA-256 under a pepper. 256 random bits need no slow hash: nobody can try them all."""
    return hashlib.sha256(key).digest() if pepper is None else hmac.digest(pepper, key, "sha256")


def pepper_mark(pepper: bytes) -> str:
    """Eight hex digits that tell one pepper from another, and tell nothing of it."""
    return hmac.digest(pepper, b"which pepper is this", "sha256").hex()[:8]


def _checksum(head: bytes) -> str:
    return _base62(zlib.crc32(head), _CHECK_CHARS)


def _base62(number: int, width: int) -> str:
    found = []
    for _ in range(width):
        number, rest = divmod(number, 62)
        found.append(_ALPHABET[rest])
    return "".join(reversed(found))
