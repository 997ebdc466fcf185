"""The measure of a whole answer: deterministic, without I/O, and bounded in time whatever the answer is.

    request ── read_asked ──┐
    answer ─── read_answer ─┴─ completeness, coherence, relevance ── quality_of ── Quality

Of an answer that calls functions only the calls are judged: are they of functions that were offered, with arguments that fit.
What none of this can see is whether an answer is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from proxy.quality.answer import Answer, read_answer
from proxy.quality.asked import Asked, read_asked
from proxy.quality.coherence import coherence_of
from proxy.quality.completeness import completeness_of
from proxy.quality.relevance import relevance_of
from proxy.quality.verdict import Part, Quality, quality_of

QUICK_BYTES: Final = 4_096  # of request and answer together: up to here it takes less than a hop to another thread is worth

_WHOLE: Final = Part(1.0)


def measure(asked: Asked, answer: Answer) -> Quality:
    completeness = completeness_of(asked, answer)
    if answer.calls or not answer.text.strip():
        return quality_of(completeness, _WHOLE, _WHOLE)
    coherence, same_language = coherence_of(asked, answer)
    return quality_of(completeness, relevance_of(asked, answer, same_language=same_language), coherence)


def measure_bodies(request: Mapping[str, Any], answer: bytes) -> Quality | None:
    """`request` and `answer` in OpenAI's chat format. None for an answer that is not of text or calls."""
    read = read_answer(answer)
    return None if read is None else measure(read_asked(request), read)
