"""A log line is one JSON object in one write, whatever it has to say, and it neither blocks nor raises."""

import json
import logging
import os
import socket
import timeit
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.core.redact import Redactor
from proxy.core.target import Secret
from proxy.telemetry.logs import MAX_LINE_BYTES, Logs, LogsHandler, capture

pytestmark = pytest.mark.unit

WALL = 1_767_323_045.75  # 2026-01-02T03:04:05.750Z
SECRET = "correct-horse"
ROW = {
    "id": "01JABCDEFGHJKMNPQRSTVWXYZ0",
    "model": "smart",
    "provider": "openai",
    "outcome": "ok",
    "error": None,
    "duration_ms": 1234.5,
    "cost_usd": None,
}


class File:
    """A log file, and what stands in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.logs: Logs | None = None

    def lines(self) -> list[dict[str, Any]]:
        if self.logs is not None:
            self.logs.flush()
        return [json.loads(line) for line in self.path.read_bytes().split(b"\n") if line]

    def line(self) -> dict[str, Any]:
        (line,) = self.lines()
        return line


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    file = File(tmp_path / "log")
    yield file
    os.close(file.fd)


@pytest.fixture
def logs(file: File) -> Logs:
    logs = Logs(file.fd, redact=Redactor([SECRET]), wall=lambda: WALL)
    file.logs = logs
    return logs


def test_a_request_is_one_line_with_time_level_and_event_first(file: File, logs: Logs) -> None:
    logs.request(ROW)
    assert list(file.line().items()) == [
        ("time", "2026-01-02T03:04:05.750Z"),
        ("level", "info"),
        ("event", "request"),
        *ROW.items(),
    ]


def test_the_clock_is_read_for_every_line(file: File) -> None:
    times = iter([0.0, 0.9999, 86_400.001])
    logs = Logs(file.fd, wall=lambda: next(times))
    for _ in range(3):
        logs.info("tick")
    assert [line["time"] for line in file.lines()] == [
        "1970-01-01T00:00:00.000Z",
        "1970-01-01T00:00:00.999Z",
        "1970-01-02T00:00:00.001Z",
    ]


def test_levels_filter(file: File, logs: Logs) -> None:
    logs.set_level("warning")
    logs.request(ROW)
    logs.debug("a")
    logs.info("b")
    logs.warning("c")
    logs.error("d")
    assert [line["event"] for line in file.lines()] == ["c", "d"]


def test_secrets_never_reach_a_line(file: File, logs: Logs) -> None:
    logs.request({**ROW, "model": SECRET})
    logs.request({**ROW, "error": f"the key {SECRET} is wrong"})
    logs.warning("odd", text=SECRET, nested={"list": [SECRET, (SECRET,)]}, error=ValueError(SECRET), secret=Secret(SECRET))
    assert SECRET.encode() not in file.path.read_bytes()
    assert len(file.lines()) == 3


def test_new_secrets_hold_for_names_seen_before(file: File, logs: Logs) -> None:
    logs.request({**ROW, "model": "battery-staple"})
    logs.set_redactor(Redactor(["battery-staple"]))
    logs.request({**ROW, "model": "battery-staple"})
    assert [line["model"] for line in file.lines()] == ["battery-staple", "***"]


@pytest.mark.parametrize("call", ["request", "info"])
def test_a_hostile_name_cannot_break_the_line_or_turn_the_text_around(file: File, logs: Logs, call: str) -> None:
    name = "a\nb\r\x00\x1b[31m\x9b\u202e\u2066\u2028\u200b\ufeffé"
    if call == "request":
        logs.request({**ROW, "model": name})
    else:
        logs.info("x", model=name)
    logs.flush()
    raw = file.path.read_bytes()
    assert raw.count(b"\n") == 1
    assert b"\x1b" not in raw
    assert b"\x00" not in raw
    assert file.line()["model"] == "a\nb\r\x00\x1b[31m" + "�" * 6 + "é"


@pytest.mark.parametrize("value", ["x" * 100_000, "\x01" * 100_000, "é\u202e" * 50_000, ["x" * 50] * 10_000, {"k" * 9_000: 1}])
def test_a_line_is_never_longer_than_the_bound(file: File, logs: Logs, value: object) -> None:
    logs.request({**ROW, "client": value})
    logs.info("big", value=value, after=1)
    raw = file.path.read_bytes().split(b"\n")[:-1]
    assert len(raw) == 2
    assert all(len(line) < MAX_LINE_BYTES for line in raw)
    assert [line["cut"] for line in file.lines()] == [True, True]
    assert file.lines()[0]["id"] == ROW["id"]


def test_very_many_fields_are_cut_too(file: File, logs: Logs) -> None:
    logs.info("many", **{f"field{n}": "x" * 200 for n in range(1_000)})
    assert file.line()["cut"] is True


@pytest.mark.parametrize("value", ["\ud83d", 2**70, {"a": "\udfff"}, [2**64], float("nan"), {1: 2}, b"bytes", object])
def test_odd_values_are_written_somehow(file: File, logs: Logs, value: object) -> None:
    logs.info("odd", value=value)
    logs.request({**ROW, "extra": value})
    assert [line["event"] for line in file.lines()] == ["odd", "request"]


def test_lines_of_requests_are_written_together_and_before_any_other_line(file: File, logs: Logs) -> None:
    logs.request(ROW)
    assert file.path.read_bytes() == b"", "held until the next tick"
    logs.warning("odd")
    assert [line["event"] for line in file.lines()] == ["request", "odd"]
    for _ in range(64):
        logs.request(ROW)
    assert file.path.read_bytes().count(b"\n") == 66, "nor are more than 64 held"


def test_a_closed_descriptor_is_survived_and_counted() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    logs = Logs(writing)
    logs.info("into the void")
    logs.request(ROW)
    logs.flush()
    assert logs.dropped == 2


def test_a_full_pipe_does_not_block_and_the_loss_is_told_later() -> None:
    reading, writing = os.pipe()
    logs = Logs(writing, wall=lambda: WALL)
    while not logs.dropped:
        logs.request(ROW)
        logs.flush()
    logs.request(ROW)
    logs.flush()
    assert logs.dropped == 2
    assert os.get_blocking(writing), "the descriptor is shared with others and stays as it was"
    received = b""
    os.set_blocking(reading, False)
    try:
        while chunk := os.read(reading, 65_536):
            received += chunk
    except BlockingIOError:
        logs.info("again")
    received += os.read(reading, 65_536)
    logs.close()
    os.close(reading)
    os.close(writing)
    lines = [json.loads(line) for line in received.split(b"\n") if line]
    assert lines[-2]["event"] == "log_lines_dropped"
    assert lines[-2]["lines"] == 2
    assert lines[-1]["event"] == "again"


def test_a_torn_line_is_completed_before_the_next_one(file: File) -> None:
    logs = Logs(file.fd)
    whole = logs._send
    logs._send = lambda data: whole(data[:20])
    logs.info("first")
    logs._send = whole
    logs.info("second")
    assert [line["event"] for line in file.lines()] == ["first", "second"]
    assert logs.dropped == 0


def test_a_socket_such_as_journalds_is_written_to() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        logs = Logs(ours.fileno())
        logs.info("hello")
        assert json.loads(theirs.recv(4_096))["event"] == "hello"
        while not logs.dropped:
            logs.request(ROW)
        logs.close()
        assert theirs.recv(1), "the descriptor itself is still open"


def test_the_standard_librarys_logging_goes_the_same_way(file: File, logs: Logs) -> None:
    capture(logs, "tests.captured", level=logging.INFO)
    logger = logging.getLogger("tests.captured")
    logger.info("listening on %s", "127.0.0.1")
    try:
        raise ValueError(SECRET)
    except ValueError:
        logger.exception("it broke")
    logger.handlers.clear()
    first, second = file.lines()
    assert (first["level"], first["event"], first["message"]) == ("info", "tests.captured", "listening on 127.0.0.1")
    assert second["level"] == "error"
    assert "ValueError: ***" in second["exception"]


def test_arguments_that_do_not_fit_their_format_do_not_raise(file: File, logs: Logs) -> None:
    LogsHandler(logs).emit(logging.LogRecord("odd", 33, "x.py", 1, "%d", ("word",), None))
    assert file.line()["message"] == "%d"
    assert file.line()["level"] == "info"


@pytest.mark.performance
def test_a_request_line_takes_about_two_microseconds(file: File, logs: Logs) -> None:
    assert min(timeit.repeat(lambda: logs.request(ROW), number=10_000, repeat=10)) / 10_000 < 6e-6
