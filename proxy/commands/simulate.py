"""`tollbridge simulate`: the engine on a clock that is set, with callers and upstreams that follow a scenario."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import typer

from proxy.accounting.pricing import PriceBook
from proxy.commands.shell import Place, console, print_faults, print_json
from proxy.config.faults import ConfigError
from proxy.config.settings import Settings
from proxy.core.target import Target
from proxy.simulation.load import load_scenario
from proxy.simulation.run import simulate as run
from proxy.simulation.schema import Scenario
from proxy.simulation.stand_in import stand_in
from proxy.terminal.lanes import clock, timeline

HELP = "docs/simulator.md"


def simulate(place: Place, path: Path, *, seed: int | None) -> None:
    settings = place.settings()
    scenario = _scenario(place, path, settings)
    with _prices(settings, _asked(scenario, settings)) as prices:
        outcome = run(scenario, settings, prices=prices, seed=seed)
    begins = datetime.fromtimestamp(scenario.start, UTC)
    data = {
        "scenario": path.name,
        "config": settings.hash,
        "start": begins.strftime("%Y-%m-%dT%H:%M:%SZ"),
        **outcome.as_dict(),
    }
    if place.as_json:
        print_json(data)
        return
    terminal = console()
    asked = f"{clock(scenario.length_s)} from {begins:%Y-%m-%d %H:%M} UTC in steps of {clock(scenario.interval_s)}"
    terminal.print(f"{path.name}: {asked}, seed {outcome.seed}, configuration {settings.hash}", markup=False)
    terminal.print(*timeline(data), sep="\n")


def _scenario(place: Place, path: Path, settings: Settings) -> Scenario:
    try:
        # by what may be asked there: a provider that lacks nothing but its key may
        return load_scenario(path, stand_in(settings, settings.data_dir).settings)
    except ConfigError as error:
        if place.as_json:
            print_faults(error.faults, HELP)
        else:
            typer.echo("\n".join(map(str, error.faults)), err=True)
            typer.echo(f"what may be written: {HELP}", err=True)
        raise typer.Exit(place.failure) from None


def _asked(scenario: Scenario, settings: Settings) -> list[Target]:
    """Whom the scenario may have asked, by name or to judge."""
    open_to_all = stand_in(settings, settings.data_dir).settings
    chains = [open_to_all.resolve(traffic.model) for traffic in scenario.traffic]
    judges = [chain.quality.judge for chain in chains if chain is not None and chain.quality is not None]
    chains += [open_to_all.resolve(judge) for judge in judges if judge is not None]
    return [target for chain in chains if chain is not None for target in chain.targets]


@contextmanager
def _prices(settings: Settings, targets: Iterable[Target]) -> Iterator[PriceBook]:
    """The price data, where a target has no price in the file; from the ledger's folder if it is kept there, else made for the purpose."""
    needed = any(target.price is None for target in targets)
    with tempfile.TemporaryDirectory(prefix="tollbridge-prices-") as folder:
        book = PriceBook(settings.data_dir / "cache")
        if needed and not book.load():
            book = PriceBook(Path(folder))
            asyncio.run(book.warm())
        if book.problem is not None:
            typer.echo(f"warning: {book.problem}", err=True)
        yield book
