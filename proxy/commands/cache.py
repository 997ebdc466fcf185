"""`tollbridge cache`: what is kept of answers. A proxy that runs knows most of it; the file can be read and cleared without one."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import typer

from proxy.commands.running import Answered, NotRunning, Running
from proxy.commands.shell import Place, console, print_json
from proxy.config.settings import Settings
from proxy.core.kept import StoreFault
from proxy.monitoring.cached import report_of_file
from proxy.storage.kept_file import KeptFile
from proxy.terminal.reports import cache as cache_sheet
from proxy.terminal.sheet import table

_PATH = "/api/v1/cache"


def stats(place: Place) -> None:
    settings = place.settings()
    report = _told(place, settings, "GET", _PATH)
    if report is None:
        file = KeptFile(settings.data_dir, mend=False)
        try:
            report = report_of_file(file.held())
        except StoreFault as fault:
            place.fail(f"what is kept cannot be read: {fault}")
        finally:
            file.close()
    if place.as_json:
        print_json(report["data"], problem=report["problem"])
        return
    terminal = console()
    terminal.print(table(cache_sheet(report), terminal.width))
    if report["problem"] is not None:
        typer.echo(f"warning: the file cannot be used: {report['problem']}", err=True)


def clear(place: Place, chain: str | None) -> None:
    settings = place.settings()
    done = _told(place, settings, "DELETE", _PATH + (f"?chain={quote(chain, safe='')}" if chain is not None else ""))
    if done is None:
        file = KeptFile(settings.data_dir, mend=False)
        try:
            done = {"chain": chain, "cleared": file.clear(chain, round(time.time() * 1000))}
        except StoreFault as fault:
            place.fail(f"nothing is cleared: {fault}")
        finally:
            file.close()
    if place.as_json:
        print_json(done)
        return
    count = done["cleared"]
    of = "" if chain is None else f" of {chain}"
    typer.echo(f"{count:,} {'answer' if count == 1 else 'answers'}{of} forgotten.")


def _told(place: Place, settings: Settings, method: str, path: str) -> dict[str, Any] | None:
    """What a proxy that runs says; None where none does."""
    try:
        answered: Answered = Running(settings).ask(path, method=method)
    except NotRunning:
        return None
    if answered.status != 200 or not isinstance(answered.body, dict):
        place.fail(answered.problem)
    return answered.body
