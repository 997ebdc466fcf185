"""Who may come in, what they may spend, and that no secret ever comes out."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest

from proxy.torture.upstream import Upstream
from tests.e2e.client import Answer, Client, until
from tests.e2e.conftest import Launch, Start, provider
from tests.e2e.running import Door, Proxy, billed_calls

pytestmark = pytest.mark.integration

ADMIN, METRICS, CALLER = "admin-token-0001", "metrics-token-0001", "sk-caller-1"
AS_ADMIN = {"authorization": f"Bearer {ADMIN}"}
AS_CALLER = {"authorization": f"Bearer {CALLER}"}


@pytest.fixture(scope="module", params=["fast", "asgi"])
def guarded(request: pytest.FixtureRequest, start: Start, upstream: Upstream) -> Proxy:
    door: Door = request.param
    return start(
        {
            "auth": {"admin_token": ADMIN, "metrics_token": METRICS},
            "providers": {"fake": provider(upstream.url), "unpriced": provider(upstream.url, prices=None)},
            "chains": {"smart": ["fake/ok"], "other": ["fake/other"], "unpriced": ["unpriced/ok"]},
            "clients": {
                "caller": {"key": CALLER, "department": "research", "agent": "search"},
                "rotating": {"keys": ["sk-old-1", "sk-new-1"]},
                "narrow": {"key": "sk-narrow-1", "chains": ["smart"]},
                "poor": {"key": "sk-poor-1", "budget": {"usd": 0.00001, "per": "day"}},
                "soft": {"key": "sk-soft-1", "budget": {"usd": 0.00001, "per": "once", "hard": False}},
                "strict": {"key": "sk-strict-1", "budget": {"usd": 5, "per": "month"}},
            },
        },
        door=door,
    )


@pytest.fixture(scope="module")
def open_proxy(start: Start, upstream: Upstream) -> Proxy:
    return start({"providers": {"fake": provider(upstream.url)}, "chains": {"smart": ["fake/ok"]}}, bare=True)


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
def test_a_client_s_key_by_three_headers(guarded: Proxy, header: str) -> None:
    value = f"Bearer {CALLER}" if header == "authorization" else CALLER
    assert guarded.client.chat("smart", headers={header: value}).status == 200


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer nope"}, {"authorization": "Basic abc"}, {"x-api-key": ""}, AS_ADMIN], ids=str
)
def test_everybody_else_is_refused(guarded: Proxy, upstream: Upstream, headers: dict[str, str]) -> None:
    before = billed_calls(upstream)
    for answer in (guarded.client.chat("smart", headers=headers), guarded.client.get("/v1/models", headers)):
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert billed_calls(upstream) == before


def test_both_keys_work_while_one_is_changed(guarded: Proxy) -> None:
    assert [guarded.client.chat("smart", headers={"x-api-key": key}).status for key in ("sk-old-1", "sk-new-1")] == [200, 200]


def test_a_client_limited_to_chains(guarded: Proxy) -> None:
    key = {"x-api-key": "sk-narrow-1"}
    assert guarded.client.chat("smart", headers=key).status == 200
    for model in ("other", "fake/ok"):
        answer = guarded.client.chat(model, headers=key)
        assert (answer.status, answer.error["code"]) == (403, "model_not_allowed")
    assert [model["id"] for model in guarded.client.get("/v1/models", key).json["data"]] == ["smart"]


def test_the_stanza_wins_over_a_header(guarded: Proxy) -> None:
    sent = {**AS_CALLER, "x-tollbridge-department": "sales", "x-tollbridge-agent": "other", "x-tollbridge-task": "triage"}
    row = _row(guarded, guarded.client.chat("smart", headers=sent))
    assert (row["client"], row["department"], row["agent"], row["task"]) == ("caller", "research", "search", "triage")


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/api/v1/providers", {}, 401),
        ("/api/v1/providers", AS_CALLER, 401),
        ("/api/v1/providers", {"authorization": f"Bearer {METRICS}"}, 401),
        ("/api/v1/providers", AS_ADMIN, 200),
        ("/metrics", {}, 401),
        ("/metrics", {"authorization": f"Bearer {METRICS}"}, 200),
        ("/metrics", AS_ADMIN, 200),
        ("/livez", {}, 200),
        ("/readyz", {}, 200),
    ],
)
def test_tokens_open_what_they_are_for(guarded: Proxy, path: str, headers: dict[str, str], status: int) -> None:
    guarded.runtime.gateway.guard._wrong.clear()
    assert guarded.client.get(path, headers).status == status


def test_after_ten_wrong_tokens_only_the_right_one_is_heard(guarded: Proxy) -> None:
    guarded.runtime.gateway.guard._wrong.clear()
    wrong = [guarded.client.get("/api/v1/requests", {"authorization": f"Bearer wrong-{n}"}) for n in range(12)]

    assert [answer.status for answer in wrong] == [401] * 10 + [429] * 2
    assert 1 <= int(wrong[-1].headers["retry-after"]) <= 60
    assert guarded.client.get("/api/v1/requests", AS_ADMIN).status == 200
    assert guarded.client.chat("smart", headers={}).status == 401


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:80", "LOCALHOST:1"])
def test_without_a_token_loopback_hosts_are_served(open_proxy: Proxy, host: str) -> None:
    assert open_proxy.client.get("/api/v1/providers", {"host": host}).status == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1"])
def test_a_name_rebound_to_loopback_gets_nothing(open_proxy: Proxy, host: str) -> None:
    for path in ("/api/v1/providers", "/api/v1/requests", "/metrics"):
        assert open_proxy.client.get(path, {"host": host}).status == 403


def test_a_foreign_page_may_not_spend_the_owner_s_money(open_proxy: Proxy, upstream: Upstream) -> None:
    before = billed_calls(upstream)
    assert open_proxy.client.chat("smart", headers={"origin": "https://evil.example"}).status == 403
    assert billed_calls(upstream) == before


def test_the_path_that_counts_is_the_one_that_is_served(guarded: Proxy) -> None:
    for path in ("//api/v1/requests", "/api/v1/../v1/requests", "/API/v1/requests", "/api/v1/requests/"):
        assert guarded.client.get(path).status in (401, 404, 307)


def test_a_hard_budget_stops_what_a_soft_one_lets_through(guarded: Proxy, upstream: Upstream) -> None:
    poor, soft = {"x-api-key": "sk-poor-1"}, {"x-api-key": "sk-soft-1"}
    assert guarded.client.chat("smart", headers=poor).status == 200  # 25 micro-dollars of ten
    before = billed_calls(upstream)
    refused = guarded.client.chat("smart", headers=poor)

    assert (refused.status, refused.error["code"], refused.error["type"]) == (429, "budget_exceeded", "insufficient_quota")
    assert int(refused.headers["retry-after"]) > 0
    assert billed_calls(upstream) == before
    assert _row(guarded, refused)["outcome"] == "rejected"
    assert [guarded.client.chat("smart", headers=soft).status for _ in range(3)] == [200] * 3


def test_what_nobody_can_price_has_no_place_in_a_hard_budget(guarded: Proxy) -> None:
    answer = guarded.client.chat("unpriced", headers={"x-api-key": "sk-strict-1"})
    assert (answer.status, answer.error["code"]) == (429, "budget_exceeded")


def test_two_hundred_at_the_edge_overshoot_by_one_call_s_bound_at_most(start: Start, upstream: Upstream) -> None:
    limit, output_tokens = Decimal("0.0005"), 20
    proxy = start(
        {
            "providers": {"fake": provider(upstream.url)},
            "chains": {"smart": ["fake/ok"]},
            "clients": {"edge": {"key": CALLER, "budget": {"usd": float(limit), "per": "day"}}},
        }
    )
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: proxy.client.chat("smart", headers=AS_CALLER, max_tokens=output_tokens), range(200)))

    good = [answer for answer in answers if answer.status == 200]
    assert {answer.status for answer in answers} == {200, 429}
    assert {answer.error["code"] for answer in answers if answer.status == 429} == {"budget_exceeded"}
    rows = [proxy.client.row(answer.id) for answer in good]
    spent = sum((Decimal(row["cost_usd"]) for row in rows), Decimal(0))
    body_bytes = 200  # more than there are; a token a byte at 1 USD, and the output at 2
    assert spent <= limit + Decimal(body_bytes + 2 * output_tokens) / 1_000_000
    assert proxy.runtime.gateway.services.budgets.outstanding == 0


def test_no_secret_ever_comes_out(launch: Launch, upstream: Upstream) -> None:
    """One of each kind, through every path on which it might leak, and then looked for in all that was written and answered."""
    canaries = {
        "CANARY_KEY": "sk-canary-up",
        "CANARY_CLIENT": "sk-canary-in",
        "CANARY_ADMIN": "canary-admin-tok",
        "CANARY_HEADER": "canary-header-v",
    }
    wrong, prompt = "sk-canary-wrong", "canary-prompt-text"
    process = launch(
        {
            "server": {"log_level": "debug"},
            "auth": {"admin_token": "${CANARY_ADMIN}"},
            "defaults": {"retries": 0},
            "providers": {"fake": provider(upstream.url, api_key="${CANARY_KEY}", headers={"x-secret": "${CANARY_HEADER}"})},
            "chains": {
                "smart": ["fake/ok"],
                "echo": ["fake/key_echoed_in_400"],
                "refused": ["fake/key_echoed"],
                "broken": ["fake/error_event_after_content"],
            },
            "clients": {"caller": {"key": "${CANARY_CLIENT}"}},
        },
        environ=canaries,
    )
    client = process.ready()
    key, admin = {"x-api-key": canaries["CANARY_CLIENT"]}, {"authorization": f"Bearer {canaries['CANARY_ADMIN']}"}
    messages = [{"role": "user", "content": prompt}]
    answers = [
        client.chat(model, stream=stream, headers=key, messages=messages)
        for model in ("smart", "echo", "broken", "refused")
        for stream in (False, True)
    ]
    answers += [
        client.chat("smart", headers={"x-api-key": wrong}),
        client.get("/api/v1/requests", {"authorization": f"Bearer {wrong}"}),
    ]
    answers += [client.chat("smart", headers={**key, "x-tollbridge-prefer": prompt}), client.chat("no-such-model", headers=key)]
    admin_client = Client(process.port, admin)
    ids = [answer.id for answer in answers[:8]]
    details = [str(admin_client.row(one)) for one in ids]
    answers += [
        admin_client.get(path)
        for path in ("/api/v1/requests", "/api/v1/providers", "/api/v1/usage?group_by=client", "/metrics", "/readyz")
    ]

    texts = {f"answer {n}": answer.body.decode() + str(answer.headers) for n, answer in enumerate(answers)}
    texts |= {"output": process.output, "log": process.errors, "rows": str(details)}
    texts |= {
        path.name: path.read_bytes().decode("latin-1") for path in (process.directory / "data").rglob("*") if path.is_file()
    }
    secrets = (*canaries.values(), wrong, prompt)
    assert [(secret, where) for secret in secrets for where, text in texts.items() if secret in text] == []
    assert b"***" in answers[2].body  # the echo, redacted
    assert admin_client.metrics()["tollbridge_redactions_total"] >= 1


def test_the_ledger_is_for_its_owner_s_eyes(open_proxy: Proxy) -> None:
    data = open_proxy.runtime.settings.data_dir
    assert _mode(data) == 0o700
    until((data / "ledger.db").exists, what="the ledger")
    assert all(_mode(path) & 0o077 == 0 for path in (data / "journal").iterdir())
    with sqlite3.connect(f"file:{data / 'ledger.db'}?mode=ro", uri=True) as connection:
        assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
    connection.close()


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def _row(proxy: Proxy, answer: Answer) -> dict[str, object]:
    return Client(proxy.port, AS_ADMIN).row(answer.id)
