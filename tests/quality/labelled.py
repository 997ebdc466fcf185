"""The labelled answers, and how well the measure tells them apart.

`answers.jsonl` holds one answer a line: `label`, `language`, what was asked (`ask`, and `request` for more of its body), and `answer` or
`calls`, with a `finish_reason` where it is not `stop`. All are of our own making. Every second line was kept aside while the measure was
written (`held_out`): its figures are the honest ones.

    python -m tests.quality        prints the tables that docs/quality.md holds
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from proxy.quality.measure import measure_bodies
from proxy.quality.verdict import Quality

FILE = Path(__file__).with_name("answers.jsonl")
MIN = 0.6  # the `quality.min` that the figures are for
# label -> the reasons that name it; a bad answer that is below MIN for another reason is found, but not named
NAMED: Mapping[str, frozenset[str]] = {
    "truncated": frozenset(("cut_off", "unfinished", "open_code", "unbalanced_code")),
    "off_topic": frozenset(("off_topic",)),
    "looping": frozenset(("repetitive",)),
    "refusing": frozenset(("refused",)),
    "broken_json": frozenset(("not_json", "broken_json", "schema", "wrapped_json", "bad_arguments", "unknown_tool")),
}


@dataclass(frozen=True, slots=True)
class Sample:
    number: int
    label: str
    language: str
    request: Mapping[str, Any]
    answer: bytes

    @property
    def held_out(self) -> bool:
        return self.number % 2 == 1

    def quality(self) -> Quality:
        found = measure_bodies(self.request, self.answer)
        assert found is not None
        return found


def samples() -> list[Sample]:
    return [_sample(number, orjson.loads(line)) for number, line in enumerate(FILE.read_bytes().splitlines())]


def _sample(number: int, row: dict[str, Any]) -> Sample:
    request = {"model": "m", "messages": [{"role": "user", "content": row["ask"]}], **row.get("request", {})}
    message: dict[str, Any] = {"role": "assistant", "content": row.get("answer")}
    if "calls" in row:
        message["tool_calls"] = [
            {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for n, (name, arguments) in enumerate(row["calls"])
        ]
    choice = {"index": 0, "message": message, "finish_reason": row.get("finish_reason", "stop")}
    return Sample(number, row["label"], row["language"], request, orjson.dumps({"choices": [choice]}))


@dataclass(slots=True)
class Score:
    """`found`: answers below MIN that are bad; `missed`, `wrong` likewise."""

    found: int = 0
    missed: int = 0
    wrong: int = 0

    @property
    def precision(self) -> float:
        return self.found / (self.found + self.wrong) if self.found + self.wrong else 1.0

    @property
    def recall(self) -> float:
        return self.found / (self.found + self.missed) if self.found + self.missed else 1.0


def low(measured: Iterable[tuple[Sample, Quality]], minimum: float = MIN) -> Score:
    """Of telling bad answers from good ones by `quality.min`."""
    score = Score()
    for sample, quality in measured:
        below, bad = quality.total < minimum, sample.label != "good"
        score.found += below and bad
        score.missed += bad and not below
        score.wrong += below and not bad
    return score


def by_class(measured: Iterable[tuple[Sample, Quality]]) -> dict[str, tuple[int, Score, int]]:
    """label -> how many there are, the score of naming it by its reasons, how many are below MIN for whatever reason."""
    found = {label: (0, Score(), 0) for label in NAMED}
    for sample, quality in measured:
        for label, names in NAMED.items():
            count, score, below = found[label]
            named = quality.total < MIN and not names.isdisjoint(quality.reasons)
            score.found += named and sample.label == label
            score.wrong += named and sample.label != label
            score.missed += not named and sample.label == label
            if sample.label == label:
                found[label] = (count + 1, score, below + (quality.total < MIN))
    return found


def report() -> str:
    """The tables of docs/quality.md."""
    measured = [(sample, sample.quality()) for sample in samples()]
    aside = [pair for pair in measured if pair[0].held_out]
    lines = [
        "| class | answers | below 0.6 | named | precision | recall | kept aside: precision | recall |",
        "|---|---|---|---|---|---|---|---|",
    ]
    of_aside = by_class(aside)
    for label, (count, score, below) in by_class(measured).items():
        half = of_aside[label][1]
        lines.append(
            f"| {label.replace('_', ' ')} | {count} | {below} | {score.found} | {score.precision:.2f} | {score.recall:.2f} "
            f"| {half.precision:.2f} | {half.recall:.2f} |"
        )
    good = [quality for sample, quality in measured if sample.label == "good"]
    lines.append(f"| good | {len(good)} | {sum(quality.total < MIN for quality in good)} | | | | | |")
    lines += ["", "| `min` | precision | recall | kept aside: precision | recall |", "|---|---|---|---|---|"]
    for minimum in (0.4, 0.5, 0.6, 0.7, 0.8):
        whole, half = low(measured, minimum), low(aside, minimum)
        lines.append(f"| {minimum} | {whole.precision:.2f} | {whole.recall:.2f} | {half.precision:.2f} | {half.recall:.2f} |")
    return "\n".join(lines)
