"""Starting, stopping and being killed: what runs is finished or told, nothing is forgotten, and the door is not opened by accident."""

from __future__ import annotations

import re
import signal
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.storage.drainer import ORPHAN_AFTER_S, Drainer
from proxy.torture.upstream import Upstream
from tests.e2e.client import until
from tests.e2e.conftest import Launch, provider

pytestmark = pytest.mark.integration

CLOCK_TICK_MS = 10  # of the kernel, in which a process's start is told


def config(upstream: Upstream, *, delay: str = "0s", timeout: str = "10s") -> dict[str, Any]:
    return {
        "server": {"drain": {"delay": delay, "timeout": timeout}},
        "providers": {"fake": provider(upstream.url)},
        "chains": {"smart": ["fake/ok"], "held": ["fake/hold_after_content"], "early": ["fake/hold_before_head"]},
    }


def test_a_stop_lets_a_stream_finish(launch: Launch, upstream: Upstream) -> None:
    upstream.aliases["finishing"] = "hold_after_content"
    process = launch(config(upstream, delay="300ms"))
    client = process.ready()
    with client.open("fake/finishing") as stream:
        seen = stream.until_text("Hello")
        process.signal(signal.SIGTERM)
        until(lambda: client.get("/readyz").status == 503, what="unreadiness")
        until(lambda: not _accepts(process.port), what="the closed door")
        upstream.release("finishing")
        whole = stream.rest()

    assert whole.whole
    assert (seen + whole.body).endswith(b"data: [DONE]\n\n")
    assert process.ended() == 0
    (row,) = _rows(process.directory, "SELECT outcome, http_status FROM requests WHERE model = 'fake/finishing'")
    assert row == ("ok", 200)


def test_a_stop_that_cannot_wait_tells_so(launch: Launch, upstream: Upstream) -> None:
    process = launch(config(upstream, timeout="200ms"))
    client = process.ready()
    with client.open("held") as stream, client.open("early", stream=False) as whole:
        seen = stream.until_text("Hello")
        until(lambda: upstream.requests["hold_before_head"], what="the request upstream")
        process.signal(signal.SIGTERM)
        answer = whole.rest()
        rest = stream.rest()

    assert rest.whole
    body = (seen + rest.body).decode()
    assert "[DONE]" not in body
    assert '"code":"stream_interrupted"' in body.split("\n\n")[-2]
    assert (answer.status, answer.error["code"]) == (503, "draining")
    assert process.ended() == 0
    rows = _rows(process.directory, "SELECT r.model, r.outcome, a.error_class, a.usage_source, a.at_risk_tokens > 0"
                 " FROM requests r JOIN attempts a ON a.request_id = r.id ORDER BY r.model")  # fmt: skip
    assert rows == [("early", "interrupted", "drained", None, 1), ("held", "interrupted", "drained", "estimated", 0)]


def test_an_interrupt_skips_the_delay(launch: Launch, upstream: Upstream) -> None:
    process = launch(config(upstream, delay="30s"))
    assert process.ready().chat("smart").status == 200
    process.signal(signal.SIGINT)
    assert process.ended(10) == 0


def test_what_a_kill_cut_off_is_recovered(launch: Launch, upstream: Upstream) -> None:
    upstream.aliases["cut off"] = "hold_after_content"
    process = launch(config(upstream))
    client = process.ready()
    finished = [client.chat("smart", stream=stream).id for stream in (False, True) * 5]
    with client.open("fake/cut off") as stream:
        stream.until_text("Hello")
        process.kill()

    again = launch(config(upstream))
    client = again.ready()
    rows = [client.row(request_id) for request_id in finished]
    assert [(row["outcome"], row["input_tokens"], row["output_tokens"]) for row in rows] == [("ok", 11, 7)] * 10
    (cut,) = until(lambda: client.get("/api/v1/requests?model=fake/cut%20off").json["data"], what="the row of the one cut off")
    assert cut["outcome"] == "running"
    again.signal(signal.SIGINT)
    assert again.ended() == 0

    # a minute later, the writer being dead
    data, drainer = again.directory / "data", None
    started_ms = _rows(again.directory, "SELECT max(time_ms) FROM requests")[0][0]
    drainer = Drainer(data, lambda: started_ms / 1000 + ORPHAN_AFTER_S + 1)
    drainer.drain()
    drainer.close()
    found = _rows(again.directory, "SELECT r.outcome, a.outcome, a.error_class, a.at_risk_tokens > 0 FROM requests r"
                  " JOIN attempts a ON a.request_id = r.id WHERE r.model = 'fake/cut off'")  # fmt: skip
    assert found == [("interrupted", "interrupted", "interrupted", 1)]


@pytest.mark.parametrize(
    ("more", "missing"),
    [
        ({}, ("clients", "auth.admin_token")),
        ({"clients": {"one": {"key": "sk-one-1"}}}, ("auth.admin_token",)),
        ({"auth": {"admin_token": "admin-1"}}, ("clients",)),
    ],
    ids=["neither", "no_token", "no_clients"],
)
def test_no_start_off_loopback_without_keys(
    launch: Launch, upstream: Upstream, more: dict[str, Any], missing: tuple[str, ...]
) -> None:
    process = launch({**config(upstream), **more}, options=("--host", "0.0.0.0"))

    assert process.ended() == 1
    for name in missing:
        assert name in process.errors
    assert "Traceback" not in process.errors


def test_auth_none_is_the_way_to_mean_it(launch: Launch, upstream: Upstream) -> None:
    process = launch({**config(upstream), "auth": "none"}, options=("--host", "0.0.0.0"))
    assert process.ready().chat("smart").status == 200


def test_a_port_that_is_taken(launch: Launch, upstream: Upstream) -> None:
    process = launch(config(upstream), options=("--port", str(upstream.port)))

    assert process.ended() == 1
    assert f"127.0.0.1:{upstream.port}" in process.errors
    assert "Traceback" not in process.errors


def test_a_faulty_file_is_told_by_line(launch: Launch, upstream: Upstream) -> None:
    process = launch({**config(upstream), "chians": {}})

    assert process.ended() == 1
    assert "providers.yaml:" in process.errors
    assert "chains" in process.errors


def test_without_a_file_the_demo_answers_and_the_banner_says_so(launch: Launch) -> None:
    process = launch(None)
    answer = process.ready().chat("demo/chat")

    assert (answer.status, answer.headers["x-tollbridge-provider"]) == (200, "demo")
    assert "there is no such file, so only the demo provider answers" in process.output
    found = re.search(r" is ready after (\d+) ms: ", process.output)
    assert found is not None


def test_a_file_that_was_named_must_be_there(launch: Launch) -> None:
    process = launch(None, environ={"TOLLBRIDGE_CONFIG": "nowhere.yaml"})

    assert process.ended() == 1
    assert "nowhere.yaml:1:1: cannot be read" in process.errors


def test_the_time_to_ready_is_the_one_that_a_user_waits(launch: Launch, upstream: Upstream) -> None:
    """From the process's start: importing everything, which comes before the first line of ours, is most of it."""
    began = time.monotonic()
    process = launch(config(upstream))
    process.ready()
    waited_ms = (time.monotonic() - began) * 1000
    (told_ms,) = map(int, re.findall(r" is ready after (\d+) ms: ", process.output))
    assert 50 < told_ms <= waited_ms + CLOCK_TICK_MS


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _rows(directory: Path, query: str) -> list[Any]:
    connection = sqlite3.connect(f"file:{directory / 'data' / 'ledger.db'}?mode=ro", uri=True)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()
