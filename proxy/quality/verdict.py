"""What a measured answer is said to be: three parts, their weighted sum, and the reasons by name.

    total = 0.40 completeness + 0.35 relevance + 0.25 coherence            each 0 to 1

What fails in one part cannot be whole in the others: each is held to at most (1 + the least of the three) / 2 before they are added.
So a single grave fault is enough to put an answer below any sensible `quality.min`, and a doubt is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

COMPLETENESS_WEIGHT: Final = 0.40
RELEVANCE_WEIGHT: Final = 0.35
COHERENCE_WEIGHT: Final = 0.25
DIGITS: Final = 3  # of what is shown, decided by and written down

REASONS: Mapping[str, str] = {
    "empty": "it has neither text nor calls",
    "refused": "it is a refusal",
    "partly_refused": "it begins as a refusal and goes on",
    "filtered": "the provider's filter ended it",
    "cut_off": "it ends for its length, which the caller did not limit",
    "cut_by_limit": "it ends at the caller's own limit",
    "unfinished": "it stops in the middle of a sentence",
    "open_code": "a block of code is not closed",
    "unbalanced_code": "a block of code has brackets that nothing closes",
    "not_json": "JSON was asked for and it is none",
    "wrapped_json": "JSON was asked for and stands inside other text",
    "broken_json": "a block of JSON in it does not parse",
    "schema": "it does not satisfy the schema that was asked for",
    "parts_missing": "it has fewer parts than were asked for",
    "unknown_tool": "it calls a function that was not offered",
    "bad_arguments": "the arguments of a call are no JSON object or do not satisfy the function's parameters",
    "off_topic": "it has next to nothing in common with what was asked",
    "repetitive": "it repeats itself",
    "garbled": "it has characters or control tokens that no text has",
    "other_language": "it is in another language than the request",
    "judged": "a judge was asked too",
}
"""Names of what is held against an answer (and `judged`). Never words of the request or the answer: they go into the ledger."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Each 0 to 1, rounded to DIGITS. `judged`: what the judge said, None where none was asked; then `total` is the mean of both."""

    total: float
    completeness: float
    relevance: float
    coherence: float
    reasons: tuple[str, ...] = ()
    judged: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """As the ledger keeps it."""
        shown: dict[str, Any] = {
            "completeness": self.completeness,
            "relevance": self.relevance,
            "coherence": self.coherence,
        }
        if self.reasons:
            shown["reasons"] = list(self.reasons)
        if self.judged is not None:
            shown["judged"] = self.judged
        return shown


@dataclass(frozen=True, slots=True)
class Part:
    """One of the three, 0 to 1, before they are held to each other."""

    value: float
    reasons: tuple[str, ...] = ()


def quality_of(completeness: Part, relevance: Part, coherence: Part) -> Quality:
    least = min(completeness.value, relevance.value, coherence.value)
    most = (1 + least) / 2
    parts = [round(min(part.value, most), DIGITS) for part in (completeness, relevance, coherence)]
    total = COMPLETENESS_WEIGHT * parts[0] + RELEVANCE_WEIGHT * parts[1] + COHERENCE_WEIGHT * parts[2]
    reasons = dict.fromkeys((*completeness.reasons, *relevance.reasons, *coherence.reasons))
    return Quality(round(total, DIGITS), parts[0], parts[1], parts[2], tuple(reasons))


def with_opinion(measured: Quality, opinion: float) -> Quality:
    """`opinion`: a judge's, 0 to 1."""
    return Quality(
        round((measured.total + opinion) / 2, DIGITS),
        measured.completeness,
        measured.relevance,
        measured.coherence,
        (*measured.reasons, "judged"),
        round(opinion, DIGITS),
    )
