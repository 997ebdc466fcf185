"""One request end to end: what the caller sees, what is written down, what the upstreams hear, and in which order."""

import asyncio
import threading
from typing import Any, cast

import orjson
import pytest

from proxy.accounting.pricing import PriceBook
from proxy.accounting.records import Begin, End, Rejected
from proxy.config.settings import ClientSettings
from proxy.core.chat import ChatRequest
from proxy.core.errors import CannotCarry, ErrorClass
from proxy.core.limits import Budget
from proxy.core.target import CircuitSettings, Quirks, Target, Timeouts
from proxy.dialects.base import OutboundRequest
from proxy.routing.verdict import RULES
from tests.engine.harness import (
    COST,
    COUNTED,
    DONE,
    FOREVER,
    HI,
    JSON,
    ROLE,
    SSE,
    STOP,
    Prices,
    Reply,
    Script,
    Served,
    World,
    chunk,
    dialect_of,
    fault,
    refusal,
    streamed,
    target,
    whole,
    world,
)

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


def called(around: World) -> list[str]:
    return [provider for what, provider in around.events if what == "send"]


def order(around: World) -> list[str]:
    return [what for what, _ in around.events]


def error_event(served: Served) -> str:
    assert served.sink.body.endswith(b"}\n\n")
    assert b"[DONE]" not in served.sink.body
    return served.sink.body.rpartition(b"data: ")[2].decode()


# -- the good way


async def test_a_whole_answer_is_written_down_before_it_goes_out() -> None:
    around = world(a=whole())
    served = await around.serve()
    assert order(around) == ["B", "send", "E", "respond"]
    assert (served.sink.status, served.sink.ended) == (200, "whole")
    assert served.answer["choices"][0]["message"]["content"] == "Hi"
    assert {name: served.sink.headers[name] for name in served.sink.headers if name.startswith(b"x-")} == {
        b"x-request-id": b"R1",
        b"x-tollbridge-provider": b"a",
        b"x-tollbridge-model": b"a-model",
        b"x-tollbridge-attempts": b"1",
    }
    assert served.sink.headers[b"server-timing"].startswith(b"upstream;dur=")
    around.check_books()


async def test_a_stream_is_written_down_before_its_last_bytes_and_after_its_first() -> None:
    around = world(a=streamed(ROLE, HI, chunk("Ho"), STOP, COUNTED, DONE))
    served = await around.serve(stream=True, stream_options={"include_usage": True})
    assert served.sink.body == ROLE + HI + chunk("Ho") + STOP + COUNTED + DONE
    assert served.sink.headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    last_writes = order(around)[order(around).index("E") :]
    assert last_writes == ["E", "finish"]
    assert order(around)[:3] == ["B", "send", "write"]
    around.check_books()


async def test_nothing_is_sent_to_the_caller_before_the_first_content() -> None:
    seen: list[list[str]] = []
    around = world(a=streamed(b": ping\n\n", ROLE, lambda: seen.append(order(around)), HI, STOP, DONE))
    served = await around.serve(stream=True)
    assert seen == [["B", "send"]]
    assert served.sink.body == b": ping\n\n" + ROLE + HI + STOP + DONE


async def test_the_rows_say_who_asked_for_what_and_what_came_of_it() -> None:
    around = world(a=whole())
    client = ClientSettings("search-agent", frozenset(), department="research")
    await around.serve(client=client)
    (begin,) = around.begins
    (end,) = around.ends
    assert (begin.attempt_id, begin.n, begin.provider, begin.upstream_model, begin.credential) == (
        "R1-1",
        1,
        "a",
        "a-model",
        "a0",
    )
    assert begin.at_risk_tokens > 0
    assert begin.request is not None
    assert (begin.request.client, begin.request.model, begin.request.chain, begin.request.config, begin.request.task) == (
        "search-agent",
        "smart",
        "smart",
        "0123456789ab",
        "t",
    )
    assert (end.outcome, end.http_status, end.error_class, end.finish_reason) == ("ok", 200, None, "stop")
    assert (end.input_tokens, end.output_tokens, end.usage_source, end.cost_nusd, end.at_risk_tokens) == (
        10,
        20,
        "provider",
        COST,
        0,
    )
    assert (around.end.outcome, around.end.http_status, around.end.attempts, around.end.error_code) == ("ok", 200, 1, None)
    assert around.end.trace == [{"target": "a/a-model", "kept": True}]
    assert around.log.requests[0]["cost_usd"] == 0.00005


async def test_the_upstream_gets_its_own_key_and_model_and_nothing_of_the_callers() -> None:
    around = world(a=whole())
    await around.serve(metadata={"task": "x"}, api_base="http://169.254.169.254")
    (call,) = around.upstream.calls
    assert call.authorization == b"Bearer fake-a-0"
    assert call.body["model"] == "a-model"
    assert "api_base" not in call.body
    assert "metadata" not in call.body


async def test_json_for_a_stream_becomes_the_stream_that_was_asked_for() -> None:
    around = world(a=whole())
    served = await around.serve(stream=True)
    assert served.sink.headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert served.sink.body.endswith(DONE)
    assert around.ends[0].cost_nusd == COST
    around.check_books()


async def test_a_stream_that_does_not_say_so_is_one_all_the_same() -> None:
    around = world(a=Reply([b"\n", ROLE + HI + STOP + DONE], headers=((b"content-type", b"text/plain"),)))
    served = await around.serve(stream=True)
    assert served.sink.body == ROLE + HI + STOP + DONE


async def test_a_missing_end_mark_is_added_and_counted() -> None:
    around = world(a=streamed(HI, STOP))
    served = await around.serve(stream=True)
    assert served.sink.body == HI + STOP + DONE
    assert around.end.outcome == "ok"
    assert around.meter.counts == ["missing_done"]


async def test_a_reset_after_the_finish_reason_is_an_answer_all_the_same() -> None:
    around = world(a=streamed(HI, STOP, fault(ErrorClass.RESET_STREAM)))
    served = await around.serve(stream=True)
    assert served.sink.body == HI + STOP + DONE
    assert around.end.outcome == "ok"


# -- failover


BEFORE_CONTENT: dict[str, tuple[Script, ErrorClass]] = {
    "refused": (fault(ErrorClass.CONNECT, sent=False), ErrorClass.CONNECT),
    "no such host": (fault(ErrorClass.DNS, sent=False), ErrorClass.DNS),
    "connect timeout": (fault(ErrorClass.CONNECT_TIMEOUT, sent=False), ErrorClass.CONNECT_TIMEOUT),
    "a bad certificate": (fault(ErrorClass.TLS, sent=False), ErrorClass.TLS),
    "reset before headers": (fault(ErrorClass.RESET), ErrorClass.RESET),
    "reset before the body": (Reply([fault(ErrorClass.RESET_BODY)], headers=SSE), ErrorClass.RESET_BODY),
    "reset before content": (streamed(ROLE, fault(ErrorClass.RESET_STREAM)), ErrorClass.RESET_STREAM),
    "cut before content": (streamed(ROLE), ErrorClass.TRUNCATED),
    "a 429": (refusal(429), ErrorClass.RATE_LIMITED),
    "no quota": (refusal(429, code="insufficient_quota"), ErrorClass.INSUFFICIENT_QUOTA),
    "a 402": (refusal(402), ErrorClass.INSUFFICIENT_QUOTA),
    "a 500": (refusal(500), ErrorClass.SERVER_ERROR),
    "a 503": (refusal(503), ErrorClass.OVERLOADED),
    "a 529": (refusal(529), ErrorClass.OVERLOADED),
    "an HTML 502": (Reply([b"<html>"], 502, ((b"content-type", b"text/html"),)), ErrorClass.SERVER_ERROR),
    "a 401": (refusal(401, "Incorrect API key provided: sk-fake-fake"), ErrorClass.AUTH),
    "a 404": (refusal(404), ErrorClass.MODEL_NOT_FOUND),
    "a 408": (refusal(408), ErrorClass.RETRYABLE_4XX),
    "a redirect": (Reply([b""], 302, ((b"location", b"http://169.254.169.254/"),)), ErrorClass.REDIRECT),
    "an error inside a 200": (Reply([b'{"error":{"message":"m","code":429}}'], headers=JSON), ErrorClass.RATE_LIMITED),
    "an error event": (streamed(ROLE, b'data: {"error":{"message":"m","type":"server_error"}}\n\n'), ErrorClass.SERVER_ERROR),
    "nothing": (streamed(b""), ErrorClass.EMPTY),
    "an empty 200": (Reply([b" \n"]), ErrorClass.EMPTY),
    "no choices": (Reply([b'{"choices":[]}']), ErrorClass.EMPTY),
    "bad JSON": (Reply([b"{oops"]), ErrorClass.MALFORMED),
    "HTML": (Reply([b"<html>"], headers=((b"content-type", b"text/html; charset=utf-8"),)), ErrorClass.BAD_CONTENT_TYPE),
    "compressed": (Reply([b"\x1f\x8b"], headers=((b"content-encoding", b"gzip"), *SSE)), ErrorClass.TOO_LARGE),
    "an event without end": (streamed(b"data: " + b"x" * 1_100_000), ErrorClass.TOO_LARGE),
    "pings without end": (streamed(*[b": " + b"x" * 100_000 + b"\n\n"] * 12), ErrorClass.TOO_LARGE),
    "four malformed events": (streamed(*[b"data: {oops\n\n"] * 4), ErrorClass.MALFORMED_EVENT),
}


@pytest.mark.parametrize(("script", "error_class"), BEFORE_CONTENT.values(), ids=BEFORE_CONTENT.keys())
async def test_any_fault_before_content_fails_over_and_the_caller_sees_nothing_of_it(
    script: Script, error_class: ErrorClass
) -> None:
    around = world(a=script, b=streamed())
    served = await around.serve(stream=True)
    assert called(around) == ["a", "b"]
    assert (served.sink.status, served.sink.body) == (200, ROLE + HI + STOP + DONE)
    assert served.sink.headers[b"x-tollbridge-attempts"] == b"2"
    assert served.sink.headers[b"x-tollbridge-provider"] == b"b"
    first, second = around.ends
    assert (first.outcome, first.error_class, first.category) == ("failed", error_class, RULES[error_class].category)
    assert (first.cost_nusd, first.usage_source, first.end) == (0, None, None)
    assert (first.at_risk_tokens > 0) == (RULES[error_class].billed == "risk")
    assert (second.outcome, second.cost_nusd) == ("ok", COST)
    assert [begin.request is None for begin in around.begins] == [False, True]
    assert around.meter.failovers == [("a/m", "b/m", error_class.value)]
    notes = around.end.trace[2:]
    assert [(note["attempt"], note["target"], note["error"], note["then"]) for note in notes] == [
        (1, "a/a-model", error_class.value, "next")
    ]
    around.check_books()


@pytest.mark.parametrize(("script", "error_class"), BEFORE_CONTENT.values(), ids=BEFORE_CONTENT.keys())
async def test_a_spent_chain_is_an_error_in_openais_shape_with_the_right_status(script: Script, error_class: ErrorClass) -> None:
    around = world(target("a", retries=0), a=script)
    served = await around.serve(stream=True)
    rule = RULES[error_class]
    assert (served.sink.status, served.code) == (rule.status, rule.code)
    assert served.sink.status not in (401, 403)  # the caller would change its own key
    assert served.sink.headers[b"x-should-retry"] == b"false"
    assert served.sink.headers[b"x-tollbridge-attempts"] == b"1"
    assert order(around) == ["B", "send", "E", "respond"]
    assert (around.end.outcome, around.end.http_status, around.end.error_code) == ("failed", rule.status, rule.code)
    assert "sk-fake" not in served.sink.body.decode() + str(around.journal.records)
    around.check_books()


async def test_the_chain_is_walked_in_order_and_no_further_than_needed() -> None:
    around = world(a=refusal(500), b=refusal(503), c=whole(), d=whole())
    await around.serve()
    assert called(around) == ["a", "b", "c"]
    assert around.end.attempts == 3


async def test_preferring_a_provider_puts_it_first_with_the_chain_behind_it() -> None:
    around = world(a=whole(), b=refusal(500), c=whole())
    await around.serve(prefer="b")
    assert called(around) == ["b", "a"]


@pytest.mark.parametrize("length", [1, 2, 3, 6])
async def test_attempts_are_at_most_one_more_than_the_chain_is_long(length: int) -> None:
    scripts: dict[str, Any] = {name: refusal(500) for name in "abcdef"[:length]}
    around = world(**scripts)
    served = await around.serve()
    assert len(around.begins) == around.end.attempts == length + 1
    assert served.sink.status == 502
    around.check_books()


@pytest.mark.parametrize(
    ("status", "error", "seen"),
    [
        (400, {"code": "unsupported_value", "param": "messages[0].role"}, (400, "unsupported_value", "messages[0].role")),
        (422, {}, (422, "invalid_request", None)),
        (413, {}, (413, "invalid_request", None)),
        (415, {}, (415, "invalid_request", None)),
        (400, {"code": "content_filter"}, (400, "content_policy", None)),
        (400, {"code": "context_length_exceeded"}, (400, "context_length_exceeded", None)),
    ],
)
async def test_the_callers_own_mistakes_are_told_at_once_in_the_providers_words(
    status: int, error: dict[str, Any], seen: tuple[int, str, str | None]
) -> None:
    around = world(a=refusal(status, "that is wrong, says loaded-secret-fake", **error), b=whole())
    served = await around.serve()
    assert called(around) == ["a"]
    told = served.answer["error"]
    assert (served.sink.status, told["code"], told["param"]) == seen
    assert told["message"] == "that is wrong, says ***"
    assert around.ends[0].error == "that is wrong, says ***"
    assert around.services.deployments.snapshot(0)[0].failed == 0


async def test_context_length_fails_over_only_to_a_target_known_to_hold_more() -> None:
    too_long = refusal(400, code="context_length_exceeded")
    sizes = {"a": 8_000, "b": None, "c": 4_000, "d": 8_000, "e": 128_000}
    around = world(
        *[target(name, context=size) for name, size in sizes.items()], a=too_long, b=whole(), c=whole(), d=whole(), e=whole()
    )
    await around.serve()
    assert called(around) == ["a", "e"]


async def test_a_context_that_only_the_price_data_knows_counts_as_known_and_the_configured_one_before_it() -> None:
    too_long = refusal(400, code="context_length_exceeded")
    around = world(target("a"), target("b", context=4_000), target("c"), a=too_long, b=whole(), c=whole())
    around.services.prices = cast(PriceBook, Prices({"a": 8_000, "b": 1_000_000, "c": 128_000}))
    await around.serve()
    assert called(around) == ["a", "c"]


async def test_failover_on_says_which_causes_may_move_on() -> None:
    around = world(a=refusal(500), b=whole(), chain={"failover_on": frozenset(("429",))})
    served = await around.serve()
    assert (called(around), served.sink.status) == (["a"], 502)
    around = world(a=refusal(400, code="content_filter"), b=whole(), chain={"failover_on": frozenset(("policy",))})
    assert (await around.serve()).sink.status == 200


@pytest.mark.parametrize("script", [refusal(401), refusal(404), refusal(402)])
async def test_a_failover_that_hides_a_mistake_is_loud(script: Script) -> None:
    around = world(a=script, b=whole())
    await around.serve()
    assert [(level, fields["target"]) for level, _, fields in around.log.lines] == [("warning", "a/a-model")]
    assert "warned_failover" in around.meter.counts


async def test_a_latched_key_is_not_tried_again_and_the_trace_says_why() -> None:
    around = world(a=refusal(401), b=whole())
    await around.serve()
    await around.serve()
    assert called(around) == ["a", "b", "b"]
    last = around.ends[-1].end
    assert last is not None
    assert last.trace[0] == {"target": "a/a-model", "skipped": "latched: bad key"}


async def test_a_second_key_is_tried_when_the_first_is_refused() -> None:
    around = world(target("a", keys=2), a=[refusal(401), whole()])
    served = await around.serve()
    assert served.sink.status == 200
    assert [call.authorization for call in around.upstream.calls] == [b"Bearer fake-a-0", b"Bearer fake-a-1"]
    around.check_books()


async def test_rate_limits_everywhere_are_a_429_with_the_shortest_wait() -> None:
    around = world(a=refusal(429, headers=((b"retry-after", b"7"),)), b=refusal(429, headers=((b"retry-after", b"30"),)))
    served = await around.serve()
    assert (served.sink.status, served.sink.headers[b"retry-after"]) == (429, b"7")
    served = await around.serve()
    assert (served.sink.status, served.code, served.sink.headers[b"retry-after"]) == (429, "rate_limit_exceeded", b"7")
    assert len(called(around)) == 2
    around.check_books()


# -- retries


async def test_the_one_usable_target_is_tried_once_more_after_a_pause() -> None:
    around = world(a=[refusal(500), whole()])
    served = await around.serve()
    assert (served.sink.status, called(around)) == (200, ["a", "a"])
    assert around.slept == [0.25]
    assert [note["then"] for note in around.end.trace[1:]] == ["retry"]
    assert around.meter.failovers == []
    around.check_books()


async def test_a_retry_is_not_made_where_it_cannot_help() -> None:
    for script in (refusal(401), refusal(404), refusal(400), fault(ErrorClass.TLS, sent=False)):
        around = world(a=script)
        await around.serve()
        assert called(around) == ["a"]
        assert around.slept == []


async def test_a_retry_waits_out_a_short_cooldown_and_does_not_wait_for_a_long_one() -> None:
    around = world(a=[refusal(429, headers=((b"retry-after", b"2"),)), whole()])
    assert (await around.serve()).sink.status == 200
    assert around.slept == [2.0]
    around = world(a=[refusal(429, headers=((b"retry-after", b"3"),)), whole()])
    assert (await around.serve()).sink.status == 429
    assert around.slept == []


async def test_retries_are_as_many_as_the_file_says() -> None:
    around = world(target("a", retries=0), a=[refusal(500), whole()])
    assert (await around.serve()).sink.status == 502
    around = world(target("a", retries=1), a=refusal(500))
    await around.serve()
    assert len(called(around)) == 2


async def test_a_storm_of_faults_does_not_become_a_storm_of_retries() -> None:
    circuit = CircuitSettings(failures=1000, min_requests=1000)
    around = world(target("a", circuit=circuit), a=refusal(500))
    around.services.sleep = _no_time  # so that the bucket does not fill while we wait
    for _ in range(50):
        await around.serve()
    retries = len(called(around)) - 50
    assert 9 <= retries <= 12
    assert "budget_exhausted" in around.meter.counts
    around.check_books()


async def _no_time(seconds: float) -> None:
    return


async def test_a_stale_connection_is_tried_again_at_once_on_a_fresh_one() -> None:
    around = world(a=[fault(ErrorClass.STALE_RETRY), whole()], b=whole())
    served = await around.serve()
    assert (served.sink.status, called(around)) == (200, ["a", "a"])
    assert [call.fresh for call in around.upstream.calls] == [False, True]
    assert (around.slept, around.meter.counts, around.meter.failovers) == ([], ["stale_retry"], [])
    assert around.ends[0].at_risk_tokens == 0
    assert around.services.deployments.snapshot(0)[0].failed == 0
    around.check_books()


async def test_a_stale_connection_again_and_again_ends_all_the_same() -> None:
    around = world(a=fault(ErrorClass.STALE_RETRY), b=whole())
    served = await around.serve()
    assert (served.sink.status, called(around)) == (200, ["a", "a", "b"])
    around.check_books()


# -- after content


BROKEN: dict[str, tuple[Any, ErrorClass]] = {
    "reset": (fault(ErrorClass.RESET_STREAM), ErrorClass.STREAM_INTERRUPTED),
    "clean end without finish reason": (b"", ErrorClass.TRUNCATED),
    "an error event": (b'data: {"error":{"message":"m","type":"server_error"}}\n\n', ErrorClass.STREAM_INTERRUPTED),
    "a rate limit inside": (b'data: {"error":{"message":"m","code":429}}\n\n', ErrorClass.STREAM_INTERRUPTED),
    "an event too large": (b"data: " + b"x" * 1_100_000, ErrorClass.TOO_LARGE),
    "four malformed events": (b"data: {oops\n\n" * 4, ErrorClass.MALFORMED_EVENT),
}


@pytest.mark.parametrize(("break_", "error_class"), BROKEN.values(), ids=BROKEN.keys())
async def test_after_content_there_is_no_failover_but_an_error_event_and_never_an_end_mark(
    break_: Any, error_class: ErrorClass
) -> None:
    around = world(a=streamed(ROLE, HI, break_), b=streamed())
    served = await around.serve(stream=True)
    assert called(around) == ["a"]
    assert served.sink.body.startswith(ROLE + HI)
    assert '"code":"stream_interrupted"' in error_event(served)
    (end,) = around.ends
    assert (end.outcome, end.error_class, end.usage_source, end.at_risk_tokens) == ("failed", error_class, "estimated", 0)
    assert end.input_tokens > 0
    assert end.output_tokens == 1
    assert end.cost_nusd == end.input_tokens * 1000 + end.output_tokens * 2000
    assert (around.end.outcome, around.end.http_status, around.end.error_code) == ("failed", 200, "stream_interrupted")
    (snapshot, _) = around.services.deployments.snapshot(around.clock.now)
    assert (snapshot.ok, snapshot.failed) == (1, 1)
    assert order(around)[-2:] == ["E", "finish"]
    around.check_books()


async def test_what_was_still_good_in_the_last_piece_goes_out_before_the_error() -> None:
    around = world(a=streamed(HI, chunk("Ho") + b'data: {"error":"boom"}\n\n' + chunk("never")))
    served = await around.serve(stream=True)
    assert served.sink.body.startswith(HI + chunk("Ho") + b'data: {"error":')
    assert b"never" not in served.sink.body


async def test_the_providers_own_figure_is_taken_for_what_broke_when_it_is_more_than_was_seen() -> None:
    around = world(a=streamed(chunk("Hi", usage={"prompt_tokens": 9, "completion_tokens": 7}), fault(ErrorClass.RESET_STREAM)))
    await around.serve(stream=True)
    (end,) = around.ends
    assert (end.input_tokens, end.output_tokens, end.usage_source) == (9, 7, "provider")


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


async def test_progress_is_written_now_and_then_on_a_long_stream() -> None:
    def two_seconds() -> None:
        around.clock.now += 2.0

    around = world(a=streamed(HI, two_seconds, chunk("x" * 40), chunk("y"), *[chunk("z")] * 260, STOP, DONE))
    await around.serve(stream=True)
    kinds = [record.t for record in around.journal.records]
    assert kinds == ["B", "P", "P", "E"]


# -- admission


async def test_a_model_that_means_nothing_is_a_404_and_a_row() -> None:
    around = world(a=whole())
    served = await around.serve(model="nothing")
    assert (served.sink.status, served.code) == (404, "model_not_found")
    (record,) = around.journal.records
    assert isinstance(record, Rejected)
    assert (record.request.model, record.request.chain, record.end.outcome) == ("nothing", None, "rejected")
    assert around.meter.ended == [("none", "rejected", False)]


async def test_a_key_where_the_model_belongs_goes_to_nobody_and_into_no_row() -> None:
    around = world(a=whole())
    served = await around.serve(model="a-loaded-secret-fake")
    assert (served.sink.status, served.code) == (404, "model_not_found")
    (record,) = around.journal.records
    assert isinstance(record, Rejected)
    assert record.request.model == "a-***"
    assert b"loaded-secret-fake" not in bytes(served.sink.body)


async def test_a_client_may_use_only_its_chains() -> None:
    around = world(a=whole())
    served = await around.serve(client=ClientSettings("c", frozenset(), chains=frozenset(("other",))))
    assert (served.sink.status, served.code) == (403, "model_not_allowed")
    assert called(around) == []
    assert (await around.serve(client=ClientSettings("c", frozenset(), chains=frozenset(("smart",))))).sink.status == 200


async def test_a_feature_that_no_target_has_is_a_400_and_one_that_some_lack_is_a_skip() -> None:
    plain = target("a", capabilities=frozenset())
    around = world(plain, a=whole())
    served = await around.serve(tools=[{"type": "function"}])
    assert (served.sink.status, served.code) == (400, "unsupported_feature")
    assert around.end.outcome == "rejected"
    around = world(plain, target("b"), a=whole(), b=whole())
    await around.serve(tools=[{"type": "function"}])
    assert called(around) == ["b"]
    assert around.end.trace[0] == {"target": "a/a-model", "skipped": "lacks tools"}


class Wordless:
    """A dialect that has no words for audio, and none for the knob `user`."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        if "audio" in request.body:
            raise CannotCarry("audio", param="audio")
        found: OutboundRequest = self._inner.encode_request(request, target)
        found.dropped = ("user",) if "user" in request.body else ()
        return found


def wordless(*targets: Target, **options: Any) -> World:
    around = world(*targets, **options)
    outbound: Any = around.services.outbound
    outbound["wordless"] = Wordless(outbound["openai"])
    return around


async def test_a_target_whose_format_cannot_carry_a_feature_is_passed_over_with_that_reason() -> None:
    around = wordless(dialect_of("a", "wordless"), target("b"), a=whole(), b=whole())
    served = await around.serve(audio={})
    assert (served.sink.status, called(around)) == (200, ["b"])
    assert {"target": "a/a-model", "skipped": "cannot carry audio"} in around.end.trace
    assert all(one.in_flight == 0 for one in around.services.deployments.snapshot(0))


async def test_a_feature_that_no_target_can_carry_is_a_400_that_names_its_place() -> None:
    around = wordless(dialect_of("a", "wordless"), a=whole())
    served = await around.serve(audio={})
    assert (served.sink.status, served.code, called(around)) == (400, "unsupported_feature", [])
    assert around.end.outcome == "rejected"
    assert orjson.loads(served.sink.body)["error"]["param"] == "audio"


async def test_after_a_failure_the_failure_is_told_and_not_what_the_rest_could_not_carry() -> None:
    around = wordless(target("a"), dialect_of("b", "wordless"), a=refusal(500), b=whole())
    served = await around.serve(audio={})
    assert (served.sink.status, called(around)) == (502, ["a"])


async def test_a_strict_chain_passes_over_who_would_drop_something() -> None:
    around = wordless(dialect_of("a", "wordless"), target("b"), a=whole(), b=whole(), chain={"strict": True})
    await around.serve(user="u")
    assert called(around) == ["b"]
    assert {"target": "a/a-model", "skipped": "cannot carry user"} in around.end.trace


async def test_a_provider_that_signs_is_called_with_what_the_authorizer_says() -> None:
    around = world(target("a", provider={"signs": True}), a=whole())
    await around.serve()
    (call,) = around.upstream.calls
    assert call.authorization == b"signed %d" % len(orjson.dumps(call.body))


async def test_without_credentials_to_sign_with_the_next_target_answers() -> None:
    around = world(target("a", keys=0, provider={"signs": True}), target("b"), a=whole(), b=whole())
    served = await around.serve()
    assert (served.sink.status, called(around)) == (200, ["b"])
    assert around.meter.attempts == [("a", "auth"), ("b", "ok")]


async def test_a_target_that_refuses_a_parameter_is_skipped_and_named() -> None:
    around = world(target("a", quirks=Quirks(refuse=frozenset(("logit_bias", "n")))), target("b"), a=whole(), b=whole())
    await around.serve(logit_bias={"1": 1}, n=1)
    assert called(around) == ["b"]
    assert around.end.trace == [{"target": "a/a-model", "skipped": "refuses logit_bias"}, {"target": "b/b-model", "kept": True}]
    await around.serve(n=1)
    assert called(around) == ["b", "a"]


@pytest.mark.parametrize(("strict", "who"), [(False, "a"), (True, "b")])
async def test_what_is_dropped_is_named_and_on_a_strict_chain_it_is_a_reason_to_skip(strict: bool, who: str) -> None:
    around = world(
        target("a", quirks=Quirks(drop=frozenset(("user",)))), target("b"), a=whole(), b=whole(), chain={"strict": strict}
    )
    served = await around.serve(user="u")
    assert called(around) == [who]
    assert served.sink.headers.get(b"x-tollbridge-dropped") == (None if strict else b"user")
    assert around.end.dropped == ([] if strict else ["user"])


async def test_nothing_usable_is_a_503_at_once_with_a_row_and_the_reasons() -> None:
    around = world(target("a", provider={"disabled": "no key: set A_API_KEY"}), a=whole())
    served = await around.serve()
    assert (served.sink.status, served.code) == (503, "all_providers_unavailable")
    assert "no key: set A_API_KEY" in served.answer["error"]["message"]
    assert (order(around), around.end.outcome) == (["R", "respond"], "failed")
    assert around.meter.counts == ["chain_exhausted"]
    around.check_books()


async def test_a_short_cooldown_is_waited_for_when_there_is_nothing_else() -> None:
    around = world(target("a", retries=0), a=[refusal(429, headers=((b"retry-after", b"1"),)), whole()])
    assert (await around.serve()).sink.status == 429
    assert (await around.serve()).sink.status == 200
    assert around.slept == [1.0]


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


# -- faults of our own


async def test_a_fault_of_our_own_costs_neither_the_row_nor_the_answer() -> None:
    around = world(target("a"), a=[ZeroDivisionError("a bug"), whole()])
    served = await around.serve()
    assert (served.sink.status, served.code) == (500, "internal_error")
    assert "a bug" not in served.sink.body.decode()
    assert [line[:2] for line in around.log.lines] == [("error", "internal_error")]
    assert around.end.outcome == "failed"
    around.check_books()


async def test_a_fault_of_our_own_before_the_dispatch_gives_the_permit_back() -> None:
    around = world(target("a", provider={}), a=whole())
    around.services.outbound = {}
    served = await around.serve()
    assert served.sink.status == 500
    assert [type(record) for record in around.journal.records] == [Rejected]
    around.check_books()


async def test_the_proxys_own_time_leaves_out_what_others_took() -> None:
    around = world(a=Reply([refusal(500).pieces[0]], 500, takes_s=3.0), b=Reply(whole().pieces, takes_s=5.0))
    await around.serve()
    assert around.end.duration_ms == pytest.approx(8000)
    assert around.end.overhead_ms == pytest.approx(0, abs=0.001)
    assert around.end.first_token_ms == pytest.approx(8000)
