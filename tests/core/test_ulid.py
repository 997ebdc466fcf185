"""Identifiers sort by time and never go back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.ulid import UlidFactory, encode

pytestmark = pytest.mark.unit
ALPHABET = frozenset("0123456789ABCDEFGHJKMNPQRSTVWXYZ")


def test_the_specs_example_time_is_encoded_as_the_spec_does() -> None:
    # 1469918176385 is the time of the specification's 01ARYZ6S41…
    assert UlidFactory(lambda: 1469918176.3851)()[:10] == "01ARYZ6S41"


@pytest.mark.parametrize(("value", "text"), [(0, "0" * 26), (1, "0" * 25 + "1"), (2**128 - 1, "7" + "Z" * 25)])
def test_encoding_covers_all_128_bits(value: int, text: str) -> None:
    assert encode(value) == text


def test_within_a_millisecond_they_count_up() -> None:
    make = UlidFactory(lambda: 1.0, entropy=lambda n: b"\xff" * n)
    made = [make() for _ in range(1000)]
    assert made == sorted(set(made))
    assert {len(one) for one in made} == {26}


@settings(deadline=None)
@given(st.lists(st.floats(0, 4e9), min_size=2, max_size=50))
def test_they_never_go_back_even_when_the_clock_does(walls: list[float]) -> None:
    times = iter(walls)
    make = UlidFactory(lambda: next(times))
    made = [make() for _ in walls]
    assert made == sorted(set(made))
    assert all(set(one) <= ALPHABET for one in made)
