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

    __slots__ = ("_around", "_head", "_middle", "_tail")

    def __init__(self, head: bytes, middle: bytes, tail: bytes) -> None:
        """`middle` is empty where there is no filler."""
        self._head = head
        self._middle = middle
        self._tail = tail
        self._around = len(head) + len(tail)

    def texts_of(self, data: bytes) -> list[str] | None:
        """The text of each event, where `data` is whole events of this kind and nothing else; None where it is not."""
        head, tail, around = self._head, self._tail, self._around
        size = len(data)
        if not data.endswith(tail) or not data.startswith(head) or size < around:
            return None
        if size < 2 * around:
            strings = [data[len(head) : -len(tail)]]
        else:
            strings = [event.removeprefix(head) for event in data.split(tail)]
            strings.pop()  # what follows on the last
            if sum(map(len, strings)) != size - len(strings) * around:  # one of them does not begin so
                return None
        return self._read(strings) if not self._middle else self._read_filled(strings)

    def _read_filled(self, strings: list[bytes]) -> list[str] | None:
        halves = [string.partition(self._middle) for string in strings]
        fillers = [filler for _, middle, filler in halves if middle]
        texts = self._read([piece for piece, _, _ in halves] + fillers)
        return texts[: len(strings)] if texts is not None and len(fillers) == len(strings) else None

    def _read(self, strings: list[bytes]) -> list[str] | None:
        """What they say, if each is one string of JSON."""
        joined = b'","'.join(strings)
        try:
            if b"\\" in joined:  # at the end of a string it would make the next quote a part of it
                return [orjson.loads(b'"%b"' % string) for string in strings]
            texts: list[str] = orjson.loads(b'["%b"]' % joined)
        except orjson.JSONDecodeError:
            return None
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
