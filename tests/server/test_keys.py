"""The runtime keys as the admin changes them over HTTP, and as a serving process notices what others changed in the file."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import orjson
import pytest
from starlette.applications import Starlette
from starlette.types import Message

from proxy.app import ROUTES
from proxy.config import key_rules
from proxy.config.key_rules import MAX_GRACE_MS, revoked, with_keys
from proxy.config.key_store import KeyStore
from proxy.config.load import load
from proxy.config.settings import Settings
from proxy.core.api_key import is_well_formed
from proxy.core.errors import InvalidApiKey, KeysUnavailable, LedgerUnavailable
from proxy.server.addresses import Addresses
from proxy.server.endpoints import routes
from proxy.server.gateway import Gateway
from proxy.server.guard import Guard
from proxy.server.key_desk import KeyDesk
from proxy.server.openapi import OPERATIONS, document
from tests.server.json_schema import faults

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

ADMIN = b"admin-token-fake"
FILE = """
chains: {smart: [demo/chat], other: [demo/chat]}
auth: {admin_token: admin-token-fake}
"""
NOW = 1_795_271_400.0
DAY = 86_400.0
APPLICATION = Starlette(routes=routes(ROUTES))


@lru_cache(maxsize=1)
def settings_of_the_file() -> Settings:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "providers.yaml"
        path.write_text(FILE, encoding="utf-8")
        return load(path, environ={})


class Proxy:
    """What the routes and the desk use of a running one. `told`: the lines of its log."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "providers.yaml"
        self.now = NOW
        self.store = KeyStore(folder / "data")
        file = replace(settings_of_the_file(), data_dir=folder / "data")
        self.settings = with_keys(file, self.store.read(), now_ms=round(NOW * 1000))
        self.guard = Guard(lambda: 0.0)
        self.addresses = Addresses()
        self.swaps = 0
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.used: Mapping[str, int] | None = {}
        self.services = self.surroundings = self.clock = self.log = self.ledger = self.meter = self
        self.keys = KeyDesk(self.store, lambda: self.settings, self.swap, wall=self.wall, log=self, sleep=self.sleep)

    def wall(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)

    def swap(self, settings: Settings) -> None:
        self.settings = settings
        self.swaps += 1

    def new_id(self) -> str:
        return "R1"

    def info(self, event: str, **fields: Any) -> None:
        self.told.append((event, fields))

    error = info

    def rejected(self, reason: str) -> None:
        return None

    def redact(self, text: str) -> str:
        return text

    async def last_used(self) -> Mapping[str, int]:
        if self.used is None:
            raise LedgerUnavailable("no")
        return self.used

    def who(self, key: str | None) -> str | None:
        """Whom the guard lets in with a key."""
        try:
            client = self.guard.client(self.settings, {} if key is None else {b"x-api-key": key.encode()})
        except InvalidApiKey:
            return None
        return "anybody" if client is None else client.name


@pytest.fixture
def proxy(tmp_path: Path) -> Proxy:
    return Proxy(tmp_path)


async def ask(proxy: Proxy, method: str, path: str, body: Any = None) -> tuple[int, Any, bytes]:
    """Status, JSON and the bytes of the answer."""
    data = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
    messages: list[Message] = []
    incoming: list[Message] = [{"type": "http.request", "body": data, "more_body": False}]

    async def receive() -> Message:
        return incoming.pop() if incoming else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        messages.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"authorization", b"Bearer " + ADMIN)],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
        "scheme": "http",
        "state": {"gateway": cast(Gateway, proxy)},
    }
    await APPLICATION(scope, receive, send)
    return messages[0]["status"], orjson.loads(messages[1]["body"]), messages[1]["body"]


async def made(proxy: Proxy, name: str = "alice", **fields: Any) -> str:
    status, key, _ = await ask(proxy, "POST", "/api/v1/keys", {"name": name, **fields})
    assert status == 200, key
    return str(key["key"])


async def ended(proxy: Proxy, secret: str) -> None:
    """When the key opens nothing any more."""
    async with asyncio.timeout(30):
        while proxy.who(secret) is not None:  # noqa: ASYNC110 - the guard sets no event
            await asyncio.sleep(0.001)


def shape(name: str) -> Any:
    answer = OPERATIONS[name].answer
    assert answer is not None
    return answer


# -- over HTTP


async def test_a_key_from_its_making_to_its_end(proxy: Proxy) -> None:
    assert (await ask(proxy, "GET", "/api/v1/keys"))[1] == {"data": []}
    assert proxy.who(None) == "anybody"
    status, key, _ = await ask(proxy, "POST", "/api/v1/keys", {"name": "alice", "chains": ["smart"], "expires": "90d"})
    secret = key["key"]
    assert status == 200
    assert is_well_formed(secret.encode())
    assert list(faults(key, shape("POST /api/v1/keys"), document(ROUTES))) == []
    assert (key["state"], key["chains"], key["expires"]) == ("active", ["smart"], "2027-02-19T14:30:00.000Z")
    assert [proxy.who(each) for each in (secret, None)] == ["alice", None]

    proxy.used = {"alice": 1_795_271_399_000}
    status, listed, _ = await ask(proxy, "GET", "/api/v1/keys")
    assert list(faults(listed, shape("GET /api/v1/keys"), document(ROUTES))) == []
    assert listed["data"][0] == {
        **{name: value for name, value in key.items() if name != "key"},
        "last_used": "2026-11-21T14:29:59.000Z",
    }

    proxy.now += 60
    status, rotated, _ = await ask(proxy, "POST", f"/api/v1/keys/{key['id']}/rotate", {"grace": "2h"})
    assert list(faults(rotated, shape("POST /api/v1/keys/{id}/rotate"), document(ROUTES))) == []
    assert (rotated["id"], rotated["rotated"], rotated["old_until"]) == (
        key["id"],
        "2026-11-21T14:31:00.000Z",
        "2026-11-21T16:31:00.000Z",
    )
    assert [proxy.who(each) for each in (secret, rotated["key"])] == ["alice", "alice"]

    status, gone, _ = await ask(proxy, "DELETE", "/api/v1/keys/alice")
    assert (status, gone["state"], gone["revoked"]) == (200, "revoked", "2026-11-21T14:31:00.000Z")
    assert list(faults(gone, shape("DELETE /api/v1/keys/{id}"), document(ROUTES))) == []
    assert [proxy.who(each) for each in (secret, rotated["key"], None)] == [None, None, None]
    proxy.now += 60
    assert (await ask(proxy, "DELETE", f"/api/v1/keys/{key['id']}"))[1] == gone
    assert (await ask(proxy, "POST", f"/api/v1/keys/{key['id']}/rotate"))[0] == 400
    assert [event for event, _ in proxy.told] == ["key_created", "key_rotated", "key_revoked", "key_revoked"]


async def test_no_later_answer_and_nothing_else_has_the_key(proxy: Proxy) -> None:
    first = await made(proxy)
    rotated = [await ask(proxy, "POST", "/api/v1/keys/alice/rotate") for _ in range(2)]
    secrets = [first, *(answer["key"] for _, answer, _ in rotated)]
    answers = [
        (await ask(proxy, "GET", "/api/v1/keys"))[2],
        (await ask(proxy, "POST", "/api/v1/keys", {"name": "alice"}))[2],
        (await ask(proxy, "DELETE", "/api/v1/keys/alice"))[2],
        (await ask(proxy, "GET", "/api/v1/keys"))[2],
    ]
    seen = b"".join([*answers, *(path.read_bytes() for path in proxy.settings.data_dir.iterdir()), repr(proxy.told).encode()])
    seen += repr(proxy.settings).encode() + repr(proxy.keys.keyring).encode()
    assert len(set(secrets)) == 3
    for secret in secrets:
        assert secret.encode() not in seen
        assert secret[3:-4].encode() not in seen


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/api/v1/keys", b"{", None),
        ("/api/v1/keys", b"[]", None),
        ("/api/v1/keys", {}, "name"),
        ("/api/v1/keys", {"name": "bob", "role": "admin"}, "role"),
        ("/api/v1/keys", {"name": "bob", "limits": {"rps": 1}}, "limits.rps"),
        ("/api/v1/keys", {"name": "bob", "chains": ["nowhere"]}, "chains.0"),
        ("/api/v1/keys", {"name": "alice"}, "name"),
        ("/api/v1/keys/alice/rotate", {"grace": 5}, "grace"),
        ("/api/v1/keys/alice/rotate", {"grace": "31d"}, "grace"),
        ("/api/v1/keys/alice/rotate", {"expires": "90d"}, "expires"),
    ],
    ids=str,
)
async def test_bodies_are_strict_and_what_is_wrong_is_named(proxy: Proxy, path: str, body: Any, param: str | None) -> None:
    await made(proxy)
    before = proxy.store.stamp()
    status, answer, _ = await ask(proxy, "POST", path, body)
    assert (status, answer["error"]["param"]) == (400, param)
    assert proxy.store.stamp() == before


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/api/v1/keys/bob"), ("POST", "/api/v1/keys/bob/rotate")])
async def test_who_is_not_there_is_404(proxy: Proxy, method: str, path: str) -> None:
    await made(proxy)
    status, answer, _ = await ask(proxy, method, path)
    assert (status, answer["error"]["code"]) == (404, "not_found")


async def test_a_body_without_end_is_refused(proxy: Proxy) -> None:
    status, answer, _ = await ask(proxy, "POST", "/api/v1/keys", b"{" + b" " * 70_000)
    assert (status, answer["error"]["code"]) == (413, "request_too_large")


async def test_without_the_ledger_nobody_knows_when_a_key_was_used(proxy: Proxy) -> None:
    await made(proxy)
    proxy.used = None
    status, listed, _ = await ask(proxy, "GET", "/api/v1/keys")
    assert (status, listed["data"][0]["last_used"]) == (200, None)


async def test_unless_given_a_grace_is_an_hour(proxy: Proxy) -> None:
    await made(proxy)
    for body in (None, {}, {"grace": None}):
        assert (await ask(proxy, "POST", "/api/v1/keys/alice/rotate", body))[1]["old_until"] == "2026-11-21T15:30:00.000Z"
    assert (await ask(proxy, "POST", "/api/v1/keys/alice/rotate", {"grace": "0s"}))[1]["old_until"] is None
    assert MAX_GRACE_MS == 30 * 86_400_000


# -- what others changed


async def test_what_another_process_changed_is_seen_at_the_next_look(proxy: Proxy, tmp_path: Path) -> None:
    other = Proxy(tmp_path)
    secret = await made(other)
    assert proxy.who(secret) == "anybody"
    await proxy.keys.look()
    assert [proxy.who(each) for each in (secret, None)] == ["alice", None]
    before = proxy.settings
    await proxy.keys.look()
    assert proxy.settings is before, "nothing changed, and a kept connection goes on knowing its caller"
    await other.keys.revoke("alice")
    await proxy.keys.look()
    assert proxy.settings is not before
    assert proxy.who(secret) is None


async def test_what_this_process_changed_is_not_taken_twice(proxy: Proxy) -> None:
    await made(proxy)
    assert proxy.swaps == 1
    await proxy.keys.look()
    assert proxy.swaps == 1
    assert [event for event, _ in proxy.told] == ["key_created"]


async def test_what_changed_between_the_reading_and_the_first_look_is_seen(tmp_path: Path) -> None:
    other = Proxy(tmp_path)
    secret = await made(other)
    proxy = Proxy(tmp_path)
    late = await made(other, "late")
    proxy.keys._seen = proxy.store.stamp()  # as if that had come before the first stamp
    await proxy.keys.look()
    assert [proxy.who(each) for each in (secret, late)] == ["alice", "late"]


async def test_what_ends_by_itself_ends_without_a_change_of_the_file(proxy: Proxy) -> None:
    secret = await made(proxy, expires="1d")
    file = proxy.store.stamp()
    await proxy.keys.look()
    proxy.now = NOW + DAY - 1
    await proxy.keys.look()
    assert (proxy.who(secret), proxy.swaps) == ("alice", 1)
    proxy.now = NOW + DAY
    await proxy.keys.look()
    assert (proxy.who(secret), proxy.swaps, proxy.store.stamp()) == (None, 2, file)
    await proxy.keys.look()
    assert proxy.swaps == 2
    assert proxy.settings.needs_key


async def test_a_replaced_secret_ends_with_its_grace(proxy: Proxy) -> None:
    old = await made(proxy)
    new = (await ask(proxy, "POST", "/api/v1/keys/alice/rotate", {"grace": "1h"}))[1]["key"]
    proxy.now = NOW + 3600
    await proxy.keys.look()
    assert [proxy.who(each) for each in (old, new)] == [None, "alice"]


@pytest.mark.parametrize("damage", ["broken", "gone", "cut"])
async def test_a_file_that_breaks_while_it_runs_changes_nothing_and_is_told_once(proxy: Proxy, damage: str) -> None:
    secret = await made(proxy)
    good = proxy.store.path.read_bytes()
    match damage:
        case "broken":
            proxy.store.path.write_bytes(b"{")
        case "cut":
            proxy.store.path.write_bytes(good[:-20])
        case _:
            proxy.store.path.unlink()
    for _ in range(3):
        await proxy.keys.look()
    assert [proxy.who(each) for each in (secret, None)] == ["alice", None]
    assert str(proxy.store.path) in str(proxy.keys.problem)
    assert [event for event, _ in proxy.told].count("keys_unreadable") == 1
    with pytest.raises(KeysUnavailable, match="nothing is changed"):
        await proxy.keys.create({"name": "bob"})
    status, answer, _ = await ask(proxy, "DELETE", "/api/v1/keys/alice")
    assert (status, answer["error"]["code"]) == (503, "keys_unavailable")
    proxy.store.path.write_bytes(good)
    await proxy.keys.look()
    assert proxy.keys.problem is None
    await proxy.keys.revoke("alice")
    assert proxy.who(secret) is None


async def test_a_reload_takes_the_keys_that_are_in_force(proxy: Proxy, tmp_path: Path) -> None:
    secret = await made(proxy)
    proxy.store.path.write_bytes(b"{")
    proxy.path.write_text(FILE + "clients: {listed: {key: sk-listed-0001}}\n", encoding="utf-8")
    loaded = load(proxy.path, environ={}, wall=proxy.wall)
    assert loaded.keys_problem is not None
    proxy.settings = proxy.keys.adopt(loaded)
    assert [proxy.who(each) for each in (secret, "sk-listed-0001", None)] == ["alice", "listed", None]


async def test_changes_at_once_are_all_made(proxy: Proxy) -> None:
    names = [f"k{n}" for n in range(8)]
    secrets = await asyncio.gather(*(made(proxy, name) for name in names))
    assert [proxy.who(secret) for secret in secrets] == names
    assert {key.name for key in proxy.store.read().keys} == set(names) == {key.name for key in proxy.keys.keyring.keys}


async def test_a_caller_who_hangs_up_leaves_no_change_unnoticed(proxy: Proxy) -> None:
    secret = await made(proxy)
    entered, go = threading.Event(), threading.Event()
    change = proxy.store.change

    def slow(step: Any) -> Any:
        entered.set()
        assert go.wait(30)
        return change(step)

    proxy.store.change = slow  # type: ignore[method-assign]
    task = asyncio.create_task(proxy.keys.revoke("alice"))
    await asyncio.to_thread(entered.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await ended(proxy, secret)


async def test_who_was_let_in_before_is_asked_again_when_his_turn_comes(proxy: Proxy) -> None:
    secret = await made(proxy)
    client = proxy.guard.client(proxy.settings, {b"x-api-key": secret.encode()})
    assert client is not None
    await made(proxy, "bob")
    again = proxy.guard.still(proxy.settings, client)
    assert again is proxy.settings.clients["alice"]
    await proxy.keys.rotate("alice", "1h")
    assert proxy.guard.still(proxy.settings, client) is proxy.settings.clients["alice"]
    await proxy.keys.revoke("alice")
    with pytest.raises(InvalidApiKey):
        proxy.guard.still(proxy.settings, client)
    await made(proxy, "alice")  # another key of the same name does not let the old one in
    with pytest.raises(InvalidApiKey):
        proxy.guard.still(proxy.settings, client)


async def test_unknown_keys_leave_nothing_behind(proxy: Proxy) -> None:
    await made(proxy)
    settings = proxy.settings
    for n in range(10_000):
        try:
            proxy.guard.client(settings, {b"x-api-key": b"sk-%d" % n})
        except InvalidApiKey:
            continue
        raise AssertionError("let in")
    assert len(settings.clients_by_digest) == 1
    assert settings.refused_by_digest == {}
    assert proxy.guard._wrong == {}


async def test_run_looks_again_and_again(proxy: Proxy, tmp_path: Path) -> None:
    secret = await made(proxy)
    running = asyncio.create_task(proxy.keys.run())
    KeyStore(proxy.settings.data_dir).change(lambda keyring: revoked(keyring, "alice", now_ms=round(NOW * 1000)))
    await ended(proxy, secret)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_whatever_goes_wrong_with_a_look_it_is_told_and_looked_again(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = await made(proxy)
    read, faulty = proxy.store.read, [MemoryError("no room"), RuntimeError("no thread")]

    def broken() -> Any:
        if faulty:
            raise faulty.pop()
        return read()

    KeyStore(proxy.settings.data_dir).change(lambda keyring: revoked(keyring, "alice", now_ms=round(NOW * 1000)))
    monkeypatch.setattr(proxy.store, "read", broken)
    running = asyncio.create_task(proxy.keys.run())
    await ended(proxy, secret)
    running.cancel()
    assert [event for event, _ in proxy.told].count("keys_look_failed") == 2


async def test_a_reload_in_the_midst_of_a_change_loses_neither(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = await made(proxy)
    entered, go = threading.Event(), threading.Event()

    def slow(*given: Any, **named: Any) -> Settings:
        entered.set()
        assert go.wait(30)
        return with_keys(*given, **named)

    monkeypatch.setattr(key_rules, "with_keys", slow)
    change = asyncio.create_task(proxy.keys.revoke("alice"))
    await asyncio.to_thread(entered.wait, 30)
    monkeypatch.setattr(key_rules, "with_keys", with_keys)
    reloaded = proxy.settings = proxy.keys.adopt(replace(proxy.settings, hash="another"))
    assert proxy.who(secret) is None, "the reload has the key's end already"
    go.set()
    await change
    assert proxy.settings.hash == reloaded.hash == "another"
    assert proxy.who(secret) is None
