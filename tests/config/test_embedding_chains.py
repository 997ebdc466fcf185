"""A chain of two embedding models is warned of, at the place of the second: their vectors cannot be compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.load import load

pytestmark = pytest.mark.unit

HEAD = """
providers:
  one: {dialect: openai, base_url: "http://one.example/v1"}
  two: {dialect: openai, base_url: "http://two.example/v1", models: {plain: {capabilities: [embeddings]}, chatty: {capabilities: [tools]}}}
chains:
"""
FIRST_LINE = HEAD.count("\n") + 1


def warnings(chains: str, folder: Path) -> list[str]:
    file = folder / "providers.yaml"
    file.write_text(HEAD + chains, encoding="utf-8")
    return [warning.split("providers.yaml:", 1)[1] for warning in load(file, environ={}).warnings]


@pytest.mark.parametrize(
    "targets",
    [
        "one/text-embedding-3-small, two/text-embedding-3-small",
        "one/text-embedding-3-small, two/openai/text-embedding-3-small",
        "one/embed-v4.0, two/us.cohere.embed-v4:0",
        "one/embed-english-v3.0, two/cohere.embed-english-v3",
        "one/nomic-embed-text, two/nomic-embed-text:latest",
        "one/Text-Embedding-3-Small, two/text-embedding-3-small",
        "one/gpt-4o, two/claude-sonnet-4-5",
        "one/gpt-4o, two/text-embedding-3-small",  # a chat model is passed over
        "one/my-deployment, two/text-embedding-3-small",  # nothing tells what that is
        "two/chatty, two/text-embedding-3-small",
        "two/plain",
    ],
)
def test_one_model_by_several_names_is_no_mixture(targets: str, tmp_path: Path) -> None:
    assert warnings(f"  vectors: [{targets}]\n", tmp_path) == []


@pytest.mark.parametrize(
    ("chain", "line", "column", "pair"),
    [
        ("  vectors: [one/text-embedding-3-small, two/text-embedding-3-large]\n", 0, 41, ("3-small", "3-large")),
        ("  vectors: [one/text-embedding-3-small, two/chatty, two/embed-v4.0]\n", 0, 53, ("3-small", "embed-v4.0")),
        ("  vectors:\n    - one/text-embedding-3-small\n    - two/plain\n", 2, 7, ("3-small", "plain")),
        ("  vectors:\n    targets:\n      - one/embed-a\n      - target: two/embed-b\n", 3, 17, ("embed-a", "embed-b")),
        ('  "v-*": [one/text-embedding-*, two/embed-*]\n', 0, 33, ("text-embedding-*", "embed-*")),
    ],
)
def test_two_models_in_a_chain_are_warned_of(chain: str, line: int, column: int, pair: tuple[str, str], tmp_path: Path) -> None:
    (warning,) = warnings(chain, tmp_path)
    assert warning.startswith(f"{FIRST_LINE + line}:{column}: chain '")
    assert all(name in warning for name in pair)
    assert "must not be mixed" in warning


def test_every_model_that_differs_from_the_first_is_named(tmp_path: Path) -> None:
    found = warnings("  vectors: [one/embed-a, two/embed-b, one/embed-c, two/embed-a]\n", tmp_path)
    assert [warning.split(": ")[0] for warning in found] == [f"{FIRST_LINE}:26", f"{FIRST_LINE}:39"]
