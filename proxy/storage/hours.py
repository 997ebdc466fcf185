"""Which rows of sums a stretch of time is made of: whole days where days will do, hours where they will not.

Sums are kept by the hour and by the day of UTC. A day elsewhere is then the UTC day that it shares most hours with, less the hours that
are another's, plus those that it has of its neighbours: for Berlin that is 4 rows instead of 24. What begins at half past (the day in
Kolkata) begins here with that hour.

    Berlin    |------------- 21 November -------------|             since 22:00 UTC
    UTC    |--+------------ 21 November -----------|--+             the day, less its last hour, plus the last of the day before
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import groupby
from zoneinfo import ZoneInfo

HOUR_MS = 3_600_000
DAY_H = 24
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Range = tuple[int, int, int]  # from, up to and without, the label's number


@dataclass(slots=True)
class Pieces:
    """`days` and `hours` are added up, `less_hours` taken off; each range has the number of its label."""

    labels: list[str | None] = field(default_factory=list)
    days: list[Range] = field(default_factory=list)
    hours: list[Range] = field(default_factory=list)
    less_hours: list[Range] = field(default_factory=list)


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
def _dates(day: int, zone: ZoneInfo | None) -> tuple[date, ...]:
    """The date at each hour of a UTC day."""
    if zone is None:
        return ((_EPOCH + timedelta(days=day)).date(),) * DAY_H
    return tuple([local_date(day * DAY_H + hour, zone) for hour in range(DAY_H)])


def _whole(found: Pieces, since_h: int, until_h: int) -> None:
    first_day, end_day = -(-since_h // DAY_H), until_h // DAY_H
    if first_day >= end_day:
        found.hours.append((since_h, until_h, 0))
        return
    found.days.append((first_day, end_day, 0))
    if since_h < first_day * DAY_H:
        found.hours.append((since_h, first_day * DAY_H, 0))
    if end_day * DAY_H < until_h:
        found.hours.append((end_day * DAY_H, until_h, 0))


def _local(found: Pieces, since_h: int, until_h: int, *, month: bool, zone: ZoneInfo | None) -> None:
    numbers: dict[str, int] = {}

    def number(day: date) -> int:
        label = day.isoformat()[:7] if month else day.isoformat()
        return numbers.setdefault(label, len(numbers))

    for day in range(since_h // DAY_H, -(-until_h // DAY_H)):
        dates, first = _dates(day, zone), day * DAY_H
        runs = [(owner, len(list(run))) for owner, run in groupby(map(number, dates))]
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
