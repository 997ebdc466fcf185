"""Sixty days of traffic on a clock that is set, over changes of the clocks in four zones, with a restart now and then.

Whatever plan, permits and accounts do is held against sums that are made here by other means, by the calendar of each zone: nothing goes
past a quota, nothing is held back once there is more of it, and what is spent agrees to the nano-dollar.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest

from proxy.accounting.budgets import Reserved
from proxy.accounting.spending import Spending
from proxy.accounting.states import read_states
from proxy.config.settings import ClientSettings, Settings
from proxy.core.allowance import Ask
from proxy.core.errors import BudgetExceeded
from proxy.core.limits import Budget, Quota
from proxy.core.target import Chain, Credential, Provider, Secret, Target
from proxy.routing.deployment import Deployments, Permit
from proxy.routing.plan import Candidate, plan
from proxy.routing.verdict import Effect
from tests.engine import harness

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

# New York goes forward on March 8, Berlin on March 29, Chatham back on April 5; Kolkata never does, and is half an hour off
START = datetime(2026, 2, 15, 9, 30, tzinfo=UTC).timestamp()
DAYS = 60
REQUESTS = DAYS * 150
RESTARTS_AT = (1_500, 4_501, 7_750)
NUSD_PER_TOKEN = 137  # not a round figure
LONG = 1e9

QUOTAS: dict[str, tuple[Quota, ...]] = {
    "newyork": (Quota("requests", 20, "day", "America/New_York", 2),),
    "kolkata": (Quota("tokens", 3_000, "day", "Asia/Kolkata", 0), Quota("requests", 300, "month", "UTC", 0)),
    "berlin": (Quota("tokens", 40_000, "month", "Europe/Berlin", 3, each_key=True),),
    "chatham": (Quota("requests", 13, "day", "Pacific/Chatham", 3, each_key=True),),
    "trial": (Quota("tokens", 5_000, "once"),),
    "paid": (),
}
PAID = Budget(3_000_000, "day")
CLIENTS = {
    "batch": ClientSettings("batch", frozenset(), budget=Budget(15_000_000, "month")),
    "chat": ClientSettings("chat", frozenset(), budget=Budget(10**12, "day")),
}


@dataclass
class Clock:
    now: float = START

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now - START


@dataclass
class Sent:
    """An attempt, as a ledger would have it."""

    wall: float
    provider: str
    key: str
    client: str
    tokens: int | None = None  # until it has ended

    @property
    def cost_nusd(self) -> int:
        return (self.tokens or 0) * NUSD_PER_TOKEN if self.provider in ("paid", "trial") else 0


def period_of(quota: Quota | Budget, wall: float) -> date | str:
    """Which of its periods a moment is in, by what a calendar and a clock on the wall there say."""
    if quota.per == "once":
        return "once"
    zone, hour = (quota.time_zone, quota.hour) if isinstance(quota, Quota) else ("UTC", 0)
    # where the clocks go back over the hour, what has begun does not end: hence the hour before is looked at, too
    days = [_day(wall - minutes * 60, ZoneInfo(zone), hour) for minutes in (0, 15, 30, 45, 60)]
    return max(days) if quota.per == "day" else max(days).replace(day=1)


def _day(wall: float, zone: ZoneInfo, hour: int) -> date:
    there = datetime.fromtimestamp(wall, zone)
    return there.date() if there.hour >= hour else there.date() - timedelta(days=1)


class Ledger:
    """Every attempt, and sums over them. Implements Sums."""

    def __init__(self) -> None:
        self.attempts: list[Sent] = []

    async def spent_nusd(self, scope: str, name: str | None, since_ms: int) -> int:
        return sum(
            sent.cost_nusd
            for sent in self.attempts
            if sent.wall * 1000 >= since_ms and (scope == "total" or getattr(sent, scope) == name)
        )

    async def used(self, provider: str, credential: str | None, since_ms: int) -> tuple[int, int]:
        found = [
            sent
            for sent in self.attempts
            if sent.provider == provider and sent.key == (credential or sent.key) and sent.wall * 1000 >= since_ms
        ]
        return len(found), sum(sent.tokens or 0 for sent in found)

    async def quota_resets(self) -> Mapping[tuple[str, str | None], int]:
        return {}


@dataclass
class Open:
    """An attempt that is under way, with the most it may take."""

    sent: Sent
    permit: Permit
    reserved: Reserved
    bound: int


class Simulation:
    def __init__(self) -> None:
        self.random = Random(60)
        self.clock = Clock()
        self.ledger = Ledger()
        self.open: list[Open] = []
        self.told: Counter[str] = Counter()
        self.paid: Counter[date | str] = Counter()  # by day, with what is held
        self.used: Counter[tuple[str, str | None, Quota, date | str]] = Counter()  # with what is held
        targets = tuple([self.target(name, quotas) for name, quotas in QUOTAS.items()])
        self.chain = Chain("smart", targets)
        stated = harness.settings(self.chain)
        self.settings: Settings = replace(stated, clients=CLIENTS, budget=Budget(10**13, "month", hard=False))
        self.start()

    @staticmethod
    def target(name: str, quotas: tuple[Quota, ...]) -> Target:
        keys = tuple([Credential(f"{name}-{n}", Secret("fake")) for n in range(2)])
        provider = Provider(name, "openai", "http://x", keys, quotas=quotas, budget=PAID if name == "paid" else None)
        return Target(provider, "m", "m")

    def start(self) -> None:
        self.spending = Spending(self.clock)
        self.spending.configure(self.settings)
        self.deployments = Deployments(lambda: 0.5, allowances=self.spending.allowances)

    async def restart(self) -> None:
        """What was under way comes to its end; all that was counted is gone but for the ledger."""
        while self.open:
            self.end(self.open.pop())
        self.start()
        await self.spending.seed(self.ledger)

    def counts(self, candidate: Candidate, wall: float) -> list[tuple[Quota, tuple[str, str | None, Quota, date | str]]]:
        name, key = candidate.target.provider.name, candidate.credential.id
        return [(quota, (name, key if quota.each_key else None, quota, period_of(quota, wall))) for quota in QUOTAS[name]]

    def is_full(self, candidate: Candidate) -> bool:
        """By the sums that are made here."""
        if any(self.used[which] >= quota.limit for quota, which in self.counts(candidate, self.clock.now)):
            return True
        return candidate.target.provider.name == "paid" and self.paid[period_of(PAID, self.clock.now)] >= PAID.limit_nusd

    def request(self) -> None:
        now, wall = self.clock.monotonic(), self.clock.wall()
        bound = self.random.randrange(50, 900)
        client = self.random.choice(["batch", "chat", "chat"])
        try:
            accounts = self.spending.budgets.of(client, None, None)
            reserved = self.spending.budgets.reserve(accounts, bound * NUSD_PER_TOKEN, LONG)
        except BudgetExceeded:
            self.told["refused"] += 1
            return
        made = plan(self.chain, self.deployments, now, needs=frozenset())
        for target in self.chain.targets:
            for credential in target.provider.credentials:
                candidate = Candidate(target, credential, self.deployments.get(target, credential))
                assert self.is_full(candidate) == (candidate.deployment.unusable(now) is not None), (target.name, wall)
        if not made.candidates:
            self.told["nothing left"] += 1
            reserved.release()
            return
        candidate = made.candidates[0]
        permit = candidate.deployment.acquire(now, Ask(bound, bound, bound * NUSD_PER_TOKEN, LONG))
        assert permit is not None
        self.told[candidate.target.provider.name] += 1
        sent = Sent(wall, candidate.target.provider.name, candidate.credential.id, client)
        for quota, which in self.counts(candidate, wall):
            assert self.used[which] < quota.limit, "sent past a quota"
            self.used[which] += bound if quota.unit == "tokens" else 1
        if sent.provider == "paid":
            self.paid[period_of(PAID, wall)] += bound * NUSD_PER_TOKEN
        self.ledger.attempts.append(sent)
        self.open.append(Open(sent, permit, reserved, bound))

    def end(self, one: Open) -> None:
        sent = one.sent
        sent.tokens = self.random.randrange(0, one.bound + 1)
        if sent.provider == "paid":
            self.paid[period_of(PAID, sent.wall)] -= (one.bound - sent.tokens) * NUSD_PER_TOKEN
        one.permit.settle(1, sent.tokens, sent.cost_nusd)
        one.permit.release(Effect.OK, self.clock.monotonic())
        one.reserved.settle(sent.cost_nusd)
        target = next(target for target in self.chain.targets if target.provider.name == sent.provider)
        (credential,) = [credential for credential in target.provider.credentials if credential.id == sent.key]
        for quota, which in self.counts(Candidate(target, credential, self.deployments.get(target, credential)), sent.wall):
            if quota.unit == "tokens":
                self.used[which] -= one.bound - sent.tokens

    async def agrees_with_the_ledger(self) -> None:
        """The states of a running proxy are those that the ledger alone gives, to the nano-dollar."""
        while self.open:
            self.end(self.open.pop())
        wall = self.clock.wall()
        budgets, quotas = await read_states(self.settings, self.ledger, wall)
        assert self.spending.budgets.states(wall) == budgets
        assert self.spending.quotas.states(wall) == quotas


async def test_sixty_days_go_past_no_quota_and_agree_to_the_nano_dollar() -> None:
    simulation = Simulation()
    for n in range(REQUESTS):
        simulation.clock.now += simulation.random.expovariate(REQUESTS / (DAYS * 86_400))
        while simulation.open and simulation.random.random() < 0.6:
            simulation.end(simulation.open.pop(simulation.random.randrange(len(simulation.open))))
        simulation.request()
        if n in RESTARTS_AT:
            await simulation.restart()
        if n % 997 == 0:
            await simulation.agrees_with_the_ledger()
    await simulation.agrees_with_the_ledger()
    assert simulation.clock.now - START > 55 * 86_400
    told = simulation.told
    assert min(told[name] for name in (*QUOTAS, "refused", "nothing left")) > 10, told
    overshoot = {
        which[:3]: used - which[2].limit
        for which, used in simulation.used.items()
        if which[2].unit == "tokens" and used > which[2].limit
    }
    assert overshoot, "no quota was ever crossed by its last request"
    assert max(overshoot.values()) < 900  # a single request's bound


@pytest.mark.parametrize(
    ("quota", "spent_at", "returns_at"),
    [
        (Quota("requests", 1, "day"), "2026-03-07T23:59:59Z", "2026-03-08T00:00:00Z"),
        (Quota("requests", 1, "day", "America/New_York", 2), "2026-03-07T12:00:00Z", "2026-03-08T07:00:00Z"),
        (Quota("requests", 1, "day", "America/New_York", 2), "2026-03-08T07:00:00Z", "2026-03-09T06:00:00Z"),
        (Quota("requests", 1, "day", "America/New_York", 1), "2026-11-01T05:00:00Z", "2026-11-02T06:00:00Z"),
        (Quota("requests", 1, "month", "Europe/Berlin", 0), "2026-03-15T00:00:00Z", "2026-03-31T22:00:00Z"),
        (Quota("requests", 1, "month", "Pacific/Chatham", 3), "2026-03-31T13:14:00Z", "2026-03-31T13:15:00Z"),
        (Quota("requests", 1, "month", "America/Los_Angeles"), "2026-12-15T00:00:00Z", "2027-01-01T08:00:00Z"),
    ],
)
def test_a_spent_quota_returns_at_the_instant_of_its_reset(quota: Quota, spent_at: str, returns_at: str) -> None:
    clock = Clock(datetime.fromisoformat(spent_at).timestamp())
    spending = Spending(clock)
    chain = Chain("smart", (Simulation.target("newyork", (quota,)),))
    spending.configure(harness.settings(chain))
    deployments = Deployments(lambda: 0.5, allowances=spending.allowances)
    credential = chain.targets[0].provider.credentials[0]
    permit = deployments.get(chain.targets[0], credential).acquire(clock.monotonic(), Ask(1, 1, None, LONG))
    assert permit is not None
    permit.settle(1, 1, None)
    permit.release(Effect.OK, clock.monotonic())
    returns = datetime.fromisoformat(returns_at).timestamp()
    made = plan(chain, deployments, clock.monotonic(), needs=frozenset())
    assert (made.candidates, made.soonest_s) == ([], returns - clock.now)
    clock.now = returns - 0.001
    assert plan(chain, deployments, clock.monotonic(), needs=frozenset()).candidates == []
    clock.now = returns
    assert plan(chain, deployments, clock.monotonic(), needs=frozenset()).candidates != []
