"""The drainer: takes the journal into SQLite, in a process of its own, `python -m proxy.storage.drainer DATA_DIR`.

One per data directory, by `flock` on `drainer.lock`; a second waits its turn. It stops when its standard input ends (its parent
died) or on SIGTERM, after a last pass. To standard output goes one line, `caught-up`, once everything that was there at the start
is in the tables; to standard error JSON lines about what an operator should know. `docs/ledger.md` argues for exactly once.

    records of all segments ── fold.Batch ── one transaction: rows, sums, positions ── commit ── finished segments are set aside
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import orjson

from proxy.accounting.journal import split_frames
from proxy.storage import sqlite
from proxy.storage.fold import Batch, interrupted_attempt
from proxy.storage.ledger import Ledger
from proxy.storage.pruning import Pruner
from proxy.storage.retention import read_retention
from proxy.storage.segments import READ_BYTES, Segments, writer_of
from proxy.storage.soundness import Soundness

BATCH_RECORDS = 2000
POLL_S = 0.1
MANY_RECORDS = 100
MANY_POLL_S = 0.3  # a batch has its price, whatever is in it: where there is much to take in, more of it together
IDLE_POLL_S = 0.4
_RETRY_S = 0.1
_ENDING_S = 10.0  # within which a server that ends is done with its ledger
ORPHAN_AFTER_S = 60.0
_SWEEP_EVERY_S = 5.0
_PRUNE_EVERY_S = 60.0
_BACKOFF_MAX_S = 5.0
_REBUILD_PAUSE_MAX_S = 60.0
LOCK = "drainer.lock"

_SAVE_POSITION = """
INSERT INTO segments (name, position, finished) VALUES (?, ?, ?)
ON CONFLICT (name) DO UPDATE SET position = excluded.position, finished = excluded.finished"""
_COUNT = "INSERT INTO counters (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
_ORPHAN_ATTEMPTS = """
SELECT request_id, n, time_ms, provider, upstream_model, credential, output_tokens, cost_nusd, at_risk_tokens, writer
FROM attempts WHERE rank < 2 AND time_ms <= :until"""
_ORPHAN_REQUESTS = """
SELECT id, attempts, writer FROM request_rows WHERE ended = 0 AND time_ms <= :until
AND NOT EXISTS (SELECT 1 FROM attempt_rows WHERE request_id = id AND (rank < 2 OR time_ms > :until))"""

Log = Callable[[str, dict[str, Any]], None]
Made = TypeVar("Made")


_UNSTORABLE = (
    OverflowError, sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError,
    TypeError, ValueError,
)  # fmt: skip


class DrainerBusy(Exception):
    """Another drainer works on this data directory."""


@dataclass(slots=True)
class _Read:
    """What one step took from the segments, and where it stands in each."""

    batch: Batch = field(default_factory=Batch)
    taken: int = 0
    moved: dict[str, int] = field(default_factory=dict)  # segment -> new position
    ended: dict[str, int] = field(default_factory=dict)  # finished segment -> bytes of a torn frame at its end


def log_to_stderr(event: str, fields: dict[str, Any]) -> None:
    """A line as the server's log has them (`telemetry/logs.py`)."""
    now_s = time.time()
    at = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now_s))}.{int(now_s % 1 * 1000):03d}Z"
    _tell(2, orjson.dumps({"time": at, "level": fields.get("level", "info"), "event": event, **fields}) + b"\n")


def _tell(fd: int, line: bytes) -> None:
    try:
        os.write(fd, line)
    except OSError:
        pass  # the parent was killed and nobody listens; its last records must be taken in all the same


class Drainer:
    """Drives the whole of it by `step`. Not for two threads."""

    def __init__(
        self, data_dir: Path, wall: Callable[[], float], *, log: Log = log_to_stderr, batch_records: int = BATCH_RECORDS
    ) -> None:
        """Raises DrainerBusy, sqlite.LedgerTooNew and sqlite3.Error."""
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = data_dir / sqlite.LEDGER
        self._wall = wall
        self._log = log
        self._batch_records = batch_records
        self.caught_up = False  # the last step took all that was there
        self.rebuilds = 0
        self._disturbed = False
        self._careful = 0  # steps to be taken with one record each
        self._skip = False
        self._lock_fd = _take_lock(data_dir / LOCK)
        self._connection: sqlite3.Connection | None = None
        self._ledger: Ledger | None = None
        self._pruner: Pruner | None = None
        self._data_dir = data_dir
        self._inode = (0, 0)
        self._written = (0, 0)  # when the file was last written, by us, and its size then
        self._positions: dict[str, int] = {}
        self._finished: set[str] = set()
        self._next_sweep_s = 0.0
        self._next_prune_s = 0.0
        try:
            self._segments = Segments(data_dir / "journal")
            self._open()
        except BaseException:
            self.close()
            raise

    def step(self) -> int:
        """One batch: the number of records taken in. Raises sqlite3.Error with nothing changed: call again, later."""
        try:
            self._follow_the_name()
            taken = self._take_batch()
            self.caught_up = taken == 0 or (taken < self._batch_records and not self._careful)
            if self.caught_up:
                now_s = self._wall()
                os.utime(self._lock_fd, (now_s, now_s))  # all that was there is in: `queries.ledger_lag` reads it
            self._sweep_when_due()
            self._prune_when_due()
            if self.caught_up and self._pruner is not None:
                self._pruner.step(self._wall())
        except sqlite3.Error as error:
            self._roll_back()
            if not sqlite.is_corrupt(error):
                raise
            self.rebuild(str(error))
            return 1
        self._note()
        return taken

    def was_disturbed(self) -> bool:
        """Since it was last asked: somebody else wrote into the file, which may be damaged now. Nothing of it need be read to notice."""
        disturbed, self._disturbed = self._disturbed, False
        return disturbed

    def drain(self) -> int:
        """Steps until nothing is left."""
        total = 0
        while taken := self.step():
            total += taken
        return total

    def rebuild(self, reason: str) -> None:
        """Sets the database aside as corrupt; the next steps fill a new one from every segment that is still kept."""
        self._disconnect()
        aside = sqlite.set_aside(self._path, f".corrupt-{int(self._wall())}")
        self._log("ledger_corrupt", {"level": "error", "reason": reason, "kept_as": aside.name})
        self._connect()
        self._count("corrupt", 1)
        self.caught_up = False
        self._disturbed = False
        self.rebuilds += 1

    def exclusively(self, work: Callable[[sqlite3.Connection, Ledger], Made]) -> Made:
        """What somebody else wants of the one writer, in one transaction. Raises what `work` raises, with nothing changed."""
        assert self._ledger is not None
        self._database.execute("BEGIN IMMEDIATE")
        try:
            made = work(self._database, self._ledger)
            self._database.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        self._ledger.forget()
        return made

    def close(self) -> None:
        self._disconnect()
        os.close(self._lock_fd)

    def _open(self) -> None:
        try:
            self._connect()
        except sqlite3.Error as error:
            if not sqlite.is_corrupt(error):
                raise
            self.rebuild(str(error))

    def _follow_the_name(self) -> None:
        """A file that was taken away or replaced under us is not written to any more: the kept segments fill the one that is there."""
        try:
            state = os.stat(self._path)
        except FileNotFoundError:
            state = None
        if self._connection is None or state is None or (state.st_dev, state.st_ino) != self._inode:
            self._disconnect()
            self._open()
        elif (state.st_mtime_ns, state.st_size) != self._written:
            self._disturbed = True

    def _note(self) -> None:
        """What the file looks like now that nobody but us has written into it."""
        try:
            state = os.stat(self._path)
        except FileNotFoundError:
            return  # taken away just now: the next step follows the name
        if (state.st_dev, state.st_ino) == self._inode:
            self._written = (state.st_mtime_ns, state.st_size)

    def _connect(self) -> None:
        self._connection = sqlite.open_writer(self._path)
        self._ledger = Ledger(self._connection)
        self._pruner = Pruner(self._connection, self._ledger, lambda: read_retention(self._data_dir))
        state = os.stat(self._path)
        self._inode = (state.st_dev, state.st_ino)
        self._note()
        kept = set(self._segments.kept())
        known = self._connection.execute("SELECT name, position, finished FROM segments").fetchall()
        self._positions = {name: position for name, position, _ in known}
        self._finished = {name for name, _, finished in known if finished}
        for name in kept - self._finished:
            self._segments.bring_back(name)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _database(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    def _write(self, batch: Batch) -> None:
        assert self._ledger is not None
        self._ledger.write(batch)

    def _roll_back(self) -> None:
        if self._ledger is not None:
            self._ledger.forget()
        if self._connection is not None and self._connection.in_transaction:
            self._connection.rollback()

    def _take_batch(self) -> int:
        read = self._read()
        if not read.moved and not read.ended:
            return 0
        try:
            self._commit(read)
        except _UNSTORABLE as error:
            self._roll_back()
            self._tread_carefully(error)
            return self._limit
        self._careful = max(0, self._careful - 1)
        self._skip = False
        return read.taken

    def _tread_carefully(self, error: Exception) -> None:
        """A record that the database will not have must not hold up the rest: one at a time until it is found, then past it."""
        if self._limit == 1:
            self._skip = True
            self._log("ledger_record_skipped", {"level": "error", "reason": str(error)})
        self._careful = self._batch_records

    @property
    def _limit(self) -> int:
        return 1 if self._careful else self._batch_records

    def _read(self) -> _Read:
        """The next records of all segments, each writer's in its order, at most `_limit`."""
        read = _Read()
        behind: set[str] = set()  # writers with an earlier segment that is not read to its end
        for name in self._segments.waiting():
            writer = writer_of(name)
            if name in self._finished:
                self._segments.retire(name, self._wall())
            elif writer not in behind and not self._read_segment(read, name, writer):
                behind.add(writer)
            if read.taken >= self._limit:
                break
        return read

    def _read_segment(self, read: _Read, name: str, writer: str) -> bool:
        """True when the segment is finished and read to its end, or to the tear that ends it."""
        position = self._positions.get(name, 0)
        while read.taken < self._limit:
            data, finished = self._segments.read(name, position)
            records, size = split_frames(data, self._limit - read.taken)
            if self._skip:
                read.batch.unreadable += len(records)
            else:
                read.batch.add(records, writer)
            read.taken += len(records)
            if size:
                position += size
                read.moved[name] = position
            if read.taken >= self._limit or (size and len(data) == READ_BYTES):
                continue
            if finished:
                read.ended[name] = len(data) - size
            return finished
        return False

    def _commit(self, read: _Read) -> None:
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        self._write(read.batch)
        positions = {**{name: self._positions.get(name, 0) for name in read.ended}, **read.moved}
        database.executemany(_SAVE_POSITION, [(name, position, name in read.ended) for name, position in positions.items()])
        self._count("torn_segments", sum(1 for left_over in read.ended.values() if left_over))
        self._count("unreadable_records", read.batch.unreadable)
        database.execute("COMMIT")
        self._positions.update(read.moved)
        self._finished.update(read.ended)
        for name in read.ended:
            self._segments.retire(name, self._wall())

    def _count(self, counter: str, value: int) -> None:
        if value:
            self._database.execute(_COUNT, (counter, value))
            self._log("ledger_counter", {"level": "warning", "counter": counter, "count": value})

    def _sweep_when_due(self) -> None:
        """What still runs a minute after its begin, and whose writer has nothing left to read, was interrupted."""
        now_s = self._wall()
        if 0 <= self._next_sweep_s - now_s <= _SWEEP_EVERY_S:
            return
        self._next_sweep_s = now_s + _SWEEP_EVERY_S
        until = int((now_s - ORPHAN_AFTER_S) * 1000)
        batch = Batch()
        for row in self._orphans(_ORPHAN_ATTEMPTS, until):
            batch.add([interrupted_attempt(row)], row["writer"])
        self._write_recovered(batch)
        batch = Batch()
        for row in self._orphans(_ORPHAN_REQUESTS, until):
            batch.interrupt(row["id"], row["attempts"])
        self._write_recovered(batch)

    def _orphans(self, sql: str, until: int) -> list[dict[str, Any]]:
        rows = self._select(sql, {"until": until})
        if not rows:
            return rows
        living = {writer_of(name) for name in self._segments.waiting()}
        return [row for row in rows if row["writer"] not in living]

    def _select(self, sql: str, values: Any) -> list[dict[str, Any]]:
        cursor = self._database.execute(sql, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _write_recovered(self, batch: Batch) -> None:
        if not batch.ends and not batch.closes:
            return
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        self._write(batch)
        self._count("interrupted_attempts", len(batch.ends))
        self._count("interrupted_requests", len(batch.closes))
        database.execute("COMMIT")

    def _prune_when_due(self) -> None:
        now_s = self._wall()
        if 0 <= self._next_prune_s - now_s <= _PRUNE_EVERY_S:
            return
        self._next_prune_s = now_s + _PRUNE_EVERY_S
        self._segments.prune(now_s)
        there = {*self._segments.kept(), *self._segments.waiting()}
        gone = self._finished - there
        if not gone:
            return
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        database.executemany("DELETE FROM segments WHERE name = ?", [(name,) for name in gone])
        database.execute("COMMIT")
        self._finished -= gone
        for name in gone:
            del self._positions[name]


def _take_lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise DrainerBusy(str(path)) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def main(arguments: list[str]) -> int:
    """0 after a last pass, 3 when the ledger belongs to a later release."""
    if len(arguments) != 1:
        os.write(2, b"usage: python -m proxy.storage.drainer DATA_DIR\n")
        return 2
    stop = _Stop()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, stop.on_signal)
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)  # a batch is tens of thousands of containers without a cycle: walking them costs a tenth
    data_dir = Path(arguments[0])
    another = _Another(data_dir)
    drainer = _start(data_dir, stop, another)
    if drainer is None:
        return 0
    try:
        _run(drainer, data_dir / sqlite.LEDGER, stop, announced=another.caught_up)
    finally:
        drainer.close()
    return 0


class _Stop:
    """Set by SIGTERM or the end of standard input."""

    def __init__(self) -> None:
        self.asked = False

    def on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True

    def wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.asked and (left := until - time.monotonic()) > 0:
            readable, _, _ = select.select([0], [], [], min(left, IDLE_POLL_S))
            if readable and not os.read(0, 4096):
                self.asked = True


class _Another:
    """The drainer that has the directory while this one waits, mostly that of a server which is still ending. It takes in every record
    of the journal. Whoever waits for those of before is told when it has: the second time from now that all was in, since the first time it
    may not have looked at what was written last."""

    def __init__(self, data_dir: Path) -> None:
        self.caught_up = False
        self._data_dir = data_dir
        self._times: set[int] = set()
        self._since_s: float | None = None
        self._told = False

    def look(self) -> None:
        try:
            at_ns = (self._data_dir / LOCK).stat().st_mtime_ns
        except FileNotFoundError:
            return
        now_s = time.monotonic()
        if self._since_s is None:
            self._since_s = now_s
        self._times.add(at_ns)
        if not self.caught_up and len(self._times) > 2:
            self.caught_up = True
            _tell(1, b"caught-up\n")
        if not self._told and now_s - self._since_s > _ENDING_S:
            self._told = True
            reason = f"another process writes the ledger in {self._data_dir}, with what is recorded here"
            log_to_stderr("ledger_shared", {"level": "warning", "reason": reason, "next": "this one takes over when it ends"})


def _start(data_dir: Path, stop: _Stop, another: _Another) -> Drainer | None:
    pause_s = _RETRY_S
    while not stop.asked:
        try:
            return Drainer(data_dir, time.time)
        except DrainerBusy:
            another.look()
            stop.wait(_RETRY_S)
        except sqlite.LedgerTooNew as error:
            log_to_stderr("ledger_too_new", {"level": "error", "reason": str(error)})
            raise SystemExit(3) from None
        except (sqlite3.Error, OSError) as error:
            pause_s = _back_off(error, pause_s, stop)
    return None


def _run(drainer: Drainer, path: Path, stop: _Stop, *, announced: bool) -> None:
    pause_s, rebuilds, soundness = _RETRY_S, 0, Soundness(path, time.monotonic)
    while True:
        stopping = stop.asked
        try:
            taken = drainer.step()
            if drainer.was_disturbed():
                soundness.disturbed()
            if announced and (fault := soundness.look()):
                drainer.rebuild(fault)
        except (sqlite3.Error, OSError) as error:
            if stopping:
                log_to_stderr("ledger_left_behind", {"level": "error", "reason": str(error)})
                return
            pause_s = _back_off(error, pause_s, stop)
            continue
        pause_s = _RETRY_S
        if drainer.rebuilds > rebuilds:
            rebuilds = drainer.rebuilds
            soundness = Soundness(path, time.monotonic)  # what a check of the old file finds is of no use
            stop.wait(min(2.0 ** (rebuilds - 1) - 1, _REBUILD_PAUSE_MAX_S))  # at once the first time, then ever slower
        elif drainer.caught_up:
            if not announced:
                announced = True
                _tell(1, b"caught-up\n")
            if stopping and not taken:
                return
            stop.wait(_pause_s(taken))


def _pause_s(taken: int) -> float:
    """After a batch that left nothing to take in."""
    if taken >= MANY_RECORDS:
        return MANY_POLL_S
    return POLL_S if taken else IDLE_POLL_S


def _back_off(error: Exception, pause_s: float, stop: _Stop) -> float:
    log_to_stderr("ledger_waits", {"level": "warning", "reason": str(error), "retry_s": pause_s})
    stop.wait(pause_s)
    return min(pause_s * 2, _BACKOFF_MAX_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
