"""Periods: in every zone each moment is in exactly one, and they begin when the file says so, whatever the clocks do."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.accounting.periods import Account, Tally, period, rfc3339
from proxy.core.limits import Per

pytestmark = pytest.mark.unit
LONG = 1e9


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("per", "zone", "hour", "wall", "start", "end"),
    [
        ("day", "UTC", 0, "2026-02-27T18:30Z", "2026-02-27T00:00Z", "2026-02-28T00:00Z"),
        ("month", "UTC", 0, "2026-02-27T18:30Z", "2026-02-01T00:00Z", "2026-03-01T00:00Z"),
        ("month", "UTC", 0, "2026-12-31T23:00Z", "2026-12-01T00:00Z", "2027-01-01T00:00Z"),
        ("day", "UTC", 7, "2026-02-27T06:59Z", "2026-02-26T07:00Z", "2026-02-27T07:00Z"),
        ("day", "UTC", 7, "2026-02-27T07:00Z", "2026-02-27T07:00Z", "2026-02-28T07:00Z"),
        ("month", "UTC", 7, "2026-03-01T06:59Z", "2026-02-01T07:00Z", "2026-03-01T07:00Z"),
        # west and east of Greenwich, and half an hour off
        ("day", "America/Los_Angeles", 0, "2026-01-15T07:59Z", "2026-01-14T08:00Z", "2026-01-15T08:00Z"),
        ("month", "Pacific/Auckland", 0, "2026-06-30T12:00Z", "2026-06-30T12:00Z", "2026-07-31T12:00Z"),
        ("day", "Asia/Kolkata", 0, "2026-01-15T18:29Z", "2026-01-14T18:30Z", "2026-01-15T18:30Z"),
        # the clocks go forward: a day of 23 hours, in winter's offset before it and summer's after
        ("day", "America/New_York", 0, "2026-03-08T12:00Z", "2026-03-08T05:00Z", "2026-03-09T04:00Z"),
        ("month", "America/New_York", 0, "2026-03-08T12:00Z", "2026-03-01T05:00Z", "2026-04-01T04:00Z"),
        # and over the hour itself, two o'clock, which there is not on that day: it begins when they do
        ("day", "America/New_York", 2, "2026-03-08T06:59Z", "2026-03-07T07:00Z", "2026-03-08T07:00Z"),
        ("day", "America/New_York", 2, "2026-03-08T07:00Z", "2026-03-08T07:00Z", "2026-03-09T06:00Z"),
        # they go back: a day of 25 hours, and of two hours of that name the first
        ("day", "America/New_York", 0, "2026-11-01T12:00Z", "2026-11-01T04:00Z", "2026-11-02T05:00Z"),
        ("day", "America/New_York", 1, "2026-11-01T05:30Z", "2026-11-01T05:00Z", "2026-11-02T06:00Z"),
        ("day", "America/New_York", 1, "2026-11-01T06:30Z", "2026-11-01T05:00Z", "2026-11-02T06:00Z"),
        # a day that there never was: Samoa went over the date line
        ("day", "Pacific/Apia", 0, "2011-12-30T09:59Z", "2011-12-29T10:00Z", "2011-12-30T10:00Z"),
        ("day", "Pacific/Apia", 0, "2011-12-30T10:00Z", "2011-12-30T10:00Z", "2011-12-31T10:00Z"),
    ],
)
def test_when_a_period_starts_and_ends(per: Per, zone: str, hour: int, wall: str, start: str, end: str) -> None:
    found = period(per, at(wall), time_zone=zone, hour=hour)
    assert [rfc3339(moment) for moment in found if moment is not None] == [rfc3339(at(start)), rfc3339(at(end))]


@pytest.mark.parametrize("per", ["once", None])
def test_once_has_no_end(per: Per | None) -> None:
    assert period(per, at("2026-02-27T18:30Z")) == (0.0, None)


ZONES = [
    "UTC", "America/New_York", "America/Los_Angeles", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia",
    "Pacific/Chatham", "America/Santiago", "Africa/Casablanca",
]  # fmt: skip


@pytest.mark.property
@settings(deadline=None)
@given(
    per=st.sampled_from(["day", "month"]),
    wall=st.floats(0.0, 2e9, allow_nan=False),
    zone=st.sampled_from(ZONES),
    hour=st.integers(0, 23),
)
@example(per="day", wall=1325239200.0, zone="Pacific/Apia", hour=0)
def test_every_moment_is_in_one_period_and_the_next_begins_where_it_ends(per: Per, wall: float, zone: str, hour: int) -> None:
    start, end = period(per, wall, time_zone=zone, hour=hour)
    assert end is not None
    assert start <= wall < end
    assert period(per, start, time_zone=zone, hour=hour) == (start, end)
    assert period(per, end, time_zone=zone, hour=hour)[0] == end
    days = 1 if per == "day" else 31
    assert end - start <= days * 86_400 + 2 * 3600
    local = datetime.fromtimestamp(start, UTC).astimezone(ZoneInfo(zone))
    assert local.hour == hour or local.utcoffset() != datetime.fromtimestamp(start - 1, ZoneInfo(zone)).utcoffset()


def test_a_clock_that_goes_back_does_not_bring_an_old_period_back() -> None:
    account = Account("day", at("2026-02-27T23:59Z"))
    account.at(at("2026-02-28T00:00Z")).used = 7
    assert account.at(at("2026-02-27T23:59Z")).used == 7


def test_what_the_operator_lets_begin_anew_ends_when_it_would_have_ended() -> None:
    noon, end = at("2026-02-27T12:00Z"), at("2026-02-28T00:00Z")
    account = Account("day", noon)
    before = account.at(noon).take(5, LONG)
    account.begin_anew(noon)
    before.settle(5)
    tally = account.at(noon)
    assert (tally.start, tally.end, tally.used, tally.held, account.outstanding) == (noon, end, 0, 0, 0)
    assert account.at(end).start == end


def test_old_tallies_are_forgotten_with_their_last_hold() -> None:
    wall = at("2026-02-27T12:00Z")
    account = Account("day", wall)
    holds = [account.at(wall + day * 86_400).take(1, LONG) for day in range(5)]
    assert account.outstanding == 5
    for hold in holds[:4]:
        hold.release()
    account.sweep(0.0)
    assert (account.outstanding, len(account._old)) == (1, 0)


def test_a_hold_is_ended_once() -> None:
    tally = Tally(0.0, None)
    hold = tally.take(5, 100.0)
    assert tally.held == 5
    hold.release()
    hold.settle(5)
    assert (tally.used, tally.held) == (0, 0)
