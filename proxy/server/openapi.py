"""The API described for programs, built of the routes that there are; `shapes.py` has what they answer.

https://spec.openapis.org/oas/v3.1.0

An operation stands here for every route of the table but the dashboard's pages; a test holds the two together, and answers of a
running proxy against the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from proxy.core.version import VERSION
from proxy.monitoring.query import FILTERS
from proxy.server.endpoints import Answer, Call, Declared, Endpoint, json_answer
from proxy.server.guard import Scope
from proxy.server.shapes import (
    ANYTHING,
    COUNT,
    FLAG,
    GROUPS,
    NUMBER,
    SCHEMAS,
    TEXT,
    Schema,
    data_of,
    list_of,
    object_of,
    one_of,
    ref,
)

DESCRIPTION: Final = (
    "Times are RFC 3339 in UTC, money is US dollars in decimal strings, rates and shares are 0 to 1, null is unknown. "
    "Examples are in docs/api.md."
)


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    description: str
    schema: Schema


@dataclass(frozen=True, slots=True)
class Operation:
    """`answer` None: it is no JSON."""

    summary: str
    answer: Schema | None
    query: tuple[Parameter, ...] = ()
    body: Schema | None = None


_SINCE = Parameter(
    "since", "An age (`90m`, `7d`), a date, RFC 3339 or seconds since 1970. Default: the begin of this month.", TEXT
)
_UNTIL = Parameter("until", "The same, for the end. Default: now.", TEXT)
_ZONE = Parameter("time_zone", "An IANA name: when days and months begin. Default: UTC.", TEXT)
_FILTERS = tuple(Parameter(name, f"Only of this {name}.", TEXT) for name in FILTERS)
_PERIOD = (_SINCE, _UNTIL, _ZONE)
_QUERY = (*_PERIOD, *_FILTERS)
_LIMIT = Parameter("limit", "1 to 1,000; 100 unless given.", COUNT)
_POSITIVE: Schema = {"type": ["integer", "null"], "minimum": 1}
_NEW_KEY = object_of(
    {"name": TEXT},
    optional={
        **{name: {"type": ["string", "null"]} for name in ("department", "agent", "expires")},
        **{name: {"type": ["array", "null"], "items": TEXT} for name in ("chains", "models")},
        "budget": {
            "type": ["object", "null"],
            "properties": {"usd": {"type": ["number", "string"]}, "per": one_of("day", "month", "once"), "hard": FLAG},
            "required": ["usd"],
            "additionalProperties": False,
        },
        "limits": {
            "type": ["object", "null"],
            "properties": dict.fromkeys(("rpm", "tpm", "in_flight"), _POSITIVE),
            "additionalProperties": False,
        },
    },
)
_STATE = Parameter("state", "Only alerts that are in it.", one_of("open", "acknowledged", "resolved"))

OPERATIONS: Final[Mapping[str, Operation]] = {
    "GET /api/status": Operation("Which providers are well", ref("Status")),
    "GET /api/monitor": Operation("Everything in one", ref("Monitor"), _QUERY),
    "GET /api/v1/admin/monitoring": Operation("The same as /api/monitor", ref("Monitor"), _QUERY),
    "GET /api/v1/requests": Operation(
        "The ledger's requests, newest first",
        data_of(ref("Request"), next={"type": ["string", "null"]}),
        (
            _LIMIT,
            Parameter("before", "The `next` of the page before.", TEXT),
            *(
                Parameter(name, f"Only of this {name}.", TEXT)
                for name in ("model", "provider", "client", "department", "outcome")
            ),
        ),
    ),
    "GET /api/v1/requests/{id}": Operation("One request, with its attempts and why each target was taken", ref("RequestDetail")),
    "POST /api/v1/explain": Operation(
        "Which way a request would go at this moment, and why; nothing is sent",
        ref("Explanation"),
        body=object_of(
            {},
            optional={
                **{name: {"type": ["string", "null"]} for name in ("model", "client")},
                **{name: {"type": ["object", "null"]} for name in ("request", "headers")},
            },
        ),
    ),
    "GET /api/v1/providers": Operation("How providers and their targets are doing", data_of(ref("Provider"))),
    "GET /api/v1/usage": Operation(
        "Sums of the ledger, the dearest first",
        data_of(ref("Usage"), next={"type": ["string", "null"]}),
        (
            Parameter("group_by", f"Any of {', '.join(GROUPS)}, separated by commas. Default: one sum of all.", TEXT),
            Parameter("since", "As elsewhere, but everything that there is unless given.", TEXT),
            _UNTIL,
            _ZONE,
            *_FILTERS,
            Parameter("limit", "At most so many rows, 1 to 1,000. Default: 1,000.", COUNT),
            Parameter("after", "The `next` of the page before.", TEXT),
        ),
    ),
    "GET /api/v1/timeseries": Operation(
        "Requests, cost and times by the hour or day, empty steps included",
        ref("Series"),
        (
            Parameter("step", "Default: by the hour up to three days, else by the day.", one_of("hour", "day")),
            Parameter(
                "group_by", "One series each, of at most 50 and as many as make 3,600 points together.", one_of(*GROUPS[:8])
            ),
            *_QUERY,
        ),
    ),
    "GET /api/v1/budgets": Operation("How much of each budget is spent", data_of(ref("Budget"))),
    "GET /api/v1/quotas": Operation(
        "How much of each quota is used, and how long it lasts",
        ref("Quotas"),
        (
            Parameter("tokens_per_day", "Reckon with so many, instead of what the ledger says.", NUMBER),
            Parameter("tokens_per_request", "The same, for quotas in requests.", NUMBER),
        ),
    ),
    "POST /api/v1/quotas/reset": Operation(
        "A provider's quotas begin anew",
        data_of(ref("Quota")),
        body=object_of({"provider": TEXT}, optional={"key": {"type": ["string", "null"]}}),
    ),
    "GET /api/v1/limits": Operation("Rate limits, from the file and learned", data_of(ref("Limit"))),
    "GET /api/v1/advice": Operation(
        "What to change, by the last 30 days",
        data_of(ref("Advice")),
        (
            Parameter("compare", "Targets to reckon with besides those of the chains, separated by commas.", TEXT),
            Parameter("kind", "Only advice of these kinds, separated by commas.", TEXT),
        ),
    ),
    "POST /api/v1/alerts/{id}/acknowledge": Operation("Somebody has seen it", ref("Alert")),
    "GET /api/v1/monitoring/dashboard": Operation("The figures of a period", ref("Dashboard"), _QUERY),
    "GET /api/v1/monitoring/health-check": Operation(
        "How providers are doing",
        ref("HealthCheck"),
        (
            Parameter("provider", "Only these, separated by commas.", TEXT),
            Parameter("fresh", "Ask them now.", one_of("1")),
        ),
    ),
    "GET /api/v1/monitoring/provider-status": Operation(
        "Which providers can serve, and for which chains", ref("ProviderStatuses")
    ),
    "GET /api/v1/monitoring/cost-analysis": Operation("Where the money goes", ref("CostAnalysis"), _QUERY),
    "GET /api/v1/monitoring/department-usage/{department}": Operation("What a department used", ref("DepartmentUsage"), _QUERY),
    "GET /api/v1/monitoring/agent-usage/{agent}": Operation("What an agent used", ref("AgentUsage"), _QUERY),
    "GET /api/v1/monitoring/alerts": Operation(
        "Open alerts, then resolved ones", ref("Alerts"), (_STATE, Parameter("kind", "Only of this kind.", TEXT), _LIMIT)
    ),
    "GET /api/v1/monitoring/budget-alerts": Operation("Those of budgets", ref("Alerts"), (_STATE, _LIMIT)),
    "GET /api/v1/monitoring/fallback-stats": Operation(
        "Failovers by where from, where to and why", ref("FallbackStats"), (*_PERIOD, *(f for f in _FILTERS if f.name == "chain"))
    ),
    "GET /api/v1/cache": Operation("Answers that are kept, and what that has saved", ref("Cache")),
    "DELETE /api/v1/cache": Operation(
        "Forget them",
        object_of({"chain": {"type": ["string", "null"]}, "cleared": COUNT}),
        (Parameter("chain", "Only those of this chain.", TEXT),),
    ),
    "GET /api/v1/keys": Operation("The runtime keys, ended ones too", data_of(ref("Key"))),
    "POST /api/v1/keys": Operation("Make a key", ref("NewKey"), body=_NEW_KEY),
    "DELETE /api/v1/keys/{id}": Operation("End a key now, by its id or its name", ref("Key")),
    "POST /api/v1/keys/{id}/rotate": Operation(
        "Give a key another secret", ref("NewKey"), body=object_of({}, optional={"grace": {**TEXT, "examples": ["1h"]}})
    ),
    "GET /api/v1/openapi.json": Operation("This description", {"type": "object"}),
    "POST /v1/chat/completions": Operation("OpenAI chat completions", {"type": "object"}, body={"type": "object"}),
    "POST /v1/embeddings": Operation("OpenAI embeddings", {"type": "object"}, body={"type": "object"}),
    "GET /v1/models": Operation(
        "The models that the caller may use", object_of({"object": one_of("list"), "data": list_of(ref("Model"))})
    ),
    "GET /v1/models/{model}": Operation("One of them", ref("Model")),
    "GET /livez": Operation("The process is alive", object_of({"status": one_of("ok")})),
    "GET /readyz": Operation("It can serve; 503 while it cannot", ref("Readiness")),
    "GET /metrics": Operation("Prometheus text, or OpenMetrics", None),
}
_SECURITY: Final[Mapping[Scope, list[dict[str, list[str]]]]] = {
    Scope.PUBLIC: [],
    Scope.CLIENT: [{"client_key": []}],
    Scope.METRICS: [{"metrics_token": []}, {"admin_token": []}],
    Scope.ADMIN: [{"admin_token": []}],
}


def name_of(line: Declared) -> str:
    """`GET /v1/models/{model}`."""
    return f"{line.method} {line.path.replace(':path}', '}')}"


def document(declared: Iterable[Declared]) -> Schema:
    """The OpenAPI document of those routes that OPERATIONS has."""
    paths: dict[str, Schema] = {}
    for line in declared:
        name = name_of(line)
        operation = OPERATIONS.get(name)
        if operation is not None:
            paths.setdefault(name.partition(" ")[2], {})[line.method.lower()] = _described(line, operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tollbridge", "version": VERSION, "description": DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                name: {"type": "http", "scheme": "bearer"} for name in ("admin_token", "metrics_token", "client_key")
            },
        },
    }


def _described(line: Declared, operation: Operation) -> Schema:
    found: Schema = {
        "summary": operation.summary,
        "operationId": re.sub(r"[^a-z0-9]+", "_", name_of(line).lower()).strip("_"),
        "security": _SECURITY[line.scope],
        "responses": {
            "200": {"description": "As asked.", "content": dict(_content(operation))},
            "default": {"description": "An error.", "content": {"application/json": {"schema": ref("Error")}}},
        },
    }
    path = [{"name": n, "in": "path", "required": True, "schema": TEXT} for n in re.findall(r"{([a-z]+)}", name_of(line))]
    query = [{"name": p.name, "in": "query", "description": p.description, "schema": p.schema} for p in operation.query]
    if path or query:
        found["parameters"] = [*path, *query]
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": operation.body}}}
    return found


def _content(operation: Operation) -> Iterator[tuple[str, Schema]]:
    if operation.answer is None:
        yield "text/plain", {"schema": ANYTHING}
    else:
        yield "application/json", {"schema": operation.answer}


async def page(call: Call) -> Answer:
    lines = tuple(line for route in call.request.app.routes if isinstance(route.app, Endpoint) for line in route.app.lines)
    return json_answer(_document_of(lines))


@lru_cache(maxsize=1)
def _document_of(declared: tuple[Declared, ...]) -> Schema:
    return document(declared)


OPENAPI = [Declared("/api/v1/openapi.json", Scope.ADMIN, page)]
