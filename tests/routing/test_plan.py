from typing import Any

import pytest

from proxy.core.target import Chain, Credential, Provider, Secret, Target
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
    assert names(plan(abc, state, 0.0, needs=NOTHING, prefer="b")) == ["b", "a", "c"]
    assert names(plan(abc, state, 0.0, needs=NOTHING, prefer="nobody")) == ["a", "b", "c"]


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
    state, a = deployments(), target("a", in_flight=1)
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
    assert names(plan(chain(small, large), deployments(), 0.0, needs=NOTHING, request_tokens=100)) == ["b"]
    assert names(plan(chain(small), deployments(), 0.0, needs=NOTHING, request_tokens=100)) == ["a"]
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
    after = target("a", in_flight=7)
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
