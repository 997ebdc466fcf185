"""A report's table before it has a look: columns of a kind and rows of values. From it come tables for a terminal, and files.

The files say the same as the terminal: Markdown and text in its words, CSV and JSON in exact values. CSV is what spreadsheets open, so
a text that would be taken for a formula has an apostrophe put before it; in Markdown nothing that a caller chose can be markup.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from proxy.core.redact import one_line
from proxy.terminal.marks import RIGHT, WHOLE, Figure, Kind, mark, plain

TEXT_CELLS = 28  # for longer text columns are left out, before it is folded
FOLDED_CELLS = 16  # and then not into a thinner column
BETWEEN_CELLS = 3
ENDLESS = 10_000  # a width at which nothing is left out
FORMATS = ("csv", "json", "md", "txt")
_FORMULA = re.compile(r"^[=+\-@\t\r]")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|!&~])")


@dataclass(frozen=True, slots=True)
class Column:
    """`field` is the key in a row; `title` what stands above it. Where the terminal is too narrow, the column with the highest `drop`
    goes first, one with 0 never. `if_any`: left out where no row has anything there."""

    field: str
    title: str
    kind: Kind = "text"
    drop: int = 0
    if_any: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """`total`: one more row, set off from the rest. `nothing`: what is said where there is no row."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    total: Mapping[str, Any] | None = None
    nothing: str = "nothing"

    @property
    def all_rows(self) -> list[Mapping[str, Any]]:
        return [*self.rows, *([self.total] if self.total is not None else [])]


def table(sheet: Sheet, width: int = ENDLESS) -> Table | Text:
    """For a terminal so many characters wide."""
    if not sheet.rows:
        return Text.assemble((sheet.title, "bold"), f": {sheet.nothing}\n" if sheet.title else f"{sheet.nothing}\n")
    made = Table(title=sheet.title or None, box=SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    columns = _fitting(sheet, width)
    for column in columns:
        made.add_column(
            column.title,
            justify="right" if column.kind in RIGHT else "left",
            no_wrap=column.kind in WHOLE,
            min_width=min(_width(sheet, column), FOLDED_CELLS),
            overflow="fold",
            header_style="bold",
        )
    for row in sheet.rows:
        made.add_row(*(mark(column.kind, row.get(column.field)) for column in columns))
    if sheet.total is not None:
        made.add_section()
        total = sheet.total
        made.add_row(
            *(mark(column.kind, total[column.field]) if column.field in total else Text("") for column in columns), style="bold"
        )
    return made


def _fitting(sheet: Sheet, width: int) -> list[Column]:
    """The columns that there is room for, where text needs no more than TEXT_CELLS."""
    columns = [column for column in sheet.columns if _any(sheet, column)]
    while True:
        needed = [_width(sheet, c) if c.kind in WHOLE else min(_width(sheet, c), TEXT_CELLS) for c in columns]
        last = max(columns, key=lambda column: column.drop)
        if sum(needed) + BETWEEN_CELLS * len(needed) <= width or not last.drop:
            return columns
        columns.remove(last)


def _width(sheet: Sheet, column: Column) -> int:
    values = [plain(column.kind, row.get(column.field)) for row in sheet.rows]
    if sheet.total is not None and column.field in sheet.total:
        values.append(plain(column.kind, sheet.total[column.field]))
    return max(cell_len(text) for text in (column.title, *values))


def _any(sheet: Sheet, column: Column) -> bool:
    """A curve that nobody made is no column either."""
    return not (column.if_any or column.kind == "spark") or any(row.get(column.field) for row in sheet.rows)


# -- files


def written(sheets: Sequence[Sheet], form: str, data: Any) -> str:
    """The text of a file in one of FORMATS; `data` is what JSON says."""
    match form:
        case "json":
            return json.dumps({"data": data}, indent=2, ensure_ascii=False) + "\n"
        case "csv":
            return _csv(sheets)
        case "md":
            return "\n".join(_markdown(sheet) for sheet in sheets)
        case _:
            return "\n".join(_text(sheet) for sheet in sheets)


def _csv(sheets: Sequence[Sheet]) -> str:
    """One table; of several, each line begins with whose it is, and each has a head of its own."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    several = len(sheets) > 1
    for sheet in sheets:
        columns = [column for column in sheet.columns if column.kind != "spark"]
        writer.writerow([*(["report"] if several else []), *(column.field for column in columns)])
        for row in sheet.rows:
            values = [_csv_value(row.get(column.field)) for column in columns]
            writer.writerow([*([sheet.name] if several else []), *values])
    return out.getvalue()


def _csv_value(value: object) -> object:
    match value:
        case Figure():
            return _csv_value(value.value)
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str() if _FORMULA.match(value) and not _is_number(value):
            return "'" + one_line(value)
        case str():
            return one_line(value)
        case list() | tuple():
            return " ".join(one_line(str(item)) for item in value)
        case _:
            return value


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", text) is not None


def _markdown(sheet: Sheet) -> str:
    lines = [f"## {_escaped(sheet.title)}", ""] if sheet.title else []
    if not sheet.rows:
        return "\n".join([*lines, f"{_escaped(sheet.nothing)}", ""])
    columns = [column for column in sheet.columns if _any(sheet, column)]
    lines.append("| " + " | ".join(_escaped(column.title) for column in columns) + " |")
    lines.append("|" + "|".join("--:" if column.kind in RIGHT else "---" for column in columns) + "|")
    for row in sheet.all_rows:
        cells = [_escaped(plain(column.kind, row[column.field])) if column.field in row else "" for column in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def _text(sheet: Sheet) -> str:
    lines = [sheet.title, "=" * len(sheet.title)] if sheet.title else []
    if not sheet.rows:
        return "\n".join([*lines, sheet.nothing, ""])
    columns = [column for column in sheet.columns if _any(sheet, column)]
    cells = [
        [column.title for column in columns],
        *([plain(column.kind, row[column.field]) if column.field in row else "" for column in columns] for row in sheet.all_rows),
    ]
    widths = [max(len(line[n]) for line in cells) for n in range(len(columns))]
    for line in cells:
        fitted = [
            text.rjust(width) if column.kind in RIGHT else text.ljust(width)
            for text, width, column in zip(line, widths, columns, strict=True)
        ]
        lines.append("  ".join(fitted).rstrip())
    return "\n".join([*lines, ""])
