"""How it is doing and what it costs, under `/api`: reads the query, asks the report that knows (`monitoring/reports.py`), answers JSON.

Every shape is in `openapi.py` and, with an example, in docs/api.md.
"""

from __future__ import annotations

from typing import Any

from starlette.datastructures import QueryParams

from proxy.core.errors import InvalidValue, NotFound
from proxy.monitoring import reports
from proxy.monitoring.advice import PriceOf
from proxy.monitoring.query import Query, read_query
from proxy.server.admin import limit_of
from proxy.server.endpoints import Answer, Call, Declared, json_answer, read_object
from proxy.server.guard import Scope

MAX_NUMBER = 1e15
MAX_COMPARED = 50
MAX_AFTER_DIGITS = 9


# -- health


async def status(call: Call) -> Answer:
    return json_answer(reports.status(call.gateway.surroundings.picture()))


async def health_check(call: Call) -> Answer:
    """What was found at most `health.interval` ago; with `fresh=1` every provider, or those of `provider=`, is asked now."""
    surroundings, given = call.gateway.surroundings, call.request.query_params
    names = _names(given.get("provider"))
    known = call.gateway.settings.providers
    for name in names:
        if name not in known:
            raise InvalidValue("There is no provider of that name in the configuration.", param="provider")
    if given.get("fresh") in ("1", "true"):
        await surroundings.check_health(names)
    return json_answer(reports.health_check(surroundings.picture(), names))


async def provider_status(call: Call) -> Answer:
    return json_answer(reports.provider_status(call.gateway.surroundings.picture()))


# -- use and cost


async def usage(call: Call) -> Answer:
    """Without `since`: everything that there is."""
    given = call.request.query_params
    groups, limit, after = _names(given.get("group_by")), given.get("limit"), given.get("after") or "0"
    if not after.isascii() or not after.isdigit() or len(after) > MAX_AFTER_DIGITS:
        raise InvalidValue("`after` must be the `next` of the page before.", param="after")
    report = await reports.usage_page(
        call.gateway.surroundings.ledger,
        _query(call, everything=True),
        groups,
        limit=limit_of(limit) if limit else reports.MAX_USAGE,
        after=int(after),
    )
    return json_answer(report)


async def dashboard(call: Call) -> Answer:
    surroundings = call.gateway.surroundings
    return json_answer(await reports.dashboard(surroundings.picture(), surroundings.ledger, _query(call)))


async def cost_analysis(call: Call) -> Answer:
    surroundings = call.gateway.surroundings
    return json_answer(await reports.cost_analysis(surroundings.picture(), surroundings.ledger, _query(call)))


async def department_usage(call: Call) -> Answer:
    name = call.request.path_params["department"]
    return json_answer(await reports.department_usage(call.gateway.surroundings.ledger, _query(call), name))


async def agent_usage(call: Call) -> Answer:
    name = call.request.path_params["agent"]
    return json_answer(await reports.agent_usage(call.gateway.surroundings.ledger, _query(call), name))


async def fallback_stats(call: Call) -> Answer:
    return json_answer(await reports.fallback_stats(call.gateway.surroundings.ledger, _query(call)))


async def timeseries(call: Call) -> Answer:
    given = call.request.query_params
    ledger = call.gateway.surroundings.ledger
    step, group_by = given.get("step") or None, given.get("group_by") or None
    return json_answer(await reports.timeseries(ledger, _query(call), step=step, group_by=group_by))


# -- what may be spent and used


async def budgets(call: Call) -> Answer:
    surroundings = call.gateway.surroundings
    return json_answer(await reports.budgets(surroundings.picture(), surroundings.ledger))


async def quotas(call: Call) -> Answer:
    surroundings, given = call.gateway.surroundings, call.request.query_params
    report = await reports.quotas(
        surroundings.picture(),
        surroundings.ledger,
        tokens_per_day=_number(given, "tokens_per_day"),
        tokens_per_request=_number(given, "tokens_per_request"),
    )
    return json_answer(report)


async def reset_quotas(call: Call) -> Answer:
    """`{"provider", "key"?}`: the quotas of a provider, or of one of its keys, begin anew now. Answers how they stand then."""
    surroundings = call.gateway.surroundings
    body = await read_object(call)
    provider, key = body.get("provider"), body.get("key")
    if not isinstance(provider, str) or not provider:
        raise InvalidValue("`provider` must be the name of one that has quotas.", param="provider")
    if key is not None and not isinstance(key, str):
        raise InvalidValue("`key` must be a fingerprint, as GET /api/v1/quotas shows it, or null.", param="key")
    surroundings.reset_quotas(provider, key)
    report = await reports.quotas(surroundings.picture(), surroundings.ledger)
    return json_answer({"data": [quota for quota in report["data"] if quota["provider"] == provider]})


async def limits(call: Call) -> Answer:
    return json_answer(reports.limits(call.gateway.surroundings.picture()))


# -- alerts


async def alerts(call: Call) -> Answer:
    return json_answer(await _alerts(call, call.request.query_params.get("kind") or None))


async def budget_alerts(call: Call) -> Answer:
    return json_answer(await _alerts(call, "budget"))


async def _alerts(call: Call, kind: str | None) -> dict[str, Any]:
    surroundings, given = call.gateway.surroundings, call.request.query_params
    limit, state = limit_of(given.get("limit")), given.get("state") or None
    return await reports.alerts(surroundings.picture(), surroundings.ledger, state=state, kind=kind, limit=limit)


async def acknowledge(call: Call) -> Answer:
    alert = call.gateway.surroundings.acknowledge(call.request.path_params["id"])
    if alert is None:
        raise NotFound("There is no open alert of that id.")
    return json_answer(alert)


# -- what to change, and everything in one


async def advice(call: Call) -> Answer:
    """`compare`: targets to reckon with besides those of the chains, separated by commas."""
    surroundings, given = call.gateway.surroundings, call.request.query_params
    found = await reports.advice(
        surroundings.picture(),
        surroundings.ledger,
        _prices(call),
        compare=_names(given.get("compare"))[:MAX_COMPARED],
        kinds=_names(given.get("kind")),
    )
    return json_answer(found)


async def monitor(call: Call) -> Answer:
    surroundings = call.gateway.surroundings
    return json_answer(await reports.monitor(surroundings.picture(), surroundings.ledger, _query(call), _prices(call)))


# -- what was asked for


def _prices(call: Call) -> PriceOf:
    services = call.gateway.services
    wall = services.clock.wall()
    return lambda target: services.prices.rates(target, wall)


def _query(call: Call, *, everything: bool = False) -> Query:
    return read_query(call.request.query_params, call.gateway.services.clock.wall(), everything=everything)


def _names(text: str | None) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))


def _number(given: QueryParams, name: str) -> float | None:
    text = given.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MAX_NUMBER:
        raise InvalidValue(f"`{name}` must be a number above 0.", param=name)
    return value


_V1 = "/api/v1"
_ROOT = f"{_V1}/monitoring"
MONITORING = [
    Declared("/api/status", Scope.ADMIN, status),
    Declared("/api/monitor", Scope.ADMIN, monitor),
    Declared(f"{_V1}/admin/monitoring", Scope.ADMIN, monitor),
    Declared(f"{_V1}/usage", Scope.ADMIN, usage),
    Declared(f"{_V1}/timeseries", Scope.ADMIN, timeseries),
    Declared(f"{_V1}/budgets", Scope.ADMIN, budgets),
    Declared(f"{_V1}/quotas", Scope.ADMIN, quotas),
    Declared(f"{_V1}/quotas/reset", Scope.ADMIN, reset_quotas, "POST"),
    Declared(f"{_V1}/limits", Scope.ADMIN, limits),
    Declared(f"{_V1}/advice", Scope.ADMIN, advice),
    Declared(f"{_V1}/alerts/{{id}}/acknowledge", Scope.ADMIN, acknowledge, "POST"),
    Declared(f"{_ROOT}/dashboard", Scope.ADMIN, dashboard),
    Declared(f"{_ROOT}/health-check", Scope.ADMIN, health_check),
    Declared(f"{_ROOT}/provider-status", Scope.ADMIN, provider_status),
    Declared(f"{_ROOT}/cost-analysis", Scope.ADMIN, cost_analysis),
    Declared(f"{_ROOT}/department-usage/{{department:path}}", Scope.ADMIN, department_usage),
    Declared(f"{_ROOT}/agent-usage/{{agent:path}}", Scope.ADMIN, agent_usage),
    Declared(f"{_ROOT}/alerts", Scope.ADMIN, alerts),
    Declared(f"{_ROOT}/budget-alerts", Scope.ADMIN, budget_alerts),
    Declared(f"{_ROOT}/fallback-stats", Scope.ADMIN, fallback_stats),
]
