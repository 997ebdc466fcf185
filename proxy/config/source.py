"""YAML text -> plain data, with the line and column of every key and value.

Only the composer of PyYAML is used, which builds a tree of nodes and runs nothing; the scalars are read here, because YAML 1.1 would
make numbers of `12:30` and dates of `2026-01-01`. Keys are always text. Duplicate keys are faults. https://yaml.org/spec/1.1/
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from proxy.config.faults import ConfigError, ConfigFault, Path, one_line

MAX_FILE_BYTES = 1 << 20
TOO_LARGE = "the file is larger than 1 MiB (this can hardly be the right file)"
MAX_NODES = 100_000  # aliases count each time, so that a few lines cannot grow into gigabytes
MAX_DEPTH = 40

TAG = "tag:yaml.org,2002:"
COLLECTIONS = frozenset((TAG + "map", TAG + "seq"))
TRUE = frozenset(("true", "yes", "on"))
UNQUOTED_VARIABLE = re.compile(r"[{\[,:]\s*\$\{")


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a key and its value stand, from 1. An item of a list has no key: both are the item's."""

    key: tuple[int, int]
    value: tuple[int, int]


@dataclass(slots=True)
class Source:
    """A file, read. `data` is dict, list, str, int, float, bool and None; `marks` has the place of each path in it."""

    name: str
    data: Any = None
    marks: dict[Path, Mark] = field(default_factory=dict)
    faults: list[ConfigFault] = field(default_factory=list)

    def fault(self, path: Path, message: str, *, at_key: bool = False) -> None:
        """Names a fault at a path, or at the nearest thing above it that is in the file."""
        while path not in self.marks and path:
            path, at_key = path[:-1], True
        mark = self.marks.get(path, Mark((1, 1), (1, 1)))
        line, col = mark.key if at_key else mark.value
        self.faults.append(ConfigFault(self.name, line, col, message))


def read_yaml(text: str, name: str) -> Source:
    """Raises ConfigError when the text is no YAML at all; other faults are left in `Source.faults`."""
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError([ConfigFault(name, 1, 1, TOO_LARGE)])
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if _may_be_deep(text):
            _refuse_depth(text, name, loader)
        root = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_fault(error, text, name)]) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, col = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise ConfigError([ConfigFault(name, line, col, "a character that no YAML file may hold (remove it)")]) from None
    except RecursionError:
        raise ConfigError([ConfigFault(name, 1, 1, "nested too deeply (remove some levels)")]) from None
    source = Source(name)
    if root is not None:
        source.data = _Reader(source).read(root, (), 0)
        source.marks[()] = Mark(_place(root), _place(root))
    return source


def _may_be_deep(text: str) -> bool:
    """A level costs a bracket or a column, so nearly every file is seen to be flat without being parsed for it."""
    return text.count("[") + text.count("{") > 1000 or max(map(len, text.split("\n"))) > 1000


def _refuse_depth(text: str, name: str, loader: Any) -> None:
    """The compiled composer calls itself for every level and overruns the stack; its parser does not. Seen with PyYAML 6.0.3."""
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            mark = event.start_mark
            place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise ConfigError([ConfigFault(name, *place, "nested too deeply (make the file simpler)")])


def _place(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


class _Reader:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.nodes = 0

    def read(self, node: yaml.Node, path: Path, depth: int) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            what = "nested too deeply" if depth > MAX_DEPTH else "too many values, counting every use of an alias"
            raise ConfigError([ConfigFault(self.source.name, *_place(node), f"{what} (make the file simpler)")])
        if not isinstance(node, yaml.ScalarNode) and node.tag not in COLLECTIONS:
            self._wrong(node, f"the tag '{one_line(node.tag)}' means nothing here (remove it)")
        match node:
            case yaml.MappingNode():
                return self._mapping(node, path, depth)
            case yaml.SequenceNode():
                return [self._item(child, (*path, index), depth) for index, child in enumerate(node.value)]
            case yaml.ScalarNode():
                return self._scalar(node)
            case _:
                raise AssertionError(f"PyYAML composes no {type(node).__name__}")

    def _item(self, node: yaml.Node, path: Path, depth: int) -> Any:
        self.source.marks[path] = Mark(_place(node), _place(node))
        return self.read(node, path, depth + 1)

    def _mapping(self, node: yaml.MappingNode, path: Path, depth: int) -> dict[str, Any]:
        written: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first: dict[str, tuple[int, int]] = {}
        for key_node, value_node in node.value:
            if key_node.tag == TAG + "merge":
                self._merge(value_node, path, depth, merged)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._wrong(key_node, "a key must be text (write one word, in quotes if it has special characters)")
                continue
            key = key_node.value
            if key in first:
                self._wrong(
                    key_node, f"duplicate key '{one_line(key)}', first written on line {first[key][0]} (keep one of them)"
                )
                continue
            first[key] = _place(key_node)
            child = (*path, key)
            self.source.marks[child] = Mark(_place(key_node), _place(value_node))
            written[key] = self.read(value_node, child, depth + 1)
        return merged | written if merged else written

    def _merge(self, node: yaml.Node, path: Path, depth: int, merged: dict[str, Any]) -> None:
        """`<<: *base` and `<<: [*a, *b]`: what is written beside it wins, then the earlier of the bases."""
        for base in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(base, yaml.MappingNode):
                self._wrong(base, "'<<' merges mappings (write an alias of a mapping, such as *base)")
                continue
            marks = dict(self.source.marks)
            values = self.read(base, path, depth + 1)
            merged.update({key: value for key, value in values.items() if key not in merged})
            self.source.marks.update(marks)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text: str = node.value
        match node.tag.removeprefix(TAG):
            case "null":
                return None
            case "bool":
                return text.lower() in TRUE
            case "int" | "float" as kind:
                return _number(text, kind)
            case "str" | "timestamp" | "value" | "merge":
                return text
            case _:
                self._wrong(node, f"the tag '{one_line(node.tag)}' means nothing here (remove it)")
                return text

    def _wrong(self, node: yaml.Node, message: str) -> None:
        self.source.faults.append(ConfigFault(self.source.name, *_place(node), message))


def _number(text: str, kind: str) -> int | float | str:
    """Decimal numbers; whatever else YAML 1.1 takes for one (`12:30`, `0777`, `.inf`) stays text and fails where a number is due."""
    try:
        if kind == "int":
            return int(text) if re.fullmatch(r"[-+]?(0|[1-9][0-9]*)", text) else text
        return float(text) if re.fullmatch(r"[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?|[0-9]+\.", text) else text
    except ValueError:  # more digits than Python converts
        return text


def _syntax_fault(error: yaml.MarkedYAMLError, text: str, name: str) -> ConfigFault:
    mark = error.problem_mark or error.context_mark
    line, col = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    problem = error.problem or error.context or "not valid YAML"
    lines = text.split("\n")
    written = lines[line - 1] if line <= len(lines) else ""
    if "\t" in written[: max(col, 1)]:
        advice = "indent with spaces, not tabs"
    elif UNQUOTED_VARIABLE.search(written):
        advice = 'inside { } and [ ] put a variable in quotes: "${NAME}"'
    elif "alias" in problem:
        advice = "define the anchor before it is used, or put the text in quotes"
    elif "another document" in problem:
        problem = "more than one document"
        advice = "one document a file: remove the second ---"
    else:
        advice = "check the indentation, brackets and quotes here and on the line before"
    return ConfigFault(name, line, col, f"not valid YAML: {one_line(problem, 120)} ({advice})")
