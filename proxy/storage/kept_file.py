"""Answers that are kept in a file of SQLite, which all workers share and which outlives the proxy. Implements `KeptStore`.

    answers   key (a digest) -> the answer, what is said of it, and a digest over both
    totals    how many answers and bytes each pool has, held by triggers
    cleared   when a chain was cleared, so that what was asked for before is not kept after

It is a copy of what can be had again, so nothing is done for its life: no sync of the disk, and a file that is damaged, of another
release or gone is made anew. What is read is checked against its digest; a row that fails is as good as not there. There are several
writers, for which a rollback journal is enough: a write takes a millisecond.

The name of a client, a question or a key of a provider is nowhere in it; the answers are, so nobody else may read the file (0600).
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from proxy.core.kept import Held, Kept, Room, StoreFault

ANSWERS = "answers.db"
VERSION = 1
BUSY_S = 0.5  # for another writer to be done
SWEPT_BY_THE_WAY = 64  # answers that are too old, whenever one is written
USED_WITHIN = 16  # an answer's last use is written down again after this part of its time, not each time
CLEARED_FOR_MS = 3_600_000  # longer than any request runs

_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE answers (
    key BLOB PRIMARY KEY, pool TEXT NOT NULL, chain TEXT NOT NULL, used_ms INTEGER NOT NULL, until_ms INTEGER NOT NULL,
    size INTEGER NOT NULL, about TEXT NOT NULL, digest BLOB NOT NULL, body BLOB NOT NULL
);
CREATE INDEX answers_by_use ON answers (pool, used_ms);
CREATE INDEX answers_by_age ON answers (until_ms);
CREATE INDEX answers_by_chain ON answers (chain, size);
CREATE TABLE totals (pool TEXT PRIMARY KEY, entries INTEGER NOT NULL, size INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER answer_comes AFTER INSERT ON answers BEGIN
    INSERT INTO totals VALUES (new.pool, 1, new.size)
        ON CONFLICT DO UPDATE SET entries = entries + 1, size = size + excluded.size;
END;
CREATE TRIGGER answer_goes AFTER DELETE ON answers BEGIN
    UPDATE totals SET entries = entries - 1, size = size - old.size WHERE pool = old.pool;
END;
CREATE TABLE cleared (chain TEXT PRIMARY KEY, ms INTEGER NOT NULL) WITHOUT ROWID;
"""
_SHRINK = "PRAGMA incremental_vacuum"  # gives the disk back what is free; `execute` would do so for one page
_EVERYTHING = ""  # in `cleared`
_ABOUT = ("request_id", "chain", "provider", "upstream_model", "kept_ms", "cost_nusd", "input_tokens", "output_tokens", "dropped")
_BROKEN = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB))
_COMPANIONS = ("", "-journal", "-wal", "-shm")

_T = TypeVar("_T")


class _OfAnotherRelease(Exception):
    """Its tables are not those of this one."""


class KeptFile:
    """For one thread. Made when the first answer is to be kept, and opened again when the file at its place is another one."""

    def __init__(self, data_dir: Path, *, mend: bool = True) -> None:
        """`mend`: a file that is damaged or of another release is deleted, so that the next answer makes a new one."""
        self.path = data_dir / ANSWERS
        self._mend = mend
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None

    def get(self, room: Room, key: bytes, now_ms: int) -> Kept | None:
        def read(connection: sqlite3.Connection) -> Kept | None:
            row = connection.execute("SELECT about, digest, body, used_ms FROM answers WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            about, digest, body, used_ms = row
            kept = _checked(key, about, digest, body)
            if kept is None or not 0 <= now_ms - kept.kept_ms < room.ttl_ms:
                connection.execute("DELETE FROM answers WHERE key = ?", (key,))
                return None
            if not 0 <= now_ms - used_ms < room.ttl_ms // USED_WITHIN:
                connection.execute("UPDATE answers SET used_ms = ? WHERE key = ?", (now_ms, key))
            return kept

        return self._do(read, None, make=False)

    def put(self, room: Room, key: bytes, kept: Kept, began_ms: int) -> None:
        about = json.dumps([getattr(kept, name) for name in _ABOUT], ensure_ascii=False, separators=(",", ":"))

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            (cleared_ms,) = connection.execute(
                "SELECT max(ms) FROM cleared WHERE chain IN (?, ?)", (kept.chain, _EVERYTHING)
            ).fetchone()
            if (cleared_ms is None or began_ms > cleared_ms) and kept.size <= room.max_bytes and room.max_entries:
                connection.execute("DELETE FROM answers WHERE key = ?", (key,))  # a replacement would pass by the trigger
                row = (key, room.pool, kept.chain, kept.kept_ms, kept.kept_ms + room.ttl_ms, kept.size, about)
                digest = _digest(key, about, kept.body)
                connection.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, digest, kept.body))
                _make_room(connection, room, kept.kept_ms)
            connection.execute("COMMIT")

        self._do(write, None)

    def clear(self, chain: str | None, now_ms: int) -> int:
        def delete(connection: sqlite3.Connection) -> int:
            connection.execute("BEGIN IMMEDIATE")
            name = _EVERYTHING if chain is None else chain
            connection.execute("DELETE FROM cleared WHERE ms < ?", (now_ms - CLEARED_FOR_MS,))
            connection.execute(
                "INSERT INTO cleared VALUES (?, ?) ON CONFLICT DO UPDATE SET ms = max(ms, excluded.ms)", (name, now_ms)
            )
            where, values = ("", ()) if chain is None else (" WHERE chain = ?", (chain,))
            gone = connection.execute(f"DELETE FROM answers{where}", values).rowcount  # noqa: S608 - one of two texts
            connection.execute("COMMIT")
            connection.executescript(_SHRINK)
            return gone

        return self._do(delete, 0, make=False)

    def sweep(self, now_ms: int) -> None:
        def delete(connection: sqlite3.Connection) -> None:
            if _sweep(connection, now_ms, SWEPT_BY_THE_WAY * 16):
                connection.executescript(_SHRINK)

        self._do(delete, None, make=False)

    def held(self) -> dict[str, Held]:
        def count(connection: sqlite3.Connection) -> dict[str, Held]:
            rows = connection.execute("SELECT chain, count(*), sum(size) FROM answers GROUP BY chain")
            return {chain: Held(entries, size) for chain, entries, size in rows}

        return self._do(count, {}, make=False)

    def is_there(self) -> bool:
        return self.path.exists()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # -- the file

    def _do(self, work: Callable[[sqlite3.Connection], _T], otherwise: _T, *, make: bool = True) -> _T:
        """`otherwise` where there is no file and none is to be made."""
        try:
            connection = self._opened(make)
            if connection is None:
                return otherwise
            try:
                return work(connection)
            finally:
                if connection.in_transaction:  # it did not come to its end
                    connection.execute("ROLLBACK")
        except (sqlite3.Error, OSError, _OfAnotherRelease) as error:
            self._give_up(error)
            raise StoreFault(f"{self.path.name}: {error}") from None

    def _opened(self, make: bool) -> sqlite3.Connection | None:
        """Looks each time whether the file is still the one that is open: it costs some microseconds, and nobody writes for long into
        one that was deleted."""
        if self._connection is not None and self._inode == _inode(self.path):
            return self._connection
        self.close()
        if not self.path.exists():
            if not make:
                return None
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a file that is still empty
            connection.execute("PRAGMA journal_mode = TRUNCATE").fetchall()
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA cache_size = -2000")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                _create(connection)
            elif version != VERSION:
                raise _OfAnotherRelease(f"it is of version {version}, this program knows {VERSION}")
        except BaseException:
            connection.close()
            raise
        self._connection, self._inode = connection, _inode(self.path)
        return connection

    def _give_up(self, error: Exception) -> None:
        """The next call opens it again."""
        self.close()
        broken = getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN
        if self._mend and (broken or isinstance(error, _OfAnotherRelease)):
            for companion in _COMPANIONS:
                Path(f"{self.path}{companion}").unlink(missing_ok=True)


def _create(connection: sqlite3.Connection) -> None:
    """Another worker may be about it as well: whoever comes second finds that it is done."""
    try:
        connection.executescript(f"{_SCHEMA}\nPRAGMA user_version = {VERSION};\nCOMMIT;")
    except sqlite3.OperationalError:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            raise


def _make_room(connection: sqlite3.Connection, room: Room, now_ms: int) -> None:
    """Without what is too old, of any pool, and then without what was not asked for the longest."""
    _sweep(connection, now_ms, SWEPT_BY_THE_WAY)
    while True:
        entries, size = connection.execute("SELECT entries, size FROM totals WHERE pool = ?", (room.pool,)).fetchone()
        over = entries - room.max_entries
        if over <= 0 and size <= room.max_bytes:
            return
        connection.execute(
            "DELETE FROM answers WHERE key IN (SELECT key FROM answers WHERE pool = ? ORDER BY used_ms LIMIT ?)",
            (room.pool, max(1, over)),
        )


def _sweep(connection: sqlite3.Connection, now_ms: int, at_most: int) -> int:
    rows = (now_ms, at_most)
    return connection.execute(
        "DELETE FROM answers WHERE key IN (SELECT key FROM answers WHERE until_ms <= ? LIMIT ?)", rows
    ).rowcount


def _digest(key: bytes, about: str, body: bytes) -> bytes:
    said = about.encode()
    return blake2b(b"%b%d:%b%b" % (key, len(said), said, body), digest_size=16).digest()


def _checked(key: bytes, about: Any, digest: Any, body: Any) -> Kept | None:
    """The row as it was written, None if anything of it is not."""
    if not isinstance(about, str) or not isinstance(body, bytes) or _digest(key, about, body) != digest:
        return None
    values = dict(zip(_ABOUT, json.loads(about), strict=True))
    return Kept(**{**values, "dropped": tuple(values["dropped"])}, body=body)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
