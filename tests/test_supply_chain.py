"""Where the code comes from that runs here: locked by hash, wheels only, each package with a reason, and nothing that runs by itself."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from tests.audit import judged
from tests.audit import main as audit

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", *sorted(f"tests/{path.name}" for path in (ROOT / "tests").glob("*.lock")))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
MAX_DIRECT, MAX_RESOLVED = 15, 40
BUILD = ROOT / ".venv" / "build"
# what a licence is called in the metadata of packages that do not use SPDX's words
SPDX = {
    "MIT License": "MIT",
    "OSI Approved :: MIT License": "MIT",
    "ISC License": "ISC",
}


def script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SBOM = script("deploy/sbom.py")


def locked(lock: str) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = SBOM.packages((ROOT / lock).read_text(encoding="utf-8"))
    return found


# -- the locks


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_of_every_lock_has_hashes_and_comes_from_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    packages = locked(lock)
    assert set(packages) == set(re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==", text, re.MULTILINE))
    assert [name for name, package in packages.items() if not package["hashes"]] == []
    assert not re.search(r"https?://|--index-url|--find-links|--trusted-host| @ ", text)


def test_every_lock_is_made_by_make_lock_of_releases_that_are_not_fresh() -> None:
    recipe = MAKEFILE.partition("\nlock:")[2].partition("\n\n")[0]
    assert set(re.findall(r"-o (\S+)", recipe)) == set(LOCKS)
    assert recipe.count("$(COMPILE)") == len(LOCKS)
    command = MAKEFILE.partition("\nCOMPILE = ")[2].partition("\n\n")[0]
    assert "--generate-hashes" in command
    assert '--exclude-newer "$(COOLDOWN)"' in command
    assert "\nCOOLDOWN = 14 days\n" in MAKEFILE


def test_whatever_is_installed_is_a_wheel_whose_hash_is_known() -> None:
    assert "\nPIP_INSTALL = $(PIP) install --require-hashes --only-binary :all:\n" in MAKEFILE
    installs = [line for line in MAKEFILE.split("\n") if re.search(r"(?i)install.* -r ", line)]
    assert len(installs) == len(LOCKS)
    assert [line for line in installs if not line.startswith("\t$(PIP_INSTALL) ")] == []
    docker = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"pip install (.*?) *(?:\\|&&|$)", docker, re.MULTILINE) == [
        "--disable-pip-version-check --no-cache-dir --require-hashes --only-binary :all: -r requirements.lock"
    ]
    assert "pip install" not in (ROOT / ".ci/run").read_text(encoding="utf-8")


# -- what is in them


def test_few_packages_and_each_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = SBOM.stated_licences()
    assert len(SBOM.direct()) == len(project["dependencies"]) <= MAX_DIRECT
    assert len(locked("requirements.lock")) <= MAX_RESOLVED
    assert sorted(listed) == sorted(locked("requirements.lock"))


def test_the_licences_are_those_that_the_packages_state() -> None:
    wrong = []
    for name, listed in SBOM.stated_licences().items():
        try:
            about = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue  # for another platform
        (expression,) = about.get_all("License-Expression") or (None,)
        if expression is not None:
            stated = {expression}
        else:
            words = [
                about["License"].partition("\n")[0].strip() if "License" in about else "",
                *(about.get_all("Classifier") or ()),
            ]
            stated = {SPDX.get(word.removeprefix("License :: "), word) for word in words}
        if not stated & {listed, *listed.split(" OR ")}:
            wrong.append(f"{name}: {listed}, not {stated}")
    assert wrong == []


def test_the_parts_list_has_every_package_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    path = tmp_path / "parts" / "tollbridge.cdx.json"
    assert SBOM.main([str(path)]) == 0
    parts = json.loads(path.read_text(encoding="utf-8"))
    assert (parts["bomFormat"], parts["specVersion"], parts["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", parts["serialNumber"])
    packages = locked("requirements.lock")
    assert {part["name"]: part["version"] for part in parts["components"]} == {
        name: package["version"] for name, package in packages.items()
    }
    for part in parts["components"]:
        assert part["purl"] == part["bom-ref"] == f"pkg:pypi/{part['name']}@{part['version']}"
        assert part["licenses"][0]["expression"]
        assert {digest["content"] for digest in part["externalReferences"][0]["hashes"]} == set(packages[part["name"]]["hashes"])  # type: ignore[call-overload]
    refs = {part["bom-ref"] for part in parts["components"]}
    needed = {entry["ref"]: set(entry["dependsOn"]) for entry in parts["dependencies"]}
    ours = parts["metadata"]["component"]["bom-ref"]
    assert len(needed[ours]) == len(SBOM.direct())
    assert set(needed) == refs | {ours}
    # nothing is there that nobody needs, but for what only other platforms do
    reached, waiting = set[str](), [ours]
    while waiting:
        ref = waiting.pop()
        waiting += needed[ref] - reached
        reached |= needed[ref]
    assert {name for name, package in packages.items() if f"pkg:pypi/{name}@{package['version']}" not in reached} <= {
        name for name, package in packages.items() if package["where"]
    }


def test_the_parts_list_is_the_same_every_time() -> None:
    assert SBOM.parts_list() == SBOM.parts_list()


# -- what runs by itself


def test_the_wheel_holds_the_package_and_nothing_that_python_runs_by_itself(tmp_path: Path) -> None:
    if not BUILD.is_dir():
        pytest.skip("setuptools is not beside this environment: it is where `make test` makes it")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "proxy", tmp_path / "proxy", ignore=shutil.ignore_patterns("__pycache__"))
    program = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    run = subprocess.run(
        [sys.executable, "-c", program, "out"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(BUILD), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    with zipfile.ZipFile(tmp_path / "out" / run.stdout.split()[-1]) as wheel:
        names = wheel.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"proxy"}
    assert [name for name in names if name.endswith((".pth", ".so", ".egg-link", "sitecustomize.py", "usercustomize.py"))] == []
    shipped = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "proxy").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped - set(names) == set(), "a file of the package is missing from the wheel"


# -- make audit

BAD = {"name": "jinja2", "version": "2.4.1", "vulns": [{"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"]}]}
GOOD_A = {"name": "a", "version": "1", "vulns": []}


@pytest.mark.parametrize(
    ("report", "code", "said"),
    [
        ([GOOD_A, BAD], 0, "1 packages of requirements.lock: no hole is known"),
        (
            [{"name": "a", "version": "1", "vulns": [{"id": "GHSA-1", "fix_versions": ["1.1", "2"]}]}, BAD],
            1,
            "a 1: GHSA-1, mended in 1.1, 2",
        ),
        (
            [{"name": "a", "version": "1", "vulns": [{"id": "GHSA-1", "fix_versions": []}]}, BAD],
            1,
            "a 1: GHSA-1, mended in no release yet",
        ),
        ([GOOD_A, {"name": "b", "skip_reason": "not found"}, BAD], 2, "no all-clear: 1 of 2 packages"),
        (
            [{"name": "b", "skip_reason": "x"}, {"name": "a", "version": "1", "vulns": [{"id": "G"}]}, BAD],
            1,
            "a 1: G, mended in no release",
        ),
        ([BAD], 2, "nothing was audited"),
        ([GOOD_A, {**BAD, "vulns": []}], 2, "no all-clear: whoever was asked does not even know the holes of jinja2 2.4.1"),
        ([GOOD_A, {"name": "jinja2", "skip_reason": "not found"}], 2, "so it knows no advisories"),
    ],
)
def test_an_audit_is_no_all_clear_unless_everything_was_looked_at(report: list[dict[str, object]], code: int, said: str) -> None:
    lines, found = judged(report)
    assert found == code
    assert any(said in line for line in lines)


def test_an_audit_asks_about_every_package_and_about_one_that_is_known_to_be_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a pip-audit that knows advisories of its own."""
    (tmp_path / "pip_audit.py").write_text(
        """
import json, re, sys
from pathlib import Path
files = [value for name, value in zip(sys.argv, sys.argv[1:]) if name == "--requirement"]
pins = [pin for file in files for pin in re.findall(r"^([a-z0-9._-]+)==(\\S+)", Path(file).read_text(), re.MULTILINE)]
holes = {"jinja2": [{"id": "PYSEC-1"}]} | {name: [{"id": "OURS-1"}] for name in sys.argv if "--" not in name}
print(json.dumps({"dependencies": [{"name": n, "version": v, "vulns": holes.get(n, [])} for n, v in pins]}))
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    packages = locked("requirements.lock")
    assert not packages.keys() & {"jinja2"}
    assert audit([]) == 0
    assert f"{len(packages)} packages of requirements.lock: no hole is known" in capsys.readouterr().out
    assert audit(["orjson"]) == 1
    assert "OURS-1" in capsys.readouterr().out


def test_an_audit_that_can_ask_nobody_says_so_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pip_audit.py").write_text(
        "raise SystemExit('HTTPSConnectionPool(host=pypi.org): Failed to establish a connection')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert audit([]) == 2
    said = capsys.readouterr().out
    assert "nothing was audited" in said
    assert "where https://pypi.org can be reached" in said
    assert "Failed to establish a connection" in said
