"""`${NAME}`, `${NAME:-default}`, `${file:/path}` in the values of the file, and the `.env` beside it.

A value without variables is left as it is; `$${` stands for a plain `${`. `.env` has lines of `NAME=value`, optionally after `export`:
single quotes keep everything, double quotes know `\\n \\r \\t \\" \\\\ \\$`, without quotes the value ends before ` #`. Nothing in it is
expanded, and the real environment is never overridden.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from proxy.config.faults import CUT, ConfigFault, escaped, one_line

MAX_SECRET_FILE_BYTES = 64 << 10
SECRET_FROM = 8  # characters of a variable: what is shorter may be a word of any message
CUT_FROM, CUT_TO = 4, 60  # how much of a variable the beginning of one is that was too long for a message
MOUNTED = (Path("/run"), Path("/var/run"))  # where Docker, systemd and others put secrets, for one program's eyes
VARIABLE = re.compile(r"\$\$(?=\{)|\$\{([^{}]*)\}|\$\{")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ENV_LINE = re.compile(r"(?:export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*(?P<value>.*)", re.DOTALL)
QUOTED = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)\"""", re.DOTALL)
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}


class BadVariable(ValueError):
    """A `${…}` that is not one of the three forms."""


@dataclass(slots=True)
class Expanded:
    """A value with its variables filled in. `missing` says of each that could not be why, and then `text` is of no use.

    `variables`: there was at least one. `defaulted`: at least one fell back to what stands after `:-`. `exposed`: files that every user of
    this machine may read or change.
    """

    text: str
    missing: list[str] = field(default_factory=list)
    variables: bool = False
    defaulted: bool = False
    exposed: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Environment:
    """Where variables come from. `files_read` grows with every `${file:…}`, there or not, so that it can be watched. `_filled_in`: what was
    found, and as what it stands in the file."""

    values: Mapping[str, str]
    base: Path
    files_read: set[Path] = field(default_factory=set)
    _filled_in: dict[str, str] = field(default_factory=dict)

    def expand(self, text: str) -> Expanded:
        """Raises BadVariable, with advice."""
        result = Expanded(text)
        if "${" in text:
            result.text = VARIABLE.sub(lambda found: self._value(found, result), text)
        return result

    def told(self, message: str) -> str:
        """With the variables instead of what they hold: it may be a secret, wherever somebody wrote it."""
        for value, variable in sorted(self._filled_in.items(), key=lambda pair: -len(pair[0])):
            for form, cut in ((value, CUT), (escaped(value), escaped(CUT))):
                message = message.replace(form, variable)
                if cut in message:
                    for length in range(min(len(form), CUT_TO), CUT_FROM - 1, -1):
                        message = message.replace(form[:length] + cut, variable)
        return message

    def _value(self, found: re.Match[str], result: Expanded) -> str:
        value = self._found(found, result)
        name, _, default = (found[1] or "").partition(":-")
        if value != default:
            held = value.strip()
            for part in (held, *held.split("/")):  # a target is told in two parts
                if len(part) >= SECRET_FROM:
                    self._filled_in[part] = one_line(f"${{{name}}}")
        return value

    def _found(self, found: re.Match[str], result: Expanded) -> str:
        inside = found[1]
        if found[0] == "$$":
            return "$"
        if inside is None:
            raise BadVariable("'${' is not closed (write ${NAME}, or $${ for a plain ${)")
        result.variables = True
        if inside.startswith("file:"):
            return self._file(inside.removeprefix("file:"), result)
        name, defaulted, default = inside.partition(":-")
        if not NAME.fullmatch(name):
            raise BadVariable(
                f"'{one_line(found[0])}' is not a variable (write ${{NAME}}, ${{NAME:-default}} or ${{file:/path}})"
            )
        if defaulted:
            value = self.values.get(name, "")
            result.defaulted |= not value
            return value or default
        if name not in self.values:
            result.missing.append(f"{name} is not set")
            return ""
        return self.values[name]

    def _file(self, name: str, result: Expanded) -> str:
        path = self.base / name
        self.files_read.add(path)
        try:
            with path.open("rb") as file:
                content = file.read(MAX_SECRET_FILE_BYTES + 1)
                if os.fstat(file.fileno()).st_mode & (stat.S_IROTH | stat.S_IWOTH) and not any(map(path.is_relative_to, MOUNTED)):
                    result.exposed.append(one_line(name))
            if len(content) > MAX_SECRET_FILE_BYTES:
                raise BadVariable(f"the file {one_line(name)} is larger than 64 KiB (name the file that holds the secret alone)")
            return content.decode().rstrip("\r\n")
        except OSError as error:
            result.missing.append(f"the file {one_line(name)} cannot be read: {error.strerror or 'not readable'}")
        except ValueError as error:
            if isinstance(error, BadVariable):
                raise
            result.missing.append(f"the file {one_line(name)} is not text")
        return ""


def parse_env(text: str, name: str) -> tuple[dict[str, str], list[ConfigFault]]:
    """The variables of a `.env`; the last of two equal names holds. A fault never quotes its line, which may hold a secret."""
    values: dict[str, str] = {}
    faults: list[ConfigFault] = []
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    index = 0
    while index < len(lines):
        number, line = index + 1, lines[index]
        index += 1
        start = line.lstrip(" \t")
        col = len(line) - len(start) + 1
        if not start or start.startswith("#"):
            continue
        found = ENV_LINE.fullmatch(start)
        if found is None:
            faults.append(ConfigFault(name, number, col, "not a variable (write NAME=value, or # before a comment)"))
            continue
        rest = found["value"]
        if rest[:1] in ("'", '"'):
            quoted, used = _quoted(rest, lines[index:])
            if quoted is None:
                faults.append(ConfigFault(name, number, col + found.start("value"), _quote_fault(rest[0])))
                continue
            index += used
            values[found["name"]] = quoted
        else:
            values[found["name"]] = re.split(r"(?:^|[ \t])#", rest, maxsplit=1)[0].strip()
    return values, faults


def _quote_fault(quote: str) -> str:
    return f"the quoted value does not end, or something follows it (close it with {quote})"


def _quoted(rest: str, following: list[str]) -> tuple[str | None, int]:
    """A quoted value, which may run over several lines, and how many of the following ones it took."""
    text, used = rest, 0
    while (found := QUOTED.match(text)) is None:
        if used == len(following):
            return None, 0
        text += "\n" + following[used]
        used += 1
    after = text[found.end() :].strip()
    if after and not after.startswith("#"):
        return None, 0
    if found[1] is not None:
        return found[1], used
    return re.sub(r"\\(.)", lambda escape: ESCAPES.get(escape[1], escape[0]), found[2], flags=re.DOTALL), used
