"""Callers that are slow on purpose: heads that never end, bodies that stall or trickle, streams that nobody reads. Among them an honest
one, who must not notice, from when the first of them comes until the last has gone. What he is used to is what he had before and has
afterwards, for on a machine that is shared no minute is like the other.

A stalled body ends with the grace that every body has, a trickling one with the time that the longest may take. That a stream which
nobody reads is given up shows at the upstream, which is hung up on.

All of them are there at once: those who do not read come first, since they are borne the longest. They stand for other machines, and so
does the upstream of theirs: they get what the proxy, the honest caller and his upstream leave of the processor, or these would wait for
them instead of for the proxy. That they keep their own pace all the same is one of the checks.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any, Self

import orjson

from proxy.engine.attempt import WRITE_STALL_S
from proxy.server.protocol import BODY_GRACE_S, BODY_S, HEAD_S
from tests.bench.processes import Child, get, python
from tests.soak.dawdlers import HEADS, STALLED, TRICKLING, DawdlersPlan, DawdlersResult, Kind
from tests.soak.hasty import PATIENCE_S
from tests.soak.honest import HonestPlan
from tests.soak.stage import (
    CANARIES,
    Caller,
    Check,
    Options,
    Stage,
    all_of,
    at_most,
    common_config,
    none_of,
    p99_ms,
    wait_until,
)

_HEADS, _HEADS_SHORT = 2_000, 60
_BODIES, _BODIES_SHORT = 500, 20
_READERS, _READERS_SHORT = 500, 12
_HONEST_RATE, _HONEST_RATE_SHORT = 100.0, 20.0
_CALM_S, _CALM_SHORT_S = 15.0, 0.3  # before, and afterwards
_LATE_S = 1.0
_PATIENCE_S = 30.0
_LINE_S = 120.0
_APART_S = 0.02


async def run(folder: Path, options: Options) -> list[Check]:
    with Stage(folder, options) as stage, _Flood(folder) as flood:
        config = common_config(stage)
        mock = config["providers"]["mock"]
        config["providers"]["flood"] = {**mock, "base_url": f"http://127.0.0.1:{flood.port}/v1"}
        config["chains"][_endless(options)] = [f"flood/{_endless(options)}"]
        if not options.short:
            del config["server"]["max_wait"]  # nobody is refused with what anybody runs, either
        stage.prepare(config, module="tests.soak.hasty" if options.short else "proxy")
        await asyncio.to_thread(stage.start)
        await stage.warmed()
        return await _act(stage, flood)


async def _act(stage: Stage, flood: _Flood) -> list[Check]:
    options = stage.options
    limits = {"HEAD_S": HEAD_S, "BODY_S": BODY_S, "BODY_GRACE_S": BODY_GRACE_S, "WRITE_STALL_S": WRITE_STALL_S}
    limits = PATIENCE_S if options.short else limits
    heads, bodies, readers = (
        options.of(*both) for both in ((_HEADS, _HEADS_SHORT), (_BODIES, _BODIES_SHORT), (_READERS, _READERS_SHORT))
    )
    honest = _Honest(stage, _HONEST_RATE_SHORT if options.short else _HONEST_RATE)
    dawdlers = _Dawdlers(stage, heads, bodies, readers)
    if not options.short:
        flood.child.stand_back()
        dawdlers.child.stand_back()
    calm_s = _CALM_SHORT_S if options.short else _CALM_S
    await asyncio.to_thread(honest.begin)
    await asyncio.sleep(calm_s)
    disturbed = time.monotonic()
    await asyncio.to_thread(dawdlers.begin)
    present = time.monotonic()
    await wait_until(
        lambda: dawdlers.ended() >= heads + bodies and flood.counts()["left"] >= readers,
        max(limits.values()) + _PATIENCE_S,
        poll_s=0.5,
    )
    left = time.monotonic()
    await asyncio.sleep(calm_s)
    asked = await asyncio.to_thread(honest.end)
    slow = await asyncio.to_thread(dawdlers.end)
    given_up = flood.given_up()
    borne = [record["gone"] - record["arrived"] for record in given_up]
    late = [record["gone"] - record["stalled"] for record in given_up]
    still = await stage.settled() + flood.counts()["busy"]
    statuses = Counter(status for _, _, status in asked)
    before, coming, there, after = (
        [took for at, took, _ in asked if since <= at < until]
        for since, until in ((0.0, disturbed), (disturbed, present), (present, left), (left, float("inf")))
    )

    found = [
        Check("honest requests", f"{len(asked):,} at {_HONEST_RATE_SHORT if options.short else _HONEST_RATE:g}/s"),
        Check("their statuses", ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items()))),
        none_of("honest requests, not whole and 200", len(asked) - statuses[200]),
        Check("honest p99: before; while the many come; while they are there; after", _p99s(before, coming, there, after)),
        at_most("honest p99 with them, to without", p99_ms(coming + there) / p99_ms(before + after), 2, "×", timing=True),
        at_most("a drip, later than it should be", slow.late_s, _LATE_S, "s", timing=True),
    ]
    for name, count, limit in (
        (HEADS, heads, "HEAD_S"),
        (STALLED, bodies // 2, "BODY_GRACE_S"),
        (TRICKLING, bodies - bodies // 2, "BODY_S"),
    ):
        kind = slow.kinds[name]
        found += _reaped(name, kind.lasted, kind.lasted, count, limits[limit])
        found.append(all_of(f"{name}, told 408", kind.heard.get("408", 0), count))
    # the caller's side is full before the upstream's is, and that after the request came
    found += _reaped("streams that nobody reads", borne, late, readers, limits["WRITE_STALL_S"])
    rows = stage.sql("SELECT count(*) FROM requests WHERE task_id GLOB 'n[0-9]*' AND outcome = 'client_gone' AND ended = 1")
    found.append(all_of("their rows, client_gone", rows[0][0], readers))
    return [*found, none_of("still in use, here or upstream", still)]


def _endless(options: Options) -> str:
    """At a pace at which the honest ones can be told apart from those that fill up."""
    return "endless-2" if options.short else "endless-20"


def _p99s(*spans: list[float]) -> str:
    return "; ".join(f"{p99_ms(seconds):,.1f} ms" for seconds in spans)


def _reaped(name: str, lasted: list[float], late: list[float], count: int, limit_s: float) -> list[Check]:
    """`lasted` is no shorter than the time that counts, `late` no longer."""
    return [
        all_of(f"{name}, ended", len(lasted), count),
        none_of(f"{name}, ended before {limit_s:g} s", sum(seconds < limit_s - 0.2 for seconds in lasted)),
        at_most(f"{name}, ended after at most", max(late, default=float("inf")), limit_s + _LATE_S, "s", timing=True),
    ]


class _Flood:
    """The upstream of those who do not read, apart from the honest one's: what it has to do he need not wait for."""

    def __init__(self, folder: Path) -> None:
        self.child = Child(python("-m", "tests.soak.upstream"), log=folder / "flood.log", pipes=True)
        self.port: int = self.child.line(_LINE_S)["port"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.stop()

    def counts(self) -> dict[str, int]:
        found: dict[str, int] = orjson.loads(get(self.port, "/counts", timeout_s=_PATIENCE_S)[1])
        return found

    def given_up(self) -> list[dict[str, Any]]:
        """The streams that it was hung up on."""
        return [record for record in orjson.loads(get(self.port, "/seen", timeout_s=_PATIENCE_S)[1]) if record["gone"]]


class _Dawdlers:
    """`dawdlers.py`, from `begin` to `end`."""

    def __init__(self, stage: Stage, heads: int, bodies: int, readers: int) -> None:
        asking = Caller(stage.port)
        requests = [
            asking.request(_endless(stage.options), stream=True, marker=f"n{number}").decode() for number in range(readers)
        ]
        stalled = bodies // 2
        self._plan = DawdlersPlan(stage.port, CANARIES.client_key, heads, stalled, bodies - stalled, requests, _APART_S)
        self.child = Child(python("-m", "tests.soak.dawdlers"), log=stage.folder / "dawdlers.log", pipes=True)

    def begin(self) -> None:
        """Until all of them have come."""
        self.child.say(orjson.dumps(self._plan).decode())
        self.child.line(_LINE_S)

    def ended(self) -> int:
        """How many heads and bodies have ended so far."""
        self.child.say("how many")
        ended: int = self.child.line(_LINE_S)["ended"]
        return ended

    def end(self) -> DawdlersResult:
        try:
            self.child.say("enough")
            found = self.child.line(_LINE_S)
        finally:
            self.child.stop()
        CANARIES.look("an answer to a slow caller", found["answers"].encode("latin-1"))
        kinds = {name: Kind(**kind) for name, kind in found["kinds"].items()}
        return DawdlersResult(kinds, found["late_s"], found["answers"])


class _Honest:
    """`honest.py`, from `begin` to `end`."""

    def __init__(self, stage: Stage, rate: float) -> None:
        self._plan = HonestPlan(stage.port, CANARIES.client_key, "whole", rate)
        self._child = Child(python("-m", "tests.soak.honest"), log=stage.folder / "honest.log", pipes=True)

    def begin(self) -> None:
        self._child.say(orjson.dumps(self._plan).decode())
        self._child.line(_LINE_S)

    def end(self) -> list[tuple[float, float, int]]:
        """When each was asked, how long it took, and its status."""
        try:
            self._child.say("enough")
            found = self._child.line(_LINE_S)
        finally:
            self._child.stop()
        CANARIES.look("an honest caller's answer", found["last"].encode("latin-1"))
        return [(at, took, status) for at, took, status in found["asked"]]
