"""The table in memory that the workers of one host share: `core/shared.py` says what for.

    region of seat 0 | region of seat 1 | …          64-bit words, little of it touched

    region   counters | log of rows that changed hands | 4,096 rows for cells and a spare one | 4,096 slots for facts
    row      key (16 bytes) | start or last | used | held or first | -            64 bytes
    slot     name (16 bytes) | until | reason | check | -                         64 bytes

A region is written by the worker in that seat alone and read by the others, so there is no lock anywhere. A word is stored at once; what
takes several is stored in an order in which whoever reads in between counts too much and never too little:

    a period   used before held: a cost is there before its hold goes         a new period: no start, then the rest, then the start
    a minute   last before used
    a row      its key is written last, then the log, then the count of changes, which is what readers look at
    a fact     its check is over all of it: half a fact is none, and the count that follows has it read again

Nothing that is found here is believed: numbers that cannot be are 0, rows that are not there are passed over, facts end after 15 minutes
at the latest. A worker that dies leaves what it used, and what it held goes when its seat is taken again. What finds no place is counted by
its own worker alone (`refused`).

The supervisor makes it before its first fork, so it needs no file and no name, and ends with the last process that has it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from struct import pack, unpack
from typing import Final, TypeVar

from proxy.core.shared import LONE_CELL, LONE_PERIOD, LONE_WINDOW, Cell, Fact, Facts, PeriodCell, Share, WindowCell
from proxy.workers.seat import Seat

ROWS: Final = 4_096
SLOTS: Final = 4_096
LONGEST_FACT_S: Final = 900.0
MAX_HEARD: Final = 16_384
IMPLAUSIBLE: Final = 1 << 60

_SALT: Final = 0x31_454C_4241_5454  # all zeros are no fact
_WORD: Final = 8
_WIDTH: Final = 8  # words of a row, and of a slot

# words of a region
_CHANGES, _TOLD, _SLOTS_USED = range(3)
_LOG: Final = 64
_CELLS: Final = _LOG + ROWS
_SPARE: Final = _CELLS + ROWS * _WIDTH  # a row that nobody reads, for what was closed
_FACTS: Final = _SPARE + _WIDTH
_REGION: Final = _FACTS + SLOTS * _WIDTH

# words of a row, and of a slot
_KEY, _KEY_TOO, _TAG, _USED, _HELD = range(5)
_UNTIL, _REASON, _CHECK = _TAG, _USED, _HELD
_NO_START: Final = -1
_US: Final = 1_000_000
_LONGEST_MINUTE_US: Final = 61 * _US  # the last slot of a window may be begun

Key = tuple[int, int]
_FREE: Key = (0, 0)
_R = TypeVar("_R", bound="_Row")


def make(workers: int) -> mmap.mmap:
    """An empty table, for processes that are forked from this one."""
    return mmap.mmap(-1, workers * _REGION * _WORD)


class _Reader:
    """Where another worker keeps which row."""

    __slots__ = ("_base", "_keys", "_words", "rows", "seen")

    def __init__(self, words: memoryview[int], base: int) -> None:
        self._words = words
        self._base = base
        self._keys: dict[int, Key] = {}
        self.rows: dict[Key, int] = {}  # key -> where its row begins
        self.seen = 0  # of its changes

    def look(self) -> None:
        """Take in what has changed since the last look; all of it, when that was too much for the log."""
        words, log = self._words, self._base + _LOG
        changes = words[self._base + _CHANGES]
        rows: Iterable[int] = range(ROWS)
        if 0 < changes - self.seen <= ROWS:
            rows = [words[log + change % ROWS] for change in range(self.seen, changes)]
        self.seen = changes
        for row in rows:
            if 0 <= row < ROWS:
                self._place(row)

    def _place(self, row: int) -> None:
        at = self._base + _CELLS + row * _WIDTH
        key = self._words[at + _KEY], self._words[at + _KEY_TOO]
        before = self._keys.get(row, _FREE)
        if key == before:
            return
        if self.rows.get(before) == at:
            del self.rows[before]
        if key == _FREE:
            del self._keys[row]
        else:
            self._keys[row] = key
            self.rows[key] = at


class Table:
    """The table as one worker has it. Implements `Shared`.

    `refused`: how many cells and facts found no place since the start.
    """

    __slots__ = ("_base", "_facts", "_free", "_left", "_mine", "_readers", "_words", "refused")

    def __init__(self, memory: mmap.mmap, seat: Seat) -> None:
        """Take the seat. What is in flight of the worker that had it before is over."""
        # a word is stored by one instruction through such a view, and byte by byte through `struct`
        words = self._words = memoryview(memory).cast("q")
        self._base = base = _region(seat.index)
        self.refused = 0
        self._readers = [_Reader(words, _region(index)) for index in range(seat.of) if index != seat.index]
        self._mine: dict[Key, _Row] = {}
        self._left: dict[Key, int] = {}  # rows of the worker that had this seat before, which nobody has asked for yet
        self._free = list(reversed(range(ROWS)))
        if words[base + _CHANGES]:
            self._inherit()
        self._facts = _Facts(self, words, base, [_region(index) for index in range(seat.of) if index != seat.index])

    def _inherit(self) -> None:
        words, base = self._words, self._base
        self._free.clear()
        for row in reversed(range(ROWS)):
            at = base + _CELLS + row * _WIDTH
            key = words[at + _KEY], words[at + _KEY_TOO]
            if key == _FREE or key in self._left:
                words[at + _KEY] = words[at + _KEY_TOO] = 0
                self._free.append(row)
            else:
                words[at + _HELD] = 0  # its requests have ended with it
                self._left[key] = row
        # more than the log holds: whoever reads looks at every row again
        words[base + _CHANGES] = _plausible(words[base + _CHANGES]) + ROWS + 1

    @property
    def rows(self) -> int:
        """How many cells this worker has in the table."""
        return len(self._mine)

    @property
    def facts(self) -> Facts | None:
        return self._facts

    # -- Shared

    def cell(self, *key: str) -> Cell:
        return self._open(_Cell, "cell", *key) or LONE_CELL

    def period(self, *key: str) -> PeriodCell:
        return self._open(_PeriodCell, "period", *key) or LONE_PERIOD

    def window(self, *key: str) -> WindowCell:
        return self._open(_WindowCell, "window", *key) or LONE_WINDOW

    # -- rows

    def places(self, key: Key) -> list[int]:
        """Where the others' rows of a key begin."""
        words, found = self._words, []
        for reader in self._readers:
            if words[reader._base + _CHANGES] != reader.seen:
                reader.look()
            at = reader.rows.get(key)
            if at is not None:
                found.append(at)
        return found

    def _open(self, kind: type[_R], *name: str) -> _R | None:
        """None when there is no place left. A key that is open already is taken from whoever had it: it has one writer."""
        key = _key(digest(*name))
        if (before := self._mine.pop(key, None)) is not None:
            row = before.detach(self._base + _SPARE)
        elif key in self._left:
            row = self._left.pop(key)
        elif self._free:
            row = self._free.pop()
            self._write_key(row, key)
        elif self._left:
            stale = next(iter(self._left))
            row = self._left.pop(stale)
            self._write_key(row, key)
        else:
            self.refused += 1
            return None
        opened = kind(self, self._words, key, row, self._base + _CELLS + row * _WIDTH)
        self._mine[key] = opened
        return opened

    def close(self, closing: _Row) -> None:
        if self._mine.get(closing.key) is closing:
            del self._mine[closing.key]
            row = closing.detach(self._base + _SPARE)
            self._write_key(row, _FREE)
            self._free.append(row)

    def _write_key(self, row: int, key: Key) -> None:
        words, at = self._words, self._base + _CELLS + row * _WIDTH
        words[at + _KEY] = words[at + _KEY_TOO] = 0
        words[at + _TAG] = _NO_START
        words[at + _USED] = words[at + _HELD] = 0
        words[at + _KEY], words[at + _KEY_TOO] = key
        changes = words[self._base + _CHANGES]
        words[self._base + _LOG + changes % ROWS] = row
        words[self._base + _CHANGES] = changes + 1


def _region(index: int) -> int:
    return index * _REGION


def digest(*name: str) -> bytes:
    """16 bytes that stand for a name of several parts, in every process the same."""
    return blake2b("".join([f"{len(part)}:{part}" for part in name]).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _key(name: bytes) -> Key:
    first, second = unpack("qq", name)
    return first, second


def _plausible(value: int) -> int:
    return value if 0 <= value < IMPLAUSIBLE else 0


def _bounded(value: int) -> int:
    """What fits into a word: a caller may ask for more tokens than there are numbers."""
    return min(max(value, 0), IMPLAUSIBLE - 1)


class _Row:
    """One row of this worker and where it begins."""

    __slots__ = ("_at", "_row", "_table", "_words", "key")

    def __init__(self, table: Table, words: memoryview[int], key: Key, row: int, at: int) -> None:
        self._table = table
        self._words = words
        self._row = row
        self._at = at
        self.key = key

    def detach(self, spare: int) -> int:
        """What is still published goes where nobody reads."""
        self._at = spare
        return self._row

    def close(self) -> None:
        self._table.close(self)


class _Cell(_Row):
    __slots__ = ()

    def publish(self, value: int) -> None:
        self._words[self._at + _HELD] = _bounded(value)

    def others(self) -> int:
        return sum([_plausible(self._words[at + _HELD]) for at in self._table.places(self.key)])


class _PeriodCell(_Row):
    __slots__ = ()

    def publish(self, start_ms: int, used: int, held: int) -> None:
        words, at = self._words, self._at
        if words[at + _TAG] == start_ms:
            words[at + _USED] = _bounded(used)
            words[at + _HELD] = _bounded(held)
        else:
            words[at + _TAG] = _NO_START
            words[at + _USED] = _bounded(used)
            words[at + _HELD] = _bounded(held)
            words[at + _TAG] = start_ms

    def others(self, start_ms: int) -> tuple[int, int]:
        words = self._words
        all_used = all_held = 0
        for at in self._table.places(self.key):
            if words[at + _TAG] == start_ms:
                # held first: who settles writes what it used before the hold goes, so it is seen in one of the two
                held = _plausible(words[at + _HELD])
                all_used += _plausible(words[at + _USED])
                all_held += held
        return all_used, all_held

    def left(self, start_ms: int) -> int:
        return _plausible(self._words[self._at + _USED]) if self._words[self._at + _TAG] == start_ms else 0

    def latest_ms(self) -> int | None:
        tags = [self._words[at + _TAG] for at in (self._at, *self._table.places(self.key))]
        return max([tag for tag in tags if 0 <= tag < IMPLAUSIBLE], default=None)


class _WindowCell(_Row):
    """Its words: used, `last` in the place of the start and `first` in that of what is held, both in microseconds."""

    __slots__ = ()

    def publish(self, used: int, first: float, last: float) -> None:
        words, at = self._words, self._at
        words[at + _TAG] = round(last * _US)
        words[at + _HELD] = round(first * _US)
        words[at + _USED] = _bounded(used)

    def others(self, now: float) -> int:
        words, now_us = self._words, now * _US
        latest_us = now_us + _LONGEST_MINUTE_US
        return sum(
            [_plausible(words[at + _USED]) for at in self._table.places(self.key) if now_us < words[at + _TAG] <= latest_us]
        )

    def shares(self, now: float) -> Sequence[Share]:
        return [share for at in self._table.places(self.key) if (share := self._share(at, now)) is not None]

    def left(self, now: float) -> Share | None:
        return self._share(self._at, now)

    def _share(self, at: int, now: float) -> Share | None:
        words = self._words
        used, last = _plausible(words[at + _USED]), words[at + _TAG] / _US
        if not used or not now < last <= now + _LONGEST_MINUTE_US / _US:
            return None
        return Share(used, min(max(words[at + _HELD] / _US, now), last), last)


class _Facts:
    """A slot for each name. When there is none left, that of a fact which is over is taken."""

    __slots__ = ("_base", "_heard", "_others", "_slots", "_start", "_table", "_tidied_at", "_untils", "_words")

    def __init__(self, table: Table, words: memoryview[int], base: int, others: list[int]) -> None:
        self._table = table
        self._words = words
        self._base = base
        self._others = dict.fromkeys(others, 0)  # a region -> how much of what it told is known
        self._untils: dict[int, int] = {}  # where a slot begins -> what it said
        self._heard: dict[bytes, Fact] = {}
        self._tidied_at = -1.0
        self._start = list(self._read(base))  # what was told from this seat before
        self._slots: dict[bytes, int] = {}
        for at in _slots_of(words, base):
            first, second, until_us, reason = words[at : at + _CHECK]
            if words[at + _CHECK] != _check(first, second, until_us, reason):
                words[at + _UNTIL] = 0  # it died over this one
            self._slots[pack("qq", first, second)] = at
        # and may have died before it said that there is something to read
        words[base + _TOLD] = _plausible(words[base + _TOLD]) + 1

    def name(self, *key: str) -> bytes:
        return digest("fact", *key)

    def tell(self, name: bytes, until: float, reason: int, now: float) -> None:
        words, until_us = self._words, round(until * _US)
        at = self._slots.get(name)
        if at is None:
            at = self._place(now)
            if at is None:
                self._table.refused += 1
                return
            self._slots[name] = at
        elif words[at + _UNTIL] >= until_us:
            return
        first, second = unpack("qq", name)
        words[at + _KEY], words[at + _KEY_TOO] = first, second
        words[at + _UNTIL], words[at + _REASON] = until_us, reason
        words[at + _CHECK] = _check(first, second, until_us, reason)
        words[self._base + _TOLD] += 1

    def news(self, now: float) -> Iterable[Fact]:
        found, self._start = self._start, []
        for region, known in self._others.items():
            told = self._words[region + _TOLD]
            if told != known:
                self._others[region] = told
                found += self._read(region)
        fresh = []
        for name, until, reason in found:
            if until > now:
                fact = Fact(name, min(until, now + LONGEST_FACT_S), reason)
                self._remember(fact, now)
                fresh.append(fact)
        return fresh

    def recall(self, name: bytes, now: float) -> Fact | None:
        fact = self._heard.get(name)
        return fact if fact is not None and fact.until > now else None

    def _read(self, region: int) -> Iterator[Fact]:
        """What a region says that it did not say at the last look."""
        words = self._words
        for at in _slots_of(words, region):
            until_us = words[at + _UNTIL]
            if self._untils.get(at) == until_us:
                continue
            first, second, reason = words[at + _KEY], words[at + _KEY_TOO], words[at + _REASON]
            if words[at + _CHECK] == _check(first, second, until_us, reason):
                self._untils[at] = until_us
                yield Fact(pack("qq", first, second), until_us / _US, reason)

    def _remember(self, fact: Fact, now: float) -> None:
        known = self._heard.get(fact.name)
        if known is not None and known.until >= fact.until:
            return
        if known is None and len(self._heard) >= MAX_HEARD:
            if now >= self._tidied_at + 1.0:
                self._tidied_at = now
                self._heard = {name: heard for name, heard in self._heard.items() if heard.until > now}
            if len(self._heard) >= MAX_HEARD:
                self._table.refused += 1
                return
        self._heard[fact.name] = fact

    def _place(self, now: float) -> int | None:
        """Where a slot is free."""
        words = self._words
        used = min(max(words[self._base + _SLOTS_USED], 0), SLOTS)
        if used < SLOTS:
            words[self._base + _SLOTS_USED] = used + 1
            return self._base + _FACTS + used * _WIDTH
        now_us = now * _US
        for name, at in self._slots.items():
            if words[at + _UNTIL] <= now_us:
                del self._slots[name]
                return at
        return None


def _slots_of(words: memoryview[int], region: int) -> range:
    """Where the slots in use begin."""
    used = min(max(words[region + _SLOTS_USED], 0), SLOTS)
    start = region + _FACTS
    return range(start, start + used * _WIDTH, _WIDTH)


def _check(first: int, second: int, until_us: int, reason: int) -> int:
    return first ^ second ^ until_us ^ reason ^ _SALT
