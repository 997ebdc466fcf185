"""The command line in this process, made ready once: typer would do it again for every call, which takes longer than most commands."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from typer import main, testing

from proxy.cli import app

testing._get_command = cache(main.get_command)  # type: ignore[attr-defined]


def invoke(arguments: Sequence[str], **more: Any) -> testing.Result:
    """What came of it: `exit_code`, `stdout`, `stderr`, `output`."""
    return testing.CliRunner().invoke(app, list(arguments), **more)
