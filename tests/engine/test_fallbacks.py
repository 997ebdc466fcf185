"""When an answer counts as a fallback: by another target than the first that could have served the request."""

from typing import Any

import pytest

from proxy.core.target import Quirks, Target
from tests.engine.harness import World, dialect_of, refusal, target, whole, world
from tests.engine.test_admission import wordless

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


async def test_the_first_targets_answer_is_none() -> None:
    around = world(a=whole(), b=whole())
    await around.serve()
    assert around.meter.fallbacks == []


async def test_an_answer_after_a_failover_is_one() -> None:
    around = world(a=refusal(500), b=refusal(500), c=whole())
    await around.serve()
    assert around.meter.fallbacks == ["smart"]


async def test_so_is_one_while_the_first_target_is_set_aside_though_nothing_fails_over() -> None:
    around = world(a=refusal(429), b=whole())
    await around.serve()
    await around.serve()
    assert [name for kind, name in around.events if kind == "send"] == ["a", "b", "b"]
    assert len(around.meter.failovers) == 1
    assert around.meter.fallbacks == ["smart", "smart"]


async def test_a_request_that_fails_everywhere_is_none() -> None:
    around = world(a=refusal(500), b=refusal(500))
    await around.serve()
    assert around.meter.fallbacks == []


async def test_nor_is_an_answer_by_the_provider_that_was_asked_for() -> None:
    around = world(a=whole(), b=whole())
    await around.serve(prefer="b")
    assert around.meter.fallbacks == []


async def test_behind_it_the_chains_first_is_none_and_the_others_are() -> None:
    around = world(a=[whole(), refusal(500)], b=refusal(500), c=whole())
    await around.serve(prefer="b")
    assert around.meter.fallbacks == []
    await around.serve(prefer="b")
    assert around.meter.fallbacks == ["smart"]


TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}]}


@pytest.mark.parametrize(
    ("first", "body"),
    [
        (target("a", disabled="switched off"), {}),
        (target("a", provider={"disabled": "no API key"}), {}),
        (target("a", lacks=frozenset(("tools",))), TOOLS),
        (target("a", quirks=Quirks(refuse=frozenset(("logprobs",)))), {"logprobs": True}),
    ],
    ids=["disabled", "provider disabled", "lacks a feature", "refuses a parameter"],
)
async def test_a_target_that_could_not_have_served_it_does_not_count_as_the_first(first: Target, body: dict[str, Any]) -> None:
    await served_by_the_second(world(first, target("b"), a=whole(), b=whole()), body)


@pytest.mark.parametrize(
    ("first", "body"),
    [(dialect_of("a", "wordless"), {"audio": {}}), (target("a", quirks=Quirks(drop=frozenset(("user",)))), {"user": "u"})],
    ids=["cannot carry", "would drop"],
)
async def test_nor_does_one_that_a_strict_chain_passes_over(first: Target, body: dict[str, Any]) -> None:
    await served_by_the_second(wordless(first, target("b"), a=whole(), b=whole(), chain={"strict": True}), body)


async def served_by_the_second(around: World, body: dict[str, Any]) -> None:
    await around.serve(**body)
    assert [name for kind, name in around.events if kind == "send"] == ["b"]
    assert around.meter.fallbacks == []
