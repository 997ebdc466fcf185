"""How long this thread was ready to run and others had the processor, as the kernel counts it in `/proc/PID/schedstat`
(https://docs.kernel.org/scheduler/sched-stats.html). Where that is not to be had it is nothing.
"""

from __future__ import annotations

import os


class RunDelay:
    """Opened by the first call of `since_last_s`, in the thread that is meant."""

    def __init__(self, path: str = "/proc/thread-self/schedstat") -> None:
        self._path: str | None = path
        self._descriptor: int | None = None
        self._seen_ns: int | None = None

    def since_last_s(self) -> float:
        try:
            if self._descriptor is None:
                if self._path is None:
                    return 0.0
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            waited_ns = int(os.pread(self._descriptor, 128, 0).split()[1])
        except (OSError, ValueError, IndexError):
            self.close()
            self._path = None
            return 0.0
        seen_ns, self._seen_ns = self._seen_ns, waited_ns
        return (waited_ns - seen_ns) / 1e9 if seen_ns is not None else 0.0

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self._seen_ns = None
