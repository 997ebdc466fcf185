"""The runtime keys as they last were without fault, for whoever starts another process while the proxy runs.

A process that starts by itself refuses to when the file of keys is broken, for it knows of none. One of several workers that is started
anew must not: it begins with what the others have in force, so that a file that broke takes no worker away, and a key that was revoked
opens nothing there either. A file that is gone is no reason to let everybody in.
"""

from __future__ import annotations

from proxy.config.key_rules import with_keys
from proxy.config.key_store import KeysBroken, KeyStore
from proxy.config.keyring import Keyring
from proxy.config.settings import Settings


class LastKeys:
    """`keyring` was read a moment ago; the file may be another since."""

    def __init__(self, store: KeyStore, keyring: Keyring) -> None:
        self._store = store
        self._keyring = keyring
        self._seen = None if not keyring.made else (0, 0, 0)  # no file's: it is read at the first look

    def look(self) -> None:
        """One look at the file, which is read if it is another. What cannot be read changes nothing: the workers say so."""
        seen = self._store.stamp()
        if seen == self._seen:
            return
        self._seen = seen  # from before the reading: what changes meanwhile is seen at the next look
        try:
            found = self._store.read()
        except KeysBroken:
            return
        if found.made:
            self._keyring = found

    def over(self, settings: Settings, *, now_ms: int) -> Settings:
        """The same settings with these keys instead of their own."""
        return with_keys(settings, self._keyring, now_ms=now_ms)
