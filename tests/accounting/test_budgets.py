"""Budgets: who may still spend, and what a request can cost at most."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.accounting.budgets import (
    DEFAULT_OUTPUT_TOKENS,
    EXPECTED_OUTPUT_TOKENS,
    MEDIUM_BOUND_TOKENS,
    Budgets,
    Reserved,
    ask_of,
    expected_tokens,
    request_bound_nusd,
)
from proxy.accounting.pricing import rates_of_price
from proxy.accounting.states import Scope
from proxy.core.allowance import Ask
from proxy.core.chat import ChatRequest
from proxy.core.errors import BudgetExceeded
from proxy.core.limits import Budget
from proxy.core.target import Price, Provider, Target

pytestmark = pytest.mark.unit

USD = 1_000_000_000
NOW = datetime(2026, 2, 27, 18, 30, tzinfo=UTC).timestamp()
MARCH = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC).timestamp()
LONG = 1e9  # until a hold is given up
TEN = Budget(10 * USD, "month")
PROVIDER = Provider("somebody", "openai", "http://127.0.0.1:1/v1", ())


@dataclass
class Clock:
    now: float = NOW

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now - NOW


class Spent:
    """Budgets on a clock that is set."""

    def __init__(self, *stated: tuple[Scope, str | None, Budget]) -> None:
        self.clock = Clock()
        self.budgets = Budgets(self.clock)
        self.budgets.configure(stated)

    def reserve(
        self, bound: int | None, client: str | None = "agent-7", department: str | None = None, agent: str | None = None
    ) -> Reserved:
        return self.budgets.reserve(self.budgets.of(client, department, agent), bound, LONG)

    def sums(self, scope: Scope = "client", name: str | None = "agent-7") -> tuple[int, int]:
        """What is spent and what is held."""
        (state,) = [s for s in self.budgets.states(self.clock.now) if (s.scope, s.name) == (scope, name)]
        return state.spent_nusd, state.held_nusd


def of_client(budget: Budget = TEN) -> Spent:
    return Spent(("client", "agent-7", budget))


def test_who_falls_under_no_budget_is_never_refused() -> None:
    spent = of_client()
    spent.reserve(None, client="another").settle(10**15)
    spent.reserve(None, client=None).settle(10**15)
    assert spent.sums() == (0, 0)
    assert spent.budgets.outstanding == 0


def test_only_budgets_that_a_request_falls_under_make_them_active() -> None:
    assert not Spent().budgets.active
    assert not Spent(("provider", "somebody", TEN)).budgets.active
    assert of_client().budgets.active
    assert Spent(("total", None, TEN)).budgets.active


def test_what_is_held_becomes_what_it_cost() -> None:
    spent = of_client()
    hold = spent.reserve(3 * USD)
    assert (spent.sums(), spent.budgets.outstanding) == ((0, 3 * USD), 1)
    hold.settle(USD)
    assert (spent.sums(), spent.budgets.outstanding) == ((USD, 0), 0)


def test_what_is_released_cost_nothing() -> None:
    spent = of_client()
    spent.reserve(3 * USD).release()
    assert (spent.sums(), spent.budgets.outstanding) == ((0, 0), 0)


def test_only_the_first_ending_of_a_hold_counts() -> None:
    spent = of_client()
    hold = spent.reserve(3 * USD)
    hold.settle(USD)
    hold.settle(USD)
    hold.release()
    assert (spent.sums(), spent.budgets.outstanding) == ((USD, 0), 0)


def test_a_cost_that_nobody_knows_is_charged_at_its_bound() -> None:
    spent = of_client()
    spent.reserve(3 * USD).settle(None)
    assert spent.sums() == (3 * USD, 0)


def test_a_request_is_held_by_every_budget_that_it_falls_under() -> None:
    spent = Spent(
        ("total", None, TEN),
        ("client", "agent-7", TEN),
        ("department", "research", TEN),
        ("agent", "search", TEN),
        ("department", "sales", TEN),
    )
    hold = spent.reserve(3 * USD, department="research", agent="search")
    theirs: list[tuple[Scope, str | None]] = [
        ("total", None), ("client", "agent-7"), ("department", "research"), ("agent", "search"),
    ]  # fmt: skip
    assert [spent.sums(*whose) for whose in theirs] == [(0, 3 * USD)] * 4
    hold.settle(USD)
    assert [spent.sums(*whose) for whose in theirs] == [(USD, 0)] * 4
    assert spent.sums("department", "sales") == (0, 0)


@pytest.mark.parametrize(
    ("full", "whose"),
    [
        (("client", "agent-7"), "The budget of client agent-7"),
        (("agent", "search"), "The budget of agent search"),
        (("department", "research"), "The budget of department research"),
        (("total", None), "The total budget"),
    ],
)
def test_one_full_budget_refuses_and_the_others_hold_nothing(full: tuple[Scope, str | None], whose: str) -> None:
    every: list[tuple[Scope, str | None]] = [
        ("total", None),
        ("client", "agent-7"),
        ("department", "research"),
        ("agent", "search"),
    ]
    spent = Spent(*[(scope, name, TEN) for scope, name in every])
    spent.budgets.seed(*full, 10 * USD, start=FEBRUARY)
    with pytest.raises(BudgetExceeded) as caught:
        spent.reserve(USD, department="research", agent="search")
    assert caught.value.message == f"{whose} is used up: $10 of $10 spent this month; it resets at 2026-03-01T00:00:00Z."
    assert spent.budgets.outstanding == 0


def test_a_spent_budget_says_so_and_when_it_resets() -> None:
    spent = of_client()
    spent.reserve(USD).settle(10 * USD + 500_000_000)
    with pytest.raises(BudgetExceeded) as caught:
        spent.reserve(1)
    assert caught.value.message == (
        "The budget of client agent-7 is used up: $10.5 of $10 spent this month; it resets at 2026-03-01T00:00:00Z."
    )
    assert caught.value.retry_after_s == (24 + 5.5) * 3600
    assert (caught.value.status, caught.value.code) == (429, "budget_exceeded")


def test_a_budget_taken_up_by_requests_in_flight_is_worth_another_try_soon() -> None:
    spent = of_client()
    spent.reserve(10 * USD)
    with pytest.raises(BudgetExceeded, match=r"in flight: \$0 of \$10 spent, \$10 held") as caught:
        spent.reserve(1)
    assert caught.value.retry_after_s == 1.0


def test_a_budget_for_once_never_resets() -> None:
    spent = of_client(Budget(10 * USD, "once"))
    spent.reserve(USD).settle(10 * USD)
    spent.clock.now += 10**9
    with pytest.raises(BudgetExceeded, match="it does not reset") as caught:
        spent.reserve(1)
    assert caught.value.retry_after_s is None


def test_a_request_that_nobody_can_price_has_no_place_in_a_hard_budget() -> None:
    for stated, whose in ((("client", "agent-7", TEN), "Client agent-7 has"), (("total", None, TEN), "Everything has")):
        spent = Spent(stated)  # type: ignore[arg-type]
        with pytest.raises(BudgetExceeded, match=f"{whose} a hard budget, and .* no known price"):
            spent.reserve(None)
        assert spent.budgets.outstanding == 0


def test_a_soft_budget_admits_everything() -> None:
    spent = of_client(Budget(10 * USD, hard=False))
    spent.reserve(None).settle(11 * USD)
    spent.reserve(1).settle(1)
    assert spent.sums() == (11 * USD + 1, 0)
    assert spent.budgets.states(NOW)[0].utilization > 1


def test_a_new_period_starts_from_nothing_and_old_holds_stay_in_theirs() -> None:
    spent = of_client()
    old = spent.reserve(USD)
    spent.clock.now = MARCH - 0.001
    assert spent.sums() == (0, USD)
    spent.clock.now = MARCH
    assert spent.sums() == (0, 0)
    assert spent.budgets.outstanding == 1
    old.settle(USD)
    assert spent.sums() == (0, 0)
    assert (spent.budgets.sweep(0.0), spent.budgets.outstanding) == (0, 0)


def test_a_hold_that_nobody_settles_is_let_go_when_its_time_is_over() -> None:
    spent = of_client()
    lost = spent.budgets.reserve(spent.budgets.of("agent-7", None, None), 3 * USD, 720.0)
    assert (spent.budgets.sweep(719.9), spent.sums()) == (0, (0, 3 * USD))
    assert (spent.budgets.sweep(720.0), spent.sums()) == (1, (0, 0))
    lost.settle(USD)  # it lives after all: what it cost counts
    assert (spent.sums(), spent.budgets.outstanding) == ((USD, 0), 0)


def test_a_seed_raises_to_what_the_ledger_has_and_never_adds_or_lowers() -> None:
    spent = of_client()
    assert spent.budgets.seed("client", "agent-7", 4 * USD, start=FEBRUARY)
    assert not spent.budgets.seed("client", "agent-7", 4 * USD, start=FEBRUARY)
    assert not spent.budgets.seed("client", "agent-7", 3 * USD, start=FEBRUARY)
    assert not spent.budgets.seed("client", "nobody", 3 * USD, start=FEBRUARY)
    assert spent.sums() == (4 * USD, 0)


def test_a_seed_of_a_period_that_is_over_changes_nothing() -> None:
    spent = of_client()
    spent.clock.now = MARCH
    assert not spent.budgets.seed("client", "agent-7", 9 * USD, start=FEBRUARY)
    assert spent.sums() == (0, 0)


def test_a_seed_that_comes_late_still_counts() -> None:
    """A request that arrives before the ledger has caught up must not wipe out what was spent before a restart."""
    spent = of_client()
    hold = spent.reserve(USD)
    spent.reserve(USD).settle(USD)
    assert spent.budgets.seed("client", "agent-7", 9 * USD, start=FEBRUARY)
    assert spent.sums() == (9 * USD, USD)
    hold.release()


def test_a_reload_keeps_the_sums_of_budgets_that_stay() -> None:
    spent = Spent(("client", "agent-7", TEN), ("client", "other", TEN))
    for name in ("agent-7", "other"):
        spent.budgets.seed("client", name, USD, start=FEBRUARY)
    spent.budgets.configure([("client", "agent-7", Budget(2 * USD))])
    (state,) = spent.budgets.states(NOW)
    assert (state.name, state.limit_nusd, state.spent_nusd) == ("agent-7", 2 * USD, USD)
    spent.budgets.configure([("client", "agent-7", TEN), ("client", "other", TEN)])
    assert [state.spent_nusd for state in spent.budgets.states(NOW)] == [USD, 0]


def test_a_budget_whose_period_changes_starts_anew() -> None:
    spent = of_client()
    spent.budgets.seed("client", "agent-7", USD, start=FEBRUARY)
    spent.budgets.configure([("client", "agent-7", Budget(10 * USD, "day"))])
    assert spent.sums() == (0, 0)


# -- A provider's, which sets it aside


def ask(cost: int | None) -> Ask:
    return Ask(100, 50, cost, LONG)


def test_a_spent_provider_is_refused_with_when_it_resets() -> None:
    spent = Spent(("provider", "somebody", TEN))
    (account,) = spent.budgets.of_provider(PROVIDER)
    assert (account.refuses(0.0), account.free_in_s(0.0)) == (None, 0.0)
    held = account.take(0.0, ask(10 * USD))
    assert (account.refuses(0.0), account.free_in_s(0.0)) == ("budget taken up by requests in flight", 1.0)
    held.settle(1, 100, 10 * USD)
    held.release()
    assert account.refuses(0.0) == "budget spent: $10 of $10 this month, resets 2026-03-01T00:00:00Z"
    assert account.free_in_s(0.0) == MARCH - NOW
    spent.clock.now = MARCH
    assert account.refuses(0.0) is None


@pytest.mark.parametrize(
    ("budget", "cost", "reason"),
    [
        (TEN, None, "no known price, which its hard budget needs"),
        (Budget(10 * USD, hard=False), None, None),
        (Budget(0, hard=False), 1, None),
        (Budget(0, "once"), 1, "budget spent: $0 of $0"),
    ],
)
def test_what_a_providers_budget_says_to_an_attempt(budget: Budget, cost: int | None, reason: str | None) -> None:
    (account,) = Spent(("provider", "somebody", budget)).budgets.of_provider(PROVIDER)
    assert account.refuses(0.0, ask(cost)) == reason
    assert (account.free_in_s(0.0, ask(cost)) > 1e9) == (reason is not None)


def test_an_attempt_that_never_left_gives_back_what_it_held() -> None:
    spent = Spent(("provider", "somebody", TEN))
    (account,) = spent.budgets.of_provider(PROVIDER)
    account.take(0.0, ask(USD)).release()
    assert spent.sums("provider", "somebody") == (0, 0)
    assert spent.budgets.of_provider(replace(PROVIDER, name="another")) == ()


# -- Many at once --------------------------------------------------------------------------------------------------------------


@pytest.mark.property
@settings(deadline=None)
@given(
    limit=st.integers(1, 1_000),
    spent_before=st.integers(0, 1_000),
    calls=st.lists(st.tuples(st.integers(1, 100), st.floats(0, 1)), min_size=200, max_size=200),
)
def test_200_parallel_calls_at_the_edge_overshoot_by_at_most_one_bound(
    limit: int, spent_before: int, calls: list[tuple[int, float]]
) -> None:
    spent = of_client(Budget(limit))
    spent.budgets.seed("client", "agent-7", spent_before, start=FEBRUARY)
    holds: list[tuple[Reserved, int]] = []
    for bound, share in calls:  # all of them ask before any of them ends
        try:
            holds.append((spent.reserve(bound), int(bound * share)))
        except BudgetExceeded:
            continue
    for hold, cost in holds:
        hold.settle(cost)
    total, held = spent.sums()
    assert held == 0
    assert total <= max(spent_before, limit - 1 + max(bound for bound, _ in calls))


class BudgetMachine(RuleBasedStateMachine):
    """Any order of reserving, settling, releasing, losing holds, reloading and seeding, against a model of two accounts."""

    def __init__(self) -> None:
        super().__init__()
        self.spent = Spent(("total", None, Budget(800)), ("client", "agent-7", Budget(500)))
        self.model = {"total": 0, "client": 0}
        self.holds: list[tuple[Reserved, int, bool]] = []  # hold, bound, of the client

    def held(self, *, client: bool) -> int:
        return sum(bound for _, bound, of_client in self.holds if of_client or not client)

    @rule(bound=st.integers(0, 100), client=st.booleans())
    def reserve(self, bound: int, client: bool) -> None:
        full = self.model["total"] + self.held(client=False) >= 800
        full = full or (client and self.model["client"] + self.held(client=True) >= 500)
        try:
            self.holds.append((self.spent.reserve(bound, "agent-7" if client else "another"), bound, client))
            assert not full
        except BudgetExceeded:
            assert full

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        hold, bound, client = self.holds.pop(data.draw(st.integers(0, len(self.holds) - 1)))
        cost = data.draw(st.integers(0, bound))
        hold.settle(cost)
        self.model["total"] += cost
        self.model["client"] += cost if client else 0

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.holds.pop(data.draw(st.integers(0, len(self.holds) - 1)))[0].release()

    @rule()
    def reload(self) -> None:
        self.spent.budgets.configure([("total", None, Budget(800)), ("client", "agent-7", Budget(500))])

    @rule(behind=st.integers(0, 50))
    def seed_with_what_the_ledger_has(self, behind: int) -> None:
        self.spent.budgets.seed("total", None, max(0, self.model["total"] - behind), start=FEBRUARY)

    @invariant()
    def sums_agree(self) -> None:
        assert self.spent.sums("total", None) == (self.model["total"], self.held(client=False))
        assert self.spent.sums() == (self.model["client"], self.held(client=True))
        assert self.model["total"] < 800 + 100
        assert self.model["client"] < 500 + 100


TestBudgetMachine = pytest.mark.property(BudgetMachine.TestCase)


# -- The bound -----------------------------------------------------------------------------------------------------------------

TARGET = Target(PROVIDER, "m", "m")
RATES = rates_of_price(Price(input=Decimal(1), output=Decimal(10)))  # 1,000 and 10,000 nano-dollars a token


def request(content: Any = "hello", *, body_bytes: int = 500, limit: int | None = None, choices: int = 1) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    return ChatRequest("openai", body, "m", False, False, body_bytes, max_output_tokens=limit, choices=choices)


def test_a_byte_is_a_token_and_an_answer_is_as_long_as_it_may_be() -> None:
    assert request_bound_nusd(request(limit=100, choices=3), [(TARGET, RATES)]) == 500 * 1_000 + 300 * 10_000


def test_an_answer_without_a_limit_is_the_models_limit_capped() -> None:
    small, large = replace(TARGET, max_output=1_000), replace(TARGET, max_output=100_000)
    assert request_bound_nusd(request(), [(small, RATES)]) == 500 * 1_000 + 1_000 * 10_000
    assert request_bound_nusd(request(), [(large, RATES)]) == 500 * 1_000 + DEFAULT_OUTPUT_TOKENS * 10_000
    assert request_bound_nusd(request(), [(TARGET, RATES)]) == 500 * 1_000 + DEFAULT_OUTPUT_TOKENS * 10_000


def test_embeddings_have_no_answer_to_pay_for() -> None:
    asked = replace(request(), kind="embeddings")
    assert request_bound_nusd(asked, [(TARGET, RATES), (replace(TARGET, max_output=1_000), RATES)]) == 500 * 1_000


def test_the_dearest_target_counts_and_one_without_a_price_means_no_bound() -> None:
    dear = rates_of_price(Price(input=Decimal(2), output=Decimal(20)))
    bound = request_bound_nusd(request(limit=0), [(TARGET, RATES), (TARGET, dear)])
    assert bound == 500 * 2_000
    assert request_bound_nusd(request(), [(TARGET, RATES), (TARGET, None)]) is None


def test_targets_that_cannot_be_used_do_not_count() -> None:
    off = replace(TARGET, disabled="disabled in the file")
    keyless = replace(TARGET, provider=replace(PROVIDER, disabled="no key"))
    assert request_bound_nusd(request(limit=0), [(TARGET, RATES), (off, None), (keyless, None)]) == 500 * 1_000
    assert request_bound_nusd(request(), []) == 0


@pytest.mark.parametrize(
    ("part", "inline"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 6_378}}, 6_400),
        ({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}, 0),
        ({"type": "input_audio", "input_audio": {"data": "A" * 6_400, "format": "mp3"}}, 6_400),
        ({"type": "file", "file": {"file_data": "A" * 6_400}}, 6_400),
        ({"type": "image_url", "image_url": "data:" + "A" * 6_395}, 6_400),
        ({"type": "unheard_of"}, 0),
    ],
)
def test_a_medium_is_a_flat_number_not_its_base64(part: dict[str, Any], inline: int) -> None:
    asked = request([{"type": "text", "text": "?"}, part], body_bytes=inline + 200, limit=0)
    assert request_bound_nusd(asked, [(TARGET, RATES)]) == (200 + MEDIUM_BOUND_TOKENS + inline // 64) * 1_000


def test_what_an_attempt_may_take_is_its_bound_and_what_it_probably_takes_is_less() -> None:
    asked = ask_of(request(), TARGET, RATES, 7.0)
    assert (asked.tokens, asked.cost_nusd, asked.until) == (
        500 + DEFAULT_OUTPUT_TOKENS,
        500 * 1_000 + DEFAULT_OUTPUT_TOKENS * 10_000,
        7.0,
    )
    assert asked.expected_tokens == 125 + EXPECTED_OUTPUT_TOKENS
    assert ask_of(request(limit=10), TARGET, None, 7.0) == Ask(510, 135, None, 7.0)
    assert expected_tokens(replace(request(), kind="embeddings")) == 125
