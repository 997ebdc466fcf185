"""What a report costs, counted: rows that are handed over, steps of SQLite's machine, questions that are put. Never time."""

import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from proxy.storage import queries as of_queries
from proxy.storage.drainer import Drainer
from proxy.storage.histogram import _remembered, histogram, percentiles, shorten
from proxy.storage.hours import HOUR_MS, Span, pieces, pieces_of
from proxy.storage.long_sums import add_up
from proxy.storage.queries import Queries
from proxy.storage.retention import Retention, write_retention
from proxy.storage.settled import MAX_GROUPS, Settled
from proxy.storage.sqlite import LEDGER, open_writer
from proxy.storage.usage import Answer, Question, counting_tags, is_surely_few, span_of, statement, with_span
from tests.storage import big
from tests.storage.big import DAY_MS, FIRST_MS
from tests.storage.records import Wall, completion, write

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

DAYS = 80  # from 15 January 2027, a Friday, to 4 April, a Sunday
REQUESTS = 2_000
FIRST_DAY, END_MS = FIRST_MS // DAY_MS, FIRST_MS + DAYS * DAY_MS
END_DAY = FIRST_DAY + DAYS
SOME_CLIENTS = ("client-0", "client-1")


class Counted(Queries):
    """Notes how many rows each statement gave."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.rows: list[int] = []

    async def _fetch(self, sql: str, values: Mapping[str, Any] | Sequence[Any]) -> list[sqlite3.Row]:
        rows = await super()._fetch(sql, values)
        self.rows.append(len(rows))
        return rows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eighty_days")
    big.make(folder, requests=REQUESTS, days=DAYS)
    return folder


@pytest.fixture
async def queries(made: Path) -> AsyncIterator[Counted]:
    queries = Counted(made)
    yield queries
    await queries.aclose()


def span(folder: Path) -> Span:
    connection = sqlite3.connect(folder / LEDGER)
    connection.row_factory = sqlite3.Row
    (row,) = connection.execute(*with_span(Question(pieces(0, 0), (), {}))).fetchall()
    connection.close()
    return span_of(row)


def plan_and_steps(folder: Path, question: Question) -> tuple[list[str], int, int]:
    """How SQLite goes about it, how many steps that takes, in tens, and how many rows it gives."""
    connection = sqlite3.connect(folder / LEDGER)
    sql, values = statement(question)
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    connection.set_progress_handler(count, 10)
    rows = len(connection.execute(sql, values).fetchall())
    connection.close()
    return plan, steps, rows


# -- rows


@pytest.mark.parametrize("since_ms", [FIRST_MS, FIRST_MS + 9 * HOUR_MS], ids=["whole days", "days and hours"])
async def test_a_page_is_cut_before_it_is_handed_over(queries: Counted, since_ms: int) -> None:
    every = await queries.usage(["client", "day"], since_ms, END_MS, percentiles=True)
    assert len(every) > 1_000
    queries.rows.clear()
    page = await queries.usage(["client", "day"], since_ms, END_MS, percentiles=True, limit=40, after=60, bounded=True)
    assert page == every[60:100]
    tags, rows = queries.rows
    assert tags == 1
    assert 100 < rows <= 100 + 1 + 15, "the dearest of the days, those of the few hours, and what there is"


async def test_where_groups_are_made_of_several_tables_all_of_them_are_needed(queries: Counted) -> None:
    """The dearest in the end may be dear nowhere."""
    dearest = await queries.usage(["client"], FIRST_MS + 9 * HOUR_MS, END_MS, limit=5)
    assert queries.rows[-1] > 50
    assert await queries.usage(["client"], FIRST_MS + 9 * HOUR_MS, END_MS) != dearest
    assert (await queries.usage(["client"], FIRST_MS + 9 * HOUR_MS, END_MS))[:5] == dearest


# -- what SQLite does


@pytest.mark.parametrize(("step", "groups"), [("hour", ()), ("hour", ("client",)), ("day", ("client",)), ("day", ("provider",))])
def test_nothing_is_put_in_order_where_each_row_is_a_group(made: Path, step: str, groups: tuple[str, ...]) -> None:
    found = pieces(FIRST_DAY * 24, END_DAY * 24, step)
    plan, steps, rows = plan_and_steps(made, Question(found, groups, {}, histograms=True))
    assert not any("TEMP B-TREE" in line for line in plan), plan
    assert 10 * steps <= 60 * max(rows, len(found.labels)), "some forty columns each, and no more than once"


def test_whoever_is_not_asked_about_is_not_passed_by(made: Path) -> None:
    found = pieces(FIRST_DAY * 24, END_DAY * 24, "day")
    _, every, rows = plan_and_steps(made, Question(found, ("client",), {}, histograms=True))
    plan, some, few = plan_and_steps(made, Question(found, ("client",), {}, histograms=True, among=SOME_CLIENTS))
    assert 0 < few < rows / 10
    assert 4 * some < every
    assert any("day=? AND tag=?" in line for line in plan), plan


def test_until_now_takes_the_month_as_far_as_it_is_known(made: Path) -> None:
    """Whole months and the one that is under way, the day that is not over; nothing by the week, and no hours."""
    there = span(made)
    assert there == Span(FIRST_DAY, END_DAY * 24 - 1, 0, END_DAY - 1)
    for since_h, until_h in ((0, 1 << 40), (FIRST_DAY * 24, END_DAY * 24 - 1), (FIRST_DAY * 24, END_DAY * 24)):
        found = pieces_of(there, since_h, until_h)
        assert (sum(stop - start for start, stop, _ in found.months), found.weeks, found.days, found.hours) == (
            4,
            [],
            [(END_DAY - 1, END_DAY, 0)],
            [],
        )
    by_month = pieces_of(there, FIRST_DAY * 24, END_DAY * 24, "month")
    assert [len(found) for found in (by_month.months, by_month.weeks, by_month.days)] == [4, 0, 1]


@pytest.mark.parametrize("days", [90, 365])
def test_since_some_day_until_now_is_few_units(days: int) -> None:
    """Whatever today is: months, four weeks and six days at the begin, and today."""
    for today in range(20_500, 20_900):
        found = pieces_of(Span(0, today * 24 + 10, 0, today), (today - days) * 24, today * 24 + 11)
        months, weeks, odd = [
            sum(stop - start for start, stop, _ in ranges) for ranges in (found.months, found.weeks, found.days)
        ]
        assert months <= days // 28 + 1
        assert weeks <= 4
        assert odd <= 13


# -- questions


async def test_a_report_is_one_statement_once_it_is_known_what_there_is(queries: Counted) -> None:
    for ask in (
        lambda: queries.usage(["provider"], FIRST_MS, END_MS, percentiles=True),
        lambda: queries.timeseries("hour", END_MS - DAY_MS, END_MS, group_by="provider"),
        lambda: queries.used_by_day("provider", FIRST_MS),
        lambda: queries.totals(FIRST_MS, END_MS, {"provider": "provider-3"}),
    ):
        first = await ask()
        queries.rows.clear()
        assert await ask() == first
        assert len(queries.rows) == 1


async def test_what_comes_to_be_known_between_two_questions_counts_once(made: Path, tmp_path: Path) -> None:
    """A day is added to its month after somebody chose the month and the day: chosen once more, nothing is counted twice."""
    shutil.copy(made / LEDGER, tmp_path / LEDGER)
    queries = Counted(tmp_path)
    before = await queries.usage(["client"], FIRST_MS, None, percentiles=True)
    connection = open_writer(tmp_path / LEDGER)
    connection.execute("BEGIN")
    for _ in add_up(connection, END_DAY):
        pass
    connection.execute("COMMIT")
    connection.close()
    queries.rows.clear()
    assert await queries.usage(["client"], FIRST_MS, None, percentiles=True) == before
    assert len(queries.rows) == 2
    assert span(tmp_path).until_day == END_DAY
    await queries.aclose()


def test_whether_there_may_be_too_many_is_told_by_the_tags(made: Path) -> None:
    question = Question(pieces(FIRST_DAY * 24, END_DAY * 24, "day"), ("client",), {})
    connection = sqlite3.connect(made / LEDGER)
    ((tags,),) = connection.execute(*counting_tags(question, 1_000)).fetchall()
    assert tags == 50
    assert connection.execute(*counting_tags(question, 7)).fetchall() == [(7,)]
    connection.close()
    assert is_surely_few(question, tags, 50 * DAYS)
    assert not is_surely_few(question, tags, 50 * DAYS - 1)


async def test_a_long_list_is_no_work_for_the_thread_in_which_requests_are_served(queries: Counted) -> None:
    here, made_in = threading.current_thread(), list[bool]()

    def noted(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run(rows: Any) -> Any:
            made_in.append(threading.current_thread() is here)
            return work(rows)

        return run

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(of_queries, "_requests", noted(of_queries._requests))
        few, _ = await queries.list_requests(20)
        many, _ = await queries.list_requests(1000)
    assert (len(few), len(many), many[:20]) == (20, 1000, few)
    assert made_in == [True, False]


# -- days that are over


REPORTS: dict[str, Callable[[Queries], Awaitable[Any]]] = {
    "all": lambda q: q.totals(0, None),
    "by client": lambda q: q.usage(["client"], FIRST_MS + 3 * HOUR_MS, END_MS, percentiles=True),
    "by department and model": lambda q: q.usage(["department", "model"], FIRST_MS + 30 * HOUR_MS, END_MS, percentiles=True),
    "by month": lambda q: q.usage(["month", "provider"], FIRST_MS, END_MS, time_zone="America/Los_Angeles", percentiles=True),
    "days elsewhere": lambda q: q.timeseries("day", FIRST_MS, END_MS, group_by="provider", time_zone="Asia/Kolkata"),
    "of a department": lambda q: q.usage(
        ["model"], FIRST_MS + HOUR_MS, None, filters={"department": "department-1"}, percentiles=True
    ),
    "by day": lambda q: q.used_by_day("client", FIRST_MS, filters={"department": "department-1"}),
    "spent": lambda q: q.spent_nusd("client", "client-3", FIRST_MS + DAY_MS + HOUR_MS),
}


async def anew(folder: Path, ask: Callable[[Queries], Awaitable[Any]]) -> Any:
    """Asked of somebody who remembers nothing."""
    queries = Queries(folder)
    try:
        return await ask(queries)
    finally:
        await queries.aclose()


@pytest.mark.parametrize("name", REPORTS)
async def test_asked_again_a_report_says_the_same_and_reads_today(queries: Counted, made: Path, name: str) -> None:
    first = await REPORTS[name](queries)
    read = queries.rows[-1]
    queries.rows.clear()
    assert await REPORTS[name](queries) == first == await anew(made, REPORTS[name])
    assert len(queries.rows) == 1
    assert queries.rows[0] <= max(2, read // 2)


async def test_what_comes_late_or_is_forgotten_is_seen_at_once(made: Path, tmp_path: Path) -> None:
    shutil.copy(made / LEDGER, tmp_path / LEDGER)
    queries = Queries(tmp_path)
    wall = Wall()
    wall.now = END_MS / 1000 - 3_600
    for number, late_ms in enumerate((FIRST_MS + 50 * DAY_MS, END_MS - DAY_MS - 1, END_MS - 1), start=1):
        before = {name: await ask(queries) for name, ask in REPORTS.items()}
        write(tmp_path, completion(number, late_ms, client="client-3", department="department-1"), f"BOOT{number}")
        drainer = Drainer(tmp_path, wall, log=lambda _event, _fields: None)
        drainer.drain()
        drainer.close()
        for name, ask in REPORTS.items():
            told = await ask(queries)
            assert told == await anew(tmp_path, ask), name
            assert told != before[name], name
    write_retention(tmp_path, Retention(rollups_s=77 * 86_400.0))
    drainer = Drainer(tmp_path, wall, log=lambda _event, _fields: None)
    for _ in range(400):
        wall.now += 0.1
        drainer.step()
    drainer.close()
    assert span(tmp_path).first_day == FIRST_DAY + 2
    for name, ask in REPORTS.items():
        assert await ask(queries) == await anew(tmp_path, ask), name
    await queries.aclose()


def test_what_is_remembered_is_bounded() -> None:
    kept = Settled()
    row = Answer(0, (), (), None, None)
    for number in range(10):
        kept.keep((number,), None, {(place,): row for place in range(MAX_GROUPS // 4)})
    assert [number for number in range(10) if kept.get((number,), None) is not None] == [7, 8, 9]
    kept.get((7,), None)
    kept.keep((10,), 1, {(place,): row for place in range(MAX_GROUPS // 4)})
    assert kept.get((7,), None) is not None, "it was asked for last"
    assert kept.get((8,), None) is None
    assert kept.get((10,), 2) is None, "days that are over have changed since"
    kept.keep((10,), 2, {})
    for number in range(MAX_GROUPS):
        kept.keep((number, "none"), None, {})
    assert kept.get((10,), 2) is None, "one that came to nothing takes a place, too"


# -- percentiles


def test_what_a_short_histogram_came_to_is_remembered() -> None:
    text, shares = shorten(histogram([17.5] * 99 + [1234.5])), (0.5, 0.995)
    told = percentiles(text, shares)
    hits = _remembered.cache_info().hits
    assert percentiles(text, shares) == told
    assert _remembered.cache_info().hits == hits + 1
    assert percentiles(text * 100, shares) == told, "one that is long is worked out, and comes to the same"
    assert _remembered.cache_info().hits == hits + 1
