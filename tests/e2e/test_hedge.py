"""The first token hedged over real sockets and both transports; and a stream that outlasts its caller."""

from __future__ import annotations

import pytest

from proxy.torture.upstream import COMPLETION_TOKENS, PROMPT_TOKENS, Upstream
from tests.e2e.client import Client, until
from tests.e2e.conftest import Start, provider
from tests.e2e.running import Proxy

pytestmark = pytest.mark.integration

HEDGE = {"after": "50ms", "max_extra_cost": "100%"}
# by the chain's name: what the first and the second target do
CHAINS = {
    "second": ("hold_before_content", "ok"),
    "no-head": ("hold_before_head", "ok"),
    "first": ("hold_before_content", "hold_before_content"),
    "neither": ("hold_before_head", "hold_before_content"),
}


@pytest.fixture(scope="module", params=["native", "httpx"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def proxy(transport: str, start: Start, upstream: Upstream) -> Proxy:
    """Models are named after chain, transport and place: what one of them waits for is its own."""
    scripts = {
        f"{chain}-{transport}-{place}": script for chain, pair in CHAINS.items() for place, script in zip("ab", pair, strict=True)
    }
    upstream.aliases |= scripts | {f"billed-{transport}": "hold_after_content"}
    return start(
        {
            "providers": {name: provider(upstream.url, transport=transport) for name in ("one", "other")}
            | {"billed": provider(upstream.url, transport=transport, drain_on_disconnect=True)},
            "chains": {
                chain: {"targets": [f"one/{chain}-{transport}-a", f"other/{chain}-{transport}-b"], "hedge": HEDGE}
                for chain in CHAINS
            }
            | {"billed": [f"billed/billed-{transport}"]},
        }
    )


@pytest.mark.parametrize("chain", ["second", "no-head"])
def test_the_second_answers_and_the_first_is_hung_up_on(proxy: Proxy, upstream: Upstream, transport: str, chain: str) -> None:
    client, first_model, second_model = proxy.client, f"{chain}-{transport}-a", f"{chain}-{transport}-b"
    answer = client.chat(chain, stream=True)
    assert (answer.status, answer.text, answer.done) == (200, "Hello from upstream", True)
    assert (answer.headers["x-tollbridge-provider"], answer.headers["x-tollbridge-attempts"]) == ("other", "2")
    until(lambda: upstream.hung_up_at[first_model], what="the hang-up upstream")
    row = client.row(answer.id)
    assert (row["outcome"], row["attempts"], row["provider"], row["upstream_model"]) == ("ok", 2, "other", second_model)
    first, second = row["attempt_list"]
    assert (first["outcome"], first["error_class"], first["usage_source"]) == ("failed", "hedged_out", None)
    assert first["at_risk_tokens"] > 0
    assert (second["outcome"], second["input_tokens"], second["output_tokens"]) == ("ok", PROMPT_TOKENS, COMPLETION_TOKENS)
    assert _hedges(client, chain, "won") == 1
    state = client.target("one", first_model)
    assert (state["circuit"], state["failed"], state["in_flight"]) == ("closed", 0, 0)


def test_the_first_answers_after_all_and_the_second_is_hung_up_on(proxy: Proxy, upstream: Upstream, transport: str) -> None:
    client, first_model, second_model = proxy.client, f"first-{transport}-a", f"first-{transport}-b"
    with client.open("first") as stream:
        until(lambda: upstream.requests[second_model], what="the second request upstream")
        upstream.release(first_model)
        assert stream.rest().done
    until(lambda: upstream.hung_up_at[second_model], what="the hang-up upstream")
    row = client.latest_row("first")
    assert (row["attempts"], row["provider"], row["upstream_model"], row["outcome"]) == (2, "one", first_model, "ok")
    assert _hedges(client, "first", "lost") == 1


def test_a_caller_who_leaves_meanwhile_has_both_hung_up_on(proxy: Proxy, upstream: Upstream, transport: str) -> None:
    client, models = proxy.client, [f"neither-{transport}-{place}" for place in "ab"]
    with client.open("neither"):
        until(lambda: upstream.requests[models[1]], what="the second request upstream")
    until(lambda: all(upstream.hung_up_at[model] for model in models), what="both hang-ups upstream")
    row = client.latest_row("neither")
    assert (row["outcome"], row["http_status"], row["attempts"]) == ("client_gone", 499, 2)
    assert [entry["error_class"] for entry in row["attempt_list"]] == ["client_gone", "client_gone"]


@pytest.mark.row(50)
def test_a_stream_outlasts_its_caller_where_the_provider_bills_to_its_end(
    proxy: Proxy, upstream: Upstream, transport: str
) -> None:
    client = proxy.client
    with client.open("billed") as stream:
        stream.until_text(" from")
        (control,) = proxy.runtime.gateway.live
    until(lambda: control.gone, what="that it is known")
    upstream.release(f"billed-{transport}")
    row = client.latest_row("billed")
    assert (row["outcome"], row["http_status"]) == ("client_gone", 499)
    assert (row["usage_source"], row["input_tokens"], row["output_tokens"]) == ("provider", PROMPT_TOKENS, COMPLETION_TOKENS)


def test_nothing_is_left_behind(proxy: Proxy) -> None:
    services = proxy.runtime.gateway.services
    until(lambda: not proxy.runtime.gateway.live, what="the end of every request")
    until(lambda: not services.transports["httpx"].in_use and not proxy.runtime.native.in_use, what="free connections")  # type: ignore[attr-defined]
    assert all(state.in_flight == 0 for state in services.deployments.snapshot(0.0))


def _hedges(client: Client, chain: str, result: str) -> float:
    return client.metrics().get(f'tollbridge_hedges_total{{chain="{chain}",result="{result}"}}', 0.0)
