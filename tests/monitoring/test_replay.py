"""The ledger under another configuration: with the same one every choice comes out again, with another what follows from it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from proxy.accounting.pricing import PriceBook
from proxy.accounting.records import Begin, End, Rejected
from proxy.config.load import load
from proxy.config.settings import Settings
from proxy.core.errors import ErrorClass, LedgerUnavailable
from proxy.core.money import nusd_to_usd
from proxy.core.target import HedgeSettings, QualitySettings, Strategy
from proxy.core.usage import Usage
from proxy.core.wishes import Wishes
from proxy.monitoring.past import Past, lasts_s
from proxy.monitoring.record import Reader
from proxy.monitoring.replay import MAX_EXAMPLES, Outcome, Period, replay, replay_ledger
from proxy.monitoring.walk import Decision
from proxy.monitoring.whatif import WhatIf
from proxy.storage import recorded as storage
from proxy.storage.drainer import Drainer
from proxy.storage.recorded import Ends, RecordedAttempt, RecordedRequest, recorded
from tests.engine import harness
from tests.engine.test_hedge import on_loop
from tests.engine.test_quality_gate import ASK, CUT, GOOD, REFUSED, answer
from tests.monitoring.recorder import FILE, Recorder, write_file
from tests.storage.big import first_release
from tests.storage.records import open_journal

pytestmark = pytest.mark.unit

EVER = {"since_ms": 0, "until_ms": 1 << 60}
REQUESTS = 10_000
AT_MS = 1_800_000_000_000


# -- what was recorded comes out again


@pytest.fixture(scope="module")
def past_traffic(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    recorder = Recorder(tmp_path_factory.mktemp("recorded"))
    recorder.record(REQUESTS)
    recorder.close()
    return recorder


def test_with_the_same_file_ten_thousand_recorded_choices_come_out_again(past_traffic: Recorder) -> None:
    period = Period(data_dir=past_traffic.folder / "data", **EVER)
    outcome = replay_ledger(period, past_traffic.settings, past_traffic.prices)
    assert (outcome.requests, outcome.differing, outcome.examples) == (REQUESTS, 0, [])
    assert outcome.assumed == outcome.untold == 0
    assert outcome.was == outcome.now
    assert outcome.was.failed_over > 200
    assert outcome.was.outcomes["failed"] > 200


def test_what_is_read_of_a_trace_is_what_the_plan_was_and_every_reason_is_found_again(past_traffic: Recorder) -> None:
    reader, past = Reader(), Past()
    what_if = WhatIf(past_traffic.settings, past_traffic.prices, past, reader=reader)
    for request in islice(recorded(past_traffic.folder / "data", **EVER), 1_000):
        was = reader.decision(request)
        assert list(was.order or ()) == past_traffic.plans.get(request.id, [])
        assert what_if.decide(request, was).skipped == was.skipped
        past.see(request)


def test_a_file_that_differs_in_nothing_that_chooses_changes_no_choice(past_traffic: Recorder) -> None:
    """Its hash is another, so that nothing is taken over from the record but what was true of that moment."""
    other = write_file(past_traffic.folder / "other.yaml", f"{FILE}server: {{max_body: 64MiB}}\n")
    assert other.hash != past_traffic.settings.hash
    period = Period(data_dir=past_traffic.folder / "data", **EVER, limit=1_000)
    outcome = replay_ledger(period, other, past_traffic.prices, before=past_traffic.settings)
    assert (outcome.requests, outcome.differing) == (1_000, 0)
    assert outcome.now.cost_nusd == outcome.was.cost_nusd


def assert_comes_out_again(world: harness.World, folder: Path) -> None:
    """Under the configuration itself, and under one that only has another hash, so that nothing is taken over from the record."""
    journal = open_journal(folder)
    for record in world.journal.records:
        journal.append(record)
    journal.close()
    drainer = Drainer(folder, world.clock.wall)
    drainer.drain()
    drainer.close()
    for settings in (world.settings, replace(world.settings, hash="another")):
        outcome = replay_ledger(Period(data_dir=folder, **EVER), settings, harness.Prices(), before=world.settings)
        assert (outcome.requests, outcome.differing, outcome.assumed, outcome.examples) == (world.ids, 0, 0, [])
        assert (outcome.now.cost_nusd, outcome.now.attempts) == (outcome.was.cost_nusd, outcome.was.attempts)


STRATEGIES: tuple[Strategy, ...] = ("order", "weighted", "round_robin", "least_busy", "fastest", "cheapest", "score", "sticky")


@pytest.mark.anyio
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_what_the_engine_recorded_comes_out_again(tmp_path: Path, strategy: Strategy) -> None:
    names = ("a", "b", "c")
    targets = [
        replace(harness.target(name, lacks=frozenset(("tools",)) if name == "b" else frozenset()), weight=place + 1.0)
        for place, name in enumerate(names)
    ]
    busy, odd = harness.refusal(429, headers=((b"retry-after", b"5"),)), harness.refusal(400)
    scripts: dict[str, list[harness.Script]] = {
        "a": [harness.whole(), down(), down(), harness.whole(), busy, harness.whole()],
        "b": [down(), harness.whole(), odd, harness.whole()],
        "c": [harness.whole(), busy, down(), down(), harness.whole()],
    }
    world = harness.World(scripts, tuple(targets), {"strategy": strategy})
    wishes = (Wishes(prefer="c"), Wishes(exclude=frozenset(("a",))), Wishes(max_cost_nusd=40_000), Wishes(max_latency_s=0.5))
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    for number in range(20):
        how: dict[str, Any] = {"wishes": wishes[number // 4 % 4]} if number % 4 == 3 else {}
        body: dict[str, Any] = {"tools": [tool]} if number % 5 == 2 else {"max_tokens": 40}
        await world.serve(user=f"user-{number % 3}", **how, **body)
        world.clock.now += 0.7
    assert_comes_out_again(world, tmp_path)
    firsts = {end.request_id: f"{end.provider}/{end.upstream_model}" for end in reversed(world.ends)}
    orders = {request.id: Reader().decision(request).order or () for request in recorded(tmp_path, **EVER)}
    for request_id, first in firsts.items():
        assert orders[request_id][0] == first
    assert {type(record) for record in world.journal.records} >= {Begin, End}
    assert not any(isinstance(record, Rejected) and record.end.extra is None for record in world.journal.records)


def broken() -> harness.Script:
    return harness.streamed(harness.ROLE, harness.HI, harness.fault(ErrorClass.RESET_STREAM))


def down() -> harness.Script:
    return harness.fault(ErrorClass.CONNECT)


def late(seconds: float) -> harness.Script:
    return replace(harness.streamed(), head_s=seconds)


FEATURES: dict[str, tuple[dict[str, Any], dict[str, list[harness.Script]], dict[str, Any]]] = {
    "quality": (
        {"quality": QualitySettings(0.6)},
        {
            "a": [answer(REFUSED), answer(GOOD), answer(REFUSED), answer(CUT)],
            "b": [answer(REFUSED), down(), answer(GOOD), harness.refusal(400)],
            "c": [answer(GOOD), harness.refusal(429)],
        },
        {"messages": ASK},
    ),
    "continuation": (
        {"on_break": "continue"},
        {
            "a": [broken(), harness.streamed(), broken()],
            "b": [harness.streamed(), down(), broken(), harness.streamed()],
            "c": [broken(), harness.streamed()],
        },
        {"stream": True},
    ),
    "hedging": (
        {"hedge": HedgeSettings(after=None, after_s=0.5, max_extra=1.0)},
        {
            "a": [late(3.0), late(0.1), late(0.8), down()],
            "b": [late(0.2), late(3.0), late(0.1)],
            "c": [harness.streamed()],
        },
        {"stream": True},
    ),
}


@pytest.mark.parametrize("name", FEATURES)
def test_what_more_than_one_attempt_came_to_comes_out_again(tmp_path: Path, name: str) -> None:
    options, scripts, body = FEATURES[name]
    world = harness.World({who: list(script) for who, script in scripts.items()}, tuple(map(harness.target, scripts)), options)

    async def story() -> None:
        for _ in range(10):
            await world.serve(**body)
            await asyncio.sleep(0.7)

    on_loop(world, story)
    told = [record.end.extra or {} for record in world.journal.records if isinstance(record, End | Rejected) and record.end]
    assert any({"quality": "quality", "continuation": "continued", "hedging": "hedged"}[name] in extra for extra in told)
    assert len(world.ends) > world.ids
    assert_comes_out_again(world, tmp_path)


# -- what follows from another file

PROVIDERS = """\
providers:
  alpha: &p {dialect: openai, base_url: "http://127.0.0.1:1/v1", api_key: alpha-key-fake-001, prices: {m: {input: 1, output: 2}}}
  beta: {<<: *p, api_key: beta-key-fake-0001, prices: {m: {input: 3, output: 5}}}
  gamma: {<<: *p, api_key: gamma-key-fake-001, prices: {}}
"""


def settings_of(folder: Path, chain: str, *, providers: str = PROVIDERS, environ: dict[str, str] | None = None) -> Settings:
    path = folder / "what.yaml"
    path.write_text(f"{providers}chains:\n  smart: {chain}\n", encoding="utf-8")
    return load(path, environ=environ or {})


def attempt(target: str, n: int = 1, *, error: str | None = None, **changes: Any) -> RecordedAttempt:
    provider, _, model = target.partition("/")
    usage = None if error is not None else Usage(1_000, 100)
    made = RecordedAttempt(
        n, AT_MS, provider, model, "ok" if error is None else "failed", error, 100.0 if error is None else None, 900.0, usage,
        1_200_000 if usage is not None else 0, "providers.yaml" if usage is not None else None, 0,
    )  # fmt: skip
    return replace(made, **changes)


def request(*attempts: RecordedAttempt, trace: list[dict[str, Any]] | None = None, **changes: Any) -> RecordedRequest:
    names = list(dict.fromkeys(each.target for each in attempts))
    made = RecordedRequest(
        "01KBAAAAAAAAAAAAAAAAAAAAAA", AT_MS, "c", "smart", "smart", False, "abcdef012345",
        "ok" if attempts and attempts[-1].outcome == "ok" else "failed", 200, None,
        [kept(name) for name in names] if trace is None else trace, None, None, None, attempts,
    )  # fmt: skip
    return replace(made, **changes)


def kept(target: str) -> dict[str, Any]:
    return {"target": target, "kept": True}


def skipped(target: str, reason: str) -> dict[str, Any]:
    return {"target": target, "skipped": reason}


def verdict(n: int, target: str, error: str, then: str) -> dict[str, Any]:
    return {"attempt": n, "target": target, "error": error, "ms": 1.0, "then": then}


def measured(n: int, target: str, quality: float, then: str) -> dict[str, Any]:
    return {"attempt": n, "target": target, "quality": quality, "parts": {}, "then": then}


def decide_all(settings: Settings, requests: list[RecordedRequest], past: Past | None = None) -> list[Decision]:
    reader = Reader()
    what_if = WhatIf(settings, PriceBook(Path("/nowhere")), past or Past(), reader=reader)
    return [what_if.decide(one, reader.decision(one)) for one in requests]


def decide(settings: Settings, one: RecordedRequest, past: Past | None = None) -> Decision:
    return decide_all(settings, [one], past)[0]


A, B, C = "alpha/m", "beta/m", "gamma/m"
HIT = {"state": "hit", "model": "m", "input_tokens": 1_000, "output_tokens": 100}
DOWN = [kept(A), kept(B), verdict(1, A, "5xx", "next")]

# name -> (chain of the file, the request, who would have answered, outcome, cost in USD or None, whether that is assumed)
CASES: dict[str, tuple[str, RecordedRequest, str | None, str, str | None, bool]] = {
    "its price is another": (f"[{A}]", request(attempt(A, cost_nusd=7)), A, "ok", "0.0012", False),
    "the provider's own price stays": (f"[{A}]", request(attempt(A, cost_nusd=7, price_source="provider")), A, "ok", "0.000000007", False),
    "another target, at its price": (f"[{B}, {A}]", request(attempt(A)), B, "ok", "0.0035", True),
    "nothing is cached at another": (
        f"[{B}]", request(attempt(A, usage=Usage(1_000, 100, cached_input_tokens=900))), B, "ok", "0.0035", True
    ),
    "a price that nobody knows": (f"[{C}]", request(attempt(A)), C, "ok", None, True),
    "what failed fails again": (f"[{A}, {B}]", request(attempt(A, error="5xx"), attempt(B, 2), trace=DOWN), B, "ok", "0.0035", False),
    "what failed is no longer asked": (f"[{B}]", request(attempt(A, error="5xx"), attempt(B, 2), trace=DOWN), B, "ok", "0.0035", False),
    "a failure that does not lead on": (
        f"{{targets: [{A}, {B}], failover_on: [429]}}", request(attempt(A, error="5xx"), attempt(B, 2), trace=DOWN),
        None, "failed", "0", False,
    ),
    "a circuit that was open is open": (
        f"[{A}, {B}]", request(attempt(B), trace=[skipped(A, "circuit open"), kept(B)]), B, "ok", "0.0035", False
    ),
    "no target is left": (f"[{A}]", request(attempt(B), trace=[skipped(A, "circuit open"), kept(B)]), None, "failed", "0", False),
    "one that was ruled out for its features still is": (
        f"{{targets: [{A}, {B}], strict: true}}", request(attempt(B), trace=[skipped(A, "lacks tools"), kept(B)]), A, "ok", "0.0012", True
    ),
    "one more target after all have failed": (
        f"[{A}, {B}]", request(attempt(A, error="5xx", at_risk_tokens=40), trace=[kept(A), verdict(1, A, "5xx", "stop")]),
        B, "ok", None, True,
    ),
    "one that was passed over is passed over": (
        f"[{A}, {B}, {C}]",
        request(attempt(A, error="5xx"), attempt(C, 2, usage=None), trace=[kept(A), kept(B), kept(C), verdict(1, A, "5xx", "next")]),
        C, "ok", "0", False,
    ),
    "one that had gone when its turn came": (
        f"[{A}, {B}]",
        request(attempt(A, error="5xx"), trace=[kept(A), kept(B), verdict(1, A, "5xx", "stop")]), None, "failed", "0", False,
    ),
    "a cause that now leads on": (
        f"{{targets: [{A}, {B}], failover_on: [policy]}}",
        request(attempt(A, error="policy"), trace=[kept(A), kept(B), verdict(1, A, "policy", "stop")]), B, "ok", None, True,
    ),
    "a caller's mistake is one anywhere": (
        f"[{B}]", request(attempt(A, error="4xx"), trace=[kept(A), verdict(1, A, "4xx", "stop")]), None, "failed", "0", False
    ),
    "too long for any": (
        f"[{B}]", request(attempt(A, error="context_length"), trace=[kept(A), verdict(1, A, "context_length", "stop")]),
        None, "failed", "0", False,
    ),
    "a caller who left leaves": (
        f"[{B}, {A}]", request(attempt(A, error="client_gone", outcome="client_gone", usage=Usage(1_000, 10)), outcome="client_gone"),
        None, "client_gone", "0.00305", False,
    ),
    "a stream that broke stays broken": (
        f"[{A}, {B}]", request(attempt(A, error="truncated", first_token_ms=90.0), stream=True, trace=[kept(A), kept(B)]),
        None, "failed", "0", False,
    ),
    "a stream that broke is gone on with": (
        f"{{targets: [{A}, {B}], on_break: continue}}",
        request(attempt(A, error="truncated", first_token_ms=90.0, usage=Usage(1_000, 9)), stream=True, trace=[kept(A), kept(B)]),
        B, "ok", "0.004063", True,
    ),
    "a stream that was gone on with breaks": (
        f"[{A}, {B}]",
        request(
            attempt(A, error="truncated", first_token_ms=90.0, usage=Usage(1_000, 9)), attempt(B, 2), stream=True,
            trace=[kept(A), kept(B), verdict(1, A, "truncated", "continue")],
        ), None, "failed", "0.001018", False,
    ),
    "an answer that was not good enough is": (
        f"[{A}, {B}]",
        request(
            attempt(A), attempt(B, 2), answered=2,
            trace=[kept(A), kept(B), measured(1, A, 0.4, "next"), measured(2, B, 0.9, "answer")],
        ), A, "ok", "0.0012", False,
    ),
    "the better of two answers": (
        f"{{targets: [{A}, {B}, {C}], quality: {{min: 0.5}}}}",
        request(
            attempt(A), attempt(B, 2), answered=1,
            trace=[kept(A), kept(B), kept(C), measured(1, A, 0.4, "next"), measured(2, B, 0.3, "earlier")],
        ), A, "ok", "0.0047", False,
    ),
    "an answer that would have been weighed": (
        f"{{targets: [{A}, {B}], quality: {{min: 0.8}}}}",
        request(attempt(A), trace=[kept(A), kept(B), measured(1, A, 0.6, "answer")]), B, "ok", "0.0047", True,
    ),
    "the second of two at once": (
        f"{{targets: [{A}, {B}], hedge: {{after: p95}}}}",
        request(attempt(A, error="hedged_out", usage=Usage(1_000, 0)), attempt(B, 2), trace=[kept(A), kept(B)]), B, "ok", "0.0045", False,
    ),
    "the first of two, who was late": (
        f"[{A}, {B}]",
        request(attempt(A, error="hedged_out", usage=Usage(1_000, 0)), attempt(B, 2), trace=[kept(A), kept(B)]), A, "ok", "0.0022", True,
    ),
    "a canned answer costs nothing": (
        f"[{A}, {{static: Later.}}]", request(attempt(A, error="5xx"), trace=[kept(A), verdict(1, A, "5xx", "stop")]),
        "static/static", "ok", "0", True,
    ),
    "refused before anything was chosen": (
        f"[{A}]", request(trace=[], outcome="rejected", error_code="budget_exceeded"), None, "rejected", "0", False
    ),
    "nobody wrote down what was chosen": (
        f"[{B}]", request(attempt(A), trace=[], outcome="interrupted"), None, "interrupted", "0.0012", False
    ),
    "a model that is there now": (
        f"[{A}]", request(trace=[], outcome="rejected", chain=None, error_code="model_not_found"), A, "ok", None, True
    ),
    "a cached answer stays one": (
        f"{{targets: [{A}, {B}], cache: {{ttl: 1h}}}}",
        request(trace=[kept(A), kept(B)], outcome="ok", cached=HIT | {"provider": "beta"}),
        B, "ok", "0", False,
    ),
    "a cached answer is asked for": (
        f"[{A}]",
        request(trace=[kept(A)], outcome="ok", cached=HIT | {"provider": "alpha"}),
        A, "ok", "0.0012", True,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Settings]:
    """One for each chain of CASES."""
    folder = tmp_path_factory.mktemp("files")
    return {chain: settings_of(folder, chain) for chain in dict.fromkeys(chain for chain, *_ in CASES.values())}


@pytest.mark.parametrize("name", CASES)
def test_what_follows_from_another_file(files: dict[str, Settings], name: str) -> None:
    chain, one, served, outcome, cost_usd, assumed = CASES[name]
    found = decide(files[chain], one)
    assert (found.served, found.outcome, found.assumed) == (served, outcome, assumed)
    assert (None if found.unpriced else nusd_to_usd(found.cost_nusd)) == cost_usd


def test_a_target_of_which_too_much_failed_around_then_is_taken_to_have_failed_as_often(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, f"[{B}, {A}]")
    past, hour = Past(), AT_MS // 3_600_000
    past.learn([Ends(hour, "beta", "m", "ok", None, 25), Ends(hour + 1, "beta", "m", "failed", "5xx", 75)])
    past.learn([Ends(hour, "beta", "m", "failed", "4xx", 900), Ends(hour - 2, "beta", "m", "ok", None, 900)])  # neither counts
    assert past.availability(B, AT_MS) == 27 / 102
    assert past.availability(C, AT_MS) is None
    requests = [request(attempt(A), id=f"01KB{number:022d}") for number in range(200)]
    served = [each.served for each in decide_all(settings, requests, past)]
    assert 30 <= served.count(B) <= 80
    assert [each.served for each in decide_all(settings, requests, past)] == served  # drawn by the request, not by chance


def test_what_stood_in_the_way_of_a_target_is_known_from_other_requests_for_as_long_as_it_can_last(tmp_path: Path) -> None:
    settings, past = settings_of(tmp_path, f"[{B}, {A}]"), Past()
    past.see(request(attempt(A), trace=[skipped(B, "cooling down 7 s"), kept(A)], model="other"))
    assert decide(settings, request(attempt(A), time_ms=AT_MS + 6_900), past).skipped == {B: "cooling down 7 s"}
    assert decide(settings, request(attempt(A), time_ms=AT_MS + 7_000), past).served == B
    past.see(request(attempt(A), trace=[skipped(B, "circuit open"), kept(A)], time_ms=AT_MS + 8_000))
    assert decide(settings, request(attempt(A), time_ms=AT_MS + 9_000), past).served == A
    past.see(request(attempt(B), trace=[kept(B)], time_ms=AT_MS + 10_000))
    assert decide(settings, request(attempt(A), time_ms=AT_MS + 11_000), past).served == B


@pytest.mark.parametrize(
    ("reason", "seconds"),
    [
        ("cooling down 7 s", 7.0), ("cooling down under 1 s", 1.0), ("circuit open", 30.0), ("latched: bad key", 900.0),
        ("latched: model not found", 300.0), ("at capacity", 1.0), ("quota spent: 5 of 5 requests today", 3600.0),
        ("lacks tools", None), ("no key: set X", None), ("disabled in the file", None), ("excluded by the request", None),
    ],
)  # fmt: skip
def test_what_passes_and_what_does_not(reason: str, seconds: float | None) -> None:
    assert lasts_s(reason) == seconds


def test_a_key_that_is_missing_here_was_there_if_the_trace_says_so(tmp_path: Path) -> None:
    providers = f"{PROVIDERS}  groq: {{prices: {{m: {{input: 1, output: 1}}}}}}\n"
    settings = settings_of(tmp_path, "[groq/m, alpha/m]", providers=providers)
    assert settings.chains["smart"].targets[0].provider.disabled is not None
    there = request(attempt("groq/m"), trace=[kept("groq/m"), kept(A)])
    missing = request(attempt(A), trace=[skipped("groq/m", "no key: set GROQ_API_KEY"), kept(A)])
    new = request(attempt(A))
    reader = Reader()
    what_if = WhatIf(settings, PriceBook(tmp_path), Past(), reader=reader)
    assert what_if.decide(there, reader.decision(there)).served == "groq/m"
    assert what_if.decide(missing, reader.decision(missing)).served == A
    assert what_if.unkeyed == set()
    assert what_if.decide(new, reader.decision(new)).served == "groq/m"
    assert what_if.unkeyed == {"groq"}
    direct = request(attempt("groq/m"), model="groq/m", chain="direct")
    assert what_if.decide(direct, reader.decision(direct)).served == "groq/m"


def test_who_was_preferred_is_seen_where_no_release_wrote_it_down(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, f"[{A}, {B}, {C}]")
    trace = [kept(B), kept(A), kept(C)]
    assert decide(settings, request(attempt(B), trace=trace, config=settings.hash)).order == (B, A, C)
    assert decide(settings, request(attempt(B), trace=trace)).order == (A, B, C)  # the chain was another, for all that is known


def test_a_strategy_that_was_not_in_force_goes_by_what_the_ledger_knows(tmp_path: Path) -> None:
    by_cost = settings_of(tmp_path, f"{{targets: [{B}, {A}], strategy: cheapest}}")
    assert decide(by_cost, request(attempt(B), trace=[kept(B), kept(A)])).order == (A, B)
    by_time = settings_of(tmp_path, f"{{targets: [{A}, {B}], strategy: fastest}}")
    past = Past()
    for number in range(6):
        slow = attempt(A, first_token_ms=900.0, duration_ms=1_700.0, time_ms=AT_MS - 9_000 + number)
        past.see(request(slow, stream=True))
        past.see(request(attempt(B, first_token_ms=100.0, time_ms=AT_MS - 9_000 + number), stream=True))
    assert decide(by_time, request(attempt(A), trace=[kept(A), kept(B)]), past).order == (B, A)
    weighted = settings_of(tmp_path, f"{{targets: [{{target: {A}, weight: 3}}, {B}], strategy: weighted}}")
    many = [request(attempt(A), trace=[kept(A), kept(B)], id=f"{number:026d}") for number in range(200)]
    firsts = [(each.order or ("",))[0] for each in decide_all(weighted, many)]
    assert 120 <= firsts.count(A) <= 180


def test_the_sums_say_which_share_is_assumed_and_examples_are_few(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, f"[{B}, {A}]")
    reader, past = Reader(), Past()
    what_if = WhatIf(settings, PriceBook(tmp_path), past, reader=reader)
    many = [request(attempt(A), id=f"{number:026d}") for number in range(MAX_EXAMPLES + 10)]
    told = replay(many, past, reader, what_if).told()
    assert (told["requests"], told["differing"], told["assumed_share"]) == (30, 30, 1.0)
    assert len(told["examples"]) == MAX_EXAMPLES
    assert (told["recorded"]["cost_usd"], told["what_if"]["cost_usd"]) == ("0.036", "0.105")
    assert told["recorded"]["availability"] == told["what_if"]["availability"] == 1.0
    assert {row["target"]: (row["recorded"], row["what_if"]) for row in told["by_target"]} == {A: (30, 0), B: (0, 30)}
    assert told["by_chain"][0]["what_if_cost_usd"] == "0.105"


def test_two_files_are_held_against_each_other(tmp_path: Path) -> None:
    old = settings_of(tmp_path, f"[{A}, {B}]")
    new = settings_of(tmp_path, f"[{B}, {A}]")
    reader, past = Reader(), Past()
    prices = PriceBook(tmp_path)
    outcome: Outcome = replay(
        [request(attempt(A))], past, reader, WhatIf(new, prices, past), instead_of=WhatIf(old, prices, past, before=old)
    )
    assert (outcome.differing, outcome.was.cost_nusd, outcome.now.cost_nusd) == (1, 1_200_000, 3_500_000)


# -- reading the ledger


def test_rows_are_read_a_page_at_a_time_each_once(past_traffic: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [request.id for request in islice(recorded(past_traffic.folder / "data", **EVER), 40)]
    monkeypatch.setattr(storage, "_REQUESTS", storage._REQUESTS.replace(f"LIMIT {storage.ROWS_A_READ}", "LIMIT 7"))
    assert [request.id for request in islice(recorded(past_traffic.folder / "data", **EVER), 40)] == whole
    assert len(set(whole)) == 40
    since_ms = next(request.time_ms for request in recorded(past_traffic.folder / "data", **EVER) if request.id == whole[20])
    later = next(iter(recorded(past_traffic.folder / "data", since_ms, 1 << 60)))
    assert later.id == whole[20]
    assert list(recorded(past_traffic.folder / "data", 0, 1_000)) == []


def test_a_ledger_of_an_earlier_release_is_named_as_such(tmp_path: Path) -> None:
    first_release(tmp_path / "ledger.db").close()
    with pytest.raises(LedgerUnavailable, match="earlier release"):
        list(recorded(tmp_path, 0, 1))
