"""The plan of a request on a chain with a strategy, or with wishes of its own: who is ruled out, who may be tried, in which order, and why.

wishes, needs, quirks, context ──▶ ruled out, with a reason
circuits, cooldowns, limits    ──▶ not now, with a reason
the rest ──▶ `strategy.py` ──▶ candidates, each with what its place was worked out from
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from proxy.core.target import FEATURES, Chain
from proxy.core.wishes import NO_WISHES
from proxy.routing.choice import Facts, Option, called, first_token, heard, observe, ruled_out, told
from proxy.routing.deployment import Deployments
from proxy.routing.plan import (
    NO_EXCUSE,
    ChainTrickle,
    Layout,
    Look,
    Plan,
    Row,
    View,
    canned_last,
    in_order,
    last_resort,
    layout_of,
    look,
    only_canned,
    skip_line,
    view_of,
)
from proxy.routing.rederive import asked_weights, by
from proxy.routing.strategy import rank

MAX_COMPARED = 200  # targets: each has a line of some 350 bytes in the trace
MAX_REASONS = 8  # that are told when a request's own needs and wishes leave nothing


def choose(
    chain: Chain,
    deployments: Deployments,
    now: float,
    facts: Facts,
    *,
    rotation: int | None = None,
    trickle: ChainTrickle | None = None,
) -> Plan:
    """As `plan`, by the chain's strategy and the request's facts. Nothing of it is shared with other plans."""
    layout = layout_of(chain, deployments)
    strategy = chain.strategy
    if facts.wishes is not NO_WISHES:
        facts = replace(facts, wishes=heard(facts.wishes, chain.targets))
    if strategy == "round_robin" and facts.turn is None:
        layout.served += 1
        facts = replace(facts, turn=layout.served)
    view = view_of(layout, facts.needs | (facts.wishes.require & FEATURES.keys()), rotation)
    looked: list[Look] = []
    out: dict[int, str] = {}  # place -> why this request, or any, may not go there
    for place, row in enumerate(view.rows):
        reason = row.skipped or _ruled_out(row, facts, now)
        if reason is None:
            looked.append(look(row, place, now))
        else:
            out[place] = reason
    if out and only_canned(layout, [one.row for one in looked]):
        out |= {one.place: NO_EXCUSE for one in looked}
        looked = []
    if strategy != "order":
        small = _too_small(looked, facts)
        out |= {place: f"a context of {context} tokens is too small" for place, context in small.items()}
        looked = [one for one in looked if one.place not in small]
        late = [one.place for one in looked if one.usable and not one.canned][MAX_COMPARED:]
        if late:
            out |= dict.fromkeys(late, f"behind the first {MAX_COMPARED}, and no more are compared")
            looked = [one for one in looked if one.place not in out]
    ranked = _ranked(chain, [one for one in looked if one.usable and not one.canned], facts)
    canned = [one for one in looked if one.usable and one.canned]
    asked = told(facts) | ({"weights": asked_weights(chain.weights)} if strategy == "score" else {})
    trace = _lines(chain, facts, [*ranked, *canned], looked, out)
    candidates = in_order([*ranked, *canned], looked)
    if candidates or looked:
        left = canned_last([candidate for one in looked for candidate in one.row.candidates])
        return Plan(candidates, trace, asked=asked) if candidates else last_resort(layout, left, trace, now, trickle, asked=asked)
    return Plan([], trace, None, _why(layout, view, out), asked=asked)


def _ruled_out(row: Row, facts: Facts, now: float) -> str | None:
    deployments = [candidate.deployment for candidate in row.candidates]
    for deployment in deployments:
        if deployment.standing is not None:
            deployment.standing.forget(now)
    first_ms = None if facts.wishes.max_latency_s is None else first_token(row.target, deployments)[0]
    return ruled_out(row.target, facts, first_ms)


def _too_small(looked: Sequence[Look], facts: Facts) -> dict[int, int]:
    """Targets whose known context the request exceeds, by place. Its size is an estimate: it may change the choice, but not leave none."""
    usable = [one for one in looked if one.usable and not one.canned]
    contexts = {one.place: facts.context_of(one.row.target) for one in usable}
    found = {place: context for place, context in contexts.items() if context is not None and context < facts.input_tokens}
    return found if len(found) < len(usable) else {}


def _ranked(chain: Chain, usable: Sequence[Look], facts: Facts) -> list[Look]:
    """By the chain's strategy; what that worked out is added to their lines."""
    strategy = chain.strategy
    options: dict[int, Look] = {}
    observed: list[Option] = []
    for one in usable:
        deployments = [candidate.deployment for candidate in one.usable]
        option = observe(strategy, one.place, one.row.target, deployments, facts)
        observed.append(option)
        options[option.place] = one
    ranked = []
    for option, worked in rank(strategy, observed, facts, chain.weights):
        one = options[option.place]
        if strategy != "order":  # there the order of the lines says all
            if option.preferred:
                one.entry["preferred"] = True
            one.entry["by"] = by(strategy, option, worked)
        ranked.append(one)
    return ranked


def _lines(
    chain: Chain, facts: Facts, ranked: Sequence[Look], looked: Sequence[Look], out: dict[int, str]
) -> list[dict[str, Any]]:
    """A line for each target. With the chain's own order they stand in that, the preferred ones first; else as they were ranked, with those
    behind that were not."""
    lines = {one.place: one.entry for one in looked} | {
        place: skip_line(chain.targets[place], reason) for place, reason in out.items()
    }
    if chain.strategy == "order":
        prefer = (facts.wishes.prefer,)
        places = sorted(lines, key=lambda place: (not called(chain.targets[place], prefer), place))
    else:
        first = [one.place for one in ranked] + [one.place for one in looked if one.soon]
        places = first + sorted(lines.keys() - set(first))
    return [lines[place] for place in places]


def _why(layout: Layout, view: View, out: Mapping[int, str]) -> str | None:
    """What rules every target out, if it is the request's own needs and wishes; None if the file alone does."""
    if not view.candidates:
        return view.lacking
    rows = [(place, row.target) for place, row in enumerate(layout.rows) if row.candidates]
    told_of = [f"{target.name} {out[place]}" for place, target in rows if target.answer is None or len(rows) == 1]
    return "; ".join(told_of[:MAX_REASONS]) + (f"; and {len(told_of) - MAX_REASONS} more" if len(told_of) > MAX_REASONS else "")
