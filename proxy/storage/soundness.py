"""When the ledger's file is read through for damage: `quick_check` beside the work, since it takes a second per gigabyte or more.

The writer alone would not notice a file that somebody scribbled over: it has in memory what it needs, while every reader fails.

    at the start ──┐
    disturbed ─────┼── a thread reads the file ── nothing: again in an hour, or after 500 times as long as it took
    now and then ──┘                           └─ a fault, told once
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from proxy.storage.sqlite import quick_check

EVERY_S = 3600.0
_REST = 500.0  # times what the last one took: a large file is not read all the time


class Soundness:
    """One check at a time, in a thread of its own. The rest is for one thread."""

    def __init__(self, path: Path, monotonic: Callable[[], float], *, check: Callable[[Path], str | None] = quick_check) -> None:
        self._path = path
        self._monotonic = monotonic
        self._check = check
        self._thread: threading.Thread | None = None
        self._fault: str | None = None
        self._disturbed = False
        self._began_s = 0.0
        self._next_s = monotonic()

    def disturbed(self) -> None:
        """Somebody else wrote into the file: it is read as soon as no other check runs."""
        self._disturbed = True

    def look(self) -> str | None:
        """Begins a check that is due, and tells what the last one found."""
        if self._thread is not None:
            if self._thread.is_alive():
                return None
            self._thread = None
            now_s = self._monotonic()
            self._next_s = now_s + max(EVERY_S, (now_s - self._began_s) * _REST)
            fault, self._fault = self._fault, None
            if fault is not None:
                return fault
        if self._disturbed or self._monotonic() >= self._next_s:
            self._disturbed = False
            self._began_s = self._monotonic()
            self._thread = threading.Thread(target=self._run, name="ledger-check", daemon=True)
            self._thread.start()
        return None

    def _run(self) -> None:
        self._fault = self._check(self._path)
