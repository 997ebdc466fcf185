"""`/api/v1/keys`: the runtime keys, for the admin. A key's secret is in the answer that makes it, and in no other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.config import key_rules
from proxy.config.faults import one_line
from proxy.config.keyring import RuntimeKey
from proxy.core.errors import InvalidValue, LedgerUnavailable
from proxy.server.endpoints import Answer, Call, Declared, json_answer, read_object
from proxy.server.guard import Scope


async def list_keys(call: Call) -> Answer:
    keyring = call.gateway.surroundings.keys.keyring
    used = await _last_used(call)
    return json_answer({"data": [_shown(call, key, used.get(key.name)) for key in keyring.keys]})


async def create(call: Call) -> Answer:
    body = await read_object(call)
    key, secret = await call.gateway.surroundings.keys.create(body)
    return json_answer({**_shown(call, key), "key": secret})


async def revoke(call: Call) -> Answer:
    key = await call.gateway.surroundings.keys.revoke(call.request.path_params["id"])
    return json_answer(_shown(call, key, (await _last_used(call)).get(key.name)))


async def rotate(call: Call) -> Answer:
    """`{"grace"?}`: how long the old secret still opens."""
    body = await read_object(call)
    grace = body.pop("grace", None)
    for name in body:
        raise InvalidValue(f"unknown field '{one_line(name)}' (known here: grace)", param=one_line(name))
    if grace is not None and not isinstance(grace, str):
        raise InvalidValue("write a duration of at most 30d: 0s, 1h, 7d.", param="grace")
    reference = call.request.path_params["id"]
    key, secret = await call.gateway.surroundings.keys.rotate(reference, key_rules.DEFAULT_GRACE if grace is None else grace)
    return json_answer({**_shown(call, key, (await _last_used(call)).get(key.name)), "key": secret})


async def _last_used(call: Call) -> Mapping[str, int]:
    """By name; nobody knows while the ledger cannot be read."""
    try:
        return await call.gateway.surroundings.ledger.last_used()
    except LedgerUnavailable:
        return {}


def _shown(call: Call, key: RuntimeKey, last_used_ms: int | None = None) -> dict[str, Any]:
    gateway = call.gateway
    now_ms = round(gateway.services.clock.wall() * 1000)
    return key_rules.shown(key, gateway.settings, now_ms=now_ms, last_used_ms=last_used_ms)


KEYS = [
    Declared("/api/v1/keys", Scope.ADMIN, list_keys),
    Declared("/api/v1/keys", Scope.ADMIN, create, "POST"),
    Declared("/api/v1/keys/{id}", Scope.ADMIN, revoke, "DELETE"),
    Declared("/api/v1/keys/{id}/rotate", Scope.ADMIN, rotate, "POST"),
]
