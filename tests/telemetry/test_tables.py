"""Counts of several workers become one: what adds up is added, what does not is said by a rule, and nothing grows without a bound."""

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proxy.core.usage import Usage
from proxy.telemetry.families import FAMILIES
from proxy.telemetry.metrics import DeploymentState, Metrics, Sources
from proxy.telemetry.tables import (
    GAUGES,
    LEAD_COUNTERS,
    MAX_SERIES,
    Tables,
    carried_on,
    continued,
    is_shared,
    merge,
    numbers,
    pack,
    unpack,
)

pytestmark = pytest.mark.unit


def worked(times: int, *, circuit: str = "closed", hash_: str = "aa", draining: bool = False) -> Metrics:
    """As many requests of each kind; one is in flight."""
    metrics = Metrics(
        Sources(
            deployments=lambda: [DeploymentState("openai", "gpt-5", circuit, 3.0, False)],
            config_hash=lambda: hash_,
            draining=lambda: draining,
            redactions=lambda: times,
            ledger_lag_s=lambda: 7.0,
            restarts=lambda: {"worker": times},
        )
    )
    for _ in range(times):
        metrics.request_started()
        metrics.attempt_ended("openai", "gpt-5", "ok", 1.5, 0.4, Usage(100, 20), 1_250_000)
        metrics.request_ended("smart", "ok", True, 1.8, 0.7, 0.000_3)
        metrics.rejected("invalid_json")
        metrics.count("missing_done")
        metrics.failover("a/b", "openai/gpt-5", "5xx")
        metrics.fell_back("smart")
        metrics.config_reloaded(ok=True)
    metrics.request_started()
    return metrics


def shown(tables: Tables) -> dict[str, float]:
    """As Prometheus reads it: `name{label=value,…}` -> value."""
    metrics = Metrics(Sources(together=lambda _: tables))
    body, _ = metrics.render(openmetrics=False)
    return {
        sample.name + "{" + ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items())) + "}": sample.value
        for family in parse_text(body.decode())
        for sample in family.samples
        if sample.name.startswith("tollbridge_")
    }


def told(metrics: Metrics) -> Tables:
    """What went to another process and came back."""
    tables: Tables = unpack(pack(metrics.tables()))["tables"]
    return tables


def test_every_gauge_says_what_is_to_be_made_of_several() -> None:
    assert set(GAUGES) == {family.name for family in FAMILIES.values() if family.kind == "gauge"}
    assert all(FAMILIES[name].kind == "counter" for name in LEAD_COUNTERS)


def test_what_is_counted_adds_up() -> None:
    both = shown(merge(worked(3).tables(), told(worked(4))))

    assert both["tollbridge_requests_total{chain=smart,outcome=ok,stream=true}"] == 7
    assert both["tollbridge_attempts_total{model=gpt-5,outcome=ok,provider=openai}"] == 7
    assert both["tollbridge_request_duration_seconds_bucket{chain=smart,le=2.5,stream=true}"] == 7
    assert both["tollbridge_request_duration_seconds_bucket{chain=smart,le=1.0,stream=true}"] == 0
    assert both["tollbridge_request_duration_seconds_count{chain=smart,stream=true}"] == 7
    assert both["tollbridge_request_duration_seconds_sum{chain=smart,stream=true}"] == pytest.approx(7 * 1.8)
    assert both["tollbridge_attempt_duration_seconds_count{model=gpt-5,provider=openai}"] == 7
    assert both["tollbridge_tokens_total{kind=input,model=gpt-5,provider=openai}"] == 700
    assert both["tollbridge_cost_usd_total{model=gpt-5,provider=openai}"] == pytest.approx(7 * 0.00125)
    assert both["tollbridge_redactions_total{}"] == 7
    assert both["tollbridge_requests_in_flight{}"] == 2


def test_a_gauge_is_what_its_meaning_makes_of_it() -> None:
    lead, other = worked(1), worked(1, circuit="open", hash_="bb", draining=True)
    other.config_reloaded(ok=False)
    both = shown(merge(lead.tables(), told(other)))

    assert both["tollbridge_circuit_state{model=gpt-5,provider=openai}"] == 2
    assert both["tollbridge_config_last_reload_successful{}"] == 0
    assert both["tollbridge_draining{}"] == 1
    assert {key for key in both if key.startswith("tollbridge_config_info")} == {
        "tollbridge_config_info{hash=aa}",
        "tollbridge_config_info{hash=bb}",
    }


def test_what_the_lead_says_for_all_is_not_added() -> None:
    both = shown(merge(worked(3).tables(), told(worked(4))))

    assert both["tollbridge_ledger_lag_seconds{}"] == 7
    assert both["tollbridge_config_reloads_total{result=ok}"] == 3
    assert both["tollbridge_worker_restarts_total{process=worker}"] == 3


def test_a_successor_goes_on_counting_and_holds_nothing() -> None:
    before = carried_on(told(worked(3)))
    assert all(FAMILIES[name].kind != "gauge" for name in before)
    now = shown(continued(worked(1).tables(), before))

    assert now["tollbridge_requests_total{chain=smart,outcome=ok,stream=true}"] == 4
    assert now["tollbridge_config_reloads_total{result=ok}"] == 4
    assert now["tollbridge_requests_in_flight{}"] == 1
    assert now["tollbridge_worker_restarts_total{process=worker}"] == 1  # the supervisor's own count, which did not die


def test_series_have_a_bound_however_many_workers_say_something_else() -> None:
    tables = [
        {"tollbridge_fallbacks_total": [((f"chain {worker}-{n}",), 1.0) for n in range(MAX_SERIES // 2)]} for worker in range(4)
    ]
    merged = merge(tables[0], *tables[1:])  # type: ignore[arg-type]
    found = dict(numbers(merged, "tollbridge_fallbacks_total"))

    assert len(found) <= MAX_SERIES + 1
    assert sum(found.values()) == 2 * MAX_SERIES
    assert found["other",] > 0


@pytest.mark.parametrize(
    "content",
    [None, b"", b"{", b"[]", b"{}", b'{"tables": 1}', b'{"tables": {"x": [[1]]}}', b'{"tables": {"x": 5}}', b"\xff"],
    ids=str,
)
def test_what_cannot_be_read_counts_nothing(content: bytes | None) -> None:
    assert unpack(content) == {"tables": {}}


def test_a_family_that_is_unknown_here_is_passed_over() -> None:
    assert merge({}, {"tollbridge_of_another_release_total": [((), 1.0)]}) == {}
    assert is_shared("tollbridge_requests_total")
