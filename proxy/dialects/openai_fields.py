"""The fields of an OpenAI request that the simpler formats read alike: tools and which of them may be called, limits, what nearly no other
format has. https://platform.openai.com/docs/api-reference/chat/create

    tool_choice                                              of these tools    mode
    absent, auto                                             all               auto
    none                                                     all               none
    required                                                 all               required
    {type: function, function: {name}}                       that one          required
    {type: allowed_tools, allowed_tools: {mode, tools}}      those             auto or required
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from proxy.core.chat import MediaPart, OtherPart, Part, Turn
from proxy.core.errors import CannotCarry, InvalidRequest, InvalidValue
from proxy.core.target import Quirks, Target
from proxy.dialects.knobs import Knobs
from proxy.dialects.openai_messages import says_something

_MEDIA = {"image": "images", "audio": "audio input", "file": "files", "video": "videos"}


@dataclass(slots=True)
class FunctionTool:
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool

    def as_object(self) -> dict[str, Any]:
        """As OpenAI has it, but that parameters are always there and `strict` never is."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        function["parameters"] = self.parameters or {"type": "object", "properties": {}}
        return {"type": "function", "function": function}


ChoiceMode = Literal["auto", "none", "required"]


def quirked(body: Mapping[str, Any], quirks: Quirks) -> Knobs:
    """The fields of a request, renamed and left out as the provider's data says."""
    fields = dict(body)
    dropped = set()
    for name, better in quirks.rename.items():
        if fields.get(name) is not None:
            if fields.get(better) is None:
                fields[better] = fields[name]
            else:
                dropped.add(name)
            del fields[name]
    dropped |= {name for name in quirks.drop if fields.pop(name, None) is not None}
    knobs = Knobs(fields)
    for name in dropped:
        knobs.drop(name)
    return knobs


def refuse_rare_features(knobs: Knobs) -> None:
    """Raises CannotCarry for several choices and for answers that are not text."""
    if (knobs.take("n") or 1) > 1:
        raise CannotCarry("n > 1", param="n")
    modalities = knobs.take("modalities")
    if modalities is not None and modalities != ["text"]:
        raise CannotCarry("answers that are not text", param="modalities")
    if knobs.take("audio") is not None:
        raise CannotCarry("audio output", param="audio")


def tools_and_choice(knobs: Knobs) -> tuple[list[FunctionTool], ChoiceMode, str]:
    """The tools that may be called, whether they must, and the field that says so. The retired `functions` are tools.

    Raises CallerError, and CannotCarry for tools that are not functions.
    """
    given, functions = knobs.take("tools"), knobs.take("functions")
    choice, old_choice = knobs.take("tool_choice"), knobs.take("function_call")
    field = "tool_choice"
    if given:
        tools = [_function_tool(tool, f"tools[{position}]", knobs) for position, tool in enumerate(given)]
        if functions:
            knobs.drop("functions")
        if old_choice is not None:
            knobs.drop("function_call")
    elif functions:
        if not isinstance(functions, list):
            raise InvalidRequest("`functions` must be a list.", param="functions")
        tools = [
            _function(function, f"functions[{position}]", "functions[]", knobs) for position, function in enumerate(functions)
        ]
        if choice is not None and old_choice is not None:
            knobs.drop("function_call")
        elif old_choice is not None:
            field = "function_call"
            choice = {"type": "function", "function": old_choice} if isinstance(old_choice, dict) else old_choice
    else:
        for name in ("tool_choice", "function_call"):
            if knobs.take(name) is not None:
                knobs.drop(name)  # of nothing
        return [], "auto", field
    mode, names = _choice(choice)
    if names is not None:
        unknown = set(names) - {tool.name for tool in tools}
        if unknown:
            raise InvalidValue(f"`{field}` names {min(unknown)!r}, which is not in `tools`.", param=field)
        tools = [tool for tool in tools if tool.name in names]
    return tools, mode, field


def _choice(choice: Any) -> tuple[ChoiceMode, list[str] | None]:
    match choice:
        case None | "auto":
            return "auto", None
        case "none" | "required":
            return choice, None
        case {"type": "function", "function": {"name": str(name)}}:
            return "required", [name]
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": [*allowed]}}:
            return mode, [_allowed_name(tool) for tool in allowed]
        case {"type": "custom"}:
            raise CannotCarry("custom tools", param="tool_choice")
        case _:
            raise InvalidValue("`tool_choice` must be none, auto, required, or an object that names tools.", param="tool_choice")


def _allowed_name(tool: Any) -> str:
    match tool:
        case {"type": "function", "function": {"name": str(name)}}:
            return name
        case _:
            raise CannotCarry("tools that are not functions", param="tool_choice")


def _function_tool(tool: Any, where: str, knobs: Knobs) -> FunctionTool:
    if not isinstance(tool, dict):
        raise InvalidRequest(f"`{where}` must be an object.", param=where)
    kind = tool.get("type", "function")
    if kind != "function":
        raise CannotCarry(f"tools of type {kind!r}", param=where)
    drop_unread(knobs, tool, {"type", "function"}, "tools[]")
    return _function(tool.get("function"), f"{where}.function", "tools[].function", knobs)


def _function(function: Any, where: str, name: str, knobs: Knobs) -> FunctionTool:
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"`{where}` must be an object with a `name`.", param=where)
    parameters, description = function.get("parameters"), function.get("description")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidRequest(f"`{where}.parameters` must be a JSON schema.", param=where)
    drop_unread(knobs, function, {"name", "description", "parameters", "strict"}, name)
    return FunctionTool(
        function["name"],
        description if isinstance(description, str) else None,
        parameters,
        function.get("strict") is True,
    )


def max_output(knobs: Knobs, target: Target) -> int | None:
    """How much may be written, no more than the model can."""
    name = "max_completion_tokens"
    asked, older = knobs.take(name), knobs.take("max_tokens")
    if asked is None:
        name, asked = "max_tokens", older
    elif older is not None and older != asked:
        knobs.drop("max_tokens")
    if asked is None:
        return None
    limit = target.max_output
    if limit is not None and asked > limit:
        knobs.drop(name)
        return limit
    return int(asked)


def stop_list(knobs: Knobs) -> list[str]:
    stop = knobs.take("stop")
    found = [stop] if isinstance(stop, str) else stop
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise InvalidValue("`stop` must be a string or a list of strings.", param="stop")
    return list(found)


def number(knobs: Knobs, name: str) -> float | None:
    """Raises InvalidValue for what is no number."""
    value = knobs.take(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValue(f"`{name}` must be a number.", param=name)
    return value


def plain_thoughts(turn: Turn, knobs: Knobs) -> str | None:
    """What the model thought, where it is text that nobody sealed; sealed thoughts are another format's, and so is their text."""
    if turn.reasoning:
        knobs.drop("messages[].reasoning_details")
        return None
    return turn.thoughts


def drop_cache_marks(turn: Turn, knobs: Knobs) -> None:
    """What is cached is not the caller's to say here."""
    if turn.cache_control is not None:
        knobs.drop("messages[].cache_control")
    if any(not isinstance(part, OtherPart) and part.cache_control is not None for part in turn.parts):
        knobs.drop("messages[].content[].cache_control")


def drop_unread(knobs: Knobs, found: Mapping[str, Any], read: Iterable[str], where: str) -> None:
    for name in found.keys() - set(read):
        if says_something(found[name]):
            knobs.drop(f"{where}.{name}")


def cannot_carry_part(part: Part, where: str, place: str = "") -> CannotCarry:
    """`place` completes "cannot carry images …"."""
    if isinstance(part, MediaPart):
        feature = _MEDIA[part.kind]
    else:
        feature = f"content of type {part.type!r}" if isinstance(part, OtherPart) else "text"
    return CannotCarry(f"{feature} {place}".rstrip(), param=where)


def made_call_id(seed: str, position: int, name: str) -> str:
    """An id for a call that came without one: the same every time, and another in every answer. `seed` is the answer's own."""
    told = f"{seed}\0{position}\0{name}".encode("utf-8", "replace")
    return f"call_{hashlib.blake2s(told, digest_size=6).hexdigest()}"
