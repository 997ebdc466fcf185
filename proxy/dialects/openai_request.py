"""OpenAI chat completions, the caller's side: a body is checked here once, and what is wrong is said with its `param`.

https://platform.openai.com/docs/api-reference/chat/create
Checked is what the proxy itself relies on and what would harm it: shape, size, depth, numbers that JSON can write and integers cannot hold.
Everything else is the upstream's to judge, unknown fields included.
"""

from __future__ import annotations

import unicodedata
from typing import Any

import orjson

from proxy.core.chat import ChatRequest, Tags
from proxy.core.errors import InvalidJson, InvalidRequest, InvalidValue, ModelNotFound, ProxyError

MAX_DEPTH = 64
MAX_MESSAGES = 4096
MAX_TOOLS = 512
MAX_CHOICES = 16
MAX_MODEL_BYTES = 256
MAX_TAG_CHARS = 128

# fields that other gateways obey: here they have no effect and go no further, so that a caller can never choose whom we call
FORBIDDEN = frozenset(
    "api_base base_url api_key api_version endpoint azure_endpoint custom_host url proxy headers extra_headers extra_query extra_body"
    " user_config".split()
)
_INTEGERS = frozenset(("max_tokens", "max_completion_tokens", "n", "seed", "top_logprobs"))
_NON_NEGATIVE = frozenset(("max_tokens", "max_completion_tokens", "top_logprobs"))
_TAGS = ("department", "agent", "task", "task_id")
_NO_NEEDS: frozenset[str] = frozenset()


class OpenAIChatInbound:
    """Implements `InboundDialect`."""

    name = "openai"

    def decode_request(self, body: bytes) -> ChatRequest:
        parsed = parse_object(body)
        model = checked_model(parsed.get("model"))
        _check_messages(parsed.get("messages"))
        _check_numbers(parsed)
        stream = _boolean(parsed, "stream")
        if not FORBIDDEN.isdisjoint(parsed):
            parsed = {key: value for key, value in parsed.items() if key not in FORBIDDEN}
        tags = _take_tags(parsed) if "metadata" in parsed else Tags()
        return ChatRequest(
            dialect="openai",
            body=parsed,
            model=model,
            stream=stream,
            include_usage=stream and _wants_usage(parsed.get("stream_options")),
            body_bytes=len(body),
            max_output_tokens=parsed.get("max_completion_tokens") or parsed.get("max_tokens"),
            choices=parsed.get("n") or 1,
            needs=_needs(parsed),
            tags=tags,
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
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and too_deep(parsed, MAX_DEPTH):
        raise InvalidJson(f"The body is nested more than {MAX_DEPTH} levels deep.")
    return parsed


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
        raise InvalidRequest("`model` is missing: name a chain, or a model as provider/name.", param="model")
    if model.isascii() and model.isprintable() and len(model) <= MAX_MODEL_BYTES:
        return model
    if len(model.encode()) > MAX_MODEL_BYTES or not model.isprintable() or unicodedata.normalize("NFC", model) != model:
        raise ModelNotFound(
            f"There is no such model: names are at most {MAX_MODEL_BYTES} bytes of printable text in Unicode's NFC form.",
            param="model",
        )
    return model


def _check_messages(messages: object) -> None:
    if type(messages) is not list or not messages:
        raise InvalidRequest("`messages` must be a list with at least one message.", param="messages")
    if len(messages) > MAX_MESSAGES:
        raise InvalidValue(f"`messages` has {len(messages)} entries; at most {MAX_MESSAGES} are taken.", param="messages")
    for index, message in enumerate(messages):
        if type(message) is not dict:
            raise InvalidRequest(f"`messages[{index}]` must be an object with `role` and `content`.", param=f"messages[{index}]")
        if type(message.get("role")) is not str:
            raise InvalidRequest(f'`messages[{index}].role` must be a string, such as "user".', param=f"messages[{index}].role")


def _check_numbers(body: dict[str, Any]) -> None:
    for name in _INTEGERS & body.keys():
        value = body[name]
        # JSON integers of 2^64 and more arrive as floats: not integers any more
        if value is not None and type(value) is not int:
            raise InvalidValue(f"`{name}` must be an integer.", param=name)
        if value is not None and value < 0 and name in _NON_NEGATIVE:
            raise InvalidValue(f"`{name}` must not be negative.", param=name)
    choices = body.get("n")
    if choices is not None and not 1 <= choices <= MAX_CHOICES:
        raise InvalidValue(f"`n` must be between 1 and {MAX_CHOICES}.", param="n")
    tools = body.get("tools")
    if tools is not None:
        if type(tools) is not list:
            raise InvalidRequest("`tools` must be a list.", param="tools")
        if len(tools) > MAX_TOOLS:
            raise InvalidValue(f"`tools` has {len(tools)} entries; at most {MAX_TOOLS} are taken.", param="tools")


def _boolean(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is None or type(value) is bool:
        return bool(value)
    raise InvalidValue(f"`{name}` must be true or false.", param=name)


def _wants_usage(options: object) -> bool:
    if options is None:
        return False
    if type(options) is not dict:
        raise InvalidRequest("`stream_options` must be an object.", param="stream_options")
    return options.get("include_usage") is True


def _take_tags(body: dict[str, Any]) -> Tags:
    """Our own entries of `metadata`, removed from what is forwarded. Values that are no short strings are left alone."""
    metadata = body["metadata"]
    if type(metadata) is not dict or not any(name in metadata for name in _TAGS):
        return Tags()
    found = {name: metadata[name] for name in _TAGS if name in metadata and clean_tag(metadata[name]) is not None}
    rest = {key: value for key, value in metadata.items() if key not in found}
    if rest:
        body["metadata"] = rest
    else:
        del body["metadata"]
    return Tags(**{name: clean_tag(value) for name, value in found.items()})


def clean_tag(value: object) -> str | None:
    """A tag as it may stand in a row: short and printable, or None."""
    if isinstance(value, str) and value and len(value) <= MAX_TAG_CHARS and value.isprintable():
        return value
    return None


def _needs(body: dict[str, Any]) -> frozenset[str]:
    """The features without which a target cannot serve this request (the words of `capabilities`)."""
    found: list[str] = []
    if body.get("tools") or body.get("functions"):
        found.append("tools")
        if body.get("parallel_tool_calls") is True:
            found.append("parallel_tools")
    response_format = body.get("response_format")
    if type(response_format) is dict:
        kind = response_format.get("type")
        if kind in ("json_schema", "json_object"):
            found.append(kind)
    if body.get("logprobs") is True or body.get("top_logprobs"):
        found.append("logprobs")
    if (body.get("n") or 1) > 1:
        found.append("n")
    for message in body["messages"]:
        content = message.get("content")
        if type(content) is list:
            kinds = [part.get("type") for part in content if type(part) is dict]
            found += [_PART_NEEDS[kind] for kind in kinds if type(kind) is str and kind in _PART_NEEDS]
    return frozenset(found) if found else _NO_NEEDS


_PART_NEEDS = {"image_url": "vision", "input_audio": "audio"}
