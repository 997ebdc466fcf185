"""Who may come in: unknown callers are refused, and loopback is not a licence for web pages."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from proxy.config.load import load
from proxy.config.settings import Settings
from proxy.core.errors import Forbidden, InvalidApiKey, ProxyError, TooManyAdminAttempts
from proxy.server.guard import ADMIN_ATTEMPTS_PER_MINUTE, Guard, Scope

pytestmark = pytest.mark.unit

KEY = b"client-key-fake"
ADMIN = b"admin-token-fake"
METRICS = b"metrics-token-fake"


def settings(tmp_path: Path, text: str = "") -> Settings:
    path = tmp_path / "providers.yaml"
    path.write_text("providers: {demo: {}}\nchains: {demo: [demo/chat], other: [demo/chat]}\n" + text, encoding="utf-8")
    return load(path, environ={})


CLIENTS = "clients: {agent: {key: client-key-fake, chains: [demo]}}\n"
TOKENS = "auth: {admin_token: admin-token-fake, metrics_token: metrics-token-fake}\n"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def guard(clock: Clock | None = None) -> Guard:
    return Guard(clock or Clock())


def bearer(token: bytes) -> dict[bytes, bytes]:
    return {b"authorization": b"Bearer " + token, b"host": b"127.0.0.1:8080"}


# -- clients


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer " + KEY},
        {b"authorization": b"bearer " + KEY},
        {b"authorization": b"BEARER   " + KEY + b" "},
        {b"x-api-key": KEY},
        {b"x-api-key": KEY + b" \t"},
        {b"api-key": KEY + b" "},
        {b"authorization": b"Basic abc", b"x-api-key": KEY},  # what a proxy in between asked for
    ],
)
def test_a_known_key_names_its_client(tmp_path: Path, headers: dict[bytes, bytes]) -> None:
    found = guard().client(settings(tmp_path, CLIENTS), headers)
    assert found is not None
    assert found.name == "agent"
    assert found.key_digests == frozenset((hashlib.sha256(KEY).digest(),))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"authorization": b""},
        {b"authorization": b"Bearer"},
        {b"authorization": b"Bearer "},
        {b"authorization": b"Basic " + KEY},
        {b"authorization": KEY},
        {b"authorization": b"Bearer " + KEY + b"x"},
        {b"authorization": b"Bearer " + KEY[:-1]},
        {b"authorization": b"Bearer " + KEY.upper()},
        {b"authorization": b"Bearer " + hashlib.sha256(KEY).hexdigest().encode()},
        {b"authorization": b"Bearer " + ADMIN},
        {b"authorization": b"Bearer \xff\xfe"},
        {b"x-api-key": b""},
    ],
)
def test_everything_else_is_refused_with_401(tmp_path: Path, headers: dict[bytes, bytes]) -> None:
    with pytest.raises(InvalidApiKey) as refused:
        guard().client(settings(tmp_path, CLIENTS + TOKENS), headers)
    assert refused.value.status == 401
    assert KEY.decode() not in refused.value.message


def test_without_clients_nobody_has_to_say_who_they_are(tmp_path: Path) -> None:
    assert guard().client(settings(tmp_path), {b"authorization": b"Bearer anything"}) is None


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (b"http://localhost:3000", True),
        (b"http://127.0.0.1:8080", True),
        (b"https://[::1]:8080", True),
        (b"https://app.example.com", True),  # listed
        (b"vscode-webview://abc", True),
        (b"https://evil.example.com", False),
        (b"https://app.example.com.evil.com", False),
        (b"http://localhost.evil.com", False),
        (b"null", False),  # a sandboxed frame says so
        (b"http://[", False),
        (b"http://", False),
        (b"https://\xff", False),
    ],
)
def test_open_on_loopback_is_not_open_to_any_web_page(tmp_path: Path, origin: bytes, allowed: bool) -> None:
    made = settings(tmp_path, "server: {cors_origins: [https://app.example.com]}\n")
    if allowed:
        assert guard().client(made, {b"origin": origin}) is None
    else:
        with pytest.raises(Forbidden):
            guard().client(made, {b"origin": origin})


def test_with_keys_the_origin_does_not_matter(tmp_path: Path) -> None:
    assert guard().client(settings(tmp_path, CLIENTS), {b"x-api-key": KEY, b"origin": b"https://evil.example.com"}) is not None


# -- admin and metrics


Case = tuple[Scope, dict[bytes, bytes], str | None, type[ProxyError] | None]

WITH_TOKENS: dict[str, Case] = {
    "public needs nothing": (Scope.PUBLIC, {}, "8.8.8.8", None),
    "admin by its token, from anywhere": (Scope.ADMIN, bearer(ADMIN), "8.8.8.8", None),
    "admin by x-api-key": (Scope.ADMIN, {b"x-api-key": ADMIN}, "8.8.8.8", None),
    "admin on loopback without token": (Scope.ADMIN, {b"host": b"localhost"}, "127.0.0.1", InvalidApiKey),
    "admin by the metrics token": (Scope.ADMIN, bearer(METRICS), "127.0.0.1", InvalidApiKey),
    "admin by a client's key": (Scope.ADMIN, bearer(KEY), "127.0.0.1", InvalidApiKey),
    "metrics by the metrics token": (Scope.METRICS, bearer(METRICS), "8.8.8.8", None),
    "metrics by the admin token": (Scope.METRICS, bearer(ADMIN), "8.8.8.8", None),
    "metrics without": (Scope.METRICS, {b"host": b"localhost"}, "127.0.0.1", InvalidApiKey),
    "an empty token": (Scope.ADMIN, {b"authorization": b"Bearer "}, "127.0.0.1", InvalidApiKey),
    "a token that is not ASCII": (Scope.ADMIN, bearer(b"\xff"), "127.0.0.1", InvalidApiKey),
}

WITHOUT_TOKENS: dict[str, Case] = {
    "loopback as localhost": (Scope.ADMIN, {b"host": b"localhost:8080"}, "127.0.0.1", None),
    "loopback as LOCALHOST": (Scope.ADMIN, {b"host": b"LOCALHOST"}, "127.0.0.1", None),
    "loopback as 127.0.0.1": (Scope.METRICS, {b"host": b"127.0.0.1:1"}, "127.0.0.9", None),
    "loopback as [::1]": (Scope.ADMIN, {b"host": b"[::1]:8080"}, "::1", None),
    "a name rebound to 127.0.0.1": (Scope.ADMIN, {b"host": b"evil.example.com:8080"}, "127.0.0.1", Forbidden),
    "a name that begins well": (Scope.ADMIN, {b"host": b"localhost.evil.com"}, "127.0.0.1", Forbidden),
    "an address that is not ours": (Scope.ADMIN, {b"host": b"127.0.0.1.evil.com"}, "127.0.0.1", Forbidden),
    "no host": (Scope.ADMIN, {}, "127.0.0.1", Forbidden),
    "a broken host": (Scope.ADMIN, {b"host": b"[::1"}, "127.0.0.1", None),
    "from elsewhere, saying localhost": (Scope.ADMIN, {b"host": b"localhost"}, "192.168.1.5", Forbidden),
    "from elsewhere, a name that begins well": (Scope.ADMIN, {b"host": b"localhost"}, "1270.0.0.1", Forbidden),
    "an unknown peer": (Scope.METRICS, {b"host": b"localhost"}, None, Forbidden),
}


def judge(made: Settings, case: Case) -> None:
    scope, headers, peer, refused = case
    if refused is None:
        guard().check(scope, made, headers, peer)
    else:
        with pytest.raises(refused):
            guard().check(scope, made, headers, peer)


@pytest.mark.parametrize("case", WITH_TOKENS.values(), ids=WITH_TOKENS.keys())
def test_with_tokens_set_they_are_always_needed(tmp_path: Path, case: Case) -> None:
    judge(settings(tmp_path, CLIENTS + TOKENS), case)


@pytest.mark.parametrize("case", WITHOUT_TOKENS.values(), ids=WITHOUT_TOKENS.keys())
def test_without_a_token_only_loopback_that_says_so_gets_in(tmp_path: Path, case: Case) -> None:
    judge(settings(tmp_path), case)


@pytest.mark.parametrize("scope", list(Scope))
def test_auth_none_opens_everything(tmp_path: Path, scope: Scope) -> None:
    guard().check(scope, settings(tmp_path, "auth: none\n"), {}, "8.8.8.8")


def test_a_metrics_token_alone_does_not_close_admin_on_loopback_nor_open_it(tmp_path: Path) -> None:
    made = settings(tmp_path, "auth: {metrics_token: metrics-token-fake}\n")
    judge(made, (Scope.ADMIN, {b"host": b"localhost"}, "127.0.0.1", None))
    judge(made, (Scope.ADMIN, bearer(METRICS), "8.8.8.8", Forbidden))
    judge(made, (Scope.METRICS, {b"host": b"localhost"}, "127.0.0.1", InvalidApiKey))
    judge(made, (Scope.METRICS, bearer(METRICS), "8.8.8.8", None))


# -- guessing


def refusal(made: Guard, config: Settings, **how: Any) -> ProxyError:
    with pytest.raises(ProxyError) as refused:
        made.check(Scope.ADMIN, config, how.get("headers", bearer(b"wrong")), how.get("peer", "8.8.8.8"))
    return refused.value


def test_after_ten_wrong_tokens_a_minute_further_wrong_ones_are_told_to_wait_and_a_right_one_is_served(tmp_path: Path) -> None:
    clock, config = Clock(), settings(tmp_path, TOKENS)
    made = guard(clock)
    for _ in range(ADMIN_ATTEMPTS_PER_MINUTE):
        assert type(refusal(made, config)) is InvalidApiKey
        clock.now += 1.0
    limited = refusal(made, config)
    assert type(limited) is TooManyAdminAttempts
    assert limited.retry_after_s == 50.0
    made.check(Scope.ADMIN, config, bearer(ADMIN), "8.8.8.8")
    assert type(refusal(made, config, peer="9.9.9.9")) is InvalidApiKey
    clock.now = 60.0
    assert type(refusal(made, config)) is InvalidApiKey
    assert type(refusal(made, config)) is TooManyAdminAttempts


def test_no_token_at_all_is_not_a_guess(tmp_path: Path) -> None:
    made, config = guard(), settings(tmp_path, TOKENS)
    for _ in range(3 * ADMIN_ATTEMPTS_PER_MINUTE):
        assert type(refusal(made, config, headers={})) is InvalidApiKey


def test_a_million_addresses_are_not_remembered(tmp_path: Path) -> None:
    made, config = guard(), settings(tmp_path, TOKENS)
    for n in range(10_050):
        refusal(made, config, peer=f"10.0.{n >> 8}.{n & 255}")
    assert len(made._wrong) == 10_000


# -- the dashboard's cookie, and pages of other origins


HOST = b"127.0.0.1:8080"
OWN, OTHER_PORT, FOREIGN, LISTED = (
    b"http://127.0.0.1:8080",
    b"http://127.0.0.1:3000",
    b"https://evil.example.com",
    b"https://app.example.com",
)
CORS = "server: {cors_origins: [https://app.example.com]}\n"


def signed_in(made: Guard, config: Settings, **more: bytes) -> dict[bytes, bytes]:
    value = made.sign_in(config, ADMIN, "8.8.8.8")
    assert value is not None
    named = {name.replace("_", "-").encode(): text for name, text in more.items()}
    return {b"host": HOST, b"cookie": b"a=b; tollbridge_session=" + value.encode(), **named}


PAGES: dict[str, tuple[str, dict[str, bytes], bool]] = {
    "our own page reads": ("GET", {}, True),
    "our own page changes": ("POST", {"origin": OWN}, True),
    "by the Host of a name": ("POST", {"origin": b"https://proxy.example.com", "host": b"Proxy.example.com"}, True),
    "behind a reverse proxy that changes the Host": (
        "POST",
        {"origin": b"https://x.example", "sec_fetch_site": b"same-origin"},
        True,
    ),
    "a change from nowhere": ("POST", {}, False),
    "another program's page on this machine changes": ("POST", {"origin": OTHER_PORT}, False),
    "the same, and the browser says so": ("POST", {"origin": OTHER_PORT, "sec_fetch_site": b"same-site"}, False),
    "a foreign page changes": ("POST", {"origin": FOREIGN}, False),
    "a foreign page reads": ("GET", {"origin": FOREIGN}, False),
    "a page that hides where it is from": ("POST", {"origin": b"null"}, False),
    "a listed page changes": ("POST", {"origin": LISTED}, False),
    "a listed page reads": ("GET", {"origin": LISTED}, True),
    "our name as the foreign page's user": ("POST", {"origin": b"http://127.0.0.1:8080@evil.example"}, False),
    "another scheme": ("POST", {"origin": b"ftp://127.0.0.1:8080"}, False),
    "another way to change": ("DELETE", {"origin": FOREIGN}, False),
}


@pytest.mark.parametrize("case", PAGES.values(), ids=PAGES.keys())
def test_a_cookie_is_the_browser_s_and_not_the_page_s(tmp_path: Path, case: tuple[str, dict[str, bytes], bool]) -> None:
    method, more, let_in = case
    made, config = guard(), settings(tmp_path, TOKENS + CORS)
    headers = signed_in(made, config, **more)
    if let_in:
        made.check(Scope.ADMIN, config, headers, "8.8.8.8", method=method)
    else:
        with pytest.raises(Forbidden):
            made.check(Scope.ADMIN, config, headers, "8.8.8.8", method=method)


@pytest.mark.parametrize(
    ("method", "origin", "let_in"),
    [
        ("POST", None, True),  # a program
        ("POST", OWN, True),
        ("POST", OTHER_PORT, False),
        ("POST", FOREIGN, False),
        ("POST", LISTED, False),
        ("POST", b"null", False),
        ("GET", None, True),
        ("GET", OTHER_PORT, True),  # it may ask, and cannot read the answer
        ("GET", LISTED, True),
        ("GET", FOREIGN, False),
    ],
)
def test_being_on_this_machine_is_no_page_s_right(tmp_path: Path, method: str, origin: bytes | None, let_in: bool) -> None:
    headers = {b"host": HOST} | ({b"origin": origin} if origin is not None else {})
    if let_in:
        guard().check(Scope.ADMIN, settings(tmp_path, CORS), headers, "127.0.0.1", method=method)
    else:
        with pytest.raises(Forbidden):
            guard().check(Scope.ADMIN, settings(tmp_path, CORS), headers, "127.0.0.1", method=method)


def test_a_token_that_is_shown_needs_no_origin(tmp_path: Path) -> None:
    made, config = guard(), settings(tmp_path, TOKENS)
    made.check(Scope.ADMIN, config, bearer(ADMIN) | {b"origin": FOREIGN}, "8.8.8.8", method="POST")


def test_a_cookie_opens_what_the_admin_token_opens_and_no_more(tmp_path: Path) -> None:
    made, config = guard(), settings(tmp_path, TOKENS + CLIENTS)
    headers = signed_in(made, config)
    made.check(Scope.ADMIN, config, headers, "8.8.8.8")
    made.check(Scope.METRICS, config, headers, "8.8.8.8")
    with pytest.raises(InvalidApiKey):
        made.client(config, headers)


def test_a_cookie_ends_with_its_token(tmp_path: Path) -> None:
    made, config = guard(), settings(tmp_path, TOKENS)
    headers = signed_in(made, config)
    changed = settings(tmp_path, "auth: {admin_token: another-token-fake}\n")
    with pytest.raises(InvalidApiKey):
        made.check(Scope.ADMIN, changed, headers, "8.8.8.8")
    without = settings(tmp_path)
    with pytest.raises(Forbidden):
        made.check(Scope.ADMIN, without, headers, "8.8.8.8")


def test_a_wrong_token_beside_a_good_cookie_is_a_wrong_token(tmp_path: Path) -> None:
    made, config = guard(), settings(tmp_path, TOKENS)
    headers = signed_in(made, config) | {b"authorization": b"Bearer wrong"}
    with pytest.raises(InvalidApiKey):
        made.check(Scope.ADMIN, config, headers, "8.8.8.8")


def test_wrong_tokens_in_the_form_count_like_wrong_headers(tmp_path: Path) -> None:
    made, config = guard(), settings(tmp_path, TOKENS)
    for _ in range(ADMIN_ATTEMPTS_PER_MINUTE):
        with pytest.raises(InvalidApiKey):
            made.sign_in(config, b"wrong", "8.8.8.8")
    with pytest.raises(TooManyAdminAttempts):
        made.sign_in(config, b"wrong", "8.8.8.8")
    assert made.sign_in(config, ADMIN, "8.8.8.8") is not None


def test_where_no_token_is_configured_there_is_nothing_to_sign_in_to(tmp_path: Path) -> None:
    assert guard().sign_in(settings(tmp_path), b"anything", "8.8.8.8") is None
