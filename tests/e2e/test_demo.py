"""The first minute: the shipped providers.yaml without any key, and what swapping two lines does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from proxy.torture.upstream import Upstream
from tests.e2e.client import until
from tests.e2e.conftest import Start
from tests.e2e.running import ROOT, Process, Proxy

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    running = Proxy(Path(shutil.copy(ROOT / "providers.yaml", tmp_path_factory.mktemp("shipped"))))
    yield running
    running.stop()


@pytest.mark.parametrize("stream", [False, True])
def test_the_demo_chain_answers_and_shows_a_failover(proxy: Proxy, stream: bool) -> None:
    answer = proxy.client.chat("demo", stream=stream)

    assert answer.status == 200
    assert answer.headers["x-tollbridge-provider"] == "demo"
    assert int(answer.headers["x-tollbridge-attempts"]) >= 2
    assert "demo" in answer.text.lower()
    row = proxy.client.row(answer.id)
    assert row["attempt_list"][0]["upstream_model"] == "down"
    assert (row["outcome"], row["cost_usd"]) == ("ok", "0")


def test_the_live_chain_says_which_keys_are_missing(proxy: Proxy) -> None:
    answer = proxy.client.chat("default")

    assert (answer.status, answer.error["code"]) == (503, "all_providers_unavailable")
    for variable in ("TOGETHER_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "OPENROUTER_API_KEY"):
        assert variable in answer.error["message"]
    assert proxy.client.row(answer.id)["attempts"] == 0


def test_a_stream_that_breaks_on_purpose(proxy: Proxy) -> None:
    answer = proxy.client.chat("demo/cut", stream=True)

    assert not answer.done
    assert answer.error["code"] == "stream_interrupted"


def test_tools_json_and_usage_of_the_demo(proxy: Proxy) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    called = proxy.client.chat("demo/chat", tools=[tool], tool_choice="required").json["choices"][0]
    assert called["finish_reason"] == "tool_calls"
    assert called["message"]["tool_calls"][0]["function"]["name"] == "weather"
    answer = proxy.client.chat("demo/chat", response_format={"type": "json_object"}).json
    assert answer["usage"]["completion_tokens"] > 0
    assert answer["choices"][0]["message"]["content"].startswith("{")


def test_the_demo_is_listed_first(proxy: Proxy) -> None:
    assert [model["id"] for model in proxy.client.get("/v1/models").json["data"]] == [
        "demo",
        "demo/down",
        "demo/flaky",
        "demo/chat",
    ]


def test_the_banner_and_the_line_to_paste(tmp_path: Path) -> None:
    shipped = Path(shutil.copy(ROOT / "providers.yaml", tmp_path))
    process = Process(shipped, tmp_path, environ={"OPENAI_API_KEY": "sk-not-a-key-1234"})
    try:
        client = process.ready()
        output = until(lambda: process.output if "curl" in process.output else None, what="the banner")
        assert "…1234" in output
        assert "sk-not-a-key" not in output
        assert "TOGETHER_API_KEY" in output
        line = next(line for line in output.splitlines() if line.strip().startswith("curl "))
        assert f"127.0.0.1:{process.port}/v1/chat/completions" in line
        body = line.partition("-d '")[2].rpartition("'")[0]
        assert client.request("POST", "/v1/chat/completions", body.encode()).status == 200
    finally:
        process.kill()


def test_swapping_two_lines_changes_who_answers(start: Start, upstream: Upstream) -> None:
    """The shipped chain with two of its keys set, both providers being the fake one."""
    shipped = yaml.safe_load((ROOT / "providers.yaml").read_text())
    shipped["providers"] = {"together": {"base_url": upstream.url}, "openai": {"base_url": upstream.url}}
    keys = {"TOGETHER_API_KEY": "sk-together-1", "OPENAI_API_KEY": "sk-openai-1"}
    proxy = start(shipped, environ=keys)
    assert proxy.client.chat("default").headers["x-tollbridge-provider"] == "together"

    path, before = proxy.runtime.settings.path, proxy.runtime.settings.hash
    assert path is not None
    lines = path.read_text().splitlines(keepends=True)
    together, openai = (next(n for n, line in enumerate(lines) if f"- {name}/" in line) for name in ("together", "openai"))
    lines[together], lines[openai] = lines[openai], lines[together]
    path.write_text("".join(lines))
    until(lambda: proxy.runtime.settings.hash != before, what="the reload", seconds=15)

    answer = proxy.client.chat("default")
    assert answer.headers["x-tollbridge-provider"] == "openai"
    skipped = {
        entry["target"].split("/")[0]: entry["skipped"] for entry in proxy.client.row(answer.id)["trace"] if "skipped" in entry
    }
    assert skipped.keys() == {"anthropic", "gemini", "openrouter"}
