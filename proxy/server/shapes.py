"""What the API answers, as JSON Schema (2020-12, which is what OpenAPI 3.1 speaks): https://json-schema.org/draft/2020-12

Every object is closed and has all of its fields, so that the tests which hold real answers against these find what is missing on
either side. Null is unknown.
"""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]


def object_of(fields: dict[str, Schema], *, optional: dict[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": {**fields, **(optional or {})},
        "required": list(fields),
        "additionalProperties": False,
    }


def list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def data_of(items: Schema, **more: Schema) -> Schema:
    return object_of({"data": list_of(items), **more})


def maybe(schema: Schema) -> Schema:
    """It, or null."""
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"], **({"enum": [*schema["enum"], None]} if "enum" in schema else {})}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def one_of(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


TEXT: Final[Schema] = {"type": "string"}
FLAG: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
NUMBER: Final[Schema] = {"type": "number", "minimum": 0}
SHARE: Final[Schema] = {"type": "number", "minimum": 0, "maximum": 1}
USD: Final[Schema] = {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?$", "description": "US dollars, exact"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
ANYTHING: Final[Schema] = {}
TRACE: Final[Schema] = list_of({"type": "object"})
STATE: Final[Schema] = one_of("healthy", "degraded", "down", "unknown", "disabled")
PER: Final[Schema] = one_of("day", "month", "once")
UNIT: Final[Schema] = one_of("requests", "tokens")

_TOKENS: Final = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
_REQUEST: Final[dict[str, Schema]] = {
    "id": TEXT,
    "time": TIME,
    "client": maybe(TEXT),
    "department": maybe(TEXT),
    "agent": maybe(TEXT),
    "task": maybe(TEXT),
    "model": maybe(TEXT),
    "chain": maybe(TEXT),
    "provider": maybe(TEXT),
    "upstream_model": maybe(TEXT),
    "stream": maybe(FLAG),
    "outcome": one_of("running", "ok", "failed", "rejected", "interrupted", "client_gone"),
    "http_status": maybe(COUNT),
    "attempts": COUNT,
    **dict.fromkeys(_TOKENS, COUNT),
    "usage_source": maybe(one_of("provider", "counted", "estimated")),
    "cost_usd": maybe(USD),
    "first_token_ms": maybe(NUMBER),
    "duration_ms": maybe(NUMBER),
    "config": maybe(TEXT),
    "finish_reason": maybe(TEXT),
    "cache": maybe(TEXT),
    "saved_usd": maybe(USD),
    "quality": maybe(SHARE),
    "hedged": FLAG,
    "continued": list_of(COUNT),
}
_ATTEMPT: Final[dict[str, Schema]] = {
    "n": COUNT,
    "provider": TEXT,
    "upstream_model": TEXT,
    "outcome": TEXT,
    "http_status": maybe(COUNT),
    "error_class": maybe(TEXT),
    "category": maybe(one_of("transient", "permanent")),
    "error": maybe(TEXT),
    "started": TIME,
    "first_token_ms": maybe(NUMBER),
    "duration_ms": maybe(NUMBER),
    **dict.fromkeys((*_TOKENS, "input_audio_tokens", "output_audio_tokens", "at_risk_tokens"), COUNT),
    "usage_source": maybe(one_of("provider", "counted", "estimated")),
    "cost_usd": maybe(USD),
    "price_source": maybe(TEXT),
    "credential": maybe(TEXT),
    "finish_reason": maybe(TEXT),
}
_SUMS: Final[dict[str, Schema]] = {
    **dict.fromkeys(("requests", "ok", "failed", "rejected", "interrupted", "client_gone", "failed_over"), COUNT),
    **dict.fromkeys(("attempts", "attempts_ok", "attempts_failed"), COUNT),
    **dict.fromkeys((*_TOKENS, "input_audio_tokens", "output_audio_tokens", "at_risk_tokens"), COUNT),
    **dict.fromkeys(("unpriced_attempts", "estimated_attempts"), COUNT),
    **dict.fromkeys(("cache_hits", "rated"), COUNT),
    "saved_usd": USD,
    **dict.fromkeys(("cache_hit_rate", "mean_quality"), maybe(SHARE)),
    "cost_usd": USD,
    **dict.fromkeys(("success_rate", "error_rate"), maybe(SHARE)),
    "cost_per_call_usd": maybe(USD),
    "tokens_per_call": maybe(NUMBER),
    **dict.fromkeys(("mean_duration_ms", "mean_first_token_ms"), maybe(NUMBER)),
}
_USAGE: Final[dict[str, Schema]] = {
    **_SUMS,
    **dict.fromkeys(("p50_ms", "p95_ms", "p99_ms"), maybe(NUMBER)),
    **dict.fromkeys(("first_token_p50_ms", "first_token_p95_ms", "first_token_p99_ms"), maybe(NUMBER)),
}
GROUPS: Final = ("provider", "model", "chain", "client", "department", "agent", "task", "key", "month", "day", "hour")
_POINT: Final[dict[str, Schema]] = {
    "time": TIME,
    **dict.fromkeys(("requests", "ok", "failed", "failed_over", "input_tokens", "output_tokens"), COUNT),
    "cost_usd": USD,
    "success_rate": maybe(SHARE),
    **dict.fromkeys(("p50_ms", "p95_ms", "first_token_p95_ms"), maybe(NUMBER)),
}
_TARGET: Final[dict[str, Schema]] = {
    "model": TEXT,
    "state": STATE,
    "reason": maybe(TEXT),
    "circuit": one_of("closed", "half_open", "open"),
    "cooldown_s": NUMBER,
    "latched": maybe(TEXT),
    **dict.fromkeys(("in_flight", "ok", "failed"), COUNT),
    "latency_ms": maybe(NUMBER),
    "last_check": maybe(TIME),
}
_KEY: Final[dict[str, Schema]] = {
    "id": TEXT,
    "name": TEXT,
    "state": one_of("active", "expired", "revoked", "shadowed"),
    "hint": TEXT,
    "created": TIME,
    **dict.fromkeys(("expires", "revoked", "rotated", "old_until", "last_used"), maybe(TIME)),
    **dict.fromkeys(("department", "agent"), maybe(TEXT)),
    **dict.fromkeys(("chains", "models"), maybe(list_of(TEXT))),
    "budget": {"anyOf": [object_of({"usd": USD, "per": PER, "hard": FLAG}), {"type": "null"}]},
    "limits": object_of(dict.fromkeys(("rpm", "tpm", "in_flight"), maybe(COUNT))),
}
_LEFT: Final[Schema] = object_of({"limit": COUNT, "remaining": COUNT, "resets_s": maybe(NUMBER)})
_CARD: Final[dict[str, Schema]] = {
    "name": TEXT,
    "state": STATE,
    "reason": maybe(TEXT),
    "dialect": TEXT,
    "keys": COUNT,
    "response_ms": maybe(NUMBER),
    "models": maybe(COUNT),
    "key_valid": maybe(FLAG),
    "circuit": maybe(one_of("closed", "half_open", "open")),
    "cooldown_s": maybe(NUMBER),
    "error_rate": maybe(SHARE),
    **dict.fromkeys(("first_token_ms", "first_token_usual_ms", "requests_per_minute"), maybe(NUMBER)),
    "in_flight": maybe(COUNT),
    "rate_limit": object_of(dict.fromkeys(("requests", "tokens"), maybe(_LEFT))),
    "checked": maybe(TIME),
    "error": maybe(TEXT),
    "last_error": maybe(TEXT),
    "last_error_at": maybe(TIME),
    "uptime": object_of(dict.fromkeys(("day", "week", "month"), maybe(SHARE))),
    "roles": list_of(object_of({"chain": TEXT, "role": one_of("primary", "fallback"), "position": COUNT})),
    "targets": list_of(ref("Target")),
    "note": maybe(TEXT),
}
_LASTING: Final[dict[str, Schema]] = {
    "lasts_days": maybe(NUMBER),
    "runs_out": maybe(TIME),
    "per_day": maybe(NUMBER),
    "rate_source": maybe(one_of("given", "ledger")),
}
_OF_ONE: Final[dict[str, Schema]] = {
    "period": ref("Period"),
    **dict.fromkeys(("calls", "tokens", "input_tokens", "output_tokens"), COUNT),
    "cost_usd": USD,
    "success_rate": maybe(SHARE),
    "p50_ms": maybe(NUMBER),
    "p95_ms": maybe(NUMBER),
    "by_model": list_of(ref("NamedUsage")),
}
_NAMES: Final[Schema] = list_of(TEXT)

SCHEMAS: Final[dict[str, Schema]] = {
    "Error": object_of(
        {"error": object_of({"message": TEXT, "type": TEXT, "param": maybe(TEXT), "code": maybe(TEXT)})},
    ),
    "Period": object_of({"since": TIME, "until": TIME}),
    "Request": object_of(_REQUEST),
    "Attempt": object_of(_ATTEMPT),
    "RequestDetail": object_of(
        {
            **_REQUEST,
            "task_id": maybe(TEXT),
            "error_code": maybe(TEXT),
            "overhead_ms": maybe(NUMBER),
            "unpriced_attempts": COUNT,
            "dropped": _NAMES,
            "attempt_list": list_of(ref("Attempt")),
            "trace": TRACE,
            "answered": maybe(COUNT),
            "asked": maybe({"type": "object"}),
            "cached": maybe({"type": "object"}),
        }
    ),
    "Explanation": object_of(
        {
            **dict.fromkeys(("model", "chain", "strategy", "config"), TEXT),
            "order": _NAMES,
            "refused": maybe(TEXT),
            "wait_s": maybe(NUMBER),
            **dict.fromkeys(("input_tokens", "output_tokens"), COUNT),
            "asked": maybe({"type": "object"}),
            "trace": TRACE,
            "targets": list_of(
                object_of(
                    {
                        "target": TEXT,
                        **dict.fromkeys(("keys", "usable_keys"), COUNT),
                        "expected_cost_usd": maybe(USD),
                        "first_token_ms": maybe(NUMBER),
                        "first_token_from": maybe(one_of("recent", "declared", "mean")),
                        "context": maybe(COUNT),
                    }
                )
            ),
            "options": object_of(
                {
                    **dict.fromkeys(("cache_ttl_s", "quality_min"), maybe(NUMBER)),
                    "hedged": FLAG,
                    "on_break": maybe(one_of("error", "continue")),
                }
            ),
            "state": one_of("live", "fresh"),
        }
    ),
    "Usage": object_of(_USAGE, optional=dict.fromkeys(GROUPS, maybe(TEXT))),
    "NamedUsage": object_of({"name": maybe(TEXT), **_USAGE}),
    "NamedSums": object_of({"name": maybe(TEXT), **_SUMS}),
    "Point": object_of(_POINT, optional=dict.fromkeys(GROUPS[:8], maybe(TEXT))),
    "Target": object_of(_TARGET),
    "Provider": object_of({**_CARD, "last_check": maybe(TIME)}),
    "ProviderHealth": object_of(_CARD),
    "ProviderStatus": object_of(
        {
            "name": TEXT,
            "configured": FLAG,
            "available": FLAG,
            "reason": maybe(TEXT),
            "roles": list_of(object_of({"chain": TEXT, "role": one_of("primary", "fallback")})),
        }
    ),
    "Status": object_of(
        {
            **dict.fromkeys(("healthy", "degraded", "down", "unknown"), _NAMES),
            "providers": COUNT,
            "monitoring": FLAG,
            "checked": maybe(TIME),
        }
    ),
    "HealthCheck": object_of(
        {
            "overall": one_of("healthy", "degraded", "down", "unknown"),
            "health_percentage": maybe({"type": "number", "minimum": 0, "maximum": 100}),
            "checked": maybe(TIME),
            "providers": list_of(ref("ProviderHealth")),
        }
    ),
    "ProviderStatuses": object_of({"providers": list_of(ref("ProviderStatus"))}),
    "Dashboard": object_of(
        {
            "period": ref("Period"),
            "calls": COUNT,
            "cost_usd": USD,
            "budget_utilization": maybe(NUMBER),
            **dict.fromkeys(("active_providers", "active_alerts", "fallbacks"), COUNT),
            "success_rate": maybe(SHARE),
            **dict.fromkeys(("p50_ms", "p95_ms", "first_token_p50_ms", "first_token_p95_ms"), maybe(NUMBER)),
            "tokens": object_of(dict.fromkeys(("input", "output", "cached_input", "reasoning"), COUNT)),
            "unpriced": COUNT,
            "cache_hits": COUNT,
            "saved_usd": USD,
            "mean_quality": maybe(SHARE),
            "today_usd": USD,
            "month": object_of(
                {
                    "spent_usd": USD,
                    "budget_usd": maybe(USD),
                    "utilization": maybe(NUMBER),
                    "projection_usd": maybe(USD),
                }
            ),
            "previous": object_of(
                {"calls": COUNT, "cost_usd": USD, "success_rate": maybe(SHARE), "p95_ms": maybe(NUMBER)},
            ),
            **{f"by_{group}": list_of(ref("NamedUsage")) for group in ("provider", "model")},
            **{f"by_{group}": list_of(ref("NamedSums")) for group in ("department", "agent", "client", "chain")},
        }
    ),
    "CostAnalysis": object_of(
        {
            "period": ref("Period"),
            "cost_usd": USD,
            "budget_usd": maybe(USD),
            "utilization": maybe(NUMBER),
            "by_provider": list_of(
                object_of(
                    {
                        "provider": maybe(TEXT),
                        "cost_usd": USD,
                        "calls": COUNT,
                        "share": maybe(SHARE),
                        "budget_usd": maybe(USD),
                        "utilization": maybe(NUMBER),
                    }
                )
            ),
            "by_model": list_of(ref("NamedUsage")),
            "budget_alerts": list_of(ref("Alert")),
            "projection_usd": maybe(USD),
        }
    ),
    "DepartmentUsage": object_of({"department": TEXT, **_OF_ONE, "by_agent": list_of(ref("NamedSums"))}),
    "AgentUsage": object_of({"agent": TEXT, **_OF_ONE, "by_department": list_of(ref("NamedSums"))}),
    "Failover": object_of({"chain": maybe(TEXT), "from": TEXT, "to": TEXT, "reason": maybe(TEXT), "count": COUNT}),
    "FallbackStats": data_of(ref("Failover"), total=COUNT, rate=maybe(SHARE)),
    "Series": object_of({"step": one_of("hour", "day"), "data": list_of(ref("Point"))}),
    "Alert": object_of(
        {
            "id": TEXT,
            "kind": TEXT,
            "severity": one_of("info", "warning", "error"),
            "subject": maybe(TEXT),
            "message": TEXT,
            "value": maybe({"type": "number"}),
            "threshold": maybe({"type": "number"}),
            "raised": TIME,
            "resolved": maybe(TIME),
            "acknowledged": maybe(TIME),
            "state": one_of("open", "acknowledged", "resolved"),
            "help": TEXT,
        }
    ),
    "Alerts": data_of(ref("Alert"), open=COUNT),
    "Budget": object_of(
        {
            "scope": one_of("total", "provider", "client", "department", "agent", "judge"),
            "name": maybe(TEXT),
            **dict.fromkeys(("limit_usd", "spent_usd", "held_usd", "remaining_usd"), USD),
            "utilization": NUMBER,
            "per": PER,
            "hard": FLAG,
            "resets": maybe(TIME),
            "projection_usd": maybe(USD),
        }
    ),
    "Quota": object_of(
        {
            "provider": TEXT,
            "key": maybe(TEXT),
            "unit": UNIT,
            **dict.fromkeys(("limit", "used", "remaining"), COUNT),
            "utilization": NUMBER,
            "per": PER,
            "time_zone": TEXT,
            "hour": COUNT,
            "resets": maybe(TIME),
            **_LASTING,
        }
    ),
    "ChainQuota": object_of({"chain": TEXT, **_LASTING}),
    "Quotas": data_of(ref("Quota"), chains=list_of(ref("ChainQuota"))),
    "Limit": object_of(
        {
            "provider": TEXT,
            "key": maybe(TEXT),
            "model": maybe(TEXT),
            "unit": UNIT,
            **dict.fromkeys(("limit", "used", "remaining"), COUNT),
            "resets_s": maybe(NUMBER),
            "source": one_of("file", "learned"),
            "per_minute": maybe(NUMBER),
        }
    ),
    "Advice": object_of(
        {"kind": TEXT, "title": TEXT, "text": TEXT, "saving_usd": maybe(USD), "figures": {"type": "object"}, "source": TEXT},
    ),
    "Monitor": object_of(
        {
            "status": ref("Status"),
            "health": ref("HealthCheck"),
            "metrics": ref("Dashboard"),
            "costs": ref("CostAnalysis"),
            "providers": ref("ProviderStatuses"),
            "fallbacks": ref("FallbackStats"),
            "budgets": data_of(ref("Budget")),
            "quotas": ref("Quotas"),
            "alerts": ref("Alerts"),
            "advice": data_of(ref("Advice")),
        }
    ),
    "Cache": data_of(
        object_of(
            {
                "chain": TEXT,
                **dict.fromkeys(("entries", "in_file", "bytes", "hits", "joined", "misses", "refreshes"), COUNT),
                "hit_rate": maybe(NUMBER),
                "saved_usd": USD,
            }
        ),
        problem=maybe(TEXT),
    ),
    "Key": object_of(_KEY),
    "NewKey": object_of({**_KEY, "key": {**TEXT, "description": "What to send: shown here, and nowhere else"}}),
    "Readiness": object_of({"ready": FLAG, "reasons": _NAMES, "notes": _NAMES, "degraded": _NAMES}),
    "Model": object_of({"id": TEXT, "object": one_of("model"), "created": COUNT, "owned_by": TEXT}),
}
