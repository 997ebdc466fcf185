"""What `GET /livez` is answered with where it cannot wait for its turn: on the fast lane, and at the door."""

from __future__ import annotations

import re
from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from proxy.engine.answers import SAFE_HEADERS

MAX_PROBE_BYTES = 2048
_BODY = b'{"status":"ok"}'
# one whole request with no header that asks for more than an answer; any other takes the long way
_PROBE = re.compile(
    rb"GET /livez HTTP/1\.1\r\n(?:(?:host|user-agent|accept|accept-encoding|connection): ?[ -~]*\r\n){1,8}\r\n", re.IGNORECASE
)
_HOST = re.compile(rb"\r\nhost:", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: ?close\r\n", re.IGNORECASE)


def asks_if_alive(data: bytes) -> bool:
    """Whether these are the bytes of one such request, and nothing else."""
    return _PROBE.fullmatch(data) is not None and len(_HOST.findall(data)) == 1


def asks_to_close(data: bytes) -> bool:
    return _CLOSE.search(data) is not None


def alive_answer(request_id: str, default_headers: Iterable[tuple[bytes, bytes]], *, keep_alive: bool) -> bytes:
    lines = [(b"content-type", b"application/json"), (b"x-request-id", request_id.encode()), *SAFE_HEADERS, *default_headers]
    head = b"\r\n".join([b"%b: %b" % pair for pair in lines])
    end = b"" if keep_alive else b"connection: close\r\n"
    return b"%b%b\r\n%bcontent-length: %d\r\n\r\n%b" % (STATUS_LINE[200], head, end, len(_BODY), _BODY)
