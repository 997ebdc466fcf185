"""Budgets, quotas and rate limits that several workers count together."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxy.accounting.budgets import Budgets, Reserved
from proxy.accounting.quotas import Quotas
from proxy.accounting.spending import Spending
from proxy.accounting.throttle import SLOT_S, WINDOW_S, ClientAccount, RateAccount, Throttle
from proxy.config.settings import ClientSettings, Settings
from proxy.core.allowance import Ask
from proxy.core.errors import BudgetExceeded, RateLimitExceeded
from proxy.core.limits import Budget, Quota, RateLimits
from proxy.core.target import Chain, Credential, Provider, Secret, Target
from proxy.workers.shared import Table, make
from tests.engine import harness
from tests.workers.test_shared import WORKERS, seats, tables

LONG = 10**9
DAY_S = 86_400.0


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


NOW = at("2026-02-27T18:30Z")


@dataclass
class Clock:
    now: float = NOW

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now - NOW


class Fleet:
    """Workers in one process, each with a whole `Spending`, on one table and one clock."""

    def __init__(self, stated: Settings, workers: int = 2) -> None:
        self.clock = Clock()
        self.stated = stated
        self.memory = make(workers)
        self.seats = seats(workers)
        self.workers = [self.begin(index) for index in range(workers)]

    def begin(self, index: int) -> Spending:
        spending = Spending(self.clock, Table(self.memory, self.seats[index]))
        spending.configure(self.stated)
        return spending

    def replace(self, index: int) -> Spending:
        self.workers[index] = self.begin(index)
        return self.workers[index]

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        for worker in self.workers:
            worker.listen()


def configuration(*, quotas: tuple[Quota, ...] = (), limits: RateLimits = RateLimits(), **rest: Any) -> Settings:  # noqa: B008 - frozen
    provider = Provider("groq", "openai", "http://127.0.0.1", (Credential("key0", Secret("fake")),), quotas=quotas, limits=limits)
    return replace(harness.settings(Chain("smart", (Target(provider, "m", "m"),))), **rest)


def ask(tokens: int = 100) -> Ask:
    return Ask(tokens, tokens, None, LONG)


def client(**limits: int) -> dict[str, ClientSettings]:
    return {"c": ClientSettings("c", frozenset(), limits=RateLimits(**limits))}


# -- budgets


def reserve(worker: Spending, bound: int) -> Reserved:
    return worker.budgets.reserve(worker.budgets.of(None, None, None), bound, LONG)


def spent(worker: Spending) -> tuple[int, int]:
    (state,) = worker.budgets.states(NOW)
    return state.spent_nusd, state.held_nusd


@pytest.mark.unit
def test_what_one_worker_spends_no_other_can() -> None:
    fleet = Fleet(configuration(budget=Budget(1_000, "day")))
    first, second = fleet.workers
    reserve(first, 400).settle(300)
    held = reserve(second, 700)
    assert [spent(worker) for worker in fleet.workers] == [(300, 700)] * 2
    with pytest.raises(BudgetExceeded, match=r"taken up by requests in flight: \$0\.0000003 of \$0\.000001 spent"):
        reserve(first, 1)
    held.settle(700)
    with pytest.raises(BudgetExceeded, match="The total budget is used up"):
        reserve(first, 1)
    assert [spent(worker) for worker in fleet.workers] == [(1_000, 0)] * 2


@pytest.mark.unit
def test_all_workers_at_one_moment_go_beyond_by_no_more_than_a_bound_each() -> None:
    fleet = Fleet(configuration(budget=Budget(1_000, "day")), workers=3)
    reserve(fleet.workers[0], 999).settle(999)
    accounts = [worker.budgets.of(None, None, None)[0] for worker in fleet.workers]
    assert [account.refusal(priced=True) for account in accounts] == [None] * 3  # all ask before any of them takes
    for account in accounts:
        account.hold(50, LONG).settle(50)
    assert {spent(worker) for worker in fleet.workers} == {(999 + 3 * 50, 0)}
    for worker in fleet.workers:
        with pytest.raises(BudgetExceeded):
            reserve(worker, 1)


@pytest.mark.unit
def test_a_dead_worker_leaves_what_it_spent_and_its_successor_goes_on_from_there() -> None:
    fleet = Fleet(configuration(budget=Budget(1_000, "day")))
    reserve(fleet.workers[0], 400).settle(300)
    reserve(fleet.workers[0], 200)
    assert spent(fleet.workers[1]) == (300, 200)
    successor = fleet.replace(0)
    assert [spent(worker) for worker in fleet.workers] == [(300, 0)] * 2
    reserve(successor, 10).settle(10)
    assert [spent(worker) for worker in fleet.workers] == [(310, 0)] * 2


@pytest.mark.unit
@pytest.mark.parametrize("late", [0, 1], ids=["by the one that asks first", "by the other"])
def test_a_new_day_begins_for_all_at_midnight_however_late_they_notice(late: int) -> None:
    fleet = Fleet(configuration(budget=Budget(1_000, "day")))
    for worker in fleet.workers:
        reserve(worker, 400).settle(400)
    fleet.clock.now += 6 * 3600
    reserve(fleet.workers[1 - late], 100).settle(100)
    assert [state.spent_nusd for state in fleet.workers[late].budgets.states(fleet.clock.now)] == [100]
    assert [state.spent_nusd for state in fleet.workers[1 - late].budgets.states(fleet.clock.now)] == [100]


@pytest.mark.unit
def test_a_hold_of_yesterday_is_settled_there() -> None:
    fleet = Fleet(configuration(budget=Budget(1_000, "day")))
    held = reserve(fleet.workers[0], 400)
    fleet.clock.now += 6 * 3600
    reserve(fleet.workers[0], 10).settle(10)
    held.settle(400)
    assert [worker.budgets.states(fleet.clock.now)[0].spent_nusd for worker in fleet.workers] == [10, 10]


@pytest.mark.unit
def test_the_ledger_only_raises_the_sum_of_all() -> None:
    fleet = Fleet(configuration(budget=Budget(1_000, "day")))
    lead, other = fleet.workers
    start = lead.budgets.states(NOW)[0].start
    reserve(other, 300).settle(300)
    assert not lead.budgets.seed("total", None, 300, start=start)
    assert lead.budgets.seed("total", None, 500, start=start)
    assert [spent(worker) for worker in fleet.workers] == [(500, 0)] * 2
    assert not lead.budgets.seed("total", None, 400, start=start)
    reserve(other, 100).settle(100)
    assert [spent(worker) for worker in fleet.workers] == [(600, 0)] * 2


@pytest.mark.unit
def test_a_budget_that_a_reload_removes_is_no_longer_told_and_one_that_it_changes_goes_on() -> None:
    fleet = Fleet(configuration(budget=Budget(1_000, "day")))
    first, second = fleet.workers
    held = reserve(first, 300)
    first.configure(replace(fleet.stated, budget=Budget(2_000, "day")))
    assert spent(second) == (0, 300)
    first.configure(replace(fleet.stated, budget=None))
    assert spent(second) == (0, 0)
    held.settle(300)
    assert spent(second) == (0, 0)
    first.configure(replace(fleet.stated, budget=Budget(1_000, "month")))
    reserve(first, 70).settle(70)
    assert (spent(first), spent(second)) == ((70, 0), (0, 0))  # a month is not a day


@pytest.mark.unit
def test_a_bound_beyond_all_numbers_fills_the_budget_and_breaks_nothing() -> None:
    fleet = Fleet(configuration(budget=Budget(1_000, "day")))
    held = reserve(fleet.workers[0], 10**40)
    with pytest.raises(BudgetExceeded):
        reserve(fleet.workers[1], 1)
    held.settle(10)
    reserve(fleet.workers[1], 1).settle(1)
    assert [spent(worker) for worker in fleet.workers] == [(11, 0)] * 2


@pytest.mark.unit
def test_holds_that_nobody_settled_go_for_all() -> None:
    fleet = Fleet(configuration(budget=Budget(1_000, "day")))
    first, second = fleet.workers
    first.budgets.reserve(first.budgets.of(None, None, None), 1_000, 30.0)
    assert spent(second) == (0, 1_000)
    assert first.budgets.sweep(31.0) == 1
    assert spent(second) == (0, 0)


class Together(RuleBasedStateMachine):
    """Workers that reserve, settle, die and go through the days, against one plain account of all."""

    workers = st.integers(0, WORKERS - 1)
    amounts = st.integers(0, 500)

    @initialize(limit=st.integers(1, 3_000))
    def start(self, limit: int) -> None:
        self.clock = Clock()
        self.limit = limit
        self.memory = make(WORKERS)
        self.budgets = [self.begin(index) for index in range(WORKERS)]
        self.used: dict[int, int] = {}
        self.held: list[tuple[int, int, Reserved]] = []  # worker, day, place

    def begin(self, index: int) -> Budgets:
        budgets = Budgets(self.clock, Table(self.memory, seats()[index]))
        budgets.configure([("total", None, Budget(self.limit, "day"))])
        return budgets

    @property
    def day(self) -> int:
        return int(self.clock.now // DAY_S)

    def in_force(self) -> int:
        return sum(reserved.bound_nusd for _, day, reserved in self.held if day == self.day)

    @rule(worker=workers, bound=amounts)
    def reserve(self, worker: int, bound: int) -> None:
        budgets = self.budgets[worker]
        fits = self.used.get(self.day, 0) + self.in_force() < self.limit
        try:
            reserved = budgets.reserve(budgets.of(None, None, None), bound, LONG)
        except BudgetExceeded:
            assert not fits
        else:
            assert fits
            self.held.append((worker, self.day, reserved))

    @rule(index=st.integers(0, 1_000), cost=st.none() | amounts)
    def settle(self, index: int, cost: int | None) -> None:
        if self.held:
            _, day, reserved = self.held.pop(index % len(self.held))
            reserved.settle(cost)
            self.used[day] = self.used.get(day, 0) + (reserved.bound_nusd if cost is None else cost)

    @rule(index=st.integers(0, 1_000))
    def release(self, index: int) -> None:
        if self.held:
            self.held.pop(index % len(self.held))[2].release()

    @rule(worker=workers)
    def die_and_be_replaced(self, worker: int) -> None:
        self.budgets[worker] = self.begin(worker)
        self.held = [one for one in self.held if one[0] != worker]

    @rule(seconds=st.sampled_from([60.0, DAY_S]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(worker=workers, more=st.integers(-500, 500))
    def seed(self, worker: int, more: int) -> None:
        known = self.used.get(self.day, 0)
        self.budgets[worker].seed("total", None, known + more, start=self.day * DAY_S)
        self.used[self.day] = max(known, known + more)

    @invariant()
    def all_say_the_same(self) -> None:
        for budgets in getattr(self, "budgets", ()):
            (state,) = budgets.states(self.clock.now)
            assert (state.spent_nusd, state.held_nusd) == (self.used.get(self.day, 0), self.in_force())


Together.TestCase.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
TestBudgetsAgainstOneAccount = pytest.mark.property(Together.TestCase)


# -- quotas


def send(worker: Spending, tokens: int) -> None:
    for account in worker.quotas.accounts():
        account.take(0.0, ask(tokens)).settle(1, tokens, None)


def used(fleet: Fleet) -> list[list[int]]:
    return [[state.used for state in worker.quotas.states(fleet.clock.now)] for worker in fleet.workers]


@pytest.mark.unit
def test_a_quota_that_all_have_used_up_together_is_spent_for_each() -> None:
    fleet = Fleet(configuration(quotas=(Quota("requests", 10, "day"), Quota("tokens", 500, "day"))))
    for number in range(5):
        send(fleet.workers[number % 2], 80)
    assert used(fleet) == [[5, 400]] * 2
    requests, tokens = fleet.workers[0].quotas.accounts()
    held = fleet.workers[1].quotas.accounts()[1].take(0.0, ask(100))
    assert tokens.refuses(0.0) == "quota taken up by requests in flight"
    assert tokens.free_in_s(0.0) == 1.0
    held.settle(1, 100, None)
    assert tokens.refuses(0.0) == "quota spent: 500 of 500 tokens today, resets 2026-02-28T00:00:00Z"
    assert tokens.free_in_s(0.0) == pytest.approx(5.5 * 3600)
    assert requests.refuses(0.0) is None


@pytest.mark.unit
def test_a_quota_that_one_is_told_to_begin_anew_begins_anew_for_all() -> None:
    fleet = Fleet(configuration(quotas=(Quota("requests", 10, "month"),)))
    for worker in fleet.workers:
        send(worker, 0)
    told = round(fleet.clock.now * 1000)
    fleet.workers[0].quotas.begin_anew({("groq", None): told})
    fleet.pass_time(0.2)
    assert used(fleet) == [[0], [0]]
    send(fleet.workers[1], 0)
    assert used(fleet) == [[1], [1]]
    # who comes later, into whichever seat, is told too; and the ledger does not tell it again
    for index in (1, 0):
        successor = fleet.replace(index)
        assert used(fleet) == [[1], [1]]
        successor.quotas.begin_anew({("groq", None): told})
        assert used(fleet) == [[1], [1]]
    fleet.pass_time(31 * DAY_S)
    assert used(fleet) == [[0], [0]]


@pytest.mark.unit
def test_a_quota_that_a_reload_removes_is_no_longer_told() -> None:
    fleet = Fleet(configuration(quotas=(Quota("requests", 10, "month"),)))
    for worker in fleet.workers:
        send(worker, 0)
    fleet.workers[0].configure(configuration())
    assert used(fleet) == [[], [1]]


@pytest.mark.unit
def test_a_period_that_has_not_begun_is_not_followed() -> None:
    stated = configuration(quotas=(Quota("requests", 10, "month"),))
    fleet = Fleet(stated)
    send(fleet.workers[1], 0)
    fleet.workers[0].quotas.begin_anew({("groq", None): round((NOW + 3600) * 1000)})
    fleet.workers[1].listen()
    assert [state.used for state in fleet.workers[1].quotas.states(NOW)] == [1]
    fleet.pass_time(3600)
    assert used(fleet) == [[0], [0]]


# -- a minute


def rates(of: int = 2, **limits: int) -> list[RateAccount]:
    return [RateAccount(("groq", "key0", None), RateLimits(**limits), table, 0.0) for table in tables(of)]


@pytest.mark.unit
def test_a_minute_is_used_up_by_all_together_and_free_again_as_their_slots_end() -> None:
    first, second = rates(rpm=4)
    for worker, moment in ((first, 0.0), (first, 10.0), (second, 20.0), (second, 20.0)):
        assert worker.refuses(moment) is None
        worker.take(moment, ask())
    for worker in (first, second):
        assert worker.refuses(20.0) == "rate limit: 4 requests a minute, free in 41 s"
    assert first.free_in_s(20.0, ask()) == pytest.approx(40.0, abs=SLOT_S)
    assert second.free_in_s(20.0, ask()) == pytest.approx(40.0, abs=SLOT_S)
    assert second.refuses(60.0 + SLOT_S) is not None  # it is told at the other's next tick
    first.refresh(60.0 + SLOT_S)
    assert [worker.refuses(60.0 + SLOT_S) for worker in (first, second)] == [None, None]


@pytest.mark.unit
def test_in_no_minute_is_more_let_go_than_the_limit_whoever_asks() -> None:
    workers = rates(3, rpm=10)
    sent: list[float] = []
    for step in range(2_000):
        moment = step * 0.1
        worker = workers[step * 7 % 3]
        if worker.refuses(moment) is None:
            worker.take(moment, ask())
            sent.append(moment)
        if step % 2:
            for one in workers:
                one.refresh(moment)
    assert all(sum(moment <= other < moment + WINDOW_S for other in sent) <= 10 for moment in sent)
    assert len(sent) >= 10 * 3


@pytest.mark.unit
def test_tokens_are_held_at_what_is_likely_and_corrected_for_all() -> None:
    first, second = rates(tpm=1_000)
    held = first.take(0.0, ask(900))
    assert second.refuses(0.0, ask(200)) is not None
    held.settle(1, 50, None)
    assert second.refuses(0.0, ask(900)) is None
    assert second.refuses(0.0, ask(2_000)) is not None  # larger than the limit: only into an empty minute
    first.refresh(61.0)
    assert second.refuses(61.0, ask(2_000)) is None


@pytest.mark.unit
def test_who_takes_a_seat_takes_along_what_was_used_there() -> None:
    memory = make(2)
    key, limits = ("groq", "key0", None), RateLimits(rpm=3)
    dead = RateAccount(key, limits, Table(memory, seats(2)[0]), 0.0)
    other = RateAccount(key, limits, Table(memory, seats(2)[1]), 0.0)
    for moment in (0.0, 30.0):
        dead.take(moment, ask())
    other.take(30.0, ask())
    successor = RateAccount(key, limits, Table(memory, seats(2)[0]), 31.0)
    assert (successor.refuses(31.0) is None, other.refuses(31.0) is None) == (False, False)
    assert (successor.refuses(90.0) is None, other.refuses(90.0) is None) == (False, False)
    assert (successor.refuses(90.25) is None, other.refuses(90.25) is None) == (True, True)


@pytest.mark.unit
def test_limits_that_a_reload_brings_and_takes_away() -> None:
    first, second = rates(rpm=2)
    first.take(0.0, ask(500))
    assert first.refuses(0.0) is None
    for one in (first, second):
        one.configure(RateLimits(tpm=600), 1.0)
    assert second.refuses(1.0, ask(200)) is not None  # what was under way then counts
    first.configure(RateLimits(), 1.0)
    assert second.refuses(1.0, ask(200)) is None


@pytest.mark.unit
def test_a_client_may_run_so_many_at_a_time_at_all_workers_together() -> None:
    first, second = [ClientAccount("c", RateLimits(in_flight=2), table, 0.0) for table in tables(2)]
    seats_ = [first.enter(0.0, 10), second.enter(0.0, 10)]
    for worker in (first, second):
        with pytest.raises(RateLimitExceeded, match="Client c may have 2 requests running at a time"):
            worker.enter(0.0, 10)
    seats_[0].leave(10)
    second.enter(0.0, 10).leave(10)
    seats_[1].leave(10)
    assert (first.in_flight, second.in_flight) == (0, 0)


@pytest.mark.unit
def test_a_client_is_told_how_it_stands_with_all_workers() -> None:
    fleet = Fleet(configuration(clients=client(rpm=10, tpm=1_000)))
    first, second = [worker.throttle.clients["c"] for worker in fleet.workers]
    first.enter(0.0, 100).leave(300)
    second.enter(20.0, 100).leave(100)
    assert dict(second.headers(30.0)) == {
        b"x-ratelimit-limit-requests": b"10",
        b"x-ratelimit-remaining-requests": b"8",
        b"x-ratelimit-reset-requests": b"51s",
        b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"600",
        b"x-ratelimit-reset-tokens": b"51s",
    }
    assert dict(first.headers(30.0)) == dict(second.headers(30.0))


@pytest.mark.unit
def test_a_client_that_a_reload_removes_is_no_longer_counted() -> None:
    fleet = Fleet(configuration(clients=client(rpm=2, in_flight=1)))
    first, second = fleet.workers
    seat = first.throttle.clients["c"].enter(0.0, 1)
    first.configure(replace(fleet.stated, clients={}))
    second.throttle.clients["c"].enter(0.0, 1).leave(1)
    seat.leave(1)
    second.throttle.clients["c"].enter(0.0, 1)


@pytest.mark.unit
def test_states_tell_what_all_have_used() -> None:
    fleet = Fleet(configuration(limits=RateLimits(rpm=30)))
    for worker in fleet.workers:
        (account,) = worker.throttle.of(
            fleet.stated.chains["smart"].targets[0], fleet.stated.providers["groq"].credentials[0], 0.0
        )
        account.take(0.0, ask())
    for worker in fleet.workers:
        (state,) = worker.throttle.states(1.0)
        assert (state.used, state.remaining) == (2, 28)
        assert state.resets_s == pytest.approx(59.25)


@pytest.mark.unit
def test_models_that_are_dropped_leave_the_table() -> None:
    table, _ = tables(2)
    throttle = Throttle(table)
    provider = Provider("groq", "openai", "http://127.0.0.1", (Credential("key0", Secret("fake")),))
    for number in range(10):
        target = Target(provider, f"m{number}", "other", limits=RateLimits(rpm=5))
        throttle.of(target, provider.credentials[0], 0.0)
    assert table.rows == 10
    throttle._drop_idle(0.0)
    assert table.rows == 0


@pytest.mark.unit
def test_without_room_in_the_table_each_counts_for_itself() -> None:
    table, other = tables(2)
    for number in range(5_000):
        table.cell(str(number))
    quotas = Quotas(Clock(), table), Quotas(Clock(), other)
    for one in quotas:
        one.configure(configuration(quotas=(Quota("requests", 10, "day"),)).providers.values())
        for account in one.accounts():
            account.take(0.0, ask()).settle(1, 5, None)
    assert [[state.used for state in one.states(NOW)] for one in quotas] == [[1], [1]]
    assert table.refused == 5_000 - 4_096 + 1


@pytest.mark.unit
@pytest.mark.parametrize(
    ("spent_at", "wanted", "free_at"),
    [
        ([0.0], 1, 60.25),
        ([0.0, 30.0], 1, 60.25),
        ([0.0, 30.0], 2, 90.25),
        ([0.0, 1.0, 2.0, 30.0], 1, 60.25),
        ([0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 50.0, 50.0, 50.0], 9, 110.25),
        ([0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 50.0, 50.0, 50.0], 5, 60.25 + 50 / 2),
    ],
)
def test_when_anothers_share_is_free_is_known_at_its_ends_and_guessed_between(
    spent_at: list[float], wanted: int, free_at: float
) -> None:
    first, second = [account.windows()[0] for account in rates(rpm=len(spent_at))]
    for moment in spent_at:
        first.take(moment, 1)
    assert second.free_in_s(50.0, wanted) == pytest.approx(free_at - 50.0)
    assert second.whole_in_s(50.0) == pytest.approx(spent_at[-1] + 60.25 - 50.0)
