"""Tables that are made line by line, and what one of a request shows."""

from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.terminal.marks import cell
from proxy.terminal.tables import request, requests, table

pytestmark = pytest.mark.unit


def test_figures_stand_to_the_right() -> None:
    made = table(None, "name", "count", numbers=("count",))
    made.add_row(cell("a"), cell(1))
    made.add_row(cell("b"), cell(1000))
    console = Console(width=80, no_color=True)
    with console.capture() as captured:
        console.print(made)
    assert [line.strip() for line in captured.get().split("\n") if line.strip()][-2:] == ["a          1", "b      1,000"]


def shown(made: Table | Text) -> list[list[str]]:
    """The cells of every line but the head."""
    assert isinstance(made, Table)
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


def lines(made: Table | Text, width: int) -> list[str]:
    console = Console(width=width, no_color=True)
    with console.capture() as captured:
        console.print(made)
    return [line for line in captured.get().split("\n") if line.strip()]


def listed(width: int, *, model: str = "demo", outcome: str = "client_gone") -> list[str]:
    facts = {"id": "01M7Y1P3AR2W1B99WFFZWV36EM", "time": "2026-11-21T03:16:33.123Z", "client": "search-agent", "model": model}
    answered = {"provider": "demo", "upstream_model": "chat", "outcome": outcome, "attempts": 3}
    figures = {"input_tokens": 1_200, "output_tokens": 48, "duration_ms": 1.2, "cost_usd": "0.001250"}
    return lines(requests([{**facts, **answered, **figures}], width), width)


def test_a_wide_terminal_shows_all_of_a_request() -> None:
    head, _, row = listed(160)
    assert head.split() == "id time client model answered by outcome tries in out ms cost".split()
    told = "01M7Y1P3AR2W1B99WFFZWV36EM 11-21 03:16:33 search-agent demo demo/chat client_gone 3 1,200 48 1.2 $0.001250"
    assert row.split() == told.split()


@pytest.mark.parametrize("width", [44, 60, 80, 100, 132])
@pytest.mark.parametrize("model", ["demo", "together/meta-llama/Llama-3.3-70B-Instruct-Turbo"])
def test_a_narrow_terminal_shows_fewer_columns_and_these_whole(width: int, model: str) -> None:
    head, *rows = listed(width, model=model)
    text = "".join(rows)
    assert max(map(len, (head, *rows))) <= width
    assert head.split()[0] == "id"
    assert "outcome" in head
    assert "01M7Y1P3AR2W1B99WFFZWV36EM" in text
    assert "client_gone" in text
    assert ("model" in head) is (width >= 80 or (width == 60 and model == "demo"))
    if width == 80:
        assert ("11-21 03:16:33" in text) is (model == "demo")


def test_what_is_running_has_no_cost_yet_and_what_has_no_price_says_so() -> None:
    facts = {
        "id": "R",
        "time": "2026-11-21T03:16:33.123Z",
        "client": None,
        "model": "m",
        "provider": None,
        "upstream_model": None,
    }
    figures = {"attempts": 1, "input_tokens": 0, "output_tokens": 0, "duration_ms": None, "cost_usd": None}
    rows = [{**facts, **figures, "outcome": outcome} for outcome in ("running", "ok")]
    assert [line[-1] for line in shown(requests(rows))] == ["–", "unpriced"]


@pytest.mark.parametrize("width", [60, 80, 160])
def test_attempts_can_be_read_in_a_narrow_terminal(width: int) -> None:
    failed = {**attempt(1, "demo/down", "failed", "overloaded"), "error": "The demo model `down` is down on purpose."}
    row = {"id": "R1", "cost_usd": "0", "trace": [], "attempt_list": [failed]}
    text = lines(request(row, width)[2], width)
    assert max(map(len, text)) <= width
    assert [word for word in ("demo/down", "failed") if word in text[3]] == ["demo/down", "failed"]
    assert "purpose." in " ".join(text)
    assert ("first token ms" in text[1]) is (width == 160)


def test_a_request_that_was_never_sent_has_no_attempts() -> None:
    assert str(request({"id": "R1", "cost_usd": "0"})[2]) == "attempts: none\n"
