"""The runtime keys as they are kept: what each may do, and since when and until when it opens anything. Values only.

    active --revoke--> revoked            active --its time is over--> expired            rotate: another secret, the same key

A key is what `clients:` would have as a stanza: a name, what it may ask for and spend. Its secrets come and go; of each only a digest is
here. A key that has ended stays, so that whoever still sends it is told why it opens nothing, and so that the proxy does not become
open to everybody when its last key ends: once there was a key, no key is 401.

Times are milliseconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from proxy.core.limits import NO_LIMITS, Budget, RateLimits

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND: Final = timedelta(milliseconds=1)
KeyState = Literal["active", "expired", "revoked"]


@dataclass(frozen=True, slots=True)
class KeySecret:
    """`pepper`: the mark of the pepper that its digest was made under, None for a plain SHA-256. `tail`: its last four characters.
    `until_ms`: it was replaced, and opens the key for so long."""

    digest: bytes
    pepper: str | None
    tail: str
    created_ms: int
    until_ms: int | None = None

    def is_over(self, now_ms: int) -> bool:
        return self.until_ms is not None and self.until_ms <= now_ms


@dataclass(frozen=True, slots=True)
class RuntimeKey:
    """`secrets`: the newest first. `chains` None: every model name. `models`: patterns of model names, None: every one."""

    id: str
    name: str
    created_ms: int
    secrets: tuple[KeySecret, ...]
    department: str | None = None
    agent: str | None = None
    chains: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    expires_ms: int | None = None
    revoked_ms: int | None = None
    budget: Budget | None = None
    limits: RateLimits = NO_LIMITS

    def state(self, now_ms: int) -> KeyState:
        if self.revoked_ms is not None:
            return "revoked"
        return "expired" if self.expires_ms is not None and self.expires_ms <= now_ms else "active"


@dataclass(frozen=True, slots=True)
class Keyring:
    """`made`: there is a file of them, so somebody made one once."""

    keys: tuple[RuntimeKey, ...] = ()
    made: bool = False

    def find(self, reference: str, now_ms: int) -> RuntimeKey | None:
        """By its id, else by its name: the one that is active, else the one that was made last."""
        named: RuntimeKey | None = None
        for key in self.keys:
            if key.id == reference:
                return key
            if key.name == reference and (named is None or named.state(now_ms) != "active"):
                named = key
        return named


NO_KEYS = Keyring()


def moment_text(ms: int | None) -> str | None:
    """RFC 3339 to the millisecond, exactly: what is read again is the same number."""
    return None if ms is None else f"{(EPOCH + ms * MILLISECOND).isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"
