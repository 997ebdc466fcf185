"""`strategy: score`: what speaks for a target, in four parts of 0 to 1, weighed together to at most 100.

    capability    sure x quality            sure: 1, or a half where nobody knows whether it can do what is needed
    cost          (least + c) / (its + c)   c: a ten-thousandth of a dollar, so that next to a free target not all others are nothing
    performance   (least + t) / (its + t)   expected time until the whole answer is there; t: 50 ms, which nobody notices
    availability  (ok + 2) / (ended + 2)    of recent attempts, as if two good ones had gone before

Unknown is quality 0.5, cost 0 and performance 0.5. `docs/routing.md` works an example through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from proxy.core.target import Weights
from proxy.core.wishes import Priority
from proxy.routing.choice import UNKNOWN_QUALITY, Option
from proxy.routing.speed import expected_ms

COST_SLACK_NUSD = 100_000
TIME_SLACK_MS = 50.0
UNKNOWN_PERFORMANCE = 0.5
GOOD_BEFORE = 2

# priority -> what the weights of cost and performance are multiplied by
SHIFTS: Mapping[Priority, tuple[float, float]] = {"low": (2.0, 0.5), "normal": (1.0, 1.0), "high": (0.5, 2.0)}


class Score(NamedTuple):
    """`total` is 0 to 100, the parts are 0 to 1."""

    total: float
    capability: float
    cost: float
    performance: float
    availability: float


def shifted(weights: Weights, priority: Priority) -> Weights:
    """The weights for a request of that priority."""
    cost, performance = SHIFTS[priority]
    return replace(weights, cost=weights.cost * cost, performance=weights.performance * performance)


def scores(options: Sequence[Option], weights: Weights, output_tokens: int) -> list[Score]:
    """One for each option, compared with the others. `weights` as shifted."""
    times = expected_ms(options, output_tokens)
    least_ms = min([time for time in times if time is not None], default=None)
    least_nusd = min([o.expected_cost_nusd for o in options if o.expected_cost_nusd is not None], default=None)
    found = []
    for option, its_ms in zip(options, times, strict=True):
        quality = UNKNOWN_QUALITY if option.quality is None else option.quality
        its_nusd = option.expected_cost_nusd
        parts = (
            round(option.sure * quality, 3),
            0.0 if its_nusd is None or least_nusd is None else _ratio(least_nusd, its_nusd, COST_SLACK_NUSD),
            UNKNOWN_PERFORMANCE if its_ms is None or least_ms is None else _ratio(least_ms, its_ms, TIME_SLACK_MS),
            round((option.ok + GOOD_BEFORE) / (option.ended + GOOD_BEFORE), 3),
        )
        found.append(Score(_total(parts, weights), *parts))
    return found


def _ratio(least: float, its: float, slack: float) -> float:
    return round((least + slack) / (its + slack), 3)


def _total(parts: tuple[float, float, float, float], weights: Weights) -> float:
    weighed = (weights.capability, weights.cost, weights.performance, weights.availability)
    of = sum(weighed)
    return round(100 * sum([weight * part for weight, part in zip(weighed, parts, strict=True)]) / of, 2) if of else 0.0
