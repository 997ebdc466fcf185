"""`python -m tests.soak [NAME …] [--short]`: what must hold over time and under abuse, held against its bars. Exit 1 on a miss.

memory       idle, with 1,000 open streams, and over 100,000 requests of which 5 % are hung up on
exact        5,000 mixed requests; tokens and cost against the upstream's own count
disconnects  20,000 callers who leave: at connect, before the first byte, in the middle of a stream
crash        200 times kill -9 of a worker, the drainer or the supervisor; the ledger against what clients and upstream saw
drain        SIGTERM with 200 streams, with time enough and without
reloads      60 configurations in 60 s under 100 streams, every third of them broken
outage       the first of two providers dead for 60 s
storm        everything fails, behind OpenAI's SDK
slow         heads that never end, bodies that stall, streams that nobody reads
bombs        answers of 200 MiB in 200 KiB, and of 48 MiB in one line
names        100,000 names of models, paths, users and tags
million      a million requests, some that break, some whose caller leaves
overload     five times as much as there is room for
disk         the ledger's disk, full and freed
canary       every occasion for a key to slip out

Each of them ends with a search for the keys that its server was given. Everything runs on 127.0.0.1 and in a temporary folder, and
ends by itself: an hour or so in all, two minutes with --short, which holds nothing to the bars that are about time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from tests.bench.processes import HarnessError, raise_file_limit
from tests.soak import (
    bombs,
    crash,
    disconnects,
    disk,
    drain,
    exact,
    leaks,
    memory,
    million,
    names,
    outage,
    overload,
    reloads,
    slow,
    storm,
)
from tests.soak.stage import CANARIES, MIB, Check, Options, Run, none_of

PROGRAMS: dict[str, Run] = {
    "memory": memory.run,
    "exact": exact.run,
    "disconnects": disconnects.run,
    "crash": crash.run,
    "drain": drain.run,
    "reloads": reloads.run,
    "outage": outage.run,
    "storm": storm.run,
    "slow": slow.run,
    "bombs": bombs.run,
    "names": names.run,
    "million": million.run,
    "overload": overload.run,
    "disk": disk.run,
    "canary": leaks.run,
}


def main() -> int:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__, formatter_class=plain)
    parser.add_argument("names", nargs="*", metavar="NAME", help="some of the above; all of them by default")
    parser.add_argument("--short", action="store_true", help="as `make test` runs them: for a first look, not for the record")
    parser.add_argument("--transport", choices=("native", "httpx"), default="native", help="the way to the upstream")
    arguments = parser.parse_args()
    chosen: list[str] = arguments.names or list(PROGRAMS)
    for name in chosen:
        if name not in PROGRAMS:
            parser.error(f"there is no {name!r}: {', '.join(PROGRAMS)}")
    raise_file_limit()
    missed, faults = 0, 0
    with tempfile.TemporaryDirectory(prefix="tollbridge-prices-") as prices:
        options = Options(short=arguments.short, transport=arguments.transport, prices=Path(prices))
        for name in chosen:
            try:
                missed += sum(is_miss(check, options) for check in _run(name, options))
            except HarnessError as fault:
                faults += 1
                print(f"{name}: {fault}\n", file=sys.stderr, flush=True)
    print(f"canaries: {len(CANARIES.hits)} found in {CANARIES.files:,} files ({CANARIES.file_bytes / MIB:,.0f} MiB)"
          f" and {CANARIES.answer_bytes / MIB:,.0f} MiB of answers")  # fmt: skip
    return 2 if faults else min(1, missed)


def is_miss(check: Check, options: Options) -> bool:
    return check.ok is False and not (options.short and check.timing)


def _run(name: str, options: Options) -> list[Check]:
    began, before = time.monotonic(), len(CANARIES.hits)
    with tempfile.TemporaryDirectory(prefix="tollbridge-soak-") as folder:
        checks = uvloop.run(PROGRAMS[name](Path(folder), options))
    checks.append(none_of("canaries in answers, logs, journal and database", len(CANARIES.hits) - before))
    print(_table(f"{name} ({time.monotonic() - began:.0f} s)", checks, options), flush=True)
    return checks


def _table(title: str, checks: list[Check], options: Options) -> str:
    widths = [max(len(getattr(check, field)) for check in checks) for field in ("what", "found", "bar")]
    lines = [title, "─" * (sum(widths) + 12)]
    for check in checks:
        verdict = "MISSED" if is_miss(check, options) else {True: "ok", False: "(not held to it)", None: ""}[check.ok]
        line = f"{check.what:<{widths[0]}}  {check.found:>{widths[1]}}  {check.bar:>{widths[2]}}  {verdict}"
        lines.append(line.rstrip())
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
