"""The recorded traffic of one native format, and the cuts by which a stream is tried. `tests/corpus/recordings.py` says where it lies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import orjson

from proxy.core.events import Event, KeepAlive, StreamFailed
from proxy.dialects.native import StreamDecoder
from tests.corpus.recordings import CORPUS


@dataclass(frozen=True)
class Recorded:
    """One exchange. `asked` is the recorded request, in the provider's own format; None where none was kept."""

    id: str
    model: str
    asked: dict[str, Any] | None
    status: int
    framing: str
    body: bytes

    @property
    def streamed(self) -> bool:
        return self.framing in ("sse", "ndjson")

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The JSON objects of the body, in order. Read line by line, unlike anything in the proxy."""
        if not self.streamed:
            return [orjson.loads(self.body)]
        lines = [line.strip() for line in self.body.split(b"\n")]
        if self.framing == "sse":
            lines = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        return [orjson.loads(line) for line in lines if line not in (b"", b"[DONE]")]


@cache
def recordings(api: str) -> tuple[Recorded, ...]:
    """Every exchange of that api, in the index's order; none where the corpus is missing."""
    index = CORPUS / "index.jsonl"
    if not index.is_file():
        return ()
    entries = [orjson.loads(line) for line in index.read_bytes().splitlines()]
    return tuple(_recorded(entry["id"], entry["file"], entry["model"]) for entry in entries if entry["api"] == api)


def _recorded(id_: str, file: str, model: str | None) -> Recorded:
    raw = orjson.loads((CORPUS / file).read_bytes())
    asked, answer = raw["request"]["json"], raw["response"]
    return Recorded(id_, model or "unnamed", asked, answer["status"] or 400, answer["framing"], answer["body"].encode())


def events_of(decoder: StreamDecoder, pieces: Iterable[bytes]) -> list[Event]:
    """All that a decoder tells, but for keep-alives, of which there may be as many as there are reads."""
    found = [event for piece in pieces for event in decoder.feed(piece)] + decoder.close()
    return [event for event in found if not isinstance(event, KeepAlive)]


def comparable(events: Iterable[Event]) -> list[Any]:
    """Errors are compared by what they say."""
    return [
        ("failed", event.error.error_class, event.error.message) if isinstance(event, StreamFailed) else event for event in events
    ]


def cut_at(data: bytes, places: Iterable[int]) -> list[bytes]:
    at = sorted({min(place, len(data)) for place in places})
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


def ways_to_cut(data: bytes, seed: str) -> Iterable[list[bytes]]:
    """Byte by byte, before and after every line's end, and ten times at random."""
    yield [data[i : i + 1] for i in range(len(data))]
    yield cut_at(data, [i for i, byte in enumerate(data) if byte == 10])
    yield cut_at(data, [i + 1 for i, byte in enumerate(data) if byte == 10])
    random = Random(seed)
    for _ in range(10):
        yield cut_at(data, [random.randrange(len(data)) for _ in range(random.randrange(1, 40))])
