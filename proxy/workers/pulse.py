"""The page of memory that a supervisor shares with its workers: who is alive, what each has counted, what the drainer has done.

The supervisor makes it before the first fork, so it needs no name and goes with the last of them. Each worker writes in its own seat only.
What it has counted is written into one of two buffers in turn, with a checksum, and the number that says which is moved last: a worker
that is killed while it writes leaves what it had written before, and its successor goes on counting from there.

    header   caught up | seeded | asked at | restarts of workers | restarts of the drainer | pids of supervisor and drainer
    seat     beat at | published at | pid | serves | turns | buffer | buffer            one for each worker
    buffer   length | checksum | bytes

All figures are 8 bytes; times are seconds of the monotonic clock, which is one for all processes of a host.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from enum import IntEnum

from proxy.workers.shared import make

MAX_PUBLISHED_BYTES = 1 << 20
_BUFFER_HEAD = struct.Struct("=II")
_BUFFER_BYTES = _BUFFER_HEAD.size + MAX_PUBLISHED_BYTES
_WORDS = 8  # of the header, and before the buffers of each seat
_STRIDE_BYTES = _WORDS * 8 + 2 * _BUFFER_BYTES


class _Header(IntEnum):
    CAUGHT_UP, SEEDED, ASKED_AT, WORKER_RESTARTS, DRAINER_RESTARTS, SUPERVISOR, DRAINER = range(7)


class _Seat(IntEnum):
    BEAT_AT, PUBLISHED_AT, PID, SERVES, TURNS = range(5)


class Pulse:
    """Read and written by several processes at once, without a lock."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.table = make(workers)  # of what they count together and tell each other: `workers/shared.py`
        self._memory = mmap.mmap(-1, _WORDS * 8 + workers * _STRIDE_BYTES)
        whole = memoryview(self._memory)
        self._bytes = whole
        # a word is stored by one instruction through such a view, and byte by byte through `struct`
        self._numbers = whole.cast("Q")
        self._times = whole.cast("d")

    # -- the supervisor

    def take_seat(self, index: int, pid: int, now: float) -> None:
        """A worker is about to start there."""
        word = self._word(index)
        self._times[word + _Seat.BEAT_AT] = now
        self._numbers[word + _Seat.SERVES] = 0
        self._numbers[word + _Seat.PID] = pid

    def leave_seat(self, index: int) -> None:
        """A worker has died there. What it has published stays."""
        word = self._word(index)
        self._numbers[word + _Seat.SERVES] = 0
        self._numbers[word + _Seat.PID] = 0

    def count_restart(self, *, of_worker: bool) -> None:
        self._numbers[_Header.WORKER_RESTARTS if of_worker else _Header.DRAINER_RESTARTS] += 1

    def drainer_caught_up(self) -> None:
        self._numbers[_Header.CAUGHT_UP] = 1

    def supervised_by(self, pid: int) -> None:
        self._numbers[_Header.SUPERVISOR] = pid

    # -- a worker

    def beat(self, index: int, now: float) -> None:
        self._times[self._word(index) + _Seat.BEAT_AT] = now

    def serves(self, index: int) -> None:
        self._numbers[self._word(index) + _Seat.SERVES] = 1

    def publish(self, index: int, content: bytes, now: float) -> bool:
        """False: it is more than MAX_PUBLISHED_BYTES, and what was published before stays."""
        if len(content) > MAX_PUBLISHED_BYTES:
            return False
        word = self._word(index)
        turns = self._numbers[word + _Seat.TURNS] + 1
        at = self._buffer(index, turns)
        start = at + _BUFFER_HEAD.size
        _BUFFER_HEAD.pack_into(self._memory, at, len(content), zlib.crc32(content))
        self._bytes[start : start + len(content)] = content
        self._numbers[word + _Seat.TURNS] = turns
        self._times[word + _Seat.PUBLISHED_AT] = now
        return True

    # -- whoever asks

    def ask(self, now: float) -> None:
        """Every worker is to publish, at its next tick."""
        self._times[_Header.ASKED_AT] = now

    @property
    def asked_at(self) -> float:
        return self._times[_Header.ASKED_AT]

    @property
    def caught_up(self) -> bool:
        """The drainer has taken in what was there when it started."""
        return self._numbers[_Header.CAUGHT_UP] != 0

    def has_seeded(self) -> None:
        """The lead has raised what budgets and quotas count to the ledger's sums."""
        self._numbers[_Header.SEEDED] = 1

    @property
    def seeded(self) -> bool:
        return self._numbers[_Header.SEEDED] != 0

    @property
    def worker_restarts(self) -> int:
        return self._numbers[_Header.WORKER_RESTARTS]

    @property
    def drainer_restarts(self) -> int:
        return self._numbers[_Header.DRAINER_RESTARTS]

    def drained_by(self, pid: int) -> None:
        """0: by nobody now."""
        self._numbers[_Header.DRAINER] = pid

    def processes(self) -> list[int]:
        """The ids of those that live, the supervisor first."""
        header = self._numbers[_Header.SUPERVISOR], self._numbers[_Header.DRAINER]
        return [pid for pid in (*header, *(self.pid(index) for index in range(self.workers))) if pid]

    def pid(self, index: int) -> int:
        """0 where nobody sits."""
        return self._numbers[self._word(index) + _Seat.PID]

    def is_serving(self, index: int) -> bool:
        return self._numbers[self._word(index) + _Seat.SERVES] != 0

    def beat_at(self, index: int) -> float:
        return self._times[self._word(index) + _Seat.BEAT_AT]

    def published_at(self, index: int) -> float:
        return self._times[self._word(index) + _Seat.PUBLISHED_AT]

    def published(self, index: int) -> bytes | None:
        """What this seat published last, by whichever worker sat there; None where nothing has been."""
        turns = self._numbers[self._word(index) + _Seat.TURNS]
        for turn in (turns, turns - 1):  # the one before, if the last is being overwritten by the next but one
            if turn > 0 and (content := self._read(self._buffer(index, turn))) is not None:
                return content
        return None

    def _read(self, at: int) -> bytes | None:
        length, checksum = _BUFFER_HEAD.unpack_from(self._memory, at)
        if length > MAX_PUBLISHED_BYTES:
            return None
        start = at + _BUFFER_HEAD.size
        content = bytes(self._bytes[start : start + length])
        return content if zlib.crc32(content) == checksum else None

    @staticmethod
    def _word(index: int) -> int:
        return _WORDS + index * _STRIDE_BYTES // 8

    @staticmethod
    def _buffer(index: int, turn: int) -> int:
        return _WORDS * 8 + index * _STRIDE_BYTES + _WORDS * 8 + (turn & 1) * _BUFFER_BYTES
