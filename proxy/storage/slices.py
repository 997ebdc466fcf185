"""What sums are kept of and what is summed up: the words that tables, reports and checks share."""

from __future__ import annotations

from proxy.storage.extras import GAINS

DIMENSIONS = ("provider", "upstream_model", "chain", "client", "department", "agent", "task", "key", "stream")
SLICES: tuple[tuple[str, ...], ...] = (
    DIMENSIONS, (), ("provider",), ("provider", "upstream_model"), ("provider", "key"),
    ("chain", "provider", "upstream_model"), ("client",), ("department",),
    ("agent",), ("task",),
)  # fmt: skip
"""By number; the table `usage_slices` says the same."""
REQUEST_SUMS = (
    "requests", "requests_ok", "requests_failed", "requests_rejected", "requests_interrupted", "requests_client_gone",
    "requests_failed_over", "duration_us", "first_token_us", "first_tokens", *GAINS,
)  # fmt: skip
ATTEMPT_SUMS = (
    "attempts", "attempts_ok", "attempt_duration_us", "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens",
    "reasoning_tokens", "input_audio_tokens", "output_audio_tokens", "cost_nusd", "at_risk_tokens", "unpriced", "estimated",
)  # fmt: skip
SUMS = REQUEST_SUMS + ATTEMPT_SUMS
NO_REQUESTS, NO_ATTEMPTS = (0,) * len(REQUEST_SUMS), (0,) * len(ATTEMPT_SUMS)
HISTOGRAMS = ("durations", "first_token_times")
_LONG_TEXT = 500  # characters of a histogram from which on it is worth shortening where it stands


def upsert(table: str, key: tuple[str, ...], source: str | None = None) -> str:
    """Adds rows to a table of sums: those that are given, or those that `source` selects."""
    columns = (*key, *SUMS, *HISTOGRAMS)
    added = [f"{name} = {name} + excluded.{name}" for name in SUMS]
    joined = [
        f"{name} = iif(length({name}) < {_LONG_TEXT}, {name} || excluded.{name}, shorten({name} || excluded.{name}))"
        for name in HISTOGRAMS
    ]
    values = source or f"VALUES (?{',?' * (len(columns) - 1)})"
    return f"INSERT INTO {table} ({', '.join(columns)}) {values} ON CONFLICT DO UPDATE SET {', '.join(added + joined)}"
