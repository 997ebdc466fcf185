"""How many requests may run: the configured number while the event loop keeps up, fewer while it does not.

What a request waits for here is the loop, and how late the loop is can be seen from a timer: one that was due at t and runs at
t + d has waited d, and so has everything that was read meanwhile. Half of what requests wait in line counts likewise (`line.py`): they
are in nobody's way there; three quarters once some are refused. What of it others had the processor for (`run_delay.py`) is left out:
refusing requests would not shorten that. `room` is the number of requests that may run, and the only thing that the way of a request
looks at.

    calm      room is what the configuration says; a look with every tick, every 10 ms while there is much to do
      | late by three tenths of `max_wait` at a look
      v
    patient   no more than `CROWD` may run, or than do. The next look that is in time ends it
      | so late at all looks of a second
      v
    shedding  room is what runs now. After every span of five looks, or of three times `max_wait`, by how late it was at half of them:
      |       a twentieth less if that is more than two thirds of `max_wait`, or half of it where most only stand in line (`line.py`); a
      |       twentieth more if it is less than half of `max_wait`, and some were refused. So the loop is kept busy, and a turn of it
      v       takes 50 to 75 ms: what comes for one stream meanwhile is read together, which costs much less than one by one
    calm      nothing was refused for a second

A loop is late for a moment for many reasons (a crowd that comes at once, a program beside it, the collector), and late all the time for
one: so shedding begins by the least that it was late, and is steered by the median.

To refuse a request costs little, but some callers ask anew in the moment in which they are refused. Where that is thousands of times a
second and many times as often as a request begins, the refusing takes the time of those who are served (`overwhelmed`): then whoever is
refused a second time without having waited as he was told is not listened to meanwhile.

A crowd that is larger than `CROWD` and arrives at once is not seen by a timer before it is dealt with. So `late_at` is when the present
turn of the loop has taken three times `max_wait`: of what is read later than that, what is beyond `CROWD` is refused, whatever `room`
says. And a turn that does not end, with more than a thousand sockets that are always ready, is brought to its end (`too_long_at`, see
`core/turn.py`).

Nobody waits for the end of such a turn to be refused: `doorbell.py`.

Where few requests run (`FLOOR`), none of this applies: then it is not requests that make the loop late, and refusing them helps nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized

from proxy.core.deadlines import NEVER, TICK_S
from proxy.engine.services import Log
from proxy.server.doorbell import Doorbell
from proxy.server.line import Line
from proxy.server.run_delay import RunDelay

MAX_IN_FLIGHT = 4096
MAX_WAIT_S = 0.1
FLOOR = 64
PULSE_S = 0.01
CALM_S = 1.0
PATIENCE_S = 1.0
CROWD = 1024  # that many may come to an idle proxy at once, and each is served
CROWD_WAITS = 3  # times `max_wait`
TOO_LONG_S = 0.1  # after the next look is due
SPAN_LOOKS = 5
MAX_LOOKS = 100
NOTICE_S = 0.005  # a loop that is this late is looked at more closely
TOO_MANY_PER_S = 8_000  # refusals: a fifth of a core's time
TOO_MANY_EACH = 8  # for one request that begins
WEIGHED_S = 0.3
_ENTER, _LATE, _EARLY = 0.3, 0.65, 0.45  # shares of `max_wait`
_IN_LINE = 0.55  # of the time that the first stands in line
_IN_LINE_SHEDDING = 0.75  # at six to nine tenths of `max_wait` it is as many as may be
_SHARE = 20  # what room loses or gains at a time: one part of so many
_HALF = 2  # what it loses where most of those who are in stand in line


class Governor:
    """Pure: told the time and how many requests run. `refused` is counted by whoever refuses one."""

    __slots__ = (
        "_busy_until",
        "_due",
        "_lates_s",
        "_max_wait_s",
        "_refused_at",
        "_refused_before",
        "_span_from",
        "_watchful",
        "_weighed",
        "late_at",
        "late_s",
        "max_in_flight",
        "overwhelmed",
        "refused",
        "room",
        "shedding",
    )

    def __init__(self, *, max_in_flight: int = MAX_IN_FLIGHT, max_wait_s: float = MAX_WAIT_S) -> None:
        self.max_in_flight = max_in_flight
        self.late_at = NEVER
        self.late_s = 0.0
        self.refused = 0
        self._max_wait_s = max_wait_s
        self._watchful = max_wait_s > 0
        self._due: float | None = None
        self._busy_until = 0.0
        self._refused_before = 0
        self._refused_at = 0.0
        self._lates_s: list[float] = []  # at the looks of this span, of which there are at most MAX_LOOKS
        self._span_from = 0.0
        self._weighed = (0.0, 0, 0)  # when, and how many had been refused and begun by then
        self.room = max_in_flight
        self.shedding = self.overwhelmed = False

    def configure(self, *, max_in_flight: int, max_wait_s: float) -> None:
        """`max_wait_s` 0: only the number counts. What is as it was stays as it is."""
        if (max_in_flight, max_wait_s) == (self.max_in_flight, self._max_wait_s):
            return
        self.max_in_flight = max_in_flight
        self._max_wait_s = max_wait_s
        self._watchful = max_wait_s > 0
        self._set_calm()

    def refuses(self, live: int, now: float) -> bool:
        """Whether a request that was read at `now` is one too many, where `room` or `late_at` says that it may be."""
        return live >= self.room or (now > self.late_at and live >= CROWD)

    def expect(self, due: float) -> None:
        """When the next look is to be."""
        self._due = due
        self.late_at = due + CROWD_WAITS * self._max_wait_s if self._watchful else NEVER

    def look(self, now: float, live: int, others_s: float = 0.0, *, standing: int = 0, waited_s: float = 0.0) -> bool:
        """Whether to look again soon (in `PULSE_S`) rather than with the next tick. `others_s`: of the time since the last look, how long
        others had the processor; `standing`: how many of the `live` stand in line, the first of them for `waited_s`."""
        due, self._due = self._due, None
        self.late_s = max(0.0, now - due) if due is not None else 0.0
        late_s = max(0.0, self.late_s - others_s, waited_s * (_IN_LINE_SHEDDING if self.shedding else _IN_LINE))
        if not self._watchful:
            return False
        if not self.shedding and (late_s < self._max_wait_s * _ENTER or live < FLOOR):
            self._set_calm()
            self._begin_span(now)
        else:
            if len(self._lates_s) < MAX_LOOKS:
                self._lates_s.append(late_s)
            if not self.shedding:
                self.room = self._within(max(live, CROWD))
                patient = now - self._span_from < PATIENCE_S or len(self._lates_s) < 2
                if not patient or live >= CROWD:
                    self.shedding = True
                    self.room = self._within(live)
                    self._refused_at = now
                    self._begin_span(now)
            elif self._ends_span(now - self._span_from):
                self._steer(now, sorted(self._lates_s)[len(self._lates_s) // 2], live, standing)
                self._begin_span(now)
        if self.shedding or self.late_s >= NOTICE_S or live >= FLOOR:
            self._busy_until = now + CALM_S
        return now < self._busy_until

    def weigh(self, now: float, begun: int) -> None:
        """With each look, how many requests were ever begun: whether those that are refused take too much time."""
        from_s, refused_before, begun_before = self._weighed
        if now - from_s < WEIGHED_S:
            return
        refused = self.refused - refused_before
        self.overwhelmed = refused > TOO_MANY_PER_S * (now - from_s) and refused > TOO_MANY_EACH * (begun - begun_before)
        self._weighed = (now, self.refused, begun)

    def _steer(self, now: float, late_s: float, live: int, standing: int) -> None:
        refused = self.refused != self._refused_before
        self._refused_before = self.refused
        if refused:
            self._refused_at = now
        if now - self._refused_at >= CALM_S:
            self._set_calm()
        elif late_s > self._max_wait_s * _LATE:
            if live <= self.room + self.room // _SHARE:  # else what was taken away before has not come into effect yet
                part = _SHARE if standing * 2 < live else _HALF
                self.room = self._within(min(live, self.room) * (part - 1) // part)
        elif late_s < self._max_wait_s * _EARLY and refused:
            self.room = self._within(self.room + self.room // _SHARE + 1)

    def _ends_span(self, lasted_s: float) -> bool:
        """Of looks that are far apart fewer are enough."""
        looks = len(self._lates_s)
        enough = looks >= SPAN_LOOKS or lasted_s >= self._max_wait_s * CROWD_WAITS
        return enough and (lasted_s >= self._max_wait_s or looks >= MAX_LOOKS)

    def _within(self, room: int) -> int:
        return min(max(room, FLOOR), self.max_in_flight)

    def _set_calm(self) -> None:
        self.shedding = False
        self.room = self.max_in_flight

    def _begin_span(self, now: float) -> None:
        self._span_from = now
        self._lates_s.clear()


class LoopWatch:
    """Keeps a governor looking: with every tick of the proxy's timer, and by a timer of its own while there is much to do."""

    def __init__(
        self,
        governor: Governor,
        live: Sized,
        line: Line,
        bell: Doorbell,
        *,
        monotonic: Callable[[], float],
        run_delay: RunDelay,
        log: Log,
    ) -> None:
        self._governor = governor
        self._bell = bell
        self._live = live
        self._line = line
        self._monotonic = monotonic
        self._log = log
        self._run_delay = run_delay
        self._timer: asyncio.TimerHandle | None = None
        self._told = False
        self._refused_before = 0
        self.too_long_at = NEVER

    def tick(self, now: float) -> None:
        if self._timer is None:
            self._look(now)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._bell.take_down()
        self._run_delay.close()

    def _beat(self) -> None:
        self._timer = None
        self._look(self._monotonic())

    def _look(self, now: float) -> None:
        governor = self._governor
        standing = len(self._line)
        busy = governor.look(
            now,
            len(self._live) + standing,
            self._run_delay.since_last_s(),
            standing=standing,
            waited_s=self._line.waited_s(now),
        )
        governor.weigh(now, self._line.begun)
        if busy:
            self._timer = asyncio.get_running_loop().call_later(PULSE_S, self._beat)
        due = self._monotonic() + (PULSE_S if busy else TICK_S)
        governor.expect(due)
        self.too_long_at = due + TOO_LONG_S
        self._bell.looked(due, busy=busy, late=governor.late_s >= NOTICE_S)
        self._tell()

    def _tell(self) -> None:
        """Of what anybody noticed."""
        governor = self._governor
        refused = governor.refused - self._refused_before
        if not governor.shedding:
            if self._told:
                self._log.warning("shedding_over", refused=refused)
            self._told = False
            self._refused_before = governor.refused
        elif refused and not self._told:
            self._told = True
            self._log.warning("shedding", running=len(self._live), late_ms=round(governor.late_s * 1000))
