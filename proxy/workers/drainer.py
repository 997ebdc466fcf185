"""The drainer's process, as whoever runs it sees it: how it is started, and `DrainerProcess`, which keeps one running."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from proxy.workers.restarts import Restarts

STOP_S = 10.0
_ROOT = str(Path(__file__).resolve().parent.parent.parent)  # where a child process finds this package


class Log(Protocol):
    def error(self, event: str, **fields: Any) -> None: ...


def drainer_command(data_dir: Path) -> list[str]:
    return [sys.executable, "-P", "-m", "proxy.storage.drainer", str(data_dir)]


def drainer_environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {**environ, "PYTHONPATH": os.pathsep.join(filter(None, [_ROOT, environ.get("PYTHONPATH")]))}


class _Child(asyncio.SubprocessProtocol):
    """What is heard of it. `announced`: its first word, which says that it has caught up; False if it ended without one."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.announced: asyncio.Future[bool] = loop.create_future()
        self.ended = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._settle(True)

    def process_exited(self) -> None:
        self._settle(False)
        self.ended.set()

    def _settle(self, announced: bool) -> None:
        if not self.announced.done():
            self.announced.set_result(announced)


class DrainerProcess:
    """For a proxy that runs alone: `run` belongs to a task, which is cancelled before `stop`."""

    def __init__(self, data_dir: Path, *, on_caught_up: Callable[[], None], log: Log) -> None:
        self._restarts = Restarts()
        self._data_dir = data_dir
        self._on_caught_up = on_caught_up
        self._log = log
        self._started: asyncio.Task[tuple[asyncio.SubprocessTransport, _Child]] | None = None

    @property
    def restarts(self) -> int:
        return self._restarts.count

    async def run(self, *, in_s: float = 0.0) -> None:
        """Starts it, and again whenever it ends."""
        await asyncio.sleep(in_s)
        environment = drainer_environment(os.environ)
        loop = asyncio.get_running_loop()
        while True:
            serves_since = None
            # a task of its own: who is cancelled meanwhile would leave a process behind that nobody waits for
            self._started = loop.create_task(
                loop.subprocess_exec(_Child, *drainer_command(self._data_dir), stderr=None, env=environment)
            )
            transport, child = await asyncio.shield(self._started)
            if await child.announced:
                serves_since = loop.time()
                self._on_caught_up()
            await child.ended.wait()
            transport.close()
            delay_s = self._restarts.died(None if serves_since is None else loop.time() - serves_since)
            self._log.error("drainer_stopped", code=transport.get_returncode(), next=f"started again in {delay_s:g} s")
            await asyncio.sleep(delay_s)

    async def stop(self) -> None:
        """Its standard input ends, it takes in what is left and goes; what it does not manage stays in the journal."""
        if self._started is None:
            return
        try:
            transport, child = await self._started
        except (OSError, RuntimeError):  # it could not be started
            return
        stdin = transport.get_pipe_transport(0)
        assert stdin is not None
        stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await child.ended.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):  # it went in this very moment
                transport.kill()
            await child.ended.wait()
        # Our ends of its pipes, too: the others need not be gone with it, since a process that another thread starts in the very
        # same moment inherits them, and a loop with a pipe open does not close.
        transport.close()
