"""The admin API of a running proxy, asked over a socket: what calls were made shows in every report, and every answer has its shape."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from proxy.app import ROUTES
from proxy.core.alerts import ALERT_KINDS
from proxy.server.endpoints import FALLBACK
from proxy.server.openapi import OPERATIONS, document, name_of
from proxy.server.shapes import GROUPS, SCHEMAS
from proxy.storage.usage import GROUPS as STORED
from proxy.torture.scripts import SCRIPTS
from proxy.torture.upstream import COMPLETION_TOKENS, PROMPT_TOKENS, Call, Upstream
from tests.e2e.client import Client, until
from tests.e2e.conftest import provider, write_config
from tests.e2e.running import Proxy
from tests.server.json_schema import faults

integration = pytest.mark.integration
unit = pytest.mark.unit

KEY = "sk-of-the-upstream-0001"
CALLER = "sk-of-a-caller-0001"
ODD = 'Forschung/"<b>"'  # a department as somebody may write it
COST_OF_A_CALL = Decimal(PROMPT_TOKENS * 1 + COMPLETION_TOKENS * 2) / 1_000_000
WANTED = 6  # calls that are answered
RETRIED = 4  # three by another target, one at the same
FILE: dict[str, Any] = {
    "providers": {
        "fake": {"budget": {"usd": 10, "per": "month"}, "quotas": [{"requests": 1000, "per": "day"}], "limits": {"rpm": 600}},
        "broken": {},
        "missing": {"dialect": "openai", "base_url": "http://127.0.0.1:1/v1", "api_key": "${NOT_SET}"},
        "demo": {},
    },
    "chains": {
        "smart": ["broken/status_500", "fake/ok"],
        "plain": ["fake/ok"],
        "demo": ["demo/down", "demo/chat"],
        "unpriced": ["broken/nobody-knows"],
    },
    "clients": {"caller": {"key": CALLER, "limits": {"rpm": 6000}}},
    "budget": {"usd": 100, "per": "month", "hard": False},
    "departments": {"research": {"budget": {"usd": 1, "per": "day", "hard": False}}},
}


async def models(call: Call) -> None:
    """What a check of a provider asks for."""
    await call.json(200, {"data": [{"id": "ok"}, {"id": "status_500"}]})


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    made = Upstream({**SCRIPTS, "GET /v1/models HTTP/1.1": models})
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def proxy(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    config = json.loads(json.dumps(FILE))
    for name in ("fake", "broken"):
        config["providers"][name] |= provider(upstream.url, api_key=KEY)
    config["providers"]["broken"]["prices"] = {"status_500": {"input": 1, "output": 2}}
    running = Proxy(write_config(tmp_path_factory.mktemp("monitored"), config))
    running.client.headers["authorization"] = f"Bearer {CALLER}"
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(proxy: Proxy) -> Client:
    """After the calls that the reports are of."""
    asked = proxy.client
    answers = [
        asked.chat("smart", headers=tags("research", "alice", "triage")),
        asked.chat("smart", headers=tags("research", "bob")),
        asked.chat("plain", headers=tags("sales", "alice")),
        asked.chat("plain", headers=tags(quote(ODD), "alice") | {"x-tollbridge-department": ODD}),
        asked.chat("plain", stream=True),
        asked.chat("demo", headers=tags("research")),
        asked.chat("demo/down", headers=tags("sales")),
    ]
    assert [answer.status for answer in answers] == [200] * WANTED + [503]
    for answer in answers:
        asked.row(answer.id)
    assert asked.request("POST", "/api/v1/keys", {"name": "another"}).status == 200
    until(lambda: asked.get("/api/v1/monitoring/alerts").json["data"], what="an alert", seconds=20)
    until(lambda: asked.get("/api/status").json["checked"], what="a check", seconds=20)
    return asked


def tags(department: str, agent: str | None = None, task: str | None = None) -> dict[str, str]:
    given = {"department": department, "agent": agent, "task": task}
    return {f"x-tollbridge-{name}": value for name, value in given.items() if value is not None}


def asked(client: Client, path: str) -> Any:
    answer = client.get(path)
    assert answer.status == 200, answer.body
    return answer.json


def by_name(rows: list[dict[str, Any]]) -> dict[str | None, dict[str, Any]]:
    return {row["name"]: row for row in rows}


# -- the shapes


EXAMPLES = {
    "GET /api/v1/requests/{id}": "",
    "GET /api/v1/monitoring/department-usage/{department}": "/api/v1/monitoring/department-usage/research",
    "GET /api/v1/monitoring/agent-usage/{agent}": "/api/v1/monitoring/agent-usage/alice",
    "GET /v1/models/{model}": "/v1/models/plain",
    "GET /api/v1/usage": f"/api/v1/usage?group_by={','.join(GROUPS)}",
    "GET /api/v1/timeseries": "/api/v1/timeseries?group_by=provider",
    "GET /api/v1/quotas": "/api/v1/quotas?tokens_per_day=10000",
}
READABLE = sorted(name for name, operation in OPERATIONS.items() if name.startswith("GET ") and operation.answer is not None)


@unit
def test_every_route_is_described_but_the_pages_of_the_dashboard() -> None:
    described = {name_of(line) for line in ROUTES if line is not FALLBACK and not _is_page(line.path)}
    twins = {f"{method} {path}" for method, path in (name.split(" ") for name in described) if f"{method} /v1{path}" in described}
    assert set(OPERATIONS) == described - twins


def _is_page(path: str) -> bool:
    return path == "/" or path.startswith("/dashboard")


@unit
def test_the_description_is_whole() -> None:
    found = document(ROUTES)
    named = {line.rpartition("/")[2] for line in _refs(found)}
    assert named == set(SCHEMAS) - {name for name in SCHEMAS if name not in named}
    assert set(SCHEMAS) == named, "a shape that nothing answers"
    ids = [operation["operationId"] for path in found["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids)) == len(OPERATIONS)
    for path, operations in found["paths"].items():
        for operation in operations.values():
            places = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert all(f"{{{name}}}" in path for name in places)


def _refs(value: Any) -> Iterator[str]:
    match value:
        case dict():
            if "$ref" in value:
                yield value["$ref"]
            for item in value.values():
                yield from _refs(item)
        case list():
            for item in value:
                yield from _refs(item)


def _examples() -> Iterator[tuple[str, str]]:
    """What the manual shows: the route of each heading, and the answer below it."""
    page = (Path(__file__).parents[2] / "docs/api.md").read_text(encoding="utf-8")
    for section in page.split("\n### `")[1:]:
        found = re.search(r"^```json\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
        yield section.partition("`")[0], found[1] if found else ""


@unit
def test_the_manual_has_every_route_under_api() -> None:
    shown = [name for name, _ in _examples()]
    # one is the other's twin and named beside it
    assert {*shown, "GET /api/v1/admin/monitoring"} == {name for name in OPERATIONS if "/api" in name}
    assert len(shown) == len(set(shown))


@unit
@pytest.mark.parametrize(("name", "text"), [pair for pair in _examples() if pair[0] != "GET /api/v1/openapi.json"])
def test_the_examples_of_the_manual_have_their_shapes(name: str, text: str) -> None:
    answer = OPERATIONS[name].answer
    assert answer is not None
    assert list(faults(json.loads(text), answer, document(ROUTES))) == []


@unit
def test_the_manual_names_every_field_of_a_usage_row() -> None:
    page = (Path(__file__).parents[2] / "docs/api.md").read_text(encoding="utf-8").partition("## In one look")[0]
    assert [name for name in SCHEMAS["NamedUsage"]["properties"] if f"`{name}`" not in page and name != "name"] == []


@unit
def test_the_groups_are_those_of_the_ledger() -> None:
    assert GROUPS == STORED


@integration
@pytest.mark.parametrize("name", READABLE)
def test_every_answer_has_the_shape_that_it_is_described_with(client: Client, name: str) -> None:
    described = asked(client, "/api/v1/openapi.json")
    path = EXAMPLES.get(name, name.removeprefix("GET "))
    if not path:
        path = f"/api/v1/requests/{asked(client, '/api/v1/requests?limit=1')['data'][0]['id']}"
    template = name.removeprefix("GET ")
    schema = described["paths"][template]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    found = asked(client, path)
    assert list(faults(found, schema, described)) == []
    # a list that is empty shows nothing of its rows
    if name not in EMPTY and isinstance(found, dict) and "data" in found:
        assert found["data"], f"{name} has nothing to be checked"


EMPTY = {"GET /api/v1/monitoring/budget-alerts", "GET /api/v1/cache"}


@integration
@pytest.mark.parametrize("path", ["/api/v1/nowhere", "/api/v1/usage?group_by=nonsense", "/api/v1/requests/NOBODY"])
def test_an_error_has_its_shape_too(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status in (400, 404)
    assert list(faults(answer.json, SCHEMAS["Error"], {})) == []


@integration
def test_which_way_a_request_would_go(client: Client) -> None:
    before = asked(client, "/api/v1/usage")["data"][0]["requests"]
    body = {"model": "smart", "request": {"messages": [{"role": "user", "content": "Hello"}]}, "client": "caller"}
    answer = client.request("POST", "/api/v1/explain", {**body, "headers": {"x-tollbridge-prefer": "fake"}})
    assert answer.status == 200
    described = asked(client, "/api/v1/openapi.json")
    schema = described["paths"]["/api/v1/explain"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert list(faults(answer.json, schema, described)) == []
    assert (answer.json["chain"], answer.json["state"], answer.json["order"][0]) == ("smart", "live", "fake/ok")
    assert asked(client, "/api/v1/usage")["data"][0]["requests"] == before


@integration
@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "nobody-has-it"}, 404, "model"),
        ({"model": "smart", "client": "nobody"}, 400, "client"),
        ({"model": "smart", "request": {"messages": 7}}, 400, "messages"),
        ({"model": "smart", "headers": {"x-tollbridge-max-latency": "soon"}}, 400, "x-tollbridge-max-latency"),
        ({"models": "smart"}, 400, "models"),
        (b"{", 400, None),
    ],
)
def test_what_cannot_be_explained(client: Client, body: Any, status: int, param: str | None) -> None:
    answer = client.request("POST", "/api/v1/explain", body)
    assert (answer.status, answer.error["param"]) == (status, param)


# -- the figures


@integration
def test_the_calls_are_in_the_dashboard(client: Client) -> None:
    found = asked(client, "/api/v1/monitoring/dashboard")
    assert (found["calls"], found["fallbacks"]) == (WANTED + 1, RETRIED)
    assert Decimal(found["cost_usd"]) == 5 * COST_OF_A_CALL
    assert found["success_rate"] == pytest.approx(WANTED / (WANTED + 1), abs=1e-4)
    assert found["tokens"]["output"] > 5 * COMPLETION_TOKENS
    assert 0 < found["p50_ms"] <= found["p95_ms"]
    assert found["budget_utilization"] == pytest.approx(float(5 * COST_OF_A_CALL / 100), abs=1e-4)
    providers, departments = by_name(found["by_provider"]), by_name(found["by_department"])
    assert (providers["fake"]["requests"], providers["fake"]["attempts_ok"]) == (5, 5)
    assert Decimal(providers["fake"]["cost_usd"]) == 5 * COST_OF_A_CALL
    assert providers["broken"]["attempts_failed"] == 2
    assert {name: row["requests"] for name, row in departments.items()} == {"research": 3, "sales": 2, ODD: 1, None: 1}
    assert by_name(found["by_client"])["caller"]["requests"] == WANTED + 1
    assert {name: row["requests"] for name, row in by_name(found["by_agent"]).items()} == {"alice": 3, "bob": 1, None: 3}
    assert Decimal(found["month"]["spent_usd"]) == Decimal(found["today_usd"]) == 5 * COST_OF_A_CALL
    assert found["month"]["budget_usd"] == "100"
    assert Decimal(found["month"]["projection_usd"]) >= 5 * COST_OF_A_CALL


@integration
def test_the_dashboard_of_a_department_an_agent_a_model(client: Client) -> None:
    calls = {
        query: asked(client, f"/api/v1/monitoring/dashboard?{query}")["calls"]
        for query in (
            "department=research",
            "agent=alice",
            "model=chat",
            "provider=fake",
            "chain=plain",
            "client=caller",
            "task=triage",
        )
    }
    assert calls == {
        "department=research": 3,
        "agent=alice": 3,
        "model=chat": 1,
        "provider=fake": 5,
        "chain=plain": 3,
        "client=caller": WANTED + 1,
        "task=triage": 1,
    }


@integration
def test_what_a_department_used(client: Client) -> None:
    found = asked(client, "/api/v1/monitoring/department-usage/research")
    assert (found["department"], found["calls"], found["success_rate"]) == ("research", 3, 1.0)
    assert Decimal(found["cost_usd"]) == 2 * COST_OF_A_CALL
    assert found["tokens"] == found["input_tokens"] + found["output_tokens"]
    assert set(by_name(found["by_agent"])) == {"alice", "bob", None}
    assert {"ok", "chat"} <= set(by_name(found["by_model"]))
    assert asked(client, "/api/v1/monitoring/agent-usage/alice")["calls"] == 3


@integration
def test_a_department_with_an_odd_name_and_one_that_nobody_knows(client: Client) -> None:
    assert asked(client, f"/api/v1/monitoring/department-usage/{quote(ODD, safe='')}")["calls"] == 1
    found = asked(client, "/api/v1/monitoring/department-usage/nobody")
    assert (found["department"], found["calls"], found["tokens"], found["cost_usd"], found["by_model"]) == (
        "nobody",
        0,
        0,
        "0",
        [],
    )


@integration
def test_where_the_money_goes(client: Client) -> None:
    found = asked(client, "/api/v1/monitoring/cost-analysis")
    rows = {row["provider"]: row for row in found["by_provider"]}
    assert Decimal(found["cost_usd"]) == Decimal(rows["fake"]["cost_usd"]) == 5 * COST_OF_A_CALL
    assert (rows["fake"]["share"], rows["fake"]["budget_usd"], found["budget_usd"]) == (1.0, "10", "100")


@integration
def test_failovers_by_where_from_where_to_and_why(client: Client) -> None:
    found = asked(client, "/api/v1/monitoring/fallback-stats")
    moves = {(move["chain"], move["from"], move["to"]): (move["reason"], move["count"]) for move in found["data"]}
    assert moves == {
        ("smart", "broken/status_500", "fake/ok"): ("5xx", 2),
        ("demo", "demo/down", "demo/chat"): ("overloaded", 1),
    }
    assert (found["total"], found["rate"]) == (3, pytest.approx(RETRIED / (WANTED + 1), abs=1e-4))
    assert asked(client, "/api/v1/monitoring/fallback-stats?chain=demo")["total"] == 1


@integration
def test_usage_by_every_group(client: Client) -> None:
    for group in GROUPS:
        rows = asked(client, f"/api/v1/usage?group_by={group}")["data"]
        assert sum(row["requests"] for row in rows) == WANTED + 1, group
        assert sum(Decimal(row["cost_usd"]) for row in rows) == 5 * COST_OF_A_CALL, group
        assert all(group in row for row in rows)
    (total,) = asked(client, "/api/v1/usage")["data"]
    assert (total["requests"], total["ok"], total["failed"]) == (WANTED + 1, WANTED, 1)
    assert asked(client, "/api/v1/usage?until=2020-01-01")["data"] == []
    (filtered,) = asked(client, "/api/v1/usage?department=sales&time_zone=Asia/Kolkata")["data"]
    assert filtered["requests"] == 2


@integration
@pytest.mark.parametrize(("query", "steps"), [("since=3h", (4,)), ("since=3h&step=hour", (4,)), ("since=7d", (8,))])
def test_a_series_has_every_step(client: Client, query: str, steps: tuple[int, ...]) -> None:
    found = asked(client, f"/api/v1/timeseries?{query}")["data"]
    assert len(found) in (*steps, steps[0] - 1)  # on the hour, on the day
    assert sum(point["requests"] for point in found) == WANTED + 1
    assert [point["time"] for point in found] == sorted(point["time"] for point in found)
    groups = asked(client, f"/api/v1/timeseries?{query}&group_by=provider")["data"]
    assert sum(point["requests"] for point in groups) == WANTED + 1
    assert len(groups) == len(found) * len({point["provider"] for point in groups})


@integration
def test_budgets_as_they_stand(client: Client) -> None:
    found = {(row["scope"], row["name"]): row for row in asked(client, "/api/v1/budgets")["data"]}
    assert found.keys() == {("total", None), ("provider", "fake"), ("department", "research")}
    assert Decimal(found["total", None]["spent_usd"]) == Decimal(found["provider", "fake"]["spent_usd"]) == 5 * COST_OF_A_CALL
    assert Decimal(found["department", "research"]["spent_usd"]) == 2 * COST_OF_A_CALL
    assert (found["provider", "fake"]["hard"], found["total", None]["hard"]) == (True, False)
    for row in found.values():
        assert Decimal(row["remaining_usd"]) == Decimal(row["limit_usd"]) - Decimal(row["spent_usd"])
        assert row["resets"] is not None
        assert row["held_usd"] == "0"


@integration
def test_limits_of_the_file(client: Client) -> None:
    (limit,) = asked(client, "/api/v1/limits")["data"]
    assert (limit["provider"], limit["unit"], limit["limit"], limit["source"]) == ("fake", "requests", 600, "file")


@integration
def test_advice_has_its_figures_and_a_source_that_answers(client: Client) -> None:
    found = asked(client, "/api/v1/advice")["data"]
    assert {advice["kind"] for advice in found} >= {"projection"}
    for advice in found:
        assert advice["figures"]
        asked(client, advice["source"])
    assert asked(client, "/api/v1/advice?kind=cache_writes")["data"] == []


# -- health


@integration
def test_who_is_well_and_who_is_not(client: Client) -> None:
    def settled() -> dict[str, Any] | None:
        found: dict[str, Any] = asked(client, "/api/status")
        return found if {"broken", "demo"} <= {*found["degraded"], *found["down"]} else None

    found = until(settled, what="the first check, and a look at what calls came to", seconds=20)
    assert (found["checked"] is not None, found["healthy"]) == (True, ["fake"])
    assert found["providers"] == sum(len(found[state]) for state in ("healthy", "degraded", "down", "unknown")) == 3
    cards = {row["name"]: row for row in asked(client, "/api/v1/monitoring/health-check")["providers"]}
    assert set(cards) == {"fake", "broken", "missing", "demo"}
    assert (cards["fake"]["models"], cards["fake"]["key_valid"], cards["fake"]["error"]) == (2, True, None)
    assert cards["missing"]["state"] == "disabled"
    assert "NOT_SET" in cards["missing"]["reason"]
    assert [role["chain"] for role in cards["fake"]["roles"]] == ["smart", "plain"]


@integration
def test_a_check_of_one_now(client: Client) -> None:
    before = asked(client, "/api/v1/monitoring/health-check?provider=fake")
    after = asked(client, "/api/v1/monitoring/health-check?provider=fake&fresh=1")
    assert [row["name"] for row in after["providers"]] == ["fake"]
    assert after["checked"] is not None
    assert before["checked"] is None or after["checked"] >= before["checked"]
    refused = client.get("/api/v1/monitoring/health-check?provider=fake,nobody")
    assert (refused.status, refused.error["param"]) == (400, "provider")


@integration
def test_who_can_serve_and_for_what(client: Client) -> None:
    found = {row["name"]: row for row in asked(client, "/api/v1/monitoring/provider-status")["providers"]}
    assert (found["fake"]["configured"], found["missing"]["configured"], found["missing"]["available"]) == (True, False, False)
    assert found["fake"]["roles"] == [{"chain": "smart", "role": "fallback"}, {"chain": "plain", "role": "primary"}]


@integration
def test_providers_keep_their_fields_and_have_the_fused_state(client: Client) -> None:
    rows = {row["name"]: row for row in asked(client, "/api/v1/providers")["data"]}
    cards = {row["name"]: row for row in asked(client, "/api/v1/monitoring/health-check")["providers"]}
    assert {name: row["state"] for name, row in rows.items()} == {name: card["state"] for name, card in cards.items()}
    target = {row["model"]: row for row in rows["fake"]["targets"]}["ok"]
    assert (target["state"], target["ok"]) == ("healthy", 5)


# -- alerts


@integration
def test_an_alert_is_raised_seen_and_acknowledged(proxy: Proxy, client: Client) -> None:
    def raised() -> dict[str, Any] | None:
        found = asked(client, "/api/v1/monitoring/alerts?kind=fallback_used")
        return found if found["data"] else None

    found = until(raised, what="the alert", seconds=15)
    alert = found["data"][0]
    assert (alert["state"], alert["severity"], alert["kind"] in ALERT_KINDS) == ("open", "info", True)
    assert found["open"] >= 1
    assert asked(client, "/api/v1/monitoring/dashboard")["active_alerts"] >= 1
    answer = client.request("POST", f"/api/v1/alerts/{alert['id']}/acknowledge")
    assert (answer.status, answer.json["state"], answer.json["id"]) == (200, "acknowledged", alert["id"])
    assert list(faults(answer.json, {"$ref": "#/components/schemas/Alert"}, document(ROUTES))) == []
    shown = asked(client, "/api/v1/monitoring/alerts?state=acknowledged")["data"]
    assert alert["id"] in [row["id"] for row in shown]
    missing = client.request("POST", "/api/v1/alerts/NOBODY/acknowledge")
    assert (missing.status, missing.error["code"]) == (404, "not_found")


# -- quotas


@integration
def test_a_quota_begins_anew_when_the_operator_says_so(client: Client) -> None:
    def quota() -> dict[str, Any]:
        (found,) = asked(client, "/api/v1/quotas?tokens_per_day=10000&tokens_per_request=100")["data"]
        return dict(found)

    used = quota()
    assert (used["provider"], used["unit"], used["used"], used["remaining"]) == ("fake", "requests", 5, 995)
    assert (used["lasts_days"], used["per_day"], used["rate_source"]) == (10.0, 100.0, "given")
    answer = client.request("POST", "/api/v1/quotas/reset", {"provider": "fake"})
    assert (answer.status, [row["used"] for row in answer.json["data"]]) == (200, [0])
    assert quota()["used"] == 0


@integration
@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"provider": "broken"}, 404, None),
        ({"provider": "nobody"}, 404, None),
        ({"provider": "fake", "key": "00000000"}, 404, None),
        ({"provider": "fake", "key": 7}, 400, "key"),
        ({"provider": ["fake"]}, 400, "provider"),
        ({}, 400, "provider"),
        ([], 400, None),
        (b"{", 400, None),
        (b"\xff", 400, None),
    ],
)
def test_what_cannot_begin_anew(client: Client, body: Any, status: int, param: str | None) -> None:
    answer = client.request("POST", "/api/v1/quotas/reset", body)
    assert (answer.status, answer.error["param"]) == (status, param)


@integration
def test_a_body_that_is_too_long_is_not_read(client: Client) -> None:
    answer = client.request("POST", "/api/v1/quotas/reset", b" " * 65_537)
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")


@integration
@pytest.mark.parametrize("path", ["/api/v1/quotas/reset", "/api/v1/alerts/A1/acknowledge"])
@pytest.mark.parametrize("origin", ["https://evil.example.com", "null", "http://127.0.0.1:1"])
def test_no_other_page_may_change_anything(client: Client, path: str, origin: str) -> None:
    answer = client.request("POST", path, {"provider": "fake"}, {"origin": origin, "content-type": "text/plain"})
    assert (answer.status, answer.error["code"]) == (403, "forbidden")


# -- what makes no sense


@integration
@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/api/v1/monitoring/dashboard?since=yesterday", "since"),
        ("/api/v1/monitoring/dashboard?since=1d&until=2d", "since"),
        ("/api/v1/monitoring/cost-analysis?time_zone=Moon", "time_zone"),
        ("/api/v1/usage?group_by=provider,nonsense", "group_by"),
        ("/api/v1/usage?after=minus", "after"),
        ("/api/v1/usage?after=1234567890", "after"),
        ("/api/v1/usage?limit=few", "limit"),
        ("/api/v1/timeseries?step=minute", "step"),
        ("/api/v1/timeseries?group_by=hour", "group_by"),
        ("/api/v1/timeseries?step=hour&since=2020-01-01", "since"),
        ("/api/v1/quotas?tokens_per_day=many", "tokens_per_day"),
        ("/api/v1/quotas?tokens_per_day=-1", "tokens_per_day"),
        ("/api/v1/quotas?tokens_per_request=nan", "tokens_per_request"),
        ("/api/v1/monitoring/alerts?state=angry", "state"),
        ("/api/v1/monitoring/alerts?limit=many", "limit"),
        ("/api/v1/monitoring/alerts?kind=provider_dwon", "kind"),
        ("/api/v1/advice?kind=idle,cheeper", "kind"),
    ],
)
def test_a_query_that_makes_no_sense_is_a_400_by_name(client: Client, path: str, param: str) -> None:
    answer = client.get(path)
    assert (answer.status, answer.error["param"]) == (400, param)


# -- secrets


@integration
def test_no_key_is_in_any_answer(proxy: Proxy, client: Client) -> None:
    secrets = [KEY.encode(), CALLER.encode(), *(secret.encode() for secret in proxy.runtime.settings.secrets())]
    for name in OPERATIONS:
        if name.startswith("GET "):
            body = client.get(EXAMPLES.get(name) or name.removeprefix("GET ")).body
            assert [secret for secret in secrets if secret in body] == [], name


@integration
def test_without_the_token_nothing_is_told(upstream: Upstream, tmp_path: Path) -> None:
    config = {
        "providers": {"fake": provider(upstream.url)},
        "chains": {"plain": ["fake/ok"]},
        "auth": {"admin_token": "an-admin-token"},
    }
    guarded = Proxy(write_config(tmp_path, config))
    try:
        for name in OPERATIONS:
            method, path = name.split(" ")
            if path.startswith("/api"):
                assert guarded.client.request(method, path).status == 401, name
        admin = {"authorization": "Bearer an-admin-token"}
        assert guarded.client.get("/api/monitor", admin).status == 200
    finally:
        guarded.stop()
