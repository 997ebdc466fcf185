"""The levels of the journal that survive the machine: what was synced when, and what becomes of frames whose sync failed."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.accounting import group_commit
from proxy.accounting.group_commit import SyncedJournal, open_journal
from proxy.accounting.journal import RING_RECORDS, TELL_S, Journal, JournalError
from tests.accounting.test_journal import Disk, FakeClock, FlakyOs, begin, end, ends_in, segments

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


class WatchedOs:
    """`os`, which says what was synced. `fail` is asked before each sync; a descriptor whose sync failed must not be synced again."""

    def __init__(self, fail: Callable[[], bool] = lambda: False) -> None:
        self.synced: list[str] = []
        self.failed: set[str] = set()
        self._fail = fail

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fdatasync(self, fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        assert path not in self.failed, "synced again after a failure"
        if self._fail():
            self.failed.add(path)
            raise OSError(errno.EIO, "Input/output error")
        self.synced.append(Path(path).name)
        os.fdatasync(fd)


def journal_in(directory: Path, *, os_module: Any = os, **options: Any) -> SyncedJournal:
    given = {"boot_id": "BOOT", "clock": FakeClock(), "strict": False, "threaded": False, **options}
    return SyncedJournal(directory, os_module=os_module, **given)


def test_only_the_levels_that_are_asked_for_sync(tmp_path: Path) -> None:
    clock = FakeClock()
    for level in ("process", "group", "strict"):
        watched = WatchedOs()
        journal = open_journal(tmp_path / level, boot_id="BOOT", clock=clock, fsync=level, os_module=watched)
        journal.append(end(1))
        assert (type(journal) is Journal, journal.strict) == (level == "process", level == "strict")
        journal.close()
        assert bool(watched.synced) == (level != "process")
        assert ends_in(tmp_path / level) == ["R1-1"]


async def test_what_was_appended_to_a_plain_journal_is_as_safe_as_it_gets(tmp_path: Path) -> None:
    journal = Journal(tmp_path, boot_id="BOOT", clock=FakeClock())
    journal.append(end(1))
    assert await journal.synced()
    journal.close()


def test_a_segment_is_synced_before_it_is_given_up_and_once_if_nothing_new_came(tmp_path: Path) -> None:
    watched = WatchedOs()
    journal = journal_in(tmp_path, os_module=watched, segment_bytes=500)
    journal.sync()
    assert watched.synced == []
    for number in range(6):
        journal.append(end(number))
    journal.sync()
    names = [path.name for path in segments(tmp_path)]
    assert len(names) > 1
    assert sorted(watched.synced) == names
    journal.sync()
    assert len(watched.synced) == len(names)
    journal.close()


def test_after_a_failed_sync_its_frames_are_written_elsewhere_and_the_descriptor_is_never_synced_again(tmp_path: Path) -> None:
    disk = Disk()
    watched = WatchedOs(lambda: not disk.well)
    journal = journal_in(tmp_path, os_module=watched)
    journal.append(end(0))
    journal.sync()
    disk.well = False
    journal.append(end(1))
    journal.sync()
    disk.well = True
    assert (journal.sync_errors, journal.rescued) == (1, 0)
    journal.append(end(2))
    journal.sync()
    assert (journal.rescued, journal.healthy) == (1, True)
    first, second = segments(tmp_path)
    assert ends_in(tmp_path) == ["R0-1", "R1-1", "R1-1", "R2-1"]
    assert watched.synced == [first.name, second.name]
    journal.close()


def test_without_an_append_the_tick_writes_them_again_and_till_then_begins_are_unwelcome(tmp_path: Path) -> None:
    clock = FakeClock()
    disk = Disk()
    flaky = FlakyOs(lambda _number, name: not disk.well and name in ("fdatasync", "open"), errno.EIO)
    journal = journal_in(tmp_path, os_module=flaky, clock=clock)
    disk.well = False
    journal.append(end(1))
    journal.sync()
    journal.tick()
    assert not journal.healthy
    assert "cannot be written" in str(journal.problem())
    journal.append(end(2))  # no new segment can be had: in the kernel at least
    disk.well = True
    journal.tick()
    journal.sync()
    journal.tick()
    assert (journal.healthy, journal.rescued) == (True, 2)
    assert "failed and takes records again" in str(journal.problem())
    clock.now += TELL_S
    assert journal.problem() is None
    journal.close()
    assert set(ends_in(tmp_path)) == {"R1-1", "R2-1"}


@pytest.mark.parametrize("fault", [errno.EIO, errno.ENOSPC, errno.EINTR, "short"])
def test_whichever_call_fails_no_end_is_lost(tmp_path: Path, fault: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th call fails, syncs and renames among them, for n = 1, 2, … until a run meets no failure any more."""
    for name in ("fdatasync", "fsync"):
        monkeypatch.setattr(os, name, lambda _fd: None)  # the disk's own time would be most of the test's
    for nth in range(1, 300):
        directory = tmp_path / str(nth)
        flaky = FlakyOs(lambda number, _name, nth=nth: number == nth, fault)  # type: ignore[misc]
        try:
            journal = journal_in(directory, os_module=flaky, segment_bytes=700)
        except JournalError:
            continue
        refused = set()
        for number in range(4):
            try:
                journal.append(begin(number))
            except JournalError:
                refused.add(number)
                continue
            journal.append(end(number))
            journal.sync()
            journal.tick()
        journal.close()
        expected = {f"R{number}-1" for number in range(4) if number not in refused}
        assert set(ends_in(directory)) == expected
        assert len(refused) <= 1
        assert journal.dropped == 0
        if not flaky.failed:
            break
    else:
        pytest.fail("no run without a failure")
    assert nth > 20


def test_what_is_kept_for_a_failing_sync_is_bounded(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    for _ in range(RING_RECORDS + 5):
        journal.append_fields(("P", "R1-1", 1))
    assert len(journal._unsynced) == RING_RECORDS
    journal.sync()
    assert len(journal._unsynced) == 0
    journal.append(end(1))
    journal.sync()
    assert len(journal._unsynced) == 0
    journal.close()


# -- what an answer waits for


async def test_an_answer_waits_until_its_record_is_on_the_disk(tmp_path: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()

    class SlowOs(WatchedOs):
        def fdatasync(self, fd: int) -> None:
            reached.set()
            go_on.wait(20)
            super().fdatasync(fd)

    journal = journal_in(tmp_path, os_module=SlowOs(), strict=True, threaded=True)
    journal.append(end(1))
    waiting = asyncio.create_task(journal.synced())
    await asyncio.to_thread(reached.wait, 20)
    assert not waiting.done()
    go_on.set()
    assert await asyncio.wait_for(waiting, 20)
    assert await journal.synced()  # nothing new: at once
    journal.close()


async def test_a_failed_sync_makes_it_wait_for_the_next_segment(tmp_path: Path) -> None:
    failures = [True]
    watched = WatchedOs(lambda: bool(failures) and failures.pop())
    journal = journal_in(tmp_path, os_module=watched, strict=True, threaded=True)
    journal.append(end(1))
    assert await asyncio.wait_for(journal.synced(), 20)
    assert (journal.sync_errors, journal.rescued) == (1, 1)
    assert watched.synced == [segments(tmp_path)[-1].name]
    journal.close()
    assert ends_in(tmp_path) == ["R1-1", "R1-1"]


async def test_it_does_not_wait_for_ever_and_not_for_what_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "SYNC_WAIT_S", 0.01)
    journal = journal_in(tmp_path / "slow", strict=True)  # nobody syncs
    journal.append(end(1))
    assert not await journal.synced()
    assert journal.sync_errors == 1
    journal.close()
    disk = Disk()
    flaky = FlakyOs(lambda _number, name: not disk.well and name in ("write", "open"), errno.ENOSPC)
    journal = journal_in(tmp_path / "full", os_module=flaky, strict=True)
    disk.well = False
    journal.append(end(1))
    assert not await journal.synced()
    disk.well = True
    journal.close()
    assert ends_in(tmp_path / "full") == ["R1-1"]


async def test_who_leaves_while_waiting_disturbs_nobody(tmp_path: Path) -> None:
    journal = journal_in(tmp_path, strict=True)
    journal.append(end(1))
    leaves, stays = asyncio.create_task(journal.synced()), asyncio.create_task(journal.synced())
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.to_thread(journal.sync)
    assert await asyncio.wait_for(stays, 20)
    assert leaves.cancelled() or leaves.done()
    journal.close()
