"""Callers who are at fault, hostile, slow or gone, through both doors: each is answered as it deserves, and no provider hears of it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest

from proxy.engine import attempt, ends
from proxy.server import protocol
from proxy.torture.upstream import Upstream
from tests.e2e.client import MESSAGES, Client, chat_body, until
from tests.e2e.conftest import Start, provider
from tests.e2e.running import Door, Proxy
from tests.e2e.test_http_limits import BAD_BODIES

pytestmark = pytest.mark.integration

MAX_BODY_BYTES = 64 * 1024
STALL_S = 0.5
NAMES = 300
MIB = 1024 * 1024
SERIES = tuple(f"tollbridge_{family}" for family in ("request", "rejected", "attempt", "token", "cost", "fallbacks", "failovers"))
REDIRECTING = "api_base base_url api_key api_version endpoint azure_endpoint custom_host url proxy".split()
REDIRECTING += "headers extra_headers extra_query extra_body user_config".split()
FORBIDDEN_FIELDS = 'tollbridge_events_total{event="forbidden_fields"}'
GONE = ("hold_before_head", "hold_before_content", "hold_after_content", "flood")


@pytest.fixture(scope="module", params=["fast", "asgi"])
def proxy(request: pytest.FixtureRequest, start: Start, upstream: Upstream) -> Proxy:
    names = ("fake", *GONE)
    return start(
        {
            "server": {"max_body": "64KiB"},
            "defaults": {"retries": 0, "circuit": {"failures": 1}},
            "providers": {name: provider(upstream.url) for name in names},
            "chains": {"smart": ["fake/ok"], **{name: [f"{name}/{name}", "fake/ok"] for name in GONE}},
        },
        door=cast(Door, request.param),
    )


@pytest.fixture
def untouched(upstream: Upstream) -> Iterator[None]:
    """No completion reaches the upstream while a test lasts."""
    before = sum(count for name, count in upstream.requests.items() if not name.startswith("GET "))
    yield
    assert sum(count for name, count in upstream.requests.items() if not name.startswith("GET ")) == before


@pytest.mark.row(51, 52, 54)
@pytest.mark.parametrize("name", BAD_BODIES)
@pytest.mark.usefixtures("untouched")
def test_a_body_that_cannot_be_meant_is_a_400_at_both_doors(proxy: Proxy, name: str) -> None:
    body, code = BAD_BODIES[name]
    answer = proxy.client.request("POST", "/v1/chat/completions", body)

    assert (answer.status, answer.error["code"], answer.error["type"]) == (400, code, "invalid_request_error")
    assert answer.id


@pytest.mark.row(51)
def test_what_is_refused_is_counted_by_its_reason(proxy: Proxy) -> None:
    def refused() -> float:
        return proxy.client.metrics()['tollbridge_rejected_total{reason="invalid_json"}']

    before = refused()
    for stream in (False, True):
        body = json.dumps(chat_body("smart", stream=stream)).encode()[:-1]
        assert proxy.client.request("POST", "/v1/chat/completions", body).status == 400
    assert refused() == before + 2


@pytest.mark.row(46)
@pytest.mark.usefixtures("untouched")
def test_a_body_beyond_the_limit_is_a_413_and_no_row(proxy: Proxy) -> None:
    client = proxy.client
    before = client.metrics()['tollbridge_rejected_total{reason="size"}']
    rows = len(client.get("/api/v1/requests?limit=1000").json["data"])
    answer = client.request("POST", "/v1/chat/completions", json.dumps(chat_body("smart", user="x" * MAX_BODY_BYTES)).encode())

    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert client.metrics()['tollbridge_rejected_total{reason="size"}'] == before + 1
    assert len(client.get("/api/v1/requests?limit=1000").json["data"]) == rows


@pytest.mark.row(53, 58)
@pytest.mark.parametrize("stream", [False, True])
def test_what_goes_upstream_is_what_was_checked_without_the_fields_that_would_redirect_it(
    proxy: Proxy, upstream: Upstream, stream: bool
) -> None:
    stolen = upstream.url.removesuffix("/v1") + "/v1/stolen/field"
    fields: dict[str, Any] = dict.fromkeys(REDIRECTING, stolen)
    body = json.dumps(chat_body("smart", stream=stream, seed=7, invented={"kept": True}, **fields)).encode()
    before = proxy.client.metrics().get(FORBIDDEN_FIELDS, 0)
    answer = proxy.client.request("POST", "/v1/chat/completions", body[:-1] + b', "seed": 8}')

    assert answer.status == 200
    sent = upstream.bodies["ok"]
    assert not set(sent) & set(REDIRECTING)
    assert (sent["seed"], sent["invented"]) == (8, {"kept": True})
    assert upstream.strays["field"] == 0
    assert proxy.client.metrics()[FORBIDDEN_FIELDS] == before + 1


@pytest.mark.row(55)
@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\x00b", "ü", "\u2028x"], ids=ascii)
def test_no_text_of_a_body_becomes_a_header(proxy: Proxy, upstream: Upstream, value: str) -> None:
    answers = [
        proxy.client.chat(value),
        proxy.client.chat("smart", metadata={"department": value, "agent": value, "task": value}),
        proxy.client.chat("smart", user=value),
    ]

    assert [answer.status for answer in answers] == [404, 200, 200]
    for answer in answers:
        assert "x-evil" not in answer.headers
        assert all(text.isascii() and text.isprintable() for text in answer.headers.values())
    assert "x-evil" not in upstream.headers["ok"]


@pytest.mark.row(57)
def test_made_up_model_names_make_no_series(proxy: Proxy) -> None:
    client = proxy.client
    client.chat("made up")
    before = served(client)
    for number in range(NAMES):
        answer = client.chat(f"made-up-{number}-é", headers={"x-tollbridge-task": f"task-{number}"})
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert served(client) == before
    assert not any("made-up" in sample or "task-" in sample for sample in client.metrics())


def served(client: Client) -> set[str]:
    """The series of requests and attempts; those of health checks come when they are made."""
    return {sample for sample in client.metrics() if sample.startswith(SERIES)}


@pytest.mark.row(49, 50)
@pytest.mark.parametrize("model", ["hold_before_head", "hold_before_content", "hold_after_content"])
def test_a_caller_who_leaves_moves_one_metric_and_no_breaker(proxy: Proxy, upstream: Upstream, model: str) -> None:
    client = proxy.client
    sample = f'tollbridge_attempts_total{{model="{model}",outcome="client_gone",provider="{model}"}}'
    before, left = client.metrics().get(sample, 0), len(upstream.hung_up_at[model])
    seen = upstream.requests[model]
    with client.open(model, stream=model != "hold_before_head") as stream:
        if model == "hold_after_content":
            stream.until_text("from")
        until(lambda: upstream.requests[model] > seen, what="the request upstream")
    until(lambda: len(upstream.hung_up_at[model]) > left, what="the hang-up upstream")

    until(lambda: client.metrics().get(sample, 0) == before + 1, what="the metric")
    target = client.target(model, model)
    assert (target["circuit"], target["failed"], target["in_flight"]) == ("closed", 0, 0)


@pytest.mark.row(48)
def test_a_caller_who_does_not_read_holds_the_upstream_back_and_is_cut_off(
    proxy: Proxy, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (attempt, ends, protocol):
        monkeypatch.setattr(module, "WRITE_STALL_S", STALL_S)
    client = proxy.client
    before, left = client.metrics()['tollbridge_events_total{event="slow_reader"}'], len(upstream.hung_up_at["flood"])
    upstream.sent_bytes["flood"] = 0
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", proxy.port))
        body = json.dumps({"model": "flood", "messages": MESSAGES, "stream": True}).encode()
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        connection.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        until(lambda: len(upstream.hung_up_at["flood"]) > left, what="the hang-up upstream")

    assert upstream.sent_bytes["flood"] < 32 * MIB, "what nobody reads is not collected"
    row = client.latest_row("flood")
    assert (row["outcome"], row["http_status"], row["usage_source"]) == ("client_gone", 499, "estimated")
    assert row["output_tokens"] > 0
    assert client.metrics()['tollbridge_events_total{event="slow_reader"}'] == before + 1
    assert client.target("flood", "flood")["failed"] == 0
