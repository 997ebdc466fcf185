"""The sums of weeks and months: of what days they are made, and in step with these.

    day 21 is over ── added to week 2707 and month 682 of each slice, one after the other ── `summed_days` says until 22
    a request of day 21 ends late ── added to the day, and, as that is in them already, to week and month in the same transaction

A report takes a week or a month instead of its days when all of these are in it (`hours.py`). What a report came to for days that are
over is remembered (`settled.py`) for as long as the mark `past_changes` stays: whoever changes such a day moves it on. For one
connection, that of the writer, inside the caller's transactions.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from proxy.storage.hours import begin_of_month, begin_of_week, month_of, week_of
from proxy.storage.slices import HISTOGRAMS, SLICES, SUMS, upsert


class Long(NamedTuple):
    """A table of sums by something longer than a day."""

    table: str
    unit: str
    of: Callable[[int], int]
    """Of a day."""
    begin_of: Callable[[int], int]
    """Its first day."""

    def adding(self, source: str | None = None) -> str:
        return upsert(self.table, ("slice", self.unit, "tag"), source)


WEEKS = Long("weekly_sums", "week", week_of, begin_of_week)
MONTHS = Long("monthly_sums", "month", month_of, begin_of_month)
LONG = (WEEKS, MONTHS)

_COLUMNS = ", ".join((*SUMS, *HISTOGRAMS))
_OF_A_DAY = f"SELECT :slice, :unit, tag, {_COLUMNS} FROM daily_sums WHERE slice = :slice AND day = :day"  # noqa: S608
_OF_A_PAST_DAY = (
    f"SELECT :slice, :unit, u.tag, {_COLUMNS} FROM usage_tags AS t "  # noqa: S608
    "CROSS JOIN past_daily_sums AS u ON u.tag = t.id AND u.day = :day WHERE t.slice = :slice"
)
_ADDING = {long: [long.adding(source) for source in (_OF_A_DAY, _OF_A_PAST_DAY)] for long in LONG}
_BEHIND = """
SELECT s.slice, coalesce(d.until_day, 0) FROM usage_slices AS s LEFT JOIN summed_days AS d ON d.slice = s.slice
WHERE coalesce(d.until_day, 0) < ?"""
_DAYS = "SELECT day FROM daily_sums WHERE slice = 1 AND day >= ? AND day < ? ORDER BY day"  # that slice has a row of every day
_CHANGED = "INSERT INTO marks VALUES ('past_changes', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1"
_SUMMED = "INSERT INTO summed_days VALUES (?, 0, ?) ON CONFLICT DO UPDATE SET until_day = excluded.until_day"


def add_up(connection: sqlite3.Connection, today: int) -> Iterator[None]:
    """Every day before this one that is not in its week and month yet; cut where another transaction may begin."""
    for number, until_day in connection.execute(_BEHIND, (today,)).fetchall():
        for (day,) in connection.execute(_DAYS, (until_day, today)).fetchall():
            for long in LONG:
                _add(connection, long, number, day)
            connection.execute(_SUMMED, (number, day + 1))
            yield
        connection.execute(_SUMMED, (number, today))
    yield


def mark_changed(connection: sqlite3.Connection) -> None:
    """A day that is over has other sums than before."""
    connection.execute(_CHANGED)


def forget_before(connection: sqlite3.Connection, day: int) -> Iterator[None]:
    """Whole weeks and months; the one that this day cuts in two is not read any more. See `mark_forgotten`."""
    for number in range(len(SLICES)):
        for long in LONG:
            sql = f"DELETE FROM {long.table} WHERE slice = ? AND {long.unit} < ?"  # noqa: S608 - this module's own words
            connection.execute(sql, (number, long.of(day)))
        yield


def mark_forgotten(connection: sqlite3.Connection, day: int) -> None:
    """Before days are deleted that are in a week or month with days that stay."""
    connection.execute("UPDATE summed_days SET from_day = :day WHERE from_day < :day", {"day": day})


def begin_anew(connection: sqlite3.Connection, day: int) -> None:
    """As if nothing since the begin of that day's month had been added up yet: days change that are in weeks and months."""
    mark_changed(connection)
    begin = begin_of_month(month_of(day))
    connection.execute("DELETE FROM monthly_sums WHERE month >= ?", (month_of(day),))
    connection.execute("DELETE FROM weekly_sums WHERE week >= ?", (week_of(begin),))
    summed: Mapping[int, int] = dict(connection.execute("SELECT slice, until_day FROM summed_days"))
    for number, until_day in summed.items():
        for earlier in range(begin_of_week(week_of(begin)), min(begin, until_day)):
            _add(connection, WEEKS, number, earlier)
    connection.execute("UPDATE summed_days SET until_day = ? WHERE until_day > ?", (begin, begin))


def add_late(connection: sqlite3.Connection, days: Mapping[tuple[int, int, int], tuple[Any, ...]]) -> None:
    """(slice, day, tag) -> what is added to its sums: to weeks and months, where the day is in them already."""
    summed: Mapping[int, int] = dict(connection.execute("SELECT slice, until_day FROM summed_days"))
    late = [(key, row) for key, row in days.items() if key[1] < summed.get(key[0], 0)]
    if late:
        mark_changed(connection)
        for long in LONG:
            connection.executemany(long.adding(), [(number, long.of(day), tag, *row) for (number, day, tag), row in late])


def _add(connection: sqlite3.Connection, long: Long, number: int, day: int) -> None:
    of_a_day, of_a_past_day = _ADDING[long]
    values = {"slice": number, "day": day, "unit": long.of(day)}
    connection.execute(of_a_day, values)
    if number == 0:
        connection.execute(of_a_past_day, values)
