"""`tollbridge advice`: what the ledger's last weeks suggest to change, with figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from proxy.commands.shell import Place, console, print_json
from proxy.commands.source import opened
from proxy.monitoring import reports
from proxy.terminal.marks import money


def advice(place: Place, compare: Sequence[str], kinds: Sequence[str]) -> None:
    settings = place.settings()
    for name in compare:
        provider, _, model = name.partition("/")
        if provider not in settings.providers or not model:
            raise typer.BadParameter(f"{name!r} is not provider/model of a provider in the configuration", param_hint="--compare")

    async def ask() -> dict[str, Any]:
        async with opened(settings) as source:
            return await reports.advice(
                await source.picture(), source.ledger, await source.prices(), compare=compare, kinds=kinds
            )

    data = place.run(ask())["data"]
    if place.as_json:
        print_json(data)
        return
    terminal = console()
    if not data:
        terminal.print("nothing to suggest from the last 30 days, or too few calls to tell")
    for row in data:
        say(terminal, row)


def say(terminal: Console, row: Mapping[str, Any]) -> None:
    """One piece: what, why, what it saves and where the figures come from."""
    saves = Text(f"  saves {money(row['saving_usd']).plain}", style="green") if row["saving_usd"] is not None else Text("")
    terminal.print(Text(row["title"], style="bold"), saves, sep="")
    terminal.print(Padding(Text(row["text"]), (0, 0, 0, 2)))
    terminal.print(Text(f"  {row['source']}\n", style="dim"), soft_wrap=True)
