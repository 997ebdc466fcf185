"""What a value looks like in a table, and what a report shows."""

from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from proxy.terminal.tables import cell, money, request, table, usage

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        ("", "–"),
        (0, "0"),
        (1_234_567, "1,234,567"),
        (0.25, "0.2"),
        (99.94, "99.9"),
        (1234.5, "1,234"),
        (True, "yes"),
        (False, "no"),
        ("ok", "ok"),
        ("a\x1b[31m\nb\u202ec", "a [31m b c"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_cells(value: object, shown: str) -> None:
    assert cell(value).plain == shown


@pytest.mark.parametrize(
    ("usd", "shown"),
    [
        (None, "unpriced"),
        ("0", "$0"),
        ("0.00125", "$0.001250"),
        ("1234.5", "$1,234.500000"),
        ("0.000000042", "$0.000000042"),
    ],
)
def test_an_unknown_price_is_never_nothing_and_a_tiny_one_never_rounded_away(usd: str | None, shown: str) -> None:
    assert money(usd).plain == shown


def test_figures_stand_to_the_right() -> None:
    made = table(None, "name", "count", numbers=("count",))
    made.add_row(cell("a"), cell(1))
    made.add_row(cell("b"), cell(1000))
    console = Console(width=80, no_color=True)
    with console.capture() as captured:
        console.print(made)
    assert [line.strip() for line in captured.get().split("\n") if line.strip()][-2:] == ["a          1", "b      1,000"]


def shown(made: Table) -> list[list[str]]:
    """The cells of every line but the head."""
    columns = [[getattr(text, "plain", str(text)) for text in column.cells] for column in made.columns]
    return [list(line) for line in zip(*columns, strict=True)]


def attempt(n: int, target: str, outcome: str, error_class: str | None) -> dict[str, Any]:
    provider, _, model = target.partition("/")
    numbers = {"duration_ms": 1.5, "first_token_ms": None, "input_tokens": 0, "output_tokens": 0, "cost_usd": "0"}
    names = {"n": n, "provider": provider, "upstream_model": model, "outcome": outcome, "error_class": error_class}
    return {**names, **numbers, "error": None}


def test_a_request_shows_the_plan_and_beside_each_attempt_what_followed_from_it() -> None:
    row = {
        "id": "R1",
        "cost_usd": "0",
        "trace": [
            {"target": "groq/a", "skipped": "no key: set GROQ_API_KEY"},
            {"target": "demo/down", "kept": True},
            {"target": "demo/chat", "kept": True},
            {"attempt": 1, "target": "demo/down", "error": "overloaded", "ms": 0.4, "then": "retry"},
            {"attempt": 2, "target": "demo/down", "error": "overloaded", "ms": 0.4, "then": "next"},
        ],
        "attempt_list": [
            attempt(1, "demo/down", "failed", "overloaded"),
            attempt(2, "demo/down", "failed", "overloaded"),
            attempt(3, "demo/chat", "ok", None),
        ],
    }
    _, plan, attempts = request(row)
    assert shown(plan) == [["groq/a", "skipped: no key: set GROQ_API_KEY"], ["demo/down", "kept"], ["demo/chat", "kept"]]
    assert [line[:5] for line in shown(attempts)] == [
        ["1", "demo/down", "failed", "overloaded", "retry"],
        ["2", "demo/down", "failed", "overloaded", "next"],
        ["3", "demo/chat", "ok", "–", "–"],
    ]


def test_usage_counts_the_attempts_that_failed() -> None:
    figures = dict.fromkeys(
        ("requests", "failed", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "unpriced_attempts"), 0
    )
    rows = [
        {"provider": "groq", **figures, "attempts": 5, "attempts_ok": 2, "cost_usd": "0"},
        {"provider": "openai", **figures, "attempts": 4, "attempts_ok": 4, "cost_usd": "1.5"},
    ]
    made = usage(rows, ["provider"], "")
    place = [column.header for column in made.columns].index("failed attempts")
    assert [line[place] for line in shown(made)] == ["3", "0", "3"]
