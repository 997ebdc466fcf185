"""The ledger's requests in a terminal, and tables that are made line by line. Rows come in, rich's tables go out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from proxy.terminal.marks import Figure, cell, money
from proxy.terminal.sheet import ENDLESS, Column, Sheet
from proxy.terminal.sheet import table as fitted

Row = Mapping[str, Any]

_TOLD_APART = frozenset(("id", "attempt_list", "trace", "cost_usd", "dropped", "asked", "cached"))
_NARROW = ("id", "time", "state", "outcome")


def table(title: str | None = None, *columns: str, numbers: Sequence[str] = ()) -> Table:
    """An empty table; the columns named in `numbers` are right-aligned."""
    made = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold", header_style="bold", pad_edge=False)
    for column in columns:
        number = column in numbers
        made.add_column(column, justify="right" if number else "left", no_wrap=number or column in _NARROW, overflow="fold")
    return made


_REQUESTS = (
    Column("id", "id", "id"),
    Column("time", "time", "id", 2),
    Column("client", "client", drop=5),
    Column("model", "model", drop=1),
    Column("answered_by", "answered by", drop=3),
    Column("outcome", "outcome", "id"),
    Column("attempts", "tries", "number", 6),
    Column("input_tokens", "in", "number", 7),
    Column("output_tokens", "out", "number", 7),
    Column("duration_ms", "ms", "number", 8),
    Column("cost_usd", "cost", "money", 4),
)
_ATTEMPTS = (
    Column("n", "n", "number"),
    Column("target", "target"),
    Column("outcome", "outcome", "id"),
    Column("error_class", "class", drop=2),
    Column("then", "then", drop=3),
    Column("duration_ms", "ms", "number", 5),
    Column("first_token_ms", "first token ms", "number", 8),
    Column("input_tokens", "in", "number", 7),
    Column("output_tokens", "out", "number", 7),
    Column("cost_usd", "cost", "money", 6),
    Column("error", "error", drop=1),
)


def requests(rows: Iterable[Row], width: int = ENDLESS) -> Table | Text:
    """For a terminal so many characters wide: an id is always whole, since it is what a next command needs."""
    shown = [
        {
            **row,
            "time": row["time"][5:19].replace("T", " "),
            "answered_by": _answered_by(row),
            "cost_usd": Figure("text", None) if row["outcome"] == "running" else row["cost_usd"],
        }
        for row in rows
    ]
    return fitted(Sheet("requests", "", _REQUESTS, shown), width)


def request(row: Row, width: int = ENDLESS) -> list[Table | Text]:
    """One request: what it was, what the plan kept and skipped, what was tried and what followed from it."""
    facts = table(f"request {row['id']}", "", "")
    facts.show_header = False
    for name, value in row.items():
        if name not in _TOLD_APART and value is not None and value != []:
            facts.add_row(Text(name.replace("_", " "), style="dim"), cell(value))
    facts.add_row(Text("dropped", style="dim"), cell(", ".join(map(str, row.get("dropped") or []))))
    facts.add_row(Text("cost", style="dim"), money(row["cost_usd"]))
    chosen = any("by" in entry for entry in row.get("trace") or [])
    plan = table("plan", "target", "verdict", *(["by"] if chosen else []))
    then: dict[int, str] = {}  # what followed an attempt
    for entry in row.get("trace") or []:
        if "attempt" in entry:
            said = entry["then"] if "quality" not in entry else f"measured {entry['quality']:g}, {entry['then']}"
            then[entry["attempt"]] = ", ".join(filter(None, (then.get(entry["attempt"]), said)))
        elif "target" in entry:
            skipped = entry.get("skipped")
            verdict = Text("kept", style="green") if skipped is None else cell(f"skipped: {skipped}")
            plan.add_row(cell(entry["target"]), verdict, *([cell(_figures(entry.get("by")))] if chosen else []))
    attempts = [
        {**entry, "target": f"{entry['provider']}/{entry['upstream_model']}", "then": then.get(entry["n"])}
        for entry in row.get("attempt_list") or []
    ]
    return [facts, plan, fitted(Sheet("attempts", "attempts", _ATTEMPTS, attempts, nothing="none"), width)]


def _figures(by: Row | None) -> str | None:
    """What its place was worked out from; `tollbridge explain` says it in words."""
    if by is None:
        return None
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in by.items() if name != "place" and value is not None)


def _answered_by(row: Row) -> str | None:
    return f"{row['provider']}/{row['upstream_model']}" if row["provider"] else None
