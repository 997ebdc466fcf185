"""A disk that is really full: a small file system of its own, filled to the last byte, then freed."""

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.accounting import journal as journal_module
from proxy.accounting.journal import JournalError
from proxy.storage import segments
from proxy.storage.drainer import Drainer
from proxy.storage.verify import verify
from tests.storage.records import NOW_MS, Wall, begin, end, open_journal, opened, request_id

pytestmark = pytest.mark.integration

DISK_BYTES = 3 << 20


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """With limits in proportion: 64 MiB to spare and a reserve of 8 become kibibytes."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tollbridge-test", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip(
            "to mount a file system that can be filled takes root: the injected form is in tests/accounting/test_journal.py"
        )
    monkeypatch.setattr(journal_module, "MIN_FREE_BYTES", 64 << 10)
    monkeypatch.setattr(journal_module, "RESERVE_BYTES", 128 << 10)
    monkeypatch.setattr(journal_module, "_WORTH_A_TRY_BYTES", 64 << 10)
    monkeypatch.setattr(segments, "KEEP_BYTES", 1 << 30)
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass
    return ballast


def test_new_requests_are_refused_ends_are_kept_and_everything_is_there_when_it_is_freed(disk: Path) -> None:
    told: list[str] = []

    def log(event: str, fields: dict[str, Any]) -> None:
        told.append(f"{event} {fields}")

    wall = Wall()
    drainer = Drainer(disk, wall, log=log)
    journal = open_journal(disk)
    begun = [opened(number, NOW_MS) for number in range(400)]
    for request in begun:
        journal.append(begin(request))
    drainer.drain()
    assert (disk / "journal" / "reserve.bin").stat().st_size == 128 << 10
    ballast = fill(disk)
    journal.tick()
    assert not journal.healthy
    for request in begun[:300]:
        journal.append(end(request))
    assert not (disk / "journal" / "reserve.bin").exists()  # given up for what was under way
    refused = 0
    for number in range(400, 1200):
        try:
            journal.append(begin(opened(number, NOW_MS)))
        except JournalError:
            refused += 1
    assert refused > 0
    for request in begun[300:]:
        journal.append(end(request))
    assert journal.waiting > 0
    assert "new requests are refused" in str(journal.problem())
    ballast.unlink()
    journal.tick()
    journal.tick()
    assert (journal.healthy, journal.waiting, journal.dropped) == (True, 0, 0)
    assert (disk / "journal" / "reserve.bin").exists()
    drainer.drain()
    journal.close()
    wall.now += 100
    drainer.drain()
    wall.now += 10
    drainer.drain()
    drainer.close()
    found = verify(disk)
    assert found.differing == 0, found.differences
    totals = query(disk, "SELECT sum(requests_ok), sum(requests), sum(attempts) FROM usage_hourly")
    assert totals == [(400, 1200 - refused, 1200 - refused)]
    assert query(disk, "SELECT count(*) FROM requests WHERE outcome = 'ok' AND id <= ?", request_id(399)) == [(400,)]


def test_a_drainer_that_cannot_write_waits_and_takes_it_in_later(disk: Path) -> None:
    wall = Wall()
    drainer = Drainer(disk, wall, log=lambda _event, _fields: None)
    journal = open_journal(disk)
    for number in range(500):
        request = opened(number, NOW_MS)
        journal.append(begin(request))
        journal.append(end(request))
    ballast = fill(disk)
    failures = 0
    for _ in range(5):
        try:
            drainer.step()
        except sqlite3.OperationalError:
            failures += 1
    assert failures == 5
    ballast.unlink()
    drainer.drain()
    journal.close()
    drainer.drain()
    drainer.close()
    assert query(disk, "SELECT sum(requests), sum(attempts) FROM usage_hourly") == [(500, 500)]
    assert verify(disk).differing == 0


def query(data_dir: Path, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(data_dir / "ledger.db")
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()
