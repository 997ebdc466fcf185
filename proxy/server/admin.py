"""The admin API: the ledger's rows and sums, and the state of every provider and target. Read-only."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from proxy.core.errors import InvalidValue, NotFound
from proxy.engine.states import provider_states
from proxy.server.endpoints import Answer, Call, Declared, json_answer
from proxy.server.guard import Scope

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
_CURSOR = re.compile(r"[A-Za-z0-9_-]{1,128}")
_FILTERS = ("model", "provider", "client", "department", "outcome")
_AGO = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


async def list_requests(call: Call) -> Answer:
    query = call.request.query_params
    before = query.get("before") or None
    if before is not None and not _CURSOR.fullmatch(before):
        raise InvalidValue("`before` must be a cursor as `next` gave it.", param="before")
    filters = {name: query.get(name) or None for name in _FILTERS}
    rows, following = await call.gateway.surroundings.ledger.list_requests(_limit(query.get("limit")), before, **filters)
    return json_answer({"data": rows, "next": following})


async def show_request(call: Call) -> Answer:
    row = await call.gateway.surroundings.ledger.get_request(call.request.path_params["id"])
    if row is None:
        raise NotFound("There is no such request in the ledger.")
    return json_answer(row)


async def usage(call: Call) -> Answer:
    query = call.request.query_params
    group_by = [name.strip() for name in query.get("group_by", "").split(",") if name.strip()]
    try:
        rows = await call.gateway.surroundings.ledger.usage(
            group_by, moment_ms(query.get("since"), param="since"), moment_ms(query.get("until"), param="until")
        )
    except KeyError as error:
        raise InvalidValue(f"`group_by` cannot be {error.args[0]!r}.", param="group_by") from None
    return json_answer({"data": rows})


async def providers(call: Call) -> Answer:
    gateway = call.gateway
    now = gateway.services.clock.monotonic()
    return json_answer({"data": provider_states(gateway.settings, gateway.services.deployments, now)})


def _limit(text: str | None) -> int:
    if text is None or text == "":
        return DEFAULT_LIMIT
    try:
        return min(max(int(text), 1), MAX_LIMIT)
    except ValueError:
        raise InvalidValue(f"`limit` must be a number from 1 to {MAX_LIMIT}.", param="limit") from None


def moment_ms(text: str | None, *, param: str) -> int | None:
    """`7d` ago, an RFC 3339 time, a date, or seconds since 1970; in milliseconds. Raises InvalidValue."""
    if text is None or text == "":
        return None
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            moment = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        elif text.isdigit():
            return _epoch_ms(text)
        else:
            moment = datetime.fromisoformat(text.replace(" ", "+"))
    except (ValueError, OverflowError):
        raise InvalidValue(f"`{param}` must be a time such as 2026-11-21T00:00:00Z or 7d.", param=param) from None
    return round((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _epoch_ms(digits: str) -> int:
    if len(digits) > 15:
        raise ValueError("no such time")
    return int(digits) * 1000 if len(digits) <= 11 else int(digits)


ADMIN = [
    Declared("/api/v1/requests", Scope.ADMIN, list_requests),
    Declared("/api/v1/requests/{id}", Scope.ADMIN, show_request),
    Declared("/api/v1/usage", Scope.ADMIN, usage),
    Declared("/api/v1/providers", Scope.ADMIN, providers),
]
