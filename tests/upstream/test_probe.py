"""What a model list, or the lack of one, says about a key."""

import time

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


def key(value: str) -> Credential:
    return Credential(value[:4], Secret(value))


def provider(httpserver: HTTPServer, *credentials: Credential, **changes: object) -> Provider:
    fields = {"model_list_path": "/models", "credentials": credentials or (key("sk-good-key-1234"),), **changes}
    return Provider(name="p", dialect="openai", base_url=httpserver.url_for("/v1"), **fields)  # type: ignore[arg-type]


async def ask(*providers: Provider, timeout_s: float = 5.0) -> list[Probe]:
    return await probe_all(providers, monotonic=time.monotonic, timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("body", "models"),
    [
        ('{"object": "list", "data": [{"id": "a"}, {"id": "b"}]}', 2),
        ('{"models": [{"name": "a"}]}', 1),
        ('[{"id": "a"}, {"id": "b"}, {"id": "c"}]', 3),
        ('{"object": "list", "data": null}', 0),
    ],
)
async def test_a_list_in_any_shape_means_that_the_key_is_right(httpserver: HTTPServer, body: str, models: int) -> None:
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
    assert found.finding is finding
    assert found.detail is not None
    assert "sk-good" not in found.detail
    assert len(httpserver.log) == 1, "no redirect is followed"


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
    import socket

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
