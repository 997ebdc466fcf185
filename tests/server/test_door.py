"""Who knocks is taken in by the proxy itself, and not where there is no descriptor for him."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.engine.services import Meter
from proxy.server.addresses import Addresses
from proxy.server.door import TAKEN_IN, Door

pytestmark = pytest.mark.unit


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
    def __init__(self, **_: object) -> None: ...
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(b"hello")


def attached(log: Log, listener: Listener) -> Door:
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    door = Door(
        cast(Meter, SimpleNamespace(count=lambda event: log.events.append(f"counted {event}"))),
        log,
        new_id=lambda: "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        addresses=Addresses(),
    )
    server = SimpleNamespace(
        servers=[],
        server_state=SimpleNamespace(connections=set(), default_headers=[]),
        config=SimpleNamespace(http_protocol_class=Greeter),
        lifespan=SimpleNamespace(state={}),
    )
    door.attach(cast(Any, server), [listener], lambda: False)
    return door


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
            door.leave()

    asyncio.run(scenario())


def test_in_a_long_turn_a_probe_is_heard_from_behind_a_crowd() -> None:
    """The crowd becomes the loop's a few a turn; whoever asks whether the proxy lives need not wait for that."""

    async def scenario() -> None:
        with Listener() as listener, contextlib.ExitStack() as callers:
            door = attached(Log(), listener)
            address = listener.getsockname()
            crowd = [callers.enter_context(socket.create_connection(address)) for _ in range(2 * TAKEN_IN)]
            probe = callers.enter_context(socket.create_connection(address, timeout=10))
            probe.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            door.take_in()
            assert probe.recv(100).startswith(b"HTTP/1.1 200")
            door.hand_over()
            for one in crowd:
                one.setblocking(False)
                assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(one, 5), 10) == b"hello"
            door.leave()

    asyncio.run(scenario())


def test_in_a_long_turn_who_has_spoken_is_not_asked_again_who_is_silent_is() -> None:
    async def scenario() -> None:
        with Listener() as listener, contextlib.ExitStack() as callers:
            door = attached(Log(), listener)
            address = listener.getsockname()
            slow, late, brief = (callers.enter_context(socket.create_connection(address, timeout=10)) for _ in range(3))
            slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")
            door.take_in()
            assert (len(door._waiting), len(door._silent)) == (3, 2)
            slow.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")  # the loop's affair, whatever follows
            late.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            brief.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            door.take_in()
            assert late.recv(100).startswith(b"HTTP/1.1 200")
            assert brief.recv(1000).startswith(b"HTTP/1.1 200")
            assert (len(door._waiting), len(door._silent)) == (2, 0)
            slow.setblocking(False)
            with pytest.raises(BlockingIOError):
                slow.recv(1)
            door.leave()

    asyncio.run(scenario())
