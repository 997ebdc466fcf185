"""Chunks that are told by comparing bytes are told just as if each had been parsed."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounting.usage import usage_from_openai
from proxy.core.target import Quirks
from proxy.dialects import openai_chat
from proxy.dialects.chunk_template import ChunkTemplate, template_of
from proxy.dialects.openai_chat import ChatStream

pytestmark = pytest.mark.unit


def chunk(text: str, *, field: str = "content", **top: Any) -> dict[str, Any]:
    delta = {"role": "assistant", field: text}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1_790_000_000, "choices": [choice], "usage": None, **top}


def event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def template(example: dict[str, Any]) -> ChunkTemplate:
    found = template_of(orjson.dumps(example), example)
    assert found is not None
    return found


@pytest.mark.parametrize("field", ["content", "reasoning_content", "reasoning"])
def test_reads_the_pieces_of_events_that_differ_in_nothing_else(field: str) -> None:
    told = ["one", ' "two"', "three\n", "vier – fünf", "\\", "六"]
    data = b"".join([event(chunk(text, field=field)) for text in told])
    assert template(chunk("Hello", field=field)).texts_of(data) == told


@pytest.mark.parametrize("name", ["obfuscation", "p"])
def test_lets_a_filler_vary_beside_the_piece(name: str) -> None:
    made = template(chunk("Hello", **{name: "x7q"}))
    data = event(chunk("a", **{name: "abcdef"})) + event(chunk('"b"', **{name: ""}))
    assert made.texts_of(data) == ["a", '"b"']
    assert made.texts_of(event(chunk("a"))) is None


@pytest.mark.parametrize(
    "other",
    [
        chunk("x", usage={"prompt_tokens": 1}),
        chunk("x", error={"message": "no"}),
        chunk("x") | {"id": "c-2"},
        chunk("x") | {"choices": []},
        chunk("x", field="reasoning"),
    ],
)
def test_does_not_know_an_event_that_differs_elsewhere(other: dict[str, Any]) -> None:
    made = template(chunk("Hello"))
    assert made.texts_of(event(other)) is None
    assert made.texts_of(event(chunk("x")) + event(other)) is None
    assert made.texts_of(event(other) + event(chunk("x"))) is None


_OPEN, _CLOSE = event(chunk("|")).split(b"|")


@pytest.mark.parametrize(
    "raw",
    [
        [b'a","b'],
        [b'a","b', b"c\\"],  # as many strings as events, but not the same
        [b"c\\", b'a","b'],
        [b"\n"],
        [b"\x01"],
        [b"\\x"],
        [b"\\u12"],
        [b"\\ud800"],
        [b"\xff"],
        [b"\xe2\x82", b"\xac"],  # one character over two events
        [_CLOSE + _OPEN + b'"'],
        [b'"'],
    ],
)
def test_does_not_know_an_event_that_is_no_json(raw: list[bytes]) -> None:
    made = template(chunk("Hello"))
    for pieces in (raw, [b"fine", *raw], [*raw, b"fine"]):
        assert made.texts_of(b"".join([_OPEN + piece + _CLOSE for piece in pieces])) is None


@pytest.mark.parametrize("data", [b"", _OPEN, _CLOSE, _OPEN[:-1] + _CLOSE, event(chunk("x"))[:-1], event(chunk("x"))[1:]])
def test_does_not_know_what_is_no_whole_event(data: bytes) -> None:
    assert template(chunk("Hello")).texts_of(data) is None


@pytest.mark.parametrize(
    "example",
    [
        chunk("~", note={"content": "~"}),
        {"note": {"content": "Hello"}, **chunk("Hello")},  # what stands first is not the piece
        {"content": "Hello", **chunk("Hello")},
        chunk("Hello", note={"p": "x"}),
        chunk("-", p="~"),
    ],
)
def test_only_the_piece_itself_varies(example: dict[str, Any]) -> None:
    """Whatever stands beside it: a template knows exactly the events that differ in the piece, or there is none."""
    made = template_of(orjson.dumps(example), orjson.loads(orjson.dumps(example)))
    if made is not None:
        other = orjson.loads(orjson.dumps(example))
        other["choices"][0]["delta"]["content"] = "anything"
        assert made.texts_of(event(other)) == ["anything"]
        for name, value in example.items():
            if name not in ("choices", "p"):
                assert made.texts_of(event({**example, name: [value]})) is None


_TEXTS = st.text(max_size=12)
_PLAIN = st.builds(chunk, _TEXTS, field=st.sampled_from(["content", "content", "content", "reasoning"]))
_PADDED = st.builds(lambda text, filler: chunk(text, obfuscation=filler), _TEXTS, st.text(max_size=6))
_ODD = st.sampled_from(
    [
        event(chunk("x", usage={"prompt_tokens": 3, "completion_tokens": 4})),
        event(chunk("x", usage={"prompt_tokens": "?"})),
        event({**chunk(""), "choices": [{"index": 0, "delta": {}, "finish_reason": "eos"}]}),
        event({**chunk(""), "choices": [{"index": 0, "delta": {"content": "!"}, "finish_reason": "stop"}]}),
        event({**chunk(""), "choices": [{"index": 0, "delta": {"content": "a", "reasoning": "b"}}]}),
        event({**chunk(""), "choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]}),
        event({**chunk(""), "choices": [{"delta": None}]}),
        event({"choices": "x"}),
        event({"error": {"message": "no more"}}),
        b": a comment\n\n",
        b"data: {broken\n\n",
        b"data: [DONE]\n\n",
        _OPEN + b'a","b' + _CLOSE,
        _OPEN + b"\xff" + _CLOSE,
    ]
)


@pytest.mark.property
@given(
    kind=st.sampled_from([_PLAIN, _PADDED]).flatmap(lambda kind: st.lists(kind.map(event) | _ODD | kind.map(event), max_size=30)),
    cuts=st.lists(st.integers(1, 6), min_size=1, max_size=10),
    inside=st.lists(st.integers(1, 200), max_size=3),
)
def test_a_stream_comes_to_the_same_as_when_each_chunk_is_parsed(kind: list[bytes], cuts: list[int], inside: list[int]) -> None:
    reads: list[bytes] = []
    while kind:
        count = cuts[len(reads) % len(cuts)]
        reads.append(b"".join(kind[:count]))
        kind = kind[count:]
    for cut in inside:  # and some of them in the midst of an event
        reads = [part for read in reads for part in (read[:cut], read[cut:]) if part]
    assert _told(reads, openai_chat.FIRST_LEARNT) == _told(reads, 10**9)


def _told(reads: list[bytes], learn_at: int) -> tuple[Any, ...]:
    stream = ChatStream(usage_from_openai, quirks=Quirks(), include_usage=True)
    stream._learn_at = learn_at
    out = [stream.feed(read) for read in reads]
    error = stream.error.message if stream.error is not None else None
    return (
        out,
        stream.close(),
        bytes(stream.text),
        stream.text_bytes,
        stream.events,
        stream.malformed,
        stream.mended,
        stream.usage,
        stream.finish_reason,
        stream.committed,
        stream.done,
        error,
    )


@pytest.mark.property
@given(
    texts=st.lists(_TEXTS | st.just("word"), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 40_000), min_size=1, max_size=6),
)
def test_long_reads_that_end_anywhere_come_to_the_same(texts: list[str], sizes: list[int]) -> None:
    whole = b"".join([event(chunk(text)) for text in texts]) * 200 + b"data: [DONE]\n\n"
    reads: list[bytes] = []
    at = 0
    while at < len(whole):
        size = max(sizes[len(reads) % len(sizes)], len(whole) // 50)
        reads.append(whole[at : at + size])
        at += len(reads[-1])
    cut, uncut = _told(reads, openai_chat.FIRST_LEARNT), _told([whole], 10**9)
    assert b"".join(cut[0]) + cut[1] == b"".join(uncut[0]) + uncut[1]
    assert cut[2:] == uncut[2:]
