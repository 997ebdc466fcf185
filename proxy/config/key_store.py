"""The file of the runtime keys, `keys.json` in `data_dir`: digests, and what each key may do. No key is in it.

Whoever changes it, a server or the command line, holds a lock on `keys.lock`, writes the whole anew beside it and renames, so that a
reader finds the old or the new and never half of one, and a crash loses nothing that was answered for. Readers take no lock: they look
whether it is another file than before.

    {"version": 1, "keys": [{"id", "name", "created", "secrets": [{"digest", "pepper", "tail", "created", "until"}], …}]}
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from proxy.config.keyring import EPOCH, MILLISECOND, NO_KEYS, Keyring, KeySecret, RuntimeKey, moment_text
from proxy.core.errors import KeysUnavailable
from proxy.core.limits import Budget, RateLimits
from proxy.core.money import nusd_to_usd, usd_to_nusd

FILE: Final = "keys.json"
LOCK: Final = "keys.lock"
VERSION: Final = 1
MAX_FILE_BYTES: Final = 64 << 20  # 10,000 keys with a hundred names each
LOCK_WAIT_S: Final = 5.0
LOCK_LOOK_S: Final = 0.02
DIGEST_BYTES: Final = 32
MEND: Final = "put back a copy of it, or move it away: then every runtime key is forgotten, and new ones can be made"

Stamp = tuple[int, int, int] | None
T = TypeVar("T")


class KeysBroken(Exception):
    """The file is there and cannot be understood. The message says what is wrong and what mends it."""


class KeyStore:
    """`keys.json` of one folder. Blocking: a server calls it in a thread."""

    def __init__(self, data_dir: Path, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.path = data_dir / FILE
        self._lock = data_dir / LOCK
        self._sleep = sleep

    def stamp(self) -> Stamp:
        """What tells the file from what it was, None while there is none."""
        try:
            found = self.path.stat()
        except (OSError, ValueError):
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def read(self) -> Keyring:
        """Without a file there are no keys, and there never were. Raises KeysBroken."""
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return NO_KEYS
        except (OSError, ValueError) as error:
            raise KeysBroken(f"{self.path} cannot be read: {getattr(error, 'strerror', None) or 'not a path'} ({MEND})") from None
        try:
            return keyring_of(data)
        except _Unreadable as error:
            raise KeysBroken(f"{self.path} is broken: {error} ({MEND})") from None

    def change(self, step: Callable[[Keyring], tuple[Keyring, T]]) -> tuple[Keyring, T]:
        """One step from what is there, under the lock; what it raises changes nothing. Raises KeysBroken, KeysUnavailable."""
        with self._locked():
            before = self.read()
            after, result = step(before)
            if after != before:
                self._write(after)
            return after, result

    @contextmanager
    def _locked(self) -> Iterator[None]:
        folder = self.path.parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._cannot_lock(error) from error
        try:
            try:
                _like_its_folder(descriptor, folder)
            except OSError as error:
                raise self._cannot_lock(error) from error
            self._wait_for(descriptor)
            yield
        finally:
            os.close(descriptor)  # and the lock with it

    def _cannot_lock(self, error: OSError) -> KeysUnavailable:
        return KeysUnavailable(f"{self._lock} cannot be opened: {error.strerror}; nothing is changed")

    def _wait_for(self, descriptor: int) -> None:
        for _ in range(round(LOCK_WAIT_S / LOCK_LOOK_S)):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                self._sleep(LOCK_LOOK_S)
        raise KeysUnavailable(f"another program has held {self._lock} for {LOCK_WAIT_S:.0f} s; nothing is changed")

    def _write(self, keyring: Keyring) -> None:
        folder = self.path.parent
        new = folder / f"{FILE}.{os.getpid()}.new"
        try:
            with suppress(FileNotFoundError):
                new.unlink()  # of a process of the same number that died while it wrote
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with open(descriptor, "wb") as file:
                    _like_its_folder(descriptor, folder)
                    file.write(text_of(keyring))
                    file.flush()
                    os.fsync(descriptor)
                os.replace(new, self.path)
            except BaseException:  # whatever it was: half a file of keys must not stay
                with suppress(OSError):
                    new.unlink()
                raise
        except OSError as error:
            raise KeysUnavailable(f"{self.path} cannot be written: {error.strerror}; nothing is changed") from error
        _sync_folder(folder)


def _like_its_folder(descriptor: int, folder: Path) -> None:
    """Made by root beside a server that runs as somebody else, the file would be unreadable to the server."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _sync_folder(folder: Path) -> None:
    """So that the new name outlives a power failure; where that cannot be had, the change is made all the same."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# -- the text of the file


class _Unreadable(Exception):
    pass


def text_of(keyring: Keyring) -> bytes:
    keys = [_written(key) for key in keyring.keys]
    return json.dumps({"version": VERSION, "keys": keys}, indent=1, ensure_ascii=False).encode() + b"\n"


def keyring_of(data: bytes) -> Keyring:
    """Raises _Unreadable: nothing is taken of a file that is not understood as a whole."""
    if len(data) > MAX_FILE_BYTES:
        raise _Unreadable(f"it is larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise _Unreadable("it is not JSON") from None
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise _Unreadable("it has no list of keys")
    version = document.get("version")
    if version != VERSION or isinstance(version, bool):
        raise _Unreadable(f"it is of version {str(version)[:20]}, and this release knows version {VERSION}")
    keys = []
    for index, entry in enumerate(document["keys"]):
        try:
            keys.append(_read(entry))
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
            raise _Unreadable(f"entry {index + 1} of its keys cannot be understood") from None
    _refuse_twins(keys)
    return Keyring(tuple(keys), made=True)


def _refuse_twins(keys: list[RuntimeKey]) -> None:
    for what, values in (
        ("id", [key.id for key in keys]),
        ("digest", [secret.digest for key in keys for secret in key.secrets]),
    ):
        if len(set(values)) != len(values):
            raise _Unreadable(f"two of its entries have the same {what}")


def _written(key: RuntimeKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "created": moment_text(key.created_ms),
        "expires": moment_text(key.expires_ms),
        "revoked": moment_text(key.revoked_ms),
        "department": key.department,
        "agent": key.agent,
        "chains": None if key.chains is None else list(key.chains),
        "models": None if key.models is None else list(key.models),
        "budget": None
        if key.budget is None
        else {"usd": nusd_to_usd(key.budget.limit_nusd), "per": key.budget.per, "hard": key.budget.hard},
        "limits": {"rpm": key.limits.rpm, "tpm": key.limits.tpm, "in_flight": key.limits.in_flight},
        "secrets": [
            {
                "digest": secret.digest.hex(),
                "pepper": secret.pepper,
                "tail": secret.tail,
                "created": moment_text(secret.created_ms),
                "until": moment_text(secret.until_ms),
            }
            for secret in key.secrets
        ],
    }


def _read(entry: dict[str, Any]) -> RuntimeKey:
    budget, limits = entry["budget"], entry["limits"]
    secrets = tuple(
        KeySecret(
            _digest(secret["digest"]),
            _text(secret["pepper"]),
            _words(secret["tail"]),
            _moment(secret["created"]),
            _maybe_moment(secret["until"]),
        )
        for secret in entry["secrets"]
    )
    if not secrets:
        raise ValueError("no secret")
    return RuntimeKey(
        id=_words(entry["id"]),
        name=_words(entry["name"]),
        created_ms=_moment(entry["created"]),
        secrets=secrets,
        department=_text(entry["department"]),
        agent=_text(entry["agent"]),
        chains=_names(entry["chains"]),
        models=_names(entry["models"]),
        expires_ms=_maybe_moment(entry["expires"]),
        revoked_ms=_maybe_moment(entry["revoked"]),
        budget=None if budget is None else _budget(budget),
        limits=RateLimits(*(_count(limits[name]) for name in ("rpm", "tpm", "in_flight"))),
    )


def _digest(text: str) -> bytes:
    found = bytes.fromhex(text)
    if len(found) != DIGEST_BYTES:
        raise ValueError("no digest")
    return found


def _words(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("no text")
    value.encode()  # a ValueError for half a surrogate pair, which could be read and not be written again
    return value


def _text(value: Any) -> str | None:
    return None if value is None else _words(value)


def _names(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise TypeError("no list")
    return tuple(map(_words, value))


def _budget(value: dict[str, Any]) -> Budget:
    if value["per"] not in ("day", "month", "once") or not isinstance(value["hard"], bool):
        raise ValueError("no budget")
    limit_nusd = usd_to_nusd(_words(value["usd"]))
    if limit_nusd < 0:
        raise ValueError("no budget")
    return Budget(limit_nusd, value["per"], value["hard"])


def _count(value: Any) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError("no count")
    return value if value is None else int(value)


def _moment(value: Any) -> int:
    found = datetime.fromisoformat(_words(value))
    if found.tzinfo is None:
        raise ValueError("no zone")
    return (found - EPOCH) // MILLISECOND


def _maybe_moment(value: Any) -> int | None:
    return None if value is None else _moment(value)
