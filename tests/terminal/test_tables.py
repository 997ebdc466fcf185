"""What a value looks like in a table."""

import pytest
from rich.console import Console

from proxy.terminal.tables import cell, money, table

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        ("", "–"),
        (0, "0"),
        (1_234_567, "1,234,567"),
        (0.25, "0.2"),
        (99.94, "99.9"),
        (1234.5, "1,234"),
        (True, "yes"),
        (False, "no"),
        ("ok", "ok"),
        ("a\x1b[31m\nb\u202ec", "a [31m b c"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_cells(value: object, shown: str) -> None:
    assert cell(value).plain == shown


@pytest.mark.parametrize(
    ("usd", "shown"),
    [
        (None, "unpriced"),
        ("0", "$0"),
        ("0.00125", "$0.001250"),
        ("1234.5", "$1,234.500000"),
        ("0.000000042", "$0.000000042"),
    ],
)
def test_an_unknown_price_is_never_nothing_and_a_tiny_one_never_rounded_away(usd: str | None, shown: str) -> None:
    assert money(usd).plain == shown


def test_figures_stand_to_the_right() -> None:
    made = table(None, "name", "count", numbers=("count",))
    made.add_row(cell("a"), cell(1))
    made.add_row(cell("b"), cell(1000))
    console = Console(width=80, no_color=True)
    with console.capture() as captured:
        console.print(made)
    assert [line.strip() for line in captured.get().split("\n") if line.strip()][-2:] == ["a          1", "b      1,000"]
