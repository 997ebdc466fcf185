"""Where the proxy listens that writes a ledger: it says so in a file of the ledger's folder, for commands, since a flag or a variable may
have named another port than the configuration does. `PID PORT HOST`, in a line."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

LISTENING = "listening"


def tell(data_dir: Path, host: str, port: int) -> None:
    """A courtesy: where it cannot be written, the configuration is believed."""
    new = data_dir / f"{LISTENING}.new"
    with suppress(OSError):
        new.write_text(f"{os.getpid()} {port} {host}\n", encoding="ascii")
        new.replace(data_dir / LISTENING)


def ask(data_dir: Path) -> tuple[str, int] | None:
    """Host and port, None if none runs. What was left behind by one that was killed says nothing: its process is gone."""
    try:
        pid, port, host = (data_dir / LISTENING).read_text(encoding="ascii").split()
        with suppress(PermissionError):  # another user's, which is there
            os.kill(int(pid), 0)
        return host, int(port)
    except (OSError, ValueError, OverflowError):
        return None
