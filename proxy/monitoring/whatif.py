"""What would have become of a request of the ledger under another configuration, asked of nobody.

    the request, as recorded ──▶ facts, the state of each target ──▶ routing/chosen.py ──▶ the order
                                                                                              │
    what came of those that were tried, the availability of the others ──▶ walk.py ───────────┴──▶ who answers, and the cost

A target's state at that moment is what the request's own trace says (`recall.py`), for it was true whatever the configuration; of a target
that stood in another chain the traces of other requests around that time tell (`past.py`). What nothing tells is taken to be well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b

from proxy.accounting.budgets import EXPECTED_OUTPUT_TOKENS
from proxy.config.settings import Settings
from proxy.core.target import DEFAULT_FAILOVER_ON, NO_CREDENTIAL, Chain, FailoverCause, Provider, Target
from proxy.core.usage import Usage
from proxy.monitoring.past import Past, lasts_s
from proxy.monitoring.recall import Recall, Recalled, Resort, Stood
from proxy.monitoring.record import Line, Reader, Trace, cost_said, preferred, too_slow_s, words_after
from proxy.monitoring.walk import Decision, Prices, Way, walk
from proxy.routing.choice import Facts, facts_of
from proxy.routing.chosen import choose
from proxy.storage.recorded import RecordedRequest

MAX_CHAINS = 4_096
NO_KEY = "no key"  # how a configuration says that it is only a key that is missing
_REFUSALS = ("refuses ", "would drop ")
_SEEDED = frozenset(("weighted", "fastest"))


@dataclass(frozen=True, slots=True)
class _Known:
    """A chain of the configuration without its keys: what is to be known here is whether its providers had any. `chain` is what is planned
    with, `targets` are those of the configuration by name; `picky`: some refuse or drop parameters."""

    chain: Chain
    targets: Mapping[str, Target]
    picky: bool


@dataclass(frozen=True, slots=True)
class _Plan:
    """`lacking`: it is the request's own needs and wishes that leave nobody."""

    order: tuple[str, ...]
    skipped: dict[str, str]
    lacking: bool


class WhatIf:
    """One configuration over one ledger. Requests are to be given in the order of their times, each to `decide` before `Past.see`.

    `before`: the configuration that they were recorded under, if it is at hand: it says which failures led on to the next target then.
    `unkeyed`: providers that were taken to have a key, for here they have none and nothing says that they had none then.
    """

    def __init__(
        self, settings: Settings, prices: Prices, past: Past, *, reader: Reader | None = None, before: Settings | None = None
    ) -> None:
        self.settings = settings
        self.unkeyed: set[str] = set()
        self._prices = prices
        self._past = past
        self._reader = reader or Reader()
        self._before = before
        self._state = Recall()
        self._resort = Resort()
        self._chains: dict[str, tuple[Chain | None, frozenset[str]]] = {}  # by model, with the targets that have no key here
        self._known: dict[tuple[str, frozenset[str]], _Known] = {}  # by model, and those of them that had none then either
        self._plain: dict[tuple[str, int, bool], tuple[Trace, _Plan]] = {}  # by model and trace

    def decide(self, request: RecordedRequest, was: Decision) -> Decision:
        """What it would have come to, where `was` is what it came to."""
        if was.order is None:
            known = self._chain(request) if request.error_code == "model_not_found" else None
            if known is None:
                return was  # refused before anything was chosen, or nobody knows what was
        else:
            known = self._chain(request)
        if known is None:
            return Decision((), {}, None, "rejected", unknown_model=True)
        plan = self._plan(request, known)
        same = request.config == self.settings.hash
        if same and plan.order == was.order:
            return replace(was, skipped=plan.skipped)  # the same choice, under the same rules: what came of it is what came of it
        way = Way(
            chain=known.chain,
            targets=known.targets,
            order=plan.order,
            skipped=plan.skipped,
            lacking=plan.lacking,
            was=was,
            prices=self._prices,
            past=self._past,
            same_rules=same,
            led_on=self._led_on(request, known.chain),
        )
        return walk(request, way)

    # -- the plan

    def _plan(self, request: RecordedRequest, known: _Known) -> _Plan:
        """Who would have been asked, in order, and why the others not."""
        lines = self._reader.lines(request.trace)
        same = request.config == self.settings.hash
        # what went by the trace alone comes out the same for every request with that trace
        plain = (
            request.asked is None
            and known.chain.strategy == "order"
            and known.targets.keys() <= lines.keys()
            and (same or all("skipped" not in line or lasts_s(line["skipped"]) is not None for line in lines.values()))
        )
        key = (request.model, id(request.trace), same)
        if plain and (before := self._plain.get(key)) is not None:
            return before[1]
        facts = self._facts(request, known, lines, same=same)
        self._resort.there = any("last_resort" in line for line in lines.values())
        for target in known.chain.targets:
            self._recall(self._state.of(target), target.name, request, facts, lines.get(target.name), same=same)
        made = choose(known.chain, self._state, request.time_ms / 1000, facts, trickle=self._resort)
        decided = _Plan(
            tuple([candidate.target.name for candidate in made.candidates]),
            {entry["target"]: entry["skipped"] for entry in made.trace if "skipped" in entry},
            made.lacking is not None,
        )
        if plain:
            if len(self._plain) >= MAX_CHAINS:
                self._plain.clear()
            self._plain[key] = request.trace, decided
        return decided

    def _facts(self, request: RecordedRequest, known: _Known, lines: Mapping[str, Line], *, same: bool) -> Facts:
        asked = request.asked or {}
        facts = facts_of(asked)
        strategy = next((line["by"]["strategy"] for line in lines.values() if "by" in line), "order")
        if not asked:
            facts.needs = frozenset([word for line in lines.values() for word in words_after(line, "lacks ")])
        if not facts.input_tokens:  # the choice did not go by it
            consumed = next((attempt.usage for attempt in request.attempts if attempt.usage is not None), None)
            risked = max([attempt.at_risk_tokens for attempt in request.attempts], default=0)
            facts.input_tokens = consumed.input_tokens if consumed is not None else risked
            facts.output_tokens = EXPECTED_OUTPUT_TOKENS
        if strategy not in _SEEDED:
            facts.seed = int.from_bytes(blake2b(request.id.encode(), digest_size=4).digest())
        if strategy != "sticky":
            facts.sticky = blake2b(f"{request.client or ''}".encode(), digest_size=8).hexdigest()
        if strategy != "round_robin":
            facts.turn = None
        wished = preferred(asked, lines, self._chain_then(request, known.chain))
        if wished is not None:
            facts.wishes = replace(facts.wishes, prefer=wished)
        usage = Usage(facts.input_tokens, facts.output_tokens)
        wall = request.time_ms / 1000

        def expected_cost_nusd(target: Target) -> int | None:
            line = lines.get(target.name)
            if same and line is not None and (said := cost_said(line)) is not None:
                return said[0]
            rates = self._prices.rates(known.targets[target.name], wall)
            cost_nusd = None if rates is None else rates.cost_nusd(usage)
            most = facts.wishes.max_cost_nusd
            if same and most is not None and line is not None and "kept" in line:
                return most if cost_nusd is None else min(cost_nusd, most)  # that day's prices let it pass
            return cost_nusd

        facts.expected_cost_nusd = expected_cost_nusd
        facts.context_of = self._prices.context_window
        if known.picky:
            facts.refusal = lambda target: _refusal(target, known.chain, lines)
        return facts

    def _recall(
        self,
        then: Recalled,
        name: str,
        request: RecordedRequest,
        facts: Facts,
        line: Line | None,
        *,
        same: bool,
    ) -> None:
        """Sets a target to what it was. `line`: the trace's, None where the target was not in the chain."""
        past = self._past.standing(name, request.time_ms)
        most_s = facts.wishes.max_latency_s
        if line is None:
            then.recall(self._past.obstacle(name, request.time_ms), standing=past)
            return
        if (reason := line.get("skipped")) is not None:
            stands = lasts_s(reason) is not None
            first_s = too_slow_s(reason, most_s)
            if first_s is None and (stands or same):
                first_s = most_s  # it was something else that stood in the way
            obstacle = reason if stands else None if same else self._past.obstacle(name, request.time_ms)
            then.recall(obstacle, standing=past if first_s is None else Stood(first_s=first_s))
            return
        said = line.get("by") or {}
        known = Stood() if past is None else past
        first_ms, source = said.get("first_token_ms"), said.get("source")
        first_s = first_ms / 1000 if first_ms is not None and source == "recent" else None
        if "first_token_ms" not in said:
            first_s = known.first_token_s(0.5)
            if most_s is not None:  # it was not too slow then
                first_s = most_s if first_s is None else min(first_s, most_s)
        chosen = "last_resort" in line
        then.recall(
            line.get("last", "circuit open" if chosen else None),
            wait_s=line.get("wait_s", 0.0) if "last" in line else None,
            standing=Stood(
                first_s=first_s,
                tokens_per_s=said.get("tokens_per_s", known.tokens_per_s),
                # where none was measured it was the declared one, and the file says which that is
                quality=said.get("quality", known.quality) if same or known.quality is not None else None,
                ok=said.get("ok", known.ok),
                ended=said.get("ended", known.ended),
            ),
            latency_s=first_ms / 1000 if first_ms is not None and source == "mean" else None,
            busy=(said["in_flight"], said["limit"] if same else then.limit) if "in_flight" in said else None,
            chosen=chosen,
        )

    # -- the chain

    def _chain(self, request: RecordedRequest) -> _Known | None:
        model = request.model
        found = self._chains.get(model)
        if found is None:
            if len(self._chains) >= MAX_CHAINS:
                self._chains.clear()
                self._known.clear()
            chain = self.settings.resolve(model) or self._unkeyed_direct(model)
            names = [] if chain is None else [target.name for target in chain.targets if _only_lacks_a_key(target.provider)]
            found = self._chains[model] = chain, frozenset(names)
        chain, missing = found
        return (
            None if chain is None else self._without_keys(model, chain, missing and self._missing_then(request, chain, missing))
        )

    def _missing_then(self, request: RecordedRequest, chain: Chain, missing: frozenset[str]) -> frozenset[str]:
        """Those that the trace says had no key. One that was kept had; and one that is new is taken to get one."""
        lines = self._reader.lines(request.trace)
        self.unkeyed |= {target.provider.name for target in chain.targets if target.name in missing and target.name not in lines}
        return frozenset([name for name in missing if str(lines.get(name, {}).get("skipped", "")).startswith(NO_KEY)])

    def _without_keys(self, model: str, chain: Chain, missing: frozenset[str]) -> _Known:
        known = self._known.get((model, missing))
        if known is None:
            targets = []
            for target in chain.targets:
                provider = target.provider
                disabled = provider.disabled if target.name in missing or not _only_lacks_a_key(provider) else None
                targets.append(replace(target, provider=replace(provider, credentials=(NO_CREDENTIAL,), disabled=disabled)))
                self._state.of(targets[-1]).keys = max(1, len(provider.credentials))
            picky = any(bool(target.quirks.refuse or target.quirks.drop) for target in targets)
            known = _Known(replace(chain, targets=tuple(targets)), {target.name: target for target in chain.targets}, picky)
            self._known[model, missing] = known
        return known

    def _unkeyed_direct(self, model: str) -> Chain | None:
        name, slash, upstream_model = model.partition("/")
        provider = self.settings.providers.get(name) if slash and upstream_model else None
        if provider is None or not _only_lacks_a_key(provider):
            return None
        return Chain("direct", (self.settings.direct(name, upstream_model),), direct=True)

    def _chain_then(self, request: RecordedRequest, chain: Chain) -> Chain | None:
        """The chain as it was when this was recorded, where that is known."""
        if request.config == self.settings.hash:
            return chain
        if self._before is not None and self._before.hash == request.config:
            return self._before.resolve(request.model)
        return None

    def _led_on(self, request: RecordedRequest, chain: Chain) -> frozenset[FailoverCause]:
        """The failures that led on to the next target then, as far as anybody knows."""
        was = self._chain_then(request, chain)
        return DEFAULT_FAILOVER_ON if was is None else was.failover_on


def _only_lacks_a_key(provider: Provider) -> bool:
    return provider.disabled is not None and provider.disabled.startswith(NO_KEY)


def _refusal(target: Target, chain: Chain, lines: Mapping[str, Line]) -> str | None:
    """As the target's own line has it; for one that has none, by what the request is known to hold from those of the others."""
    line = lines.get(target.name)
    there = frozenset(
        [word for each in ([line] if line else lines.values()) for begin in _REFUSALS for word in words_after(each, begin)]
    )
    if names := sorted(target.quirks.refuse & there):
        return f"refuses {', '.join(names)}"
    dropped = sorted(target.quirks.drop & there) if chain.strict else []
    return f"would drop {', '.join(dropped)}" if dropped else None
