"""Which way a request would go: the relay's own plan, with nothing sent and nothing changed by asking."""

from typing import Any

import pytest

from proxy.accounting.pricing import PriceBook
from proxy.config.load import load
from proxy.config.settings import Settings
from proxy.core.errors import InvalidValue, ModelNotAllowed, ModelNotFound, ProxyError
from proxy.engine.foreseen import MAX_HEADERS, foresee, read_question
from proxy.routing.deployment import Deployments
from proxy.routing.plan import layout_of
from proxy.routing.rederive import rederive

pytestmark = pytest.mark.unit

FILE = """
data_dir: data
providers:
  dear: {dialect: openai, base_url: "http://127.0.0.1:9", api_key: k, prices: {"*": {input: 10, output: 20}}, region: eu-west-1}
  fair:
    dialect: openai
    base_url: http://127.0.0.1:9
    api_keys: [k1, k2]
    prices: {"*": {input: 1, output: 2}}
    models: {m: {quality: 80, expected_first_token: 250ms, context: 8000, capabilities: [tools]}}
chains:
  order: [dear/m, fair/m]
  cheap: {targets: [dear/m, fair/m], strategy: cheapest, quality: {min: 0.6}, cache: {ttl: 1h}, hedge: {after: 500ms}, on_break: continue}
  score: {targets: [dear/m, fair/m], strategy: score}
  turns: {targets: [dear/m, fair/m], strategy: round_robin}
clients:
  limited: {key: secret-key-of-limited, chains: [order]}
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    path = tmp_path_factory.mktemp("foreseen") / "providers.yaml"
    path.write_text(FILE, encoding="utf-8")
    return load(path, environ={})


@pytest.fixture
def deployments() -> Deployments:
    return Deployments(lambda: 0.5)


def foreseen(settings: Settings, deployments: Deployments, **told: Any) -> dict[str, Any]:
    prices = PriceBook(settings.data_dir / "cache")
    return foresee(
        read_question(told),
        settings,
        deployments=deployments,
        prices=prices,
        now=1000.0,
        wall=1_800_000_000.0,
        random=lambda: 0.5,
    )


def test_a_chain_in_its_own_order(settings: Settings, deployments: Deployments) -> None:
    plan = foreseen(settings, deployments, model="order")
    assert (plan["chain"], plan["strategy"], plan["order"], plan["asked"]) == ("order", "order", ["dear/m", "fair/m"], None)
    assert plan["config"] == settings.hash
    dear, fair = plan["targets"]
    assert (dear["keys"], fair["keys"], fair["usable_keys"], fair["first_token_ms"]) == (1, 2, 2, 250.0)
    assert (fair["first_token_from"], fair["context"], dear["first_token_ms"]) == ("declared", 8000, None)
    expected = (plan["input_tokens"] * 10 + plan["output_tokens"] * 20) / 1_000_000
    assert float(dear["expected_cost_usd"]) == pytest.approx(expected)


def test_the_figures_of_a_strategy_lead_to_its_order(settings: Settings, deployments: Deployments) -> None:
    for model in ("cheap", "score"):
        plan = foreseen(settings, deployments, model=model)
        assert plan["order"] == ["fair/m", "dear/m"]
        assert rederive(plan["asked"], plan["trace"]) == plan["order"]


def test_what_may_happen_besides(settings: Settings, deployments: Deployments) -> None:
    whole = foreseen(settings, deployments, model="cheap")["options"]
    assert whole == {"cache_ttl_s": 3600.0, "quality_min": 0.6, "hedged": False, "on_break": None}
    body = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
    streamed = foreseen(settings, deployments, model="cheap", request=body)["options"]
    assert streamed == {"cache_ttl_s": 3600.0, "quality_min": None, "hedged": True, "on_break": "continue"}
    assert foreseen(settings, deployments, model="order")["options"]["cache_ttl_s"] is None


def test_the_model_takes_the_place_of_the_requests(settings: Settings, deployments: Deployments) -> None:
    body = {"model": "order", "messages": [{"role": "user", "content": "Hello"}]}
    assert foreseen(settings, deployments, request=body)["chain"] == "order"
    assert foreseen(settings, deployments, request=body, model="score")["chain"] == "score"
    assert foreseen(settings, deployments, model="fair/other")["order"] == ["fair/other"]


def test_embeddings_are_known_by_their_input(settings: Settings, deployments: Deployments) -> None:
    plan = foreseen(settings, deployments, request={"model": "cheap", "input": "some words"})
    assert (plan["output_tokens"], plan["options"]["quality_min"]) == (0, None)


def test_wishes_are_those_of_the_headers(settings: Settings, deployments: Deployments) -> None:
    plan = foreseen(settings, deployments, model="order", headers={"X-Tollbridge-Prefer": "fair"})
    assert plan["order"] == ["fair/m", "dear/m"]
    plan = foreseen(settings, deployments, model="order", headers={"x-tollbridge-require": "region:eu"})
    assert (plan["order"], plan["trace"][-1]) == (["dear/m"], {"target": "fair/m", "skipped": "lacks region:eu"})


def test_where_none_can_serve_it_says_why(settings: Settings, deployments: Deployments) -> None:
    plan = foreseen(settings, deployments, model="cheap", headers={"x-tollbridge-max-cost": "0"})
    assert plan["order"] == []
    assert "dear/m expected to cost" in plan["refused"]


def test_a_target_that_is_set_aside_is_told_with_how_long(settings: Settings, deployments: Deployments) -> None:
    chain = settings.resolve("order")
    assert chain is not None
    for row in layout_of(chain, deployments).rows:
        for candidate in row.candidates:
            candidate.deployment.cool_until = 1012.5
    plan = foreseen(settings, deployments, model="order")
    assert (plan["order"], plan["refused"], plan["wait_s"]) == ([], None, 12.5)
    assert plan["trace"][0]["skipped"].startswith("cooling down")


def test_asking_changes_nothing(settings: Settings, deployments: Deployments) -> None:
    """Neither whose turn it is among keys or targets, nor anything that a request after it would find."""
    for model in ("turns", "order"):
        chain = settings.resolve(model)
        assert chain is not None
        layout = layout_of(chain, deployments)
        before = layout.turn, layout.served
        told = [foreseen(settings, deployments, model=model) for _ in range(3)]
        assert (layout.turn, layout.served) == before
        assert told[0] == told[1] == told[2]


def test_a_client_may_use_what_it_may(settings: Settings, deployments: Deployments) -> None:
    assert foreseen(settings, deployments, model="order", client="limited")["order"]
    with pytest.raises(ModelNotAllowed):
        foreseen(settings, deployments, model="score", client="limited")


@pytest.mark.parametrize(
    ("told", "error", "param"),
    [
        ({"model": "nobody"}, ModelNotFound, "model"),
        ({"model": "order", "client": "nobody"}, InvalidValue, "client"),
        ({"model": 7}, InvalidValue, "model"),
        ({"model": "order", "client": 7}, InvalidValue, "client"),
        ({"model": "order", "request": []}, InvalidValue, "request"),
        ({"model": "order", "headers": ["x"]}, InvalidValue, "headers"),
        ({"model": "order", "headers": {"x": 1}}, InvalidValue, "headers"),
        ({"model": "order", "headers": {f"h{n}": "" for n in range(MAX_HEADERS + 1)}}, InvalidValue, "headers"),
        ({"model": "order", "header": {}}, InvalidValue, "header"),
        ({"model": "order", "headers": {"x-tollbridge-max-cost": "cheap"}}, InvalidValue, "x-tollbridge-max-cost"),
        ({"model": "order", "request": {"messages": "Hello"}}, ProxyError, "messages"),
    ],
)
def test_what_makes_no_sense_is_told_as_the_request_would_be(
    settings: Settings, deployments: Deployments, told: dict[str, Any], error: type[ProxyError], param: str
) -> None:
    with pytest.raises(error) as raised:
        foreseen(settings, deployments, **told)
    assert raised.value.param == param
