"""What goes on when something does not: a stream that breaks is gone on with, a chain that fails has a canned answer, and a proxy whose
ledger, cache, prices or checks are gone answers all the same and says so. Over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from proxy.storage.kept_file import ANSWERS
from proxy.torture.scripts import SCRIPTS
from proxy.torture.upstream import Call, Upstream
from tests.e2e.client import until
from tests.e2e.conftest import provider, write_config
from tests.e2e.running import Proxy

pytestmark = pytest.mark.integration

WORDS = ("It", " goes", " on", ",", " and", " on", " and", " on", ";", " so", " be", " it", ".")
GOLDEN = "".join(WORDS)
SORRY = "Nobody can answer now."
HEADER = "x-tollbridge-degraded"
PRICE = {"input": 1, "output": 2}
OPTIONS: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


def said(text: str | None, of: str, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": None, **more}
    return {"id": f"chatcmpl-{of}", "object": "chat.completion.chunk", "created": 1, "model": of, "choices": [choice]}


async def cut(call: Call) -> None:
    """Says as many words as the first message asks for, and counts them as it goes; then it is gone."""
    count = int(call.body["messages"][0]["content"])
    await call.begin_stream()
    for n, word in enumerate(WORDS[:count], 1):
        await call.event(said(word, "first") | {"usage": {"prompt_tokens": 7, "completion_tokens": n, "total_tokens": 7 + n}})
    call.close()


async def rest(call: Call) -> None:
    """Goes on with a last assistant message, if it is told to, to the letter."""
    last = call.body["messages"][-1]
    assert (last["role"], call.body["continue_final_message"], call.body["add_generation_prompt"]) == ("assistant", True, False)
    count = next(n for n in range(len(WORDS) + 1) if "".join(WORDS[:n]) == last["content"])
    await call.begin_stream()
    await call.event(said("", "second", delta={"role": "assistant", "content": ""}))
    for word in WORDS[count:]:
        await call.event(said(word, "second"))
    await call.event(said(None, "second", finish_reason="stop"))
    tokens = {"prompt_tokens": 100 + count, "completion_tokens": len(WORDS) - count, "total_tokens": 100 + len(WORDS)}
    await call.event({**said(None, "second"), "choices": [], "usage": tokens})
    await call.chunk(b"data: [DONE]\n\n")
    await call.end_stream()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    upstream = Upstream({**SCRIPTS, "cut": cut, "rest": rest})
    upstream.start()
    config = {
        "defaults": {"circuit": {"failures": 10_000, "error_rate": 1.0, "min_requests": 10_000}},
        "providers": {
            "first": provider(upstream.url),
            "vllm": {"base_url": upstream.url, "api_key": "k", "prices": {"*": PRICE}},
        },
        "chains": {
            "going": {"targets": ["first/cut", "vllm/rest"], "on_break": "continue"},
            "demo": {"targets": ["demo/cut", "demo/chat"], "on_break": "continue"},
            "whole": ["demo/chat"],
            "sorry": ["demo/down", {"static": SORRY}],
            "kept": {"targets": ["demo/chat"], "cache": {"store": "sqlite"}},
        },
    }
    running = Proxy(write_config(tmp_path_factory.mktemp("goes-on"), config))
    yield running
    running.stop()
    upstream.stop()
    assert upstream.faults == []


# -- a stream that breaks


def test_cut_at_every_word_the_answer_is_whole_and_the_ledger_has_both_counts(proxy: Proxy) -> None:
    """Each side reports what it counted; the ledger has just that, and the caller is told the sum."""
    asked = {}
    for count in range(1, len(WORDS) + 1):
        answer = proxy.client.chat("going", messages=[{"role": "user", "content": str(count)}], **OPTIONS)
        assert (answer.text, answer.done) == (GOLDEN, True)
        assert {(chunk["id"], chunk["model"]) for chunk in answer.chunks} == {("chatcmpl-first", "first")}
        marks = [chunk["x_tollbridge"]["continued"] for chunk in answer.chunks if "x_tollbridge" in chunk]
        assert [(mark["from"], mark["by"]) for mark in marks] == [("first/cut", "vllm/rest")]
        told = answer.chunks[-1]["usage"]
        assert (told["prompt_tokens"], told["completion_tokens"]) == (7 + 100 + count, len(WORDS))
        asked[count] = answer.id
    for count, request_id in asked.items():
        row = proxy.client.row(request_id)
        assert (row["outcome"], row["attempts"], row["continued"]) == ("ok", 2, [1])
        assert (row["provider"], row["upstream_model"], row["finish_reason"]) == ("vllm", "rest", "stop")
        first, second = row["attempt_list"]
        assert (first["outcome"], first["input_tokens"], first["output_tokens"]) == ("failed", 7, count)
        assert (second["outcome"], second["input_tokens"], second["output_tokens"]) == ("ok", 100 + count, len(WORDS) - count)
        assert row["output_tokens"] == len(WORDS)
        assert float(row["cost_usd"]) == pytest.approx((107 + count + 2 * len(WORDS)) / 1_000_000)


def test_the_openai_sdk_reads_one_answer(proxy: Proxy) -> None:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key="none", max_retries=0)
    messages: Any = [{"role": "user", "content": "5"}]
    with client.chat.completions.stream(model="going", messages=messages) as stream:
        final = stream.get_final_completion()
    assert (final.id, final.model) == ("chatcmpl-first", "first")
    assert (final.choices[0].message.role, final.choices[0].message.content) == ("assistant", GOLDEN)
    assert final.choices[0].finish_reason == "stop"


def test_the_demo_shows_it_without_any_provider(proxy: Proxy) -> None:
    whole = proxy.client.chat("whole")
    answer = proxy.client.chat("demo", stream=True)
    assert answer.text == whole.text
    assert proxy.client.metrics()['tollbridge_events_total{event="continued"}'] >= 1


# -- a chain that fails


@pytest.mark.parametrize("stream", [False, True])
def test_the_canned_answer_says_what_it_is_and_costs_nothing(proxy: Proxy, stream: bool) -> None:
    answer = proxy.client.chat("sorry", stream=stream)
    assert (answer.status, answer.text) == (200, SORRY)
    assert answer.headers["x-tollbridge-provider"] == answer.headers["x-tollbridge-model"] == "static"
    assert {chunk["model"] for chunk in answer.chunks} == {"static"} if stream else answer.json["model"] == "static"
    row = proxy.client.row(answer.id)
    assert (row["provider"], row["upstream_model"], row["outcome"], row["cost_usd"]) == ("static", "static", "ok", "0")
    assert proxy.client.metrics()['tollbridge_events_total{event="static_answer"}'] >= 1


def test_nobody_asks_who_gives_the_canned_answers_how_it_is(proxy: Proxy) -> None:
    proxy.client.chat("sorry")
    for path in ("/api/v1/providers", "/api/v1/monitoring/health-check", "/api/v1/admin/monitoring", "/api/status", "/v1/models"):
        answer = proxy.client.get(path)
        assert answer.status == 200
        assert '"static"' not in json.dumps(answer.json.get("data", []))
    usage = proxy.client.get("/api/v1/usage?group_by=provider").json["data"]
    assert [row["cost_usd"] for row in usage if row["provider"] == "static"] == ["0"]


# -- a proxy of which a part is gone


def degraded(proxy: Proxy) -> str:
    """What an answer's header says, once the proxy has looked."""
    checks = proxy.runtime._checks
    assert checks is not None
    asyncio.run_coroutine_threadsafe(proxy.runtime.degraded.look(), checks.get_loop()).result(30)
    answer = proxy.client.chat("whole")
    assert answer.status == 200
    return answer.headers.get(HEADER, "")


def test_without_its_ledgers_database_it_goes_on_and_catches_up(proxy: Proxy) -> None:
    assert degraded(proxy) == ""
    assert proxy.client.get("/readyz").json["degraded"] == []
    data = proxy.runtime.settings.data_dir
    database = data / "ledger.db"
    for file in data.glob("ledger.db*"):
        file.unlink()
    database.mkdir()
    (database / "in-the-way").touch()
    until(lambda: degraded(proxy) == "ledger", what="the header")
    unseen = proxy.client.chat("whole").id
    ready = proxy.client.get("/readyz")
    assert (ready.status, ready.json["ready"], ready.json["degraded"]) == (200, True, ["ledger"])
    assert any("ledger's database" in note for note in ready.json["notes"])
    assert proxy.client.get("/api/v1/requests").status == 503
    (database / "in-the-way").unlink()
    database.rmdir()
    assert proxy.client.row(unseen)["outcome"] == "ok"
    until(lambda: degraded(proxy) == "", what="the header's end")


def test_without_its_cache_it_asks_anew(proxy: Proxy) -> None:
    file = proxy.runtime.settings.data_dir / ANSWERS
    file.unlink(missing_ok=True)
    file.mkdir()
    try:
        assert proxy.client.chat("kept", temperature=0).status == 200
        assert degraded(proxy) == "cache"
        assert proxy.client.get("/readyz").json["degraded"] == ["cache"]
        assert proxy.client.chat("nobody").headers[HEADER] == "cache"  # an error says it, too
    finally:
        file.rmdir()


def test_without_checks_of_the_providers_it_goes_by_traffic(proxy: Proxy) -> None:
    checks = proxy.runtime._checks
    assert checks is not None
    checks.get_loop().call_soon_threadsafe(checks.cancel)
    until(checks.done, what="the end of the checks")
    assert "health" in degraded(proxy)
    ready = proxy.client.get("/readyz")
    assert (ready.status, "health" in ready.json["degraded"]) == (200, True)
    assert any("checks of providers" in note for note in ready.json["notes"])


def test_without_price_data_it_serves_and_says_so(proxy: Proxy) -> None:
    """How the data come to be missing is told by the tests of the price book; this is what follows."""
    prices = proxy.runtime.gateway.services.prices
    prices.problem = "price data cannot be written to /data/cache: costs of models without a price in the file are unknown"
    try:
        assert "prices" in degraded(proxy)
        ready = proxy.client.get("/readyz")
        assert (ready.status, "prices" in ready.json["degraded"]) == (200, True)
        assert any("price data" in note for note in ready.json["notes"])
    finally:
        prices.problem = None
