"""Reports, figure by figure, against a ledger of a few calls."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest

from proxy.accounting.states import BudgetState, QuotaState, RateState
from proxy.config.load import load
from proxy.config.settings import Settings
from proxy.core.errors import InvalidValue
from proxy.core.money import usd_to_nusd
from proxy.core.target import Target
from proxy.monitoring import reports
from proxy.monitoring.checker import NO_UPTIME
from proxy.monitoring.health import ProviderHealth, State
from proxy.monitoring.outlook import month_end, read_pace, read_rates
from proxy.monitoring.picture import Picture
from proxy.monitoring.query import Query, read_query
from proxy.monitoring.sums import Remembered
from tests.monitoring.ledger import Call, FakeLedger

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

WALL = datetime(2026, 11, 21, 14, 30, tzinfo=UTC).timestamp()
FILE = """
providers:
  acme: {dialect: openai, base_url: "http://127.0.0.1:1/v1", api_key: k-acme-fake}
  beta: {dialect: openai, base_url: "http://127.0.0.1:1/v1", api_key: k-beta-fake}
  idle: {dialect: openai, base_url: "http://127.0.0.1:1/v1", api_key: "${MISSING}"}
chains:
  smart: [acme/large, beta/large]
  other: [beta/large, acme/large]
  "claude-*": [acme/claude-*]
"""
USD = 1_000_000_000


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "providers.yaml"
    path.write_text(FILE, encoding="utf-8")
    return load(path, environ={})


def card(name: str, state: State, *, checked: str | None = "2026-11-21T14:29:00.000Z", **more: Any) -> ProviderHealth:
    roles = more.pop("roles", ())
    return ProviderHealth(
        name=name,
        state=state,
        reason=more.pop("reason", None),
        dialect="openai",
        keys=1,
        checked=checked,
        rate_limit={},
        uptime=NO_UPTIME,
        roles=roles,
        **more,
    )


def cards(*states: State) -> list[ProviderHealth]:
    return [card(f"p{number}", state) for number, state in enumerate(states)]


def picture(settings: Settings, **more: Any) -> Picture:
    return Picture(wall=WALL, settings=settings, live=True, **more)


def this_month(**given: str) -> Query:
    return read_query(given, WALL)


def budget(
    scope: Literal["total", "provider", "client", "department", "agent"],
    name: str | None,
    limit: int,
    spent: float,
    *,
    per: Literal["day", "month", "once"] = "month",
    held: float = 0,
) -> BudgetState:
    ends = {"day": datetime(2026, 11, 22, tzinfo=UTC), "month": datetime(2026, 12, 1, tzinfo=UTC)}
    resets = ends[per].timestamp() if per in ends else None
    return BudgetState(scope, name, limit * USD, int(spent * USD), int(held * USD), per, True, 0.0, resets)


def alert(number: int, *, kind: str = "budget", state: str = "open", raised: str = "2026-11-21T10:00:00.000Z") -> dict[str, Any]:
    return {"id": f"A{number}", "kind": kind, "state": state, "raised": raised}


def no_price(target: Target) -> None:
    return None


# -- health


@pytest.mark.parametrize(
    ("states", "overall", "percentage"),
    [
        ((), "unknown", None),
        (("unknown", "disabled"), "unknown", None),
        (("healthy", "unknown", "disabled"), "healthy", 100.0),
        (("healthy", "down"), "degraded", 50.0),
        (("healthy", "degraded", "down"), "degraded", 33.3),
        (("degraded", "degraded"), "degraded", 0.0),
        (("down", "down"), "down", 0.0),
    ],
)
def test_the_whole_is_what_its_parts_agree_on(
    settings: Settings, states: tuple[State, ...], overall: str, percentage: float | None
) -> None:
    found = reports.health_check(picture(settings, cards=cards(*states)))
    assert (found["overall"], found["health_percentage"]) == (overall, percentage)
    assert [entry["name"] for entry in found["providers"]] == [f"p{n}" for n in range(len(states))]


def test_the_check_of_some_is_of_these_only(settings: Settings) -> None:
    shown = picture(settings, cards=[card("a", "healthy", checked="2026-01-01T00:00:00.000Z"), card("b", "down")])
    found = reports.health_check(shown, ["a"])
    assert (found["overall"], found["checked"], len(found["providers"])) == ("healthy", "2026-01-01T00:00:00.000Z", 1)


def test_the_status_names_those_that_are_enabled(settings: Settings) -> None:
    found = reports.status(picture(settings, cards=cards("healthy", "down", "healthy", "unknown", "degraded", "disabled")))
    assert found == {
        "healthy": ["p0", "p2"],
        "down": ["p1"],
        "unknown": ["p3"],
        "degraded": ["p4"],
        "providers": 5,
        "monitoring": True,
        "checked": "2026-11-21T14:29:00.000Z",
    }


def test_a_provider_is_available_if_it_has_all_that_it_needs_and_is_not_down(settings: Settings) -> None:
    roles = [{"chain": "smart", "role": "primary", "position": 1}]
    shown = picture(
        settings,
        cards=[
            card("acme", "down", reason="no answer", roles=roles),
            card("beta", "unknown"),
            card("idle", "disabled", reason="MISSING is not set"),
        ],
    )
    acme, beta, idle = reports.provider_status(shown)["providers"]
    assert acme == {
        "name": "acme",
        "configured": True,
        "available": False,
        "reason": "no answer",
        "roles": [{"chain": "smart", "role": "primary"}],
    }
    assert (beta["configured"], beta["available"], beta["reason"]) == (True, True, None)
    assert (idle["configured"], idle["available"]) == (False, False)
    assert "MISSING" in idle["reason"]


# -- use and cost


CALLS = [
    Call(time="2026-11-21T09:10:00", provider="acme", department="research", agent="a", cost_nusd=3 * USD, duration_ms=100),
    Call(time="2026-11-21T10:10:00", provider="beta", department="sales", agent="b", cost_nusd=1 * USD, duration_ms=300),
    Call(time="2026-11-21T10:20:00", provider="beta", department="sales", agent="a", ok=False, duration_ms=900),
    Call(time="2026-11-03T10:10:00", provider="acme", department=None, cost_nusd=2 * USD, failed_over=True),
    Call(time="2026-11-04T10:10:00", provider="acme", model="tiny", cost_nusd=None),
    Call(time="2026-10-05T10:10:00", provider="acme", cost_nusd=7 * USD),  # last month, before the 21st
    Call(time="2026-10-25T10:10:00", provider="acme", cost_nusd=50 * USD),  # last month, after it
]


async def test_the_dashboard_is_of_this_month_beside_as_much_of_the_last(settings: Settings) -> None:
    shown = picture(
        settings, cards=cards("healthy", "unknown", "down", "disabled"), budgets=[budget("total", None, 10, 6)], alerts=[alert(1)]
    )
    found = await reports.dashboard(shown, FakeLedger(CALLS), this_month())
    assert found["period"] == {"since": "2026-11-01T00:00:00.000Z", "until": "2026-11-21T14:30:00.000Z"}
    assert (found["calls"], found["cost_usd"], found["unpriced"], found["fallbacks"]) == (5, "6", 1, 1)
    assert (found["success_rate"], found["today_usd"]) == (0.8, "4")
    assert found["previous"] == {"calls": 1, "cost_usd": "7", "success_rate": 1.0, "p95_ms": 1000.0}
    assert (found["active_providers"], found["active_alerts"], found["budget_utilization"]) == (2, 1, 0.6)
    assert found["tokens"] == {"input": 500, "output": 50, "cached_input": 0, "reasoning": 0}
    assert [(row["name"], row["requests"], row["cost_usd"]) for row in found["by_provider"]] == [
        ("acme", 3, "5"),
        ("beta", 2, "1"),
    ]
    assert [row["name"] for row in found["by_department"]] == ["research", None, "sales"]
    assert [(row["name"], row["requests"]) for row in found["by_model"]] == [("large", 4), ("tiny", 1)]
    for table in ("provider", "department", "model", "agent", "client", "chain"):
        assert sum(Decimal(row["cost_usd"]) for row in found[f"by_{table}"]) == 6
        assert sum(row["requests"] for row in found[f"by_{table}"]) == 5
    month = found["month"]
    assert (month["spent_usd"], month["budget_usd"], month["utilization"]) == ("6", "10", 0.6)
    assert Decimal(month["projection_usd"]) > 6


async def test_a_dashboard_of_one_department(settings: Settings) -> None:
    shown = picture(settings, budgets=[budget("total", None, 10, 6)])
    found = await reports.dashboard(shown, FakeLedger(CALLS), this_month(department="sales"))
    assert (found["calls"], found["cost_usd"], found["success_rate"]) == (2, "1", 0.5)
    # the budget of everything says nothing of a part
    assert found["month"]["budget_usd"] is None
    assert found["month"]["utilization"] is None


async def test_a_dashboard_of_nothing_has_zeros_where_it_is_known_and_nulls_where_not(settings: Settings) -> None:
    found = await reports.dashboard(picture(settings), FakeLedger(), this_month())
    assert (found["calls"], found["cost_usd"], found["today_usd"], found["fallbacks"]) == (0, "0", "0", 0)
    unknown = ("success_rate", "p50_ms", "p95_ms", "first_token_p50_ms", "first_token_p95_ms", "budget_utilization")
    assert [found[name] for name in unknown] == [None] * len(unknown)
    assert found["month"] == {"spent_usd": "0", "budget_usd": None, "utilization": None, "projection_usd": None}
    assert found["by_provider"] == found["by_chain"] == []


async def test_the_dashboard_asks_nothing_twice(settings: Settings) -> None:
    ledger = FakeLedger(CALLS)
    await reports.dashboard(picture(settings), ledger, this_month())
    assert sorted(ledger.asked) == sorted(
        ["totals"] * 3
        + ["used_by_day None", *(f"usage {group}" for group in ("provider", "department", "model", "agent", "client", "chain"))]
    )


@pytest.mark.parametrize(
    ("budgets", "fullest"),
    [
        ([], None),
        ([budget("client", "a", 10, 2), budget("provider", "acme", 10, 7)], 0.7),
        ([budget("client", "a", 10, 9), budget("total", None, 10, 3)], 0.3),
        ([budget("client", "a", 10, 15)], 1.5),
    ],
)
async def test_how_full_budgets_are_is_the_total_else_the_fullest(
    settings: Settings, budgets: Sequence[BudgetState], fullest: float | None
) -> None:
    found = await reports.dashboard(picture(settings, budgets=budgets), FakeLedger(), this_month())
    assert found["budget_utilization"] == fullest


async def test_where_the_money_goes(settings: Settings) -> None:
    shown = picture(
        settings,
        budgets=[budget("provider", "acme", 20, 5), budget("total", None, 60, 6)],
        alerts=[alert(1), alert(2, kind="provider_down")],
    )
    found = await reports.cost_analysis(shown, FakeLedger(CALLS), this_month())
    assert (found["cost_usd"], found["budget_usd"], found["utilization"]) == ("6", "60", 0.1)
    assert found["by_provider"] == [
        {"provider": "acme", "cost_usd": "5", "calls": 3, "share": 0.8333, "budget_usd": "20", "utilization": 0.25},
        {"provider": "beta", "cost_usd": "1", "calls": 2, "share": 0.1667, "budget_usd": None, "utilization": None},
    ]
    assert [entry["id"] for entry in found["budget_alerts"]] == ["A1"]
    assert Decimal(found["projection_usd"]) > 6


async def test_shares_of_nothing_are_unknown(settings: Settings) -> None:
    free = [Call(time="2026-11-21T10:10:00", cost_nusd=0)]
    found = await reports.cost_analysis(picture(settings), FakeLedger(free), this_month())
    assert [row["share"] for row in found["by_provider"]] == [None]
    assert (found["cost_usd"], found["projection_usd"]) == ("0", "0")


async def test_what_a_department_and_an_agent_used() -> None:
    found = await reports.department_usage(FakeLedger(CALLS), this_month(), "sales")
    assert (found["department"], found["calls"], found["tokens"], found["cost_usd"]) == ("sales", 2, 220, "1")
    assert (found["input_tokens"], found["output_tokens"], found["success_rate"]) == (200, 20, 0.5)
    assert [row["name"] for row in found["by_agent"]] == ["b", "a"]
    assert [row["name"] for row in found["by_model"]] == ["large"]
    found = await reports.agent_usage(FakeLedger(CALLS), this_month(), "a")
    assert (found["agent"], found["calls"], [row["name"] for row in found["by_department"]]) == ("a", 2, ["research", "sales"])


async def test_a_name_that_nobody_used_has_zeros() -> None:
    found = await reports.department_usage(FakeLedger(CALLS), this_month(), "nowhere")
    assert found == {
        "department": "nowhere",
        "period": this_month().period,
        "calls": 0,
        "tokens": 0,
        "input_tokens": 0,
        "output_tokens": 0,
        "cost_usd": "0",
        "success_rate": None,
        "p50_ms": None,
        "p95_ms": None,
        "by_model": [],
        "by_agent": [],
    }


async def test_tables_hold_the_dearest() -> None:
    many = [Call(time="2026-11-21T10:10:00", model=f"m{n}", cost_nusd=n, agent="a") for n in range(reports.MAX_ROWS + 1)]
    found = await reports.agent_usage(FakeLedger(many), this_month(), "a")
    assert len(found["by_model"]) == reports.MAX_ROWS
    assert found["by_model"][0]["name"] == f"m{reports.MAX_ROWS}"
    assert found["calls"] == reports.MAX_ROWS + 1


async def test_failovers_the_most_frequent_first() -> None:
    moves = [
        {"chain": "smart", "from": "acme/large", "to": "beta/large", "reason": "5xx", "count": 2},
        {"chain": "smart", "from": "acme/large", "to": "beta/large", "reason": "rate_limited", "count": 5},
    ]
    found = await reports.fallback_stats(FakeLedger(CALLS, moves=moves), this_month())
    assert ([move["count"] for move in found["data"]], found["total"], found["rate"]) == ([5, 2], 7, 0.2)
    other = await reports.fallback_stats(FakeLedger(CALLS, moves=moves), this_month(chain="other", department="sales"))
    assert other == {"data": [], "total": 0, "rate": None}
    assert await reports.fallback_stats(FakeLedger(), this_month()) == {"data": [], "total": 0, "rate": None}


async def test_a_group_that_there_is_not_is_refused_by_name() -> None:
    for ask in (
        reports.usage(FakeLedger(), this_month(), ["nonsense"]),
        reports.timeseries(FakeLedger(), this_month(), group_by="nonsense"),
    ):
        with pytest.raises(InvalidValue) as refused:
            await ask
        assert refused.value.param == "group_by"


# -- over time


async def test_hours_without_a_call_are_there() -> None:
    query = this_month(since="2026-11-21T08:30:00Z", until="2026-11-21T11:00:00Z")
    found = await reports.timeseries(FakeLedger(CALLS), query)
    assert found["step"] == "hour"
    assert [(point["time"][11:16], point["requests"], point["cost_usd"], point["success_rate"]) for point in found["data"]] == [
        ("08:00", 0, "0", None),
        ("09:00", 1, "3", 1.0),
        ("10:00", 2, "1", 0.5),
    ]


async def test_days_are_those_of_the_zone_also_when_clocks_change() -> None:
    """In New York the first of November 2026 has 25 hours."""
    query = read_query({"since": "2026-10-31", "until": "2026-11-03", "time_zone": "America/New_York"}, WALL)
    calls = [Call(time="2026-11-02T04:30:00"), Call(time="2026-11-02T05:30:00")]
    found = await reports.timeseries(FakeLedger(calls), query, step="day")
    assert [(point["time"], point["requests"]) for point in found["data"]] == [
        ("2026-10-31T04:00:00.000Z", 0),
        ("2026-11-01T04:00:00.000Z", 1),
        ("2026-11-02T05:00:00.000Z", 1),
    ]


async def test_each_group_has_all_its_steps_the_busiest_first() -> None:
    query = this_month(since="2026-11-21T09:00:00Z", until="2026-11-21T11:00:00Z")
    found = await reports.timeseries(FakeLedger(CALLS), query, step="hour", group_by="provider")
    assert [(point["provider"], point["time"][11:13], point["requests"]) for point in found["data"]] == [
        ("beta", "09", 0),
        ("beta", "10", 2),
        ("acme", "09", 1),
        ("acme", "10", 0),
    ]


async def test_series_are_bounded() -> None:
    many = [Call(time="2026-11-21T10:10:00", agent=f"a{n}") for n in range(reports.MAX_SERIES + 1)]
    query = this_month(since="2026-11-21T10:00:00Z", until="2026-11-21T11:00:00Z")
    found = await reports.timeseries(FakeLedger(many), query, step="hour", group_by="agent")
    assert len(found["data"]) == reports.MAX_SERIES


async def test_so_are_their_points_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The busiest have theirs whole, and one has them in any case."""
    calls = [Call(time="2026-11-21T10:10:00", agent=f"a{n}") for n in range(4) for _ in range(n + 1)]
    query = this_month(since="2026-11-21T09:00:00Z", until="2026-11-21T11:00:00Z")
    for most, agents in ((4, ["a3", "a2"]), (5, ["a3", "a2"]), (6, ["a3", "a2", "a1"]), (1, ["a3"])):
        monkeypatch.setattr(reports, "MAX_POINTS", most)
        found = await reports.timeseries(FakeLedger(calls), query, step="hour", group_by="agent")
        assert [point["agent"] for point in found["data"]] == [agent for agent in agents for _ in range(2)]


async def test_usage_comes_in_pages() -> None:
    ledger = FakeLedger([Call(time="2026-11-21T10:10:00", agent=f"a{n}", cost_nusd=n * USD) for n in range(5)])
    whole = (await reports.usage(ledger, this_month(), ["agent"]))["data"]
    first = await reports.usage_page(ledger, this_month(), ["agent"], limit=2)
    assert first == {"data": whole[:2], "next": "2"}
    assert await reports.usage_page(ledger, this_month(), ["agent"], limit=2, after=2) == {"data": whole[2:4], "next": "4"}
    assert await reports.usage_page(ledger, this_month(), ["agent"], limit=2, after=4) == {"data": whole[4:], "next": None}
    assert await reports.usage_page(ledger, this_month(), ["agent"], limit=5) == {"data": whole, "next": None}


async def test_a_page_of_usage_has_a_thousand_rows_at_most() -> None:
    ledger = FakeLedger([Call(time="2026-11-21T10:10:00", agent=f"a{n}") for n in range(reports.MAX_USAGE + 1)])
    for limit in (reports.MAX_USAGE, reports.MAX_USAGE + 1):
        page = await reports.usage_page(ledger, this_month(), ["agent"], limit=limit)
        assert (len(page["data"]), page["next"]) == (reports.MAX_USAGE, str(reports.MAX_USAGE))


@pytest.mark.parametrize(
    ("since", "step", "param"),
    [("101d", "hour", "since"), ("2000-01-01", "day", "since"), ("7d", "minute", "step"), ("1970-01-01", None, "since")],
)
async def test_too_many_steps_are_refused(since: str, step: str | None, param: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        await reports.timeseries(FakeLedger(), this_month(since=since), step=step)
    assert refused.value.param == param


@pytest.mark.parametrize(("since", "step"), [("1h", "hour"), ("72h", "hour"), ("73h", "day"), ("30d", "day")])
async def test_the_step_follows_the_length(since: str, step: str) -> None:
    assert (await reports.timeseries(FakeLedger(), this_month(since=since)))["step"] == step


# -- what may be spent and used


async def test_budgets_with_what_they_will_come_to(settings: Settings) -> None:
    """Ten dollars a day at acme for a month, and four at beta; 9 days and 9.5 hours are left of November."""
    days = [f"2026-{month}-{day:02}" for month, day in [("10", n) for n in range(20, 32)] + [("11", n) for n in range(1, 21)]]
    calls = [
        Call(time=f"{day}T10:00:00", provider=name, cost_nusd=cost * USD, department="research" if name == "beta" else None)
        for day in days
        for name, cost in (("acme", 10), ("beta", 4))
    ]
    shown = picture(
        settings,
        budgets=[
            budget("total", None, 500, 280, held=20),
            budget("provider", "acme", 200, 200),
            budget("provider", "idle", 100, 0, per="day"),
            budget("department", "research", 1000, 128, per="once"),
        ],
    )
    total, acme, idle, research = (await reports.budgets(shown, FakeLedger(calls)))["data"]
    left_days = 9 + 9.5 / 24
    assert total["projection_usd"] == "411.541666667"
    assert Decimal(acme["projection_usd"]) == pytest.approx(Decimal(200 + 10 * left_days), abs=Decimal("1e-6"))
    assert (total["limit_usd"], total["spent_usd"], total["held_usd"], total["remaining_usd"]) == ("500", "280", "20", "200")
    assert (total["scope"], total["name"], total["utilization"], total["resets"]) == (
        "total",
        None,
        0.56,
        "2026-12-01T00:00:00.000Z",
    )
    assert (acme["remaining_usd"], acme["utilization"], acme["hard"]) == ("0", 1.0, True)
    # nothing is spent there, and goes on so
    assert (idle["projection_usd"], idle["per"]) == ("0", "day")
    # what has no end is not projected
    assert (research["resets"], research["projection_usd"]) == (None, None)


async def test_a_month_of_even_days_is_projected_exactly(settings: Settings) -> None:
    calls = [
        Call(time=f"2026-{month}-{day:02}T12:00:00", cost_nusd=2 * USD)
        for month, last in (("10", 31), ("11", 20))
        for day in range(1, last + 1)
    ]
    found = (await reports.dashboard(picture(settings), FakeLedger(calls), this_month()))["month"]
    assert found["spent_usd"] == "40"
    assert Decimal(found["projection_usd"]) == pytest.approx(Decimal(40 + 2 * (9 + 9.5 / 24)), abs=Decimal("1e-6"))


def quota(provider: str, unit: Literal["requests", "tokens"], limit: int, used: int, **more: Any) -> QuotaState:
    state = QuotaState(
        provider, None, unit, limit, used, 0, "month", "UTC", 0, 0.0, datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    )
    return replace(state, **more)


async def test_how_long_quotas_last_at_a_given_rate(settings: Settings) -> None:
    """The two figures of the manual: 5,000,000 tokens a month are 500 days' worth of 10,000 a day, 30,000 are three."""
    shown = picture(settings, quotas=[quota("acme", "tokens", 5_000_000, 1_000_000), quota("beta", "tokens", 30_000, 0)])
    found = await reports.quotas(shown, FakeLedger(), tokens_per_day=10_000)
    acme, beta = found["data"]
    assert (acme["lasts_days"], acme["runs_out"], acme["per_day"], acme["rate_source"]) == (500.0, None, 10_000.0, "given")
    assert (beta["lasts_days"], beta["runs_out"]) == (3.0, "2026-11-24T14:30:00.000Z")
    assert (acme["used"], acme["remaining"], acme["utilization"], acme["resets"]) == (
        1_000_000,
        4_000_000,
        0.2,
        "2026-12-01T00:00:00.000Z",
    )
    chains = {row["chain"]: row for row in found["chains"]}
    assert chains.keys() == {"smart", "other"}
    assert chains["smart"]["lasts_days"] == 503.0
    assert chains["smart"]["runs_out"] is None


async def test_without_a_rate_nothing_is_foretold(settings: Settings) -> None:
    found = await reports.quotas(picture(settings, quotas=[quota("acme", "tokens", 1000, 0)]), FakeLedger())
    assert {name: found["data"][0][name] for name in ("lasts_days", "runs_out", "per_day", "rate_source")} == {
        "lasts_days": None,
        "runs_out": None,
        "per_day": None,
        "rate_source": None,
    }


async def test_quotas_in_requests_follow_the_ledgers_tokens_a_request(settings: Settings) -> None:
    """A hundred requests a day of 110 tokens."""
    calls = [Call(time=f"2026-11-{day:02}T10:00:00", provider="acme") for day in range(1, 21) for _ in range(100)]
    shown = picture(settings, quotas=[quota("acme", "requests", 3000, 2000)])
    (found,) = (await reports.quotas(shown, FakeLedger(calls)))["data"]
    assert (found["lasts_days"], found["per_day"], found["rate_source"]) == (30.0, 100.0, "ledger")
    (found,) = (await reports.quotas(shown, FakeLedger(calls), tokens_per_day=22_000))["data"]
    assert (found["lasts_days"], found["per_day"]) == (15.0, 200.0)
    (found,) = (await reports.quotas(shown, FakeLedger(calls), tokens_per_day=22_000, tokens_per_request=220))["data"]
    assert (found["lasts_days"], found["per_day"]) == (30.0, 100.0)


async def test_without_quotas_there_is_no_chain_to_last(settings: Settings) -> None:
    assert await reports.quotas(picture(settings), FakeLedger(CALLS)) == {"data": [], "chains": []}


def test_limits_as_they_stand(settings: Settings) -> None:
    rate = RateState("acme", "k1", None, "requests", 30, 10, 20, 12.34567, "learned", 9.87654)
    (found,) = reports.limits(picture(settings, rates=[rate]))["data"]
    assert found == {
        "provider": "acme",
        "key": "k1",
        "model": None,
        "unit": "requests",
        "limit": 30,
        "used": 10,
        "remaining": 20,
        "resets_s": 12.346,
        "source": "learned",
        "per_minute": 9.877,
    }


# -- alerts


OLD = alert(1, state="resolved", raised="2026-11-21T12:00:00.000Z")
OPEN = alert(2, raised="2026-11-20T12:00:00.000Z")
SEEN = alert(3, state="acknowledged", kind="provider_down", raised="2026-11-19T12:00:00.000Z")
NEW = alert(4, kind="provider_down", raised="2026-11-21T14:29:59.000Z")


@pytest.mark.parametrize(
    ("given", "ids", "unresolved"),
    [
        ({}, ["A4", "A2", "A3", "A1"], 3),
        ({"state": "open"}, ["A4", "A2"], 3),
        ({"state": "acknowledged"}, ["A3"], 3),
        ({"state": "resolved"}, ["A1"], 3),
        ({"kind": "budget"}, ["A2", "A1"], 1),
        ({"kind": "provider_down"}, ["A4", "A3"], 2),
        ({"limit": 2}, ["A4", "A2"], 3),
    ],
)
async def test_open_alerts_come_first(settings: Settings, given: dict[str, Any], ids: list[str], unresolved: int) -> None:
    """What is in memory is newer than what is stored."""
    shown = picture(settings, alerts=[NEW, SEEN, OPEN])
    found = await reports.alerts(shown, FakeLedger(alerts=[OLD, OPEN, {**SEEN, "state": "open"}]), **given)
    assert ([entry["id"] for entry in found["data"]], found["open"]) == (ids, unresolved)


async def test_those_of_budgets(settings: Settings) -> None:
    found = await reports.budget_alerts(picture(settings, alerts=[NEW, OPEN]), FakeLedger(alerts=[OLD]))
    assert [entry["id"] for entry in found["data"]] == ["A2", "A1"]


async def test_a_state_that_there_is_not_is_refused(settings: Settings) -> None:
    with pytest.raises(InvalidValue):
        await reports.alerts(picture(settings), FakeLedger(), state="angry")


# -- everything in one


async def test_the_monitor_is_every_report_as_it_is_by_itself(settings: Settings) -> None:
    shown = picture(
        settings,
        cards=cards("healthy", "down"),
        budgets=[budget("total", None, 10, 6)],
        quotas=[quota("acme", "tokens", 1000, 0)],
        alerts=[OPEN],
    )
    ledger, query = FakeLedger(CALLS), this_month()
    found = await reports.monitor(shown, ledger, query, no_price)
    assert found == {
        "status": reports.status(shown),
        "health": reports.health_check(shown),
        "metrics": await reports.dashboard(shown, ledger, query),
        "costs": await reports.cost_analysis(shown, ledger, query),
        "providers": reports.provider_status(shown),
        "fallbacks": await reports.fallback_stats(ledger, query),
        "budgets": await reports.budgets(shown, ledger),
        "quotas": await reports.quotas(shown, ledger),
        "alerts": await reports.alerts(shown, ledger),
        "advice": await reports.advice(shown, ledger, no_price),
    }


async def test_advice_of_some_kinds_only(settings: Settings) -> None:
    every = (await reports.advice(picture(settings), FakeLedger(CALLS), no_price))["data"]
    kinds = {entry["kind"] for entry in every}
    assert "projection" in kinds
    some = (await reports.advice(picture(settings), FakeLedger(CALLS), no_price, kinds=["projection"]))["data"]
    assert {entry["kind"] for entry in some} == {"projection"}


async def test_a_question_that_was_asked_is_remembered() -> None:
    ledger = FakeLedger(CALLS)
    once = Remembered(ledger)
    assert await once.totals(0, 1) is await once.totals(0, 1)
    await once.totals(0, 1, {"agent": "a"})
    assert await once.usage(["agent"], 0, None, filters={"agent": "a"}) is await once.usage(
        ["agent"], 0, None, filters={"agent": "a"}
    )
    await once.usage(["agent"], 0, None)
    assert ledger.asked == ["totals", "totals", "usage agent", "usage agent"]


# -- what the last weeks say


async def test_a_pace_is_of_the_last_weeks_and_of_each_name() -> None:
    pace = await read_pace(FakeLedger(CALLS), WALL, scope="provider")
    assert pace.whole is not None
    assert set(pace.by_name) == {"acme", "beta"}
    assert await read_pace(FakeLedger(), WALL) == type(pace)(None)
    assert set((await read_pace(FakeLedger(CALLS), WALL, scope="provider", among=["beta"])).by_name) == {"beta"}


async def test_rates_count_attempts_and_their_tokens() -> None:
    calls = [Call(time=f"2026-11-{day:02}T10:00:00", chain=None if day % 2 else "smart") for day in range(1, 21)]
    rates = await read_rates(FakeLedger(calls), WALL, "chain", ["smart", "other"])
    assert set(rates) == {"smart"}
    rate = rates["smart"]
    assert rate is not None
    assert rate.tokens_per_request == 110


@pytest.mark.parametrize(
    ("wall", "end"),
    [
        (datetime(2026, 11, 21, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)),
        (datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        (datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)),
    ],
)
def test_a_month_ends_when_the_next_begins(wall: datetime, end: datetime) -> None:
    assert month_end(wall.timestamp()) == end.timestamp()


def test_money_of_a_report_is_exact() -> None:
    assert usd_to_nusd("0.000000001") == 1
