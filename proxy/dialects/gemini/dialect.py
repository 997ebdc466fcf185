"""Gemini's generateContent and streamGenerateContent?alt=sse, the answers: on the Gemini API, and the same on Vertex AI.

https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse

    answer    = {candidates: candidate*, promptFeedback?, usageMetadata, modelVersion, responseId}
    candidate = {index, content: {parts: part*}?, finishReason?, groundingMetadata?, logprobsResult?, …}
    part      = {text} | {text, thought: true} | {functionCall} | {inlineData} | …      each perhaps with a thoughtSignature
    stream    = answer+         as server-sent events with CRLF; parts add up, usageMetadata and groundingMetadata replace the earlier

A stream has no end mark: after the chunk with the finish reason another may bring usage or grounding, so only the end of the bytes ends it.
A call comes whole (see calls.py) and mostly without an id; the finish reason says STOP with calls as without; no content at all is
an answer too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard
from urllib.parse import quote

import orjson

from proxy.core.chat import ChatRequest
from proxy.core.errors import ErrorClass, InvalidRequest, UpstreamError
from proxy.core.events import (
    Annotation,
    Event,
    Extra,
    Finished,
    FinishReason,
    ImageDelta,
    LogprobsDelta,
    ReasoningDetail,
    Started,
    StreamFailed,
    TextDelta,
    ThinkingDelta,
    ToolArgsDelta,
    ToolCallEnded,
    ToolCallStarted,
    UsageReported,
)
from proxy.core.target import Target
from proxy.core.usage import Usage
from proxy.dialects.base import OutboundRequest
from proxy.dialects.gemini.calls import OpenCall
from proxy.dialects.gemini.citations import citations
from proxy.dialects.gemini.contents import FORMAT, GEMINI_API
from proxy.dialects.gemini.errors import decode_error, error_from_object
from proxy.dialects.gemini.request import encode_body
from proxy.dialects.native import NativeDialect, SseDecoder
from proxy.dialects.openai_fields import made_call_id
from proxy.wire.sse import SseSplitter

MAX_CHOICES = 64
MAX_KEPT_CHARS = 1024 * 1024  # of a choice's text, to find in it what a citation points at
MAX_TOKENS = 100_000_000  # no request has ever had more: beyond it a figure is noise

# https://ai.google.dev/api/generate-content#FinishReason, with Vertex AI's own; the rest, and what is yet to come, is `stop`
_FINISH: dict[str, FinishReason] = {
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "PUP_LIMITED_DISABLED": "content_filter",
}
# as numbers, where somebody asked for enum-encoding=int: those that both services number alike
_FINISH_NUMBERS = {1: "STOP", 2: "MAX_TOKENS", 3: "SAFETY", 4: "RECITATION", 5: "OTHER"}
_AUDIO = ("AUDIO", 4)

_USUAL = frozenset(("content", "index"))  # of a candidate: what most chunks have, and no more
# what is shown as it is; the latest holds, for streams repeat it
_CANDIDATE_EXTRAS = {
    "groundingMetadata": "grounding_metadata",
    "citationMetadata": "citation_metadata",
    "urlContextMetadata": "url_context_metadata",
    "safetyRatings": "safety_ratings",
    "avgLogprobs": "avg_logprobs",
}
_USAGE_EXTRAS = {"serviceTier": "service_tier", "trafficType": "traffic_type"}
# parts of Google's own tools: they must come back as they were, and what nobody would see otherwise is shown besides
_OWN_TOOL_PARTS: dict[str, str | None] = {
    "toolCall": None,
    "toolResponse": None,
    "executableCode": "executable_code",
    "codeExecutionResult": "code_execution_result",
}


class Gemini(NativeDialect):
    """The Gemini API. https://ai.google.dev/gemini-api/docs"""

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        body, dropped = encode_body(request, target, GEMINI_API)
        return OutboundRequest(f"/v1beta/{_resource(target.upstream_model)}:{method(request)}", written(body), dropped)

    def decode_response(self, answer: dict[str, Any], target: Target) -> list[Event]:
        return decode_whole(answer)

    def decoder(self, request: ChatRequest, target: Target) -> GeminiDecoder:
        return GeminiDecoder(request.id)

    def decode_error(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> UpstreamError:
        return decode_error(status, body)


def method(request: ChatRequest) -> str:
    """Without alt=sse a stream would be a JSON array."""
    return "streamGenerateContent?alt=sse" if request.stream else "generateContent"


def written(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # arguments are JSON within JSON: only here do they add to the depth
        raise InvalidRequest("A tool call's arguments are nested too deeply.", param="messages") from None


def _resource(model: str) -> str:
    """`models/x`, or `tunedModels/x` where it is written so."""
    collection, slash, name = model.partition("/")
    if not slash or collection not in ("models", "tunedModels"):
        collection, name = "models", model
    return f"{collection}/{quote(name, safe='')}"


def decode_whole(answer: dict[str, Any]) -> list[Event]:
    """Raises UpstreamError."""
    told = [answer.get("responseId"), answer.get("createTime")]
    usage = answer.get("usageMetadata")
    if isinstance(usage, dict):  # where neither is told: a prompt that has grown is another one
        told.append(str(usage.get("promptTokenCount")))
    reading = _Reading("\0".join([name for name in told if isinstance(name, str)]))
    events = reading.read(answer)
    if events and isinstance(events[-1], StreamFailed):
        raise events[-1].error
    return events + reading.end()


class GeminiDecoder(SseDecoder):
    """`salt` makes the ids of calls that come without one differ from those of other answers."""

    def __init__(self, salt: str) -> None:
        super().__init__()
        self._splitter = _Splitter()
        self._reading = _Reading(salt)
        self._closed = False

    def close(self) -> list[Event]:
        events = super().close()
        if self._over() or self._closed:
            return events
        self._closed = True
        return events + self._reading.end()

    def usage_so_far(self) -> Usage | None:
        return self._reading.usage()

    def _decode(self, event: dict[str, Any]) -> list[Event]:
        return self._reading.read(event)


class _Splitter(SseSplitter):
    """Events that end in CRLF CRLF are cut at a look when they come whole, as nearly all do.

    An error in mid-stream can come as bare JSON, in an array or not: it is given the name of a field, so that it is read. Google's own
    SDK looks out for the same: https://github.com/googleapis/python-genai, `_iter_response_stream`.
    """

    __slots__ = ()

    def feed(self, data: bytes) -> list[bytes]:
        whole = self.between_events and data.endswith(b"\r\n\r\n") and len(data) <= self.max_event_bytes
        events = data[:-4].split(b"\r\n\r\n") if whole else []
        lines = b"".join(events)
        if not whole or b"\r" in lines or b"\n" in lines:  # there is a line end besides
            events = super().feed(data)
        return [_named(event) if event[:1] in b"{[" else event for event in events if event]


def _named(event: bytes) -> bytes:
    return b"data: " + event.replace(b"\n", b" ").strip(b"[], ")


class _Choice:
    """What has been read of one candidate."""

    __slots__ = ("call_ids", "chars", "extras", "index", "native", "open_call", "texts")

    def __init__(self, index: int) -> None:
        self.index = index
        self.chars = 0  # of text so far
        self.texts: list[str] = []
        self.call_ids: list[str] = []
        self.open_call: OpenCall | None = None
        self.native: object = None  # the finish reason
        self.extras: dict[str, Any] = {}

    def text(self, text: str) -> list[Event]:
        if not text:
            return []
        self.chars += len(text)
        if self.chars <= MAX_KEPT_CHARS:
            self.texts.append(text)
        return [TextDelta(text, self.index)]

    def held(self) -> list[Event]:
        """What may be told more than once, of which the latest holds."""
        found: list[Event] = []
        grounding = self.extras.get("grounding_metadata")
        if isinstance(grounding, dict):
            found += [Annotation(annotation, self.index) for annotation in citations(grounding, "".join(self.texts))]
        return found + [Extra(name, value, self.index) for name, value in self.extras.items()]

    def finished(self) -> Finished:
        native = _FINISH_NUMBERS.get(self.native, str(self.native)) if type(self.native) is int else str(self.native)
        reason = _FINISH.get(native, "stop")
        return Finished("tool_calls" if self.call_ids and reason == "stop" else reason, native, self.index)


class _Reading:
    """One answer on its way in: `read` takes each object of it, of which a whole answer is one, and `end` tells what was held back."""

    __slots__ = ("_choices", "_extras", "_salt", "_started", "_usage")

    def __init__(self, salt: str) -> None:
        self._salt = salt
        self._choices: dict[int, _Choice] = {}
        self._extras: dict[str, Any] = {}  # of the whole answer
        self._usage: Any = None
        self._started = False

    def read(self, answer: dict[str, Any]) -> list[Event]:
        try:
            # by far the most chunks are one more piece of a candidate's text, and the usage so far
            (candidate,) = answer["candidates"]
            (part,) = candidate["content"]["parts"]
            text, usage = part["text"], answer["usageMetadata"]
            index = candidate.get("index", 0)
            choice = self._choices[index]
            if (
                type(text) is str
                and type(index) is int
                and type(usage) is dict
                and len(part) == 1
                and (len(candidate) == 1 or (len(candidate) == 2 and "index" in candidate))
                and "error" not in answer
                and "promptFeedback" not in answer
            ):
                self._usage = usage
                return choice.text(text)
        except (AttributeError, KeyError, TypeError, ValueError):
            pass  # something else, which is looked at closely
        out: list[Event] = []
        try:
            self._read(answer, out)
        except UpstreamError as error:
            out.append(StreamFailed(error))
        return out

    def _read(self, answer: dict[str, Any], out: list[Event]) -> None:
        if answer.get("error"):
            raise error_from_object(answer)
        if not self._started:
            self._started = True
            model = answer.get("modelVersion")
            out.append(Started(model if isinstance(model, str) else None))
        candidates = answer.get("candidates")
        if type(candidates) is list:
            for position, candidate in enumerate(candidates):
                if type(candidate) is dict:
                    self._read_candidate(candidate, position, out)
        feedback = answer.get("promptFeedback")
        if feedback and isinstance(feedback, dict):
            self._extras["prompt_feedback"] = feedback
        usage = answer.get("usageMetadata")
        if type(usage) is dict:  # with every chunk, cumulative: the last one counts, and is read when it is asked for
            self._usage = usage

    def usage(self) -> Usage | None:
        return read_usage(self._usage) if self._usage is not None else None

    def end(self) -> list[Event]:
        usage = self.usage()
        return [*([UsageReported(usage)] if usage is not None else []), *self._end()]

    def _end(self) -> list[Event]:
        feedback = self._extras.get("prompt_feedback")
        reason = feedback.get("blockReason") if isinstance(feedback, dict) else None
        if reason and not self._choices:  # the prompt was not even read
            return [*self._whole_extras(0), Finished("content_filter", str(reason))]
        choices = [self._choices[index] for index in sorted(self._choices)]
        out = self._whole_extras(choices[0].index) if choices else []
        for choice in choices:
            out += choice.held()
        return out + [choice.finished() for choice in choices if choice.native is not None]

    def _whole_extras(self, index: int) -> list[Event]:
        """What is said of the whole answer is shown with its first choice."""
        usage = self._usage if isinstance(self._usage, dict) else {}
        shown = self._extras | {name: usage[theirs] for theirs, name in _USAGE_EXTRAS.items() if usage.get(theirs)}
        return [Extra(name, value, index) for name, value in shown.items()]

    def _read_candidate(self, candidate: dict[str, Any], position: int, out: list[Event]) -> None:
        index = candidate.get("index")  # 0 is left out
        if type(index) is not int or not 0 <= index < MAX_CHOICES:
            index = min(position, MAX_CHOICES - 1)
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice(index)
        content = candidate.get("content")
        parts = content.get("parts") if type(content) is dict else None
        if type(parts) is list:
            for part in parts:
                if type(part) is not dict:
                    continue
                text = part.get("text")
                if type(text) is str and len(part) == 1:  # nearly all
                    out += choice.text(text)
                else:
                    self._read_part(part, choice, out)
        if not candidate.keys() <= _USUAL:
            self._read_rest(candidate, choice, out)

    def _read_rest(self, candidate: dict[str, Any], choice: _Choice, out: list[Event]) -> None:
        for theirs, name in _CANDIDATE_EXTRAS.items():
            value = candidate.get(theirs)
            if value:
                choice.extras[name] = value
        logprobs = candidate.get("logprobsResult")
        if logprobs and isinstance(logprobs, dict):
            out.append(LogprobsDelta(_logprobs(logprobs), choice.index))
        reason = candidate.get("finishReason")
        if reason:
            self._end_call(choice, out)
            choice.native = reason
            message = candidate.get("finishMessage")
            if message and reason not in ("STOP", 1):
                choice.extras["finish_message"] = message

    def _read_part(self, part: dict[str, Any], choice: _Choice, out: list[Event]) -> None:
        signature = part.get("thoughtSignature")
        if not isinstance(signature, str):
            signature = None
        text = part.get("text")
        if type(text) is str or (signature is not None and part.keys() <= {"thoughtSignature", "thought"}):
            self._read_text(text or "", signature, choice, out, thought=part.get("thought") is True)
        elif "functionCall" in part:
            self._read_call(part["functionCall"], signature, choice, out)
        elif "inlineData" in part:
            out.append(_inline(part, choice.index))
        else:
            self._read_other(part, signature, choice, out)

    def _read_text(self, text: str, signature: str | None, choice: _Choice, out: list[Event], *, thought: bool) -> None:
        if thought:
            if text:
                out.append(ThinkingDelta(text, choice.index))
            if signature is not None:
                detail = {
                    "type": "reasoning.text",
                    "text": text,
                    "signature": signature,
                    "format": FORMAT,
                    "text_end": choice.chars,
                }
                out.append(ReasoningDetail(detail, choice.index))
            return
        out += choice.text(text)
        if signature is not None:
            detail = {"type": "reasoning.encrypted", "data": signature, "format": FORMAT, "text_end": choice.chars}
            out.append(ReasoningDetail(detail, choice.index))

    def _read_call(self, call: Any, signature: str | None, choice: _Choice, out: list[Event]) -> None:
        if not isinstance(call, dict):
            return
        name = call.get("name")
        if isinstance(name, str) and name:
            self._end_call(choice, out)
            choice.open_call = OpenCall(name, call.get("id"), call.get("args"))
        found = choice.open_call
        if found is None:
            return  # a piece of nothing
        found.signature = signature or found.signature
        found.add(call.get("partialArgs"))
        if call.get("willContinue") is not True:
            self._end_call(choice, out)

    def _end_call(self, choice: _Choice, out: list[Event]) -> None:
        call, choice.open_call = choice.open_call, None
        if call is None:
            return
        call.end()
        number = len(choice.call_ids)
        try:
            text = orjson.dumps(call.arguments).decode() if call.arguments else ""
        except TypeError:
            raise UpstreamError(ErrorClass.MODEL_FAULT, "a tool call's arguments are nested too deeply", status=200) from None
        call_id = call.id
        if call_id is None or call_id in choice.call_ids:
            call_id = made_call_id("\0".join((self._salt, str(choice.index), text)), number, call.name)
        choice.call_ids.append(call_id)
        out.append(ToolCallStarted(number, call_id, call.name, choice.index))
        if text:
            out.append(ToolArgsDelta(number, text, choice.index))
        out.append(ToolCallEnded(number, choice.index))
        if call.signature is not None:
            detail = {"type": "reasoning.encrypted", "data": call.signature, "format": FORMAT, "id": call_id}
            out.append(ReasoningDetail(detail, choice.index))

    def _read_other(self, part: dict[str, Any], signature: str | None, choice: _Choice, out: list[Event]) -> None:
        kind = next((kind for kind in _OWN_TOOL_PARTS if kind in part), None)
        if kind is None:
            out.append(Extra("part", part, choice.index))
            return
        shown = _OWN_TOOL_PARTS[kind]
        if shown is not None:
            out.append(Extra(shown, part[kind], choice.index))
        detail = {
            "type": "reasoning.encrypted",
            "data": signature or "",
            "format": FORMAT,
            "text_end": choice.chars,
            "part": {name: value for name, value in part.items() if name != "thoughtSignature"},
        }
        out.append(ReasoningDetail(detail, choice.index))


def read_usage(usage: dict[str, Any]) -> Usage | None:
    """None where a total makes no sense. What is absent is 0: output when there was none, once even input.

    Thoughts are not among the candidates' tokens, the results of Google's own tools not among the prompt's; the cached ones are.
    """
    get = usage.get
    prompt, candidates = get("promptTokenCount") or 0, get("candidatesTokenCount") or 0
    thoughts, tools = get("thoughtsTokenCount") or 0, get("toolUsePromptTokenCount") or 0
    if not (_is_count(prompt) and _is_count(candidates) and _is_count(thoughts) and _is_count(tools)):
        return None
    cached, heard = get("cachedContentTokenCount") or 0, _audio(get("promptTokensDetails"))
    if tools:
        heard += _audio(get("toolUsePromptTokensDetails"))
    return Usage(
        prompt + tools,
        candidates + thoughts,
        min(cached, prompt) if cached and _is_count(cached) else 0,
        0,  # what is written to a cache is not told, for it costs nothing but its keeping
        thoughts,
        min(heard, prompt + tools),
        min(_audio(get("candidatesTokensDetails")), candidates),
    )


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_TOKENS


def _audio(details: object) -> int:
    tokens = 0
    if type(details) is list:
        for entry in details:
            if type(entry) is dict and entry.get("modality") in _AUDIO and _is_count(entry.get("tokenCount")):
                tokens += entry["tokenCount"]
    return tokens


def _inline(part: dict[str, Any], index: int) -> Event:
    """A picture that was made, or something for which OpenAI has no place: speech, and the sketches of thinking."""
    blob = part["inlineData"]
    media_type, data = (blob.get("mimeType"), blob.get("data")) if isinstance(blob, dict) else (None, None)
    if not isinstance(data, str) or not isinstance(media_type, str) or part.get("thought") is True:
        return Extra("thought_data" if part.get("thought") is True else "inline_data", blob, index)
    if not media_type.startswith("image/"):
        return Extra("inline_data", blob, index)
    return ImageDelta(f"data:{media_type};base64,{data}", index)


def _logprobs(result: dict[str, Any]) -> list[dict[str, Any]]:
    chosen, tops = result.get("chosenCandidates"), result.get("topCandidates")
    found: list[dict[str, Any]] = []
    for number, candidate in enumerate(chosen if isinstance(chosen, list) else []):
        if not isinstance(candidate, dict):
            continue
        top = tops[number] if isinstance(tops, list) and number < len(tops) else None
        others = top.get("candidates") if isinstance(top, dict) else None
        found.append(
            {
                **_logprob(candidate),
                "top_logprobs": [
                    _logprob(other) for other in (others if isinstance(others, list) else []) if isinstance(other, dict)
                ],
            }
        )
    return found


def _logprob(candidate: dict[str, Any]) -> dict[str, Any]:
    token, logprob = candidate.get("token"), candidate.get("logProbability")
    token = token if isinstance(token, str) else ""
    logprob = logprob if isinstance(logprob, int | float) else 0.0
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}
