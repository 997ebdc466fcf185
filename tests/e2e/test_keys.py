"""Keys that come and go while the proxy runs, as a caller with OpenAI's SDK meets them, over real sockets and through both doors."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from proxy.config.check import exposure_fault
from proxy.config.key_store import KeysBroken
from proxy.config.load import load
from proxy.runtime import Runtime
from proxy.torture.upstream import Upstream
from tests.command_line import invoke
from tests.e2e.client import MESSAGES, WAIT_S, Client, chat_body, until
from tests.e2e.conftest import Launch, Start, provider, write_config
from tests.e2e.running import Proxy

pytestmark = pytest.mark.integration

ADMIN = "admin-token-0001"
AS_ADMIN = {"authorization": f"Bearer {ADMIN}"}
DAY_S = 86_400.0


def config(url: str) -> dict[str, Any]:
    return {
        "auth": {"admin_token": ADMIN},
        "providers": {"fake": provider(url)},
        "chains": {"smart": ["fake/ok"], "other": ["fake/other"], "elsewhere-*": ["fake/*"]},
        "clients": {"listed": {"key": "sk-listed-0001"}},
    }


@pytest.fixture(scope="module")
def proxy(start: Start, upstream: Upstream) -> Proxy:
    return start(config(upstream.url))


@pytest.fixture(scope="module")
def plain(start: Start, upstream: Upstream) -> Proxy:
    """Without the fast lane."""
    return start(config(upstream.url), door="asgi")


@pytest.fixture(params=["proxy", "plain"])
def either(request: pytest.FixtureRequest) -> Proxy:
    """Through both doors."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Proxy)
    return found


def admin(proxy: Proxy, method: str, path: str, body: Any = None) -> dict[str, Any]:
    answer = proxy.client.request(method, path, body, AS_ADMIN)
    assert answer.status == 200, answer.body
    return dict(answer.json)


def create(proxy: Proxy, name: str, **fields: Any) -> str:
    return str(admin(proxy, "POST", "/api/v1/keys", {"name": name, **fields})["key"])


@contextmanager
def sdk(proxy: Proxy, key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key=key, max_retries=0, timeout=WAIT_S) as made:
        yield made


def ask(made: openai.OpenAI, model: str = "smart", **more: Any) -> Any:
    create: Any = made.chat.completions.create
    return create(model=model, messages=MESSAGES, **more)


def test_a_key_from_its_making_to_its_end(either: Proxy) -> None:
    old = create(either, "alice", department="research", agent="search")
    with sdk(either, old) as made:
        create_raw: Any = made.chat.completions.with_raw_response.create
        raw = create_raw(model="smart", messages=MESSAGES, extra_headers={"x-tollbridge-department": "mine"})
        assert list(ask(made, stream=True))
    path = f"/api/v1/requests/{raw.headers['x-request-id']}"
    until(lambda: either.client.get(path, AS_ADMIN).status == 200, what="the row")
    row = either.client.get(path, AS_ADMIN)
    assert (row.json["client"], row.json["department"], row.json["agent"]) == ("alice", "research", "search")
    until(lambda: listed(either)["alice"]["last_used"], what="when it was last used")

    new = str(admin(either, "POST", "/api/v1/keys/alice/rotate", {"grace": "1h"})["key"])
    for key in (old, new):
        with sdk(either, key) as made:
            assert ask(made).choices
    newest = str(admin(either, "POST", "/api/v1/keys/alice/rotate", {"grace": "0s"})["key"])
    for key in (old, new):
        refused(either, key, "was replaced")
    with sdk(either, newest) as made:
        assert ask(made).choices

    assert admin(either, "DELETE", "/api/v1/keys/alice")["state"] == "revoked"
    refused(either, newest, "was revoked")
    refused(either, newest[:-1], "checksum")
    refused(either, "sk-anything", "not known")


def refused(proxy: Proxy, key: str, words: str) -> None:
    with sdk(proxy, key) as made:
        for call in (lambda: ask(made), lambda: ask(made, stream=True), made.models.list):
            with pytest.raises(openai.AuthenticationError, match=words) as caught:
                call()
            assert caught.value.code == "invalid_api_key"
            assert key[3:] not in str(caught.value)


def listed(proxy: Proxy) -> dict[str, dict[str, Any]]:
    return {key["name"]: key for key in admin(proxy, "GET", "/api/v1/keys")["data"]}


def test_an_expired_key(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    key = create(proxy, "brief", expires="90d")
    with sdk(proxy, key) as made:
        assert ask(made).choices
        wall = proxy.runtime.clock.wall
        monkeypatch.setattr(proxy.runtime.keys, "_wall", lambda: wall() + 91 * DAY_S)
        until(lambda: "brief" not in proxy.runtime.settings.clients, what="the end of the key")
        with pytest.raises(openai.AuthenticationError, match="has expired"):
            ask(made)  # on the connection that it had


def test_chains_and_models_outside_its_rights(either: Proxy) -> None:
    narrow, named = (
        create(either, "narrow", chains=["smart", "elsewhere-*"]),
        create(either, "named", models=["smart", "fake/o*"]),
    )
    for key, may, may_not in (
        (narrow, ["smart", "elsewhere-ok"], ["other", "fake/ok"]),
        (named, ["smart", "fake/ok"], ["other", "elsewhere-ok"]),
    ):
        with sdk(either, key) as made:
            for model in may:
                assert ask(made, model).choices
            for model in may_not:
                with pytest.raises(openai.PermissionDeniedError) as denied:
                    ask(made, model)
                assert (denied.value.code, denied.value.param) == ("model_not_allowed", "model")
            with pytest.raises(openai.NotFoundError) as missing:
                ask(made, "nowhere")
            assert missing.value.code == "model_not_found"
            ids = [model.id for model in made.models.list()]
            assert "smart" in ids
            assert "other" not in ids
            assert made.models.retrieve("smart").id == "smart"
            with pytest.raises(openai.NotFoundError):
                made.models.retrieve("other")


def test_limits_and_budget_outlive_a_rotation(proxy: Proxy) -> None:
    key = create(proxy, "limited", limits={"rpm": 2})
    poor = create(proxy, "poor", budget={"usd": "0.00001", "per": "once"})
    assert proxy.client.chat("smart", headers={"x-api-key": key}).headers["x-ratelimit-remaining-requests"] == "1"
    key = str(admin(proxy, "POST", "/api/v1/keys/limited/rotate", {"grace": "0s"})["key"])
    codes = [proxy.client.chat("smart", headers={"x-api-key": key}).status for _ in range(2)]
    assert codes == [200, 429]

    with sdk(proxy, poor) as made:
        assert ask(made).choices
    poor = str(admin(proxy, "POST", "/api/v1/keys/poor/rotate", {"grace": "0s"})["key"])
    with sdk(proxy, poor) as made, pytest.raises(openai.RateLimitError) as spent:
        ask(made)
    assert spent.value.code == "budget_exceeded"


def test_a_key_opens_what_it_is_for_and_nothing_of_the_admins(proxy: Proxy) -> None:
    key = create(proxy, "ordinary")
    for method, path in (("GET", "/api/v1/keys"), ("POST", "/api/v1/keys"), ("GET", "/metrics"), ("DELETE", "/api/v1/keys/x")):
        assert proxy.client.request(method, path, {} if method == "POST" else None, {"x-api-key": key}).status == 401
    assert proxy.client.chat("smart", headers=AS_ADMIN).status == 401


def test_a_name_of_the_file_is_refused(proxy: Proxy) -> None:
    answer = proxy.client.request("POST", "/api/v1/keys", {"name": "listed"}, AS_ADMIN)
    assert (answer.status, answer.error["param"]) == (400, "name")


def test_a_revoked_key_opens_nothing_on_a_connection_that_is_kept_nor_for_what_is_still_on_its_way(either: Proxy) -> None:
    key = create(either, "kept")
    body = json.dumps(chat_body("smart")).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with connected(either) as kept, connected(either) as slow:
        for _ in range(3):
            kept.sendall(head + body)
            assert status_of(kept) == 200
        slow.sendall(head + body[:10])
        until(lambda: len(either._server.server_state.connections) >= 2, what="the connection")
        if isinstance(either._server.config.http, type):  # the fast lane has let the half request in by its head
            until(lambda: any(getattr(c, "_fast", None) for c in either._server.server_state.connections), what="its head")
        admin(either, "DELETE", "/api/v1/keys/kept")
        kept.sendall(head + body)
        assert status_of(kept) == 401
        slow.sendall(body[10:])
        assert status_of(slow) == 401


@contextmanager
def connected(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=WAIT_S) as connection:
        yield connection


def status_of(connection: socket.socket) -> int:
    """Of one whole answer."""
    seen = b""
    while b"\r\n\r\n" not in seen:
        seen += connection.recv(65_536)
    head, _, body = seen.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(65_536)
    return int(seen.split(b" ")[1])


def test_the_command_line_beside_a_running_server(proxy: Proxy) -> None:
    def run(*arguments: str) -> Any:
        path = str(proxy.runtime.settings.path)
        result = invoke(["keys", *arguments, "--config", path, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["data"]

    key = run(
        "create", "script", "--chain", "smart", "--model", "sm*", "--expires", "2h", "--usd", "1.5", "--per", "day", "--rpm", "9"
    )
    until(lambda: proxy.client.chat("smart", headers={"x-api-key": key["key"]}).status == 200, what="the key")
    assert listed(proxy)["script"]["budget"] == {"usd": "1.5", "per": "day", "hard": True}
    rotated = run("rotate", "script", "--grace", "0s")
    assert rotated["id"] == key["id"]
    until(lambda: proxy.client.chat("smart", headers={"x-api-key": rotated["key"]}).status == 200, what="the new secret")
    assert proxy.client.chat("smart", headers={"x-api-key": key["key"]}).status == 401
    assert run("revoke", key["id"])["state"] == "revoked"
    until(lambda: proxy.client.chat("smart", headers={"x-api-key": rotated["key"]}).status == 401, what="its end")
    found = {entry["name"]: entry for entry in run("list")}
    assert found["script"]["state"] == "revoked"
    assert key["key"] not in json.dumps(found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "listed"], "has a client 'listed' already"),
        (["create", "x", "--chain", "smrt"], "did you mean 'smart'"),
        (["revoke", "nobody"], "no key of that id or name"),
        (["rotate", "nobody", "--grace", "1y"], "at most 30d"),
    ],
    ids=str,
)
def test_what_the_command_line_refuses(tmp_path: Path, arguments: list[str], words: str) -> None:
    path = write_config(tmp_path, config("http://127.0.0.1:9/v1"))
    result = invoke(["keys", *arguments, "--config", str(path)])
    assert result.exit_code == 1
    assert words in result.output
    assert not (tmp_path / "data/keys.json").exists()


def test_the_command_line_prints_the_key_alone_and_lists_in_words(tmp_path: Path) -> None:
    path = write_config(tmp_path, config("http://127.0.0.1:9/v1"))
    made = invoke(["keys", "create", "alice", "--config", str(path)])
    (key,) = made.stdout.splitlines()
    assert len(key) == 52
    assert "shown once" in made.stderr
    assert "everything" in invoke(["keys", "list", "--config", str(path)]).stdout
    checked = invoke(["check", "--config", str(path)])
    assert "2 clients" in checked.stdout
    (tmp_path / "data/keys.json").write_text("{")
    for command in (["check"], ["keys", "list"], ["keys", "create", "bob"]):
        broken = invoke([*command, "--config", str(path)])
        assert (broken.exit_code, "put back a copy" in broken.output) == (1, True)


def test_a_broken_file_is_no_start(tmp_path: Path) -> None:
    path = write_config(tmp_path, {"chains": {"demo": ["demo/chat"]}})
    (tmp_path / "data").mkdir()
    (tmp_path / "data/keys.json").write_text("{")
    settings = load(path, environ={})
    assert "put back a copy" in str(exposure_fault(settings))
    with pytest.raises(KeysBroken):
        Runtime(settings, reload=lambda: settings)
    (tmp_path / "data/keys.json").unlink()
    assert exposure_fault(load(path, environ={})) is None


def test_runtime_keys_are_enough_to_be_reachable(tmp_path: Path) -> None:
    path = write_config(tmp_path, {**config("http://127.0.0.1:9/v1"), "clients": {}, "server": {"host": "0.0.0.0"}})
    assert "clients:" in str(exposure_fault(load(path, environ={})))
    assert invoke(["keys", "create", "alice", "--config", str(path)]).exit_code == 0
    assert exposure_fault(load(path, environ={})) is None
    assert invoke(["keys", "revoke", "alice", "--config", str(path)]).exit_code == 0
    assert exposure_fault(load(path, environ={})) is None, "nobody gets in, which is not everybody"


def test_a_process_that_began_without_clients_and_a_key_in_none_of_its_artefacts(
    launch: Launch, upstream: Upstream, tmp_path: Path
) -> None:
    process = launch({**config(upstream.url), "clients": {}}, options=("--log-level", "debug"))
    client: Client = process.ready()
    assert client.chat("smart").status == 200
    path = str(tmp_path / "providers.yaml")
    key = json.loads(invoke(["keys", "create", "alice", "--config", path, "--json"]).stdout)["data"]["key"]
    until(lambda: client.chat("smart").status == 401, what="the end of the open door")
    headers = {"authorization": f"Bearer {key}"}
    answer = client.chat("smart", headers=headers)
    assert answer.status == 200
    assert client.chat("smart", headers={"authorization": f"Bearer {key}x"}).status == 401
    assert client.chat("smart", headers=headers, user=key).status == 200
    until(lambda: client.get(f"/api/v1/requests/{answer.id}", AS_ADMIN).status == 200, what="the row")

    file = tmp_path / "data/keys.json"
    good = file.read_bytes()
    file.write_bytes(b"{")
    notes = until(lambda: client.get("/readyz", AS_ADMIN).json["notes"], what="the note")
    assert any("keys.json" in note for note in notes)
    assert "keys.json" not in str(client.get("/readyz").json)
    assert client.chat("smart", headers=headers).status == 200
    told = client.get("/api/v1/keys", AS_ADMIN)
    assert (told.status, [entry["name"] for entry in told.json["data"]]) == (200, ["alice"])
    file.write_bytes(good)
    until(lambda: not client.get("/readyz", AS_ADMIN).json["notes"], what="the end of the note")
    assert invoke(["keys", "revoke", "alice", "--config", path]).exit_code == 0
    until(lambda: client.chat("smart", headers=headers).status == 401, what="the revocation")
    assert client.chat("smart").status == 401

    pages = [client.get(each, AS_ADMIN).body for each in ("/metrics", "/api/v1/keys", "/api/v1/requests", "/api/monitor")]
    process.kill()
    artefacts = {file.name: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert {"out.txt", "errors.txt", "keys.json", "ledger.db"} <= set(artefacts)
    for part in (key, key[3:40]):
        assert [name for name, content in artefacts.items() if part.encode() in content] == []
        assert not any(part.encode() in page for page in pages)
