"""Embeddings through the relay: the same admission, failover and books as chats, with another dialect and no output."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from proxy.config.settings import ClientSettings
from proxy.core.errors import ErrorClass
from proxy.core.limits import Budget
from proxy.core.target import Target
from proxy.dialects.base import OutboundDialect
from proxy.dialects.cohere.dialect import CohereChat
from proxy.dialects.native_embeddings import CohereEmbeddings
from proxy.engine.attempt import MAX_ANSWER_BYTES, MAX_EMBEDDINGS_BYTES
from tests.engine.harness import JSON, Reply, World, dialect_of, fault, refusal, target, whole, world

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

USAGE = {"prompt_tokens": 10, "total_tokens": 10}
COST = 10 * 1000


def embedded(*vectors: Sequence[float], usage: Any = USAGE, **more: Any) -> Reply:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors or ([0.5],))]
    body = {"object": "list", "data": data, "model": "m", **({"usage": usage} if usage is not None else {}), **more}
    return Reply([orjson.dumps(body)], headers=JSON)


def called(around: World) -> list[str]:
    return [provider for what, provider in around.events if what == "send"]


def with_cohere(*targets: Target, **scripts: Any) -> World:
    around = world(*targets, **scripts)
    embedders: dict[str, OutboundDialect] = {**around.services.embedders, "cohere": CohereEmbeddings(CohereChat())}
    around.services.embedders = embedders
    return around


async def test_an_answer_is_written_down_before_it_goes_out() -> None:
    around = world(a=embedded())
    served = await around.serve(input="Hi", user="u")
    assert [what for what, _ in around.events] == ["B", "send", "E", "respond"]
    assert (served.sink.status, served.sink.ended, served.answer["data"][0]["embedding"]) == (200, "whole", [0.5])
    assert served.sink.headers[b"content-type"] == b"application/json"
    assert served.sink.headers[b"x-tollbridge-model"] == b"a-model"
    assert around.upstream.calls[0].body == {"model": "a-model", "input": "Hi", "user": "u"}
    end = around.end
    assert (around.ends[0].input_tokens, around.ends[0].output_tokens, around.ends[0].usage_source) == (10, 0, "provider")
    assert (around.ends[0].cost_nusd, end.outcome, end.finish_reason) == (COST, "ok", None)
    assert around.meter.ended == [("smart", "ok", False)]
    around.check_books()


@pytest.mark.parametrize(
    "failure",
    [
        refusal(500),
        refusal(429),
        refusal(401),
        fault(ErrorClass.RESET),
        whole(),  # a chat's answer
        embedded([0.5], [0.5]),  # two for one input
        Reply([b'{"data": [{"emb'], headers=JSON),
        Reply([b""], headers=JSON),
    ],
)
async def test_it_fails_over_as_chats_do(failure: Any) -> None:
    around = world(a=failure, b=embedded())
    served = await around.serve(input="Hi")
    assert (served.sink.status, called(around)) == (200, ["a", "b"])
    assert served.sink.headers[b"x-tollbridge-attempts"] == b"2"
    around.check_books()


async def test_a_providers_no_to_the_request_itself_is_the_callers() -> None:
    around = world(a=refusal(400, "dimensions must be 256", code="invalid_value", param="dimensions"), b=embedded())
    served = await around.serve(input="Hi", dimensions=7)
    assert (served.sink.status, served.code, called(around)) == (400, "invalid_value", ["a"])
    assert served.answer["error"]["param"] == "dimensions"


async def test_a_format_without_embeddings_is_passed_over_with_that_reason() -> None:
    around = world(dialect_of("a", "anthropic"), target("b"), a=embedded(), b=embedded())
    served = await around.serve(input="Hi")
    assert (served.sink.status, called(around)) == (200, ["b"])
    assert {"target": "a/a-model", "skipped": "cannot carry embeddings"} in around.end.trace


async def test_where_nobody_can_embed_that_is_told() -> None:
    around = world(dialect_of("a", "anthropic"), a=embedded())
    served = await around.serve(input="Hi")
    assert (served.sink.status, served.code, called(around)) == (400, "unsupported_feature", [])
    assert "embeddings" in served.answer["error"]["message"]


async def test_a_model_that_is_known_not_to_embed_is_ruled_out_before_it_is_tried() -> None:
    around = world(target("a", capabilities=frozenset(("tools",))), target("b"), a=embedded(), b=embedded())
    await around.serve(input="Hi")
    assert called(around) == ["b"]
    assert {"target": "a/a-model", "skipped": "lacks embeddings"} in around.end.trace


async def test_token_arrays_go_to_who_can_read_them() -> None:
    around = with_cohere(dialect_of("a", "cohere"), target("b"), a=embedded(), b=embedded())
    served = await around.serve(input=[1, 2, 3])
    assert (served.sink.status, called(around)) == (200, ["b"])
    assert {"target": "a/a-model", "skipped": "cannot carry token arrays"} in around.end.trace


async def test_another_format_is_told_in_openais_words() -> None:
    body = {"embeddings": {"float": [[0.5, -1.0]]}, "meta": {"billed_units": {"input_tokens": 4}}}
    around = with_cohere(dialect_of("a", "cohere"), a=Reply([orjson.dumps(body)], headers=JSON))
    served = await around.serve(input="Hi", user="u")
    assert served.answer == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}],
        "model": "a-model",
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }
    assert served.sink.headers[b"x-tollbridge-dropped"] == b"user"
    assert around.end.dropped == ["user"]


async def test_what_nobody_counted_is_counted_and_told() -> None:
    around = world(a=embedded(usage=None))
    served = await around.serve(input="Hi")
    (end,) = around.ends
    assert (end.input_tokens, end.output_tokens, end.usage_source, end.cost_nusd) == (12, 0, "counted", 12 * 1000)
    assert served.answer["usage"] == {"prompt_tokens": 12, "total_tokens": 12}


async def test_where_counting_fails_the_inputs_are_estimated_and_nothing_is_written() -> None:
    around = world(a=embedded([0.5] * 1000, usage=None))
    around.counter.fails = True
    served = await around.serve(input="Hi")
    (end,) = around.ends
    assert (end.usage_source, end.output_tokens) == ("estimated", 0)
    assert served.answer["usage"]["prompt_tokens"] == end.input_tokens == 8  # of a body of 30 bytes


async def test_a_figure_that_cannot_be_is_not_charged() -> None:
    around = world(a=embedded(usage={"prompt_tokens": 50_000_000, "total_tokens": 50_000_000}))
    await around.serve(input="Hi")
    assert "usage_suspect" in around.meter.counts
    assert (around.ends[0].input_tokens, around.ends[0].usage_source) == (12, "counted")


async def test_a_target_without_a_price_is_written_down_as_such() -> None:
    around = world(target("a", price=None), a=embedded())
    await around.serve(input="Hi")
    assert around.ends[0].cost_nusd is None
    assert around.log.requests[0]["cost_usd"] is None


async def test_a_budget_that_is_spent_admits_no_more() -> None:
    client = ClientSettings("agent", frozenset(), budget=Budget(COST))
    around = world(a=embedded())
    assert (await around.serve(input="Hi", client=client)).sink.status == 200
    assert around.spent("client", "agent") == (COST, 0)
    refused = await around.serve(input="Hi", client=client)
    assert (refused.sink.status, refused.code, called(around)) == (429, "budget_exceeded", ["a"])


async def test_that_a_model_cannot_embed_is_not_held_against_its_chats() -> None:
    around = world(a=[refusal(404, "no such route"), whole()])
    assert (await around.serve(input="Hi")).sink.status == 502
    assert (await around.serve()).sink.status == 200


async def test_that_a_chat_model_is_none_for_the_provider_still_is() -> None:
    around = world(a=[refusal(404, "no such model"), whole()])
    assert (await around.serve()).sink.status == 502
    assert (await around.serve()).sink.status == 503


@pytest.mark.parametrize(
    ("limit", "asked"), [(MAX_ANSWER_BYTES, {}), (MAX_EMBEDDINGS_BYTES, {"input": "Hi"})], ids=["chat", "vectors"]
)
async def test_answers_are_bounded_and_those_with_vectors_may_be_larger(limit: int, asked: dict[str, Any]) -> None:
    around = world(a=Reply([b" " * (limit // 2)] * 2 + [b"{}"], headers=JSON), b=embedded() if asked else whole())
    served = await around.serve(**asked)
    assert (served.sink.status, called(around)) == (200, ["a", "b"])
    assert around.meter.attempts[0] == ("a", "too_large")
    assert f"{limit >> 20} MiB" in str(around.ends[0].error)


async def test_a_large_answer_with_many_vectors_goes_through() -> None:
    inputs, vector = 64, [0.123456789] * 50_000  # 38 MB
    around = world(a=embedded(*[vector] * inputs))
    served = await around.serve(input=["Hi"] * inputs)
    assert (served.sink.status, len(served.sink.body) > MAX_ANSWER_BYTES) == (200, True)


async def test_a_caller_that_leaves_is_not_the_upstreams_fault() -> None:
    around = world(a=b"the head never comes")
    served = await around.interrupted(lambda found: found.control.client_gone(), input="Hi")
    assert served.sink.ended == "cut"
    assert around.end.outcome == "client_gone"
    assert around.meter.attempts == [("a", "client_gone")]
    await asyncio.sleep(0)
