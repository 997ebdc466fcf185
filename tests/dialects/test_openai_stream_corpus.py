"""Every recorded stream through `ChatStream`: however its bytes are cut, the same comes out, and what needs no change is not changed."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import NamedTuple

import orjson
import pytest

from proxy.accounting.usage import usage_from_openai
from proxy.core.errors import ErrorClass
from proxy.core.target import Quirks
from proxy.core.usage import Usage
from proxy.dialects.openai_chat import ChatStream
from tests.corpus.recordings import FOREIGN_REASONS, Recording, chat_recordings, needs_corpus
from tests.corpus.upstream import pieces

pytestmark = [pytest.mark.unit, needs_corpus]

STREAMS = [recording for recording in chat_recordings() if recording.streamed]
DONE = b"data: [DONE]"
EACH_BYTE = 2048  # so many of a stream's first bytes come one by one, and as many of its last
# an error event in a stream that had begun: what stands before it is passed on, it and an end mark are not
BROKEN = {"groq-openai-chat-bffc60e8b7": ErrorClass.MODEL_FAULT}
# streams without an end mark, which they get
UNMARKED_PROVIDERS = frozenset(("gpustack", "local", "perplexity", "writer"))

every_stream = pytest.mark.parametrize("recording", STREAMS, ids=lambda recording: recording.id)


class Outcome(NamedTuple):
    out: bytes
    usage: Usage | None
    finish_reason: str | None
    error: ErrorClass | None
    text: bytes
    events: int
    committed: bool
    malformed: int
    mended: int
    end_mark_missing: bool


def outcome(cuts: Iterable[bytes], *, include_usage: bool = True) -> Outcome:
    stream = ChatStream(usage_from_openai, quirks=Quirks(), include_usage=include_usage)
    out = bytearray()
    for cut in cuts:
        out += stream.feed(cut)
        if stream.done or stream.error is not None:
            break
    if stream.error is None:
        out += stream.close()
    return Outcome(
        bytes(out),
        stream.usage,
        stream.finish_reason,
        stream.error.error_class if stream.error is not None else None,
        bytes(stream.text),
        stream.events,
        stream.committed,
        stream.malformed,
        stream.mended,
        stream.end_mark_missing,
    )


def events(body: bytes) -> list[bytes]:
    unix = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return [event.strip(b"\n") for event in unix.split(b"\n\n") if event.strip(b"\n")]


def at_events(body: bytes, random: Random | None) -> list[bytes]:
    """Cut where events end, as a provider writes them: one by one, or as many at once as chance will have it."""
    lone = [event + b"\n\n" for event in body.split(b"\n\n")]
    lone[-1] = lone[-1][:-2]
    if random is None:
        return lone
    found = []
    while lone:
        count = random.randint(1, 12)
        found.append(b"".join(lone[:count]))
        del lone[:count]
    return found


def byte_by_byte(body: bytes) -> list[bytes]:
    """The beginning and the end; what is between them in a long one is more of the same, and comes at once."""
    begins, ends = body[:EACH_BYTE], body[EACH_BYTE:][-EACH_BYTE:]
    between = body[len(begins) : len(body) - len(ends)]
    return [bytes((byte,)) for byte in begins] + [between] * bool(between) + [bytes((byte,)) for byte in ends]


@every_stream
def test_how_the_bytes_are_cut_changes_nothing(recording: Recording) -> None:
    body = recording.body
    whole = outcome([body])
    assert outcome(byte_by_byte(body)) == whole
    for seed in range(2):
        random = Random(f"{recording.id} {seed}")
        assert outcome(pieces(body, random)) == whole
        assert outcome(at_events(body, random)) == whole
    assert outcome(at_events(body, None)) == whole
    crlf = body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    assert outcome(pieces(crlf, Random(recording.id))) == whole


@every_stream
def test_what_needs_no_change_is_not_changed(recording: Recording) -> None:
    found = outcome([recording.body])
    assert found.error == BROKEN.get(recording.id)
    body = recording.body
    for foreign, known in FOREIGN_REASONS.items():
        body = body.replace(b'"finish_reason":"%b"' % foreign.encode(), b'"finish_reason":"%b"' % known.encode())
    said = events(body)
    marked = DONE in said
    if recording.id in BROKEN:
        assert found.out == b"".join([event + b"\n\n" for event in said[:-1]])
        return
    assert marked or recording.provider in UNMARKED_PROVIDERS
    assert found.end_mark_missing is not marked
    said = said[: said.index(DONE)] if marked else said
    assert found.out == b"".join([event + b"\n\n" for event in [*said, DONE]])
    assert (found.malformed, found.mended) == (0, 0)
    assert found.events == len(said) + marked
    if marked and b"\r" not in body and b"\n\n\n" not in body:
        assert found.out.rstrip(b"\n") == body.strip(b"\n")


@every_stream
def test_usage_alone_goes_to_those_who_asked(recording: Recording) -> None:
    """A chunk that holds usage and no choice; the usage itself is read all the same."""
    asked, unasked = outcome([recording.body]), outcome([recording.body], include_usage=False)
    assert unasked[1:] == asked[1:]
    assert events(unasked.out) == [event for event in events(asked.out) if not _only_usage(event)]


@every_stream
def test_the_stream_knows_what_was_said(recording: Recording) -> None:
    found = outcome([recording.body])
    said = recording.usage_objects
    assert found.usage == (usage_from_openai(said[-1], Quirks()) if said else None)
    assert found.finish_reason == recording.finish_reason
    deltas = [choice.get("delta") or {} for item in recording.objects for choice in item.get("choices") or []]
    text = "".join([delta["content"] for delta in deltas if isinstance(delta.get("content"), str)])
    if not any(delta.get("tool_calls") or delta.get("reasoning") or delta.get("reasoning_content") for delta in deltas):
        assert text.encode() in found.text
    assert found.committed


def _only_usage(event: bytes) -> bool:
    payload = event.removeprefix(b"data:").strip()
    if not payload.startswith(b"{"):
        return False
    chunk = orjson.loads(payload)
    return not chunk.get("choices") and bool(chunk.get("usage") or (chunk.get("x_groq") or {}).get("usage"))
