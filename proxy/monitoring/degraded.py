"""What does not work while requests go on: `/readyz` says it in words, answers in a header.

    ledger   the database cannot be read, or is far behind the journal, or the journal has lost records
    cache    the file of kept answers cannot be used: everything is asked for anew
    prices   there is no price data: costs are unknown where the file gives no price
    health   the checks of providers have stopped: only traffic tells how they are

None of these is in a request's way; each heals by itself or with the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

LOOK_EVERY_S = 2.0
LAG_S = 30.0  # behind the journal by more than this, reports are out of date

Part = Literal["ledger", "cache", "prices", "health"]
FACTS: Mapping[Part, str] = {
    "ledger": "the ledger's database cannot be read or is behind; requests go on and are written to its journal",
    "cache": "the file of kept answers cannot be used; they are asked for anew",
    "prices": "there is no price data",
    "health": "the checks of providers have stopped; only traffic tells how they are",
}
Fault = Callable[[], str | None]  # in detail, None while all is well


@dataclass(frozen=True, slots=True)
class Faults:
    """Where each part says what is wrong with it. `lag_s`: of the ledger's tables; None when they cannot be read."""

    lag_s: Callable[[], Awaitable[float | None]]
    journal: Fault
    cache: Fault
    prices: Fault
    health: Fault


class Degraded:
    """`parts`: what does not work, and why in detail. `tell` gets the names whenever they change, as they stand in the header."""

    def __init__(
        self, faults: Faults, tell: Callable[[bytes], None], *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._faults = faults
        self._tell = tell
        self._sleep = sleep
        self.database: str | None = None  # what is wrong with the ledger's, as of the last look
        self._told = b""

    @property
    def parts(self) -> dict[Part, str]:
        faults = self._faults
        found: dict[Part, str | None] = {
            "ledger": self.database or faults.journal(),
            "cache": faults.cache(),
            "prices": faults.prices(),
            "health": faults.health(),
        }
        return {part: detail for part, detail in found.items() if detail is not None}

    async def look(self) -> None:
        self.database = await self._database_fault()
        names = ", ".join(self.parts).encode()
        if names != self._told:
            self._told = names
            self._tell(names)

    async def _database_fault(self) -> str | None:
        try:
            lag_s = await self._faults.lag_s()
        except OSError as fault:
            return f"the ledger's folder cannot be read ({fault.strerror or fault})"
        if lag_s is None:
            return "the database cannot be read"
        return f"the database is {lag_s:.0f} s behind the journal" if lag_s > LAG_S else None

    async def run(self) -> None:
        """For as long as the proxy runs. Ends by being cancelled."""
        while True:
            await self.look()
            await self._sleep(LOOK_EVERY_S)
