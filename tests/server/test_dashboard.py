"""The dashboard's pages and files: who gets them, what they allow a browser to do, and that nothing in them turns text into markup."""

from __future__ import annotations

import hashlib
import html
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from starlette.applications import Starlette
from starlette.types import Message

from proxy.config.load import load
from proxy.server.addresses import Addresses
from proxy.server.dashboard import CONTENT_SECURITY_POLICY, CONTENT_TYPES, DASHBOARD, FILES, MAX_FORM_BYTES
from proxy.server.endpoints import FALLBACK, routes
from proxy.server.gateway import Gateway
from proxy.server.guard import ADMIN_ATTEMPTS_PER_MINUTE, Guard, Scope

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

ROOT = Path(__file__).parents[2]
TOKEN = "admin-token-fake"
OWN = sorted(path for path in FILES.iterdir() if path.is_file())
SCRIPTS = [path for path in OWN if path.suffix == ".js"]
PAGES = [path for path in OWN if path.suffix == ".html"]
VENDORED = {
    "LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    "uPlot.esm.js": "5dd9b3281aa64b461b42d9945f6adb2649d346502b12281a9ae0d46599a80eba",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
Headers = dict[bytes, bytes]


class Answer:
    def __init__(self, messages: list[Message]) -> None:
        start, body = messages
        self.status: int = start["status"]
        self.headers: Headers = dict(start["headers"])
        self.body: bytes = body["body"]

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def cookie(self) -> bytes:
        return self.headers[b"set-cookie"].partition(b";")[0]


class Site:
    """The routes of the dashboard, in front of a configuration."""

    def __init__(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "providers.yaml"
        path.write_text(text, encoding="utf-8")
        self.guard = Guard(lambda: 0.0)
        self.faults: list[str] = []
        log = SimpleNamespace(error=lambda event, **fields: self.faults.append(f"{event} {fields}"))
        self.gateway = cast(
            Gateway,
            SimpleNamespace(
                settings=load(path, environ={}),
                guard=self.guard,
                addresses=Addresses(),
                new_id=lambda: "R1",
                services=SimpleNamespace(log=log, redact=lambda text: text),
            ),
        )
        self.app = Starlette(routes=routes([*DASHBOARD, FALLBACK]))

    async def ask(
        self, path: str, *, method: str = "GET", body: bytes = b"", query: bytes = b"", peer: str = "127.0.0.1", **headers: bytes
    ) -> Answer:
        sent = {b"host": b"127.0.0.1:8080"} | {name.replace("_", "-").encode(): value for name, value in headers.items()}
        incoming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        messages: list[Message] = []

        async def receive() -> Message:
            return incoming.pop() if incoming else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            messages.append(message)

        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query,
            "headers": list(sent.items()),
            "client": (peer, 1),
            "server": ("127.0.0.1", 8080),
            "scheme": "http",
            "state": {"gateway": self.gateway},
        }
        await self.app(scope, receive, send)
        assert self.faults == []
        return Answer(messages)

    async def sign_in(self, token: str = TOKEN, **more: Any) -> Answer:
        return await self.ask("/dashboard/login", method="POST", body=f"username=admin&token={token}".encode(), **more)


BASE = "providers: {demo: {}}\nchains: {demo: [demo/chat]}\n"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, BASE + f"auth: {{admin_token: {TOKEN}, metrics_token: metrics-token-fake}}\n")


@pytest.fixture
def open_site(tmp_path: Path) -> Site:
    return Site(tmp_path, BASE)


# -- who gets the page


@pytest.mark.parametrize("path", ["/", "/dashboard"])
async def test_without_a_token_configured_this_machine_gets_the_page(open_site: Site, path: str) -> None:
    answer = await open_site.ask(path)
    assert answer.status == 200
    assert answer.headers[b"content-type"] == b"text/html; charset=utf-8"
    assert "<main>" in answer.text


@pytest.mark.parametrize("path", ["/", "/dashboard"])
async def test_with_one_the_page_is_401_and_the_form(site: Site, path: str) -> None:
    answer = await site.ask(path)
    assert answer.status == 401
    assert 'name="token"' in answer.text
    assert "<main>" in answer.text
    assert 'id="cards"' not in answer.text
    assert 'role="alert"></p>' in answer.text  # nothing was wrong yet


@pytest.mark.parametrize("value", [b"Bearer admin-token-fake", b"bearer admin-token-fake"])
async def test_a_token_in_a_header_gets_the_page_too(site: Site, value: bytes) -> None:
    assert (await site.ask("/dashboard", authorization=value)).status == 200


@pytest.mark.parametrize("value", [b"Bearer wrong", b"Bearer metrics-token-fake"])
async def test_another_one_does_not(site: Site, value: bytes) -> None:
    answer = await site.ask("/dashboard", authorization=value)
    assert answer.status == 401
    assert "This needs the admin token" in answer.text


async def test_who_has_nothing_to_sign_in_to_is_told_why(open_site: Site) -> None:
    answer = await open_site.ask("/", peer="192.168.1.7")
    assert answer.status == 403
    assert "auth.admin_token" in answer.text
    assert "<form" not in answer.text


async def test_a_rebound_name_gets_no_page(open_site: Site) -> None:
    assert (await open_site.ask("/", host=b"evil.example.com")).status == 403


# -- signing in and out


async def test_the_form_gives_a_cookie_and_goes_back_to_what_was_looked_at(site: Site) -> None:
    answer = await site.sign_in(query=b"range=7d&department=r%26d")
    assert answer.status == 303
    assert answer.headers[b"location"] == b"/dashboard?range=7d&department=r%26d"
    assert answer.headers[b"set-cookie"].endswith(b"; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict")
    page = await site.ask("/dashboard", cookie=answer.cookie)
    assert page.status == 200
    assert facts(page)["signed_in"] is True


async def test_off_this_machine_the_cookie_is_for_tls_only(site: Site) -> None:
    answer = await site.sign_in(host=b"proxy.example.com")
    assert answer.headers[b"set-cookie"].endswith(b"; Secure")


@pytest.mark.parametrize(
    ("host", "safe", "told"),
    [(b"proxy.example.com", False, True), (b"proxy.example.com", True, False), (b"localhost:8080", False, False)],
)
async def test_a_browser_that_will_not_keep_it_is_told_beforehand(site: Site, host: bytes, safe: bool, told: bool) -> None:
    more: dict[str, Any] = {"sec_fetch_site": b"none"} if safe else {}
    assert ("HTTPS only" in (await site.ask("/dashboard", host=host, **more)).text) == told


@pytest.mark.parametrize(
    "body", [b"", b"token=", b"token=wrong", b"token=%ff", b"token=a&token=b", b"&" * 50, b'{"token": 1}', b"\xff"]
)
async def test_anything_else_gets_the_form_again(site: Site, body: bytes) -> None:
    answer = await site.ask("/dashboard/login", method="POST", body=body)
    assert answer.status == 401
    assert "This is not the admin token." in answer.text
    assert b"set-cookie" not in answer.headers


async def test_a_token_pasted_with_blanks_is_taken(site: Site) -> None:
    assert (await site.sign_in(f"++{TOKEN}%0A")).status == 303


async def test_a_body_beyond_what_a_form_needs_is_refused(site: Site) -> None:
    answer = await site.ask("/dashboard/login", method="POST", body=b"token=" + b"x" * (MAX_FORM_BYTES - 5))
    assert answer.status == 413


async def test_guessing_is_slowed_down(site: Site) -> None:
    for _ in range(ADMIN_ATTEMPTS_PER_MINUTE):
        assert (await site.sign_in("wrong")).status == 401
    answer = await site.sign_in("wrong")
    assert (answer.status, answer.headers[b"retry-after"]) == (429, b"60")
    assert 'name="token"' in answer.text
    assert (await site.sign_in()).status == 303


async def test_signing_out_ends_the_session_on_both_sides(site: Site) -> None:
    cookie = (await site.sign_in()).cookie
    answer = await site.ask("/dashboard/logout", method="POST", cookie=cookie, origin=b"http://127.0.0.1:8080")
    assert answer.status == 204
    assert b"Max-Age=0" in answer.headers[b"set-cookie"]
    assert (await site.ask("/dashboard", cookie=cookie)).status == 401


async def test_signing_out_everywhere_ends_them_all(site: Site) -> None:
    first, second = [(await site.sign_in()).cookie for _ in range(2)]
    await site.ask("/dashboard/logout", method="POST", query=b"everywhere=1", cookie=first, origin=b"http://127.0.0.1:8080")
    assert (await site.ask("/dashboard", cookie=second)).status == 401


async def test_a_foreign_page_signs_nobody_out(site: Site) -> None:
    cookie = (await site.sign_in()).cookie
    answer = await site.ask("/dashboard/logout", method="POST", cookie=cookie, origin=b"http://127.0.0.1:3000")
    assert answer.status == 403
    assert (await site.ask("/dashboard", cookie=cookie)).status == 200


async def test_where_nobody_has_to_sign_in_the_form_leads_to_the_page(open_site: Site) -> None:
    answer = await open_site.sign_in("anything")
    assert (answer.status, answer.headers[b"location"]) == (303, b"/dashboard")
    assert b"set-cookie" not in answer.headers


@pytest.mark.parametrize("query", [b'"><script>alert(1)</script>', b"{message}{note}", b"x='onfocus='alert(1)"])
async def test_what_stands_in_the_address_stays_text(site: Site, query: bytes) -> None:
    text = (await site.ask("/dashboard", query=query)).text
    assert "<script>alert" not in text
    (action,) = re.findall(r'action="([^"]*)"', text)
    assert html.unescape(action) == "/dashboard/login?" + query.decode()


# -- what the page is told


def facts(answer: Answer) -> dict[str, Any]:
    (content,) = re.findall(r'<meta name="tollbridge" content="([^"]*)">', answer.text)
    found: dict[str, Any] = orjson.loads(html.unescape(content))
    return found


@pytest.mark.parametrize(
    ("text", "model", "needs_key"),
    [
        (BASE, "demo", False),
        (BASE + "clients: {a: {key: client-key-fake}}\n", "demo", True),
        ("providers: {demo: {}}\n", None, False),
        ("""providers: {demo: {}}\nchains: {'"><script>x</script>': [demo/chat]}\n""", '"><script>x</script>', False),
    ],
)
async def test_the_page_knows_enough_for_its_first_line_to_copy(
    tmp_path: Path, text: str, model: str | None, needs_key: bool
) -> None:
    answer = await Site(tmp_path, text).ask("/")
    found = facts(answer)
    assert (found["model"], found["needs_key"], found["signed_in"]) == (model, needs_key, False)
    assert "<script>x" not in answer.text


async def test_no_key_and_no_token_stands_in_the_page(tmp_path: Path) -> None:
    site = Site(tmp_path, BASE + f"auth: {{admin_token: {TOKEN}}}\nclients: {{a: {{key: client-key-fake}}}}\n")
    for answer in (await site.ask("/"), await site.ask("/", authorization=b"Bearer " + TOKEN.encode()), await site.sign_in("x")):
        assert TOKEN not in answer.text
        assert "client-key" not in answer.text


# -- files


def served(name: str) -> str:
    return f"/dashboard/static/{name}"


@pytest.mark.parametrize(
    "path", sorted(path for path in FILES.rglob("*") if path.suffix in CONTENT_TYPES), ids=lambda path: path.name
)
async def test_every_file_is_served_to_everybody_as_it_is(site: Site, path: Path) -> None:
    answer = await site.ask(served(str(path.relative_to(FILES))), peer="8.8.8.8", host=b"proxy.example.com")
    assert answer.status == 200
    assert answer.body == path.read_bytes()
    assert answer.headers[b"content-type"] == CONTENT_TYPES[path.suffix]
    assert answer.headers[b"cache-control"] == b"no-cache"
    again = await site.ask(served(str(path.relative_to(FILES))), if_none_match=answer.headers[b"etag"])
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    "name",
    [
        "index.html",
        "login.html",
        "vendor/LICENSE",
        "vendor/VERSIONS.txt",
        "",
        "vendor",
        "vendor/",
        "nothing.js",
        "app.js/",
        "app.js/x.js",
        "../dashboard.py",
        "..",
        "../app.js",
        "vendor/../app.js",
        "./app.js",
        "//app.js",
        "/etc/passwd",
        ".js",
        "..js",
        "app.js\x00",
        "APP.JS",
        "vendor/vendor/uPlot.esm.js",
        "a" * 5000 + ".css",
    ],
)
async def test_nothing_else_is(site: Site, name: str) -> None:
    answer = await site.ask(served(name))
    assert (answer.status, orjson.loads(answer.body)["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/", "/dashboard", served("app.js"), served("style.css")])
async def test_a_browser_is_told_what_the_pages_may_do(site: Site, path: str) -> None:
    shown: list[dict[str, Any]] = [{}, {"authorization": b"Bearer " + TOKEN.encode()}]
    for more in shown:
        headers = (await site.ask(path, **more)).headers
        assert headers[b"content-security-policy"] == CONTENT_SECURITY_POLICY
        assert headers[b"x-content-type-options"] == b"nosniff"
        assert headers[b"referrer-policy"] == b"no-referrer"


def test_the_policy_lets_in_nothing_from_elsewhere_and_nothing_inline() -> None:
    policy = dict(part.strip().split(" ", 1) for part in CONTENT_SECURITY_POLICY.decode().split(";"))
    assert policy.pop("default-src") == "'none'"
    assert {policy.pop(name) for name in ("script-src", "style-src", "connect-src", "img-src", "form-action")} == {"'self'"}
    assert {policy.pop(name) for name in ("frame-ancestors", "base-uri", "trusted-types")} == {"'none'"}
    assert policy == {"require-trusted-types-for": "'script'"}


def test_only_the_form_and_the_files_are_public() -> None:
    assert {line.path for line in DASHBOARD if line.scope is Scope.PUBLIC} == {
        "/dashboard/login",
        "/dashboard/static/{path:path}",
    }
    assert {line.scope for line in DASHBOARD} == {Scope.PUBLIC, Scope.ADMIN}


# -- what is in them


class Markup(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.inside[self._open[-1]] = self.inside.get(self._open[-1], "") + data


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_page_has_a_script_or_a_style_of_its_own(path: Path) -> None:
    markup = Markup(path.read_text(encoding="utf-8"))
    assert "style" not in [tag for tag, _ in markup.tags]
    assert markup.inside.get("script", "").strip() == ""
    for tag, attributes in markup.tags:
        assert "style" not in attributes, tag
        assert [name for name in attributes if name.startswith("on")] == []
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "/").startswith(("/", "#"))
            assert not (attributes.get(name) or "/").startswith("//")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_field_of_a_page_has_a_name_that_is_read_out(path: Path) -> None:
    markup = Markup(path.read_text(encoding="utf-8"))
    labels = {attributes.get("for") for tag, attributes in markup.tags if tag == "label"}
    text = path.read_text(encoding="utf-8")
    for tag, attributes in markup.tags:
        if tag not in ("input", "select") or attributes.get("aria-hidden") == "true":
            continue
        within = re.search(rf'<label[^>]*>(?:(?!</label>).)*id="{attributes["id"]}"', text, flags=re.DOTALL)
        assert attributes["id"] in labels or within
    assert [tag for tag, attributes in markup.tags if int(attributes.get("tabindex") or 0) > 0] == []
    assert ("html", {"lang": "en"}) in markup.tags


MARKUP_MAKERS = (
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|parseFromString|setHTML"
    r"|\beval\b|new Function|javascript:|srcdoc|setAttribute\([\"']style|cssText|import\("
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_turns_text_into_markup_or_leaves_the_house(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.findall(MARKUP_MAKERS, text) == []
    assert set(re.findall(r"https?://[^\s\"'`]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert re.findall(r"\bset(?:Timeout|Interval)\(\s*[\"'`]", text) == []
    assert len(text.splitlines()) < 400


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_module_that_is_imported_is_there_and_has_what_is_taken(path: Path) -> None:
    for names, source in re.findall(r"^import (.+?) from \"(.+?)\";$", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
        assert source.startswith("./")
        other = (FILES / source).read_text(encoding="utf-8")
        exported = set(re.findall(r"^export (?:async )?(?:function|const|let|class) (\w+)", other, flags=re.MULTILINE))
        exported |= {
            name.strip() for group in re.findall(r"^export \{(.+?)\}", other, flags=re.MULTILINE) for name in group.split(",")
        }
        taken = re.fullmatch(r"\{ (.+) \}", names)
        if taken:
            assert {name.strip() for name in taken[1].split(",")} <= exported


def test_every_element_that_a_script_asks_for_is_in_the_page() -> None:
    text = (FILES / "index.html").read_text(encoding="utf-8")
    there = set(re.findall(r'\bid="([\w-]+)"', text))
    made = {name for path in SCRIPTS for name in re.findall(r'\bid: "([\w-]+)"', path.read_text(encoding="utf-8"))}
    asked = {name for path in SCRIPTS for name in re.findall(r'byId\("([\w-]+)"\)', path.read_text(encoding="utf-8"))}
    assert asked - there - made == set()
    assert len(there) == len(re.findall(r'\bid="', text))


def test_every_class_that_has_a_colour_has_it_in_both_schemes() -> None:
    style = (FILES / "style.css").read_text(encoding="utf-8")
    colours = re.findall(r"^  --(\w[\w-]*): (.+);$", style, flags=re.MULTILINE)
    named = {name: value for name, value in colours if name != "radius"}
    assert {name for name, value in named.items() if not re.fullmatch(r"light-dark\(#\w{6}, #\w{6}\)", value)} == set()
    used = set(re.findall(r"var\(--([\w-]+)", style)) - {"tone", "soft", "radius"}
    assert used <= set(named)
    assert re.findall(r"url\(|@import|expression", style) == []


def luminance(colour: str) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-relative-luminance"""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read(scheme: int) -> None:
    style = (FILES / "style.css").read_text(encoding="utf-8")
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style)
    colours = {name: values[scheme] for name, *values in pairs}
    for text in ("text", "muted", "accent", "good", "warn", "bad", "note", "idle"):
        for ground in ("bg", "surface", "raised"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for text in ("text", "warn", "bad", "good", "note"):
        if f"{text}-soft" in colours:
            assert contrast(colours[text], colours[f"{text}-soft"]) >= 4.5, text
            assert contrast(colours["text"], colours[f"{text}-soft"]) >= 7, text
    for picture in ("bar", "amber", "red", "idle"):
        assert contrast(colours[picture], colours["surface"]) >= 2.7, picture


def test_what_comes_from_elsewhere_is_unchanged_and_says_what_it_is() -> None:
    vendor = FILES / "vendor"
    assert {path.name for path in vendor.iterdir()} == {*VENDORED, "VERSIONS.txt"}
    for name, digest in VENDORED.items():
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == digest
    (version,) = re.findall(r"\(v([\d.]+)\)", (vendor / "uPlot.esm.js").read_text(encoding="utf-8")[:400])
    assert f"uPlot {version}, MIT" in (vendor / "VERSIONS.txt").read_text(encoding="utf-8")


def test_an_installed_copy_has_all_of_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["proxy.server"]
    shipped = {path for pattern in patterns for path in FILES.parent.glob(pattern) if path.is_file()}
    assert shipped == {path for path in FILES.rglob("*") if path.is_file()}
