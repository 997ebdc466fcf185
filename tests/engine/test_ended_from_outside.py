"""What ends a request while it runs: a clock, a caller who leaves or does not read, a proxy that must stop."""

import asyncio

import pytest

from proxy.accounting.records import Begin, End, Rejected
from proxy.core.errors import ErrorClass
from proxy.core.target import Timeouts
from tests.engine.harness import (
    COST,
    DONE,
    FOREVER,
    HI,
    ROLE,
    STOP,
    Reply,
    Script,
    Served,
    World,
    called,
    chunk,
    error_event,
    refusal,
    streamed,
    target,
    whole,
    world,
)

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


# -- clocks


@pytest.mark.parametrize(
    ("stream", "reasoning", "first_token_s", "limit_s"),
    [(True, False, None, 60), (False, False, None, 300), (True, True, None, 300), (True, False, 5.0, 5), (False, False, 5.0, 5)],
)
async def test_the_first_content_must_come_in_time(
    stream: bool, reasoning: bool, first_token_s: float | None, limit_s: float
) -> None:
    timeouts = Timeouts(first_token_s=first_token_s)
    for script in (FOREVER, streamed(ROLE, b": ping\n\n", FOREVER)):
        around = world(
            target("a", timeouts=timeouts, reasoning=reasoning), target("b"), a=script, b=streamed() if stream else whole()
        )

        def pass_time(served: Served, around: World = around) -> None:
            around.later(limit_s - 0.1)(served)
            assert served.control.reason is None
            around.later(0.1)(served)

        if not stream and script is not FOREVER:
            continue
        served = await around.interrupted(pass_time, stream=stream)
        assert served.sink.status == 200
        assert around.ends[0].error_class == "ttfb_timeout"
        assert around.ends[0].at_risk_tokens > 0
        around.check_books()


async def test_a_stream_that_stands_still_is_broken_off_after_content() -> None:
    around = world(a=streamed(ROLE, HI, FOREVER), b=streamed())
    served = await around.interrupted(around.later(30.0), stream=True)
    assert "stream_interrupted" in error_event(served)
    assert around.ends[0].error_class == "idle_timeout"
    around.check_books()


async def test_a_drip_of_bytes_is_no_progress_and_a_whole_event_is() -> None:
    def drip() -> None:
        around.clock.now += 20.0

    around = world(a=streamed(HI, drip, b"data: {", drip, b'"choices"', FOREVER))
    served = await around.interrupted(lambda served: around.services.deadlines.tick(around.clock.now), stream=True)
    assert around.ends[0].error_class == "idle_timeout"
    assert "stream_interrupted" in error_event(served)

    around = world(a=streamed(HI, drip, chunk("a"), drip, chunk("b"), drip, STOP, DONE))
    assert (await around.serve(stream=True)).sink.body.endswith(DONE)


async def test_the_total_time_ends_a_stream_however_lively() -> None:
    around = world(target("a", timeouts=Timeouts(total_s=40.0)), a=streamed(HI, FOREVER))

    def pass_time(served: Served) -> None:
        around.later(29.9)(served)
        around.later(10.1)(served)

    await around.interrupted(pass_time, stream=True)
    assert around.ends[0].error_class == "idle_timeout"

    def lively() -> None:
        around.clock.now += 25.0

    around = world(target("a", timeouts=Timeouts(total_s=40.0)), a=streamed(HI, lively, chunk("a"), FOREVER))
    await around.interrupted(around.later(15.0), stream=True)
    assert around.ends[0].error_class == "total_timeout"


async def test_no_target_is_tried_when_the_total_time_is_over() -> None:
    timeouts = Timeouts(first_token_s=1000.0, total_s=100.0)
    around = world(*[target(name, timeouts=timeouts) for name in "abc"], a=FOREVER, b=whole(), c=whole())
    served = await around.interrupted(around.later(100.0))
    assert called(around) == ["a"]
    assert (served.sink.status, served.code) == (504, "upstream_timeout")
    assert around.ends[0].error_class == "total_timeout"
    around.check_books()


async def test_one_total_time_for_the_whole_sequence() -> None:
    timeouts = Timeouts(first_token_s=60.0, total_s=100.0)
    around = world(
        target("a", timeouts=timeouts),
        target("b", timeouts=timeouts),
        a=Reply([refusal(500).pieces[0]], 500, takes_s=70.0),
        b=FOREVER,
    )
    served = await around.interrupted(around.later(30.0))
    assert called(around) == ["a", "b"]
    assert [end.error_class for end in around.ends] == ["5xx", "total_timeout"]
    assert served.sink.status == 504


# -- the caller


async def test_a_caller_who_leaves_before_content_stops_everything_and_costs_nothing_known() -> None:
    around = world(a=FOREVER, b=whole())
    served = await around.interrupted(lambda served: served.control.client_gone())
    assert called(around) == ["a"]
    assert (served.sink.status, served.sink.ended) == (None, "cut")
    (end,) = around.ends
    assert (end.outcome, end.error_class, end.cost_nusd) == ("client_gone", "client_gone", 0)
    assert end.at_risk_tokens > 0
    assert (around.end.outcome, around.end.http_status) == ("client_gone", 499)
    assert around.services.deployments.snapshot(0)[0].failed == 0
    around.check_books()


async def test_a_caller_who_leaves_mid_stream_is_billed_for_what_was_relayed() -> None:
    around = world(a=streamed(HI, chunk("x" * 400), FOREVER))
    served = await around.interrupted(lambda served: served.control.client_gone(), stream=True)
    assert served.sink.ended == "cut"
    (end,) = around.ends
    assert (end.outcome, end.usage_source, end.output_tokens, end.at_risk_tokens) == ("client_gone", "estimated", 101, 0)
    assert around.upstream.calls[0].closed >= 1
    assert around.services.deployments.snapshot(0)[0].failed == 0
    assert "slow_reader" not in around.meter.counts
    around.check_books()


async def test_a_caller_who_does_not_read_is_cut_off_after_a_minute() -> None:
    around = world(a=streamed(HI, STOP, DONE))
    served = around.start(stream=True)
    served.sink.stuck = True
    await around.waiting.wait()
    around.later(59.9)(served)
    assert served.control.reason is None
    around.later(0.1)(served)
    await served.task
    assert around.end.outcome == "client_gone"
    assert "slow_reader" in around.meter.counts
    assert served.sink.ended == "cut"
    around.check_books()


async def test_a_caller_who_leaves_during_a_pause_stops_the_retry() -> None:
    around = world(a=[refusal(500), whole()])

    async def leave(seconds: float) -> None:
        served.control.client_gone()
        await _forever()

    around.services.sleep = leave
    served = around.start()
    await served.task
    assert called(around) == ["a"]
    assert around.end.outcome == "client_gone"
    assert [type(record) for record in around.journal.records] == [Begin, End, Rejected]
    around.check_books()


async def test_a_caller_who_leaves_while_told_of_an_error_is_no_fault() -> None:
    for around in (world(a=refusal(400)), world(target("a", provider={"disabled": "no key: set A_KEY"}), a=whole())):
        served = around.start()
        served.sink.stuck = True
        await around.waiting.wait()
        served.control.client_gone()
        await served.task
        assert around.log.lines == []
        around.check_books()


async def test_a_caller_who_leaves_while_the_last_bytes_go_out_changes_nothing_that_is_written() -> None:
    around = world(a=whole())
    served = around.start()
    served.sink.stuck = True
    await around.waiting.wait()
    served.control.client_gone()
    await served.task
    assert (around.end.outcome, around.ends[0].cost_nusd) == ("ok", COST)
    around.check_books()


async def _forever() -> None:
    await asyncio.Event().wait()


# -- stopping


async def test_a_drain_cuts_a_stream_with_an_error_event_and_a_row() -> None:
    around = world(a=streamed(HI, FOREVER))
    served = await around.interrupted(lambda served: served.control.interrupt(ErrorClass.DRAINED), stream=True)
    assert "stream_interrupted" in error_event(served)
    assert (around.end.outcome, around.end.http_status) == ("interrupted", 200)
    assert around.ends[0].usage_source == "estimated"
    assert "drained_cut" in around.meter.counts
    around.check_books()


async def test_a_drain_before_content_is_a_503_that_may_be_retried_elsewhere() -> None:
    around = world(a=FOREVER, b=whole())
    served = await around.interrupted(lambda served: served.control.interrupt(ErrorClass.DRAINED))
    assert (served.sink.status, served.code) == (503, "draining")
    assert b"x-should-retry" not in served.sink.headers
    assert around.end.outcome == "interrupted"
    assert called(around) == ["a"]
    around.check_books()


@pytest.mark.parametrize("script", [FOREVER, streamed(HI, FOREVER)])
async def test_a_server_torn_down_around_it_still_leaves_a_row(script: Script) -> None:
    around = world(a=script)
    with pytest.raises(asyncio.CancelledError):
        await around.interrupted(_cancel, stream=True)
    assert around.end.outcome == "interrupted"
    around.check_books()


def _cancel(served: Served) -> None:
    served.task.cancel()
