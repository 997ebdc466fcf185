"""The dashboard's pages, their files, and signing in to them. What the pages show, they ask of `/api` like everybody else.

The files lie in `dashboard/` and go out as they are; they are read when somebody asks. Two small things are written into a page:
what `index.html` must know before it asks (`facts`), and what `login.html` has to say. Where a token is configured, `/` and
`/dashboard` answer 401 with the form until a cookie or a token is shown; what signs in is a plain form, so that it needs no script.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import parse_qs

import orjson

from proxy.core.errors import CallerError, NotFound, ProxyError
from proxy.core.version import VERSION
from proxy.server.endpoints import Answer, Call, Declared, peer_of, read_body
from proxy.server.guard import Scope, asked_on_loopback
from proxy.server.sessions import clear_cookie, session_value, set_cookie

FILES = Path(__file__).with_suffix("")
MAX_FORM_BYTES = 4096
CONTENT_TYPES = {
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
# https://www.w3.org/TR/CSP3/ and https://www.w3.org/TR/trusted-types/: nothing from elsewhere, nothing inline, and no text becomes markup
CONTENT_SECURITY_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
    b"frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
# what `html.escape` does, without its table of every entity there is, which would stay in memory
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})
_FILE_NAME = re.compile(r"(?:vendor/)?[A-Za-z][A-Za-z0-9_.-]{0,40}\.(?:css|js|svg)")


async def page(call: Call) -> Answer:
    """The one page, to whom the guard lets in."""
    facts = _escaped(orjson.dumps(_facts(call)).decode())
    return _html(200, _read("index.html").decode().replace("{facts}", facts))


def login_form(call: Call, error: ProxyError) -> Answer:
    """In the place of the page: the form, or why there is nothing to sign in to."""
    headers = dict(call.request.scope["headers"])
    presented = bool(headers.get(b"authorization"))
    if error.status != 401:
        return _login(call, error.status, error.message, form=call.gateway.settings.admin_token is not None)
    return _login(call, 401, error.message if presented else "")


async def sign_in(call: Call) -> Answer:
    """From the form: a cookie and back to the page, or the form again."""
    scope = call.request.scope
    settings, guard = call.gateway.settings, call.gateway.guard
    body = await read_body(call.request.receive, MAX_FORM_BYTES)
    try:
        (token,) = parse_qs((body or b"").decode("latin-1"), max_num_fields=8).get("token", [""])
    except ValueError:
        token = ""
    try:
        value = guard.sign_in(settings, token.strip().encode("utf-8"), peer_of(call.gateway, scope))
    except CallerError as error:
        return _login(call, error.status, error.message, retry_after_s=error.retry_after_s)
    cookie = () if value is None else ((b"set-cookie", set_cookie(value, secure=_secure(call))),)
    return Answer(303, b"", headers=((b"location", _page_path(call)), *cookie))


async def sign_out(call: Call) -> Answer:
    """Ends this session; with `?everywhere=1` all of them."""
    sessions = call.gateway.guard.sessions
    if call.request.query_params.get("everywhere") == "1":
        sessions.end_all()
    sessions.end(session_value(dict(call.request.scope["headers"]).get(b"cookie")))
    return Answer(204, b"", headers=((b"set-cookie", clear_cookie(secure=_secure(call))),))


async def file(call: Call) -> Answer:
    """A style sheet, script or picture. They hold nothing but the program's own text, and the form needs its style, so they are public."""
    name = call.request.path_params["path"]
    if not _FILE_NAME.fullmatch(name):
        raise NotFound("The dashboard has no such file.")
    try:
        content = _read(name)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("The dashboard has no such file.") from None
    tag = b'"%s"' % hashlib.sha256(content).hexdigest()[:32].encode()
    headers = (*_HEADERS, (b"cache-control", b"no-cache"), (b"etag", tag))
    content_type = CONTENT_TYPES[Path(name).suffix]
    if tag in call.request.headers.get("if-none-match", "").encode("latin-1"):
        return Answer(304, b"", content_type, headers)
    return Answer(200, content, content_type, headers)


def _facts(call: Call) -> dict[str, object]:
    """What the page knows from the start: enough for the line to copy when nothing has been asked yet."""
    settings = call.gateway.settings
    models = settings.listed_models()
    headers = dict(call.request.scope["headers"])
    return {
        "version": VERSION,
        "model": models[0][0] if models else None,
        "needs_key": settings.needs_key and not settings.auth_none,
        "signed_in": settings.admin_token is not None and session_value(headers.get(b"cookie")) is not None,
    }


def _login(call: Call, status: int, message: str, *, form: bool = True, retry_after_s: float | None = None) -> Answer:
    headers = dict(call.request.scope["headers"])
    query = call.request.scope["query_string"].decode("latin-1")
    text = _read("login.html").decode()
    if not form:
        text = re.sub(r"<form.*</form>", "", text, flags=re.DOTALL)
    note = ""
    if form and not asked_on_loopback(headers) and b"sec-fetch-site" not in headers:
        # browsers leave these headers out where the connection is not safe, and keep no `Secure` cookie there either
        note = "Off this machine a browser stays signed in over HTTPS only: put TLS in front, or go through a tunnel (ssh -L)."
    values = {"query": f"?{query}" if query else "", "message": message, "note": note}
    answer = _html(status, re.sub(r"\{(query|message|note)\}", lambda found: _escaped(values[found[1]]), text))
    if retry_after_s is None:
        return answer
    return Answer(status, answer.body, answer.content_type, (*answer.headers, (b"retry-after", b"%d" % -(-retry_after_s // 1))))


def _html(status: int, text: str) -> Answer:
    return Answer(status, text.encode(), b"text/html; charset=utf-8", _HEADERS)


def _page_path(call: Call) -> bytes:
    query: bytes = call.request.scope["query_string"]
    return b"/dashboard" + (b"?" + query if query else b"")


def _secure(call: Call) -> bool:
    return not asked_on_loopback(dict(call.request.scope["headers"]))


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


def _read(name: str) -> bytes:
    return (FILES / name).read_bytes()


DASHBOARD = [
    Declared("/", Scope.ADMIN, page, refused=login_form),
    Declared("/dashboard", Scope.ADMIN, page, refused=login_form),
    Declared("/dashboard/login", Scope.PUBLIC, sign_in, "POST"),
    Declared("/dashboard/logout", Scope.ADMIN, sign_out, "POST"),
    Declared("/dashboard/static/{path:path}", Scope.PUBLIC, file),
]
