from dataclasses import replace
from math import inf
from typing import Any

import pytest

from proxy.core.allowance import Ask
from proxy.core.limits import RateLimits
from proxy.core.target import Chain, Credential, Provider, Secret, Target
from proxy.routing.choice import Facts
from proxy.routing.chosen import choose
from proxy.routing.deployment import Deployments
from proxy.routing.plan import ChainTrickle, Plan, backoff_s, larger_context, plan
from proxy.routing.verdict import Effect

pytestmark = pytest.mark.unit
NOTHING: frozenset[str] = frozenset()


def provider(name: str, keys: int = 1, **rest: Any) -> Provider:
    credentials = tuple(Credential(f"{name}{n}", Secret("fake")) for n in range(keys))
    return Provider(name, "openai", "http://127.0.0.1", credentials, **rest)


def chain(*targets: Target) -> Chain:
    return Chain("smart", targets)


def target(name: str, keys: int = 1, *, provider_rest: dict[str, Any] | None = None, **rest: Any) -> Target:
    return Target(provider(name, keys, **(provider_rest or {})), "m", "m", **rest)


def deployments() -> Deployments:
    return Deployments(lambda: 0.5)


def names(made: Plan) -> list[str]:
    return [candidate.target.provider.name for candidate in made.candidates]


def end(state: Deployments, one: Target, effect: Effect, now: float, cooldown_s: float | None = None, key: int = 0) -> None:
    permit = state.get(one, one.provider.credentials[key]).acquire(now)
    assert permit is not None
    permit.release(effect, now, cooldown_s)


def open_circuit(state: Deployments, one: Target, now: float = 0.0) -> None:
    for _ in range(5):
        end(state, one, Effect.FAIL, now)


def test_the_order_is_the_chains_and_healthy_plans_share_their_lists() -> None:
    abc, state = chain(target("a"), target("b"), target("c")), deployments()
    first, second = (plan(abc, state, 0.0, needs=NOTHING) for _ in range(2))
    assert names(first) == ["a", "b", "c"]
    assert first.trace is second.trace


def test_every_target_has_its_line() -> None:
    a, b, c = target("a", provider_rest={"disabled": "no key: set A_API_KEY"}), target("b"), target("c")
    abcd, state = chain(a, b, c, target("d")), deployments()
    open_circuit(state, b)
    end(state, c, Effect.RATE, 0.0, 12.0)
    assert plan(abcd, state, 0.0, needs=NOTHING).trace == [
        {"target": "a/m", "skipped": "no key: set A_API_KEY"},
        {"target": "b/m", "skipped": "circuit open"},
        {"target": "c/m", "skipped": "cooling down 12 s"},
        {"target": "d/m", "kept": True},
    ]


@pytest.mark.parametrize(
    ("effect", "reason", "other_model", "length_s"),
    [
        (Effect.AUTH, "latched: bad key", False, 900),
        (Effect.QUOTA, "latched: no quota or credit left", False, 900),
        (Effect.CONFIG, "latched: model not found", True, 300),
    ],
)
def test_latches_hold_for_the_key_or_for_the_model(effect: Effect, reason: str, other_model: bool, length_s: float) -> None:
    state, shared = deployments(), provider("a", keys=2)
    one, other = Target(shared, "m", "m"), Target(shared, "n", "n")
    first, second = shared.credentials
    end(state, one, effect, 0.0)
    assert state.get(one, first).unusable(length_s - 1) == reason
    assert state.get(one, first).unusable(length_s) is None
    assert (state.get(other, first).unusable(1.0) is None) is other_model
    assert (state.get(one, second).unusable(1.0) is None) is not other_model


def test_a_cooldown_is_never_shortened() -> None:
    state, a = deployments(), target("a")
    deployment = state.get(a, a.provider.credentials[0])
    first, second = deployment.acquire(0.0), deployment.acquire(0.0)
    assert first is not None
    assert second is not None
    first.release(Effect.RATE, 0.0, 60.0)
    second.release(Effect.RATE, 1.0, 2.0)
    assert deployment.cool_until == 60.0


def test_the_bulkhead_holds_and_a_second_release_is_ignored() -> None:
    state, a = deployments(), target("a", limits=RateLimits(in_flight=1))
    deployment = state.get(a, a.provider.credentials[0])
    permit = deployment.acquire(0.0)
    assert permit is not None
    assert deployment.unusable(0.0) == "at capacity"
    assert deployment.acquire(0.0) is None
    for _ in range(2):
        permit.release(Effect.OK, 0.0)
    assert deployment.in_flight == 0
    assert deployment.ok == 1


def test_several_keys_are_used_in_turn_and_a_spent_one_is_set_aside() -> None:
    state, a = deployments(), target("a", keys=3)
    only = chain(a)
    turns = [[c.credential.id for c in plan(only, state, 0.0, needs=NOTHING).candidates] for _ in range(4)]
    assert turns == [["a0", "a1", "a2"], ["a1", "a2", "a0"], ["a2", "a0", "a1"], ["a0", "a1", "a2"]]
    end(state, a, Effect.QUOTA, 0.0, key=1)
    made = plan(only, state, 1.0, needs=NOTHING, rotation=0)
    assert [c.credential.id for c in made.candidates] == ["a0", "a2"]
    assert made.trace == [{"target": "a/m", "kept": True, "keys_set_aside": ["latched: no quota or credit left"]}]


def test_a_feature_that_is_lacking_rules_a_target_out_and_what_is_unknown_does_not() -> None:
    lacking = target("a", provider_rest={"lacks": frozenset(("tools",))})
    listed, unknown = target("b", capabilities=frozenset(("vision",))), target("c")
    needs = frozenset(("tools",))
    made = plan(chain(lacking, listed, unknown), deployments(), 0.0, needs=needs)
    assert names(made) == ["c"]
    assert made.lacking is None
    assert plan(chain(lacking, listed), deployments(), 0.0, needs=needs).lacking == "lacks tools"


def test_a_model_lacks_what_its_provider_lacks_and_more_unless_a_list_says_what_it_can() -> None:
    lacks = {"lacks": frozenset(("n",))}
    one = target("a", provider_rest=lacks, lacks=frozenset(("vision",)))
    assert [plan(chain(one), deployments(), 0.0, needs=frozenset((need,))).lacking for need in ("n", "vision", "tools")] == [
        "lacks n",
        "lacks vision",
        None,
    ]
    told = target("a", provider_rest=lacks, lacks=frozenset(("vision",)), capabilities=frozenset(("n", "vision")))
    assert names(plan(chain(told), deployments(), 0.0, needs=frozenset(("n", "vision")))) == ["a"]


def test_a_context_that_is_too_small_is_passed_over_but_an_estimate_leaves_something() -> None:
    small, large = target("a", context=10), target("b", context=1000)
    facts = Facts(input_tokens=100)
    made = choose(replace(chain(small, large), strategy="score"), deployments(), 0.0, facts)
    assert (names(made), made.trace[1]["skipped"]) == (["b"], "a context of 10 tokens is too small")
    assert names(choose(replace(chain(small), strategy="score"), deployments(), 0.0, facts)) == ["a"]
    assert larger_context(large, small)
    assert not larger_context(small, large)
    assert not larger_context(target("c"), small)


def test_with_all_circuits_open_one_request_a_second_tries_the_one_due_soonest() -> None:
    state, a, b = deployments(), target("a"), target("b")
    ab, trickle = chain(a, b), ChainTrickle()
    open_circuit(state, a, 0.5)
    open_circuit(state, b, 0.0)
    tried = [names(plan(ab, state, 1.0 + tick / 10, needs=NOTHING, trickle=trickle)) for tick in range(1)]
    assert tried == [["b"]]
    end(state, b, Effect.FAIL, 1.0)
    refused = plan(ab, state, 1.5, needs=NOTHING, trickle=trickle)
    assert not refused.candidates
    assert refused.soonest_s == pytest.approx(3.5)
    assert refused.cooling_s is None


def test_cooling_and_latched_targets_are_never_a_last_resort() -> None:
    for effect in (Effect.RATE, Effect.AUTH):
        state, a = deployments(), target("a")
        end(state, a, effect, 0.0, 9.0 if effect is Effect.RATE else None)
        made = plan(chain(a), state, 0.0, needs=NOTHING, trickle=ChainTrickle())
        assert not made.candidates
        assert made.cooling_s == (9.0 if effect is Effect.RATE else None)


def test_state_outlives_a_reload_and_settings_are_taken_over() -> None:
    state, before = deployments(), target("a")
    open_circuit(state, before)
    after = target("a", limits=RateLimits(in_flight=7))
    made = plan(chain(after), state, 0.0, needs=NOTHING)
    assert made.trace == [{"target": "a/m", "skipped": "circuit open"}]
    assert state.get(after, after.provider.credentials[0]).target is after


def test_idle_deployments_go_when_there_are_too_many_and_busy_ones_stay() -> None:
    state = Deployments(lambda: 0.5, limit=20)
    busy = target("busy")
    permit = state.get(busy, busy.provider.credentials[0]).acquire(1.0)
    for n in range(100):
        one = target(f"p{n}")
        end(state, one, Effect.OK, 2.0 + n)
        assert len(state) <= 20
    assert permit is not None
    assert state.get(busy, busy.provider.credentials[0]).in_flight == 1


def test_a_fault_after_content_counts_as_a_fail() -> None:
    state, a = deployments(), target("a")
    deployment = state.get(a, a.provider.credentials[0])
    for _ in range(5):
        permit = deployment.acquire(0.0)
        assert permit is not None
        permit.first_content(0.0)
        permit.release(Effect.FAIL, 0.0)
    assert deployment.breaker.window == (10, 5)
    assert (deployment.ok, deployment.failed) == (5, 5)


def test_backoff_is_jittered_and_bounded() -> None:
    assert [backoff_s(Effect.FAIL, n, lambda: 1.0) for n in (0, 1, 4, 99)] == [0.5, 1.0, 8.0, 8.0]
    assert backoff_s(Effect.FAIL, 3, lambda: 0.0) == 0.0
    assert [backoff_s(Effect.RATE, 0, lambda: r) for r in (0.0, 1.0)] == [0.5, 1.0]  # noqa: B023


# -- allowances: what is counted elsewhere


class Allowed:
    """An allowance that refuses while `reason` is set, for `wait_s`."""

    def __init__(self, *, brief: bool = False) -> None:
        self.brief = brief
        self.reason: str | None = None
        self.wait_s = 0.0
        self.least: int | None = None  # what is refused is what asks for more tokens
        self.taken: list[int] = []
        self.ended: list[object] = []

    def refuse(self, reason: str, wait_s: float) -> None:
        self.reason, self.wait_s = reason, wait_s

    def refuses(self, now: float, ask: Ask | None = None) -> str | None:
        if self.least is not None and (ask is None or ask.tokens <= self.least):
            return None
        return self.reason

    def free_in_s(self, now: float, ask: Ask | None = None) -> float:
        return self.wait_s if self.refuses(now, ask) else 0.0

    def take(self, now: float, ask: Ask) -> "Allowed":
        self.taken.append(ask.tokens)
        return self

    def settle(self, requests: int, tokens: int, cost_nusd: int | None) -> None:
        self.ended.append((requests, tokens, cost_nusd))

    def release(self) -> None:
        self.ended.append("released")


ASK = Ask(100, 50, None, 1e9)


def allowing(**allowances: Allowed) -> Deployments:
    return Deployments(lambda: 0.5, allowances=lambda one, _: tuple([a for a in [allowances.get(one.provider.name)] if a]))


def test_what_an_allowance_refuses_is_skipped_in_its_words() -> None:
    quota, ab = Allowed(), chain(target("a"), target("b"))
    state = allowing(a=quota)
    assert names(plan(ab, state, 0.0, needs=NOTHING)) == ["a", "b"]
    quota.refuse("quota spent", 3_600.0)
    made = plan(ab, state, 0.0, needs=NOTHING)
    assert (names(made), made.trace[0]) == (["b"], {"target": "a/m", "skipped": "quota spent"})
    quota.reason = None
    assert names(plan(ab, state, 0.0, needs=NOTHING)) == ["a", "b"]


@pytest.mark.parametrize(("wait_s", "soonest_s"), [(3_600.0, 3_600.0), (inf, None)])
def test_when_nothing_is_left_the_plan_says_until_when(wait_s: float, soonest_s: float | None) -> None:
    quota = Allowed()
    quota.refuse("quota spent", wait_s)
    made = plan(chain(target("a")), allowing(a=quota), 0.0, needs=NOTHING, trickle=ChainTrickle())
    assert (made.candidates, made.soonest_s, made.cooling_s) == ([], soonest_s, None)


def test_a_limit_that_frees_in_a_moment_makes_a_target_the_last() -> None:
    limit, abc = Allowed(brief=True), chain(target("a"), target("b"))
    state = allowing(a=limit)
    limit.refuse("rate limit", 1.5)
    made = plan(abc, state, 0.0, needs=NOTHING)
    assert (names(made), made.trace[0]) == (["b", "a"], {"target": "a/m", "kept": True, "last": "rate limit"})
    limit.refuse("rate limit", 2.5)
    assert names(plan(abc, state, 0.0, needs=NOTHING)) == ["b"]


def test_it_is_not_waited_for_where_something_else_stands_in_the_way() -> None:
    limit, ab = Allowed(brief=True), chain(target("a"), target("b"))
    state = allowing(a=limit)
    open_circuit_by(state, ab.targets[0])
    limit.refuse("rate limit", 1.5)
    made = plan(ab, state, 0.0, needs=NOTHING)
    assert (names(made), made.trace[0]["skipped"]) == (["b"], "circuit open")


def open_circuit_by(state: Deployments, one: Target) -> None:
    for _ in range(5):
        permit = state.get(one, one.provider.credentials[0]).acquire(0.0, ASK)
        assert permit is not None
        permit.release(Effect.FAIL, 0.0)


def test_an_open_circuit_is_no_last_resort_while_its_quota_is_spent() -> None:
    quota, alone = Allowed(), chain(target("a"))
    state = allowing(a=quota)
    open_circuit_by(state, alone.targets[0])
    assert names(plan(alone, state, 0.0, needs=NOTHING, trickle=ChainTrickle())) == ["a"]
    state = allowing(a=quota)
    open_circuit_by(state, alone.targets[0])
    quota.refuse("quota spent", 3_600.0)
    assert names(plan(alone, state, 0.0, needs=NOTHING, trickle=ChainTrickle())) == []


def test_a_permit_takes_what_is_asked_for_and_gives_it_back_or_settles_it() -> None:
    quota, one = Allowed(), target("a")
    deployment = allowing(a=quota).get(one, one.provider.credentials[0])
    assert deployment.acquire(0.0) is None  # nobody says how much
    first, second = deployment.acquire(0.0, ASK), deployment.acquire(0.0, ASK)
    assert first is not None
    assert second is not None
    first.settle(1, 40, None)
    first.release(Effect.OK, 0.0)
    second.unused(0.0)
    assert (quota.taken, quota.ended, deployment.in_flight) == ([100, 100], [(1, 40, None), "released"], 0)
    quota.least = 99
    quota.refuse("too much", 1.0)
    assert deployment.unusable(0.0) is None
    assert (deployment.acquire(0.0, ASK), deployment.refusal(0.0, ASK)) == (None, "too much")


def test_a_reload_brings_other_allowances() -> None:
    quota, one = Allowed(), target("a")
    found: list[Allowed] = []
    state = Deployments(lambda: 0.5, allowances=lambda *_: tuple(found))
    deployment = state.get(one, one.provider.credentials[0])
    found.append(quota)
    assert list(state.get(one, one.provider.credentials[0]).allowances) == []
    again = target("a")
    assert state.get(again, again.provider.credentials[0]) is deployment
    assert list(deployment.allowances) == [quota]
