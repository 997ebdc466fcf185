"""`python -m tests.soak [memory] [crash] [exact] [--short]`: what must hold over time, held against its bars. Exit 1 on a miss.

memory   idle, with 1,000 open streams, and over 100,000 requests of which 5 % are hung up on
crash    the server is killed 50 times under load; the ledger against what clients and upstream saw
exact    5,000 mixed requests; tokens and cost against the upstream's own count

Everything runs on 127.0.0.1 and in a temporary folder, and ends by itself: about five minutes in all, one with --short.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

from tests.bench.processes import HarnessError, raise_file_limit
from tests.soak import crash, exact, memory
from tests.soak.stage import Check, Options

_PROGRAMS: dict[str, Callable[[Path, Options], Coroutine[Any, Any, list[Check]]]] = {
    "memory": memory.run,
    "crash": crash.run,
    "exact": exact.run,
}


def main() -> int:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__, formatter_class=plain)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(_PROGRAMS)}; all of them by default")
    parser.add_argument("--short", action="store_true", help="a tenth of it: for a first look, not for the record")
    parser.add_argument("--transport", choices=("native", "httpx"), default="native", help="the way to the upstream")
    arguments = parser.parse_args()
    names: list[str] = arguments.names or list(_PROGRAMS)
    for name in names:
        if name not in _PROGRAMS:
            parser.error(f"there is no {name!r}: {', '.join(_PROGRAMS)}")
    raise_file_limit()
    options = Options(short=arguments.short, transport=arguments.transport)
    missed = 0
    for name in names:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="tollbridge-soak-") as folder:
            try:
                checks = uvloop.run(_PROGRAMS[name](Path(folder), options))
            except HarnessError as fault:
                print(f"{name}: {fault}", file=sys.stderr)
                return 2
        missed += sum(check.ok is False for check in checks)
        print(_table(f"{name} ({time.monotonic() - began:.0f} s)", checks), flush=True)
    return 1 if missed else 0


def _table(title: str, checks: list[Check]) -> str:
    widths = [max(len(getattr(check, field)) for check in checks) for field in ("what", "found", "bar")]
    lines = [title, "─" * (sum(widths) + 12)]
    for check in checks:
        verdict = {True: "ok", False: "MISSED", None: ""}[check.ok]
        line = f"{check.what:<{widths[0]}}  {check.found:>{widths[1]}}  {check.bar:>{widths[2]}}  {verdict}"
        lines.append(line.rstrip())
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
