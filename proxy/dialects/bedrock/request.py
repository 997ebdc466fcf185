"""A chat request in the words of Amazon Bedrock's Converse. What a model takes of it is in `models.py`.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html

    OpenAI                              Converse
    model                               in the path, percent-encoded: it may be an ARN
    messages                            system, messages: see `messages.py`
    max_completion_tokens, max_tokens   inferenceConfig.maxTokens
    temperature, top_p                  inferenceConfig, at most 1; of Claude what its models take
    stop                                inferenceConfig.stopSequences
    tools                               toolConfig.tools[].toolSpec; `strict` where schemas are held to; systemTool as it is
    tool_choice                         toolConfig.toolChoice: required -> any, a function -> tool; allowed_tools -> fewer tools
      none                              no toolConfig. A conversation in which tools were called must have one: then the tools are there,
                                        and `tool_choice` is dropped
    parallel_tool_calls false           Claude from 4.5 on: additionalModelRequestFields.tool_choice, which then is the only tool choice
    response_format json_schema         outputConfig.textFormat, in the subset that Bedrock takes, which is Anthropic's
    reasoning_effort                    additionalModelRequestFields, by family; of newer Claude models outputConfig.effort
    thinking                            Claude: additionalModelRequestFields.thinking, in the form that the model takes
    top_k, seed, penalties              additionalModelRequestFields, where the family has a name for them
    service_tier                        serviceTier.type
    metadata                            requestMetadata, where all of it may be there
    Converse's own fields               as they are: _NATIVE

Tools that were called earlier and are not offered any more are declared by their names, since Bedrock refuses calls without a toolConfig
("The toolConfig field must be defined when using toolUse and toolResult content blocks").
Refused (CannotCarry): JSON mode without a schema, several choices, log-probabilities, audio output, tools that are not functions, a
demanded tool call where the model knows none, links other than s3. Everything else is dropped by name.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import orjson

from proxy.core.chat import ChatRequest
from proxy.core.errors import CannotCarry, InvalidRequest, InvalidValue
from proxy.core.target import Target
from proxy.dialects.anthropic.models import Traits, traits_of
from proxy.dialects.anthropic.schema import NotStrict, strict_schema, tool_schema
from proxy.dialects.base import OutboundRequest
from proxy.dialects.bedrock.messages import Conversation, cache_point
from proxy.dialects.bedrock.models import family_of, holds_to_schemas
from proxy.dialects.bedrock.reasoning import Reasoning, read_reasoning
from proxy.dialects.knobs import Knobs
from proxy.dialects.openai_fields import (
    ChoiceMode,
    FunctionTool,
    drop_unread,
    max_output,
    number,
    quirked,
    refuse_rare_features,
    stop_list,
    tools_and_choice,
)
from proxy.dialects.openai_messages import read_turns

MAX_METADATA = 16

_SERVICE_TIERS = frozenset(("default", "flex", "priority", "reserved"))
_METADATA_TEXT = re.compile(r"[a-zA-Z0-9\s:_@$#=/+,\-.]{0,256}")
_NATIVE: dict[str, type] = {
    "additionalModelResponseFieldPaths": list,
    "guardrailConfig": dict,
    "performanceConfig": dict,
    "promptVariables": dict,
}
# values that ask for nothing, so that nothing is lost when they stay behind
_NEUTRAL: dict[str, Any] = {
    "frequency_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "response_format": {"type": "text"},
    "service_tier": "auto",
    "store": False,
    "top_logprobs": 0,
}


def encode(request: ChatRequest, target: Target) -> OutboundRequest:
    """Raises CallerError, CannotCarry."""
    knobs = quirked(request.body, target.quirks)
    body = _Body(request, target, knobs).build()
    path = f"{_model_path(target.upstream_model)}/{'converse-stream' if request.stream else 'converse'}"
    return OutboundRequest(path, _dumped(body), knobs.dropped)


@lru_cache(maxsize=1024)
def _model_path(model: str) -> str:
    return f"/model/{quote(model, safe='')}"


class _Body:
    """One request body while it is built; each step takes the fields that it is about."""

    def __init__(self, request: ChatRequest, target: Target, knobs: Knobs) -> None:
        self._request = request
        self._target = target
        self._knobs = knobs
        self._family = family_of(target.upstream_model)
        self._traits: Traits | None = traits_of(target.upstream_model) if self._family.name == "claude" else None
        self._schemas = holds_to_schemas(target.upstream_model)
        self._body: dict[str, Any] = {}
        self._inference: dict[str, Any] = {}
        self._additional: dict[str, Any] = {}
        given = knobs.take("additionalModelRequestFields")
        self._given: dict[str, Any] = given if isinstance(given, dict) else {}  # by the caller, who knows Converse
        if given is not None and not isinstance(given, dict):
            knobs.drop("additionalModelRequestFields")
        self._forced = False

    def build(self) -> dict[str, Any]:
        self._refuse()
        conversation = Conversation(read_turns(self._request.body["messages"], self._knobs), self._target, self._knobs)
        if conversation.prefilled and self._traits is not None and not self._traits.prefill:
            # "This model does not support assistant message prefill. The conversation must end with a user message."
            last = len(self._request.body["messages"]) - 1
            raise CannotCarry("a conversation that ends with an assistant message", param=f"messages[{last}]")
        body = self._body
        body["messages"] = conversation.messages
        if conversation.system:
            body["system"] = conversation.system
        self._tools(conversation)
        self._answer_format()
        self._reasoning(conversation)
        self._others()
        if self._inference:
            body["inferenceConfig"] = self._inference
        if self._additional or self._given:
            body["additionalModelRequestFields"] = {**self._additional, **self._given}
        return body

    def _refuse(self) -> None:
        """Features that the format has no words for. What asks for none of them is done with."""
        take = self._knobs.take
        refuse_rare_features(self._knobs)
        if take("logprobs") or take("top_logprobs"):
            raise CannotCarry("log-probabilities", param="logprobs")
        body = self._request.body
        for name in body.keys() & _NEUTRAL.keys():
            if body[name] == _NEUTRAL[name]:
                take(name)

    # tools

    def _tools(self, conversation: Conversation) -> None:
        knobs = self._knobs
        tools, mode, named, field = self._offered()
        parallel = knobs.take("parallel_tool_calls")
        blocks = self._tool_blocks(tools)
        offered = bool(blocks)
        if mode == "none" and offered:
            if not conversation.has_tool_blocks:
                for name in ("tools", "functions"):
                    if knobs.take(name):
                        knobs.drop(name)
                return
            knobs.drop(field)
        elif not offered and conversation.has_tool_blocks:
            blocks = [_declared(name) for name in conversation.called or ("unknown",)]
        if blocks:
            self._body["toolConfig"] = {"tools": blocks}
        if parallel is False and (mode == "none" or not offered):
            parallel = None  # nothing is called: nothing is called at once
        if offered and mode != "none":
            self._choose(named, field, forced=mode == "required", serial=parallel is False)

    def _offered(self) -> tuple[list[FunctionTool], ChoiceMode, str | None, str]:
        """The functions, whether they must be called, the one that must be, and the field that says so."""
        knobs = self._knobs
        fields = {name: knobs.take(name) for name in ("tools", "functions", "tool_choice", "function_call")}
        named = None
        if fields["tools"] or fields["functions"]:
            old = {"type": "function", "function": fields["function_call"]}
            named = _named_function(fields["tool_choice"] if fields["tool_choice"] is not None else old)
        if isinstance(fields["tools"], list):
            fields["tools"] = [_without_mark(tool) for tool in fields["tools"] if not _is_system_tool(tool)]
        # read as everywhere, but that the marks are not lost here, and that the others stay beside one that must be called
        chosen = {name: None if named is not None else fields[name] for name in ("tool_choice", "function_call")}
        reading = Knobs({**fields, **chosen})
        tools, mode, field = tools_and_choice(reading)
        for name in reading.dropped:
            knobs.drop(name)
        if named is None:
            return tools, mode, None, field
        field = "tool_choice" if fields["tool_choice"] is not None else "function_call"
        if all(tool.name != named for tool in tools):
            raise InvalidValue(f"`{field}` names {named!r}, which is not in `tools`.", param=field)
        if "tool" in self._family.choices:
            return tools, "required", named, field
        return [tool for tool in tools if tool.name == named], "required", None, field  # the same in other words

    def _choose(self, named: str | None, field: str, *, forced: bool, serial: bool) -> None:
        """`serial`: no more than one call at a time."""
        self._forced = forced
        if forced and not (self._family.choices and (self._traits is None or self._traits.forced_tools)):
            raise CannotCarry("a demanded tool call", param=field)
        if serial and self._traits is not None and self._traits.schemas:
            # "The additional field tool_choice/type conflicts with the existing field toolConfig.toolChoice.auto"
            kind = {"type": "tool", "name": named} if named is not None else {"type": "any" if forced else "auto"}
            self._additional["tool_choice"] = {**kind, "disable_parallel_tool_use": True}
            return
        if serial:
            self._knobs.drop("parallel_tool_calls")
        if named is not None:
            self._body["toolConfig"]["toolChoice"] = {"tool": {"name": named}}
        elif forced:
            self._body["toolConfig"]["toolChoice"] = {"any": {}}

    def _tool_blocks(self, tools: list[FunctionTool]) -> list[dict[str, Any]]:
        given = self._knobs.take("tools") or []
        blocks: list[dict[str, Any]] = [{"systemTool": tool["systemTool"]} for tool in given if _is_system_tool(tool)]
        marks = {tool["function"]["name"]: tool.get("cache_control") for tool in given if not _is_system_tool(tool)}
        for tool in tools:
            blocks.append({"toolSpec": self._tool_spec(tool)})
            mark = marks.get(tool.name)
            if isinstance(mark, dict) and mark:
                if "tools" in self._family.cached:
                    blocks.append(cache_point(mark))
                else:
                    self._knobs.drop("tools[].cache_control")
        return blocks

    def _tool_spec(self, tool: FunctionTool) -> dict[str, Any]:
        spec: dict[str, Any] = {"name": tool.name}
        if tool.description and not tool.description.isspace():
            spec["description"] = tool.description
        schema = tool.parameters if tool.parameters is not None else {"type": "object", "properties": {}}
        if schema.get("type", "object") != "object":
            raise InvalidValue(f"The parameters of {tool.name!r} must be the JSON schema of an object.", param="tools")
        if tool.strict:
            if self._schemas and not any(name in schema for name in ("anyOf", "oneOf", "allOf")):
                try:
                    narrowed = strict_schema({"properties": {}, **schema, "type": "object"}, self._noting(_PARAMETERS))
                    return {**spec, "inputSchema": {"json": narrowed}, "strict": True}
                except NotStrict:
                    pass
            self._knobs.drop("tools[].function.strict")
        return {**spec, "inputSchema": {"json": tool_schema(schema, self._noting(_PARAMETERS))}}

    # the answer

    def _answer_format(self) -> None:
        wanted = self._knobs.take("response_format")
        kind = wanted.get("type") if isinstance(wanted, dict) else None
        if wanted is None or kind == "text":
            return
        if kind != "json_schema":
            raise CannotCarry("JSON mode without a schema", param="response_format")
        param = "response_format.json_schema.schema"
        said = wanted.get("json_schema")
        schema = said.get("schema") if isinstance(said, dict) else None
        if not isinstance(said, dict) or not isinstance(schema, dict):
            raise InvalidValue(f"`{param}` must be a JSON schema.", param=param)
        if not self._schemas:
            raise CannotCarry("an answer that holds to a JSON schema", param="response_format")
        # with `strict` and without it: the answer is held to the schema
        drop_unread(self._knobs, said, {"name", "description", "schema", "strict"}, "response_format.json_schema")
        try:
            narrowed = strict_schema(schema, self._noting(param))
        except NotStrict as fault:
            raise CannotCarry(fault.feature, param=param) from None
        definition = {"schema": _dumped(narrowed).decode()}
        definition |= {name: said[name] for name in ("name", "description") if isinstance(said.get(name), str) and said[name]}
        text_format = {"type": "json_schema", "structure": {"jsonSchema": definition}}
        self._body.setdefault("outputConfig", {})["textFormat"] = text_format

    # the rest

    def _reasoning(self, conversation: Conversation) -> None:
        limit = max_output(self._knobs, self._target)
        if limit is not None:
            self._inference["maxTokens"] = limit
        found = read_reasoning(
            self._knobs, self._target, given=self._given, max_tokens=limit, forced=self._forced, conversation=conversation
        )
        if found.effort is not None:
            self._body.setdefault("outputConfig", {})["effort"] = found.effort
        self._additional |= found.fields
        self._sampling(found)

    def _sampling(self, reasoning: Reasoning) -> None:
        for name, theirs in (("temperature", "temperature"), ("top_p", "topP")):
            asked = number(self._knobs, name)
            if asked is None:
                continue
            value = min(max(asked, 0), 1)
            if self._takes(name, value, reasoning):
                self._inference[theirs] = value
            if self._inference.get(theirs) != asked:
                self._knobs.drop(name)
        for name, path in self._family.fields.items():
            wanted = number(self._knobs, name)
            if wanted is None or _NEUTRAL.get(name) == wanted:
                continue
            if name == "top_k" and (reasoning.thinks or (self._traits is not None and self._traits.sampling == "none")):
                self._knobs.drop(name)
                continue
            place = self._additional
            for step in path[:-1]:
                place = place.setdefault(step, {})
            place[path[-1]] = wanted

    def _takes(self, name: str, value: float, reasoning: Reasoning) -> bool:
        """Whether the model takes this of temperature and top_p beside what is there already."""
        traits = self._traits
        if traits is None:
            return reasoning.samples
        if traits.sampling == "none":
            return False
        if reasoning.thinks and value < (1 if name == "temperature" else 0.95):
            return False
        return not (name == "top_p" and traits.sampling == "one" and "temperature" in self._inference)

    def _others(self) -> None:
        knobs, body = self._knobs, self._body
        stop = stop_list(knobs)
        kept = [text for text in stop if text.strip()] if self._traits is not None else [text for text in stop if text]
        if len(kept) < len(stop):
            knobs.drop("stop")  # "each stop sequence must contain non-whitespace"
        if kept:
            self._inference["stopSequences"] = kept
        tier = knobs.take("service_tier")
        if isinstance(tier, str) and tier in _SERVICE_TIERS:
            body["serviceTier"] = {"type": tier}
        elif tier not in (None, "auto"):
            knobs.drop("service_tier")
        self._request_metadata()
        for name, kind in _NATIVE.items():
            value = knobs.take(name)
            if isinstance(value, kind):
                body[name] = value
            elif value is not None:
                knobs.drop(name)
        guardrail = body.get("guardrailConfig", {})
        if not self._request.stream and "streamProcessingMode" in guardrail:
            body["guardrailConfig"] = {key: value for key, value in guardrail.items() if key != "streamProcessingMode"}
            knobs.drop("guardrailConfig.streamProcessingMode")

    def _request_metadata(self) -> None:
        found: dict[str, str] = {}
        for name in ("metadata", "requestMetadata"):
            value = self._knobs.take(name)
            if value is None or value == {}:
                continue
            if isinstance(value, dict) and len(found | value) <= MAX_METADATA and all(map(_may_be_metadata, value.items())):
                found |= value
            else:
                self._knobs.drop(name)
        if found:
            self._body["requestMetadata"] = found

    def _noting(self, where: str) -> Any:
        return lambda keyword: self._knobs.drop(f"{where}.{keyword}")


_PARAMETERS = "tools[].function.parameters"


def _named_function(choice: Any) -> str | None:
    """Of a choice that names one."""
    match choice:
        case {"type": "function", "function": {"name": str(name)}}:
            return name
    return None


def _is_system_tool(tool: Any) -> bool:
    """A tool that the model's maker runs, in Converse's words."""
    return isinstance(tool, dict) and isinstance(tool.get("systemTool"), dict)


def _without_mark(tool: Any) -> Any:
    if not isinstance(tool, dict) or "cache_control" not in tool:
        return tool
    return {name: value for name, value in tool.items() if name != "cache_control"}


def _declared(name: str) -> dict[str, Any]:
    """A tool of which only the name is known."""
    return {"toolSpec": {"name": name, "inputSchema": {"json": {"type": "object"}}}}


def _may_be_metadata(item: tuple[Any, Any]) -> bool:
    return item[0] != "" and all(isinstance(text, str) and _METADATA_TEXT.fullmatch(text) for text in item)


def _dumped(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except (TypeError, ValueError) as error:  # deeper than orjson writes, or text that is not Unicode
        raise InvalidRequest("The request is nested too deeply, or holds text that is not Unicode.") from error
