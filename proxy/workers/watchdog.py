"""For a proxy that serves alone: ends the process when its event loop hangs, with the stack of every thread on standard error.

Nobody outside watches such a process, so a thread of its own does, once a second. It counts its own looks and not the time: a process
that was stopped (Ctrl-Z, `docker pause`, a debugger) or a machine that slept did not hang, and its watchdog slept with it. A loop that
hangs in C code without letting another thread run is ended by the kernel: SIGPROF comes after so much of the process's own CPU time as no
thread of a process that works spends between two looks. Whoever supervises the process starts it again.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from _thread import start_new_thread
from collections.abc import Callable, Mapping
from math import isfinite

LIMIT_S = 10.0
LEAST_S = 1.0  # a loop that turns ten times a second may be late
LOOK_EVERY_S = 1.0
CPU_PER_S = 3.0  # of the limit: several threads may work at once
EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h
LIMIT_VARIABLE = "TOLLBRIDGE_WATCHDOG_S"


def limit_s(environ: Mapping[str, str]) -> float:
    """How long an event loop may stand still, in seconds, LEAST_S or more; 0: for ever. What is no number is the default."""
    try:
        limit = float(environ.get(LIMIT_VARIABLE, LIMIT_S))
    except ValueError:
        return LIMIT_S
    if not isfinite(limit):
        return LIMIT_S
    return max(LEAST_S, limit) if limit > 0 else 0.0


class Watchdog:
    """A thread that looks whether `ticks`, which the event loop counts ten times a second or more, moves; None: it is being stopped, and
    may stand still. Start it in the main thread when the loop runs."""

    def __init__(
        self,
        ticks: Callable[[], int | None],
        *,
        limit_s: float,
        sleep: Callable[[float], None] = time.sleep,
        bite: Callable[[float], None] | None = None,
    ) -> None:
        self._ticks = ticks
        self._limit_s = limit_s
        self._every_s = min(LOOK_EVERY_S, limit_s / 4)
        self._sleep = sleep
        self._bite = bite or _end

    def start(self) -> None:
        faulthandler.register(signal.SIGPROF, all_threads=True, chain=True)  # then the signal's own effect: the process ends
        self._wind_up()
        # not by `threading`, which waits until the thread runs: on a busy machine that is long, and the loop is about to serve
        start_new_thread(self.run, ())

    def run(self) -> None:
        seen: int | None = None
        still = 0
        while True:
            self._wind_up()
            self._sleep(self._every_s)
            ticks = self._ticks()
            if ticks is None:
                signal.setitimer(signal.ITIMER_PROF, 0)
                return
            still = still + 1 if ticks == seen else 0
            seen = ticks
            if still * self._every_s >= self._limit_s:
                self._bite(self._limit_s)
                return

    def _wind_up(self) -> None:
        """What the kernel ends the process by, unless it is put off again."""
        signal.setitimer(signal.ITIMER_PROF, self._limit_s * CPU_PER_S)


def _end(limit_s: float) -> None:
    sys.stderr.write(f"The event loop has stood still for {limit_s:g} s: the process ends, so that it is started again.\n")
    sys.stderr.flush()
    faulthandler.dump_traceback(all_threads=True)
    os._exit(EXIT_CODE)
