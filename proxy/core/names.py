"""What can be the name of a model: what a caller may send, and what a chain may therefore be called."""

from __future__ import annotations

import unicodedata

MAX_MODEL_BYTES = 256


def is_model_name(name: str) -> bool:
    """Short and printable, so that it can stand in a log, a header and a row, and written in the one way that Unicode's NFC has for it."""
    return (
        0 < len(name.encode("utf-8", "surrogatepass")) <= MAX_MODEL_BYTES
        and name.isprintable()
        and unicodedata.normalize("NFC", name) == name
    )
