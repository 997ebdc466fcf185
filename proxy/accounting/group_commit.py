"""The journal that survives the machine as well: levels `group` and `strict`.

    append ── write ── unsynced ──┐
                                  │ a thread: 50 ms after the first of them, or at once when an answer waits (`strict`)
    synced ◄── fdatasync ok ──────┤
                                  └─ fdatasync failed ── broken ── the next append or tick: a new segment, all unsynced frames into it,
                                                                   the old descriptor closed and never synced again ── unsynced

After a failed fsync nobody knows what the kernel threw away, and the next one may say that all is well
(https://lwn.net/Articles/752063/): so what was not synced is kept in memory, bounded, and written again elsewhere. A record that is
read twice changes nothing the second time. Of a segment that has a successor the thread closes the descriptor, after its last sync.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from proxy.accounting.journal import RING_RECORDS, Journal, OsCalls
from proxy.accounting.records import Fields
from proxy.core.ports import Clock

FsyncLevel = Literal["process", "group", "strict"]
GROUP_S = 0.05  # what a power failure may cost at most, plus the time that the disk takes
SYNC_WAIT_S = 5.0  # then an answer goes out though its record is not on the disk: its caller has paid for it
_STOP_S = 10.0


def open_journal(
    directory: Path, *, boot_id: str, clock: Clock, fsync: FsyncLevel = "process", os_module: OsCalls = os
) -> Journal:
    """Raises JournalError when not even the first segment can be made."""
    if fsync == "process":
        return Journal(directory, boot_id=boot_id, clock=clock, os_module=os_module)
    return SyncedJournal(directory, boot_id=boot_id, clock=clock, strict=fsync == "strict", os_module=os_module)


class SyncedJournal(Journal):
    """`errors` of syncs are counted in `sync_errors`; `rescued` are frames that were written again elsewhere."""

    def __init__(
        self,
        directory: Path,
        *,
        boot_id: str,
        clock: Clock,
        strict: bool,
        segment_bytes: int = 16 << 20,
        segment_s: float = 60.0,
        os_module: OsCalls = os,
        flock: Callable[[int, int], None] = fcntl.flock,
        threaded: bool = True,
    ) -> None:
        """`threaded` False: whoever made it calls `sync`. Raises JournalError as the other does."""
        self.strict = strict
        self._lock = threading.Lock()  # over what follows, which both threads change
        self._unsynced: deque[bytes] = deque()
        self._last = 0  # the number of the last frame that was written; the first is 1
        self._first = 1  # of the first of `_unsynced`
        self._done = 0  # of the last that is on the disk
        self._retired: list[int] = []
        self._broken = False
        self._rescue_due = False  # the first append after a failure need not wait for the tick
        self._new_name = False
        self._waiters: deque[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[bool]]] = deque()
        self._dirty, self._urgent = threading.Event(), threading.Event()
        self._ending = False
        self._thread: threading.Thread | None = None
        super().__init__(
            directory,
            boot_id=boot_id,
            clock=clock,
            segment_bytes=segment_bytes,
            segment_s=segment_s,
            os_module=os_module,
            flock=flock,
        )
        self._write = self._write_through
        if threaded:
            self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)
            self._thread.start()

    # -- the writer's side

    def append_fields(self, record: Fields) -> None:
        if self._rescue_due and not self._stuck:
            self._rescue()
        super().append_fields(record)

    def tick(self) -> None:
        if self._broken and not self._closed:
            self._rescue()
        super().tick()
        if self._broken:
            self.healthy = False

    async def synced(self) -> bool:
        """Waits until all that was appended is on the disk. False: it is not, and after SYNC_WAIT_S nobody waits any longer."""
        if self._stuck:
            return False
        with self._lock:
            if self._done >= self._last:
                return True
            loop = asyncio.get_running_loop()
            future: asyncio.Future[bool] = loop.create_future()
            self._waiters.append((self._last, loop, future))
        self._urgent.set()
        self._dirty.set()
        try:
            async with asyncio.timeout(SYNC_WAIT_S):
                return await future
        except TimeoutError:
            self.sync_errors += 1
            return False

    def close(self) -> None:
        """Syncs what is left, which may take as long as the disk takes."""
        if self._closed:
            return
        if self._stuck:
            self._try_to_leave_stuck()
        if self._thread is not None:
            self._ending = True
            self._urgent.set()
            self._dirty.set()
            self._thread.join(_STOP_S)
        if self._thread is None or not self._thread.is_alive():
            self.sync()
            if self._broken:
                self._rescue()
                self.sync()
        super().close()

    def _write_through(self, fd: int, frame: bytes) -> int:
        written = self._os.write(fd, frame)
        if written == len(frame):
            with self._lock:
                self._last += 1
                self._unsynced.append(frame)
                if len(self._unsynced) > RING_RECORDS:
                    self._unsynced.popleft()  # a failing sync would lose it; the kernel still has it
                    self._first += 1
            if not self._dirty.is_set():
                self._dirty.set()
        return written

    def _next_segment(self) -> None:
        super()._next_segment()
        self._new_name = True

    def _let_go(self, fd: int) -> None:
        with self._lock:
            self._retired.append(fd)
        self._dirty.set()

    def _rescue(self) -> None:
        """What is not known to be on the disk goes to a new segment; what was tried and failed is never tried again."""
        self._rescue_due = False
        with self._lock:
            frames, abandoned = list(self._unsynced), self._retired
            self._retired = []
        self._close_all(abandoned)
        try:
            super()._next_segment()
        except OSError:
            self.errors += 1
            return  # what comes meanwhile is at least in the kernel; the next tick tries again
        self._new_name = True
        with self._lock:
            abandoned, self._retired = self._retired, []
        self._close_all(abandoned)
        for frame in frames:
            if not self._write_again(frame):
                self.errors += 1
                self._stuck, self.healthy = True, False  # nothing is written behind the tear
                return
        self.rescued += len(frames)
        with self._lock:
            self._broken = False
        self._dirty.set()
        if self._waiters:
            self._urgent.set()

    def _write_again(self, frame: bytes) -> bool:
        try:
            written = self._os.write(self._fd, frame)
        except OSError:
            return False
        self._size += written
        return written == len(frame)

    def _close_all(self, descriptors: list[int]) -> None:
        for fd in descriptors:
            self._close_quietly(fd)

    # -- the thread's side

    def sync(self) -> None:
        """One group. Raises nothing."""
        with self._lock:
            if self._broken:
                return
            upto, fd, retired = self._last, self._fd, self._retired
            dirty = upto > self._done
            self._retired = []
            new_name, self._new_name = self._new_name, False
        failed = False
        for old in retired:
            failed |= not self._sync_one(old)
            self._close_quietly(old)
        if dirty and fd >= 0:
            failed |= not self._sync_one(fd)
        if dirty and new_name:
            failed |= not self._sync_names()
        with self._lock:
            if failed:
                self.sync_errors += 1
                self._broken = self._rescue_due = True
                woken = []
                rescuer = self._waiters[0][1] if self._waiters else None
            else:
                self._done = upto
                while self._first <= upto:
                    self._unsynced.popleft()
                    self._first += 1
                woken = self._take_waiters(upto)
                rescuer = None
        for loop, future in woken:
            _call(loop, _answer, future)
        if rescuer is not None:
            _call(rescuer, self._rescue_if_broken)

    def _rescue_if_broken(self) -> None:
        if self._rescue_due and not self._closed:
            self._rescue()

    def _take_waiters(self, upto: int) -> list[tuple[asyncio.AbstractEventLoop, asyncio.Future[bool]]]:
        woken = []
        while self._waiters and self._waiters[0][0] <= upto:
            _, loop, future = self._waiters.popleft()
            woken.append((loop, future))
        return woken

    def _sync_one(self, fd: int) -> bool:
        try:
            self._os.fdatasync(fd)
        except OSError:
            return False
        return True

    def _sync_names(self) -> bool:
        try:
            folder = self._os.open(str(self._directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            self._os.fsync(folder)
        except OSError:
            return False
        finally:
            self._close_quietly(folder)
        return True

    def _run(self) -> None:
        while not self._ending:
            self._dirty.wait()
            self._urgent.wait(GROUP_S)
            self._dirty.clear()
            self._urgent.clear()
            self.sync()


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        return  # the loop is closed: nobody waits there any more


def _answer(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(True)
