"""Where reports come from when no server is asked: the ledger, read-only, and questions to the providers that cost nothing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import typer

from proxy.accounting.pricing import PriceBook
from proxy.accounting.states import read_states
from proxy.commands.ledger import ledger_in
from proxy.config.settings import Settings
from proxy.monitoring.advice import PriceOf
from proxy.monitoring.checker import HealthBoard
from proxy.monitoring.health import ProviderHealth
from proxy.monitoring.picture import Picture
from proxy.storage.queries import Queries

MAX_OPEN_ALERTS = 1_000


class SystemClock:
    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


class Source:
    """For one loop; a ledger that is not there yet is empty."""

    def __init__(self, settings: Settings, ledger: Queries) -> None:
        self.settings = settings
        self.wall = time.time()
        self.ledger = ledger
        self._board = HealthBoard(lambda: settings, SystemClock(), uptime=ledger.uptime)
        self._book = PriceBook(settings.data_dir / "cache")

    async def cards(self, names: Sequence[str] | None = None) -> list[ProviderHealth]:
        """Every provider, or those named, asked now."""
        await self._board.refresh(names, fresh=True)
        return [card for card in self._board.cards() if names is None or card.name in names]

    async def picture(self, cards: Sequence[ProviderHealth] = ()) -> Picture:
        budgets, quotas = await read_states(self.settings, self.ledger, self.wall)
        return Picture(
            wall=self.wall,
            settings=self.settings,
            cards=cards,
            budgets=budgets,
            quotas=quotas,
            alerts=await self.ledger.alerts(MAX_OPEN_ALERTS, open_only=True),
        )

    async def prices(self) -> PriceOf:
        """Of every target, by the price data if there is a folder to keep it in; a warning if it cannot be had."""
        if self.settings.data_dir.is_dir():
            await self._book.warm()
        if self._book.problem is not None:
            typer.echo(f"warning: {self._book.problem}", err=True)
        return lambda target: self._book.rates(target, self.wall)

    async def aclose(self) -> None:
        await self._board.aclose()


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Source]:
    """Raises LedgerUnavailable, whose message is fit to be shown."""
    async with ledger_in(settings.data_dir) as ledger:
        source = Source(settings, ledger)
        try:
            yield source
        finally:
            await source.aclose()
