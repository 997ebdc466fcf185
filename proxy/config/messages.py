"""pydantic's errors -> our faults: where in the file, what is wrong, what to write instead. Never the value of a secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from proxy.config.faults import Path, did_you_mean, one_line
from proxy.config.schema import File, Section, attribute, section_at

NEVER_SHOWN = frozenset(("admin_token", "api_key", "api_keys", "headers", "key", "key_pepper", "keys", "metrics_token", "proxy"))
OF_A_KEY = "[key]"  # how pydantic's location ends where a mapping's key is wrong, and not what stands behind it
NOUNS = {
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "number": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
}
BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "below"),
}


class Details(TypedDict):
    """What is used of `pydantic_core.ErrorDetails`."""

    type: str
    loc: tuple[int | str, ...]
    msg: str
    ctx: Mapping[str, Any]


def file_path(loc: tuple[int | str, ...]) -> Path:
    """pydantic's location without the tags of its unions, which are not in the file."""
    return tuple(element for element in loc if not (isinstance(element, str) and element.startswith("«")))


def describe(details: Details, path: Path, found: object, root: type[Section] = File) -> str:
    """The message of one error; `found` is what stands at the path of a file whose grammar is `root`."""
    name = str(path[-1]) if path and isinstance(path[-1], str) else "this"
    kind, context = details["type"], details.get("ctx", {})
    if kind == "extra_forbidden":
        known = _keys(section_at(path[:-1], root))
        return f"unknown key '{one_line(name)}'" + did_you_mean(name, known, otherwise=f"known here: {', '.join(known)}")
    if kind == "missing":
        return f"'{name}' is missing (write for example {name}: {_example(path, root)})"
    if kind == "unit":
        return f"{_shown(path, found)}: {details['msg']}"
    if kind in ("literal_error", "enum"):
        expected = str(context.get("expected", "")).replace(" or ", ", ")
        return _choice(path, found, [word.strip("' ") for word in expected.split(", ")])
    if kind == "string_pattern_mismatch":
        return _choice(path, found, str(context.get("pattern", "")).strip("^()$").split("|"))
    if kind in BOUNDS:
        bound, words = BOUNDS[kind]
        return f"{_shown(path, found)}: must be {words} {context.get(bound)}{_advice(path, root)}"
    if kind == "string_too_short":
        return f"'{name}' is empty{_advice(path, root) or ' (write it, or remove the line)'}"
    if kind == "string_too_long":
        return f"'{name}' is longer than {context.get('max_length')} characters (shorten it)"
    if kind == "finite_number":
        return f"{_shown(path, found)}: a finite number is needed{_advice(path, root)}"
    noun = NOUNS.get(kind.split("_")[0])
    if noun:
        return f"{_shown(path, found)}: {noun} is needed{_advice(path, root) or _form_advice(noun)}"
    return f"{_shown(path, found)}: {details['msg'][:1].lower()}{details['msg'][1:]}{_advice(path, root)}"


def _keys(section: type[Section] | None) -> list[str]:
    return [field.alias or name for name, field in section.model_fields.items()] if section else []


def _choice(path: Path, found: object, words: list[str]) -> str:
    if path[-1] == OF_A_KEY:
        name = str(path[-2])
        return f"unknown key '{one_line(name)}'" + did_you_mean(name, words, otherwise=f"known here: {', '.join(words)}")
    listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    return f"{_shown(path, found)}: not one of the words known here" + did_you_mean(
        str(found), words, otherwise=f"write {listed}"
    )


def _shown(path: Path, found: object) -> str:
    """`port: 'x'`, or only `key` where the value must not be shown."""
    words = [element for element in path if isinstance(element, str)]
    name = one_line(words[-1]) if words else "the file"
    if NEVER_SHOWN & set(words):
        return name
    match found:
        case None:
            return f"{name}: nothing is written"
        case bool():
            return f"{name}: '{str(found).lower()}'"
        case str() | int() | float():
            return f"{name}: '{one_line(str(found))}'"
        case list():
            return f"{name}: a list"
        case _:
            return f"{name}: a mapping"


def _example(path: Path, root: type[Section]) -> str:
    parent = section_at(path[:-1], root)
    name = attribute(parent, path[-1]) if parent and path else None
    field = parent.model_fields[name] if parent and name else None
    return as_yaml(field.examples[0]) if field and field.examples else ""


def _advice(path: Path, root: type[Section]) -> str:
    """The example of the key that the path ends in, or of the list that it is an item of."""
    key = path
    while key and isinstance(key[-1], int):
        key = key[:-1]
    example = _example(key, root)
    return f" (write for example {key[-1]}: {example})" if example else ""


def _form_advice(noun: str) -> str:
    match noun:
        case "a mapping":
            return " (write keys and values, indented below it)"
        case "a list":
            return " (write [a, b], or lines that start with - below it)"
        case _:
            return " (put it in quotes)" if noun == "text" else f" (write {noun})"


def as_yaml(value: Any, *, inside: bool = False) -> str:
    """An example as it may be written on one line; `inside` brackets a variable needs quotes."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{name}: {as_yaml(item, inside=True)}" for name, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(as_yaml(item, inside=True) for item in value) + "]"
        case str() if inside and "$" in value:
            return f'"{value}"'
        case _:
            return str(value)
