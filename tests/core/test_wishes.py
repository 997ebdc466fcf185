"""What callers wish in headers: every word of it, and what cannot be meant."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.errors import InvalidValue
from proxy.core.wishes import MAX_NAMES, NO_WISHES, WISH_HEADERS, Wishes, wishes_of

pytestmark = pytest.mark.unit


def header(name: str) -> bytes:
    return f"x-tollbridge-{name}".encode()


@pytest.mark.parametrize(
    ("name", "value", "wished"),
    [
        ("prefer", " groq ", {"prefer": "groq"}),
        ("prefer", "", {}),
        ("prefer", "ÿ", {"prefer": "ÿ"}),
        ("exclude", "openai, groq/llama-3,,", {"exclude": frozenset(("openai", "groq/llama-3"))}),
        ("require", "vision,region:eu", {"require": frozenset(("vision", "region:eu"))}),
        ("max-cost", "0.02", {"max_cost_nusd": 20_000_000}),
        ("max-cost", "$1", {"max_cost_nusd": 1_000_000_000}),
        ("max-cost", "0", {"max_cost_nusd": 0}),
        ("max-cost", "", {}),
        ("max-latency", "800ms", {"max_latency_s": 0.8}),
        ("max-latency", "1.5 s", {"max_latency_s": 1.5}),
        ("max-latency", "2m", {"max_latency_s": 120.0}),
        ("priority", "HIGH", {"priority": "high"}),
        ("cache", "refresh", {"cache": "refresh"}),
    ],
)
def test_what_is_said_is_what_is_wished(name: str, value: str, wished: dict[str, Any]) -> None:
    assert wishes_of({header(name): value.encode("latin-1"), b"host": b"x"}) == Wishes(**wished)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("max-cost", "cheap", "a number of USD, such as 0.02"),
        ("max-cost", "-1", "a number of USD"),
        ("max-cost", "nan", "a number of USD"),
        ("max-cost", "inf", "a number of USD"),
        ("max-cost", "1e7", "a number of USD"),
        ("max-latency", "800", "a time with its unit, such as 800ms or 2s"),
        ("max-latency", "-1s", "a time with its unit"),
        ("max-latency", "99999999s", "a time with its unit"),
        ("priority", "urgent", "one of low, normal, high"),
        ("cache", "yes", "one of on, off, refresh"),
        ("exclude", ",".join(f"p{n}" for n in range(MAX_NAMES + 1)), f"at most {MAX_NAMES} names"),
        ("require", ",".join(f"p{n}" for n in range(MAX_NAMES + 1)), f"at most {MAX_NAMES} names"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_the_name_of_its_header(name: str, value: str, wanted: str) -> None:
    with pytest.raises(InvalidValue) as raised:
        wishes_of({header(name): value.encode()})
    assert wanted in raised.value.message
    assert f"x-tollbridge-{name}" in raised.value.message


def test_a_request_without_wishes_has_the_one_that_is_none() -> None:
    assert wishes_of({b"x-tollbridge-task": b"index"}) is NO_WISHES
    assert not NO_WISHES.constrain
    assert [Wishes(prefer="a").constrain, Wishes(max_cost_nusd=0).constrain, Wishes(exclude=frozenset("a")).constrain] == [
        False,
        True,
        True,
    ]


@pytest.mark.property
@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(WISH_HEADERS)), st.binary(max_size=30) | st.decimals().map(lambda number: str(number).encode()))
def test_whatever_comes_is_read_or_refused(name: bytes, value: bytes) -> None:
    try:
        wishes = wishes_of({name: value})
    except InvalidValue:
        return
    assert wishes.max_cost_nusd is None or 0 <= wishes.max_cost_nusd <= Decimal(10**15)
    assert wishes.max_latency_s is None or wishes.max_latency_s >= 0
