"""The sums, made anew from the rows. In the hours in which no row was forgotten yet, they are all there is to say.

Hours before that keep their sums: the rows behind them are gone. A day is the sum of its hours, whichever kind they are.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import orjson

from proxy.storage.extras import HIT, gains
from proxy.storage.ledger import failovers_of, request_sums, whole_us
from proxy.storage.sums import HISTOGRAMS, SLICES, SUMS, Usage, request_histograms, upsert

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
_REQUESTS = """
SELECT id, time_ms / 3600000, outcome, attempts, duration_ms, first_token_ms, trace, hedged, cache, saved_nusd, quality,
    provider, upstream_model, chain, client, department, agent, task,
    iif(answered IS NULL, (SELECT credential FROM attempts WHERE request_id = id ORDER BY n DESC LIMIT 1),
        (SELECT credential FROM attempts WHERE request_id = id AND n = answered)), stream
FROM requests WHERE ended = 1 AND time_ms >= ?"""
_TARGET = "SELECT provider || '/' || upstream_model FROM attempts WHERE request_id = ? AND n = ?"
_ATTEMPTS = """
SELECT a.time_ms / 3600000, k.outcome, k.usage_source, a.duration_ms, a.input_tokens, a.cached_input_tokens, a.cache_write_tokens,
    a.output_tokens, a.reasoning_tokens, a.input_audio_tokens, a.output_audio_tokens, a.cost_nusd, a.at_risk_tokens,
    k.provider, k.upstream_model, r.chain, r.client, r.department, r.agent, r.task, k.credential, r.stream
FROM attempt_rows AS a JOIN attempt_kinds AS k ON k.id = a.kind LEFT JOIN requests AS r ON r.id = a.request_id
WHERE a.rank = 2 AND a.time_ms >= ?"""


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
    for number in range(len(SLICES)):
        connection.execute(_DAYS_OF_HOURS, {"slice": number, "hour": hour})
    usage = Usage(connection)
    requests = attempts = 0
    for row in connection.execute(_REQUESTS, (hour * HOUR_MS,)):
        _add_request(connection, usage, row)
        requests += 1
        if requests % _ROWS_A_WRITE == 0:
            usage.write()
    for row in connection.execute(_ATTEMPTS, (hour * HOUR_MS,)):
        _add_attempt(usage, row)
        attempts += 1
        if attempts % _ROWS_A_WRITE == 0:
            usage.write()
    usage.write()
    return requests, attempts


def _add_request(connection: sqlite3.Connection, usage: Usage, row: tuple[Any, ...]) -> None:
    request_id, hour, outcome, attempts, duration_ms, first_token_ms, trace, hedged, cache, saved_nusd, quality, *dimensions = row
    first_tokens = [] if first_token_ms is None else [first_token_ms]
    durations, first_token_times = request_histograms(outcome, [duration_ms], first_tokens, cached=cache == HIT)
    gained = gains([(cache, saved_nusd, quality)])
    sums = request_sums(outcome, (attempts - hedged,), (duration_ms,), first_tokens, gained)
    usage.add_requests(hour, _told(dimensions), sums, durations=durations, first_token_times=first_token_times)
    if attempts > 1 and trace is not None:

        def target_of(n: int) -> str | None:
            found = connection.execute(_TARGET, (request_id, n)).fetchone()
            return None if found is None else str(found[0])

        chain = dimensions[2] or ""
        for attempt, *failover in failovers_of(orjson.loads(trace), target_of):
            if attempt < attempts:
                usage.add_failover(hour, chain, *failover)


def _add_attempt(usage: Usage, row: tuple[Any, ...]) -> None:
    hour, outcome, source, duration_ms, *tokens = row[:11]
    cost_nusd, at_risk_tokens, *dimensions = row[11:]
    sums = (
        1,
        int(outcome == "ok"),
        whole_us([duration_ms]),
        *tokens,
        cost_nusd or 0,
        at_risk_tokens,
        int(source is not None and cost_nusd is None),
        int(source not in (None, "provider")),
    )
    usage.add_attempts(hour, _told(dimensions), sums)


def _told(dimensions: list[Any]) -> tuple[Any, ...]:
    *names, stream = dimensions
    return (*[name or "" for name in names], int(stream or 0))
