"""`tollbridge simulate` as a user has it: the drawing, the JSON, the faults, and the page about it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import Result

from proxy.config.load import load
from proxy.simulation.load import load_scenario
from proxy.simulation.schema import FAULT_WORDS, EventSection, Scenario, TrafficSection, UpstreamSection
from proxy.simulation.stand_in import stand_in
from proxy.terminal.lanes import clock
from tests.command_line import invoke
from tests.simulation import worlds

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/simulator.md"
EXAMPLE = ROOT / "docs/examples/outage.yaml"
SCENARIO = """
seed: 5
length: 1m
traffic: [{rate: 2/s, model: smart, stream: 0.5, input: 100, output: 50, spread: 0.3}]
events: [{at: 20s, for: 20s, provider: a, fault: 503}, {at: 45s, provider: a, fault: 429, retry_after: 5s}]
"""
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    worlds.configured(tmp_path, worlds.AB)
    (tmp_path / "outage.yaml").write_text(SCENARIO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOLLBRIDGE_CONFIG", raising=False)
    yield lambda *options: invoke(["simulate", "--scenario", "outage.yaml", *options])
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".out") == ["outage.yaml", "providers.yaml"]


def test_it_draws_what_happened(run: Run) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert re.fullmatch(
        r"outage\.yaml: 1:00 from 2027-01-01 00:00 UTC in steps of 0:05, seed 5, configuration [0-9a-f]{12}", lines[0]
    )
    lanes = {line.strip().split("  ")[0]: line for line in lines}
    assert "····████████" in lanes["1 b/m"]  # the busier of the two
    assert "████········" in lanes["2 a/m"]
    assert re.search(r"────x+~?", lanes["circuit"])
    assert "what callers were told" not in result.output
    assert re.search(r"a/m +circuit +open", result.output)
    assert re.search(r"a/m +cooling +5 s", result.output)
    assert re.search(r"a/m +b/m +5xx +\d", result.output)
    assert re.search(r"^\d+ requests: \d+ ok; \d+ upstream calls, \d+ failovers; cost \$0\.0\d+$", lines[-1])


def test_the_json_says_the_same(run: Run) -> None:
    result = run("--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)["data"]
    assert (data["scenario"], data["seed"], data["start"]) == ("outage.yaml", 5, "2027-01-01T00:00:00Z")
    assert len(data["intervals"]) == 12
    assert data["faults"] == {}
    assert sum(row["requests"] for row in data["intervals"]) == data["totals"]["requests"]
    assert {change["what"] for change in data["changes"]} == {"circuit", "cooling"}


def test_another_seed_is_another_story(run: Run) -> None:
    told = [json.loads(run("--json", "--seed", seed).output)["data"] for seed in ("5", "6")]
    assert [data["seed"] for data in told] == [5, 6]
    assert told[0]["totals"] != told[1]["totals"]


def test_the_same_seed_is_the_same_in_every_process(run: Run, tmp_path: Path) -> None:
    """Byte for byte, whatever order a process keeps its sets in, and whatever is asked of the engine."""
    worlds.configured(tmp_path, {**worlds.AB, "chains": {**worlds.AB["chains"], **worlds.FEATURES}})
    kinds = [f"  - {{rate: 1/s, model: {name}, stream: 0.7, output: 20, prompts: 9}}" for name in ("smart", *worlds.FEATURES)]
    traffic = "traffic:\n" + "\n".join(kinds)
    text = re.sub(r"traffic: .*", traffic, SCENARIO) + "  - {at: 5s, provider: a, fault: slow, share: 0.1}\n"
    (tmp_path / "outage.yaml").write_text(
        text.replace("events: [", "events:\n  - ").replace("}, {", "}\n  - {").replace("}]", "}")
    )
    other = subprocess.run(
        [sys.executable, "-m", "proxy", "simulate", "-s", "outage.yaml", "--json"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "12345"},
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert other.stderr == b""
    totals = json.loads(other.stdout)["data"]["totals"]
    assert {"cache", "static/static", "a/m", "b/m"} <= set(totals["served"])
    assert run("--json").stdout_bytes == other.stdout


def test_a_fault_of_the_script_is_told_and_nothing_is_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "outage.yaml").write_text(
        SCENARIO.replace("model: smart", "model: smrt").replace("provider: a,", "provider: c,", 1)
    )
    result = run()
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "outage.yaml:4:30: 'smrt' is no model of the configuration (did you mean 'smart'?)",
        "outage.yaml:5:40: 'c' is no provider of the configuration (write it under providers: there, or into a chain)",
        "what may be written: docs/simulator.md",
    ]
    result = run("--json")
    assert result.exit_code == 1
    faults = json.loads(result.output)["error"]["faults"]
    assert [(fault["file"], fault["line"], fault["col"]) for fault in faults] == [("outage.yaml", 4, 30), ("outage.yaml", 5, 40)]


def test_a_fault_of_the_configuration_is_told_as_anywhere_else(run: Run, tmp_path: Path) -> None:
    (tmp_path / "providers.yaml").write_text("chians: {}")
    result = run()
    assert result.exit_code == 1
    assert "providers.yaml:1:1: unknown key 'chians' (did you mean 'chains'?)" in result.stderr


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (9, "0:09"), (61.5, "1:01.5"), (3599.96, "1:00:00"), (3725, "1:02:05"), (90_000, "25:00:00")],
)
def test_times_are_shown_as_clocks_do(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


# -- the page and its example


def test_the_example_fits_the_configuration_that_is_shipped() -> None:
    settings = load(ROOT / "providers.yaml", environ={}, env_file=Path("/dev/null"))
    scenario = load_scenario(EXAMPLE, stand_in(settings, settings.data_dir).settings)
    assert scenario.length_s == 20 * 60
    assert {event.fault for event in scenario.events} == {503, 429, "slow", "cut"}


@pytest.mark.parametrize("model", [Scenario, TrafficSection, UpstreamSection, EventSection])
def test_every_key_of_a_script_is_documented_in_its_own_words(model: type[Scenario]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    missing = [
        name for name, field in model.model_fields.items() if f"| `{field.alias or name}` | {field.description} |" not in text
    ]
    assert missing == []


def test_every_fault_and_every_key_of_the_json_is_documented(run: Run) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [word for word in FAULT_WORDS if f"\n| `{word}` |" not in text] == []
    data = json.loads(run("--json").output)["data"]
    keys = (*data, *data["totals"], *data["changes"][0])
    assert [key for key in keys if not re.search(rf"[` ]{key}[`,]", text)] == []


def test_the_pieces_of_a_script_on_the_page_are_good_ones(tmp_path: Path) -> None:
    (piece,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    settings = worlds.configured(tmp_path, {"chains": {"smart": ["openai/gpt-5"]}})
    assert yaml.safe_load(piece)["seed"] == worlds.scenario(settings, piece).seed == 7
