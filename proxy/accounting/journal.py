"""The journal: what must survive `kill -9`, appended with one `write` a record, before anybody is told that it happened.

A segment is `<boot ulid>.<pid>.<sequence>.seg`, written by one process and held under `flock` as long as that process may still
append to it or has nothing newer: a lock that can be had means that the segment is finished. A frame is

    "LJ02" | length u32 | crc32 u32 | payload          little-endian; crc over the payload, seeded with the length

and its payload one record of `accounting/records.py`, a JSON array. After a short write or an error nothing is ever appended behind the
tear: the frame goes whole into the next segment. A reader stops at the first frame that is not whole.

    append ── ok
       └─ error ── next segment ── ok
                      └─ ENOSPC ── reserve.bin is given up ── next segment ── ok
                                                                  └─ stuck: ends wait in the ring, begins are refused;
                                                                     each tick tries the next segment, then empties the ring

A segment is born as `….new`, locked, then renamed: no reader ever meets one unlocked. `docs/ledger.md` has the guarantees; the levels
that survive the machine as well are in `group_commit.py`.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from errno import ENOSPC
from itertools import islice
from pathlib import Path
from struct import Struct
from typing import Any, Protocol

import orjson

from proxy.accounting.records import Fields, Record, named, positional
from proxy.core.ports import Clock

MAGIC = b"LJ02"
HEAD = Struct("<4sII")
MAX_PAYLOAD_BYTES = 1 << 20
RESERVE_BYTES = 8 << 20
MIN_FREE_BYTES = 64 << 20
RING_RECORDS = 10_000
TELL_S = 300.0  # how long a fault that is over is a problem still
SEGMENT_SUFFIX = ".seg"
_WORTH_A_TRY_BYTES = 1 << 20
_KEPT = "ER"
_REFUSABLE = "BQ"  # what they announce does not happen when they cannot be written: nothing is lost


class JournalError(Exception):
    """The record is in no file and in no ring: what it announces must not happen."""


class OsCalls(Protocol):
    """The part of `os` that the journal uses; a test passes one that fails."""

    def open(self, path: str, flags: int, mode: int = ..., /) -> int: ...
    def write(self, fd: int, data: bytes, /) -> int: ...
    def close(self, fd: int, /) -> None: ...
    def rename(self, src: str, dst: str, /) -> None: ...
    def unlink(self, path: str, /) -> None: ...
    def statvfs(self, path: str, /) -> os.statvfs_result: ...
    def posix_fallocate(self, fd: int, offset: int, length: int, /) -> None: ...
    def fdatasync(self, fd: int, /) -> None: ...
    def fsync(self, fd: int, /) -> None: ...


class Journal:
    """The writing end, for one process and thread. Level `process`: what was appended survives the process, not the machine.

    `healthy`: begins are welcome. `serves`: set by the owner where requests are to be answered without a record rather than refused.
    Counts since the start: `errors` (calls that failed), `dropped` (records that are lost), and `sync_errors` and `rescued`, for which see
    `group_commit.py`.
    """

    strict = False  # whether the last bytes of an answer wait for `synced`

    def __init__(
        self,
        directory: Path,
        *,
        boot_id: str,
        clock: Clock,
        segment_bytes: int = 16 << 20,
        segment_s: float = 60.0,
        os_module: OsCalls = os,
        flock: Callable[[int, int], None] = fcntl.flock,
    ) -> None:
        """Raises JournalError when not even the first segment can be made."""
        self.healthy = True
        self.serves = False
        self.errors = 0
        self.dropped = 0
        self.sync_errors = 0
        self._told_dropped = self._told_sync_errors = 0
        self._told_until_s = 0.0
        self.rescued = 0
        self._directory = directory
        self._stem = f"{boot_id}.{os.getpid()}"
        self._monotonic = clock.monotonic
        self._segment_bytes = segment_bytes
        self._segment_s = segment_s
        self._os = os_module
        self._write = os_module.write
        self._flock = flock
        self._reserve = directory / "reserve.bin"
        self._ring: deque[bytes] = deque()
        self._sequence = 0
        self._fd = -1
        self._size = 0
        self._opened_s = 0.0
        self._stuck = False
        self._closed = False
        self.path = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._next_segment()
        except OSError as error:
            raise JournalError(f"the journal in {directory} cannot be opened: {error.strerror}") from error
        self.tick()

    def append(self, record: Record) -> None:
        """A record with its names: as `append_fields`, for whoever is in no hurry."""
        self.append_fields(positional(record))

    def append_fields(self, record: Fields) -> None:
        """A record by position, its letter first: what the hot path makes, where naming the fields would cost more than writing them.

        Raises JournalError for a begin that cannot be written, and for an end that finds the ring full as well.
        """
        payload = orjson.dumps(record)
        size = len(payload)
        frame = HEAD.pack(MAGIC, size, zlib.crc32(payload, size)) + payload
        if size > MAX_PAYLOAD_BYTES:
            self.dropped += 1
            raise JournalError("the record is larger than a frame may be")
        if self._stuck:
            self._keep_in_ring(record, frame)
            return
        if self._size >= self._segment_bytes:
            self._turn_over()
        try:
            written = self._write(self._fd, frame)
        except OSError as error:
            self._append_elsewhere(record, frame, error)
            return
        if written != len(frame):
            self._append_elsewhere(record, frame, None)
            return
        self._size += written

    def tick(self) -> None:
        """Once a second: turn over a segment that is old, leave the stuck state, look at the disk. Raises nothing."""
        if self._closed:
            return
        if self._stuck:
            self._try_to_leave_stuck()
        elif not self._size:
            self._opened_s = self._monotonic()
        elif self._monotonic() - self._opened_s >= self._segment_s:
            self._turn_over()
        free = self._free_bytes()
        if free >= MIN_FREE_BYTES + RESERVE_BYTES and not self._stuck:
            self._keep_reserve()
        self.healthy = free >= MIN_FREE_BYTES and not self._stuck

    def close(self) -> None:
        """Gives the segment up; what waits in the ring gets a last try."""
        if self._stuck:
            self._try_to_leave_stuck()
        if self._fd >= 0:
            self._close_quietly(self._fd)
            self._fd = -1
        self._stuck = self._closed = True
        self.healthy = False

    def problem(self) -> str | None:
        """A sentence for the operator on what is wrong, or was within the last minutes. None: nothing."""
        if not self.healthy:
            follows = "requests are answered without a record" if self.serves else "new requests are refused"
            lost = f" ({self.dropped} records are lost since the start)" if self.dropped else ""
            return f"The ledger's disk is full or cannot be written: {follows}{lost}."
        if self.dropped != self._told_dropped or self.sync_errors != self._told_sync_errors:
            self._told_dropped, self._told_sync_errors = self.dropped, self.sync_errors
            self._told_until_s = self._monotonic() + TELL_S
        if self._monotonic() >= self._told_until_s:
            return None
        return (
            f"The ledger's disk failed and takes records again: {self.dropped} records are lost since the start, "
            f"{self.sync_errors} syncs failed and {self.rescued} records were written again elsewhere."
        )

    async def synced(self) -> bool:
        """Whether all that was appended is on the disk, after a wait where this level has one. What `process` promises holds at once."""
        return True

    def drop(self) -> None:
        """Counts a record that was not written because the request is served all the same."""
        self.dropped += 1

    @property
    def waiting(self) -> int:
        """Ended attempts that are in memory only."""
        return len(self._ring)

    def _append_elsewhere(self, record: Fields, frame: bytes, error: OSError | None) -> None:
        """The segment is torn, or may be: the whole frame goes to the next one. Short writes are treated as a full disk."""
        self.errors += 1
        if self._write_to_next(frame):
            return
        if (error is None or error.errno == ENOSPC) and self._give_up_reserve() and self._write_to_next(frame):
            return
        self._stuck = True
        self.healthy = False
        self._keep_in_ring(record, frame)

    def _keep_in_ring(self, record: Fields, frame: bytes) -> None:
        """An end happened and must not be forgotten; a begin can still be refused, or waits where its end has room behind it; of progress
        there will be more."""
        if record[0] == "P":
            return
        room = RING_RECORDS if record[0] in _KEPT else RING_RECORDS // 2 if record[0] == "B" and self.serves else 0
        if len(self._ring) < room and not self._closed:
            self._ring.append(frame)
            return
        if record[0] not in _REFUSABLE:
            self.dropped += 1
        raise JournalError("the journal cannot be written")

    def _try_to_leave_stuck(self) -> None:
        if self._free_bytes() < _WORTH_A_TRY_BYTES:
            return  # each try makes a segment
        try:
            self._next_segment()
            while self._ring:
                frame = self._ring[0]
                if self._write(self._fd, frame) != len(frame):
                    self.errors += 1
                    return
                self._size += len(frame)
                self._ring.popleft()
        except OSError:
            self.errors += 1
            return
        self._stuck = False

    def _turn_over(self) -> None:
        """A new segment where that is possible; where it is not, the old one is whole and serves on."""
        try:
            self._next_segment()
        except OSError:
            self.errors += 1
            self._size = 0  # so that the next append does not try again at once
            self._opened_s = self._monotonic()

    def _write_to_next(self, frame: bytes) -> bool:
        try:
            self._next_segment()
            written = self._write(self._fd, frame)
        except OSError:
            self.errors += 1
            return False
        self._size = written
        return written == len(frame)

    def _next_segment(self) -> None:
        """The old segment is let go only when the new one is there: a living writer always holds a lock."""
        self._sequence += 1
        born = self._directory / f"{self._stem}.{self._sequence:06d}.new"
        path = born.with_suffix(SEGMENT_SUFFIX)
        fd = self._os.open(str(born), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._os.rename(str(born), str(path))
        except OSError:
            self._close_quietly(fd)
            raise
        old, self._fd, self.path = self._fd, fd, path
        self._size = 0
        self._opened_s = self._monotonic()
        if old >= 0:
            self._let_go(old)

    def _let_go(self, fd: int) -> None:
        """Of a segment that has a successor."""
        self._close_quietly(fd)

    def _close_quietly(self, fd: int) -> None:
        try:
            self._os.close(fd)
        except OSError:
            self.errors += 1  # Linux has closed it all the same

    def _free_bytes(self) -> int:
        try:
            state = self._os.statvfs(str(self._directory))
        except OSError:
            self.errors += 1
            return 0
        return state.f_bavail * state.f_frsize

    def _keep_reserve(self) -> None:
        if self._reserve.exists():
            return
        try:
            fd = self._os.open(str(self._reserve), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            self.errors += 1
            return
        try:
            self._os.posix_fallocate(fd, 0, RESERVE_BYTES)
        except OSError:
            self.errors += 1
        self._close_quietly(fd)

    def _give_up_reserve(self) -> bool:
        try:
            self._os.unlink(str(self._reserve))
        except FileNotFoundError:
            return True  # another process gave it up, perhaps just now
        except OSError:
            return False
        return True


def frames(data: bytes, position: int = 0) -> Iterator[tuple[int, bytes]]:
    """Each whole frame's payload and the position behind it. Stops before the first that is cut short or not as written."""
    size, head, crc32, unpack = len(data), HEAD.size, zlib.crc32, HEAD.unpack_from
    while (start := position + head) <= size:
        magic, length, crc = unpack(data, position)
        position = start + length
        if magic != MAGIC or length > MAX_PAYLOAD_BYTES or position > size:
            return
        payload = data[start:position]
        if crc32(payload, length) != crc:
            return
        yield position, payload


def split_frames(data: bytes, limit: int) -> tuple[list[Fields], int]:
    """At most `limit` records from the head of `data`, and the bytes that they take. What is no JSON comes as an empty record."""
    payloads, size = [], 0
    for position, payload in islice(frames(data), limit):
        payloads.append(payload)
        size = position
    try:
        records = orjson.loads(b"[%b]" % b",".join(payloads))
    except orjson.JSONDecodeError:
        records = []
    if len(records) != len(payloads):
        records = [_record(payload) for payload in payloads]
    return records, size


def _record(payload: bytes) -> Fields:
    try:
        record: Fields = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return []
    return record


def read_segment(path: Path, offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each whole record of a segment by names, with the offset behind it, up to the end or the first tear."""
    for position, payload in frames(path.read_bytes(), offset):
        yield position, named(orjson.loads(payload))
