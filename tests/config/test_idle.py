"""What stands in the file and can have no effect is warned of, where it stands; and what has one is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.load import load

pytestmark = pytest.mark.unit

ONE, TWO = "[demo/chat]", "[demo/chat, demo/slow]"
STATIC = "{static: Later.}"


def warnings(text: str, folder: Path) -> list[str]:
    file = folder / "providers.yaml"
    file.write_text(text)
    return [warning.split("providers.yaml:", 1)[1] for warning in load(file, environ={}).warnings]


def chain(targets: str, more: str) -> str:
    return f"chains:\n  x:\n    targets: {targets}\n    {more}\n"


@pytest.mark.parametrize("targets", [ONE, "[demo/chat, demo/chat]", f"[demo/chat, {STATIC}]"], ids=["one", "twice", "and static"])
@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("strategy: fastest", "strategy: fastest has nothing to choose among"),
        ("hedge: {after: p95}", "hedge: has nobody else to ask"),
        ("on_break: continue", "on_break: continue has nobody to go on with"),
    ],
    ids=["strategy", "hedge", "on_break"],
)
def test_what_needs_a_second_target(targets: str, more: str, why: str, tmp_path: Path) -> None:
    key = more.partition(":")[0]
    found = [warning for warning in warnings(chain(targets, more), tmp_path) if "twice" not in warning]
    assert found == [f"4:5: chain 'x' has only one target, so {why} (add another target, or remove {key}:)"]
    assert warnings(chain(TWO, more), tmp_path) == []


def test_a_chain_of_static_answers_alone(tmp_path: Path) -> None:
    assert warnings(chain(f"[{STATIC}]", "strategy: sticky"), tmp_path) == [
        "4:5: chain 'x' has no target to ask, so strategy: sticky has nothing to choose among (add another target, or remove strategy:)"
    ]
    assert warnings(chain(f"[{STATIC}]", "cache: {ttl: 1h}"), tmp_path) == [
        "4:5: chain 'x' has static answers alone, which are not kept (remove cache:)"
    ]


def test_a_wildcard_with_one_target(tmp_path: Path) -> None:
    (warning,) = warnings("chains:\n  'gpt-*': {targets: [demo/*], hedge: {}}\n", tmp_path)
    assert "chain 'gpt-*' has only one target, so hedge:" in warning


TARGET = "weight: counts under strategy: weighted and sticky alone (write one of them, or remove weight:)"
WEIGHTS = "weights: counts under strategy: score alone (write that, or remove weights:)"


@pytest.mark.parametrize(
    ("strategy", "found"),
    [
        ("strategy: weighted", [f"5:5: {WEIGHTS}"]),
        ("strategy: sticky", [f"5:5: {WEIGHTS}"]),
        ("strategy: score", [f"3:35: {TARGET}"]),
        ("strategy: cheapest", [f"3:35: {TARGET}", f"5:5: {WEIGHTS}"]),
        ("strict: false", [f"3:35: {TARGET}", f"5:5: {WEIGHTS}"]),
        ("strategy: order", []),
    ],
    ids=str,
)
def test_weights_that_nobody_asks_for(strategy: str, found: list[str], tmp_path: Path) -> None:
    assert (
        warnings(chain("[{target: demo/chat, weight: 2}, demo/slow]", f"{strategy}\n    weights: {{cost: 50}}"), tmp_path)
        == found
    )


def test_the_weight_of_a_target_in_a_plain_list(tmp_path: Path) -> None:
    assert warnings("chains:\n  x:\n    - {target: demo/chat, weight: 2}\n    - demo/slow\n", tmp_path) == [f"3:27: {TARGET}"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cache: {enabled: false}\n", []),
        ("cache: {enabled: true, ttl: 1h}\n", []),
        (
            "cache: {enabled: false, ttl: 1h}\n",
            ["1:25: cache: is switched off, so ttl counts for nothing (remove enabled: false, or it)"],
        ),
        (
            chain(TWO, "cache: {ttl: 1h, enabled: false, store: sqlite}"),
            ["4:13: cache: is switched off, so ttl and store count for nothing (remove enabled: false, or them)"],
        ),
    ],
    ids=["off", "on", "the file's", "a chain's"],
)
def test_a_cache_that_is_switched_off_and_described(text: str, found: list[str], tmp_path: Path) -> None:
    assert warnings(text, tmp_path) == found
