"""Writes that can wait are held back until the turn of the event loop ends, and then made one after the other.

A write to a socket wakes whoever reads at its other end, which may cost more than the write; who is awake already need not be woken. The
first of a millisecond goes at once, so that with one request at a time nothing is different, and nobody waits longer than for `PIECES` of
them, or for the one piece of work that is being done meanwhile.

    write ──┬── the first of a millisecond, or large ────────────────────────> at once
            └── held ──┬── PIECES were written, the turn ends or lasts ──────> all: one write for each connection
                       └── its connection is closed or ended ───────────────> that one's
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

PIECES = 8
LARGE_BYTES = 64 * 1024  # goes out at once, so that whoever wrote it learns at once whether it was taken


class Loop(Protocol):
    """The event loop. uvloop's `time` moves by the millisecond; with a loop whose is finer, nothing is held."""

    def call_soon(self, callback: Callable[[], object]) -> object: ...
    def time(self) -> float: ...


class Transport(Protocol):
    """Of the event loop's own, as asyncio describes it, what is used here."""

    def write(self, data: bytes) -> None: ...
    def can_write_eof(self) -> bool: ...
    def write_eof(self) -> None: ...
    def get_write_buffer_size(self) -> int: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def is_closing(self) -> bool: ...
    def is_reading(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def get_extra_info(self, name: str, default: Any = None) -> Any: ...


class Cork:
    """One for all connections of an event loop."""

    __slots__ = ("_loop", "held", "left", "time", "written_at")

    def __init__(self) -> None:
        self.held: list[CorkedTransport] = []
        self.left = PIECES
        self.time: Callable[[], float]
        self.written_at = -1.0  # the time of the last write that was not held
        self._loop: Loop | None = None

    def wrap(self, transport: Transport, loop: Loop) -> CorkedTransport:
        """`loop`: the running one."""
        if loop is not self._loop:
            self._loop, self.time = loop, loop.time
            self.held, self.left = [], PIECES  # an ended loop's connections are gone with it
        return CorkedTransport(transport, self)

    def at_the_end(self) -> None:
        assert self._loop is not None
        self._loop.call_soon(self.let_go)

    def let_go(self) -> None:
        held, self.held = self.held, []
        self.left = PIECES
        for transport in held:
            transport.let_go()


class CorkedTransport:
    """Stands in for `bare`, the event loop's own. Whoever asks the loop for something that takes no other says `let_go` before."""

    __slots__ = ("_cork", "_held", "bare")

    def __init__(self, bare: Transport, cork: Cork) -> None:
        self.bare = bare
        self._cork = cork
        self._held = b""

    def write(self, data: bytes) -> None:
        cork = self._cork
        now = cork.time()
        if now != cork.written_at or len(data) >= LARGE_BYTES:
            cork.written_at = now
            self.let_go()
            self.bare.write(data)
            return
        if self._held:
            self._held += data
        else:
            self._held = data
            cork.held.append(self)
        left = cork.left
        if left == PIECES:
            cork.at_the_end()
        cork.left = left - 1
        if left == 1:
            cork.let_go()

    def let_go(self) -> None:
        held = self._held
        if held:
            self._held = b""
            if not self.bare.is_closing():
                self.bare.write(held)

    def close(self) -> None:
        self.let_go()
        self.bare.close()

    def abort(self) -> None:
        """What was written before has gone out, as far as the kernel takes it."""
        self.let_go()
        self.bare.abort()

    def can_write_eof(self) -> bool:
        return self.bare.can_write_eof()

    def write_eof(self) -> None:
        self.let_go()
        self.bare.write_eof()

    def get_write_buffer_size(self) -> int:
        return self.bare.get_write_buffer_size() + len(self._held)

    def is_closing(self) -> bool:
        return self.bare.is_closing()

    def is_reading(self) -> bool:
        return self.bare.is_reading()

    def pause_reading(self) -> None:
        self.bare.pause_reading()

    def resume_reading(self) -> None:
        self.bare.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.bare.get_extra_info(name, default)
