"""`tollbridge alerts`: what was told and is not over, whom it reaches, and that somebody has seen it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import typer

from proxy.commands.running import NotRunning, Running
from proxy.commands.shell import Place, console, print_json
from proxy.commands.source import opened
from proxy.monitoring import reports
from proxy.monitoring.delivery import send_test
from proxy.terminal.reports import alerts as alerts_sheet
from proxy.terminal.sheet import table


def alerts(place: Place, *, state: str | None, kind: str | None, limit: int) -> None:
    settings = place.settings()

    async def ask() -> dict[str, Any]:
        async with opened(settings) as source:
            return await reports.alerts(await source.picture(), source.ledger, state=state, kind=kind, limit=limit)

    report = place.run(ask())
    if place.as_json:
        print_json(report["data"], open=report["open"])
        return
    terminal = console()
    terminal.print(table(alerts_sheet(report), terminal.width))


def acknowledge(place: Place, alert: str) -> None:
    """Only the running proxy can: it holds what is open."""
    running = Running(place.settings())
    try:
        answered = running.ask(f"/api/v1/alerts/{alert}/acknowledge", method="POST")
    except NotRunning:
        place.fail(f"no proxy runs at {running.url}: only a running one can note that an alert was seen")
    if answered.status != 200:
        place.fail(answered.problem)
    if place.as_json:
        print_json(answered.body)
    else:
        typer.echo(f"acknowledged: {answered.body['message']}")


def test(place: Place) -> None:
    """Sends one message to every destination; exit 1 if one did not take it, or if there is none."""
    destinations = place.settings().alerts.to
    if not destinations:
        place.fail('alerts go to the log alone (name others under alerts.to, such as [{webhook: "${SLACK_URL}"}])')
    tested = asyncio.run(send_test(destinations, wall=time.time()))
    if place.as_json:
        print_json([{"channel": one.channel, "sent": one.reason is None, "reason": one.reason} for one in tested])
    else:
        for one in tested:
            typer.echo(f"{one.channel}: " + ("sent" if one.reason is None else f"not sent: {one.reason}"))
    if any(one.reason is not None for one in tested):
        raise typer.Exit(1)
