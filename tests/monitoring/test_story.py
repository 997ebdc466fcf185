"""A request in plain words: everything that the trace and the attempts say is told, and nothing that they do not."""

from typing import Any

import pytest

from proxy.monitoring.story import plan_told, story_told, targets_told

pytestmark = pytest.mark.unit

REQUEST: dict[str, Any] = {
    "id": "R1", "time": "2026-11-21T15:40:09.101Z", "client": "search-agent", "department": "research", "agent": None, "task": None,
    "model": "smart", "chain": "smart", "provider": "openai", "upstream_model": "gpt-4o", "stream": False, "outcome": "ok",
    "http_status": 200, "attempts": 1, "cost_usd": "0.00772", "first_token_ms": 372.8, "duration_ms": 1372.8, "config": "4f0182a2b335",
    "finish_reason": "stop", "cache": None, "saved_usd": None, "quality": None, "hedged": False, "continued": [], "task_id": None,
    "error_code": None, "overhead_ms": 0.417, "unpriced_attempts": 0, "dropped": [], "answered": 1, "asked": None, "cached": None,
    "attempt_list": [], "trace": [],
}  # fmt: skip
KEPT: list[dict[str, Any]] = [{"target": "groq/llama", "kept": True}, {"target": "openai/gpt-4o", "kept": True}]


def attempt(n: int, target: str, **changes: Any) -> dict[str, Any]:
    provider, _, model = target.partition("/")
    usual = {
        "n": n, "provider": provider, "upstream_model": model, "outcome": "ok", "http_status": 200, "error_class": None, "error": None,
        "first_token_ms": 310.0, "duration_ms": 800.0, "input_tokens": 1840, "output_tokens": 312, "usage_source": "provider",
        "at_risk_tokens": 0, "cost_usd": "0.00772",
    }  # fmt: skip
    return {**usual, **changes}


def failed(n: int, target: str, error_class: str = "overloaded", **changes: Any) -> dict[str, Any]:
    nothing = {
        "http_status": 503,
        "error": "Busy",
        "usage_source": None,
        "cost_usd": "0",
        "first_token_ms": None,
        "duration_ms": 4.5,
    }
    return attempt(n, target, outcome="failed", error_class=error_class, **{**nothing, **changes})


def story(**changes: Any) -> list[str]:
    return story_told({**REQUEST, **changes})


def test_a_failover() -> None:
    note = {"attempt": 1, "target": "groq/llama", "error": "overloaded", "ms": 4.5, "then": "next"}
    assert story(trace=[*KEPT, note], attempts=2, attempt_list=[failed(1, "groq/llama"), attempt(2, "openai/gpt-4o")]) == [
        (
            "2026-11-21 15:40:09 UTC: search-agent (department research) asked for smart, chain smart, answered whole. "
            "(Configuration 4f0182a2b335.)"
        ),
        "  1. groq/llama",
        "  2. openai/gpt-4o",
        "Attempt 1, groq/llama failed after 4.5 ms: overloaded, HTTP 503 (Busy); the next target was asked.",
        "Attempt 2, openai/gpt-4o answered after 800 ms (first content after 310 ms): 1,840 tokens in, 312 out, for $0.00772.",
        "It was answered by openai/gpt-4o, HTTP 200, after 1.37 s, of which the proxy itself took 0.4 ms. It cost $0.00772.",
    ]


BY: dict[str, tuple[dict[str, Any], str]] = {
    "score": (
        {"total": 71.3, "capability": 0.8, "cost": 0.9, "performance": 0.5, "availability": 1.0, "expected_cost_usd": "0.0004",
         "first_token_ms": 310.0, "source": "recent", "sure": 1.0, "quality": 0.8, "tokens_per_s": 60.0, "ok": 0, "ended": 0},
        ("71.3 of 100 (capability 0.8, cost 0.9, performance 0.5, availability 1); expected to cost $0.0004; "
         "first content after 310 ms as lately measured"),
    ),
    "cheapest": ({"expected_cost_usd": None}, "no price known"),
    "weighted": ({"weight": 2.0, "draw": 0.5, "after": 0.346574}, "weight 2, drew 0.347"),
    "sticky": ({"weight": 0.0, "draw": 0.5, "after": None}, "weight 0, drew never"),
    "least_busy": ({"busy": 0.5, "in_flight": 4, "limit": 8}, "4 of 8 in flight"),
    "fastest": (
        {"expected_ms": None, "explored": True, "first_token_ms": None, "source": None, "tokens_per_s": None},
        "nobody knows how fast, tried to find out",
    ),
    "round_robin": ({}, "in its turn"),
}  # fmt: skip


@pytest.mark.parametrize("strategy", BY)
def test_what_each_strategy_went_by(strategy: str) -> None:
    figures, words = BY[strategy]
    trace = [{"target": "groq/llama", "kept": True, "by": {"strategy": strategy, "place": 0, **figures}}]
    assert targets_told(trace, {"turn": 0}, ()) == [f"  1. groq/llama: {words}"]


def test_the_targets_stand_in_the_order_that_their_figures_lead_to_and_those_left_out_behind() -> None:
    def line(target: str, place: int, cost: str) -> dict[str, Any]:
        return {"target": target, "kept": True, "by": {"strategy": "cheapest", "place": place, "expected_cost_usd": cost}}

    trace = [{"target": "groq/llama", "skipped": "circuit open"}, line("openai/gpt-4o", 1, "0.5"), line("demo/chat", 2, "0.1")]
    assert [text.split(":")[0] for text in targets_told(trace, {"seed": 1}, ())] == [
        "  1. demo/chat",
        "  2. openai/gpt-4o",
        "  - groq/llama",
    ]


def test_what_was_asked_and_wished() -> None:
    wishes = {"prefer": "groq", "exclude": ["a", "b"], "max_cost_usd": "0.02", "max_latency_s": 0.8, "priority": "high"}
    lines = story(asked={"needs": ["tools", "vision"], "wishes": wishes, "tokens": 1200, "output": 256})
    assert lines[1:4] == [
        "Reckoned with about 1,200 tokens in and 256 out.",
        "It needs tools and vision.",
        (
            "It wishes to be answered by groq first, without a and b, for at most $0.02, with first content within 0.8 s and "
            "with high priority."
        ),
    ]


def test_a_hedge() -> None:
    trace = [
        *KEPT,
        {"attempt": 2, "target": "openai/gpt-4o", "hedge": True, "after_ms": 812.0, "then": "race"},
        {"attempt": 1, "target": "groq/llama", "error": "hedged_out", "ms": 900.0, "then": "stop"},
    ]
    lost = failed(1, "groq/llama", "hedged_out", http_status=None, error=None, at_risk_tokens=900)
    lines = story(trace=trace, attempts=2, hedged=True, answered=2, attempt_list=[lost, attempt(2, "openai/gpt-4o")])
    assert "failed after 4.5 ms: hedged_out; 900 tokens sent, and nobody knows whether they are billed" in lines[3]
    assert lines[3].endswith("; the other attempt had answered first.")
    assert lines[4].startswith("Attempt 2, openai/gpt-4o, asked as well when the first had said nothing for 812 ms, answered")


def test_a_poor_answer() -> None:
    trace = [
        *KEPT,
        {"attempt": 1, "target": "groq/llama", "quality": 0.41, "parts": {"relevance": 0.2, "total": 0.41}, "then": "next"},
        {"attempt": 2, "target": "openai/gpt-4o", "quality": 0.3, "parts": {}, "then": "earlier"},
    ]
    lines = story(trace=trace, attempts=2, quality=0.41, attempt_list=[attempt(1, "groq/llama"), attempt(2, "openai/gpt-4o")])
    assert lines[3].endswith("; it measured 0.41 (relevance 0.2), and the next target was asked.")
    assert lines[4].endswith("; it measured 0.3, and the earlier one was better and was given.")
    assert lines[-1].endswith(" Its quality measured 0.41.")


def test_a_stream_that_another_went_on_with_and_one_that_nobody_could() -> None:
    note = {"attempt": 1, "target": "groq/llama", "error": "reset", "ms": 900.0, "then": "continue"}
    tried = [failed(1, "groq/llama", "reset"), attempt(2, "openai/gpt-4o")]
    lines = story(trace=[*KEPT, note], stream=True, attempts=2, continued=[1], attempt_list=tried)
    assert lines[3].startswith("Attempt 1, groq/llama, broke off, failed")
    assert lines[3].endswith("the next target went on with what had been told.")
    cut = {**note, "then": "stop", "not_continued": "tool calls"}
    lines = story(
        trace=[*KEPT, cut], stream=True, outcome="failed", answered=None, error_code="stream_interrupted", attempt_list=tried[:1]
    )
    assert lines[3].endswith("that ended it, and nobody went on with it: tool calls.")
    assert lines[-1].startswith("It failed with stream_interrupted, HTTP 200")


def test_an_answer_from_the_cache() -> None:
    cached = {"of": "R0", "provider": "openai", "model": "gpt-4o"}
    lines = story(cache="hit", cached=cached, saved_usd="0.00123", answered=None, attempts=0, cost_usd="0")
    assert lines[-2:] == [
        "It was answered from the cache, with what openai/gpt-4o had answered to request R0; that saved $0.00123.",
        "It was answered, HTTP 200, after 1.37 s, of which the proxy itself took 0.4 ms. It cost $0.",
    ]
    assert "nobody knows what that saved" in story(cache="hit", cached=None)[-2]


ENDS: dict[str, tuple[dict[str, Any], str]] = {
    "refused": (
        {"outcome": "rejected", "error_code": "budget_exceeded", "http_status": 429},
        "It was refused with budget_exceeded, HTTP 429",
    ),
    "left": ({"outcome": "client_gone", "http_status": 499}, "Its caller left, HTTP 499"),
    "cut": ({"outcome": "interrupted", "http_status": None}, "It was cut off, for the proxy stopped or died, after 1.37 s"),
    "runs": ({"outcome": "running"}, "It runs still."),
    "unpriced": ({"cost_usd": None}, "Nobody knows what it cost."),
    "dropped": ({"dropped": ["seed", "top_k"]}, "Parameters that were dropped: seed and top_k."),
    "of a later release": ({"outcome": "parked", "answered": None}, "It ended as parked"),
}


@pytest.mark.parametrize("name", ENDS)
def test_how_it_ended(name: str) -> None:
    changes, words = ENDS[name]
    assert words in story(**{"answered": None, **changes})[-1]


def test_a_target_that_was_passed_over_when_its_turn_came() -> None:
    late = {"target": "groq/llama", "skipped": "no permit: circuit or capacity"}
    lines = story(trace=[*KEPT, late], attempt_list=[attempt(1, "openai/gpt-4o")])
    assert "groq/llama was passed over when its turn came: no permit: circuit or capacity." in lines
    assert sum("left out" in line for line in lines) == 0


def test_a_plan_that_leads_nowhere() -> None:
    plan = {
        "model": "smart", "chain": "smart", "strategy": "order", "config": "4f0182a2b335", "order": [], "refused": None, "wait_s": 7.0,
        "input_tokens": 16, "output_tokens": 1024, "asked": None, "trace": [{"target": "groq/llama", "skipped": "cooling down 7 s"}],
        "targets": [], "options": {"cache_ttl_s": None, "quality_min": None, "hedged": False, "on_break": None},
    }  # fmt: skip
    assert plan_told(plan)[-1] == "No target may be tried at this moment: the first may be in 7 s."
    assert plan_told({**plan, "wait_s": None})[-1].endswith("none ever may, as the configuration stands.")
    assert plan_told({**plan, "refused": "lacks tools"})[-1] == "It would be refused: lacks tools."
