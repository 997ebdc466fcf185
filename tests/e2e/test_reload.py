"""Editing providers.yaml while the proxy runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.storage.retention import Retention, read_retention
from proxy.torture.upstream import Upstream
from tests.e2e.client import until
from tests.e2e.conftest import Start, provider, write_config
from tests.e2e.running import Proxy

pytestmark = pytest.mark.integration

SUCCESSFUL = "tollbridge_config_last_reload_successful"


def config(upstream: Upstream, *targets: str) -> dict[str, Any]:
    one = provider(upstream.url)
    circuit = {"failures": 1, "open": "60s", "open_max": "60s"}
    return {
        "defaults": {"circuit": circuit, "retries": 0},
        "providers": {"one": one, "two": one, "bad": one},
        "chains": {"smart": list(targets), "broken": ["bad/status_500"]},
    }


@pytest.fixture
def proxy(start: Start, upstream: Upstream) -> Proxy:
    upstream.aliases.update(first="hold_after_content", second="ok")
    return start(config(upstream, "one/first", "two/second"))


def _edit(proxy: Proxy, new: dict[str, Any]) -> None:
    path = proxy.runtime.settings.path
    assert path is not None
    aside = write_config(path.parent.parent, new)
    Path(aside).rename(path)  # as editors do it


def test_the_order_changes_while_a_stream_runs(proxy: Proxy, upstream: Upstream) -> None:
    client, before = proxy.client, proxy.runtime.settings.hash
    assert client.chat("broken").status == 502
    with client.open("smart") as stream:
        seen = stream.until_text("Hello")
        _edit(proxy, config(upstream, "two/second", "one/first"))
        after = until(
            lambda: proxy.runtime.settings.hash if proxy.runtime.settings.hash != before else None, what="the reload", seconds=15
        )
        other = client.chat("smart")
        upstream.release("first")
        whole = stream.rest()

    assert other.headers["x-tollbridge-provider"] == "two"
    assert whole.whole
    assert (seen + whole.body).endswith(b"data: [DONE]\n\n")
    first_id = stream.response.getheader("x-request-id")
    assert first_id is not None
    first, second = client.row(first_id), client.row(other.id)
    assert (first["outcome"], first["provider"], first["config"]) == ("ok", "one", before)
    assert (second["outcome"], second["provider"], second["config"]) == ("ok", "two", after)
    # the target is the same as before, and so is what is known of it
    assert client.target("bad", "status_500")["circuit"] == "open"
    assert client.metrics()[f'tollbridge_config_info{{hash="{after}"}}'] == 1


def test_what_is_kept_follows_the_file(proxy: Proxy, upstream: Upstream) -> None:
    data_dir = proxy.runtime.settings.data_dir
    assert read_retention(data_dir) == Retention()
    _edit(proxy, config(upstream, "one/first") | {"retention": {"requests": "7d", "health": "1d"}})
    kept = Retention(requests_s=7 * 86_400.0, health_s=86_400.0)
    until(lambda: read_retention(data_dir) == kept or None, what="the drainer's file", seconds=15)


def test_a_broken_file_changes_nothing_but_what_is_told(proxy: Proxy, upstream: Upstream) -> None:
    client, before = proxy.client, proxy.runtime.settings.hash
    path = proxy.runtime.settings.path
    assert path is not None
    good = path.read_text()
    path.write_text(good.replace("chains:", "chans:"))
    until(lambda: client.metrics()[SUCCESSFUL] == 0, what="the fault's report", seconds=15)

    ready = client.get("/readyz")
    assert (ready.status, ready.json["ready"]) == (200, True)
    assert "providers.yaml:" in ready.json["notes"][0]
    assert "chans" in ready.json["notes"][0]
    assert client.chat("two/second").status == 200
    assert proxy.runtime.settings.hash == before

    path.write_text(good)
    until(lambda: client.metrics()[SUCCESSFUL] == 1, what="the recovery's report", seconds=15)
    assert client.get("/readyz").json["notes"] == []
