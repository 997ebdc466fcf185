"""Requests as the ledger has them, each with its attempts and what its choice was made from, oldest first: what a what-if goes through.

Read a page at a time, like an export: however many there are, no more than that is in memory. Running requests are left out, for
nothing is decided of them yet.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from proxy.core.errors import LedgerUnavailable
from proxy.core.usage import Usage, UsageSource
from proxy.storage.sqlite import LEDGER, first_id, reader_uri, version

ROWS_A_READ = 1000
HOUR_MS = 3_600_000
CACHED_TRACES = 4_096

_REQUESTS = f"""
SELECT id, time_ms, client, model, chain, stream, config, outcome, http_status, error_code, trace, asked, answered, cached
FROM requests
WHERE id > :after AND id < :end AND ended = 1 AND time_ms >= :since_ms AND time_ms < :until_ms ORDER BY id LIMIT {ROWS_A_READ}"""  # noqa: S608
_ATTEMPTS = """
SELECT request_id, n, time_ms, provider, upstream_model, outcome, error_class, first_token_ms, duration_ms, usage_source, cost_nusd,
    price_source, at_risk_tokens, input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens,
    input_audio_tokens, output_audio_tokens
FROM attempts WHERE request_id >= ? AND request_id <= ? AND rank = 2 ORDER BY request_id, n"""
_ENDS = """
SELECT a.hour, k.provider, k.upstream_model, k.outcome, k.error_class, a.ended FROM (
    SELECT time_ms / 3600000 AS hour, kind, count(*) AS ended FROM attempt_rows
    WHERE request_id > :after AND request_id < :end AND rank = 2 GROUP BY 1, 2) AS a
JOIN attempt_kinds AS k ON k.id = a.kind"""
_LATEST = "~"  # greater than any id
_SLACK_MS = HOUR_MS  # an id has the time of its making, and none goes back when the clock does


@dataclass(frozen=True, slots=True)
class RecordedAttempt:
    """`usage` None: nothing consumed that anybody knows of. `cost_nusd` None: no price was known. Times of it are ms."""

    n: int
    time_ms: int
    provider: str
    upstream_model: str
    outcome: str
    error_class: str | None
    first_token_ms: float | None
    duration_ms: float | None
    usage: Usage | None
    cost_nusd: int | None
    price_source: str | None
    at_risk_tokens: int

    @property
    def target(self) -> str:
        return f"{self.provider}/{self.upstream_model}"


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """`trace`: the plan and what the walk added to it, to be read only: requests that ended alike share it. `asked`, `answered` and
    `cached` are what `RequestEnd.extra` says, None where it does not."""

    id: str
    time_ms: int
    client: str | None
    model: str
    chain: str | None
    stream: bool
    config: str | None
    outcome: str
    http_status: int | None
    error_code: str | None
    trace: list[dict[str, Any]]
    asked: dict[str, Any] | None
    answered: int | None
    cached: dict[str, Any] | None
    attempts: tuple[RecordedAttempt, ...]


@dataclass(frozen=True, slots=True)
class Ends:
    """How many attempts at a target ended that way in an hour, counted since 1970."""

    hour: int
    provider: str
    upstream_model: str
    outcome: str
    error_class: str | None
    count: int


def recorded(data_dir: Path, since_ms: int, until_ms: int) -> Iterator[RecordedRequest]:
    """Of the time from `since_ms` until before `until_ms`, milliseconds since 1970. Raises sqlite3.Error and LedgerUnavailable."""
    with closing(_open(data_dir)) as connection:
        values = _between(since_ms, until_ms)
        while page := connection.execute(_REQUESTS, values).fetchall():
            attempts: dict[str, list[RecordedAttempt]] = {}
            for row in connection.execute(_ATTEMPTS, (page[0][0], page[-1][0])):
                attempts.setdefault(row[0], []).append(_attempt(row))
            for row in page:
                yield _request(row, tuple(attempts.get(row[0], ())))
            values = {**values, "after": page[-1][0]}


def ends(data_dir: Path, since_ms: int, until_ms: int) -> Iterator[Ends]:
    """Every attempt of that time by hour and how it ended, in no order. Raises as `recorded` does."""
    with closing(_open(data_dir)) as connection:
        for row in connection.execute(_ENDS, _between(since_ms, until_ms)):
            yield Ends(*row)


def _open(data_dir: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(reader_uri(data_dir / LEDGER), uri=True, isolation_level=None)
    try:
        ((found,),) = connection.execute("PRAGMA user_version").fetchall()
        if found != version():
            other = "an earlier" if found < version() else "a later"
            mend = "start the server once: it brings the tables up to date" if found < version() else "read it with that one"
            raise LedgerUnavailable(f"{data_dir}: the ledger was written by {other} release ({mend})")
    except BaseException:
        connection.close()
        raise
    return connection


def _between(since_ms: int, until_ms: int) -> dict[str, Any]:
    return {
        "after": first_id(max(0, since_ms - _SLACK_MS)),
        "end": first_id(until_ms + _SLACK_MS) if until_ms + _SLACK_MS < 1 << 48 else _LATEST,
        "since_ms": since_ms,
        "until_ms": until_ms,
    }


def _request(row: tuple[Any, ...], attempts: tuple[RecordedAttempt, ...]) -> RecordedRequest:
    request_id, time_ms, client, model, chain, stream, config, outcome, status, code, trace, asked, answered, cached = row
    return RecordedRequest(
        request_id,
        time_ms,
        client,
        model or "",
        chain,
        bool(stream),
        config,
        outcome,
        status,
        code,
        _trace(trace) if trace else [],
        orjson.loads(asked) if asked else None,
        answered,
        orjson.loads(cached) if cached else None,
        attempts,
    )


def _attempt(row: tuple[Any, ...]) -> RecordedAttempt:
    (_, n, time_ms, provider, model, outcome, error_class, first_token_ms, duration_ms, source, cost_nusd, price_source, at_risk,
     tokens_in, tokens_out, cached, cache_write, reasoning, audio_in, audio_out) = row  # fmt: skip
    usage = None
    if source is not None:
        usage = Usage(tokens_in, tokens_out, cached, cache_write, reasoning, audio_in, audio_out, UsageSource(source))
    return RecordedAttempt(
        n, time_ms, provider, model, outcome, error_class, first_token_ms, duration_ms, usage, cost_nusd, price_source, at_risk
    )


@lru_cache(maxsize=CACHED_TRACES)
def _trace(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orjson.loads(text)
    return found
