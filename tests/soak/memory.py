"""What the server keeps: idle, with a thousand streams open, and after a hundred thousand requests of which 5 % were hung up on.

Memory is the resident memory of the whole process tree, pages that two processes share counted in both.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import orjson

from tests.bench.load import Plan
from tests.bench.processes import Child, python
from tests.bench.subjects import bench_config
from tests.soak.stage import CANARIES, MIB, Check, Options, Stage, at_most, none_of

_STREAMS = 1_000
_FIRST, _ALL = 20_000, 100_000
_SETTLE_S = 3.0


async def run(folder: Path, options: Options) -> list[Check]:
    return await asyncio.to_thread(_run, folder, options)


def _run(folder: Path, options: Options) -> list[Check]:
    scale = 0.1 if options.short else 1.0
    with Stage(folder, options) as stage:
        config = bench_config(stage.upstream_port, ("whole", "flood-20", "lone-250"), transport=options.transport)
        config["server"]["max_wait"] = "0s"  # a thousand at once are a burst that may be refused, which is not what this is about
        stage.prepare(config)
        ready_s = stage.start()
        time.sleep(_SETTLE_S)
        idle, alone = stage.rss_mib(), stage.child.rss_bytes(main_only=True) / MIB
        streams, added = _streams(stage, idle)
        time.sleep(_SETTLE_S)
        aborted = _load(stage, int(_FIRST * scale))
        first, files = stage.rss_mib(), stage.files()
        aborted += _load(stage, int((_ALL - _FIRST) * scale))
        last, files_last = stage.rss_mib(), stage.files()
        in_flight = stage.metrics()["tollbridge_requests_in_flight"]
        return [
            at_most("start to ready", ready_s, 1.0, "s", timing=True),
            at_most("idle, all processes", idle, 90, "MiB"),
            Check("of that the server alone", f"{alone:,.1f} MiB"),
            none_of("1,000 streams: not whole", _STREAMS - streams["whole"]),
            at_most("1,000 streams open: added", added, 40, "MiB"),
            Check("requests, of them hung up on", f"{int(_ALL * scale):,}, {aborted:,}"),
            Check("after the first fifth", f"{first:.1f} MiB"),
            at_most("growth from there to the end", last - first, 10, "MiB"),
            at_most("open files, growth", files_last - files, 10, "files"),
            none_of("requests in flight at the end", int(in_flight)),
        ]


def _streams(stage: Stage, before: float) -> tuple[dict[str, Any], float]:
    """A thousand at a time, 5 s long; the most that they added while they ran."""
    plan = Plan(port=stage.port, model="lone-250", stream=True, connections=_STREAMS, requests=_STREAMS, events=254)
    plan.key = CANARIES.client_key
    child = _start(stage, plan)
    most = 0.0
    until = time.monotonic() + 4.0
    while time.monotonic() < until:
        most = max(most, stage.rss_mib() - before)
        time.sleep(0.25)
    return _end(child, plan), most


def _load(stage: Stage, requests: int) -> int:
    """Half whole, half streamed, a tenth of the streams hung up on; how many those were."""
    aborted = 0
    for model, stream in (("whole", False), ("flood-20", True)):
        plan = Plan(
            port=stage.port,
            model=model,
            stream=stream,
            connections=32,
            requests=requests // 2,
            abort_every=10 if stream else 0,
            time_limit_s=300.0,
            key=CANARIES.client_key,
        )
        aborted += _end(_start(stage, plan), plan)["aborted"]
    time.sleep(_SETTLE_S)
    return aborted


def _start(stage: Stage, plan: Plan) -> Child:
    child = Child(python("-m", "tests.bench.load"), log=stage.folder / "load.log", pipes=True)
    child.say(orjson.dumps(plan).decode())
    child.line(60.0)
    child.say("go")
    return child


def _end(child: Child, plan: Plan) -> dict[str, Any]:
    try:
        return child.line(plan.time_limit_s + 30)
    finally:
        child.stop()
