"""The examples of the documentation are good files, and say what the page about them says."""

import re
from pathlib import Path

import pytest

from proxy.config.load import load
from proxy.config.settings import Settings
from proxy.core.limits import Budget, Quota
from proxy.core.money import usd_to_nusd

pytestmark = pytest.mark.unit

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


def example(path: Path) -> Settings:
    variables = re.findall(r"\$\{(\w+)\}", path.read_text(encoding="utf-8"))
    assert variables
    return load(path, environ={name: f"key-of-{name}" for name in variables}, env_file=Path("/dev/null"))


SCENARIOS = frozenset(("outage.yaml",))  # for the simulator, which has tests of its own


@pytest.mark.parametrize(
    "path", sorted(path for path in EXAMPLES.glob("*.yaml") if path.name not in SCENARIOS), ids=lambda path: str(path.name)
)
def test_an_example_loads_with_nothing_to_say_and_nothing_left_out(path: Path) -> None:
    settings = example(path)
    assert settings.warnings == ()
    assert {target.name: target.provider.disabled for chain in settings.chains.values() for target in chain.targets} == {
        target.name: None for chain in settings.chains.values() for target in chain.targets
    }


def test_the_free_tiers_are_those_that_are_promised() -> None:
    settings = example(EXAMPLES / "free-tier.yaml")
    quotas = {name: provider.quotas for name, provider in settings.providers.items() if provider.quotas}
    assert quotas == {
        "groq": (Quota("requests", 14_400, "day"),),
        "cohere": (Quota("tokens", 5_000_000, "month"),),
        "ai21": (Quota("tokens", 300_000, "month"),),
        "gemini": (Quota("requests", 5_000, "month", "America/Los_Angeles"),),
        "huggingface": (Quota("tokens", 30_000, "month"),),
        "openai": (Quota("tokens", 5_000, "once"),),
    }
    assert [target.provider.name for target in settings.chains["free"].targets] == list(quotas)


def test_the_budgets_are_those_that_are_promised() -> None:
    settings = example(EXAMPLES / "budgets.yaml")
    usd = {"azure": 100, "anthropic": 75, "gemini": 50, "xai": 40, "deepseek": 30}
    assert {name: provider.budget for name, provider in settings.providers.items() if provider.budget} == {
        name: Budget(usd_to_nusd(amount), "month") for name, amount in usd.items()
    }
    assert settings.budget == Budget(usd_to_nusd(sum(usd.values())), "month", hard=False)


def test_every_piece_of_a_file_on_the_page_of_limits_is_a_good_one(tmp_path: Path) -> None:
    page = (EXAMPLES.parent / "limits.md").read_text(encoding="utf-8")
    pieces = re.findall(r"^```yaml\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    assert len(pieces) == 4
    for piece in pieces:
        path = tmp_path / "providers.yaml"
        path.write_text(piece, encoding="utf-8")
        variables = {name: f"key-of-{name}" for name in re.findall(r"\$\{(\w+)", piece)}
        keys = {f"{name}_API_KEY": f"key-of-{name}" for name in ("ANTHROPIC", "GROQ", "GEMINI", "COHERE")}
        assert load(path, environ={**variables, **keys}, env_file=Path("/dev/null")).warnings == ()
