"""What the engine says of a request that was more than one answer after another, taken into the ledger: its row, its story, and that all
of it adds up."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.core.money import nusd_to_usd
from proxy.core.target import CacheSettings, HedgeSettings, QualitySettings
from proxy.core.wishes import Wishes
from proxy.engine.books import MAX_TRACE_LINES
from proxy.monitoring.story import story_told
from proxy.routing.rederive import rederive
from proxy.storage.drainer import Drainer
from proxy.storage.queries import Queries
from proxy.storage.repair import repair
from proxy.storage.verify import verify
from tests.engine import test_continuation as continuation
from tests.engine import test_hedge as hedge
from tests.engine import test_quality_gate as gate
from tests.engine.harness import COST, World, refusal, target, whole, world
from tests.storage.records import Wall, write

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

COST_USD = nusd_to_usd(COST)


def quiet(_event: str, _fields: dict[str, Any]) -> None:
    return None


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path) -> Iterator[Path]:
    """Whatever a story came to, rows, sums and journal agree, and the sums made anew are the same."""
    Drainer(tmp_path, Wall(), log=quiet).close()
    yield tmp_path
    assert verify(tmp_path).differences == []
    repair(tmp_path, Wall(), log=quiet)
    assert verify(tmp_path).differences == []


async def taken_in(folder: Path, around: World, request_id: str = "R1") -> dict[str, Any]:
    write(folder, around.journal.records)
    drainer = Drainer(folder, Wall(), log=quiet)
    drainer.drain()
    drainer.close()
    queries = Queries(folder)
    row = await queries.get_request(request_id)
    await queries.aclose()
    assert row is not None
    return row


async def test_an_answer_that_was_better_than_the_one_after_it(ledger: Path) -> None:
    around = world(a=gate.answer(gate.CUT), b=gate.answer(gate.REFUSED), chain=gate.GATED)
    await around.serve(messages=gate.ASK)
    row = await taken_in(ledger, around)
    told = (row["provider"], row["answered"], row["attempts"], row["cost_usd"], row["finish_reason"])
    assert told == ("a", 1, 2, nusd_to_usd(2 * COST), "stop")
    assert row["quality"] == around.end.extra["quality"]  # type: ignore[index]
    lines = story_told(row)
    assert "and the next target was asked" in lines[3]
    assert lines[4].endswith("and the earlier one was better and was given.")
    assert lines[5].startswith("It was answered by a/a-model, HTTP 200")


async def test_a_low_answer_that_was_held_because_no_other_came(ledger: Path) -> None:
    around = world(a=gate.answer(gate.CUT), b=refusal(500), chain=gate.GATED)
    await around.serve(messages=gate.ASK)
    row = await taken_in(ledger, around)
    assert (row["outcome"], row["provider"], row["answered"], row["cost_usd"]) == ("ok", "a", 1, COST_USD)


@pytest.mark.parametrize(
    ("first_s", "provider", "answered"), [(3.0, "b", 2), (1.0, "a", 1)], ids=["the second wins", "the first wins after all"]
)
def test_a_hedge(ledger: Path, first_s: float, provider: str, answered: int) -> None:
    around = world(
        a=hedge.after(first_s), b=hedge.after(0.6), chain={"hedge": HedgeSettings(after=None, after_s=0.8, max_extra=1.0)}
    )
    hedge.serve(around)
    row = asyncio.run(taken_in(ledger, around))
    assert (row["provider"], row["answered"], row["attempts"], row["hedged"]) == (provider, answered, 2, True)
    assert [attempt["error_class"] for attempt in row["attempt_list"] if attempt["n"] != answered] == ["hedged_out"]
    lines = story_told(row)
    assert any("asked as well when the first had said nothing for 800 ms" in line for line in lines)
    assert sum("the other attempt had answered first" in line for line in lines) == 1


async def test_a_stream_that_was_gone_on_with(ledger: Path) -> None:
    scripts = {"a": continuation.breaks("a", "One", " two"), "b": continuation.goes_on("bb", " three")}
    around = world(target("a"), continuation.EXACT, chain=continuation.CONTINUE, **scripts)
    await around.serve(stream=True)
    row = await taken_in(ledger, around)
    assert (row["outcome"], row["provider"], row["continued"], row["answered"]) == ("ok", "b", [1], 2)
    assert any(line.startswith("Attempt 1, a/a-model, broke off,") for line in story_told(row))


async def test_an_answer_from_the_cache(ledger: Path) -> None:
    around = world(chain={"cache": CacheSettings()}, a=whole("Hi"))
    for _ in range(2):
        await around.serve(temperature=0)
    row = await taken_in(ledger, around, "R2")
    told = (row["cache"], row["provider"], row["upstream_model"], row["attempts"], row["cost_usd"], row["saved_usd"])
    assert told == ("hit", "a", "a-model", 0, "0", COST_USD)
    assert any(line.endswith(f"had answered to request R1; that saved ${COST_USD}.") for line in story_told(row))


@pytest.mark.parametrize("strategy", ["cheapest", "score", "weighted", "round_robin", "least_busy", "fastest", "sticky"])
async def test_the_row_alone_leads_to_the_choice_again(ledger: Path, strategy: str) -> None:
    around = world(a=whole("Hi"), b=whole("Hi"), c=whole("Hi"), chain={"strategy": strategy, "quality": QualitySettings(0.1)})
    await around.serve(wishes=Wishes(exclude=frozenset({"b"}), priority="high"))
    row = await taken_in(ledger, around)
    order = rederive(row["asked"], row["trace"])
    assert sorted(order) == ["a/a-model", "c/c-model"]
    assert order[0] == f"{row['provider']}/{row['upstream_model']}"
    assert "  - b/b-model: left out, excluded by the request" in story_told(row)


async def test_of_very_many_targets_as_many_are_told_as_a_record_has_room_for(ledger: Path) -> None:
    many = [target("a"), *[target(f"t{number}") for number in range(MAX_TRACE_LINES)]]
    around = world(*many, chain={"strategy": "score"}, a=whole("Hi"))
    await around.serve(wishes=Wishes(prefer="a"))
    row = await taken_in(ledger, around)
    assert (row["outcome"], row["provider"], len(row["trace"])) == ("ok", "a", MAX_TRACE_LINES)
    assert row["trace"][0]["target"] == "a/a-model"
