"""A fake upstream, and proxies in front of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.torture.scripts import SCRIPTS
from proxy.torture.upstream import Upstream
from tests.e2e.running import Door, Process, Proxy

KEY = "sk-upstream-1"  # of the fake upstream
Start = Callable[..., Proxy]
Launch = Callable[..., Process]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    made = Upstream(dict(SCRIPTS))
    made.start()
    yield made
    made.stop()
    assert made.faults == []


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a proxy with a configuration, in this process; it is stopped at the module's end."""
    running: list[Proxy] = []

    def make(
        config: dict[str, Any], *, door: Door = "fast", environ: Mapping[str, str] | None = None, bare: bool = False
    ) -> Proxy:
        proxy = Proxy(write_config(tmp_path_factory.mktemp("proxy"), config), door=door, environ=environ, bare=bare)
        running.append(proxy)
        return proxy

    yield make
    for proxy in running:
        proxy.stop()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts `python -m proxy serve` with a configuration, or in a folder that has none."""
    running: list[Process] = []

    def make(
        config: dict[str, Any] | None, *, environ: Mapping[str, str] | None = None, options: tuple[str, ...] = ()
    ) -> Process:
        path = None if config is None else write_config(tmp_path, config)
        process = Process(path, tmp_path, environ=environ, options=options)
        running.append(process)
        return process

    yield make
    for process in running:
        process.kill()


def write_config(directory: Path, config: dict[str, Any]) -> Path:
    path = directory / "providers.yaml"
    path.write_text(yaml.safe_dump({"data_dir": "./data", **config}, sort_keys=False))
    return path


def provider(url: str, **more: Any) -> dict[str, Any]:
    """A provider's stanza: one key, priced at 1 and 2 USD per million tokens."""
    stanza = {"dialect": "openai", "base_url": url, "api_key": KEY, "prices": {"*": {"input": 1, "output": 2}}, **more}
    return {name: value for name, value in stanza.items() if value is not None}
