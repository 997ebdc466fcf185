"""What the API and the reports read from the ledger: asynchronous, read-only, over one connection, made anew when it must be.

A request's tokens and cost are the sums over its attempts, made when it is read, so that the two cannot disagree. Usage comes
from the hourly sums and never from the rows. Values are always parameters; the words of SQL that vary come from fixed tables.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiosqlite
import orjson

from proxy.core.errors import LedgerUnavailable
from proxy.core.money import nusd_to_usd
from proxy.storage.sqlite import LEDGER, reader_uri

MAX_LIMIT = 1000
Record = dict[str, Any]

_REQUEST = """
SELECT r.id, r.time_ms, r.client, r.department, r.agent, r.task, r.model, r.chain, r.provider, r.upstream_model, r.stream,
    r.outcome, r.http_status, r.attempts,
    total(a.input_tokens) AS input_tokens, total(a.cached_input_tokens) AS cached_input_tokens,
    total(a.cache_write_tokens) AS cache_write_tokens, total(a.output_tokens) AS output_tokens,
    total(a.reasoning_tokens) AS reasoning_tokens,
    max(CASE k.usage_source WHEN 'estimated' THEN 3 WHEN 'counted' THEN 2 WHEN 'provider' THEN 1 END) AS usage_source,
    coalesce(sum(a.cost_nusd), 0) AS cost_nusd,
    coalesce(sum(k.usage_source IS NOT NULL AND a.cost_nusd IS NULL), 0) AS unpriced,
    r.first_token_ms, r.duration_ms, r.config, r.finish_reason,
    r.ended, r.task_id, r.overhead_ms, r.error_code, r.trace, r.dropped
FROM"""
_JOIN = """AS r LEFT JOIN attempt_rows AS a ON a.request_id = r.id AND a.rank = 2 LEFT JOIN attempt_kinds AS k ON k.id = a.kind
GROUP BY r.id ORDER BY r.id DESC"""
_FROM_WHERE = "(SELECT * FROM requests WHERE"
_PAGE = "ORDER BY id DESC LIMIT :limit)"
_ONE = f"{_REQUEST} {_FROM_WHERE} id = :id) {_JOIN}"
_ATTEMPTS = """
SELECT n, provider, upstream_model, outcome, http_status, error_class, category, error, time_ms, first_token_ms, duration_ms,
    input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, input_audio_tokens,
    output_audio_tokens, at_risk_tokens, usage_source, cost_nusd, price_source, credential, finish_reason, rank
FROM attempts WHERE request_id = ? ORDER BY n"""
_FILTERS = ("model", "provider", "client", "department", "outcome")
# The newest of each facet that fits, by the index of (facet, id), and of these the newest: no list walks the table.
_PAGE_OF_FACETS = """
id IN (SELECT p.id FROM facets AS f CROSS JOIN request_rows AS p ON p.facet = f.id
WHERE {filters} AND p.id < :before AND p.id >= coalesce(
    (SELECT id FROM request_rows WHERE facet = f.id AND id < :before ORDER BY id DESC LIMIT 1 OFFSET :limit - 1), '')
ORDER BY p.id DESC LIMIT :limit)"""
_LATEST = "~"  # greater than any id

GROUPS = ("provider", "model", "chain", "client", "department", "agent", "task", "day", "hour")
_USAGE = """
SELECT iif(:provider, provider, NULL), iif(:model, upstream_model, NULL), iif(:chain, chain, NULL), iif(:client, client, NULL),
    iif(:department, department, NULL), iif(:agent, agent, NULL), iif(:task, task, NULL), iif(:day, hour / 24, NULL),
    iif(:hour, hour, NULL),
    sum(requests) AS requests, sum(requests_ok) AS ok, sum(requests_failed) AS failed, sum(requests_rejected) AS rejected,
    sum(requests_interrupted) AS interrupted, sum(requests_client_gone) AS client_gone, sum(requests_failed_over) AS failed_over,
    sum(attempts) AS attempts, sum(attempts_ok) AS attempts_ok, sum(input_tokens) AS input_tokens,
    sum(cached_input_tokens) AS cached_input_tokens, sum(cache_write_tokens) AS cache_write_tokens,
    sum(output_tokens) AS output_tokens,
    sum(reasoning_tokens) AS reasoning_tokens, sum(input_audio_tokens) AS input_audio_tokens,
    sum(output_audio_tokens) AS output_audio_tokens, sum(at_risk_tokens) AS at_risk_tokens, sum(unpriced) AS unpriced_attempts,
    sum(estimated) AS estimated_attempts, sum(cost_nusd) AS cost_nusd, sum(duration_us) AS duration_us,
    sum(first_token_us) AS first_token_us, sum(first_tokens) AS first_tokens
FROM usage_hourly WHERE hour >= :since_hour AND hour < :until_hour
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9 ORDER BY cost_nusd DESC, requests DESC, 1, 2, 3, 4, 5, 6, 7, 8, 9"""
_SPENT = "SELECT coalesce(sum(cost_nusd), 0) FROM usage_hourly WHERE client = ? AND hour >= ?"
_HOUR_MS = 3_600_000
_SOURCES = {None: None, 1: "provider", 2: "counted", 3: "estimated"}
_TOKENS = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class LedgerLag:
    """How far the tables are behind the journal. `seconds` is 0 while nothing waits. `counters`: torn_segments,
    unreadable_records, interrupted_attempts, interrupted_requests, corrupt; each only when it is not 0."""

    seconds: float
    waiting_bytes: int
    counters: Mapping[str, int]


class Queries:
    """For one event loop. Raises LedgerUnavailable when the file cannot be read; one that is not there yet is empty."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / LEDGER
        self._journal = data_dir / "journal"
        self._drainer_lock = data_dir / "drainer.lock"
        self._connection: aiosqlite.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._opening = asyncio.Lock()

    async def list_requests(
        self,
        limit: int = 100,
        before: str | None = None,
        *,
        model: str | None = None,
        provider: str | None = None,
        client: str | None = None,
        department: str | None = None,
        outcome: str | None = None,
    ) -> tuple[list[Record], str | None]:
        """Newest first: (rows, the `before` of the next page or None). `limit` is clamped to 1..1,000."""
        limit = min(max(limit, 1), MAX_LIMIT)
        values = (model, provider, client, department, outcome)
        given = {name: value for name, value in zip(_FILTERS, values, strict=True) if value is not None}
        rows = await self._fetch(_list_sql(given), {**given, "before": before or _LATEST, "limit": limit + 1})
        page = [_request(row) for row in rows[:limit]]
        return page, page[-1]["id"] if len(rows) > limit else None

    async def get_request(self, request_id: str) -> Record | None:
        """The row, and task_id, error_code, overhead_ms, unpriced_attempts, dropped, attempt_list and trace besides."""
        rows = await self._fetch(_ONE, {"id": request_id})
        if not rows:
            return None
        row = rows[0]
        attempts = await self._fetch(_ATTEMPTS, (request_id,))
        return {
            **_request(row),
            "task_id": row["task_id"],
            "error_code": row["error_code"],
            "overhead_ms": _ms(row["overhead_ms"]),
            "unpriced_attempts": row["unpriced"],
            "dropped": _loads(row["dropped"]),
            "attempt_list": [_attempt(attempt) for attempt in attempts],
            "trace": _loads(row["trace"]),
        }

    async def usage(self, group_by: Sequence[str], since_ms: int | None = None, until_ms: int | None = None) -> list[Record]:
        """Sums by any of GROUPS, dearest first, over the whole hours that `since_ms` (included) to `until_ms` (excluded) touch.

        A request counts in the hour of its begin and at the target that answered it, an attempt in its own. Raises KeyError
        for a group that is none.
        """
        unknown = set(group_by) - set(GROUPS)
        if unknown:
            raise KeyError(min(unknown))
        values: Record = {name: name in group_by for name in GROUPS}
        values["since_hour"] = (since_ms or 0) // _HOUR_MS
        values["until_hour"] = 1 << 40 if until_ms is None else -(-until_ms // _HOUR_MS)
        return [_usage(row, group_by) for row in await self._fetch(_USAGE, values)]

    async def spent_nusd(self, client: str, since_ms: int) -> int:
        """What a client's ended attempts cost since the begin of that hour; attempts at an unknown price count nothing."""
        rows = await self._fetch(_SPENT, (client, since_ms // _HOUR_MS))
        return int(rows[0][0]) if rows else 0

    async def ledger_lag(self, wall_s: float) -> LedgerLag:
        """Cheap: one look at the folder and two small tables."""
        positions = {row[0]: row[1] for row in await self._fetch("SELECT name, position FROM segments", ())}
        counters = {row[0]: row[1] for row in await self._fetch("SELECT name, value FROM counters", ())}
        waiting = self._journal_bytes(positions)
        if not waiting:
            return LedgerLag(0.0, 0, counters)
        try:
            caught_up_s = self._drainer_lock.stat().st_mtime
        except FileNotFoundError:
            return LedgerLag(0.0, waiting, counters)
        return LedgerLag(max(0.0, wall_s - caught_up_s), waiting, counters)

    async def aclose(self) -> None:
        await self._forget()

    def _journal_bytes(self, positions: Mapping[str, int]) -> int:
        try:
            entries = [entry for entry in os.scandir(self._journal) if entry.name.endswith(".seg")]
        except FileNotFoundError:
            return 0
        waiting = 0
        for entry in entries:
            try:
                waiting += max(0, entry.stat().st_size - positions.get(entry.name, 0))
            except FileNotFoundError:
                continue
        return waiting

    async def _fetch(self, sql: str, values: Mapping[str, Any] | Sequence[Any]) -> list[sqlite3.Row]:
        for last in (False, True):
            connection = await self._open()
            if connection is None:
                return []
            try:
                return list(await connection.execute_fetchall(sql, values))
            except (sqlite3.Error, ValueError) as error:  # ValueError: closed under us by another call that failed
                await self._forget()
                if last:
                    raise LedgerUnavailable("the ledger cannot be read") from error
        raise AssertionError

    async def _open(self) -> aiosqlite.Connection | None:
        """The connection to the file that has the name now; None when there is none."""
        async with self._opening:
            try:
                state = os.stat(self._path)
            except FileNotFoundError:
                await self._forget()
                return None
            inode = (state.st_dev, state.st_ino)
            if self._connection is not None and self._inode == inode:
                return self._connection
            await self._forget()
            try:
                connection = await aiosqlite.connect(reader_uri(self._path), uri=True, isolation_level=None)
                connection.row_factory = sqlite3.Row
                await connection.execute_fetchall("PRAGMA query_only = 1")
            except sqlite3.Error as error:
                raise LedgerUnavailable("the ledger cannot be opened") from error
            self._connection, self._inode = connection, inode
            return connection

    async def _forget(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _list_sql(filters: Iterable[str]) -> str:
    """The page is cut before the attempts are joined to it."""
    given = " AND ".join(f"f.{name} = :{name}" for name in filters)
    page = _PAGE_OF_FACETS.format(filters=given) if given else "id < :before"
    return f"{_REQUEST} {_FROM_WHERE} {page} {_PAGE} {_JOIN}"


def _request(row: sqlite3.Row) -> Record:
    known = row["ended"] and not row["unpriced"]
    return {
        "id": row["id"],
        "time": _rfc3339(row["time_ms"]),
        "client": row["client"],
        "department": row["department"],
        "agent": row["agent"],
        "task": row["task"],
        "model": row["model"],
        "chain": row["chain"],
        "provider": row["provider"],
        "upstream_model": row["upstream_model"],
        "stream": None if row["stream"] is None else bool(row["stream"]),
        "outcome": row["outcome"],
        "http_status": row["http_status"],
        "attempts": row["attempts"],
        **{name: int(row[name]) for name in _TOKENS},
        "usage_source": _SOURCES[row["usage_source"]],
        "cost_usd": nusd_to_usd(row["cost_nusd"]) if known else None,
        "first_token_ms": _ms(row["first_token_ms"]),
        "duration_ms": _ms(row["duration_ms"]),
        "config": row["config"],
        "finish_reason": row["finish_reason"],
    }


def _attempt(row: sqlite3.Row) -> Record:
    attempt: Record = dict(row)
    attempt["started"] = _rfc3339(attempt.pop("time_ms"))
    attempt["first_token_ms"], attempt["duration_ms"] = _ms(attempt["first_token_ms"]), _ms(attempt["duration_ms"])
    cost_nusd = attempt.pop("cost_nusd")
    attempt["cost_usd"] = None if cost_nusd is None else nusd_to_usd(cost_nusd)
    if attempt.pop("rank") < 2:
        attempt["usage_source"] = None
    return attempt


def _usage(row: sqlite3.Row, group_by: Sequence[str]) -> Record:
    groups: Record = dict(zip(GROUPS, tuple(row), strict=False))
    sums = {name: row[name] for name in row.keys()[len(GROUPS) :]}
    record: Record = {name: _group(name, groups[name]) for name in group_by}
    first_tokens, ended = sums.pop("first_tokens"), sums["requests"]
    first_token_us, duration_us = sums.pop("first_token_us"), sums.pop("duration_us")
    record.update(sums)
    record["cost_usd"] = nusd_to_usd(record.pop("cost_nusd"))
    record["mean_duration_ms"] = round(duration_us / ended / 1000, 3) if ended else None
    record["mean_first_token_ms"] = round(first_token_us / first_tokens / 1000, 3) if first_tokens else None
    return record


def _group(name: str, value: Any) -> str | None:
    if name == "hour":
        return _rfc3339(value * _HOUR_MS)
    if name == "day":
        return _rfc3339(value * _HOUR_MS * 24)[:10]
    return value or None


def _rfc3339(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _ms(duration_ms: float | None) -> float | None:
    return None if duration_ms is None else round(duration_ms, 3)


def _loads(text: str | None) -> Any:
    return [] if text is None else orjson.loads(text)
