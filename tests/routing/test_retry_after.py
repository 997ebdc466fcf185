from math import isfinite, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.retry_after import clamp_cooldown, exhausted_reset_s, is_nonsense, retry_after_s

WALL = 1_780_000_000.0  # 2026-05-28T20:26:40Z


@pytest.mark.unit
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "Thu, 28 May 2026 20:26:50 GMT"}, 10),
        ({"retry-after": "Thu, 28 May 2026 20:26:50 GMT", "date": "Thu, 28 May 2026 20:26:47 GMT"}, 3),
        ({"retry-after": "Thu, 28 May 2020 20:26:50 GMT"}, 0),
        ({"retry-after": "6m0s"}, 360),
        ({"retry-after": "1000000000"}, 1e9),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"x-ms-retry-after-ms": "20", "retry-after": "9"}, 0.02),
        ({"retry-after": "-5"}, 1),
        ({"retry-after": "nan"}, 1),
        ({"retry-after": "inf"}, 1),
        ({"retry-after": "1e999"}, 1),
        ({"retry-after": ""}, 1),
        ({"retry-after": "soon"}, 1),
        ({"retry-after-ms": "soon"}, 1),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1h2m"}, 3720),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "12"}, 12),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(WALL) + 9)}, 9),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str((int(WALL) + 9) * 1000)}, 9),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "6m0s"}, None),
        ({"x-ratelimit-reset-requests": "6m0s"}, None),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "2s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "3s",
            },
            3,
        ),
        ({"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": "2026-05-28T20:27:00Z"}, 20),
        ({"anthropic-ratelimit-tokens-remaining": "1", "anthropic-ratelimit-tokens-reset": "2026-05-28T20:27:00Z"}, None),
    ],
)
def test_every_form(headers: dict[str, str], seconds: float | None) -> None:
    found = retry_after_s([(name.encode(), value.encode()) for name, value in headers.items()], wall=WALL)
    assert found == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.unit
def test_googles_delay_in_the_body_comes_after_the_header() -> None:
    assert retry_after_s([], wall=WALL, body_delay="48s") == 48
    assert retry_after_s([], wall=WALL, body_delay="0.5s") == 0.5
    assert retry_after_s([(b"retry-after", b"3")], wall=WALL, body_delay="48s") == 3
    assert retry_after_s([], wall=WALL, body_delay="?") == 1


@pytest.mark.unit
def test_a_used_up_limit_on_a_good_answer_is_seen() -> None:
    headers = [(b"x-ratelimit-remaining-tokens", b"0"), (b"x-ratelimit-reset-tokens", b"7.66s")]
    assert exhausted_reset_s(headers, wall=WALL) == pytest.approx(7.66)
    assert exhausted_reset_s([(b"x-ratelimit-remaining-tokens", b"1"), headers[1]], wall=WALL) is None


@pytest.mark.unit
@pytest.mark.parametrize(("wait_s", "cooldown_s"), [(None, 1), (0, 0.25), (7, 7), (1e9, 300), (-1, 0.25), (nan, 1)])
def test_cooldowns_are_clamped(wait_s: float | None, cooldown_s: float) -> None:
    assert clamp_cooldown(wait_s) == cooldown_s


@pytest.mark.unit
@pytest.mark.parametrize(
    ("headers", "nonsense"),
    [
        ({}, False),
        ({"retry-after": "0"}, False),
        ({"retry-after": "7"}, False),
        ({"retry-after": "6m0s"}, False),
        ({"retry-after": "Thu, 28 May 2026 20:26:50 GMT"}, False),
        ({"retry-after": "86400"}, False),  # a quota of a day
        ({"retry-after": "86401"}, True),
        ({"retry-after": "1000000000"}, True),
        ({"retry-after": "-5"}, True),
        ({"retry-after": "nan"}, True),
        ({"retry-after": "soon"}, True),
        ({"retry-after": ""}, True),
        ({"retry-after-ms": "1500"}, False),
        ({"retry-after-ms": "86400000"}, False),
        ({"retry-after-ms": "86400001"}, True),
        ({"retry-after-ms": "6m0s"}, True),  # this spelling knows numbers only
        ({"x-ms-retry-after-ms": "soon"}, True),
        ({"x-ratelimit-reset": "soon"}, False),  # no word about when to come back
    ],
)
def test_what_makes_no_sense_is_noticed(headers: dict[str, str], nonsense: bool) -> None:
    assert is_nonsense([(name.encode(), value.encode()) for name, value in headers.items()]) is nonsense


_NAMES = st.sampled_from(
    """retry-after retry-after-ms x-ms-retry-after-ms date x-ratelimit-reset x-ratelimit-remaining x-ratelimit-reset-a
    x-ratelimit-remaining-a anthropic-ratelimit-a-reset anthropic-ratelimit-a-remaining""".split()
)
_VALUES = st.one_of(
    st.binary(max_size=70),
    st.floats().map(lambda number: str(number).encode()),
    st.integers().map(lambda number: str(number).encode()),
    st.datetimes().map(lambda moment: moment.isoformat().encode()),
    st.sampled_from([b"0", b"-1", b"9" * 400, b"9" * 60 + b"h", b"Thu, 28 May 0000 99:26:50 GMT", b"9999-12-31T23:59:59-23:59"]),
)


@pytest.mark.property
@given(st.lists(st.tuples(_NAMES.map(str.encode), _VALUES)), st.none() | st.text(max_size=70))
def test_nothing_raises_and_no_answer_is_negative(headers: list[tuple[bytes, bytes]], delay: str | None) -> None:
    assert is_nonsense(headers) in (True, False)
    for found in (retry_after_s(headers, wall=WALL, body_delay=delay), exhausted_reset_s(headers, wall=WALL)):
        assert found is None or (isfinite(found) and found >= 0)
        assert 0.25 <= clamp_cooldown(found) <= 300
