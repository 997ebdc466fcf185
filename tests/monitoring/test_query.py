"""Which part of the ledger a report is about."""

from datetime import UTC, datetime

import pytest

from proxy.core.errors import InvalidValue
from proxy.monitoring.query import FILTERS, MAX_FILTER_CHARS, Query, moment_ms, read_query

pytestmark = pytest.mark.unit


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


NOW = at("2026-11-21T14:30:00Z") / 1000


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (None, None),
        ("", None),
        ("0", 0),
        ("1700000000", 1_700_000_000_000),
        ("1700000000000", 1_700_000_000_000),
        ("2026-11-21", at("2026-11-21T00:00:00Z")),
        ("2026-11-21T00:00:00Z", at("2026-11-21T00:00:00Z")),
        ("2026-11-21T01:00:00+01:00", at("2026-11-21T00:00:00Z")),
        ("2026-11-21T01:00:00 01:00", at("2026-11-21T00:00:00Z")),  # a plus that nobody escaped arrives as a blank
        ("2026-11-21 00:00:00", at("2026-11-21T00:00:00Z")),
        ("2026-11-21T00:00:00.250Z", at("2026-11-21T00:00:00.250Z")),
        ("1969-07-20", 0),
        ("90s", at("2026-11-21T14:28:30Z")),
        ("5m", at("2026-11-21T14:25:00Z")),
        ("24h", at("2026-11-20T14:30:00Z")),
        ("7d", at("2026-11-14T14:30:00Z")),
        ("2w", at("2026-11-07T14:30:00Z")),
    ],
)
def test_a_moment_in_any_of_its_forms(text: str | None, moment: int | None) -> None:
    assert moment_ms(text, NOW, param="since") == moment


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "7 days",
        "-7d",
        "999999w",
        "9" * 15,
        "1" * 16,
        "1" * 5000,
        "²",
        "2026-13-01",
        "2026-11-21T25:00",
        "'; DROP",
        "\x00",
    ],
)
def test_what_is_no_moment_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        moment_ms(text, NOW, param="until")
    assert (refused.value.param, refused.value.status) == ("until", 400)


@pytest.mark.parametrize(
    ("given", "since", "until"),
    [
        ({}, "2026-11-01T00:00:00Z", "2026-11-21T14:30:00Z"),
        ({"since": "", "until": ""}, "2026-11-01T00:00:00Z", "2026-11-21T14:30:00Z"),
        ({"since": "2026-11-20"}, "2026-11-20T00:00:00Z", "2026-11-21T14:30:00Z"),
        ({"until": "2026-10-05"}, "2026-10-01T00:00:00Z", "2026-10-05T00:00:00Z"),
        ({"time_zone": "Asia/Tokyo"}, "2026-10-31T15:00:00Z", "2026-11-21T14:30:00Z"),
        ({"since": "2026-11-20", "time_zone": "Asia/Tokyo"}, "2026-11-19T15:00:00Z", "2026-11-21T14:30:00Z"),
        ({"since": "2026-11-20T00:00:00Z", "time_zone": "Asia/Tokyo"}, "2026-11-20T00:00:00Z", "2026-11-21T14:30:00Z"),
        ({"since": "7d", "until": "1d"}, "2026-11-14T14:30:00Z", "2026-11-20T14:30:00Z"),
    ],
)
def test_the_period_is_this_month_unless_it_is_said(given: dict[str, str], since: str, until: str) -> None:
    query = read_query(given, NOW)
    assert (query.since_ms, query.until_ms) == (at(since), at(until))


def test_everything_begins_with_1970() -> None:
    assert read_query({}, NOW, everything=True).since_ms == 0


def test_filters_are_those_that_are_given() -> None:
    given = {name: f"a {name}" for name in FILTERS}
    assert read_query({**given, "nonsense": "x", "limit": "1"}, NOW).filters == given
    assert read_query({"department": "", "agent": "a"}, NOW).filters == {"agent": "a"}


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"since": "nonsense"}, "since"),
        ({"until": "nonsense"}, "until"),
        ({"since": "1d", "until": "2d"}, "since"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"time_zone": "../etc/passwd"}, "time_zone"),
        ({"time_zone": "\x00"}, "time_zone"),
        ({"model": "m" * (MAX_FILTER_CHARS + 1)}, "model"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(given: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        read_query(given, NOW)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("given", "since", "until"),
    [
        # of this month so far, as much of the last: whole hours, as the ledger sums
        ({}, "2026-10-01T00:00:00Z", "2026-10-21T15:00:00Z"),
        ({"time_zone": "Asia/Tokyo"}, "2026-09-30T15:00:00Z", "2026-10-21T15:00:00Z"),
        ({"since": "24h"}, "2026-11-19T13:00:00Z", "2026-11-20T14:00:00Z"),
        ({"since": "2026-11-20", "until": "2026-11-21"}, "2026-11-19T00:00:00Z", "2026-11-20T00:00:00Z"),
    ],
)
def test_what_a_period_is_compared_with(given: dict[str, str], since: str, until: str) -> None:
    before = read_query(given, NOW).before()
    assert (before.since_ms, before.until_ms) == (at(since), at(until))


def test_a_long_month_is_compared_with_the_whole_of_a_short_one() -> None:
    before = read_query({}, datetime(2026, 3, 31, 12, tzinfo=UTC).timestamp()).before()
    assert (before.since_ms, before.until_ms) == (at("2026-02-01T00:00:00Z"), at("2026-03-01T00:00:00Z"))


def test_a_narrower_query_keeps_the_rest() -> None:
    query = Query(since_ms=1, until_ms=2, time_zone="Asia/Tokyo", filters={"agent": "a", "model": "m"})
    assert query.narrowed(agent="b") == Query(
        since_ms=1, until_ms=2, time_zone="Asia/Tokyo", filters={"agent": "b", "model": "m"}
    )
