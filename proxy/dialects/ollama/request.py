"""Ollama's /api/chat, what is asked: an OpenAI request in Ollama's words.

https://github.com/ollama/ollama/blob/main/docs/api.md#generate-a-chat-completion and api/types.go there: what the server does not know
it ignores without a word, so that nothing may be sent which is not in this table.

    OpenAI                                      Ollama
    text parts                                  content, one string; paragraphs of their own where a person wrote them
    images as data URLs                         images, bare base64 beside the content
    tool_calls, arguments as text               tool_calls, arguments as an object
    tool                                        tool, with tool_name and tool_call_id
    reasoning_content                           thinking
    tools                                       tools, with $ref resolved: the server keeps none of a property
    tool_choice none                            no tools; a call cannot be demanded
    response_format                             format: "json", or the schema
    max_completion_tokens, max_tokens           options.num_predict
    temperature, top_p, top_k, min_p, seed,
    stop, both penalties, repetition_penalty    options
    reasoning_effort                            think: true or false; low, medium or high for gpt-oss

Ollama's own fields (options, keep_alive, think, format, truncate, shift) are carried as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from proxy.core.chat import ChatRequest, MediaPart, TextPart, Turn
from proxy.core.errors import CannotCarry, InvalidRequest
from proxy.core.target import Target
from proxy.dialects.base import OutboundRequest
from proxy.dialects.knobs import Knobs
from proxy.dialects.openai_fields import (
    cannot_carry_part,
    drop_cache_marks,
    drop_unread,
    max_output,
    number,
    plain_thoughts,
    quirked,
    refuse_rare_features,
    stop_list,
    tools_and_choice,
)
from proxy.dialects.openai_messages import read_turns

PATH = "/api/chat"
MAX_RESOLVED_SCHEMAS = 2000  # of one tool; what refers to itself, or is larger, keeps its $ref

_OPTIONS: dict[str, str] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repeat_penalty",
    "repeat_penalty": "repeat_penalty",
    "num_ctx": "num_ctx",
}
_OWN = ("keep_alive", "truncate", "shift")
# gpt-oss thinks at one of three levels, and always; other models are only told whether to
_LEVELS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high", "none": "low"}
_EXACT_LEVELS = frozenset(("low", "medium", "high"))


def encode(request: ChatRequest, target: Target) -> OutboundRequest:
    """Raises CallerError, CannotCarry."""
    knobs = quirked(request.body, target.quirks)
    refuse_rare_features(knobs)
    body: dict[str, Any] = {
        "model": target.upstream_model,
        "messages": [_message(turn, knobs) for turn in read_turns(request.body["messages"], knobs, thoughts=True)],
        "stream": request.stream,  # absent means true
    }
    tools = _tools(knobs)
    if tools:
        body["tools"] = tools
    _put_format(body, knobs)
    options = _options(knobs, target)
    if options:
        body["options"] = options
    _put_think(body, knobs, target)
    if knobs.take("logprobs") is True:
        body["logprobs"] = True
    top_logprobs = knobs.take("top_logprobs")
    if top_logprobs:
        body["top_logprobs"] = top_logprobs
    for name in _OWN:
        value = knobs.take(name)
        if value is not None:
            body[name] = value
    return OutboundRequest(PATH, orjson.dumps(body), knobs.dropped)


# -- messages


def _message(turn: Turn, knobs: Knobs) -> dict[str, Any]:
    drop_cache_marks(turn, knobs)
    texts: list[str] = []
    images: list[str] = []
    for position, part in enumerate(turn.parts):
        if isinstance(part, TextPart):
            texts.append(part.text)
        elif isinstance(part, MediaPart) and part.kind == "image":
            if part.data is None:
                raise CannotCarry("remote images", param=f"{turn.where}.content[{position}]")
            if part.detail is not None:
                knobs.drop("messages[].content[].image_url.detail")
            images.append(part.data)
        else:
            raise cannot_carry_part(part, f"{turn.where}.content[{position}]")
    # as the server itself joins messages of one role; what a model or a tool wrote is one text, however it was cut
    message: dict[str, Any] = {
        "role": turn.role,
        "content": ("\n\n" if turn.role in ("system", "user") else "").join(texts),
    }
    if images:
        message["images"] = images
    if turn.role == "assistant":
        thoughts = plain_thoughts(turn, knobs)
        if thoughts:
            message["thinking"] = thoughts
        if turn.calls:
            message["tool_calls"] = [
                {"id": call.id, "function": {"name": call.name, "arguments": call.arguments}} for call in turn.calls
            ]
    elif turn.role == "tool":
        if turn.name is not None:
            message["tool_name"] = turn.name
        message["tool_call_id"] = turn.call_id
    return message


# -- tools


def _tools(knobs: Knobs) -> list[dict[str, Any]]:
    tools, choice, field = tools_and_choice(knobs)
    if knobs.take("parallel_tool_calls") is False:
        knobs.drop("parallel_tool_calls")
    if choice == "none":
        return []
    if choice == "required":
        knobs.drop(field)  # of a choice that names tools, the others are left out all the same
    if any(tool.strict for tool in tools):
        knobs.drop("tools[].function.strict")
    found = []
    for tool in tools:
        if tool.parameters is not None:
            tool.parameters = _resolved(tool.parameters)
        found.append(tool.as_object())
    return found


def _resolved(parameters: dict[str, Any]) -> dict[str, Any]:
    """The schema with what its `$ref`s stand for in their places."""
    places = [name for name in ("$defs", "definitions") if isinstance(parameters.get(name), dict)]
    definitions = {f"#/{place}/{name}": schema for place in places for name, schema in parameters[place].items()}
    if not definitions:
        return parameters
    resolver = _Resolver(definitions)
    found: dict[str, Any] = resolver.resolve({name: value for name, value in parameters.items() if name not in places}, ())
    if resolver.left_some:
        found |= {place: parameters[place] for place in places}
    return found


class _Resolver:
    def __init__(self, definitions: dict[str, Any]) -> None:
        self._definitions = definitions
        self._left = MAX_RESOLVED_SCHEMAS
        self.left_some = False

    def resolve(self, schema: Any, within: Sequence[str]) -> Any:
        """`within`: the references that this stands inside of."""
        if isinstance(schema, list):
            return [self.resolve(item, within) for item in schema]
        if not isinstance(schema, dict):
            return schema
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return {name: self.resolve(value, within) for name, value in schema.items()}
        definition = self._definitions.get(reference)
        if not isinstance(definition, dict) or reference in within or self._left <= 0:
            self.left_some = True
            return schema
        self._left -= 1
        found: dict[str, Any] = self.resolve(definition, (*within, reference))
        return found | {name: self.resolve(value, within) for name, value in schema.items() if name != "$ref"}


# -- the format of the answer, options, thinking


def _put_format(body: dict[str, Any], knobs: Knobs) -> None:
    given, own = knobs.take("response_format"), knobs.take("format")
    asked = _format(given, knobs) if given is not None else None
    if asked is not None and own:
        knobs.drop("format")
    elif own:
        asked = own
    if asked is not None:
        body["format"] = asked


def _format(found: Any, knobs: Knobs) -> Any:
    if not isinstance(found, dict):
        raise InvalidRequest("`response_format` must be an object.", param="response_format")
    kind = found.get("type")
    match kind:
        case "text":
            return None
        case "json_object":
            drop_unread(knobs, found, {"type", "schema"}, "response_format")
            return found.get("schema") or "json"
        case "json_schema":
            named = found.get("json_schema")
            if not isinstance(named, dict):
                raise InvalidRequest("`response_format.json_schema` must be an object.", param="response_format.json_schema")
            drop_unread(knobs, found, {"type", "json_schema"}, "response_format")
            # the name is a label; the answer is always held to the schema, as `strict` asks
            drop_unread(knobs, named, {"name", "schema", "strict"}, "response_format.json_schema")
            return named.get("schema") or "json"
        case _:
            raise CannotCarry(f"a response_format of type {kind!r}", param="response_format")


def _options(knobs: Knobs, target: Target) -> dict[str, Any]:
    own = knobs.take("options")
    if own is not None and not isinstance(own, dict):
        raise InvalidRequest("`options` must be an object.", param="options")
    found: dict[str, Any] = {}
    for name, option in _OPTIONS.items():
        value = number(knobs, name)
        if value is not None and option in found:
            knobs.drop(name)
        elif value is not None:
            found[option] = value
    stop = stop_list(knobs)
    if stop:
        found["stop"] = stop
    limit = max_output(knobs, target)
    if limit is not None:
        found["num_predict"] = limit
    for name, value in (own or {}).items():
        if name in found and found[name] != value:
            knobs.drop(f"options.{name}")  # it was asked for in OpenAI's words too
        else:
            found[name] = value
    return found


def _put_think(body: dict[str, Any], knobs: Knobs, target: Target) -> None:
    """A model that cannot think refuses `think: true`, so only one that is known to is told so; all of them take false."""
    own, effort = knobs.take("think"), knobs.take("reasoning_effort")
    if own is not None:
        body["think"] = own
        if effort is not None:
            knobs.drop("reasoning_effort")
        return
    if effort is None:
        return
    if not isinstance(effort, str) or effort not in _LEVELS:
        knobs.drop("reasoning_effort")
    elif "gpt-oss" in target.upstream_model:
        body["think"] = _LEVELS[effort]
        if effort not in _EXACT_LEVELS:
            knobs.drop("reasoning_effort")
    elif effort == "none":
        body["think"] = False
    else:
        if target.reasoning:
            body["think"] = True
        knobs.drop("reasoning_effort")  # at least its degree
