"""The sums: what ended rows add to the hour and the day that they belong to, in the transaction that moved them.

A combination of provider, model, chain, client, department, agent, task, key and stream has its row of sums for each hour and day
(slice 0), and so has each of these by itself or with what goes with it (slices 1 to 9), so that a report on one reads a few rows and
no combinations. Combinations of days that are over are moved to a table where each has its days together, and each day that is over
is added to its week and its month (`pruning.py`); what comes late for such a day is added there here.
What a caller can make up (WIDTHS) has no more than so many names in the sums: the largest keep theirs, the rest are `other`.
"""

from __future__ import annotations

import sqlite3
from operator import add
from typing import Any

from proxy.storage.histogram import histogram, shorten
from proxy.storage.hours import DAY_H
from proxy.storage.long_sums import add_late
from proxy.storage.slices import DIMENSIONS, NO_ATTEMPTS, NO_REQUESTS, SLICES, upsert

Row = tuple[Any, ...]

WIDTHS = {"upstream_model": 1000, "department": 1000, "agent": 1000, "task": 100}
OTHER = "other"
_WAITING = 1000  # names without a place that are remembered, for each
_CHANGES_AN_HOUR = 10
_RECENT_DAYS = 7
CACHED_TAGS = 50_000
_LONG_TO_ADD = 100  # characters of a histogram from which on it is worth shortening before it is added
_HOURLY, _DAILY = upsert("hourly_sums", ("slice", "hour", "tag")), upsert("daily_sums", ("slice", "day", "tag"))
_SUMMED_UNTIL = "SELECT max(until_day) FROM summed_days"
_HOURLY_FAILOVERS, _DAILY_FAILOVERS = (
    f"INSERT INTO {table} VALUES (?,?,?,?,?,?) ON CONFLICT DO UPDATE SET count = count + excluded.count"  # noqa: S608
    for table in ("failovers_hourly", "failovers_daily")
)
_TAG = f"SELECT id FROM usage_tags WHERE slice = ? AND {' AND '.join(f'{name} = ?' for name in DIMENSIONS)}"  # noqa: S608
_NEW_TAG = f"INSERT INTO usage_tags (slice, {', '.join(DIMENSIONS)}) VALUES (?{',?' * len(DIMENSIONS)})"  # noqa: S608
_COUNTS_IN = [tuple(name in names for name in DIMENSIONS) for names in SLICES]
_BLANK = ("",) * (len(DIMENSIONS) - 1) + (0,)


class Usage:
    """What one transaction adds. Made by Ledger; `forget` after a rollback."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._tags: dict[Row, tuple[int, ...]] = {}  # dimensions -> the tag in each slice
        self._names = {DIMENSIONS.index(name): Names(name, connection) for name in WIDTHS}
        self._sums: dict[tuple[int, Row], tuple[Row, Row, str, str]] = {}  # (hour, dimensions)
        self._failovers: dict[Row, int] = {}

    def forget(self) -> None:
        self._tags.clear()
        self._sums.clear()
        self._failovers.clear()
        for names in self._names.values():
            names.forget()

    def add_requests(self, hour: int, dimensions: Row, sums: Row, *, durations: str, first_token_times: str) -> None:
        self._add((hour, dimensions), sums, NO_ATTEMPTS, durations, first_token_times)

    def add_attempts(self, hour: int, dimensions: Row, sums: Row) -> None:
        self._add((hour, dimensions), NO_REQUESTS, sums, "", "")

    def add_failover(self, hour: int, chain: str, from_target: str, to_target: str, reason: str) -> None:
        key = (hour, chain, from_target, to_target, reason)
        self._failovers[key] = self._failovers.get(key, 0) + 1

    def write(self) -> None:
        if not self._sums:
            return
        hours: dict[tuple[int, int, int], Row] = {}
        for (hour, dimensions), (ours, theirs, durations, times) in self._sums.items():
            if len(durations) > _LONG_TO_ADD:
                durations = shorten(durations)
            if len(times) > _LONG_TO_ADD:
                times = shorten(times)
            row = (*ours, *theirs, durations, times)
            for number, tag in enumerate(self._tags_of(hour, dimensions, ours[0] or theirs[0])):
                _merge(hours, (number, hour, tag), row)
        days: dict[tuple[int, int, int], Row] = {}
        for (number, hour, tag), row in hours.items():
            _merge(days, (number, hour // 24, tag), row)
        self._connection.executemany(_HOURLY, [key + row for key, row in hours.items()])
        self._connection.executemany(_DAILY, [key + row for key, row in days.items()])
        (summed_until,) = self._connection.execute(_SUMMED_UNTIL).fetchone()
        if summed_until is not None and any(day < summed_until for _, day, _ in days):
            add_late(self._connection, days)
        if self._failovers:
            self._connection.executemany(_HOURLY_FAILOVERS, [(*key, count) for key, count in self._failovers.items()])
            by_day = [(hour // DAY_H, *move, count) for (hour, *move), count in self._failovers.items()]
            self._connection.executemany(_DAILY_FAILOVERS, by_day)
        self._sums.clear()
        self._failovers.clear()

    def _add(self, key: tuple[int, Row], ours: Row, theirs: Row, durations: str, times: str) -> None:
        if (before := self._sums.get(key)) is not None:
            ours, theirs = tuple(map(add, before[0], ours)), tuple(map(add, before[1], theirs))
            durations, times = before[2] + durations, before[3] + times
        self._sums[key] = (ours, theirs, durations, times)

    def _tags_of(self, hour: int, dimensions: Row, weight: int) -> tuple[int, ...]:
        tags = self._tags.get(dimensions)
        if tags is not None:
            for place, names in self._names.items():
                names.count(dimensions[place], weight)
            return tags
        told = list(dimensions)
        for place, names in self._names.items():
            told[place] = names.place(dimensions[place], weight, hour)
        tags = tuple([self._tag(number, told) for number in range(len(SLICES))])
        changed = [names.changed() for names in self._names.values()]
        if any(changed) or len(self._tags) >= CACHED_TAGS:
            self._tags.clear()
        if told == list(dimensions):  # what goes by another name must be weighed each time
            self._tags[dimensions] = tags
        return tags

    def _tag(self, number: int, told: list[Any]) -> int:
        values = (
            number,
            *[said if counts else blank for said, counts, blank in zip(told, _COUNTS_IN[number], _BLANK, strict=True)],
        )
        found = self._connection.execute(_TAG, values).fetchone()
        return int(found[0] if found is not None else self._connection.execute(_NEW_TAG, values).lastrowid or 0)


class Names:
    """Which names of one dimension have a place in the sums: those that were there, until there are as many as may be; then a newcomer
    takes the place of the smallest of the last days when it has been seen twice as often. What was summed up keeps its name."""

    def __init__(self, dimension: str, connection: sqlite3.Connection) -> None:
        self._dimension = dimension
        self._width = WIDTHS[dimension]
        self._slice = next(number for number, names in enumerate(SLICES) if dimension in names and len(names) <= 2)
        self._connection = connection
        self._weights: dict[str, int] | None = None
        self._waiting: dict[str, int] = {}
        self._hour = 0
        self._changes = 0
        self._changed = False

    def forget(self) -> None:
        self._weights = None

    def changed(self) -> bool:
        """Since it was last asked: some name lost its place."""
        changed, self._changed = self._changed, False
        return changed

    def count(self, name: str, weight: int) -> None:
        if self._weights is not None and name in self._weights:
            self._weights[name] += weight

    def place(self, name: str, weight: int, hour: int) -> str:
        """The name itself or OTHER."""
        weights = self._weights if self._weights is not None else self._load()
        if not name or name == OTHER:
            return name
        if name in weights:
            weights[name] += weight
            return name
        if len(weights) < self._width:
            weights[name] = weight
            return name
        waiting = self._waiting
        waiting[name] = waiting.get(name, 0) + weight
        smallest = min(weights, key=weights.__getitem__) if self._may_change(hour) and waiting[name] > 1 else None
        if smallest is not None and waiting[name] > 2 * weights[smallest]:
            del weights[smallest]
            weights[name] = waiting.pop(name)
            self._changes += 1
            self._changed = True
            return name
        if len(waiting) > _WAITING:
            self._waiting = {name: seen // 2 for name, seen in waiting.items() if seen > 1}
        return OTHER

    def _may_change(self, hour: int) -> bool:
        if hour != self._hour:
            self._hour, self._changes = hour, 0
        return self._changes < _CHANGES_AN_HOUR

    def _load(self) -> dict[str, int]:
        """The largest of the last days."""
        column = self._dimension
        rows = self._connection.execute(
            f"SELECT t.{column}, sum(u.requests) + sum(u.attempts) AS seen FROM daily_sums AS u JOIN usage_tags AS t ON t.id = u.tag "  # noqa: S608
            f"WHERE u.slice = ? AND u.day > (SELECT max(day) FROM daily_sums WHERE slice = 1) - ? AND t.{column} NOT IN ('', ?) "
            "GROUP BY 1 ORDER BY 2 DESC LIMIT ?",
            (self._slice, _RECENT_DAYS, OTHER, self._width),
        )
        self._weights = {name: int(seen) for name, seen in rows}
        return self._weights


def request_histograms(outcome: str, durations_ms: Any, first_tokens_ms: list[float], *, cached: bool) -> tuple[str, str]:
    """Of requests that ended alike. The time to fail, to refuse or to find an answer in the cache is not how long answers take."""
    if cached:
        return "", ""
    durations = histogram([ms for ms in durations_ms if ms is not None]) if outcome == "ok" else ""
    return durations, histogram(first_tokens_ms)


def _merge(sums: dict[tuple[int, int, int], Row], key: tuple[int, int, int], row: Row) -> None:
    before = sums.get(key)
    sums[key] = row if before is None else tuple(map(add, before, row))
