"""Histograms that are text: they add up by being put together, and their percentiles are near enough."""

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.storage.histogram import BINS, BOUNDS_MS, counted, histogram, percentiles, shorten

pytestmark = pytest.mark.property

DURATIONS = st.lists(st.floats(0.6, 1_200_000), min_size=1, max_size=300)
SHARES = (0.5, 0.95, 0.99)


@settings(deadline=None)
@given(DURATIONS)
def test_a_percentile_is_within_a_tenth_of_the_true_one(durations: list[float]) -> None:
    ordered = sorted(durations)
    for text in (histogram(durations), shorten(histogram(durations))):
        for share, told in zip(SHARES, percentiles(text, SHARES), strict=True):
            assert told == pytest.approx(ordered[ceil(share * len(ordered) - 1e-9) - 1], rel=0.1)


@settings(deadline=None)
@given(st.lists(DURATIONS, max_size=5))
def test_put_together_they_are_the_sum_however_often_they_are_shortened(parts: list[list[float]]) -> None:
    whole = histogram([duration for part in parts for duration in part])
    assert counted("".join([shorten(histogram(part)) for part in parts])) == counted(whole)
    text = ""
    for part in parts:
        text = shorten(text + histogram(part))
    assert counted(text) == counted(whole)
    assert len(text) <= 3 * len(counted(whole))


@settings(deadline=None)
@given(DURATIONS, DURATIONS)
def test_what_is_taken_off_again_does_not_count(some: list[float], others: list[float]) -> None:
    text = histogram(some) + shorten(histogram(others))
    assert percentiles(text, SHARES, histogram(others)) == percentiles(histogram(some), SHARES)


@pytest.mark.parametrize(
    ("duration_ms", "number"),
    [(0.0, 0), (0.499, 0), (0.5, 1), (BOUNDS_MS[1], 2), (BOUNDS_MS[-1], BINS - 1), (1e12, BINS - 1)],
)
def test_bins_begin_with_their_bound(duration_ms: float, number: int) -> None:
    assert counted(histogram([duration_ms])) == {number: 1}


@pytest.mark.parametrize("count", [1, 15, 16, 255, 256, 1_000_000, 1 << 30])
def test_many_take_few_characters(count: int) -> None:
    text = shorten(histogram([100.0]))
    while counted(text)[next(iter(counted(text)))] * 2 <= count:
        text = shorten(text + text)
    assert len(text) <= 8
    assert percentiles(text, SHARES) == percentiles(histogram([100.0]), SHARES)


def test_of_nothing_there_is_no_percentile() -> None:
    assert percentiles("", SHARES) == [None, None, None]
    assert percentiles(" ", SHARES, " ") == [None, None, None]
