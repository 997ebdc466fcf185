"""Embeddings in formats of their own: Gemini, Vertex AI, Cohere, Ollama and Amazon Bedrock. `test_embeddings_recorded.py` holds them
against recorded traffic; here is what that does not show."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from struct import pack
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse

from proxy.core.chat import ChatRequest
from proxy.core.errors import CannotCarry, ErrorClass, InvalidValue, UpstreamError
from proxy.core.target import Provider, Quirks, Target
from proxy.core.usage import Usage, UsageSource
from proxy.dialects.base import OutboundRequest
from proxy.dialects.bedrock.dialect import BedrockConverse
from proxy.dialects.bedrock.embeddings import BedrockEmbeddings
from proxy.dialects.cohere.dialect import CohereChat
from proxy.dialects.embeddings import EmbeddingDialect, with_usage
from proxy.dialects.gemini.dialect import Gemini
from proxy.dialects.native_embeddings import CohereEmbeddings, GeminiEmbeddings, OllamaEmbeddings, VertexEmbeddings
from proxy.dialects.ollama.dialect import OllamaChat
from proxy.dialects.openai_embeddings import OpenAIEmbeddingsInbound
from proxy.dialects.vertex import Vertex

pytestmark = pytest.mark.unit

DIALECTS: dict[str, EmbeddingDialect] = {
    "gemini": GeminiEmbeddings(Gemini()),
    "vertex": VertexEmbeddings(Vertex()),
    "cohere": CohereEmbeddings(CohereChat()),
    "ollama": OllamaEmbeddings(OllamaChat()),
    "bedrock": BedrockEmbeddings(BedrockConverse()),
}
PROVIDER = Provider("p", "any", "https://p.example", (), project="example.com:my-project", location="europe-west1")

GEMINI = ("gemini", "gemini-embedding-001")
VERTEX = ("vertex", "text-embedding-005")
VERTEX_2 = ("vertex", "gemini-embedding-2")
COHERE = ("cohere", "embed-v4.0")
COHERE_3 = ("cohere", "embed-english-v3.0")
OLLAMA = ("ollama", "nomic-embed-text")
TITAN_1 = ("bedrock", "amazon.titan-embed-text-v1")
TITAN = ("bedrock", "amazon.titan-embed-text-v2:0")
TITAN_IMAGE = ("bedrock", "amazon.titan-embed-image-v1")
NOVA = ("bedrock", "amazon.nova-2-multimodal-embeddings-v1:0")
BEDROCK_COHERE = ("bedrock", "us.cohere.embed-v4:0")
BEDROCK_COHERE_3 = ("bedrock", "cohere.embed-multilingual-v3")
EVERY = (GEMINI, VERTEX, VERTEX_2, COHERE, COHERE_3, OLLAMA, TITAN_1, TITAN, TITAN_IMAGE, NOVA, BEDROCK_COHERE, BEDROCK_COHERE_3)

Place = tuple[str, str]
every_place = pytest.mark.parametrize("place", EVERY, ids=" ".join)

# what each takes beside OpenAI's fields, under its own names, and what it refuses
FIELDS: dict[str, Any] = {
    "dimensions": 256,
    "user": "user-17",
    "input_type": "search_query",
    "task_type": "RETRIEVAL_QUERY",
    "title": "Hats",
    "auto_truncate": False,
    "truncate": "END",
    "max_tokens": 128,
    "priority": 2,
    "embedding_types": ["int8"],
    "output_dimension": 512,
    "options": {"num_ctx": 2048},
    "keep_alive": "5m",
    "normalize": False,
    "embeddingPurpose": "CLUSTERING",
    "messages": [{"role": "user", "content": "Hi"}],
    "stream": True,
    "made_up_by_the_caller": {"at": ["all"]},
}
CARRIED: dict[Place, str] = {
    GEMINI: "dimensions input_type task_type title",
    VERTEX: "dimensions input_type task_type title auto_truncate",
    VERTEX_2: "dimensions input_type task_type title auto_truncate",
    COHERE: "dimensions input_type truncate max_tokens priority embedding_types output_dimension",
    COHERE_3: "input_type truncate max_tokens priority embedding_types output_dimension",
    OLLAMA: "dimensions truncate options keep_alive",
    TITAN_1: "",
    TITAN: "dimensions normalize",
    TITAN_IMAGE: "dimensions",
    NOVA: "dimensions input_type truncate embeddingPurpose",
    BEDROCK_COHERE: "dimensions input_type truncate max_tokens priority embedding_types output_dimension",
    BEDROCK_COHERE_3: "input_type truncate max_tokens priority embedding_types output_dimension",
}
REFUSED: dict[Place, str] = {COHERE_3: "dimensions", TITAN_1: "dimensions", BEDROCK_COHERE_3: "dimensions"}


def request(given: Any = "Hi", **fields: Any) -> ChatRequest:
    return OpenAIEmbeddingsInbound().decode_request(orjson.dumps({"model": "smart", "input": given, **fields}))


def target(place: Place, **rest: Any) -> Target:
    return Target(PROVIDER, place[1], place[1], **rest)


def encode(place: Place, given: Any = "Hi", **fields: Any) -> OutboundRequest:
    return DIALECTS[place[0]].encode_request(request(given, **fields), target(place))


def sent(place: Place, given: Any = "Hi", **fields: Any) -> Any:
    return orjson.loads(encode(place, given, **fields).body)


# -- requests


@pytest.mark.parametrize(
    ("place", "given", "path", "body"),
    [
        (
            GEMINI,
            ["Hi", "Ho"],
            "/v1beta/models/gemini-embedding-001:batchEmbedContents",
            {
                "requests": [
                    {"model": "models/gemini-embedding-001", "content": {"parts": [{"text": text}]}} for text in ("Hi", "Ho")
                ]
            },
        ),
        (
            ("gemini", "tunedModels/my model"),
            "Hi",
            "/v1beta/tunedModels/my%20model:batchEmbedContents",
            {"requests": [{"model": "tunedModels/my model", "content": {"parts": [{"text": "Hi"}]}}]},
        ),
        (
            VERTEX,
            ["Hi", "Ho"],
            "/v1/projects/example.com:my-project/locations/europe-west1/publishers/google/models/text-embedding-005:predict",
            {"instances": [{"content": "Hi"}, {"content": "Ho"}]},
        ),
        (
            ("vertex", "publishers/google/models/gemini-embedding-001"),
            "Hi",
            "/v1/projects/example.com:my-project/locations/europe-west1/publishers/google/models/gemini-embedding-001:predict",
            {"instances": [{"content": "Hi"}]},
        ),
        (
            ("vertex", "endpoints/123"),
            "Hi",
            "/v1/projects/example.com:my-project/locations/europe-west1/endpoints/123:predict",
            {"instances": [{"content": "Hi"}]},
        ),
        (
            VERTEX_2,
            "Hi",
            "/v1/projects/example.com:my-project/locations/europe-west1/publishers/google/models/gemini-embedding-2:embedContent",
            {"content": {"role": "user", "parts": [{"text": "Hi"}]}},
        ),
        (
            VERTEX_2,
            ["Hi", "Ho"],
            "/v1/projects/example.com:my-project/locations/europe-west1/publishers/google/models/gemini-embedding-2:batchEmbedContents",
            {"requests": [{"content": {"role": "user", "parts": [{"text": text}]}} for text in ("Hi", "Ho")]},
        ),
        (
            COHERE,
            "Hi",
            "/v2/embed",
            {"model": "embed-v4.0", "texts": ["Hi"], "input_type": "search_document", "embedding_types": ["float"]},
        ),
        (OLLAMA, "Hi", "/api/embed", {"model": "nomic-embed-text", "input": "Hi"}),
        (OLLAMA, ["Hi", "Ho"], "/api/embed", {"model": "nomic-embed-text", "input": ["Hi", "Ho"]}),
        (TITAN, ["Hi"], "/model/amazon.titan-embed-text-v2%3A0/invoke", {"inputText": "Hi"}),
        (TITAN_1, "Hi", "/model/amazon.titan-embed-text-v1/invoke", {"inputText": "Hi"}),
        (
            NOVA,
            "Hi",
            "/model/amazon.nova-2-multimodal-embeddings-v1%3A0/invoke",
            {
                "taskType": "SINGLE_EMBEDDING",
                "singleEmbeddingParams": {
                    "embeddingPurpose": "GENERIC_INDEX",
                    "text": {"truncationMode": "NONE", "value": "Hi"},
                },
            },
        ),
        (
            BEDROCK_COHERE,
            ["Hi", "Ho"],
            "/model/us.cohere.embed-v4%3A0/invoke",
            {"texts": ["Hi", "Ho"], "input_type": "search_document"},
        ),
        (
            ("bedrock", "arn:aws:bedrock:us-east-1::foundation-model/cohere.embed-english-v3"),
            "Hi",
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A%3Afoundation-model%2Fcohere.embed-english-v3/invoke",
            {"texts": ["Hi"], "input_type": "search_document"},
        ),
    ],
)
def test_the_least_that_is_asked(place: Place, given: Any, path: str, body: Any) -> None:
    outbound = encode(place, given)
    assert (outbound.path, orjson.loads(outbound.body), outbound.dropped) == (path, body, ())


@pytest.mark.parametrize(
    ("place", "where", "value"),
    [
        (GEMINI, ("requests", 0, "outputDimensionality"), 256),
        (VERTEX, ("parameters", "outputDimensionality"), 256),
        (VERTEX_2, ("embedContentConfig", "outputDimensionality"), 256),
        (COHERE, ("output_dimension",), 256),
        (OLLAMA, ("dimensions",), 256),
        (TITAN, ("dimensions",), 256),
        (TITAN_IMAGE, ("embeddingConfig", "outputEmbeddingLength"), 256),
        (NOVA, ("singleEmbeddingParams", "embeddingDimension"), 256),
        (BEDROCK_COHERE, ("output_dimension",), 256),
    ],
)
def test_dimensions_have_a_name_everywhere(place: Place, where: tuple[str | int, ...], value: Any) -> None:
    found = sent(place, dimensions=256)
    for step in where:
        found = found[step]
    assert found == value


@every_place
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_on_the_wire_or_dropped_or_refused(place: Place, name: str) -> None:
    if name in REFUSED.get(place, ""):
        with pytest.raises(CannotCarry) as caught:
            encode(place, **{name: FIELDS[name]})
        assert caught.value.param == name
        return
    outbound = encode(place, **{name: FIELDS[name]})
    changed = orjson.loads(outbound.body) != sent(place)
    assert changed == (name in CARRIED[place].split())
    assert outbound.dropped == (() if changed else (name,))


@every_place
def test_the_form_of_the_answer_is_ours_to_see_to(place: Place) -> None:
    for encoding in ("float", "base64", None):
        outbound = encode(place, encoding_format=encoding)
        assert (orjson.loads(outbound.body), outbound.dropped) == (sent(place), ())


@every_place
@pytest.mark.parametrize("tokens", [[1, 2], [[1], [2]]])
def test_tokens_are_openais_own(place: Place, tokens: Any) -> None:
    with pytest.raises(CannotCarry, match="token arrays") as caught:
        encode(place, tokens)
    assert caught.value.param == "input"


@pytest.mark.parametrize(
    ("place", "most"),
    [(GEMINI, 100), (VERTEX, 250), (VERTEX_2, 250), (COHERE, 96), (OLLAMA, 2048), (BEDROCK_COHERE, 96)],
)
def test_several_inputs_go_as_one_request_up_to_the_formats_limit(place: Place, most: int) -> None:
    texts = [f"text {index}" for index in range(most)]
    body = sent(place, texts)
    found = body.get("requests") or body.get("instances") or body.get("texts") or body.get("input")
    assert len(found) == most
    if most < 2048:
        with pytest.raises(CannotCarry, match=f"more than {most} inputs at once"):
            encode(place, [*texts, "one more"])


@pytest.mark.parametrize("place", [TITAN, TITAN_1, TITAN_IMAGE, NOVA])
def test_what_takes_one_input_cannot_carry_several(place: Place) -> None:
    assert sent(place, ["Hi"]) == sent(place, "Hi")
    with pytest.raises(CannotCarry, match="several inputs at once") as caught:
        encode(place, ["Hi", "Ho"])
    assert caught.value.param == "input"


@pytest.mark.parametrize(
    ("place", "told", "word"),
    [
        (COHERE, "clustering", "clustering"),
        (COHERE, "image", "image"),
        (BEDROCK_COHERE, "search_query", "search_query"),
        (GEMINI, "search_document", "RETRIEVAL_DOCUMENT"),
        (VERTEX, "classification", "CLASSIFICATION"),
        (VERTEX_2, "search_query", "RETRIEVAL_QUERY"),
        (NOVA, "search_query", "GENERIC_RETRIEVAL"),
        (NOVA, "clustering", "CLUSTERING"),
    ],
)
def test_what_the_vectors_are_for_is_told_in_each_ones_words(place: Place, told: str, word: str) -> None:
    outbound = encode(place, input_type=told)
    assert orjson.dumps(word) in outbound.body
    assert outbound.dropped == ()


@pytest.mark.parametrize(
    ("place", "fields", "word"),
    [
        (GEMINI, {"task_type": "QUESTION_ANSWERING", "input_type": "search_query"}, "QUESTION_ANSWERING"),
        (NOVA, {"embeddingPurpose": "TEXT_RETRIEVAL", "input_type": "search_query"}, "TEXT_RETRIEVAL"),
    ],
)
def test_a_providers_own_word_wins(place: Place, fields: dict[str, str], word: str) -> None:
    outbound = encode(place, **fields)
    assert orjson.dumps(word) in outbound.body
    assert outbound.dropped == ("input_type",)


@pytest.mark.parametrize("place", [GEMINI, VERTEX, NOVA])
@pytest.mark.parametrize("told", ["image", 5, ["search_query"]])
def test_a_use_that_is_not_known_is_dropped_by_name(place: Place, told: Any) -> None:
    outbound = encode(place, input_type=told)
    assert (orjson.loads(outbound.body), outbound.dropped) == (sent(place), ("input_type",))


def test_cohere_has_one_length_whoever_names_it() -> None:
    assert encode(COHERE, dimensions=256, output_dimension=256).dropped == ()
    outbound = encode(COHERE, dimensions=256, output_dimension=512)
    assert orjson.loads(outbound.body)["output_dimension"] == 256
    assert outbound.dropped == ("output_dimension",)


@pytest.mark.parametrize("kinds", [[], "float", ["base64"], ["bits"], [5]])
def test_a_kind_of_vectors_that_there_is_not_is_the_callers_mistake(kinds: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        encode(COHERE, embedding_types=kinds)
    assert caught.value.param == "embedding_types"


def test_an_answer_has_vectors_of_one_kind() -> None:
    with pytest.raises(CannotCarry) as caught:
        encode(COHERE, embedding_types=["float", "int8"])
    assert caught.value.param == "embedding_types"


@pytest.mark.parametrize(
    ("place", "lacks"),
    [
        (("vertex", "claude-sonnet-4-5"), "embeddings"),
        (("vertex", "publishers/mistralai/models/x"), "embeddings"),
        (("bedrock", "anthropic.claude-sonnet-4-5-v1:0"), "embeddings to anthropic.claude"),
        (("bedrock", "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc"), "embeddings to arn"),
    ],
)
def test_models_without_a_known_format_are_passed_over(place: Place, lacks: str) -> None:
    with pytest.raises(CannotCarry, match=lacks):
        encode(place)


def test_vertex_needs_to_know_where_it_is() -> None:
    nowhere = replace(target(VERTEX), provider=replace(PROVIDER, project=None))
    with pytest.raises(CannotCarry, match="without a project"):
        DIALECTS["vertex"].encode_request(request(), nowhere)


def test_quirks_apply_to_every_format() -> None:
    quirks = Quirks(rename={"size": "dimensions"}, drop=frozenset(("title",)))
    outbound = DIALECTS["gemini"].encode_request(request(size=8, title="x"), target(GEMINI, quirks=quirks))
    (one,) = orjson.loads(outbound.body)["requests"]
    assert (one["outputDimensionality"], "title" in one, outbound.dropped) == (8, False, ("title",))


# -- answers

ANSWERS: list[tuple[Place, Any, int | None]] = [
    (GEMINI, {"embeddings": [{"values": [0.5, -1]}], "usageMetadata": {"promptTokenCount": 4}}, 4),
    (GEMINI, {"embedding": {"values": [0.5, -1]}}, None),
    (VERTEX, {"predictions": [{"embeddings": {"values": [0.5, -1], "statistics": {"token_count": 3.0}}}]}, 3),
    (VERTEX, {"predictions": [{"embeddings": {"values": [0.5, -1]}}]}, None),
    (VERTEX_2, {"embedding": {"values": [0.5, -1]}, "usageMetadata": {"promptTokenCount": 2}, "truncated": False}, 2),
    (COHERE, {"embeddings": {"float": [[0.5, -1]]}, "meta": {"billed_units": {"input_tokens": 6.0}}}, 6),
    (COHERE, {"embeddings": {"float": None, "int8": [[0.5, -1]]}, "meta": None}, None),
    (COHERE, {"embeddings": [[0.5, -1]], "response_type": "embeddings_floats"}, None),
    (OLLAMA, {"embeddings": [[0.5, -1]], "prompt_eval_count": 2, "model": "nomic-embed-text"}, 2),
    (TITAN, {"embedding": [0.5, -1], "embeddingsByType": {"float": [0.5, -1]}, "inputTextTokenCount": 5}, 5),
    (NOVA, {"embeddings": [{"embedding": [0.5, -1], "embeddingType": "TEXT"}]}, None),
    (BEDROCK_COHERE, {"embeddings": {"float": [[0.5, -1]]}, "response_type": "embeddings_by_type"}, None),
]


@pytest.mark.parametrize(("place", "answer", "tokens"), ANSWERS)
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_every_answer_is_told_in_openais_shape(place: Place, answer: Any, tokens: int | None, encoding: str) -> None:
    found = DIALECTS[place[0]].decode_answer(orjson.dumps(answer), request(encoding_format=encoding), target(place))
    assert found.usage == (Usage(tokens) if tokens is not None else None)
    told = orjson.loads(with_usage(found.body, Usage(7, source=UsageSource.COUNTED)))
    read = 7 if tokens is None else tokens
    vector = [0.5, -1] if encoding == "float" else b64encode(pack("<2f", 0.5, -1)).decode()
    assert told == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": vector}],
        "model": place[1],
        "usage": {"prompt_tokens": read, "total_tokens": read},
    }
    if encoding == "float":
        CreateEmbeddingResponse.model_validate(told, strict=True, extra="forbid")


@pytest.mark.parametrize("counts", [(3, None), (None, None), (-1, 3), (2.5, 3), ("3", 3), (True, 3), (10**9, 3)], ids=str)
def test_counts_that_make_no_sense_are_no_usage(counts: tuple[Any, Any]) -> None:
    embeddings = [{"embeddings": {"values": [1.0], "statistics": {"token_count": count}}} for count in counts]
    body = orjson.dumps({"predictions": embeddings})
    assert DIALECTS["vertex"].decode_answer(body, request(["a", "b"]), target(VERTEX)).usage is None


@every_place
@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"embeddings": None},
        {"embeddings": "x"},
        {"embeddings": 5},
        {"embeddings": []},
        {"embeddings": {}},
        {"embeddings": {"float": "x"}},
        {"embeddings": [[]]},
        {"embeddings": [["x"]]},
        {"embeddings": [[None]]},
        {"embeddings": [{"values": 5}]},
        {"embedding": None},
        {"embedding": {"values": None}},
        {"predictions": [None]},
        {"predictions": [{"embeddings": {"statistics": 5}}]},
        {"candidates": [{"content": {"parts": [{"text": "Hi"}]}}]},
    ],
)
def test_what_is_no_answer_is_the_upstreams_fault(place: Place, answer: Any) -> None:
    with pytest.raises(UpstreamError) as caught:
        DIALECTS[place[0]].decode_answer(orjson.dumps(answer), request(), target(place))
    assert caught.value.error_class is ErrorClass.MALFORMED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "embedding embeddings predictions values statistics token_count usageMetadata promptTokenCount float meta"
                " billed_units input_tokens error message".split()
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@every_place
@pytest.mark.property
@given(answer=JSON)
def test_no_answer_makes_more_than_an_upstream_error(place: Place, answer: Any) -> None:
    try:
        found = DIALECTS[place[0]].decode_answer(orjson.dumps(answer), request(encoding_format="base64"), target(place))
    except UpstreamError:
        return
    assert orjson.loads(found.body)["data"][0]["index"] == 0


@pytest.mark.parametrize(
    ("place", "body", "error_class"),
    [
        (GEMINI, b'{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "slow"}}', ErrorClass.RATE_LIMITED),
        (COHERE, b'{"message": "invalid api token", "id": "x"}', ErrorClass.SERVER_ERROR),
        (OLLAMA, b'{"error": "out of memory"}', ErrorClass.SERVER_ERROR),
        (TITAN, b"nothing", ErrorClass.MALFORMED),
        (TITAN, b"[]", ErrorClass.EMPTY),
    ],
)
def test_an_error_in_disguise_is_one(place: Place, body: bytes, error_class: ErrorClass) -> None:
    with pytest.raises(UpstreamError) as caught:
        DIALECTS[place[0]].decode_answer(body, request(), target(place))
    assert caught.value.error_class is error_class


@pytest.mark.parametrize(
    ("place", "status", "headers", "body", "error_class"),
    [
        (
            GEMINI,
            400,
            (),
            b'{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}',
            ErrorClass.AUTH,
        ),
        (COHERE, 400, (), b'{"message": "too long", "error_type": "TOO_MANY_TOKENS"}', ErrorClass.CONTEXT_LENGTH),
        (OLLAMA, 400, (), b'{"error": "this model does not support embeddings"}', ErrorClass.MODEL_NOT_FOUND),
        (
            TITAN,
            429,
            ((b"x-amzn-errortype", b"ThrottlingException:http://"),),
            b'{"message": "Too many requests"}',
            ErrorClass.RATE_LIMITED,
        ),
    ],
)
def test_errors_are_read_as_in_chats(
    place: Place, status: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes, error_class: ErrorClass
) -> None:
    assert DIALECTS[place[0]].decode_error(status, headers, body).error_class is error_class
