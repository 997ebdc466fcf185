"""What a caller asks of the choice of target and of the cache, in headers of its own. None of it reaches an upstream.

    x-tollbridge-prefer: groq                     a provider, or a target: first, with the rest of the chain behind it
    x-tollbridge-exclude: openai, groq/llama-3    providers and targets that are not asked
    x-tollbridge-require: vision, region:eu       what a target must be able to do, or where it must stand
    x-tollbridge-max-cost: 0.02                   USD that an answer is expected to cost at most
    x-tollbridge-max-latency: 800ms               until the first content, as expected, at most
    x-tollbridge-priority: low | normal | high    cheap rather than quick, as configured, quick rather than cheap
    x-tollbridge-cache: on | off | refresh

A header that cannot be meant is refused: whoever caps a cost does not want the cap to be passed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal, cast, get_args

from proxy.core.errors import InvalidValue
from proxy.core.money import NUSD_PER_USD

MAX_NAMES = 32
MAX_USD = Decimal(10**6)

Priority = Literal["low", "normal", "high"]
CacheWish = Literal["on", "off", "refresh"]

_DURATION = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,6})?) ?(ms|s|m)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}


@dataclass(frozen=True, slots=True)
class Wishes:
    """`prefer` and `exclude` name providers or targets; `require` holds features, capabilities and `region:NAME`."""

    prefer: str | None = None
    exclude: frozenset[str] = frozenset()
    require: frozenset[str] = frozenset()
    max_cost_nusd: int | None = None
    max_latency_s: float | None = None
    priority: Priority = "normal"
    cache: CacheWish | None = None

    @property
    def constrain(self) -> bool:
        """Whether they may rule a target out."""
        return bool(self.exclude or self.require) or self.max_cost_nusd is not None or self.max_latency_s is not None


NO_WISHES = Wishes()


def wishes_of(headers: Mapping[bytes, bytes]) -> Wishes:
    """Raises InvalidValue for what cannot be meant. `headers`: lower-case names."""
    if WISH_HEADERS.isdisjoint(headers):
        return NO_WISHES
    said = {name: headers[name].decode("latin-1").strip() for name in WISH_HEADERS if name in headers}
    cost = said.get(b"x-tollbridge-max-cost")
    latency = said.get(b"x-tollbridge-max-latency")
    return Wishes(
        prefer=said.get(b"x-tollbridge-prefer") or None,
        exclude=_names(b"x-tollbridge-exclude", said),
        require=_names(b"x-tollbridge-require", said),
        max_cost_nusd=None if not cost else _nusd(cost),
        max_latency_s=None if not latency else _seconds(latency),
        priority=cast("Priority", _word(b"x-tollbridge-priority", said, get_args(Priority)) or "normal"),
        cache=cast("CacheWish | None", _word(b"x-tollbridge-cache", said, get_args(CacheWish))),
    )


WISH_HEADERS = frozenset(
    (
        b"x-tollbridge-prefer",
        b"x-tollbridge-exclude",
        b"x-tollbridge-require",
        b"x-tollbridge-max-cost",
        b"x-tollbridge-max-latency",
        b"x-tollbridge-priority",
        b"x-tollbridge-cache",
    )
)


def _names(header: bytes, said: Mapping[bytes, str]) -> frozenset[str]:
    names = frozenset([name.strip() for name in said.get(header, "").split(",") if name.strip()])
    if len(names) > MAX_NAMES:
        raise _invalid(header, f"at most {MAX_NAMES} names, separated by commas")
    return names


def _word(header: bytes, said: Mapping[bytes, str], words: tuple[str, ...]) -> str | None:
    word = said.get(header, "").lower()
    if word and word not in words:
        raise _invalid(header, f"one of {', '.join(words)}")
    return word or None


def _nusd(text: str) -> int:
    try:
        usd = Decimal(text.removeprefix("$"))
    except InvalidOperation:
        usd = Decimal(-1)
    if not (usd.is_finite() and 0 <= usd <= MAX_USD):
        raise _invalid(b"x-tollbridge-max-cost", "a number of USD, such as 0.02")
    return int(usd * NUSD_PER_USD)


def _seconds(text: str) -> float:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise _invalid(b"x-tollbridge-max-latency", "a time with its unit, such as 800ms or 2s")
    return float(found[1]) * _SECONDS[found[2]]


def _invalid(header: bytes, wanted: str) -> InvalidValue:
    name = header.decode()
    return InvalidValue(f"The header `{name}` must be {wanted}.", param=name)
