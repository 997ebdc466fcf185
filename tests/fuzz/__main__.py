"""The long form: `make fuzz`, or `python -m tests.fuzz --seconds 60 --only http_request`.

Each target in turn is given mutants of its seeds and of what its corpus keeps, until its time is over. Where atheris is there, coverage
of the code guides them; `--engine random` does without, and is the quicker where a check takes long. What breaks a check is made small
and kept in `corpus/<target>/`, where `make test` looks from then on.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from random import Random

if GUIDED := "--guided" in sys.argv:
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # see tests/fuzz.lock

    # before anything of the proxy is imported: only what is imported inside tells what it runs through
    with atheris.instrument_imports(include=["proxy"]):
        from tests.fuzz.targets import TARGETS, FuzzTarget
else:
    from tests.fuzz.targets import TARGETS, FuzzTarget
from tests.fuzz.mutation import MAX_BYTES, random_input

CORPUS = Path(__file__).parent / "corpus"
STARTS = Path(__file__).parents[2] / ".fuzz"  # what atheris found to reach something new; it goes on from there the next time
MAX_FINDS = 5  # of one target: the next ones are mostly the same again
SHRINK_S = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each target")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a target, or the begin of several names")
    parser.add_argument("--engine", choices=["atheris", "random"], default="atheris" if find_spec("atheris") else "random")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--guided", help=argparse.SUPPRESS)  # atheris runs once a process: this is the process of one target
    options = parser.parse_args()
    if options.guided:
        return guided(TARGETS[options.guided], options.seconds, options.seed)
    names = [name for name in TARGETS if not options.only or name.startswith(tuple(options.only))]
    if not names:
        parser.error(f"no target begins so; there are {', '.join(TARGETS)}")
    print(f"{len(names)} targets, {options.seconds:g} s each, {options.engine}, seed {options.seed}", flush=True)
    broken = [name for name in names if not run(name, options.engine, options.seconds, options.seed)]
    print(f"broken: {', '.join(broken)}" if broken else "nothing was found")
    return bool(broken)


def run(name: str, engine: str, seconds: float, seed: int) -> bool:
    if engine == "random":
        return unguided(TARGETS[name], seconds, seed)
    command = [sys.executable, "-m", "tests.fuzz", "--guided", name, "--seconds", str(seconds), "--seed", str(seed)]
    child = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    if child.returncode not in (0, 1):  # not ours: libFuzzer gave up, over time or memory
        print(f"{name}: ended with {child.returncode}\n{child.stderr[-2000:]}", flush=True)
    return child.returncode == 0


def inputs_of(target: FuzzTarget) -> list[bytes]:
    folder = CORPUS / target.name
    return [*target.seeds(), *(path.read_bytes() for path in sorted(folder.glob("*")))]


def unguided(target: FuzzTarget, seconds: float, seed: int) -> bool:
    random, inputs = Random(f"{target.name} {seed}"), inputs_of(target)
    ends, tries, slowest, found = time.monotonic() + seconds, 0, 0.0, set[str]()
    while time.monotonic() < ends and len(found) < MAX_FINDS:
        data = random_input(random, inputs, target.tokens)
        began = time.monotonic()
        fault = fault_of(target, data)
        slowest = max(slowest, time.monotonic() - began)
        tries += 1
        if fault is not None and fault not in found:
            found.add(fault)
            keep(target, data, fault)
    print(f"{target.name:24} {tries:8,} tries, slowest {slowest * 1000:6.1f} ms, {len(found)} found", flush=True)
    return not found


def guided(target: FuzzTarget, seconds: float, seed: int) -> int:
    """libFuzzer chooses the bytes by what code they reach; every other time they are mutated once more by what is known of formats."""
    random, inputs = Random(f"{target.name} {seed}"), inputs_of(target)
    ends, tries, found = time.monotonic() + seconds, 0, set[str]()

    def one(data: bytes) -> None:
        nonlocal tries
        tries += 1
        fault = fault_of(target, data)
        if fault is not None and fault not in found:
            found.add(fault)
            keep(target, data, fault)
        if time.monotonic() >= ends or len(found) >= MAX_FINDS:
            print(f"{target.name:24} {tries:8,} tries, guided by coverage, {len(found)} found", flush=True)
            sys.stdout.flush()
            _leave(1 if found else 0)

    def mutate(data: bytes, max_size: int, seed_: int) -> bytes:
        if seed_ % 2:
            return bytes(atheris.Mutate(data, max_size))[:max_size]
        return random_input(random, [data or inputs[0], *inputs] if seed_ % 3 else inputs, target.tokens)[:max_size]

    starts = STARTS / target.name
    starts.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (starts / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    arguments = [
        sys.argv[0],
        str(starts),
        f"-max_len={MAX_BYTES}",
        f"-seed={seed}",
        "-verbosity=0",
        "-rss_limit_mb=4096",
        "-timeout=60",
    ]
    atheris.Setup(arguments, one, custom_mutator=mutate)
    atheris.Fuzz()
    return 0


def _leave(code: int) -> None:
    """Out of the middle of libFuzzer, which takes an exception for a find."""
    os._exit(code)


def fault_of(target: FuzzTarget, data: bytes) -> str | None:
    """What broke and where in the code, so that one fault is told once; None when the check holds."""
    try:
        target.check(data)
    except Exception as fault:  # noqa: BLE001 - whatever it is, it is what was looked for
        frames = traceback.extract_tb(fault.__traceback__)
        return f"{type(fault).__name__} at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}"
    return None


def keep(target: FuzzTarget, data: bytes, fault: str) -> None:
    data = smaller(data, lambda less: fault_of(target, less) == fault)
    folder = CORPUS / target.name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(data).hexdigest()[:16]
    path.write_bytes(data)
    print(f"{target.name}: {fault}, kept as {path.relative_to(CORPUS.parents[2])}\n  {data[:300]!r}", flush=True)


def smaller(data: bytes, still: Callable[[bytes], bool]) -> bytes:
    """Ever shorter pieces are left out as long as it stays broken in the same way."""
    ends = time.monotonic() + SHRINK_S
    size = len(data) // 2
    while size:
        at = 0
        while at < len(data) and time.monotonic() < ends:
            less = data[:at] + data[at + size :]
            if still(less):
                data = less
            else:
                at += size
        size //= 2
    return data


if __name__ == "__main__":
    sys.exit(main())
