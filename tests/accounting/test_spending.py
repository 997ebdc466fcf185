"""All that is counted together: raised to the ledger's sums, read from them without a server, kept over a reload."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import pytest

from proxy.accounting.spending import Spending, needs_sums
from proxy.accounting.states import BudgetState, QuotaState, read_states
from proxy.config.settings import ClientSettings, Settings
from proxy.core.allowance import Ask
from proxy.core.limits import Budget, Quota, RateLimits
from proxy.core.target import Chain, Credential, Provider, QualitySettings, Secret, Target
from tests.engine import harness

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


NOW = at("2026-02-27T18:30Z")
DAILY = Quota("requests", 10, "day", "America/New_York", 2)
MONTHLY = Quota("tokens", 1_000, "month", each_key=True)


@dataclass
class Clock:
    now: float = NOW

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now - NOW


@dataclass
class Ledger:
    """Implements Sums: fixed figures, and what was asked for. `pause` happens while a question is answered."""

    resets: Mapping[tuple[str, str | None], int] = field(default_factory=dict)
    asked: list[tuple[str, str | None, int]] = field(default_factory=list)
    clock: Clock | None = None

    async def spent_nusd(self, scope: str, name: str | None, since_ms: int) -> int:
        self.asked.append((scope, name, since_ms))
        self.pass_time()
        return 5_000

    async def used(self, provider: str, credential: str | None, since_ms: int) -> tuple[int, int]:
        self.asked.append((provider, credential, since_ms))
        self.pass_time()
        return 7, 700

    async def quota_resets(self) -> Mapping[tuple[str, str | None], int]:
        return self.resets

    def pass_time(self) -> None:
        if self.clock is not None:
            self.clock.now = at("2026-03-02T12:00Z")


def configuration() -> Settings:
    keys = (Credential("key0", Secret("fake")), Credential("key1", Secret("fake")))
    tier = Provider("tier", "openai", "http://x", keys, quotas=(DAILY, MONTHLY), limits=RateLimits(rpm=5))
    paid = Provider("paid", "openai", "http://x", keys, budget=Budget(10**6, "day"))
    off = Provider("off", "openai", "http://x", keys, quotas=(DAILY,), disabled="no key")
    judged = QualitySettings(0.6, "paid/m", Budget(10**8))
    chain = Chain("smart", tuple([Target(provider, "m", "m") for provider in (tier, paid, off)]), quality=judged)
    return replace(
        harness.settings(chain),
        budget=Budget(10**9, hard=False),
        clients={"c": ClientSettings("c", frozenset(), budget=Budget(10**7, "once"))},
        departments={"research": Budget(10**8)},
        agents={"search": Budget(10**8)},
    )


MONTH = (at("2026-02-01T00:00Z"), at("2026-03-01T00:00Z"))
DAY = (at("2026-02-27T00:00Z"), at("2026-02-28T00:00Z"))
EXPECTED = (
    [
        BudgetState("total", None, 10**9, 5_000, 0, "month", False, *MONTH),
        BudgetState("provider", "paid", 10**6, 5_000, 0, "day", True, *DAY),
        BudgetState("client", "c", 10**7, 5_000, 0, "once", True, 0.0, None),
        BudgetState("department", "research", 10**8, 5_000, 0, "month", True, *MONTH),
        BudgetState("agent", "search", 10**8, 5_000, 0, "month", True, *MONTH),
        BudgetState("judge", "smart", 10**8, 5_000, 0, "month", True, *MONTH),
    ],
    [
        QuotaState(
            "tier", None, "requests", 10, 7, 0, "day", "America/New_York", 2, at("2026-02-27T07:00Z"), at("2026-02-28T07:00Z")
        ),
        QuotaState("tier", "key0", "tokens", 1_000, 700, 0, "month", "UTC", 0, *MONTH),
        QuotaState("tier", "key1", "tokens", 1_000, 700, 0, "month", "UTC", 0, *MONTH),
    ],
)


async def test_a_running_proxy_and_the_ledger_alone_tell_the_same() -> None:
    assert not Spending(Clock()).is_counted
    spending = Spending(Clock())
    spending.configure(configuration())
    assert spending.is_counted
    seeding, reading = Ledger(), Ledger()
    await spending.seed(seeding)
    assert await read_states(configuration(), reading, NOW) == EXPECTED
    assert (spending.budgets.states(NOW), spending.quotas.states(NOW)) == EXPECTED
    assert seeding.asked == reading.asked
    assert [state.utilization for state in EXPECTED[1]] == [0.7, 0.7, 0.7]
    assert BudgetState("total", None, 0, 0, 0, "month", True, *MONTH).utilization == 1.0


@pytest.mark.parametrize(
    ("resets", "starts"),
    [
        ({}, [DAY[0] + 7 * 3600, MONTH[0], MONTH[0]]),
        ({("tier", None): "2026-02-27T12:00Z"}, ["2026-02-27T12:00Z"] * 3),
        ({("tier", None): "2026-02-10T12:00Z"}, [DAY[0] + 7 * 3600, "2026-02-10T12:00Z", "2026-02-10T12:00Z"]),
        ({("tier", "key1"): "2026-02-27T12:00Z", ("paid", None): "2026-02-27T13:00Z"}, [DAY[0] + 7 * 3600, MONTH[0], "2026-02-27T12:00Z"]),
        (
            {("tier", None): "2026-02-20T12:00Z", ("tier", "key1"): "2026-02-10T12:00Z"},
            [DAY[0] + 7 * 3600, "2026-02-20T12:00Z", "2026-02-20T12:00Z"],
        ),
    ],
)  # fmt: skip
async def test_what_the_operator_reset_counts_from_then_on(
    resets: dict[tuple[str, str | None], str], starts: list[float | str]
) -> None:
    ledger = Ledger({whose: round(at(text) * 1000) for whose, text in resets.items()})
    spending = Spending(Clock())
    spending.configure(configuration())
    await spending.seed(ledger)
    _, quotas = await read_states(configuration(), ledger, NOW)
    assert [state.start for state in quotas] == [at(start) if isinstance(start, str) else start for start in starts]
    assert spending.quotas.states(NOW) == quotas


async def test_sums_that_arrive_after_their_period_raise_nothing() -> None:
    clock = Clock()
    spending = Spending(clock)
    spending.configure(configuration())
    await spending.seed(Ledger(clock=clock))
    spent = {(state.scope, state.spent_nusd) for state in spending.budgets.states(clock.now)}
    # the first answer came when the month was over; the others were asked for in the new one, but that of a day which is over, too
    assert ("total", 0) in spent
    assert ("client", 5_000) in spent


def test_a_start_waits_for_the_ledger_where_there_is_a_budget_or_a_quota() -> None:
    whole = configuration()
    bare = replace(whole, providers={}, chains={}, wildcards=(), budget=None, clients={}, departments={}, agents={})
    limited = [
        replace(bare, **{part: getattr(whole, part)}) for part in ("budget", "clients", "departments", "agents", "providers")
    ]
    assert [needs_sums(settings) for settings in (bare, whole, *limited)] == [False] + [True] * 6
    for settings in (bare, whole, *limited):
        spending = Spending(Clock())
        spending.configure(settings)
        assert spending.is_counted == needs_sums(settings)


async def test_nothing_without_providers_and_what_they_give() -> None:
    settings = replace(configuration(), providers={}, chains={}, budget=None, clients={}, departments={}, agents={})
    assert await read_states(settings, Ledger(), NOW) == ([], [])


async def test_attempts_are_held_against_budget_quota_and_minute_in_this_order() -> None:
    settings = configuration()
    provider = replace(settings.providers["tier"], budget=Budget(10**6))
    spending = Spending(Clock())
    spending.configure(replace(settings, providers={"tier": provider}))
    allowances = spending.allowances(Target(provider, "m", "m"), provider.credentials[1])
    assert [type(each).__name__ for each in allowances] == ["BudgetAccount", "QuotaAccount", "QuotaAccount", "RateAccount"]
    assert (
        spending.allowances(
            Target(replace(provider, name="other", quotas=(), limits=RateLimits()), "m", "m"), provider.credentials[0]
        )
        == ()
    )


async def test_what_is_lost_is_swept_from_budgets_and_quotas() -> None:
    settings, clock = configuration(), Clock()
    spending = Spending(clock)
    spending.configure(settings)
    tier = settings.providers["tier"]
    for allowance in spending.allowances(Target(tier, "m", "m"), tier.credentials[0]):
        allowance.take(0.0, Ask(100, 100, 1, 720.0))
    spending.budgets.reserve(spending.budgets.of("c", None, None), 100, 720.0)
    clock.now += 719.0
    assert (spending.sweep(), spending.quotas.outstanding, spending.budgets.outstanding) == (0, 2, 2)
    clock.now += 1.0
    assert (spending.sweep(), spending.quotas.outstanding, spending.budgets.outstanding) == (4, 0, 0)
    assert [state.held for state in spending.quotas.states(clock.now)] == [0, 0, 0]
