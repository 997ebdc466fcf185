"""What a scrape shows of others: each reading in its family, several of one kind folded, and a bound for each kind."""

from collections.abc import Iterable

import pytest

from proxy.core.money import usd_to_nusd
from proxy.telemetry import readings
from proxy.telemetry.families import CACHE_RESULTS, CACHE_STORES, DELIVERY_RESULTS, FAMILIES, PROVIDER_STATES
from proxy.telemetry.readings import BudgetReading, CacheReading, ProviderReading, QuotaReading, RateReading, Readings, samples

pytestmark = pytest.mark.unit

Shown = dict[tuple[str, ...], float]


def shown(given: Readings) -> dict[str, Shown]:
    return {name.removeprefix("tollbridge_"): dict(found) for name, found in samples(given)}


def of_providers(found: Iterable[ProviderReading]) -> dict[str, Shown]:
    return shown(Readings(providers=lambda: found))


def test_a_provider_is_in_one_state_and_in_none_of_the_others() -> None:
    found = of_providers([ProviderReading("groq", "degraded", 2.5)])
    assert found["provider_state"] == {("groq", state): int(state == "degraded") for state in PROVIDER_STATES}
    assert found["provider_check_seconds"] == {("groq",): 2.5}


def test_a_provider_that_did_not_answer_has_no_time() -> None:
    assert of_providers([ProviderReading("groq", "down", None)])["provider_check_seconds"] == {}


def test_budgets_are_in_dollars_and_the_total_is_that_of_all() -> None:
    found = shown(
        Readings(
            budgets=lambda: [
                BudgetReading("total", "", usd_to_nusd(500), usd_to_nusd("12.5")),
                BudgetReading("client", "search", usd_to_nusd(50), 0),
            ]
        )
    )
    assert found["budget_limit_usd"] == {("total", "all"): 500, ("client", "search"): 50}
    assert found["budget_spent_usd"] == {("total", "all"): 12.5, ("client", "search"): 0}


def test_a_quota_of_one_key_names_it_and_a_shared_one_says_all() -> None:
    found = shown(
        Readings(
            quotas=lambda: [
                QuotaReading("groq", None, "requests", "day", 14_400, 31),
                QuotaReading("groq", "0123abcd", "tokens", "month", 500, 499),
            ]
        )
    )
    assert found["quota_limit"] == {("groq", "all", "requests", "day"): 14_400, ("groq", "0123abcd", "tokens", "month"): 500}
    assert found["quota_used"] == {("groq", "all", "requests", "day"): 31, ("groq", "0123abcd", "tokens", "month"): 499}


def test_of_several_rate_limits_the_least_counts() -> None:
    rates = [RateReading("groq", "requests", 20), RateReading("groq", "requests", 3), RateReading("groq", "tokens", 9_000)]
    assert shown(Readings(rates=lambda: rates))["rate_limit_remaining"] == {("groq", "requests"): 3, ("groq", "tokens"): 9_000}


def test_open_alerts_are_told_for_every_severity() -> None:
    found = shown(Readings(alerts_open=lambda: {"error": 2}))["alerts_open"]
    assert found == {("info",): 0, ("warning",): 0, ("error",): 2}


def test_what_the_cache_says_is_bounded_and_folds_the_rest() -> None:
    n = 1000
    told = CacheReading(
        {(f"c{i}", result): 2 for i in range(n) for result in CACHE_RESULTS},
        {f"c{i}": usd_to_nusd(3) for i in range(n)},
        {(f"c{i}", store): (4, 500) for i in range(n) for store in CACHE_STORES},
        faults=5,
    )
    found = {name.removeprefix("tollbridge_cache_"): dict(samples) for name, samples in readings.cached(told)}
    assert sum(map(len, found.values())) == readings.MAX_CACHE_SERIES
    assert sum(found["requests_total"].values()) == 2 * n * len(CACHE_RESULTS)
    assert sum(found["saved_usd_total"].values()) == 3 * n
    assert sum(found["entries"].values()) == 4 * n * len(CACHE_STORES)
    assert sum(found["bytes"].values()) == 500 * n * len(CACHE_STORES)
    assert found["faults_total"] == {(): 5}


def test_each_kind_is_bounded_and_folds_the_rest() -> None:
    n = 1000
    found = shown(
        Readings(
            providers=lambda: [ProviderReading(f"p{i}", "healthy", i / n) for i in range(n)],
            budgets=lambda: [BudgetReading("client", f"c{i}", usd_to_nusd(2), usd_to_nusd(1)) for i in range(n)],
            quotas=lambda: [QuotaReading(f"p{i}", None, "tokens", "day", 2, 1) for i in range(n)],
            rates=lambda: [RateReading(f"p{i}", "tokens", n - i) for i in range(n)],
            deliveries=lambda: {(f"webhook-{i}", result): 1 for i in range(n) for result in DELIVERY_RESULTS},
        )
    )
    assert sum(map(len, found.values())) == readings.MAX_READING_SERIES
    assert sum(found["provider_state"].values()) == n
    assert found["provider_check_seconds"]["other",] == (n - 1) / n
    assert sum(found["budget_limit_usd"].values()) == 2 * n
    assert sum(found["budget_spent_usd"].values()) == n
    assert sum(found["quota_limit"].values()) == 2 * n
    assert sum(found["quota_used"].values()) == n
    assert found["rate_limit_remaining"]["other", "other"] == 1
    assert sum(found["alert_deliveries_total"].values()) == len(DELIVERY_RESULTS) * n


def test_at_the_bound_nothing_is_folded() -> None:
    found = of_providers([ProviderReading(f"p{i}", "healthy", 0.1) for i in range(readings.MAX_PROVIDERS)])
    assert len(found["provider_state"]) == readings.MAX_PROVIDERS * len(PROVIDER_STATES)
    assert ("other", "healthy") not in found["provider_state"]


def test_every_reading_has_as_many_labels_as_its_family() -> None:
    full = Readings(
        providers=lambda: [ProviderReading("p", "down", 1.0)],
        budgets=lambda: [BudgetReading("total", "", 1, 1)],
        quotas=lambda: [QuotaReading("p", None, "tokens", "day", 1, 1)],
        rates=lambda: [RateReading("p", "tokens", 1)],
        deliveries=lambda: {("log", "sent"): 1},
    )
    for name, found in samples(full):
        assert {len(labels) for labels, _ in found} == {len(FAMILIES[name].labels)}
