"""Callers are heard in the midst of a long turn, and only then. Over real sockets, with a clock that is set."""

from __future__ import annotations

import contextvars
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from proxy.server.doorbell import ADDED_AT_ONCE, EARLIER_S, HEARD_S, LONG_S, Caller, Doorbell
from proxy.server.run_delay import RunDelay

pytestmark = pytest.mark.unit

DUE = 50.0


class Door:
    def __init__(self) -> None:
        self.callers: list[object] = []
        self.done: list[str] = []

    def take_in(self) -> None:
        self.done.append("take in")

    def hand_over(self) -> None:
        self.done.append("hand over")


class Heard(Caller):
    """The side of a pair of sockets that the proxy has."""

    def __init__(self, stack: ExitStack, *, encrypted: bool = False) -> None:
        self.caller, self.own = socket.socketpair()
        stack.enter_context(self.caller)
        stack.enter_context(self.own)
        self.own.setblocking(False)
        self.encrypted = encrypted
        self.said = b""
        self.times = 0

    @property
    def descriptor(self) -> int | None:
        return None if self.encrypted else self.own.fileno()

    def hear(self, descriptor: int) -> bool:
        assert descriptor == self.own.fileno()
        self.times += 1
        with suppress(BlockingIOError):
            self.said += os.read(descriptor, 100)
            return True
        return False


class World:
    def __init__(self) -> None:
        self.now = DUE
        self.turn_began: float | None = None  # as on a loop that does not tell
        self.door = Door()
        self.bell = Doorbell(self.door, monotonic=lambda: self.now, turn_began=lambda: self.turn_began or self.now)
        self.stack = ExitStack()

    def caller(self, *, encrypted: bool = False) -> Heard:
        made = Heard(self.stack, encrypted=encrypted)
        self.door.callers.append(made)
        return made


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    with made.stack:
        yield made
    made.bell.take_down()


def test_what_a_caller_says_is_heard_once_the_turn_is_a_long_one(world: World) -> None:
    heard = world.caller()
    world.bell.looked(DUE, busy=True, late=False)
    heard.caller.sendall(b"hello")
    world.now = DUE - 0.001
    world.bell.listen()
    assert heard.said == b""
    world.now = DUE
    world.bell.listen()
    assert heard.said == b"hello"


def test_after_a_long_turn_the_next_is_taken_for_one_earlier_and_those_who_knock_are_let_in(world: World) -> None:
    heard = world.caller()
    world.bell.looked(DUE, busy=True, late=False)
    assert world.door.done == ["hand over"]
    world.bell.looked(DUE, busy=True, late=True)
    assert world.door.done == ["hand over", "take in", "hand over"]
    heard.caller.sendall(b"hello")
    world.now = DUE - EARLIER_S
    world.bell.listen()
    assert (heard.said, world.door.done[3:]) == (b"hello", ["take in"])


def test_of_many_callers_some_are_added_with_each_look_and_who_left_meanwhile_is_not(world: World) -> None:
    callers = [world.caller() for _ in range(ADDED_AT_ONCE + 2)]
    for look in (1, 2):
        world.bell.looked(DUE, busy=True, late=False)
        assert len(world.bell._descriptors) == min(ADDED_AT_ONCE * look, len(callers) - 1)
        for caller in callers:
            if caller not in world.bell._descriptors and look == 1:
                world.bell.forget(caller)
                break
    world.now = DUE
    for caller in callers:
        caller.caller.sendall(b"hello")
    for _ in callers:
        world.bell.listen()
    assert sum(caller.said == b"hello" for caller in callers) == len(callers) - 1


def test_while_there_is_little_to_do_nobody_is_asked(world: World) -> None:
    heard = world.caller()
    heard.caller.sendall(b"hello")
    for busy in (False, True, False):
        world.bell.looked(DUE + 1, busy=busy, late=False)
        assert world.bell.up is busy
    world.bell.listen()
    assert heard.times == 0
    world.bell.looked(DUE, busy=True, late=False)
    world.bell.listen()
    assert heard.said == b"hello", "put up again, it knows everybody again"


def test_whoever_comes_later_is_heard_and_whoever_went_is_not(world: World) -> None:
    first = world.caller()
    world.bell.looked(DUE, busy=True, late=False)
    later = Heard(world.stack)
    world.bell.add(later)
    world.bell.add(later)
    world.bell.forget(first)
    world.bell.forget(first)
    for one in (first, later):
        one.caller.sendall(b"hello")
    world.bell.listen()
    assert (first.said, later.said) == (b"", b"hello")


def test_a_caller_whose_socket_is_closed_before_he_is_forgotten(world: World) -> None:
    heard = world.caller()
    world.bell.looked(DUE, busy=True, late=False)
    heard.own.close()
    world.bell.listen()
    world.bell.forget(heard)
    world.bell.add(heard)
    assert heard.times == 0


def test_a_turn_that_takes_long_puts_it_up_however_little_there_was_to_do_before(world: World) -> None:
    heard = world.caller()
    world.bell.looked(DUE + 100, busy=False, late=False)
    heard.caller.sendall(b"hello")
    world.turn_began = world.now - LONG_S * 0.9
    world.bell.listen()
    assert (heard.said, world.bell.up) == (b"", False)
    world.turn_began = world.now - LONG_S * 1.1
    world.bell.listen()
    assert (heard.said, world.bell.up) == (b"hello", True)
    world.bell.looked(DUE + 100, busy=False, late=False)
    assert not world.bell.up


def test_callers_are_heard_for_no_longer_than_leaves_the_chunks_their_turn_and_the_rest_the_next_time(world: World) -> None:
    class Slow(Heard):
        def hear(self, descriptor: int) -> bool:
            heard = super().hear(descriptor)
            world.now += HEARD_S / 4
            return heard

    callers = [Slow(world.stack) for _ in range(9)]
    world.door.callers += callers
    world.bell.looked(DUE, busy=True, late=False)
    for one in callers:
        one.caller.sendall(b"x")
    found = []
    for since_s in (1.0, HEARD_S / 2, HEARD_S):
        world.now += since_s
        world.bell.listen()
        found.append(sum(one.times for one in callers))
    assert found == [4, 6, 9], "as long as it has been since, at most"
    assert [one.said for one in callers] == [b"x"] * len(callers)


def test_who_says_nothing_is_encrypted_or_has_hung_up_is_left_to_the_loop(world: World) -> None:
    silent, encrypted, gone = world.caller(), world.caller(encrypted=True), world.caller()
    world.door.callers.append(object())  # a protocol that is not ours
    world.bell.looked(DUE, busy=True, late=False)
    encrypted.caller.sendall(b"\x17\x03\x03")
    gone.caller.sendall(b"last words")
    gone.caller.close()
    world.bell.listen()
    assert (silent.times, encrypted.times, gone.times) == (0, 0, 0)


def test_whoever_is_heard_is_heard_in_nobody_elses_context_and_alone(world: World) -> None:
    found: list[str | None] = []

    class Nosy(Heard):
        def hear(self, descriptor: int) -> bool:
            found.append(variable.get(None))
            world.bell.listen()  # as when its request is answered by reading one more chunk
            return super().hear(descriptor)

    variable = contextvars.ContextVar[str]("variable")
    nosy = Nosy(world.stack)
    world.door.callers.append(nosy)
    world.bell.looked(DUE, busy=True, late=False)
    nosy.caller.sendall(b"hello")
    variable.set("of the stream whose chunk was read last")
    world.bell.listen()
    assert (found, nosy.said) == ([None], b"hello")


# -- how long others had the processor


def test_how_long_others_had_the_processor_is_told_from_one_call_to_the_next(tmp_path: Path) -> None:
    file = tmp_path / "schedstat"
    file.write_text("8123456789 2000000000 77\n")
    delay = RunDelay(str(file))
    assert delay.since_last_s() == 0.0
    file.write_text("9123456789 2250000000 78\n")
    assert delay.since_last_s() == pytest.approx(0.25)
    assert delay.since_last_s() == 0.0
    delay.close()
    assert delay.since_last_s() == 0.0, "opened anew"
    delay.close()


@pytest.mark.parametrize("content", [None, "", "12\n", "a b c\n"], ids=["not there", "empty", "too short", "no numbers"])
def test_where_the_kernel_does_not_tell_it_is_nothing(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "schedstat").write_text(content)
    delay = RunDelay(str(tmp_path / "schedstat"))
    assert [delay.since_last_s() for _ in range(2)] == [0.0, 0.0]


def test_this_kernel_tells_it_or_it_is_nothing() -> None:
    found: list[float] = []
    delay = RunDelay()

    def ask() -> None:
        found.extend(delay.since_last_s() for _ in range(3))
        delay.close()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(30)
    assert len(found) == 3
    assert min(found) >= 0.0
