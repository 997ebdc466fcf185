"""The ledger gone through once under another configuration: what each request would have come to, summed up beside what it came to.

Rows are read a page at a time and nothing of them is kept but sums and a few examples, so a ledger of any size takes little memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from proxy.config.settings import Settings
from proxy.core.money import nusd_to_usd
from proxy.monitoring.past import Past
from proxy.monitoring.query import rfc3339
from proxy.monitoring.record import Reader
from proxy.monitoring.walk import Decision, Prices
from proxy.monitoring.whatif import WhatIf
from proxy.storage.recorded import RecordedRequest, ends, recorded

MAX_EXAMPLES = 20
MAX_NAMES = 1_000  # targets and chains that are told apart
OTHER = "other"
OUTCOMES = ("ok", "failed", "rejected", "client_gone", "interrupted")


@dataclass(slots=True)
class Sums:
    """Of some requests. `unpriced`: those that consumed something whose price or amount nobody knows; `cost_nusd` is without it."""

    requests: int = 0
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    attempts: int = 0
    failed_over: int = 0
    cost_nusd: int = 0
    unpriced: int = 0

    def add(self, decision: Decision) -> None:
        self.requests += 1
        self.outcomes[decision.outcome] = self.outcomes.get(decision.outcome, 0) + 1
        self.attempts += decision.attempts
        self.failed_over += decision.attempts > 1
        self.cost_nusd += decision.cost_nusd
        self.unpriced += decision.unpriced

    @property
    def availability(self) -> float | None:
        """The share of requests, 0 to 1, that were answered, of those that ought to have been; None if there were none."""
        due = self.outcomes["ok"] + self.outcomes["failed"]
        return self.outcomes["ok"] / due if due else None

    def told(self) -> dict[str, Any]:
        return {
            **self.outcomes,
            "availability": _share(self.availability),
            "attempts": self.attempts,
            "failed_over": self.failed_over,
            "cost_usd": nusd_to_usd(self.cost_nusd),
            "unpriced": self.unpriced,
        }


@dataclass(frozen=True, slots=True)
class Example:
    """One request that would have gone another way."""

    request: RecordedRequest
    was: Decision
    now: Decision


RECORDED: Final = ("recorded", "what_if")
OLD_AND_NEW: Final = ("old", "new")
Names = tuple[str, str]


@dataclass(slots=True)
class Outcome:
    """One configuration against the record, or against another configuration: then `was` is what that would have come to.

    `assumed`: requests that came to a target of which it is not known what it would have done; `unknown_models`: what they asked for means
    nothing there; `refused` before anything was chosen; `untold`: nobody wrote down what was.
    """

    what_if: WhatIf
    requests: int = 0
    differing: int = 0
    assumed: int = 0
    refused: int = 0
    untold: int = 0
    unknown_models: int = 0
    was: Sums = field(default_factory=Sums)
    now: Sums = field(default_factory=Sums)
    by_target: dict[str, tuple[Sums, Sums]] = field(default_factory=dict)
    by_chain: dict[str, tuple[Sums, Sums]] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)

    def add(self, request: RecordedRequest, was: Decision, now: Decision) -> None:
        self.requests += 1
        self.was.add(was)
        self.now.add(now)
        if was.order is None and not now.differs(was):
            self.refused += not request.attempts
            self.untold += bool(request.attempts)
        self.assumed += now.assumed or was.assumed
        self.unknown_models += now.unknown_model
        chain = _sums(self.by_chain, request.chain or "")
        chain[0].add(was)
        chain[1].add(now)
        for place, decision in enumerate((was, now)):
            if decision.served is not None:
                _sums(self.by_target, decision.served)[place].add(decision)
        if now.differs(was):
            self.differing += 1
            if len(self.examples) < MAX_EXAMPLES:
                self.examples.append(Example(request, was, now))

    def told(self, names: Names = RECORDED) -> dict[str, Any]:
        """As JSON. Money is decimal strings of USD, shares are 0 to 1. `names`: what the two sides are called."""
        return {
            "requests": self.requests,
            "differing": self.differing,
            "config": {"file": str(self.what_if.settings.path or ""), "hash": self.what_if.settings.hash},
            names[0]: self.was.told(),
            names[1]: self.now.told(),
            "assumed": self.assumed,
            "assumed_share": _share(self.assumed / self.requests) if self.requests else None,
            "refused_before": self.refused,
            "undecided": self.untold,
            "unknown_models": self.unknown_models,
            "taken_to_have_a_key": sorted(self.what_if.unkeyed),
            "by_target": [_pair("target", name, sums, names) for name, sums in _most(self.by_target)],
            "by_chain": [_pair("chain", name or None, sums, names) for name, sums in _most(self.by_chain)],
            "examples": [_example(each, names) for each in self.examples],
        }


def replay(
    requests: Iterable[RecordedRequest], past: Past, reader: Reader, what_if: WhatIf, *, instead_of: WhatIf | None = None
) -> Outcome:
    """`requests` by rising time. Compared with what was recorded, or with what would have been under `instead_of`."""
    outcome = Outcome(what_if)
    for request in requests:
        was = reader.decision(request)
        base = was if instead_of is None else instead_of.decide(request, was)
        outcome.add(request, base, what_if.decide(request, was))
        past.see(request)
    return outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Which part of which ledger: from `since_ms` until before `until_ms`, and at most `limit` requests of it, the oldest."""

    data_dir: Path
    since_ms: int
    until_ms: int
    limit: int | None = None


def replay_ledger(
    period: Period, settings: Settings, prices: Prices, *, before: Settings | None = None, instead_of: Settings | None = None
) -> Outcome:
    """`before`: the configuration of the record, where it is known. Raises sqlite3.Error and LedgerUnavailable."""
    past, reader = Past(), Reader()
    past.learn(ends(period.data_dir, period.since_ms, period.until_ms))
    requests = islice(recorded(period.data_dir, period.since_ms, period.until_ms), period.limit)
    base = None if instead_of is None else WhatIf(instead_of, prices, past, reader=reader, before=before)
    return replay(requests, past, reader, WhatIf(settings, prices, past, reader=reader, before=before), instead_of=base)


def _sums(of: dict[str, tuple[Sums, Sums]], name: str) -> tuple[Sums, Sums]:
    if name not in of:
        if len(of) >= MAX_NAMES:
            name = OTHER
        of.setdefault(name, (Sums(), Sums()))
    return of[name]


def _most(of: dict[str, tuple[Sums, Sums]]) -> list[tuple[str, tuple[Sums, Sums]]]:
    return sorted(of.items(), key=lambda each: (-max(each[1][0].requests, each[1][1].requests), each[0]))


def _pair(what: str, name: str | None, sums: tuple[Sums, Sums], names: Names) -> dict[str, Any]:
    told: dict[str, Any] = {what: name}
    told |= {called: each.requests for called, each in zip(names, sums, strict=True)}
    told |= {f"{called}_cost_usd": nusd_to_usd(each.cost_nusd) for called, each in zip(names, sums, strict=True)}
    told |= {f"{called}_unpriced": each.unpriced for called, each in zip(names, sums, strict=True)}
    if what == "chain":
        told |= {f"{called}_availability": _share(each.availability) for called, each in zip(names, sums, strict=True)}
    return told


def _share(share: float | None) -> float | None:
    return None if share is None else round(share, 6)


def _example(each: Example, names: Names) -> dict[str, Any]:
    return {
        "id": each.request.id,
        "time": rfc3339(each.request.time_ms / 1000),
        "model": each.request.model,
        "chain": each.request.chain,
        names[0]: _told(each.was),
        names[1]: _told(each.now),
    }


def _told(decision: Decision) -> dict[str, Any]:
    return {
        "order": None if decision.order is None else list(decision.order),
        "skipped": decision.skipped,
        "served": decision.served,
        "outcome": decision.outcome,
        "cost_usd": None if decision.unpriced else nusd_to_usd(decision.cost_nusd),
        "assumed": decision.assumed,
    }
