"""Stopping the drainer's process: in time or not, nothing of it is left open."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from proxy.workers import drainer
from proxy.workers.drainer import DrainerProcess

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


class Child:
    """Ends when its standard input does, or is `deaf` and has to be killed. Its pipe's end is read a moment after the process's."""

    def __init__(self, *, deaf: bool) -> None:
        self.returncode: int | None = None
        self.stdin, self.stdout = self, asyncio.StreamReader()
        self.deaf = deaf
        self.killed = False
        self.ended = asyncio.Event()

    def close(self) -> None:
        if not self.deaf:
            self._end()

    def kill(self) -> None:
        self.killed = True
        self._end()

    def _end(self) -> None:
        self.returncode = 0
        self.ended.set()
        asyncio.get_running_loop().call_later(0.02, self.stdout.feed_eof)

    async def wait(self) -> None:
        await self.ended.wait()


@pytest.mark.parametrize("deaf", [False, True])
async def test_it_has_stopped_when_its_pipe_is_closed_too(deaf: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drainer, "STOP_S", 0.05)
    child = Child(deaf=deaf)
    process = DrainerProcess(Path("unused"), on_caught_up=lambda: None, log=cast(Any, None))
    process._process = cast(Any, child)
    await process.stop()
    assert child.killed == deaf
    assert child.stdout.at_eof()


async def test_one_that_never_started_needs_no_stopping() -> None:
    process = DrainerProcess(Path("unused"), on_caught_up=lambda: None, log=cast(Any, None))
    await process.stop()
