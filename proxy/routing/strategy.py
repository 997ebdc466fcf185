"""In which order targets are tried: one function for each strategy, from Options and Facts to the Options in order and what was worked out.

    order         as they stand in the chain
    weighted      each draws a waiting time, of mean 1 / weight: the shortest first
    sticky        the same, but the session draws: it gets the same times again, and a target that is lost moves only its own sessions
    round_robin   each request begins one further on
    least_busy    the least in flight, of what may be in flight where that is limited
    fastest       the least time until the whole answer is there; what is unknown is tried first by one request in ten
    cheapest      the least expected cost of this request; what has no price last
    score         the highest total (`score.py`)

Ties are by the chain's order. Whatever a request prefers goes before all others, each of the two in the strategy's order. Only the order is
decided here: who may be tried at all is settled before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from math import log
from typing import Any

from proxy.core.target import Strategy, Weights
from proxy.routing.choice import Facts, Option
from proxy.routing.score import scores, shifted
from proxy.routing.speed import expected_ms

EXPLORED_SHARE = 0.1
_LEAST_DRAW = 1e-9

Worked = dict[str, Any]  # what was worked out of an option, for the trace
_Keyed = list[tuple[Any, Worked]]  # of each option: what it is sorted by, the least first


def rank(strategy: Strategy, options: Sequence[Option], facts: Facts, weights: Weights) -> list[tuple[Option, Worked]]:
    """All options, in the order to try them. `facts.turn` must be set for `round_robin`; `weights` are those of the chain."""
    keyed = _STRATEGIES[strategy](options, facts, weights)
    ranked = sorted(zip(options, keyed, strict=True), key=lambda each: (not each[0].preferred, each[1][0], each[0].place))
    return [(option, worked) for option, (_, worked) in ranked]


def _order(options: Sequence[Option], facts: Facts, weights: Weights) -> _Keyed:
    return [(0, {}) for _ in options]


def _weighted(options: Sequence[Option], facts: Facts, weights: Weights) -> _Keyed:
    return _by_draw(options, f"{facts.seed}")


def _sticky(options: Sequence[Option], facts: Facts, weights: Weights) -> _Keyed:
    return _by_draw(options, facts.sticky)


def _by_draw(options: Sequence[Option], seed: str) -> _Keyed:
    """Efraimidis and Spirakis' sampling (2006) in its exponential form: the first is each with a chance of its share of the weights,
    the second likewise among those that are left. With a fixed seed the same is weighted rendezvous hashing."""
    keyed: _Keyed = []
    for option in options:
        drawn = draw(seed, option.name)
        after = round(-log(drawn) / option.weight, 6) if option.weight > 0 else None
        keyed.append(((after is None, after or 0.0), {"draw": drawn, "after": after}))
    return keyed


def draw(seed: str, name: str) -> float:
    """Between 0 and 1, neither included; the same for the same two words, anywhere."""
    word = blake2b(f"{seed}|{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return min(1 - _LEAST_DRAW, max(_LEAST_DRAW, round(int.from_bytes(word) / 2**64, 9)))


def _round_robin(options: Sequence[Option], facts: Facts, weights: Weights) -> _Keyed:
    """By turns among those that are left: the place of a target that is down goes round, too, and not all to the one behind it."""
    count = len(options)
    first = (facts.turn or 0) % count if count else 0
    return [((index - first) % count, {}) for index in range(count)]


def _least_busy(options: Sequence[Option], facts: Facts, weights: Weights) -> _Keyed:
    """Where some have a limit, one that has none is as large as the largest of those."""
    largest = max([option.limit for option in options if option.limit], default=1)
    busy = [round(option.in_flight / (option.limit or largest), 6) for option in options]
    return [(share, {"busy": share}) for share in busy]


def _fastest(options: Sequence[Option], facts: Facts, weights: Weights) -> _Keyed:
    explores = draw(f"{facts.seed}", "") < EXPLORED_SHARE
    keyed: _Keyed = []
    for option, time_ms in zip(options, expected_ms(options, facts.output_tokens), strict=True):
        worked: Worked = {"expected_ms": time_ms}
        if time_ms is not None:
            keyed.append(((1, time_ms), worked))
        elif explores:
            keyed.append(((0, draw(f"{facts.seed}", option.name)), worked | {"explored": True}))
        else:
            keyed.append(((2, 0.0), worked))
    return keyed


def _cheapest(options: Sequence[Option], facts: Facts, weights: Weights) -> _Keyed:
    return [((o.expected_cost_nusd is None, o.expected_cost_nusd or 0), {}) for o in options]


def _score(options: Sequence[Option], facts: Facts, weights: Weights) -> _Keyed:
    found = scores(options, shifted(weights, facts.wishes.priority), facts.output_tokens)
    return [(-score.total, score._asdict()) for score in found]


_STRATEGIES: Mapping[Strategy, Callable[[Sequence[Option], Facts, Weights], _Keyed]] = {
    "order": _order,
    "weighted": _weighted,
    "round_robin": _round_robin,
    "least_busy": _least_busy,
    "fastest": _fastest,
    "cheapest": _cheapest,
    "score": _score,
    "sticky": _sticky,
}
