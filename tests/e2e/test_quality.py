"""Answers that are measured, over the wire: what a caller is given, what ledger, metrics and budgets say, and the judge's rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.core.limits import JUDGE_TASK
from proxy.torture.scripts import SCRIPTS
from proxy.torture.upstream import Call, Upstream
from tests.e2e.client import Answer, until
from tests.e2e.conftest import provider, write_config
from tests.e2e.running import Proxy

pytestmark = pytest.mark.integration

ASK = [{"role": "user", "content": "Explain in a few sentences how tides work."}]
GOOD = "Tides work because the Moon's gravity pulls the oceans towards it: they rise and fall twice a day as the Earth turns."
SORRY = "I'm sorry, but I can't help with that."
TOKENS = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
COST = 50  # millionths of a dollar


def whole(text: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": TOKENS}


async def good(call: Call) -> None:
    await call.json(200, whole(GOOD))


async def refuses(call: Call) -> None:
    await call.json(200, whole(SORRY))


async def judges(call: Call) -> None:
    assert call.body["messages"][-1]["content"].count("=====") == 3
    await call.json(200, whole('{"score": 60}'))


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    upstream = Upstream({**SCRIPTS, "good": good, "refuses": refuses, "judges": judges})
    upstream.start()
    config = {
        "providers": {"first": provider(upstream.url), "second": provider(upstream.url)},
        "chains": {
            "smart": {"targets": ["first/refuses", "second/good"], "quality": {"min": 0.6}},
            "last": {"targets": ["first/refuses", "second/status_500"], "quality": {"min": 0.6}},
            "canned": {"targets": ["first/refuses", {"static": "Nobody is here."}], "quality": {"min": 0.6}},
            "judged": {
                "targets": ["first/good"],
                "quality": {"min": 0.5, "judge": "second/judges", "judge_budget": {"usd": 5, "per": "month"}},
            },
        },
    }
    running = Proxy(write_config(tmp_path_factory.mktemp("quality"), config))
    yield running
    running.stop()
    upstream.stop()
    assert upstream.faults == []


def ask(proxy: Proxy, model: str) -> Answer:
    answer = proxy.client.chat(model, messages=ASK)
    assert answer.status == 200, answer.body
    return answer


def text(answer: Answer) -> str:
    found: str = json.loads(answer.body)["choices"][0]["message"]["content"]
    return found


def millionths(usd: str) -> int:
    return round(float(usd) * 1_000_000)


def test_the_better_answer_is_given_and_both_are_in_the_ledger(proxy: Proxy) -> None:
    answer = ask(proxy, "smart")
    assert text(answer) == GOOD
    assert (answer.headers["x-tollbridge-provider"], answer.headers["x-tollbridge-attempts"]) == ("second", "2")
    row = proxy.client.row(answer.id)
    assert (row["outcome"], row["provider"], row["upstream_model"], row["attempts"]) == ("ok", "second", "good", 2)
    assert row["quality"] == 1.0
    assert [attempt["outcome"] for attempt in row["attempt_list"]] == ["ok", "ok"]
    assert millionths(row["cost_usd"]) == 2 * COST
    told = [entry for entry in row["trace"] if "quality" in entry]
    assert [(entry["attempt"], entry["then"]) for entry in told] == [(1, "next"), (2, "answer")]
    assert told[0]["parts"]["reasons"] == ["refused"]
    moves = proxy.client.get("/api/v1/monitoring/fallback-stats").json
    assert {"chain": "smart", "from": "first/refuses", "to": "second/good", "reason": "quality", "count": 1} in moves["data"]


@pytest.mark.parametrize("chain", ["last", "canned"])
def test_a_low_answer_is_still_an_answer(proxy: Proxy, chain: str) -> None:
    answer = ask(proxy, chain)
    assert text(answer) == SORRY
    assert answer.headers["x-tollbridge-provider"] == "first"
    row = proxy.client.row(answer.id)
    assert (row["outcome"], row["provider"], row["upstream_model"], row["finish_reason"]) == ("ok", "first", "refuses", "stop")
    assert row["quality"] == 0.3


def test_a_judge_has_a_row_and_a_budget_of_its_own(proxy: Proxy) -> None:
    answer = ask(proxy, "judged")
    row = proxy.client.row(answer.id)
    assert row["quality"] == pytest.approx((1.0 + 0.6) / 2)
    assert millionths(row["cost_usd"]) == COST

    def found() -> Any:
        rows = proxy.client.get("/api/v1/requests").json["data"]
        return next((one for one in rows if one["task"] == JUDGE_TASK), None)

    judge = proxy.client.row(until(found, what="the judge's row")["id"])
    assert judge["task_id"] == answer.id
    assert (judge["provider"], judge["agent"], judge["client"], judge["quality"]) == ("second", "judged", None, None)
    (budget,) = [one for one in proxy.client.get("/api/v1/budgets").json["data"] if one["scope"] == "judge"]
    assert (budget["name"], millionths(budget["spent_usd"]), millionths(budget["held_usd"])) == ("judged", COST, 0)


def test_metrics_count_what_was_measured(proxy: Proxy) -> None:
    before = proxy.client.metrics()
    ask(proxy, "smart")
    after = proxy.client.metrics()

    def grown(name: str, target: str, **labels: str) -> float:
        provider, model = target.split("/")
        series = [
            key
            for key in after
            if key.startswith(f"{name}{{")
            and all(f'{label}="{value}"' in key for label, value in {"provider": provider, "model": model, **labels}.items())
        ]
        return sum(after[key] - before.get(key, 0.0) for key in series)

    assert grown("tollbridge_answers_measured_total", "first/refuses", result="low") == 1
    assert grown("tollbridge_answers_measured_total", "second/good", result="good") == 1
    assert grown("tollbridge_answers_measured_total", "second/good", result="low") == 0
    assert grown("tollbridge_answer_quality_sum", "first/refuses") == pytest.approx(0.3)
    assert grown("tollbridge_answer_quality_count", "second/good") == 1
