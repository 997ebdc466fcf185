"""The journal's folder as the drainer sees it: whose segments are there, which are finished, what is read next.

<journal>/<boot>.<pid>.<sequence>.seg      to be read; under its writer's lock while that may still append
<journal>/drained/….seg                    taken in and committed; kept a while so that a lost database can be rebuilt
<journal>/….new                            not yet born; forgotten ones are swept up
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from proxy.accounting.journal import HEAD, MAX_PAYLOAD_BYTES, SEGMENT_SUFFIX

READ_BYTES = MAX_PAYLOAD_BYTES + HEAD.size
KEEP_BYTES = 64 << 20
KEEP_S = 86_400.0
_FORGOTTEN_S = 60.0


def writer_of(name: str) -> str:
    """`<boot>.<pid>` of a segment's name."""
    return name.rsplit(".", 2)[0]


class Segments:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.drained = directory / "drained"
        self.drained.mkdir(mode=0o700, parents=True, exist_ok=True)

    def waiting(self) -> list[str]:
        """Names of the segments to read, each writer's in the order in which it wrote them.

        A living writer always has one here: it lets go of one only when it holds the next, and only finished ones are retired.
        """
        return sorted(name for name in os.listdir(self.directory) if name.endswith(SEGMENT_SUFFIX))

    def kept(self) -> list[str]:
        return sorted(name for name in os.listdir(self.drained) if name.endswith(SEGMENT_SUFFIX))

    def read(self, name: str, position: int) -> tuple[bytes, bool]:
        """What follows `position`, at most READ_BYTES of it, and whether nothing will ever be added to it.

        The lock is tried before the read: a segment that was finished before it was read was read to its end.
        """
        fd = os.open(self.directory / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            finished = _lock_is_free(fd)
            return os.pread(fd, READ_BYTES, position), finished
        finally:
            os.close(fd)

    def retire(self, name: str, wall_s: float) -> None:
        """After the commit only. The time on the file is from when it is kept."""
        os.utime(self.directory / name, (wall_s, wall_s))
        os.rename(self.directory / name, self.drained / name)

    def bring_back(self, name: str) -> None:
        """A kept segment waits again: the database that knew it is gone."""
        os.rename(self.drained / name, self.directory / name)

    def prune(self, wall_s: float) -> list[str]:
        """Deletes kept segments, oldest first, beyond a day or 64 MiB; returns their names. Sweeps up the unborn."""
        gone = []
        total = 0
        for name in reversed(self.kept()):
            state = os.stat(self.drained / name)
            total += state.st_size
            if total > KEEP_BYTES or wall_s - state.st_mtime > KEEP_S:
                os.unlink(self.drained / name)
                gone.append(name)
        for name in os.listdir(self.directory):
            if name.endswith(".new"):
                path = self.directory / name
                if wall_s - path.stat().st_mtime > _FORGOTTEN_S:
                    path.unlink()
        return gone


def _lock_is_free(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True
