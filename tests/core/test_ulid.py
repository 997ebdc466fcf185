"""Identifiers sort by time and never go back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.ulid import UlidFactory

pytestmark = pytest.mark.unit
ALPHABET = frozenset("0123456789ABCDEFGHJKMNPQRSTVWXYZ")


def test_the_specs_example_time_is_encoded_as_the_spec_does() -> None:
    # 1469918176385 is the time of the specification's 01ARYZ6S41…
    assert UlidFactory(lambda: 1469918176.3851)()[:10] == "01ARYZ6S41"


@pytest.mark.parametrize(
    ("entropy", "text"),
    [(b"\0", "0" * 16), (b"\x1f", "Z" * 12 + "07RZ"), (b"\xff", "Z" * 12 + "1ZZZ"), (b"\x2a", "A" * 12 + "0AHA")],
)
def test_random_bytes_become_characters_of_the_alphabet(entropy: bytes, text: str) -> None:
    made = UlidFactory(lambda: 1.0, entropy=lambda n: entropy * n)()
    assert made[:10] == "0000000000"[:8] + "Z8"
    assert made[10:] == text


def test_a_millisecond_that_is_used_up_borrows_from_the_next() -> None:
    make = UlidFactory(lambda: 1.0, entropy=lambda n: b"\xff" * n)
    first = make()
    make._count = (1 << 20) - 2
    last, following = make(), make()
    assert last[:22] == first[:22]
    assert last < following
    assert following[:10] > last[:10]
    assert make() > following


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
