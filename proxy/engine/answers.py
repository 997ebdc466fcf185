"""The headers of our answers."""

from __future__ import annotations

import math
from functools import lru_cache

from proxy.core.errors import CallerError, ProxyError
from proxy.core.target import Target

# of every answer that a browser might read
SAFE_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"), (b"cache-control", b"no-store")]
DEGRADED = b"x-tollbridge-degraded"  # names what does not work while requests go on


def answer_headers(
    request_id: str,
    target: Target,
    attempts: int,
    content_type: bytes,
    *,
    upstream_s: float,
    own_s: float,
    dropped: tuple[str, ...],
) -> list[tuple[bytes, bytes]]:
    """Of a completion: who answered, and where the time went until the first content."""
    headers = [
        (b"content-type", content_type),
        (b"x-request-id", request_id.encode()),
        (b"x-tollbridge-provider", target.provider.name.encode()),
        (b"x-tollbridge-model", header_value(target.upstream_model)),
        (b"x-tollbridge-attempts", b"%d" % attempts),
        (b"server-timing", b"upstream;dur=%.1f, proxy;dur=%.1f" % (upstream_s * 1000, own_s * 1000)),
        (b"cache-control", b"no-cache"),
    ]
    if dropped:
        headers.append((b"x-tollbridge-dropped", ", ".join(dropped).encode()))
    return headers


def error_headers(request_id: str, error: ProxyError, *, attempts: int | None = None) -> list[tuple[bytes, bytes]]:
    headers = [(b"content-type", b"application/json"), (b"x-request-id", request_id.encode())]
    if attempts is not None:
        headers.append((b"x-tollbridge-attempts", b"%d" % attempts))
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if not error.retryable and not (isinstance(error, CallerError) and error.status != 429):
        # the chain has been through every way there is: an SDK's own retry would only repeat it
        headers.append((b"x-should-retry", b"false"))
    return headers


@lru_cache(maxsize=4096)
def header_value(text: str) -> bytes:
    """Text as a header value: printable ASCII as it is, everything else as `?`."""
    if text.isascii() and text.isprintable():
        return text.encode()
    return "".join([c if c.isascii() and c.isprintable() else "?" for c in text]).encode()
