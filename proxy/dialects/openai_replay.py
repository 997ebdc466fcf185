"""The messages of a conversation as an OpenAI-compatible provider takes them back, where it is stricter than OpenAI.

A conversation may have been begun elsewhere: it comes back with what another provider's answers had (`reasoning_content`, `annotations`
and the like, which some refuse as unknown) and with another's ids of calls. Which provider refuses what is data, `Quirks.drop_in_messages`
and `Quirks.call_id_length`; most refuse nothing, and none of this is called for them.

    Mistral   "Tool call id was call_0fypS1hVX but must be a-z, A-Z, 0-9, with a length of 9"
              {"type": "extra_forbidden", "loc": ["body", "messages", 2, "assistant", "reasoning_content"], …}
    Groq      "'messages.1' : for 'role:assistant' the following must be satisfied[('messages.1' : property 'reasoning_content' is
              unsupported)]"

https://github.com/anomalyco/opencode/issues/1680 · https://github.com/BerriAI/litellm/issues/30835 ·
https://github.com/tashfeenahmed/freellmapi/issues/1070
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from proxy.dialects.openai_messages import says_something

Message = dict[str, Any]


def without_fields(messages: Sequence[Message], names: frozenset[str]) -> tuple[list[Message], set[str]]:
    """The messages without these fields, and what was lost (`messages[].name`): an empty one is gone, but no loss."""
    kept: list[Message] = []
    lost: set[str] = set()
    for message in messages:
        found = names & message.keys()
        if found:
            lost |= {f"messages[].{name}" for name in found if says_something(message[name])}
            message = {name: value for name, value in message.items() if name not in found}
        kept.append(message)
    return kept, lost


def with_call_ids(messages: Sequence[Message], length: int) -> list[Message]:
    """Ids of calls that are so many letters and digits, the same in a call and in its result. One that is so already stays."""
    return _CallIds(messages, length).written()


class _CallIds:
    def __init__(self, messages: Sequence[Message], length: int) -> None:
        self._messages = messages
        self._length = length
        self._new: dict[str, str] = {}
        # ids that stay as they are, so that none that is made is one of them
        self._taken = {id_ for message in messages for id_ in _ids(message) if self._fits(id_)}

    def written(self) -> list[Message]:
        return [self._message(message) for message in self._messages]

    def _message(self, message: Message) -> Message:
        changed = message
        answered = message.get("tool_call_id")
        if isinstance(answered, str):
            changed = {**changed, "tool_call_id": self._id(answered)}
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            changed = {**changed, "tool_calls": [self._call(call) for call in calls]}
        return changed

    def _call(self, call: Any) -> Any:
        if isinstance(call, dict) and isinstance(call.get("id"), str):
            return {**call, "id": self._id(call["id"])}
        return call

    def _id(self, id_: str) -> str:
        if self._fits(id_):
            return id_
        made = self._new.get(id_)
        attempt = 0
        while made is None:
            digest = hashlib.blake2b(f"{attempt}\0{id_}".encode("utf-8", "replace"), digest_size=32).hexdigest()[: self._length]
            attempt += 1
            if digest not in self._taken:
                made = self._new[id_] = digest
                self._taken.add(digest)
        return made

    def _fits(self, id_: str) -> bool:
        return len(id_) == self._length and id_.isascii() and id_.isalnum()


def _ids(message: Message) -> list[str]:
    calls = message.get("tool_calls")
    found = [
        message.get("tool_call_id"),
        *(call.get("id") for call in (calls if isinstance(calls, list) else []) if isinstance(call, dict)),
    ]
    return [id_ for id_ in found if isinstance(id_, str)]
