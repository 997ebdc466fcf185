"""Answers that are kept in this process and in the file that all workers share, and what is counted of them. One per process.

The file is read and written in a thread of its own. What goes wrong with it is a miss: counted, told by `problem`, and for RETRY_S nobody
waits for it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from proxy.config.settings import Settings
from proxy.core.kept import Held, Kept, KeptStore, Room, StoreFault
from proxy.core.shared import ALONE, PeriodCell, Shared
from proxy.core.target import CacheSettings, Chain, Target
from proxy.engine.cache_key import identity
from proxy.engine.flights import Flights
from proxy.engine.kept_memory import KeptMemory

LOOKUP_S = 1.0  # for an answer from the file
RETRY_S = 5.0
MAX_PENDING = 256  # calls that wait for the thread
MAX_PENDING_BYTES = 32 << 20  # of answers that wait to be written
MAX_RECORDED_BYTES = 64 << 20  # of answers on their way that may be kept when they are whole, all together
MAX_IDENTITIES = 4096
MAX_CELLS = 1_000  # chains that may be cleared in all workers each for itself

HIT, JOINED, MISS, REFRESH = "hit", "joined", "miss", "refresh"

_T = TypeVar("_T")


class Cache:
    """`file` None: what belongs into the file is kept in memory. `on_fault` is told what is wrong, once until it is well again."""

    def __init__(
        self, file: KeptStore | None = None, *, shared: Shared = ALONE, on_fault: Callable[[str], None] = lambda _: None
    ) -> None:
        self.memory = KeptMemory()
        self.flights = Flights()
        self.counts: dict[tuple[str, str], int] = {}  # (chain, result)
        self.saved_nusd: dict[str, int] = {}
        self.faults = 0
        self.problem: str | None = None
        self.recorded_bytes = 0
        self._file = file
        self._thread: ThreadPoolExecutor | None = None
        self._on_fault = on_fault
        self._retry_at = 0.0
        self._pending: set[asyncio.Future[Any]] = set()  # calls that the thread has not come to, or not ended
        self._pending_bytes = 0
        self._shared = shared
        self._cells: dict[str, PeriodCell] = {}
        # chain and target are kept beside what they come to: an id is only a name while the object lives
        self._identities: dict[tuple[int, int], tuple[Chain, Target, str]] = {}

    def identity(self, chain: Chain, target: Target) -> str:
        key = (id(chain), id(target))
        found = self._identities.get(key)
        if found is None:
            if len(self._identities) >= MAX_IDENTITIES:
                self._identities.clear()
            found = self._identities[key] = (chain, target, identity(chain, target))
        return found[2]

    def count(self, chain: str, result: str, saved_nusd: int | None = None) -> None:
        self.counts[chain, result] = self.counts.get((chain, result), 0) + 1
        if saved_nusd:
            self.saved_nusd[chain] = self.saved_nusd.get(chain, 0) + saved_nusd

    # -- what is kept

    async def get(self, settings: CacheSettings, room: Room, key: bytes, now_ms: int) -> Kept | None:
        if (file := self._file_of(settings)) is None:
            return self.memory.get(room, key, now_ms)
        return await self._asked(lambda: file.get(room, key, now_ms), None)

    def put(self, settings: CacheSettings, room: Room, key: bytes, kept: Kept, began_ms: int) -> None:
        """At once, or as soon as the thread comes to it."""
        if (file := self._file_of(settings)) is None:
            for chain in ("", kept.chain):  # it may have been cleared elsewhere, a moment ago
                self._hear(chain, self._cell(chain))
            self.memory.put(room, key, kept, began_ms)
        elif self._pending_bytes + kept.size <= MAX_PENDING_BYTES and (
            future := self._submit(lambda: file.put(room, key, kept, began_ms))
        ):
            self._pending_bytes += kept.size
            future.add_done_callback(lambda _: self._written(kept.size))
            future.add_done_callback(self._outcome)

    async def clear(self, chain: str | None, now_ms: int) -> int:
        """Here, in the file and, within a moment, in every other worker. How many answers those were that this process knows of."""
        self._cell(chain or "").publish(now_ms, 0, 0)
        gone = self.memory.clear(chain, now_ms)
        if (file := self._file) is not None and file.is_there():
            gone += await self._asked(lambda: file.clear(chain, now_ms), 0)
        return gone

    def listen(self) -> None:
        """Clear what another worker was told to clear."""
        for chain, cell in self._cells.items():
            self._hear(chain, cell)

    def _hear(self, chain: str, cell: PeriodCell) -> None:
        cleared_ms = cell.latest_ms()
        if cleared_ms is not None and cleared_ms > self.memory.cleared_ms(chain):
            self.memory.clear(chain or None, cleared_ms)

    def reloaded(self) -> None:
        """Chains and targets are others now: nothing holds on to the old ones."""
        self._identities.clear()

    def sweep(self, now_ms: int, *, file: bool) -> None:
        """Call it now and then; of several workers one has the file swept."""
        self.memory.sweep(now_ms)
        kept = self._file if file else None
        if kept is not None and kept.is_there() and (future := self._submit(lambda: kept.sweep(now_ms))):
            future.add_done_callback(self._outcome)

    async def held_in_file(self) -> dict[str, Held]:
        """By chain; nothing where the file cannot be read."""
        if (file := self._file) is None or not file.is_there():
            return {}
        return await self._asked(file.held, {})

    async def aclose(self) -> None:
        """What waits to be written is written; nobody waits long for a thread that hangs."""
        for cell in self._cells.values():
            cell.close()
        if self._thread is not None and self._file is not None:
            if self._pending:
                await asyncio.wait(self._pending, timeout=LOOKUP_S)
            self._thread.submit(self._file.close)
            self._thread.shutdown(wait=False)

    def _cell(self, chain: str) -> PeriodCell:
        cell = self._cells.get(chain)
        if cell is None:
            if chain and len(self._cells) > MAX_CELLS:
                return self._cell("")
            cell = self._cells[chain] = self._shared.period("cache", "cleared", chain)
        return cell

    # -- the thread

    def _file_of(self, settings: CacheSettings) -> KeptStore | None:
        return self._file if settings.store == "sqlite" else None

    def _submit(self, work: Callable[[], _T]) -> asyncio.Future[_T] | None:
        """None while it is no use to ask."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._retry_at or len(self._pending) >= MAX_PENDING:
            return None
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="cache")
        future = loop.run_in_executor(self._thread, work)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    async def _asked(self, work: Callable[[], _T], otherwise: _T) -> _T:
        future = self._submit(work)
        if future is None:
            return otherwise
        await asyncio.wait([future], timeout=LOOKUP_S)
        if not future.done():
            self._failed(f"no answer within {LOOKUP_S:g} s")
            future.add_done_callback(_looked_at)
            return otherwise
        return future.result() if self._outcome(future) else otherwise

    def _written(self, size: int) -> None:
        self._pending_bytes -= size

    def _outcome(self, future: asyncio.Future[_T]) -> bool:
        """Whether it went well; what did not is counted."""
        if future.cancelled():
            return False
        fault = future.exception()
        if fault is None:
            self.problem = None
            return True
        # what is no StoreFault is a fault of our own, which must not cost an answer either
        self._failed(str(fault) if isinstance(fault, StoreFault) else repr(fault)[:200])
        return False

    def _failed(self, why: str) -> None:
        self.faults += 1
        self._retry_at = asyncio.get_running_loop().time() + RETRY_S
        if self.problem is None:
            self._on_fault(why)
        self.problem = why


def _looked_at(future: asyncio.Future[_T]) -> None:
    if not future.cancelled():
        future.exception()


def room_of(chain: Chain, settings: Settings) -> tuple[CacheSettings, Room]:
    """What a chain's answers are kept by, and where: one that says nothing of its own shares its room with the others."""
    cache = chain.cache or settings.cache
    pool = "" if cache == settings.cache else chain.name
    return cache, Room(pool, round(cache.ttl_s * 1000), cache.max_entries, cache.max_bytes)
