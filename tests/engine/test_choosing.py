"""A request's way by strategy and wishes, from the relay's side: what is asked of the chain, what is told, what is written down."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest

from proxy.core.chat import ChatRequest
from proxy.core.target import Price, Quirks
from proxy.core.wishes import Wishes
from proxy.engine.choosing import expected_usage
from proxy.routing.rederive import rederive
from tests.engine.harness import chunk, refusal, streamed, target, whole, world

pytestmark = [pytest.mark.unit, pytest.mark.anyio]
CHEAP, DEAR = Price(Decimal(1), Decimal(2)), Price(Decimal(10), Decimal(20))
TOOLS = [{"type": "function", "function": {"name": "f"}}]


async def test_the_plain_way_writes_nothing_more_down() -> None:
    around = world(a=whole())
    await around.serve()
    assert around.end.extra is None


async def test_what_it_needs_is_written_down_for_those_who_ask_what_if() -> None:
    around = world(a=whole())
    await around.serve(tools=TOOLS)
    assert around.end.extra == {"asked": {"needs": ["tools"]}}


async def test_the_cheapest_is_asked_and_the_row_says_why() -> None:
    around = world(target("a", price=DEAR), target("b", price=CHEAP), chain={"strategy": "cheapest"}, b=whole())
    served = await around.serve(max_tokens=100)
    assert served.sink.status == 200
    trace, extra = around.end.trace, around.end.extra
    assert extra is not None
    assert [line["target"] for line in trace] == ["b/b-model", "a/a-model"]
    tokens = extra["asked"]["tokens"]
    assert [Decimal(line["by"]["expected_cost_usd"]) * 10**6 for line in trace] == [tokens + 200, 10 * (tokens + 200)]
    assert rederive(extra["asked"], trace) == ["b/b-model", "a/a-model"]


async def test_a_seed_and_a_session_are_written_down_and_no_name() -> None:
    for strategy, key in (("weighted", "seed"), ("sticky", "sticky")):
        around = world(chain={"strategy": strategy}, a=whole(), b=whole())
        await around.serve(user="Ada Lovelace")
        assert around.end.extra is not None
        assert key in around.end.extra["asked"]
        assert "Ada" not in str(around.end)


async def test_a_session_stays_with_its_target() -> None:
    around = world(chain={"strategy": "sticky"}, **dict.fromkeys("abcd", whole()))
    for user in ("u1", "u2", "u3", "u4", "u5", "u6") * 2:
        await around.serve(user=user)
    sent = [name for kind, name in around.events if kind == "send"]
    assert sent[:6] == sent[6:]
    assert len(set(sent)) > 1


async def test_the_fastest_learns_from_what_it_sees() -> None:
    def late(seconds: float) -> Any:
        return streamed(seconds, chunk("Hi"), chunk(None, "stop"))

    around = world(chain={"strategy": "fastest"}, a=late(0.0), b=late(0.0))
    for _ in range(5):
        await around.serve(stream=True)
    first = around.services.deployments.get(around.targets[0], around.targets[0].provider.credentials[0])
    assert first.standing is not None
    assert (first.standing.samples, first.standing.ok, first.standing.ended) == (5, 5, 5)
    assert around.end_of_last.trace[0]["by"]["source"] == "mean"
    await around.serve(stream=True)
    assert around.end_of_last.trace[0]["by"]["source"] == "recent"


async def test_an_upstream_that_fails_loses_its_standing_and_a_caller_who_errs_does_not() -> None:
    around = world(chain={"strategy": "score"}, a=[refusal(500), refusal(400)], b=whole())
    await around.serve()
    await around.serve()
    standing = around.services.deployments.get(around.targets[0], around.targets[0].provider.credentials[0]).standing
    assert standing is not None
    assert (standing.ok, standing.ended) == (0, 1)


async def test_by_a_strategy_a_fallback_is_what_came_after_its_own_first() -> None:
    around = world(
        target("a", price=DEAR), target("b", price=CHEAP), chain={"strategy": "cheapest"}, a=whole(), b=[refusal(500), whole()]
    )
    await around.serve()
    assert around.meter.fallbacks == ["smart"]
    await around.serve()
    assert around.meter.fallbacks == ["smart"]


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        (Wishes(exclude=frozenset("ab")), "a/a-model excluded by the request; b/b-model excluded by the request"),
        (Wishes(max_cost_nusd=1), "a/a-model expected to cost $"),
        (Wishes(require=frozenset(("region:eu",))), "a/a-model lacks something required that no target of this chain has"),
    ],
)
@pytest.mark.parametrize("body", [{}, {"input": "Hi"}])
async def test_wishes_that_nobody_meets_are_the_callers_to_change(wishes: Wishes, told: str, body: dict[str, Any]) -> None:
    around = world(target("a", price=DEAR), target("b", price=CHEAP))
    served = await around.serve(wishes=wishes, **body)
    error = orjson.loads(served.sink.body)["error"]
    assert (served.sink.status, error["code"]) == (400, "unsupported_feature")
    assert told in error["message"]
    assert (around.end.outcome, around.begins) == ("rejected", [])
    assert all("skipped" in line for line in around.end.trace)


async def test_a_limit_of_cost_leaves_what_is_cheap_enough() -> None:
    around = world(target("a", price=DEAR), target("b", price=CHEAP), b=whole())
    await around.serve(wishes=Wishes(max_cost_nusd=3_000_000))
    assert around.end.trace[0]["skipped"].startswith("expected to cost $0.02")
    assert around.meter.fallbacks == []
    assert around.end.extra is not None
    assert around.end.extra["asked"]["wishes"] == {"max_cost_usd": "0.003"}


async def test_a_refusal_by_its_quirks_is_known_before_the_choice() -> None:
    quirky = target("a", price=CHEAP, quirks=Quirks(refuse=frozenset("n")))
    around = world(quirky, target("b", price=DEAR), chain={"strategy": "cheapest"}, b=whole())
    await around.serve(n=2)
    assert [(line["target"], line.get("skipped")) for line in around.end.trace] == [
        ("b/b-model", None),
        ("a/a-model", "refuses n"),
    ]
    strict = target("a", price=CHEAP, quirks=Quirks(drop=frozenset(("seed",))))
    around = world(strict, target("b", price=DEAR), chain={"strategy": "cheapest", "strict": True}, b=whole())
    await around.serve(seed=7)
    assert around.end.trace[1]["skipped"] == "would drop seed"


@pytest.mark.parametrize(
    ("rest", "usage"),
    [
        ({}, (25, 1_024)),
        ({"max_output_tokens": 10}, (25, 10)),
        ({"max_output_tokens": 99_999}, (25, 1_024)),
        ({"max_output_tokens": 10, "choices": 3}, (25, 30)),
        ({"kind": "embeddings"}, (25, 0)),
    ],
)
def test_what_a_request_is_expected_to_take(rest: dict[str, Any], usage: tuple[int, int]) -> None:
    assert expected_usage(ChatRequest("openai", {}, "smart", False, False, 100, **rest)) == usage
