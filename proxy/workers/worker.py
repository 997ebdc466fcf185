"""One of several workers: what a child of the supervisor does from its fork to its end."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# what uvicorn loads by name when it starts: once, before the fork, and not in each worker
import uvicorn.lifespan.on
import uvicorn.loops.uvloop  # noqa: F401
from starlette.types import ASGIApp

from proxy.app import create_app, server_config
from proxy.config.key_store import KeysBroken
from proxy.config.settings import Settings
from proxy.runtime import JournalError, Runtime
from proxy.server.lifecycle import DrainingServer
from proxy.workers.pulse import Pulse
from proxy.workers.seat import LEAD, Seat
from proxy.workers.siblings import Reception, ToTheLead
from proxy.workers.watchdog import Watchdog, limit_s

STARTUP_FAILED = 3
ORPHANED = 4


@dataclass(frozen=True, slots=True)
class Post:
    """What a worker is given. `life`: a pipe that ends when the supervisor does. `reception`: where the lead is asked, listening."""

    seat: Seat
    pulse: Pulse
    listener: socket.socket
    reception: socket.socket
    life: int


def reception_path(directory: Path) -> Path:
    return directory / "lead.sock"


def work(post: Post, settings: Settings, read: Callable[[], Settings], *, look_again: bool) -> int:
    """Serves until it is told to stop; the exit code. `settings` are those to begin with, `read` loads them anew. `look_again`: the file
    is not what they were made of, which is to be told."""
    _become_worker(post.seat)
    seat = post.seat
    try:
        runtime = Runtime(settings, reload=read, seat=seat, pulse=post.pulse)
    except (JournalError, KeysBroken) as error:
        sys.stderr.write(f"{error}\n")
        return STARTUP_FAILED
    application: ASGIApp = create_app(read, runtime=runtime)
    if not seat.leads:
        post.reception.close()
        application = ToTheLead(application, reception_path(seat.directory))

    def ready() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, runtime.hang_up)
        if look_again:
            runtime.hang_up()
        post.pulse.serves(seat.index)
        if hang_s := limit_s(os.environ):
            # the supervisor is quicker, and outside; this is for when it is gone
            Watchdog(lambda: runtime.signs_of_life, limit_s=2 * hang_s).start()

    server = _Server(application, post, runtime, on_started=ready)
    try:
        server.run(sockets=[post.listener])
    except SystemExit:
        return STARTUP_FAILED
    return 0


class _Server(DrainingServer):
    """Stops when the supervisor is gone, and answers for the others where it leads."""

    def __init__(self, application: ASGIApp, post: Post, runtime: Runtime, *, on_started: Callable[[], None]) -> None:
        super().__init__(server_config(application), lambda: runtime.gateway, on_started=on_started)
        self._post = post
        self._reception = Reception(application, lambda: {"gateway": runtime.gateway})

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().add_reader(self._post.life, self._orphaned)
        await super().startup(sockets)
        if self._post.seat.index == LEAD:
            await self._reception.open(self._post.reception)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self._reception.close()

    def _orphaned(self) -> None:
        """Nobody restarts what dies now, and whoever starts the proxy again needs the port."""
        asyncio.get_running_loop().remove_reader(self._post.life)
        if not self.started:
            os._exit(ORPHANED)  # nothing is served yet
        self.stop_at_once()


def _become_worker(seat: Seat) -> None:
    with suppress(OSError):
        os.setpgid(0, 0)  # Ctrl-C is for the supervisor, which passes it on
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it can be heard: the configuration is as new as it gets
    faulthandler.enable()  # on SIGABRT, which the supervisor sends to one that hangs
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD))
    with suppress(OSError):
        Path("/proc/self/comm").write_text(f"tollbridge-w{seat.index}")
