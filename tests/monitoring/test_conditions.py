"""What is worth an alert: each kind at its threshold and just below it, the file's severities, what cannot be seen."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from proxy.accounting.states import BudgetState, QuotaState, RateState
from proxy.config.settings import AlertSettings, Settings
from proxy.core.alerts import ALERT_KINDS, Levels
from proxy.core.limits import HealthSettings
from proxy.core.money import usd_to_nusd
from proxy.core.target import Chain, Credential, Provider, Secret, Target
from proxy.monitoring.conditions import AnswerFlow, ChainFlow, Condition, Observation, observe, rate_key, seconds_to_limit, unseen
from proxy.monitoring.live import Seen
from tests.engine.harness import settings as settings_of

pytestmark = pytest.mark.unit

NOVEMBER, DECEMBER = 1_793_491_200.0, 1_796_083_200.0  # 2026-11-01, 2026-12-01, both UTC


@dataclass(frozen=True)
class Card:
    name: str = "groq"
    state: str = "healthy"
    reason: str | None = None
    response_ms: float | None = 80.0
    key_valid: bool | None = True
    targets: list[dict[str, Any]] = field(default_factory=list)


def made_settings(**alerts: Any) -> Settings:
    keys = tuple(Credential(name, Secret(f"fake-{name}")) for name in ("0a0a0a0a", "0b0b0b0b"))
    groq = Provider("groq", "openai", "http://groq", keys[:1], health=HealthSettings(slow_s=2.0))
    openai = Provider("openai", "openai", "http://openai", keys)
    made = settings_of(Chain("smart", (Target(groq, "llama", "llama"), Target(openai, "gpt-5", "gpt-5"))))
    return replace(made, alerts=AlertSettings(**alerts))


def budget(
    spent: str, *, limit: str = "50", name: str | None = "search", hard: bool = True, scope: Any = "client"
) -> BudgetState:
    return BudgetState(scope, name, usd_to_nusd(limit), usd_to_nusd(spent), 0, "month", hard, NOVEMBER, DECEMBER)


def quota(
    used: int, *, key: str | None = None, limit: int = 14_400, per: Any = "day", resets: float | None = DECEMBER
) -> QuotaState:
    return QuotaState("groq", key, "requests", limit, used, 0, per, "UTC", 0, NOVEMBER, resets)


def rate(
    remaining: int, per_minute: float | None, *, source: Any = "learned", resets_s: float | None = 3600.0, **rest: Any
) -> RateState:
    given = {"provider": "groq", "key": "0a0a0a0a", "model": None, "unit": "requests", "limit": 1000} | rest
    return RateState(
        used=given["limit"] - remaining, remaining=remaining, resets_s=resets_s, source=source, per_minute=per_minute, **given
    )


def traffic(**rest: Any) -> dict[str, Seen]:
    quiet = Seen(0, 0, 0.0, None, 0, None, 0)
    return {"groq": quiet._replace(**rest)}


def tokens(now_ms: float, usual_ms: float, *, first_tokens: int = 5, usual_first_tokens: int = 20) -> dict[str, Seen]:
    return traffic(first_token_ms=now_ms, usual_ms=usual_ms, first_tokens=first_tokens, usual_first_tokens=usual_first_tokens)


def seen(observation: Observation, **alerts: Any) -> list[tuple[str, str, str]]:
    return [(c.kind, c.subject, c.severity) for c in observe(observation, made_settings(**alerts))]


def the_one(observation: Observation, **alerts: Any) -> Condition:
    (condition,) = observe(observation, made_settings(**alerts))
    return condition


RISING = rate(300, 700.0, source="file", resets_s=60.0)

HOLDS = {
    "down": (Observation(cards=[Card(state="down", reason="connect refused")]), ("provider_down", "groq", "error")),
    "slow": (Observation(cards=[Card(state="degraded", response_ms=2001)]), ("provider_slow", "groq", "warning")),
    "a bad key": (
        Observation(cards=[Card(state="down", reason="the key is refused: 401", key_valid=False)]),
        ("key_invalid", "groq", "error"),
    ),
    "no credit": (
        Observation(cards=[Card(state="down", targets=[{"model": "m", "latched": "no quota or credit left"}], reason="bad key")]),
        ("key_invalid", "groq", "error"),
    ),
    "an unknown model": (
        Observation(
            cards=[Card(state="down", reason="model not found: m", targets=[{"model": "m", "latched": "model not found"}])]
        ),
        ("model_unknown", "groq/m", "warning"),
    ),
    "a budget": (Observation(budgets=[budget("40")]), ("budget", "client search", "warning")),
    "the total budget": (Observation(budgets=[budget("40", name=None, scope="total")]), ("budget", "total", "warning")),
    "a quota": (Observation(quotas=[quota(10_800)]), ("quota", "groq requests per day", "warning")),
    "a key's quota": (
        Observation(quotas=[quota(10_800, key="0a0a0a0a", per="once", resets=None)]),
        ("quota", "groq requests, key 0a0a0a0a", "warning"),
    ),
    "a learned limit": (Observation(rates=[rate(50, 10.0)]), ("rate_limit", "groq requests", "warning")),
    "one of several keys' limit": (
        Observation(rates=[rate(50, 10.0, provider="openai", model="gpt-5", unit="tokens")]),
        ("rate_limit", "openai/gpt-5 tokens, key 0a0a0a0a", "warning"),
    ),
    "a rate that grows": (
        Observation(rates=[RISING], rises={rate_key(RISING): 1.0}),
        ("rate_limit", "groq requests", "warning"),
    ),
    "a fallback": (Observation(chains=[ChainFlow("smart", 5, 1)]), ("fallback_used", "smart", "info")),
    "errors": (Observation(traffic=traffic(attempts=20, failed=1)), ("error_rate", "groq", "warning")),
    "many errors": (Observation(traffic=traffic(attempts=10, failed=2)), ("error_rate", "groq", "error")),
    "a late first token": (Observation(traffic=tokens(600, 300)), ("first_token", "groq", "warning")),
    "a very late first token": (Observation(traffic=tokens(1200, 300)), ("first_token", "groq", "error")),
    "low answers": (
        Observation(
            answers=[AnswerFlow("groq", "llama", 10, 2), AnswerFlow("openai", "gpt-5", 9, 9), AnswerFlow("xai", "grok", 20, 3)]
        ),
        ("quality", "groq/llama", "warning"),
    ),
    "no price": (Observation(unpriced=[("my-vllm", "qwen3")]), ("unpriced_model", "my-vllm/qwen3", "warning")),
    "lag": (Observation(ledger_lag_s=30.0), ("ledger_lag", "ledger", "warning")),
    "much lag": (Observation(ledger_lag_s=300.0), ("ledger_lag", "ledger", "error")),
    "a full disk": (Observation(ledger_problem="The ledger's disk is full."), ("ledger_writes", "ledger", "error")),
    "a database made anew": (Observation(ledger_remade=True), ("ledger_corrupt", "ledger", "error")),
    "a broken file": (Observation(config_problem="providers.yaml:3:1: no"), ("config_reload", "configuration", "error")),
}


@pytest.mark.parametrize(("observation", "expected"), HOLDS.values(), ids=HOLDS)
def test_what_holds_is_told(observation: Observation, expected: tuple[str, str, str]) -> None:
    assert seen(observation) == [expected]
    assert the_one(observation).message.endswith((".", "no"))


def test_every_kind_is_in_the_table_above() -> None:
    kinds = {expected[0] for _, expected in HOLDS.values()} | {"failover_rate"}
    assert kinds == set(ALERT_KINDS)


HOLDS_NOT = {
    "healthy": Observation(cards=[Card()]),
    "unknown": Observation(cards=[Card(state="unknown", response_ms=None, key_valid=None)]),
    "disabled": Observation(cards=[Card(state="disabled", reason="no key", key_valid=False)]),
    "as quick as it may be": Observation(cards=[Card(response_ms=2000)]),
    "slow, but not of this configuration": Observation(cards=[Card(name="gone", response_ms=9000)]),
    "a budget below": Observation(budgets=[budget("39.999999999")]),
    "a budget of nothing": Observation(budgets=[budget("0", limit="0")]),
    "a quota below": Observation(quotas=[quota(10_799)]),
    "a limit that is whole again before": Observation(rates=[rate(50, 10.0, resets_s=299.0)]),
    "a limit too far off": Observation(rates=[rate(51, 10.0)]),
    "a limit and no rate": Observation(rates=[rate(1, None), rate(0, 0.0)]),
    "a steady rate below the file's limit": Observation(rates=[RISING]),
    "a steep rise far below the limit": Observation(
        rates=[rate(900, 100.0, source="file")], rises={rate_key(rate(900, 100.0, source="file")): 50.0}
    ),
    "no fallback": Observation(chains=[ChainFlow("smart", 500, 0)]),
    "errors below": Observation(traffic=traffic(attempts=100, failed=4)),
    "too few attempts": Observation(traffic=traffic(attempts=9, failed=9)),
    "a first token below": Observation(traffic=tokens(599, 300)),
    "too few first tokens": Observation(traffic=tokens(9000, 300, first_tokens=4)),
    "nothing usual yet": Observation(traffic=tokens(9000, 300, usual_first_tokens=19)),
    "little lag": Observation(ledger_lag_s=29.9),
}


@pytest.mark.parametrize("observation", HOLDS_NOT.values(), ids=HOLDS_NOT)
def test_what_does_not_hold_is_not(observation: Observation) -> None:
    assert seen(observation) == []


@pytest.mark.parametrize(
    ("answered", "fallbacks", "severity"),
    [(9, 9, None), (10, 1, "warning"), (100, 9, None), (10, 4, "warning"), (10, 5, "error")],
)
def test_the_failover_rate_is_of_a_chains_answers(answered: int, fallbacks: int, severity: str | None) -> None:
    found = seen(Observation(chains=[ChainFlow("smart", answered, fallbacks)]))
    assert found[0] == ("fallback_used", "smart", "info")
    assert found[1:] == ([] if severity is None else [("failover_rate", "smart", severity)])


def test_a_provider_with_one_bad_key_of_two_whose_circuits_are_open_has_both() -> None:
    card = Card(state="down", reason="circuit open", key_valid=False)
    assert [kind for kind, _, _ in seen(Observation(cards=[card]))] == ["provider_down", "key_invalid"]


def test_every_threshold_that_is_crossed_is_a_condition_and_the_last_is_an_error() -> None:
    found = observe(Observation(quotas=[quota(14_400)]), made_settings())
    assert [(c.threshold, c.severity, c.since) for c in found] == [
        (0.75, "warning", NOVEMBER),
        (0.9, "warning", NOVEMBER),
        (0.95, "error", NOVEMBER),
    ]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            budget("40.009"),
            "80 % of the budget of client search is spent: $40.00 of $50.00 per month; it begins anew at 2026-12-01T00:00:00Z.",
        ),
        (
            budget("50"),
            (
                "100 % of the budget of client search is spent: $50.00 of $50.00 per month; it begins anew at 2026-12-01T00:00:00Z. "
                "What would go over it is refused with 429 budget_exceeded."
            ),
        ),
        (
            budget("51", scope="provider", name="groq"),
            (
                "102 % of the budget of provider groq is spent: $51.00 of $50.00 per month; it begins anew at 2026-12-01T00:00:00Z. "
                "What would go over it is sent to other targets."
            ),
        ),
        (
            budget("49.999999", hard=False, name=None, scope="total"),
            "99 % of the total budget is spent: $49.99 of $50.00 per month; it begins anew at 2026-12-01T00:00:00Z.",
        ),
    ],
)
def test_a_budgets_message_says_what_is_spent_and_what_follows(state: BudgetState, message: str) -> None:
    assert observe(Observation(budgets=[state]), made_settings())[0].message == message


def test_a_quotas_message_says_when_it_begins_anew_if_ever() -> None:
    assert the_one(Observation(quotas=[quota(10_800)])).message == (
        "75 % of the quota of groq requests per day is used: 10,800 of 14,400; it begins anew at 2026-12-01T00:00:00Z."
    )
    assert the_one(Observation(quotas=[quota(4_000, limit=5_000, per="once", resets=None)])).message == (
        "80 % of the quota of groq requests is used: 4,000 of 5,000; it does not begin anew."
    )


@pytest.mark.parametrize(
    ("state", "rise", "seconds"),
    [
        (rate(100, 50.0), 0.0, 120.0),
        (rate(100, 50.0, resets_s=120.0), 0.0, None),
        (rate(100, 50.0, resets_s=None), 0.0, None),
        (rate(0, 50.0), 0.0, 0.0),
        (rate(300, 700.0, source="file"), 2.0, 150.0),
        (rate(300, 700.0, source="file"), -2.0, None),
        (rate(50, 1000.0, source="file"), 0.0, 3.0),
        (rate(501, 499.0, source="file"), 9.0, None),
    ],
)
def test_when_a_limit_will_be_hit(state: RateState, rise: float, seconds: float | None) -> None:
    assert seconds_to_limit(state, rise) == seconds


def test_a_kind_that_is_off_is_left_out_and_a_severity_of_the_file_wins() -> None:
    observation = Observation(ledger_lag_s=30.0, chains=[ChainFlow("smart", 5, 1)], config_problem="no")
    found = seen(observation, off=frozenset(("config_reload",)), severities={"fallback_used": "error", "ledger_lag": "info"})
    assert found == [("fallback_used", "smart", "error"), ("ledger_lag", "ledger", "info")]


def test_thresholds_are_those_of_the_file() -> None:
    assert seen(Observation(budgets=[budget("40")]), budget=(0.85, 1.2)) == []
    assert seen(Observation(budgets=[budget("60")]), budget=(0.85, 1.2)) == [
        ("budget", "client search", "warning"),
        ("budget", "client search", "error"),
    ]
    assert seen(Observation(rates=[rate(50, 10.0)]), rate_limit_s=60.0) == []
    assert seen(Observation(ledger_lag_s=999.0), ledger_lag_s=Levels(None, None)) == []
    condition = the_one(Observation(traffic=traffic(attempts=10, failed=10)), error_rate=Levels(0.1, None))
    assert (condition.severity, condition.value, condition.threshold) == ("warning", 1.0, 0.1)


def test_of_what_cannot_be_seen_nothing_follows() -> None:
    kinds_that_are_always_seen = {"config_reload", "ledger_corrupt", "ledger_writes"}
    assert unseen(Observation()) == set(ALERT_KINDS) - kinds_that_are_always_seen
    assert unseen(Observation(budgets=[], quotas=[])) == set(ALERT_KINDS) - kinds_that_are_always_seen - {"budget", "quota"}
    everything = Observation(
        cards=[], traffic={}, budgets=[], quotas=[], rates=[], chains=[], answers=[], unpriced=[], ledger_lag_s=0.0
    )
    assert unseen(everything) == set()
