"""`make audit`: is there a known hole in what is locked? Asked of PyPI's advisories with pip-audit.

Exit 0: every package was looked at, and no hole is known. 1: there is one. 2: not all could be asked about, which is no all-clear:
pip-audit itself passes over what its service does not know. It also takes a mirror that knows no advisories for one that has none to tell;
so an old release with known holes is asked about as well, and must be named.

Options are pip-audit's, such as `--ignore-vuln GHSA-…` for a hole that does not concern us, `--vulnerability-service osv`, or with that
`--osv-url http://…/v1/query` for a service of one's own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LOCK = "requirements.lock"
KNOWN_BAD = ("jinja2", "2.4.1")  # which nobody installs: CVE-2016-10745 and more


def main(options: list[str]) -> int:
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--progress-spinner", "off"]
    command += ["--format", "json", "--requirement", str(ROOT / LOCK)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as bad:
        bad.write(f"{'=='.join(KNOWN_BAD)} --hash=sha256:{'0' * 64}\n")  # nothing is installed, so nothing is compared with it
        bad.flush()
        run = subprocess.run(
            [*command, "--requirement", bad.name, *options], cwd=ROOT, capture_output=True, text=True, check=False
        )
    try:
        lines, code = judged(json.loads(run.stdout)["dependencies"])
    except (ValueError, LookupError, TypeError):
        last = run.stderr.strip().rpartition("\n")[2]
        lines, code = (
            [f"nothing was audited: pip-audit could not ask (run this where https://pypi.org can be reached): {last}"],
            2,
        )
    print("\n".join(lines))
    return code


def judged(dependencies: list[dict[str, Any]]) -> tuple[list[str], int]:
    """What to say and the exit code, of pip-audit's report."""
    is_source = any(package["name"] == KNOWN_BAD[0] and package.get("vulns") for package in dependencies)
    dependencies = [package for package in dependencies if package["name"] != KNOWN_BAD[0]]
    holes = [(package, hole) for package in dependencies for hole in package.get("vulns", ())]
    skipped = [str(package["name"]) for package in dependencies if "skip_reason" in package]
    lines = [
        f"{package['name']} {package['version']}: {hole['id']}, mended in {', '.join(hole.get('fix_versions') or ()) or 'no release yet'}"
        for package, hole in holes
    ]
    if skipped:
        lines.append(
            f"no all-clear: {len(skipped)} of {len(dependencies)} packages of {LOCK} could not be looked up ({', '.join(skipped[:3])} …);"
            " run this where https://pypi.org can be reached"
        )
    elif not dependencies:
        lines.append(f"nothing was audited: {LOCK} names no package")
    elif not is_source:
        lines.append(
            f"no all-clear: whoever was asked does not even know the holes of {' '.join(KNOWN_BAD)}, so it knows no advisories;"
            " ask another one (--vulnerability-service osv)"
        )
    elif not holes:
        lines.append(f"{len(dependencies)} packages of {LOCK}: no hole is known")
    return lines, 1 if holes else 2 if skipped or not dependencies or not is_source else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
