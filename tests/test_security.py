"""The list at the end of `docs/security.md` names tests that there are; what holds for the whole of the code is looked for in all of it."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "proxy"
PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8").partition("\n## What is tested")[2]
ROWS = re.findall(r"^\| ([^|]+) \| ([^|]*) \|$", PAGE, re.MULTILINE)[2:]
NOT_YET = "not held"


# -- the page


@cache
def functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def test_the_list_is_there() -> None:
    assert len(ROWS) >= 50


@pytest.mark.parametrize(("claim", "proof"), ROWS)
def test_what_is_claimed_is_tested_or_said_not_to_hold(claim: str, proof: str) -> None:
    named = re.findall(r"`([\w./]+\.py)::(test_\w+)`", proof)
    assert named or proof.strip().startswith(NOT_YET), f"neither a test nor `{NOT_YET}`: {claim}"
    assert proof.count("`") == 2 * len(named) or proof.strip().startswith(NOT_YET)
    for file, test in named:
        assert (ROOT / "tests" / file).is_file(), f"there is no tests/{file}"
        assert test in functions_of(file), f"tests/{file} has no {test}"


# -- the code


LOOKED_AT = (ast.Assign, ast.Attribute, ast.Call, ast.Compare, ast.Import, ast.ImportFrom)


def nodes() -> Iterator[tuple[str, ast.AST]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(ROOT)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, LOOKED_AT):
                yield f"{name}:{node.lineno}", node


NODES = list(nodes())


def called(node: ast.AST) -> str:
    """`yaml.load(…)` -> `yaml.load`; empty for what is no call of a name."""
    return dotted(node.func) if isinstance(node, ast.Call) else ""


def dotted(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{dotted(value)}.{name}"
        case _:
            return ""


def test_nothing_that_came_in_can_become_code() -> None:
    forbidden = re.compile(
        r"eval|exec|compile|__import__|pickle\..*|marshal\..*|shelve\..*|dill\..*|yaml\.(unsafe_load|full_load|load_all)|os\.system|os\.popen"
        r"|subprocess\.getoutput|jinja2\..*|string\.Template|importlib\.import_module"
    )
    assert [f"{where} calls {name}" for where, node in NODES if (name := called(node)) and forbidden.fullmatch(name)] == []
    modules = [
        (where, alias.name) for where, node in NODES if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    ]
    assert [
        f"{where} imports {name}" for where, name in modules if name in ("pickle", "marshal", "shelve", "jinja2", "dill")
    ] == []


def test_no_process_is_started_through_a_shell() -> None:
    wrong = []
    for where, node in NODES:
        if isinstance(node, ast.Call):
            shell = [keyword for keyword in node.keywords if keyword.arg == "shell"]
            if shell or called(node).endswith("create_subprocess_shell"):
                wrong.append(where)
    assert wrong == []


def test_yaml_is_read_by_the_safe_loader_only() -> None:
    loaders = {dotted(node) for _, node in NODES if isinstance(node, ast.Attribute) and node.attr.endswith("Loader")}
    named = {name for name in loaders if name.startswith("yaml.")}
    assert named
    assert {name for name in named if "Safe" not in name} == set()


def test_no_http_client_heeds_the_environment_or_follows_a_redirect() -> None:
    makers = re.compile(r"httpx2?\.(Async)?(Client|HTTPTransport)")
    found = 0
    for where, node in NODES:
        if makers.fullmatch(called(node)):
            found += 1
            assert isinstance(node, ast.Call)
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert options.get("trust_env") == "False", where
            assert options.get("follow_redirects", "False") == "False", where
            assert options.get("verify") not in ("False", "None"), where
    assert found >= 3
    direct = re.compile(r"httpx2?\.(get|post|put|request|stream)|urlopen|urllib\.request\..*")
    assert [where for where, node in NODES if direct.fullmatch(called(node))] == []
    others = {"requests", "urllib3", "aiohttp", "urllib.request"}
    imported = [(where, alias.name) for where, node in NODES if isinstance(node, ast.Import) for alias in node.names]
    imported += [(where, node.module or "") for where, node in NODES if isinstance(node, ast.ImportFrom)]
    assert [f"{where} imports {name}" for where, name in imported if name in others] == []


def test_certificates_are_verified_everywhere() -> None:
    wrong = [
        f"{where}: {ast.unparse(node)}"
        for where, node in NODES
        if (isinstance(node, ast.Attribute) and node.attr in ("CERT_NONE", "CERT_OPTIONAL", "_create_unverified_context"))
        or (
            isinstance(node, ast.Assign)
            and "check_hostname" in ast.unparse(node.targets[0])
            and ast.unparse(node.value) == "False"
        )
    ]
    assert wrong == []


def test_sql_is_never_put_together_from_what_came_in() -> None:
    """Ruff's S608 finds SQL that is made of pieces. It is let pass in the storage alone, where the pieces are names of its own tables."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert not {"S", "S6", "S60", "S608"} & set(lint["ignore"])
    assert [glob for glob, rules in lint["per-file-ignores"].items() if "S" in rules or "S608" in rules] == ["tests/**"]
    passed = {path.parent for path in PACKAGE.rglob("*.py") if "S608" in path.read_text(encoding="utf-8")}
    assert passed == {PACKAGE / "storage"}
    named = {where.partition(":")[0] for where, node in NODES if isinstance(node, ast.Import) and node.names[0].name == "sqlite3"}
    assert {Path(name).parent for name in named} <= {Path("proxy/storage"), Path("proxy/commands")}


def test_digests_and_tokens_are_compared_in_constant_time() -> None:
    """A secret that is shown by a caller never meets `==`."""
    wrong = [
        f"{where}: {ast.unparse(node)}"
        for where, node in NODES
        if isinstance(node, ast.Compare)
        and any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops)
        and where.startswith("proxy/server/")
        and re.search(r"\b(token|secret|presented|digest|password)\b|\.reveal\(\)", ast.unparse(node))
    ]
    assert wrong == []


# -- what is shipped


def test_the_containers_have_no_more_than_they_need() -> None:
    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text(encoding="utf-8"))
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name  # and so Docker's own seccomp profile stays in force
        assert not {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode"} & set(service), name
        for port in service.get("ports", ()):
            assert str(port).startswith("127.0.0.1:"), name
        for volume in service["volumes"]:
            assert "docker.sock" not in volume, name
    ours = compose["services"]["tollbridge"]["volumes"]
    assert [volume for volume in ours if not volume.endswith(":ro")] == ["ledger:/var/lib/tollbridge"]
    dockerfile = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    last = dockerfile.rpartition("\nFROM ")[2]
    assert re.search(r"^USER (?!root|0\b)\w+$", last, re.MULTILINE)
    assert re.search(r"--uid 10001 .*--shell /usr/sbin/nologin", last)
    assert "pip uninstall -y setuptools pip" in dockerfile
    assert not re.search(r"^(ARG|ENV) .*(KEY|TOKEN|SECRET|PASSWORD)", dockerfile, re.MULTILINE)
    assert (ROOT / ".dockerignore").read_text(encoding="utf-8").startswith("*\n")  # .env and data/ never enter an image


def test_the_page_that_says_how_to_report_a_hole_is_reachable() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for title in ("## Reporting", "## What is protected", "## Who attacks, and from where", "## What does not hold"):
        assert f"\n{title}\n" in text
    assert "SECURITY.md" in (ROOT / "docs/security.md").read_text(encoding="utf-8")
