"""However the journal is cut into batches and segments, the tables come out the same; and the sums are the rows added up."""

import sqlite3
import tempfile
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.accounting.records import Record, Rejected
from proxy.storage.drainer import Drainer
from proxy.storage.histogram import counted
from proxy.storage.sqlite import LEDGER, open_writer
from tests.storage.big import KINDS_THEN, TRACES_AS_THEN, first_release
from tests.storage.records import (
    NOW_MS,
    TRACE,
    Wall,
    begin,
    checked,
    closed,
    completion,
    end,
    failover,
    opened,
    progress,
    raised,
    rejected,
    resolved,
    write,
)

pytestmark = pytest.mark.property


def story(number: int, kind: str, time_ms: int) -> list[Record]:
    request = opened(number, time_ms, client=None if number % 3 else "batch", stream=kind != "whole")
    match kind:
        case "whole":
            return completion(number, time_ms)
        case "failover":
            return failover(number, time_ms)
        case "walk":
            notes = [{"attempt": n, "target": f"p{n}/gpt-4o", "error": "overloaded", "ms": n, "then": "next"} for n in (1, 2)]
            last = end(request, 3, duration_ms=number * 7.0, end=closed(attempts=3, duration_ms=number * 9.5, trace=notes))
            failed = [end(request, n, provider=f"p{n}", outcome="failed", credential=f"key{n}") for n in (1, 2)]
            return [begin(request, 1, "p1"), failed[0], begin(request, 2, "p2"), failed[1], begin(request, 3), last]
        case "check":
            return [checked("groq", time_ms, state="down" if number % 2 else "healthy")]
        case "alert":
            return [raised(f"A{number}", time_ms), resolved(f"A{number}", time_ms + 5)]
        case "rejected":
            return [rejected(number, time_ms)]
        case "stream":
            return [
                begin(request),
                progress(request, 5),
                progress(request, 12),
                end(request, cost_nusd=None, usage_source="counted"),
            ]
        case "hedged":  # the first wins; what lost ends before it or, as far as the journal goes, after it
            lost = {"attempt": 2, "target": "p2/gpt-4o", "error": "hedged_out", "ms": 4.0, "then": "lost"}
            won = end(request, end=closed(attempts=2, trace=[*TRACE, lost], extra={"hedged": True}))
            loser = end(request, 2, provider="p2", outcome="failed", credential="key2")
            ends = [won, loser] if number % 2 else [loser, won]
            return [begin(request), begin(request, 2, "p2"), *ends]
        case "gated":  # the second was asked for a better answer, and the first was better
            poor = {"attempt": 1, "target": "openai/gpt-4o", "quality": 0.41, "parts": {}, "then": "next"}
            extra = {"answered": 1, "quality": 0.41, "asked": {"needs": ["tools"], "tokens": 12}}
            ending = closed(attempts=2, trace=[*TRACE, poor], extra=extra, finish_reason="length")
            second = end(request, 2, provider="p2", credential="key2", finish_reason="length", end=ending)
            return [begin(request), end(request, end=None), begin(request, 2, "p2"), second]
        case "cached":
            whose = {
                "provider": "groq",
                "model": "llama",
                "of": "01MCC5RM000000000000000000",
                "input_tokens": 3,
                "output_tokens": 4,
            }
            extra = {"cache": {"state": "hit", "saved_nusd": None if number % 2 else 1_230_000, **whose}, "quality": 0.9}
            return [Rejected(request, closed(attempts=0, trace=TRACE, extra=extra))]
        case "gone":
            gone = closed("client_gone", http_status=499)
            return [begin(request), progress(request, 3), end(request, outcome="client_gone", end=gone)]
        case _:
            return [begin(request), progress(request, 40)]


PLAIN = ("whole", "failover", "walk", "rejected", "stream", "gone", "running", "check", "alert")
KINDS = (*PLAIN, "hedged", "gated", "cached")


@st.composite
def interleaved(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> list[Record]:
    """Several requests at once: each one's records in order, the requests mixed."""
    told = draw(st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 3)), min_size=1, max_size=8))
    stories = [story(number, kind, NOW_MS + hour * 3_600_000) for number, (kind, hour) in enumerate(told)]
    mixed: list[Record] = []
    while stories:
        chosen = draw(st.integers(0, len(stories) - 1))
        mixed.append(stories[chosen].pop(0))
        stories = [records for records in stories if records]
    return mixed


@cache
def empty_ledger() -> bytes:
    """Made once: all the tables and indexes take longer than a few rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, LEDGER)
        open_writer(path).close()
        return path.read_bytes()


def drained(folder: str, records: list[Record], *, batch_records: int, segment_bytes: int, cuts: list[int]) -> Path:
    data_dir = Path(folder)
    (data_dir / LEDGER).write_bytes(empty_ledger())
    drainer = Drainer(data_dir, Wall(), batch_records=batch_records, log=lambda _event, _fields: None)
    edges = sorted({0, len(records), *(cut % (len(records) + 1) for cut in cuts)})
    for index, (start, stop) in enumerate(pairwise(edges)):
        write(data_dir, records[start:stop], f"BOOT{index}", segment_bytes=segment_bytes)
        drainer.drain()
    drainer.close()
    return data_dir / LEDGER


TABLES = (
    "SELECT * FROM requests ORDER BY id",
    "SELECT * FROM attempts ORDER BY request_id, n",
    "SELECT * FROM usage_hourly",
    "SELECT * FROM usage_daily",
    "SELECT * FROM hourly_sums JOIN usage_tags AS t ON t.id = tag",
    "SELECT * FROM daily_sums JOIN usage_tags AS t ON t.id = tag",
    "SELECT * FROM failovers_hourly",
    "SELECT * FROM checks",
    "SELECT * FROM alerts",
)
NUMBERS = ("writer", "tag", "id")  # that differ from ledger to ledger
Table = list[dict[str, Any]]


def read(path: Path, statements: tuple[str, ...] = TABLES) -> list[Table]:
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    found = [[plain(dict(row), sql) for row in connection.execute(sql)] for sql in statements]
    connection.close()
    return [sorted(table, key=repr) for table in found]


def plain(row: dict[str, Any], sql: str) -> dict[str, Any]:
    if "_sums" in sql:
        row = {name: value for name, value in row.items() if name not in NUMBERS}
        row["durations"], row["first_token_times"] = counted(row["durations"]), counted(row["first_token_times"])
        row["durations"], row["first_token_times"] = sorted(row["durations"].items()), sorted(row["first_token_times"].items())
    return {name: value for name, value in row.items() if name != "writer"}


def tables(records: list[Record], *, batch_records: int, segment_bytes: int, cuts: list[int]) -> list[Table]:
    with tempfile.TemporaryDirectory() as folder:
        return read(drained(folder, records, batch_records=batch_records, segment_bytes=segment_bytes, cuts=cuts))


@settings(max_examples=30, deadline=None)
@given(interleaved(), st.integers(1, 9), st.integers(200, 3000), st.lists(st.integers(0, 100), max_size=4))
def test_any_split_gives_the_same_tables(records: list[Record], batch: int, segment_bytes: int, cuts: list[int]) -> None:
    whole = tables(records, batch_records=500, segment_bytes=1 << 20, cuts=[])
    assert tables(records, batch_records=batch, segment_bytes=segment_bytes, cuts=cuts) == whole


@settings(max_examples=30, deadline=None)
@given(interleaved(), st.integers(1, 9))
def test_the_sums_are_the_rows_added_up(records: list[Record], batch: int) -> None:
    requests, attempts, usage, by_day, *_ = tables(records, batch_records=batch, segment_bytes=1 << 20, cuts=[])
    ended = [row for row in requests if row["ended"]]
    settled = [row for row in attempts if row["rank"] == 2]
    for sums in (usage, by_day):
        for name in ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens", "at_risk_tokens"):
            assert sum(row[name] for row in sums) == sum(row[name] for row in settled)
        assert sum(row["cost_nusd"] for row in sums) == sum(row["cost_nusd"] or 0 for row in settled)
        assert sum(row["unpriced"] for row in sums) == sum(bool(r["usage_source"]) and r["cost_nusd"] is None for r in settled)
        assert sum(row["attempts"] for row in sums) == len(settled)
        assert sum(row["requests"] for row in sums) == len(ended)
        assert sum(row["cache_hits"] for row in sums) == sum(row["cache"] == "hit" for row in ended)
        assert sum(row["saved_nusd"] for row in sums) == sum(row["saved_nusd"] or 0 for row in ended)
        assert sum(row["quality_ppm"] for row in sums) == sum(int((row["quality"] or 0) * 1_000_000) for row in ended)
        for outcome in ("ok", "failed", "rejected", "interrupted", "client_gone"):
            assert sum(row[f"requests_{outcome}"] for row in sums) == sum(row["outcome"] == outcome for row in ended)
    for hour in {row["hour"] for row in usage}:
        in_hour = [row for row in settled if row["time_ms"] // 3_600_000 == hour]
        assert sum(row["attempts"] for row in usage if row["hour"] == hour) == len(in_hour)


ROWS = ("facets", "request_kinds", "attempt_kinds", "request_rows", "attempt_rows")
SUMS = TABLES[2:7]


@settings(max_examples=20, deadline=None)
@given(interleaved(PLAIN), st.integers(1, 9))
def test_every_slice_is_what_plain_sql_makes_of_the_rows(records: list[Record], batch: int) -> None:
    """The migration adds all sums up from the rows of a ledger of the first release; the drainer came to the same row by row."""
    with tempfile.TemporaryDirectory() as folder:
        path = drained(folder, records, batch_records=batch, segment_bytes=1 << 20, cuts=[])
        old = Path(folder) / "old.db"
        connection = first_release(old)
        connection.execute("ATTACH ? AS now", (str(path),))
        for table in ROWS:
            columns = f"id, key, {KINDS_THEN}" if table == "request_kinds" else "*"
            into = f"main.{table}" if columns == "*" else f"main.{table} ({columns})"
            connection.execute(f"INSERT INTO {into} SELECT {columns} FROM now.{table}")
        for sql in TRACES_AS_THEN:
            connection.execute(sql.format(now="now"))
        connection.close()
        open_writer(old).close()
        assert read(old, SUMS) == read(path, SUMS)
