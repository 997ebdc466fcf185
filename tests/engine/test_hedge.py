"""The next target is asked as well when the first is late: what the caller sees, what is written down, and that nothing is left behind.

On a loop whose time is set (`simulation/loop.py`): seconds are what they are called and take none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.errors import ErrorClass
from proxy.core.limits import Budget
from proxy.core.target import CircuitSettings, HedgeSettings, Target, Timeouts
from proxy.engine.hedge_cap import MAX_CHAINS, HedgeCaps
from proxy.routing.deployment import Deployment
from proxy.simulation.loop import VirtualClock, VirtualLoop
from tests.engine.harness import (
    COST,
    COUNTED,
    DONE,
    FOREVER,
    HI,
    ROLE,
    STOP,
    Clock,
    Reply,
    Script,
    Served,
    World,
    event,
    fault,
    refusal,
    streamed,
    target,
    whole,
    world,
)

pytestmark = pytest.mark.unit

_T = TypeVar("_T")
AFTER_S = 0.8
HEDGED: dict[str, Any] = {"hedge": HedgeSettings(after=None, after_s=AFTER_S, max_extra=1.0)}
BY_P95: dict[str, Any] = {"hedge": HedgeSettings(max_extra=1.0)}


class LoopClock(Clock):
    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    @property
    def now(self) -> float:
        return self._clock.monotonic()

    @now.setter
    def now(self, to: float) -> None:
        assert to == self.now, "this clock follows the loop"


def on_loop(around: World, story: Callable[[], Awaitable[_T]]) -> _T:
    """Runs a story in virtual time, with the timer of deadlines ticking; nothing of it may be left behind."""
    clock = VirtualClock()
    around.clock = around.services.clock = LoopClock(clock)
    around.services.sleep = asyncio.sleep

    async def told() -> _T:
        async def tick() -> None:
            while True:
                await asyncio.sleep(0.1)
                around.services.deadlines.tick(around.clock.now)

        ticking = asyncio.ensure_future(tick())
        try:
            return await story()
        finally:
            ticking.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"left behind: {left}"

    loop = VirtualLoop(clock)
    try:
        return loop.run_until_complete(told())
    finally:
        loop.close()


def serve(around: World, **how: Any) -> Served:
    async def story() -> Served:
        served = around.start(stream=True, **how)
        await served.task
        return served

    found = on_loop(around, story)
    around.check_books()
    return found


def text(name: str) -> bytes:
    return event({"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": name}}]})


def after(seconds: float, name: str = "Hi") -> Reply:
    """A stream whose first content comes so late."""
    return streamed(ROLE, seconds, text(name), STOP, COUNTED, DONE)


def outcomes(around: World) -> list[tuple[int, str, str | None]]:
    """Of the attempts, in the order of their ends."""
    return [(end.n, end.outcome, end.error_class) for end in around.ends]


def notes(around: World) -> list[dict[str, Any]]:
    return [entry for entry in around.end_of_last.trace if "attempt" in entry]


# -- who answers


def test_the_second_answers_when_the_first_is_late() -> None:
    around = world(a=after(3.0, "first"), b=after(0.3, "second"), chain=HEDGED)
    served = serve(around)
    assert b"second" in served.sink.body
    assert b"first" not in served.sink.body
    assert served.sink.headers[b"x-tollbridge-provider"] == b"b"
    assert served.sink.headers[b"x-tollbridge-attempts"] == b"2"
    assert outcomes(around) == [(1, "failed", "hedged_out"), (2, "ok", None)]
    loser, winner = around.ends
    assert (loser.cost_nusd, loser.usage_source) == (0, None)
    assert loser.at_risk_tokens > 0, "it was sent: what it costs nobody knows"
    assert (winner.cost_nusd, winner.usage_source) == (COST, "provider")
    assert around.end.extra == {"hedged": True}
    assert around.end.attempts == 2
    assert around.end.first_token_ms == pytest.approx(1100, abs=101)
    assert notes(around) == [
        {"attempt": 2, "target": "b/b-model", "hedge": True, "after_ms": pytest.approx(AFTER_S * 1000, abs=101), "then": "race"},
        {"attempt": 1, "target": "a/a-model", "error": "hedged_out", "ms": pytest.approx(1100, abs=101), "then": "stop"},
    ]
    assert around.meter.hedges == [("smart", "won")]
    assert around.meter.failovers == []
    assert around.meter.fallbacks == [], "the first was late, not unable"
    assert around.upstream.calls[0].closed > 0
    assert around.services.deployments.snapshot(0.0)[0].failed == 0, "it is no fault to be late"


def test_the_proxy_s_own_time_holds_no_waiting_for_either() -> None:
    around = world(a=after(3.0), b=after(0.3), chain=HEDGED)
    served = serve(around)
    assert around.end.overhead_ms == pytest.approx(0, abs=1)
    assert b"proxy;dur=0.0" in served.sink.headers[b"server-timing"]


def test_the_first_answers_if_it_is_the_first_after_all() -> None:
    around = world(a=after(1.2, "first"), b=after(3.0, "second"), chain=HEDGED)
    served = serve(around)
    assert b"first" in served.sink.body
    assert served.sink.headers[b"x-tollbridge-provider"] == b"a"
    assert served.sink.headers[b"x-tollbridge-attempts"] == b"2"
    assert outcomes(around) == [(2, "failed", "hedged_out"), (1, "ok", None)]
    assert around.end.overhead_ms == pytest.approx(0, abs=1)
    assert around.meter.hedges == [("smart", "lost")]
    assert around.meter.fallbacks == []


def test_nobody_else_is_asked_while_the_first_is_in_time() -> None:
    around = world(a=after(0.5), b=after(0.1), chain=HEDGED)
    serve(around)
    assert outcomes(around) == [(1, "ok", None)]
    assert around.end.extra is None
    assert around.meter.hedges == []


def test_of_two_that_are_there_at_once_the_first_wins_and_both_are_billed() -> None:
    around = world(a=after(2.0, "first"), b=streamed(ROLE, 1.2, text("second and more"), FOREVER), chain=HEDGED)
    served = serve(around)
    assert b"first" in served.sink.body, "the first in the chain's order is the one to take"
    assert outcomes(around) == [(2, "failed", "hedged_out"), (1, "ok", None)]
    assert (around.ends[0].usage_source, around.ends[0].at_risk_tokens) == ("estimated", 0)
    assert around.ends[0].output_tokens > 0


def test_what_the_loser_had_told_of_its_usage_is_billed() -> None:
    told = event(
        {"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 0}}
    )
    around = world(a=streamed(ROLE, told, FOREVER), b=after(0.1), chain=HEDGED)
    serve(around)
    loser = around.ends[0]
    assert (loser.error_class, loser.input_tokens, loser.usage_source, loser.at_risk_tokens) == ("hedged_out", 9, "provider", 0)
    assert loser.cost_nusd == 9 * 1000


def test_a_break_after_content_is_the_winner_s_own() -> None:
    around = world(a=after(3.0), b=streamed(ROLE, HI, fault(ErrorClass.RESET_STREAM)), chain=HEDGED)
    served = serve(around)
    assert b"stream_interrupted" in served.sink.body
    assert outcomes(around) == [(1, "failed", "hedged_out"), (2, "failed", "stream_interrupted")]
    assert around.end.outcome == "failed"


# -- faults in between


def test_the_second_goes_on_when_the_first_fails() -> None:
    around = world(a=streamed(ROLE, 1.0, fault(ErrorClass.RESET_STREAM)), b=after(1.0, "second"), c=after(0.1), chain=HEDGED)
    served = serve(around)
    assert b"second" in served.sink.body
    assert outcomes(around) == [(1, "failed", "reset_stream"), (2, "ok", None)]
    assert around.meter.hedges == [("smart", "won")]
    assert around.meter.failovers == [("a/m", "b/m", "reset_stream")]
    assert around.meter.fallbacks == ["smart"]
    assert [note["then"] for note in notes(around)] == ["race", "next"]
    assert around.end.overhead_ms == pytest.approx(0, abs=1)


def test_the_first_goes_on_when_the_second_fails() -> None:
    around = world(a=after(2.0, "first"), b=refusal(503), c=after(0.1), chain=HEDGED)
    served = serve(around)
    assert b"first" in served.sink.body
    assert outcomes(around) == [(2, "failed", "overloaded"), (1, "ok", None)]
    assert around.meter.hedges == [("smart", "failed")]
    assert around.meter.failovers == []
    assert len(around.upstream.calls) == 2, "one hedge a request"


@pytest.mark.parametrize("first_fails_at_s", [1.0, 2.0])
def test_the_third_is_tried_when_both_fail(first_fails_at_s: float) -> None:
    around = world(
        a=streamed(ROLE, first_fails_at_s, fault(ErrorClass.RESET_STREAM)),
        b=streamed(ROLE, 0.7, fault(ErrorClass.RESET_STREAM)),
        c=after(0.1, "third"),
        chain=HEDGED,
    )
    served = serve(around)
    assert b"third" in served.sink.body
    assert sorted(outcomes(around)) == [(1, "failed", "reset_stream"), (2, "failed", "reset_stream"), (3, "ok", None)]
    assert around.meter.hedges == [("smart", "failed")]
    assert around.end.overhead_ms == pytest.approx(0, abs=1)
    around.check_books()


def test_the_other_key_of_the_first_is_not_lost_to_a_hedge() -> None:
    """Both fail: the key that was passed over for the hedge is next."""
    late = streamed(ROLE, 1.0, fault(ErrorClass.RESET_STREAM))
    around = world(target("a", keys=2), target("b"), a=[late, after(0.1, "other key")], b=refusal(500), chain=HEDGED)
    served = serve(around)
    assert b"other key" in served.sink.body
    assert [call.authorization[-3:] for call in around.upstream.calls] == [b"a-0", b"b-0", b"a-1"]


def test_the_caller_s_own_fault_ends_both() -> None:
    around = world(a=Reply(refusal(400).pieces, status=400, head_s=1.0), b=after(1.0), chain=HEDGED)
    served = serve(around)
    assert (served.sink.status, served.code) == (400, "invalid_request")
    assert outcomes(around) == [(2, "failed", "hedged_out"), (1, "failed", "4xx")]
    assert around.meter.hedges == [("smart", "failed")]


def test_a_deadline_is_each_attempt_s_own() -> None:
    first = target("a", timeouts=Timeouts(first_token_s=1.5))
    around = world(first, target("b"), a=streamed(ROLE, FOREVER), b=after(2.0, "second"), chain=HEDGED)
    served = serve(around)
    assert b"second" in served.sink.body
    assert outcomes(around) == [(1, "failed", "ttfb_timeout"), (2, "ok", None)]


def test_a_stream_of_the_second_that_breaks_is_gone_on_with_by_the_third() -> None:
    around = world(
        a=after(3.0),
        b=streamed(ROLE, text("one two"), fault(ErrorClass.RESET_STREAM)),
        c=after(0.1, " three"),
        chain={**HEDGED, "on_break": "continue"},
    )
    served = serve(around)
    assert b"one two" in served.sink.body
    assert b"three" in served.sink.body
    assert outcomes(around) == [(1, "failed", "hedged_out"), (2, "failed", "stream_interrupted"), (3, "ok", None)]
    assert around.end.extra == {"hedged": True, "continued": [2]}


# -- when nobody else is asked


def test_only_streams_are_hedged() -> None:
    around = world(a=Reply(whole("first").pieces, head_s=3.0), b=whole("second"), chain=HEDGED)

    async def story() -> Served:
        served = around.start()
        await served.task
        return served

    assert on_loop(around, story).answer["choices"][0]["message"]["content"] == "first"


@pytest.mark.parametrize(
    ("targets", "why"),
    [
        ((target("a"),), "no other target"),
        ((target("a", keys=2),), "only another key of the same"),
        ((target("a"), target("b", answer="Try later.")), "a canned answer would always win"),
        ((target("a"), replace(target("b"), disabled="disabled in the file")), "the other is disabled"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_last_candidate_is_not_hedged(targets: tuple[Target, ...], why: str) -> None:
    around = world(*targets, a=after(3.0), b=after(0.1), chain=HEDGED)
    serve(around)
    assert outcomes(around) == [(1, "ok", None)], why
    assert around.meter.hedges == []


def test_what_is_usual_must_be_known() -> None:
    around = world(a=[after(0.2), after(3.0), after(0.2), after(0.2), after(0.2), after(4.0)], b=after(0.1), chain=BY_P95)

    async def story() -> None:
        for _ in range(6):
            await around.start(stream=True).task

    on_loop(around, story)
    assert [end.attempt_id for end in around.ends if end.error_class == "hedged_out"] == ["R6-1"]
    (asked,) = [note for note in notes(around) if "hedge" in note]
    assert asked["after_ms"] == pytest.approx(400, abs=101), "one slow one of five may be chance: twice what the others took"
    around.check_books()


def deployments(around: World) -> list[Deployment]:
    """Of the chain's targets, in order."""
    return [
        candidate.deployment for row in around.services.deployments.layouts[id(around.chain)].rows for candidate in row.candidates
    ]


def test_a_loser_does_not_make_the_first_look_quicker_than_it_is() -> None:
    """Who is cut off has no first token: without more, only quick ones would be remembered, and everything would be late."""
    around = world(a=after(3.0), b=after(0.1), chain=HEDGED)
    serve(around)
    standing = deployments(around)[0].standing
    assert standing is not None
    assert (standing.samples, standing._sorted) == (1, [AFTER_S])


@pytest.mark.parametrize("how", ["slow start", "full", "ledger"])
def test_one_that_cannot_be_had_at_once_is_not_waited_for(how: str) -> None:
    around = world(a=after(3.0, "first"), b=after(0.1), chain=HEDGED)
    if how == "ledger":
        around.scripts["a"] = [
            streamed(ROLE, lambda: setattr(around.journal, "healthy", False), 3.0, text("first"), STOP, COUNTED, DONE)
        ]

    async def story() -> Served:
        served = around.start(stream=True)
        await asyncio.sleep(0.1)
        second = deployments(around)[1]
        if how == "slow start":
            second.breaker.calm = False
        elif how == "full":
            second.in_flight, second._limit = 5, 5
        await served.task
        if how == "full":
            second.in_flight = 0
        return served

    served = on_loop(around, story)
    assert b"first" in served.sink.body
    assert outcomes(around) == [(1, "ok", None)]
    assert around.meter.hedges == [("smart", "refused")]


def test_the_next_one_is_asked_where_one_cannot_be() -> None:
    around = world(a=after(3.0), b=after(0.1), c=after(0.1, "third"), chain=HEDGED)

    async def story() -> Served:
        served = around.start(stream=True)
        await asyncio.sleep(0.1)
        deployments(around)[1].cool(60.0, around.clock.now)
        await served.task
        return served

    assert b"third" in on_loop(around, story).sink.body
    assert outcomes(around) == [(1, "failed", "hedged_out"), (2, "ok", None)]
    around.check_books()


def test_there_is_one_hedge_a_request() -> None:
    """The first fails early, the next is late and hedged, its successor fails: then it is waited for."""
    around = world(a=refusal(503), b=after(3.0, "second"), c=refusal(500), d=after(0.1), chain=HEDGED)
    served = serve(around)
    assert b"second" in served.sink.body
    assert outcomes(around) == [(1, "failed", "overloaded"), (3, "failed", "5xx"), (2, "ok", None)]
    assert len(around.upstream.calls) == 3


# -- from outside


@pytest.mark.parametrize("at_s", [0.3, 1.2])
def test_a_caller_who_leaves_ends_both(at_s: float) -> None:
    around = world(a=streamed(ROLE, FOREVER), b=streamed(ROLE, FOREVER), chain=HEDGED)

    async def story() -> Served:
        served = around.start(stream=True)
        await asyncio.sleep(at_s)
        served.control.client_gone()
        await served.task
        return served

    served = on_loop(around, story)
    assert served.sink.ended == "cut"
    attempts = 2 if at_s > AFTER_S else 1
    assert outcomes(around) == [(n, "client_gone", "client_gone") for n in range(attempts, 0, -1)]
    assert around.end.outcome == "client_gone"
    assert all(call.closed for call in around.upstream.calls)
    assert around.meter.hedges == [("smart", "failed")] * (attempts - 1)
    around.check_books()


def test_a_proxy_that_must_stop_ends_both() -> None:
    around = world(a=streamed(ROLE, FOREVER), b=streamed(ROLE, FOREVER), chain=HEDGED)

    async def story() -> Served:
        served = around.start(stream=True)
        await asyncio.sleep(1.2)
        served.control.interrupt(ErrorClass.DRAINED)
        await served.task
        return served

    served = on_loop(around, story)
    assert (served.sink.status, served.code) == (503, "draining")
    assert outcomes(around) == [(2, "failed", "drained"), (1, "failed", "drained")]
    assert around.end.outcome == "interrupted"
    around.check_books()


def test_a_task_that_is_torn_down_leaves_both_written() -> None:
    around = world(a=streamed(ROLE, FOREVER), b=streamed(ROLE, FOREVER), chain=HEDGED)

    async def story() -> None:
        served = around.start(stream=True)
        await asyncio.sleep(1.2)
        served.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await served.task

    on_loop(around, story)
    assert outcomes(around) == [(2, "failed", "drained"), (1, "failed", "drained")]
    assert around.end.outcome == "interrupted"
    around.check_books()


# -- the two and the world in any order

_TIMES = st.sampled_from([0.0, 0.3, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 2.5])
_UPSTREAM = st.one_of(
    st.tuples(st.just("content"), _TIMES),
    st.tuples(st.just("content, then a break"), _TIMES),
    st.tuples(st.just("fault"), _TIMES),
    st.tuples(st.just("refusal"), _TIMES),
    st.tuples(st.just("bad request"), _TIMES),
    st.tuples(st.just("stale"), _TIMES),
    st.tuples(st.just("empty"), _TIMES),
    st.tuples(st.just("silence"), _TIMES),
    st.tuples(st.just("no head"), _TIMES),
    st.tuples(st.just("whole"), _TIMES),
)
_OUTSIDE = st.one_of(st.none(), st.tuples(st.sampled_from(["gone", "drain", "both", "torn down"]), _TIMES))


def script(what: str, at_s: float) -> Script:
    match what:
        case "content":
            return after(at_s)
        case "content, then a break":
            return streamed(ROLE, at_s, HI, fault(ErrorClass.RESET_STREAM))
        case "fault":
            return streamed(ROLE, at_s, fault(ErrorClass.RESET_STREAM))
        case "refusal":
            return Reply(refusal(503).pieces, status=503, head_s=at_s)
        case "bad request":
            return Reply(refusal(400).pieces, status=400, head_s=at_s)
        case "stale":
            return Reply([fault(ErrorClass.STALE_RETRY)], status=500, head_s=at_s)
        case "empty":
            return streamed(ROLE, at_s, DONE)
        case "silence":
            return streamed(ROLE, FOREVER)
        case "whole":
            return Reply(whole().pieces, head_s=at_s)
    return FOREVER


@pytest.mark.property
@settings(max_examples=150, deadline=None)
@given(
    first=_UPSTREAM,
    second=_UPSTREAM,
    third=_UPSTREAM,
    outside=_OUTSIDE,
    timeout_s=st.sampled_from([0.9, 1.4, 60.0]),
    fiber=st.booleans(),
    on_break=st.sampled_from(["error", "continue"]),
)
def test_in_any_order_every_attempt_ends_once(
    first: tuple[str, float],
    second: tuple[str, float],
    third: tuple[str, float],
    outside: tuple[str, float] | None,
    timeout_s: float,
    fiber: bool,
    on_break: str,
) -> None:
    limits = Timeouts(first_token_s=timeout_s, total_s=3.0)
    targets = [target(name, timeouts=limits, circuit=CircuitSettings(failures=50)) for name in "abc"]
    scripts = {name: script(*what) for name, what in zip("abc", (first, second, third), strict=True)}
    around = world(*targets, chain={**HEDGED, "on_break": on_break}, **scripts)

    async def story() -> None:
        served = around.start(stream=True, fiber=fiber)
        if outside is not None:
            what, at_s = outside
            await asyncio.sleep(at_s)
            if what in ("drain", "both") and not served.task.done():
                served.control.interrupt(ErrorClass.DRAINED)
            if what in ("gone", "both") and not served.task.done():
                served.control.client_gone()
            if what == "torn down" and not served.task.done():
                served.control._task.cancel()
        await asyncio.wait([served.task])
        assert served.task.cancelled() or served.task.exception() is None

    on_loop(around, story)
    around.check_books()
    closings = [record for record in around.journal.records if getattr(record, "end", None) is not None]
    assert len(closings) == 1
    assert around.journal.records[-1] is closings[0]
    assert len(around.meter.hedges) <= 1


# -- the cap


@pytest.mark.property
@settings(max_examples=100, deadline=None)
@given(
    share=st.sampled_from([0.0, 0.01, 0.05, 0.2, 1.0]),
    steps=st.lists(st.tuples(st.floats(0, 900), st.integers(0, 30), st.integers(0, 6)), max_size=25),
)
def test_over_the_hour_up_to_each_hedge_the_share_holds(share: float, steps: list[tuple[float, int, int]]) -> None:
    caps = HedgeCaps()
    now = 5.0
    asked: list[float] = []
    sent: list[float] = []
    for passed_s, requests, late in steps:
        now += passed_s
        for _ in range(requests):
            caps.asked("smart", now)
            asked.append(now)
        for _ in range(late):
            if caps.may("smart", share, now):
                caps.sent("smart", now)
                sent.append(now)
                hour = now - 3600
                assert sum(at > hour for at in sent) <= share * sum(at > hour for at in asked) + 1e-9


def test_one_in_twenty_is_one_in_twenty() -> None:
    caps = HedgeCaps()
    for n in range(1, 201):
        caps.asked("smart", 60.0 + n)
        if n % 20 == 0:
            assert caps.may("smart", 0.05, 60.0 + n)
            caps.sent("smart", 60.0 + n)
        assert not caps.may("smart", 0.05, 60.0 + n)
    assert not caps.may("other", 0.05, 60.0)


def test_as_many_chains_are_counted_as_there_is_room_for() -> None:
    caps = HedgeCaps()
    for n in range(MAX_CHAINS + 1):
        caps.asked(f"chain{n}", 0.0)
    assert len(caps._chains) == 1


def test_beyond_its_share_nothing_is_asked_twice() -> None:
    around = world(a=after(2.0), b=after(0.1), chain={"hedge": HedgeSettings(after=None, after_s=AFTER_S, max_extra=0.25)})

    async def story() -> None:
        for _ in range(8):
            served = around.start(stream=True)
            await served.task

    on_loop(around, story)
    assert [result for _, result in around.meter.hedges] == ["capped", "capped", "capped", "won"] * 2
    around.check_books()


# -- what it is for


def test_one_in_twenty_first_tokens_takes_three_seconds_and_hardly_any_caller_waits_for_it() -> None:
    """Of each twenty calls of either target one is slow, nobody knows which; a twentieth of the requests may be asked twice."""
    assert _p99(_first_tokens_ms(200, None)) == pytest.approx(3_000)
    assert _p99(_first_tokens_ms(1_000, HedgeSettings())) < 1_000


def _first_tokens_ms(requests: int, hedge: HedgeSettings | None, seed: int = 1) -> list[float]:
    random = Random(seed)
    around = world(a=after(0.0), b=after(0.0), chain={"hedge": hedge})
    seen: list[float] = []

    def twenty() -> list[Script]:
        slow = random.randrange(20)
        return [after(3.0 if n == slow else 0.2 + 0.1 * random.random()) for n in range(20)]

    around.scripts = {name: [script for _ in range(requests // 20 + 1) for script in twenty()] for name in ("a", "b")}

    async def story() -> None:
        for _ in range(requests):
            await around.start(stream=True).task
            seen.append(around.end_of_last.first_token_ms or 0.0)
            around.journal.records.clear()

    on_loop(around, story)
    assert len(around.upstream.calls) - requests <= (0 if hedge is None else hedge.max_extra * requests)
    return seen


def _p99(waits: list[float]) -> float:
    return sorted(waits)[int(0.99 * len(waits))]


# -- money


def test_what_is_held_of_a_budget_is_enough_for_both() -> None:
    def held(chain: dict[str, Any]) -> int:
        seen: list[int] = []
        around = world(a=streamed(HI, lambda: seen.append(around.spent("total")[1])), b=after(0.1), chain=chain)
        around.configure(budget=Budget(10**12))
        serve(around, max_tokens=10)
        assert around.spending.budgets.outstanding == 0
        return seen[0]

    assert held(HEDGED) == 2 * held({}) > 0
