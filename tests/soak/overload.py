"""Five times as much as the proxy can do: what it still gets done, how quickly it refuses the rest, and whether it says that it lives.

Streams of 250 chunks, one each 20 ms, as models answer. How many of them it can do in a second is found first, with nobody refused, by
more and more callers at a time, until more of them get no more; then come five times as many requests in each second, from callers who
do not wait.
Whole answers to small requests, which cost the proxy only five times their refusal, are looked at as well: beside
them it must say that it lives, and how many are done and how quickly the rest is refused is told without a bar.

The proxy has a core to itself, and the upstream and all callers share the other one.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tests.bench.load import Plan
from tests.bench.processes import Child, cores, pinned, python, tree
from tests.bench.subjects import bench_config
from tests.soak.open_loop import OpenPlan
from tests.soak.probe import ProbePlan
from tests.soak.stage import CANARIES, Check, Options, Stage, at_least, at_most, guarded, none_of

_TIMES = 5
_MODEL, _EVENTS = "lone-250", 254
_PEAK_CONNECTIONS = (64, 128, 256, 384, 512, 640, 1024, 1536, 2048)
_PEAK_S = 10.0
_RUN_S, _RUN_S_SHORT = 30.0, 1.5
_FROM_S = 10.0  # twice as long as a stream takes: what was begun before there was too much has ended
_MOST_CONNECTIONS = 4_000
_SHORT_CAP, _SHORT_PEAK = 16, 40.0  # the short form looks at what is refused and how: how much there is to do, it says itself


class Peak(NamedTuple):
    rate: float = 0.0  # answers a second
    cpu_us: float = 0.0  # of the proxy's processes, for each


async def run(folder: Path, options: Options) -> list[Check]:
    return await asyncio.to_thread(_run, folder, options)


def _run(folder: Path, options: Options) -> list[Check]:
    with Stage(folder, options) as stage:
        config = bench_config(stage.upstream_port, (_MODEL, "burst-250", "whole"), transport=options.transport)
        if options.short:
            stage.prepare({**config, "server": {"max_in_flight": _SHORT_CAP}})
            _start(stage)
            return _told(stage, Peak(_SHORT_PEAK), *_overload(stage, "burst-250", stream=True, rate=_SHORT_PEAK * _TIMES))
        theirs, ours = cores()
        _pin(tree(os.getpid())[1:], ours)  # the upstream
        stage.prepare({**config, "server": {"max_wait": "0s"}})  # which refuses nobody
        with pinned(ours):
            _start(stage, theirs)
            peak, whole_peak = _peak(stage, _MODEL, stream=True), _peak(stage, "whole", stream=False)
            stage.stop()
            stage.server.write(guarded(config))
            _start(stage, theirs)
            return _measure(stage, peak, whole_peak)


def _measure(stage: Stage, peak: Peak, whole_peak: Peak) -> list[Check]:
    checks = _told(stage, peak, *_overload(stage, _MODEL, stream=True, rate=peak.rate * _TIMES))
    small, probed = _overload(stage, "whole", stream=False, rate=whole_peak.rate * _TIMES)
    return [
        *checks,
        Check("small whole answers under five times as many", f"{small['whole_per_s']:,.0f}/s of {whole_peak.rate:,.0f}/s"),
        at_most("/livez beside them, worst", probed["alive"]["worst_ms"] or float("inf"), 50, "ms", timing=True),
        Check("/livez, p50, p99 and worst; the server at work meanwhile, p99 and worst", _spread(probed["alive"])),
        Check("their refusals, p50, p99 and worst; the server at work meanwhile, p99 and worst", _spread(probed["refused"])),
        Check(
            "their refusals, p50 and p99, as the many saw it", f"{small['refused_p50_ms']:.1f} / {small['refused_p99_ms']:.1f} ms"
        ),
        none_of("of these broken off", small["broken"]),
    ]


def _told(stage: Stage, peak: Peak, found: dict[str, Any], probed: dict[str, Any]) -> list[Check]:
    refused, alive = probed["refused"], probed["alive"]
    return [
        Check("peak, streams a second", f"{peak.rate:,.0f}, {peak.cpu_us:,.0f} µs of CPU each"),
        Check("offered", f"{found['offered']:,} in {_seconds(stage):g} s, {found['connections']:,} connections"),
        Check("answers", ", ".join(f"{status}: {count:,}" for status, count in sorted(found["statuses"].items()))),
        at_least("streams a second under that", found["whole_per_s"], 0.9 * peak.rate, "/s", timing=True),
        Check(
            "CPU for each of them, refusals included", f"{found['cpu_us']:,.0f} µs; the server had {found['cpu']:.0%} of a core"
        ),
        at_most("refused, p99", refused["p99_ms"] or float("inf"), 20, "ms", timing=True),
        Check("refused, p50, p99 and worst; the server at work meanwhile, p99 and worst", _spread(refused)),
        at_most("/livez, worst", alive["worst_ms"] or float("inf"), 50, "ms", timing=True),
        Check("/livez, p50, p99 and worst; the server at work meanwhile, p99 and worst", _spread(alive)),
        none_of(" ".join(["of these without an answer", *probed["silent"]]), sum(probed["silent"].values())),
        Check("refused, p50 and p99, as the many saw it", f"{found['refused_p50_ms']:.1f} / {found['refused_p99_ms']:.1f} ms"),
        Check("first content, p50 and p99", f"{found['first_p50_ms']:.1f} / {found['first_p99_ms']:.1f} ms"),
        none_of("answers broken off", found["broken"]),
        at_least("refused", found["statuses"].get("503", 0), 1, "requests"),
        none_of("requests for which there was no connection", found["unsent"]),
        Check("of the callers' core", f"{found['cpu_share']:.0%}, {found['late_p99_ms']:.1f} ms late at the 99th"),
        *_counted(stage, found),
    ]


def _spread(times: dict[str, float]) -> str:
    seen = " / ".join(f"{times[name]:.1f}" for name in ("p50_ms", "p99_ms", "worst_ms"))
    return f"{seen} ms; {times['own_p99_ms']:.1f} / {times['own_worst_ms']:.1f} ms"


def _start(stage: Stage, core: int | None = None) -> None:
    stage.start()
    asyncio.run(stage.warmed())
    if core is not None:
        _pin(tree(stage.child.pid), core)


def _pin(pids: list[int], core: int) -> None:
    for pid in pids:
        os.sched_setaffinity(pid, {core})


def _seconds(stage: Stage) -> float:
    return _RUN_S_SHORT if stage.options.short else _RUN_S


def _peak(stage: Stage, model: str, *, stream: bool) -> Peak:
    """The most whole answers a second that any number of callers got, each with one request at a time."""
    best = Peak()
    for connections in _PEAK_CONNECTIONS:
        expected = best.rate or (connections if stream else 2_000)
        plan = Plan(
            port=stage.port,
            model=model,
            stream=stream,
            connections=connections,
            requests=int(max(connections * 2, expected * _PEAK_S)),
            warmup=connections,
            events=_EVENTS if stream else 0,
            time_limit_s=60.0,
            key=CANARIES.client_key,
        )
        found = _child(stage, "tests.bench.load", asdict(plan))
        cpu_ns = stage.child.cpu_ns()[0]
        found.say("go")
        result = _end(found, plan.time_limit_s + 30)
        peak = Peak(result["whole"] / result["seconds"], (stage.child.cpu_ns()[0] - cpu_ns) / 1e3 / result["whole"])
        if peak.rate < best.rate * 1.03:
            return max(best, peak)
        best = peak
    return best


def _overload(stage: Stage, model: str, *, stream: bool, rate: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the many callers saw, and what the few who looked closely did."""
    seconds = _seconds(stage)
    plan = OpenPlan(
        port=stage.port,
        key=CANARIES.client_key,
        model=model,
        stream=stream,
        rate=rate,
        seconds=seconds,
        connections=200 if stage.options.short else 2_500,
        most=_MOST_CONNECTIONS,
        from_s=min(_FROM_S, seconds / 2),
    )
    child = _child(stage, "tests.soak.open_loop", asdict(plan))
    shed_before = int(stage.metrics()['tollbridge_events_total{event="shed"}'])
    close = ProbePlan(port=stage.port, pid=stage.child.pid, key=CANARIES.client_key, model=model, seconds=seconds)
    probe = _child(stage, "tests.soak.probe", asdict(close))
    child.say("go")
    began, cpu_ns = time.monotonic(), stage.child.cpu_ns()
    probe.say("go")
    probed = _end(probe, seconds + 60)
    spent_s, (all_ns, own_ns) = time.monotonic() - began, stage.child.cpu_ns()
    found = _end(child, seconds + 60)
    found["cpu_us"] = (all_ns - cpu_ns[0]) / 1e3 / max(1, found["whole"])
    found["shed_before"], found["probed"] = shed_before, probed["refused"]["count"]
    found["cpu"] = (own_ns - cpu_ns[1]) / 1e9 / spent_s
    return found, probed


def _child(stage: Stage, module: str, plan: dict[str, Any]) -> Child:
    child = Child(python("-m", module), log=stage.folder / "callers.log", pipes=True)
    child.say(orjson.dumps(plan).decode())
    child.line(60.0)
    return child


def _end(child: Child, timeout_s: float) -> dict[str, Any]:
    try:
        return child.line(timeout_s)
    finally:
        child.stop()


def _counted(stage: Stage, found: dict[str, Any]) -> list[Check]:
    """What the proxy's metrics say of it."""
    refused = found["statuses"].get("503", 0) + found["probed"]
    metrics = stage.metrics()
    shed = int(metrics['tollbridge_events_total{event="shed"}']) - found["shed_before"]
    running = int(metrics["tollbridge_requests_in_flight"])
    return [none_of("refusals that it did not count", refused - shed), none_of("requests in flight at the end", running)]
