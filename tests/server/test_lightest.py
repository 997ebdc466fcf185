"""A provider without a free check, whose operator allows a completion to be paid for: one call of a token, in the ledger like any other."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from tests.e2e.client import until
from tests.e2e.running import Proxy

pytestmark = pytest.mark.integration

ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "sonar",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "length"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
Start = Callable[..., Proxy]


@pytest.fixture
def start(tmp_path: Path, httpserver: HTTPServer) -> Iterator[Start]:
    running: list[Proxy] = []

    def make(health: dict[str, Any]) -> Proxy:
        stanza = {"base_url": httpserver.url_for(""), "api_key": "pplx-0123456789", "health": health}
        path = tmp_path / "providers.yaml"
        path.write_text(
            json.dumps({"providers": {"perplexity": stanza}, "chains": {"c": ["perplexity/sonar"]}}), encoding="utf-8"
        )
        running.append(Proxy(path))
        return running[0]

    yield make
    for proxy in running:
        proxy.stop()


def card(proxy: Proxy) -> dict[str, Any]:
    (found,) = proxy.client.get("/api/v1/providers").json["data"]
    return dict(found)


def test_it_asks_for_one_token_and_stands_in_the_ledger(start: Start, httpserver: HTTPServer) -> None:
    def answer(request: Request) -> Response:
        assert request.get_json()["max_tokens"] == 1
        return Response(json.dumps(ANSWER), content_type="application/json")

    httpserver.expect_request("/chat/completions", method="POST").respond_with_handler(answer)
    proxy = start({"lightest_call": True, "interval": "1h"})
    until(lambda: card(proxy)["state"] == "healthy", what="a card that knows")
    httpserver.check_assertions()
    assert len(httpserver.log) == 1
    row = proxy.client.latest_row()
    assert (row["task"], row["provider"], row["client"], row["outcome"]) == ("health-check", "perplexity", None, "ok")
    assert row["output_tokens"] == 1


def test_a_provider_that_fails_it_is_no_longer_unknown(start: Start, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/chat/completions").respond_with_data('{"error": {"message": "no"}}', status=401)
    proxy = start({"lightest_call": True, "interval": "1h"})
    until(lambda: card(proxy)["state"] == "down", what="a card that knows")
    assert (card(proxy)["reason"], card(proxy)["key_valid"]) == ("bad key", False)


def test_silence_ends_with_the_timeout_of_checks(start: Start, httpserver: HTTPServer) -> None:
    released = threading.Event()

    def answer(request: Request) -> Response:
        released.wait(20)
        return Response("late", 500)

    httpserver.expect_request("/chat/completions").respond_with_handler(answer)
    try:
        proxy = start({"lightest_call": True, "interval": "1h", "timeout": "2s"})
        row = proxy.client.latest_row()
        assert (row["outcome"], row["attempt_list"][0]["error_class"]) == ("failed", "ttfb_timeout")
    finally:
        released.set()


def test_without_leave_nothing_is_asked(start: Start, httpserver: HTTPServer) -> None:
    proxy = start({})
    until(lambda: card(proxy)["note"] is not None, what="a card")
    fresh = proxy.client.get("/api/v1/monitoring/health-check?fresh=1").json["providers"][0]
    assert (fresh["state"], fresh["note"]) == ("unknown", "it has no model list to ask for: only traffic tells")
    assert httpserver.log == []
