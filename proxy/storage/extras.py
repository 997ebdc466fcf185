"""What a request says beyond the usual: a trace that no other can have, the choice's inputs, a cached answer, quality, hedge, continuation.

Pure. Most requests have nothing of it and no row for it; `records.EXTRA` says what each key holds. What is not of the kind that it says
there is taken for unknown: a record is never refused for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from proxy.accounting.records import LAYOUT, Fields, RequestEnd, pick

HIT = "hit"
PPM = 1_000_000
GAINS = ("cache_hits", "saved_nusd", "rated", "quality_ppm")
NO_GAINS = (0,) * len(GAINS)

_EXTRA = LAYOUT[RequestEnd].index("extra")
_attempts_and_trace = pick(RequestEnd, "attempts", "trace")


class Extras(NamedTuple):
    """A row of `request_extras` but for its id."""

    trace: str | None = None
    answered: int | None = None
    cache: str | None = None
    saved_nusd: int | None = None
    quality: float | None = None
    hedged: int | None = None
    continued: str | None = None
    asked: str | None = None
    cached: str | None = None


COLUMNS = ("id", *Extras._fields)


def extra_of(close: Fields) -> dict[str, Any] | None:
    """A RequestEnd's, which those of earlier releases do not have."""
    extra = close[_EXTRA] if len(close) > _EXTRA else None
    return extra if isinstance(extra, dict) else None


def has_own(close: Fields) -> bool:
    """Whether it is to have a row here: its trace says how long something took, or what was chosen for this one request."""
    attempts, trace = _attempts_and_trace(close)
    if attempts > 1 or (len(close) > _EXTRA and close[_EXTRA] is not None and shared_needs(close) is None):
        return True
    return isinstance(trace, list) and bool(trace) and isinstance(trace[-1], dict) and "attempt" in trace[-1]


def shared_needs(close: Fields) -> dict[str, Any] | None:
    """`asked`, where features that it needs are all that it says: many requests have that in common."""
    match extra_of(close):
        case {"asked": {"needs": list(needs), **other_asked}, **other} if not other_asked and not other:
            return {"needs": needs}
    return None


def extras_of(close: Fields, closed_by: int | None) -> Extras:
    """Of a request with a trace of its own. `closed_by`: the attempt whose end ended the request, None when none was open."""
    attempts, trace = _attempts_and_trace(close)
    extra = extra_of(close) or {}
    answered = _count(extra.get("answered"))
    if answered is None and closed_by is not None and closed_by != attempts:
        answered = closed_by
    said = extra.get("cache")
    cache: dict[str, Any] = said if isinstance(said, dict) else {}
    state = cache.get("state")
    cached = {name: value for name, value in cache.items() if name not in ("state", "saved_nusd")}
    quality = extra.get("quality")
    return Extras(
        _json(trace),
        answered,
        state if isinstance(state, str) else None,
        _count(cache.get("saved_nusd")),
        float(quality) if isinstance(quality, int | float) and 0 <= quality <= 1 else None,
        1 if extra.get("hedged") else None,
        _json(extra.get("continued")),
        _json(extra.get("asked")),
        _json(cached),
    )


def served_from(close: Fields) -> tuple[str, str, None] | None:
    """Provider, model and no key: whose answer it was that the cache gave again."""
    match extra_of(close):
        case {"cache": {"state": "hit", "provider": str(provider), "model": str(model)}}:
            return provider, model, None
    return None


def gains(rows: Iterable[tuple[str | None, int | None, float | None]]) -> tuple[int, ...]:
    """In the order of GAINS, of rows of (cache, saved_nusd, quality). Each quality is cut to whole millionths by itself, so that the
    sum is the same however the rows were cut into batches."""
    hits = saved = rated = quality_ppm = 0
    for cache, saved_nusd, quality in rows:
        hits += cache == HIT
        saved += saved_nusd or 0
        if quality is not None:
            rated += 1
            quality_ppm += int(quality * PPM)
    return hits, saved, rated, quality_ppm


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _json(value: Any) -> str | None:
    return orjson.dumps(value).decode() if value else None
