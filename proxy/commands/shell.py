"""What every command does alike: read the configuration, print a report or its JSON, fail with a sentence. Imports next to nothing."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Coroutine, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

from proxy.config.location import config_path

if TYPE_CHECKING:
    from rich.console import Console

    from proxy.config.faults import ConfigFault
    from proxy.config.settings import Settings

_T = TypeVar("_T")

HELP_WITH_FAULTS = "docs/troubleshooting.md#a-fault-of-check"
PIPE_WIDTH = 200  # of tables that nobody looks at


@dataclass(frozen=True, slots=True)
class Place:
    """Which configuration and ledger a command is about, as its options say.

    `as_json`: nothing but JSON goes to standard output. `failure`: the exit code when no report can be made.
    """

    config: Path | None = None
    data_dir: Path | None = None
    env_file: Path | None = None
    as_json: bool = False
    failure: int = 1

    def settings(self, *, faults_to_stdout: bool = False) -> Settings:
        """Or an exit that names every fault; for `check` the faults are the report."""
        # pydantic and YAML, which a report with --data-dir does not need
        from proxy.config.load import ConfigError, load

        path = self.config or config_path(os.environ)
        try:
            return load(path, environ=os.environ, env_file=self.env_file, overrides={"data_dir": self.data_dir})
        except ConfigError as error:
            if self.as_json and faults_to_stdout:
                print_json({"faults": told(error.faults, HELP_WITH_FAULTS), "warnings": [], "config": None})
            elif self.as_json:
                print_faults(error.faults, HELP_WITH_FAULTS)
            else:
                typer.echo("\n".join(map(str, error.faults)), err=not faults_to_stdout)
                typer.echo(f"what mends it: {HELP_WITH_FAULTS}", err=True)
            raise typer.Exit(self.failure) from None

    def folder(self) -> Path:
        """Where the ledger is: with --data-dir no configuration is read."""
        if self.data_dir is None:
            return self.settings().data_dir
        if not self.data_dir.is_dir():
            self.fail(f"there is no folder {self.data_dir}")
        return self.data_dir

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What a report needs, in a loop of its own; what cannot be read or was not meant is a sentence."""
        # the tree of errors, which `serve` brings along itself
        from proxy.core.errors import InvalidValue, LedgerUnavailable

        try:
            return asyncio.run(work)
        except LedgerUnavailable as error:
            self.fail(error.message)
        except InvalidValue as error:
            hint = f"--{error.param.replace('_', '-')}" if error.param else None
            raise typer.BadParameter(error.message, param_hint=hint) from None

    def fail(self, message: str) -> NoReturn:
        if self.as_json:
            typer.echo(json.dumps({"error": {"message": message}}, ensure_ascii=False))
        else:
            typer.echo(message, err=True)
        raise typer.Exit(self.failure)


def console() -> Console:
    """Rich decides on colours itself: none for NO_COLOR or when nobody looks. A file or a pipe gets lines as long as they are."""
    # rich, which only tables need
    from rich.console import Console

    return Console(soft_wrap=False, width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)


def print_json(data: Any, **more: Any) -> None:
    typer.echo(json.dumps({"data": data, **more}, indent=2, ensure_ascii=False))


def told(faults: Sequence[ConfigFault], help_page: str) -> list[dict[str, Any]]:
    return [{"file": f.file, "line": f.line, "col": f.col, "message": f.message, "help": help_page} for f in faults]


def print_faults(faults: Sequence[ConfigFault], help_page: str) -> None:
    """What a report says with `--json` when a file that it needs has faults."""
    more = f" (and {count(faults[1:], 'more fault')})" if faults[1:] else ""
    error = {"message": f"{faults[0]}{more}", "faults": told(faults, help_page)}
    typer.echo(json.dumps({"error": error}, indent=2, ensure_ascii=False))


def print_warnings(settings: Settings) -> None:
    for warning in settings.warnings:
        typer.echo(f"warning: {warning}", err=True)


def count(things: Sized, noun: str) -> str:
    return f"{len(things)} {noun}" + ("" if len(things) == 1 else "s")
