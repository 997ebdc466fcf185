"""From journal to tables: each row once, whatever is replayed, torn, split, busy or corrupt."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.accounting.records import Record, positional
from proxy.storage import drainer as drainer_module
from proxy.storage import sqlite as sqlite_module
from proxy.storage.drainer import Drainer, DrainerBusy
from proxy.storage.sqlite import LEDGER, LedgerTooNew
from tests.storage.records import (
    NOW_MS,
    Wall,
    begin,
    closed,
    completion,
    end,
    failover,
    open_journal,
    opened,
    progress,
    rejected,
    request_id,
    write,
    write_raw,
)

pytestmark = pytest.mark.unit

SUMS = (
    "requests requests_ok requests_failed requests_rejected requests_interrupted requests_client_gone requests_failed_over "
    "attempts attempts_ok input_tokens output_tokens cost_nusd unpriced estimated at_risk_tokens"
).split()


class Events(list[tuple[str, dict[str, Any]]]):
    def __call__(self, event: str, fields: dict[str, Any]) -> None:
        self.append((event, fields))


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def drainer(tmp_path: Path, wall: Wall, events: Events) -> Iterator[Drainer]:
    drainer = Drainer(tmp_path, wall, log=events)
    yield drainer
    drainer.close()


def rows(data_dir: Path, sql: str, *values: Any) -> list[dict[str, Any]]:
    connection = sqlite3.connect(data_dir / LEDGER)
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute(sql, values)]
    finally:
        connection.close()


def sums(data_dir: Path) -> dict[str, int]:
    totals: dict[str, int] = dict.fromkeys(SUMS, 0)
    for row in rows(data_dir, "SELECT * FROM usage_hourly"):
        for name in SUMS:
            totals[name] += row[name]
    return {name: value for name, value in totals.items() if value}


def snapshot(data_dir: Path) -> list[list[dict[str, Any]]]:
    tables = ("SELECT * FROM requests ORDER BY id", "SELECT * FROM attempts ORDER BY request_id, n", "SELECT * FROM usage_hourly")
    return [rows(data_dir, sql) for sql in tables]


def test_a_completion_is_one_request_one_attempt_and_their_sums(tmp_path: Path, drainer: Drainer) -> None:
    write(tmp_path, completion(1))
    assert drainer.drain() == 2
    (request,) = rows(tmp_path, "SELECT * FROM requests")
    assert (request["id"], request["outcome"], request["provider"], request["chain"]) == (request_id(1), "ok", "openai", "smart")
    assert (request["attempts"], request["ended"], request["writer"]) == (1, 1, None)
    (attempt,) = rows(tmp_path, "SELECT * FROM attempts")
    assert (attempt["n"], attempt["rank"], attempt["outcome"], attempt["cost_nusd"]) == (1, 2, "ok", 1_250_000)
    (hour,) = rows(tmp_path, "SELECT * FROM usage_hourly")
    assert (hour["hour"], hour["provider"], hour["client"], hour["stream"]) == (NOW_MS // 3_600_000, "openai", "search-agent", 0)
    assert (hour["duration_us"], hour["first_token_us"], hour["first_tokens"]) == (812_500, 101_250, 1)
    assert sums(tmp_path) == {
        "requests": 1, "requests_ok": 1, "attempts": 1, "attempts_ok": 1, "input_tokens": 100, "output_tokens": 50, "cost_nusd": 1_250_000,
    }  # fmt: skip


def test_a_failed_attempt_counts_at_its_provider_the_request_at_the_one_that_answered(tmp_path: Path, drainer: Drainer) -> None:
    write(tmp_path, failover(1))
    drainer.drain()
    by_provider = {row["provider"]: row for row in rows(tmp_path, "SELECT * FROM usage_hourly")}
    assert [by_provider["groq"][name] for name in ("requests", "attempts", "attempts_ok", "cost_nusd")] == [0, 1, 0, 0]
    assert [by_provider["openai"][name] for name in ("requests", "attempts", "attempts_ok", "requests_failed_over")] == [
        1,
        1,
        1,
        1,
    ]
    (request,) = rows(tmp_path, "SELECT * FROM requests")
    assert (request["provider"], request["attempts"]) == ("openai", 2)


def test_a_rejected_request_has_a_row_and_no_attempt(tmp_path: Path, drainer: Drainer) -> None:
    write(tmp_path, [rejected(1)])
    drainer.drain()
    (request,) = rows(tmp_path, "SELECT * FROM requests")
    assert (request["outcome"], request["http_status"], request["provider"], request["attempts"]) == ("rejected", 429, None, 0)
    assert sums(tmp_path) == {"requests": 1, "requests_rejected": 1}


def test_a_running_request_shows_as_running_and_then_ends(tmp_path: Path, drainer: Drainer) -> None:
    journal = open_journal(tmp_path)
    request = opened(1, stream=True)
    journal.append(begin(request, provider="groq"))
    assert drainer.step() == 1
    (row,) = rows(tmp_path, "SELECT * FROM requests")
    assert (row["outcome"], row["provider"], row["attempts"], row["model"]) == ("running", "groq", 1, "smart")
    journal.append(progress(request, 40))
    assert drainer.step() == 1
    assert [(a["rank"], a["output_tokens"]) for a in rows(tmp_path, "SELECT * FROM attempts")] == [(1, 40)]
    assert sums(tmp_path) == {}
    journal.append(end(request, provider="groq", outcome="failed"))
    journal.append(begin(request, 2))
    drainer.step()
    (row,) = rows(tmp_path, "SELECT * FROM requests")
    assert (row["outcome"], row["provider"], row["attempts"]) == ("running", "openai", 2)
    journal.append(end(request, 2, end=closed(attempts=2)))
    drainer.step()
    (row,) = rows(tmp_path, "SELECT * FROM requests")
    assert (row["outcome"], row["stream"], row["client"], row["writer"]) == ("ok", 1, "search-agent", None)
    assert (sums(tmp_path)["requests"], sums(tmp_path)["attempts"], sums(tmp_path)["cost_nusd"]) == (1, 2, 1_250_000)
    assert {row["client"] for row in rows(tmp_path, "SELECT client FROM usage_hourly")} == {"search-agent"}
    journal.close()


def test_a_request_that_ends_between_attempts_keeps_its_provider(tmp_path: Path, drainer: Drainer) -> None:
    request = opened(1)
    write(tmp_path, [begin(request, provider="groq"), end(request, provider="groq", outcome="failed")])
    drainer.drain()
    ended = rejected(1)
    ended = ended._replace(end=ended.end._replace(outcome="client_gone", attempts=1))
    write(tmp_path, [ended], "BOOT2")
    drainer.drain()
    (row,) = rows(tmp_path, "SELECT * FROM requests")
    assert (row["outcome"], row["provider"], row["attempts"]) == ("client_gone", "groq", 1)


def test_replaying_everything_changes_nothing(tmp_path: Path, wall: Wall, events: Events) -> None:
    drainer = Drainer(tmp_path, wall, log=events)
    request = opened(9)
    records: list[Record] = [*completion(1), *failover(2), rejected(3), begin(request), progress(request, 7)]
    write(tmp_path, records)
    drainer.drain()
    wall.now += 70
    drainer.drain()
    before = snapshot(tmp_path)
    assert len(before[0]) == 4
    write(tmp_path, records, "BOOT2")
    write(tmp_path, records[::-1], "BOOT3")
    assert drainer.drain() == 2 * len(records)
    assert snapshot(tmp_path) == before
    drainer.close()
    connection = sqlite3.connect(tmp_path / LEDGER, isolation_level=None)
    connection.execute("DELETE FROM segments")
    connection.close()
    drainer = Drainer(tmp_path, wall, log=events)
    assert drainer.drain() == 3 * len(records)
    assert snapshot(tmp_path) == before
    drainer.close()


def test_a_dead_writers_open_attempt_is_interrupted_after_a_minute_and_once(tmp_path: Path, drainer: Drainer, wall: Wall) -> None:
    streamed, sent = opened(1, stream=True), opened(2)
    write(tmp_path, [begin(streamed), progress(streamed, 30), progress(streamed, 60), begin(sent)])
    wall.now += 59
    drainer.drain()
    assert {row["outcome"] for row in rows(tmp_path, "SELECT outcome FROM requests")} == {"running"}
    wall.now += 10
    drainer.drain()
    first, second = rows(tmp_path, "SELECT * FROM attempts ORDER BY request_id")
    assert (first["outcome"], first["error_class"], first["usage_source"]) == ("interrupted", "interrupted", "estimated")
    assert (first["input_tokens"], first["output_tokens"], first["at_risk_tokens"], first["cost_nusd"]) == (100, 60, 0, None)
    assert (second["input_tokens"], second["output_tokens"], second["at_risk_tokens"]) == (0, 0, 100)
    assert second["usage_source"] is None
    assert [row["outcome"] for row in rows(tmp_path, "SELECT outcome FROM requests")] == ["interrupted"] * 2
    expected = {
        "requests": 2, "requests_interrupted": 2, "attempts": 2, "input_tokens": 100, "output_tokens": 60, "unpriced": 1, "estimated": 1,
        "at_risk_tokens": 100,
    }  # fmt: skip
    assert sums(tmp_path) == expected
    wall.now += 1000
    drainer.drain()
    assert sums(tmp_path) == expected


def test_what_was_relayed_by_a_writer_that_died_costs_what_its_last_progress_said(
    tmp_path: Path, drainer: Drainer, wall: Wall
) -> None:
    first, second = opened(1, stream=True), opened(2, stream=True)
    write(
        tmp_path, [begin(first), progress(first, 30, cost_nusd=400), progress(first, 60, cost_nusd=700), begin(second)], "BOOT1"
    )
    drainer.drain()
    write(tmp_path, [progress(second, 9, cost_nusd=55), progress(second, 4, cost_nusd=44)], "BOOT2")
    drainer.drain()
    assert sums(tmp_path) == {}, "nothing is summed up before it has ended"
    wall.now += 100
    drainer.drain()
    found = rows(tmp_path, "SELECT output_tokens, cost_nusd, price_source, usage_source FROM attempts ORDER BY request_id")
    assert [tuple(row.values()) for row in found] == [(60, 700, "progress", "estimated"), (9, 55, "progress", "estimated")]
    assert (sums(tmp_path)["cost_nusd"], sums(tmp_path).get("unpriced")) == (755, None)


def test_a_progress_record_of_an_earlier_release_tells_the_tokens_alone(tmp_path: Path, drainer: Drainer, wall: Wall) -> None:
    request = opened(1, stream=True)
    journal = open_journal(tmp_path)
    journal.append(begin(request))
    journal.append_fields(("P", f"{request.id}-1", 30))
    journal.close()
    wall.now += 100
    drainer.drain()
    (row,) = rows(tmp_path, "SELECT output_tokens, cost_nusd, usage_source FROM attempts")
    assert (row["output_tokens"], row["cost_nusd"], row["usage_source"]) == (30, None, "estimated")


def test_a_request_that_died_between_attempts_is_interrupted_too(tmp_path: Path, drainer: Drainer, wall: Wall) -> None:
    request = opened(1)
    write(tmp_path, [begin(request), end(request, outcome="failed")])
    drainer.drain()
    wall.now += 70
    drainer.drain()
    assert [row["outcome"] for row in rows(tmp_path, "SELECT outcome FROM requests")] == ["interrupted"]
    assert (sums(tmp_path)["attempts"], sums(tmp_path)["requests_interrupted"]) == (1, 1)


def test_a_living_writers_long_stream_is_left_alone(tmp_path: Path, drainer: Drainer, wall: Wall) -> None:
    journal = open_journal(tmp_path, segment_bytes=300)
    request = opened(1)
    for record in (begin(request), progress(request, 5), *completion(2), progress(request, 9)):
        journal.append(record)
    wall.now += 600
    drainer.drain()
    drainer.drain()
    assert len(rows(tmp_path, "SELECT * FROM requests WHERE outcome = 'running'")) == 1
    journal.close()
    wall.now += 10
    drainer.drain()
    drainer.drain()
    wall.now += 10
    drainer.drain()
    assert len(rows(tmp_path, "SELECT * FROM requests WHERE outcome = 'interrupted'")) == 1


def test_finished_segments_are_set_aside_after_the_commit_and_deleted_after_a_day(
    tmp_path: Path, drainer: Drainer, wall: Wall
) -> None:
    write(tmp_path, completion(1))
    journal = open_journal(tmp_path, "BOOT2")
    journal.append(completion(2)[0])
    drainer.drain()
    assert list((tmp_path / "journal").glob("*.seg")) == [journal.path]
    (kept,) = (tmp_path / "journal" / "drained").iterdir()
    wall.now += 86_300
    drainer.step()
    assert kept.exists()
    wall.now += 200
    drainer.step()
    assert not kept.exists()
    assert [row["name"] for row in rows(tmp_path, "SELECT name FROM segments")] == [journal.path.name]
    journal.close()


def test_kept_segments_are_bounded_in_bytes(
    tmp_path: Path, drainer: Drainer, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.storage.segments.KEEP_BYTES", 3000)
    for number in range(6):
        write(tmp_path, completion(number), f"BOOT{number}")
    drainer.drain()
    wall.now += 100
    drainer.step()
    kept = sorted(path.name for path in (tmp_path / "journal" / "drained").iterdir())
    assert 0 < len(kept) < 6
    assert kept[-1].startswith("BOOT5")


def test_an_unborn_segment_is_not_read_and_a_forgotten_one_swept_up(tmp_path: Path, drainer: Drainer, wall: Wall) -> None:
    unborn = tmp_path / "journal" / "BOOT.1.000001.new"
    unborn.touch()
    os.utime(unborn, (wall.now, wall.now))
    drainer.step()
    assert unborn.exists()
    wall.now += 130
    drainer.step()
    assert not unborn.exists()


def test_a_torn_tail_of_the_living_is_waited_for_of_the_dead_counted(tmp_path: Path, drainer: Drainer, events: Events) -> None:
    journal = open_journal(tmp_path)
    for record in completion(1):
        journal.append(record)
    with journal.path.open("ab") as file:
        file.write(b"LJ02\x10\x00\x00\x00 torn")
    assert drainer.drain() == 2
    assert rows(tmp_path, "SELECT * FROM counters") == []
    assert journal.path.exists()
    journal.close()
    drainer.drain()
    drainer.step()
    assert rows(tmp_path, "SELECT * FROM counters") == [{"name": "torn_segments", "value": 1}]
    assert not journal.path.exists()
    assert [event for event, _ in events] == ["ledger_counter"]


def test_a_writers_segments_are_read_in_its_order(tmp_path: Path, drainer: Drainer) -> None:
    """A stuck segment of the living holds up its successors: their ends may belong to its begins."""
    journal = open_journal(tmp_path)
    journal.append(completion(1)[0])
    name = journal.path.name
    later = journal.path.with_name(name.replace("000001", "000002"))
    write(tmp_path, completion(2), "BOOT9")
    shutil.copy(next((tmp_path / "journal").glob("BOOT9*")), later)
    assert drainer.drain() == 3
    journal.close()
    assert drainer.drain() == 2


def test_a_record_of_another_release_is_counted_and_skipped(tmp_path: Path, drainer: Drainer) -> None:
    strange = [b'["X","?"]', b'["E","A-1","A"]', b"[]", b"{}", b"7", b"not JSON", b'["R",[],[]]', b"1],[2"]
    write_raw(tmp_path, strange, "BOOT0")
    longer = [orjson.dumps([*positional(record), "of a later release"]) for record in completion(2)]
    write_raw(tmp_path, longer, "BOOT1")
    write(tmp_path, completion(1), "BOOT2")
    drainer.drain()
    assert rows(tmp_path, "SELECT * FROM counters") == [{"name": "unreadable_records", "value": 8}]
    assert [row["id"] for row in rows(tmp_path, "SELECT id FROM requests ORDER BY id")] == [request_id(1), request_id(2)]
    assert [row["outcome"] for row in rows(tmp_path, "SELECT * FROM attempts")] == ["ok", "ok"]


def test_a_record_that_the_database_will_not_have_does_not_hold_up_the_rest(
    tmp_path: Path, drainer: Drainer, events: Events
) -> None:
    records = completion(1)
    absurd = end(opened(2))._replace(input_tokens=1 << 63)
    write(tmp_path, [*records, begin(opened(2)), absurd, *completion(3)])
    while drainer.step():
        pass
    assert sorted(row["outcome"] for row in rows(tmp_path, "SELECT outcome FROM requests")) == ["ok", "ok", "running"]
    assert "ledger_record_skipped" in [event for event, _ in events]
    assert rows(tmp_path, "SELECT * FROM counters") == [{"name": "unreadable_records", "value": 1}]


def test_there_is_one_drainer_to_a_directory(tmp_path: Path, drainer: Drainer, wall: Wall) -> None:
    with pytest.raises(DrainerBusy):
        Drainer(tmp_path, wall)


class Waiting:
    """A drainer that waits for another, of which a step is made at each wait."""

    def __init__(self, other: Drainer, wall: Wall) -> None:
        self.asked, self.waits, self.said = False, 0, b""
        self._other, self._wall = other, wall

    def tell(self, fd: int, line: bytes) -> None:
        assert fd == 1
        self.said += line

    def wait(self, _seconds: float) -> None:
        self.waits += 1
        assert self.waits < 10
        if self.said:
            self._other.close()  # its process has ended
        else:
            self._wall.now += 1
            self._other.step()


def test_who_waits_for_another_drainer_is_told_when_that_has_all_of_before(
    tmp_path: Path, wall: Wall, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Waiting(Drainer(tmp_path, wall, log=events), wall)
    monkeypatch.setattr(drainer_module, "_tell", waiting.tell)
    write(tmp_path, completion(1))
    another = drainer_module._Another(tmp_path)
    mine = drainer_module._start(tmp_path, waiting, another)  # type: ignore[arg-type]
    assert mine is not None
    mine.close()
    assert waiting.said == b"caught-up\n"
    assert waiting.waits == 3, "the step during which it began to wait may have missed what was written last"
    assert another.caught_up
    assert len(rows(tmp_path, "SELECT * FROM requests")) == 1


def test_who_waits_for_another_drainer_for_long_says_so_once(
    tmp_path: Path, drainer: Drainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    now = iter([0.0, 5.0, 11.0, 30.0])
    monkeypatch.setattr("proxy.storage.drainer.time.monotonic", lambda: next(now))
    monkeypatch.setattr(drainer_module, "log_to_stderr", lambda event, fields: said.append((event, fields)))
    another = drainer_module._Another(tmp_path)
    for _ in range(4):
        another.look()
    ((event, fields),) = said
    assert (event, fields["level"]) == ("ledger_shared", "warning")
    assert str(tmp_path) in fields["reason"]


def test_a_line_of_its_log_is_as_the_server_s_are(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, bytes]] = []
    monkeypatch.setattr(drainer_module, "_tell", lambda fd, line: told.append((fd, line)))
    monkeypatch.setattr("proxy.storage.drainer.time.time", lambda: 1_800_000_000.0625)
    drainer_module.log_to_stderr("ledger_waits", {"level": "warning", "retry_s": 0.1})
    drainer_module.log_to_stderr("pruned", {})
    times = b'{"time":"2027-01-15T08:00:00.062Z",'
    assert told == [
        (2, times + b'"level":"warning","event":"ledger_waits","retry_s":0.1}\n'),
        (2, times + b'"level":"info","event":"pruned"}\n'),
    ]


def test_a_locked_database_is_an_error_that_changes_nothing(
    tmp_path: Path, wall: Wall, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = sqlite_module.open_writer
    monkeypatch.setattr(sqlite_module, "open_writer", lambda path: opener(path, busy_timeout_s=0.01))
    drainer = Drainer(tmp_path, wall, log=events)
    write(tmp_path, completion(1))
    other = sqlite3.connect(tmp_path / LEDGER, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for _ in range(3):
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            drainer.step()
    other.execute("ROLLBACK")
    other.close()
    assert drainer.drain() == 2
    assert sums(tmp_path)["requests"] == 1
    drainer.close()


@pytest.mark.parametrize("damage", [b"not a database at all" * 1000, b""])
def test_a_corrupt_database_is_set_aside_and_rebuilt_from_the_kept_journal(
    tmp_path: Path, wall: Wall, events: Events, damage: bytes
) -> None:
    drainer = Drainer(tmp_path, wall, log=events)
    write(tmp_path, [*completion(1), *failover(2)])
    drainer.drain()
    before = snapshot(tmp_path)
    drainer.close()
    if damage:
        (tmp_path / LEDGER).write_bytes(damage)
    else:
        (tmp_path / LEDGER).unlink()
    write(tmp_path, completion(3), "BOOT2")
    drainer = Drainer(tmp_path, wall, log=events)
    drainer.drain()
    after = snapshot(tmp_path)
    assert after[0][:2] == before[0]
    assert len(after[0]) == 3
    assert len(list(tmp_path.glob("ledger.db.corrupt-*"))) == (1 if damage else 0)
    assert [event for event, _ in events] == (["ledger_corrupt", "ledger_counter"] if damage else [])
    drainer.close()


def test_corruption_found_while_working_is_mended_on_the_spot(tmp_path: Path, drainer: Drainer) -> None:
    write(tmp_path, completion(1))
    drainer.drain()
    drainer.rebuild("*** in database main *** Page 3: btreeInitPage() returns error code 11")
    write(tmp_path, completion(2), "BOOT2")
    drainer.drain()
    assert (sums(tmp_path)["requests"], drainer.rebuilds) == (2, 1)
    assert rows(tmp_path, "SELECT * FROM counters") == [{"name": "corrupt", "value": 1}]


def test_a_file_that_somebody_else_wrote_into_is_noticed_and_what_we_write_is_not(tmp_path: Path, drainer: Drainer) -> None:
    write(tmp_path, completion(1))
    drainer.drain()
    drainer.exclusively(lambda connection, _ledger: connection.execute("CREATE TABLE something (of INTEGER)"))
    drainer.step()
    assert not drainer.was_disturbed()
    with (tmp_path / LEDGER).open("r+b") as file:
        file.write(b"scribble")
    os.utime(tmp_path / LEDGER, (1, 1))  # not the moment of our last look, however coarse the clock of the file system
    drainer.step()
    drainer.step()
    assert (drainer.was_disturbed(), drainer.was_disturbed()) == (True, False)


def test_a_database_that_is_taken_away_is_made_anew_from_the_kept_journal(tmp_path: Path, drainer: Drainer) -> None:
    write(tmp_path, completion(1))
    drainer.drain()
    (tmp_path / LEDGER).rename(tmp_path / "elsewhere.db")
    write(tmp_path, completion(2), "BOOT2")
    drainer.drain()
    assert sums(tmp_path)["requests"] == 2


def test_a_ledger_of_a_later_release_is_left_alone(tmp_path: Path, wall: Wall) -> None:
    Drainer(tmp_path, wall).close()
    connection = sqlite3.connect(tmp_path / LEDGER)
    connection.execute("PRAGMA user_version = 9999")
    connection.close()
    with pytest.raises(LedgerTooNew):
        Drainer(tmp_path, wall)
    assert not list(tmp_path.glob("*corrupt*"))
    Drainer(tmp_path / "other", wall).close()


def test_the_trace_is_kept_as_json(tmp_path: Path, drainer: Drainer) -> None:
    write(tmp_path, completion(1))
    drainer.drain()
    (row,) = rows(tmp_path, "SELECT trace ->> '$[0].skipped' AS skipped, dropped FROM requests")
    assert row == {"skipped": "no key: set GROQ_API_KEY", "dropped": None}


def test_nothing_in_the_tables_is_readable_by_others(tmp_path: Path, drainer: Drainer) -> None:
    assert (tmp_path / LEDGER).stat().st_mode & 0o077 == 0
    assert (tmp_path / "journal" / "drained").stat().st_mode & 0o077 == 0
