"""How long what is kept in the ledger. It stands in `retention.json` beside it: the server writes it when it starts and when its
configuration changes, the drainer reads it each minute, so it needs no telling and goes on alike without a server."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

FILE = "retention.json"
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Retention:
    """How long rows of requests and attempts, sums, and checks with alerts are kept. Seconds."""

    requests_s: float = 90 * _DAY_S
    rollups_s: float = 730 * _DAY_S
    health_s: float = 30 * _DAY_S


def write_retention(data_dir: Path, retention: Retention) -> None:
    """For the drainer to read. Raises OSError."""
    new = data_dir / f"{FILE}.new"
    new.write_bytes(orjson.dumps(asdict(retention)) + b"\n")
    os.replace(new, data_dir / FILE)


def read_retention(data_dir: Path) -> Retention:
    """What the server wrote last; the defaults where it wrote nothing that can be understood."""
    try:
        told = orjson.loads((data_dir / FILE).read_bytes())
        return Retention(*[float(told[name]) for name in ("requests_s", "rollups_s", "health_s")])
    except (OSError, ValueError, TypeError, KeyError):
        return Retention()
