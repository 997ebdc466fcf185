"""The API's objects as sheets and lines: what is unknown stays unknown, and nothing is told that is not there."""

from typing import Any

import pytest

from proxy.terminal import reports
from proxy.terminal.sheet import written

pytestmark = pytest.mark.unit

ROW: dict[str, Any] = {
    "requests": 0, "ok": 0, "failed": 0, "interrupted": 0, "failed_over": 0, "attempts": 0, "attempts_ok": 0, "input_tokens": 0,
    "cached_input_tokens": 0, "output_tokens": 0, "reasoning_tokens": 0, "unpriced_attempts": 0, "cost_usd": "0", "success_rate": None,
    "cache_hits": 0, "mean_quality": None, "p50_ms": None, "p95_ms": None, "first_token_p95_ms": None,
}  # fmt: skip
MONTH = {"spent_usd": "12.3", "budget_usd": "100", "utilization": 0.123, "projection_usd": "31.2"}
QUOTA = {"provider": "groq", "key": None, "unit": "requests", "limit": 14_400, "used": 400, "remaining": 14_000, "utilization": 0.0278,
         "per": "day", "resets": "2026-11-22T00:00:00.000Z", "lasts_days": 720.0, "runs_out": None, "per_day": 20.0}  # fmt: skip
NOTHING: dict[str, Any] = {
    "health": {"overall": "unknown", "providers": []},
    "metrics": {"calls": 0, "today_usd": "0", "month": {**MONTH, "spent_usd": "0", "budget_usd": None, "projection_usd": None}},
    "budgets": {"data": []},
    "quotas": {"data": [], "chains": []},
    "alerts": {"data": [], "open": 0},
    "advice": {"data": []},
}


def text(*rows: dict[str, Any], groups: tuple[str, ...] = ("provider",)) -> list[str]:
    return written([reports.usage(list(rows), groups, "")], "txt", None).splitlines()


def test_success_of_all_counts_what_was_judged() -> None:
    """Requests that were refused, or whose caller left, are no failure."""
    rows = [
        {**ROW, "provider": "a", "requests": 10, "ok": 8, "failed": 1, "success_rate": 8 / 9},
        {**ROW, "provider": "b", "requests": 10, "ok": 9, "interrupted": 1, "success_rate": 0.9},
    ]
    assert text(*rows)[-1].split()[:4] == ["all", "20", "89.5", "%"]


def test_the_sum_says_nothing_of_times() -> None:
    rows = [{**ROW, "provider": name, "p95_ms": 900.0} for name in ("a", "b")]
    assert "900 ms" in text(*rows)[1]
    assert "ms" not in text(*rows)[-1]


def test_a_cost_that_nobody_knows_is_not_none() -> None:
    unknown = {**ROW, "provider": "a", "requests": 2, "unpriced_attempts": 2}
    partly = {**ROW, "provider": "b", "requests": 2, "unpriced_attempts": 1, "cost_usd": "0.25"}
    free = {**ROW, "provider": "c", "requests": 2}
    assert [line.split()[-1] for line in text(unknown, partly, free)[1:]] == ["unpriced", "$0.250000", "$0", "$0.250000"]
    assert text(unknown, free)[-1].split()[-1] == "unpriced"


def test_times_come_in_their_order_and_groups_of_one_time_as_they_were() -> None:
    days = [("2026-11-20", "b"), ("2026-11-19", "c"), ("2026-11-20", "a"), ("2026-11-19", None)]
    rows = [{**ROW, "day": day, "provider": provider} for day, provider in days]
    assert [line.split()[:2] for line in text(*rows, groups=("day", "provider"))[1:-1]] == [
        ["2026-11-19", "c"], ["2026-11-19", "–"], ["2026-11-20", "b"], ["2026-11-20", "a"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({}, "$12.30 of $100.00 (12.3 %), $31.20 by its end"),
        ({"budget_usd": None}, "$12.30, $31.20 by its end"),
        ({"projection_usd": None}, "$12.30 of $100.00 (12.3 %)"),
        ({"budget_usd": None, "projection_usd": None}, "$12.30"),
    ],
)
def test_the_month_in_a_line(changed: dict[str, Any], line: str) -> None:
    assert reports.month_line({**MONTH, **changed}) == line


@pytest.mark.parametrize(
    ("changed", "end"),
    [
        ({}, "never"),
        ({"runs_out": "2026-11-25T08:00:00.000Z"}, "2026-11-25 08:00"),
        ({"per_day": None, "lasts_days": None}, None),
    ],
)
def test_what_cannot_be_reckoned_is_not_never(changed: dict[str, Any], end: str | None) -> None:
    assert reports.runs_out({**QUOTA, **changed}) == end
    shown = written([reports.quotas({"data": [{**QUOTA, **changed}]})], "txt", None)
    assert (end or "–") in shown
    assert ("never" in shown) == (end == "never")


@pytest.mark.parametrize(
    ("row", "lasts"),
    [
        ({"chain": "a", "per_day": 10_000.0, "lasts_days": None, "runs_out": None}, "for ever"),
        ({"chain": "a", "per_day": 10_000.0, "lasts_days": 503.0, "runs_out": None}, "503 days"),
        ({"chain": "a", "per_day": None, "lasts_days": None, "runs_out": None}, None),
    ],
)
def test_a_chain_lasts_for_ever_only_where_that_is_known(row: dict[str, Any], lasts: str | None) -> None:
    (shown,) = reports.chains({"chains": [row]}).rows
    assert shown["lasts"] == lasts


def test_nothing_in_lines() -> None:
    assert reports.lines(NOTHING) == [("health", "unknown"), ("requests", "0"), ("today", "$0"), ("this month", "$0")]


def test_everything_in_lines() -> None:
    alert = {"severity": "error", "kind": "provider_down", "message": "groq is down.", "raised": "2026-11-21T14:30:00.000Z"}
    data = {
        **NOTHING,
        "health": {"overall": "degraded", "providers": [
            {"name": "openai", "state": "healthy", "reason": None}, {"name": "groq", "state": "down", "reason": "no answer"},
        ]},
        "quotas": {"data": [QUOTA, {**QUOTA, "provider": "x", "per_day": None}], "chains": []},
        "budgets": {"data": [{"scope": "total", "name": None, "spent_usd": "1", "limit_usd": "2", "utilization": 0.5,
                              "projection_usd": None}]},
        "alerts": {"data": [{**alert, "state": "open"}, {**alert, "state": "resolved"}], "open": 1},
        "advice": {"data": [{"title": "idle was not called"}]},
    }  # fmt: skip
    assert reports.lines(data) == [
        ("health", "degraded: 1 healthy, 1 down"),
        ("groq", "down: no answer"),
        ("requests", "0"),
        ("today", "$0"),
        ("this month", "$0"),
        ("budget of everything", "$1.00 of $2.00 (50.0 %)"),
        ("quota of groq", "14,000 of 14,400 requests left, runs out never"),
        ("quota of x", "14,000 of 14,400 requests left"),
        ("error, provider_down", "groq is down. (since 2026-11-21 14:30 UTC)"),
        ("advice", "idle was not called"),
    ]


def test_a_card_without_a_reason_shows_its_note() -> None:
    card = {"name": "bedrock", "state": "unknown", "reason": None, "note": "only traffic tells", "checked": None}
    (row,) = reports.health({"overall": "unknown", "health_percentage": None, "providers": [card]}).rows
    assert row["reason"] == "only traffic tells"
