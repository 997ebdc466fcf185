"""A ledger in memory that sums as the real one does: what reports are tested against, call by call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from proxy.core.money import nusd_to_usd
from proxy.monitoring.query import rfc3339
from proxy.monitoring.sums import Step

Record = dict[str, Any]
HOUR_MS = 3_600_000
GROUPS = ("provider", "model", "chain", "client", "department", "agent", "task", "key", "hour", "day", "month")
COUNTED = (
    "requests ok failed rejected interrupted client_gone failed_over attempts attempts_ok attempts_failed input_tokens "
    "cached_input_tokens cache_write_tokens output_tokens reasoning_tokens input_audio_tokens output_audio_tokens at_risk_tokens "
    "unpriced_attempts estimated_attempts cache_hits rated"
).split()
POINT = (
    "requests ok failed failed_over input_tokens output_tokens cost_usd success_rate p50_ms p95_ms first_token_p95_ms"
).split()
TIMES = "p50_ms p95_ms p99_ms first_token_p50_ms first_token_p95_ms first_token_p99_ms".split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request with one attempt. `duration_ms` is of both."""

    time: str
    provider: str | None = "acme"
    model: str | None = "large"
    chain: str | None = "smart"
    client: str | None = None
    department: str | None = None
    agent: str | None = None
    task: str | None = None
    ok: bool = True
    failed_over: bool = False
    cost_nusd: int | None = 0
    input_tokens: int = 100
    output_tokens: int = 10
    duration_ms: float = 1000.0

    @property
    def time_ms(self) -> int:
        return round(datetime.fromisoformat(self.time).replace(tzinfo=UTC).timestamp() * 1000)


class FakeLedger:
    """`asked`: the name of every question."""

    def __init__(self, calls: Iterable[Call] = (), *, moves: Sequence[Record] = (), alerts: Sequence[Record] = ()) -> None:
        self.calls = list(calls)
        self.moves = list(moves)
        self.stored = list(alerts)
        self.asked: list[str] = []

    async def usage(
        self,
        group_by: Sequence[str],
        since_ms: int | None = None,
        until_ms: int | None = None,
        *,
        time_zone: str = "UTC",
        filters: Mapping[str, str] | None = None,
        percentiles: bool = False,
        limit: int | None = None,
        after: int = 0,
        bounded: bool = False,
    ) -> list[Record]:
        self.asked.append(f"usage {','.join(group_by)}")
        unknown = set(group_by) - set(GROUPS)
        if unknown:
            raise KeyError(min(unknown))
        found = self._between(since_ms or 0, until_ms, filters or {})
        rows = _grouped(found, lambda call: {name: _group(call, name, time_zone) for name in group_by}, percentiles)
        ordered = sorted(rows, key=lambda row: (-float(row["cost_usd"]), -row["requests"]))
        return ordered[after : None if limit is None else after + limit]

    async def totals(
        self, since_ms: int | None = None, until_ms: int | None = None, filters: Mapping[str, str] | None = None
    ) -> Record:
        self.asked.append("totals")
        return _sum(self._between(since_ms or 0, until_ms, filters or {}), percentiles=True)

    async def timeseries(
        self,
        step: Step,
        since_ms: int,
        until_ms: int,
        *,
        time_zone: str = "UTC",
        filters: Mapping[str, str] | None = None,
        group_by: str | None = None,
        among: Sequence[str | None] = (),
    ) -> list[Record]:
        self.asked.append("timeseries")
        if group_by is not None and group_by not in GROUPS:
            raise KeyError(group_by)

        key_names = () if group_by is None else (group_by,)

        def key(call: Call) -> Record:
            group = {} if group_by is None else {group_by: getattr(call, group_by)}
            return {"time": _begin(call, step, time_zone), **group}

        calls = self._between(since_ms, until_ms, filters or {})
        rows = _grouped([call for call in calls if group_by is None or getattr(call, group_by) in among], key, percentiles=True)
        return [{name: row[name] for name in ("time", *key_names, *POINT)} for row in rows]

    async def fallbacks(self, since_ms: int, until_ms: int) -> list[Record]:
        self.asked.append("fallbacks")
        return list(self.moves)

    async def spend_by_day(
        self, since_ms: int, until_ms: int | None = None, *, filters: Mapping[str, str] | None = None
    ) -> list[tuple[str, int]]:
        self.asked.append("spend_by_day")
        sums: dict[str, int] = {}
        for call in self._between(since_ms, until_ms, filters or {}):
            sums[call.time[:10]] = sums.get(call.time[:10], 0) + (call.cost_nusd or 0)
        return [(day, cost) for day, cost in sorted(sums.items()) if cost]

    async def used_by_day(
        self,
        group: str | None,
        since_ms: int,
        until_ms: int | None = None,
        *,
        filters: Mapping[str, str] | None = None,
        among: Sequence[str | None] = (),
    ) -> list[tuple[str, str | None, int, int, int]]:
        self.asked.append(f"used_by_day {group}{' among ' + ', '.join(map(str, among)) if among else ''}")
        sums: dict[tuple[str, str | None], list[int]] = {}
        for call in self._between(since_ms, until_ms, filters or {}):
            name = None if group is None else _group(call, group, "UTC")
            if among and name not in among:
                continue
            row = sums.setdefault((call.time[:10], name), [0, 0, 0])
            for place, more in enumerate((1, call.input_tokens + call.output_tokens, call.cost_nusd or 0)):
                row[place] += more
        return [(day, name, attempts, tokens, cost) for (day, name), (attempts, tokens, cost) in sums.items()]

    async def alerts(self, limit: int, open_only: bool = False, kind: str | None = None) -> list[Record]:
        self.asked.append("alerts")
        return [alert for alert in self.stored if kind is None or alert["kind"] == kind][:limit]

    def _between(self, since_ms: int, until_ms: int | None, filters: Mapping[str, str]) -> list[Call]:
        first = since_ms // HOUR_MS
        last = 1 << 40 if until_ms is None else -(-until_ms // HOUR_MS)
        return [
            call
            for call in self.calls
            if first <= call.time_ms // HOUR_MS < last and all(getattr(call, name) == value for name, value in filters.items())
        ]


def _group(call: Call, name: str, time_zone: str) -> str | None:
    if name == "key":
        return "k1"
    if name == "hour":
        return rfc3339(call.time_ms // HOUR_MS * 3600)
    if name in ("day", "month"):
        local = datetime.fromtimestamp(call.time_ms / 1000, ZoneInfo(time_zone)).isoformat()
        return local[:10] if name == "day" else local[:7]
    value: str | None = getattr(call, name)
    return value


def _begin(call: Call, step: Step, time_zone: str) -> str:
    if step == "hour":
        return rfc3339(call.time_ms // HOUR_MS * 3600)
    local = datetime.fromtimestamp(call.time_ms / 1000, ZoneInfo(time_zone))
    return rfc3339(local.replace(hour=0, minute=0, second=0, microsecond=0).timestamp())


def _grouped(calls: Sequence[Call], key: Callable[[Call], Record], percentiles: bool) -> list[Record]:
    groups: dict[tuple[Any, ...], tuple[Record, list[Call]]] = {}
    for call in calls:
        named = key(call)
        groups.setdefault(tuple(named.values()), (named, []))[1].append(call)
    return [{**named, **_sum(members, percentiles)} for named, members in groups.values()]


def _sum(calls: Sequence[Call], percentiles: bool) -> Record:
    sums: Record = dict.fromkeys(COUNTED, 0)
    for call in calls:
        added = {
            "requests": 1,
            "attempts": 1,
            "ok": call.ok,
            "failed": not call.ok,
            "attempts_ok": call.ok,
            "attempts_failed": not call.ok,
            "failed_over": call.failed_over,
            "input_tokens": call.input_tokens,
            "output_tokens": call.output_tokens,
            "unpriced_attempts": call.cost_nusd is None,
        }
        for name, value in added.items():
            sums[name] += int(value)
    cost_nusd = sum(call.cost_nusd or 0 for call in calls)
    durations = sorted(call.duration_ms for call in calls)
    times: Record = dict.fromkeys(TIMES)
    if durations and percentiles:
        times["p50_ms"], times["p95_ms"] = durations[len(durations) // 2], durations[int(len(durations) * 0.95)]
    count = len(calls)
    return {
        **sums,
        "cost_usd": nusd_to_usd(cost_nusd),
        "success_rate": round(sums["ok"] / count, 4) if count else None,
        "cost_per_call_usd": nusd_to_usd(round(cost_nusd / count)) if count else None,
        "tokens_per_call": (sums["input_tokens"] + sums["output_tokens"]) / count if count else None,
        "mean_duration_ms": sum(durations) / count if count else None,
        "mean_first_token_ms": None,
        "saved_usd": "0",
        "cache_hit_rate": 0.0 if count else None,
        "mean_quality": None,
        **(times if percentiles else {}),
    }
