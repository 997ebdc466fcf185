"""`tollbridge explain`: why a request went the way that it did, by the ledger; or which way one would go, without sending it.

The latter is asked of the proxy that runs, which knows how its targets are doing. Where none runs it is worked out here from the
configuration alone, as if nothing had been asked of any target yet, and it is said so.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from proxy.accounting.pricing import PriceBook
from proxy.commands.requests import one
from proxy.commands.running import NotRunning, Running
from proxy.commands.shell import Place, print_json
from proxy.config.settings import Settings
from proxy.core.errors import CallerError
from proxy.core.redact import one_line
from proxy.engine.foreseen import foresee, read_question
from proxy.monitoring.story import plan_told, story_told
from proxy.routing.deployment import Deployments
from proxy.routing.rederive import rederive

MAX_LINE = 4_000
LIVE = "By what the proxy that runs at {} knows at this moment."
FRESH = "No proxy runs at {}: this is by the configuration alone, as if no target had been asked anything yet."
OTHER = "The proxy that runs at {} has another configuration ({}): this is by the file alone, as if no target had been asked anything yet."


def story(place: Place, request_id: str) -> None:
    row = one(place, request_id)
    lines = story_told(row)
    if place.as_json:
        print_json({**row, "order": rederive(row["asked"], row["trace"]), "story": lines})
    else:
        _print(lines)


def foreseen(place: Place, *, model: str | None, file: Path | None, headers: Sequence[str], client: str | None) -> None:
    settings = place.settings()
    told: dict[str, Any] = {
        "model": model,
        "request": None if file is None else _body(place, file),
        "headers": dict(_header(text) for text in headers),
        "client": client,
    }
    told = {name: value for name, value in told.items() if value is not None}
    running = Running(settings)
    plan, note = _asked(place, running, settings, told)
    if plan is None:
        try:
            plan = asyncio.run(_worked_out(settings, told))
        except CallerError as error:
            place.fail(error.message)
    lines = plan_told(plan)
    if place.as_json:
        print_json({**plan, "story": lines})
    else:
        _print([*lines, note])


def _asked(place: Place, running: Running, settings: Settings, told: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """What the running proxy says, and a word on whence it is known; no plan where none runs, or one with another file."""
    try:
        answered = running.ask("/api/v1/explain", method="POST", body=told)
    except NotRunning:
        return None, FRESH.format(running.url)
    if answered.status == 400 and isinstance(answered.body, dict):
        place.fail(str(answered.body.get("error", {}).get("message", answered.problem)))
    if answered.status != 200 or not isinstance(answered.body, dict):
        return None, f"{answered.problem[0].upper()}{answered.problem[1:]}: this is by the configuration alone."
    if answered.body.get("config") != settings.hash:
        return None, OTHER.format(running.url, answered.body.get("config"))
    return answered.body, LIVE.format(running.url)


async def _worked_out(settings: Settings, told: dict[str, Any]) -> dict[str, Any]:
    """Raises CallerError."""
    prices = PriceBook(settings.data_dir / "cache")
    if settings.data_dir.is_dir():
        await prices.warm()
    if prices.problem is not None:
        typer.echo(f"warning: {prices.problem}", err=True)
    plan = foresee(
        read_question(told),
        settings,
        deployments=Deployments(random.random),
        prices=prices,
        now=time.monotonic(),
        wall=time.time(),
        random=random.random,
    )
    return {**plan, "state": "fresh"}


def _print(lines: Sequence[str]) -> None:
    """Names can be hostile, for a caller chose them: no control characters."""
    for line in lines:
        indent = line[: len(line) - len(line.lstrip(" "))]
        typer.echo(indent + one_line(line, MAX_LINE))


def _body(place: Place, file: Path) -> dict[str, Any]:
    """The request in a file; - is standard input."""
    name = "standard input" if str(file) == "-" else str(file)
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        body = json.loads(text)
    except OSError as error:
        place.fail(f"{name} cannot be read: {error.strerror or error}")
    except UnicodeDecodeError:
        place.fail(f"{name} cannot be read: it is not UTF-8 text")
    except ValueError as error:
        place.fail(f"{name} is not JSON: {error}")
    except RecursionError:
        place.fail(f"{name} is nested too deeply")
    if not isinstance(body, dict):
        place.fail(f"{name} has no JSON object in it, which the body of a request is")
    return body


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise typer.BadParameter(f"{text!r} is none: write 'name: value'", param_hint="--header")
    return name.strip().lower(), value.strip()
