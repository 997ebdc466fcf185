"""Compiles the price table of the package genai-prices into the small file that the server reads.

    python -m proxy.accounting.price_data OUT

A short-lived process of its own: importing that package costs half a second and some 40 MB, which a server should not carry for
a table that changes with each release of the package. `PriceBook.warm` starts it when the file for that release is missing.

The file is JSON lines. First a header: `format`, `version` (of the package), `sha256` of everything after the header's line.
Then one line a provider, so that only those in use are ever parsed: `id`, `fallback` (providers asked when no model matches) and
`models`, in the order in which they are tried: `[match, context, [[when, prices], …]]`. `match` is a clause: `{"equals": "x"}`,
`starts_with`, `ends_with`, `contains`, `regex`, or `and`, `or` with a list of clauses; texts are in lower case. `when` is null,
`{"from": epoch seconds}` or `{"daily": [from, to]}` in seconds of the UTC day. A price is a decimal string of USD per million
(tokens or requests), or `[base, [[above, price], …]]` where it steps up with the size of the input.
https://github.com/pydantic/genai-prices
"""

from __future__ import annotations

import hashlib
import os
import sys
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import orjson
from genai_prices import __version__, data

from proxy.accounting.pricing import FORMAT

# What of the package's price keys a chat completion's usage can be priced by, and what each is called here.
KINDS: Final = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_reasoning_mtok": "reasoning",
    "input_audio_mtok": "input_audio",
    "output_audio_mtok": "output_audio",
    "requests_kcount": "request",
}
_CLAUSES: Final = ("equals", "starts_with", "ends_with", "contains")


def compile_table() -> bytes:
    """The whole file."""
    lines = b"".join(
        orjson.dumps(
            {
                "id": provider.id,
                "fallback": list(provider.fallback_model_providers or ()),
                "models": [[_clause(m.match), m.context_window, _prices(m.prices)] for m in provider.models],
            }
        )
        + b"\n"
        for provider in data.providers
    )
    header = {"format": FORMAT, "version": __version__, "sha256": hashlib.sha256(lines).hexdigest()}
    return orjson.dumps(header) + b"\n" + lines


def write_table(path: Path) -> None:
    """Atomically: readers see the old file, none, or the whole new one. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        scratch.write_bytes(compile_table())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _clause(match: Any) -> dict[str, Any]:
    for name in _CLAUSES:
        if hasattr(match, name):
            return {name: getattr(match, name).lower()}
    if hasattr(match, "regex"):
        return {"regex": match.regex}
    if hasattr(match, "or_"):
        return {"or": [_clause(clause) for clause in match.or_]}
    return {"and": [_clause(clause) for clause in match.and_]}


def _prices(prices: Any) -> list[list[Any]]:
    if not isinstance(prices, list):
        return [[None, _kinds(prices)]]
    return [[_when(conditional.constraint), _kinds(conditional.prices)] for conditional in prices]


def _kinds(prices: Any) -> dict[str, Any]:
    found = {kind: getattr(prices, key) for key, kind in KINDS.items()}
    return {kind: _price(value, 1000 if kind == "request" else 1) for kind, value in found.items() if value is not None}


def _price(value: Any, factor: int) -> str | list[Any]:
    if isinstance(value, Decimal):
        return format(value * factor, "f")
    return [_price(value.base, factor), [[tier.start, _price(tier.price, factor)] for tier in value.tiers]]


def _when(constraint: Any) -> dict[str, Any] | None:
    if constraint is None:
        return None
    if hasattr(constraint, "start_date"):
        start: date = constraint.start_date
        return {"from": int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp())}
    return {"daily": [_second_of_day(constraint.start_time), _second_of_day(constraint.end_time)]}


def _second_of_day(value: time) -> float:
    moment = datetime.combine(date(1970, 1, 2), value, value.tzinfo or UTC)
    return moment.timestamp() % 86_400


if __name__ == "__main__":
    write_table(Path(sys.argv[1]))
