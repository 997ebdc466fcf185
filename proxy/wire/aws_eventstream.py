"""AWS's binary event stream: bytes in, whole messages out, however the bytes were cut.

    message = total-length:4 headers-length:4 prelude-crc:4 header* payload message-crc:4      all numbers big-endian
    header  = name-length:1 name type:1 value
    https://smithy.io/2.0/aws/amazon-eventstream.html

Both checksums are CRC-32: the first of the eight bytes before it, the second of everything before it. There is no mark at which a
reader could pick up a stream again, so the first message that is wrong ends it. A checksum or a length that cannot be is told as soon
as the bytes that show it are there: a prelude of nonsense is not waited upon for gigabytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from zlib import crc32

MAX_MESSAGE_BYTES = 8 * 1024 * 1024  # a picture in base64, with room
MAX_HEADERS_BYTES = 128 * 1024  # the specification's own
_PRELUDE_BYTES = 12
_CRC_BYTES = 4
_LEAST_BYTES = _PRELUDE_BYTES + _CRC_BYTES

HeaderValue = bool | int | bytes | str


@dataclass(slots=True)
class Message:
    """`headers` is not to be changed: messages with the same head share it."""

    headers: Mapping[str, HeaderValue]
    payload: bytes


class EventStreamError(ValueError):
    """The bytes are no event stream. `before`: the messages that were complete before it, in the piece that showed it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.before: list[Message] = []


class MessageTooLarge(EventStreamError):
    """A message announces more than MAX_MESSAGE_BYTES, or headers of more than MAX_HEADERS_BYTES."""


class BadLengths(EventStreamError):
    """The two lengths of a prelude cannot both be right."""


class ChecksumMismatch(EventStreamError):
    pass


class BadHeaders(EventStreamError):
    """The headers do not add up, are of no known type, are no UTF-8, or one is there twice."""


class EventStreamSplitter:
    """Cuts a byte stream into messages. Linear in the bytes, however small the pieces; holds at most one unfinished message."""

    __slots__ = ("_needed", "_pieces", "_size", "max_message_bytes")

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.max_message_bytes = max_message_bytes
        self._pieces: list[bytes] = []  # of the unfinished message
        self._size = 0
        self._needed = _PRELUDE_BYTES  # so many bytes tell more than is known now

    def feed(self, data: bytes) -> list[Message]:
        """Messages that are complete now. Raises EventStreamError, after which the splitter is of no more use."""
        if not data:
            return []
        if self._pieces:
            self._pieces.append(data)
            self._size += len(data)
            if self._size < self._needed:
                return []
            data = b"".join(self._pieces)
            self._pieces.clear()
        found: list[Message] = []
        start, end = 0, len(data)
        try:
            while True:
                self._needed = _PRELUDE_BYTES
                if end - start < _PRELUDE_BYTES:
                    break
                total, headers_bytes = self._prelude(data, start)
                if end - start < total:
                    self._needed = total
                    break
                found.append(_message(data, start, total, headers_bytes))
                start += total
        except EventStreamError as error:
            error.before = found
            raise
        if start < end:
            self._pieces.append(data[start:])
        self._size = end - start
        return found

    def close(self) -> bytes:
        """What stands unfinished at the end of the stream."""
        rest = b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        self._needed = _PRELUDE_BYTES
        return rest

    def _prelude(self, data: bytes, start: int) -> tuple[int, int]:
        total, headers_bytes, crc = _PRELUDE.unpack_from(data, start)
        if crc32(data[start : start + 8]) != crc:
            raise ChecksumMismatch("the prelude's checksum is wrong")
        if total > self.max_message_bytes:
            raise MessageTooLarge(f"a message of {total} bytes: at most {self.max_message_bytes} are taken")
        if headers_bytes > MAX_HEADERS_BYTES:
            raise MessageTooLarge(f"headers of {headers_bytes} bytes: at most {MAX_HEADERS_BYTES} are taken")
        if total < _LEAST_BYTES + headers_bytes:
            raise BadLengths(f"a message of {total} bytes cannot hold {headers_bytes} bytes of headers")
        return total, headers_bytes


def _message(data: bytes, start: int, total: int, headers_bytes: int) -> Message:
    payload_at = start + _PRELUDE_BYTES + headers_bytes
    end = start + total - _CRC_BYTES
    if crc32(data[start:end]) != _UINT32.unpack_from(data, end)[0]:
        raise ChecksumMismatch("the message's checksum is wrong")
    block = data[start + _PRELUDE_BYTES : payload_at]
    headers = _known_headers(block) if headers_bytes <= _MAX_KNOWN_BYTES else read_headers(block)
    return Message(headers, data[payload_at:end])


def read_headers(block: bytes) -> Mapping[str, HeaderValue]:
    """A timestamp is its milliseconds since 1970, a UUID its 16 bytes. Raises BadHeaders."""
    found: dict[str, HeaderValue] = {}
    at = 0
    try:
        while at < len(block):
            name_end = at + 1 + block[at]
            name = _exactly(block, at + 1, name_end).decode()
            if not name or name in found:
                raise BadHeaders("a header has no name, or is there twice")
            found[name], at = _VALUES[block[name_end]](block, name_end + 1)
    except (IndexError, KeyError, UnicodeDecodeError, struct.error) as error:
        raise BadHeaders("the headers do not add up") from error
    return MappingProxyType(found)


# a stream repeats the same few heads thousands of times; long ones, of which nobody knows how many there are, are not kept
_MAX_KNOWN_BYTES = 512
_known_headers = lru_cache(maxsize=64)(read_headers)


def _exactly(block: bytes, start: int, end: int) -> bytes:
    if end > len(block):
        raise IndexError
    return block[start:end]


def _number(format_: str) -> Callable[[bytes, int], tuple[HeaderValue, int]]:
    number = struct.Struct(format_)

    def read(block: bytes, at: int) -> tuple[int, int]:
        return number.unpack_from(block, at)[0], at + number.size

    return read


def _sized(block: bytes, at: int) -> tuple[bytes, int]:
    start = at + 2
    end = start + _UINT16.unpack_from(block, at)[0]
    return _exactly(block, start, end), end


def _string(block: bytes, at: int) -> tuple[str, int]:
    value, end = _sized(block, at)
    return value.decode(), end


_PRELUDE = struct.Struct(">III")
_UINT32 = struct.Struct(">I")
_UINT16 = struct.Struct(">H")
_VALUES: dict[int, Callable[[bytes, int], tuple[HeaderValue, int]]] = {
    0: lambda block, at: (True, at),
    1: lambda block, at: (False, at),
    2: _number(">b"),
    3: _number(">h"),
    4: _number(">i"),
    5: _number(">q"),
    6: _sized,
    7: _string,
    8: _number(">q"),  # a timestamp
    9: lambda block, at: (_exactly(block, at, at + 16), at + 16),  # a UUID
}
