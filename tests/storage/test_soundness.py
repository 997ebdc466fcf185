"""When the file is read through: at the start, when somebody else wrote into it, now and then; and what is found is told once."""

import threading
from pathlib import Path

import pytest

from proxy.storage.soundness import EVERY_S, Soundness
from proxy.storage.sqlite import open_writer, quick_check

pytestmark = pytest.mark.unit


class Checks:
    """Clock and check in one: each check takes `takes_s` and finds `finds`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.takes_s = 1.0
        self.finds: str | None = None
        self.made = 0

    def monotonic(self) -> float:
        return self.now

    def __call__(self, _path: Path) -> str | None:
        self.made += 1
        self.now += self.takes_s
        return self.finds


@pytest.fixture
def checks() -> Checks:
    return Checks()


@pytest.fixture
def soundness(checks: Checks) -> Soundness:
    return Soundness(Path("ledger.db"), checks.monotonic, check=checks)


def look(soundness: Soundness) -> str | None:
    """Begins what is due, waits for it, and asks."""
    found = soundness.look()
    for thread in threading.enumerate():
        if thread.name == "ledger-check":
            thread.join(30)
    return found or soundness.look()


def test_the_file_is_read_at_the_start_and_each_hour(soundness: Soundness, checks: Checks) -> None:
    assert look(soundness) is None
    checks.now += EVERY_S - 2
    assert (look(soundness), checks.made) == (None, 1)
    checks.now += 2
    assert (look(soundness), checks.made) == (None, 2)


def test_a_large_file_is_not_read_all_the_time(soundness: Soundness, checks: Checks) -> None:
    checks.takes_s = 60.0
    look(soundness)
    checks.now += 499 * 60
    assert (look(soundness), checks.made) == (None, 1)
    checks.now += 61
    assert (look(soundness), checks.made) == (None, 2)


def test_what_is_found_is_told_once(soundness: Soundness, checks: Checks) -> None:
    checks.finds = "page 3 is damaged"
    assert look(soundness) == "page 3 is damaged"
    assert look(soundness) is None


def test_a_file_that_was_disturbed_is_read_at_once_and_again_when_it_was_disturbed_meanwhile(checks: Checks) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slowly(path: Path) -> str | None:
        begun.set()
        go_on.wait(30)
        return checks(path)

    soundness = Soundness(Path("ledger.db"), checks.monotonic, check=slowly)
    go_on.set()
    look(soundness)
    go_on.clear()
    begun.clear()
    soundness.disturbed()
    soundness.look()
    assert begun.wait(30)
    soundness.disturbed()
    assert soundness.look() is None, "one at a time"
    go_on.set()
    look(soundness)
    look(soundness)
    assert checks.made == 3


def test_a_file_that_was_cut_off_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    open_writer(path).close()
    assert quick_check(path) is None
    path.write_bytes(b"")
    assert quick_check(path) == "there is nothing in it"
