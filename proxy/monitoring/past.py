"""What the ledger knows of targets at a time of the past: what stood in their way, how well they did, how quick they were.

Of a target that a request could have used, its own trace says so. Of one that was not in its chain only the traces of other requests
around that time do: an obstacle that they named holds as long as such a thing can last, or until one of them says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from proxy.core.errors import ErrorClass
from proxy.routing.score import GOOD_BEFORE
from proxy.routing.standing import Standing
from proxy.routing.verdict import RULES, Effect
from proxy.storage.recorded import Ends, RecordedAttempt, RecordedRequest

MAX_TARGETS = 10_000
AROUND_H = 1  # hours before and after the one in question that count for it
# how a trace says what stood in the way of a moment, and for how long at most, in seconds
OBSTACLES: dict[str, float] = {
    "circuit open": 30.0,
    "circuit half open": 1.0,
    "slow start": 1.0,
    "at capacity": 1.0,
    "cooling down": 300.0,
    "latched: model not found": 300.0,
    "latched": 900.0,
    "rate limit": 2.0,
    "quota spent": 3600.0,
    "budget spent": 3600.0,
    "no permit": 1.0,
}
_COOLING = re.compile(r"cooling down (?:under )?([0-9.]+) ?(ms|s|min|h)?")
_UNIT_S = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, None: 1.0}
_HOUR_MS = 3_600_000


@lru_cache(maxsize=4_096)
def lasts_s(reason: str) -> float | None:
    """How long what a trace named may last; None for what does not pass: a lack, or what the configuration says."""
    if (found := _COOLING.match(reason)) is not None:
        return min(OBSTACLES["cooling down"], float(found[1]) * _UNIT_S[found[2]])
    return next((seconds for begins, seconds in OBSTACLES.items() if reason.startswith(begins)), None)


def speaks_ill(error_class: str | None) -> bool | None:
    """Whether an attempt that ended like this speaks against its target; None if it says nothing of it."""
    if error_class is None:
        return False
    try:
        rule = RULES[ErrorClass(error_class)]
    except (ValueError, KeyError):  # of another release
        return True
    return None if rule.effect is Effect.NEUTRAL else True


def answered_by(request: RecordedRequest) -> RecordedAttempt | None:
    """The attempt whose answer the caller was given; None if there was none, or nobody was asked."""
    if request.outcome != "ok":
        return None
    said = next((attempt for attempt in request.attempts if attempt.n == request.answered), None)
    return said or next((attempt for attempt in reversed(request.attempts) if attempt.outcome == "ok"), None)


class Past:
    """`learn` tells of the whole time beforehand; `see` of one request after the other, in the order of their times."""

    def __init__(self) -> None:
        self._hours: dict[str, dict[int, list[int]]] = {}  # target -> hour -> [went well, did not]
        self._obstacles: dict[str, tuple[float, str]] = {}  # target -> until when (ms), what
        self._standings: dict[str, Standing] = {}
        self._outputs: dict[str, tuple[int, int]] = {}  # chain -> answers, and their tokens together

    def learn(self, ends: Iterable[Ends]) -> None:
        for each in ends:
            ill = speaks_ill(each.error_class if each.outcome != "ok" else None)
            target = f"{each.provider}/{each.upstream_model}"
            if ill is not None and (target in self._hours or len(self._hours) < MAX_TARGETS):
                self._hours.setdefault(target, {}).setdefault(each.hour, [0, 0])[ill] += each.count

    def availability(self, target: str, time_ms: int) -> float | None:
        """The share of its attempts, 0 to 1, that went well around then, as if two good ones had gone before; None if there were none."""
        hours = self._hours.get(target)
        if hours is None:
            return None
        hour = time_ms // _HOUR_MS
        well, ill = 0, 0
        for near in range(hour - AROUND_H, hour + AROUND_H + 1):
            if (counts := hours.get(near)) is not None:
                well, ill = well + counts[0], ill + counts[1]
        return (well + GOOD_BEFORE) / (well + ill + GOOD_BEFORE) if well or ill else None

    def obstacle(self, target: str, time_ms: int) -> str | None:
        """What stood in its way, as other requests had it."""
        until_ms, reason = self._obstacles.get(target, (0.0, ""))
        return reason if time_ms < until_ms else None

    def standing(self, target: str, time_ms: int) -> Standing | None:
        """How it had done in the ten minutes before, by every request that it was sent."""
        found = self._standings.get(target)
        if found is not None:
            found.forget(time_ms / 1000)
        return found

    def usual_output(self, chain: str | None) -> int | None:
        """Tokens of an answer of that chain, in the mean; None while there was none."""
        answers, tokens = self._outputs.get(chain or "", (0, 0))
        return tokens // answers if answers else None

    def see(self, request: RecordedRequest) -> None:
        for entry in request.trace:
            name, reason = entry.get("target"), entry.get("skipped")
            if "attempt" in entry or not isinstance(name, str):
                continue
            lasts = None if reason is None else lasts_s(reason)
            if reason is None or lasts is None:
                self._obstacles.pop(name, None)
            elif name in self._obstacles or len(self._obstacles) < MAX_TARGETS:
                self._obstacles[name] = (request.time_ms + lasts * 1000, reason)
        for attempt in request.attempts:
            self._heed(attempt, stream=request.stream)
        for entry in request.trace:
            if "quality" in entry and (standing := self._standings.get(entry["target"])) is not None:
                standing.note_quality(entry["quality"])
        answered = answered_by(request)
        if answered is None or answered.usage is None:
            return
        chain = request.chain or ""
        if chain in self._outputs or len(self._outputs) < MAX_TARGETS:
            answers, tokens = self._outputs.get(chain, (0, 0))
            self._outputs[chain] = answers + 1, tokens + answered.usage.output_tokens

    def _heed(self, attempt: RecordedAttempt, *, stream: bool) -> None:
        standing = self._standings.get(attempt.target)
        if standing is None:
            if len(self._standings) >= MAX_TARGETS:
                return
            standing = self._standings[attempt.target] = Standing()
        ill = speaks_ill(attempt.error_class if attempt.outcome != "ok" else None)
        used = attempt.usage
        standing.note(
            (attempt.time_ms + (attempt.duration_ms or 0.0)) / 1000,
            ok=None if ill is None else not ill,
            stream=stream,
            first_token_s=None if attempt.first_token_ms is None else attempt.first_token_ms / 1000,
            total_s=(attempt.duration_ms or 0.0) / 1000,
            output_tokens=0 if used is None else used.output_tokens - used.reasoning_tokens,
        )
