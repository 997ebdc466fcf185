"""What the ledger suggests to change: each piece with the figures it rests on, and nothing without enough of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounting.pricing import Rates, rates_of_price
from proxy.config.load import load
from proxy.config.settings import Settings
from proxy.core.money import usd_to_nusd
from proxy.core.target import QualitySettings, Target
from proxy.monitoring.advice import DAY_MS, MIN_CALLS, WINDOW_DAYS, Advice, Evidence, Kind, _rounded_up, advise, read_evidence
from proxy.monitoring.lifespan import Profile
from proxy.monitoring.outlook import Pace

pytestmark = pytest.mark.unit

WALL = datetime(2026, 11, 21, tzinfo=UTC).timestamp()
UNTIL_MS = round(WALL * 1000)
FILE = """\
providers:
  openai: {prices: {gpt-4o: {input: 5, output: 20, cached_input: 2.5}, text-embedding-3-large: {input: 0.13, output: 0}}}
  together: {prices: {"*": {input: 0.30, output: 0.90}}}
  anthropic: {prices: {"*": {input: 3, output: 15, cached_input: 0.3, cache_write: 3.75}}, budget: {usd: 75}}
  mistral: {}
  xai: {enabled: false}
chains:
  smart: [openai/gpt-4o, together/moonshotai/Kimi-K2, mistral/mistral-large, demo/chat]
  "claude-*": [anthropic/claude-*, together/*]
  vectors: [openai/text-embedding-3-large]
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    path = tmp_path_factory.mktemp("advice") / "providers.yaml"
    path.write_text(FILE, encoding="utf-8")
    names = ("OPENAI", "TOGETHER", "ANTHROPIC", "MISTRAL", "XAI")
    return load(path, environ={f"{name}_API_KEY": f"sk-{name}-0123456789" for name in names})


def price_of(target: Target) -> Rates | None:
    return None if target.price is None else rates_of_price(target.price)


def row(target: str, *, chain: str | None = "smart", calls: int = 100, cost: str = "0", **figures: Any) -> dict[str, Any]:
    provider, _, model = target.partition("/")
    return {
        "chain": chain,
        "provider": provider,
        "model": model,
        "requests": calls,
        "attempts": calls,
        "attempts_ok": calls,
        "input_tokens": 0,
        "cached_input_tokens": 0,
        "cache_write_tokens": 0,
        "output_tokens": 0,
        "reasoning_tokens": 0,
        "input_audio_tokens": 0,
        "output_audio_tokens": 0,
        "unpriced_attempts": 0,
        "cost_usd": cost,
        "p95_ms": None,
        **figures,
    }


GPT_4O: dict[str, Any] = {"input_tokens": 666_667, "output_tokens": 333_333}  # 1 M tokens, for $10.00


def evidence(settings: Settings, **parts: Any) -> Evidence:
    """Rows of targets count as those of models, too."""
    if "targets" in parts:
        parts.setdefault("models", parts["targets"])
    return Evidence(
        wall=WALL, since_ms=UNTIL_MS - WINDOW_DAYS * DAY_MS, until_ms=UNTIL_MS, settings=settings, prices=price_of, **parts
    )


def of_kind(kind: str, found: Sequence[Advice]) -> list[Advice]:
    return [advice for advice in found if advice.kind == kind]


def test_an_empty_ledger_suggests_nothing(settings: Settings) -> None:
    assert advise(evidence(settings)) == []


# -- dearer than it need be


def test_traffic_is_reckoned_at_the_other_targets_of_its_chain(settings: Settings) -> None:
    found = advise(evidence(settings, targets=[row("openai/gpt-4o", cost="10", **GPT_4O)]))
    (advice,) = of_kind("cheaper", found)
    assert "1 M tokens of this mix: openai/gpt-4o $10.00, together/moonshotai/Kimi-K2 $0.50, −95 %." in advice.text
    assert advice.title == "smart: together/moonshotai/Kimi-K2 instead of openai/gpt-4o would cost −95 %"
    assert advice.as_dict() == {
        "kind": "cheaper",
        "title": advice.title,
        "text": advice.text,
        "saving_usd": "9.5000002",
        "figures": {
            "chain": "smart",
            "target": "openai/gpt-4o",
            "calls": 100,
            "tokens": 1_000_000,
            "cost_usd": "10",
            "would_cost_usd": {"together/moonshotai/Kimi-K2": "0.4999998"},
            "usd_per_million": {"openai/gpt-4o": "10", "together/moonshotai/Kimi-K2": "0.4999998"},
        },
        "source": "/api/v1/usage?group_by=chain,provider,model&since=2026-10-22T00:00:00.000Z&until=2026-11-21T00:00:00.000Z"
        "&chain=smart&provider=openai&model=gpt-4o",
    }


@pytest.mark.parametrize(
    "changed",
    [
        {"calls": 19},
        {"unpriced_attempts": 1},
        {"cost": "0.53"},  # 5.7 % above the cheapest
        {"cost": "0.0001", "input_tokens": 100, "output_tokens": 0},  # less than a cent
        {"cost": "0"},
        {"input_tokens": 0, "output_tokens": 0},
        {"chain": "gone"},
        {"chain": "direct"},
        {"chain": None},
    ],
    ids=str,
)
def test_what_saves_nothing_or_cannot_be_reckoned_is_not_told(settings: Settings, changed: dict[str, Any]) -> None:
    found = advise(evidence(settings, targets=[row("openai/gpt-4o", **{"cost": "10", **GPT_4O, **changed})]))
    assert of_kind("cheaper", found) == []


def test_a_given_list_is_compared_with_as_well(settings: Settings) -> None:
    compare = [settings.direct("together", "qwen"), settings.direct("xai", "grok")]
    found = advise(evidence(settings, targets=[row("openai/gpt-4o", chain="direct", cost="10", **GPT_4O)], compare=compare))
    (advice,) = of_kind("cheaper", found)
    assert list(advice.figures["would_cost_usd"]) == ["together/qwen"]
    assert advice.title.startswith("direct calls: ")
    embedded = row("openai/text-embedding-3-large", chain="vectors", cost="130", input_tokens=10**9)
    assert of_kind("cheaper", advise(evidence(settings, targets=[embedded], compare=compare))) == []


def test_a_wildcard_chain_stands_for_the_model_that_was_called(settings: Settings) -> None:
    found = advise(evidence(settings, targets=[row("anthropic/claude-x", chain="claude-*", cost="9", **GPT_4O)]))
    (advice,) = of_kind("cheaper", found)
    assert list(advice.figures["would_cost_usd"]) == ["together/x"]


@pytest.mark.property
@given(input_tokens=st.integers(1, 10**10), output_tokens=st.integers(0, 10**10), calls=st.integers(20, 10**6))
def test_a_saving_is_what_is_paid_less_what_would_be(
    settings: Settings, input_tokens: int, output_tokens: int, calls: int
) -> None:
    paid = (Decimal(5) * input_tokens + Decimal(20) * output_tokens) / 1_000_000
    there = (Decimal("0.3") * input_tokens + Decimal("0.9") * output_tokens) / 1_000_000
    one = row("openai/gpt-4o", calls=calls, cost=f"{paid:.9f}", input_tokens=input_tokens, output_tokens=output_tokens)
    for advice in of_kind("cheaper", advise(evidence(settings, targets=[one]))):
        assert advice.saving_nusd is not None
        assert abs(advice.saving_nusd - usd_to_nusd(paid - there)) <= 2


def test_what_saves_most_comes_first(settings: Settings) -> None:
    rows = [row("openai/gpt-4o", cost="10", **GPT_4O), row("anthropic/claude-x", chain="claude-*", cost="90", **GPT_4O)]
    savings = [advice.saving_nusd or 0 for advice in advise(evidence(settings, targets=rows))]
    assert savings[0] > savings[1] > 0
    assert savings == sorted(savings, reverse=True)


# -- what goes wrong


def test_a_first_target_that_fails_often_is_named_with_its_reasons(settings: Settings) -> None:
    moves = [
        {"chain": "smart", "from": "openai/gpt-4o", "to": "together/moonshotai/Kimi-K2", "reason": "rate_limited", "count": 30},
        {"chain": "smart", "from": "openai/gpt-4o", "to": None, "reason": "timeout", "count": 4},
        {"chain": "other", "from": "openai/gpt-4o", "to": None, "reason": "refused", "count": 400},
    ]
    rows = [row("openai/gpt-4o", attempts_ok=66), row("together/moonshotai/Kimi-K2", calls=34)]
    (advice,) = of_kind("failing_first", advise(evidence(settings, targets=rows, moves=moves)))
    assert advice.title == "smart: its first target fails 34 % of the time"
    assert "(rate_limited 30, timeout 4)" in advice.text
    assert "together/moonshotai/Kimi-K2 answered 100 % of its own: put it first." in advice.text
    assert advice.source.startswith("/api/v1/monitoring/fallback-stats?since=2026-10-22")


@pytest.mark.parametrize(
    "rows",
    [
        [row("openai/gpt-4o", calls=19, attempts_ok=0)],
        [row("openai/gpt-4o", attempts_ok=91)],
        [row("together/moonshotai/Kimi-K2", attempts_ok=1)],  # not the first
        [row("openai/text-embedding-3-large", chain="vectors", attempts_ok=1)],  # there is no other
    ],
)
def test_a_first_target_that_does_well_or_has_no_other_is_left_alone(settings: Settings, rows: list[dict[str, Any]]) -> None:
    assert of_kind("failing_first", advise(evidence(settings, targets=rows))) == []


LOW_MOVES = [
    {"chain": "smart", "from": "openai/gpt-4o", "to": "together/moonshotai/Kimi-K2", "reason": "quality", "count": 12},
    {"chain": "smart", "from": "openai/gpt-4o", "to": "together/moonshotai/Kimi-K2", "reason": "5xx", "count": 90},
    {"chain": "other", "from": "openai/gpt-4o", "to": None, "reason": "quality", "count": 400},
]


def gated(settings: Settings) -> Settings:
    smart = replace(settings.chains["smart"], quality=QualitySettings(0.6))
    return replace(settings, chains={**settings.chains, "smart": smart})


def test_a_target_whose_answers_are_low_again_and_again_is_named_with_a_better_one(settings: Settings) -> None:
    rows = [
        {**row("openai/gpt-4o"), "rated": 28, "mean_quality": 0.7},
        {**row("together/moonshotai/Kimi-K2"), "rated": 20, "mean_quality": 0.93},
    ]
    (advice,) = of_kind("low_quality", advise(evidence(gated(settings), targets=rows, moves=LOW_MOVES)))
    assert advice.title == "smart: 30 % of the answers of openai/gpt-4o are low"
    assert advice.text.startswith("12 of 40 whole answers of openai/gpt-4o measured below 0.6")
    assert advice.text.endswith("together/moonshotai/Kimi-K2 measures 0.93 on average: put it first.")
    assert advice.source.startswith("/api/v1/monitoring/fallback-stats?")


@pytest.mark.parametrize("rated", [0, 7, 49], ids=["none given", "too few", "too small a share"])
def test_few_low_answers_say_nothing(settings: Settings, rated: int) -> None:
    rows = [{**row("openai/gpt-4o"), "rated": rated, "mean_quality": None}]
    assert of_kind("low_quality", advise(evidence(gated(settings), targets=rows, moves=LOW_MOVES))) == []


def test_without_a_gate_no_answer_is_low(settings: Settings) -> None:
    rows = [{**row("openai/gpt-4o"), "rated": 28, "mean_quality": 0.7}]
    assert of_kind("low_quality", advise(evidence(settings, targets=rows, moves=LOW_MOVES))) == []


def test_a_model_whose_p95_is_out_of_line_is_named(settings: Settings) -> None:
    written: dict[str, Any] = {"output_tokens": 5_000}
    rows = [
        row("openai/gpt-4o", p95_ms=9_000.0, **written),
        row("together/moonshotai/Kimi-K2", p95_ms=2_000.0, **written),
        row("anthropic/claude-x", p95_ms=3_000.0, **written),
        row("openai/text-embedding-3-large", p95_ms=30.0),  # embeds
        row("mistral/mistral-large", p95_ms=90_000.0, calls=3, **written),  # too few
    ]
    (advice,) = of_kind("slow", advise(evidence(settings, recent=rows)))
    assert advice.figures["target"] == "openai/gpt-4o"
    assert advice.title.endswith("3.6 times that of the others")
    assert of_kind("slow", advise(evidence(settings, recent=rows[:2]))) == [], "two are too few to say who is out of line"


def test_a_model_without_a_price_is_named(settings: Settings) -> None:
    (advice,) = of_kind("unpriced", advise(evidence(settings, models=[row("mistral/mistral-large", unpriced_attempts=7)])))
    assert "7 calls of 100" in advice.text
    assert "providers.mistral.models" in advice.text


# -- caching


def test_long_prompts_that_are_never_cached_are_reckoned(settings: Settings) -> None:
    (advice,) = of_kind("cache", advise(evidence(settings, models=[row("openai/gpt-4o", input_tokens=4_000_000)])))
    assert advice.saving_nusd == usd_to_nusd("5")  # half of 4 M at $2.50 less
    assert "40,000 each" in advice.text
    assert "Writing" not in advice.text


def test_where_writing_costs_more_the_reads_that_pay_for_it_are_told(settings: Settings) -> None:
    (advice,) = of_kind("cache", advise(evidence(settings, models=[row("anthropic/claude-x", input_tokens=4_000_000)])))
    assert "from 0.3 reads for each write on" in advice.text


@pytest.mark.parametrize(
    "one",
    [
        row("openai/gpt-4o", input_tokens=100_000),  # 1,000 each
        row("openai/gpt-4o", input_tokens=4_000_000, cached_input_tokens=1_000_000),
        row("openai/gpt-4o", input_tokens=4_000_000, calls=19),
        row("together/moonshotai/Kimi-K2", input_tokens=4_000_000),  # cached input costs the same there
        row("mistral/mistral-large", input_tokens=4_000_000),
        row("gone/model", input_tokens=4_000_000),
    ],
    ids=lambda one: f"{one['provider']} {one['input_tokens']}",
)
def test_where_a_cache_would_hardly_pay_nothing_is_told(settings: Settings, one: Mapping[str, Any]) -> None:
    assert of_kind("cache", advise(evidence(settings, models=[one]))) == []


def test_a_cache_that_costs_more_than_it_saves_is_named(settings: Settings) -> None:
    wasted: dict[str, Any] = {"input_tokens": 10_000_000, "cache_write_tokens": 8_000_000, "cached_input_tokens": 1_100_000}
    (advice,) = of_kind("cache_writes", advise(evidence(settings, models=[row("anthropic/claude-x", **wasted)])))
    assert (advice.figures["writing_usd"], advice.figures["saved_usd"]) == ("6", "2.97")
    assert advice.saving_nusd == usd_to_nusd("3.03")
    paid_off = {**wasted, "cached_input_tokens": 2_300_000}
    assert of_kind("cache_writes", advise(evidence(settings, models=[row("anthropic/claude-x", **paid_off)]))) == []


# -- who is not needed


def test_idle_providers_are_told_apart_by_their_place(settings: Settings) -> None:
    found = of_kind("idle", advise(evidence(settings, models=[row("openai/gpt-4o")])))
    assert {advice.figures["provider"]: advice.text.rpartition("days went to ")[2] for advice in found} == {
        "together": "together. It is a fallback of smart, claude-* that was never needed.",
        "anthropic": "anthropic. It is the first of claude-*, which nobody called.",
        "mistral": "mistral. It is a fallback of smart that was never needed.",
    }
    (passed,) = [
        advice
        for advice in of_kind("idle", advise(evidence(settings, targets=[row("together/x", chain="claude-*")])))
        if advice.figures["provider"] == "anthropic"
    ]
    assert passed.text.endswith("whose calls all passed it by: a request there tells why it was skipped.")
    assert of_kind("idle", advise(evidence(settings, models=[row("openai/gpt-4o", calls=19)]))) == []


# -- what the month will cost


def test_the_month_is_projected_and_a_budget_proposed(settings: Settings) -> None:
    daily = Profile(float(usd_to_nusd("3.7")))
    pace = Pace(daily, {"openai": daily, "together": Profile(0.0), "gone": daily, None: daily})
    found = advise(evidence(settings, month=[row("openai/gpt-4o", cost="60")], pace=pace))
    (projection,) = of_kind("projection", found)
    assert projection.figures == {"spent_usd": "60", "projection_usd": "97"}
    assert "10 days are left" in projection.text
    (proposed,) = of_kind("budget", found)
    assert proposed.figures["usual_month_usd"] == "112.541666666"
    assert "budget: {usd: 150, per: month}" in proposed.text


def test_a_budget_that_will_not_reach_is_told_and_one_that_will_is_not(settings: Settings) -> None:
    daily = Profile(float(usd_to_nusd("2")))
    pace = Pace(daily, {"anthropic": daily})
    (short,) = advise(evidence(settings, month=[row("anthropic/claude-x", cost="60")], pace=pace))[1:]
    assert (short.kind, short.figures["budget_usd"], short.figures["projection_usd"]) == ("budget_short", "75", "80")
    assert {advice.kind for advice in advise(evidence(settings, month=[row("anthropic/claude-x", cost="50")], pace=pace))} == {
        "projection"
    }


@pytest.mark.parametrize(
    ("usd", "rounded"),
    [("0.02", "1"), ("1", "1"), ("1.2", "2"), ("37.1", "38"), ("101", "110"), ("140.7", "150"), ("12341", "13000")],
)
def test_a_proposal_is_a_figure_that_a_person_would_write(usd: str, rounded: str) -> None:
    assert _rounded_up(usd_to_nusd(usd)) == usd_to_nusd(rounded)


# -- the ledger


class Ledger:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    async def usage(
        self,
        group_by: Sequence[str],
        since_ms: int | None = None,
        until_ms: int | None = None,
        *,
        filters: Mapping[str, str] | None = None,
        percentiles: bool = False,
    ) -> list[dict[str, Any]]:
        self.asked.append((*group_by, *(("percentiles",) if percentiles else ())))
        return [row("openai/gpt-4o", cost="10", **GPT_4O)]

    async def used_by_day(
        self,
        group: str | None,
        since_ms: int,
        until_ms: int | None = None,
        *,
        filters: Mapping[str, str] | None = None,
        among: Sequence[str | None] = (),
    ) -> list[tuple[str, str | None, int, int, int]]:
        self.asked.append(("day", str(group)))
        return [("2026-11-20", "openai", 100, 1000, usd_to_nusd("10"))]

    async def fallbacks(self, since_ms: int, until_ms: int) -> list[dict[str, Any]]:
        return []


@pytest.mark.anyio
async def test_the_evidence_is_read_from_sums(settings: Settings) -> None:
    ledger = Ledger()
    compare = ["together/qwen", "nobody/x", "openai"]
    found = await read_evidence(ledger, settings, price_of, WALL, compare=compare)
    assert [target.name for target in found.compare] == ["together/qwen"]
    assert {("chain", "provider", "model"), ("provider", "model", "percentiles"), ("provider",), ("day", "provider")} == set(
        ledger.asked
    )
    assert {advice.kind for advice in advise(found)} >= {"cheaper", "projection", "idle"}


def test_every_kind_is_documented_and_no_other() -> None:
    text = (Path(__file__).parents[2] / "docs/cli.md").read_text(encoding="utf-8").partition("## advice")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE) == list(get_args(Kind))
    assert f"fewer than {MIN_CALLS}" in text
