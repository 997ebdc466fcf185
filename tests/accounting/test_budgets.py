"""Budgets: who may still spend, and what a request can cost at most."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.accounting.budgets import DEFAULT_OUTPUT_TOKENS, MEDIUM_BOUND_TOKENS, Budgets, Hold, Per, period, request_bound_nusd
from proxy.accounting.pricing import rates_of_price
from proxy.core.chat import ChatRequest
from proxy.core.errors import BudgetExceeded
from proxy.core.target import Price, Provider, Target

pytestmark = pytest.mark.unit

USD = 1_000_000_000
NOW = datetime(2026, 2, 27, 18, 30, tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class Client:
    name: str = "search-agent"
    budget_nusd: int | None = 10 * USD
    budget_per: Per | None = "month"
    budget_hard: bool = True


CLIENT = Client()


def test_a_client_without_a_budget_is_never_refused() -> None:
    budgets = Budgets()
    free = replace(CLIENT, budget_nusd=None)
    budgets.reserve(free, None, NOW).settle(10**15)
    assert budgets.state(free, NOW) == (0, 0)
    assert budgets.outstanding == 0


def test_what_is_held_becomes_what_it_cost() -> None:
    budgets = Budgets()
    hold = budgets.reserve(CLIENT, 3 * USD, NOW)
    assert (budgets.state(CLIENT, NOW), budgets.outstanding) == ((0, 3 * USD), 1)
    hold.settle(USD)
    assert (budgets.state(CLIENT, NOW), budgets.outstanding) == ((USD, 0), 0)


def test_what_is_released_cost_nothing() -> None:
    budgets = Budgets()
    budgets.reserve(CLIENT, 3 * USD, NOW).release()
    assert (budgets.state(CLIENT, NOW), budgets.outstanding) == ((0, 0), 0)


def test_only_the_first_ending_of_a_hold_counts() -> None:
    budgets = Budgets()
    hold = budgets.reserve(CLIENT, 3 * USD, NOW)
    hold.settle(USD)
    hold.settle(USD)
    hold.release()
    assert (budgets.state(CLIENT, NOW), budgets.outstanding) == ((USD, 0), 0)


def test_a_cost_that_nobody_knows_is_charged_at_its_bound() -> None:
    budgets = Budgets()
    budgets.reserve(CLIENT, 3 * USD, NOW).settle(None)
    assert budgets.state(CLIENT, NOW) == (3 * USD, 0)


def test_a_spent_budget_says_so_and_when_it_resets() -> None:
    budgets = Budgets()
    budgets.reserve(CLIENT, USD, NOW).settle(10 * USD + 500_000_000)
    with pytest.raises(BudgetExceeded) as caught:
        budgets.reserve(CLIENT, 1, NOW)
    assert caught.value.message == (
        "the budget of client search-agent is used up: $10.5 of $10 spent this month; it resets at 2026-03-01T00:00:00Z"
    )
    assert caught.value.retry_after_s == (24 + 5.5) * 3600
    assert (caught.value.status, caught.value.code) == (429, "budget_exceeded")


def test_a_budget_taken_up_by_requests_in_flight_is_worth_another_try_soon() -> None:
    budgets = Budgets()
    budgets.reserve(CLIENT, 10 * USD, NOW)
    with pytest.raises(BudgetExceeded, match=r"in flight: \$0 of \$10 spent, \$10 held") as caught:
        budgets.reserve(CLIENT, 1, NOW)
    assert caught.value.retry_after_s == 1.0


def test_a_budget_for_once_never_resets() -> None:
    budgets, once = Budgets(), replace(CLIENT, budget_per="once")
    budgets.reserve(once, USD, NOW).settle(10 * USD)
    with pytest.raises(BudgetExceeded, match="it does not reset") as caught:
        budgets.reserve(once, 1, NOW + 10**9)
    assert caught.value.retry_after_s is None


def test_a_request_that_nobody_can_price_has_no_place_in_a_hard_budget() -> None:
    budgets = Budgets()
    with pytest.raises(BudgetExceeded, match="no known price"):
        budgets.reserve(CLIENT, None, NOW)
    assert budgets.outstanding == 0


def test_a_soft_budget_admits_everything_and_says_when_it_is_over() -> None:
    budgets, soft = Budgets(), replace(CLIENT, budget_hard=False)
    first = budgets.reserve(soft, None, NOW)
    assert not first.over
    first.settle(11 * USD)
    assert budgets.reserve(soft, 1, NOW).over


def test_a_new_period_starts_from_nothing_and_old_holds_stay_in_theirs() -> None:
    budgets = Budgets()
    old = budgets.reserve(CLIENT, USD, NOW)
    march = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    assert budgets.state(CLIENT, march - 0.001) == (0, USD)
    assert budgets.state(CLIENT, march) == (0, 0)
    old.settle(USD)
    assert budgets.state(CLIENT, march) == (0, 0)


def test_a_seed_raises_to_what_the_ledger_has_and_never_adds_or_lowers() -> None:
    budgets = Budgets()
    assert budgets.seed(CLIENT, 4 * USD, NOW)
    assert not budgets.seed(CLIENT, 4 * USD, NOW)
    assert not budgets.seed(CLIENT, 3 * USD, NOW)
    assert budgets.state(CLIENT, NOW) == (4 * USD, 0)


def test_a_seed_that_comes_late_still_counts() -> None:
    """A request that arrives before the ledger has caught up must not wipe out what was spent before a restart."""
    budgets = Budgets()
    hold = budgets.reserve(CLIENT, USD, NOW)
    budgets.reserve(CLIENT, USD, NOW).settle(USD)
    assert budgets.seed(CLIENT, 9 * USD, NOW)
    assert budgets.state(CLIENT, NOW) == (9 * USD, USD)
    hold.release()


def test_a_reload_keeps_the_sums_of_clients_that_stay() -> None:
    budgets, other = Budgets(), replace(CLIENT, name="other")
    budgets.seed(CLIENT, USD, NOW)
    budgets.seed(other, USD, NOW)
    budgets.keep(["search-agent"])
    assert budgets.state(replace(CLIENT, budget_nusd=2 * USD), NOW) == (USD, 0)
    assert budgets.state(other, NOW) == (0, 0)


def test_a_budget_whose_period_changes_starts_anew() -> None:
    budgets = Budgets()
    budgets.seed(CLIENT, USD, NOW)
    assert budgets.state(replace(CLIENT, budget_per="day"), NOW) == (0, 0)


@pytest.mark.parametrize(
    ("per", "start", "end"),
    [
        ("day", (2026, 2, 27), (2026, 2, 28)),
        ("month", (2026, 2, 1), (2026, 3, 1)),
        ("once", (1970, 1, 1), None),
        (None, (1970, 1, 1), None),
    ],
)
def test_periods_are_utc(per: Per | None, start: tuple[int, int, int], end: tuple[int, int, int] | None) -> None:
    moments = [None if day is None else datetime(*day, tzinfo=UTC).timestamp() for day in (start, end)]
    assert list(period(per, NOW)) == moments


def test_december_ends_with_the_year() -> None:
    assert period("month", datetime(2026, 12, 31, 23, tzinfo=UTC).timestamp())[1] == datetime(2027, 1, 1, tzinfo=UTC).timestamp()


# -- Many at once --------------------------------------------------------------------------------------------------------------


@pytest.mark.property
@given(
    limit=st.integers(1, 1_000),
    spent=st.integers(0, 1_000),
    calls=st.lists(st.tuples(st.integers(1, 100), st.floats(0, 1)), min_size=200, max_size=200),
)
def test_200_parallel_calls_at_the_edge_overshoot_by_at_most_one_bound(
    limit: int, spent: int, calls: list[tuple[int, float]]
) -> None:
    budgets, client = Budgets(), replace(CLIENT, budget_nusd=limit)
    budgets.seed(client, spent, NOW)
    holds: list[tuple[Hold, int]] = []
    for bound, share in calls:  # all of them ask before any of them ends
        try:
            holds.append((budgets.reserve(client, bound, NOW), int(bound * share)))
        except BudgetExceeded:
            continue
    for hold, cost in holds:
        hold.settle(cost)
    total, held = budgets.state(client, NOW)
    assert held == 0
    assert total <= max(spent, limit - 1 + max(bound for bound, _ in calls))


class BudgetMachine(RuleBasedStateMachine):
    """Any order of reserving, settling, releasing, against a model of the account."""

    def __init__(self) -> None:
        super().__init__()
        self.budgets = Budgets()
        self.client = Client(budget_nusd=500)
        self.spent = 0
        self.holds: list[tuple[Hold, int]] = []

    @rule(bound=st.integers(0, 100))
    def reserve(self, bound: int) -> None:
        full = self.spent + sum(bound for _, bound in self.holds) >= 500
        try:
            self.holds.append((self.budgets.reserve(self.client, bound, NOW), bound))
            assert not full
        except BudgetExceeded:
            assert full

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        hold, bound = self.holds.pop(data.draw(st.integers(0, len(self.holds) - 1)))
        cost = data.draw(st.integers(0, bound))
        hold.settle(cost)
        self.spent += cost

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.holds.pop(data.draw(st.integers(0, len(self.holds) - 1)))[0].release()

    @invariant()
    def sums_agree(self) -> None:
        assert self.budgets.state(self.client, NOW) == (self.spent, sum(bound for _, bound in self.holds))
        assert self.budgets.outstanding == len(self.holds)
        assert self.spent < 500 + 100


TestBudgetMachine = pytest.mark.property(BudgetMachine.TestCase)


# -- The bound -----------------------------------------------------------------------------------------------------------------

PROVIDER = Provider("somebody", "openai", "http://127.0.0.1:1/v1", ())
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
