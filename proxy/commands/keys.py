"""`tollbridge keys`: the runtime keys, in their file. A server that runs notices within a second; none need run.

A key's secret is printed once, by the command that makes it: nobody can read it again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import typer

from proxy.commands.ledger import ledger_in
from proxy.commands.shell import Place, console, print_json
from proxy.config import key_rules
from proxy.config.key_store import KeysBroken, KeyStore
from proxy.config.keyring import Keyring, RuntimeKey
from proxy.config.settings import Settings
from proxy.core.api_key import new_key
from proxy.core.errors import LedgerUnavailable, ProxyError
from proxy.core.ulid import UlidFactory
from proxy.terminal.reports import keys as keys_sheet
from proxy.terminal.sheet import table

HOW_A_KEY = "there are none (for one: tollbridge keys create NAME)"
T = TypeVar("T")


def create(place: Place, asked: Mapping[str, Any]) -> None:
    """`asked`: as the body of `POST /api/v1/keys`."""
    settings = place.settings()
    secret, now_ms = new_key(os.urandom), _now_ms()

    def step(keyring: Keyring) -> tuple[Keyring, RuntimeKey]:
        wanted = key_rules.wanted_of(asked, settings, now_ms)
        return key_rules.added(keyring, wanted, settings, key=secret, new_id=UlidFactory(time.time), now_ms=now_ms)

    _tell_secret(place, settings, _change(place, settings, step), secret, "made")


def rotate(place: Place, reference: str, grace: str) -> None:
    settings = place.settings()
    secret, now_ms = new_key(os.urandom), _now_ms()

    def step(keyring: Keyring) -> tuple[Keyring, RuntimeKey]:
        grace_ms = key_rules.grace_ms(grace)
        return key_rules.rotated(keyring, reference, settings, key=secret, grace=grace_ms, now_ms=now_ms)

    _tell_secret(place, settings, _change(place, settings, step), secret, "rotated")


def revoke(place: Place, reference: str) -> None:
    settings = place.settings()
    now_ms = _now_ms()
    key = _change(place, settings, lambda keyring: key_rules.revoked(keyring, reference, now_ms=now_ms))
    if place.as_json:
        print_json(key_rules.shown(key, settings, now_ms=now_ms))
        return
    typer.echo(f"The key {key.name} ({key.id}) is revoked.")


def listed(place: Place) -> None:
    settings = place.settings()
    if settings.keys_problem is not None:
        place.fail(settings.keys_problem)
    used = place.run(_last_used(settings))
    now_ms = _now_ms()
    rows = [key_rules.shown(key, settings, now_ms=now_ms, last_used_ms=used.get(key.name)) for key in settings.keyring.keys]
    if place.as_json:
        print_json(rows)
        return
    terminal = console()
    if rows:
        terminal.print(table(keys_sheet(rows), terminal.width))
    else:
        terminal.print(HOW_A_KEY, markup=False)
    for warning in key_rules.warnings_of(settings):
        typer.echo(f"warning: {warning}", err=True)


async def _last_used(settings: Settings) -> Mapping[str, int]:
    """By name; nobody knows while the ledger cannot be read."""
    try:
        async with ledger_in(settings.data_dir) as ledger:
            return await ledger.last_used()
    except LedgerUnavailable:
        return {}


def _change(place: Place, settings: Settings, step: Callable[[Keyring], tuple[Keyring, T]]) -> T:
    try:
        return KeyStore(settings.data_dir).change(step)[1]
    except KeysBroken as error:
        place.fail(str(error))
    except ProxyError as error:
        place.fail(error.message)


def _tell_secret(place: Place, settings: Settings, key: RuntimeKey, secret: str, how: str) -> None:
    now_ms = _now_ms()
    if place.as_json:
        print_json({**key_rules.shown(key, settings, now_ms=now_ms), "key": secret})
        return
    typer.echo(f"The key {key.name} ({key.id}) is {how}. This is shown once, and kept nowhere:", err=True)
    typer.echo(secret)
    ending = [old.until_ms for old in key.secrets[1:] if not old.is_over(now_ms)]
    if ending:
        until = key_rules.shown(key, settings, now_ms=now_ms)["old_until"]
        typer.echo(f"What was there before opens it until {until}.", err=True)


def _now_ms() -> int:
    return round(time.time() * 1000)
