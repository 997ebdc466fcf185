"""Who knocks is taken in by the proxy itself, and not where there is no descriptor for him."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from proxy.engine.services import Meter
from proxy.server.addresses import Addresses
from proxy.server.door import ASKED, ASKED_EVERY_S, CROWD_S, TAKEN_IN, TAKEN_IN_PER_S, Door

pytestmark = pytest.mark.unit

PROBE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


class Log:
    def __init__(self) -> None:
        self.events: list[str] = []

    def request(self, fields: dict[str, Any]) -> None: ...
    def error(self, event: str, **fields: Any) -> None: ...
    def warning(self, event: str, **fields: Any) -> None:
        self.events.append(event)


class Listener(socket.socket):
    fails = False
    asked = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.asked += 1
        if self.fails:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


class Greeter(asyncio.Protocol):
    made: ClassVar[list[asyncio.Transport]] = []

    def __init__(self, **_: object) -> None: ...
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.append(cast(asyncio.Transport, transport))
        self.made[-1].write(b"hello")


class Clock:
    """Each look at it takes `step_s`."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now, self.step_s = 100.0, step_s

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


def attached(log: Log, listener: Listener, clock: Clock | None = None, *, busy: bool = False) -> Door:
    listener.bind(("127.0.0.1", 0))
    listener.listen(2 * ASKED)
    door = Door(
        cast(Meter, SimpleNamespace(count=lambda event: log.events.append(f"counted {event}"))),
        log,
        new_id=lambda: "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        addresses=Addresses(),
        monotonic=clock or Clock(),
    )
    server = SimpleNamespace(
        servers=[],
        server_state=SimpleNamespace(connections=set(), default_headers=[]),
        config=SimpleNamespace(http_protocol_class=Greeter),
        lifespan=SimpleNamespace(state={}),
    )
    door.attach(cast(Any, server), [listener], in_a_long_turn=lambda: False, busy=lambda: busy)
    return door


async def leave(door: Door) -> None:
    door.leave()
    await soon(lambda: not door.becoming)
    while Greeter.made:
        Greeter.made.pop().abort()
    await asyncio.sleep(0)


async def soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - nobody could set an event
            await asyncio.sleep(0)


def test_without_a_descriptor_for_one_more_it_shuts_and_does_not_spin_until_there_is_one() -> None:
    async def scenario() -> None:
        log = Log()
        with Listener() as listener, socket.socket() as caller:
            listener.fails = True
            door = attached(log, listener)
            caller.connect(listener.getsockname())
            await soon(lambda: door.shut)
            for _ in range(20):
                await asyncio.sleep(0)
            assert (listener.asked, log.events) == (1, ["counted accept_paused", "accept_paused"])
            listener.fails = False
            door.tick()
            caller.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(caller, 100) == b"hello"
            assert log.events[2:] == ["accept_resumed"]
            await leave(door)

    asyncio.run(scenario())


def test_in_a_long_turn_a_probe_is_heard_from_behind_a_crowd() -> None:
    """The crowd becomes the loop's a few a turn; whoever asks whether the proxy lives need not wait for that."""

    async def scenario() -> None:
        with Listener() as listener, contextlib.ExitStack() as callers:
            door = attached(Log(), listener)
            address = listener.getsockname()
            crowd = [callers.enter_context(socket.create_connection(address)) for _ in range(2 * TAKEN_IN)]
            probe = callers.enter_context(socket.create_connection(address, timeout=10))
            probe.sendall(PROBE)
            crowd += [callers.enter_context(socket.create_connection(address)) for _ in range(ASKED)]
            door.take_in()
            assert probe.recv(100).startswith(b"HTTP/1.1 200")
            door.hand_over()
            for one in crowd:
                one.setblocking(False)
                assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(one, 5), 10) == b"hello"
            await leave(door)

    asyncio.run(scenario())


def test_in_a_long_turn_who_has_spoken_is_not_asked_again_who_is_silent_is() -> None:
    async def scenario() -> None:
        with Listener() as listener, contextlib.ExitStack() as callers:
            clock = Clock()
            door = attached(Log(), listener, clock)
            address = listener.getsockname()
            slow, late, brief = (callers.enter_context(socket.create_connection(address, timeout=10)) for _ in range(3))
            slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")
            door.take_in()
            assert (len(door._waiting), len(door._silent)) == (3, 2)
            slow.sendall(PROBE)  # the loop's affair, whatever follows
            late.sendall(PROBE)
            brief.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            clock.now += ASKED_EVERY_S
            door.take_in()
            assert late.recv(100).startswith(b"HTTP/1.1 200")
            assert brief.recv(1000).startswith(b"HTTP/1.1 200")
            assert (len(door._waiting), len(door._silent)) == (2, 0)
            slow.setblocking(False)
            with pytest.raises(BlockingIOError):
                slow.recv(1)
            await leave(door)

    asyncio.run(scenario())


def test_of_a_crowd_that_knocks_in_a_short_turn_a_few_become_the_loops_and_a_probe_behind_it_is_heard() -> None:
    async def scenario() -> None:
        with Listener() as listener, contextlib.ExitStack() as callers:
            clock = Clock()
            door = attached(Log(), listener, clock)
            address = listener.getsockname()
            for _ in range(3 * TAKEN_IN):
                callers.enter_context(socket.create_connection(address))
            probe, late = (callers.enter_context(socket.create_connection(address, timeout=10)) for _ in range(2))
            probe.sendall(PROBE)
            door._knock(listener)
            assert probe.recv(100).startswith(b"HTTP/1.1 200")
            assert len(door._waiting) == 2 * TAKEN_IN + 2
            late.sendall(PROBE)
            clock.now += ASKED_EVERY_S
            door.hand_over()  # as in the turns that follow, whether or not anybody knocks
            assert late.recv(100).startswith(b"HTTP/1.1 200")
            await leave(door)

    asyncio.run(scenario())


def test_where_there_is_much_to_do_who_knocks_is_asked_first_and_becomes_the_loops_in_the_next_turn() -> None:
    """As a connection of the loop a probe would wait for the end of a turn of which nobody knows yet how long it is."""

    async def scenario() -> None:
        with Listener() as listener, contextlib.ExitStack() as callers:
            clock = Clock()
            door = attached(Log(), listener, clock, busy=True)
            address = listener.getsockname()
            caller, probe, late = (callers.enter_context(socket.create_connection(address, timeout=10)) for _ in range(3))
            probe.sendall(PROBE)
            door._knock(listener)
            assert probe.recv(100).startswith(b"HTTP/1.1 200")
            late.sendall(PROBE)
            clock.now += ASKED_EVERY_S
            door.take_in()  # it has become a long one
            assert late.recv(100).startswith(b"HTTP/1.1 200")
            caller.setblocking(False)
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(caller, 5), 10) == b"hello"
            await leave(door)

    asyncio.run(scenario())


def test_a_crowd_is_let_in_for_as_long_as_it_was_left_alone_and_not_for_long() -> None:
    async def scenario() -> None:
        with Listener() as listener, contextlib.ExitStack() as callers:
            clock = Clock(CROWD_S * 0.26)
            door = attached(Log(), listener, clock)
            for _ in range(20 * TAKEN_IN):
                callers.enter_context(socket.create_connection(listener.getsockname()))
            door._let_crowd_in(listener)
            assert listener.asked == 4 * TAKEN_IN
            clock.now = door._let_in_until + CROWD_S / 4  # with the look that follows half of that
            door._let_crowd_in(listener)
            assert listener.asked == (4 + 2) * TAKEN_IN
            await leave(door)

    asyncio.run(scenario())


def test_of_a_crowd_more_become_the_loops_in_a_turn_that_took_longer() -> None:
    async def scenario() -> None:
        with Listener() as listener, contextlib.ExitStack() as callers:
            clock = Clock()
            door = attached(Log(), listener, clock)
            for _ in range(100):
                callers.enter_context(socket.create_connection(listener.getsockname()))
            left = []
            for turn_s in (3600.0, 0.0, 40.5 / TAKEN_IN_PER_S, 9.0):
                clock.now += turn_s
                door.take_in()
                door.hand_over()
                left.append(len(door._waiting))
            assert left == [100 - TAKEN_IN, 100 - 2 * TAKEN_IN, 60 - 2 * TAKEN_IN, 0]
            await leave(door)

    asyncio.run(scenario())
