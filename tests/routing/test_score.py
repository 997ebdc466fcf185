"""The parts of a score by their formulas, and the example of the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.accounting.budgets import EXPECTED_OUTPUT_TOKENS
from proxy.accounting.usage import BYTES_PER_TOKEN
from proxy.core.money import nusd_to_usd
from proxy.core.target import Weights
from proxy.routing.choice import INPUTS, Option
from proxy.routing.chosen import MAX_COMPARED
from proxy.routing.score import COST_SLACK_NUSD, GOOD_BEFORE, SHIFTS, TIME_SLACK_MS, Score, scores, shifted
from proxy.routing.speed import expected_ms
from proxy.routing.standing import LEAST_SAMPLES, RECENT_S, SAMPLES
from proxy.routing.strategy import EXPLORED_SHARE

pytestmark = pytest.mark.unit


def one(**known: object) -> Option:
    return Option("x", **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "part", "value"),
    [
        (one(), "capability", 0.5),
        (one(quality=0.8), "capability", 0.8),
        (one(quality=0.8, sure=0.5), "capability", 0.4),
        (one(), "cost", 0.0),
        (one(expected_cost_nusd=0), "cost", 1.0),
        (one(), "performance", 0.5),
        (one(first_token_ms=0.0), "performance", 1.0),
        (one(), "availability", 1.0),
        (one(ok=0, ended=1), "availability", 0.667),
        (one(ok=8, ended=18), "availability", 0.5),
        (one(ok=0, ended=98), "availability", 0.02),
    ],
)
def test_a_part_alone(option: Option, part: str, value: float) -> None:
    (found,) = scores([option], Weights(), 100)
    assert getattr(found, part) == value


def test_cost_and_performance_are_measured_by_the_best() -> None:
    cheap, dear, free = one(expected_cost_nusd=900_000), one(expected_cost_nusd=1_900_000), one(expected_cost_nusd=0)
    assert [score.cost for score in scores([cheap, dear], Weights(), 0)] == [1.0, 0.5]
    assert [score.cost for score in scores([cheap, dear, free], Weights(), 0)] == [0.1, 0.05, 1.0]
    quick, slow = one(first_token_ms=250.0, tokens_per_s=100.0), one(first_token_ms=550.0, tokens_per_s=100.0)
    assert [score.performance for score in scores([quick, slow], Weights(), 0)] == [1.0, 0.5]
    assert [score.performance for score in scores([quick, slow], Weights(), 100)] == [1.0, 0.812]


def test_the_total_is_the_parts_weighed_whatever_the_weights_add_up_to() -> None:
    option = one(quality=0.6, expected_cost_nusd=5, ok=0, ended=2)
    assert scores([option], Weights(30, 25, 25, 20), 0) == [Score(65.5, 0.6, 1.0, 0.5, 0.5)]
    assert scores([option], Weights(3, 2.5, 2.5, 2), 0) == [Score(65.5, 0.6, 1.0, 0.5, 0.5)]
    assert scores([option], Weights(0, 0, 1, 0), 0)[0].total == 50.0
    assert scores([option], Weights(0, 0, 0, 0), 0)[0].total == 0.0


def test_a_priority_shifts_the_weights() -> None:
    assert {name: shifted(Weights(), name) for name in SHIFTS} == {
        "low": Weights(30, 50, 12.5, 20),
        "normal": Weights(),
        "high": Weights(30, 12.5, 50, 20),
    }


# -- docs/routing.md

PAGE = (Path(__file__).parents[2] / "docs/routing.md").read_text(encoding="utf-8")
EXAMPLE = [
    Option(
        "openai/gpt-5", 0, quality=0.95, expected_cost_nusd=6_250_000, first_token_ms=900.0, tokens_per_s=80.0, ok=60, ended=60
    ),
    Option(
        "groq/llama-3.3-70b-versatile",
        1,
        quality=0.7,
        expected_cost_nusd=985_000,
        first_token_ms=200.0,
        tokens_per_s=280.0,
        ok=18,
        ended=22,
    ),
    Option("my-vllm/qwen3", 2, quality=0.6, expected_cost_nusd=500_000, first_token_ms=300.0),
]


def test_the_example_of_the_page_is_what_comes_out() -> None:
    by_priority = {name: scores(EXAMPLE, shifted(Weights(), name), 500) for name in SHIFTS}
    for n, option in enumerate(EXAMPLE):
        score = by_priority["normal"][n]
        parts = " | ".join(str(part) for part in score[1:])
        assert (
            f"| `{option.name}` | {parts} | {score.total} | {by_priority['low'][n].total} | {by_priority['high'][n].total} |"
            in PAGE
        )
        assert option.expected_cost_nusd is not None
        assert f"| ${nusd_to_usd(option.expected_cost_nusd)} |" in PAGE
    assert [f"{ms:,}".removesuffix(".0") in PAGE for ms in expected_ms(EXAMPLE, 500) if ms is not None] == [True] * 3


def test_the_page_has_the_weights_and_what_shifts_them() -> None:
    weights = Weights()
    for name in ("capability", "cost", "performance", "availability"):
        assert f"| {name} | {getattr(weights, name):.0f} |" in PAGE
    for priority, (cost, performance) in SHIFTS.items():
        assert f"| `{priority}` | 1 | {cost:g} | {performance:g} | 1 |" in PAGE


def test_the_page_knows_every_strategy_and_what_it_looks_at() -> None:
    trace = PAGE.partition("## The trace of a choice")[2]
    for strategy, inputs in INPUTS.items():
        assert f"| `{strategy}` |" in PAGE
        assert all(f"`{name.replace('nusd', 'usd')}`" in trace for name in inputs)


def test_the_figures_of_the_page_are_those_of_the_code() -> None:
    for figure in (
        f"at most {SAMPLES} streams of the last ten minutes, once there are five",
        f"no more than the first {MAX_COMPARED}",
        f"the answer is taken to be {EXPECTED_OUTPUT_TOKENS:,} tokens",
        "four bytes are a token",
        f"+ {GOOD_BEFORE}) / (*all* + {GOOD_BEFORE})",
        f"+ ${nusd_to_usd(COST_SLACK_NUSD)})",
        f"+ {TIME_SLACK_MS:.0f} ms)",
        "for **one request in\nten**",
    ):
        assert figure in PAGE
    assert (RECENT_S, LEAST_SAMPLES, EXPLORED_SHARE, BYTES_PER_TOKEN) == (600.0, 5, 0.1, 4)
