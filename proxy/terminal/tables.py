"""The ledger's requests in a terminal, and tables that are made line by line. Rows come in, rich's tables go out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from proxy.terminal.marks import cell, money

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


def _figures(by: Row | None) -> str | None:
    """What its place was worked out from; `tollbridge explain` says it in words."""
    if by is None:
        return None
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in by.items() if name != "place" and value is not None)


def _answered_by(row: Row) -> str | None:
    return f"{row['provider']}/{row['upstream_model']}" if row["provider"] else None
