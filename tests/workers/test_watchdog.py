"""A lone proxy whose loop hangs ends with the stack on standard error; one that was stopped, or is busy, does not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.workers.watchdog import EXIT_CODE, LEAST_S, LIMIT_S, LIMIT_VARIABLE, Watchdog, limit_s

ROOT = Path(__file__).parents[2]

PROGRAM = """
import asyncio, re, signal, threading, time
from proxy.workers.watchdog import Watchdog

ticks = 0

def tick():
    global ticks
    ticks += 1
    asyncio.get_running_loop().call_later(0.05, tick)

def spin_without_letting_go():
    re.match("(a+)+$", "a" * 64 + "b")  # one call into C that never ends and keeps the lock of the interpreter

async def main():
    tick()
    Watchdog(lambda: ticks, limit_s={limit}).start()
    await asyncio.sleep(0.01)
    {hang}

asyncio.run(main())
"""


def run(hang: str, limit: float) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(hang=hang, limit=limit)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, env=environment
    )


class _Ended(BaseException):
    pass


def watched(ticks: list[int | None], *, limit: float = 4.0) -> float | None:
    """What a watchdog does that sees these counts, one a second. After the last it is over."""
    coming = iter(ticks)
    bitten: list[float] = []

    def sleep(seconds: float) -> None:
        assert seconds == 1.0

    def count() -> int | None:
        try:
            return next(coming)
        except StopIteration:
            raise _Ended from None

    dog = Watchdog(count, limit_s=limit, sleep=sleep, bite=bitten.append)
    try:
        dog.run()
    except _Ended:
        return None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return bitten[0] if bitten else None


@pytest.mark.unit
@pytest.mark.parametrize(
    ("ticks", "bites"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8], False),
        ([1, 1, 1, 1, 2, 2, 2, 2, 3], False),
        ([1, 1, 1, 1, 1], True),
        ([1, 2, 3, 3, 3, 3, 3], True),
        ([1, 2, 2, 2, None, None, None, None, None], False),
    ],
    ids=["it turns", "it is slow", "it never turned", "it stopped", "it is being stopped"],
)
def test_the_loop_is_given_its_time(ticks: list[int | None], bites: bool) -> None:
    assert (watched(ticks) is not None) is bites


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, LIMIT_S),
        ("3", 3.0),
        ("0.1", LEAST_S),
        ("0", 0.0),
        ("-1", 0.0),
        ("soon", LIMIT_S),
        ("nan", LIMIT_S),
        ("inf", LIMIT_S),
    ],
    ids=str,
)
def test_the_limit_can_be_set(text: str | None, seconds: float) -> None:
    assert limit_s({} if text is None else {LIMIT_VARIABLE: text}) == seconds


@pytest.mark.integration
@pytest.mark.parametrize(
    ("hang", "limit", "code", "where"),
    [
        ("time.sleep(600)", 0.4, EXIT_CODE, "in main"),
        ("threading.Event().wait()", 0.4, EXIT_CODE, "in wait"),
        ("spin_without_letting_go()", 0.2, -signal.SIGPROF, "in spin_without_letting_go"),
    ],
    ids=["it sleeps", "it waits for what never comes", "it computes and lets nobody else run"],
)
def test_a_loop_that_hangs_ends_the_process_with_its_stack(hang: str, limit: float, code: int, where: str) -> None:
    done = run(hang, limit)
    assert done.returncode == code, done.stderr
    assert where in done.stderr
    assert "in main" in done.stderr
