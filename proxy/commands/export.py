"""A report as a file, in the format that its name ends in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from proxy.commands.shell import Place
from proxy.terminal.sheet import FORMATS, Sheet, written


def format_of(path: Path | None) -> str | None:
    """Before anything is asked: a name that says no format is refused."""
    if path is None:
        return None
    form = path.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        endings = ", ".join(f".{each}" for each in FORMATS)
        raise typer.BadParameter(f"{path.name!r} must end in one of {endings}", param_hint="--export")
    return form


def save(place: Place, path: Path, sheets: Sequence[Sheet], data: Any) -> None:
    text = written(sheets, format_of(path) or "txt", data)
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        place.fail(f"{path} cannot be written: {error.strerror or error}")
    typer.echo(f"written to {path}", err=True)
