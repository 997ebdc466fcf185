"""The ledger for one report: read-only, and closed whatever happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.core.errors import LedgerUnavailable
from proxy.storage.queries import Queries


@asynccontextmanager
async def ledger_in(folder: Path) -> AsyncIterator[Queries]:
    """One that is not there yet is empty. Raises LedgerUnavailable, whose message is fit to be shown."""
    ledger = Queries(folder)
    try:
        yield ledger
    except LedgerUnavailable as error:
        raise LedgerUnavailable(f"{folder}: {error.message}") from error
    finally:
        await ledger.aclose()
