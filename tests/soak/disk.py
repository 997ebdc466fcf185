"""The ledger's disk fills up under load, and is freed again.

Where the machine lets us mount, the data directory is a small file system of its own in memory, filled to the last byte. Elsewhere the
server's processes get a limit of no bytes on the files that they write, which fails every write with `EFBIG`.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from tests.bench.load import Answer
from tests.bench.processes import tree
from tests.soak.stage import Caller, Check, Options, Stage, all_of, at_least, at_most, mock_provider, none_of, wait_until

_STREAMS, _STREAMS_SHORT = 50, 8
_WORDS, _WORDS_SHORT = 300, 100  # at 20 ms each
_ASKERS = 4
_NOTICED_S = 2.0
_RECOVERED_S = 2.0
_PATIENCE_S = 30.0
_DISK_MIB = 96
_PAUSE_S = 0.01


class _Disk(Protocol):
    what: str

    def fill(self) -> None: ...
    def free(self) -> None: ...


class _Mounted:
    """A file system of its own below `folder`, until it is left."""

    what = f"a disk of {_DISK_MIB} MiB, full to the last byte"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def mount(folder: Path) -> bool:
        program = shutil.which("mount", path=os.environ.get("PATH", "") + ":/bin:/sbin")
        if program is None or os.geteuid() != 0:
            return False
        size = f"size={_DISK_MIB}m,mode=0700"
        return (
            subprocess.run([program, "-t", "tmpfs", "-o", size, "soak", folder], capture_output=True, check=False).returncode == 0
        )

    def fill(self) -> None:
        with (self.folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while file.write(b"\0" * size) == size:
                        pass

    def free(self) -> None:
        (self.folder / "filler").unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        subprocess.run(["umount", "-l", self.folder], check=True)


class _Limited:
    """`RLIMIT_FSIZE` of every process of the server."""

    what = "a limit on the size of files"

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def fill(self) -> None:
        self._limit(0)

    def free(self) -> None:
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        for pid in tree(self._stage.child.pid):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def run(folder: Path, options: Options) -> list[Check]:
    place = folder / "disk"
    place.mkdir()
    if not _Mounted.mount(place):
        with Stage(folder, options) as stage:
            await _start(stage)
            return await _act(stage, _Limited(stage))
    with _Mounted(place) as disk, Stage(folder, options) as stage:
        stage.data_dir = place / "data"
        await _start(stage)
        return await _act(stage, disk)


async def _start(stage: Stage) -> None:
    config = mock_provider(stage)
    model = _model(stage.options)
    config["chains"][model] = [f"mock/{model}"]
    stage.prepare(config)
    await asyncio.to_thread(stage.start)
    await stage.warmed()
    for number in range(_ASKERS):  # the reserve is there, and the database
        await _stream(stage.port, "mixed", number)
    await stage.settled()


def _model(options: Options) -> str:
    return f"lone-{options.of(_WORDS, _WORDS_SHORT)}"


async def _act(stage: Stage, disk: _Disk) -> list[Check]:
    options = stage.options
    streams = options.of(_STREAMS, _STREAMS_SHORT)
    model = _model(options)
    pid, before = stage.child.pid, set(tree(stage.child.pid))
    seen = _Seen()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        open_ones = [group.create_task(_stream(stage.port, model, number)) for number in range(streams)]
        for number in range(_ASKERS):
            group.create_task(_ask(stage.port, number, seen, stop))
        await wait_until(lambda: len(seen.ok) >= _ASKERS and stage.counts()["busy"] >= streams, _PATIENCE_S, poll_s=_PAUSE_S)
        disk.fill()
        filled = time.monotonic()
        await wait_until(lambda: seen.statuses[503] > 0, _PATIENCE_S, poll_s=_PAUSE_S)
        noticed_s = time.monotonic() - filled
        # until it has looked at the disk, what the reserve has freed may do for a few more
        await wait_until(lambda: stage.get("/readyz")[0] == 503, _PATIENCE_S, poll_s=_PAUSE_S)
        seen.told = True
        answers = await asyncio.gather(*open_ones)
        ready_while_full = stage.get("/readyz")[0]
        seen.told = False
        disk.free()
        freed = time.monotonic()
        known = len(seen.ok)
        await wait_until(lambda: len(seen.ok) > known, _PATIENCE_S, poll_s=_PAUSE_S)
        recovered_s = time.monotonic() - freed
        stop.set()
    await wait_until(lambda: stage.get("/readyz")[0] == 200, _PATIENCE_S, poll_s=_PAUSE_S)
    ready_s = time.monotonic() - freed
    await stage.settled()
    wanted = seen.ok + [answer.request_id for answer in answers]
    rows = Counter(row[0] for row in stage.sql("SELECT id FROM requests WHERE outcome = 'ok' AND ended = 1"))
    return [
        Check("how", disk.what),
        all_of("streams under way, whole, with [DONE]", sum(answer.whole and answer.done for answer in answers), streams),
        at_least("new requests, refused with 503", seen.statuses[503], 1, "requests"),
        none_of("new requests, answered otherwise while it was full", seen.otherwise),
        all_of("ready while it was full", ready_while_full, 503),
        none_of("whole answers without one row that says ok", sum(rows[request_id] != 1 for request_id in wanted)),
        none_of("processes that ended", len(before - set(tree(pid))) + (not stage.child.alive())),
        at_most("full to the first 503", noticed_s, _NOTICED_S, "s", timing=True),
        at_most("freed to the first 200", recovered_s, _RECOVERED_S, "s", timing=True),
        at_most("freed to ready", ready_s, _RECOVERED_S, "s", timing=True),
    ]


class _Seen:
    """`ok`: request ids of whole answers. `told`: from now on nothing but 503 is right; `otherwise`: what came all the same."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.ok: list[str] = []
        self.told = False
        self.otherwise = 0


async def _ask(port: int, number: int, seen: _Seen, stop: asyncio.Event) -> None:
    caller = Caller(port)
    while not stop.is_set():
        told = seen.told
        answer = await caller.ask("mixed", stream=False, marker=f"k{number}")
        seen.statuses[answer.status] += 1
        seen.otherwise += told and seen.told and answer.status != 503
        if answer.status == 200 and answer.whole:
            seen.ok.append(answer.request_id)
        await asyncio.sleep(_PAUSE_S)
    await caller.close()


async def _stream(port: int, model: str, number: int) -> Answer:
    caller = Caller(port)
    answer = await caller.ask(model, stream=True, marker=f"f{number}")
    await caller.close()
    return answer
