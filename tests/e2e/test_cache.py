"""Answers that are kept, over the wire: what a caller sees, what the ledger says, what the admin and the command line can do about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from proxy.core.kept import Kept, Room
from proxy.storage.kept_file import ANSWERS, KeptFile
from proxy.torture.upstream import COMPLETION_TOKENS, PROMPT_TOKENS, Upstream
from tests.command_line import invoke
from tests.e2e.client import Answer, until
from tests.e2e.conftest import provider, write_config
from tests.e2e.running import Process, Proxy
from tests.e2e.test_workers import EVERYBODY, PATIENCE, Several

pytestmark = pytest.mark.integration

ANN, BEN = ({"authorization": f"Bearer sk-of-{name}-0001"} for name in ("ann", "ben"))
COST_USD = f"{(PROMPT_TOKENS + 2 * COMPLETION_TOKENS) / 1_000_000:f}".rstrip("0")
CALLERS = 60


def config_of(upstream: Upstream, **more: Any) -> dict[str, Any]:
    return {
        "clients": {"ann": {"key": "sk-of-ann-0001"}, "ben": {"key": "sk-of-ben-0001"}},
        "providers": {"fake": provider(upstream.url)},
        "chains": {
            "kept": {"targets": ["fake/ok"], "cache": {"ttl": "1h"}},
            "filed": {"targets": ["fake/filed"], "cache": {"store": "sqlite"}},
            "shared": {"targets": ["fake/shared"], "cache": {"shared": True}},
            "crowded": {"targets": ["fake/crowded"], "cache": {}},
            "plain": ["fake/plain"],
        },
        **more,
    }


@pytest.fixture(scope="module")
def proxy(
    upstream: Upstream, tmp_path_factory: pytest.TempPathFactory, monkeypatch_module: pytest.MonkeyPatch
) -> Iterator[Proxy]:
    monkeypatch_module.setattr("proxy.engine.cache.LOOKUP_S", 30.0)  # a busy machine is no broken file
    upstream.aliases["crowded"] = "hold_before_head"
    running = Proxy(write_config(tmp_path_factory.mktemp("cached"), config_of(upstream)))
    running.client.headers.update(ANN)
    yield running
    running.stop()


def ask(proxy: Proxy, model: str, *, headers: dict[str, str] = ANN, **fields: Any) -> Answer:
    answer = proxy.client.chat(model, headers=headers, **{"temperature": 0, **fields})
    assert answer.status == 200, answer.body
    return answer


def told(answer: Answer) -> str | None:
    return answer.headers.get("x-tollbridge-cache")


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_answered_once_is_answered_again_byte_for_byte(proxy: Proxy, upstream: Upstream, stream: bool) -> None:
    first = ask(proxy, "kept", stream=stream)
    before = upstream.requests["ok"]
    second = ask(proxy, "kept", stream=stream)
    assert (told(first), told(second)) == ("miss", "hit")
    assert (second.body, second.whole) == (first.body, True)
    assert upstream.requests["ok"] == before
    assert second.headers["x-tollbridge-attempts"] == "0"
    assert int(second.headers["age"]) >= 0
    row = proxy.client.row(second.id)
    assert (row["outcome"], row["attempts"], row["cost_usd"], row["provider"], row["upstream_model"]) == (
        "ok",
        0,
        "0",
        "fake",
        "ok",
    )
    assert (row["cache"], row["saved_usd"]) == ("hit", COST_USD)
    assert proxy.client.row(first.id)["cache"] is None


def test_nothing_of_one_client_reaches_another_unless_it_is_shared(proxy: Proxy) -> None:
    mine = {"seed": 7}
    assert told(ask(proxy, "kept", headers=ANN, **mine)) == "miss"
    assert told(ask(proxy, "kept", headers=BEN, **mine)) == "miss"
    assert told(ask(proxy, "shared", headers=ANN)) == "miss"
    assert told(ask(proxy, "shared", headers=BEN)) == "hit"


def test_any_chain_keeps_what_is_asked_to_be_kept(proxy: Proxy) -> None:
    wish = {**ANN, "x-tollbridge-cache": "on"}
    assert told(ask(proxy, "plain")) is None
    assert told(ask(proxy, "plain", headers=wish, temperature=1)) == "miss"
    assert told(ask(proxy, "plain", headers=wish, temperature=1)) == "hit"
    assert told(ask(proxy, "plain", headers={**wish, "x-tollbridge-cache": "refresh"}, temperature=1)) == "refresh"
    assert told(ask(proxy, "kept", headers={**wish, "x-tollbridge-cache": "off"})) is None
    refused = proxy.client.chat("kept", headers={**wish, "x-tollbridge-cache": "maybe"})
    assert (refused.status, refused.error["param"]) == (400, "x-tollbridge-cache")


def test_a_crowd_that_asks_the_same_is_one_call(proxy: Proxy, upstream: Upstream) -> None:
    with ThreadPoolExecutor(CALLERS) as crowd:
        asked = [crowd.submit(ask, proxy, "crowded", stream=True) for _ in range(CALLERS)]
        flights = proxy.runtime.gateway.services.cache.flights
        until(lambda: len(proxy.runtime.gateway.live) == CALLERS and len(flights) == 1, what="all of them")
        upstream.release("crowded")
        answers = [one.result() for one in asked]
    assert upstream.requests["crowded"] == 1
    assert {answer.body for answer in answers} == {answers[0].body}
    assert sorted(str(told(answer)) for answer in answers) == ["hit"] * (CALLERS - 1) + ["miss"]


def kept_of(proxy: Proxy, chain: str) -> dict[str, Any]:
    rows = proxy.client.get("/api/v1/cache").json["data"]
    return next((dict(row) for row in rows if row["chain"] == chain), {})


def test_the_admin_sees_what_is_kept_and_can_clear_it(proxy: Proxy) -> None:
    for seed in (1, 1, 1, 2):
        ask(proxy, "shared", seed=seed)
    row = kept_of(proxy, "shared")
    assert row["hit_rate"] == pytest.approx(row["hits"] / (row["hits"] + row["misses"]), abs=1e-4)
    assert (row["entries"] >= 2, row["bytes"] > 0, row["in_file"]) == (True, True, 0)
    samples = proxy.client.metrics()
    assert samples['tollbridge_cache_requests_total{chain="shared",result="hit"}'] == row["hits"] - row["joined"]
    assert samples['tollbridge_cache_entries{chain="shared",store="memory"}'] == row["entries"]
    assert proxy.client.request("DELETE", "/api/v1/cache?chain=nonsense").status == 400
    others = kept_of(proxy, "kept")["entries"]
    cleared = proxy.client.request("DELETE", "/api/v1/cache?chain=shared")
    assert (cleared.status, cleared.json) == (200, {"chain": "shared", "cleared": row["entries"]})
    assert (kept_of(proxy, "shared")["entries"], kept_of(proxy, "kept")["entries"]) == (0, others)
    assert told(ask(proxy, "shared", seed=1)) == "miss"


def test_the_file_holds_what_belongs_there_and_a_broken_one_costs_no_answer(proxy: Proxy) -> None:
    assert told(ask(proxy, "filed", seed=1)) == "miss"
    until(lambda: kept_of(proxy, "filed").get("in_file") == 1, what="the answer in the file")
    assert told(ask(proxy, "filed", seed=1)) == "hit"
    file = proxy.runtime.settings.data_dir / ANSWERS
    file.unlink()
    file.mkdir()
    try:
        assert told(ask(proxy, "filed", seed=1)) == "miss"
        report = proxy.client.get("/api/v1/cache").json
        assert ANSWERS in report["problem"]
        assert proxy.client.metrics()["tollbridge_cache_faults_total"] >= 1
        ready = proxy.client.get("/readyz")
        assert (ready.status, any("kept" in note for note in ready.json["notes"])) == (200, True)
    finally:
        file.rmdir()


def run(*arguments: str) -> Any:
    result = invoke([*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_the_command_line_reads_and_clears_the_file_where_nothing_runs(upstream: Upstream, tmp_path: Path) -> None:
    path = write_config(tmp_path, config_of(upstream, server={"port": 1}))
    assert run("cache", "stats", "--config", str(path)) == {"data": [], "problem": None}
    assert not (tmp_path / "data" / ANSWERS).exists()
    kept = Kept("R1", "filed", "fake", "filed", 1_800_000_000_000, None, 1, 1, (), b"{}")
    KeptFile(tmp_path / "data").put(Room("", 60_000, 10, 10_000), b"key", kept, kept.kept_ms)
    stats = run("cache", "stats", "--config", str(path))["data"]
    assert [(row["chain"], row["entries"], row["hits"]) for row in stats] == [("filed", 1, None)]
    assert run("cache", "clear", "--chain", "plain", "--config", str(path)) == {"data": {"chain": "plain", "cleared": 0}}
    assert run("cache", "clear", "--config", str(path)) == {"data": {"chain": None, "cleared": 1}}
    told_people = invoke(["cache", "stats", "--config", str(path)])
    assert (told_people.exit_code, "none" in told_people.output) == (0, True)


def test_the_command_line_asks_the_proxy_that_runs(proxy: Proxy, upstream: Upstream, tmp_path: Path) -> None:
    ask(proxy, "kept", seed=99)
    path = write_config(tmp_path, config_of(upstream, server={"port": proxy.port}))
    (row,) = [row for row in run("cache", "stats", "--config", str(path))["data"] if row["chain"] == "kept"]
    assert row == kept_of(proxy, "kept")
    assert run("cache", "clear", "--chain", "kept", "--config", str(path))["data"]["cleared"] == row["entries"]
    assert kept_of(proxy, "kept")["entries"] == 0
    refused = invoke(["cache", "clear", "--chain", "nonsense", "--config", str(path)])
    assert (refused.exit_code, "no chain of that name" in refused.output) == (1, True)


def test_workers_share_the_file_and_clear_what_each_of_them_keeps(upstream: Upstream, tmp_path: Path) -> None:
    config = config_of(upstream, auth={"admin_token": "admin-1"})
    process = Process(write_config(tmp_path, config), tmp_path, environ=PATIENCE, options=("--workers", "2"))
    try:
        several = Several(process)
        client, admin = several.client, {"authorization": "Bearer admin-1"}

        def ask_often(model: str) -> list[str | None]:
            return [told(client.chat(model, headers=ANN, temperature=0)) for _ in range(EVERYBODY)]

        def rows() -> dict[str, Any]:
            return {row["chain"]: row for row in client.get("/api/v1/cache", admin).json["data"]}

        assert client.chat("filed", headers=ANN, temperature=0).status == 200
        until(lambda: rows().get("filed", {}).get("in_file") == 1, what="the answer in the file")
        until(lambda: set(ask_often("filed")) == {"hit"}, what="hits at both of them")  # a busy machine may miss some
        assert ask_often("shared").count("miss") == rows()["shared"]["misses"] <= 2
        assert rows()["shared"]["entries"] == rows()["shared"]["misses"]
        assert client.request("DELETE", "/api/v1/cache", headers=admin).json["cleared"] >= rows()["shared"]["misses"]
        until(lambda: not any(row["entries"] for row in rows().values()), what="all workers to have cleared it")
        assert "miss" in ask_often("filed")
    finally:
        process.kill()
