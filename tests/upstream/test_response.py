"""The response reader, fed by hand: any split of the bytes gives the same answer, and everything that has a bound keeps to it."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.upstream.response import HIGH_WATER_BYTES, MAX_HEAD_BYTES, MAX_HEADERS, MAX_INTERIM, NativeResponse

pytestmark = pytest.mark.unit


class Carrier:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def release(self, response: NativeResponse) -> None:
        self.calls.append("release")


class Outcome:
    """All that a reader can learn from a response that was fed `pieces` and then, perhaps, the end of input."""

    def __init__(self, pieces: list[bytes], *, eof: bool = False, error: Exception | None = None, reused: bool = False) -> None:
        asyncio.run(self._run(pieces, eof, error, reused))

    async def _run(self, pieces: list[bytes], eof: bool, error: Exception | None, reused: bool) -> None:
        response = NativeResponse(Carrier(), asyncio.get_running_loop().create_future, reused=reused)
        self.fault: ErrorClass | None = None
        self.body = b""
        for piece in pieces:
            response.feed(piece)
        if eof or error is not None:
            response.end_of_input(error)
        try:
            async with asyncio.timeout(30):
                await response.head()
                while data := await response.read():
                    self.body += data
        except UpstreamError as raised:
            self.fault = raised.error_class
        self.status, self.headers = response.status, response.headers
        self.keep_alive, self.complete = response.keep_alive, response.complete

    def facts(self) -> tuple[object, ...]:
        return self.status, self.headers, self.body, self.fault, self.keep_alive, self.complete


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;name=value\r\n world\r\n0\r\nx-trailer: kept out\r\n\r\n"
)
CLOSED = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhello world"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + LENGTH
TRAILING = LENGTH + b"HTTP/1.1 200 OK\r\n\r\n"
EMPTY = b"HTTP/1.1 204 No Content\r\nx-a: b\r\n\r\n"
BAD_CHUNK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"


@pytest.mark.property
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([LENGTH, CHUNKED, CLOSED, INTERIM, TRAILING, EMPTY, BAD_CHUNK, LENGTH[:-3], CHUNKED[:-4]]),
    st.lists(st.integers(0, 250), max_size=12),
)
def test_any_split_of_the_bytes_reads_the_same(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges) if a < b]
    assert Outcome(pieces, eof=True).facts() == Outcome([data], eof=True).facts()


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=8), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", CHUNKED[:60], LENGTH]))
def test_garbage_never_raises_anything_else(pieces: list[bytes], start: bytes) -> None:
    Outcome([start, *pieces], eof=True)


@pytest.mark.parametrize("data", [LENGTH, CHUNKED, INTERIM])
def test_a_whole_response(data: bytes) -> None:
    seen = Outcome([data])
    assert (seen.status, seen.body, seen.fault, seen.keep_alive, seen.complete) == (200, b"hello world", None, True, True)
    assert all(name == name.lower() for name, _ in seen.headers)
    assert not any(name in (b"link", b"x-trailer") for name, _ in seen.headers)


def test_byte_by_byte() -> None:
    assert Outcome([bytes([byte]) for byte in CHUNKED]).facts() == Outcome([CHUNKED]).facts()


def test_a_body_that_ends_with_the_connection() -> None:
    seen = Outcome([CLOSED], eof=True)
    assert (seen.body, seen.fault, seen.complete, seen.keep_alive) == (b"hello world", None, True, False)


def test_values_have_no_spaces_around_them() -> None:
    assert Outcome([b"HTTP/1.1 204 No Content\r\nX-A:  b \t\r\n\r\n"]).headers == [(b"x-a", b"b")]


def test_bytes_after_the_end_spoil_the_connection_not_the_answer() -> None:
    for pieces in ([TRAILING], [LENGTH, b"H"], [LENGTH + b"\0"]):
        seen = Outcome(pieces)
        assert (seen.body, seen.fault, seen.keep_alive) == (b"hello world", None, False)


@pytest.mark.parametrize(
    ("data", "eof", "error", "reused", "fault"),
    [
        (b"", True, None, False, ErrorClass.RESET),
        (b"", False, ConnectionResetError(), False, ErrorClass.RESET),
        (b"", True, None, True, ErrorClass.STALE_RETRY),
        (b"", False, ConnectionResetError(), True, ErrorClass.STALE_RETRY),
        (b"H", True, None, True, ErrorClass.RESET),
        (b"HTTP/1.1 200 OK\r\nx: y\r\n", False, ConnectionResetError(), False, ErrorClass.RESET),
        (LENGTH[:-11], False, ConnectionResetError(), False, ErrorClass.RESET_BODY),
        (LENGTH[:-5], False, ConnectionResetError(), False, ErrorClass.RESET_STREAM),
        (CLOSED, False, ConnectionResetError(), False, ErrorClass.RESET_STREAM),
        (LENGTH[:-11], True, None, False, ErrorClass.TRUNCATED),
        (LENGTH[:-1], True, None, False, ErrorClass.TRUNCATED),
        (CHUNKED[:-2], True, None, False, ErrorClass.TRUNCATED),
        (b"SSH-2.0-OpenSSH_9.6\r\n", False, None, False, ErrorClass.MALFORMED),
        (b"HTTP/2 200\r\n\r\n", False, None, False, ErrorClass.MALFORMED),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", False, None, False, ErrorClass.MALFORMED),
        (b"HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\na", False, None, False, ErrorClass.MALFORMED),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\na", False, None, False, ErrorClass.MALFORMED),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na", False, None, False, ErrorClass.MALFORMED),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n", False, None, False, ErrorClass.MALFORMED),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", False, None, False, ErrorClass.MALFORMED),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n", False, None, False, ErrorClass.MALFORMED),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", False, None, False, ErrorClass.MALFORMED),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n", False, None, False, ErrorClass.MALFORMED),
        (b"HTTP/1.1 200 OK\r\nx: a\r\n folded\r\n\r\n", False, None, False, ErrorClass.MALFORMED),
        (b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", False, None, False, ErrorClass.MALFORMED),
        (b"HTTP/1.1 999 Odd\r\n\r\n", False, None, False, ErrorClass.MALFORMED),
        (BAD_CHUNK, False, None, False, ErrorClass.MALFORMED),
    ],
)
def test_what_a_broken_response_is_called(
    data: bytes, eof: bool, error: Exception | None, reused: bool, fault: ErrorClass
) -> None:
    assert Outcome([data] if data else [], eof=eof, error=error, reused=reused).fault is fault


def test_what_was_received_comes_before_the_fault() -> None:
    seen = Outcome([BAD_CHUNK])
    assert (seen.body, seen.fault) == (b"hello", ErrorClass.MALFORMED)


def with_head(fields: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n" + fields + b"\r\n"


def test_header_count_at_its_bound() -> None:
    assert Outcome([with_head(b"a: b\r\n" * (MAX_HEADERS - 1))]).fault is None
    assert Outcome([with_head(b"a: b\r\n" * MAX_HEADERS)]).fault is ErrorClass.MALFORMED


def test_head_size_at_its_bound() -> None:
    room = MAX_HEAD_BYTES - len(b"content-length: 0\r\n") - len(b"a: \r\n")
    assert Outcome([with_head(b"a: " + b"x" * room + b"\r\n")]).fault is None
    assert Outcome([with_head(b"a: " + b"x" * (room + 1) + b"\r\n")]).fault is ErrorClass.MALFORMED


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\na: ", CHUNKED[: CHUNKED.index(b"6;") + 2], CHUNKED[:-4]])
def test_a_head_an_extension_or_a_trailer_without_end_is_cut_off(start: bytes) -> None:
    assert Outcome([start, *([b"x" * 1024] * 66)]).fault is ErrorClass.MALFORMED


def test_interim_responses_at_their_bound() -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    assert Outcome([hint * MAX_INTERIM + LENGTH]).body == b"hello world"
    assert Outcome([hint * (MAX_INTERIM + 1) + LENGTH]).fault is ErrorClass.MALFORMED


@pytest.mark.anyio
async def test_the_socket_is_not_read_while_the_reader_lags(anyio_backend: object) -> None:
    carrier = Carrier()
    response = NativeResponse(carrier, asyncio.get_running_loop().create_future, reused=False)
    response.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n" + b"x" * HIGH_WATER_BYTES)
    assert carrier.calls == []
    response.feed(b"x")
    response.feed(b"x")
    assert carrier.calls == ["pause"]
    assert len(await response.read()) == HIGH_WATER_BYTES + 2
    assert carrier.calls == ["pause", "resume"]
    response.close()
    response.close()
    assert carrier.calls == ["pause", "resume", "release"]
