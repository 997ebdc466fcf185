"""Chunks of one stream that differ in their piece of text alone: told by comparing bytes, for to parse each of them costs many times that.

    data: {"id":"…", … "delta":{"content":"  Tolls  "},"finish_reason":null}], … "obfuscation":"  x7q  "}\\n\\n
    '------------- head ------------------'  piece  '---------------- middle -------------'      '- tail -'

What stands between is checked to be one JSON string each, so an event that is told this way is as good as the one that the template was
made of, which was parsed. A filler after the middle is there with some providers only.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

_PIECE = re.compile(rb'"(content|reasoning_content|reasoning)"\s*:\s*"((?:[^"\\]|\\.)+)"')
_FILLER = re.compile(rb'"(obfuscation|p)"\s*:\s*"([^"\\]*)"')  # so that nobody guesses words by the length of what is sent
_MARKS = (b"~", b"-", b"+")  # one of them is not what stood there


class ChunkTemplate:
    """Made by `template_of`."""

    __slots__ = ("_around", "_end", "_head", "_middle", "_start", "_tail")

    def __init__(self, head: bytes, middle: bytes, tail: bytes) -> None:
        """`middle` is empty where there is no filler."""
        self._head = head
        self._middle = middle
        self._tail = tail
        self._start, self._end = len(head), -len(tail)
        self._around = len(head) + len(tail)

    def texts_of(self, data: bytes) -> list[str] | None:
        """The text of each event, where `data` is whole events of this kind and nothing else; None where it is not."""
        tail = self._tail
        if not data.endswith(tail) or not data.startswith(self._head):
            return None
        size, around = len(data), self._around
        try:
            if size >= 2 * around:
                head = self._head
                strings = [event.removeprefix(head) for event in data.split(tail)]
                strings.pop()  # what follows on the last
                if sum(map(len, strings)) != size - len(strings) * around:
                    return None  # one of them does not begin so
                return _read_filled(strings, self._middle) if self._middle else _read(strings)
            if size < around:
                return None
            string = data[self._start : self._end]
            return _read_filled([string], self._middle) if self._middle else [orjson.loads(b'"%b"' % string)]
        except orjson.JSONDecodeError:
            return None


def _read_filled(strings: list[bytes], middle: bytes) -> list[str] | None:
    halves = [string.partition(middle) for string in strings]
    fillers = [filler for _, found, filler in halves if found]
    if len(fillers) != len(strings):
        return None
    texts = _read([piece for piece, _, _ in halves] + fillers)
    return None if texts is None else texts[: len(strings)]


def _read(strings: list[bytes]) -> list[str] | None:
    """What they say; None, or JSONDecodeError, if one of them is not what stands between the quotes of a string of JSON."""
    joined = b'","'.join(strings)
    if b"\\" in joined:  # at the end of one it would make the next quote a part of it
        return [orjson.loads(b'"%b"' % string) for string in strings]
    texts: list[str] = orjson.loads(b'["%b"]' % joined)
    return texts if len(texts) == len(strings) else None  # else a quote where none may be


def template_of(event: bytes, chunk: dict[str, Any]) -> ChunkTemplate | None:
    """Of `chunk`, whose only text is a piece in the delta of its only choice, as it stands in `event` (`{…}`). None where what varies
    cannot be told from what stays. `chunk` is not what it was afterwards."""
    piece = _PIECE.search(event)
    if piece is None:
        return None
    filler = _FILLER.search(event, piece.end())
    if filler is not None and type(chunk.get(filler[1].decode())) is not str:
        filler = None  # it stands somewhere inside
    strings = [(chunk["choices"][0]["delta"], piece)] + ([] if filler is None else [(chunk, filler)])
    mark = next(mark for mark in _MARKS if all(found[2] != mark for _, found in strings))
    for holder, found in strings:
        holder[found[1].decode()] = mark.decode()
    head, tail = event[: piece.start(2)], event[strings[-1][1].end(2) :]
    middle = b"" if filler is None else event[piece.end(2) : filler.start(2)]
    try:
        if orjson.loads(head + mark + (middle and middle + mark) + tail) != chunk:
            return None  # one of them stands elsewhere, too
    except orjson.JSONDecodeError:
        return None
    return ChunkTemplate(b"data: " + head, middle, tail + b"\n\n")
