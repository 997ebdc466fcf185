"""Gemini's generateContent, the request: an OpenAI chat request in Google's words, for the Gemini API and for Vertex AI.

https://ai.google.dev/api/generate-content
https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference

    OpenAI                                      Gemini
    system and developer messages               systemInstruction, one part each, wherever they stood
    user and tool messages                      contents of role `user`    } neighbours of one role are one content
    assistant messages                          contents of role `model`   }
    tool_calls                                  functionCall {id, name, args}
    tool messages                               functionResponse {id, name, response}, found by the call's id
    reasoning_details of this format            thoughtSignature on the part that it was on, parts of Google's own tools
    image_url, file, input_audio, video_url     inlineData, or fileData for a link
    tools                                       functionDeclarations with parametersJsonSchema; Google's own tools as they are
    tool_choice                                 toolConfig.functionCallingConfig
    response_format                             responseMimeType and responseJsonSchema
    the sampling knobs                          generationConfig
    reasoning_effort                            thinkingConfig
    web_search_options                          the tool googleSearch, where no function is offered
    google, safety_settings, cached_content     Google's own fields, see _GOOGLE_FIELDS

JSON Schema goes out as JSON Schema: the older `parameters` and `responseSchema` take a subset of OpenAPI, without `$ref`, `const` or
lists of types, and are not used. Keywords that Google does not know are ignored there, not refused:
https://ai.google.dev/gemini-api/docs/structured-output#json_schema_support
"""

from __future__ import annotations

import re
from typing import Any

from proxy.core.chat import ChatRequest
from proxy.core.errors import CannotCarry, InvalidRequest, InvalidValue
from proxy.core.target import Target
from proxy.dialects import json_schema
from proxy.dialects.gemini.contents import Service, conversation, model_of
from proxy.dialects.openai_fields import drop_unread, max_output, quirked, stop_list

MAX_STOP_SEQUENCES = 5
_SEED_VALUES = 2**31  # an int32

_SAMPLING = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
# what is outside is brought to the nearest that is inside, and named; penalties must stay below 2
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 2.0),
    "presence_penalty": (-2.0, 1.99),
    "frequency_penalty": (-2.0, 1.99),
}
# https://ai.google.dev/gemini-api/docs/flex-inference; `auto` leaves the choice to Google, as leaving it out does
_TIERS = {"auto": None, "default": "standard", "flex": "flex", "priority": "priority"}

# a caller's fields in Google's own names, in either spelling, within `google` -> where they go; the first two also without `google`
_GOOGLE_FIELDS: dict[str, str | None] = {
    "safetySettings": None,
    "cachedContent": None,
    "imageConfig": "generationConfig",
    "mediaResolution": "generationConfig",
    "responseModalities": "generationConfig",
    "speechConfig": "generationConfig",
    "thinkingConfig": "generationConfig",
}
_TOP_LEVEL = ("safety_settings", "safetySettings", "cached_content", "cachedContent")
_GOOGLE_TOOLS = frozenset(
    """codeExecution computerUse enterpriseWebSearch fileSearch googleMaps googleSearch googleSearchRetrieval retrieval
    urlContext""".split()
)
# https://platform.openai.com/docs/guides/audio: Google's voices are others, and are given by their own names
_OPENAI_VOICES = frozenset("alloy ash ballad coral echo fable nova onyx sage shimmer verse marin cedar".split())

# reasoning_effort -> thinkingLevel and thinkingBudget, as Google's own OpenAI layer translates them
# https://ai.google.dev/gemini-api/docs/openai#thinking
_LEVELS = {
    "none": "MINIMAL",
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "HIGH",
    "max": "HIGH",
}
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
_ONLY_NEARLY = frozenset(("xhigh", "max"))  # more than there is
_THOUGHTLESS = re.compile(r"-(?:image|tts)\b")
_MIN_PRO_BUDGET = 128  # of 2.5 Pro, which always thinks
_MAX_PRO_BUDGET = 32768

_SCHEMA_RULES: tuple[json_schema.Rule, ...] = (
    json_schema.without("$schema", "$comment"),
    json_schema.type_in_lower_case,
    json_schema.nullable_as_type,
    json_schema.const_as_enum,
    json_schema.null_beside_enum,
    json_schema.only_part_of_all,
    json_schema.reference_alone,
    json_schema.limits_included,
)


def encode_body(request: ChatRequest, target: Target, service: Service) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the body, what was dropped). Raises CallerError and CannotCarry."""
    return _Encoder(request, target, service).encode()


class _Encoder:
    """One request on its way out."""

    def __init__(self, request: ChatRequest, target: Target, service: Service) -> None:
        self._messages: list[dict[str, Any]] = request.body["messages"]
        self._knobs = quirked(request.body, target.quirks)
        self._service = service
        self._target = target
        self._model = model_of(target)
        self._strict = False  # a function asks that its schema be kept to

    def encode(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        body = conversation(self._messages, self._knobs, self._target, self._service)
        functions, own_tools = self._tools()
        config = self._sampling() | self._logprobs() | self._modalities() | self._thinking()
        config |= self._response_format(beside_functions=bool(functions))
        own_tools += self._web_search(beside_functions=bool(functions), for_json="responseMimeType" in config)
        functions, tool_config = self._tool_choice(functions)
        if own_tools and functions and self._model.before(3):
            raise CannotCarry("Google's own tools beside functions before Gemini 3", param="tools")
        if own_tools and functions and self._service.shows_tools:
            tool_config["includeServerSideToolInvocations"] = True
        declared = [{"functionDeclarations": functions}] if functions else []
        optional = {"tools": declared + own_tools, "toolConfig": tool_config, "generationConfig": config}
        body |= {name: value for name, value in optional.items() if value}
        self._service_tier(body)
        self._google_fields(body)
        return body, self._knobs.dropped

    # -- tools

    def _tools(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """(function declarations, Google's own tools)."""
        functions: list[dict[str, Any]] = []
        own: list[dict[str, Any]] = []
        tools, legacy = self._knobs.take("tools"), self._knobs.take("functions")
        if legacy and (tools or not isinstance(legacy, list)):
            self._knobs.drop("functions")
        else:
            for number, function in enumerate(legacy or []):
                functions.append(self._function(function, f"functions[{number}]", "functions[]"))
        for number, tool in enumerate(tools or []):
            where = f"tools[{number}]"
            if not isinstance(tool, dict):
                raise InvalidRequest(f"`{where}` must be an object.", param=where)
            kind = tool.get("type")
            if kind is None and tool and all(_camel(name) in _GOOGLE_TOOLS for name in tool):
                own.append({_camel(name): value for name, value in tool.items()})
                continue
            if kind != "function":
                raise CannotCarry(f"tools of type {kind}" if kind else "tools without a type", param=where)
            functions.append(self._function(tool.get("function"), f"{where}.function", "tools[].function"))
            drop_unread(self._knobs, tool, {"type", "function"}, "tools[]")
        return functions, own

    def _function(self, function: object, where: str, generic: str) -> dict[str, Any]:
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest(f"`{where}` must be an object with a `name`.", param=where)
        found: dict[str, Any] = {"name": function["name"]}
        if function.get("description") is not None:
            found["description"] = function["description"]
        parameters = function.get("parameters")
        if isinstance(parameters, dict) and parameters:
            found["parametersJsonSchema"] = self._schema(parameters, f"{generic}.parameters")
        elif parameters:
            raise InvalidRequest(f"`{where}.parameters` must be a JSON Schema, which is an object.", param=f"{where}.parameters")
        self._strict = self._strict or function.get("strict") is True
        drop_unread(self._knobs, function, {"name", "description", "parameters", "strict"}, generic)
        return found

    def _schema(self, schema: dict[str, Any], generic: str) -> dict[str, Any]:
        lost: set[str] = set()

        def without_odd_enums(found: dict[str, Any]) -> dict[str, Any]:
            """Enums are of strings and numbers."""
            values = found.get("enum")
            if isinstance(values, list) and not all(type(value) in (str, int, float) for value in values):
                del found["enum"]
                lost.add("enum")
            return found

        found = json_schema.rewrite(json_schema.modern_definitions(schema), (*_SCHEMA_RULES, without_odd_enums))
        for keyword in lost:
            self._knobs.drop(f"{generic}.{keyword}")
        return found

    def _tool_choice(self, functions: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """(the functions that may be called, toolConfig). https://ai.google.dev/gemini-api/docs/function-calling#function_calling_modes"""
        choice = self._knobs.take("tool_choice")
        name = "tool_choice"
        if choice is None:
            choice, name = self._knobs.take("function_call"), "function_call"
        if self._knobs.take("parallel_tool_calls") is False:
            self._knobs.drop("parallel_tool_calls")
        if not functions:
            if choice not in (None, "auto", "none"):
                self._knobs.drop(name)
            return functions, {}
        mode, names = _mode(choice, name)
        if mode == "AUTO" and names is not None:  # only these, if any
            functions, names = [function for function in functions if function["name"] in names], None
        if self._strict and mode != "ANY":  # which keeps to the schemas anyway
            if mode == "AUTO" and self._service.validated and self._model.since(2.5):
                mode = "VALIDATED"
            else:
                self._knobs.drop("tools[].function.strict")
        if mode == "AUTO":
            return functions, {}
        config: dict[str, Any] = {"mode": mode}
        if names is not None:
            config["allowedFunctionNames"] = names
        return functions, {"functionCallingConfig": config}

    def _web_search(self, *, beside_functions: bool, for_json: bool) -> list[dict[str, Any]]:
        """Not beside functions, with which it would come back as parts of its own, nor, before Gemini 3, for an answer in JSON."""
        options = self._knobs.take("web_search_options")
        if not isinstance(options, dict):
            return []
        if beside_functions or (for_json and self._model.before(3)):
            self._knobs.drop("web_search_options")
            return []
        drop_unread(self._knobs, options, (), "web_search_options")
        return [{"googleSearch": {}}]

    # -- how to generate

    def _sampling(self) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for name, theirs in _SAMPLING.items():
            value = self._knobs.take(name)
            if value is not None:
                config[theirs] = self._within(name, value)
        limit = max_output(self._knobs, self._target)
        if limit is not None:
            config["maxOutputTokens"] = limit
        stop = stop_list(self._knobs)
        if stop:
            config["stopSequences"] = stop[:MAX_STOP_SEQUENCES]
        if len(stop) > MAX_STOP_SEQUENCES:
            self._knobs.drop("stop")
        seed = self._knobs.take("seed")
        if seed is not None:
            config["seed"] = seed if -_SEED_VALUES <= seed < _SEED_VALUES else seed % _SEED_VALUES
            if config["seed"] != seed:
                self._knobs.drop("seed")
        choices = self._knobs.take("n")
        if choices is not None and choices > 1:
            config["candidateCount"] = choices
        return config

    def _within(self, name: str, value: Any) -> Any:
        bounds = _RANGES.get(name)
        if bounds is None or not isinstance(value, int | float) or bounds[0] <= value <= bounds[1]:
            return value
        self._knobs.drop(name)
        return min(max(value, bounds[0]), bounds[1])

    def _logprobs(self) -> dict[str, Any]:
        wanted, top = self._knobs.take("logprobs"), self._knobs.take("top_logprobs")
        if wanted is not True:
            if top:
                self._knobs.drop("top_logprobs")
            return {}
        return {"responseLogprobs": True, "logprobs": top} if top else {"responseLogprobs": True}

    def _modalities(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        modalities, audio = self._knobs.take("modalities"), self._knobs.take("audio")
        if isinstance(modalities, list) and modalities:
            found["responseModalities"] = [str(modality).upper() for modality in modalities]
        if isinstance(audio, dict):
            voice = audio.get("voice")
            if isinstance(voice, str) and voice not in _OPENAI_VOICES:
                found["speechConfig"] = {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": voice}}}
                drop_unread(self._knobs, audio, {"voice"}, "audio")
            else:
                drop_unread(self._knobs, audio, (), "audio")
        return found

    def _thinking(self) -> dict[str, Any]:
        effort = self._knobs.take("reasoning_effort")
        if effort is None:
            return {}
        if (
            not isinstance(effort, str)
            or effort not in _LEVELS
            or not self._model.since(2.5)
            or _THOUGHTLESS.search(self._model.name)
        ):
            self._knobs.drop("reasoning_effort")
            return {}
        if effort in _ONLY_NEARLY:
            self._knobs.drop("reasoning_effort")
        return {"thinkingConfig": self._level(effort) if self._model.since(3) else self._budget(effort)}

    def _budget(self, effort: str) -> dict[str, Any]:
        """https://ai.google.dev/gemini-api/docs/thinking#set-budget"""
        budget = _BUDGETS[effort]
        if "-pro" in self._model.name:
            if effort == "none":
                self._knobs.drop("reasoning_effort")
            budget = _MAX_PRO_BUDGET if effort in _ONLY_NEARLY else max(budget, _MIN_PRO_BUDGET)
        return {"thinkingBudget": budget} if effort == "none" else {"thinkingBudget": budget, "includeThoughts": True}

    def _level(self, effort: str) -> dict[str, Any]:
        """https://ai.google.dev/gemini-api/docs/thinking#levels: none can be told not to think; Flash-Lite and, up to 3.6, Flash can
        do with a minimum, and 3 Pro knows no middle."""
        level, model = _LEVELS[effort], self._model
        if level == "MINIMAL" and not ("flash-lite" in model.name or ("flash" in model.name and model.before(3.7))):
            level = "LOW"
        if level == "MEDIUM" and "-pro" in model.name and model.version == 3:
            level = "HIGH"
        if effort == "none":
            self._knobs.drop("reasoning_effort")
            return {"thinkingLevel": level}
        return {"thinkingLevel": level, "includeThoughts": True}

    def _response_format(self, *, beside_functions: bool) -> dict[str, Any]:
        """https://ai.google.dev/gemini-api/docs/structured-output"""
        wanted = self._knobs.take("response_format")
        if wanted is None:
            return {}
        kind = wanted.get("type") if isinstance(wanted, dict) else None
        if not isinstance(kind, str):
            raise InvalidRequest("`response_format` must be an object with a `type`.", param="response_format")
        if kind == "text":
            return {}
        if kind not in ("json_object", "json_schema"):
            raise CannotCarry(f"a response format of type {kind}", param="response_format")
        if beside_functions and self._model.before(3):
            raise CannotCarry("a response format beside functions before Gemini 3", param="response_format")
        found: dict[str, Any] = {"responseMimeType": "application/json"}
        described = wanted.get("json_schema")
        if kind == "json_object" or not isinstance(described, dict):
            return found
        schema = described.get("schema")
        carried = {"schema", "strict"}  # the schema is kept to in any case
        if isinstance(schema, dict):
            for name, keyword in (("name", "title"), ("description", "description")):
                if described.get(name) and schema.get(keyword, described[name]) == described[name]:
                    schema = {keyword: described[name], **schema}
                    carried.add(name)
            found["responseJsonSchema"] = self._schema(schema, "response_format.json_schema.schema")
        drop_unread(self._knobs, described, carried, "response_format.json_schema")
        return found

    # -- Google's own

    def _service_tier(self, body: dict[str, Any]) -> None:
        tier = self._knobs.take("service_tier")
        if tier is None:
            return
        if not self._service.tiers or not isinstance(tier, str) or tier not in _TIERS:
            self._knobs.drop("service_tier")
        elif _TIERS[tier] is not None:
            body["serviceTier"] = _TIERS[tier]

    def _google_fields(self, body: dict[str, Any]) -> None:
        """The caller's own words for Google; they go before what was made of OpenAI's."""
        own = self._knobs.take("google")
        fields = [(f"google.{name}", name, value) for name, value in own.items()] if isinstance(own, dict) else []
        fields += [(name, name, self._knobs.take(name)) for name in _TOP_LEVEL]
        for dropped_as, name, value in fields:
            if value is None:
                continue
            theirs = _camel(name)
            if theirs not in _GOOGLE_FIELDS:
                self._knobs.drop(dropped_as)
                continue
            place = _GOOGLE_FIELDS[theirs]
            inside = body if place is None else body.setdefault(place, {})
            if theirs == "thinkingConfig" and theirs in inside:
                self._knobs.drop("reasoning_effort")
            inside[theirs] = value
        if own is not None and not isinstance(own, dict):
            self._knobs.drop("google")


def _mode(choice: object, name: str) -> tuple[str, list[str] | None]:
    """(mode, the functions that it is about). Four forms, the retired `function_call` and the newer `allowed_tools`."""
    match choice:
        case None | "auto":
            return "AUTO", None
        case "none":
            return "NONE", None
        case "required":
            return "ANY", None
        case {"type": "function", "function": {"name": str(called)}} | {"type": "function", "name": str(called)}:
            return "ANY", [called]
        case {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}:
            names = [(tool.get("function") or tool).get("name") for tool in tools if isinstance(tool, dict)]
            return "ANY" if mode == "required" else "AUTO", [found for found in names if isinstance(found, str)]
        case {"name": str(called)}:
            return "ANY", [called]
        case {"type": str(kind)}:
            raise CannotCarry(f"a tool choice of type {kind}", param=name)
    raise InvalidValue(f"`{name}` must be none, auto, required or name a function.", param=name)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join([word[:1].upper() + word[1:] for word in rest])
