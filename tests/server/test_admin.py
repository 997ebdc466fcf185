"""Times and limits as people write them."""

from datetime import UTC, datetime, timedelta

import pytest

from proxy.core.errors import InvalidValue
from proxy.server.admin import _limit, moment_ms

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        (None, None),
        ("", None),
        ("0", 0),
        ("1700000000", 1_700_000_000_000),
        ("1700000000000", 1_700_000_000_000),
        ("2026-11-21", 1_795_219_200_000),
        ("2026-11-21T00:00:00Z", 1_795_219_200_000),
        ("2026-11-21T01:00:00+01:00", 1_795_219_200_000),
        ("2026-11-21T01:00:00 01:00", 1_795_219_200_000),  # a plus that nobody escaped arrives as a blank
        ("2026-11-21 00:00:00", 1_795_219_200_000),
        ("2026-11-21T00:00:00.250Z", 1_795_219_200_250),
    ],
)
def test_a_moment_in_any_of_its_forms(text: str | None, ms: int | None) -> None:
    assert moment_ms(text, param="since") == ms


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("90s", timedelta(seconds=90)),
        ("5m", timedelta(minutes=5)),
        ("24h", timedelta(days=1)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_so_long_ago(text: str, ago: timedelta) -> None:
    found = moment_ms(text, param="since")
    assert found is not None
    expected = (datetime.now(UTC) - ago).timestamp() * 1000
    assert abs(found - expected) < 60_000


@pytest.mark.parametrize(
    "text",
    ["yesterday", "7 days", "-7d", "999999w", "1" * 16, "1" * 5000, "²", "2026-13-01", "2026-11-21T25:00", "'; DROP", "\x00"],
)
def test_what_is_no_moment_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        moment_ms(text, param="until")
    assert refused.value.param == "until"
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("text", "limit"), [(None, 100), ("", 100), ("1", 1), ("1000", 1000), ("1001", 1000), ("0", 1), ("-5", 1), ("9" * 100, 1000)]
)
def test_the_limit_is_clamped(text: str | None, limit: int) -> None:
    assert _limit(text) == limit


@pytest.mark.parametrize("text", ["ten", "1.5", "9" * 5000, " "])
def test_a_limit_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        _limit(text)
    assert refused.value.param == "limit"
