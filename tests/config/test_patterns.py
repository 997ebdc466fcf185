"""Which names fit a pattern, and what its first `*` stands for."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.patterns import best_match, matched_part


@pytest.mark.unit
@pytest.mark.parametrize(
    ("pattern", "name", "part"),
    [
        ("gpt-4o", "gpt-4o", ""),
        ("gpt-4o", "gpt-4o-mini", None),
        ("claude-*", "claude-opus-5", "opus-5"),
        ("claude-*", "claude-", ""),
        ("claude-*", "claude", None),
        ("*-mini", "gpt-5-mini", "gpt-5"),
        ("a*a", "a", None),
        ("*claude-*", "us.anthropic.claude-sonnet", "us.anthropic."),
        ("*-*", "a-b-c", "a-b"),
        ("a.*", "a+b", None),
        ("*", "two\nlines", "two\nlines"),
    ],
)
def test_a_star_stands_for_as_much_as_it_can(pattern: str, name: str, part: str | None) -> None:
    assert matched_part(pattern, name) == part


@pytest.mark.property
@given(st.text("ab*", max_size=7), st.text("ab\n", max_size=9))
def test_a_pattern_is_what_the_greedy_expression_is(pattern: str, name: str) -> None:
    found = re.fullmatch("(.*)".join(map(re.escape, pattern.split("*"))), name, re.DOTALL)
    assert matched_part(pattern, name) == (None if found is None else found[1] if "*" in pattern else "")


@pytest.mark.unit
def test_the_longest_literal_part_wins_and_an_exact_name_before_it() -> None:
    patterns = {"*": 1, "gpt-*": 2, "gpt-5*": 3, "gpt-5": 4}
    assert [best_match(patterns, name) for name in ("gpt-5", "gpt-5-mini", "gpt-4o", "o3")] == [4, 3, 2, 1]
    assert best_match({"gpt-*": 2}, "o3") is None
