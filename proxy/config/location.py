"""Where the configuration is when nobody names it. Imports next to nothing: the command line asks here, too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

DEFAULT_CONFIG = Path("providers.yaml")


def config_path(environ: Mapping[str, str]) -> Path | None:
    """The file that `TOLLBRIDGE_CONFIG` names, whether it is there or not, else `providers.yaml` here. None: there is none."""
    if named := environ.get("TOLLBRIDGE_CONFIG"):
        return Path(named)
    return DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None
