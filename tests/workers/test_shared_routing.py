"""What the deployments of several workers learn from each other, over the table that they share."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxy.core.limits import RateLimits
from proxy.core.shared import ALONE
from proxy.core.target import Credential, Provider, Secret, Target
from proxy.routing.breaker import State
from proxy.routing.deployment import CREDENTIAL_LATCH_S, MODEL_LATCH_S, Deployment, Deployments, Permit
from proxy.routing.hearsay import Hearsay
from proxy.routing.retry_after import MAX_COOLDOWN_S
from proxy.routing.verdict import Effect
from proxy.workers.seat import Seat
from proxy.workers.shared import Table, make
from tests.workers.test_shared import facts_of, seats, tables

NOW = 1000.0
KEYS = (Credential("key0", Secret("fake-0")), Credential("key1", Secret("fake-1")))
PROVIDER = Provider("groq", "openai", "http://127.0.0.1", KEYS)
TARGET = Target(PROVIDER, "m", "m")
OTHER_MODEL = replace(TARGET, upstream_model="m2")
NAME = ("groq", "key0", "m")


def workers(of: int = 2) -> list[Deployments]:
    return [Deployments(lambda: 0.5, shared=table) for table in tables(of)]


def both(target: Target = TARGET) -> tuple[Deployments, Deployments, Deployment, Deployment]:
    first, second = workers()
    return first, second, first.get(target, KEYS[0]), second.get(target, KEYS[0])


def permit(deployment: Deployment, now: float = NOW) -> Permit:
    found = deployment.acquire(now)
    assert found is not None
    return found


def fail(deployment: Deployment, times: int = 5, now: float = NOW) -> None:
    for _ in range(times):
        permit(deployment, now).release(Effect.FAIL, now)


@pytest.mark.unit
def test_a_cooldown_holds_for_all_workers_at_their_next_tick() -> None:
    first, second, mine, theirs = both()
    permit(mine).release(Effect.RATE, NOW, 7.0)
    assert theirs.unusable(NOW) is None
    second.listen(NOW)
    assert theirs.unusable(NOW) == "cooling down 7 s"
    permit(mine, NOW + 7).release(Effect.RATE, NOW + 7, 2.0)
    second.listen(NOW + 7.5)
    assert theirs.usable_in_s(NOW + 7.5) == pytest.approx(1.5)
    assert theirs.unusable(NOW + 9) is None
    first.listen(NOW + 9)  # nothing was told back
    assert mine.unusable(NOW + 9) is None


@pytest.mark.unit
def test_a_shorter_cooldown_that_is_heard_shortens_nothing() -> None:
    _, second, mine, theirs = both()
    theirs.cool(60.0, NOW)
    mine.cool(10.0, NOW)
    second.listen(NOW)
    assert theirs.cool_until == NOW + 60


@pytest.mark.unit
@pytest.mark.parametrize(
    ("effect", "reason", "length_s", "same_key", "same_model"),
    [
        (Effect.AUTH, "latched: bad key", CREDENTIAL_LATCH_S, True, False),
        (Effect.QUOTA, "latched: no quota or credit left", CREDENTIAL_LATCH_S, True, False),
        (Effect.CONFIG, "latched: model not found", MODEL_LATCH_S, False, True),
    ],
)
def test_a_latch_holds_for_all_workers_and_for_what_it_concerns(
    effect: Effect, reason: str, length_s: float, same_key: bool, same_model: bool
) -> None:
    first, second = workers()
    permit(first.get(TARGET, KEYS[0])).release(effect, NOW)
    here, of_key, of_model = second.get(TARGET, KEYS[0]), second.get(OTHER_MODEL, KEYS[0]), second.get(TARGET, KEYS[1])
    second.listen(NOW + 1)
    assert here.unusable(NOW + 1) == reason
    assert (of_key.unusable(NOW + 1) == reason, of_model.unusable(NOW + 1) == reason) == (same_key, same_model)
    assert here.unusable(NOW + length_s - 0.1) == reason
    assert here.unusable(NOW + length_s) is None


@pytest.mark.unit
def test_an_open_circuit_makes_the_others_probe_before_they_use_theirs() -> None:
    _, second, mine, theirs = both()
    fail(mine)
    assert mine.breaker.state is State.OPEN
    second.listen(NOW)
    probe = permit(theirs)
    assert theirs.unusable(NOW) == "circuit half open, a probe is out"
    probe.release(Effect.OK, NOW)
    assert (theirs.breaker.state.value, theirs.unusable(NOW)) == ("closed", None)
    second.listen(NOW + 1)  # it is no news any more
    assert theirs.breaker.state is State.CLOSED
    assert mine.breaker.state.value == "open"  # its own probe will tell


@pytest.mark.unit
def test_a_probe_that_fails_opens_the_other_circuit_too_and_ends_there() -> None:
    first, second, mine, theirs = both()
    fail(mine)
    second.listen(NOW)
    fail(theirs, times=1)
    assert theirs.breaker.state is State.OPEN
    until = mine.breaker.until
    first.listen(NOW)
    assert (mine.breaker.state, mine.breaker.until) == (State.OPEN, until)


@pytest.mark.unit
def test_a_circuit_that_is_closed_again_is_not_doubted_for_its_own_opening() -> None:
    first, _, mine, _ = both()
    fail(mine)
    first.listen(NOW)
    permit(mine, NOW + 5).release(Effect.OK, NOW + 5)
    first.listen(NOW + 5)
    assert mine.breaker.state is State.CLOSED


@pytest.mark.unit
def test_what_ended_before_anybody_listened_changes_nothing() -> None:
    _, second, mine, theirs = both()
    mine.cool(5.0, NOW)
    fail(mine, now=NOW + 6)
    second.listen(NOW + 60)
    assert theirs.unusable(NOW + 60) is None
    assert theirs.breaker.calm


@pytest.mark.unit
def test_a_deployment_that_is_made_later_hears_what_was_told_before() -> None:
    first, second = workers()
    mine = first.get(TARGET, KEYS[0])
    mine.cool(30.0, NOW)
    mine.latch(Effect.CONFIG, NOW)
    second.listen(NOW + 1)
    assert second.get(TARGET, KEYS[1]).unusable(NOW + 1) == "latched: model not found"
    theirs = second.get(TARGET, KEYS[0])
    assert (theirs.cool_until, theirs.unusable(NOW + 1)) == (NOW + 30, "latched: model not found")
    second.listen(NOW + MODEL_LATCH_S)
    assert second.get(OTHER_MODEL, KEYS[1]).unusable(NOW + MODEL_LATCH_S) is None


@pytest.mark.unit
def test_who_takes_a_dead_workers_seat_knows_what_that_had_told() -> None:
    memory = make(2)
    dead = Deployments(lambda: 0.5, shared=Table(memory, seats(2)[0]))
    dead.get(TARGET, KEYS[0]).latch(Effect.AUTH, NOW)
    successor = Deployments(lambda: 0.5, shared=Table(memory, seats(2)[0]))
    again = successor.get(TARGET, KEYS[0])
    successor.listen(NOW + 1)
    assert again.unusable(NOW + 1) == "latched: bad key"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("until", "reason"), [(NOW + 1e12, 0), (NOW + 1e6, 1), (NOW + 800, 2), (NOW + 800, 99), (NOW + 800, -5), (NOW - 5, 0)]
)
def test_facts_that_cannot_be_are_bounded_or_ignored(until: float, reason: int) -> None:
    liar, honest = tables(2)
    deployments = Deployments(lambda: 0.5, shared=honest)
    found = deployments.get(TARGET, KEYS[0])
    facts = facts_of(liar)
    for name in (("cool", *NAME), ("circuit", *NAME), ("key", *NAME[:2]), ("model", "groq", "m"), ("nonsense",)):
        facts.tell(facts.name(*name), until, reason, NOW)
    deployments.listen(NOW)
    assert found.cool_until <= NOW + MAX_COOLDOWN_S
    assert found.usable_in_s(NOW) <= CREDENTIAL_LATCH_S
    assert found.breaker.state in (State.CLOSED, State.HALF_OPEN)
    assert found.unusable(NOW + CREDENTIAL_LATCH_S) is None
    if reason == 2:  # a model that is not known
        assert found.unusable(NOW + MODEL_LATCH_S) is None


@pytest.mark.unit
def test_a_bulkhead_counts_what_is_in_flight_at_all_workers() -> None:
    narrow = replace(TARGET, limits=RateLimits(in_flight=3))
    first, second, mine, theirs = both(narrow)
    permits = [permit(mine), permit(mine), permit(theirs)]
    for deployment in (mine, theirs):
        assert deployment.acquire(NOW) is None
        assert (deployment.unusable(NOW), deployment.usable_in_s(NOW)) == ("at capacity", 1.0)
        assert not deployment.only_open(NOW)
    permits.pop(0).release(Effect.OK, NOW)
    permits.append(permit(theirs))
    for one in permits:
        one.release(Effect.OK, NOW)
    # a reload without the limit, and another that brings it back
    second.get(TARGET, KEYS[0])
    held = [permit(theirs) for _ in range(5)]
    assert mine.unusable(NOW) is None
    second.get(narrow, KEYS[0])
    assert mine.unusable(NOW) == "at capacity"
    for one in held:
        one.release(Effect.OK, NOW)
    assert first.get(narrow, KEYS[0]).unusable(NOW) is None


@pytest.mark.unit
def test_deployments_that_are_dropped_leave_the_table_and_are_told_nothing() -> None:
    table, _ = tables(2)
    deployments = Deployments(lambda: 0.5, limit=20, shared=table)
    for number in range(60):
        model = replace(TARGET, upstream_model=f"m{number}", limits=RateLimits(in_flight=1))
        permit(deployments.get(model, KEYS[0])).release(Effect.OK, NOW)
    assert table.rows == len(deployments) <= 20
    hearsay = deployments._hearsay
    assert isinstance(hearsay, Hearsay)
    assert len(hearsay._cooled) == len(hearsay._opened) == len(deployments)
    assert len(hearsay._latched) <= len(deployments) + 1


@pytest.mark.unit
def test_alone_nothing_is_told_to_anybody() -> None:
    deployments = Deployments(lambda: 0.5, shared=ALONE)
    deployment = deployments.get(replace(TARGET, limits=RateLimits(in_flight=1)), KEYS[0])
    fail(deployment)
    deployment.cool(3.0, NOW)
    deployment.latch(Effect.AUTH, NOW)
    deployments.listen(NOW)
    assert (deployments._hearsay, deployment.in_flight) == (None, 0)


class Workers(RuleBasedStateMachine):
    """Whatever one worker is told by others, its circuits open only by its own faults, and nothing is shut for longer than it may be."""

    which = st.integers(0, 2)

    @initialize()
    def start(self) -> None:
        memory = make(3)
        self.now = NOW
        self.workers = [Deployments(lambda: 0.5, shared=Table(memory, Seat(index, 3, Path("/nowhere")))) for index in range(3)]
        self.deployments = [worker.get(TARGET, KEYS[0]) for worker in self.workers]
        self.permits: list[list[Permit]] = [[], [], []]
        self.faults = [0, 0, 0]
        self.cool_until = self.latched_until = 0.0

    @rule(worker=which, count=st.integers(1, 6))
    def ask(self, worker: int, count: int) -> None:
        for _ in range(count):
            found = self.deployments[worker].acquire(self.now)
            if found is not None:
                self.permits[worker].append(found)

    @rule(worker=which, count=st.integers(1, 6), effect=st.sampled_from([Effect.OK, Effect.FAIL, Effect.NEUTRAL, Effect.RATE]))
    def answer(self, worker: int, count: int, effect: Effect) -> None:
        for _ in range(min(count, len(self.permits[worker]))):
            self.permits[worker].pop().release(effect, self.now)
            self.faults[worker] += effect is Effect.FAIL
            if effect is Effect.RATE:
                self.cool_until = max(self.cool_until, self.now + 1.0)

    @rule(worker=which, cooldown_s=st.sampled_from([0.25, 10.0, 1e9]))
    def cool(self, worker: int, cooldown_s: float) -> None:
        self.deployments[worker].cool(cooldown_s, self.now)
        self.cool_until = max(self.cool_until, self.now + min(cooldown_s, MAX_COOLDOWN_S))

    @rule(worker=which)
    def latch(self, worker: int) -> None:
        self.deployments[worker].latch(Effect.AUTH, self.now)
        self.latched_until = self.now + CREDENTIAL_LATCH_S

    @rule(worker=which)
    def listen(self, worker: int) -> None:
        opened = self.deployments[worker].breaker.state is State.OPEN
        self.workers[worker].listen(self.now)
        assert self.deployments[worker].breaker.state is not State.OPEN or opened

    @rule()
    def all_listen(self) -> None:
        for worker in self.workers:
            worker.listen(self.now)
        for deployment in self.deployments:
            assert deployment.cool_until == pytest.approx(self.cool_until, abs=1e-5) or deployment.cool_until < self.now
            assert (deployment.latched(self.now) is not None) == (self.latched_until > self.now)

    @rule(seconds=st.sampled_from([0.1, 5.0, 40.0, 1_000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def is_never_shut_for_longer_than_it_may_be(self) -> None:
        for deployment, faults in zip(getattr(self, "deployments", ()), getattr(self, "faults", ()), strict=True):
            assert deployment.cool_until <= self.cool_until + 1e-5
            assert (
                deployment.usable_in_s(self.now)
                <= max(self.cool_until - self.now, self.latched_until - self.now, 37.5 if faults else 1.0) + 1e-5
            )


Workers.TestCase.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
TestWorkersLearnOnlyWhatEnds = pytest.mark.property(Workers.TestCase)


def touched_while_dead(workers_: list[Deployments], *, rps: float, dead_s: float) -> tuple[int, float]:
    """Requests that a dead primary saw, and how long after its recovery all circuits were closed and calm.

    Each worker has half as much to do as the one before it.
    """
    backup = replace(TARGET, provider=replace(PROVIDER, name="backup"))
    step_s, chance, shares = 1 / rps, random.Random(7), [0.5**index for index in range(len(workers_))]
    touched, now, listened = 0, NOW, 0.0
    while now < NOW + dead_s + 60:
        if now >= listened + 0.2:
            listened = now
            for worker in workers_:
                worker.listen(now)
        (worker,) = chance.choices(workers_, shares)
        found = worker.get(TARGET, KEYS[0]).acquire(now)
        if found is not None:
            dead = now < NOW + dead_s
            touched += dead
            found.release(Effect.FAIL if dead else Effect.OK, now)
        else:
            permit(worker.get(backup, KEYS[0]), now).release(Effect.OK, now)
        if now >= NOW + dead_s and all(worker.get(TARGET, KEYS[0]).breaker.calm for worker in workers_):
            return touched, now - NOW - dead_s
        now += step_s
    raise AssertionError("they did not recover")


@pytest.mark.unit
def test_a_dead_primary_is_touched_less_where_workers_hear_of_each_other_and_comes_back_as_soon() -> None:
    apart = touched_while_dead([Deployments(lambda: 0.5) for _ in range(4)], rps=20, dead_s=60)
    together = touched_while_dead(workers(4), rps=20, dead_s=60)
    assert apart[0] >= 4 * 5
    assert together[0] <= apart[0] - 3 * 3  # each of the other three needed one fault and not five, give or take a tick
    assert together[1] <= 40
