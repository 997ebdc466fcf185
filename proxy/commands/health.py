"""`tollbridge health`: how every provider is doing. The running proxy knows best; where none runs, they are asked directly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from proxy.commands.running import Running
from proxy.commands.shell import Place, console, print_json, print_warnings
from proxy.commands.source import opened
from proxy.config.settings import Settings
from proxy.monitoring import reports
from proxy.monitoring.picture import Picture
from proxy.terminal.reports import health as health_sheet
from proxy.terminal.sheet import table

EXIT = {"healthy": 0, "unknown": 0, "degraded": 1, "down": 2, "disabled": 2}
NO_REPORT = 3


def health(place: Place, names: Sequence[str], *, fresh: bool) -> int:
    """The exit code: 0 well, 1 degraded, 2 down, NO_REPORT. Of several providers, what all agree on, else degraded."""
    settings = place.settings()
    if unknown := [name for name in names if name not in settings.providers]:
        place.fail(f"there is no provider {unknown[0]!r} in the configuration: it has {', '.join(settings.providers)}")
    report, told_by = None, "asked directly"
    if place.data_dir is None:  # else it is about another ledger than the running proxy's
        running = Running(settings)
        report = running.get(_path(names, fresh=fresh))
        told_by = f"told by the proxy at {running.url}"
    if report is None:
        report, told_by = place.run(_directly(settings, names)), "asked directly"
    if place.as_json:
        print_json(report)
    else:
        terminal = console()
        terminal.print(table(health_sheet(report), terminal.width))
        terminal.print(told_by, style="dim", markup=False)
        print_warnings(settings)
    return _exit_code(report, names)


async def _directly(settings: Settings, names: Sequence[str]) -> dict[str, Any]:
    async with opened(settings) as source:
        picture = Picture(wall=source.wall, settings=settings, cards=await source.cards(names or None))
    return reports.health_check(picture, names)


def _path(names: Sequence[str], *, fresh: bool) -> str:
    query = {**({"provider": ",".join(names)} if names else {}), **({"fresh": "1"} if fresh else {})}
    return "/api/v1/monitoring/health-check" + (f"?{urlencode(query)}" if query else "")


def _exit_code(report: dict[str, Any], names: Sequence[str]) -> int:
    """A provider that was asked for by name and has no key is as good as down."""
    code = EXIT[report["overall"]]
    if names and all(card["state"] == "disabled" for card in report["providers"]):
        return EXIT["disabled"]
    return code
