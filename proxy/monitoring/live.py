"""What traffic shows of providers in the last five minutes, and what is usual: sampled from the counters, off the hot path.

A window is a ring of short slots. What leaves it goes into the usual: first tokens' times in a histogram whose counts halve every
half day, so that the present is compared with about a day, and never with itself. Each target has windows of its own, and what is
usual is mixed of them as the present is: a provider is not slow because its slower model is asked more. Times of a histogram are right
within 5 %.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import exp, floor, log
from typing import NamedTuple, Protocol

from proxy.routing.verdict import RULES, Effect

SAMPLE_S = 5.0
SLOT_S = 15.0
SLOTS = 20  # five minutes
WINDOW_S = SLOT_S * SLOTS
HALF_LIFE_S = 43_200.0
_FORGET_BELOW = 0.01
_MATTERS = 0.1  # a target with a smaller share of the present decides no median
_STEP = log(1.1)
_MIN_S, _MAX_S = 0.000_1, 3_600.0

# an attempt that ended so says nothing about the provider: it was the caller's doing, or ours
_SAYS_NOTHING = frozenset(name.value for name, rule in RULES.items() if rule.effect is Effect.NEUTRAL)
OK = "ok"


class Counters(Protocol):
    """What is counted since the start; implemented by the metrics."""

    def attempts(self) -> Mapping[tuple[str, str, str], int]: ...
    def take_first_tokens(self) -> Mapping[tuple[str, str], list[float]]: ...


class Histogram:
    """Seconds, in steps of a tenth."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[int, float] = {}

    def add(self, seconds: Iterable[float]) -> None:
        for value in seconds:
            step = floor(log(min(max(value, _MIN_S), _MAX_S)) / _STEP)
            self.counts[step] = self.counts.get(step, 0.0) + 1

    def merge(self, other: Histogram, weight: float = 1.0) -> None:
        for step, count in other.counts.items():
            self.counts[step] = self.counts.get(step, 0.0) + weight * count

    def fade(self, share: float) -> None:
        """Keep that share of every count."""
        self.counts = {step: count * share for step, count in self.counts.items() if count * share >= _FORGET_BELOW}

    @property
    def total(self) -> float:
        return sum(self.counts.values())

    def median_s(self) -> float | None:
        half, seen = self.total / 2, 0.0
        for step, count in sorted(self.counts.items()):
            seen += count
            if seen >= half:
                return exp((step + 0.5) * _STEP)
        return None


@dataclass(slots=True)
class _Slot:
    number: int
    ok: int = 0
    failed: int = 0
    attempts: int = 0  # those that say nothing, too
    first_tokens: Histogram = field(default_factory=Histogram)


class Seen(NamedTuple):
    """Of one provider or target. `attempts` are those that say something about it, `per_minute` counts all; first tokens' times are
    medians in milliseconds."""

    attempts: int
    failed: int
    per_minute: float
    first_token_ms: float | None
    first_tokens: int
    usual_ms: float | None
    usual_first_tokens: int

    @property
    def error_rate(self) -> float | None:
        return self.failed / self.attempts if self.attempts else None


class _Window:
    def __init__(self) -> None:
        self.slots: deque[_Slot] = deque()
        self.usual = Histogram()

    def at(self, number: int) -> _Slot:
        self.turn(number)
        if not self.slots or self.slots[-1].number != number:
            self.slots.append(_Slot(number))
        return self.slots[-1]

    def turn(self, number: int) -> None:
        """What is older than the window becomes usual."""
        while self.slots and self.slots[0].number <= number - SLOTS:
            self.usual.merge(self.slots.popleft().first_tokens)


class LiveTraffic:
    """Call `sample` every SAMPLE_S seconds. As many windows as the metrics have targets, which is bounded there."""

    def __init__(self, counters: Counters, now: float) -> None:
        """`now`: monotonic seconds, here and below. What was counted before is no traffic of the window."""
        self._counters = counters
        self._began = self._now = self._faded = now
        self._windows: dict[tuple[str, str], _Window] = {}
        self._counted = dict(counters.attempts())
        counters.take_first_tokens()

    def sample(self, now: float) -> dict[str, str]:
        """Look at the counters. Returns, by provider, the outcome of a failed attempt that came since the last look."""
        self._now = now
        number = floor(now / SLOT_S)
        failures: dict[str, str] = {}
        for (provider, model, outcome), count in self._grown().items():
            slot = self._window(provider, model).at(number)
            slot.attempts += count
            if outcome == OK:
                slot.ok += count
            elif outcome not in _SAYS_NOTHING:
                slot.failed += count
                failures[provider] = outcome
        for (provider, model), seconds in self._counters.take_first_tokens().items():
            self._window(provider, model).at(number).first_tokens.add(seconds)
        for window in self._windows.values():
            window.turn(number)
        self._fade(now)
        return failures

    def _grown(self) -> dict[tuple[str, str, str], int]:
        """What was counted since the last look."""
        before, self._counted = self._counted, dict(self._counters.attempts())
        return {key: count - before.get(key, 0) for key, count in self._counted.items() if count > before.get(key, 0)}

    def _window(self, provider: str, model: str) -> _Window:
        return self._windows.setdefault((provider, model), _Window())

    def _fade(self, now: float) -> None:
        if now - self._faded >= HALF_LIFE_S / 48:
            share = 0.5 ** ((now - self._faded) / HALF_LIFE_S)
            self._faded = now
            for window in self._windows.values():
                window.usual.fade(share)

    # -- what is to be seen

    def provider(self, name: str) -> Seen:
        return self._seen([window for (provider, _), window in self._windows.items() if provider == name])

    def _seen(self, windows: list[_Window]) -> Seen:
        ok = failed = attempts = 0
        first_tokens = Histogram()
        of_each = []
        for window in windows:
            present = Histogram()
            for slot in window.slots:
                ok, failed, attempts = ok + slot.ok, failed + slot.failed, attempts + slot.attempts
                present.merge(slot.first_tokens)
            first_tokens.merge(present)
            of_each.append((present.total, window.usual))
        usual, usual_first_tokens = _mixed(of_each)
        minutes = min(WINDOW_S, max(self._now - self._began, SAMPLE_S)) / 60
        return Seen(
            ok + failed,
            failed,
            attempts / minutes,
            _ms(first_tokens.median_s()),
            round(first_tokens.total),
            _ms(usual.median_s()),
            round(usual_first_tokens),
        )


def _mixed(of_each: list[tuple[float, Histogram]]) -> tuple[Histogram, float]:
    """What would be usual of so many first tokens of each target, and how many the thinnest part that matters rests on."""
    present = sum(count for count, _ in of_each)
    mixed = Histogram()
    for count, usual in of_each:
        if total := usual.total:
            mixed.merge(usual, count / total if present else 1.0)
    if not present:
        return mixed, mixed.total
    return mixed, min(usual.total for count, usual in of_each if count >= _MATTERS * present)


def _ms(seconds: float | None) -> float | None:
    return round(1000 * seconds, 1) if seconds is not None else None
