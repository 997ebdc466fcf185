"""Every fault of the table, over real sockets: what the caller saw, what the ledger and the metrics say, what the target heard."""

from __future__ import annotations

import math
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import pytest

from proxy.telemetry import metrics
from proxy.torture.upstream import COMPLETION_TOKENS, PROMPT_TOKENS, Upstream
from tests.e2e.client import Answer, Client
from tests.e2e.conftest import KEY, Start, provider
from tests.e2e.faults import FAULTS, LATCHES, Fault, Kind, Transport, documented
from tests.e2e.running import ROOT, Door

pytestmark = pytest.mark.integration

GOOD = "good"
AT_ONCE = 12
LATER_S = 15.0
CASES = [(fault, kind) for fault in FAULTS for kind in fault.kinds]


@dataclass(slots=True)
class Seen:
    """Of one request."""

    answer: Answer
    row: dict[str, Any]
    target: dict[str, Any]


@dataclass(slots=True)
class Campaign:
    """The whole table against one proxy: each case once alone and once with another target behind it."""

    transport: Transport
    alone: dict[tuple[str, Kind], Seen]
    backed: dict[tuple[str, Kind], Seen]
    metrics: dict[str, float]


@pytest.fixture(scope="module")
def dead_ends(upstream: Upstream) -> Iterator[dict[str, str]]:
    """Addresses at which nothing good can happen."""
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))  # bound, but nobody listens
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    waiting = [socket.socket() for _ in range(2)]  # the queue holds no more: the next SYN is dropped
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(full.getsockname())
    yield {
        "refused": f"http://127.0.0.1:{closed.getsockname()[1]}/v1",
        "dropped": f"http://127.0.0.1:{full.getsockname()[1]}/v1",
        "unknown_host": "http://no-such-host.invalid/v1",
        "not_tls": f"https://127.0.0.1:{upstream.port}/v1",
    }
    for one in (closed, full, *waiting):
        one.close()


@pytest.fixture(
    scope="module",
    params=[("fast", "native"), ("fast", "httpx"), ("asgi", "native")],
    ids=["fast-native", "fast-httpx", "asgi-native"],
)
def campaign(
    request: pytest.FixtureRequest,
    start: Start,
    upstream: Upstream,
    dead_ends: dict[str, str],
    monkeypatch_module: pytest.MonkeyPatch,
) -> Campaign:
    door, transport = cast(tuple[Door, Transport], request.param)
    upstream.keep_alive = False  # what happens to a pooled connection is told by `test_stale_connections`
    monkeypatch_module.setattr(metrics, "MAX_SERIES", 100_000)
    proxy = start(_config(upstream, dead_ends, transport), door=door)
    client = proxy.client
    # who rests for a while comes last, so that it still does when its state is read
    resting_last = sorted(CASES, key=lambda case: case[0].cooldown_s is not None)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked = {
            (fault.script, kind, backed): pool.submit(_ask, client, fault, kind, backed=backed)
            for fault, kind in resting_last
            for backed in (False, True)
        }
    targets = {entry["name"]: entry["targets"][0] for entry in client.get("/api/v1/providers").json["data"] if entry["targets"]}
    samples = client.metrics()

    def seen(fault: Fault, kind: Kind, *, backed: bool) -> Seen:
        answer = asked[fault.script, kind, backed].result()
        return Seen(answer, client.row(answer.id), targets[_provider(fault, kind, backed=backed)])

    found = Campaign(
        transport,
        {(fault.script, kind): seen(fault, kind, backed=False) for fault, kind in CASES},
        {(fault.script, kind): seen(fault, kind, backed=True) for fault, kind in CASES},
        samples,
    )
    proxy.stop()  # before the next: hundreds of providers keep it busy
    return found


def _config(upstream: Upstream, dead_ends: dict[str, str], transport: Transport) -> dict[str, Any]:
    """A provider for each case, so that none hears of another; one fault opens its circuit."""
    providers: dict[str, Any] = {GOOD: provider(upstream.url, transport=transport)}
    chains: dict[str, Any] = {}
    for fault, kind in CASES:
        for backed in (False, True):
            name = _provider(fault, kind, backed=backed)
            url = dead_ends[fault.at] if fault.at is not None else upstream.url
            providers[name] = provider(url, transport=transport, timeouts=dict(fault.timeouts))
            chains[f"to {name}"] = [f"{name}/{fault.script}", *([f"{GOOD}/ok"] if backed else [])]
    circuit = {"failures": 1, "open": "60s", "open_max": "60s"}
    return {"defaults": {"retries": 0, "circuit": circuit}, "providers": providers, "chains": chains}


def _provider(fault: Fault, kind: Kind, *, backed: bool) -> str:
    return f"{fault.script}-{kind}-{'backed' if backed else 'alone'}"


def _ask(client: Client, fault: Fault, kind: Kind, *, backed: bool) -> Answer:
    name = _provider(fault, kind, backed=backed)
    return client.chat(
        f"to {name}", stream=kind == "stream", stream_options={"include_usage": True} if kind == "stream" else None
    )


cases = pytest.mark.parametrize(("fault", "kind"), CASES, ids=[f"{fault.script}-{kind}" for fault, kind in CASES])


@cases
def test_a_fault_without_another_target(campaign: Campaign, fault: Fault, kind: Kind) -> None:
    fault = fault.over(campaign.transport)
    seen = campaign.alone[fault.script, kind]
    _assert_caller_is_told(seen.answer, fault, kind)
    _assert_row(seen.row, fault, kind)
    _assert_target(seen.target, fault)
    _assert_counted(campaign.metrics, fault, _provider(fault, kind, backed=False))


def _assert_caller_is_told(answer: Answer, fault: Fault, kind: Kind) -> None:
    assert answer.status == fault.status
    assert answer.whole
    assert answer.headers["x-tollbridge-attempts"] == "1"
    if fault.outcome == "ok":
        _assert_good(answer, fault.text, kind)
    elif fault.broken:
        assert answer.payloads[-1] != "[DONE]"
        assert answer.text.startswith("Hello")
        assert (answer.error["code"], answer.error["type"]) == (fault.code, "upstream_error")
    else:
        assert answer.error["code"] == fault.code
        assert answer.headers["x-should-retry"] == "false"
    if fault.cooldown_s is not None:
        least_s, most_s = fault.cooldown_s
        assert math.floor(least_s) <= int(answer.headers["retry-after"]) <= math.ceil(most_s)


@cases
def test_another_target_answers_where_it_may(campaign: Campaign, fault: Fault, kind: Kind) -> None:
    fault = fault.over(campaign.transport)
    seen = campaign.backed[fault.script, kind]
    _assert_counted(campaign.metrics, fault, _provider(fault, kind, backed=True))
    origin = f"{_provider(fault, kind, backed=True)}/{fault.script}"
    moved = f'tollbridge_failovers_total{{from="{origin}",reason="{fault.outcome}",to="good/ok"}}'

    if fault.next:
        _assert_good(seen.answer, "Hello from upstream", kind)
        assert seen.answer.headers["x-tollbridge-provider"] == GOOD
        assert seen.answer.headers["x-tollbridge-attempts"] == "2"
        assert (seen.row["outcome"], seen.row["provider"], seen.row["attempts"]) == ("ok", GOOD, 2)
        assert [attempt["outcome"] for attempt in seen.row["attempt_list"]] == ["failed", "ok"]
        _assert_attempt(seen.row["attempt_list"][0], fault)
        assert campaign.metrics[moved] == 1
    else:
        assert seen.answer.status == campaign.alone[fault.script, kind].answer.status
        assert seen.row["attempts"] == 1
        assert moved not in campaign.metrics


def _assert_row(row: dict[str, Any], fault: Fault, kind: Kind) -> None:
    (attempt,) = row["attempt_list"]
    assert row["outcome"] == ("ok" if fault.outcome == "ok" else "failed")
    assert row["http_status"] == fault.status
    assert row["stream"] == (kind == "stream")
    _assert_attempt(attempt, fault)
    match fault.billed:
        case "free" | "risk":
            assert (row["usage_source"], row["input_tokens"], row["output_tokens"], row["cost_usd"]) == (None, 0, 0, "0")
        case "provider":
            assert (row["usage_source"], row["input_tokens"], row["output_tokens"]) == (
                "provider",
                PROMPT_TOKENS,
                COMPLETION_TOKENS,
            )
            assert row["cost_usd"] == "0.000025"
        case "counted" | "estimated":
            assert row["usage_source"] == fault.billed
            assert 0 < row["input_tokens"] < 100
            assert 0 < row["output_tokens"] < 1_000
            assert float(row["cost_usd"]) > 0


def _assert_target(target: dict[str, Any], fault: Fault) -> None:
    assert target["circuit"] == ("open" if fault.heard == "fail" else "closed")
    assert target["latched"] == LATCHES.get(fault.heard)
    assert target["failed"] == (1 if fault.heard in ("fail", *LATCHES) else 0)
    assert target["in_flight"] == 0
    if fault.cooldown_s is None:
        assert target["cooldown_s"] == 0
    else:
        least_s, most_s = fault.cooldown_s
        # the answer tells it to the second; this is read a while after
        assert least_s - LATER_S < target["cooldown_s"] <= most_s


def _assert_counted(samples: dict[str, float], fault: Fault, name: str) -> None:
    labels = f'model="{fault.script}",outcome="{fault.outcome}",provider="{name}"'
    assert samples[f"tollbridge_attempts_total{{{labels}}}"] == 1


def test_the_documentation_shows_this_table() -> None:
    page = (ROOT / "docs" / "failover.md").read_text()
    section = page.partition("## What each fault leads to\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert rows[2:] == [documented(fault) for fault in FAULTS]


def test_oddities_are_counted_exactly(campaign: Campaign) -> None:
    expected: Counter[str] = Counter()
    for fault, _ in CASES:
        expected.update(2 * fault.over(campaign.transport).events)
        expected["warned_failover"] += fault.heard in LATCHES or fault.outcome in ("tls", "redirect")
    prefix = 'tollbridge_events_total{event="'
    counted = {name[len(prefix) : -2]: value for name, value in campaign.metrics.items() if name.startswith(prefix) and value}
    assert counted == expected


def test_the_key_is_told_to_nobody(campaign: Campaign) -> None:
    for seen in (*campaign.alone.values(), *campaign.backed.values()):
        assert KEY.encode() not in seen.answer.body
        assert KEY not in str(seen.answer.headers)
        assert KEY not in str(seen.row)
    assert not any(KEY in sample for sample in campaign.metrics)


def test_nothing_of_the_upstream_s_own_pages_is_relayed(campaign: Campaign) -> None:
    for seen in campaign.alone.values():
        assert b"secret-hostname" not in seen.answer.body
        assert b"<html" not in seen.answer.body


def _assert_good(answer: Answer, text: str, kind: Kind) -> None:
    assert answer.status == 200
    assert answer.whole
    if kind == "stream":
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.done
        assert answer.payloads.count("[DONE]") == 1
    assert answer.text.replace("\ufffd", "") == ("" if answer.text.strip("\ufffd") == "" else text)


def _assert_attempt(attempt: dict[str, Any], fault: Fault) -> None:
    good = fault.outcome == "ok"
    assert attempt["outcome"] == ("ok" if good else "failed")
    assert attempt["error_class"] == (None if good else fault.outcome)
    assert attempt["usage_source"] == (fault.billed if fault.billed in ("provider", "counted", "estimated") else None)
    assert (attempt["at_risk_tokens"] > 0) == (fault.billed == "risk")
    permanent = fault.heard in LATCHES or (not fault.next and not fault.broken) or fault.outcome in ("tls", "redirect")
    assert attempt["category"] == (None if good else "permanent" if permanent else "transient")
