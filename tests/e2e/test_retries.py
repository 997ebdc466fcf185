"""What the fault table cannot show: stale connections, retries at the one usable target, circuits that open."""

from __future__ import annotations

import pytest

from proxy.torture.upstream import Upstream
from tests.e2e.client import Client
from tests.e2e.conftest import Start, provider

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", params=["native", "httpx"])
def client(request: pytest.FixtureRequest, start: Start, upstream: Upstream) -> Client:
    def one(**more: object) -> dict[str, object]:
        return provider(upstream.url, transport=request.param, **more)

    upstream.requests.clear()
    names = ("stale", "closed", "retried", "limited", "alone", "opens", "spent", "dead", "two_keys")
    return start(
        {
            "defaults": {"retries": 1, "circuit": {"failures": 2, "open": "60s", "open_max": "60s"}},
            "providers": {
                **{name: one() for name in names},
                "two_keys": one(api_key=None, api_keys=["sk-refused", "sk-fine"]),
            },
            "chains": {
                "stale": ["stale/stale"],
                "closed": ["closed/ok"],
                "retried": ["retried/fails_once"],
                "limited": ["limited/limit_once"],
                "unlucky": ["alone/status_500"],
                "opens": {"targets": ["opens/status_500", "closed/ok"], "retries": 0},
                "spent": ["spent/limit_spent_by_this", "closed/ok"],
                "dead": {"targets": ["dead/status_500"], "retries": 0},
                "two keys": ["two_keys/wants_fine_key"],
            },
        }
    ).client


def test_a_stale_connection_is_replaced_unseen(client: Client, upstream: Upstream) -> None:
    first = client.chat("stale")
    second = client.chat("stale")

    assert (first.status, second.status) == (200, 200)
    row = client.row(second.id)
    assert [(attempt["outcome"], attempt["error_class"]) for attempt in row["attempt_list"]] == [
        ("failed", "stale_retry"),
        ("ok", None),
    ]
    assert row["attempt_list"][0]["at_risk_tokens"] == 0
    state = client.target("stale", "stale")
    assert (state["circuit"], state["failed"], state["ok"]) == ("closed", 0, 2)
    assert client.metrics()['tollbridge_events_total{event="stale_retry"}'] == 1


def test_a_connection_closed_while_idle_costs_no_attempt(client: Client, upstream: Upstream) -> None:
    assert client.chat("closed").status == 200
    upstream.close_idle()
    answer = client.chat("closed", stream=True)

    assert answer.done
    assert client.row(answer.id)["outcome"] == "ok"


def test_the_one_usable_target_is_tried_again(client: Client) -> None:
    answer = client.chat("retried")

    assert (answer.status, answer.headers["x-tollbridge-attempts"]) == (200, "2")
    row = client.row(answer.id)
    assert [attempt["error_class"] for attempt in row["attempt_list"]] == ["5xx", None]
    assert {"attempt": 1, "target": "retried/fails_once", "error": "5xx", "then": "retry"}.items() <= row["trace"][-1].items()


def test_a_short_rate_limit_is_waited_for_when_there_is_nothing_else(client: Client) -> None:
    answer = client.chat("limited")

    assert (answer.status, answer.headers["x-tollbridge-attempts"]) == (200, "2")


def test_the_retry_is_made_once(client: Client, upstream: Upstream) -> None:
    before = upstream.requests["status_500"]
    answer = client.chat("unlucky")

    assert (answer.status, answer.error["code"]) == (502, "upstream_unavailable")
    assert upstream.requests["status_500"] - before == 2


def test_a_circuit_opens_and_is_left_alone(client: Client, upstream: Upstream) -> None:
    before = upstream.requests["status_500"]
    answers = [client.chat("opens") for _ in range(6)]

    assert [answer.status for answer in answers] == [200] * 6
    assert [answer.headers["x-tollbridge-attempts"] for answer in answers] == ["2", "2", "1", "1", "1", "1"]
    assert upstream.requests["status_500"] - before == 2
    assert client.row(answers[-1].id)["trace"][0] == {"target": "opens/status_500", "skipped": "circuit open"}
    assert client.metrics()['tollbridge_circuit_state{model="status_500",provider="opens"}'] == 2


def test_a_limit_that_a_good_answer_says_is_used_up_is_respected(client: Client) -> None:
    assert client.chat("spent").headers["x-tollbridge-provider"] == "spent"
    assert client.chat("spent").headers["x-tollbridge-provider"] == "closed"
    assert 60 < client.target("spent", "limit_spent_by_this")["cooldown_s"] <= 66


def test_with_every_circuit_open_the_answer_is_immediate(client: Client, upstream: Upstream) -> None:
    for _ in range(2):
        assert client.chat("dead").status == 502
    client.chat("dead")  # the one a second that may try all the same
    answer = client.chat("dead")

    assert (answer.status, answer.error["code"]) == (503, "all_providers_unavailable")
    assert 1 <= int(answer.headers["retry-after"]) <= 75
    row = client.row(answer.id)
    assert (row["outcome"], row["attempts"], row["attempt_list"]) == ("failed", 0, [])
    assert row["duration_ms"] < 50
    assert client.metrics()['tollbridge_events_total{event="chain_exhausted"}'] >= 1


def test_a_refused_key_is_set_aside_and_the_other_used(client: Client) -> None:
    answers = [client.chat("two keys") for _ in range(4)]

    assert [answer.status for answer in answers] == [200] * 4
    assert sorted(answer.headers["x-tollbridge-attempts"] for answer in answers) == ["1", "1", "1", "2"]
    trace = client.row(answers[-1].id)["trace"]
    assert trace == [{"target": "two_keys/wants_fine_key", "kept": True, "keys_set_aside": ["latched: bad key"]}]
