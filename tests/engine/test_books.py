"""What is written of a request: its usage and cost, its records when the ledger cannot take them, what its budgets hold."""

import asyncio
import threading
from typing import Any

import pytest

from proxy.accounting.records import Begin, End, Progress, Rejected
from proxy.config.settings import ClientSettings
from proxy.core.errors import ErrorClass
from proxy.core.limits import Budget
from tests.engine.harness import (
    COST,
    COUNTED,
    DONE,
    FOREVER,
    HI,
    ROLE,
    STOP,
    Script,
    World,
    called,
    chunk,
    fault,
    refusal,
    streamed,
    target,
    whole,
    world,
)

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


# -- usage and cost


async def test_without_usage_the_text_is_counted() -> None:
    for around, stream in (
        (world(a=whole("Hello", usage=None)), False),
        (world(a=streamed(ROLE, chunk("Hello"), STOP, DONE)), True),
    ):
        await around.serve(stream=stream)
        (end,) = around.ends
        assert (end.input_tokens, end.output_tokens, end.usage_source) == (11, 5, "counted")
        assert end.cost_nusd == 11 * 1000 + 5 * 2000
        around.check_books()


async def test_text_beyond_what_is_kept_is_estimated() -> None:
    around = world(a=streamed(*[chunk("x" * 100_000)] * 5, STOP, DONE))
    await around.serve(stream=True)
    assert (around.ends[0].output_tokens, around.ends[0].usage_source) == (125_000, "estimated")


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": 10**7, "completion_tokens": 1}, {"prompt_tokens": 1, "completion_tokens": 10**7}]
)
async def test_an_absurd_figure_is_counted_anew_and_flagged(usage: dict[str, int]) -> None:
    around = world(a=whole("Hello", usage=usage))
    await around.serve()
    assert around.ends[0].usage_source == "counted"
    assert around.ends[0].output_tokens == 5
    assert "usage_suspect" in around.meter.counts


async def test_when_the_counting_itself_breaks_the_answer_goes_out_with_an_estimate() -> None:
    around = world(a=whole("Hello", usage=None), b=whole())
    around.counter.fails = True
    served = await around.serve()
    assert (served.sink.status, called(around)) == (200, ["a"])
    assert around.ends[0].usage_source == "estimated"
    around.check_books()


async def test_a_caller_who_leaves_while_we_count_is_billed_by_the_estimate() -> None:
    around = world(a=whole("Hello", usage=None))
    blocked = threading.Event()
    around.executor.submit(blocked.wait, 5)
    served = around.start()
    while not around.upstream.calls:
        await _turn()
    for _ in range(5):
        await _turn()
    served.control.client_gone()
    await served.task
    blocked.set()
    assert around.ends[0].usage_source == "estimated"
    assert around.end.outcome == "ok"
    around.check_books()


async def _turn() -> None:
    await asyncio.sleep(0)


async def test_an_unknown_price_is_null_and_never_nothing() -> None:
    around = world(target("a", price=None), a=whole())
    await around.serve()
    assert around.ends[0].cost_nusd is None
    assert around.log.requests[0]["cost_usd"] is None


async def test_the_providers_own_price_counts_where_nobody_knows_one() -> None:
    around = world(target("a", price=None), a=whole(usage={"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.5}))
    await around.serve()
    assert (around.ends[0].cost_nusd, around.ends[0].price_source) == (500_000_000, "provider")


# -- the ledger


async def test_nothing_is_sent_that_the_ledger_could_not_account_for() -> None:
    around = world(a=whole(), b=whole())
    around.journal.refuse = {Begin}
    served = await around.serve()
    assert (served.sink.status, served.code) == (503, "ledger_unavailable")
    assert called(around) == []
    assert all(one.in_flight == 0 for one in around.services.deployments.snapshot(0))


async def test_an_answer_that_is_there_goes_out_even_when_its_end_cannot_be_written() -> None:
    around = world(a=whole())
    around.journal.refuse = {End}
    served = await around.serve()
    assert served.sink.status == 200
    assert [line[:2] for line in around.log.lines] == [("error", "ledger_record_lost")]


async def test_a_ledger_that_fails_between_attempts_ends_the_walk() -> None:
    around = world(a=refusal(500), b=whole())
    around.journal.append_fields = _first_begin_only(around)  # type: ignore[method-assign]
    served = await around.serve()
    assert (served.sink.status, served.code, called(around)) == (503, "ledger_unavailable", ["a"])
    assert [type(record) for record in around.journal.records] == [Begin, End, Rejected]


def _first_begin_only(around: World) -> Any:
    append = around.journal.append_fields

    def limited(record: Any) -> None:
        around.journal.refuse = {Begin} if around.begins else set()
        append(record)

    return limited


async def test_progress_is_written_now_and_then_on_a_long_stream_with_what_it_costs() -> None:
    def two_seconds() -> None:
        around.clock.now += 2.0

    around = world(a=streamed(HI, two_seconds, chunk("x" * 38), chunk("y"), *[chunk("four")] * 260, STOP, COUNTED, DONE))
    await around.serve(stream=True)
    kinds = [record.t for record in around.journal.records]
    assert kinds == ["B", "P", "P", "E"]
    sooner, later = [record for record in around.journal.records if isinstance(record, Progress)]
    assert (sooner.output_tokens, later.output_tokens) == (10, 266)
    assert sooner.cost_nusd is not None
    assert later.cost_nusd == sooner.cost_nusd + 256 * 2000


# -- budgets


def budgeted(nusd: int, *, hard: bool = True) -> ClientSettings:
    return ClientSettings("c", frozenset(), budget=Budget(nusd, "month", hard))


async def test_a_request_holds_its_bound_and_settles_what_it_cost() -> None:
    around = world(a=whole(), b=whole())
    client = budgeted(10**9)
    held: list[tuple[int, int]] = []
    around.scripts["a"] = [streamed(HI, lambda: held.append(state()), STOP, COUNTED, DONE)]

    def state() -> tuple[int, int]:
        return around.spent("client", "c")

    await around.serve(client=client, stream=True)
    ((spent, bound),) = held
    assert spent == 0
    assert bound > COST
    assert state() == (COST, 0)
    assert around.services.budgets.outstanding == 0


@pytest.mark.parametrize("script", [refusal(500), refusal(400), fault(ErrorClass.RESET), FOREVER])
async def test_a_hold_is_given_back_however_the_request_ends(script: Script) -> None:
    around = world(target("a", retries=0), a=script)
    client = budgeted(10**9)
    if script is FOREVER:
        await around.interrupted(lambda served: served.control.client_gone(), client=client)
    else:
        await around.serve(client=client)
    assert around.spent("client", "c") == (0, 0)


async def test_a_spent_budget_is_a_429_before_anything_is_sent() -> None:
    around = world(a=whole())
    client = budgeted(COST)
    assert (await around.serve(client=client)).sink.status == 200
    served = await around.serve(client=client)
    assert (served.sink.status, served.code) == (429, "budget_exceeded")
    assert served.sink.headers[b"x-should-retry"] == b"false"
    assert int(served.sink.headers[b"retry-after"]) > 0
    assert called(around) == ["a"]


async def test_a_hard_budget_refuses_what_nobody_can_price_and_a_soft_one_charges_what_is_known() -> None:
    around = world(target("a", price=None), a=whole())
    assert (await around.serve(client=budgeted(10**9))).sink.status == 429
    assert (await around.serve(client=budgeted(10**9, hard=False))).sink.status == 200
    around.check_books()
