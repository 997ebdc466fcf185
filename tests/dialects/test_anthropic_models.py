"""Where a model's name places it, and what follows from that."""

from __future__ import annotations

import pytest

from proxy.dialects.anthropic.models import UNKNOWN, UNKNOWN_THINKING, thoughts_fit, traits_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("names", "thinking", "sampling", "prefill", "schemas"),
    [
        (
            "claude-2.1 claude-instant-1.2 anthropic.claude-v2:1 claude-3-opus-20240229 claude-3-5-sonnet-latest",
            "none",
            "both",
            1,
            0,
        ),
        ("claude-3-7-sonnet-20250219 claude-3-7-sonnet@20250219 anthropic/claude-3.7-sonnet", "budget", "both", 1, 0),
        ("claude-sonnet-4-0 claude-opus-4-20250514 claude-4-opus-20250514 claude-opus-4@20250514", "budget", "both", 1, 0),
        ("claude-opus-4-1-20250805 us.anthropic.claude-opus-4-1-20250805-v1:0", "budget", "one", 1, 0),
        ("claude-haiku-4-5 us.anthropic.claude-sonnet-4-5-20250929-v1:0 anthropic/claude-opus-4.5", "budget", "one", 1, 1),
        ("claude-opus-4-6 us.anthropic.claude-opus-4-6-v1 CLAUDE-SONNET-4-6", "adaptive", "one", 0, 1),
        ("claude-opus-4-7 claude-opus-4-8 claude-opus-5 claude-sonnet-5 claude-mythos-preview", "adaptive", "none", 0, 1),
        (
            "claude-opus-5-5 claude-sonnet-5-5 claude-haiku-5-5 claude-fable-5-2 claude-opus-9 claude-quartz-6-1",
            "adaptive",
            "none",
            0,
            1,
        ),
    ],
)
def test_generations(names: str, thinking: str, sampling: str, prefill: int, schemas: int) -> None:
    for name in names.split():
        traits = traits_of(name)
        found = (traits.thinking, traits.sampling, traits.prefill, traits.schemas)
        assert found == (thinking, sampling, bool(prefill), bool(schemas)), name


@pytest.mark.parametrize(
    ("name", "off", "forced_tools", "unasked"),
    [
        ("claude-opus-4-8", "disabled", True, False),
        ("claude-opus-5", "disabled", True, True),
        ("claude-opus-5-5", None, False, True),
        ("claude-sonnet-5", "disabled", True, True),
        ("claude-sonnet-5-5", "between_tools", False, True),
        ("claude-haiku-5-5", "disabled", True, True),
        ("claude-fable-5", None, True, True),
        ("claude-fable-5-1", None, False, True),
        ("claude-mythos-5-1", None, False, True),
    ],
)
def test_families(name: str, off: str | None, forced_tools: bool, unasked: bool) -> None:
    traits = traits_of(name)
    assert (traits.off, traits.forced_tools, traits.unasked) == (off, forced_tools, unasked)


def test_effort_is_a_matter_of_the_model() -> None:
    assert traits_of("claude-opus-4-6").efforts == ("low", "medium", "high", "max")
    assert traits_of("claude-opus-4-7").efforts == ("low", "medium", "high", "xhigh", "max")


@pytest.mark.parametrize("name", ["kimi-k2", "deepseek-reasoner", "glm-4.6", "my-claude", ""])
def test_who_is_no_claude_judges_for_itself(name: str) -> None:
    assert traits_of(name) == UNKNOWN
    assert traits_of(name, reasoning=True) == UNKNOWN_THINKING


def test_thoughts_fit_their_thinker_and_old_ones_each_other() -> None:
    assert thoughts_fit("claude-opus-4-5", "claude-sonnet-4-5")
    assert thoughts_fit("claude-opus-5-5", "claude-opus-5-5")
    assert not thoughts_fit("claude-opus-5-5", "claude-opus-4-5")
    assert not thoughts_fit("claude-opus-4-5", "claude-opus-5-5")
