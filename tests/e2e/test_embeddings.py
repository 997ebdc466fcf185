"""`POST /v1/embeddings` through the running server, by either door, with the `openai` SDK in front: failover, formats, books."""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest

from proxy.torture.upstream import Call, Upstream
from tests.e2e.client import Answer
from tests.e2e.conftest import Start, provider
from tests.e2e.running import Door, Proxy

pytestmark = pytest.mark.integration

CLIENT_KEY = "sk-caller-1"
VECTOR = [0.5, -0.25, 1.0]
TEXTS = ["hello world", "hello"]  # three tokens
GEMINI = "POST /v1beta/models/gemini-embedding-001:batchEmbedContents HTTP/1.1"
MEGABYTES = 40


def vectors(call: Call, *, packs: bool) -> dict[str, Any]:
    given = call.body["input"]
    inputs = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1
    packed: Any = b64encode(struct.pack("<3f", *VECTOR)).decode()
    vector = packed if packs and call.body.get("encoding_format") == "base64" else VECTOR
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(inputs)]
    return {"object": "list", "data": data, "model": call.model, "usage": {"prompt_tokens": 11, "total_tokens": 11}}


async def embeds(call: Call) -> None:
    assert call.upstream.headers[call.model]["request-line"] == "POST /v1/embeddings HTTP/1.1"
    await call.json(200, vectors(call, packs=True))


async def numbers_only(call: Call) -> None:
    await call.json(200, vectors(call, packs=False))


async def large(call: Call) -> None:
    answer = vectors(call, packs=False)
    answer["data"][0]["embedding"] = [0.1234567890123] * (MEGABYTES * 1_000_000 // 17)
    await call.json(200, answer)


async def gemini(call: Call) -> None:
    await call.json(200, {"embeddings": [{"values": VECTOR} for _ in call.body["requests"]]})


async def cohere(call: Call) -> None:
    embeddings = {"float": [VECTOR for _ in call.body["texts"]]}
    await call.json(200, {"embeddings": embeddings, "meta": {"billed_units": {"input_tokens": 4}}})


SCRIPTS = {"embeds": embeds, "numbers-only": numbers_only, "large": large, GEMINI: gemini, "embed-v4.0": cohere}


@pytest.fixture(scope="module", params=["fast", "asgi"])
def proxy(request: pytest.FixtureRequest, start: Start, upstream: Upstream) -> Proxy:
    upstream.scripts = {**upstream.scripts, **SCRIPTS}
    one = provider(upstream.url)
    root = upstream.url.removesuffix("/v1")
    door: Door = request.param
    return start(
        {
            "defaults": {"retries": 0},
            "providers": {
                "fake": one,
                "down": one,
                "odd": one,  # whatever it is asked, it chats
                "chats": {**one, "dialect": "anthropic"},
                "google": {**provider(root), "dialect": "gemini"},
                "cohere": {**provider(root), "dialect": "cohere"},
                "unpriced": {**one, "prices": {}},
            },
            "chains": {
                "vectors": ["fake/embeds"],
                "numbers-only": ["fake/numbers-only"],
                "falls-over": ["chats/embeds", "down/status_500", "odd/ok", "cohere/embed-v4.0"],
                "google": ["google/gemini-embedding-001"],
                "none": ["chats/embeds"],
                "down": ["down/status_500"],
                "unpriced": ["unpriced/embeds"],
            },
            "clients": {"caller": {"key": CLIENT_KEY}, "poor": {"key": "sk-poor-1", "budget": {"usd": 0.000015}}},
        },
        door=door,
    )


@pytest.fixture
def sdk(proxy: Proxy) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        yield client


def post(proxy: Proxy, body: Any, *, path: str = "/v1/embeddings", key: str = CLIENT_KEY) -> Answer:
    return proxy.client.request("POST", path, body, {"authorization": f"Bearer {key}"})


@pytest.mark.parametrize(("given", "inputs"), [("Hi", 1), (["Hi", "Ho"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2)])
def test_every_form_of_input(sdk: openai.OpenAI, upstream: Upstream, given: Any, inputs: int) -> None:
    answer = sdk.embeddings.create(model="vectors", input=given, dimensions=3, user="u")

    assert [item.embedding for item in answer.data] == [VECTOR] * inputs
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    assert answer.usage.prompt_tokens == 11
    sent = upstream.bodies["embeds"]
    assert (sent["input"], sent["dimensions"], sent["user"], sent["encoding_format"]) == (given, 3, "u", "base64")


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_both_forms_of_answer_whichever_the_server_knows(proxy: Proxy, encoding: str) -> None:
    for model in ("vectors", "numbers-only"):
        (item,) = post(proxy, {"model": model, "input": "Hi", "encoding_format": encoding}).json["data"]
        assert item["embedding"] == (VECTOR if encoding == "float" else b64encode(struct.pack("<3f", *VECTOR)).decode())


def test_headers_and_row(sdk: openai.OpenAI, proxy: Proxy) -> None:
    raw = sdk.embeddings.with_raw_response.create(
        model="vectors", input="Hi", extra_headers={"x-tollbridge-task": "index", "x-tollbridge-prefer": "fake"}
    )

    headers = raw.headers
    assert (headers["x-tollbridge-provider"], headers["x-tollbridge-model"]) == ("fake", "embeds")
    assert (headers["x-tollbridge-attempts"], headers["content-type"]) == ("1", "application/json")
    assert headers["server-timing"].startswith("upstream;dur=")
    row = proxy.client.row(headers["x-request-id"])
    assert (row["client"], row["task"], row["outcome"], row["http_status"]) == ("caller", "index", "ok", 200)
    assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (11, 0, "provider")
    assert Decimal(row["cost_usd"]) == Decimal(11) / 1_000_000
    assert row["trace"] == [{"target": "fake/embeds", "kept": True}]


def test_a_chain_fails_over_from_format_to_format(sdk: openai.OpenAI, proxy: Proxy, upstream: Upstream) -> None:
    raw = sdk.embeddings.with_raw_response.create(
        model="falls-over", input=TEXTS, user="u", extra_body={"input_type": "search_query"}
    )

    answer = raw.parse()
    assert [item.embedding for item in answer.data] == [VECTOR, VECTOR]
    assert (answer.model, answer.usage.prompt_tokens, answer.usage.total_tokens) == ("embed-v4.0", 4, 4)
    assert (raw.headers["x-tollbridge-attempts"], raw.headers["x-tollbridge-dropped"]) == ("3", "user")
    assert upstream.bodies["embed-v4.0"] == {
        "model": "embed-v4.0",
        "texts": TEXTS,
        "embedding_types": ["float"],
        "input_type": "search_query",
    }
    row = proxy.client.row(raw.headers["x-request-id"])
    tried = [(one["provider"], one["outcome"], one["error_class"]) for one in row["attempt_list"]]
    assert tried == [("down", "failed", "5xx"), ("odd", "failed", "empty"), ("cohere", "ok", None)]
    assert {"target": "chats/embeds", "skipped": "cannot carry embeddings"} in row["trace"]
    assert (row["input_tokens"], Decimal(row["cost_usd"])) == (4, Decimal(4) / 1_000_000)


def test_what_the_provider_does_not_count_is_counted_here(sdk: openai.OpenAI, proxy: Proxy, upstream: Upstream) -> None:
    raw = sdk.embeddings.with_raw_response.create(model="google", input=TEXTS, dimensions=3)

    answer = raw.parse()
    assert [item.embedding for item in answer.data] == [VECTOR, VECTOR]
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (3, 3)
    row = proxy.client.row(raw.headers["x-request-id"])
    assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (3, 0, "counted")
    assert Decimal(row["cost_usd"]) == Decimal(3) / 1_000_000
    assert [one["outputDimensionality"] for one in upstream.bodies[GEMINI]["requests"]] == [3, 3]


def test_without_a_price_the_cost_is_unknown_and_not_nothing(sdk: openai.OpenAI, proxy: Proxy) -> None:
    raw = sdk.embeddings.with_raw_response.create(model="unpriced", input="Hi")

    row = proxy.client.row(raw.headers["x-request-id"])
    assert (row["input_tokens"], row["cost_usd"]) == (11, None)


def test_a_hard_budget_holds_for_vectors_too(proxy: Proxy) -> None:
    asked = {"model": "vectors", "input": "Hi"}
    statuses = [post(proxy, asked, key="sk-poor-1").status for _ in range(3)]  # 11 micro-dollars each, of 15
    assert statuses == [200, 200, 429]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"{", 400, "invalid_json", None),
        ({"model": "vectors"}, 400, "invalid_request", "input"),
        ({"model": "vectors", "input": ""}, 400, "invalid_value", "input"),
        ({"model": "vectors", "input": ["Hi", 5]}, 400, "invalid_request", "input[1]"),
        ({"model": "vectors", "input": ["x"] * 2049}, 400, "invalid_value", "input"),
        ({"model": "vectors", "input": "Hi", "encoding_format": "hex"}, 400, "invalid_value", "encoding_format"),
        ({"model": "nothing", "input": "Hi"}, 404, "model_not_found", "model"),
        ({"model": "none", "input": "Hi"}, 400, "unsupported_feature", None),
        ({"model": "google", "input": [1, 2]}, 400, "unsupported_feature", "input"),
        ({"model": "google", "input": ["x"] * 101}, 400, "unsupported_feature", "input"),
        ({"model": "down", "input": "Hi"}, 502, "upstream_unavailable", None),
    ],
)
def test_errors_are_told_alike_at_both_doors(proxy: Proxy, body: Any, status: int, code: str, param: str | None) -> None:
    answer = post(proxy, body)

    assert answer.status == status
    assert (answer.error["code"], answer.error["param"]) == (code, param)
    assert len(answer.id) == 26


def test_a_key_is_needed_and_a_post(proxy: Proxy) -> None:
    assert post(proxy, {"model": "vectors", "input": "Hi"}, key="sk-wrong").error["code"] == "invalid_api_key"
    assert proxy.client.get("/v1/embeddings").status == 405


def test_the_same_route_without_v1(proxy: Proxy) -> None:
    answer = post(proxy, {"model": "fake/embeds", "input": "Hi"}, path="/embeddings")
    assert (answer.status, answer.json["data"][0]["embedding"]) == (200, VECTOR)


def test_an_answer_larger_than_any_chats_goes_through(proxy: Proxy) -> None:
    answer = post(proxy, {"model": "fake/large", "input": "Hi"})
    assert (answer.status, len(answer.body) > MEGABYTES * 900_000) == (200, True)


def test_the_demo_has_no_vectors_and_says_so(proxy: Proxy) -> None:
    answer = post(proxy, {"model": "demo/chat", "input": "Hi"})
    assert (answer.status, answer.error["code"]) == (400, "unsupported_feature")
    assert "embeddings" in answer.error["message"]


@pytest.mark.anyio
async def test_the_asynchronous_client(proxy: Proxy) -> None:
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key=CLIENT_KEY, max_retries=0) as sdk:
        answer = await sdk.embeddings.create(model="numbers-only", input=TEXTS)
    assert [item.embedding for item in answer.data] == [VECTOR, VECTOR]
