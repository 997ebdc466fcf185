"""The grammar's two mirrors, the JSON schema and `docs/configuration.md`, say what the grammar says. Units are read exactly."""

import json
import re
import typing
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from proxy.config.jsonschema import schema_text
from proxy.config.messages import as_yaml
from proxy.config.schema import (
    DURATION_UNITS,
    SIZE_UNITS,
    File,
    Section,
    Tuning,
    arms,
    parse_duration,
    parse_size,
    parse_timeout,
    section_at,
    step,
)

unit = pytest.mark.unit
ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")

# The headings of the document, and what each describes.
HEADINGS: dict[str, tuple[str | int, ...]] = {
    "The file": (),
    "server": ("server",),
    "server.drain": ("server", "drain"),
    "server.per_ip": ("server", "per_ip"),
    "auth": ("auth",),
    "defaults": ("defaults",),
    "timeouts": ("defaults", "timeouts"),
    "circuit": ("defaults", "circuit"),
    "providers": ("providers", "x"),
    "prices": ("providers", "x", "prices", "x"),
    "models": ("providers", "x", "models", "x"),
    "limits": ("providers", "x", "limits"),
    "quotas": ("providers", "x", "quotas", 0),
    "chains": ("chains", "x"),
    "targets": ("chains", "x", "targets", 0),
    "weights": ("chains", "x", "weights"),
    "cache": ("cache",),
    "quality": ("chains", "x", "quality"),
    "hedge": ("chains", "x", "hedge"),
    "clients": ("clients", "x"),
    "budget": ("clients", "x", "budget"),
    "departments and agents": ("departments", "x"),
    "retention": ("retention",),
    "ledger": ("ledger",),
    "health": ("health",),
    "alerts": ("alerts",),
    "error_rate and failover_rate": ("alerts", "error_rate"),
    "first_token": ("alerts", "first_token"),
    "ledger_lag": ("alerts", "ledger_lag"),
    "to": ("alerts", "to", 0),
}


def sections(kind: object = File) -> typing.Iterator[type[Section]]:
    for arm in arms(kind):
        if isinstance(arm, type) and issubclass(arm, Section):
            yield arm
            for name in arm.model_fields:
                yield from sections(step(arm, name))
        else:
            for inner in typing.get_args(arm):
                yield from sections(inner)


def row(section: type[Section], name: str) -> str:
    field = section.model_fields[name]
    example = f"`{name}: {as_yaml(field.examples[0])}`" if field.examples else ""
    return f"| `{name}` | {field.description} | {example} |"


def chapter(heading: str) -> str:
    found = re.search(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##+ |\Z)", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    assert found, f"docs/configuration.md has no heading '{heading}'"
    return found[1]


@unit
@pytest.mark.parametrize("heading", HEADINGS)
def test_every_key_is_documented_in_the_words_of_the_grammar(heading: str) -> None:
    section = section_at(HEADINGS[heading])
    assert section is not None
    shared = set(Tuning.model_fields) if section is not Tuning else set()
    text = chapter(heading)
    lacking = [row(section, name) for name in section.model_fields if name not in shared and row(section, name) not in text]
    assert lacking == []


@unit
def test_every_section_of_the_grammar_has_its_heading() -> None:
    assert {section_at(path) for path in HEADINGS.values()} == set(sections())


@unit
def test_every_key_says_what_it_is_and_has_an_example_that_is_valid() -> None:
    for section in set(sections()):
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            for example in field.examples or ():
                others = {other: _example(section, other) for other, item in section.model_fields.items() if item.is_required()}
                section.model_validate({**others, name: example})


def _example(section: type[Section], name: str) -> object:
    examples = section.model_fields[name].examples
    assert examples
    return examples[0]


@unit
def test_every_yaml_example_of_the_document_is_yaml() -> None:
    for text in re.findall(r"```yaml\n(.*?)```", DOCUMENT, flags=re.DOTALL):
        assert isinstance(yaml.safe_load(text), dict)


@unit
def test_the_json_schema_in_the_tree_is_current() -> None:
    assert (ROOT / "proxy/config/providers.schema.json").read_text(encoding="utf-8") == schema_text()


@unit
def test_the_shipped_file_names_the_json_schema_in_its_first_line() -> None:
    first = (ROOT / "providers.yaml").read_text(encoding="utf-8").split("\n")[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (ROOT / first.partition("=")[2]).is_file()


@unit
def test_the_json_schema_knows_every_key_and_refuses_others() -> None:
    schema = json.loads(schema_text())
    for section in set(sections()):
        node = schema if section is File else schema["$defs"][section.__name__]
        assert set(node["properties"]) == set(section.model_fields)
        assert node["additionalProperties"] is False
        for name, item in node["properties"].items():
            assert section.model_fields[name].description in item["description"]


@unit
@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("3s", 3.0), ("2m", 120.0), ("1h", 3600.0), ("90d", 7776000.0), ("1.5s", 1.5), ("0s", 0.0), (" 3 s ", 3.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@unit
@pytest.mark.parametrize(
    "text", ["", "3", "s", "3 sec", "-3s", "3S", "1h30m", "1e3s", "٣s", "3s\n3s", ".5s", "367d", "9" * 40 + "s", 3, None, True]
)
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(PydanticCustomError):
        parse_duration(text)


@unit
def test_a_timeout_is_above_zero() -> None:
    assert parse_timeout("1ms") == 0.001
    with pytest.raises(PydanticCustomError):
        parse_timeout("0s")


@unit
@pytest.mark.parametrize(
    ("text", "size"), [("1B", 1), ("512KiB", 524288), ("32MiB", 33554432), ("1GB", 10**9), ("1.5KiB", 1536), ("1024GiB", 1 << 40)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@unit
@pytest.mark.parametrize("text", ["", "32", "32M", "32mib", "-1B", "0B", "0.5B", "1025GiB", 32, None])
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(PydanticCustomError):
        parse_size(text)


@pytest.mark.property
@given(st.integers(0, 10**6), st.sampled_from(sorted(DURATION_UNITS)))
def test_any_number_with_a_unit_is_a_duration_up_to_a_year(number: int, unit_: str) -> None:
    seconds = number * DURATION_UNITS[unit_]
    if seconds <= 366 * 86400:
        assert parse_duration(f"{number}{unit_}") == pytest.approx(seconds)


@pytest.mark.property
@given(st.decimals(min_value=Decimal("0.001"), max_value=1023, places=3), st.sampled_from(sorted(SIZE_UNITS)))
def test_sizes_are_exact_to_the_byte(number: Decimal, unit_: str) -> None:
    size = int(number * SIZE_UNITS[unit_])
    if size:
        assert parse_size(f"{number}{unit_}") == size


@pytest.mark.property
@given(st.text(max_size=20))
def test_any_other_text_is_refused_and_nothing_else_happens(text: str) -> None:
    for parse in (parse_duration, parse_size):
        advice = ""
        try:
            assert parse(text) >= 0
        except PydanticCustomError as error:
            advice = str(error)
        assert not advice or "write" in advice
