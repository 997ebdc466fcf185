"""Nano-dollars: exact, integer, and back to the shortest decimal."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.money import NUSD_PER_USD, nusd_to_usd, usd_to_nusd

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("usd", "nusd"),
    [
        (0, 0),
        (1, NUSD_PER_USD),
        ("1.5", 1_500_000_000),
        ("0.000000001", 1),
        (Decimal("-2.25"), -2_250_000_000),
        ("0.0000000005", 0),  # half to even
        ("0.0000000015", 2),
        ("0.0000000025", 2),
        ("123456789.987654321", 123_456_789_987_654_321),
    ],
)
def test_dollars_become_whole_nano_dollars(usd: Decimal | int | str, nusd: int) -> None:
    assert usd_to_nusd(usd) == nusd


@pytest.mark.parametrize(
    ("nusd", "usd"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (1_500_000_000, "1.5"),
        (100 * NUSD_PER_USD, "100"),
        (-1, "-0.000000001"),
        (-10 * NUSD_PER_USD, "-10"),
    ],
)
def test_nano_dollars_become_the_shortest_exact_decimal(nusd: int, usd: str) -> None:
    assert nusd_to_usd(nusd) == usd


@settings(deadline=None)
@given(st.integers(-(10**24), 10**24))
def test_there_and_back_is_exact(nusd: int) -> None:
    text = nusd_to_usd(nusd)
    assert usd_to_nusd(text) == nusd
    assert "E" not in text
    assert not text.endswith(".")
