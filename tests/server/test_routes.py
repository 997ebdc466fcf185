"""Every route declares who may call it, and behaves by it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Message

from proxy.app import ROUTES, app
from proxy.config.key_store import KeyStore
from proxy.config.load import load
from proxy.config.settings import Settings
from proxy.monitoring.picture import Picture
from proxy.server.addresses import Addresses
from proxy.server.endpoints import Declared, Endpoint, routes
from proxy.server.gateway import Gateway, Note, Readiness
from proxy.server.guard import Guard, Scope
from proxy.server.key_desk import KeyDesk
from proxy.server.protocol import HOT_PATHS
from tests.monitoring.ledger import FakeLedger

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

TOKENS = {Scope.CLIENT: b"client-key-fake", Scope.METRICS: b"metrics-token-fake", Scope.ADMIN: b"admin-token-fake"}
APPLICATION = Starlette(routes=routes(ROUTES))
FILE = """
providers: {demo: {}}
chains: {demo: [demo/chat], second: [demo/slow]}
auth: {admin_token: admin-token-fake, metrics_token: metrics-token-fake}
clients: {agent: {key: client-key-fake, chains: [demo]}}
"""


class Ledger(FakeLedger):
    async def list_requests(self, *args: Any, **kwargs: Any) -> tuple[list[dict[str, Any]], None]:
        return [{"id": "R1"}], None

    async def get_request(self, request_id: str) -> dict[str, Any] | None:
        return {"id": request_id}

    async def last_used(self) -> dict[str, int]:
        return {"agent": 1_795_271_399_000}

    async def usage(self, group_by: Sequence[str], *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        if list(group_by) == ["nonsense"]:
            raise KeyError("nonsense")
        if list(group_by) == ["broken"]:
            raise OSError("disk I/O error at /secret/path")
        return await super().usage(group_by, *args, **kwargs)


class FakeGateway:
    """What the routes use of a gateway."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.guard = Guard(lambda: 0.0)
        self.addresses = Addresses()
        self.ledger = Ledger()
        self.prices = self
        self.reasons: list[str] = []
        self.notes: list[Note] = []
        self.refused: list[str] = []
        self.surroundings = self
        self.services = self
        self.clock = self
        self.deployments = self
        self.log = self
        self.meter = self
        self.faults: list[str] = []
        self.keys = KeyDesk(KeyStore(settings.data_dir), lambda: self.settings, self.swap, wall=self.wall, log=self)

    def swap(self, settings: Settings) -> None:
        self.settings = settings

    def redact(self, text: str) -> str:
        return text

    def info(self, event: str, **fields: Any) -> None:
        return None

    def error(self, event: str, **fields: Any) -> None:
        self.faults.append(f"{event} {fields['fault']}")

    def rejected(self, reason: str) -> None:
        self.refused.append(reason)

    def new_id(self) -> str:
        return "R1"

    def monotonic(self) -> float:
        return 0.0

    def snapshot(self, now: float) -> list[Any]:
        return []

    def wall(self) -> float:
        return 1_795_271_400.0

    def rates(self, target: Any, wall: float) -> None:
        return None

    def picture(self) -> Picture:
        return Picture(wall=self.wall(), settings=self.settings, live=True)

    async def check_health(self, providers: Sequence[str]) -> None:
        return None

    def reset_quotas(self, provider: str, key: str | None) -> None:
        return None

    def acknowledge(self, alert_id: str) -> dict[str, Any]:
        return {"id": alert_id}

    def readiness(self) -> Readiness:
        return Readiness(self.reasons, self.notes)

    async def metrics_page(self, *, openmetrics: bool) -> tuple[bytes, str]:
        return b"# HELP\n", "text/plain; version=0.0.4"

    async def chat(self, headers: Any, body: bytes, client: Any, sink: Any, control: Any, *, request_id: str) -> None:
        await sink.respond(200, [(b"x-request-id", request_id.encode())], b'{"client":"%s"}' % client.name.encode())

    async def embeddings(self, headers: Any, body: bytes, client: Any, sink: Any, control: Any, *, request_id: str) -> None:
        await sink.respond(200, [(b"x-request-id", request_id.encode())], b'{"embeds_for":"%s"}' % client.name.encode())


class Answer:
    def __init__(self, messages: list[Message]) -> None:
        assert [message["type"] for message in messages] == ["http.response.start", "http.response.body"]
        self.status: int = messages[0]["status"]
        self.headers = dict(messages[0]["headers"])
        self.body: bytes = messages[1]["body"]

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


async def ask(
    gateway: FakeGateway,
    path: str,
    *,
    method: str = "GET",
    token: bytes | None = None,
    peer: str = "127.0.0.1",
    query: bytes = b"",
    more: tuple[tuple[bytes, bytes], ...] = (),
) -> Answer:
    headers = [(b"host", b"127.0.0.1"), *([(b"authorization", b"Bearer " + token)] if token else []), *more]
    messages: list[Message] = []
    incoming: list[Message] = [{"type": "http.request", "body": b"{}", "more_body": False}]

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
        "query_string": query,
        "headers": headers,
        "client": (peer, 1),
        "server": ("127.0.0.1", 8080),
        "scheme": "http",
        "state": {"gateway": cast(Gateway, gateway)},
    }
    await APPLICATION(scope, receive, send)
    return Answer(messages)


@pytest.fixture
def gateway(tmp_path: Path) -> FakeGateway:
    path = tmp_path / "providers.yaml"
    path.write_text(FILE, encoding="utf-8")
    return FakeGateway(load(path, environ={}))


def example(declared: Declared) -> str:
    return declared.path.replace("{id}", "R1").replace("{model:path}", "demo/chat").replace("{path:path}", "nowhere")


def method(declared: Declared) -> str:
    return "GET" if declared.method == "*" else declared.method


def test_every_route_of_the_application_comes_from_the_table() -> None:
    found: list[Declared] = []
    for route in app.routes:
        assert isinstance(route, Route)
        assert isinstance(route.app, Endpoint)
        assert {line.path for line in route.app.lines} == {route.path}
        found += route.app.lines
    assert sorted(map(id, found)) == sorted(map(id, ROUTES))
    assert all(declared.scope in Scope for declared in ROUTES)
    named = [(declared.path, declared.method) for declared in ROUTES]
    assert len(set(named)) == len(named)


def test_the_fast_lane_serves_nothing_that_the_table_does_not_give_to_clients() -> None:
    declared = {line.path: (line.scope, line.method) for line in ROUTES}
    assert {declared[path.decode()] for path in HOT_PATHS} == {(Scope.CLIENT, "POST")}


def test_what_changes_something_is_the_admins_but_for_completions_and_the_form() -> None:
    changing = {line.path for line in ROUTES if line.method not in ("GET", "*") and line.scope is not Scope.ADMIN}
    engine = {line.path for line in ROUTES if line.handler is None}
    assert changing == engine | {"/dashboard/login"}


def test_what_is_public_is_a_list_that_one_can_remember() -> None:
    probes, form = {"/livez", "/readyz"}, {"/dashboard/login", "/dashboard/static/{path:path}"}
    assert {declared.path for declared in ROUTES if declared.scope is Scope.PUBLIC} == {*probes, *form, "/{path:path}"}
    api = [declared for declared in ROUTES if declared.path.startswith("/api")]
    assert api
    assert {declared.scope for declared in api} == {Scope.ADMIN}


# the form is open to everybody, and its 401 is about what stands in it
@pytest.mark.parametrize("declared", [d for d in ROUTES if d.path != "/dashboard/login"], ids=lambda declared: declared.path)
async def test_every_route_lets_in_whom_it_declares_and_nobody_else(gateway: FakeGateway, declared: Declared) -> None:
    opens = {None, *TOKENS.values(), b"wrong"} if declared.scope is Scope.PUBLIC else {TOKENS[declared.scope]}
    if declared.scope is Scope.METRICS:
        opens.add(TOKENS[Scope.ADMIN])
    for token in (None, b"wrong", *TOKENS.values()):
        answer = await ask(gateway, example(declared), method=method(declared), token=token)
        assert (answer.status != 401) == (token in opens)
        if token not in opens and declared.refused is not None:
            assert answer.headers[b"content-type"].startswith(b"text/html")
        elif token not in opens:
            assert answer.json["error"]["code"] == "invalid_api_key"
        assert answer.headers[b"x-request-id"] == b"R1"


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


@pytest.mark.parametrize("path", sorted({line.path for line in ROUTES if line.method != "*"}))
async def test_a_method_that_a_path_does_not_declare_is_a_405_for_everybody(gateway: FakeGateway, path: str) -> None:
    lines = [line for line in ROUTES if line.path == path]
    declared = {line.method for line in lines} | ({"HEAD"} if any(line.method == "GET" for line in lines) else set())
    for wrong in set(METHODS) - declared:
        for token in (None, *TOKENS.values()):
            answer = await ask(gateway, example(lines[0]), method=wrong, token=token)
            assert (answer.status, answer.json["error"]["code"]) == (405, "method_not_allowed")
            assert all(line.method in answer.json["error"]["message"] for line in lines)
            assert answer.headers[b"allow"] == ", ".join(line.method for line in lines).encode()


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_what_is_not_there_is_a_404_whatever_the_method(gateway: FakeGateway, method: str) -> None:
    answer = await ask(gateway, "/v1/completions", method=method)
    assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v1/responses", ["/v1/chat/completions", "/v1/embeddings", "/v1/models"]),
        ("/v1/v1/chat/completions", ["/v1/chat/completions", "/v1/embeddings", "/v1/models"]),
        ("/api/v1/stats", ["/api/v1/openapi.json"]),
    ],
)
async def test_and_says_what_there_is_instead(gateway: FakeGateway, path: str, named: list[str]) -> None:
    where, _, what = (await ask(gateway, path)).json["error"]["message"].partition(": ")
    assert where == f"There is nothing at {path}"
    assert [word for word in what.rstrip(".").replace(",", "").split() if word.startswith("/")] == named
    assert set(named) <= {line.path for line in ROUTES}


@pytest.mark.parametrize("declared", [d for d in ROUTES if d.handler is not None], ids=lambda declared: declared.path)
async def test_what_a_browser_might_read_says_so_safely(gateway: FakeGateway, declared: Declared) -> None:
    for token in (None, TOKENS.get(declared.scope)):
        headers = (await ask(gateway, example(declared), token=token)).headers
        assert headers[b"x-content-type-options"] == b"nosniff"
        assert headers[b"referrer-policy"] == b"no-referrer"
        assert headers[b"cache-control"] == b"no-store"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
async def test_completions_know_their_client(gateway: FakeGateway, path: str) -> None:
    answer = await ask(gateway, path, method="POST", token=TOKENS[Scope.CLIENT])
    assert answer.json == {"client": "agent"}


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
async def test_embeddings_know_their_client(gateway: FakeGateway, path: str) -> None:
    answer = await ask(gateway, path, method="POST", token=TOKENS[Scope.CLIENT])
    assert answer.json == {"embeds_for": "agent"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
async def test_a_compressed_body_is_refused_as_on_the_fast_lane(gateway: FakeGateway, path: str) -> None:
    compressed = ((b"content-encoding", b"gzip"),)
    answer = await ask(gateway, path, method="POST", token=TOKENS[Scope.CLIENT], more=compressed)
    assert (answer.status, answer.json["error"]["code"]) == (415, "unsupported_media_type")
    assert gateway.refused == ["unsupported_media_type"]


@pytest.mark.parametrize("prefix", ["/v1/models", "/models"])
async def test_a_client_sees_the_models_that_it_may_use(gateway: FakeGateway, prefix: str) -> None:
    token = TOKENS[Scope.CLIENT]
    listed = (await ask(gateway, prefix, token=token)).json
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["demo"]
    assert (await ask(gateway, prefix + "/demo", token=token)).json["id"] == "demo"
    assert (await ask(gateway, prefix + "/second", token=token)).status == 404


@pytest.mark.parametrize("path", ["/v1/models/demo/chat", "/v1/models/demo%2Fchat"])
async def test_ids_with_slashes_are_found_plain_and_escaped(gateway: FakeGateway, tmp_path: Path, path: str) -> None:
    other = tmp_path / "open.yaml"
    other.write_text("providers: {demo: {}}\nchains: {demo: [demo/chat]}\n", encoding="utf-8")
    gateway.settings = load(other, environ={})
    assert (await ask(gateway, path)).json == {"id": "demo/chat", "object": "model", "created": 0, "owned_by": "demo"}


async def test_readiness_has_its_reasons(gateway: FakeGateway) -> None:
    assert (await ask(gateway, "/readyz")).status == 200
    gateway.reasons = ["draining"]
    answer = await ask(gateway, "/readyz")
    assert (answer.status, answer.json["reasons"]) == (503, ["draining"])
    assert (await ask(gateway, "/livez")).status == 200


@pytest.mark.parametrize(
    ("token", "peer", "told"),
    [(TOKENS[Scope.ADMIN], "10.0.0.9", True), (None, "127.0.0.1", False), (b"wrong", "127.0.0.1", False)],
)
async def test_what_the_file_says_is_told_to_the_admin_only(
    gateway: FakeGateway, token: bytes | None, peer: str, told: bool
) -> None:
    fact, detail = "the configuration file is broken", "providers.yaml:1:1: unknown key 'chans'"
    gateway.notes = [Note(fact, detail), Note("all is well otherwise")]
    answer = await ask(gateway, "/readyz", token=token, peer=peer)
    assert answer.status == 200
    assert answer.json["notes"] == [f"{fact}: {detail}" if told else fact, "all is well otherwise"]


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        ("/api/v1/requests", b"limit=many", "limit"),
        ("/api/v1/requests", b"before=%27%3B--", "before"),
        ("/api/v1/usage", b"since=yesterday", "since"),
        ("/api/v1/usage", b"until=999999w", "until"),
        ("/api/v1/usage", b"group_by=nonsense", "group_by"),
    ],
)
async def test_a_query_that_makes_no_sense_is_a_400_by_name(gateway: FakeGateway, path: str, query: bytes, param: str) -> None:
    answer = await ask(gateway, path, token=TOKENS[Scope.ADMIN], query=query)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


async def test_a_fault_of_our_own_is_logged_and_told_in_openais_shape(gateway: FakeGateway) -> None:
    answer = await ask(gateway, "/api/v1/usage", token=TOKENS[Scope.ADMIN], query=b"group_by=broken")
    assert (answer.status, answer.json["error"]["code"]) == (500, "internal_error")
    assert b"/secret" not in answer.body
    assert len(gateway.faults) == 1
