"""What an answer waits for at the ledger's levels, and what is still written of a request that is served without a begin record."""

from typing import Any

import pytest

from proxy.accounting.records import Begin, End
from proxy.core.errors import ErrorClass
from tests.engine.harness import DONE, HI, STOP, Script, World, fault, refusal, streamed, whole, world

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


def order(around: World) -> list[str]:
    return [what for what, _ in around.events if what in ("B", "E", "R", "synced", "respond", "finish")]


ENDS: dict[str, tuple[Script, dict[str, Any], list[str]]] = {
    "a whole answer": (whole(), {}, ["B", "E", "synced", "respond"]),
    "a stream": (streamed(HI, STOP, DONE), {"stream": True}, ["B", "E", "synced", "finish"]),
    "a stream that breaks": (streamed(HI, fault(ErrorClass.RESET)), {"stream": True}, ["B", "E", "synced", "finish"]),
    "a refusal": (refusal(400), {}, ["B", "E", "synced", "respond"]),
}


@pytest.mark.parametrize(("script", "how", "expected"), ENDS.values(), ids=ENDS)
async def test_at_strict_the_last_bytes_wait_for_the_end_record(script: Script, how: dict[str, Any], expected: list[str]) -> None:
    around = world(a=script)
    around.journal.strict = True
    await around.serve(**how)
    assert order(around) == expected


async def test_at_strict_a_request_that_is_refused_before_any_attempt_waits_too() -> None:
    around = world(a=whole())
    around.journal.strict = True
    await around.serve(model="nothing-of-the-kind")
    assert order(around) == ["R", "synced", "respond"]


async def test_at_other_levels_nothing_waits() -> None:
    around = world(a=whole())
    await around.serve()
    assert order(around) == ["B", "E", "respond"]


async def test_a_full_disk_refuses_unless_it_is_told_to_serve() -> None:
    around = world(a=whole())
    around.journal.healthy = False
    around.journal.refuse = {Begin}
    served = await around.serve()
    assert (served.sink.status, served.code) == (503, "ledger_unavailable")
    around.journal.serves = True
    assert (await around.serve()).sink.status == 200
    assert around.journal.dropped == 1


async def test_what_is_served_without_a_begin_record_has_an_end_all_the_same() -> None:
    around = world(a=whole())
    around.journal.serves = True
    around.journal.refuse = {Begin}
    await around.serve()
    (end,) = around.journal.records
    assert isinstance(end, End)
    assert (end.outcome, end.end is not None) == ("ok", True)


async def test_while_the_disk_is_only_nearly_full_records_are_written_and_the_request_served() -> None:
    around = world(a=whole())
    around.journal.serves = True
    around.journal.healthy = False
    assert (await around.serve()).sink.status == 200
    assert (order(around), around.journal.dropped) == (["B", "E", "respond"], 0)


async def test_an_end_that_is_lost_costs_nobody_the_answer() -> None:
    around = world(a=whole())
    around.journal.refuse = {End}
    assert (await around.serve()).sink.status == 200
    around.journal.serves = True
    assert (await around.serve()).sink.status == 200
