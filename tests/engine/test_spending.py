"""Budgets, quotas and rate limits around a request: who is let through, what is held and settled, what trace and caller are told."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.accounting.states import QuotaState
from proxy.config.settings import ClientSettings
from proxy.core.chat import Tags
from proxy.core.errors import ErrorClass
from proxy.core.limits import Budget, Quota, RateLimits
from proxy.core.target import Target
from tests.engine.harness import (
    COST,
    FOREVER,
    HI,
    WALL,
    Reply,
    Script,
    World,
    fault,
    refusal,
    streamed,
    target,
    whole,
    world,
)

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

DAILY = Quota("requests", 2, "day")
TOKENS = 30  # what an answer of the harness takes


def called(around: World) -> list[str]:
    return [provider for what, provider in around.events if what == "send"]


def limited(name: str = "a", *, keys: int = 1, retries: int = 0, price: Any = ..., **provider: Any) -> Target:
    rest = {} if price is ... else {"price": price}
    return target(name, keys=keys, provider=provider, retries=retries, **rest)


def quota(around: World, name: str = "a") -> QuotaState:
    (state,) = [state for state in around.spending.quotas.states(around.clock.wall()) if state.provider == name]
    return state


def skipped(around: World) -> dict[str, str]:
    return {entry["target"]: entry["skipped"] for entry in around.end_of_last.trace if "skipped" in entry}


# -- budgets of everybody


@pytest.mark.parametrize(
    ("changes", "tags", "whose"),
    [
        ({"budget": Budget(COST)}, Tags(), "The total budget"),
        ({"departments": {"research": Budget(COST)}}, Tags(department="research"), "The budget of department research"),
        ({"agents": {"search": Budget(COST)}}, Tags(agent="search"), "The budget of agent search"),
    ],
)
async def test_a_spent_budget_is_a_429_that_names_whose_it_is(changes: dict[str, Any], tags: Tags, whose: str) -> None:
    around = world(a=whole())
    around.configure(**changes)
    assert (await around.serve(tags=tags)).sink.status == 200
    served = await around.serve(tags=tags)
    assert (served.sink.status, served.code) == (429, "budget_exceeded")
    assert f"{whose} is used up: $0.00005 of $0.00005 spent this month" in served.answer["error"]["message"]
    assert called(around) == ["a"]
    around.check_books()
    if "budget" not in changes:
        assert (await around.serve(tags=Tags(department="sales", agent="chat"))).sink.status == 200


async def test_every_budget_that_applies_is_held_and_settled_with_all_attempts_of_the_request() -> None:
    scopes = [("total", None), ("client", "c"), ("department", "research"), ("agent", "search")]
    around = world(limited("a"), target("b"), a=fault(ErrorClass.RESET), b=whole())
    around.configure(budget=Budget(10**9), departments={"research": Budget(10**9)}, agents={"search": Budget(10**9, hard=False)})
    client = ClientSettings("c", frozenset(), budget=Budget(10**9))
    served = await around.serve(client=client, tags=Tags(department="research", agent="search"))
    assert (served.sink.status, called(around)) == (200, ["a", "b"])
    assert [around.spent(*scope) for scope in scopes] == [(COST, 0)] * 4
    assert around.spending.budgets.outstanding == 0


# -- a provider's budget


async def test_a_provider_whose_budget_is_spent_is_skipped_with_the_reason() -> None:
    around = world(limited("a", budget=Budget(COST)), target("b"), a=whole(), b=whole())
    assert [(await around.serve()).sink.headers[b"x-tollbridge-provider"] for _ in range(2)] == [b"a", b"b"]
    resets = datetime.fromtimestamp(around.clock.wall(), UTC).replace(day=1, month=2).strftime("%Y-%m-%dT00:00:00Z")
    assert skipped(around) == {"a/a-model": f"budget spent: $0.00005 of $0.00005 this month, resets {resets}"}
    assert around.spent("provider", "a") == (COST, 0)


async def test_an_attempt_holds_what_it_may_cost_at_that_provider() -> None:
    held: list[tuple[int, int]] = []
    around = world(limited("a", budget=Budget(10**9)), a=streamed(HI, lambda: held.append(around.spent("provider", "a"))))
    await around.serve(stream=True, max_tokens=10)
    ((spent, bound),) = held
    assert spent == 0
    assert COST / 2 < bound < 10**6
    assert around.spending.budgets.outstanding == 0


async def test_a_model_without_a_price_is_skipped_where_the_providers_budget_is_hard() -> None:
    around = world(limited("a", price=None, budget=Budget(10**9)), target("b"), a=whole(), b=whole())
    assert (await around.serve()).sink.headers[b"x-tollbridge-provider"] == b"b"
    assert skipped(around) == {"a/a-model": "no known price, which its hard budget needs"}
    around = world(limited("a", price=None, budget=Budget(10**9, hard=False)), a=whole())
    assert (await around.serve()).sink.status == 200


async def test_two_hundred_at_the_edge_of_a_providers_budget_overshoot_by_one_bound_at_most() -> None:
    limit = 20 * COST
    around = world(limited("a", budget=Budget(limit)), a=whole())
    served = [around.start(max_tokens=40) for _ in range(200)]
    await asyncio.gather(*[one.task for one in served])
    spent, held = around.spent("provider", "a")
    bound = 200 * 1_000 + 40 * 2_000  # more bytes than there are, at a token each
    assert {one.sink.status for one in served} == {200, 503}
    assert spent == COST * len([one for one in served if one.sink.status == 200]) <= limit + bound
    assert held == 0
    around.check_books()


# -- quotas


async def test_a_spent_quota_sets_the_target_aside_and_it_returns_at_the_reset() -> None:
    around = world(limited("a", quotas=(DAILY,)), target("b"), a=whole(), b=whole())
    providers = [(await around.serve()).sink.headers[b"x-tollbridge-provider"] for _ in range(3)]
    assert providers == [b"a", b"a", b"b"]
    resets = quota(around).resets
    assert resets is not None
    text = datetime.fromtimestamp(resets, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert skipped(around) == {"a/a-model": f"quota spent: 2 of 2 requests today, resets {text}"}
    around.clock.now = resets - WALL - 0.001
    assert (await around.serve()).sink.headers[b"x-tollbridge-provider"] == b"b"
    around.clock.now = resets - WALL
    assert (await around.serve()).sink.headers[b"x-tollbridge-provider"] == b"a"
    assert {one.circuit for one in around.services.deployments.snapshot(around.clock.now)} == {"closed"}
    assert {(one.failed, one.cooldown_s) for one in around.services.deployments.snapshot(around.clock.now)} == {(0, 0.0)}


async def test_with_nothing_else_left_retry_after_counts_the_reset() -> None:
    around = world(limited("a", quotas=(DAILY,)), a=whole())
    for _ in range(2):
        await around.serve()
    served = await around.serve()
    assert (served.sink.status, served.code) == (503, "all_providers_unavailable")
    assert "quota spent: 2 of 2 requests today" in served.answer["error"]["message"]
    resets = quota(around).resets
    assert resets is not None
    assert int(served.sink.headers[b"retry-after"]) == resets - around.clock.wall()


async def test_a_quota_that_never_comes_back_promises_nothing() -> None:
    around = world(limited("a", quotas=(Quota("tokens", TOKENS, "once"),)), a=whole())
    await around.serve()
    served = await around.serve()
    assert (served.sink.status, b"retry-after" in served.sink.headers) == (503, False)
    assert "quota spent: 30 of 30 tokens, does not reset" in served.answer["error"]["message"]


async def test_every_key_may_have_a_quota_of_its_own() -> None:
    own = Quota("requests", 1, "day", each_key=True)
    around = world(limited("a", keys=2, quotas=(own,)), a=whole())
    assert [(await around.serve()).sink.status for _ in range(3)] == [200, 200, 503]
    assert sorted(record.credential for record in around.begins) == ["a0", "a1"]


@pytest.mark.parametrize(
    ("script", "requests", "tokens"),
    [
        (whole(), 1, TOKENS),
        (streamed(), 1, TOKENS),
        (refusal(500), 1, 0),
        (refusal(400), 1, 0),
        (fault(ErrorClass.RESET), 1, 0),
        (fault(ErrorClass.CONNECT, sent=False), 0, 0),
        ([fault(ErrorClass.STALE_RETRY), whole()], 1, TOKENS),
        (FOREVER, 1, 0),
    ],
    ids=["whole", "streamed", "500", "400", "reset", "never connected", "stale connection", "hung up"],
)
async def test_what_an_attempt_takes_of_a_quota(script: Script | list[Script], requests: int, tokens: int) -> None:
    around = world(limited("a", quotas=(Quota("requests", 100, "day"), Quota("tokens", 10**6, "day"))), a=script)
    if script is FOREVER:
        await around.interrupted(lambda served: served.control.client_gone())
    else:
        await around.serve(stream=isinstance(script, Reply) and script.pieces[:1] != whole().pieces[:1])
    states = around.spending.quotas.states(around.clock.wall())
    assert [(state.used, state.held) for state in states] == [(requests, 0), (tokens, 0)]
    around.check_books()


async def test_a_target_that_cannot_carry_the_request_takes_nothing() -> None:
    around = world(limited("a", quotas=(DAILY,)), a=whole())
    around.services.embedders = {}
    assert (await around.serve(input="Hi")).sink.status == 400
    assert (quota(around).used, quota(around).held) == (0, 0)


async def test_what_the_ledger_cannot_take_down_takes_nothing() -> None:
    around = world(limited("a", quotas=(DAILY,), budget=Budget(10**9)), a=whole())
    around.journal.healthy = False
    assert (await around.serve()).sink.status == 503
    assert (quota(around).held, around.spent("provider", "a")) == (0, (0, 0))


async def test_a_request_that_is_torn_down_holds_nothing_any_more() -> None:
    around = world(limited("a", quotas=(DAILY,), budget=Budget(10**9)), a=FOREVER)
    client = ClientSettings("c", frozenset(), limits=RateLimits(in_flight=1), budget=Budget(10**9))
    served = around.start(client=client)
    await around.waiting.wait()
    assert (quota(around).held, around.throttle_of("c").in_flight) == (1, 1)
    served.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await served.task
    assert (quota(around).held, around.throttle_of("c").in_flight) == (0, 0)
    assert (around.spent("provider", "a")[1], around.spent("client", "c")[1]) == (0, 0)


# -- rate limits


async def test_a_target_over_its_limit_is_skipped_while_there_is_another() -> None:
    around = world(limited("a", limits=RateLimits(rpm=1)), target("b"), a=whole(), b=whole())
    providers = [(await around.serve()).sink.headers[b"x-tollbridge-provider"] for _ in range(2)]
    assert providers == [b"a", b"b"]
    assert skipped(around) == {"a/a-model": "rate limit: 1 requests a minute, free in 61 s"}
    assert around.slept == []
    around.clock.now += 60.25
    assert (await around.serve()).sink.headers[b"x-tollbridge-provider"] == b"a"


async def test_the_last_one_is_waited_for_when_that_is_short() -> None:
    around = world(limited("a", limits=RateLimits(rpm=1)), a=whole())
    await around.serve()
    around.clock.now += 58.5
    served = await around.serve()
    assert (served.sink.status, around.slept) == (200, [1.75])
    assert around.end_of_last.trace == [
        {"target": "a/a-model", "kept": True, "last": "rate limit: 1 requests a minute, free in 2 s"}
    ]
    around.check_books()


async def test_and_not_when_it_is_long() -> None:
    around = world(limited("a", limits=RateLimits(rpm=1)), a=whole())
    await around.serve()
    around.clock.now += 58.0
    served = await around.serve()
    assert (served.sink.status, served.code, around.slept) == (503, "all_providers_unavailable", [])
    assert served.sink.headers[b"retry-after"] == b"3"


async def test_when_the_others_have_failed_the_limited_one_is_the_last_and_waited_for() -> None:
    around = world(limited("a", limits=RateLimits(rpm=1)), limited("b"), a=whole(), b=[whole(), refusal(500)])
    await around.serve()
    around.clock.now += 59.0
    served = await around.serve(prefer="b")
    assert served.sink.headers[b"x-tollbridge-provider"] == b"b"
    served = await around.serve()
    assert (called(around), served.sink.status, around.slept) == (["a", "b", "b", "a"], 200, [1.25])


async def test_waiting_is_over_after_two_seconds_whoever_comes_first() -> None:
    around = world(limited("a", limits=RateLimits(rpm=1)), a=whole())
    await around.serve()
    around.clock.now += 59.0
    first, second = around.start(), around.start()
    await asyncio.gather(first.task, second.task)
    assert sorted([one.sink.status or 0 for one in (first, second)]) == [200, 503]
    around.check_books()


async def test_a_request_that_is_too_large_for_what_is_left_of_the_minute_goes_elsewhere() -> None:
    around = world(limited("a", limits=RateLimits(tpm=1_000)), target("b"), a=whole(), b=whole())
    await around.serve(max_tokens=10)
    served = await around.serve(max_tokens=980)
    assert served.sink.headers[b"x-tollbridge-provider"] == b"b"
    assert skipped(around) == {"a/a-model": "rate limit: 1,000 tokens a minute, free in 61 s"}
    assert (await around.serve(max_tokens=100)).sink.headers[b"x-tollbridge-provider"] == b"a"


async def test_tokens_of_a_minute_are_settled_at_what_they_were() -> None:
    around = world(limited("a", limits=RateLimits(tpm=10_000)), a=whole())
    await around.serve(max_tokens=5_000)
    (state,) = around.spending.throttle.states(around.clock.now)
    assert (state.used, state.per_minute) == (TOKENS, TOKENS)


async def test_limits_of_a_provider_are_learned_from_its_last_answer() -> None:
    told = (
        (b"content-type", b"application/json"),
        (b"x-ratelimit-limit-requests", b"100"),
        (b"x-ratelimit-remaining-requests", b"40"),
        (b"x-ratelimit-reset-requests", b"6m0s"),
    )
    around = world(a=whole(headers=told))
    await around.serve()
    around.clock.now += 60.0
    deployments = around.services.deployments
    ((provider, credential, model, unit, limit, remaining, resets_s, attempts, tokens),) = deployments.told_limits(
        around.clock.now, around.clock.wall()
    )
    assert (provider, credential, model, unit, limit, remaining) == ("a", "a0", "a-model", "requests", 100, 40)
    assert resets_s == pytest.approx(300.0)
    assert (attempts, tokens) == (1, TOKENS)
    around.clock.now += 300.0
    ((*_, remaining, resets_s, _, _),) = deployments.told_limits(around.clock.now, around.clock.wall())
    assert (remaining, resets_s) == (100, 0.0)
    around.clock.now += 3600.0
    assert deployments.told_limits(around.clock.now, around.clock.wall()) == []


async def test_a_refusal_teaches_as_much_as_an_answer() -> None:
    around = world(limited("a"), a=refusal(429, headers=((b"x-ratelimit-limit", b"9"), (b"x-ratelimit-remaining", b"0"))))
    await around.serve()
    (told,) = around.services.deployments.told_limits(around.clock.now, around.clock.wall())
    assert (told.limit, told.remaining, told.resets_s) == (9, 0, None)


# -- a client's limits

NIGHTLY = ClientSettings("nightly", frozenset(), limits=RateLimits(rpm=2, tpm=100_000))


async def test_a_client_reads_its_limits_on_every_answer() -> None:
    around = world(a=[whole(), streamed(), refusal(400)])
    for stream, status, left in ((False, 200, b"1"), (True, 200, b"0")):
        served = await around.serve(client=NIGHTLY, stream=stream)
        assert (served.sink.status, served.sink.headers[b"x-ratelimit-remaining-requests"]) == (status, left)
        assert served.sink.headers[b"x-ratelimit-limit-tokens"] == b"100000"
        assert served.sink.headers[b"x-ratelimit-reset-requests"].endswith(b"s")
    refused = await around.serve(client=NIGHTLY)
    assert (refused.sink.status, refused.code) == (429, "rate_limit_exceeded")
    assert refused.answer["error"]["type"] == "rate_limit_error"
    assert int(refused.sink.headers[b"retry-after"]) == 61
    assert b"x-should-retry" not in refused.sink.headers
    assert refused.sink.headers[b"x-ratelimit-remaining-requests"] == b"0"
    assert called(around) == ["a", "a"]
    around.clock.now += 61.0
    failed = await around.serve(client=NIGHTLY)
    assert (failed.sink.status, failed.sink.headers[b"x-ratelimit-remaining-requests"]) == (400, b"1")
    around.check_books()


async def test_a_client_without_limits_reads_nothing_of_the_kind() -> None:
    around = world(a=whole())
    served = await around.serve(client=ClientSettings("free", frozenset()))
    assert [name for name in served.sink.headers if b"ratelimit" in name] == []


async def test_what_a_client_took_is_known_when_its_answer_is_out() -> None:
    around = world(a=whole())
    await around.serve(client=NIGHTLY, max_tokens=50_000)
    assert dict(around.throttle_of("nightly").headers(around.clock.now))[b"x-ratelimit-remaining-tokens"] == b"99970"


async def test_a_client_has_so_many_requests_running_and_no_more() -> None:
    around = world(a=[FOREVER, whole()])
    one = ClientSettings("one", frozenset(), limits=RateLimits(in_flight=1))
    first = around.start(client=one)
    await around.waiting.wait()
    refused = await around.serve(client=one)
    assert (refused.sink.status, refused.sink.headers[b"retry-after"]) == (429, b"1")
    first.control.client_gone()
    await first.task
    assert (await around.serve(client=one)).sink.status == 200
