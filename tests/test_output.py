"""Standard input, output and error that are closed or take no more: nothing goes into another file, and no start fails over it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxy.commands import bookkeeping
from proxy.commands.shell import Place
from proxy.storage.drainer import Drainer
from tests.storage.records import completion, write

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent
FULL = Path("/dev/full")
WAIT_S = 30
NO_ROOM = "standard output cannot be written: No space left on device"
# what a file that is opened next is called, and what the three are then
ASKS = """
import os, sys
from proxy.launch import keep_standard_files
keep_standard_files()
print(os.open(os.devnull, os.O_RDONLY), sys.stdin.read(), sys.stderr.write("unheard"), os.get_inheritable(2), file=sys.stdout)
"""


def test_a_closed_standard_file_is_no_number_for_another_file() -> None:
    command = ["/bin/sh", "-c", 'exec "$@" <&- 2>&-', "sh", sys.executable, "-c", ASKS]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=WAIT_S, check=True)
    number, *rest = done.stdout.split()
    assert int(number) > 2
    assert rest == ["7", "True"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_a_report_is_a_sentence(unbuffered: str) -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "proxy", "version"],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, f"{NO_ROOM}\n")


def test_a_full_disk_behind_an_export_is_not_taken_for_a_fault_of_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, completion(1, int(time.time() * 1000)))
    drainer = Drainer(tmp_path, time.time)
    drainer.drain()
    drainer.close()
    with os.fdopen(os.open(FULL, os.O_WRONLY), "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(OSError, match="No space left"):
            bookkeeping.export(Place(data_dir=tmp_path), "requests", "csv", since=None, until=None, output=None)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, full.fileno())
        os.close(nowhere)


@pytest.mark.integration
def test_a_full_disk_behind_the_banner_keeps_nobody_from_being_served(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "proxy", "serve", "--port", "0", "--data-dir", str(tmp_path)]
    with FULL.open("w") as full:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        told = process.stderr.readline()
        while told.startswith("{"):  # a line of the log
            told = process.stderr.readline()
        assert told.startswith("the banner cannot be written: No space left on device; the proxy runs on port ")
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
