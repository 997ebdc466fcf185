"""A chat request in the words of Anthropic's Messages API. What a model takes of it is in `models.py`.

https://docs.anthropic.com/en/api/messages

    OpenAI                              Anthropic
    messages                            system, messages: see `messages.py`
    max_completion_tokens, max_tokens   max_tokens, which must be there: else the model's most, else DEFAULT_MAX_TOKENS
    stop                                stop_sequences, but for blank ones, which are refused
    temperature                         temperature, at most 1; not where the model thinks or takes none
    top_p                               top_p; not beside temperature from 4.1 on
    tools, functions                    tools; `strict` of models that hold to schemas; Anthropic's own tools as they are
    tool_choice, function_call          auto -> auto, none -> none, required -> any, a function -> tool; allowed_tools -> fewer tools
    parallel_tool_calls                 tool_choice.disable_parallel_tool_use
    response_format json_schema         output_config.format; `name` becomes the schema's title
    reasoning_effort                    thinking: a budget of tokens, or adaptive with output_config.effort; none -> off
    safety_identifier, user             metadata.user_id
    service_tier                        auto -> auto, default -> standard_only

Anthropic's own fields are carried as they are (_NATIVE), `thinking` and `output_config` adapted to the model. Refused (CannotCarry): JSON
mode without a schema, several choices, log-probabilities, audio output, custom tools, a demanded tool call where the model knows none.
Everything else is dropped by name.
"""

from __future__ import annotations

import re
from typing import Any

from proxy.core.chat import ChatRequest
from proxy.core.errors import CannotCarry, InvalidRequest, InvalidValue
from proxy.core.target import Target
from proxy.dialects.anthropic.messages import Conversation
from proxy.dialects.anthropic.models import BUDGETS, UNKNOWN, UNKNOWN_THINKING, Traits, level_within, thinking_for, traits_of
from proxy.dialects.anthropic.schema import Note, NotStrict, strict_schema, tool_schema, without_top_reference
from proxy.dialects.knobs import Knobs
from proxy.dialects.openai_messages import read_turns

DEFAULT_MAX_TOKENS = 4096
MIN_BUDGET = 1024  # the least that may be granted for thinking
MAX_USER_CHARS = 256

# tokens to think with, for each of OpenAI's words
_TOOL_CHOICES = {"auto": "auto", "none": "none", "required": "any"}
_SERVICE_TIERS = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
# a tool of Anthropic's own has the date of its version in its type
_NATIVE_TOOL = re.compile(r"[a-z0-9_]+_20\d{6}")
_NATIVE_TOOL_CHOICES = frozenset(("auto", "any", "tool", "none"))
_NATIVE_OF_TOOLS = ("cache_control", "allowed_callers", "defer_loading", "eager_input_streaming", "input_examples")
_NATIVE = ("cache_control", "container", "diagnostics", "inference_geo", "speed")
# these want a header `anthropic-beta` with such a word in it, which only the operator can configure
_BETA = {"mcp_servers": "mcp-client", "context_management": "context-management"}
# values that ask for nothing, so that nothing is lost when they stay behind
_NEUTRAL: dict[str, Any] = {
    "n": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "store": False,
    "stop": [],
}


def knobs_of(request: ChatRequest, target: Target) -> Knobs:
    """The request's fields, as the target's quirks leave them."""
    quirks = target.quirks
    if not quirks.drop and not quirks.rename:
        return Knobs(request.body)
    fields = dict(request.body)
    for name, better in quirks.rename.items():
        if name in fields:
            value = fields.pop(name)
            if fields.get(better) is None:
                fields[better] = value
    removed = quirks.drop & fields.keys()
    knobs = Knobs({name: value for name, value in fields.items() if name not in removed})
    for name in removed:
        knobs.drop(name)
    return knobs


def body_of(request: ChatRequest, target: Target, knobs: Knobs) -> dict[str, Any]:
    """The body, but for `model`, which some who serve these models want elsewhere. Raises CallerError, CannotCarry."""
    return _Body(request, target, knobs).build()


class _Body:
    """One request body while it is built; each step takes the fields that it is about."""

    def __init__(self, request: ChatRequest, target: Target, knobs: Knobs) -> None:
        self._request = request
        self._target = target
        self._knobs = knobs
        self._traits: Traits = traits_of(target.upstream_model, reasoning=target.reasoning)
        self._body: dict[str, Any] = {}
        self._forced = False
        self._thinks = False

    def build(self) -> dict[str, Any]:
        self._refuse()
        conversation = Conversation(read_turns(self._request.body["messages"], self._knobs), self._target, self._knobs)
        if conversation.prefilled and not self._traits.prefill:
            # "This model does not support assistant message prefill. The conversation must end with a user message."
            last = len(self._request.body["messages"]) - 1
            raise CannotCarry("a conversation that ends with an assistant message", param=f"messages[{last}]")
        body = self._body
        body["max_tokens"] = DEFAULT_MAX_TOKENS
        if conversation.system:
            body["system"] = conversation.system
        body["messages"] = conversation.messages
        self._tools()
        self._answer_format()
        self._thinking(conversation)
        self._sampling()
        self._others()
        if self._request.stream:
            body["stream"] = True
        return body

    def _refuse(self) -> None:
        """Features that the format has no words for. What asks for none of them is done with."""
        take = self._knobs.take
        for name, nothing in _NEUTRAL.items():
            if self._request.body.get(name) == nothing:
                take(name)
        if (take("n") or 1) != 1:
            raise CannotCarry("several choices", param="n")
        if take("logprobs") or take("top_logprobs"):
            raise CannotCarry("log-probabilities", param="logprobs")
        modalities = take("modalities")
        if isinstance(modalities, list) and any(kind != "text" for kind in modalities):
            raise CannotCarry("anything but text as output", param="modalities")

    # tools

    def _tools(self) -> None:
        knobs = self._knobs
        tools, functions = knobs.take("tools"), knobs.take("functions")
        choice, legacy_choice = knobs.take("tool_choice"), knobs.take("function_call")
        parallel = knobs.take("parallel_tool_calls")
        given = [(tool, f"tools[{number}]") for number, tool in enumerate(tools or [])]
        if functions is not None and not isinstance(functions, list):
            raise InvalidRequest("`functions` must be a list.", param="functions")
        if functions and not tools:
            wrapped = [{"type": "function", "function": function} for function in functions]
            given = [(tool, f"functions[{number}]") for number, tool in enumerate(wrapped)]
        elif functions:
            knobs.drop("functions")
        found = [self._tool(tool, where) for tool, where in given]
        if choice is None and legacy_choice is not None:
            choice = {"type": "function", "function": legacy_choice} if isinstance(legacy_choice, dict) else legacy_choice
        if not found:
            # "tool_choice may only be specified while providing tools"
            for name in ("tool_choice", "function_call", "parallel_tool_calls"):
                if self._request.body.get(name) is not None:
                    knobs.drop(name)
            return
        chosen, only = _choice(choice)
        if only is not None:
            found = [tool for tool in found if tool.get("name") in only]
            if not found:
                raise InvalidValue("`tool_choice` allows only tools that are not in `tools`.", param="tool_choice")
        self._body["tools"] = found
        self._forced = chosen is not None and chosen["type"] in ("any", "tool")
        if self._forced and not self._traits.forced_tools:
            raise CannotCarry("a demanded tool call", param="tool_choice" if legacy_choice is None else "function_call")
        if isinstance(parallel, bool):
            chosen = chosen or {"type": "auto"}
            if chosen["type"] != "none":
                chosen.setdefault("disable_parallel_tool_use", not parallel)
        if chosen is not None:
            self._body["tool_choice"] = chosen

    def _tool(self, tool: object, where: str) -> dict[str, Any]:
        kind = tool.get("type", "function") if isinstance(tool, dict) else None
        if not isinstance(tool, dict) or not isinstance(kind, str):
            raise InvalidRequest(f"`{where}` must be an object with a `type`.", param=where)
        if _NATIVE_TOOL.fullmatch(kind) or (kind == "custom" and "input_schema" in tool):
            return tool
        if kind != "function":
            raise CannotCarry(f"tools of type {kind[:40]}", param=where)
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest(f"`{where}.function` must be an object with a `name`.", param=f"{where}.function")
        found: dict[str, Any] = {"name": function["name"]}
        if isinstance(function.get("description"), str) and function["description"]:
            found["description"] = function["description"]
        found["input_schema"] = self._input_schema(function, where, found)
        for own in _NATIVE_OF_TOOLS:
            value = tool.get(own) if tool.get(own) is not None else function.get(own)
            if value is not None:
                found[own] = value
        self._drop_rest("tools[]", tool, ("type", "function", *_NATIVE_OF_TOOLS))
        self._drop_rest("tools[].function", function, ("name", "description", "parameters", "strict", *_NATIVE_OF_TOOLS))
        return found

    def _input_schema(self, function: dict[str, Any], where: str, tool: dict[str, Any]) -> dict[str, Any]:
        """The schema of a function's arguments; marks the tool as strict where that is asked for and can be had."""
        schema = function.get("parameters")
        if schema is None:
            schema = {"type": "object", "properties": {}}
        if not isinstance(schema, dict) or schema.get("type", "object") != "object":
            param = f"{where}.function.parameters"
            raise InvalidValue(f"`{param}` must be the JSON schema of an object.", param=param)
        note = self._noting("tools[].function.parameters")
        schema = without_top_reference(schema)
        if function.get("strict") is True:
            if self._traits.schemas and not schema.keys() & {"anyOf", "oneOf", "allOf", "$ref"}:
                try:
                    narrowed = strict_schema({**schema, "type": "object"}, note)
                    tool["strict"] = True
                    return narrowed
                except NotStrict:
                    pass
            self._knobs.drop("tools[].function.strict")
        return tool_schema(schema, note)

    # the answer

    def _answer_format(self) -> None:
        knobs = self._knobs
        config = knobs.take("output_config")
        if config is not None and not isinstance(config, dict):
            raise InvalidValue("`output_config` must be an object.", param="output_config")
        if config:
            self._body["output_config"] = dict(config)
        wanted = knobs.take("response_format")
        kind = wanted.get("type") if isinstance(wanted, dict) else None
        if wanted is None or kind == "text":
            return
        if not isinstance(wanted, dict):
            raise InvalidValue("`response_format` must be an object.", param="response_format")
        if config and config.get("format"):
            knobs.drop("response_format")
        elif kind == "json_schema":
            schema = self._answer_schema(wanted.get("json_schema"))
            self._body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": schema}
        else:
            raise CannotCarry("JSON mode without a schema", param="response_format")

    def _answer_schema(self, named: object) -> dict[str, Any]:
        param = "response_format.json_schema.schema"
        schema = named.get("schema") if isinstance(named, dict) else None
        if not isinstance(named, dict) or not isinstance(schema, dict):
            raise InvalidValue(f"`{param}` must be a JSON schema.", param=param)
        if not self._traits.schemas:
            raise CannotCarry("an answer that holds to a JSON schema", param="response_format")
        schema = dict(schema)
        if isinstance(named.get("description"), str):
            own = schema.get("description")
            schema["description"] = f"{named['description']} {own}" if isinstance(own, str) and own else named["description"]
        if isinstance(named.get("name"), str) and schema.setdefault("title", named["name"]) != named["name"]:
            self._knobs.drop("response_format.json_schema.name")
        self._drop_rest("response_format.json_schema", named, ("name", "description", "schema", "strict"))
        try:
            return strict_schema(schema, self._noting(param))
        except NotStrict as fault:
            raise CannotCarry(fault.feature, param=param) from None

    # thinking

    def _thinking(self, conversation: Conversation) -> None:
        """`thinking`, `output_config.effort` and `max_tokens`, which must leave room for what is thought.

        A budget goes neither with a demanded call, nor with an answer that is begun, nor into a loop of tool calls that was begun without
        thoughts (by another provider, say): then nothing is thought. Adaptive thinking gives way by itself.
        """
        traits = self._traits
        sources = [name for name in ("reasoning_effort", "thinking") if self._request.body.get(name) is not None]
        effort, asked = self._knobs.take("reasoning_effort"), self._knobs.take("thinking")
        if isinstance(asked, dict):
            config = self._own_thinking(asked)
            if effort is not None:
                self._effort(effort)
        else:
            config = self._thinking_for(effort) if effort is not None else None
            if asked is not None:
                self._knobs.drop("thinking")
        capped = self._cap()
        if config is not None and config.get("type") == "enabled":
            possible = not (self._forced or conversation.prefilled or conversation.mid_loop_without_thoughts)
            if not possible or not self._make_room(config, capped=capped, fixed=isinstance(asked, dict)):
                config = None
                for name in sources:
                    self._knobs.drop(name)
        if config is not None:
            self._body["thinking"] = config
        off = config is not None and config.get("type") in ("disabled", "between_tools")
        self._thinks = (config is not None or traits.unasked) and not off
        if not self._thinks and traits not in (UNKNOWN, UNKNOWN_THINKING):
            conversation.drop_last_thoughts()

    def _thinking_for(self, effort: object) -> dict[str, Any] | None:
        config, level = thinking_for(effort, self._traits)
        if level is not None:
            self._effort(level)
        elif config is None:
            self._knobs.drop("reasoning_effort")
        return config

    def _effort(self, effort: object) -> None:
        """One that the caller set in Anthropic's words stands."""
        level = level_within(effort, self._traits)
        config = self._body.get("output_config", {})
        if level is None or config.get("effort") not in (None, "low" if effort == "minimal" else effort):
            self._knobs.drop("reasoning_effort")
            return
        self._body["output_config"] = {**config, "effort": level}
        if level != effort:
            self._knobs.drop("reasoning_effort")

    def _own_thinking(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        """A `thinking` in Anthropic's words, in the form that this model takes."""
        traits = self._traits
        match asked.get("type"):
            case "enabled" if traits.thinking == "adaptive":
                self._knobs.drop("thinking.budget_tokens")
                return {**{name: value for name, value in asked.items() if name != "budget_tokens"}, "type": "adaptive"}
            case "adaptive" if traits.thinking == "budget":
                self._knobs.drop("thinking.type")
                return {**asked, "type": "enabled", "budget_tokens": BUDGETS["medium"]}
            case "enabled" | "adaptive" if traits.thinking == "none":
                self._knobs.drop("thinking")
                return None
            case "disabled" | "between_tools" as off if off != traits.off:
                self._knobs.drop("thinking")
                return {"type": traits.off} if traits.off is not None else None
        return dict(asked)

    def _cap(self) -> bool:
        """Sets max_tokens; whether the caller did."""
        knobs, most = self._knobs, self._target.max_output
        cap, legacy = knobs.take("max_completion_tokens"), knobs.take("max_tokens")
        name = "max_completion_tokens"
        if cap is None:
            cap, name = legacy, "max_tokens"
        elif legacy not in (None, cap):
            knobs.drop("max_tokens")
        if cap is None:
            self._body["max_tokens"] = most or DEFAULT_MAX_TOKENS
            return False
        if most is not None and cap > most:
            knobs.drop(name)
            cap = most
        self._body["max_tokens"] = cap
        return True

    def _make_room(self, config: dict[str, Any], *, capped: bool, fixed: bool) -> bool:
        """Fits budget and max_tokens to each other: a fifth at least is left for the answer. False when there is too little."""
        budget = config.get("budget_tokens")
        if type(budget) is not int:
            return True  # the upstream judges it
        if not capped and self._target.max_output is None:
            self._body["max_tokens"] = budget + DEFAULT_MAX_TOKENS
            return True
        room = self._body["max_tokens"] * 4 // 5
        if fixed and budget < self._body["max_tokens"]:
            return True
        if room < MIN_BUDGET:
            return False
        if budget > room:
            config["budget_tokens"] = room
            if fixed:
                self._knobs.drop("thinking.budget_tokens")
        return True

    # the rest

    def _sampling(self) -> None:
        traits, body = self._traits, self._body
        temperature, top_p, top_k = (self._number(name) for name in ("temperature", "top_p", "top_k"))
        takes = traits.sampling != "none"
        if temperature is not None:
            clamped = min(max(temperature, 0), 1)
            if takes and not (self._thinks and clamped != 1):
                body["temperature"] = clamped
            if body.get("temperature") != temperature:
                self._knobs.drop("temperature")
        if top_p is not None:
            # beside thoughts only what hardly cuts anything off
            if takes and not (self._thinks and top_p < 0.95) and not (traits.sampling == "one" and "temperature" in body):
                body["top_p"] = top_p
            else:
                self._knobs.drop("top_p")
        if top_k is not None:
            if takes and not self._thinks:
                body["top_k"] = top_k
            else:
                self._knobs.drop("top_k")

    def _others(self) -> None:
        knobs, body = self._knobs, self._body
        stop = knobs.take("stop")
        texts = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
        kept = [text for text in texts if isinstance(text, str) and text.strip()]
        if len(kept) < len(texts) or (stop is not None and not isinstance(stop, str | list)):
            knobs.drop("stop")
        if kept:
            body["stop_sequences"] = kept
        self._user()
        tier = knobs.take("service_tier")
        if isinstance(tier, str) and tier in _SERVICE_TIERS:
            body["service_tier"] = _SERVICE_TIERS[tier]
        elif tier is not None:
            knobs.drop("service_tier")
        for name in _NATIVE:
            value = knobs.take(name)
            if value is not None:
                body[name] = value
        betas = self._target.provider.headers.get("anthropic-beta", "")
        for name, word in _BETA.items():
            if word in betas and (value := knobs.take(name)) is not None:
                body[name] = value

    def _user(self) -> None:
        knobs = self._knobs
        better, user = knobs.take("safety_identifier"), knobs.take("user")
        chosen, name = (better, "safety_identifier") if better is not None else (user, "user")
        if better is not None and user not in (None, better):
            knobs.drop("user")
        if isinstance(chosen, str) and 0 < len(chosen) <= MAX_USER_CHARS:
            self._body["metadata"] = {"user_id": chosen}
        elif chosen is not None:
            knobs.drop(name)

    def _number(self, name: str) -> int | float | None:
        value = self._knobs.take(name)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        raise InvalidValue(f"`{name}` must be a number.", param=name)

    def _noting(self, where: str) -> Note:
        return lambda keyword: self._knobs.drop(f"{where}.{keyword}")

    def _drop_rest(self, where: str, found: dict[str, Any], read: tuple[str, ...]) -> None:
        for name, value in found.items():
            if name not in read and value is not None:
                self._knobs.drop(f"{where}.{name}")


def _choice(choice: object) -> tuple[dict[str, Any] | None, set[str] | None]:
    """Anthropic's tool_choice, and the names of the only tools that may be called, None for all."""
    if choice is None:
        return None, None
    if isinstance(choice, str) and choice in _TOOL_CHOICES:
        return {"type": _TOOL_CHOICES[choice]}, None
    kind = choice.get("type") if isinstance(choice, dict) else None
    if isinstance(choice, dict):
        inner = choice.get(kind) if isinstance(kind, str) else None
        if kind == "function" and isinstance(inner, dict) and isinstance(inner.get("name"), str):
            return {"type": "tool", "name": inner["name"]}, None
        if kind == "allowed_tools" and isinstance(inner, dict) and isinstance(inner.get("tools"), list):
            mode = _TOOL_CHOICES.get(str(inner.get("mode", "auto")), "auto")
            return {"type": mode}, {name for tool in inner["tools"] if (name := _allowed_name(tool)) is not None}
        if kind == "custom":
            raise CannotCarry("custom tools", param="tool_choice")
        if isinstance(kind, str) and kind in _NATIVE_TOOL_CHOICES:
            return dict(choice), None
    raise InvalidValue("`tool_choice` must be none, auto, required or an object that names a function.", param="tool_choice")


def _allowed_name(tool: object) -> str | None:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else tool.get("name") if isinstance(tool, dict) else None
    return name if isinstance(name, str) else None
