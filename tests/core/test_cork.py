"""Whatever is written, closed and ended in whatever order: each connection's peer gets its bytes, whole, in order, and soon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.cork import LARGE_BYTES, PIECES, Cork


class Loop:
    """`turn()`: the present one ends and another begins, with `callbacks` first and then whatever the test does."""

    def __init__(self) -> None:
        self.now = 100.0
        self.callbacks: list[Callable[[], object]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.callbacks.append(callback)

    def turn(self, took: float = 1.0) -> None:
        self.now += took
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()


class Bare:
    """The loop's own transport: what it was asked, in order, as one list for all of a test's connections."""

    def __init__(self, name: str = "a", log: list[tuple[str, object]] | None = None) -> None:
        self.name = name
        self.log = [] if log is None else log
        self.closing = False

    def write(self, data: bytes) -> None:
        assert not self.closing, "uvloop raises here"
        self.log.append((self.name, data))

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True
        self.log.append((self.name, "close"))

    def abort(self) -> None:
        self.closing = True
        self.log.append((self.name, "abort"))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.log.append((self.name, "eof"))

    def get_write_buffer_size(self) -> int:
        return 100

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def get_extra_info(self, name: str, default: Any = None) -> Any: ...


class Desk:
    """Connections of the given names, which share a cork, a loop and a `log`; one write of somebody else's was this turn's first."""

    def __init__(self, names: str = "ab") -> None:
        self.loop, self.cork = Loop(), Cork()
        self.log: list[tuple[str, object]] = []
        self.bare = [Bare(name, self.log) for name in names]
        self.all = [self.cork.wrap(bare, self.loop) for bare in self.bare]
        self.first()

    def first(self) -> None:
        self.cork.wrap(Bare(), self.loop).write(b"somebody else's")


@pytest.mark.unit
def test_what_was_written_goes_out_when_the_turn_ends_each_connections_pieces_as_one() -> None:
    desk = Desk()
    a, b = desk.all
    a.write(b"1")
    b.write(b"2")
    a.write(b"3")
    assert desk.log == []
    assert (a.get_write_buffer_size(), b.get_write_buffer_size()) == (102, 101)
    desk.loop.turn()
    assert desk.log == [("a", b"13"), ("b", b"2")]
    assert a.get_write_buffer_size() == 100
    desk.first()
    a.write(b"4")
    assert desk.log[2:] == []
    desk.loop.turn()
    assert desk.log[2:] == [("a", b"4")], "and so in each turn"


@pytest.mark.unit
def test_the_first_of_a_turn_waits_for_nothing() -> None:
    desk = Desk()
    a, b = desk.all
    for _ in range(3):
        desk.loop.turn()
        b.write(b"x")
    assert desk.log == [("b", b"x")] * 3
    assert desk.loop.callbacks == []
    a.write(b"y")
    assert desk.log[3:] == []


@pytest.mark.unit
def test_the_first_of_a_turn_comes_behind_what_the_one_before_left_for_its_connection() -> None:
    desk = Desk()
    (a, b), callbacks = desk.all, desk.loop.callbacks
    a.write(b"1")
    b.write(b"2")
    desk.loop.now += 1  # the loop looked at its clock, and has not yet come to its callbacks
    a.write(b"3")
    assert desk.log == [("a", b"1"), ("a", b"3")]
    assert len(callbacks) == 1
    desk.loop.turn()
    assert desk.log[2:] == [("b", b"2")]


@pytest.mark.unit
def test_nobody_waits_for_more_than_so_many_pieces() -> None:
    names = "abcdefghijklmnopqrstuvwxyz"[:PIECES]
    desk = Desk(names)
    for transport in desk.all[:-1]:
        transport.write(b"x")
    assert desk.log == []
    desk.all[-1].write(b"x")
    assert [name for name, _ in desk.log] == list(names)
    desk.all[0].write(b"y")  # the same turn; nothing but its end lets this go
    assert len(desk.log) == PIECES
    desk.loop.turn()
    assert desk.log[-1] == ("a", b"y")


@pytest.mark.unit
@pytest.mark.parametrize(("ending", "seen"), [("close", "close"), ("abort", "abort"), ("write_eof", "eof")])
def test_an_end_comes_after_what_was_written_before_it(ending: str, seen: str) -> None:
    desk = Desk()
    a, b = desk.all
    b.write(b"another's")
    a.write(b"last words")
    getattr(a, ending)()
    assert desk.log == [("a", b"last words"), ("a", seen)]
    desk.loop.turn()
    assert desk.log[2:] == [("b", b"another's")]


@pytest.mark.unit
def test_a_large_piece_goes_at_once_behind_what_was_held_of_the_same() -> None:
    desk, large = Desk(), bytes(LARGE_BYTES)
    a = desk.all[0]
    a.write(b"head")
    a.write(large)
    assert desk.log == [("a", b"head"), ("a", large)], "whether the peer takes it is known at once"


@pytest.mark.unit
def test_to_a_connection_that_was_lost_in_the_meantime_nothing_is_written() -> None:
    desk = Desk()
    a, b = desk.all
    a.write(b"nobody reads this")
    b.write(b"somebody reads this")
    desk.bare[0].closing = True
    desk.loop.turn()
    assert desk.log == [("b", b"somebody reads this")]


@pytest.mark.unit
def test_a_loop_that_ended_with_something_held_does_not_stop_the_next_ones_writes() -> None:
    desk = Desk()
    desk.all[0].write(b"never")
    desk.loop = Loop()
    bare = Bare()
    following = desk.cork.wrap(bare, desk.loop)
    desk.first()
    following.write(b"x")
    desk.loop.turn()
    assert bare.log == [("a", b"x")]
    assert desk.log == []


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.one_of(st.binary(max_size=4), st.just(bytes(LARGE_BYTES)), st.sampled_from(["turn", "clock", "close"])),
    ),
    max_size=40,
)


@pytest.mark.property
@given(STEPS)
def test_every_peer_gets_all_its_bytes_in_order_whatever_the_others_do(steps: list[tuple[int, bytes | str]]) -> None:
    desk = Desk("abc")
    written = dict.fromkeys("abc", b"")
    for which, step in steps:
        if step == "turn":
            desk.loop.turn()
            assert _told(desk) == written
        elif step == "clock":
            desk.loop.now += 1
        elif step == "close":
            desk.all[which].close()
        elif isinstance(step, bytes) and not desk.bare[which].closing:
            desk.all[which].write(step)
            written[desk.bare[which].name] += step
    desk.loop.turn()
    assert _told(desk) == written


def _told(desk: Desk) -> dict[str, bytes]:
    return {
        bare.name: b"".join([data for name, data in desk.log if name == bare.name and isinstance(data, bytes)])
        for bare in desk.bare
    }
