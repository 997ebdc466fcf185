"""Counting is exact, Prometheus accepts the exposition, the number of series has a bound, the documentation is the table."""

import re
import shutil
import subprocess
import timeit
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proxy.core.errors import BadHttp, BudgetExceeded, ErrorClass, HeadersTooLarge, InvalidJson, RequestTooLarge, UriTooLong
from proxy.core.usage import Usage
from proxy.telemetry.families import (
    ATTEMPT_OUTCOMES,
    DELIVERY_RESULTS,
    EVENTS,
    FAMILIES,
    REASONS,
    REQUEST_OUTCOMES,
    TOKEN_KINDS,
    rejection_reasons,
)
from proxy.telemetry.metrics import MAX_GAUGED_DEPLOYMENTS, MAX_SERIES, DeploymentState, Metrics, Sources
from proxy.telemetry.readings import BudgetReading, ProviderReading, QuotaReading, RateReading, Readings

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent.parent
DOC = ROOT / "docs" / "metrics.md"
USAGE = Usage(input_tokens=100, output_tokens=20, cached_input_tokens=64, reasoning_tokens=5)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(metrics: Metrics) -> Samples:
    body, _ = metrics.render(openmetrics=False)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(body.decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def ours(metrics: Metrics) -> list[str]:
    body, _ = metrics.render(openmetrics=False)
    return [line for line in body.decode().split("\n") if line.startswith("tollbridge_")]


def busy() -> Metrics:
    """One of everything."""
    metrics = Metrics(
        Sources(
            deployments=lambda: [DeploymentState("openai", "gpt-5", "half_open", 0.0, False)],
            ledger_lag_s=lambda: 0.25,
            ledger_errors=lambda: 1,
            config_hash=lambda: "0123456789ab",
            draining=lambda: True,
            redactions=lambda: 2,
            log_lines_dropped=lambda: 3,
            readings=Readings(
                providers=lambda: [ProviderReading("groq", "down", None), ProviderReading("openai", "healthy", 0.25)],
                budgets=lambda: [BudgetReading("total", "", 500_000_000_000, 12_500_000_000)],
                quotas=lambda: [QuotaReading("groq", None, "requests", "day", 14_400, 31)],
                rates=lambda: [RateReading("groq", "requests", 7)],
                alerts_open=lambda: {"error": 1},
                deliveries=lambda: {("webhook-1", "sent"): 2},
            ),
        )
    )
    metrics.request_started()
    metrics.attempt_ended("groq", "llama", "5xx", 0.2)
    metrics.failover("groq/llama", "openai/gpt-5", "5xx")
    metrics.fell_back("smart")
    metrics.attempt_ended("openai", "gpt-5", "ok", 1.5, 0.4, USAGE, 1_250_000)
    metrics.request_ended("smart", "ok", True, 1.8, 0.7, 0.000_3)
    metrics.rejected("invalid_json")
    metrics.count("missing_done")
    metrics.config_reloaded(ok=True)
    return metrics


def far_too_many_readings() -> Readings:
    return Readings(
        providers=lambda: [ProviderReading(f"p{n}", "healthy", 0.1) for n in range(1000)],
        budgets=lambda: [BudgetReading("client", f"c{n}", 2, 1) for n in range(1000)],
        quotas=lambda: [QuotaReading(f"p{n}", "0123abcd", "tokens", "month", 2, 1) for n in range(1000)],
        rates=lambda: [RateReading(f"p{n}", "tokens", 5) for n in range(1000)],
        deliveries=lambda: {(f"webhook-{n}", result): 1 for n in range(1000) for result in DELIVERY_RESULTS},
    )


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_accepts_the_text_format_without_a_word() -> None:
    body, content_type = busy().render(openmetrics=False)
    assert content_type.startswith("text/plain; version=")
    done = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_openmetrics_parses_and_holds_the_same_numbers() -> None:
    metrics = busy()
    body, content_type = metrics.render(openmetrics=True)
    assert content_type.startswith("application/openmetrics-text; version=1.")
    assert body.endswith(b"# EOF\n")
    parsed = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.name.startswith("tollbridge_")
    }
    assert parsed == {key: number for key, number in samples(metrics).items() if key[0].startswith("tollbridge_")}


def test_a_request_is_counted_once_and_in_the_right_buckets() -> None:
    metrics = busy()
    assert value(metrics, "tollbridge_requests_total", chain="smart", outcome="ok", stream="true") == 1
    assert value(metrics, "tollbridge_requests_in_flight") == 0
    labels = {"chain": "smart", "stream": "true"}
    assert value(metrics, "tollbridge_request_duration_seconds_bucket", le="1.0", **labels) == 0
    assert value(metrics, "tollbridge_request_duration_seconds_bucket", le="2.5", **labels) == 1
    assert value(metrics, "tollbridge_request_duration_seconds_bucket", le="+Inf", **labels) == 1
    assert value(metrics, "tollbridge_request_duration_seconds_sum", **labels) == 1.8
    assert value(metrics, "tollbridge_overhead_seconds_bucket", le="0.0002") == 0
    assert value(metrics, "tollbridge_overhead_seconds_bucket", le="0.0004") == 1
    assert value(metrics, "tollbridge_request_first_token_seconds_count", chain="smart") == 1


def test_a_value_on_a_bound_is_inside_it() -> None:
    metrics = Metrics()
    metrics.request_started()
    metrics.request_ended("smart", "ok", False, 0.25, None, None)
    assert value(metrics, "tollbridge_request_duration_seconds_bucket", chain="smart", stream="false", le="0.25") == 1
    assert value(metrics, "tollbridge_request_duration_seconds_bucket", chain="smart", stream="false", le="0.1") == 0


def test_attempts_tokens_and_cost_belong_to_the_deployment() -> None:
    metrics = busy()
    deployment = {"provider": "openai", "model": "gpt-5"}
    assert value(metrics, "tollbridge_attempts_total", outcome="ok", **deployment) == 1
    assert value(metrics, "tollbridge_attempts_total", provider="groq", model="llama", outcome="5xx") == 1
    assert value(metrics, "tollbridge_failovers_total", reason="5xx", **{"from": "groq/llama", "to": "openai/gpt-5"}) == 1
    kinds = {kind: value(metrics, "tollbridge_tokens_total", kind=kind, **deployment) for kind in TOKEN_KINDS}
    assert {kind: count for kind, count in kinds.items() if count} == {
        "input": 100,
        "output": 20,
        "cached_input": 64,
        "reasoning": 5,
    }
    assert value(metrics, "tollbridge_cost_usd_total", **deployment) == 0.00125
    assert value(metrics, "tollbridge_unpriced_requests_total", **deployment) == 0
    assert value(metrics, "tollbridge_attempt_duration_seconds_sum", **deployment) == 1.5


def test_one_call_counts_the_same_as_one_call_each() -> None:
    together, apart = Metrics(), Metrics()
    full = Usage(7, 6, 5, 4, 3, 2, 1)
    together.attempt_ended("openai", "gpt-5", "ok", 1.0, 0.5, full, 42)
    together.attempt_ended("openai", "gpt-5", "ok", 1.0, 0.25, full, None)
    for _ in range(2):
        apart.attempt_ended("openai", "gpt-5", "ok", 1.0)
        apart.tokens("openai", "gpt-5", full)
    apart.first_token("openai", "gpt-5", 0.5)
    apart.first_token("openai", "gpt-5", 0.25)
    apart.cost("openai", "gpt-5", 42)
    apart.unpriced("openai", "gpt-5")
    assert ours(together) == ours(apart)


def test_an_unknown_price_counts_as_unpriced_and_not_as_free() -> None:
    metrics = Metrics()
    metrics.attempt_ended("my-vllm", "qwen3", "ok", 1.0, 0.1, USAGE, None)
    assert value(metrics, "tollbridge_unpriced_requests_total", provider="my-vllm", model="qwen3") == 1
    assert value(metrics, "tollbridge_cost_usd_total", provider="my-vllm", model="qwen3") == 0


def test_rejections_of_an_unknown_kind_are_other() -> None:
    metrics = Metrics()
    metrics.rejected("budget_exceeded")
    metrics.rejected("x" * 1000)
    assert value(metrics, "tollbridge_rejected_total", reason="budget_exceeded") == 1
    assert value(metrics, "tollbridge_rejected_total", reason="other") == 1


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("request_too_large", "size"),
        ("headers_too_large", "size"),
        ("uri_too_long", "size"),
        ("bad_http_request", "smuggle"),
        ("invalid_json", "invalid_json"),
    ],
)
def test_what_is_too_large_or_could_be_misread_is_one_reason_each(code: str, reason: str) -> None:
    metrics = Metrics()
    metrics.rejected(code)
    assert value(metrics, "tollbridge_rejected_total", reason=reason) == 1


def test_several_keys_of_one_target_show_the_worst_of_them() -> None:
    states = [
        DeploymentState("groq", "llama", "closed", 12.5, False),
        DeploymentState("groq", "llama", "open", 0.0, True),
    ]
    metrics = Metrics(Sources(deployments=lambda: states))
    assert value(metrics, "tollbridge_circuit_state", provider="groq", model="llama") == 2
    assert value(metrics, "tollbridge_cooldown_seconds", provider="groq", model="llama") == 12.5
    assert value(metrics, "tollbridge_latched", provider="groq", model="llama") == 1


def test_a_hundred_thousand_names_stay_within_the_bound_and_lose_nothing() -> None:
    states = [DeploymentState("p", f"m{n}", "closed", 0.0, False) for n in range(2 * MAX_GAUGED_DEPLOYMENTS)]
    metrics = Metrics(Sources(deployments=lambda: states, readings=far_too_many_readings()))
    for n in range(100_000):
        metrics.request_started()
        metrics.attempt_ended(f"provider{n % 40}", f"model{n}", ATTEMPT_OUTCOMES[n % len(ATTEMPT_OUTCOMES)], 1.0, 0.1, USAGE, 5)
        metrics.failover(f"from{n}", f"to{n}", "5xx")
        metrics.fell_back(f"chain{n}")
        metrics.rejected(f"reason{n}")
        metrics.request_ended(f"chain{n}", REQUEST_OUTCOMES[n % len(REQUEST_OUTCOMES)], bool(n % 2), 1.0, 0.5, 0.001)
    assert len(ours(metrics)) <= MAX_SERIES
    found = samples(metrics)

    def total(name: str) -> float:
        return sum(number for (sample, _), number in found.items() if sample == name)

    assert total("tollbridge_requests_total") == 100_000
    assert total("tollbridge_attempts_total") == 100_000
    assert total("tollbridge_attempt_duration_seconds_count") == 100_000
    assert total("tollbridge_failovers_total") == 100_000
    assert total("tollbridge_fallbacks_total") == 100_000
    assert total("tollbridge_rejected_total") == 100_000
    assert total("tollbridge_request_duration_seconds_count") == 100_000
    assert found["tollbridge_requests_in_flight", ()] == 0
    remembered = len(metrics._requests) + len(metrics._attempts) + len(metrics._deployments) + len(metrics._failovers)
    assert remembered < MAX_SERIES


def test_what_is_watched_between_scrapes_is_by_chain_and_by_model() -> None:
    metrics = Metrics()
    for chain, outcome, stream, fell_back in [
        ("smart", "ok", True, True),
        ("smart", "ok", False, False),
        ("other", "failed", True, False),
    ]:
        metrics.request_started()
        metrics.request_ended(chain, outcome, stream, 1.0, None, None)
        if fell_back:
            metrics.fell_back(chain)
    metrics.unpriced("my-vllm", "qwen3")
    metrics.attempt_ended("openai", "gpt-5", "ok", 1.0, 0.5, USAGE, 5)
    assert metrics.answered_by_chain() == {"smart": (2, 1)}
    assert metrics.unpriced_by_model() == {("my-vllm", "qwen3"): 1}


def test_a_chain_that_has_room_has_it_for_its_fallbacks_too() -> None:
    metrics = Metrics()
    metrics.request_started()
    metrics.request_ended("smart", "ok", True, 1.0, None, None)
    for number in range(MAX_SERIES):
        metrics.failover(f"a/{number}", "b/x", "5xx")
    metrics.fell_back("smart")
    metrics.fell_back("late")
    assert metrics.answered_by_chain() == {"smart": (1, 1)}
    assert value(metrics, "tollbridge_fallbacks_total", chain="other") == 1


def test_thirty_chains_with_two_targets_each_are_counted_by_name() -> None:
    metrics = Metrics()
    for number in range(30):
        for model in (f"first-{number}", f"second-{number}"):
            metrics.attempt_ended("openai", model, "ok", 1.0, 0.5, USAGE, 5)
        metrics.failover(f"openai/first-{number}", f"openai/second-{number}", "5xx")
        metrics.fell_back(f"chain-{number}")
        for stream in (True, False):
            metrics.request_started()
            metrics.request_ended(f"chain-{number}", "ok", stream, 1.0, 0.5, None)
    assert metrics.answered_by_chain() == {f"chain-{number}": (2, 1) for number in range(30)}
    assert {model for _, model, _ in metrics.attempts()} == {f"{place}-{n}" for place in ("first", "second") for n in range(30)}


def test_answers_that_are_measured_are_counted_by_model_within_the_bound() -> None:
    metrics = Metrics()
    metrics.answer_measured("groq", "llama", 0.25, low=True)
    metrics.answer_measured("groq", "llama", 1.0, low=False)
    assert metrics.measured_by_model() == {("groq", "llama"): (2, 1)}
    tables = metrics.tables()
    assert tables["tollbridge_answers_measured_total"] == [(("groq", "llama", "good"), 1), (("groq", "llama", "low"), 1)]
    assert tables["tollbridge_answer_quality"] == [(("groq", "llama"), [2, 1.25])]
    for number in range(MAX_SERIES):
        metrics.answer_measured("groq", f"m{number}", 1.0, low=False)
    assert len(metrics.measured_by_model()) < MAX_SERIES
    assert sum(measured for measured, _ in metrics.measured_by_model().values()) == MAX_SERIES + 2


def test_an_event_without_a_name_is_other() -> None:
    metrics = Metrics()
    metrics.count("x")
    assert value(metrics, "tollbridge_events_total", event="other") == 1


def test_every_event_that_the_code_counts_has_a_name() -> None:
    counted = {
        name
        for path in (ROOT / "proxy").rglob("*.py")
        for name in re.findall(r"(?:meter|metrics)\.count\(\s*\"(\w+)\"\s*[,)]", path.read_text(encoding="utf-8"))
    }
    assert counted <= set(EVENTS)


def test_hostile_label_values_are_escaped() -> None:
    metrics = Metrics()
    metrics.attempt_ended('a"b\\c\nd', "m", "ok", 1.0)
    assert value(metrics, "tollbridge_attempts_total", provider='a"b\\c\nd', model="m", outcome="ok") == 1


def test_every_family_of_the_table_is_exposed_and_nothing_else_of_ours() -> None:
    body, _ = busy().render(openmetrics=False)
    exposed = dict(re.findall(r"^# TYPE (tollbridge_\S+) (\S+)$", body.decode(), flags=re.MULTILINE))
    assert exposed == {family.name: family.kind for family in FAMILIES.values()}


def test_the_documentation_is_the_table() -> None:
    rows = re.findall(
        r"^\| `(tollbridge_\w+)` \| (\w+) \| (.*?) \| (.+) \|$", DOC.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    documented = [(name, kind, tuple(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, meaning in rows]
    assert documented == [(family.name, family.kind, family.labels, family.help) for family in FAMILIES.values()]


def test_the_documented_events_are_those_of_the_code() -> None:
    section = DOC.read_text(encoding="utf-8").split("## Events")[1].split("##")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)) == sorted(EVENTS)


def test_the_documented_queries_ask_for_metrics_that_there_are() -> None:
    asked = set(re.findall(r"tollbridge_\w+", DOC.read_text(encoding="utf-8")))
    exposed = set(FAMILIES)
    for family in FAMILIES.values():
        if family.kind in ("histogram", "summary"):
            exposed |= {f"{family.name}_{suffix}" for suffix in ("bucket", "sum", "count")}
    assert asked <= exposed


def test_the_closed_lists_follow_the_errors() -> None:
    assert set(ATTEMPT_OUTCOMES) == {"ok", *ErrorClass}
    codes = {cls.code for cls in (InvalidJson, BudgetExceeded, RequestTooLarge, HeadersTooLarge, UriTooLong, BadHttp)}
    assert set(REASONS) < codes
    assert {"invalid_json", "budget_exceeded", "size", "smuggle"} <= rejection_reasons()
    assert not rejection_reasons() & set(REASONS)


@pytest.mark.performance
def test_counting_a_request_takes_about_a_microsecond() -> None:
    metrics = Metrics()

    def one() -> None:
        metrics.request_started()
        metrics.attempt_ended("openai", "gpt-5", "ok", 1.5, 0.4, USAGE, 1_250_000)
        metrics.request_ended("smart", "ok", True, 1.8, 0.7, 0.000_3)

    assert min(timeit.repeat(one, number=20_000, repeat=10)) / 20_000 < 3e-6
