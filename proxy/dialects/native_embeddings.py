"""Embeddings in the formats of the Gemini API, Vertex AI, Cohere and Ollama.

https://ai.google.dev/api/embeddings                                                                batchEmbedContents
https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api           predict, embedContent
https://docs.cohere.com/v2/reference/embed
https://github.com/ollama/ollama/blob/main/docs/api.md#generate-embeddings

    OpenAI             Gemini API             Vertex AI                                    Cohere             Ollama
    input              requests[].content     instances[].content                          texts              input
      at once          100                    250                                          96                 2,048
    dimensions         outputDimensionality   parameters.outputDimensionality              output_dimension   dimensions
    input_type         taskType               instances[].task_type                        input_type         -
    user               -                      -                                            -                  -
    vectors            embeddings[].values    predictions[].embeddings.values              embeddings.float   embeddings
    prompt_tokens      usageMetadata.         predictions[].embeddings.statistics.         meta.billed_units  prompt_eval_count
                       promptTokenCount       token_count                                  .input_tokens

On Vertex AI the Gemini models but the first have another method: embedContent for one input, batchEmbedContents for several, with all but
the content in `embedContentConfig`. `input_type` is a field of Cohere's, which must be chosen there; `search_document` unless the caller
says (`extra_body`). It is told in Google's words too, unless Google's own `task_type` is there. Besides, each provider's own fields are
carried under their names: `_OF_GOOGLE`, `_OF_COHERE`, `_OF_OLLAMA`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import orjson

from proxy.core.chat import ChatRequest
from proxy.core.errors import CannotCarry, InvalidValue
from proxy.core.target import Target
from proxy.dialects.base import OutboundRequest
from proxy.dialects.embeddings import EmbeddingDialect, Vectors, count_of, knobs_of, texts_of
from proxy.dialects.knobs import Knobs

MAX_OF_GEMINI = 100  # "at most 100 requests can be in one batch"
MAX_OF_VERTEX = 250
MAX_OF_COHERE = 96
MAX_OF_OLLAMA = 2048  # there is no limit but ours

_OF_GOOGLE = {"task_type": "taskType", "title": "title"}
_OF_COHERE = ("truncate", "max_tokens", "priority")
_OF_OLLAMA = ("dimensions", "truncate", "options", "keep_alive")
_TASKS = {
    "search_document": "RETRIEVAL_DOCUMENT",
    "search_query": "RETRIEVAL_QUERY",
    "classification": "CLASSIFICATION",
    "clustering": "CLUSTERING",
}
_COHERE_KINDS = ("float", "int8", "uint8", "binary", "ubinary")
_OF_ONE_LENGTH = re.compile(r"embed-\S*-v[23]\b", re.IGNORECASE)  # Cohere's before embed-v4
_BY_PREDICTION = re.compile(r"gemini-embedding-(?:001|exp)")  # of the Gemini models on Vertex AI
_GOOGLE = "publishers/google/models/"


# -- Google


class _GoogleEmbeddings(EmbeddingDialect):
    def read(self, answer: dict[str, Any]) -> Vectors:
        if "predictions" in answer:
            found = [prediction["embeddings"] for prediction in answer["predictions"]]
        else:
            found = answer["embeddings"] if "embeddings" in answer else [answer["embedding"]]
        usage = answer.get("usageMetadata")
        told = count_of(usage.get("promptTokenCount")) if isinstance(usage, dict) else None
        return Vectors([item["values"] for item in found], told if told is not None else _statistics(found))


def _statistics(found: Iterable[dict[str, Any]]) -> int | None:
    """What Vertex AI says of each input: the sum, if it says it of all."""
    counts = [count_of((item.get("statistics") or {}).get("token_count")) for item in found]
    told = [count for count in counts if count is not None]
    return sum(told) if len(told) == len(counts) else None


def _google_fields(knobs: Knobs) -> dict[str, Any]:
    fields = {theirs: value for name, theirs in _OF_GOOGLE.items() if (value := knobs.take(name)) is not None}
    input_type = knobs.take("input_type")
    if input_type is not None:
        task = _TASKS.get(input_type) if isinstance(input_type, str) else None
        if task is None or "taskType" in fields:
            knobs.drop("input_type")
        else:
            fields["taskType"] = task
    return fields


class GeminiEmbeddings(_GoogleEmbeddings):
    """The Gemini API."""

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        knobs = knobs_of(request, target)
        texts = texts_of(request, at_most=MAX_OF_GEMINI)
        model = target.upstream_model
        if not model.startswith(("models/", "tunedModels/")):
            model = f"models/{model}"
        fields = _google_fields(knobs)
        dimensions = knobs.take("dimensions")
        if dimensions is not None:
            fields["outputDimensionality"] = dimensions
        body = {"requests": [{"model": model, "content": {"parts": [{"text": text}]}, **fields} for text in texts]}
        return OutboundRequest(f"/v1beta/{quote(model)}:batchEmbedContents", orjson.dumps(body), knobs.dropped)


class VertexEmbeddings(_GoogleEmbeddings):
    """Google's models on Vertex AI, tuned ones (`endpoints/123`) included. The other publishers have formats of their own."""

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        project, location = target.provider.project, target.provider.location
        if not project or not location:
            raise CannotCarry("anything to Vertex AI without a project and a location")
        model = target.upstream_model.removeprefix(_GOOGLE).removeprefix("models/")
        if model.startswith(("publishers/", "claude-")):
            raise CannotCarry("embeddings")
        knobs = knobs_of(request, target)
        texts = texts_of(request, at_most=MAX_OF_VERTEX)
        predicts = "gemini" not in model or _BY_PREDICTION.search(model) is not None
        method, body = _predict(texts, knobs) if predicts else _embed_content(texts, knobs)
        resource = quote(model) if model.startswith("endpoints/") else f"{_GOOGLE}{quote(model, safe='@')}"
        place = f"/v1/projects/{quote(project, safe=':')}/locations/{quote(location, safe='')}"
        return OutboundRequest(f"{place}/{resource}:{method}", orjson.dumps(body), knobs.dropped)


def _predict(texts: list[str], knobs: Knobs) -> tuple[str, dict[str, Any]]:
    fields = _google_fields(knobs)
    if "taskType" in fields:
        fields["task_type"] = fields.pop("taskType")
    body: dict[str, Any] = {"instances": [{"content": text, **fields} for text in texts]}
    parameters = _vertex_fields(knobs)
    if parameters:
        body["parameters"] = parameters
    return "predict", body


def _embed_content(texts: list[str], knobs: Knobs) -> tuple[str, dict[str, Any]]:
    fields = _google_fields(knobs) | _vertex_fields(knobs)
    config = {"embedContentConfig": fields} if fields else {}
    requests: list[dict[str, Any]] = [{"content": {"role": "user", "parts": [{"text": text}]}, **config} for text in texts]
    return ("embedContent", requests[0]) if len(requests) == 1 else ("batchEmbedContents", {"requests": requests})


def _vertex_fields(knobs: Knobs) -> dict[str, Any]:
    names = {"dimensions": "outputDimensionality", "auto_truncate": "autoTruncate"}
    return {theirs: value for name, theirs in names.items() if (value := knobs.take(name)) is not None}


# -- Cohere


class CohereEmbeddings(EmbeddingDialect):
    """Cohere's v2. `dialects/cohere/fields.py` and `dialects/cohere/vectors.py` are what Amazon Bedrock has of it."""

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        knobs = knobs_of(request, target)
        texts = texts_of(request, at_most=MAX_OF_COHERE)
        fields = cohere_fields(knobs, target.upstream_model)
        body = {"model": target.upstream_model, "texts": texts, "embedding_types": ["float"], **fields}
        return OutboundRequest("/v2/embed", orjson.dumps(body), knobs.dropped)

    def read(self, answer: dict[str, Any]) -> Vectors:
        return cohere_vectors(answer)


def cohere_fields(knobs: Knobs, model: str) -> dict[str, Any]:
    """All but the texts. Raises CallerError, CannotCarry."""
    fields: dict[str, Any] = {"input_type": knobs.take("input_type") or "search_document"}
    dimensions, theirs = knobs.take("dimensions"), knobs.take("output_dimension")
    if dimensions is not None and _OF_ONE_LENGTH.search(model):
        raise CannotCarry("dimensions", param="dimensions")
    if dimensions is not None and theirs not in (None, dimensions):
        knobs.drop("output_dimension")  # it was asked for in OpenAI's words too
    if dimensions is not None or theirs is not None:
        fields["output_dimension"] = theirs if dimensions is None else dimensions
    kinds = knobs.take("embedding_types")
    if kinds is not None:
        if not isinstance(kinds, list) or not kinds or not all(kind in _COHERE_KINDS for kind in kinds):
            raise InvalidValue(f"`embedding_types` must list one of {', '.join(_COHERE_KINDS)}.", param="embedding_types")
        if len(kinds) > 1:
            raise CannotCarry("several kinds of embeddings in one answer", param="embedding_types")
        fields["embedding_types"] = kinds
    fields |= {name: value for name in _OF_COHERE if (value := knobs.take(name)) is not None}
    return fields


def cohere_vectors(answer: dict[str, Any]) -> Vectors:
    """By type, or plain lists where no type was asked for."""
    found = answer["embeddings"]
    if isinstance(found, dict):
        found = next((found[kind] for kind in _COHERE_KINDS if found.get(kind)), None)
    meta = answer.get("meta")
    billed = meta.get("billed_units") if isinstance(meta, dict) else None
    return Vectors(found, count_of(billed.get("input_tokens")) if isinstance(billed, dict) else None)


# -- Ollama


class OllamaEmbeddings(EmbeddingDialect):
    """Ollama's /api/embed."""

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        knobs = knobs_of(request, target)
        texts = texts_of(request, at_most=MAX_OF_OLLAMA)
        body = {"model": target.upstream_model, "input": texts if len(texts) > 1 else texts[0]}
        body |= {name: value for name in _OF_OLLAMA if (value := knobs.take(name)) is not None}
        return OutboundRequest("/api/embed", orjson.dumps(body), knobs.dropped)

    def read(self, answer: dict[str, Any]) -> Vectors:
        found = answer["embeddings"] if "embeddings" in answer else [answer["embedding"]]  # the latter of /api/embeddings
        model = answer.get("model")
        return Vectors(found, count_of(answer.get("prompt_eval_count")), model if isinstance(model, str) else None)
