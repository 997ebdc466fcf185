"""Child processes on chosen cores, and what they cost: CPU time in nanoseconds and resident memory of a whole process tree.

CPU time is read from each process's own clock (`clock_getcpuclockid(3)`: user and system time of all its threads, exact to the
nanosecond, while /proc/PID/stat counts in steps of 10 ms). Where a kernel does not hand that out, /proc/PID/stat it is.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class HarnessError(Exception):
    """The harness itself could not do its work: a subject that does not start, a program that is missing."""


def cores() -> tuple[int, int]:
    """(core of the proxy under test, core of everything else); the same one twice where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[min(1, len(allowed) - 1)]


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Processes started inside live on this core, and so do their children."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_file_limit() -> int:
    """The soft limit of open files becomes the hard one, for us and for what we start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Child:
    """One process started here, its output in a file, ended with everything it started."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        core: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        pipes: bool = False,
    ) -> None:
        self.argv = list(argv)
        self.log = log
        with pinned(core), log.open("ab") as errors:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else errors,
                stderr=errors,
                # unbuffered, a long line that is written in two goes loses its second half
                env={**os.environ, "PYTHONUNBUFFERED": "", "PYTHONPATH": str(ROOT), **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self, timeout_s: float) -> dict[str, Any]:
        """The next line of its standard output, a JSON object."""
        stdout = self.process.stdout
        if stdout is None:
            raise HarnessError("this child was started without pipes")
        guard = threading.Timer(timeout_s, self.process.kill)
        guard.start()
        try:
            text = stdout.readline()
        finally:
            guard.cancel()
        if not text:
            raise HarnessError(f"{' '.join(self.argv[:4])} said nothing (for {timeout_s:.0f} s, or ended):\n{self.tail()}")
        found: dict[str, Any] = json.loads(text)
        return found

    def say(self, text: str) -> None:
        stdin = self.process.stdin
        if stdin is None:
            raise HarnessError("this child was started without pipes")
        stdin.write(text.encode() + b"\n")
        stdin.flush()

    def tail(self, characters: int = 2_000) -> str:
        return self.log.read_text(errors="replace")[-characters:] or "(it wrote nothing)"

    def alive(self) -> bool:
        return self.process.poll() is None

    def stand_back(self) -> None:
        """From now on it gets what others leave of the processor: it stands for another machine."""
        # where sessions share the processor (sched(7): autogroup), it is their weight that counts
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.pid}/autogroup").write_text("19")
        try:
            os.sched_setscheduler(self.pid, os.SCHED_IDLE, os.sched_param(0))
        except OSError:  # not allowed everywhere
            os.setpriority(os.PRIO_PROCESS, self.pid, 19)

    def kill(self) -> None:
        """SIGKILL to this process only: what it started must notice by itself."""
        self.process.kill()
        self.process.wait()

    def stop(self, grace_s: float = 10.0, *, first: signal.Signals = signal.SIGTERM) -> int:
        """The first signal, then SIGKILL for the whole session of it; the exit code."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self.alive():
            self.process.send_signal(first)
        try:
            code = self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        return code

    def cpu_ns(self) -> tuple[int, int]:
        """CPU time so far: of the whole tree, and of this process alone."""
        own = cpu_ns(self.pid)
        return own + sum(cpu_ns(pid) for pid in tree(self.pid)[1:]), own

    def rss_bytes(self, *, main_only: bool = False) -> int:
        return sum(rss_bytes(pid) for pid in ([self.pid] if main_only else tree(self.pid)))


def tree(pid: int) -> list[int]:
    """The process and all that descend from it, as far as they live."""
    found = [pid]
    for parent in found:
        for task in _listed(f"/proc/{parent}/task"):
            try:
                found += [int(child) for child in Path(f"/proc/{parent}/task/{task}/children").read_text().split()]
            except OSError:
                continue
    return found


def rss_bytes(pid: int) -> int:
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def open_files(pid: int) -> int:
    return len(_listed(f"/proc/{pid}/fd"))


def cpu_ns(pid: int) -> int:
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)  # CPUCLOCK_SCHED of that process, as clock_getcpuclockid makes it
    except OSError:
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 10_000_000 if fields else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def get(port: int, path: str, *, timeout_s: float = 5.0) -> tuple[int, bytes]:
    """One GET of its own connection, from 127.0.0.1."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def wait_ready(child: Child, port: int, path: str, *, timeout_s: float = 20.0) -> float:
    """Until a GET is answered with 200; how many seconds that took."""
    began = time.monotonic()
    while time.monotonic() - began < timeout_s:
        if not child.alive():
            raise HarnessError(f"{' '.join(child.argv[:4])} … ended with {child.process.returncode}:\n{child.tail()}")
        try:
            if get(port, path, timeout_s=1.0)[0] == 200:
                return time.monotonic() - began
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.005)
    raise HarnessError(f"{' '.join(child.argv[:4])} … was not ready after {timeout_s:.0f} s:\n{child.tail()}")


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]
