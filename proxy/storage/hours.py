"""Which rows of sums a stretch of time is made of: whole months, weeks and days where these will do, hours where they will not.

Sums are kept by the hour and by the day of UTC, and of days that are over by the week and the month. A day elsewhere is then the UTC
day that it shares most hours with, less the hours that are another's, plus those that it has of its neighbours: for Berlin that is 4
rows instead of 24. What begins at half past (the day in Kolkata) begins here with that hour.

    Berlin    |------------- 21 November -------------|             since 22:00 UTC
    UTC    |--+------------ 21 November -----------|--+             the day, less its last hour, plus the last of the day before
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple
from zoneinfo import ZoneInfo

HOUR_MS = 3_600_000
DAY_H = 24
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL = _EPOCH.toordinal()
_THURSDAY = 3  # what the first of January 1970 was: so many days after a Monday

Range = tuple[int, int, int]  # from, up to and without, the label's number


class Span(NamedTuple):
    """What there is of a slice: the first day and the last hour with anything, and the days that weeks and months hold, which are over.
    None: nothing. `changes`: how often days that were over changed."""

    first_day: int | None = None
    last_hour: int | None = None
    from_day: int | None = None
    until_day: int | None = None
    changes: int | None = None


@dataclass(slots=True)
class Pieces:
    """All are added up but `less_hours`, which are taken off; each range has the number of its label."""

    labels: list[str | None] = field(default_factory=list)
    months: list[Range] = field(default_factory=list)
    weeks: list[Range] = field(default_factory=list)
    days: list[Range] = field(default_factory=list)
    hours: list[Range] = field(default_factory=list)
    less_hours: list[Range] = field(default_factory=list)

    def parted(self, until_day: int) -> tuple[Pieces, Pieces]:
        """Before that day, which no range of days has in its midst, and from it on; weeks and months are of days before."""
        before, after = Pieces(self.labels, self.months, self.weeks), Pieces(self.labels)
        for ranges, early, late, length in (
            (self.days, before.days, after.days, 1),
            (self.hours, before.hours, after.hours, DAY_H),
            (self.less_hours, before.less_hours, after.less_hours, DAY_H),
        ):
            for start, stop, number in ranges:
                (early if stop <= until_day * length else late).append((start, stop, number))
        return before, after


def pieces(since_h: int, until_h: int, step: str | None = None, zone: ZoneInfo | None = None) -> Pieces:
    """The hours from `since_h` up to and without `until_h`, since 1970 in UTC, in steps: None (all in one), hour, day, month.

    Labels: `2026-11-21T08:00:00.000Z`, `2026-11-21`, `2026-11`, of the zone (None: UTC).
    """
    found = Pieces()
    if until_h <= since_h:
        return found
    if step is None:
        found.labels = [None]
        _whole(found, since_h, until_h)
    elif step == "hour":
        found.labels = [hour_label(hour) for hour in range(since_h, until_h)]
        found.hours = [(hour, hour + 1, number) for number, hour in enumerate(range(since_h, until_h))]
    else:
        _local(found, since_h, until_h, month=step == "month", zone=zone)
    return found


def pieces_of(span: Span, since_h: int, until_h: int, step: str | None = None, zone: ZoneInfo | None = None) -> Pieces:
    """As `pieces`, of what there is: a report by the hour must not count the hours since 1970, and where nothing is left out at an end
    the day or month there is taken whole."""
    if span.first_day is None or span.last_hour is None:
        return Pieces()
    begin_h, end_h = span.first_day * DAY_H, (span.last_hour // DAY_H + 1) * DAY_H
    if since_h <= begin_h:
        since_h = begin_h if step in ("hour", "day") else begin_of_month(month_of(span.first_day)) * DAY_H
    if until_h > span.last_hour:
        until_h = end_h
    found = pieces(since_h, until_h, step, zone)
    if span.from_day is not None and span.until_day is not None:
        in_long_steps(found, span.from_day, span.until_day)
    return found


def in_long_steps(found: Pieces, from_day: int, until_day: int) -> None:
    """Takes months and weeks instead of days: those that hold every day that they stand for, and of the last one what it holds so far,
    where that is all of it that is asked for and nobody adds to it meanwhile (see `Span`)."""
    for of, begin_of, ranges in ((month_of, begin_of_month, found.months), (week_of, begin_of_week, found.weeks)):
        days, found.days = found.days, []
        for start, stop, number in days:
            if stop - start == 1:
                found.days.append((start, stop, number))
                continue
            first = of(max(start, from_day) - 1) + 1
            end, held = (of(stop), begin_of(of(stop))) if stop < until_day else (of(until_day - 1) + 1, until_day)
            if first < end:
                ranges.append((first, end, number))
                found.days += [edge for edge in ((start, begin_of(first), number), (held, stop, number)) if edge[0] < edge[1]]
            else:
                found.days.append((start, stop, number))


def week_of(day: int) -> int:
    """Weeks since 1970, each from Monday on, as days are counted."""
    return (day + _THURSDAY) // 7


def begin_of_week(week: int) -> int:
    return week * 7 - _THURSDAY


def month_of(day: int) -> int:
    """Months since January 1970."""
    begun = date.fromordinal(_EPOCH_ORDINAL + day)
    return (begun.year - _EPOCH.year) * 12 + begun.month - 1


def begin_of_month(month: int) -> int:
    return date(_EPOCH.year + month // 12, month % 12 + 1, 1).toordinal() - _EPOCH_ORDINAL


def steps(since_h: int, until_h: int, step: str, zone: ZoneInfo | None = None) -> Iterator[tuple[str, int]]:
    """Every step that these hours touch, empty or not, in order: its label as in `pieces`, and its begin in ms since 1970."""
    if step == "hour":
        for hour in range(since_h, until_h):
            yield hour_label(hour), hour * HOUR_MS
        return
    day, last = local_date(since_h, zone), local_date(until_h - 1, zone)
    while until_h > since_h and day <= last:
        yield day.isoformat(), begin_of_day_ms(day, zone)
        day += timedelta(days=1)


def begin_of_day_ms(day: date, zone: ZoneInfo | None) -> int:
    begin = datetime(day.year, day.month, day.day, tzinfo=zone or UTC)
    return round(begin.timestamp() * 1000)


def hour_label(hour: int) -> str:
    return f"{_utc_date(hour // DAY_H)}T{hour % DAY_H:02}:00:00.000Z"


@lru_cache(maxsize=2048)
def _utc_date(day: int) -> str:
    return (_EPOCH + timedelta(days=day)).date().isoformat()


def local_date(hour: int, zone: ZoneInfo | None) -> date:
    return (_EPOCH + timedelta(hours=hour)).astimezone(zone or UTC).date()


@lru_cache(maxsize=2048)
def _dates(day: int, zone: ZoneInfo | None) -> tuple[tuple[str, int], ...]:
    """The dates that the hours of a UTC day have, each with how many have it."""
    if zone is None:
        return ((_utc_date(day), DAY_H),)
    dates = [local_date(day * DAY_H + hour, zone).isoformat() for hour in range(DAY_H)]
    return tuple([(label, len(list(run))) for label, run in groupby(dates)])


def _whole(found: Pieces, since_h: int, until_h: int) -> None:
    first_day, end_day = -(-since_h // DAY_H), until_h // DAY_H
    if first_day >= end_day:
        found.hours.append((since_h, until_h, 0))
        return
    if first_day * DAY_H - since_h > DAY_H // 2:
        first_day -= 1
        found.less_hours.append((first_day * DAY_H, since_h, 0))
    elif since_h < first_day * DAY_H:
        found.hours.append((since_h, first_day * DAY_H, 0))
    if until_h - end_day * DAY_H > DAY_H // 2:
        end_day += 1
        found.less_hours.append((until_h, end_day * DAY_H, 0))
    elif end_day * DAY_H < until_h:
        found.hours.append((end_day * DAY_H, until_h, 0))
    found.days.append((first_day, end_day, 0))


def _local(found: Pieces, since_h: int, until_h: int, *, month: bool, zone: ZoneInfo | None) -> None:
    numbers: dict[str, int] = {}
    label_chars = len("2026-11") if month else len("2026-11-21")
    for day in range(since_h // DAY_H, -(-until_h // DAY_H)):
        first = day * DAY_H
        runs = [(numbers.setdefault(label[:label_chars], len(numbers)), length) for label, length in _dates(day, zone)]
        if since_h <= first and first + DAY_H <= until_h:
            mine = max(runs, key=lambda run: run[1])[0]
            found.days.append((day, day + 1, mine))
        else:
            mine = None
        hour = first
        for owner, length in runs:
            start, stop = max(hour, since_h), min(hour + length, until_h)
            if owner != mine and start < stop:
                found.hours.append((start, stop, owner))
                if mine is not None:
                    found.less_hours.append((start, stop, mine))
            hour += length
    found.labels = list(numbers)
    found.days = _joined(found.days)


def _joined(ranges: list[Range]) -> list[Range]:
    """Neighbours with the same label as one."""
    joined: list[Range] = []
    for start, stop, number in ranges:
        if joined and joined[-1][1:] == (start, number):
            joined[-1] = (joined[-1][0], stop, number)
        else:
            joined.append((start, stop, number))
    return joined
