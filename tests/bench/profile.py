"""`python -m tests.bench --profile`: where the server's time goes, by module and by function.

The server runs twice under cProfile, once with nothing to do and once under the load; the difference is what the requests cost. A
C function's time is given to the Python function that calls it, in its own line of the second table. cProfile makes Python
calls several times dearer and leaves C alone, so the microseconds are those of a profiled server: shares are what to read.
What the event loop does in C, sockets and waiting included, cannot be seen into and stands apart.
"""

from __future__ import annotations

import pstats
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.processes import ROOT, HarnessError
from tests.bench.subjects import Tollbridge

Function = tuple[str, int, str]  # file, line, name; ("~", 0, name) for one in C
_IN_C = "~"
_LOOP = "the event loop, sockets and waiting"
_RARE = "now and then: imports, timers, the ledger's own housekeeping"


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds spent and calls made in each function, by itself. A C function stands once for each that calls it."""

    seconds: dict[tuple[Function, Function | None], float]
    calls: dict[tuple[Function, Function | None], int]


def profiled(make: Callable[[str, Path], Tollbridge], folder: Path, load: Callable[[int], int]) -> str:
    """`make(name, file)` gives a server that profiles itself into the file; `load(port)` puts requests on it and says how many."""
    resting = _run(make("resting", folder / "resting.profile"), lambda _: 0)[0]
    spent, requests = _run(make("loaded", folder / "loaded.profile"), load)
    seconds = {key: value - resting.seconds.get(key, 0.0) for key, value in spent.seconds.items()}
    calls = {key: value - resting.calls.get(key, 0) for key, value in spent.calls.items()}
    return tables(Spent(seconds, calls), requests)


def _run(server: Tollbridge, load: Callable[[int], int]) -> tuple[Spent, int]:
    server.start()
    requests = 0
    try:
        requests = load(server.port)
    finally:
        if server.child is not None:
            server.child.stop(first=signal.SIGINT)  # which ends Python in order, so that the profile is written
    if server.profile is None or not server.profile.exists():
        raise HarnessError(f"the server wrote no profile:\n{server.child.tail() if server.child else ''}")
    return _read(server.profile), requests


def _read(file: Path) -> Spent:
    stats: dict[Function, Any] = pstats.Stats(str(file)).stats  # type: ignore[attr-defined]  # not in its stub, and documented nowhere
    found = Spent({}, {})
    for function, (_, calls, own, _, callers) in stats.items():
        if function[0] == _IN_C and callers:
            for caller, (_, calls_from, own_from, _) in callers.items():
                found.seconds[function, caller] = own_from
                found.calls[function, caller] = calls_from
        else:
            found.seconds[function, None] = own
            found.calls[function, None] = calls
    return found


def tables(spent: Spent, requests: int) -> str:
    by_module: Counter[str] = Counter()
    for key, seconds in spent.seconds.items():
        rare = spent.calls[key] * 100 < requests
        by_module[_RARE if rare and _module(key) != _LOOP else _module(key)] += seconds  # type: ignore[assignment]  # of seconds
    loop = by_module.pop(_LOOP, 0)
    total = sum(by_module.values()) or 1.0
    lines = [f"{requests:,} requests, {total / requests * 1e6:,.0f} µs each under the profiler", "", "   µs  share  module"]
    for module, seconds in by_module.most_common(25):
        lines.append(f"{seconds / requests * 1e6:5.1f}  {seconds / total:5.1%}  {module}")
    lines += [f"{loop / requests * 1e6:5.1f}         {_LOOP}", "", "   µs  share  calls  function"]
    ranked = sorted(spent.seconds.items(), key=lambda item: -item[1])
    for key, seconds in [item for item in ranked if spent.calls[item[0]] * 100 >= requests][:45]:
        calls = spent.calls[key] / requests
        lines.append(f"{seconds / requests * 1e6:5.1f}  {seconds / total:5.1%}  {calls:5.1f}  {_name(key)}")
    return "\n".join(lines)


def _module(key: tuple[Function, Function | None]) -> str:
    function, caller = key
    if function[0] == _IN_C:
        if caller is None or caller[0] == _IN_C or "run_until_complete" in function[2]:
            return _LOOP
        return _file(caller)
    if function[2] == "run" and function[0].endswith("asyncio/runners.py"):
        return _LOOP
    return _file(function)


def _name(key: tuple[Function, Function | None]) -> str:
    function, caller = key
    own = function[2] if function[0] == _IN_C else f"{_file(function)}:{function[1]} {function[2]}"
    return own if caller is None else f"{own}  in {_file(caller)} {caller[2]}"


def _file(function: Function) -> str:
    path = function[0]
    if path.startswith(str(ROOT)):
        return path[len(str(ROOT)) + 1 :]
    return path.rpartition("site-packages/")[2].rpartition("/lib/")[2]
