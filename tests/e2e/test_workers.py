"""`tollbridge serve --workers 2`: what dies is replaced and takes nobody with it, and to whoever asks the several are one."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.torture.upstream import Upstream
from tests.e2e.client import Client, until
from tests.e2e.conftest import Launch, provider, write_config
from tests.e2e.running import Process

pytestmark = pytest.mark.integration

ADMIN = {"authorization": "Bearer admin-1"}
CLIENT = {"authorization": "Bearer sk-caller-1"}
EVERYBODY = 24  # connections, of which each worker surely gets one: one in eight million times it does not
PATIENCE = {"TOLLBRIDGE_WATCHDOG_S": "60"}  # a busy machine is no hung worker


def config(upstream: Upstream, **more: Any) -> dict[str, Any]:
    return {
        "server": {"drain": {"delay": "0s", "timeout": "20s"}},
        "auth": {"admin_token": "admin-1"},
        "clients": {"caller": {"key": "sk-caller-1"}},
        "providers": {"fake": provider(upstream.url)},
        "chains": {"smart": ["fake/ok"], "held": ["fake/hold_after_content"]},
        **more,
    }


class Several:
    """A supervisor and its workers."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.client = process.ready()
        self.client.headers = dict(CLIENT)

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.process.directory / "data" / "run" / "supervisor.json").read_bytes())
        return found

    @property
    def pids(self) -> list[int]:
        return [*self.state["workers"], self.state["drainer"]]

    def metrics(self) -> dict[str, float]:
        return Client(self.client.port, ADMIN).metrics()

    def answered(self) -> float:
        return sum(value for name, value in self.metrics().items() if name.startswith("tollbridge_requests_total{"))

    def replaced(self, pid: int) -> list[int]:
        """The workers, once one sits where that one did."""

        def workers() -> list[int] | None:
            now: list[int] = self.state["workers"]
            return now if pid not in now and all(now) else None

        return until(workers, what="the successor")


@pytest.fixture(scope="module")
def several(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    directory = tmp_path_factory.mktemp("several")
    process = Process(write_config(directory, config(upstream)), directory, environ=PATIENCE, options=("--workers", "2"))
    try:
        yield Several(process)
    finally:
        process.kill()


def runs(pid: int) -> bool:
    """A zombie does not: it ended, and whoever adopted it has not looked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def sockets(pid: int) -> int:
    count = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # it was closed meanwhile
            count += os.readlink(file).startswith("socket:")
    return count


def test_what_all_have_counted_adds_up_whoever_is_asked(several: Several) -> None:
    before = several.answered()
    ids = [several.client.chat("smart", stream=number % 2 == 0).id for number in range(EVERYBODY)]

    assert len(set(ids)) == EVERYBODY
    assert {several.answered() for _ in range(8)} == {before + EVERYBODY}
    metrics = several.metrics()
    assert metrics['tollbridge_attempts_total{model="ok",outcome="ok",provider="fake"}'] >= EVERYBODY
    assert metrics["tollbridge_requests_in_flight"] == 0
    assert metrics['tollbridge_worker_restarts_total{process="worker"}'] == 0
    assert len([name for name in metrics if name.startswith("tollbridge_config_info")]) == 1
    resident = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") for pid in several.pids]
    assert metrics["process_resident_memory_bytes"] > sum(resident) / 2
    assert metrics["process_open_fds"] > 4 * 3


def test_nobody_leaves_a_core_file(several: Several) -> None:
    for pid in (several.process.process.pid, *several.pids):
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"^Max core file size +0 ", limits, flags=re.MULTILINE), limits


def test_both_of_them_answer(several: Several) -> None:
    """By the connections that each has open while somebody holds them."""
    before = [sockets(pid) for pid in several.state["workers"]]
    held = [socket.create_connection(("127.0.0.1", several.client.port)) for _ in range(EVERYBODY)]
    for connection in held:
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
    for connection in held:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    counts = [sockets(pid) for pid in several.state["workers"]]
    for connection in held:
        connection.close()
    assert all(count > least for count, least in zip(counts, before, strict=True)), (before, counts)


def test_whoever_is_asked_the_lead_answers_and_decides_who_may(several: Several) -> None:
    for _ in range(8):
        assert Client(several.client.port).get("/api/v1/providers").status == 401
        assert several.client.get("/api/v1/providers", ADMIN).json["data"][0]["name"] == "fake"
        assert several.client.get("/readyz").status == 200
        assert several.client.get("/v1/models").status == 200
    row = Client(several.client.port, ADMIN).row(several.client.chat("smart").id)
    assert (row["client"], row["outcome"]) == ("caller", "ok")


@pytest.mark.parametrize("seat", [1, 0], ids=["another", "the lead"])
def test_a_worker_that_is_killed_is_replaced_and_nothing_is_forgotten(several: Several, seat: int) -> None:
    before, restarts = several.answered(), several.metrics()['tollbridge_worker_restarts_total{process="worker"}']
    pids = several.state["workers"]
    os.kill(pids[seat], signal.SIGKILL)
    now = several.replaced(pids[seat])

    assert now[1 - seat] == pids[1 - seat]
    assert several.client.chat("smart").status == 200
    # the successor is asked too once it serves: what its predecessor counted is there all the time
    assert several.answered() == before + 1
    assert several.metrics()['tollbridge_worker_restarts_total{process="worker"}'] == restarts + 1
    assert '"event":"worker_died"' in several.process.errors


def test_a_drainer_that_is_killed_is_replaced(several: Several) -> None:
    pid = several.state["drainer"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: several.state["drainer"] not in (pid, 0), what="the next drainer")

    row = Client(several.client.port, ADMIN).row(several.client.chat("smart").id)
    assert row["outcome"] == "ok"
    assert several.metrics()['tollbridge_worker_restarts_total{process="drainer"}'] == 1


def test_a_hangup_is_for_all_and_a_broken_file_for_none(several: Several) -> None:
    path = several.process.directory / "providers.yaml"
    whole = yaml.safe_load(path.read_text())

    def everybody(model: str, status: int) -> bool:
        return all(several.client.chat(model).status == status for _ in range(EVERYBODY))

    path.write_text(yaml.safe_dump({**whole, "chains": {**whole["chains"], "later": ["fake/ok"]}}))
    several.process.signal(signal.SIGHUP)
    until(lambda: everybody("later", 200), what="the reload")

    path.write_text("chains: [")
    several.process.signal(signal.SIGHUP)
    until(lambda: several.metrics()["tollbridge_config_last_reload_successful"] == 0, what="the broken file")
    for pid in several.state["workers"]:  # whoever begins now has only the broken file, and its supervisor's memory
        os.kill(pid, signal.SIGKILL)
        several.replaced(pid)
    until(lambda: everybody("later", 200), what="both successors")
    until(lambda: several.metrics()["tollbridge_config_last_reload_successful"] == 0, what="what the successors say of the file")

    path.write_text(yaml.safe_dump(whole))
    until(lambda: everybody("later", 404), what="the whole file")
    until(lambda: several.metrics()["tollbridge_config_last_reload_successful"] == 1, what="the whole file's metric")


def test_with_a_broken_file_of_keys_a_successor_goes_by_what_was_last_read(several: Several) -> None:
    file = several.process.directory / "data" / "keys.json"
    admin = Client(several.client.port, ADMIN)
    made = {name: str(admin.request("POST", "/api/v1/keys", {"name": name}).json["key"]) for name in ("alice", "bob")}
    assert admin.request("DELETE", "/api/v1/keys/bob").status == 200

    def everybody(name: str, status: int) -> bool:
        caller = Client(several.client.port, {"authorization": f"Bearer {made[name]}"})
        return all(caller.chat("smart").status == status for _ in range(EVERYBODY))

    until(lambda: everybody("alice", 200) and everybody("bob", 401), what="both workers' knowledge of the keys")
    whole = file.read_bytes()
    for pid in several.state["workers"]:
        os.kill(pid, signal.SIGKILL)
        several.replaced(pid)  # the supervisor has looked at the file now: before it starts anybody it does
        file.write_bytes(b"{")
    os.kill(pid := several.state["workers"][0], signal.SIGKILL)
    several.replaced(pid)
    until(lambda: several.client.get("/readyz", ADMIN).json["notes"], what="what a successor says of the file")
    assert everybody("alice", 200)
    assert everybody("bob", 401)
    assert '"event":"keys_unreadable"' in several.process.errors

    file.write_bytes(whole)
    until(lambda: not any(several.client.get("/readyz", ADMIN).json["notes"] for _ in range(EVERYBODY)), what="the whole file")


def test_a_second_supervisor_is_refused_the_data(several: Several, tmp_path: Path) -> None:
    options = ("--workers", "2", "--data-dir", str(several.process.directory / "data"))
    process = Process(several.process.directory / "providers.yaml", tmp_path, options=options)

    assert process.ended() == 1
    assert "another `tollbridge serve --workers` runs on" in process.errors
    assert "Traceback" not in process.errors


def test_a_stop_lets_everybody_finish(several: Several, upstream: Upstream) -> None:
    upstream.aliases["finishing"] = "hold_after_content"
    pids = several.pids
    streams = [several.client.open("fake/finishing") for _ in range(6)]
    opened = [stream.__enter__() for stream in streams]
    seen = [stream.until_text("Hello") for stream in opened]
    several.process.signal(signal.SIGTERM)
    until(lambda: not _accepts(several.client.port), what="the closed door")
    upstream.release("finishing")
    answers = [stream.rest() for stream in opened]
    for stream in streams:
        stream.__exit__(None, None, None)

    assert all((begin + answer.body).endswith(b"data: [DONE]\n\n") for begin, answer in zip(seen, answers, strict=True))
    assert several.process.ended() == 0
    assert not any(map(runs, pids))
    assert not (several.process.directory / "data" / "run" / "lead.sock").exists()


def test_a_killed_supervisor_leaves_nobody_behind_and_the_port_to_the_next(launch: Launch, upstream: Upstream) -> None:
    first = Several(launch(config(upstream), environ=PATIENCE, options=("--workers", "2")))
    upstream.aliases["finishing"] = "hold_after_content"
    pids, port = first.pids, first.client.port
    with first.client.open("fake/finishing") as stream:
        seen = stream.until_text("Hello")
        first.process.kill()
        # its own stream goes on, and yet the port is free at once
        again = Several(launch(config(upstream), environ=PATIENCE, options=("--workers", "2", "--port", str(port))))
        assert again.client.chat("smart").status == 200
        upstream.release("finishing")
        rest = stream.rest()

    assert (seen + rest.body).endswith(b"data: [DONE]\n\n")
    until(lambda: not any(map(runs, pids)), what="the end of those who were left")
    again.process.signal(signal.SIGINT)
    assert again.process.ended() == 0


def test_a_worker_that_hangs_is_ended_and_replaced(launch: Launch, upstream: Upstream) -> None:
    several = Several(launch(config(upstream), environ={"TOLLBRIDGE_WATCHDOG_S": "2"}, options=("--workers", "2")))
    pid = several.state["workers"][1]
    began = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    several.replaced(pid)

    assert time.monotonic() - began > 1
    until(lambda: several.client.chat("smart").status == 200, what="an answer")
    assert '"event":"worker_hung"' in several.process.errors


def test_what_no_worker_can_start_with_fails_the_start(launch: Launch, upstream: Upstream, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "journal").write_text("in the way")
    process = launch(config(upstream), options=("--workers", "2"))

    assert process.ended() == 1
    assert f"the journal in {tmp_path / 'data' / 'journal'} cannot be opened" in process.errors
    assert "Traceback" not in process.errors


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
