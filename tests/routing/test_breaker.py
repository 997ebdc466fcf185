"""The breaker against a naive model, and the surprising things by name."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxy.core.target import CircuitSettings
from proxy.routing.breaker import LEASE_S, Breaker, State

SETTINGS = CircuitSettings()


def opened(now: float = 0.0, random: float = 0.5) -> Breaker:
    breaker = Breaker(SETTINGS, lambda: random)
    for _ in range(SETTINGS.failures):
        breaker.fail(breaker.generation, now)
    assert breaker.state is State.OPEN
    return breaker


def probe(breaker: Breaker, now: float) -> int:
    generation = breaker.acquire(now)
    assert generation is not None
    return generation


@pytest.mark.unit
@pytest.mark.parametrize(("random", "open_s"), [(0.0, 3.75), (0.5, 5.0), (1.0, 6.25)])
def test_five_fails_in_a_row_open_it_for_five_seconds_give_or_take_a_quarter(random: float, open_s: float) -> None:
    breaker = opened(random=random)
    assert not breaker.ready(open_s - 0.01)
    assert breaker.ready(open_s)


@pytest.mark.unit
def test_half_of_twenty_in_the_window_open_it_and_nineteen_do_not() -> None:
    breaker = Breaker(SETTINGS, lambda: 0.5)
    for n in range(20):
        assert breaker.state is State.CLOSED
        generation = probe(breaker, 1.0)
        if n % 2:
            breaker.fail(generation, 1.0)
        else:
            breaker.ok(generation, 1.0)
    assert breaker.state is State.OPEN


@pytest.mark.unit
def test_fails_older_than_the_window_are_forgotten() -> None:
    breaker = Breaker(SETTINGS, lambda: 0.5)
    for n in range(18):
        (breaker.fail if n % 2 else breaker.ok)(breaker.generation, 1.0)
    assert breaker.window == (18, 9)
    breaker.fail(breaker.generation, 32.0)
    assert breaker.window == (1, 1)
    assert breaker.state is State.CLOSED


@pytest.mark.unit
def test_open_times_double_up_to_thirty_seconds() -> None:
    breaker = opened()
    now, waits = 0.0, []
    for _ in range(6):
        waits.append(breaker.until - now)
        now = breaker.until
        breaker.fail(probe(breaker, now), now)
    assert waits == pytest.approx([5, 10, 20, 30, 30, 30])


@pytest.mark.unit
@pytest.mark.parametrize(("after_s", "open_s"), [(20.0, 10.0), (301.0, 5.0)])
def test_reopening_soon_after_a_close_opens_for_longer(after_s: float, open_s: float) -> None:
    breaker = opened()
    breaker.ok(probe(breaker, 5.0), 5.0)
    now = 5.0 + after_s
    assert breaker.acquire(now) is not None
    for _ in range(5):
        breaker.fail(breaker.generation, now)
    assert breaker.until - now == pytest.approx(open_s)


@pytest.mark.unit
def test_only_one_probes_until_its_lease_ends() -> None:
    breaker = opened()
    first = probe(breaker, 5.0)
    assert breaker.acquire(5.0 + LEASE_S - 0.01) is None
    second = probe(breaker, 5.0 + LEASE_S)
    breaker.ok(first, 36.0)
    assert breaker.state.value == "half_open"  # the first one's word comes too late
    breaker.ok(second, 36.0)
    assert breaker.state is State.CLOSED


@pytest.mark.unit
def test_a_probe_that_says_nothing_leaves_its_place() -> None:
    breaker = opened()
    breaker.done(probe(breaker, 5.0))
    assert breaker.state is State.HALF_OPEN
    assert breaker.acquire(5.0) is not None


@pytest.mark.unit
def test_results_from_before_the_circuit_opened_are_ignored() -> None:
    breaker = Breaker(SETTINGS, lambda: 0.5)
    old = probe(breaker, 0.0)
    for _ in range(5):
        breaker.fail(breaker.generation, 0.0)
    probing = probe(breaker, 5.0)
    breaker.ok(old, 5.0)
    breaker.fail(old, 5.0)
    assert breaker.state.value == "half_open"
    breaker.ok(probing, 5.0)
    assert breaker.state is State.CLOSED


@pytest.mark.unit
def test_slow_start_lets_two_then_four_then_eight_in() -> None:
    breaker = opened()
    breaker.done(breaker.ok(probe(breaker, 5.0), 5.0))
    for limit in (2, 4, 8, 16, 32, 64):
        permits = [breaker.acquire(6.0) for _ in range(limit)]
        assert None not in permits
        assert breaker.acquire(6.0) is None
        for permit in permits:
            assert permit is not None
            breaker.done(breaker.ok(permit, 6.0))
    assert breaker.calm


@pytest.mark.unit
def test_slow_start_ends_after_ten_seconds() -> None:
    breaker = opened()
    breaker.ok(probe(breaker, 5.0), 5.0)
    assert not breaker.calm
    assert all(breaker.acquire(15.0) is not None for _ in range(100))


@pytest.mark.unit
def test_one_fail_in_slow_start_reopens() -> None:
    breaker = opened()
    breaker.ok(probe(breaker, 5.0), 5.0)
    breaker.fail(probe(breaker, 6.0), 6.0)
    assert breaker.state is State.OPEN
    assert breaker.until == pytest.approx(16.0)


@pytest.mark.unit
def test_an_early_probe_that_fails_changes_nothing() -> None:
    breaker = opened()
    until = breaker.until
    breaker.hurry()
    breaker.fail(probe(breaker, 1.0), 1.0)
    assert (breaker.state, breaker.until) == (State.OPEN, until)


@pytest.mark.unit
@pytest.mark.parametrize("outcome", ["works", "fails", "says nothing"])
def test_a_doubted_circuit_is_probed_before_it_is_used_again(outcome: str) -> None:
    breaker = Breaker(SETTINGS, lambda: 0.5)
    in_flight = probe(breaker, 1.0)
    assert breaker.doubt(1.0)
    breaker.fail(in_flight, 1.0)  # it was sent before, and says nothing any more
    assert breaker.ready(1.0)
    generation = probe(breaker, 1.0)
    assert (breaker.state, breaker.acquire(1.0)) == (State.HALF_OPEN, None)
    match outcome:
        case "works":
            breaker.ok(generation, 2.0)
            assert breaker.state is State.CLOSED
            assert not breaker.calm  # slow start
        case "fails":
            breaker.fail(generation, 2.0)
            assert breaker.state.value == "open"
            assert breaker.until == pytest.approx(2.0 + 5.0)
        case _:
            breaker.done(generation)
            assert breaker.acquire(2.0) is not None


@pytest.mark.unit
def test_a_circuit_that_is_open_or_probed_is_not_doubted() -> None:
    breaker = opened()
    until = breaker.until
    assert not breaker.doubt(1.0)
    assert (breaker.state, breaker.until) == (State.OPEN, until)
    probing = probe(breaker, until)
    assert not breaker.doubt(until)
    breaker.ok(probing, until)
    assert breaker.state.value == "closed"


@pytest.mark.unit
@pytest.mark.parametrize(("after_s", "open_s"), [(20.0, 10.0), (301.0, 5.0)])
def test_a_doubted_circuit_whose_probe_fails_remembers_its_last_opening(after_s: float, open_s: float) -> None:
    breaker = opened()
    breaker.ok(probe(breaker, 5.0), 5.0)
    now = 5.0 + after_s
    assert breaker.doubt(now)
    breaker.fail(probe(breaker, now), now)
    assert breaker.until - now == pytest.approx(open_s)


class NaiveBreaker:
    """The same rules, with every result kept in a list and nothing optimised."""

    def __init__(self) -> None:
        self.state = "closed"
        self.era = 0
        self.results: list[tuple[int, bool]] = []
        self.streak = 0
        self.k = 0
        self.until = 0.0
        self.closed_at = float("-inf")
        self.lease: float | None = None
        self.slow_until: float | None = None
        self.slow_limit = 0
        self.slow_oks = 0
        self.slow_out = 0

    def slow(self) -> bool:
        return self.slow_until is not None

    def acquire(self, now: float) -> int | None:
        if self.state == "open" and now >= self.until:
            self.state, self.lease = "half_open", None
        if self.state == "open":
            return None
        if self.state == "half_open":
            if self.lease is not None and now < self.lease:
                return None
            self.era += 1
            self.lease = now + 30
            return self.era
        if self.slow_until is not None:
            if now >= self.slow_until:
                self.slow_until = None
            elif self.slow_out >= self.slow_limit:
                return None
            else:
                self.slow_out += 1
        return self.era

    def open(self, now: float, k: int) -> None:
        self.state, self.k, self.era, self.lease, self.slow_until = "open", k, self.era + 1, None, None
        self.until = now + min(5 * 2 ** (k - 1), 30)

    def doubt(self, now: float) -> None:
        if self.state == "closed":
            self.state, self.era, self.lease, self.slow_until = "half_open", self.era + 1, None, None
            if now - self.closed_at > 300:
                self.k = 0

    def ok(self, era: int, now: float) -> int:
        if era != self.era:
            return era
        if self.state == "half_open":
            self.state, self.era, self.closed_at, self.results, self.streak = "closed", self.era + 1, now, [], 0
            self.slow_until, self.slow_limit, self.slow_oks, self.slow_out = now + 10, 2, 0, 1
        elif self.state == "closed":
            self.results.append((int(now / 3), True))
            self.streak = 0
            if self.slow_until is not None:
                self.slow_oks += 1
                if now >= self.slow_until:
                    self.slow_until = None
                elif self.slow_oks == self.slow_limit:
                    self.slow_oks, self.slow_limit = 0, self.slow_limit * 2
                    if self.slow_limit > 64:
                        self.slow_until = None
        return self.era

    def fail(self, era: int, now: float) -> None:
        if era != self.era:
            return
        if self.state == "half_open":
            self.open(now, self.k + 1)
        elif self.state == "closed":
            self.results.append((int(now / 3), False))
            self.streak += 1
            recent = [good for bucket, good in self.results if bucket > int(now / 3) - 10]
            slow = self.slow_until is not None and now < self.slow_until
            if slow or self.streak >= 5 or (len(recent) >= 20 and recent.count(False) / len(recent) >= 0.5):
                self.open(now, self.k + 1 if now - self.closed_at <= 300 else 1)

    def done(self, era: int) -> None:
        if era == self.era:
            if self.state == "half_open":
                self.lease = None
            elif self.slow_until is not None and self.slow_out:
                self.slow_out -= 1


class BreakerMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.now = 0.0
        self.real = Breaker(SETTINGS, lambda: 0.5)
        self.model = NaiveBreaker()
        self.out: list[tuple[int, int]] = []
        self.probes: dict[int, float] = {}

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.9, 3.0, 5.0, 10.0, 31.0, 301.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(count=st.integers(1, 12))
    def ask(self, count: int) -> None:
        for _ in range(count):
            ready = self.real.ready(self.now)
            real, model = self.real.acquire(self.now), self.model.acquire(self.now)
            assert ready == (real is not None) == (model is not None)
            if real is None or model is None:
                return
            if self.real.state is State.HALF_OPEN:
                assert all(self.now >= until for until in self.probes.values()), "two probes at once"
                self.probes = {real: self.now + LEASE_S}
            self.out.append((real, model))

    @rule()
    def hear_that_another_has_opened(self) -> None:
        could = self.real.ready(self.now)
        before = self.real.state
        assert self.real.doubt(self.now) == (before is State.CLOSED)
        self.model.doubt(self.now)
        if before is State.CLOSED:
            self.probes.clear()
        assert self.real.ready(self.now) or not could, "hearsay has shut it"

    @rule(
        outcome=st.sampled_from(["ok", "fail", "ok then fail", "nothing"]), index=st.integers(0, 1000), count=st.integers(1, 12)
    )
    def answer(self, outcome: str, index: int, count: int) -> None:
        for _ in range(min(count, len(self.out))):
            real, model = self.out.pop(index % len(self.out))
            self.probes.pop(real, None)
            if outcome.startswith("ok"):
                real, model = self.real.ok(real, self.now), self.model.ok(model, self.now)
            if outcome.endswith("fail"):
                self.real.fail(real, self.now)
                self.model.fail(model, self.now)
            self.real.done(real)
            self.model.done(model)

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "real"):
            return
        assert self.real.state.value == self.model.state
        if self.real.state is State.OPEN:
            assert self.real.until == pytest.approx(self.model.until)
        assert self.real.calm == (self.model.state == "closed" and not self.model.slow())

    @invariant()
    def is_never_stuck_and_bounded(self) -> None:
        if not hasattr(self, "real"):
            return
        assert self.real.ready(self.now + 37.5)
        assert self.real.opens_in_s(self.now) <= 37.5
        results, fails = self.real.window
        assert 0 <= fails <= results


BreakerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


TestBreakerAgainstTheModel = pytest.mark.property(BreakerMachine.TestCase)
