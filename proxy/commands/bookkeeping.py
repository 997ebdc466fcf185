"""`tollbridge ledger`: whether it adds up, mending it, pricing again, its rows as a file, and a copy of the whole."""

from __future__ import annotations

import asyncio
import csv
import os
import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import orjson
import typer

from proxy.accounting.pricing import PriceBook, charge
from proxy.commands.shell import Place, console, count, print_json
from proxy.config.settings import Settings
from proxy.core.errors import InvalidValue
from proxy.core.money import nusd_to_usd
from proxy.core.target import Target
from proxy.core.usage import Usage
from proxy.launch import is_of_output
from proxy.monitoring.query import MAX_MOMENT_MS, moment_ms
from proxy.storage import export as rows
from proxy.storage import reprice as pricing
from proxy.storage.drainer import DrainerBusy, log_to_stderr
from proxy.storage.repair import repair as mend
from proxy.storage.sqlite import LEDGER, LedgerTooNew
from proxy.storage.sqlite import back_up as copy_to
from proxy.storage.verify import Findings, NoLedger
from proxy.storage.verify import verify as look
from proxy.terminal.marks import cell, money
from proxy.terminal.tables import table

EXPORTS = ("csv", "jsonl")
SHOWN = 20
_FORMULA = re.compile(r"^[=+\-@\t\r]")
_BUSY = "a server (or another command) writes this ledger: stop it first, for there is one writer at a time"


def verify(place: Place) -> bool:
    """Whether it adds up."""
    folder = place.folder()
    found = _verified(place, folder)
    if place.as_json:
        print_json(_as_json(found))
    else:
        _show(found, folder)
    return not found.differing


def repair(place: Place) -> bool:
    """Whether it adds up now."""
    folder = place.folder()
    with _sentences(place, folder):
        done = mend(folder, time.time, log=log_to_stderr)
    found = _verified(place, folder)
    if place.as_json:
        mended = {"set_aside": done.set_aside, "taken_in": done.taken_in, "requests": done.requests, "attempts": done.attempts}
        print_json({**_as_json(found), "repaired": mended})
    else:
        if done.set_aside is not None:
            typer.echo(
                f"{LEDGER} was damaged ({done.set_aside}): it is set aside, and a new one is made from the segments still kept."
            )
        typer.echo(f"Taken in: {done.taken_in} records. Summed up anew: {done.requests} requests and {done.attempts} attempts.")
        _show(found, folder)
    return not found.differing


def reprice(
    place: Place,
    *,
    since: str | None,
    until: str | None,
    provider: str | None,
    model: str | None,
    everything: bool,
    apply: bool,
) -> None:
    """Shows what would change; with `apply` it does."""
    settings = place.settings()
    if everything and since is None and until is None and provider is None and model is None:
        raise typer.BadParameter("say which with --since, --until, --provider or --model", param_hint="--all")
    since_ms, until_ms = _period(place, since, until)
    wanted = pricing.Wanted(since_ms=since_ms, until_ms=until_ms, provider=provider, model=model, unpriced_only=not everything)
    price = _prices(settings)
    if not (settings.data_dir / LEDGER).is_file():
        place.fail(f"there is no {LEDGER} in {settings.data_dir}")
    with _sentences(place, settings.data_dir):
        if apply:
            changes = pricing.apply(settings.data_dir, wanted, price, time.time, log=log_to_stderr)
        else:
            changes = pricing.preview(settings.data_dir, wanted, price)
    if place.as_json:
        print_json([_change_json(change) for change in changes.of.values()], applied=apply, too_old=changes.too_old)
        return
    _show_changes(changes, applied=apply)


def export(place: Place, what: str, form: str, *, since: str | None, until: str | None, output: Path | None) -> None:
    folder = place.folder()
    since_ms, until_ms = _period(place, since, until)
    if not (folder / LEDGER).is_file():
        place.fail(f"there is no {LEDGER} in {folder}")
    read = rows.requests if what == "requests" else rows.attempts
    fields = rows.REQUEST_FIELDS if what == "requests" else rows.ATTEMPT_FIELDS
    with _sentences(place, folder, prints=output is None):
        found = read(folder, since_ms, until_ms)
        if output is None:
            _write(found, fields, form, sys.stdout)
            return
        new = output.with_name(f"{output.name}.new")
        try:
            with new.open("w", encoding="utf-8", newline="") as file:
                written = _write(found, fields, form, file)
            os.replace(new, output)
        except OSError as error:
            new.unlink(missing_ok=True)
            place.fail(f"{output} cannot be written: {error.strerror or error}")
    typer.echo(f"{written} {what} written to {output}", err=True)


def back_up(place: Place, output: Path) -> None:
    folder = place.folder()
    if not (folder / LEDGER).is_file():
        place.fail(f"there is no {LEDGER} in {folder}")
    with _sentences(place, folder):
        copy_to(folder / LEDGER, output)
    typer.echo(f"{output.stat().st_size} bytes written to {output}", err=True)


def form_of(given: str | None, output: Path | None) -> str:
    """What is asked for, else what the file's name ends in, else CSV."""
    form = given or (output.suffix.lower().removeprefix(".") if output is not None else "csv")
    if form == "parquet":
        raise typer.BadParameter(
            "Parquet needs a library larger than this program: export CSV, and let DuckDB convert it", param_hint="--format"
        )
    if form not in EXPORTS:
        raise typer.BadParameter(f"{form!r} is none of {', '.join(EXPORTS)}", param_hint="--format" if given else "--output")
    return form


# -- reading


def _verified(place: Place, folder: Path) -> Findings:
    with _sentences(place, folder):
        return look(folder)


@contextmanager
def _sentences(place: Place, folder: Path, *, prints: bool = False) -> Iterator[None]:
    """What can go wrong with the file, as an exit with a sentence. `prints`: with standard output, too, of which more is said elsewhere."""
    try:
        yield
    except DrainerBusy:
        place.fail(f"{folder}: {_BUSY}")
    except (NoLedger, LedgerTooNew) as error:
        place.fail(str(error))
    except (sqlite3.Error, OSError) as error:
        if prints and isinstance(error, OSError) and is_of_output(error):
            raise
        place.fail(f"{folder}: the ledger cannot be used: {error}")


def _period(place: Place, since: str | None, until: str | None) -> tuple[int, int]:
    wall = time.time()
    try:
        since_ms, until_ms = moment_ms(since, wall, param="since"), moment_ms(until, wall, param="until")
    except InvalidValue as error:
        raise typer.BadParameter(error.message, param_hint=f"--{error.param}") from None
    return since_ms or 0, MAX_MOMENT_MS if until_ms is None else until_ms


def _prices(settings: Settings) -> pricing.Price:
    """By the file's prices and the price data, as they are now, at the time of the attempt."""
    book = PriceBook(settings.data_dir / "cache")
    if settings.data_dir.is_dir():
        asyncio.run(book.warm())
    if book.problem is not None:
        typer.echo(f"warning: {book.problem}", err=True)
    targets: dict[tuple[str, str], Target | None] = {}

    def target_of(provider: str, model: str) -> Target | None:
        key = (provider, model)
        if key not in targets:
            targets[key] = settings.direct(provider, model) if provider in settings.providers else None
        return targets[key]

    def price(provider: str, model: str, usage: Usage, time_ms: int) -> tuple[int | None, str | None]:
        target = target_of(provider, model)
        return (None, None) if target is None else charge(usage, book.rates(target, time_ms / 1000))

    return price


# -- telling


def _as_json(found: Findings) -> dict[str, Any]:
    return {
        "ok": not found.differing,
        "checked": dict(found.compared),
        "differing": found.differing,
        "differences": [{"check": each.check, "where": each.where, "message": each.message} for each in found.differences],
    }


def _show(found: Findings, folder: Path) -> None:
    checked = ", ".join([f"{check} ({number})" for check, number in found.compared.items()])
    if not found.differing:
        typer.echo(f"The ledger in {folder} adds up. Compared: {checked}.")
        return
    shown = table(None, "check", "where", "what differs")
    for each in found.differences[:SHOWN]:
        shown.add_row(cell(each.check), cell(each.where), cell(each.message))
    console().print(shown)
    more = f", the first {SHOWN} of them above" if found.differing > SHOWN else ""
    typer.echo(
        f"The ledger in {folder} does not add up: {count(range(found.differing), 'difference')}{more}. Compared: {checked}."
    )
    typer.echo("what mends it: tollbridge ledger repair, with the server stopped")


def _change_json(change: pricing.Change) -> dict[str, Any]:
    return {
        "provider": change.provider,
        "model": change.model,
        "attempts": change.attempts,
        "changed": change.changed,
        "before_usd": nusd_to_usd(change.before_nusd),
        "unpriced_before": change.unpriced_before,
        "after_usd": nusd_to_usd(change.after_nusd),
        "unpriced_after": change.unpriced_after,
    }


def _show_changes(changes: pricing.Changes, *, applied: bool) -> None:
    numbers = ("attempts", "changed", "before", "unpriced", "after", "still unpriced")
    shown = table(None, "provider", "model", *numbers, numbers=numbers)
    for change in sorted(changes.of.values(), key=lambda each: (each.provider, each.model)):
        told = _change_json(change)
        shown.add_row(
            cell(change.provider), cell(change.model), cell(change.attempts), cell(change.changed), money(told["before_usd"]),
            cell(change.unpriced_before), money(told["after_usd"]), cell(change.unpriced_after),
        )  # fmt: skip
    if changes.of:
        console().print(shown)
    if changes.too_old:
        typer.echo(f"{count(range(changes.too_old), 'attempt')} left alone: rows of that time were forgotten already.")
    attempts = count(range(changes.changed), "attempt")
    if applied:
        typer.echo(f"{attempts} priced again; what they cost before is kept in the table `repriced`.")
    elif changes.changed:
        typer.echo(f"{attempts} would be priced again. Nothing is changed yet: --apply does it, with the server stopped.")
    else:
        typer.echo("No attempt would cost anything else.")


def _write(found: Iterator[rows.Row], fields: tuple[str, ...], form: str, file: IO[str]) -> int:
    written = 0
    if form == "jsonl":
        for row in found:
            file.write(orjson.dumps(row).decode() + "\n")
            written += 1
        return written
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(fields)
    for row in found:
        writer.writerow([_csv(row[name]) for name in fields])
        written += 1
    return written


def _csv(value: Any) -> Any:
    """As other exports have it: unknown is empty, and a text that a spreadsheet would take for a formula has an apostrophe before it."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            return f"'{value}" if _FORMULA.match(value) else value
        case list() | dict():
            return orjson.dumps(value).decode()
    return value
