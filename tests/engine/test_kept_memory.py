"""Answers in memory: bounded by number and bytes, the last used stay, and the sums are right whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.kept import Held, Kept, Room
from proxy.engine.kept_memory import KeptMemory

SIZES = (0, 10, 100)
CHAINS = ("smart", "plain")
ROOMS = (Room("", 50, 3, 2_000), Room("own", 20, 2, 1_200))


def kept(chain: str, size: int, kept_ms: int) -> Kept:
    return Kept("R1", chain, "a", "m", kept_ms, None, 0, 0, (), b"x" * size)


class Model:
    """The same, as plainly as can be: a list for each pool, oldest use first."""

    def __init__(self) -> None:
        self.pools: dict[str, list[tuple[bytes, Kept]]] = {room.pool: [] for room in ROOMS}
        self.cleared: dict[str | None, int] = {}

    def get(self, room: Room, key: bytes, now: int) -> Kept | None:
        pool = self.pools[room.pool]
        found = next((item for item in pool if item[0] == key), None)
        if found is None:
            return None
        pool.remove(found)
        if not 0 <= now - found[1].kept_ms < room.ttl_ms:
            return None
        pool.append(found)
        return found[1]

    def put(self, room: Room, key: bytes, item: Kept, began: int) -> None:
        if began <= max(self.cleared.get(item.chain, 0), self.cleared.get(None, 0)) or item.size > room.max_bytes:
            return
        pool = [held for held in self.pools[room.pool] if held[0] != key] + [(key, item)]
        while len(pool) > room.max_entries or sum(held.size for _, held in pool) > room.max_bytes:
            pool.pop(0)
        self.pools[room.pool] = pool

    def clear(self, chain: str | None, now: int) -> None:
        self.cleared[chain] = now
        self.pools = {name: [i for i in pool if chain not in (None, i[1].chain)] for name, pool in self.pools.items()}

    def sweep(self, now: int) -> None:
        for room in ROOMS:
            self.pools[room.pool] = [i for i in self.pools[room.pool] if 0 <= now - i[1].kept_ms < room.ttl_ms]

    def held(self) -> dict[str, Held]:
        found: dict[str, Held] = {}
        for pool in self.pools.values():
            for _, item in pool:
                before = found.get(item.chain, Held(0, 0))
                found[item.chain] = Held(before.entries + 1, before.size + item.size)
        return found


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["get", "put", "put", "clear", "sweep"]),
        st.sampled_from(ROOMS),
        st.sampled_from([b"a", b"b", b"c", b"d"]),
        st.sampled_from(CHAINS),
        st.sampled_from(SIZES),
        st.integers(0, 15),
    ),
    max_size=30,
)


@pytest.mark.property
@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_it_does_what_a_plain_list_would_do(steps: list[tuple[str, Room, bytes, str, int, int]]) -> None:
    memory, model, now = KeptMemory(), Model(), 1_000
    for what, room, key, chain, size, passed in steps:
        now += passed
        if what == "get":
            assert memory.get(room, key, now) == model.get(room, key, now)
        elif what == "put":
            memory.put(room, key, kept(chain, size, now), now)
            model.put(room, key, kept(chain, size, now), now)
        elif what == "clear":
            which = None if size == 0 else chain
            before = sum(part.entries for name, part in model.held().items() if which in (None, name))
            assert memory.clear(which, now) == before
            model.clear(which, now)
        else:
            memory.sweep(now)
            model.sweep(now)
        assert memory.held() == model.held()


@pytest.mark.unit
def test_an_answer_from_before_the_clock_was_set_back_is_not_given() -> None:
    memory = KeptMemory()
    memory.put(ROOMS[0], b"a", kept("smart", 1, 1_000), 1_000)
    assert memory.get(ROOMS[0], b"a", 999) is None
    assert memory.held() == {}


@pytest.mark.unit
def test_one_that_is_larger_than_all_there_is_drives_nothing_out() -> None:
    memory = KeptMemory()
    memory.put(ROOMS[0], b"a", kept("smart", 1, 1_000), 1_000)
    memory.put(ROOMS[0], b"b", kept("smart", 5_000, 1_000), 1_000)
    assert memory.get(ROOMS[0], b"a", 1_001) is not None
    assert memory.is_there()
    memory.close()
    assert (memory.is_there(), memory.get(ROOMS[0], b"a", 1_001)) == (False, None)
