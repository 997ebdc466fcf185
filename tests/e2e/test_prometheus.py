"""A real Prometheus scrapes the running proxy and evaluates the shipped rules: the alert fires when a provider dies."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest_httpserver import HTTPServer

from tests.e2e.client import until
from tests.e2e.conftest import Start, provider

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: prometheus)"),
]
DEPLOY = Path(__file__).parents[2] / "deploy/prometheus"
TOKEN = "scraper-0123456789"


class Prometheus:
    """As `deploy/prometheus` configures it, but on this machine, four times a second and without the rules' patience."""

    def __init__(self, folder: Path, target: str) -> None:
        for rules in DEPLOY.glob("*.rules.yml"):
            text = re.sub(r"^( +for: ).*$", r"\g<1>0s", rules.read_text(encoding="utf-8"), flags=re.MULTILINE)
            (folder / rules.name).write_text(
                re.sub(r"^( +interval: ).*$", r"\g<1>250ms", text, flags=re.MULTILINE), encoding="utf-8"
            )
        config: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
        (folder / "token").write_text(TOKEN, encoding="utf-8")
        config["global"] = {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"}
        config["scrape_configs"][0]["authorization"]["credentials_file"] = str(folder / "token")
        config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={self.address}",
                ],
                stdout=log,
                stderr=log,
            )

    def get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as response:
                return json.load(response)["data"]
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None  # it has not come up yet

    def firing(self) -> set[tuple[str, str]]:
        """(alert, provider)."""
        alerts = (self.get("/api/v1/alerts") or {}).get("alerts", [])
        return {(a["labels"]["alertname"], a["labels"].get("provider", "")) for a in alerts if a["state"] == "firing"}

    def value(self, expression: str) -> float | None:
        found = (self.get("/api/v1/query?" + urllib.parse.urlencode({"query": expression})) or {}).get("result")
        return float(found[0]["value"][1]) if found else None


@pytest.fixture
def httpserver() -> Iterator[HTTPServer]:
    """One that may die: the usual one is shared by all tests of a run."""
    server = HTTPServer()
    server.start()
    yield server
    server.clear()
    if server.is_running():
        server.stop()


@pytest.fixture
def prometheus(tmp_path: Path, start: Start, httpserver: HTTPServer) -> Iterator[Prometheus]:
    httpserver.expect_request("/v1/models").respond_with_json({"object": "list", "data": [{"id": "m"}]})
    proxy = start(
        {
            "auth": {"admin_token": "admin-0123456789", "metrics_token": TOKEN},
            "health": {"interval": "200ms", "timeout": "1s"},
            "providers": {"fake": provider(httpserver.url_for("/v1"))},
            "chains": {"smart": ["fake/m"], "demo": ["demo/down", "demo/chat"]},
        }
    )
    for _ in range(3):
        assert proxy.client.chat("demo").status == 200
    made = Prometheus(tmp_path, f"127.0.0.1:{proxy.port}")
    yield made
    made.process.terminate()
    made.process.wait(20)


def test_the_alert_fires_when_a_provider_dies(prometheus: Prometheus, httpserver: HTTPServer) -> None:
    until(lambda: prometheus.value('tollbridge_provider_state{provider="fake",state="healthy"}'), what="a scrape", seconds=30)
    assert prometheus.value("up") == 1
    assert prometheus.value('sum(tollbridge_requests_total{chain="demo",outcome="ok"})') == 3
    assert prometheus.value('tollbridge_provider_state{provider="fake",state="down"}') == 0
    until(lambda: prometheus.get("/api/v1/rules"), what="the rules")
    groups = prometheus.get("/api/v1/rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
    assert ("TollbridgeProviderDown", "fake") not in prometheus.firing()
    httpserver.stop()
    until(lambda: ("TollbridgeProviderDown", "fake") in prometheus.firing(), what="the alert", seconds=20)
