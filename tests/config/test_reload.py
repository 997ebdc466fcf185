"""A change is seen, also as a rename; a half-written file is not read; a broken one changes nothing. No clock: every look is a call."""

import asyncio
import os
from pathlib import Path

import pytest

from proxy.config.faults import ConfigError
from proxy.config.load import load
from proxy.config.reload import INTERVAL_S, ConfigWatcher
from proxy.config.settings import Settings

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

FIRST = "chains: {first: [demo/chat]}\n"
SECOND = "chains: {second: [demo/chat]}\n"
BROKEN = "chains: {second: [demo/chat\n"


class Watched:
    def __init__(self, folder: Path, text: str = FIRST) -> None:
        self.file = folder / "providers.yaml"
        self.file.write_text(text)
        self.told: list[list[str] | ConfigError] = []
        self.watcher = ConfigWatcher(self.read, self.read(), self.changed, self.told.append)

    def read(self) -> Settings:
        return load(self.file, environ={})

    def changed(self, settings: Settings) -> None:
        self.told.append(list(settings.chains))

    async def look(self, times: int = 1) -> list[list[str] | ConfigError]:
        """What is told at these looks."""
        self.told.clear()
        for _ in range(times):
            await self.watcher.look()
        return list(self.told)


async def test_a_change_is_read_once_it_has_looked_the_same_twice(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    assert await watched.look(3) == []
    watched.file.write_text(SECOND)
    assert await watched.look() == []
    assert await watched.look() == [["second"]]
    assert await watched.look(3) == []


async def test_a_rename_over_the_file_is_a_change_even_with_the_same_time_and_size(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "chains: {first_: [demo/chat]}\n")
    times = watched.file.stat()
    new = tmp_path / "new"
    new.write_text(SECOND)
    os.utime(new, ns=(times.st_atime_ns, times.st_mtime_ns))
    new.rename(watched.file)
    assert await watched.look(2) == [["second"]]


async def test_a_file_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    for cut in range(1, len(SECOND) + 1):
        watched.file.write_text(SECOND[:cut])
        assert await watched.look() == []
    assert await watched.look() == [["second"]]


async def test_a_broken_file_gets_one_more_look_and_is_told_once(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.file.write_text(BROKEN)
    assert await watched.look(2) == []
    (error,) = await watched.look()
    assert isinstance(error, ConfigError)
    assert await watched.look(3) == []
    watched.file.write_text(SECOND)
    assert await watched.look(2) == [["second"]]


async def test_going_back_to_the_good_file_is_told_too(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.file.write_text(BROKEN)
    assert len(await watched.look(3)) == 1
    watched.file.write_text(FIRST)
    assert await watched.look(2) == [["first"]]


async def test_a_file_that_is_gone_is_an_error_and_its_return_a_change(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.file.unlink()
    (error,) = await watched.look(3)
    assert isinstance(error, ConfigError)
    watched.file.write_text(SECOND)
    assert await watched.look(2) == [["second"]]


async def test_the_env_file_and_secret_files_are_watched_even_before_they_are_there(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "providers: {groq: {api_key: '${file:key}'}}\nchains: {a: [groq/x]}")
    (tmp_path / "key").write_text("k-123")
    assert await watched.look(2) == [["a"]]
    (tmp_path / ".env").write_text("X=1")
    assert await watched.look(2) == [["a"]]


async def test_a_trigger_reads_at_the_next_look_changed_or_not(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.watcher.trigger()
    assert await watched.look() == [["first"]]
    watched.file.write_text(BROKEN)
    watched.watcher.trigger()
    (error,) = await watched.look()
    assert isinstance(error, ConfigError)
    assert await watched.look(3) == []


async def test_it_looks_often_enough_for_a_change_to_count_within_a_second(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 4:
            raise asyncio.CancelledError

    watched.file.write_text(SECOND)
    watcher = ConfigWatcher(watched.read, watched.read(), watched.changed, watched.told.append, sleep=sleep)
    watched.file.write_text(FIRST)
    with pytest.raises(asyncio.CancelledError):
        await watcher.run()
    assert slept == [INTERVAL_S] * 4
    assert watched.told == [["first"]]
    # a change just after a look: two looks and the second chance of a broken file
    assert 3 * INTERVAL_S < 1
