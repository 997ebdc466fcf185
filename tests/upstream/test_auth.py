"""Signatures and tokens: held against AWS's own test vector, against botocore and google-auth, and against a clock that runs out.

The libraries are optional extras: what stands on one is skipped where it is not installed.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sys
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.ports import RequestHead
from proxy.core.target import NO_CREDENTIAL, Credential, Provider, Secret
from proxy.upstream.auth import Authorizer, Source
from proxy.upstream.origin import parse_base_url

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

BEDROCK = "https://bedrock-runtime.eu-west-1.amazonaws.com"
PATH = "/model/eu.amazon.nova-micro-v1%3A0/converse"
ARN_PATH = (
    "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Feu.amazon.nova-micro-v1%3A0/converse-stream"
)
BODY = b'{"messages":[]}'


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def provider(dialect: str, base_url: str = BEDROCK, *, signs: bool = True, **changes: Any) -> Provider:
    return Provider(name="p", dialect=dialect, base_url=base_url, credentials=(), signs=signs, **changes)


def key(value: str) -> Credential:
    return Credential(value[:8], Secret(value))


def head(base_url: str = BEDROCK, path: str = PATH, *headers: tuple[bytes, bytes]) -> RequestHead:
    origin, prefix = parse_base_url(base_url)
    fixed = ((b"content-type", b"application/json"), (b"accept-encoding", b"identity"), (b"user-agent", b"tollbridge"))
    return RequestHead.make(origin, "POST", prefix + path, [*fixed, *headers])


def field(found: RequestHead, name: bytes) -> str:
    values = [value for key, value in found.headers if key == name]
    assert len(values) == 1, f"{name!r} is there {len(values)} times"
    return values[0].decode()


# -- what needs nothing


@pytest.mark.parametrize("dialect", ["bedrock", "vertex", "openai"])
async def test_a_provider_that_does_not_sign_is_left_alone(dialect: str) -> None:
    before = head()
    assert await Authorizer().authorize(provider(dialect, signs=False), key("bedrock-api-key"), before, BODY) is before


@pytest.mark.parametrize(
    ("dialect", "package", "extra"), [("bedrock", "botocore", "tollbridge[aws]"), ("vertex", "google", "tollbridge[google]")]
)
async def test_a_missing_extra_is_named(dialect: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UpstreamError) as caught:
        await Authorizer().authorize(provider(dialect), NO_CREDENTIAL, head(), BODY)
    assert (caught.value.error_class, caught.value.sent) == (ErrorClass.AUTH, False)
    assert f"pip install '{extra}'" in caught.value.message


# -- what is fetched once for all who wait


class Slow(Source):
    """Fetches 1, 2, 3, … each when it is let go. `left` says how much time what is held has."""

    what: ClassVar[str] = "Numbers"
    extra: ClassVar[str] = "numbers"

    def __init__(self) -> None:
        super().__init__()
        self.fetches = 0
        self.left = "enough"
        self.fault: UpstreamError | None = None
        self.may_go = threading.Event()

    def _blocking_fetch(self) -> int:
        self.fetches += 1
        number, fault = self.fetches, self.fault
        assert self.may_go.wait(10)
        self.may_go.clear()
        if fault is not None:
            raise fault
        self.left = "enough"
        return number

    def _usable(self) -> bool:
        return self.left != "none"

    def _stale(self) -> bool:
        return self.left == "little"


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(10_000):
        if await true():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("waited in vain")


async def comes_to(found: Awaitable[str], expected: str) -> bool:
    return await found == expected


async def gives(source: Slow, number: int) -> bool:
    """No fetch is under way, and this is what is held."""
    return not source.may_go.is_set() and await source.get(10) == number


async def held(source: Slow) -> asyncio.Task[Any]:
    """Someone who waits for the source."""
    waiting = asyncio.create_task(source.get(10))
    await turns()
    return waiting


async def test_many_who_wait_are_served_by_one_fetch() -> None:
    source = Slow()
    waiting = [await held(source) for _ in range(10)]
    source.may_go.set()
    assert await asyncio.gather(*waiting) == [1] * 10
    assert await source.get(10) == 1
    assert source.fetches == 1


async def test_what_runs_out_soon_serves_on_while_it_is_renewed_once() -> None:
    source = Slow()
    source.may_go.set()
    assert await source.get(10) == 1
    source.left = "little"
    assert [await source.get(10) for _ in range(5)] == [1] * 5
    source.may_go.set()
    await until(lambda: gives(source, 2))
    assert source.fetches == 2


async def test_what_has_run_out_is_waited_for() -> None:
    source = Slow()
    source.may_go.set()
    assert await source.get(10) == 1
    source.left = "none"
    waiting = await held(source)
    assert not waiting.done()
    source.may_go.set()
    assert await waiting == 2


async def test_what_has_run_out_is_not_used_again_although_the_thread_is_nearly_there() -> None:
    source = Slow()
    source.may_go.set()
    assert await source.get(10) == 1
    source.left = "none"
    waiting = await held(source)
    source.left = "enough"  # as the library says as soon as it has the next one, which the loop has not seen yet
    second = await held(source)
    assert not second.done()
    source.may_go.set()
    assert list(await asyncio.gather(waiting, second)) == [2, 2]
    assert await source.get(10) == 2


async def test_a_renewal_that_fails_early_is_nobodys_loss() -> None:
    source = Slow()
    source.may_go.set()
    assert await source.get(10) == 1
    source.left, source.fault = "little", UpstreamError(ErrorClass.CONNECT, "no way")
    assert await source.get(10) == 1
    source.left = "enough"  # so that no further one begins
    source.may_go.set()
    await until(lambda: gives(source, 1))
    assert source.fetches == 2


async def test_a_caller_who_leaves_does_not_end_the_fetch_of_the_others() -> None:
    source = Slow()
    leaving, staying = await held(source), await held(source)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    source.may_go.set()
    assert await staying == 1
    assert source.fetches == 1


async def test_a_failure_is_told_to_all_who_wait_and_the_next_one_tries_anew() -> None:
    source = Slow()
    source.fault = UpstreamError(ErrorClass.AUTH, "refused")
    waiting = [await held(source) for _ in range(3)]
    source.may_go.set()
    assert await asyncio.gather(*waiting, return_exceptions=True) == [source.fault] * 3
    source.fault = None
    source.may_go.set()
    assert await source.get(10) == 2


async def test_nobody_waits_longer_than_the_bound() -> None:
    source = Slow()
    with pytest.raises(UpstreamError) as caught:
        await source.get(0.01)
    assert (caught.value.error_class, caught.value.sent) == (ErrorClass.CONNECT_TIMEOUT, False)
    source.may_go.set()
    assert await source.get(10) == 1  # what came too late for one is there for the next
    assert source.fetches == 1


# -- AWS


def signature(*, method: str, path: str, headers: dict[str, str], body: bytes, secret: str, region: str, service: str) -> str:
    """Signature Version 4, written down from its documentation: the judge of what botocore was made to sign."""
    stamp = headers["x-amz-date"]
    names = sorted(headers)
    canonical = "\n".join(
        [
            method,
            quote(path, safe="/~-._"),  # encoded once more than it is sent
            "",
            *[f"{name}:{' '.join(headers[name].split())}" for name in names],
            "",
            ";".join(names),
            hashlib.sha256(body).hexdigest(),
        ]
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    signing_key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        signing_key = hmac.digest(signing_key, part.encode(), "sha256")
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    return hmac.new(signing_key, to_sign.encode(), "sha256").hexdigest()


def test_the_judge_agrees_with_the_published_test_vector() -> None:
    """`get-vanilla` of AWS's Signature Version 4 test suite."""
    found = signature(
        method="GET",
        path="/",
        headers={"host": "example.amazonaws.com", "x-amz-date": "20150830T123600Z"},
        body=b"",
        secret="wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        region="us-east-1",
        service="service",
    )
    assert found == "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No credentials but those that the test gives, and nobody is asked over the network."""
    pytest.importorskip("botocore", reason="botocore, the extra `aws`, is not installed")
    for name in ("PROFILE", "DEFAULT_PROFILE", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "SECURITY_TOKEN"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    for name in ("ROLE_ARN", "WEB_IDENTITY_TOKEN_FILE", "CONTAINER_CREDENTIALS_RELATIVE_URI", "CONTAINER_CREDENTIALS_FULL_URI"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return monkeypatch


def assert_signed(found: RequestHead, *, secret: str, region: str, body: bytes = BODY, token: str | None = None) -> None:
    scheme, _, parts = field(found, b"authorization").partition(" ")
    assert scheme == "AWS4-HMAC-SHA256"
    said = dict(part.split("=", 1) for part in parts.split(", "))
    names = said["SignedHeaders"].split(";")
    assert {"host", "x-amz-date", "content-type"} <= set(names) <= {"host", "x-amz-date", "content-type", "x-amz-security-token"}
    assert ("x-amz-security-token" in names) is (token is not None)
    headers = {name: found.origin.authority if name == "host" else field(found, name.encode()) for name in names}
    if token is not None:
        assert headers["x-amz-security-token"] == token
    expected = signature(
        method="POST", path=found.path, headers=headers, body=body, secret=secret, region=region, service="bedrock"
    )
    assert said["Signature"] == expected
    assert said["Credential"].endswith(f"/{headers['x-amz-date'][:8]}/{region}/bedrock/aws4_request")


@pytest.mark.parametrize("path", [PATH, ARN_PATH])
@pytest.mark.parametrize("token", [None, "temporary//token+="])
async def test_a_call_is_signed_with_the_credentials_of_the_environment(
    path: str, token: str | None, aws: pytest.MonkeyPatch
) -> None:
    aws.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    aws.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    if token is not None:
        aws.setenv("AWS_SESSION_TOKEN", token)
    found = await Authorizer().authorize(provider("bedrock", region="eu-west-1"), NO_CREDENTIAL, head(path=path), BODY)
    assert_signed(found, secret="wJalrXUtnFEMI/K7MDENG", region="eu-west-1", token=token)
    assert (found.method, found.path, found.origin) == ("POST", path, head().origin)
    assert set(head().headers) <= set(found.headers)
    assert b"wJalrXUtnFEMI" not in found.rendered


async def test_every_call_has_its_own_signature(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    aws.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    authorizer = Authorizer()
    for body in (b"", BODY, b'{"messages":[{}]}'):
        found = await authorizer.authorize(provider("bedrock"), NO_CREDENTIAL, head(), body)
        assert_signed(found, secret="wJalrXUtnFEMI/K7MDENG", region="eu-west-1", body=body)


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("bedrock-runtime.eu-west-1.amazonaws.com", "eu-west-1"),
        ("bedrock-runtime-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("bedrock-runtime.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("vpce-0a1b-2c3d.bedrock-runtime.us-east-1.vpce.amazonaws.com", "us-east-1"),
        ("bedrock.us-west-2.amazonaws.com", "us-west-2"),
        ("localhost:8443", None),
        ("bedrock.example.com", None),
    ],
)
async def test_the_region_is_configured_or_told_by_the_host(host: str, region: str | None, aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    aws.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    url = f"https://{host}"
    if region is None:
        with pytest.raises(UpstreamError, match="set `region`") as caught:
            await Authorizer().authorize(provider("bedrock", url), NO_CREDENTIAL, head(url), BODY)
        assert (caught.value.error_class, caught.value.sent) == (ErrorClass.AUTH, False)
    else:
        found = await Authorizer().authorize(provider("bedrock", url), NO_CREDENTIAL, head(url), BODY)
        assert_signed(found, secret="secret", region=region)
    found = await Authorizer().authorize(provider("bedrock", url, region="ap-south-1"), NO_CREDENTIAL, head(url), BODY)
    assert_signed(found, secret="secret", region="ap-south-1")


async def test_credentials_of_a_profile_are_found(aws: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("[work]\naws_access_key_id = AKIDWORK\naws_secret_access_key = work-secret\n")
    aws.setenv("AWS_PROFILE", "work")
    found = await Authorizer().authorize(provider("bedrock"), NO_CREDENTIAL, head(), BODY)
    assert_signed(found, secret="work-secret", region="eu-west-1")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "none in environment, profile or role"),
        ({"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE"}, "PartialCredentialsError"),
        ({"AWS_PROFILE": "nobody"}, "ProfileNotFound"),
    ],
)
async def test_credentials_that_are_not_there_are_a_fault_of_the_key(
    environment: dict[str, str], message: str, aws: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        aws.setenv(name, value)
    with pytest.raises(UpstreamError, match=message) as caught:
        await Authorizer().authorize(provider("bedrock"), NO_CREDENTIAL, head(), BODY)
    assert (caught.value.error_class, caught.value.sent) == (ErrorClass.AUTH, False)


@pytest.mark.parametrize(
    ("fault", "error_class"),
    [
        (("MetadataRetrievalError", {"error_msg": "timed out"}), ErrorClass.CONNECT),
        (("EndpointConnectionError", {"endpoint_url": "https://sts.example"}), ErrorClass.CONNECT),
        (("CredentialRetrievalError", {"provider": "sso", "error_msg": "the token has expired"}), ErrorClass.AUTH),
    ],
)
async def test_a_role_that_cannot_be_reached_is_no_fault_of_the_key(
    fault: tuple[str, dict[str, str]], error_class: ErrorClass, aws: pytest.MonkeyPatch
) -> None:
    import botocore.exceptions

    def raising(_: object) -> None:
        raise getattr(botocore.exceptions, fault[0])(**fault[1])

    aws.setattr("botocore.session.Session.get_credentials", raising)
    with pytest.raises(UpstreamError) as caught:
        await Authorizer().authorize(provider("bedrock"), NO_CREDENTIAL, head(), BODY)
    assert (caught.value.error_class, caught.value.sent) == (error_class, False)


async def test_a_roles_credentials_are_renewed_before_they_expire(aws: pytest.MonkeyPatch) -> None:
    from botocore.credentials import RefreshableCredentials

    begun = datetime(2025, 6, 1, tzinfo=UTC)
    now = begun
    renewals = 0

    def renewed() -> dict[str, str]:
        nonlocal renewals
        renewals += 1
        expires = (now + timedelta(hours=1)).isoformat()
        return {"access_key": "AKIDROLE", "secret_key": "s", "token": f"role-token-{renewals}", "expiry_time": expires}

    credentials = RefreshableCredentials(
        "AKIDROLE", "s", "role-token-0", begun + timedelta(hours=1), renewed, "a-role", time_fetcher=lambda: now
    )
    aws.setattr("botocore.session.Session.get_credentials", lambda _: credentials)
    authorizer = Authorizer()

    async def token() -> str:
        found = await authorizer.authorize(provider("bedrock"), NO_CREDENTIAL, head(), BODY)
        said = field(found, b"x-amz-security-token")
        assert_signed(found, secret="s", region="eu-west-1", token=said)
        return said

    assert [await token() for _ in range(3)] == ["role-token-0"] * 3
    now = begun + timedelta(minutes=46)  # botocore's own time for it
    assert await token() == "role-token-0"
    await until(lambda: comes_to(token(), "role-token-1"))
    now += timedelta(minutes=59, seconds=30)  # too late to use it any more
    assert await token() == "role-token-2"
    assert renewals == 2


async def test_credentials_come_from_a_containers_role(aws: pytest.MonkeyPatch, httpserver: HTTPServer) -> None:
    expires = (datetime.now(UTC) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ")
    role = {"AccessKeyId": "AKIDROLE", "SecretAccessKey": "role-secret", "Token": "role-token", "Expiration": expires}
    httpserver.expect_oneshot_request("/role").respond_with_json(role)
    aws.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", httpserver.url_for("/role"))
    authorizer = Authorizer()
    for _ in range(3):
        found = await authorizer.authorize(provider("bedrock"), NO_CREDENTIAL, head(), BODY)
        assert_signed(found, secret="role-secret", region="eu-west-1", token="role-token")


# -- Google

VERTEX = "https://europe-west1-aiplatform.googleapis.com"


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No credentials but those that the test gives, and no waiting between attempts."""
    pytest.importorskip("google.auth", reason="google-auth, the extra `google`, is not installed")
    pytest.importorskip("requests", reason="requests, of the extra `google`, is not installed")
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_QUOTA_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setattr("google.auth._exponential_backoff.time.sleep", lambda _: None)
    return monkeypatch


@pytest.fixture(scope="module")
def private_key() -> str:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization", reason="cryptography is not installed")
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa", reason="cryptography is not installed")
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem: bytes = made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode()


class TokenServer:
    """Google's token endpoint: every token is another, and lives as long as the test says."""

    def __init__(self, httpserver: HTTPServer, private_key: str) -> None:
        self.asked = 0
        self.lifetime_s = 3600
        self.refusal: tuple[int, dict[str, str]] | None = None
        self.account = {
            "type": "service_account",
            "project_id": "project-1",
            "private_key_id": "key-1",
            "private_key": private_key,
            "client_email": "robot@project-1.iam.gserviceaccount.com",
            "token_uri": httpserver.url_for("/token"),
        }
        httpserver.expect_request("/token", method="POST").respond_with_handler(self.answer)

    def answer(self, request: Request) -> Response:
        self.asked += 1
        assert request.form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        if self.refusal is not None:
            status, body = self.refusal
            return Response(json.dumps(body), status=status, content_type="application/json")
        answer = {"access_token": f"ya29.token-{self.asked}", "expires_in": self.lifetime_s, "token_type": "Bearer"}
        return Response(json.dumps(answer), content_type="application/json")


@pytest.fixture
def tokens(httpserver: HTTPServer, private_key: str) -> TokenServer:
    return TokenServer(httpserver, private_key)


@pytest.fixture
def key_file(tokens: TokenServer, tmp_path: Path) -> str:
    path = tmp_path / "robot.json"
    path.write_text(json.dumps(tokens.account))
    return str(path)


async def bearer(authorizer: Authorizer, credential: Credential = NO_CREDENTIAL) -> str:
    before = head(VERTEX, "/v1/x", (b"authorization", b"Bearer not-this"))
    found = await authorizer.authorize(provider("vertex", VERTEX), credential, before, BODY)
    assert found.path == "/v1/x"
    return field(found, b"authorization")


@pytest.mark.parametrize("where", ["file", "json", "environment"])
async def test_a_token_is_fetched_for_a_service_account_once(
    where: str, google: pytest.MonkeyPatch, tokens: TokenServer, key_file: str
) -> None:
    credential = NO_CREDENTIAL
    if where == "file":
        credential = key(key_file)
    elif where == "json":
        credential = key(json.dumps(tokens.account))
    else:
        google.setenv("GOOGLE_APPLICATION_CREDENTIALS", key_file)
    authorizer = Authorizer()
    found = await asyncio.gather(*[bearer(authorizer, credential) for _ in range(8)])
    assert found == ["Bearer ya29.token-1"] * 8
    assert await bearer(authorizer, credential) == "Bearer ya29.token-1"
    assert tokens.asked == 1


async def test_each_service_account_has_a_token_of_its_own(
    google: pytest.MonkeyPatch, tokens: TokenServer, key_file: str
) -> None:
    authorizer = Authorizer()
    first, second = Credential("one", Secret(key_file)), Credential("two", Secret(json.dumps(tokens.account)))
    assert {await bearer(authorizer, first), await bearer(authorizer, second)} == {"Bearer ya29.token-1", "Bearer ya29.token-2"}


async def test_a_token_that_expires_soon_serves_on_while_the_next_one_is_fetched(
    google: pytest.MonkeyPatch, tokens: TokenServer, key_file: str
) -> None:
    authorizer = Authorizer()
    tokens.lifetime_s = 100  # less than google-auth calls fresh
    assert await bearer(authorizer, key(key_file)) == "Bearer ya29.token-1"
    tokens.lifetime_s = 3600
    assert await bearer(authorizer, key(key_file)) == "Bearer ya29.token-1"
    await until(lambda: comes_to(bearer(authorizer, key(key_file)), "Bearer ya29.token-2"))
    assert tokens.asked == 2


async def test_a_token_that_has_expired_is_not_used(google: pytest.MonkeyPatch, tokens: TokenServer, key_file: str) -> None:
    authorizer = Authorizer()
    tokens.lifetime_s = 0
    assert [await bearer(authorizer, key(key_file)) for _ in range(2)] == ["Bearer ya29.token-1", "Bearer ya29.token-2"]


async def test_the_project_that_pays_is_named(google: pytest.MonkeyPatch, tokens: TokenServer, key_file: str) -> None:
    google.setenv("GOOGLE_APPLICATION_CREDENTIALS", key_file)
    google.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "project-2")
    found = await Authorizer().authorize(provider("vertex", VERTEX), NO_CREDENTIAL, head(VERTEX, "/v1/x"), BODY)
    assert field(found, b"x-goog-user-project") == "project-2"


@pytest.mark.parametrize(
    ("refusal", "error_class"),
    [
        ((400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}), ErrorClass.AUTH),
        ((401, {"error": "invalid_client"}), ErrorClass.AUTH),
        ((503, {"error": "temporarily_unavailable"}), ErrorClass.CONNECT),
        ((500, {"error": "internal_failure"}), ErrorClass.CONNECT),
    ],
)
async def test_a_refused_key_and_a_server_in_trouble_are_told_apart(
    refusal: tuple[int, dict[str, str]],
    error_class: ErrorClass,
    google: pytest.MonkeyPatch,
    tokens: TokenServer,
    key_file: str,
) -> None:
    tokens.refusal = refusal
    with pytest.raises(UpstreamError) as caught:
        await bearer(Authorizer(), key(key_file))
    assert (caught.value.error_class, caught.value.sent) == (error_class, False)
    assert "PRIVATE KEY" not in caught.value.message
    tokens.refusal = None


async def test_a_token_server_that_is_not_there_is_no_fault_of_the_key(
    google: pytest.MonkeyPatch, tokens: TokenServer, tmp_path: Path
) -> None:
    (tmp_path / "gone.json").write_text(json.dumps({**tokens.account, "token_uri": "http://127.0.0.1:9/token"}))
    with pytest.raises(UpstreamError) as caught:
        await bearer(Authorizer(), key(str(tmp_path / "gone.json")))
    assert (caught.value.error_class, caught.value.sent) == (ErrorClass.CONNECT, False)


@pytest.mark.parametrize("said", ["/nowhere/robot.json", "{not json", '{"type": "service_account"}', "ya29.a-token"])
async def test_what_is_no_service_account_is_a_fault_of_the_key_and_is_not_shown(said: str, google: pytest.MonkeyPatch) -> None:
    with pytest.raises(UpstreamError) as caught:
        await bearer(Authorizer(), key(said))
    assert (caught.value.error_class, caught.value.sent) == (ErrorClass.AUTH, False)
    assert said not in caught.value.message


async def test_no_default_credentials_is_a_fault_of_the_key(google: pytest.MonkeyPatch) -> None:
    with pytest.raises(UpstreamError) as caught:
        await bearer(Authorizer())
    assert (caught.value.error_class, caught.value.sent) == (ErrorClass.AUTH, False)
