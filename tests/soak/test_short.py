"""The soak programs in their short form: a few of everything, and no figure that depends on how fast the machine is.

Those that leave the server as they found it share one, one after the other. The rest mostly wait, which they do at the same time.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import prices
from tests.soak import (
    bombs,
    crash,
    disconnects,
    disk,
    drain,
    leaks,
    million,
    names,
    outage,
    overload,
    reloads,
    slow,
    storm,
)
from tests.soak.__main__ import PROGRAMS, is_miss
from tests.soak.canary import Canaries
from tests.soak.stage import CANARIES, Act, Check, Options, Run, Stage, common_config

pytestmark = pytest.mark.integration

SHARED: dict[str, Act] = {
    "disconnects": disconnects.act,
    "reloads": reloads.act,
    "storm": storm.act,
    "bombs": bombs.act,
    "names": names.act,
    "million": million.act,
    "outage": outage.act,
    "canary": leaks.act,  # the last: it spoils a key and an address
}
OWN: dict[str, Run] = {"crash": crash.run, "drain": drain.run, "disk": disk.run, "slow": slow.run, "overload": overload.run}
LONG_ONLY = {"memory", "exact"}  # what they count, `million` and `disconnects` count as well


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    folder = tmp_path_factory.mktemp("prices")
    prices.lay(folder)
    return Options(short=True, prices=folder / "cache")


@pytest.fixture(scope="module")
def stage(options: Options, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("soak"), options) as stage:
        stage.prepare(common_config(stage))
        stage.start()
        asyncio.run(stage.warmed())
        yield stage


@pytest.mark.parametrize("act", SHARED.values(), ids=SHARED)
def test_on_one_server(act: Act, stage: Stage) -> None:
    before = len(CANARIES.hits)
    assert missed(asyncio.run(act(stage)), stage.options) == []
    assert CANARIES.hits[before:] == []


def test_on_servers_of_their_own(options: Options, tmp_path: Path) -> None:
    before = len(CANARIES.hits)
    with ThreadPoolExecutor(len(OWN)) as pool:  # each with an event loop of its own: some of what they do blocks it
        started = {}
        for name, run in OWN.items():
            (tmp_path / name).mkdir()
            started[name] = pool.submit(asyncio.run, run(tmp_path / name, options))
    found = {name: future.result() for name, future in started.items()}
    assert {name: missed(checks, options) for name, checks in found.items()} == {name: [] for name in OWN}
    assert CANARIES.hits[before:] == []


def missed(checks: list[Check], options: Options) -> list[Check]:
    assert any(check.ok is not None for check in checks)
    return [check for check in checks if is_miss(check, options)]


def test_every_program_has_its_short_form() -> None:
    assert set(SHARED) | set(OWN) | LONG_ONLY == set(PROGRAMS)


def test_a_canary_is_found_whole_cut_in_base64_and_across_two_reads(tmp_path: Path) -> None:
    for made in (
        lambda key: key,
        lambda key: key[:25] + b"***",
        lambda key: base64.b64encode(b"user:" + key),
    ):
        canaries = Canaries()
        (tmp_path / "log").write_bytes(b"x" * 1000 + made(canaries.provider_key.encode()))
        canaries.search(tmp_path)
        assert canaries.hits == [str(tmp_path / "log")]
    canaries = Canaries()
    tail = canaries.look("an answer", canaries.admin_token[:9].encode())
    canaries.look("an answer", canaries.admin_token[9:20].encode(), tail)
    assert canaries.hits == ["an answer"]
    assert not Canaries().found(canaries.admin_token.encode())
