"""Quotas: what is left of what a provider gives, and when there is more of it."""

from dataclasses import dataclass, replace
from datetime import datetime
from math import inf
from typing import Any, cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.accounting.journal import Journal, JournalError
from proxy.accounting.quotas import QuotaAccount, Quotas, reset_quota
from proxy.accounting.records import QuotaReset, Record
from proxy.core.allowance import Ask, Held
from proxy.core.errors import NotFound
from proxy.core.limits import Quota, Unit
from proxy.core.target import Credential, Provider, Secret

pytestmark = pytest.mark.unit
LONG = 1e9


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


NOW = at("2026-02-27T18:30Z")
DAILY = Quota("requests", 10, "day")
MONTHLY = Quota("tokens", 1_000, "month")


@dataclass
class Clock:
    now: float = NOW

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now - NOW


def provider(*quotas: Quota, name: str = "groq", keys: int = 1, **rest: Any) -> Provider:
    credentials = tuple(Credential(f"key{n}", Secret("fake")) for n in range(keys))
    return Provider(name, "openai", "http://127.0.0.1", credentials, quotas=quotas, **rest)


class Given:
    """The quotas of some providers, on a clock that is set."""

    def __init__(self, *providers: Provider) -> None:
        self.clock = Clock()
        self.quotas = Quotas(self.clock)
        self.quotas.configure(providers)
        self.first = providers[0]

    def of(self, key: int = 0) -> tuple[QuotaAccount, ...]:
        return self.quotas.of(self.first, self.first.credentials[key])

    def send(self, tokens: int = 100, *, bound: int = 200, key: int = 0) -> None:
        for account in self.of(key):
            account.take(0.0, ask(bound)).settle(1, tokens, None)

    def used(self) -> list[int]:
        return [state.used for state in self.quotas.states(self.clock.now)]


def ask(tokens: int = 200) -> Ask:
    return Ask(tokens, tokens, None, LONG)


def test_requests_and_tokens_are_counted_each_for_itself() -> None:
    given = Given(provider(DAILY, MONTHLY))
    given.send(100)
    given.send(50)
    assert given.used() == [2, 150]


def test_what_never_left_counts_nothing() -> None:
    given = Given(provider(DAILY, MONTHLY))
    for account in given.of():
        account.take(0.0, ask()).settle(0, 0, None)
        account.take(0.0, ask()).release()
    assert given.used() == [0, 0]
    assert given.quotas.outstanding == 0


def test_what_is_held_counts_until_it_is_known() -> None:
    given = Given(provider(MONTHLY))
    (account,) = given.of()
    held = account.take(0.0, ask(1_000))
    assert (account.refuses(0.0), account.free_in_s(0.0)) == ("quota taken up by requests in flight", 1.0)
    held.settle(1, 40, None)
    assert (account.refuses(0.0), given.used()) == (None, [40])


@pytest.mark.parametrize(
    ("quota", "reason", "free_in_s"),
    [
        (DAILY, "quota spent: 10 of 10 requests today, resets 2026-02-28T00:00:00Z", 5.5 * 3600),
        (
            Quota("requests", 10, "day", "America/Los_Angeles", 7),
            "quota spent: 10 of 10 requests today, resets 2026-02-28T15:00:00Z",
            20.5 * 3600,
        ),
        (MONTHLY, "quota spent: 1,000 of 1,000 tokens this month, resets 2026-03-01T00:00:00Z", 29.5 * 3600),
        (Quota("tokens", 1_000, "once"), "quota spent: 1,000 of 1,000 tokens, does not reset", inf),
    ],
)
def test_a_spent_quota_says_how_much_it_was_and_when_there_is_more(quota: Quota, reason: str, free_in_s: float) -> None:
    given = Given(provider(quota))
    (account,) = given.of()
    for _ in range(10):
        assert (account.refuses(0.0), account.free_in_s(0.0)) == (None, 0.0)
        given.send(100)
    assert account.refuses(0.0) == reason
    assert account.free_in_s(0.0) == free_in_s
    if free_in_s < inf:
        given.clock.now += free_in_s - 0.001
        assert account.refuses(0.0) == reason
        given.clock.now += 0.001
        assert (account.refuses(0.0), given.used()) == (None, [0])


def test_keys_share_a_quota_unless_each_has_its_own() -> None:
    given = Given(provider(DAILY, replace(MONTHLY, each_key=True), keys=2))
    given.send(100, key=0)
    given.send(50, key=1)
    states = given.quotas.states(NOW)
    assert [(state.unit, state.key, state.used) for state in states] == [
        ("requests", None, 2),
        ("tokens", "key0", 100),
        ("tokens", "key1", 50),
    ]
    assert [account.key for account in given.of(1)] == [None, "key1"]


def test_a_provider_that_cannot_be_used_has_no_quota_and_two_alike_are_the_smaller() -> None:
    given = Given(provider(DAILY, disabled="no key"), provider(DAILY, replace(DAILY, limit=3), name="other"))
    assert [(state.provider, state.limit) for state in given.quotas.states(NOW)] == [("other", 3)]
    assert given.of() == ()


def test_a_reload_keeps_what_was_counted_while_the_period_stays() -> None:
    given = Given(provider(DAILY, MONTHLY))
    given.send(100)
    given.quotas.configure([provider(replace(DAILY, limit=5), replace(MONTHLY, hour=6))])
    assert [(state.limit, state.used) for state in given.quotas.states(NOW)] == [(5, 1), (1_000, 0)]


def test_a_seed_raises_and_never_lowers_and_is_of_this_period() -> None:
    given = Given(provider(DAILY))
    (account,) = given.of()
    start = account.now().start
    assert account.seed(4, start)
    assert not account.seed(3, start)
    assert not account.seed(9, start - 86_400)
    assert given.used() == [4]


# -- The operator lets it begin anew


class Records:
    def __init__(self, *, broken: bool = False) -> None:
        self.kept: list[Record] = []
        self.broken = broken

    def append(self, record: Record) -> None:
        if self.broken:
            raise JournalError("the disk is full")
        self.kept.append(record)


def reset(given: Given, records: Records, key: str | None = None) -> list[tuple[str | None, int]]:
    states = reset_quota(given.quotas, cast(Journal, records), "groq", key, wall=given.clock.now)
    return [(state.key, state.used) for state in states]


def test_a_reset_counts_at_once_and_is_written_down() -> None:
    given, records = Given(provider(DAILY, replace(MONTHLY, each_key=True), keys=2)), Records()
    given.send(1_000, key=1)
    assert reset(given, records, "key1") == [("key1", 0)]
    assert given.used() == [1, 0, 0]
    assert reset(given, records) == [(None, 0), ("key0", 0), ("key1", 0)]
    assert records.kept == [QuotaReset(round(NOW * 1000), "groq", "key1"), QuotaReset(round(NOW * 1000), "groq", None)]
    given.clock.now = at("2026-02-28T00:00Z")
    assert given.quotas.states(given.clock.now)[0].start == given.clock.now


@pytest.mark.parametrize(("name", "key"), [("cohere", None), ("groq", "key0"), ("groq", "key9")])
def test_a_reset_of_what_there_is_not_is_told(name: str, key: str | None) -> None:
    given, records = Given(provider(DAILY)), Records()
    with pytest.raises(NotFound, match="has no quota"):
        reset_quota(given.quotas, cast(Journal, records), name, key, wall=NOW)
    assert records.kept == []


def test_a_reset_that_cannot_be_written_down_changes_nothing() -> None:
    given = Given(provider(DAILY))
    given.send()
    with pytest.raises(JournalError):
        reset(given, Records(broken=True))
    assert given.used() == [1]


def test_what_the_ledger_knows_of_resets_counts_once_and_only_in_its_period() -> None:
    given = Given(provider(DAILY))
    (account,) = given.of()
    given.send()
    noon_ms = round(at("2026-02-27T12:00Z") * 1000)
    given.quotas.begin_anew({("groq", None): round(at("2026-02-26T12:00Z") * 1000)})
    assert (given.used(), account.now().start) == ([1], at("2026-02-27T00:00Z"))
    given.quotas.begin_anew({("groq", None): noon_ms, ("cohere", None): noon_ms, ("groq", "key0"): noon_ms})
    assert (given.used(), account.now().start) == ([0], at("2026-02-27T12:00Z"))
    given.send()
    given.quotas.begin_anew({("groq", None): noon_ms})
    assert given.used() == [1]


# -- Any order


class QuotaMachine(RuleBasedStateMachine):
    """Any order of sending, ending, losing, resetting and waiting, against a model that counts by hand."""

    unit: Unit = "tokens"

    def __init__(self) -> None:
        super().__init__()
        self.given = Given(provider(Quota(self.unit, 500, "day", "America/New_York", 2)))
        self.clock = self.given.clock
        self.clock.now = at("2026-03-07T07:00Z")  # two o'clock there; on the next day there is none
        self.used: dict[int, int] = {}  # by the period in which an attempt was begun
        self.period = 0
        self.out: list[tuple[Held, int, int]] = []
        self.end = at("2026-03-08T07:00Z")

    def taken(self) -> int:
        return self.used.get(self.period, 0) + sum(amount for _, amount, period in self.out if period == self.period)

    @rule(bound=st.integers(1, 200))
    def begin(self, bound: int) -> None:
        (account,) = self.given.of()
        refused = account.refuses(0.0, ask(bound)) is not None
        assert refused == (self.taken() >= 500)
        if not refused:
            amount = bound if self.unit == "tokens" else 1
            self.out.append((account.take(0.0, ask(bound)), amount, self.period))

    @precondition(lambda self: self.out)
    @rule(data=st.data(), sent=st.booleans())
    def end_one(self, data: st.DataObject, sent: bool) -> None:
        held, amount, period = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        tokens = data.draw(st.integers(0, amount)) if sent else 0
        held.settle(int(sent), tokens, None)
        self.used[period] = self.used.get(period, 0) + (tokens if self.unit == "tokens" else int(sent))

    @precondition(lambda self: self.out)
    @rule()
    def give_one_back(self) -> None:
        self.out.pop()[0].release()

    @rule(minutes=st.integers(1, 600))
    def wait(self, minutes: int) -> None:
        self.clock.now += 60 * minutes
        if self.clock.now >= self.end:
            self.period += 1
            self.end += 86_400 - (3_600 if self.end == at("2026-03-08T07:00Z") else 0)

    @rule()
    def reset_by_hand(self) -> None:
        reset(self.given, Records())
        self.clock.now += 0.002
        self.period += 1

    @invariant()
    def sums_agree(self) -> None:
        (state,) = self.given.quotas.states(self.clock.now)
        assert state.used == self.used.get(self.period, 0)
        assert state.used + state.held == self.taken()
        assert all(used < 500 + 200 for used in self.used.values())
        assert state.resets == self.end
        assert self.given.quotas.outstanding == len(self.out)


class RequestQuotaMachine(QuotaMachine):
    unit = "requests"


TestQuotaMachine = pytest.mark.property(QuotaMachine.TestCase)
TestRequestQuotaMachine = pytest.mark.property(RequestQuotaMachine.TestCase)
