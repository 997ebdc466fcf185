"""Whether a request may begin: the chain that it names, whether its client may use that, and what is held of budgets for it."""

from __future__ import annotations

import asyncio

from proxy.accounting.budgets import Reserved, request_bound_nusd
from proxy.config.settings import ClientSettings
from proxy.core.errors import ModelNotAllowed, ModelNotFound
from proxy.core.target import Chain
from proxy.engine.continuation import MAX_CONTINUATIONS
from proxy.engine.exchange import Exchange
from proxy.engine.onward import HOLD_SLACK_S
from proxy.engine.services import Services

PRICES_WAIT_S = 5.0  # for the price data, which is read in the background from the start on


async def prices_read(services: Services, exchange: Exchange) -> None:
    """In the first second of a first start the price data may not be read yet: only a target that needs it waits."""
    chain = exchange.settings.resolve(exchange.request.model)
    wall = services.clock.wall()
    targets = chain.targets if chain is not None else ()
    needed = any(target.provider.enabled and services.prices.rates(target, wall) is None for target in targets)
    if needed and services.warming is not None:
        await asyncio.wait([services.warming], timeout=PRICES_WAIT_S)


def not_by_name(services: Services, exchange: Exchange, chain: Chain | None) -> Chain:
    """What a model means that is no chain's own name: `chain`, unless the name is a secret. Raises ModelNotFound."""
    request = exchange.request
    # a key where the model belongs is no model's name: it stands in no row, and no provider sees it
    shown = services.redact.exact(request.model)
    if shown != request.model:
        request.model, chain = shown, None
    if chain is None:
        raise ModelNotFound(_no_such_model(request.model), param="model")
    return chain


def check_allowed(client: ClientSettings, model: str, chain: Chain) -> None:
    """Raises ModelNotAllowed."""
    if client.is_limited and not client.may_use(model, None if chain.direct else chain.name):
        raise ModelNotAllowed(_not_allowed(model, client), param="model")


def held_for(services: Services, exchange: Exchange, chain: Chain) -> Reserved | None:
    """The most that the request can cost, held by every budget that it falls under. None: it falls under none. Raises BudgetExceeded."""
    tags = exchange.tags
    accounts = services.budgets.of(exchange.client.name if exchange.client is not None else None, tags.department, tags.agent)
    if not accounts:
        return None
    usable = [target for target in chain.targets if target.provider.enabled and target.disabled is None]
    wall = services.clock.wall()
    bound = request_bound_nusd(exchange.request, [(target, services.prices.rates(target, wall)) for target in usable])
    if bound is not None:
        bound *= _answers(chain, exchange.request.stream)
    total_s = max([target.timeouts.total_s for target in usable], default=0.0)
    return services.budgets.reserve(accounts, bound, exchange.received + total_s + HOLD_SLACK_S)


def _answers(chain: Chain, stream: bool) -> int:
    """How many attempts of one request may each be billed for an answer: what is held of a budget is enough for all of them."""
    if not stream:
        return 1 if chain.quality is None else 2
    return 1 + (chain.hedge is not None) + (0 if chain.on_break == "error" else MAX_CONTINUATIONS)


def _not_allowed(model: str, client: ClientSettings) -> str:
    chains = [] if client.chains is None else [", ".join(sorted(client.chains)) or "no chain"]
    names = [] if client.models is None else [f"names like {', '.join(client.models)}" if client.models else "no model"]
    return f"This key may not use the model `{model}`: it may use {' and of these '.join([*chains, *names])}."


def _no_such_model(model: str) -> str:
    return f"There is no model `{model}`: name a chain of the configuration, or a provider and its model as provider/model."
