"""`tollbridge replay`: the ledger under another configuration, beside what was recorded. Nobody is called."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

from proxy.accounting.pricing import PriceBook
from proxy.commands.shell import Place, console, count, print_json
from proxy.config.settings import Settings
from proxy.core.errors import InvalidValue, LedgerUnavailable
from proxy.monitoring.query import MAX_MOMENT_MS, moment_ms, rfc3339
from proxy.monitoring.replay import RECORDED, Names, Period, replay_ledger
from proxy.storage.sqlite import LEDGER
from proxy.terminal.marks import cell, money, share
from proxy.terminal.tables import table

SHOWN_EXAMPLES = 10
TOKENIZERS = "Tokens are the recorded ones: another model's tokenizer would have counted the same text otherwise."


def replay(place: Place, *, ledger: Path | None, since: str, until: str | None, limit: int | None) -> None:
    """Exit 1 if nothing was recorded."""
    settings = place.settings()
    before = None if ledger is None else Place(ledger, env_file=place.env_file, as_json=place.as_json).settings()
    folder = settings.data_dir if place.data_dir is not None or before is None else before.data_dir
    period = period_of(place, folder, since, until, limit)
    told: dict[str, Any] = {"requests": 0, "differing": 0}
    if (folder / LEDGER).is_file():
        prices = prices_in(folder)
        with sentences(place, folder):
            told = replay_ledger(period, settings, prices, before=before).told()
    told |= {"since": rfc3339(period.since_ms / 1000), "until": rfc3339(period.until_ms / 1000), "ledger": str(folder)}
    nothing = None if told["requests"] else f"nothing was recorded in {folder} since {told['since']}"
    if place.as_json:
        error = {} if nothing is None else {"error": {"message": nothing}}
        print_json(told, requests=told["requests"], differing=told["differing"], **error)
    elif nothing is None:
        _show(told, settings)
    if nothing is not None:
        if not place.as_json:
            typer.echo(nothing, err=True)
        raise typer.Exit(1)


def period_of(place: Place, folder: Path, since: str, until: str | None, limit: int | None = None) -> Period:
    """Until now, where nothing else is said."""
    wall = time.time()
    try:
        since_ms, until_ms = moment_ms(since, wall, param="since"), moment_ms(until, wall, param="until")
    except InvalidValue as error:
        raise typer.BadParameter(error.message, param_hint=f"--{error.param}") from None
    until_ms = min(round(wall * 1000) + 1, MAX_MOMENT_MS) if until_ms is None else until_ms
    if (since_ms or 0) > until_ms:
        raise typer.BadParameter("it must not be later than --until", param_hint="--since")
    return Period(data_dir=folder, since_ms=since_ms or 0, until_ms=until_ms, limit=limit)


def prices_in(folder: Path) -> PriceBook:
    """The price data as they are kept beside the ledger."""
    book = PriceBook(folder / "cache")
    asyncio.run(book.warm())
    if book.problem is not None:
        typer.echo(f"warning: {book.problem}", err=True)
    return book


@contextmanager
def sentences(place: Place, folder: Path) -> Iterator[None]:
    """What can go wrong with the ledger, as an exit with a sentence."""
    try:
        yield
    except LedgerUnavailable as error:
        place.fail(error.message)
    except sqlite3.Error as error:
        place.fail(f"{folder}: the ledger cannot be read: {error}")


def show_sums(told: Mapping[str, Any], names: Names, titles: Names) -> None:
    """Two tables: what it came to on both sides, and who answered."""
    left, right = told[names[0]], told[names[1]]
    sums = table(None, "", *titles, numbers=titles)
    for label, key in (("answered", "ok"), ("failed", "failed"), ("rejected", "rejected"), ("attempts", "attempts")):
        sums.add_row(label, cell(left[key]), cell(right[key]))
    sums.add_row(
        "availability", *[cell(None if side["availability"] is None else share(side["availability"])) for side in (left, right)]
    )
    sums.add_row("needed more than one attempt", cell(left["failed_over"]), cell(right["failed_over"]))
    sums.add_row("cost", money(left["cost_usd"]), money(right["cost_usd"]))
    if left["unpriced"] or right["unpriced"]:
        sums.add_row("of unknown cost, not in it", cell(left["unpriced"]), cell(right["unpriced"]))
    console().print(sums)
    costs = tuple(f"cost, {title}" for title in titles)
    answered = table(None, "answered by", *titles, *costs, numbers=(*titles, *costs))
    for row in told["by_target"]:
        answered.add_row(cell(row["target"]), *[cell(row[name]) for name in names], *[_cost(row, name) for name in names])
    if told["by_target"]:
        console().print(answered)


def _cost(row: Mapping[str, Any], name: str) -> Text:
    """Of a target; where nothing of it is known, that is told."""
    return money(None if row[f"{name}_unpriced"] and row[f"{name}_cost_usd"] == "0" else row[f"{name}_cost_usd"])


def notes(told: Mapping[str, Any]) -> list[str]:
    """What the figures rest on."""
    said = []
    if told["assumed"]:
        said.append(
            f"{share(told['assumed_share'])} of the requests come to a target that they were not sent to: it is taken to have "
            "answered as often as it did around that time, and always where nothing was sent there."
        )
    if told["refused_before"]:
        said.append(
            f"{count(range(told['refused_before']), 'request')} had been refused before anything was chosen (budgets, limits, names): "
            "they are left as they were."
        )
    if told["undecided"]:
        said.append(
            f"Of {count(range(told['undecided']), 'request')} the choice was not written down: they are left as they were."
        )
    if told["unknown_models"]:
        said.append(f"{count(range(told['unknown_models']), 'request')} asked for a model that this configuration does not have.")
    if told["taken_to_have_a_key"]:
        said.append(f"Taken to have a key, though none is set here: {', '.join(told['taken_to_have_a_key'])}.")
    return [*said, TOKENIZERS]


def _show(told: Mapping[str, Any], settings: Settings) -> None:
    of = told["differing"] / told["requests"]
    typer.echo(
        f"{count(range(told['requests']), 'request')} since {told['since']} under {settings.path or 'the built-in configuration'} "
        f"({settings.hash}): {told['differing']} would have gone another way ({share(of)})."
    )
    show_sums(told, RECORDED, ("recorded", "what if"))
    if told["examples"]:
        shown = table("the first that would have gone another way", "id", "model", "recorded", "what if")
        for each in told["examples"][:SHOWN_EXAMPLES]:
            shown.add_row(cell(each["id"]), cell(each["model"]), *[cell(_came_to(each[name])) for name in RECORDED])
        console().print(shown)
    for note in notes(told):
        typer.echo(note)


def _came_to(side: Mapping[str, Any]) -> str:
    """`beta/m after alpha/m (assumed)`: who answered, and who had been asked first."""
    order, served = side["order"] or [], side["served"]
    after = f" after {order[0]}" if order and order[0] != served else ""
    return f"{served or side['outcome']}{after}" + (" (assumed)" if side["assumed"] else "")
