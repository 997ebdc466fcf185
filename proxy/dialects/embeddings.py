"""What all formats of embeddings share: whatever was asked, the answer is OpenAI's.

https://platform.openai.com/docs/api-reference/embeddings

    answer  = {object: list, data: [vector+], model, usage: {prompt_tokens, total_tokens}}
    vector  = {object: embedding, index, embedding}        in the order of the inputs
    embedding                                              a list of numbers, or with `encoding_format: base64`
                                                           those as little-endian 32-bit floats, in base64

A format of its own implements `EmbeddingDialect`: `encode_request` and `read`. No input is left out, none is sent alone: what a format
takes fewer of at once than were given, it cannot carry. Where an upstream does not say how much it read, `usage` is null and the last
field of the answer, until the count is there (`with_usage`).
"""

from __future__ import annotations

import re
import struct
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import orjson

from proxy.core.chat import ChatRequest
from proxy.core.errors import CannotCarry, ErrorClass, UpstreamError
from proxy.core.target import Target
from proxy.core.usage import Usage
from proxy.dialects.base import WRONG_SHAPE, OutboundDialect, OutboundRequest, WholeAnswer
from proxy.dialects.knobs import Knobs
from proxy.dialects.openai_chat import parse_mending
from proxy.dialects.openai_errors import error_from_object
from proxy.dialects.openai_fields import quirked

MAX_TOKENS = 100_000_000  # no request has ever had more: beyond it a figure is noise
_NO_USAGE = b'"usage":null}'
_NUMBERS = frozenset((int, float))
_OF_CHATS = ("messages", "stream", "stream_options")  # `Knobs` thinks these are the proxy's own


@dataclass(slots=True)
class Vectors:
    """`vectors` as they came, to be looked at. `input_tokens` None: the upstream does not say; `model`: nor what it calls itself."""

    vectors: Any
    input_tokens: int | None = None
    model: str | None = None


class NeverStreamed:
    """The part of `OutboundDialect` that embeddings have no use for."""

    stream_type: ClassVar[bytes] = b""

    def text_of(self, body: bytes) -> bytes:
        return b""

    def answer_stream(self, request: ChatRequest, target: Target) -> NoReturn:
        raise NotImplementedError("embeddings are not streamed")

    def stream_from_whole(self, body: bytes, request: ChatRequest) -> NoReturn:
        raise NotImplementedError("embeddings are not streamed")


class EmbeddingDialect(NeverStreamed, ABC):
    """Implements `OutboundDialect`. Stateless. `chat` is the provider's other format: errors are the same in both."""

    def __init__(self, chat: OutboundDialect) -> None:
        self._chat = chat

    @abstractmethod
    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        """Raises CallerError, and CannotCarry for what this format or model has no words for."""

    @abstractmethod
    def read(self, answer: dict[str, Any]) -> Vectors:
        """The vectors in the order of the inputs. Looks as if all were there: what is not raises one of WRONG_SHAPE."""

    def decode_answer(self, body: bytes, request: ChatRequest, target: Target) -> WholeAnswer:
        answer, text = answer_object(body)
        try:
            found = self.read(answer)
        except WRONG_SHAPE:
            if answer.get("error") or isinstance(answer.get("message"), str):
                raise error_from_object(answer, status=None) from None
            raise _not_embeddings() from None
        if not isinstance(found.vectors, list):
            raise _not_embeddings()
        for vector in found.vectors:
            if not isinstance(vector, list) or not vector or not _NUMBERS.issuperset(map(type, vector)):
                raise _not_embeddings()
        check_count(len(found.vectors), request)
        packed = wants_base64(request)
        data = [
            {"object": "embedding", "index": index, "embedding": as_base64(vector) if packed else vector}
            for index, vector in enumerate(found.vectors)
        ]
        usage = Usage(found.input_tokens) if found.input_tokens is not None else None
        whole = {
            "object": "list",
            "data": data,
            "model": found.model or target.upstream_model,
            "usage": usage_object(usage) if usage is not None else None,
        }
        return WholeAnswer(orjson.dumps(whole), usage, None, mended=text is not body)

    def decode_error(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> UpstreamError:
        return embeddings_error(self._chat.decode_error(status, headers, body), status)


# what servers say where a model or a key is good, only not for this
_NOT_FOR_EMBEDDINGS = re.compile(
    r"not allowed to generate embeddings|(?:not|n't) support (?:\w+ )?embeddings?\b|embeddings? (?:is|are) not (?:supported|available)"
    r"|embeddings operation does not work|not an embeddings? model|missing scopes|insufficient permissions",
    re.IGNORECASE,
)
_NO_SUCH_METHOD = frozenset((405, 501))


def embeddings_error(error: UpstreamError, status: int) -> UpstreamError:
    """A target that cannot embed is one that another may stand in for, and nothing to hold against its key."""
    if status in _NO_SUCH_METHOD or _NOT_FOR_EMBEDDINGS.search(error.message[:2000]):
        error.error_class = ErrorClass.MODEL_NOT_FOUND
    return error


# -- what is asked


def knobs_of(request: ChatRequest, target: Target) -> Knobs:
    """The fields of a request. What is to be embedded and in which form the answer is are taken already."""
    knobs = quirked(request.body, target.quirks)
    knobs.take("input")
    knobs.take("encoding_format")  # which is ours to see to
    for name in _OF_CHATS:
        if request.body.get(name) is not None:
            knobs.drop(name)
    return knobs


def texts_of(request: ChatRequest, *, at_most: int) -> list[str]:
    """What is to be embedded, as text. Raises CannotCarry for tokens, which are OpenAI's own, and for more inputs than `at_most`."""
    given = request.body["input"]
    if isinstance(given, str):
        return [given]
    if not isinstance(given[0], str):
        raise CannotCarry("token arrays", param="input")
    if len(given) > at_most:
        raise CannotCarry(f"more than {at_most} inputs at once" if at_most > 1 else "several inputs at once", param="input")
    return list(given)


def wants_base64(request: ChatRequest) -> bool:
    return request.body.get("encoding_format") == "base64"


# -- what is answered


def answer_object(body: bytes) -> tuple[dict[str, Any], bytes]:
    """(the JSON object, its text: `body` itself where nothing was wrong). Raises UpstreamError."""
    parsed, text = parse_mending(body)
    if text is None:
        raise UpstreamError(ErrorClass.MALFORMED, "the answer is not valid JSON", status=200)
    if isinstance(parsed, list) and parsed and isinstance(parsed[0], dict) and "error" in parsed[0]:
        parsed = parsed[0]
    if not isinstance(parsed, dict):
        raise UpstreamError(ErrorClass.EMPTY, "the answer is not an object", status=200)
    return parsed, text


def check_count(count: int, request: ChatRequest) -> None:
    """One vector too few, and every text after the gap would be found under its neighbour's. Raises UpstreamError."""
    given = request.body["input"]
    inputs = 1 if isinstance(given, str) or isinstance(given[0], int) else len(given)
    if count != inputs:
        raise UpstreamError(ErrorClass.MALFORMED, f"the answer has {count} embeddings for {inputs} inputs", status=200)


def as_base64(vector: Sequence[float]) -> str:
    try:
        return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except (struct.error, OverflowError):
        raise _not_embeddings() from None


def count_of(value: object) -> int | None:
    """A number of tokens, as an integer or a float that is one; None for what makes no sense."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS else None


def usage_object(usage: Usage) -> dict[str, int]:
    return {"prompt_tokens": usage.input_tokens, "total_tokens": usage.input_tokens}


def with_usage(answer: bytes, usage: Usage) -> bytes:
    """An answer whose upstream did not say how much it read, with what was counted instead. Any other as it is."""
    if not answer.endswith(_NO_USAGE):
        return answer
    return b"%b%b}" % (answer[: -len(b"null}")], orjson.dumps(usage_object(usage)))


def _not_embeddings() -> UpstreamError:
    return UpstreamError(ErrorClass.MALFORMED, "the answer is not of the shape that its format asks for", status=200)
