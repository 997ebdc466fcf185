"""Whether an answer hangs together: it does not go round in circles, is made of characters that texts have, and is in the language of
the request.

    repetitive    the share of runs of four words (or six characters of scripts without spaces) that came before; from 0.25 on it
                  counts, 0.6 is nothing left. The same line of four words and more counts likewise, by its share of the text
    garbled       replacement, control and private characters, text decoded twice, control tokens of models; one in 200 characters is
                  nothing left. So is a tenth of the text that is runs of signs, of consonants, or of letters and digits in turn
    other_language    a factor of 0.2

Limits: tables, code and verse repeat themselves by nature and are given twice the room; two languages of one script that are close to
each other are told apart only in longer texts.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from proxy.quality.answer import Answer
from proxy.quality.asked import Asked
from proxy.quality.languages import language_of, words_of
from proxy.quality.sample import thirds
from proxy.quality.verdict import Part

MAX_TEXT: Final = 12_000  # characters, a third each of the beginning, the middle and the end of a longer text
RUN_WORDS: Final = 4
RUN_CHARS: Final = 6
LEAST_WORDS: Final = 24
LEAST_CHARS: Final = 60
FROM, NOTHING_LEFT = 0.25, 0.6
GARBLED: Final = 0.005
JUNK: Final = 0.1
LEAST_JUNK: Final = 80  # characters of a text that may be more than a name or a number
OTHER_LANGUAGE: Final = 0.2
SHOWN_BELOW: Final = 0.7

_CODE = re.compile(r"(?ms)^[ \t]*(?:```|~~~).*?(?:^[ \t]*(?:```|~~~)[ \t]*$|\Z)|^[ \t]*\|[^\n]*\|[ \t]*$")
_ODD = re.compile(r"[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufff0-\uffff]")
_TWICE_DECODED = re.compile(
    r"\u00c3[\x80-\xbf]|\u00e2\u20ac[\u0080-\u00ff\u2000-\u2122\u0152-\u0178]|\u00c2[\xa0-\xbf]|\u00d0[\x80-\xbf]\u00d1|\u00e3[\u0081\u201a\u0192]"
)
_TOKENS = re.compile(r"<\|[a-z_]{2,30}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|<unk>|\[(?:PAD|UNK|MASK)\]")
_UNSPACED = re.compile("[฀-๿぀-ヿ一-鿿]")
_JUNK = re.compile(r"(?:([^\w\s])(?!\1)){6,}|\b[bcdfghjklmnpqrstvwxz]{7,}\b|[a-zа-я]\d[a-zа-я]\d[a-zа-я]", re.IGNORECASE)


def coherence_of(asked: Asked, answer: Answer) -> tuple[Part, bool]:
    """The part, and whether the answer is in the request's language, as far as that can be told."""
    text = thirds(answer.text, MAX_TEXT)
    circles, garble = _circles(text), _garble(text)
    value, reasons = 1.0, []
    for reason, share, bound in (("repetitive", circles, NOTHING_LEFT), ("garbled", garble, GARBLED)):
        start = FROM if reason == "repetitive" else 0.0
        left = 1 - min(1.0, max(0.0, share - start) / (bound - start))
        if left < SHOWN_BELOW:
            reasons.append(reason)
        value *= left
    same = asked.open or asked.json != "no" or _same_language(asked.language, text)
    if not same:
        value *= OTHER_LANGUAGE
        reasons.append("other_language")
    return Part(value, tuple(reasons)), same


def _same_language(wanted: str | None, text: str) -> bool:
    if wanted is None:
        return True
    found = language_of(_CODE.sub("", text))
    if found is None or found == wanted:
        return True
    return {found, wanted} == {"han", "kana"}  # a Japanese text may have next to no kana, and its title none


def _circles(text: str) -> float:
    """The share of it that came before."""
    prose = _CODE.sub("\n", text)
    room = 1.0
    if len(prose) < len(text) / 2:
        prose, room = text, 0.5
    if len(_UNSPACED.findall(prose)) * 2 > len(prose):
        pieces = "".join(prose.split())
        return room * _repeated([pieces[i : i + RUN_CHARS] for i in range(len(pieces) - RUN_CHARS + 1)], LEAST_CHARS)
    words = words_of(prose)
    runs = [tuple(words[i : i + RUN_WORDS]) for i in range(len(words) - RUN_WORDS + 1)]
    lines = [line.strip() for line in prose.split("\n") if len(line.split()) >= RUN_WORDS]
    same = Counter(lines)
    again = sum([len(line) * (count - 1) for line, count in same.items() if count > 2])
    return room * max(_repeated(runs, LEAST_WORDS), again / max(1, len(prose)))


def _repeated(runs: list[str] | list[tuple[str, ...]], least: int) -> float:
    return 1 - len(set(runs)) / len(runs) if len(runs) >= least else 0.0


def _garble(text: str) -> float:
    """Odd characters for each character, with more for what only a fault leaves behind."""
    if not text:
        return 0.0
    prose = _CODE.sub("\n", text)
    odd = len(_ODD.findall(text)) + 2 * len(_TWICE_DECODED.findall(prose)) + 4 * len(_TOKENS.findall(prose))
    junk = sum([len(found[0]) for found in _JUNK.finditer(prose)]) if len(prose) > LEAST_JUNK else 0
    return GARBLED if junk > JUNK * len(prose) else odd / len(text)
