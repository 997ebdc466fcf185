"""Choices through the running server: strategies, `auto`, wishes, and what the row says of them."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.routing.rederive import rederive
from proxy.torture.upstream import Upstream
from tests.e2e.client import Answer
from tests.e2e.conftest import Start, provider
from tests.e2e.running import Proxy

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def proxy(start: Start, upstream: Upstream) -> Proxy:
    one = provider(upstream.url)
    priced = {name: {**one, "prices": {"*": {"input": usd, "output": usd}}} for name, usd in (("dear", 9), ("cheap", 1))}
    return start(
        {
            "defaults": {"retries": 0},
            "providers": {
                **priced,
                "near": {**one, "prices": {}, "region": "eu-west-1", "models": {"ok": {"capabilities": ["analysis"]}}},
            },
            "chains": {
                "cheapest": {"strategy": "cheapest", "targets": ["dear/ok", "cheap/ok", "near/ok"]},
                "falls": {"strategy": "cheapest", "targets": ["dear/ok", "cheap/status_500"]},
                "turns": {"strategy": "round_robin", "targets": ["dear/ok", "cheap/ok"]},
                "plain": ["dear/ok", "cheap/ok"],
            },
        }
    )


def chat(proxy: Proxy, model: str, **wishes: str) -> Answer:
    headers = {f"x-tollbridge-{name.replace('_', '-')}": value for name, value in wishes.items()}
    return proxy.client.chat(model, headers=headers)


def row(proxy: Proxy, answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = proxy.client.row(answer.headers["x-request-id"])
    return found


def served_by(answer: Answer) -> str:
    assert answer.status == 200
    return answer.headers["x-tollbridge-provider"]


def test_the_cheapest_answers_and_the_row_tells_why(proxy: Proxy) -> None:
    answer = chat(proxy, "cheapest")
    assert served_by(answer) == "cheap"
    trace = row(proxy, answer)["trace"]
    assert rederive(None, trace) == ["cheap/ok", "dear/ok", "near/ok"] == [line["target"] for line in trace]
    assert trace[2]["by"] == {"strategy": "cheapest", "place": 2, "expected_cost_usd": None}


def test_it_fails_over_to_the_next_by_the_same_order(proxy: Proxy) -> None:
    answer = chat(proxy, "falls")
    assert (served_by(answer), answer.headers["x-tollbridge-attempts"]) == ("dear", "2")


def test_turns_are_taken(proxy: Proxy) -> None:
    assert [served_by(chat(proxy, "turns")) for _ in range(4)] == ["dear", "cheap", "dear", "cheap"]


def test_auto_scores_every_target_that_the_file_names(proxy: Proxy) -> None:
    answer = chat(proxy, "auto")
    trace = row(proxy, answer)["trace"]
    assert {line["target"] for line in trace} == {"dear/ok", "cheap/ok", "near/ok", "cheap/status_500"}
    totals = [line["by"]["total"] for line in trace if "by" in line]
    assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize(
    ("model", "wishes", "provider"),
    [
        ("plain", {}, "dear"),
        ("plain", {"prefer": "cheap"}, "cheap"),
        ("plain", {"exclude": "dear"}, "cheap"),
        ("plain", {"max_cost": "0.002"}, "cheap"),
        ("cheapest", {"require": "analysis, region:eu"}, "near"),
        ("cheapest", {"prefer": "near/ok"}, "near"),
        ("cheapest", {"priority": "high"}, "cheap"),
    ],
)
def test_wishes_move_a_request(proxy: Proxy, model: str, wishes: dict[str, str], provider: str) -> None:
    assert served_by(chat(proxy, model, **wishes)) == provider


def test_a_wish_that_nobody_meets_is_a_400_that_names_each_reason(proxy: Proxy) -> None:
    answer = chat(proxy, "plain", exclude="dear", max_cost="0.0000001")
    assert (answer.status, answer.json["error"]["code"]) == (400, "unsupported_feature")
    assert "dear/ok excluded by the request; cheap/ok expected to cost $" in answer.json["error"]["message"]
    assert row(proxy, answer)["outcome"] == "rejected"


def test_a_wish_that_cannot_be_meant_is_a_400_of_its_header(proxy: Proxy) -> None:
    answer = chat(proxy, "plain", max_latency="soon")
    assert (answer.status, answer.json["error"]["param"]) == (400, "x-tollbridge-max-latency")
