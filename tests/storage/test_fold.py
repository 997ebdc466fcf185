"""However the journal is cut into batches and segments, the tables come out the same."""

import sqlite3
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.accounting.records import Record
from proxy.storage.drainer import Drainer
from proxy.storage.sqlite import LEDGER
from tests.storage.records import NOW_MS, Wall, begin, closed, completion, end, failover, opened, progress, rejected, write

pytestmark = pytest.mark.property


def story(number: int, kind: str, time_ms: int) -> list[Record]:
    request = opened(number, time_ms, client=None if number % 3 else "batch", stream=kind != "whole")
    match kind:
        case "whole":
            return completion(number, time_ms)
        case "failover":
            return failover(number, time_ms)
        case "rejected":
            return [rejected(number, time_ms)]
        case "stream":
            return [
                begin(request),
                progress(request, 5),
                progress(request, 12),
                end(request, cost_nusd=None, usage_source="counted"),
            ]
        case "gone":
            gone = closed("client_gone", http_status=499)
            return [begin(request), progress(request, 3), end(request, outcome="client_gone", end=gone)]
        case _:
            return [begin(request), progress(request, 40)]


KINDS = st.sampled_from(["whole", "failover", "rejected", "stream", "gone", "running"])
STORIES = st.lists(st.tuples(KINDS, st.integers(0, 3)), min_size=1, max_size=8)


@st.composite
def interleaved(draw: st.DrawFn) -> list[Record]:
    """Several requests at once: each one's records in order, the requests mixed."""
    stories = [story(number, kind, NOW_MS + hour * 3_600_000) for number, (kind, hour) in enumerate(draw(STORIES))]
    mixed: list[Record] = []
    while stories:
        chosen = draw(st.integers(0, len(stories) - 1))
        mixed.append(stories[chosen].pop(0))
        stories = [records for records in stories if records]
    return mixed


def tables(records: list[Record], *, batch_records: int, segment_bytes: int, cuts: list[int]) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        drainer = Drainer(data_dir, Wall(), batch_records=batch_records, log=lambda _event, _fields: None)
        edges = sorted({0, len(records), *(cut % (len(records) + 1) for cut in cuts)})
        for index, (start, stop) in enumerate(pairwise(edges)):
            write(data_dir, records[start:stop], f"BOOT{index}", segment_bytes=segment_bytes)
            drainer.drain()
        drainer.close()
        connection = sqlite3.connect(data_dir / LEDGER)
        connection.row_factory = sqlite3.Row
        found = [
            [{name: value for name, value in dict(row).items() if name != "writer"} for row in connection.execute(sql)]
            for sql in (
                "SELECT * FROM requests ORDER BY id",
                "SELECT * FROM attempts ORDER BY request_id, n",
                "SELECT * FROM usage_hourly",
            )
        ]
        connection.close()
        return found


@settings(max_examples=60, deadline=None)
@given(interleaved(), st.integers(1, 9), st.integers(200, 3000), st.lists(st.integers(0, 100), max_size=4))
def test_any_split_gives_the_same_tables(records: list[Record], batch: int, segment_bytes: int, cuts: list[int]) -> None:
    whole = tables(records, batch_records=500, segment_bytes=1 << 20, cuts=[])
    assert tables(records, batch_records=batch, segment_bytes=segment_bytes, cuts=cuts) == whole


@settings(max_examples=30, deadline=None)
@given(interleaved(), st.integers(1, 9))
def test_the_sums_are_the_rows_added_up(records: list[Record], batch: int) -> None:
    requests, attempts, usage = tables(records, batch_records=batch, segment_bytes=1 << 20, cuts=[])
    ended = [row for row in requests if row["ended"]]
    settled = [row for row in attempts if row["rank"] == 2]
    for name in ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens", "at_risk_tokens"):
        assert sum(row[name] for row in usage) == sum(row[name] for row in settled)
    assert sum(row["cost_nusd"] for row in usage) == sum(row["cost_nusd"] or 0 for row in settled)
    assert sum(row["unpriced"] for row in usage) == sum(bool(r["usage_source"]) and r["cost_nusd"] is None for r in settled)
    assert sum(row["attempts"] for row in usage) == len(settled)
    assert sum(row["requests"] for row in usage) == len(ended)
    for outcome in ("ok", "failed", "rejected", "interrupted", "client_gone"):
        assert sum(row[f"requests_{outcome}"] for row in usage) == sum(row["outcome"] == outcome for row in ended)
    for hour in {row["hour"] for row in usage}:
        in_hour = [row for row in settled if row["time_ms"] // 3_600_000 == hour]
        assert sum(row["attempts"] for row in usage if row["hour"] == hour) == len(in_hour)
