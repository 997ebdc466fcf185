"""Answers kept in this process's memory, those that were asked for last behind the others. Implements `KeptStore`; never fails."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from proxy.core.kept import Held, Kept, Room


class _Pool:
    """`size` is the sum of the answers' sizes."""

    __slots__ = ("kept", "size", "ttl_ms")

    def __init__(self) -> None:
        self.kept: OrderedDict[bytes, Kept] = OrderedDict()
        self.size = 0
        self.ttl_ms = 0


class KeptMemory:
    def __init__(self) -> None:
        self._pools: dict[str, _Pool] = {}
        self._held: dict[str, Held] = {}
        self._cleared: dict[str | None, int] = {}

    def get(self, room: Room, key: bytes, now_ms: int) -> Kept | None:
        pool = self._pools.get(room.pool)
        kept = pool.kept.get(key) if pool is not None else None
        if pool is None or kept is None:
            return None
        pool.ttl_ms = room.ttl_ms
        if not is_fresh(kept, room.ttl_ms, now_ms):
            self._drop(pool, key)
            return None
        pool.kept.move_to_end(key)
        return kept

    def put(self, room: Room, key: bytes, kept: Kept, began_ms: int) -> None:
        if began_ms <= self.cleared_ms(kept.chain) or kept.size > room.max_bytes or room.max_entries < 1:
            return
        pool = self._pools.get(room.pool)
        if pool is None:
            pool = self._pools[room.pool] = _Pool()
        pool.ttl_ms = room.ttl_ms
        self._drop(pool, key)
        pool.kept[key] = kept
        self._count(pool, kept, 1)
        while len(pool.kept) > room.max_entries or pool.size > room.max_bytes:
            self._drop(pool, next(iter(pool.kept)))

    def clear(self, chain: str | None, now_ms: int) -> int:
        """What began until `now_ms` is forgotten, and is not kept any more when it ends."""
        self._cleared[chain] = max(now_ms, self._cleared.get(chain, 0))
        return self._drop_all(lambda kept, _: (chain is None or kept.chain == chain) and kept.kept_ms <= now_ms)

    def cleared_ms(self, chain: str) -> int:
        """When it was last cleared; 0 for never."""
        return max(self._cleared.get(chain, 0), self._cleared.get(None, 0))

    def sweep(self, now_ms: int) -> None:
        """Drop what is too old: nobody may ask for it again."""
        self._drop_all(lambda kept, pool: not is_fresh(kept, pool.ttl_ms, now_ms))
        self._pools = {name: pool for name, pool in self._pools.items() if pool.kept}

    def held(self) -> dict[str, Held]:
        return dict(self._held)

    def is_there(self) -> bool:
        return bool(self._held)

    def close(self) -> None:
        self._pools.clear()
        self._held.clear()

    def _drop_all(self, is_gone: Callable[[Kept, _Pool], bool]) -> int:
        dropped = 0
        for pool in self._pools.values():
            for key in [key for key, kept in pool.kept.items() if is_gone(kept, pool)]:
                self._drop(pool, key)
                dropped += 1
        return dropped

    def _drop(self, pool: _Pool, key: bytes) -> None:
        gone = pool.kept.pop(key, None)
        if gone is not None:
            self._count(pool, gone, -1)

    def _count(self, pool: _Pool, kept: Kept, entries: int) -> None:
        size = kept.size * entries
        pool.size += size
        before = self._held.get(kept.chain, _NOTHING)
        after = Held(before.entries + entries, before.size + size)
        if after.entries:
            self._held[kept.chain] = after
        else:
            del self._held[kept.chain]


_NOTHING = Held(0, 0)


def is_fresh(kept: Kept, ttl_ms: int, now_ms: int) -> bool:
    """One that is from the future was kept before the clock was set back: how old it is nobody knows."""
    return 0 <= now_ms - kept.kept_ms < ttl_ms
