"""Plans by a strategy and by wishes, over deployments in every state; and the choice worked out again from its trace alone."""

from __future__ import annotations

import json
import random
from typing import Any, get_args

import pytest

from proxy.core.allowance import Ask
from proxy.core.limits import RateLimits
from proxy.core.target import FEATURES, STATIC, Chain, Credential, Provider, Secret, Strategy, Target
from proxy.core.wishes import NO_WISHES, Wishes
from proxy.routing.choice import Facts
from proxy.routing.chosen import choose
from proxy.routing.deployment import Deployments
from proxy.routing.plan import ChainTrickle, Plan, plan
from proxy.routing.rederive import again, by, is_kept, rederive
from proxy.routing.verdict import Effect

pytestmark = pytest.mark.unit
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
NOTHING: frozenset[str] = frozenset()


def target(name: str, keys: int = 1, *, region: str | None = None, **rest: Any) -> Target:
    credentials = tuple(Credential(f"{name}{n}", Secret("fake")) for n in range(keys))
    return Target(Provider(name, "openai", "http://127.0.0.1", credentials, region=region), "m", "m", **rest)


def canned() -> Target:
    return Target(STATIC, "static", "static", answer="Please try later.")


def chain(*targets: Target, strategy: Strategy = "order") -> Chain:
    return Chain("smart", targets, strategy=strategy)


def deployments() -> Deployments:
    return Deployments(lambda: 0.5)


def names(made: Plan) -> list[str]:
    return [candidate.target.provider.name for candidate in made.candidates]


def end(state: Deployments, one: Target, effect: Effect, now: float = 0.0, cooldown_s: float | None = None, key: int = 0) -> None:
    permit = state.get(one, one.provider.credentials[key]).acquire(now)
    if permit is not None:
        permit.release(effect, now, cooldown_s)


def open_circuit(state: Deployments, one: Target) -> None:
    for _ in range(5):
        end(state, one, Effect.FAIL)


A, B, C = target("a", region="eu-west-1"), target("b", capabilities=frozenset(("vision",))), target("c")


def wished(**wishes: Any) -> Facts:
    return Facts(wishes=Wishes(**wishes))


# -- wishes on a chain in its own order


def test_a_preference_goes_first_with_the_chain_behind_it() -> None:
    made = choose(chain(A, B, C), deployments(), 0.0, wished(prefer="b"))
    assert names(made) == ["b", "a", "c"]
    assert made.trace == [
        {"target": "b/m", "kept": True},
        {"target": "a/m", "kept": True},
        {"target": "c/m", "kept": True},
    ]
    assert names(choose(chain(A, B, C), deployments(), 0.0, wished(prefer="c/m"))) == ["c", "a", "b"]
    assert names(choose(chain(A, B, C), deployments(), 0.0, wished(prefer="nobody"))) == ["a", "b", "c"]


def test_a_target_that_is_ruled_out_has_its_reason_and_is_no_last_resort() -> None:
    state = deployments()
    for one in (A, B, C):
        open_circuit(state, one)
    made = choose(chain(A, B, C), state, 1.0, wished(exclude=frozenset("a")), trickle=ChainTrickle())
    assert (names(made), made.trace[0]) == (["b"], {"target": "a/m", "skipped": "excluded by the request"})
    assert made.trace[1]["last_resort"]


@pytest.mark.parametrize(
    ("facts", "lacking"),
    [
        (
            wished(exclude=frozenset("abc")),
            "a/m excluded by the request; b/m excluded by the request; c/m excluded by the request",
        ),
        (
            wished(exclude=frozenset("ac"), require=frozenset(("region:eu",))),
            "a/m excluded by the request; b/m lacks region:eu; c/m excluded by the request",
        ),
        (
            Facts(frozenset(("tools",)), Wishes(exclude=frozenset("ac"))),
            "a/m excluded by the request; b/m lacks tools; c/m excluded by the request",
        ),
    ],
)
def test_when_the_request_rules_out_everything_it_is_told_why(facts: Facts, lacking: str) -> None:
    made = choose(chain(A, B, C, target("off", disabled="disabled in the file")), deployments(), 0.0, facts)
    assert (made.candidates, made.lacking) == ([], lacking)


def test_of_many_reasons_the_first_are_told() -> None:
    made = choose(chain(*[target(f"t{n}") for n in range(20)]), deployments(), 0.0, wished(max_cost_nusd=1))
    assert made.lacking is not None
    assert made.lacking.count("no price known") == 8
    assert made.lacking.endswith("; and 12 more")


def test_what_is_down_besides_is_waited_for_and_not_the_requests_fault() -> None:
    state = deployments()
    end(state, B, Effect.RATE, cooldown_s=9.0)
    made = choose(chain(A, B), state, 0.0, wished(exclude=frozenset("a")))
    assert (made.candidates, made.lacking, made.cooling_s) == ([], None, 9.0)


def test_a_required_feature_is_needed_like_any_other() -> None:
    made = choose(chain(A, target("d", lacks=frozenset(("vision",)))), deployments(), 0.0, wished(require=frozenset(("vision",))))
    assert made.trace[1] == {"target": "d/m", "skipped": "lacks vision"}


# -- canned answers


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_canned_answer_is_the_last_whatever_the_strategy(strategy: Strategy) -> None:
    made = choose(chain(canned(), A, B, strategy=strategy), deployments(), 0.0, Facts(expected_cost_nusd=lambda _: 0))
    assert sorted(names(made)[:2]) == ["a", "b"]
    assert names(made)[2] == "static"
    assert names(plan(chain(canned(), A), deployments(), 0.0, needs=NOTHING)) == ["a", "static"]


def test_a_canned_answer_hides_no_mistake_of_the_callers() -> None:
    needs = frozenset(("tools",))
    for made in (
        plan(chain(B, canned()), deployments(), 0.0, needs=needs),
        choose(chain(B, canned()), deployments(), 0.0, wished(exclude=frozenset("b"))),
    ):
        assert not made.candidates
        assert made.lacking is not None
        assert made.trace[1] == {"target": "static/static", "skipped": "no other target can serve this request"}
    assert names(plan(chain(canned()), deployments(), 0.0, needs=needs)) == ["static"]
    assert names(plan(chain(target("off", disabled="off"), canned()), deployments(), 0.0, needs=needs)) == ["static"]


# -- strategies over their state


def test_turns_are_counted_for_each_chain() -> None:
    state = deployments()
    one, other = chain(A, B, C, strategy="round_robin"), chain(A, B, strategy="round_robin")
    made = [choose(one, state, 0.0, Facts()) for _ in range(4)]
    assert ["".join(names(each)) for each in made] == ["abc", "bca", "cab", "abc"]
    assert [each.asked for each in made[:3]] == [{}, {"turn": 1}, {"turn": 2}]
    assert names(choose(other, state, 0.0, Facts())) == ["a", "b"]
    assert names(choose(one, state, 0.0, Facts(turn=1))) == ["b", "c", "a"]
    assert names(choose(one, state, 0.0, Facts())) == ["b", "c", "a"]  # one that was told its turn has not used one up


def test_least_busy_sees_what_is_in_flight_at_all_keys() -> None:
    a, b = target("a", 2, limits=RateLimits(in_flight=4)), target("b", limits=RateLimits(in_flight=4))
    state, ab = deployments(), chain(a, b, strategy="least_busy")
    held = [state.get(a, a.provider.credentials[n]).acquire(0.0) for n in (0, 1, 1)]
    held.append(state.get(b, b.provider.credentials[0]).acquire(0.0))
    made = choose(ab, state, 0.0, Facts())
    assert (names(made)[0], [line["by"]["busy"] for line in made.trace]) == ("b", [0.25, 0.375])
    assert None not in held


def test_the_keys_of_a_target_stay_together_and_take_turns() -> None:
    a, b = target("a", 2), target("b")
    state, ab = deployments(), chain(a, b, strategy="cheapest")
    facts = Facts(expected_cost_nusd=lambda one: 5 if one is b else 9)
    keys = [[c.credential.id for c in choose(ab, state, 0.0, facts).candidates] for _ in range(3)]
    assert keys == [["b0", "a0", "a1"], ["b0", "a1", "a0"], ["b0", "a0", "a1"]]


def test_fastest_goes_by_what_was_noted_and_forgets_it() -> None:
    state, ab = deployments(), chain(A, target("b", expected_first_token_s=0.5), strategy="fastest")
    choose(ab, state, 0.0, Facts())
    standing = state.get(A, A.provider.credentials[0]).standing
    assert standing is not None
    for _ in range(5):
        standing.note(0.0, ok=True, stream=True, first_token_s=0.2, total_s=1.2, output_tokens=100)
    made = choose(ab, state, 599.0, Facts(output_tokens=50, seed=1))
    assert made.trace[0]["by"] == {
        "strategy": "fastest",
        "place": 0,
        "expected_ms": 700.0,
        "first_token_ms": 200.0,
        "source": "recent",
        "tokens_per_s": 100.0,
    }
    assert names(choose(ab, state, 601.0, Facts(seed=1))) == ["b", "a"]


def test_a_score_says_all_its_parts_and_what_they_were_made_of() -> None:
    costs = {"a": 1_900_000, "b": 900_000}
    ab = chain(target("a", quality=80.0, expected_first_token_s=0.25), target("b", quality=60.0), strategy="score")
    made = choose(ab, deployments(), 0.0, Facts(input_tokens=10, expected_cost_nusd=lambda one: costs[one.provider.name]))
    assert made.trace[0] == {
        "target": "a/m",
        "kept": True,
        "by": {
            "strategy": "score",
            "place": 0,
            "total": 81.5,
            "capability": 0.8,
            "cost": 0.5,
            "performance": 1.0,
            "availability": 1.0,
            "sure": 1.0,
            "quality": 0.8,
            "expected_cost_usd": "0.0019",
            "first_token_ms": 250.0,
            "source": "declared",
            "tokens_per_s": None,
            "ok": 0,
            "ended": 0,
        },
    }
    assert made.asked == {"tokens": 10, "weights": [30.0, 25.0, 25.0, 20.0]}


def test_a_priority_turns_a_score_round() -> None:
    dear = target("dear", quality=70.0, expected_first_token_s=0.1)
    slow = target("slow", quality=70.0, expected_first_token_s=2.0)
    costs = {"dear": 9_000_000, "slow": 500_000}
    first = {}
    for priority in ("low", "normal", "high"):
        facts = Facts(wishes=Wishes(priority=priority), expected_cost_nusd=lambda one: costs[one.provider.name])
        first[priority] = names(choose(chain(dear, slow, strategy="score"), deployments(), 0.0, facts))[0]
    assert (first["low"], first["high"]) == ("slow", "dear")


def test_no_more_than_two_hundred_are_compared() -> None:
    many = [target(f"t{n}") for n in range(203)]
    made = choose(chain(*many, canned(), strategy="cheapest"), deployments(), 0.0, Facts(expected_cost_nusd=lambda _: 1))
    assert (len(made.candidates), names(made)[-2:]) == (201, ["t199", "static"])
    assert [line["skipped"] for line in made.trace[-3:]] == ["behind the first 200, and no more are compared"] * 3


# -- any chain, in any state, for any request

PROGRAMS = 120


class Brief:
    """A limit of a minute of which nothing is left, for a moment."""

    brief = True

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s

    def refuses(self, now: float, ask: Ask | None = None) -> str | None:
        return f"rate limit, free in {self.wait_s}"

    def free_in_s(self, now: float, ask: Ask | None = None) -> float:
        return self.wait_s

    def take(self, now: float, ask: Ask) -> Any:
        raise AssertionError


def program(strategy: Strategy, seed: int) -> tuple[Chain, Deployments, Facts]:
    chance = random.Random(f"{strategy} {seed}")
    features = sorted(FEATURES)[:3]

    def some(*values: Any) -> Any:
        return chance.choice(values)

    targets = [
        target(
            f"p{n}",
            some(1, 1, 3),
            region=some(None, "eu-west-1", "us"),
            weight=some(0.0, 1.0, 2.5),
            quality=some(None, 55.0, 90.0),
            expected_first_token_s=some(None, 0.2, 3.0),
            context=some(None, None, 50),
            capabilities=some(None, None, frozenset(features[:2]), frozenset(("analysis",))),
            lacks=some(NOTHING, frozenset(features[:1])),
            limits=RateLimits(in_flight=some(None, None, 2)),
            disabled=some(None, None, None, "disabled in the file"),
        )
        for n in range(chance.randint(1, 6))
    ]
    if chance.random() < 0.2:
        targets.insert(chance.randrange(len(targets) + 1), canned())
    waits = {one.name: some(0.5, 1.5, 9.0) for one in targets if chance.random() < 0.15 and one.answer is None}
    state = Deployments(chance.random, allowances=lambda one, _: (Brief(waits[one.name]),) if one.name in waits else ())
    made = Chain("smart", tuple(targets), strategy=strategy)
    plan(made, state, 0.0, needs=NOTHING)
    for one in targets:
        for n in range(len(one.provider.credentials)):
            deployment = state.get(one, one.provider.credentials[n])
            if deployment.standing is not None:
                for _ in range(chance.choice((0, 2, 9))):
                    ok = chance.random() < 0.8
                    first_s, tokens = round(chance.random(), 2), chance.randrange(99)
                    deployment.standing.note(0.0, ok=ok, stream=True, first_token_s=first_s, total_s=2.0, output_tokens=tokens)
            if one.answer is None:
                effect = chance.choice((Effect.OK, Effect.OK, Effect.OK, Effect.FAIL, Effect.RATE, Effect.AUTH, Effect.CONFIG))
                for _ in range(chance.choice((0, 1, 5))):
                    end(state, one, effect, cooldown_s=9.0 if effect is Effect.RATE else None, key=n)
    wishes = Wishes(
        prefer=some(None, None, "p0", "p1/m", "nobody"),
        exclude=frozenset(some((), (), ("p2",), ("p0/m", "x"))),
        require=frozenset(some((), (), ("region:eu",), (features[2],), ("analysis",))),
        max_cost_nusd=some(None, None, 3_000_000),
        max_latency_s=some(None, None, 0.5),
        priority=some("normal", "low", "high"),
    )
    costs = {one.name: some(None, 0, 7, 2_500_000, 10**9) for one in targets}
    facts = Facts(
        needs=frozenset(some((), (), features[:1], features[1:2])),
        wishes=some(NO_WISHES, wishes),
        input_tokens=some(10, 100),
        output_tokens=some(0, 100),
        sticky=f"{chance.random()}",
        seed=chance.getrandbits(32),
        turn=some(None, 5),
        expected_cost_nusd=lambda one: costs[one.name],
        refusal=lambda one: "refuses it" if one.name == "p3/m" else None,
    )
    return made, state, facts


@pytest.mark.property
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_any_plan_is_a_permutation_of_what_is_usable_and_follows_from_its_trace(strategy: Strategy) -> None:
    seen: set[str] = set()
    for seed in range(PROGRAMS):
        made_of, state, facts = program(strategy, seed)
        made = choose(made_of, state, 1.0, facts, rotation=0, trickle=ChainTrickle())
        assert sorted(line["target"] for line in made.trace) == sorted(one.name for one in made_of.targets), seed
        # never a skipped one, each kept one with all its usable keys and no other, and those side by side
        tried = list(dict.fromkeys(candidate.target.name for candidate in made.candidates))
        kept = {line["target"] for line in made.trace if is_kept(line)}
        assert set(tried) == kept, seed
        for name in tried:
            at = [n for n, candidate in enumerate(made.candidates) if candidate.target.name == name]
            assert at == list(range(at[0], at[-1] + 1)), seed
        for line in made.trace:
            if "by" in line:
                of = next(one for one in made_of.targets if one.name == line["target"])
                usable = {key.id for key in of.provider.credentials if state.get(of, key).unusable(1.0) is None}
                assert usable == {c.credential.id for c in made.candidates if c.target is of}, seed
        # the same again, and the same from the trace as it is read from the ledger
        again_, state_, facts_ = program(strategy, seed)
        other = choose(again_, state_, 1.0, facts_, rotation=0, trickle=ChainTrickle())
        assert (other.trace, other.asked, names(other)) == (made.trace, made.asked, names(made)), seed
        asked, trace = json.loads(json.dumps([made.asked, made.trace]))
        assert rederive(asked, trace) == tried, seed
        if strategy != "order":
            shown = {line["target"]: line["by"] for line in trace if "by" in line}
            assert {option.name: by(strategy, option, worked) for option, worked in again(asked, trace)} == shown or not shown, (
                seed
            )
        seen.update(line.get("skipped", "kept").split(" ")[0] for line in made.trace)
    assert {"kept", "excluded", "lacks", "expected", "circuit", "cooling", "latched:", "refuses", "disabled"} <= seen


@pytest.mark.property
def test_without_wishes_a_chain_in_its_own_order_is_the_same_either_way() -> None:
    for seed in range(PROGRAMS):
        made_of, state, facts = program("order", seed)
        asked = Facts(needs=facts.needs)
        one = choose(made_of, state, 1.0, asked, rotation=0)
        other = plan(made_of, state, 1.0, needs=facts.needs, rotation=0)
        assert (names(one), one.trace, one.soonest_s) == (names(other), other.trace, other.soonest_s), seed
        assert rederive(other.asked, other.trace) == list(dict.fromkeys(c.target.name for c in other.candidates)), seed
