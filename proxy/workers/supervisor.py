"""`tollbridge serve --workers N`: a small process that holds the sockets, keeps N workers and the drainer running, and stops them.

It loads the program once and forks: a worker is there within some tens of milliseconds, and shares with the others what none of them
changes. It has no event loop and no thread, since what forks must not have any. The drainer is started when all serve, unless they wait
for it.

    starting ── all serve ──► running ── SIGTERM, SIGINT ──► stopping ── all gone ──► the drainer's last pass ──► exit 0
                                 │ one died: forked again at once, later if its successors die young
                                 └ one whose loop has not turned for 10 s: SIGABRT, which prints its stack, then SIGKILL

Whoever is killed takes only its own requests with it. When the supervisor is, a pipe ends that every worker listens to: they give the
port up, finish what runs and go; the drainer sees its standard input end.
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

import orjson

from proxy.app import listen_beside
from proxy.config.faults import ConfigError
from proxy.config.key_store import KeyStore
from proxy.config.last_keys import LastKeys
from proxy.config.reload import Stamp, stamp
from proxy.config.settings import Settings
from proxy.core.redact import Redactor
from proxy.server.lifecycle import CUT_S
from proxy.telemetry.logs import Logs
from proxy.workers.drainer import STOP_S, drainer_command, drainer_environment
from proxy.workers.pulse import Pulse
from proxy.workers.restarts import Restarts
from proxy.workers.seat import Seat
from proxy.workers.watchdog import limit_s
from proxy.workers.worker import Post, reception_path, work

LOOK_S = 0.3  # while nothing happens: as often as a worker looks whether the configuration has changed
STOPPED_S = 2.0  # a longer time between two looks is one in which this process did not run
STARTING_LOOK_S = 0.01
DRAINER_WAITS_S = 0.3  # for the workers to be ready
START_S = 30.0  # for a worker's loop to turn for the first time
ABORT_S = 2.0  # for a worker to print its stack
OVERTIME_S = 10.0  # beyond the drain, before what is left is killed
EMPTY_S = 0.25  # a seat that stays empty for longer gives up its socket
LOCK_S = 1.0  # as long as a port is tried for
RUN = "run"
STATE = "supervisor.json"
LOCK = "supervisor.lock"
MAX_SOCKET_PATH_BYTES = 100  # sun_path has 108, on some systems 104
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class SupervisorBusy(Exception):
    """Another supervisor works on this data directory."""


@dataclass(slots=True)
class _Child:
    """A worker, or the drainer where `index` is None. Times are monotonic. `due`: when it is to be started, None while it runs."""

    index: int | None
    restarts: Restarts = field(default_factory=Restarts)
    pid: int = 0
    due: float | None = 0.0
    served_since: float | None = None
    aborted_at: float | None = None

    @property
    def name(self) -> str:
        return "drainer" if self.index is None else f"worker {self.index}"


class Supervisor:
    """`run` once. It belongs to the main thread."""

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings],
        listeners: Sequence[socket.socket],
        *,
        announce: Callable[[], None],
        drainer_first: bool = True,
        hang_s: float | None = None,
    ) -> None:
        """`listeners`: one for each worker, all at one port. `read` loads the configuration anew and raises ConfigError. `announce` is
        called when all serve. `drainer_first`: they wait for what it finds; else it leaves the processors to them. `hang_s`: how long a
        worker's loop may stand still, 0 for ever. Raises SupervisorBusy, OSError."""
        self._settings = settings
        self._read = read
        self._data_dir = settings.data_dir
        workers = len(listeners)
        self._listeners: list[socket.socket | None] = list(listeners)
        self._port: int = listeners[0].getsockname()[1]
        self._announce = announce
        self._drainer_from = 0.0 if drainer_first else time.monotonic() + DRAINER_WAITS_S
        self._hang_s = limit_s(os.environ) if hang_s is None else hang_s
        self._log = Logs(level=settings.server.log_level, redact=Redactor(settings.secrets()))
        self._run_dir = settings.data_dir / RUN
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _take_lock(self._run_dir / LOCK)
        self._pulse = Pulse(workers)
        self._pulse.supervised_by(os.getpid())
        self._meeting = _meeting_place(self._run_dir)
        self._seats = [Seat(index, workers, self._meeting) for index in range(workers)]
        self._workers = [_Child(index) for index in range(workers)]
        self._drainer = _Child(None)
        self._reception = _listen_privately(reception_path(self._meeting))
        self._life_read, self._life_write = os.pipe()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._drainer_stdin = -1
        self._drainer_stdout = -1
        self._signals: list[int] = []
        self._announced = False
        self._stopping = False
        self._code = 0
        self._kill_at = 0.0
        self._looked_at = time.monotonic()
        self._beats_count_from = 0.0
        self._stamp: Stamp = stamp(settings.files)
        self._seen = self._stamp
        self._keys = LastKeys(KeyStore(settings.data_dir), settings.keyring)

    # -- life

    def run(self) -> int:
        """The exit code: 0 after a stop in which everything that ran could end, 1 where a worker could not start or had to be killed."""
        before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        wakeup_before = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        gc.freeze()  # what is there is shared with the workers as long as nobody's collector writes to it
        try:
            while not self._is_over():
                self._look()
                self._wait()
        finally:
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._clean_up()
        return self._code

    def _is_over(self) -> bool:
        return self._stopping and not self._drainer.pid and not any(worker.pid for worker in self._workers)

    def _look(self) -> None:
        self._reap()
        while self._signals:
            self._take_signal(self._signals.pop(0))
        now = time.monotonic()
        if self._stopping:
            self._hurry(now)
            return
        self._keys.look()  # often: a worker that is started anew must not let in a key that was revoked since
        for child in (self._drainer, *self._workers):
            if child.due is not None and now >= self._due(child, child.due):
                self._start(child, now)
        self._notice_ready(now)
        self._watch_beats(now)
        self._watch_configuration()

    def _wait(self) -> None:
        now = time.monotonic()
        starting = any(worker.pid and worker.served_since is None for worker in self._workers)
        wait_s = STARTING_LOOK_S if starting else min(LOOK_S, self._hang_s / 4 or LOOK_S)
        for child in (self._drainer, *self._workers):
            if child.due is not None and not self._stopping:
                wait_s = min(wait_s, max(0.0, self._due(child, child.due) - now))
        pipes = [self._wake_read, *([self._drainer_stdout] if self._drainer_stdout >= 0 else [])]
        readable, _, _ = select.select(pipes, [], [], wait_s)
        if self._wake_read in readable:
            with suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        if self._drainer_stdout in readable:
            if os.read(self._drainer_stdout, 4096):
                self._drainer.served_since = time.monotonic()
                self._pulse.drainer_caught_up()
            else:
                self._drainer_stdout = _close(self._drainer_stdout)

    # -- starting

    def _due(self, child: _Child, due: float) -> float:
        """When it is to be started: not the drainer while the workers are starting for the first time, unless they wait for it."""
        return due if child.index is not None or self._announced else max(due, self._drainer_from)

    def _start(self, child: _Child, now: float) -> None:
        child.due = child.served_since = child.aborted_at = None
        try:
            child.pid = self._fork_drainer() if child.index is None else self._fork_worker(child.index, now)
        except OSError as error:  # of memory, processes or files there are none left now
            self._log.error("cannot_start", process=child.name, reason=error.strerror, next="tried again")
            child.pid = 0
        if child.index is None:
            self._pulse.drained_by(child.pid)
        if not child.pid:
            child.due = now + LOOK_S
        self._write_state()

    def _fork_worker(self, index: int, now: float) -> int:
        again = self._announced
        listener = self._listener_of(index)
        sys.stdout.flush()
        sys.stderr.flush()
        self._pulse.take_seat(index, 0, now)
        signal.pthread_sigmask(
            signal.SIG_BLOCK, _SIGNALS
        )  # one that came to the child before it has forgotten our handlers would be lost
        try:
            pid = os.fork()
        except OSError:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            raise
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._pulse.take_seat(index, pid, now)
            return pid
        code = 1
        try:
            settings, is_fresh = self._settings_now() if again else (self._settings, True)
            post = Post(self._seats[index], self._pulse, listener, self._reception, self._life_read)
            self._forget_everything(but=listener)
            code = work(post, settings, self._read, look_again=not is_fresh)
        except BaseException:  # noqa: BLE001 - nothing may get out of here: above is the supervisor's own loop
            traceback.print_exc()
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _settings_now(self) -> tuple[Settings, bool]:
        """What a worker that is started later begins with: the file as it is, or as it last was without fault; and so the keys."""
        try:
            settings, is_fresh = replace(self._read(), data_dir=self._data_dir), True
        except ConfigError:
            settings, is_fresh = self._settings, False
        self._keys.look()
        return self._keys.over(settings, now_ms=round(time.time() * 1000)), is_fresh

    def _listener_of(self, index: int) -> socket.socket:
        """The socket of a seat; a new one where it was given up while the seat stayed empty. Raises OSError."""
        listener = self._listeners[index]
        if listener is None:
            beside = next(other for other in self._listeners if other is not None)
            listener = self._listeners[index] = listen_beside(beside)
        return listener

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            if listener is not None:
                listener.close()

    def _forget_everything(self, *, but: socket.socket) -> None:
        """In a worker: what only the supervisor may hold. While anybody holds the pipe's other end open, it does not end, and the port is
        free when nobody listens at it any more."""
        for listener in self._listeners:
            if listener is not None and listener is not but:
                listener.close()
        for fd in (self._life_write, self._wake_read, self._wake_write, self._lock, self._drainer_stdin, self._drainer_stdout):
            _close(fd)

    def _fork_drainer(self) -> int:
        self._drainer_stdin, self._drainer_stdout = _close(self._drainer_stdin), _close(self._drainer_stdout)
        stdin, self._drainer_stdin = os.pipe()
        self._drainer_stdout, stdout = os.pipe()
        command, environment = drainer_command(self._data_dir), drainer_environment(os.environ)
        # what is not named is closed: pipes and sockets of Python's are not inherited by what is executed
        redirected = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
        pid = os.posix_spawn(command[0], command, environment, file_actions=redirected, setpgroup=0, setsigdef=_SIGNALS)
        _close(stdin)
        _close(stdout)
        return pid

    def _notice_ready(self, now: float) -> None:
        for worker in self._workers:
            assert worker.index is not None
            if worker.pid and worker.served_since is None and self._pulse.is_serving(worker.index):
                worker.served_since = now
        if not self._announced and all(worker.served_since is not None for worker in self._workers):
            self._announced = True
            self._announce()

    # -- what dies or hangs

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for child in (self._drainer, *self._workers):
                if child.pid == pid:
                    self._bury(child, os.waitstatus_to_exitcode(status))

    def _bury(self, child: _Child, code: int) -> None:
        now = time.monotonic()
        child.pid = 0
        if child.index is not None:
            self._pulse.leave_seat(child.index)
        else:
            self._pulse.drained_by(0)
        if self._stopping:
            return
        if child.index is not None and not self._announced and code > 0:
            self._log.error("worker_cannot_start", worker=child.index, code=code)
            self._code = 1
            self._stop(signal.SIGINT)
            return
        delay_s = child.restarts.died(None if child.served_since is None else now - child.served_since)
        child.due = now + delay_s
        if child.index is not None and delay_s >= EMPTY_S:
            self._give_up_listener(child.index)
        self._pulse.count_restart(of_worker=child.index is not None)
        event = "drainer_stopped" if child.index is None else "worker_died"
        self._log.error(event, process=child.name, code=code, next=f"started again in {delay_s:g} s")

    def _give_up_listener(self, index: int) -> None:
        """The seat stays empty for a while: its share of the connections goes to the others, if there are any."""
        listener = self._listeners[index]
        if listener is not None and sum(other is not None for other in self._listeners) > 1:
            listener.close()
            self._listeners[index] = None

    def _watch_beats(self, now: float) -> None:
        if now - self._looked_at > STOPPED_S:
            self._beats_count_from = now  # this process was stopped, and the others perhaps with it
        self._looked_at = now
        for worker in self._workers:
            assert worker.index is not None
            if not worker.pid or not self._hang_s:
                continue
            silent_s = now - max(self._pulse.beat_at(worker.index), self._beats_count_from)
            if worker.aborted_at is not None:
                if now - worker.aborted_at >= ABORT_S:
                    _send(worker.pid, signal.SIGKILL)
            elif silent_s >= (self._hang_s if worker.served_since is not None else max(self._hang_s, START_S)):
                worker.aborted_at = now
                self._log.error("worker_hung", process=worker.name, silent_s=round(silent_s, 1), next="ended, and started again")
                _send(worker.pid, signal.SIGABRT)

    # -- signals

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._signals.append(number)

    def _take_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._read_configuration()
            for worker in self._workers:
                _send(worker.pid, number)
        elif not self._stopping or number == signal.SIGINT:
            self._stop(number)

    def _stop(self, number: int) -> None:
        """The first signal begins the drain; SIGINT once more cuts it short."""
        server = self._settings.server
        self._close_listeners()  # the workers hold theirs open as long as they accept
        if not self._stopping:
            self._kill_at = time.monotonic() + server.drain_delay_s + server.drain_timeout_s + CUT_S + OVERTIME_S
        self._stopping = True
        for worker in self._workers:
            _send(worker.pid, number)

    def _hurry(self, now: float) -> None:
        late = now >= self._kill_at
        if any(worker.pid for worker in self._workers):
            if late:
                self._code = 1
                self._kill_at = now + OVERTIME_S
                for worker in self._workers:
                    _send(worker.pid, signal.SIGKILL)
        elif self._drainer_stdin >= 0:
            self._drainer_stdin = _close(self._drainer_stdin)  # it takes in what is left and goes
            self._kill_at = now + STOP_S
        elif late:
            _send(self._drainer.pid, signal.SIGKILL)

    # -- the configuration, which workers that start later begin with

    def _watch_configuration(self) -> None:
        now = stamp(self._settings.files)
        if now == self._stamp and self._seen == now:
            return
        steady = now == self._seen
        self._seen = now
        if not steady:
            return
        self._stamp = now
        self._read_configuration()

    def _read_configuration(self) -> None:
        settings, is_fresh = self._settings_now()
        if is_fresh:
            self._settings = settings
            self._stamp = self._seen = stamp(settings.files)
        gc.collect()  # it does not run by itself here

    # -- what others see

    def _write_state(self) -> None:
        """For people and programs that look who is who; nothing here reads it."""
        state = {
            "pid": os.getpid(),
            "port": self._port,
            "workers": [worker.pid for worker in self._workers],
            "drainer": self._drainer.pid,
        }
        new = self._run_dir / f"{STATE}.new"
        with suppress(OSError):
            new.write_bytes(orjson.dumps(state) + b"\n")
            os.replace(new, self._run_dir / STATE)

    def _clean_up(self) -> None:
        for worker in self._workers:
            _send(worker.pid, signal.SIGKILL)
        self._close_listeners()
        self._reception.close()
        for path in (reception_path(self._meeting), self._run_dir / STATE):
            with suppress(OSError):
                path.unlink()
        if self._meeting != self._run_dir:
            with suppress(OSError):
                self._meeting.rmdir()
        for fd in (
            self._life_read,
            self._life_write,
            self._wake_read,
            self._wake_write,
            self._drainer_stdin,
            self._drainer_stdout,
        ):
            _close(fd)
        _close(self._lock)
        self._log.close()


def _send(pid: int, number: int) -> None:
    """To a child that was not waited for yet, so the number is its own still; 0 is nobody."""
    if pid:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _close(fd: int) -> int:
    if fd >= 0:
        os.close(fd)
    return -1


def _take_lock(path: Path) -> int:
    """Held by this process alone: a worker closes it, so that it does not outlive its supervisor. Raises SupervisorBusy."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(fd)
                raise SupervisorBusy(
                    f"another `tollbridge serve --workers` runs on {path.parent.parent}: stop it, or give this one a --data-dir of its own"
                ) from None
        time.sleep(0.02)


def _meeting_place(run_dir: Path) -> Path:
    """The folder, or a private one with a shorter name where a socket's path would be too long."""
    if len(os.fsencode(reception_path(run_dir))) <= MAX_SOCKET_PATH_BYTES:
        return run_dir
    return Path(tempfile.mkdtemp(prefix="tollbridge-"))


def _listen_privately(path: Path) -> socket.socket:
    """Only this user may connect. Raises OSError."""
    with suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(128)
    listener.setblocking(False)
    return listener
