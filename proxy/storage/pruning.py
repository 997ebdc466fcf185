"""What is old is forgotten: rows, sums, checks and alerts, a little at a time, by the drainer when it has nothing else to do. And the
sums of a day that is over are made ready for being read for as long as they are kept: histograms are shortened, combinations moved, and
all of them added to those of their week and month.

Sums are tables of their own: to forget a row changes none of them. What many rows have in common (facets, kinds) goes when the last of
these rows has gone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from itertools import islice

import orjson

from proxy.storage.ledger import Ledger
from proxy.storage.long_sums import add_up, forget_before, mark_changed, mark_forgotten
from proxy.storage.retention import Retention
from proxy.storage.slices import HISTOGRAMS, SLICES, SUMS, upsert
from proxy.storage.sqlite import first_id

_DAY_S = 86_400.0
_PAUSE_S = 60.0  # after a round that found nothing more
_REQUESTS_A_STEP = 500
_KINDS_A_STEP = 1000
_SCANNED_A_STEP = 5000
_TOLD_A_STEP = 1000
_SWEEP_EVERY_S = 86_400.0

_OLD_REQUESTS = "SELECT id, facet FROM request_rows WHERE id < ? AND ended = 1 ORDER BY id LIMIT ?"
_MARK_GONE = """
INSERT INTO marks (name, value) SELECT 'rows_gone_until_ms', max(time_ms) FROM (
    SELECT time_ms FROM request_rows WHERE id IN (SELECT value FROM json_each(:ids)) UNION ALL
    SELECT time_ms FROM attempt_rows WHERE request_id IN (SELECT value FROM json_each(:ids))) WHERE true
ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)"""
_FORGET_REQUESTS = (
    "DELETE FROM repriced WHERE request_id IN (SELECT value FROM json_each(?))",
    "DELETE FROM attempt_rows WHERE request_id IN (SELECT value FROM json_each(?))",
    "DELETE FROM request_extras WHERE id IN (SELECT value FROM json_each(?))",
    "DELETE FROM request_rows WHERE id IN (SELECT value FROM json_each(?))",
)
_FORGET_FACETS = """
DELETE FROM facets WHERE id IN (SELECT value FROM json_each(?)) AND NOT EXISTS (SELECT 1 FROM request_rows WHERE facet = facets.id)"""
_FORGET_TOLD = (
    "DELETE FROM checks WHERE (provider, time_ms) IN (SELECT provider, time_ms FROM checks WHERE time_ms < :cut LIMIT :limit)",
    "DELETE FROM health_spans WHERE until_ms < :cut AND :limit",
    "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts WHERE resolved_ms < :cut LIMIT :limit)",
)
_SHORTEN = """
UPDATE {table} SET durations = shorten(durations), first_token_times = shorten(first_token_times)
WHERE slice = ? AND {unit} >= ? AND {unit} < ? AND length(durations) + length(first_token_times) > 100"""
_SHORTEN_DAYS = _SHORTEN.format(table="daily_sums", unit="day")
_SHORTEN_HOURS = _SHORTEN.format(table="hourly_sums", unit="hour")
_TO_PAST = (
    upsert(
        "past_daily_sums",
        ("tag", "day"),
        f"SELECT tag, day, {', '.join((*SUMS, *HISTOGRAMS))} FROM daily_sums WHERE slice = 0 AND day = ?",  # noqa: S608
    ),
    "DELETE FROM daily_sums WHERE slice = 0 AND day = ?",
)
_OLDEST_DAY = """
SELECT min(day) FROM (
    SELECT min(day) AS day FROM daily_sums WHERE slice = :slice UNION ALL
    SELECT min(hour) / 24 FROM hourly_sums WHERE slice = :slice)"""  # days of combinations that are over are elsewhere, their hours are not
_FORGET_PAST = "DELETE FROM past_daily_sums WHERE tag = ? AND day < ?"
_TAGS_A_STEP = 500
_FORGET_TAGS = """
DELETE FROM usage_tags WHERE id NOT IN (SELECT tag FROM daily_sums) AND id NOT IN (SELECT DISTINCT tag FROM past_daily_sums)"""


class Pruner:
    """`step` forgets a little and says whether there may be more. For one connection; not for two threads."""

    def __init__(self, connection: sqlite3.Connection, ledger: Ledger, retention: Callable[[], Retention]) -> None:
        self._connection = connection
        self._ledger = ledger
        self._retention = retention
        self._round: Iterator[None] | None = None
        self._next_s = 0.0
        self._forgotten = 0  # requests since the last sweep of kinds
        self._next_sweep_s = 0.0
        self._shortened = 0  # the last day

    def step(self, now_s: float) -> bool:
        """At most some 20 ms of work, in a transaction of its own. Raises sqlite3.Error with nothing changed."""
        if self._round is None:
            if 0 <= self._next_s - now_s <= _PAUSE_S:
                return False
            self._round = self._work(self._retention(), now_s)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            more = next(self._round, self) is not self
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            self._round = None
            raise
        if not more:
            self._round, self._next_s = None, now_s + _PAUSE_S
        return more

    def _work(self, retention: Retention, now_s: float) -> Iterator[None]:
        """One round, cut where another transaction may begin."""
        yield from self._requests(first_id(int((now_s - retention.requests_s) * 1000)))
        if self._forgotten and not 0 <= self._next_sweep_s - now_s <= _SWEEP_EVERY_S:
            self._forgotten, self._next_sweep_s = 0, now_s + _SWEEP_EVERY_S
            yield from self._kinds()
        yield from self._sums(int((now_s - retention.rollups_s) // _DAY_S))
        yield from self._shorten(int(now_s // _DAY_S) - 1)
        yield from self._move(int(now_s // _DAY_S))
        yield from add_up(self._connection, int(now_s // _DAY_S))
        yield from self._told(int((now_s - retention.health_s) * 1000))

    def _requests(self, cut: str) -> Iterator[None]:
        while rows := self._connection.execute(_OLD_REQUESTS, (cut, _REQUESTS_A_STEP)).fetchall():
            ids = orjson.dumps([row[0] for row in rows]).decode()
            self._connection.execute(_MARK_GONE, {"ids": ids})
            for sql in _FORGET_REQUESTS:
                self._connection.execute(sql, (ids,))
            self._connection.execute(_FORGET_FACETS, (orjson.dumps(list({row[1] for row in rows})).decode(),))
            self._ledger.forget_kinds()
            self._forgotten += len(rows)
            yield

    def _kinds(self) -> Iterator[None]:
        """Marks the kinds that rows have, then deletes those which were there at the begin and have neither row nor use since."""
        with self._ledger.kinds_in_use() as used:
            for rows, key, kinds in (
                ("request_rows", ("id",), "request_kinds"),
                ("attempt_rows", ("request_id", "n"), "attempt_kinds"),
            ):
                (last,) = self._connection.execute(f"SELECT coalesce(max(id), 0) FROM {kinds}").fetchone()  # noqa: S608
                seen = bytearray(last + 1)
                position = ("",) if len(key) == 1 else ("", 0)
                columns, marks = ", ".join(key), ",".join("?" * len(key))
                scan = (
                    f"SELECT kind, {columns} FROM {rows} WHERE ({columns}) > ({marks}) ORDER BY {columns} LIMIT {_SCANNED_A_STEP}"  # noqa: S608
                )
                while found := self._connection.execute(scan, position).fetchall():
                    for kind, *_ in found:
                        if kind <= last:
                            seen[kind] = 1
                    position = found[-1][1:]
                    yield
                unseen = (kind for kind in range(1, last + 1) if not seen[kind])
                while batch := list(islice(unseen, _KINDS_A_STEP)):
                    gone = [(kind,) for kind in batch if (kinds, kind) not in used]
                    self._connection.executemany(f"DELETE FROM {kinds} WHERE id = ?", gone)  # noqa: S608
                    yield

    def _sums(self, cut_day: int) -> Iterator[None]:
        """A day of one slice at a time; the hours go with their day, so that both tables always tell the same."""
        forgotten = False
        for number in range(len(SLICES)):
            while True:
                (day,) = self._connection.execute(_OLDEST_DAY, {"slice": number}).fetchone()
                if day is None or day >= cut_day:
                    break
                mark_forgotten(self._connection, cut_day)
                mark_changed(self._connection)
                self._connection.execute("DELETE FROM daily_sums WHERE slice = ? AND day = ?", (number, day))
                hours = (number, day * 24, day * 24 + 24)
                self._connection.execute("DELETE FROM hourly_sums WHERE slice = ? AND hour >= ? AND hour < ?", hours)
                forgotten = True
                yield
        self._connection.execute("DELETE FROM failovers_hourly WHERE hour < ?", (cut_day * 24,))
        self._connection.execute("DELETE FROM failovers_daily WHERE day < ?", (cut_day,))
        if forgotten:
            yield from forget_before(self._connection, cut_day)
            tags = [row[0] for row in self._connection.execute("SELECT id FROM usage_tags WHERE slice = 0")]
            for start in range(0, len(tags), _TAGS_A_STEP):
                mark_changed(self._connection)
                self._connection.executemany(_FORGET_PAST, [(tag, cut_day) for tag in tags[start : start + _TAGS_A_STEP]])
                yield
            self._connection.execute(_FORGET_TAGS)
            self._ledger.forget()
            yield

    def _shorten(self, yesterday: int) -> Iterator[None]:
        for day in range(max(self._shortened + 1, yesterday - 1), yesterday + 1):
            for number in range(len(SLICES)):
                self._connection.execute(_SHORTEN_DAYS, (number, day, day + 1))
                self._connection.execute(_SHORTEN_HOURS, (number, day * 24, day * 24 + 24))
                yield
            self._shortened = day

    def _move(self, today: int) -> Iterator[None]:
        while True:
            (day,) = self._connection.execute("SELECT min(day) FROM daily_sums WHERE slice = 0").fetchone()
            if day is None or day >= today:
                return
            for sql in _TO_PAST:
                self._connection.execute(sql, (day,))
            yield

    def _told(self, cut_ms: int) -> Iterator[None]:
        for sql in _FORGET_TOLD:
            while self._connection.execute(sql, {"cut": cut_ms, "limit": _TOLD_A_STEP}).rowcount >= _TOLD_A_STEP:
                yield
