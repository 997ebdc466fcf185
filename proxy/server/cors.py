"""What lets a page of another origin read the answers to its calls of the API: https://fetch.spec.whatwg.org/#http-cors-protocol

Only origins under `server.cors_origins`, only the clients' routes and what can be read under `/api` (never `/metrics`, and nothing there
that changes anything), and never with the browser's own credentials: a page sends a client's key or the admin token itself, as every
caller does. What is refused simply has none of these headers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from starlette.types import Message, Send

PREFLIGHT_MAX_AGE_S = 600
# SDKs send headers of their own, so what a page asks for is what it gets, if it is a list of names at all
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,4096}")
_EXPOSED = (
    b"x-request-id, x-tollbridge-provider, x-tollbridge-model, x-tollbridge-attempts, x-tollbridge-dropped, x-tollbridge-cache, age, "
    b"x-tollbridge-degraded, server-timing, retry-after, x-should-retry, "
    b"x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    b"x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)


def allowed_origin(headers: Mapping[bytes, bytes], origins: Sequence[str]) -> bytes | None:
    """The origin of the page that asks, if it is listed."""
    origin = headers.get(b"origin")
    return origin if origin is not None and origin.decode("latin-1") in origins else None


async def answer_preflight(send: Send, origin: bytes, method: str, headers: Mapping[bytes, bytes], request_id: str) -> None:
    """Tells a browser that a page of `origin` may send requests with `method`."""
    found = [
        (b"x-request-id", request_id.encode()),
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-methods", method.encode()),
        (b"access-control-max-age", b"%d" % PREFLIGHT_MAX_AGE_S),
        (b"vary", b"origin, access-control-request-headers"),
    ]
    wanted = headers.get(b"access-control-request-headers", b"")
    if _HEADER_NAMES.fullmatch(wanted):
        found.append((b"access-control-allow-headers", wanted))
    await send({"type": "http.response.start", "status": 204, "headers": found})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def shared(send: Send, origin: bytes | None) -> Send:
    """Sends answers that a page of `origin` may read; with None, says at least that the answer depends on who asks."""

    async def send_shared(message: Message) -> None:
        if message["type"] == "http.response.start":
            more = [(b"vary", b"origin")]
            if origin is not None:
                more += [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", _EXPOSED)]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return send_shared
