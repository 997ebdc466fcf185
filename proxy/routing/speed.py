"""How long an answer will probably take: its first token as expected, and the rest at the speed of late."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.routing.choice import Option


def expected_ms(options: Sequence[Option], output_tokens: int) -> list[float | None]:
    """Milliseconds until the whole answer is there, for each; None where not even its first token is known.

    A speed that is unknown is held to be the mean of the others, so that it neither helps nor harms; where none is known only the first
    token counts.
    """
    known = [option.tokens_per_s for option in options if option.tokens_per_s]
    usual = sum(known) / len(known) if known else None
    return [_expected_ms(option, usual, output_tokens) for option in options]


def _expected_ms(option: Option, usual: float | None, output_tokens: int) -> float | None:
    if option.first_token_ms is None:
        return None
    speed = option.tokens_per_s or usual
    return round(option.first_token_ms + (output_tokens / speed * 1000 if speed else 0.0), 1)
