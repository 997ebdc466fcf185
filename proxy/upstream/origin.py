"""From a provider's `base_url` to the origin to connect to and the path prefix to call under (RFC 3986)."""

from __future__ import annotations

from urllib.parse import urlsplit

from proxy.core.ports import Origin

DEFAULT_PORTS = {"http": 80, "https": 443}


def parse_base_url(base_url: str, *, ca_file: str | None = None, proxy_url: str | None = None) -> tuple[Origin, str]:
    """`https://api.example.com/openai/v1/` gives its origin and `/openai/v1`. A name outside ASCII goes as IDNA.

    Raises ValueError, whose text names the fault and never the URL (a URL can hold a password).
    """
    parts = urlsplit(base_url)
    if parts.scheme not in DEFAULT_PORTS:
        raise ValueError("a base URL starts with http:// or https://")
    if not parts.hostname:
        raise ValueError("the base URL has no host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a base URL holds no user or password: use api_key")
    if parts.query or parts.fragment:
        raise ValueError("a base URL has no query and no fragment")
    if not parts.path.isascii() or any(c.isspace() or not c.isprintable() for c in base_url):
        raise ValueError("the base URL holds characters that must be percent-encoded")
    try:
        host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode("ascii")
        port = parts.port or DEFAULT_PORTS[parts.scheme]
    except ValueError as error:  # UnicodeError is one too
        raise ValueError("the base URL's host or port is not valid") from error
    return Origin(parts.scheme, host, port, ca_file, proxy_url), parts.path.rstrip("/")
