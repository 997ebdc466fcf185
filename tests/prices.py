"""The price data, compiled once for all proxies that the tests start: each would do it in its first second, and it takes half of one.

That a proxy does it, and what it does where it cannot, is told by `tests/accounting/test_pricing.py`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from proxy.accounting.pricing import PriceBook

ROOT = Path(__file__).resolve().parent.parent


def lay(data_dir: Path) -> None:
    """Where a proxy with this folder looks for them."""
    path = PriceBook(data_dir / "cache").path
    if not path.exists():
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(_compiled(path.name), path)


@cache
def _compiled(name: str) -> Path:
    path = Path(_folder().name, name)
    subprocess.run([sys.executable, "-m", "proxy.accounting.price_data", str(path)], cwd=ROOT, check=True)
    return path


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Kept until the end of the program, which removes it."""
    return tempfile.TemporaryDirectory(prefix="tollbridge-prices-")
