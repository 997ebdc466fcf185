"""Clients that leave: at connect, before the first byte, in the middle of a stream. What is left of them afterwards, here and upstream.

How long the upstream waits for the hang-up is taken from its own note of it and the client's, by the host's clock: from the moment
that the client left, or that the request came there, whichever is later.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

from tests.bench.load import Answer, Connection
from tests.soak.stage import Caller, Check, Stage, all_of, alone, at_most, each, none_of, p99_ms

_LEAVERS, _LEAVERS_SHORT = 20_000, 360
_AFTERWARDS, _AFTERWARDS_SHORT = 1_000, 100
_CLIENTS = 64
_REST_S, _REST_SHORT_S = 3.0, 0.3
_LOOKS, _APART_S = 5, 0.05
# one that checks a provider may come between the looks, where there is no time to wait for its end
_TASKS, _TASKS_SHORT = 0, 5


async def act(stage: Stage) -> list[Check]:
    options = stage.options
    leavers, afterwards = options.of(_LEAVERS, _LEAVERS_SHORT), options.of(_AFTERWARDS, _AFTERWARDS_SHORT)
    rest_s = _REST_SHORT_S if options.short else _REST_S
    await _good(stage, afterwards)
    await stage.settled()
    await asyncio.sleep(rest_s)
    before = stage.rss_mib(), stage.files(), await _tasks(stage)

    left: dict[str, float] = {}
    dice = random.Random(11)
    waits = [dice.uniform(0.0, 0.03) for _ in range(997)]

    async def leave(caller: Caller, number: int) -> None:
        marker = f"d{number}"
        match number % 6:
            case 0:
                (await caller.connected()).hang_up()
            case 1:
                await _send_and_go(caller, marker, share=0.5)
            case 2:
                await _send_and_go(caller, marker, share=1.0)
                left[marker] = time.monotonic()
            case 3 | 4:
                await _before_the_first_byte(caller, marker, waits[number % len(waits)], left)
            case _:
                await _mid_stream(caller, marker, left)
        await caller.close()

    began = time.monotonic()
    await each(iter(range(leavers)), _CLIENTS, stage.port, leave)
    seconds = time.monotonic() - began
    still = await stage.settled()
    await asyncio.sleep(rest_s)
    after = stage.rss_mib(), stage.files(), await _tasks(stage)
    statuses = await _good(stage, afterwards)
    await stage.settled()

    noted = {record["marker"]: record for record in stage.served() if record["marker"].startswith("d")}
    waited = [record["gone"] - max(left[marker], record["arrived"]) for marker, record in noted.items() if record["gone"]]
    deaf = [marker for marker, record in noted.items() if not record["gone"] and not record["whole"]]
    rows = dict(stage.sql("SELECT task_id, count(*) FROM requests WHERE task_id GLOB 'd[0-9]*' AND ended = 1 GROUP BY task_id"))
    return [
        Check("clients that left", f"{leavers:,} in {seconds:,.0f} s, {len(noted):,} of them known upstream"),
        none_of("still in use, here or upstream", still),
        none_of("the upstream never heard of", len(deaf)),
        none_of("dispatched without a row of their own", sum(rows.get(marker) != 1 for marker in noted)),
        at_most("open files, growth", after[1] - before[1], 5, "files"),
        at_most("tasks, growth", after[2] - before[2], options.of(_TASKS, _TASKS_SHORT), "tasks"),
        at_most("resident memory, growth", after[0] - before[0], 20, "MiB"),
        all_of("the next ones, answered 200", statuses[200], afterwards),
        at_most("upstream hung up on after, p99", p99_ms(waited), 250, "ms", timing=True),
    ]


async def _tasks(stage: Stage) -> int:
    """The fewest of some looks: now and then there is one that checks a provider or writes an alert."""
    found = []
    for _ in range(_LOOKS):
        found.append(int(stage.metrics()["tollbridge_tasks"]))
        await asyncio.sleep(_APART_S)
    return min(found)


async def _good(stage: Stage, requests: int) -> Counter[int]:
    """So many that are answered, half of them streamed: how, and whole."""
    statuses: Counter[int] = Counter()

    async def ask(caller: Caller, number: int) -> None:
        answer = await caller.ask("mixed", stream=number % 2 == 0, marker=f"g{number}")
        statuses[answer.status if answer.whole else 0] += 1

    await each(iter(range(requests)), _CLIENTS, stage.port, ask)
    return statuses


async def _send_and_go(caller: Caller, marker: str, *, share: float) -> None:
    connection = await caller.connected()
    request = caller.request("mixed", stream=True, marker=marker)
    connection.send(request[: int(len(request) * share)])
    await asyncio.sleep(0)
    connection.hang_up()


async def _before_the_first_byte(caller: Caller, marker: str, wait_s: float, left: dict[str, float]) -> None:
    connection = await caller.connected()
    connection.send(caller.request("hold", stream=len(marker) % 2 == 0, marker=marker))
    await asyncio.sleep(wait_s)
    left[marker] = time.monotonic()
    connection.hang_up()


async def _mid_stream(caller: Caller, marker: str, left: dict[str, float]) -> None:
    def leave(connection: Connection) -> None:
        left.setdefault(marker, time.monotonic())
        connection.hang_up()

    answer: Answer = await caller.ask("lone-2000", stream=True, marker=marker, on_data=leave)
    left.setdefault(marker, answer.ended)


run = alone(act)
