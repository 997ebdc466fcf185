"""Server-sent events: any cut gives the same events, and only CR and LF end a line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire.sse import MAX_EVENT_BYTES, EventTooLarge, SseSplitter, event_data

pytestmark = pytest.mark.unit


def split(*pieces: bytes, limit: int = MAX_EVENT_BYTES) -> tuple[list[bytes], bytes]:
    splitter = SseSplitter(limit)
    events = [event for piece in pieces for event in splitter.feed(piece)]
    return events, splitter.close()


def by_bytes(data: bytes) -> tuple[list[bytes], bytes]:
    return split(*[data[i : i + 1] for i in range(len(data))])


CASES: dict[str, tuple[bytes, list[bytes], bytes]] = {
    "two events": (b"data: a\n\ndata: b\n\n", [b"data: a", b"data: b"], b""),
    "crlf": (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"data: a", b"data: b"], b""),
    "lone cr": (b"data: a\r\rdata: b\r\r", [b"data: a"], b"data: b"),  # the last CR waits: an LF may follow
    "line ends mixed": (b"data: a\r\n\ndata: b\n\rdata: c\n\n", [b"data: a", b"data: b", b"data: c"], b""),
    "crlf inside an event": (b"event: x\r\ndata: a\r\n\r\n", [b"event: x\ndata: a"], b""),
    "byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [b"data: a"], b""),
    "a second mark is data": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", [b"\xef\xbb\xbfdata: a"], b""),
    "a part of a mark is data": (b"\xef\xbbdata\n\n", [b"\xef\xbbdata"], b""),
    "blank lines before": (b"\n\n\ndata: a\n\n", [b"data: a"], b""),
    "many blank lines between": (b"data: a\n\n\n\n\ndata: b\n\n\n", [b"data: a", b"data: b"], b""),
    "U+2028 is data": ("data: a\u2028b\n\n".encode(), ["data: a\u2028b".encode()], b""),
    "U+0085 is data": ("data: a\u0085b\n\n".encode(), ["data: a\u0085b".encode()], b""),
    "form feed and vertical tab are data": (b"data: a\x0c\x0bb\x1c\n\n", [b"data: a\x0c\x0bb\x1c"], b""),
    "unfinished": (b"data: a\n\ndata: b\n", [b"data: a"], b"data: b"),
    "unfinished without line end": (b"data: a", [], b"data: a"),
    "comment": (b": ping\n\ndata: a\n\n", [b": ping", b"data: a"], b""),
    "nothing": (b"", [], b""),
    "only blank lines": (b"\n\n\n\n", [], b""),
}


@pytest.mark.parametrize(("data", "events", "rest"), CASES.values(), ids=CASES.keys())
def test_events_of_a_stream(data: bytes, events: list[bytes], rest: bytes) -> None:
    assert split(data) == (events, rest)


@pytest.mark.parametrize(("data", "events", "rest"), CASES.values(), ids=CASES.keys())
def test_byte_by_byte_is_the_same(data: bytes, events: list[bytes], rest: bytes) -> None:
    assert by_bytes(data) == (events, rest)


PIECES = st.sampled_from(
    [
        b"data: a",
        b"data:",
        b"data",
        b": c",
        b"event: x",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\r\n\r\n",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xa8",
    ]
)


@pytest.mark.property
@given(st.lists(PIECES, max_size=12).map(b"".join), st.lists(st.integers(0, 80), max_size=6))
@settings(max_examples=200, deadline=None)
def test_any_cut_gives_the_same_events(data: bytes, cuts: list[int]) -> None:
    at = sorted({min(cut, len(data)) for cut in cuts})
    pieces = [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]
    assert split(*pieces) == split(data)


@pytest.mark.property
@given(st.lists(PIECES, max_size=12).map(b"".join))
@settings(max_examples=150, deadline=None)
def test_the_events_are_those_of_the_standards_own_reading(data: bytes) -> None:
    """Line by line, as the specification words it; ours ends at the last blank line, so the unfinished rest is left out."""
    text = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    expected: list[bytes] = []
    lines: list[bytes] = []
    for line in (text + b"\n").split(b"\n")[:-1]:
        if line:
            lines.append(line)
        elif lines:
            expected.append(b"\n".join(lines))
            lines = []
    splitter = SseSplitter()
    events = splitter.feed(data) + splitter.feed(b"\n\n")
    if lines:
        expected.append(b"\n".join(lines))
    assert events == expected


@pytest.mark.parametrize("size", [1, 7, 64, 65536])
def test_an_event_may_be_as_large_as_the_bound_and_no_larger(size: int) -> None:
    limit = 4096 if size < 64 else MAX_EVENT_BYTES

    def feed(event: bytes) -> list[bytes]:
        splitter = SseSplitter(limit)
        data = event + b"\n\n"
        return [found for i in range(0, len(data), size) for found in splitter.feed(data[i : i + size])]

    fits = b"data: " + b"x" * (limit - 7)
    assert feed(fits) == [fits]
    with pytest.raises(EventTooLarge):
        feed(fits + b"xxx")


def test_a_whole_event_in_one_piece_is_held_to_the_same_bound() -> None:
    fits = b"data: " + b"x" * (MAX_EVENT_BYTES - 6)
    assert split(fits + b"\n\n") == ([fits], b"")
    with pytest.raises(EventTooLarge):
        split(fits + b"x\n\n")


def test_many_small_events_in_one_large_piece_are_fine() -> None:
    events, rest = split(b"data: x\n\n" * 300_000)
    assert (len(events), rest) == (300_000, b"")


def test_small_pieces_cost_time_in_proportion_and_no_memory_beyond_one_event() -> None:
    splitter = SseSplitter()
    for _ in range(MAX_EVENT_BYTES // 16):
        assert splitter.feed(b"0123456789abcde\n") == []
    with pytest.raises(EventTooLarge):
        splitter.feed(b"x")


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a", b"a"),
        (b"data:a", b"a"),
        (b"data:  a", b" a"),  # one space belongs to the field, the rest to the value
        (b"data:", b""),
        (b"data: ", b""),
        (b"data", b""),
        (b"data: a\ndata: b", b"a\nb"),
        (b"data:a\ndata", b"a\n"),
        (b"event: x\ndata: a\nid: 1", b"a"),
        (b": comment\ndata: a", b"a"),
        (b": comment", None),
        (b"event: ping", None),
        (b"event: ping\nid: 1", None),
        (b"database: a", None),
        (b"data : a", None),
        (b" data: a", None),
        (b"Data: a", None),
    ],
)
def test_the_payload_of_an_event(event: bytes, data: bytes | None) -> None:
    assert event_data(event) == data
