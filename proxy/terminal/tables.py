"""How reports look in a terminal: tables of what the ledger and the configuration hold. Rows come in, rich's tables go out.

Names in a row can be hostile (a caller chose them): they are shown as text, never as markup, without control characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from proxy.core.redact import one_line

Row = Mapping[str, Any]

_STYLES = {
    "ok": "green",
    "running": "cyan",
    "failed": "red",
    "interrupted": "red",
    "rejected": "yellow",
    "client_gone": "yellow",
    "bad_key": "red",
    "unreachable": "red",
    "fault": "red",
    "unknown": "yellow",
}
_NOTHING = "–"
_NARROW = ("id", "time", "state", "outcome")


def table(title: str | None = None, *columns: str, numbers: Sequence[str] = ()) -> Table:
    """An empty table; the columns named in `numbers` are right-aligned."""
    made = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold", header_style="bold", pad_edge=False)
    for column in columns:
        number = column in numbers
        made.add_column(column, justify="right" if number else "left", no_wrap=number or column in _NARROW, overflow="fold")
    return made


def cell(value: object) -> Text:
    """Text as it is; nothing for None, thousands separated, outcomes in their colours."""
    match value:
        case None | "":
            return Text(_NOTHING, style="dim")
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
    """`$0.001250`: six decimals, or as many as a tiny amount needs. None is an unknown price and says so; nothing is `$0`."""
    if usd is None:
        return Text("unpriced", style="yellow")
    amount = Decimal(usd)
    if not amount:
        return Text("$0", style="dim")
    return Text(f"${amount:,.6f}" if amount >= Decimal("0.000001") else f"${amount:f}")


def usage(rows: Iterable[Row], groups: Sequence[str], title: str) -> Table:
    """Sums by `groups`, and a line with all of them together when there are several."""
    figures = {
        "requests": "requests",
        "failed": "failed",
        "attempts": "attempts",
        "failed attempts": "attempts_failed",
        "input": "input_tokens",
        "cached": "cached_input_tokens",
        "output": "output_tokens",
        "reasoning": "reasoning_tokens",
        "unpriced": "unpriced_attempts",
    }
    made = table(title, *groups, *figures, "cost", numbers=(*figures, "cost"))
    rows = [{**row, "attempts_failed": row["attempts"] - row["attempts_ok"]} for row in rows]
    for row in rows:
        made.add_row(
            *(cell(row[group]) for group in groups), *(cell(row[name]) for name in figures.values()), money(row["cost_usd"])
        )
    if len(rows) > 1:
        made.add_section()
        sums = (cell(sum(row[name] for row in rows)) for name in figures.values())
        cost = sum((Decimal(row["cost_usd"]) for row in rows), Decimal(0))
        blanks = [Text("") for _ in groups[1:]]
        made.add_row(*([Text("all"), *blanks] if groups else []), *sums, money(str(cost)), style="bold")
    return made


def requests(rows: Iterable[Row]) -> Table:
    made = table(
        None,
        "id",
        "time",
        "client",
        "model",
        "answered by",
        "outcome",
        "tries",
        "in",
        "out",
        "ms",
        "cost",
        numbers=("tries", "in", "out", "ms", "cost"),
    )
    for row in rows:
        made.add_row(
            cell(row["id"]),
            cell(row["time"][5:19].replace("T", " ")),
            cell(row["client"]),
            cell(row["model"]),
            cell(_answered_by(row)),
            cell(row["outcome"]),
            cell(row["attempts"]),
            cell(row["input_tokens"]),
            cell(row["output_tokens"]),
            cell(row["duration_ms"]),
            money(row["cost_usd"]) if row["outcome"] != "running" else cell(None),
        )
    return made


def request(row: Row) -> list[Table]:
    """One request: what it was, what the plan kept and skipped, what was tried and what followed from it."""
    facts = table(f"request {row['id']}", "", "")
    facts.show_header = False
    for name, value in row.items():
        if name not in ("id", "attempt_list", "trace", "cost_usd", "dropped"):
            facts.add_row(Text(name.replace("_", " "), style="dim"), cell(value))
    facts.add_row(Text("dropped", style="dim"), cell(", ".join(map(str, row.get("dropped") or []))))
    facts.add_row(Text("cost", style="dim"), money(row["cost_usd"]))
    plan = table("plan", "target", "verdict")
    then: dict[int, str] = {}  # what followed a failed attempt
    for entry in row.get("trace") or []:
        if "attempt" in entry:
            then[entry["attempt"]] = entry["then"]
        elif "target" in entry:
            skipped = entry.get("skipped")
            plan.add_row(cell(entry["target"]), Text("kept", style="green") if skipped is None else cell(f"skipped: {skipped}"))
    attempts = table(
        "attempts",
        "n",
        "target",
        "outcome",
        "class",
        "then",
        "ms",
        "first token ms",
        "in",
        "out",
        "cost",
        "error",
        numbers=("n", "ms"),
    )
    for entry in row.get("attempt_list") or []:
        attempts.add_row(
            cell(entry["n"]),
            cell(f"{entry['provider']}/{entry['upstream_model']}"),
            cell(entry["outcome"]),
            cell(entry["error_class"]),
            cell(then.get(entry["n"])),
            cell(entry["duration_ms"]),
            cell(entry["first_token_ms"]),
            cell(entry["input_tokens"]),
            cell(entry["output_tokens"]),
            money(entry["cost_usd"]),
            cell(entry["error"]),
        )
    return [facts, plan, attempts]


def _answered_by(row: Row) -> str | None:
    return f"{row['provider']}/{row['upstream_model']}" if row["provider"] else None
