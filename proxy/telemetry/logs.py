"""Structured log lines: one JSON object, one write, at most 8 KiB, to standard error.

A line is `{"time", "level", "event", …}`, time in RFC 3339 UTC. Writing never blocks, since it happens on the event loop, and
never raises: a line that nobody takes is dropped and counted, and the next one that gets through says how many were.
No prompt, no answer, no key: callers pass none, secrets are taken out all the same. JSON escapes control characters; those that
change the direction of text are replaced, so that a hostile name cannot rearrange a terminal.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
import traceback
from collections.abc import Callable
from typing import Any

import orjson

from proxy.core.redact import Redactor

MAX_LINE_BYTES = 8_192
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_LONG_VALUE = 512  # characters that a text keeps in a line that is too long
_INFO = LEVELS["info"]
_HELD_LINES = 64
_CLEAN_VALUES = 1_024  # names remembered as free of secrets
# C1 controls (JSON escapes C0), line separators, marks and overrides of direction (UAX #9), zero-width characters
_UNSEEN = [*range(0x80, 0xA0), 0x061C, *range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x206A), 0xFEFF]
_HARMLESS = dict.fromkeys(_UNSEEN, "�")
_MILLISECONDS = [f"{number:03d}Z" for number in range(1000)]


class Logs:
    """The one writer of this process. `fd` stays the caller's."""

    def __init__(
        self,
        fd: int = 2,
        *,
        level: str = "info",
        redact: Redactor | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.dropped = 0
        self._redact = redact or Redactor()
        self._wall = wall
        self._threshold = LEVELS[level]
        self._send, self._close = _writer(fd)
        self._rest = b""  # what a pipe did not take of the last line
        self._reported = 0
        self._second = -1
        self._stamp = ""
        self._clean: set[str] = set()
        self._prefix_ms = -1
        self._prefix = b""  # of a request's line in that millisecond
        # lines of requests, made and written together: a write each would cost more than the rest of the line
        self._held: list[tuple[bytes, dict[str, Any]]] = []

    def close(self) -> None:
        """Let go of what was opened for writing; `fd` itself stays open."""
        self.flush()
        self._close()

    def set_level(self, level: str) -> None:
        self._threshold = LEVELS[level]

    def set_redactor(self, redact: Redactor) -> None:
        """After a reload: there may be new secrets."""
        self._redact = redact
        self._clean.clear()

    def request(self, fields: dict[str, Any]) -> None:
        """The line of a request that has ended; the hot path. Only `model` and `error`, always there, can hold foreign words."""
        if self._threshold > _INFO:
            return
        if fields["error"] is not None or fields["model"] not in self._clean:
            checks = {"model": self._checked, "error": self._redacted}
            fields = {name: checks[name](value) if name in checks else value for name, value in fields.items()}
        now_ms = int(self._wall() * 1000)
        if now_ms != self._prefix_ms:
            self._prefix_ms = now_ms
            self._prefix = b'{"time":"%b","level":"info","event":"request",' % self._time().encode()
        held = self._held
        held.append((self._prefix, fields))
        if len(held) >= _HELD_LINES:
            self.flush()

    def flush(self) -> None:
        """Writes the requests' lines that are held: called ten times a second, and before any other line."""
        if self._held:
            self._put(b"")

    def _take_held(self) -> bytes:
        held = self._held
        self._held = []
        try:
            bodies = [orjson.dumps(fields) for _, fields in held]
            if max(map(len, bodies)) < MAX_LINE_BYTES - 128 and all(map(bytes.isascii, bodies)):
                return b"".join([prefix + body[1:] + b"\n" for (prefix, _), body in zip(held, bodies, strict=True)])
        except TypeError:
            pass  # one of them is odd: each by itself
        return b"".join([_line({**orjson.loads(prefix[:-1] + b"}"), **fields}) + b"\n" for prefix, fields in held])

    def debug(self, event: str, **fields: Any) -> None:
        self.write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self.write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self.write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self.write("error", event, fields)

    def write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if LEVELS[level] < self._threshold:
            return
        cleaned = {name: self._redacted(value) for name, value in fields.items()}
        self._put(_line({"time": self._time(), "level": level, "event": event, **cleaned}) + b"\n")

    def _time(self) -> str:
        now = self._wall()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        return self._stamp + _MILLISECONDS[int((now - second) * 1000)]

    def _checked(self, name: Any) -> Any:
        cleaned = self._redacted(name)
        if cleaned == name and isinstance(name, str) and len(name) <= _LONG_VALUE and len(self._clean) < _CLEAN_VALUES:
            self._clean.add(name)
        return cleaned

    def _redacted(self, value: Any) -> Any:
        match value:
            case str():
                return self._redact(value)
            case dict():
                return {str(name): self._redacted(item) for name, item in value.items()}
            case list() | tuple():
                return [self._redacted(item) for item in value]
            case None | bool() | int() | float():
                return value
            case _:
                return self._redact(str(value))

    def _put(self, data: bytes) -> None:
        if self._held:
            data = self._take_held() + data
        lines = data.count(b"\n")
        if self._rest or self._reported != self.dropped:
            data = self._rest + self._report() + data
        try:
            taken = self._send(data)
        except OSError:
            # nobody reads, or nobody is there: this is lost, its torn predecessor stays torn
            self.dropped += lines
            return
        self._reported = self.dropped
        self._rest = data[taken:] if taken < len(data) else b""

    def _report(self) -> bytes:
        lost = self.dropped - self._reported
        if not lost:
            return b""
        return orjson.dumps({"time": self._time(), "level": "warning", "event": "log_lines_dropped", "lines": lost}) + b"\n"


def _line(fields: dict[str, Any]) -> bytes:
    try:
        line = orjson.dumps(fields)
    except TypeError:  # a lone surrogate, an integer beyond 64 bits
        line = orjson.dumps({str(name): _encodable(value) for name, value in fields.items()})
    if not line.isascii():
        line = line.decode().translate(_HARMLESS).encode()
    return line if len(line) < MAX_LINE_BYTES else _shortened(fields)


class LogsHandler(logging.Handler):
    """Brings the standard library's logging, such as uvicorn's, into the same writer; the logger's name is the event."""

    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= logging.ERROR else logging.getLevelName(record.levelno).lower()
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit their format
            message = str(record.msg)
        fields: dict[str, Any] = {"message": message}
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = "".join(traceback.format_exception(record.exc_info[1]))[-4_096:]
        self._logs.write(level if level in LEVELS else "info", record.name, fields)


def capture(logs: Logs, *names: str, level: int = logging.WARNING) -> None:
    """Route the named loggers, and those below them, into `logs` alone. Without names: the root logger."""
    for name in names or ("",):
        logger = logging.getLogger(name)
        logger.handlers = [LogsHandler(logs)]
        logger.setLevel(level)
        if name:
            logger.propagate = False


def _writer(fd: int) -> tuple[Callable[[bytes], int], Callable[[], None]]:
    """A write that does not block (bytes taken, or OSError), and what closes it.

    O_NONBLOCK belongs to the open file and not to the descriptor: set on standard error, it would hit whoever shares it, such
    as the shell. A pipe or terminal is opened once more, a socket (journald's) is sent to with a flag. A file never blocks.
    """
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        mode = 0  # closed: every line is dropped
    if stat.S_ISSOCK(mode):
        connection = socket.socket(fileno=os.dup(fd))
        return lambda data: connection.send(data, socket.MSG_DONTWAIT), connection.close
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            pass  # no /proc, or a terminal that belongs to another user: it blocks when it must
        else:
            return lambda data: os.write(own, data), lambda: os.close(own)
    return lambda data: os.write(fd, data), lambda: None


def _encodable(value: Any) -> Any:
    """For what orjson refuses."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {_encodable(str(name)): _encodable(item) for name, item in value.items()}
        case list() | tuple():
            return [_encodable(item) for item in value]
        case None | bool() | float():
            return value
        case _:
            return str(value).encode("utf-8", "replace").decode()


def _shortened(fields: dict[str, Any]) -> bytes:
    """The same line with its long values cut; when that is not enough, only its start, as many fields as fit."""
    room = MAX_LINE_BYTES - 64
    kept: dict[str, Any] = {}
    for name, value in fields.items():
        text = value if isinstance(value, str) else orjson.dumps(_encodable(value)).decode()
        if len(text) > _LONG_VALUE:
            value = _encodable(text[:_LONG_VALUE]).translate(_HARMLESS) + "…"
        elif isinstance(value, str):
            value = _encodable(value).translate(_HARMLESS)
        else:
            value = _encodable(value)
        room -= len(orjson.dumps({str(name)[:_LONG_VALUE]: value}))
        if room < 0:
            break
        kept[str(name)[:_LONG_VALUE]] = value
    return orjson.dumps({**kept, "cut": True})
