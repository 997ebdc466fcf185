"""`make test`: the suite in parts that run side by side, each a pytest of its own. `python -m tests [pytest's options]`.

Most of what is in two parts waits for sockets and processes, what is in the others reckons: so four are a good load for two cores.
No part knows of another, and each collects its own files only. What belongs to none of the named ones is in the last.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
PYTEST = [sys.executable, "-m", "pytest", "-m", "not performance"]
NOTHING_COLLECTED = 5
# Balanced by what they take: durations are at the end of each part's output.
PARTS = {
    "doors": ("tests/e2e", "tests/storage", "tests/workers", "tests/upstream/test_demo.py"),
    "pages": (
        "tests/e2e/test_dashboard_browser.py",
        "tests/e2e/test_prometheus.py",
        "tests/e2e/test_workers.py",
        "tests/e2e/test_workers_share.py",
        "tests/soak",
        "tests/test_cli.py",
        "tests/test_cli_ledger.py",
        "tests/test_cli_reports.py",
        "tests/test_from_your_own_router.py",
    ),
    "bytes": ("tests/corpus", "tests/dialects", "tests/wire", "tests/fuzz", "tests/monitoring", "tests/storage/test_fold.py"),
}
OTHERS = "rules"


@dataclass(slots=True)
class _Part:
    name: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    began: float = field(default_factory=time.monotonic)
    took_s: float = 0.0


def arguments(name: str) -> list[str]:
    """The paths of a part. A path that is named in one is left out of every other."""
    taken = [path for part, paths in PARTS.items() if part != name for path in paths]
    own = PARTS.get(name, ("tests",))
    inside = [path for path in taken if any(path.startswith(f"{mine}/") for mine in own)]
    return [*(path for path in own if (ROOT / path).exists()), *(f"--ignore={path}" for path in inside)]


def main(options: list[str]) -> int:
    """The worst exit code of the parts. Each one's output comes whole when it ends; failed ones are shown last.

    Whoever names paths gets one pytest, with just those.
    """
    if any((ROOT / option.partition("::")[0]).exists() for option in options if not option.startswith("-")):
        return subprocess.call([*PYTEST, *options], cwd=ROOT)
    running = [_start(name, options) for name in (*PARTS, OTHERS)]
    done: list[_Part] = []
    try:
        _finish(running, done)
    finally:
        for part in running:
            part.process.terminate()
    codes = [part.process.returncode for part in done]
    for part in done:
        if part.process.returncode not in (0, NOTHING_COLLECTED):
            _show(part)
    for part in done:
        print(
            f"{part.name}: {'passed' if part.process.returncode in (0, NOTHING_COLLECTED) else 'FAILED'} in {part.took_s:.0f} s"
        )
    failures = [code for code in codes if code not in (0, NOTHING_COLLECTED)]
    return max(map(abs, failures)) if failures else min(codes)


def _finish(running: list[_Part], done: list[_Part]) -> None:
    while running:
        for part in [part for part in running if part.process.poll() is not None]:
            part.took_s = time.monotonic() - part.began
            running.remove(part)
            done.append(part)
            if part.process.returncode in (0, NOTHING_COLLECTED):
                _show(part)
        time.sleep(0.1)


def _start(name: str, options: list[str]) -> _Part:
    output = tempfile.TemporaryFile()  # noqa: SIM115 - it lives until it has been shown
    return _Part(
        name, subprocess.Popen([*PYTEST, *arguments(name), *options], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT), output
    )


def _show(part: _Part) -> None:
    part.output.seek(0)
    sys.stdout.buffer.write(b"\n===== %b\n" % part.name.encode())
    sys.stdout.buffer.write(part.output.read())
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
