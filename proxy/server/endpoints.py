"""The ASGI routes of the API itself: completions over the ASGI sink, models, liveness, readiness, metrics.

Routes are a table with the scope that each needs; `Routes` turns it into Starlette's, and a test walks it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

import orjson
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from proxy.config.settings import ClientSettings
from proxy.core.errors import (
    CallerError,
    InternalError,
    InvalidJson,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    ProxyError,
    RequestTooLarge,
    UnsupportedMediaType,
)
from proxy.dialects.openai_request import checked_model, error_object
from proxy.engine.answers import SAFE_HEADERS, error_headers
from proxy.engine.control import Control
from proxy.server.cors import allowed_origin, answer_preflight, shared
from proxy.server.gateway import Gateway
from proxy.server.guard import Scope
from proxy.server.sink import AsgiSink, watch_for_hangup

MAX_OBJECT_BYTES = 65_536
ANY_HOST = frozenset(("/livez", "/readyz"))  # whoever watches over machines asks them by their address
JSON = [(b"content-type", b"application/json")]


@dataclass(frozen=True, slots=True)
class Call:
    """A request off the fast lane, as an endpoint sees it."""

    gateway: Gateway
    request: Request
    request_id: str


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()  # besides SAFE_HEADERS, or in the place of one of them


Handler = Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Declared:
    """One line of the route table."""

    path: str
    scope: Scope
    handler: Handler | None  # None: what the engine serves, which writes through a sink
    method: str = "GET"
    kind: Literal["chat", "embeddings"] = "chat"
    refused: Callable[[Call, ProxyError], Answer] | None = None  # how a refusal is told, where people read it; None: as JSON

    @property
    def is_for_pages(self) -> bool:
        """Whether a page of another origin may be let in: to what clients call, and to read what the admin reads."""
        return self.scope is Scope.CLIENT or (self.method == "GET" and self.path.startswith("/api/"))


def json_answer(value: object, status: int = 200) -> Answer:
    return Answer(status, orjson.dumps(value))


class Endpoint:
    """An ASGI application for one declared path, with a line for each method: guard, handler, errors in OpenAI's shape."""

    def __init__(self, *lines: Declared) -> None:
        self.lines = lines

    def line_of(self, method: str) -> Declared:
        """The one that takes the method; where none does, the first says so."""
        return next((line for line in self.lines if line.method == method), self.lines[0])

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        gateway: Gateway = scope["state"]["gateway"]
        request_id = gateway.new_id()
        headers = dict(scope["headers"])
        preflight = headers.get(b"access-control-request-method") if scope["method"] == "OPTIONS" else None
        declared = self.line_of(scope["method"] if preflight is None else preflight.decode("latin-1"))
        origins = gateway.settings.server.cors_origins
        if origins and declared.is_for_pages:
            origin = allowed_origin(headers, origins)
            if origin is not None and preflight is not None:
                await answer_preflight(send, origin, declared.method, headers, request_id)
                return
            send = shared(send, origin)
        sink = AsgiSink(send)
        try:
            if declared.path not in ANY_HOST:
                gateway.guard.check_host(gateway.settings, headers)
            if declared.method not in (scope["method"], "*") and not (scope["method"] == "HEAD" and declared.method == "GET"):
                allowed = [line.method for line in self.lines]
                raise MethodNotAllowed(f"{scope['path']} takes {' and '.join(allowed)}.", allowed=allowed)
            if declared.handler is None:
                await self._completion(declared, gateway, scope, receive, sink, request_id)
                return
            if declared.scope is Scope.CLIENT:
                gateway.guard.client(gateway.settings, headers)
            else:
                gateway.guard.check(declared.scope, gateway.settings, headers, peer_of(gateway, scope), method=scope["method"])
            answer = await declared.handler(Call(gateway, Request(scope, receive), request_id))
        except ProxyError as error:
            error.message = gateway.services.redact(error.message)  # it may quote a path or a name
            if declared.handler is None:
                gateway.services.meter.rejected(error.code)
            if declared.refused is not None and error.status in (401, 403, 429):
                await _respond(sink, request_id, declared.refused(Call(gateway, Request(scope, receive), request_id), error))
                return
            await tell(sink, request_id, error)
            return
        except Exception as fault:
            # as on the fast lane: a fault of our own is logged, and told in the shape that clients read
            if sink.started:
                raise
            gateway.services.log.error("internal_error", request_id=request_id, fault=repr(fault)[:500])
            await tell(sink, request_id, InternalError("The proxy failed on this request."))
            return
        await _respond(sink, request_id, answer)

    async def _completion(
        self, declared: Declared, gateway: Gateway, scope: AsgiScope, receive: Receive, sink: AsgiSink, request_id: str
    ) -> None:
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise UnsupportedMediaType("Compressed requests are not taken: send the body as it is.")
        client = gateway.guard.client(gateway.settings, headers)
        addresses = gateway.addresses
        seat = addresses.enter(peer_of(gateway, scope)) if addresses.counts else None
        try:
            await self._serve(declared, gateway, headers, client, receive, sink, request_id)
        finally:
            if seat is not None:
                addresses.leave(seat)

    async def _serve(
        self,
        declared: Declared,
        gateway: Gateway,
        headers: dict[bytes, bytes],
        client: ClientSettings | None,
        receive: Receive,
        sink: AsgiSink,
        request_id: str,
    ) -> None:
        body = await read_body(receive, gateway.settings.server.max_body_bytes, setting=" (`server.max_body`)")
        if body is None:
            return
        task = asyncio.current_task()
        assert task is not None
        control = Control(task)
        watcher = asyncio.create_task(watch_for_hangup(receive, control))
        try:
            serve = gateway.chat if declared.kind == "chat" else gateway.embeddings
            await serve(headers, body, client, sink, control, request_id=request_id)
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher


def peer_of(gateway: Gateway, scope: AsgiScope) -> str | None:
    """The caller's address, past the proxies that are trusted."""
    peer = scope["client"][0] if scope.get("client") else None
    return gateway.addresses.caller(peer, dict(scope["headers"])) if gateway.addresses.trusts else peer


async def _respond(sink: AsgiSink, request_id: str, answer: Answer) -> None:
    more = {**dict(SAFE_HEADERS), **dict(answer.headers)}
    head = [(b"content-type", answer.content_type), (b"x-request-id", request_id.encode()), *more.items()]
    await sink.respond(answer.status, head, answer.body)


async def tell(sink: AsgiSink, request_id: str, error: ProxyError) -> None:
    headers = [*error_headers(request_id, error), *SAFE_HEADERS]
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allowed).encode()))
    await sink.respond(error.status, headers, orjson.dumps(error_object(error)))


async def read_object(call: Call, limit: int = MAX_OBJECT_BYTES) -> dict[str, Any]:
    """The JSON object that an admin's request is about; no body is an empty one. Raises InvalidJson, RequestTooLarge."""
    data = await read_body(call.request.receive, limit)
    try:
        body = orjson.loads(data or b"{}")
    except orjson.JSONDecodeError:
        raise InvalidJson("The body is not JSON.") from None
    if not isinstance(body, dict):
        raise InvalidJson("The body must be a JSON object.")
    return body


async def read_body(receive: Receive, limit: int, *, setting: str = "") -> bytes | None:
    """The whole body, None when the caller left before it was whole. `setting`: who is refused is told by it. Raises RequestTooLarge."""
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise RequestTooLarge(f"The body is larger than {limit} bytes{setting}.")
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


# -- handlers


async def list_models(call: Call) -> Answer:
    data = [_model(name, owner) for name, owner in _visible_models(call)]
    return json_answer({"object": "list", "data": data})


async def show_model(call: Call) -> Answer:
    name = unquote(call.request.path_params["model"])
    checked_model(name)
    for known, owner in _visible_models(call):
        if known == name:
            return json_answer(_model(known, owner))
    raise ModelNotFound(f"There is no model `{name}`: GET /v1/models lists them.", param="model")


def _visible_models(call: Call) -> list[tuple[str, str]]:
    """What this client may use: a client limited to chains may use no direct target, one limited to names no other."""
    settings = call.gateway.settings
    client = call.gateway.guard.client(settings, dict(call.request.scope["headers"]))
    models = settings.listed_models()
    if client is not None and client.is_limited:
        return [(name, owner) for name, owner in models if client.may_use(name, name if name in settings.chains else None)]
    return models


def _model(name: str, owner: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


async def livez(call: Call) -> Answer:
    return json_answer({"status": "ok"})


async def readyz(call: Call) -> Answer:
    """Public, so what a note is about in detail, such as a line of the configuration, is for the admin only."""
    readiness = call.gateway.surroundings.readiness()
    admin = _is_admin(call)
    notes = [f"{note.fact}: {note.detail}" if admin and note.detail else note.fact for note in readiness.notes]
    status = 503 if readiness.reasons else 200
    told = {"ready": not readiness.reasons, "reasons": readiness.reasons, "notes": notes, "degraded": list(readiness.degraded)}
    return json_answer(told, status)


def _is_admin(call: Call) -> bool:
    gateway, scope = call.gateway, call.request.scope
    try:
        gateway.guard.check(Scope.ADMIN, gateway.settings, dict(scope["headers"]), peer_of(gateway, scope))
    except CallerError:
        return False
    return True


async def metrics(call: Call) -> Answer:
    openmetrics = "application/openmetrics-text" in call.request.headers.get("accept", "")
    body, content_type = await call.gateway.surroundings.metrics_page(openmetrics=openmetrics)
    return Answer(200, body, content_type.encode())


_CALLERS_PATHS = "callers are served at POST /v1/chat/completions, POST /v1/embeddings and GET /v1/models"
_OPERATORS_PATHS = "GET /api/v1/openapi.json lists what there is"


async def not_found(call: Call) -> Answer:
    path: str = call.request.scope["path"]
    what = _OPERATORS_PATHS if path.startswith("/api") else _CALLERS_PATHS
    raise NotFound(f"There is nothing at {path}: {what}.")


COMPLETIONS = [
    Declared("/v1/chat/completions", Scope.CLIENT, None, "POST"),
    Declared("/chat/completions", Scope.CLIENT, None, "POST"),
]
EMBEDDINGS = [
    Declared("/v1/embeddings", Scope.CLIENT, None, "POST", "embeddings"),
    Declared("/embeddings", Scope.CLIENT, None, "POST", "embeddings"),
]
MODELS = [
    Declared("/v1/models", Scope.CLIENT, list_models),
    Declared("/models", Scope.CLIENT, list_models),
    Declared("/v1/models/{model:path}", Scope.CLIENT, show_model),
    Declared("/models/{model:path}", Scope.CLIENT, show_model),
]
PROBES = [
    Declared("/livez", Scope.PUBLIC, livez),
    Declared("/readyz", Scope.PUBLIC, readyz),
    Declared("/metrics", Scope.METRICS, metrics),
]
FALLBACK = Declared("/{path:path}", Scope.PUBLIC, not_found, "*")


def routes(declared: list[Declared]) -> list[Route]:
    """Starlette's routes for the table, every method included, so that a wrong one is told in our own shape."""
    by_path: dict[str, list[Declared]] = {}
    for line in declared:
        by_path.setdefault(line.path, []).append(line)
    return [Route(path, Endpoint(*lines)) for path, lines in by_path.items()]
