"""Each strategy by itself: from what is known of the targets to the order in which they are tried."""

from __future__ import annotations

import random
from collections import Counter
from typing import get_args

import pytest

from proxy.core.target import Strategy, Weights
from proxy.routing.choice import INPUTS, Facts, Option
from proxy.routing.strategy import EXPLORED_SHARE, draw, rank

pytestmark = pytest.mark.unit
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


def ranked(strategy: Strategy, options: list[Option], facts: Facts | None = None) -> str:
    """The names in order, as one word. Places are those of the list."""
    for place, option in enumerate(options):
        option.place = place
    return "".join([option.name for option, _ in rank(strategy, options, facts or Facts(turn=0), Weights())])


def never_exploring() -> int:
    return next(seed for seed in range(100) if draw(f"{seed}", "") >= EXPLORED_SHARE)


def exploring() -> int:
    return next(seed for seed in range(1000) if draw(f"{seed}", "") < EXPLORED_SHARE)


def test_order_is_the_chains() -> None:
    assert ranked("order", [Option("b"), Option("a"), Option("c")]) == "bac"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_preferred_goes_first_whatever_the_strategy(strategy: Strategy) -> None:
    options = [Option(name, preferred=name == "c", expected_cost_nusd=place, in_flight=place) for place, name in enumerate("abc")]
    assert ranked(strategy, options)[0] == "c"


def test_weighted_gives_each_its_share_and_the_rest_in_proportion() -> None:
    """The shares are 1/2, 1/3 and 1/6, and of those that begin with a, b comes second twice as often as c."""
    options = [Option("a", 0, weight=3), Option("b", 1, weight=2), Option("c", 2, weight=1)]
    orders = Counter(ranked("weighted", options, Facts(seed=seed)) for seed in range(3_000))
    first = Counter({name: sum(n for order, n in orders.items() if order[0] == name) for name in "abc"})
    assert [round(first[name] / 3_000, 1) for name in "abc"] == [0.5, 0.3, 0.2]
    assert 1.7 <= orders["abc"] / orders["acb"] <= 2.3


def test_a_weight_of_nothing_is_for_when_nothing_else_is_left() -> None:
    options = [Option("a", weight=0.0), Option("b", weight=0.001), Option("c", weight=0.0)]
    assert {ranked("weighted", options, Facts(seed=seed)) for seed in range(50)} == {"bac"}


def test_round_robin_begins_one_further_on_each_time() -> None:
    assert [ranked("round_robin", [Option(n) for n in "abc"], Facts(turn=turn)) for turn in range(4)] == [
        "abc",
        "bca",
        "cab",
        "abc",
    ]


def test_round_robin_shares_the_turn_of_one_that_is_down_among_the_others() -> None:
    firsts = Counter(ranked("round_robin", [Option("a"), Option("c")], Facts(turn=turn))[0] for turn in range(100))
    assert firsts == {"a": 50, "c": 50}


@pytest.mark.parametrize(
    ("busy", "order"),
    [
        ({"a": (3, None), "b": (1, None), "c": (2, None)}, "bca"),
        ({"a": (0, None), "b": (0, None), "c": (0, None)}, "abc"),
        ({"a": (5, 10), "b": (4, 4), "c": (6, 60)}, "cab"),
        ({"a": (5, 10), "b": (4, None), "c": (9, 90)}, "bca"),  # without a limit: as large as the largest
    ],
)
def test_least_busy_goes_by_what_may_be_in_flight(busy: dict[str, tuple[int, int | None]], order: str) -> None:
    assert ranked("least_busy", [Option(name, in_flight=n, limit=limit) for name, (n, limit) in busy.items()]) == order


@pytest.mark.parametrize(
    ("known", "output_tokens", "order"),
    [
        ({"a": (300.0, 10.0), "b": (900.0, 100.0)}, 10, "ba"),  # 1,300 ms against 1,000
        ({"a": (300.0, 10.0), "b": (900.0, 100.0)}, 1, "ab"),
        ({"a": (300.0, None), "b": (200.0, None)}, 500, "ba"),
        ({"a": (300.0, None), "b": (400.0, 50.0)}, 500, "ab"),  # an unknown speed is the others' mean
        ({"a": (None, 900.0), "b": (5_000.0, 1.0)}, 500, "ba"),  # without a first token nothing is known
        ({"a": (None, None), "b": (None, None)}, 500, "ab"),
    ],
)
def test_fastest_goes_by_the_time_until_the_whole_answer(
    known: dict[str, tuple[float | None, float | None]], output_tokens: int, order: str
) -> None:
    options = [Option(name, first_token_ms=first, tokens_per_s=speed) for name, (first, speed) in known.items()]
    assert ranked("fastest", options, Facts(output_tokens=output_tokens, seed=never_exploring())) == order


def test_one_request_in_ten_tries_what_is_unknown_first() -> None:
    options = [Option("a", first_token_ms=100.0), Option("b"), Option("c")]
    firsts = Counter(ranked("fastest", options, Facts(seed=seed))[0] for seed in range(2_000))
    assert 0.08 <= (firsts["b"] + firsts["c"]) / 2_000 <= 0.12
    assert min(firsts["b"], firsts["c"]) > 60
    worked = {option.name: worked for option, worked in rank("fastest", options, Facts(seed=exploring()), Weights())}
    assert ["explored" in worked[name] for name in "abc"] == [False, True, True]


def test_cheapest_has_what_has_no_price_last() -> None:
    costs: dict[str, int | None] = {"a": None, "b": 900, "c": 0, "d": None, "e": 900}
    assert ranked("cheapest", [Option(name, expected_cost_nusd=cost) for name, cost in costs.items()]) == "cbead"


def test_a_session_stays_where_it_is_and_a_lost_target_moves_only_its_own() -> None:
    names = "abcd"
    sessions = [f"session {n}" for n in range(400)]
    before = {one: ranked("sticky", [Option(name) for name in names], Facts(sticky=one))[0] for one in sessions}
    after = {one: ranked("sticky", [Option(name) for name in "abd"], Facts(sticky=one))[0] for one in sessions}
    moved = {one for one in sessions if before[one] != after[one]}
    assert moved == {one for one in sessions if before[one] == "c"}
    assert len({after[one] for one in moved}) == 3
    assert min(Counter(before.values()).values()) > 60


# -- all of them

PROGRAMS = 150


def program(seed: int, least: int = 0) -> tuple[list[Option], Facts]:
    """Targets in any state, and a request."""
    chance = random.Random(seed)

    def maybe(value: float) -> float | None:
        return None if chance.random() < 0.3 else value

    options = [
        Option(
            chance.choice("abcdefgh"),
            place,
            preferred=chance.random() < 0.2,
            weight=chance.choice((0.0, 0.5, 1.0, 3.0)),
            in_flight=chance.randrange(5),
            limit=chance.choice((None, 1, 4, 9)),
            first_token_ms=maybe(chance.choice((0.0, 80.5, 300.0, 4_000.0))),
            tokens_per_s=maybe(chance.choice((0.1, 60.0, 9_999.9))),
            expected_cost_nusd=chance.choice((None, 0, 7, 1_000_000, 10**10)),
            sure=chance.choice((0.5, 1.0)),
            quality=maybe(round(chance.random(), 3)),
            ok=chance.randrange(9),
            ended=9 + chance.randrange(9),
        )
        for place in range(chance.randint(least, 8))
    ]
    asked = Facts(
        seed=chance.getrandbits(32),
        turn=chance.randrange(10**9),
        sticky=str(chance.random()),
        output_tokens=chance.randrange(9_999),
    )
    return options, asked


@pytest.mark.property
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_order_is_a_permutation_and_the_same_each_time(strategy: Strategy) -> None:
    for seed in range(PROGRAMS):
        given, asked = program(seed)
        first = rank(strategy, given, asked, Weights())
        assert sorted([option.place for option, _ in first]) == list(range(len(given))), seed
        assert rank(strategy, given, asked, Weights()) == first, seed
        preferred = [option.preferred for option, _ in first]
        assert preferred == sorted(preferred, reverse=True), seed


@pytest.mark.property
@pytest.mark.parametrize("strategy", ["order", "weighted", "cheapest", "sticky"])
def test_where_each_stands_alone_a_lost_target_leaves_the_others_in_order(strategy: Strategy) -> None:
    for seed in range(PROGRAMS):
        given, asked = program(seed, least=2)
        before = [option.place for option, _ in rank(strategy, given, asked, Weights())]
        lost = before[seed % len(before)]
        after = [option.place for option, _ in rank(strategy, [o for o in given if o.place != lost], asked, Weights())]
        assert after == [place for place in before if place != lost], seed


def test_the_trace_names_the_inputs_of_every_strategy() -> None:
    assert set(INPUTS) == set(STRATEGIES)
