"""Weeks and months say what their days say, whatever happens to these, and reports on long times read them instead."""

import shutil
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import InvalidValue
from proxy.storage import queries as of_queries
from proxy.storage.drainer import Drainer
from proxy.storage.histogram import shorten
from proxy.storage.hours import (
    Pieces,
    begin_of_month,
    begin_of_week,
    in_long_steps,
    month_of,
    pieces,
    week_of,
)
from proxy.storage.long_sums import add_up, begin_anew
from proxy.storage.queries import Queries
from proxy.storage.rebuild import rebuild_sums
from proxy.storage.retention import Retention, write_retention
from proxy.storage.slices import SLICES, SUMS
from proxy.storage.sqlite import LEDGER, open_writer
from proxy.storage.usage import Question, statement
from proxy.storage.verify import verify
from tests.storage import big
from tests.storage.big import AS_IN_VERSION_4, DAY_MS, FIRST_MS
from tests.storage.records import Wall, completion, failover, write

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

DAYS = 100  # from 15 January 2027, a Friday, to 25 April
REQUESTS = 400
FIRST_DAY, END_DAY = FIRST_MS // DAY_MS, FIRST_MS // DAY_MS + DAYS
END_MS = FIRST_MS + DAYS * DAY_MS
LONG_TABLES = ("weekly_sums", "monthly_sums")
COMBINED = ("department", "upstream_model")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hundred_days")
    big.make(folder, requests=REQUESTS, days=DAYS)
    return folder


@pytest.fixture
def ledger(made: Path, tmp_path: Path) -> Path:
    """One to write to."""
    shutil.copy(made / LEDGER, tmp_path / LEDGER)
    return tmp_path


@pytest.fixture
async def queries(made: Path) -> AsyncIterator[Queries]:
    queries = Queries(made)
    yield queries
    await queries.aclose()


@pytest.fixture
def wall() -> Wall:
    wall = Wall()
    wall.now = END_MS / 1000
    return wall


def change(folder: Path, *statements: str) -> None:
    connection = open_writer(folder / LEDGER)
    for sql in statements:
        connection.execute(sql)
    connection.close()


def select(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(folder / LEDGER)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def long_rows(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Histograms in as few characters as they take."""
    found = {}
    for table in LONG_TABLES:
        rows = select(folder, f"SELECT * FROM {table}")
        names = [row[1] for row in select(folder, f"PRAGMA table_info({table})")]
        texts = [names.index(name) for name in ("durations", "first_token_times")]
        found[table] = sorted(tuple(shorten(cell) if place in texts else cell for place, cell in enumerate(row)) for row in rows)
    return found


def idle(folder: Path, wall: Wall, rounds: int = 1) -> None:
    drainer = Drainer(folder, wall, log=lambda _event, _fields: None)
    drainer.drain()
    for _ in range(rounds):
        wall.now += 61
        for _ in range(1500):
            drainer.step()
    drainer.close()


# -- which units a stretch of time is made of


@pytest.mark.property
@given(st.integers(20_000, 20_200), st.integers(0, 500), st.integers(19_990, 20_300), st.integers(0, 500))
def test_each_day_counts_once_in_whole_months_and_weeks_and_by_itself(
    start: int, length: int, from_day: int, summed: int
) -> None:
    found = Pieces(labels=[None], days=[(start, start + length, 0)] if length else [])
    in_long_steps(found, from_day, from_day + summed)
    days: Counter[int] = Counter()
    for first, end, _ in found.days:
        days.update(range(first, end))
    until_day = from_day + summed
    for begin_of, ranges in ((begin_of_week, found.weeks), (begin_of_month, found.months)):
        for first, end, _ in ranges:
            assert from_day <= begin_of(first) < begin_of(end)
            days.update(range(begin_of(first), min(begin_of(end), until_day)))  # it holds no more yet
    assert days == Counter(range(start, start + length))


@pytest.mark.parametrize(
    ("day", "week", "month"),
    [(0, 0, 0), (3, 0, 0), (4, 1, 0), (31, 4, 1), (-1, 0, -1), (20_833, 2976, 684), (20_849, 2978, 684), (20_850, 2979, 685)],
)
def test_weeks_begin_on_mondays_and_months_on_their_first(day: int, week: int, month: int) -> None:
    assert (week_of(day), month_of(day)) == (week, month)
    assert begin_of_week(week) <= day < begin_of_week(week + 1)
    assert begin_of_month(month) <= day < begin_of_month(month + 1)


# -- what reports make of them


SPANS = {
    "all": (0, None),
    "whole months": (FIRST_MS + 17 * DAY_MS, FIRST_MS + 76 * DAY_MS),
    "odd hours": (FIRST_MS + 3 * DAY_MS + 7_000_000, END_MS - 2 * DAY_MS - 50_000_000),
    "nearly whole days": (FIRST_MS + 5 * DAY_MS + 3_600_000, END_MS - DAY_MS - 3_600_000),
    "a few days": (FIRST_MS + 40 * DAY_MS, FIRST_MS + 43 * DAY_MS),
    "until now": (FIRST_MS + 60 * DAY_MS, END_MS + 3_600_000),
}


@pytest.mark.parametrize("span", SPANS)
async def test_a_report_says_the_same_with_them_and_without(made: Path, ledger: Path, queries: Queries, span: str) -> None:
    change(ledger, "DELETE FROM summed_days")
    without = Queries(ledger)
    since_ms, until_ms = SPANS[span]
    questions: list[tuple[list[str], str, dict[str, str]]] = [
        ([], "UTC", {}),
        (["provider"], "UTC", {}),
        (["department", "model"], "UTC", {}),
        (["month", "model"], "UTC", {}),
        (["month", "department", "agent"], "Europe/Berlin", {}),
        (["client"], "UTC", {"department": "department-1", "model": "model-3"}),
        (["day"], "America/Los_Angeles", {"agent": "agent-2"}),
    ]
    for groups, zone, filters in questions:
        rows, expected = [
            await each.usage(groups, since_ms, until_ms, time_zone=zone, filters=filters, percentiles=True)
            for each in (queries, without)
        ]
        assert rows == expected, (groups, zone, filters)
    assert await queries.used_by_day("provider", since_ms, until_ms) == await without.used_by_day("provider", since_ms, until_ms)
    await without.aclose()


async def test_a_report_is_what_plain_sql_makes_of_the_rows(made: Path, queries: Queries) -> None:
    expected = select(
        made,
        "SELECT f.department, k.upstream_model, count(*) FROM request_rows AS r JOIN facets AS f ON f.id = r.facet "
        "JOIN request_kinds AS k ON k.id = r.kind GROUP BY 1, 2",
    )
    rows = await queries.usage(["department", "model"])
    assert sorted((row["department"], row["model"], row["requests"]) for row in rows if row["requests"]) == sorted(expected)
    by_month = await queries.usage(["month"])
    assert sorted((row["month"], row["requests"]) for row in by_month) == select(
        made, "SELECT strftime('%Y-%m', time_ms / 1000, 'unixepoch'), count(*) FROM request_rows GROUP BY 1"
    )


async def test_failovers_are_read_by_the_day(made: Path, queries: Queries) -> None:
    sql = "SELECT coalesce(sum(count), 0) FROM failovers_hourly WHERE hour >= {} AND hour < {}"
    for since_ms, until_ms in SPANS.values():
        hours = since_ms // 3_600_000, 1 << 40 if until_ms is None else -(-until_ms // 3_600_000)
        found = await queries.fallbacks(since_ms, until_ms)
        assert [(sum(move["count"] for move in found),)] == select(made, sql.format(*hours))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sums alone: of everything, of 40 providers and of 40 combinations, on each of a hundred days."""
    folder = tmp_path_factory.mktemp("dense")
    names = ", ".join(SUMS)
    numbers = "WITH RECURSIVE number (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM number WHERE i < 39)"
    days = "WITH RECURSIVE day (d) AS (SELECT 20833 UNION ALL SELECT d + 1 FROM day WHERE d < 20932)"
    sums = ", ".join("1" for _ in SUMS)
    connection = open_writer(folder / LEDGER)
    connection.execute("BEGIN")
    connection.execute("INSERT INTO usage_tags VALUES (1000, 1, '', '', '', '', '', '', '', '', 0)")
    for number, department in ((0, "'department-' || i % 5"), (2, "''")):
        tag = f"{number} * 100 + i, {number}, 'provider-' || i, '', '', '', {department}, '', '', '', 0"
        connection.execute(f"INSERT INTO usage_tags {numbers} SELECT {tag} FROM number")
    for table, of, slices in (("past_daily_sums", "t.id, d", "0"), ("daily_sums", "t.slice, d, t.id", "1, 2")):
        key = "tag, day" if table.startswith("past") else "slice, day, tag"
        connection.execute(
            f"INSERT INTO {table} ({key}, {names}, durations, first_token_times) {days} SELECT {of}, {sums}, 'P', 'A' "
            f"FROM day, usage_tags AS t WHERE t.slice IN ({slices})"
        )
    connection.execute("COMMIT")
    connection.close()
    change(folder, *AS_IN_VERSION_4, "PRAGMA user_version = 4")
    open_writer(folder / LEDGER).close()
    return folder


def steps_of(folder: Path, columns: Sequence[str], days: int, *, summed: bool = True) -> int:
    """How many steps SQLite's machine takes for a report on the last days, in hundreds."""
    found = pieces((END_DAY - days) * 24, END_DAY * 24)
    if summed:
        in_long_steps(found, 0, END_DAY - 1)
    connection = sqlite3.connect(folder / LEDGER)
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    connection.set_progress_handler(count, 100)
    rows = connection.execute(*statement(Question(found, tuple(columns), {}, histograms=True))).fetchall()
    connection.close()
    assert sum(row[2 + len(columns)] for row in rows) == days * (1 if not columns else 40)
    return steps


@pytest.mark.parametrize("columns", [(), ("provider",), ("provider", "department")])
def test_a_quarter_is_not_twice_the_work_of_a_month(dense: Path, columns: tuple[str, ...]) -> None:
    assert steps_of(dense, columns, 98) <= 2 * steps_of(dense, columns, 28) + 5
    if columns:
        assert 3 * steps_of(dense, columns, 98) < steps_of(dense, columns, 98, summed=False)


def test_what_a_report_goes_through_is_bounded_by_its_edges() -> None:
    """A year from any day on is months, at most eight weeks, and at most a dozen days, with half a day of hours at either end."""
    for since_h in range(20_500 * 24, 20_560 * 24, 7):
        found = pieces(since_h, since_h + 365 * 24)
        in_long_steps(found, 0, since_h // 24 + 366)
        units = [sum(stop - start for start, stop, _ in ranges) for ranges in (found.months, found.weeks, found.days)]
        assert all(most >= there for most, there in zip((12, 8, 26), units, strict=True)), units
        assert sum(stop - start for ranges in (found.hours, found.less_hours) for start, stop, _ in ranges) <= 24


# -- in step with their days


def test_the_days_that_are_over_are_added_one_by_one_to_what_the_migration_makes_at_once(made: Path, ledger: Path) -> None:
    change(ledger, *[f"DELETE FROM {table}" for table in (*LONG_TABLES, "summed_days")])
    connection = open_writer(ledger / LEDGER)
    connection.execute("BEGIN")
    steps = sum(1 for _ in add_up(connection, END_DAY - 1))
    assert sum(1 for _ in add_up(connection, END_DAY - 1)) == 1, "nothing is left to do"
    connection.execute("COMMIT")
    connection.close()
    assert steps == (DAYS - 1) * len(SLICES) + 1
    assert long_rows(ledger) == long_rows(made)
    assert select(ledger, "SELECT DISTINCT from_day, until_day FROM summed_days") == [(0, END_DAY - 1)]
    assert verify(ledger).differences == []


def test_a_ledger_of_the_release_before_gets_them(made: Path, ledger: Path) -> None:
    change(ledger, *AS_IN_VERSION_4, "PRAGMA user_version = 4")
    open_writer(ledger / LEDGER).close()
    assert long_rows(ledger) == long_rows(made)
    assert select(ledger, "SELECT * FROM failovers_daily") == select(made, "SELECT * FROM failovers_daily")
    assert verify(ledger).differences == []


def test_what_comes_late_is_in_the_week_and_the_month_at_once(made: Path, ledger: Path, wall: Wall) -> None:
    late_ms = FIRST_MS + 50 * DAY_MS
    write(ledger, [*completion(1, late_ms), *failover(2, late_ms), *completion(3, END_MS)])
    idle(ledger, wall, rounds=0)
    for table, unit, number in (
        ("weekly_sums", "week", week_of(FIRST_DAY + 50)),
        ("monthly_sums", "month", month_of(FIRST_DAY + 50)),
    ):
        sql = f"SELECT sum(requests), sum(attempts) FROM {table} WHERE slice = {{}} AND {unit} = {number}"
        for slice_number in range(len(SLICES)):
            ((requests, attempts),) = select(ledger, sql.format(slice_number))
            assert [(requests - 2, attempts - 3)] == select(made, sql.format(slice_number))
    assert verify(ledger).differences == []
    wall.now += 86_400
    idle(ledger, wall)
    assert select(ledger, "SELECT DISTINCT until_day FROM summed_days") == [(END_DAY + 1,)]
    assert verify(ledger).differences == []


async def test_where_days_are_forgotten_their_week_is_read_no_more(ledger: Path, wall: Wall) -> None:
    write_retention(ledger, Retention(requests_s=45 * 86_400, rollups_s=45 * 86_400))
    idle(ledger, wall, rounds=2)
    cut = END_DAY - 45
    assert select(ledger, "SELECT DISTINCT from_day FROM summed_days") == [(cut,)]
    assert select(ledger, "SELECT min(day) FROM daily_sums WHERE slice = 1") == [(cut,)]
    for table, unit, first in (("weekly_sums", "week", week_of(cut)), ("monthly_sums", "month", month_of(cut))):
        assert select(ledger, f"SELECT min({unit}) FROM {table}") == [(first,)]
    assert begin_of_week(week_of(cut)) < cut
    queries = Queries(ledger)
    total = await queries.totals()
    await queries.aclose()
    assert [(total["requests"],)] == select(ledger, "SELECT sum(requests) FROM daily_sums WHERE slice = 1")
    assert verify(ledger).differences == []


@pytest.mark.parametrize("day", [FIRST_DAY, FIRST_DAY + 30, FIRST_DAY + 45, END_DAY - 1])
def test_to_begin_anew_loses_nothing(made: Path, ledger: Path, day: int) -> None:
    connection = open_writer(ledger / LEDGER)
    connection.execute("BEGIN")
    begin_anew(connection, day)
    connection.execute("COMMIT")
    if day == FIRST_DAY + 45:
        assert verify(ledger).differences == []
    connection.execute("BEGIN")
    for _ in add_up(connection, END_DAY - 1):
        continue
    connection.execute("COMMIT")
    connection.close()
    assert long_rows(ledger) == long_rows(made)


def test_sums_that_are_made_anew_have_no_old_weeks_beside_them(made: Path, ledger: Path) -> None:
    connection = open_writer(ledger / LEDGER)
    connection.execute("BEGIN")
    assert rebuild_sums(connection)[0] == REQUESTS
    for _ in add_up(connection, END_DAY - 1):
        continue
    connection.execute("COMMIT")
    connection.close()
    assert verify(ledger).differences == []
    totals = f"SELECT {', '.join(f'sum({name})' for name in SUMS)} FROM monthly_sums WHERE slice = 0"
    assert select(ledger, totals) == select(made, totals)


@pytest.mark.parametrize("table", LONG_TABLES)
def test_a_changed_week_or_month_is_found(ledger: Path, table: str) -> None:
    change(
        ledger,
        f"UPDATE {table} SET cost_nusd = cost_nusd + 1 WHERE slice = 2 AND tag = (SELECT min(tag) FROM {table} WHERE slice = 2)",
    )
    found = verify(ledger)
    assert found.differing > 0
    assert {each.message for each in found.differences} == {f"days less {table.removesuffix('ly_sums')}s: cost_nusd -1"}


def test_a_changed_day_of_failovers_is_found(ledger: Path) -> None:
    change(ledger, "UPDATE failovers_daily SET count = count + 1 WHERE day = (SELECT min(day) FROM failovers_daily)")
    assert {each.message for each in verify(ledger).differences} == {"hours less days -1"}


# -- what one answer may cost


async def test_an_answer_has_as_many_rows_as_were_asked_for_the_dearest_first(queries: Queries) -> None:
    every = await queries.usage(["task", "day"], percentiles=True)
    assert len(every) > 100
    assert await queries.usage(["task", "day"], percentiles=True, limit=10, after=90) == every[90:100]
    assert await queries.usage(["task", "day"], percentiles=True, limit=10, after=len(every)) == []


@pytest.mark.parametrize(
    ("groups", "rows"),
    [
        (["task", "hour"], "SELECT count(*) FROM hourly_sums WHERE slice = 9"),
        (["department", "model", "day"], "SELECT count(*) FROM usage_daily"),
    ],
)
async def test_a_report_by_the_hour_or_day_is_bounded_by_the_sums_it_goes_through(
    made: Path, queries: Queries, monkeypatch: pytest.MonkeyPatch, groups: list[str], rows: str
) -> None:
    ((count,),) = select(made, rows)
    monkeypatch.setattr(of_queries, "MAX_SUMMED", count)
    assert await queries.usage(groups, bounded=True)
    monkeypatch.setattr(of_queries, "MAX_SUMMED", count - 1)
    with pytest.raises(InvalidValue, match=f"more than {count - 1:,} sums"):
        await queries.usage(groups, bounded=True)
    assert await queries.usage(groups)
    assert await queries.usage(["department", "model"], bounded=True), "without steps there is nothing to bound"
