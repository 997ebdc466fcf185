"""What the cache holds and has saved: for the metrics, and as a report by chain over all workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from proxy.core.kept import Held
from proxy.core.money import NUSD_PER_USD, nusd_to_usd
from proxy.telemetry.readings import CacheReading
from proxy.telemetry.tables import Labels, Tables


class CacheCounts(Protocol):
    """What a process counts: see `engine/cache.py`."""

    @property
    def counts(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def saved_nusd(self) -> Mapping[str, int]: ...
    @property
    def faults(self) -> int: ...


def reading(counts: CacheCounts, memory: Mapping[str, Held], file: Mapping[str, Held]) -> CacheReading:
    """`file`: empty but in one of the workers, for all have the same."""
    held: dict[tuple[str, str], tuple[int, int]] = {(chain, "memory"): part for chain, part in memory.items()}
    held |= {(chain, "sqlite"): part for chain, part in file.items()}
    return CacheReading(counts.counts, counts.saved_nusd, held, counts.faults)


def report(tables: Tables, problem: str | None) -> dict[str, Any]:
    """`tables` of all workers. `hits` were answered with what was kept, `joined` of them with what another was about to bring;
    `saved_usd` is what those answers had cost, where a price was known. `problem`: what is wrong with the file, None for nothing."""
    rows: dict[str, dict[str, Any]] = {}

    def row(chain: str) -> dict[str, Any]:
        return rows.setdefault(chain, dict.fromkeys(("entries", "in_file", "bytes", *_RESULTS.values(), "saved_nusd"), 0))

    for (chain, result), count in _numbers(tables, "tollbridge_cache_requests_total"):
        row(chain)[_RESULTS[result]] += round(count)
    for (chain,), saved_usd in _numbers(tables, "tollbridge_cache_saved_usd_total"):
        row(chain)["saved_nusd"] += round(saved_usd * NUSD_PER_USD)
    for (chain, store), entries in _numbers(tables, "tollbridge_cache_entries"):
        row(chain)["entries"] += round(entries)
        row(chain)["in_file"] += round(entries) if store == "sqlite" else 0
    for (chain, _), size in _numbers(tables, "tollbridge_cache_bytes"):
        row(chain)["bytes"] += round(size)
    return {"data": [_shown(chain, rows[chain]) for chain in sorted(rows)], "problem": problem}


def report_of_file(file: Mapping[str, Held]) -> dict[str, Any]:
    """The same where no server runs: what has been asked nobody knows."""
    unknown: dict[str, Any] = dict.fromkeys((*_RESULTS.values(), "hit_rate", "saved_usd"))
    return {
        "data": [
            {"chain": chain, "entries": held.entries, "in_file": held.entries, "bytes": held.size, **unknown}
            for chain, held in sorted(file.items())
        ],
        "problem": None,
    }


_RESULTS = {"hit": "hits", "joined": "joined", "miss": "misses", "refresh": "refreshes"}


def _shown(chain: str, row: dict[str, Any]) -> dict[str, Any]:
    hits = row["hits"] + row["joined"]
    looked = hits + row["misses"]
    counts = {name: row[name] for name in ("entries", "in_file", "bytes", *_RESULTS.values())}
    return {
        "chain": chain,
        **counts,
        "hits": hits,
        "hit_rate": round(hits / looked, 4) if looked else None,
        "saved_usd": nusd_to_usd(row["saved_nusd"]),
    }


def _numbers(tables: Tables, name: str) -> Iterator[tuple[Labels, float]]:
    for labels, value in tables.get(name, ()):
        if not isinstance(value, list):
            yield labels, value
