"""A stretch of time as days and hours of sums: each hour once, under its own date, wherever the reader lives."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.storage.hours import HOUR_MS, begin_of_day_ms, local_date, pieces, steps

pytestmark = pytest.mark.property

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_H = (datetime(2026, 3, 1, tzinfo=UTC) - EPOCH) // timedelta(hours=1)
ZONES = st.sampled_from([None, "Europe/Berlin", "America/Los_Angeles", "Asia/Kolkata", "Pacific/Auckland", "Asia/Beirut"]).map(
    lambda name: None if name is None else ZoneInfo(name)
)


def hours_of(since_h: int, until_h: int, step: str | None, zone: ZoneInfo | None) -> Counter[tuple[int, str | None]]:
    found = pieces(since_h, until_h, step, zone)
    hours: Counter[tuple[int, str | None]] = Counter()
    for start, stop, number in found.days:
        hours.update((hour, found.labels[number]) for hour in range(start * 24, stop * 24))
    for start, stop, number in found.hours:
        hours.update((hour, found.labels[number]) for hour in range(start, stop))
    for start, stop, number in found.less_hours:
        hours.subtract((hour, found.labels[number]) for hour in range(start, stop))
    assert all(count >= 0 for count in hours.values())
    return +hours


@settings(deadline=None)
@given(st.integers(0, 24 * 40), st.integers(0, 24 * 300), ZONES, st.sampled_from(["day", "month"]))
def test_each_hour_counts_once_and_under_its_own_date(offset: int, length: int, zone: ZoneInfo | None, step: str) -> None:
    since_h, until_h = FIRST_H + offset, FIRST_H + offset + length
    size = 10 if step == "day" else 7
    expected = Counter([(hour, local_date(hour, zone).isoformat()[:size]) for hour in range(since_h, until_h)])
    assert hours_of(since_h, until_h, step, zone) == expected


@settings(deadline=None)
@given(st.integers(0, 100), st.integers(0, 24 * 10), st.sampled_from([None, "hour"]))
def test_without_days_there_are_no_zones(offset: int, length: int, step: str | None) -> None:
    hours = hours_of(FIRST_H + offset, FIRST_H + offset + length, step, None)
    assert Counter([hour for hour, _ in hours.elements()]) == Counter(range(FIRST_H + offset, FIRST_H + offset + length))


@pytest.mark.parametrize(("zone", "rows"), [(None, 30), ("Europe/Berlin", 30 + 4 * 30), ("America/Los_Angeles", 30 + 2 * 8 * 30)])
def test_a_day_elsewhere_takes_few_hours(zone: str | None, rows: int) -> None:
    found = pieces(FIRST_H, FIRST_H + 30 * 24, "day", None if zone is None else ZoneInfo(zone))
    read = [stop - start for ranges in (found.days, found.hours, found.less_hours) for start, stop, _ in ranges]
    assert sum(read) <= rows


@settings(deadline=None)
@given(st.integers(0, 24 * 40), st.integers(1, 24 * 40), ZONES)
def test_steps_are_all_that_there_are(offset: int, length: int, zone: ZoneInfo | None) -> None:
    since_h, until_h = FIRST_H + offset, FIRST_H + offset + length
    days = [label for label, _ in steps(since_h, until_h, "day", zone)]
    assert days == sorted({local_date(hour, zone).isoformat() for hour in range(since_h, until_h)})
    assert [begin_ms for _, begin_ms in steps(since_h, until_h, "hour", zone)] == [
        hour * HOUR_MS for hour in range(since_h, until_h)
    ]


@pytest.mark.unit
def test_a_day_begins_at_midnight_where_the_reader_lives() -> None:
    day = datetime(2026, 7, 1, tzinfo=UTC).date()
    assert begin_of_day_ms(day, ZoneInfo("Europe/Berlin")) == round(datetime(2026, 6, 30, 22, tzinfo=UTC).timestamp() * 1000)
    assert begin_of_day_ms(day, None) == round(datetime(2026, 7, 1, tzinfo=UTC).timestamp() * 1000)
