"""The supervisor's sockets and lock: the port is one, the rest is private. What it does with processes is in `e2e/test_workers.py`."""

from __future__ import annotations

import os
import socket
import stat
import time
from pathlib import Path

import pytest

from proxy import app
from proxy.config.load import load
from proxy.workers import supervisor
from proxy.workers.supervisor import DRAINER_WAITS_S, MAX_SOCKET_PATH_BYTES, Supervisor, SupervisorBusy
from proxy.workers.worker import reception_path

pytestmark = pytest.mark.unit


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "PORT_S", 0.0)
    monkeypatch.setattr(supervisor, "LOCK_S", 0.0)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.usefixtures("impatient")
def test_nobody_else_gets_the_port(workers: int) -> None:
    listeners = app._listen("127.0.0.1", 0, workers=workers)
    port = listeners[0].getsockname()[1]

    assert [listener.getsockname()[1] for listener in listeners] == [port] * workers
    for others in (1, 2):
        with pytest.raises(OSError, match="in use"):
            app._listen("127.0.0.1", port, workers=others)
    for listener in listeners:
        listener.close()
    again = app._listen("127.0.0.1", port, workers=workers)
    for listener in again:
        listener.close()


def test_connections_are_spread_over_the_sockets() -> None:
    listeners = app._listen("127.0.0.1", 0, workers=2)
    callers = [socket.create_connection(listeners[0].getsockname()) for _ in range(64)]
    counts = []
    for listener in listeners:
        listener.setblocking(False)
        count = 0
        while True:
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                break
            count += 1
        counts.append(count)
        listener.close()
    for caller in callers:
        caller.close()

    assert sum(counts) == 64
    assert min(counts) >= 8  # one in a thousand million times it is fewer


def test_a_seat_that_gave_its_socket_up_gets_another_at_the_same_port() -> None:
    first, second = app._listen("127.0.0.1", 0, workers=2)
    second.close()
    beside = app.listen_beside(first)
    assert beside.getsockname() == first.getsockname()
    first.close()
    beside.close()


@pytest.mark.usefixtures("impatient")
def test_one_data_directory_has_one_supervisor(tmp_path: Path) -> None:
    held = supervisor._take_lock(tmp_path / "supervisor.lock")
    with pytest.raises(SupervisorBusy, match="data-dir"):
        supervisor._take_lock(tmp_path / "supervisor.lock")
    os.close(held)
    os.close(supervisor._take_lock(tmp_path / "supervisor.lock"))


def test_the_socket_is_for_this_user_alone_and_takes_the_place_of_an_old_one(tmp_path: Path) -> None:
    path = reception_path(tmp_path)
    path.write_text("left behind")
    listener = supervisor._listen_privately(path)

    mode = path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    listener.close()


def test_a_path_that_is_too_long_for_a_socket_is_not_tried(tmp_path: Path) -> None:
    near = tmp_path / "run"
    assert supervisor._meeting_place(near) == near
    far = supervisor._meeting_place(tmp_path / ("x" * 120))
    assert len(os.fsencode(reception_path(far))) <= MAX_SOCKET_PATH_BYTES
    assert stat.S_IMODE(far.stat().st_mode) == 0o700
    supervisor._listen_privately(reception_path(far)).close()
    reception_path(far).unlink()
    far.rmdir()


@pytest.mark.parametrize("drainer_first", [True, False])
def test_the_drainer_is_started_when_the_workers_are_ready_unless_they_wait_for_it(tmp_path: Path, drainer_first: bool) -> None:
    settings = load(None, environ={}, overrides={"data_dir": tmp_path / "data"})
    listeners = app._listen("127.0.0.1", 0, workers=2)
    before = time.monotonic()
    one = Supervisor(settings, lambda: settings, listeners, announce=lambda: None, drainer_first=drainer_first)
    after = time.monotonic()
    try:
        assert all(one._due(worker, 0.0) == 0.0 for worker in one._workers)
        first = one._due(one._drainer, 0.0)
        if drainer_first:
            assert first == 0.0
        else:
            assert before + DRAINER_WAITS_S <= first <= after + DRAINER_WAITS_S
        one._announced = True
        assert one._due(one._drainer, 0.0) == 0.0
        assert one._due(one._drainer, after + 60.0) == after + 60.0
    finally:
        one._clean_up()
