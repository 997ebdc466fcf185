"""A caller who leaves: the upstream is let go at once, the row says so, and no target is blamed for it."""

from __future__ import annotations

import time
from typing import cast

import pytest

from proxy.torture.upstream import Upstream
from tests.e2e.client import Client, until
from tests.e2e.conftest import Start, provider
from tests.e2e.running import Door, Proxy

pytestmark = pytest.mark.integration

PROMPTLY_S = 0.25
COMBINATIONS = [("fast", "native"), ("fast", "httpx"), ("asgi", "native"), ("asgi", "httpx")]


@pytest.fixture(scope="module", params=COMBINATIONS, ids=["-".join(pair) for pair in COMBINATIONS])
def proxy(request: pytest.FixtureRequest, start: Start, upstream: Upstream) -> Proxy:
    door, transport = request.param
    providers = {name: provider(upstream.url, transport=transport) for name in ("whole", "early", "late", "next")}
    return start(
        {
            "defaults": {"circuit": {"failures": 1}},
            "providers": providers,
            "chains": {
                "whole": ["whole/hold_before_head", "next/ok"],
                "early": ["early/hold_before_content", "next/ok"],
                "late": ["late/hold_after_content", "next/ok"],
            },
        },
        door=cast(Door, door),
    )


@pytest.mark.parametrize(
    ("chain", "model", "stream"),
    [("whole", "hold_before_head", False), ("early", "hold_before_content", True)],
    ids=["whole", "stream"],
)
def test_leaving_before_the_first_byte(proxy: Proxy, upstream: Upstream, chain: str, model: str, stream: bool) -> None:
    client = proxy.client
    seen, left = upstream.requests[model], len(upstream.hung_up_at[model])
    with client.open(chain, stream=stream):
        until(lambda: upstream.requests[model] > seen, what="the request upstream")
        gone_at = time.monotonic()
    until(lambda: len(upstream.hung_up_at[model]) > left, what="the hang-up upstream")

    assert upstream.hung_up_at[model][-1] - gone_at < PROMPTLY_S
    row = client.latest_row(chain)
    assert (row["outcome"], row["http_status"], row["attempts"]) == ("client_gone", 499, 1)
    (attempt,) = row["attempt_list"]
    assert (attempt["outcome"], attempt["error_class"], attempt["usage_source"]) == ("client_gone", "client_gone", None)
    assert attempt["at_risk_tokens"] > 0
    _assert_not_blamed(client, chain, model)


def test_leaving_in_the_middle_of_a_stream(proxy: Proxy, upstream: Upstream) -> None:
    client, model = proxy.client, "hold_after_content"
    left = len(upstream.hung_up_at[model])
    with client.open("late") as stream:
        stream.until_text(" from")
        gone_at = time.monotonic()
    until(lambda: len(upstream.hung_up_at[model]) > left, what="the hang-up upstream")

    assert upstream.hung_up_at[model][-1] - gone_at < PROMPTLY_S
    row = client.latest_row("late")
    assert (row["outcome"], row["http_status"], row["attempts"]) == ("client_gone", 499, 1)
    assert (row["usage_source"], row["output_tokens"]) == ("estimated", 3)  # `Hello from`: ten bytes
    assert row["input_tokens"] > 0
    assert float(row["cost_usd"]) > 0
    _assert_not_blamed(client, "late", model)


def test_nothing_is_left_behind(proxy: Proxy) -> None:
    services = proxy.runtime.gateway.services
    until(lambda: not proxy.runtime.gateway.live, what="the end of every request")
    until(lambda: not services.transports["httpx"].in_use and not proxy.runtime.native.in_use, what="free connections")  # type: ignore[attr-defined]


def _assert_not_blamed(client: Client, provider_name: str, model: str) -> None:
    state = client.target(provider_name, model)
    assert (state["circuit"], state["failed"], state["in_flight"], state["cooldown_s"]) == ("closed", 0, 0, 0)
