"""When every target has failed: once more after a pause, where that can help, and a canned answer at the very end."""

from typing import Any

import pytest

from proxy.accounting.usage import usage_from_openai
from proxy.config.targets import static_target
from proxy.core.errors import ErrorClass
from proxy.core.target import CircuitSettings, Timeouts
from proxy.dialects.static import StaticChat
from proxy.routing.retry_budget import PER_ATTEMPT
from proxy.upstream.static import StaticTransport
from tests.engine.harness import DONE, Reply, Script, World, called, chunk, fault, refusal, streamed, target, whole, world

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

SORRY = "Nobody can answer now. Try again in a minute."


def waits_for(seconds: str) -> Reply:
    return refusal(429, headers=((b"retry-after", seconds.encode()),))


# -- once more


async def test_a_chain_that_failed_for_the_moment_is_tried_once_more_after_a_pause() -> None:
    around = world(a=[refusal(503), whole("there")], b=refusal(500))
    served = await around.serve()
    assert served.answer["choices"][0]["message"]["content"] == "there"
    assert called(around) == ["a", "b", "a"]
    assert around.slept == [pytest.approx(0.25)]
    assert around.meter.counts == ["walked_again"]
    assert [note["then"] for note in around.end.trace if "then" in note] == ["next", "again"]
    around.check_books()


async def test_the_one_that_can_be_asked_soonest_is_asked_again() -> None:
    around = world(a=waits_for("1.8"), b=[refusal(503), whole("there")])
    await around.serve()
    assert called(around) == ["a", "b", "b"]
    around = world(a=[waits_for("1.8"), whole("there")], b=refusal(401))
    await around.serve()
    assert called(around) == ["a", "b", "a"]
    assert around.slept == [pytest.approx(1.8, abs=0.01)]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (waits_for("30"), waits_for("20")),
        (refusal(401), refusal(404)),
        (refusal(503), refusal(400)),
        (fault(ErrorClass.TLS, sent=False), refusal(401)),
    ],
    ids=["too long", "for others to mend", "the caller's own", "certificates"],
)
async def test_what_would_be_the_same_again_is_told_at_once(a: Script, b: Script) -> None:
    around = world(a=a, b=b)
    await around.serve()
    assert called(around) == ["a", "b"]
    assert around.slept == []
    around.check_books()


async def test_without_retries_it_is_told_at_once() -> None:
    around = world(target("a", retries=0), target("b", retries=0), a=refusal(503), b=refusal(503))
    await around.serve()
    assert called(around) == ["a", "b"]


async def test_there_must_be_time_for_it() -> None:
    limits = Timeouts(total_s=0.2)
    around = world(target("a", timeouts=limits), target("b", timeouts=limits), a=refusal(503), b=refusal(503))
    await around.serve()
    assert called(around) == ["a", "b"]


async def test_a_cause_that_may_not_move_on_does_not_come_again() -> None:
    around = world(a=refusal(503), b=refusal(503), chain={"failover_on": frozenset(("429",))})
    await around.serve()
    assert called(around) == ["a"]


async def test_with_everything_failing_it_adds_no_more_than_the_retry_budget_has() -> None:
    lasting = CircuitSettings(failures=10_000, error_rate=1.1)
    names = ("a", "b", "c")
    scripts: dict[str, Any] = {name: refusal(500) for name in names}
    around = world(*[target(name, circuit=lasting) for name in names], **scripts)
    requests = 200
    began_at = around.clock.now
    for _ in range(requests):
        await around.serve()
    elapsed_s = around.clock.now - began_at
    more = len(around.upstream.calls) - requests * len(names)
    assert 0 < more <= 1 + elapsed_s + requests * PER_ATTEMPT
    assert len(around.upstream.calls) <= 1.3 * requests * len(names)
    around.check_books()


async def test_an_open_circuit_that_ends_in_a_moment_is_waited_for_within_the_retry_budget() -> None:
    around = world(target("a", circuit=CircuitSettings(failures=1, open_s=1.5)), a=[refusal(500), whole("there")])
    await around.serve()
    around.slept.clear()
    around.services.trickle.allow("smart", around.clock.now)  # no last resort in this second
    around.clock.now += 0.5
    served = await around.serve()
    assert served.answer["choices"][0]["message"]["content"] == "there"
    assert len(around.slept) == 1
    assert around.slept[0] < 2
    around.check_books()


async def test_the_budget_rules_who_may_wait_for_a_circuit() -> None:
    around = world(target("a", circuit=CircuitSettings(failures=1, open_s=1.5)), a=refusal(500))
    await around.serve()
    while around.services.retry_budgets.take("a", around.clock.now):
        pass
    around.slept.clear()
    around.services.trickle.allow("smart", around.clock.now)
    served = await around.serve()
    assert served.code == "all_providers_unavailable"
    assert around.slept == []
    assert around.meter.counts[-2:] == ["budget_exhausted", "chain_exhausted"]


async def test_a_caller_who_leaves_during_the_pause_ends_it() -> None:
    around = world(a=refusal(503), b=refusal(503))

    async def left(seconds: float) -> None:
        served.control.client_gone()
        await World.sleep(around, seconds)

    around.services.sleep = left
    served = around.start()
    await served.task
    assert around.end.outcome == "client_gone"
    assert called(around) == ["a", "b"]
    around.check_books()


# -- a canned answer


def with_sorry(chain: dict[str, Any] | None = None, **scripts: Script) -> World:
    around = world(*[target(name) for name in scripts], static_target(SORRY), chain=chain, **scripts)
    around.services.outbound = {**around.services.outbound, "static": StaticChat(usage_from_openai)}
    around.services.transports = {**around.services.transports, "static": StaticTransport()}
    return around


@pytest.mark.parametrize("stream", [False, True])
async def test_the_canned_answer_comes_when_nothing_else_does_and_says_what_it_is(stream: bool) -> None:
    around = with_sorry(a=refusal(503), b=fault(ErrorClass.CONNECT, sent=False))
    served = await around.serve(stream=stream, **({"stream_options": {"include_usage": True}} if stream else {}))
    assert served.sink.status == 200
    assert served.sink.headers[b"x-tollbridge-provider"] == served.sink.headers[b"x-tollbridge-model"] == b"static"
    if stream:
        assert SORRY.encode() in served.sink.body
        assert served.sink.body.endswith(DONE)
        assert served.sink.body.count(b'"model":"static"') == 3
        assert b'"total_tokens":0' in served.sink.body
    else:
        assert served.answer["model"] == "static"
        assert served.answer["choices"] == [
            {
                "index": 0,
                "message": {"role": "assistant", "content": SORRY, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ]
        assert served.answer["usage"]["total_tokens"] == 0
    last = around.ends[-1]
    assert (last.provider, last.upstream_model, last.outcome, last.cost_nusd) == ("static", "static", "ok", 0)
    assert (last.input_tokens, last.output_tokens, last.usage_source) == (0, 0, "provider")
    assert around.meter.counts == ["static_answer"]
    assert around.meter.fallbacks == ["smart"]
    assert around.slept == []
    around.check_books()


async def test_while_anything_else_answers_it_is_not_given() -> None:
    around = with_sorry(a=whole("real"))
    served = await around.serve()
    assert served.answer["choices"][0]["message"]["content"] == "real"
    assert around.meter.counts == []


async def test_it_is_given_at_once_when_every_circuit_is_open() -> None:
    around = with_sorry(a=refusal(401))
    for _ in range(3):
        served = await around.serve()
        assert served.answer["model"] == "static"
    assert called(around) == ["a"]


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
        {"n": 2},
        {"logprobs": True},
    ],
)
async def test_it_is_no_answer_to_what_it_cannot_be(body: dict[str, Any]) -> None:
    around = with_sorry(a=refusal(503))
    served = await around.serve(**body)
    assert served.sink.status == 503
    assert called(around)[0] == "a"


async def test_it_is_no_embedding() -> None:
    around = with_sorry(a=refusal(503))
    served = await around.serve(input="words")
    assert served.sink.status == 503


async def test_it_does_not_hide_the_callers_own_mistake() -> None:
    around = with_sorry(a=refusal(400, "that is wrong"))
    served = await around.serve()
    assert served.sink.status == 400


async def test_a_stream_that_broke_after_content_is_not_ended_with_it() -> None:
    around = with_sorry(a=streamed(chunk("one"), fault(ErrorClass.RESET_STREAM)))
    served = await around.serve(stream=True)
    assert b"stream_interrupted" in served.sink.body
    assert SORRY.encode() not in served.sink.body
