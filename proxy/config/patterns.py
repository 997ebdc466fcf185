"""Names with a `*`: which one fits best, and what the `*` stood for. An exact name wins, then the longest literal part, then file order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def literal_length(pattern: str) -> int:
    return len(pattern) - pattern.count("*")


def matched_part(pattern: str, name: str) -> str | None:
    """What the (first) `*` of the pattern stands for in the name, as much of it as can be; None when it does not fit."""
    first, *others = pattern.split("*")
    if not others:
        return "" if name == pattern else None
    last = others.pop()
    end = len(name) - len(last)
    if end < len(first) or not name.startswith(first) or not name.endswith(last):
        return None
    for part in reversed(others):
        end = name.rfind(part, len(first), end)
        if end < 0:
            return None
    return name[len(first) : end]


def best_match(patterns: Mapping[str, T], name: str) -> T | None:
    if name in patterns:
        return patterns[name]
    fitting = [pattern for pattern in patterns if "*" in pattern and matched_part(pattern, name) is not None]
    return patterns[max(fitting, key=literal_length)] if fitting else None
