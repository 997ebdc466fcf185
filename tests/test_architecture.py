"""The map of the code: who may import whom, and what must stay pure. What is depended on is in `test_supply_chain.py`.

The directions are the design. Change MAY_IMPORT only in a commit of its own, with the reason.
"""

import ast
import re
import site
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "proxy"

EVERYTHING = frozenset(
    """accounting app commands config core dialects engine late launch monitoring quality routing runtime server simulation storage
    telemetry terminal torture upstream wire workers""".split()
)
# A folder or a top-level module -> the folders that it may import, besides itself.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "__main__": frozenset(("launch",)),
    "launch": frozenset(("cli", "app", "config", "late")),  # the way in: to the command line, or straight to the server
    "late": frozenset(),  # what a start leaves undone, in modules that know nothing of it
    "cli": EVERYTHING,
    "commands": EVERYTHING,  # the command line's larger half
    "app": EVERYTHING,
    "runtime": EVERYTHING,  # what app composes: one object for one running proxy
    # several processes as one proxy
    "workers": frozenset(("app", "runtime", "server", "storage", "telemetry", "config", "core")),
    # everything that a request goes through, with a clock that is set and upstreams that follow a script
    "simulation": frozenset(("server", "engine", "routing", "accounting", "telemetry", "config", "core")),
    "torture": frozenset(("core",)),  # an upstream that lies: it must know nothing of the proxy that it is let loose on
    "terminal": frozenset(("core",)),
    "server": frozenset(("engine", "monitoring", "accounting", "config", "dialects", "core")),
    # what is told of the proxy: it reads what the others keep, and only those who show it read it
    "monitoring": frozenset(("storage", "upstream", "routing", "accounting", "telemetry", "config", "core")),
    "engine": frozenset(("dialects", "quality", "routing", "upstream", "accounting", "config", "core")),
    "upstream": frozenset(("config", "core")),
    "storage": frozenset(("accounting", "core")),
    "telemetry": frozenset(("core",)),
    "routing": frozenset(("config", "core")),
    "accounting": frozenset(("config", "core")),
    "dialects": frozenset(("wire", "core")),
    "quality": frozenset(("core",)),
    "config": frozenset(("core",)),
    "wire": frozenset(),
    "core": frozenset(),
}

PURE = frozenset(("core", "wire", "dialects", "quality", "routing"))
# What a module without I/O and clock can need. Anything else is refused, so that a socket cannot slip in under a new name.
PURE_MODULES = frozenset(
    """__future__ abc base64 binascii bisect calendar codecs collections contextlib copy dataclasses datetime decimal email enum
    fractions functools hashlib heapq hmac itertools json math numbers operator orjson re string struct types typing
    typing_extensions unicodedata urllib zlib""".split()
)
# urandom is the default of a parameter: tests pass their own entropy
PURE_EXCEPTIONS = {"proxy.core.ulid": frozenset(("os",))}
CLOCK_CALLS = frozenset(("now", "utcnow", "today", "urlopen"))

# Modules where an import may stand inside a function, because start-up or idle memory would pay for it. Each such line says why.
MAY_IMPORT_LAZILY = frozenset(
    (
        "proxy.cli",
        "proxy.app",
        "proxy.launch",
        "proxy.accounting.pricing",
        "proxy.accounting.tokens",
        "proxy.commands.shell",
        "proxy.config.schema",
        "proxy.engine.formats",
        "proxy.engine.quality_gate",
        "proxy.monitoring.delivery",
        "proxy.server.asgi",
        "proxy.telemetry.metrics",
        "proxy.upstream.auth",
        "proxy.upstream.client",
        "proxy.upstream.demo",
    )
)

MAX_MODULE_LINES = 800


@dataclass(frozen=True)
class Import:
    where: str  # path:line
    module: str  # the importing module
    target: str  # what it imports, absolute
    lazy: bool
    explained: bool  # a comment says why; looked for where one is lazy


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def part(module: str) -> str:
    """`proxy.core.money` -> `core`, `proxy.cli` -> `cli`."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else ""


def explained_lines(path: Path) -> set[int]:
    """Lines with a comment, or with one above them; it holds for a run of imports."""
    with path.open("rb") as file:
        found = {token.start[0] for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if number - 1 in found and line.lstrip().startswith(("import ", "from ")):
            found.add(number)
    return found


def statements(body: list[ast.stmt], *, inside: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Every one, and whether it is inside a function. Expressions, which are most of a tree and hold no import, are left out."""
    for node in body:
        yield node, inside
        deeper = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for name in ("body", "orelse", "finalbody"):
            yield from statements(getattr(node, name, []), inside=deeper)
        for holder in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            yield from statements(holder.body, inside=deeper)


def imports() -> Iterator[Import]:
    for path in modules():
        found = [
            (node, inside)
            for node, inside in statements(ast.parse(path.read_text(encoding="utf-8")).body)
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        explained = explained_lines(path) if any(inside for _, inside in found) else set()
        for node, inside in found:
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                assert node.level == 0, f"{path}:{node.lineno}: a relative import"
                source = node.module or ""
                # `from proxy import cli` imports proxy.cli
                targets = [f"proxy.{alias.name}" for alias in node.names] if source == "proxy" else [source]
            for target in targets:
                yield Import(
                    where=f"{path.relative_to(ROOT)}:{node.lineno}",
                    module=module_name(path),
                    target=target,
                    lazy=inside,
                    explained=node.lineno in explained,
                )


IMPORTS = list(imports())


def is_ours(target: str) -> bool:
    return target == "proxy" or target.startswith("proxy.")


def test_every_folder_and_top_level_module_is_on_the_map() -> None:
    found = {part(module_name(path)) for path in modules()} - {""}
    assert found <= set(MAY_IMPORT), f"not on the map: {sorted(found - set(MAY_IMPORT))}"


def test_imports_go_only_where_the_map_allows() -> None:
    wrong = [
        f"{found.where} imports {found.target}"
        for found in IMPORTS
        if is_ours(found.target) and part(found.target) not in MAY_IMPORT[part(found.module)] | {part(found.module)}
    ]
    assert wrong == []


def test_nothing_imports_the_tests() -> None:
    assert [found.where for found in IMPORTS if found.target.split(".")[0] == "tests"] == []


def test_pure_folders_import_nothing_that_does_io_or_reads_a_clock() -> None:
    wrong = [
        f"{found.where} imports {found.target}"
        for found in IMPORTS
        if part(found.module) in PURE
        and not is_ours(found.target)
        and found.target.split(".")[0] not in PURE_MODULES | PURE_EXCEPTIONS.get(found.module, frozenset())
    ]
    assert wrong == []


def test_pure_folders_call_no_clock_and_open_no_file() -> None:
    wrong = []
    for path in modules():
        if part(module_name(path)) not in PURE:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr=name)) if name in CLOCK_CALLS:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} calls .{name}()")
                case ast.Call(func=ast.Name(id="open" | "print" | "input" | "exec" | "eval" as name)):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} calls {name}()")
                case _:
                    continue
    assert wrong == []


def test_imports_stand_at_the_top_but_for_the_listed_ones_that_say_why() -> None:
    wrong = [
        f"{found.where} imports {found.target} inside a function" + ("" if found.explained else " and says not why")
        for found in IMPORTS
        if found.lazy and not (found.module in MAY_IMPORT_LAZILY and found.explained)
    ]
    assert wrong == []


def test_init_files_are_empty() -> None:
    assert [str(path.relative_to(ROOT)) for path in PACKAGE.rglob("__init__.py") if path.read_bytes()] == []


def test_every_folder_of_the_package_has_an_init_file() -> None:
    folders = {path.parent for path in modules()}
    assert [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    drawers = ("utils", "util", "helpers", "misc", "common")
    assert [str(path.relative_to(ROOT)) for path in modules() if path.stem in drawers] == []


def test_modules_say_what_they_are_and_stay_readable() -> None:
    wrong = []
    for path in modules():
        text = path.read_text(encoding="utf-8")
        if text and not text.startswith('"""'):
            wrong.append(f"{path.relative_to(ROOT)} has no docstring")
        if (lines := text.count("\n")) > MAX_MODULE_LINES:
            wrong.append(f"{path.relative_to(ROOT)} has {lines} lines")
    assert wrong == []


def test_unfinished_work_is_not_left_in_the_code() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*modules(), *(ROOT / "tests").rglob("*.py")]
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
        if marks.search(line)
    ]
    assert found == []


def locked(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE))


def test_tests_run_on_the_same_versions_that_are_served() -> None:
    served, tested = locked(ROOT / "requirements.lock"), locked(ROOT / "tests/requirements.lock")
    assert {name: tested.get(name) for name in served} == served


def test_nothing_runs_at_interpreter_start() -> None:
    if Path(sys.prefix) != ROOT / ".venv":
        pytest.skip("this environment is not the one that `make install` makes")
    assert [path.name for folder in site.getsitepackages() for path in Path(folder).glob("*.pth")] == []
