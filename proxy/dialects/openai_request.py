"""OpenAI chat completions, the caller's side: a body is checked here once, and what is wrong is said with its `param`.

https://platform.openai.com/docs/api-reference/chat/create
Checked is what the proxy itself relies on and what would harm it: shape, size, depth, numbers that JSON can write and integers cannot hold.
Everything else is the upstream's to judge, unknown fields included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import orjson

from proxy.core.chat import NO_TAGS, ChatRequest, Tags
from proxy.core.errors import InvalidJson, InvalidRequest, InvalidValue, ModelNotFound, ProxyError
from proxy.core.names import MAX_MODEL_BYTES as MAX_MODEL_BYTES
from proxy.core.names import is_model_name

MAX_DEPTH = 64
MAX_MESSAGES = 4096
MAX_TOOLS = 512
MAX_CHOICES = 16
MAX_TAG_CHARS = 128
_SHORT_BYTES = 2048

# fields that other gateways obey: here they have no effect and go no further, so that a caller can never choose whom we call
FORBIDDEN = frozenset(
    "api_base base_url api_key api_version endpoint azure_endpoint custom_host url proxy headers extra_headers extra_query extra_body"
    " user_config".split()
)
_INTEGERS = frozenset(("max_tokens", "max_completion_tokens", "n", "seed", "top_logprobs"))
_NON_NEGATIVE = frozenset(("max_tokens", "max_completion_tokens", "top_logprobs"))
# what `_needs` looks at
_FEATURES = frozenset(("tools", "functions", "response_format", "logprobs", "top_logprobs", "n", "modalities", "audio"))
_TAGS = ("department", "agent", "task", "task_id")
_NO_NEEDS: frozenset[str] = frozenset()


def nobody() -> None:
    """Is told of fields that have no effect where nobody counts them."""


class OpenAIChatInbound:
    """Implements `InboundDialect`. `on_forbidden` is told when a body has fields that are taken out of it."""

    name = "openai"

    def __init__(self, on_forbidden: Callable[[], None] = nobody) -> None:
        self._on_forbidden = on_forbidden

    def decode_request(self, body: bytes) -> ChatRequest:
        parsed = parse_object(body)
        get = parsed.get
        model = checked_model(get("model"))
        needs = _check_messages(get("messages"))
        if not FORBIDDEN.isdisjoint(parsed):
            self._on_forbidden()
            parsed = {key: value for key, value in parsed.items() if key not in FORBIDDEN}
            get = parsed.get
        integers = _INTEGERS & parsed.keys()
        if integers:
            _check_integers(parsed, integers)
        if not _FEATURES.isdisjoint(parsed):
            needs += _needs(parsed)
        stream = get("stream")
        if stream is not None and type(stream) is not bool:
            raise InvalidValue("`stream` must be true or false.", param="stream")
        return ChatRequest(
            "openai",
            parsed,
            model,
            stream is True,
            stream is True and _wants_usage(get("stream_options")),
            len(body),
            get("max_completion_tokens") or get("max_tokens"),
            get("n") or 1,
            frozenset(needs) if needs else _NO_NEEDS,
            take_tags(parsed) if "metadata" in parsed else NO_TAGS,
        )

    def encode_error(self, error: ProxyError) -> bytes:
        return orjson.dumps(error_object(error))

    def stream_error(self, error: ProxyError) -> bytes:
        return b"data: " + orjson.dumps(error_object(error)) + b"\n\n"


def error_object(error: ProxyError) -> dict[str, Any]:
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object no deeper than MAX_DEPTH. Raises InvalidJson, InvalidRequest."""
    if not body:
        raise InvalidJson("The request has no body: send a JSON object.")
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from None
    if type(parsed) is not dict:
        raise InvalidRequest('The body must be a JSON object, such as {"model": …, "messages": […]}.')
    many = body.count(b"{") + body.count(b"[") > MAX_DEPTH if len(body) < _SHORT_BYTES else _opens_often(body)
    if many and too_deep(parsed, MAX_DEPTH):
        raise InvalidJson(f"The body is nested more than {MAX_DEPTH} levels deep.")
    return parsed


def _opens_often(body: bytes) -> bool:
    """Whether there are more brackets than levels allowed. In a long body to count them all takes longer than the parser does."""
    left = MAX_DEPTH
    for bracket in (b"{", b"["):
        at = body.find(bracket)
        while at >= 0:
            left -= 1
            if left < 0:
                return True
            at = body.find(bracket, at + 1)
    return False


def too_deep(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return False
    return True


def checked_model(model: object) -> str:
    """A name that can stand in a log, a header and a row. Raises InvalidRequest, ModelNotFound."""
    if not isinstance(model, str) or not model:
        fault = "is missing" if model is None or model == "" else "must be a text"
        raise InvalidRequest(f"`model` {fault}: name a chain, or a model as provider/name.", param="model")
    if model.isascii() and model.isprintable() and len(model) <= MAX_MODEL_BYTES:
        return model
    if not is_model_name(model):
        raise ModelNotFound(
            f"There is no such model: names are at most {MAX_MODEL_BYTES} bytes of printable text in Unicode's NFC form.",
            param="model",
        )
    return model


def _check_messages(messages: object) -> list[str]:
    """The features that the messages need. Raises InvalidRequest, InvalidValue."""
    if type(messages) is not list or not messages:
        raise InvalidRequest("`messages` must be a list with at least one message.", param="messages")
    if len(messages) > MAX_MESSAGES:
        raise InvalidValue(f"`messages` has {len(messages)} entries; at most {MAX_MESSAGES} are taken.", param="messages")
    needs: list[str] = []
    for message in messages:
        if type(message) is not dict or type(message.get("role")) is not str:
            raise _bad_message(messages.index(message), message)
        content = message.get("content")
        if type(content) is list:
            kinds = [part.get("type") for part in content if type(part) is dict]
            needs += [_PART_NEEDS[kind] for kind in kinds if type(kind) is str and kind in _PART_NEEDS]
    return needs


def _bad_message(index: int, message: object) -> InvalidRequest:
    where = f"messages[{index}]"
    if type(message) is not dict:
        return InvalidRequest(f"`{where}` must be an object with `role` and `content`.", param=where)
    return InvalidRequest(f'`{where}.role` must be a string, such as "user".', param=f"{where}.role")


def _check_integers(body: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        value = body[name]
        # JSON integers of 2^64 and more arrive as floats: not integers any more
        if value is not None and type(value) is not int:
            raise InvalidValue(f"`{name}` must be an integer.", param=name)
        if value is not None and value < 0 and name in _NON_NEGATIVE:
            raise InvalidValue(f"`{name}` must not be negative.", param=name)
    choices = body.get("n")
    if choices is not None and not 1 <= choices <= MAX_CHOICES:
        raise InvalidValue(f"`n` must be between 1 and {MAX_CHOICES}.", param="n")


def _check_tools(tools: object) -> None:
    if tools is not None:
        if type(tools) is not list:
            raise InvalidRequest("`tools` must be a list.", param="tools")
        if len(tools) > MAX_TOOLS:
            raise InvalidValue(f"`tools` has {len(tools)} entries; at most {MAX_TOOLS} are taken.", param="tools")


def _wants_usage(options: object) -> bool:
    if options is None:
        return False
    if type(options) is not dict:
        raise InvalidRequest("`stream_options` must be an object.", param="stream_options")
    return options.get("include_usage") is True


def take_tags(body: dict[str, Any]) -> Tags:
    """Our own entries of `metadata`, removed from what is forwarded. Values that are no short strings are left alone."""
    metadata = body["metadata"]
    if type(metadata) is not dict or not any(name in metadata for name in _TAGS):
        return NO_TAGS
    found = {name: metadata[name] for name in _TAGS if name in metadata and clean_tag(metadata[name]) is not None}
    rest = {key: value for key, value in metadata.items() if key not in found}
    if rest:
        body["metadata"] = rest
    else:
        del body["metadata"]
    return Tags(**{name: clean_tag(value) for name, value in found.items()})


def clean_tag(value: object) -> str | None:
    """A tag as it may stand in a row: short and printable, or None."""
    tag = value.strip() if isinstance(value, str) else ""
    return tag if tag and len(tag) <= MAX_TAG_CHARS and tag.isprintable() else None


def _needs(body: dict[str, Any]) -> list[str]:
    """The features, besides those of the messages, without which a target cannot serve this request (`core.target.FEATURES`)."""
    found: list[str] = []
    _check_tools(body.get("tools"))
    if body.get("tools") or body.get("functions"):
        found.append("tools")
        if body.get("parallel_tool_calls") is True:
            found.append("parallel_tools")
        if body.get("stream") is True:
            found.append("streamed_tools")
    response_format = body.get("response_format")
    if type(response_format) is dict:
        kind = response_format.get("type")
        if kind in ("json_schema", "json_object"):
            found.append(kind)
    if body.get("logprobs") is True or body.get("top_logprobs"):
        found.append("logprobs")
    if (body.get("n") or 1) > 1:
        found.append("n")
    modalities = body.get("modalities")
    if type(modalities) is list:
        found += [_MODALITY_NEEDS[kind] for kind in modalities if type(kind) is str and kind in _MODALITY_NEEDS]
    if body.get("audio"):
        found.append("audio_output")
    return found


_PART_NEEDS = {"image_url": "vision", "input_audio": "audio", "file": "documents", "video_url": "video"}
_MODALITY_NEEDS = {"audio": "audio_output", "image": "image_output"}
