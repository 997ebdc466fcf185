"""Minutes of traffic in a virtual clock: what a dead provider costs, and how much a storm of faults is made worse."""

import random

import pytest

from proxy.core.target import Chain, Credential, Provider, Secret, Target
from proxy.routing.deployment import Deployments
from proxy.routing.plan import ChainTrickle, plan
from proxy.routing.retry_budget import RetryBudget
from proxy.routing.verdict import Effect

pytestmark = pytest.mark.property
NOTHING: frozenset[str] = frozenset()
RATE = 250  # requests a second: one of four workers at 1,000


def chain(*names: str) -> Chain:
    return Chain(
        "smart",
        tuple(Target(Provider(n, "openai", "http://127.0.0.1", (Credential(n, Secret("fake")),)), "m", "m") for n in names),
    )


def test_a_dead_primary_is_touched_by_at_most_two_requests_in_a_thousand_and_comes_back() -> None:
    state, trickle, ab = Deployments(random.Random(7).random), ChainTrickle(), chain("a", "b")
    touched = 0
    first_success = None
    dead_until = 120.0
    for n in range(int(170 * RATE)):
        now = n / RATE
        for candidate in plan(ab, state, now, needs=NOTHING, trickle=trickle).candidates:
            permit = candidate.deployment.acquire(now)
            if permit is None:
                continue
            primary = candidate.target.provider.name == "a"
            if primary and now < dead_until:
                touched += 1
                permit.release(Effect.FAIL, now)
                continue
            if primary and first_success is None:
                first_success = now - dead_until
            permit.release(Effect.OK, now)
            break
        else:
            pytest.fail("a request was not served")
    assert touched / (dead_until * RATE) <= 0.002
    assert first_success is not None
    assert first_success <= 37.5
    assert state.get(ab.targets[0], ab.targets[0].provider.credentials[0]).breaker.calm


def test_with_everything_failing_at_most_a_third_is_added() -> None:
    """No breaker helps here: it is what the retry budget alone lets through."""
    budget = RetryBudget(0.0)
    sent = 0
    requests = int(60 * RATE)
    for n in range(requests):
        now = n / RATE
        budget.firsts += 1
        sent += 1
        while budget.take(now):
            sent += 1
    assert 1.15 <= sent / requests <= 1.3


def test_an_upstream_that_fails_throughout_gets_little_and_is_never_forgotten() -> None:
    state, trickle, only = Deployments(random.Random(7).random), ChainTrickle(), chain("a")
    budget = RetryBudget(0.0)
    sent = 0
    last = 0.0
    longest = 0.0
    requests = int(120 * RATE)
    for n in range(requests):
        now = n / RATE
        for candidate in plan(only, state, now, needs=NOTHING, trickle=trickle).candidates:
            budget.firsts += 1
            permit = candidate.deployment.acquire(now)
            while permit is not None:
                permit.release(Effect.FAIL, now)
                sent += 1
                longest, last = max(longest, now - last), now
                permit = candidate.deployment.acquire(now) if budget.take(now) else None
    assert sent / requests <= 1.3
    assert sent <= 5 + 2 * 121
    assert longest <= 1.1


def test_the_budget_is_capped() -> None:
    budget = RetryBudget(0.0)
    budget.firsts += 1
    assert budget.tokens(1e6) == 200
