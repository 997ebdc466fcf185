"""One sheet, and all that is made of it: a table that fits, CSV, Markdown, text, JSON."""

import csv
import io
import json
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from proxy.terminal.marks import Figure
from proxy.terminal.sheet import FORMATS, Column, Sheet, table, written

pytestmark = pytest.mark.unit

COLUMNS = (
    Column("name", "name"),
    Column("count", "count", "number"),
    Column("cost_usd", "cost", "money", 2),
    Column("share", "share", "fill", 1),
    Column("trend", "trend", "spark", 3),
    Column("odd", "odd", "number", if_any=True),
)
ROWS: list[dict[str, Any]] = [
    {"name": "openai", "count": 1200, "cost_usd": "1.5", "share": 0.75, "trend": [1, 2], "odd": 0},
    {"name": "=cmd|'/c calc'!A1", "count": 0, "cost_usd": None, "share": None, "trend": [], "odd": 0},
]
SHEET = Sheet("usage", "last week", COLUMNS, ROWS, total={"name": "all", "count": 1200})


def headers(made: object) -> list[str]:
    assert isinstance(made, Table)
    return [str(column.header) for column in made.columns]


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (200, ["name", "count", "cost", "share", "trend"]),
        (62, ["name", "count", "cost", "share"]),
        (52, ["name", "count", "share"]),
        (30, ["name", "count"]),
        (5, ["name", "count"]),
    ],
)
def test_what_has_no_room_is_left_out_in_order(width: int, shown: list[str]) -> None:
    assert headers(table(SHEET, width)) == shown


@pytest.mark.parametrize("width", [62, 52, 30])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    console = Console(width=width, no_color=True)
    with console.capture() as captured:
        console.print(table(SHEET, width))
    assert max(map(len, captured.get().splitlines())) <= width
    assert "…" not in captured.get()


def test_a_column_that_nobody_filled_is_not_there() -> None:
    assert "odd" not in headers(table(SHEET))
    assert "odd" in headers(table(Sheet("x", "", COLUMNS, [{**ROWS[0], "odd": 1}])))


@pytest.mark.parametrize(("title", "shown"), [("alerts", "alerts: none\n"), ("", "none\n")])
def test_an_empty_sheet_is_a_sentence(title: str, shown: str) -> None:
    assert str(table(Sheet("x", title, COLUMNS, [], nothing="none"))) == shown


# -- files


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_exact_values_and_no_formula() -> None:
    first, second = rows_of(written([SHEET], "csv", None))
    assert first == {"name": "openai", "count": "1200", "cost_usd": "1.5", "share": "0.75", "odd": "0"}
    assert second == {"name": "'=cmd|'/c calc'!A1", "count": "0", "cost_usd": "", "share": "", "odd": "0"}


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("+1+2", "'+1+2"), ("-2+3", "'-2+3"), ("@SUM(A1)", "'@SUM(A1)"), ("-5.25", "-5.25"), ('a\nb,c"d', 'a b,c"d'), (True, "true"),
        (["a", 1], "a 1"),
    ],
)  # fmt: skip
def test_what_a_caller_chose_is_text_to_a_spreadsheet(name: object, inside: str) -> None:
    (row,) = rows_of(written([Sheet("x", "", COLUMNS[:1], [{"name": name}])], "csv", None))
    assert row == {"name": inside}


def test_a_value_that_brings_its_kind_is_exact_in_csv_and_looks_like_itself_elsewhere() -> None:
    sheet = Sheet("x", "", COLUMNS[:1], [{"name": Figure("money", "7.7726")}])
    assert rows_of(written([sheet], "csv", None)) == [{"name": "7.7726"}]
    assert "$7.77" in written([sheet], "txt", None)


def test_several_sheets_in_one_csv_say_whose_a_line_is() -> None:
    text = written([SHEET, Sheet("alerts", "alerts", (Column("kind", "kind"),), [{"kind": "budget"}])], "csv", None)
    lines = text.splitlines()
    assert lines[0].startswith("report,name,count")
    assert lines[1].startswith("usage,openai,")
    assert lines[3:] == ["report,kind", "alerts,budget"]


def test_markdown_has_a_table_and_no_markup_of_a_caller() -> None:
    hostile = Sheet("x", "a | b", COLUMNS[:2], [{"name": "<script>|`x`[l](u)", "count": 1}], total={"name": "all"})
    assert written([hostile], "md", None).splitlines() == [
        "## a \\| b",
        "",
        "| name | count |",
        "|---|--:|",
        "| \\<script\\>\\|\\`x\\`\\[l\\](u) | 1 |",
        "| all |  |",
    ]
    assert written([Sheet("x", "alerts", COLUMNS, [], nothing="none")], "md", None) == "## alerts\n\nnone\n"


def test_text_is_aligned_and_as_the_terminal_has_it() -> None:
    assert written([SHEET], "txt", None).splitlines() == [
        "last week",
        "=========",
        "name               count      cost  share               trend",
        "openai             1,200     $1.50  ███████▌░░  75.0 %  ▅█",
        "=cmd|'/c calc'!A1      0  unpriced  –",
        "all                1,200",
    ]
    assert written([Sheet("x", "alerts", COLUMNS, [], nothing="none")], "txt", None) == "alerts\n======\nnone\n"


def test_json_is_the_data_itself() -> None:
    assert json.loads(written([SHEET], "json", {"a": [1, None]})) == {"data": {"a": [1, None]}}


@pytest.mark.parametrize("form", FORMATS)
def test_control_characters_never_reach_a_file(form: str) -> None:
    sheet = Sheet("x", "", COLUMNS[:1], [{"name": "a\x1b[31mb\x07"}])
    assert not {"\x1b", "\x07"} & set(written([sheet], form, "x"))
