"""Variables in values, and the `.env` file."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.environment import SECRET_FROM, BadVariable, Environment, parse_env
from proxy.config.faults import one_line

unit = pytest.mark.unit


def expand(text: str, **values: str) -> tuple[str, list[str]]:
    result = Environment(values, Path("/nowhere")).expand(text)
    return result.text, result.missing


@unit
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("${A}", "one"),
        ("x${A}y${B}z", "xoney two z"),
        ("${EMPTY}", ""),
        ("${EMPTY:-else}", "else"),
        ("${NONE:-else}", "else"),
        ("${NONE:-}", ""),
        ("${NONE:-a:-b}", "a:-b"),
        ("${A:-else}", "one"),
        ("$${A}", "${A}"),
        ("$A costs $5", "$A costs $5"),
        ("$$", "$$"),
    ],
)
def test_variables_are_filled_in(text: str, expected: str) -> None:
    assert expand(text, A="one", B=" two ", EMPTY="") == (expected, [])


@unit
def test_what_a_variable_holds_is_not_expanded_again() -> None:
    assert expand("${A}", A="${B}", B="two") == ("${B}", [])


@pytest.mark.property
@given(st.text(min_size=SECRET_FROM).map(str.strip).filter(lambda held: len(held) >= SECRET_FROM), st.text(max_size=70))
def test_a_message_names_the_variable_instead_of_what_it_holds(held: str, before: str) -> None:
    """However it was cut or escaped to fit in there."""
    environment = Environment({"KEY": held}, Path("/nowhere"))
    environment.expand("${KEY}")
    for text in (held, before + held, before + held + before):
        words = one_line(text)
        told = environment.told(f"value: '{words}' is none")
        if held.isprintable() and held in words:
            assert "${KEY}" in told
        assert held not in told


@unit
@pytest.mark.parametrize(
    ("held", "message", "told"),
    [
        ("sk-live-1234567890", "'sk-live-1234567890' is none", "'${KEY}' is none"),
        ("sk-live-1234567890", "'http://sk-live-12…' is none", "'http://${KEY}' is none"),
        ("sk-live-1234567890\n-more", "'sk-live-1234567890\\n-mo\\u2026' is none", "'${KEY}' is none"),
        (" sk-live-1234567890\n", "'sk-live-1234567890' is none", "'${KEY}' is none"),
        ("8O8O", "'8O8O' is none", "'8O8O' is none"),
    ],
    ids=["whole", "cut", "escaped and cut", "with blanks around it", "too short for a secret"],
)
def test_what_a_variable_holds_is_not_told(held: str, message: str, told: str) -> None:
    environment = Environment({"KEY": held}, Path("/nowhere"))
    environment.expand("${KEY}")
    assert environment.told(message) == told


@unit
def test_what_stands_in_the_file_is_told() -> None:
    environment = Environment({}, Path("/nowhere"))
    environment.expand("${KEY:-somewhere-else}")
    assert environment.told("'somewhere-else' is none") == "'somewhere-else' is none"


@unit
def test_a_variable_that_is_not_set_is_named() -> None:
    assert expand("${A}${B}")[1] == ["A is not set", "B is not set"]


@unit
@pytest.mark.parametrize("text", ["${", "${A", "${}", "${A B}", "${A-b}", "${1A}", "${A${B}}"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadVariable):
        expand(text, A="one", B="two")


@unit
def test_a_file_gives_its_content_without_the_last_line_break(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    environment = Environment({}, tmp_path)
    assert environment.expand("${file:key}").text == "secret"
    assert environment.expand(f"${{file:{tmp_path}/key}}").text == "secret"
    assert environment.expand("${file:none}").missing == ["the file none cannot be read: No such file or directory"]
    assert environment.files_read == {tmp_path / "key", tmp_path / "none"}


@unit
@pytest.mark.parametrize(
    ("mode", "told"),
    [(0o600, []), (0o640, []), (0o660, []), (0o644, ["key"]), (0o602, ["key"])],
    ids=lambda value: f"{value!s:.6}",
)
def test_a_file_that_others_may_read_or_change_is_told(
    mode: int, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("secret")
    (tmp_path / "key").chmod(mode)
    assert Environment({}, tmp_path).expand("${file:key}").exposed == told
    monkeypatch.setattr("proxy.config.environment.MOUNTED", (tmp_path,))
    assert Environment({}, tmp_path).expand("${file:key}").exposed == [], "mounted for this program alone"


@unit
def test_a_secret_file_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"x" * (64 << 10))
    assert len(Environment({}, tmp_path).expand("${file:key}").text) == 64 << 10
    (tmp_path / "key").write_bytes(b"x" * ((64 << 10) + 1))
    with pytest.raises(BadVariable, match="larger than 64 KiB"):
        Environment({}, tmp_path).expand("${file:key}")


@unit
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# A=1\n\n   \nB=2", {"B": "2"}),
        ("A=1\nA=2", {"A": "2"}),
        ("export A = 1 ", {"A": "1"}),
        ("A=", {"A": ""}),
        ("A=#x", {"A": ""}),
        ("A=a#b", {"A": "a#b"}),
        ("A=a b # c", {"A": "a b"}),
        ("A='a # \\n ${B}' # c", {"A": "a # \\n ${B}"}),
        ('A="a\\tb\\"c\\\\d\\$e\\x"', {"A": 'a\tb"c\\d$e\\x'}),
        ('A="two\nlines"\nB=1', {"A": "two\nlines", "B": "1"}),
        ("A=x=y", {"A": "x=y"}),
        ("\ufeffA=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
    ],
)
def test_env_files_are_read_exactly(text: str, expected: dict[str, str]) -> None:
    assert parse_env(text, ".env") == (expected, [])


@unit
@pytest.mark.parametrize(
    ("text", "place"), [("A", (1, 1)), ("B=1\n  =x", (2, 3)), ("1A=x", (1, 1)), ("A='x", (1, 3)), ("A='x' y", (1, 3))]
)
def test_a_line_that_is_no_variable_is_a_fault(text: str, place: tuple[int, int]) -> None:
    _, faults = parse_env(text, ".env")
    assert [(fault.line, fault.col) for fault in faults] == [place]


NAMES = st.text(string.ascii_letters + "_", min_size=1, max_size=8)
SINGLE = st.text(st.characters(exclude_characters="'\r", exclude_categories=["Cs"]), max_size=20)


@pytest.mark.property
@given(st.dictionaries(NAMES, SINGLE))
def test_single_quotes_keep_everything(values: dict[str, str]) -> None:
    text = "\n".join(f"{name}='{value}'" for name, value in values.items())
    assert parse_env(text, ".env") == (values, [])


@pytest.mark.property
@given(st.dictionaries(NAMES, st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=20)))
def test_double_quotes_round_trip_with_their_escapes(values: dict[str, str]) -> None:
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "$": "\\$"}
    text = "\n".join(f'{name}="{"".join(escapes.get(c, c) for c in value)}"' for name, value in values.items())
    assert parse_env(text, ".env") == (values, [])


@pytest.mark.property
@given(st.text(st.sampled_from("AB=\"'\\# \n\texport$${}"), max_size=60))
def test_no_env_file_makes_the_parser_fail(text: str) -> None:
    values, faults = parse_env(text, ".env")
    assert all(name.isidentifier() for name in values)
    assert all(fault.line >= 1 and fault.col >= 1 for fault in faults)
