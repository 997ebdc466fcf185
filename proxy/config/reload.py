"""Sees that the configuration has changed, and reads it anew: whole or not at all.

Every file that the settings came from is looked at three times a second (inode, time, size: a file that was renamed over the old one
shows, and so does a swapped symbolic link). A change is read once it has looked the same twice, so that a half-written file is not; a
file that is then faulty gets one more look before it is reported, and the settings in force stay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from proxy.config.faults import ConfigError
from proxy.config.settings import Settings

INTERVAL_S = 0.3  # two looks and the reading stay below the one second that is promised

Stamp = tuple[tuple[int, int, int] | None, ...]


class ConfigWatcher:
    """`run()` until it is cancelled; `on_change` and `on_error` are called in its event loop, reading happens in a thread.

    `read` makes the settings anew and raises ConfigError. `current` are those in force.
    """

    def __init__(
        self,
        read: Callable[[], Settings],
        current: Settings,
        on_change: Callable[[Settings], None],
        on_error: Callable[[ConfigError], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._read = read
        self._on_change = on_change
        self._on_error = on_error
        self._sleep = sleep
        self._interval_s = interval_s
        self._files: Sequence[Path] = current.files
        self._loaded = stamp(self._files)
        self._seen = self._loaded
        self._second_look = False
        self._triggered = False

    def trigger(self) -> None:
        """Reads at the next look, changed or not: SIGHUP."""
        self._triggered = True

    async def run(self) -> None:
        while True:
            await self._sleep(self._interval_s)
            await self.look()

    async def look(self) -> None:
        """One look at the files, and what follows from it."""
        if not self._triggered and stamp(self._files) == self._loaded == self._seen:
            return  # some microseconds of stat: a thread for them would cost the idle proxy more than all the rest
        match await asyncio.to_thread(self._step):
            case Settings() as settings:
                self._on_change(settings)
            case ConfigError() as error:
                self._on_error(error)
            case None:
                return

    def _step(self) -> Settings | ConfigError | None:
        now = stamp(self._files)
        triggered, self._triggered = self._triggered, False
        if not triggered:
            if now == self._loaded:
                self._seen, self._second_look = now, False
                return None
            if now != self._seen:
                self._seen, self._second_look = now, False
                return None
        try:
            settings = self._read()
        except ConfigError as error:
            if not triggered and not self._second_look:
                self._second_look = True
                return None
            self._loaded, self._second_look = now, False
            return error
        # Stamps from before the reading: what changed meanwhile is seen at the next look.
        before = dict(zip(self._files, now, strict=True))
        self._files = settings.files
        self._loaded = tuple(before[file] if file in before else _stamp(file) for file in self._files)
        self._seen, self._second_look = self._loaded, False
        return settings


def stamp(files: Sequence[Path]) -> Stamp:
    """What tells a file from what it was: inode, modification time, size; None for one that is not there."""
    return tuple(_stamp(file) for file in files)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
