"""What attempts would cost under other prices, and giving them that cost: rows, then the sums made anew from them, in one transaction.

Prices are asked for by whoever calls: provider, model, usage and time to nano-dollars. What an attempt cost before stays in `repriced`.
What a provider itself charged stays, and so do attempts in hours of which rows were forgotten: their sums cannot be made anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.accounting.pricing import FROM_PROVIDER
from proxy.core.usage import Usage, UsageSource
from proxy.storage.drainer import Drainer, Log
from proxy.storage.rebuild import HOUR_MS, first_whole_hour, rebuild_sums
from proxy.storage.sqlite import LEDGER, reader_uri

# provider, upstream model, usage, ms since 1970 -> nano-dollars and who says so; (None, None): no price is known
Price = Callable[[str, str, Usage, int], tuple[int | None, str | None]]

_PRICED = """
SELECT request_id, n, provider, upstream_model, time_ms, cost_nusd, price_source, usage_source, input_tokens, cached_input_tokens,
    cache_write_tokens, output_tokens, reasoning_tokens, input_audio_tokens, output_audio_tokens
FROM attempts WHERE rank = 2 AND usage_source IS NOT NULL AND time_ms >= :since_ms AND time_ms < :until_ms
    AND (NOT :unpriced_only OR cost_nusd IS NULL) AND (:provider IS NULL OR provider = :provider)
    AND (:model IS NULL OR upstream_model = :model) AND price_source IS NOT :own
ORDER BY request_id, n"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which attempts: times in ms since 1970, the end excluded. `unpriced_only`: those alone whose cost is unknown."""

    since_ms: int = 0
    until_ms: int = 1 << 60
    provider: str | None = None
    model: str | None = None
    unpriced_only: bool = True


@dataclass(slots=True)
class Change:
    """Of one provider and model. Nano-dollars of what is known; `unpriced_*`: attempts whose cost is not."""

    provider: str
    model: str
    attempts: int = 0
    changed: int = 0
    before_nusd: int = 0
    unpriced_before: int = 0
    after_nusd: int = 0
    unpriced_after: int = 0


@dataclass(slots=True)
class Changes:
    """`too_old`: attempts that were wanted and left alone, because rows of their hour were forgotten."""

    of: dict[tuple[str, str], Change] = field(default_factory=dict)
    too_old: int = 0

    @property
    def changed(self) -> int:
        return sum(change.changed for change in self.of.values())


def preview(data_dir: Path, wanted: Wanted, price: Price) -> Changes:
    """What `apply` would do. Raises sqlite3.Error."""
    connection = sqlite3.connect(reader_uri(data_dir / LEDGER), uri=True, isolation_level=None)
    try:
        connection.execute("BEGIN")
        changes = Changes()
        for _ in _changing(connection, wanted, price, changes):
            pass
        return changes
    finally:
        connection.close()


def apply(data_dir: Path, wanted: Wanted, price: Price, wall: Callable[[], float], *, log: Log) -> Changes:
    """Raises DrainerBusy while a server runs, LedgerTooNew, sqlite3.Error; then nothing is changed."""
    drainer = Drainer(data_dir, wall, log=log)
    try:
        drainer.drain()
        now_ms = int(wall() * 1000)

        def work(connection: sqlite3.Connection, ledger: Any) -> Changes:
            changes = Changes()
            # to a table first: rows do not change under the eyes of who reads them
            connection.execute("CREATE TEMP TABLE priced_again (id TEXT, n INTEGER, cost_nusd INTEGER, source TEXT)")
            connection.executemany("INSERT INTO priced_again VALUES (?,?,?,?)", _changing(connection, wanted, price, changes))
            for request_id, n, cost_nusd, source in connection.execute("SELECT id, n, cost_nusd, source FROM priced_again"):
                ledger.price(request_id, n, cost_nusd=cost_nusd, source=source, time_ms=now_ms)
            connection.execute("DROP TABLE priced_again")
            if changes.changed:
                rebuild_sums(connection)
            return changes

        return drainer.exclusively(work)
    finally:
        drainer.close()


def _changing(
    connection: sqlite3.Connection, wanted: Wanted, price: Price, changes: Changes
) -> Iterator[tuple[str, int, int, str]]:
    """(request id, n, nano-dollars, who says so) of each attempt that costs something else; `changes` counts along."""
    whole_ms = first_whole_hour(connection) * HOUR_MS
    values = {
        "since_ms": wanted.since_ms,
        "until_ms": wanted.until_ms,
        "provider": wanted.provider,
        "model": wanted.model,
        "unpriced_only": wanted.unpriced_only,
        "own": FROM_PROVIDER,
    }
    for request_id, n, provider, model, time_ms, before_nusd, said_by, source, *tokens in connection.execute(_PRICED, values):
        if time_ms < whole_ms:
            changes.too_old += 1
            continue
        change = changes.of.setdefault((provider, model), Change(provider, model))
        after_nusd, says = price(provider, model, _usage(source, tokens), time_ms)
        if after_nusd is None or says is None:
            after_nusd, says = before_nusd, said_by  # what was known is not forgotten because nobody knows it now
        change.attempts += 1
        change.before_nusd += before_nusd or 0
        change.unpriced_before += before_nusd is None
        change.after_nusd += after_nusd or 0
        change.unpriced_after += after_nusd is None
        if after_nusd is not None and says is not None and after_nusd != before_nusd:
            change.changed += 1
            yield request_id, n, after_nusd, says


def _usage(source: str, tokens: list[int]) -> Usage:
    input_tokens, cached, cache_write, output_tokens, reasoning, input_audio, output_audio = tokens
    return Usage(
        input_tokens,
        output_tokens,
        cached_input_tokens=cached,
        cache_write_tokens=cache_write,
        reasoning_tokens=reasoning,
        input_audio_tokens=input_audio,
        output_audio_tokens=output_audio,
        source=UsageSource(source),
    )
