"""The parts list of a release in CycloneDX: every package of `requirements.lock` with its version, licence, digests and what it needs.

    python deploy/sbom.py build/tollbridge.cdx.json

https://cyclonedx.org/docs/1.6/json/. Made of the lock, of the licences in `docs/architecture.md` and of what the installed packages say
that they need; the same three make the same file, byte for byte. `-` writes to standard output.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
NAMESPACE = uuid.UUID("6f1d2f0e-6b0b-4b8e-9d4e-3f8a5c7d1e20")
_ENTRY = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)(?: ; ([^\\\n]+?))? ?\\?$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_ROW = re.compile(r"^\| `([\w.-]+)` \| ([^|]+) \| [^|]+ \|$", re.MULTILINE)
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)[^;]*(?:;(.*))?")


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        sys.stderr.write("usage: python deploy/sbom.py FILE (or -)\n")
        return 2
    text = json.dumps(parts_list(), indent=2) + "\n"
    if arguments[0] == "-":
        sys.stdout.write(text)
        return 0
    path = Path(arguments[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return 0


def parts_list() -> dict[str, Any]:
    """Raises KeyError for a package whose licence is in no table of the architecture."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    found = packages(lock)
    licences = stated_licences()
    version = re.findall(r'^VERSION = "(.+)"', (ROOT / "proxy/core/version.py").read_text(encoding="utf-8"), re.MULTILINE)[0]
    ours = f"pkg:pypi/tollbridge@{version}"
    refs = {name: f"pkg:pypi/{name}@{package['version']}" for name, package in found.items()}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, version + lock)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": ours,
                "name": "tollbridge",
                "version": version,
                "purl": ours,
                "licenses": [{"expression": "MIT"}],
            }
        },
        "components": [_component(name, package, refs[name], licences[name]) for name, package in found.items()],
        "dependencies": [
            {"ref": ours, "dependsOn": sorted(refs[name] for name in direct())},
            *({"ref": refs[name], "dependsOn": sorted(refs[need] for need in needs(name) if need in refs)} for name in found),
        ],
    }


def _component(name: str, package: dict[str, Any], ref: str, licence: str) -> dict[str, Any]:
    component = {
        "type": "library",
        "bom-ref": ref,
        "name": name,
        "version": package["version"],
        "purl": ref,
        "licenses": [{"expression": licence}],
        # a release has a file for each platform: any of these is it
        "externalReferences": [
            {
                "type": "distribution",
                "url": f"https://pypi.org/project/{name}/{package['version']}/",
                "hashes": [{"alg": "SHA-256", "content": digest} for digest in package["hashes"]],
            }
        ],
    }
    if package["where"]:
        component["properties"] = [{"name": "tollbridge:only-where", "value": package["where"]}]
    return component


def packages(lock: str) -> dict[str, dict[str, Any]]:
    """Each package of a lock: `version`, `hashes`, and `where` it is for only some platforms."""
    found: dict[str, dict[str, Any]] = {}
    name = ""
    for line in lock.split("\n"):
        if entry := _ENTRY.match(line):
            name = entry[1]
            found[name] = {"version": entry[2], "where": entry[3], "hashes": []}
        elif digest := _HASH.search(line):
            found[name]["hashes"].append(digest[1])
    return found


def stated_licences() -> dict[str, str]:
    """SPDX expressions, from the tables of the architecture."""
    text = (
        (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("## What is depended on")[2].partition("\n## ")[0]
    )
    return {name: licence.replace(" and ", " AND ").replace(" or ", " OR ") for name, licence in _ROW.findall(text)}


def direct() -> list[str]:
    """Read with a pattern and not as TOML, so that any Python can run this."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = text.partition("\ndependencies = [\n")[2].partition("\n]")[0]
    return re.findall(r'^ *"([A-Za-z0-9._-]+?)(?:\[|[<>=~;])', listed, re.MULTILINE)


def needs(name: str) -> set[str]:
    """What a package needs without its extras; nothing is known of one that this platform does not install."""
    try:
        stated = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return set()
    found = [_REQUIREMENT.match(requirement) for requirement in stated]
    return {match[1].lower().replace("_", "-") for match in found if match and "extra" not in (match[2] or "")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
