"""Newline-delimited JSON: any cut gives the same lines, and only LF ends one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire.ndjson import MAX_LINE_BYTES, LineSplitter, LineTooLarge

pytestmark = pytest.mark.unit


def split(*pieces: bytes, limit: int = MAX_LINE_BYTES) -> tuple[list[bytes], bytes]:
    splitter = LineSplitter(limit)
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    return lines, splitter.close()


def until_too_large(*pieces: bytes, limit: int) -> tuple[list[bytes], bytes | None]:
    """The lines, and what was left; None where a line was too large."""
    splitter = LineSplitter(limit)
    lines: list[bytes] = []
    try:
        for piece in pieces:
            lines += splitter.feed(piece)
    except LineTooLarge as error:
        return lines + error.lines, None
    return lines, splitter.close()


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({min(place, len(data)) for place in cuts})
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


CASES: dict[str, tuple[bytes, list[bytes], bytes]] = {
    "two lines": (b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}'], b""),
    "the last line may have no end": (b'{"a":1}\n{"b":2}', [b'{"a":1}'], b'{"b":2}'),
    "crlf": (b'{"a":1}\r\n{"b":2}\r\n', [b'{"a":1}', b'{"b":2}'], b""),
    "a lone cr ends nothing": (b'{"a":1,\r"b":2}\n', [b'{"a":1,\r"b":2}'], b""),
    "empty lines": (b'\n\n{"a":1}\n\n\r\n{"b":2}\n \n', [b'{"a":1}', b'{"b":2}'], b""),
    "blanks around a line": (b' {"a":1}\t\r\n', [b'{"a":1}'], b""),
    "U+2028 is data": ('{"a":"x\u2028y"}\n'.encode(), ['{"a":"x\u2028y"}'.encode()], b""),
    "U+0085 is data": ('{"a":"x\u0085y"}\n'.encode(), ['{"a":"x\u0085y"}'.encode()], b""),
    "form feed and vertical tab are data": (b"a\x0c\x0bb\x1c\n", [b"a\x0c\x0bb\x1c"], b""),
    "unfinished": (b'{"a":', [], b'{"a":'),
    "only an end": (b"\n", [], b""),
    "nothing": (b"", [], b""),
}
every_case = pytest.mark.parametrize(("data", "lines", "rest"), CASES.values(), ids=CASES.keys())


@every_case
def test_lines_of_a_stream(data: bytes, lines: list[bytes], rest: bytes) -> None:
    assert split(data) == (lines, rest)


@every_case
def test_byte_by_byte_is_the_same(data: bytes, lines: list[bytes], rest: bytes) -> None:
    assert split(*[data[i : i + 1] for i in range(len(data))]) == (lines, rest)


PIECES = st.sampled_from(
    [b'{"a":1}', b"{", b"}", b" ", b"\n", b"\r", b"\r\n", b"\n\n", b"\xe2\x80\xa8", b"\xc2\x85", b"abcdefgh"]
)


@pytest.mark.property
@given(st.lists(PIECES, max_size=14).map(b"".join), st.lists(st.integers(0, 80), max_size=6))
@settings(max_examples=150, deadline=None)
def test_any_cut_gives_the_same_lines(data: bytes, cuts: list[int]) -> None:
    assert split(*cut(data, cuts)) == split(data)


@pytest.mark.property
@given(st.lists(PIECES, max_size=14).map(b"".join), st.lists(st.integers(0, 80), max_size=6), st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_any_cut_finds_the_same_line_too_large(data: bytes, cuts: list[int], limit: int) -> None:
    assert until_too_large(*cut(data, cuts), limit=limit) == until_too_large(data, limit=limit)


@pytest.mark.property
@given(st.lists(PIECES, max_size=14).map(b"".join))
@settings(max_examples=120, deadline=None)
def test_the_lines_are_those_of_a_plain_reading(data: bytes) -> None:
    expected = [line.strip(b" \t\r") for line in data.split(b"\n")]
    lines, rest = split(data)
    assert [*lines, *([rest] if rest else [])] == [line for line in expected if line]


@pytest.mark.parametrize("size", [1, 7, 64, 65536, MAX_LINE_BYTES * 2])
def test_a_line_may_be_as_large_as_the_bound_and_no_larger(size: int) -> None:
    limit = 4096 if size < 64 else MAX_LINE_BYTES

    def feed(line: bytes) -> list[bytes]:
        splitter = LineSplitter(limit)
        data = line + b"\n"
        return [found for i in range(0, len(data), size) for found in splitter.feed(data[i : i + size])]

    fits = b"x" * limit
    assert feed(fits) == [fits]
    with pytest.raises(LineTooLarge):
        feed(fits + b"x")


def test_lines_before_one_that_is_too_large_are_not_lost() -> None:
    with pytest.raises(LineTooLarge) as caught:
        LineSplitter(4).feed(b"a\nb\nabcde\nc\n")
    assert caught.value.lines == [b"a", b"b"]
    with pytest.raises(LineTooLarge) as caught:
        LineSplitter(4).feed(b"a\nb\nabcde")
    assert caught.value.lines == [b"a", b"b"]


def test_many_small_lines_in_one_large_piece_are_fine() -> None:
    lines, rest = split(b"{}\n" * 600_000)
    assert (len(lines), rest) == (600_000, b"")


def test_small_pieces_cost_time_in_proportion_and_no_memory_beyond_one_line() -> None:
    splitter = LineSplitter()
    for _ in range(MAX_LINE_BYTES // 16):
        assert splitter.feed(b"0123456789abcdef") == []
    with pytest.raises(LineTooLarge):
        splitter.feed(b"x")
