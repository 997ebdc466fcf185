"""The reports: a picture of the moment, the ledger and a query in; one JSON object out. The API and the command line show the same.

Shapes are those of docs/api.md. Times are RFC 3339 in UTC, money decimal strings of USD, rates and shares 0 to 1; null is unknown.
Nothing here reads a clock, and of the ledger only its sums.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC
from functools import lru_cache
from typing import get_args
from zoneinfo import ZoneInfo

from proxy.accounting.periods import period
from proxy.accounting.states import BudgetState, QuotaState, RateState
from proxy.config.settings import usable
from proxy.core.alerts import ALERT_KINDS
from proxy.core.errors import InvalidValue
from proxy.core.limits import JUDGE_TASK, Per
from proxy.core.money import nusd_to_usd, usd_to_nusd
from proxy.monitoring.advice import Kind, PriceOf, advise, read_evidence
from proxy.monitoring.lifespan import Forecast, Profile, Rate, chain_forecast, given, quota_forecasts
from proxy.monitoring.outlook import Pace, month_end, read_pace, read_rates, read_spending_pace
from proxy.monitoring.picture import Picture, Rationed, Record
from proxy.monitoring.query import HOUR_MS, Query, day_start_ms, month_start_ms, rfc3339
from proxy.monitoring.sums import Ledger, Remembered, Step
from proxy.storage.hours import steps
from proxy.storage.usage import GROUPS

MAX_ROWS = 100  # of a table by provider, model and so on: the dearest
MAX_STEPS = 2_400  # a hundred days by the hour
MAX_SERIES = 50
MAX_POINTS = 3_600  # of all series together: as many of the largest as that is enough for
MAX_USAGE = 1_000  # rows of one answer
MAX_PERIODS = 4_096
AUTO_HOURS = 72  # up to so many a series is by the hour unless told
OPEN = ("open", "acknowledged")


# -- health


def status(picture: Picture) -> Record:
    """`healthy`, `degraded`, `down`, `unknown`: names of enabled providers; `providers`: how many these are."""
    enabled = [card for card in picture.cards if card.state != "disabled"]
    names: Record = {
        state: [card.name for card in enabled if card.state == state] for state in ("healthy", "degraded", "down", "unknown")
    }
    return {**names, "providers": len(enabled), "monitoring": True, "checked": _checked(picture)}


def health_check(picture: Picture, names: Sequence[str] = ()) -> Record:
    """`overall`: what all that are known agree on, else degraded; `health_percentage` of those known. `names`: only these."""
    cards = [card for card in picture.cards if not names or card.name in names]
    known = [card.state for card in cards if card.state not in ("unknown", "disabled")]
    agreed = set(known)
    return {
        "overall": agreed.pop() if len(agreed) == 1 else "degraded" if agreed else "unknown",
        "health_percentage": round(100 * known.count("healthy") / len(known), 1) if known else None,
        "checked": max((card.checked for card in cards if card.checked), default=None),
        "providers": [card.as_dict() for card in cards],
    }


def provider_status(picture: Picture) -> Record:
    """`configured`: it has all that it needs; `available`: and is not down."""
    found = [
        {
            "name": card.name,
            "configured": card.state != "disabled",
            "available": card.state not in ("disabled", "down"),
            "reason": card.reason,
            "roles": [{"chain": role["chain"], "role": role["role"]} for role in card.roles],
        }
        for card in picture.cards
    ]
    return {"providers": found}


def _checked(picture: Picture) -> str | None:
    return max((card.checked for card in picture.cards if card.checked), default=None)


# -- use and cost


async def usage(ledger: Ledger, query: Query, group_by: Sequence[str] = ()) -> Record:
    """All rows. Raises InvalidValue for a group that is none."""
    return {"data": await _usage_rows(ledger, query, group_by)}


async def usage_page(
    ledger: Ledger, query: Query, group_by: Sequence[str] = (), *, limit: int = MAX_USAGE, after: int = 0
) -> Record:
    """At most MAX_USAGE rows, of those that come `after` so many; `next`: the `after` of the next page, or None. Raises InvalidValue,
    also for more than a moment's work."""
    limit = min(limit, MAX_USAGE)
    rows = await _usage_rows(ledger, query, group_by, limit=limit + 1, after=after, bounded=True)
    return {"data": rows[:limit], "next": str(after + limit) if len(rows) > limit else None}


async def _usage_rows(
    ledger: Ledger, query: Query, group_by: Sequence[str], *, limit: int | None = None, after: int = 0, bounded: bool = False
) -> list[Record]:
    try:
        return await ledger.usage(
            group_by,
            query.since_ms,
            query.until_ms,
            time_zone=query.time_zone,
            filters=query.filters,
            percentiles=True,
            limit=limit,
            after=after,
            bounded=bounded,
        )
    except KeyError as error:
        known = ", ".join(GROUPS)
        raise InvalidValue(f"`group_by` cannot be {error.args[0]!r}: it takes {known}.", param="group_by") from None


async def dashboard(picture: Picture, ledger: Ledger, query: Query) -> Record:
    ledger = Remembered(ledger)
    wall, zone = picture.wall, ZoneInfo(query.time_zone)
    now_ms = round(wall * 1000)
    total = await _totals(ledger, query)
    earlier = await _totals(ledger, query.before())
    today = await ledger.totals(day_start_ms(now_ms, zone), now_ms, query.filters)
    return {
        "period": query.period,
        "calls": total["requests"],
        "cost_usd": total["cost_usd"],
        "budget_utilization": _fullest(picture),
        "active_providers": sum(card.state not in ("down", "disabled") for card in picture.cards),
        "active_alerts": len(picture.alerts),
        "fallbacks": total["failed_over"],
        "success_rate": total["success_rate"],
        "p50_ms": total["p50_ms"],
        "p95_ms": total["p95_ms"],
        "first_token_p50_ms": total["first_token_p50_ms"],
        "first_token_p95_ms": total["first_token_p95_ms"],
        "tokens": {
            "input": total["input_tokens"],
            "output": total["output_tokens"],
            "cached_input": total["cached_input_tokens"],
            "reasoning": total["reasoning_tokens"],
        },
        "unpriced": total["unpriced_attempts"],
        "cache_hits": total["cache_hits"],
        "saved_usd": total["saved_usd"],
        "mean_quality": total["mean_quality"],
        "today_usd": today["cost_usd"],
        "month": await _month(picture, ledger, query.filters),
        "previous": {
            "calls": earlier["requests"],
            "cost_usd": earlier["cost_usd"],
            "success_rate": earlier["success_rate"],
            "p95_ms": earlier["p95_ms"],
        },
        **{f"by_{group}": await _by(ledger, query, group) for group in _TABLES},
    }


_ANSWERING = ("provider", "model")
_TABLES = ("provider", "department", "model", "agent", "client", "chain")


async def cost_analysis(picture: Picture, ledger: Ledger, query: Query) -> Record:
    """Budgets are those of everything and of each provider, whatever the period asked about."""
    total = await _totals(ledger, query)
    of_everything = _budget(picture, "total", None)
    cost_nusd = usd_to_nusd(total["cost_usd"])
    providers = []
    for row in await _by(ledger, query, "provider"):
        budget = _budget(picture, "provider", row["name"])
        providers.append(
            {
                "provider": row["name"],
                "cost_usd": row["cost_usd"],
                "calls": row["requests"],
                "share": round(usd_to_nusd(row["cost_usd"]) / cost_nusd, 4) if cost_nusd else None,
                "budget_usd": nusd_to_usd(budget.limit_nusd) if budget is not None else None,
                "utilization": _utilization(budget),
            }
        )
    return {
        "period": query.period,
        "cost_usd": total["cost_usd"],
        "budget_usd": nusd_to_usd(of_everything.limit_nusd) if of_everything is not None else None,
        "utilization": _utilization(of_everything),
        "by_provider": providers,
        "by_model": await _by(ledger, query, "model"),
        "budget_alerts": [alert for alert in picture.alerts if alert["kind"] == "budget"],
        "projection_usd": (await _month(picture, ledger, query.filters))["projection_usd"],
    }


async def department_usage(ledger: Ledger, query: Query, department: str) -> Record:
    """One that nobody named has zeros."""
    return await _usage_of(ledger, query, "department", department, "agent")


async def agent_usage(ledger: Ledger, query: Query, agent: str) -> Record:
    return await _usage_of(ledger, query, "agent", agent, "department")


async def _usage_of(ledger: Ledger, query: Query, group: str, name: str, other: str) -> Record:
    narrowed = query.narrowed(**{group: name})
    total = await _totals(ledger, narrowed)
    return {
        group: name,
        "period": query.period,
        "calls": total["requests"],
        "tokens": total["input_tokens"] + total["output_tokens"],
        "input_tokens": total["input_tokens"],
        "output_tokens": total["output_tokens"],
        "cost_usd": total["cost_usd"],
        "success_rate": total["success_rate"],
        "p50_ms": total["p50_ms"],
        "p95_ms": total["p95_ms"],
        "by_model": await _by(ledger, narrowed, "model"),
        f"by_{other}": await _by(ledger, narrowed, other),
    }


async def fallback_stats(ledger: Ledger, query: Query) -> Record:
    """`total` failovers, the most frequent first; `rate`: the share of requests that needed more than one target.

    Of all, or of one chain: by whom a request came is not counted here.
    """
    only = replace(query, filters={name: value for name, value in query.filters.items() if name == "chain"})
    chain = only.filters.get("chain")
    moves = [move for move in await ledger.fallbacks(only.since_ms, only.until_ms) if chain is None or move["chain"] == chain]
    total = await _totals(ledger, only)
    return {
        "data": sorted(moves, key=lambda move: -move["count"]),
        "total": sum(move["count"] for move in moves),
        "rate": round(total["failed_over"] / total["requests"], 4) if total["requests"] else None,
    }


async def timeseries(ledger: Ledger, query: Query, *, step: str | None = None, group_by: str | None = None) -> Record:
    """One row for each hour or day, and, if grouped, for each of the groups with the most requests: empty ones too. Of groups there
    are at most MAX_SERIES, and as many as make MAX_POINTS together.

    `step` None: by the hour up to AUTO_HOURS, else by the day. Raises InvalidValue.
    """
    span_ms = query.until_ms - query.since_ms
    length = _LENGTHS.get(step or ("hour" if span_ms <= AUTO_HOURS * HOUR_MS else "day"))
    if length is None:
        raise InvalidValue("`step` must be hour or day.", param="step")
    if span_ms > MAX_STEPS * HOUR_MS * (1 if length == "hour" else 24):
        raise InvalidValue(f"That is more than {MAX_STEPS:,} steps: take a later `since` or a longer `step`.", param="since")
    times = _steps(query, length)
    names: list[str | None] = []
    try:
        if group_by is not None:
            names = await _largest(ledger, query, group_by, min(MAX_SERIES, max(1, MAX_POINTS // max(1, len(times)))))
        rows = await ledger.timeseries(
            length,
            query.since_ms,
            query.until_ms,
            time_zone=query.time_zone,
            filters=query.filters,
            group_by=group_by,
            among=names,
        )
    except KeyError as error:
        raise InvalidValue(f"`group_by` cannot be {error.args[0]!r}.", param="group_by") from None
    if group_by is None:
        found = {row["time"]: row for row in rows}
        return {"step": length, "data": [found.get(time) or _nothing(time, {}) for time in sorted({*times, *found})]}
    by_both = {(row["time"], row[group_by]): row for row in rows}
    every = sorted({*times, *(row["time"] for row in rows)})
    return {
        "step": length,
        "data": [by_both.get((time, name)) or _nothing(time, {group_by: name}) for name in names for time in every],
    }


async def _largest(ledger: Ledger, query: Query, group: str, most: int) -> list[str | None]:
    """The names with the most requests."""
    rows = await ledger.usage([group], query.since_ms, query.until_ms, time_zone=query.time_zone, filters=query.filters)
    return [row[group] for row in sorted(rows, key=lambda row: -row["requests"])[:most]]


_LENGTHS: dict[str, Step] = {"hour": "hour", "day": "day"}
_NOTHING: Record = {
    **dict.fromkeys(("requests", "ok", "failed", "failed_over", "input_tokens", "output_tokens"), 0),
    "cost_usd": "0",
    **dict.fromkeys(("success_rate", "p50_ms", "p95_ms", "first_token_p95_ms")),
}


def _nothing(time: str, group: Record) -> Record:
    return {"time": time, **group, **_NOTHING}


def _steps(query: Query, step: Step) -> list[str]:
    """When each hour or day begins that the query touches."""
    since_h, until_h = query.since_ms // HOUR_MS, -(-query.until_ms // HOUR_MS)
    return [rfc3339(begin_ms / 1000) for _, begin_ms in steps(since_h, until_h, step, ZoneInfo(query.time_zone))]


async def _totals(ledger: Ledger, query: Query) -> Record:
    return await ledger.totals(query.since_ms, query.until_ms, query.filters)


async def _by(ledger: Ledger, query: Query, group: str) -> list[Record]:
    """The dearest MAX_ROWS, each with its `name`; null for what has none. Percentiles only of those who answer: it is they who
    make it quick or slow, and of the others there may be many."""
    rows = await ledger.usage(
        [group],
        query.since_ms,
        query.until_ms,
        time_zone=query.time_zone,
        filters=query.filters,
        percentiles=group in _ANSWERING,
        limit=MAX_ROWS,
    )
    return [{"name": row[group], **{key: value for key, value in row.items() if key != group}} for row in rows]


async def _month(picture: Picture, ledger: Ledger, filters: Mapping[str, str]) -> Record:
    """This month so far, in UTC as budgets are, beside the budget of everything if that is monthly."""
    wall = picture.wall
    now_ms = round(wall * 1000)
    spent = (await ledger.totals(month_start_ms(now_ms, UTC), now_ms, filters))["cost_usd"]
    budget = _budget(picture, "total", None)
    monthly = budget if budget is not None and budget.per == "month" and not filters else None
    pace = await read_pace(ledger, wall, filters=filters)
    projected = pace.by_the_end(usd_to_nusd(spent), wall=wall, end=month_end(wall))
    return {
        "spent_usd": spent,
        "budget_usd": nusd_to_usd(monthly.limit_nusd) if monthly is not None else None,
        "utilization": _utilization(monthly),
        "projection_usd": _usd(projected),
    }


# -- what may be spent and used


async def budgets(picture: Picture, ledger: Ledger) -> Record:
    """`projection_usd`: what will have been spent when the period ends."""
    pace = await read_pace(ledger, picture.wall) if picture.budgets else Pace(None)
    paces: dict[str, Pace] = {}
    found = []
    for budget in picture.budgets:
        own = pace
        if budget.scope == "judge" and budget.resets is not None and pace.whole is not None:
            own = await read_spending_pace(ledger, picture.wall, {"agent": budget.name or "", "task": JUDGE_TASK})
        elif budget.scope != "total" and budget.resets is not None and pace.whole is not None:
            if budget.scope not in paces:
                names = [each.name for each in picture.budgets if each.scope == budget.scope]
                paces[budget.scope] = await read_pace(ledger, picture.wall, scope=budget.scope, among=names)
            own = Pace(paces[budget.scope].by_name.get(budget.name) or Profile(0.0))
        end = own.by_the_end(budget.spent_nusd, wall=picture.wall, end=budget.resets)
        found.append(
            {
                "scope": budget.scope,
                "name": budget.name,
                "limit_usd": nusd_to_usd(budget.limit_nusd),
                "spent_usd": nusd_to_usd(budget.spent_nusd),
                "held_usd": nusd_to_usd(budget.held_nusd),
                "remaining_usd": nusd_to_usd(max(0, budget.limit_nusd - budget.spent_nusd - budget.held_nusd)),
                "utilization": _utilization(budget),
                "per": budget.per,
                "hard": budget.hard,
                "resets": _moment(budget.resets),
                "projection_usd": _usd(end),
            }
        )
    return {"data": found}


async def quotas(
    picture: Picture, ledger: Ledger, *, tokens_per_day: float | None = None, tokens_per_request: float | None = None
) -> Record:
    """How each quota stands and how long it lasts, and how long the chains do with all of theirs.

    Of each provider and chain is asked what was asked in the last weeks, or `tokens_per_day`, a request taking `tokens_per_request`.
    `lasts_days` and `runs_out` are null for never, and where `per_day` is null: then there is nothing to reckon with.
    """
    if not picture.quotas:
        return {"data": [], "chains": []}
    providers = list(dict.fromkeys([quota.provider for quota in picture.quotas]))
    asked = await read_rates(ledger, picture.wall, "provider", providers)
    through = await read_rates(ledger, picture.wall, "chain", list(picture.settings.chains)) if picture.settings.chains else {}

    def rate_of(name: str, ledgers: Mapping[str, Rate | None]) -> Rate | None:
        return given(tokens_per_day, tokens_per_request, ledgers.get(name))

    rates = {quota.provider: rate_of(quota.provider, asked) for quota in picture.quotas}
    chain_rates = {name: rate_of(name, through) for name in picture.settings.chains}
    # it walks through a year of resets for each: too long for the thread in which requests are served
    return await asyncio.to_thread(_foretold, picture, rates, chain_rates)


def _foretold(picture: Picture, rates: Mapping[str, Rate | None], chain_rates: Mapping[str, Rate | None]) -> Record:
    forecasts = quota_forecasts(picture.quotas, rates, picture.wall, _next_reset)
    pairs = zip(picture.quotas, forecasts, strict=True)
    chains = []
    for name, chain in picture.settings.chains.items():
        providers = [target.provider.name for target in chain.targets if usable(target)]
        if rates.keys().isdisjoint(providers):
            continue
        forecast = chain_forecast(providers, picture.quotas, chain_rates[name], picture.wall, _next_reset)
        chains.append({"chain": name, **_lasting(forecast, chain_rates[name])})
    return {
        "data": [{**_quota(quota), **_lasting(forecast, rates[quota.provider])} for quota, forecast in pairs],
        "chains": chains,
    }


def _next_reset(quota: Rationed, wall: float) -> float | None:
    return _end_of(quota.per, quota.time_zone, quota.hour, wall)


@lru_cache(maxsize=MAX_PERIODS)
def _end_of(per: Per, time_zone: str, hour: int, wall: float) -> float | None:
    """Remembered, for quotas and chains go through the same days."""
    return period(per, wall, time_zone=time_zone, hour=hour)[1]


def _quota(quota: QuotaState) -> Record:
    return {
        "provider": quota.provider,
        "key": quota.key,
        "unit": quota.unit,
        "limit": quota.limit,
        "used": quota.used,
        "remaining": max(0, quota.limit - quota.used - quota.held),
        "utilization": round(quota.utilization, 4),
        "per": quota.per,
        "time_zone": quota.time_zone,
        "hour": quota.hour,
        "resets": _moment(quota.resets),
    }


def _lasting(forecast: Forecast, rate: Rate | None) -> Record:
    return {
        "lasts_days": None if forecast.lasts_days is None else round(forecast.lasts_days, 2),
        "runs_out": _moment(forecast.runs_out),
        "per_day": None if forecast.per_day is None else round(forecast.per_day, 2),
        "rate_source": rate.source if rate is not None and forecast.known else None,
    }


def limits(picture: Picture) -> Record:
    return {"data": [_limit(rate) for rate in picture.rates]}


def _limit(rate: RateState) -> Record:
    return {
        "provider": rate.provider,
        "key": rate.key,
        "model": rate.model,
        "unit": rate.unit,
        "limit": rate.limit,
        "used": rate.used,
        "remaining": rate.remaining,
        "resets_s": None if rate.resets_s is None else round(rate.resets_s, 3),
        "source": rate.source,
        "per_minute": None if rate.per_minute is None else round(rate.per_minute, 3),
    }


def _budget(picture: Picture, scope: str, name: str | None) -> BudgetState | None:
    found = (budget for budget in picture.budgets if budget.scope == scope and (scope == "total" or budget.name == name))
    return next(found, None)


def _fullest(picture: Picture) -> float | None:
    """How full the budget of everything is; where there is none, the fullest of all."""
    whole = _budget(picture, "total", None)
    if whole is not None:
        return _utilization(whole)
    return max((round(budget.utilization, 4) for budget in picture.budgets), default=None)


def _utilization(budget: BudgetState | None) -> float | None:
    return None if budget is None else round(budget.utilization, 4)


# -- alerts


async def alerts(
    picture: Picture, ledger: Ledger, *, state: str | None = None, kind: str | None = None, limit: int = 100
) -> Record:
    """Open and acknowledged ones before resolved ones, each newest first; `open`: how many are not resolved."""
    if state not in (None, "open", "acknowledged", "resolved"):
        raise InvalidValue("`state` must be open, acknowledged or resolved.", param="state")
    _known([] if kind is None else [kind], ALERT_KINDS)
    found = {alert["id"]: alert for alert in await ledger.alerts(limit + len(picture.alerts), kind=kind)}
    found |= {alert["id"]: alert for alert in picture.alerts if kind is None or alert["kind"] == kind}
    newest = sorted(found.values(), key=lambda alert: alert["raised"], reverse=True)
    ordered = sorted(newest, key=lambda alert: alert["state"] not in OPEN)
    return {
        "data": [alert for alert in ordered if state is None or alert["state"] == state][:limit],
        "open": sum(alert["state"] in OPEN for alert in ordered),
    }


async def budget_alerts(picture: Picture, ledger: Ledger, *, state: str | None = None, limit: int = 100) -> Record:
    return await alerts(picture, ledger, state=state, kind="budget", limit=limit)


def _known(kinds: Iterable[str], known: Collection[str]) -> None:
    """One that is misspelt would look like good news."""
    unknown = next((kind for kind in kinds if kind not in known), None)
    if unknown is not None:
        raise InvalidValue(f"`kind` cannot be {unknown!r}: it takes {', '.join(known)}.", param="kind")


def _moment(wall: float | None) -> str | None:
    return None if wall is None else rfc3339(wall)


def _usd(nusd: int | None) -> str | None:
    return None if nusd is None else nusd_to_usd(nusd)


# -- what to change, and everything in one


async def advice(
    picture: Picture, ledger: Ledger, prices: PriceOf, *, compare: Sequence[str] = (), kinds: Sequence[str] = ()
) -> Record:
    """`compare`: targets to reckon with besides those of the chains. `kinds`: only these."""
    _known(kinds, get_args(Kind))
    evidence = await read_evidence(ledger, picture.settings, prices, picture.wall, compare=compare)
    return {"data": [found.as_dict() for found in advise(evidence) if not kinds or found.kind in kinds]}


async def monitor(picture: Picture, ledger: Ledger, query: Query, prices: PriceOf) -> Record:
    """All of the above, each as it is by itself."""
    once = Remembered(ledger)
    return {
        "status": status(picture),
        "health": health_check(picture),
        "metrics": await dashboard(picture, once, query),
        "costs": await cost_analysis(picture, once, query),
        "providers": provider_status(picture),
        "fallbacks": await fallback_stats(once, query),
        "budgets": await budgets(picture, once),
        "quotas": await quotas(picture, once),
        "alerts": await alerts(picture, once),
        "advice": await advice(picture, once, prices),
    }
