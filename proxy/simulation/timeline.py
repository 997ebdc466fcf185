"""What a simulation comes to: rows of the same length, and whatever changed meanwhile. Pure; built while the simulation runs.

A request belongs to the row in which it came, so that rows add up to what was asked; a change belongs to its own time. A row takes the
same room however many requests are in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil, exp, log
from typing import Any, NamedTuple

from proxy.core.money import nusd_to_usd
from proxy.simulation.record import Story

MAX_CHANGES = 10_000
KEPT = "cache"  # who served what nobody was asked for
_STEP = log(1.05)
_NOT_UPSTREAM = frozenset(("client_gone", "drained", "hedged_out"))  # ends of attempts that no upstream is to blame for


class Change(NamedTuple):
    """`what`: circuit, cooling or latched; `to`: its state, the seconds, the reason. `key`: the credential, by its fingerprint."""

    at_s: float
    target: str
    key: str
    what: str
    to: str

    def as_dict(self) -> dict[str, Any]:
        return {"at_s": round(self.at_s, 3), "target": self.target, "key": self.key, "what": self.what, "to": self.to}


class Failover(NamedTuple):
    from_: str
    to: str
    reason: str


class Times:
    """Milliseconds, in buckets a twentieth apart."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()

    def add(self, ms: float) -> None:
        self._buckets[round(log(max(ms, 0.1)) / _STEP)] += 1

    def percentile(self, share: float) -> int | None:
        """To a fortieth of itself; None where there are none."""
        rank = ceil(self._buckets.total() * share)
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                return round(exp(bucket * _STEP))
        return None

    def as_dict(self) -> dict[str, int | None]:
        return {"p50": self.percentile(0.5), "p95": self.percentile(0.95)}


@dataclass(slots=True)
class Row:
    """Requests that came between `from_s` and `to_s`, or all of them. `errors`: of attempts, by (provider, error class). First tokens
    are those of streams, durations those of whatever was answered."""

    from_s: float
    to_s: float
    outcomes: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    failovers: Counter[Failover] = field(default_factory=Counter)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    extras: Counter[str] = field(default_factory=Counter)
    first_tokens: Times = field(default_factory=Times)
    durations: Times = field(default_factory=Times)
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nusd: int = 0
    unpriced: int = 0
    circuits: dict[str, str] = field(default_factory=dict)  # at its end, of targets whose circuit is not closed

    @property
    def requests(self) -> int:
        return self.outcomes.total()

    def add(self, story: Story) -> None:
        self.outcomes[story.outcome] += 1
        if story.code is not None:
            self.codes[story.code] += 1
        if story.outcome == "ok":
            self.served[story.served_by or KEPT] += 1
        for position, tried in enumerate(story.tries):
            following = next(iter(story.tries[position + 1 :]), None)
            provider = tried.target.partition("/")[0]
            self.attempts[provider] += 1
            self.input_tokens += tried.input_tokens
            self.output_tokens += tried.output_tokens
            if tried.error is None or tried.error in _NOT_UPSTREAM:
                continue
            self.errors[provider, tried.error] += 1
            if following is not None and following.target != tried.target:
                self.failovers[Failover(tried.target, following.target, tried.error)] += 1
        for name in ("hedged", "continued"):
            self.extras[name] += bool(story.extra.get(name))
        if story.first_token_ms is not None and story.stream:
            self.first_tokens.add(story.first_token_ms)
        if story.duration_ms is not None and story.outcome == "ok":
            self.durations.add(story.duration_ms)
        self.cost_nusd += story.cost_nusd
        self.unpriced += story.unpriced

    @property
    def cost_usd(self) -> str | None:
        """None where nothing that was consumed has a price."""
        priced = self.requests - self.unpriced
        return None if self.unpriced and not self.cost_nusd and not priced else nusd_to_usd(self.cost_nusd)

    def as_dict(self) -> dict[str, Any]:
        return {
            "from_s": round(self.from_s, 3),
            "to_s": round(self.to_s, 3),
            "requests": self.requests,
            "outcomes": _sorted(self.outcomes),
            "served": _sorted(self.served),
            "attempts": _sorted(self.attempts),
            "failovers": [
                {"from": each.from_, "to": each.to, "reason": each.reason, "count": count}
                for each, count in sorted(self.failovers.items())
            ],
            "errors": [
                {"provider": provider, "error_class": error_class, "count": count}
                for (provider, error_class), count in sorted(self.errors.items())
            ],
            "codes": _sorted(self.codes),
            "hedged": self.extras["hedged"],
            "continued": self.extras["continued"],
            "first_token_ms": self.first_tokens.as_dict(),
            "duration_ms": self.durations.as_dict(),
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": self.cost_usd,
            "unpriced": self.unpriced,
            "circuits": dict(sorted(self.circuits.items())),
        }


class Timeline:
    """`rows` in order, `total` of them all, `changes` in the order in which they happened, of which `lost` were too many."""

    def __init__(self, length_s: float, interval_s: float) -> None:
        count = max(1, ceil(length_s / interval_s - 1e-9))
        self.length_s = length_s
        self.interval_s = interval_s
        self.rows = [Row(n * interval_s, min((n + 1) * interval_s, length_s)) for n in range(count)]
        self.total = Row(0.0, length_s)
        self.changes: list[Change] = []
        self.lost = 0
        self._circuits: list[dict[tuple[str, str], str]] = [{} for _ in self.rows]  # as each row's last changes left them

    def add(self, story: Story) -> None:
        self.row_at(story.at_s).add(story)
        self.total.add(story)

    def row_at(self, at_s: float) -> Row:
        return self.rows[self._position(at_s)]

    def note(self, change: Change) -> None:
        if change.what == "circuit":
            self._circuits[self._position(change.at_s)][change.target, change.key] = change.to
        if len(self.changes) < MAX_CHANGES:
            self.changes.append(change)
        else:
            self.lost += 1

    def finish(self) -> None:
        """Once it is over: what the changes say of each row's end."""
        states: dict[tuple[str, str], str] = {}
        for row, changed in zip(self.rows, self._circuits, strict=True):
            states |= changed
            row.circuits = {target: state for (target, _), state in states.items() if state != "closed"}
        self.total.circuits = dict(self.rows[-1].circuits)

    def _position(self, at_s: float) -> int:
        return max(0, min(int(at_s / self.interval_s + 1e-9), len(self.rows) - 1))

    def as_dict(self) -> dict[str, Any]:
        return {
            "length_s": self.length_s,
            "interval_s": self.interval_s,
            "totals": self.total.as_dict(),
            "intervals": [row.as_dict() for row in self.rows],
            "changes": [change.as_dict() for change in self.changes],
            "changes_left_out": self.lost,
        }


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in _in_order(counts)}


def _in_order(counts: Counter[str]) -> Iterable[str]:
    return sorted((name for name in counts if counts[name]), key=lambda name: (-counts[name], name))
