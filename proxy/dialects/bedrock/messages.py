"""A conversation as Converse takes it: `system` blocks on top, then turns of user and assistant, one after the other.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Message.html and …/API_runtime_ContentBlock.html

    OpenAI                          Converse
    system, developer               top-level `system`, in their order, wherever they stand
    user                            user
    assistant                       assistant: reasoningContent, text, toolUse
    tool, function                  toolResult in the user turn that follows, before its text
    consecutive ones of a role      one turn
    text                            text; what is blank is left out, since the API refuses it
    image_url                       image: bytes out of a data URL, s3Location for s3://; nothing is fetched, so no other link
    input_audio, video_url          audio, video: the same
    file                            document with a name; whichever of these its type says
    reasoning_details               reasoningContent, where it stood, if this provider sealed it for a model that reads it
    cache_control                   a cachePoint after what it marks; a message's, at its end
    parts of a Converse block       as they are: {"type": "guardContent", "guardContent": {…}}

A document's name may hold little and must differ from the others'; beside a document there must be text. Call ids that a model would
refuse, or that come twice, are replaced, the same in a call and in its result.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Any

from proxy.core.chat import MediaPart, OtherPart, Part, TextPart, Turn
from proxy.core.errors import CannotCarry, InvalidRequest
from proxy.core.target import Target
from proxy.dialects.anthropic.models import thoughts_fit
from proxy.dialects.bedrock.models import Family, family_of
from proxy.dialects.knobs import Knobs
from proxy.dialects.openai_messages import decoded

FORMAT = "bedrock"  # of the reasoning details that are ours
MAX_MODEL_CHARS = 2048
MAX_NAME_CHARS = 200  # of a document

Block = dict[str, Any]

# media type, or the end of a file's name -> the word that Converse has for it
_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
    "text/x-markdown": "md",
    "application/json": "txt",
    "application/xml": "txt",
    "application/yaml": "txt",
    "application/x-yaml": "txt",
}
_AUDIO = {
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/opus": "opus",
    "audio/aac": "aac",
    "audio/flac": "flac",
    "audio/ogg": "ogg",
    "audio/mp4": "mp4",
    "audio/m4a": "m4a",
    "audio/x-m4a": "m4a",
    "audio/webm": "webm",
    "audio/x-matroska": "mka",
    "audio/pcm": "pcm",
    "audio/pcm16": "pcm",
}
_VIDEOS = {
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/x-matroska": "mkv",
    "video/webm": "webm",
    "video/x-flv": "flv",
    "video/mpeg": "mpeg",
    "video/x-ms-wmv": "wmv",
    "video/3gpp": "three_gp",
}
_BY_TYPE: dict[str, tuple[str, str]] = {
    media_type: (kind, format_)
    for kind, table in (("image", _IMAGES), ("document", _DOCUMENTS), ("audio", _AUDIO), ("video", _VIDEOS))
    for media_type, format_ in table.items()
}
_BY_ENDING: dict[str, tuple[str, str]] = {format_: (kind, format_) for kind, format_ in _BY_TYPE.values() if kind != "audio"} | {
    **dict.fromkeys(("json", "xml", "yaml", "yml", "log", "tsv"), ("document", "txt")),
    "jpg": ("image", "jpeg"),
    "htm": ("document", "html"),
    "mpg": ("video", "mpg"),
    "3gp": ("video", "three_gp"),
    "mp3": ("audio", "mp3"),
    "wav": ("audio", "wav"),
    "flac": ("audio", "flac"),
    "ogg": ("audio", "ogg"),
    "m4a": ("audio", "m4a"),
}
_KINDS = {"image": "images", "audio": "audio clips", "file": "documents", "video": "videos"}
# blocks of Converse's own, from callers who know it
_NATIVE = frozenset(("audio", "cachePoint", "document", "guardContent", "image", "searchResult", "video"))
_IN_RESULTS = frozenset(("text", "image", "document", "video", "searchResult"))
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_\-()\[\]]+")
_GREETING: Block = {"text": "Hello."}
_NO_RESULT: Block = {"text": "(empty)"}


class Conversation:
    """`system` and `messages` of a request, and what the rest of it must know of them.

    Raises CannotCarry and CallerError while it is made. `called`: the names of the functions that were called, in their order.
    """

    def __init__(self, turns: list[Turn], target: Target, knobs: Knobs) -> None:
        self.system: list[Block] = []
        self.messages: list[dict[str, Any]] = []
        self.called: dict[str, None] = {}
        self._target = target
        self._family: Family = family_of(target.upstream_model)
        self._knobs = knobs
        self._ids: dict[str, str] = {}  # of calls, ours by the caller's: the latest of each
        self._used_ids: set[str] = set()
        self._names: set[str] = set()  # of documents
        self._results: list[Block] = []  # of the user turn that is being made: they come first in it
        for turn in turns:
            self._take(turn)
        self._make_valid()

    @property
    def prefilled(self) -> bool:
        """It ends with an assistant turn, which the model is to continue."""
        return bool(self.messages[-1]["role"] == "assistant")

    @property
    def has_tool_blocks(self) -> bool:
        return any("toolUse" in block or "toolResult" in block for message in self.messages for block in message["content"])

    @property
    def mid_loop_without_thoughts(self) -> bool:
        """It ends with tool results, and the turn that called the tools does not begin with thoughts."""
        if len(self.messages) < 2 or self.prefilled or "toolResult" not in self.messages[-1]["content"][0]:
            return False
        return "reasoningContent" not in self.messages[-2]["content"][0]

    def drop_last_thoughts(self) -> None:
        """For a request that does not think: the last assistant turn may then not hold thoughts."""
        for message in self.messages[-2:]:
            kept = [block for block in message["content"] if "reasoningContent" not in block]
            if message["role"] == "assistant" and kept and len(kept) < len(message["content"]):
                message["content"] = kept
                self._knobs.drop("messages[].reasoning_details")

    # -- turns

    def _take(self, turn: Turn) -> None:
        match turn.role:
            case "system":
                self._only_text(turn, "a system message")
                self.system += self._marked(turn, self._parts(turn, "system"), "system")
            case "user":
                self._add("user", self._marked(turn, self._parts(turn, "messages")))
            case "assistant":
                self._add("assistant", self._marked(turn, self._assistant(turn)))
            case "tool":
                self._results += self._marked(turn, self._result(turn))

    def _add(self, role: str, blocks: list[Block]) -> None:
        if self._results and role == "assistant":
            self._close_results()
        if not blocks:
            return
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"] += blocks
        else:
            self.messages.append({"role": role, "content": blocks})

    def _close_results(self) -> None:
        results, self._results = self._results, []
        if self.messages and self.messages[-1]["role"] == "user":
            self.messages[-1]["content"][:0] = results
        else:
            self.messages.append({"role": "user", "content": results})

    def _make_valid(self) -> None:
        if self._results:
            self._close_results()
        if not self.messages:
            if not self.system:
                raise InvalidRequest("`messages` has no content that could be answered.", param="messages")
            self._knobs.drop("messages[].role")
            self.messages, self.system = [{"role": "user", "content": self.system}], []
        if self._family.user_first and self.messages[0]["role"] == "assistant":
            self.messages.insert(0, {"role": "user", "content": [dict(_GREETING)]})
        for message in self.messages:
            named = [block["document"]["name"] for block in message["content"] if isinstance(block.get("document"), dict)]
            if named and not any("text" in block for block in message["content"]):
                message["content"].append({"text": str(named[0])})
        last = self.messages[-1]["content"][-1]
        if self.prefilled and "text" in last and last["text"] != last["text"].rstrip():
            last["text"] = last["text"].rstrip()  # Claude: "final assistant content cannot end with trailing whitespace"
            self._knobs.drop("messages[].content")

    def _marked(self, turn: Turn, blocks: list[Block], place: str = "messages") -> list[Block]:
        """With a cache point at the end, if the message asks for one."""
        if turn.cache_control is not None and not (blocks and "cachePoint" in blocks[-1]):
            blocks += self._cache_point(turn.cache_control, place, "messages[].cache_control", after=bool(blocks))
        return blocks

    def _cache_point(self, mark: dict[str, Any], place: str, name: str, *, after: bool) -> list[Block]:
        if place not in self._family.cached or not after:
            self._knobs.drop(name)
            return []
        return [cache_point(mark)]

    def _only_text(self, turn: Turn, what: str) -> None:
        for number, part in enumerate(turn.parts):
            native = isinstance(part, OtherPart) and part.type in ("cachePoint", "guardContent")
            if not isinstance(part, TextPart) and not native:
                raise CannotCarry(f"anything but text in {what}", param=f"{turn.where}.content[{number}]")

    def _result(self, turn: Turn) -> list[Block]:
        call_id = turn.call_id or ""
        found = self._parts(turn, "messages")
        points = [block for block in found if "cachePoint" in block]
        content = [block for block in found if "cachePoint" not in block]
        for block in content:
            if not block.keys() & _IN_RESULTS:
                raise CannotCarry(f"{next(iter(block))} in a tool's result", param=turn.where)
        result: Block = {
            "toolUseId": self._ids.get(call_id) or self._clean_id(call_id, 0),
            "content": content or [dict(_NO_RESULT)],  # nothing, and blank text, is refused
        }
        if turn.name is not None:
            self.called.setdefault(turn.name)
        return [{"toolResult": result}, *points[-1:]]

    def _assistant(self, turn: Turn) -> list[Block]:
        """Text and calls, with each thought in front of what it led to."""
        self._only_text(turn, "an assistant message")
        texts = self._parts(turn, "messages")
        calls = [self._call(call.id, call.name, call.arguments) for call in turn.calls]
        found: list[Block] = []
        chars = called = 0
        for detail in turn.reasoning:
            thought = self._thought(detail)
            if thought is None:
                self._knobs.drop("messages[].reasoning_details")
                continue
            after_chars, after_calls = _position(detail)
            before, texts = _cut(texts, after_chars - chars)
            chars = max(chars, after_chars)
            found += before + calls[called:after_calls]
            called = max(called, after_calls)
            found.append(thought)
        found += texts + calls[called:]
        if all("reasoningContent" in block or "cachePoint" in block for block in found):
            if found:
                self._knobs.drop("messages[].reasoning_details")  # a turn cannot consist of thoughts alone
            return []
        return found

    def _thought(self, detail: dict[str, Any]) -> Block | None:
        """A detail that was sealed here as the block that it was, None for any other."""
        if detail.get("format") != FORMAT or detail.get("provider") != self._target.provider.name:
            return None
        thinker, model = detail.get("model"), self._target.upstream_model
        if isinstance(thinker, str):
            thinker = thinker[:MAX_MODEL_CHARS]
            if family_of(thinker).name != self._family.name or not thoughts_fit(model, thinker):
                return None
        data, text, signature = detail.get("data"), detail.get("text"), detail.get("signature")
        if detail.get("type") == "reasoning.encrypted" and isinstance(data, str) and data:
            return {"reasoningContent": {"redactedContent": data}}
        if detail.get("type") == "reasoning.text" and isinstance(signature, str) and signature:
            said = text if isinstance(text, str) else ""
            return {"reasoningContent": {"reasoningText": {"text": said, "signature": signature}}}
        return None

    def _call(self, id_: str, name: str, arguments: dict[str, Any]) -> Block:
        ours, attempt = self._clean_id(id_, 0), 0
        while ours in self._used_ids:
            attempt += 1
            ours = self._clean_id(id_, attempt)
        self._used_ids.add(ours)
        self._ids[id_] = ours
        self.called.setdefault(name)
        return {"toolUse": {"toolUseId": ours, "name": name, "input": arguments}}

    def _clean_id(self, id_: str, attempt: int) -> str:
        if attempt == 0 and self._family.call_id.fullmatch(id_):
            return id_
        return hashlib.sha256(f"{attempt}:{id_}".encode("utf-8", "replace")).hexdigest()[:9]

    # -- parts

    def _parts(self, turn: Turn, place: str) -> list[Block]:
        found: list[Block] = []
        for number, part in enumerate(turn.parts):
            block = self._part(part, f"{turn.where}.content[{number}]")
            if block is not None:
                found.append(block)
            if not isinstance(part, OtherPart) and part.cache_control is not None:
                name = "messages[].content[].cache_control"
                found += self._cache_point(part.cache_control, place, name, after=block is not None)
        return found

    def _part(self, part: Part, where: str) -> Block | None:
        match part:
            case TextPart(text):
                return next(iter(_texts(text)), None)
            case MediaPart():
                return self._media(part, where)
            case OtherPart(kind, raw):
                if kind in _NATIVE and isinstance(raw.get(kind), dict):
                    return {kind: raw[kind]}
                raise CannotCarry(f"content parts of type {kind[:40]}", param=where)

    def _media(self, part: MediaPart, where: str) -> Block:
        if part.detail is not None:
            self._knobs.drop(f"messages[].content[].{part.kind}_url.detail")
        if part.file_id is not None:
            raise CannotCarry("files by id, which are known only where they were uploaded", param=where)
        kind, format_ = _kind_and_format(part, where)
        if kind in self._family.refused:
            raise CannotCarry(f"{kind} input", param=where)
        block: Block = {"format": format_}
        if kind == "document":
            block["name"] = self._document_name(part.filename, format_)
        elif part.filename is not None:
            self._knobs.drop("messages[].content[].file.filename")
        block["source"] = self._source(part, where)
        return {kind: block}

    def _source(self, part: MediaPart, where: str) -> Block:
        if part.url is not None:
            if part.url.lower().startswith("s3://") and "s3" not in self._family.refused:
                return {"s3Location": {"uri": part.url}}
            raise CannotCarry(f"remote {_KINDS[part.kind]}", param=where)
        data = part.data or ""
        try:
            binascii.a2b_base64(data, strict_mode=True)
        except (binascii.Error, ValueError):
            data = base64.b64encode(decoded(data, where)).decode()  # with line ends in it, say
        return {"bytes": data}

    def _document_name(self, filename: str | None, format_: str) -> str:
        """As much of the file's name as may be in it, without the ending that the format says, and no other document's."""
        stem = filename or ""
        if stem.lower().endswith(f".{format_}"):
            stem = stem[: -len(format_) - 1]
        name = _NOT_IN_NAMES.sub(" ", stem).strip()[: MAX_NAME_CHARS - 10].strip()
        if name != stem:
            self._knobs.drop("messages[].content[].file.filename")
        name = wanted = name or "document"
        number = 1
        while name in self._names:
            number += 1
            name = f"{wanted} ({number})"
        self._names.add(name)
        return name


def cache_point(mark: dict[str, Any]) -> Block:
    ttl = mark.get("ttl")
    return {"cachePoint": {"type": "default", "ttl": ttl} if isinstance(ttl, str) else {"type": "default"}}


def _cut(blocks: list[Block], chars: int) -> tuple[list[Block], list[Block]]:
    """The blocks up to so many characters of text, and the rest; a cache point stays with what it marks."""
    before: list[Block] = []
    rest = list(blocks)
    while rest and (chars > 0 or (before and "cachePoint" in rest[0])):
        block = rest.pop(0)
        text = block.get("text", "")
        if len(text) > chars > 0:
            before += _texts(text[:chars])
            rest[:0] = _texts(text[chars:])
            break
        before.append(block)
        chars -= len(text)
    return before, rest


def _texts(text: str) -> list[Block]:
    """ "The text field in the ContentBlock object … is blank": none of those."""
    return [{"text": text}] if text and not text.isspace() else []


def _position(detail: dict[str, Any]) -> tuple[int, int]:
    """How much text and how many calls stood before a thought."""
    position = detail.get("position")
    found = (position.get("text"), position.get("calls")) if isinstance(position, dict) else (0, 0)
    chars, calls = [value if type(value) is int and value > 0 else 0 for value in found]
    return chars, calls


def _kind_and_format(part: MediaPart, where: str) -> tuple[str, str]:
    """By the media type, else by how the name or the link ends."""
    found = _BY_TYPE.get(part.media_type.lower()) if part.media_type is not None else None
    if found is None:
        for name in (part.filename, part.url):
            ending = (name or "").rpartition(".")[2].lower()
            found = found or _BY_ENDING.get(ending)
    if found is None and part.media_type is not None and part.media_type.startswith("text/"):
        found = ("document", "txt")
    if found is None or (part.kind != "file" and found[0] != part.kind):
        said = f"of type {part.media_type}" if part.media_type is not None else "of an unknown type"
        raise CannotCarry(f"{_KINDS[part.kind]} {said}", param=where)
    return found
