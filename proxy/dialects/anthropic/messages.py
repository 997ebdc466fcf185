"""A conversation as the Messages API takes it: `system` blocks on top, then turns of user and assistant, one after the other.

https://docs.anthropic.com/en/api/messages

    OpenAI                          Anthropic
    system, developer               top-level `system`, in their order, wherever they stand
    user                            user
    assistant                       assistant: thinking, text, tool_use
    tool, function                  tool_result in the user turn that follows, before its text
    consecutive ones of a role      one turn
    text                            text; what is blank is left out, since the API refuses it
    image_url                       image: base64 out of a data URL, url for https
    file                            document: PDF as base64 or url, any text as text; image for an image
    reasoning_details               thinking and redacted_thinking, where they stood, if this provider sealed them
    cache_control                   on the block that it marks; a message's, on the last block of the message

Call ids are made up of [a-zA-Z0-9_-] and unique in their turn: others are replaced, the same in a call and in its result. A conversation
must begin with the user; where it does not, a greeting is put in front.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from proxy.core.chat import MediaPart, OtherPart, Part, TextPart, Turn
from proxy.core.errors import CannotCarry, InvalidRequest, InvalidValue
from proxy.core.target import Target
from proxy.dialects.anthropic.models import thoughts_fit
from proxy.dialects.knobs import Knobs
from proxy.dialects.openai_messages import decoded

FORMAT = "anthropic"  # of the reasoning details that are ours
MAX_MODEL_CHARS = 256

Block = dict[str, Any]

_CALL_ID = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_THINKING = frozenset(("thinking", "redacted_thinking"))
_IMAGES = frozenset(("image/jpeg", "image/png", "image/gif", "image/webp"))
_ALIASES = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "application/x-pdf": "application/pdf"}
# how base64 begins that is one of these, for data that came without a type
_MAGIC = {
    "/9j/": "image/jpeg",
    "iVBORw0KGgo": "image/png",
    "R0lGOD": "image/gif",
    "UklGR": "image/webp",
    "JVBERi": "application/pdf",
}
_TEXT_NAMES = (".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".html", ".yaml", ".yml", ".log")
_TEXT_TYPES = frozenset(
    ("application/json", "application/xml", "application/yaml", "application/x-yaml", "application/javascript")
)
# parts in Anthropic's own shape, from callers who know it, and what each must have
_NATIVE_PARTS = {
    "image": "source",
    "document": "source",
    "search_result": "source",
    "tool_reference": "tool_name",
    "container_upload": "file_id",
}
# and what its own tools did in an earlier answer, which was shown to the caller as `provider_extras`
_NATIVE_OF_ASSISTANT = re.compile(r"server_tool_use|mcp_tool_use|[a-z_]{1,60}_tool_result|compaction|fallback|container_upload")
_GREETING: Block = {"type": "text", "text": "Hello."}


class Conversation:
    """`system` and `messages` of a request, and what the rest of it must know of them.

    Raises CannotCarry and CallerError while it is made.
    """

    def __init__(self, turns: list[Turn], target: Target, knobs: Knobs) -> None:
        self.system: list[Block] = []
        self.messages: list[dict[str, Any]] = []
        self._target = target
        self._knobs = knobs
        self._ids: dict[str, str] = {}  # of calls, ours by the caller's: the latest of each
        self._used_ids: set[str] = set()  # in the assistant turn at hand
        for turn in turns:
            if turn.role != "assistant":
                self._used_ids.clear()
            blocks = self._blocks(turn)
            if turn.cache_control is not None:
                self._mark(blocks, turn.cache_control)
            if turn.role == "system":
                self.system += blocks
            elif blocks:
                self._add("assistant" if turn.role == "assistant" else "user", blocks)
        self._make_valid()

    @property
    def prefilled(self) -> bool:
        """It ends with an assistant turn, which the model is to continue."""
        return bool(self.messages[-1]["role"] == "assistant")

    @property
    def mid_loop_without_thoughts(self) -> bool:
        """It ends with tool results, and the turn that called the tools does not begin with thinking."""
        if len(self.messages) < 2 or self.prefilled or self.messages[-1]["content"][0]["type"] != "tool_result":
            return False
        return self.messages[-2]["content"][0]["type"] not in _THINKING

    def drop_last_thoughts(self) -> None:
        """For a request that does not think: the last assistant turn may then not hold thinking."""
        for message in self.messages[-2:]:
            kept = [block for block in message["content"] if block["type"] not in _THINKING]
            if message["role"] == "assistant" and kept and len(kept) < len(message["content"]):
                message["content"] = kept
                self._knobs.drop("messages[].reasoning_details")

    def _add(self, role: str, blocks: list[Block]) -> None:
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"] += blocks
        else:
            self.messages.append({"role": role, "content": blocks})

    def _make_valid(self) -> None:
        if not self.messages:
            if not self.system:
                raise InvalidRequest("`messages` has no content that could be answered.", param="messages")
            self._knobs.drop("messages[].role")
            self.messages, self.system = [{"role": "user", "content": self.system}], []
        if self.messages[0]["role"] == "assistant":
            self.messages.insert(0, {"role": "user", "content": [dict(_GREETING)]})
        for message in self.messages:
            if message["role"] == "user":
                message["content"].sort(key=lambda block: block["type"] != "tool_result")  # stable: results first
            while message["content"][-1]["type"] in _THINKING:  # "the final block in an assistant message cannot be `thinking`"
                message["content"].pop()
                self._knobs.drop("messages[].reasoning_details")
        last = self.messages[-1]["content"][-1]
        if self.prefilled and last["type"] == "text" and last["text"] != last["text"].rstrip():
            last["text"] = last["text"].rstrip()  # "final assistant content cannot end with trailing whitespace"
            self._knobs.drop("messages[].content")

    def _blocks(self, turn: Turn) -> list[Block]:
        match turn.role:
            case "assistant":
                return self._assistant(turn)
            case "tool":
                return [self._result(turn)]
            case "system":
                for number, part in enumerate(turn.parts):
                    if not isinstance(part, TextPart):
                        raise CannotCarry("anything but text in a system message", param=f"{turn.where}.content[{number}]")
        return self._parts(turn)

    def _parts(self, turn: Turn) -> list[Block]:
        found = []
        for number, part in enumerate(turn.parts):
            block = self._part(part, f"{turn.where}.content[{number}]")
            if block is not None:
                found.append(block)
        return found

    def _part(self, part: Part, where: str) -> Block | None:
        if isinstance(part, OtherPart):
            return _native(part, where)
        block = _text(part.text) if isinstance(part, TextPart) else self._media(part, where)
        if part.cache_control is not None:
            if block is None:
                self._knobs.drop("messages[].content[].cache_control")
            else:
                block["cache_control"] = part.cache_control
        return block

    def _mark(self, blocks: list[Block], mark: dict[str, Any]) -> None:
        """A message's mark stands for its end."""
        if blocks and blocks[-1]["type"] not in _THINKING:
            blocks[-1].setdefault("cache_control", mark)
        else:
            self._knobs.drop("messages[].cache_control")

    def _media(self, part: MediaPart, where: str) -> Block:
        if part.detail is not None:
            self._knobs.drop("messages[].content[].image_url.detail")
        if part.file_id is not None:
            raise CannotCarry("files by id, which are known only where they were uploaded", param=where)
        if part.kind in ("audio", "video"):
            raise CannotCarry(f"{part.kind} input", param=where)
        media_type = _media_type(part)
        if part.kind == "image" or (media_type is not None and media_type.startswith("image/")):
            if part.filename is not None:
                self._knobs.drop("messages[].content[].file.filename")
            return {"type": "image", "source": _image_source(part, media_type, where)}
        block: Block = {"type": "document", "source": _document_source(part, media_type, where)}
        if part.filename:
            block["title"] = part.filename
        return block

    def _result(self, turn: Turn) -> Block:
        call_id = turn.call_id or ""
        block: Block = {"type": "tool_result", "tool_use_id": self._ids.get(call_id) or _clean_id(call_id, 0)}
        content = self._parts(turn)
        # a mark inside of a block does not count: it stands on the whole
        marks = [part.pop("cache_control") for part in content if "cache_control" in part]
        if content:
            block["content"] = content
        if marks:
            block["cache_control"] = marks[-1]
        return block

    def _assistant(self, turn: Turn) -> list[Block]:
        """Text and calls, with each thought in front of what it led to."""
        texts = _Texts(self._assistant_parts(turn))
        calls = [self._call(call.id, call.name, call.arguments) for call in turn.calls]
        found: list[Block] = []
        called = 0
        for detail in turn.reasoning:
            thought = self._thought(detail)
            if thought is None:
                self._knobs.drop("messages[].reasoning_details")
                continue
            after_chars, after_calls = _position(detail)
            found += texts.up_to(after_chars)
            found += calls[called:after_calls]
            called = max(called, after_calls)
            found.append(thought)
        found += texts.up_to(None)
        found += calls[called:]
        if all(block["type"] in _THINKING for block in found):
            if found:
                self._knobs.drop("messages[].reasoning_details")  # a turn cannot consist of thinking alone
            return []
        return found

    def _assistant_parts(self, turn: Turn) -> list[TextPart | OtherPart]:
        found: list[TextPart | OtherPart] = []
        for number, part in enumerate(turn.parts):
            if isinstance(part, TextPart) or (isinstance(part, OtherPart) and _NATIVE_OF_ASSISTANT.fullmatch(part.type)):
                found.append(part)
            elif isinstance(part, OtherPart) and part.type in _THINKING:
                self._knobs.drop(f"messages[].content[].{part.type}")  # who sealed it is not known
            else:
                raise CannotCarry("anything but text in an assistant message", param=f"{turn.where}.content[{number}]")
        return found

    def _thought(self, detail: dict[str, Any]) -> Block | None:
        """A detail that was sealed here as the block that it was, None for any other."""
        if detail.get("format") != FORMAT or detail.get("provider") != self._target.provider.name:
            return None
        thinker = detail.get("model")
        if isinstance(thinker, str) and not thoughts_fit(self._target.upstream_model, thinker[:MAX_MODEL_CHARS]):
            return None
        data, text, signature = detail.get("data"), detail.get("text"), detail.get("signature")
        if detail.get("type") == "reasoning.encrypted" and isinstance(data, str) and data:
            return {"type": "redacted_thinking", "data": data}
        if detail.get("type") == "reasoning.text" and isinstance(signature, str) and signature:
            return {"type": "thinking", "thinking": text if isinstance(text, str) else "", "signature": signature}
        return None

    def _call(self, id_: str, name: str, arguments: dict[str, Any]) -> Block:
        ours, attempt = _clean_id(id_, 0), 0
        while ours in self._used_ids:
            attempt += 1
            ours = _clean_id(id_, attempt)
        self._used_ids.add(ours)
        self._ids[id_] = ours
        return {"type": "tool_use", "id": ours, "name": name, "input": arguments}


class _Texts:
    """What an assistant turn said, to be had in stretches."""

    def __init__(self, parts: list[TextPart | OtherPart]) -> None:
        self._parts = parts
        self._next = 0
        self._taken = 0  # characters, of the parts before `_next` and of it

    def up_to(self, chars: int | None) -> list[Block]:
        """What stands before that character and was not had yet; None for all the rest."""
        found: list[Block] = []
        while self._next < len(self._parts) and (chars is None or self._taken < chars):
            part = self._parts[self._next]
            if isinstance(part, OtherPart):
                self._next += 1
                found.append(dict(part.raw))
                continue
            text, mark = part.text, part.cache_control
            if chars is not None and self._taken + len(text) > chars:
                cut = chars - self._taken
                text, mark = text[:cut], None
                self._parts[self._next] = TextPart(part.text[cut:], part.cache_control)
            else:
                self._next += 1
            self._taken += len(text)
            block = _text(text)
            if block is not None:
                if mark is not None:
                    block["cache_control"] = mark
                found.append(block)
        return found


def _text(text: str) -> Block | None:
    """ "text content blocks must contain non-whitespace text"."""
    return {"type": "text", "text": text} if text and not text.isspace() else None


def _position(detail: dict[str, Any]) -> tuple[int, int]:
    """How much text and how many calls stood before a thought."""
    position = detail.get("position")
    found = (position.get("text"), position.get("calls")) if isinstance(position, dict) else (0, 0)
    chars, calls = [value if type(value) is int and value > 0 else 0 for value in found]
    return chars, calls


def _clean_id(id_: str, attempt: int) -> str:
    if attempt == 0 and _CALL_ID.fullmatch(id_):
        return id_
    return "toolu_" + hashlib.sha256(f"{attempt}:{id_}".encode("utf-8", "replace")).hexdigest()[:24]


def _native(part: OtherPart, where: str) -> Block:
    needed = _NATIVE_PARTS.get(part.type)
    if needed is not None and needed in part.raw:
        return dict(part.raw)
    raise CannotCarry(f"content parts of type {part.type[:40]}", param=where)


def _media_type(part: MediaPart) -> str | None:
    if part.media_type is not None:
        media_type = part.media_type.lower()
        return _ALIASES.get(media_type, media_type)
    if part.data is not None:
        for magic, media_type in _MAGIC.items():
            if part.data.startswith(magic):
                return media_type
    if part.filename is not None and part.filename.lower().endswith(_TEXT_NAMES):
        return "text/plain"
    return None


def _image_source(part: MediaPart, media_type: str | None, where: str) -> Block:
    if part.data is not None:
        if media_type not in _IMAGES:
            raise CannotCarry(f"images of type {media_type}" if media_type else "images of an unknown type", param=where)
        return {"type": "base64", "media_type": media_type, "data": part.data}
    return _link(part, "images", where)


def _document_source(part: MediaPart, media_type: str | None, where: str) -> Block:
    if part.url is not None:
        if media_type not in (None, "application/pdf"):
            raise CannotCarry(f"links to documents of type {media_type}", param=where)
        return _link(part, "documents", where)
    data = part.data or ""
    if media_type == "application/pdf":
        return {"type": "base64", "media_type": media_type, "data": data}
    if media_type is not None and (media_type.startswith("text/") or media_type in _TEXT_TYPES):
        try:
            text = decoded(data, where).decode()
        except UnicodeDecodeError:
            raise InvalidValue(f"`{where}` is said to be {media_type} but is not UTF-8 text.", param=where) from None
        return {"type": "text", "media_type": "text/plain", "data": text}
    raise CannotCarry(f"documents of type {media_type}" if media_type else "documents of an unknown type", param=where)


def _link(part: MediaPart, what: str, where: str) -> Block:
    url = part.url or ""
    if not url.startswith("https://"):
        raise CannotCarry(f"{what} by links that are not https", param=where)
    return {"type": "url", "url": url}
