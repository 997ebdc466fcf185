"""Whether the ledger adds up: every way in which it may not is found, named, and mended where it can be."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.storage import verify as verify_module
from proxy.storage.drainer import Drainer, DrainerBusy
from proxy.storage.repair import repair
from proxy.storage.retention import Retention, write_retention
from proxy.storage.sqlite import LEDGER
from proxy.storage.sums import WIDTHS
from proxy.storage.verify import MAX_TOLD, Findings, NoLedger, verify
from tests.storage.big import AS_IN_VERSION_3
from tests.storage.records import (
    NOW_MS,
    Wall,
    begin,
    closed,
    completion,
    end,
    failover,
    opened,
    progress,
    rejected,
    request_id,
    write,
)

pytestmark = pytest.mark.unit

HOUR_MS = 3_600_000
FAILED_OVER = [
    {"attempt": 1, "target": "groq/gpt-4o", "error": "connect", "ms": 3.5, "then": "next"},
    {"target": "openai/gpt-4o", "kept": True},
]


def quiet(_event: str, _fields: dict[str, Any]) -> None:
    return None


def drained(data_dir: Path, wall: Wall) -> None:
    drainer = Drainer(data_dir, wall, log=quiet)
    drainer.drain()
    drainer.close()


def filled(data_dir: Path) -> Wall:
    """A dead writer's segment, taken in: all kinds of requests over six hours, one of them interrupted."""
    wall = Wall()
    Drainer(data_dir, wall, log=quiet).close()
    records: list[Any] = []
    for number in range(24):
        at = NOW_MS + number * HOUR_MS // 4
        records += failover(number, at) if number % 3 == 0 else completion(number, at, department=f"d{number % 2}")
    *broken, _ = failover(50)
    broken.append(end(opened(50), 2, end=closed(attempts=2, trace=FAILED_OVER)))
    died = opened(60, stream=True)
    records += [*broken, rejected(51), begin(died), progress(died, 7)]
    write(data_dir, records)
    wall.now += 6 * 3600
    drained(data_dir, wall)
    drained(data_dir, wall)
    return wall


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    filled(folder)
    return folder


@pytest.fixture
def ledger(sample: Path, tmp_path: Path) -> Path:
    shutil.copytree(sample, tmp_path, dirs_exist_ok=True)
    return tmp_path


def change(data_dir: Path, *statements: str) -> None:
    connection = sqlite3.connect(data_dir / LEDGER, isolation_level=None)
    for sql in statements:
        connection.execute(sql)
    connection.close()


def told(found: Findings) -> str:
    return " | ".join(f"{each.check} {each.where} {each.message}" for each in found.differences)


def rewrite(data_dir: Path, how: Callable[[bytes], bytes]) -> None:
    (path,) = (data_dir / "journal" / "drained").glob("*.seg")
    state = path.stat()
    path.write_bytes(how(path.read_bytes()))
    os.utime(path, (state.st_atime, state.st_mtime))  # from which it is kept a day


def test_what_the_drainer_wrote_adds_up(ledger: Path) -> None:
    found = verify(ledger)
    assert (told(found), found.differing) == ("", 0)
    assert found.compared["journal"] > 50
    assert found.compared["sums"] > 100
    assert {"integrity", "sums", "segments", "journal"} == found.compared.keys()


# how it is damaged -> what is found, and whether the repair can put it right
DAMAGE: dict[str, tuple[Callable[[Path], None], str, bool]] = {
    "a sum of an hour": (
        lambda d: change(d, f"UPDATE hourly_sums SET cost_nusd = cost_nusd + 1 WHERE slice = 1 AND hour = {NOW_MS // HOUR_MS}"),
        "rows less sums: cost_nusd -1",
        True,
    ),
    "a sum of a day": (
        lambda d: change(d, "UPDATE daily_sums SET output_tokens = output_tokens - 7 WHERE slice = 6"),
        "slice 6, day",
        True,
    ),
    "sums that are gone": (lambda d: change(d, "DELETE FROM hourly_sums WHERE slice = 0"), "slice 0, hour", True),
    "sums of nothing": (
        lambda d: change(
            d,
            "INSERT INTO hourly_sums SELECT slice, hour + 100, tag, requests, requests_ok, requests_failed, requests_rejected, "
            "requests_interrupted, requests_client_gone, requests_failed_over, duration_us, first_token_us, first_tokens, attempts, "
            "attempts_ok, attempt_duration_us, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, "
            "input_audio_tokens, output_audio_tokens, cost_nusd, at_risk_tokens, unpriced, estimated, durations, first_token_times, "
            "cache_hits, saved_nusd, rated, quality_ppm "
            "FROM hourly_sums WHERE slice = 2 LIMIT 1",
        ),
        "slice 2, hour",
        True,
    ),
    "a failover too many": (lambda d: change(d, "UPDATE failovers_hourly SET count = count + 1"), "failovers", True),
    "a row's cost": (
        lambda d: change(d, f"UPDATE attempt_rows SET cost_nusd = 5 WHERE request_id = '{request_id(1, NOW_MS + HOUR_MS // 4)}'"),
        "the journal has a cost of 1250000 nano-dollars, the rows 5",
        False,
    ),
    "a row that is gone": (
        lambda d: change(d, f"DELETE FROM request_rows WHERE id = '{request_id(51)}'"),
        "it ended by BOOT1",
        False,
    ),
    "a segment that is shorter": (
        lambda d: rewrite(d, lambda data: data[:-40]),
        "it was read to byte",
        False,
    ),
    "a flipped bit in a segment": (
        lambda d: rewrite(d, lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]),
        "is no longer whole from byte",
        False,
    ),
    "a segment that grew": (
        lambda d: rewrite(d, lambda data: data + data),
        "it goes on after byte",
        False,
    ),
    "a segment that the tables do not know": (
        lambda d: change(d, "DELETE FROM segments"),
        "the tables do not know that it was read to its end",
        True,
    ),
    "a segment that is lost half read": (
        lambda d: change(d, "INSERT INTO segments VALUES ('BOOT0.1.000001.seg', 77, 0)"),
        "it is gone, and was read to byte 77 only",
        False,
    ),
    "an index that lacks a row": (
        lambda d: change(
            d,
            "PRAGMA writable_schema = 1",
            "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'facets') "
            "WHERE name = 'request_rows_by_facet'",
        ),
        "integrity ledger.db",
        True,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "expected", "mends"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found_and_mended_where_it_can_be(
    ledger: Path, damage: Callable[[Path], None], expected: str, mends: bool
) -> None:
    damage(ledger)
    found = verify(ledger)
    assert found.differing
    assert expected in told(found)
    wall = Wall()
    wall.now += 6 * 3600
    repair(ledger, wall, log=quiet)
    after = verify(ledger)
    assert (after.differing == 0) == mends, told(after)


def test_a_file_that_is_no_database_is_a_finding_and_is_made_anew_from_the_journal(ledger: Path) -> None:
    before = totals(ledger)
    (ledger / LEDGER).write_bytes(b"this is no database at all" * 400)
    assert "integrity ledger.db file is not a database" in told(verify(ledger))
    wall = Wall()
    wall.now += 6 * 3600
    done = repair(ledger, wall, log=quiet)
    assert done.set_aside == "file is not a database"
    assert len(list(ledger.glob("ledger.db.corrupt-*"))) == 1
    assert verify(ledger).differing == 0
    assert totals(ledger) == before


def totals(data_dir: Path) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(data_dir / LEDGER)
    try:
        sql = (
            "SELECT sum(requests), sum(attempts), sum(cost_nusd), sum(output_tokens), sum(requests_interrupted) FROM usage_hourly"
        )
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_a_repair_changes_nothing_in_a_ledger_that_adds_up(ledger: Path) -> None:
    tables = ("hourly_sums", "daily_sums", "past_daily_sums", "failovers_hourly", "usage_tags")

    def snapshot() -> list[list[tuple[Any, ...]]]:
        connection = sqlite3.connect(ledger / LEDGER)
        try:
            return [sorted(connection.execute(f"SELECT * FROM {table}").fetchall()) for table in tables]
        finally:
            connection.close()

    before = snapshot()
    repair(ledger, Wall(), log=quiet)
    after = snapshot()
    for earlier, later in zip(before, after, strict=True):
        assert [row[:-2] for row in later] == [row[:-2] for row in earlier]  # histograms may say the same in another order
        assert [["".join(sorted(str(cell))) for cell in row[-2:]] for row in later] == [
            ["".join(sorted(str(cell))) for cell in row[-2:]] for row in earlier
        ]


def test_while_somebody_writes_nothing_is_mended_and_everything_verified(ledger: Path) -> None:
    drainer = Drainer(ledger, Wall(), log=quiet)
    with pytest.raises(DrainerBusy):
        repair(ledger, Wall(), log=quiet)
    assert verify(ledger).differing == 0
    drainer.close()


def test_what_was_forgotten_is_not_missed_and_its_sums_stay(ledger: Path) -> None:
    before = totals(ledger)
    write_retention(ledger, Retention(requests_s=4.4 * 3600))
    wall = Wall()
    wall.now += 6 * 3600
    drainer = Drainer(ledger, wall, log=quiet)
    for _ in range(50):
        drainer.step()
    drainer.close()
    connection = sqlite3.connect(ledger / LEDGER)
    (left,) = connection.execute("SELECT count(*) FROM requests").fetchone()
    connection.close()
    assert 0 < left < 20
    found = verify(ledger)
    assert found.differing == 0, told(found)
    change(ledger, "UPDATE hourly_sums SET requests = requests + 1 WHERE slice = 1")
    assert verify(ledger).differing
    repair(ledger, wall, log=quiet)
    assert verify(ledger).differing == 0  # of hours whose rows are gone the sums are all there is: they stay as they are
    change(
        ledger,
        "UPDATE hourly_sums SET requests = requests - 1 WHERE slice = 1 AND hour <= (SELECT value / 3600000 FROM marks "
        "WHERE name = 'rows_gone_until_ms')",
    )
    repair(ledger, wall, log=quiet)
    assert totals(ledger) == before


def test_a_price_that_was_changed_on_purpose_is_no_difference(ledger: Path) -> None:
    change(
        ledger,
        "INSERT INTO repriced SELECT request_id, n, 1, cost_nusd, 'test' FROM attempt_rows WHERE cost_nusd > 0",
        "UPDATE attempt_rows SET cost_nusd = 2 * cost_nusd",
    )
    repair(ledger, Wall(), log=quiet)
    assert verify(ledger).differing == 0


def test_names_that_share_other_are_compared_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WIDTHS, "agent", 2)
    records: list[Any] = []
    for number in range(12):
        records += completion(number, agent=f"agent-{number % 6}")
    Drainer(tmp_path, Wall(), log=quiet).close()
    write(tmp_path, records)
    drained(tmp_path, Wall())
    assert verify(tmp_path).differing == 0
    repair(tmp_path, Wall(), log=quiet)
    assert verify(tmp_path).differing == 0
    change(tmp_path, "UPDATE hourly_sums SET attempts = attempts + 1 WHERE slice = 8")
    assert "slice 8" in told(verify(tmp_path))


def test_a_late_end_of_an_attempt_that_was_taken_for_interrupted_is_no_difference(ledger: Path) -> None:
    died = opened(60, stream=True)
    Drainer(ledger, Wall(), log=quiet).close()
    write(ledger, [end(died)], "BOOT2")
    wall = Wall()
    wall.now += 6 * 3600
    drained(ledger, wall)
    assert verify(ledger).differing == 0


def test_differences_are_all_counted_and_a_bounded_number_kept(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "MAX_TOLD", 3)
    change(ledger, "UPDATE hourly_sums SET attempts = attempts + 1")
    found = verify(ledger)
    assert (len(found.differences), MAX_TOLD) == (3, 100)
    assert found.differing > 20


def test_without_a_ledger_or_with_another_releases_there_is_nothing_to_say(tmp_path: Path) -> None:
    with pytest.raises(NoLedger, match=r"there is no ledger\.db"):
        verify(tmp_path)
    Drainer(tmp_path, Wall(), log=quiet).close()
    change(tmp_path, "PRAGMA user_version = 9999")
    with pytest.raises(NoLedger, match="version 9999"):
        verify(tmp_path)


@pytest.mark.parametrize(
    ("forgotten", "mark"),
    [
        ("0", None),
        (f"time_ms < {NOW_MS + 2 * HOUR_MS}", NOW_MS + 3 * HOUR_MS),
        ("1", (NOW_MS // HOUR_MS + 6) * HOUR_MS - 1),
    ],
)
def test_of_an_earlier_releases_ledger_it_is_told_from_the_sums_until_when_rows_are_gone(
    ledger: Path, forgotten: str, mark: int | None
) -> None:
    change(
        ledger,
        f"DELETE FROM attempt_rows WHERE request_id IN (SELECT id FROM request_rows WHERE {forgotten})",
        f"DELETE FROM request_rows WHERE {forgotten}",
        "DROP TABLE marks",
        "DROP TABLE repriced",
        "DELETE FROM segments",
        *AS_IN_VERSION_3,
        "PRAGMA user_version = 2",
    )
    shutil.rmtree(ledger / "journal")
    drained(ledger, Wall())
    connection = sqlite3.connect(ledger / LEDGER)
    found = connection.execute("SELECT value FROM marks").fetchall()
    connection.close()
    assert found == ([] if mark is None else [(mark,)])
    assert verify(ledger).differing == 0
