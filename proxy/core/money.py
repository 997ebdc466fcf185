"""Money is an integer number of nano-dollars (`nusd`); unknown is `None`, never 0."""

from __future__ import annotations

from decimal import Decimal

NUSD_PER_USD = 1_000_000_000


def usd_to_nusd(usd: Decimal | int | str) -> int:
    """Exact for up to nine decimals, half-even beyond."""
    return int((Decimal(usd) * NUSD_PER_USD).to_integral_value())


def nusd_to_usd(nusd: int) -> str:
    """The shortest exact decimal: `1500000000` is `"1.5"`, `0` is `"0"`."""
    sign = "-" if nusd < 0 else ""
    whole, rest = divmod(abs(nusd), NUSD_PER_USD)
    return f"{sign}{whole}.{rest:09d}".rstrip("0").rstrip(".")
