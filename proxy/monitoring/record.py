"""What a request of the ledger came to, and what its trace says of each target.

Requests that ended alike share their trace (`storage/recorded.py`): it is read once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from proxy.core.money import usd_to_nusd
from proxy.core.target import Chain
from proxy.monitoring.past import answered_by
from proxy.monitoring.walk import Decision
from proxy.routing.rederive import rederive
from proxy.storage.recorded import RecordedRequest

MAX_TRACES = 4_096
Line = Mapping[str, Any]
Trace = list[dict[str, Any]]
_COSTS = "expected to cost $"
_SLOW = "expected first token "
_LEAST_MS = 0.01


@dataclass(slots=True)
class _Read:
    """`trace` is held so that its id is not used again. `order`: as it is without an `asked`, once it was worked out."""

    trace: Trace
    lines: dict[str, Line]
    ordered: bool = False
    order: tuple[str, ...] | None = None


class Reader:
    """For one ledger."""

    def __init__(self) -> None:
        self._read: dict[int, _Read] = {}  # by the trace's id

    def lines(self, trace: Trace) -> dict[str, Line]:
        """The plan's line of each target, in the order of the trace. What the walk wrote of them comes after."""
        return self._of(trace).lines

    def decision(self, request: RecordedRequest) -> Decision:
        """What it came to. `order` None: nothing was chosen, or it was not written down."""
        read = self._of(request.trace)
        lines = read.lines
        if request.asked is not None:
            order = _order(request.asked, lines)
        else:
            if not read.ordered:
                read.order, read.ordered = _order(None, lines), True
            order = read.order
        answered, cached = answered_by(request), request.cached
        served = answered.target if answered is not None else None
        if served is None and cached is not None and request.outcome == "ok":
            served = f"{cached['provider']}/{cached['model']}"
        consumed = [attempt for attempt in request.attempts if attempt.usage is not None]
        return Decision(
            order,
            {name: line["skipped"] for name, line in lines.items() if "skipped" in line},
            served,
            request.outcome,
            attempts=len(request.attempts),
            cost_nusd=sum([attempt.cost_nusd or 0 for attempt in consumed]),
            unpriced=any(attempt.cost_nusd is None for attempt in consumed),
        )

    def _of(self, trace: Trace) -> _Read:
        known = self._read.get(id(trace))
        if known is None:
            lines: dict[str, Line] = {}
            for entry in trace:
                if "attempt" not in entry and "target" in entry and ("kept" in entry or "skipped" in entry):
                    lines.setdefault(entry["target"], entry)
            if len(self._read) >= MAX_TRACES:
                self._read.clear()
            known = self._read[id(trace)] = _Read(trace, lines)
        return known


def _order(asked: Line | None, lines: Mapping[str, Line]) -> tuple[str, ...] | None:
    try:
        return tuple(rederive(asked, list(lines.values()))) if lines else None
    except (KeyError, TypeError, ValueError, ArithmeticError):  # of a release that wrote it otherwise
        return None


def preferred(asked: Line, lines: Mapping[str, Line], chain: Chain | None) -> str | None:
    """Who was to come first, where no release wrote that down: then the trace of a chain in its own order begins with somebody else.
    `chain`: as it was, None if nobody knows."""
    if asked or chain is None or chain.strategy != "order" or any("by" in line for line in lines.values()):
        return None
    names = [target.name for target in chain.targets if target.name in lines]
    told = [name for name in lines if name in set(names)]
    if not told or names == told:
        return None
    provider = told[0].partition("/")[0]
    return provider if sorted(names, key=lambda name: name.partition("/")[0] != provider) == told else None


def words_after(line: Line, begin: str) -> list[str]:
    """Of a reason that begins so, what it names."""
    reason = str(line.get("skipped", ""))
    return reason.removeprefix(begin).split(", ") if reason.startswith(begin) else []


def cost_said(line: Line) -> tuple[int | None] | None:
    """(nano-dollars that the request was expected to cost there, or None for no price,); None where nothing is said of it."""
    said = line.get("by") or {}
    if "expected_cost_usd" in said:
        cost = said["expected_cost_usd"]
        return (None if cost is None else usd_to_nusd(Decimal(cost)),)
    reason = str(line.get("skipped", ""))
    if reason.startswith("no price known"):
        return (None,)
    if reason.startswith(_COSTS):
        return (usd_to_nusd(Decimal(reason.removeprefix(_COSTS).partition(",")[0])),)
    return None


def too_slow_s(reason: str, most_s: float | None) -> float | None:
    """The first token for which it was ruled out: as it was told, and more than was wished."""
    if most_s is None or not reason.startswith(_SLOW):
        return None
    value, _, unit = reason.removeprefix(_SLOW).partition(",")[0].partition(" ")
    told_ms = float(value) * (1 if unit == "ms" else 1000)
    return max(told_ms, most_s * 1000 + _LEAST_MS) / 1000
