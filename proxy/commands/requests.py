"""`tollbridge requests`: the ledger's rows, newest first, or one of them in full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.commands.ledger import ledger_in
from proxy.commands.shell import Place, console, print_json
from proxy.terminal import tables


def show(place: Place, request_id: str) -> None:
    row = one(place, request_id)
    if place.as_json:
        print_json(row)
    else:
        terminal = console()
        terminal.print(*tables.request(row, terminal.width), sep="\n")


def one(place: Place, request_id: str) -> dict[str, Any]:
    """The request with its attempts and its trace. Ends the command where there is none."""
    folder = place.folder()

    async def ask() -> dict[str, Any] | None:
        async with ledger_in(folder) as ledger:
            return await ledger.get_request(request_id)

    row = place.run(ask())
    if row is None:
        place.fail(f"there is no request {request_id!r} in {folder}")
    return row


def listed(place: Place, limit: int, before: str | None, filters: Mapping[str, str]) -> None:
    folder = place.folder()

    async def ask() -> tuple[list[dict[str, Any]], str | None]:
        async with ledger_in(folder) as ledger:
            return await ledger.list_requests(limit, before, **filters)

    rows, following = place.run(ask())
    if place.as_json:
        print_json(rows, next=following)
        return
    terminal = console()
    terminal.print(tables.requests(rows, terminal.width) if rows else f"no such request in {folder}")
    if following:
        terminal.print(f"older ones: --before {following}", style="dim")
