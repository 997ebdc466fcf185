"""What a model list, or the lack of one, says about a key."""

import asyncio
import gzip
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from proxy.core.target import NO_CREDENTIAL, Credential, Provider, Secret
from proxy.upstream import probe
from proxy.upstream.probe import Finding, Probe, probe_all

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


PeerThat = Callable[..., Awaitable[tuple[int, list[object]]]]


@pytest.fixture
async def peer_that() -> AsyncIterator[PeerThat]:
    """A peer whose first connection may stay silent; it lists one model."""
    servers: list[asyncio.Server] = []

    async def serve(*, silent_first: bool) -> tuple[int, list[object]]:
        connections: list[object] = []

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(writer)
            await reader.readuntil(b"\r\n\r\n")
            if silent_first and len(connections) == 1:
                await reader.read()  # until the other end gives up
            else:
                writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{"data":[1]}')
                await writer.drain()
            writer.close()

        servers.append(await asyncio.start_server(accept, "127.0.0.1", 0))
        return servers[-1].sockets[0].getsockname()[1], connections

    yield serve
    for server in servers:
        server.close()


def key(value: str) -> Credential:
    return Credential(value[:4], Secret(value))


def provider(httpserver: HTTPServer, *credentials: Credential, **changes: object) -> Provider:
    fields = {"model_list_path": "/models", "credentials": credentials or (key("sk-good-key-1234"),), **changes}
    return Provider(name="p", dialect="openai", base_url=httpserver.url_for("/v1"), **fields)  # type: ignore[arg-type]


async def no_sleep(seconds: float) -> None:
    await asyncio.sleep(0)


async def ask(*providers: Provider, timeout_s: float = 5.0, sleep: Callable[[float], Awaitable[None]] = no_sleep) -> list[Probe]:
    return await probe_all(providers, monotonic=time.monotonic, timeout_s=timeout_s, sleep=sleep)


@pytest.mark.parametrize(
    ("body", "models"),
    [
        ('{"object": "list", "data": [{"id": "a"}, {"id": "b"}]}', 2),
        ('{"models": [{"name": "a"}]}', 1),
        ('[{"id": "a"}, {"id": "b"}, {"id": "c"}]', 3),
        ('{"object": "list", "data": null}', 0),
        ('{"data": [{"id": "a"}], "has_more": false, "last_id": "a"}', 1),
        ('{"data": [{"id": "a"}], "has_more": true, "last_id": "a"}', None),  # one page of several: how many is not known
        ('{"models": [{"name": "a"}], "nextPageToken": "b"}', None),
        ('{"models": [{"name": "a"}], "next_page_token": "b"}', None),
    ],
)
async def test_a_list_in_any_shape_means_that_the_key_is_right(httpserver: HTTPServer, body: str, models: int | None) -> None:
    httpserver.expect_request("/v1/models", headers={"authorization": "Bearer sk-good-key-1234"}).respond_with_data(body)
    (found,) = await ask(provider(httpserver))
    assert (found.provider, found.key, found.finding, found.models, found.detail) == ("p", "…1234", Finding.OK, models, None)
    assert found.ms is not None


@pytest.mark.parametrize(
    ("status", "finding"),
    [
        (401, Finding.BAD_KEY),
        (403, Finding.BAD_KEY),
        (404, Finding.UNKNOWN),
        (405, Finding.UNKNOWN),
        (429, Finding.OK),
        (302, Finding.FAULT),
        (500, Finding.FAULT),
    ],
)
async def test_the_status_decides(httpserver: HTTPServer, status: int, finding: Finding) -> None:
    answer = Response("sk-good-key-1234 is wrong", status, {"location": httpserver.url_for("/elsewhere")})
    httpserver.expect_request("/v1/models").respond_with_response(answer)
    (found,) = await ask(provider(httpserver))
    assert (found.finding, found.status) == (finding, status)
    assert found.detail is not None
    assert "sk-good" not in found.detail
    assert [request.path for request, _ in httpserver.log] == ["/v1/models"] * (2 if found.failed else 1), (
        "no redirect is followed"
    )


@pytest.mark.parametrize(
    ("body", "finding"),
    [
        ('{"error": {"code": 400, "details": [{"reason": "API_KEY_INVALID"}]}}', Finding.BAD_KEY),  # Google
        ('{"code": "invalid-argument", "error": "Incorrect API key provided: x"}', Finding.BAD_KEY),  # xAI
        ('{"error": {"message": "what?"}}', Finding.FAULT),
    ],
)
async def test_some_call_a_wrong_key_a_bad_request(httpserver: HTTPServer, body: str, finding: Finding) -> None:
    httpserver.expect_request("/v1/models").respond_with_data(body, status=400)
    (found,) = await ask(provider(httpserver))
    assert found.finding is finding


async def test_a_key_that_is_signed_with_is_never_sent(httpserver: HTTPServer) -> None:
    """Not even where there is something to ask for: it is the path of a file, or a service account's own key."""
    (found,) = await ask(provider(httpserver, key("/home/ada/account.json"), signs=True))
    assert (found.finding, found.key) == (Finding.UNKNOWN, "…json")
    assert httpserver.log == []


@pytest.mark.parametrize("body", ["<html>", "", "7", '{"error": {"message": "x"}}', '{"data": {"a": 1}}', '{"data": "abc"}'])
async def test_a_200_that_is_no_list_is_a_fault(httpserver: HTTPServer, body: str) -> None:
    httpserver.expect_request("/v1/models").respond_with_data(body)
    (found,) = await ask(provider(httpserver))
    assert (found.finding, found.models) == (Finding.FAULT, None)


async def test_nobody_there_is_unreachable(httpserver: HTTPServer) -> None:
    gone = Provider(
        name="p", dialect="openai", base_url="http://127.0.0.1:1/v1", credentials=(NO_CREDENTIAL,), model_list_path="/models"
    )
    (found,) = await ask(gone)
    assert (found.finding, found.key, found.ms) == (Finding.UNREACHABLE, None, None)


async def test_an_endless_answer_is_cut(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MAX_BODY_BYTES", 1000)
    httpserver.expect_request("/v1/models").respond_with_data("[" + "1," * 1000 + "1]")
    (found,) = await ask(provider(httpserver))
    assert found.finding is Finding.UNREACHABLE


async def test_a_provider_that_is_silent_is_given_up(httpserver: HTTPServer) -> None:
    # a listening socket that nobody serves: connections are taken by the kernel, and stay silent
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        quiet = Provider(name="p", dialect="openai", base_url=address, credentials=(NO_CREDENTIAL,), model_list_path="/models")
        (found,) = await ask(quiet, timeout_s=0.05)
    assert found.finding is Finding.UNREACHABLE
    assert found.detail == "no answer within 0.05 s"


async def test_every_key_is_asked_for_and_the_header_is_the_providers_own(httpserver: HTTPServer) -> None:
    def answer(request: Request) -> Response:
        assert request.headers["x-extra"] == "1"
        assert "authorization" not in request.headers
        return Response('{"data": []}' if request.headers["api-key"] == "key-one-11111111" else "no", 200)

    httpserver.expect_request("/v1/models").respond_with_handler(answer)
    both = (key("key-one-11111111"), key("key-two-22222222"))
    found = await ask(provider(httpserver, *both, auth_header="api-key", auth_prefix="", headers={"x-extra": "1"}))
    httpserver.check_assertions()
    assert [(one.key, one.finding) for one in found] == [("…1111", Finding.OK), ("…2222", Finding.FAULT)]


async def test_disabled_and_built_in_providers_are_not_asked_and_one_without_a_list_is_unknown(httpserver: HTTPServer) -> None:
    found = await ask(
        provider(httpserver, disabled="no key: set X"),
        provider(httpserver, transport="demo"),
        provider(httpserver, model_list_path=None),
    )
    assert [one.finding for one in found] == [Finding.UNKNOWN]
    assert httpserver.log == []


# -- a second try


async def test_a_failure_is_repeated_once_and_the_second_answer_counts(httpserver: HTTPServer) -> None:
    slept = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    httpserver.expect_ordered_request("/v1/models").respond_with_data("overloaded", status=503)
    httpserver.expect_ordered_request("/v1/models").respond_with_data('{"data": [{"id": "a"}]}')
    (found,) = await ask(provider(httpserver), timeout_s=2.0, sleep=sleep)
    assert (found.finding, found.models, found.detail) == (Finding.OK, 1, None)
    assert slept == [0.5], "a quarter of the timeout"


async def test_what_does_not_answer_is_asked_again_beside_the_first_question_and_within_the_same_time(
    peer_that: PeerThat,
) -> None:
    """The first connection stays silent, the second answers: the provider is there."""
    port, connections = await peer_that(silent_first=True)
    late = Provider(
        name="p", dialect="openai", base_url=f"http://127.0.0.1:{port}", credentials=(NO_CREDENTIAL,), model_list_path="/models"
    )
    (found,) = await ask(late, timeout_s=1.0)
    assert (found.finding, found.models) == (Finding.OK, 1)
    assert len(connections) == 2


async def test_twenty_providers_of_which_five_hang_take_no_longer_than_one_timeout(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/v1/models").respond_with_data('{"data": []}')
    timeout_s = 1.0
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        asked = [
            provider(httpserver)
            if n % 4
            else Provider(name="p", dialect="openai", base_url=address, credentials=(NO_CREDENTIAL,), model_list_path="/models")
            for n in range(20)
        ]
        began = time.monotonic()
        found = await ask(*asked, timeout_s=timeout_s)
        took_s = time.monotonic() - began
    assert [one.finding for one in found] == [Finding.OK if n % 4 else Finding.UNREACHABLE for n in range(20)]
    assert took_s < timeout_s + 0.5


# -- the state of a key


@pytest.mark.parametrize(
    ("key_status", "finding", "asked"),
    [
        (200, Finding.OK, ["/v1/key"]),
        (401, Finding.BAD_KEY, ["/v1/key", "/v1/key"]),
        (500, Finding.FAULT, ["/v1/key", "/v1/key"]),
    ],
)
async def test_where_the_list_is_public_the_key_itself_is_asked_about(
    httpserver: HTTPServer, key_status: int, finding: Finding, asked: list[str]
) -> None:
    httpserver.expect_request("/v1/key").respond_with_data('{"data": {"label": "sk-or"}}', status=key_status)
    (found,) = await ask(provider(httpserver, check_url=httpserver.url_for("/v1/key")))
    assert (found.finding, found.status, found.models) == (finding, key_status, None)
    assert [request.path for request, _ in httpserver.log] == asked


@pytest.mark.parametrize(("list_status", "finding", "models"), [(200, Finding.OK, 1), (503, Finding.FAULT, None)])
async def test_a_key_that_is_asked_about_elsewhere_does_not_tell_that_the_provider_is_there(
    httpserver: HTTPServer, list_status: int, finding: Finding, models: int | None
) -> None:
    httpserver.expect_request("/api/whoami").respond_with_data("{}")
    httpserver.expect_request("/v1/models").respond_with_data('{"data": [{"id": "a"}]}', status=list_status)
    (found,) = await ask(provider(httpserver, check_url=httpserver.url_for("/api/whoami")))
    assert (found.finding, found.models) == (finding, models)


# -- packed answers


async def test_a_packed_list_is_unpacked(httpserver: HTTPServer) -> None:
    def answer(request: Request) -> Response:
        assert request.headers["accept-encoding"] == "gzip"
        return Response(gzip.compress(b'{"data": [1, 2]}'), 200, {"content-encoding": "gzip"})

    httpserver.expect_request("/v1/models").respond_with_handler(answer)
    (found,) = await ask(provider(httpserver))
    httpserver.check_assertions()
    assert (found.finding, found.models) == (Finding.OK, 2)


@pytest.mark.parametrize("body", [gzip.compress(b"[" + b"1," * 100_000 + b"1]"), b"not packed at all"])
async def test_a_packed_answer_that_unpacks_to_too_much_or_not_at_all_is_given_up(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(probe, "MAX_BODY_BYTES", 1000)
    httpserver.expect_request("/v1/models").respond_with_response(Response(body, 200, {"content-encoding": "gzip"}))
    (found,) = await ask(provider(httpserver))
    assert found.finding is Finding.UNREACHABLE
