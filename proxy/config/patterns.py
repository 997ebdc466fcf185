"""Names with a `*`: which one fits best, and what the `*` stood for. An exact name wins, then the longest literal part, then file order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")


def literal_length(pattern: str) -> int:
    return len(pattern) - pattern.count("*")


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(map(re.escape, pattern.split("*"))), re.DOTALL)


def matched_part(pattern: str, name: str) -> str | None:
    """What the (first) `*` of the pattern stands for in the name, None when it does not fit."""
    found = _compiled(pattern).fullmatch(name)
    return (found[1] if found.re.groups else "") if found else None


def best_match(patterns: Mapping[str, T], name: str) -> T | None:
    if name in patterns:
        return patterns[name]
    fitting = [pattern for pattern in patterns if "*" in pattern and matched_part(pattern, name) is not None]
    return patterns[max(fitting, key=literal_length)] if fitting else None
