"""`tollbridge budgets` and `tollbridge quotas`: what may still be spent and used, and until when it lasts."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from typing import Any

import typer

from proxy.accounting.journal import Journal, JournalError
from proxy.accounting.records import QuotaReset
from proxy.accounting.states import quotas_of
from proxy.commands.running import NotRunning, Running
from proxy.commands.shell import Place, console, print_json
from proxy.commands.source import SystemClock, opened
from proxy.config.settings import Settings
from proxy.core.target import Chain
from proxy.core.ulid import UlidFactory
from proxy.monitoring import reports
from proxy.storage.drainer import Drainer, DrainerBusy
from proxy.storage.sqlite import LedgerTooNew
from proxy.terminal.reports import budgets as budgets_sheet
from proxy.terminal.reports import chains as chains_sheet
from proxy.terminal.reports import quotas as quotas_sheet
from proxy.terminal.sheet import table

NO_KEY = "no key"  # how the reason begins for which a provider is disabled that lacks nothing but its key
HOW_A_BUDGET = "none is set (a provider's, for one: providers.NAME.budget: {usd: 50, per: month})"
HOW_A_QUOTA = "none is set (for one: providers.NAME.quotas: [{tokens: 500000, per: month}])"


def budgets(place: Place) -> None:
    settings = place.settings()

    async def ask() -> dict[str, Any]:
        async with opened(settings) as source:
            return await reports.budgets(await source.picture(), source.ledger)

    report = place.run(ask())
    if place.as_json:
        print_json(report["data"])
        return
    terminal = console()
    if report["data"]:
        terminal.print(table(budgets_sheet(report), terminal.width))
    else:
        terminal.print(HOW_A_BUDGET, markup=False)


def quotas(place: Place, *, tokens_per_day: float | None, tokens_per_request: float | None) -> None:
    read = place.settings()
    settings = read if tokens_per_day is None else _as_if_keyed(read)
    report = place.run(_quotas(settings, tokens_per_day, tokens_per_request))
    if place.as_json:
        print_json(report["data"], chains=report["chains"])
        return
    terminal = console()
    idle = [provider for provider in read.providers.values() if provider.quotas and not provider.enabled]
    for provider in idle:
        what = "is reckoned with as if it could be" if settings.providers[provider.name].enabled else "has quotas, but cannot be"
        terminal.print(f"{provider.name} {what} used: {provider.disabled}", style="dim", markup=False)
    if not report["data"]:
        if not idle:
            terminal.print(HOW_A_QUOTA, markup=False)
        return
    terminal.print(table(quotas_sheet(report), terminal.width))
    terminal.print(table(chains_sheet(report), terminal.width))
    if tokens_per_day is None:
        terminal.print("at the pace of the last weeks; another: --tokens-per-day N", style="dim")


def _as_if_keyed(settings: Settings) -> Settings:
    """Whoever plans with a rate of their own may plan with providers that lack nothing but their key."""
    lacking = {
        name: replace(provider, disabled=None)
        for name, provider in settings.providers.items()
        if provider.quotas and provider.disabled is not None and provider.disabled.startswith(NO_KEY)
    }

    def keyed(chain: Chain) -> Chain:
        targets = [replace(target, provider=lacking.get(target.provider.name, target.provider)) for target in chain.targets]
        return replace(chain, targets=tuple(targets))

    chains = {name: keyed(chain) for name, chain in settings.chains.items()}
    return replace(settings, providers={**settings.providers, **lacking}, chains=chains)


async def _quotas(settings: Settings, tokens_per_day: float | None, tokens_per_request: float | None) -> dict[str, Any]:
    async with opened(settings) as source:
        return await reports.quotas(
            await source.picture(), source.ledger, tokens_per_day=tokens_per_day, tokens_per_request=tokens_per_request
        )


def reset(place: Place, provider: str, key: str | None) -> None:
    """The provider gave a new allowance before its time: what was used is forgotten. By the running proxy, else in the journal."""
    settings = place.settings()
    known = settings.providers.get(provider)
    if known is None or not known.quotas:
        named = [name for name, each in settings.providers.items() if each.quotas]
        place.fail(f"{provider!r} has no quota in the configuration" + (f": {', '.join(named)} have" if named else ""))
    keys = [of for of, _ in quotas_of(known) if of is not None]
    if key is not None and key not in keys:
        told = f"those that have are {', '.join(keys)}" if keys else "all of its keys share them: leave --key out"
        place.fail(f"no key of {provider} with the fingerprint {key!r} has quotas of its own; {told}")
    asked = {"provider": provider, **({"key": key} if key is not None else {})}
    try:
        answered = (
            None if place.data_dir is not None else Running(settings).ask("/api/v1/quotas/reset", method="POST", body=asked)
        )
    except NotRunning:
        answered = None
    if answered is not None:
        if answered.status != 200:
            place.fail(answered.problem)
        data, how = answered.body["data"], "by the running proxy"
    else:
        how = _write_down(place, settings, QuotaReset(round(time.time() * 1000), provider, key))
        data = [row for row in place.run(_quotas(settings, None, None))["data"] if row["provider"] == provider]
    if place.as_json:
        print_json(data)
        return
    of = f"{provider}, key {key}" if key is not None else provider
    typer.echo(f"The quotas of {of} begin anew, {how}.")
    terminal = console()
    terminal.print(table(quotas_sheet({"data": data}), terminal.width))


def _write_down(place: Place, settings: Settings, record: QuotaReset) -> str:
    """Into the journal, in a segment of its own; and into the ledger at once, unless somebody drains the journal already."""
    clock = SystemClock()
    try:
        journal = Journal(settings.data_dir / "journal", boot_id=UlidFactory(clock.wall)(), clock=clock)
        journal.append(record)
        journal.close()
    except JournalError as error:
        place.fail(str(error))
    try:
        drainer = Drainer(settings.data_dir, clock.wall)
    except DrainerBusy:
        return "as soon as the ledger has taken it in"
    except (sqlite3.Error, LedgerTooNew) as error:
        place.fail(f"it is in the journal, but the ledger in {settings.data_dir} cannot be written: {error}")
    drainer.drain()
    drainer.close()
    return "in the ledger"
