"""Whole answers are measured before they are handed on: which one the caller gets, what is billed, and what the trace says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as programs
from hypothesis import strategies as st

from proxy.accounting.records import Rejected
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.limits import JUDGE_TASK, Budget
from proxy.core.target import CacheSettings, Chain, QualitySettings
from proxy.engine.judge import Judge, score_in
from tests.engine.harness import COST, FOREVER, HI, STOP, Reply, Served, World, refusal, streamed, target, world

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

GATED: dict[str, Any] = {"quality": QualitySettings(0.6)}
ASK = [{"role": "user", "content": "Explain how tides work, please, in a few sentences."}]
GOOD = "Tides work because the Moon's gravity pulls the oceans towards it, and they rise and fall twice a day as the Earth turns."
REFUSED = "I'm sorry, but I can't help with that."
CUT = "Tides work because the Moon's gravity pulls the oceans towards it, and they rise and fall twice a day as the"
USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}


def answer(text: str | None, **rest: Any) -> Reply:
    message = {"role": "assistant", "content": text, **rest}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": USAGE}
    return Reply([orjson.dumps({**body, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})])


def notes(around: World) -> list[dict[str, Any]]:
    return [entry for entry in around.end.trace if "quality" in entry]


def text_of(served: Served) -> str:
    found: str = orjson.loads(served.sink.body)["choices"][0]["message"]["content"]
    return found


async def ask(around: World, **how: Any) -> Served:
    served = await around.serve(messages=ASK, **how)
    around.check_books()
    return served


async def test_a_good_answer_is_given_and_its_quality_written_down() -> None:
    around = world(a=answer(GOOD), b=answer(GOOD), chain=GATED)
    served = await ask(around)
    assert served.sink.status == 200
    assert text_of(served) == GOOD
    assert len(around.begins) == 1
    (note,) = notes(around)
    assert note == {
        "attempt": 1,
        "target": "a/a-model",
        "quality": 1.0,
        "parts": {"completeness": 1.0, "relevance": 1.0, "coherence": 1.0},
        "then": "answer",
    }
    assert around.end.extra == {"quality": 1.0}
    assert (around.end.outcome, around.end.http_status, around.end.finish_reason) == ("ok", 200, "stop")
    assert around.meter.measured == [("a/m", 1.0, False)]


async def test_below_the_least_the_next_target_is_asked_and_both_are_billed() -> None:
    around = world(a=answer(REFUSED), b=answer(GOOD), chain=GATED)
    served = await ask(around)
    assert text_of(served) == GOOD
    assert served.sink.headers[b"x-tollbridge-provider"] == b"b"
    assert served.sink.headers[b"x-tollbridge-attempts"] == b"2"
    assert [(end.outcome, end.cost_nusd) for end in around.ends] == [("ok", COST), ("ok", COST)]
    first, second = notes(around)
    assert (first["then"], first["parts"]["reasons"], second["then"]) == ("next", ["refused"], "answer")
    assert around.end.extra == {"quality": 1.0}
    assert around.end.attempts == 2
    assert around.meter.fallbacks == ["smart"]
    assert [low for *_, low in around.meter.measured] == [True, False]


async def test_a_first_answer_is_billed_before_the_next_target_is_asked() -> None:
    around = world(a=answer(REFUSED), b=answer(GOOD), chain=GATED)
    await ask(around)
    assert [what for what, _ in around.events] == ["B", "send", "E", "B", "send", "E", "R", "respond"]


@pytest.mark.parametrize(
    ("second", "given_by"), [(REFUSED, b"a"), ("", b"a"), (CUT, b"a")], ids=["as bad", "worse", "cut off as well"]
)
async def test_the_better_one_is_given_and_of_equals_the_first(second: str, given_by: bytes) -> None:
    around = world(a=answer(REFUSED), b=answer(second), c=answer(GOOD), chain=GATED)
    served = await ask(around)
    first, then = notes(around)
    better = first if first["quality"] >= then["quality"] else then
    assert served.sink.headers[b"x-tollbridge-provider"].decode() == better["target"][0]
    assert len(around.begins) == 2, "two answers at most"
    assert around.end.extra is not None
    assert around.end.extra["quality"] == better["quality"]
    if better is first:
        assert served.sink.headers[b"x-tollbridge-provider"] == given_by
        assert around.end.extra["answered"] == 1
        assert then["then"] == "earlier"
        assert around.meter.fallbacks == []


@pytest.mark.parametrize(
    "then",
    [refusal(500), refusal(400), refusal(429), UpstreamError(ErrorClass.CONNECT_TIMEOUT, "no connection", sent=False)],
    ids=["500", "400", "429", "no connection"],
)
async def test_when_no_other_comes_the_low_one_is_given(then: Any) -> None:
    around = world(a=answer(CUT), b=then, chain=GATED)
    served = await ask(around)
    assert served.sink.status == 200
    assert text_of(served) == CUT
    assert around.end.extra is not None
    assert around.end.extra["answered"] == 1
    assert around.end.outcome == "ok"
    assert around.slept == []
    assert [end.outcome for end in around.ends] == ["ok", "failed"]


async def test_a_failed_target_in_between_is_passed_over() -> None:
    around = world(a=answer(REFUSED), b=refusal(503), c=answer(GOOD), chain=GATED)
    served = await ask(around)
    assert text_of(served) == GOOD
    assert [end.outcome for end in around.ends] == ["ok", "failed", "ok"]


async def test_the_last_target_has_nobody_behind_it() -> None:
    around = world(a=answer(REFUSED), chain=GATED)
    served = await ask(around)
    assert text_of(served) == REFUSED
    assert around.end.extra == {"quality": notes(around)[0]["quality"]}


async def test_streams_are_not_measured() -> None:
    around = world(a=streamed(HI, STOP), b=streamed(HI, STOP), chain=GATED)
    await ask(around, stream=True)
    assert len(around.begins) == 1
    assert around.meter.measured == []


async def test_without_quality_nothing_is_measured() -> None:
    around = world(a=answer(REFUSED), b=answer(GOOD))
    await ask(around)
    assert len(around.begins) == 1
    assert around.meter.measured == []
    assert around.end.extra is None


CALL = {"id": "call_1", "type": "function", "function": {"name": "tide", "arguments": '{"at": "Brest"}'}}
TOOLS = [{"type": "function", "function": {"name": "tide", "parameters": {"type": "object", "required": ["at"]}}}]


async def test_of_calls_only_their_validity_counts() -> None:
    around = world(a=answer(None, tool_calls=[CALL]), b=answer(GOOD), chain=GATED)
    await ask(around, tools=TOOLS)
    assert around.end.extra is not None
    assert around.end.extra["quality"] == 1.0


async def test_a_call_that_cannot_be_made_has_the_next_target_asked() -> None:
    broken = {**CALL, "function": {"name": "tide", "arguments": '{"at": '}}
    around = world(a=answer(None, tool_calls=[broken]), b=answer(None, tool_calls=[CALL]), chain=GATED)
    await ask(around, tools=TOOLS)
    first, second = notes(around)
    assert (first["parts"]["reasons"], second["then"]) == (["bad_arguments"], "answer")


async def test_a_measure_that_breaks_costs_nobody_his_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise RuntimeError("out of words")

    monkeypatch.setattr("proxy.quality.measure.measure_bodies", breaks)
    around = world(a=answer(REFUSED), b=answer(GOOD), chain=GATED)
    served = await ask(around)
    assert text_of(served) == REFUSED
    assert around.end.extra is None


async def test_long_answers_are_measured_off_the_loop() -> None:
    long = " ".join(
        [f"Sentence number {n} of many about tides explains the Moon in words of its own: {n * 7919}." for n in range(200)]
    )
    around = world(a=answer(long), chain=GATED)
    served = await ask(around)
    assert text_of(served) == long


KEPT: dict[str, Any] = {**GATED, "cache": CacheSettings(every=True)}


@pytest.mark.parametrize(
    ("first", "second", "calls"),
    [(GOOD, GOOD, ["a"]), (REFUSED, GOOD, ["a", "b", "a", "b"]), (REFUSED, REFUSED, ["a", "b", "a", "b"])],
    ids=["a good one is", "one of another target is kept for that one", "a low one is not"],
)
async def test_what_is_kept(first: str, second: str, calls: list[str]) -> None:
    around = world(a=answer(first), b=answer(second), chain=KEPT)
    served = [await around.serve(messages=ASK), await around.serve(messages=ASK)]
    assert served[0].sink.body == served[1].sink.body
    assert [begin.provider for begin in around.begins] == calls


def leaves(served: Served) -> None:
    served.control.client_gone()


def drains(served: Served) -> None:
    served.control.interrupt(ErrorClass.DRAINED)


async def test_a_caller_who_leaves_while_the_next_is_asked_is_billed_for_both() -> None:
    around = world(a=answer(REFUSED), b=Reply([FOREVER]), chain=GATED)
    await around.interrupted(leaves, messages=ASK)
    around.check_books()
    assert around.end.outcome == "client_gone"
    assert [end.outcome for end in around.ends] == ["ok", "client_gone"]
    assert around.ends[0].cost_nusd == COST


async def test_at_a_stop_the_answer_that_is_held_goes_out() -> None:
    around = world(a=answer(CUT), b=Reply([FOREVER]), chain=GATED)
    served = await around.interrupted(drains, messages=ASK)
    around.check_books()
    assert served.sink.status == 200
    assert text_of(served) == CUT
    assert around.end.outcome == "ok"


async def test_the_next_target_too_late_is_no_answer() -> None:
    around = world(a=answer(CUT), b=Reply([FOREVER]), chain=GATED)
    served = await around.interrupted(around.later(301), messages=ASK)
    around.check_books()
    assert text_of(served) == CUT
    assert around.ends[-1].error_class == "ttfb_timeout"


async def test_standing_hears_of_it() -> None:
    around = world(a=answer(GOOD), chain=GATED)
    (one,) = around.settings.chains["smart"].targets
    deployment = around.services.deployments.get(one, one.provider.credentials[0])
    deployment.keep_standing()
    await ask(around)
    assert deployment.standing is not None
    assert deployment.standing.quality == 1.0


# -- whatever the targets do

KINDS: dict[str, Callable[[], Any]] = {
    "good": lambda: answer(GOOD),
    "cut": lambda: answer(CUT),
    "refused": lambda: answer(REFUSED),
    "500": lambda: refusal(500),
    "400": lambda: refusal(400),
    "429": lambda: refusal(429),
    "odd": lambda: answer(None, audio={"data": "UklGRg=="}),
}


@pytest.mark.property
@programs(max_examples=100, deadline=None)
@given(kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4))
def test_one_answer_of_at_most_two_and_every_book_is_closed(kinds: list[str]) -> None:
    asyncio.run(check_answers(kinds))


async def check_answers(kinds: list[str]) -> None:
    around = world(**{"abcd"[n]: KINDS[kind]() for n, kind in enumerate(kinds)}, chain=GATED)
    served = await ask(around)
    answered = [end for end in around.ends if end.outcome == "ok"]
    assert len(answered) <= 2
    assert (served.sink.status == 200) == bool(answered)
    if answered:
        measured = notes(around)
        assert around.end.outcome == "ok"
        if len(measured) == 2:
            assert around.end.extra is not None
            assert around.end.extra["quality"] == max(note["quality"] for note in measured)
    assert around.end.attempts == len(around.begins)


# -- the judge

JUDGED = {"quality": QualitySettings(0.6, "judge", Budget(10**9))}


def judged(*verdicts: Any, limit_nusd: int = 10**9, **scripts: Any) -> World:
    """A chain whose answers a chain of one target judges."""
    gate = QualitySettings(0.6, "judge", Budget(limit_nusd))
    around = World(
        {name: [script] for name, script in scripts.items()} | {"j": list(verdicts)},
        tuple(target(name) for name in scripts),
        {"quality": gate},
    )
    judge = Chain("judge", (target("j"),), quality=gate)
    around.configure(
        chains={**around.settings.chains, "judge": judge},
        providers={**around.settings.providers, "j": judge.targets[0].provider},
    )
    ids = iter(range(1000))

    def new_id() -> str:
        around.ids += 1
        return f"J{next(ids)}"

    around.services.judge = Judge(around.services, around.heads, new_id)
    return around


def scored(score: object) -> Reply:
    return answer(orjson.dumps({"score": score}).decode())


async def test_a_judges_opinion_is_half_of_it() -> None:
    around = judged(scored(40), a=answer(GOOD))
    served = await ask(around)
    assert text_of(served) == GOOD
    end = around.end_of_last
    assert end.extra == {"quality": 0.7}
    (note,) = [entry for entry in end.trace if "quality" in entry]
    assert note["parts"]["judged"] == 0.4
    judges = next(begin for begin in around.begins if begin.provider == "j")
    assert judges.request is not None
    assert (judges.request.task, judges.request.task_id, judges.request.agent, judges.request.client) == (
        JUDGE_TASK,
        "R1",
        "smart",
        None,
    )
    assert around.spent("judge", "smart") == (COST, 0)


async def test_what_the_measures_cannot_see_a_judge_may() -> None:
    around = judged(scored(5), scored(95), a=answer(GOOD), b=answer(GOOD))
    served = await ask(around)
    assert served.sink.headers[b"x-tollbridge-provider"] == b"b"
    assert around.spent("judge", "smart") == (2 * COST, 0)


async def test_a_judge_is_not_judged_though_its_chain_says_so() -> None:
    around = judged(scored(90), a=answer(GOOD))
    await ask(around)
    assert [begin.provider for begin in around.begins] == ["a", "j"]


@pytest.mark.parametrize(
    "verdict",
    [refusal(500), answer("fine, I think"), scored(101), answer(""), UpstreamError(ErrorClass.CONNECT_TIMEOUT, "no", sent=False)],
    ids=["500", "no number", "too many", "nothing", "no connection"],
)
async def test_a_judge_that_fails_changes_nothing(verdict: Any) -> None:
    around = judged(verdict, a=answer(GOOD))
    served = await ask(around)
    assert text_of(served) == GOOD
    assert around.end_of_last.extra == {"quality": 1.0}
    assert "judge_failed" in around.meter.counts


async def test_a_plain_fault_needs_no_judge() -> None:
    around = judged(scored(90), a=answer(REFUSED))
    await ask(around)
    assert [begin.provider for begin in around.begins] == ["a"]


async def test_a_spent_budget_asks_no_judge() -> None:
    around = judged(scored(90), a=answer(GOOD), limit_nusd=COST // 2)
    await ask(around)
    await around.serve(messages=ASK)
    assert [begin.provider for begin in around.begins] == ["a", "j", "a"], "the one that crosses it is the last"
    assert around.end_of_last.extra == {"quality": 1.0}


async def test_a_caller_who_leaves_takes_the_judge_along() -> None:
    around = judged(Reply([FOREVER]), a=answer(GOOD))
    await around.interrupted(leaves, messages=ASK)
    await asyncio.gather(*judge_of(around)._under_way)
    around.check_books()
    assert [end.outcome for end in around.ends] == ["ok", "client_gone"]
    assert around.spent("judge", "smart")[1] == 0


async def test_a_stop_does_not_wait_for_a_judge() -> None:
    around = judged(Reply([FOREVER]), a=answer(GOOD))
    served = await around.interrupted(drains, messages=ASK)
    await asyncio.gather(*judge_of(around)._under_way)
    around.check_books()
    assert text_of(served) == GOOD
    assert [end.outcome for end in around.ends] == ["ok", "client_gone"]


async def test_a_judge_that_takes_too_long_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.engine.judge.JUDGE_S", 0.01)
    around = judged(Reply([FOREVER]), a=answer(GOOD))
    served = await around.serve(messages=ASK)
    await asyncio.gather(*judge_of(around)._under_way)
    around.check_books()
    assert text_of(served) == GOOD
    assert "judge_failed" in around.meter.counts
    assert around.spent("judge", "smart")[1] == 0


async def test_a_server_that_is_torn_down_meanwhile_leaves_no_request_open() -> None:
    around = judged(Reply([FOREVER]), a=answer(GOOD))
    served = around.start(messages=ASK)
    await asyncio.wait_for(around.waiting.wait(), 10)
    served.task.cancel()
    await asyncio.wait([served.task])
    await asyncio.gather(*judge_of(around)._under_way)
    around.check_books()
    own = [record.end for record in around.journal.records if isinstance(record, Rejected)]
    assert [(end.outcome, end.error_code) for end in own] == [("interrupted", "draining")]


async def test_so_many_judges_at_a_time_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.engine.judge.MAX_UNDER_WAY", 0)
    around = judged(scored(90), a=answer(GOOD))
    await ask(around)
    assert [begin.provider for begin in around.begins] == ["a"]


def judge_of(around: World) -> Judge:
    judge = around.services.judge
    assert isinstance(judge, Judge)
    return judge


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"score": 73}', 0.73),
        ('Here: {"score":"8"}', 0.08),
        ("55", 0.55),
        ("55/100.", 0.55),
        ("100", 1.0),
        ("0", 0.0),
        ("about 70 of 100", None),
        ('{"score": -4}', None),
        ('{"score": 250}', None),
        ("", None),
    ],
)
def test_scores(text: str, score: float | None) -> None:
    reply = answer(text).pieces[0]
    assert isinstance(reply, bytes)
    assert score_in(reply) == score


def test_no_score_in_what_is_no_answer() -> None:
    assert score_in(b"null") is None
    assert score_in(b"<html>") is None
