"""The sums, made anew from the rows. In the hours in which no row was forgotten yet, they are all there is to say.

Hours before that keep their sums: the rows behind them are gone. A day is the sum of its hours, whichever kind they are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import orjson

from proxy.storage.extras import gains
from proxy.storage.ledger import attempt_sums, failovers_of, request_sums
from proxy.storage.long_sums import begin_anew
from proxy.storage.slices import HISTOGRAMS, SLICES, SUMS, upsert
from proxy.storage.sums import Usage, request_histograms

HOUR_MS = 3_600_000
_ROWS_A_WRITE = 20_000

_GONE = "SELECT value FROM marks WHERE name = 'rows_gone_until_ms'"
_CLEAR = (
    "DELETE FROM hourly_sums WHERE slice = :slice AND hour >= :hour",
    "DELETE FROM daily_sums WHERE slice = :slice AND day >= :hour / 24",
)
_DAYS_OF_HOURS = upsert(
    "daily_sums",
    ("slice", "day", "tag"),
    f"SELECT slice, hour / 24, tag, {', '.join([f'sum({name})' for name in SUMS])}, "  # noqa: S608 - this module's own words
    f"{', '.join([f'''group_concat({name}, '')''' for name in HISTOGRAMS])} "
    "FROM hourly_sums WHERE slice = :slice AND hour >= :hour / 24 * 24 GROUP BY hour / 24, tag",
)
_DAYS_OF_FAILOVERS = """
INSERT INTO failovers_daily
SELECT hour / 24, chain, from_target, to_target, reason, sum(count) FROM failovers_hourly WHERE hour >= ? GROUP BY 1, 2, 3, 4, 5"""
# rows by what they have in common, told by its numbers: names are looked up once for each, not once a row
_REQUESTS = """
SELECT r.time_ms / 3600000, facet, kind, iif(answered IS NULL,
        (SELECT a.kind FROM attempt_rows AS a WHERE a.request_id = r.id ORDER BY a.n DESC LIMIT 1),
        (SELECT a.kind FROM attempt_rows AS a WHERE a.request_id = r.id AND a.n = answered)), coalesce(cache = 'hit', 0),
    attempts - coalesce(hedged, 0), duration_ms, first_token_ms, cache, saved_nusd, quality
FROM request_rows AS r LEFT JOIN request_extras AS x ON x.id = r.id WHERE ended = 1 AND r.time_ms >= ?"""
_OF_REQUESTS = """
SELECT f.outcome, f.provider, k.upstream_model, chain, client, department, agent, task, credential, stream
FROM (SELECT 1) LEFT JOIN facets AS f ON f.id = ? LEFT JOIN request_kinds AS k ON k.id = ? LEFT JOIN attempt_kinds AS a ON a.id = ?"""
_ATTEMPTS = """
SELECT a.time_ms / 3600000, a.kind, facet, r.kind, a.duration_ms, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
    reasoning_tokens, input_audio_tokens, output_audio_tokens, cost_nusd, at_risk_tokens
FROM attempt_rows AS a LEFT JOIN request_rows AS r ON r.id = a.request_id WHERE rank = 2 AND a.time_ms >= ?"""
_OF_ATTEMPTS = """
SELECT a.outcome, usage_source, a.provider, a.upstream_model, chain, client, department, agent, task, credential, stream
FROM attempt_kinds AS a LEFT JOIN facets AS f ON f.id = ? LEFT JOIN request_kinds AS k ON k.id = ? WHERE a.id = ?"""
_FAILED_OVER = """
SELECT id, time_ms / 3600000, chain, attempts, trace FROM requests
WHERE ended = 1 AND attempts > 1 AND trace IS NOT NULL AND time_ms >= ?"""
_TARGET = "SELECT provider || '/' || upstream_model FROM attempts WHERE request_id = ? AND n = ?"

Row = tuple[Any, ...]


def first_whole_hour(connection: sqlite3.Connection) -> int:
    """Hours since 1970: from this one on no row was forgotten."""
    gone = connection.execute(_GONE).fetchone()
    return 0 if gone is None else gone[0] // HOUR_MS + 1


def rebuild_sums(connection: sqlite3.Connection) -> tuple[int, int]:
    """Inside a transaction of the caller's. Returns how many requests and attempts were summed up."""
    hour = first_whole_hour(connection)
    for number in range(len(SLICES)):
        for sql in _CLEAR:
            connection.execute(sql, {"slice": number, "hour": hour})
    connection.execute("DELETE FROM past_daily_sums WHERE day >= ?", (hour // 24,))
    connection.execute("DELETE FROM failovers_hourly WHERE hour >= ?", (hour,))
    connection.execute("DELETE FROM failovers_daily WHERE day >= ?", (hour // 24,))
    connection.execute(_DAYS_OF_FAILOVERS, (hour // 24 * 24,))
    begin_anew(connection, hour // 24)
    for number in range(len(SLICES)):
        connection.execute(_DAYS_OF_HOURS, {"slice": number, "hour": hour})
    usage = Usage(connection)
    requests = attempts = 0
    for row in connection.execute(_FAILED_OVER, (hour * HOUR_MS,)):
        _add_failovers(connection, usage, row)
    for groups in _grouped(connection.execute(_REQUESTS, (hour * HOUR_MS,)), 5):
        for key, rows in groups.items():
            _add_requests(connection, usage, key, rows)
            requests += len(rows)
        usage.write()
    for groups in _grouped(connection.execute(_ATTEMPTS, (hour * HOUR_MS,)), 4):
        for key, rows in groups.items():
            attempts += _add_attempts(connection, usage, key, rows)
        usage.write()
    return requests, attempts


def _grouped(rows: Iterable[Row], width: int) -> Iterator[dict[Row, list[Row]]]:
    """By their first columns, _ROWS_A_WRITE of them at a time."""
    source = iter(rows)
    while some := list(islice(source, _ROWS_A_WRITE)):
        groups: dict[Row, list[Row]] = {}
        for row in some:
            groups.setdefault(row[:width], []).append(row[width:])
        yield groups


def _add_requests(connection: sqlite3.Connection, usage: Usage, key: Row, rows: list[Row]) -> None:
    hour, facet, kind, answering, cached = key
    (outcome, *dimensions) = connection.execute(_OF_REQUESTS, (facet, kind, answering)).fetchone()
    needed, durations_ms, first_tokens_ms, *gained = zip(*rows, strict=True)
    first_tokens = [first_token_ms for first_token_ms in first_tokens_ms if first_token_ms is not None]
    durations, first_token_times = request_histograms(outcome, durations_ms, first_tokens, cached=bool(cached))
    sums = request_sums(outcome, needed, durations_ms, first_tokens, gains(zip(*gained, strict=True)))
    usage.add_requests(hour, _told(dimensions), sums, durations=durations, first_token_times=first_token_times)


def _add_attempts(connection: sqlite3.Connection, usage: Usage, key: Row, rows: list[Row]) -> int:
    """How many."""
    hour, made, facet, kind = key
    said = connection.execute(_OF_ATTEMPTS, (facet, kind, made)).fetchone()
    if said is None:
        return 0
    outcome, source, *dimensions = said
    usage.add_attempts(hour, _told(dimensions), attempt_sums(outcome, source, [*zip(*rows, strict=True)]))
    return len(rows)


def _add_failovers(connection: sqlite3.Connection, usage: Usage, row: Row) -> None:
    request_id, hour, chain, attempts, trace = row

    def target_of(n: int) -> str | None:
        found = connection.execute(_TARGET, (request_id, n)).fetchone()
        return None if found is None else str(found[0])

    for attempt, *failover in failovers_of(orjson.loads(trace), target_of):
        if attempt < attempts:
            usage.add_failover(hour, chain or "", *failover)


def _told(dimensions: list[Any]) -> tuple[Any, ...]:
    *names, stream = dimensions
    return (*[name or "" for name in names], int(stream or 0))
