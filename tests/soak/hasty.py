"""`python -m tests.soak.hasty serve …`: the program with its patience cut short, so that a test may see it end.

Names in the modules that read them, each with its seconds here. A name that is gone is a fault of this table.
"""

from __future__ import annotations

import sys
from types import ModuleType

from proxy.cli import main
from proxy.engine import attempt, ends
from proxy.server import protocol

PATIENCE_S = {"HEAD_S": 2.0, "BODY_S": 3.0, "BODY_GRACE_S": 1.5, "WRITE_STALL_S": 2.0}
_MODULES: tuple[ModuleType, ...] = (protocol, ends, attempt)


def shorten() -> None:
    for name, seconds in PATIENCE_S.items():
        having = [module for module in _MODULES if hasattr(module, name)]
        if not having:
            sys.exit(f"tests/soak/hasty.py: no module has {name} any more: {', '.join(module.__name__ for module in _MODULES)}")
        for module in having:
            setattr(module, name, seconds)


if __name__ == "__main__":
    shorten()
    main()
