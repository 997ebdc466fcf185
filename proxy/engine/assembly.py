"""`Services`, put together from what a world is made of: one that runs (`runtime.py`), or one that is simulated (`simulation/`).

Whatever the engine works with that does not depend on the world is made here, so that both have the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

from proxy.accounting.journal import Journal
from proxy.accounting.pricing import PriceBook
from proxy.accounting.spending import Spending
from proxy.accounting.tokens import TokenCounter
from proxy.core.deadlines import Deadlines
from proxy.core.ports import Clock, UpstreamTransport
from proxy.core.redact import Redactor
from proxy.core.shared import ALONE, Shared
from proxy.dialects.openai_embeddings import OpenAIEmbeddingsInbound
from proxy.dialects.openai_request import OpenAIChatInbound
from proxy.engine.formats import chats, embedders
from proxy.engine.services import Authorizer, Log, Meter, Services
from proxy.routing.deployment import Deployments
from proxy.routing.plan import ChainTrickle
from proxy.routing.retry_budget import RetryBudgets
from proxy.upstream.static import StaticTransport


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What differs between one proxy and another: time and chance, where records go, who counts, and who is at the other end."""

    clock: Clock
    random: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    journal: Journal
    meter: Meter
    log: Log
    redact: Redactor
    spending: Spending
    prices: PriceBook
    executor: Executor
    transports: Mapping[str, UpstreamTransport]
    authorizer: Authorizer
    shared: Shared = ALONE


def assemble(world: World) -> Services:
    spending, meter = world.spending, world.meter

    def forbidden() -> None:
        meter.count("forbidden_fields")

    services = Services(
        clock=world.clock,
        random=world.random,
        sleep=world.sleep,
        deadlines=Deadlines(),
        journal=world.journal,
        meter=meter,
        log=world.log,
        redact=world.redact,
        deployments=Deployments(world.random, allowances=spending.allowances, shared=world.shared),
        trickle=ChainTrickle(),
        retry_budgets=RetryBudgets(),
        prices=world.prices,
        warming=None,
        budgets=spending.budgets,
        quotas=spending.quotas,
        throttle=spending.throttle,
        counter=TokenCounter(),
        executor=world.executor,
        transports={**world.transports, "static": StaticTransport()},
        authorizer=world.authorizer,
        inbound=OpenAIChatInbound(forbidden),
        outbound=chats(),
        embeddings_inbound=OpenAIEmbeddingsInbound(forbidden),
        embedders=embedders(),
    )
    spending.throttle.learned = lambda now: services.deployments.told_limits(now, world.clock.wall())
    return services
