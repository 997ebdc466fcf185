"""The drainer's process, as whoever runs it sees it: how it is started, and `DrainerProcess`, which keeps one running."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
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


class DrainerProcess:
    """For a proxy that runs alone: `run` belongs to a task, which is cancelled before `stop`."""

    def __init__(self, data_dir: Path, *, on_caught_up: Callable[[], None], log: Log) -> None:
        self._restarts = Restarts()
        self._data_dir = data_dir
        self._on_caught_up = on_caught_up
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def restarts(self) -> int:
        return self._restarts.count

    async def run(self, *, in_s: float = 0.0) -> None:
        """Starts it, and again whenever it ends."""
        await asyncio.sleep(in_s)
        environment = drainer_environment(os.environ)
        clock = asyncio.get_running_loop().time
        while True:
            serves_since = None
            self._process = await asyncio.create_subprocess_exec(
                *drainer_command(self._data_dir), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment
            )
            assert self._process.stdout is not None
            if await self._process.stdout.readline():
                serves_since = clock()
                self._on_caught_up()
            code = await self._process.wait()
            delay_s = self._restarts.died(None if serves_since is None else clock() - serves_since)
            self._log.error("drainer_stopped", code=code, next=f"started again in {delay_s:g} s")
            await asyncio.sleep(delay_s)

    async def stop(self) -> None:
        """Its standard input ends, it takes in what is left and goes; what it does not manage stays in the journal."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        await process.stdout.read()  # to its end, which may come later than the process's: a loop is not closed with a pipe open
