"""Which targets a request may try, in which order, and why the others not: the decision trace.

The order is the chain's. What cannot change while a chain lives (keys, features) is worked out once per chain and kept in a
`_Layout`; what changes (circuits, cooldowns, latches, capacity) is asked at every plan. If nothing stands in the way, which is
nearly always, plans of one chain share their `candidates` and `trace` lists: treat both as read-only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, lcm
from typing import Any

from proxy.core.target import NO_CREDENTIAL, Chain, Credential, Target
from proxy.routing.deployment import Deployment, Deployments
from proxy.routing.verdict import Effect

MAX_LAYOUTS = 8_192
MAX_VIEWS = 1_024  # of one layout
MAX_TURNS = 60
MAX_TRICKLES = 4_096
TRICKLE_S = 1.0
SHORT_WAIT_S = 2.0  # a limit, a cooldown or a backoff that takes longer is not waited for
BACKOFF_BASE_S = 0.5
BACKOFF_MAX_S = 8.0
THROTTLED_BASE_S = 1.0


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
    target that could otherwise be used ("lacks tools"). `picky`: some candidate refuses or drops parameters by its quirks. Plans
    and their lists are shared between requests and must not be changed.
    """

    candidates: list[Candidate]
    trace: list[dict[str, Any]]
    soonest_s: float | None = None
    lacking: str | None = None
    cooling_s: float | None = None
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
    request_tokens: int | None = None,
    prefer: str | None = None,
    rotation: int | None = None,
    trickle: ChainTrickle | None = None,
) -> Plan:
    """The plan for one request. `prefer` puts the targets of that provider first. Several keys of a target are used in turn, by
    `rotation` or, without it, by a count of the chain's own."""
    layout: _Layout | None = deployments.layouts.get(id(chain))
    if layout is None or layout.chain is not chain:
        layout = lay_out(chain, deployments)
    turn = 0
    if layout.turns > 1:
        layout.turn += 1
        turn = (layout.turn if rotation is None else rotation) % layout.turns
    if prefer not in layout.providers:
        prefer = None
    view = layout.views.get((needs, turn, prefer)) or _new_view(layout, needs, turn, prefer)
    if request_tokens is None:
        for deployment in view.deployments:
            if deployment.unusable(now) is not None:
                break
        else:
            return view.healthy
    return _plan_now(layout, view, now, request_tokens, trickle)


def _configured_context(target: Target) -> int | None:
    return target.context


def larger_context(candidate: Target, failed: Target, context_of: Callable[[Target], int | None] = _configured_context) -> bool:
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
class _Row:
    target: Target
    candidates: list[Candidate]
    skipped: str | None  # for good, as far as this configuration goes


@dataclass(slots=True)
class _View:
    """A layout for one set of needs, turn and preference. `healthy` is the plan while nothing stands in the way."""

    rows: list[_Row]
    candidates: list[Candidate]
    deployments: list[Deployment]
    trace: list[dict[str, Any]]
    lacking: str | None
    healthy: Plan = field(init=False)

    def __post_init__(self) -> None:
        self.healthy = Plan(self.candidates, self.trace, None, self.lacking)


@dataclass(slots=True)
class _Layout:
    chain: Chain
    rows: list[_Row]
    providers: frozenset[str]
    turns: int
    turn: int = -1
    views: dict[tuple[frozenset[str], int, str | None], _View] = field(default_factory=dict)


def lay_out(chain: Chain, deployments: Deployments) -> _Layout:
    """What stays the same of a chain, its deployments among it. Done before the first request, it lets those be seen that nobody called."""
    rows = []
    for target in chain.targets:
        disabled = target.provider.disabled or target.disabled
        credentials = target.provider.credentials or (NO_CREDENTIAL,)
        candidates = [] if disabled else [Candidate(target, one, deployments.get(target, one)) for one in credentials]
        rows.append(_Row(target, candidates, disabled))
    layout = _Layout(
        chain,
        rows,
        frozenset([target.provider.name for target in chain.targets]),
        min(MAX_TURNS, lcm(*[len(row.candidates) or 1 for row in rows])),
    )
    if len(deployments.layouts) >= MAX_LAYOUTS:
        deployments.layouts.clear()
    deployments.layouts[id(chain)] = layout
    return layout


def _new_view(layout: _Layout, needs: frozenset[str], turn: int, prefer: str | None) -> _View:
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
            rows.append(_Row(row.target, [], skipped))
        else:
            start = turn % len(row.candidates)
            rows.append(_Row(row.target, row.candidates[start:] + row.candidates[:start], None))
    if prefer is not None:
        rows.sort(key=lambda row: row.target.provider.name != prefer)
    candidates = [candidate for row in rows for candidate in row.candidates]
    view = _View(
        rows,
        candidates,
        [candidate.deployment for candidate in candidates],
        [_kept(row.target) if row.skipped is None else _skipped(row.target, row.skipped) for row in rows],
        None if candidates else lacking,
    )
    if len(layout.views) >= MAX_VIEWS:
        layout.views.clear()
    layout.views[needs, turn, prefer] = view
    return view


def _lacks(target: Target, needs: frozenset[str]) -> frozenset[str]:
    """The features that the request needs and the target is known not to have. What is unknown rules nothing out; a list of what it
    can do is the last word."""
    return needs & (target.provider.lacks | target.lacks) if target.capabilities is None else needs - target.capabilities


# -- what the moment says


def _plan_now(layout: _Layout, view: _View, now: float, request_tokens: int | None, trickle: ChainTrickle | None) -> Plan:
    too_small = _too_small(view, now, request_tokens)
    candidates: list[Candidate] = []
    limited: list[Candidate] = []
    trace: list[dict[str, Any]] = []
    for row in view.rows:
        if row.skipped is not None:
            trace.append(_skipped(row.target, row.skipped))
            continue
        if row.target.name in too_small:
            trace.append(_skipped(row.target, f"a context of {row.target.context} tokens is too small"))
            continue
        reasons = [candidate.deployment.unusable(now) for candidate in row.candidates]
        usable = [candidate for candidate, reason in zip(row.candidates, reasons, strict=True) if reason is None]
        candidates += usable
        soon = [c for c in row.candidates if c.deployment.allowances and frees_soon(c.deployment, now)] if not usable else []
        limited += soon
        if soon:
            reason = next(r for c, r in zip(row.candidates, reasons, strict=True) if c is soon[0])
            trace.append(_kept(row.target) | {"last": reason})
        elif not usable:
            trace.append(_skipped(row.target, next(reason for reason in reasons if reason is not None)))
        elif len(usable) == len(reasons):
            trace.append(_kept(row.target))
        else:
            trace.append(_kept(row.target) | {"keys_set_aside": [reason for reason in reasons if reason is not None]})
    candidates += sorted(limited, key=lambda candidate: candidate.deployment.usable_in_s(now))
    if candidates or not view.candidates:
        return Plan(candidates, trace, None, view.lacking)
    return _last_resort(layout, view, trace, now, trickle)


def _too_small(view: _View, now: float, request_tokens: int | None) -> frozenset[str]:
    """Targets whose known context the request exceeds. Its size is an estimate: it may change the choice, but not leave none."""
    if request_tokens is None:
        return frozenset()
    usable = {c.target.name: c.target.context for c in view.candidates if c.deployment.unusable(now) is None}
    found = frozenset([name for name, context in usable.items() if context is not None and context < request_tokens])
    return found if len(found) < len(usable) else frozenset()


def _last_resort(layout: _Layout, view: _View, trace: list[dict[str, Any]], now: float, trickle: ChainTrickle | None) -> Plan:
    """Nothing is usable. If that is for open circuits alone (but for latches), now and then the one due soonest is tried
    early."""
    awake = [deployment for deployment in view.deployments if deployment.latched(now) is None]
    if trickle is not None and awake and all(deployment.only_open(now) for deployment in awake):
        chain = layout.chain
        if trickle.allow(chain.targets[0].name if chain.direct else chain.name, now):
            # not `awake`: their order is the chain's, and the first of equals is the one to take
            chosen = min(
                [candidate for candidate in view.candidates if candidate.deployment.only_open(now)],
                key=lambda candidate: candidate.deployment.breaker.until,
            )
            chosen.deployment.breaker.hurry()
            kept = _kept(chosen.target) | {"last_resort": True}
            return Plan([chosen], [kept if entry["target"] == chosen.target.name else entry for entry in trace])
    waits = [(deployment.usable_in_s(now), deployment) for deployment in view.deployments]
    cooling = [
        wait_s
        for wait_s, d in waits
        if d.cool_until > now and d.latched(now) is None and d.breaker.ready(now) and d.refusal(now) is None
    ]
    soonest_s = min([wait_s for wait_s, _ in waits])
    return Plan([], trace, soonest_s if soonest_s < inf else None, view.lacking, min(cooling, default=None))


def _kept(target: Target) -> dict[str, Any]:
    return {"target": target.name, "kept": True}


def _skipped(target: Target, reason: str) -> dict[str, Any]:
    return {"target": target.name, "skipped": reason}
