"""What a request says beyond the usual: kept on a row of its own, summed up once, held against the rows, and gone when it is old."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.accounting.records import EXTRA, Record, Rejected
from proxy.storage import export
from proxy.storage.drainer import Drainer
from proxy.storage.extras import Extras, extras_of, gains, has_own
from proxy.storage.queries import Queries
from proxy.storage.repair import repair
from proxy.storage.sqlite import LEDGER
from proxy.storage.verify import verify
from tests.storage.big import AS_IN_VERSION_3
from tests.storage.records import NOW_MS, TRACE, Wall, begin, closed, completion, end, failover, opened, request_id, write

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

ORIGINAL = request_id(900)
HIT = {
    "state": "hit",
    "provider": "groq",
    "model": "llama",
    "of": ORIGINAL,
    "saved_nusd": 1_230_000,
    "input_tokens": 31,
    "output_tokens": 17,
}
ASKED = {"needs": ["tools"], "wishes": {"prefer": ["groq"]}, "tokens": 120, "output": 256, "seed": 77}
SCORED = [
    {"target": "openai/gpt-4o", "kept": True, "by": {"strategy": "score", "total": 71.3, "cost": 0.25}},
    {"target": "groq/llama", "skipped": "lacks region:eu"},
]


def quiet(_event: str, _fields: dict[str, Any]) -> None:
    return None


def hit(number: int, **changes: Any) -> Rejected:
    ending = closed(attempts=0, trace=TRACE, first_token_ms=None, duration_ms=1.5, extra={"cache": {**HIT, **changes}})
    return Rejected(opened(number), ending)


def scored(number: int, **extra: Any) -> list[Record]:
    request = opened(number)
    return [begin(request), end(request, end=closed(trace=SCORED, extra={"asked": ASKED, **extra}))]


def hedged(number: int) -> list[Record]:
    """The first attempt wins, and its end is the request's; the second is cut off before it has begun to answer."""
    request = opened(number, stream=True)
    lost = {"attempt": 2, "target": "groq/llama", "error": "hedged_out", "ms": 12.5, "then": "lost"}
    return [
        begin(request),
        begin(request, 2, "groq"),
        end(request, 2, "groq", "failed", credential="key2"),
        end(request, end=closed(attempts=2, trace=[*TRACE, lost], extra={"hedged": True})),
    ]


def gated(number: int) -> list[Record]:
    """The first answer was poor, the second poorer: the first is given."""
    request = opened(number)
    poor = {"attempt": 1, "target": "openai/gpt-4o", "quality": 0.41, "parts": {"relevance": 0.2}, "then": "next"}
    ending = closed(attempts=2, trace=[*TRACE, poor], finish_reason="length", extra={"answered": 1, "quality": 0.41})
    return [
        begin(request),
        end(request, end=None),
        begin(request, 2, "groq"),
        end(request, 2, "groq", credential="key2", finish_reason="length", end=ending),
    ]


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    Drainer(tmp_path, Wall(), log=quiet).close()
    return tmp_path


@pytest.fixture
async def queries(ledger: Path) -> AsyncIterator[Queries]:
    queries = Queries(ledger)
    yield queries
    await queries.aclose()


def drain(data_dir: Path, records: list[Record], **options: Any) -> None:
    write(data_dir, records)
    drainer = Drainer(data_dir, Wall(), log=quiet, **options)
    drainer.drain()
    drainer.close()


def select(data_dir: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(data_dir / LEDGER)
    found = connection.execute(sql).fetchall()
    connection.close()
    return found


async def test_a_cached_answer_is_a_row_of_cost_nothing_that_says_what_it_saved(ledger: Path, queries: Queries) -> None:
    drain(ledger, [hit(1)])
    row = await queries.get_request(request_id(1))
    assert row is not None
    expected = {
        "outcome": "ok", "attempts": 0, "provider": "groq", "upstream_model": "llama", "cost_usd": "0", "input_tokens": 0,
        "output_tokens": 0, "usage_source": None, "cache": "hit", "saved_usd": "0.00123", "answered": None, "attempt_list": [],
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert row["cached"] == {"provider": "groq", "model": "llama", "of": ORIGINAL, "input_tokens": 31, "output_tokens": 17}


async def test_where_no_price_was_known_what_was_saved_is_unknown(ledger: Path, queries: Queries) -> None:
    drain(ledger, [hit(1, saved_nusd=None), hit(2)])
    (second, first), _ = await queries.list_requests()
    assert (first["saved_usd"], second["saved_usd"]) == (None, "0.00123")
    (report,) = await queries.usage([])
    assert (report["cache_hits"], report["saved_usd"]) == (2, "0.00123")


async def test_cached_answers_count_where_they_came_from_and_not_among_the_times_of_answers(
    ledger: Path, queries: Queries
) -> None:
    drain(ledger, [*completion(1), *completion(2), hit(3), hit(4)])
    by_provider = {row["provider"]: row for row in await queries.usage(["provider"], percentiles=True)}
    openai, groq = by_provider["openai"], by_provider["groq"]
    assert (openai["requests"], openai["cache_hits"], openai["cache_hit_rate"], openai["saved_usd"]) == (2, 0, 0.0, "0")
    assert (groq["requests"], groq["ok"], groq["cache_hits"], groq["saved_usd"]) == (2, 2, 2, "0.00246")
    assert (groq["attempts"], groq["cost_usd"], groq["p50_ms"]) == (0, "0", None)
    (by_chain,) = await queries.usage(["chain"])
    assert (by_chain["cache_hits"], by_chain["cache_hit_rate"]) == (2, 0.5)


async def test_only_a_hit_is_counted_as_one(ledger: Path, queries: Queries) -> None:
    drain(ledger, scored(1, cache={"state": "refresh"}))
    (row,), _ = await queries.list_requests()
    assert (row["cache"], row["saved_usd"], row["provider"], row["attempts"]) == ("refresh", None, "openai", 1)
    (report,) = await queries.usage([])
    assert report["cache_hits"] == 0


async def test_quality_is_told_of_the_answer_and_as_the_mean_of_those_that_were_measured(ledger: Path, queries: Queries) -> None:
    drain(ledger, [*completion(1), *scored(2, quality=0.9), *scored(3, quality=0.4)])
    rows, _ = await queries.list_requests()
    assert [row["quality"] for row in rows] == [0.4, 0.9, None]
    (report,) = await queries.usage(["model"])
    assert (report["requests"], report["rated"], report["mean_quality"]) == (3, 2, 0.65)


async def test_a_request_says_what_its_choice_was_made_from(ledger: Path, queries: Queries) -> None:
    drain(ledger, scored(1, continued=[2]))
    row = await queries.get_request(request_id(1))
    assert row is not None
    assert (row["asked"], row["trace"], row["continued"], row["hedged"]) == (ASKED, SCORED, [2], False)


async def test_the_attempt_whose_end_is_the_requests_answered_though_another_began_later(ledger: Path, queries: Queries) -> None:
    drain(ledger, hedged(1))
    row = await queries.get_request(request_id(1))
    assert row is not None
    assert (row["provider"], row["answered"], row["attempts"], row["hedged"]) == ("openai", 1, 2, True)
    assert {row["key"]: row["requests"] for row in await queries.usage(["key"])} == {"cafe0123": 1, "key2": 0}
    assert await queries.fallbacks() == []
    (report,) = await queries.usage([])
    assert (report["attempts"], report["failed_over"]) == (2, 0), "it was late, not unable"


@pytest.mark.parametrize("batch_records", [1, 500])
async def test_the_better_answer_was_the_first_attempts(ledger: Path, queries: Queries, batch_records: int) -> None:
    drain(ledger, gated(1), batch_records=batch_records)
    row = await queries.get_request(request_id(1))
    assert row is not None
    told = (row["provider"], row["upstream_model"], row["answered"], row["finish_reason"], row["cost_usd"], row["quality"])
    assert told == ("openai", "gpt-4o", 1, "stop", "0.0025", 0.41)
    (move,) = await queries.fallbacks()
    assert (move["from"], move["to"], move["reason"]) == ("openai/gpt-4o", "groq/gpt-4o", "quality")


def test_traces_that_no_other_request_can_have_are_no_kinds(ledger: Path) -> None:
    records = [*completion(1), *completion(2)]
    for number in range(10, 60):
        request = opened(number)
        trace = [*TRACE, {"attempt": 1, "target": "groq/llama", "error": "overloaded", "ms": number / 7, "then": "next"}]
        last = end(request, 2, end=closed(attempts=2, trace=trace))
        records += [begin(request), end(request, 1, "groq", "failed"), begin(request, 2), last]
        records += [*scored(100 + number, asked={**ASKED, "seed": number}), hit(200 + number, of=request_id(number))]
    drain(ledger, records)
    assert select(ledger, "SELECT count(*) FROM request_kinds")[0][0] <= 4
    assert select(ledger, "SELECT count(*) FROM request_extras") == [(150,)]
    assert select(ledger, "SELECT count(DISTINCT trace) FROM requests") == [(52,)]


def test_a_plain_request_has_no_row_of_extras(ledger: Path) -> None:
    drain(ledger, [*completion(1), *failover(2)])
    assert select(ledger, "SELECT id FROM request_extras") == [(request_id(2),)]


async def test_what_many_requests_need_is_said_of_their_kind(ledger: Path, queries: Queries) -> None:
    records: list[Record] = []
    for number in range(20):
        request = opened(number)
        extra = {"asked": {"needs": ["tools"] if number % 2 else ["tools", "vision"]}} if number else None
        records += [begin(request), end(request, end=closed(extra=extra))]
    drain(ledger, records)
    assert select(ledger, "SELECT count(*) FROM request_kinds") == [(3,)]
    assert select(ledger, "SELECT count(*) FROM request_extras") == [(0,)]
    row, plain = await queries.get_request(request_id(7)), await queries.get_request(request_id(0))
    assert row is not None
    assert plain is not None
    assert (row["asked"], plain["asked"]) == ({"needs": ["tools"]}, None)


def test_what_is_met_twice_is_kept_once(ledger: Path) -> None:
    records = [*hedged(1), *gated(2), hit(3), *scored(4, quality=0.5)]
    drain(ledger, records)
    before = select(ledger, "SELECT * FROM requests ORDER BY id"), select(ledger, "SELECT * FROM usage_hourly ORDER BY 1, 2, 3")
    write(ledger, records, "BOOT2")
    drainer = Drainer(ledger, Wall(), log=quiet)
    drainer.drain()
    drainer.close()
    after = select(ledger, "SELECT * FROM requests ORDER BY id"), select(ledger, "SELECT * FROM usage_hourly ORDER BY 1, 2, 3")
    assert after == before


def test_the_sums_made_anew_are_those_that_the_drainer_made(ledger: Path) -> None:
    drain(ledger, [*completion(1), *failover(2), *hedged(3), *gated(4), hit(5), *scored(6, quality=0.123457)])
    assert verify(ledger).differences == []
    tables = "SELECT * FROM usage_hourly ORDER BY 1, 2, 3, 4, 10", "SELECT * FROM failovers_hourly ORDER BY 1, 2, 3, 4"
    before = [select(ledger, sql) for sql in tables]
    assert repair(ledger, Wall(), log=quiet).set_aside is None
    assert [select(ledger, sql) for sql in tables] == before
    assert verify(ledger).differences == []


async def test_a_ledger_of_the_release_before_is_brought_up_to_date_with_its_rows_and_sums(
    ledger: Path, queries: Queries
) -> None:
    drain(ledger, [*completion(1), *failover(2), *gated(3)[:2]])
    connection = sqlite3.connect(ledger / LEDGER, isolation_level=None)
    for sql in (*AS_IN_VERSION_3, "PRAGMA user_version = 3"):
        connection.execute(sql)
    before = connection.execute("SELECT sum(requests), sum(attempts), sum(cost_nusd) FROM hourly_sums WHERE slice = 1").fetchall()
    connection.close()
    write(ledger, [*gated(3)[2:], hit(4), *scored(5, quality=0.5)], "BOOT2")
    drainer = Drainer(ledger, Wall(), log=quiet)
    drainer.drain()
    drainer.close()
    assert before == [(2, 4, 3_750_000)]
    assert select(ledger, "SELECT sum(requests), sum(cache_hits), sum(rated) FROM hourly_sums WHERE slice = 1") == [(5, 1, 2)]
    row = await queries.get_request(request_id(2))
    assert row is not None
    assert (row["trace"], row["cache"], row["quality"], row["hedged"]) == (TRACE, None, None, False)
    assert verify(ledger).differences == []


def test_a_changed_extra_is_found(ledger: Path) -> None:
    drain(ledger, [hit(1)])
    connection = sqlite3.connect(ledger / LEDGER)
    connection.execute("UPDATE request_extras SET saved_nusd = saved_nusd + 1")
    connection.commit()
    connection.close()
    assert {each.message for each in verify(ledger).differences} == {"rows less sums: saved_nusd +1"}


def test_the_rows_that_are_taken_away_have_them_too(ledger: Path) -> None:
    drain(ledger, [hit(1), *scored(2, quality=0.75)])
    cached, answered = export.requests(ledger, 0, NOW_MS * 2)
    assert (cached["cache"], cached["saved_usd"], cached["cached"]["of"]) == ("hit", "0.00123", ORIGINAL)
    assert (answered["quality"], answered["asked"], answered["hedged"], answered["continued"]) == (0.75, ASKED, False, [])


@pytest.mark.parametrize(
    "extra",
    [
        7,
        ["hit"],
        {"cache": 3, "quality": "good", "answered": "1"},
        {"cache": {"state": 5, "saved_nusd": -1}, "quality": 7.5, "answered": -1},
        {"cache": {"state": "hit", "saved_nusd": True}, "answered": 99},
        {"of a later release": {"deep": [1, 2]}},
    ],
)
async def test_what_is_not_of_its_kind_is_unknown_and_the_row_is_kept(ledger: Path, queries: Queries, extra: Any) -> None:
    request = opened(1)
    drain(ledger, [begin(request), end(request, end=closed(extra=extra))])
    row = await queries.get_request(request_id(1))
    assert row is not None
    told = (row["outcome"], row["answered"], row["quality"], row["saved_usd"], row["continued"])
    assert told == ("ok", 1, None, None, [])
    assert verify(ledger).differing == 0


@pytest.mark.parametrize(
    "trace",
    [
        {"target": "groq/llama"},
        "kept",
        7,
        [7, "x"],
        [{"attempt": 1, "then": "next"}],
        [{"attempt": 2, "target": "a/b", "then": "next"}],
    ],
)
async def test_a_trace_that_is_none_costs_nobody_the_row(ledger: Path, queries: Queries, trace: Any) -> None:
    first, second = opened(1), opened(2)
    drain(
        ledger,
        [
            begin(first),
            end(first, end=closed(trace=trace)),
            begin(second, 2),
            end(second, 2, end=closed(attempts=2, trace=trace)),
        ],
    )
    rows, _ = await queries.list_requests()
    assert [row["outcome"] for row in rows] == ["ok", "ok"]
    assert await queries.fallbacks() == []


async def test_a_record_of_an_earlier_release_ends_before_it(ledger: Path, queries: Queries) -> None:
    request = opened(1)
    *fields, _ = closed()
    drain(ledger, [begin(request), end(request)._replace(end=fields)])  # type: ignore[arg-type]
    (row,), _ = await queries.list_requests()
    assert (row["outcome"], row["cache"], row["quality"]) == ("ok", None, None)


def test_every_key_has_its_column() -> None:
    assert set(EXTRA) <= set(Extras._fields)


def test_the_gains_of_some_rows() -> None:
    assert gains([]) == (0, 0, 0, 0)
    assert gains([("hit", 5, None), ("hit", None, 0.5), ("refresh", None, 0.25), (None, None, None)]) == (2, 5, 2, 750_000)


def test_who_has_a_trace_of_its_own() -> None:
    note = {"attempt": 1, "target": "openai/gpt-4o", "error": "timeout", "ms": 3.5, "then": "fail"}
    assert [
        has_own(tuple(closed())),
        has_own(tuple(closed())[:-1]),
        has_own(tuple(closed(trace=[]))),
        has_own(tuple(closed("failed", trace=[*TRACE, note]))),
        has_own(tuple(closed(attempts=2))),
        has_own(tuple(closed(extra={"hedged": True}))),
        has_own(tuple(closed(extra={"asked": {"needs": ["tools"]}}))),
        has_own(tuple(closed(extra={"asked": {"needs": ["tools"], "seed": 7}}))),
        has_own(tuple(closed(extra={"asked": {"needs": ["tools"]}, "quality": 0.5}))),
    ] == [False, False, False, True, True, True, False, True, True]
    assert extras_of(tuple(closed(attempts=2)), 2).answered is None
    assert extras_of(tuple(closed(attempts=2)), 1).answered == 1
