"""The sums: what goes under which name, and what they are asked for is what plain SQL makes of the rows."""

import random
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from proxy.accounting.records import Record
from proxy.core.money import nusd_to_usd
from proxy.storage.drainer import Drainer
from proxy.storage.hours import pieces
from proxy.storage.queries import Queries
from proxy.storage.slices import SLICES
from proxy.storage.sqlite import LEDGER, open_writer
from proxy.storage.usage import FILTERS, GROUPS, Question, column_filters, statement
from tests.storage.records import NOW_MS, Wall, begin, closed, completion, end, opened, rejected, write

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def drainer(tmp_path: Path, wall: Wall) -> Iterator[Drainer]:
    drainer = Drainer(tmp_path, wall, log=lambda _event, _fields: None)
    yield drainer
    drainer.close()


@pytest.fixture
async def queries(tmp_path: Path) -> AsyncIterator[Queries]:
    queries = Queries(tmp_path)
    yield queries
    await queries.aclose()


# -- names


async def test_tasks_beyond_a_hundred_are_other_and_nothing_is_lost(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    write(tmp_path, [record for number in range(130) for record in completion(number, task=f"task-{number}")])
    drainer.drain()
    rows = await queries.usage(["task"])
    assert (len(rows), rows[0]["task"], rows[0]["requests"]) == (101, "other", 30)
    assert sum(row["requests"] for row in rows) == 130
    (row,), _ = await queries.list_requests(limit=1)
    assert row["task"] == "task-129"  # on the row itself it keeps its name


async def test_a_task_that_outgrows_the_smallest_takes_its_place(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    few = [record for number in range(200) for record in completion(number, task=f"task-{number // 2}")]
    many = [record for number in range(500, 540) for record in completion(number, task="newcomer")]
    for boot, records in enumerate((few, many[:20], many[20:])):
        write(tmp_path, records, f"BOOT{boot}")
        drainer.drain()
    rows = {row["task"]: row["requests"] for row in await queries.usage(["task"])}
    assert len(rows) <= 102
    assert rows["newcomer"] + rows.get("other", 0) == 40
    assert rows["newcomer"] >= 20
    assert sum(rows.values()) == 240


async def test_names_made_up_for_each_request_do_not_fill_the_sums(tmp_path: Path, wall: Wall, queries: Queries) -> None:
    for life in range(3):  # a new life finds the names that have a place
        drainer = Drainer(tmp_path, wall, log=lambda _event, _fields: None)
        records = [record for number in range(400) for record in completion(life * 1000 + number, task=f"{life}-{number}")]
        write(tmp_path, records, f"BOOT{life}")
        drainer.drain()
        drainer.close()
    rows = await queries.usage(["task"])
    assert len(rows) == 101
    assert sum(row["requests"] for row in rows) == 1200


def test_the_table_of_slices_is_the_code_s(tmp_path: Path) -> None:
    connection = open_writer(tmp_path / LEDGER)
    columns = [row[1] for row in connection.execute("PRAGMA table_info(usage_slices)")][1:]
    told = [
        {name for name, counts in zip(columns, row[1:], strict=True) if counts}
        for row in connection.execute("SELECT * FROM usage_slices ORDER BY slice")
    ]
    connection.close()
    assert told == [set(names) for names in SLICES]


# -- reports


def stories() -> list[Record]:
    """Some days of requests, of everything a little, over the end of summer time in Europe."""
    dice = random.Random(4)
    first_ms = round(datetime(2026, 10, 22, 5, tzinfo=UTC).timestamp() * 1000)
    records: list[Record] = []
    for number in range(400):
        time_ms = first_ms + dice.randrange(6 * DAY_MS)
        request = opened(
            number,
            time_ms,
            client=dice.choice(["a", "b", None]),
            department=dice.choice(["research", "sales", None]),
            agent=dice.choice(["x", "y"]),
            task=dice.choice(["sum", "chat", None]),
            chain=dice.choice(["smart", "fast"]),
            stream=dice.random() < 0.5,
        )
        provider, key = dice.choice(["openai", "groq"]), dice.choice(["k1", "k2"])
        outcome = dice.choice(["ok", "ok", "ok", "failed", "client_gone"])
        close = closed(outcome, duration_ms=dice.uniform(100, 9000), first_token_ms=dice.choice([None, dice.uniform(20, 900)]))
        told: dict[str, Any] = {
            "credential": key,
            "cost_nusd": dice.choice([None, dice.randrange(10**7)]),
            "upstream_model": dice.choice("mn"),
        }
        start = begin(request, provider=provider)._replace(credential=key, upstream_model=told["upstream_model"])
        records += [start, end(request, provider=provider, outcome=outcome, **told, usage_source="provider", end=close)]
    return records + [rejected(1000 + number, first_ms + number) for number in range(5)]


def plain(data_dir: Path, group: str, where: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The same from the rows."""
    sql = f"""
    SELECT {group}, count(*), sum(r.outcome = 'ok'), sum(r.outcome = 'failed'), coalesce(sum(a.input_tokens + a.output_tokens), 0),
        coalesce(sum(a.cost_nusd), 0), sum(a.n IS NOT NULL AND a.cost_nusd IS NULL)
    FROM requests AS r LEFT JOIN attempts AS a ON a.request_id = r.id WHERE {where} GROUP BY 1 ORDER BY 1"""
    connection = sqlite3.connect(data_dir / LEDGER)
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


def told(rows: list[dict[str, Any]], group: str) -> list[tuple[Any, ...]]:
    found = [
        (
            row.get(group),
            row["requests"],
            row["ok"],
            row["failed"],
            row["input_tokens"] + row["output_tokens"],
            row["cost_usd"],
            row["unpriced_attempts"],
        )
        for row in rows
    ]
    return sorted(found, key=lambda row: (row[0] is not None, row[0] or ""))


COLUMNS = {
    "provider": "r.provider",
    "model": "r.upstream_model",
    "chain": "r.chain",
    "client": "r.client",
    "department": "r.department",
    "agent": "r.agent",
    "task": "r.task",
    "key": "a.credential",
}
FILTERED: list[dict[str, str | None]] = [
    {},
    {"department": "research"},
    {"chain": "smart", "provider": "groq"},
    {"client": "nobody"},
    {"task": None, "agent": "x"},
]


@pytest.mark.parametrize("settled", [False, True], ids=["as it came", "days moved"])
async def test_every_report_is_what_plain_sql_makes_of_the_rows(
    tmp_path: Path, drainer: Drainer, wall: Wall, queries: Queries, *, settled: bool
) -> None:
    write(tmp_path, stories())
    drainer.drain()
    for _ in range(100 if settled else 0):
        wall.now += 61.0
        drainer.step()
    since_ms = round(datetime(2026, 10, 23, 7, tzinfo=UTC).timestamp() * 1000)
    until_ms = since_ms + 3 * DAY_MS + 5 * HOUR_MS
    for filters in FILTERED:
        given = {name: value for name, value in filters.items() if value is not None}
        where = " AND ".join(["r.time_ms >= ? AND r.time_ms < ?", *[f"{COLUMNS[name]} = ?" for name in given]])
        values = (since_ms, until_ms, *given.values())
        for group, column in COLUMNS.items():
            expected = [(*row[:5], nusd_to_usd(row[5]), row[6]) for row in plain(tmp_path, column, where, values)]
            rows = await queries.usage([group], since_ms, until_ms, filters=filters)
            assert told(rows, group) == expected, (group, filters)
        (expected_total,) = plain(tmp_path, "NULL", where, values) or [(None, 0, 0, 0, 0, 0, 0)]
        totals = await queries.totals(since_ms, until_ms, filters)
        assert told([totals], "") == [(*expected_total[:5], nusd_to_usd(expected_total[5]), expected_total[6])]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/Los_Angeles"])
@pytest.mark.parametrize("filters", [{}, {"department": "research", "agent": "x"}], ids=["all", "some"])
async def test_days_are_those_of_the_reader_also_when_the_clocks_go_back(
    tmp_path: Path, drainer: Drainer, queries: Queries, zone: str, filters: dict[str, str]
) -> None:
    records = stories()
    write(tmp_path, records)
    drainer.drain()
    rows, _ = await queries.list_requests(1000)
    wanted = [row for row in rows if all(row[name] == value for name, value in filters.items())]
    days: dict[str, int] = {}
    for row in wanted:
        day = datetime.fromisoformat(row["time"]).astimezone(ZoneInfo(zone)).date().isoformat()
        days[day] = days.get(day, 0) + 1
    by_day = await queries.usage(["day"], time_zone=zone, filters=filters, percentiles=True)
    assert {row["day"]: row["requests"] for row in by_day} == days
    by_month = await queries.usage(["month"], time_zone=zone, filters=filters)
    assert {row["month"]: row["requests"] for row in by_month} == {"2026-10": len(wanted)}
    series = await queries.timeseries("day", time_zone=zone, filters=filters)
    assert [row["requests"] for row in series] == [days[day] for day in sorted(days)]
    midnight = datetime.fromisoformat(series[-1]["time"]).astimezone(ZoneInfo(zone))
    assert (midnight.hour, midnight.date().isoformat()) == (0, max(days))
    spent = await queries.spend_by_day(0, time_zone=zone, filters=filters)
    assert [(day, nusd_to_usd(nusd)) for day, nusd in spent] == sorted(
        (row["day"], row["cost_usd"]) for row in by_day if row["cost_usd"] != "0"
    )


async def test_the_fields_of_a_row_and_what_they_come_from(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    gone = opened(3)
    slow: list[Record] = [begin(opened(2)), end(opened(2), end=closed(duration_ms=8000.0, first_token_ms=800.0))]
    failed = end(opened(4), outcome="failed", end=closed("failed", first_token_ms=None, duration_ms=3.0))
    write(
        tmp_path,
        [
            *completion(1),
            *slow,
            end(gone, outcome="client_gone", end=closed("client_gone", first_token_ms=None)),
            begin(opened(4)),
            failed,
            rejected(5),
        ],
    )
    drainer.drain()
    total = await queries.totals()
    assert total["p50_ms"] == pytest.approx(812.5, rel=0.09)  # of those that went well
    assert total["p99_ms"] == pytest.approx(8000, rel=0.09)
    assert total["first_token_p50_ms"] == pytest.approx(101.25, rel=0.09)
    del total["p50_ms"], total["p95_ms"], total["p99_ms"]
    del total["first_token_p50_ms"], total["first_token_p95_ms"], total["first_token_p99_ms"]
    assert total == {
        "requests": 5,
        "ok": 2,
        "failed": 1,
        "rejected": 1,
        "interrupted": 0,
        "client_gone": 1,
        "failed_over": 0,
        "attempts": 4,
        "attempts_ok": 2,
        "attempts_failed": 2,
        "input_tokens": 200,
        "cached_input_tokens": 40,
        "cache_write_tokens": 0,
        "output_tokens": 100,
        "reasoning_tokens": 20,
        "input_audio_tokens": 0,
        "output_audio_tokens": 0,
        "at_risk_tokens": 0,
        "unpriced_attempts": 0,
        "estimated_attempts": 0,
        "cache_hits": 0,
        "saved_usd": "0",
        "rated": 0,
        "cache_hit_rate": 0.0,
        "mean_quality": None,
        "cost_usd": "0.0025",
        "success_rate": 0.666667,
        "error_rate": 0.333333,
        "cost_per_call_usd": "0.0005",
        "tokens_per_call": 60.0,
        "mean_duration_ms": pytest.approx((812.5 * 3 + 8000 + 3) / 5, abs=0.01),
        "mean_first_token_ms": pytest.approx((101.25 * 2 + 800) / 3, abs=0.01),
    }


async def test_of_nothing_the_total_is_zeros_and_unknown(queries: Queries) -> None:
    total = await queries.totals()
    assert (total["requests"], total["cost_usd"], total["output_tokens"]) == (0, "0", 0)
    unknown = ("success_rate", "cost_per_call_usd", "tokens_per_call", "p50_ms", "first_token_p99_ms", "mean_duration_ms")
    assert [total[name] for name in unknown] == [None] * len(unknown)
    assert await queries.timeseries("hour") == []
    assert await queries.fallbacks() == []
    assert await queries.used("groq", None, 0) == (0, 0)
    assert (await queries.uptime(NOW_MS), await queries.checks(), await queries.alerts()) == ({}, [], [])


async def test_a_series_by_hour_and_group(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    later = NOW_MS + 2 * HOUR_MS
    write(tmp_path, [*completion(1), *completion(2, later), *completion(3, later, department=None)])
    drainer.drain()
    series = await queries.timeseries("hour", NOW_MS, NOW_MS + DAY_MS, group_by="department")
    assert [(row["time"], row["department"], row["requests"]) for row in series] == [
        ("2027-01-15T08:00:00.000Z", "research", 1),
        ("2027-01-15T10:00:00.000Z", None, 1),
        ("2027-01-15T10:00:00.000Z", "research", 1),
    ]
    assert (series[0]["cost_usd"], series[0]["success_rate"], series[0]["failed_over"]) == ("0.00125", 1.0, 0)
    assert series[0]["p95_ms"] == pytest.approx(812.5, rel=0.09)
    assert "p95_ms" not in (await queries.timeseries("hour", percentiles=False))[0]


@pytest.mark.parametrize(
    ("ask", "what"),
    [
        (lambda q: q.usage(["planet"]), "planet"),
        (lambda q: q.usage([], filters={"planet": "earth"}), "planet"),
        (lambda q: q.usage(["day"], time_zone="Mars/Olympus"), "Mars/Olympus"),
        (lambda q: q.usage(["day"], time_zone="../../etc/passwd"), "../../etc/passwd"),
        (lambda q: q.timeseries("minute"), "minute"),
        (lambda q: q.timeseries("hour", group_by="hour"), "hour"),
    ],
)
async def test_what_there_is_not_is_named(queries: Queries, ask: Any, what: str) -> None:
    with pytest.raises(KeyError, match=what.replace(".", r"\.")):
        await ask(queries)


async def test_failovers_from_to_and_why(tmp_path: Path, drainer: Drainer, queries: Queries) -> None:
    def walk(number: int, then: str = "next") -> list[Record]:
        request = opened(number)
        notes = [
            {"attempt": 1, "target": "groq/llama", "error": "rate_limited", "ms": number, "then": "next"},
            {"attempt": 2, "target": "azure/gpt-4o", "error": "timeout", "ms": 9.5, "then": then},
        ]
        made = 3 if then == "next" else 2
        last = end(request, made, end=closed("ok" if made == 3 else "failed", attempts=made, trace=notes))
        return [begin(request), end(request, outcome="failed"), begin(request, made), last]

    write(tmp_path, [*walk(1), *walk(2), *walk(3, "stop"), *completion(4)])
    drainer.drain()
    assert await queries.fallbacks() == [
        {"chain": "smart", "from": "groq/llama", "to": "azure/gpt-4o", "reason": "rate_limited", "count": 3},
        {"chain": "smart", "from": "azure/gpt-4o", "to": "openai/gpt-4o", "reason": "timeout", "count": 2},
    ]
    assert await queries.fallbacks(NOW_MS + HOUR_MS) == []


@pytest.mark.parametrize("offset_ms", [0, 1, HOUR_MS // 2, HOUR_MS - 1, HOUR_MS, 5 * HOUR_MS])
async def test_what_was_used_is_exact_to_the_millisecond(
    tmp_path: Path, drainer: Drainer, queries: Queries, offset_ms: int
) -> None:
    times = [0, 1, 2, HOUR_MS // 2 - 1, HOUR_MS // 2, HOUR_MS - 2, HOUR_MS, 3 * HOUR_MS, 30 * HOUR_MS]
    records: list[Record] = []
    for number, time_ms in enumerate(times):
        request = opened(number, NOW_MS + time_ms - 1)  # its attempt begins a millisecond later
        key = "even" if number % 2 == 0 else "odd"
        records += [begin(request)._replace(credential=key), end(request, credential=key)]
    write(tmp_path, records)
    drainer.drain()
    since_ms = NOW_MS + offset_ms
    for asked, numbers in ((None, range(9)), ("even", range(0, 9, 2)), ("odd", range(1, 9, 2))):
        sent = sum(times[number] >= offset_ms for number in numbers)
        assert await queries.used("openai", asked, since_ms) == (sent, 150 * sent)
    assert await queries.used("groq", None, since_ms) == (0, 0)


# -- the plan


def plan_of(connection: sqlite3.Connection, groups: Sequence[str], filters: dict[str, str], step: str | None) -> list[str]:
    columns = tuple(column_filters(dict.fromkeys(groups, "")))
    found = pieces(NOW_MS // HOUR_MS, NOW_MS // HOUR_MS + 100, step, ZoneInfo("Europe/Berlin"))
    question = Question(found, columns, column_filters(filters), histograms=True)
    sql, values = statement(question)
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]


def test_no_report_walks_a_table(tmp_path: Path) -> None:
    connection = open_writer(tmp_path / LEDGER)
    names = [name for name in GROUPS if name in FILTERS]
    for groups in ([], *[[name] for name in names], names):
        for filters in ({}, *[{name: "x"} for name in names], dict.fromkeys(names, "x")):
            for step in (None, "hour", "day"):
                plan = plan_of(connection, groups, filters, step)
                assert not any("_rows" in line for line in plan), plan
                read = [line for line in plan if line.split()[1] == "u"]
                assert read
                assert all(
                    line.startswith(("SEARCH u USING PRIMARY KEY (slice=? AND", "SEARCH u USING PRIMARY KEY (tag=?"))
                    for line in read
                ), plan
                stretch = ("day>? AND day<?", "hour>? AND hour<?", "=? AND tag=?")
                assert all(any(each in line for each in stretch) for line in read), plan
    connection.close()
