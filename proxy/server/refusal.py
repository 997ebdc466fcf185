"""What a request is answered with for which there is no room: the same bytes for everybody, but for the id and the date. When there is far
too much to do there are thousands of them a second, and what each costs is taken from the requests that are served.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from proxy.core.errors import Overloaded
from proxy.dialects.openai_request import error_object
from proxy.engine.answers import error_headers

RETRY_AFTER_S = 1
_ID = "-id-"


def no_room() -> Overloaded:
    return Overloaded("The proxy has as much to do as it can; try again shortly.", retry_after_s=RETRY_AFTER_S)


class Refusal:
    """On a connection that stays."""

    __slots__ = ("_after", "_before", "_default_headers")

    def __init__(self) -> None:
        self._default_headers: Sequence[tuple[bytes, bytes]] | None = None
        self._before = self._after = b""

    def answer(self, request_id: str, default_headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """`default_headers` are uvicorn's: another list whenever the date is another."""
        if default_headers is not self._default_headers:
            self._render(default_headers)
        return b"%b%b%b" % (self._before, request_id.encode(), self._after)

    def _render(self, default_headers: Sequence[tuple[bytes, bytes]]) -> None:
        error = no_room()
        body = orjson.dumps(error_object(error))
        lines = b"\r\n".join(map(b": ".join, (*error_headers(_ID, error), *default_headers)))
        told = b"%b%b\r\ncontent-length: %d\r\n\r\n%b" % (STATUS_LINE[error.status], lines, len(body), body)
        self._before, _, self._after = told.partition(_ID.encode())
        self._default_headers = default_headers
