"""How a choice is written into the decision trace, and worked out again from what stands there.

    {"target": "groq/llama-3.3-70b", "kept": true,
     "by": {"strategy": "cheapest", "place": 2, "expected_cost_usd": "0.0008"}}

The trace of a request and its `asked` are enough: no configuration, no state and no clock is needed to see that the choice was right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from proxy.core.money import nusd_to_usd, usd_to_nusd
from proxy.core.target import STATIC, Strategy, Weights
from proxy.routing.choice import INPUTS, Facts, Option, facts_of
from proxy.routing.strategy import rank

_COST = "expected_cost_nusd"
_SHOWN_COST = "expected_cost_usd"
_WEIGHTS = ("capability", "cost", "performance", "availability")


def by(strategy: Strategy, option: Option, worked: Mapping[str, Any]) -> dict[str, Any]:
    """What the trace says of a target that was kept: what was worked out, and from what. Money as a decimal string of USD."""
    shown: dict[str, Any] = {"strategy": strategy, "place": option.place, **worked}
    for name in INPUTS[strategy]:
        value = getattr(option, name)
        if name == _COST:
            shown[_SHOWN_COST] = None if value is None else nusd_to_usd(value)
        else:
            shown[name] = value
    return shown


def asked_weights(weights: Weights) -> list[float]:
    """The weights as `asked` has them where the strategy is `score`."""
    return [getattr(weights, name) for name in _WEIGHTS]


def option_of(entry: Mapping[str, Any], place: int) -> Option:
    """A target of the trace as it stood. `place` is for one without `by`: there its place in the trace is that in the chain."""
    option = Option(entry["target"], place, bool(entry.get("preferred")))
    said = entry.get("by")
    if said is None:
        return option
    known = {name: said[name] for name in INPUTS[said["strategy"]] if name in said}
    if said.get(_SHOWN_COST) is not None:
        known[_COST] = usd_to_nusd(Decimal(said[_SHOWN_COST]))
    return replace(option, place=said["place"], **known)


def again(asked: Mapping[str, Any] | None, trace: Sequence[Mapping[str, Any]]) -> list[tuple[Option, dict[str, Any]]]:
    """The targets that strategy alone put in order, with what is worked out of each. Without those that come behind all others whatever
    the strategy: over a limit for a moment, or with a canned answer."""
    options = [option_of(entry, place) for place, entry in enumerate(trace) if is_kept(entry) and not _is_behind(entry)]
    options.sort(key=lambda option: option.place)
    strategy: Strategy = next((entry["by"]["strategy"] for entry in trace if "by" in entry), "order")
    facts = facts_of(asked or {}) if asked else Facts(turn=0)
    weights = (asked or {}).get("weights")
    return rank(strategy, options, facts, Weights(*weights) if weights else Weights())


def rederive(asked: Mapping[str, Any] | None, trace: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of all targets that were kept, in the order in which they were to be tried. Lines of attempts are passed over."""
    kept = [entry for entry in trace if is_kept(entry)]
    waiting = sorted([entry for entry in kept if "last" in entry], key=lambda entry: float(entry.get("wait_s", 0.0)))
    canned = [entry for entry in kept if _is_canned(entry) and "last" not in entry]
    return [option.name for option, _ in again(asked, trace)] + [entry["target"] for entry in (*waiting, *canned)]


def is_kept(entry: Mapping[str, Any]) -> bool:
    """Whether it is the plan's line of a target that may be tried."""
    return bool(entry.get("kept")) and "attempt" not in entry


def _is_behind(entry: Mapping[str, Any]) -> bool:
    return "last" in entry or _is_canned(entry)


def _is_canned(entry: Mapping[str, Any]) -> bool:
    return str(entry["target"]).startswith(f"{STATIC.name}/")
