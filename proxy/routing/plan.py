"""Which targets a request may try, in which order, and why the others not: the decision trace.

What cannot change while a chain lives (keys, features) is worked out once per chain and kept in a `Layout`; what changes (circuits,
cooldowns, latches, capacity) is asked at every plan. If nothing stands in the way, which is nearly always, plans of one chain share their
`candidates` and `trace` lists: treat both as read-only.

Here the order is the chain's own, and the request wishes for nothing; for the rest see `chosen.py`. Of any order this is true: targets
whose limit frees in a moment come behind the others, canned answers behind those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf, lcm
from typing import Any

from proxy.core.target import NO_CREDENTIAL, Chain, Credential, Target
from proxy.routing.breaker import Breaker
from proxy.routing.choice import configured_context, listed
from proxy.routing.deployment import Deployment, Deployments
from proxy.routing.verdict import Effect

MAX_LAYOUTS = 8_192
MAX_VIEWS = 1_024  # of one layout
MAX_TURNS = 60
MAX_TRICKLES = 4_096
NO_EXCUSE = "no other target can serve this request"  # and so its canned answer would hide the caller's mistake
TRICKLE_S = 1.0
SHORT_WAIT_S = 2.0  # a limit, a cooldown or a backoff that takes longer is not waited for
BACKOFF_BASE_S = 0.5
BACKOFF_MAX_S = 8.0
THROTTLED_BASE_S = 1.0
BY_STANDING = frozenset(("fastest", "score"))  # strategies that go by how targets have done lately
SHARING = frozenset(("weighted", "round_robin", "least_busy", "sticky"))  # those that give each target its part of the requests


@dataclass(slots=True)
class Candidate:
    target: Target
    credential: Credential
    deployment: Deployment


@dataclass(slots=True)
class Plan:
    """What to try, in order, and a line for every target of the chain.

    Candidates behind the others may be over a limit that frees in a moment: they are for a request that has nothing else left.
    `soonest_s`: without candidates, when the first target may be tried, None if never; `cooling_s`: the same if what is in the way
    is a cooldown and nothing else, so that a short one is worth waiting for. `lacking`: set when features are what rules out every
    target that could otherwise be used ("lacks tools"), or the request's wishes, which are named by target then. `picky`: some candidate
    refuses or drops parameters by its quirks. `asked`: what the choice was made from besides chain and state, None where that is
    nothing. Plans and what they hold are shared between requests and must not be changed.
    """

    candidates: list[Candidate]
    trace: list[dict[str, Any]]
    soonest_s: float | None = None
    lacking: str | None = None
    cooling_s: float | None = None
    asked: dict[str, Any] | None = None
    picky: bool = field(init=False)

    def __post_init__(self) -> None:
        self.picky = any(bool(c.target.quirks.refuse or c.target.quirks.drop) for c in self.candidates)


class ChainTrickle:
    """One request a second for each chain may try an open circuit when there is nothing else."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

    def allow(self, chain: str, now: float) -> bool:
        if self._next.get(chain, now) > now:
            return False
        if len(self._next) >= MAX_TRICKLES:
            self._next = {name: at for name, at in self._next.items() if at > now}
            if len(self._next) >= MAX_TRICKLES:
                return False
        self._next[chain] = now + TRICKLE_S
        return True


def plan(
    chain: Chain,
    deployments: Deployments,
    now: float,
    *,
    needs: frozenset[str],
    rotation: int | None = None,
    trickle: ChainTrickle | None = None,
) -> Plan:
    """The plan for one request in the chain's own order. Several keys of a target are used in turn, by `rotation` or, without it, by a
    count of the chain's own."""
    layout: Layout | None = deployments.layouts.get(id(chain))
    if layout is None or layout.chain is not chain:
        layout = lay_out(chain, deployments)
    if layout.turns > 1 or (view := layout.views.get((needs, 0))) is None:
        view = view_of(layout, needs, rotation)
    for deployment in view.deployments:
        if deployment.unusable(now) is not None:
            return _plan_now(layout, view, now, trickle)
    return view.healthy


def larger_context(candidate: Target, failed: Target, context_of: Callable[[Target], int | None] = configured_context) -> bool:
    """Whether `candidate` is known to hold more than `failed`, for which the request was too long. `context_of` may know more than
    the configuration does: the price data."""
    context = context_of(candidate)
    if context is None:
        return False
    limit = context_of(failed)
    return limit is None or context > limit


def frees_soon(deployment: Deployment, now: float) -> bool:
    """Whether limits of a minute are all that stands in its way, and only for a moment."""
    wait_s = deployment.brief_wait_s(now)
    return wait_s is not None and wait_s <= SHORT_WAIT_S


def backoff_s(effect: Effect, n: int, random: Callable[[], float]) -> float:
    """The wait before retry `n` (from 0) at the same target: full jitter, or equal jitter where the upstream throttles."""
    base_s = min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2.0 ** min(n, 16))
    if effect is Effect.RATE:
        base_s = max(base_s, THROTTLED_BASE_S)
        return base_s / 2 + random() * base_s / 2
    return random() * base_s


# -- what stays the same


@dataclass(slots=True)
class Row:
    target: Target
    candidates: list[Candidate]
    skipped: str | None  # for good, as far as this configuration goes


@dataclass(slots=True)
class View:
    """A layout for one set of needs and turn. `healthy` is the plan while nothing stands in the way."""

    rows: list[Row]
    candidates: list[Candidate]
    deployments: list[Deployment]
    trace: list[dict[str, Any]]
    lacking: str | None
    asked: dict[str, Any] | None
    healthy: Plan = field(init=False)

    def __post_init__(self) -> None:
        self.healthy = Plan(self.candidates, self.trace, None, self.lacking, asked=self.asked)


@dataclass(slots=True)
class Layout:
    chain: Chain
    rows: list[Row]
    turns: int
    pool: tuple[Breaker, ...] = ()  # where the targets share the load: half of these may open by their rate
    turn: int = -1  # of the keys
    served: int = -1  # requests, for `round_robin`
    views: dict[tuple[frozenset[str], int], View] = field(default_factory=dict)


def layout_of(chain: Chain, deployments: Deployments) -> Layout:
    layout: Layout | None = deployments.layouts.get(id(chain))
    return layout if layout is not None and layout.chain is chain else lay_out(chain, deployments)


def lay_out(chain: Chain, deployments: Deployments) -> Layout:
    """What stays the same of a chain, its deployments among it. Done before the first request, it lets those be seen that nobody called."""
    rows = []
    for target in chain.targets:
        disabled = target.provider.disabled or target.disabled
        credentials = target.provider.credentials or (NO_CREDENTIAL,)
        candidates = [] if disabled else [Candidate(target, one, deployments.get(target, one)) for one in credentials]
        rows.append(Row(target, candidates, disabled))
        if chain.strategy in BY_STANDING or chain.hedge is not None:
            for candidate in candidates:
                candidate.deployment.keep_standing()
    layout = Layout(
        chain,
        rows,
        min(MAX_TURNS, lcm(*[len(row.candidates) or 1 for row in rows])),
        _pool(rows) if chain.strategy in SHARING else (),
    )
    if len(deployments.layouts) >= MAX_LAYOUTS:
        deployments.layouts.clear()
    deployments.layouts[id(chain)] = layout
    return layout


def _pool(rows: Sequence[Row]) -> tuple[Breaker, ...]:
    return tuple([candidate.deployment.breaker for row in rows if row.target.answer is None for candidate in row.candidates])


def view_of(layout: Layout, needs: frozenset[str], rotation: int | None) -> View:
    """What the needs leave of a chain. `rotation`: whose turn it is among the keys of each target, None for the next."""
    turn = 0
    if layout.turns > 1:
        layout.turn += 1
        turn = (layout.turn if rotation is None else rotation) % layout.turns
    return layout.views.get((needs, turn)) or _new_view(layout, needs, turn)


def _new_view(layout: Layout, needs: frozenset[str], turn: int) -> View:
    rows = []
    lacking: str | None = None
    for row in layout.rows:
        if row.skipped is not None:
            rows.append(row)
            continue
        lacks = sorted(_lacks(row.target, needs))
        if lacks:
            skipped = f"lacks {', '.join(lacks)}"
            lacking = lacking or skipped
            rows.append(Row(row.target, [], skipped))
        else:
            start = turn % len(row.candidates)
            rows.append(Row(row.target, row.candidates[start:] + row.candidates[:start], None))
    if lacking is not None and only_canned(layout, [row for row in rows if row.candidates]):
        rows = [Row(row.target, [], NO_EXCUSE) if row.candidates else row for row in rows]
    candidates = canned_last([candidate for row in rows for candidate in row.candidates])
    view = View(
        rows,
        candidates,
        [candidate.deployment for candidate in candidates],
        [kept_line(row.target) if row.skipped is None else skip_line(row.target, row.skipped) for row in rows],
        None if candidates else lacking,
        {"needs": sorted(needs)} if needs else None,
    )
    if len(layout.views) >= MAX_VIEWS:
        layout.views.clear()
    layout.views[needs, turn] = view
    return view


def only_canned(layout: Layout, left: Sequence[Row]) -> bool:
    """Whether nothing is left but canned answers where there are others."""
    return all(row.target.answer is not None for row in left) and any(
        row.target.answer is None for row in layout.rows if row.candidates
    )


def canned_last(candidates: list[Candidate]) -> list[Candidate]:
    """One that cannot fail would leave nothing to those behind it."""
    canned = [candidate for candidate in candidates if candidate.target.answer is not None]
    return [candidate for candidate in candidates if candidate.target.answer is None] + canned if canned else candidates


def _lacks(target: Target, needs: frozenset[str]) -> frozenset[str]:
    """The features that the request needs and the target is known not to have. What is unknown rules nothing out; a list of what it
    can do is the last word."""
    capabilities = listed(target)
    return needs & (target.provider.lacks | target.lacks) if capabilities is None else needs - capabilities


# -- what the moment says


def _plan_now(layout: Layout, view: View, now: float, trickle: ChainTrickle | None) -> Plan:
    found = [look(row, place, now) if row.skipped is None else None for place, row in enumerate(view.rows)]
    trace = [
        skip_line(row.target, row.skipped or "") if one is None else one.entry for row, one in zip(view.rows, found, strict=True)
    ]
    looked = [one for one in found if one is not None]
    candidates = in_order([one for one in looked if one.usable], looked)
    if candidates or not view.candidates:
        return Plan(candidates, trace, None, view.lacking, asked=view.asked)
    return last_resort(layout, view.candidates, trace, now, trickle, asked=view.asked)


@dataclass(slots=True)
class Look:
    """A target as it is at this moment: its usable keys, or else those that a limit of a minute holds back for less than two seconds."""

    row: Row
    place: int
    usable: list[Candidate]
    soon: list[Candidate]
    wait_s: float
    entry: dict[str, Any]

    @property
    def canned(self) -> bool:
        return self.row.target.answer is not None


def look(row: Row, place: int, now: float) -> Look:
    target = row.target
    reasons = [candidate.deployment.unusable(now) for candidate in row.candidates]
    usable = [candidate for candidate, reason in zip(row.candidates, reasons, strict=True) if reason is None]
    if usable:
        kept = kept_line(target)
        if len(usable) < len(reasons):
            kept["keys_set_aside"] = [reason for reason in reasons if reason is not None]
        return Look(row, place, usable, [], 0.0, kept)
    soon = [c for c in row.candidates if c.deployment.allowances and frees_soon(c.deployment, now)]
    if not soon:
        return Look(row, place, [], [], 0.0, skip_line(target, next(reason for reason in reasons if reason is not None)))
    reason = next(r for c, r in zip(row.candidates, reasons, strict=True) if c is soon[0])
    wait_s = round(min([candidate.deployment.usable_in_s(now) for candidate in soon]), 3)
    return Look(row, place, [], soon, wait_s, kept_line(target) | {"last": reason})


def in_order(ranked: Sequence[Look], looked: Sequence[Look]) -> list[Candidate]:
    """What to try: the usable ones as they were ranked, then those that wait for a limit, then canned answers."""
    waiting = sorted([one for one in looked if one.soon], key=lambda one: one.wait_s)
    if len(waiting) > 1:
        for one in waiting:
            one.entry["wait_s"] = one.wait_s
    return canned_last([c for one in ranked for c in one.usable] + [c for one in waiting for c in one.soon])


# -- when nothing is left


def last_resort(
    layout: Layout,
    candidates: Sequence[Candidate],
    trace: list[dict[str, Any]],
    now: float,
    trickle: ChainTrickle | None,
    *,
    asked: dict[str, Any] | None,
) -> Plan:
    """None of `candidates` is usable. If that is for open circuits alone (but for latches), now and then the one due soonest is tried
    early."""
    deployments = [candidate.deployment for candidate in candidates]
    awake = [deployment for deployment in deployments if deployment.latched(now) is None]
    if trickle is not None and awake and all(deployment.only_open(now) for deployment in awake):
        chain = layout.chain
        if trickle.allow(chain.targets[0].name if chain.direct else chain.name, now):
            # not `awake`: their order is the chain's, and the first of equals is the one to take
            chosen = min(
                [candidate for candidate in candidates if candidate.deployment.only_open(now)],
                key=lambda candidate: candidate.deployment.breaker.until,
            )
            chosen.deployment.breaker.hurry()
            kept = kept_line(chosen.target) | {"last_resort": True}
            lines = [kept if entry["target"] == chosen.target.name else entry for entry in trace]
            return Plan([chosen], lines, asked=asked)
    waits = [(deployment.usable_in_s(now), deployment) for deployment in deployments]
    cooling = [
        wait_s
        for wait_s, d in waits
        if d.cool_until > now and d.latched(now) is None and d.breaker.ready(now) and d.refusal(now) is None
    ]
    soonest_s = min([wait_s for wait_s, _ in waits])
    return Plan([], trace, soonest_s if soonest_s < inf else None, None, min(cooling, default=None), asked)


def kept_line(target: Target) -> dict[str, Any]:
    return {"target": target.name, "kept": True}


def skip_line(target: Target, reason: str) -> dict[str, Any]:
    return {"target": target.name, "skipped": reason}
