"""The ledger's SQLite file: how it is opened, brought up to date and found corrupt. https://www.sqlite.org/wal.html

One connection writes, for the drainer's life, and alone checkpoints; readers are read-only. A new file is made under another
name and renamed when its schema is complete, so that a reader never meets half of one.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from proxy.storage.histogram import shorten

LEDGER = "ledger.db"
NO_RESET_RACE = (3, 51, 3)  # before it, two connections that write and checkpoint at once can lose pages
_MIGRATIONS = Path(__file__).parent / "migrations"
_CORRUPT = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB))
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_COMPANIONS = ("", "-wal", "-shm")


# Before it binds None, the `sqlite3` module looks for an adapter by two attributes that do not exist: that takes longer than to bind an
# integer and a text. One that is registered is found at once; a dict's `get` is the cheapest that makes None of None.
sqlite3.register_adapter(type(None), dict[None, None]().get)


class LedgerTooNew(Exception):
    """The file was written by a later release; it is left alone."""


def open_writer(path: Path, *, busy_timeout_s: float = 5.0) -> sqlite3.Connection:
    """Opens the ledger for writing, made or migrated where needed. Raises sqlite3.Error and LedgerTooNew."""
    if not path.exists():
        _create(path)
    connection = _connect(path, busy_timeout_s)
    try:
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def remark() -> str | None:
    """On the library's release, for whoever looks closely; None: there is nothing to say."""
    if sqlite3.sqlite_version_info >= NO_RESET_RACE:
        return None
    return f"SQLite {sqlite3.sqlite_version} has a race between two writers of one file; there is one writer here, which makes it harmless"


def reader_uri(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=ro"


def is_corrupt(error: sqlite3.Error) -> bool:
    return _primary_code(error) in _CORRUPT


def quick_check(path: Path) -> str | None:
    """The first fault of the file, None when there is none. Reads all of it; meant to run beside the writer."""
    return _checked(path, "quick_check")


def integrity_fault(path: Path) -> str | None:
    """As `quick_check`, and holds the indexes against their tables as well, which takes longer."""
    return _checked(path, "integrity_check")


def _checked(path: Path, pragma: str) -> str | None:
    try:
        connection = sqlite3.connect(reader_uri(path), uri=True)
        try:
            (verdict,) = connection.execute(f"PRAGMA {pragma}(1)").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        return str(error) if is_corrupt(error) else None
    if verdict == "ok":
        return None if tables else "there is nothing in it"  # cut off: SQLite takes an empty file for a whole one
    return str(verdict)


def back_up(path: Path, into: Path) -> None:
    """A whole and consistent copy of one moment, also while the ledger is written: https://www.sqlite.org/lang_vacuum.html#vacuuminto.

    Takes the place of `into` when it is complete. Raises sqlite3.Error and OSError.
    """
    new = into.with_name(f"{into.name}.new")
    new.unlink(missing_ok=True)
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        connection = sqlite3.connect(reader_uri(path), uri=True, isolation_level=None)
        try:
            connection.execute("VACUUM INTO ?", (str(new),))
        finally:
            connection.close()
        if fault := integrity_fault(new):
            raise sqlite3.DatabaseError(f"the copy is damaged: {fault}")
        os.replace(new, into)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def first_id(time_ms: int) -> str:
    """Not greater than any id of a request that began then or later: ids begin with their time (core/ulid.py)."""
    return "".join([_ALPHABET[max(0, time_ms) >> shift & 31] for shift in range(45, -1, -5)])


def set_aside(path: Path, suffix: str) -> Path:
    """Renames the file and its companions; returns the new name."""
    aside = path.with_name(path.name + suffix)
    for companion in _COMPANIONS:
        try:
            os.rename(f"{path}{companion}", f"{aside}{companion}")
        except FileNotFoundError:
            continue
    return aside


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    born = path.with_name(path.name + ".new")
    for companion in _COMPANIONS:
        Path(f"{born}{companion}").unlink(missing_ok=True)
    os.close(os.open(born, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    connection = _connect(born, 5.0)
    try:
        _migrate(connection)
    finally:
        connection.close()
    for companion in _COMPANIONS:
        Path(f"{path}{companion}").unlink(missing_ok=True)  # a log left over from another file would be replayed into this one
    os.rename(born, path)


def _connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    try:
        connection.create_function("shorten", 1, shorten, deterministic=True)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a drained segment may be deleted: the commit must be on the disk
        connection.execute("PRAGMA cache_size = -6000")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")  # 16 MiB: a page that many batches touch is copied once
        connection.execute("PRAGMA journal_size_limit = 67108864")
    except BaseException:
        connection.close()
        raise
    return connection


def version() -> int:
    """That of the tables that this release writes and reads."""
    return max(_scripts())


def _scripts() -> dict[int, Path]:
    return {int(script.name[:4]): script for script in sorted(_MIGRATIONS.glob("[0-9][0-9][0-9][0-9]_*.sql"))}


def _migrate(connection: sqlite3.Connection) -> None:
    """Runs each `NNNN_name.sql` beyond `user_version`, every one in a transaction of its own."""
    scripts = _scripts()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > max(scripts):
        raise LedgerTooNew(f"the ledger is at version {version}, this program knows {max(scripts)}")
    for number, script in scripts.items():
        if number > version:
            sql = script.read_text(encoding="utf-8")
            try:
                connection.executescript(f"BEGIN IMMEDIATE;\n{sql}\nPRAGMA user_version = {number};\nCOMMIT;")
            except sqlite3.Error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
