"""What providers say of their rate limits, as they say it."""

from typing import Any

import pytest

from proxy.routing.learned import LearnedLimit, learned_limits

pytestmark = pytest.mark.unit
WALL = 1_800_000_000.0  # 2027-01-15T08:00:00Z


def read(headers: dict[str, str]) -> list[LearnedLimit]:
    return learned_limits([(name.encode(), value.encode("latin-1")) for name, value in headers.items()], wall=WALL)


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        (  # OpenAI, Groq
            {
                "x-ratelimit-limit-requests": "14400", "x-ratelimit-remaining-requests": "14370", "x-ratelimit-reset-requests": "2m59.56s",
                "x-ratelimit-limit-tokens": "18000", "x-ratelimit-remaining-tokens": "17997", "x-ratelimit-reset-tokens": "7.66ms",
            },
            [("requests", 14_400, 14_370, 179.56), ("tokens", 18_000, 17_997, 0.00766)],
        ),
        (  # Anthropic: of three kinds of tokens the scarcest
            {
                "anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-requests-remaining": "49",
                "anthropic-ratelimit-requests-reset": "2027-01-15T08:00:01Z",
                "anthropic-ratelimit-tokens-limit": "100000", "anthropic-ratelimit-tokens-remaining": "90000",
                "anthropic-ratelimit-tokens-reset": "2027-01-15T08:00:06Z",
                "anthropic-ratelimit-output-tokens-limit": "8000", "anthropic-ratelimit-output-tokens-remaining": "2000",
                "anthropic-ratelimit-output-tokens-reset": "2027-01-15T08:00:45Z",
            },
            [("requests", 50, 49, 1.0), ("tokens", 8_000, 2_000, 45.0)],
        ),
        (  # Cerebras: a day's requests, a minute's tokens
            {
                "x-ratelimit-limit-requests-day": "1000000000", "x-ratelimit-remaining-requests-day": "999",
                "x-ratelimit-reset-requests-day": "33011.38", "x-ratelimit-limit-tokens-minute": "1000000",
                "x-ratelimit-remaining-tokens-minute": "999994", "x-ratelimit-reset-tokens-minute": "11.3",
            },
            [("requests", 1_000_000_000, 999, 33_011.38), ("tokens", 1_000_000, 999_994, 11.3)],
        ),
        (  # OpenRouter: milliseconds since 1970
            {"x-ratelimit-limit": "20", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1800000030000"},
            [("requests", 20, 0, 30.0)],
        ),
        # by the upstream's clock, which is ten seconds behind
        (
            {
                "date": "Fri, 15 Jan 2027 07:59:50 GMT",
                "x-ratelimit-limit": "20", "x-ratelimit-remaining": "5", "x-ratelimit-reset": "1800000000",
            },
            [("requests", 20, 5, 10.0)],
        ),
        # no reset is told, more is left than there is, a figure with a point
        ({"x-ratelimit-limit-tokens": "100.0", "x-ratelimit-remaining-tokens": "200"}, [("tokens", 100, 100, None)]),
        # nothing of use
        ({"x-ratelimit-limit-tokens": "100"}, []),
        ({"x-ratelimit-limit-tokens": "0", "x-ratelimit-remaining-tokens": "0"}, []),
        ({"x-ratelimit-limit-tokens": "-5", "x-ratelimit-remaining-tokens": "many"}, []),
        ({"x-ratelimit-limit-tokens": "9" * 30, "x-ratelimit-remaining-tokens": "1"}, []),
        ({"x-ratelimit-limit-tokens": "1\xb9", "x-ratelimit-remaining-tokens": "1"}, []),
        ({"content-type": "application/json"}, []),
    ],
)  # fmt: skip
def test_what_is_said_is_read(headers: dict[str, str], told: list[tuple[Any, ...]]) -> None:
    found = read(headers)
    assert [(one.unit, one.limit, one.remaining) for one in found] == [one[:3] for one in told]
    for one, (*_, resets_s) in zip(found, told, strict=True):
        assert one.resets_s == (None if resets_s is None else pytest.approx(resets_s))


def test_a_reset_that_makes_no_sense_is_a_second() -> None:
    assert read({"x-ratelimit-limit": "9", "x-ratelimit-remaining": "1", "x-ratelimit-reset": "soon"})[0].resets_s == 1.0
