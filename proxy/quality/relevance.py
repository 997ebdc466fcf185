"""Whether an answer is about what was asked: by the words that both have.

    reach = the larger of    terms of the request that the answer has  / (EXPECTED * all terms of the request)
                             terms of the answer that the request has  / (EXPECTED * all terms of the answer)      at most 1
    weight = min(1, (terms of the request - 1) / 3) * min(1, terms of the answer / 24)
    relevance = 1 - weight * (1 - reach)

So it speaks only where there is something to compare: an answer of a word or two, or a request of one, is held to be relevant. Limits:
what is said in other words (a poem about the sea that has only waves) looks less relevant than it is, what takes up the
request's words and says nothing looks relevant, and where the answer may be in another language, or is code, nothing is compared.
"""

from __future__ import annotations

from typing import Final

from proxy.quality.answer import Answer
from proxy.quality.asked import Asked
from proxy.quality.languages import script_of, subject_of
from proxy.quality.sample import ends
from proxy.quality.verdict import Part

MAX_TEXT: Final = 8_000  # characters
EXPECTED: Final = 0.25
SAME_BEGINNING: Final = 4  # letters: `flat` is in an answer that has `flatten`
ENOUGH_REQUEST: Final = 3
ENOUGH_ANSWER: Final = 24
OFF_TOPIC: Final = 0.4  # below, it is given as a reason


def relevance_of(asked: Asked, answer: Answer, *, same_language: bool) -> Part:
    if asked.open or asked.code or not same_language or asked.schema is not None:
        return Part(1.0)
    text = ends(answer.text, MAX_TEXT)
    terms = frozenset(subject_of(text))
    if not terms or not asked.terms:
        return Part(1.0)
    pairs = 3 if script_of(text) in ("han", "kana", "thai") else 1  # pairs of characters are many and say less each
    weight = min(1.0, (len(asked.terms) - 1) / (ENOUGH_REQUEST * pairs)) * min(1.0, len(terms) / (ENOUGH_ANSWER * pairs))
    beginnings = {term[:length] for term in terms for length in range(SAME_BEGINNING, len(term) + 1)}
    taken_up = len([term for term in asked.terms if term in terms or term in beginnings]) / (EXPECTED * len(asked.terms))
    known = len(terms & asked.all_terms) / (EXPECTED * len(terms))
    value = 1 - weight * (1 - min(1.0, max(taken_up, known)))
    return Part(value, ("off_topic",) if value < OFF_TOPIC else ())
