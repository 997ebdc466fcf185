"""What is counted, as plain tables, and how those of several workers become one.

A table is a family's name and its samples, `(labels, value)`. The value of a histogram is `[sum, count of each bucket…]`, not cumulated,
that of a summary `[count, sum]`, any other is a number. Counters, histograms and summaries are added up; what to make of a gauge says
GAUGES, which names every one that there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson

from proxy.telemetry.families import FAMILIES
from proxy.telemetry.readings import OTHER

Labels = tuple[str, ...]
Value = float | list[float]
Samples = list[tuple[Labels, Value]]
Tables = dict[str, Samples]

MAX_SERIES = 5_000  # of all tables together, merged
LEAD = "lead"  # what one worker says for all: it alone looks
_OPEN_LABELS = frozenset(("chain", "provider", "model", "from", "to", "name", "channel", "key"))

GAUGES: dict[str, Callable[[float, float], float] | str] = {
    "tollbridge_requests_in_flight": lambda a, b: a + b,
    "tollbridge_tasks": lambda a, b: a + b,
    "tollbridge_connections": lambda a, b: a + b,
    "tollbridge_connections_limit": lambda a, b: a + b,
    "tollbridge_requests_room": lambda a, b: a + b,
    "tollbridge_loop_delay_seconds": max,
    "tollbridge_cache_entries": lambda a, b: a + b,
    "tollbridge_cache_bytes": lambda a, b: a + b,
    "tollbridge_circuit_state": max,
    "tollbridge_cooldown_seconds": max,
    "tollbridge_latched": max,
    "tollbridge_config_last_reload_successful": min,
    "tollbridge_config_info": max,
    "tollbridge_build_info": max,
    "tollbridge_draining": max,
    "tollbridge_provider_state": LEAD,
    "tollbridge_provider_check_seconds": LEAD,
    "tollbridge_budget_limit_usd": LEAD,
    "tollbridge_budget_spent_usd": LEAD,
    "tollbridge_quota_limit": LEAD,
    "tollbridge_quota_used": LEAD,
    "tollbridge_rate_limit_remaining": LEAD,
    "tollbridge_alerts_open": LEAD,
    "tollbridge_ledger_lag_seconds": LEAD,
}
# counters that one worker keeps for all: a reload is one reload, however many processes follow it
LEAD_COUNTERS = frozenset(
    ("tollbridge_config_reloads_total", "tollbridge_alert_deliveries_total", "tollbridge_worker_restarts_total")
)


def is_shared(name: str) -> bool:
    """Whether a worker that is not the lead has something to say of this family."""
    return name not in LEAD_COUNTERS and GAUGES.get(name) != LEAD


def goes_on(name: str) -> bool:
    """Whether the successor of a worker goes on counting where it ended."""
    return FAMILIES[name].kind != "gauge" and name != "tollbridge_worker_restarts_total"


def merge(lead: Tables, *workers: Tables) -> Tables:
    """One table a family, in the order of the first that has it. What only the lead says, the others are not asked."""
    return _combined(lead, [{name: samples for name, samples in told.items() if is_shared(name)} for told in workers])


def continued(own: Tables, before: Tables) -> Tables:
    """What a worker has counted, and those who had its seat before: `before` is what `carried_on` gave."""
    return _combined(own, [before])


def _combined(first: Tables, others: Iterable[Tables]) -> Tables:
    """Series beyond MAX_SERIES are counted under `other`."""
    merged: dict[str, dict[Labels, Value]] = {}
    series = 0
    for tables in (first, *others):
        for name, samples in tables.items():
            if name not in FAMILIES:
                continue
            found = merged.setdefault(name, {})
            combine = _combination(name)
            for labels, value in samples:
                if labels not in found:
                    size = len(value) + 1 if isinstance(value, list) else 1
                    if series + size > MAX_SERIES:
                        labels = _others(name, labels)
                    series += size
                found[labels] = combine(found[labels], value) if labels in found else value
    return {name: list(found.items()) for name, found in merged.items()}


def carried_on(tables: Tables) -> Tables:
    """The part of them that a successor goes on with."""
    return {name: samples for name, samples in tables.items() if name in FAMILIES and goes_on(name)}


def pack(tables: Tables, **more: Any) -> bytes:
    return orjson.dumps({"tables": tables, **more})


def unpack(content: bytes | None) -> dict[str, Any]:
    """What `pack` was given; its tables under `tables`. Empty ones if nothing was published, or nothing that can be read."""
    try:
        found = orjson.loads(content) if content is not None else {}
        tables = {
            name: [(tuple(map(str, labels)), value) for labels, value in samples] for name, samples in found["tables"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return {"tables": {}}
    return {**found, "tables": tables}


def _combination(name: str) -> Callable[[Any, Any], Value]:
    if FAMILIES[name].kind in ("histogram", "summary"):
        return _added
    gauge = GAUGES.get(name)
    return gauge if callable(gauge) else _sum


def _sum(a: float, b: float) -> float:
    return a + b


def _added(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x + y for x, y in zip(a, b, strict=False)]


def _others(name: str, labels: Labels) -> Labels:
    return tuple(OTHER if label in _OPEN_LABELS else value for label, value in zip(FAMILIES[name].labels, labels, strict=False))


def numbers(tables: Tables, name: str) -> Iterable[tuple[Labels, int]]:
    """The samples of a counter, whole."""
    for labels, value in tables.get(name, ()):
        if not isinstance(value, list):
            yield labels, int(value)
