"""The drainer as the server starts it: a process that is told to stop, is killed, meets another, and loses nothing."""

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from proxy.storage.drainer import IDLE_POLL_S, MANY_POLL_S, MANY_RECORDS, POLL_S, Drainer, _pause_s
from proxy.storage.sqlite import LEDGER
from proxy.storage.verify import verify
from tests.storage.records import Wall, completion, open_journal, request_id, write

pytestmark = pytest.mark.integration

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `python -m …`; whatever is left at the end is killed."""
    running: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str) -> "subprocess.Popen[bytes]":
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-m", *arguments], **pipes)  # type: ignore[call-overload]
        running.append(process)
        return process  # type: ignore[no-any-return]

    yield run
    for process in running:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def drainer(start: Start, data_dir: Path) -> "subprocess.Popen[bytes]":
    return start("proxy.storage.drainer", str(data_dir))


def caught_up(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"caught-up\n"


def hang_up(process: "subprocess.Popen[bytes]") -> bytes:
    """The parent goes; returns what the drainer said to standard error."""
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    return errors


def query(data_dir: Path, sql: str) -> list[tuple[int | str, ...]]:
    connection = sqlite3.connect(data_dir / LEDGER)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_it_takes_in_what_is_there_and_leaves_with_its_parent(tmp_path: Path, start: Start) -> None:
    write(tmp_path, completion(1))
    process = drainer(start, tmp_path)
    caught_up(process)
    assert query(tmp_path, "SELECT count(*) FROM requests") == [(1,)]
    write(tmp_path, completion(2), "BOOT2")
    assert hang_up(process) == b""
    assert query(tmp_path, "SELECT count(*) FROM requests") == [(2,)]


def test_sigterm_is_a_last_pass_and_a_clean_exit_ctrl_c_is_not_its_business(tmp_path: Path, start: Start) -> None:
    process = drainer(start, tmp_path)
    caught_up(process)
    process.send_signal(signal.SIGINT)
    write(tmp_path, completion(1))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert query(tmp_path, "SELECT count(*) FROM requests") == [(1,)]


def test_a_second_one_waits_and_takes_over(tmp_path: Path, start: Start) -> None:
    first = drainer(start, tmp_path)
    caught_up(first)
    second = drainer(start, tmp_path)
    write(tmp_path, completion(1))
    first.kill()
    first.wait(20)
    caught_up(second)
    assert hang_up(second) == b""
    assert query(tmp_path, "SELECT count(*), sum(ended) FROM requests") == [(1, 1)]
    assert query(tmp_path, "SELECT sum(requests), sum(attempts) FROM usage_hourly") == [(1, 1)]


def test_a_corrupt_database_is_told_and_mended_without_dying(tmp_path: Path, start: Start) -> None:
    (tmp_path / LEDGER).write_bytes(b"this is no database" * 500)
    write(tmp_path, completion(1))
    process = drainer(start, tmp_path)
    caught_up(process)
    events = [orjson.loads(line)["event"] for line in hang_up(process).splitlines()]
    assert events[0] == "ledger_corrupt"
    assert query(tmp_path, "SELECT count(*) FROM requests") == [(1,)]


def test_damage_inside_the_file_is_found_by_the_check_at_the_start(tmp_path: Path, start: Start) -> None:
    records = [record for number in range(400) for record in completion(number)]
    write(tmp_path, records)
    with_rows = Drainer(tmp_path, Wall())
    with_rows.drain()
    with_rows.close()
    size = (tmp_path / LEDGER).stat().st_size
    with (tmp_path / LEDGER).open("r+b") as file:
        for page in range(20, size // 4096, 3):
            file.seek(page * 4096)
            file.write(b"\xff" * 100)
    process = drainer(start, tmp_path)
    assert process.stderr is not None
    assert orjson.loads(process.stderr.readline())["event"] == "ledger_corrupt"
    hang_up(process)
    assert query(tmp_path, "SELECT count(*) FROM requests") == [(400,)]
    assert query(tmp_path, "PRAGMA quick_check") == [("ok",)]


@pytest.mark.parametrize("length", [0, 1 << 20], ids=["cut off", "scribbled over"])
def test_a_file_that_is_destroyed_in_place_while_it_runs_is_made_anew(tmp_path: Path, start: Start, length: int) -> None:
    """The drainer writes on without noticing, since it has in memory what it needs; every reader would fail."""
    process = drainer(start, tmp_path)
    write(tmp_path, completion(1))
    caught_up(process)
    with (tmp_path / LEDGER).open("r+b") as file:
        file.truncate(length)
        file.write(b"\xff" * length)
    assert process.stderr is not None
    assert orjson.loads(process.stderr.readline())["event"] == "ledger_corrupt"
    write(tmp_path, completion(2), "BOOT2")
    hang_up(process)
    assert query(tmp_path, "SELECT count(*), sum(ended) FROM requests") == [(2, 2)]
    assert query(tmp_path, "PRAGMA integrity_check") == [("ok",)]


def test_a_later_releases_ledger_ends_it_with_status_3(tmp_path: Path, start: Start) -> None:
    Drainer(tmp_path, Wall()).close()
    connection = sqlite3.connect(tmp_path / LEDGER)
    connection.execute("PRAGMA user_version = 9999")
    connection.close()
    process = drainer(start, tmp_path)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, orjson.loads(errors)["event"]) == (3, "ledger_too_new")


def test_killed_writers_and_killed_drainers_lose_nothing_and_count_nothing_twice(tmp_path: Path, start: Start) -> None:
    """Eight writers are killed while they write, drainers while they drain; what a writer said that it had written is there."""
    dice = random.Random(7)
    begun: set[int] = set()
    ended: set[int] = set()
    for life in range(8):
        writer = start("tests.storage.writer", str(tmp_path), f"BOOT{life:02d}", str(life * 1_000_000))
        drain = drainer(start, tmp_path)
        caught_up(drain)
        assert writer.stdout is not None
        for _ in range(dice.randrange(20, 400)):
            note(writer.stdout.readline(), begun, ended)
        (drain if life % 3 else writer).kill()
        writer.kill()
        for line in writer.stdout:
            note(line, begun, ended)
        drain.kill()
        drain.wait(20)
        writer.wait(20)
    hang_up_after = drainer(start, tmp_path)
    caught_up(hang_up_after)
    hang_up(hang_up_after)
    rows = {str(key): outcome for key, outcome in query(tmp_path, "SELECT id, outcome FROM requests")}
    assert {request_id(number) for number in ended} <= {key for key, outcome in rows.items() if outcome == "ok"}
    assert {request_id(number) for number in begun} <= set(rows)
    assert len(rows) - len(begun) <= 8  # a begin that was written when the writer could not say so any more
    ok = sum(outcome == "ok" for outcome in rows.values())
    assert query(tmp_path, "SELECT sum(requests), sum(attempts), sum(cost_nusd) FROM usage_hourly") == [(ok, ok, ok * 1_250_000)]
    assert len(ended) > 300


def test_the_last_records_of_a_killed_parent_are_taken_in_though_nobody_listens(tmp_path: Path, start: Start) -> None:
    process = drainer(start, tmp_path)
    caught_up(process)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    journal = open_journal(tmp_path)
    for record in completion(1):
        journal.append(record)
    with journal.path.open("ab") as file:
        file.write(b"LJ02 torn by a kill")
    process.stdout.close()
    process.stderr.close()
    journal.close()
    process.stdin.close()
    assert process.wait(20) == 0
    assert query(tmp_path, "SELECT count(*) FROM requests") == [(1,)]
    assert query(tmp_path, "SELECT name FROM counters") == [("torn_segments",)]


def note(line: bytes, begun: set[int], ended: set[int]) -> None:
    if line.endswith(b"\n"):
        kind, number = line.split()
        (begun if kind == b"B" else ended).add(int(number))


def test_it_is_lean(tmp_path: Path, start: Start) -> None:
    """No pydantic, no asyncio, no server: what it imports it pays for in memory and in start-up."""
    heavy = "{'pydantic', 'asyncio', 'uvloop', 'yaml', 'httpx', 'aiosqlite', 'starlette', 'logging'}"
    code = f"import sys, proxy.storage.drainer; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("taken", "pause_s"),
    [(0, IDLE_POLL_S), (1, POLL_S), (MANY_RECORDS - 1, POLL_S), (MANY_RECORDS, MANY_POLL_S), (10_000, MANY_POLL_S)],
)
def test_it_lets_more_come_together_where_there_is_much(taken: int, pause_s: float) -> None:
    assert _pause_s(taken) == pause_s < 0.5


def test_a_row_shows_within_a_second(tmp_path: Path, start: Start) -> None:
    process = drainer(start, tmp_path)
    caught_up(process)
    journal = open_journal(tmp_path)
    for record in completion(1):
        journal.append(record)
    deadline = time.monotonic() + 1
    shown: list[tuple[int | str, ...]] = []
    while not shown and time.monotonic() < deadline:
        shown = query(tmp_path, "SELECT id, outcome FROM requests")
    journal.close()
    assert shown == [(request_id(1), "ok")]


def test_one_that_is_stopped_for_a_while_loses_nothing(tmp_path: Path, start: Start) -> None:
    """As a machine that is short of memory or a debugger stops it: requests go on, and only the lag grows."""
    process = drainer(start, tmp_path)
    caught_up(process)
    process.send_signal(signal.SIGSTOP)
    journal = open_journal(tmp_path, segment_bytes=20_000)
    for number in range(300):
        for record in completion(number):
            journal.append(record)
    assert query(tmp_path, "SELECT count(*) FROM requests") == [(0,)]
    assert len(list((tmp_path / "journal").glob("*.seg"))) > 5
    journal.close()
    process.send_signal(signal.SIGCONT)
    assert hang_up(process) == b""
    assert query(tmp_path, "SELECT sum(requests), sum(attempts) FROM usage_hourly") == [(300, 300)]
    assert verify(tmp_path).differing == 0
