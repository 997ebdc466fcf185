"""How well the measure tells two hundred labelled answers apart, and that docs/quality.md says just that."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from proxy.quality.verdict import REASONS
from tests.quality.labelled import MIN, NAMED, by_class, low, report, samples

pytestmark = pytest.mark.unit

PAGE = (Path(__file__).parents[2] / "docs" / "quality.md").read_text(encoding="utf-8")
MEASURED = [(sample, sample.quality()) for sample in samples()]


def test_the_set_is_as_large_and_as_mixed_as_the_page_says() -> None:
    labels = Counter(sample.label for sample, _ in MEASURED)
    assert sum(labels.values()) == 200
    assert labels.keys() == {"good", *NAMED}
    assert min(labels.values()) >= 20
    assert len({sample.language for sample, _ in MEASURED}) == 17
    assert "in 17 languages" in PAGE


def test_the_page_has_these_figures_and_no_other() -> None:
    assert report() in PAGE, f"put these into docs/quality.md (python -m tests.quality):\n{report()}"


def test_the_half_that_was_kept_aside_is_told_apart_as_well() -> None:
    aside = low(pair for pair in MEASURED if pair[0].held_out)
    assert aside.precision > 0.9
    assert aside.recall > 0.85


@pytest.mark.parametrize("label", ["truncated", "looping", "refusing", "broken_json"])
def test_plain_faults_are_nearly_all_found(label: str) -> None:
    count, _, below = by_class(MEASURED)[label]
    assert below >= 0.9 * count


def test_hardly_a_good_answer_is_asked_for_twice() -> None:
    good = [quality.total for sample, quality in MEASURED if sample.label == "good"]
    assert len([total for total in good if total < MIN]) <= 0.06 * len(good)


def test_every_reason_is_on_the_page() -> None:
    listed = {
        line.split("`")[1]: line.split("|")[2].strip()
        for line in PAGE.splitlines()
        if line.startswith("| `") and line.count("|") == 3
    }
    assert {name: listed.get(name) for name in REASONS} == dict(REASONS)
