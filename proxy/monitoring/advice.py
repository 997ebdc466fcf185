"""What the ledger's last 30 days suggest to change, each with its figures and the query that shows the rows behind it.

    evidence (sums of the ledger, prices, configuration) ── advise ── [cheaper, failing_first, low_quality, slow, cache,
                                                                       cache_writes, unpriced, idle, projection, budget_short, budget]

Pure but for `read_evidence`, which asks the ledger. Nothing is said without numbers: too few calls say nothing. Nothing is applied.
Costs elsewhere are reckoned at the other target's full price, whatever was cached here, so that a saving is not promised too high;
whether its answers are good enough is for a person to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction
from statistics import median
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlencode

from proxy.accounting.pricing import Rates
from proxy.config.patterns import matched_part
from proxy.config.settings import Settings, usable
from proxy.core.money import NUSD_PER_USD, nusd_to_usd, usd_to_nusd
from proxy.core.target import Chain, Target
from proxy.core.usage import Usage
from proxy.monitoring.outlook import Days, Pace, month_end, read_pace
from proxy.monitoring.query import month_start_ms, rfc3339

Kind = Literal[
    "cheaper",
    "failing_first",
    "low_quality",
    "slow",
    "cache",
    "cache_writes",
    "unpriced",
    "idle",
    "projection",
    "budget_short",
    "budget",
]
Record = dict[str, Any]
PriceOf = Callable[[Target], Rates | None]

WINDOW_DAYS: Final = 30
RECENT_DAYS: Final = 7  # for times, which change sooner than habits, and are dearer to read
DAY_MS: Final = 86_400_000
MIN_CALLS: Final = 20  # fewer say nothing
LEAST_SAVING_NUSD: Final = NUSD_PER_USD // 100
LEAST_SAVING: Final = 0.1  # of what it costs now
FAILING: Final = 0.1
LOW: Final = 0.2  # of the answers that are measured
OUT_OF_LINE: Final = 2.0  # times the median of the other models
CACHE_MIN_TOKENS: Final = 1_024  # of a call: no provider caches shorter prompts
CACHED_ENOUGH: Final = 0.1
ASSUMED_CACHED: Final = Fraction(1, 2)
HEADROOM: Final = Fraction(5, 4)
MONTH_DAYS: Final = Fraction(365, 12)
MAX_REASONS: Final = 3
MAX_OTHERS: Final = 5
QUALITY: Final = "quality"  # why a request went on to the next target though it had an answer
_MILLION: Final = 1_000_000
_SUMMED: Final = (
    "requests", "attempts", "attempts_ok", "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens",
    "unpriced_attempts",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Advice:
    """`saving_nusd` in the window, None where it is not about money. `source` is the API's path with the figures behind it."""

    kind: Kind
    title: str
    text: str
    figures: Mapping[str, Any]
    source: str
    saving_nusd: int | None = None

    def as_dict(self) -> Record:
        return {
            "kind": self.kind,
            "title": self.title,
            "text": self.text,
            "saving_usd": None if self.saving_nusd is None else nusd_to_usd(self.saving_nusd),
            "figures": dict(self.figures),
            "source": self.source,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """`targets`: usage rows by chain, provider and model; `models`: by provider and model; `recent`: the same of the last RECENT_DAYS,
    with percentiles; `month`: this month's by provider; `moves`: failovers. `compare`: targets to reckon with besides those of the chains.
    `prices`: None is unknown."""

    wall: float
    since_ms: int
    until_ms: int
    settings: Settings
    prices: PriceOf
    targets: Sequence[Record] = ()
    models: Sequence[Record] = ()
    recent: Sequence[Record] = ()
    month: Sequence[Record] = ()
    moves: Sequence[Record] = ()
    pace: Pace = field(default_factory=lambda: Pace(None))
    compare: Sequence[Target] = ()
    direct: dict[tuple[str, str], Target] = field(default_factory=dict)  # made so far

    def target(self, provider: str | None, model: str | None) -> Target | None:
        """As it would be called directly; None: there is no such provider any more, or no model."""
        if not provider or not model or provider not in self.settings.providers:
            return None
        if (provider, model) not in self.direct:
            self.direct[provider, model] = self.settings.direct(provider, model)
        return self.direct[provider, model]

    def source(self, group_by: str, filters: Mapping[str, str] | None = None, *, since_ms: int | None = None) -> str:
        return f"/api/v1/usage?{urlencode({'group_by': group_by, **self._span(since_ms), **(filters or {})}, safe=',:/*')}"

    def moves_source(self) -> str:
        return f"/api/v1/monitoring/fallback-stats?{urlencode(self._span(None), safe=':')}"

    def _span(self, since_ms: int | None) -> dict[str, str]:
        start_ms = self.since_ms if since_ms is None else since_ms
        return {"since": rfc3339(start_ms / 1000), "until": rfc3339(self.until_ms / 1000)}


class Ledger(Days, Protocol):
    """What is asked of the ledger; see `storage/queries.py`."""

    async def usage(
        self,
        group_by: Sequence[str],
        since_ms: int | None = None,
        until_ms: int | None = None,
        *,
        filters: Mapping[str, str] = ...,
        percentiles: bool = ...,
    ) -> list[Record]: ...
    async def fallbacks(self, since_ms: int, until_ms: int) -> list[Record]: ...


async def read_evidence(
    ledger: Ledger, settings: Settings, prices: PriceOf, wall: float, *, compare: Sequence[str] = ()
) -> Evidence:
    """`compare`: names of targets, `provider/model`; those of a provider that the configuration does not have are left out."""
    until_ms = round(wall * 1000)
    since_ms = until_ms - WINDOW_DAYS * DAY_MS
    names = [name.partition("/") for name in compare]
    others = [settings.direct(provider, model) for provider, _, model in names if provider in settings.providers and model]
    targets = await ledger.usage(["chain", "provider", "model"], since_ms, until_ms)
    failing = bool(settings.gates()) or any(
        _fails_first(settings, row) for row in targets
    )  # else nobody asks where its requests went
    return Evidence(
        wall=wall,
        since_ms=since_ms,
        until_ms=until_ms,
        settings=settings,
        prices=prices,
        targets=targets,
        models=_by_model(targets),
        recent=await ledger.usage(["provider", "model"], until_ms - RECENT_DAYS * DAY_MS, until_ms, percentiles=True),
        month=await ledger.usage(["provider"], month_start_ms(until_ms, UTC), until_ms),
        moves=await ledger.fallbacks(since_ms, until_ms) if failing else (),
        pace=await read_pace(ledger, wall, scope="provider"),
        compare=others,
    )


def _by_model(targets: Iterable[Record]) -> list[Record]:
    """The sums of all chains together."""
    found: dict[tuple[Any, ...], Record] = {}
    for row in targets:
        sums = found.setdefault((row["provider"], row["model"]), {"provider": row["provider"], "model": row["model"]})
        for name in _SUMMED:
            sums[name] = sums.get(name, 0) + row[name]
    return list(found.values())


def advise(evidence: Evidence) -> list[Advice]:
    """What saves most comes first, then the rest in the order of Kind."""
    found = [advice for rule in _RULES for advice in rule(evidence)]
    return sorted(found, key=lambda advice: -(advice.saving_nusd or 0))


# -- dearer than it need be


def _cheaper(evidence: Evidence) -> Iterator[Advice]:
    for row in evidence.targets:
        target, others = _target_and_others(evidence, row)
        usage, now_nusd = _usage(row), usd_to_nusd(row["cost_usd"])
        tokens = usage.input_tokens + usage.output_tokens
        if target is None or row["unpriced_attempts"] or row["attempts_ok"] < MIN_CALLS or now_nusd <= 0 or not tokens:
            continue
        costs = {
            other.name: cost
            for other in others
            if (rates := evidence.prices(other)) is not None
            and (cost := _plain_cost_nusd(rates, usage, row["attempts_ok"])) <= now_nusd * (1 - LEAST_SAVING)
        }
        if not costs:
            continue
        cheapest = min(costs, key=costs.__getitem__)
        saving = now_nusd - costs[cheapest]
        if saving < LEAST_SAVING_NUSD:
            continue
        listed = dict(sorted(costs.items(), key=lambda pair: pair[1])[:MAX_OTHERS])
        million = {name: _per_million(cost, tokens) for name, cost in {target.name: now_nusd, **listed}.items()}
        prices = ", ".join(
            f"{name} {_shown(cost)}" + ("" if name == target.name else f", {_change(cost, million[target.name])}")
            for name, cost in million.items()
        )
        yield Advice(
            "cheaper",
            f"{_chain(row)}: {cheapest} instead of {target.name} would cost {_change(costs[cheapest], now_nusd)}",
            f"{row['attempts_ok']:,} calls of {_chain(row)} took {_count(tokens)} tokens at {target.name} for {_shown(now_nusd)}. "
            f"1 M tokens of this mix: {prices}. Try {cheapest} first where its answers are good enough.",
            {
                "chain": row["chain"],
                "target": target.name,
                "calls": row["attempts_ok"],
                "tokens": tokens,
                "cost_usd": nusd_to_usd(now_nusd),
                "would_cost_usd": {name: nusd_to_usd(cost) for name, cost in listed.items()},
                "usd_per_million": {name: nusd_to_usd(cost) for name, cost in million.items()},
            },
            evidence.source("chain,provider,model", _filters(row)),
            saving,
        )


def _target_and_others(evidence: Evidence, row: Record) -> tuple[Target | None, list[Target]]:
    """The target of a row, and what else its chain could have called."""
    name, found = _name(row), _chain_of(evidence.settings, row)
    targets = list(found.targets) if found is not None else []
    mine = next((target for target in targets if target.name == name), None)
    mine = mine or evidence.target(row["provider"], row["model"])
    given = evidence.compare if row["output_tokens"] else ()  # they write, and this row's calls only embed
    others = {other.name: other for other in (*targets, *given) if other.name != name and usable(other)}
    return mine, [other for other in others.values() if other.provider.transport != "demo"]


def _plain_cost_nusd(rates: Rates, usage: Usage, calls: int) -> int:
    """What the tokens cost with nothing cached and each call below the first step of the price."""
    plain = Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        input_audio_tokens=usage.input_audio_tokens,
        output_audio_tokens=usage.output_audio_tokens,
    )
    return replace(rates, steps=()).cost_nusd(plain) + (calls - 1) * rates.base.request // rates.unit


# -- what goes wrong


def _failing_first(evidence: Evidence) -> Iterator[Advice]:
    for row in evidence.targets:
        targets = _fails_first(evidence.settings, row)
        if not targets:
            continue
        failed = row["attempts"] - row["attempts_ok"]
        reasons = _reasons(evidence.moves, row["chain"], targets[0])
        why = f" ({', '.join(f'{reason} {count:,}' for reason, count in reasons.items())})" if reasons else ""
        rates = {
            other: each["attempts_ok"] / each["attempts"]
            for each in evidence.targets
            if each["chain"] == row["chain"] and (other := _name(each)) in targets[1:] and each["attempts"] >= MIN_CALLS
        }
        best = max(rates, key=rates.__getitem__, default=None)
        own = 1 - failed / row["attempts"]
        more = f" {best} answered {_percent(rates[best])} of its own: put it first." if best and rates[best] > own else ""
        yield Advice(
            "failing_first",
            f"{_chain(row)}: its first target fails {_percent(failed / row['attempts'])} of the time",
            f"{failed:,} of {row['attempts']:,} attempts at {targets[0]} failed{why}, and each made a caller wait.{more}",
            {
                "chain": row["chain"],
                "target": targets[0],
                "attempts": row["attempts"],
                "failed": failed,
                "reasons": reasons,
                "success_rates": {targets[0]: round(own, 4), **{name: round(rate, 4) for name, rate in rates.items()}},
            },
            evidence.moves_source() if reasons else evidence.source("chain,provider,model", _filters(row)),
        )


def _fails_first(settings: Settings, row: Record) -> list[str]:
    """The usable targets of the row's chain, if it is about the first of several and that one fails often; else none."""
    chain, failed = _chain_of(settings, row), row["attempts"] - row["attempts_ok"]
    targets = [target.name for target in chain.targets if usable(target)] if chain is not None else []
    often = row["attempts"] >= MIN_CALLS and failed >= FAILING * row["attempts"]
    return targets if len(targets) > 1 and targets[0] == _name(row) and often else []


def _reasons(moves: Iterable[Record], chain: str | None, target: str) -> dict[str, int]:
    """Why requests left the target, the most frequent first."""
    counts: dict[str, int] = {}
    for move in moves:
        if move["chain"] == chain and move["from"] == target and move["reason"]:
            counts[move["reason"]] = counts.get(move["reason"], 0) + move["count"]
    return dict(sorted(counts.items(), key=lambda pair: -pair[1])[:MAX_REASONS])


def _low_quality(evidence: Evidence) -> Iterator[Advice]:
    """Of targets whose answers had the next one asked. Measured is what was given, and what was not."""
    for row in evidence.targets:
        chain = _chain_of(evidence.settings, row)
        if chain is None or chain.quality is None:
            continue
        moved = sum(
            move["count"]
            for move in evidence.moves
            if (move["chain"], move["from"], move["reason"]) == (row["chain"], _name(row), QUALITY)
        )
        measured = moved + row.get("rated", 0)
        if measured < MIN_CALLS or moved < LOW * measured:
            continue
        listed = {target.name for target in chain.targets if usable(target)} - {_name(row)}
        means = {
            _name(each): each["mean_quality"]
            for each in evidence.targets
            if each["chain"] == row["chain"] and _name(each) in listed and each.get("rated", 0) >= MIN_CALLS
        }
        best = max(means, key=means.__getitem__, default=None)
        more = f" {best} measures {means[best]:.2f} on average: put it first." if best is not None else ""
        yield Advice(
            "low_quality",
            f"{_chain(row)}: {_percent(moved / measured)} of the answers of {_name(row)} are low",
            f"{moved:,} of {measured:,} whole answers of {_name(row)} measured below {chain.quality.min:g}, so that the next target was "
            f"asked as well and both were paid for.{more}",
            {"chain": row["chain"], "target": _name(row), "measured": measured, "low": moved, "mean_quality": means},
            evidence.moves_source(),
        )


def _slow(evidence: Evidence) -> Iterator[Advice]:
    """Only models that write: those that embed are another kind of quick."""
    rows = [row for row in evidence.recent if row["p95_ms"] and row["output_tokens"] and row["requests"] >= MIN_CALLS]
    for row in rows:
        others = [each["p95_ms"] for each in rows if each is not row]
        if len(others) < 2 or row["p95_ms"] < OUT_OF_LINE * (usual := median(others)):
            continue
        written = row["output_tokens"] / row["requests"]
        yield Advice(
            "slow",
            f"{_name(row)}: its p95 is {row['p95_ms'] / usual:.1f} times that of the others",
            f"5 % of {row['requests']:,} requests to {_name(row)} in {RECENT_DAYS} days took longer than {_seconds(row['p95_ms'])}; the "
            f"median of the other {len(others)} models is {_seconds(usual)}. It writes {written:,.0f} tokens a request.",
            {
                "target": _name(row),
                "requests": row["requests"],
                "p95_ms": row["p95_ms"],
                "others_p95_ms": round(usual, 3),
                "output_tokens_per_request": round(written, 1),
            },
            evidence.source("provider,model", {"provider": row["provider"]}, since_ms=evidence.until_ms - RECENT_DAYS * DAY_MS),
        )


def _unpriced(evidence: Evidence) -> Iterator[Advice]:
    for row in evidence.models:
        if not row["unpriced_attempts"]:
            continue
        yield Advice(
            "unpriced",
            f"{_name(row)}: its price is not known",
            f"{row['unpriced_attempts']:,} calls of {row['attempts']:,} to {_name(row)} are in no sum and in no budget. Write its price "
            f"under providers.{row['provider']}.models.",
            {"target": _name(row), "unpriced_attempts": row["unpriced_attempts"], "attempts": row["attempts"]},
            evidence.source("provider,model", {"provider": row["provider"]}),
        )


# -- caching


def _cache(evidence: Evidence) -> Iterator[Advice]:
    """Where prompts are long, hardly anything of them came from the provider's cache, and cached input is cheaper."""
    for row in evidence.models:
        rates, calls, tokens = _rates_of(evidence, row), row["attempts_ok"], row["input_tokens"]
        if rates is None or calls < MIN_CALLS or tokens < calls * CACHE_MIN_TOKENS or rates.base.cached_input >= 0:
            continue
        if row["cached_input_tokens"] > CACHED_ENOUGH * tokens:
            continue
        uncached = tokens - row["cached_input_tokens"]
        saving = int(ASSUMED_CACHED * uncached * -rates.base.cached_input / rates.unit)
        if saving < LEAST_SAVING_NUSD:
            continue
        reads = Fraction(max(0, rates.base.cache_write), -rates.base.cached_input)
        written = f" Writing it costs more: it pays from {float(reads):.1f} reads for each write on." if reads else ""
        share = row["cached_input_tokens"] / tokens
        yield Advice(
            "cache",
            f"{_name(row)}: {_percent(share)} of its input comes from the cache",
            f"{calls:,} calls sent {_count(tokens)} tokens, {tokens // calls:,} each. Had half of them been a prefix that is cached, "
            f"{_shown(saving)} less would have been paid: put what stays the same first.{written}",
            {
                "target": _name(row),
                "calls": calls,
                "input_tokens": tokens,
                "cached_input_tokens": row["cached_input_tokens"],
                "assumed_share": float(ASSUMED_CACHED),
                "reads_for_each_write": round(float(reads), 2),
            },
            evidence.source("provider,model", {"provider": row["provider"]}),
            saving,
        )


def _cache_writes(evidence: Evidence) -> Iterator[Advice]:
    """Where writing into the cache cost more than reading from it saved."""
    for row in evidence.models:
        rates, written = _rates_of(evidence, row), row["cache_write_tokens"]
        if rates is None or not written or rates.base.cache_write <= 0:
            continue
        extra = written * rates.base.cache_write // rates.unit
        saved = row["cached_input_tokens"] * max(0, -rates.base.cached_input) // rates.unit
        if extra - saved < LEAST_SAVING_NUSD:
            continue
        yield Advice(
            "cache_writes",
            f"{_name(row)}: its cache costs more than it saves",
            f"{_count(written)} tokens were written into the cache for {_shown(extra)} more than plain input, and the "
            f"{_count(row['cached_input_tokens'])} read from it saved {_shown(saved)}. Mark only what is asked again within minutes.",
            {
                "target": _name(row),
                "cache_write_tokens": written,
                "cached_input_tokens": row["cached_input_tokens"],
                "writing_usd": nusd_to_usd(extra),
                "saved_usd": nusd_to_usd(saved),
            },
            evidence.source("provider,model", {"provider": row["provider"]}),
            extra - saved,
        )


def _rates_of(evidence: Evidence, row: Record) -> Rates | None:
    target = evidence.target(row["provider"], row["model"])
    return None if target is None else evidence.prices(target)


# -- who is not needed


def _idle(evidence: Evidence) -> Iterator[Advice]:
    calls = sum(row["requests"] for row in evidence.models)
    if calls < MIN_CALLS:
        return
    called = {row["provider"] for row in evidence.models if row["attempts"]}
    asked = {row["chain"] for row in evidence.targets if row["requests"]}
    for provider in evidence.settings.providers.values():
        if not provider.enabled or provider.transport == "demo" or provider.name in called:
            continue
        first, later = _places(evidence.settings, provider.name)
        if first:
            used = [chain for chain in first if chain in asked]
            why = f"It is the first of {_listed(first)}, which nobody called."
            if used:
                why = (
                    f"It is the first of {_listed(used)}, whose calls all passed it by: a request there tells why it was skipped."
                )
        elif later:
            why = f"It is a fallback of {_listed(later)} that was never needed."
        else:
            why = "It is in no chain: its stanza can go, unless callers name it directly."
        yield Advice(
            "idle",
            f"{provider.name} was not called",
            f"Not one of {calls:,} requests in {WINDOW_DAYS} days went to {provider.name}. {why}",
            {"provider": provider.name, "requests": calls, "attempts": 0, "first_of": first, "fallback_of": later},
            evidence.source("provider"),
        )


def _places(settings: Settings, provider: str) -> tuple[list[str], list[str]]:
    """The chains whose first provider it is, and those where it comes later."""
    chains = {name: [target.provider.name for target in chain.targets] for name, chain in settings.chains.items()}
    chains |= {template.name: [target.partition("/")[0] for target in template.targets] for _, template in settings.wildcards}
    first = [name for name, providers in chains.items() if providers[:1] == [provider]]
    return first, [name for name, providers in chains.items() if provider in providers and name not in first]


# -- what the month will cost


def _projection(evidence: Evidence) -> Iterator[Advice]:
    spent = sum(usd_to_nusd(row["cost_usd"]) for row in evidence.month)
    end = month_end(evidence.wall)
    projected = evidence.pace.by_the_end(spent, wall=evidence.wall, end=end)
    if not projected:
        return
    yield Advice(
        "projection",
        f"This month will cost {_shown(projected)}",
        f"{_shown(spent)} are spent, and {(end - evidence.wall) / 86_400:.0f} days are left at the pace of the last weeks.",
        {"spent_usd": nusd_to_usd(spent), "projection_usd": nusd_to_usd(projected)},
        evidence.source("provider,day"),
    )


def _budgets(evidence: Evidence) -> Iterator[Advice]:
    spent = {row["provider"]: usd_to_nusd(row["cost_usd"]) for row in evidence.month}
    end = month_end(evidence.wall)
    for name, daily in evidence.pace.by_name.items():
        provider = evidence.settings.providers.get(name or "")
        if name is None or provider is None or daily is None or daily.mean <= 0:
            continue
        projected = evidence.pace.by_the_end(spent.get(name, 0), wall=evidence.wall, end=end, name=name) or 0
        monthly = int(daily.mean * MONTH_DAYS)
        proposed = _rounded_up(int(max(projected, monthly) * HEADROOM))
        figures = {
            "provider": name,
            "spent_usd": nusd_to_usd(spent.get(name, 0)),
            "projection_usd": nusd_to_usd(projected),
            "usual_month_usd": nusd_to_usd(monthly),
            "proposed_usd": nusd_to_usd(proposed),
        }
        source = evidence.source("provider,day", {"provider": name})
        budget = provider.budget
        if budget is None:
            yield Advice(
                "budget",
                f"{name}: {_shown(proposed)} a month would do as a budget",
                f"A month of {name} costs {_shown(monthly)} at the pace of the last weeks, this one {_shown(projected)}. With "
                f"a quarter to spare: under providers.{name} write budget: {{usd: {nusd_to_usd(proposed)}, per: month}}.",
                figures,
                source,
            )
        elif budget.per == "month" and projected > budget.limit_nusd:
            yield Advice(
                "budget_short",
                f"{name}: its budget of {_shown(budget.limit_nusd)} will not reach to the end of the month",
                f"{_shown(spent.get(name, 0))} are spent, and at the pace of the last weeks it will be {_shown(projected)}. "
                f"{_shown(proposed)} would leave a quarter to spare.",
                {**figures, "budget_usd": nusd_to_usd(budget.limit_nusd)},
                source,
            )


def _rounded_up(nusd: int) -> int:
    """To two figures that a person would write, at least a dollar."""
    usd = Decimal(nusd) / NUSD_PER_USD
    if usd <= 1:
        return NUSD_PER_USD
    step = Decimal(10) ** max(0, usd.adjusted() - 1)
    return usd_to_nusd((usd / step).to_integral_value(ROUND_CEILING) * step)


_RULES: Final[tuple[Callable[[Evidence], Iterator[Advice]], ...]] = (
    _cheaper, _failing_first, _low_quality, _slow, _cache, _cache_writes, _unpriced, _idle, _projection, _budgets,
)  # fmt: skip


# -- rows and words


def _chain_of(settings: Settings, row: Record) -> Chain | None:
    """The chain that a row is of, as it is configured now; None: there is none any more, or the target was called directly."""
    if row["chain"] in settings.chains:
        return settings.chains[row["chain"]]
    for _, template in settings.wildcards:
        if template.name == row["chain"]:
            parts = (matched_part(pattern, _name(row)) for pattern in template.targets)
            part = next((part for part in parts if part is not None), None)
            return None if part is None else template.make(part)
    return None


def _usage(row: Record) -> Usage:
    return Usage(
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cached_input_tokens=row["cached_input_tokens"],
        cache_write_tokens=row["cache_write_tokens"],
        reasoning_tokens=row["reasoning_tokens"],
        input_audio_tokens=row["input_audio_tokens"],
        output_audio_tokens=row["output_audio_tokens"],
    )


def _name(row: Record) -> str:
    return f"{row['provider']}/{row['model']}"


def _chain(row: Record) -> str:
    return "direct calls" if row["chain"] in (None, "direct") else row["chain"]


def _filters(row: Record) -> dict[str, str]:
    return {name: row[name] for name in ("chain", "provider", "model") if row[name]}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_OTHERS]) + (" …" if len(names) > MAX_OTHERS else "")


def _per_million(cost_nusd: int, tokens: int) -> int:
    return round(Fraction(cost_nusd * _MILLION, tokens))


def _change(new_nusd: int, old_nusd: int) -> str:
    """`−95 %`."""
    return f"{'−' if new_nusd < old_nusd else '+'}{abs(round(100 * (new_nusd / old_nusd - 1)))} %"


def _percent(share: float) -> str:
    return f"{round(100 * share)} %"


def _shown(nusd: int) -> str:
    """`$1,234.50`; below a cent two figures that are not 0."""
    usd = Decimal(nusd) / NUSD_PER_USD
    if not usd or abs(usd) >= Decimal("0.01"):
        return f"${usd:,.2f}"
    return f"${usd.quantize(Decimal(10) ** (usd.adjusted() - 1)):f}"


def _count(tokens: int) -> str:
    return f"{tokens / _MILLION:,.1f} M" if tokens >= _MILLION else f"{tokens:,}"


def _seconds(duration_ms: float) -> str:
    return f"{duration_ms / 1000:.1f} s"
