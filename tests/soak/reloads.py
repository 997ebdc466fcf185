"""A new configuration each second under open streams, every third of them broken. The streams must not notice."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from tests.soak.stage import Caller, Check, Stage, all_of, alone, at_least, common_config, guarded, none_of, wait_until

_RELOADS, _RELOADS_SHORT = 60, 3
_STREAMS, _STREAMS_SHORT = 100, 20
_ASKERS = 8
_EVERY_S = 1.0
_TAKEN_S = 20.0
_ASK_PAUSE_S = 0.02
_RESULTS = tuple(f'tollbridge_config_reloads_total{{result="{result}"}}' for result in ("ok", "error"))


async def act(stage: Stage) -> list[Check]:
    options = stage.options
    reloads, streams = options.of(_RELOADS, _RELOADS_SHORT), options.of(_STREAMS, _STREAMS_SHORT)
    stop = asyncio.Event()
    streamed: Counter[str] = Counter()
    statuses: Counter[int] = Counter()

    async def listen(number: int) -> None:
        caller = Caller(stage.port)
        serial = 0
        while not stop.is_set():
            serial += 1
            answer = await caller.ask("lone-50", stream=True, marker=f"r{number}-{serial}")
            streamed["whole" if answer.whole and answer.done and answer.events == 54 else "broken"] += 1
            statuses[answer.status] += 1
        await caller.close()

    async def ask(number: int) -> None:
        caller = Caller(stage.port)
        while not stop.is_set():
            answer = await caller.ask("mixed", stream=False, marker=f"r{number}")
            statuses[answer.status if answer.whole else 0] += 1
            await asyncio.sleep(_ASK_PAUSE_S)
        await caller.close()

    before = _reloaded(stage)
    async with asyncio.TaskGroup() as group:
        for number in range(streams):
            group.create_task(listen(number))
        for number in range(_ASKERS):
            group.create_task(ask(number))
        told = await _reload(stage, reloads)
        stop.set()
    after = _reloaded(stage)
    await _write(stage, guarded(common_config(stage)))  # as it was
    good, bad = (now - then for now, then in zip(after, before, strict=True))
    return [
        Check("streams, each 1 s", f"{streamed.total():,}, {streams} at a time"),
        none_of("streams that broke", streamed["broken"]),
        none_of("5xx", sum(count for status, count in statuses.items() if status >= 500)),
        none_of("other than 200", sum(count for status, count in statuses.items() if status != 200)),
        all_of("reloads, taken", good, reloads - reloads // 3),
        # a faulty file may be looked at twice
        at_least("reloads, refused and told", bad, reloads // 3, "times"),
        all_of("chains that a reload brought, answered at once", told, reloads - reloads // 3),
    ]


async def _reload(stage: Stage, reloads: int) -> int:
    """Writes one file after the other; how many chains answered that a good one brought."""
    config = common_config(stage)
    chains = dict(config["chains"])
    caller = Caller(stage.port)
    told = 0
    loop = asyncio.get_running_loop()
    for number in range(reloads):
        began = loop.time()
        if number % 3 == 2:
            await _write(stage, {**guarded(config), "chains": {"smart": ["nobody/nothing"]}, "chians": {}})
        else:
            await _write(stage, guarded({**config, "chains": {**chains, f"new-{number}": ["mock/mixed"]}}))
            told += (await caller.ask(f"new-{number}", stream=False, marker=f"r-{number}")).status == 200
        if not stage.options.short:
            await asyncio.sleep(max(0.0, began + _EVERY_S - loop.time()))
    await caller.close()
    return told


async def _write(stage: Stage, config: dict[str, Any]) -> None:
    """Until the server has said what it thinks of it, or has had its time."""
    before = _reloaded(stage)
    stage.server.write(config)
    await wait_until(lambda: _reloaded(stage) != before, _TAKEN_S, poll_s=0.02)


def _reloaded(stage: Stage) -> tuple[int, int]:
    metrics = stage.metrics()
    good, bad = (int(metrics.get(name, 0)) for name in _RESULTS)
    return good, bad


run = alone(act)
