"""Three secrets that the server is given, and the search for them in whatever it leaves behind.

A provider's key, a client's key and the operator's token, all of them made anew for each run. Half of one is enough to be found, so
that a cut or a masked one is, too. Every byte that a soak client reads is looked at, and when a stage is taken down every file
below its folder: log, journal, database with its write-ahead log, caches. The secrets reach the server through its environment; the
configuration names the variables.
"""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

_PIECE_BYTES = 16


class Canaries:
    """The secrets of one run and what was found of them. `files`, `file_bytes`, `answer_bytes`: how much was searched."""

    def __init__(self) -> None:
        self.provider_key = f"sk-{secrets.token_hex(_PIECE_BYTES)}"
        self.client_key = f"sk-{secrets.token_hex(_PIECE_BYTES)}"
        self.admin_token = secrets.token_hex(_PIECE_BYTES)
        self.files = 0
        self.file_bytes = 0
        self.answer_bytes = 0
        self.hits: list[str] = []
        self._needles = [needle for secret in self.all() for needle in _needles(secret)]
        self._most = max(map(len, self._needles))

    def add(self, secret: str) -> None:
        """One more to be searched for from now on."""
        self._needles += _needles(secret)
        self._most = max(map(len, self._needles))

    def all(self) -> tuple[str, str, str]:
        return self.provider_key, self.client_key, self.admin_token

    def environment(self) -> dict[str, str]:
        """As the configuration of `stage.py` names them."""
        return dict(zip(("SOAK_PROVIDER_KEY", "SOAK_CLIENT_KEY", "SOAK_ADMIN_TOKEN"), self.all(), strict=True))

    def authorization(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.admin_token}"}

    def found(self, data: bytes) -> bool:
        return any(needle in data for needle in self._needles)

    def look(self, where: str, data: bytes, tail: bytes = b"") -> bytes:
        """Notes a hit. What comes next of the same answer is to be looked at with the tail that is returned."""
        self.answer_bytes += len(data)
        seen = tail + data
        if self.found(seen):
            self.hits.append(where)
            return b""
        return seen[-self._most :]

    def search(self, folder: Path) -> None:
        """Every file below the folder, whole."""
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                self.files += 1
                self.file_bytes += len(data)
                if self.found(data):
                    self.hits.append(str(path))


def _needles(secret: str) -> list[bytes]:
    """Both halves as they are, and as they look in base64 whatever stands before them (less the edges, which that changes)."""
    random = secret.removeprefix("sk-").removeprefix("tb_")
    found = []
    for half in (random[:_PIECE_BYTES], random[_PIECE_BYTES : 2 * _PIECE_BYTES]):
        found.append(half.encode())
        found += [base64.b64encode(b"x" * shift + half.encode())[4:20] for shift in range(3)]
    return found
