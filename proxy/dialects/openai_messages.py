"""The messages of an OpenAI request, read for the native dialects: turns, parts, calls, with what each refers to.

https://platform.openai.com/docs/api-reference/chat/create

`developer` is `system`; the retired `function` role and `function_call` are read as tool results and calls; a refusal is text. The
name of a tool result's function is found by its call's id, since some dialects need it. Nothing is fetched: links stay links.
What no dialect has words for, in a message or a part of one, is dropped by name.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeGuard
from urllib.parse import unquote_to_bytes

import orjson

from proxy.core.chat import MediaPart, OtherPart, Part, TextPart, ToolCall, Turn
from proxy.core.errors import CannotCarry, InvalidRequest, InvalidValue
from proxy.dialects.knobs import Knobs

_ROLES: dict[str, Literal["system", "user", "assistant", "tool"]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
# what is read of a message, by its role; `name` is looked at for all
_EVERYWHERE = frozenset(("role", "content", "name", "cache_control"))
_READ: dict[str, frozenset[str]] = {
    "system": _EVERYWHERE,
    "user": _EVERYWHERE,
    "assistant": _EVERYWHERE
    | frozenset(("tool_calls", "function_call", "refusal", "reasoning_details", "reasoning_content", "reasoning")),
    "tool": _EVERYWHERE | {"tool_call_id"},
}
# of a content part: what is read of it, and of the object inside it
_PART_FIELDS: dict[str, frozenset[str]] = {
    "text": frozenset(),
    "refusal": frozenset(),
    "image_url": frozenset(("url", "detail")),
    "video_url": frozenset(("url", "detail")),
    "input_audio": frozenset(("data", "format")),
    "file": frozenset(("file_data", "file_url", "file_id", "filename")),
}
_CALL_FIELDS = frozenset(("id", "type", "function", "index"))  # `index` is what streams have; here the order says it
_FUNCTION_FIELDS = frozenset(("name", "arguments"))

_NO_ARGUMENTS = ("", "null")
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")
_SAME_TYPE = {"image/jpg": "image/jpeg"}
_AUDIO_TYPES = {"mp3": "audio/mpeg", "wav": "audio/wav"}
_REMOTE = ("https://", "http://", "gs://", "s3://")
_BARE_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+(?:=\s*){0,2}")
# how files begin, for data that comes without a type: (offset, bytes)
_FIRST_BYTES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF8", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (8, b"WAVE", "audio/wav"),
    (0, b"%PDF-", "application/pdf"),
)


def read_turns(messages: Sequence[dict[str, Any]], knobs: Knobs, *, thoughts: bool = False) -> list[Turn]:
    """Raises CallerError, naming the place, and CannotCarry. What no dialect can carry is dropped into `knobs` here.

    `thoughts`: this dialect carries `turn.thoughts`, the readable ones that nobody sealed. For any other they are dropped here,
    unless the same are told again by `turn.reasoning`, of which the dialect must give account.
    """
    names: dict[str, str] = {}  # of the functions, by call id
    found: list[Turn] = []
    legacy_id: str | None = None
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role = _ROLES.get(message["role"])
        if role is None:
            raise InvalidValue(
                f"`{where}.role` is {message['role']!r}: it must be system, developer, user, assistant or tool.",
                param=f"{where}.role",
            )
        _drop_unread(message, _READ[role], "messages[]", knobs)
        mark = _mark(message, "messages[]", knobs)
        turn = Turn(role, where, _parts(message.get("content"), where, knobs), cache_control=mark)
        if role == "assistant":
            _read_assistant(turn, message, index, knobs, thoughts=thoughts)
            names.update((call.id, call.name) for call in turn.calls)
            if message.get("function_call"):
                legacy_id = turn.calls[-1].id
        said = message.get("name")
        if role == "tool":
            turn.call_id = _answered(message, where, legacy_id)
            turn.name = names.get(turn.call_id) or (said if isinstance(said, str) and said else None)
        if says_something(said) and said != turn.name:
            knobs.drop("messages[].name")
        found.append(turn)
    return found


def says_something(value: object) -> bool:
    """Whether leaving a field out loses anything: not with null, nor with what is empty."""
    return value is not None and value != "" and value != [] and value != {}


def arguments_object(text: object, where: str) -> dict[str, Any]:
    """A call's arguments as the object that they spell. Raises InvalidValue. Nothing at all is `{}`."""
    if isinstance(text, dict):
        return text
    if text is None or (isinstance(text, str) and text.strip() in _NO_ARGUMENTS):
        return {}
    try:
        value = orjson.loads(text) if isinstance(text, str) else None
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise InvalidValue(f"`{where}.arguments` must be the JSON text of an object.", param=f"{where}.arguments")
    return value


def split_data_url(url: str) -> tuple[str | None, str] | None:
    """(media type, base64) of a data URL, None for what is none. https://www.rfc-editor.org/rfc/rfc2397

    Parameters beside the type are left out. Text that is percent-encoded comes out as base64, too.
    """
    if url[:5].lower() != "data:":
        return None
    head, comma, data = url[5:].partition(",")
    if not comma:
        return None
    first, *parameters = [field.strip().lower() for field in head.split(";")]
    media_type = _SAME_TYPE.get(first, first) if _MEDIA_TYPE.fullmatch(first) else None
    if not parameters or parameters[-1] != "base64":
        return media_type, base64.b64encode(unquote_to_bytes(data)).decode()
    return media_type, unquote_to_bytes(data).decode("ascii", "replace") if "%" in data else data


def decoded(data: str, where: str) -> bytes:
    """The bytes behind base64, for the dialects that need them. Raises InvalidValue."""
    try:
        return binascii.a2b_base64("".join(data.split()), strict_mode=True)
    except (binascii.Error, ValueError):
        raise InvalidValue(f"`{where}` is not valid base64.", param=where) from None


# -- messages


def _read_assistant(turn: Turn, message: Mapping[str, Any], index: int, knobs: Knobs, *, thoughts: bool) -> None:
    where = turn.where
    if message.get("refusal"):
        turn.parts.append(TextPart(_text(message["refusal"], f"{where}.refusal")))
    turn.calls = _calls(message, where, index, knobs)
    details = message.get("reasoning_details")
    turn.reasoning = [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []
    if says_something(details) and (not isinstance(details, list) or len(turn.reasoning) < len(details)):
        knobs.drop("messages[].reasoning_details")
    for name in ("reasoning_content", "reasoning"):
        value = message.get(name)
        if isinstance(value, str) and turn.thoughts is None:
            turn.thoughts = value or None
        if says_something(value) and not (turn.reasoning or (thoughts and value == turn.thoughts)):
            knobs.drop(f"messages[].{name}")


def _answered(message: Mapping[str, Any], where: str, legacy_id: str | None) -> str:
    """The id of the call that a tool's message answers."""
    if message["role"] == "function":
        if legacy_id is None:
            raise InvalidRequest(f"`{where}` answers no `function_call` of a message before it.", param=where)
        return legacy_id
    call_id = message.get("tool_call_id")
    if not isinstance(call_id, str) or not call_id:
        param = f"{where}.tool_call_id"
        raise InvalidRequest(f"`{param}` is missing: it names the call that this answers.", param=param)
    return call_id


def _calls(message: Mapping[str, Any], where: str, index: int, knobs: Knobs) -> list[ToolCall]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise InvalidRequest(f"`{where}.tool_calls` must be a list.", param=f"{where}.tool_calls")
    found = []
    for number, call in enumerate(calls):
        at = f"{where}.tool_calls[{number}]"
        if isinstance(call, dict) and call.get("type") == "custom":
            raise CannotCarry("calls of custom tools", param=at)
        function = call.get("function") if isinstance(call, dict) else None
        id_ = call.get("id") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not _is_name(function.get("name")) or not _is_name(id_):
            raise InvalidRequest(f"`{at}` must have an `id` and a `function` with a `name`.", param=at)
        _drop_unread(call, _CALL_FIELDS, "messages[].tool_calls[]", knobs)
        _drop_unread(function, _FUNCTION_FIELDS, "messages[].tool_calls[].function", knobs)
        found.append(_call(id_, function, f"{at}.function"))
    legacy = message.get("function_call")
    if legacy:
        if not isinstance(legacy, dict) or not _is_name(legacy.get("name")):
            raise InvalidRequest(f"`{where}.function_call` must have a `name`.", param=f"{where}.function_call")
        _drop_unread(legacy, _FUNCTION_FIELDS, "messages[].function_call", knobs)
        found.append(_call(f"call_{index}", legacy, f"{where}.function_call"))
    return found


def _call(id_: str, function: Mapping[str, Any], where: str) -> ToolCall:
    sent = function.get("arguments")
    arguments = arguments_object(sent, where)
    text = sent if isinstance(sent, str) and sent.strip() not in _NO_ARGUMENTS else orjson.dumps(arguments).decode()
    return ToolCall(id_, function["name"], arguments, text)


# -- parts


def _parts(content: object, where: str, knobs: Knobs) -> list[Part]:
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [TextPart(content)]
    if not isinstance(content, list):
        raise InvalidRequest(f"`{where}.content` must be a string or a list of parts.", param=f"{where}.content")
    return [_part(part, f"{where}.content[{number}]", knobs) for number, part in enumerate(content)]


def _part(part: object, where: str, knobs: Knobs) -> Part:
    if isinstance(part, str):
        return TextPart(part)
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        raise InvalidRequest(f"`{where}` must be an object with a `type`.", param=where)
    inner_fields = _PART_FIELDS.get(kind)
    if inner_fields is None:
        return OtherPart(kind, part)
    _drop_unread(part, {"type", kind, "cache_control"}, "messages[].content[]", knobs)
    mark = _mark(part, "messages[].content[]", knobs)
    inner = part.get(kind)
    if isinstance(inner, dict):
        _drop_unread(inner, inner_fields, f"messages[].content[].{kind}", knobs)
    found: Part
    match kind:
        case "text" | "refusal":
            found = TextPart(_text(inner, f"{where}.{kind}"))
        case "image_url" | "video_url":
            found = _picture("image" if kind == "image_url" else "video", inner, f"{where}.{kind}", knobs)
        case "input_audio":
            found = _audio(inner, f"{where}.input_audio")
        case _:
            found = _file(inner, f"{where}.file", knobs)
    found.cache_control = mark
    return found


def _picture(kind: Literal["image", "video"], media: object, where: str, knobs: Knobs) -> MediaPart:
    url = media.get("url") if isinstance(media, dict) else media
    detail = media.get("detail") if isinstance(media, dict) else None
    found = _linked(kind, _text(url, f"{where}.url"), f"{where}.url")
    if isinstance(detail, str):
        found.detail = detail or None
    elif says_something(detail):
        knobs.drop(f"messages[].content[].{kind}_url.detail")
    return found


def _audio(media: object, where: str) -> MediaPart:
    if not isinstance(media, dict):
        raise InvalidRequest(f"`{where}` must have `data` and `format`.", param=where)
    data, format_ = _text(media.get("data"), f"{where}.data"), media.get("format")
    split = split_data_url(data)
    media_type, data = split if split is not None else (None, data)
    if isinstance(format_, str) and format_:
        media_type = _AUDIO_TYPES.get(format_, f"audio/{format_}")
    return MediaPart("audio", media_type or _type_of(data), data=data)


def _file(media: object, where: str, knobs: Knobs) -> MediaPart:
    if not isinstance(media, dict):
        raise InvalidRequest(f"`{where}` must have `file_data` or `file_id`.", param=where)
    filename, file_id = media.get("filename"), media.get("file_id")
    data = media.get("file_data") or media.get("file_url")
    if data is None and isinstance(file_id, str) and file_id:
        found = MediaPart("file", file_id=file_id)
    else:
        found = _linked("file", _text(data, f"{where}.file_data"), f"{where}.file_data")
        if file_id:
            knobs.drop("messages[].content[].file.file_id")  # what is here goes before what only one provider has
    if isinstance(filename, str):
        found.filename = filename or None
        if found.media_type is None and filename.lower().endswith(".pdf"):
            found.media_type = "application/pdf"
    elif says_something(filename):
        knobs.drop("messages[].content[].file.filename")
    return found


def _linked(kind: Literal["image", "file", "video"], url: str, where: str) -> MediaPart:
    split = split_data_url(url)
    if split is not None:
        return MediaPart(kind, split[0] or _type_of(split[1]), data=split[1])
    if url.lower().startswith(_REMOTE):
        return MediaPart(kind, url=url)
    if kind == "file" and _BARE_BASE64.fullmatch(url):
        return MediaPart(kind, _type_of(url), data=url)  # as some clients send it
    raise InvalidValue(f"`{where}` must be a data URL or an https link.", param=where)


def _type_of(data: str) -> str | None:
    """Of base64 that came without a type: what its first bytes say."""
    try:
        start = binascii.a2b_base64(data[:24])
    except (binascii.Error, ValueError):
        return None
    return next((media_type for offset, magic, media_type in _FIRST_BYTES if start.startswith(magic, offset)), None)


# -- helpers


def _drop_unread(found: Mapping[str, Any], read: frozenset[str] | set[str], where: str, knobs: Knobs) -> None:
    for name in found.keys() - read:
        if says_something(found[name]):
            knobs.drop(f"{where}.{name}")


def _mark(found: Mapping[str, Any], where: str, knobs: Knobs) -> dict[str, Any] | None:
    value = found.get("cache_control")
    if isinstance(value, dict):
        return value or None
    if says_something(value):
        knobs.drop(f"{where}.cache_control")
    return None


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value != ""


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"`{where}` must be a string.", param=where)
    return value
