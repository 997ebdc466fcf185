"""Mending the ledger as its one writer, which nobody else may be meanwhile: the drainer's lock is held, a running server refuses it.

corrupt file ── set aside, a new one filled from the segments that are kept ──┐
                                                                              ├── what waits is taken in ── sums made anew from rows
whole file ───────────────────────────────────────────────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from proxy.storage.drainer import Drainer, Log
from proxy.storage.rebuild import rebuild_sums
from proxy.storage.sqlite import LEDGER, integrity_fault


@dataclass(frozen=True, slots=True)
class Repaired:
    """`set_aside`: what was wrong with a file that had to be replaced, None when it was whole. The rest are counts."""

    set_aside: str | None
    taken_in: int
    requests: int
    attempts: int


def repair(data_dir: Path, wall: Callable[[], float], *, log: Log) -> Repaired:
    """Raises DrainerBusy while a server runs, LedgerTooNew, and sqlite3.Error or OSError with nothing of the step changed."""
    before = integrity_fault(data_dir / LEDGER) if (data_dir / LEDGER).is_file() else None
    drainer = Drainer(data_dir, wall, log=log)
    try:
        fault = before
        if fault is not None and not drainer.rebuilds:
            fault = integrity_fault(data_dir / LEDGER)  # under the lock, now that nobody writes
            if fault is not None:
                drainer.rebuild(fault)
        taken = drainer.drain()
        requests, attempts = drainer.exclusively(lambda connection, _ledger: rebuild_sums(connection))
    finally:
        drainer.close()
    return Repaired(fault, taken, requests, attempts)
