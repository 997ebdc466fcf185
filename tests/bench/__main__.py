"""`python -m tests.bench`: what the proxy costs, beside nginx and a proxy done the obvious way. See README.md here."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from tests.bench import subjects as kinds
from tests.bench.load import Plan, Result
from tests.bench.processes import Child, HarnessError, cores, python, raise_file_limit
from tests.bench.profile import profiled
from tests.bench.rows import LOADS, MODELS, ROWS, Finding, Load, Round, Row, Sample, compare, find

_CALM_S = 2.0


@dataclass(slots=True)
class Options:
    rounds: int = 5
    quick: bool = False
    json: bool = False
    profile: bool = False
    transport: str = "native"
    only: list[str] = field(default_factory=list)
    subjects: str = ",".join(kinds.DEFAULT)


def main() -> int:
    options = _parse()
    raise_file_limit()
    try:
        if options.profile:
            return profile(options)
        return bench(options)
    except HarnessError as fault:
        print(fault, file=sys.stderr)
        return 2


def bench(options: Options) -> int:
    rows = [row for row in ROWS if (row.name in options.only if options.only else not row.named)]
    loads = [LOADS[name] for name in dict.fromkeys(name for row in rows for name in row.loads)]
    subject_core, other_core = cores()
    if subject_core == other_core:
        print("only one core: the subjects share it with the load, read no latency from this", file=sys.stderr)
    began = time.monotonic()
    with _setting(other_core) as (folder, upstream_port):
        subjects = [_subject(name, folder, upstream_port, subject_core, options) for name in options.subjects.split(",")]
        rounds: dict[str, list[Round]] = {subject.name: [] for subject in subjects}
        starts: dict[str, float] = {}
        try:
            for subject in subjects:
                starts[subject.name] = subject.start()
            time.sleep(_CALM_S)
            for subject in subjects:
                subject.rest(_CALM_S)
            for number in range(1, options.rounds + 1):
                for subject in subjects:
                    _say(f"round {number} of {options.rounds}: {subject.name}", options)
                    rounds[subject.name].append(_round(subject, loads, folder, other_core, options))
        finally:
            for subject in subjects:
                subject.stop()
    idle = {subject.name: subject.idle_ns[0] / 1e6 for subject in subjects}
    findings = [find(row, rounds) for row in rows]
    took = time.monotonic() - began
    if options.json:
        print(orjson.dumps(as_json(findings, rounds, starts, idle, took), option=orjson.OPT_INDENT_2).decode())
    else:
        print(as_table(findings, list(rounds), starts, idle, options.rounds, took))
        print(_split(rounds))
    return 1 if any(finding.verdict is False for finding in findings) else 0


def profile(options: Options) -> int:
    subject_core, other_core = cores()
    with _setting(other_core) as (folder, upstream_port):

        def server(name: str, file: Path) -> kinds.Tollbridge:
            (folder / name).mkdir()
            place = folder / name
            return kinds.Tollbridge(place, upstream_port, subject_core, models=MODELS, transport=options.transport, profile=file)

        def load(port: int) -> int:
            loads = [LOADS[name] for name in options.only or ["request"]]
            return sum(load.warmup + _run(port, load, folder, other_core, share=1.0)[0].requests for load in loads)

        print(profiled(server, folder, load))
    return 0


@contextlib.contextmanager
def _setting(core: int) -> Iterator[tuple[Path, int]]:
    """A folder for everything that is written, and the upstream's port."""
    with tempfile.TemporaryDirectory(prefix="tollbridge-bench-") as name:
        folder = Path(name)
        upstream = Child(python("-m", "tests.bench.upstream"), log=folder / "upstream.log", core=core, pipes=True)
        try:
            yield folder, upstream.line(20.0)["port"]
        finally:
            upstream.stop()


def _subject(name: str, folder: Path, upstream_port: int, core: int, options: Options) -> kinds.Subject:
    kind = kinds.SUBJECTS.get(name)
    if kind is None:
        raise HarnessError(f"no subject is called {name!r}; there are {', '.join(kinds.SUBJECTS)}")
    if kind is kinds.Tollbridge:
        return kinds.Tollbridge(folder, upstream_port, core, models=MODELS, transport=options.transport)
    return kind(folder, upstream_port, core)


def _round(subject: kinds.Subject, loads: Sequence[Load], folder: Path, core: int, options: Options) -> Round:
    share = 0.3 if options.quick else 1.0
    samples: dict[str, Sample] = {}
    for load in loads:
        if subject.name in load.skip:
            continue
        result, cpu_ns, own_ns = _run(subject.port, load, folder, core, share=share, subject=subject)
        if result.whole == 0:
            log = subject.child.tail() if subject.child else ""
            raise HarnessError(f"{subject.name}: not one whole answer to {load.name}: {asdict(result)}\n{log}")
        samples[load.name] = Sample(cpu_ns / 1e3, result, own_ns / 1e3)
    return samples


def _run(
    port: int, load: Load, folder: Path, core: int, *, share: float, subject: kinds.Subject | None = None
) -> tuple[Result, float, float]:
    plan: Plan = load.plan(port, share=share)
    child = Child(python("-m", "tests.bench.load"), log=folder / "load.log", core=core, pipes=True)
    settle_s = subject.settle_s if subject else 0.0
    try:
        child.say(orjson.dumps(plan).decode())
        child.line(plan.time_limit_s + 30)
        time.sleep(settle_s)
        before = subject.cpu_ns() if subject else (0, 0)
        child.say("go")
        result = Result(**child.line(plan.time_limit_s + 30))
        time.sleep(settle_s)
        after = subject.cpu_ns() if subject else (0, 0)
        # the wait for the ledger is ours: what the subject does anyway is not the requests' fault while it lasts
        idle = [nanoseconds * settle_s for nanoseconds in subject.idle_ns] if subject else [0.0, 0.0]
        return result, after[0] - before[0] - idle[0], after[1] - before[1] - idle[1]
    finally:
        child.stop()


def as_table(
    findings: Sequence[Finding], names: Sequence[str], starts: dict[str, float], idle: dict[str, float], rounds: int, took: float
) -> str:
    heads = ["", *[f"{name}" for name in names], "to nginx", "bar", ""]
    lines = [heads]
    for finding in findings:
        row = finding.row
        cells = [_figure(row, finding.figures.get(name)) for name in names]
        lines.append(
            [row.what, *cells, _held(row, finding.held), _bar(row), {True: "ok", False: "MISSED", None: ""}[finding.verdict]]
        )
    others = [name for name in names if name not in ("tollbridge", "nginx", "direct")]
    for name in others:
        for finding in findings:
            ratio = compare(finding.row, finding.figures, name)
            if finding.row.against == "ratio" and ratio is not None:
                lines.append([f"  {name}: {finding.row.what}", *[""] * len(names), f"{ratio:.1f} ×", "", ""])
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]
    text = [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    text.insert(1, "─" * max(map(len, text)))
    told = ", ".join(f"{name} {starts[name]:.2f} s" for name in names if name != "direct")
    resting = ", ".join(f"{name} {idle[name]:.1f}" for name in names if name != "direct")
    text += [
        "",
        f"medians of {rounds} interleaved rounds, {took:.0f} s in all; CPU is of the whole process tree",
        f"start to ready: {told}",
    ]
    text.append(f"CPU while idle, ms per second: {resting}")
    return "\n".join(text)


def _split(rounds: dict[str, list[Round]]) -> str:
    """How Tollbridge's whole request is shared out between the server and the process that writes the ledger."""
    samples = [sample["request"] for sample in rounds.get("tollbridge", []) if "request" in sample]
    if not samples:
        return ""
    own = statistics.median(sample.own_us / sample.result.requests for sample in samples)
    rest = statistics.median((sample.cpu_us - sample.own_us) / sample.result.requests for sample in samples)
    return f"tollbridge's whole request: {own:.1f} µs in the server, {rest:.1f} µs in the ledger's writer"


def _figure(row: Row, value: float | None) -> str:
    if value is None:
        return "–"
    digits = 0 if not row.unit else 2 if value < 10 else 1
    return f"{value:,.{digits}f} {row.unit}".rstrip()


def _held(row: Row, value: float | None) -> str:
    match row.against:
        case "ratio":
            return "" if value is None else f"{value:.2f} ×"
        case "over":
            return "" if value is None else f"{value:+.2f} {row.unit}"
        case "over_own":
            return "" if value is None else f"own {row.own} {value:+.2f} {row.unit}"
        case "plain":
            return ""


def _bar(row: Row) -> str:
    if row.bar is None:
        return ""
    match row.against:
        case "ratio":
            return f"≤ {row.bar:g} ×"
        case "over" | "over_own":
            return f"≤ +{row.bar:g} {row.unit}"
        case "plain":
            return f"≤ {row.bar:g} {row.unit}".rstrip()


def as_json(
    findings: Sequence[Finding], rounds: dict[str, list[Round]], starts: dict[str, float], idle: dict[str, float], took: float
) -> dict[str, object]:
    return {
        "seconds": took,
        "ready_after_s": starts,
        "idle_cpu_ms_per_s": idle,
        "rows": [
            {
                "name": finding.row.name,
                "what": finding.row.what,
                "unit": finding.row.unit,
                "figures": finding.figures,
                "spread": finding.spread,
                "against": finding.row.against,
                "held": finding.held,
                "bar": finding.row.bar,
                "ok": finding.verdict,
            }
            for finding in findings
        ],
        "rounds": {
            subject: [
                {
                    name: {"cpu_us": sample.cpu_us, "own_us": sample.own_us, **asdict(sample.result)}
                    for name, sample in samples.items()
                }
                for samples in all_of_it
            ]
            for subject, all_of_it in rounds.items()
        },
    }


def _say(text: str, options: Options) -> None:
    if sys.stderr.isatty() and not options.json:
        print(f"\r{text:<60}", end="\r", file=sys.stderr, flush=True)


def _parse() -> Options:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two short rounds: for a first look, not for the record")
    parser.add_argument("--only", action="append", default=[], metavar="ROW", help=f"one of {', '.join(names)}; may be repeated")
    parser.add_argument("--subjects", default=",".join(kinds.DEFAULT), help=f"some of {','.join(kinds.SUBJECTS)}")
    parser.add_argument("--transport", choices=("native", "httpx"), default="native", help="Tollbridge's way to the upstream")
    parser.add_argument("--json", action="store_true", help="everything that was measured, for machines")
    parser.add_argument(
        "--profile", action="store_true", help="instead: the proxy under cProfile; --only names loads then: " + ", ".join(LOADS)
    )
    options = parser.parse_args(namespace=Options())
    known = list(LOADS) if options.profile else names
    for name in options.only:
        if name not in known:
            parser.error(f"--only {name}: there is {', '.join(known)}")
    if options.quick:
        options.rounds = min(options.rounds, 2)
    return options


if __name__ == "__main__":
    sys.exit(main())
