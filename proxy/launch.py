"""The way in. `tollbridge serve` as it is nearly always written starts without the library that reads command lines, which would take a
seventh of the time until it is ready. Everything else, help and mistakes included, is for `cli.py`, where the same options are declared.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
import time
from pathlib import Path
from typing import TypedDict

from proxy.config.location import config_path
from proxy.late import late_compiling, leave_unused_modules

BEGAN = time.monotonic()
LOG_LEVELS = ("debug", "info", "warning", "error")
MAX_PORT = 65_535
MAX_WORKERS = 64
_NAMES = {
    "--config": "config",
    "-c": "config",
    "--host": "host",
    "--port": "port",
    "--workers": "workers",
    "--data-dir": "data_dir",
    "--env-file": "env_file",
    "--log-level": "log_level",
}


class ServeOptions(TypedDict):
    """Of `tollbridge serve`. None: as the configuration has it."""

    config: Path | None
    host: str | None
    port: int | None
    workers: int
    data_dir: Path | None
    env_file: Path | None
    log_level: str | None


def main() -> None:
    keep_standard_files()
    options = plain_options(sys.argv[2:]) if sys.argv[1:2] == ["serve"] else None
    if options is None:
        # what this module does without
        from proxy.cli import main as command_line

        command_line()
    else:
        sys.exit(serve(options))


def keep_standard_files() -> None:
    """Where 0, 1 or 2 is closed, the next file that is opened would get its number, and with it what is said there: the log's lines would
    go into the ledger."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def is_of_output(error: OSError) -> bool:
    """Whether it says that standard output takes no more, a full disk behind `>` for one, and not something of a file with a name."""
    return error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)


def let_go_of_output() -> None:
    """What is left to be written there would make the program fail again at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def serve(options: ServeOptions) -> int:
    """The exit code."""
    gc.disable()  # a quarter of the start is the collector walking over modules that stay; the runtime turns it on when it is up
    leave_unused_modules()
    with late_compiling():
        # the server, which no other command needs
        from proxy.app import serve as run

    options["config"] = options["config"] or config_path(os.environ)
    return run(**options, began=BEGAN)


def plain_options(arguments: list[str]) -> ServeOptions | None:
    """None if anything is not quite as expected."""
    given: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name, sign, value = rest.pop(0).partition("=")
        if not sign and rest:
            value = rest.pop(0)
        if name not in _NAMES or (sign and name == "-c") or not value or value.startswith("-"):
            return None
        given[_NAMES[name]] = value
    level = given.get("log_level", "info").lower()
    port, workers = _number(given.get("port", "0")), _number(given.get("workers", "1"))
    if level not in LOG_LEVELS or port is None or port > MAX_PORT or workers is None or not 1 <= workers <= MAX_WORKERS:
        return None
    return ServeOptions(
        config=_path(given, "config"),
        host=given.get("host"),
        port=port if "port" in given else None,
        workers=workers,
        data_dir=_path(given, "data_dir"),
        env_file=_path(given, "env_file"),
        log_level=level if "log_level" in given else None,
    )


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _path(given: dict[str, str], name: str) -> Path | None:
    return Path(given[name]) if name in given else None
