"""Which chains of a file have their answers measured, and what their judges may cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.accounting.states import budgets_of
from proxy.config.load import load
from proxy.core.limits import Budget

pytestmark = pytest.mark.unit

FILE = """\
chains:
  plain: [demo/chat]
  smart: {targets: [demo/chat], quality: {min: 0.5}}
  "any-*": {targets: [demo/*], quality: {min: 0.7, judge: plain, judge_budget: {usd: 5, per: day}}}
"""


def test_exact_chains_and_wildcards_alike(tmp_path: Path) -> None:
    path = tmp_path / "providers.yaml"
    path.write_text(FILE, encoding="utf-8")
    settings = load(path, environ={})
    assert {name: gate.min for name, gate in settings.gates().items()} == {"smart": 0.5, "any-*": 0.7}
    assert list(budgets_of(settings)) == [("judge", "any-*", Budget(5 * 10**9, "day"))]
    made = settings.resolve("any-thing")
    assert made is not None
    assert (made.name, made.quality) == ("any-*", settings.gates()["any-*"])
