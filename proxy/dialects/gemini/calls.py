"""A function call of Gemini's while it comes: whole as a rule, in pieces where Vertex AI was told to stream arguments.

https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/function-calling#streaming-fc

    call   = {name, args, id?}
           | {name, willContinue: true}  {partialArgs: [piece*], willContinue: true}*  {}
    piece  = {jsonPath, stringValue, willContinue?}      strings in parts, the last without willContinue
           | {jsonPath, numberValue | boolValue | nullValue}

https://www.rfc-editor.org/rfc/rfc9535 describes the paths; here they name one place: `$.rooms[0]['bed size']`.
"""

from __future__ import annotations

import re
from typing import Any

from proxy.core.errors import ErrorClass, UpstreamError

MAX_CALL_CHARS = 8 * 1024 * 1024
_MAX_STEPS = 64
_STEP = re.compile(r"""\.(?P<name>[^.\['"\]]+)|\[(?P<index>[0-9]{1,6})\]|\['(?P<single>[^']*)'\]|\["(?P<double>[^"]*)"\]""")


class OpenCall:
    """A call that has begun. `signature`: the seal that came with any piece of it."""

    __slots__ = ("_chars", "_path", "_pieces", "arguments", "id", "name", "signature")

    def __init__(self, name: str, id_: object, arguments: object) -> None:
        self.name = name
        self.id = id_ if isinstance(id_, str) and id_ else None
        self.signature: str | None = None
        self.arguments: dict[str, Any] = dict(arguments) if isinstance(arguments, dict) else {}
        self._path: str | None = None  # of the string that is not whole,
        self._pieces: list[str] = []  # and what there is of it
        self._chars = 0

    def add(self, pieces: object) -> None:
        """Raises UpstreamError when there is no end to it. What cannot be placed is left out."""
        for piece in pieces if isinstance(pieces, list) else []:
            path = piece.get("jsonPath") if isinstance(piece, dict) else None
            if not isinstance(path, str):
                continue
            text = piece.get("stringValue")
            if isinstance(text, str):
                self._add_text(path, text, more=piece.get("willContinue") is True)
            else:
                self._set(path, piece.get("numberValue", piece.get("boolValue")))

    def end(self) -> None:
        if self._path is not None:
            self._set(self._path, "".join(self._pieces))
            self._path = None

    def _add_text(self, path: str, text: str, *, more: bool) -> None:
        self._chars += len(text)
        if self._chars > MAX_CALL_CHARS:
            raise UpstreamError(ErrorClass.TOO_LARGE, "a tool call of the stream is too large", status=200)
        if path != self._path:
            self.end()
            self._path, self._pieces = path, []
        self._pieces.append(text)
        if not more:
            self.end()

    def _set(self, path: str, value: object) -> None:
        steps = _steps(path)
        if not steps or not isinstance(steps[0], str):
            return
        place: Any = self.arguments
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            inner = value if following is None else ([] if isinstance(following, int) else {})
            if isinstance(step, str) and isinstance(place, dict):
                if following is None or not isinstance(place.get(step), dict | list):
                    place[step] = inner
            elif isinstance(step, int) and isinstance(place, list) and step <= len(place):
                if step == len(place):
                    place.append(inner)
                elif following is None:
                    place[step] = inner
            else:
                return
            place = place[step]


def _steps(path: str) -> list[str | int]:
    """Names and positions; none for what is no path to one place."""
    steps: list[str | int] = []
    at = 1
    while path.startswith("$") and at < len(path) and len(steps) < _MAX_STEPS:
        found = _STEP.match(path, at)
        if found is None:
            return []
        index = found["index"]
        steps.append(
            int(index) if index is not None else next(filter(None, (found["name"], found["single"], found["double"])), "")
        )
        at = found.end()
    return steps if at == len(path) else []
