"""Mixed requests, streamed and not, with usage reported and not, some after a failover: the ledger's tokens and cost against the
upstream's own count, request by request and in sum, to the token and the nano-dollar.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from fractions import Fraction
from typing import Any

from tests.bench.load import Answer
from tests.soak.stage import PRICES, Caller, Check, Stage, all_of, alone, each, none_of

_REQUESTS, _REQUESTS_SHORT = 5_000, 300
_CLIENTS = 32
_INPUT, _OUTPUT, _CACHED = (Fraction(PRICES[name]) * 1_000 for name in ("input", "output", "cached_input"))
_NANO = 10**9
_CASES = [(model, stream) for model in ("mixed", "mixed-nousage", "failover") for stream in (False, True)]

Seen = dict[str, tuple[str, Answer]]  # by marker: the model asked for, the answer


async def act(stage: Stage) -> list[Check]:
    wanted = stage.options.of(_REQUESTS, _REQUESTS_SHORT)
    before = _Told(stage)
    seen: Seen = {}

    async def ask(caller: Caller, number: int) -> None:
        model, stream = _CASES[number % len(_CASES)]
        marker = f"e{number}"
        seen[marker] = (model, await caller.ask(model, stream=stream, marker=marker))

    await each(iter(range(wanted)), _CLIENTS, stage.port, ask)
    rows = await stage.drained({answer.request_id for _, answer in seen.values()})
    return _compare(stage, seen, {row["id"]: row for row in rows}, before, _Told(stage))


class _Told:
    """What the reports say in sum."""

    def __init__(self, stage: Stage) -> None:
        sums = stage.sums()
        self.requests: int = sums.get("requests", 0)
        self.output_tokens: int = sums.get("output_tokens", 0)
        groups = stage.api("/api/v1/usage?group_by=provider")["data"]
        self.cost_nusd = sum(Decimal(group["cost_usd"]) * _NANO for group in groups if group["cost_usd"] is not None)


def _compare(stage: Stage, seen: Seen, by_id: dict[str, dict[str, Any]], before: _Told, after: _Told) -> list[Check]:
    served = {record["marker"]: record for record in stage.served() if record["status"] == 200}
    faults: Counter[str] = Counter()
    tokens, cost_nusd, failovers, counted = 0, 0, 0, 0
    for marker, (model, answer) in seen.items():
        row, record = by_id.get(answer.request_id), served.get(marker)
        if not answer.whole or answer.status != 200 or record is None:
            faults["not whole"] += 1
            continue
        if row is None or row["outcome"] != "ok":
            faults["no row"] += 1
            continue
        reported = record["usage_reported"]
        faults["tokens"] += not _same_tokens(row, record)
        faults["source"] += row["usage_source"] != ("provider" if reported else "counted")
        expected = _cost_nusd(row if not reported else record)
        faults["cost"] += row["cost_usd"] is None or Decimal(row["cost_usd"]) * _NANO != expected
        tokens += record["output_tokens"]
        cost_nusd += expected
        counted += not reported
        failovers += model == "failover" and row["attempts"] > 1
    told_tokens = after.output_tokens - before.output_tokens
    told_nusd = after.cost_nusd - before.cost_nusd
    return [
        Check("requests", f"{len(seen):,}"),
        Check("whose usage had to be counted", f"{counted:,}"),
        Check("that failed over", f"{failovers:,}", "≥ 1", failovers >= 1),
        none_of("answers not whole", faults["not whole"]),
        none_of("answers with no row", faults["no row"]),
        none_of("rows with other tokens than the upstream's", faults["tokens"]),
        none_of("rows with another source of usage", faults["source"]),
        none_of("rows with another cost", faults["cost"]),
        Check("output tokens in all", f"{told_tokens:,}", f"{tokens:,}", told_tokens == tokens),
        Check("cost in all, nano-dollars", f"{told_nusd:,.0f}", f"{cost_nusd:,}", told_nusd == cost_nusd),
        all_of("requests in the sums", after.requests - before.requests, len(seen)),
    ]


def _same_tokens(row: dict[str, Any], record: dict[str, Any]) -> bool:
    if not record["usage_reported"]:  # the upstream knows its own words; how a prompt is counted is the proxy's documented rule
        return bool(row["output_tokens"] == record["output_tokens"] and row["input_tokens"] > 0)
    return all(row[name] == record[name] for name in ("input_tokens", "cached_input_tokens", "output_tokens"))


def _cost_nusd(tokens: dict[str, Any]) -> int:
    """Exact, rounded once, half to even."""
    cached = tokens["cached_input_tokens"] or 0
    exact: Fraction = (tokens["input_tokens"] - cached) * _INPUT + cached * _CACHED + tokens["output_tokens"] * _OUTPUT
    return round(exact)


run = alone(act)
