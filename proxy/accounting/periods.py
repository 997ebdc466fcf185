"""When a day, a month begins anew, and what was taken since: the common half of budgets and quotas.

    take(amount) ──▶ Hold ──▶ settle(used): the hold becomes what was really used
                      └─────▶ release():    nothing was used, the hold is gone

A period starts at an hour o'clock of a zone, on every day or on the first of every month. Where the clocks go forward over that
hour, it starts at the moment at which they do; where they go back over it, at the first of the two. So a day has 23, 24 or 25 hours,
each moment is in exactly one period, and the start of one is the end of the one before.

Where several workers count, each has its own tally, published to the others: what is `taken` is everybody's, what is settled one's own.
A worker that is replaced hands on what it used; what it held ends with it.

Wall times are seconds since 1970, monotonic ones say so. All runs on one event loop and nothing here awaits: no locks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from proxy.core.limits import Per
from proxy.core.shared import LONE_PERIOD, PeriodCell

UTC_NAME = "UTC"


def period(per: Per | None, wall: float, *, time_zone: str = UTC_NAME, hour: int = 0) -> tuple[float, float | None]:
    """The start (included) and the end of the period that `wall` is in. `once` starts with 1970 and has no end."""
    if per not in ("day", "month"):
        return 0.0, None
    zone: tzinfo = UTC if time_zone == UTC_NAME else ZoneInfo(time_zone)
    noon = datetime.fromtimestamp(wall, zone).replace(hour=12, minute=0, second=0, microsecond=0, tzinfo=None, fold=0)
    if per == "day":
        days = [noon + timedelta(days=offset) for offset in (-2, -1, 0, 1, 2)]
    else:
        first = noon.replace(day=1)
        days = [_month(first, offset) for offset in (-1, 0, 1, 2)]
    # a start that falls into a gap of the clocks is taken by the offset before it, which is the moment of the gap: fold=0
    starts = [day.replace(hour=hour, tzinfo=zone).timestamp() for day in days]
    return max([start for start in starts if start <= wall]), min([start for start in starts if start > wall])


def _month(first: datetime, offset: int) -> datetime:
    months = first.year * 12 + first.month - 1 + offset
    return first.replace(year=months // 12, month=months % 12 + 1)


def rfc3339(wall: float) -> str:
    """To the second, as messages and reasons name a moment."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True, eq=False)
class Tally:
    """What was used in one period, and what is held for requests under way. What is held in a period is settled in it, however late.

    `cell` publishes it; a tally whose period is over has none.
    """

    start: float
    end: float | None
    used: int = 0
    held: int = 0
    outstanding: set[Hold] = field(default_factory=set)
    cell: PeriodCell = LONE_PERIOD
    start_ms: int = field(init=False)

    def __post_init__(self) -> None:
        self.start_ms = round(self.start * 1000)

    def taken(self) -> tuple[int, int]:
        """What is used and what is held, by all workers."""
        if self.cell is LONE_PERIOD:
            return self.used, self.held
        used, held = self.cell.others(self.start_ms)
        return self.used + used, self.held + held

    def publish(self) -> None:
        if self.cell is not LONE_PERIOD:
            self.cell.publish(self.start_ms, self.used, self.held)

    def take(self, amount: int, until: float) -> Hold:
        """Holds `amount`. `until`, monotonic: who has not settled it by then has lost it."""
        return Hold(self, amount, until)

    def sweep(self, now: float) -> int:
        """Lets go of holds whose time is over, and says how many: nobody will settle them. One that is settled all the same counts."""
        stale = [hold for hold in self.outstanding if hold.until <= now]
        for hold in stale:
            hold.let_go()
        if stale:
            self.publish()
        return len(stale)


class Hold:
    """A place that was taken. Exactly one of `settle` and `release` counts; whatever follows is ignored."""

    __slots__ = ("_done", "_tally", "amount", "until")

    def __init__(self, tally: Tally, amount: int, until: float) -> None:
        self._tally = tally
        self._done = False
        self.amount = amount
        self.until = until
        tally.held += amount
        tally.outstanding.add(self)
        tally.publish()

    def settle(self, used: int | None) -> None:
        """It is over and took this. None: nobody knows, and the whole of it is taken."""
        if not self._done:
            self._done = True
            self._tally.used += self.amount if used is None else used
            self.let_go()
            self._tally.publish()

    def release(self) -> None:
        self._done = True
        self.let_go()
        self._tally.publish()

    def let_go(self) -> None:
        tally = self._tally
        if self in tally.outstanding:
            tally.outstanding.remove(self)
            tally.held -= self.amount


class Account:
    """The tally of the present period. A clock that goes back does not bring an old period back."""

    __slots__ = ("_cell", "_old", "_tally", "begun_ms", "hour", "per", "time_zone")

    def __init__(
        self, per: Per, wall: float, *, time_zone: str = UTC_NAME, hour: int = 0, cell: PeriodCell = LONE_PERIOD
    ) -> None:
        self.per = per
        self.time_zone = time_zone
        self.hour = hour
        self._cell = cell
        self._old: list[Tally] = []  # whose holds are not all settled
        start, end = period(per, wall, time_zone=time_zone, hour=hour)
        latest = self._begun(wall)
        self.begun_ms = (
            0  # since when it counts, where others had begun anew in the middle of the period before this one was made
        )
        if latest is not None and latest > start:
            start = latest
            self.begun_ms = round(latest * 1000)
        self._tally = Tally(start, end, cell=cell)
        self._tally.used = cell.left(self._tally.start_ms)
        self._tally.publish()

    def at(self, wall: float) -> Tally:
        tally = self._tally
        if tally.end is not None and wall >= tally.end:
            tally = self._next(Tally(*period(self.per, wall, time_zone=self.time_zone, hour=self.hour)))
        return tally

    def begin_anew(self, wall: float) -> None:
        """What was used is forgotten as of `wall`; what is under way counts for the time before."""
        self._next(Tally(wall, self.at(wall).end))

    def follow(self, wall: float) -> float | None:
        """Begin anew when another worker has, and return since when."""
        tally, begun = self.at(wall), self._begun(wall)
        if begun is None or begun <= tally.start:
            return None
        self._next(Tally(begun, tally.end))
        return begun

    def _begun(self, wall: float) -> float | None:
        """The latest start that any worker knows of; one in the future is none."""
        latest_ms = self._cell.latest_ms()
        return latest_ms / 1000 if latest_ms is not None and latest_ms <= wall * 1000 else None

    def seed(self, used: int, *, start: float, wall: float) -> bool:
        """Raise what is used since `start` to what the ledger has. False if that was known, or if this is no longer the period.

        Never lowers and never adds, so it may come late, when requests of this life are already in both, and more than once.
        """
        tally = self.at(wall)
        missing = used - tally.taken()[0]
        if tally.start != start or missing <= 0:
            return False
        tally.used += missing
        tally.publish()
        return True

    def close(self) -> None:
        """It counts for nobody any more."""
        self._cell.close()
        self._tally.cell = self._cell = LONE_PERIOD

    def sweep(self, now: float) -> int:
        swept = sum([tally.sweep(now) for tally in (*self._old, self._tally)])
        self._old = [tally for tally in self._old if tally.outstanding]
        return swept

    @property
    def outstanding(self) -> int:
        """How many holds are neither settled nor let go, those of periods that are over too."""
        return sum([len(tally.outstanding) for tally in (*self._old, self._tally)])

    def _next(self, tally: Tally) -> Tally:
        self._tally.cell = LONE_PERIOD
        if self._tally.outstanding:
            self._old.append(self._tally)
        tally.cell = self._cell
        tally.publish()
        self._tally = tally
        return tally
