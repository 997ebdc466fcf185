"""How new connections come in, and when they do not.

The event loop takes in one connection in each of its turns. While turns are long, those who knock would wait for many of them, a
load balancer's probe among them: then some more are taken in with each look at the loop (`overload.py`), and in the midst of a turn
(`doorbell.py`). Whoever asks there whether the proxy lives is told so at once.

None are taken in while four fifths of the file descriptors are callers' connections, or while only the reserve is left: they wait in
the kernel's queue, and nothing spins on a door that cannot be opened.

    open --connections at `cap`, or fewer than `RESERVE` descriptors free--> shut --fewer again, by a fiftieth--> open

The reserve is for what serves the requests that are in: connections to providers, the journal, the drainer's pipes.
To shut, uvicorn's servers are closed while duplicates of their sockets keep the queue; to open, servers are made of these.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Callable, Collection

import uvicorn

from proxy.engine.services import Log, Meter
from proxy.server.addresses import Addresses
from proxy.server.alive import MAX_PROBE_BYTES, alive_answer, asks_if_alive, asks_to_close
from proxy.server.fiber import Fiber

SHARE = 0.8
RESERVE = 64
BACKLOG = 2048
MORE_IN_A_TURN = 16
_PROBE_FROM = 0.25  # below this share of the limit, nobody asks the kernel


class Door:
    def __init__(self, meter: Meter, log: Log, *, new_id: Callable[[], str], addresses: Addresses) -> None:
        self._meter = meter
        self._log = log
        self._new_id = new_id
        self._addresses = addresses
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.cap = connections_cap(self._limit)
        self.shut = False
        self._server: uvicorn.Server | None = None
        self._connections: Collection[object] = ()
        self._listeners: list[socket.socket] = []
        self._opening: asyncio.Task[None] | None = None
        self._waiting: list[socket.socket] = []  # let in, and not yet the loop's

    @property
    def connections(self) -> int:
        """How many callers' connections are open."""
        return len(self._connections)

    @property
    def callers(self) -> Collection[object]:
        """The protocols of these connections."""
        return self._connections

    def attach(self, server: uvicorn.Server) -> None:
        """Once it listens. Under a server that is not ours, connections are that server's own affair."""
        self._server = server
        self._connections = server.server_state.connections
        for one in server.servers:
            for listener in one.sockets:
                self._listeners.append(socket.socket(fileno=os.dup(listener.fileno())))
                self._listeners[-1].setblocking(False)

    def leave(self) -> None:
        """No more connections, ever: the kernel's queue is refused, too."""
        self.hand_over()
        self._server = None
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def full(self) -> None:
        """Called for a connection that reaches `cap`."""
        if not self.shut and self._server is not None:
            self.shut = True  # told at once, done in a moment: this is inside the accept
            asyncio.get_running_loop().call_soon(self._close)

    def tick(self) -> None:
        """Several times a second."""
        if self._server is None or (not self.shut and self.connections < self._limit * _PROBE_FROM):
            return
        short = lowest_free_descriptor() >= self._limit - RESERVE
        if not self.shut:
            if short:
                self.full()
        elif not short and self.connections <= self.cap - max(1, self.cap // 50) and self._opening is None:
            self._opening = asyncio.create_task(self._open())

    def take_in(self) -> None:
        """A few more of those who knock, besides the one in each turn. They become the loop's with `hand_over`."""
        server = self._server
        if server is None or self.shut:
            return
        for listener in self._listeners:
            for _ in range(min(MORE_IN_A_TURN, self.cap - self.connections - len(self._waiting))):
                try:
                    accepted, _ = listener.accept()
                except OSError:  # nobody is there, has gone again, or there are no descriptors: the next tick sees to that
                    break
                accepted.setblocking(False)
                self._waiting.append(accepted)
        if self._waiting and not self._addresses.counts:
            self._waiting = [one for one in self._waiting if not self._tells_that_it_lives(server, one)]

    def hand_over(self) -> None:
        """In a callback of the loop: a connection of the loop is read from the next turn on."""
        waiting, server = self._waiting, self._server
        if not waiting or server is None:
            return
        self._waiting = []
        loop = asyncio.get_running_loop()
        for one in waiting:
            Fiber(loop).start(_serve(loop, server, one))  # a task would begin a turn later

    def _tells_that_it_lives(self, server: uvicorn.Server, accepted: socket.socket) -> bool:
        """A probe's first question is answered here: as a connection of the loop it would wait for the end of this turn first. True when
        with that the connection is over."""
        try:
            data = accepted.recv(MAX_PROBE_BYTES, socket.MSG_PEEK)
            if not asks_if_alive(data):
                return False
            accepted.recv(len(data))
            closes = asks_to_close(data)
            accepted.send(alive_answer(self._new_id(), server.server_state.default_headers, keep_alive=not closes))
        except OSError:  # it has said nothing yet, or is gone again
            return False
        if closes:
            accepted.close()
        return closes

    def _close(self) -> None:
        server = self._server
        if server is not None:
            for one in server.servers:
                one.close()
            server.servers.clear()
            self._meter.count("accept_paused")
            self._log.warning("accept_paused", connections=self.connections, limit=self._limit)

    async def _open(self) -> None:
        loop, server = asyncio.get_running_loop(), self._server
        assert server is not None
        try:
            for listener in self._listeners if not server.servers else ():
                made = await loop.create_server(lambda: make_protocol(server, loop), sock=listener.dup(), backlog=BACKLOG)
                if self._server is None:  # it was told to stop meanwhile
                    made.close()
                    return
                server.servers.append(made)
            self.shut = False
            self._log.warning("accept_resumed", connections=self.connections)
        except OSError as error:
            self._log.warning("accept_still_paused", reason=error.strerror)
        finally:
            self._opening = None


async def _serve(loop: asyncio.AbstractEventLoop, server: uvicorn.Server, accepted: socket.socket) -> None:
    try:
        await loop.connect_accepted_socket(lambda: make_protocol(server, loop), accepted)
    except OSError:  # it has gone again
        accepted.close()


def make_protocol(server: uvicorn.Server, loop: asyncio.AbstractEventLoop) -> asyncio.Protocol:
    """As uvicorn's `Server.startup` makes one."""
    config = server.config
    made: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg]
        config=config, server_state=server.server_state, app_state=server.lifespan.state, _loop=loop
    )
    return made


def connections_cap(limit: int) -> int:
    return max(1, min(int(limit * SHARE), limit - RESERVE))


def lowest_free_descriptor() -> int:
    """The kernel gives out the lowest one that is free, so nearly as many are in use; all of them where none can be had."""
    try:
        descriptor = os.open("/", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 1 << 62
    os.close(descriptor)
    return descriptor
