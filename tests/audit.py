"""`make audit`: is there a known hole in what is locked? Asked of PyPI's advisories with pip-audit.

Exit 0: every package was looked at, and no hole is known. 1: there is one. 2: not all could be asked about, which is no all-clear:
pip-audit itself passes over what its service does not know. Options are pip-audit's, such as `--ignore-vuln GHSA-…` for a hole that does
not concern us, or `--vulnerability-service osv`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LOCK = "requirements.lock"


def main(options: list[str]) -> int:
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--progress-spinner", "off"]
    command += ["--format", "json", "--requirement", str(ROOT / LOCK), *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
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
    holes = [(package, hole) for package in dependencies for hole in package.get("vulns", ())]
    skipped = [str(package["name"]) for package in dependencies if "skip_reason" in package]
    lines = [
        f"{package['name']} {package['version']}: {hole['id']}, mended in {', '.join(hole.get('fix_versions') or ()) or 'no release yet'}"
        for package, hole in holes
    ]
    looked_at = len(dependencies) - len(skipped)
    if skipped:
        lines.append(
            f"no all-clear: {len(skipped)} of {len(dependencies)} packages of {LOCK} could not be looked up ({', '.join(skipped[:3])} …);"
            " run this where https://pypi.org can be reached"
        )
    elif not dependencies:
        lines.append(f"nothing was audited: {LOCK} names no package")
    if not holes and looked_at:
        lines.append(f"{looked_at} packages of {LOCK}: no hole is known")
    return lines, 1 if holes else 2 if skipped or not dependencies else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
