"""What a value looks like in a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.terminal.marks import SPARK_CELLS, Kind, cell, fill, mark, money, plain, sparkline, state

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
        ("0.999999", "$0.999999"),
        ("1234.5", "$1,234.50"),
        ("0.000000042", "$0.000000042"),
    ],
)
def test_an_unknown_price_is_never_nothing_and_a_tiny_one_never_rounded_away(usd: str | None, shown: str) -> None:
    assert money(usd).plain == shown


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("share", 0.9924, "99.2 %"),
        ("share", 1.0, "100 %"),
        ("share", 0.99999, ">99.9 %"),
        ("share", 0, "0 %"),
        ("share", 0.00001, "<0.1 %"),
        ("share", 1.5, "150 %"),
        ("share", None, "–"),
        ("ms", 0.4, "0.4 ms"),
        ("ms", 812.4, "812 ms"),
        ("ms", 2_345.0, "2.3 s"),
        ("ms", 240_000, "4 min"),
        ("days", 500, "500 days"),
        ("days", 1_748.3, "1,748 days"),
        ("days", 3.0, "3 days"),
        ("days", 3.21, "3.2 days"),
        ("days", 0.5, "12 hours"),
        ("days", 0.01, "under an hour"),
        ("time", "2026-11-21T14:30:59.123Z", "2026-11-21 14:30"),
        ("time", "yesterday\n", "yesterday"),
        ("state", "down", "✖ down"),
        ("state", "resolved", "resolved"),
        ("money", None, "unpriced"),
        ("number", 1234, "1,234"),
        ("spark", [1, 2], "▅█"),
        ("fill", 0.5, "█████░░░░░  50.0 %"),
    ],
)
def test_each_kind_has_a_look(kind: Kind, value: object, shown: str) -> None:
    assert plain(kind, value) == shown


@pytest.mark.parametrize(
    ("share", "style", "bar"),
    [(0, "green", "░░░░░░░░░░"), (0.8, "yellow", "████████░░"), (0.95, "red", "█████████▌"), (1.3, "red", "██████████")],
)
def test_a_bar_fills_and_changes_its_colour(share: float, style: str, bar: str) -> None:
    text = fill(share)
    assert text.plain.startswith(bar)
    assert [span.style for span in text.spans] == [style]


@pytest.mark.parametrize(
    ("values", "curve"),
    [
        ([], ""),
        ([0, None, 0], "···"),
        ([1, 0, 8], "▂·█"),
        ([5, 5, 5], "███"),
        ([0.001, 1000], "▁█"),
        ([1] * 30 + [3] * 30, "▃" * 15 + "█" * 15),
    ],
)
def test_a_curve_goes_from_nothing_to_its_highest(values: list[float | None], curve: str) -> None:
    assert sparkline(values) == curve


@pytest.mark.property
@given(st.lists(st.one_of(st.none(), st.floats(0, 1e12)), max_size=500))
def test_a_curve_always_fits(values: list[float | None]) -> None:
    assert len(sparkline(values)) == min(len(values), SPARK_CELLS)


def test_a_state_says_in_a_word_what_its_colour_says() -> None:
    for word in ("healthy", "degraded", "down", "unknown", "disabled", "info", "warning", "error"):
        assert state(word).plain.endswith(f" {word}")
        assert state(word).style


def test_markup_in_a_name_is_text() -> None:
    assert mark("text", "[red]x[/red]").plain == "[red]x[/red]"
    assert state("[red]x").plain == "[red]x"
