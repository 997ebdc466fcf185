"""Stopping well: uvicorn's server with our drain before its own shutdown.

signal -> not ready -> (delay, for load balancers to notice; not on SIGINT) -> no new connections -> what runs may finish
       -> after the drain's timeout the rest gets an error event and its row -> exit 0        a second SIGINT skips the waiting
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn

from proxy.server.gateway import Gateway

POLL_S = 0.05
CUT_S = 5.0  # for the error events of what was cut to go out


class DrainingServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, gateway: Callable[[], Gateway | None], *, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._on_started = on_started
        self._interactive = False
        self._wake: Callable[[], object] = lambda: None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn would raise the signal again at the end; a drained stop is a success and exits 0
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self._interactive = self._interactive or sig == signal.SIGINT
        self.should_exit = True
        self._wake()

    def stop_at_once(self) -> None:
        """As on SIGINT: no new connections from now on, what runs may finish."""
        self._interactive = self.should_exit = True
        self._wake()

    async def main_loop(self) -> None:
        """As uvicorn's, but woken by the signal instead of looking for it ten times a second."""
        loop = asyncio.get_running_loop()
        self._wake = lambda: loop.call_soon_threadsafe(stop.set)
        stop = asyncio.Event()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await stop.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # closing a server closes its sockets, and the door goes on with ours
        theirs = [one.dup() for one in sockets] if sockets is not None else None
        await super().startup(theirs)
        if not self.started:
            for one in theirs or []:
                one.close()
        if self.started:
            gateway = self._gateway()
            if gateway is not None:
                gateway.door.attach(self, sockets or [], in_a_long_turn=gateway.in_a_long_turn, busy=lambda: gateway.bell.up)
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        gateway = self._gateway()
        if gateway is not None:
            await self._drain(gateway)
        await super().shutdown(sockets)

    async def _drain(self, gateway: Gateway) -> None:
        settings = gateway.settings.server
        gateway.draining = True
        if not self._interactive:
            await self._wait(lambda: False, settings.drain_delay_s)
        for server in self.servers:
            server.close()
        gateway.door.leave()
        await self._wait(lambda: not gateway.door.becoming, CUT_S)  # who was let in last
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._wait(lambda: not gateway.live, settings.drain_timeout_s)
        if gateway.cut_all():
            await self._wait(lambda: not gateway.live, CUT_S)
        for connection in list(self.server_state.connections):
            connection.shutdown()

    async def _wait(self, done: Callable[[], bool], seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not done() and not self.force_exit and loop.time() < until:  # noqa: ASYNC110 - nobody could set an event for all three
            await asyncio.sleep(POLL_S)
