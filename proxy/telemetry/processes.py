"""The `process_*` metrics of a proxy that is several processes: their sums, and when the first of them began.

prometheus_client's own collector reads each. Memory that workers share counts in each of them. The CPU time of those that have died is the
supervisor's, who waited for them (https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html, fields 16 and 17).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import ProcessCollector
    from prometheus_client.core import Metric

_CPU = "process_cpu_seconds"
_START = "process_start_time_seconds"


class Processes:
    """`pids`: those that live, the supervisor first. `of`: prometheus_client's collector for one of them."""

    def __init__(self, pids: Callable[[], Sequence[int]], of: Callable[[int], ProcessCollector]) -> None:
        self._pids = pids
        self._of = of

    def collect(self) -> Iterable[Metric]:
        pids = self._pids()
        together: dict[str, Metric] = {}
        for pid in pids:
            for metric in self._of(pid).collect():
                known = together.setdefault(metric.name, metric)
                if known is not metric:
                    combine = min if metric.name == _START else _sum
                    known.samples = [
                        a._replace(value=combine(a.value, b.value)) for a, b in zip(known.samples, metric.samples, strict=False)
                    ]
        if pids and _CPU in together:
            cpu = together[_CPU]
            cpu.samples = [sample._replace(value=sample.value + _of_the_dead_s(pids[0])) for sample in cpu.samples]
        return together.values()


def _of_the_dead_s(supervisor: int) -> float:
    try:
        fields = Path(f"/proc/{supervisor}/stat").read_bytes().rpartition(b")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def _sum(a: float, b: float) -> float:
    return a + b
