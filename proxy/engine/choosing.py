"""Which way a request goes: its facts are worked out here, and asked of `routing/`, which decides.

A chain in its own order, asked without wishes, needs none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from proxy.accounting.budgets import EXPECTED_OUTPUT_TOKENS, input_bound
from proxy.accounting.pricing import PriceBook
from proxy.accounting.usage import estimate_input
from proxy.core.chat import ChatRequest
from proxy.core.target import Chain, Target
from proxy.core.usage import Usage
from proxy.core.wishes import NO_WISHES, Wishes
from proxy.routing.choice import Facts, sticky_of
from proxy.routing.chosen import choose
from proxy.routing.deployment import Deployments
from proxy.routing.plan import ChainTrickle, Plan, plan

_BY_SEED = frozenset(("weighted", "fastest"))


def make_plan(
    chain: Chain,
    request: ChatRequest,
    *,
    wishes: Wishes,
    client: str | None,
    deployments: Deployments,
    prices: PriceBook,
    now: float,
    wall: float,
    random: Callable[[], float],
    trickle: ChainTrickle | None,
    turn: int | None = None,
) -> Plan:
    """The plan of a request. `now` is monotonic, `wall` seconds since 1970, for the prices. `turn`: of `round_robin`, None for the next."""
    if chain.strategy == "order" and (wishes is NO_WISHES or (wishes.prefer is None and not wishes.constrain)):
        return plan_in_order(chain, request, deployments, now, trickle)
    facts = facts_of(chain, request, wishes=wishes, client=client, prices=prices, wall=wall, random=random)
    facts.turn = turn
    return choose(chain, deployments, now, facts, trickle=trickle)


def plan_in_order(chain: Chain, request: ChatRequest, deployments: Deployments, now: float, trickle: ChainTrickle | None) -> Plan:
    """Of a chain in its own order, for a request without wishes: nearly all of them, so by position."""
    made = plan(chain, deployments, now, needs=request.needs, trickle=trickle)
    return _without_refusals(made, chain, request.body) if made.picky else made


def facts_of(
    chain: Chain,
    request: ChatRequest,
    *,
    wishes: Wishes,
    client: str | None,
    prices: PriceBook,
    wall: float,
    random: Callable[[], float],
) -> Facts:
    input_tokens, output_tokens = expected_usage(request)
    usage = Usage(input_tokens, output_tokens)

    def expected_cost_nusd(target: Target) -> int | None:
        rates = prices.rates(target, wall)
        return None if rates is None else rates.cost_nusd(usage)

    return Facts(
        request.needs,
        wishes,
        input_tokens,
        output_tokens,
        sticky=sticky_of(request, client) if chain.strategy == "sticky" else "",
        seed=int(random() * 2**32) if chain.strategy in _BY_SEED else 0,
        expected_cost_nusd=expected_cost_nusd,
        context_of=prices.context_window,
        refusal=lambda target: refusal(target, chain, request.body),
    )


def expected_usage(request: ChatRequest) -> tuple[int, int]:
    """Tokens in and out, as they are guessed before anything is sent: an answer takes 1,024, or what is allowed if that is less."""
    input_tokens = min(estimate_input(request.body_bytes), input_bound(request))
    if request.kind == "embeddings":
        return input_tokens, 0
    limit = request.max_output_tokens
    return input_tokens, request.choices * (EXPECTED_OUTPUT_TOKENS if limit is None else min(limit, EXPECTED_OUTPUT_TOKENS))


def refusal(target: Target, chain: Chain, body: Mapping[str, Any]) -> str | None:
    """Why a target's quirks rule it out for this body: it refuses a parameter or, on a strict chain, would drop one."""
    quirks = target.quirks
    names = sorted(name for name in quirks.refuse if body.get(name) and not (name == "n" and body[name] == 1))
    if names:
        return f"refuses {', '.join(names)}"
    if chain.strict and not quirks.drop.isdisjoint(body):
        return f"would drop {', '.join(sorted(quirks.drop & body.keys()))}"
    return None


def _without_refusals(made: Plan, chain: Chain, body: Mapping[str, Any]) -> Plan:
    refused = {c.target.name: reason for c in made.candidates if (reason := refusal(c.target, chain, body)) is not None}
    if not refused:
        return made
    left = [candidate for candidate in made.candidates if candidate.target.name not in refused]
    return replace(
        made,
        candidates=left,
        trace=[{"target": e["target"], "skipped": refused[e["target"]]} if e["target"] in refused else e for e in made.trace],
        lacking=made.lacking if left or made.lacking else next(iter(refused.values())),
    )
