"""Newline-delimited JSON: bytes in, whole lines out, however the bytes were cut.

    stream = (line LF)* line?        a CR before the LF, and blanks around a line, are JSON's own white space
    https://github.com/ndjson/ndjson-spec

Only LF ends a line: U+2028 and U+0085 are data, which is why `splitlines` is not used. Empty lines are left out.
"""

from __future__ import annotations

from collections.abc import Iterable

MAX_LINE_BYTES = 1024 * 1024
_BLANKS = b" \t\r"


class LineTooLarge(ValueError):
    """A line grew past the bound. `lines` are those of the same bytes that were whole before it."""

    def __init__(self, lines: list[bytes]) -> None:
        super().__init__("a line is larger than the bound")
        self.lines = lines


class LineSplitter:
    """Cuts a byte stream into lines. Linear in the bytes, however small the pieces; holds at most one unfinished line."""

    __slots__ = ("_pieces", "_size", "max_line_bytes")

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self.max_line_bytes = max_line_bytes
        self._pieces: list[bytes] = []  # of the unfinished line
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Lines that are complete now, without their ends, never empty ones. Raises LineTooLarge, after which nothing more may be fed."""
        if b"\n" not in data:
            self._hold(data, [])
            return []
        if self._pieces:
            data = b"".join([*self._pieces, data])
            self._pieces.clear()
            self._size = 0
        lines = data.split(b"\n")
        rest = lines.pop()
        if len(data) > self.max_line_bytes:
            for position, line in enumerate(lines):
                if len(line) > self.max_line_bytes:
                    raise LineTooLarge(_told(lines[:position]))
        found = _told(lines)
        self._hold(rest, found)
        return found

    def close(self) -> bytes:
        """What stands unfinished at the end of the stream: its last line, where that has no end."""
        rest = b"".join(self._pieces).strip(_BLANKS)
        self._pieces.clear()
        self._size = 0
        return rest

    def _hold(self, data: bytes, found: list[bytes]) -> None:
        if data:
            self._pieces.append(data)
            self._size += len(data)
            if self._size > self.max_line_bytes:
                raise LineTooLarge(found)


def _told(lines: Iterable[bytes]) -> list[bytes]:
    return [stripped for line in lines if (stripped := line.strip(_BLANKS))]
