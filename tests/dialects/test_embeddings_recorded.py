"""Every recorded exchange of embeddings: the vectors and counts that are answered are those of a plain reading, and what a caller would
have asked becomes the request that was recorded."""

from __future__ import annotations

import struct
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from openai.types import CreateEmbeddingResponse

from proxy.accounting.usage import usage_from_openai
from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass
from proxy.core.target import Provider, Target
from proxy.dialects.base import OutboundDialect
from proxy.dialects.bedrock.dialect import BedrockConverse
from proxy.dialects.bedrock.embeddings import BedrockEmbeddings
from proxy.dialects.cohere.dialect import CohereChat
from proxy.dialects.gemini.dialect import Gemini
from proxy.dialects.native_embeddings import CohereEmbeddings, GeminiEmbeddings, OllamaEmbeddings, VertexEmbeddings
from proxy.dialects.ollama.dialect import OllamaChat
from proxy.dialects.openai_embeddings import OpenAIEmbeddings, OpenAIEmbeddingsInbound
from proxy.dialects.vertex import Vertex
from tests.corpus.recordings import needs_corpus
from tests.dialects.native_recordings import Recorded, recordings

pytestmark = [pytest.mark.unit, needs_corpus]

DIALECTS: dict[str, OutboundDialect] = {
    "openai.embeddings": OpenAIEmbeddings(usage_from_openai),
    "gemini.embeddings": GeminiEmbeddings(Gemini()),
    "vertex.predict": VertexEmbeddings(Vertex()),
    "cohere.embeddings": CohereEmbeddings(CohereChat()),
    "ollama.embeddings": OllamaEmbeddings(OllamaChat()),
    "bedrock.invoke_embeddings": BedrockEmbeddings(BedrockConverse()),
}
ALL = [(api, recorded) for api in DIALECTS for recorded in recordings(api)]
ANSWERS = [(api, recorded) for api, recorded in ALL if recorded.status == 200]
ERRORS = [(api, recorded) for api, recorded in ALL if recorded.status != 200]
CLASSES = {401: ErrorClass.AUTH, 403: ErrorClass.AUTH, 404: ErrorClass.MODEL_NOT_FOUND, 429: ErrorClass.RATE_LIMITED}

every_answer = pytest.mark.parametrize(("api", "recorded"), ANSWERS, ids=[recorded.id for _, recorded in ANSWERS])
every_error = pytest.mark.parametrize(("api", "recorded"), ERRORS, ids=[recorded.id for _, recorded in ERRORS])

Body = dict[str, Any]


class NoWords(Exception):
    """The recorded request is not one that a caller of OpenAI's format could have made."""


# -- what a caller would have asked


def renamed(asked: Body, names: dict[str, str]) -> Body:
    return {ours: asked[theirs] for theirs, ours in names.items() if asked.get(theirs) is not None}


def of_openai(asked: Body) -> Body:
    return asked


def of_gemini(asked: Body) -> Body:
    requests = asked["requests"]
    if any(set(part) != {"text"} for request in requests for part in request["content"]["parts"]):
        raise NoWords("an image")
    names = {"outputDimensionality": "dimensions", "taskType": "task_type", "title": "title"}
    return {"input": [request["content"]["parts"][0]["text"] for request in requests], **renamed(requests[0], names)}


def of_vertex(asked: Body) -> Body:
    instances = asked["instances"]
    names = {"outputDimensionality": "dimensions", "autoTruncate": "auto_truncate"}
    own = renamed(instances[0], {"task_type": "task_type", "title": "title"})
    return {"input": [instance["content"] for instance in instances], **own, **renamed(asked.get("parameters", {}), names)}


def of_cohere(asked: Body) -> Body:
    own = ("input_type", "truncate", "max_tokens", "embedding_types")
    return {"input": asked["texts"], **renamed(asked, {"output_dimension": "dimensions", **{name: name for name in own}})}


def of_ollama(asked: Body) -> Body:
    if "prompt" in asked:
        raise NoWords("/api/embeddings, which came before /api/embed")
    return asked


def of_bedrock(asked: Body) -> Body:
    if "texts" in asked:
        return of_cohere(asked)
    if "inputText" in asked:
        own = ("dimensions", "normalize")
        return {"input": asked["inputText"], **renamed(asked, {name: name for name in own})}
    given = asked["singleEmbeddingParams"]
    names = {"embeddingDimension": "dimensions", "embeddingPurpose": "embeddingPurpose"}
    return {"input": given["text"]["value"], "truncate": given["text"]["truncationMode"], **renamed(given, names)}


AS_OPENAI: dict[str, Callable[[Body], Body]] = {
    "openai.embeddings": of_openai,
    "gemini.embeddings": of_gemini,
    "vertex.predict": of_vertex,
    "cohere.embeddings": of_cohere,
    "ollama.embeddings": of_ollama,
    "bedrock.invoke_embeddings": of_bedrock,
}


def request_of(api: str, recorded: Recorded, **more: Any) -> ChatRequest:
    assert recorded.asked is not None
    try:
        body = AS_OPENAI[api](recorded.asked)
    except NoWords:
        body = {"input": "Hi"}
    return OpenAIEmbeddingsInbound().decode_request(orjson.dumps({**body, "model": recorded.model, **more}))


def target_of(recorded: Recorded) -> Target:
    provider = Provider("p", "any", "https://p.example", (), project="PROJECT", location="us-central1")
    return Target(provider, recorded.model, recorded.model)


def canonical(value: Any, api: str) -> Any:
    """Without what says nothing: nulls, Gemini's role, a form that is the default, empty options."""
    if isinstance(value, dict):
        skipped = {"role"} if api == "gemini.embeddings" else set()
        kept = {key: canonical(item, api) for key, item in value.items() if item is not None and key not in skipped}
        if api == "cohere.embeddings" and "texts" in kept:
            kept.setdefault("embedding_types", ["float"])
        return kept
    return [canonical(item, api) for item in value] if isinstance(value, list) else value


# -- what was answered


def vectors_in(answer: Body) -> list[Any]:
    if "data" in answer:
        return [item["embedding"] for item in answer["data"]]
    if "predictions" in answer:
        return [prediction["embeddings"]["values"] for prediction in answer["predictions"]]
    if "embedding" in answer:
        return [answer["embedding"]]
    found = answer["embeddings"]
    if isinstance(found, dict):
        (found,) = found.values()
    return [item.get("values") or item.get("embedding") if isinstance(item, dict) else item for item in found]


def tokens_in(answer: Body) -> int | None:
    if "predictions" in answer:
        return sum(int(prediction["embeddings"]["statistics"]["token_count"]) for prediction in answer["predictions"])
    places: tuple[tuple[str, ...], ...] = (
        ("usage", "prompt_tokens"),
        ("usageMetadata", "promptTokenCount"),
        ("meta", "billed_units", "input_tokens"),
        ("inputTextTokenCount",),
        ("prompt_eval_count",),
    )
    for place in places:
        value: Any = answer
        for key in place:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            return int(value)
    return None


def has_words(api: str, recorded: Recorded) -> bool:
    assert recorded.asked is not None
    try:
        AS_OPENAI[api](recorded.asked)
    except NoWords:
        return False
    return True


WRITABLE = [(api, recorded) for api, recorded in ALL if has_words(api, recorded)]


@pytest.mark.parametrize(("api", "recorded"), WRITABLE, ids=[recorded.id for _, recorded in WRITABLE])
def test_the_recorded_request_is_written_again(api: str, recorded: Recorded) -> None:
    assert recorded.asked is not None
    outbound = DIALECTS[api].encode_request(request_of(api, recorded), target_of(recorded))
    assert canonical(orjson.loads(outbound.body), api) == canonical(recorded.asked, api)
    assert outbound.dropped == ()


@every_answer
def test_vectors_and_tokens_are_those_of_the_recording(api: str, recorded: Recorded) -> None:
    (said,) = recorded.objects
    answer = DIALECTS[api].decode_answer(recorded.body, request_of(api, recorded), target_of(recorded))
    told = orjson.loads(answer.body)
    assert [item["embedding"] for item in told["data"]] == vectors_in(said)
    tokens = tokens_in(said)
    if tokens is None:
        assert answer.usage is None
        assert answer.body.endswith(b'"usage":null}')
        return
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (tokens, 0)
    assert told["usage"]["prompt_tokens"] == told["usage"]["total_tokens"] == tokens
    if api == "openai.embeddings":
        assert answer.body is recorded.body
    else:
        CreateEmbeddingResponse.model_validate(told, strict=True, extra="forbid")


@every_answer
def test_numbers_are_packed_where_base64_was_asked_for(api: str, recorded: Recorded) -> None:
    (said,) = recorded.objects
    request = request_of(api, recorded, encoding_format="base64")
    told = orjson.loads(DIALECTS[api].decode_answer(recorded.body, request, target_of(recorded)).body)
    for item, vector in zip(told["data"], vectors_in(said), strict=True):
        if isinstance(vector, str):
            assert item["embedding"] == vector
        else:
            floats = struct.unpack(f"<{len(vector)}f", b64decode(item["embedding"]))
            assert floats == pytest.approx(vector, rel=1e-6, abs=1e-30)


@every_error
def test_errors_are_what_they_are(api: str, recorded: Recorded) -> None:
    error = DIALECTS[api].decode_error(recorded.status, (), recorded.body)
    assert error.error_class is CLASSES[recorded.status]
    assert error.message not in ("", "no message")
