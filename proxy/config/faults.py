"""What is wrong with the file, where, and what to write instead. Faults are gathered and raised together."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

CUT = "…"  # what was too long for a message ends in it

Path = tuple[str | int, ...]
"""The way to a value in the file: `("chains", "smart", "targets", 0)`."""


@dataclass(frozen=True, slots=True)
class ConfigFault:
    """One fault. `file` is as the user named it; `line` and `col` count from 1, `message` ends in what to write instead."""

    file: str
    line: int
    col: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.col}: {self.message}"


class ConfigError(Exception):
    """The configuration cannot be used. `faults` holds every fault that was found, in the order of the file."""

    def __init__(self, faults: Iterable[ConfigFault]) -> None:
        self.faults = sorted(set(faults), key=lambda fault: (fault.file, fault.line, fault.col, fault.message))
        super().__init__("\n".join(map(str, self.faults)))


def did_you_mean(word: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """` (did you mean 'x'?)`, or `otherwise` in brackets when nothing comes near."""
    near = difflib.get_close_matches(word[:80], list(known), n=1, cutoff=0.6)
    if near:
        return f" (did you mean '{near[0]}'?)"
    return f" ({otherwise})" if otherwise else ""


def one_line(text: str, limit: int = 60) -> str:
    """What the user wrote, fit to stand inside a message."""
    shown = text if len(text) <= limit else text[: limit - 1] + CUT
    return shown if shown.isprintable() else escaped(shown)


def escaped(text: str) -> str:
    """In printable ASCII, each character by itself."""
    return text.encode("unicode_escape").decode("ascii")
