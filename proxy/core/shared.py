"""What the workers of one proxy know of each other: numbers that must add up, and facts that end by themselves.

Each worker writes its own share and reads those of the others, so nothing is ever written by two and nobody waits for a lock. What has
no place in the table, because it is full or because a process serves alone, has a stand-in here that knows of nobody else.

    Cell          how many there are at this moment: requests in flight
    PeriodCell    what was used and is held in a period: budgets, quotas
    WindowCell    what was used in the last minute: rate limits
    Facts         `until` then something is so: a cooldown, a latch, an open circuit

A worker that takes the seat of one that died finds what that one had published: `left`. Times are monotonic, one clock for all processes
of a host, except for the starts of periods, which are milliseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol


class Cell(Protocol):
    """A number of each worker. After `close` it is known to nobody, and may still be published."""

    def publish(self, value: int) -> None: ...
    def others(self) -> int:
        """The sum of what the others have published."""

    def close(self) -> None: ...


class PeriodCell(Protocol):
    """What each worker has used and holds in the period that starts at `start_ms`. Those who are in another one count nothing."""

    def publish(self, start_ms: int, used: int, held: int) -> None: ...
    def others(self, start_ms: int) -> tuple[int, int]:
        """What the others have used and what they hold, together."""

    def left(self, start_ms: int) -> int:
        """What was used by the one that had this seat before."""

    def latest_ms(self) -> int | None:
        """The latest start that anybody has published, this seat included; None where nobody did."""

    def close(self) -> None: ...


class Share(NamedTuple):
    """What one worker has used of a minute: some of it is free again from `first` on, all of it at `last`."""

    used: int
    first: float
    last: float


class WindowCell(Protocol):
    """What each worker has used of a minute. It counts until `last`, or until its worker says less."""

    def publish(self, used: int, first: float, last: float) -> None: ...
    def others(self, now: float) -> int: ...
    def shares(self, now: float) -> Sequence[Share]:
        """What `others` is made of."""

    def left(self, now: float) -> Share | None:
        """What is still used up by the one that had this seat before."""

    def close(self) -> None: ...


class Fact(NamedTuple):
    """`name` is `Facts.name`'s. `reason` is a number that means something to those who tell and hear it."""

    name: bytes
    until: float
    reason: int


class Facts(Protocol):
    """Of two facts of one name the one that lasts longer is true. Who hears one must bound it: another process wrote it."""

    def name(self, *key: str) -> bytes: ...
    def tell(self, name: bytes, until: float, reason: int, now: float) -> None: ...
    def news(self, now: float) -> Iterable[Fact]:
        """What the others have told since the last call; at the first, what is still so."""

    def recall(self, name: bytes, now: float) -> Fact | None:
        """The longest fact of this name that was ever in the news, if it is still so."""


class Shared(Protocol):
    """Where cells and facts come from. One key is one thing to all workers. `facts` is None where there is nobody to tell."""

    @property
    def facts(self) -> Facts | None: ...
    def cell(self, *key: str) -> Cell: ...
    def period(self, *key: str) -> PeriodCell: ...
    def window(self, *key: str) -> WindowCell: ...


# -- nobody else


class _LoneCell:
    __slots__ = ()

    def publish(self, value: int) -> None:
        return

    def others(self) -> int:
        return 0

    def close(self) -> None:
        return


class _LonePeriodCell:
    __slots__ = ()

    def publish(self, start_ms: int, used: int, held: int) -> None:
        return

    def others(self, start_ms: int) -> tuple[int, int]:
        return _NOTHING

    def left(self, start_ms: int) -> int:
        return 0

    def latest_ms(self) -> int | None:
        return None

    def close(self) -> None:
        return


class _LoneWindowCell:
    __slots__ = ()

    def publish(self, used: int, first: float, last: float) -> None:
        return

    def others(self, now: float) -> int:
        return 0

    def shares(self, now: float) -> Sequence[Share]:
        return ()

    def left(self, now: float) -> Share | None:
        return None

    def close(self) -> None:
        return


_NOTHING = (0, 0)
LONE_CELL: Cell = _LoneCell()
LONE_PERIOD: PeriodCell = _LonePeriodCell()
LONE_WINDOW: WindowCell = _LoneWindowCell()


class Alone:
    """A process without siblings."""

    __slots__ = ()

    @property
    def facts(self) -> Facts | None:
        return None

    def cell(self, *key: str) -> Cell:
        return LONE_CELL

    def period(self, *key: str) -> PeriodCell:
        return LONE_PERIOD

    def window(self, *key: str) -> WindowCell:
        return LONE_WINDOW


ALONE: Shared = Alone()
