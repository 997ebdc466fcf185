"""A bounded part of what `make fuzz` does for longer: every target with what it once stumbled over, and with a fixed set of mutants.

A find of `make fuzz` is kept in `corpus/<target>/` and is a test from then on.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.fuzz.mutation import random_input
from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.property

CORPUS = Path(__file__).parent / "corpus"
KEPT = sorted(path.relative_to(CORPUS).as_posix() for path in CORPUS.rglob("*") if path.is_file())


@pytest.mark.parametrize("kept", KEPT)
def test_what_was_found_once_stays_mended(kept: str) -> None:
    name, _, _ = kept.partition("/")
    TARGETS[name].check((CORPUS / kept).read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_hold(name: str) -> None:
    for seed in TARGETS[name].seeds():
        TARGETS[name].check(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_nearly_right_does_no_harm(name: str) -> None:
    """The same mutants every time: whoever changes the code must not be surprised by what has always been wrong."""
    target = TARGETS[name]
    random, seeds = Random(name), target.seeds()
    for _ in range(target.examples):
        data = random_input(random, seeds, target.tokens)
        try:
            target.check(data)
        except Exception as fault:
            fault.add_note(f"the input: {data!r}")
            raise
