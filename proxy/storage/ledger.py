"""One batch into the tables, in the transaction that also notes how far the journal was read.

A row only ever moves up (`WHERE excluded.rank > rank`), and the hourly sums are changed by exactly the rows that moved to their
end: so a record that is met twice changes nothing the second time. Whether all of a batch moved is told by the number of changes;
only where it was not all of them is each asked for by `RETURNING`, which costs half as much again.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import orjson

from proxy.storage.fold import Batch, Row

_ENDED_REQUEST = """
INSERT INTO requests (id, time_ms, client, department, agent, task, task_id, model, chain, stream, config, provider,
    upstream_model, outcome, http_status, attempts, duration_ms, first_token_ms, overhead_ms, finish_reason, error_code,
    trace, dropped, ended)
VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,1)
ON CONFLICT (id) DO UPDATE SET ended = 1, writer = NULL,
    provider = coalesce(excluded.provider, provider), upstream_model = coalesce(excluded.upstream_model, upstream_model),
    outcome = excluded.outcome, http_status = excluded.http_status, attempts = excluded.attempts,
    duration_ms = excluded.duration_ms, first_token_ms = excluded.first_token_ms, overhead_ms = excluded.overhead_ms,
    finish_reason = excluded.finish_reason, error_code = excluded.error_code, trace = excluded.trace, dropped = excluded.dropped
WHERE ended = 0"""

_RUNNING_REQUEST = """
INSERT INTO requests (id, time_ms, client, department, agent, task, task_id, model, chain, stream, config, provider,
    upstream_model, attempts, writer, outcome, ended)
VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,'running',0)
ON CONFLICT (id) DO UPDATE SET
    provider = excluded.provider, upstream_model = excluded.upstream_model, attempts = excluded.attempts
WHERE ended = 0 AND excluded.attempts > attempts"""

_ENDED_ATTEMPT = """
INSERT INTO attempts (request_id, n, time_ms, provider, upstream_model, credential, outcome, http_status, error_class, category,
    error, first_token_ms, duration_ms, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
    input_audio_tokens, output_audio_tokens, usage_source, cost_nusd, price_source, at_risk_tokens, finish_reason, rank)
VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,2)
ON CONFLICT (request_id, n) DO UPDATE SET rank = 2, writer = NULL, outcome = excluded.outcome, http_status = excluded.http_status,
    error_class = excluded.error_class, category = excluded.category, error = excluded.error,
    first_token_ms = excluded.first_token_ms, duration_ms = excluded.duration_ms, input_tokens = excluded.input_tokens,
    cached_input_tokens = excluded.cached_input_tokens, cache_write_tokens = excluded.cache_write_tokens,
    output_tokens = excluded.output_tokens, reasoning_tokens = excluded.reasoning_tokens, input_audio_tokens = excluded.input_audio_tokens,
    output_audio_tokens = excluded.output_audio_tokens, usage_source = excluded.usage_source, cost_nusd = excluded.cost_nusd,
    price_source = excluded.price_source, at_risk_tokens = excluded.at_risk_tokens, finish_reason = excluded.finish_reason
WHERE excluded.rank > rank"""

_RUNNING_ATTEMPT = """
INSERT INTO attempts (request_id, n, time_ms, provider, upstream_model, credential, at_risk_tokens, writer, outcome, rank,
    input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, input_audio_tokens,
    output_audio_tokens)
VALUES (?,?,?,?,?,?,?,?,'running',0,0,0,0,0,0,0,0)
ON CONFLICT (request_id, n) DO NOTHING"""

_PROGRESS = "UPDATE attempts SET rank = 1, output_tokens = max(output_tokens, ?) WHERE request_id = ? AND n = ? AND rank < 2"

_WHOSE = """
SELECT id, time_ms, provider, upstream_model, client, department, agent, task, chain, stream
FROM requests WHERE id IN (SELECT value FROM json_each(?))"""

_USAGE = """
INSERT INTO usage_hourly VALUES (?,?,?,?,?,?,?,?,?, ?,?,?,?,?,?,?,?,?,?, ?,?,?,?,?,?,?,?,?,?,?,?,?,?)
ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests, requests_ok = requests_ok + excluded.requests_ok,
    requests_failed = requests_failed + excluded.requests_failed,
    requests_rejected = requests_rejected + excluded.requests_rejected,
    requests_interrupted = requests_interrupted + excluded.requests_interrupted,
    requests_client_gone = requests_client_gone + excluded.requests_client_gone,
    requests_failed_over = requests_failed_over + excluded.requests_failed_over,
    duration_us = duration_us + excluded.duration_us, first_token_us = first_token_us + excluded.first_token_us,
    first_tokens = first_tokens + excluded.first_tokens, attempts = attempts + excluded.attempts,
    attempts_ok = attempts_ok + excluded.attempts_ok, attempt_duration_us = attempt_duration_us + excluded.attempt_duration_us,
    input_tokens = input_tokens + excluded.input_tokens, cached_input_tokens = cached_input_tokens + excluded.cached_input_tokens,
    cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens, output_tokens = output_tokens + excluded.output_tokens,
    reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
    input_audio_tokens = input_audio_tokens + excluded.input_audio_tokens,
    output_audio_tokens = output_audio_tokens + excluded.output_audio_tokens,
    at_risk_tokens = at_risk_tokens + excluded.at_risk_tokens, cost_nusd = cost_nusd + excluded.cost_nusd,
    unpriced = unpriced + excluded.unpriced, estimated = estimated + excluded.estimated"""

_HOUR_MS = 3_600_000
_SUMS = 24
_REQUESTS, _FAILED_OVER, _DURATION_US, _FIRST_TOKEN_US, _FIRST_TOKENS = 0, 6, 7, 8, 9
_ATTEMPTS, _ATTEMPTS_OK, _ATTEMPT_US, _TOKENS, _AT_RISK, _COST, _UNPRICED, _ESTIMATED = 10, 11, 12, 13, 20, 21, 22, 23
_PROVIDER, _OUTCOME, _ATTEMPTS_MADE = 11, 13, 15  # where they stand in a row of `Batch.ended_requests`
_OUTCOME_SUM = {"ok": 1, "failed": 2, "rejected": 3, "interrupted": 4, "client_gone": 5}

Key = tuple[Any, ...]
Whose = tuple[int, Any, Any, Key]  # time_ms, provider, upstream_model and (chain, client, department, agent, task, stream)


def write_batch(connection: sqlite3.Connection, batch: Batch) -> None:
    """Inside a transaction that the caller began and commits."""
    if running := batch.running_requests():
        connection.executemany(_RUNNING_REQUEST, running)
    requests = _move(connection, _ENDED_REQUEST, batch.ended_requests())
    if begun := batch.running_attempts():
        connection.executemany(_RUNNING_ATTEMPT, begun)
    if progress := batch.running_progress():
        connection.executemany(_PROGRESS, progress)
    attempts = _move(connection, _ENDED_ATTEMPT, batch.ended_attempts())
    whose = _whose(connection, batch, requests, attempts)
    sums: dict[Key, list[int]] = {}
    for row in requests:
        _add_request(sums, whose[row[0]], row)
    for row in attempts:
        _add_attempt(sums, whose[row[0]], row)
    if sums:
        connection.executemany(_USAGE, [(*key, *values) for key, values in sums.items()])


def _move(connection: sqlite3.Connection, upsert: str, rows: list[Row]) -> list[Row]:
    """Those of the rows that moved."""
    if not rows:
        return rows
    before = connection.total_changes
    connection.execute("SAVEPOINT move")
    connection.executemany(upsert, rows)
    if connection.total_changes - before != len(rows):
        connection.execute("ROLLBACK TO move")
        one = f"{upsert} RETURNING 1"
        rows = [row for row in rows if connection.execute(one, row).fetchall()]
    connection.execute("RELEASE move")
    return rows


def _whose(connection: sqlite3.Connection, batch: Batch, requests: list[Row], attempts: list[Row]) -> dict[str, Whose]:
    """To whom each moved row is put down: as this batch says, or as the tables know from an earlier one."""
    whose: dict[str, Whose] = {}
    unknown: set[str] = set()
    for row in requests:
        if row[0] in batch.opens and (row[_PROVIDER] is not None or not row[_ATTEMPTS_MADE]):
            whose[row[0]] = (row[1], row[_PROVIDER], row[_PROVIDER + 1], _tags(row[8], row[2], row[3], row[4], row[5], row[9]))
        else:
            unknown.add(row[0])
    for row in attempts:
        if row[0] not in whose:
            unknown.add(row[0])
    if unknown:
        for request_id, time_ms, provider, model, client, department, agent, task, chain, stream in connection.execute(
            _WHOSE, (orjson.dumps(list(unknown)).decode(),)
        ):
            whose[request_id] = (time_ms, provider, model, _tags(chain, client, department, agent, task, stream))
    for row in attempts:
        whose.setdefault(row[0], _NOBODY)
    return whose


def _tags(
    chain: str | None, client: str | None, department: str | None, agent: str | None, task: str | None, stream: int | None
) -> Key:
    return (chain or "", client or "", department or "", agent or "", task or "", int(stream or 0))


_NOBODY: Whose = (0, None, None, _tags(None, None, None, None, None, None))


def _add_request(sums: dict[Key, list[int]], owner: Whose, row: Row) -> None:
    time_ms, provider, upstream_model, tags = owner
    outcome, _, attempts, duration_ms, first_token_ms = row[_OUTCOME : _OUTCOME + 5]
    total = _sums_for(sums, (time_ms // _HOUR_MS, provider or "", upstream_model or "", *tags))
    total[_REQUESTS] += 1
    total[_OUTCOME_SUM.get(outcome, 2)] += 1
    if attempts > 1:
        total[_FAILED_OVER] += 1
    if duration_ms is not None:
        total[_DURATION_US] += int(duration_ms * 1000)
    if first_token_ms is not None:
        total[_FIRST_TOKEN_US] += int(first_token_ms * 1000)
        total[_FIRST_TOKENS] += 1


def _add_attempt(sums: dict[Key, list[int]], owner: Whose, row: Row) -> None:
    _, _, time_ms, provider, upstream_model, _, outcome, *_ = row
    duration_ms, *tokens, source, cost_nusd, _, at_risk_tokens, _ = row[12:]
    total = _sums_for(sums, (time_ms // _HOUR_MS, provider, upstream_model, *owner[3]))
    total[_ATTEMPTS] += 1
    if outcome == "ok":
        total[_ATTEMPTS_OK] += 1
    if duration_ms is not None:
        total[_ATTEMPT_US] += int(duration_ms * 1000)
    for index, count in enumerate(tokens, _TOKENS):
        if count:
            total[index] += count
    total[_AT_RISK] += at_risk_tokens
    if cost_nusd is not None:
        total[_COST] += cost_nusd
    elif source is not None:
        total[_UNPRICED] += 1
    if source is not None and source != "provider":
        total[_ESTIMATED] += 1


def _sums_for(sums: dict[Key, list[int]], key: Key) -> list[int]:
    total = sums.get(key)
    if total is None:
        total = sums[key] = [0] * _SUMS
    return total
