"""What a worker that is started anew is told of the runtime keys while their file is broken or gone: what the others go by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from proxy.config.key_rules import added, revoked, wanted_of
from proxy.config.key_store import KeyStore
from proxy.config.keyring import NO_KEYS, Keyring
from proxy.config.last_keys import LastKeys
from proxy.config.load import load
from proxy.config.settings import Settings
from proxy.core.api_key import key_digest, new_key
from proxy.core.ulid import UlidFactory

pytestmark = pytest.mark.unit

NOW: Final = 1_795_271_400_000  # 2026-11-21T14:30:00Z
KEY: Final = new_key(lambda count: bytes(range(count)))


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(None, environ={}, overrides={"data_dir": tmp_path}, wall=lambda: NOW / 1000)


def make(store: KeyStore, settings: Settings, key: str = KEY, name: str = "alice") -> Keyring:
    wanted, new_id = wanted_of({"name": name}, settings, NOW), UlidFactory(lambda: NOW / 1000)
    return store.change(lambda keyring: added(keyring, wanted, settings, key=key, new_id=new_id, now_ms=NOW))[0]


def let_in(keys: LastKeys, settings: Settings) -> list[str]:
    now = keys.over(settings, now_ms=NOW)
    assert now.needs_key
    assert now.keys_problem is None
    return sorted(client.name for client in now.clients_by_digest.values())


@pytest.mark.parametrize("harm", [lambda file: file.write_bytes(b"{"), Path.unlink], ids=["broken", "gone"])
def test_a_file_that_broke_or_is_gone_takes_nobody_s_key_and_opens_to_nobody(
    store: KeyStore, settings: Settings, harm: Callable[[Path], object]
) -> None:
    keys = LastKeys(store, make(store, settings))
    keys.look()
    harm(store.path)
    keys.look()

    assert let_in(keys, load(None, environ={}, overrides={"data_dir": store.path.parent})) == ["alice"]


def test_what_was_revoked_before_the_file_broke_stays_so(store: KeyStore, settings: Settings) -> None:
    keys = LastKeys(store, make(store, settings))
    store.change(lambda keyring: revoked(keyring, "alice", now_ms=NOW))
    keys.look()
    store.path.write_bytes(b"{")
    keys.look()

    assert let_in(keys, settings) == []
    assert "was revoked" in keys.over(settings, now_ms=NOW).refused_by_digest[key_digest(KEY.encode())]


def test_the_first_key_of_all_is_seen_and_so_is_a_file_that_was_mended(store: KeyStore, settings: Settings) -> None:
    keys = LastKeys(store, NO_KEYS)
    keys.look()
    assert not keys.over(settings, now_ms=NOW).needs_key
    make(store, settings)
    keys.look()
    assert let_in(keys, settings) == ["alice"]

    whole = store.path.read_bytes()
    store.path.write_bytes(b"{")
    keys.look()
    store.path.write_bytes(whole)
    make(store, settings, new_key(lambda count: b"\x07" * count), "bob")
    keys.look()
    assert let_in(keys, settings) == ["alice", "bob"]


def test_a_file_that_stays_as_it_is_is_read_once(store: KeyStore, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = LastKeys(store, make(store, settings))
    read = store.read
    times = 0

    def counted() -> Keyring:
        nonlocal times
        times += 1
        return read()

    monkeypatch.setattr(store, "read", counted)
    for _ in range(3):
        keys.look()
    assert times == 1
