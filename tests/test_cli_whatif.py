"""`tollbridge replay` and `tollbridge diff`: what they print, which ledger they read, and how they exit."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.accounting.pricing import PriceBook
from proxy.accounting.records import Record
from proxy.storage.drainer import Drainer
from tests.command_line import invoke
from tests.storage.big import first_release
from tests.storage.records import begin, closed, completion, end, opened, write

pytestmark = pytest.mark.unit

DAY_MS = 86_400_000
NOW = """\
providers:
  openai: {api_key: sk-fake-openai-00001, prices: {"*": {input: 10, output: 5}}}
  groq: {api_key: gsk-fake-groq-000001, prices: {"*": {input: 1, output: 1}}}
chains: {smart: [openai/gpt-4o, groq/llama]}
"""
OTHER = NOW.replace("[openai/gpt-4o, groq/llama]", "[groq/llama, openai/gpt-4o]").replace(
    "sk-fake-openai-00001", "sk-fake-openai-00002"
)


def run(*arguments: str) -> tuple[int, str, str]:
    done = invoke(list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def told(*arguments: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = run(*arguments, "--json")
    return code, json.loads(out)


@pytest.fixture(autouse=True)
def no_price_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """To compile it takes a second, and the files have the prices that are needed."""

    async def nothing(_book: PriceBook) -> None:
        return None

    monkeypatch.setattr(PriceBook, "warm", nothing)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three requests of this week and one of ten days ago, each answered by openai; one of them after groq had failed, two days ago."""
    folder = tmp_path_factory.mktemp("whatif")
    now_ms = int(time.time() * 1000) - 60_000
    both = [{"target": "openai/gpt-4o", "kept": True}, {"target": "groq/llama", "kept": True}]
    records: list[Record] = []
    for number, time_ms in enumerate((now_ms, now_ms + 1, now_ms - 10 * DAY_MS)):
        asked = opened(number, time_ms)
        records += [begin(asked), end(asked, end=closed(trace=both))]
    note = {"attempt": 1, "target": "groq/llama", "error": "connect", "ms": 1.0, "then": "next"}
    asked = opened(9, now_ms - 2 * DAY_MS)
    failed = end(asked, provider="groq", outcome="failed", upstream_model="llama")
    records += [
        begin(asked, provider="groq"),
        failed,
        begin(asked, 2),
        end(asked, 2, end=closed(attempts=2, trace=[*both[::-1], note])),
    ]
    write(folder / "data", records)
    drainer = Drainer(folder / "data", time.time)
    drainer.drain()
    drainer.close()
    (folder / "now.yaml").write_text(NOW, encoding="utf-8")
    (folder / "other.yaml").write_text(OTHER, encoding="utf-8")
    return folder


def test_replay_has_both_sides_and_says_what_is_assumed(folder: Path) -> None:
    code, found = told("replay", "--config", str(folder / "other.yaml"))
    assert code == 0
    assert (found["requests"], found["differing"]) == (3, 2)
    data = found["data"]
    assert (data["requests"], data["differing"], data["assumed"]) == (3, 2, 2)
    assert data["recorded"]["cost_usd"] == "0.00375"
    # two at groq, by the tokens of openai's answers, and one that groq failed for again
    assert data["what_if"]["cost_usd"] == "0.00155"
    assert {row["target"]: (row["recorded"], row["what_if"]) for row in data["by_target"]} == {
        "openai/gpt-4o": (3, 1),
        "groq/llama": (0, 2),
    }
    assert data["ledger"] == str(folder / "data")
    assert data["examples"][0]["recorded"]["served"] == "openai/gpt-4o"
    assert data["examples"][0]["what_if"] == {
        "order": ["groq/llama", "openai/gpt-4o"], "skipped": {}, "served": "groq/llama", "outcome": "ok", "cost_usd": "0.00015",
        "assumed": True,
    }  # fmt: skip


def test_replay_in_a_terminal(folder: Path) -> None:
    code, out, _ = run("replay", "--config", str(folder / "other.yaml"))
    assert code == 0
    for part in (
        "3 requests since",
        "2 would have gone another way (66.7 %)",
        "groq/llama",
        "66.7 % of the requests come to",
        "tokenizer",
    ):
        assert part in out


def test_replay_takes_the_part_of_the_ledger_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    other = str(folder / "other.yaml")
    assert told("replay", "-c", other, "--since", "30d")[1]["requests"] == 4
    assert told("replay", "-c", other, "--since", "30d", "--until", "5d")[1]["requests"] == 1
    assert told("replay", "-c", other, "--since", "30d", "--limit", "2")[1]["requests"] == 2
    elsewhere = tmp_path / "tried.yaml"
    elsewhere.write_text(OTHER, encoding="utf-8")
    assert told("replay", "-c", str(elsewhere))[0] == 1
    assert told("replay", "-c", str(elsewhere), "--ledger", str(folder / "now.yaml"))[1]["requests"] == 3
    assert told("replay", "-c", str(elsewhere), "--data-dir", str(folder / "data"))[1]["requests"] == 3


def test_replay_of_nothing_is_1_and_says_so(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "providers.yaml").write_text(NOW, encoding="utf-8")
    code, found = told("replay", "-c", str(tmp_path / "providers.yaml"))
    assert (code, found["requests"], found["differing"]) == (1, 0, 0)
    assert "nothing was recorded" in found["error"]["message"]
    code, out, err = run("replay", "-c", str(tmp_path / "providers.yaml"))
    assert (code, out) == (1, "")
    assert "nothing was recorded" in err
    assert not (tmp_path / "data").exists()
    code, _, err = run("replay", "-c", str(folder / "other.yaml"), "--since", "last week")
    assert (code, "--since" in err) == (2, True)
    (tmp_path / "data").mkdir()
    first_release(tmp_path / "data" / "ledger.db").close()
    code, _, err = run("replay", "-c", str(tmp_path / "providers.yaml"))
    assert (code, "earlier release" in err) == (1, True)


def test_diff_exits_as_diff_does(folder: Path, tmp_path: Path) -> None:
    now, other = str(folder / "now.yaml"), str(folder / "other.yaml")
    assert told("diff", now, now) == (0, {"data": {"same": True, "changes": [], "dollars": None}})
    code, out, _ = run("diff", now, now)
    assert (code, "mean the same" in out) == (0, True)
    assert run("diff", now, other)[0] == 1
    assert run("diff", now, str(tmp_path / "none.yaml"))[0] == 2
    broken = tmp_path / "broken.yaml"
    broken.write_text("chains: {smart: [nobody/x]}\n", encoding="utf-8")
    code, _, err = run("diff", now, str(broken))
    assert (code, "nobody" in err) == (2, True)


def test_diff_in_words_and_in_dollars(folder: Path) -> None:
    now, other = str(folder / "now.yaml"), str(folder / "other.yaml")
    code, found = told("diff", now, other)
    assert code == 1
    data = found["data"]
    assert [change["where"] for change in data["changes"]] == ["provider openai", "chain smart"]
    assert data["changes"][1]["kind"] == "changed"
    dollars = data["dollars"]
    # under the present prices of openai: three answers of ten days and today, and the one that groq failed for
    assert (dollars["requests"], dollars["differing"]) == (4, 4)
    assert (dollars["old"]["cost_usd"], dollars["new"]["cost_usd"], dollars["difference_usd"]) == ("0.005", "0.0017", "-0.0033")
    code, out, _ = run("diff", now, other)
    for part in ("in another order", "its key is changed", "$0.0033 less", "4 would go another way"):
        assert part in out
    assert "sk-fake" not in out


def test_diff_without_a_ledger_says_so(folder: Path, tmp_path: Path) -> None:
    code, found = told("diff", str(folder / "now.yaml"), str(folder / "other.yaml"), "--data-dir", str(tmp_path))
    assert (code, found["data"]["dollars"], len(found["data"]["changes"])) == (1, None, 2)
    assert (
        "nothing can be said in dollars"
        in run("diff", str(folder / "now.yaml"), str(folder / "other.yaml"), "--data-dir", str(tmp_path))[1]
    )


def test_recorded_elsewhere_and_replayed_without_change(folder: Path, tmp_path: Path) -> None:
    """A ledger of the release before this one: nothing was written of what a choice was made from."""
    write(tmp_path / "data", [each for number in range(5) for each in completion(number, int(time.time() * 1000) - 5_000)])
    drainer = Drainer(tmp_path / "data", time.time)
    drainer.drain()
    drainer.close()
    (tmp_path / "providers.yaml").write_text("chains: {smart: [groq/llama, openai/gpt-4o]}\n", encoding="utf-8")
    _, found = told("replay", "-c", str(tmp_path / "providers.yaml"))
    assert (found["requests"], found["differing"]) == (5, 0)
