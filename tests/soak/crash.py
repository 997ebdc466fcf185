"""kill -9 of whichever process it hits (a worker, the drainer, the supervisor), again and again, under a load half of which is
streamed. What the ledger says afterwards is held against what the clients saw whole and what the upstream was asked.

A client's marker goes to the upstream as `user` and to the ledger as the task id, so that a dispatch can be found in the ledger
even where the client never learnt its request id. The ledger is read from the database itself.

A worker or the drainer is started again by the supervisor, and counts as back when a process of its kind is there that was not
before; the supervisor is started again by us, as systemd would, and counts as back when it is ready.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import signal
import statistics
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.processes import HarnessError, get
from tests.soak.stage import Caller, Check, Options, Stage, at_least, at_most, mock_provider, none_of, wait_until

_KILLS, _KILLS_SHORT = 200, 3
_WORKERS = 2
_STREAMERS, _ASKERS = 24, 24
_STREAMERS_SHORT, _ASKERS_SHORT = 6, 6
_PACE_S = 0.12  # of those who ask for whole answers: as many requests as the streamers have
_SPAN_S, _SPAN_SHORT_S = (0.4, 1.2), (0.1, 0.3)
_BACK_S = 20.0  # nothing is waited for longer
_GONE_S = 40.0  # for what an ended supervisor left behind to end: it lets what runs finish
_ORPHANS_S = 90.0
_POLL_S = 0.005
_DRAINER = "proxy.storage.drainer"
_WORKER = "[tollbridge-w"
_ODDS = {"worker": 5, "drainer": 3, "supervisor": 2}


@dataclass(slots=True)
class Seen:
    """From the clients' side. `ids`: request id by marker, wherever an answer's head came; `whole`: markers of whole ones."""

    asked: int = 0
    streamed: int = 0
    cut: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)


async def run(folder: Path, options: Options) -> list[Check]:
    kills = options.of(_KILLS, _KILLS_SHORT)
    streamers, askers = options.of(_STREAMERS, _STREAMERS_SHORT), options.of(_ASKERS, _ASKERS_SHORT)
    with Stage(folder, options) as stage:
        stage.prepare(mock_provider(stage), workers=_WORKERS)
        await asyncio.to_thread(stage.start)
        await stage.warmed()
        killer = Killer(stage)
        seen, stop = Seen(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(streamers + askers):
                group.create_task(_client(stage.port, number, stream=number < streamers, seen=seen, stop=stop))
            await killer.run(kills)
            await asyncio.sleep(0.5)
            stop.set()
        left = await killer.left_behind()
        await stage.ended({seen.ids.get(marker, "") for marker in seen.whole})
        await _closed(stage, 0.0 if options.short else _ORPHANS_S)
        back = killer.back_s
        return [
            Check("kills", ", ".join(f"{role}: {len(seconds)}" for role, seconds in sorted(back.items()))),
            Check("load", f"{seen.asked:,} requests, {seen.streamed:,} streamed"),
            at_least("rate", seen.asked / killer.load_s, 200, "/s", timing=True),
            Check("answers whole / cut off", f"{len(seen.whole):,} / {seen.cut:,}"),
            Check("statuses", ", ".join(f"{status}: {count:,}" for status, count in sorted(seen.statuses.items()))),
            *_compare(stage, seen),
            *([] if options.short else [none_of("rows that still run", stage.sql(_RUNNING)[0][0])]),
            none_of("never came back", killer.lost),
            none_of("processes left behind", left),
            *_restarts(back),
        ]


async def _closed(stage: Stage, seconds: float) -> None:
    """Until no row runs any more, or so long: what a killed process had begun is closed a minute later."""
    asked = {record["marker"] for record in stage.served()}
    await wait_until(lambda: asked <= {row[0] for row in stage.sql("SELECT task_id FROM request_rows")}, _BACK_S)
    await wait_until(lambda: stage.sql(_RUNNING)[0][0] == 0, seconds, poll_s=1.0)


class Killer:
    """`back_s`: by role, how long it took each time."""

    def __init__(self, stage: Stage) -> None:
        self.back_s: dict[str, list[float]] = defaultdict(list)
        self.load_s = 0.0
        self.lost = 0
        self._stage = stage
        self._dice = random.Random(7)
        self._orphans: set[int] = set()

    async def run(self, kills: int) -> None:
        began = time.monotonic()
        span = _SPAN_SHORT_S if self._stage.options.short else _SPAN_S
        # each role once, then as the dice have it
        roles = list(_ODDS)[:kills] + self._dice.choices(list(_ODDS), list(_ODDS.values()), k=max(0, kills - len(_ODDS)))
        for role in roles:
            await asyncio.sleep(self._dice.uniform(*span))
            await self._kill(role)
        self.load_s = time.monotonic() - began

    async def _kill(self, role: str) -> None:
        stage = self._stage
        if role == "supervisor":
            self._orphans |= {pid for pid, _ in stage.processes()} - {stage.child.pid}
            stage.child.kill()
            began = time.monotonic()
            while not await asyncio.to_thread(self._started):
                if time.monotonic() > began + _BACK_S:
                    self.lost += 1
                    return
            # at first it may be one of those left behind that answers, until it notices
            while not await asyncio.to_thread(self._answers):
                if time.monotonic() > began + _BACK_S:
                    self.lost += 1
                    return
                await asyncio.sleep(_POLL_S)
            self.back_s[role].append(time.monotonic() - began)
            return
        await wait_until(lambda: bool(self._pids(role)), _BACK_S)  # the drainer comes after the workers
        before = self._pids(role)
        if not before:
            self.lost += 1
            return
        victim = self._dice.choice(sorted(before))
        began = time.monotonic()
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        while not self._pids(role) - before or len(self._pids(role)) < len(before):
            if time.monotonic() > began + _BACK_S:
                self.lost += 1
                return
            await asyncio.sleep(_POLL_S)
        self.back_s[role].append(time.monotonic() - began)

    def _started(self) -> bool:
        """False: it could not, as when those before it have not yet let go of the port."""
        try:
            self._stage.start()
        except HarnessError:
            return False
        return True

    def _answers(self) -> bool:
        """One of the new supervisor's workers, which are there as soon as it says who they are."""
        state = self._stage.server.data_dir / "run" / "supervisor.json"
        try:
            told = json.loads(state.read_bytes())
            return told["pid"] == self._stage.child.pid and all(told["workers"]) and get(self._stage.port, "/readyz")[0] == 200
        except (OSError, ValueError, http.client.HTTPException):
            return False

    def _pids(self, role: str) -> set[int]:
        wanted = _DRAINER if role == "drainer" else _WORKER
        return {pid for pid, command in self._stage.processes() if wanted in command}

    async def left_behind(self) -> int:
        """How many of those whose supervisor was killed are still there."""
        until = time.monotonic() + _GONE_S
        while self._orphans and time.monotonic() < until:
            self._orphans = {pid for pid in self._orphans if _runs(pid)}
            await asyncio.sleep(0.05)
        return len(self._orphans)


def _runs(pid: int) -> bool:
    """A zombie does not: nobody need wait for it, init does."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _restarts(back: dict[str, list[float]]) -> list[Check]:
    return [
        at_most(f"{role} back after, {name}", how(seconds), 1.0, "s", timing=True)
        for role, seconds in sorted(back.items())
        for name, how in (("median", statistics.median), ("worst", max))
    ]


async def _client(port: int, number: int, *, stream: bool, seen: Seen, stop: asyncio.Event) -> None:
    caller = Caller(port)
    serial = 0
    while not stop.is_set():
        serial += 1
        marker = f"c{number}-{serial}"
        try:
            answer = await caller.ask("mixed", stream=stream, marker=marker)
        except OSError:  # it is being started again
            await asyncio.sleep(0.02)
            continue
        seen.asked += 1
        seen.streamed += stream
        seen.statuses[answer.status] = seen.statuses.get(answer.status, 0) + 1
        if answer.request_id:
            seen.ids[marker] = answer.request_id
        if answer.whole and answer.status == 200:
            seen.whole.add(marker)
        else:
            seen.cut += 1
        if not stream:
            await asyncio.sleep(_PACE_S)
    await caller.close()


def _compare(stage: Stage, seen: Seen) -> list[Check]:
    served = {record["marker"]: record for record in stage.served()}
    rows = stage.sql("SELECT id, task_id, outcome, ended FROM requests WHERE task_id GLOB 'c[0-9]*'")
    outcome_of = {row[0]: row[2] for row in rows}
    kept = {row[0]: row[1:] for row in stage.sql(_TOKENS)}
    outcomes = Counter(row[2] for row in rows)
    lost = [marker for marker in seen.whole if outcome_of.get(seen.ids[marker]) != "ok"]
    wrong = [marker for marker in seen.whole if kept.get(seen.ids[marker]) != _tokens(served[marker])]
    ended = sum(row[3] for row in rows)
    sums = stage.sql("SELECT total(requests), total(attempts), total(output_tokens), total(cost_nusd) FROM usage_hourly")[0]
    each_row = stage.sql("SELECT count(*), total(output_tokens), total(cost_nusd) FROM attempt_rows WHERE rank = 2")[0]
    return [
        none_of("seen whole, not in the ledger", len(lost)),
        none_of("seen whole, other tokens in the ledger", len(wrong)),
        none_of("rows for one request, beyond the first", len(rows) - len({row[1] for row in rows})),
        Check(
            "sums: requests, attempts, tokens, nano-dollars",
            ", ".join(f"{value:,.0f}" for value in sums),
            ", ".join(f"{value:,.0f}" for value in (ended, *each_row)),
            sums == (ended, *each_row),
        ),
        none_of("dispatched without any row", len(set(served) - {row[1] for row in rows})),
        Check("rows by outcome", ", ".join(f"{name}: {count:,}" for name, count in outcomes.most_common())),
    ]


_RUNNING = "SELECT count(*) FROM request_rows WHERE ended = 0"
_TOKENS = "SELECT request_id, input_tokens, cached_input_tokens, output_tokens FROM attempts WHERE outcome = 'ok' ORDER BY request_id, n"


def _tokens(served: dict[str, Any]) -> tuple[int, int, int]:
    return served["input_tokens"], served["cached_input_tokens"], served["output_tokens"]
