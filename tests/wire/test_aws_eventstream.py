"""AWS's event stream: any cut gives the same messages, and nothing is believed that a checksum does not bear out."""

import struct
from collections.abc import Iterator, Mapping
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire.aws_eventstream import (
    MAX_HEADERS_BYTES,
    MAX_MESSAGE_BYTES,
    BadHeaders,
    BadLengths,
    ChecksumMismatch,
    EventStreamError,
    EventStreamSplitter,
    Message,
    MessageTooLarge,
    read_headers,
)

pytestmark = pytest.mark.unit


def string(name: str, value: str) -> bytes:
    return bytes([len(name.encode())]) + name.encode() + b"\x07" + struct.pack(">H", len(value.encode())) + value.encode()


def frame(headers: Mapping[str, str] | bytes, payload: bytes = b"") -> bytes:
    """One message, as AWS would send it. Headers that are no strings come as the bytes of the whole block."""
    block = headers if isinstance(headers, bytes) else b"".join(string(name, value) for name, value in headers.items())
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    body = prelude + struct.pack(">I", crc32(prelude)) + block + payload
    return body + struct.pack(">I", crc32(body))


def prelude(total: int, headers: int) -> bytes:
    lengths = struct.pack(">II", total, headers)
    return lengths + struct.pack(">I", crc32(lengths))


def split(*pieces: bytes, limit: int = MAX_MESSAGE_BYTES) -> tuple[list[Message], type[EventStreamError] | None, bytes]:
    """(the messages, the fault that ended them, what stood unfinished)."""
    splitter = EventStreamSplitter(limit)
    found: list[Message] = []
    for piece in pieces:
        try:
            found += splitter.feed(piece)
        except EventStreamError as error:
            return found + error.before, type(error), b""
    return found, None, splitter.close()


def by_bytes(data: bytes) -> tuple[list[Message], type[EventStreamError] | None, bytes]:
    return split(*[data[i : i + 1] for i in range(len(data))])


EVENT = {":event-type": "contentBlockDelta", ":content-type": "application/json", ":message-type": "event"}
ONE = frame(EVENT, b'{"a":1}')
TWO = frame({":event-type": "messageStop"}, b"{}")
FIRST = Message(EVENT, b'{"a":1}')
SECOND = Message({":event-type": "messageStop"}, b"{}")
BARE = Message({}, b"")

CASES: dict[str, tuple[bytes, list[Message], type[EventStreamError] | None, bytes]] = {
    "nothing": (b"", [], None, b""),
    "one": (ONE, [FIRST], None, b""),
    "two": (ONE + TWO, [FIRST, SECOND], None, b""),
    "neither headers nor payload": (frame({}), [BARE], None, b""),
    "cut inside the first prelude": (ONE[:11], [], None, ONE[:11]),
    "cut after the first prelude": (ONE[:12], [], None, ONE[:12]),
    "cut inside the second prelude": (ONE + TWO[:7], [FIRST], None, TWO[:7]),
    "cut before the last byte": (ONE + TWO[:-1], [FIRST], None, TWO[:-1]),
    "a wrong prelude checksum": (ONE + TWO[:8] + b"\x00\x00\x00\x00" + TWO[12:], [FIRST], ChecksumMismatch, b""),
    "a wrong message checksum": (ONE + TWO[:-1] + bytes([TWO[-1] ^ 1]), [FIRST], ChecksumMismatch, b""),
    "a flipped bit in a payload": (ONE[:-6] + bytes([ONE[-6] ^ 4]) + ONE[-5:], [], ChecksumMismatch, b""),
    "shorter than the least message": (prelude(15, 0), [], BadLengths, b""),
    "no length at all": (prelude(0, 0), [], BadLengths, b""),
    "headers longer than the message": (prelude(40, 25), [], BadLengths, b""),
    "headers that fill the message": (frame(string("a", "b")), [Message({"a": "b"}, b"")], None, b""),
    "a header is there twice": (ONE + frame(string("a", "b") + string("a", "c")), [FIRST], BadHeaders, b""),
    "not an event stream": (b'{"message":"no"}', [], ChecksumMismatch, b""),
    "server-sent events": (b"data: {}\n\ndata: {}\n\n", [], ChecksumMismatch, b""),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cut", ["whole", "bytes"])
def test_messages(case: str, cut: str) -> None:
    data, *expected = CASES[case]
    found = split(data) if cut == "whole" else by_bytes(data)
    assert found == tuple(expected)


HEADERS: dict[str, tuple[bytes, Any]] = {
    "true": (b"\x00", True),
    "false": (b"\x01", False),
    "byte": (b"\x02\xff", -1),
    "short": (b"\x03\xff\xfe", -2),
    "integer": (b"\x04\x00\x01\x00\x00", 65536),
    "long": (b"\x05\x80\x00\x00\x00\x00\x00\x00\x00", -(2**63)),
    "bytes": (b"\x06\x00\x03\x00\x01\xff", b"\x00\x01\xff"),
    "no bytes": (b"\x06\x00\x00", b""),
    "string": (b"\x07\x00\x05na\xc3\xafv", "naïv"),
    "empty string": (b"\x07\x00\x00", ""),
    "timestamp": (b"\x08" + struct.pack(">q", 1_750_000_000_123), 1_750_000_000_123),
    "uuid": (b"\x09" + bytes(range(16)), bytes(range(16))),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_every_type_of_header_is_read(kind: str) -> None:
    raw, value = HEADERS[kind]
    found = read_headers(b"\x01h" + raw + string("after", "it"))
    assert found == {"h": value, "after": "it"}
    assert type(found["h"]) is type(value)


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_is_cut_short_is_no_header(kind: str) -> None:
    block = b"\x01h" + HEADERS[kind][0]
    for length in range(1, len(block)):
        with pytest.raises(BadHeaders):
            read_headers(block[:length])


@pytest.mark.parametrize(
    "block",
    [
        b"\x01h\x0a",  # there is no type 10
        b"\x00\x07\x00\x01x",  # no name
        b"\x01\xff\x00",  # a name that is no UTF-8
        b"\x01h\x07\x00\x01\xff",  # nor is the value
        b"\x01h\x07\xff\xffx",  # longer than the block
        b"\xffh\x00",
    ],
)
def test_headers_that_do_not_add_up_are_refused(block: bytes) -> None:
    with pytest.raises(BadHeaders):
        read_headers(block)
    assert split(ONE + frame(block)) == ([FIRST], BadHeaders, b"")


def test_headers_that_are_shared_cannot_be_changed() -> None:
    (first, second), _, _ = split(ONE + ONE)
    assert first.headers is second.headers
    with pytest.raises(TypeError):
        first.headers["a"] = "b"  # type: ignore[index]


def test_long_headers_are_read_and_not_kept() -> None:
    (first, second), _, _ = split(frame({"h": "x" * 4096}) * 2)
    assert first == second
    assert first.headers is not second.headers


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_message_may_be_as_large_as_the_bound_and_no_larger(size: int) -> None:
    limit = 4096

    def feed(data: bytes) -> tuple[list[Message], type[EventStreamError] | None, bytes]:
        return split(*[data[i : i + size] for i in range(0, len(data), size)], limit=limit)

    fits = b"x" * (limit - 16)
    assert feed(frame({}, fits)) == ([Message({}, fits)], None, b"")
    assert feed(frame({}, fits + b"x")) == ([], MessageTooLarge, b"")


def test_the_bound_holds_before_the_bytes_are_there() -> None:
    assert split(prelude(MAX_MESSAGE_BYTES, 0)) == ([], None, prelude(MAX_MESSAGE_BYTES, 0))
    assert split(prelude(MAX_MESSAGE_BYTES + 1, 0)) == ([], MessageTooLarge, b"")
    assert split(prelude(0xFFFFFFFF, 0)) == ([], MessageTooLarge, b"")


def test_headers_are_bounded_too() -> None:
    room = MAX_HEADERS_BYTES + 64
    assert split(prelude(room, MAX_HEADERS_BYTES)) == ([], None, prelude(room, MAX_HEADERS_BYTES))
    assert split(prelude(room, MAX_HEADERS_BYTES + 1)) == ([], MessageTooLarge, b"")


def test_small_pieces_cost_time_in_proportion() -> None:
    data = frame({}, b"x" * 300_000)
    assert by_bytes(data) == split(data)


def test_many_small_messages_in_one_large_piece_are_fine() -> None:
    found, fault, rest = split(ONE * 20_000)
    assert (len(found), fault, rest) == (20_000, None, b"")


def test_an_empty_piece_changes_nothing() -> None:
    assert split(b"", ONE[:5], b"", b"", ONE[5:], b"") == ([FIRST], None, b"")


def test_a_message_whose_checksums_are_not_of_our_making() -> None:
    """One of those that the AWS SDKs test themselves with."""
    data = b"\x00\x00\x00=\x00\x00\x00 \x07\xfd\x83\x96\x0ccontent-type\x07\x00\x10application/json{'foo':'bar'}\x8d\x9c\x08\xb1"
    assert split(data) == ([Message({"content-type": "application/json"}, b"{'foo':'bar'}")], None, b"")


TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=12)
NAMES = st.text(alphabet="abcdefgh:-", min_size=1, max_size=8)
FRAMES = st.lists(st.builds(frame, st.dictionaries(NAMES, TEXTS, max_size=3), st.binary(max_size=24)), max_size=5).map(b"".join)
CUTS = st.lists(st.integers(0, 400), max_size=8)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({min(cut, len(data)) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


@pytest.mark.property
@given(FRAMES, CUTS, st.integers(0, 400))
@settings(max_examples=120, deadline=None)
def test_any_cut_gives_the_same_messages(data: bytes, cuts: list[int], end: int) -> None:
    data = data[: max(end, 16)]  # the last one may be unfinished
    assert split(*pieces_of(data, cuts)) == split(data) == by_bytes(data)


@pytest.mark.property
@given(FRAMES, CUTS, st.integers(0, 399), st.integers(0, 7))
@settings(max_examples=120, deadline=None)
def test_a_flipped_bit_never_goes_unnoticed_and_never_costs_what_came_before(
    data: bytes, cuts: list[int], place: int, bit: int
) -> None:
    if place >= len(data):
        return
    whole, _, _ = split(data)
    broken = data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]
    found, fault, rest = split(*pieces_of(broken, cuts))
    assert found == whole[: len(found)]
    assert len(found) < len(whole)
    assert fault is not None or rest
    assert (found, fault, rest) == split(broken)


@pytest.mark.property
@given(st.binary(max_size=200), CUTS)
@settings(max_examples=120, deadline=None)
def test_noise_is_refused_by_name(data: bytes, cuts: list[int]) -> None:
    assert split(*pieces_of(data, cuts)) == split(data)


def judged(data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
    eventstream = pytest.importorskip("botocore.eventstream", reason="botocore is not installed: it is the judge here")
    buffer = eventstream.EventStreamBuffer()
    buffer.add_data(data)
    return ((message.headers, message.payload) for message in buffer)


@pytest.mark.property
@given(FRAMES)
@settings(max_examples=200, deadline=None)
def test_botocore_reads_the_same(data: bytes) -> None:
    found, _, _ = split(data)
    assert [(dict(message.headers), message.payload) for message in found] == list(judged(data))


def test_botocore_reads_every_type_of_header_the_same() -> None:
    block = b"".join(bytes([len(name)]) + name.encode() + raw for name, (raw, _) in HEADERS.items())
    data = frame(block, b"payload")
    (found,), _, _ = split(data)
    assert [(dict(found.headers), found.payload)] == list(judged(data))
