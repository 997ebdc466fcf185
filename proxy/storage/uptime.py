"""For how much of the time a provider was not down, from the spans in which it was said to be so. Pure; `told.py` writes the spans."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

GAP_MS = 30 * 60_000  # two checks further apart have nobody knows what between them; a provider is checked every 15 minutes
_DAY_MS = 86_400_000
UPTIME_MS = {"day": _DAY_MS, "week": 7 * _DAY_MS, "month": 30 * _DAY_MS}


def uptimes(spans: Iterable[tuple[Any, ...]], wall_ms: int) -> dict[str, dict[str, float | None]]:
    """`spans`: (provider, since_ms, until_ms, state) in order; the last of a provider goes on until now, or until GAP_MS after it."""
    found: dict[str, dict[str, list[int]]] = {}
    ordered = list(spans)
    for (provider, since_ms, until_ms, state), following in zip_longest(ordered, ordered[1:]):
        times = found.setdefault(provider, {name: [0, 0] for name in UPTIME_MS})
        if following is None or following[0] != provider:
            until_ms = min(max(wall_ms, until_ms), until_ms + GAP_MS)
        if state == "unknown":
            continue
        for name, length_ms in UPTIME_MS.items():
            lasted_ms = min(until_ms, wall_ms) - max(since_ms, wall_ms - length_ms)
            if lasted_ms > 0:
                times[name][0] += lasted_ms
                times[name][1] += lasted_ms if state == "down" else 0
    return {
        provider: {name: round(1 - down_ms / known_ms, 6) if known_ms else None for name, (known_ms, down_ms) in times.items()}
        for provider, times in found.items()
    }
