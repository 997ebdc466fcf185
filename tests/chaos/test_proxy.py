"""What takes more than one request to show: what is tried again, what rests, what probes, what a storm leads to; and what happens to the
proxy itself: its clock is moved, its ledger locked, its memory aimed at."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from proxy.routing.verdict import Effect
from proxy.runtime import SystemClock
from proxy.torture.upstream import Upstream
from tests.e2e.client import WAIT_S, Answer, Client, until
from tests.e2e.conftest import KEY, Start, provider
from tests.e2e.faults import Kind
from tests.e2e.running import Proxy

pytestmark = pytest.mark.integration

HERD = 24
STORM = 40
DAY_S = 86_400.0
KINDS: tuple[Kind, ...] = ("whole", "stream")
kinds = pytest.mark.parametrize("kind", KINDS)
BOMBS = ("gzip_bomb", "deep_answer", "many_headers", "two_framings", "stream_to_whole")
EVENT = 'tollbridge_events_total{{event="{}"}}'


class MovedClock:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        self.moved_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.moved_s


@pytest.fixture(scope="module")
def wall() -> Iterator[MovedClock]:
    clock = MovedClock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SystemClock, "wall", staticmethod(clock))
        yield clock


@pytest.fixture(scope="module")
def proxy(wall: MovedClock, start: Start, upstream: Upstream) -> Proxy:
    """A provider for each purpose and kind, so that none hears of another."""
    one = provider(upstream.url)
    providers: dict[str, Any] = dict.fromkeys(("good", "cooling", "echo", "away", "bombs"), one)
    chains: dict[str, Any] = {"echo": ["echo/key_echoed"], "away": {"targets": ["away/redirect_here"], "retries": 0}}
    chains |= {"smart": ["good/ok"], "limited": ["cooling/limit_reset_go"]}
    chains |= {name: {"targets": [f"bombs/{name}", "good/ok"], "retries": 0} for name in BOMBS}
    circuit = {"failures": 1, "open": "10ms", "open_max": "20ms"}
    for kind in KINDS:
        for name in ("stale", "cool_a", "cool_b", "rests", "dead_a", "dead_b", "herd", "leaves", "storm"):
            providers[f"{name}-{kind}"] = one
        providers[f"herd-{kind}"] = {**one, "circuit": circuit}
        providers[f"leaves-{kind}"] = {**one, "circuit": circuit}
        providers[f"storm-{kind}"] = {**one, "retries": 1, "circuit": {"failures": 100_000, "min_requests": 100_000}}
        # a script under a name of its own, so that its requests are counted apart
        for name, script in (
            ("stale", "stale"),
            ("herd", "hold_before_head"),
            ("leaves", "hold_before_head"),
            ("storm", "status_500"),
        ):
            upstream.aliases[f"{name}-{kind}"] = script
        chains |= {
            f"stale {kind}": [f"stale-{kind}/stale-{kind}"],
            f"all cooling {kind}": [f"cool_a-{kind}/limit_reset_go", f"cool_b-{kind}/limit_date"],
            f"one cooling {kind}": [f"rests-{kind}/limit_reset_go", "good/ok"],
            f"all dead {kind}": {"targets": [f"dead_a-{kind}/status_500", f"dead_b-{kind}/status_502"], "retries": 0},
            f"herd {kind}": [f"herd-{kind}/herd-{kind}", "good/ok"],
            f"leaves {kind}": [f"leaves-{kind}/leaves-{kind}", "good/ok"],
            f"storm {kind}": [f"storm-{kind}/storm-{kind}"],
        }
    defaults = {"circuit": {"failures": 1, "open": "60s", "open_max": "60s"}}
    return start({"defaults": defaults, "providers": providers, "chains": chains})


@pytest.fixture(scope="module")
def client(proxy: Proxy) -> Client:
    return proxy.client


@pytest.fixture
def counted(client: Client) -> Callable[[str], float]:
    """How often an event was counted since the test's beginning."""
    before = client.metrics()
    return lambda event: client.metrics()[EVENT.format(event)] - before[EVENT.format(event)]


def ask(client: Client, chain: str, kind: Kind) -> Answer:
    return client.chat(f"{chain} {kind}", stream=kind == "stream")


def at_once(count: int, work: Callable[[], Answer]) -> list[Answer]:
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(work) for _ in range(count)]]


@pytest.mark.row(5)
@kinds
def test_a_connection_that_was_closed_while_pooled_is_replaced_once_and_unseen(
    client: Client, upstream: Upstream, counted: Callable[[str], float], kind: Kind
) -> None:
    name = f"stale-{kind}"
    assert ask(client, "stale", kind).status == 200
    sent, stale = upstream.requests[name], counted("stale_retry")
    answer = ask(client, "stale", kind)

    assert (answer.status, answer.text) == (200, "Hello from upstream")
    assert upstream.requests[name] == sent + 2, "on the pooled connection, and on a fresh one"
    attempts = client.row(answer.id)["attempt_list"]
    assert [(attempt["error_class"], attempt["at_risk_tokens"]) for attempt in attempts] == [("stale_retry", 0), (None, 0)]
    target = client.target(name, name)
    assert (target["circuit"], target["failed"], target["ok"]) == ("closed", 0, 2)
    assert counted("stale_retry") == stale + 1


@pytest.mark.row(16)
@kinds
def test_a_429_is_told_only_when_every_target_cools_and_with_the_shortest_wait(
    client: Client, upstream: Upstream, kind: Kind
) -> None:
    first = ask(client, "all cooling", kind)
    touched = upstream.requests["limit_reset_go"], upstream.requests["limit_date"]
    second = ask(client, "all cooling", kind)

    for answer in (first, second):
        assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")
        assert 1 <= int(answer.headers["retry-after"]) <= 20, "the shortest of 66 s and 20 s"
    assert (first.headers["retry-after"], first.headers["x-tollbridge-attempts"]) == ("20", "2")
    assert (upstream.requests["limit_reset_go"], upstream.requests["limit_date"]) == touched, "who cools is left alone"
    row = client.row(first.id)
    assert [attempt["error_class"] for attempt in row["attempt_list"]] == ["rate_limited"] * 2
    assert (row["http_status"], row["cost_usd"], row["usage_source"]) == (429, "0", None)
    assert client.row(second.id)["attempt_list"] == []
    target = client.target(f"cool_a-{kind}", "limit_reset_go")
    assert (target["circuit"], target["failed"]) == ("closed", 0)
    assert 0 < target["cooldown_s"] <= 66


@pytest.mark.row(16)
@kinds
def test_while_one_target_cools_the_other_answers_without_a_pause(client: Client, kind: Kind) -> None:
    answers = [ask(client, "one cooling", kind) for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 200]
    assert [answer.headers["x-tollbridge-attempts"] for answer in answers] == ["2", "1"]
    skipped = client.row(answers[1].id)["trace"][0]
    assert skipped["skipped"].startswith("cooling down")


@pytest.mark.row(27, 28)
def test_what_a_provider_says_of_our_key_is_redacted_and_counted(client: Client) -> None:
    before = client.metrics()["tollbridge_redactions_total"]
    answer = client.chat("echo")

    assert (answer.status, answer.error["code"]) == (502, "provider_auth")
    row = client.row(answer.id)
    assert row["attempt_list"][0]["error_class"] == "auth"
    assert "Incorrect API key" in row["attempt_list"][0]["error"]
    assert KEY not in str(row)
    assert KEY.encode() not in answer.body
    assert client.metrics()["tollbridge_redactions_total"] > before
    assert client.target("echo", "key_echoed")["latched"] == "bad key"


@pytest.mark.row(44)
def test_a_redirect_is_not_followed(client: Client, upstream: Upstream, counted: Callable[[str], float]) -> None:
    for kind in KINDS:
        answer = client.chat("away", stream=kind == "stream")
        assert answer.status >= 502
        assert "location" not in answer.headers
    assert upstream.strays["redirect_here"] == 0
    assert counted("redirect") >= 1


@pytest.mark.row(69)
@kinds
def test_with_every_circuit_open_the_answer_is_at_once_and_one_request_a_second_still_tries(
    client: Client, upstream: Upstream, counted: Callable[[str], float], kind: Kind
) -> None:
    assert ask(client, "all dead", kind).status == 502
    before, began = upstream.requests["status_500"] + upstream.requests["status_502"], time.monotonic()
    answers = at_once(HERD, lambda: ask(client, "all dead", kind))
    seconds = time.monotonic() - began

    tried = [answer for answer in answers if answer.headers["x-tollbridge-attempts"] != "0"]
    refused = [answer for answer in answers if answer.headers["x-tollbridge-attempts"] == "0"]
    assert len(tried) <= 1 + math.ceil(seconds)
    assert upstream.requests["status_500"] + upstream.requests["status_502"] - before == len(tried)
    for answer in refused:
        assert (answer.status, answer.error["code"]) == (503, "all_providers_unavailable")
        assert 1 <= int(answer.headers["retry-after"]) <= 75
    rows = [client.row(answer.id) for answer in refused]
    assert {row["attempts"] for row in rows} == {0}
    assert min(row["duration_ms"] for row in rows) < 5
    assert counted("chain_exhausted") == len(refused)


@pytest.mark.row(70)
@kinds
def test_of_a_herd_at_a_half_open_circuit_one_probes_and_the_others_go_on(
    proxy: Proxy, client: Client, upstream: Upstream, counted: Callable[[str], float], kind: Kind
) -> None:
    name = f"herd-{kind}"
    _open(proxy, name)
    answers: list[Answer] = []
    with client.open(f"herd {kind}", stream=kind == "stream") as probing:
        until(lambda: upstream.requests[name] == 1, what="the probe")
        answers = at_once(HERD, lambda: ask(client, "herd", kind))
        assert client.target(name, name)["circuit"] == "half_open"
        upstream.release(name)
        probed = probing.rest()

    assert upstream.requests[name] == 1
    assert {answer.headers["x-tollbridge-provider"] for answer in answers} == {"good"}
    assert {answer.status for answer in answers} == {200}
    assert client.row(answers[0].id)["trace"][0]["skipped"] == "circuit half open, a probe is out"
    assert (probed.status, probed.headers["x-tollbridge-provider"]) == (200, name)
    assert client.target(name, name)["circuit"] == "closed"
    assert counted("probes") == 1


@pytest.mark.row(49, 70)
@kinds
def test_a_caller_who_leaves_while_probing_leaves_the_probe_to_the_next(
    proxy: Proxy, client: Client, upstream: Upstream, kind: Kind
) -> None:
    name = f"leaves-{kind}"
    _open(proxy, name)
    with client.open(f"leaves {kind}", stream=kind == "stream"):
        until(lambda: upstream.requests[name] == 1, what="the probe")
    until(lambda: upstream.hung_up_at[name], what="the hang-up upstream")
    until(lambda: client.target(name, name)["in_flight"] == 0, what="the end of the request")
    assert client.target(name, name)["circuit"] == "half_open", "nothing was learnt"
    upstream.release(name)
    answer = ask(client, "leaves", kind)

    assert (answer.status, answer.headers["x-tollbridge-provider"]) == (200, name)
    assert client.target(name, name)["circuit"] == "closed"


def _open(proxy: Proxy, name: str) -> None:
    """Opens the circuit of a target, and waits until a probe may go."""
    runtime = proxy.runtime
    chain = runtime.settings.resolve(f"{name}/{name}")
    assert chain is not None
    target = chain.targets[0]
    deployment = runtime.gateway.services.deployments.get(target, target.provider.credentials[0])
    permit = deployment.acquire(time.monotonic())
    assert permit is not None
    permit.release(Effect.FAIL, time.monotonic())
    until(lambda: deployment.breaker.ready(time.monotonic()), what="the time to probe")


@pytest.mark.row(71)
@kinds
def test_in_a_storm_of_faults_retries_are_a_fifth_and_one_a_second(
    client: Client, upstream: Upstream, counted: Callable[[str], float], kind: Kind
) -> None:
    name, began = f"storm-{kind}", time.monotonic()
    answers = at_once(STORM, lambda: ask(client, "storm", kind))
    seconds = time.monotonic() - began

    assert {answer.status for answer in answers} == {502}
    assert {answer.headers["x-should-retry"] for answer in answers} == {"false"}
    retried = upstream.requests[name] - STORM
    assert retried <= STORM / 5 + seconds + 1
    assert counted("budget_exhausted") == STORM - retried
    assert {client.row(answer.id)["cost_usd"] for answer in answers[:3]} == {"0"}


@pytest.mark.row(68)
def test_a_clock_that_jumps_a_day_and_back_disturbs_nobody(proxy: Proxy, wall: MovedClock) -> None:
    client = proxy.client
    ids, steps = [], client.metrics()[EVENT.format("clock_step")]
    assert client.chat("limited").status == 429
    for number, moved_s in enumerate((DAY_S, 0.0), 1):
        wall.moved_s = moved_s
        until(lambda: client.metrics()[EVENT.format("clock_step")] == steps + number, what="the jump's report")  # noqa: B023 - called at once
        for stream in (False, True):
            answer = client.chat("smart", stream=stream)
            assert answer.status == 200
            ids.append(answer.id)
        assert 0 < client.target("cooling", "limit_reset_go")["cooldown_s"] <= 66, "a cooldown is as long as it was"

    assert ids == sorted(ids), "ids never go back"
    rows = [client.row(each) for each in ids]
    assert {row["outcome"] for row in rows} == {"ok"}
    assert all(0 <= row["duration_ms"] < 60_000 for row in rows)
    assert client.metrics()[EVENT.format("clock_step")] == steps + 2


@pytest.mark.row(64)
def test_a_locked_ledger_is_nobody_s_business_but_the_drainer_s(proxy: Proxy) -> None:
    client = proxy.client
    assert client.row(client.chat("smart").id)["outcome"] == "ok"  # the ledger is there
    lock = sqlite3.connect(proxy.runtime.settings.data_dir / "ledger.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    try:
        answers = [client.chat("smart", stream=stream) for stream in (False, True)]
        assert [answer.status for answer in answers] == [200, 200]
        assert client.get("/readyz").status == 200
    finally:
        lock.execute("ROLLBACK")
        lock.close()
    assert {client.row(answer.id)["outcome"] for answer in answers} == {"ok"}


@pytest.mark.row(39, 40, 43)
@kinds
def test_what_is_aimed_at_the_memory_or_the_parser_is_refused_and_the_next_target_answers(
    client: Client, upstream: Upstream, kind: Kind
) -> None:
    for name in BOMBS:
        if name == "stream_to_whole" and kind == "stream":
            continue  # it is what was asked for
        answer = client.chat(name, stream=kind == "stream")
        assert (answer.status, answer.text) == (200, "Hello from upstream"), name
        assert answer.headers["x-tollbridge-provider"] == "good"
    assert client.get("/livez").status == 200


@pytest.mark.row(62, 65)
def test_what_the_drainer_mended_is_counted(proxy: Proxy, client: Client, counted: Callable[[str], float]) -> None:
    assert client.row(client.chat("smart").id)["outcome"] == "ok"  # the ledger is there
    with sqlite3.connect(proxy.runtime.settings.data_dir / "ledger.db", timeout=WAIT_S) as ledger:
        more = "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
        ledger.execute(f"INSERT INTO counters (name, value) VALUES ('interrupted_attempts', 2), ('corrupt', 1) {more}")
    ledger.close()
    assert (counted("recovered"), counted("ledger_corrupt")) == (2, 1)
