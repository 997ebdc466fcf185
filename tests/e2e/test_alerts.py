"""A running proxy tells of what goes wrong: to a webhook over a real socket, once, and not again after a restart."""

from __future__ import annotations

import json
import socket
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from proxy.monitoring.conditions import Condition
from proxy.torture.upstream import Upstream
from tests.e2e.client import until
from tests.e2e.conftest import provider, write_config
from tests.e2e.running import Proxy

pytestmark = pytest.mark.integration

PATH = "/services/T0FAKE/B0FAKE/fakefakefakefake"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.monitoring.watch.LOOK_EVERY_S", 0.1)


class Hook:
    """Somebody's webhook, and what it was sent."""

    def __init__(self, server: HTTPServer) -> None:
        self.url = server.url_for(PATH)
        self.got: list[dict[str, Any]] = []
        self.raw = b""
        server.expect_request(PATH, method="POST").respond_with_handler(self._take)

    def _take(self, request: Request) -> Response:
        self.raw += request.get_data()
        self.got.append(json.loads(request.get_data()))
        return Response(b"ok")

    def of(self, kind: str) -> list[str]:
        return [sent["event"] for sent in self.got if sent["alert"]["kind"] == kind]


@pytest.fixture
def hook(httpserver: HTTPServer) -> Hook:
    return Hook(httpserver)


@pytest.fixture
def dead_url() -> Iterator[str]:
    """Nobody listens there, and nobody else will."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/v1"


def config(hook: Hook, dead_url: str) -> dict[str, Any]:
    return {
        "providers": {"dead": provider(dead_url, health={"interval": "1s", "timeout": "1s"})},
        "chains": {"smart": ["dead/model"]},
        "alerts": {"to": [{"webhook": hook.url}]},
    }


def exposed(proxy: Proxy, sample: str) -> float | None:
    lines = proxy.client.get("/metrics").body.decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{sample} ")), None)


def test_what_goes_wrong_is_told_once_and_so_is_its_end_and_a_restart_repeats_nothing(
    tmp_path: Path, hook: Hook, dead_url: str
) -> None:
    path = write_config(tmp_path, config(hook, dead_url))
    proxy = Proxy(path)
    try:
        until(lambda: hook.of("provider_down"), what="the alert", seconds=15)
        (sent,) = [sent for sent in hook.got if sent["alert"]["kind"] == "provider_down"]
        assert (sent["event"], sent["alert"]["subject"], sent["alert"]["severity"]) == ("raised", "dead", "error")
        assert exposed(proxy, 'tollbridge_alerts_open{severity="error"}') == 1
        assert exposed(proxy, 'tollbridge_provider_state{provider="dead",state="down"}') == 1
        until(lambda: exposed(proxy, 'tollbridge_alert_deliveries_total{channel="webhook-1",result="sent"}'), what="its count")

        path.write_text("providers: [")
        until(lambda: hook.of("config_reload") == ["raised"], what="the alert of the file", seconds=30)
        write_config(tmp_path, config(hook, dead_url))
        until(lambda: hook.of("config_reload") == ["raised", "resolved"], what="its end", seconds=30)

        (shown,) = proxy.runtime.picture().alerts
        assert proxy.runtime.acknowledge(shown["id"]) is not None
    finally:
        proxy.stop()

    again = Proxy(path)
    try:
        until(again.runtime.desk.alerts, what="the alert of the life before", seconds=15)
        (kept,) = again.runtime.desk.alerts()
        assert (kept["id"], kept["state"]) == (shown["id"], "acknowledged")
        until(lambda: again.runtime.board.cards()[0].state == "down", what="the check", seconds=30)
        assert hook.of("provider_down") == ["raised"]
    finally:
        again.stop()
    assert b"sk-upstream-1" not in hook.raw
    assert b"fakefakefakefake" not in hook.raw


def counted_looks(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each look from now on."""
    looks: list[int] = []
    update = proxy.runtime.desk.update

    def counted(conditions: Iterable[Condition], unseen: Collection[str] = ()) -> None:
        update(conditions, unseen)
        looks.append(1)

    monkeypatch.setattr(proxy.runtime.desk, "update", counted)
    return looks


def test_each_threshold_of_a_budget_is_told_once_though_the_proxy_is_started_anew(
    tmp_path: Path, hook: Hook, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "providers": {"one": provider(upstream.url)},
        "chains": {"smart": ["one/ok"]},
        "budget": {"usd": 0.00002, "per": "month", "hard": False},  # less than one answer costs
        "alerts": {"budget": [0.5, 1.0, 2.0], "to": [{"webhook": hook.url}]},
    }
    path = write_config(tmp_path, given)
    for before in (0, 2, 2):
        one_life(path, hook, monkeypatch, before=before)


def one_life(path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch, *, before: int) -> None:
    """`before`: how many alerts an earlier life left open. Without any, there is a request that raises two."""
    proxy = Proxy(path)
    try:
        until(lambda: len(budget_alerts(proxy)) == before, what="what was open before")
        if not before:
            assert proxy.client.chat("smart").status == 200
            until(lambda: len(hook.of("budget")) == 2, what="the alerts", seconds=30)
        looks = counted_looks(proxy, monkeypatch)
        until(lambda: len(looks) > 2, what="some looks", seconds=30)
        assert hook.of("budget") == ["raised", "raised"]
        assert [alert["threshold"] for alert in budget_alerts(proxy)] == [1.0, 0.5]
    finally:
        proxy.stop()


def budget_alerts(proxy: Proxy) -> list[dict[str, Any]]:
    """That the fake upstream has no list of models may have been told by then, or not."""
    return [alert for alert in proxy.runtime.desk.alerts() if alert["kind"] == "budget"]
