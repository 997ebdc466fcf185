"""Embeddings of providers that speak OpenAI's format: patched in, checked and passed through out, packed where base64 was asked for."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import replace
from struct import unpack
from typing import Any

import orjson
import pytest

from proxy.accounting.usage import usage_from_openai
from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.target import Provider, Quirks, Target
from proxy.core.usage import Usage, UsageSource
from proxy.dialects.base import WholeAnswer
from proxy.dialects.embeddings import with_usage
from proxy.dialects.openai_embeddings import AzureEmbeddings, OpenAIEmbeddings, OpenAIEmbeddingsInbound

pytestmark = pytest.mark.unit

DIALECT = OpenAIEmbeddings(usage_from_openai)
PROVIDER = Provider("p", "openai", "https://p.example/v1", ())
TARGET = Target(PROVIDER, "text-embedding-3-small", "m")
USAGE = {"prompt_tokens": 5, "total_tokens": 5}
COUNTED = Usage(7, 0, source=UsageSource.COUNTED)


def request(given: Any = "Hi", **fields: Any) -> ChatRequest:
    return OpenAIEmbeddingsInbound().decode_request(orjson.dumps({"model": "smart", "input": given, **fields}))


def answer(*vectors: Any, **more: Any) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return orjson.dumps({"object": "list", "data": data, "model": "m", "usage": USAGE, **more})


def decode(body: bytes, asked: ChatRequest | None = None, target: Target = TARGET) -> WholeAnswer:
    return DIALECT.decode_answer(body, asked or request(), target)


@pytest.mark.parametrize("given", ["Hi", ["Hi", "Ho"], [1, 2], [[1], [2, 3]]])
def test_every_field_goes_on_as_it_is(given: Any) -> None:
    asked = request(given, dimensions=256, encoding_format="base64", user="u", input_type="query")
    outbound = DIALECT.encode_request(asked, TARGET)
    assert outbound.path == "/embeddings"
    assert orjson.loads(outbound.body) == {**asked.body, "model": "text-embedding-3-small"}
    assert (outbound.dropped, asked.body["model"]) == ((), "smart")


def test_quirks_rename_and_drop() -> None:
    quirks = Quirks(rename={"dimensions": "output_dimension"}, drop=frozenset(("user",)), developer_role="system")
    outbound = DIALECT.encode_request(request(dimensions=256, user="u"), replace(TARGET, quirks=quirks))
    assert orjson.loads(outbound.body) == {"model": "text-embedding-3-small", "input": "Hi", "output_dimension": 256}
    assert outbound.dropped == ("user",)


def test_an_encoding_that_a_provider_does_not_know_is_not_lost() -> None:
    target = replace(TARGET, quirks=Quirks(drop=frozenset(("encoding_format",))))
    asked = request(encoding_format="base64")
    outbound = DIALECT.encode_request(asked, target)
    assert "encoding_format" not in orjson.loads(outbound.body)
    assert outbound.dropped == ()
    (item,) = orjson.loads(decode(answer([0.5, -1.0]), asked, target).body)["data"]
    assert unpack("<2f", b64decode(item["embedding"])) == (0.5, -1.0)


@pytest.mark.parametrize(
    ("version", "path"),
    [
        (None, "/openai/v1/embeddings"),
        ("2024-10-21", "/openai/deployments/my%20embeddings%2F1/embeddings?api-version=2024-10-21"),
    ],
)
def test_azure_has_two_paths(version: str | None, path: str) -> None:
    target = replace(TARGET, provider=replace(PROVIDER, api_version=version), upstream_model="my embeddings/1")
    outbound = AzureEmbeddings(usage_from_openai).encode_request(request(), target)
    assert outbound.path == path
    assert orjson.loads(outbound.body)["model"] == "my embeddings/1"


def test_an_answer_goes_through_byte_for_byte() -> None:
    body = answer([0.1, 0.2], [1e-9, 3.0], id="x", provider="somebody").replace(b",", b" ,\n")
    found = decode(body, request(["Hi", "Ho"]))
    assert found.body is body
    assert (found.usage, found.finish_reason, found.mended) == (Usage(5, 0), None, False)


def test_what_comes_packed_goes_on_packed() -> None:
    for encoding in ("float", "base64"):  # whatever its bytes are: Perplexity's are not 32-bit floats
        body = answer("9sYAAzzy/vfgDQAeOgD2/w==")
        assert decode(body, request(encoding_format=encoding)).body is body


def test_numbers_are_packed_where_base64_was_asked_for() -> None:
    found = decode(answer([0.25, -2], "AAAAPw==", id="x"), request(["Hi", "Ho"], encoding_format="base64"))
    told = orjson.loads(found.body)
    assert [item["embedding"] for item in told["data"]] == ["AACAPgAAAMA=", "AAAAPw=="]
    assert (told["id"], told["usage"], found.usage) == ("x", USAGE, Usage(5, 0))


@pytest.mark.parametrize("usage", [None, "many", []])
def test_without_usage_the_answer_waits_for_our_count(usage: Any) -> None:
    found = decode(answer([0.5], usage=usage))
    assert found.usage is None
    told = orjson.loads(with_usage(found.body, COUNTED))
    assert told == {**orjson.loads(answer([0.5])), "usage": {"prompt_tokens": 7, "total_tokens": 7}}


def test_usage_that_was_told_is_not_replaced() -> None:
    body = answer([0.5])
    assert with_usage(decode(body).body, COUNTED) is body


def test_a_total_alone_is_what_was_read() -> None:
    found = decode(answer([0.5], usage={"total_tokens": 9}))
    assert found.usage == Usage(9, 0)
    assert orjson.loads(found.body)["usage"] == {"total_tokens": 9, "prompt_tokens": 9}


def test_nothing_is_written_whatever_the_usage_says() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "completion_tokens_details": {"reasoning_tokens": 2}}
    assert decode(answer([0.5], usage=usage)).usage == Usage(5, 0)


def test_the_price_that_a_provider_puts_on_it_is_read() -> None:
    found = decode(answer([0.5], usage={**USAGE, "cost": 1.4e-07}))
    assert found.usage == Usage(5, 0, provider_cost_nusd=140)


def test_broken_utf_8_is_mended() -> None:
    found = decode(answer([0.5], id="X").replace(b'"X"', b'"\xff"'))
    assert found.mended
    assert orjson.loads(found.body)["id"] == "\ufffd"


@pytest.mark.parametrize(
    ("body", "error_class"),
    [
        (b"not json", ErrorClass.MALFORMED),
        (b"null", ErrorClass.EMPTY),
        (b"{}", ErrorClass.EMPTY),
        (b'{"data": []}', ErrorClass.EMPTY),
        (b'{"data": {}}', ErrorClass.EMPTY),
        (b'{"data": "x"}', ErrorClass.EMPTY),
        (b'{"data": [null]}', ErrorClass.MALFORMED),
        (b'{"data": [{}]}', ErrorClass.MALFORMED),
        (b'{"data": [{"embedding": []}]}', ErrorClass.MALFORMED),
        (b'{"data": [{"embedding": 5}]}', ErrorClass.MALFORMED),
        (answer([0.5], [0.5]), ErrorClass.MALFORMED),  # two for one input
        (b'{"choices": [{"message": {"content": "Hi"}}]}', ErrorClass.EMPTY),
        (b'{"error": {"message": "no", "code": "rate_limit_exceeded"}}', ErrorClass.RATE_LIMITED),
        (b'[{"error": {"message": "no", "code": 401}}]', ErrorClass.AUTH),
        (b'{"detail": "no", "code": "context_length_exceeded"}', ErrorClass.CONTEXT_LENGTH),
    ],
)
def test_what_is_no_answer(body: bytes, error_class: ErrorClass) -> None:
    with pytest.raises(UpstreamError) as caught:
        decode(body)
    assert caught.value.error_class is error_class


@pytest.mark.parametrize("vector", [["a"], [1e39], [[0.5]], [None]])
def test_what_cannot_be_packed_is_no_answer(vector: Any) -> None:
    with pytest.raises(UpstreamError) as caught:
        decode(answer(vector), request(encoding_format="base64"))
    assert caught.value.error_class is ErrorClass.MALFORMED


def test_an_answer_that_misses_a_vector_is_none() -> None:
    with pytest.raises(UpstreamError, match="1 embeddings for 2 inputs"):
        decode(answer([0.5]), request(["Hi", "Ho"]))
    assert decode(answer([0.5]), request([1, 2, 3])).usage == Usage(5, 0)  # tokens are one input


@pytest.mark.parametrize(
    ("status", "message", "error_class"),
    [
        (403, "You are not allowed to generate embeddings from this model", ErrorClass.MODEL_NOT_FOUND),
        (401, "You have insufficient permissions for this operation. Missing scopes: model.request", ErrorClass.MODEL_NOT_FOUND),
        (400, "The embeddings operation does not work with the specified model, gpt-4o.", ErrorClass.MODEL_NOT_FOUND),
        (501, "This server does not support embeddings. Start it with `--embeddings`", ErrorClass.MODEL_NOT_FOUND),
        (405, "Method Not Allowed", ErrorClass.MODEL_NOT_FOUND),
        (404, "Unknown request URL: POST /openai/v1/embeddings", ErrorClass.MODEL_NOT_FOUND),
        (401, "Incorrect API key provided", ErrorClass.AUTH),
        (403, "Country not supported", ErrorClass.AUTH),
        (400, "This model's maximum context length is 8192 tokens", ErrorClass.CONTEXT_LENGTH),
        (400, "Invalid dimensions", ErrorClass.INVALID_REQUEST),
        (429, "slow down", ErrorClass.RATE_LIMITED),
    ],
)
def test_a_target_that_cannot_embed_says_nothing_about_its_key(status: int, message: str, error_class: ErrorClass) -> None:
    error = DIALECT.decode_error(status, (), orjson.dumps({"error": {"message": message}}))
    assert error.error_class is error_class


def test_there_are_no_streams_of_it() -> None:
    assert DIALECT.text_of(answer([0.5])) == b""
    with pytest.raises(NotImplementedError):
        DIALECT.answer_stream(request(), TARGET)
    with pytest.raises(NotImplementedError):
        DIALECT.stream_from_whole(answer([0.5]), request())
