"""The reverse proxy that one writes in ten minutes, as a yardstick: Starlette, httpx2, `StreamingResponse`.

UPSTREAM=http://127.0.0.1:9000 uvicorn tests.bench.obvious:app
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from typing import TypedDict

import httpx2
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


class State(TypedDict):
    client: httpx2.AsyncClient


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[State]:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(base_url=os.environ["UPSTREAM"], timeout=None, limits=limits, trust_env=False) as client:
        yield {"client": client}


async def forward(request: Request) -> Response:
    client: httpx2.AsyncClient = request.state.client
    headers = [(name, value) for name, value in request.headers.items() if name not in _HOP_BY_HOP | {"host", "content-length"}]
    outbound = client.build_request(request.method, request.url.path, headers=headers, content=await request.body())
    answer = await client.send(outbound, stream=True)
    kept = {name: value for name, value in answer.headers.items() if name not in _HOP_BY_HOP}
    return StreamingResponse(
        answer.aiter_raw(), status_code=answer.status_code, headers=kept, background=BackgroundTask(answer.aclose)
    )


async def ready(_: Request) -> Response:
    return PlainTextResponse("ready")


app = Starlette(routes=[Route("/readyz", ready), Route("/v1/{path:path}", forward, methods=["POST"])], lifespan=lifespan)
