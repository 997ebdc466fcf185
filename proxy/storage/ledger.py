"""One batch into the tables, in the transaction that also notes how far the journal was read.

A row only ever moves up (`WHERE excluded.rank > rank`), and the hourly sums are changed by exactly the rows that moved to their
end: so a record that is met twice changes nothing the second time. Whether all of a batch moved is told by the number of changes;
only where it was not all of them is each asked for by `RETURNING`, which costs half as much again.

A row of two dozen columns costs SQLite three times what one of ten does, and an index each a microsecond: so what requests have in
common is written once, as a facet and a kind, and known by number after that. What only one request can say (a trace with times or
scores, a cached answer, quality) is a row of its own beside it, which most do not have. Measured in docs/ledger.md.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from hashlib import blake2b
from itertools import chain
from typing import Any

import orjson

from proxy.accounting.records import LAYOUT, Begin, End, Fields, RequestEnd, RequestOpen, pick, span
from proxy.storage.extras import COLUMNS as EXTRA_COLUMNS
from proxy.storage.extras import NO_GAINS, Extras, extras_of, gains, has_own, served_from, shared_needs
from proxy.storage.fold import Batch
from proxy.storage.sums import Usage, request_histograms
from proxy.storage.told import write_told

Row = tuple[Any, ...]
CACHED_KINDS = 2_000  # a caller can make up tags: these must not pile up
ROWS_A_STATEMENT = 16
REMEMBERED_RUNNING = 2_000  # of more, the rest are read again when they end

_ENDED_REQUEST = """
INSERT INTO request_rows (id, facet, kind, time_ms, task_id, attempts, duration_ms, first_token_ms, overhead_ms, ended)
VALUES (?,?,?,?,?,?,?,?,?,1)
ON CONFLICT (id) DO UPDATE SET ended = 1, writer = NULL, facet = excluded.facet, kind = excluded.kind,
    attempts = excluded.attempts, duration_ms = excluded.duration_ms, first_token_ms = excluded.first_token_ms,
    overhead_ms = excluded.overhead_ms
WHERE ended = 0"""

_RUNNING_REQUEST = """
INSERT INTO request_rows (id, facet, kind, time_ms, task_id, attempts, writer, ended) VALUES (?,?,?,?,?,?,?,0)
ON CONFLICT (id) DO UPDATE SET facet = excluded.facet, kind = excluded.kind, attempts = excluded.attempts
WHERE ended = 0 AND excluded.attempts > attempts"""

_ENDED_ATTEMPT = """
INSERT INTO attempt_rows (request_id, n, kind, time_ms, error, first_token_ms, duration_ms, input_tokens, cached_input_tokens,
    cache_write_tokens, output_tokens, reasoning_tokens, input_audio_tokens, output_audio_tokens, cost_nusd, at_risk_tokens, rank)
VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,2)
ON CONFLICT (request_id, n) DO UPDATE SET rank = 2, writer = NULL, kind = excluded.kind, time_ms = excluded.time_ms, error = excluded.error,
    first_token_ms = excluded.first_token_ms, duration_ms = excluded.duration_ms, input_tokens = excluded.input_tokens,
    cached_input_tokens = excluded.cached_input_tokens, cache_write_tokens = excluded.cache_write_tokens,
    output_tokens = excluded.output_tokens, reasoning_tokens = excluded.reasoning_tokens,
    input_audio_tokens = excluded.input_audio_tokens, output_audio_tokens = excluded.output_audio_tokens,
    cost_nusd = excluded.cost_nusd, at_risk_tokens = excluded.at_risk_tokens
WHERE excluded.rank > rank"""

_RUNNING_ATTEMPT = """
INSERT INTO attempt_rows (request_id, n, kind, time_ms, at_risk_tokens, writer, rank, input_tokens, cached_input_tokens,
    cache_write_tokens, output_tokens, reasoning_tokens, input_audio_tokens, output_audio_tokens)
VALUES (?,?,?,?,?,?,0,0,0,0,0,0,0,0)
ON CONFLICT (request_id, n) DO NOTHING"""

_PROGRESS = """
UPDATE attempt_rows SET rank = 1, output_tokens = ?1, cost_nusd = ?2
WHERE request_id = ?3 AND n = ?4 AND rank < 2 AND output_tokens <= ?1"""

_KNOWN = """
SELECT id, time_ms, client, department, agent, task, task_id, model, chain, stream, config, provider, upstream_model,
    (SELECT credential FROM attempts WHERE request_id = id ORDER BY n DESC LIMIT 1)
FROM requests WHERE id IN (SELECT value FROM json_each(?))"""

_EXTRAS = f"INSERT OR REPLACE INTO request_extras ({', '.join(EXTRA_COLUMNS)}) VALUES (?{',?' * (len(EXTRA_COLUMNS) - 1)})"  # noqa: S608
_ANSWER = "SELECT provider, upstream_model, credential, finish_reason FROM attempts WHERE request_id = ? AND n = ? AND rank = 2"
_TARGET = "SELECT provider, upstream_model, credential FROM attempts WHERE request_id = ? AND n = ?"

_FACETS = ("client", "department", "model", "provider", "outcome")
_REQUEST_KINDS = (
    "agent", "task", "chain", "stream", "config", "upstream_model", "http_status", "finish_reason", "error_code", "trace", "dropped",
)  # fmt: skip
_ATTEMPT_KINDS = (
    "provider", "upstream_model", "credential", "outcome", "http_status", "error_class", "category", "usage_source", "price_source",
    "finish_reason",
)  # fmt: skip

_KEEP_PRICE = """
INSERT OR IGNORE INTO repriced (request_id, n, time_ms, cost_nusd, price_source)
SELECT request_id, n, :time_ms, cost_nusd, price_source FROM attempts WHERE request_id = :id AND n = :n"""
_ATTEMPT_KIND = f"""
SELECT {", ".join(_ATTEMPT_KINDS)} FROM attempt_kinds
WHERE id = (SELECT kind FROM attempt_rows WHERE request_id = ? AND n = ?)"""  # noqa: S608 - this module's own words

_open_kind = pick(RequestOpen, "client", "department", "agent", "task", "model", "chain", "stream", "config")
_close_kind = pick(RequestEnd, "outcome", "http_status", "finish_reason", "error_code", "trace", "dropped")
_close_attempts = pick(RequestEnd, "attempts", "trace")
_end_kind = pick(End, *_ATTEMPT_KINDS)
_end_head = pick(End, "request_id", "n")
_end_target = pick(End, "provider", "upstream_model", "credential")
_end_answer = pick(End, "provider", "upstream_model", "credential", "finish_reason")
_begin_target = pick(Begin, "provider", "upstream_model", "credential")
# every record passes here: fields that follow one another are taken at once, which costs less than taking each
_OPENED_MS, _TASK_ID = LAYOUT[RequestOpen].index("time_ms"), LAYOUT[RequestOpen].index("task_id")
_WHO, _WHAT = span(RequestOpen, "client", "task"), span(RequestOpen, "model", "config")
_ATTEMPTS, _EXTRA = LAYOUT[RequestEnd].index("attempts"), LAYOUT[RequestEnd].index("extra")
_CAME_OF_IT, _SAID_OF_IT = span(RequestEnd, "outcome", "http_status"), span(RequestEnd, "finish_reason", "dropped")
_CLOSE_TIMES = span(RequestEnd, "attempts", "overhead_ms")
_ENDED_MS, _END_REQUEST = LAYOUT[End].index("time_ms"), LAYOUT[End].index("request_id")
_END_HEAD, _END_TARGET = span(End, "request_id", "n"), span(End, "provider", "credential")
_END_KIND, _END_TOKENS = span(End, "provider", "category"), span(End, "error", "output_audio_tokens")
_SOURCE, _COST, _PRICED, _AT_RISK, _FINISH = (
    LAYOUT[End].index(name) for name in ("usage_source", "cost_nusd", "price_source", "at_risk_tokens", "finish_reason")
)
_begin_values = pick(Begin, "request_id", "n", "time_ms", "provider", "upstream_model", "credential", "at_risk_tokens")

_NOTED = frozenset(("attempt", "target", "then"))
_HOUR_MS = 3_600_000
_SUMMED_UP = slice(6, None)  # of the columns of an ended attempt: from its duration on
_OUTCOMES = ("ok", "failed", "rejected", "interrupted", "client_gone")  # in the order of their columns
_RUNNING: Fields = ("running", None, None, None, [], [])
_NOWHERE: Row = (None, None, None)


@dataclass(slots=True, eq=False)
class _RequestKind:
    facet: int
    id: int
    outcome: str
    target: Row  # provider, upstream_model, credential
    tags: Row
    cached: bool


@dataclass(slots=True, eq=False)
class _AttemptKind:
    id: int
    outcome: str
    source: str | None
    target: Row


class Ledger:
    """The writing end. What fails inside a transaction must be followed by `forget`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._request_kinds: dict[bytes, _RequestKind] = {}
        self._attempt_kinds: dict[bytes, _AttemptKind] = {}
        self._used: set[tuple[str, int]] | None = None
        self._running: dict[str, Fields] = {}  # RequestOpen of requests that were begun, and end in a later batch
        self._usage = Usage(connection)

    def forget(self) -> None:
        """What was rolled back may have been the row of a kind, of a tag or of a running request."""
        self._running.clear()
        self._usage.forget()
        self.forget_kinds()

    def forget_kinds(self) -> None:
        """Some may have been deleted."""
        self._request_kinds.clear()
        self._attempt_kinds.clear()

    @contextmanager
    def kinds_in_use(self) -> Iterator[set[tuple[str, int]]]:
        """(table, id) of every kind that rows are given from here on, also of those that were there before."""
        self.forget_kinds()
        used: set[tuple[str, int]] = set()
        self._used = used
        try:
            yield used
        finally:
            self._used = None

    def write(self, batch: Batch) -> None:
        """Inside a transaction that the caller began and commits."""
        connection = self._connection
        opens, targets, begun = self._opens(batch)
        for request_id in self._running.keys() & batch.closes.keys():
            del self._running[request_id]
        if running := batch.running_requests():
            rows = [self._running_request(begin, writer, opens) for begin, writer in running]
            connection.executemany(_RUNNING_REQUEST, rows)
            self._running.update([(row[0], opens[row[0]]) for row in rows[: REMEMBERED_RUNNING - len(self._running)]])
        if attempted := batch.running_attempts():
            connection.executemany(_RUNNING_ATTEMPT, [self._running_attempt(begin, writer) for begin, writer in attempted])
        if progress := batch.running_progress():
            connection.executemany(_PROGRESS, progress)
        extras: dict[str, Extras] = {}
        requests = self._ended_requests(batch, opens, targets, extras)
        attempts = self._ended_attempts(batch)
        whose = {row[0]: kind for row, kind in requests}
        moved_requests, moved_attempts = self._move(_ENDED_REQUEST, requests, begun), self._move(_ENDED_ATTEMPT, attempts, begun)
        for (hour, request_kind), rows in _by_hour(moved_requests).items():
            self._add_requests(hour, request_kind, rows, extras)
        if extras:
            self._add_extras(batch, moved_requests, extras)
        for (hour, attempt_kind, owner), rows in _by_hour_and_owner(moved_attempts, whose, opens).items():
            tags = owner.tags if isinstance(owner, _RequestKind) else owner
            sums = attempt_sums(attempt_kind.outcome, attempt_kind.source, [*zip(*rows, strict=True)][_SUMMED_UP])
            self._usage.add_attempts(hour, _dimensions(attempt_kind.target, tags), sums)
        self._usage.write()
        if batch.checks or batch.alerts or batch.resets:
            write_told(connection, batch)

    def _add_requests(self, hour: int, kind: _RequestKind, rows: list[Row], extras: dict[str, Extras]) -> None:
        *_, attempts, durations_ms, first_tokens_ms, _ = zip(*rows, strict=True)
        first_tokens = [first_token_ms for first_token_ms in first_tokens_ms if first_token_ms is not None]
        durations, first_token_times = request_histograms(kind.outcome, durations_ms, first_tokens, cached=kind.cached)
        gained, needed = NO_GAINS, attempts
        if extras and (own := {row[0]: extras[row[0]] for row in rows if row[0] in extras}):
            gained = gains([(extra.cache, extra.saved_nusd, extra.quality) for extra in own.values()])
            needed = tuple(
                [made - (own[row[0]].hedged or 0) if row[0] in own else made for row, made in zip(rows, attempts, strict=True)]
            )
        self._usage.add_requests(
            hour,
            _dimensions(kind.target, kind.tags),
            request_sums(kind.outcome, needed, durations_ms, first_tokens, gained),
            durations=durations,
            first_token_times=first_token_times,
        )

    def _add_extras(self, batch: Batch, moved: list[tuple[Row, _RequestKind]], extras: dict[str, Extras]) -> None:
        """What has a row of its own: kept, and its failovers counted."""
        rows = []
        for (request_id, _, _, time_ms, *_), kind in moved:
            if (extra := extras.get(request_id)) is None:
                continue
            if any(value is not None for value in extra):
                rows.append((request_id, *extra))
            close, end = batch.closes[request_id]
            made, trace = _close_attempts(close)
            target_of = partial(self._target_of, batch, request_id, end)
            for attempt, *failover in failovers_of(trace, target_of) if made > 1 else ():
                if attempt < made:
                    self._usage.add_failover(time_ms // _HOUR_MS, kind.tags[0], *failover)
        self._connection.executemany(_EXTRAS, rows)

    def _target_of(self, batch: Batch, request_id: str, closing: Fields | None, n: int) -> str | None:
        """provider/model of an attempt, wherever that is known; None where it is not."""
        attempt_id = f"{request_id}-{n}"
        if closing is not None and _end_head(closing)[1] == n:
            provider, upstream_model, _ = _end_target(closing)
        elif (end := batch.ends.get(attempt_id)) is not None:
            provider, upstream_model, _ = _end_target(end)
        elif (begun := batch.begins.get(attempt_id)) is not None:
            provider, upstream_model, _ = _begin_target(begun[0])
        else:
            known = self._connection.execute(_TARGET, (request_id, n)).fetchone()
            if known is None:
                return None
            provider, upstream_model, _ = known
        return f"{provider}/{upstream_model}"

    def _opens(self, batch: Batch) -> tuple[dict[str, Fields], dict[str, Row], set[str]]:
        """Who asked for what, of every request that the batch names; where those went last of which it does not say so; and which of
        them have rows."""
        opens, targets = batch.opens, {}
        begun = (batch.closes.keys() | batch.latest.keys()) - opens.keys()
        begun.update([record[_END_REQUEST] for record in batch.ends.values() if record[_END_REQUEST] not in opens])
        unsaid = {request_id for request_id, (_, end) in batch.closes.items() if end is None and request_id not in batch.latest}
        if begun or unsaid:
            opens = {**opens, **{request_id: self._running[request_id] for request_id in begun & self._running.keys()}}
        if unknown := begun - opens.keys() | unsaid:
            for known in self._connection.execute(_KNOWN, (orjson.dumps(list(unknown)).decode(),)):
                begun.add(known[0])
                opens.setdefault(known[0], known[:-3])
                targets[known[0]] = known[-3:]
            for request_id in unknown - opens.keys():
                opens[request_id] = _unknown_open(request_id, batch)
        return opens, targets, begun

    def _ended_requests(
        self, batch: Batch, opens: dict[str, Fields], targets: dict[str, Row], extras: dict[str, Extras]
    ) -> list[tuple[Row, _RequestKind]]:
        """Fills `extras` with what each of them has of its own."""
        rows: list[tuple[Row, _RequestKind]] = []
        kinds = self._request_kinds
        dumps = orjson.dumps
        for request_id, (close, end) in batch.closes.items():
            opened = opens[request_id]
            kind = key = None
            if end is not None and close[_ATTEMPTS] <= 1 and (len(close) <= _EXTRA or close[_EXTRA] is None):
                key = dumps((opened[_WHO], opened[_WHAT], end[_END_TARGET], close[_CAME_OF_IT], close[_SAID_OF_IT]))
                kind = kinds.get(key)
            if kind is None:
                kind = self._request_kind(batch, request_id, opened, targets, extras, key)
            row = (request_id, kind.facet, kind.id, opened[_OPENED_MS], opened[_TASK_ID], *close[_CLOSE_TIMES])
            rows.append((row, kind))
        return rows

    def _request_kind(
        self,
        batch: Batch,
        request_id: str,
        opened: Fields,
        targets: dict[str, Row],
        extras: dict[str, Extras],
        key: bytes | None,
    ) -> _RequestKind:
        """Of an ended request; fills `extras` where it has something of its own. `key`: by which it is known where it has not."""
        close, end = batch.closes[request_id]
        target = _end_target(end) if end is not None else _last_target(batch, request_id) or targets.get(request_id, _NOWHERE)
        closed, cached, asked = _close_kind(close), False, None
        if has_own(close):
            key = None
            extra = extras[request_id] = extras_of(close, None if end is None else _end_head(end)[1])
            closed = (*closed[:4], None, closed[5])
            if extra.answered is not None:
                if (found := self._answer(batch, request_id, extra.answered)) is None:
                    extras[request_id] = extra._replace(answered=None)
                else:
                    target, closed = found[:3], closed if closed[0] != "ok" else (*closed[:2], found[3], *closed[3:])
            elif extra.cache is not None and (source := served_from(close)) is not None:
                target, cached = source, True
        elif len(close) > _EXTRA and close[_EXTRA] is not None:
            asked = shared_needs(close)
        said: Row = (_open_kind(opened), target, closed)
        if cached or asked is not None:
            said = (*said, cached, asked)
        key = key or orjson.dumps(said)
        return self._request_kinds.get(key) or self._new_request_kind(key, *said)

    def _answer(self, batch: Batch, request_id: str, n: int) -> Row | None:
        """Provider, model, credential and finish reason of an attempt that has ended; None where that is unknown."""
        if (end := batch.ends.get(f"{request_id}-{n}")) is not None:
            return tuple(_end_answer(end))
        known = self._connection.execute(_ANSWER, (request_id, n)).fetchone()
        return None if known is None else tuple(known)

    def price(self, request_id: str, n: int, *, cost_nusd: int, source: str, time_ms: int) -> None:
        """An ended attempt costs something else from now on; what it was is kept. The sums are the caller's to mend."""
        connection = self._connection
        connection.execute(_KEEP_PRICE, {"id": request_id, "n": n, "time_ms": time_ms})
        (said,) = connection.execute(_ATTEMPT_KIND, (request_id, n)).fetchall()
        values = tuple(source if name == "price_source" else value for name, value in zip(_ATTEMPT_KINDS, said, strict=True))
        kind = self._number("attempt_kinds", _ATTEMPT_KINDS, values)
        connection.execute(
            "UPDATE attempt_rows SET cost_nusd = ?, kind = ? WHERE request_id = ? AND n = ?", (cost_nusd, kind, request_id, n)
        )

    def _ended_attempts(self, batch: Batch) -> list[tuple[Row, _AttemptKind]]:
        rows: list[tuple[Row, _AttemptKind]] = []
        kinds = self._attempt_kinds
        dumps = orjson.dumps
        for record in batch.ends.values():
            key = dumps((record[_END_KIND], record[_SOURCE], record[_PRICED], record[_FINISH]))
            kind = kinds.get(key) or self._new_attempt_kind(key, _end_kind(record))
            row = (*record[_END_HEAD], kind.id, record[_ENDED_MS], *record[_END_TOKENS], record[_COST], record[_AT_RISK])
            rows.append((row, kind))
        return rows

    def _running_request(self, begin: Fields, writer: str, opens: dict[str, Fields]) -> Row:
        request_id, n, *_ = _begin_values(begin)
        opened = opens[request_id]
        said = (_open_kind(opened), _begin_target(begin), _RUNNING)
        key = orjson.dumps(said)
        kind = self._request_kinds.get(key) or self._new_request_kind(key, *said)
        return (request_id, kind.facet, kind.id, opened[_OPENED_MS], opened[_TASK_ID], n, writer)

    def _running_attempt(self, begin: Fields, writer: str) -> Row:
        request_id, n, time_ms, *who, at_risk_tokens = _begin_values(begin)
        said = (*who, "running", *(None,) * (len(_ATTEMPT_KINDS) - len(who) - 1))
        key = orjson.dumps(said)
        kind = self._attempt_kinds.get(key) or self._new_attempt_kind(key, said)
        return (request_id, n, kind.id, time_ms, at_risk_tokens, writer)

    def _new_request_kind(
        self,
        key: bytes,
        opened: Row,
        target: Row,
        close: Fields,
        cached: bool = False,
        asked: dict[str, Any] | None = None,
    ) -> _RequestKind:
        client, department, agent, task, model, chain, stream, config = opened
        outcome, http_status, finish_reason, error_code, trace, dropped = close
        provider, upstream_model, credential = target
        facet = self._number("facets", _FACETS, (client, department, model, provider, outcome))
        columns: tuple[str, ...] = _REQUEST_KINDS
        values: Row = (
            agent, task, chain, stream, config, upstream_model, http_status, finish_reason, error_code, _json(trace), _json(dropped),
        )  # fmt: skip
        if asked is not None:
            columns, values = (*columns, "asked"), (*values, orjson.dumps(asked).decode())
        tags = (chain or "", client or "", department or "", agent or "", task or "", int(stream or 0))
        target = (provider or "", upstream_model or "", credential or "")
        kind = _RequestKind(facet, self._number("request_kinds", columns, values), outcome, target, tags, cached)
        _remember(self._request_kinds, key, kind)
        return kind

    def _new_attempt_kind(self, key: bytes, said: Row) -> _AttemptKind:
        provider, upstream_model, credential, outcome, _, _, _, source, _, _ = said
        number = self._number("attempt_kinds", _ATTEMPT_KINDS, said)
        kind = _AttemptKind(number, outcome, source, (provider, upstream_model, credential or ""))
        _remember(self._attempt_kinds, key, kind)
        return kind

    def _number(self, table: str, columns: tuple[str, ...], values: Row) -> int:
        """The id of the row that says this, made where there is none. Table and columns are this module's own words."""
        digest = blake2b(orjson.dumps(values), digest_size=16).digest()
        found = self._connection.execute(f"SELECT id FROM {table} WHERE key = ?", (digest,)).fetchone()  # noqa: S608
        if found is not None:
            if self._used is not None:
                self._used.add((table, int(found[0])))
            return int(found[0])
        sql = f"INSERT INTO {table} (key, {', '.join(columns)}) VALUES (?{',?' * len(columns)})"  # noqa: S608
        return int(self._connection.execute(sql, (digest, *values)).lastrowid or 0)

    def _move(self, upsert: str, rows: list[tuple[Row, Any]], begun: set[str]) -> list[tuple[Row, Any]]:
        """Those of the rows that moved. `begun`: requests that have rows; the others have none, unless they are told twice."""
        if not rows:
            return rows
        connection = self._connection
        connection.execute("SAVEPOINT move")
        try:
            whole = self._insert_or_update(upsert, [row for row, _ in rows], begun)
        except sqlite3.IntegrityError:
            whole = False
        if not whole:
            connection.execute("ROLLBACK TO move")
            one = f"{upsert} RETURNING 1"
            rows = [pair for pair in rows if connection.execute(one, pair[0]).fetchall()]
        connection.execute("RELEASE move")
        return rows

    def _insert_or_update(self, upsert: str, rows: list[Row], begun: set[str]) -> bool:
        """Whether all of them moved. Rows that are new go in many at a time. Raises sqlite3.IntegrityError where one was not new."""
        connection = self._connection
        before = connection.total_changes
        new = [row for row in rows if row[0] not in begun] if begun else rows
        many = len(new) // ROWS_A_STATEMENT * ROWS_A_STATEMENT
        values = zip(*[chain.from_iterable(new[:many])] * (ROWS_A_STATEMENT * len(rows[0])), strict=True)
        connection.executemany(_many(upsert), values)
        connection.executemany(upsert, new[many:])
        if begun:
            connection.executemany(upsert, [row for row in rows if row[0] in begun])
        return connection.total_changes - before == len(rows)


@cache
def _many(upsert: str) -> str:
    """The statement that inserts ROWS_A_STATEMENT rows at a time, and fails where one is there. Nothing of a statement is taken back by
    itself, so that SQLite need not keep what it may have to restore."""
    insert, _, _ = upsert.partition("ON CONFLICT")
    head, values, row = insert.replace("INSERT", "INSERT OR FAIL", 1).partition("VALUES")
    return head + values + ",".join([row] * ROWS_A_STATEMENT)


def _remember(cache: dict[bytes, Any], key: bytes, kind: Any) -> None:
    if len(cache) >= CACHED_KINDS:
        cache.clear()
    cache[key] = kind


def _json(value: Any) -> str | None:
    return orjson.dumps(value).decode() if value else None


def _last_target(batch: Batch, request_id: str) -> Row | None:
    attempt_id = batch.latest.get(request_id)
    return None if attempt_id is None else _begin_target(batch.begins[attempt_id][0])


def _unknown_open(request_id: str, batch: Batch) -> Fields:
    """The head of a request whose first begin was lost: nothing but the id and the time of an attempt."""
    _, end = batch.closes.get(request_id, (None, None))
    attempt_id = batch.latest.get(request_id)
    if end is not None:
        time_ms = end[_ENDED_MS]
    else:
        time_ms = 0 if attempt_id is None else _begin_values(batch.begins[attempt_id][0])[2]
    return (request_id, time_ms, *(None,) * 9)


def _tags(opened: Fields) -> Row:
    client, department, agent, task, _, chain, stream, _ = _open_kind(opened)
    return (chain or "", client or "", department or "", agent or "", task or "", int(stream or 0))


def _by_hour(requests: list[tuple[Row, _RequestKind]]) -> dict[tuple[int, _RequestKind], list[Row]]:
    groups: dict[tuple[int, _RequestKind], list[Row]] = {}
    for row, kind in requests:
        key = (row[3] // _HOUR_MS, kind)
        if key in groups:
            groups[key].append(row)
        else:
            groups[key] = [row]
    return groups


def _by_hour_and_owner(
    attempts: list[tuple[Row, _AttemptKind]], whose: dict[str, _RequestKind], opens: dict[str, Fields]
) -> dict[tuple[int, _AttemptKind, _RequestKind | Row], list[Row]]:
    """The owner is the kind of a request that ends in the same batch, else the tags of one that does not."""
    groups: dict[tuple[int, _AttemptKind, _RequestKind | Row], list[Row]] = {}
    for row, kind in attempts:
        key = (row[3] // _HOUR_MS, kind, whose.get(row[0]) or _tags(opens[row[0]]))
        if key in groups:
            groups[key].append(row)
        else:
            groups[key] = [row]
    return groups


def _dimensions(target: Row, tags: Row) -> Row:
    """In the order of DIMENSIONS."""
    provider, upstream_model, credential = target
    chain, client, department, agent, task, stream = tags
    return (provider, upstream_model, chain, client, department, agent, task, credential, stream)


def failovers_of(trace: Any, target_of: Callable[[int], str | None]) -> list[Row]:
    """(attempt, from, to, reason) for each time that the trace says it went on to another target. `target_of`: an attempt's, asked for
    where the trace does not say."""
    lines = trace if isinstance(trace, list) else []
    notes = [entry for entry in lines if isinstance(entry, dict) and entry.keys() >= _NOTED]
    targets = {note["attempt"]: note["target"] for note in reversed(notes)}
    found = []
    for note in notes:
        if note["then"] == "next":
            number = note["attempt"]
            to = targets.get(number + 1) or target_of(number + 1)
            if to is not None:
                found.append((number, note["target"], to, note.get("error") or ("quality" if "quality" in note else "")))
    return found


def request_sums(outcome: str, needed: Row, durations_ms: Row, first_tokens: list[float], gained: Row) -> Row:
    """Of requests that ended alike. `needed`: the attempts of each, without a hedge: that was made because one was late, not unable."""
    counted_as = outcome if outcome in _OUTCOMES else "failed"
    requests = len(needed)
    by_outcome = [requests if counted_as == name else 0 for name in _OUTCOMES]
    failed_over = sum(made > 1 for made in needed)
    return (requests, *by_outcome, failed_over, whole_us(durations_ms), whole_us(first_tokens), len(first_tokens), *gained)


def attempt_sums(outcome: str, source: str | None, columns: list[Row]) -> Row:
    """Of attempts that ended alike: their durations, tokens of each kind, costs and tokens at risk."""
    durations_ms, *tokens, costs, at_risk_tokens = columns
    attempts = len(costs)
    known = [cost_nusd for cost_nusd in costs if cost_nusd is not None]
    return (
        attempts,
        attempts if outcome == "ok" else 0,
        whole_us(durations_ms),
        *map(sum, tokens),
        sum(known),
        sum(at_risk_tokens),
        attempts - len(known) if source is not None else 0,
        attempts if source not in (None, "provider") else 0,
    )


def whole_us(durations_ms: Iterable[float | None]) -> int:
    """Each cut to whole microseconds by itself, so that the sum is the same however the rows were cut into batches."""
    return sum([int(duration_ms * 1000) for duration_ms in durations_ms if duration_ms is not None])
