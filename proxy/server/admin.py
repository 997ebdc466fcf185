"""The admin API: the ledger's rows, the state of every provider and target, and which way a request would go. Changes nothing; sums and
reports are in `monitoring.py`."""

from __future__ import annotations

import re

from proxy.core.errors import InvalidValue, NotFound
from proxy.engine.foreseen import foresee, read_question
from proxy.server.endpoints import Answer, Call, Declared, json_answer, read_object
from proxy.server.guard import Scope

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
MAX_EXPLAINED_BYTES = 4 << 20  # of a request that is explained: it is read in the thread that serves
_CURSOR = re.compile(r"[A-Za-z0-9_-]{1,128}")
_FILTERS = ("model", "provider", "client", "department", "outcome")


async def list_requests(call: Call) -> Answer:
    query = call.request.query_params
    before = query.get("before") or None
    if before is not None and not _CURSOR.fullmatch(before):
        raise InvalidValue("`before` must be a cursor as `next` gave it.", param="before")
    filters = {name: query.get(name) or None for name in _FILTERS}
    rows, following = await call.gateway.surroundings.ledger.list_requests(limit_of(query.get("limit")), before, **filters)
    return json_answer({"data": rows, "next": following})


async def show_request(call: Call) -> Answer:
    row = await call.gateway.surroundings.ledger.get_request(call.request.path_params["id"])
    if row is None:
        raise NotFound("There is no such request in the ledger.")
    return json_answer(row)


async def providers(call: Call) -> Answer:
    """The cards of the health check, with the name that the time of the last check has here."""
    cards = call.gateway.surroundings.picture().cards
    return json_answer({"data": [{**card.as_dict(), "last_check": card.checked} for card in cards]})


async def explain(call: Call) -> Answer:
    """`{"model"?, "request"?, "headers"?, "client"?}`: which way it would go at this moment, by what this process knows. Sends nothing."""
    question = read_question(await read_object(call, MAX_EXPLAINED_BYTES))
    services = call.gateway.services
    plan = foresee(
        question,
        call.gateway.settings,
        deployments=services.deployments,
        prices=services.prices,
        now=services.clock.monotonic(),
        wall=services.clock.wall(),
        random=services.random,
    )
    return json_answer({**plan, "state": "live"})


def limit_of(text: str | None) -> int:
    if text is None or text == "":
        return DEFAULT_LIMIT
    try:
        return min(max(int(text), 1), MAX_LIMIT)
    except ValueError:
        raise InvalidValue(f"`limit` must be a number from 1 to {MAX_LIMIT}.", param="limit") from None


ADMIN = [
    Declared("/api/v1/requests", Scope.ADMIN, list_requests),
    Declared("/api/v1/requests/{id}", Scope.ADMIN, show_request),
    Declared("/api/v1/providers", Scope.ADMIN, providers),
    Declared("/api/v1/explain", Scope.ADMIN, explain, "POST"),
]
