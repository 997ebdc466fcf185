"""What a scrape of the metrics is shown of cards, budgets, quotas and rate limits."""

from __future__ import annotations

from collections.abc import Iterable

from proxy.accounting.states import BudgetState, QuotaState, RateState
from proxy.monitoring.health import ProviderHealth
from proxy.telemetry.readings import BudgetReading, ProviderReading, QuotaReading, RateReading


def of_cards(cards: Iterable[ProviderHealth]) -> list[ProviderReading]:
    return [
        ProviderReading(card.name, card.state, None if card.response_ms is None else card.response_ms / 1000) for card in cards
    ]


def of_budgets(states: Iterable[BudgetState]) -> list[BudgetReading]:
    return [BudgetReading(state.scope, state.name or "", state.limit_nusd, state.spent_nusd) for state in states]


def of_quotas(states: Iterable[QuotaState]) -> list[QuotaReading]:
    return [QuotaReading(state.provider, state.key, state.unit, state.per, state.limit, state.used) for state in states]


def of_rates(states: Iterable[RateState]) -> list[RateReading]:
    return [RateReading(state.provider, state.unit, state.remaining) for state in states]
