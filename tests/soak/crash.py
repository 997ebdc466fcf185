"""kill -9 of the server, again and again, under a load half of which is streamed. What the ledger says afterwards is held against
what the clients saw whole and what the upstream gave out.

A client's marker goes to the upstream as `user` and to the ledger as the task id, so that a dispatch can be found in the ledger
even where the client never learnt its request id.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.stage import Caller, Check, Options, Stage, at_most, mock_provider, none_of

_KILLS, _KILLS_SHORT = 50, 5
_STREAMERS, _ASKERS = 16, 16
_PACE_S = 0.12  # of those who ask for whole answers: as many requests as the streamers have


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
    kills = _KILLS_SHORT if options.short else _KILLS
    dice = random.Random(7)
    with Stage(folder, options) as stage:
        stage.prepare(mock_provider(stage))
        starts = [await asyncio.to_thread(stage.start)]
        seen, stop = Seen(), asyncio.Event()
        load_s = 0.0
        async with asyncio.TaskGroup() as group:
            for number in range(_STREAMERS + _ASKERS):
                group.create_task(_client(stage.port, number, stream=number < _STREAMERS, seen=seen, stop=stop))
            for _ in range(kills):
                span_s = dice.uniform(0.5, 1.2)
                await asyncio.sleep(span_s)
                load_s += span_s
                stage.child.kill()
                starts.append(await asyncio.to_thread(stage.start))
            await asyncio.sleep(0.5)
            stop.set()
        rows = await stage.drained({seen.ids.get(marker, "") for marker in seen.whole})
        return [
            Check("kills", f"{kills}"),
            Check("load", f"{seen.asked:,} requests, {seen.streamed:,} streamed"),
            Check("rate while up", f"{seen.asked / load_s:,.0f}/s", "≥ 100/s", seen.asked / load_s >= 100),
            Check("answers whole / cut off", f"{len(seen.whole):,} / {seen.cut:,}"),
            Check("statuses", ", ".join(f"{status}: {count:,}" for status, count in sorted(seen.statuses.items()))),
            *_compare(stage, seen, rows),
            at_most("restart to ready, median", statistics.median(starts[1:]), 1.0, "s"),
            Check("restart to ready, worst", f"{max(starts[1:]):.2f} s"),
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


def _compare(stage: Stage, seen: Seen, rows: list[dict[str, Any]]) -> list[Check]:
    by_id = {row["id"]: row for row in rows}
    served = {record["marker"]: record for record in stage.served()}
    lost = {marker for marker in seen.whole if by_id.get(seen.ids.get(marker, ""), {}).get("outcome") != "ok"}
    wrong = [marker for marker in seen.whole - lost if not _agree(by_id[seen.ids[marker]], served[marker])]
    sums = stage.sums()
    outcomes = Counter(row["outcome"] for row in rows)
    ended = [row for row in rows if row["outcome"] != "running"]
    twice = len(rows) - len(by_id) + max(0, sums["requests"] - len(ended))
    surplus = sums["output_tokens"] - sum(row["output_tokens"] or 0 for row in ended)
    return [
        none_of("seen whole, not in the ledger", len(lost)),
        none_of("seen whole, other tokens in the ledger", len(wrong)),
        none_of("counted twice, rows", twice),
        none_of("counted twice, tokens", max(0, surplus)),
        none_of("dispatched without any row", len(_unrecorded(stage, seen, by_id, set(served)))),
        Check("rows by outcome", ", ".join(f"{name}: {count:,}" for name, count in outcomes.most_common())),
    ]


def _unrecorded(stage: Stage, seen: Seen, by_id: dict[str, dict[str, Any]], dispatched: set[str]) -> set[str]:
    """Markers that reached the upstream and stand in no row. A row whose id no client saw tells its marker as the task id."""
    recorded = {marker for marker, request_id in seen.ids.items() if request_id in by_id}
    known = set(seen.ids.values())
    for request_id, row in by_id.items():
        if request_id not in known:
            task_id = row.get("task_id") or stage.api(f"/api/v1/requests/{request_id}").get("task_id")
            recorded.add(str(task_id))
    return dispatched - recorded


def _agree(row: dict[str, Any], served: dict[str, Any]) -> bool:
    names = ("input_tokens", "cached_input_tokens", "output_tokens")
    return all(row[name] == served[name] for name in names)
