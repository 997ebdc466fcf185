"""Parts of a long text that stand for the whole of it, so that measuring takes a bounded time."""

from __future__ import annotations


def ends(text: str, limit: int) -> str:
    """The text, or its beginning and its end where it is longer."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}\n{text[-(limit // 2) :]}"


def thirds(text: str, limit: int) -> str:
    """The text, or a part of its beginning, its middle and its end where it is longer."""
    if len(text) <= limit:
        return text
    third = limit // 3
    middle = (len(text) - third) // 2
    return f"{text[:third]}\n{text[middle : middle + third]}\n{text[-third:]}"
