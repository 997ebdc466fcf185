"""One client connection: an asyncio protocol that carries one exchange at a time and knows when it may carry another.

idle ── exchange() ──> busy ── release(), whole and keep-alive ──> idle
  │                      └──── release() of anything else ──────> gone
  └── peer closes, or sends what nobody asked for ──────────────> gone
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol, cast

from proxy.core.cork import CorkedTransport
from proxy.core.ports import Origin
from proxy.core.turn import Turn
from proxy.upstream.response import NativeResponse, Waiter

JOIN_BELOW_BYTES = 64 * 1024  # a larger body goes as a write of its own rather than be copied


class Owner(Protocol):
    """The pool: `park` takes a connection back (false: it will not), `forget` may be told of one more than once."""

    def park(self, connection: Connection) -> bool: ...
    def forget(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    __slots__ = ("_gone", "_held", "_new_waiter", "_owner", "_response", "_served", "_turn", "idle_since", "origin", "transport")

    def __init__(self, owner: Owner, origin: Origin, new_waiter: Callable[[], Waiter], turn: Turn) -> None:
        self.transport: CorkedTransport | None = None
        self.origin = origin
        self.idle_since = 0.0
        self._owner = owner
        self._new_waiter = new_waiter
        self._turn = turn
        self._response: NativeResponse | None = None
        self._served = False
        self._gone = False
        self._held = False  # its response takes nothing for the moment

    def exchange(self, head: bytes, body: bytes) -> NativeResponse:
        """Write a request; its response fills as bytes arrive, also while the request is still being written."""
        assert self.transport is not None
        assert self._response is None
        response = NativeResponse(self, self._new_waiter, reused=self._served)
        self._response = response
        self._served = True
        if self._gone or self.transport.is_closing():  # lost, or the peer spoke, before anyone listened
            response.end_of_input(None)
        elif len(body) < JOIN_BELOW_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)
        return response

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """With the origin's own host, over a tunnel to it."""
        assert self.transport is not None
        self.transport.let_go()
        inside = await asyncio.get_running_loop().start_tls(
            cast(asyncio.Transport, self.transport.bare), self, context, server_hostname=self.origin.host
        )
        assert inside is not None  # the annotation's None is for servers' transports
        self.connection_made(inside)

    def detach(self) -> None:
        """Forget the exchange without ending the connection: a tunnel's CONNECT has been answered."""
        self._response = None
        self._served = False

    def drop(self) -> None:
        """Cut the connection now. Idempotent."""
        if not self._gone:
            self._gone = True
            self._owner.forget(self)
            if self.transport is not None:
                self.transport.abort()

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = self._turn.cork.wrap(cast(asyncio.Transport, transport), asyncio.get_running_loop())

    def data_received(self, data: bytes) -> None:
        turn = self._turn
        turn.left -= 1
        if turn.left <= 0:
            turn.pause(self)
        if self._response is not None:
            self._response.feed(data)
        else:
            self.drop()

    def eof_received(self) -> None:
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        response = self._response
        if response is not None:
            response.keep_alive = False
            response.end_of_input(exc)
        else:
            self.drop()

    # -- response.Carrier ----------------------------------------------------------------------------------------------

    def pause(self) -> None:
        self._held = True
        self.rest()

    def resume(self) -> None:
        self._held = False
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def release(self, response: NativeResponse) -> None:
        if self._response is not response:
            return
        self._response = None
        if not (response.complete and response.keep_alive and self._clean() and self._owner.park(self)):
            self.drop()
            self._owner.forget(self)

    # -- turn.Source ---------------------------------------------------------------------------------------------------

    def rest(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def read_on(self) -> None:
        if not self._held:
            self.resume()

    def _clean(self) -> bool:
        """Nothing of the last exchange is left: a peer that answered early may not have read the whole request."""
        return not self._gone and self.transport is not None and not self.transport.get_write_buffer_size()
