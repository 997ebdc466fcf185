"""How values look in a terminal: figures, shares, small curves, states. A colour never says what no word says.

Names can be hostile (a caller chose them): they are shown as text, never as markup, without control characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from rich.text import Text

from proxy.core.redact import one_line

Kind = Literal["text", "id", "number", "money", "share", "fill", "part", "ms", "days", "time", "state", "spark"]
"""What a column holds. `id`: text that is never broken; `share`, `fill` and `part` 0 to 1, the last two with a bar, and what fills
is well until it is nearly full; `days` a number of them; `time` RFC 3339; `spark` a list of numbers, None for unknown."""

NOTHING = "–"
RIGHT: frozenset[Kind] = frozenset(("number", "money", "share", "ms", "days"))
WHOLE: frozenset[Kind] = frozenset((*RIGHT, "id", "time", "state", "spark", "fill", "part"))

_BLOCKS = "▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉"
BAR_CELLS = 10
SPARK_CELLS = 30
# word -> (sign, colour)
_STATES: dict[str, tuple[str, str]] = {
    "healthy": ("●", "green"),
    "degraded": ("▲", "yellow"),
    "down": ("✖", "red"),
    "unknown": ("○", "yellow"),
    "disabled": (NOTHING, "dim"),
    "info": ("●", "cyan"),
    "warning": ("▲", "yellow"),
    "error": ("✖", "red"),
    "passed": ("●", "green"),
}
_STYLES: dict[str, str] = {
    "ok": "green",
    "ready": "green",
    "running": "cyan",
    "failed": "red",
    "interrupted": "red",
    "rejected": "yellow",
    "client_gone": "yellow",
    "bad_key": "red",
    "unreachable": "red",
    "fault": "red",
    "unknown": "yellow",
    "open": "yellow",
    "resolved": "green",
    "active": "green",
    "expired": "dim",
    "revoked": "dim",
    "shadowed": "red",
}
_ALMOST, _FULL = 0.75, 0.95


class Figure(NamedTuple):
    """A value that brings its kind, where the column holds several."""

    kind: Kind
    value: Any


def mark(kind: Kind, value: object) -> Text:
    """A value as its column shows it; None is unknown, or not there."""
    if isinstance(value, Figure):
        kind, value = value
    if value is None or value == "":
        return Text("unpriced", style="yellow") if kind == "money" else Text(NOTHING, style="dim")
    match kind:
        case "money":
            return money(str(value))
        case "share":
            return Text(share(_float(value)))
        case "fill":
            return fill(_float(value))
        case "part":
            return fill(_float(value), "cyan")
        case "ms":
            return Text(duration(_float(value)))
        case "days":
            return Text(days(_float(value)))
        case "time":
            return Text(moment(str(value)))
        case "state":
            return state(str(value))
        case "spark":
            return Text(sparkline(value if isinstance(value, Sequence) else []), style="cyan")
        case _:
            return cell(value)


def plain(kind: Kind, value: object) -> str:
    return mark(kind, value).plain


def cell(value: object) -> Text:
    """Text as it is; nothing for None, thousands separated, outcomes in their colours."""
    match value:
        case None | "":
            return Text(NOTHING, style="dim")
        case bool():
            return Text("yes" if value else "no")
        case int():
            return Text(f"{value:,}")
        case float():
            return Text(f"{value:,.1f}" if value < 100 else f"{value:,.0f}")
        case _:
            text = one_line(str(value))
            return Text(text, style=_STYLES.get(text, ""))


def money(usd: str | None) -> Text:
    """`$1,234.50`, below a dollar `$0.001250`, and as many decimals as a tiny amount needs. None is an unknown price and says so."""
    if usd is None:
        return Text("unpriced", style="yellow")
    amount = Decimal(usd)
    if not amount:
        return Text("$0", style="dim")
    if abs(amount) >= 1:
        return Text(f"${amount:,.2f}")
    return Text(f"${amount:,.6f}" if abs(amount) >= Decimal("0.000001") else f"${amount:f}")


def share(value: float) -> str:
    """`99.2 %`; what is not quite all is never shown as all, and what is not quite nothing not as nothing."""
    percent = round(100 * value, 1)
    if (percent == 100 and value < 1) or (percent == 0 and value > 0):
        return ">99.9 %" if percent else "<0.1 %"
    return f"{percent:.0f} %" if percent in (0, 100) or percent > 100 else f"{percent:.1f} %"


def fill(value: float, style: str | None = None) -> Text:
    """A bar and the share in figures; without a colour of its own green, yellow or red as it fills."""
    eighths = round(min(max(value, 0.0), 1.0) * BAR_CELLS * 8)
    bar = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    style = style or ("green" if value < _ALMOST else "yellow" if value < _FULL else "red")
    return Text.assemble((bar.ljust(BAR_CELLS, "░"), style), f" {share(value):>7}")


def duration(value_ms: float) -> str:
    """`812 ms`, `2.3 s`, `4 min`."""
    if value_ms < 10:
        return f"{value_ms:.1f} ms"
    if value_ms < 1_000:
        return f"{value_ms:.0f} ms"
    return f"{value_ms / 1000:.1f} s" if value_ms < 120_000 else f"{value_ms / 60_000:.0f} min"


def days(value: float) -> str:
    """`500 days`, `3.2 days`, `7 hours`."""
    if value >= 1:
        return f"{value:,.0f} days" if value >= 10 or value == round(value) else f"{value:.1f} days"
    return f"{value * 24:.0f} hours" if value >= 1 / 24 else "under an hour"


def moment(rfc3339: str) -> str:
    """`2026-11-21 14:30`, in UTC."""
    try:
        return datetime.fromisoformat(rfc3339).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return one_line(rfc3339)


def state(word: str) -> Text:
    """A sign, the word and a colour, any one of which says it."""
    sign, style = _STATES.get(word, ("", _STYLES.get(word, "")))
    return Text(f"{sign} {one_line(word)}" if sign else one_line(word), style=style)


def sparkline(values: Sequence[Any], cells: int = SPARK_CELLS) -> str:
    """A curve from 0 to its highest value, one cell each, or so many together that it fits. A dot stands for 0 and for unknown."""
    numbers = [float(value or 0) for value in values]
    if len(numbers) > cells:
        numbers = [
            sum(numbers[len(numbers) * n // cells : len(numbers) * (n + 1) // cells])
            / (len(numbers) * (n + 1) // cells - len(numbers) * n // cells)
            for n in range(cells)
        ]
    highest = max(numbers, default=0.0)
    if highest <= 0:
        return "·" * len(numbers)
    top = len(_BLOCKS) - 1
    return "".join("·" if number <= 0 else _BLOCKS[min(top, int(number / highest * top + 0.5))] for number in numbers)


def _float(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
