"""The reports (`monitoring/reports.py`) as sheets, and in a line each. Their objects come in as the API gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from proxy.terminal.marks import NOTHING, Kind, days, duration, moment, money, share
from proxy.terminal.sheet import Column, Sheet

Report = Mapping[str, Any]

MAX_SHOWN = 10  # of the dearest departments and so on


# -- use and cost


def usage(rows: Sequence[Report], groups: Sequence[str], title: str, *, compact: bool = False, nothing: str = "nothing") -> Sheet:
    """`rows` may carry a `trend`: requests over time."""
    cost = sum((Decimal(row["cost_usd"]) for row in rows), Decimal(0))
    shown = [
        {
            **row,
            "tokens": row["input_tokens"] + row["output_tokens"],
            "attempts_failed": row["attempts"] - row["attempts_ok"],
            "share": float(Decimal(row["cost_usd"]) / cost) if cost else None,
            "cost_usd": _known_cost(row),
        }
        for row in rows
    ]
    times = [group for group in groups if group in _TIMES]
    shown.sort(key=lambda row: [row[group] or "" for group in times])  # what has the same time stays in its order
    named = [Column(group, "hour (UTC)" if group == "hour" else group, _GROUP_KINDS.get(group, "text")) for group in groups]
    columns = [*named, *(_COMPACT if compact else _FULL)]
    total = None
    if len(rows) > 1:
        total = {column.field: sum(row[column.field] for row in shown) for column in columns if column.kind == "number"}
        unpriced = sum(row["unpriced_attempts"] for row in rows)
        total |= {
            "cost_usd": _known_cost({"cost_usd": str(cost), "unpriced_attempts": unpriced}),
            **({groups[0]: "all"} if groups else {}),
        }
        ok = sum(row["ok"] for row in rows)
        judged = ok + sum(row["failed"] + row["interrupted"] for row in rows)
        total["success_rate"] = ok / judged if judged else None
    return Sheet("usage", title, columns, shown, total, nothing)


def _known_cost(row: Report) -> str | None:
    """What is known of it: None where nothing had a price, which is not $0."""
    cost: str = row["cost_usd"]
    return None if row["unpriced_attempts"] and not Decimal(cost) else cost


_TIMES = ("month", "day", "hour")
_GROUP_KINDS: dict[str, Kind] = {"hour": "time", "day": "id", "month": "id", "key": "id"}
_FULL = (
    Column("requests", "requests", "number"),
    Column("success_rate", "ok", "share"),
    Column("failed", "failed", "number", 3, if_any=True),
    Column("failed_over", "failed over", "number", 2, if_any=True),
    Column("attempts_failed", "failed attempts", "number", 4, if_any=True),
    Column("p50_ms", "p50", "ms", 7),
    Column("p95_ms", "p95", "ms"),
    Column("first_token_p95_ms", "first token p95", "ms", 4),
    Column("input_tokens", "input", "number", 1),
    Column("cached_input_tokens", "cached", "number", 5, if_any=True),
    Column("output_tokens", "output", "number", 1),
    Column("reasoning_tokens", "reasoning", "number", 6, if_any=True),
    Column("cache_hits", "from the cache", "number", 5, if_any=True),
    Column("mean_quality", "quality", "share", 6, if_any=True),
    Column("unpriced_attempts", "unpriced", "number", 3, if_any=True),
    Column("cost_usd", "cost", "money"),
    Column("trend", "requests over time", "spark", 8),
)
_COMPACT = (
    Column("requests", "requests", "number"),
    Column("success_rate", "ok", "share"),
    Column("tokens", "tokens", "number"),
    Column("cost_usd", "cost", "money"),
    Column("share", "share of the cost", "part"),
)


def top(rows: Iterable[Report], group: str, title: str) -> Sheet:
    """The rows of one table of the dashboard, each with its `name`."""
    renamed = [{**row, group: row["name"]} for row in rows][:MAX_SHOWN]
    return usage(renamed, [group], title, compact=True)


def fallbacks(report: Report) -> Sheet:
    columns = (
        Column("chain", "chain"),
        Column("from", "from"),
        Column("to", "to"),
        Column("reason", "reason"),
        Column("count", "times", "number"),
    )
    told = "" if report["rate"] is None else f", {share(report['rate'])} of the requests needed more than one target"
    return Sheet("fallbacks", f"failovers: {report['total']:,}{told}", columns, report["data"], nothing="none")


# -- health


def health(report: Report) -> Sheet:
    columns = (
        Column("name", "provider", "id"),
        Column("state", "state", "state"),
        Column("reason", "reason", if_any=True),
        Column("response_ms", "answered in", "ms"),
        Column("models", "models", "number", 2),
        Column("key_valid", "key valid", "text", 2),
        Column("circuit", "circuit", "text", 2, if_any=True),
        Column("error_rate", "errors", "share", 4, if_any=True),
        Column("first_token_ms", "first token", "ms", 4, if_any=True),
        Column("requests_left", "requests left", "number", 4, if_any=True),
        Column("uptime_day", "up, day", "share", 2, if_any=True),
        Column("uptime_month", "month", "share", 4, if_any=True),
        Column("checked", "checked (UTC)", "time", 1),
    )
    rows = [_card(card) for card in report["providers"]]
    percent = report["health_percentage"]
    told = f"{report['overall']}" + ("" if percent is None else f", {percent:g} % of those known are healthy")
    return Sheet("health", f"health: {told}", columns, rows, nothing="there is no provider to ask")


def _card(card: Report) -> Report:
    rate = card.get("rate_limit") or {}
    return {
        **card,
        "reason": card["reason"] or card.get("note"),
        "requests_left": (rate.get("requests") or {}).get("remaining"),
        "uptime_day": (card.get("uptime") or {}).get("day"),
        "uptime_month": (card.get("uptime") or {}).get("month"),
    }


# -- what may be spent and used


def budgets(report: Report) -> Sheet:
    columns = (
        Column("of", "budget of"),
        Column("spent_usd", "spent", "money"),
        Column("limit_usd", "of", "money"),
        Column("utilization", "spent so far", "fill"),
        Column("projection", "by its end", "money"),
        Column("per", "per", "id"),
        Column("kind", "kind", "text", 2),
        Column("resets", "resets (UTC)", "time", 1),
    )
    rows = [
        {
            **row,
            "of": scope(row),
            "kind": "hard" if row["hard"] else "soft",
            "projection": row["projection_usd"] or row["spent_usd"],
        }
        for row in report["data"]
    ]
    return Sheet("budgets", "budgets", columns, rows, nothing="none is set")


def scope(row: Report) -> str:
    return "everything" if row["scope"] == "total" else f"{row['scope']} {row['name']}"


def quotas(report: Report) -> Sheet:
    columns = (
        Column("provider", "provider", "id"),
        Column("key", "key", "id", 1, if_any=True),
        Column("remaining", "left", "number"),
        Column("limit", "of", "number", 4),
        Column("unit", "unit", "id"),
        Column("utilization", "used so far", "fill", 1),
        Column("per_day", "asked a day", "number", 3),
        Column("lasts_days", "full, it lasts", "days"),
        Column("runs_out", "runs out (UTC)", "id"),
        Column("resets", "resets (UTC)", "time", 2),
    )
    rows = [
        {
            **row,
            "unit": f"{row['unit']} {'once' if row['per'] == 'once' else 'a ' + row['per']}",
            "per_day": None if row["per_day"] is None else round(row["per_day"]),
            "runs_out": runs_out(row),
        }
        for row in report["data"]
    ]
    return Sheet("quotas", "quotas", columns, rows, nothing="none is set")


def chains(report: Report) -> Sheet:
    columns = (
        Column("chain", "chain"),
        Column("per_day", "tokens a day", "number"),
        Column("lasts", "all its quotas, full, last"),
        Column("runs_out", "runs out (UTC)"),
    )
    rows = [
        {
            **row,
            "per_day": None if row["per_day"] is None else round(row["per_day"]),
            "lasts": None if row["per_day"] is None else "for ever" if row["lasts_days"] is None else days(row["lasts_days"]),
            "runs_out": runs_out(row),
        }
        for row in report["chains"]
    ]
    return Sheet("chains", "chains", columns, rows, nothing="none uses a quota")


def runs_out(row: Report) -> str | None:
    """When; `never`; None where there is no rate to reckon with."""
    if row["per_day"] is None:
        return None
    return "never" if row["runs_out"] is None else moment(row["runs_out"])


# -- what is to be told


def alerts(report: Report) -> Sheet:
    columns = (
        Column("severity", "", "state"),
        Column("kind", "kind", "id"),
        Column("subject", "of"),
        Column("message", "what"),
        Column("raised", "raised (UTC)", "time", 1),
        Column("state", "state", "state"),
        Column("id", "id", "id", 2),
    )
    return Sheet("alerts", f"alerts: {report['open']} open", columns, report["data"], nothing="none")


def cache(report: Report) -> Sheet:
    columns = (
        Column("chain", "chain"),
        Column("entries", "answers", "number"),
        Column("bytes", "bytes", "number", drop=1),
        Column("hits", "hits", "number", if_any=True),
        Column("misses", "misses", "number", if_any=True),
        Column("hit_rate", "hit rate", "share", if_any=True),
        Column("saved_usd", "saved", "money", if_any=True),
    )
    return Sheet("cache", "answers that are kept", columns, report["data"], nothing="none")


def advice(report: Report) -> Sheet:
    columns = (
        Column("saving_usd", "saves", "money"),
        Column("title", "what"),
        Column("text", "why"),
    )
    rows = [{**row, "saving_usd": row["saving_usd"] if row["saving_usd"] is not None else "0"} for row in report["data"]]
    return Sheet("advice", "advice from the last 30 days", columns, rows, nothing="nothing to suggest, or too few calls to tell")


def checks(rows: Sequence[Report]) -> Sheet:
    """Of a self-test: what was looked at, and what came of it."""
    columns = (Column("state", "", "state"), Column("what", "what"), Column("found", "found"))
    failed = sum(row["state"] != "passed" for row in rows)
    return Sheet("checks", f"{len(rows) - failed} of {len(rows)} checks passed", columns, rows)


# -- in a line each


def lines(report: Report) -> list[tuple[str, str]]:
    """(what, how it is) of everything in `/api/monitor`: for a mail, or a narrow terminal."""
    metrics, month = report["metrics"], report["metrics"]["month"]
    told = [("health", _health_line(report["health"]))]
    told += [
        (card["name"], f"{card['state']}: {card['reason']}" if card["reason"] else card["state"])
        for card in report["health"]["providers"]
        if card["state"] in ("degraded", "down")
    ]
    calls = f"{metrics['calls']:,}"
    if metrics["calls"]:
        calls += f", {_share(metrics['success_rate'])} ok, p95 {_ms(metrics['p95_ms'])}"
        calls += f", first token {_ms(metrics['first_token_p95_ms'])}, {metrics['fallbacks']:,} failed over"
    told.append(("requests", calls))
    told.append(("today", money(metrics["today_usd"]).plain))
    told.append(("this month", month_line(month)))
    told += [(f"budget of {scope(row)}", _budget_line(row)) for row in report["budgets"]["data"]]
    told += [(f"quota of {row['provider']}", _quota_line(row)) for row in report["quotas"]["data"]]
    told += [
        (f"{alert['severity']}, {alert['kind']}", f"{alert['message']} (since {moment(alert['raised'])} UTC)")
        for alert in report["alerts"]["data"]
        if alert["state"] != "resolved"
    ]
    told += [("advice", row["title"]) for row in report["advice"]["data"]]
    return told


def month_line(month: Report) -> str:
    """`$12.30 of $100.00 (12 %), $31.20 by its end`."""
    text = money(month["spent_usd"]).plain
    if month["budget_usd"] is not None:
        text += f" of {money(month['budget_usd']).plain} ({_share(month['utilization'])})"
    return text if month["projection_usd"] is None else f"{text}, {money(month['projection_usd']).plain} by its end"


def _health_line(report: Report) -> str:
    states = [card["state"] for card in report["providers"]]
    counts = [f"{states.count(state)} {state}" for state in ("healthy", "degraded", "down", "unknown") if state in states]
    return f"{report['overall']}: {', '.join(counts)}" if counts else report["overall"]


def _budget_line(row: Report) -> str:
    end = f", {money(row['projection_usd']).plain} by its end" if row["projection_usd"] is not None else ""
    return f"{money(row['spent_usd']).plain} of {money(row['limit_usd']).plain} ({_share(row['utilization'])}){end}"


def _quota_line(row: Report) -> str:
    left = f"{row['remaining']:,} of {row['limit']:,} {row['unit']} left"
    if row["per_day"] is None:
        return left
    end = runs_out(row)
    return f"{left}, runs out {'never' if end == 'never' else f'{end} UTC'}"


def _share(value: float | None) -> str:
    return NOTHING if value is None else share(value)


def _ms(value: float | None) -> str:
    return NOTHING if value is None else duration(value)


# -- keys


def keys(rows: Sequence[Report]) -> Sheet:
    """As `GET /api/v1/keys` has them."""
    shown = [
        {
            **row,
            "may": ", ".join([*(row["chains"] or []), *(row["models"] or [])])
            or ("everything" if row["chains"] is None else "nothing"),
            "budget": f"${row['budget']['usd']} per {row['budget']['per']}" if row["budget"] else None,
        }
        for row in rows
    ]
    return Sheet("keys", "keys", _KEYS, shown)


_KEYS = (
    Column("name", "name"),
    Column("state", "state", "state"),
    Column("hint", "key", "id", 3),
    Column("may", "may ask for", "text", 2),
    Column("budget", "budget", "text", 5, if_any=True),
    Column("department", "department", "text", 6, if_any=True),
    Column("agent", "agent", "text", 7, if_any=True),
    Column("created", "made", "time", 8),
    Column("expires", "expires", "time", 4, if_any=True),
    Column("old_until", "old secret until", "time", 9, if_any=True),
    Column("last_used", "last used", "time", 1),
    Column("id", "id", "id"),
)
