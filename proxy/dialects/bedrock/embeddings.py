"""Embeddings on Amazon Bedrock: InvokeModel, with a body in the format of the model's maker.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModel.html
https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-embed-text.html and …-titan-embed-mm.html
https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-embed.html
https://docs.aws.amazon.com/nova/latest/userguide/embeddings-schema.html

    OpenAI          Titan                                          Cohere             Nova, all in singleEmbeddingParams
    input           inputText                                      texts              text.value
      at once       1                                              96                 1
    dimensions      dimensions (V2); embeddingConfig.              output_dimension   embeddingDimension
                    outputEmbeddingLength (multimodal)
    input_type      -                                              input_type         embeddingPurpose
    normalize       normalize (V2)                                 -                  -
    truncate        -                                              truncate           text.truncationMode
    vectors         embedding                                      embeddings         embeddings[].embedding
    prompt_tokens   inputTextTokenCount                            -                  -

A model is placed by its name, wherever in an ARN it stands; one whose ARN hides it is refused, for nothing tells its format.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import orjson

from proxy.core.chat import ChatRequest
from proxy.core.errors import CannotCarry
from proxy.core.target import Target
from proxy.dialects.base import OutboundRequest
from proxy.dialects.embeddings import EmbeddingDialect, Vectors, count_of, knobs_of, texts_of
from proxy.dialects.knobs import Knobs
from proxy.dialects.native_embeddings import MAX_OF_COHERE, cohere_fields, cohere_vectors

_PURPOSES = {
    "search_document": "GENERIC_INDEX",
    "search_query": "GENERIC_RETRIEVAL",
    "classification": "CLASSIFICATION",
    "clustering": "CLUSTERING",
}

Writer = Callable[[ChatRequest, Knobs, str], dict[str, Any]]


class BedrockEmbeddings(EmbeddingDialect):
    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        model = target.upstream_model
        writer = next((writer for name, writer in _WRITERS if name.search(model)), None)
        if writer is None:
            raise CannotCarry(f"embeddings to {model}, whose format is not known")
        knobs = knobs_of(request, target)
        body = writer(request, knobs, model)
        return OutboundRequest(f"/model/{quote(model, safe='')}/invoke", orjson.dumps(body), knobs.dropped)

    def read(self, answer: dict[str, Any]) -> Vectors:
        if "embedding" in answer:
            return Vectors([answer["embedding"]], count_of(answer.get("inputTextTokenCount")))
        found = answer["embeddings"]
        if isinstance(found, list) and found and isinstance(found[0], dict):
            return Vectors([item["embedding"] for item in found])
        return cohere_vectors(answer)


def _titan(request: ChatRequest, knobs: Knobs, model: str) -> dict[str, Any]:
    if knobs.take("dimensions") is not None:
        raise CannotCarry("dimensions", param="dimensions")
    return {"inputText": _one_text(request)}


def _titan_v2(request: ChatRequest, knobs: Knobs, model: str) -> dict[str, Any]:
    fields = {name: value for name in ("dimensions", "normalize") if (value := knobs.take(name)) is not None}
    return {"inputText": _one_text(request), **fields}


def _titan_multimodal(request: ChatRequest, knobs: Knobs, model: str) -> dict[str, Any]:
    dimensions = knobs.take("dimensions")
    config = {"embeddingConfig": {"outputEmbeddingLength": dimensions}} if dimensions is not None else {}
    return {"inputText": _one_text(request), **config}


def _cohere(request: ChatRequest, knobs: Knobs, model: str) -> dict[str, Any]:
    return {"texts": texts_of(request, at_most=MAX_OF_COHERE), **cohere_fields(knobs, model)}


def _nova(request: ChatRequest, knobs: Knobs, model: str) -> dict[str, Any]:
    purpose, input_type = knobs.take("embeddingPurpose"), knobs.take("input_type")
    known = _PURPOSES.get(input_type) if isinstance(input_type, str) else None
    if input_type is not None and (known is None or purpose is not None):
        knobs.drop("input_type")
    fields: dict[str, Any] = {"embeddingPurpose": purpose or known or "GENERIC_INDEX"}
    dimensions = knobs.take("dimensions")
    if dimensions is not None:
        fields["embeddingDimension"] = dimensions
    fields["text"] = {"truncationMode": knobs.take("truncate") or "NONE", "value": _one_text(request)}
    return {"taskType": "SINGLE_EMBEDDING", "singleEmbeddingParams": fields}


def _one_text(request: ChatRequest) -> str:
    return texts_of(request, at_most=1)[0]


_WRITERS: tuple[tuple[re.Pattern[str], Writer], ...] = tuple(
    (re.compile(pattern), writer)
    for pattern, writer in (
        (r"amazon\.titan-embed-text-v2", _titan_v2),
        (r"amazon\.titan-embed-image", _titan_multimodal),
        (r"amazon\.titan-embed", _titan),
        (r"amazon\.nova\S*embed", _nova),
        (r"cohere\.embed", _cohere),
    )
)
