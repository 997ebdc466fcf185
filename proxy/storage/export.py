"""The ledger's rows, oldest first, a thousand at a time: however many there are, no more than that is in memory.

Each thousand is read by itself, so that a long export does not keep the ledger's log from being cut; a row that ends meanwhile is told
as it is when its turn comes, and none is told twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from proxy.core.money import nusd_to_usd
from proxy.storage.sqlite import LEDGER, reader_uri

ROWS_A_READ = 1000
Row = dict[str, Any]

REQUEST_FIELDS = (
    "id", "time", "client", "department", "agent", "task", "task_id", "model", "chain", "provider", "upstream_model", "stream", "outcome",
    "http_status", "error_code", "attempts", "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens",
    "reasoning_tokens", "input_audio_tokens", "output_audio_tokens", "usage_source", "cost_usd", "at_risk_tokens", "first_token_ms",
    "duration_ms", "overhead_ms", "finish_reason", "config", "dropped", "trace", "cache", "saved_usd", "quality",
    "hedged", "continued", "answered", "asked", "cached",
)  # fmt: skip
ATTEMPT_FIELDS = (
    "request_id", "n", "started", "provider", "upstream_model", "credential", "outcome", "http_status", "error_class", "category",
    "error", "first_token_ms", "duration_ms", "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens",
    "reasoning_tokens", "input_audio_tokens", "output_audio_tokens", "usage_source", "cost_usd", "price_source", "at_risk_tokens",
    "finish_reason",
)  # fmt: skip

_TOKENS = (
    "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "input_audio_tokens",
    "output_audio_tokens", "at_risk_tokens",
)  # fmt: skip
_REQUESTS = f"""
SELECT r.*, {", ".join(f"coalesce(sum(a.{name}), 0) AS {name}" for name in _TOKENS)},
    max(CASE k.usage_source WHEN 'estimated' THEN 3 WHEN 'counted' THEN 2 WHEN 'provider' THEN 1 END) AS source,
    coalesce(sum(a.cost_nusd), 0) AS cost_nusd, coalesce(sum(k.usage_source IS NOT NULL AND a.cost_nusd IS NULL), 0) AS unpriced
FROM (SELECT * FROM requests WHERE id > :after AND time_ms >= :since_ms AND time_ms < :until_ms ORDER BY id LIMIT {ROWS_A_READ}) AS r
LEFT JOIN attempt_rows AS a ON a.request_id = r.id AND a.rank = 2 LEFT JOIN attempt_kinds AS k ON k.id = a.kind
GROUP BY r.id ORDER BY r.id"""  # noqa: S608 - this module's own words
_ATTEMPTS = f"""
SELECT * FROM attempts WHERE (request_id, n) > (:after, :n) AND time_ms >= :since_ms AND time_ms < :until_ms
ORDER BY request_id, n LIMIT {ROWS_A_READ}"""  # noqa: S608
_SOURCES = {None: None, 1: "provider", 2: "counted", 3: "estimated"}


def requests(data_dir: Path, since_ms: int, until_ms: int) -> Iterator[Row]:
    """Rows with REQUEST_FIELDS. Raises sqlite3.Error."""

    def after(row: sqlite3.Row) -> Row:
        return {"after": row["id"]}

    return _pages(data_dir, _REQUESTS, {"after": "", "since_ms": since_ms, "until_ms": until_ms}, after, _request)


def attempts(data_dir: Path, since_ms: int, until_ms: int) -> Iterator[Row]:
    """Rows with ATTEMPT_FIELDS. Raises sqlite3.Error."""

    def after(row: sqlite3.Row) -> Row:
        return {"after": row["request_id"], "n": row["n"]}

    return _pages(data_dir, _ATTEMPTS, {"after": "", "n": 0, "since_ms": since_ms, "until_ms": until_ms}, after, _attempt)


def _pages(
    data_dir: Path, sql: str, values: Row, after: Callable[[sqlite3.Row], Row], made: Callable[[sqlite3.Row], Row]
) -> Iterator[Row]:
    connection = sqlite3.connect(reader_uri(data_dir / LEDGER), uri=True, isolation_level=None)
    connection.row_factory = sqlite3.Row
    try:
        while page := connection.execute(sql, values).fetchall():
            yield from map(made, page)
            values = {**values, **after(page[-1])}
    finally:
        connection.close()


def _request(row: sqlite3.Row) -> Row:
    known = row["ended"] and not row["unpriced"]
    told = {
        "time": _rfc3339(row["time_ms"]),
        "stream": None if row["stream"] is None else bool(row["stream"]),
        "usage_source": _SOURCES[row["source"]],
        "cost_usd": nusd_to_usd(row["cost_nusd"]) if known else None,
        "saved_usd": None if row["saved_nusd"] is None else nusd_to_usd(row["saved_nusd"]),
        "hedged": bool(row["hedged"]),
        "continued": _loads(row["continued"]),
        "asked": None if row["asked"] is None else orjson.loads(row["asked"]),
        "cached": None if row["cached"] is None else orjson.loads(row["cached"]),
        "dropped": _loads(row["dropped"]),
        "trace": _loads(row["trace"]),
    }
    return {name: told[name] if name in told else row[name] for name in REQUEST_FIELDS}


def _attempt(row: sqlite3.Row) -> Row:
    told = {
        "started": _rfc3339(row["time_ms"]),
        "cost_usd": None if row["cost_nusd"] is None else nusd_to_usd(row["cost_nusd"]),
    }
    return {name: told[name] if name in told else row[name] for name in ATTEMPT_FIELDS}


def _loads(text: str | None) -> Any:
    return [] if text is None else orjson.loads(text)


def _rfc3339(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
