"""A file on its way to `Settings`: what was read, what was found wrong, and what had to be cut out to go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Literal

from proxy.config.catalogue import Stanza
from proxy.config.environment import Environment
from proxy.config.faults import ConfigFault, Path
from proxy.config.schema import File
from proxy.config.source import Mark, Source

SecretKind = Literal["token", "credential", "client"]


def secret_kind(path: Path) -> SecretKind | None:
    """Which kind of secret stands at a path: a variable that is not set means something else for each."""
    match path:
        case ("auth", "admin_token" | "metrics_token" | "key_pepper"):
            return "token"
        case ("providers", _, "api_key") | ("providers", _, "api_keys", _):
            return "credential"
        case ("clients", _, "key") | ("clients", _, "keys", _):
            return "client"
        case _:
            return None


@dataclass(slots=True)
class Draft:
    """`unset`: secrets whose variable is not set, and why (nothing to say where the file itself allows it with `:-`).

    `literal`: texts without a variable. `cut`: faulty parts that are no longer in `file`.
    """

    source: Source
    file: File
    environment: Environment
    catalogue: Mapping[str, Stanza]
    base: FilePath
    unset: dict[Path, tuple[str, ...]] = field(default_factory=dict)
    literal: set[Path] = field(default_factory=set)
    cut: set[Path] = field(default_factory=set)
    warned: list[ConfigFault] = field(default_factory=list)

    def fault(self, path: Path, message: str, *, at_key: bool = False) -> None:
        """Names a fault, unless a part of what it is about was cut out: then that fault is the one to mend."""
        if not any(cut[: len(path)] == path for cut in self.cut):
            self.source.fault(path, self.environment.told(message), at_key=at_key)

    def warn(self, path: Path, message: str, *, at_key: bool = False) -> None:
        while path not in self.source.marks and path:
            path, at_key = path[:-1], True
        mark = self.source.marks.get(path, Mark((1, 1), (1, 1)))
        self.warned.append(ConfigFault(self.source.name, *(mark.key if at_key else mark.value), self.environment.told(message)))
