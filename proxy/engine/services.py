"""Everything the engine works with, made once by the composition root."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Protocol

from proxy.accounting.budgets import Budgets
from proxy.accounting.journal import Journal
from proxy.accounting.pricing import PriceBook
from proxy.accounting.quotas import Quotas
from proxy.accounting.throttle import Throttle
from proxy.accounting.tokens import TokenCounter
from proxy.core.deadlines import Deadlines
from proxy.core.ports import Clock, RequestHead, UpstreamTransport
from proxy.core.redact import Redactor
from proxy.core.target import Chain, Credential, Provider
from proxy.core.usage import Usage
from proxy.dialects.base import InboundDialect, OutboundDialect
from proxy.engine.cache import Cache
from proxy.engine.exchange import Exchange
from proxy.engine.hedge_cap import HedgeCaps
from proxy.routing.deployment import Deployments
from proxy.routing.plan import ChainTrickle
from proxy.routing.retry_budget import RetryBudgets


class Meter(Protocol):
    """What the engine counts; implemented by the metrics."""

    def request_started(self) -> None: ...
    def request_ended(
        self, chain: str, outcome: str, stream: bool, duration_s: float, first_token_s: float | None, overhead_s: float | None
    ) -> None: ...
    def attempt_ended(
        self,
        provider: str,
        model: str,
        outcome: str,
        duration_s: float,
        first_token_s: float | None = None,
        usage: Usage | None = None,
        cost_nusd: int | None = None,
        stream: bool = True,
    ) -> None: ...
    def failover(self, from_: str, to: str, reason: str) -> None: ...
    def fell_back(self, chain: str) -> None: ...
    def hedged(self, chain: str, result: str) -> None: ...
    def rejected(self, reason: str) -> None: ...
    def answer_measured(self, provider: str, model: str, quality: float, *, low: bool) -> None: ...
    def count(self, name: str) -> None: ...


class Authorizer(Protocol):
    async def authorize(self, provider: Provider, credential: Credential, head: RequestHead, body: bytes) -> RequestHead:
        """The head with what this one call needs to be let in. Raises UpstreamError."""
        ...


class Opinions(Protocol):
    async def opinion(self, judged: Exchange, chain: Chain | None, answer: bytes) -> float | None:
        """What a chain's judge holds of a whole answer, 0 to 1; None where there is no opinion to be had."""
        ...


class Log(Protocol):
    def request(self, fields: dict[str, Any]) -> None: ...
    def warning(self, event: str, **fields: Any) -> None: ...
    def error(self, event: str, **fields: Any) -> None: ...


@dataclass(slots=True)
class Services:
    clock: Clock
    random: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    deadlines: Deadlines
    journal: Journal
    meter: Meter
    log: Log
    redact: Redactor
    deployments: Deployments
    trickle: ChainTrickle
    retry_budgets: RetryBudgets
    prices: PriceBook
    warming: asyncio.Task[None] | None  # reads the price data, from the start on; requests that need a price wait for it
    budgets: Budgets
    quotas: Quotas
    throttle: Throttle
    counter: TokenCounter
    executor: Executor
    transports: Mapping[str, UpstreamTransport]
    authorizer: Authorizer
    inbound: InboundDialect
    outbound: Mapping[str, OutboundDialect]
    embeddings_inbound: InboundDialect
    embedders: Mapping[str, OutboundDialect]  # what speaks a dialect's embeddings; a dialect without has none
    cache: Cache = field(default_factory=Cache)
    hedges: HedgeCaps = field(default_factory=HedgeCaps)
    degraded: bytes = b""  # what does not work while requests go on, as answers say it
    judge: Opinions | None = None  # there where a chain has one
