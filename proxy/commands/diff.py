"""`tollbridge diff`: what two configurations differ in, in words, and, where there is a ledger, in dollars.

As diff(1) does it, the exit code is 0 when they mean the same, 1 when they differ, 2 when it cannot be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from proxy.commands.replay import notes, period_of, prices_in, sentences, show_sums
from proxy.commands.shell import Place, console, print_json
from proxy.config.settings import Settings
from proxy.core.money import nusd_to_usd, usd_to_nusd
from proxy.monitoring.difference import Change, differences
from proxy.monitoring.query import rfc3339
from proxy.monitoring.replay import OLD_AND_NEW, replay_ledger
from proxy.storage.sqlite import LEDGER
from proxy.terminal.marks import cell
from proxy.terminal.tables import table

TROUBLE = 2
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


def diff(place: Place, old_path: Path, new_path: Path, *, since: str, until: str | None) -> bool:
    """Whether they mean the same. The ledger is the old one's, unless the place has another."""
    old = Place(old_path, place.data_dir, place.env_file, place.as_json, failure=TROUBLE).settings()
    new = Place(new_path, place.data_dir, place.env_file, place.as_json, failure=TROUBLE).settings()
    found = differences(old, new)
    dollars = _in_dollars(place, old, new, since, until) if found else None
    if place.as_json:
        print_json({"same": not found, "changes": [asdict(each) for each in found], "dollars": dollars})
    else:
        _show(found, dollars, old, new)
    return not found


def _in_dollars(place: Place, old: Settings, new: Settings, since: str, until: str | None) -> dict[str, Any] | None:
    """None where there is no ledger, or nothing in it."""
    folder = old.data_dir
    period = period_of(place, folder, since, until)
    if not (folder / LEDGER).is_file():
        return None
    prices = prices_in(folder)
    with sentences(place, folder):
        told = replay_ledger(period, new, prices, before=old, instead_of=old).told(OLD_AND_NEW)
    if not told["requests"]:
        return None
    less_nusd = usd_to_nusd(told["new"]["cost_usd"]) - usd_to_nusd(told["old"]["cost_usd"])
    return {
        **told,
        "since": rfc3339(period.since_ms / 1000),
        "until": rfc3339(period.until_ms / 1000),
        "ledger": str(folder),
        "difference_usd": nusd_to_usd(less_nusd),
    }


def _show(found: Sequence[Change], dollars: Mapping[str, Any] | None, old: Settings, new: Settings) -> None:
    if not found:
        typer.echo(f"{old.path} and {new.path} mean the same.")
        return
    shown = table(None, "", "where", "what")
    for each in found:
        shown.add_row(cell(_SIGNS[each.kind]), cell(each.where), cell(each.what))
    console().print(shown)
    if dollars is None:
        typer.echo("There is no ledger with requests of that time: nothing can be said in dollars.")
        return
    typer.echo(
        f"With the {dollars['requests']} requests since {dollars['since']}: {dollars['differing']} would go another way, "
        f"and it would cost {_change(dollars['difference_usd'])}."
    )
    show_sums(dollars, OLD_AND_NEW, OLD_AND_NEW)
    for note in notes(dollars):
        typer.echo(note)


def _change(usd: str) -> str:
    """`$1.5 less`, `$2 more`, `the same`."""
    return "the same" if usd == "0" else f"${usd[1:]} less" if usd.startswith("-") else f"${usd} more"
