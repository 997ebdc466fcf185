"""What the API and the reports read from the ledger: asynchronous, read-only, over one connection, made anew when it must be.

A request's tokens and cost are the sums over its attempts, made when it is read, so that the two cannot disagree. Usage comes
from the hourly sums and never from the rows. Values are always parameters; the words of SQL that vary come from fixed tables.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import aiosqlite
import orjson

from proxy.core.alerts import help_for
from proxy.core.errors import InvalidValue, LedgerUnavailable
from proxy.core.limits import JUDGE_TASK
from proxy.core.money import nusd_to_usd
from proxy.storage.hours import HOUR_MS, Span, begin_of_day_ms, pieces, pieces_of
from proxy.storage.settled import MAX_GROUPS, Answers, Settled
from proxy.storage.sqlite import LEDGER, first_id, reader_uri, version
from proxy.storage.uptime import GAP_MS, UPTIME_MS, uptimes
from proxy.storage.usage import (
    COLUMNS,
    GROUPS,
    TIMES,
    Answer,
    Question,
    column_filters,
    counting,
    counting_tags,
    empty_row,
    is_surely_few,
    merged,
    series_question,
    series_rows,
    settled,
    span_of,
    usage_rows,
    with_span,
)

MAX_LIMIT = 1000
FEW_ROWS = 200
FEW_HISTOGRAMS = 10
MAX_SUMMED = 20_000  # some tenths of a second, during which requests go on in turns with it
LONGEST_REQUEST_MS = HOUR_MS  # an attempt begins at most so long after its request
NO_FILTERS: Mapping[str, str | None] = MappingProxyType({})
SCOPES = {"provider": "provider", "client": "client", "department": "department", "agent": "agent", "judge": "agent"}
Record = dict[str, Any]
Made = TypeVar("Made")

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
    r.cache, r.saved_nusd, r.quality, r.hedged, r.continued,
    r.ended, r.task_id, r.overhead_ms, r.error_code, r.trace, r.dropped, r.answered, r.asked, r.cached
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
OUTCOMES = ("running", "ok", "failed", "rejected", "interrupted", "client_gone")
# The newest of each facet that fits, by the index of (facet, id), and of these the newest: no list walks the table.
_PAGE_OF_FACETS = """
id IN (SELECT p.id FROM facets AS f CROSS JOIN request_rows AS p ON p.facet = f.id
WHERE {filters} AND p.id < :before AND p.id >= coalesce(
    (SELECT id FROM request_rows WHERE facet = f.id AND id < :before ORDER BY id DESC LIMIT 1 OFFSET :limit - 1), '')
ORDER BY p.id DESC LIMIT :limit)"""
_LATEST = "~"  # greater than any id

_OPEN_ENDED_H = 1 << 40
_FAILOVERS = """
SELECT chain, from_target, to_target, reason, sum(count) AS together FROM (
    SELECT chain, from_target, to_target, reason, count FROM json_each(:days) AS p
    CROSS JOIN failovers_daily ON day >= json_extract(p.value, '$[0]') AND day < json_extract(p.value, '$[1]') UNION ALL
    SELECT chain, from_target, to_target, reason, count FROM json_each(:hours) AS p
    CROSS JOIN failovers_hourly ON hour >= json_extract(p.value, '$[0]') AND hour < json_extract(p.value, '$[1]') UNION ALL
    SELECT chain, from_target, to_target, reason, -count FROM json_each(:less_hours) AS p
    CROSS JOIN failovers_hourly ON hour >= json_extract(p.value, '$[0]') AND hour < json_extract(p.value, '$[1]'))
GROUP BY 1, 2, 3, 4 HAVING together > 0 ORDER BY 5 DESC, 1, 2, 3, 4"""
_BROKEN_HOUR = """
SELECT count(*), coalesce(sum(a.input_tokens + a.output_tokens), 0) FROM attempt_rows AS a JOIN attempt_kinds AS k ON k.id = a.kind
WHERE a.request_id >= :from_id AND a.request_id < :to_id AND a.rank = 2 AND a.time_ms >= :hour_ms AND a.time_ms < :since_ms
    AND k.provider = :provider AND (:key IS NULL OR k.credential = :key)"""
_CHECKS = """
SELECT provider, time_ms, state, reason, response_ms, models, key_valid FROM checks
WHERE time_ms >= :since_ms AND (:provider IS NULL OR provider = :provider) ORDER BY time_ms DESC, provider LIMIT :limit"""
_SPANS = "SELECT provider, since_ms, until_ms, state FROM health_spans WHERE until_ms >= ? ORDER BY provider, since_ms"
_ALERTS = """
SELECT id, kind, severity, subject, message, value, threshold, raised_ms, resolved_ms, acknowledged_ms FROM alerts
WHERE raised_ms >= :since_ms AND (:kind IS NULL OR kind = :kind) AND (NOT :open_only OR resolved_ms IS NULL)
ORDER BY resolved_ms IS NOT NULL, raised_ms DESC, id DESC LIMIT :limit"""
_LAST_USED = """
SELECT f.client, max(r.time_ms) FROM facets AS f
JOIN request_rows AS r ON r.id = (SELECT max(id) FROM request_rows WHERE facet = f.id)
WHERE f.client IS NOT NULL GROUP BY 1"""
_RESETS = "SELECT provider, credential, time_ms FROM quota_resets"
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
        self._spans: dict[int, Span] = {}  # by slice, as they were when it was last asked
        self._settled = Settled()
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
        """Newest first: (rows, the `before` of the next page or None). `limit` is clamped to 1..1,000. Raises InvalidValue for an
        outcome that there is not."""
        if outcome is not None and outcome not in OUTCOMES:
            raise InvalidValue(f"`outcome` must be one of {', '.join(OUTCOMES)}.", param="outcome")
        limit = min(max(limit, 1), MAX_LIMIT)
        values = (model, provider, client, department, outcome)
        given = {name: value for name, value in zip(_FILTERS, values, strict=True) if value is not None}
        rows = await self._fetch(_list_sql(given), {**given, "before": before or _LATEST, "limit": limit + 1})
        page = _requests(rows[:limit]) if len(rows) <= FEW_ROWS else await asyncio.to_thread(_requests, rows[:limit])
        return page, page[-1]["id"] if len(rows) > limit else None

    async def get_request(self, request_id: str) -> Record | None:
        """The row, and task_id, error_code, overhead_ms, unpriced_attempts, dropped, attempt_list, trace, answered, asked and cached
        besides. `answered`: the number of the attempt whose answer was given, None where there is none."""
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
            "answered": _answered(row),
            "asked": None if row["asked"] is None else orjson.loads(row["asked"]),
            "cached": None if row["cached"] is None else orjson.loads(row["cached"]),
        }

    async def usage(
        self,
        group_by: Sequence[str],
        since_ms: int | None = None,
        until_ms: int | None = None,
        *,
        time_zone: str = "UTC",
        filters: Mapping[str, str | None] = NO_FILTERS,
        percentiles: bool = False,
        limit: int | None = None,
        after: int = 0,
        bounded: bool = False,
    ) -> list[Record]:
        """Sums by any of GROUPS, dearest first, over the whole hours that `since_ms` (included) to `until_ms` (excluded) touch.

        A request counts in the hour of its begin and at the target that answered it, an attempt in its own. `filters` are of FILTERS,
        None is no filter. Days and months are those of `time_zone`, an IANA name. With `percentiles` each row has p50_ms, p95_ms,
        p99_ms and the same of first_token. `limit`: at most so many rows, of those that come `after` so many. Raises KeyError for a
        group, filter or time zone that is none; if `bounded`, InvalidValue for a report by the hour or day over more than
        MAX_SUMMED rows of sums.
        """
        if unknown := set(group_by) - set(GROUPS):
            raise KeyError(min(unknown))
        step = next((name for name in TIMES if name in group_by), None)
        columns = tuple(dict.fromkeys([COLUMNS[name] for name in group_by if name in COLUMNS]))
        wanted = column_filters(filters)
        hours, zone = _hours(since_ms, until_ms), _zone(time_zone)
        most = None if limit is None else after + limit

        def put(span: Span) -> Question:
            found = pieces_of(span, *hours, step, zone)
            return Question(found, columns, wanted, histograms=percentiles, most=most, until_day=span.until_day)

        def told(question: Question, answers: list[Answer]) -> list[Record]:
            return usage_rows(question, answers, group_by, limit=limit, after=after)

        return await self._reported(put, told, bounded=step if bounded and step in ("hour", "day") else None)

    async def totals(
        self,
        since_ms: int | None = None,
        until_ms: int | None = None,
        filters: Mapping[str, str | None] = NO_FILTERS,
        *,
        percentiles: bool = True,
    ) -> Record:
        """The one row of `usage` without groups; zeros where there was nothing."""
        rows = await self.usage((), since_ms, until_ms, filters=filters, percentiles=percentiles)
        return rows[0] if rows else empty_row(histograms=percentiles)

    async def timeseries(
        self,
        step: str,
        since_ms: int | None = None,
        until_ms: int | None = None,
        *,
        time_zone: str = "UTC",
        filters: Mapping[str, str | None] = NO_FILTERS,
        group_by: str | None = None,
        among: Sequence[str | None] = (),
        percentiles: bool = True,
    ) -> list[Record]:
        """What happened in each hour or day, in order: time (RFC 3339, of the step's begin), the group if one is asked for, requests,
        ok, failed, failed_over, input_tokens, output_tokens, cost_usd, success_rate, and, with `percentiles`, p50_ms, p95_ms and
        first_token_p95_ms.

        `among`: only these groups; none: all. Steps in which nothing happened are left out: `hours.steps` knows them all. Raises
        KeyError as `usage` does.
        """
        if step not in ("hour", "day"):
            raise KeyError(step)
        columns = () if group_by is None else (COLUMNS[group_by],)
        wanted = column_filters(filters)
        hours, zone = _hours(since_ms, until_ms), _zone(time_zone)

        def put(span: Span) -> Question:
            found = pieces_of(span, *hours, step, zone)
            return series_question(found, columns, wanted, among, histograms=percentiles, until_day=span.until_day)

        def told(question: Question, answers: list[Answer]) -> list[Record]:
            labels = [label or "" for label in question.pieces.labels]
            if step == "day":
                labels = [_rfc3339(begin_of_day_ms(date.fromisoformat(label), zone)) for label in labels]
            return series_rows(question, answers, group_by, labels)

        return await self._reported(put, told)

    async def fallbacks(self, since_ms: int | None = None, until_ms: int | None = None) -> list[Record]:
        """Times that requests went on from one target to another: chain, from, to, reason (an error class), count; most first."""
        found = pieces(*_hours(since_ms, until_ms))
        ranges = {"days": found.days, "hours": found.hours, "less_hours": found.less_hours}
        rows = await self._fetch(_FAILOVERS, {name: orjson.dumps(each).decode() for name, each in ranges.items()})
        return [dict(zip(("chain", "from", "to", "reason", "count"), row, strict=True)) for row in rows]

    async def last_used(self) -> dict[str, int]:
        """When each client last called, milliseconds since 1970, as far as there are rows: of each facet the newest, by its index."""
        rows = await self._fetch(_LAST_USED, ())
        return {str(client): time_ms for client, time_ms in rows}

    async def spent_nusd(self, scope: str, name: str | None, since_ms: int) -> int:
        """What ended attempts cost since the begin of that hour, of total, provider, client, department, agent or a chain's judge; `name`
        counts for all but the first. Attempts at an unknown price count nothing. Raises KeyError for a scope that is none."""
        filters = {} if scope == "total" else {SCOPES[scope]: name or ""}
        if scope == "judge":
            filters["task"] = JUDGE_TASK
        return await self._sum_of("cost_nusd", filters, since_ms)

    async def spend_by_day(
        self,
        since_ms: int,
        until_ms: int | None = None,
        *,
        time_zone: str = "UTC",
        filters: Mapping[str, str | None] = NO_FILTERS,
    ) -> list[tuple[str, int]]:
        """(date, nano-dollars) of each day on which something was spent, in order."""
        wanted = column_filters(filters)
        hours, zone = _hours(since_ms, until_ms), _zone(time_zone)

        def told(question: Question, answers: list[Answer]) -> list[tuple[str, int]]:
            return sorted([(question.pieces.labels[answer.label] or "", answer.sums[0]) for answer in answers])

        def put(span: Span) -> Question:
            return Question(pieces_of(span, *hours, "day", zone), (), wanted, ("cost_nusd",), until_day=span.until_day)

        return await self._reported(put, told)

    async def used_by_day(
        self,
        group: str | None,
        since_ms: int,
        until_ms: int | None = None,
        *,
        filters: Mapping[str, str | None] = NO_FILTERS,
        among: Sequence[str | None] = (),
    ) -> list[tuple[str, str | None, int, int, int]]:
        """(date, name, attempts, tokens, nano-dollars) of each UTC day, and of each name of `group` (of GROUPS) in it. `among`: only
        these names; none: all."""
        columns, wanted = () if group is None else (COLUMNS[group],), column_filters(filters)
        hours, sums = _hours(since_ms, until_ms), ("attempts", "input_tokens", "output_tokens", "cost_nusd")
        wished = tuple([name or "" for name in among])

        def told(question: Question, answers: list[Answer]) -> list[tuple[str, str | None, int, int, int]]:
            rows, labels = [], question.pieces.labels
            for label, names, (attempts, read, written, cost_nusd), _, _ in answers:
                name = names[0] or None if names else None
                rows.append((labels[label] or "", name, attempts, read + written, cost_nusd))
            return rows

        def put(span: Span) -> Question:
            return Question(pieces_of(span, *hours, "day"), columns, wanted, sums, among=wished, until_day=span.until_day)

        return await self._reported(put, told)

    async def used(self, provider: str, credential: str | None, since_ms: int) -> tuple[int, int]:
        """(attempts, input and output tokens) that a provider was sent since then, of one key or of all; exact to the millisecond.

        The hour in which `since_ms` lies is taken whole, less its rows before. Where those are no longer kept it counts whole.
        """
        filters = {"provider": provider} if credential is None else {"provider": provider, "key": credential}
        hour = since_ms // HOUR_MS
        attempts = await self._sums_of(("attempts", "input_tokens", "output_tokens"), filters, since_ms)
        before = (0, 0)
        if since_ms % HOUR_MS:
            rows = await self._fetch(
                _BROKEN_HOUR,
                {
                    "from_id": first_id(hour * HOUR_MS - LONGEST_REQUEST_MS),
                    "to_id": first_id(since_ms),
                    "hour_ms": hour * HOUR_MS,
                    "since_ms": since_ms,
                    "provider": provider,
                    "key": credential,
                },
            )
            before = (rows[0][0], rows[0][1]) if rows else before
        return max(0, attempts[0] - before[0]), max(0, attempts[1] + attempts[2] - before[1])

    async def quota_resets(self) -> dict[tuple[str, str | None], int]:
        """(provider, credential or None for all) -> when the operator last let its quotas begin anew, ms since 1970."""
        return {(row[0], row[1] or None): row[2] for row in await self._fetch(_RESETS, ())}

    async def checks(self, provider: str | None = None, since_ms: int = 0, limit: int = 1000) -> list[Record]:
        """Newest first: time, provider, state, reason, response_ms, models, key_valid."""
        rows = await self._fetch(_CHECKS, {"provider": provider, "since_ms": since_ms, "limit": limit})
        return [
            {
                "time": _rfc3339(row["time_ms"]),
                "provider": row["provider"],
                "state": row["state"],
                "reason": row["reason"],
                "response_ms": _ms(row["response_ms"]),
                "models": row["models"],
                "key_valid": None if row["key_valid"] is None else bool(row["key_valid"]),
            }
            for row in rows
        ]

    async def uptime(self, wall_ms: int) -> dict[str, dict[str, float | None]]:
        """provider -> day, week, month: the share of that time, 0..1, in which it was not down; None where nobody looked.

        Only time in which it was known how the provider is counts.
        """
        spans = [tuple(row) for row in await self._fetch(_SPANS, (wall_ms - max(UPTIME_MS.values()) - GAP_MS,))]
        return uptimes(spans, wall_ms)

    async def alerts(
        self, limit: int = 100, open_only: bool = False, kind: str | None = None, *, since_ms: int = 0
    ) -> list[Record]:
        """Open ones first, then newest first: id, kind, severity, subject, message, value, threshold, raised, resolved, acknowledged
        (RFC 3339 or None), state (open, acknowledged, resolved)."""
        values = {"limit": limit, "open_only": open_only, "kind": kind, "since_ms": since_ms}
        return [_alert(row) for row in await self._fetch(_ALERTS, values)]

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

    async def _reported(
        self,
        put: Callable[[Span], Question],
        told: Callable[[Question, list[Answer]], list[Made]],
        *,
        bounded: str | None = None,
    ) -> list[Made]:
        """`bounded`: by the hour or day, and held to MAX_SUMMED."""
        question, rows, known = await self._asked(put, bounded=bounded)

        def made() -> list[Made]:
            return told(question, merged(question, rows, known))

        # thousands of rows, or of durations, are no work for the thread in which requests are served
        few = FEW_HISTOGRAMS if question.histograms else FEW_ROWS
        return made() if len(rows) + len(known or ()) <= few else await asyncio.to_thread(made)

    async def _asked(
        self, put: Callable[[Span], Question], *, bounded: str | None = None
    ) -> tuple[Question, list[sqlite3.Row], Answers | None]:
        """The question, put to what there was of its slice when it was answered, the rows of that one moment, and what came of the days
        that are over where that is not in these.

        What there is changes with the hour: as a rule it is what it was when somebody last asked, and if not, it is asked once more.
        """
        number = put(Span()).slice
        while True:
            span = self._spans.get(number, Span())
            question = put(span)
            if bounded is not None and span.last_hour is not None:
                await self._bound(question, bounded)
            over = question.settled
            kept = self._settled  # of this file
            known = None if over is None else kept.get(over, span.changes)
            rows = await self._fetch(*with_span(question, settled=known is not None))
            self._spans[number] = found = span_of(rows.pop()) if rows else Span()
            if found != span:
                continue
            if over is None or known is not None or not rows:
                return question, rows, known
            few = FEW_HISTOGRAMS if question.histograms else FEW_ROWS
            known = settled(question, rows) if len(rows) <= few else await asyncio.to_thread(settled, question, rows)
            if len(known) <= MAX_GROUPS // 2:
                kept.keep(over, span.changes, known)
            return question, [row for row in rows if abs(row[0]) == 1], known

    async def _bound(self, question: Question, step: str) -> None:
        ((tags,),) = await self._fetch(*counting_tags(question, MAX_SUMMED + 1)) or ((0,),)
        if is_surely_few(question, tags, MAX_SUMMED):
            return
        rows = await self._fetch(*counting(question, MAX_SUMMED + 1))
        if rows and rows[0][0] > MAX_SUMMED:
            raise InvalidValue(
                f"By the {step} that is more than {MAX_SUMMED:,} sums to go through: take a later `since`, a longer step or fewer groups "
                "(`tollbridge usage` has no such bound).",
                param="group_by",
            )

    async def _sums_of(self, sums: tuple[str, ...], filters: Mapping[str, str], since_ms: int) -> Sequence[int]:
        wanted, hours = column_filters(filters), _hours(since_ms, None)
        question, rows, known = await self._asked(
            lambda span: Question(pieces_of(span, *hours), (), wanted, sums, until_day=span.until_day)
        )
        answers = merged(question, rows, known)
        return answers[0].sums if answers else [0] * len(sums)

    async def _sum_of(self, name: str, filters: Mapping[str, str], since_ms: int) -> int:
        return (await self._sums_of((name,), filters, since_ms))[0]

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
            except sqlite3.Error as error:
                raise LedgerUnavailable("the ledger cannot be opened") from error
            try:
                connection.row_factory = sqlite3.Row
                await connection.execute_fetchall("PRAGMA query_only = 1")
                ((found,),) = await connection.execute_fetchall("PRAGMA user_version")
                if found != version():
                    raise LedgerUnavailable(_other_release(found))
            except sqlite3.Error as error:
                await connection.close()
                raise LedgerUnavailable("the ledger cannot be read") from error
            except BaseException:
                await connection.close()
                raise
            self._connection, self._inode = connection, inode
            return connection

    async def _forget(self) -> None:
        connection, self._connection = self._connection, None
        self._settled = Settled()
        if connection is not None:
            await connection.close()


def _other_release(found: int) -> str:
    if found < version():
        return "the ledger was written by an earlier release (start the server once: it brings the tables up to date)"
    return "the ledger was written by a later release (read it with that one)"


def _list_sql(filters: Iterable[str]) -> str:
    """The page is cut before the attempts are joined to it."""
    given = " AND ".join(f"f.{name} = :{name}" for name in filters)
    page = _PAGE_OF_FACETS.format(filters=given) if given else "id < :before"
    return f"{_REQUEST} {_FROM_WHERE} {page} {_PAGE} {_JOIN}"


def _requests(rows: list[sqlite3.Row]) -> list[Record]:
    return [_request(row) for row in rows]


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
        "cache": row["cache"],
        "saved_usd": None if row["saved_nusd"] is None else nusd_to_usd(row["saved_nusd"]),
        "quality": row["quality"],
        "hedged": bool(row["hedged"]),
        "continued": _loads(row["continued"]),
    }


def _answered(row: sqlite3.Row) -> int | None:
    if row["outcome"] != "ok" or not row["attempts"]:
        return None
    return int(row["answered"] or row["attempts"])


def _attempt(row: sqlite3.Row) -> Record:
    attempt: Record = dict(row)
    attempt["started"] = _rfc3339(attempt.pop("time_ms"))
    attempt["first_token_ms"], attempt["duration_ms"] = _ms(attempt["first_token_ms"]), _ms(attempt["duration_ms"])
    cost_nusd = attempt.pop("cost_nusd")
    attempt["cost_usd"] = None if cost_nusd is None else nusd_to_usd(cost_nusd)
    if attempt.pop("rank") < 2:
        attempt["usage_source"] = attempt["cost_usd"] = None
    return attempt


def _hours(since_ms: int | None, until_ms: int | None) -> tuple[int, int]:
    return (since_ms or 0) // HOUR_MS, _OPEN_ENDED_H if until_ms is None else -(-until_ms // HOUR_MS)


def _zone(name: str) -> ZoneInfo | None:
    """None is UTC. Raises KeyError."""
    if name == "UTC":
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise KeyError(name) from None


def _alert(row: sqlite3.Row) -> Record:
    alert: Record = {name: row[name] for name in ("id", "kind", "severity", "subject", "message", "value", "threshold")}
    for name in ("raised", "resolved", "acknowledged"):
        alert[name] = None if row[f"{name}_ms"] is None else _rfc3339(row[f"{name}_ms"])
    resolved, acknowledged = alert["resolved"] is not None, alert["acknowledged"] is not None
    alert["state"] = "resolved" if resolved else "acknowledged" if acknowledged else "open"
    alert["help"] = help_for(alert["kind"])
    return alert


def _rfc3339(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _ms(duration_ms: float | None) -> float | None:
    return None if duration_ms is None else round(duration_ms, 3)


def _loads(text: str | None) -> Any:
    return [] if text is None else orjson.loads(text)
