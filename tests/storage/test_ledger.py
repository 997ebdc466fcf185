"""How rows are written: many in one statement, those that run remembered, and each moved once all the same."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.accounting.records import Record, positional
from proxy.storage import ledger as ledger_module
from proxy.storage.fold import Batch
from proxy.storage.ledger import ROWS_A_STATEMENT, Ledger
from proxy.storage.sqlite import open_writer
from tests.storage.records import begin, closed, completion, end, failover, opened, rejected, request_id

pytestmark = pytest.mark.unit

SUMS = "SELECT sum(requests), sum(attempts), sum(attempts_ok), sum(cost_nusd) FROM usage_hourly"


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = open_writer(tmp_path / "ledger.db")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    yield connection
    connection.close()


@pytest.fixture
def ledger(connection: sqlite3.Connection) -> Ledger:
    return Ledger(connection)


def batch(records: list[Record]) -> Batch:
    made = Batch()
    made.add([positional(record) for record in records], "BOOT1.1")
    assert not made.unreadable
    return made


def statements(connection: sqlite3.Connection, work: Any) -> list[str]:
    told: list[str] = []
    connection.set_trace_callback(told.append)
    work()
    connection.set_trace_callback(None)
    return [statement.strip() for statement in told]


def many(numbers: range) -> list[Record]:
    return [record for number in numbers for record in completion(number)]


@pytest.mark.parametrize("count", [1, ROWS_A_STATEMENT - 1, ROWS_A_STATEMENT, ROWS_A_STATEMENT + 1, 3 * ROWS_A_STATEMENT])
def test_each_new_row_is_there_once_however_many_a_statement_takes(
    connection: sqlite3.Connection, ledger: Ledger, count: int
) -> None:
    told = statements(connection, lambda: ledger.write(batch(many(range(count)))))
    inserted = [statement for statement in told if statement.startswith("INSERT") and "_rows" in statement]
    assert len(inserted) == 2 * (count // ROWS_A_STATEMENT + count % ROWS_A_STATEMENT)
    found = [row[0] for row in connection.execute("SELECT id FROM requests WHERE ended = 1 AND writer IS NULL ORDER BY id")]
    assert found == [request_id(number) for number in range(count)]
    assert connection.execute("SELECT count(*) FROM attempts WHERE rank = 2").fetchone() == (count,)
    assert connection.execute(SUMS).fetchone() == (count, count, count, count * 1_250_000)


def test_what_is_told_again_among_what_is_new_moves_nothing(connection: sqlite3.Connection, ledger: Ledger) -> None:
    """The rows that are there fail the statement that inserts many; each of the batch is then asked for by itself."""
    ledger.write(batch([*many(range(5)), *failover(90)]))
    ledger.write(batch([*many(range(3 * ROWS_A_STATEMENT)), *failover(90), *failover(91)]))
    count = 3 * ROWS_A_STATEMENT
    assert connection.execute("SELECT count(*) FROM requests").fetchone() == (count + 2,)
    assert connection.execute(SUMS).fetchone() == (count + 2, count + 4, count + 2, (count + 2) * 1_250_000)


def test_who_asked_is_remembered_until_the_end_comes(connection: sqlite3.Connection, ledger: Ledger) -> None:
    streams = [opened(number, stream=True, client=f"client-{number}") for number in range(40)]
    ledger.write(batch([begin(request) for request in streams]))
    told = statements(connection, lambda: ledger.write(batch([end(request) for request in streams])))
    assert not [statement for statement in told if "FROM requests WHERE id IN" in statement]
    found = connection.execute("SELECT client, outcome, stream FROM requests ORDER BY id").fetchall()
    assert found == [(f"client-{number}", "ok", 1) for number in range(40)]
    assert connection.execute(SUMS).fetchone()[:2] == (40, 40)
    assert connection.execute("SELECT count(*) FROM attempts WHERE rank < 2 OR writer IS NOT NULL").fetchone() == (0,)


def test_of_more_than_may_be_remembered_the_rest_is_read_again(
    connection: sqlite3.Connection, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "REMEMBERED_RUNNING", 3)
    requests = [opened(number, client=f"client-{number}") for number in range(6)]
    for request in requests[:4]:
        ledger.write(batch([begin(request)]))
    assert len(ledger._running) == 3
    ledger.write(batch([begin(request) for request in requests[4:]]))
    assert len(ledger._running) == 3
    told = statements(connection, lambda: ledger.write(batch([end(request) for request in requests])))
    assert len([statement for statement in told if "FROM requests WHERE id IN" in statement]) == 1
    assert [row[0] for row in connection.execute("SELECT client FROM requests ORDER BY id")] == [r.client for r in requests]
    assert not ledger._running


def test_nothing_is_remembered_of_what_was_rolled_back(connection: sqlite3.Connection, ledger: Ledger) -> None:
    request = opened(1)
    ledger.write(batch([begin(request)]))
    connection.execute("ROLLBACK")
    ledger.forget()
    ledger.write(batch([begin(request)]))
    ledger.write(batch([end(request)]))
    assert connection.execute(SUMS).fetchone()[:2] == (1, 1)


def test_a_request_that_ends_between_its_attempts_is_updated_with_the_others(
    connection: sqlite3.Connection, ledger: Ledger
) -> None:
    request = opened(50)
    ledger.write(batch([begin(request), end(request, outcome="failed")]))
    gone = rejected(50)
    gone = gone._replace(end=closed("client_gone", 1, finish_reason=None))
    told = statements(connection, lambda: ledger.write(batch([*many(range(2 * ROWS_A_STATEMENT)), gone])))
    assert not [statement for statement in told if "RETURNING" in statement]
    assert connection.execute("SELECT outcome, provider FROM requests WHERE id = ?", (request.id,)).fetchone() == (
        "client_gone",
        "openai",
    )


def test_unknown_is_null_in_the_tables(connection: sqlite3.Connection, ledger: Ledger) -> None:
    ledger.write(batch([rejected(1)]))
    assert connection.execute("SELECT typeof(task_id), typeof(writer) FROM request_rows").fetchall() == [("null", "null")]
