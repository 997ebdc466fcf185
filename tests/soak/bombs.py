"""Answers that are too much: 200 MiB packed in 200 KiB, ten of them, and ten streams with 48 MiB in one line, all at once.

While they come, `/livez` is asked again and again on a connection of its own; what it waits for is what every other caller waits for.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from tests.soak.stage import Caller, Check, Stage, all_of, alone, at_most, none_of

_BOMBS = 20
_REST_S, _REST_SHORT_S = 2.0, 0.2
_SAMPLE_S = 0.01


async def act(stage: Stage) -> list[Check]:
    await asyncio.sleep(_REST_SHORT_S if stage.options.short else _REST_S)
    before, most = stage.rss_mib(), 0.0
    waits: list[float] = []
    statuses: Counter[int] = Counter()
    over = asyncio.Event()

    async def throw(number: int) -> None:
        caller = Caller(stage.port)
        answer = await caller.ask("bomb" if number % 2 else "line", stream=number % 4 != 1, marker=f"b{number}")
        statuses[answer.status if answer.whole else 0] += 1
        await caller.close()

    async def weigh() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, await asyncio.to_thread(stage.rss_mib))
            await asyncio.sleep(_SAMPLE_S)

    async def look() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
        while not over.is_set():
            began = time.perf_counter()
            writer.write(b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
            waits.append(time.perf_counter() - began)
            await asyncio.sleep(_SAMPLE_S)
        writer.close()
        await writer.wait_closed()

    async with asyncio.TaskGroup() as around:
        around.create_task(weigh())
        around.create_task(look())
        async with asyncio.TaskGroup() as group:
            for number in range(_BOMBS):
                group.create_task(throw(number))
        over.set()
    still = await stage.settled()
    return [
        Check("statuses", ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items()))),
        all_of("answered 502", statuses[502], _BOMBS),
        none_of("still in use, here or upstream", still),
        at_most("resident memory, added at most", most - before, 64, "MiB"),
        at_most("longest wait for /livez", max(waits) * 1e3, 100, "ms", timing=True),
    ]


run = alone(act)
