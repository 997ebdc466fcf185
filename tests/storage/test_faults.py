"""The drainer when the n-th call of the database or of the folder fails, for every n: nothing is lost, nothing counted twice, and
only what `main` waits out comes out of it."""

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.accounting.journal import split_frames
from proxy.storage import segments as segments_module
from proxy.storage.drainer import Drainer
from proxy.storage.sqlite import LEDGER
from proxy.storage.verify import verify
from tests.storage.records import NOW_MS, Wall, begin, completion, end, failover, opened, progress, rejected, write

pytestmark = pytest.mark.unit

HOUR_MS = 3_600_000
MAX_CALLS = 3_000
SUMS = """
SELECT hour, provider, client, sum(requests), sum(attempts), sum(cost_nusd), sum(output_tokens) FROM usage_hourly
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"""
CONNECT = sqlite3.connect


def quiet(_event: str, _fields: dict[str, Any]) -> None:
    return None


class Plan:
    """Which call goes wrong. `after`: it is done first, as when the answer to a COMMIT is lost."""

    def __init__(self, nth: int, raises: Callable[[], Exception], *, after: bool = False) -> None:
        self.calls = 0
        self.failed = False
        self.armed = False
        self.name = ""
        self._nth = nth
        self._raises = raises
        self._after = after

    def around(self, name: str, call: Callable[[], Any]) -> Any:
        if not self.armed:
            return call()
        self.calls += 1
        if self.calls != self._nth:
            return call()
        self.failed, self.name = True, name
        if self._after:
            call()
        raise self._raises()


def sqlite_error(code: int, text: str) -> Callable[[], Exception]:
    def made() -> Exception:
        error = sqlite3.OperationalError(text)
        error.sqlite_errorcode = code
        return error

    return made


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[Plan, str], None]:
    """Puts a plan before the database's calls or the folder's."""

    def install(plan: Plan, what: str) -> None:
        database = plan if what == "database" else Plan(0, RuntimeError)

        class Flaky(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> Any:
                if sql.startswith("PRAGMA synchronous"):
                    sql = "PRAGMA synchronous = OFF"  # the disk's own time would be most of the test's
                return database.around(sql, lambda: super(Flaky, self).execute(sql, *values))

            def executemany(self, sql: str, *values: Any) -> Any:
                return database.around(sql, lambda: super(Flaky, self).executemany(sql, *values))

        class FlakyFolder:
            path = os.path

            def __getattr__(self, name: str) -> Any:
                real = getattr(os, name)
                if not callable(real) or name in ("close", "fspath"):
                    return real
                return lambda *arguments, **named: plan.around(name, lambda: real(*arguments, **named))

        if what == "folder":
            monkeypatch.setattr(segments_module, "os", FlakyFolder())
        monkeypatch.setattr(sqlite3, "connect", lambda *a, **n: CONNECT(*a, **{"factory": Flaky, **n}))

    return install


def sample() -> list[Any]:
    late = end(opened(5), time_ms=NOW_MS + HOUR_MS)  # counted in the hour that its end says, wherever its begin was
    died = opened(6, stream=True)
    return [*completion(1), *failover(2, NOW_MS + HOUR_MS), rejected(3), begin(opened(5)), late, begin(died), progress(died, 7)]


def worked(data_dir: Path, empty: Path, plan: Plan | None) -> None:
    """A whole life: two writers' segments, an interrupted attempt; whatever fails is tried again, as `main` does."""
    wall = Wall()
    data_dir.mkdir(exist_ok=True)
    shutil.copy(empty, data_dir / LEDGER)
    drainer = Drainer(data_dir, wall, log=quiet)
    if plan is not None:
        plan.armed = True
    write(data_dir, sample())
    for round_ in range(4):
        wall.now += 40
        if round_ == 2:
            write(data_dir, completion(7), "BOOT2")
        for _ in range(6):
            try:
                if not drainer.step():
                    break
            except (sqlite3.Error, OSError):
                continue
    if plan is not None:
        plan.armed = False
    for _ in range(2):
        wall.now += 40
        drainer.drain()
    drainer.close()


def tables(data_dir: Path) -> list[list[tuple[Any, ...]]]:
    connection = sqlite3.connect(data_dir / LEDGER)
    try:
        return [
            connection.execute(sql).fetchall()
            for sql in (
                "SELECT id, ended, outcome, attempts, provider FROM requests ORDER BY id",
                "SELECT request_id, n, rank, outcome, time_ms, cost_nusd, output_tokens FROM attempts ORDER BY 1, 2",
                SUMS,
            )
        ]
    finally:
        connection.close()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with nothing in it, to be copied: making one takes as long as everything else."""
    folder = tmp_path_factory.mktemp("empty")
    Drainer(folder, Wall(), log=quiet).close()
    return folder / LEDGER


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, empty: Path) -> list[list[tuple[Any, ...]]]:
    folder = tmp_path_factory.mktemp("expected")
    worked(folder, empty, None)
    return tables(folder)


Fault = tuple[Callable[[], Exception], bool]
FAULTS: dict[str, list[Fault]] = {
    "database": [
        (sqlite_error(sqlite3.SQLITE_IOERR, "disk I/O error"), False),
        (sqlite_error(sqlite3.SQLITE_FULL, "database or disk is full"), False),
        (sqlite_error(sqlite3.SQLITE_BUSY, "database is locked"), False),
        (sqlite_error(sqlite3.SQLITE_IOERR, "disk I/O error"), True),  # it was done, and the answer lost
    ],
    "folder": [
        (lambda: OSError(errno.EIO, "Input/output error"), False),
        (lambda: OSError(errno.ENOSPC, "No space left on device"), False),
        (lambda: InterruptedError(errno.EINTR, "Interrupted system call"), False),
        (lambda: OSError(errno.EIO, "Input/output error"), True),
    ],
}


@pytest.mark.parametrize("what", FAULTS)
def test_whichever_call_fails_every_row_is_there_once(
    tmp_path: Path, empty: Path, fails: Callable[[Plan, str], None], expected: list[list[tuple[Any, ...]]], what: str
) -> None:
    """Each call fails in one of the ways, the commits and moves, which are few, in all of them."""

    def failed(folder: Path, nth: int, fault: Fault) -> Plan:
        raises, after = fault
        plan = Plan(nth, raises, after=after)
        fails(plan, what)
        worked(folder, empty, plan)
        assert tables(folder) == expected, f"call {nth}, {plan.name}"
        if nth % 20 == 0:
            assert verify(folder).differing == 0
        return plan

    seen: list[str] = []
    for nth in range(1, MAX_CALLS):
        plan = failed(tmp_path / str(nth), nth, FAULTS[what][nth % 4])
        if not plan.failed:
            break
        seen.append(plan.name)
    else:
        pytest.fail("no run without a failure")
    rare = [nth for nth, name in enumerate(seen, 1) if name in ("COMMIT", "rename")]
    assert len(rare) >= 2
    for nth in rare[:3]:
        for number, fault in enumerate(FAULTS[what]):
            failed(tmp_path / f"{nth}-{number}", nth, fault)


def test_a_torn_or_flipped_segment_never_makes_a_wrong_row(tmp_path: Path, empty: Path) -> None:
    """The reader is tried on every byte elsewhere; this is the whole way into the tables, at a sample of them."""
    source = tmp_path / "source"
    write(source, sample())
    (path,) = (source / "journal").glob("*.seg")
    data = path.read_bytes()
    records, _ = split_frames(data, 100)
    whole = {(record[2], record[3]) for record in records if record[0] == "E"}
    for number, position in enumerate(range(0, len(data), 331)):
        for kind, damaged in (
            ("cut", data[:position]),
            ("flip", data[:position] + bytes([data[position] ^ 0x20]) + data[position + 1 :]),
        ):
            folder = tmp_path / f"{kind}{number}"
            (folder / "journal").mkdir(parents=True)
            shutil.copy(empty, folder / LEDGER)
            (folder / "journal" / path.name).write_bytes(damaged)
            drainer = Drainer(folder, Wall(), log=quiet)
            drainer.drain()
            drainer.close()
            connection = sqlite3.connect(folder / LEDGER)
            rows = connection.execute("SELECT request_id, n, cost_nusd FROM attempts WHERE rank = 2").fetchall()
            connection.close()
            assert {row[:2] for row in rows} <= whole
            assert {row[2] for row in rows} <= {1_250_000, 0}
            assert verify(folder).differing == 0
