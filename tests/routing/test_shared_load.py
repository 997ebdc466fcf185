"""Where targets share a chain's load, not all of them may be taken out for half of their requests failing."""

from __future__ import annotations

import pytest

from proxy.config.targets import static_target
from proxy.core.target import NO_CREDENTIAL, Chain, CircuitSettings, Provider, Strategy, Target
from proxy.routing.breaker import State
from proxy.routing.deployment import Deployment, Deployments
from proxy.routing.plan import SHARING, lay_out

pytestmark = pytest.mark.unit

NOW = 1000.0
SETTINGS = CircuitSettings()
SOON = 7.0  # seconds after which an open circuit lets a probe through, at the latest


def targets(count: int) -> tuple[Target, ...]:
    provider = Provider("p", "openai", "http://p.test/v1", (NO_CREDENTIAL,))
    return tuple(Target(provider, f"m{number}", f"m{number}") for number in range(count))


def laid_out(*chains: Chain) -> tuple[Deployments, list[Deployment]]:
    deployments = Deployments(lambda: 0.5)
    rows = [row for chain in chains for row in lay_out(chain, deployments).rows]
    found = {candidate.deployment.key: candidate.deployment for row in rows for candidate in row.candidates}
    return deployments, list(found.values())


def half_fail(deployment: Deployment, now: float = NOW, times: int = 40) -> None:
    breaker = deployment.breaker
    for number in range(times):
        (breaker.fail if number % 2 else breaker.ok)(breaker.generation, now)


def is_open(deployment: Deployment) -> bool:
    return deployment.breaker.state is State.OPEN


@pytest.mark.parametrize("strategy", sorted(SHARING))
@pytest.mark.parametrize(("count", "may"), [(1, 1), (2, 1), (3, 1), (4, 2), (7, 3)])
def test_half_of_them_at_most_open_by_their_rate_and_one_at_least(strategy: Strategy, count: int, may: int) -> None:
    _, found = laid_out(Chain("shared", targets(count), strategy=strategy))
    for deployment in found:
        half_fail(deployment)
    assert [is_open(deployment) for deployment in found] == [True] * may + [False] * (count - may)


@pytest.mark.parametrize("strategy", ["order", "fastest", "cheapest", "score"])
def test_in_a_chain_that_goes_by_an_order_each_has_its_own(strategy: Strategy) -> None:
    _, found = laid_out(Chain("ordered", targets(4), strategy=strategy))
    for deployment in found:
        half_fail(deployment)
    assert all(map(is_open, found))


def test_faults_in_a_row_open_any_and_do_not_count_against_the_others() -> None:
    _, found = laid_out(Chain("shared", targets(4), strategy="weighted"))
    for deployment in found[:2]:
        for _ in range(SETTINGS.failures):
            deployment.breaker.fail(deployment.breaker.generation, NOW)
    for deployment in found[2:]:
        half_fail(deployment)
    assert all(map(is_open, found)), "two by faults in a row, two by their rate"


def test_one_that_has_come_back_leaves_its_place_to_another() -> None:
    _, (first, second) = laid_out(Chain("shared", targets(2), strategy="round_robin"))
    half_fail(first)
    half_fail(second)
    assert (is_open(first), is_open(second)) == (True, False)
    generation = first.breaker.acquire(NOW + SOON)
    assert generation is not None
    half_fail(second, NOW + SOON, 2)
    assert not is_open(second), "the first is being probed: it is not back yet"
    first.breaker.ok(generation, NOW + SOON)
    half_fail(second, NOW + SOON, 2)
    assert is_open(second)


def test_what_another_chain_says_does_not_take_the_half_away() -> None:
    """The circuit is one for all chains that have the target."""
    both = targets(2)
    _, found = laid_out(Chain("ordered", both), Chain("shared", both, strategy="least_busy"))
    for deployment in found:
        half_fail(deployment)
    assert sum(map(is_open, found)) == 1


def test_static_answers_are_none_of_those_who_share() -> None:
    _, found = laid_out(Chain("shared", (*targets(2), static_target("Later."), static_target("No.")), strategy="weighted"))
    for deployment in found:
        half_fail(deployment)
    assert [is_open(deployment) for deployment in found[:2]] == [True, False]
