"""What a provider says of its rate limits in the headers of an answer, in every form in which providers say it.

    x-ratelimit-limit-requests, -remaining-requests, -reset-requests      OpenAI, Azure, Groq, Together, xAI ...; and -tokens
    x-ratelimit-limit, -remaining, -reset                                 OpenRouter, Hugging Face: requests
    x-ratelimit-limit-req-minute, -tokens-minute, -requests-day ...       Mistral, Cerebras: one for each period
    anthropic-ratelimit-requests-limit, -remaining, -reset                Anthropic; -tokens, -input-tokens, -output-tokens

https://platform.openai.com/docs/guides/rate-limits, https://docs.anthropic.com/en/api/rate-limits. Resets are read as
`retry_after.py` reads them. Of several limits of a unit the one that has the smallest share left is told. What cannot be read is
as if it were not there.
"""

from __future__ import annotations

from typing import NamedTuple

from proxy.core.limits import Unit
from proxy.core.ports import HeaderList
from proxy.routing.retry_after import reset_in_s, written_at

_COMMON = b"x-ratelimit-limit"
_ANTHROPIC = b"anthropic-ratelimit-"
_MAX = 10**12


class LearnedLimit(NamedTuple):
    """`limit` may go with any period; `resets_s` seconds after the answer it is whole again, None where that is not said."""

    unit: Unit
    limit: int
    remaining: int
    resets_s: float | None


def learned_limits(headers: HeaderList, *, wall: float) -> list[LearnedLimit]:
    """At most one for each unit, requests first. Header names are lower-case, `wall` is the epoch time of the answer."""
    fields = {name: value.decode("latin-1") for name, value in headers if b"ratelimit" in name or name == b"date"}
    then = written_at(fields.get(b"date"), wall)
    found: dict[Unit, LearnedLimit] = {}
    for name, text in fields.items():
        if name.startswith(_COMMON):
            what = name[len(_COMMON) :]
            names = b"x-ratelimit-remaining" + what, b"x-ratelimit-reset" + what
        elif name.startswith(_ANTHROPIC) and name.endswith(b"-limit"):
            what = name[len(_ANTHROPIC) : -len(b"-limit")]
            names = _ANTHROPIC + what + b"-remaining", _ANTHROPIC + what + b"-reset"
        else:
            continue
        limit, remaining = _count(text), _count(fields.get(names[0]))
        if not limit or remaining is None:
            continue
        reset = fields.get(names[1])
        unit: Unit = "tokens" if b"token" in what else "requests"
        one = LearnedLimit(unit, limit, min(remaining, limit), None if reset is None else reset_in_s(reset, then))
        if unit not in found or one.remaining * found[unit].limit < found[unit].remaining * limit:
            found[unit] = one
    return [found[unit] for unit in ("requests", "tokens") if unit in found]


def _count(text: str | None) -> int | None:
    text = text.strip() if text is not None else ""
    whole, _, rest = text.partition(".")
    if not (whole.isascii() and whole.isdigit() and len(whole) <= 12 and not rest.strip("0")):
        return None
    return min(int(whole), _MAX)
