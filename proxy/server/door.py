"""How new connections come in, and when they do not.

They are taken in here and not by the event loop's own server, which takes in one with each look at what is ready and has it wait for
the next turn, however long this one lasts. Here a few who knock are taken in and become the loop's. Where it is a crowd, and in the midst
of a long turn (`doorbell.py`), all are let in, which costs little: in the kernel's queue nobody is heard. Whoever of them asks whether
the proxy lives is told so at once; the others become the loop's a few in each turn, from the next on.

None are taken in while four fifths of the file descriptors are callers' connections, or while only the reserve is left: they wait in
the kernel's queue, and nothing spins on a door that cannot be opened.

    open --connections at `cap`, or fewer than `RESERVE` descriptors free--> shut --fewer again, by a fiftieth--> open

The reserve is for what serves the requests that are in: connections to providers, the journal, the drainer's pipes.
uvicorn's servers are closed once they listen: they have duplicates of the sockets.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Callable, Collection, Sequence
from itertools import islice

import uvicorn

from proxy.engine.services import Log, Meter
from proxy.server.addresses import Addresses
from proxy.server.alive import MAX_PROBE_BYTES, alive_answer, asks_if_alive, asks_to_close
from proxy.server.fiber import Fiber

SHARE = 0.8
RESERVE = 64
BACKLOG = 2048
# Of an answer, in the kernel and not on its way. For a caller who reads nothing it would take megabytes otherwise, all of which have to
# be fetched first; what is on its way to one who reads does not count (tcp(7): TCP_NOTSENT_LOWAT)
UNSENT_BYTES = 64 * 1024
# At a time, and so many become the loop's in one turn: each costs as much as half a request, and those who are in have their turn, too.
TAKEN_IN = 4
# Of a crowd more in a turn that took longer: else it would wait for as many turns as it is large.
TAKEN_IN_PER_S = 2_000
MOST_TAKEN_IN = 64
# Of a crowd so many are let in in the midst of a long turn; in others for as long as that was left alone, and no longer than this: then
# it is somebody else's turn.
MANY = 1024
CROWD_S = 0.001
ASKED = 256  # of those who were silent, the last to come
ASKED_EVERY_S = 0.004
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_PROBE_FROM = 0.25  # below this share of the limit, nobody asks the kernel


class Door:
    def __init__(
        self,
        meter: Meter,
        log: Log,
        *,
        new_id: Callable[[], str],
        addresses: Addresses,
        monotonic: Callable[[], float],
    ) -> None:
        self._meter = meter
        self._log = log
        self._new_id = new_id
        self._monotonic = monotonic
        self._addresses = addresses
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.cap = connections_cap(self._limit)
        self.shut = False
        self._server: uvicorn.Server | None = None
        self._connections: Collection[object] = ()
        self._listeners: list[socket.socket] = []
        self._waiting: dict[socket.socket, None] = {}  # let in, and not yet the loop's
        self._silent: dict[socket.socket, None] = {}  # those of them who have said nothing yet, as far as we know
        self._asked_to_hand_over = False
        self._let_in_until = self._asked_until = -ASKED_EVERY_S
        self._left_waiting_at: float | None = None  # when some of a crowd had become the loop's, and not all
        self.becoming = 0  # how many more are about to be the loop's
        self._in_a_long_turn: Callable[[], bool] = _never
        self._busy: Callable[[], bool] = _never

    @property
    def connections(self) -> int:
        """How many callers' connections are open."""
        return len(self._connections)

    @property
    def callers(self) -> Collection[object]:
        """The protocols of these connections."""
        return self._connections

    def attach(
        self,
        server: uvicorn.Server,
        listeners: Sequence[socket.socket],
        *,
        in_a_long_turn: Callable[[], bool],
        busy: Callable[[], bool],
    ) -> None:
        """Once it listens. Under a server that is not ours, connections are that server's own affair. `busy`: the present turn may become a
        long one."""
        self._server = server
        self._connections = server.server_state.connections
        self._in_a_long_turn = in_a_long_turn
        self._busy = busy
        for one in server.servers:
            one.close()
        server.servers.clear()
        self._listeners += listeners
        for listener in listeners:
            listener.setblocking(False)
        self._open()

    def leave(self) -> None:
        """No more connections, ever: the kernel's queue is refused, too."""
        self._hand_over(len(self._waiting))
        self._close()
        self._server = None
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def full(self) -> None:
        """Called for a connection that reaches `cap`, and when there is no descriptor for one."""
        if not self.shut and self._server is not None:
            self.shut = True
            self._close()
            self._meter.count("accept_paused")
            self._log.warning("accept_paused", connections=self.connections, limit=self._limit)

    def tick(self) -> None:
        """Several times a second."""
        if self._server is None or (not self.shut and self.connections < self._limit * _PROBE_FROM):
            return
        short = lowest_free_descriptor() >= self._limit - RESERVE
        if not self.shut:
            if short:
                self.full()
        elif not short and self.connections <= self.cap - max(1, self.cap // 50):
            self.shut = False
            self._open()
            self._log.warning("accept_resumed", connections=self.connections)

    def take_in(self) -> None:
        """In the midst of a long turn. They become the loop's with `hand_over`."""
        if self._server is None or self.shut:
            return
        for listener in self._listeners:
            self._accept(listener, MANY, asked=True)
        self._ask()

    def hand_over(self) -> None:
        """In a callback of the loop, which reads of a connection from its next turn on. Some; the others in the turns that follow."""
        self._asked_to_hand_over = False
        now = self._monotonic()
        since_s = 0.0 if self._left_waiting_at is None else now - self._left_waiting_at
        self._hand_over(min(max(TAKEN_IN, int(since_s * TAKEN_IN_PER_S)), MOST_TAKEN_IN))
        self._left_waiting_at = now if self._waiting else None
        if self._waiting:
            self._ask()
            self._hand_over_soon()

    def _hand_over_soon(self) -> None:
        if not self._asked_to_hand_over:
            self._asked_to_hand_over = True
            asyncio.get_running_loop().call_soon(self.hand_over)

    def _hand_over(self, count: int) -> None:
        server = self._server
        if not self._waiting or server is None:
            return
        loop = asyncio.get_running_loop()
        for one in list(islice(self._waiting, count)):
            del self._waiting[one]
            self._silent.pop(one, None)
            Fiber(loop).start(self._serve(loop, server, one))  # a task would begin a turn later

    def _knock(self, listener: socket.socket) -> None:
        if self._in_a_long_turn():
            self.take_in()
            self._hand_over_soon()
            return
        if self._accept(listener, TAKEN_IN):
            self._let_crowd_in(listener)
        if self._busy():  # who becomes the loop's now is not heard before the end of this turn
            self._ask()
            self._hand_over_soon()
        else:
            self.hand_over()

    def _let_crowd_in(self, listener: socket.socket) -> None:
        now = self._monotonic()
        until = now + min(now - self._let_in_until, CROWD_S)
        while self._accept(listener, TAKEN_IN, asked=True) and self._monotonic() < until:
            pass
        self._let_in_until = self._monotonic()

    def _accept(self, listener: socket.socket, most: int, *, asked: bool = False) -> bool:
        """Whether there may be more. `asked`: each whether he is a probe, as `_ask` does."""
        asked = asked and not self._addresses.counts
        room = self.cap - self.connections - self.becoming - len(self._waiting)
        for _ in range(min(most, room)):
            try:
                accepted, _ = listener.accept()
            except OSError as error:  # nobody is there, or has gone again
                if error.errno in _NO_DESCRIPTOR:
                    self.full()
                return False
            accepted.setblocking(False)
            self._waiting[accepted] = None
            self._silent[accepted] = None
            if asked:
                self._ask_one(accepted)
        return room >= most

    async def _serve(self, loop: asyncio.AbstractEventLoop, server: uvicorn.Server, accepted: socket.socket) -> None:
        self.becoming += 1
        try:
            await loop.connect_accepted_socket(lambda: make_protocol(server, loop), accepted)
        except OSError:  # it has gone again
            accepted.close()
        finally:
            self.becoming -= 1

    def _ask(self) -> None:
        """Who has something to say is asked once, the silent again and again. A probe's first question is answered here: as a connection
        of the loop it would wait for the end of this turn first, and for those who came before it."""
        if not self._silent or self._addresses.counts or self._monotonic() - self._asked_until < ASKED_EVERY_S:
            return
        for one in list(self._silent)[-ASKED:]:
            self._ask_one(one)
        self._asked_until = self._monotonic()

    def _ask_one(self, one: socket.socket) -> None:
        server = self._server
        if server is None:
            return
        try:
            data = one.recv(MAX_PROBE_BYTES, socket.MSG_PEEK)
            if asks_if_alive(data):
                one.recv(len(data))
                closes = asks_to_close(data)
                one.send(alive_answer(self._new_id(), server.server_state.default_headers, keep_alive=not closes))
                if closes:
                    del self._waiting[one]
                    one.close()
        except BlockingIOError:
            return
        except OSError:  # it is gone again, as the loop will find
            pass
        del self._silent[one]

    def _open(self) -> None:
        for listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener, self._knock, listener)

    def _close(self) -> None:
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)


def _never() -> bool:
    return False


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
