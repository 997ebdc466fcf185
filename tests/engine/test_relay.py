"""One request end to end: what the caller sees, what is written down, what the upstreams hear, and in which order."""

from typing import Any, cast

import pytest

from proxy.accounting.pricing import PriceBook
from proxy.accounting.records import Rejected
from proxy.config.settings import ClientSettings
from proxy.core.errors import ErrorClass
from proxy.core.target import CircuitSettings
from proxy.routing.verdict import RULES
from tests.engine.harness import (
    COST,
    COUNTED,
    DONE,
    HI,
    JSON,
    ROLE,
    SSE,
    STOP,
    Prices,
    Reply,
    Script,
    called,
    chunk,
    error_event,
    fault,
    order,
    refusal,
    streamed,
    target,
    whole,
    world,
)

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


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


async def test_a_retry_after_a_stale_connection_is_made_on_a_fresh_one_too() -> None:
    """What the provider's own faults break would look stale again and again, and each time be asked twice."""
    around = world(target("a"), a=[fault(ErrorClass.STALE_RETRY), fault(ErrorClass.RESET), whole()])
    served = await around.serve()
    assert served.sink.status == 200
    assert [call.fresh for call in around.upstream.calls] == [False, True, True]
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
