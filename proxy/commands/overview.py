"""`tollbridge status` and `tollbridge report`: everything at one look, short and whole."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from proxy.commands.advice import say
from proxy.commands.export import format_of, save
from proxy.commands.running import Running
from proxy.commands.shell import Place, console, print_json, print_warnings
from proxy.commands.source import Source, opened
from proxy.config.settings import Settings
from proxy.core.redact import one_line
from proxy.monitoring import reports
from proxy.monitoring.query import read_query
from proxy.terminal import marks
from proxy.terminal import reports as sheets
from proxy.terminal.sheet import Column, Sheet, table

DAY_MS = 86_400_000
WATCH_S = 2.0
MAX_CHECKS = 1_000
Data = dict[str, Any]


# -- status


def status(place: Place, *, watch: bool) -> None:
    settings = place.settings()
    if place.as_json:
        print_json(place.run(_status(place, settings)))
        return
    terminal = console()
    if not watch:
        terminal.print(_shown(place.run(_status(place, settings)), terminal.width))
        print_warnings(settings)
        return
    with Live(console=terminal, screen=terminal.is_terminal, auto_refresh=False, vertical_overflow="crop") as live:
        try:
            while True:
                data = place.run(_status(place, settings))
                now = time.strftime("%H:%M:%S", time.gmtime())
                head = Text(f"{now} UTC, anew every {WATCH_S:g} s; Ctrl-C ends it", style="dim")
                live.update(Group(head, _shown({**data, "chains": []}, terminal.width)), refresh=True)
                time.sleep(WATCH_S)
        except KeyboardInterrupt:
            return


async def _status(place: Place, settings: Settings) -> Data:
    """Checks nobody: states are those that the running proxy tells, else those that were last written down."""
    running = Running(settings)
    state = running.state()
    async with opened(settings) as source:
        now_ms = round(source.wall * 1000)
        picture = await source.picture()
        query = read_query({"since": "24h"}, source.wall)
        lag = await source.ledger.ledger_lag(source.wall)
        told = await _told(place, running if state == "ready" else None, source)
        return {
            "config": settings.hash,
            "data_dir": str(settings.data_dir),
            "server": {"url": running.url, "state": state},
            "providers": [
                {
                    "name": p.name,
                    "usable": p.enabled,
                    "reason": p.disabled,
                    "keys": [c.secret.tail() for c in p.credentials if c.secret],
                    "base_url": None if p.transport == "demo" else p.base_url,
                    "health": told.get(p.name),
                }
                for p in settings.providers.values()
            ],
            "chains": [
                {
                    "name": chain.name,
                    "targets": [{"target": t.name, "skipped": t.disabled or t.provider.disabled} for t in chain.targets],
                }
                for chain in settings.chains.values()
            ],
            "last_24h": await source.ledger.usage(["provider"], now_ms - DAY_MS, None, percentiles=True),
            "hours": (await reports.timeseries(source.ledger, query, step="hour"))["data"],
            "metrics": await reports.dashboard(picture, source.ledger, query),
            "budgets": (await reports.budgets(picture, source.ledger))["data"],
            "quotas": (await reports.quotas(picture, source.ledger))["data"],
            "alerts": picture.alerts,
            "ledger": {"lag_s": lag.seconds, "waiting_bytes": lag.waiting_bytes, **lag.counters},
            "warnings": list(settings.warnings),
        }


async def _told(place: Place, running: Running | None, source: Source) -> dict[str, Data]:
    """Provider -> state, reason and when that was known."""
    report = running.get("/api/v1/monitoring/health-check") if running is not None and place.data_dir is None else None
    if report is not None:
        return {
            card["name"]: {"state": card["state"], "reason": card["reason"], "checked": card["checked"]}
            for card in report["providers"]
        }
    found: dict[str, Data] = {}
    for check in await source.ledger.checks(limit=MAX_CHECKS):
        found.setdefault(check["provider"], {"state": check["state"], "reason": check["reason"], "checked": check["time"]})
    return found


def _shown(data: Data, width: int) -> RenderableType:
    server, metrics = data["server"], data["metrics"]
    parts: list[RenderableType] = [
        Text.assemble(f"{server['url']}: ", marks.cell(server["state"])),
        Text(f"configuration {data['config']}, ledger in {data['data_dir']}\n"),
    ]
    parts += [Text.assemble(marks.state(alert["severity"]), f"  {alert['message']}") for alert in data["alerts"]]
    if data["alerts"]:
        parts.append(Text(""))
    parts += _figures(metrics, data["hours"])
    parts.append(_provider_table(data["providers"], width))
    if data["chains"]:
        parts.append(_chain_table(data["chains"], width))
    if data["budgets"]:
        parts.append(table(sheets.budgets({"data": data["budgets"]}), width))
    if data["quotas"]:
        parts.append(table(sheets.quotas({"data": data["quotas"]}), width))
    if data["last_24h"]:
        parts.append(table(sheets.usage(data["last_24h"], ["provider"], "last 24 hours"), width))
    else:
        parts.append(Text("no requests in the last 24 hours"))
    return Group(*parts)


def _figures(metrics: Mapping[str, Any], hours: list[Data]) -> list[RenderableType]:
    """What the last day brought, in two lines."""
    ok = marks.NOTHING if metrics["success_rate"] is None else marks.share(metrics["success_rate"])
    p95 = marks.NOTHING if metrics["p95_ms"] is None else marks.duration(metrics["p95_ms"])
    first = marks.NOTHING if metrics["first_token_p95_ms"] is None else marks.duration(metrics["first_token_p95_ms"])
    requests = f"{metrics['calls']:,} in 24 hours, {ok} ok, p95 {p95}, first token {first}, {metrics['fallbacks']:,} failed over"
    month, today = sheets.month_line(metrics["month"]), marks.money(metrics["today_usd"]).plain
    curves = [marks.sparkline([float(point[name]) for point in hours]) for name in ("requests", "cost_usd")]
    lines = [("requests", curves[0], requests), ("spent", curves[1], f"{today} today, this month {month}")]
    return [*(Text.assemble((f"{name:<10}", "bold"), (curve, "cyan"), f"  {told}") for name, curve, told in lines), Text("")]


def _provider_table(providers: list[Data], width: int) -> RenderableType:
    columns = (
        Column("name", "name", "id"),
        Column("state", "state", "state"),
        Column("reason", "reason", if_any=True),
        Column("checked", "known since (UTC)", "time", 2, if_any=True),
        Column("keys", "keys", "text", 1, if_any=True),
        Column("base_url", "base URL", "id", 3),
    )
    rows = [
        {
            "name": entry["name"],
            "state": (entry["health"] or {}).get("state", "unknown") if entry["usable"] else "disabled",
            "reason": (entry["health"] or {}).get("reason") if entry["usable"] else f"skipped: {entry['reason']}",
            "checked": (entry["health"] or {}).get("checked") if entry["usable"] else None,
            "keys": " ".join(entry["keys"]),
            "base_url": entry["base_url"] or "built in",
        }
        for entry in providers
    ]
    return table(Sheet("providers", "providers", columns, rows, nothing="none"), width)


def _chain_table(chains: list[Data], width: int) -> RenderableType:
    columns = (Column("name", "model", "id"), Column("targets", "targets, in order"))
    rows = [
        {
            "name": chain["name"],
            "targets": ", ".join(f"{t['target']} (skipped)" if t["skipped"] else t["target"] for t in chain["targets"]),
        }
        for chain in chains
    ]
    return table(Sheet("chains", "chains", columns, rows, nothing="none"), width)


# -- report


def report(place: Place, given: Mapping[str, str], *, compact: bool, export: Path | None) -> None:
    """All of `/api/monitor`: told by the running proxy, else made of the ledger and of checks made now."""
    form = format_of(export)
    settings = place.settings()
    data = Running(settings).get("/api/monitor" + (f"?{urlencode(given)}" if given else "")) if place.data_dir is None else None
    if data is None:
        data = place.run(_report(settings, given))
    if export is not None:
        told = [_line_sheet(data)] if compact and form != "json" else _sheets(data)
        save(place, export, told, data)
    elif place.as_json:
        print_json(data)
    elif compact:
        terminal = console()
        lines = sheets.lines(data)
        width = max(len(name) for name, _ in lines)
        for name, line in lines:
            terminal.print(Text.assemble((f"{one_line(name):<{width}}  ", "bold"), one_line(line)), soft_wrap=True)
    else:
        _print_report(data, console())


async def _report(settings: Settings, given: Mapping[str, str]) -> Data:
    async with opened(settings) as source:
        query = read_query(given, source.wall)
        picture = await source.picture(await source.cards())
        return await reports.monitor(picture, source.ledger, query, await source.prices())


def _print_report(data: Data, terminal: Console) -> None:
    period = data["metrics"]["period"]
    terminal.print(Text(f"since {marks.moment(period['since'])} UTC, until {marks.moment(period['until'])} UTC\n"))
    for sheet in _sheets(data):
        if sheet.name != "advice":
            terminal.print(table(sheet, terminal.width))
    terminal.print(Text("advice", style="bold"))
    for row in data["advice"]["data"]:
        say(terminal, row)
    if not data["advice"]["data"]:
        terminal.print("nothing to suggest from the last 30 days, or too few calls to tell")


def _sheets(data: Data) -> list[Sheet]:
    metrics = data["metrics"]
    return [
        sheets.alerts(data["alerts"]),
        _metric_sheet(metrics),
        sheets.health(data["health"]),
        sheets.budgets(data["budgets"]),
        sheets.quotas(data["quotas"]),
        sheets.chains(data["quotas"]),
        *(
            sheets.top(metrics[f"by_{group}"], group, f"by {group}")
            for group in ("provider", "model", "department", "agent", "client")
        ),
        sheets.fallbacks(data["fallbacks"]),
        sheets.advice(data["advice"]),
    ]


def _metric_sheet(metrics: Data) -> Sheet:
    """This period beside the one before."""
    earlier = metrics["previous"]
    columns = (Column("what", "what"), Column("now", "this period"), Column("before", "the one before"))

    def row(what: str, kind: marks.Kind, now: object, before: object = None) -> Data:
        return {"what": what, "now": marks.Figure(kind, now), "before": None if before is None else marks.Figure(kind, before)}

    tokens = metrics["tokens"]
    rows = [
        row("requests", "number", metrics["calls"], earlier["calls"]),
        row("answered", "share", metrics["success_rate"], earlier["success_rate"]),
        row("p95", "ms", metrics["p95_ms"], earlier["p95_ms"]),
        row("first token, p95", "ms", metrics["first_token_p95_ms"]),
        row("failed over", "number", metrics["fallbacks"]),
        row("tokens in", "number", tokens["input"]),
        row("of these cached", "number", tokens["cached_input"]),
        row("tokens out", "number", tokens["output"]),
        row("attempts at an unknown price", "number", metrics["unpriced"]),
        row("cost", "money", metrics["cost_usd"], earlier["cost_usd"]),
        row("spent today", "money", metrics["today_usd"]),
        {"what": "this month", "now": sheets.month_line(metrics["month"]), "before": None},
    ]
    return Sheet("metrics", "use and cost", columns, rows)


def _line_sheet(data: Data) -> Sheet:
    columns = (Column("what", "what"), Column("told", "how it is"))
    return Sheet("report", "", columns, [{"what": what, "told": told} for what, told in sheets.lines(data)])
