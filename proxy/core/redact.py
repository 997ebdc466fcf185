"""Takes secrets out of text on its way out: logs, error bodies, traces, rows.

Exact values of the secrets that are loaded come first, then shapes that keys commonly have, so that a key that an upstream
echoes is caught too when it is not one of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import orjson

MASK = "***"
_SHORTEST_SECRET = 6  # a shorter one would black out ordinary words
_SHORTEST_LINE = 16
_OURS = re.compile(r"(?<![0-9A-Za-z])tb_[0-9A-Za-z]{20,}")
_SHAPES = re.compile(
    # not inside a word: "task-oriented" holds no key
    r"(?<![A-Za-z0-9])(?:sk|pk|rk|gsk|xai|hf|csk|nvapi|pplx|ghp|gho|github_pat|fw|tgp|r8|sess)[-_][A-Za-z0-9_\-*]{8,}"
    r"|\btb_[0-9A-Za-z]{20,}"  # one of our own, see `api_key.py`
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{12,}"
    r"|AIza[0-9A-Za-z_\-]{20,}"
    r"|(?i:bearer)\s+[A-Za-z0-9._~+/=\-]{8,}"
    r"|eyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{5,}\.[A-Za-z0-9_\-]*"
    r"|\borg-[A-Za-z0-9]{8,}"
)


class Redactor:
    """Call it with a text, get the text without secrets. `hits` counts what it took out."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self.hits = 0
        # longest first: one secret may contain another
        values = sorted({s for s in secrets if len(s) >= _SHORTEST_SECRET}, key=len, reverse=True)
        self._exact = re.compile("|".join(map(re.escape, values))) if values else None
        others = sorted({form for value in values for form in _other_forms(value)}, key=len, reverse=True)
        self._quoted = re.compile("|".join(map(re.escape, others))) if others else None
        self._shortest = min(map(len, values), default=0)
        self._starts = frozenset([value[:_SHORTEST_SECRET] for value in values])

    def __call__(self, text: str) -> str:
        if self._exact is not None:
            text, n = self._exact.subn(MASK, text)
            self.hits += n
        if self._quoted is not None:
            text, n = self._quoted.subn(MASK, text)
            self.hits += n
        text, n = _SHAPES.subn(MASK, text)
        self.hits += n
        return text

    def exact(self, text: str) -> str:
        """Takes out the secrets that are loaded and runtime keys of ours, which nobody holds: for names that a caller gives.

        Those may look like another key and be none. The cost does not grow with the number of secrets.
        """
        if "tb_" in text:
            text, n = _OURS.subn(MASK, text)
            self.hits += n
        if self._exact is None or len(text) < self._shortest:
            return text
        starts = self._starts
        if not any(text[at : at + _SHORTEST_SECRET] in starts for at in range(len(text) - _SHORTEST_SECRET + 1)):
            return text
        text, n = self._exact.subn(MASK, text)
        self.hits += n
        return text


def _other_forms(secret: str) -> Iterator[str]:
    """As JSON writes it, and each long line of one that has several, such as a private key: a text may quote one line alone."""
    written = orjson.dumps(secret.encode("utf-8", "replace").decode())[1:-1].decode()
    if written != secret:
        yield written
    lines = secret.split("\n")
    if len(lines) > 1:
        yield from (line.strip() for line in lines if len(line.strip()) >= _SHORTEST_LINE and not line.startswith("-----"))


def one_line(text: str, limit: int = 300) -> str:
    """The start of a text with control and direction-changing characters turned to spaces: fit for a log line or an error message."""
    cleaned = "".join([c if c.isprintable() else " " for c in text[: limit * 2]])
    return " ".join(cleaned.split())[:limit]
