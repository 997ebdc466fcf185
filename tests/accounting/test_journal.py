"""The journal's frames, its segments, and what it does when the disk will not have a record."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxy.accounting.journal import HEAD, MIN_FREE_BYTES, RING_RECORDS, Journal, JournalError, read_segment, split_frames
from proxy.accounting.records import Begin, End, Progress, Rejected, RequestEnd, RequestOpen, named, positional

pytestmark = pytest.mark.unit


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


@dataclass
class Disk:
    well: bool = True


class FlakyOs:
    """`os`, but the calls numbered in `fail` go wrong. `fault`: an errno, or "short" for a write that stops half way."""

    def __init__(self, fail: Callable[[int, str], bool], fault: int | str) -> None:
        self.calls = 0
        self.failed = 0
        self._fail = fail
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if not callable(real):
            return real

        def call(*arguments: Any) -> Any:
            self.calls += 1
            if not self._fail(self.calls, name):
                return real(*arguments)
            self.failed += 1
            if self._fault == "short":
                if name == "write":
                    return real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                return real(*arguments)
            if name == "close":
                real(*arguments)  # as Linux does: closed, error or not
            raise OSError(self._fault, os.strerror(int(self._fault)))

        return call


def begin(number: int) -> Begin:
    return Begin(f"R{number}-1", f"R{number}", 1, 1, "openai", "gpt-4o", "cafe0123", 10, None)


def end(number: int) -> End:
    return End(
        f"R{number}-1", f"R{number}", 1, 1, "openai", "gpt-4o", "cafe0123", "ok", 200, None, None, None, 1.5, 2.5,
        10, 0, 0, 5, 0, 0, 0, "provider", 7, "test", 0, "stop", None,
    )  # fmt: skip


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.seg"))


def everything(directory: Path) -> Iterator[dict[str, Any]]:
    for path in segments(directory):
        for _, record in read_segment(path):
            yield record


def ends_in(directory: Path) -> list[str]:
    return [record["attempt_id"] for record in everything(directory) if record["t"] == "E"]


def test_what_is_appended_is_read_back_in_order(tmp_path: Path, clock: FakeClock) -> None:
    journal = Journal(tmp_path, boot_id="BOOT", clock=clock)
    journal.append(begin(1))
    journal.append(Progress("R1-1", 4))
    journal.append(end(1))
    journal.close()
    records = list(everything(tmp_path))
    assert [record["t"] for record in records] == ["B", "P", "E"]
    assert records[2]["cost_nusd"] == 7
    assert records[2]["end"] is None


def test_a_record_is_one_write(tmp_path: Path, clock: FakeClock) -> None:
    counting = FlakyOs(lambda _number, _name: False, 0)
    journal = Journal(tmp_path, boot_id="BOOT", clock=clock, os_module=counting)
    before = counting.calls
    journal.append(end(1))
    assert counting.calls - before == 1
    journal.close()


def test_the_segment_is_private_and_locked_for_life(tmp_path: Path, clock: FakeClock) -> None:
    journal = Journal(tmp_path, boot_id="BOOT", clock=clock)
    (path,) = segments(tmp_path)
    assert path == journal.path
    assert path.name == f"BOOT.{os.getpid()}.000001.seg"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open("rb") as reader:
        with pytest.raises(BlockingIOError):
            fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
        journal.close()
        fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_a_full_segment_is_turned_over_and_the_old_one_let_go(tmp_path: Path, clock: FakeClock) -> None:
    journal = Journal(tmp_path, boot_id="BOOT", clock=clock, segment_bytes=500)
    for number in range(10):
        journal.append(end(number))
    assert len(segments(tmp_path)) > 2
    assert all(path.stat().st_size < 1000 for path in segments(tmp_path))
    assert ends_in(tmp_path) == [f"R{number}-1" for number in range(10)]
    with segments(tmp_path)[0].open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
    journal.close()


def test_an_old_segment_is_turned_over_by_the_tick_an_empty_one_is_not(tmp_path: Path, clock: FakeClock) -> None:
    journal = Journal(tmp_path, boot_id="BOOT", clock=clock, segment_s=60)
    clock.now += 3600
    journal.tick()
    assert len(segments(tmp_path)) == 1
    journal.append(end(1))
    clock.now += 59
    journal.tick()
    assert len(segments(tmp_path)) == 1
    clock.now += 1
    journal.tick()
    assert len(segments(tmp_path)) == 2
    journal.close()


@pytest.mark.parametrize("fault", [errno.EIO, errno.ENOSPC, errno.EINTR, "short"])
def test_whichever_call_fails_no_end_is_lost_and_nothing_follows_a_tear(
    tmp_path: Path, clock: FakeClock, fault: int | str
) -> None:
    """The n-th call fails, for n = 1, 2, … until a run meets no failure any more."""
    for nth in range(1, 200):
        directory = tmp_path / str(nth)
        flaky = FlakyOs(lambda number, _name, nth=nth: number == nth, fault)  # type: ignore[misc]
        try:
            journal = Journal(directory, boot_id="BOOT", clock=clock, segment_bytes=1500, os_module=flaky)
        except JournalError:
            continue
        refused = set()
        for number in range(12):
            try:
                journal.append(begin(number))
            except JournalError:
                refused.add(number)
                continue
            journal.append(end(number))
            journal.tick()
        journal.tick()
        assert journal.waiting == 0
        journal.close()
        expected = [f"R{number}-1" for number in range(12) if number not in refused]
        assert sorted(set(ends_in(directory)), key=lambda name: int(name[1:-2])) == expected
        assert len(refused) <= 1
        if not flaky.failed:
            break
    else:
        pytest.fail("no run without a failure")
    assert nth > 20


@pytest.mark.parametrize("fault", [errno.EIO, errno.ENOSPC, "short"])
def test_while_nothing_can_be_written_ends_wait_and_begins_are_refused(
    tmp_path: Path, clock: FakeClock, fault: int | str
) -> None:
    disk = Disk()
    flaky = FlakyOs(lambda _number, name: not disk.well and name in ("write", "open"), fault)
    journal = Journal(tmp_path, boot_id="BOOT", clock=clock, os_module=flaky)
    journal.append(end(0))
    assert (journal.healthy, journal.waiting) == (True, 0)
    disk.well = False
    journal.append(end(1))
    journal.append(Progress("R9-1", 3))
    assert (journal.healthy, journal.waiting) == (False, 1)
    with pytest.raises(JournalError):
        journal.append(begin(2))
    journal.tick()
    assert (journal.healthy, journal.waiting) == (False, 1)
    disk.well = True
    journal.append(end(3))
    journal.tick()
    assert (journal.healthy, journal.waiting) == (True, 0)
    journal.append(begin(4))
    journal.close()
    assert ends_in(tmp_path) == ["R0-1", "R1-1", "R3-1"]


def test_a_stuck_writer_still_holds_a_lock_so_that_nobody_thinks_it_dead(tmp_path: Path, clock: FakeClock) -> None:
    disk = Disk()
    flaky = FlakyOs(lambda _number, name: not disk.well and name in ("write", "open"), errno.EIO)
    journal = Journal(tmp_path, boot_id="BOOT", clock=clock, os_module=flaky)
    disk.well = False
    journal.append(end(1))
    with segments(tmp_path)[0].open("rb") as reader, pytest.raises(BlockingIOError):
        fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
    journal.close()


def test_the_ring_is_bounded_and_the_end_that_finds_it_full_is_reported(tmp_path: Path, clock: FakeClock) -> None:
    disk = Disk()
    flaky = FlakyOs(lambda _number, name: not disk.well and name in ("write", "open"), errno.ENOSPC)
    journal = Journal(tmp_path, boot_id="BOOT", clock=clock, os_module=flaky)
    disk.well = False
    record = end(1)
    for _ in range(RING_RECORDS):
        journal.append(record)
    assert journal.waiting == RING_RECORDS
    with pytest.raises(JournalError):
        journal.append(record)
    assert (journal.waiting, journal.dropped) == (RING_RECORDS, 1)
    journal.close()


def test_a_full_disk_costs_the_reserve_first(tmp_path: Path, clock: FakeClock) -> None:
    reserve = tmp_path / "reserve.bin"
    disk = Disk()
    flaky = FlakyOs(lambda _number, name: not disk.well and name == "write" and reserve.exists(), errno.ENOSPC)
    journal = Journal(tmp_path, boot_id="BOOT", clock=clock, os_module=flaky)
    assert reserve.stat().st_size == 8 << 20
    disk.well = False
    journal.append(end(1))
    assert not reserve.exists()
    assert journal.waiting == 0
    assert ends_in(tmp_path) == ["R1-1"]
    disk.well = True
    journal.tick()
    assert reserve.exists()
    journal.close()


def test_little_free_space_is_unhealthy_before_it_hurts(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, boot_id="BOOT", clock=clock)
    verdicts = [journal.healthy]
    for free_bytes in (MIN_FREE_BYTES - 1, MIN_FREE_BYTES):
        monkeypatch.setattr(journal, "_free_bytes", lambda free_bytes=free_bytes: free_bytes)
        journal.tick()
        verdicts.append(journal.healthy)
        journal.append(begin(1))  # written either way: shedding is the caller's business
    assert verdicts == [True, False, True]
    journal.close()


def test_a_folder_that_cannot_be_made_is_an_error_at_the_start(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal(tmp_path / "file" / "journal", boot_id="BOOT", clock=clock)


def test_a_closed_journal_takes_nothing(tmp_path: Path, clock: FakeClock) -> None:
    journal = Journal(tmp_path, boot_id="BOOT", clock=clock)
    journal.close()
    journal.tick()
    with pytest.raises(JournalError):
        journal.append(end(1))
    assert (journal.healthy, len(segments(tmp_path))) == (False, 1)


def test_a_record_beyond_the_frame_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    journal = Journal(tmp_path, boot_id="BOOT", clock=clock)
    record = end(1)._replace(error="x" * (1 << 20))
    with pytest.raises(JournalError, match="larger"):
        journal.append(record)
    journal.append(end(2))
    journal.close()
    assert ends_in(tmp_path) == ["R2-1"]


def sample(tmp_path: Path, clock: FakeClock) -> tuple[bytes, list[dict[str, Any]], list[int]]:
    journal = Journal(tmp_path, boot_id="BOOT", clock=clock)
    journal.append(begin(1))
    journal.append(Progress("R1-1", 4))
    journal.append(end(1))
    journal.close()
    (path,) = segments(tmp_path)
    pairs = list(read_segment(path))
    return path.read_bytes(), [record for _, record in pairs], [0, *(offset for offset, _ in pairs)]


def read(data: bytes) -> tuple[list[dict[str, Any]], int]:
    records, size = split_frames(data, 100)
    return [named(record) for record in records], size


def test_cut_after_any_byte_a_segment_gives_its_whole_frames(tmp_path: Path, clock: FakeClock) -> None:
    data, records, offsets = sample(tmp_path, clock)
    for size in range(len(data) + 1):
        whole = sum(1 for offset in offsets[1:] if offset <= size)
        assert read(data[:size]) == (records[:whole], offsets[whole])


@pytest.mark.parametrize("bit", [0x01, 0x10, 0x80])
def test_a_flipped_bit_in_any_byte_ends_the_segment_before_its_frame(tmp_path: Path, clock: FakeClock, bit: int) -> None:
    data, records, offsets = sample(tmp_path, clock)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= bit
        whole = sum(1 for offset in offsets[1:] if offset <= position)
        assert read(bytes(flipped)) == (records[:whole], offsets[whole])


def test_an_absurd_length_is_no_reason_to_wait_for_more() -> None:
    assert split_frames(HEAD.pack(b"LJ02", 0xFFFFFFFF, 0) + b"x" * 100, 100) == ([], 0)


def test_reading_resumes_at_an_offset(tmp_path: Path, clock: FakeClock) -> None:
    _, records, offsets = sample(tmp_path, clock)
    (path,) = segments(tmp_path)
    assert [record for _, record in read_segment(path, offsets[1])] == records[1:]


def test_a_record_has_its_fields_in_the_order_of_its_class() -> None:
    """Every field a value of its own, named again as it was: the order is the format."""
    opened = RequestOpen(*(f"open {index}" for index in range(len(RequestOpen._fields))))  # type: ignore[arg-type]
    closed = RequestEnd(*(f"end {index}" for index in range(len(RequestEnd._fields))))  # type: ignore[arg-type]
    begun = Begin(*range(len(Begin._fields) - 1), opened)  # type: ignore[call-arg]
    ended = End(*range(len(End._fields) - 1), closed)  # type: ignore[call-arg]
    request, end_ = opened._asdict(), closed._asdict()
    assert named(positional(begun)) == {"t": "B", **begun._asdict(), "request": request}
    assert named(positional(Progress("A-1", 5))) == {"t": "P", "attempt_id": "A-1", "output_tokens": 5, "cost_nusd": None}
    assert named(positional(Rejected(opened, closed))) == {"t": "R", "request": request, "end": end_}
    expected = {"t": "E", **ended._asdict(), "end": end_}
    assert named(positional(ended)) == expected
    assert named([*positional(ended), "of a later release"]) == expected


def test_told_to_serve_begins_wait_too_and_leave_room_for_their_ends(tmp_path: Path, clock: FakeClock) -> None:
    disk = Disk()
    flaky = FlakyOs(lambda _number, name: not disk.well and name in ("write", "open"), errno.ENOSPC)
    journal = Journal(tmp_path, boot_id="BOOT", clock=clock, os_module=flaky)
    journal.serves = True
    disk.well = False
    record = begin(1)
    journal.append(end(0))
    for _ in range(RING_RECORDS // 2 - 1):
        journal.append(record)
    with pytest.raises(JournalError):
        journal.append(record)
    assert journal.dropped == 0  # that is for the caller to count, who may refuse instead
    journal.drop()
    journal.append(end(1))
    assert (journal.waiting, journal.dropped) == (RING_RECORDS // 2 + 1, 1)
    assert "requests are answered without a record (1 records are lost since the start)" in str(journal.problem())
    disk.well = True
    journal.tick()
    assert "takes records again: 1 records are lost" in str(journal.problem())
    journal.close()
    assert [record["t"] for record in everything(tmp_path)].count("B") == RING_RECORDS // 2 - 1


def test_while_there_is_no_room_at_all_no_segment_is_tried(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk()
    flaky = FlakyOs(lambda _number, name: not disk.well and name == "write", errno.ENOSPC)
    journal = Journal(tmp_path, boot_id="BOOT", clock=clock, os_module=flaky)
    disk.well = False
    journal.append(end(1))
    there = len(segments(tmp_path))
    monkeypatch.setattr(journal, "_free_bytes", lambda: 0)
    for _ in range(5):
        journal.tick()
    assert len(segments(tmp_path)) == there
    monkeypatch.undo()
    disk.well = True
    journal.tick()
    assert journal.waiting == 0
    journal.close()


def test_a_reserve_that_another_process_gave_up_is_room_all_the_same(tmp_path: Path, clock: FakeClock) -> None:
    disk = Disk()
    writes = iter([False, False, True, True])

    def fails(_number: int, name: str) -> bool:
        return not disk.well and name == "write" and not next(writes)

    journal = Journal(tmp_path, boot_id="BOOT", clock=clock, os_module=FlakyOs(fails, errno.ENOSPC))
    (tmp_path / "reserve.bin").unlink()
    disk.well = False
    journal.append(end(1))
    assert journal.waiting == 0
    journal.close()
    assert ends_in(tmp_path) == ["R1-1"]


@pytest.mark.parametrize("fault", [errno.EIO, errno.ENOSPC, "short"])
@pytest.mark.parametrize("burst", [2, 3, 5, 9])
def test_when_several_calls_in_a_row_fail_ends_wait_and_come_later(
    tmp_path: Path, clock: FakeClock, fault: int | str, burst: int
) -> None:
    """So that the second segment fails too, and giving up the reserve, and making it anew: from every call on."""
    for nth in range(1, 200):
        directory = tmp_path / str(nth)
        disk = Disk(well=False)
        flaky = FlakyOs(lambda number, _name, nth=nth, disk=disk: not disk.well and nth <= number < nth + burst, fault)  # type: ignore[misc]
        try:
            journal = Journal(directory, boot_id="BOOT", clock=clock, segment_bytes=900, os_module=flaky)
        except JournalError:
            continue
        refused = set()
        for number in range(5):
            try:
                journal.append(begin(number))
            except JournalError:
                refused.add(number)
                continue
            journal.append(end(number))
            journal.tick()
        disk.well = True
        journal.tick()
        assert (journal.waiting, journal.dropped, journal.healthy) == (0, 0, True)
        journal.close()
        assert set(ends_in(directory)) == {f"R{number}-1" for number in range(5) if number not in refused}
        if not flaky.failed:
            break
    else:
        pytest.fail("no run without a failure")
