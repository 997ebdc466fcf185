"""Takes secrets out of text on its way out: logs, error bodies, traces, rows.

Exact values of the secrets that are loaded come first, then shapes that keys commonly have, so that a key that an upstream
echoes is caught too when it is not one of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "***"
_SHORTEST_SECRET = 6  # a shorter one would black out ordinary words
_SHAPES = re.compile(
    # not inside a word: "task-oriented" holds no key
    r"(?<![A-Za-z0-9])(?:sk|pk|rk|gsk|xai|hf|csk|nvapi|pplx|ghp|gho|github_pat|fw|tgp|r8|sess)[-_][A-Za-z0-9_\-*]{8,}"
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

    def __call__(self, text: str) -> str:
        if self._exact is not None:
            text, n = self._exact.subn(MASK, text)
            self.hits += n
        text, n = _SHAPES.subn(MASK, text)
        self.hits += n
        return text


def one_line(text: str, limit: int = 300) -> str:
    """The start of a text with control and direction-changing characters turned to spaces: fit for a log line or an error message."""
    cleaned = "".join([c if c.isprintable() else " " for c in text[: limit * 2]])
    return " ".join(cleaned.split())[:limit]
