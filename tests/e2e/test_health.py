"""A running proxy sees its providers come and go, without a call and without a reload."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from tests.e2e.client import until
from tests.e2e.running import Proxy

pytestmark = pytest.mark.integration


class Provider:
    """`status`: what it answers to every question."""

    def __init__(self, httpserver: HTTPServer) -> None:
        self.server = httpserver
        self.status = 200
        httpserver.expect_request("/v1/models").respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        return Response('{"data": [{"id": "m"}]}', self.status)


@pytest.fixture
def provider(httpserver: HTTPServer) -> Provider:
    return Provider(httpserver)


@pytest.fixture(params=["native", "httpx"])
def proxy(request: pytest.FixtureRequest, provider: Provider, tmp_path: Path) -> Iterator[Proxy]:
    stanza = {
        "dialect": "openai",
        "base_url": provider.server.url_for("/v1"),
        "api_key": "sk-0123456789",
        "transport": request.param,
        "health": {"interval": "300ms", "timeout": "2s"},
    }
    path = tmp_path / "providers.yaml"
    path.write_text(json.dumps({"providers": {"mine": stanza}, "chains": {"c": ["mine/m"]}}), encoding="utf-8")
    running = Proxy(path)
    yield running
    running.stop()


def card(proxy: Proxy) -> dict[str, Any]:
    (found,) = proxy.client.get("/api/v1/providers").json["data"]
    return dict(found)


def test_a_card_turns_and_turns_back_and_the_ledger_remembers(proxy: Proxy, provider: Provider, tmp_path: Path) -> None:
    def state(wanted: str) -> dict[str, Any]:
        return until(lambda: found if (found := card(proxy))["state"] == wanted else None, what=f"a card that is {wanted}")

    well = state("healthy")
    assert (well["models"], well["key_valid"], well["reason"], well["error"]) == (1, True, None, None)
    assert well["response_ms"] > 0
    provider.status = 503
    assert state("down")["reason"] == "it answered 503"
    provider.status = 401
    until(lambda: card(proxy)["reason"] == "the key is refused: refused with 401", what="the other reason")
    provider.status = 200
    again = state("healthy")
    assert (again["error"], again["last_error"]) == (None, "refused with 401")

    def told() -> list[str] | None:
        with sqlite3.connect(f"file:{tmp_path / 'data' / 'ledger.db'}?mode=ro", uri=True) as ledger:
            states = [row[0] for row in ledger.execute("SELECT state FROM checks ORDER BY time_ms")]
        return states if states[:1] == ["healthy"] and "down" in states and states[-1] == "healthy" else None

    until(told, what="the checks in the ledger", seconds=20)


def test_it_has_every_field_that_it_had_before_cards(proxy: Proxy) -> None:
    until(lambda: card(proxy)["state"] == "healthy", what="the first check")
    shown = card(proxy)
    assert shown.keys() >= {"name", "state", "reason", "dialect", "keys", "last_check", "targets"}
    assert shown["last_check"] is not None
    assert list(shown["targets"][0]) == (
        "model state reason circuit cooldown_s latched in_flight ok failed latency_ms last_check".split()
    )
