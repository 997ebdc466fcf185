"""The first of two providers dies under load and comes back. Its own count says how often it was asked while it was dead."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from tests.soak.stage import Caller, Check, Stage, all_of, alone, at_least, at_most, none_of, paced

_RATE, _RATE_SHORT = 100.0, 40.0
_BEFORE_S, _BEFORE_SHORT_S = 5.0, 0.5
_DEAD_S, _DEAD_SHORT_S = 60.0, 1.5
_CLOSED_S = 40.0
_SHARE = 0.002
_SLOW_START_S = 10.0
_FAILURES, _AT_ONCE_SHORT = 5, 4  # in a row, until the circuit opens; and what was on its way with the last of them
_PROBES_SHORT, _PROBE_EACH_SHORT_S = 3, 1.5  # half a second after, a second, two; then each two, less a quarter at most
_CALLERS = 256


async def act(stage: Stage) -> list[Check]:
    short = stage.options.short
    rate = _RATE_SHORT if short else _RATE
    before_s, dead_s = (_BEFORE_SHORT_S, _DEAD_SHORT_S) if short else (_BEFORE_S, _DEAD_S)
    statuses: Counter[int] = Counter()
    idle = [Caller(stage.port) for _ in range(_CALLERS)]
    asked = 0
    # a machine that was busy elsewhere has all that is due asked at the same time, before the first fault is known
    room = asyncio.Semaphore(_AT_ONCE_SHORT if short else len(idle))

    async def ask(number: int) -> None:
        async with room:
            await ask_now(number)

    async def ask_now(number: int) -> None:
        nonlocal asked
        asked += 1
        caller = idle.pop()
        answer = await caller.ask("outage", stream=number % 2 == 0, marker=f"o{asked}")
        statuses[answer.status if answer.whole else 0] += 1
        idle.append(caller)

    await paced(rate, before_s, ask)
    calls_before = _touched(stage)
    stage.tell_upstream("dead")
    died = time.monotonic()
    while_dead = await paced(rate, dead_s, ask)
    probes = _PROBES_SHORT + (time.monotonic() - died) / _PROBE_EACH_SHORT_S
    touched = _touched(stage) - calls_before
    stage.tell_upstream("well")
    began = time.monotonic()
    closed_s = float("inf")
    while time.monotonic() - began < _CLOSED_S + 5:
        await paced(rate, 0.5, ask)
        if _closed(stage):
            closed_s = time.monotonic() - began
            break
    if not short:
        await paced(rate, _SLOW_START_S, ask)
    served_before = _touched(stage)
    last = await paced(rate, before_s, ask)
    back = _touched(stage) - served_before
    await asyncio.gather(*(caller.close() for caller in idle))
    share = at_most("of them at the dead one", touched / while_dead * 100, _SHARE * 100, "%")
    return [
        Check("requests while it was dead", f"{while_dead:,} in {dead_s:.0f} s"),
        at_most("of them at the dead one", touched, _FAILURES + _AT_ONCE_SHORT + probes, "requests") if short else share,
        none_of("not answered whole with 200", asked - statuses[200]),
        at_most("all circuits closed after", closed_s, _CLOSED_S, "s", timing=True),
        at_least("and then at the first again", back, 1, "requests")
        if short
        else all_of("and then all at the first again", back, last),
    ]


def _touched(stage: Stage) -> int:
    """Requests, not calls: on a connection that had served before, a reset is tried once more on a fresh one."""
    return len({record["marker"] for record in stage.served() if record["model"] == "primary"})


def _closed(stage: Stage) -> bool:
    states = {name: value for name, value in stage.metrics().items() if name.startswith("tollbridge_circuit_state{")}
    return not any(value for name, value in states.items() if 'provider="primary"' in name or 'provider="mock"' in name)


run = alone(act)
