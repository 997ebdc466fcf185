"""Who may come in: clients' keys for the API, the admin's and the scraper's tokens for the rest. A caller is known or refused.

scope     needs
public    nothing: liveness, readiness
client    a client's key, once `clients:` names one or a runtime key was made (Bearer, x-api-key or api-key)
metrics   the metrics token or the admin's
admin     the admin token, or the dashboard's cookie, which was given for it; without one configured: a loopback peer that also
          asked for a loopback Host, so that a page whose name was rebound to 127.0.0.1 gets nothing

`auth: none` opens all of them. A cookie and a place on this machine are the browser's and not the page's: what comes with nothing
else to show, and says that it comes from a page, must come from one of ours.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import StrEnum
from urllib.parse import urlsplit

from proxy.config.settings import ClientSettings, Settings
from proxy.core.api_key import has_our_prefix, is_well_formed, key_digest
from proxy.core.errors import Forbidden, InvalidApiKey, TooManyAdminAttempts
from proxy.server.sessions import Sessions, session_value

ADMIN_ATTEMPTS_PER_MINUTE = 10
_MAX_PEERS = 10_000
_LOOPBACK_HOSTS = frozenset(("localhost", "127.0.0.1", "::1"))
_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))


class Scope(StrEnum):
    PUBLIC = "public"
    CLIENT = "client"
    METRICS = "metrics"
    ADMIN = "admin"


class Guard:
    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.sessions = Sessions(monotonic)
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()

    def check_host(self, settings: Settings, headers: Mapping[bytes, bytes]) -> None:
        """Raises Forbidden for a `Host` that is not ours, where `server.allowed_hosts` says which are."""
        allowed = settings.server.allowed_hosts
        if allowed and _host_name(headers.get(b"host", b"")) not in allowed:
            raise Forbidden("Nothing is answered here under that Host: `server.allowed_hosts` lists those that are.")

    def client(self, settings: Settings, headers: Mapping[bytes, bytes]) -> ClientSettings | None:
        """Who calls the API; None where nobody has to say. Raises InvalidApiKey, Forbidden."""
        if not settings.needs_key:
            if b"origin" in headers and not settings.auth_none:
                _refuse_foreign_page(settings, headers[b"origin"])
            return None
        key = _presented(headers)
        if key is None:
            raise InvalidApiKey("No API key was sent: set it as `Authorization: Bearer …`.")
        digest = key_digest(key)
        found = settings.clients_by_digest.get(digest)
        if found is None and settings.key_pepper is not None:
            digest = key_digest(key, settings.key_pepper.reveal().encode())
            found = settings.clients_by_digest.get(digest)
        if found is None or not any(hmac.compare_digest(digest, known) for known in found.key_digests):
            raise InvalidApiKey(_why_not(settings, key, digest))
        return found

    def still(self, settings: Settings, client: ClientSettings) -> ClientSettings | None:
        """As who a caller is known now, who was let in under other settings and whose body or turn took its time. Raises InvalidApiKey."""
        if not settings.needs_key:
            return None
        for digest in client.key_digests:
            found = settings.clients_by_digest.get(digest)
            if found is not None and found.name == client.name:
                return found
        raise InvalidApiKey("This API key has ended while the request was on its way.")

    def check(
        self, scope: Scope, settings: Settings, headers: Mapping[bytes, bytes], peer: str | None, *, method: str = "GET"
    ) -> None:
        """For `admin` and `metrics`. Raises InvalidApiKey, Forbidden, TooManyAdminAttempts."""
        if scope is Scope.PUBLIC or settings.auth_none:
            return
        tokens = [settings.admin_token] if settings.admin_token is not None else []
        if scope is Scope.METRICS and settings.metrics_token is not None:
            tokens.append(settings.metrics_token)
        if not tokens:
            if not _is_loopback(peer) or _host_name(headers.get(b"host", b"")) not in _LOOPBACK_HOSTS:
                raise Forbidden(
                    "Without `auth.admin_token` this answers only on loopback, asked for as localhost, 127.0.0.1 or [::1]."
                )
            if b"origin" in headers:
                _refuse_other_page(settings, headers, method)
            return
        presented = _presented(headers)
        if presented is not None and any(hmac.compare_digest(presented, token.reveal().encode()) for token in tokens):
            return
        if presented is not None:
            self._count_wrong(peer or "?")
        elif settings.admin_token is not None and self._signed_in(settings.admin_token.reveal(), headers):
            if b"origin" in headers or method not in _SAFE_METHODS:
                _refuse_other_page(settings, headers, method)
            return
        raise InvalidApiKey("This needs the admin token, as `Authorization: Bearer …`.")

    def sign_in(self, settings: Settings, token: bytes, peer: str | None) -> str | None:
        """A session's value for the admin token; None where none is configured. Raises InvalidApiKey, TooManyAdminAttempts."""
        if settings.admin_token is None:
            return None
        if not hmac.compare_digest(token, settings.admin_token.reveal().encode()):
            self._count_wrong(peer or "?")
            raise InvalidApiKey("This is not the admin token.")
        return self.sessions.begin(settings.admin_token.reveal())

    def _signed_in(self, admin_token: str, headers: Mapping[bytes, bytes]) -> bool:
        return b"cookie" in headers and self.sessions.holds(session_value(headers[b"cookie"]), admin_token)

    def _count_wrong(self, peer: str) -> None:
        now = self._monotonic()
        recent = [at for at in self._wrong.pop(peer, []) if now - at < 60]
        if len(recent) < ADMIN_ATTEMPTS_PER_MINUTE:
            recent.append(now)
            self._wrong[peer] = recent
            if len(self._wrong) > _MAX_PEERS:
                self._wrong.popitem(last=False)
            return
        self._wrong[peer] = recent
        raise TooManyAdminAttempts("Too many wrong tokens from this address.", retry_after_s=60 - (now - recent[0]))


def _presented(headers: Mapping[bytes, bytes]) -> bytes | None:
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"bearer":
        key = headers.get(b"x-api-key") or headers.get(b"api-key") or b""
    return key.strip() or None  # what stands behind a value is no part of it: RFC 9110, section 5.5


def _why_not(settings: Settings, key: bytes, digest: bytes) -> str:
    """Of a key that was made here once, whoever has it may know what became of it."""
    if has_our_prefix(key) and not is_well_formed(key):
        return "This API key is not whole: its checksum does not fit, so it was cut off or copied wrongly."
    ended = settings.refused_by_digest.get(digest) or settings.refused_by_digest.get(key_digest(key))
    return ended or "This API key is not known here: use one that is listed under `clients:` or that `tollbridge keys` made."


def _refuse_foreign_page(settings: Settings, origin: bytes) -> None:
    """Open on loopback is meant for programs, not for any web page that the same person happens to have open."""
    text = origin.decode("latin-1")
    if text not in settings.server.cors_origins and _is_foreign(text):
        raise Forbidden(
            "A page of another origin may not call this proxy: list it under `server.cors_origins`, or require keys with `clients:`."
        )


def _refuse_other_page(settings: Settings, headers: Mapping[bytes, bytes], method: str) -> None:
    """Browsers say with every request that could change something from which page it comes (`Origin`), and no page can make them lie:
    https://fetch.spec.whatwg.org/#origin-header. Ports do not count for SameSite, so the cookie alone would let in a page that another
    program on this machine serves. `Sec-Fetch-Site` helps where a reverse proxy changes the Host."""
    origin = headers.get(b"origin", b"").decode("latin-1")
    if headers.get(b"sec-fetch-site") == b"same-origin" or (origin and _authority(origin) == headers.get(b"host", b"").lower()):
        return
    if method in _SAFE_METHODS and (origin in settings.server.cors_origins or not _is_foreign(origin)):
        return
    raise Forbidden("A page of another origin may not do this with your rights here: it must show the admin token itself.")


def _authority(origin: str) -> bytes | None:
    """`http://127.0.0.1:8080` -> `127.0.0.1:8080`, as a Host header has it."""
    scheme, _, rest = origin.partition("://")
    return rest.lower().encode("latin-1") if scheme in ("http", "https") else None


def _is_foreign(origin: str) -> bool:
    """`null` is what a page says that hides where it is from; other schemes are programs (`vscode-webview://…`)."""
    try:
        url = urlsplit(origin)
    except ValueError:
        return True
    return origin == "null" or (url.scheme in ("http", "https") and url.hostname not in _LOOPBACK_HOSTS)


def asked_on_loopback(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the `Host` is this machine's: such a connection needs no TLS."""
    return _host_name(headers.get(b"host", b"")) in _LOOPBACK_HOSTS


def _is_loopback(peer: str | None) -> bool:
    return peer is not None and (peer.startswith("127.") or peer in ("::1", "::ffff:127.0.0.1", "localhost"))


def _host_name(host: bytes) -> str:
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]
