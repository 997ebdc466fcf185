"""Configurations and scenarios for the tests here, run without a file between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from proxy.accounting.pricing import PriceBook
from proxy.config.load import load
from proxy.config.settings import Settings
from proxy.simulation.load import read_scenario
from proxy.simulation.record import Story
from proxy.simulation.run import Outcome, simulate
from proxy.simulation.schema import Scenario
from proxy.simulation.stand_in import stand_in

PRICES = {"*": {"input": 1, "output": 2}}  # USD per million tokens
AB: dict[str, Any] = {
    "providers": {
        name: {"dialect": "openai", "base_url": f"http://{name}.test/v1", "api_key": "sk-test-0001", "prices": PRICES}
        for name in ("a", "b")
    },
    "chains": {"smart": ["a/m", "b/m"]},
}
FEATURES: dict[str, dict[str, Any]] = {
    "cache": {"targets": ["a/m", "b/m"], "cache": {"ttl": "1h", "every": True}},
    "hedge": {"targets": ["a/m", "b/m"], "hedge": {"after": "p95", "max_extra_cost": "5%"}},
    "continue": {"targets": ["a/m", "b/m"], "on_break": "continue"},
    "static": {"targets": ["a/m", {"static": "Not now."}]},
    "weighted": {"targets": [{"target": "a/m", "weight": 3}, {"target": "b/m", "weight": 1}], "strategy": "weighted"},
    "score": {"targets": ["a/m", "b/m"], "strategy": "score"},
}


def configured(folder: Path, config: dict[str, Any]) -> Settings:
    path = folder / "providers.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return load(path, environ={})


def scenario(settings: Settings, text: str) -> Scenario:
    return read_scenario(text, "outage.yaml", stand_in(settings, settings.data_dir).settings)


def run(
    settings: Settings, text: str, *, seed: int | None = None, on_story: Callable[[Story], None] = lambda story: None
) -> Outcome:
    found = scenario(settings, text)
    return simulate(found, settings, prices=PriceBook(settings.data_dir / "none"), seed=seed, on_story=on_story)
