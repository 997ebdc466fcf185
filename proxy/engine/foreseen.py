"""Which way a request would go, without sending anything: the plan that the relay would make of it at this moment, and why.

Asked of a proxy that runs it goes by what that knows of its targets; nothing that it knows is changed by being asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from proxy.accounting.pricing import PriceBook
from proxy.config.settings import ClientSettings, Settings
from proxy.core.chat import ChatRequest
from proxy.core.errors import InvalidValue, ModelNotAllowed, ModelNotFound
from proxy.core.money import nusd_to_usd
from proxy.core.target import Chain, Target
from proxy.core.usage import Usage
from proxy.core.wishes import wishes_of
from proxy.dialects.base import InboundDialect
from proxy.dialects.openai_embeddings import OpenAIEmbeddingsInbound
from proxy.dialects.openai_request import OpenAIChatInbound
from proxy.engine.choosing import expected_usage, make_plan
from proxy.routing.choice import first_token
from proxy.routing.deployment import Deployments
from proxy.routing.plan import Plan, Row, layout_of

MAX_HEADERS = 64
# what is asked for where only a model is named
SHORT_REQUEST: Mapping[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}


@dataclass(frozen=True, slots=True)
class Question:
    """`request`: a body as it would be sent. `headers`: those of it that the choice depends on, lower-case. `client`: who would send it."""

    request: Mapping[str, Any] = field(default_factory=lambda: SHORT_REQUEST)
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    client: str | None = None


def read_question(told: Mapping[str, Any]) -> Question:
    """Of `{"model"?, "request"?, "headers"?, "client"?}`; `model` takes the place of the request's own. Raises InvalidValue."""
    if unknown := sorted(told.keys() - {"model", "request", "headers", "client"}):
        raise InvalidValue(f"`{unknown[0]}` is not known here: model, request, headers and client are.", param=unknown[0])
    model, request, headers, client = (told.get(name) for name in ("model", "request", "headers", "client"))
    if model is not None and not isinstance(model, str):
        raise InvalidValue("`model` must be the name of one.", param="model")
    if client is not None and not isinstance(client, str):
        raise InvalidValue("`client` must be the name of one.", param="client")
    if request is not None and not isinstance(request, dict):
        raise InvalidValue("`request` must be the body of a request, an object.", param="request")
    body = dict(SHORT_REQUEST if request is None else request)
    if model is not None:
        body["model"] = model
    return Question(body, _headers({} if headers is None else headers), client)


def _headers(told: object) -> dict[bytes, bytes]:
    if not isinstance(told, dict) or len(told) > MAX_HEADERS or not all(isinstance(value, str) for value in told.values()):
        raise InvalidValue(f"`headers` must be an object of at most {MAX_HEADERS} strings.", param="headers")
    return {name.lower().encode("latin-1", "replace"): value.encode("latin-1", "replace") for name, value in told.items()}


def foresee(
    question: Question,
    settings: Settings,
    *,
    deployments: Deployments,
    prices: PriceBook,
    now: float,
    wall: float,
    random: Callable[[], float],
) -> dict[str, Any]:
    """The plan as JSON, docs/api.md has its fields. Raises the CallerError that the request would be answered with, but for one whose
    targets are all ruled out: that is told in `refused`.

    `now` is monotonic, `wall` seconds since 1970.
    """
    body = question.request
    inbound: InboundDialect = OpenAIEmbeddingsInbound() if "input" in body and "messages" not in body else OpenAIChatInbound()
    request = inbound.decode_request(orjson.dumps(body))
    wishes = wishes_of(question.headers)
    chain = settings.resolve(request.model)
    if chain is None:
        raise ModelNotFound(
            f"There is no model `{request.model}`: name a chain of the configuration, or a provider and its model as provider/model.",
            param="model",
        )
    _check_client(_client(settings, question.client), request, chain)
    layout = layout_of(chain, deployments)
    rotation = layout.turn
    plan = make_plan(
        chain,
        request,
        wishes=wishes,
        client=question.client,
        deployments=deployments,
        prices=prices,
        now=now,
        wall=wall,
        random=random,
        trickle=None,
        turn=layout.served + 1,
    )
    layout.turn = rotation  # the next request's keys are those that it would have had
    usage = Usage(*expected_usage(request))
    return {
        "model": request.model,
        "chain": chain.name,
        "strategy": chain.strategy,
        "config": settings.hash,
        "order": list(dict.fromkeys(candidate.target.name for candidate in plan.candidates)),
        "refused": None if plan.candidates else plan.lacking,
        "wait_s": None if plan.candidates or plan.soonest_s is None else round(plan.soonest_s, 3),
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "asked": plan.asked,
        "trace": plan.trace,
        "targets": [_target(row, plan, prices, usage, wall) for row in layout.rows],
        "options": _options(chain, request),
    }


def _client(settings: Settings, name: str | None) -> ClientSettings | None:
    if name is None:
        return None
    client = settings.clients.get(name)
    if client is None:
        raise InvalidValue(f"There is no client {name!r} in the configuration.", param="client")
    return client


def _check_client(client: ClientSettings | None, request: ChatRequest, chain: Chain) -> None:
    if client is not None and client.is_limited and not client.may_use(request.model, None if chain.direct else chain.name):
        raise ModelNotAllowed(f"{client.name} may not use the model `{request.model}`.", param="model")


def _target(row: Row, plan: Plan, prices: PriceBook, usage: Usage, wall: float) -> dict[str, Any]:
    """What is known of it, whatever the strategy goes by."""
    target: Target = row.target
    rates = prices.rates(target, wall)
    cost_nusd = 0 if target.answer is not None else None if rates is None else rates.cost_nusd(usage)
    first_token_ms, source = first_token(target, [candidate.deployment for candidate in row.candidates])
    return {
        "target": target.name,
        "keys": len(row.candidates),
        "usable_keys": sum(candidate.target is target for candidate in plan.candidates),
        "expected_cost_usd": None if cost_nusd is None else nusd_to_usd(cost_nusd),
        "first_token_ms": first_token_ms,
        "first_token_from": source,
        "context": prices.context_window(target),
    }


def _options(chain: Chain, request: ChatRequest) -> dict[str, Any]:
    """What may happen besides trying the targets in order."""
    hedge, quality, cache = chain.hedge, chain.quality, chain.cache
    return {
        "cache_ttl_s": cache.ttl_s if cache is not None and cache.enabled else None,
        "quality_min": quality.min if quality is not None and not request.stream and request.kind == "chat" else None,
        "hedged": hedge is not None and request.stream,
        "on_break": chain.on_break if request.stream else None,
    }
