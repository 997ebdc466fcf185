"""`tollbridge usage`: requests, tokens, cost and times by whatever group, from the ledger's sums."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from proxy.commands.export import format_of, save
from proxy.commands.ledger import ledger_in
from proxy.commands.shell import Place, console, print_json
from proxy.monitoring import reports
from proxy.monitoring.query import Query, read_query
from proxy.storage.usage import GROUPS
from proxy.terminal.reports import usage as usage_sheet
from proxy.terminal.sheet import table

MAX_TREND_MS = 400 * 86_400_000
_TIMES = ("day", "hour", "month")


def usage(place: Place, by: str, given: Mapping[str, str], *, compact: bool, export: Path | None) -> None:
    """`given`: since, until, time_zone and filters, as `monitoring/query.py` reads them."""
    groups = [group.strip() for group in by.split(",") if group.strip()]
    if unknown := [group for group in groups if group not in GROUPS]:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(GROUPS)}", param_hint="--by")
    format_of(export)
    folder = place.folder()
    shown = export is None and not place.as_json

    async def ask() -> tuple[Query, list[dict[str, Any]]]:
        query = read_query(given, time.time())
        async with ledger_in(folder) as ledger:
            rows = (await reports.usage(ledger, query, groups))["data"]
            if shown and len(groups) == 1 and groups[0] not in _TIMES and query.until_ms - query.since_ms <= MAX_TREND_MS:
                series = (await reports.timeseries(ledger, query, group_by=groups[0]))["data"]
                rows = [{**row, "trend": _trend(series, groups[0], row[groups[0]])} for row in rows]
        return query, rows

    query, rows = place.run(ask())
    if place.as_json:
        print_json(rows)
        return
    title = f"since {_day(query.since_ms)}" + (f", until {_day(query.until_ms)}" if given.get("until") else "")
    sheet = usage_sheet(rows, groups, title, compact=compact, nothing=f"nothing was recorded in {folder}")
    if export is not None:
        save(place, export, [sheet], rows)
        return
    terminal = console()
    terminal.print(table(sheet, terminal.width))


def _trend(series: Sequence[Mapping[str, Any]], group: str, name: str | None) -> list[int]:
    return [point["requests"] for point in series if point[group] == name]


def _day(time_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(time_ms / 1000)) + " UTC"
