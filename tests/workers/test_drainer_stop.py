"""Starting and stopping the drainer's process: in time or not, nothing of it is left open, and nobody is waited for but it."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from proxy.workers import drainer
from proxy.workers.drainer import DrainerProcess

pytestmark = pytest.mark.integration

GOES = "echo caught-up; cat"  # its standard input ends: so does it
DEAF = "echo caught-up; exec sleep 600"
SILENT_AND_DEAF = "exec sleep 600"
LEAVES_AN_HEIR = "sleep 600 & echo $! > heir; echo caught-up; cat"  # which has its standard output, and stays
DIES_LATER = "echo caught-up; until [ -e heard ]; do sleep 0.01; done; exit 3"
DIES_AT_ONCE = "exit 3"
LONG_S = 20.0


class Seen:
    """What the process that is looked after has let us know."""

    def __init__(self) -> None:
        self.caught_up = asyncio.Event()
        self.died = asyncio.Event()
        self.errors: list[dict[str, Any]] = []

    def hear(self) -> None:
        self.caught_up.set()
        Path("heard").touch()

    def error(self, event: str, **fields: Any) -> None:
        self.errors.append({"event": event, **fields})
        self.died.set()


async def _starting(_seen: Seen, process: DrainerProcess) -> None:
    """It is about to be."""
    while process._started is None:  # noqa: ASYNC110 - nobody is told of it
        await asyncio.sleep(0)


async def _caught_up(seen: Seen, _process: DrainerProcess) -> None:
    await seen.caught_up.wait()


async def _died(seen: Seen, _process: DrainerProcess) -> None:
    await seen.died.wait()


Run = Callable[..., Seen]


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Starts a script as the drainer's process and stops it when it is so far; then its loop closes, which waits for open pipes."""
    monkeypatch.chdir(tmp_path)

    async def through(so_far: Callable[[Seen, DrainerProcess], Any]) -> Seen:
        seen = Seen()
        process = DrainerProcess(Path("unused"), on_caught_up=seen.hear, log=seen)
        task = asyncio.create_task(process.run())
        async with asyncio.timeout(LONG_S):
            await so_far(seen, process)
            task.cancel()
            await asyncio.wait([task])
            await process.stop()
        return seen

    def run(script: str, so_far: Callable[[Seen, DrainerProcess], Any]) -> Seen:
        monkeypatch.setattr(drainer, "drainer_command", lambda _data_dir: ["/bin/sh", "-c", script])
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(through(so_far))

    return run


def test_it_goes_when_it_is_told_to(run: Run) -> None:
    assert run(GOES, _caught_up).errors == []


@pytest.mark.parametrize(("script", "so_far", "heard"), [(DEAF, _caught_up, True), (SILENT_AND_DEAF, _starting, False)])
def test_one_that_does_not_is_killed(run: Run, script: str, so_far: Any, heard: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drainer, "STOP_S", 0.05)
    assert run(script, so_far).caught_up.is_set() == heard


def test_whoever_holds_its_pipe_is_not_waited_for(run: Run) -> None:
    run(LEAVES_AN_HEIR, _caught_up)
    os.kill(int(Path("heir").read_text()), signal.SIGKILL)  # it is still there


@pytest.mark.parametrize(("script", "heard"), [(DIES_LATER, True), (DIES_AT_ONCE, False)])
def test_one_that_died_is_told_of_and_leaves_nothing(run: Run, script: str, heard: bool) -> None:
    seen = run(script, _died)
    assert [(error["event"], error["code"]) for error in seen.errors] == [("drainer_stopped", 3)]
    assert seen.caught_up.is_set() == heard


@pytest.mark.anyio
async def test_one_that_never_started_needs_no_stopping() -> None:
    seen = Seen()
    await DrainerProcess(Path("unused"), on_caught_up=seen.hear, log=seen).stop()
