"""The messages of a request as Gemini's contents, and what of them depends on the service and on the model.

https://ai.google.dev/api/caching#Content

    contents = content+                     neighbours never have the same role
    content  = {role: "user" | "model", parts: part+}
    part     = {text} | {inlineData} | {fileData} | {functionCall} | {functionResponse} | a part of Google's own tools
               each of a model may have a thoughtSignature

A signature goes back to the part that it was on, and to no other (https://ai.google.dev/gemini-api/docs/thought-signatures). The reasoning
details that `gemini.py` made of an answer say where that was:

    {data, id}                  the call with that id
    {data, text_end}            the text up to that character
    {data, text_end, part}      that part, one of Google's own tools, which stood behind so much text
    {text, signature, text_end} a thought, which stood behind so much text
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import orjson

from proxy.core.chat import MediaPart, OtherPart, TextPart, Turn
from proxy.core.errors import CannotCarry, InvalidRequest, InvalidValue
from proxy.core.target import Target
from proxy.dialects.knobs import Knobs
from proxy.dialects.openai_fields import drop_cache_marks
from proxy.dialects.openai_messages import read_turns
from proxy.dialects.openai_request import MAX_DEPTH, too_deep

FORMAT = "gemini"

# base64 of what Google says to put where a call of another's making has no signature; recorded traffic sends it and is answered
# https://ai.google.dev/gemini-api/docs/thought-signatures#faqs
SKIP_SIGNATURE = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="


@dataclass(frozen=True, slots=True)
class Service:
    """Where the two services differ.

    `links`: what a link may begin with. `links_of_old`: also for models before 2.5, which on the Gemini API fetch only its own
    files and YouTube. `typed_links`: mimeType is required. `tiers`: serviceTier is known. `validated`: the mode VALIDATED is.
    `shows_tools`: Google's own tools beside functions must be shown, and come back, as parts.
    """

    links: tuple[str, ...]
    links_of_old: bool
    typed_links: bool
    tiers: bool
    validated: bool
    shows_tools: bool


# https://ai.google.dev/gemini-api/docs/file-input-methods
GEMINI_API = Service(("https://",), links_of_old=False, typed_links=False, tiers=True, validated=True, shows_tools=True)
VERTEX_AI = Service(
    ("https://", "http://", "gs://"), links_of_old=True, typed_links=True, tiers=False, validated=False, shows_tools=False
)
_OWN_LINKS = re.compile(r"https://(?:generativelanguage\.googleapis\.com|(?:www|m)\.youtube\.com|youtu\.be)/")
_YOUTUBE = re.compile(r"https://(?:(?:www|m)\.youtube\.com|youtu\.be)/")
_LINK = re.compile(r"[a-z][a-z0-9]*://")

# https://ai.google.dev/gemini-api/docs/file-input-methods#supported-content-types
_EXTENSIONS = {
    **dict.fromkeys(("jpg", "jpeg"), "image/jpeg"),
    **{name: f"image/{name}" for name in ("png", "webp", "gif", "heic", "heif", "bmp")},
    "pdf": "application/pdf",
    "txt": "text/plain",
    "md": "text/markdown",
    "csv": "text/csv",
    **dict.fromkeys(("html", "htm"), "text/html"),
    "json": "application/json",
    "mp3": "audio/mpeg",
    **{name: f"audio/{name}" for name in ("wav", "ogg", "flac", "aac", "aiff", "m4a", "opus")},
    "mov": "video/quicktime",
    "mpg": "video/mpeg",
    **{name: f"video/{name}" for name in ("mp4", "mpeg", "webm", "wmv", "avi", "3gpp")},
}
_BIG_NUMBER = re.compile(r"[0-9]{16}")  # more digits than every reader keeps
_VERSION = re.compile(r"gemini-([0-9]+(?:\.[0-9]+)?)(?![0-9.])")


@dataclass(frozen=True, slots=True)
class Model:
    """What a model's name tells. `version` is 2.5 of `gemini-2.5-flash`, infinity of `gemini-flash-latest`, and None of what is no
    Gemini or does not say: Gemma, tuned models."""

    name: str
    version: float | None

    @property
    def instructed(self) -> bool:
        """Gemma takes no instruction before its fourth version: "Developer instruction is not enabled"."""
        return not self.name.startswith(("gemma-2", "gemma-3"))

    def before(self, version: float) -> bool:
        """Known to be older."""
        return self.version is not None and self.version < version

    def since(self, version: float) -> bool:
        """Known to be of that version or newer."""
        return self.version is not None and self.version >= version


def model_of(target: Target) -> Model:
    name = target.upstream_model.rpartition("/")[2]
    found = _VERSION.search(name)
    if found is not None:
        return Model(name, float(found[1]))
    return Model(name, inf if name.startswith("gemini-") and name.endswith("-latest") else None)


def conversation(messages: Sequence[dict[str, Any]], knobs: Knobs, target: Target, service: Service) -> dict[str, Any]:
    """`contents`, and `systemInstruction` where there is one. Raises CallerError and CannotCarry."""
    writer = _Writer(knobs, target, service)
    for turn in read_turns(messages, knobs):
        writer.write(turn)
    return writer.written()


class _Writer:
    def __init__(self, knobs: Knobs, target: Target, service: Service) -> None:
        self._knobs = knobs
        self._service = service
        self._provider = target.provider.name
        self._model = model_of(target)
        self._system: list[dict[str, Any]] = []
        self._contents: list[dict[str, Any]] = []
        self._beside: list[dict[str, Any]] = []  # media that came with tool results, which must not stand between them

    def write(self, turn: Turn) -> None:
        drop_cache_marks(
            turn, self._knobs
        )  # Google caches by itself, or by the name of what was stored before (`cached_content`)
        if turn.role != "tool":
            self._flush()
        match turn.role:
            case "system":
                self._system += self._system_parts(turn)
            case "user":
                self._say("user", self._parts(turn) or [{"text": ""}])
            case "assistant":
                self._say("model", self._model_parts(turn))
            case "tool":
                self._say("user", [self._function_response(turn)])

    def written(self) -> dict[str, Any]:
        self._flush()
        contents, system = self._contents, self._system
        if not contents or (system and not self._model.instructed):  # the user says it: there must be a content
            first = [{"role": "user", "parts": system or [{"text": ""}]}]
            if contents and contents[0]["role"] == "user":
                first[0]["parts"] = system + contents.pop(0)["parts"]
            return {"contents": first + contents}
        return {"systemInstruction": {"parts": system}, "contents": contents} if system else {"contents": contents}

    def _say(self, role: str, parts: list[dict[str, Any]]) -> None:
        if not parts:
            return
        if self._contents and self._contents[-1]["role"] == role:
            self._contents[-1]["parts"] += parts
        else:
            self._contents.append({"role": role, "parts": parts})

    def _flush(self) -> None:
        self._say("user", self._beside)
        self._beside = []

    # -- turns

    def _system_parts(self, turn: Turn) -> list[dict[str, Any]]:
        for number, part in enumerate(turn.parts):
            if not isinstance(part, TextPart):
                raise CannotCarry("anything but text in a system message", param=f"{turn.where}.content[{number}]")
        return self._parts(turn)

    def _model_parts(self, turn: Turn) -> list[dict[str, Any]]:
        seals = _Seals(turn.reasoning, self._provider)
        parts = seals.sealed_parts(turn.text) + self._media_parts(turn)
        calls: list[dict[str, Any]] = []
        for call in turn.calls:
            found: dict[str, Any] = {"functionCall": {"id": call.id, "name": call.name, "args": call.arguments}}
            signature = seals.of_call(call.id)
            if signature is not None:
                found["thoughtSignature"] = signature
            calls.append(found)
        if calls and self._model.since(3):  # which refuses a step whose first call has none
            calls[0].setdefault("thoughtSignature", SKIP_SIGNATURE)
        if seals.unplaced:
            self._knobs.drop("messages[].reasoning_details")
        return parts + calls

    def _function_response(self, turn: Turn) -> dict[str, Any]:
        """Since Gemini 3 media belong into the response, before that beside it.
        https://ai.google.dev/gemini-api/docs/function-calling#multimodal"""
        if turn.name is None:
            param = f"{turn.where}.tool_call_id"
            raise InvalidRequest(f"`{param}` names no call of a message before it.", param=param)
        media = self._media_parts(turn)
        response: dict[str, Any] = {"id": turn.call_id, "name": turn.name, "response": _result_object(turn.text)}
        if media and self._model.since(3):
            response["parts"] = media
        else:
            self._beside += media
        return {"functionResponse": response}

    # -- parts

    def _parts(self, turn: Turn) -> list[dict[str, Any]]:
        parts = []
        for number, part in enumerate(turn.parts):
            if not isinstance(part, TextPart):
                parts.append(self._media(part, f"{turn.where}.content[{number}]"))
            elif part.text:
                parts.append({"text": part.text})
        return parts

    def _media_parts(self, turn: Turn) -> list[dict[str, Any]]:
        return [
            self._media(part, f"{turn.where}.content[{number}]")
            for number, part in enumerate(turn.parts)
            if not isinstance(part, TextPart)
        ]

    def _media(self, part: MediaPart | OtherPart, where: str) -> dict[str, Any]:
        if isinstance(part, OtherPart):
            raise CannotCarry(f"content parts of type {part.type}", param=where)
        if part.detail not in (None, "auto"):
            self._knobs.drop(f"messages[].content[].{part.kind}_url.detail")
        media_type = part.media_type
        if part.filename is not None:
            media_type = media_type or _type_by_name(part.filename)
            self._knobs.drop("messages[].content[].file.filename")
        if part.data is None:
            return {"fileData": self._link(part, media_type, where)}
        if media_type is None:
            raise InvalidValue(f"`{where}` does not say its media type: send a data URL that does.", param=where)
        return {"inlineData": {"mimeType": media_type, "data": part.data}}

    def _link(self, part: MediaPart, media_type: str | None, where: str) -> dict[str, Any]:
        url = part.url or part.file_id or ""
        scheme = _LINK.match(url)
        if scheme is None:
            raise CannotCarry("ids of uploaded files", param=where)
        if not url.startswith(self._service.links):
            raise CannotCarry(f"{scheme[0]} links", param=where)
        if self._model.before(2.5) and not self._service.links_of_old and not _OWN_LINKS.match(url):
            raise CannotCarry(f"remote {part.kind}s before Gemini 2.5", param=where)
        media_type = media_type or _type_by_name(url)
        if media_type is None and self._service.typed_links:
            if part.kind != "image":
                raise CannotCarry(f"links to {part.kind}s whose name does not tell their media type", param=where)
            media_type = "image/jpeg"  # one must be named; which kind of image it is, its own bytes say
        return {"mimeType": media_type, "fileUri": url} if media_type else {"fileUri": url}


class _Seals:
    """The reasoning details of one turn: what of them is ours, and where it goes. `unplaced`: something found no place."""

    def __init__(self, details: Sequence[Mapping[str, Any]], provider: str) -> None:
        self._calls: dict[str, str] = {}
        self._in_text: list[Mapping[str, Any]] = []
        self.unplaced = False
        for detail in details:
            seal = _seal(detail)
            ours = detail.get("format") == FORMAT and detail.get("provider") == provider
            if ours and type(detail.get("text_end")) is int and (seal or isinstance(detail.get("part"), dict)):
                self._in_text.append(detail)
            elif ours and seal and isinstance(detail.get("id"), str):
                self._calls[detail["id"]] = seal
            else:
                self.unplaced = True

    def of_call(self, call_id: str) -> str | None:
        return self._calls.get(call_id)

    def sealed_parts(self, text: str) -> list[dict[str, Any]]:
        """The text in the pieces in which it was signed, and what stood between them."""
        parts: list[dict[str, Any]] = []
        begin = 0
        for detail in self._in_text:
            end = max(begin, min(detail["text_end"], len(text)))
            piece, seal, part = text[begin:end], _seal(detail), detail.get("part")
            begin = end
            if isinstance(part, dict) or detail.get("type") == "reasoning.text":
                if piece:
                    parts.append({"text": piece})
                found = dict(part) if isinstance(part, dict) else {"text": detail.get("text") or "", "thought": True}
            else:
                found = {"text": piece}
            parts.append({**found, "thoughtSignature": seal} if seal else found)
        if text[begin:]:
            parts.append({"text": text[begin:]})
        return parts


def _seal(detail: Mapping[str, Any]) -> str | None:
    seal = detail.get("data") or detail.get("signature")
    return seal if isinstance(seal, str) else None


def _result_object(text: str) -> dict[str, Any]:
    """A tool's result as the object that it must be: itself where it spells one, and one that is read back as it was written."""
    if text.lstrip().startswith("{") and not _BIG_NUMBER.search(text):
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            value = None
        if isinstance(value, dict) and not too_deep(value, MAX_DEPTH):
            return value
    return {"result": text}


def _type_by_name(name: str) -> str | None:
    """The media type that the ending of a file's name or of a link tells."""
    if _YOUTUBE.match(name):
        return "video/mp4"
    stem, dot, extension = re.split(r"[?#]", name, maxsplit=1)[0].rpartition(".")
    return _EXTENSIONS.get(extension.lower()) if stem and dot else None
