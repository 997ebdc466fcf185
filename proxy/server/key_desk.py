"""The runtime keys of one serving process: what is in force, what the admin changes, and what others changed in the file.

Four times a second the file is looked at, and the clock for what ends by itself; a difference becomes new settings, which are swapped in
whole. So a key that was revoked, by whomever, opens nothing any more in any process within a second, on a connection that is kept too,
and a request costs no look at file or clock.

A file that broke, or that is gone, while the process runs changes nothing: the keys that were last read stay, and it is said so.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, TypeVar

from proxy.config import key_rules
from proxy.config.key_store import KeysBroken, KeyStore
from proxy.config.keyring import Keyring, RuntimeKey
from proxy.config.settings import Settings
from proxy.core.api_key import new_key
from proxy.core.errors import KeysUnavailable
from proxy.core.ulid import UlidFactory

LOOK_S: Final = 0.25
T = TypeVar("T")


class Log(Protocol):
    def info(self, event: str, **fields: Any) -> None: ...
    def error(self, event: str, **fields: Any) -> None: ...


class KeyDesk:
    """For one event loop. `settings` are those in force, `apply` swaps in others that differ in their clients alone."""

    def __init__(
        self,
        store: KeyStore,
        settings: Callable[[], Settings],
        apply: Callable[[Settings], None],
        *,
        wall: Callable[[], float],
        log: Log,
        entropy: Callable[[int], bytes] = os.urandom,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.problem: str | None = None
        self._store = store
        self._settings = settings
        self._apply = apply
        self._wall = wall
        self._log = log
        self._entropy = entropy
        self._sleep = sleep
        self._new_id = UlidFactory(wall)
        self._turn = asyncio.Lock()  # one change after the other, so that none is undone by one that began before it
        self._seen = store.stamp()
        self._keyring = settings().keyring
        # the settings were read a moment ago, and the file may be another since
        self._must_read = self._seen is not None or self._keyring.made

    @property
    def keyring(self) -> Keyring:
        return self._keyring

    def adopt(self, settings: Settings) -> Settings:
        """Settings that were read anew, with the keys that are in force: those of the file may be broken, or a moment old."""
        return key_rules.with_keys(settings, self._keyring, now_ms=self._now_ms())

    # -- what others changed

    async def run(self) -> None:
        while True:
            await self._sleep(LOOK_S)
            try:
                await self.look()
            except Exception as fault:  # noqa: BLE001 - whatever it was, a key that is revoked next must still be noticed
                self._log.error("keys_look_failed", fault=repr(fault)[:500], next="looked at again")
                self._must_read = True

    async def look(self) -> None:
        """One look at the file and the clock, and what follows from it."""
        changes_ms = self._settings().keys_change_ms
        if changes_ms is not None and changes_ms <= self._now_ms():
            async with self._turn:
                await self._use(self._keyring)
        if self._must_read or self._store.stamp() != self._seen:  # a microsecond
            async with self._turn:
                await self._read()

    async def _read(self) -> None:
        self._must_read = False
        self._seen = self._store.stamp()  # from before the reading: what changes meanwhile is seen at the next look
        try:
            keyring, is_new = await asyncio.to_thread(self._found)
        except KeysBroken as error:
            if str(error) != self.problem:
                self._log.error("keys_unreadable", reason=str(error), next="the keys that were last read stay in force")
            self.problem = str(error)
            return
        self.problem = None
        if is_new:
            self._log.info("keys_changed", keys=len(keyring.keys))
            await self._use(keyring)

    def _found(self) -> tuple[Keyring, bool]:
        """What is in the file, and whether it differs from what is in force. Raises KeysBroken."""
        keyring = self._store.read()
        self._refuse_nothing(keyring)
        return keyring, keyring != self._keyring

    async def _use(self, keyring: Keyring) -> None:
        """Made in a thread, for thousands of keys take as many microseconds; and anew if the file was reloaded meanwhile."""
        self._keyring = keyring
        while True:
            base = self._settings()
            made = await asyncio.to_thread(key_rules.with_keys, base, keyring, now_ms=self._now_ms())
            if base is self._settings():
                break
        self._apply(made)

    # -- what the admin changes

    async def create(self, body: Mapping[str, Any]) -> tuple[RuntimeKey, str]:
        """The key and its secret, which is nowhere else. Raises InvalidValue, KeysUnavailable."""
        now_ms, settings = self._now_ms(), self._settings()
        wanted = key_rules.wanted_of(body, settings, now_ms)
        secret = new_key(self._entropy)
        key = await self._change(
            lambda keyring: key_rules.added(keyring, wanted, settings, key=secret, new_id=self._new_id, now_ms=now_ms)
        )
        self._log.info("key_created", key=key.id, client=key.name)
        return key, secret

    async def revoke(self, reference: str) -> RuntimeKey:
        """Raises NotFound, KeysUnavailable."""
        now_ms = self._now_ms()
        key = await self._change(lambda keyring: key_rules.revoked(keyring, reference, now_ms=now_ms))
        self._log.info("key_revoked", key=key.id, client=key.name)
        return key

    async def rotate(self, reference: str, grace: str) -> tuple[RuntimeKey, str]:
        """The key and its new secret. Raises NotFound, InvalidValue, KeysUnavailable."""
        now_ms, settings = self._now_ms(), self._settings()
        secret, grace_ms = new_key(self._entropy), key_rules.grace_ms(grace)
        key = await self._change(
            lambda keyring: key_rules.rotated(keyring, reference, settings, key=secret, grace=grace_ms, now_ms=now_ms)
        )
        self._log.info("key_rotated", key=key.id, client=key.name, grace_s=grace_ms / 1000)
        return key, secret

    async def _change(self, step: Callable[[Keyring], tuple[Keyring, T]]) -> T:
        # a caller who hangs up must not leave a change in the file that this process does not know of
        return await asyncio.shield(self._changed(step))

    async def _changed(self, step: Callable[[Keyring], tuple[Keyring, T]]) -> T:
        def checked(keyring: Keyring) -> tuple[Keyring, T]:
            self._refuse_nothing(keyring)
            return step(keyring)

        async with self._turn:
            try:
                keyring, result = await asyncio.to_thread(self._store.change, checked)
            except KeysBroken as error:
                raise KeysUnavailable(f"{error}; nothing is changed") from error
            self._must_read = True  # whether the file is still this one
            await self._use(keyring)
            return result

    def _refuse_nothing(self, keyring: Keyring) -> None:
        if self._keyring.made and not keyring.made:
            raise KeysBroken(f"{self._store.path} is gone (put it back; a start without it forgets every runtime key)")

    def _now_ms(self) -> int:
        return round(self._wall() * 1000)
