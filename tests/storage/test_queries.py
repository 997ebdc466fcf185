"""What the API reads from the ledger."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.core.errors import InvalidValue, LedgerUnavailable
from proxy.storage.drainer import Drainer
from proxy.storage.queries import _FILTERS, Queries, _list_sql
from proxy.storage.sqlite import LEDGER, open_writer, remark
from tests.storage.records import (
    NOW_MS,
    TRACE,
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
)

pytestmark = [pytest.mark.unit, pytest.mark.anyio]
HOUR_MS = 3_600_000


@pytest.fixture
def drainer(tmp_path: Path) -> Iterator[Drainer]:
    drainer = Drainer(tmp_path, Wall(), log=lambda _event, _fields: None)
    yield drainer
    drainer.close()


@pytest.fixture
async def queries(tmp_path: Path) -> AsyncIterator[Queries]:
    queries = Queries(tmp_path)
    yield queries
    await queries.aclose()


async def test_a_row_has_exactly_the_fields_of_the_contract(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    write(tmp_path, failover(1, stream=True))
    drainer.drain()
    (row,), cursor = await queries.list_requests()
    assert cursor is None
    assert row == {
        "id": request_id(1),
        "time": "2027-01-15T08:00:00.000Z",
        "client": "search-agent",
        "department": "research",
        "agent": "search",
        "task": "summary",
        "model": "smart",
        "chain": "smart",
        "provider": "openai",
        "upstream_model": "gpt-4o",
        "stream": True,
        "outcome": "ok",
        "http_status": 200,
        "attempts": 2,
        "input_tokens": 100,
        "cached_input_tokens": 20,
        "cache_write_tokens": 0,
        "output_tokens": 50,
        "reasoning_tokens": 10,
        "usage_source": "provider",
        "cost_usd": "0.00125",
        "first_token_ms": 101.25,
        "duration_ms": 812.5,
        "config": "abcdef012345",
        "finish_reason": "stop",
        "cache": None,
        "saved_usd": None,
        "quality": None,
        "hedged": False,
        "continued": [],
    }


async def test_the_detail_adds_the_attempts_and_the_trace(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    write(tmp_path, failover(1, task_id="job-7"))
    drainer.drain()
    row = await queries.get_request(request_id(1))
    assert row is not None
    assert row["trace"] == TRACE
    assert (row["task_id"], row["dropped"], row["unpriced_attempts"]) == ("job-7", [], 0)
    first, second = row["attempt_list"]
    assert (first["n"], first["provider"], first["outcome"], first["error_class"]) == (1, "groq", "failed", "connect")
    assert (first["cost_usd"], first["category"], first["error"]) == ("0", "transient", "connection refused")
    assert (second["n"], second["started"], second["cost_usd"]) == (2, "2027-01-15T08:00:00.002Z", "0.00125")
    assert await queries.get_request("nobody") is None


async def test_a_running_request_has_no_cost_yet(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    request = opened(1)
    write(tmp_path, [begin(request), progress(request, 9, cost_nusd=99)])
    drainer.drain()
    (row,), _ = await queries.list_requests(outcome="running")
    assert (row["outcome"], row["cost_usd"], row["output_tokens"], row["duration_ms"]) == ("running", None, 0, None)
    detail = await queries.get_request(request.id)
    assert detail is not None
    assert (detail["attempt_list"][0]["output_tokens"], detail["attempt_list"][0]["cost_usd"]) == (9, None)


async def test_an_outcome_that_there_is_not_is_refused_and_not_just_found_nowhere(queries: Queries) -> None:
    with pytest.raises(InvalidValue, match="running, ok, failed, rejected, interrupted, client_gone") as refused:
        await queries.list_requests(outcome="error")
    assert refused.value.param == "outcome"


async def test_one_unpriced_attempt_makes_the_cost_unknown(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    request = opened(1)
    first = end(request, outcome="failed", output_tokens=5, usage_source="estimated", cost_nusd=None)
    write(tmp_path, [begin(request), first, begin(request, 2), end(request, 2, end=closed(attempts=2))])
    drainer.drain()
    (row,), _ = await queries.list_requests()
    assert (row["cost_usd"], row["usage_source"], row["output_tokens"]) == (None, "estimated", 55)
    (total,) = await queries.usage([])
    assert (total["cost_usd"], total["unpriced_attempts"]) == ("0.00125", 1)


async def test_a_rejected_request_cost_nothing(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    write(tmp_path, [rejected(1)])
    drainer.drain()
    (row,), _ = await queries.list_requests(outcome="rejected")
    assert (row["cost_usd"], row["usage_source"], row["input_tokens"], row["provider"]) == ("0", None, 0, None)


async def test_pages_are_newest_first_and_their_cursors_meet(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    write(tmp_path, [record for number in range(25) for record in completion(number, NOW_MS + number)])
    drainer.drain()
    seen, cursor = [], None
    while True:
        page, cursor = await queries.list_requests(limit=10, before=cursor)
        seen += [row["id"] for row in page]
        if cursor is None:
            break
        assert cursor.isalnum()
    assert seen == [request_id(number, NOW_MS + number) for number in reversed(range(25))]
    page, cursor = await queries.list_requests(limit=0)
    assert len(page) == 1


async def test_filters_are_values_never_sql(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    write(tmp_path, [*completion(1), *completion(2, client="it's", department=None), *failover(3, model="x"), rejected(4)])
    drainer.drain()

    async def ids(**filters: str) -> list[str]:
        return [row["id"] for row in (await queries.list_requests(**filters))[0]]  # type: ignore[arg-type]

    assert await ids(client="it's") == [request_id(2)]
    assert await ids(client="' OR 1 = 1 --") == []
    assert await ids(department="research", outcome="ok") == [request_id(3), request_id(1)]
    assert await ids(model="x") == [request_id(3)]
    assert await ids(provider="openai") == [request_id(3), request_id(2), request_id(1)]
    assert await ids(outcome="rejected") == [request_id(4)]


async def test_usage_by_any_group_and_period(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    later = NOW_MS + 5 * HOUR_MS
    write(tmp_path, [*completion(1), *failover(2), *completion(3, later, client=None, task=None), rejected(4, later)])
    drainer.drain()
    by_provider = await queries.usage(["provider", "model"])
    assert [(row["provider"], row["model"], row["requests"], row["attempts"]) for row in by_provider] == [
        ("openai", "gpt-4o", 3, 3),
        (None, None, 1, 0),
        ("groq", "gpt-4o", 0, 1),
    ]
    assert by_provider[0]["cost_usd"] == "0.00375"
    assert by_provider[0]["mean_duration_ms"] == 812.5
    by_hour = await queries.usage(["hour", "client"], NOW_MS, NOW_MS + 1)
    assert [(row["hour"], row["client"], row["requests"], row["failed_over"]) for row in by_hour] == [
        ("2027-01-15T08:00:00.000Z", "search-agent", 2, 1)
    ]
    assert [(row["day"], row["requests"]) for row in await queries.usage(["day"])] == [("2027-01-15", 4)]
    assert [row["client"] for row in await queries.usage(["client"], NOW_MS + HOUR_MS)] == [None, "search-agent"]
    assert await queries.usage(["task"], later + HOUR_MS) == []
    with pytest.raises(KeyError):
        await queries.usage(["provider; DROP TABLE requests"])


async def test_what_a_client_has_spent(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    write(tmp_path, [*completion(1), *completion(2, NOW_MS + HOUR_MS), *completion(3, client="other")])
    drainer.drain()
    assert await queries.spent_nusd("client", "search-agent", 0) == 2_500_000
    assert await queries.spent_nusd("client", "search-agent", NOW_MS + HOUR_MS) == 1_250_000
    assert await queries.spent_nusd("client", "nobody", 0) == 0
    assert await queries.spent_nusd("total", None, 0) == 3_750_000
    assert await queries.spent_nusd("provider", "openai", 0) == 3_750_000
    assert await queries.spent_nusd("department", "research", 0) == 3_750_000
    assert await queries.spent_nusd("agent", "nobody", 0) == 0
    with pytest.raises(KeyError):
        await queries.spent_nusd("planet", "earth", 0)


async def test_what_a_chains_judge_has_spent(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    write(
        tmp_path,
        [
            *completion(1, agent="smart", task="quality-judge"),
            *completion(2, agent="smart"),
            *completion(3, task="quality-judge"),
        ],
    )
    drainer.drain()
    assert await queries.spent_nusd("judge", "smart", 0) == 1_250_000


async def test_before_there_is_a_ledger_everything_is_empty(queries: Queries) -> None:
    assert await queries.list_requests() == ([], None)
    assert await queries.usage(["provider"]) == []
    assert await queries.spent_nusd("client", "search-agent", 0) == 0
    assert (await queries.ledger_lag(0.0)).waiting_bytes == 0


async def test_a_ledger_that_was_replaced_is_opened_anew(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    write(tmp_path, completion(1))
    drainer.drain()
    assert len((await queries.list_requests())[0]) == 1
    drainer.rebuild("a test")
    assert await queries.list_requests() == ([], None)
    drainer.drain()
    assert len((await queries.list_requests())[0]) == 1


@pytest.mark.parametrize(("version", "said"), [(1, "an earlier release"), (9_999, "a later release")])
async def test_the_tables_of_another_release_are_not_guessed_at(
    tmp_path: Path, queries: Queries, version: int, said: str
) -> None:
    connection = open_writer(tmp_path / LEDGER)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    with pytest.raises(LedgerUnavailable, match=said):
        await queries.list_requests()


async def test_a_ledger_that_is_none_is_unavailable(tmp_path: Path, queries: Queries) -> None:
    (tmp_path / LEDGER).write_bytes(b"this is no database" * 500)
    with pytest.raises(LedgerUnavailable):
        await queries.list_requests()


async def test_the_readers_connection_cannot_write(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    with pytest.raises(LedgerUnavailable):
        await queries._fetch("DELETE FROM requests", ())


async def test_lag_is_what_waits_in_the_journal(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    drainer.step()
    journal = open_journal(tmp_path)
    for record in completion(1):
        journal.append(record)
    lag = await queries.ledger_lag(NOW_MS / 1000 + 7)
    assert (lag.seconds, lag.waiting_bytes) == (7.0, journal.path.stat().st_size)
    drainer.drain()
    lag = await queries.ledger_lag(NOW_MS / 1000 + 7)
    assert (lag.seconds, lag.waiting_bytes, dict(lag.counters)) == (0.0, 0, {})
    journal.close()


@pytest.mark.parametrize("names", [[], *([name] for name in _FILTERS), list(_FILTERS)])
def test_no_list_walks_the_table(tmp_path: Path, names: list[str]) -> None:
    connection = open_writer(tmp_path / LEDGER)
    values = {**dict.fromkeys(names, "failed"), "before": "~", "limit": 10}
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {_list_sql(names)}", values)]
    connection.close()
    tables = ("r", "p", "a", "request_rows", "attempt_rows")
    assert not any(step.startswith(f"SCAN {table}") and step.split()[1] == table for step in plan for table in tables[1:]), plan
    if names:
        assert any(
            step.startswith("SEARCH p USING COVERING INDEX request_rows_by_facet (facet=? AND id>? AND id<?)") for step in plan
        )


FILL = """
WITH RECURSIVE number(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM number WHERE i < 199999)
INSERT INTO request_rows (id, ended, time_ms, facet, kind, attempts)
SELECT printf('%026d', i), 1, 1800000000000 + i, 1 + i % 9450, 1, 1 FROM number"""
FILL_FACETS = """
WITH RECURSIVE number(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM number WHERE i < 9449)
INSERT INTO facets (id, key, client, department, model, provider, outcome)
SELECT i + 1, i, 'c' || (i % 50), 'd' || (i % 9), 'm' || (i % 20), 'p' || (i % 7), iif(i % 1000, 'ok', 'failed') FROM number"""
FILL_KINDS = """
INSERT INTO attempt_kinds VALUES (1, 'key', 'p', 'u', '', 'ok', 200, NULL, NULL, 'provider', '', 'stop')"""
FILL_ATTEMPTS = """
INSERT INTO attempt_rows SELECT id, 1, 1, time_ms, NULL, 1, 2, 10, 0, 0, 5, 0, 0, 0, 1000, 0, NULL, 2 FROM request_rows"""


async def test_two_hundred_thousand_rows_are_no_burden(tmp_path: Path, queries: Queries) -> None:
    """Counted in the steps of SQLite's machine, not in seconds: none of the lists may walk the table."""
    connection = open_writer(tmp_path / LEDGER)
    for fill in (FILL, FILL_FACETS, FILL_KINDS, FILL_ATTEMPTS):
        connection.execute(fill)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection.row_factory = sqlite3.Row
    connection.set_progress_handler(count, 1000)
    wanted: tuple[dict[str, str], ...] = (
        {},
        {"outcome": "failed"},
        {"client": "c7"},
        {"model": "m3", "outcome": "failed"},
        {"provider": "p1"},
        {"department": "d2"},
    )
    for given in wanted:
        steps = 0
        rows = connection.execute(_list_sql(given), {**given, "before": "~", "limit": 101}).fetchall()
        assert steps <= 200, (given, steps)
        assert given == {"model": "m3", "outcome": "failed"} or len(rows) == 101
    connection.close()


@pytest.mark.parametrize(("release", "said"), [((3, 40, 1), True), ((3, 51, 2), True), ((3, 51, 3), False), ((4, 0, 0), False)])
def test_an_old_sqlite_is_remarked_on(release: tuple[int, int, int], said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", release)
    assert (remark() is not None) == said
