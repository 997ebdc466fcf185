"""Tables that are made line by line, and what one of a request shows."""

from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from proxy.terminal.marks import cell
from proxy.terminal.tables import request, table

pytestmark = pytest.mark.unit


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


def test_a_choice_shows_what_it_was_made_from_and_a_measured_answer_what_it_measured() -> None:
    row = {
        "id": "R1",
        "cost_usd": "0.002",
        "asked": {"tokens": 12},
        "quality": 0.8,
        "continued": [],
        "trace": [
            {"target": "groq/a", "kept": True, "by": {"strategy": "cheapest", "place": 1, "expected_cost_usd": "0.0001"}},
            {"target": "demo/chat", "skipped": "lacks region:eu"},
            {"attempt": 1, "target": "groq/a", "quality": 0.31, "parts": {}, "then": "next"},
        ],
        "attempt_list": [attempt(1, "groq/a", "ok", None)],
    }
    facts, plan, attempts = request(row)
    assert [line[0] for line in shown(facts)] == ["quality", "dropped", "cost"]
    assert shown(plan) == [
        ["groq/a", "kept", "strategy cheapest, expected cost usd 0.0001"],
        ["demo/chat", "skipped: lacks region:eu", "–"],
    ]
    assert shown(attempts)[0][4] == "measured 0.31, next"
