"""The dashboard's sign-ins: a random value in a cookie, its SHA-256 here.

A session ends after twelve hours, when it is signed out, when the admin token is another one, and with the process.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

SESSION_S = 12 * 3600
MAX_SESSIONS = 1_000
COOKIE = "tollbridge_session"


@dataclass(frozen=True, slots=True)
class _Session:
    ends: float  # monotonic seconds
    token_digest: bytes  # of the admin token that it was opened with


class Sessions:
    def __init__(self, monotonic: Callable[[], float], new_value: Callable[[], str] = secrets.token_urlsafe) -> None:
        self._monotonic = monotonic
        self._new_value = new_value
        self._open: OrderedDict[bytes, _Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, admin_token: str) -> str:
        """The value for the cookie. With more than MAX_SESSIONS open the oldest ends."""
        now = self._monotonic()
        for digest in [digest for digest, session in self._open.items() if session.ends <= now]:
            del self._open[digest]
        while len(self._open) >= MAX_SESSIONS:
            self._open.popitem(last=False)
        value = self._new_value()
        self._open[_digest(value.encode())] = _Session(now + SESSION_S, _digest(admin_token.encode()))
        return value

    def holds(self, value: bytes | None, admin_token: str) -> bool:
        """Whether this is a session that was opened with the token that is in force now, and has not ended."""
        if value is None:
            return False
        session = self._open.get(_digest(value))
        if session is None or session.ends <= self._monotonic():
            return False
        return hmac.compare_digest(session.token_digest, _digest(admin_token.encode()))

    def end(self, value: bytes | None) -> None:
        if value is not None:
            self._open.pop(_digest(value), None)

    def end_all(self) -> None:
        self._open.clear()


def session_value(cookies: bytes | None) -> bytes | None:
    """Ours of a `cookie` header: https://www.rfc-editor.org/rfc/rfc6265#section-4.2.1"""
    for pair in (cookies or b"").split(b";"):
        name, _, value = pair.strip().partition(b"=")
        if name == COOKIE.encode():
            return value
    return None


def set_cookie(value: str, *, secure: bool) -> bytes:
    return _cookie(value, SESSION_S, secure=secure)


def clear_cookie(*, secure: bool) -> bytes:
    return _cookie("", 0, secure=secure)


def _cookie(value: str, max_age_s: int, *, secure: bool) -> bytes:
    more = "; Secure" if secure else ""
    return f"{COOKIE}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{more}".encode()


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
