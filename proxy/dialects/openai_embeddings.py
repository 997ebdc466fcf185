"""OpenAI embeddings: the caller's side, and the upstream's for every provider that speaks the format.

https://platform.openai.com/docs/api-reference/embeddings/create

    input              a string · strings · tokens (one input) · lists of tokens           at most 2,048 inputs, none empty
    encoding_format    float, base64
    dimensions         how long the vectors are to be
    user

As in chat completions, what is checked is what the proxy relies on; every other field goes on as it is. Not every server that speaks the
format knows base64: where numbers come instead, they are packed here. What comes as base64 is never unpacked, for it need not be 32-bit
floats (Perplexity's are bytes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import orjson

from proxy.core.chat import NO_TAGS, ChatRequest
from proxy.core.errors import ErrorClass, InvalidRequest, InvalidValue, ProxyError, UpstreamError
from proxy.core.target import Target
from proxy.core.usage import Usage
from proxy.dialects.base import OutboundRequest, WholeAnswer
from proxy.dialects.embeddings import NeverStreamed, answer_object, as_base64, check_count, embeddings_error, wants_base64
from proxy.dialects.openai_chat import UsageReader, patched_body
from proxy.dialects.openai_errors import decode_error, error_from_object
from proxy.dialects.openai_request import FORBIDDEN, checked_model, error_object, nobody, parse_object, take_tags

MAX_INPUTS = 2048
ENCODINGS = ("float", "base64")
_NEEDS = frozenset(("embeddings",))
_FORMS = "a string, a list of strings, a list of tokens, or a list of such lists"


class OpenAIEmbeddingsInbound:
    """Implements `InboundDialect`. `on_forbidden`: as for chat."""

    name = "openai"

    def __init__(self, on_forbidden: Callable[[], None] = nobody) -> None:
        self._on_forbidden = on_forbidden

    def decode_request(self, body: bytes) -> ChatRequest:
        parsed = parse_object(body)
        model = checked_model(parsed.get("model"))
        _check_input(parsed.get("input"))
        if not FORBIDDEN.isdisjoint(parsed):
            self._on_forbidden()
            parsed = {key: value for key, value in parsed.items() if key not in FORBIDDEN}
        encoding = parsed.get("encoding_format")
        if encoding is not None and encoding not in ENCODINGS:
            raise InvalidValue(f"`encoding_format` must be {' or '.join(ENCODINGS)}.", param="encoding_format")
        dimensions = parsed.get("dimensions")
        if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
            raise InvalidValue("`dimensions` must be a positive integer.", param="dimensions")
        return ChatRequest(
            "openai",
            parsed,
            model,
            stream=False,
            include_usage=False,
            body_bytes=len(body),
            needs=_NEEDS,
            tags=take_tags(parsed) if "metadata" in parsed else NO_TAGS,
            kind="embeddings",
        )

    def encode_error(self, error: ProxyError) -> bytes:
        return orjson.dumps(error_object(error))

    def stream_error(self, error: ProxyError) -> bytes:
        return b"data: " + orjson.dumps(error_object(error)) + b"\n\n"


def _check_input(given: object) -> None:
    """Raises InvalidRequest for what is of no known form, InvalidValue for what is empty or too much."""
    if type(given) is str and given:
        return
    if type(given) is not str and type(given) is not list:
        raise InvalidRequest(f"`input` must be {_FORMS}.", param="input")
    if not given:
        raise InvalidValue("`input` must not be empty.", param="input")
    if _all_of(int, given):
        _check_tokens(given, "input")
        return
    if len(given) > MAX_INPUTS:
        raise InvalidValue(f"`input` has {len(given)} entries; at most {MAX_INPUTS} are taken.", param="input")
    kind = type(given[0])
    for position, item in enumerate(given):
        where = f"input[{position}]"
        if type(item) is not kind or not _is_input(item):
            raise InvalidRequest(f"`{where}` is of another kind: `input` must be {_FORMS}.", param=where)
        if not item:
            raise InvalidValue(f"`{where}` must not be empty.", param=where)
        if type(item) is list:
            _check_tokens(item, where)


def _is_input(item: object) -> bool:
    return type(item) is str or (type(item) is list and (not item or _all_of(int, item)))


def _check_tokens(tokens: Sequence[Any], where: str) -> None:
    if min(tokens) < 0:
        raise InvalidValue(f"`{where}` must not have negative tokens.", param=where)


def _all_of(kind: type, items: Sequence[Any]) -> bool:
    return set(map(type, items)) == {kind}


class OpenAIEmbeddings(NeverStreamed):
    """Implements `OutboundDialect`. `read_usage` is how the accounting reads a usage object."""

    def __init__(self, read_usage: UsageReader) -> None:
        self._read_usage = read_usage

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        body, dropped = patched_body(request, target)
        if "encoding_format" in dropped:
            dropped = tuple([name for name in dropped if name != "encoding_format"])  # it is heeded all the same
        return OutboundRequest(self._path(target), orjson.dumps(body), dropped)

    def _path(self, target: Target) -> str:
        return "/embeddings"

    def decode_answer(self, body: bytes, request: ChatRequest, target: Target) -> WholeAnswer:
        answer, text = answer_object(body)
        data = answer.get("data")
        if answer.get("error") or (not data and not answer.keys().isdisjoint(("code", "detail", "message"))):
            raise error_from_object(answer, status=None)
        if type(data) is not list or not data:
            raise UpstreamError(ErrorClass.EMPTY, "the answer has no embeddings", status=200)
        kinds = {type(item.get("embedding")) if type(item) is dict and item.get("embedding") else None for item in data}
        if not kinds <= {list, str}:
            raise UpstreamError(ErrorClass.MALFORMED, "the answer has an embedding that is none", status=200)
        check_count(len(data), request)
        mended = text is not body
        usage = _told(answer.get("usage"))
        packs = list in kinds and wants_base64(request)
        if packs or usage is None or usage is not answer["usage"]:
            rest = {name: value for name, value in answer.items() if name != "usage"}
            if packs:
                rest["data"] = [_packed(item) for item in data]
            try:
                text = orjson.dumps({**rest, "usage": usage})
            except TypeError:  # orjson reads 1024 levels and writes 254
                raise UpstreamError(
                    ErrorClass.MALFORMED, "the answer is nested too deeply to be told again", status=200
                ) from None
        return WholeAnswer(text, self._read(usage, target), None, mended=mended)

    def _read(self, usage: dict[str, Any] | None, target: Target) -> Usage | None:
        """Nothing is written here, whatever a server says that it wrote."""
        read = self._read_usage(usage, target.quirks) if usage is not None else None
        if read is not None and (read.output_tokens or read.reasoning_tokens):
            return replace(read, output_tokens=0, reasoning_tokens=0, output_audio_tokens=0)
        return read

    def decode_error(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> UpstreamError:
        return embeddings_error(decode_error(status, body), status)


def _told(usage: object) -> dict[str, Any] | None:
    """A usage object, with what was read under OpenAI's name: some give the total alone (Voyage)."""
    if type(usage) is not dict:
        return None
    if usage.get("prompt_tokens") is None and usage.get("total_tokens") is not None:
        return {**usage, "prompt_tokens": usage["total_tokens"]}
    return usage


def _packed(item: dict[str, Any]) -> dict[str, Any]:
    vector = item["embedding"]
    return {**item, "embedding": as_base64(vector)} if type(vector) is list else item


class AzureEmbeddings(OpenAIEmbeddings):
    """Azure OpenAI: the same bodies under its two URL styles.

    https://learn.microsoft.com/azure/ai-foundry/openai/reference
    """

    def _path(self, target: Target) -> str:
        version = target.provider.api_version
        if version is None:
            return "/openai/v1/embeddings"
        deployment = quote(target.upstream_model, safe="")
        return f"/openai/deployments/{deployment}/embeddings?api-version={quote(version, safe='')}"
