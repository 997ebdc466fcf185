"""`docs/failures.md` has every row, and each is proved by tests that there are; a test that proves a row stands in it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.e2e.faults import FAULTS, ROWS

pytestmark = pytest.mark.unit

TESTS = Path(__file__).resolve().parent.parent
PAGE = TESTS.parent / "docs" / "failures.md"
WAITING = {"66", "67"}  # for what does not exist yet
NUMBERS = [name for number in range(1, 76) for name in (str(number), *([f"{number}b"] if number in (11, 25) else []))]


@cache
def proofs() -> dict[str, list[str]]:
    """What each row names as its proof."""
    lines = re.findall(r"^\| (\d+b?) \| (.+) \| (.+) \| (.*) \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {number: re.findall(r"`([^`]+)`", proof) for number, _, _, proof in lines}


@cache
def functions(path: Path) -> dict[str, list[str]]:
    """The tests of a file, and the rows that each says it proves."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            marks = [
                mark for mark in node.decorator_list if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.row"
            ]
            found[node.name] = [str(ast.literal_eval(argument)) for mark in marks for argument in mark.args]
    return found


def test_every_row_is_there_in_its_order() -> None:
    assert list(proofs()) == NUMBERS


@pytest.mark.parametrize("number", NUMBERS)
def test_a_row_has_its_proof(number: str) -> None:
    named = proofs()[number]
    assert bool(named) == (number not in WAITING)
    scripts = {fault.script for fault in FAULTS}
    for proof in named:
        file, _, test = proof.partition("::")
        if not test:
            assert proof in scripts, f"{proof} is no fault of tests/e2e/faults.py"
        else:
            assert (TESTS / file).is_file(), f"there is no tests/{file}"
            assert test in functions(TESTS / file), f"tests/{file} has no {test}"
    assert len(named) == len(set(named))


def test_the_faults_of_the_table_stand_in_their_rows() -> None:
    for number, scripts in ROWS.items():
        assert [proof for proof in proofs()[number] if "::" not in proof] == list(scripts)
    assert {script for scripts in ROWS.values() for script in scripts} == {fault.script for fault in FAULTS}


def test_a_test_that_proves_a_row_stands_in_it() -> None:
    missing = []
    for path in TESTS.rglob("test_*.py"):
        if "pytest.mark.row(" not in path.read_text(encoding="utf-8"):
            continue
        for test, numbers in functions(path).items():
            name = f"{path.relative_to(TESTS)}::{test}"
            missing += [f"row {number}: {name}" for number in numbers if name not in proofs().get(number, ())]
    assert missing == []
