"""All cases against one gateway, and what came of each.

upstream, which lies <── gateway <── a caller for each case (AT_ONCE at a time)
      └────── counted ──> judge <── reply ─────┘
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.torture import judge
from proxy.torture.caller import Gateway, Reply, chat, exchange, read_head
from proxy.torture.judge import Counted
from proxy.torture.scenarios import CALLER, GOOD, GROUPS, Case, Mistake, mistakes
from proxy.torture.upstream import Upstream

AT_ONCE = 16
LOOK_S = 0.01
LEAVING_S = 5.0  # for an upstream to be let go, before it counts as never
SETTLE_S = 0.2  # for a request that should not have been sent to arrive
DUE = {
    "answer": "the answer",
    "fault": "5xx",
    "timeout": "5xx or 408, in time",
    "limit": "429",
    "busy": "429 or 5xx",
    "callers": "4xx",
    "broken": "the text and no end, or 5xx",
}


@dataclass(frozen=True, slots=True)
class Result:
    """`faults`: why it is lost; none if it is won."""

    group: str
    name: str
    kind: str
    says: str
    due: str
    seen: str
    faults: Sequence[str]
    seconds: float | None = None

    @property
    def passed(self) -> bool:
        return not self.faults

    def as_dict(self) -> dict[str, Any]:
        return {
            "group": self.group,
            "name": self.name,
            "kind": self.kind,
            "says": self.says,
            "due": self.due,
            "seen": self.seen,
            "passed": self.passed,
            "faults": list(self.faults),
            "seconds": None if self.seconds is None else round(self.seconds, 2),
        }


def score(results: Iterable[Result]) -> dict[str, dict[str, int]]:
    """Won and lost of each group that was tried, and of all."""
    found = list(results)
    parts = {group: [one for one in found if one.group == group] for group in GROUPS} | {"all": found}
    return {name: {"passed": sum(one.passed for one in part), "of": len(part)} for name, part in parts.items() if part}


def aliases(cases: Iterable[Case]) -> dict[str, str]:
    """The script of each model that the upstream is asked for."""
    return {case.name: case.scenario.script for case in cases} | {GOOD: "ok", CALLER: "ok"}


async def answers(gateway: Gateway, *, patience_s: float) -> Reply:
    """What a plain request gets: whoever waits for the gateway asks until it is a 200."""
    return await exchange(gateway, gateway.post(chat(GOOD, stream=False)), patience_s=patience_s)


async def torture(
    gateway: Gateway, upstream: Upstream, cases: Sequence[Case], *, patience_s: float, callers: bool = True
) -> list[Result]:
    """In the order of the table. `callers`: the mistakes of callers, too."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(case: Case) -> Result:
        async with gate:
            if case.group == "leaving":
                return await _leave(gateway, upstream, case, patience_s)
            return await _ask(gateway, upstream, case, patience_s)

    work = [asyncio.ensure_future(one(case)) for case in cases]
    hostile = await _mistakes(gateway, upstream, patience_s) if callers else []
    return [*await asyncio.gather(*work), *hostile, *([_passed_on(gateway, upstream)] if callers else [])]


async def _ask(gateway: Gateway, upstream: Upstream, case: Case, patience_s: float) -> Result:
    data = gateway.post(chat(case.name, stream=case.kind == "stream"))
    reply = await exchange(gateway, data, patience_s=patience_s)
    counted = Counted(upstream.requests[case.name], upstream.strays[case.name], _keys(gateway, upstream))
    due = "the answer of another" if case.group == "failover" else DUE[case.scenario.due]
    faults = judge.faults(case, reply, counted)
    return _result(case, due, judge.seen(reply), faults, reply.ended_s)


async def _leave(gateway: Gateway, upstream: Upstream, case: Case, patience_s: float) -> Result:
    """Waits until the upstream has the request, or the caller the first of its text; then hangs up."""
    reply = Reply()
    left_at: float | None = None
    try:
        async with asyncio.timeout(patience_s):
            reader, writer = await gateway.connect()
            try:
                writer.write(gateway.post(chat(case.name, stream=case.kind == "stream")))
                await _within(patience_s, lambda: upstream.requests[case.name] > 0)
                if "content" in case.scenario.script:
                    await read_head(reader, reply)
                    await reader.read(1)
            finally:
                writer.transport.abort()
                left_at = time.monotonic()
    except (TimeoutError, OSError, EOFError, ValueError, asyncio.LimitOverrunError):
        return _result(case, "the upstream let go", judge.seen(reply), ["the request did not get as far as the upstream"], None)
    hung_up_s = await _let_go(upstream, case.name, left_at)
    shown = "never" if hung_up_s is None else f"after {hung_up_s:.2f} s"
    return _result(case, "the upstream let go", shown, judge.leaving_faults(hung_up_s), hung_up_s)


async def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        await asyncio.sleep(LOOK_S)
    return True


async def _let_go(upstream: Upstream, model: str, left_at: float) -> float | None:
    """Seconds from the caller's leaving to the upstream's loss, None when there was none."""
    if not await _within(LEAVING_S, lambda: bool(upstream.hung_up_at[model])):
        return None
    return max(0.0, upstream.hung_up_at[model][0] - left_at)


async def _mistakes(gateway: Gateway, upstream: Upstream, patience_s: float) -> list[Result]:
    """One after the other, so that it is known whose request reached the upstream."""
    found = []
    for mistake in mistakes(upstream.url):
        before = upstream.requests[CALLER] + upstream.unreadable
        reply = await exchange(gateway, _mistaken(gateway, mistake), patience_s=patience_s, half_close=mistake.half_close)
        if reply.status and not 400 <= reply.status < 500:
            await asyncio.sleep(SETTLE_S)
        counted = Counted(upstream.requests[CALLER] + upstream.unreadable - before, upstream.strays["body"])
        faults = judge.mistake_faults(mistake, reply, counted)
        due = " or ".join("a hang-up" if status == 0 else str(status) for status in mistake.statuses)
        found.append(Result("caller", mistake.name, "", mistake.says, due, judge.seen(reply), faults, reply.ended_s))
    return found


def _mistaken(gateway: Gateway, mistake: Mistake) -> bytes:
    plain = gateway.post(mistake.body)
    head, _, body = plain.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    if not mistake.length:
        lines = [line for line in lines if not line.startswith(b"content-length:")]
    return b"\r\n".join([*lines, *[f"{name}: {value}".encode() for name, value in mistake.headers]]) + b"\r\n\r\n" + body


def _passed_on(gateway: Gateway, upstream: Upstream) -> Result:
    faults = judge.passed_on(list(upstream.headers.values()), gateway.key)
    shown = "nothing" if not faults else "some"
    return Result("caller", "private", "", "the caller's own key and cookie", "nothing goes on", shown, faults)


def _keys(gateway: Gateway, upstream: Upstream) -> frozenset[str]:
    """One that the caller sent himself is no secret to him."""
    return frozenset(upstream.keys - {gateway.key})


def _result(case: Case, due: str, shown: str, faults: Sequence[str], seconds: float | None) -> Result:
    scenario = case.scenario
    return Result(case.group, scenario.script, case.kind, scenario.says, due, shown, faults, seconds)
