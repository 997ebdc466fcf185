"""Where one model's text goes on where another's broke off: what of the new text has been said before, and what stands between the two.

    so far      The quick brown fox jum            The quick brown                  The quick brown
    goes on     ps over                            quick brown fox                  fox
    joined      The quick brown fox jumps over     The quick brown fox              The quick brown fox

A model that takes the text as the beginning of its own answer is `exact`: it goes on to the letter, so only a repetition that cannot be
meant is taken out. One that was only asked to go on begins a new message: it is asked to repeat the last words (`anchor_of`), which makes
the seam plain; if it does not, its first word is set off by a space. What cannot be told apart stays as it came: a single word that is
said twice may be meant ("very very").
"""

from __future__ import annotations

import re
from functools import cache

WINDOW_CHARS = 1000  # how far back a repetition may begin, unless it is of everything
ANCHOR_WORDS, ANCHOR_CHARS = 8, 80
_CJK = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # written without spaces: each sign counts as a word
_CJK_WEIGHT = 3
_CLOSES = frozenset(".,;:!?)]}»”’")
# what a repetition must have at least to be one: different words, and letters in them
_LEAST_EXACT, _LEAST = (3, 12), (2, 8)
_LEAST_GLUED_EXACT, _LEAST_GLUED = 4, 3


def anchor_of(so_far: str) -> str:
    """The last words of a text, from the beginning of a word on: what a model is asked to repeat. Empty where there is no word."""
    body = so_far.rstrip()
    tail = body[-ANCHOR_CHARS:]
    whole = len(tail) == len(body)
    starts = [
        found.start() for found in _word().finditer(tail) if found.start() or whole or _begins_word(body, len(body) - len(tail))
    ]
    return tail[starts[-ANCHOR_WORDS:][0] :] if starts else ""


class Seam:
    """One seam. `feed` gives what of the new text is to be told, and holds back what may be a repetition; `close` gives the rest.

    `trimmed`: the model was not shown the white space that `so_far` ends with, so it may write it again. `echoes`: it is known to say
    all of `so_far` again.
    """

    __slots__ = ("_alive", "_anchor_at", "_body", "_complete", "_echoes", "_exact", "_held", "_space", "_trimmed")

    def __init__(self, so_far: str, *, exact: bool, trimmed: bool = False, echoes: bool = False) -> None:
        self._exact = exact
        self._trimmed = trimmed or not exact
        self._echoes = echoes
        body = self._body = so_far.rstrip()
        self._space = so_far[len(body) :]
        self._held: str | None = ""  # None once it is decided
        window = max(0, len(body) - WINDOW_CHARS)
        starts = [
            found.start() for found in _word().finditer(body, window) if found.start() > window or _begins_word(body, window)
        ]
        if body and 0 not in starts:
            starts.insert(0, 0)
        self._alive = starts  # where in `body` what is held may have been said before
        self._complete: list[int] = []  # and where it has been, up to the end
        self._anchor_at = -1 if exact else len(body) - len(anchor_of(so_far))

    @property
    def decided(self) -> bool:
        return self._held is None

    def feed(self, text: str) -> str:
        if self._held is None:
            return text
        self._held += text
        said = self._held.lstrip()
        if not said:
            return ""
        alive = []
        for start in self._alive:
            left = len(self._body) - start
            if len(said) < left:
                if self._body.startswith(said, start):
                    alive.append(start)
            elif said.startswith(self._body[start:]):
                self._complete.append(start)
        self._alive = alive
        if alive or (self._complete and self._may_change(said)):
            return ""
        return self._decide()

    def close(self) -> str:
        return "" if self._held is None else self._decide()

    def _may_change(self, said: str) -> bool:
        """Whether what comes next may tell a word's end, or how much of the white space is meant."""
        rest = said[len(self._body) - min(self._complete) :]
        return not rest or (bool(self._space) and rest.isspace())

    def _decide(self) -> str:
        held = self._held or ""
        self._held = None
        said = held.lstrip()
        for start in sorted(self._complete):
            rest = said[len(self._body) - start :]
            if self._repeats(start, rest, glued=held == said):
                return self._after_space(rest)
        if self._trimmed and self._space:
            return self._after_space(held)
        if not self._exact and held and self._wants_space(held):
            return " " + held
        return held

    def _repeats(self, start: int, rest: str, *, glued: bool) -> bool:
        """Whether what begins at `start` was said again, rather than meant twice. `glued`: no white space before it."""
        body, repeated = self._body, self._body[start:]
        if start == 0 and self._echoes:
            return True
        if self._anchor_at >= 0 and start <= self._anchor_at < len(body):
            return True
        words = [found.group().casefold() for found in _word().finditer(repeated)]
        different = set(words)
        size = sum(len(word) * (_CJK_WEIGHT if _cjk().match(word) else 1) for word in different)
        least_words, least_size = _LEAST_EXACT if self._exact else _LEAST
        if glued and not self._space and _is_letter(body[-1:]) and _is_letter(repeated[:1]) and not _cjk().match(repeated):
            # taken as it stands, two words would run into one
            if self._exact and len(different) == 1 and _is_letter(rest[:1]):
                return False
            return size >= (_LEAST_GLUED_EXACT if self._exact else _LEAST_GLUED)
        if body[:start].rstrip().endswith(repeated):
            return False  # it is said over and over
        return len(different) >= least_words and size >= least_size

    def _after_space(self, text: str) -> str:
        """Without the white space that the text so far has ended with."""
        space = self._space
        if not space:
            return text
        if text.startswith(space):
            return text[len(space) :]
        bare = text.lstrip()
        return bare if space.startswith(text[: len(text) - len(bare)]) else text

    def _wants_space(self, text: str) -> bool:
        """Between the end of a word and the beginning of a message, which never begins with a space."""
        last, first = self._body[-1:], text[:1]
        if self._space or not _is_letter(first) or _cjk().match(first) or _cjk().match(last):
            return False
        return _is_letter(last) or last in _CLOSES


@cache
def _word() -> re.Pattern[str]:
    """Compiled when the first stream breaks: the start-up has no use for it."""
    return re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")


@cache
def _cjk() -> re.Pattern[str]:
    return re.compile(rf"[{_CJK}]")


def _is_letter(char: str) -> bool:
    return char.isalnum() or char == "_"


def _begins_word(text: str, at: int) -> bool:
    return at == 0 or not _is_letter(text[at - 1]) or bool(_cjk().match(text[at]))
