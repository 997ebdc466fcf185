"""Cohere v2 chat, what is asked: an OpenAI request in Cohere's words.

https://docs.cohere.com/v2/reference/chat

    OpenAI                                  Cohere
    system, developer                       one system message in front: a later one is "system turn must be the first in the list"
    user: text, image_url with detail       content parts, as they are
    assistant: text beside tool calls       tool_plan, which is where such text came from; without calls: content
    assistant: reasoning_content            content [{type: thinking}]
    tool                                    tool, with its tool_call_id; parts of type `document` stay documents
    tools                                   tools; strict_tools if every one is strict and can be (it is one switch for all)
    tool_choice required | none             REQUIRED | NONE; auto is its absence
    tool_choice of one function             REQUIRED with that tool alone; allowed_tools likewise
    response_format                         {type: json_object, json_schema}, never beside tools or documents
    max_completion_tokens, max_tokens       max_tokens
    stop, top_p, top_k                      stop_sequences (5), p (0.01 to 0.99), k (0 to 500)
    temperature, both penalties             0 to 1, and only one of the penalties
    reasoning_effort                        thinking, of a model that reasons

What else Cohere has (documents, citation_options, safety_mode, priority, thinking …) is carried under its own name. An unknown field
is a 422 there, so nothing is passed on unread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from proxy.core.chat import ChatRequest, MediaPart, OtherPart, TextPart, Turn
from proxy.core.errors import CannotCarry, InvalidRequest
from proxy.core.target import Target
from proxy.dialects.base import OutboundRequest
from proxy.dialects.cohere.schema import adapted, is_whole
from proxy.dialects.knobs import Knobs
from proxy.dialects.openai_fields import (
    FunctionTool,
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

PATH = "/v2/chat"
MAX_STOP_SEQUENCES = 5
MAX_STRICT_FIELDS = 200  # in all tools of one call, with strict_tools

# carried as they are, under their own names
_OWN = ("documents", "citation_options", "safety_mode", "priority", "strict_tools", "stop_sequences", "p", "k")
_RANGES: dict[str, tuple[str, float, float]] = {
    "temperature": ("temperature", 0.0, 1.0),
    "top_p": ("p", 0.01, 0.99),
    "top_k": ("k", 0, 500),
}
_PENALTIES = ("frequency_penalty", "presence_penalty")
_CHOICES = {"required": "REQUIRED", "none": "NONE"}
# tokens that a model may think; None: as many as it likes, which is what Cohere recommends
_BUDGETS: dict[str, int | None] = {"minimal": 512, "low": 2048, "medium": 8192, "high": None, "xhigh": None, "max": None}


def encode(request: ChatRequest, target: Target) -> OutboundRequest:
    """Raises CallerError, CannotCarry."""
    knobs = quirked(request.body, target.quirks)
    refuse_rare_features(knobs)
    body: dict[str, Any] = {"model": target.upstream_model, "messages": [], "stream": request.stream}
    body["messages"] = _messages(read_turns(request.body["messages"], knobs, thoughts=True), knobs)
    _put_tools_and_format(body, knobs)
    max_tokens = max_output(knobs, target)
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    _put_sampling(body, knobs)
    _put_thinking(body, knobs, target, max_tokens)
    for name in _OWN:
        value = knobs.take(name)
        if value is not None and name in body:
            knobs.drop(name)  # it was asked for in OpenAI's words too
        elif value is not None:
            body[name] = value
    if "documents" in body and "response_format" in body:
        raise CannotCarry("response_format beside documents", param="response_format")
    return OutboundRequest(PATH, orjson.dumps(body), knobs.dropped)


# -- messages


def _messages(turns: Sequence[Turn], knobs: Knobs) -> list[dict[str, Any]]:
    system: list[str] = []
    found: list[dict[str, Any]] = []
    for turn in turns:
        drop_cache_marks(turn, knobs)
        match turn.role:
            case "system":
                _only_text(turn, "in system messages")
                system.append(turn.text)
            case "user":
                found.append({"role": "user", "content": _user_content(turn)})
            case "assistant":
                found.append(_assistant(turn, plain_thoughts(turn, knobs)))
            case "tool":
                found.append({"role": "tool", "tool_call_id": turn.call_id, "content": _tool_content(turn)})
    if system:
        content: Any = system[0] if len(system) == 1 else [{"type": "text", "text": text} for text in system]
        found.insert(0, {"role": "system", "content": content})
    return found


def _user_content(turn: Turn) -> str | list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for position, part in enumerate(turn.parts):
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": part.text})
        elif isinstance(part, MediaPart) and part.kind == "image" and (part.url or part.data):
            url = part.url or f"data:{part.media_type or 'application/octet-stream'};base64,{part.data}"
            detail = {"detail": part.detail} if part.detail is not None else {}
            parts.append({"type": "image_url", "image_url": {"url": url, **detail}})
        else:
            raise cannot_carry_part(part, f"{turn.where}.content[{position}]")
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts or ""


def _assistant(turn: Turn, thoughts: str | None) -> dict[str, Any]:
    _only_text(turn, "in assistant messages")
    message: dict[str, Any] = {"role": "assistant"}
    text = turn.text
    if turn.calls:
        if text:
            message["tool_plan"] = text
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.text}} for call in turn.calls
        ]
        text = ""
    if thoughts:
        message["content"] = [{"type": "thinking", "thinking": thoughts}, *([{"type": "text", "text": text}] if text else [])]
    elif text or not turn.calls:
        message["content"] = text
    return message


def _tool_content(turn: Turn) -> str | list[dict[str, Any]]:
    if not any(isinstance(part, OtherPart) and part.type == "document" for part in turn.parts):
        _only_text(turn, "in tool results")
        return turn.text
    found: list[dict[str, Any]] = []
    for position, part in enumerate(turn.parts):
        if isinstance(part, TextPart):
            found.append({"type": "text", "text": part.text})
        elif isinstance(part, OtherPart) and part.type == "document":
            found.append(part.raw)
        else:
            raise cannot_carry_part(part, f"{turn.where}.content[{position}]", "in tool results")
    return found


def _only_text(turn: Turn, where: str) -> None:
    for position, part in enumerate(turn.parts):
        if not isinstance(part, TextPart):
            raise cannot_carry_part(part, f"{turn.where}.content[{position}]", where)


# -- tools and the format of the answer


def _put_tools_and_format(body: dict[str, Any], knobs: Knobs) -> None:
    tools, choice, _ = tools_and_choice(knobs)
    format_ = _response_format(knobs)
    if format_ is not None:
        if tools and choice != "none":
            raise CannotCarry("response_format beside tools", param="response_format")
        tools = []  # none of them is to be called
        body["response_format"] = format_
    if knobs.take("parallel_tool_calls") is False:
        knobs.drop("parallel_tool_calls")
    if not tools:
        return
    body["tools"] = [tool.as_object() for tool in tools]
    if any(tool.strict for tool in tools):
        if _can_be_strict(tools):
            body["strict_tools"] = True
        else:
            knobs.drop("tools[].function.strict")
    if choice in _CHOICES:
        body["tool_choice"] = _CHOICES[choice]


def _can_be_strict(tools: Sequence[FunctionTool]) -> bool:
    """All ask for it, each has a parameter that is required, the schemas are within the subset, and they are not too many."""
    schemas = [tool.parameters for tool in tools if tool.strict and tool.parameters]
    if len(schemas) < len(tools) or not all(schema.get("required") and is_whole(schema) for schema in schemas):
        return False
    return sum(map(_field_count, schemas)) <= MAX_STRICT_FIELDS


def _field_count(schema: object) -> int:
    if isinstance(schema, list):
        return sum(map(_field_count, schema))
    if not isinstance(schema, dict):
        return 0
    properties = schema.get("properties")
    own = len(properties) if isinstance(properties, dict) else 0
    return own + sum(map(_field_count, schema.values()))


def _response_format(knobs: Knobs) -> dict[str, Any] | None:
    found = knobs.take("response_format")
    if found is None:
        return None
    if not isinstance(found, dict):
        raise InvalidRequest("`response_format` must be an object.", param="response_format")
    match found.get("type"):
        case "text":
            return None
        case "json_object":
            schema = found.get("schema") or found.get("json_schema")
            read = {"type", "schema", "json_schema"}
        case "json_schema":
            named = found.get("json_schema")
            if not isinstance(named, dict):
                raise InvalidRequest("`response_format.json_schema` must be an object.", param="response_format.json_schema")
            schema = named.get("schema")
            read = {"type", "json_schema"}
            # the name is a label; the schema is always kept to, as `strict` asks
            drop_unread(knobs, named, {"name", "schema", "strict"}, "response_format.json_schema")
        case kind:
            raise CannotCarry(f"a response_format of type {kind!r}", param="response_format")
    drop_unread(knobs, found, read, "response_format")
    if schema is None:
        return {"type": "json_object"}
    if not isinstance(schema, dict):
        raise InvalidRequest("The schema in `response_format` must be an object.", param="response_format")
    kept, lost = adapted(schema)
    for keyword in sorted(lost):
        knobs.drop(f"response_format.json_schema.schema.{keyword}")
    return {"type": "json_object", "json_schema": kept}


# -- numbers


def _put_sampling(body: dict[str, Any], knobs: Knobs) -> None:
    for name, (theirs, low, high) in _RANGES.items():
        value = number(knobs, name)
        if value is not None:
            body[theirs] = _clamped(knobs, name, value, low, high)
    _put_penalty(body, knobs)
    seed = number(knobs, "seed")
    if seed is not None:
        if seed >= 0:
            body["seed"] = seed
        else:
            knobs.drop("seed")
    stop = stop_list(knobs)
    if stop:
        if len(stop) > MAX_STOP_SEQUENCES:
            knobs.drop("stop")
        body["stop_sequences"] = stop[:MAX_STOP_SEQUENCES]
    if knobs.take("logprobs") is True:
        body["logprobs"] = True
    if knobs.take("top_logprobs"):
        knobs.drop("top_logprobs")  # only the tokens that were chosen have one here


def _put_penalty(body: dict[str, Any], knobs: Knobs) -> None:
    """One at most: "cannot specify both frequency_penalty and presence_penalty". One of 0 says nothing beside another."""
    values = {name: number(knobs, name) for name in _PENALTIES}
    kept = {name: _clamped(knobs, name, value, 0.0, 1.0) for name, value in values.items() if value is not None}
    chosen = [name for name, value in kept.items() if value] or list(kept)
    if chosen:
        body[chosen[0]] = kept[chosen[0]]
    for name in chosen[1:]:
        if kept[name]:
            knobs.drop(name)


def _clamped(knobs: Knobs, name: str, value: float, low: float, high: float) -> float:
    kept = min(max(value, low), high)
    if kept != value:
        knobs.drop(name)
    return kept


def _put_thinking(body: dict[str, Any], knobs: Knobs, target: Target, max_tokens: int | None) -> None:
    """https://docs.cohere.com/docs/reasoning: a model that reasons does so unless told otherwise, with or without a budget."""
    given, effort = knobs.take("thinking"), knobs.take("reasoning_effort")
    if isinstance(given, dict) and given.get("type") in ("enabled", "disabled"):
        budget = given.get("token_budget", given.get("budget_tokens"))  # Anthropic's word for the same
        drop_unread(knobs, given, {"type", "token_budget", "budget_tokens"}, "thinking")
        body["thinking"] = {"type": given["type"], **({"token_budget": budget} if budget is not None else {})}
        if effort is not None:
            knobs.drop("reasoning_effort")
        return
    if given is not None:
        knobs.drop("thinking")
    if effort is None:
        return
    if not target.reasoning or not isinstance(effort, str) or (effort != "none" and effort not in _BUDGETS):
        knobs.drop("reasoning_effort")
    elif effort == "none":
        body["thinking"] = {"type": "disabled"}
    else:
        budget = _BUDGETS[effort]
        if budget is not None and max_tokens is not None:
            budget = max(1, min(budget, max_tokens // 2))  # thoughts count as output: the answer needs some of it
        body["thinking"] = {"type": "enabled", **({"token_budget": budget} if budget is not None else {})}
