"""The file of the runtime keys: whole or not at all, whoever writes it at the same time, and whatever fails meanwhile."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.key_store import KeysBroken, KeyStore, keyring_of, text_of
from proxy.config.keyring import NO_KEYS, Keyring, KeySecret, RuntimeKey
from proxy.config.load import load
from proxy.core.errors import KeysUnavailable
from proxy.core.limits import Budget, RateLimits

unit, prop = pytest.mark.unit, pytest.mark.property

moments = st.integers(0, 253_402_300_799_000)
texts = st.text(min_size=1, max_size=20)
secrets = st.builds(
    KeySecret, st.binary(min_size=32, max_size=32), st.none() | texts, texts, moments, st.none() | moments
)  # fmt: skip
runtime_keys = st.builds(
    RuntimeKey,
    id=texts,
    name=texts,
    created_ms=moments,
    secrets=st.lists(secrets, min_size=1, max_size=3, unique_by=lambda secret: secret.digest).map(tuple),
    department=st.none() | texts,
    agent=st.none() | texts,
    chains=st.none() | st.lists(texts, max_size=3).map(tuple),
    models=st.none() | st.lists(texts, max_size=3).map(tuple),
    expires_ms=st.none() | moments,
    revoked_ms=st.none() | moments,
    budget=st.none() | st.builds(Budget, st.integers(0, 10**18), st.sampled_from(["day", "month", "once"]), st.booleans()),
    limits=st.builds(RateLimits, *(st.none() | st.integers(1, 10**9) for _ in range(3))),
)


def one(name: str, **more: Any) -> RuntimeKey:
    return RuntimeKey(
        id=f"id-{name}", name=name, created_ms=1, secrets=(KeySecret(name.encode().ljust(32), None, "tail", 1),), **more
    )


def adding(key: RuntimeKey) -> Callable[[Keyring], tuple[Keyring, str]]:
    return lambda keyring: (Keyring((*keyring.keys, key), made=True), key.name)


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    """Whose waiting for a lock takes no time."""
    return KeyStore(tmp_path / "data", sleep=lambda seconds: None)


@prop
@settings(max_examples=50)
@given(st.lists(runtime_keys, max_size=2, unique_by=(lambda key: key.id, lambda key: key.secrets[0].digest)))
def test_what_is_written_is_what_is_read(keys: list[RuntimeKey]) -> None:
    digests = [secret.digest for key in keys for secret in key.secrets]
    if len(set(digests)) == len(digests):
        keyring = Keyring(tuple(keys), made=True)
        assert keyring_of(text_of(keyring)) == keyring


@unit
def test_where_there_is_no_file_there_are_no_keys_and_never_were(store: KeyStore) -> None:
    assert store.read() == NO_KEYS
    assert store.stamp() is None
    assert not store.path.parent.exists()


@unit
def test_file_and_lock_are_for_their_owner_only(store: KeyStore) -> None:
    store.change(adding(one("a")))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.path.parent.iterdir()}
    assert modes == {"keys.json": 0o600, "keys.lock": 0o600}
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


@unit
def test_every_change_is_another_file(store: KeyStore) -> None:
    seen = [store.stamp()]
    for name in "abc":
        store.change(adding(one(name)))
        seen.append(store.stamp())
    assert len(set(seen)) == 4
    store.change(lambda keyring: (keyring, None))
    assert store.stamp() == seen[-1]


@unit
def test_what_a_step_raises_changes_nothing(store: KeyStore) -> None:
    store.change(adding(one("a")))
    before = store.stamp()

    def fails(keyring: Keyring) -> tuple[Keyring, None]:
        raise LookupError("no")

    with pytest.raises(LookupError):
        store.change(fails)
    assert store.stamp() == before
    assert store.change(adding(one("b")))[1] == "b"


@unit
def test_many_who_change_it_at_once_lose_nothing(tmp_path: Path) -> None:
    names = [f"{writer}.{n}" for writer in range(6) for n in range(6)]

    def write(writer: int) -> None:
        own = KeyStore(tmp_path)
        for name in names[writer * 6 : writer * 6 + 6]:
            own.change(adding(one(name)))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    assert sorted(key.name for key in KeyStore(tmp_path).read().keys) == sorted(names)
    assert {path.name for path in tmp_path.iterdir()} == {"keys.json", "keys.lock"}


@unit
def test_a_lock_that_another_program_holds_is_waited_for_and_then_told(store: KeyStore) -> None:
    store.change(adding(one("a")))
    with (store.path.parent / "keys.lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(KeysUnavailable, match="another program has held"):
            store.change(adding(one("b")))
        assert [key.name for key in store.read().keys] == ["a"]  # who reads needs no lock
    store.change(adding(one("b")))


@unit
def test_made_by_root_it_is_the_servers_to_read(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    given_to: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda descriptor, user, group: given_to.append((user, group)))
    store.change(adding(one("a")))
    owner = store.path.parent.stat()
    assert given_to == [(owner.st_uid, owner.st_gid)] * 2
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    store.change(adding(one("b")))
    assert len(given_to) == 2


CALLS = ("open", "fsync", "replace", "fchown")


@unit
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EACCES], ids=errno.errorcode.get)
def test_whatever_call_fails_there_is_the_old_or_the_new_and_nothing_beside_it(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The first call fails, then the second, until a run passes."""
    store.change(adding(one("a")))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    failed, made = 0, [0]
    for fails_at in range(1, 20):
        made = [0]
        with monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, _failing(getattr(os, name), made, fails_at, code))
            try:
                store.change(adding(one(f"b{fails_at}")))
                told = None
            except KeysUnavailable as error:
                told = error.message
        worked = told is None
        if told is not None:
            failed += 1
            assert "nothing is changed" in told
        names = [key.name for key in store.read().keys]
        assert names == (["a", f"b{fails_at}"] if worked else ["a"])
        assert {path.name for path in store.path.parent.iterdir()} == {"keys.json", "keys.lock"}
        if made[0] < fails_at:
            break
        store.path.write_bytes(text_of(Keyring((one("a"),), made=True)))
    assert failed >= 5
    assert made[0] < fails_at, "no run passed"


def _failing(real: Any, made: list[int], fails_at: int, code: int) -> Any:
    def call(*given: Any, **named: Any) -> Any:
        made[0] += 1
        if made[0] == fails_at:
            raise OSError(code, os.strerror(code))
        return real(*given, **named)

    return call


# -- broken


GOOD = text_of(Keyring((one("a", budget=Budget(1), chains=("smart",), expires_ms=5), one("b")), made=True))


def changed(**fields: Any) -> bytes:
    document = json.loads(GOOD)
    document["keys"][0] |= fields
    return json.dumps(document).encode()


BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not JSON"),
    "half of it": (GOOD[: len(GOOD) // 2], "not JSON"),
    "not JSON": (b"keys: []", "not JSON"),
    "not UTF-8": (b'{"version": 1, "keys": ["\xff"]}', "not JSON"),
    "nested without end": (b"[" * 200_000, "not JSON"),
    "a list": (b"[]", "no list of keys"),
    "no keys": (b'{"version": 1}', "no list of keys"),
    "a later version": (b'{"version": 2, "keys": []}', "of version 2"),
    "a version that is true": (b'{"version": true, "keys": []}', "of version True"),
    "an entry that is none": (b'{"version": 1, "keys": [7]}', "entry 1"),
    "an entry without digest": (changed(secrets=[{}]), "entry 1"),
    "an entry without a secret": (changed(secrets=[]), "entry 1"),
    "a digest that is short": (changed(secrets=[{**json.loads(GOOD)["keys"][0]["secrets"][0], "digest": "00"}]), "entry 1"),
    "a name that is none": (changed(name=None), "entry 1"),
    "a time without zone": (changed(expires="2027-01-31T00:00:00"), "entry 1"),
    "chains that are text": (changed(chains="smart"), "entry 1"),
    "a budget of minus one": (changed(budget={"usd": "-1", "per": "day", "hard": True}), "entry 1"),
    "a budget that is not a number": (changed(budget={"usd": "NaN", "per": "day", "hard": True}), "entry 1"),
    "hard that is text": (changed(budget={"usd": "1", "per": "day", "hard": "no"}), "entry 1"),
    "a limit of nothing": (changed(limits={"rpm": 0, "tpm": None, "in_flight": None}), "entry 1"),
    "a limit that is true": (changed(limits={"rpm": True, "tpm": None, "in_flight": None}), "entry 1"),
    "two of the same id": (changed(id="id-b"), "the same id"),
    "two of the same digest": (changed(secrets=json.loads(GOOD)["keys"][1]["secrets"]), "the same digest"),
}


@unit
@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN.keys())
def test_of_a_file_that_is_not_understood_nothing_is_taken(store: KeyStore, case: tuple[bytes, str]) -> None:
    text, words = case
    store.path.parent.mkdir()
    store.path.write_bytes(text)
    with pytest.raises(KeysBroken) as broken:
        store.read()
    assert words in str(broken.value)
    assert str(store.path) in str(broken.value)
    assert "put back a copy" in str(broken.value)
    with pytest.raises(KeysBroken):
        store.change(adding(one("c")))
    assert store.path.read_bytes() == text


@unit
def test_one_that_cannot_be_opened_is_broken(store: KeyStore) -> None:
    store.path.mkdir(parents=True)
    with pytest.raises(KeysBroken, match="cannot be read"):
        store.read()


@unit
def test_cut_anywhere_it_is_broken_and_never_half_a_list() -> None:
    for length in range(len(GOOD) - 1):
        with pytest.raises(Exception, match="not JSON"):
            keyring_of(GOOD[:length])


@prop
@given(st.data())
def test_whatever_bit_flips_it_is_broken_or_a_list(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(GOOD) - 1))
    flipped = bytearray(GOOD)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        assert keyring_of(bytes(flipped)).made
    except Exception as error:  # noqa: BLE001 - the one type is what is asserted
        assert type(error).__name__ == "_Unreadable"  # noqa: PT017 - as is what else it might be


@unit
def test_a_configuration_beside_a_broken_file_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/keys.json").write_text("{")
    (tmp_path / "providers.yaml").write_text("chains: {demo: [demo/chat]}\n")
    made = load(tmp_path / "providers.yaml", environ={})
    assert made.needs_key
    assert made.keys_problem is not None
    assert made.clients_by_digest == {}
